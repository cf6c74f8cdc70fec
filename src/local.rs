//! Greenlet-local values: `thread_local!` for greenlets.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::hub::hub;
use crate::task::{Inherit, LocalValue};

/// Declares values that each greenlet has for itself, made when it first asks for them.
///
/// The syntax is that of `std::thread_local!`. After `inherit`, the value that a spawned greenlet starts with is a
/// clone of its spawner's, if that has one then: request ids, the current span. A thread's main stack, a coroutine and
/// a generator have values of their own, too, but only [`spawn`](crate::spawn) and its relatives inherit.
///
/// A value that is to be inherited is `Clone`; if cloning it panics, so does the spawn, and there is no new greenlet.
///
/// A greenlet's values are dropped at its end, on its own stack, before those who join it go on.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use switchgrass::{green_local, spawn};
///
/// green_local! {
///     static CALLS: Cell<u32> = Cell::new(0);
///     inherit static REQUEST: Cell<u64> = Cell::new(0);
/// }
///
/// REQUEST.set(7);
/// CALLS.set(1);
/// let child = spawn(|| (REQUEST.get(), CALLS.get()));
/// REQUEST.set(8);                                 // too late for the child
/// assert_eq!(child.join().unwrap(), (7, 0));
/// ```
#[doc(alias = "local")]
#[macro_export]
macro_rules! green_local {
    () => {};
    ($(#[$attribute:meta])* inherit $visibility:vis static $name:ident: $type:ty = $init:expr $(; $($rest:tt)*)?) => {
        $(#[$attribute])* $visibility static $name: $crate::local::LocalKey<$type> =
            $crate::local::LocalKey::__inheriting(|| $init);
        $($crate::green_local!($($rest)*);)?
    };
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $init:expr $(; $($rest:tt)*)?) => {
        $(#[$attribute])* $visibility static $name: $crate::local::LocalKey<$type> =
            $crate::local::LocalKey::__new(|| $init);
        $($crate::green_local!($($rest)*);)?
    };
}

/// What [`green_local!`] declares: the way to the current greenlet's value.
pub struct LocalKey<T: 'static> {
    init: fn() -> T,
    inherit: Option<Inherit>,
    /// Handed out at the first use, from 1.
    number: AtomicUsize,
}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn __new(init: fn() -> T) -> Self {
        LocalKey { init, inherit: None, number: AtomicUsize::new(0) }
    }

    #[doc(hidden)]
    pub const fn __inheriting(init: fn() -> T) -> Self
    where
        T: Clone,
    {
        let inherit = |value: &dyn Any| -> Rc<dyn Any> {
            let value: &T = value.downcast_ref().expect("the values of a key are of its type");
            Rc::new(value.clone())
        };
        LocalKey { init, inherit: Some(inherit), number: AtomicUsize::new(0) }
    }

    /// Calls `f` with the current greenlet's value, which is made first if it has none.
    ///
    /// # Panics
    ///
    /// If `f` does, or the expression that makes the value.
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        let number = self.number();
        let task = hub().current();
        let value = task.get_local(number).unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new((self.init)());
            // Making it may have come by here, too: then the first counts.
            task.get_local(number).unwrap_or_else(|| {
                task.set_local(number, LocalValue { value: Rc::clone(&made), inherit: self.inherit });
                made
            })
        });
        f(value.downcast_ref().expect("the values of a key are of its type"))
    }

    fn number(&self) -> usize {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        match self.number.load(Ordering::Relaxed) {
            0 => {
                let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                // Another thread may have been first; then one number is never used.
                match self.number.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => new,
                    Err(first) => first,
                }
            }
            number => number,
        }
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    /// Sets the value.
    pub fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }

    /// A copy of the value.
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// The value; leaves the default in its place.
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(Cell::take)
    }

    /// Sets the value, and gives the one before.
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> LocalKey<RefCell<T>> {
    /// Calls `f` with the value.
    ///
    /// # Panics
    ///
    /// If it is mutably borrowed.
    pub fn with_borrow<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| f(&cell.borrow()))
    }

    /// Calls `f` with the value, which it may change.
    ///
    /// # Panics
    ///
    /// If it is borrowed.
    pub fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(|cell| f(&mut cell.borrow_mut()))
    }

    /// Sets the value.
    ///
    /// # Panics
    ///
    /// If it is borrowed.
    pub fn set(&'static self, value: T) {
        self.replace(value);
    }

    /// The value; leaves the default in its place.
    ///
    /// # Panics
    ///
    /// If it is borrowed.
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }

    /// Sets the value, and gives the one before.
    ///
    /// # Panics
    ///
    /// If it is borrowed.
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}
