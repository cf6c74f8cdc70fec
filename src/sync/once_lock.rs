//! std's `OnceLock` and `LazyLock`, for greenlets.
//!
//! Our [`Once`] says who initialises, and has the others wait; std's `OnceLock` is only where the
//! value is kept, and never contended.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::Once;
use crate::sys::lock::Lock;

/// `std::sync::OnceLock` for greenlets: a value that is set once.
///
/// The initialiser may switch, say to connect somewhere; who comes meanwhile waits for it. If it panics (or is killed),
/// nothing is set, and the next in line runs its own.
///
/// # Examples
///
/// ```
/// use switchgrass::{spawn, sync::OnceLock, yield_now};
///
/// static CONFIG: OnceLock<String> = OnceLock::new();
///
/// fn config() -> &'static str {
///     CONFIG.get_or_init(|| {
///         yield_now();                            // a read from a socket, perhaps
///         "debug".to_owned()
///     })
/// }
/// let both = [spawn(config), spawn(config)];
/// for greenlet in both {
///     assert_eq!(greenlet.join().unwrap(), "debug");
/// }
/// ```
pub struct OnceLock<T> {
    once: Once,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    /// Not set yet.
    pub const fn new() -> Self {
        OnceLock { once: Once::new(), value: std::sync::OnceLock::new() }
    }

    /// The value, if it is set.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, if it is set.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.value.get_mut()
    }

    /// Waits until it is set. May switch.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could set it.
    pub fn wait(&self) -> &T {
        self.once.wait_force();
        self.get().expect("the value is set before the Once completes")
    }

    /// Sets the value; waits as long as an initialiser runs. May switch.
    ///
    /// # Errors
    ///
    /// The value, if one is set already.
    ///
    /// # Panics
    ///
    /// As [`get_or_init`](Self::get_or_init).
    #[track_caller]
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        self.get_or_init(|| value.take().expect("an initialiser runs once"));
        match value {
            None => Ok(()),
            Some(value) => Err(value),
        }
    }

    /// The value; set by `f`, if it was not. Waits as long as somebody else's initialiser runs. May switch.
    ///
    /// # Panics
    ///
    /// If `f` does; then nothing is set. If `f` needs this very value: it would wait for itself. On a thread's main
    /// stack, if an initialiser can never end.
    #[inline]
    #[track_caller]
    pub fn get_or_init(&self, f: impl FnOnce() -> T) -> &T {
        enum Never {}
        match self.get_or_try_init(|| Ok::<T, Never>(f())) {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// As [`get_or_init`](Self::get_or_init), with an initialiser that may fail. May switch.
    ///
    /// # Errors
    ///
    /// That of `f`. Then nothing is set, and the next in line runs its own.
    ///
    /// # Panics
    ///
    /// As [`get_or_init`](Self::get_or_init).
    #[inline]
    #[track_caller]
    pub fn get_or_try_init<E>(&self, f: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let mut failed = None;
        self.once.run_once(true, |_| match f() {
            Ok(value) => self.value.set(value).is_ok(),
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(self.get().expect("the value is set before the Once completes")),
        }
    }

    /// The value, if it was set.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }

    /// Takes the value out: from now on it is not set.
    pub fn take(&mut self) -> Option<T> {
        std::mem::take(self).into_inner()
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        OnceLock::new()
    }
}

impl<T> From<T> for OnceLock<T> {
    /// One that is set.
    fn from(value: T) -> Self {
        let cell = OnceLock::new();
        let _ = cell.set(value);
        cell
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> Self {
        self.get().map_or_else(OnceLock::new, |value| value.clone().into())
    }
}

impl<T: PartialEq> PartialEq for OnceLock<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: Eq> Eq for OnceLock<T> {}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple("OnceLock");
        match self.get() {
            Some(value) => out.field(value),
            None => out.field(&format_args!("<uninit>")),
        };
        out.finish()
    }
}

/// `std::sync::LazyLock` for greenlets: a value that is made when it is first used.
///
/// The initialiser may switch; who comes meanwhile waits for it. As std's, it is run once at most: if it panics
/// (or its greenlet is killed, or unwound by a timeout, meanwhile) every later use panics. Where that may
/// happen, [`OnceLock`] can try again.
///
/// # Examples
///
/// ```
/// use switchgrass::sync::LazyLock;
///
/// static PRIMES: LazyLock<Vec<u32>> = LazyLock::new(|| vec![2, 3, 5, 7]);
/// assert_eq!(PRIMES.len(), 4);
/// ```
pub struct LazyLock<T, F = fn() -> T> {
    value: OnceLock<T>,
    initialiser: Lock<Option<F>>,
}

impl<T, F: FnOnce() -> T> LazyLock<T, F> {
    /// A value that `f` will make.
    pub const fn new(f: F) -> Self {
        LazyLock { value: OnceLock::new(), initialiser: Lock::new(Some(f)) }
    }

    /// The value; made now, if this is the first use. Waits as long as somebody else makes it. May switch. The same as `&*this`.
    ///
    /// # Panics
    ///
    /// If the initialiser does, or has. If it needs this very value. On a thread's main stack, if it can never end.
    #[inline]
    #[track_caller]
    pub fn force(this: &Self) -> &T {
        this.value.get_or_init(|| {
            // A statement of its own: the initialiser runs without the lock.
            let initialiser = this.initialiser.lock().take();
            match initialiser {
                Some(make) => make(),
                None => panic!("LazyLock instance has previously been poisoned"),
            }
        })
    }

    /// The value; made now, if this is the first use. The same as `&mut *this`. May switch if the initialiser does.
    ///
    /// # Panics
    ///
    /// As [`force`](Self::force).
    #[track_caller]
    pub fn force_mut(this: &mut Self) -> &mut T {
        Self::force(this);
        this.value.get_mut().expect("it was just made")
    }
}

impl<T, F> LazyLock<T, F> {
    /// The value, if it has been made.
    pub fn get(this: &Self) -> Option<&T> {
        this.value.get()
    }

    /// The value, if it has been made.
    pub fn get_mut(this: &mut Self) -> Option<&mut T> {
        this.value.get_mut()
    }
}

impl<T, F: FnOnce() -> T> Deref for LazyLock<T, F> {
    type Target = T;

    #[inline]
    #[track_caller]
    fn deref(&self) -> &T {
        LazyLock::force(self)
    }
}

impl<T, F: FnOnce() -> T> DerefMut for LazyLock<T, F> {
    #[track_caller]
    fn deref_mut(&mut self) -> &mut T {
        LazyLock::force_mut(self)
    }
}

impl<T: Default> Default for LazyLock<T> {
    fn default() -> Self {
        LazyLock::new(T::default)
    }
}

impl<T: fmt::Debug, F> fmt::Debug for LazyLock<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple("LazyLock");
        match LazyLock::get(self) {
            Some(value) => out.field(value),
            None => out.field(&format_args!("<uninit>")),
        };
        out.finish()
    }
}
