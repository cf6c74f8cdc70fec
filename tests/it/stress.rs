//! Thousands of random operations, from a fixed seed and under the virtual clock: so each run is the same, and what
//! fails can be run again.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use switchgrass::{
    Greenlet, Handle, current, joinall, killall, park, park_timeout, scope, sleep, spawn, spawn_later,
    testing, timeout, yield_now,
};

use crate::util::{Clock, DropGuard, Drops, OnDrop, catch, secs, time_limit};

/// Numbers that look random: splitmix64.
struct Random(Cell<u64>);

impl Random {
    fn below(&self, limit: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.below(50))
    }
}

/// What all greenlets of a run share.
struct World {
    random: Random,
    clock: Clock,
    /// Of each greenlet's closure, result, and some frames.
    drops: Drops,
    greenlets: RefCell<Vec<Greenlet<DropGuard>>>,
    /// A sum over all that happened, in its order.
    trace: Cell<u64>,
}

impl World {
    fn new(seed: u64) -> Rc<World> {
        Rc::new(World {
            random: Random(Cell::new(seed)),
            clock: Clock::start(),
            drops: Drops::new(),
            greenlets: RefCell::default(),
            trace: Cell::new(0),
        })
    }

    fn note(&self, what: u64) {
        let moment = u64::try_from(self.clock.elapsed().as_nanos()).unwrap();
        let trace = self.trace.get().rotate_left(7) ^ what ^ moment;
        self.trace.set(trace.wrapping_mul(0x0100_0000_01b3));
    }

    /// A random greenlet, taken out of the list.
    fn take(&self) -> Option<Greenlet<DropGuard>> {
        let mut greenlets = self.greenlets.borrow_mut();
        let count = greenlets.len() as u64;
        (count > 0).then(|| greenlets.swap_remove(self.random.below(count) as usize))
    }

    /// A handle of a random greenlet.
    fn any(&self) -> Option<Handle> {
        let greenlets = self.greenlets.borrow();
        let count = greenlets.len() as u64;
        (count > 0).then(|| greenlets[self.random.below(count) as usize].handle())
    }

    fn spawn(self: &Rc<Self>, depth: u32) {
        if testing::live() > 300 {
            return;
        }
        let (world, guard) = (Rc::clone(self), self.drops.guard());
        let body = move || {
            let _guard = guard;
            for _ in 0..world.random.below(6) {
                world.step(depth + 1);
            }
            world.drops.guard()
        };
        let greenlet = match self.random.below(4) {
            0 => spawn_later(self.random.time(), body),
            _ => spawn(body),
        };
        self.greenlets.borrow_mut().push(greenlet);
    }

    /// One random operation. It may unwind: by its own doing, or by somebody else's.
    fn step(self: &Rc<Self>, depth: u32) {
        let _guard = self.drops.guard();
        let operation = self.random.below(if depth < 5 { 18 } else { 12 });
        self.note(operation);
        match operation {
            0 | 1 => yield_now(),
            2 | 3 => sleep(self.random.time()),
            4 => park_timeout(self.random.time()),
            5 => drop(self.any().map(|handle| handle.unpark())),
            6 => drop(self.any().map(|handle| handle.kill_nowait())),
            7 => drop(self.any().map(|handle| timeout(self.random.time(), || handle.kill()))),
            8 => drop(self.take()),
            9 => resume_unwind(Box::new("on purpose")),
            10 => {
                let _unwinds = OnDrop(|| self.step_while_unwinding());
                yield_now();
            }
            11 => self.join(),
            12 | 13 => self.spawn(depth),
            14 => drop(timeout(self.random.time(), || self.steps(depth))),
            15 => drop(catch(|| self.steps(depth))),
            _ => scope(|s| {
                for _ in 0..self.random.below(4) {
                    let child = s.spawn(|| self.steps(depth));
                    match self.random.below(3) {
                        0 => drop(child.join()),
                        1 => drop(child.join_timeout(self.random.time())),
                        _ => {}
                    }
                }
                self.steps(depth);
            }),
        }
        self.note(100);
    }

    fn steps(self: &Rc<Self>, depth: u32) {
        for _ in 0..self.random.below(4) {
            self.step(depth + 1);
        }
    }

