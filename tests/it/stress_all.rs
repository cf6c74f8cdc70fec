//! Random operations over everything that greenlets wait for, from fixed seeds, with kills and timeouts that strike anywhere.
//!
//! What must hold at the end of each seed: what was put somewhere was got once, or is still there, or was given back; permits are what they
//! were, no lock is locked; everyone who waited has been woken; no greenlet, stack or value is left.
//!
//! Two forms. Under the virtual clock, on one hub, each run of a seed is the same, so what fails can be run again. With several hubs,
//! plain OS threads and jobs of a thread pool nothing is the same twice: the seed decides who does what, not when.
//!
//! The long forms take their first seed from `SWITCHGRASS_STRESS_SEED`, and how many there are from `SWITCHGRASS_STRESS_COUNT`.
//!
//! Each test runs in a process of its own, which a failed check ends.

mod flow;
mod greenlets;
mod items;
mod locks;

use std::cell::RefCell;
use std::env;
use std::panic;
use std::process::abort;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use switchgrass::pool::{Group, Pool};
use switchgrass::threadpool::{self, ThreadPool};
use switchgrass::{
    Greenlet, Handle, Timeout, current, dump, scope, sleep, spawn, testing, timeout, yield_now,
};

use self::flow::Flow;
use self::items::Items;
use self::locks::Locks;
use crate::util::{Drops, Random, catch, in_child, in_child_with};

/// No more than this many greenlets of a thread at once.
const CROWD: usize = 60;
/// How deep operations are nested.
const DEPTH: u32 = 4;

// ---- Failing --------------------------------------------------------------------------------------------------------------

static SEED: AtomicU64 = AtomicU64::new(0);

/// Ends the process if it is not so.
#[track_caller]
fn check(holds: bool, what: impl FnOnce() -> String) {
    if !holds {
        fail(&format!("{}: {}", panic::Location::caller(), what()));
    }
}

fn fail(text: &str) -> ! {
    eprintln!("seed {}: {text}\n{}", SEED.load(SeqCst), std::backtrace::Backtrace::force_capture());
    abort()
}

/// From now on a panic ends the process, but for those that random operations must expect.
fn refuse_panics() {
    const EXPECTED: [&str; 2] =
        ["a scoped greenlet panicked", "a greenlet of the group was killed before it had a result"];
    panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no text");
        if !EXPECTED.iter().any(|expected| text.starts_with(expected)) {
            fail(&format!("unexpected {info}"));
        }
    }));
}

// ---- The world ------------------------------------------------------------------------------------------------------------

/// What all threads of a run share.
struct World {
    /// The unit of all times.
    unit: Duration,
    /// Other threads take part.
    threads: bool,
    items: Items,
    locks: Locks,
    flow: Flow,
    /// Of frames, results, closures, items.
    drops: Drops,
    jobs: ThreadPool,
    /// Who can be killed, by anybody; and what each is at.
    victims: Mutex<Vec<(Handle, Doing)>>,
    /// Nobody begins anything any more.
    ending: AtomicBool,
    /// Links made, and called or taken back.
    links: (AtomicUsize, AtomicUsize),
    /// Which operations there are in this run.
    enabled: Vec<bool>,
    /// How often each operation came to its end.
    done: Vec<AtomicU64>,
    /// A sum over all that happened, in its order.
    trace: AtomicU64,
    start: Duration,
}

type Doing = Arc<AtomicUsize>;

/// What the greenlets of one thread share.
struct Local {
    greenlets: RefCell<Vec<Greenlet<Made>>>,
    timeouts: RefCell<Vec<Rc<RefCell<Timeout>>>>,
    pool: Pool,
    group: Group,
}

/// What a greenlet returns.
#[derive(Clone)]
struct Made {
    number: u64,
    _guard: Rc<crate::util::DropGuard>,
}

