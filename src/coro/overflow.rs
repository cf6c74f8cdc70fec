//! Stack overflow: a message that names the greenlet and the remedy, then abort. It never "recovers":
//! jumping out of an overflowed stack skips destructors and leaves locks locked for ever.
//!
//! The handler runs on the alternate signal stack, in a process that is about to die, so all it does is
//! compare an address, format into a buffer of its own, and write.

use std::fmt::{self, Write};
use std::io;
use std::mem;
use std::ops::Range;
use std::ptr;
use std::sync::{Once, OnceLock};

use crate::sys;
use crate::sys::mem::page_size;

/// Who is running on this thread, for the handler to name.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    /// An access in here is an overflow.
    pub(crate) guard: Range<usize>,
    /// Usable bytes of the stack.
    pub(crate) size: usize,
    pub(crate) id: u64,
    pub(crate) name: Option<&'a str>,
    /// Where it was spawned; `None` for the thread's own stack.
    pub(crate) spawned_at: Option<&'static std::panic::Location<'static>>,
    /// `greenlet`, or what else it is.
    pub(crate) what: &'static str,
    /// Tells its hub from the others that there are now.
    pub(crate) hub: usize,
    /// How far that hub has come.
    pub(crate) progress: u64,
    /// Whether it runs, and others of its hub cannot.
    pub(crate) holds_up: bool,
    /// Whether the stack can be walked from wherever the thread is now.
    pub(crate) walkable: bool,
}

/// Asks the hub of this thread who runs, and hands it to the function. Called from a signal handler.
pub(crate) type WhoRuns = fn(&mut dyn FnMut(&Running<'_>));

static WHO_RUNS: OnceLock<WhoRuns> = OnceLock::new();
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();
const SIGNALS: [libc::c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Installs the handler for the process, once, and sees to it that this thread has a signal stack.
pub(crate) fn install(who_runs: WhoRuns) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = WHO_RUNS.set(who_runs);
        let current = SIGNALS.map(|signal| {
            // SAFETY: sigaction is plain data, for which all zeros is a valid value.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            // SAFETY: reads the present action into a valid struct.
            unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
            action
        });
        // Set before ours is in force: the handler reads it.
        let _ = PREVIOUS.set(current);
        for signal in SIGNALS {
            // SAFETY: as above; the handler has the signature that SA_SIGINFO asks for, and only makes
            // async-signal-safe calls.
            unsafe {
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = handler as *const () as libc::sighandler_t;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(signal, &action, ptr::null_mut());
            }
        }
    });
    // Not while the thread-locals are destroyed: that late it can do without.
    let _ = SIGNAL_STACK.try_with(|_| {});
}

thread_local! {
    /// std gives its own threads a signal stack. A thread that C made has none: then we do.
    static SIGNAL_STACK: SignalStack = SignalStack::ensure();
}

#[derive(Debug)]
struct SignalStack {
    mapping: Option<(ptr::NonNull<u8>, usize)>,
}

impl SignalStack {
    fn ensure() -> Self {
        // SAFETY: stack_t is plain data; the call only reads the present setting into it.
        let current = unsafe {
            let mut current: libc::stack_t = mem::zeroed();
            libc::sigaltstack(ptr::null(), &mut current);
            current
        };
        // Room for the widest register state (AVX-512, AMX) that the kernel saves, and our frames. What std gives its
        // threads, 8 KiB or little more, is enough to report an overflow, but not to walk a stack (see `sample`).
        let len = (64 * 1024_usize).max(libc::SIGSTKSZ);
        if current.ss_flags & libc::SS_DISABLE == 0 && current.ss_size >= len / 2 {
            return SignalStack { mapping: None };
        }
        let Ok(start) = sys::mem::reserve(len) else {
            // Without a signal stack an overflow is a bare SIGSEGV, which is not worth failing for.
            return SignalStack { mapping: None };
        };
        let new = libc::stack_t { ss_sp: start.as_ptr().cast(), ss_flags: 0, ss_size: len };
        // SAFETY: the range is mapped, ours, and stays until the thread ends (see Drop).
        unsafe { libc::sigaltstack(&new, ptr::null_mut()) };
        SignalStack { mapping: Some((start, len)) }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        if let Some((start, len)) = self.mapping {
            let off = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: len };
            // SAFETY: the thread is ending and its signal stack is switched off before it is unmapped.
            unsafe {
                libc::sigaltstack(&off, ptr::null_mut());
                sys::mem::release(start, len);
            }
        }
    }
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; for these two signals it has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    who_runs(&mut |running| {
        if running.guard.contains(&address) {
            report(running);
            std::process::abort();
        }
    });
    pass_on(signal, info, context);
}

