//! Which calls are ours: those of contexts that can wait, and nothing else.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Parts;
use crate::hub::{self, Hub};

/// The parts that are patched.
static PATCHED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Signal handlers that this thread runs just now, one within the other.
    pub(super) static IN_HANDLER: Cell<u32> = const { Cell::new(0) };
    /// How many regions of [`no_switch`] there are on this thread, over all its contexts …
    static REGIONS: Cell<u32> = const { Cell::new(0) };
    /// … and which contexts are in one. More than one only if a region was left by a call of ours that switches.
    static IN_REGION: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The hub, if a call of that part is to wait for its greenlet, and not for the thread.
#[inline(always)]
pub(super) fn gate(part: Parts) -> Option<&'static Hub> {
    if !is_patched(part) {
        return None;
    }
    let hub = hub::existing()?;
    may_wait(hub).then_some(hub)
}

#[inline]
fn may_wait(hub: &Hub) -> bool {
    hub.may_wait_for_foreign_frames() && !is_in_handler() && (REGIONS.get() == 0 || !is_in_region(hub))
}

#[cold]
fn is_in_region(hub: &Hub) -> bool {
    let task = hub.current();
    IN_REGION.with_borrow(|inside| {
        inside.contains(&task.shared.id) || (hub.is_main(task) && inside.contains(&BEFORE_HUB))
    })
}

/// Stands for the one context of a thread that has no hub yet.
const BEFORE_HUB: u64 = 0;

/// Whether this thread runs a signal handler just now.
#[inline]
pub(super) fn is_in_handler() -> bool {
    IN_HANDLER.get() > 0
}

/// The process that has patched.
static PROCESS: AtomicU32 = AtomicU32::new(0);

pub(super) fn open(parts: Parts) {
    PROCESS.store(crate::sys::fork::generation(), Ordering::Relaxed);
    PATCHED.fetch_or(parts.0, Ordering::SeqCst);
    settings_changed();
}

pub(super) fn process() -> u32 {
    PROCESS.load(Ordering::Relaxed)
}

/// What is patched.
#[inline(always)]
pub fn patched() -> Parts {
    Parts(PATCHED.load(Ordering::Relaxed))
}

/// Whether all of these are.
#[inline(always)]
pub fn is_patched(parts: Parts) -> bool {
    patched().contains(parts)
}

/// Whether anything is patched, so that the tables have to be kept right.
#[inline]
pub(super) fn is_open() -> bool {
    patched().0 != 0
}

/// Calls `f`, in which no call of libc switches: it blocks the OS thread, as without [`patch_all`](super::patch_all).
///
/// For code that must not be interleaved with itself on one thread: that keeps a thread-local borrowed or set while it
/// waits, for example. Calls of this crate's own (`switchgrass::sleep`, …) still switch.
///
/// ```
/// use std::time::Duration;
/// switchgrass::monkey::no_switch(|| std::thread::sleep(Duration::from_millis(1)));
/// ```
pub fn no_switch<R>(f: impl FnOnce() -> R) -> R {
    struct Region(u64);
    impl Drop for Region {
        fn drop(&mut self) {
            REGIONS.set(REGIONS.get() - 1);
            IN_REGION.with_borrow_mut(|inside| {
                if let Some(at) = inside.iter().rposition(|id| *id == self.0) {
                    inside.remove(at);
                }
            });
        }
    }
    let id = hub::existing().map_or(BEFORE_HUB, |hub| hub.current().shared.id);
    IN_REGION.with_borrow_mut(|inside| inside.push(id));
    REGIONS.set(REGIONS.get() + 1);
    let _region = Region(id);
    f()
}

/// Counts the calls that change how a descriptor behaves (`O_NONBLOCK`, time limits): what is known of
/// descriptors holds until the next.
static SETTINGS: AtomicU64 = AtomicU64::new(1);

pub(super) fn settings() -> u64 {
    SETTINGS.load(Ordering::Acquire)
}

pub(super) fn settings_changed() {
    SETTINGS.fetch_add(1, Ordering::AcqRel);
}
