//! Two greenlets that sleep, and `joinall`, which waits for both: for as long as the longer one takes, not for the sum.
//!
//! ```text
//! cargo run --release --example sleepers
//! ```
//!
//! Takes two seconds. A greenlet that sleeps lets the others run, so both start, and the shorter sleep ends first.

use std::time::Duration;

use switchgrass::{joinall, sleep, spawn};

#[macro_use]
mod common;

fn run1() {
    say!("run1 start");
    sleep(Duration::from_secs(2));
    say!("run1 end");
}

fn run2() {
    say!("run2 start");
    sleep(Duration::from_secs(1));
    say!("run2 end");
}

fn main() {
    joinall(&[spawn(run1), spawn(run2)]);
}
