//! Ten thousand connections on one hub, and what they cost: memory while they are idle, and the rate when all of them ask.
//!
//! ```text
//! cargo run --release --example c10k
//! cargo run --release --example c10k -- --connections 19000
//! ```
//!
//! Takes about five seconds. Each connection is a greenlet, with a stack of its own, that waits in an ordinary `read`. The stack
//! reserves 256 KiB of addresses, and takes memory page by page for what is used of it: here it is one page of 4 KiB. Pages of
//! greenlets that have ended are kept for the next ones. (The kernel's own memory for sockets is not in a process's RSS.)
//!
//! Both ends of a connection need a descriptor, so the clients are a process of their own: this program once more. It
//! does what it is told over its stdin, and tells on its stdout when it is done.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::Arg::{Long, Short};
use switchgrass::net::TcpStream;
use switchgrass::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use switchgrass::spawn;

#[macro_use]
mod common;

use common::{Failure, grouped, number, process, size};
use switchgrass::server::StreamServer;

const HELP: &str = "\
Holds many connections, and shows what they cost.

  --connections N   how many [10000]
  --seconds S       how long all of them send requests [3]
  --help            this
";

/// The port of one address can take 28,000 connections from this machine, and is slow when half of that is taken.
const CONNECTIONS_PER_ADDRESS: usize = 10_000;

/// Sends back what comes, eight bytes at a time.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut number = [0; 8];
    loop {
        stream.read_exact(&mut number)?;
        stream.write_all(&number)?;
    }
}

fn main() -> ExitCode {
    common::finish(run())
}

