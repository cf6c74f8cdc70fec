//! A function that waits is an ordinary function, and so is the one that calls it: no callback, no `async`, no colour.
//!
//! ```text
//! cargo run --release --example compute
//! ```
//!
//! Takes a second, though each of the thousand and three sums takes one.

use std::time::{Duration, Instant};

use switchgrass::{joinall, sleep, spawn};

#[macro_use]
mod common;

/// A sum that is long in coming.
fn compute(x: u32, y: u32) -> u32 {
    sleep(Duration::from_secs(1));
    x + y
}

/// Calls `compute`, and need not know that it waits.
fn print_sum(x: u32, y: u32) {
    say!("compute {x} + {y} ...");
    let sum = compute(x, y);
    say!("{x} + {y} = {sum}");
}

fn main() {
    let start = Instant::now();

    let printed = [(1, 2), (30, 4), (500, 60)].map(|(x, y)| spawn(move || print_sum(x, y)));
    let many: Vec<_> = (1..=1000).map(|n| spawn(move || compute(n, n))).collect();

    joinall(&printed);
    let total: u32 = many.into_iter().map(|sum| sum.join().expect("it only adds")).sum();
    say!("and 1000 more, {total} in all");

    // Not to stdout, which is the same in every run.
    complain!("{:.1} s", start.elapsed().as_secs_f64());
}
