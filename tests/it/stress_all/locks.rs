//! Events, results, semaphores and locks.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{self, Arc};

use switchgrass::sync::{
    AsyncResult, Barrier, BoundedSemaphore, Condvar, Event, Mutex, Once, OnceLock, PoisonError,
    ReentrantMutex, RwLock, RwLockWriteGuard, Semaphore,
};
use switchgrass::timeout;

use super::Place::Anywhere;
use super::{Actor, Operation, World, check, operation};

const PERMITS: usize = 2;
const BOUND: usize = 1;
const PARTIES: usize = 3;
const CELLS: u64 = 16;

pub(super) const OPERATIONS: &[Operation] = &[
    operation("wait for event", Anywhere, wait_for_event),
    operation("set event", Anywhere, |actor| actor.world.locks.event.set()),
    operation("clear event", Anywhere, clear_event),
    operation("get result", Anywhere, get_result),
    operation("set result", Anywhere, set_result),
    operation("acquire", Anywhere, acquire),
    operation("acquire, bounded", Anywhere, acquire_bounded),
    operation("release what was forgotten", Anywhere, forget_and_release),
    operation("mutex", Anywhere, lock),
    operation("rwlock, read", Anywhere, read),
    operation("rwlock, write", Anywhere, write),
    operation("reentrant mutex", Anywhere, lock_twice),
    operation("wait for token", Anywhere, wait_for_token),
    operation("make token", Anywhere, make_token),
    operation("barrier", Anywhere, meet),
    operation("once", Anywhere, once),
];

type Answer = Arc<AsyncResult<u64, u64>>;

pub(super) struct Locks {
    pub(super) event: Event,
    /// Nobody clears the event any more.
    is_final: sync::Mutex<bool>,
    pub(super) results: sync::Mutex<Vec<Answer>>,
    pub(super) semaphore: (Semaphore, Room),
    pub(super) bounded: (BoundedSemaphore, Room),
    /// What it guards counts the visits.
    mutex: (Mutex<u64>, Room, AtomicU64),
    lock: (RwLock<u64>, Room, Room),
    reentrant: (ReentrantMutex<Cell<u64>>, Room),
    /// How many tokens there are; and how many were made and taken.
    tokens: (Mutex<u64>, Condvar, AtomicU64, AtomicU64),
    barrier: (Barrier, AtomicUsize, AtomicUsize),
    cells: Vec<(OnceLock<u64>, Once, AtomicUsize)>,
}

/// How many are in a place.
#[derive(Default)]
pub(super) struct Room(AtomicUsize);

impl Room {
    #[track_caller]
    fn enter(&self, most: usize) -> Visit<'_> {
        let others = self.0.fetch_add(1, SeqCst);
        check(others < most, || format!("{} where {most} may be", others + 1));
        Visit(self)
    }

    fn is_empty(&self) -> bool {
        self.0.load(SeqCst) == 0
    }
}

struct Visit<'a>(&'a Room);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

impl Locks {
    pub(super) fn new() -> Self {
        Locks {
            event: Event::new(),
            is_final: Default::default(),
            results: Default::default(),
            semaphore: (Semaphore::new(PERMITS), Room::default()),
            bounded: (BoundedSemaphore::new(BOUND), Room::default()),
            mutex: Default::default(),
            lock: Default::default(),
            reentrant: Default::default(),
            tokens: Default::default(),
            barrier: (Barrier::new(PARTIES), AtomicUsize::new(0), AtomicUsize::new(0)),
            cells: (0..CELLS).map(|_| (OnceLock::new(), Once::new(), AtomicUsize::new(0))).collect(),
        }
    }

    /// From now on everybody comes through.
    pub(super) fn end(&self, world: &World) {
        *self.is_final.lock().unwrap() = true;
        world.ending.store(true, SeqCst);
        self.event.set();
        for result in self.results.lock().unwrap().drain(..) {
            check(result.set(1).is_ok(), || "it was set already".to_owned());
        }
        let tokens = self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.tokens.1.notify_all();
        drop(tokens);
    }

    /// Whether nobody waits for what is there.
    pub(super) fn look_while_quiet(&self) -> Result<(), String> {
        let nobody_waits = |what: &dyn fmt::Debug| {
            let text = format!("{what:?}");
            text.contains("waiting: 0").then_some(()).ok_or_else(|| format!("who waits? {text}"))
        };
        if self.event.is_set() {
            nobody_waits(&self.event)?;
        }
        if self.semaphore.0.available() > 0 {
            nobody_waits(&self.semaphore.0)?;
        }
        if self.bounded.0.available() > 0 {
            nobody_waits(&self.bounded.0)?;
        }
        self.tokens.0.clear_poison();
        match self.tokens.0.try_lock() {
            Ok(tokens) if *tokens > 0 => nobody_waits(&self.tokens.1),
            _ => Ok(()),
        }
    }

