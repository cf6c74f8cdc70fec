//! The same ten downloads done six ways, from a server that takes its time.
//!
//! ```text
//! cargo run --release --example poetry
//! ```
//!
//! The server sends each poem line by line, with pauses. Whoever downloads one poem after the other waits for
//! the sum of all pauses; whoever downloads them at once waits for the slowest poem only. There are several ways
//! to do that, one file each: read `blocking.rs` first, and then `greenlets.rs`, which is the same code and
//! takes the time of the slowest poem.
//!
//! Takes about eight seconds. The lines of code are those of the files, without comments and empty lines; the CPU time
//! is that of the downloading side, the server is another process.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use switchgrass::net::TcpStream;
use switchgrass::{sleep, unblock};

mod blocking;
mod busy_loop;
mod callbacks;
mod greenlets;
mod poems;
mod processes;
mod threads;

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

use common::Failure;
use poems::{POEMS, Poem};
use switchgrass::server::StreamServer;

struct Way {
    name: &'static str,
    download_all: fn(&[SocketAddr]) -> io::Result<Vec<String>>,
    source: &'static str,
}

macro_rules! way {
    ($name:expr, $module:ident) => {
        Way {
            name: $name,
            download_all: $module::download_all,
            source: include_str!(concat!(stringify!($module), ".rs")),
        }
    };
}

const WAYS: [Way; 6] = [
    way!("blocking, one by one", blocking),
    way!("a process each", processes),
    way!("a thread each", threads),
    way!("busy loop", busy_loop),
    way!("callbacks", callbacks),
    way!("a greenlet each", greenlets),
];

fn main() -> ExitCode {
    common::finish(run())
}

fn run() -> Result<ExitCode, Failure> {
    // Without arguments, this is the program that the user starts. The two others are for itself.
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(),
        ["--serve"] => serve(),
        ["--download", addr] => {
            let addr = addr.parse().map_err(|_| Failure::usage("--download needs an address"))?;
            common::print(format_args!("{}", blocking::download(addr)?));
            Ok(ExitCode::SUCCESS)
        }
        ["-h" | "--help"] => {
            say!("Downloads ten poems in six ways, and compares them. No options.");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::usage("there are no options")),
    }
}

fn compare() -> Result<ExitCode, Failure> {
    let (mut server, addrs) = start_server()?;
    let times = POEMS.map(|poem| poem.duration());
    let (sum, slowest) = (times.iter().sum::<Duration>(), times.into_iter().max().unwrap_or_default());
    say!(
        "{} poems; the slowest takes {:.2} s, all together {:.2} s",
        POEMS.len(),
        slowest.as_secs_f64(),
        sum.as_secs_f64()
    );
    say!("");
    say!("way                    lines of code     time   CPU time");

    for way in WAYS {
        let (start, cpu_before) = (Instant::now(), cpu_time());
        let poems =
            (way.download_all)(&addrs).map_err(|error| Failure::new(format!("{}: {error}", way.name)))?;
        let (time, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu_before));
        if !poems.iter().eq(POEMS.iter().map(|poem| poem.text)) {
            return Err(Failure::new(format!("{}: these are not the poems that were sent", way.name)));
        }
        let lines = lines_of_code(way.source);
        say!("{:22} {lines:13} {:6.2} s {:7.1} ms", way.name, time.as_secs_f64(), cpu.as_secs_f64() * 1e3);
    }
    say!("");
    say!("Each got the same ten poems. The shortest of them:");
    say!("");
    let shortest = POEMS.iter().min_by_key(|poem| poem.text.len()).map_or("", |poem| poem.text);
    shortest.lines().for_each(|line| say!("{}", format!("    {line}").trim_end()));

    server.kill()?;
    server.wait()?;
    Ok(ExitCode::SUCCESS)
}

fn lines_of_code(source: &str) -> usize {
    source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// User and system time of this process and of the children that have ended.
fn cpu_time() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .map(|who| {
            // SAFETY: all-zero is a valid rusage, which is plain data; the call overwrites it.
            let usage = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                libc::getrusage(who, &mut usage);
                usage
            };
            [usage.ru_utime, usage.ru_stime]
                .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000))
                .iter()
                .sum::<Duration>()
        })
        .iter()
        .sum()
}

/// The server runs in a process of its own, and tells where each poem is to be had.
fn start_server() -> io::Result<(Child, Vec<SocketAddr>)> {
    let mut server = Command::new(env::current_exe()?)
        .arg("--serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(server.stdout.take().expect("it is piped")).lines();
    let mut addrs = Vec::new();
    for line in lines.take(POEMS.len()) {
        addrs.push(line?.parse().map_err(io::Error::other)?);
    }
    if addrs.len() < POEMS.len() {
        return Err(io::Error::other("the server of the poems does not start"));
    }
    Ok((server, addrs))
}

/// A port for each poem; who connects gets it.
fn serve() -> Result<ExitCode, Failure> {
    let mut servers = Vec::new();
    for poem in &POEMS {
        let server = StreamServer::bind("127.0.0.1:0", |stream, _peer| {
            // Who hangs up does not like the poem.
            let _ = recite(poem, stream);
        })?;
        server.start();
        say!("{}", server.local_addr());
        servers.push(server);
    }
    // Until the other process closes its end of the pipe, or is gone.
    unblock(|| io::stdin().read_to_end(&mut Vec::new()))?;
    Ok(ExitCode::SUCCESS)
}

fn recite(poem: &Poem, mut stream: TcpStream) -> io::Result<()> {
    for line in poem.text.split_inclusive('\n') {
        sleep(poem.pause);
        stream.write_all(line.as_bytes())?;
    }
    Ok(())
}
