//! Signal handlers: what they call is left as it is, for they interrupt whatever runs.
//!
//! The handler that the system knows is ours, which counts that one is running and calls the program's. Asked for the handler, we give the program's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{c_int, c_void, sighandler_t, siginfo_t};

use super::{gate, originals as real};
use crate::task;

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
    // SAFETY: installed by the program with SA_SIGINFO, or without, in which case it does not look at the other arguments.
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
