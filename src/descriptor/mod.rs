//! A descriptor whose operations wait: for its greenlet, not for its thread.
//!
//! All sockets and pipes are an [`Io`] around std's type. An operation is tried first, and waits only if it would block;
//! on a stream socket not even that, when the last one has emptied it and nothing has come since (`poller.rs` tells
//! when that is known). The descriptor registers itself with each hub that waits for it.

#![allow(unsafe_code)]

pub(crate) mod macros;

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

pub(crate) use crate::hub::Direction;
use crate::hub::{self, Hub, SlotId, Waits, Wake, hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::hooks::aside;
use crate::sys::{fd, fork};
use crate::task::{Home, Message, Reason};

/// A non-blocking descriptor that behaves like a blocking one.
#[derive(Debug)]
pub(crate) struct Io<S: AsFd> {
    source: S,
    /// The first hub that waited for it: nearly always the only one.
    first: OnceLock<Registration>,
    others: Mutex<Vec<Registration>>,
    has_others: AtomicBool,
    read: Half,
    write: Half,
    /// The user wants `WouldBlock` instead of waiting.
    nonblocking: AtomicBool,
    /// There may be duplicates of the descriptor, so that closing it does not end its registrations.
    duplicated: AtomicBool,
    /// How many forks there had been when it came here. If there was one since, another process has the descriptor, too.
    forks: u32,
}

#[derive(Debug, Default)]
struct Half {
    /// Nanoseconds that one operation may take; 0: no limit.
    timeout: AtomicU64,
    /// The process (see [`fork::generation`]) in which a greenlet waits in this direction; 0: none does.
    busy: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
struct Registration {
    home: &'static Home,
    incarnation: u64,
    slot: SlotId,
    /// In which process: a child has another poller.
    generation: u32,
}

impl Registration {
    #[inline]
    fn is_with(&self, hub: &Hub) -> bool {
        self.incarnation == hub.incarnation && self.generation == fork::generation()
    }
}

// A socket that a panic passes by is as good as before, like std's: it holds no state that could be half-changed.
impl UnwindSafe for Registration {}
impl RefUnwindSafe for Registration {}

impl<S: AsFd> Io<S> {
    /// Takes over a descriptor that others may have duplicates of, and makes it non-blocking.
    pub(crate) fn adopt(source: S) -> Self {
        fd::set_nonblocking(source.as_fd(), true);
        let io = Io::new(source);
        io.duplicated.store(true, Ordering::Relaxed);
        io
    }

    /// Takes a descriptor that is non-blocking already, and ours alone.
    pub(crate) fn new(source: S) -> Self {
        Io {
            source,
            first: OnceLock::new(),
            others: Mutex::default(),
            has_others: AtomicBool::new(false),
            read: Half::default(),
            write: Half::default(),
            nonblocking: AtomicBool::new(false),
            duplicated: AtomicBool::new(false),
            forks: fork::count(),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> &S {
        &self.source
    }

    pub(crate) fn get_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Registers it with this hub, before anybody has to wait: to see whether it can be.
    ///
    /// # Errors
    ///
    /// `EPERM` for what cannot be waited for.
    pub(crate) fn register_now(&self) -> io::Result<()> {
        self.register(hub(), Direction::Read).map(drop)
    }

    /// Gives the descriptor back, as it would be had it never been here.
    pub(crate) fn into_inner(self) -> S {
        if !self.nonblocking.load(Ordering::Relaxed) {
            fd::set_nonblocking(self.source.as_fd(), false);
        }
        let mut this = ManuallyDrop::new(self);
        this.unregister(true);
        // SAFETY: `this` is never dropped or used again, so each field is moved out or dropped once. Those not
        // named have no destructors.
        unsafe {
            ptr::drop_in_place(&raw mut this.first);
            ptr::drop_in_place(&raw mut this.others);
            ptr::read(&raw const this.source)
        }
    }

    /// A duplicate of the descriptor, as an `Io` of its own with the same settings.
    pub(crate) fn duplicate(&self, duplicate: impl FnOnce(&S) -> io::Result<S>) -> io::Result<Self> {
        let other = Io::new(duplicate(&self.source)?);
        for io in [self, &other] {
            io.duplicated.store(true, Ordering::Relaxed);
        }
        let copy =
            |to: &AtomicU64, from: &AtomicU64| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        copy(&other.read.timeout, &self.read.timeout);
        copy(&other.write.timeout, &self.write.timeout);
        other.nonblocking.store(self.nonblocking.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(other)
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    /// How long one operation in that direction may take.
    pub(crate) fn timeout(&self, direction: Direction) -> Option<Duration> {
        let nanos = self.half(direction).timeout.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Sets how long one operation in that direction may take.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for zero, as in std.
    pub(crate) fn set_timeout(&self, direction: Direction, timeout: Option<Duration>) -> io::Result<()> {
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a timeout of zero would always expire: use None for no timeout, or set_nonblocking",
            ));
        }
        // Longer than 584 years is no limit.
        let nanos = timeout.map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(0));
        self.half(direction).timeout.store(nanos, Ordering::Relaxed);
        Ok(())
    }

    /// When an operation that begins now has to be done.
    pub(crate) fn deadline(&self, direction: Direction) -> Nanos {
        self.timeout(direction).map_or(NEVER, |timeout| hub().deadline(timeout))
    }

    /// Reads by `read`, waiting as long as it would block. For what is not a stream.
    pub(crate) fn read_with<R>(
        &self,
        what: &'static str,
        read: impl FnMut(&S) -> io::Result<R>,
    ) -> io::Result<R> {
        self.run(Direction::Read, what, None, |_| false, read)
    }

    /// Writes by `write`, waiting as long as it would block.
    pub(crate) fn write_with<R>(
        &self,
        what: &'static str,
        write: impl FnMut(&S) -> io::Result<R>,
    ) -> io::Result<R> {
        self.run(Direction::Write, what, None, |_| false, write)
    }

    /// Reads from a stream socket into a buffer of `len` bytes: less than that means that it is empty now.
    #[inline]
    pub(crate) fn read_stream(
        &self,
        what: &'static str,
        len: usize,
        read: impl FnMut(&S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        self.run(Direction::Read, what, None, |&done| done < len, read)
    }

    /// Reads from a stream on which a read may end early, so that a short one tells nothing.
    #[inline]
    pub(crate) fn read_chunks(
        &self,
        what: &'static str,
        len: usize,
        read: impl FnMut(&S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        self.run(Direction::Read, what, None, |_| false, read)
    }

    /// Writes `len` bytes to a stream socket by `write`, until `deadline` if there is one.
    #[inline]
    pub(crate) fn write_stream(
        &self,
        what: &'static str,
        len: usize,
        deadline: Option<Nanos>,
        mut write: impl FnMut(&S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if len == 0 {
            // Needs no room, so it never waits; but may tell that the socket is closed.
            return write(&self.source);
        }
        self.run(Direction::Write, what, deadline, |&done| done < len, write)
    }

    /// Waits until the descriptor is ready in that direction, for an operation that was just begun.
    pub(crate) fn wait(&self, direction: Direction, what: &'static str, deadline: Nanos) -> io::Result<()> {
        let hub = hub();
        self.wait_here(hub, self.slot_of(hub), direction, what, deadline, Waits::ForIt)
    }

    /// Waits until there is something to read, as one that does not count: if all others wait for what can never come, that is a
    /// deadlock all the same.
    pub(crate) fn wait_in_background(&self, what: &'static str) -> io::Result<()> {
        let hub = hub();
        self.wait_here(hub, self.slot_of(hub), Direction::Read, what, NEVER, Waits::InBackground)
    }

    /// Writes all of `buffer` by `write`. The write timeout limits the whole.
    pub(crate) fn write_all(
        &self,
        what: &'static str,
        mut buffer: &[u8],
        mut write: impl FnMut(&S, &[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let deadline = self.timeout(Direction::Write).map(|_| self.deadline(Direction::Write));
        while !buffer.is_empty() {
            let written = self.write_stream(what, buffer.len(), deadline, |source| write(source, buffer))?;
            if written == 0 {
                return Err(io::Error::new(io::ErrorKind::WriteZero, "failed to write whole buffer"));
            }
            buffer = &buffer[written..];
        }
        Ok(())
    }

    /// The one retry loop. `exhausts`: whether a result tells that the next operation would block.
    #[inline]
    fn run<R>(
        &self,
        direction: Direction,
        what: &'static str,
        mut deadline: Option<Nanos>,
        exhausts: impl Fn(&R) -> bool,
        mut operation: impl FnMut(&S) -> io::Result<R>,
    ) -> io::Result<R> {
        let hub = hub();
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        if !nonblocking {
            hub.be_fair();
        }
        loop {
            let slot = self.slot_of(hub);
            if nonblocking || slot.is_none_or(|slot| hub.fd_ready(slot, direction)) {
                // What waits here is this crate, not libc.
                let result = aside(|| operation(&self.source));
                match result {
                    Ok(result) => {
                        if let Some(slot) = slot.filter(|_| exhausts(&result)) {
                            hub.fd_exhausted(slot, direction);
                        }
                        return Ok(result);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock || nonblocking => {
                        return Err(error);
                    }
                    Err(_) => {
                        if let Some(slot) = slot {
                            hub.fd_exhausted(slot, direction);
                        }
                    }
                }
            }
            let deadline = *deadline.get_or_insert_with(|| self.deadline(direction));
            self.wait_here(hub, slot, direction, what, deadline, Waits::ForIt)?;
        }
    }

    fn wait_here(
        &self,
        hub: &Hub,
        slot: Option<SlotId>,
        direction: Direction,
        what: &'static str,
        deadline: Nanos,
        waits: Waits,
    ) -> io::Result<()> {
        let reason = Reason::of(what, self.source.as_fd().as_raw_fd() as u64);
        let _busy = Busy::claim(&self.half(direction).busy, reason)?;
        let slot = match slot {
            Some(slot) => slot,
            None => self.register(hub, direction)?,
        };
        match hub.wait_fd(slot, self.source.as_fd(), direction, reason, deadline, waits)? {
            Wake::Notified => Ok(()),
            Wake::TimedOut => Err(late(reason)),
        }
    }

    #[inline]
    fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    /// Where this is registered with that hub.
    #[inline]
    fn slot_of(&self, hub: &Hub) -> Option<SlotId> {
        let first = self.first.get()?;
        if first.is_with(hub) {
            return Some(first.slot);
        }
        if !self.has_others.load(Ordering::Acquire) {
            return None;
        }
        self.others().iter().find(|other| other.is_with(hub)).map(|other| other.slot)
    }

    #[cold]
    fn register(&self, hub: &Hub, direction: Direction) -> io::Result<SlotId> {
        let slot = hub.register_fd(self.source.as_fd(), direction)?;
        let (home, incarnation, generation) = (hub.home, hub.incarnation, fork::generation());
        let registration = Registration { home, incarnation, slot, generation };
        if self.first.set(registration).is_err() {
            let mut others = self.others();
            // A socket that outlives many threads must not keep count of them.
            others.retain(|other| {
                other.home.incarnation() == other.incarnation && other.generation == generation
            });
            others.push(registration);
            self.has_others.store(true, Ordering::Release);
        }
        Ok(slot)
    }

    /// Has all who wait try again: the socket was shut down, which the system does not always tell writers.
    pub(crate) fn poke(&self) {
        self.for_each_hub(
            |hub, slot| hub.poke_fd(slot),
            |SlotId { index, generation }| Message::Poke { slot: index, generation },
        );
    }

    /// Ends all registrations.
    fn unregister(&self, stays_open: bool) {
        let shared = self.duplicated.load(Ordering::Relaxed) || self.forks != fork::count();
        let stays_open = stays_open || shared;
        self.for_each_hub(
            |hub, slot| hub.close_fd(slot, self.source.as_fd(), stays_open),
            |SlotId { index, generation }| Message::Closed { slot: index, generation },
        );
    }

    /// Does something at each hub that this is registered with: `here`, or by a message.
    fn for_each_hub(&self, here: impl Fn(&Hub, SlotId), elsewhere: impl Fn(SlotId) -> Message) {
        let Some(first) = self.first.get() else { return };
        let own = hub::existing();
        let of_this_process = |registration: &&Registration| registration.generation == fork::generation();
        for registration in [*first].iter().chain(self.others().iter()).filter(of_this_process) {
            match own {
                Some(hub) if registration.is_with(hub) => here(hub, registration.slot),
                _ => registration.home.post(registration.incarnation, elsewhere(registration.slot)),
            }
        }
    }

    fn others(&self) -> MutexGuard<'_, Vec<Registration>> {
        crate::sys::lock::lock(&self.others)
    }
}

impl<S: AsFd> Drop for Io<S> {
    fn drop(&mut self) {
        self.unregister(false);
    }
}

impl<S: AsFd> AsFd for Io<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl<S: AsFd> AsRawFd for Io<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.source.as_fd().as_raw_fd()
    }
}

/// The right to be the one who waits in a direction.
struct Busy<'a> {
    busy: &'a AtomicU32,
    generation: u32,
}

impl<'a> Busy<'a> {
    fn claim(busy: &'a AtomicU32, reason: Reason) -> io::Result<Self> {
        let generation = fork::generation();
        // Who waits in the process that this one was forked from is no hindrance.
        if busy.swap(generation, Ordering::Acquire) == generation {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, ConcurrentUse { reason }));
        }
        Ok(Busy { busy, generation })
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // Not if it was claimed since by somebody else, in the child of the process that this claim was of.
        let _ = self.busy.compare_exchange(self.generation, 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// Two greenlets waited for the same thing of one socket at once; the second gets this, within an
/// `io::Error` of kind `ResourceBusy`.
///
/// It would be chance who gets the data. One may read while another writes.
#[derive(Clone, Copy, Debug)]
pub struct ConcurrentUse {
    reason: Reason,
}

impl std::fmt::Display for ConcurrentUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "another greenlet already waits in this direction ({}): let one greenlet read and one write, or lock around it",
            self.reason
        )
    }
}

impl std::error::Error for ConcurrentUse {}

/// Tries `attempt` until it does not say `WouldBlock`: for what gives no event when it could work. First lets all
/// others run, since one of them may be what is waited for; then tries after 1 ms, 2 ms, … 16 ms, 20 ms.
pub(crate) fn persist<R>(
    reason: Reason,
    deadline: Nanos,
    mut attempt: impl FnMut() -> io::Result<R>,
) -> io::Result<R> {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(20);
    let hub = hub();
    let mut pause = Duration::ZERO;
    loop {
        match aside(&mut attempt) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
        if pause.is_zero() {
            hub.may_suspend(reason)?;
            hub.yield_now();
            pause = FIRST;
            continue;
        }
        let next = hub.deadline(pause);
        if hub.park(reason, next.min(deadline))? == Wake::TimedOut && next >= deadline {
            return Err(late(reason));
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// The time is up.
pub(crate) fn late(reason: Reason) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, Late { reason })
}

#[derive(Debug)]
struct Late {
    reason: Reason,
}

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "timed out: {}", self.reason)
    }
}

impl std::error::Error for Late {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn registrations_with_hubs_that_are_gone_do_not_pile_up() {
        let (socket, _peer) = UnixDatagram::pair().unwrap();
        let io = Io::adopt(socket);
        io.set_timeout(Direction::Read, Some(Duration::from_millis(1))).unwrap();
        for _ in 0..10 {
            std::thread::scope(|s| {
                let thread = s.spawn(|| io.read_with("test of fd", |socket| socket.recv(&mut [0])));
                assert_eq!(thread.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
            });
        }
        assert!(io.others().len() <= 1);
    }
}
