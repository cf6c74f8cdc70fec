//! Descriptors: watching them, and waiting for them.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use super::{Direction, Hub, OutsideWait, SlotId, Wake};
use crate::sys::clock::Nanos;
use crate::sys::fork::generation;
use crate::task::Reason;

/// Operations on descriptors that did not have to wait, in a row, before others get their turn. As tokio's budget.
const OPERATIONS_PER_TURN: u32 = 128;

/// Whether a wait for a descriptor is a reason for the hub to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waits {
    /// While it lasts, there is no deadlock: the event may make somebody go on.
    ForIt,
    /// It does not count. gevent's `ref=False`.
    InBackground,
}

impl Hub {
    /// Watches one direction of a descriptor until [`Hub::forget_fd`].
    pub(crate) fn register_fd(&self, fd: BorrowedFd<'_>, direction: Direction) -> io::Result<SlotId> {
        let mut slot = self.poller.borrow_mut();
        self.open_poller(&mut slot)?.register(fd, direction)
    }

    /// Whether an operation in that direction may find something to do.
    #[inline]
    pub(crate) fn fd_ready(&self, id: SlotId, direction: Direction) -> bool {
        self.poller.borrow_mut().as_mut().is_none_or(|poller| poller.is_ready(id, direction))
    }

    /// An operation has found that there is nothing (more) to do: the next edge will tell.
    #[inline]
    pub(crate) fn fd_exhausted(&self, id: SlotId, direction: Direction) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.exhausted(id, direction);
        }
    }

    /// To be called before each operation: lets others run if many in a row did not have to wait, so that a
    /// greenlet which always finds something to read starves nobody. (Before, not after: a timeout that strikes
    /// here must not lose what was read.)
    #[inline]
    pub(crate) fn be_fair(&self) {
        let unwaited = self.unwaited.get() + 1;
        self.unwaited.set(unwaited);
        if unwaited > OPERATIONS_PER_TURN {
            self.unwaited.set(0);
            // A destructor that the loop runs cannot wait, but it may use what does not have to.
            if !self.in_the_loop() {
                self.yield_now();
            }
        }
    }

    /// Waits for the next edge. May switch.
    pub(crate) fn wait_fd(
        &self,
        id: SlotId,
        fd: BorrowedFd<'_>,
        direction: Direction,
        reason: Reason,
        deadline: Nanos,
        waits: Waits,
    ) -> io::Result<Wake> {
        self.may_suspend(reason)?;
        self.unwaited.set(0);
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.extend(id, fd, direction)?;
            poller.wait(id, direction, self.waker());
        }
        let outside = (waits == Waits::ForIt).then(|| self.outside_wait());
        let generation = generation();
        let _waiting = FdWait { hub: self, id, direction, generation, _outside: outside };
        Ok(self.park(reason, deadline)?)
    }

    /// The descriptor is about to be closed. `still_open_elsewhere`: it may have duplicates, so that closing it
    /// does not end the registration.
    pub(crate) fn close_fd(&self, id: SlotId, fd: BorrowedFd<'_>, still_open_elsewhere: bool) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            if still_open_elsewhere {
                poller.deregister(id, fd);
            }
            poller.forget(id);
        }
    }

    /// Something has happened to the descriptor of which no event may tell: who waits looks again.
    pub(crate) fn poke_fd(&self, id: SlotId) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.poke(id);
        }
    }

    /// The descriptor was closed by another thread, or unseen: whatever has its number now is another one's.
    pub(crate) fn forget_fd(&self, id: SlotId) {
        if let Some(poller) = &mut *self.poller.borrow_mut() {
            poller.forget(id);
        }
    }
}

struct FdWait<'a> {
    hub: &'a Hub,
    id: SlotId,
    direction: Direction,
    /// Of which process: in a child the slot may be somebody else's.
    generation: u32,
    _outside: Option<OutsideWait<'a>>,
}

impl Drop for FdWait<'_> {
    fn drop(&mut self) {
        if self.generation == generation()
            && let Some(poller) = &mut *self.hub.poller.borrow_mut()
        {
            poller.stop_waiting(self.id, self.direction, self.hub.current());
        }
    }
}
