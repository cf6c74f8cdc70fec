//! The load generator: closed loops over many connections, every byte of every answer compared, latencies counted.
//!
//! `load echo|http --addr 127.0.0.1:7000 --connections 64 --millis 3000 --pid SERVER` prints one line of JSON. One thread on mio, so
//! that it costs as little as it can and all servers meet the same one. `client_cores` and `server_cores` tell who was the limit.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const ECHO: usize = 64;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
/// The largest answer of a server that says nothing but hello.
const LARGEST: usize = 1024;

fn main() {
    let line =
        run().unwrap_or_else(|why| format!("{{\"work\": \"load\", \"value\": null, \"error\": {why:?}}}"));
    println!("{line}");
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn run() -> Result<String, String> {
    let mut args = std::env::args().skip(1);
    let protocol = args.next().unwrap_or_default();
    let mut keys = HashMap::new();
    while let (Some(key), Some(value)) = (args.next(), args.next()) {
        keys.insert(key.trim_start_matches("--").to_owned(), value);
    }
    let number = |key: &str, default: u64| -> Result<u64, String> {
        keys.get(key).map_or(Ok(default), |text| text.parse().map_err(|_| format!("--{key} needs a number")))
    };
    let http = match protocol.as_str() {
        "echo" => false,
        "http" => true,
        _ => return Err("usage: load echo|http --addr A --connections N --millis MS --pid PID".to_owned()),
    };
    let addr = keys.get("addr").map_or("127.0.0.1:7000", String::as_str);
    let (connections, pid) = (number("connections", 64)? as usize, number("pid", 0)?);
    let measured = Duration::from_millis(number("millis", 3000)?);

    let mut poll = Poll::new().map_err(text)?;
    let mut events = Events::with_capacity(1024);
    let mut clients = Vec::with_capacity(connections);
    for i in 0..connections {
        let stream = std::net::TcpStream::connect(addr).map_err(|e| format!("connection {i}: {e}"))?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_nonblocking(true).map_err(text)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(i), Interest::READABLE).map_err(text)?;
        clients.push(Client { stream, sent: Instant::now(), count: 0, got: 0, answer: [0; LARGEST] });
    }
    let mut protocol = if http { Protocol::Http { known: Vec::new() } } else { Protocol::Echo };
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(&protocol, i)?;
    }
    let mut latencies = Histogram::<u64>::new_with_max(60_000_000_000, 3).map_err(text)?;
    // Warm for a fifth of the time, then measure.
    let warm = Instant::now() + measured / 5;
    let mut since: Option<(Instant, f64, f64)> = None;
    loop {
        poll.poll(&mut events, Some(Duration::from_secs(10))).map_err(text)?;
        if events.is_empty() {
            return Err("no answer for 10 seconds".to_owned());
        }
        for event in &events {
            let i = event.token().0;
            if clients[i].receive(&mut protocol, i)? {
                if since.is_some() {
                    latencies.saturating_record(clients[i].sent.elapsed().as_nanos() as u64);
                }
                clients[i].send(&protocol, i)?;
            }
        }
        let now = Instant::now();
        match since {
            None if now >= warm => since = Some((now, cpu_ms("self")?, server_cpu_ms(pid)?)),
            Some((start, client, server)) if now.duration_since(start) >= measured => {
                let wall_ms = now.duration_since(start).as_secs_f64() * 1000.0;
                let (client, server) = (cpu_ms("self")? - client, server_cpu_ms(pid)? - server);
                let requests = latencies.len() as f64;
                let us = |q| latencies.value_at_quantile(q) as f64 / 1000.0;
                return Ok(format!(
                    "{{\"work\": \"load\", \"value\": {:.3}, \"unit\": \"us of server CPU/request\", \
                     \"requests_per_second\": {:.0}, \"p50_us\": {:.1}, \"p90_us\": {:.1}, \"p99_us\": {:.1}, \
                     \"p999_us\": {:.1}, \"max_us\": {:.1}, \"client_cores\": {:.2}, \"server_cores\": {:.2}}}",
                    server * 1000.0 / requests,
                    requests * 1000.0 / wall_ms,
                    us(0.5),
                    us(0.9),
                    us(0.99),
                    us(0.999),
                    us(1.0),
                    client / wall_ms,
                    server / wall_ms,
                ));
            }
            _ => {}
        }
    }
}

