//! Both ways between two streams.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use crate::coro::unwind;
use crate::greenlet::scope;
use crate::hub::hub;
use crate::net::{TcpStream, UnixStream};
use crate::task::Reason;

/// A stream of two directions that end apart: a connection.
///
/// Besides this, [`copy_bidirectional`] asks for [`Read`] and [`Write`] by reference, so that one greenlet
/// can read while another writes.
pub trait Duplex {
    /// Ends one direction or both, as [`TcpStream::shutdown`] does: the peer of a stream whose writing half is shut
    /// down reads the end. Greenlets that wait in a direction that is shut down are woken.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

impl Duplex for TcpStream {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        TcpStream::shutdown(self, how)
    }
}

impl Duplex for UnixStream {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        UnixStream::shutdown(self, how)
    }
}

/// Copies all that comes from `a` to `b`, and all that comes from `b` to `a`, until both have ended. Tells how many
/// bytes went from `a` to `b`, and from `b` to `a`.
///
/// The two directions are independent: when one ends, that is passed on (the writing half of the other stream is shut
/// down), and the other goes on. This is what a proxy does with a connection.
///
/// If it is killed or timed out, both directions stop, and the streams stay open; what was read and not written yet is lost.
///
/// May switch to other greenlets.
///
/// # Errors
///
/// The first of either direction. Both streams are shut down then, which ends the other direction as well: half of a
/// conversation is of no use, and who waits for its other half would wait for ever. In a destructor that runs while
/// its greenlet unwinds: at once.
///
/// # Panics
///
/// If `read` or `write` of a stream does, after the other direction has ended.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::Shutdown;
/// use switchgrass::{io, net::UnixStream, spawn};
///
/// let (client, proxy_front) = UnixStream::pair()?;
/// let (proxy_back, server) = UnixStream::pair()?;
/// let proxy = spawn(move || io::copy_bidirectional(&proxy_front, &proxy_back));
/// let server = spawn(move || {
///     let mut question = String::new();
///     (&server).read_to_string(&mut question)?;   // until the client shuts its half down
///     (&server).write_all(question.to_uppercase().as_bytes())
/// });
///
/// (&client).write_all(b"shout")?;
/// client.shutdown(Shutdown::Write)?;
/// let mut answer = String::new();
/// (&client).read_to_string(&mut answer)?;
/// assert_eq!(answer, "SHOUT");
/// assert_eq!(proxy.join().unwrap()?, (5, 5));
/// # server.join().unwrap()?;
/// # std::io::Result::Ok(())
/// ```
pub fn copy_bidirectional<A, B>(a: &A, b: &B) -> io::Result<(u64, u64)>
where
    A: Duplex + ?Sized,
    B: Duplex + ?Sized,
    for<'s> &'s A: Read + Write,
    for<'s> &'s B: Read + Write,
{
    hub().may_suspend(Reason::new("copy_bidirectional"))?;
    let failed = Cell::new(None);
    let (there, back) = scope(|s| {
        let there = s.spawn(|| pump(a, b, &failed));
        let back = pump(b, a, &failed);
        (there.join().unwrap_or_else(|payload| unwind::raise(payload)), back)
    });
    match failed.into_inner() {
        Some(error) => Err(error),
        None => Ok((there, back)),
    }
}

/// One direction. The first error of both is kept.
fn pump<F, T>(from: &F, to: &T, failed: &Cell<Option<io::Error>>) -> u64
where
    F: Duplex + ?Sized,
    T: Duplex + ?Sized,
    for<'s> &'s F: Read,
    for<'s> &'s T: Write,
{
    let copied = io::copy(&mut { from }, &mut { to }).and_then(|count| {
        match to.shutdown(Shutdown::Write) {
            // The other side has gone altogether. If that matters, somebody's read or write tells.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(count),
            result => result.map(|()| count),
        }
    });
    copied.unwrap_or_else(|error| {
        let first = failed.take().unwrap_or(error);
        failed.set(Some(first));
        // Wakes the other direction.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        0
    })
}
