//! Any descriptor that can be waited for.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ChildStdin;
use std::time::Duration;

use crate::descriptor::{Direction, Io, late};
use crate::hub::hub;
use crate::sys;
use crate::sys::clock::NEVER;
use crate::task::Reason;

/// A descriptor of any type, made cooperative: what would block the OS thread suspends the greenlet.
///
/// For whatever the system can wait for and this crate has no type for: a FIFO, a terminal, a serial line, a timer, an
/// inotify queue, a socket of another crate. The descriptor is made non-blocking while it is in here, and waited for
/// with the hub's epoll (async-io calls the like `Async`, tokio `AsyncFd`).
///
/// If `T` reads or writes ([`Read`], [`Write`]), so does this; by reference too, if it is one of std's types that does.
/// For all other operations there are [`read_with`](Self::read_with) and [`write_with`](Self::write_with).
///
/// One greenlet may wait to read while another waits to write; a second one in the same direction gets
/// [`ConcurrentUse`](crate::io::ConcurrentUse). One number in two `Pollable`s (by reference, say) is an error for one
/// of them; what was duplicated (`try_clone`) is not.
///
/// The mode belongs to the open file, which others may share: a duplicate, another process. They see that it is
/// non-blocking. So do not do this to the standard streams; for stdin there is [`io::stdin`](crate::io::stdin).
///
/// # Examples
///
/// A type that knows nothing of this crate, with its own methods:
///
/// ```
/// use std::os::unix::net::UnixDatagram;
/// use switchgrass::io::Pollable;
///
/// let (one, other) = UnixDatagram::pair()?;
/// let socket = Pollable::new(one)?;
/// let greenlet = switchgrass::spawn(move || other.send(b"news"));
///
/// let mut buf = [0; 16];
/// let len = socket.read_with(|socket| socket.recv(&mut buf))?;    // waits for the greenlet
/// assert_eq!(&buf[..len], b"news");
/// # greenlet.join().unwrap()?;
/// # std::io::Result::Ok(())
/// ```
pub struct Pollable<T: AsFd> {
    io: Io<T>,
    /// It was non-blocking before.
    was_nonblocking: bool,
}

impl<T: AsFd> Pollable<T> {
    /// Takes a descriptor over: makes it non-blocking, and registers it with the hub of this thread.
    /// (Another thread may use it as well.)
    ///
    /// # Errors
    ///
    /// `Unsupported` for what the system cannot wait for, such as a regular file or a directory: read those with
    /// `switchgrass::fs`, or with [`unblock`](crate::unblock). The descriptor is then as before, and closed if
    /// `T` does that when it is dropped.
    pub fn new(source: T) -> io::Result<Pollable<T>> {
        let was_nonblocking = sys::fd::is_nonblocking(source.as_fd());
        let io = Io::adopt(source);
        match io.register_now() {
            Ok(()) => Ok(Pollable { io, was_nonblocking }),
            Err(error) => {
                sys::fd::set_nonblocking(io.as_fd(), was_nonblocking);
                match error.raw_os_error() {
                    Some(libc::EPERM) => Err(io::Error::new(io::ErrorKind::Unsupported, NotPollable)),
                    _ => Err(error),
                }
            }
        }
    }

    /// What is in here.
    pub fn get_ref(&self) -> &T {
        self.io.get()
    }

    /// Gives it back, blocking or not as it was before.
    pub fn into_inner(self) -> T {
        let source = self.io.into_inner();
        sys::fd::set_nonblocking(source.as_fd(), self.was_nonblocking);
        source
    }

    /// Calls `read`, and as long as it gives `WouldBlock`, waits for something to read and calls it again. May switch.
    ///
    /// # Errors
    ///
    /// Those of `read`, but for `WouldBlock` and `Interrupted`; [`ConcurrentUse`](crate::io::ConcurrentUse).
    pub fn read_with<R>(&self, read: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.io.read_with("read of fd", read)
    }

