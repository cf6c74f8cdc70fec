//! `syscall(SYS_futex, ..)`: what std's locks, conditions and parked threads wait by.
//!
//! A greenlet that waits stands in a table by the address of the word; an OS thread waits in the kernel. Who wakes looks into the table, and asks the kernel only
//! if a thread went there. That the word still has the value is looked at under the lock of the table, under which who wakes looks for waiters after having changed
//! the word: so no wake is lost.
//!
//! A kill does not end such a wait for good: std's locks wait again until they have what they want, and cannot be told. The wait returns
//! once, for those who look at something else, too; from then on the greenlet really waits, and the kill stays pending.
//!
//! # `thread::park`
//!
//! std has one word per OS thread: `EMPTY`, `PARKED` (-1) or `NOTIFIED`. `park` counts it down, and spins unless it is `PARKED` then; `unpark` sets it to
//! `NOTIFIED`, and calls the kernel only if it was `PARKED`. Many greenlets of one thread may be parked. So while greenlets run, the word is `EMPTY`; while the hub
//! looks for events, it is `PARKED`, so that an `unpark` comes here. Where it is found `NOTIFIED`, all that are parked are woken: a park may return for nothing,
//! and each looks whether it is meant.
//!
//! A notification that comes while greenlets run is seen by the hub afterwards, unless one of them parks first: std takes the notification then, and does not
//! tell us. So those who are parked return for nothing every now and then: one that is alone, each second; several, after a quarter of a millisecond for each of
//! them, which takes some thousandths of the thread's time, and more and more seldom when a thousand such rounds have passed without a notification.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Once, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use libc::{c_int, c_long, timespec};

use super::{Parts, errno, gate, originals as real, set_errno};
use crate::hub::Hub;
use crate::hub::foreign::Verdict;
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::fork::{self, HeldAtFork};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{Reason, Waker};

const BUCKETS: usize = 256;

/// Waiters of several addresses.
struct Bucket {
    greenlets: Lock<Vec<Waiter>>,
    /// OS threads that wait in the kernel, or are about to.
    threads: AtomicUsize,
    /// Whose turn it is, where both wait.
    turn: AtomicU32,
}

struct Waiter {
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

fn bucket(address: usize) -> &'static Bucket {
    // Words are four bytes apart at least; Fibonacci hashing spreads them.
    &TABLE[(address >> 2).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56]
}

/// `syscall`, whatever it is about.
///
/// # Safety
///
/// As the system call's.
pub(super) unsafe fn syscall(number: c_long, args: [c_long; 6]) -> c_long {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's arguments, here and below.
    unsafe {
        if number == libc::SYS_futex {
            return futex(a as *const AtomicI32, b as c_int, c as i32, d as *const timespec, [d, e, f]);
        }
        real::syscall(number, a, b, c, d, e, f)
    }
}

