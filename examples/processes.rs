//! Two child processes at once, a third that takes too long, and one whose input and output are both ours.
//!
//! ```text
//! cargo run --release --example processes
//! ```
//!
//! As in gevent's `processes.py`. `switchgrass::process` has the types and methods of `std::process`, but a greenlet
//! that waits for a child lets the others run.

use std::io::{self, Write};
use std::time::Duration;

use switchgrass::process::{Child, Command, Stdio};
use switchgrass::{sleep, spawn};

#[macro_use]
mod common;

fn start(program: &str, arguments: &[&str]) -> io::Result<Child> {
    Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

fn main() -> io::Result<()> {
    // Both run by now. Each greenlet reads what its child writes, until that has ended.
    let uname = start("uname", &["-s"])?;
    let echo = start("echo", &["hello from a child"])?;
    let outputs = [uname, echo].map(|child| spawn(|| child.wait_with_output()));
    for greenlet in outputs {
        let output = greenlet.join().expect("no panic")?;
        say!("{}: {}", output.status, String::from_utf8_lossy(&output.stdout).trim_end());
    }

    // This one would take an hour. We give it a fifth of a second, and meanwhile do something else.
    let mut slow = start("sleep", &["3600"])?;
    let busy = spawn(|| {
        for n in 1..=3 {
            sleep(Duration::from_millis(10));
            say!("something else, {n}");
        }
    });
    match slow.wait_timeout(Duration::from_millis(200))? {
        Some(status) => say!("sleep: {status}"),
        None => {
            say!("sleep: still running, so we kill it");
            slow.kill()?;
            say!("sleep: {}", slow.wait()?);
        }
    }
    busy.join().expect("no panic");

    // More than fits into a pipe: who writes all of it before reading waits for ever. A greenlet for each direction does not.
    let mut sort = start("sort", &["-n"])?;
    let mut input = sort.stdin.take().expect("it is piped");
    let numbers: String = (0..100_000).rev().map(|n| format!("{n}\n")).collect();
    let writer = spawn(move || input.write_all(numbers.as_bytes()));
    let output = sort.wait_with_output()?;
    writer.join().expect("no panic")?;
    let sorted = String::from_utf8_lossy(&output.stdout);
    say!(
        "sort: {} lines, from {:?} to {:?}",
        sorted.lines().count(),
        sorted.lines().next(),
        sorted.lines().last()
    );
    Ok(())
}
