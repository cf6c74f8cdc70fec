//! pthread's mutexes, conditions, read-write locks and barriers; semaphores.
//!
//! A greenlet tries, without waiting. If it would have to wait, it enters the table of [`waiters`] by the address of
//! the object, tries again, and parks. Who unlocks, posts or signals calls libc's function, which looks after the
//! threads that wait in the kernel, and then wakes greenlets that stand in the table. All of them try again, threads
//! and greenlets, so nothing is handed over and nobody is favoured. A greenlet that locks again what another one waits
//! for lets that one try first, for on one thread nobody else would ever interrupt it between two of its locks.
//!
//! # No wake is lost, and an unlock costs one load more
//!
//! How many greenlets wait is counted by a hash of the address, in [`WAITING`].
//!
//! ```text
//!   who waits                       who unlocks
//!   1. count, enter the table       1. libc's unlock
//!   2. fence                        2. fence
//!   3. try again                    3. if the count is not zero: wake who is in the table
//! ```
//!
//! One fence comes first: either 3 on the left sees the lock free (or taken by somebody who will unlock after that), or
//! 3 on the right sees the count. libc's unlock ends with a locked instruction on x86-64, which is a fence, so that
//! there only the compiler is told. (In a process that has one thread only, glibc saves the lock prefix; then there is
//! nobody to be out of order with.) A wake is not kept for anybody: who was woken and does not get the lock enters the
//! table anew, and whoever has it will unlock.
//!
//! # Whose a mutex is
//!
//! A recursive or error-checking mutex belongs to the OS thread: libc would give it to a second greenlet of the same
//! thread. So [`HELD`] says which greenlet of this thread has it. What is not there and yet belongs to this thread
//! (says the mutex), is main's, which may have taken it before there was a hub. Whatever the table says of a mutex that
//! does not belong to the thread is out of date: it was destroyed, or begun anew in the child of a fork.
//!
//! Normal mutexes have no owner that anybody checks.
//!
//! # Conditions
//!
//! A greenlet enters the table for the condition before it unlocks the mutex. Who signals has changed what is waited
//! for under that mutex, so after that. A signal wakes one greenlet, and one thread, too: "at least one", says POSIX,
//! and who waits looks whether it is meant.
//!
//! An OS thread that waits for a condition does so in libc, which unlocks the mutex without our seeing it.
//! Greenlets that wait for such a mutex are not woken by that, so they look again after a moment: see
//! [`RELEASED_UNSEEN`]. The same holds for what another process may unlock or post, and for semaphores where signal
//! handlers may post, which can wake no greenlet.
//!
//! # What is pending
//!
//! A kill or a timeout does not end the wait for a lock, which has no way to fail. `pthread_cond_wait` returns once for
//! nothing, `sem_wait` fails once with `EINTR`; after that they really wait, and the kill stays pending. A time that
//! the program gives is kept in any case.
//!
//! # Allocators
//!
//! An allocator that locks pthread mutexes (jemalloc does) must not be left in the middle for another greenlet of the
//! thread, for what it keeps per thread is in disorder there. So if the program's allocator unlocks a mutex when
//! [`learn`] allocates, `pthread_mutex_lock` is left alone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, compiler_fence, fence};
use std::sync::{Arc, Barrier, Once, OnceLock};
use std::time::Duration;

use libc::{
    c_int, c_uint, clockid_t, pthread_barrier_t, pthread_barrierattr_t, pthread_cond_t, pthread_mutex_t,
    pthread_rwlock_t, sem_t, timespec,
};

use super::waiters::{self, wait_for_address, wake_address};
use super::{Parts, errno, fail, gate, originals as real, signal, time};
use crate::hub::{self, Hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::fork::{self, HeldAtFork};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::State;

/// Whether mutexes are to be waited for by greenlets: they are patched, and the allocator has none.
static MUTEXES: AtomicBool = AtomicBool::new(false);

const SLOTS: usize = 1024;

/// How many greenlets wait for objects at addresses with that hash.
static WAITING: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];