/// One greenlet, thread or job, as it does its steps.
struct Actor {
    world: Arc<World>,
    random: Random,
    depth: u32,
    /// Nobody, where greenlets cannot be spawned.
    local: Option<Rc<Local>>,
    doing: Doing,
    /// A job of the thread pool.
    is_job: bool,
}

/// Where an operation can be done.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Anywhere,
    /// Where greenlets can be spawned.
    Greenlets,
    /// The same, but not too deep: it does other operations.
    Nested,
    /// Where other threads take part, but not by one of the jobs that it makes.
    Threads,
}

struct Operation {
    name: &'static str,
    place: Place,
    run: fn(&Actor),
}

const fn operation(name: &'static str, place: Place, run: fn(&Actor)) -> Operation {
    Operation { name, place, run }
}

impl Operation {
    /// Never left out.
    fn is_basic(&self) -> bool {
        matches!(self.name, "yield" | "sleep" | "kill" | "spawn" | "timeout")
    }
}

fn operations() -> impl Iterator<Item = &'static Operation> {
    locks::OPERATIONS.iter().chain(flow::OPERATIONS).chain(greenlets::OPERATIONS)
}

impl World {
    fn new(seed: u64, unit: Duration, threads: bool) -> Arc<World> {
        let drops = Drops::new();
        // Few in most runs: so they meet more often.
        let (random, share) = (Random::new(!seed), [1, 2, 4, 8][seed as usize % 4]);
        let enabled = operations().map(|operation| operation.is_basic() || random.below(share) == 0);
        Arc::new(World {
            unit,
            threads,
            items: Items::new(&drops),
            locks: Locks::new(),
            flow: Flow::new(),
            drops,
            jobs: ThreadPool::new(2),
            victims: Mutex::default(),
            ending: AtomicBool::new(false),
            links: Default::default(),
            enabled: enabled.collect(),
            done: operations().map(|_| AtomicU64::new(0)).collect(),
            trace: AtomicU64::new(0),
            start: testing::now(),
        })
    }

    fn is_ending(&self) -> bool {
        self.ending.load(SeqCst)
    }

    /// Only where one thread takes part, there is an order.
    fn note(&self, what: u64) {
        if !self.threads {
            let moment = (testing::now() - self.start).as_nanos() as u64;
            let trace = self.trace.load(SeqCst).rotate_left(7) ^ what ^ moment;
            self.trace.store(trace.wrapping_mul(0x0100_0000_01b3), SeqCst);
        }
    }

    /// Who has not ended, what it does, and where it is.
    fn report(&self) -> String {
        let names: Vec<_> = operations().map(|operation| operation.name).collect();
        let victims = self.victims.lock().unwrap();
        let alive = victims.iter().filter(|(handle, _)| !handle.is_ready());
        let lines = alive.map(|(handle, doing)| {
            let doing = names.get(doing.load(SeqCst)).unwrap_or(&"nothing yet");
            format!("  {handle:?}: {doing}")
        });
        let lines: Vec<_> = lines.collect();
        let lines = lines.join("\n");
        format!("{lines}\n{:?}\n{:?}\n{}", self.locks, self.flow, dump::to_string())
    }

    /// Has everybody come to an end: from here on, what they wait for comes. Gives what is left to be got.
    fn end(&self) {
        self.locks.end(self);
        scope(|s| {
            for drain in self.flow.end() {
                s.spawn(move || drain(self));
            }
        });
    }

    /// Nobody is anywhere, and all is free.
    fn look(self: Arc<Self>) -> u64 {
        self.locks.look();
        self.flow.look(&self);
        self.items.look();
        let (made, done) = (self.links.0.load(SeqCst), self.links.1.load(SeqCst));
        check(made == done, || format!("{made} links, and {done} were called or taken back"));
        let trace = self.trace.load(SeqCst);
        let drops = self.drops.clone();
        check(Arc::strong_count(&self) == 1, || "somebody still has the world".to_owned());
        drop(self);
        let (made, dropped) = (drops.made(), drops.count());
        check(made == dropped, || format!("{made} values were made, {dropped} dropped"));
        trace
    }
}

