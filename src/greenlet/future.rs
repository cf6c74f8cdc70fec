//! Greenlets and `async`, both ways.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use super::Greenlet;
use crate::coro::unwind::Payload;
use crate::hub::hub;
use crate::sys::clock::NEVER;
use crate::sys::lock::Lock;
use crate::task::{Listener, Reason, TaskHandle, Waker};

/// Runs a future to its end, and gives its value. While it is pending, the current greenlet waits, and the others run. May switch.
///
/// Any number of greenlets may do so at once on one hub. The future needs no `Send`. It has to come from a crate that does not ask for a runtime of its own:
/// channels, streams, parsers and the like; what needs tokio's reactor needs tokio.
///
/// # Panics
///
/// If the future does. On a thread's main stack, if nothing is left that could wake it. In a destructor that runs while its greenlet unwinds, if the
/// future is pending.
///
/// # Examples
///
/// ```
/// use switchgrass::{block_on, spawn};
///
/// let greenlet = spawn(|| 20);
/// let sum = block_on(async { greenlet.await.unwrap() + 22 });   // a greenlet is a future, too
/// assert_eq!(sum, 42);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let hub = hub();
    let mut future = pin!(future);
    let signal = Arc::new(Signal {
        woken: AtomicBool::new(false),
        waiting: Lock::new(None),
        _reachable: hub.current().to_ref().new_handle(),
    });
    let waker = Arc::clone(&signal).into();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        while !signal.woken.swap(false, Ordering::AcqRel) {
            *signal.waiting.lock() = Some(hub.waker());
            // Looked at again: the wake may have come before the waker was there.
            if signal.woken.load(Ordering::Acquire) {
                // Or after, and then it may still be on its way: not to the next park.
                hub.disregard_wakes();
            } else if hub.park(Reason::new("future"), NEVER).is_err() {
                panic!("a greenlet that unwinds cannot wait for a future");
            }
        }
        signal.waiting.lock().take();
    }
}

/// What a future is polled with. Kept by whoever wakes it, perhaps for longer than it lives.
struct Signal {
    woken: AtomicBool,
    /// The one who polls, while it waits.
    waiting: Lock<Option<Waker>>,
    /// Whoever has the waker may wake the greenlet, from whichever thread.
    _reachable: TaskHandle,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let waker = self.waiting.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Ends when the greenlet does, with what [`join`](Greenlet::join) gives. On whichever executor: the greenlet stays on its own thread, which has to
/// let its hub run.
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
            // Only the one handle is polled: what is there is of its last poll.
            ended.remove(|listener| matches!(listener, Listener::Foreign(_)));
            if ended.add(Listener::Foreign(context.waker().clone())).is_ok() {
                return Poll::Pending;
            }
        }
        Poll::Ready(this.take_result())
    }
}