    pub(super) fn look(&self) {
        let is = |what: &dyn fmt::Debug, expected: &str| {
            let found = format!("{what:?}");
            check(found == expected, || format!("{found}, not {expected}"));
        };
        is(&self.event, "Event { set: true, waiting: 0 }");
        is(&self.semaphore.0, "Semaphore { available: 2, waiting: 0 }");
        is(&self.bounded.0, "BoundedSemaphore(Semaphore { available: 1, waiting: 0 })");
        is(&self.barrier.0, "Barrier { size: 3, waiting: 0 }");
        is(&self.tokens.1, "Condvar { waiting: 0 }");
        self.mutex.0.clear_poison();
        self.lock.0.clear_poison();
        self.tokens.0.clear_poison();
        let visits = self.mutex.0.try_lock().map(|visits| *visits).ok();
        check(visits == Some(self.mutex.2.load(SeqCst)), || format!("{visits:?} visits of the mutex"));
        check(self.lock.0.try_write().is_ok(), || "the rwlock is locked".to_owned());
        check(self.reentrant.0.try_lock().is_some(), || "the reentrant mutex is locked".to_owned());
        let [made, taken] = [&self.tokens.2, &self.tokens.3].map(|count| count.load(SeqCst));
        let left = self.tokens.0.try_lock().map(|tokens| *tokens).ok();
        check(left == made.checked_sub(taken), || format!("{made} tokens, {taken} taken, {left:?} left"));
        let [leaders, others] = [&self.barrier.1, &self.barrier.2].map(|count| count.load(SeqCst));
        // One of them may have been killed when all had come.
        check(others <= leaders * (PARTIES - 1), || format!("{leaders} groups, and {others} others"));
        for (cell, once, runs) in &self.cells {
            let runs = runs.load(SeqCst);
            check((cell.get().is_some() as usize) + (once.is_completed() as usize) == runs, || {
                format!("{runs} runs of what runs once")
            });
        }
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks")
            .field("event", &self.event)
            .field("semaphore", &self.semaphore.0)
            .field("bounded", &self.bounded.0)
            .field("barrier", &self.barrier.0)
            .field("tokens", &self.tokens.1)
            .field("mutex", &self.mutex.0)
            .field("lock", &self.lock.0)
            .finish_non_exhaustive()
    }
}

fn wait_for_event(actor: &Actor) {
    let event = &actor.world.locks.event;
    match actor.below(3) {
        0 => drop(event.wait_timeout(actor.time())),
        _ => drop(actor.limited(|| check(event.wait(), || "it was not set".to_owned()))),
    }
}

fn clear_event(actor: &Actor) {
    let is_final = actor.world.locks.is_final.lock().unwrap();
    if !*is_final {
        actor.world.locks.event.clear();
    }
}

/// Waits for one that somebody else will set, or makes it.
fn get_result(actor: &Actor) {
    let result = {
        let is_final = actor.world.locks.is_final.lock().unwrap();
        let mut results = actor.world.locks.results.lock().unwrap();
        if *is_final {
            return;
        }
        if results.len() < 4 {
            results.push(Arc::default());
        }
        Arc::clone(&results[actor.below(results.len() as u64) as usize])
    };
    let value = actor.limited(|| match actor.below(2) {
        0 => result.get_timeout(actor.time()).ok().map(|result| result.copied().map_err(|error| *error)),
        _ => Some(result.get().copied().map_err(|error| *error)),
    });
    check(matches!(value, None | Some(None | Some(Ok(1) | Err(2)))), || format!("the result is {value:?}"));
}

fn set_result(actor: &Actor) {
    let result = {
        let mut results = actor.world.locks.results.lock().unwrap();
        let count = results.len() as u64;
        (count > 0).then(|| results.swap_remove(actor.below(count) as usize))
    };
    if let Some(result) = result {
        let is_set = match actor.below(2) {
            0 => result.set(1).is_ok(),
            _ => result.set_error(2).is_ok(),
        };
        check(is_set && result.set(1).is_err(), || "it can be set once".to_owned());
    }
}

fn acquire(actor: &Actor) {
    let (semaphore, room) = &actor.world.locks.semaphore;
    let permit = match actor.below(4) {
        0 => semaphore.try_acquire(),
        1 => semaphore.acquire_timeout(actor.time()),
        _ => actor.limited(|| semaphore.acquire()),
    };
    if let Some(_permit) = permit {
        let _visit = room.enter(PERMITS);
        actor.pause();
    }
}

fn acquire_bounded(actor: &Actor) {
    let (semaphore, room) = &actor.world.locks.bounded;
    let permit = match actor.below(4) {
        0 => semaphore.try_acquire(),
        1 => semaphore.acquire_timeout(actor.time()),
        _ => actor.limited(|| semaphore.acquire()),
    };
    if let Some(_permit) = permit {
        let _visit = room.enter(BOUND);
        actor.pause();
    }
}

