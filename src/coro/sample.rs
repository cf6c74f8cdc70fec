//! Signals of ours: one asks a thread where it stands right now, others wake up a thread that waits for them.
//!
//! The handlers run on the alternate signal stack, since the stack that was interrupted may be a greenlet's, with
//! little room left. They allocate nothing, take no lock, and pass signals on that are none of ours.
//!
//! ```text
//!   who asks                                the thread that is asked, in the handler
//!   1. state = ASKED, send the signal       2. state: ASKED → ANSWERING, or else: not for us
//!   4. ANSWERED: take it                    3. walk the stack, state = ANSWERED
//!   or, in time: state: ASKED → IDLE
//! ```
//!
//! A thread that is in the middle of a switch cannot be asked: between two instructions there, the stack pointer is of
//! one stack and the frame pointer of the other, which no unwind table tells. It says so, and is asked again later.
//!
//! The walk is the unwinder's of the C library. From glibc 2.35 on it finds its tables without a lock; on older
//! systems it takes one that a thread may hold while it loads a shared object, and since that lock is recursive
//! there, it does not block but may read a list that is just being changed. A function in hand-written assembly
//! without unwind tables ends the walk.

use std::cell::UnsafeCell;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::overflow::{self, Running};
use super::trace::Frames;
use crate::sys;
use crate::sys::fork;

/// Ignored by default and hardly used: what Go interrupts its threads with, too.
pub(crate) const DEFAULT: libc::c_int = libc::SIGURG;

/// Signals have lower numbers than this.
const SIGNALS: usize = 65;

/// What was done about a signal before we took it over. Set: our handler is in force.
static PREVIOUS: [OnceLock<libc::sigaction>; SIGNALS] = [const { OnceLock::new() }; SIGNALS];
/// What to write to when a signal comes, plus one.
static ALARMS: [AtomicI32; SIGNALS] = [const { AtomicI32::new(0) }; SIGNALS];
/// In which process, by its generation: in a forked child, the descriptor is its parent's, and nobody reads it here.
static ALARMS_OF: AtomicU32 = AtomicU32::new(0);

static STATE: AtomicU8 = AtomicU8::new(IDLE);
static TARGET: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: AtomicU64 = AtomicU64::new(ANY);
static ANSWER: Slot = Slot(UnsafeCell::new(Standing::NOTHING));

const IDLE: u8 = 0;
const ASKED: u8 = 1;
const ANSWERING: u8 = 2;
const ANSWERED: u8 = 3;
const MOVED_ON: u8 = 4;

/// Whatever the thread has done meanwhile.
pub(crate) const ANY: u64 = u64::MAX;

struct Slot(UnsafeCell<Standing>);

// SAFETY: written by the handler that has turned ASKED into ANSWERING, then read by the one asker, after ANSWERED.
unsafe impl Sync for Slot {}

/// Where a thread stands, and with whom.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) what: &'static str,
    pub(crate) id: u64,
    name: [u8; 64],
    name_len: usize,
    /// `None`: it is the thread's own context.
    pub(crate) spawned_at: Option<&'static Location<'static>>,
    /// Whether it keeps other tasks of its hub from running.
    pub(crate) holds_up: bool,
    pub(crate) frames: Frames,
}

impl Standing {
    const NOTHING: Standing = Standing {
        what: "",
        id: 0,
        name: [0; 64],
        name_len: 0,
        spawned_at: None,
        holds_up: false,
        frames: Frames::new(),
    };

    /// As far as there was room for it.
    pub(crate) fn name(&self) -> Option<String> {
        (self.name_len > 0).then(|| String::from_utf8_lossy(&self.name[..self.name_len]).into_owned())
    }
}

/// How long to wait before looking again. An answer takes some 10 µs if the thread runs.
const NAP: Duration = Duration::from_micros(200);

/// Why a thread does not tell where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoAnswer {
    /// It has come further, or is just about to: it switches, or is in its loop.
    MovesOn,
    /// It has ended, or has not answered in time.
    Silent,
}

