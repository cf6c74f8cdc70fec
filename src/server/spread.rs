//! A server on several hubs.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Server, Source, Stopped};
use crate::channel;
use crate::greenlet::{Greenlet, joinall, spawn};
use crate::hubs::Hubs;
use crate::sync::AsyncResult;
use crate::sys::lock::Lock;

/// A server on each hub of [`Hubs`], all for one listener (or datagram socket); see [`Server::spread`].
///
/// When it is dropped, the servers close as if each had been dropped: without waiting, and live connections go on.
pub struct Spread<S: Source> {
    address: S::Address,
    end: Arc<AsyncResult<End>>,
    /// One per hub.
    servers: Vec<Greenlet<io::Result<Stopped>>>,
}

/// How the servers are to end.
#[derive(Clone, Copy)]
enum End {
    Close,
    Stop(Duration),
}

impl<S: Source + Send> Server<S>
where
    S::Address: Send,
{
    /// Serves `source` on each of `hubs`: `make` is called there, once, with a handle on the socket, and gives the server that is started.
    ///
    /// Each hub accepts, and a connection stays with the hub that has accepted it. A hub that is busy does not come to accept: then the others
    /// do. The handler of a hub's server is made and called there only, so what it captures in `make` need not be `Send`; limits
    /// ([`max_connections`](super::StreamServer::max_connections)) are each hub's own. May switch.
    ///
    /// # Errors
    ///
    /// The first error of `make`, or that the socket cannot be duplicated. Then nothing is served.
    ///
    /// # Panics
    ///
    /// As [`Hubs::spawn`].
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    /// use switchgrass::hubs::Hubs;
    /// use switchgrass::net::{TcpListener, TcpStream};
    /// use switchgrass::server::StreamServer;
    ///
    /// let hubs = Hubs::default();
    /// let server = StreamServer::spread(&hubs, TcpListener::bind("127.0.0.1:0")?, |listener| {
    ///     StreamServer::new(listener, |mut stream, peer| {
    ///         let _ = write!(stream, "hello, {}", peer.ip());
    ///     })
    /// })?;
    /// let mut greeting = String::new();
    /// TcpStream::connect(server.local_addr())?.read_to_string(&mut greeting)?;
    /// assert_eq!(greeting, "hello, 127.0.0.1");
    /// assert_eq!(server.stop(Duration::from_secs(1)).killed, 0);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn spread(
        hubs: &Hubs,
        source: impl Into<S>,
        make: impl Fn(S) -> io::Result<Server<S>> + Send + Sync + 'static,
    ) -> io::Result<Spread<S>> {
        let source: S = source.into();
        let address = source.address()?;
        let mut sources = Vec::new();
        for _ in 1..hubs.count() {
            sources.push(Lock::new(Some(source.duplicate()?)));
        }
        sources.push(Lock::new(Some(source)));
        let end = Arc::new(AsyncResult::new());
        let (tell, told) = channel::unbounded();
        let servers = hubs.broadcast({
            let end = Arc::clone(&end);
            move |index| {
                // Taken out, so that the socket closes when the servers do.
                let source = sources[index].lock().take().expect("this is called once on each hub");
                let (made, failed) = match make(source) {
                    Ok(server) => (Some(server), None),
                    Err(error) => (None, Some(error)),
                };
                if let Some(server) = &made {
                    server.start();
                }
                // Who asks may have gone.
                let _ = tell.send(failed);
                made.map_or(Ok(Stopped::default()), |server| serve(server, end.clone()))
            }
        });
        let spread = Spread { address, end, servers };
        for _ in 0..hubs.count() {
            if let Ok(Some(error)) = told.recv() {
                return Err(error);
            }
        }
        Ok(spread)
    }
}

/// Serves on one hub, until all of them are to end.
fn serve<S: Source>(server: Server<S>, end: Arc<AsyncResult<End>>) -> io::Result<Stopped> {
    let ends = {
        let (server, end) = (server.clone(), Arc::clone(&end));
        spawn(move || match end.get() {
            Ok(&End::Stop(grace)) => server.stop(grace),
            _ => {
                server.close();
                Stopped::default()
            }
        })
    };
    server.serve_forever()?;
    match end.is_ready() {
        true => Ok(ends.join().unwrap_or_default()),
        // It was closed here.
        false => {
            ends.kill_nowait();
            Ok(Stopped::default())
        }
    }
}

impl<S: Source> Spread<S> {
    /// Where the servers listen.
    pub fn local_addr(&self) -> S::Address {
        self.address.clone()
    }

    /// Closes the listener, gives live connections the time `grace` to end, and kills those that are left, on all hubs at once: see [`Server::stop`]. Waits
    /// for that. May switch. Called a second time, it only waits.
    pub fn stop(&self, grace: Duration) -> Stopped {
        let _ = self.end.set(End::Stop(grace));
        joinall(&self.servers);
        let stopped = self.servers.iter().filter_map(|server| server.value()?.as_ref().ok());
        stopped.fold(Stopped::default(), |sum, one| Stopped {
            finished: sum.finished + one.finished,
            killed: sum.killed + one.killed,
        })
    }

    /// Waits until the servers have ended on all hubs: were stopped, or have failed. May switch.
    ///
    /// # Errors
    ///
    /// The first error that has broken the listener.
    pub fn wait(&self) -> io::Result<()> {
        joinall(&self.servers);
        let failed = self.servers.iter().filter_map(|server| server.value()?.as_ref().err()).next();
        failed.map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string())))
    }
}

impl<S: Source> Drop for Spread<S> {
    fn drop(&mut self) {
        let _ = self.end.set(End::Close);
    }
}

impl<S: Source> fmt::Debug for Spread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spread")
            .field("address", &self.address)
            .field("hubs", &self.servers.len())
            .finish_non_exhaustive()
    }
}
