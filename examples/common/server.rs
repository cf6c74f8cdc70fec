//! Stands in for `switchgrass::server::StreamServer`, with the part of it that the examples use.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use switchgrass::net::{TcpListener, TcpStream, ToSocketAddrs};
use switchgrass::{Greenlet, Handle, sleep, spawn, yield_now};

/// Accepts connections, and calls a handler for each in a greenlet of its own.
pub(crate) struct StreamServer {
    addr: SocketAddr,
    listener: RefCell<Option<Rc<TcpListener>>>,
    acceptor: RefCell<Option<Greenlet<()>>>,
    handler: Rc<dyn Fn(TcpStream, SocketAddr)>,
    connections: Rc<Connections>,
}

#[derive(Default)]
struct Connections {
    handlers: RefCell<HashMap<u64, Handle>>,
    accepted: Cell<u64>,
}

impl StreamServer {
    pub(crate) fn bind(
        addr: impl ToSocketAddrs,
        handler: impl Fn(TcpStream, SocketAddr) + 'static,
    ) -> io::Result<StreamServer> {
        let listener = TcpListener::bind(addr)?;
        Ok(StreamServer {
            addr: listener.local_addr()?,
            listener: RefCell::new(Some(Rc::new(listener))),
            acceptor: RefCell::default(),
            handler: Rc::new(handler),
            connections: Rc::default(),
        })
    }

    pub(crate) fn start(&self) {
        let Some(listener) = self.listener.borrow().clone() else { return };
        let (handler, connections) = (Rc::clone(&self.handler), Rc::clone(&self.connections));
        *self.acceptor.borrow_mut() = Some(spawn(move || accept_all(&listener, &handler, &connections)));
    }

    /// Closes the listener, lets live connections end in the time given, and kills what is left.
    pub(crate) fn stop(&self, grace: Duration) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.kill();
        }
        self.listener.take();
        let deadline = Instant::now() + grace;
        while self.connections() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        let left: Vec<Handle> = self.connections.handlers.borrow().values().cloned().collect();
        left.iter().for_each(Handle::kill_nowait);
        while self.connections() > 0 {
            sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.handlers.borrow().len()
    }
}

fn accept_all(
    listener: &TcpListener,
    handler: &Rc<dyn Fn(TcpStream, SocketAddr)>,
    connections: &Rc<Connections>,
) {
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            // Out of descriptors, most likely: some may be free soon.
            sleep(Duration::from_millis(100));
            continue;
        };
        let number = connections.accepted.get();
        connections.accepted.set(number + 1);
        let (handler, entry) = (Rc::clone(handler), Entry { connections: Rc::clone(connections), number });
        let greenlet = spawn(move || {
            let _entry = entry;
            handler(stream, peer);
        });
        connections.handlers.borrow_mut().insert(number, greenlet.handle());
        if number.is_multiple_of(100) {
            yield_now();
        }
    }
}

/// Takes the connection out of the list when it ends, in whichever way.
struct Entry {
    connections: Rc<Connections>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.handlers.borrow_mut().remove(&self.number);
    }
}
