//! `std::thread::park` of many greenlets of one thread.
//!
//! std has one word per OS thread: `EMPTY`, `PARKED` (-1) or `NOTIFIED`. `park` counts it down, and spins unless it is
//! `PARKED` then; `unpark` sets it to `NOTIFIED`, and calls the kernel only if it was `PARKED`. Many greenlets of one
//! thread may be parked. So while greenlets run, the word is `EMPTY`; while the hub looks for events, it is `PARKED`,
//! so that an `unpark` comes here. Where it is found `NOTIFIED`, all that are parked are woken: a park may return for
//! nothing, and each looks whether it is meant.
//!
//! A notification that comes while greenlets run is seen by the hub afterwards, unless one of them parks first:
//! std takes the notification then, and does not tell us. So those who are parked return for nothing every now
//! and then: one that is alone, each second; several, after a quarter of a millisecond for each of them, which
//! takes some thousandths of the thread's time, and more and more seldom when a thousand such rounds have
//! passed without a notification.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::Thread;
use std::time::Duration;

use super::waiters::{bucket, wait_in_table};
use crate::hub::Hub;
use crate::sys::clock::Nanos;
use crate::task::Waker;

pub(super) const PARKED: i32 = -1;
const EMPTY: i32 = 0;
const NOTIFIED: i32 = 1;

thread_local! {
    static LEARNING: Cell<bool> = const { Cell::new(false) };
    static LEARNED: Cell<(usize, i32)> = const { Cell::new((0, 0)) };
    /// The word of this thread; 0: not asked yet.
    static PARKER: Cell<usize> = const { Cell::new(0) };
    /// How many greenlets of this thread are parked.
    static PARKED_HERE: Cell<usize> = const { Cell::new(0) };
    /// Parks that have returned for nothing, since the last notification that was seen.
    static IN_VAIN: Cell<usize> = const { Cell::new(0) };
}

/// How long a greenlet is parked until it returns for nothing, if so many are.
fn patience(parked: usize) -> Duration {
    const ALONE: Duration = Duration::from_secs(1);
    const EACH: Duration = Duration::from_micros(250);
    const LONGEST: Duration = Duration::from_millis(100);
    const ROUNDS: usize = 1000;
    if parked == 1 {
        return ALONE;
    }
    let doublings = (IN_VAIN.get() / parked).saturating_sub(ROUNDS).min(16) as u32;
    EACH.saturating_mul(u32::try_from(parked).unwrap_or(u32::MAX)).saturating_mul(1 << doublings).min(LONGEST)
}

/// Where the word lies, from what a `Thread` points to.
static OFFSET: OnceLock<usize> = OnceLock::new();

fn inner(thread: &Thread) -> Option<usize> {
    // SAFETY: only read as bytes, if it has the size of a pointer: it is one to what all handles of the thread share.
    (size_of::<Thread>() == size_of::<usize>()).then(|| unsafe { std::mem::transmute_copy(thread) })
}

/// Sees whether std parks as is assumed here; else says what is different.
pub(super) fn learn() -> Result<(), String> {
    if OFFSET.get().is_some() {
        return Ok(());
    }
    let offset = learn_by(|| std::thread::park_timeout(Duration::from_nanos(1)))?;
    let _ = OFFSET.set(offset);
    Ok(())
}

/// Where the word lies, by watching `park`.
fn learn_by(park: impl Fn()) -> Result<usize, String> {
    LEARNED.set((0, 0));
    LEARNING.set(true);
    // A token ends a park before it waits, and there may come more of them.
    for _ in 0..100 {
        park();
        if LEARNED.get().0 != 0 {
            break;
        }
    }
    LEARNING.set(false);
    let (address, value) = LEARNED.get();
    offset(address, value, inner(&std::thread::current())).map_err(|what| {
        format!("this std does not park threads as known ({what}), so `Parts::LOCKS` cannot be had")
    })
}

/// Where the word lies, by what a thread that parked has waited for: the address, 0 if there was none, the value, and
/// what its `Thread` points to.
fn offset(address: usize, value: i32, inner: Option<usize>) -> Result<usize, &'static str> {
    /// std keeps less than that about a thread.
    const LONGEST: usize = 256;
    if address == 0 {
        return Err("it makes no futex call");
    }
    if value != PARKED {
        return Err("the value is another");
    }
    let inner = inner.ok_or("a Thread is no pointer")?;
    let offset = address.checked_sub(inner).filter(|offset| *offset < LONGEST);
    offset.ok_or("the word is elsewhere")
}

