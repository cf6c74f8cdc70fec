//! Sockets, and what reads and writes: pipes, terminals, eventfds.
//!
//! A call is tried without blocking, and waits only if it would have to. For sockets that is `MSG_DONTWAIT`; for what
//! has no flags, `RWF_NOWAIT`, or where the kernel does not know that, a look with `poll` first.

use std::os::fd::RawFd;
use std::ptr;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::table::{self, Entry, Kind, Waited};
use super::{errno, fail, note, originals as real};
use crate::descriptor::Direction;
use crate::hub::Hub;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Handlers, Reason};

/// What a try found.
pub(super) enum Tried {
    Done(ssize_t),
    /// It would block.
    Blocks,
}

/// The result of a call of libc's.
pub(super) fn tried(result: ssize_t) -> Tried {
    if result == -1 && matches!(errno(), libc::EAGAIN) { Tried::Blocks } else { Tried::Done(result) }
}

/// One call: what it is about, and how it waits.
pub(super) struct Call<'a> {
    pub(super) hub: &'a Hub,
    pub(super) fd: RawFd,
    pub(super) entry: &'static Entry,
    pub(super) direction: Direction,
    pub(super) what: &'static str,
    deadline: Option<Nanos>,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        fd: RawFd,
        entry: &'static Entry,
        direction: Direction,
        what: &'static str,
    ) -> Self {
        Call { hub, fd, entry, direction, what, deadline: None }
    }

    /// To be called once per call: `Err` if something is pending against the greenlet.
    #[inline]
    pub(super) fn begin(&self) -> Result<(), i32> {
        // First, since who is told again and again that it is killed may try again and again.
        self.hub.be_fair_foreign();
        table::answer(self.hub.verdict())?;
        Ok(())
    }

    /// Waits until the call may succeed. `Err`: what it fails with.
    pub(super) fn wait(&mut self) -> Result<(), i32> {
        if self.entry.is_nonblocking(self.fd) {
            return Err(libc::EAGAIN);
        }
        let deadline = match self.deadline {
            Some(deadline) => deadline,
            None => self.entry.deadline(self.hub, self.fd, self.direction),
        };
        self.deadline = Some(deadline);
        // signal(7): with a time limit, a call of a socket is never restarted.
        let ended_by = if deadline == NEVER { Handlers::NotRestarting } else { Handlers::All };
        match self.entry.wait(self.hub, self.fd, self.direction, self.what, deadline, ended_by)? {
            Waited::Woken => Ok(()),
            // As the kernel tells that SO_RCVTIMEO or SO_SNDTIMEO is over.
            Waited::TimedOut => Err(libc::EAGAIN),
        }
    }

    /// Tries until it does not block.
    #[inline]
    pub(super) fn run(&mut self, mut attempt: impl FnMut() -> Tried) -> ssize_t {
        if let Err(error) = self.begin() {
            return fail(error);
        }
        loop {
            if let Tried::Done(result) = attempt() {
                return result;
            }
            self.entry.exhausted(self.hub, self.direction);
            if let Err(error) = self.wait() {
                return fail(error);
            }
        }
    }

    /// As [`Call::run`], for a stream: without a try, if the last read has emptied it and nothing has come since.
    #[inline]
    fn run_stream(&mut self, len: usize, mut attempt: impl FnMut() -> Tried) -> ssize_t {
        if self.entry.kind(self.fd) != Kind::Tcp {
            return self.run(attempt);
        }
        if let Err(error) = self.begin() {
            return fail(error);
        }
        loop {
            if self.entry.may_be_ready(self.hub, self.direction) {
                match attempt() {
                    Tried::Done(result) => {
                        if result > 0 && (result as usize) < len {
                            self.entry.exhausted(self.hub, self.direction);
                        }
                        return result;
                    }
                    Tried::Blocks => self.entry.exhausted(self.hub, self.direction),
                }
            }
            if let Err(error) = self.wait() {
                return fail(error);
            }
        }
    }

    /// Looks until all of `len` bytes are there, or the end.
    fn run_look(&mut self, len: usize, mut attempt: impl FnMut() -> Tried) -> ssize_t {
        if let Err(error) = self.begin() {
            return fail(error);
        }
        loop {
            let seen = match attempt() {
                Tried::Done(seen) if seen > 0 && (seen as usize) < len => Some(seen),
                Tried::Done(result) => return result,
                Tried::Blocks => None,
            };
            // SAFETY: takes no pointers of the caller's.
            let is_end = || unsafe { is_ready(self.fd, libc::POLLRDHUP) };
            if let Some(seen) = seen.filter(|_| is_end()) {
                return seen;
            }
            self.entry.exhausted(self.hub, self.direction);
            if let Err(error) = self.wait() {
                return seen.unwrap_or_else(|| fail(error));
            }
        }
    }

    /// Tries to move `len` bytes, one part after the other, until all are through, as a blocking call does.
    /// `attempt` is given how many are.
    #[inline]
    fn run_all(&mut self, len: usize, mut attempt: impl FnMut(usize) -> Tried) -> ssize_t {
        if let Err(error) = self.begin() {
            return fail(error);
        }
        let mut done = 0;
        loop {
            match attempt(done) {
                Tried::Done(result) if result > 0 => {
                    done += result as usize;
                    // What is non-blocking gives what it could do.
                    if done >= len || self.entry.is_nonblocking(self.fd) {
                        return done as ssize_t;
                    }
                    // A signal handler may want to be looked after; but for that, there is room
                    // again, or an error, soon.
                    continue;
                }
                // The end, or an error, which the next call tells again.
                Tried::Done(_) if done > 0 => return done as ssize_t,
                Tried::Done(result) => return result,
                Tried::Blocks => self.entry.exhausted(self.hub, self.direction),
            }
            if let Err(error) = self.wait() {
                return if done > 0 { done as ssize_t } else { fail(error) };
            }
        }
    }
}