/// Mutexes, by the same hash, with which an OS thread has waited for a condition in libc: they may become free unseen.
static RELEASED_UNSEEN: [AtomicBool; SLOTS] = [const { AtomicBool::new(false) }; SLOTS];

/// After so long greenlets look again at what may become free unseen; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

fn slot(address: usize) -> usize {
    (address >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - SLOTS.ilog2())
}

/// A greenlet that waits.
struct Counted(usize);

impl Counted {
    fn begin(address: usize) -> Self {
        WAITING[slot(address)].fetch_add(1, Ordering::SeqCst);
        Counted(slot(address))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Not below zero: in the child of a fork the count has begun anew.
        let _ =
            WAITING[self.0].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }
}

/// In the child of a fork only main waits, if anybody. To be called after that of `waiters`,
/// whose child comes first then.
pub(super) fn watch_forks() {
    extern "C" fn prepare() {
        HELD_AT_FORK.put(BARRIERS.lock());
    }
    extern "C" fn in_parent() {
        drop(HELD_AT_FORK.take());
    }
    extern "C" fn in_child() {
        drop(HELD_AT_FORK.take());
        WAITING.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        for address in waiters::addresses() {
            WAITING[slot(address)].fetch_add(1, Ordering::SeqCst);
        }
    }
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| fork::at_fork(prepare, in_parent, in_child));
}

/// How many greenlets wait, how many mutexes those of this thread have, how many barriers there are.
pub(super) fn kept() -> [usize; 3] {
    let waiting = WAITING.iter().map(|count| count.load(Ordering::Relaxed) as usize).sum();
    [waiting, HELD.with_borrow(BTreeMap::len), BARRIERS.lock().len()]
}

fn has_waiters(address: usize) -> bool {
    WAITING[slot(address)].load(Ordering::Relaxed) != 0
}

