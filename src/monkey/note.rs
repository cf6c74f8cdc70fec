//! Calls that do not wait, but change what is known of descriptors.
//!
//! # Safety
//!
//! All of these are called as the functions of libc whose names they have, and pass their arguments on.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "all are what the head says: libc's function, with its caller's arguments"
)]

use libc::{c_char, c_int, c_long, c_uint, c_ulong, c_void, sockaddr, socklen_t};

use super::{Parts, gate, originals as real, socket, table};

/// A number that was just given out.
#[inline]
fn opened(fd: c_int) -> c_int {
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

pub(super) unsafe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    opened(unsafe { real::socket(domain, kind, protocol) })
}

pub(super) unsafe fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int {
    unsafe { opened_two(real::socketpair(domain, kind, protocol, fds), fds) }
}

pub(super) unsafe fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    unsafe {
        match gate::gate(Parts::SOCKETS.0) {
            Some(hub) => socket::accept4(hub, fd, address, len, 0),
            None => retried(|| real::accept(fd, address, len), fd),
        }
    }
}

pub(super) unsafe fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    unsafe {
        match gate::gate(Parts::SOCKETS.0) {
            Some(hub) => socket::accept4(hub, fd, address, len, flags),
            None => retried(|| real::accept4(fd, address, len, flags), fd),
        }
    }
}

/// An OS thread accepts. It may meet the moment in which a greenlet's call has made the listener non-blocking.
fn retried(accept: impl Fn() -> c_int, fd: c_int) -> c_int {
    loop {
        let result = accept();
        if result >= 0 || !gate::is_open() || super::errno() != libc::EAGAIN || !socket::is_toggled_or_was(fd)
        {
            return opened(result);
        }
    }
}

pub(super) unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    let result = unsafe { real::setsockopt(fd, level, option, value, len) };
    if level == libc::SOL_SOCKET && matches!(option, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) {
        gate::settings_changed();
    }
    result
}

pub(super) unsafe fn pipe(fds: *mut c_int) -> c_int {
    unsafe { opened_two(real::pipe(fds), fds) }
}

pub(super) unsafe fn pipe2(fds: *mut c_int, flags: c_int) -> c_int {
    unsafe { opened_two(real::pipe2(fds, flags), fds) }
}

pub(super) unsafe fn eventfd(value: c_uint, flags: c_int) -> c_int {
    opened(unsafe { real::eventfd(value, flags) })
}

pub(super) unsafe fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    opened(unsafe { real::open(path, flags, mode) })
}

pub(super) unsafe fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    opened(unsafe { real::open64(path, flags, mode) })
}

pub(super) unsafe fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    opened(unsafe { real::openat(dir, path, flags, mode) })
}

pub(super) unsafe fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    opened(unsafe { real::openat64(dir, path, flags, mode) })
}

pub(super) unsafe fn close(fd: c_int) -> c_int {
    // Before, for after it the number may be somebody else's already.
    table::forget(fd);
    unsafe { real::close(fd) }
}

pub(super) unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 {
        table::forget_range(first, last);
    }
    unsafe { real::close_range(first, last, flags) }
}

pub(super) unsafe fn closefrom(first: c_int) {
    table::forget_range(first.max(0) as c_uint, c_uint::MAX);
    unsafe { real::closefrom(first) }
}

pub(super) unsafe fn dup(fd: c_int) -> c_int {
    opened(unsafe { real::dup(fd) })
}

pub(super) unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    if fd != to {
        table::forget(to);
    }
    unsafe { real::dup2(fd, to) }
}

pub(super) unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if fd != to {
        table::forget(to);
    }
    unsafe { real::dup3(fd, to, flags) }
}

pub(super) unsafe fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    noted(command, || unsafe { real::fcntl(fd, command, argument) })
}

pub(super) unsafe fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int {
    noted(command, || unsafe { real::fcntl64(fd, command, argument) })
}

fn noted(command: c_int, call: impl FnOnce() -> c_int) -> c_int {
    match command {
        libc::F_GETFL => table::flags_at_rest(call),
        libc::F_SETFL => table::flags_at_rest(|| {
            let result = call();
            gate::settings_changed();
            result
        }),
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => opened(call()),
        _ => call(),
    }
}

pub(super) unsafe fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let call = || unsafe { real::ioctl(fd, request, argument) };
    if request != libc::FIONBIO as c_ulong {
        return call();
    }
    table::flags_at_rest(|| {
        let result = call();
        gate::settings_changed();
        result
    })
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
    unsafe { super::futex::syscall(number, [a, b, c, d, e, f]) }
}
