//! Messages from other threads to a hub, which may sleep.
//!
//! Nobody makes a system call while the hub is awake, and no message is slept over:
//!
//! ```text
//!   sender                                  hub, before it sleeps
//!   1. push the message                     1. sleeping.swap(true)
//!   2. pending = true                       2. if pending: sleeping.swap(false), do not sleep
//!   3. if sleeping.swap(false): wake it     3. sleep; then sleeping.swap(false)
//! ```
//!
//! `sleeping` is changed by swaps only, so each sees all that was done before those that came before
//! it. If the sender's 3 misses the hub's 1, it came before, so the hub's 1 sees the sender's 2, and
//! the hub's 2 finds the message.

#![forbid(unsafe_code)]

use crate::sys::lock::{Lock, LockGuard};
use crate::sys::sync::{AtomicBool, AtomicU64, Ordering};

/// The inbox of one hub, and then of another one.
#[derive(Debug)]
pub(crate) struct Inbox<M> {
    /// Which hub it is of; 0: none. Changed under the lock.
    owner: AtomicU64,
    messages: Lock<Vec<M>>,
    /// There may be messages.
    pending: AtomicBool,
    /// The hub sleeps, or is about to, and wants to be woken.
    sleeping: AtomicBool,
}

impl<M> Inbox<M> {
    pub(crate) const fn new() -> Self {
        Inbox {
            owner: AtomicU64::new(0),
            messages: Lock::new(Vec::new()),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
        }
    }

    /// Which hub it is of; 0: none.
    #[inline]
    pub(crate) fn owner(&self) -> u64 {
        self.owner.load(Ordering::Acquire)
    }

    /// From now on it is that hub's.
    pub(crate) fn open(&self, owner: u64) {
        self.owner.store(owner, Ordering::Release);
    }

    /// Leaves a message. `true`: its hub sleeps, and the caller has to wake it. If the hub is not
    /// `owner`, the message is dropped.
    #[must_use]
    pub(crate) fn post(&self, owner: u64, message: M) -> bool {
        {
            let mut messages = self.messages.lock();
            if self.owner() != owner {
                drop(messages);
                drop(message);
                return false;
            }
            messages.push(message);
        }
        self.pending.store(true, Ordering::Release);
        self.sleeping.swap(false, Ordering::AcqRel)
    }

    /// Whether [`Inbox::collect`] would find something.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// The messages. Owner only.
    pub(crate) fn collect(&self) -> Vec<M> {
        // First, for what is posted after the messages were taken must stay pending.
        self.pending.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.messages.lock())
    }

    /// Announces that the hub is about to sleep. `false`: there is a message, do not. Owner only.
    #[must_use]
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        if self.pending.load(Ordering::Acquire) {
            self.wake_up();
            return false;
        }
        true
    }

    /// The hub is awake again. Owner only.
    pub(crate) fn wake_up(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Whether the hub sleeps, or is about to.
    pub(crate) fn is_asleep(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed)
    }

    /// The messages. As long as this is held, none comes, and the owner does not go.
    pub(crate) fn hold(&self) -> LockGuard<'_, Vec<M>> {
        self.messages.lock()
    }

    /// The hub is gone: gives what it has not read. Later messages are dropped.
    pub(crate) fn close(&self) -> Vec<M> {
        let left = self.close_held(&mut self.hold());
        self.pending.store(false, Ordering::Relaxed);
        self.wake_up();
        left
    }

    /// As [`Inbox::close`], by who [holds](Inbox::hold) the messages already. What is pending stays so.
    pub(crate) fn close_held(&self, messages: &mut Vec<M>) -> Vec<M> {
        self.owner.store(0, Ordering::Release);
        std::mem::take(messages)
    }
}
