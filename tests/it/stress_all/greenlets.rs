//! Greenlets that end, wait for each other, kill each other; pools, limits, destructors, jobs.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use switchgrass::pool::Pool;
use switchgrass::{
    Greenlet, Handle, Timeout, block_on, current, green_local, joinall, joinall_raise, joinall_timeout,
    killall, killall_timeout, park_timeout, scope, sleep, spawn, spawn_later, threadpool, timeout, unblock,
    yield_now,
};

use super::Place::{Anywhere, Greenlets, Nested, Threads};
use super::{Actor, CROWD, Local, Made, Operation, check, operation};
use crate::util::{DropGuard, OnDrop, catch};

pub(super) const OPERATIONS: &[Operation] = &[
    operation("yield", Anywhere, |_| yield_now()),
    operation("sleep", Anywhere, |actor| sleep(actor.time())),
    operation("park", Anywhere, |actor| park_timeout(actor.time())),
    operation("unpark", Anywhere, unpark),
    operation("kill", Anywhere, kill),
    operation("unblock", Threads, run_a_job),
    operation("spawn", Greenlets, spawn_one),
    operation("join", Greenlets, join),
    operation("let go", Greenlets, |actor| drop(actor.take())),
    operation("unstarted", Greenlets, unstarted),
    operation("links", Greenlets, link),
    operation("cancel a timeout", Greenlets, cancel_a_timeout),
    operation("green_local", Greenlets, inherit),
    operation("children", Nested, children),
    operation("await", Nested, await_one),
    operation("scope", Nested, in_a_scope),
    operation("timeout", Nested, limit),
    operation("catch", Nested, |actor| drop(catch(|| actor.steps(4)))),
    operation("Timeout", Nested, in_a_timeout),
    operation("shared Timeout", Nested, in_a_shared_timeout),
    operation("unwind", Nested, |_| resume_unwind(Box::new("on purpose"))),
    operation("destructor", Nested, in_a_destructor),
    operation("own pool", Nested, own_pool),
    operation("shared pool", Nested, shared_pool),
    operation("group", Nested, group),
];

green_local! {
    /// A request id.
    inherit static REQUEST: Cell<u64> = Cell::new(0);
    /// Dropped with the greenlet.
    static KEPT: RefCell<Option<DropGuard>> = RefCell::new(None);
}

impl Actor {
    fn local(&self) -> &Rc<Local> {
        self.local.as_ref().expect("only where there is one")
    }

    fn is_crowded(&self) -> bool {
        switchgrass::testing::live() > CROWD
    }

    /// A random greenlet of this thread.
    fn take(&self) -> Option<Greenlet<Made>> {
        let mut greenlets = self.local().greenlets.borrow_mut();
        let count = greenlets.len() as u64;
        (count > 0).then(|| greenlets.swap_remove(self.below(count) as usize))
    }

    /// What a greenlet runs, and the number that it returns.
    fn body(&self) -> (u64, impl FnOnce() -> Made + use<>) {
        let (child, number, guard) = (self.child(), self.random.next(), self.world.drops.guard());
        let body = move || {
            let _guard = guard;
            child.enter();
            child.steps(5);
            Made { number, _guard: Rc::new(child.world.drops.guard()) }
        };
        (number, body)
    }
}

fn kill(actor: &Actor) {
    let Some(victim) = actor.victim() else { return };
    match actor.below(3) {
        0 => drop(timeout(actor.time(), || victim.kill())),
        _ => victim.kill_nowait(),
    }
}

fn unpark(actor: &Actor) {
    if let Some(victim) = actor.victim() {
        victim.unpark();
    }
}

fn limit(actor: &Actor) {
    // Either way.
    let _ = timeout(actor.time(), || actor.steps(4));
}

/// On the pool of the run, or that of the process.
fn run_a_job(actor: &Actor) {
    let (world, seed, number) = (Arc::clone(&actor.world), actor.random.next(), actor.random.next());
    let f = move || {
        let job = Actor { is_job: true, ..Actor::new(&world, seed, None) };
        // Not for ever: the threads are few.
        drop(catch(|| timeout(job.time(), || job.steps(4))));
        number
    };
    let result = match actor.below(4) {
        0 => actor.limited(|| unblock(f)),
        1 => actor.limited(|| actor.world.jobs.apply(f)),
        2 => actor.limited(|| actor.world.jobs.spawn(f).join().expect("it is not killed")),
        _ => {
            let borrowed = &number;
            actor
                .limited(|| threadpool::global().scope(|s| s.spawn(|| *borrowed).join().expect("it returns")))
        }
    };
    check(result.is_none_or(|result| result == number), || "another's result".to_owned());
}

fn spawn_one(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let (_, body) = actor.body();
    let greenlet = match actor.below(4) {
        0 => spawn_later(actor.time(), body),
        _ => spawn(body),
    };
    actor.local().greenlets.borrow_mut().push(greenlet);
}

