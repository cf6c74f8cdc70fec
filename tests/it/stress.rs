//! Thousands of random operations, from fixed seeds; and at the end nothing is left behind: no greenlet, no stack, no value, no
//! descriptor, no memory.
//!
//! Two forms. Under the virtual clock, each run of a seed is the same, and what fails can be run again. With sockets and other OS
//! threads ([`sockets`]), nothing is the same twice, and only what must always hold is checked.
//!
//! The long forms take their first seed from `SWITCHGRASS_STRESS_SEED`, and how many there are from `SWITCHGRASS_STRESS_COUNT`.
//!
//! Each test runs in a process of its own, which a failed check ends: within a greenlet, a panic would be nothing special here.

mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::env;
use std::fmt;
use std::panic::{self, resume_unwind};
use std::process::abort;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use switchgrass::{
    CloseError, Coroutine, Generator, GeneratorError, Greenlet, GreenletExit, Handle, ParentError, Step,
    SwitchError, Yielder, current, joinall, park, park_timeout, scope, sleep, spawn, spawn_later, testing,
    timeout, yield_now,
};

use self::sockets::Sockets;
use crate::util::{
    DropGuard, Drops, OnDrop, Payload, Random, catch, in_child, in_child_with, open_fds, secs, time_limit,
};

// ---- Helpers ------------------------------------------------------------------------------------------------------------

/// Ends the process if it is not so.
#[track_caller]
fn check(holds: bool, what: impl FnOnce() -> String) {
    if !holds {
        let place = panic::Location::caller();
        fail(&format!("{place}: {}", what()));
    }
}

fn fail(text: &str) -> ! {
    eprintln!("{text}\n{}", std::backtrace::Backtrace::force_capture());
    abort()
}

/// From now on a panic ends the process, but for those that random operations must expect.
fn refuse_panics() {
    const EXPECTED: [&str; 4] = [
        "a scoped greenlet panicked",
        "a greenlet cannot be spawned in a scope while unwinding",
        "yield_from could not close the inner generator: the generator caught the exit and yielded",
        "yield_from needs a generator that has not ended",
    ];
    panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no text");
        if !EXPECTED.iter().any(|expected| text.starts_with(expected)) {
            fail(&format!("unexpected {info}"));
        }
    }));
}

impl Random {
    /// Takes a random one out.
    fn take<T>(&self, list: &RefCell<Vec<T>>) -> Option<T> {
        let mut list = list.borrow_mut();
        let count = list.len() as u64;
        (count > 0).then(|| list.swap_remove(self.below(count) as usize))
    }

    /// A copy of a random one.
    fn copy<T: Clone>(&self, list: &RefCell<Vec<T>>) -> Option<T> {
        let list = list.borrow();
        let count = list.len() as u64;
        (count > 0).then(|| list[self.below(count) as usize].clone())
    }
}

/// What coroutines and generators pass to each other. Each arrives once at most.
struct Token {
    number: u64,
    _guard: DropGuard,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", self.number)
    }
}

type Gen = Generator<Token, Token, Token>;

/// No more than this many tasks at once.
const CROWD: usize = 300;

/// What all tasks of a run share.
struct World {
    random: Random,
    /// The unit of all times: sleeps, timeouts, limits.
    unit: Duration,
    start: Duration,
    /// Of each function that runs as a task, its result, each token, and some frames.
    drops: Drops,
    greenlets: RefCell<Vec<Greenlet<DropGuard>>>,
    coroutines: RefCell<Vec<Coroutine<Token>>>,
    generators: RefCell<Vec<Rc<Gen>>>,
    /// All tasks that run a function of ours, and since when.
    tasks: RefCell<Vec<(Duration, Handle)>>,
    /// The tokens that have left and not arrived.
    under_way: RefCell<HashSet<u64>>,
    next_token: Cell<u64>,
    /// How often an operation did what it is there for.
    done: RefCell<[u64; KINDS]>,
    /// A sum over all that happened, in its order.
    trace: Cell<u64>,
    sockets: Option<Sockets>,
}

#[derive(Clone, Copy, Debug)]
enum Done {
    Switch,
    SwitchExit,
    Refused,
    SwitchTimeout,
    WrongType,
    Throw,
    Family,
    Cycle,
    Send,
    Returned,
    Closed,
    CloseIgnored,
    GeneratorThrow,
    Unblock,
    Given,
    GivenBack,
    Bytes,
    End,
    Duplicate,
    Datagram,
}
const KINDS: usize = Done::Datagram as usize + 1;

