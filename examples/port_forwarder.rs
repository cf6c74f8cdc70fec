//! Forwards TCP connections, both ways, and stops gracefully: on SIGTERM it accepts no more, but a live connection still
//! delivers its last bytes.
//!
//! ```text
//! cargo run --release --example port_forwarder
//! ```
//!
//! shows that: it starts an echo server and, in a process of its own, a forwarder to it, and ends the
//! forwarder while a client talks.
//!
//! ```text
//! cargo run --release --example port_forwarder -- 127.0.0.1:8080 example.org:80
//! ```
//!
//! forwards from the first address to the second, until Ctrl-C.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use switchgrass::io::copy_bidirectional;
use switchgrass::net::{TcpStream, ToSocketAddrs};
use switchgrass::process::{Child, ChildStdout, Command, Stdio};
use switchgrass::server::{Stopped, StreamServer};
use switchgrass::signal::{self, SIGINT, SIGTERM};

#[macro_use]
mod common;

use common::Failure;

/// One connection: two directions, each a loop of blocking calls in a greenlet. When one ends, the
/// other may still have much to say.
fn forward(client: &TcpStream, target: &[SocketAddr]) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    copy_bidirectional(client, &server).map(drop)
}

/// Forwards until SIGINT or SIGTERM.
fn serve(listen: &str, target: &str, grace: Duration) -> Result<(), Failure> {
    let cannot = |what: &str, error: io::Error| {
        let text = format!("cannot {what}: {error}");
        if error.kind() == io::ErrorKind::InvalidInput { Failure::usage(text) } else { Failure::new(text) }
    };
    let targets: Vec<_> =
        target.to_socket_addrs().map_err(|error| cannot(&format!("forward to {target}"), error))?.collect();
    let server = StreamServer::bind(listen, move |client, peer| {
        if let Err(error) = forward(&client, &targets) {
            complain!("connection from {peer}: {error}");
        }
    })
    .map_err(|error| cannot(&format!("listen on {listen}"), error))?;
    server.start();
    say!("forwarding {} to {target}", server.local_addr());

    signal::wait(&[SIGINT, SIGTERM])?;
    server.close();
    say!("the listener is closed, live connections: {}", server.connections());
    let Stopped { finished, killed } = server.stop(grace);
    say!("ended by themselves: {finished}, cut off after {} s: {killed}", grace.as_secs());
    Ok(())
}

// ---- The program ------------------------------------------------------------------------------------------------------

const HELP: &str = "\
Forwards TCP connections: port_forwarder [--grace SECONDS] LISTEN TARGET

Without arguments, shows with an echo server and a client how it stops.

  LISTEN            the address to listen on, such as 127.0.0.1:8080
  TARGET            where to forward to, such as example.org:80
  --grace SECONDS   how long live connections have to end after SIGINT or SIGTERM [10]
  --help            this
";

fn main() -> ExitCode {
    common::finish(run())
}

fn run() -> Result<ExitCode, Failure> {
    use lexopt::prelude::*;
    let mut addresses: Vec<String> = Vec::new();
    let mut grace = 10;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("grace") => grace = common::number(&mut arguments, "grace", 0, 3600)?,
            Long("help") | Short('h') => {
                common::print(format_args!("{HELP}"));
                return Ok(ExitCode::SUCCESS);
            }
            Value(address) if addresses.len() < 2 => addresses.push(address.string()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    match addresses.as_slice() {
        [] => demo()?,
        [listen, target] => serve(listen, target, Duration::from_secs(grace as u64))?,
        _ => {
            return Err(Failure::usage(
                "there is an address to listen on, but none to forward to; see --help",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

// ---- The demo ---------------------------------------------------------------------------------------------------------

fn demo() -> Result<(), Failure> {
    let echo = StreamServer::bind("127.0.0.1:0", |stream, _| {
        let _ = io::copy(&mut &stream, &mut &stream);
    })?;
    echo.start();
    let mut forwarder = Command::new(std::env::current_exe()?)
        .args(["127.0.0.1:0", &echo.local_addr().to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let result = talk(&mut forwarder);
    if result.is_err() {
        let _ = forwarder.kill();
    }
    let status = forwarder.wait()?;
    result?;
    say!("forwarder: {status}");
    if status.success() { Ok(()) } else { Err(Failure::new("the forwarder has failed")) }
}

fn talk(forwarder: &mut Child) -> Result<(), Failure> {
    let mut output = BufReader::new(forwarder.stdout.take().expect("stdout is a pipe"));
    let first = next_line(&mut output)?;
    let addr = first.split(' ').nth(1).unwrap_or_default().to_owned();

    let mut client = TcpStream::connect(&addr)?;
    // Should the forwarder fail, the demo is to fail, not to hang.
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    client.write_all(b"first bytes")?;
    say!("client: sent 'first bytes', got '{}' through the forwarder", read(&client, 11)?);

    forwarder.send_signal(SIGTERM)?;
    say!("SIGTERM");
    say!("forwarder: {}", next_line(&mut output)?);
    match TcpStream::connect(&addr) {
        Ok(_) => return Err(Failure::new("somebody still listens")),
        Err(error) => say!("another client: {}", error.kind()),
    }

    client.write_all(b"last bytes")?;
    client.shutdown(Shutdown::Write)?;
    let mut rest = String::new();
    client.read_to_string(&mut rest)?;
    say!("client: sent 'last bytes' and closed its side, got '{rest}' and then the end");
    say!("forwarder: {}", next_line(&mut output)?);
    Ok(())
}

fn read(mut stream: &TcpStream, len: usize) -> io::Result<String> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the forwarder prints next. While this waits for it, the echo server serves.
fn next_line(output: &mut BufReader<ChildStdout>) -> io::Result<String> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
