//! A process that was started.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{self, ExitStatus, Output};
use std::sync::Mutex;
use std::time::Duration;

use super::exit;
use super::pipe::{ChildStderr, ChildStdin, ChildStdout};
use crate::descriptor::Io;
use crate::greenlet::scope;
use crate::hub::hub;
use crate::signal::SIGCHLD;
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::signal::{Disposition, disposition};
use crate::task::Reason;

/// A process that [`Command::spawn`](super::Command::spawn) has started; as [`std::process::Child`].
///
/// Dropping it neither kills the process nor waits for it; see the [module](super).
pub struct Child {
    /// The pipe to its stdin, if [`Stdio::piped`](super::Stdio::piped) was asked for.
    pub stdin: Option<ChildStdin>,
    /// The pipe from its stdout, if `Stdio::piped` was asked for.
    pub stdout: Option<ChildStdout>,
    /// The pipe from its stderr, if `Stdio::piped` was asked for.
    pub stderr: Option<ChildStderr>,
    process: Process,
}

impl Child {
    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.process.std().id()
    }

    /// Kills the process (SIGKILL). One that has ended is left alone. Does not wait: [`wait`](Self::wait) does.
    ///
    /// # Errors
    ///
    /// As std's: if it is not allowed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.send_signal(libc::SIGKILL)
    }

    /// Sends the process a signal: SIGTERM, say, to ask it to end. One that has ended is left alone.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for what is not a signal; `PermissionDenied`, if the process runs as another user by now.
    pub fn send_signal(&mut self, signal: i32) -> io::Result<()> {
        match self.process.std_mut().try_wait() {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        match sys::process::kill(self.id(), signal) {
            // It has ended just now, and SIGCHLD is ignored.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// The status, if the process has ended. Does not switch.
    ///
    /// # Errors
    ///
    /// If the status is lost, since the process ignores SIGCHLD, or somebody else has waited for this child.
    #[doc(alias = "poll")]
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.look()
    }

    /// Waits until the process has ended, and gives its status. Closes the pipe to its stdin first, as std does, so
    /// that it does not wait for us. May switch.
    ///
    /// Killed or timed out while it waits, it can be called again.
    ///
    /// # Errors
    ///
    /// As [`try_wait`](Self::try_wait). In a destructor that runs while its greenlet unwinds: `WouldBlock`, if the
    /// process has not ended. As the system's, if it has no descriptor left for this.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.wait_until(NEVER)? {
            Some(status) => Ok(status),
            None => unreachable!("there is no deadline"),
        }
    }

    /// As [`wait`](Self::wait), for no longer than `duration`: `None` if the process has not ended by then. It goes on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, duration: Duration) -> io::Result<Option<ExitStatus>> {
        self.wait_until(hub().deadline(duration))
    }

    fn wait_until(&mut self, deadline: Nanos) -> io::Result<Option<ExitStatus>> {
        drop(self.stdin.take());
        self.process.wait(deadline)
    }

    /// Waits until the process has ended, and gives its status and what it has written to those of its stdout and stderr that are
    /// pipes. Closes the pipe to its stdin first: take it out before to write to it from another greenlet. May switch.
    ///
    /// Killed or timed out while it waits, it closes the pipes, and what was read is lost; the process goes on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    /// use switchgrass::process::{Command, Stdio};
    ///
    /// let mut sort = Command::new("sort").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    /// let mut input = sort.stdin.take().unwrap();
    /// // If the pipe is full, this waits until more is read.
    /// let writer = switchgrass::spawn(move || input.write_all(b"green\nblue\n"));
    /// assert_eq!(sort.wait_with_output()?.stdout, b"blue\ngreen\n");
    /// writer.join().unwrap()?;
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "communicate")]
    pub fn wait_with_output(mut self) -> io::Result<Output> {
        drop(self.stdin.take());
        hub().may_suspend(Reason::of("output of child process", u64::from(self.id())))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        match (self.stdout.take(), self.stderr.take()) {
            (Some(out), Some(err)) => {
                // One after the other, the process might wait for us to read the other one.
                let (read_out, read_err) = scope(|s| {
                    let err = s.spawn(|| read_all(err, &mut stderr));
                    (read_all(out, &mut stdout), err.join())
                });
                read_out?;
                read_err.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
            }
            (Some(out), None) => read_all(out, &mut stdout)?,
            (None, Some(err)) => read_all(err, &mut stderr)?,
            (None, None) => {}
        }
        let status = self.wait()?;
        Ok(Output { status, stdout, stderr })
    }
}

