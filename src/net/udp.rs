//! UDP.

use std::io;
use std::net::{self, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use super::addr::{ToSocketAddrs, each_address};
use crate::descriptor::Io;
use crate::descriptor::macros::{as_std, descriptor, timeouts};
use crate::sys;

/// A UDP socket; [`std::net::UdpSocket`], cooperative.
///
/// ```
/// use switchgrass::net::UdpSocket;
///
/// let here = UdpSocket::bind("127.0.0.1:0")?;
/// let there = UdpSocket::bind("127.0.0.1:0")?;
/// there.send_to(b"hello", here.local_addr()?)?;
///
/// let mut datagram = [0; 64];
/// let (len, from) = here.recv_from(&mut datagram)?;
/// assert_eq!((&datagram[..len], from), (&b"hello"[..], there.local_addr()?));
/// # std::io::Result::Ok(())
/// ```
pub struct UdpSocket {
    io: Io<net::UdpSocket>,
}

descriptor!(UdpSocket, std::net::UdpSocket);
timeouts!(UdpSocket);

impl UdpSocket {
    /// Makes a socket with the first of the addresses that can be had. May switch, to look up a name.
    ///
    /// # Errors
    ///
    /// If none can be had: the last one's error.
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<UdpSocket> {
        each_address(addr, |addr| {
            let socket = net::UdpSocket::bind(addr)?;
            sys::fd::set_nonblocking(socket.as_fd(), true);
            Ok(UdpSocket { io: Io::new(socket) })
        })
    }

    /// Sets the first of the addresses that works as the one that `send` sends to, and the only one that is received
    /// from. May switch, to look up a name.
    ///
    /// # Errors
    ///
    /// If none works: the last one's error.
    pub fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        each_address(addr, |addr| self.io.get().connect(addr))
    }

    /// Receives a datagram, and tells from whom. What does not fit into `buf` is lost. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.io.read_with("recv_from of fd", |socket| socket.recv_from(buf))
    }

    /// As [`recv_from`](Self::recv_from), but the datagram stays for the next call. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.io.read_with("peek_from of fd", |socket| socket.peek_from(buf))
    }

    /// Receives a datagram from the address that the socket is connected to. What does not fit into `buf` is lost. May switch.
    ///
    /// # Errors
    ///
    /// As std's; `ConnectionRefused` if nobody has received what was sent before.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read_with("recv of fd", |socket| socket.recv(buf))
    }

    /// As [`recv`](Self::recv), but the datagram stays for the next call. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.read_with("peek of fd", |socket| socket.peek(buf))
    }

    /// Sends a datagram to the first of the addresses. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        let addr = addr.to_socket_addrs()?.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses")
        })?;
        self.io.write_with("send_to of fd", |socket| socket.send_to(buf, addr))
    }

    /// Sends a datagram to the address that the socket is connected to. May switch.
    ///
    /// # Errors
    ///
    /// As std's.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.io.write_with("send of fd", |socket| socket.send(buf))
    }
}

as_std! { UdpSocket, std::net::UdpSocket:
    fn take_error() -> Option<io::Error>;
    fn peer_addr() -> SocketAddr;
    fn local_addr() -> SocketAddr;
    fn set_broadcast(broadcast: bool) -> ();
    fn broadcast() -> bool;
    fn set_multicast_loop_v4(multicast_loop_v4: bool) -> ();
    fn multicast_loop_v4() -> bool;
    fn set_multicast_ttl_v4(multicast_ttl_v4: u32) -> ();
    fn multicast_ttl_v4() -> u32;
    fn set_multicast_loop_v6(multicast_loop_v6: bool) -> ();
    fn multicast_loop_v6() -> bool;
    fn set_ttl(ttl: u32) -> ();
    fn ttl() -> u32;
    fn join_multicast_v4(multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> ();
    fn join_multicast_v6(multiaddr: &Ipv6Addr, interface: u32) -> ();
    fn leave_multicast_v4(multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> ();
    fn leave_multicast_v6(multiaddr: &Ipv6Addr, interface: u32) -> ();
}
