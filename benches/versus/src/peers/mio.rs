//! An HTTP server written by hand on mio: one thread, a readiness loop, one read and one write per request. What the kernel and the
//! parser alone cost. Its echo server is `echo-mio` of `benches/work.rs`.

use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::http::Http;
use crate::{Keys, Outcome};

const LISTENER: Token = Token(usize::MAX);

pub(crate) fn run(work: &str, keys: &Keys) -> Outcome {
    match work {
        "http" => serve(keys).map_err(|error| error.to_string())?,
        _ => return crate::missing(),
    }
    Err("the listener has ended".to_owned())
}

struct Connection {
    stream: TcpStream,
    http: Box<Http>,
}

impl Connection {
    /// Reads until there is nothing more. `false`: close it.
    fn ready(&mut self, closing: bool) -> io::Result<bool> {
        loop {
            let room = self.http.room();
            let all = room.len();
            let len = match self.stream.read(room) {
                Ok(0) => return Ok(false),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let open = self.http.answer(len);
            // The clients of this benchmark wait for each answer, so there is always room for it.
            let written = self.stream.write(&self.http.output)?;
            let whole = written == self.http.output.len();
            self.http.output.clear();
            if !open || !whole {
                return Ok(false);
            }
            // Less than there was room for: the socket is empty, the next event will tell of more.
            if len < all && !closing {
                return Ok(true);
            }
        }
    }
}

fn serve(keys: &Keys) -> io::Result<()> {
    let mut listener = TcpListener::bind(keys.addr().parse().map_err(io::Error::other)?)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                loop {
                    let mut stream = match listener.accept() {
                        Ok((stream, _)) => stream,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    };
                    stream.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    poll.registry().register(&mut stream, Token(slot), Interest::READABLE)?;
                    connections[slot] = Some(Connection { stream, http: Box::new(Http::new()) });
                }
                continue;
            }
            let slot = event.token().0;
            let Some(connection) = &mut connections[slot] else { continue };
            // An error is one connection's own: it is closed.
            if !connection.ready(event.is_read_closed()).unwrap_or(false) {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}