fn run() -> Result<ExitCode, Failure> {
    let (mut connections, mut seconds, mut clients_of) = (10_000, 3, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("connections") => connections = number(&mut parser, "connections", 1, 1_000_000)?,
            Long("seconds") => seconds = number(&mut parser, "seconds", 1, 3600)?,
            Long("clients") => clients_of = Some(parser.value()?.to_string_lossy().into_owned()),
            Long("help") | Short('h') => {
                common::print(format_args!("{HELP}"));
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    let length = Duration::from_secs(seconds as u64);
    match clients_of {
        None => hold(connections, length),
        Some(list) => {
            let addrs: Result<Vec<_>, _> = list.split(',').map(str::parse).collect();
            clients(&addrs.map_err(|_| Failure::usage("--clients needs addresses"))?, connections, length)
        }
    }
}

/// The servers' side: serves, and looks at itself.
fn hold(connections: usize, length: Duration) -> Result<ExitCode, Failure> {
    let connections = process::affordable(connections)?;
    let mut servers = Vec::new();
    for i in 0..connections.div_ceil(CONNECTIONS_PER_ADDRESS) {
        let server = StreamServer::bind(SocketAddr::from(([127, 0, 0, 1 + i as u8], 0)), |stream, _peer| {
            // At the end of the stream, this is an error, too.
            let _ = answer(stream);
        })?;
        server.start();
        servers.push(server);
    }
    let held = || servers.iter().map(StreamServer::connections).sum::<usize>();
    let addrs: Vec<String> = servers.iter().map(|server| server.local_addr().to_string()).collect();

    let me = std::process::id();
    let empty = process::resident(me);
    let memory = |what: &str| {
        let (now, held) = (process::resident(me), held());
        let each = match held {
            0 => String::new(),
            _ => format!("   {:>8} each", size(now.saturating_sub(empty) / held as u64)),
        };
        say!("{what:16} {held:>6} connections   RSS {:>9}{each}", size(now));
    };
    memory("at first");

    let mut clients = Clients::start(&addrs.join(","), connections, length)?;
    let opened = clients.next("open")?;
    memory("connected, idle");

    let cpu_before = process::cpu_time(me);
    let asked = clients.next("ask")?;
    let cpu = (process::cpu_time(me) - cpu_before).as_secs_f64();
    memory("after requests");

    clients.next("close")?;
    let status = clients.wait()?;
    for server in &servers {
        server.stop(Duration::from_secs(5));
    }
    memory("all closed");

    say!("");
    say!("connecting   {:.1} s, {} connections per second", opened.seconds(), opened.rate());
    say!("requests     {} in {:.1} s over all connections in turn", grouped(asked.count), asked.seconds());
    say!("             {} per second", asked.rate());
    say!("CPU          {:.1} µs of this process per request", cpu * 1e6 / asked.count.max(1) as f64);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the other process has done, and how long it took.
struct Done {
    count: u64,
    micros: u64,
}

impl Done {
    fn seconds(&self) -> f64 {
        self.micros as f64 / 1e6
    }

    fn rate(&self) -> String {
        grouped((self.count as f64 / self.seconds()) as u64)
    }
}

struct Clients {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Clients {
    fn start(addrs: &str, connections: usize, length: Duration) -> Result<Clients, Failure> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--clients", addrs])
            .args(["--connections", &connections.to_string()])
            .args(["--seconds", &length.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start the clients: {error}")))?;
        let orders = child.stdin.take().expect("it is piped");
        let reports = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Clients { child, orders, reports })
    }

    /// Has the clients do something, and waits until it is done.
    fn next(&mut self, order: &str) -> Result<Done, Failure> {
        let gone = |_| Failure::new(format!("the clients have ended; they were to {order}"));
        writeln!(self.orders, "{order}").map_err(gone)?;
        // While this waits, the server serves.
        let mut line = String::new();
        self.reports.read_line(&mut line).map_err(gone)?;
        let numbers: Vec<u64> = line.split(' ').flat_map(|word| word.trim().parse()).collect();
        match numbers[..] {
            [count, micros] => Ok(Done { count, micros }),
            // Why, they say themselves.
            _ => Err(gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn wait(mut self) -> io::Result<ExitStatus> {
        drop(self.orders);
        self.child.wait()
    }
}

/// The clients' side.
fn clients(servers: &[SocketAddr], connections: usize, length: Duration) -> Result<ExitCode, Failure> {
    process::raise_descriptor_limit();
    let mut streams = Vec::new();
    for order in io::stdin().lines() {
        let start = Instant::now();
        let count = match order?.as_str() {
            "open" => {
                streams = open(servers, connections)?;
                connections as u64
            }
            "ask" => {
                let requests: u64;
                (streams, requests) = ask(streams, length)?;
                requests
            }
            _ => {
                streams = Vec::new();
                connections as u64
            }
        };
        say!("{count} {}", start.elapsed().as_micros());
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens all connections, a hundred at a time, that the server's queue of new ones does not overflow.
fn open(servers: &[SocketAddr], connections: usize) -> Result<Vec<TcpStream>, Failure> {
    let mut streams = Vec::with_capacity(connections);
    while streams.len() < connections {
        let batch = streams.len()..connections.min(streams.len() + 100);
        let opening: Vec<_> = batch
            .map(|id| {
                let server = servers[id % servers.len()];
                spawn(move || {
                    let mut stream = TcpStream::connect(server)?;
                    stream.set_nodelay(true)?;
                    // Once it answers, it is there.
                    request(&mut stream, 0)?;
                    io::Result::Ok(stream)
                })
            })
            .collect();
        for greenlet in opening {
            let stream = greenlet.join().expect("no panic");
            streams.push(stream.map_err(|error| {
                Failure::new(format!("connection {} of {connections}: {error}", streams.len() + 1))
            })?);
        }
    }
    Ok(streams)
}

/// All connections send requests, one after the other each. Gives the number of right answers.
fn ask(streams: Vec<TcpStream>, length: Duration) -> Result<(Vec<TcpStream>, u64), Failure> {
    let end = Instant::now() + length;
    let asking: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            spawn(move || {
                let mut answers = 0;
                while Instant::now() < end {
                    answers += 1;
                    request(&mut stream, answers)?;
                }
                io::Result::Ok((stream, answers))
            })
        })
        .collect();
    let (mut streams, mut requests) = (Vec::new(), 0);
    for greenlet in asking {
        let (stream, answers) = greenlet.join().expect("no panic")?;
        streams.push(stream);
        requests += answers;
    }
    Ok((streams, requests))
}

fn request(stream: &mut TcpStream, number: u64) -> io::Result<()> {
    let mut answer = [0; 8];
    stream.write_all(&number.to_le_bytes())?;
    stream.read_exact(&mut answer)?;
    if answer != number.to_le_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
    }
    Ok(())
}
