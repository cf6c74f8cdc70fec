//! The servers, and the client that loads them.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use switchgrass::hubs::Hubs;
use switchgrass::net::{TcpListener, TcpStream};
use switchgrass::{joinall_raise, spawn};

use super::{Keys, Outcome, check};

pub(crate) fn address(keys: &Keys) -> Result<SocketAddr, String> {
    let text = keys.text("addr", "127.0.0.1:7000");
    text.parse().map_err(|_| format!("--addr needs an address like 127.0.0.1:7000, not {text}"))
}

pub(crate) fn text(error: io::Error) -> String {
    error.to_string()
}

/// A greenlet per connection, plain blocking code.
pub(crate) fn echo(keys: &Keys) -> Outcome {
    serve(keys, serve_echo)
}

fn serve_echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..len])?;
    }
}

/// On this thread; with `--threads` above 1, each of so many hubs accepts from the one listener.
fn serve(keys: &Keys, handler: fn(TcpStream) -> io::Result<()>) -> Outcome {
    let listener = TcpListener::bind(address(keys)?).map_err(text)?;
    let accept = move |listener: TcpListener| -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept()?;
            spawn(move || handler(stream));
        }
    };
    let result = match keys.number("threads", 1) {
        1 => accept(listener),
        threads => {
            let hubs = Hubs::new(threads as usize).map_err(text)?;
            let on_each = hubs.broadcast(move |_| accept(listener.try_clone()?));
            joinall_raise(on_each).into_iter().collect()
        }
    };
    Err(result.map_or_else(text, |()| "the listener has ended".to_owned()))
}

/// The same by hand: one thread, a readiness loop, one read and one write per request. What the kernel alone costs.
pub(crate) fn echo_mio(keys: &Keys) -> Outcome {
    const LISTENER: Token = Token(usize::MAX);
    let mut listener = mio::net::TcpListener::bind(address(keys)?).map_err(text)?;
    let mut poll = Poll::new().map_err(text)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(text)?;
    let mut events = Events::with_capacity(1024);
    let mut streams: Vec<Option<mio::net::TcpStream>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(text)?,
        }
        for event in &events {
            if event.token() == LISTENER {
                loop {
                    let mut stream = match listener.accept() {
                        Ok((stream, _)) => stream,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(text(error)),
                    };
                    stream.set_nodelay(true).map_err(text)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        streams.push(None);
                        streams.len() - 1
                    });
                    poll.registry().register(&mut stream, Token(slot), Interest::READABLE).map_err(text)?;
                    streams[slot] = Some(stream);
                }
                continue;
            }
            let slot = event.token().0;
            let Some(stream) = &mut streams[slot] else { continue };
            loop {
                let open = match stream.read(&mut buffer) {
                    Ok(0) => false,
                    // The clients of this benchmark wait for each answer, so there is always room for it.
                    Ok(len) => match stream.write(&buffer[..len]) {
                        // Less than the buffer holds: it is empty, the next event will tell of more.
                        Ok(written) if written == len && len < buffer.len() && !event.is_read_closed() => {
                            break;
                        }
                        Ok(written) if written == len => continue,
                        _ => false,
                    },
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => false,
                };
                if !open {
                    streams[slot] = None;
                    free.push(slot);
                    break;
                }
            }
        }
    }
}

/// HTTP/1.1 with keep-alive; several requests in one read are answered in one write.
pub(crate) fn http(keys: &Keys) -> Outcome {
    serve(keys, serve_http)
}

const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const BAD: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

fn serve_http(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut filled) = ([0; 4096], 0);
    let mut output = Vec::with_capacity(4096);
    loop {
        let len = stream.read(&mut input[filled..])?;
        if len == 0 {
            return Ok(());
        }
        filled += len;
        let (mut done, mut close) = (0, false);
        output.clear();
        while !close {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            match request.parse(&input[done..filled]) {
                Ok(httparse::Status::Complete(len)) => {
                    let hello = request.method == Some("GET") && request.path == Some("/");
                    output.extend_from_slice(if hello { HELLO } else { NOT_FOUND });
                    close = request.headers.iter().any(|h| {
                        h.name.eq_ignore_ascii_case("connection") && h.value.eq_ignore_ascii_case(b"close")
                    });
                    done += len;
                }
                Ok(httparse::Status::Partial) if done > 0 || filled < input.len() => break,
                _ => {
                    output.extend_from_slice(BAD);
                    close = true;
                }
            }
        }
        stream.write_all(&output)?;
        if close {
            return Ok(());
        }
        input.copy_within(done..filled, 0);
        filled -= done;
    }
}

/// User and system milliseconds of another process, in clock ticks of 10 ms.
fn cpu_of(pid: u64) -> Result<f64, String> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| format!("--pid {pid}: {e}"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of the whole line; the first two are cut off here.
    Ok((ticks(11) + ticks(12)) * 10.0)
}

const REQUEST: usize = 64;