/// After libc's unlock: wakes greenlets.
#[inline]
fn wake(address: usize, count: usize) {
    // See the module's head.
    if cfg!(target_arch = "x86_64") {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
    if has_waiters(address) {
        wake_slowly(address, count);
    }
}

#[cold]
fn wake_slowly(address: usize, count: usize) {
    // Nothing of that may be done while something else of this thread is interrupted.
    if gate::IN_HANDLER.get() == 0 {
        wake_address(address, count);
    }
}

/// Waits until `attempt` gives something. Errors: `ETIMEDOUT`; `EINTR` if something pending has just come.
fn wait_until(
    hub: &Hub,
    address: usize,
    deadline: Nanos,
    unseen: impl Fn() -> bool,
    attempt: impl Fn() -> Option<c_int>,
) -> Result<c_int, i32> {
    let _counted = Counted::begin(address);
    let mut pause = FIRST_PAUSE;
    loop {
        let mut result = None;
        let mut until = deadline;
        let waited = {
            // In the table first, and then: the fences of the module's head.
            let check = || {
                fence(Ordering::SeqCst);
                result = attempt();
                result.is_some()
            };
            if unseen() {
                until = deadline.min(hub.deadline(pause));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            wait_for_address(hub, address, until, check)
        };
        if let Some(result) = result.or_else(&attempt) {
            return Ok(result);
        }
        match waited {
            Ok(()) => {}
            Err(libc::ETIMEDOUT) if until < deadline => {}
            Err(error) => return Err(error),
        }
    }
}

/// As [`wait_until`], whatever is pending.
fn wait_unbroken(
    hub: &Hub,
    address: usize,
    deadline: Nanos,
    unseen: impl Fn() -> bool,
    attempt: impl Fn() -> Option<c_int>,
) -> c_int {
    loop {
        match wait_until(hub, address, deadline, &unseen, &attempt) {
            Ok(result) => return result,
            Err(libc::EINTR) => {}
            Err(error) => return error,
        }
    }
}

/// When a call has to be done: the clock, and the time by it.
#[derive(Clone, Copy)]
struct Limit(Option<(clockid_t, *const timespec)>);

impl Limit {
    const NONE: Limit = Limit(None);

    fn by(clock: clockid_t, time: *const timespec) -> Self {
        Limit(Some((clock, time)))
    }

    /// `Err`: what the call fails with.
    unsafe fn deadline(self, hub: &Hub) -> Result<Nanos, c_int> {
        match self.0 {
            None => Ok(NEVER),
            // SAFETY: the caller's pointer.
            Some((clock, time)) => time::deadline(hub, clock, unsafe { &*time }),
        }
    }
}

// ---- What libc keeps in its objects ----

/// Where two objects of one type differ that were made differently: in one word.
#[derive(Clone, Copy, Debug)]
struct Mark {
    word: usize,
    bits: u32,
}

impl Mark {
    fn between<T>(one: &MaybeUninit<T>, other: &MaybeUninit<T>) -> Option<Mark> {
        let words = size_of::<T>() / 4;
        // SAFETY: both were zeroed, and then initialised by libc.
        let read = |object: &MaybeUninit<T>, word| unsafe { *object.as_ptr().cast::<u32>().add(word) };
        let mut different = (0..words).filter(|&word| read(one, word) != read(other, word));
        let word = different.next()?;
        different.next().is_none().then(|| Mark { word, bits: read(one, word) ^ read(other, word) })
    }

    /// # Safety
    ///
    /// It is an object of the type that the mark was found for.
    #[inline]
    unsafe fn is_on<T>(self, object: *const T) -> bool {
        // SAFETY: within the object; libc changes it as a word, too.
        unsafe { word(object, self.word).load(Ordering::Relaxed) & self.bits != 0 }
    }
}

/// # Safety
///
/// So many words are within the object, which lives as long as what is returned is used.
unsafe fn word<'a, T>(object: *const T, index: usize) -> &'a AtomicU32 {
    // SAFETY: the caller's promise; pthread's objects are aligned to words at least.
    unsafe { AtomicU32::from_ptr(object.cast::<u32>().add(index).cast_mut()) }
}

/// Where libc keeps what matters here.
#[derive(Debug)]
struct Layout {
    /// A mutex that has both is an adaptive one, which has no owner.
    recursive: Mark,
    checking: Mark,
    /// Of another process, or freed by the death of its owner.
    shared_mutex: Mark,
    robust: Mark,
    monotonic_cond: Mark,
    shared_cond: Mark,
    shared_rwlock: Mark,
    shared_sem: Mark,
}

static LAYOUT: OnceLock<Layout> = OnceLock::new();

/// The owner's thread id in a mutex of glibc: `__lock`, `__count`, `__owner`. Part of its binary
/// interface, by the static initialisers.
const OWNER: usize = 2;

thread_local! {
    /// Whether the calls of this thread are being watched for those of the allocator.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// The recursive and error-checking mutexes that greenlets of this thread have, but for main.
    static HELD: RefCell<BTreeMap<usize, Held>> = const { RefCell::new(BTreeMap::new()) };
    /// The kernel's number for this thread, in the process of that generation.
    static THREAD: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

static WATCHING: AtomicBool = AtomicBool::new(false);
static ALLOCATOR_LOCKS: AtomicBool = AtomicBool::new(false);

/// Finds out how libc's objects look, and whether the allocator uses them.
pub(super) fn learn() -> Result<(), String> {
    if LAYOUT.get().is_none() {
        let layout = layout().ok_or(
            "this libc keeps its mutexes, conditions and semaphores in another way than known, so `Parts::LOCKS` cannot be had",
        )?;
        let _ = LAYOUT.set(layout);
    }
    WATCHING.store(true, Ordering::SeqCst);
    WATCHED.set(true);
    for size in [16, 300, 5000, 100_000, 5_000_000] {
        drop(black_box(Vec::<u8>::with_capacity(size)));
    }
    WATCHED.set(false);
    WATCHING.store(false, Ordering::SeqCst);
    MUTEXES.store(!ALLOCATOR_LOCKS.load(Ordering::SeqCst), Ordering::SeqCst);
    Ok(())
}

/// `None`: it is unlike what is known.
fn layout() -> Option<Layout> {
    // SAFETY: attributes and objects of libc's, initialised before they are used; these are never destroyed, which in
    // glibc and musl does nothing for them.
    unsafe {
        let mutex = |set: &dyn Fn(*mut libc::pthread_mutexattr_t) -> c_int| {
            let mut attributes = MaybeUninit::zeroed();
            let mut object = MaybeUninit::<pthread_mutex_t>::zeroed();
            (libc::pthread_mutexattr_init(attributes.as_mut_ptr()) == 0
                && set(attributes.as_mut_ptr()) == 0
                && libc::pthread_mutex_init(object.as_mut_ptr(), attributes.as_ptr()) == 0)
                .then_some(object)
        };
        let cond = |set: &dyn Fn(*mut libc::pthread_condattr_t) -> c_int| {
            let mut attributes = MaybeUninit::zeroed();
            let mut object = MaybeUninit::<pthread_cond_t>::zeroed();
            (libc::pthread_condattr_init(attributes.as_mut_ptr()) == 0
                && set(attributes.as_mut_ptr()) == 0
                && libc::pthread_cond_init(object.as_mut_ptr(), attributes.as_ptr()) == 0)
                .then_some(object)
        };
        let rwlock = |shared| {
            let mut attributes = MaybeUninit::zeroed();
            let mut object = MaybeUninit::<pthread_rwlock_t>::zeroed();
            (libc::pthread_rwlockattr_init(attributes.as_mut_ptr()) == 0
                && libc::pthread_rwlockattr_setpshared(attributes.as_mut_ptr(), shared) == 0
                && libc::pthread_rwlock_init(object.as_mut_ptr(), attributes.as_ptr()) == 0)
                .then_some(object)
        };
        let sem = |shared| {
            let mut object = MaybeUninit::<sem_t>::zeroed();
            (libc::sem_init(object.as_mut_ptr(), shared, 0) == 0).then_some(object)
        };
        let shared = libc::PTHREAD_PROCESS_SHARED;
        let normal = mutex(&|_| 0)?;
        let mut recursive =
            mutex(&|attributes| libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_RECURSIVE))?;
        let checking =
            mutex(&|attributes| libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK))?;
        let shared_mutex = mutex(&|attributes| libc::pthread_mutexattr_setpshared(attributes, shared))?;
        let robust =
            mutex(&|attributes| libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST))?;
        let plain_cond = cond(&|_| 0)?;
        let monotonic_cond =
            cond(&|attributes| libc::pthread_condattr_setclock(attributes, libc::CLOCK_MONOTONIC))?;
        let shared_cond = cond(&|attributes| libc::pthread_condattr_setpshared(attributes, shared))?;
        let layout = Layout {
            recursive: Mark::between(&normal, &recursive)?,
            checking: Mark::between(&normal, &checking)?,
            shared_mutex: Mark::between(&normal, &shared_mutex)?,
            robust: Mark::between(&normal, &robust)?,
            monotonic_cond: Mark::between(&plain_cond, &monotonic_cond)?,
            shared_cond: Mark::between(&plain_cond, &shared_cond)?,
            shared_rwlock: Mark::between(&rwlock(libc::PTHREAD_PROCESS_PRIVATE)?, &rwlock(shared)?)?,
            shared_sem: Mark::between(&sem(0)?, &sem(1)?)?,
        };
        let mutex = recursive.as_mut_ptr();
        real::pthread_mutex_lock(mutex);
        let has_owner = word(mutex, OWNER).load(Ordering::Relaxed) == this_thread();
        real::pthread_mutex_unlock(mutex);
        (has_owner && word(mutex, OWNER).load(Ordering::Relaxed) == 0).then_some(layout)
    }
}