// ---- Operations -----------------------------------------------------------------------------------------------------------

impl World {
    /// A run under the virtual clock.
    fn new(seed: u64) -> Rc<World> {
        testing::virtual_clock();
        World::with(seed, Duration::from_millis(1), None)
    }

    fn with(seed: u64, unit: Duration, sockets: Option<Sockets>) -> Rc<World> {
        Rc::new(World {
            random: Random::new(seed),
            unit,
            start: testing::now(),
            drops: Drops::new(),
            greenlets: RefCell::default(),
            coroutines: RefCell::default(),
            generators: RefCell::default(),
            tasks: RefCell::default(),
            under_way: RefCell::default(),
            next_token: Cell::new(0),
            done: RefCell::default(),
            trace: Cell::new(0),
            sockets,
        })
    }

    fn note(&self, what: u64) {
        let moment = (testing::now() - self.start).as_nanos() as u64;
        let trace = self.trace.get().rotate_left(7) ^ what ^ moment;
        self.trace.set(trace.wrapping_mul(0x0100_0000_01b3));
    }

    fn done(&self, what: Done) {
        self.done.borrow_mut()[what as usize] += 1;
        self.note(1000 + what as u64);
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn time(&self) -> Duration {
        self.unit * self.below(50) as u32
    }

    fn crowded(&self) -> bool {
        testing::live() > CROWD
    }

    /// Not in a task that is unwound by one who unwinds: it would block the thread.
    fn sleep(&self) {
        if !thread::panicking() {
            sleep(self.time());
        }
    }

    /// With a limit, most of the time.
    fn limited<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        match self.below(4) {
            0 => Some(f()),
            _ => timeout(self.time(), f).ok(),
        }
    }

    fn token(&self) -> Token {
        let number = self.next_token.get();
        self.next_token.set(number + 1);
        self.under_way.borrow_mut().insert(number);
        Token { number, _guard: self.drops.guard() }
    }

    fn arrived(&self, token: Token) {
        let Token { number, _guard } = &token;
        check(self.under_way.borrow_mut().remove(number), || format!("token {number} came twice"));
        self.note(*number);
    }

    /// What each task does first.
    fn enter(&self) {
        let mut tasks = self.tasks.borrow_mut();
        if tasks.len() > 2 * CROWD {
            tasks.retain(|(_, task)| !task.is_ready());
        }
        tasks.push((testing::now(), current()));
    }

    /// What each task does then.
    fn body(self: &Rc<Self>, depth: u32) {
        for _ in 0..self.below(6) {
            self.step(depth + 1);
        }
    }