/// A closed loop: each connection sends 64 bytes, waits for the same 64 bytes, sends the next. On mio, so that the client costs as
/// little as it can, and all servers meet the same one. The value is the server's CPU per request, if `--pid` names it.
pub(crate) fn load(keys: &Keys) -> Outcome {
    let (connections, seconds) = (keys.number("connections", 64) as usize, keys.number("seconds", 5));
    let pid = keys.number("pid", 0);
    raise_fd_limit();
    let addr = address(keys)?;
    let mut poll = Poll::new().map_err(text)?;
    let mut events = Events::with_capacity(1024);
    let mut clients: Vec<Client> = Vec::with_capacity(connections);
    for i in 0..connections {
        let stream = std::net::TcpStream::connect(addr).map_err(|e| format!("connection {i}: {e}"))?;
        stream.set_nodelay(true).map_err(text)?;
        stream.set_nonblocking(true).map_err(text)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(i), Interest::READABLE).map_err(text)?;
        clients.push(Client { stream, sent: Instant::now(), count: 0, got: 0, request: [i as u8; REQUEST] });
    }
    let mut latencies = Histogram::<u64>::new_with_max(60_000_000, 3).map_err(|e| e.to_string())?;
    for client in &mut clients {
        client.send()?;
    }
    // Warm for a fifth of the time, then measure.
    let warm = Instant::now() + Duration::from_millis(seconds * 200);
    let mut measured: Option<(Instant, f64)> = None;
    let mut requests = 0_u64;
    let cpu = |pid| if pid == 0 { Ok(0.0) } else { cpu_of(pid) };
    loop {
        poll.poll(&mut events, Some(Duration::from_secs(10))).map_err(text)?;
        if events.is_empty() {
            return Err("no answer for 10 seconds".to_owned());
        }
        let now = Instant::now();
        for event in &events {
            let client = &mut clients[event.token().0];
            if client.receive()? {
                if measured.is_some() {
                    requests += 1;
                    latencies.saturating_record(now.duration_since(client.sent).as_nanos() as u64 / 1000);
                }
                client.send()?;
            }
        }
        match measured {
            None if now >= warm => measured = Some((now, cpu(pid)?)),
            Some((start, cpu_before)) if now.duration_since(start) >= Duration::from_secs(seconds) => {
                let elapsed = now.duration_since(start).as_secs_f64();
                let cpu_ms = cpu(pid)? - cpu_before;
                let us = |q| latencies.value_at_quantile(q) as f64;
                let more = vec![
                    ("requests_per_second", (requests as f64 / elapsed).round()),
                    ("p50_us", us(0.5)),
                    ("p99_us", us(0.99)),
                ];
                return Ok((
                    (cpu_ms * 1e6 / requests as f64).round() / 1000.0,
                    "us of server CPU/request",
                    more,
                ));
            }
            _ => {}
        }
    }
}

struct Client {
    stream: mio::net::TcpStream,
    sent: Instant,
    count: u64,
    got: usize,
    request: [u8; REQUEST],
}

impl Client {
    fn send(&mut self) -> Result<(), String> {
        self.count += 1;
        self.request[..8].copy_from_slice(&self.count.to_le_bytes());
        self.sent = Instant::now();
        let sent = self.stream.write(&self.request).map_err(text)?;
        check("bytes sent at once", sent as u64, REQUEST as u64)
    }

    /// `true`: the answer is complete, and right.
    fn receive(&mut self) -> Result<bool, String> {
        let mut answer = [0; REQUEST];
        loop {
            match self.stream.read(&mut answer[..REQUEST - self.got]) {
                Ok(0) => return Err("the server has closed the connection".to_owned()),
                Ok(len) => {
                    if answer[..len] != self.request[self.got..self.got + len] {
                        return Err("the server has sent back something else".to_owned());
                    }
                    self.got += len;
                    if self.got == REQUEST {
                        self.got = 0;
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(text(error)),
            }
        }
    }
}

/// Connect, one request, close; one after the other. The value is the server's CPU per connection.
pub(crate) fn churn(keys: &Keys) -> Outcome {
    let (n, pid, addr) = (keys.number("n", 20_000), keys.number("pid", 0), address(keys)?);
    let once = |i: u64| -> io::Result<bool> {
        let mut stream = std::net::TcpStream::connect(addr)?;
        let request = [i as u8; REQUEST];
        stream.write_all(&request)?;
        let mut answer = [0; REQUEST];
        stream.read_exact(&mut answer)?;
        Ok(answer == request)
    };
    let mut wrong = 0;
    for i in 0..n / 10 {
        wrong += u64::from(!once(i).map_err(text)?);
    }
    let (start, before) = (Instant::now(), if pid == 0 { 0.0 } else { cpu_of(pid)? });
    for i in 0..n {
        wrong += u64::from(!once(i).map_err(text)?);
    }
    let cpu_ms = if pid == 0 { 0.0 } else { cpu_of(pid)? - before };
    check("wrong answers", wrong, 0)?;
    let rate = n as f64 / start.elapsed().as_secs_f64();
    Ok((
        (cpu_ms * 1e6 / n as f64).round() / 1000.0,
        "us of server CPU/connection",
        vec![("per_second", rate.round())],
    ))
}

fn raise_fd_limit() {
    // SAFETY: rlimit is plain data; the calls read and write it.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}