/// A thread that learns where its word is, has made a futex call.
pub(super) fn note(address: usize, value: i32) {
    if LEARNING.get() {
        LEARNED.set((address, value));
    }
}

/// In a child of this process.
pub(super) fn only_so_many_are_parked(count: usize) {
    PARKED_HERE.set(count);
}

/// The word of this thread.
pub(super) fn parker() -> Option<usize> {
    let known = PARKER.get();
    if known != 0 {
        return Some(known);
    }
    let address = inner(&std::thread::current())? + OFFSET.get()?;
    PARKER.set(address);
    Some(address)
}

/// The wait of `thread::park` and `park_timeout`.
pub(super) fn park(hub: &Hub, word: &AtomicI32, deadline: Nanos) -> Result<(), i32> {
    let address = word.as_ptr() as usize;
    let bucket = bucket(address);
    hub.set_around_events(look_at_parker);
    if PARKED_HERE.get() == 1 {
        // It is not alone any more.
        wake_all(address);
    }
    let number = {
        let mut greenlets = bucket.greenlets.lock();
        // A notification is for anybody.
        if word.compare_exchange(PARKED, EMPTY, Ordering::SeqCst, Ordering::SeqCst) == Err(NOTIFIED) {
            drop(greenlets);
            IN_VAIN.set(0);
            wake_all(address);
            return Ok(());
        }
        bucket.add(&mut greenlets, hub, address, u32::MAX, true)
    };
    let parked = PARKED_HERE.get() + 1;
    PARKED_HERE.set(parked);
    let patience = hub.deadline(patience(parked));
    let result = match wait_in_table(hub, bucket, number, address, patience.min(deadline)) {
        Err(libc::ETIMEDOUT) if patience < deadline => {
            IN_VAIN.set(IN_VAIN.get() + 1);
            Ok(())
        }
        result => result,
    };
    PARKED_HERE.set(PARKED_HERE.get() - 1);
    // What makes std's park return.
    word.store(NOTIFIED, Ordering::SeqCst);
    result
}

fn wake_all(address: usize) {
    bucket(address).take(address, usize::MAX, u32::MAX).wakers.iter().for_each(Waker::wake);
}

/// Before and after the hub looks for events.
fn look_at_parker(before: bool) {
    if PARKED_HERE.get() == 0 {
        return;
    }
    let address = PARKER.get();
    // SAFETY: the word of this thread, which is there as long as the thread.
    let word = unsafe { AtomicI32::from_ptr(address as *mut i32) };
    let (from, to) = if before { (EMPTY, PARKED) } else { (PARKED, EMPTY) };
    if word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst) == Err(NOTIFIED) {
        IN_VAIN.set(0);
        wake_all(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: usize = 0x7000_0000;

    #[test]
    fn a_word_in_what_a_thread_points_to_is_accepted() {
        assert_eq!(offset(INNER, PARKED, Some(INNER)), Ok(0));
        assert_eq!(offset(INNER + 40, PARKED, Some(INNER)), Ok(40));
    }

    #[test]
    fn a_std_that_parks_otherwise_is_refused() {
        assert_eq!(offset(0, 0, Some(INNER)), Err("it makes no futex call"));
        for value in [EMPTY, NOTIFIED, 2] {
            assert_eq!(offset(INNER + 40, value, Some(INNER)), Err("the value is another"));
        }
        assert_eq!(offset(INNER + 40, PARKED, None), Err("a Thread is no pointer"));
        for address in [INNER - 4, INNER + 256, INNER / 2, INNER * 2] {
            assert_eq!(offset(address, PARKED, Some(INNER)), Err("the word is elsewhere"));
        }
    }

    #[test]
    fn what_a_park_does_is_seen_and_a_refusal_says_what_is_different() {
        let own = || inner(&std::thread::current()).unwrap();
        assert_eq!(learn_by(|| note(own() + 8, PARKED)), Ok(8));
        let refusal = |park: &dyn Fn()| learn_by(park).unwrap_err();
        assert!(refusal(&|| ()).contains("it makes no futex call"));
        assert!(refusal(&|| note(own() + 8, 1)).contains("the value is another"));
        assert!(refusal(&|| note(own() + 4096, PARKED)).contains("the word is elsewhere"));
        // Tokens that came before.
        let parks = Cell::new(0);
        let third = || {
            parks.set(parks.get() + 1);
            if parks.get() == 3 {
                note(own() + 8, PARKED);
            }
        };
        assert_eq!((learn_by(third), parks.get()), (Ok(8), 3));
        note(1, 1);
        assert_eq!(LEARNED.get(), (own() + 8, PARKED), "watched only meanwhile");
    }
}
