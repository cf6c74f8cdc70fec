//! What a process needs that forks others and watches them: signals that wait to be fetched, and its children's ends.

use std::io;
use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::time::Duration;

use super::check;

/// The signals that the parent of workers fetches instead of being interrupted by.
const WATCHED: [libc::c_int; 3] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT];

/// While it exists, those signals wait for [`Watch::next`] (if this is the process's only thread).
#[derive(Debug)]
pub(crate) struct Watch {
    watched: libc::sigset_t,
    /// What was blocked before.
    before: libc::sigset_t,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        // SAFETY: a signal set is plain data; sigemptyset makes it a valid one, and the signals exist.
        unsafe {
            let mut watched: libc::sigset_t = mem::zeroed();
            let mut before: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&mut watched);
            for signal in WATCHED {
                libc::sigaddset(&mut watched, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &watched, &mut before);
            Watch { watched, before }
        }
    }

    /// The next of the signals; `None` if none comes in that time, or another signal has a handler that ran. Blocks the thread.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "netbsd"))]
    pub(crate) fn next(&self, timeout: Duration) -> Option<libc::c_int> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
        };
        // SAFETY: the set and the time are valid, and nothing is to be told about the signal but its number.
        let signal = unsafe { libc::sigtimedwait(&self.watched, ptr::null_mut(), &timeout) };
        (signal > 0).then_some(signal)
    }

    /// As above, where there is no `sigtimedwait`: looks every now and then.
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd"
    )))]
    pub(crate) fn next(&self, timeout: Duration) -> Option<libc::c_int> {
        #[allow(clippy::disallowed_methods, reason = "the parent of workers has nothing else to do")]
        std::thread::sleep(timeout.min(Duration::from_millis(20)));
        // SAFETY: the sets are valid; sigwait returns at once, since one of its signals is pending.
        unsafe {
            let mut pending: libc::sigset_t = mem::zeroed();
            libc::sigpending(&mut pending);
            if !WATCHED.iter().any(|&signal| libc::sigismember(&pending, signal) == 1) {
                // Children are looked after each time.
                return None;
            }
            let mut signal = 0;
            (libc::sigwait(&self.watched, &mut signal) == 0).then_some(signal)
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

/// Forks. `None` in the child.
///
/// # Errors
///
/// `WouldBlock` if there are too many processes, `OutOfMemory`.
///
/// # Safety
///
/// There must be no other thread: what the child does next is not limited to what is safe after a fork.
pub(crate) unsafe fn fork() -> io::Result<Option<u32>> {
    // SAFETY: the caller's promise.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid > 0).then_some(pid as u32))
}

/// To be called in the child: leaves the keyboard's interrupt, which goes to all processes of the terminal, to the
/// parent. If the parent dies, SIGTERM comes (on Linux).
pub(crate) fn follow_parent(parent: u32) {
    // SAFETY: SIG_IGN is no function of ours; prctl takes a number here; the rest has no arguments.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        // It may have died just before.
        if libc::getppid() as u32 != parent {
            libc::raise(libc::SIGTERM);
        }
    }
}

/// How a child has ended, if it has. Its number is free for others then.
///
/// # Errors
///
/// There is no such child: somebody else has asked, or SIGCHLD is ignored.
pub(crate) fn reap(pid: u32) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    let found = check(unsafe { libc::waitpid(pid as libc::pid_t, &mut status, libc::WNOHANG) })?;
    Ok((found > 0).then(|| ExitStatus::from_raw(status)))
}