fn this_thread() -> u32 {
    let process = fork::generation();
    let (known_in, number) = THREAD.get();
    if known_in == process {
        return number;
    }
    // SAFETY: takes nothing.
    let number = unsafe { real::syscall(libc::SYS_gettid, 0, 0, 0, 0, 0, 0) } as u32;
    THREAD.set((process, number));
    number
}

// ---- Mutexes ----

struct Held {
    context: u64,
    depth: u32,
}

/// The thread's own context, and destructors that the loop runs. No task has these numbers.
const MAIN: u64 = 0;
const LOOP: u64 = u64::MAX;

/// Who runs.
fn context(hub: &Hub) -> u64 {
    let task = hub.current();
    match task.local.state.get() {
        State::Running if hub.is_main(task) => MAIN,
        State::Running => task.shared.id,
        _ => LOOP,
    }
}

/// Which context of this thread has the mutex, if one has.
unsafe fn holder(mutex: *const pthread_mutex_t) -> Option<u64> {
    // SAFETY: the caller's mutex.
    if unsafe { word(mutex, OWNER) }.load(Ordering::Relaxed) != this_thread() {
        return None;
    }
    let held = |held: &RefCell<BTreeMap<usize, Held>>| {
        held.borrow().get(&(mutex as usize)).map_or(MAIN, |held| held.context)
    };
    Some(HELD.try_with(held).unwrap_or(MAIN))
}

