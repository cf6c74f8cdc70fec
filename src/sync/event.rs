//! A flag that can be waited for.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::hub::hub;
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{Reason, WatchSet, Watcher};
use crate::wait::{Line, Queue, wait};

/// A flag: one sets it, others wait until it is set.
///
/// `set` wakes all who wait at that moment, even if `clear` follows at once. gevent's `Event`.
///
/// # Examples
///
/// ```
/// use std::rc::Rc;
/// use switchgrass::{spawn, sync::Event};
///
/// let ready = Rc::new(Event::new());
/// let waiting = spawn({
///     let ready = Rc::clone(&ready);
///     move || ready.wait()
/// });
/// ready.set();
/// assert!(waiting.join().unwrap());
/// ```
pub struct Event {
    is_set: AtomicBool,
    waiting: Lock<Waiting>,
}

/// Behind the lock.
pub(crate) struct Waiting {
    queue: Queue<()>,
    watchers: Vec<Watcher>,
}

impl Event {
    /// An event that is not set.
    pub const fn new() -> Self {
        let waiting = Waiting { queue: Queue::new(), watchers: Vec::new() };
        Event { is_set: AtomicBool::new(false), waiting: Lock::new(waiting) }
    }

    /// Whether it is set.
    #[doc(alias = "ready")]
    #[inline]
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Sets it, and wakes all who wait, in the order in which they came. Does not switch.
    pub fn set(&self) {
        let mut waiting = self.waiting.lock();
        self.is_set.store(true, Ordering::Release);
        let watchers = std::mem::take(&mut waiting.watchers);
        // Under the lock: who begins to wait after a `clear` that follows is not meant.
        while let Some(((), wakeup)) = waiting.queue.hand_over(|_| ()) {
            wakeup.wake();
        }
        drop(waiting);
        watchers.iter().for_each(Watcher::notify);
    }

    /// Takes it back: from now on one has to wait. Does not switch.
    pub fn clear(&self) {
        let _waiting = self.waiting.lock();
        self.is_set.store(false, Ordering::Release);
    }

    /// Waits until it is set; not at all if it is. May switch.
    ///
    /// `false` only in a destructor that runs while its greenlet unwinds, where nothing can wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could set it.
    pub fn wait(&self) -> bool {
        self.wait_until(NEVER)
    }

    /// Waits until it is set, for no longer than `duration`; whether it was set meanwhile. May switch.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, duration: Duration) -> bool {
        self.is_set() || self.wait_until(hub().deadline(duration))
    }

    fn wait_until(&self, deadline: Nanos) -> bool {
        if self.is_set() {
            return true;
        }
        let waiting = self.waiting.lock();
        if self.is_set() {
            return true;
        }
        wait(self, waiting, None, deadline).is_chosen()
    }

    pub(crate) fn watch(&self, watcher: Watcher) {
        let mut waiting = self.waiting.lock();
        if self.is_set() {
            drop(waiting);
            watcher.notify();
        } else {
            waiting.watchers.push(watcher);
        }
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        self.waiting.lock().watchers.retain(|watcher| !watcher.is_of(set));
    }
}

impl Line for Event {
    type State = Waiting;
    type Item = ();

    fn lock(&self) -> &Lock<Waiting> {
        &self.waiting
    }

    fn queue(waiting: &mut Waiting) -> &mut Queue<()> {
        &mut waiting.queue
    }

    /// Everybody is told anyway.
    fn pass_on(&self, _: LockGuard<'_, Waiting>, _: Option<()>) {}

    fn reason(&self) -> Reason {
        Reason::shared("event", self)
    }
}

impl Default for Event {
    fn default() -> Self {
        Event::new()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.lock().queue.len();
        f.debug_struct("Event").field("set", &self.is_set()).field("waiting", &waiting).finish()
    }
}
