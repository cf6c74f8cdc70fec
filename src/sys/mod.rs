//! The operating system, and nothing about green threads: errors, memory, clock, `errno`, descriptors.
//!
//! Every call that the library makes of a libc function which `monkey` will interpose is made here, so
//! that there is one place to point them at the real functions.

#![allow(unsafe_code)]

pub(crate) mod clock;
pub(crate) mod fd;
pub(crate) mod fork;
pub(crate) mod hooks;
pub(crate) mod lock;
pub(crate) mod mem;
pub(crate) mod names;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod sync;
pub(crate) mod workers;

use std::io;
use std::os::fd::AsRawFd;

/// Turns libc's `-1` into the `errno` that goes with it.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Where this thread's `errno` lives. The address is the thread's for life, so a hub asks for it once.
pub(crate) fn errno_location() -> *mut libc::c_int {
    #[cfg(target_os = "linux")]
    // SAFETY: no preconditions; returns the address of this thread's errno.
    unsafe {
        libc::__errno_location()
    }
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above, under the name that the BSDs and macOS have for it.
    unsafe {
        libc::__error()
    }
}

/// How many OS threads this process has; `None` where it cannot be told.
pub(crate) fn thread_count() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"))?;
    line.trim().parse().ok()
}

/// Writes to stderr without allocating or locking, for signal handlers and aborts. A message that cannot
/// be written is lost: there is nobody left to tell.
pub(crate) fn write_stderr(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: `rest` is a valid buffer of that length; write is async-signal-safe.
        let written = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
        if written <= 0 {
            return;
        }
        rest = &rest[written as usize..];
    }
}

/// Writes a byte to a descriptor that does not block, for signal handlers. If there is no room,
/// whoever reads it has enough to read.
pub(crate) fn write_byte(fd: std::os::fd::BorrowedFd<'_>) {
    // SAFETY: a valid buffer of one byte; write is async-signal-safe.
    hooks::aside(|| unsafe { libc::write(fd.as_raw_fd(), [0_u8].as_ptr().cast(), 1) });
}

/// This thread, for [`signal_thread`].
pub(crate) fn this_thread() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::pthread_self() as usize }
}

/// Sends a signal to one thread. `false`: that was refused.
///
/// # Safety
///
/// `thread` must be what [`this_thread`] has given on a thread that has not ended.
pub(crate) unsafe fn signal_thread(thread: usize, signal: libc::c_int) -> bool {
    // SAFETY: the caller's promise.
    unsafe { libc::pthread_kill(thread as libc::pthread_t, signal) == 0 }
}

/// Whether a debugger (or `strace`) is attached to this process, as far as the system tells.
pub(crate) fn is_traced() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    line.is_some_and(|tracer| tracer.trim() != "0")
}

/// Ends the process with a message, where going on would mean running on torn state.
#[cold]
pub(crate) fn abort(why: &str) -> ! {
    write_stderr(b"switchgrass: fatal: ");
    write_stderr(why.as_bytes());
    write_stderr(b"\n");
    std::process::abort()
}