    /// Calls `write`, and as long as it gives `WouldBlock`, waits for room to write and calls it again. May switch.
    ///
    /// # Errors
    ///
    /// Those of `write`, but for `WouldBlock` and `Interrupted`; [`ConcurrentUse`](crate::io::ConcurrentUse).
    pub fn write_with<R>(&self, write: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        self.io.write_with("write of fd", write)
    }

    /// Waits until there is something to read: data, the end, or an error that reading will tell. May switch.
    ///
    /// `timeout`: `None` for no limit; zero only looks.
    ///
    /// # Errors
    ///
    /// `TimedOut`; [`ConcurrentUse`](crate::io::ConcurrentUse).
    pub fn wait_readable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(Direction::Read, "wait_readable of fd", timeout)
    }

    /// Waits until there is room to write, or an error that writing will tell. May switch.
    ///
    /// `timeout`: `None` for no limit; zero only looks.
    ///
    /// # Errors
    ///
    /// `TimedOut`; [`ConcurrentUse`](crate::io::ConcurrentUse).
    pub fn wait_writable(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(Direction::Write, "wait_writable of fd", timeout)
    }
}

impl<T: AsFd> Pollable<T> {
    /// About the state, not about what has happened since: a real `poll(2)`, before and after each wait.
    fn wait(&self, direction: Direction, what: &'static str, timeout: Option<Duration>) -> io::Result<()> {
        let hub = hub();
        hub.be_fair();
        let mut deadline = None;
        while !sys::fd::is_ready(self.as_fd(), direction == Direction::Read) {
            let deadline =
                *deadline.get_or_insert_with(|| timeout.map_or(NEVER, |timeout| hub.deadline(timeout)));
            if timeout == Some(Duration::ZERO) {
                return Err(late(Reason::of(what, self.as_raw_fd() as u64)));
            }
            self.io.wait(direction, what, deadline)?;
        }
        Ok(())
    }

    /// An operation that needs the source for itself.
    fn run<R>(
        &mut self,
        direction: Direction,
        what: &'static str,
        mut operation: impl FnMut(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        hub().be_fair();
        loop {
            match operation(self.io.get_mut()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.io.wait(direction, what, NEVER)?;
                }
                result => return result,
            }
        }
    }
}

impl<T: AsFd + Read> Read for Pollable<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.run(Direction::Read, "read of fd", |source| source.read(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.run(Direction::Read, "read of fd", |source| source.read_vectored(bufs))
    }
}

impl<T: AsFd + Write> Write for Pollable<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.run(Direction::Write, "write of fd", |source| source.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.run(Direction::Write, "write of fd", |source| source.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.run(Direction::Write, "flush of fd", Write::flush)
    }
}

// For std's types only: an implementation for all `T` with `&T: Read` would be recursive (`Pollable<Pollable<…>>`), and
// have the compiler give up in every program that asks for `&T: Read` with a type not known yet.
macro_rules! by_reference {
    (Read: $($reader:ty),*; Write: $($writer:ty),*) => {
        $(impl Read for &Pollable<$reader> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.read_with(|mut source| source.read(buf))
            }

            fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.read_with(|mut source| source.read_vectored(bufs))
            }
        })*

        $(impl Write for &Pollable<$writer> {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.write_with(|mut source| source.write(buf))
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.write_with(|mut source| source.write_vectored(bufs))
            }

            fn flush(&mut self) -> io::Result<()> {
                self.write_with(|mut source| source.flush())
            }
        })*
    };
}

by_reference! {
    Read: File, io::PipeReader, TcpStream, UnixStream;
    Write: File, io::PipeWriter, ChildStdin, TcpStream, UnixStream
}

impl<T: AsFd> AsFd for Pollable<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl<T: AsFd> AsRawFd for Pollable<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T: AsFd + fmt::Debug> fmt::Debug for Pollable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pollable").field(self.get_ref()).finish()
    }
}

/// Why there is no `Pollable` of a regular file.
#[derive(Debug)]
struct NotPollable;

impl fmt::Display for NotPollable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the system cannot wait for this kind of descriptor (a regular file, a directory, /dev/null): read and write it with switchgrass::fs, or within switchgrass::unblock",
        )
    }
}

impl std::error::Error for NotPollable {}