/// The entry of a socket; `None` if it is none, or is left as it is.
#[inline]
fn socket(fd: RawFd) -> Option<(&'static Entry, Kind)> {
    let entry = table::entry(fd)?;
    let kind = entry.kind(fd);
    kind.is_socket().then_some((entry, kind))
}

/// The entry of a socket and its kind, if the call is ours to wait; else the caller returns what libc's function gives.
macro_rules! socket_or_real {
    ($fd:expr, $may_wait:expr, $real:expr) => {
        match socket($fd) {
            Some(found) if $may_wait => found,
            _ => return $real,
        }
    };
}

#[inline]
fn may_wait(flags: c_int) -> bool {
    flags & libc::MSG_DONTWAIT == 0
}

pub(super) unsafe fn recv(hub: &Hub, fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's arguments, here and below.
    unsafe {
        let (entry, kind) = socket_or_real!(fd, may_wait(flags), real::recv(fd, buf, len, flags));
        let mut call = Call::new(hub, fd, entry, Direction::Read, "recv on fd");
        if flags & libc::MSG_WAITALL != 0 && kind != Kind::Datagram && flags & libc::MSG_PEEK == 0 {
            let flags = flags & !libc::MSG_WAITALL | libc::MSG_DONTWAIT;
            return call.run_all(len, |done| tried(real::recv(fd, buf.byte_add(done), len - done, flags)));
        }
        let attempt = || tried(real::recv(fd, buf, len, flags | libc::MSG_DONTWAIT));
        const LOOK_AT_ALL: c_int = libc::MSG_PEEK | libc::MSG_WAITALL;
        // Of the kernel's sockets, those of TCP alone wait for that.
        if flags & (LOOK_AT_ALL | libc::MSG_OOB | libc::MSG_ERRQUEUE) == LOOK_AT_ALL && kind == Kind::Tcp {
            return call.run_look(len, attempt);
        }
        // A look takes nothing away; and urgent data, or a queue of errors, is apart.
        if flags & (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
            return call.run(attempt);
        }
        call.run_stream(len, attempt)
    }
}

