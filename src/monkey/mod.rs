//! Monkey patching: unmodified blocking code becomes cooperative.
//!
//! With the feature `monkey`, this crate defines functions with the names of libc's that block, and so comes before
//! libc for std, for every Rust crate and for the shared C libraries of the program. After [`patch_all`], a call of one
//! of them by a greenlet lets the others run, and blocks nobody but its greenlet:
//!
//! ```no_run
//! use std::time::Duration;
//! use switchgrass::{joinall, spawn};
//!
//! // SAFETY: nothing in this program relies on anything per thread over a call that blocks.
//! unsafe { switchgrass::monkey::patch_all() };
//! let sleepers: Vec<_> = (0..1000).map(|_| spawn(|| std::thread::sleep(Duration::from_secs(1)))).collect();
//! joinall(&sleepers); // takes one second, on one OS thread
//! ```
//!
//! # When a call waits for its greenlet, and when for the thread
//!
//! Only a call that would block comes into question, by a context that can wait: a greenlet, a coroutine, or the main
//! context of a thread that has a hub (that has used this crate). All else goes to libc: calls of other threads; before
//! `patch_all`; inside the loop itself, this crate's own sections and [`no_switch`]; while the thread unwinds, and in
//! the panic hook; in signal handlers that were installed after patching; in the child of a `fork` until its loop has
//! run; on descriptors 0, 1 and 2.
//!
//! A call that finds what it wants makes one system call, as without us; `accept`, `connect` and `sendfile` make a few
//! more (see below).
//!
//! # What the calls mean
//!
//! What POSIX and Linux say. A descriptor that the program has made non-blocking (by `fcntl`, `ioctl`, `accept4`, …,
//! through whichever duplicate) never waits; `SO_RCVTIMEO` and `SO_SNDTIMEO` hold; `MSG_DONTWAIT`, `MSG_WAITALL` and
//! `MSG_PEEK` mean what they mean. Many greenlets may wait for the same descriptor. One that is closed meanwhile gives
//! `EBADF` to those who wait for it.
//!
//! The kernel's flags of a descriptor are the program's own, before and after: sockets are tried with
//! `MSG_DONTWAIT`, other streams with `RWF_NOWAIT`. Only `accept`, `connect` and `sendfile` have no such flag: the
//! descriptor is non-blocking for the moment of the system call. Another *process* that has the same one, and calls
//! in that moment, may see `EAGAIN`; and so may a thread of this process that has no hub, in the moment of a
//! `connect` or `sendfile`.
//!
//! # Kill and timeout
//!
//! Neither can unwind through C frames, nor through std's below `extern "C"`. So the call fails, with `ECANCELED` after
//! a [`kill`](crate::Greenlet::kill) and `ETIMEDOUT` when a [`timeout`](fn@crate::timeout) has run out; each later call
//! of that greenlet that could block fails at once, too; and the greenlet unwinds at the next place where it waits in
//! this crate. What has no way to fail goes on:
//!
//! - a sleep ends early, and says that nothing is left;
//! - a wait for a lock returns once for nothing, and then goes on until the lock is there (or the time that the program
//!   has set is over): the kill stays pending.
//!
//! # std's locks and threads
//!
//! `Mutex`, `RwLock`, `Condvar`, `Once`, `OnceLock`, `LazyLock`, `Barrier`, `thread::park` and `JoinHandle::join` work
//! between greenlets of one hub, of several, and OS threads. A guard may be held while its greenlet waits for something
//! else. Who unlocks, and so wakes a greenlet of its own thread, lets that one run.
//!
//! - **`std::sync::mpsc`** works between a greenlet and other *threads*. Between two greenlets of one thread a blocking
//!   `recv` is not woken: std passes over receivers of the sender's own thread (`std/src/sync/mpmc/waker.rs`). Use
//!   [`channel`](mod@crate::channel).
//! - **`thread::park`**: std has one token per OS thread. A park of one greenlet may return for nothing when another
//!   one is meant (which std allows); and if several greenlets of a thread are parked, an `unpark` from that thread
//!   itself may take a quarter of a millisecond for each of them to arrive.
//! - **`ReentrantLock`**, `stdout().lock()` and the like belong to the OS thread: do not hold
//!   one over a call that blocks.
//! - **`parking_lot`** has one place per OS thread in its queues, which two greenlets of a thread would share, and tear.
//!   So a greenlet that waits for one of its locks or conditions blocks the thread, as without us. If another greenlet
//!   of that thread has the lock, and waits for something else meanwhile, that is for ever. Before such a lock waits it
//!   calls `sched_yield`, which lets others run: in the middle of locking another one, or (seldom) of unlocking. After a
//!   second of such a wait, a message is written to standard error, once. Where several greenlets of a thread use one
//!   lock, use std's, which wait for their greenlet; or put [`no_switch`] around what holds it, so that nobody else of
//!   the thread comes to want it.
//!
//! # Files
//!
//! A regular file is always "ready", and the kernel has no way to read it without blocking. By default such calls
//! go straight through: from the page cache a read of 4 KiB takes a few microseconds, and on a thread of the pool
//! several times as long (`cargo bench --bench work -- file_read` measures both). [`Parts::FILES`] sends them to
//! the pool: for slow or remote disks. `open`, `stat`, `fsync` and so on always go straight through;
//! [`fs`](crate::fs) has all of them on the pool.
//!
//! # What cannot be had
//!
//! Calls that do not come by a symbol: those within libc itself (stdio on a socket, the resolver's own `poll`: so name
//! lookups are run on threads), system calls in assembly (Go, rustix with its `linux_raw` backend), statically linked C
//! libraries with a libc of their own. `io_uring`. They block the thread.
//!
//! # Soundness
//!
//! Why patching is `unsafe`: see [`patch`].