    fn join(&self) {
        let Some(greenlet) = self.take() else { return };
        // With a limit, for two might join each other.
        match greenlet.join_timeout(self.random.time()) {
            Ok(result) => drop(result),
            Err(greenlet) => self.greenlets.borrow_mut().push(greenlet),
        }
    }

    /// What a destructor may do, whether it unwinds or not. No sleep: it would block.
    fn step_while_unwinding(self: &Rc<Self>) {
        match self.random.below(6) {
            0 => drop(catch(yield_now)),
            1 => drop(self.any().map(|handle| handle.kill_nowait())),
            2 => current().kill_nowait(),
            3 => self.spawn(4),
            4 if thread::panicking() => drop(self.take().map(Greenlet::join)),
            _ => drop(self.any().map(|handle| handle.unpark())),
        }
    }

    /// Ends what is left, and looks for what was left behind. Gives the trace.
    fn end(self: Rc<Self>) -> u64 {
        for _ in 0..1000 {
            let left = self.greenlets.take();
            if left.is_empty() && testing::live() == 0 {
                break;
            }
            killall(&left);
            sleep(secs(1));
        }
        assert_eq!((testing::live(), testing::stack_counts().0), (0, 0));
        assert_eq!(self.drops.count(), self.drops.made());
        assert_eq!(Rc::strong_count(&self), 1);
        self.trace.get()
    }
}

/// Runs that many operations of main; those that it spawns do more.
fn run(seed: u64, operations: u32) -> u64 {
    let world = World::new(seed);
    for _ in 0..operations {
        world.spawn(0);
        // What it raises is its own doing: nobody knows main's handle, but its own destructors.
        drop(catch(|| world.step(0)));
    }
    // A kill that is still to be delivered.
    drop(catch(yield_now));
    world.end()
}

#[test]
fn thousands_of_random_operations_leave_nothing_behind_and_are_the_same_in_each_run() {
    time_limit();
    let first = thread::spawn(|| run(1, 3000)).join().unwrap();
    let second = thread::spawn(|| run(1, 3000)).join().unwrap();
    assert_eq!(first, second);
}

#[test]
fn random_operations_from_other_seeds_leave_nothing_behind() {
    time_limit();
    for seed in 2..12 {
        thread::spawn(move || run(seed, 200)).join().unwrap();
    }
}

#[test]
#[ignore = "takes minutes"]
fn random_operations_from_a_thousand_seeds_leave_nothing_behind() {
    for seed in 100..1100 {
        time_limit();
        thread::spawn(move || run(seed, 1000)).join().unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

#[test]
fn a_thread_that_ends_in_the_middle_of_random_operations_has_run_all_destructors() {
    time_limit();
    for seed in 20..40 {
        let drops = thread::spawn(move || {
            let world = World::new(seed);
            for _ in 0..100 {
                world.spawn(0);
                drop(catch(|| world.step(0)));
            }
            drop(catch(yield_now));
            assert!(testing::live() > 0);
            world.drops.clone()
        })
        .join()
        .unwrap();
        assert_eq!(drops.count(), drops.made(), "seed {seed}");
    }
}

#[test]
fn greenlets_that_another_thread_wakes_and_kills_at_random_all_end() {
    time_limit();
    let greenlets: Vec<_> = (0..500)
        .map(|n| {
            spawn(move || {
                loop {
                    match n % 4 {
                        0 => park(),
                        1 => yield_now(),
                        2 => sleep(Duration::from_micros(n)),
                        _ => park_timeout(Duration::from_micros(n)),
                    }
                }
            })
        })
        .collect();
    let handles: Vec<_> = greenlets.iter().map(|greenlet: &Greenlet<()>| greenlet.handle()).collect();
    let (give, take) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        take.recv().unwrap();
        let random = Random(Cell::new(7));
        while !handles.iter().all(Handle::is_ready) {
            for handle in &handles {
                match random.below(10) {
                    0 => handle.kill_nowait(),
                    _ => handle.unpark(),
                }
            }
        }
    });
    yield_now();
    give.send(()).unwrap();
    joinall(&greenlets);
    other.join().unwrap();
    assert_eq!((testing::live(), testing::stack_counts().0), (0, 0));
}
