//! In place of the library's `sys::sync`.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::panic::Location;

pub(crate) use std::sync::atomic::Ordering;

use super::{Kind, done, keep_loaded, loaded, store_later, weakened, wrong};

std::thread_local! {
    /// Made by the first thread before there are others: else the first access of one thread, which makes it, would be an error if the next one's
    /// does not come after it.
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock(Vec::new(), Vec::new())) };
    /// Which all fences touch.
    static FENCES: RefCell<Option<loom::sync::atomic::AtomicU64>> = const { RefCell::new(None) };
}

struct Stock(Vec<loom::sync::atomic::AtomicU64>, Vec<loom::cell::UnsafeCell<()>>);

/// To be called first in each run of a check.
pub(crate) fn stock_up() {
    let new = Stock(
        (0..40).map(|_| loom::sync::atomic::AtomicU64::new(0)).collect(),
        (0..40).map(|_| loom::cell::UnsafeCell::new(())).collect(),
    );
    STOCK.set(new);
    FENCES.set(Some(loom::sync::atomic::AtomicU64::new(0)));
}

/// Loom knows what fences do, but not that their order matters: it lets a thread pass one along with the access before
/// it. So each of ours touches a place first, whose accesses are seen in each order. They are relaxed, and so bring
/// nothing else into an order.
#[track_caller]
pub(crate) fn fence(order: Ordering) {
    if wrong(Location::caller()) != Some(Kind::Left) {
        FENCES.with_borrow(|fences| {
            let fences = fences.as_ref().expect("stocked up");
            fences.fetch_add(1, Ordering::Relaxed);
        });
        loom::sync::atomic::fence(order);
    }
    done();
}

macro_rules! atomic {
    ($name:ident, $value:ty, $encode:expr, $decode:expr) => {
        /// Loom's atomics cannot be made in a `const fn`, so this takes one at its first access. It holds 0 then, so what is in it is the
        /// difference from the initial value.
        pub(crate) struct $name {
            initial: $value,
            real: OnceCell<loom::sync::atomic::AtomicU64>,
        }

        // SAFETY: loom's threads take turns on one thread of the system.
        unsafe impl Sync for $name {}

        impl $name {
            pub(crate) const fn new(initial: $value) -> Self {
                $name { initial, real: OnceCell::new() }
            }

            fn real(&self) -> &loom::sync::atomic::AtomicU64 {
                self.real
                    .get_or_init(|| STOCK.with_borrow_mut(|stock| stock.0.pop().expect("a larger stock")))
            }

            fn encode(&self, value: $value) -> u64 {
                $encode(value) ^ $encode(self.initial)
            }

            fn decode(&self, value: u64) -> $value {
                $decode(value ^ $encode(self.initial))
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                let wrong = wrong(Location::caller());
                let value = match wrong {
                    Some(Kind::Left) => 0,
                    Some(Kind::Again) => loaded(),
                    _ => self.real().load(weakened(order, wrong)),
                };
                keep_loaded(value);
                done();
                self.decode(value)
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                let wrong = wrong(Location::caller());
                match wrong {
                    Some(Kind::Left) => {}
                    Some(Kind::Late) => {
                        let this: *const Self = self;
                        return store_later(move || {
                            // SAFETY: the access after this one is in the same function, which has borrowed this.
                            let this = unsafe { &*this };
                            this.real().store(this.encode(value), order);
                        });
                    }
                    _ => self.real().store(self.encode(value), weakened(order, wrong)),
                }
                done();
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                let wrong = wrong(Location::caller());
                let value = self.encode(value);
                let before = match wrong {
                    Some(Kind::Left) => self.real().load(of_load(order)),
                    Some(Kind::Torn) => {
                        let before = self.real().load(of_load(order));
                        self.real().store(value, Ordering::Release);
                        before
                    }
                    _ => self.real().swap(value, weakened(order, wrong)),
                };
                done();
                self.decode(before)
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let wrong = wrong(Location::caller());
                let (old, new) = (self.encode(old), self.encode(new));
                let result = match wrong {
                    Some(Kind::Torn) => match self.real().load(of_load(success)) {
                        before if before == old => {
                            self.real().store(new, Ordering::Release);
                            Ok(before)
                        }
                        before => Err(before),
                    },
                    _ => self.real().compare_exchange(
                        old,
                        new,
                        weakened(success, wrong),
                        weakened(failure, wrong),
                    ),
                };
                done();
                result.map(|value| self.decode(value)).map_err(|value| self.decode(value))
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.load(Ordering::Relaxed))
            }
        }
    };
}

