//! What the system does with a signal.

use std::io;
use std::mem;
use std::ptr;

use super::check;

/// What the system does with a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Disposition {
    /// The default action, which for most signals ends the process.
    Default,
    Ignored,
    /// Somebody handles it.
    Handled,
}

/// What becomes of that signal now.
pub(crate) fn disposition(signal: libc::c_int) -> io::Result<Disposition> {
    Ok(match action_of(signal)?.sa_sigaction {
        libc::SIG_DFL => Disposition::Default,
        libc::SIG_IGN => Disposition::Ignored,
        _ => Disposition::Handled,
    })
}

/// Has the handler of that signal run on the thread's signal stack, instead of on that of the greenlet which happens to
/// run: the register state alone that the kernel saves takes some KiB there, which a small stack may not have left.
pub(crate) fn run_on_signal_stack(signal: libc::c_int) -> io::Result<()> {
    let mut action = action_of(signal)?;
    if action.sa_flags & libc::SA_ONSTACK != 0 {
        return Ok(());
    }
    action.sa_flags |= libc::SA_ONSTACK;
    // SAFETY: the action is the present one, so its handler is one that may be installed. On a thread without a
    // signal stack the flag means nothing.
    check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }).map(drop)
}

fn action_of(signal: libc::c_int) -> io::Result<libc::sigaction> {
    // SAFETY: sigaction is plain data, for which all zeros is a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: reads the present action into a valid struct, and changes nothing.
    check(unsafe { libc::sigaction(signal, ptr::null(), &mut action) })?;
    Ok(action)
}
