//! Descriptors: the few calls that std does not offer.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Makes reads and writes on `fd` return `WouldBlock` instead of blocking the OS thread, or undoes it.
///
/// The flag belongs to the open file description, so whoever shares it (a dup, another process) sees it too.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) {
    let mut value = libc::c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one int through the pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut value) };
    // The kernel sets the flag itself, whatever the descriptor is; it only fails for one that is closed.
    debug_assert_eq!(result, 0, "the descriptor is open");
}

/// Sets how many connections may wait to be accepted. Allowed on a socket that listens already: the
/// kernel then just takes the new number (and caps it at `net.core.somaxconn`).
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Accepts a connection, non-blocking and close-on-exec in one system call, which std does not offer.
pub(crate) fn accept_tcp(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: the descriptor is open while it is borrowed, and `ManuallyDrop` leaves it to its owner.
    let listener = ManuallyDrop::new(unsafe { mio::net::TcpListener::from_raw_fd(listener.as_raw_fd()) });
    let (stream, address) = listener.accept()?;
    Ok((stream.into(), address))
}
