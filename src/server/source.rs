//! What a server can take its work from: listeners and datagram sockets.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net;
use std::os::fd::AsFd;
use std::os::unix::net as unix;
use std::rc::Rc;

use crate::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use crate::sys;

/// What a [`Server`](super::Server) can serve: the listeners and the datagram sockets of [`net`](crate::net), and nothing else.
pub trait Source: sealed::Source {
    /// What its address is.
    type Address: Clone + fmt::Debug + 'static;
    /// What a handler is given.
    #[doc(hidden)]
    type Work: 'static;
    /// How large a buffer `take` needs.
    #[doc(hidden)]
    const BUFFER: usize;
    /// Where it is bound.
    #[doc(hidden)]
    fn address(&self) -> io::Result<Self::Address>;
    /// Another handle on the same socket.
    #[doc(hidden)]
    fn duplicate(&self) -> io::Result<Self>;
    /// With `true`, `take` gives `WouldBlock` instead of waiting.
    #[doc(hidden)]
    fn set_impatient(&self, impatient: bool) -> io::Result<()>;
    /// Waits for the next piece of work. Suspends before the system call that takes it, never after.
    #[doc(hidden)]
    fn take(self: &Rc<Self>, buffer: &mut [u8]) -> io::Result<Self::Work>;
}

/// A source of connections.
pub trait Listener: Source {}

/// A source of datagrams.
pub trait DatagramSocket: Source {}

mod sealed {
    pub trait Source: Sized + 'static {}
}

/// The longest datagram that UDP knows: its length is a number of 16 bits.
const LONGEST_UDP: usize = 65_535;
/// Five times what Linux lets a process send by default (`net.core.wmem_max`).
const LONGEST_UNIX: usize = 1 << 20;

macro_rules! listener {
    ($listener:ty, $stream:ty, $address:ty) => {
        impl sealed::Source for $listener {}
        impl Listener for $listener {}

        impl Source for $listener {
            type Address = $address;
            type Work = ($stream, $address);
            const BUFFER: usize = 0;

            fn address(&self) -> io::Result<$address> {
                self.local_addr()
            }

            fn duplicate(&self) -> io::Result<Self> {
                self.try_clone()
            }

            fn set_impatient(&self, impatient: bool) -> io::Result<()> {
                self.set_nonblocking(impatient)
            }

            fn take(self: &Rc<Self>, _: &mut [u8]) -> io::Result<Self::Work> {
                self.accept()
            }
        }
    };
}

macro_rules! datagram_socket {
    ($socket:ty, $address:ty, $longest:expr, $is_end:expr) => {
        impl sealed::Source for $socket {}
        impl DatagramSocket for $socket {}

        impl Source for $socket {
            type Address = $address;
            type Work = (Vec<u8>, $address, Rc<$socket>);
            // One byte more: a datagram that fills it was longer, and is not whole.
            const BUFFER: usize = $longest + 1;

            fn address(&self) -> io::Result<$address> {
                self.local_addr()
            }

            fn duplicate(&self) -> io::Result<Self> {
                self.try_clone()
            }

            fn set_impatient(&self, impatient: bool) -> io::Result<()> {
                self.set_nonblocking(impatient)
            }

            fn take(self: &Rc<Self>, buffer: &mut [u8]) -> io::Result<Self::Work> {
                let (len, peer) = self.recv_from(buffer)?;
                if len > $longest {
                    return Err(too_long($longest));
                }
                let is_end: fn(&$socket, usize, &$address) -> bool = $is_end;
                if is_end(self, len, &peer) {
                    return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
                }
                Ok((buffer[..len].to_vec(), peer, Rc::clone(self)))
            }
        }
    };
}

listener!(TcpListener, TcpStream, net::SocketAddr);
listener!(UnixListener, UnixStream, unix::SocketAddr);
datagram_socket!(UdpSocket, net::SocketAddr, LONGEST_UDP, |_, _, _| false);
// One that was shut down for reading gives nothing, at once and for ever.
datagram_socket!(UnixDatagram, unix::SocketAddr, LONGEST_UNIX, |socket, len, peer| {
    len == 0 && peer.is_unnamed() && sys::fd::is_read_closed(socket.as_fd())
});

fn too_long(longest: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a datagram of more than {longest} bytes came, and was dropped: it would have been cut off"),
    )
}
