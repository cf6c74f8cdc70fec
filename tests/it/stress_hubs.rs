//! Hubs that come and go, with random work: nothing hangs, and whatever was given to a greenlet is dropped once.
//!
//! The seed decides what is done, not in which order: that is the system's. The long form takes its first seed from
//! `SWITCHGRASS_STRESS_SEED`, and how many there are from `SWITCHGRASS_STRESS_COUNT`.

use std::cell::Cell;
use std::env;
use std::panic;
use std::process::abort;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use switchgrass::hubs::{self, Hubs};
use switchgrass::{Builder, Greenlet, GreenletExit, joinall, sleep, spawn, timeout, unblock, yield_now};

use crate::util::{DropGuard, Drops, Payload, Random, in_child_with, secs, time_limit};

/// What is shared by all that belongs to one seed.
struct World {
    drops: Drops,
    hubs: Mutex<Option<Arc<Hubs>>>,
    /// Greenlets that anybody may join, kill or forget.
    pool: Mutex<Vec<Greenlet<DropGuard>>>,
    /// How many more greenlets there may be.
    left: AtomicI64,
    spawned: AtomicUsize,
    linked: AtomicUsize,
    links_called: AtomicUsize,
}

fn compute() {
    (0..10_000).for_each(|n| _ = std::hint::black_box(n));
}

/// A join gave that.
fn check(result: Result<DropGuard, Payload>) {
    if let Err(payload) = result
        && !payload.is::<GreenletExit>()
    {
        eprintln!("a greenlet has ended with something else than its value or its exit");
        abort();
    }
}

/// Spawns on its hub when it is dropped, perhaps while that ends.
struct SpawnsAtTheEnd(DropGuard, Rc<Cell<u32>>);

impl Drop for SpawnsAtTheEnd {
    fn drop(&mut self) {
        self.1.set(self.1.get() + 1);
        let guard = self.0.another();
        drop(hubs::spawn(move || drop(guard)));
    }
}

impl World {
    fn may_spawn(&self) -> bool {
        let may = self.left.fetch_sub(1, Ordering::Relaxed) > 0;
        self.spawned.fetch_add(usize::from(may), Ordering::Relaxed);
        may
    }

    fn body(self: &Arc<Self>, random: &Random) -> impl FnOnce() -> DropGuard + Send + use<> {
        let (world, guard, seed) = (Arc::clone(self), self.drops.guard(), random.next());
        move || {
            let random = Random::new(seed);
            for _ in 0..random.below(6) {
                world.act(&random);
            }
            guard
        }
    }

    fn hubs(&self) -> Option<Arc<Hubs>> {
        self.hubs.lock().unwrap().clone()
    }

    fn let_go(&self) {
        // Not with the lock, for the drop of the last one waits.
        let hubs = self.hubs.lock().unwrap().take();
        drop(hubs);
    }

    fn take_from_pool(&self, random: &Random) -> Option<Greenlet<DropGuard>> {
        let mut pool = self.pool.lock().unwrap();
        let count = pool.len() as u64;
        (count > 0).then(|| pool.swap_remove(random.below(count) as usize))
    }

    fn to_pool(&self, greenlet: Greenlet<DropGuard>) {
        self.pool.lock().unwrap().push(greenlet);
    }

