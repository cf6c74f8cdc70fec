//! Fetches from several HTTP servers at once, and prints of each answer the status line, the `Server` header and the size.
//!
//! ```text
//! cargo run --release --example web_fetch
//! cargo run --release --example web_fetch -- http://example.org http://127.0.0.1:8080/index.html
//! ```
//!
//! Without URLs it starts five small servers of its own. Each thinks for up to half a second, and so long, too, it takes to hear
//! from all five: a fetch is a greenlet, and `fetch` below a function that waits, as anybody would write it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::Arg::{Long, Short, Value};
use switchgrass::net::TcpStream;
use switchgrass::{sleep, spawn, timeout};

#[macro_use]
mod common;

use common::Failure;
use switchgrass::server::StreamServer;

/// What a fetch may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What we take of one answer.
const MOST_BYTES: u64 = 64 << 20;

struct Url {
    host: String,
    port: u16,
    path: String,
}

struct Answer {
    status: String,
    server: String,
    size: usize,
}

fn fetch(url: &Url) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((url.host.as_str(), url.port))?;
    let host = if url.port == 80 { url.host.clone() } else { format!("{}:{}", url.host, url.port) };
    let request = format!("GET {} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n", url.path);
    stream.write_all(request.as_bytes())?;

    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no answer in HTTP"))
}

/// `HTTP/1.0 200 OK`, headers, an empty line, and the page.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let (status, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
    let server = headers
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("server").then(|| value.trim().to_owned()));
    status.starts_with("HTTP/").then(|| Answer {
        status: status.to_owned(),
        server: server.unwrap_or_else(|| "(not named)".to_owned()),
        size: answer.len() - end - 4,
    })
}

/// Fetches all at once, and prints them in their order. `false`: one or more have failed.
fn fetch_all(urls: Vec<(String, Url)>) -> bool {
    let fetches: Vec<_> = urls
        .into_iter()
        .map(|(name, url)| (name, spawn(move || timeout(PATIENCE, || fetch(&url)))))
        .collect();
    let mut all_well = true;
    for (name, fetch) in fetches {
        // Within it: whether it panicked, whether it was in time, whether it worked.
        match fetch.join().expect("no panic") {
            Ok(Ok(Answer { status, server, size })) => {
                say!("{name}\n    {status}\n    Server: {server}\n    {size} bytes");
            }
            Ok(Err(error)) => {
                say!("{name}\n    failed: {error}");
                all_well = false;
            }
            Err(elapsed) => {
                say!("{name}\n    failed: {elapsed} ({} s)", PATIENCE.as_secs());
                all_well = false;
            }
        }
    }
    all_well
}

/// `http://host[:port][/path]`; the host may be `[::1]`.
fn parse_url(text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::usage(format!("{text}: {why}"));
    if text.starts_with("https://") {
        return Err(wrong("only http:// is spoken here"));
    }
    let rest = text.strip_prefix("http://").ok_or_else(|| wrong("a URL begins with http://"))?;
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("a URL has no spaces, and no letters beyond ASCII"));
    }
    let rest = rest.split('#').next().unwrap_or(rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| wrong("the port is no number below 65536"))?)
        }
        _ => (authority, 80),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('@') {
        return Err(wrong("a URL needs a host, and nothing else before the path"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(Url { host: host.to_owned(), port, path: format!("{slash}{path}") })
}

/// A server that thinks for a while, and then always says the same.
fn start_server(
    name: &'static str,
    status: &'static str,
    page: usize,
    thinks: Duration,
) -> io::Result<StreamServer> {
    let server = StreamServer::bind("127.0.0.1:0", move |stream, _peer| {
        let answer = || -> io::Result<()> {
            let mut request = BufReader::new(&stream).lines();
            while request.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            sleep(thinks);
            let page = "grass\n".repeat(page);
            let head =
                format!("HTTP/1.0 {status}\r\nServer: {name}\r\nContent-Length: {}\r\n\r\n", page.len());
            (&stream).write_all(head.as_bytes())?;
            (&stream).write_all(page.as_bytes())
        };
        // A client that has gone away misses it.
        let _ = answer();
    })?;
    server.start();
    Ok(server)
}

fn run() -> Result<ExitCode, Failure> {
    let mut urls = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(url) => {
                let url = url.to_string_lossy().into_owned();
                urls.push((url.clone(), parse_url(&url)?));
            }
            Long("help") | Short('h') => {
                say!(
                    "web_fetch [URL...]\n\nFetches the http:// URLs at once; without any, from servers of its own."
                );
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }

    let mut servers = Vec::new();
    if urls.is_empty() {
        for (name, status, page, thinks) in [
            ("meadow", "200 OK", 12, 300),
            ("prairie", "200 OK", 34_567, 500),
            ("lawn", "404 Not Found", 1, 100),
            ("steppe", "200 OK", 890, 400),
            ("marsh", "503 Service Unavailable", 0, 200),
        ] {
            let server = start_server(name, status, page, Duration::from_millis(thinks))?;
            let addr = server.local_addr();
            let url = Url { host: addr.ip().to_string(), port: addr.port(), path: "/".to_owned() };
            urls.push((name.to_owned(), url));
            servers.push(server);
        }
    }
    let start = Instant::now();
    let all_well = fetch_all(urls);
    // Not to stdout, which is the same in every run.
    complain!("{:.1} s", start.elapsed().as_secs_f64());
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    common::finish(run())
}
