//! Several processes serve one listener, to use all cores, and a parent starts those again that die.
//!
//! ```text
//! cargo run --release --example prefork
//! ```
//!
//! shows that, with a client in a process of its own: it has two workers serve it at once, makes one of them die, is
//! served by the next one in its place, and then stops all of them by a SIGTERM to the parent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{self, Command};
use std::time::Duration;

use switchgrass::server::{Prefork, StreamServer, Worker};

fn main() -> io::Result<()> {
    if let [address, parent] = &std::env::args().skip(1).collect::<Vec<_>>()[..] {
        return client(address, parent);
    }

    // Before the workers are forked, so that all of them have it. And before anything starts a thread,
    // for then nothing could be forked.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = Command::new(std::env::current_exe()?)
        .args([listener.local_addr()?.to_string(), process::id().to_string()])
        .spawn()?;

    let done = Prefork::new(2).grace(Duration::from_secs(5)).run(|worker| serve(worker, &listener))?;
    println!("parent: all have ended; restarts: {}, had to be killed: {}", done.restarts, done.killed);
    assert!(client.wait()?.success());
    Ok(())
}

/// What a worker does: an ordinary server, on a hub of its own.
fn serve(worker: Worker, listener: &TcpListener) -> io::Result<()> {
    let server = StreamServer::new(listener.try_clone()?, move |stream, _peer| {
        let _ = answer(worker, &mut BufReader::new(&stream), &mut &stream);
    })?;
    // One connection each is very little. Here it makes sure that the second connection is the other worker's. That a
    // worker takes but one at a time from the queue (`max_accept`) is right for all listeners that are shared.
    let server = server.max_connections(1).max_accept(1);
    // Until the parent tells it to stop. Then it accepts no more, and live connections have most of the grace time to end.
    worker.serve(&server)
}

/// Tells who it is, and again each time it is asked.
fn answer(worker: Worker, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<()> {
    let mut order = String::new();
    loop {
        writeln!(output, "worker {}, restarted {} times", worker.index(), worker.restarts())?;
        order.clear();
        if input.read_line(&mut order)? == 0 {
            return Ok(());
        }
        if order == "die\n" {
            // What a bug might do. A panic would not suffice: it ends one connection.
            process::exit(1);
        }
    }
}

/// The process that is served.
fn client(address: &str, parent: &str) -> io::Result<()> {
    let mut one = Connection::open(address)?;
    let mut other = Connection::open(address)?;
    // Which of the workers was quicker is chance.
    if one.greeting > other.greeting {
        std::mem::swap(&mut one, &mut other);
    }
    println!("client: at once served by\n  {}\n  {}", one.greeting, other.greeting);

    one.stream.write_all(b"die\n")?;
    assert_eq!(one.stream.read(&mut [0])?, 0);
    println!("client: one of them is gone");
    // The other one has its hands full, so this is served by whoever takes the place of the first.
    let again = Connection::open(address)?;
    println!("client: now served by\n  {}", again.greeting);

    println!("client: stops the parent");
    let killed = Command::new("kill").args(["-TERM", parent]).status()?;
    assert!(killed.success());
    Ok(())
}

struct Connection {
    stream: TcpStream,
    greeting: String,
}

impl Connection {
    fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(Connection { stream, greeting: line.trim_end().to_owned() })
    }
}
