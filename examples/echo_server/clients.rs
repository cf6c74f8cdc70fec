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
use switchgrass::signal::{self, SIGINT};
use switchgrass::{Greenlet, Handle, current, park_timeout, spawn, unblock};

use crate::common::{Failure, LiveLine, grouped, process, size};

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
    // A terminal sends Ctrl-C to both processes. The server closes our stdin then.
    let _handler = signal::handle(SIGINT, || {})?;
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
        progress.connecting(open.len(), false);
        if run.stop.get() {
            break;
        }
    }
    let connecting = opened.elapsed();
    progress.connecting(open.len(), true);

    let live = open.len();
    let clients: Vec<_> = open
        .into_iter()
        .map(|(id, stream)| {
            let run = Rc::clone(&run);
            (id, spawn(move || client(&run, id, stream)))
        })
        .collect();
    progress.last = Instant::now();
    let (start, cpu_before) = (Instant::now(), process::cpu_time(progress.server));
    let mut latencies = histogram();
    while live > 0 && !run.stop.get() && start.elapsed() < length {
        // The end of stdin cuts it short.
        park_timeout(Duration::from_secs(1).min(length.saturating_sub(start.elapsed())));
        let of_second = run.latencies.replace(histogram());
        let alive = clients.iter().filter(|(_, client)| !client.is_ready()).count();
        if !run.stop.get() {
            progress.running(alive, &of_second);
        }
        latencies += of_second;
        if alive == 0 {
            break;
        }
    }
    let (took, cpu) = (start.elapsed(), process::cpu_time(progress.server).saturating_sub(cpu_before));
    let (memory, each) = progress.memory(live);
    run.stop.set(true);
    for (id, client) in clients {
        failures.sort_out(id, client);
    }
    progress.line.end();

    let requests = run.requests.get();
    let at = |quantile| millis(latencies.value_at_quantile(quantile));
    let (failed, cpu) = (failures.count, cpu.as_secs_f64());
    say!("");
    say!("connections  {live} of {connections} in {:.1} s, {failed} failed", connecting.as_secs_f64());
    say!(
        "requests     {} in {:.1} s: {} per second",
        grouped(requests),
        took.as_secs_f64(),
        rate(requests, took)
    );
    say!("latency      p50 {} ms, p99 {} ms, longest {} ms", at(0.5), at(0.99), millis(latencies.max()));
    say!("verified     {} bytes, which came back as they were sent", grouped(requests * REQUEST as u64));
    say!("memory       {} of the server, {} per connection", size(memory as u64), size(each as u64));
    say!("CPU          {cpu:.1} s of the server, {:.1} µs per request", cpu * 1e6 / requests.max(1) as f64);
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

/// The table that grows, or on a terminal the line that changes, while this runs.
struct Progress {
    line: LiveLine,
    start: Instant,
    last: Instant,
    /// The process that has started us.
    server: u32,
    memory_before: u64,
}

impl Progress {
    fn new() -> Self {
        say!("  time  connections  requests/s    p50 ms    p99 ms   RSS MiB  KiB/connection");
        let (server, now) = (parent_id(), Instant::now());
        let memory_before = process::resident(server);
        Progress { line: LiveLine::new(), start: now, last: now, server, memory_before }
    }

    /// A line if the last one is a second old, or if this one is what matters.
    fn connecting(&mut self, open: usize, always: bool) {
        if always || self.last.elapsed() >= Duration::from_secs(1) {
            self.row(open, ["-".to_owned(), "-".to_owned(), "-".to_owned()]);
        }
    }

    fn running(&mut self, open: usize, latencies: &Histogram<u64>) {
        let per_second = rate(latencies.len(), self.last.elapsed());
        let at = |quantile| millis(latencies.value_at_quantile(quantile));
        self.row(open, [per_second, at(0.5), at(0.99)]);
    }

    fn row(&mut self, open: usize, [rate, p50, p99]: [String; 3]) {
        self.last = Instant::now();
        let time = self.start.elapsed().as_secs_f64();
        let (memory, each) = self.memory(open);
        let (memory, each) = (memory / 1024.0 / 1024.0, each / 1024.0);
        self.line.show(&format!(
            "{time:4.1} s {open:12}  {rate:>10}  {p50:>8}  {p99:>8}  {memory:8.1}  {each:14.1}"
        ));
    }

    /// The server's, in bytes, and what came with the connections for each. The clients' own is in another process.
    fn memory(&self, open: usize) -> (f64, f64) {
        let now = process::resident(self.server);
        let more = now.saturating_sub(self.memory_before);
        (now as f64, more as f64 / open.max(1) as f64)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(PATIENCE.as_micros() as u64, 3).expect("three digits of half a minute")
}

fn rate(requests: u64, time: Duration) -> String {
    grouped((requests as f64 / time.as_secs_f64()) as u64)
}

fn millis(micros: u64) -> String {
    let digits = if micros < 10_000 { 2 } else { 1 };
    format!("{:.digits$}", micros as f64 / 1000.0)
}
