//! The other end: a greenlet per connection, too, and just as plain.
//!
//! Each is a closed loop: it sends a request, waits for the answer, compares, sends the next. So there are always as many
//! requests under way as there are connections, and the latency is what this makes of it: connections divided by rate.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use switchgrass::net::TcpStream;
use switchgrass::{Greenlet, Handle, current, park_timeout, spawn, unblock};

use crate::common::{Failure, LiveLine, grouped, process, signals, size};

const REQUEST: usize = 64;
/// A server that has not answered for so long will not do it any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all clients share. They run on one thread, never at the same time, so cells will do: no atomics, no locks.
struct Run {
    stop: Cell<bool>,
    requests: Cell<u64>,
    /// In microseconds, since the last line of progress.
    latencies: RefCell<Histogram<u64>>,
}

/// One client, from its first request after `connect` to the end.
fn client(run: &Run, id: usize, mut stream: TcpStream) -> io::Result<()> {
    let mut number = 0;
    while !run.stop.get() {
        number += 1;
        let sent = Instant::now();
        ask(&mut stream, id, number)?;
        if !run.stop.get() {
            run.requests.set(run.requests.get() + 1);
            run.latencies.borrow_mut().saturating_record(sent.elapsed().as_micros() as u64);
        }
    }
    Ok(())
}

/// Opens a connection, and has one request answered: then the server has it, too.
fn connect(server: SocketAddr, id: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(&mut stream, id, 0)?;
    Ok(stream)
}

/// Sends a request unlike any other, and checks that the same comes back.
fn ask(stream: &mut TcpStream, id: usize, number: u64) -> io::Result<()> {
    let mut request = [number as u8 ^ id as u8; REQUEST];
    request[..8].copy_from_slice(&(id as u64).to_le_bytes());
    request[8..16].copy_from_slice(&number.to_le_bytes());
    stream.write_all(&request)?;

    let mut answer = [0; REQUEST];
    stream.read_exact(&mut answer)?;
    if answer != request {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
    }
    Ok(())
}

pub(crate) fn run(servers: &[SocketAddr], connections: usize, length: Duration) -> Result<ExitCode, Failure> {
    process::raise_descriptor_limit();
    signals::leave_ctrl_c_to_parent()?;
    let run =
        Rc::new(Run { stop: Cell::new(false), requests: Cell::new(0), latencies: RefCell::new(histogram()) });
    stop_with_stdin(Rc::clone(&run), current());
    let mut progress = Progress::new();

    let opened = Instant::now();
    let mut open = Vec::with_capacity(connections);
    let mut failures = Failures::default();
    // A hundred at a time, that the server's queue of new connections does not overflow.
    for first in (0..connections).step_by(100) {
        let batch = (first..connections.min(first + 100)).map(|id| {
            let server = servers[id % servers.len()];
            (id, spawn(move || connect(server, id)))
        });
        for (id, greenlet) in batch.collect::<Vec<_>>() {
            open.extend(failures.sort_out(id, greenlet).map(|stream| (id, stream)));
        }
        progress.connecting(open.len());
        if run.stop.get() {
            break;
        }
    }
    progress.connected(open.len(), opened.elapsed());

    let live = open.len();
    let clients: Vec<_> = open
        .into_iter()
        .map(|(id, stream)| {
            let run = Rc::clone(&run);
            (id, spawn(move || client(&run, id, stream)))
        })
        .collect();
    let (start, cpu_before) = (Instant::now(), process::cpu_time(parent_id()));
    let mut latencies = histogram();
    while !run.stop.get() && start.elapsed() < length {
        let second = Instant::now();
        // The end of stdin cuts it short.
        park_timeout(Duration::from_secs(1).min(length.saturating_sub(start.elapsed())));
        let of_second = run.latencies.replace(histogram());
        let alive = clients.iter().filter(|(_, client)| !client.is_ready()).count();
        progress.running(start.elapsed(), alive, second.elapsed(), &of_second);
        latencies += of_second;
        if alive == 0 {
            break;
        }
    }
    let (took, cpu) = (start.elapsed(), process::cpu_time(parent_id()).saturating_sub(cpu_before));
    let memory = progress.memory(live);
    run.stop.set(true);
    for (id, client) in clients {
        failures.sort_out(id, client);
    }
    progress.line.end();

    let requests = run.requests.get();
    let bytes = grouped(requests * REQUEST as u64);
    let per_request = cpu.as_secs_f64() * 1e6 / requests.max(1) as f64;
    say!("");
    say!("  connections   {live} of {connections}, {} failed", failures.count);
    say!("  requests      {} in {:.1} s: {}", grouped(requests), took.as_secs_f64(), rate(requests, took));
    say!("  latency       {}, max {}", quantiles(&latencies), millis(latencies.max()));
    say!("  verified      {bytes} bytes each way, every one compared");
    say!("  server        {memory}, {:.1} s of CPU: {per_request:.1} µs per request", cpu.as_secs_f64());
    match failures.first {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            Err(Failure::new(format!("{} of {connections} connections failed; {error}", failures.count)))
        }
    }
}

