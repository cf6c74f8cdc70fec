//! A greenlet that runs a future.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};

use crate::hub::hub;
use crate::sys::clock::NEVER;
use crate::sys::lock::Lock;
use crate::sys::sync::{AtomicBool, Ordering};
use crate::task::{Reason, TaskHandle, Waker};

/// Runs a future to its end, and gives its value. While it is pending, the current greenlet waits,
/// and the others run. May switch.
///
/// Any number of greenlets may do so at once on one hub. The future needs no `Send`. It has to come from
/// a crate that does not ask for a runtime of its own: channels, streams, parsers and the like; what
/// needs tokio's reactor needs tokio.
///
/// # Panics
///
/// If the future does. On a thread's main stack, if nothing is left that could wake it. In a destructor that runs while
/// its greenlet unwinds, if the future is pending.
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
        // Not a store: what earlier wakes brought along must not be cut off by this one.
        self.woken.swap(true, Ordering::Release);
        let waker = self.waiting.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
