//! Monkey patching: unmodified blocking code becomes cooperative.
//!
//! ```no_run
//! use switchgrass::{joinall, spawn};
//!
//! // SAFETY: nothing in this program keeps a thread-local borrowed or set while it waits.
//! unsafe { switchgrass::monkey::patch_all() };
//! let sleepers: Vec<_> = (0..1000).map(|_| spawn(|| std::thread::sleep(std::time::Duration::from_secs(1)))).collect();
//! joinall(&sleepers); // takes one second, on one OS thread
//! ```

#![allow(unsafe_code)]

mod file;
mod futex;
mod gate;
mod name;
mod note;
mod process;
mod ready;
mod signal;
mod socket;
mod symbols;
mod table;
mod time;

use std::fmt;
use std::ops::BitOr;
use std::sync::atomic::Ordering;

pub use self::gate::no_switch;
pub use self::symbols::originals;

/// What can be patched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parts(u32);

impl Parts {
    /// `sleep`, `usleep`, `nanosleep`, `clock_nanosleep`, `sched_yield`.
    pub const TIME: Parts = Parts(1);
    /// `connect`, `accept`, `recv`, `send` and their relatives.
    pub const SOCKETS: Parts = Parts(1 << 1);
    /// `read`, `write` and their relatives, on sockets, pipes, terminals and whatever else can be waited for, apart from standard input, output and error.
    pub const STREAMS: Parts = Parts(1 << 2);
    /// `poll`, `select`, `epoll_wait` and their relatives.
    pub const READY: Parts = Parts(1 << 3);
    /// `getaddrinfo`, `getnameinfo`, `gethostbyname`, `gethostbyaddr` and their relatives, on threads of [`dns::threadpool`](crate::dns::threadpool).
    pub const NAMES: Parts = Parts(1 << 4);
    /// `waitpid` and its relatives, `system`, `pclose`. (Who reads from what `popen` gives by `fread` or `fgets` waits within libc, and blocks the OS
    /// thread.)
    pub const PROCESSES: Parts = Parts(1 << 5);
    /// std's locks and `thread::park`, pthread's locks, semaphores, and the join of threads.
    pub const LOCKS: Parts = Parts(1 << 6);
    /// What signal handlers call is left alone. Part of everything.
    const SIGNALS: Parts = Parts(1 << 7);
    /// `read` and `write` on regular files, on a thread of the [pool](crate::threadpool). Not in [`Parts::ALL`].
    pub const FILES: Parts = Parts(1 << 8);
    /// All but [`Parts::FILES`].
    pub const ALL: Parts = Parts((1 << 8) - 1);

