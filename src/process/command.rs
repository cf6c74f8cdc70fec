//! How to start a process.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, CommandArgs, CommandEnvs, ExitStatus, Output, Stdio};

use super::child::{Child, reap_orphans};

/// Starts processes; as [`std::process::Command`], with the methods of [`CommandExt`].
///
/// ```
/// use switchgrass::process::Command;
///
/// let output = Command::new("sh").args(["-c", "echo $GREETING"]).env("GREETING", "hello").output()?;
/// assert!(output.status.success());
/// assert_eq!(output.stdout, b"hello\n");
/// # std::io::Result::Ok(())
/// ```
#[doc(alias = "Popen")]
pub struct Command {
    std: process::Command,
    /// Which of stdin, stdout and stderr were set: what the others are depends on how the process is started.
    set: [bool; 3],
}

impl Command {
    /// See [`std::process::Command::new`].
    pub fn new<S: AsRef<OsStr>>(program: S) -> Command {
        process::Command::new(program).into()
    }

    /// See [`std::process::Command::arg`].
    pub fn arg<S: AsRef<OsStr>>(&mut self, arg: S) -> &mut Command {
        self.with(|std| std.arg(arg))
    }

    /// See [`std::process::Command::args`].
    pub fn args<I, S>(&mut self, args: I) -> &mut Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.with(|std| std.args(args))
    }

    /// See [`std::process::Command::env`].
    pub fn env<K, V>(&mut self, key: K, val: V) -> &mut Command
    where
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        self.with(|std| std.env(key, val))
    }

    /// See [`std::process::Command::envs`].
    pub fn envs<I, K, V>(&mut self, vars: I) -> &mut Command
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        self.with(|std| std.envs(vars))
    }

    /// See [`std::process::Command::env_remove`].
    pub fn env_remove<K: AsRef<OsStr>>(&mut self, key: K) -> &mut Command {
        self.with(|std| std.env_remove(key))
    }

    /// See [`std::process::Command::env_clear`].
    pub fn env_clear(&mut self) -> &mut Command {
        self.with(process::Command::env_clear)
    }

    /// See [`std::process::Command::current_dir`].
    pub fn current_dir<P: AsRef<Path>>(&mut self, dir: P) -> &mut Command {
        self.with(|std| std.current_dir(dir))
    }

    /// What the process's stdin is: inherited by default, and nothing for [`output`](Self::output).
    pub fn stdin<T: Into<Stdio>>(&mut self, cfg: T) -> &mut Command {
        self.set[0] = true;
        self.with(|std| std.stdin(cfg))
    }

    /// What the process's stdout is: inherited by default, and a pipe for [`output`](Self::output).
    pub fn stdout<T: Into<Stdio>>(&mut self, cfg: T) -> &mut Command {
        self.set[1] = true;
        self.with(|std| std.stdout(cfg))
    }

    /// What the process's stderr is: inherited by default, and a pipe for [`output`](Self::output).
    pub fn stderr<T: Into<Stdio>>(&mut self, cfg: T) -> &mut Command {
        self.set[2] = true;
        self.with(|std| std.stderr(cfg))
    }

    /// See [`CommandExt::uid`].
    pub fn uid(&mut self, id: u32) -> &mut Command {
        self.with(|std| std.uid(id))
    }

    /// See [`CommandExt::gid`].
    pub fn gid(&mut self, id: u32) -> &mut Command {
        self.with(|std| std.gid(id))
    }

    /// See [`CommandExt::arg0`].
    pub fn arg0<S: AsRef<OsStr>>(&mut self, arg: S) -> &mut Command {
        self.with(|std| std.arg0(arg))
    }

    /// See [`CommandExt::process_group`].
    pub fn process_group(&mut self, pgroup: i32) -> &mut Command {
        self.with(|std| std.process_group(pgroup))
    }

    /// See [`CommandExt::pre_exec`].
    ///
    /// # Safety
    ///
    /// `f` runs in the new process, between `fork` and `exec`: it may do only what is allowed there, as std
    /// explains. Nothing of this library is.
    pub unsafe fn pre_exec<F>(&mut self, f: F) -> &mut Command
    where
        F: FnMut() -> io::Result<()> + Send + Sync + 'static,
    {
        // SAFETY: the caller's promise, which is the same.
        self.with(|std| unsafe { std.pre_exec(f) })
    }

    /// Replaces this process by the program; see [`CommandExt::exec`]. Returns only if that fails. No destructors run.
    pub fn exec(&mut self) -> io::Error {
        self.std.exec()
    }

    /// Starts the process. Its stdin, stdout and stderr are inherited, unless set otherwise.
    ///
    /// Blocks the thread until the new program runs; see the [module](super) for why, and for how to avoid it. Does not switch.
    ///
    /// # Errors
    ///
    /// As std's: `NotFound` and `PermissionDenied` for the program or the directory, and what the system says if a
    /// limit is reached. No process and no descriptor is left then.
    pub fn spawn(&mut self) -> io::Result<Child> {
        self.spawn_with([Stdio::inherit, Stdio::inherit, Stdio::inherit])
    }

    /// Starts the process, and waits until it has ended. May switch.
    ///
    /// If the greenlet is killed or timed out meanwhile, the process goes on.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Child::wait`].
    pub fn status(&mut self) -> io::Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Starts the process, and waits until it has ended: gives what it has written, and its status. Stdin is empty,
    /// unless set otherwise. May switch.
    ///
    /// If the greenlet is killed or timed out meanwhile, what was read is lost, the pipes are closed, and the process goes on: it
    /// gets SIGPIPE when it writes. To kill it then, use [`spawn`](Self::spawn), which gives the [`Child`].
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn) and [`Child::wait_with_output`].
    #[doc(alias = "check_output")]
    pub fn output(&mut self) -> io::Result<Output> {
        self.spawn_with([Stdio::null, Stdio::piped, Stdio::piped])?.wait_with_output()
    }

    /// See [`std::process::Command::get_program`].
    pub fn get_program(&self) -> &OsStr {
        self.std.get_program()
    }

    /// See [`std::process::Command::get_args`].
    pub fn get_args(&self) -> CommandArgs<'_> {
        self.std.get_args()
    }

    /// See [`std::process::Command::get_envs`].
    pub fn get_envs(&self) -> CommandEnvs<'_> {
        self.std.get_envs()
    }

    /// See [`std::process::Command::get_current_dir`].
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.std.get_current_dir()
    }

    fn with(&mut self, change: impl FnOnce(&mut process::Command) -> &mut process::Command) -> &mut Command {
        change(&mut self.std);
        self
    }

    /// Starts the process with these for what was not set.
    fn spawn_with(&mut self, defaults: [fn() -> Stdio; 3]) -> io::Result<Child> {
        reap_orphans();
        self.fill_in(defaults);
        let child = crate::sys::hooks::aside(|| self.std.spawn());
        self.fill_in([Stdio::inherit; 3]);
        child.map(Child::from)
    }

    fn fill_in(&mut self, [stdin, stdout, stderr]: [fn() -> Stdio; 3]) {
        if !self.set[0] {
            self.std.stdin(stdin());
        }
        if !self.set[1] {
            self.std.stdout(stdout());
        }
        if !self.set[2] {
            self.std.stderr(stderr());
        }
    }
}

impl From<process::Command> for Command {
    /// What its stdin, stdout and stderr were set to cannot be seen: set them again on this one, or they are as if they were not.
    fn from(std: process::Command) -> Self {
        Command { std, set: [false; 3] }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.std.fmt(f)
    }
}
