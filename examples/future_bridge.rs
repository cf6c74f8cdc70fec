//! Async code among greenlets, and greenlets among async code.
//!
//! Three services speak over async-channel, which knows no runtime: two are plain blocking greenlets that wait for
//! futures with `block_on`, one is an async function. Then another crate's executor, on an OS thread of its own,
//! awaits greenlets that run here.

use std::process::ExitCode;
use std::time::Duration;

use async_channel::{Receiver, Sender, bounded};
use futures::executor;
use futures::future::join_all;
use switchgrass::{block_on, joinall_raise, sleep, spawn, unblock};

/// Blocking code: each `block_on` parks this greenlet, and the others run.
fn number_source(out: &Sender<u32>) {
    for n in 1..=5 {
        sleep(Duration::from_millis(2));
        block_on(out.send(n)).expect("somebody squares them");
    }
}

/// Async code, as it might come from a crate.
async fn square(numbers: Receiver<u32>, out: Sender<u32>) -> usize {
    let mut count = 0;
    while let Ok(n) = numbers.recv().await {
        out.send(n * n).await.expect("somebody prints them");
        count += 1;
    }
    count
}

fn main() -> ExitCode {
    let (number_tx, number_rx) = bounded(1);
    let (square_tx, square_rx) = bounded(1);
    let source = spawn(move || number_source(&number_tx));
    let squarer = spawn(move || block_on(square(number_rx, square_tx)));
    while let Ok(n) = block_on(square_rx.recv()) {
        println!("got {n}");
    }
    source.join().expect("it does not panic");
    println!("the async function squared {} numbers", squarer.join().expect("it does not panic"));

    // The other way: a greenlet is a future, for whoever awaits. It stays on this thread, whose hub has to run meanwhile: so the
    // other executor gets an OS thread, and this greenlet waits for it.
    let greenlets: Vec<_> = (1..=3)
        .map(|n| {
            spawn(move || {
                sleep(Duration::from_millis(5 * (4 - n)));
                n * 100
            })
        })
        .collect();
    let sum: u64 = unblock(move || {
        let results = executor::block_on(join_all(greenlets));
        results.into_iter().map(|result| result.expect("it does not panic")).sum()
    });
    println!("another executor awaited greenlets: {sum}");

    // Many greenlets wait for futures at once, on this one OS thread.
    let (tx, rx) = bounded::<u64>(1);
    let readers = (0..100).map(|_| {
        let rx = rx.clone();
        spawn(move || block_on(rx.recv()).expect("there is one for each"))
    });
    let readers: Vec<_> = readers.collect();
    for n in 0..100 {
        block_on(tx.send(n)).expect("it is received");
    }
    println!("100 greenlets received {}", joinall_raise(readers).into_iter().sum::<u64>());
    ExitCode::SUCCESS
}
