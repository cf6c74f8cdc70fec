//! The works of BENCH.md on other runtimes, each written as its own users would write it.
//!
//! `peers RUNTIME WORK --key value ...` prints one line of JSON, like `benches/work.rs`. Runtimes: may, tokio, threads, mio.

use std::collections::HashMap;
use std::process::exit;
use std::time::{Duration, Instant};

mod blocking;
mod http;
mod may;
mod mio;
mod threads;
mod tokio;

/// `--key value` pairs.
#[derive(Clone)]
struct Keys(HashMap<String, String>);

impl Keys {
    fn number(&self, key: &str, default: u64) -> u64 {
        self.0.get(key).map_or(default, |text| {
            text.parse().unwrap_or_else(|_| fail(&format!("--{key} needs a number, not {text}")))
        })
    }

    fn addr(&self) -> String {
        self.0.get("addr").cloned().unwrap_or_else(|| "127.0.0.1:7000".to_owned())
    }
}

fn fail(why: &str) -> ! {
    eprintln!("peers: {why}");
    exit(2)
}

/// The value, its unit, and more fields; or why this runtime cannot do the work.
type Outcome = Result<(f64, &'static str, Vec<(&'static str, f64)>), String>;

/// This runtime has no such work.
fn missing() -> Outcome {
    Err("no such workload on this runtime".to_owned())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(runtime), Some(work)) = (args.next(), args.next()) else {
        fail("usage: peers may|tokio|threads|mio WORK [--key value ...]")
    };
    let mut keys = HashMap::new();
    while let Some(key) = args.next() {
        let Some(name) = key.strip_prefix("--") else { fail(&format!("expected --key, found {key}")) };
        let Some(value) = args.next() else { fail(&format!("--{name} needs a value")) };
        keys.insert(name.to_owned(), value);
    }
    let keys = Keys(keys);
    let outcome = match runtime.as_str() {
        "may" => may::run(&work, &keys),
        "tokio" => tokio::run(&work, &keys),
        "threads" => threads::run(&work, &keys),
        "mio" => mio::run(&work, &keys),
        other => fail(&format!("no such runtime: {other}")),
    };
    match outcome {
        Ok((value, unit, more)) => {
            let more: String = more.iter().map(|(key, value)| format!(", \"{key}\": {value}")).collect();
            println!("{{\"work\": \"{work}\", \"value\": {value}, \"unit\": \"{unit}\"{more}}}");
        }
        Err(why) => println!("{{\"work\": \"{work}\", \"value\": null, \"error\": {why:?}}}"),
    }
}

/// Nanoseconds per piece of work.
fn per(elapsed: Duration, n: u64) -> f64 {
    (elapsed.as_nanos() as f64 / n as f64 * 1000.0).round() / 1000.0
}

fn check(what: &str, is: u64, should: u64) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what} is {is}, not {should}")) }
}

/// The median of the repetitions, and the first of them.
fn repetitions(mut times: Vec<f64>) -> Outcome {
    let first = times[0];
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], "ns/task", vec![("first", first)]))
}

fn throughput(start: Instant, n: u64, sum: u64) -> Outcome {
    let elapsed = start.elapsed();
    check("sum", sum, n * (n - 1) / 2)?;
    Ok(((n as f64 / elapsed.as_secs_f64()).round(), "messages/s", vec![]))
}

/// How many children each task of the tree has that is no leaf.
const CHILDREN: u64 = 10;

/// Nanoseconds per task of a tree with so many leaves.
fn tree(start: Instant, leaves: u64, sum: u64) -> Outcome {
    let elapsed = start.elapsed();
    check("sum", sum, leaves * (leaves - 1) / 2)?;
    let tasks = (leaves * CHILDREN - 1) / (CHILDREN - 1);
    Ok((per(elapsed, tasks), "ns/task", vec![("tasks", tasks as f64)]))
}

/// The same random sleeps for everyone measured.
fn random_sleeps(n: u64, max_ms: u64) -> Vec<Duration> {
    let mut state = 42_u64;
    let mut splitmix64 = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n).map(|_| Duration::from_nanos(splitmix64() % (max_ms * 1_000_000))).collect()
}

/// Measures the sleeps: `Sleeping::start`, all tasks, `end` with the number of those that slept long enough.
struct Sleeping {
    n: u64,
    longest: Duration,
    cpu_ms: f64,
    start: Instant,
}

impl Sleeping {
    fn start(sleeps: &[Duration]) -> Sleeping {
        let longest = sleeps.iter().max().copied().unwrap_or_default();
        Sleeping { n: sleeps.len() as u64, longest, cpu_ms: cpu_ms(), start: Instant::now() }
    }

    fn end(self, slept: u64) -> Outcome {
        let beyond = self.start.elapsed().saturating_sub(self.longest).as_secs_f64() * 1000.0;
        let cpu = cpu_ms() - self.cpu_ms;
        check("sleeps that were long enough", slept, self.n)?;
        Ok(((beyond * 1000.0).round() / 1000.0, "ms", vec![("cpu_ms", cpu.round())]))
    }
}

/// Milliseconds of CPU that this process has used.
fn cpu_ms() -> f64 {
    // SAFETY: rusage is plain data, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0.0) * 1024.0
}

/// Bytes per task, of `n` that have started since `before` was read and wait.
fn idle(before: f64, n: u64) -> Outcome {
    Ok((((resident_bytes() - before) / n as f64).round(), "bytes/task", vec![]))
}
