//! Calls that do not wait, but change what is known of descriptors.
//!
//! # Safety
//!
//! All of these are called as the functions of libc whose names they have, and pass their arguments on.

use libc::{c_int, c_long, c_uint, c_ulong, c_void, sigset_t, sockaddr, socklen_t};

use super::{Parts, file, gate, originals as real, socket, table};

/// A number that was just given out.
#[inline]
pub(super) fn opened(fd: c_int) -> c_int {
    if fd >= 0 {
        table::forget(fd);
    }
    fd
}

unsafe fn opened_two(result: c_int, fds: *const c_int) -> c_int {
    if result == 0 && gate::is_open() {
        // SAFETY: libc has just written two numbers there.
        unsafe {
            opened(*fds);
            opened(*fds.add(1));
        }
    }
    result
}

pub(super) unsafe fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int {
    // SAFETY: the caller's arguments, here and below.
    unsafe { opened_two(real::socketpair(domain, kind, protocol, fds), fds) }
}

pub(super) unsafe fn pipe(fds: *mut c_int) -> c_int {
    // SAFETY: as above.
    unsafe { opened_two(real::pipe(fds), fds) }
}

pub(super) unsafe fn pipe2(fds: *mut c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { opened_two(real::pipe2(fds, flags), fds) }
}

pub(super) unsafe fn signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
    // SAFETY: as above.
    let result = unsafe { real::signalfd(fd, mask, flags) };
    // Given one that there is, it changes that.
    if fd == -1 { opened(result) } else { result }
}

pub(super) unsafe fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: as above.
    unsafe { accept_by(|| real::accept(fd, address, len), fd, address, len, 0) }
}

pub(super) unsafe fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { accept_by(|| real::accept4(fd, address, len, flags), fd, address, len, flags) }
}

unsafe fn accept_by(
    real: impl Fn() -> c_int,
    fd: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    if let Some(hub) = gate::gate(Parts::SOCKETS) {
        // SAFETY: as above.
        return unsafe { socket::accept4(hub, fd, address, len, flags) };
    }
    loop {
        let result = real();
        // An OS thread may meet the moment in which a greenlet's call has made the listener non-blocking.
        let again =
            result < 0 && gate::is_open() && super::errno() == libc::EAGAIN && socket::is_toggled_or_was(fd);
        if !again {
            return opened(result);
        }
    }
}

pub(super) unsafe fn fclose(file: *mut libc::FILE) -> c_int {
    // libc closes the number by itself. (There is none behind a file in memory.)
    if gate::is_open() {
        // SAFETY: the caller's stream, which is still open.
        table::forget(unsafe { libc::fileno(file) });
    }
    // SAFETY: as above.
    unsafe { real::fclose(file) }
}

pub(super) unsafe fn close(fd: c_int) -> c_int {
    // Before, for after it the number may be somebody else's already.
    table::forget(fd);
    // SAFETY: as above.
    unsafe { real::close(fd) }
}

pub(super) unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 && first <= last {
        table::forget_range(first, last);
    }
    // SAFETY: as above.
    unsafe { real::close_range(first, last, flags) }
}

pub(super) unsafe fn closefrom(first: c_int) {
    table::forget_range(first.max(0) as c_uint, c_uint::MAX);
    // SAFETY: as above.
    unsafe { real::closefrom(first) }
}

pub(super) unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    replaced(fd, to);
    // SAFETY: as above.
    unsafe { real::dup2(fd, to) }
}

pub(super) unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    replaced(fd, to);
    // SAFETY: as above.
    unsafe { real::dup3(fd, to, flags) }
}

/// `to` is about to become a duplicate of `fd`, if that is open.
fn replaced(fd: c_int, to: c_int) {
    // SAFETY: F_GETFD takes no argument.
    let is_open = || unsafe { real::fcntl(fd, libc::F_GETFD, 0) } != -1;
    if gate::is_open() && fd != to && is_open() {
        table::forget(to);
    }
}

pub(super) unsafe fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: as above.
    fcntl_by(|command| unsafe { real::fcntl(fd, command, argument) }, fd, command)
}

pub(super) unsafe fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: as above.
    fcntl_by(|command| unsafe { real::fcntl64(fd, command, argument) }, fd, command)
}

fn fcntl_by(real: impl Fn(c_int) -> c_int, fd: c_int, command: c_int) -> c_int {
    let call = || real(command);
    let lock = |attempt| match gate::gate(Parts::STREAMS) {
        Some(hub) => file::lock(hub, fd, || real(attempt)),
        None => call(),
    };
    match command {
        libc::F_GETFL => table::flags_at_rest(call),
        libc::F_SETFL => table::flags_at_rest(|| with_new_settings(call)),
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => opened(call()),
        libc::F_SETLKW => lock(libc::F_SETLK),
        libc::F_OFD_SETLKW => lock(libc::F_OFD_SETLK),
        _ => call(),
    }
}

pub(super) unsafe fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: as above.
    let real = || unsafe { real::ioctl(fd, request, argument) };
    match request == libc::FIONBIO as c_ulong {
        true => table::flags_at_rest(|| with_new_settings(real)),
        false => real(),
    }
}

pub(super) unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: as above.
    let real = || unsafe { real::setsockopt(fd, level, option, value, len) };
    match level == libc::SOL_SOCKET && matches!(option, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) {
        true => with_new_settings(real),
        false => real(),
    }
}

/// The call sets something that is known of descriptors.
fn with_new_settings(call: impl FnOnce() -> c_int) -> c_int {
    let result = call();
    gate::settings_changed();
    result
}

pub(super) unsafe fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_close {
        table::forget(a as c_int);
    }
    // SAFETY: as above.
    unsafe { super::futex::syscall(number, [a, b, c, d, e, f]) }
}
