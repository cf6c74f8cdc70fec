//! Readiness of descriptors, by mio (epoll on Linux).
//!
//! A descriptor is registered once per hub, edge-triggered, when an operation on it would block for the first
//! time, and stays so until it is closed. What epoll does then (epoll(7), and trio's `_io_epoll.py` for the
//! long story):
//!
//! - An edge comes when something *happens*: data arrives, room appears, the peer closes. It comes once, with
//!   the state of both directions, whether or not anybody waits. So a side remembers that it is `ready`
//!   until an operation finds that it is not.
//! - After a short read from a stream socket the socket is empty: the next arrival is an edge. So the caller may
//!   clear `ready` then, and save the read that would have said `EAGAIN`; but not once the peer has closed, for that
//!   edge is the last, nor once urgent data has come, before which a read ends though more is there (`unsure` keeps the
//!   side ready for good). It is not so on Unix sockets, where a read also ends at a descriptor that is passed.
//! - Nothing is heard of a direction that nobody has waited for yet. It counts as ready.
//! - The registration belongs to the open file description, not to the number. Closing the number removes it
//!   only if no duplicate is left. So events can come for a descriptor that we have closed; they carry the slot's
//!   old generation and are dropped. The number may meanwhile belong to somebody else, which is why a
//!   registration is never removed by number after the close.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::task::{Task, Waker};

/// Which half of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read = 0,
    Write = 1,
}

impl Direction {
    fn interest(self) -> Interest {
        match self {
            #[cfg(target_os = "linux")]
            Direction::Read => Interest::READABLE | Interest::PRIORITY,
            #[cfg(not(target_os = "linux"))]
            Direction::Read => Interest::READABLE,
            Direction::Write => Interest::WRITABLE,
        }
    }

    fn other(self) -> Direction {
        match self {
            Direction::Read => Direction::Write,
            Direction::Write => Direction::Read,
        }
    }
}

/// Where a descriptor is registered within one poller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
    slots: Vec<Slot>,
    /// Slots that are not in use.
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    /// The number that the descriptor has.
    fd: RawFd,
    /// Counts the users of this slot, so that a late event does not reach the next one.
    generation: u32,
    interest: Option<Interest>,
    sides: [Side; 2],
}

#[derive(Debug, Default)]
struct Side {
    /// An edge has come, or may have come unseen, and no operation has found the side exhausted since.
    ready: bool,
    /// That an operation does less than it might no longer tells that an edge will come: always ready from now on.
    unsure: bool,
    waiter: Option<Waker>,
    /// Of a descriptor that is not one of ours, as many as like may wait.
    more_waiters: Vec<Waker>,
}

