//! Names of hosts to addresses, and back, as the system looks them up.
//!
//! `getaddrinfo` and `getnameinfo` block their OS thread, so they run on threads of a [pool of their
//! own](threadpool), 10 at most: slow lookups use up no threads of [`unblock`](crate::unblock) and [`fs`](crate::fs),
//! nor the other way round. More lookups at once wait in order. An address in numbers (`127.0.0.1`, `::1`,
//! `fe80::1%eth0`) needs no thread.
//!
//! A greenlet that is killed or runs out of [time](crate::timeout) abandons its lookup, which goes on unseen; one
//! that has not begun never does.
//!
//! ```
//! use std::time::Duration;
//! use switchgrass::{dns, timeout};
//!
//! let addresses = timeout(Duration::from_secs(5), || dns::resolve("localhost"))??;
//! assert!(addresses.iter().all(|address| address.is_loopback()));
//! # std::io::Result::Ok(())
//! ```
//!
//! [`net`](crate::net) resolves the names that it is given in the same way.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use crate::sys::names;
use crate::task::Reason;
use crate::threadpool::ThreadPool;

/// As gevent's resolver.
const MAX_LOOKUPS: usize = 10;

static LOOKUPS: ThreadPool = ThreadPool::named("switchgrass-dns", MAX_LOOKUPS);

/// The pool that lookups run in, whose [`set_max`](ThreadPool::set_max) says how many run at once: 10 if nobody does.
pub fn threadpool() -> &'static ThreadPool {
    &LOOKUPS
}

/// The addresses of `host`, in the order in which the system prefers them. One that has several is given with all of them.
///
/// An IPv6 address with a scope (`fe80::1%eth0`) loses it here; [`resolve_port`] keeps it. May switch to other greenlets.
///
/// # Errors
///
/// If the name cannot be resolved. The text names it, and says why.
#[doc(alias = "gethostbyname")]
pub fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok(resolve_port(host, 0)?.iter().map(SocketAddr::ip).collect())
}

/// The addresses of `host`, with `port`: what to connect to. May switch to other greenlets.
///
/// # Errors
///
/// As [`resolve`].
#[doc(alias = "getaddrinfo")]
pub fn resolve_port(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = numeric(host, port) {
        return Ok(vec![address]);
    }
    let host = host.to_owned();
    LOOKUPS.apply_for(Reason::new("name lookup"), move || match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot resolve '{host}': {error}"))),
    })
}

/// The name of an address. May switch to other greenlets.
///
/// # Errors
///
/// `NotFound` if it has none; others if the system cannot tell.
///
/// ```no_run
/// let name = switchgrass::dns::reverse([127, 0, 0, 1])?;
/// assert_eq!(name, "localhost");
/// # std::io::Result::Ok(())
/// ```
#[doc(alias = "gethostbyaddr")]
pub fn reverse(address: impl Into<IpAddr>) -> io::Result<String> {
    let address = SocketAddr::new(address.into(), 0);
    let (name, _) = LOOKUPS.apply_for(REVERSE, move || names::name_info(&address, true))?;
    Ok(name)
}

/// The names of an address and of its port, such as `("localhost", "http")`; the numbers as text, where there is no
/// name. May switch to other greenlets.
///
/// The names of ports are those of TCP.
///
/// # Errors
///
/// If the system cannot tell.
#[doc(alias = "getnameinfo")]
pub fn name_info(address: SocketAddr) -> io::Result<(String, String)> {
    LOOKUPS.apply_for(REVERSE, move || names::name_info(&address, false))
}

const REVERSE: Reason = Reason::new("reverse name lookup");

/// An address that is written in numbers, perhaps with a scope.
fn numeric(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (address, scope) = host.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = scope.parse().ok().or_else(|| names::interface_index(scope))?;
    Some(SocketAddrV6::new(address, port, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threadpool::{Job, unblock};
    use std::sync::mpsc;

    /// Jobs that take all the threads of a pool, until the sender is dropped.
    fn fill(pool: &ThreadPool) -> (mpsc::Sender<()>, Vec<Job<()>>) {
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = std::sync::Arc::new(std::sync::Mutex::new(may_go));
        let job = |_| {
            let may_go = std::sync::Arc::clone(&may_go);
            pool.spawn(move || assert!(may_go.lock().unwrap().recv().is_err()))
        };
        let jobs = (0..pool.max()).map(job).collect();
        (go, jobs)
    }

    #[test]
    fn slow_lookups_and_slow_jobs_do_not_hold_each_other_up() {
        let (go, jobs) = fill(&LOOKUPS);
        assert_eq!(LOOKUPS.len(), 10);
        assert_eq!(unblock(|| 5), 5);
        // Numbers need no thread.
        assert_eq!(resolve("127.0.0.1").unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(resolve_port("fe80::1%7", 80).unwrap(), ["[fe80::1%7]:80".parse().unwrap()]);
        // A name does; who runs out of time takes the lookup back.
        let late = crate::timeout::timeout(std::time::Duration::from_millis(1), || resolve("localhost"));
        assert!(late.is_err());
        assert_eq!(LOOKUPS.len(), 10);
        drop(go);
        jobs.into_iter().for_each(|job| job.join().unwrap());

        let (go, jobs) = fill(crate::threadpool::global());
        assert!(resolve("localhost").unwrap().iter().all(IpAddr::is_loopback));
        drop(go);
        jobs.into_iter().for_each(|job| job.join().unwrap());
    }
}
