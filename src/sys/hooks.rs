//! Where the functions that `monkey` puts in the place of libc's must step aside: in the library's
//! own sections, in signal handlers.
//!
//! Without the feature `monkey` there is nothing to step aside.

#![forbid(unsafe_code)]

#[cfg(feature = "monkey")]
use std::cell::Cell;

#[cfg(feature = "monkey")]
thread_local! {
    /// Sections of this thread in which a call that blocks has to block.
    static ASIDE: Cell<u32> = const { Cell::new(0) };
}

/// While it exists, calls of this thread block as they would without us.
#[derive(Debug)]
pub(crate) struct Aside(());

impl Aside {
    #[inline]
    pub(crate) fn step() -> Self {
        #[cfg(feature = "monkey")]
        ASIDE.set(ASIDE.get() + 1);
        Aside(())
    }
}

impl Drop for Aside {
    #[inline]
    fn drop(&mut self) {
        #[cfg(feature = "monkey")]
        ASIDE.set(ASIDE.get() - 1);
    }
}

/// Calls `f`, whose calls of libc are not to wait for a greenlet.
#[inline]
pub(crate) fn aside<R>(f: impl FnOnce() -> R) -> R {
    let _aside = Aside::step();
    f()
}

/// Whether such a section is going on.
#[cfg(feature = "monkey")]
#[inline]
pub(crate) fn are_aside() -> bool {
    ASIDE.get() > 0
}
