//! The benchmark program: one piece of work per call, one line of JSON as its result.
//!
//! Run with: `cargo bench --bench work -- WORK --key value ...`, for instance
//! `cargo bench --bench work -- switch --mode raw`. The works are listed by `--help`.

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::process::exit;
use std::rc::Rc;
use std::time::{Duration, Instant};

use switchgrass::hubs::{self, Hubs};
use switchgrass::{Coroutine, Greenlet, joinall, sleep, spawn, timeout, yield_now};

mod channels;
mod locks;
#[cfg(feature = "monkey")]
mod patched;
mod queues;
mod servers;

const HELP: &str = "\
usage: cargo bench --bench work -- WORK [--threads 1] [--key value ...]
Prints the value, and what the process has needed: its peak memory in KiB, and how many page faults.

  floor --n 10000000                            ns per resume + suspend of corosensei itself
  switch --mode raw   --n 10000000              ns per switch of two coroutines
  switch --mode yield --n 10000000 --tasks 2    ns per yield_now
  switch --mode chan  --n 4000000               ns per message, ping-pong over two channels of capacity 1
  channel --n 10000000 --cap 128 --threads 1|2  messages per second, one producer, one consumer; --mode std: std's, on two threads
  queue --mode pingpong --n 4000000             ns per item, ping-pong over two queues with room for one
  queue --n 10000000 --cap 128 --threads 1|2    items per second, one puts, one gets; --mode priority: a PriorityQueue
  lock|rwlock|semaphore --n 10000000 --mode uncontended|contended   ns per lock and unlock; lock --mode std: std's
  event --n 10000000                            ns per set and wait, of two greenlets in turn
  spawn_join --n 100000 --batch 1000 --reps 5 --threads 1|2   ns per greenlet
  skynet --n 1000000 --threads 1|2              ns per greenlet of a tree, ten children each and n leaves, summed through channels
  idle_mem --n 100000 --block sleep|park        bytes of RSS per parked greenlet
  timers --n 100000 --max-ms 1000               ms beyond the longest sleep
  timeouts --n 10000000                         ns per timeout that does not fire
  file_read --n 5000 --size 4096 --tasks 1      ns per fs::read of a cached file, and those of std::fs::read
  echo --addr 127.0.0.1:7000 --threads 1|2      server: switchgrass
  echo-std --addr 127.0.0.1:7000                server: unmodified std::net, patched (feature monkey)
  pass_through --mode off|thread                what an interposed call costs that is passed on (feature monkey)
  std_mutex --mode contended|uncontended        std's Mutex between two greenlets, patched (feature monkey)
  echo-mio --addr 127.0.0.1:7000                server: written by hand on mio, the baseline
  http --addr 127.0.0.1:7000 --threads 1|2      server: HTTP/1.1 keep-alive
  load --addr 127.0.0.1:7000 --connections 64 --seconds 5 --pid PID   closed-loop client for the echo servers
  churn --addr 127.0.0.1:7000 --n 20000 --pid PID                     connect, one request, close; for the same";

const ON_SEVERAL_HUBS: [&str; 6] = ["channel", "queue", "spawn_join", "skynet", "echo", "http"];

/// `--key value` pairs. Unknown keys are ignored, as BENCH.md asks.
pub(crate) struct Keys(HashMap<String, String>);

impl Keys {
    pub(crate) fn text(&self, key: &str, default: &str) -> String {
        self.0.get(key).cloned().unwrap_or_else(|| default.to_owned())
    }

    pub(crate) fn number(&self, key: &str, default: u64) -> u64 {
        match self.0.get(key).map(|text| text.replace('_', "").parse()) {
            None => default,
            Some(Ok(number)) => number,
            Some(Err(_)) => fail(&format!("--{key} needs a number")),
        }
    }
}

pub(crate) fn fail(why: &str) -> ! {
    eprintln!("work: {why} (see --help)");
    exit(2)
}

