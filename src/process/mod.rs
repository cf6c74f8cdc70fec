//! Child processes: std's [`Command`](std::process::Command) and [`Child`](std::process::Child), whose
//! waits let other greenlets run.
//!
//! Porting is changing a `use`; what std has beside these ([`Stdio`], [`ExitStatus`], [`Output`]) is std's own.
//!
//! ```
//! use std::time::Duration;
//! use switchgrass::process::Command;
//! use switchgrass::{joinall, spawn};
//!
//! // Both run at once, and so would whatever else this thread has to do.
//! let dates = [1, 2].map(|n| spawn(move || Command::new("echo").arg(n.to_string()).output()));
//! let [one, two] = dates.map(|greenlet| greenlet.join().unwrap());
//! assert_eq!((&*one?.stdout, &*two?.stdout), (&b"1\n"[..], &b"2\n"[..]));
//!
//! let mut slow = Command::new("sleep").arg("3600").spawn()?;
//! assert_eq!(slow.wait_timeout(Duration::from_millis(10))?, None);
//! slow.kill()?;
//! assert!(!slow.wait()?.success());
//! # std::io::Result::Ok(())
//! ```
//!
//! # What to know
//!
//! - **Starting** a process is done on the spot, and blocks the thread until the new program runs: a fraction of a
//!   millisecond. It is not given to another thread, since much of what a child inherits is the thread's own: a
//!   namespace, a signal mask, and the parent whose death PR_SET_PDEATHSIG tells it of. With `pre_exec`, `uid` or `gid`
//!   std has to fork, which copies page tables: some 70 ms for 512 MiB of memory in use. Where that is too long,
//!   `unblock(move || command.spawn())` starts the child from another thread.
//! - **Waiting** concerns that one child only: nobody else's status is taken, and `SIGCHLD` is not touched where Linux
//!   can tell by a descriptor (5.3 and later). Elsewhere `SIGCHLD` is handled by [`signal`](crate::signal): if it was
//!   ignored it is not any more, and a handler that the program installs over it (with `sigaction`, after the wait has
//!   begun) has to call the one before.
//! - **If a greenlet that waits is killed or timed out**, its child goes on.
//! - **Dropping** a [`Child`] neither kills it nor waits for it, as in std. Its pipes are closed. When it has ended, the next
//!   [`Command::spawn`] of the process takes its status away (std leaves a zombie for the rest of the process's life). A
//!   [`std::process::Child`] made from it is left alone.
//! - **If the process ignores `SIGCHLD`** (SIG_IGN), the system keeps no statuses, and waiting fails with an error that says so.

mod child;
mod command;
mod exit;
mod pipe;

pub use std::process::{ExitStatus, Output, Stdio};

pub use self::child::Child;
pub use self::command::Command;
pub(crate) use self::exit::force_sigchld;
pub use self::pipe::{ChildStderr, ChildStdin, ChildStdout};
