//! Child processes: the calls that std does not offer.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::check;

/// A descriptor that becomes readable when the process has ended; close-on-exec. Linux 5.3 and later.
///
/// It must be a child that has not been waited for, or its number may be somebody else's by now.
#[cfg(target_os = "linux")]
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    pidfd(pid, 0)
}

/// The same for a thread. Linux 6.9 and later.
///
/// As above, it must be one that has not been joined. If it has ended already, this may be an error, or a descriptor
/// for another thread that has its number now: so look afterwards whether it goes on.
#[cfg(all(target_os = "linux", feature = "monkey"))]
pub(crate) fn thread_pidfd_open(thread: libc::pthread_t) -> io::Result<OwnedFd> {
    unsafe extern "C" {
        fn pthread_getcpuclockid(thread: libc::pthread_t, clock: *mut libc::clockid_t) -> libc::c_int;
    }
    const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
    let mut clock = 0;
    // SAFETY: a thread that was not joined, says the caller, and a place for the clock.
    match unsafe { pthread_getcpuclockid(thread, &mut clock) } {
        // Which has the number of the thread in it, in the form that the kernel takes.
        0 => pidfd(!(clock >> 3) as u32, PIDFD_THREAD),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(target_os = "linux")]
fn pidfd(number: u32, flags: libc::c_int) -> io::Result<OwnedFd> {
    let (number, flags) = (libc::c_long::from(number), libc::c_long::from(flags));
    // SAFETY: pidfd_open takes two numbers and no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, flags) };
    // The result is -1 or a descriptor, so an int.
    let fd = check(fd as libc::c_int)?;
    // SAFETY: just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to a process.
///
/// As for `pidfd_open`: a child that has not been waited for.
pub(crate) fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill takes two numbers and no pointers.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}
