//! Names to addresses, off the hub's thread.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::task::Reason;
use crate::threadpool::unblock_for;

/// Looks a name up as the system does (`getaddrinfo`), on a thread of the pool. Numeric addresses need none.
///
/// A greenlet that is killed or times out abandons the lookup, which goes on unseen.
pub(crate) fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let host = host.to_owned();
    unblock_for(Reason::new("name lookup"), move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
}
