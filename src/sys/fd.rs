//! Descriptors: the few calls that std does not offer.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixAddr;

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

/// As [`accept_tcp`], for Unix sockets.
pub(crate) fn accept_unix(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, UnixAddr)> {
    // SAFETY: as in `accept_tcp`.
    let listener = ManuallyDrop::new(unsafe { mio::net::UnixListener::from_raw_fd(listener.as_raw_fd()) });
    let (stream, address) = listener.accept()?;
    Ok((stream.into(), address))
}

/// A stream socket of the Unix family, non-blocking, close-on-exec, and not connected, which std does not offer.
pub(crate) fn unix_stream() -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    #[cfg(target_vendor = "apple")]
    let kind = libc::SOCK_STREAM;
    // SAFETY: socket takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: just opened, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    #[cfg(target_vendor = "apple")]
    {
        // SAFETY: F_SETFD takes an int. As in std, a fork between the two calls inherits the descriptor.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        set_nonblocking(std::os::fd::AsFd::as_fd(&fd), true);
    }
    Ok(fd)
}

/// Whether nothing more will come, since the peer has closed or the socket was shut down for reading.
pub(crate) fn is_read_closed(fd: BorrowedFd<'_>) -> bool {
    #[cfg(target_os = "linux")]
    const CLOSED: libc::c_short = libc::POLLRDHUP;
    #[cfg(not(target_os = "linux"))]
    const CLOSED: libc::c_short = libc::POLLHUP;
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: CLOSED, revents: 0 };
    // SAFETY: one valid pollfd; a timeout of zero does not block.
    let result = unsafe { libc::poll(&raw mut poll, 1, 0) };
    result == 1 && poll.revents & (CLOSED | libc::POLLHUP) != 0
}