    /// Kills what has been there for longer than that.
    fn kill_old(&self, limit: Duration) {
        let old: Vec<_> = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.retain(|(_, task)| !task.is_ready());
            let now = testing::now();
            tasks.iter().filter(|(since, _)| now - *since >= limit).map(|(_, task)| task.clone()).collect()
        };
        old.iter().for_each(Handle::kill_nowait);
    }

    /// A handle of a random greenlet.
    fn greenlet(&self) -> Option<Handle> {
        let greenlets = self.greenlets.borrow();
        let count = greenlets.len() as u64;
        (count > 0).then(|| greenlets[self.below(count) as usize].handle())
    }

    /// A handle of a random task, of whatever kind.
    fn any(&self) -> Option<Handle> {
        match self.below(4) {
            0 => self.random.copy(&self.tasks).map(|(_, task)| task),
            _ => self.greenlet(),
        }
    }

    fn spawn(self: &Rc<Self>, depth: u32) {
        if self.crowded() {
            return;
        }
        let (world, guard) = (Rc::clone(self), self.drops.guard());
        let body = move || {
            let _guard = guard;
            world.enter();
            world.body(depth);
            world.drops.guard()
        };
        let greenlet = match self.below(4) {
            0 => spawn_later(self.time(), body),
            _ => spawn(body),
        };
        self.greenlets.borrow_mut().push(greenlet);
    }

    /// One random operation. It may unwind: by its own doing, or by somebody else's.
    fn step(self: &Rc<Self>, depth: u32) {
        let _guard = self.drops.guard();
        let limit = if depth < 5 { 40 } else { 28 };
        let operation = self.below(if self.sockets.is_some() { limit + 30 } else { limit });
        self.note(operation);
        match operation {
            0 | 1 => yield_now(),
            2 | 3 => self.sleep(),
            4 => park_timeout(self.time()),
            5 => drop(self.any().map(|handle| handle.unpark())),
            6 => drop(self.any().map(|handle| handle.kill_nowait())),
            7 => drop(self.any().map(|handle| timeout(self.time(), || handle.kill()))),
            8 => drop(self.random.take(&self.greenlets)),
            9 => resume_unwind(Box::new("on purpose")),
            10 => {
                let _unwinds = OnDrop(|| self.step_while_unwinding());
                yield_now();
            }
            11 => self.join(),
            12..=16 => self.switch(),
            17 => self.throw(),
            18 => drop(self.random.take(&self.coroutines)),
            19 => self.adopt(),
            20 => self.wrong_type(),
            21..=24 => self.send(),
            25 => self.close(),
            26 => self.throw_into_generator(),
            27 => drop(self.random.take(&self.generators)),
            28 | 29 if depth < 5 => self.spawn(depth),
            30 if depth < 5 => drop(timeout(self.time(), || self.steps(depth))),
            31 if depth < 5 => drop(catch(|| self.steps(depth))),
            32 if depth < 5 => self.family(),
            33..=35 if depth < 5 => self.coroutine(depth),
            36 | 37 if depth < 5 => self.generator(depth),
            38 | 39 if depth < 5 => self.scope(depth),
            _ => self.socket_step(),
        }
        self.note(100);
    }

    fn steps(self: &Rc<Self>, depth: u32) {
        for _ in 0..self.below(4) {
            self.step(depth + 1);
        }
    }

    fn scope(self: &Rc<Self>, depth: u32) {
        scope(|s| {
            for _ in 0..self.below(4) {
                let child = s.spawn(|| {
                    self.enter();
                    self.steps(depth);
                });
                match self.below(3) {
                    0 => drop(child.join()),
                    1 => drop(child.join_timeout(self.time())),
                    _ => {}
                }
            }
            self.steps(depth);
        });
    }

    fn join(&self) {
        let Some(greenlet) = self.random.take(&self.greenlets) else { return };
        // With a limit, for two might join each other.
        match greenlet.join_timeout(self.time()) {
            Ok(result) => drop(result),
            Err(greenlet) => self.greenlets.borrow_mut().push(greenlet),
        }
    }

    /// What a destructor may do, whether it unwinds or not. No sleep: it would block.
    fn step_while_unwinding(self: &Rc<Self>) {
        match self.below(10) {
            0 => drop(catch(yield_now)),
            1 => drop(self.any().map(|handle| handle.kill_nowait())),
            2 => current().kill_nowait(),
            3 => self.spawn(4),
            4 if thread::panicking() => drop(self.random.take(&self.greenlets).map(Greenlet::join)),
            5 => drop(self.random.take(&self.coroutines)),
            6 => drop(self.random.take(&self.generators)),
            7 if thread::panicking() => self.switch(),
            8 if thread::panicking() => self.send(),
            _ => drop(self.any().map(|handle| handle.unpark())),
        }
    }
}

// ---- Coroutines -----------------------------------------------------------------------------------------------------------

impl World {
    fn coroutine(self: &Rc<Self>, depth: u32) {
        if self.crowded() {
            return;
        }
        let (world, guard) = (Rc::clone(self), self.drops.guard());
        let coroutine = Coroutine::new(move |first| {
            let _guard = guard;
            world.enter();
            world.arrived(first);
            world.body(depth);
            world.token()
        });
        self.coroutines.borrow_mut().push(coroutine);
    }

    /// A random coroutine; now and then one that is there for a reason of its own.
    fn target(&self) -> Option<Coroutine<Token>> {
        match self.below(10) {
            0 => Some(Coroutine::main()),
            1 => Coroutine::current().parent(),
            2 => Some(Coroutine::current()),
            _ => self.random.copy(&self.coroutines),
        }
    }