/// `depth` is 1 where it was free.
fn note_held(mutex: *const pthread_mutex_t, context: u64, change: i32) {
    let _ = HELD.try_with(|held| {
        let mut held = held.borrow_mut();
        let address = mutex as usize;
        if context == MAIN {
            held.remove(&address);
        } else if let Some(held) = held.get_mut(&address).filter(|held| held.context == context) {
            held.depth = held.depth.saturating_add_signed(change);
        } else {
            held.insert(address, Held { context, depth: 1 });
        }
        if held.get(&address).is_some_and(|held| held.depth == 0) {
            held.remove(&address);
        }
    });
}

/// The hub, if the mutex is one of those that belong to somebody, and this thread has several who could.
#[inline]
unsafe fn hub_if_owned(mutex: *const pthread_mutex_t) -> Option<&'static Hub> {
    let layout = LAYOUT.get()?;
    // SAFETY: the caller's mutex.
    let has_owner = unsafe { layout.recursive.is_on(mutex) != layout.checking.is_on(mutex) };
    if has_owner { hub::existing() } else { None }
}

/// `None`: somebody else has it.
unsafe fn try_lock(mutex: *mut pthread_mutex_t) -> Option<c_int> {
    // SAFETY: the caller's mutex.
    unsafe {
        let hub = hub_if_owned(mutex);
        if let Some(hub) = hub {
            let me = context(hub);
            match holder(mutex) {
                Some(other) if other != me => return None,
                Some(_) => {
                    // Once more, or EDEADLK: never waits.
                    let result = real::pthread_mutex_lock(mutex);
                    if result == 0 && me != MAIN {
                        note_held(mutex, me, 1);
                    }
                    return Some(result);
                }
                None => {}
            }
        }
        let result = real::pthread_mutex_trylock(mutex);
        if let Some(hub) = hub
            && matches!(result, 0 | libc::EOWNERDEAD)
        {
            // What is said of it in the table is out of date.
            note_held(mutex, MAIN, 0);
            note_held(mutex, context(hub), 1);
        }
        (result != libc::EBUSY).then_some(result)
    }
}

unsafe fn is_released_unseen(mutex: *const pthread_mutex_t) -> bool {
    // SAFETY: the caller's mutex.
    let has_mark =
        |layout: &Layout| unsafe { layout.shared_mutex.is_on(mutex) || layout.robust.is_on(mutex) };
    RELEASED_UNSEEN[slot(mutex as usize)].load(Ordering::SeqCst) || LAYOUT.get().is_some_and(has_mark)
}

unsafe fn lock(mutex: *mut pthread_mutex_t, limit: Limit, real: impl FnOnce() -> c_int) -> c_int {
    if !MUTEXES.load(Ordering::Relaxed) {
        return real();
    }
    // SAFETY: the caller's arguments.
    unsafe {
        let address = mutex as usize;
        if has_waiters(address)
            && let Some(hub) = gate::gate(Parts::LOCKS)
        {
            // They may have been woken when we unlocked it.
            hub.yield_foreign();
        }
        if let Some(result) = try_lock(mutex) {
            return result;
        }
        let Some(hub) = gate::gate(Parts::LOCKS) else {
            return match hub_if_owned(mutex).and_then(|_| holder(mutex)) {
                // libc would give it to us, for it is the thread's; and to wait for a greenlet of
                // this thread would be for ever.
                Some(_) => libc::EDEADLK,
                None => real(),
            };
        };
        match limit.deadline(hub) {
            Ok(deadline) => {
                wait_unbroken(hub, address, deadline, || is_released_unseen(mutex), || try_lock(mutex))
            }
            Err(error) => error,
        }
    }
}

