//! Waiting for children, and for threads.
//!
//! First it is tried without waiting. Then the greenlet waits for a pidfd (of a process: Linux 5.3, of a thread: 6.9),
//! and tries again. Where there is none (for any child, or a group; for stops and continuations, of which a pidfd does
//! not tell), it tries after pauses, which grow.
//!
//! What waits within libc, `system` and `pclose`, runs on a thread each: that costs less than
//! the process which it waits for.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use libc::{
    FILE, c_char, c_int, c_void, clockid_t, id_t, idtype_t, pid_t, pthread_t, rusage, siginfo_t, sigset_t,
    timespec,
};

use super::file::{self, Pointer};
use super::{errno, fail, originals as real, set_errno, table, time};
use crate::hub::foreign::Verdict;
use crate::hub::{Direction, Hub, SlotId};
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::fork;
use crate::task::{Handlers, Reason};
use crate::threadpool::ThreadPool;

/// How long to wait until the next try: from 1 ms, doubled each time, to 20 ms.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    let next = |pause: &Duration| Some((*pause * 2).min(Duration::from_millis(20)));
    std::iter::successors(Some(Duration::from_millis(1)), next)
}

/// A descriptor of ours, registered for one wait.
pub(super) struct Watched<'a> {
    hub: &'a Hub,
    pub(super) fd: OwnedFd,
    pub(super) slot: SlotId,
    /// Of which process: in a child the slot may be somebody else's.
    generation: u32,
}

impl<'a> Watched<'a> {
    /// `None`: it cannot be registered.
    pub(super) fn watch(hub: &'a Hub, fd: OwnedFd) -> Option<Watched<'a>> {
        let slot = hub.register_fd(fd.as_fd(), Direction::Read).ok()?;
        Some(Watched { hub, fd, slot, generation: fork::generation() })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            // Children that are just being started have a duplicate until they execute their program.
            self.hub.close_fd(self.slot, self.fd.as_fd(), true);
        }
    }
}

/// A wait for the end of something.
struct Wait<'a> {
    hub: &'a Hub,
    reason: Reason,
    deadline: Nanos,
    /// Whether nothing that is pending against the greenlet ends it.
    is_unbroken: bool,
    ended_by: Handlers,
}

impl<'a> Wait<'a> {
    fn new(hub: &'a Hub, reason: Reason) -> Self {
        Wait { hub, reason, deadline: NEVER, is_unbroken: false, ended_by: Handlers::NotRestarting }
    }

    /// Tries until there is something. An error: what is pending against the greenlet, or `ETIMEDOUT`.
    fn until<T>(
        &self,
        pidfd: impl FnOnce() -> Option<OwnedFd>,
        mut try_it: impl FnMut() -> Option<T>,
    ) -> Result<T, i32> {
        if let Some(found) = try_it() {
            return Ok(found);
        }
        if let Some(exit) = pidfd().and_then(|fd| Watched::watch(self.hub, fd)) {
            // Goes on, so the descriptor is not for another which has got the same number.
            if let Some(found) = try_it() {
                return Ok(found);
            }
            let waited = self.wait_for(&exit);
            // If there is something just when the wait is cut short, that counts.
            match (try_it(), waited) {
                (Some(found), _) => return Ok(found),
                (None, Err(error)) => return Err(error),
                // It has ended, but is not ours to see yet: a debugger has it.
                (None, Ok(())) => {}
            }
        }
        let mut pauses = pauses();
        loop {
            let pause = pauses.next().unwrap_or_default();
            let waited = self.pause(self.hub.deadline(pause));
            match (try_it(), waited) {
                (Some(found), _) => return Ok(found),
                (None, Err(error)) => return Err(error),
                (None, Ok(())) => {}
            }
        }
    }

    /// Waits until its event has come.
    fn wait_for(&self, exit: &Watched<'_>) -> Result<(), i32> {
        let (fd, direction) = (exit.fd.as_fd(), Direction::Read);
        while !self.hub.fd_ready(exit.slot, direction) {
            let verdict = match self.is_unbroken {
                true => self.hub.wait_fd_unbroken(exit.slot, fd, direction, self.reason, self.deadline),
                false => self.hub.wait_fd_foreign(
                    exit.slot,
                    fd,
                    direction,
                    self.reason,
                    self.deadline,
                    self.ended_by,
                ),
            };
            // If it cannot be waited for, that is not told: there are the pauses.
            let Ok(verdict) = verdict else { return Ok(()) };
            self.is_over(verdict)?;
        }
        Ok(())
    }

