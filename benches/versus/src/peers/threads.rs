//! OS threads, with what std has. `--threads` means nothing here: the kernel uses all cores.

// No greenlets here: these block threads, as they should.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::blocking::{echo, http};
use crate::{Keys, Outcome, Sleeping};

/// Linux by default allows 65,530 memory maps in a process, and a thread takes two; a machine's other limits are often lower still.
const MOST: u64 = 20_000;

pub(crate) fn run(work: &str, keys: &Keys) -> Outcome {
    match work {
        "pingpong" => ping_pong(keys),
        "channel" => channel(keys),
        "spawn_join" => spawn_join(keys),
        "idle_mem" => idle_mem(keys),
        "timers" => timers(keys),
        "echo" => serve(keys, echo),
        "http" => serve(keys, http),
        _ => crate::missing(),
    }
}

fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, String> {
    thread::Builder::new().spawn(f).map_err(|error| format!("no more threads: {error}"))
}

fn possible(n: u64) -> Result<(), String> {
    if n <= MOST { Ok(()) } else { Err(format!("{n} threads at once are more than Linux allows by default")) }
}

fn ping_pong(keys: &Keys) -> Outcome {
    let n = keys.number("n", 4_000_000) / 2;
    let (there, requests) = mpsc::sync_channel(1);
    let (answers, back) = mpsc::sync_channel(1);
    let pong = spawn(move || {
        for request in requests {
            answers.send(request + 1).expect("ping receives");
        }
    })?;
    let start = Instant::now();
    let ping = spawn(move || {
        (0..n)
            .filter(|&i| {
                there.send(i).expect("pong receives");
                back.recv() == Ok(i + 1)
            })
            .count()
    })?;
    let right = ping.join().expect("it does not panic");
    pong.join().expect("it does not panic");
    let elapsed = start.elapsed();
    crate::check("right answers", right as u64, n)?;
    Ok((crate::per(elapsed, n * 2), "ns/message", vec![]))
}

fn channel(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000);
    let (tx, rx) = mpsc::sync_channel(keys.number("cap", 128) as usize);
    let start = Instant::now();
    let producer = spawn(move || (0..n).for_each(|i| tx.send(i).expect("it is received")))?;
    let sum = rx.into_iter().sum();
    producer.join().expect("it does not panic");
    crate::throughput(start, n, sum)
}

fn spawn_join(keys: &Keys) -> Outcome {
    let (n, batch) = (keys.number("n", 100_000), keys.number("batch", 1000));
    possible(batch.min(n))?;
    let mut times = Vec::new();
    for _ in 0..keys.number("reps", 5) {
        let start = Instant::now();
        let (mut sum, mut next) = (0, 0);
        while next < n {
            let end = n.min(next + batch);
            let threads: Vec<JoinHandle<u64>> =
                (next..end).map(|i| spawn(move || i)).collect::<Result<_, _>>()?;
            for thread in threads {
                sum += thread.join().expect("it returns a number");
            }
            next = end;
        }
        times.push(crate::per(start.elapsed(), n));
        crate::check("sum", sum, n * (n - 1) / 2)?;
    }
    crate::repetitions(times)
}

/// The kernel's own stack of each thread, 16 KiB, is not in the process's resident size.
fn idle_mem(keys: &Keys) -> Outcome {
    let n = keys.number("n", 1000);
    possible(n)?;
    let count = Arc::new(AtomicU64::new(0));
    let before = crate::resident_bytes();
    for _ in 0..n {
        let count = Arc::clone(&count);
        spawn(move || {
            count.fetch_add(1, Ordering::Relaxed);
            loop {
                thread::park();
            }
        })?;
    }
    while count.load(Ordering::Relaxed) < n {
        thread::yield_now();
    }
    crate::idle(before, n)
}

fn timers(keys: &Keys) -> Outcome {
    let n = keys.number("n", 100_000);
    possible(n)?;
    let sleeps = crate::random_sleeps(n, keys.number("max-ms", 1000));
    let sleeping = Sleeping::start(&sleeps);
    let threads: Vec<JoinHandle<bool>> = sleeps
        .into_iter()
        .map(|duration| {
            spawn(move || {
                let begin = Instant::now();
                thread::sleep(duration);
                begin.elapsed() >= duration
            })
        })
        .collect::<Result<_, _>>()?;
    let slept = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|ok| *ok).count();
    sleeping.end(slept as u64)
}

fn serve(keys: &Keys, handle: fn(TcpStream) -> io::Result<()>) -> Outcome {
    let listener = TcpListener::bind(keys.addr()).map_err(|error| error.to_string())?;
    for stream in listener.incoming() {
        let stream = stream.map_err(|error| error.to_string())?;
        spawn(move || {
            stream.set_nodelay(true)?;
            handle(stream)
        })?;
    }
    Err("the listener has ended".to_owned())
}