    /// On one of the hubs.
    fn act(self: &Arc<Self>, random: &Random) {
        let micros = Duration::from_micros(random.below(300));
        match random.below(20) {
            0 => yield_now(),
            1 => sleep(micros),
            2 => _ = timeout(micros, || sleep(Duration::from_micros(150))),
            3 => unblock(compute),
            4 => (0..random.below(200)).for_each(|_| yield_now()),
            // A computation, which holds up the hub.
            5 => compute(),
            6 | 7 if self.may_spawn() => check(hubs::spawn(self.body(random)).join()),
            8 if self.may_spawn() => drop(hubs::spawn(self.body(random))),
            9 if self.may_spawn() => {
                let here = thread::current().id();
                let (body, stays) = (self.body(random), Rc::new(here));
                let local = spawn(move || {
                    assert_eq!(*stays, thread::current().id());
                    body()
                });
                check(local.join());
            }
            10 if self.may_spawn() => {
                let greenlet = hubs::spawn(self.body(random));
                (0..random.below(3)).for_each(|_| yield_now());
                match random.below(4) {
                    0 => greenlet.kill(),
                    1 => greenlet.kill_nowait(),
                    2 => {
                        greenlet.kill_nowait();
                        greenlet.kill_nowait_with(self.drops.guard());
                    }
                    _ => _ = greenlet.kill_timeout(micros),
                }
                check(greenlet.join());
            }
            11 if self.may_spawn() => self.to_pool(hubs::spawn(self.body(random))),
            12 | 13 => self.meddle(random, micros),
            14 => {
                let Some(hubs) = self.hubs() else { return };
                self.borrow(&hubs, random);
            }
            15 if self.may_spawn() => {
                let linked = hubs::spawn(self.body(random));
                self.linked.fetch_add(1, Ordering::SeqCst);
                let world = Arc::clone(self);
                linked.rawlink(move || {
                    world.links_called.fetch_add(1, Ordering::SeqCst);
                });
                self.to_pool(linked);
            }
            16 => {
                let spawns = SpawnsAtTheEnd(self.drops.guard(), Rc::default());
                sleep(micros);
                drop(spawns);
            }
            17 if self.may_spawn() => {
                let list: Vec<_> = (0..1 + random.below(8)).map(|_| hubs::spawn(self.body(random))).collect();
                joinall(&list);
                list.into_iter().for_each(|one| check(one.join()));
            }
            18 if random.below(8) == 0 && self.may_spawn() => {
                let own = Hubs::new(1 + random.below(2) as usize).unwrap();
                // It borrows from nobody: who is unwound here blocks its thread for the end of these hubs.
                let (result, naps) = (self.drops.guard(), micros);
                let greenlet = own.spawn(move || {
                    sleep(naps);
                    result
                });
                let guard = self.drops.guard();
                let sent = own.broadcast(move |_| {
                    let _guard = &guard;
                    yield_now();
                });
                if random.below(2) == 0 {
                    drop(own);
                }
                check(greenlet.join());
                joinall(&sent);
            }
            // The last one may go here, on one of them.
            19 if random.below(16) == 0 => self.let_go(),
            _ => {}
        }
    }

    /// Does something with a greenlet that somebody else has spawned.
    fn meddle(self: &Arc<Self>, random: &Random, micros: Duration) {
        let Some(greenlet) = self.take_from_pool(random) else { return };
        match random.below(5) {
            0 => drop(greenlet),
            1 => {
                greenlet.kill_nowait();
                self.to_pool(greenlet);
            }
            // Not for ever: it may wait for us.
            2 => match greenlet.join_timeout(micros) {
                Ok(result) => check(result),
                Err(greenlet) => self.to_pool(greenlet),
            },
            3 => {
                let _ = timeout(micros, || greenlet.kill());
                self.to_pool(greenlet);
            }
            _ => match timeout(micros, || greenlet.join()) {
                Ok(result) => check(result),
                Err(_elapsed) => {}
            },
        }
    }

    /// Greenlets that borrow from this stack. It may be unwound meanwhile.
    fn borrow(self: &Arc<Self>, hubs: &Hubs, random: &Random) {
        if !self.may_spawn() {
            return;
        }
        let seeds: Vec<u64> = (0..random.below(6)).map(|_| random.next()).collect();
        let borrowed = (AtomicUsize::new(0), self.drops.guard());
        let limit = Duration::from_micros(random.below(2000));
        let scoped = || {
            hubs.scope(|s| {
                for seed in &seeds {
                    let borrowed = &borrowed;
                    let one = s.spawn(move || {
                        let random = Random::new(*seed);
                        s.spawn(|| borrowed.0.fetch_add(1, Ordering::SeqCst));
                        (0..random.below(3)).for_each(|_| self.act(&random));
                        borrowed.0.fetch_add(1, Ordering::SeqCst);
                        borrowed.1.another()
                    });
                    match seed % 4 {
                        0 => check(one.join()),
                        1 => one.kill_nowait(),
                        _ => {}
                    }
                }
            });
        };
        if random.below(2) == 0 {
            scoped()
        } else {
            _ = timeout(limit, scoped)
        }
        assert!(borrowed.0.into_inner() <= 2 * seeds.len());
    }

