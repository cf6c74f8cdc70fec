//! A socket server as plain blocking code: one OS thread, a greenlet for each of 10,000 connections.
//!
//! ```text
//! cargo run --release --example echo_server
//! ```
//!
//! starts the server together with its clients, which send requests for some seconds and check every byte that comes back.
//! The clients (`clients.rs`) are a process of their own, so that the memory and the CPU time shown are the server's.
//!
//! ```text
//! cargo run --release --example echo_server -- --listen 127.0.0.1:7000
//! ```
//!
//! only serves, for clients of yours (`nc 127.0.0.1 7000`), until Ctrl-C.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use switchgrass::net::TcpStream;
use switchgrass::process::{Command, Stdio};
use switchgrass::signal::{self, SIGINT, SIGTERM};
use switchgrass::spawn;

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod clients;
mod options;

use common::{Failure, process};
use options::{Mode, Options};
use switchgrass::server::StreamServer;

/// One connection. `read` and `write_all` wait for the client; the other 9,999 run meanwhile.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 1024];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..len])?;
    }
}

fn start(addr: impl switchgrass::net::ToSocketAddrs) -> io::Result<StreamServer> {
    let server = StreamServer::bind(addr, |stream, _peer| {
        // A connection that breaks is over; that is no concern of the others.
        let _ = echo(stream);
    })?;
    server.start();
    Ok(server)
}

fn main() -> ExitCode {
    common::finish(Options::parse().and_then(|options| match options.mode {
        Mode::Help => {
            common::print(format_args!("{}", options::HELP));
            Ok(ExitCode::SUCCESS)
        }
        Mode::Demo => demo(&options),
        Mode::Serve(addr) => serve(&addr, options.grace),
        Mode::Clients(servers) => clients::run(&servers, options.connections, options.length),
    }))
}

/// Serves until SIGINT or SIGTERM.
fn serve(addr: &str, grace: Duration) -> Result<ExitCode, Failure> {
    process::raise_descriptor_limit();
    let server = start(addr).map_err(|error| {
        let text = format!("cannot listen on {addr}: {error}");
        if error.kind() == io::ErrorKind::InvalidInput { Failure::usage(text) } else { Failure::new(text) }
    })?;
    // A server goes on even if nobody reads what it says.
    let _ = common::try_print(format_args!("echo server on {}, until Ctrl-C\n", server.local_addr()));

    signal::wait(&[SIGINT, SIGTERM])?;
    let _ = match server.connections() {
        0 => common::try_print(format_args!("stopping\n")),
        live => common::try_print(format_args!(
            "stopping: {live} live connections have {} s to end (Ctrl-C again: none)\n",
            grace.as_secs()
        )),
    };
    server.stop(grace);
    Ok(ExitCode::SUCCESS)
}

/// Serves the clients that it starts in another process, and ends with them.
fn demo(options: &Options) -> Result<ExitCode, Failure> {
    /// To one address of the server go 28,000 connections, the number of ports for clients; and when half of them are taken,
    /// Linux is slow to find one more. But all of 127.0.0.0/8 is this machine.
    const CONNECTIONS_PER_ADDRESS: usize = 10_000;
    let connections = process::affordable(options.connections)?;
    let servers = (0..connections.div_ceil(CONNECTIONS_PER_ADDRESS))
        .map(|i| start(SocketAddr::from(([127, 0, 0, 1 + i as u8], 0))))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| Failure::new(format!("cannot listen on the loopback interface: {error}")))?;
    let addrs: Vec<String> = servers.iter().map(|server| server.local_addr().to_string()).collect();
    say!(
        "echo server on {} (process {}): one OS thread, a greenlet per connection",
        addrs[0],
        std::process::id()
    );

    let mut clients = Command::new(std::env::current_exe()?)
        .args(["--clients", &addrs.join(",")])
        .args(["--connections", &connections.to_string()])
        .args(["--seconds", &options.length.as_secs().to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start the clients: {error}")))?;

    // They end early when this end of their stdin is closed: here, or because this process is gone.
    let stdin = clients.stdin.take();
    spawn(move || {
        signal::wait(&[SIGINT, SIGTERM])?;
        drop(stdin);
        io::Result::Ok(())
    });

    // This waits, and the server serves.
    let status = clients.wait()?;
    for server in &servers {
        server.stop(Duration::from_secs(1));
    }
    match status.code() {
        Some(code) => Ok(ExitCode::from(code as u8)),
        None => Err(Failure::new(format!("the clients have ended by {status}"))),
    }
}
