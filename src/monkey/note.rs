//! Calls that do not wait, but change what is known of descriptors.
//!
//! # Safety
//!
//! All of these are called as the functions of libc whose names they have, and pass their arguments on.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "all are what the head says: libc's function, with its caller's arguments"
)]

use libc::{c_char, c_int, c_long, c_uint, c_ulong, c_void, clockid_t, sigset_t, sockaddr, socklen_t};

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

pub(super) unsafe fn creat(path: *const c_char, mode: c_uint) -> c_int {
    opened(unsafe { real::creat(path, mode) })
}

pub(super) unsafe fn creat64(path: *const c_char, mode: c_uint) -> c_int {
    opened(unsafe { real::creat64(path, mode) })
}

pub(super) unsafe fn timerfd_create(clock: clockid_t, flags: c_int) -> c_int {
    opened(unsafe { real::timerfd_create(clock, flags) })
}

pub(super) unsafe fn signalfd(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
    let result = unsafe { real::signalfd(fd, mask, flags) };
    // Given one that there is, it changes that.
    if fd == -1 { opened(result) } else { result }
}

pub(super) unsafe fn inotify_init() -> c_int {
    opened(unsafe { real::inotify_init() })
}

pub(super) unsafe fn inotify_init1(flags: c_int) -> c_int {
    opened(unsafe { real::inotify_init1(flags) })
}

pub(super) unsafe fn epoll_create(size: c_int) -> c_int {
    opened(unsafe { real::epoll_create(size) })
}

pub(super) unsafe fn epoll_create1(flags: c_int) -> c_int {
    opened(unsafe { real::epoll_create1(flags) })
}

pub(super) unsafe fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    opened(unsafe { real::memfd_create(name, flags) })
}

pub(super) unsafe fn fclose(file: *mut libc::FILE) -> c_int {
    // libc closes the number by itself. (There is none behind a file in memory.)
    if gate::is_open() {
        table::forget(unsafe { libc::fileno(file) });
    }
    unsafe { real::fclose(file) }
}

pub(super) unsafe fn close(fd: c_int) -> c_int {
    // Before, for after it the number may be somebody else's already.
    table::forget(fd);
    unsafe { real::close(fd) }
}

pub(super) unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 && first <= last {
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

/// `to` is about to become a duplicate of `fd`, if that is open.
fn replaced(fd: c_int, to: c_int) {
    if gate::is_open() && fd != to && unsafe { real::fcntl(fd, libc::F_GETFD, 0) } != -1 {
        table::forget(to);
    }
}

pub(super) unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    replaced(fd, to);
    unsafe { real::dup2(fd, to) }
}

pub(super) unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    replaced(fd, to);
    unsafe { real::dup3(fd, to, flags) }
}

pub(super) unsafe fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    noted(fd, command, |command| unsafe { real::fcntl(fd, command, argument) })
}

pub(super) unsafe fn fcntl64(fd: c_int, command: c_int, argument: c_long) -> c_int {
    noted(fd, command, |command| unsafe { real::fcntl64(fd, command, argument) })
}

fn noted(fd: c_int, command: c_int, call: impl Fn(c_int) -> c_int) -> c_int {
    let tries = match command {
        libc::F_GETFL => return table::flags_at_rest(|| call(command)),
        libc::F_SETFL => {
            return table::flags_at_rest(|| {
                let result = call(command);
                gate::settings_changed();
                result
            });
        }
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => return opened(call(command)),
        libc::F_SETLKW => libc::F_SETLK,
        libc::F_OFD_SETLKW => libc::F_OFD_SETLK,
        _ => return call(command),
    };
    match gate::gate(Parts::STREAMS.0) {
        Some(hub) => file::lock(hub, fd, || call(tries)),
        None => call(command),
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
    if number == libc::SYS_close {
        table::forget(a as c_int);
    }
    unsafe { super::futex::syscall(number, [a, b, c, d, e, f]) }
}
