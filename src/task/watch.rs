//! Being told which of many things has become ready, in the order in which they do.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Waker;
use crate::sys::lock::{Lock, LockGuard};

/// What one task watches. Usable from any thread.
#[derive(Debug, Default)]
pub(crate) struct WatchSet(Lock<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// The numbers of those that have become ready, and were not taken yet.
    ready: VecDeque<usize>,
    /// The one who watches, while it waits.
    waker: Option<Waker>,
}

impl WatchSet {
    /// The number of the next one that has become ready. `None`: `waker` will be woken by the next.
    pub(crate) fn next(&self, waker: Waker) -> Option<usize> {
        let mut watched = self.0.lock();
        let next = watched.ready.pop_front();
        watched.waker = next.is_none().then_some(waker);
        next
    }

    /// The number of the next one that has become ready, if there is one.
    pub(crate) fn try_next(&self) -> Option<usize> {
        self.0.lock().ready.pop_front()
    }
}

/// One thing's way to tell a [`WatchSet`] that it is ready. To be used once.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    set: Arc<WatchSet>,
    number: usize,
}

impl Watcher {
    pub(crate) fn new(set: &Arc<WatchSet>, number: usize) -> Self {
        Watcher { set: Arc::clone(set), number }
    }

    pub(crate) fn notify(&self) {
        self.tell(self.set.0.lock());
    }

    /// As `notify`; does nothing if somebody has just the lock, who may be a thread that is no more.
    pub(crate) fn try_notify(&self) {
        if let Some(watched) = self.set.0.try_lock() {
            self.tell(watched);
        }
    }

    fn tell(&self, mut watched: LockGuard<'_, Watched>) {
        watched.ready.push_back(self.number);
        let waker = watched.waker.take();
        drop(watched);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether this is one of that set.
    pub(crate) fn is_of(&self, set: &Arc<WatchSet>) -> bool {
        Arc::ptr_eq(&self.set, set)
    }
}