pub(super) unsafe fn recvfrom(
    hub: &Hub,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        if address.is_null() {
            return recv(hub, fd, buf, len, flags);
        }
        let (entry, kind) =
            socket_or_real!(fd, may_wait(flags), real::recvfrom(fd, buf, len, flags, address, address_len));
        let mut call = Call::new(hub, fd, entry, Direction::Read, "recvfrom on fd");
        let first =
            |flags| tried(real::recvfrom(fd, buf, len, flags | libc::MSG_DONTWAIT, address, address_len));
        if flags & libc::MSG_WAITALL != 0 && kind != Kind::Datagram && flags & libc::MSG_PEEK == 0 {
            let flags = flags & !libc::MSG_WAITALL;
            return call.run_all(len, |done| match done {
                0 => first(flags),
                _ => tried(real::recv(fd, buf.byte_add(done), len - done, flags | libc::MSG_DONTWAIT)),
            });
        }
        call.run(|| first(flags))
    }
}

pub(super) unsafe fn recvmsg(hub: &Hub, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let (entry, kind) = socket_or_real!(fd, may_wait(flags), real::recvmsg(fd, message, flags));
        let mut call = Call::new(hub, fd, entry, Direction::Read, "recvmsg on fd");
        if flags & libc::MSG_WAITALL != 0 && kind != Kind::Datagram && flags & libc::MSG_PEEK == 0 {
            let mut parts = Parts::new((*message).msg_iov, (*message).msg_iovlen as _);
            let flags = flags & !libc::MSG_WAITALL | libc::MSG_DONTWAIT;
            let first = *message;
            return call.run_all(parts.len, |done| {
                let (iov, count) = parts.after(done);
                if done == 0 {
                    (*message).msg_iov = iov;
                    (*message).msg_iovlen = count as _;
                    let result = real::recvmsg(fd, message, flags);
                    (*message).msg_iov = first.msg_iov;
                    (*message).msg_iovlen = first.msg_iovlen;
                    return tried(result);
                }
                tried(read_parts(fd, iov, count, flags))
            });
        }
        // A try that finds nothing leaves the header as it was.
        call.run(|| tried(real::recvmsg(fd, message, flags | libc::MSG_DONTWAIT)))
    }
}

/// More of a message that was begun, without the ancillary data.
unsafe fn read_parts(fd: c_int, iov: *mut iovec, count: usize, flags: c_int) -> ssize_t {
    // SAFETY: a header of zeros is a valid one; the parts are the caller's.
    unsafe {
        let mut rest: msghdr = std::mem::zeroed();
        rest.msg_iov = iov;
        rest.msg_iovlen = count as _;
        real::recvmsg(fd, &mut rest, flags)
    }
}

pub(super) unsafe fn recvmmsg(
    hub: &Hub,
    fd: c_int,
    messages: *mut mmsghdr,
    count: u32,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (entry, _) = socket_or_real!(
            fd,
            may_wait(flags) && count > 0,
            real::recvmmsg(fd, messages, count, flags as _, timeout)
        );
        let mut call = Call::new(hub, fd, entry, Direction::Read, "recvmmsg on fd");
        if let Some(timeout) = timeout.as_ref() {
            call.deadline = Some(hub.deadline(super::time::duration(timeout)));
        }
        let wanted = if flags & libc::MSG_WAITFORONE != 0 { 1 } else { count as usize };
        let flags = flags | libc::MSG_DONTWAIT;
        call.run_all(wanted, |done| {
            let result =
                real::recvmmsg(fd, messages.add(done), count - done as u32, flags as _, ptr::null_mut());
            tried(result as ssize_t)
        }) as c_int
    }
}

pub(super) unsafe fn send(hub: &Hub, fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let (entry, kind) = socket_or_real!(fd, may_wait(flags), real::send(fd, buf, len, flags));
        let mut call = Call::new(hub, fd, entry, Direction::Write, "send on fd");
        let flags = flags | libc::MSG_DONTWAIT;
        match kind {
            Kind::Datagram => call.run(|| tried(real::send(fd, buf, len, flags))),
            _ => call.run_all(len, |done| tried(real::send(fd, buf.byte_add(done), len - done, flags))),
        }
    }
}

