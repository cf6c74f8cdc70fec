//! Descriptors: the few calls that std does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// Makes reads and writes on `fd` return `WouldBlock` instead of blocking the OS thread.
///
/// The flag belongs to the open file description, so whoever shares it (a dup, another process) sees it too.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut value = libc::c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut value) }).map(drop)
}

/// Sets how many connections may wait to be accepted. Allowed on a socket that listens already: the
/// kernel then just takes the new number (and caps it at `net.core.somaxconn`).
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}