    fn pause(&self, until: Nanos) -> Result<(), i32> {
        let until = until.min(self.deadline);
        self.is_over(match self.is_unbroken {
            true => self.hub.park_unbroken(self.reason, until),
            false => self.hub.park_foreign(self.reason, until, self.ended_by),
        })
    }

    fn is_over(&self, verdict: Verdict) -> Result<(), i32> {
        table::answer(verdict)?;
        if self.hub.read_clock() >= self.deadline { Err(libc::ETIMEDOUT) } else { Ok(()) }
    }
}

pub(super) unsafe fn wait(hub: &Hub, status: *mut c_int) -> pid_t {
    // SAFETY: the caller's arguments, here and below.
    unsafe { wait4(hub, -1, status, 0, ptr::null_mut()) }
}

pub(super) unsafe fn waitpid(hub: &Hub, pid: pid_t, status: *mut c_int, options: c_int) -> pid_t {
    // SAFETY: as above.
    unsafe { wait4(hub, pid, status, options, ptr::null_mut()) }
}

pub(super) unsafe fn wait3(hub: &Hub, status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
    // SAFETY: as above.
    unsafe { wait4(hub, -1, status, options, usage) }
}

pub(super) unsafe fn wait4(
    hub: &Hub,
    pid: pid_t,
    status: *mut c_int,
    options: c_int,
    usage: *mut rusage,
) -> pid_t {
    // SAFETY: as above.
    let look = || unsafe { real::wait4(pid, status, options | libc::WNOHANG, usage) };
    if options & libc::WNOHANG != 0 {
        return look();
    }
    let tells_of_ends_only = options & (libc::WUNTRACED | libc::WCONTINUED) == 0;
    let pidfd = || match u32::try_from(pid) {
        Ok(pid) if pid > 0 && tells_of_ends_only => sys::process::pidfd_open(pid).ok(),
        _ => None,
    };
    let reason = match u64::try_from(pid) {
        Ok(pid) if pid > 0 => Reason::of("end of child process", pid),
        _ => Reason::new("end of any child process"),
    };
    let found = Wait::new(hub, reason).until(pidfd, || match look() {
        0 => None,
        result => Some((result, errno())),
    });
    match found {
        Ok((-1, error)) | Err(error) => fail(error),
        Ok((pid, _)) => pid,
    }
}

pub(super) unsafe fn waitid(
    hub: &Hub,
    kind: idtype_t,
    id: id_t,
    information: *mut siginfo_t,
    options: c_int,
) -> c_int {
    if options & libc::WNOHANG != 0 {
        // SAFETY: as above.
        return unsafe { real::waitid(kind, id, information, options) };
    }
    let look = || {
        // A place of our own, for the caller may have none; and where nothing is told, the kernel writes zeros.
        let mut found = MaybeUninit::<siginfo_t>::zeroed();
        // SAFETY: as above.
        let result = unsafe { real::waitid(kind, id, found.as_mut_ptr(), options | libc::WNOHANG) };
        // SAFETY: zeros are a valid value.
        let found = unsafe { found.assume_init() };
        (result != 0 || found.si_signo != 0).then(|| (result, errno(), found))
    };
    let tells_of_ends_only = options & (libc::WSTOPPED | libc::WCONTINUED) == 0;
    let is_nonblocking = |fd: RawFd| table::entry(fd).is_some_and(|entry| entry.is_nonblocking(fd));
    let found = match look() {
        Some(found) => Ok(found),
        None if kind == libc::P_PIDFD && is_nonblocking(id as RawFd) => Err(libc::EAGAIN),
        None => {
            let pidfd = || match kind {
                _ if !tells_of_ends_only => None,
                libc::P_PID => sys::process::pidfd_open(id).ok(),
                // A duplicate: its own number may be registered already.
                // SAFETY: open, as was just seen; if it is closed meanwhile, the system says so.
                libc::P_PIDFD => unsafe { BorrowedFd::borrow_raw(id as RawFd) }.try_clone_to_owned().ok(),
                _ => None,
            };
            Wait::new(hub, Reason::of("end of child process", id.into())).until(pidfd, look)
        }
    };
    match found {
        Ok((0, _, found)) => {
            if !information.is_null() {
                // SAFETY: as above.
                unsafe { *information = found };
            }
            0
        }
        Ok((_, error, _)) | Err(error) => fail(error),
    }
}

