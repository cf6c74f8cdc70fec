//! `fork`: how often it happened, and what is to be done around it.
//!
//! A child has one thread, the one that called `fork`, and a copy of all memory. A lock that another thread held stays
//! locked there for ever, so the locks of ours that any thread may need are taken before and released after.
//! Descriptors are shared: with the parent's epoll descriptor, the child could take registrations away from the parent.

use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::errno_location;

static GENERATION: AtomicU32 = AtomicU32::new(1);
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Tells the processes of one line apart: a child has another one than its parent. Never 0.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// How often this process has forked or come from a fork. What was opened at another count is shared with another process.
#[inline]
pub(crate) fn count() -> u32 {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        extern "C" fn nothing() {}
        extern "C" fn in_parent() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }
        extern "C" fn in_child() {
            FORKS.fetch_add(1, Ordering::Relaxed);
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        register(nothing, in_parent, in_child);
    });
    FORKS.load(Ordering::Relaxed)
}

/// Has `prepare` called before each fork of this process, and after it `in_parent` or `in_child`, by the thread that forks.
///
/// To be called once for the same functions. As `pthread_atfork` has it, what is registered last is prepared first,
/// and comes last after the fork; by then [`generation`] has changed. Not for `vfork`, `posix_spawn` and `clone`,
/// whose children do nothing of ours.
pub(crate) fn at_fork(prepare: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    count();
    register(prepare, in_parent, in_child);
}

fn register(prepare: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: the functions live for ever, and do not unwind: they are `extern "C"`.
    let error = unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
    assert_eq!(error, 0, "pthread_atfork fails only without memory");
}

/// Where a lock is held from `prepare` until after the fork.
#[derive(Debug)]
pub(crate) struct HeldAtFork<G> {
    guard: AtomicPtr<G>,
    /// The thread that holds it, by the address of its `errno`.
    thread: AtomicUsize,
}

impl<G> HeldAtFork<G> {
    pub(crate) const fn new() -> Self {
        HeldAtFork { guard: AtomicPtr::new(ptr::null_mut()), thread: AtomicUsize::new(0) }
    }

    /// Keeps the guard until [`HeldAtFork::take`].
    pub(crate) fn put(&self, guard: G) {
        let before = self.guard.swap(Box::into_raw(Box::new(guard)), Ordering::Relaxed);
        debug_assert!(before.is_null(), "the guards exclude each other");
        self.thread.store(errno_location() as usize, Ordering::Relaxed);
    }

    /// Gives back what this thread has put here.
    pub(crate) fn take(&self) -> Option<G> {
        if self.thread.load(Ordering::Relaxed) != errno_location() as usize {
            return None;
        }
        self.thread.store(0, Ordering::Relaxed);
        let guard = self.guard.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: not null, so it is from `put`, and swapped out once. This thread has put it there, so
        // the guard stays on its thread.
        (!guard.is_null()).then(|| *unsafe { Box::from_raw(guard) })
    }
}
