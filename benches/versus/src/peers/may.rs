//! may: stackful coroutines on worker threads, with may's own channels and sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use may::coroutine::{self, JoinHandle};
use may::go;
use may::net::{TcpListener, TcpStream};
use may::sync::{Semphore, mpsc};

use crate::blocking::{echo, http};
use crate::{CHILDREN, Keys, Outcome, Sleeping};

pub(crate) fn run(work: &str, keys: &Keys) -> Outcome {
    // By default may pins its workers to cores; nobody measured here does that.
    may::config().set_workers(keys.number("threads", 1) as usize).set_worker_pin(false);
    let keys = keys.clone();
    let body: fn(&Keys) -> Outcome = match work {
        "yield" => yields,
        "pingpong" => ping_pong,
        "channel" => channel,
        "spawn_join" => spawn_join,
        "skynet" => skynet,
        "idle_mem" => idle_mem,
        "timers" => timers,
        "echo" => |keys| serve(keys, echo),
        "http" => |keys| serve(keys, http),
        _ => return crate::missing(),
    };
    // A stack of its own takes two memory maps, of the 65,530 that Linux allows by default: may panics when there are no more.
    go!(move || body(&keys)).join().map_err(|panic| match panic.downcast_ref::<String>() {
        Some(message) => message.replace('"', "'"),
        None => "the coroutine has panicked".to_owned(),
    })?
}

fn yields(keys: &Keys) -> Outcome {
    let (n, tasks) = (keys.number("n", 10_000_000), keys.number("tasks", 2));
    let each = n / tasks;
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let coroutines: Vec<JoinHandle<()>> = (0..tasks)
        .map(|_| {
            let count = Arc::clone(&count);
            go!(move || {
                for _ in 0..each {
                    coroutine::yield_now();
                }
                count.fetch_add(each, Ordering::Relaxed);
            })
        })
        .collect();
    coroutines.into_iter().for_each(|coroutine| coroutine.join().expect("it does not panic"));
    let elapsed = start.elapsed();
    crate::check("yields", count.load(Ordering::Relaxed), each * tasks)?;
    Ok((crate::per(elapsed, each * tasks), "ns/yield", vec![]))
}

/// may has no bounded channel. There is at most one message here.
fn ping_pong(keys: &Keys) -> Outcome {
    let n = keys.number("n", 4_000_000) / 2;
    let (there, requests) = mpsc::channel();
    let (answers, back) = mpsc::channel();
    let start = Instant::now();
    let pong = go!(move || {
        for request in requests.iter() {
            answers.send(request + 1).expect("ping receives");
        }
    });
    let ping = go!(move || {
        (0..n)
            .filter(|&i| {
                there.send(i).expect("pong receives");
                back.recv() == Ok(i + 1)
            })
            .count()
    });
    let right = ping.join().expect("it does not panic");
    pong.join().expect("it does not panic");
    let elapsed = start.elapsed();
    crate::check("right answers", right as u64, n)?;
    Ok((crate::per(elapsed, n * 2), "ns/message", vec![]))
}

/// may has no bounded channel: a semaphore counts the room.
fn channel(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000);
    let room = Arc::new(Semphore::new(keys.number("cap", 128) as usize));
    let (tx, rx) = mpsc::channel();
    let start = Instant::now();
    let taken = Arc::clone(&room);
    let producer = go!(move || {
        for i in 0..n {
            taken.wait();
            tx.send(i).expect("it is received");
        }
    });
    let consumer = go!(move || rx.iter().inspect(|_| room.post()).sum::<u64>());
    let sum = consumer.join().expect("it does not panic");
    producer.join().expect("it does not panic");
    crate::throughput(start, n, sum)
}

fn spawn_join(keys: &Keys) -> Outcome {
    let (n, batch) = (keys.number("n", 100_000), keys.number("batch", 1000));
    let mut times = Vec::new();
    for _ in 0..keys.number("reps", 5) {
        let start = Instant::now();
        let (mut sum, mut next) = (0, 0);
        while next < n {
            let end = n.min(next + batch);
            let coroutines: Vec<JoinHandle<u64>> = (next..end).map(|i| go!(move || i)).collect();
            for coroutine in coroutines {
                sum += coroutine.join().expect("it returns a number");
            }
            next = end;
        }
        times.push(crate::per(start.elapsed(), n));
        crate::check("sum", sum, n * (n - 1) / 2)?;
    }
    crate::repetitions(times)
}

/// may has no bounded channel.
fn skynet(keys: &Keys) -> Outcome {
    let leaves = keys.number("n", 1_000_000);
    let (root, sums) = mpsc::channel();
    let start = Instant::now();
    go!(move || grow(&root, 0, leaves));
    let sum = sums.recv().expect("the root sends its sum");
    crate::tree(start, leaves, sum)
}

fn grow(parent: &mpsc::Sender<u64>, first: u64, leaves: u64) {
    let mut sum = first;
    if leaves > 1 {
        let (tx, rx) = mpsc::channel();
        let each = leaves / CHILDREN;
        for child in 0..CHILDREN {
            let tx = tx.clone();
            go!(move || grow(&tx, first + child * each, each));
        }
        sum = rx.iter().take(CHILDREN as usize).sum();
    }
    parent.send(sum).expect("the parent receives from each child");
}

fn idle_mem(keys: &Keys) -> Outcome {
    let n = keys.number("n", 100_000);
    let count = Arc::new(AtomicU64::new(0));
    let before = crate::resident_bytes();
    let coroutines: Vec<JoinHandle<()>> = (0..n)
        .map(|_| {
            let count = Arc::clone(&count);
            go!(move || {
                count.fetch_add(1, Ordering::Relaxed);
                coroutine::park();
            })
        })
        .collect();
    // may runs the one that yields again before those that have not started, for ever if there is one worker: a sleep lets them start.
    while count.load(Ordering::Relaxed) < n {
        coroutine::sleep(Duration::from_millis(1));
    }
    let outcome = crate::idle(before, n);
    std::mem::forget(coroutines);
    outcome
}

fn timers(keys: &Keys) -> Outcome {
    let sleeps = crate::random_sleeps(keys.number("n", 100_000), keys.number("max-ms", 1000));
    let sleeping = Sleeping::start(&sleeps);
    let coroutines: Vec<JoinHandle<bool>> = sleeps
        .into_iter()
        .map(|duration: Duration| {
            go!(move || {
                let begin = Instant::now();
                coroutine::sleep(duration);
                begin.elapsed() >= duration
            })
        })
        .collect();
    let slept = coroutines.into_iter().filter_map(|coroutine| coroutine.join().ok()).filter(|ok| *ok).count();
    sleeping.end(slept as u64)
}

fn serve(keys: &Keys, handle: fn(TcpStream) -> io::Result<()>) -> Outcome {
    let listener = TcpListener::bind(keys.addr()).map_err(|error| error.to_string())?;
    for stream in listener.incoming() {
        let stream = stream.map_err(|error| error.to_string())?;
        go!(move || {
            stream.set_nodelay(true)?;
            handle(stream)
        });
    }
    Err("the listener has ended".to_owned())
}
