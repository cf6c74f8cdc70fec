//! Greenlets that wait for a word in memory, by its address: for a futex, or for a lock of pthread's.
//!
//! Who waits enters the table first and looks then whether it has to wait (or both under the lock of the table); who
//! wakes changes the word first and looks into the table then. So no wake is lost.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::parker;
use crate::hub::foreign::Verdict;
use crate::hub::{self, Hub};
use crate::sys::clock::Nanos;
use crate::sys::fork::{self, HeldAtFork};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{Handlers, Reason, Waker};

const BUCKETS: usize = 256;

/// Waiters of several addresses.
pub(super) struct Bucket {
    pub(super) greenlets: Lock<Vec<Waiter>>,
    /// OS threads that wait in the kernel, or are about to.
    pub(super) threads: AtomicUsize,
    /// Whose turn it is, where both wait.
    pub(super) turn: AtomicU32,
}

pub(super) struct Waiter {
    address: usize,
    bits: u32,
    number: u64,
    waker: Waker,
    /// Parked by the word of its thread: woken with all the others.
    parked: bool,
}

static TABLE: [Bucket; BUCKETS] = [const {
    Bucket { greenlets: Lock::new(Vec::new()), threads: AtomicUsize::new(0), turn: AtomicU32::new(0) }
}; BUCKETS];

static NUMBERS: AtomicU64 = AtomicU64::new(0);

pub(super) fn bucket(address: usize) -> &'static Bucket {
    // Words are four bytes apart at least; Fibonacci hashing spreads them.
    &TABLE[(address >> 2).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56]
}

/// Whether it is the word of one of the table's own locks.
pub(super) fn is_of_table(address: usize) -> bool {
    let range = TABLE.as_ptr_range();
    (range.start as usize..range.end as usize).contains(&address)
}

static HELD: HeldAtFork<Vec<LockGuard<'static, Vec<Waiter>>>> = HeldAtFork::new();

/// In a child of this process, nobody waits but main. (The greenlets that did are not there, nor are the threads.)
pub(super) fn watch_forks() {
    extern "C" fn prepare() {
        HOLDS_ALL.set(true);
        HELD.put(TABLE.iter().map(|bucket| bucket.greenlets.lock()).collect());
    }
    extern "C" fn in_parent() {
        drop(HELD.take());
        HOLDS_ALL.set(false);
    }
    extern "C" fn in_child() {
        let Some(mut locks) = HELD.take() else { return };
        let mut parked = 0;
        for greenlets in &mut locks {
            let (main, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut **greenlets)
                .into_iter()
                .partition(|waiter| hub::existing().is_some_and(|hub| waiter.waker.is_of(hub.main_task())));
            // Their tasks are dead, and not to be touched.
            std::mem::forget(gone);
            parked += main.iter().filter(|waiter| waiter.parked).count();
            **greenlets = main;
        }
        TABLE.iter().for_each(|bucket| bucket.threads.store(0, Ordering::SeqCst));
        drop(locks);
        HOLDS_ALL.set(false);
        parker::only_so_many_are_parked(parked);
    }
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| fork::at_fork(prepare, in_parent, in_child));
}

const REASON: &str = "futex";

/// The addresses that somebody waits for.
pub(super) fn addresses() -> Vec<usize> {
    TABLE
        .iter()
        .flat_map(|bucket| bucket.greenlets.lock().iter().map(|waiter| waiter.address).collect::<Vec<_>>())
        .collect()
}

/// Whether this thread forks, and has locked the table.
pub(super) fn are_locked_for_fork() -> bool {
    HOLDS_ALL.get()
}

thread_local! {
    static HOLDS_ALL: Cell<bool> = const { Cell::new(false) };
}

impl Bucket {
    pub(super) fn add(
        &self,
        greenlets: &mut Vec<Waiter>,
        hub: &Hub,
        address: usize,
        bits: u32,
        parked: bool,
    ) -> u64 {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        greenlets.push(Waiter { address, bits, number, waker: hub.waker(), parked });
        number
    }

    /// Whether the waiter was still there.
    fn remove(&self, number: u64) -> bool {
        let mut greenlets = self.greenlets.lock();
        let found = greenlets.iter().position(|waiter| waiter.number == number);
        found.map(|at| greenlets.remove(at)).is_some()
    }

    /// For the next park. `false`: it was woken meanwhile.
    fn renew(&self, hub: &Hub, number: u64) -> bool {
        let mut greenlets = self.greenlets.lock();
        let waiter = greenlets.iter_mut().find(|waiter| waiter.number == number);
        waiter.map(|waiter| waiter.waker = hub.waker()).is_some()
    }

    pub(super) fn take(&self, address: usize, wanted: usize, bits: u32) -> Taken {
        let mut taken = Taken::default();
        let mut greenlets = self.greenlets.lock();
        if wanted == 1 {
            // The usual case, without a second list.
            let found =
                greenlets.iter().position(|waiter| waiter.address == address && waiter.bits & bits != 0);
            match found {
                None => return taken,
                Some(at) if !greenlets[at].parked => {
                    taken.wakers.push(greenlets.remove(at).waker);
                    return taken;
                }
                Some(_) => {}
            }
        }
        greenlets.retain(|waiter| {
            let is_meant = waiter.address == address
                && waiter.bits & bits != 0
                && (waiter.parked || taken.wakers.len() < wanted);
            if is_meant {
                taken.parked |= waiter.parked;
                taken.wakers.push(waiter.waker.clone());
            }
            !is_meant
        });
        taken
    }
}

/// Who is to be woken.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) wakers: Vec<Waker>,
    /// By a word by which their thread itself may be parked, too.
    pub(super) parked: bool,
}

/// Waits until it is taken out of the table.
pub(super) fn wait_in_table(
    hub: &Hub,
    bucket: &Bucket,
    number: u64,
    address: usize,
    deadline: Nanos,
) -> Result<(), i32> {
    let reason = Reason::shared_of(REASON, address as u64);
    let pending = hub.verdict() != Verdict::Woken;
    loop {
        let verdict = match pending {
            false => hub.park_foreign(reason, deadline, Handlers::None),
            true => hub.park_unbroken(reason, deadline),
        };
        let result = match verdict {
            Verdict::Woken => match bucket.renew(hub, number) {
                true => continue,
                false => return Ok(()),
            },
            Verdict::TimedOut => Err(libc::ETIMEDOUT),
            Verdict::Expired | Verdict::Killed | Verdict::Interrupted => Err(libc::EINTR),
        };
        // If it was woken at the same time, that counts.
        return if bucket.remove(number) { result } else { Ok(()) };
    }
}

/// Waits by an address that is no futex: who wakes calls [`wake_address`]. `check` is called when this is in the
/// table already; `true`: do not wait.
pub(super) fn wait_for_address(
    hub: &Hub,
    address: usize,
    deadline: Nanos,
    check: impl FnOnce() -> bool,
) -> Result<(), i32> {
    let bucket = bucket(address);
    let number = bucket.add(&mut bucket.greenlets.lock(), hub, address, u32::MAX, false);
    if check() {
        bucket.remove(number);
        return Ok(());
    }
    wait_in_table(hub, bucket, number, address, deadline)
}

/// Wakes so many of those who [wait](wait_for_address).
pub(super) fn wake_address(address: usize, wanted: usize) -> usize {
    fence(Ordering::SeqCst);
    let wakers = bucket(address).take(address, wanted, u32::MAX).wakers;
    wakers.iter().for_each(Waker::wake);
    wakers.len()
}