atomic!(AtomicBool, bool, u64::from, |value| value != 0);
atomic!(AtomicU8, u8, u64::from, |value| value as u8);
atomic!(AtomicU64, u64, |value: u64| value, |value| value);
atomic!(AtomicUsize, usize, |value: usize| value as u64, |value| value as usize);

/// Of sets of bits that begin empty.
impl AtomicU8 {
    #[track_caller]
    pub(crate) fn fetch_or(&self, bits: u8, order: Ordering) -> u8 {
        assert_eq!(self.initial, 0);
        let wrong = wrong(Location::caller());
        let before = match wrong {
            Some(Kind::Left) => self.real().load(of_load(order)),
            Some(Kind::Torn) => {
                let before = self.real().load(of_load(order));
                self.real().store(before | u64::from(bits), Ordering::Release);
                before
            }
            _ => self.real().fetch_or(u64::from(bits), weakened(order, wrong)),
        };
        done();
        self.decode(before)
    }

    #[track_caller]
    pub(crate) fn fetch_and(&self, bits: u8, order: Ordering) -> u8 {
        assert_eq!(self.initial, 0);
        let before = self.real().fetch_and(u64::from(bits), weakened(order, wrong(Location::caller())));
        done();
        self.decode(before)
    }
}

/// Of numbers that begin at zero.
impl AtomicU64 {
    #[track_caller]
    pub(crate) fn fetch_add(&self, more: u64, order: Ordering) -> u64 {
        assert_eq!(self.initial, 0);
        let wrong = wrong(Location::caller());
        let before = match wrong {
            Some(Kind::Left) => self.real().load(of_load(order)),
            Some(Kind::Torn) => {
                let before = self.real().load(of_load(order));
                self.real().store(before.wrapping_add(more), Ordering::Release);
                before
            }
            _ => self.real().fetch_add(more, weakened(order, wrong)),
        };
        done();
        before
    }

    #[track_caller]
    pub(crate) fn fetch_sub(&self, less: u64, order: Ordering) -> u64 {
        self.fetch_add(less.wrapping_neg(), order)
    }
}

fn of_load(order: Ordering) -> Ordering {
    match order {
        Ordering::Relaxed | Ordering::Release => Ordering::Relaxed,
        _ => Ordering::Acquire,
    }
}

/// Who has touched a place that is no atomic.
struct Tracker(OnceCell<loom::cell::UnsafeCell<()>>);

impl Tracker {
    const fn new() -> Self {
        Tracker(OnceCell::new())
    }

    #[track_caller]
    fn real(&self) -> &loom::cell::UnsafeCell<()> {
        self.0.get_or_init(|| STOCK.with_borrow_mut(|stock| stock.1.pop().expect("a larger stock")))
    }

    #[track_caller]
    fn read(&self) {
        self.real().with(|_| ());
    }

    #[track_caller]
    fn write(&self) {
        self.real().with_mut(|_| ());
    }
}

pub(crate) struct Cell<T> {
    tracker: Tracker,
    value: std::cell::Cell<T>,
}

impl<T> Cell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Cell { tracker: Tracker::new(), value: std::cell::Cell::new(value) }
    }

    #[track_caller]
    pub(crate) fn set(&self, value: T) {
        self.tracker.write();
        self.value.set(value);
    }
}

impl<T: Copy> Cell<T> {
    #[track_caller]
    pub(crate) fn get(&self) -> T {
        self.tracker.read();
        self.value.get()
    }
}

/// The place is given back then, which nobody may do while another one looks at it.
impl<T> Drop for Cell<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.tracker.write();
        }
    }
}

pub(crate) struct UnsafeCell<T: ?Sized> {
    tracker: Tracker,
    value: std::cell::UnsafeCell<T>,
}

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        UnsafeCell { tracker: Tracker::new(), value: std::cell::UnsafeCell::new(value) }
    }

    pub(crate) fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> UnsafeCell<T> {
    /// Who gets the pointer uses it at once, so this is the access. It is taken for a write.
    #[track_caller]
    pub(crate) fn get(&self) -> *mut T {
        self.tracker.write();
        self.value.get()
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}