    fn switch(&self) {
        let Some(target) = self.target() else { return };
        let token = self.token();
        match self.limited(|| target.switch(token)) {
            Some(Ok(token)) => {
                self.done(Done::Switch);
                self.arrived(token);
            }
            Some(Err(SwitchError::Exit(_))) => self.done(Done::SwitchExit),
            Some(Err(error)) => {
                check(
                    matches!(
                        error,
                        SwitchError::Busy { .. }
                            | SwitchError::Unwinding { .. }
                            | SwitchError::WrongType { .. }
                    ),
                    || format!("{error}"),
                );
                self.done(Done::Refused);
                self.arrived(error.into_given().expect("a refusal gives it back"));
            }
            None => self.done(Done::SwitchTimeout),
        }
        // It may be the last handle.
        drop(target);
    }

    fn payload(&self) -> Payload {
        match self.below(2) {
            0 => Box::new(GreenletExit),
            _ => Box::new("on purpose"),
        }
    }

    fn throw(&self) {
        let Some(target) = self.target() else { return };
        let payload = self.payload();
        match self.limited(|| target.throw(payload)) {
            Some(Ok(token)) => self.arrived(token),
            Some(Err(error)) => check(
                matches!(
                    error,
                    SwitchError::Busy { .. } | SwitchError::Unwinding { .. } | SwitchError::Exit(_)
                ),
                || format!("{error}"),
            ),
            None => {}
        }
        self.done(Done::Throw);
    }

    /// A random one gets another parent.
    fn adopt(&self) {
        let Some(child) = self.random.copy(&self.coroutines) else { return };
        let Some(parent) = (if self.below(4) == 0 { Some(child.clone()) } else { self.target() }) else {
            return;
        };
        match child.set_parent(&parent) {
            Ok(()) => check(child.parent().as_ref() == Some(&parent), || "it is not the parent".to_owned()),
            Err(ParentError::Cycle) => self.done(Done::Cycle),
            Err(error) => fail(&error.to_string()),
        }
    }

    /// A long line of ancestors that have not started: what the youngest returns goes through all of them.
    fn family(self: &Rc<Self>) {
        if self.crowded() || thread::panicking() {
            return;
        }
        let generations = self.below(40);
        let passed = Rc::new(Cell::new(0));
        let mut youngest = Coroutine::<Token>::current();
        for _ in 0..=generations {
            let (guard, passed) = (self.drops.guard(), Rc::clone(&passed));
            let parent = youngest;
            youngest = Coroutine::new(move |token| {
                let _guard = guard;
                passed.set(passed.get() + 1);
                token
            });
            check(youngest.set_parent(&parent).is_ok(), || "no cycle here".to_owned());
        }
        let token = self.token();
        let number = token.number;
        // The last parent is the current one, which waits in this switch: nobody else can come between.
        match youngest.switch(token) {
            Ok(token) => {
                check(token.number == number, || format!("not token {number} but {}", token.number));
                self.arrived(token);
            }
            Err(error) => fail(&error.to_string()),
        }
        check(passed.get() == generations + 1, || format!("{} of {generations} + 1 ran", passed.get()));
        self.done(Done::Family);
    }

    /// Where a coroutine waits for another type than all others do.
    fn wrong_type(self: &Rc<Self>) {
        let number = self.below(1000);
        if let Some(target) = self.target() {
            // The types of handles that were made in this way are free.
            if let Some(parent) = Coroutine::<Token>::parent(&target) {
                check(parent != target, || "its own parent".to_owned());
            }
        }
        match Coroutine::<u64>::main().switch(number) {
            // To oneself.
            Ok(same) => check(same == number, || format!("{same}, not {number}")),
            Err(SwitchError::WrongType { given, .. }) => {
                self.done(Done::WrongType);
                check(given == number, || format!("{given}, not {number}"));
            }
            Err(error) => check(error.into_given() == Some(number), || "it is not given back".to_owned()),
        }
    }
}

// ---- Generators -----------------------------------------------------------------------------------------------------------

impl World {
    fn generator(self: &Rc<Self>, depth: u32) {
        if !self.crowded() {
            let generator = Rc::new(self.new_generator(depth));
            self.generators.borrow_mut().push(generator);
        }
    }