impl Actor {
    fn new(world: &Arc<World>, seed: u64, local: Option<&Rc<Local>>) -> Actor {
        Actor {
            world: Arc::clone(world),
            random: Random::new(seed),
            depth: 0,
            local: local.cloned(),
            doing: Arc::new(AtomicUsize::new(usize::MAX)),
            is_job: false,
        }
    }

    /// One that goes its own ways from here.
    fn child(&self) -> Actor {
        Actor { depth: self.depth + 1, ..Actor::new(&self.world, self.random.next(), self.local.as_ref()) }
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn time(&self) -> Duration {
        self.world.unit * self.below(50) as u32
    }

    /// A greenlet's first act: from here on it can be killed.
    fn enter(&self) {
        let mut victims = self.world.victims.lock().unwrap();
        if victims.len() > 4 * CROWD {
            victims.retain(|(handle, _)| !handle.is_ready());
        }
        victims.push((current(), Arc::clone(&self.doing)));
    }

    fn victim(&self) -> Option<Handle> {
        let victims = self.world.victims.lock().unwrap();
        let count = victims.len() as u64;
        (count > 0).then(|| victims[self.below(count) as usize].0.clone())
    }

    /// Lets others run now and then: here, and on other threads.
    fn pause(&self) {
        match self.below(8) {
            0 => sleep(self.time() / 10),
            1..4 => yield_now(),
            _ => {}
        }
    }

    /// With a limit most of the time.
    fn limited<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        match self.below(3) {
            0 => Some(f()),
            _ => timeout(self.time(), f).ok(),
        }
    }

    fn steps(&self, limit: u64) {
        for _ in 0..self.below(limit) {
            if self.world.is_ending() {
                return;
            }
            self.step();
        }
    }

    /// One random operation. It may unwind: by its own doing, or by somebody else's.
    fn step(&self) {
        let _guard = self.world.drops.guard();
        let fits = |operation: &Operation| match operation.place {
            Place::Anywhere => true,
            Place::Greenlets => self.local.is_some(),
            Place::Nested => self.local.is_some() && self.depth < DEPTH,
            Place::Threads => self.world.threads && !self.is_job,
        };
        let fitting: Vec<_> = operations()
            .enumerate()
            .filter(|&(number, operation)| self.world.enabled[number] && fits(operation))
            .collect();
        let (number, operation) = fitting[self.below(fitting.len() as u64) as usize];
        let before = self.doing.swap(number, SeqCst);
        self.world.note(number as u64);
        (operation.run)(self);
        self.world.note(1000);
        self.world.done[number].fetch_add(1, SeqCst);
        self.doing.store(before, SeqCst);
        if self.below(8) == 0 {
            // Perhaps somebody who was just given something, and has not run since.
            (0..self.below(4)).filter_map(|_| self.victim()).for_each(|victim| victim.kill_nowait());
        }
    }
}

impl Local {
    fn new() -> Rc<Local> {
        Rc::new(Local {
            greenlets: RefCell::default(),
            timeouts: RefCell::default(),
            pool: Pool::new(3),
            group: Group::new(),
        })
    }

    /// Lets go of what is left, and waits for the greenlets of this thread.
    fn end(self: Rc<Self>, world: &World) {
        let begun = testing::now();
        loop {
            self.greenlets.take();
            self.timeouts.take();
            if testing::live() == 0 {
                break;
            }
            // Under the virtual clock nothing else looks for those that hang.
            if !world.threads && testing::now() - begun > world.unit * 10_000 {
                fail(&format!("{} greenlets were not woken:\n{}", testing::live(), world.report()));
            }
            sleep(world.unit);
        }
        let stacks = testing::stack_counts().0;
        check(stacks == 0, || format!("{stacks} stacks are left"));
        check(Rc::strong_count(&self) == 1, || "a greenlet is gone, its closure is not".to_owned());
    }
}