fn forget_and_release(actor: &Actor) {
    let (semaphore, room) = &actor.world.locks.semaphore;
    if let Some(permit) = actor.limited(|| semaphore.acquire()) {
        let visit = room.enter(PERMITS);
        permit.forget();
        drop(visit);
        semaphore.release();
    }
}

fn lock(actor: &Actor) {
    let (mutex, room, visits) = &actor.world.locks.mutex;
    let guard = match actor.below(4) {
        0 => mutex.try_lock().ok(),
        1 => mutex.lock_timeout(actor.time()).ok(),
        _ => actor.limited(|| mutex.lock().unwrap_or_else(PoisonError::into_inner)),
    };
    if let Some(mut guard) = guard {
        let _visit = room.enter(1);
        actor.pause();
        *guard += 1;
        visits.fetch_add(1, SeqCst);
    } else {
        mutex.clear_poison();
    }
}

fn read(actor: &Actor) {
    let (lock, ..) = &actor.world.locks.lock;
    let guard = match actor.below(3) {
        0 => lock.try_read().ok(),
        _ => actor.limited(|| lock.read().unwrap_or_else(PoisonError::into_inner)),
    };
    if let Some(guard) = guard {
        look_twice(actor, &guard);
    } else {
        lock.clear_poison();
    }
}

fn look_twice(actor: &Actor, value: &u64) {
    let (_, readers, writers) = &actor.world.locks.lock;
    let _visit = readers.enter(usize::MAX);
    let before = *value;
    check(writers.is_empty(), || "somebody writes".to_owned());
    actor.pause();
    check(writers.is_empty() && before == *value, || "somebody writes, or has".to_owned());
}

fn write(actor: &Actor) {
    let (lock, readers, writers) = &actor.world.locks.lock;
    let guard = match actor.below(3) {
        0 => lock.try_write().ok(),
        _ => actor.limited(|| lock.write().unwrap_or_else(PoisonError::into_inner)),
    };
    if let Some(mut guard) = guard {
        let visit = writers.enter(1);
        check(readers.is_empty(), || "somebody reads".to_owned());
        actor.pause();
        *guard += 1;
        drop(visit);
        if actor.below(2) == 0 {
            look_twice(actor, &RwLockWriteGuard::downgrade(guard));
        }
    }
}

fn lock_twice(actor: &Actor) {
    let (mutex, room) = &actor.world.locks.reentrant;
    let outer = match actor.below(3) {
        0 => mutex.lock_timeout(actor.time()),
        _ => actor.limited(|| mutex.lock()),
    };
    if let Some(outer) = outer {
        let _visit = room.enter(1);
        actor.pause();
        let inner = mutex.try_lock();
        check(inner.is_some(), || "it is ours".to_owned());
        outer.set(outer.get() + 1);
    }
}

fn wait_for_token(actor: &Actor) {
    let (mutex, condvar, _, taken) = &actor.world.locks.tokens;
    let missing = |tokens: &mut u64| *tokens == 0 && !actor.world.is_ending();
    actor.limited(|| {
        let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = match actor.below(2) {
            0 => condvar.wait_while(guard, missing).unwrap_or_else(PoisonError::into_inner),
            _ => {
                let waited = condvar.wait_timeout_while(guard, actor.time(), missing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if *tokens > 0 {
            *tokens -= 1;
            taken.fetch_add(1, SeqCst);
        }
    });
}

fn make_token(actor: &Actor) {
    let (mutex, condvar, made, _) = &actor.world.locks.tokens;
    actor.limited(|| {
        let mut tokens = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens += 1;
        made.fetch_add(1, SeqCst);
        drop(tokens);
        match actor.below(4) {
            0 => condvar.notify_all(),
            _ => condvar.notify_one(),
        }
    });
}

fn meet(actor: &Actor) {
    let (barrier, leaders, others) = &actor.world.locks.barrier;
    // Always with a limit: perhaps nobody else comes.
    if let Ok(result) = timeout(actor.time(), || barrier.wait()) {
        if result.is_leader() { leaders } else { others }.fetch_add(1, SeqCst);
    }
}

fn once(actor: &Actor) {
    let (cell, once, runs) = &actor.world.locks.cells[actor.below(CELLS) as usize];
    actor.limited(|| match actor.below(2) {
        0 => {
            let value = *cell.get_or_init(|| {
                actor.pause();
                runs.fetch_add(1, SeqCst);
                7
            });
            check(value == 7, || format!("the value is {value}"));
        }
        _ => once.call_once_force(|_| {
            actor.pause();
            runs.fetch_add(1, SeqCst);
        }),
    });
}
