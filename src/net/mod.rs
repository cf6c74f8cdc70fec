//! std's sockets, cooperative: the same types, methods and errors as [`std::net`] and [`std::os::unix::net`], with waiting
//! that suspends the greenlet instead of blocking the OS thread.
//!
//! What differs from std:
//!
//! - A timeout (`set_read_timeout`, …) is for the whole operation, `write_all` included, and gives `ErrorKind::TimedOut`.
//!   std on Unix gives `WouldBlock` there, and begins anew with each piece.
//! - One greenlet may wait to read while another waits to write. A second one in the same direction gets an error at once
//!   ([`ConcurrentUse`]); in std it would be chance who gets the data.
//! - [`ToSocketAddrs`] is our own, so that names are looked up off the thread; it is implemented for the same types.
//! - `TcpListener::bind` asks for a longer queue of waiting connections (4096) than std's 128.
//! - A descriptor that is taken over (`From<std type>`, `FromRawFd`) becomes non-blocking, which whoever shares it
//!   sees, too. Given back with `into_raw_fd` or into a std type, it is blocking again.
//!
//! A socket works from whichever thread uses it: each hub that waits for it registers it. In a destructor that runs while its
//! greenlet unwinds, operations are tried, and fail where they would have to wait.
//!
//! **To end somebody's wait**, `shutdown` the socket, or kill the greenlet. Dropping the socket cannot do it, as closing does
//! elsewhere: who waits borrows it, so it is not dropped before. One that is shared (`Rc`, `Arc`) closes with its last owner.
//! (Who waits to write on a *clone* of a Unix socket is not told of `Shutdown::Write`, of which the system makes no event.)
//!
//! All stable methods of std 1.95 are there, except:
//!
//! - `TcpListener::set_only_v6` and `only_v6`: deprecated, since they can only fail on a socket that is bound.
//! - `std::os::linux::net::TcpStreamExt` (`set_quickack`, `quickack`): std lets nobody else implement it.
//!   `setsockopt` works, by `AsFd`.
//! - Timeouts are not the kernel's, so conversions do not carry them over, nor `set_nonblocking` into our types.
//!
//! std has two types named `Incoming`; that of Unix sockets is [`UnixIncoming`] here.

mod addr;
mod tcp;
mod udp;
mod unix;

pub use self::addr::ToSocketAddrs;
pub use self::tcp::{Incoming, TcpListener, TcpStream};
pub use self::udp::UdpSocket;
pub use self::unix::{UnixDatagram, UnixIncoming, UnixListener, UnixStream};
pub use crate::descriptor::ConcurrentUse;
pub use std::net::Shutdown;