fn server_cpu_ms(pid: u64) -> Result<f64, String> {
    if pid == 0 { Ok(0.0) } else { cpu_ms(&pid.to_string()) }
}

/// User and system milliseconds of a process, in clock ticks of 10 ms.
fn cpu_ms(process: &str) -> Result<f64, String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))
        .map_err(|error| format!("process {process}: {error}"))?;
    // After the name, which may hold anything, come the fields from the third on; these are the 14th and the 15th.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) * 10.0)
}

enum Protocol {
    /// The same 64 bytes come back: the number of the request, then the number of the connection.
    Echo,
    /// `known`: the last answer that was taken apart and found right. An equal one is right too, and costs one comparison; servers
    /// that send the date send another one each second.
    Http { known: Vec<u8> },
}

struct Client {
    stream: TcpStream,
    sent: Instant,
    count: u64,
    got: usize,
    answer: [u8; LARGEST],
}

fn echo_request(count: u64, i: usize) -> [u8; ECHO] {
    let mut request = [i as u8; ECHO];
    request[..8].copy_from_slice(&count.to_le_bytes());
    request
}

impl Client {
    fn send(&mut self, protocol: &Protocol, i: usize) -> Result<(), String> {
        self.count += 1;
        self.got = 0;
        self.sent = Instant::now();
        let (sent, should) = match protocol {
            Protocol::Echo => (self.stream.write(&echo_request(self.count, i)), ECHO),
            Protocol::Http { .. } => (self.stream.write(GET), GET.len()),
        };
        match sent.map_err(text)? {
            sent if sent == should => Ok(()),
            sent => Err(format!("the socket of connection {i} took {sent} bytes of {should}")),
        }
    }

    /// `true`: the answer is complete, and right.
    fn receive(&mut self, protocol: &mut Protocol, i: usize) -> Result<bool, String> {
        loop {
            match self.stream.read(&mut self.answer[self.got..]) {
                Ok(0) => return Err(format!("the server has closed connection {i}, or sent too much")),
                Ok(len) => self.got += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(text(error)),
            }
            let answer = &self.answer[..self.got];
            let complete = match protocol {
                Protocol::Echo => {
                    let request = echo_request(self.count, i);
                    if self.got > ECHO || *answer != request[..self.got] {
                        return Err(format!("connection {i}: what has come back is not what was sent"));
                    }
                    self.got == ECHO
                }
                Protocol::Http { known } if answer == known.as_slice() => true,
                Protocol::Http { known } => {
                    let right = hello(answer)?;
                    if right {
                        *known = answer.to_vec();
                    }
                    right
                }
            };
            if complete {
                return Ok(true);
            }
        }
    }
}

/// `false`: more is to come. An error: this is not what BENCH.md asks for.
fn hello(answer: &[u8]) -> Result<bool, String> {
    let wrong = |what: &str| Err(format!("{what}: {}", answer.escape_ascii()));
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(answer) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(false),
        Err(error) => return wrong(&text(error)),
    };
    if response.code != Some(200) || response.version != Some(1) {
        return wrong("not HTTP/1.1 200");
    }
    let header = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    if header("content-length") != Some(b"13") {
        return wrong("Content-Length is not 13");
    }
    if !header("content-type").is_some_and(|value| value.starts_with(b"text/plain")) {
        return wrong("Content-Type is not text/plain");
    }
    let body = &answer[head..];
    if !b"Hello, World!".starts_with(body) {
        return wrong("the body is not Hello, World!");
    }
    Ok(body.len() == 13)
}
