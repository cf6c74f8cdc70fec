//! A chat room for lines of text, on `StreamServer`: a greenlet reads what a client says, another one writes what it hears.
//!
//! ```text
//! cargo run --release --example chat
//! ```
//!
//! opens a room, and has some clients talk in it.
//!
//! ```text
//! cargo run --release --example chat -- --listen 127.0.0.1:6000
//! ```
//!
//! is a room for you and your friends (`nc 127.0.0.1 6000`), until Ctrl-C. `/who` tells who is there, `/quit` leaves.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use switchgrass::net::TcpStream;
use switchgrass::server::StreamServer;
use switchgrass::signal::{self, SIGINT, SIGTERM};
use switchgrass::{Handle, park, scope};

#[macro_use]
mod common;

use common::Failure;

/// A client that is so many lines behind is too slow for this room.
const MAX_BEHIND: usize = 100;
/// A line that is longer than this counts as several.
const MAX_LINE: u64 = 1024;
/// How long the room waits, when it closes, for its last lines to be delivered.
const GRACE: Duration = Duration::from_secs(2);

/// Who is there, by name. Everything runs on one thread, so no lock is needed.
#[derive(Default)]
struct Room {
    members: RefCell<BTreeMap<String, Rc<Member>>>,
}

/// Somebody in the room.
struct Member {
    stream: Rc<TcpStream>,
    /// What this one is to hear.
    unsent: RefCell<VecDeque<Rc<str>>>,
    /// Set as soon as there is one.
    writer: OnceCell<Handle>,
    /// Nothing is added to `unsent` any more.
    leaving: Cell<bool>,
    too_slow: Cell<bool>,
}

/// A connection, from the first line to the last.
fn visit(room: &Room, stream: TcpStream) -> io::Result<()> {
    // However slow a client is, one that takes nothing for so long is gone.
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let stream = Rc::new(stream);
    let mut lines = BufReader::new(&*stream);
    let Some(name) = ask_for_name(room, &stream, &mut lines)? else { return Ok(()) };

    let member = Rc::new(Member {
        stream: Rc::clone(&stream),
        unsent: RefCell::default(),
        writer: OnceCell::new(),
        leaving: Cell::new(false),
        too_slow: Cell::new(false),
    });
    // However this ends (an error, a kill), the scope ends the writer, and the seat is given up.
    scope(|s| {
        let writer = s.spawn(|| deliver(&member));
        let _ = member.writer.set(writer.handle());
        let seat = Seat::take(room, &name, &member);
        while let Some(line) = read_line(&mut lines)? {
            match line.as_str() {
                "" => {}
                "/quit" => break,
                "/who" => member.hear(&format!("* here: {}", room.names())),
                _ => room.tell_all_but(&name, &format!("<{name}> {line}")),
            }
        }
        drop(seat);
        member.leave();
        Ok(())
    })
}

