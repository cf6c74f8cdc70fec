//! What the steps cost on this machine.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_deque::{Steal, Worker};
use mio::{Events, Poll, Token, Waker};
use switchgrass::spawn;

use crate::model::{Costs, Nanos};

/// How often each is measured. The middle one counts.
const ROUNDS: usize = 1001;
/// What is too short for the clock is done so often in a round.
const BATCH: u32 = 1000;

fn middle(mut times: Vec<Nanos>) -> Nanos {
    times.sort_unstable();
    times[times.len() / 2]
}

fn nanos(since: Instant) -> Nanos {
    since.elapsed().as_nanos() as Nanos
}

fn each(since: Instant) -> Nanos {
    (nanos(since) + Nanos::from(BATCH / 2)) / Nanos::from(BATCH)
}

pub(crate) fn costs() -> io::Result<Costs> {
    let (spawn, run) = spawn_and_run();
    let (push, look, steal) = queue();
    let (notify, wake, sleep) = wake()?;
    Ok(Costs { spawn: spawn + push, run, look, fetch: fetch(), steal, notify, wake, sleep })
}

/// A thousand at a time, as `work spawn_join --batch 1000`: spawning them, and all that comes after.
fn spawn_and_run() -> (Nanos, Nanos) {
    let measured = spawn(|| {
        let round = || {
            let began = Instant::now();
            let greenlets: Vec<_> = (0..BATCH).map(|i| spawn(move || i)).collect();
            let spawned = each(began);
            let began = Instant::now();
            for greenlet in greenlets {
                black_box(greenlet.join().expect("it returns a number"));
            }
            (spawned, each(began))
        };
        (0..ROUNDS).map(|_| round()).unzip::<_, _, Vec<_>, Vec<_>>()
    });
    let (spawns, runs) = measured.join().expect("it does not panic");
    (middle(spawns), middle(runs))
}

/// To push, with the fence and the look at the counts; to see that a queue is empty; to take a batch of 32.
fn queue() -> (Nanos, Nanos, Nanos) {
    let (own, other) = (Worker::new_fifo(), Worker::new_fifo());
    let stealer = other.stealer();
    let counts = AtomicU64::new(0);
    let (mut pushes, mut looks, mut steals) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..BATCH {
            black_box(stealer.is_empty());
        }
        looks.push(each(began));
        let began = Instant::now();
        for item in 0..BATCH as usize {
            other.push(item);
            fence(Ordering::SeqCst);
            black_box(counts.load(Ordering::Relaxed));
        }
        pushes.push(each(began));
        let began = Instant::now();
        let taken = stealer.steal_batch_with_limit_and_pop(&own, 32);
        steals.push(nanos(began));
        assert!(taken.is_success(), "nobody else takes any");
        while own.pop().is_some() {}
        while !matches!(stealer.steal(), Steal::Empty) {}
    }
    (middle(pushes), middle(looks), middle(steals))
}

/// Two threads change a word in turn: one way.
fn fetch() -> Nanos {
    let word = Arc::new(AtomicU64::new(0));
    let ends = Arc::new(AtomicBool::new(false));
    let other = thread::spawn({
        let (word, ends) = (word.clone(), ends.clone());
        move || {
            while !ends.load(Ordering::Relaxed) {
                let value = word.load(Ordering::Acquire);
                if value % 2 == 1 {
                    word.store(value + 1, Ordering::Release);
                }
            }
        }
    });
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..BATCH {
            let value = word.load(Ordering::Relaxed);
            word.store(value + 1, Ordering::Release);
            while word.load(Ordering::Acquire) == value + 1 {
                std::hint::spin_loop();
            }
        }
        times.push(each(began) / 2);
    }
    ends.store(true, Ordering::Relaxed);
    other.join().expect("it does not panic");
    middle(times)
}

/// What the write costs that wakes a thread in its poller, how long it takes until that one goes on, and what a poll costs that finds nothing.
fn wake() -> io::Result<(Nanos, Nanos, Nanos)> {
    let mut poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), Token(0))?;
    let start = Instant::now();
    let woken = Arc::new(AtomicU64::new(0));
    let sleeper = thread::spawn({
        let woken = woken.clone();
        move || -> io::Result<Nanos> {
            let mut events = Events::with_capacity(16);
            for _ in 0..ROUNDS {
                poll.poll(&mut events, None)?;
                woken.store(nanos(start), Ordering::Release);
            }
            let began = Instant::now();
            for _ in 0..BATCH {
                poll.poll(&mut events, Some(Duration::ZERO))?;
            }
            Ok(each(began))
        }
    });
    let (mut writes, mut wakes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Until it sleeps, and its core has noticed.
        let asleep_at = nanos(start) + 300_000;
        while nanos(start) < asleep_at {
            std::hint::spin_loop();
        }
        woken.store(0, Ordering::Relaxed);
        let began = nanos(start);
        waker.wake()?;
        writes.push(nanos(start) - began);
        let at = loop {
            match woken.load(Ordering::Acquire) {
                0 => std::hint::spin_loop(),
                at => break at,
            }
        };
        wakes.push(at - began);
    }
    let sleep = sleeper.join().expect("it does not panic")?;
    Ok((middle(writes), middle(wakes), sleep))
}