    /// On a thread that is none of the hubs'.
    fn act_from_outside(self: &Arc<Self>, random: &Random) {
        for _ in 0..20 + random.below(60) {
            let Some(hubs) = self.hubs() else { return };
            let micros = Duration::from_micros(random.below(200));
            match random.below(8) {
                0 | 1 if self.may_spawn() => self.to_pool(hubs.spawn(self.body(random))),
                2 if self.may_spawn() => drop(hubs.spawn(self.body(random))),
                3 if self.may_spawn() => {
                    check(hubs.spawn_with(Builder::new().name("outside"), self.body(random)).unwrap().join());
                }
                4 => self.borrow_outside(&hubs, random),
                5 => self.meddle(random, micros),
                6 if self.may_spawn() => {
                    let guard = self.drops.guard();
                    drop(hubs.broadcast(move |_| _ = &guard));
                }
                _ => sleep(micros),
            }
        }
    }

    fn borrow_outside(self: &Arc<Self>, hubs: &Hubs, random: &Random) {
        if self.may_spawn() {
            let (text, seed) = (String::from("borrowed"), random.next());
            let length = hubs.run(|| {
                let random = Random::new(seed);
                (0..random.below(4)).for_each(|_| self.act(&random));
                text.len()
            });
            assert_eq!(length, 8);
        }
    }
}

fn run(seed: u64) {
    let random = Random::new(seed);
    let size = [1, 2, 4, 8][random.below(4) as usize];
    let world = Arc::new(World {
        drops: Drops::new(),
        hubs: Mutex::new(Some(Arc::new(Hubs::new(size).unwrap()))),
        pool: Mutex::default(),
        left: AtomicI64::new(20 << random.below(5)),
        spawned: AtomicUsize::new(0),
        linked: AtomicUsize::new(0),
        links_called: AtomicUsize::new(0),
    });
    thread::scope(|s| {
        for _ in 0..random.below(3) {
            let (world, random) = (&world, Random::new(random.next()));
            s.spawn(move || world.act_from_outside(&random));
        }
        world.act_from_outside(&random);
        if random.below(2) == 0 {
            world.let_go();
        }
    });
    world.let_go();
    // All that was given to greenlets is dropped, if the last hubs end by themselves a little later than here.
    let all_are_gone = || {
        // They end.
        while let Some(greenlet) = world.take_from_pool(&random) {
            check(greenlet.join());
        }
        world.drops.count() == world.drops.made()
            && world.linked.load(Ordering::SeqCst) == world.links_called.load(Ordering::SeqCst)
            && Arc::strong_count(&world) == 1
    };
    let since = Instant::now();
    while !all_are_gone() {
        sleep(Duration::from_millis(1));
        if since.elapsed() > secs(60) {
            eprintln!(
                "seed {seed}, {size} hubs: of {} things {} were dropped; of {} links {} were called; {} refer to this",
                world.drops.made(),
                world.drops.count(),
                world.linked.load(Ordering::SeqCst),
                world.links_called.load(Ordering::SeqCst),
                Arc::strong_count(&world)
            );
            abort();
        }
    }
    println!("seed {seed}: {size} hubs, {} greenlets", world.spawned.load(Ordering::Relaxed));
}

fn many_seeds(test: &str, first: u64, count: u64) {
    const EACH: u64 = 50;
    let variable = |name, default| env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = variable("SWITCHGRASS_STRESS_SEED", first);
    let count = variable("SWITCHGRASS_STRESS_COUNT", count);
    for start in (first..first + count).step_by(EACH as usize) {
        let end = (start + EACH).min(first + count);
        in_child_with(test, &format!("{start} {end}"), |seeds| {
            // A panic in a greenlet would be nothing special.
            panic::set_hook(Box::new(|info| {
                eprintln!("unexpected {info}");
                abort();
            }));
            let (start, end) = seeds.split_once(' ').unwrap();
            for seed in start.parse::<u64>().unwrap()..end.parse().unwrap() {
                time_limit();
                // Its own hub goes with it.
                thread::spawn(move || run(seed)).join().unwrap();
            }
        });
        if env::var_os("SWITCHGRASS_TEST_CHILD").is_some() {
            return;
        }
    }
}

#[test]
fn hubs_that_come_and_go_lose_nothing() {
    many_seeds("stress_hubs::hubs_that_come_and_go_lose_nothing", 1, 40);
}

#[test]
#[ignore = "takes minutes"]
fn hubs_that_come_and_go_lose_nothing_for_many_seeds() {
    many_seeds("stress_hubs::hubs_that_come_and_go_lose_nothing_for_many_seeds", 1000, 2000);
}