unsafe fn futex(
    word: *const AtomicI32,
    operation: c_int,
    value: i32,
    timeout: *const timespec,
    rest: [c_long; 3],
) -> c_long {
    let [d, e, f] = rest;
    let address = word as usize;
    // SAFETY: the caller's arguments.
    let kernel = || unsafe {
        real::syscall(
            libc::SYS_futex,
            address as c_long,
            c_long::from(operation),
            c_long::from(value),
            d,
            e,
            f,
        )
    };
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        wait @ (libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET) => {
            if LEARNING.get() {
                LEARNED.set((address, value));
            }
            let absolute = wait == libc::FUTEX_WAIT_BITSET;
            let bits = if absolute { f as u32 } else { u32::MAX };
            match gate::gate(Parts::LOCKS.0) {
                Some(hub) => {
                    // SAFETY: the caller's pointers.
                    let deadline = unsafe { deadline(hub, timeout.as_ref(), absolute, operation) };
                    let result = match value == PARKED && Some(address) == parker() {
                        // SAFETY: the word is this thread's parker's.
                        true => park(hub, unsafe { &*word }, deadline),
                        // SAFETY: the caller's word.
                        false => wait_here(hub, unsafe { &*word }, value, deadline, bits),
                    };
                    match result {
                        Ok(()) => 0,
                        Err(error) => {
                            set_errno(error);
                            -1
                        }
                    }
                }
                None => {
                    let bucket = bucket(address);
                    bucket.threads.fetch_add(1, Ordering::SeqCst);
                    let result = kernel();
                    let error = errno();
                    bucket.threads.fetch_sub(1, Ordering::SeqCst);
                    set_errno(error);
                    result
                }
            }
        }
        wake @ (libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET) => {
            if gate::PATCHED.load(Ordering::Relaxed) & Parts::LOCKS.0 == 0 {
                return kernel();
            }
            let bits = if wake == libc::FUTEX_WAKE_BITSET { f as u32 } else { u32::MAX };
            let wanted = value.max(0) as usize;
            wake_here(address, wanted, bits, |count| {
                // SAFETY: a wake of so many.
                unsafe {
                    real::syscall(
                        libc::SYS_futex,
                        address as c_long,
                        c_long::from(operation),
                        count.min(i32::MAX as usize) as c_long,
                        d,
                        e,
                        f,
                    )
                }
                .max(0) as usize
            }) as c_long
        }
        _ => kernel(),
    }
}

unsafe fn deadline(hub: &Hub, timeout: Option<&timespec>, absolute: bool, operation: c_int) -> Nanos {
    let Some(timeout) = timeout else { return NEVER };
    let mut left = super::time::duration(timeout);
    if absolute {
        let clock = match operation & libc::FUTEX_CLOCK_REALTIME {
            0 => libc::CLOCK_MONOTONIC,
            _ => libc::CLOCK_REALTIME,
        };
        let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid place.
        unsafe { libc::clock_gettime(clock, &mut now) };
        left = left.saturating_sub(super::time::duration(&now));
    }
    hub.deadline(left)
}

static HELD: HeldAtFork<Vec<LockGuard<'static, Vec<Waiter>>>> = HeldAtFork::new();

/// In a child of this process, nobody waits. (The greenlets that did are not there, nor are the threads.)
pub(super) fn watch_forks() {
    extern "C" fn prepare() {
        HELD.put(TABLE.iter().map(|bucket| bucket.greenlets.lock()).collect());
    }
    extern "C" fn in_parent() {
        drop(HELD.take());
    }
    extern "C" fn in_child() {
        for mut greenlets in HELD.take().into_iter().flatten() {
            // Their tasks are dead, and not to be touched.
            std::mem::forget(std::mem::take(&mut *greenlets));
        }
        TABLE.iter().for_each(|bucket| bucket.threads.store(0, Ordering::SeqCst));
        PARKED_HERE.set(0);
    }
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| fork::at_fork(prepare, in_parent, in_child));
}

const REASON: &str = "futex";