pub(super) unsafe fn pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's arguments, here and below.
    unsafe { lock(mutex, Limit::NONE, || real::pthread_mutex_lock(mutex)) }
}

pub(super) unsafe fn pthread_mutex_timedlock(mutex: *mut pthread_mutex_t, time: *const timespec) -> c_int {
    // SAFETY: as above.
    unsafe {
        lock(mutex, Limit::by(libc::CLOCK_REALTIME, time), || real::pthread_mutex_timedlock(mutex, time))
    }
}

pub(super) unsafe fn pthread_mutex_clocklock(
    mutex: *mut pthread_mutex_t,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe { lock(mutex, Limit::by(clock, time), || real::pthread_mutex_clocklock(mutex, clock, time)) }
}

pub(super) unsafe fn pthread_mutex_trylock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: as above.
    unsafe {
        if !MUTEXES.load(Ordering::Relaxed) || hub_if_owned(mutex).is_none() {
            return real::pthread_mutex_trylock(mutex);
        }
        match try_lock(mutex) {
            // An error-checking mutex is busy, even for who has it.
            None | Some(libc::EDEADLK) => libc::EBUSY,
            Some(result) => result,
        }
    }
}

pub(super) unsafe fn pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: as above.
    unsafe {
        if !MUTEXES.load(Ordering::Relaxed) {
            if WATCHING.load(Ordering::Relaxed) && WATCHED.get() {
                ALLOCATOR_LOCKS.store(true, Ordering::SeqCst);
            }
            return real::pthread_mutex_unlock(mutex);
        }
        if let Some(hub) = hub_if_owned(mutex)
            && let Some(holder) = holder(mutex)
        {
            let me = context(hub);
            if holder != me {
                return libc::EPERM;
            }
            if me != MAIN {
                // Before, for after it the mutex may be somebody else's.
                note_held(mutex, me, -1);
            }
        }
        let result = real::pthread_mutex_unlock(mutex);
        wake(mutex as usize, 1);
        result
    }
}

// ---- Conditions ----

unsafe fn wait_for_cond(
    cond: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    limit: Limit,
    real: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe {
        let Some((hub, layout)) = gate::gate(Parts::LOCKS).zip(LAYOUT.get()) else {
            if MUTEXES.load(Ordering::Relaxed) {
                may_be_released_unseen(mutex);
            }
            return real();
        };
        let deadline = match limit.deadline(hub) {
            Ok(deadline) => deadline,
            Err(error) => return error,
        };
        let address = cond as usize;
        let counted = Counted::begin(address);
        // A signal from another process does not come here: a wait for nothing, so that the caller looks.
        let until = match layout.shared_cond.is_on(cond) {
            true => deadline.min(hub.deadline(FIRST_PAUSE)),
            false => deadline,
        };
        let mut unlocked = 0;
        let waited = wait_for_address(hub, address, until, || {
            unlocked = pthread_mutex_unlock(mutex);
            unlocked != 0
        });
        drop(counted);
        if unlocked != 0 {
            return unlocked;
        }
        match pthread_mutex_lock(mutex) {
            0 if waited == Err(libc::ETIMEDOUT) && until == deadline => libc::ETIMEDOUT,
            locked => locked,
        }
    }
}

/// An OS thread is about to wait for a condition with it.
unsafe fn may_be_released_unseen(mutex: *const pthread_mutex_t) {
    let address = mutex as usize;
    if !RELEASED_UNSEEN[slot(address)].swap(true, Ordering::SeqCst) {
        // Who waits for it already, or sees the mark: this fence and that between entering the table and parking.
        fence(Ordering::SeqCst);
        wake(address, usize::MAX);
    }
}

pub(super) unsafe fn pthread_cond_wait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: as above.
    unsafe { wait_for_cond(cond, mutex, Limit::NONE, || real::pthread_cond_wait(cond, mutex)) }
}