/// Tells who runs on this thread, if it has a hub. For signal handlers.
pub(super) fn who_runs(tell: &mut dyn FnMut(&Running<'_>)) {
    if let Some(who_runs) = WHO_RUNS.get() {
        who_runs(tell);
    }
}

/// Does what would have happened without us.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let position = SIGNALS.iter().position(|&s| s == signal).unwrap_or(0);
    let Some(previous) = PREVIOUS.get().map(|all| all[position]) else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The faulting instruction runs again when we return, and then the default action takes it.
            // (A fault cannot be ignored: the kernel would kill the process then, too.)
            // SAFETY: plain data, and a valid signal number.
            unsafe {
                let mut default: libc::sigaction = mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &default, ptr::null_mut());
            }
        }
        _ => call_action(&previous, signal, info, context),
    }
}

/// Calls the handler that `previous` names, if it does.
pub(super) fn call_action(
    previous: &libc::sigaction,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {}
        address if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with SA_SIGINFO, the field holds a function of this type.
            let action = unsafe { mem::transmute::<usize, Action>(address) };
            action(signal, info, context);
        }
        address => {
            // SAFETY: without SA_SIGINFO, the field holds a function of one argument.
            let action = unsafe { mem::transmute::<usize, extern "C" fn(libc::c_int)>(address) };
            action(signal);
        }
    }
}

fn report(running: &Running<'_>) {
    let mut text = Text { bytes: [0; 1024], len: 0 };
    let kib = running.size / 1024;
    let _ = match running.spawned_at {
        Some(place) => {
            let name = running.name.unwrap_or("unnamed");
            write!(
                text,
                "\nswitchgrass: greenlet {} '{name}' has overflowed its stack of {kib} KiB\n  \
                 spawned at {place}\n  \
                 remedy: give it more, Builder::new().stack_size({}), or recurse less\n",
                running.id,
                running.size * 2,
            )
        }
        None => write!(
            text,
            "\nswitchgrass: the main context {} of thread '{}' has overflowed the thread's stack of {kib} KiB\n  \
             remedy: raise `ulimit -s` (or std::thread::Builder::stack_size), recurse less, or run the work in a \
             greenlet with a larger stack, Builder::new().stack_size({})\n",
            running.id,
            running.name.unwrap_or("unnamed"),
            running.size * 2,
        ),
    };
    sys::write_stderr(&text.bytes[..text.len]);
}

/// A buffer to format into without allocating. What does not fit is cut off.
struct Text {
    bytes: [u8; 1024],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.bytes.len() - self.len;
        let taken = part.len().min(room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&part.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

/// The stack that the system gave this thread: where an overflow of it faults, and its size.
#[cfg(overflow_report)]
pub(crate) fn native_stack() -> io::Result<(Range<usize>, usize)> {
    // SAFETY: the attributes are initialised by the first call, read by the next two and destroyed by the last.
    unsafe {
        let mut attributes: libc::pthread_attr_t = mem::zeroed();
        let error = libc::pthread_getattr_np(libc::pthread_self(), &mut attributes);
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let (mut start, mut size, mut guard) = (ptr::null_mut(), 0, 0);
        libc::pthread_attr_getstack(&attributes, &mut start, &mut size);
        libc::pthread_attr_getguardsize(&attributes, &mut guard);
        libc::pthread_attr_destroy(&mut attributes);
        // glibc has counted the guard as part of the stack in some versions and not in others, and the main
        // thread has no guard but a gap that the kernel keeps: look on both sides of the end.
        let margin = guard.max(page_size());
        let start = start as usize;
        Ok((start.saturating_sub(margin)..start + margin, size))
    }
}

/// Not known here: overflows of the thread's own stack are left to std's handler.
#[cfg(not(overflow_report))]
pub(crate) fn native_stack() -> io::Result<(Range<usize>, usize)> {
    Err(io::ErrorKind::Unsupported.into())
}