/// What a work gives: the value, its unit, and more fields.
pub(crate) type Outcome = Result<(f64, &'static str, Vec<(&'static str, f64)>), String>;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(work) = args.next() else { fail("which work?") };
    if work == "--help" || work == "-h" {
        println!("{HELP}");
        return;
    }
    let mut keys = HashMap::new();
    while let Some(key) = args.next() {
        let Some(key) = key.strip_prefix("--") else { fail(&format!("expected --key, found {key}")) };
        let Some(value) = args.next() else { fail(&format!("--{key} needs a value")) };
        keys.insert(key.to_owned(), value);
    }
    let keys = Keys(keys);
    let outcome = if keys.number("threads", 1) != 1 && !ON_SEVERAL_HUBS.contains(&work.as_str()) {
        Err("this work is for one hub: --threads 1 only".to_owned())
    } else {
        match (work.as_str(), keys.text("mode", "").as_str()) {
            ("floor", _) => floor(&keys),
            ("switch", "raw") => switch_raw(&keys),
            ("switch", "yield") => switch_yield(&keys),
            ("switch", "chan") => channels::ping_pong(&keys),
            ("channel", "std") => channels::throughput_std(&keys),
            ("channel", _) => channels::throughput(&keys),
            ("queue", "pingpong") => queues::ping_pong(&keys),
            ("queue", _) => queues::throughput(&keys),
            ("lock", "std") => locks::std_mutex(&keys),
            ("lock", _) => locks::mutex(&keys),
            ("rwlock", _) => locks::rwlock(&keys),
            ("semaphore", _) => locks::semaphore(&keys),
            ("event", _) => locks::event(&keys),
            ("spawn_join", _) => spawn_join(&keys),
            ("skynet", _) => channels::skynet(&keys),
            ("idle_mem", _) => idle_mem(&keys),
            ("timers", _) => timers(&keys),
            ("timeouts", _) => timeouts(&keys),
            ("file_read", _) => file_read(&keys),
            ("echo", _) => servers::echo(&keys),
            #[cfg(feature = "monkey")]
            ("echo-std", _) => patched::echo(&keys),
            #[cfg(feature = "monkey")]
            ("pass_through", _) => patched::pass_through(&keys),
            #[cfg(feature = "monkey")]
            ("std_mutex", _) => patched::mutex(&keys),
            #[cfg(not(feature = "monkey"))]
            ("echo-std" | "pass_through" | "std_mutex", _) => {
                Err("this needs the feature `monkey`: cargo bench --features monkey --bench work".to_owned())
            }
            ("echo-mio", _) => servers::echo_mio(&keys),
            ("http", _) => servers::http(&keys),
            ("load", _) => servers::load(&keys),
            ("churn", _) => servers::churn(&keys),
            _ => {
                eprintln!("work: no such workload: {work} (see --help)");
                exit(3);
            }
        }
    };
    match outcome {
        Ok((value, unit, more)) => {
            let usage = usage();
            let memory = [("peak_kib", usage.ru_maxrss as f64), ("faults", usage.ru_minflt as f64)];
            let more: String =
                more.iter().chain(&memory).map(|(key, value)| format!(", \"{key}\": {value}")).collect();
            println!("{{\"work\": \"{work}\", \"value\": {value}, \"unit\": \"{unit}\"{more}}}");
        }
        Err(why) => println!("{{\"work\": \"{work}\", \"value\": null, \"error\": {why:?}}}"),
    }
}

pub(crate) fn per(elapsed: Duration, n: u64) -> f64 {
    (elapsed.as_nanos() as f64 / n as f64 * 1000.0).round() / 1000.0
}

pub(crate) fn check(what: &str, is: u64, should: u64) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what} is {is}, not {should}")) }
}

/// A stack of corosensei's own, with a coloured top: what a hub without any bookkeeping would switch among.
struct Coloured(corosensei::stack::DefaultStack, usize);

// SAFETY: the base is lowered by less than a page, and stays aligned.
unsafe impl corosensei::stack::Stack for Coloured {
    fn base(&self) -> corosensei::stack::StackPointer {
        let base = corosensei::stack::Stack::base(&self.0).get() - self.1;
        corosensei::stack::StackPointer::new(base).expect("a stack is not at address zero")
    }

    fn limit(&self) -> corosensei::stack::StackPointer {
        corosensei::stack::Stack::limit(&self.0)
    }
}

fn floor(keys: &Keys) -> Outcome {
    use corosensei::stack::DefaultStack;
    let (n, tasks) = (keys.number("n", 10_000_000), keys.number("tasks", 1));
    let mut coroutines: Vec<_> = (0..tasks as usize)
        .map(|i| {
            let stack = Coloured(DefaultStack::new(64 * 1024).expect("there is room"), i % 32 * 64);
            corosensei::Coroutine::<(), (), (), Coloured>::with_stack(stack, |yielder, ()| {
                loop {
                    yielder.suspend(());
                }
            })
        })
        .collect();
    let start = Instant::now();
    for _ in 0..n / tasks {
        for coroutine in &mut coroutines {
            black_box(coroutine.resume(()));
        }
    }
    let elapsed = start.elapsed();
    for coroutine in &mut coroutines {
        // SAFETY: nothing on their stacks has a destructor.
        unsafe { coroutine.force_reset() };
    }
    Ok((per(elapsed, n / tasks * tasks), "ns/round trip", vec![]))
}

