//! Test programs whose cases have a process each: this executable again, with the name of the case in the environment.
//!
//! There is no test harness in it, on a thread of which the case would run: it has the *main* thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, thread};

pub(crate) trait Case: Sync {
    fn name(&self) -> &'static str;

    /// What the child does on its main thread.
    fn child(&self);

    /// What the parent then finds. It panics if that is wrong.
    fn check(&self, outcome: &Outcome);
}

/// One that fails by itself: by a panic.
impl Case for (&'static str, fn()) {
    fn name(&self) -> &'static str {
        self.0
    }

    fn child(&self) {
        (self.1)();
    }

    fn check(&self, outcome: &Outcome) {
        assert!(outcome.status.success());
    }
}

pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The `main` of such a program. It runs so many cases at a time; one that hangs is ended after `seconds`.
pub(crate) fn main(cases: &[impl Case], at_a_time: usize, seconds: u32) -> ExitCode {
    if let Ok(name) = env::var(SELECTED) {
        let case = cases.iter().find(|case| case.name() == name).expect("the parent knows the names");
        // SAFETY: alarm takes a number.
        unsafe { libc::alarm(seconds) };
        case.child();
        return ExitCode::SUCCESS;
    }

    // As much of the harness's command line as `cargo test` and people use.
    let mut filters = Vec::new();
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--list" => {
                cases.iter().for_each(|case| println!("{}: test", case.name()));
                return ExitCode::SUCCESS;
            }
            "--ignored" => return ExitCode::SUCCESS,
            "--test-threads" | "--skip" | "--color" | "--format" | "-Z" => drop(arguments.next()),
            flag if flag.starts_with('-') => {}
            _ => filters.push(argument),
        }
    }
    let selected = cases
        .iter()
        .filter(|case| filters.is_empty() || filters.iter().any(|part| case.name().contains(part)));

    let (passed, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let selected = Mutex::new(selected);
    thread::scope(|s| {
        for _ in 0..at_a_time {
            s.spawn(|| {
                loop {
                    let Some(case) = selected.lock().unwrap().next() else { return };
                    let count = if passes(case) { &passed } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    println!("\ntest result: {passed} passed; {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const SELECTED: &str = "SWITCHGRASS_CASE";

fn passes(case: &impl Case) -> bool {
    let child = Command::new(env::current_exe().unwrap())
        .env(SELECTED, case.name())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let outcome = Outcome {
        status: child.status,
        stdout: String::from_utf8_lossy(&child.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&child.stderr).into_owned(),
    };
    let passes = catch_unwind(AssertUnwindSafe(|| case.check(&outcome))).is_ok();
    println!("test {} ... {}", case.name(), if passes { "ok" } else { "FAILED" });
    if !passes {
        let Outcome { status, stdout, stderr } = outcome;
        println!("  {status}\n--- stdout\n{stdout:.5000}--- stderr\n{stderr:.5000}---");
    }
    passes
}