#![allow(unsafe_code)]

mod file;
mod fortified;
mod futex;
mod gate;
mod name;
mod note;
mod parker;
mod process;
mod ready;
mod signal;
mod socket;
mod storage;
mod symbols;
mod table;
mod thread;
mod time;
mod waiters;

use std::fmt;
use std::ops::BitOr;

pub use self::gate::{is_patched, no_switch, patched};
pub use self::symbols::originals;

/// What can be patched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parts(u32);

impl Parts {
    /// `sleep`, `usleep`, `nanosleep`, `clock_nanosleep`, `sched_yield`.
    pub const TIME: Parts = Parts(1);
    /// `connect`, `accept`, `recv`, `send` and their relatives.
    pub const SOCKETS: Parts = Parts(1 << 1);
    /// `read`, `write` and their relatives, on sockets, pipes, terminals and whatever else can be waited for, apart
    /// from standard input, output and error; and the locks of files.
    pub const STREAMS: Parts = Parts(1 << 2);
    /// `poll`, `select`, `epoll_wait` and their relatives.
    pub const READY: Parts = Parts(1 << 3);
    /// `getaddrinfo`, `getnameinfo`, `gethostbyname`, `gethostbyaddr` and their relatives, on threads of
    /// [`dns::threadpool`](crate::dns::threadpool).
    pub const NAMES: Parts = Parts(1 << 4);
    /// `waitpid` and its relatives, `system`, `pclose`. (`popen` only starts a command. Who reads what it gives by
    /// `fread` or `fgets` waits within libc, and blocks the OS thread; who reads its `fileno` by `read` waits for the
    /// greenlet.)
    pub const PROCESSES: Parts = Parts(1 << 5);
    /// std's locks and `thread::park`, pthread's locks, semaphores, and the join of threads.
    pub const LOCKS: Parts = Parts(1 << 6);
    /// What signal handlers call is left alone. Part of everything.
    const SIGNALS: Parts = Parts(1 << 7);
    /// `read`, `write` and their relatives on regular files, on a thread of the
    /// [pool](crate::threadpool). Not in [`Parts::ALL`].
    pub const FILES: Parts = Parts(1 << 8);
    /// All but [`Parts::FILES`].
    pub const ALL: Parts = Parts((1 << 8) - 1);

    /// Whether all of `other` is in this.
    #[inline]
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
/// If a symbol of the running program does not resolve to ours, or std is not as this crate
/// knows it; then nothing is patched.
///
/// # Safety
///
/// From now on a call that blocks lets other greenlets of its thread run. Code that was written for threads may not
/// expect that: between the call and its return, what is *per thread* is used by others, too. Whoever patches promises
/// that no code in the program relies for its soundness on something per thread that it keeps over such a call; or that
/// [`no_switch`] is around it. Examples of such code:
///
/// - a thread-local that is set to a borrowed pointer for the time of a closure, and restored after it (the crate
///   `scoped-tls` and those of its kind): two greenlets that do so in turns leave each other's pointers behind;
/// - a buffer in an `UnsafeCell` per thread that is in use while the thread reads from a socket.
///
/// Not unsound, but a panic: a `RefCell` in a thread-local that stays borrowed over a call that blocks is found
/// borrowed by the next greenlet.
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
        parker::learn().map_err(PatchError)?;
        thread::learn().map_err(PatchError)?;
        storage::learn();
    }
    table::watch_forks();
    waiters::watch_forks();
    thread::watch_forks();
    gate::open(parts);
    Ok(Report { parts: patched(), ..report })
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
        // In a shared library, our own references to these names go where the program's do. So what counts is
        // the file that the function is in.
        static HERE: u8 = 0;
        let (own, _) = file_of((&raw const HERE).cast());
        let symbols = symbols::SYMBOLS.iter().filter(|symbol| parts.contains(symbol.part)).map(|symbol| {
            // SAFETY: a name that ends with a zero.
            let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.name.as_ptr()) };
            let (file, owner) = file_of(address);
            Symbol {
                name: symbol.name.to_str().expect("a name of letters"),
                part: symbol.part,
                is_ours: file == own && std::ptr::eq(address, (symbol.ours)()),
                owner,
            }
        });
        Report { parts: patched(), symbols: symbols.collect() }
    }
}

/// Where the file begins in memory that an address belongs to, and its name.
fn file_of(address: *const libc::c_void) -> (usize, String) {
    let mut information = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr writes the whole structure if it gives something else than 0; its strings stay
    // as long as the file is loaded.
    unsafe {
        match libc::dladdr(address, information.as_mut_ptr()) {
            0 => (0, String::from("nobody")),
            _ => {
                let information = information.assume_init();
                let name = std::ffi::CStr::from_ptr(information.dli_fname);
                (information.dli_fbase.addr(), name.to_string_lossy().into_owned())
            }
        }
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

/// For tests: see [`kept_by_monkey`](crate::testing::kept_by_monkey).
pub(crate) fn kept() -> [usize; 5] {
    let [waiting, held, barriers] = thread::kept();
    [waiters::addresses().len(), waiting, held, barriers, table::registered()]
}

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
fn fail<T: From<i8>>(error: i32) -> T {
    set_errno(error);
    T::from(-1)
}