fn switch_raw(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000) / 2;
    let pong = Coroutine::new(|mut got: u64| {
        let main = Coroutine::main();
        let ping = main.switch(got).map(|_| PING.take().expect("it was put there")).expect("main is there");
        let mut sum = 0;
        for i in 0.. {
            sum += got;
            got = match ping.switch(i) {
                Ok(got) => got,
                Err(_) => break,
            };
        }
        sum
    });
    pong.switch(0).map_err(|e| e.to_string())?;
    let target = pong.clone();
    let ping = Coroutine::new(move |_| {
        let mut sum = 0;
        for i in 0..n {
            sum += target.switch(i).expect("it is there");
        }
        sum
    });
    PING.set(Some(ping.clone()));
    let start = Instant::now();
    let sum = ping.switch(0).map_err(|e| e.to_string())?;
    let elapsed = start.elapsed();
    check("sum", sum, n * (n - 1) / 2)?;
    Ok((per(elapsed, n * 2), "ns/switch", vec![]))
}

thread_local! {
    static PING: Cell<Option<Coroutine<u64>>> = const { Cell::new(None) };
}

fn switch_yield(keys: &Keys) -> Outcome {
    let (n, tasks) = (keys.number("n", 10_000_000), keys.number("tasks", 2));
    let each = n / tasks;
    let count = Rc::new(Cell::new(0_u64));
    let greenlets: Vec<_> = (0..tasks)
        .map(|_| {
            let count = Rc::clone(&count);
            spawn(move || {
                for _ in 0..each {
                    yield_now();
                    count.set(count.get() + 1);
                }
            })
        })
        .collect();
    let start = Instant::now();
    joinall(&greenlets);
    let elapsed = start.elapsed();
    check("yields", count.get(), each * tasks)?;
    Ok((per(elapsed, each * tasks), "ns/yield", vec![]))
}

/// So many hubs as `--threads` says, for those works that share their greenlets among hubs. `None`: one, which is this thread's.
pub(crate) fn several_hubs(keys: &Keys) -> Result<Option<Hubs>, String> {
    match keys.number("threads", 1) {
        1 => Ok(None),
        threads => Hubs::new(threads as usize).map(Some).map_err(|error| error.to_string()),
    }
}

fn spawn_join(keys: &Keys) -> Outcome {
    let (n, batch, reps) = (keys.number("n", 100_000), keys.number("batch", 1000), keys.number("reps", 5));
    let mut times = match several_hubs(keys)? {
        None => {
            let work = spawn(move || spawn_and_join(n, batch, reps, |i| spawn(move || i)));
            work.join().expect("it does not panic")
        }
        Some(hubs) => hubs.run(|| spawn_and_join(n, batch, reps, |i| hubs::spawn(move || i))),
    }?;
    let first = times[0];
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], "ns/task", vec![("first", first)]))
}

fn spawn_and_join(
    n: u64,
    batch: u64,
    reps: u64,
    spawn: fn(u64) -> Greenlet<u64>,
) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    for _ in 0..reps {
        let start = Instant::now();
        let (mut sum, mut next) = (0, 0);
        while next < n {
            let end = n.min(next + batch);
            let greenlets: Vec<_> = (next..end).map(spawn).collect();
            for greenlet in greenlets {
                sum += greenlet.join().expect("it returns a number");
            }
            next = end;
        }
        times.push(per(start.elapsed(), n));
        check("sum", sum, n * (n - 1) / 2)?;
    }
    Ok(times)
}

fn status_kib(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0.0)
}

