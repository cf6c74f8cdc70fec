//! Checks of those parts of switchgrass that cross threads: no message slept over, nothing handed over twice or lost, one at a time.
//!
//! What is checked is the library's own source, file by file, compiled here a second time by `#[path]`. Below it are stand-ins: `hub` and `task`
//! are a scheduler in which each task has a thread for itself (so what is modelled is the wait between threads, the hard case), and
//! `sys` gives out atomics, cells and locks that see each access. There are no stacks to switch, no poller and no clock: a deadline passes when
//! the check says so.
//!
//! ```text
//! cargo test --release -p protocols                             exhaustive, by loom: each order, each value that may be read
//! cargo +nightly miri test -p protocols --no-default-features   the same checks in Miri: some orders, but all rules on pointers
//! ```
//!
//! Loom takes a sequentially consistent access for an acquiring and releasing one. So what passes here does not depend on
//! the sequential consistency of accesses. That of fences it knows.
//!
//! That a check can fail is checked, too: see `mistakes`.

#![cfg(test)]
// The stand-ins have what the compiled files name, and the files have what is used elsewhere.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unfulfilled_lint_expectations,
    clippy::disallowed_methods,
    clippy::missing_const_for_thread_local
)]

#[path = "../../../src/channel/mod.rs"]
mod channel;
mod coro;
mod greenlet;
mod hub;
mod model;
mod sync;
mod sys;
mod task;
#[path = "../../../src/wait.rs"]
mod wait;

mod checks;
#[cfg(not(feature = "loom"))]
mod line;
#[cfg(feature = "loom")]
mod mistakes;
#[cfg(feature = "loom")]
mod seen;