/// Asks a thread where it stands. `target` is the hub it should have; `expected`, how far that should have come, or
/// [`ANY`]; `send` sends it the signal, which was installed before. Blocks this OS thread.
///
pub(crate) fn ask(
    target: usize,
    expected: u64,
    patience: Duration,
    send: impl FnOnce() -> bool,
) -> Result<Standing, NoAnswer> {
    let _turn = Turn::take();
    TARGET.store(target, Ordering::Relaxed);
    EXPECTED.store(expected, Ordering::Relaxed);
    STATE.store(ASKED, Ordering::Release);
    let until = Instant::now() + patience;
    let mut lost = !send();
    loop {
        match STATE.load(Ordering::Acquire) {
            ANSWERED => {
                // SAFETY: see `Slot`.
                let answer = unsafe { (*ANSWER.0.get()).clone() };
                STATE.store(IDLE, Ordering::Release);
                return Ok(answer);
            }
            MOVED_ON => {
                STATE.store(IDLE, Ordering::Release);
                return Err(NoAnswer::MovesOn);
            }
            // Or else it begins to answer just now: then that is waited for.
            ASKED
                if lost
                    && STATE.compare_exchange(ASKED, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() =>
            {
                return Err(NoAnswer::Silent);
            }
            _ => {}
        }
        lost = lost || Instant::now() >= until;
        sys::clock::nap(NAP);
    }
}

/// While it exists, nobody else asks. Who asked in the parent of a forked child is not there, so this is no mutex.
struct Turn;

/// The process that asks, by its generation; 0: nobody does.
static ASKER: AtomicU32 = AtomicU32::new(0);

impl Turn {
    fn take() -> Self {
        let own = fork::generation();
        loop {
            let asker = ASKER.load(Ordering::Relaxed);
            if asker != own
                && ASKER.compare_exchange(asker, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Turn;
            }
            sys::clock::nap(NAP);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ASKER.store(0, Ordering::Release);
    }
}

/// Has our handler called for `signal`, from now on and for good.
///
/// # Errors
///
/// `InvalidInput` for a signal that says what the thread itself has done (a fault, an abort), and for one that cannot be handled.
pub(crate) fn install(signal: libc::c_int) -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    const OF_THE_THREAD: [libc::c_int; 6] =
        [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];
    let slot = usize::try_from(signal).ok().and_then(|index| PREVIOUS.get(index));
    let Some(previous) = slot.filter(|_| !OF_THE_THREAD.contains(&signal)) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "signal {signal} cannot be used for this: take SIGURG, SIGUSR1, SIGUSR2 or a real-time signal"
            ),
        ));
    };
    let _guard = crate::sys::lock::lock(&ONE_AT_A_TIME);
    // From now on `generation` tells.
    fork::count();
    if previous.get().is_some() {
        return Ok(());
    }
    // SAFETY: plain data, for which zeros are valid; the handler has the signature that SA_SIGINFO asks
    // for, and is async-signal-safe.
    unsafe {
        let mut current: libc::sigaction = mem::zeroed();
        sys::check(libc::sigaction(signal, ptr::null(), &mut current))?;
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        // Set before ours is in force: the handler reads it.
        let _ = previous.set(current);
        sys::check(libc::sigaction(signal, &action, ptr::null_mut())).map_err(|error| {
            io::Error::new(error.kind(), format!("signal {signal} cannot be handled: {error}"))
        })?;
    }
    Ok(())
}

/// Something to read a byte from for each time that `signal` has come. One per signal, for good.
///
/// # Errors
///
/// As [`install`]; `AlreadyExists` the second time; no descriptors left.
pub(crate) fn alarm(signal: libc::c_int) -> io::Result<std::io::PipeReader> {
    install(signal)?;
    let (slot, own) = (&ALARMS[signal as usize], fork::generation());
    if ALARMS_OF.swap(own, Ordering::AcqRel) != own {
        ALARMS.iter().for_each(|alarm| alarm.store(0, Ordering::Release));
    }
    let (reader, writer) = std::io::pipe()?;
    let writer: OwnedFd = writer.into();
    // A handler must not wait for room: whoever has not read yet has been told.
    sys::fd::set_nonblocking(std::os::fd::AsFd::as_fd(&writer), true);
    if slot.compare_exchange(0, writer.as_raw_fd() + 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("something is done already when signal {signal} comes"),
        ));
    }
    mem::forget(writer);
    Ok(reader)
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let errno = sys::errno_location();
    // SAFETY: this thread's errno.
    let saved = unsafe { *errno };
    let index = signal as usize;
    let alarm = ALARMS[index].load(Ordering::Acquire);
    if alarm > 0 {
        if ALARMS_OF.load(Ordering::Acquire) != fork::generation() {
            return;
        }
        let fd = std::mem::ManuallyDrop::new(
            // SAFETY: the descriptor was opened by `alarm`, and is never closed.
            unsafe { OwnedFd::from_raw_fd(alarm - 1) },
        );
        sys::write_byte(std::os::fd::AsFd::as_fd(&*fd));
    } else if !answer(context)
        && let Some(previous) = PREVIOUS[index].get()
    {
        // A signal of ours that comes too late is nobody's: whoever had this signal before ignores it,
        // or may be called once too often.
        overflow::call_action(previous, signal, info, context);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Answers if this thread is asked. `false`: it is not.
fn answer(context: *mut libc::c_void) -> bool {
    if STATE.load(Ordering::Acquire) != ASKED {
        return false;
    }
    let mut answered = false;
    overflow::who_runs(&mut |running: &Running<'_>| {
        if TARGET.load(Ordering::Relaxed) != running.hub
            || STATE.compare_exchange(ASKED, ANSWERING, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return;
        }
        answered = true;
        let expected = EXPECTED.load(Ordering::Relaxed);
        if !running.walkable || (expected != ANY && expected != running.progress) {
            return STATE.store(MOVED_ON, Ordering::Release);
        }
        // SAFETY: see `Slot`.
        let standing = unsafe { &mut *ANSWER.0.get() };
        standing.what = running.what;
        standing.id = running.id;
        let name = running.name.unwrap_or_default().as_bytes();
        standing.name_len = name.len().min(standing.name.len());
        standing.name[..standing.name_len].copy_from_slice(&name[..standing.name_len]);
        standing.spawned_at = running.spawned_at;
        standing.holds_up = running.holds_up;
        standing.frames.clear();
        standing.frames.here();
        // SAFETY: the kernel passes the context that was interrupted.
        standing.frames.cut_above(unsafe { interrupted_at(context) });
        STATE.store(ANSWERED, Ordering::Release);
    });
    answered
}

/// The instruction that a signal has interrupted; 0 where we do not know how to find it.
///
/// # Safety
///
/// `context` must be what the handler was given.
unsafe fn interrupted_at(context: *mut libc::c_void) -> usize {
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe {
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] as usize
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    // SAFETY: the caller's promise.
    unsafe {
        (*context).uc_mcontext.pc as usize
    }
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        let _ = context;
        0
    }
}