pub(super) unsafe fn sendto(
    hub: &Hub,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        if address.is_null() {
            return send(hub, fd, buf, len, flags);
        }
        let (entry, kind) =
            socket_or_real!(fd, may_wait(flags), real::sendto(fd, buf, len, flags, address, address_len));
        let mut call = Call::new(hub, fd, entry, Direction::Write, "sendto on fd");
        let flags = flags | libc::MSG_DONTWAIT;
        let attempt =
            |done| tried(real::sendto(fd, buf.byte_add(done), len - done, flags, address, address_len));
        match kind {
            Kind::Datagram => call.run(|| attempt(0)),
            _ => call.run_all(len, attempt),
        }
    }
}

pub(super) unsafe fn sendmsg(hub: &Hub, fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let (entry, kind) = socket_or_real!(fd, may_wait(flags), real::sendmsg(fd, message, flags));
        let mut call = Call::new(hub, fd, entry, Direction::Write, "sendmsg on fd");
        let flags = flags | libc::MSG_DONTWAIT;
        if kind == Kind::Datagram {
            return call.run(|| tried(real::sendmsg(fd, message, flags)));
        }
        let mut parts = Parts::new((*message).msg_iov, (*message).msg_iovlen as _);
        call.run_all(parts.len, |done| {
            let mut rest = *message;
            if done > 0 {
                // The ancillary data went with the first part.
                rest.msg_control = ptr::null_mut();
                rest.msg_controllen = 0;
            }
            let (iov, count) = parts.after(done);
            rest.msg_iov = iov;
            rest.msg_iovlen = count as _;
            tried(real::sendmsg(fd, &rest, flags))
        })
    }
}

pub(super) unsafe fn sendmmsg(
    hub: &Hub,
    fd: c_int,
    messages: *mut mmsghdr,
    count: u32,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (entry, kind) = socket_or_real!(
            fd,
            may_wait(flags) && count > 0,
            real::sendmmsg(fd, messages, count, flags as _)
        );
        if kind != Kind::Datagram {
            // Each may be sent in part, so one by one.
            for index in 0..count as usize {
                let message = messages.add(index);
                let sent = sendmsg(hub, fd, &(*message).msg_hdr, flags);
                if sent < 0 {
                    return if index > 0 { index as c_int } else { -1 };
                }
                (*message).msg_len = sent as u32;
            }
            return count as c_int;
        }
        let flags = flags | libc::MSG_DONTWAIT;
        Call::new(hub, fd, entry, Direction::Write, "sendmmsg on fd").run_all(count as usize, |done| {
            tried(real::sendmmsg(fd, messages.add(done), count - done as u32, flags as _) as ssize_t)
        }) as c_int
    }
}

/// Buffers, of which some bytes are through.
struct Parts {
    all: Vec<iovec>,
    rest: Vec<iovec>,
    len: usize,
}

impl Parts {
    unsafe fn new(iov: *const iovec, count: usize) -> Self {
        // SAFETY: the caller's array of so many buffers.
        let all = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(iov, count) } };
        Parts { all: all.to_vec(), rest: Vec::new(), len: all.iter().map(|part| part.iov_len).sum() }
    }

    fn after(&mut self, mut done: usize) -> (*mut iovec, usize) {
        self.rest.clear();
        for part in &self.all {
            let skipped = done.min(part.iov_len);
            done -= skipped;
            if skipped < part.iov_len {
                self.rest.push(iovec {
                    iov_base: part.iov_base.wrapping_byte_add(skipped),
                    iov_len: part.iov_len - skipped,
                });
            }
        }
        (self.rest.as_mut_ptr(), self.rest.len())
    }
}

/// Calls again if the number has become something else's unseen that is no socket.
#[inline]
fn seen_as_it_is(fd: c_int, call: impl Fn() -> ssize_t) -> ssize_t {
    let result = call();
    if result == -1 && errno() == libc::ENOTSOCK {
        table::forget(fd);
        return call();
    }
    result
}

pub(super) unsafe fn read(hub: &Hub, fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: as above.
    seen_as_it_is(fd, || unsafe { known_read(hub, fd, buf, len) })
}