/// Reads to the end, and closes the pipe.
fn read_all(mut pipe: impl Read, all: &mut Vec<u8>) -> io::Result<()> {
    pipe.read_to_end(all).map(drop)
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("id", &self.id())
            .field("stdin", &self.stdin)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .finish_non_exhaustive()
    }
}

impl From<process::Child> for Child {
    fn from(mut std: process::Child) -> Self {
        Child {
            stdin: std.stdin.take().map(Into::into),
            stdout: std.stdout.take().map(Into::into),
            stderr: std.stderr.take().map(Into::into),
            process: Process { std: Some(std), pidfd: None },
        }
    }
}

impl From<Child> for process::Child {
    /// The pipes become blocking again. Nobody but you waits for the process from now on.
    fn from(mut ours: Child) -> Self {
        let mut std = ours.process.std.take().expect("it is taken once");
        std.stdin = ours.stdin.take().map(Into::into);
        std.stdout = ours.stdout.take().map(Into::into);
        std.stderr = ours.stderr.take().map(Into::into);
        std
    }
}

/// The process itself. std's part looks for its end, remembers the status, and takes no other child's.
struct Process {
    /// `None` only when it has been given away.
    std: Option<process::Child>,
    /// From the first wait on, until the end is known.
    pidfd: Option<Io<OwnedFd>>,
}

impl Process {
    fn std(&self) -> &process::Child {
        self.std.as_ref().expect("whoever takes it takes the whole Child")
    }

    fn std_mut(&mut self) -> &mut process::Child {
        self.std.as_mut().expect("whoever takes it takes the whole Child")
    }

    fn look(&mut self) -> io::Result<Option<ExitStatus>> {
        look(self.std_mut())
    }

    fn wait(&mut self, deadline: Nanos) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.look()? {
            return Ok(Some(status));
        }
        let pid = self.std().id();
        if self.pidfd.is_none() {
            self.pidfd = exit::pidfd(pid)?;
        }
        let Process { std: Some(std), pidfd } = self else { unreachable!("as in `std`") };
        let status = exit::wait(pid, pidfd.as_ref(), deadline, || look(std))?;
        if status.is_some() {
            *pidfd = None;
        }
        Ok(status)
    }
}

fn look(child: &mut process::Child) -> io::Result<Option<ExitStatus>> {
    child.try_wait().map_err(|error| if is_gone(&error) { lost_status(child.id()) } else { error })
}

/// There is no such child: somebody else has taken its status, or the system has not kept it.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECHILD)
}

fn lost_status(pid: u32) -> io::Error {
    let why = match disposition(SIGCHLD) {
        Ok(Disposition::Ignored) => {
            "this process ignores SIGCHLD, so the system keeps no statuses: set it to SIG_DFL, or handle it"
        }
        _ => {
            "other code has waited for it, or the process has ignored SIGCHLD meanwhile: wait for it in one place only"
        }
    };
    io::Error::other(format!("the exit status of child process {pid} is lost (ECHILD): {why}"))
}

/// Children that were dropped before their end was known.
static ORPHANS: Mutex<Vec<process::Child>> = Mutex::new(Vec::new());

/// Takes the statuses of dropped children that have ended, so that they do not stay as zombies.
///
/// Done when a new one is started: then there are never more of them than were dropped since the last time.
pub(super) fn reap_orphans() {
    // One call of `waitpid` each.
    let mut orphans = crate::sys::lock::lock(&ORPHANS);
    orphans.retain_mut(|orphan| matches!(orphan.try_wait(), Ok(None)));
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut std) = self.std.take() else { return };
        if matches!(std.try_wait(), Ok(None)) {
            crate::sys::lock::lock(&ORPHANS).push(std);
        }
    }
}