/// `None`: the client has left without a name.
fn ask_for_name(room: &Room, mut stream: &TcpStream, lines: &mut impl BufRead) -> io::Result<Option<String>> {
    stream.write_all(b"* your name?\n")?;
    while let Some(name) = read_line(lines)? {
        if name.is_empty() || name.contains(char::is_whitespace) {
            stream.write_all(b"* one word, please\n")?;
        } else if room.members.borrow().contains_key(&name) {
            stream.write_all(b"* that name is taken\n")?;
        } else {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The next line without its end; `None` if there is none. What is not UTF-8 is replaced.
fn read_line(lines: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let len = lines.take(MAX_LINE).read_until(b'\n', &mut line)?;
    Ok((len > 0).then(|| String::from_utf8_lossy(&line).trim().to_owned()))
}

/// Sends what a member is to hear. A greenlet of its own does it, so a slow client holds up nobody else.
fn deliver(member: &Member) {
    loop {
        let line = member.unsent.borrow_mut().pop_front();
        match line {
            Some(line) if (&*member.stream).write_all(line.as_bytes()).is_ok() => {}
            None if !member.leaving.get() => park(),
            _ => break,
        }
    }
    // Ends the reading, too.
    let _ = member.stream.shutdown(Shutdown::Both);
}

impl Member {
    /// Does not wait: that is up to the writer.
    fn hear(&self, line: &str) {
        if self.leaving.get() {
            return;
        }
        if self.unsent.borrow().len() == MAX_BEHIND {
            self.too_slow.set(true);
            self.leaving.set(true);
            // Whoever reads from the stream, or writes to it, is told at once.
            let _ = self.stream.shutdown(Shutdown::Both);
            return;
        }
        self.unsent.borrow_mut().push_back(format!("{line}\n").into());
        self.wake_writer();
    }

    fn leave(&self) {
        self.leaving.set(true);
        self.wake_writer();
    }

    fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

impl Room {
    fn tell_all_but(&self, name: &str, line: &str) {
        self.members.borrow().iter().filter(|(other, _)| *other != name).for_each(|(_, m)| m.hear(line));
    }

    fn names(&self) -> String {
        self.members.borrow().keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn close(&self) {
        for member in self.members.borrow().values() {
            member.hear("* the room closes");
            member.leave();
        }
    }
}

/// Somebody's place in the room; given up when dropped.
struct Seat<'a> {
    room: &'a Room,
    name: &'a str,
    member: &'a Member,
}

impl<'a> Seat<'a> {
    fn take(room: &'a Room, name: &'a str, member: &'a Rc<Member>) -> Self {
        room.members.borrow_mut().insert(name.to_owned(), Rc::clone(member));
        room.tell_all_but(name, &format!("* {name} comes in"));
        member.hear(&format!("* welcome, {name}; here: {}", room.names()));
        Seat { room, name, member }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let Seat { room, name, member } = self;
        room.members.borrow_mut().remove(*name);
        let how = if member.too_slow.get() { "is out: too slow" } else { "leaves" };
        room.tell_all_but(name, &format!("* {name} {how}"));
    }
}

// ---- The program ------------------------------------------------------------------------------------------------------

const HELP: &str = "\
A chat room for lines of text. Without --listen, some clients talk in a room of their own.

  --listen ADDR   a room on ADDR, such as 127.0.0.1:6000, until SIGINT or SIGTERM
  --help          this
";

fn main() -> ExitCode {
    common::finish(run())
}

fn run() -> Result<ExitCode, Failure> {
    use lexopt::prelude::*;
    let mut listen = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("listen") => listen = Some(arguments.value()?.string()?),
            Long("help") | Short('h') => {
                common::print(format_args!("{HELP}"));
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    match listen {
        Some(addr) => serve(&addr)?,
        None => demo()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(room: &Rc<Room>, addr: &str) -> Result<StreamServer, Failure> {
    let room = Rc::clone(room);
    let server = StreamServer::bind(addr, move |stream, _| {
        // A connection that breaks has left.
        let _ = visit(&room, stream);
    })
    .map_err(|error| {
        let text = format!("cannot listen on {addr}: {error}");
        if error.kind() == io::ErrorKind::InvalidInput { Failure::usage(text) } else { Failure::new(text) }
    })?;
    server.start();
    Ok(server)
}

fn serve(addr: &str) -> Result<(), Failure> {
    let room = Rc::default();
    let server = open(&room, addr)?;
    say!("chat room on {}, until Ctrl-C", server.local_addr());
    signal::wait(&[SIGINT, SIGTERM])?;
    server.close();
    room.close();
    server.stop(GRACE);
    Ok(())
}

// ---- The demo ---------------------------------------------------------------------------------------------------------

/// Three who talk, and one who does not listen.
fn demo() -> Result<(), Failure> {
    let room = Rc::default();
    let server = open(&room, "127.0.0.1:0")?;
    let addr = server.local_addr();

    let mut anna = Client::enter(addr, "anna")?;
    let mut ben = Client::enter(addr, "ben")?;
    anna.hears()?;
    let mut cleo = Client::enter(addr, "cleo")?;
    anna.hears()?;
    ben.hears()?;

    anna.says("hello, both of you")?;
    ben.hears()?;
    cleo.hears()?;
    cleo.says("hello, anna")?;
    anna.hears()?;
    ben.hears()?;
    ben.says("/who")?;
    ben.hears()?;
    cleo.says("/quit")?;
    anna.hears()?;
    ben.hears()?;

    let dora = Client::enter(addr, "dora")?;
    anna.hears()?;
    ben.hears()?;
    let out = anna.talks_until_dora_is_out(&mut ben)?;
    say!("-- dora reads nothing, and anna talks on and on: ben has heard every line, in order");
    say!("   ben hears:  {out}");
    anna.hears()?;
    drop(dora);

    server.close();
    room.close();
    ben.hears()?;
    anna.hears()?;
    server.stop(GRACE);
    say!(
        "-- the room is empty: {} connections, {} in all",
        server.connections(),
        server.statistics().accepted
    );
    Ok(())
}

struct Client {
    name: &'static str,
    lines: BufReader<TcpStream>,
}

impl Client {
    fn enter(addr: SocketAddr, name: &'static str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        // Should the room fail to answer, the demo is to fail, not to hang.
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut client = Client { name, lines: BufReader::new(stream) };
        say!("-- {name} connects");
        client.hears()?;
        client.says(name)?;
        client.hears()?;
        Ok(client)
    }

    fn says(&mut self, line: &str) -> io::Result<()> {
        say!("{}: {line}", self.name);
        self.send(line)
    }

    fn hears(&mut self) -> io::Result<()> {
        let line = self.receive()?;
        say!("   {} hears: {line}", self.name);
        Ok(())
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        self.lines.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    fn receive(&mut self) -> io::Result<String> {
        read_line(&mut self.lines)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Says line after line, each when `other` has heard the one before, until the room has enough of dora: gives the line in
    /// which it says so. How many there are to be depends on how much the kernel keeps for dora.
    fn talks_until_dora_is_out(&mut self, other: &mut Client) -> io::Result<String> {
        for number in 0.. {
            let line = format!("{number} {}", "blah ".repeat(180).trim_end());
            self.send(&line)?;
            let expected = format!("<{}> {line}", self.name);
            let heard = other.receive()?;
            if heard != expected {
                // The room's word comes between two lines.
                let last = other.receive()?;
                assert_eq!(last, expected, "no line is lost");
                return Ok(heard);
            }
        }
        unreachable!("dora is out sooner or later")
    }
}
