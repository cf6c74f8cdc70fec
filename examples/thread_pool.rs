//! Work that can only block, on a pool of three OS threads: gevent's `threadpool.py`.
//!
//! ```text
//! cargo run --release --example thread_pool
//! ```
//!
//! Four jobs of a second each. Three run at once, and the fourth waits for a place, so all of it takes two seconds. Meanwhile
//! greenlets run on the main thread as ever.

use std::time::{Duration, Instant};

use switchgrass::threadpool::ThreadPool;
use switchgrass::{sleep, spawn};

#[macro_use]
mod common;

const SECOND: Duration = Duration::from_secs(1);

/// Stands for a library in C, or a long computation: it holds its thread up.
#[expect(clippy::disallowed_methods, reason = "what it shows: a call that blocks")]
fn slow_square(n: u32) -> u32 {
    std::thread::sleep(SECOND);
    n * n
}

fn main() {
    let start = Instant::now();
    let pool = ThreadPool::new(3);

    // A greenlet of the main thread, which none of the jobs holds up.
    let clock = spawn(|| {
        sleep(SECOND / 2);
        say!("half a second");
        sleep(SECOND);
        say!("a second and a half");
    });

    // The fourth `spawn` returns after a second, when one of the three has ended: a pool holds back who feeds it.
    let mut jobs = Vec::new();
    for n in 1..=4 {
        jobs.push(pool.spawn(move || slow_square(n)));
        say!("job {n} has a thread, of {} in use", pool.threads());
    }
    for job in jobs {
        say!("result {}", job.join().expect("it only computes"));
    }
    clock.join().expect("it only sleeps");

    // The same, with less to write.
    say!("map {:?}", pool.map(slow_square, [5, 6, 7]));

    // Jobs that borrow: they end before their scope does.
    let words = ["switch", "green", "grass"];
    let mut lengths = [0; 3];
    pool.scope(|s| {
        for (word, length) in words.iter().zip(&mut lengths) {
            s.spawn(move || *length = word.len());
        }
    });
    say!("lengths {lengths:?}");

    complain!("{:.1} s", start.elapsed().as_secs_f64());
}
