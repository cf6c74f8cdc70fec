//! A value that a forked child makes anew.
//!
//! After `fork` the child has one thread. What the others held stays as it was in that moment: a lock stays locked, and
//! a half-made change half-made. So the child must not touch a value that has a lock, not even to drop it. It leaves it
//! where it is and makes another.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::hub::watch_forks;
use crate::sys::fork::generation;

/// Made at the first use, and again at the first use in a forked child. Has no lock that could be held at the fork.
pub(super) struct PerProcess<T> {
    made: AtomicPtr<Made<T>>,
    owns: PhantomData<Made<T>>,
}

struct Made<T> {
    generation: u32,
    value: T,
}

impl<T> PerProcess<T> {
    pub(super) const fn new() -> Self {
        PerProcess { made: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// The value, made by `make` if this process has none. `make` gets that of the parent, whose locks it must leave alone.
    ///
    /// Two threads may make one each; the first that is done wins.
    pub(super) fn get(&self, make: impl FnOnce(Option<&T>) -> T) -> &T {
        let generation = generation();
        let seen = self.made.load(Ordering::Acquire);
        // SAFETY: null, or a box that was leaked below and is freed by `drop` only, which nobody calls while `self` is borrowed.
        let old = unsafe { seen.as_ref() };
        if let Some(made) = old.filter(|made| made.generation == generation) {
            return &made.value;
        }
        // Or nobody would notice that this one is of the parent.
        watch_forks();
        let value = make(old.map(|made| &made.value));
        let new = Box::into_raw(Box::new(Made { generation, value }));
        match self.made.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            // The parent's stays, in its memory that is ours now: nobody frees it.
            // SAFETY: as above; `new` is in `made` now.
            Ok(_) => unsafe { &(*new).value },
            Err(first) => {
                // SAFETY: `new` came from a box two lines above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: as above. It is of this generation: a pointer is replaced only by one that this process has made.
                unsafe { &(*first).value }
            }
        }
    }

    /// The value, if this process has made one.
    pub(super) fn existing(&self) -> Option<&T> {
        // SAFETY: as in `get`.
        let made = unsafe { self.made.load(Ordering::Acquire).as_ref() }?;
        (made.generation == generation()).then_some(&made.value)
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if self.existing().is_some() {
            // SAFETY: it came from Box::into_raw in `get`, and with `&mut self` there is no reference to what is in it.
            drop(unsafe { Box::from_raw(*self.made.get_mut()) });
        }
    }
}
