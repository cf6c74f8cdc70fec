//! Messages from one greenlet to another.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use switchgrass::channel::{Receiver, Sender, bounded};
use switchgrass::{Greenlet, hubs, spawn};

use crate::{Keys, Outcome, check, per, several_hubs};

/// Two greenlets over two channels of capacity 1.
pub(crate) fn ping_pong(keys: &Keys) -> Outcome {
    let n = keys.number("n", 4_000_000) / 2;
    let (there, requests) = bounded(1);
    let (answers, back) = bounded(1);
    let pong = spawn(move || {
        for request in requests {
            answers.send(request + 1).expect("ping receives");
        }
    });
    let start = Instant::now();
    let ping = spawn(move || {
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
    check("right answers", right as u64, n)?;
    Ok((per(elapsed, n * 2), "ns/message", vec![]))
}

/// One producer, one consumer, each on a hub of its own if there are two threads.
pub(crate) fn throughput(keys: &Keys) -> Outcome {
    let (n, capacity) = (keys.number("n", 10_000_000), keys.number("cap", 128) as usize);
    let (tx, rx) = bounded(capacity);
    let produce = move |tx: Sender<u64>| (0..n).for_each(|i| tx.send(i).expect("it is received"));
    let consume = |rx: Receiver<u64>| rx.into_iter().sum::<u64>();
    let start = Instant::now();
    let sum = if keys.number("threads", 1) == 1 {
        let producer = spawn(move || produce(tx));
        let sum = spawn(move || consume(rx)).join();
        producer.join().expect("it does not panic");
        sum
    } else {
        let producer = thread::spawn(move || spawn(move || produce(tx)).join());
        let sum = spawn(move || consume(rx)).join();
        producer.join().expect("it does not panic").expect("it does not panic");
        sum
    };
    outcome(start, n, sum.expect("it does not panic"))
}

/// The same with std's channel between two OS threads.
pub(crate) fn throughput_std(keys: &Keys) -> Outcome {
    let (n, capacity) = (keys.number("n", 10_000_000), keys.number("cap", 128) as usize);
    let (tx, rx) = mpsc::sync_channel(capacity);
    let start = Instant::now();
    let producer = thread::spawn(move || (0..n).for_each(|i| tx.send(i).expect("it is received")));
    let sum = rx.into_iter().sum();
    producer.join().expect("it does not panic");
    outcome(start, n, sum)
}

fn outcome(start: Instant, n: u64, sum: u64) -> Outcome {
    let elapsed = start.elapsed();
    check("sum", sum, n * (n - 1) / 2)?;
    Ok(((n as f64 / elapsed.as_secs_f64()).round(), "messages/s", vec![]))
}

/// How many children each greenlet of the tree has that is no leaf.
const CHILDREN: u64 = 10;

/// A tree of greenlets, whose leaves send their numbers to their parents, which send the sums to theirs.
pub(crate) fn skynet(keys: &Keys) -> Outcome {
    let leaves = keys.number("n", 1_000_000);
    let is_whole_tree =
        std::iter::successors(Some(leaves), |&n| n.is_multiple_of(CHILDREN).then_some(n / CHILDREN));
    if is_whole_tree.last() != Some(1) {
        return Err(format!("the leaves of a tree of {CHILDREN} children each are a power of {CHILDREN}"));
    }
    let hubs = several_hubs(keys)?;
    let (root, sums) = bounded(1);
    let start = Instant::now();
    let sum = match &hubs {
        None => {
            drop(spawn(move || grow(&root, 0, leaves, local_child)));
            sums.recv()
        }
        Some(hubs) => {
            drop(hubs.spawn(move || grow(&root, 0, leaves, roaming_child)));
            sums.recv()
        }
    };
    let elapsed = start.elapsed();
    check("sum", sum.map_err(|error| error.to_string())?, leaves * (leaves - 1) / 2)?;
    let greenlets = (leaves * CHILDREN - 1) / (CHILDREN - 1);
    Ok((per(elapsed, greenlets), "ns/greenlet", vec![("greenlets", greenlets as f64)]))
}

/// Spawns the greenlet of a subtree.
type SpawnChild = fn(Sender<u64>, u64, u64) -> Greenlet<()>;

fn local_child(parent: Sender<u64>, first: u64, leaves: u64) -> Greenlet<()> {
    spawn(move || grow(&parent, first, leaves, local_child))
}

fn roaming_child(parent: Sender<u64>, first: u64, leaves: u64) -> Greenlet<()> {
    hubs::spawn(move || grow(&parent, first, leaves, roaming_child))
}

fn grow(parent: &Sender<u64>, first: u64, leaves: u64, spawn: SpawnChild) {
    let sum = if leaves == 1 {
        first
    } else {
        let (tx, rx) = bounded(CHILDREN as usize);
        let each = leaves / CHILDREN;
        for child in 0..CHILDREN {
            drop(spawn(tx.clone(), first + child * each, each));
        }
        rx.into_iter().take(CHILDREN as usize).sum()
    };
    parent.send(sum).expect("the parent receives from each child");
}