/// The inbox's alarm. No slot has this number: they are counted from 0 in 32 bits.
const ALARM: Token = Token(usize::MAX);

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller {
            poll: Poll::new()?,
            // How many events one poll may bring: the fairness between I/O and the ready queue, not a limit.
            events: Events::with_capacity(1024),
            slots: Vec::new(),
            free: Vec::new(),
        })
    }

    /// What wakes this poller from other threads.
    pub(crate) fn alarm(&self) -> io::Result<mio::Waker> {
        mio::Waker::new(self.poll.registry(), ALARM)
    }

    /// Whether any descriptor is registered.
    #[inline]
    pub(crate) fn has_sources(&self) -> bool {
        self.slots.len() > self.free.len()
    }

    /// Starts watching one direction of a descriptor. The kernel tells the present state as a first edge.
    pub(crate) fn register(&mut self, fd: BorrowedFd<'_>, direction: Direction) -> io::Result<SlotId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).expect("there are fewer than 2^32 descriptors");
                self.slots.push(Slot::default());
                index
            }
        };
        let id = SlotId { index, generation: self.slots[index as usize].generation };
        let (raw, interest) = (fd.as_raw_fd(), direction.interest());
        let registry = self.poll.registry();
        let result = match registry.register(&mut SourceFd(&raw), token(id), interest) {
            // The number was registered before and closed while a duplicate of the same description was open: the old
            // registration is still there and becomes ours. Or this is one number in two hands: the first has lost it
            // then, unless it waits just now.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self
                .lose(raw)
                .and_then(|()| self.poll.registry().reregister(&mut SourceFd(&raw), token(id), interest)),
            result => result,
        };
        if let Err(error) = result {
            self.free.push(index);
            return Err(error);
        }
        let slot = &mut self.slots[index as usize];
        slot.fd = raw;
        slot.interest = Some(interest);
        slot.sides[direction.other() as usize].ready = true;
        Ok(id)
    }

    /// Takes the slots away that the number has so far.
    ///
    /// # Errors
    ///
    /// Somebody waits there.
    #[cold]
    fn lose(&mut self, fd: RawFd) -> io::Result<()> {
        let found =
            |(index, slot): (usize, &Slot)| (slot.interest.is_some() && slot.fd == fd).then_some(index);
        while let Some(index) = self.slots.iter().enumerate().find_map(found) {
            let slot = &mut self.slots[index];
            if slot.sides.iter().any(Side::is_waited_for) {
                return Err(in_two_hands());
            }
            *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::default() };
            self.free.push(index as u32);
        }
        Ok(())
    }

    /// Also watches `direction`, if that is not so already.
    ///
    /// # Errors
    ///
    /// The slot was lost to another registration of the same number.
    pub(crate) fn extend(&mut self, id: SlotId, fd: BorrowedFd<'_>, direction: Direction) -> io::Result<()> {
        let registry = self.poll.registry();
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let slot = slot.ok_or_else(in_two_hands)?;
        let present = slot.interest.unwrap_or(direction.interest());
        let wanted = present | direction.interest();
        if slot.interest != Some(wanted) {
            registry.reregister(&mut SourceFd(&fd.as_raw_fd()), token(id), wanted)?;
            slot.interest = Some(wanted);
        }
        Ok(())
    }

    /// Stops watching a descriptor that is still open and has duplicates.
    pub(crate) fn deregister(&mut self, id: SlotId, fd: BorrowedFd<'_>) {
        if self.slot(id).is_none() {
            // Another registration of the same number has taken its place.
            return;
        }
        // Failure means that it was not registered (any more), which is what is wanted.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
    }

    /// The descriptor is (about to be) closed: its slot is free for another, and who waits is woken.
    pub(crate) fn forget(&mut self, id: SlotId) {
        let Some(slot) = self.slot(id) else { return };
        let mut sides = std::mem::take(&mut slot.sides);
        *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::default() };
        self.free.push(id.index);
        sides.iter_mut().for_each(Side::set_ready);
    }

    /// Who waits looks again, whatever for.
    pub(crate) fn wake_all(&mut self) {
        for slot in &mut self.slots {
            slot.sides.iter_mut().for_each(Side::set_ready);
        }
    }

    /// What tells this poller from the other descriptors of the process.
    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    /// Something has happened to the descriptor of which no event may tell. Who waits looks again.
    pub(crate) fn poke(&mut self, id: SlotId) {
        let Some(slot) = self.slot(id) else { return };
        for side in &mut slot.sides {
            side.set_ready();
        }
    }

    #[inline]
    fn slot(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    #[inline]
    fn side(&mut self, id: SlotId, direction: Direction) -> Option<&mut Side> {
        self.slot(id).map(|slot| &mut slot.sides[direction as usize])
    }

    /// Whether an operation may find something to do. `true` for a slot that is gone: the operation will tell.
    #[inline]
    pub(crate) fn is_ready(&mut self, id: SlotId, direction: Direction) -> bool {
        self.side(id, direction).is_none_or(|side| side.ready || side.unsure)
    }

    /// An operation has found the side exhausted. Another edge will come.
    #[inline]
    pub(crate) fn exhausted(&mut self, id: SlotId, direction: Direction) {
        if let Some(side) = self.side(id, direction) {
            side.ready = false;
        }
    }

    /// Has `waker` woken by the next edge. [`Poller::stop_waiting`] undoes it.
    #[inline]
    pub(crate) fn wait(&mut self, id: SlotId, direction: Direction, waker: Waker) {
        if let Some(side) = self.side(id, direction) {
            match side.waiter {
                None => side.waiter = Some(waker),
                Some(_) => side.more_waiters.push(waker),
            }
        }
    }

    /// Undoes the [`Poller::wait`] of a task.
    #[inline]
    pub(crate) fn stop_waiting(&mut self, id: SlotId, direction: Direction, task: &Task) {
        if let Some(side) = self.side(id, direction) {
            if side.waiter.as_ref().is_some_and(|waiter| waiter.is_of(task)) {
                side.waiter = None;
            }
            side.more_waiters.retain(|waiter| !waiter.is_of(task));
        }
    }

    /// Waits for events at most this long (`None`: for ever) and wakes who waits for them.
    pub(crate) fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            // A signal: the caller's loop comes back.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            if event.token() == ALARM {
                continue;
            }
            let id = id(event.token());
            let Some(slot) = self.slots.get_mut(id.index as usize) else { continue };
            if slot.generation != id.generation {
                continue;
            }
            let failed = event.is_error();
            let read = (event.is_readable(), event.is_read_closed() || event.is_priority() || failed);
            let write = (event.is_writable(), event.is_write_closed() || failed);
            for (side, (ready, unsure)) in slot.sides.iter_mut().zip([read, write]) {
                side.unsure |= unsure;
                if ready || unsure {
                    side.set_ready();
                }
            }
        }
        Ok(())
    }
}

impl Side {
    fn set_ready(&mut self) {
        self.ready = true;
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
        self.more_waiters.drain(..).for_each(|waiter| waiter.wake());
    }

    fn is_waited_for(&self) -> bool {
        self.waiter.is_some() || !self.more_waiters.is_empty()
    }
}

fn in_two_hands() -> io::Error {
    io::Error::new(
        io::ErrorKind::ResourceBusy,
        "the same descriptor is in two hands, each of which would wait for it: duplicate it, so that each has its own number",
    )
}

fn token(id: SlotId) -> Token {
    Token((id.generation as usize) << 32 | id.index as usize)
}

fn id(token: Token) -> SlotId {
    SlotId { index: token.0 as u32, generation: (token.0 >> 32) as u32 }
}