    /// Whether all of `other` is in this.
    pub const fn contains(self, other: Parts) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Parts {
    type Output = Parts;

    fn bitor(self, other: Parts) -> Parts {
        Parts(self.0 | other.0)
    }
}

const NAMED: [(Parts, &str); 9] = [
    (Parts::TIME, "TIME"),
    (Parts::SOCKETS, "SOCKETS"),
    (Parts::STREAMS, "STREAMS"),
    (Parts::READY, "READY"),
    (Parts::NAMES, "NAMES"),
    (Parts::PROCESSES, "PROCESSES"),
    (Parts::LOCKS, "LOCKS"),
    (Parts::SIGNALS, "SIGNALS"),
    (Parts::FILES, "FILES"),
];

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (part, name) in NAMED {
            if self.contains(part) {
                write!(f, "{separator}{name}")?;
                separator = " | ";
            }
        }
        if separator.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Has everything that [`Parts::ALL`] names wait for the greenlet, and not for the OS thread, from now on.
///
/// To be called first in `main`.
///
/// # Panics
///
/// If it is not possible here: see [`patch`].
///
/// # Safety
///
/// As [`patch`].
pub unsafe fn patch_all() {
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { patch(Parts::ALL) } {
        panic!("{error}");
    }
}

/// Has some calls of libc's wait for the greenlet, and not for the OS thread, from now on.
///
/// # Errors
///
/// If a symbol of the running program does not resolve to ours, or std is not as this crate knows it; then nothing is patched.
///
/// # Safety
///
/// From now on a call that blocks lets other greenlets of its thread run. Code that was written for threads may not expect that: between the call
/// and its return, what is *per thread* is used by others, too. Whoever patches promises that nothing in the program which keeps something per thread over such a
/// call relies on it being untouched for soundness. (Or that [`no_switch`] is around it.)
pub unsafe fn patch(parts: Parts) -> Result<Report, PatchError> {
    let parts = parts | Parts::SIGNALS;
    let report = Report::now(parts);
    if let Some(lost) = report.symbols.iter().find(|symbol| !symbol.is_ours) {
        return Err(PatchError(format!(
            "cannot patch: the symbol `{}` of this program is not switchgrass's, but that of {}. (Is this a shared library, or was it linked with another \
             library before this one that interposes it?)",
            lost.name, lost.owner
        )));
    }
    if report.symbols.is_empty() {
        return Err(PatchError(
            "cannot patch: on this platform switchgrass does not interpose libc".to_owned(),
        ));
    }
    if parts.contains(Parts::LOCKS) {
        futex::learn().map_err(PatchError)?;
    }
    gate::PATCHED.fetch_or(parts.0, Ordering::SeqCst);
    gate::settings_changed();
    Ok(Report { parts: patched(), ..report })
}

/// What is patched.
pub fn patched() -> Parts {
    Parts(gate::PATCHED.load(Ordering::Relaxed))
}

/// Whether all of these are.
pub fn is_patched(parts: Parts) -> bool {
    patched().contains(parts)
}

/// What is patched, and whose the symbols of the running program are.
pub fn report() -> Report {
    Report::now(Parts::ALL | Parts::FILES)
}

/// See [`report()`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// What is patched.
    pub parts: Parts,
    /// The functions of libc that there are replacements for.
    pub symbols: Vec<Symbol>,
}

/// A function of libc.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Symbol {
    /// Its name.
    pub name: &'static str,
    /// What it belongs to.
    pub part: Parts,
    /// Whether the program's calls of it come to this crate.
    pub is_ours: bool,
    /// The file whose function it is.
    pub owner: String,
}

impl Report {
    fn now(parts: Parts) -> Report {
        let symbols = symbols::SYMBOLS.iter().filter(|symbol| parts.contains(symbol.part)).map(|symbol| {
            // SAFETY: a name that ends with a zero.
            let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.name.as_ptr()) };
            let mut information = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
            // SAFETY: dladdr writes the whole structure if it gives something else than 0, and strings in it stay.
            let owner = unsafe {
                match libc::dladdr(address, information.as_mut_ptr()) {
                    0 => String::from("nobody"),
                    _ => std::ffi::CStr::from_ptr((*information.as_ptr()).dli_fname)
                        .to_string_lossy()
                        .into_owned(),
                }
            };
            Symbol {
                name: symbol.name.to_str().expect("a name of letters"),
                part: symbol.part,
                is_ours: std::ptr::eq(address, (symbol.ours)()),
                owner,
            }
        });
        Report { parts: patched(), symbols: symbols.collect() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "patched: {:?}", self.parts)?;
        for symbol in &self.symbols {
            let whose = if symbol.is_ours { "switchgrass" } else { &symbol.owner };
            writeln!(f, "{:24} {:10} {whose}", symbol.name, format!("{:?}", symbol.part))?;
        }
        Ok(())
    }
}

/// Why nothing was patched.
#[derive(Debug, Clone)]
pub struct PatchError(String);

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatchError {}

fn errno() -> i32 {
    // SAFETY: this thread's errno.
    unsafe { *crate::sys::errno_location() }
}

fn set_errno(error: i32) {
    // SAFETY: as above.
    unsafe { *crate::sys::errno_location() = error };
}

/// The result of a call that fails with that number.
#[cold]
fn fail(error: i32) -> libc::ssize_t {
    set_errno(error);
    -1
}