/// With a limit, for two might join each other.
fn join(actor: &Actor) {
    let Some(greenlet) = actor.take() else { return };
    match actor.below(3) {
        0 => drop(timeout(actor.time(), || greenlet.join())),
        1 => drop(greenlet.kill_timeout(actor.time())),
        _ => {
            if let Err(greenlet) = greenlet.join_timeout(actor.time()) {
                actor.local().greenlets.borrow_mut().push(greenlet);
            }
        }
    }
}

fn unstarted(actor: &Actor) {
    let (number, body) = actor.body();
    let greenlet = Greenlet::new(body);
    actor.pause();
    match actor.below(7) {
        0 => {}
        1 => greenlet.kill_nowait(),
        2 => greenlet.kill_nowait_with("on purpose"),
        3 => {
            let handle = greenlet.handle();
            drop(greenlet);
            actor.pause();
            handle.kill_nowait();
        }
        start => {
            match start {
                4 => greenlet.start(),
                _ => greenlet.start_later(actor.time()),
            }
            if start == 6 {
                actor.pause();
                greenlet.kill_nowait();
            }
            if let Ok(Ok(made)) = timeout(actor.time(), || greenlet.join()) {
                check(made.number == number, || "another's result".to_owned());
            }
        }
    }
}

/// Each is called once, or taken back.
fn link(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let (_, body) = actor.body();
    let greenlet = spawn(body);
    for _ in 0..actor.below(4) {
        actor.world.links.0.fetch_add(1, SeqCst);
        let (world, guard) = (actor.world.clone(), actor.world.drops.guard());
        let called = move || {
            let _guard = guard;
            world.links.1.fetch_add(1, SeqCst);
        };
        let link = match actor.below(2) {
            0 => {
                let id = greenlet.id();
                greenlet.link(move |exit| {
                    check(exit.id == id, || "it is told of another's end".to_owned());
                    called();
                })
            }
            _ => greenlet.rawlink(called),
        };
        actor.pause();
        if actor.below(3) == 0 && greenlet.unlink(link) {
            actor.world.links.1.fetch_add(1, SeqCst);
        }
    }
    let guard = actor.world.drops.guard();
    greenlet.link_value(move |made| drop((made, guard)));
    actor.local().greenlets.borrow_mut().push(greenlet);
}

fn inherit(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let request = actor.random.next();
    REQUEST.set(request);
    let guard = actor.world.drops.guard();
    let child = spawn(move || {
        KEPT.with(|kept| *kept.borrow_mut() = Some(guard));
        yield_now();
        REQUEST.get()
    });
    REQUEST.set(0);
    let got = child.join().expect("nobody knows it");
    check(got == request, || format!("it has inherited {got}, not {request}"));
}

fn children(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let (numbers, bodies): (Vec<_>, Vec<_>) = (0..actor.below(4)).map(|_| actor.body()).unzip();
    let greenlets: Vec<_> = bodies.into_iter().map(spawn).collect();
    actor.pause();
    match actor.below(6) {
        0 => drop(actor.limited(|| joinall(&greenlets))),
        1 => drop(joinall_timeout(&greenlets, actor.time())),
        2 => drop(actor.limited(|| killall(&greenlets))),
        3 => drop(killall_timeout(&greenlets, actor.time())),
        4 => {
            if let Some(made) = actor.limited(|| joinall_raise(greenlets)) {
                let made: Vec<_> = made.iter().map(|made| made.number).collect();
                check(made == numbers, || "others' results".to_owned());
            }
        }
        _ => drop(actor.limited(|| {
            for (greenlet, number) in greenlets.into_iter().zip(numbers) {
                if let Ok(made) = greenlet.join() {
                    check(made.number == number, || "another's result".to_owned());
                }
            }
        })),
    }
}

fn await_one(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let (number, body) = actor.body();
    let greenlet = spawn(body);
    if let Some(Ok(made)) = actor.limited(|| block_on(greenlet)) {
        check(made.number == number, || "another's result".to_owned());
    }
}

fn in_a_scope(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    scope(|s| {
        for _ in 0..actor.below(4) {
            let child = actor.child();
            let greenlet = s.spawn(move || {
                child.enter();
                child.steps(4);
            });
            match actor.below(4) {
                0 => drop(greenlet.join_timeout(actor.time())),
                1 => greenlet.kill_nowait(),
                _ => {}
            }
        }
        actor.child().steps(4);
    });
}

/// Started and cancelled by hand.
fn in_a_timeout(actor: &Actor) {
    let mut limit = Timeout::start_new(actor.time());
    let result = catch(|| actor.steps(4));
    if let Err(payload) = result {
        let (is_cause, has_fired) = (limit.is_cause_of(&*payload), limit.has_fired());
        check(has_fired || !is_cause, || "it has not fired".to_owned());
        if !is_cause {
            resume_unwind(payload);
        }
        // It has fired once, and does not any more.
        drop(catch(|| actor.steps(2)));
    } else if actor.below(2) == 0 {
        limit.start();
        limit.cancel();
        sleep(actor.time());
        check(!limit.has_fired(), || "it was cancelled".to_owned());
    }
}