unsafe fn known_read(hub: &Hub, fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let Some(entry) = table::entry(fd) else { return real::read(fd, buf, len) };
        match entry.kind(fd) {
            // `recv` of nothing would wait.
            _ if len == 0 => real::read(fd, buf, len),
            Kind::Tcp | Kind::Stream | Kind::Datagram => recv(hub, fd, buf, len, 0),
            Kind::Other => {
                let part = iovec { iov_base: buf, iov_len: len };
                Call::new(hub, fd, entry, Direction::Read, "read of fd").run(|| read_now(fd, &part, 1))
            }
            Kind::File => super::file::on_a_thread(
                hub,
                "read of file",
                move |pointers| real::read(fd, pointers.0.cast_mut(), len),
                buf,
            ),
            Kind::Standard | Kind::Unknown => real::read(fd, buf, len),
        }
    }
}

pub(super) unsafe fn readv(hub: &Hub, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as above.
    seen_as_it_is(fd, || unsafe { known_readv(hub, fd, iov, count) })
}

unsafe fn known_readv(hub: &Hub, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let Some(entry) = table::entry(fd) else { return real::readv(fd, iov, count) };
        match entry.kind(fd) {
            Kind::Tcp | Kind::Stream | Kind::Datagram if count > 0 => {
                let mut message: msghdr = std::mem::zeroed();
                message.msg_iov = iov.cast_mut();
                message.msg_iovlen = count as _;
                let len = Parts::new(iov, count as usize).len;
                if len == 0 {
                    return real::readv(fd, iov, count);
                }
                Call::new(hub, fd, entry, Direction::Read, "readv of fd")
                    .run_stream(len, || tried(real::recvmsg(fd, &mut message, libc::MSG_DONTWAIT)))
            }
            Kind::Other => {
                Call::new(hub, fd, entry, Direction::Read, "readv of fd").run(|| read_now(fd, iov, count))
            }
            Kind::File => super::file::on_a_thread(
                hub,
                "read of file",
                move |pointers| real::readv(fd, pointers.0.cast(), count),
                iov.cast(),
            ),
            _ => real::readv(fd, iov, count),
        }
    }
}

pub(super) unsafe fn write(hub: &Hub, fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: as above.
    seen_as_it_is(fd, || unsafe { known_write(hub, fd, buf, len) })
}

unsafe fn known_write(hub: &Hub, fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let Some(entry) = table::entry(fd) else { return real::write(fd, buf, len) };
        match entry.kind(fd) {
            Kind::Tcp | Kind::Stream | Kind::Datagram => send(hub, fd, buf, len, 0),
            Kind::Other if len > 0 => {
                Call::new(hub, fd, entry, Direction::Write, "write of fd").run_all(len, |done| {
                    let rest = iovec { iov_base: buf.byte_add(done).cast_mut(), iov_len: len - done };
                    write_now(fd, &rest, 1)
                })
            }
            Kind::File => super::file::on_a_thread(
                hub,
                "write of file",
                move |pointers| real::write(fd, pointers.0, len),
                buf,
            ),
            _ => real::write(fd, buf, len),
        }
    }
}

pub(super) unsafe fn writev(hub: &Hub, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as above.
    seen_as_it_is(fd, || unsafe { known_writev(hub, fd, iov, count) })
}

unsafe fn known_writev(hub: &Hub, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let Some(entry) = table::entry(fd) else { return real::writev(fd, iov, count) };
        match entry.kind(fd) {
            Kind::Tcp | Kind::Stream | Kind::Datagram if count > 0 => {
                let mut message: msghdr = std::mem::zeroed();
                message.msg_iov = iov.cast_mut();
                message.msg_iovlen = count as _;
                sendmsg(hub, fd, &message, 0)
            }
            Kind::Other if count > 0 => {
                let mut parts = Parts::new(iov, count as usize);
                Call::new(hub, fd, entry, Direction::Write, "writev of fd").run_all(parts.len, |done| {
                    let (iov, count) = parts.after(done);
                    write_now(fd, iov, count as c_int)
                })
            }
            Kind::File => super::file::on_a_thread(
                hub,
                "write of file",
                move |pointers| real::writev(fd, pointers.0.cast(), count),
                iov.cast(),
            ),
            _ => real::writev(fd, iov, count),
        }
    }
}

