//! Waking a parked task, exactly once, from any thread; and the list of those who wait for a task's end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::home::lock;
use super::{Message, Task, TaskRef};

/// Ends one particular park of one task: the first wake counts, later ones and those for a park that has
/// ended for another reason do nothing. A wake before the park is kept.
///
/// Exactly once without an atomic: the park's epoch is compared on the task's own thread, where a wake from
/// elsewhere arrives as a message.
#[derive(Debug, Clone)]
pub(crate) struct Waker {
    task: TaskRef,
    epoch: u32,
}

impl Waker {
    /// For the park that `task` is about to do.
    pub(crate) fn new(task: &Task) -> Self {
        Waker { task: task.to_ref(), epoch: task.local.epoch.get() }
    }

    pub(crate) fn wake(&self) {
        match self.task.here() {
            Some(task) => task.wake(self.epoch),
            None => self.task.post(|task| Message::Wake(task, self.epoch)),
        }
    }

    fn is(&self, other: &Waker) -> bool {
        self.epoch == other.epoch && self.task.0 == other.task.0
    }
}

/// Whether something has ended, and who waits for it. Usable from any thread.
#[derive(Debug)]
pub(crate) struct Ended {
    state: AtomicU8,
    waiting: Mutex<Vec<Waker>>,
}

const GOING_ON: u8 = 0;
/// Going on, and somebody has looked at `waiting` under its lock.
const AWAITED: u8 = 1;
const ENDED: u8 = 2;

impl Ended {
    pub(crate) const fn new() -> Self {
        Ended { state: AtomicU8::new(GOING_ON), waiting: Mutex::new(Vec::new()) }
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.state.load(Ordering::Acquire) == ENDED
    }

    /// It has ended: wakes all who wait, in the order in which they came.
    #[inline]
    pub(crate) fn set(&self) {
        if self.state.swap(ENDED, Ordering::AcqRel) == AWAITED {
            let waiting = std::mem::take(&mut *lock(&self.waiting));
            waiting.iter().for_each(Waker::wake);
        }
    }

    /// As [`Ended::set`], of a task that was left behind by a fork.
    pub(crate) fn set_in_child(&self) {
        if self.state.swap(ENDED, Ordering::AcqRel) == AWAITED {
            // If a thread that is no more has the lock, the list may be half-changed. Nobody needs it any longer.
            let Ok(mut waiting) = self.waiting.try_lock() else { return };
            let waiting = std::mem::take(&mut *waiting);
            waiting.iter().for_each(Waker::wake);
        }
    }

    /// Has `waker` woken at the end. `false`: it has ended already.
    pub(crate) fn add(&self, waker: Waker) -> bool {
        let mut waiting = lock(&self.waiting);
        // Under the lock: `set` either sees AWAITED and finds the waker when it gets the lock, or came first.
        let before = self.state.compare_exchange(GOING_ON, AWAITED, Ordering::AcqRel, Ordering::Acquire);
        if before == Err(ENDED) {
            return false;
        }
        waiting.push(waker);
        true
    }

    /// Undoes [`Ended::add`].
    pub(crate) fn remove(&self, waker: &Waker) {
        lock(&self.waiting).retain(|other| !other.is(waker));
    }
}
