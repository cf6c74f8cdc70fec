//! A greenlet as a future.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Greenlet;
use crate::coro::unwind::Payload;
use crate::task::{Ended, Listener};

/// Forgets what the last poll has left. Only the one handle is polled, so there is one at most.
pub(super) fn forget_waker(ended: &Ended) {
    ended.remove(|listener| matches!(listener, Listener::Foreign(_)));
}

/// Ends when the greenlet does, with what [`join`](Greenlet::join) gives. On whichever executor: the greenlet stays on
/// its own thread, which has to let its hub run. The result is given away with that: [`value`](Greenlet::value) and
/// links that are made later have none.
///
/// # Panics
///
/// If it is polled again after its end.
impl<T> Future for Greenlet<T> {
    type Output = Result<T, Payload>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ended = &this.handle.task().shared().ended;
        if !ended.is_set() {
            forget_waker(ended);
            if ended.add(Listener::Foreign(context.waker().clone())).is_ok() {
                return Poll::Pending;
            }
        }
        Poll::Ready(this.take_result())
    }
}
