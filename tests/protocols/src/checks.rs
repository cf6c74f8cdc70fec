//! The checks. What one promises is its name; what its `assert`s do not say is that it comes to its end: a wake-up that is lost is a deadlock.

mod block_on;
mod channel;
mod ended;
mod idle;
mod inbox;
mod result;
mod sync;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::thread;
use crate::sys::sync::UnsafeCell;
use crate::task::TaskRef;

/// A task that is run on a thread of its own.
pub(crate) struct Green<R> {
    pub(crate) task: TaskRef,
    thread: thread::JoinHandle<Option<R>>,
}

pub(crate) fn green<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> Green<R> {
    let task = TaskRef::new();
    let own = task.clone();
    Green { task, thread: thread::spawn(move || own.run(f).ok()) }
}

impl<R> Green<R> {
    /// `None`: it was killed.
    pub(crate) fn join(self) -> Option<R> {
        self.thread.join().unwrap()
    }
}

/// Runs the first thread as a task, too.
fn as_task<R>(f: impl FnOnce() -> R) -> R {
    TaskRef::new().run(f).expect("nobody kills it")
}

/// Counts, unseen by loom: what is counted is to be right in each order, not to bring the threads into one.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// `false`: it is none already.
    fn one_less(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that must be dropped once.
struct Dropped(Count);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.more();
    }
}

/// To be used by one at a time: else loom, or Miri, finds it.
struct Place(UnsafeCell<u32>);

// SAFETY: none, but for what is checked.
unsafe impl Sync for Place {}

impl Place {
    fn new() -> Self {
        Place(UnsafeCell::new(0))
    }

    /// How often it was used before.
    fn touch(&self) -> u32 {
        let place = self.0.get();
        // SAFETY: as above.
        unsafe {
            *place += 1;
            *place - 1
        }
    }
}