/// A read of what is no socket, if it does not block.
unsafe fn read_now(fd: c_int, iov: *const iovec, count: c_int) -> Tried {
    // SAFETY: the caller's buffers. An offset of -1 means none.
    unsafe {
        let result = real::preadv2(fd, iov, count, -1, libc::RWF_NOWAIT);
        if result != -1 || !is_refused() {
            return tried(result);
        }
        // Somebody else who reads the same may be faster, and then this blocks: no kernel
        // before 6.4 has better for pipes.
        if is_ready(fd, libc::POLLIN) { tried(real::readv(fd, iov, count)) } else { Tried::Blocks }
    }
}

/// Whether a call has failed since the kernel, or the descriptor, does not know `RWF_NOWAIT`.
fn is_refused() -> bool {
    matches!(errno(), libc::EOPNOTSUPP | libc::ENOSYS | libc::ESPIPE | libc::EINVAL)
}

/// A write to what is no socket, if it does not block: as much as there is room for.
unsafe fn write_now(fd: c_int, iov: *const iovec, count: c_int) -> Tried {
    // SAFETY: as above.
    unsafe {
        let result = real::pwritev2(fd, iov, count, -1, libc::RWF_NOWAIT);
        if result != -1 || !is_refused() {
            return tried(result);
        }
        if !is_ready(fd, libc::POLLOUT) {
            return Tried::Blocks;
        }
        // Where a pipe has room at all, it has room for so much.
        let first = *iov;
        let part = iovec { iov_base: first.iov_base, iov_len: first.iov_len.min(libc::PIPE_BUF) };
        tried(real::writev(fd, &part, 1))
    }
}

pub(super) unsafe fn is_ready(fd: c_int, events: libc::c_short) -> bool {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid entry; a timeout of zero does not block.
    unsafe { real::poll(&mut entry, 1, 0) > 0 }
}

/// A call has said `EAGAIN`: whether that was only because of [`without_blocking`]. Waits until none is going on.
pub(super) fn is_toggled_or_was(fd: c_int) -> bool {
    // SAFETY: F_GETFL takes no argument.
    let flags = table::flags_at_rest(|| unsafe { real::fcntl(fd, libc::F_GETFL, 0) });
    if flags == -1 || flags & libc::O_NONBLOCK != 0 {
        return false;
    }
    // Or because of a time limit that the program has set.
    table::entry(fd).is_some_and(|entry| !entry.has_read_limit(fd))
}

/// Non-blocking for one call. The flag belongs to all who share the descriptor; those of this process that try
/// meanwhile, or that set or read it, take turns.
pub(super) fn without_blocking<R>(entry: &Entry, fd: c_int, call: impl FnOnce() -> R) -> R {
    table::flags_at_rest(|| {
        // It may have been set since the call began, and is to stay so.
        if entry.is_nonblocking_at_rest(fd) {
            return call();
        }
        let set = |mut value: c_int| {
            // SAFETY: FIONBIO reads one int through the pointer.
            unsafe { real::ioctl(fd, libc::FIONBIO, (&raw mut value).cast()) };
        };
        set(1);
        let result = call();
        let error = errno();
        set(0);
        super::set_errno(error);
        result
    })
}

pub(super) unsafe fn accept4(
    hub: &Hub,
    fd: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (entry, _) = socket_or_real!(fd, true, real::accept4(fd, address, len, flags));
        let mut call = Call::new(hub, fd, entry, Direction::Read, "accept on fd");
        let given = len.as_ref().copied();
        let result = call.run(|| {
            if let (Some(len), Some(given)) = (len.as_mut(), given) {
                *len = given;
            }
            let accept = || real::accept4(fd, address, len, flags) as ssize_t;
            tried(if entry.is_nonblocking(fd) { accept() } else { without_blocking(entry, fd, accept) })
        }) as c_int;
        note::opened(result)
    }
}

