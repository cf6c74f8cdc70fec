//! Greenlets of four threads do random things with the same locks, from fixed seeds, and are killed and timed out meanwhile. What must hold: who is
//! alone is alone, no permit is lost or made, and nobody waits for ever.
//!
//! The long form takes its first seed from `SWITCHGRASS_STRESS_SEED`, and how many there are from `SWITCHGRASS_STRESS_COUNT`.

use std::cell::Cell;
use std::env;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use switchgrass::sync::{
    Barrier, Condvar, Event, Mutex, OnceLock, PoisonError, ReentrantMutex, RwLock, RwLockWriteGuard,
    Semaphore,
};
use switchgrass::{Greenlet, GreenletExit, Handle, scope, sleep, spawn, testing, timeout, yield_now};

use crate::util::{Random, time_limit};

const THREADS: u64 = 4;
const PERMITS: usize = 3;
const PARTIES: usize = 3;
const MOST_KILLS: u32 = 20;

impl Random {
    /// Now and then, lets others run: here, and on other threads.
    fn pause(&self) {
        match self.below(8) {
            0 => sleep(Duration::from_micros(self.below(50))),
            1..4 => yield_now(),
            _ => {}
        }
    }
}

/// How many are in a place.
#[derive(Default)]
struct Room(AtomicUsize);

impl Room {
    fn enter(&self, most: usize) -> Visit<'_> {
        let others = self.0.fetch_add(1, SeqCst);
        assert!(others < most, "{} where {most} may be", others + 1);
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

/// What all share.
struct World {
    mutex: (Mutex<u64>, Room, AtomicU64),
    lock: (RwLock<u64>, Room, Room),
    semaphore: (Semaphore, Room),
    reentrant: (ReentrantMutex<Cell<u64>>, Room),
    /// How many items there are.
    items: (Mutex<usize>, Condvar),
    barrier: (Barrier, AtomicUsize, AtomicUsize),
    event: Event,
    cells: Vec<(OnceLock<u64>, AtomicUsize)>,
    victims: std::sync::Mutex<Vec<Handle>>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(World {
            mutex: Default::default(),
            lock: Default::default(),
            semaphore: (Semaphore::new(PERMITS), Room::default()),
            reentrant: Default::default(),
            items: Default::default(),
            barrier: (Barrier::new(PARTIES), AtomicUsize::new(0), AtomicUsize::new(0)),
            event: Event::new(),
            cells: (0..64).map(|_| Default::default()).collect(),
            victims: Default::default(),
        })
    }

    fn step(&self, random: &Random) {
        let short = Duration::from_micros(random.below(200));
        match random.below(12) {
            0 => {
                let mut guard = self.mutex.0.lock().unwrap_or_else(PoisonError::into_inner);
                let _visit = self.mutex.1.enter(1);
                random.pause();
                *guard += 1;
                self.mutex.2.fetch_add(1, SeqCst);
            }
            1 => {
                if let Ok(_guard) = self.mutex.0.lock_timeout(short) {
                    let _visit = self.mutex.1.enter(1);
                    random.pause();
                }
            }
            2 | 3 => {
                let guard = self.lock.0.read().unwrap_or_else(PoisonError::into_inner);
                self.read(&guard, random);
            }
            4 => {
                let mut guard = self.lock.0.write().unwrap_or_else(PoisonError::into_inner);
                let visit = self.lock.2.enter(1);
                assert!(self.lock.1.is_empty());
                random.pause();
                *guard += 1;
                drop(visit);
                if random.below(2) == 0 {
                    self.read(&RwLockWriteGuard::downgrade(guard), random);
                }
            }
            5 => {
                let _permit = self.semaphore.0.acquire();
                let _visit = self.semaphore.1.enter(PERMITS);
                random.pause();
            }
            6 => {
                if let Some(_permit) = self.semaphore.0.acquire_timeout(short) {
                    let _visit = self.semaphore.1.enter(PERMITS);
                    random.pause();
                }
            }
            7 => {
                let outer = self.reentrant.0.lock();
                let _visit = self.reentrant.1.enter(1);
                random.pause();
                let inner = self.reentrant.0.try_lock().expect("it is ours");
                inner.set(outer.get() + 1);
            }
            8 => {
                let (cell, runs) = &self.cells[random.below(64) as usize];
                let value = *cell.get_or_init(|| {
                    random.pause();
                    runs.fetch_add(1, SeqCst);
                    7
                });
                assert_eq!((value, runs.load(SeqCst)), (7, 1));
            }
            9 => {
                let (barrier, leaders, others) = &self.barrier;
                let came = timeout(short, || barrier.wait().is_leader());
                if let Ok(leads) = came {
                    if leads { leaders } else { others }.fetch_add(1, SeqCst);
                }
            }
            10 => match random.below(3) {
                0 => self.event.set(),
                1 => self.event.clear(),
                _ => drop(self.event.wait_timeout(short)),
            },
            _ => {
                let (mutex, condvar) = &self.items;
                let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
                if random.below(2) == 0 {
                    condvar.notify_one();
                } else {
                    drop(condvar.wait_timeout(guard, short));
                }
            }
        }
    }

