//! What `src/hub/idle.rs` wants of the system. The simulation has one thread, so nothing here has to be atomic; instead it counts.

use std::cell::Cell;

thread_local! {
    static TOUCHED: Cell<Touched> = const { Cell::new(Touched { reads: 0, writes: 0, locks: 0 }) };
}

/// How often the protocol has touched what all hubs share.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    /// The counts, read: the line stays in the caches of all who read it …
    pub(crate) reads: u64,
    /// … and changed: it moves to the cache of who changes it, and the others have to fetch it.
    pub(crate) writes: u64,
    /// The lock of the list of those that sleep.
    pub(crate) locks: u64,
}

/// What was counted since the last time.
pub(crate) fn touched() -> Touched {
    TOUCHED.take()
}

fn count(more: impl FnOnce(&mut Touched)) {
    let mut touched = TOUCHED.get();
    more(&mut touched);
    TOUCHED.set(touched);
}

pub(crate) mod sync {
    use std::cell::Cell;

    pub(crate) use std::sync::atomic::{Ordering, fence};

    use super::count;

    #[derive(Debug)]
    pub(crate) struct AtomicU64(Cell<u64>);

    impl AtomicU64 {
        pub(crate) const fn new(value: u64) -> Self {
            AtomicU64(Cell::new(value))
        }

        pub(crate) fn load(&self, _: Ordering) -> u64 {
            count(|touched| touched.reads += 1);
            self.0.get()
        }

        pub(crate) fn fetch_add(&self, more: u64, _: Ordering) -> u64 {
            count(|touched| touched.writes += 1);
            self.0.replace(self.0.get().wrapping_add(more))
        }

        pub(crate) fn fetch_sub(&self, less: u64, _: Ordering) -> u64 {
            count(|touched| touched.writes += 1);
            self.0.replace(self.0.get().wrapping_sub(less))
        }
    }
}

pub(crate) mod lock {
    use std::cell::{RefCell, RefMut};

    use super::count;

    #[derive(Debug)]
    pub(crate) struct Lock<T>(RefCell<T>);

    impl<T> Lock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Lock(RefCell::new(value))
        }

        pub(crate) fn lock(&self) -> RefMut<'_, T> {
            count(|touched| touched.locks += 1);
            self.0.borrow_mut()
        }
    }
}