// ---- Runs -----------------------------------------------------------------------------------------------------------------

/// How often each operation came to its end.
type Counts = Vec<u64>;

fn counts(world: &World) -> Counts {
    world.done.iter().map(|count| count.load(SeqCst)).collect()
}

/// Spawns greenlets, and does steps in between, on the thread's own stack.
fn work(world: &Arc<World>, seed: u64, local: &Rc<Local>, roots: u64, steps: u64) {
    let actor = Actor::new(world, seed, Some(local));
    for _ in 0..roots {
        let child = actor.child();
        let guard = actor.world.drops.guard();
        drop(spawn(move || {
            let _guard = guard;
            child.enter();
            // One after the other, for most end by being killed or timed out.
            for _ in 0..steps {
                if let Err(payload) = catch(|| child.step())
                    && child.below(40) == 0
                {
                    panic::resume_unwind(payload);
                }
                if child.world.is_ending() {
                    break;
                }
            }
        }));
        // What it raises is its own doing: nobody knows this stack's handle.
        drop(catch(|| timeout(world.unit * 20, || actor.steps(3))));
        // Those that were left behind here must not strike below.
        local.timeouts.take();
    }
}

/// One hub, under the virtual clock: the same in each run.
fn run_alone(seed: u64, roots: u64, steps: u64) -> (u64, Counts) {
    SEED.store(seed, SeqCst);
    testing::virtual_clock();
    let (world, local) = (World::new(seed, Duration::from_millis(1), false), Local::new());
    work(&world, seed, &local, roots, steps);
    for _ in 0..steps {
        sleep(world.unit * 20);
        look_while_quiet(&world);
    }
    world.end();
    local.end(&world);
    let counts = counts(&world);
    (world.look(), counts)
}

/// Nobody waits for what is there. Who has just been given it may still have to run.
fn look_while_quiet(world: &World) {
    let looks = || world.locks.look_while_quiet().and_then(|()| world.flow.look_while_quiet());
    for _ in 0..50 {
        if looks().is_ok() {
            return;
        }
        yield_now();
    }
    if let Err(what) = looks() {
        fail(&what);
    }
}

fn run_alone_on_a_thread(seed: u64, roots: u64, steps: u64) -> (u64, Counts) {
    thread::spawn(move || run_alone(seed, roots, steps)).join().unwrap()
}

/// Several hubs, plain threads, and jobs.
fn run_together(seed: u64, hubs: u64, plain: u64, roots: u64, steps: u64) -> Counts {
    SEED.store(seed, SeqCst);
    let world = World::new(seed, Duration::from_micros(20), true);
    let seeds = Random::new(seed);
    let mut threads = Vec::new();
    for _ in 0..hubs {
        let (world, seed) = (Arc::clone(&world), seeds.next());
        threads.push(thread::spawn(move || {
            let local = Local::new();
            work(&world, seed, &local, roots, steps);
            local.end(&world);
        }));
    }
    for _ in 0..plain {
        let (world, seed) = (Arc::clone(&world), seeds.next());
        threads.push(thread::spawn(move || {
            let actor = Actor::new(&world, seed, None);
            for _ in 0..steps {
                drop(catch(|| actor.steps(5)));
            }
        }));
    }
    // The deadline is for those that hang; only a machine that is very busy comes near it otherwise.
    let watch = Watch::start(&world, Duration::from_secs(60));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(20 + seeds.below(100))
        && !threads.iter().all(thread::JoinHandle::is_finished)
    {
        sleep(Duration::from_millis(1));
    }
    world.end();
    for thread in threads {
        thread.join().unwrap();
    }
    // Some jobs were abandoned.
    world.jobs.join();
    threadpool::global().join();
    watch.stop();
    let counts = counts(&world);
    world.look();
    counts
}

