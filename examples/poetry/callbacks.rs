//! A loop that asks the kernel which sockets have something, and calls back whoever has registered for them.
//!
//! This is what one writes without greenlets, if there are to be very many downloads. No function says any more what a
//! download is: its steps are spread over callbacks, and what it knows between them has to be kept somewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::rc::Rc;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

pub(crate) fn download_all(addrs: &[SocketAddr]) -> io::Result<Vec<String>> {
    let poems = Rc::new(RefCell::new(vec![String::new(); addrs.len()]));
    let mut reactor = Reactor::new()?;
    for (i, &addr) in addrs.iter().enumerate() {
        let poems = Rc::clone(&poems);
        reactor.download(addr, Box::new(move |poem| poems.borrow_mut()[i] = poem))?;
    }
    reactor.run()?;
    Ok(poems.take())
}

struct Reactor {
    poll: Poll,
    downloads: HashMap<Token, Download>,
}

struct Download {
    stream: TcpStream,
    received: Vec<u8>,
    on_finished: Box<dyn FnOnce(String)>,
}

impl Reactor {
    fn new() -> io::Result<Reactor> {
        Ok(Reactor { poll: Poll::new()?, downloads: HashMap::new() })
    }

    fn download(&mut self, addr: SocketAddr, on_finished: Box<dyn FnOnce(String)>) -> io::Result<()> {
        let token = Token(self.downloads.len());
        let mut stream = TcpStream::connect(addr)?;
        self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
        self.downloads.insert(token, Download { stream, received: Vec::new(), on_finished });
        Ok(())
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        while !self.downloads.is_empty() {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                let Some(download) = self.downloads.get_mut(&event.token()) else { continue };
                if download.on_readable()? {
                    let Some(download) = self.downloads.remove(&event.token()) else { continue };
                    let poem = String::from_utf8(download.received).map_err(io::Error::other)?;
                    (download.on_finished)(poem);
                }
            }
        }
        Ok(())
    }
}

impl Download {
    /// `true`: that was the end.
    fn on_readable(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