    fn new_generator(self: &Rc<Self>, depth: u32) -> Gen {
        let (world, guard) = (Rc::clone(self), self.drops.guard());
        Generator::new(move |out, first| {
            let _guard = guard;
            world.enter();
            world.arrived(first);
            for _ in 0..world.below(8) {
                match world.below(6) {
                    0 | 1 => world.yield_at(out, world.below(20)),
                    // It may be told to end, and does not.
                    2 => drop(out.try_yield(world.token()).map(|token| world.arrived(token))),
                    3 if depth < 5 => {
                        let inner = world.new_generator(depth + 1);
                        let returned = out.yield_from(&inner, world.token());
                        world.arrived(returned);
                    }
                    _ => world.step(depth + 1),
                }
            }
            world.token()
        })
    }

    /// Yields from some calls deep.
    fn yield_at(&self, out: &Yielder<Token, Token>, depth: u64) {
        let _guard = self.drops.guard();
        match depth {
            0 => self.arrived(out.yield_(self.token())),
            _ => self.yield_at(out, depth - 1),
        }
    }

    fn stepped(&self, step: Step<Token, Token>) {
        match step {
            Step::Yield(token) => self.arrived(token),
            Step::Return(token) => {
                self.done(Done::Returned);
                self.arrived(token);
            }
        }
    }

    fn send(&self) {
        let Some(generator) = self.random.copy(&self.generators) else { return };
        let token = self.token();
        match self.limited(|| generator.send(token)) {
            Some(Ok(step)) => {
                self.done(Done::Send);
                self.stepped(step);
            }
            Some(Err(error)) => {
                if matches!(error, GeneratorError::Closed(_)) {
                    self.generators.borrow_mut().retain(|other| !Rc::ptr_eq(other, &generator));
                }
                self.arrived(error.into_given());
            }
            None => {}
        }
    }

    fn close(&self) {
        let Some(generator) = self.random.copy(&self.generators) else { return };
        match self.limited(|| generator.close()) {
            Some(Ok(Some(token))) => self.arrived(token),
            Some(Ok(None)) => self.done(Done::Closed),
            Some(Err(CloseError::Ignored(token))) => {
                self.done(Done::CloseIgnored);
                self.arrived(token);
            }
            _ => {}
        }
    }

    fn throw_into_generator(&self) {
        let Some(generator) = self.random.copy(&self.generators) else { return };
        let payload = self.payload();
        if let Some(Ok(step)) = self.limited(|| generator.throw(payload)) {
            self.done(Done::GeneratorThrow);
            self.stepped(step);
        }
    }
}

// ---- Runs -----------------------------------------------------------------------------------------------------------------

impl World {
    /// Runs that many operations of main; those that it spawns do more.
    fn run(self: &Rc<Self>, operations: u32) {
        let reaper = spawn({
            // So that nobody waits for ever: many wait for what need not come.
            let (world, pause) = (Rc::downgrade(self), self.unit * 100);
            move || {
                while let Some(world) = world.upgrade() {
                    world.kill_old(pause * 3);
                    drop(world);
                    sleep(pause);
                }
            }
        });
        for _ in 0..operations {
            // Sockets keep more of them waiting.
            for _ in 0..if self.sockets.is_some() { 4 } else { 1 } {
                self.spawn(0);
            }
            // What it raises is its own doing: nobody knows main's handle, but its own destructors.
            drop(catch(|| timeout(self.unit * 200, || self.step(0))));
        }
        // A kill that is still to be delivered.
        drop(catch(yield_now));
        self.end();
        reaper.kill();
    }

    /// Ends what is left.
    fn end(&self) {
        loop {
            self.greenlets.take();
            self.coroutines.take();
            self.generators.take();
            if let Some(sockets) = &self.sockets {
                sockets.drop_all();
            }
            self.kill_old(Duration::ZERO);
            // The reaper.
            if testing::live() == 1 {
                break;
            }
            sleep(self.unit);
        }
    }

    /// Looks for what was left behind. Gives the trace.
    fn look(self: Rc<Self>) -> u64 {
        check((testing::live(), testing::stack_counts().0) == (0, 0), || {
            format!("{} tasks are left, and {} stacks", testing::live(), testing::stack_counts().0)
        });
        let (made, dropped) = (self.drops.made(), self.drops.count());
        check(made == dropped, || format!("{made} values were made, {dropped} dropped"));
        let references = Rc::strong_count(&self);
        check(references == 1, || format!("{references} references to the world are left"));
        self.trace.get()
    }
}

fn run(seed: u64, operations: u32) -> Rc<World> {
    let world = World::new(seed);
    world.run(operations);
    world
}