pub(super) unsafe fn pthread_cond_timedwait(
    cond: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let is_monotonic = LAYOUT.get().is_some_and(|layout| layout.monotonic_cond.is_on(cond));
        let clock = if is_monotonic { libc::CLOCK_MONOTONIC } else { libc::CLOCK_REALTIME };
        wait_for_cond(cond, mutex, Limit::by(clock, time), || real::pthread_cond_timedwait(cond, mutex, time))
    }
}

pub(super) unsafe fn pthread_cond_clockwait(
    cond: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        wait_for_cond(cond, mutex, Limit::by(clock, time), || {
            real::pthread_cond_clockwait(cond, mutex, clock, time)
        })
    }
}

pub(super) unsafe fn pthread_cond_signal(cond: *mut pthread_cond_t) -> c_int {
    // First: once the threads are awake, the condition may be destroyed.
    wake(cond as usize, 1);
    // SAFETY: as above.
    unsafe { real::pthread_cond_signal(cond) }
}

pub(super) unsafe fn pthread_cond_broadcast(cond: *mut pthread_cond_t) -> c_int {
    wake(cond as usize, usize::MAX);
    // SAFETY: as above.
    unsafe { real::pthread_cond_broadcast(cond) }
}

// ---- Read-write locks ----

/// Readers stand in the table by the address of the lock, writers by the next one.
const WRITERS: usize = 1;

unsafe fn lock_rwlock(
    rwlock: *mut pthread_rwlock_t,
    queue: usize,
    limit: Limit,
    attempt: impl Fn() -> c_int,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !gate::is_patched(Parts::LOCKS) {
        return real();
    }
    let address = rwlock as usize;
    if has_waiters(address)
        && let Some(hub) = gate::gate(Parts::LOCKS)
    {
        hub.yield_foreign();
    }
    let attempt = || Some(attempt()).filter(|&result| result != libc::EBUSY);
    if let Some(result) = attempt() {
        return result;
    }
    let Some(hub) = gate::gate(Parts::LOCKS) else { return real() };
    // SAFETY: the caller's arguments.
    unsafe {
        let unseen = || LAYOUT.get().is_some_and(|layout| layout.shared_rwlock.is_on(rwlock));
        match limit.deadline(hub) {
            Ok(deadline) => wait_unbroken(hub, address + queue, deadline, unseen, attempt),
            Err(error) => error,
        }
    }
}

macro_rules! rwlock {
    ($queue:expr, $try:ident: $lock:ident $timed:ident $clocked:ident) => {
        pub(super) unsafe fn $lock(rwlock: *mut pthread_rwlock_t) -> c_int {
            // SAFETY: as above.
            unsafe { lock_rwlock(rwlock, $queue, Limit::NONE, || real::$try(rwlock), || real::$lock(rwlock)) }
        }

        pub(super) unsafe fn $timed(rwlock: *mut pthread_rwlock_t, time: *const timespec) -> c_int {
            let limit = Limit::by(libc::CLOCK_REALTIME, time);
            // SAFETY: as above.
            unsafe {
                lock_rwlock(rwlock, $queue, limit, || real::$try(rwlock), || real::$timed(rwlock, time))
            }
        }

        pub(super) unsafe fn $clocked(
            rwlock: *mut pthread_rwlock_t,
            clock: clockid_t,
            time: *const timespec,
        ) -> c_int {
            let limit = Limit::by(clock, time);
            // SAFETY: as above.
            unsafe {
                lock_rwlock(
                    rwlock,
                    $queue,
                    limit,
                    || real::$try(rwlock),
                    || real::$clocked(rwlock, clock, time),
                )
            }
        }
    };
}

rwlock!(0, pthread_rwlock_tryrdlock: pthread_rwlock_rdlock pthread_rwlock_timedrdlock pthread_rwlock_clockrdlock);
rwlock!(WRITERS, pthread_rwlock_trywrlock: pthread_rwlock_wrlock pthread_rwlock_timedwrlock pthread_rwlock_clockwrlock);

