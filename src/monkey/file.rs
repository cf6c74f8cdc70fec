//! Regular files: straight through, or on a thread of the pool.

use libc::{c_void, ssize_t};

use super::{Parts, fail, gate};
use crate::hub::Hub;
use crate::sys::clock::NEVER;
use crate::sys::lock::Lock;
use crate::task::{Reason, Waker};
use crate::threadpool;
use std::sync::Arc;

/// The caller's memory, which stays where it is until the call returns.
pub(super) struct Pointer(pub(super) *const c_void);

// SAFETY: the caller of the interposed function waits until the thread is done with it.
unsafe impl Send for Pointer {}

/// Reads or writes a file: on a thread of the pool if that part is patched.
pub(super) fn on_a_thread(
    hub: &Hub,
    what: &'static str,
    call: impl FnOnce(Pointer) -> ssize_t + Send + 'static,
    memory: *const c_void,
) -> ssize_t {
    if gate::gate(Parts::FILES.0).is_none() {
        return call(Pointer(memory));
    }
    let memory = Pointer(memory);
    match to_the_end(hub, Reason::new(what), move || {
        let memory = memory;
        let result = call(memory);
        (result, super::errno())
    }) {
        (-1, error) => fail(error),
        (result, _) => result,
    }
}

/// Runs it on a thread of the pool, and waits until it is done, whatever is pending: it has the caller's memory.
pub(super) fn to_the_end<T: Send + 'static>(
    hub: &Hub,
    reason: Reason,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    struct Answer<T> {
        value: Option<T>,
        waker: Option<Waker>,
    }
    let answer = Arc::new(Lock::new(Answer { value: None, waker: None }));
    let theirs = Arc::clone(&answer);
    let job = hub.unbroken(|| {
        threadpool::global().spawn(move || {
            let value = f();
            let mut answer = theirs.lock();
            answer.value = Some(value);
            if let Some(waker) = answer.waker.take() {
                waker.wake();
            }
        })
    });
    let _outside = hub.outside_wait();
    loop {
        {
            let mut answer = answer.lock();
            if let Some(value) = answer.value.take() {
                drop(job);
                return value;
            }
            answer.waker = Some(hub.waker());
        }
        hub.park_unbroken(reason, NEVER);
    }
}