fn run_on_thread(seed: u64, operations: u32) -> u64 {
    thread::spawn(move || run(seed, operations).look()).join().unwrap()
}

/// Bytes of memory that the process takes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Runs rounds that are all the same size. The first few may take memory and descriptors; the others may not.
fn leaves_nothing(warm_up: u64, rounds: u64, round: impl Fn(u64)) {
    let mut before = (0, 0);
    for n in 0..rounds {
        if n == warm_up {
            before = (resident(), open_fds());
        }
        round(n);
    }
    let after = (resident(), open_fds());
    println!("{before:?} {after:?}");
    check(after.1 == before.1, || format!("{} descriptors, then {}", before.1, after.1));
    check(after.0 <= before.0 + (16 << 20), || format!("{} bytes, then {}", before.0, after.0));
}

fn variable(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs seeds in child processes, some in each.
fn many_seeds(test: &str, first: u64, count: u64, run: impl Fn(u64)) {
    const EACH: u64 = 25;
    let first = variable("SWITCHGRASS_STRESS_SEED", first);
    let count = variable("SWITCHGRASS_STRESS_COUNT", count);
    for start in (first..first + count).step_by(EACH as usize) {
        time_limit();
        let seeds = EACH.min(first + count - start);
        in_child_with(test, &format!("{start} {seeds}"), |seeds| {
            refuse_panics();
            let (start, seeds) = seeds.split_once(' ').unwrap();
            let (start, seeds) = (start.parse::<u64>().unwrap(), seeds.parse().unwrap());
            leaves_nothing(5.min(seeds / 2), seeds, |n| {
                time_limit();
                println!("seed {}", start + n);
                run(start + n);
            });
        });
        if env::var_os("SWITCHGRASS_TEST_CHILD").is_some() {
            return;
        }
    }
}

#[test]
fn thousands_of_random_operations_leave_nothing_behind_and_are_the_same_in_each_run() {
    in_child(
        "stress::thousands_of_random_operations_leave_nothing_behind_and_are_the_same_in_each_run",
        || {
            time_limit();
            refuse_panics();
            let first = thread::spawn(|| {
                let world = run(1, 3000);
                let done = *world.done.borrow();
                (world.look(), done)
            });
            let (first, done) = first.join().unwrap();
            println!("{done:?}");
            for kind in 0..=Done::GeneratorThrow as usize {
                assert!(done[kind] > 3, "operation {kind} was done too rarely: {done:?}");
            }
            assert_eq!(first, run_on_thread(1, 3000));
        },
    );
}

#[test]
fn random_operations_from_other_seeds_leave_nothing_behind() {
    in_child("stress::random_operations_from_other_seeds_leave_nothing_behind", || {
        time_limit();
        refuse_panics();
        leaves_nothing(10, 30, |seed| {
            run_on_thread(seed, 100);
        });
    });
}

#[test]
#[ignore = "takes a minute"]
fn random_operations_from_a_thousand_seeds_leave_nothing_behind() {
    many_seeds("stress::random_operations_from_a_thousand_seeds_leave_nothing_behind", 100, 1000, |seed| {
        run_on_thread(seed, 1000);
    });
}

#[test]
fn runs_one_after_the_other_on_one_thread_leave_nothing_behind() {
    in_child("stress::runs_one_after_the_other_on_one_thread_leave_nothing_behind", || {
        time_limit();
        refuse_panics();
        leaves_nothing(10, 30, |seed| {
            run(seed, 100).look();
        });
    });
}

#[test]
fn a_thread_that_ends_in_the_middle_of_random_operations_has_run_all_destructors() {
    in_child("stress::a_thread_that_ends_in_the_middle_of_random_operations_has_run_all_destructors", || {
        time_limit();
        refuse_panics();
        for seed in 20..60 {
            let drops = thread::spawn(move || {
                let world = World::new(seed);
                for _ in 0..100 {
                    world.spawn(0);
                    drop(catch(|| timeout(secs(1), || world.step(0))));
                }
                drop(catch(yield_now));
                check(testing::live() > 0, || "nothing lives".to_owned());
                world.drops.clone()
            })
            .join()
            .unwrap();
            assert_eq!(drops.count(), drops.made(), "seed {seed}");
        }
    });
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
        let random = Random::new(7);
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