pub(super) unsafe fn pthread_rwlock_unlock(rwlock: *mut pthread_rwlock_t) -> c_int {
    // SAFETY: as above.
    let result = unsafe { real::pthread_rwlock_unlock(rwlock) };
    // All readers and one writer: if that one comes too late, the last of the readers wakes a writer again.
    wake(rwlock as usize, usize::MAX);
    wake(rwlock as usize + WRITERS, 1);
    result
}

// ---- Barriers ----

/// std's barriers, for pthread's: greenlets and threads both wait there. They are made for all, since what
/// is patched later may use them.
static BARRIERS: Lock<Barriers> = Lock::new(BTreeMap::new());
type Barriers = BTreeMap<usize, Arc<Barrier>>;
static HELD_AT_FORK: HeldAtFork<LockGuard<'static, Barriers>> = HeldAtFork::new();

pub(super) unsafe fn pthread_barrier_init(
    barrier: *mut pthread_barrier_t,
    attributes: *const pthread_barrierattr_t,
    count: c_uint,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let result = real::pthread_barrier_init(barrier, attributes, count);
        let mut shared = libc::PTHREAD_PROCESS_PRIVATE;
        if !attributes.is_null() {
            libc::pthread_barrierattr_getpshared(attributes, &mut shared);
        }
        if result == 0 && shared == libc::PTHREAD_PROCESS_PRIVATE {
            let ours = Arc::new(Barrier::new(count as usize));
            let before = BARRIERS.lock().insert(barrier as usize, ours);
            drop(before);
        }
        result
    }
}

pub(super) unsafe fn pthread_barrier_destroy(barrier: *mut pthread_barrier_t) -> c_int {
    let ours = BARRIERS.lock().remove(&(barrier as usize));
    drop(ours);
    // SAFETY: as above.
    unsafe { real::pthread_barrier_destroy(barrier) }
}

pub(super) unsafe fn pthread_barrier_wait(barrier: *mut pthread_barrier_t) -> c_int {
    let ours =
        if gate::is_patched(Parts::LOCKS) { BARRIERS.lock().get(&(barrier as usize)).cloned() } else { None };
    match ours {
        Some(ours) if ours.wait().is_leader() => libc::PTHREAD_BARRIER_SERIAL_THREAD,
        Some(_) => 0,
        // SAFETY: as above.
        None => unsafe { real::pthread_barrier_wait(barrier) },
    }
}

// ---- Semaphores ----

unsafe fn wait_for_sem(hub: &Hub, sem: *mut sem_t, limit: Limit) -> c_int {
    // SAFETY: the caller's semaphore and time.
    unsafe {
        let deadline = match limit.deadline(hub) {
            Ok(deadline) => deadline,
            Err(error) => return fail(error),
        };
        let attempt = || match real::sem_trywait(sem) {
            -1 if errno() == libc::EAGAIN => None,
            result => Some(result),
        };
        if let Some(result) = attempt() {
            return result;
        }
        let is_shared = LAYOUT.get().is_none_or(|layout| layout.shared_sem.is_on(sem));
        let unseen = || is_shared || signal::has_handlers();
        wait_until(hub, sem as usize, deadline, unseen, attempt).unwrap_or_else(fail)
    }
}

pub(super) unsafe fn sem_wait(hub: &Hub, sem: *mut sem_t) -> c_int {
    // SAFETY: as above.
    unsafe { wait_for_sem(hub, sem, Limit::NONE) }
}

pub(super) unsafe fn sem_timedwait(hub: &Hub, sem: *mut sem_t, time: *const timespec) -> c_int {
    // SAFETY: as above.
    unsafe { wait_for_sem(hub, sem, Limit::by(libc::CLOCK_REALTIME, time)) }
}

pub(super) unsafe fn sem_clockwait(
    hub: &Hub,
    sem: *mut sem_t,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe { wait_for_sem(hub, sem, Limit::by(clock, time)) }
}

pub(super) unsafe fn sem_post(sem: *mut sem_t) -> c_int {
    // SAFETY: as above. After it only the address is used: who was woken may have destroyed the semaphore.
    let result = unsafe { real::sem_post(sem) };
    wake(sem as usize, 1);
    result
}