/// Ends the process with a report, unless it is stopped in time.
struct Watch(Arc<AtomicBool>, thread::JoinHandle<()>);

impl Watch {
    fn start(world: &Arc<World>, limit: Duration) -> Watch {
        let (stop, world) = (Arc::new(AtomicBool::new(false)), Arc::clone(world));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            while !stopped.load(SeqCst) {
                if begun.elapsed() > limit {
                    fail(&format!("not everybody was woken:\n{}", world.report()));
                }
                thread::park_timeout(Duration::from_millis(100));
            }
        });
        Watch(stop, thread)
    }

    fn stop(self) {
        self.0.store(true, SeqCst);
        self.1.thread().unpark();
        self.1.join().unwrap();
    }
}

fn check_that_all_was_done(sum: &Counts, place: impl Fn(Place) -> bool) {
    for (operation, count) in operations().zip(sum).filter(|(operation, _)| place(operation.place)) {
        // One of them never comes to its end.
        check(operation.name == "unwind" || *count >= 3, || {
            format!("'{}' was done {count} times", operation.name)
        });
    }
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.resize(counts.len(), 0);
    sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

/// Runs seeds in child processes, some in each.
fn many_seeds(test: &str, count: u64, run: impl Fn(u64)) {
    const EACH: u64 = 50;
    let variable = |name, default| env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = variable("SWITCHGRASS_STRESS_SEED", 1000);
    let count = variable("SWITCHGRASS_STRESS_COUNT", count);
    for start in (first..first + count).step_by(EACH as usize) {
        let seeds = EACH.min(first + count - start);
        in_child_with(test, &format!("{start} {seeds}"), |seeds| {
            refuse_panics();
            let (start, seeds) = seeds.split_once(' ').unwrap();
            let (start, seeds) = (start.parse::<u64>().unwrap(), seeds.parse::<u64>().unwrap());
            for seed in start..start + seeds {
                println!("seed {seed}");
                run(seed);
            }
        });
        if env::var_os("SWITCHGRASS_TEST_CHILD").is_some() {
            return;
        }
    }
}

#[test]
fn on_one_hub_every_promise_is_kept_and_each_run_of_a_seed_is_the_same() {
    in_child("stress_all::on_one_hub_every_promise_is_kept_and_each_run_of_a_seed_is_the_same", || {
        refuse_panics();
        let mut sum = Counts::new();
        for seed in 1..=60 {
            let (trace, counts) = run_alone_on_a_thread(seed, 8, 40);
            add(&mut sum, &counts);
            if seed % 10 < 2 {
                check(trace == run_alone_on_a_thread(seed, 8, 40).0, || {
                    "another run is not the same".to_owned()
                });
            }
        }
        check_that_all_was_done(&sum, |place| place != Place::Threads);
    });
}

#[test]
fn on_many_threads_every_promise_is_kept() {
    in_child("stress_all::on_many_threads_every_promise_is_kept", || {
        refuse_panics();
        let mut sum = Counts::new();
        for seed in 1..=12 {
            add(&mut sum, &run_together(seed, 3, 2, 8, 40));
        }
        check_that_all_was_done(&sum, |_| true);
    });
}

#[test]
#[ignore = "takes a minute"]
fn on_one_hub_every_promise_is_kept_for_many_seeds() {
    many_seeds("stress_all::on_one_hub_every_promise_is_kept_for_many_seeds", 1000, |seed| {
        run_alone_on_a_thread(seed, 4 + seed % 12, 10 << (seed % 5));
    });
}

#[test]
#[ignore = "takes a minute"]
fn on_many_threads_every_promise_is_kept_for_many_seeds() {
    many_seeds("stress_all::on_many_threads_every_promise_is_kept_for_many_seeds", 200, |seed| {
        run_together(seed, 1 + seed % 4, seed % 3, 4 + seed % 8, 10 << (seed % 5));
    });
}
