//! Messages from one greenlet to another.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use switchgrass::channel::{Receiver, Sender, bounded};
use switchgrass::spawn;

use crate::{Keys, Outcome, check, per};

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
