//! What C code calls that was compiled with `_FORTIFY_SOURCE`: the same functions, told how
//! large the caller's buffer is.
//!
//! A call that fits is the one without the size. One that does not goes to libc's function, which ends the process.
//!
//! glibc has more names for the same functions: `__read`, `__poll`, `__connect` and so on. Those are for its own parts
//! (the modules of the name service, the resolver), which call them with locks of libc's held that no greenlet can
//! wait for. They are left alone.

#![allow(clippy::too_many_arguments)]

use libc::{c_int, c_void, nfds_t, pollfd, sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::{originals as real, ready, socket};
use crate::hub::Hub;

pub(super) unsafe fn read(hub: &Hub, fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t {
    // SAFETY: the caller's arguments, here and below.
    unsafe {
        match len <= size {
            true => socket::read(hub, fd, buf, len),
            false => real::__read_chk(fd, buf, len, size),
        }
    }
}

pub(super) unsafe fn recv(
    hub: &Hub,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    size: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        match len <= size {
            true => socket::recv(hub, fd, buf, len, flags),
            false => real::__recv_chk(fd, buf, len, size, flags),
        }
    }
}

pub(super) unsafe fn recvfrom(
    hub: &Hub,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    size: size_t,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        match len <= size {
            true => socket::recvfrom(hub, fd, buf, len, flags, address, address_len),
            false => real::__recvfrom_chk(fd, buf, len, size, flags, address, address_len),
        }
    }
}

fn fits(count: nfds_t, size: size_t) -> bool {
    size / size_of::<pollfd>() >= count as usize
}

pub(super) unsafe fn poll(hub: &Hub, fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int {
    // SAFETY: as above.
    unsafe {
        match fits(count, size) {
            true => ready::poll(hub, fds, count, timeout),
            false => real::__poll_chk(fds, count, timeout, size),
        }
    }
}

pub(super) unsafe fn ppoll(
    hub: &Hub,
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    size: size_t,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        match fits(count, size) {
            true => ready::ppoll(hub, fds, count, timeout, mask),
            false => real::__ppoll_chk(fds, count, timeout, mask, size),
        }
    }
}