/// For what waits within libc. As many threads as there are commands.
static COMMANDS: ThreadPool = ThreadPool::named("switchgrass-sh", usize::MAX);

/// A greenlet that is killed or runs out of time leaves the command alone, which goes on; its thread sees to its end.
pub(super) unsafe fn system(hub: &Hub, command: *const c_char) -> c_int {
    // SAFETY: as above.
    let command = (!command.is_null()).then(|| unsafe { CStr::from_ptr(command) }.to_owned());
    let mask = set_mask(None);
    let result = file::offload(hub, &COMMANDS, Reason::new("system"), move || {
        // The command inherits it.
        let own = set_mask(Some(&mask));
        // SAFETY: a C string, or null.
        let result =
            unsafe { real::system(command.as_ref().map_or(ptr::null(), |command| command.as_ptr())) };
        let error = errno();
        set_mask(Some(&own));
        (result, error)
    });
    match result {
        Ok((-1, error)) | Err(error) => fail(error),
        Ok((status, _)) => status,
    }
}

/// The signals that this thread has blocked; blocks those of `new` instead.
fn set_mask(new: Option<&sigset_t>) -> sigset_t {
    let mut old = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: null, or a set; and a place for one.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, new.map_or(ptr::null(), ptr::from_ref), old.as_mut_ptr());
        old.assume_init()
    }
}

/// The stream is closed whatever becomes of the greenlet; one that is killed or runs out of time
/// does not see how the command ends.
pub(super) unsafe fn pclose(hub: &Hub, stream: *mut FILE) -> c_int {
    // libc closes it without our seeing it.
    // SAFETY: the caller's stream.
    table::forget(unsafe { libc::fileno(stream) });
    let pointer = Pointer(stream.cast());
    let closed = file::hand_over(&COMMANDS, move || {
        let stream = pointer;
        // SAFETY: the stream is nobody else's from now on.
        let result = unsafe { real::pclose(stream.0.cast_mut().cast()) };
        (result, errno())
    });
    let Ok(job) = closed else {
        // There is no thread for it.
        // SAFETY: as above.
        return unsafe { real::pclose(stream) };
    };
    match job.join_foreign(hub, Reason::new("pclose")).map_err(file::number) {
        Ok((-1, error)) | Err(error) => fail(error),
        Ok((status, _)) => status,
    }
}

/// Whoever joins a thread cannot be told that it did not end: std takes any error for a mistake of its own, and panics.
/// So nothing that is pending ends this wait.
pub(super) unsafe fn pthread_join(hub: &Hub, thread: pthread_t, value: *mut *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe { join(thread, value, &Wait { is_unbroken: true, ..Wait::new(hub, THREAD) }) }
}

const THREAD: Reason = Reason::new("end of thread");

pub(super) unsafe fn pthread_timedjoin_np(
    hub: &Hub,
    thread: pthread_t,
    value: *mut *mut c_void,
    until: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe { pthread_clockjoin_np(hub, thread, value, libc::CLOCK_REALTIME, until) }
}

pub(super) unsafe fn pthread_clockjoin_np(
    hub: &Hub,
    thread: pthread_t,
    value: *mut *mut c_void,
    clock: clockid_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let deadline = match until.as_ref() {
            None => NEVER,
            Some(until) => match time::deadline(hub, clock, until) {
                Ok(deadline) => deadline,
                Err(error) => return error,
            },
        };
        join(thread, value, &Wait { deadline, ended_by: Handlers::None, ..Wait::new(hub, THREAD) })
    }
}

unsafe fn join(thread: pthread_t, value: *mut *mut c_void, wait: &Wait<'_>) -> c_int {
    // SAFETY: as above.
    unsafe {
        if thread == libc::pthread_self() {
            // Which says that this is a deadlock.
            return real::pthread_join(thread, value);
        }
        let before = errno();
        let pidfd = || sys::process::thread_pidfd_open(thread).ok();
        let result = wait.until(pidfd, || match real::pthread_tryjoin_np(thread, value) {
            libc::EBUSY => None,
            result => Some(result),
        });
        // These functions return their errors, and leave it alone.
        set_errno(before);
        result.unwrap_or_else(|error| error)
    }
}