pub(super) unsafe fn connect(hub: &Hub, fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: as above.
    unsafe {
        let (entry, kind) = socket_or_real!(fd, true, real::connect(fd, address, len));
        if entry.is_nonblocking(fd) || kind == Kind::Datagram {
            return real::connect(fd, address, len);
        }
        let mut call = Call::new(hub, fd, entry, Direction::Write, "connect of fd");
        if let Err(error) = call.begin() {
            return fail(error);
        }
        let mut pause = 1;
        loop {
            let result = without_blocking(entry, fd, || real::connect(fd, address, len));
            match (result, errno()) {
                (0, _) => return 0,
                // Or one goes on that was begun before: its time was over, or its greenlet killed.
                (_, libc::EINPROGRESS | libc::EALREADY) => break,
                // The queue of a Unix socket is full, of which no event tells when it has room.
                (_, libc::EAGAIN) if kind == Kind::Stream => {
                    let limit = entry.deadline(hub, fd, Direction::Write);
                    let next = hub.deadline(std::time::Duration::from_millis(pause)).min(limit);
                    let reason = Reason::of("connect of fd", fd as u64);
                    match table::answer(hub.park_foreign(reason, next, Handlers::NotRestarting)) {
                        Ok(Waited::TimedOut) if next == limit => return fail(libc::EAGAIN),
                        Ok(_) => pause = (pause * 2).min(20),
                        Err(error) => return fail(error),
                    }
                }
                _ => return result,
            }
        }
        while !is_ready(fd, libc::POLLOUT) {
            entry.exhausted(hub, Direction::Write);
            match call.wait() {
                Ok(()) => {}
                // Its time is over; the connection is still being made.
                Err(libc::EAGAIN) => return fail(libc::EINPROGRESS),
                Err(error) => return fail(error),
            }
        }
        match table::int_option(fd, libc::SO_ERROR) {
            Some(0) => 0,
            Some(error) => fail(error),
            None => -1,
        }
    }
}

/// `sendfile`: the socket is made non-blocking for each part.
pub(super) unsafe fn sendfile(
    hub: &Hub,
    out: c_int,
    from: c_int,
    offset: *mut libc::off_t,
    count: size_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let Some(entry) = table::entry(out) else { return real::sendfile(out, from, offset, count) };
        if !matches!(entry.kind(out), Kind::Tcp | Kind::Stream | Kind::Other) || entry.is_nonblocking(out) {
            return real::sendfile(out, from, offset, count);
        }
        let mut call = Call::new(hub, out, entry, Direction::Write, "sendfile to fd");
        let mut ended = false;
        call.run_all(count, |done| {
            if ended {
                return Tried::Done(0);
            }
            let result = without_blocking(entry, out, || real::sendfile(out, from, offset, count - done));
            ended = result == 0;
            tried(result)
        })
    }
}

pub(super) unsafe fn splice(
    hub: &Hub,
    from: c_int,
    from_offset: *mut libc::loff_t,
    to: c_int,
    to_offset: *mut libc::loff_t,
    len: size_t,
    flags: u32,
) -> ssize_t {
    // SAFETY: as above.
    unsafe {
        let now = |flags| real::splice(from, from_offset, to, to_offset, len, flags);
        let (source, sink) = (table::waitable(from), table::waitable(to));
        if flags & libc::SPLICE_F_NONBLOCK != 0 || (source.is_none() && sink.is_none()) {
            return now(flags);
        }
        loop {
            let mut waited = false;
            for (fd, entry, direction, events) in
                [(from, source, Direction::Read, libc::POLLIN), (to, sink, Direction::Write, libc::POLLOUT)]
            {
                let Some(entry) = entry else { continue };
                let mut call = Call::new(hub, fd, entry, direction, "splice of fd");
                if let Err(error) = call.begin() {
                    return fail(error);
                }
                while !is_ready(fd, events) {
                    waited = true;
                    entry.exhausted(hub, direction);
                    if let Err(error) = call.wait() {
                        return fail(error);
                    }
                }
            }
            if waited {
                // The first may not be ready any more.
                continue;
            }
            let result = now(flags | libc::SPLICE_F_NONBLOCK);
            if result != -1 || errno() != libc::EAGAIN {
                return result;
            }
            // Less room than one page, or taken by somebody else: see again, but not at once.
            hub.yield_foreign();
        }
    }
}

/// `shutdown`: who waits looks again, for on Unix sockets no event tells them.
pub(super) unsafe fn shutdown(fd: c_int, how: c_int) -> c_int {
    // SAFETY: takes no pointers.
    let result = unsafe { real::shutdown(fd, how) };
    if result == 0 {
        table::poke(fd);
    }
    result
}
