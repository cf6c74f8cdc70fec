//! Descriptors: the few calls that std does not offer.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::slice;

use super::check;
use super::hooks::aside;

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

/// Whether reads and writes on `fd` return `WouldBlock` where they would have to wait.
pub(crate) fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // -1 only for a descriptor that is closed.
    flags != -1 && flags & libc::O_NONBLOCK != 0
}

/// Whether `fd` is a file, directory or disk: what `poll` calls ready always, though reading it may have to wait for a device.
pub(crate) fn is_file(fd: BorrowedFd<'_>) -> bool {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes a whole `stat` through the pointer if it succeeds.
    let mode = match unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) } {
        // SAFETY: it has succeeded.
        0 => unsafe { stat.assume_init() }.st_mode,
        _ => return false,
    };
    matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK)
}

/// read(2).
pub(crate) fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer is valid for writing as many bytes as are given.
    let result = aside(|| unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) });
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

/// poll(2) without waiting: fills in what is ready, and tells how many entries have something.
pub(crate) fn poll(fds: &mut [libc::pollfd]) -> io::Result<usize> {
    loop {
        // SAFETY: a valid slice of that length. A timeout of zero does not block.
        let result = aside(|| unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) });
        match usize::try_from(result) {
            Ok(ready) => return Ok(ready),
            Err(_negative) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Whether there is something to read (else: room to write), or an error to be told.
pub(crate) fn is_ready(fd: BorrowedFd<'_>, read: bool) -> bool {
    let events = if read { libc::POLLIN } else { libc::POLLOUT };
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    poll(slice::from_mut(&mut entry)).is_ok_and(|ready| ready > 0)
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
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: CLOSED, revents: 0 };
    poll(slice::from_mut(&mut entry)).is_ok() && entry.revents & (CLOSED | libc::POLLHUP) != 0
}

/// Gives a Unix socket its path, and does not listen yet: std does both at once.
pub(crate) fn bind_unix(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path.as_os_str().as_bytes();
    // SAFETY: numbers only, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // An empty path, or one that begins with a zero, would be a name that is no file's.
    if path.is_empty() || path.contains(&0) || path.len() >= address.sun_path.len() {
        let text = format!(
            "the path of a Unix socket has 1 to {} bytes, none of them zero, and this one has {}",
            address.sun_path.len() - 1,
            path.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (to, &byte) in address.sun_path.iter_mut().zip(path) {
        *to = byte as libc::c_char;
    }
    let len = offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
    // SAFETY: `address` is valid for reading `len` bytes: the path and the zero after it fit, as was just checked.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len as libc::socklen_t) })
        .map(drop)
}
