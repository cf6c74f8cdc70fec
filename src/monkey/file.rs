//! Regular files: straight through, or on a thread of the pool. And their locks, which are tried after pauses, since
//! nothing tells that one is free.

use std::sync::Arc;

use libc::{c_int, c_void, iovec, off_t, size_t, ssize_t};

use super::{Parts, errno, fail, gate, originals as real, process, table};
use crate::coro::unwind;
use crate::hub::Hub;
use crate::hub::foreign::Verdict;
use crate::sys::clock::NEVER;
use crate::sys::lock::Lock;
use crate::task::{Handlers, Reason, Waker};
use crate::threadpool::{self, Job, ThreadPool};

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
    if gate::gate(Parts::FILES).is_none() {
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

pub(super) unsafe fn pread(hub: &Hub, fd: c_int, buf: *mut c_void, len: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller's arguments, here and below.
    let call = move |place: Pointer| unsafe { real::pread(fd, place.0.cast_mut(), len, offset) };
    on_a_thread(hub, "read of file", call, buf)
}

pub(super) unsafe fn pwrite(hub: &Hub, fd: c_int, buf: *const c_void, len: size_t, offset: off_t) -> ssize_t {
    // SAFETY: as above.
    let call = move |place: Pointer| unsafe { real::pwrite(fd, place.0, len, offset) };
    on_a_thread(hub, "write of file", call, buf)
}

pub(super) unsafe fn preadv(hub: &Hub, fd: c_int, iov: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: as above.
    let call = move |place: Pointer| unsafe { real::preadv(fd, place.0.cast(), count, offset) };
    on_a_thread(hub, "read of file", call, iov.cast())
}

pub(super) unsafe fn pwritev(
    hub: &Hub,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
) -> ssize_t {
    // SAFETY: as above.
    let call = move |place: Pointer| unsafe { real::pwritev(fd, place.0.cast(), count, offset) };
    on_a_thread(hub, "write of file", call, iov.cast())
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
    let mut has_waited = false;
    loop {
        {
            let mut answer = answer.lock();
            if let Some(value) = answer.value.take() {
                drop((answer, job));
                if !has_waited {
                    // The thread was quick. Who makes one such call after the other must not keep the others from
                    // running.
                    hub.yield_foreign();
                }
                return value;
            }
            answer.waker = Some(hub.waker());
        }
        has_waited = true;
        hub.park_unbroken(reason, NEVER);
    }
}

/// Tries until it has the lock. (Of two processes that wait for each other's, the kernel tells
/// one, `EDEADLK`; here both wait.)
pub(super) fn lock(hub: &Hub, fd: c_int, attempt: impl Fn() -> c_int) -> c_int {
    if let Err(error) = table::answer(hub.verdict()) {
        hub.be_fair_foreign();
        return fail(error);
    }
    let mut pauses = process::pauses();
    loop {
        let result = attempt();
        if result != -1 || !matches!(errno(), libc::EAGAIN | libc::EACCES) {
            return result;
        }
        let until = hub.deadline(pauses.next().unwrap_or_default());
        let reason = Reason::of("lock of file", fd as u64);
        if let Err(error) = table::answer(hub.park_foreign(reason, until, Handlers::NotRestarting)) {
            return fail(error);
        }
    }
}

pub(super) unsafe fn flock(hub: &Hub, fd: c_int, operation: c_int) -> c_int {
    // SAFETY: takes numbers, as the next one.
    let now = |operation| unsafe { real::flock(fd, operation) };
    match operation {
        libc::LOCK_SH | libc::LOCK_EX => lock(hub, fd, || now(operation | libc::LOCK_NB)),
        _ => now(operation),
    }
}

pub(super) unsafe fn lockf(hub: &Hub, fd: c_int, command: c_int, len: off_t) -> c_int {
    // SAFETY: as above.
    let now = |command| unsafe { real::lockf(fd, command, len) };
    match command {
        libc::F_LOCK => lock(hub, fd, || now(libc::F_TLOCK)),
        _ => now(command),
    }
}

/// Runs it on a thread of that pool. An error is the number for what is pending against the greenlet:
/// then it is taken back, or if it has begun, goes on unseen, and its result is dropped over there. So it
/// must have nothing of the caller's.
pub(super) fn offload<T: Send + 'static>(
    hub: &Hub,
    pool: &ThreadPool,
    reason: Reason,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, i32> {
    hub.be_fair_foreign();
    table::answer(hub.verdict())?;
    let job = hand_over(pool, f)?;
    job.join_foreign(hub, reason).map_err(|pending| {
        job.withdraw();
        number(pending)
    })
}

/// Has it run by a thread of that pool, without waiting for a place. `EAGAIN`: the system refuses a thread.
pub(super) fn hand_over<T: Send + 'static>(
    pool: &ThreadPool,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<Job<T>, i32> {
    unwind::catch(|| pool.hand_over(f)).map_err(|_| libc::EAGAIN)
}

/// What a call fails with for a verdict that has ended it.
pub(super) fn number(verdict: Verdict) -> i32 {
    table::answer(verdict).err().unwrap_or(libc::ECANCELED)
}