/// When the parent closes our stdin, or is gone, the run is over.
fn stop_with_stdin(run: Rc<Run>, waiting: Handle) {
    spawn(move || {
        // A pipe that is read by std blocks, so another thread does it.
        let _ = unblock(|| io::copy(&mut io::stdin().lock(), &mut io::sink()));
        run.stop.set(true);
        waiting.unpark();
    });
}

#[derive(Default)]
struct Failures {
    count: usize,
    first: Option<String>,
}

impl Failures {
    /// Waits for a greenlet. `None`: it failed, which is noted.
    fn sort_out<T>(&mut self, id: usize, greenlet: Greenlet<io::Result<T>>) -> Option<T> {
        let error = match greenlet.join() {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => format!("the first: connection {id}: {error}"),
            Err(_) => format!("the first: connection {id} panicked"),
        };
        self.count += 1;
        self.first.get_or_insert(error);
        None
    }
}

struct Progress {
    line: LiveLine,
    last: Instant,
    memory_before: u64,
}

impl Progress {
    fn new() -> Self {
        let memory_before = process::resident(parent_id());
        Progress { line: LiveLine::new(), last: Instant::now(), memory_before }
    }

    fn connecting(&mut self, open: usize) {
        if self.last.elapsed() >= Duration::from_secs(1) {
            self.last = Instant::now();
            self.line.show(&format!("connecting: {open:6}   {}", self.memory(open)));
        }
    }

    fn connected(&self, open: usize, took: Duration) {
        self.line.show(&format!("{open} connections in {:.1} s, {}", took.as_secs_f64(), self.memory(open)));
        self.line.end();
    }

    fn running(&self, at: Duration, open: usize, second: Duration, latencies: &Histogram<u64>) {
        self.line.show(&format!(
            "{:4.1} s   {open} connections   {}   {}   {}",
            at.as_secs_f64(),
            rate(latencies.len(), second),
            quantiles(latencies),
            self.memory(open)
        ));
    }

    /// The server's. Its clients are in another process, so what came with the connections is what it has for them.
    fn memory(&self, open: usize) -> String {
        let now = process::resident(parent_id());
        let each = now.saturating_sub(self.memory_before) / open.max(1) as u64;
        format!("RSS {} ({} per connection)", size(now), size(each))
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(PATIENCE.as_micros() as u64, 3).expect("three digits of half a minute")
}

fn rate(requests: u64, time: Duration) -> String {
    format!("{} requests/s", grouped((requests as f64 / time.as_secs_f64()) as u64))
}

fn quantiles(latencies: &Histogram<u64>) -> String {
    let at = |quantile| millis(latencies.value_at_quantile(quantile));
    format!("p50 {}, p99 {}", at(0.5), at(0.99))
}

fn millis(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}