    fn read(&self, value: &u64, random: &Random) {
        let _visit = self.lock.1.enter(usize::MAX);
        assert!(self.lock.2.is_empty());
        let before = *value;
        random.pause();
        assert!(self.lock.2.is_empty());
        assert_eq!(before, *value);
    }

    fn make_item(&self) {
        let (mutex, condvar) = &self.items;
        *mutex.lock().unwrap() += 1;
        condvar.notify_one();
    }

    fn take_item(&self) {
        let (mutex, condvar) = &self.items;
        *condvar.wait_while(mutex.lock().unwrap(), |items| *items == 0).unwrap() -= 1;
    }

    /// Kills now and then, on any thread, as long as somebody works on this one.
    fn kill_at_random(&self, random: &Random, working: &Cell<u64>) {
        while working.get() > 0 {
            sleep(Duration::from_micros(random.below(200)));
            let victims = self.victims.lock().unwrap();
            if !victims.is_empty() {
                victims[random.below(victims.len() as u64) as usize].kill_nowait();
            }
        }
    }

    /// Runs `work` in a greenlet, which may be killed, until it comes to its end.
    ///
    /// Not for ever: a sleep takes a millisecond at least, and so do those of the killer. So work that sleeps twice, when nobody else is left to be
    /// killed, would be killed each time.
    fn persist<T: 'static>(self: &Arc<Self>, work: impl Fn(&World) -> T + Clone + 'static) -> T {
        let mut kills = 0;
        loop {
            let (world, work) = (Arc::clone(self), work.clone());
            let greenlet: Greenlet<T> = spawn(move || work(&world));
            let id = greenlet.id();
            if kills < MOST_KILLS {
                self.victims.lock().unwrap().push(greenlet.handle());
            }
            let result = greenlet.join();
            self.victims.lock().unwrap().retain(|victim| victim.id() != id);
            match result {
                Ok(value) => return value,
                Err(payload) if payload.is::<GreenletExit>() => kills += 1,
                Err(payload) => resume_unwind(payload),
            }
        }
    }

    /// Nobody is anywhere, and all is free.
    fn check(&self) {
        self.mutex.0.clear_poison();
        let sum = *self.mutex.0.try_lock().expect("nobody has it");
        assert_eq!(sum, self.mutex.2.load(SeqCst));
        self.lock.0.clear_poison();
        assert!(self.lock.0.try_write().is_ok());
        assert_eq!(format!("{:?}", self.semaphore.0), "Semaphore { available: 3, waiting: 0 }");
        assert!(self.reentrant.0.try_lock().is_some());
        assert_eq!(*self.items.0.try_lock().unwrap(), 0);
        assert_eq!(format!("{:?}", self.items.1), "Condvar { waiting: 0 }");
        assert_eq!(format!("{:?}", self.barrier.0), "Barrier { size: 3, waiting: 0 }");
        assert!(format!("{:?}", self.event).ends_with("waiting: 0 }"));
        let (leaders, others) = (self.barrier.1.load(SeqCst), self.barrier.2.load(SeqCst));
        // One of them may have been killed when all had come.
        assert!(others <= leaders * (PARTIES - 1) && leaders > 0, "{leaders} groups, and {others} others");
        assert!(self.cells.iter().all(|(cell, runs)| cell.get().is_some() == (runs.load(SeqCst) == 1)));
    }
}

/// Steps at random, and then: as many items are made as are taken, by greenlets that wait for them.
fn run(seed: u64, greenlets: u64, steps: u64) {
    time_limit();
    let world = World::new();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let of = |what: u64| (seed * THREADS + thread) * 1000 + what;
                let working = Cell::new(greenlets);
                scope(|s| {
                    let (world, working) = (&world, &working);
                    s.spawn(move || world.kill_at_random(&Random::new(of(999)), working));
                    for greenlet in 0..greenlets {
                        s.spawn(move || {
                            for step in 0..steps {
                                let seed = (of(greenlet) << 20) + step;
                                world.persist(move |world| {
                                    let random = Random::new(seed);
                                    match random.below(4) {
                                        0 => {
                                            let limit = Duration::from_micros(random.below(300));
                                            let _ = timeout(limit, || world.step(&random));
                                        }
                                        _ => world.step(&random),
                                    }
                                });
                            }
                            for _ in 0..steps / 4 {
                                match (greenlet + thread) % 2 {
                                    0 => world.persist(World::make_item),
                                    _ => world.persist(World::take_item),
                                }
                            }
                            working.set(working.get() - 1);
                        });
                    }
                });
                assert_eq!((testing::live(), testing::stack_counts().0), (0, 0));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    world.check();
}

#[test]
fn random_use_among_kills_keeps_every_promise() {
    for seed in 1..=3 {
        run(seed, 8, 60);
    }
}

#[test]
#[ignore = "takes a minute"]
fn random_use_among_kills_keeps_every_promise_for_long() {
    let variable = |name, default| env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = variable("SWITCHGRASS_STRESS_SEED", 100);
    for seed in first..first + variable("SWITCHGRASS_STRESS_COUNT", 40) {
        println!("seed {seed}");
        run(seed, 16, 400);
    }
}
