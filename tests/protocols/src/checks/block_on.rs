//! `src/greenlet/block_on.rs`

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use super::as_task;
use crate::greenlet::block_on::block_on;
use crate::model::{check, thread};
use crate::sys::lock::Lock;

#[test]
fn no_wake_of_a_future_is_missed() {
    check(Some(3), || {
        // How many of two things have happened, and whom to tell.
        let shared = Arc::new(Lock::new((0, None::<Waker>)));
        let wakers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let waker = {
                    let mut shared = shared.lock();
                    shared.0 += 1;
                    shared.1.clone()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            })
        });
        as_task(|| {
            block_on(poll_fn(|context| {
                let mut shared = shared.lock();
                shared.1 = Some(context.waker().clone());
                if shared.0 == 2 { Poll::Ready(()) } else { Poll::Pending }
            }))
        });
        for waker in wakers {
            waker.join().unwrap();
        }
    });
}
