//! Child processes: the calls that std does not offer.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::check;

/// A descriptor that becomes readable when the process has ended; close-on-exec. Linux 5.3 and later.
///
/// It must be a child that has not been waited for, or its number may be somebody else's by now.
#[cfg(target_os = "linux")]
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers and no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0 as libc::c_long) };
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