impl Bucket {
    fn add(&self, greenlets: &mut Vec<Waiter>, hub: &Hub, address: usize, bits: u32) -> u64 {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        greenlets.push(Waiter { address, bits, number, waker: hub.waker(), parked: false });
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

    fn take(&self, address: usize, wanted: usize, bits: u32) -> Taken {
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
struct Taken {
    wakers: Vec<Waker>,
    /// By a word by which their thread itself may be parked, too.
    parked: bool,
}

/// Waits in the table, if the word has the value.
pub(super) fn wait_here(
    hub: &Hub,
    word: &AtomicI32,
    value: i32,
    deadline: Nanos,
    bits: u32,
) -> Result<(), i32> {
    let address = word.as_ptr() as usize;
    let bucket = bucket(address);
    let number = {
        let mut greenlets = bucket.greenlets.lock();
        if word.load(Ordering::SeqCst) != value {
            return Err(libc::EAGAIN);
        }
        bucket.add(&mut greenlets, hub, address, bits)
    };
    match wait_in_table(hub, bucket, number, address, deadline) {
        // std waits again at once if it is told of a signal, and its caller sees nothing. A wake for nothing is seen by who waits for a condition.
        Err(libc::EINTR) => Ok(()),
        result => result,
    }
}

/// Waits until it is taken out of the table.
fn wait_in_table(
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
            false => hub.park_foreign(reason, deadline),
            true => hub.park_unbroken(reason, deadline),
        };
        let result = match verdict {
            Verdict::Woken => match bucket.renew(hub, number) {
                true => continue,
                false => return Ok(()),
            },
            Verdict::TimedOut => Err(libc::ETIMEDOUT),
            Verdict::Expired | Verdict::Killed => Err(libc::EINTR),
        };
        // If it was woken at the same time, that counts.
        return if bucket.remove(number) { result } else { Ok(()) };
    }
}

/// Wakes up to so many: greenlets and threads by turns, where both wait.
fn wake_here(address: usize, wanted: usize, bits: u32, kernel: impl Fn(usize) -> usize) -> usize {
    let bucket = bucket(address);
    // The word was changed before this; who is about to wait is counted before the word is looked at.
    fence(Ordering::SeqCst);
    let mut woken = 0;
    let threads = bucket.threads.load(Ordering::SeqCst) > 0;
    let threads_first = threads && bucket.turn.fetch_add(1, Ordering::Relaxed) % 2 == 1;
    if threads_first {
        woken += kernel(wanted);
    }
    if woken < wanted {
        let Taken { wakers, parked } = bucket.take(address, wanted - woken, bits);
        wakers.iter().for_each(Waker::wake);
        if threads && !threads_first && (parked || wakers.len() < wanted) {
            kernel(if parked { wanted } else { wanted - wakers.len() });
        }
        woken += wakers.len();
        if let [waker] = &wakers[..]
            && !parked
            && waker.is_here()
            && let Some(hub) = gate::gate(Parts::LOCKS.0)
        {
            // Its turn now. std's locks are not handed over: a greenlet that takes one again between two of its waits would keep it from the others for good. And
            // who finds a lock that was taken without a wait spins for a microsecond, which cannot help on the same thread.
            hub.yield_foreign();
        }
    }
    woken
}

/// Waits by an address that is no futex: who wakes calls [`wake_address`]. `check` is called when this is in the table already; `true`: do not wait.
pub(super) fn wait_for_address(
    hub: &Hub,
    address: usize,
    deadline: Nanos,
    check: impl FnOnce() -> bool,
) -> Result<(), i32> {
    let bucket = bucket(address);
    let number = bucket.add(&mut bucket.greenlets.lock(), hub, address, u32::MAX);
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

const PARKED: i32 = -1;
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
    let unlike = |what: &str| {
        Err(format!("this std does not park threads as known ({what}), so `Parts::LOCKS` cannot be had"))
    };
    LEARNED.set((0, 0));
    LEARNING.set(true);
    std::thread::park_timeout(Duration::from_nanos(1));
    // If there was a token, that took it.
    std::thread::park_timeout(Duration::from_nanos(1));
    LEARNING.set(false);
    let (address, value) = LEARNED.get();
    if address == 0 {
        return unlike("it makes no futex call");
    }
    if value != PARKED {
        return unlike("the value is another");
    }
    let Some(inner) = inner(&std::thread::current()) else { return unlike("a Thread is no pointer") };
    match address.checked_sub(inner) {
        Some(offset) if offset < 256 => {
            let _ = OFFSET.set(offset);
            Ok(())
        }
        _ => unlike("the word is elsewhere"),
    }
}

/// The word of this thread.
fn parker() -> Option<usize> {
    let known = PARKER.get();
    if known != 0 {
        return Some(known);
    }
    let address = inner(&std::thread::current())? + OFFSET.get()?;
    PARKER.set(address);
    Some(address)
}

/// The wait of `thread::park` and `park_timeout`.
fn park(hub: &Hub, word: &AtomicI32, deadline: Nanos) -> Result<(), i32> {
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
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        greenlets.push(Waiter { address, bits: u32::MAX, number, waker: hub.waker(), parked: true });
        number
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
