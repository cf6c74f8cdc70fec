//! Signal handlers: what they call is left as it is, for they interrupt whatever runs. And the waits for blocked
//! signals, which have none.
//!
//! The handler that the system knows is ours, which counts that one is running and calls the program's. Asked for the
//! handler, we give the program's.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{c_int, c_void, sighandler_t, siginfo_t, sigset_t, timespec};

use super::process::{self, Watched};
use super::{errno, fail, gate, originals as real, table, time};
use crate::hub::{Direction, Hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{self, Handlers, Reason};

const SIGNALS: usize = 65;

/// What the program has installed: the address of its handler, by signal.
static HANDLERS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Whether the program has ever installed one.
pub(super) fn has_handlers() -> bool {
    INSTALLED.load(Ordering::Relaxed)
}

/// Whether it is a function.
fn is_function(handler: sighandler_t) -> bool {
    handler != libc::SIG_DFL && handler != libc::SIG_IGN
}

struct Running;

impl Running {
    fn begin() -> Self {
        gate::IN_HANDLER.set(gate::IN_HANDLER.get() + 1);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gate::IN_HANDLER.set(gate::IN_HANDLER.get() - 1);
    }
}

extern "C" fn with_information(signal: c_int, information: *mut siginfo_t, context: *mut c_void) {
    let handler = HANDLERS[signal as usize].load(Ordering::Acquire);
    if !is_function(handler) {
        return;
    }
    let _running = Running::begin();
    if let Some(home) = task::here() {
        home.signal_handled(RESTARTS[signal as usize].load(Ordering::Acquire));
    }
    // SAFETY: installed by the program with SA_SIGINFO, or without, in which case it does not look at the other
    // arguments.
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { std::mem::transmute(handler) };
    handler(signal, information, context);
}

fn ours() -> sighandler_t {
    with_information as *const () as sighandler_t
}

/// # Safety
///
/// As libc's.
pub(super) unsafe fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the caller's pointers, here and below.
    unsafe {
        let Some(place) = usize::try_from(signal).ok().and_then(|signal| HANDLERS.get(signal)) else {
            return real::sigaction(signal, new, old);
        };
        let before = place.load(Ordering::Acquire);
        let ours_installed = |result: c_int| {
            if result == 0
                && let Some(old) = old.as_mut()
                && old.sa_sigaction == ours()
            {
                old.sa_sigaction = before;
                // Whether the program's takes three arguments, is in the flag that it was installed with.
                if UNMARKED[signal as usize].load(Ordering::Acquire) != 0 {
                    old.sa_flags &= !libc::SA_SIGINFO;
                }
            }
            result
        };
        let Some(wanted) = new.as_ref().filter(|new| gate::is_open() && is_function(new.sa_sigaction)) else {
            return ours_installed(real::sigaction(signal, new, old));
        };
        if wanted.sa_sigaction == ours() {
            return ours_installed(real::sigaction(signal, new, old));
        }
        let mut action = *wanted;
        action.sa_sigaction = ours();
        INSTALLED.store(true, Ordering::SeqCst);
        let unmarked = UNMARKED[signal as usize].load(Ordering::Acquire);
        let result = {
            // Before, for the signal may come at once.
            RESTARTS[signal as usize].store(wanted.sa_flags & libc::SA_RESTART != 0, Ordering::Release);
            place.store(wanted.sa_sigaction, Ordering::Release);
            action.sa_flags |= libc::SA_SIGINFO;
            real::sigaction(signal, &action, old)
        };
        if result != 0 {
            place.store(before, Ordering::Release);
            return result;
        }
        if let Some(old) = old.as_mut()
            && old.sa_sigaction == ours()
        {
            old.sa_sigaction = before;
            if unmarked != 0 {
                old.sa_flags &= !libc::SA_SIGINFO;
            }
        }
        UNMARKED[signal as usize]
            .store(usize::from(wanted.sa_flags & libc::SA_SIGINFO == 0), Ordering::Release);
        result
    }
}

/// The program's handler was installed with `SA_RESTART`.
static RESTARTS: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];

/// The program's handler takes one argument.
static UNMARKED: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];

