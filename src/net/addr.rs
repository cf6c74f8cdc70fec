//! What an address can be given as.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{iter, option, slice, vec};

use crate::dns;

/// [`std::net::ToSocketAddrs`], but names are looked up on another thread while the greenlet waits.
///
/// May switch to other greenlets.
pub trait ToSocketAddrs {
    /// The addresses.
    type Iter: Iterator<Item = SocketAddr>;

    /// The addresses that this stands for; several, where a name has several.
    ///
    /// # Errors
    ///
    /// If the text is no address, or the name cannot be resolved.
    fn to_socket_addrs(&self) -> io::Result<Self::Iter>;
}

impl ToSocketAddrs for SocketAddr {
    type Iter = option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(Some(*self).into_iter())
    }
}

macro_rules! one_address {
    ($($given:ty: $address:expr;)*) => {$(
        impl ToSocketAddrs for $given {
            type Iter = option::IntoIter<SocketAddr>;

            fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
                let address: fn(&$given) -> SocketAddr = $address;
                Ok(Some(address(self)).into_iter())
            }
        }
    )*};
}

one_address! {
    SocketAddrV4: |&address| address.into();
    SocketAddrV6: |&address| address.into();
    (IpAddr, u16): |&address| address.into();
    (Ipv4Addr, u16): |&address| address.into();
    (Ipv6Addr, u16): |&address| address.into();
}

impl ToSocketAddrs for (&str, u16) {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        dns::resolve_port(self.0, self.1).map(Vec::into_iter)
    }
}

impl ToSocketAddrs for (String, u16) {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (self.0.as_str(), self.1).to_socket_addrs()
    }
}

impl ToSocketAddrs for str {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        if let Ok(address) = self.parse() {
            return Ok(vec![address].into_iter());
        }
        let wrong = |what: &str| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("invalid socket address: {what}"))
        };
        let (host, port) = self.rsplit_once(':').ok_or_else(|| wrong("there is no port, as in `host:80`"))?;
        let port = port.parse().map_err(|_| wrong("the port is no number below 65536"))?;
        // An IPv6 address with the name of an interface, which the standard library does not read.
        let inner =
            host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).filter(|host| host.contains('%'));
        dns::resolve_port(inner.unwrap_or(host), port).map(Vec::into_iter)
    }
}

impl ToSocketAddrs for String {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        self.as_str().to_socket_addrs()
    }
}

impl<'a> ToSocketAddrs for &'a [SocketAddr] {
    type Iter = iter::Cloned<slice::Iter<'a, SocketAddr>>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        Ok(self.iter().cloned())
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    type Iter = T::Iter;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        (**self).to_socket_addrs()
    }
}

/// Tries `attempt` with each address until one works. The error is that of the last.
pub(super) fn each_address<A: ToSocketAddrs, T>(
    addresses: A,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for address in addresses.to_socket_addrs()? {
        match attempt(address) {
            Ok(done) => return Ok(done),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "could not resolve to any addresses")))
}