fn idle_mem(keys: &Keys) -> Outcome {
    let n = keys.number("n", 100_000);
    let park = match keys.text("block", "park").as_str() {
        "park" => true,
        "sleep" => false,
        other => fail(&format!("--block is sleep or park, not {other}")),
    };
    let count = Rc::new(Cell::new(0_u64));
    let (rss, pte) = (status_kib("VmRSS:"), status_kib("VmPTE:"));
    let start = Instant::now();
    let greenlets: Vec<_> = (0..n)
        .map(|_| {
            let count = Rc::clone(&count);
            spawn(move || {
                count.set(count.get() + 1);
                if park { switchgrass::park() } else { sleep(Duration::from_secs(3600)) }
            })
        })
        .collect();
    while count.get() < n {
        yield_now();
    }
    let spawn_ms = start.elapsed().as_secs_f64() * 1000.0;
    let bytes = |key, before| (status_kib(key) - before) * 1024.0 / n as f64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().count();
    let outcome = (
        bytes("VmRSS:", rss).round(),
        "bytes/greenlet",
        vec![
            ("pte_bytes", bytes("VmPTE:", pte).round()),
            ("maps", maps as f64),
            ("spawn_ms", spawn_ms.round()),
        ],
    );
    black_box(&greenlets);
    // The kernel takes the memory back faster than a million unwindings would.
    std::mem::forget(greenlets);
    Ok(outcome)
}

/// The generator that BENCH.md names: the same random numbers for everyone measured.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn usage() -> libc::rusage {
    // SAFETY: rusage is plain data, and the call fills it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    }
}

/// Milliseconds of CPU that this process has used.
fn cpu_ms() -> f64 {
    let usage = usage();
    let ms = |t: libc::timeval| t.tv_sec as f64 * 1e3 + t.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

fn timers(keys: &Keys) -> Outcome {
    let (n, max_ms) = (keys.number("n", 100_000), keys.number("max-ms", 1000));
    let mut state = 42;
    let sleeps: Vec<_> =
        (0..n).map(|_| Duration::from_nanos(splitmix64(&mut state) % (max_ms * 1_000_000))).collect();
    let longest = sleeps.iter().max().copied().unwrap_or_default();
    let (cpu, start) = (cpu_ms(), Instant::now());
    let greenlets: Vec<_> = sleeps
        .into_iter()
        .map(|duration| {
            spawn(move || {
                let begin = Instant::now();
                sleep(duration);
                begin.elapsed() >= duration
            })
        })
        .collect();
    let slept = greenlets.into_iter().filter_map(|greenlet| greenlet.join().ok()).filter(|ok| *ok).count();
    let beyond = start.elapsed().saturating_sub(longest).as_secs_f64() * 1000.0;
    let cpu = cpu_ms() - cpu;
    check("sleeps that were long enough", slept as u64, n)?;
    let each = (cpu * 1e6 / n as f64).round();
    Ok(((beyond * 1000.0).round() / 1000.0, "ms", vec![("cpu_ms", cpu.round()), ("cpu_ns_each", each)]))
}

fn timeouts(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000);
    // The others: greenlets that wait within a timeout of an hour.
    let others: Vec<_> =
        (0..10_000).map(|_| spawn(|| timeout(Duration::from_secs(3600), switchgrass::park))).collect();
    yield_now();
    let worker = spawn(move || {
        let start = Instant::now();
        let mut done = 0_u64;
        for i in 0..n {
            done += u64::from(timeout(Duration::from_secs(60), || black_box(i)).is_ok());
        }
        (start.elapsed(), done)
    });
    let (elapsed, done) = worker.join().expect("it does not panic");
    check("timeouts that did not fire", done, n)?;
    std::mem::forget(others);
    Ok((per(elapsed, n), "ns/timeout", vec![]))
}

/// In turn, so that both meet the same noise; the medians of 20 rounds.
fn file_read(keys: &Keys) -> Outcome {
    let (n, tasks) = (keys.number("n", 5_000), keys.number("tasks", 1).max(1));
    let path = std::env::temp_dir().join(format!("switchgrass-bench-{}", std::process::id()));
    std::fs::write(&path, vec![b'x'; keys.number("size", 4096) as usize])
        .map_err(|error| error.to_string())?;
    let each = n.div_ceil(20 * tasks);
    let round = |read: fn(&std::path::Path) -> std::io::Result<Vec<u8>>| {
        let start = Instant::now();
        let greenlets: Vec<_> = (0..tasks)
            .map(|_| {
                let path = path.clone();
                spawn(move || (0..each).for_each(|_| drop(black_box(read(&path).expect("it is there")))))
            })
            .collect();
        joinall(&greenlets);
        start.elapsed().as_nanos() as f64 / (each * tasks) as f64
    };
    let (mut ours, mut stds) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        stds.push(round(|path| std::fs::read(path)));
        ours.push(round(|path| switchgrass::fs::read(path)));
    }
    let _ = std::fs::remove_file(&path);
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (ours, stds) = (median(ours), median(stds));
    Ok((ours, "ns", vec![("std_ns", stds), ("ratio", ours / stds)]))
}