/// # Safety
///
/// As libc's.
pub(super) unsafe fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    if !gate::is_open() {
        // SAFETY: the caller's arguments.
        return unsafe { real::signal(signal, handler) };
    }
    // SAFETY: actions of zeros are valid, and written in part here; the handler is the caller's.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = handler;
        // As BSD's and glibc's `signal`.
        new.sa_flags = libc::SA_RESTART;
        match sigaction(signal, &new, &mut old) {
            0 => old.sa_sigaction,
            _ => libc::SIG_ERR,
        }
    }
}

// ---- Waiting for blocked signals ----

/// POSIX has no `EINTR` for it: a handler of another signal does not end it.
pub(super) unsafe fn sigwait(hub: &Hub, set: *const sigset_t, signal: *mut c_int) -> c_int {
    // SAFETY: the caller's pointers, here and below.
    unsafe {
        let mut information = MaybeUninit::uninit();
        match wait(hub, set, information.as_mut_ptr(), NEVER, Handlers::None) {
            Ok(found) => {
                *signal = found;
                0
            }
            Err(error) => error,
        }
    }
}

pub(super) unsafe fn sigwaitinfo(hub: &Hub, set: *const sigset_t, information: *mut siginfo_t) -> c_int {
    // SAFETY: as above.
    unsafe { sigtimedwait(hub, set, information, std::ptr::null()) }
}

pub(super) unsafe fn sigtimedwait(
    hub: &Hub,
    set: *const sigset_t,
    information: *mut siginfo_t,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let deadline = match timeout.as_ref() {
            None => NEVER,
            Some(timeout) if !time::is_valid(timeout) => return fail(libc::EINVAL),
            Some(timeout) => hub.deadline(time::duration(timeout)),
        };
        wait(hub, set, information, deadline, Handlers::All).unwrap_or_else(fail)
    }
}

/// Tries, without waiting, whenever a signal of the set has come to this thread or its process. One that others take
/// first is waited for anew.
unsafe fn wait(
    hub: &Hub,
    set: *const sigset_t,
    information: *mut siginfo_t,
    deadline: Nanos,
    ended_by: Handlers,
) -> Result<c_int, i32> {
    const REASON: Reason = Reason::new("a blocked signal");
    const ZERO: timespec = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    let look = || match unsafe { real::sigtimedwait(set, information, &ZERO) } {
        -1 if errno() == libc::EAGAIN => None,
        -1 => Some(Err(errno())),
        signal => Some(Ok(signal)),
    };
    hub.be_fair_foreign();
    table::answer(hub.verdict())?;
    if let Some(found) = look() {
        return found;
    }
    if deadline <= hub.read_clock() {
        return Err(libc::EAGAIN);
    }
    // SAFETY: as above.
    let watch = unsafe { signalfd(set) }.and_then(|fd| Watched::watch(hub, fd));
    let mut pauses = process::pauses();
    loop {
        if let Some(watch) = &watch {
            hub.fd_exhausted(watch.slot, Direction::Read);
        }
        if let Some(found) = look() {
            return found;
        }
        let waited = match &watch {
            Some(watch) => {
                let fd = watch.fd.as_fd();
                hub.wait_fd_foreign(watch.slot, fd, Direction::Read, REASON, deadline, ended_by)
                    .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?
            }
            // There is no descriptor left, or no memory for it.
            None => {
                let _outside = hub.outside_wait();
                let pause = hub.deadline(pauses.next().unwrap_or_default());
                hub.park_foreign(REASON, pause.min(deadline), ended_by)
            }
        };
        let waited = table::answer(waited);
        // If there is one just when the wait is cut short, that counts.
        match (look(), waited) {
            (Some(found), _) => return found,
            (None, Err(error)) => return Err(error),
            (None, Ok(_)) if hub.read_clock() >= deadline => return Err(libc::EAGAIN),
            (None, Ok(_)) => {}
        }
    }
}

/// A descriptor that tells of these signals. `None`: there is none to be had.
unsafe fn signalfd(set: *const sigset_t) -> Option<OwnedFd> {
    // SAFETY: the caller's set; the number is new, and nobody else's.
    unsafe {
        match real::signalfd(-1, set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) {
            -1 => None,
            fd => Some(OwnedFd::from_raw_fd(fd)),
        }
    }
}