/// Which others cancel, or move on.
fn in_a_shared_timeout(actor: &Actor) {
    let limit = Rc::new(RefCell::new(Timeout::new(actor.time())));
    limit.borrow_mut().start();
    actor.local().timeouts.borrow_mut().push(Rc::clone(&limit));
    actor.pause();
    actor.steps(4);
    if actor.below(2) == 0 {
        limit.borrow_mut().cancel();
    }
}

fn cancel_a_timeout(actor: &Actor) {
    let limit = {
        let mut timeouts = actor.local().timeouts.borrow_mut();
        let count = timeouts.len() as u64;
        (count > 0).then(|| timeouts.swap_remove(actor.below(count) as usize))
    };
    if let Some(limit) = limit {
        limit.borrow_mut().cancel();
    }
}

/// While it unwinds, or not.
fn in_a_destructor(actor: &Actor) {
    let _acts = OnDrop(|| act_in_a_destructor(actor));
    actor.steps(3);
}

fn act_in_a_destructor(actor: &Actor) {
    let locks = &actor.world.locks;
    for _ in 0..actor.below(4) {
        match actor.below(10) {
            0 => locks.event.set(),
            1 => drop(locks.semaphore.0.try_acquire()),
            2 => drop(locks.bounded.0.acquire_timeout(actor.time())),
            3 => current().unpark(),
            4 => drop(actor.victim().map(|victim| Handle::kill_nowait(&victim))),
            5 => yield_now(),
            6 => drop(actor.take()),
            7 => spawn_one(actor),
            8 if thread::panicking() => drop(locks.event.wait()),
            _ => actor.put_or_get_now(),
        }
    }
}

fn own_pool(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let pool = Pool::new(1 + actor.below(3) as usize);
    let world = actor.world.clone();
    let parent = actor.child();
    let count = actor.below(8);
    let f = move |number: u64| {
        let child = parent.child();
        let _guard = child.world.drops.guard();
        child.enter();
        child.pause();
        child.steps(2);
        number * 10
    };
    let expected: Vec<_> = (0..count).map(|number| number * 10).collect();
    actor.limited(|| match actor.below(4) {
        0 => check(pool.map(0..count, f) == expected, || "another order".to_owned()),
        1 => {
            let results = pool.imap(0..count, f);
            let results: Vec<_> = results.map(Result::ok).collect();
            let fits =
                |(result, expected): (&Option<u64>, &u64)| result.is_none_or(|result| result == *expected);
            check(results.len() == expected.len(), || format!("{} results", results.len()));
            check(results.iter().zip(&expected).all(fits), || "another order".to_owned());
        }
        2 => {
            let mut results: Vec<_> = pool.imap_unordered(0..count, f).collect();
            check(results.len() == expected.len(), || format!("{} results", results.len()));
            results.retain(Result::is_ok);
            let mut values: Vec<_> = results.into_iter().flatten().collect();
            values.sort_unstable();
            values.dedup();
            check(values.iter().all(|value| expected.contains(value)), || "other results".to_owned());
        }
        _ => {
            let f = Rc::new(f);
            for number in 0..count {
                let f = Rc::clone(&f);
                drop(pool.spawn(move || f(number)));
                check(pool.len() <= pool.size(), || format!("{pool:?} is too full"));
            }
        }
    });
    match actor.below(3) {
        0 => drop(actor.limited(|| pool.join())),
        1 => drop(actor.limited(|| pool.kill())),
        _ => return,
    }
    if pool.is_empty() {
        check(pool.free_count() == pool.size(), || {
            format!("{} slots of {pool:?} are free", pool.free_count())
        });
    }
    drop(world);
}

/// Always with a limit: its slots may be held by those that wait for them.
fn shared_pool(actor: &Actor) {
    let pool = &actor.local().pool;
    let (number, body) = actor.body();
    match actor.below(5) {
        0 => drop(pool.try_spawn(body)),
        1 => drop(pool.spawn_timeout(actor.time(), body)),
        2 => drop(
            timeout(actor.time(), || pool.apply(body))
                .map(|made| check(made.number == number, || "another's".to_owned())),
        ),
        3 => drop(pool.wait_available_timeout(actor.time())),
        _ => drop(timeout(actor.time(), || pool.spawn(body))),
    }
    check(pool.len() <= pool.size(), || format!("{pool:?} is too full"));
}

fn group(actor: &Actor) {
    if actor.is_crowded() {
        return;
    }
    let group = &actor.local().group;
    let (_, body) = actor.body();
    match actor.below(5) {
        0 => drop(group.spawn(body)),
        1 => {
            let greenlet = spawn(body);
            group.add(&greenlet.handle());
        }
        2 => drop(group.join_timeout(actor.time())),
        3 => drop(group.kill_timeout(actor.time())),
        _ => drop(group.iter().next().map(|handle| group.discard(&handle))),
    }
}
