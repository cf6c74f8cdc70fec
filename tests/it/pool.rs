//! Groups and pools: gevent.md 2.5, §5 item 21, and the lines on `imap` of §4.2.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use switchgrass::pool::{Group, Pool, PoolFull};
use switchgrass::{GreenletExit, park, sleep, spawn, testing, timeout, yield_now};

use crate::util::{
    Clock, Drops, HOUR, Log, OnDrop, Payload, catch, forever, is_exit, secs, text, time_limit,
};

const SECOND: Duration = Duration::from_secs(1);

fn oops() -> ! {
    std::panic::resume_unwind(Box::new("oops"))
}

/// Counts how many run at once.
#[derive(Clone, Default)]
struct Gauge(Rc<(Cell<usize>, Cell<usize>)>);

impl Gauge {
    fn enter(&self) -> OnDrop<impl FnMut() + use<>> {
        let Gauge(counts) = self.clone();
        counts.0.set(counts.0.get() + 1);
        counts.1.set(counts.1.get().max(counts.0.get()));
        OnDrop(move || counts.0.set(counts.0.get() - 1))
    }

    fn now(&self) -> usize {
        self.0.0.get()
    }

    fn most(&self) -> usize {
        self.0.1.get()
    }
}

/// Fills a pool with greenlets that never end.
fn fill(pool: &Pool) {
    while pool.try_spawn(|| forever()).is_ok() {}
}

#[test]
fn a_group_knows_its_greenlets_until_they_end() {
    let group = Group::new();
    assert!(group.is_empty());
    let (long, short) = (group.spawn(|| forever()), group.spawn(|| 1));
    assert_eq!(group.len(), 2);
    assert!(group.contains(&long.handle()) && group.contains(&short.handle()));
    assert_eq!(group.iter().map(|handle| handle.id()).collect::<Vec<_>>(), [long.id(), short.id()]);
    let short_handle = short.handle();
    assert_eq!(short.join().unwrap(), 1);
    assert_eq!(group.len(), 1);
    assert!(!group.contains(&short_handle));
    assert!(group.discard(&long.handle()) && !group.discard(&long.handle()));
    assert!(group.is_empty());
    assert!(!long.is_ready(), "it goes on outside");
    long.kill();
}

#[test]
fn a_group_takes_in_greenlets_of_others() {
    let group = Group::new();
    let other = spawn(yield_now);
    group.add(&other.handle());
    assert!(group.contains(&other.handle()) && group.len() == 1);
    assert!(group.join());
    assert!(other.is_ready() && group.is_empty());
    group.add(&other.handle());
    assert!(group.is_empty(), "it has ended before");

    let (give, take) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let greenlet = spawn(|| forever());
        give.send(greenlet.handle()).unwrap();
        greenlet.join().is_err()
    });
    let elsewhere = take.recv().unwrap();
    group.add(&elsewhere);
    group.kill();
    assert!(elsewhere.is_ready() && group.is_empty());
    assert!(thread.join().unwrap());
}

#[test]
fn those_who_were_added_and_have_ended_are_let_go() {
    let (group, drops) = (Group::new(), Drops::new());
    for _ in 0..1_000 {
        let guard = drops.guard();
        let greenlet = spawn(move || guard);
        group.add(&greenlet.handle());
        drop(greenlet);
        yield_now();
    }
    assert_eq!((group.len(), drops.count()), (0, 1_000));
}

#[test]
fn join_waits_for_all_also_for_those_who_come_meanwhile() {
    let clock = Clock::start();
    let group = Group::new();
    assert!(group.join(), "nobody is there: at once");
    assert!(group.join_timeout(Duration::ZERO));
    group.spawn({
        let group = group.clone();
        move || {
            sleep(SECOND);
            group.spawn(|| sleep(SECOND));
        }
    });
    assert!(!group.join_timeout(SECOND / 2));
    assert_eq!(clock.elapsed(), SECOND / 2);
    assert!(group.join());
    assert_eq!(clock.elapsed(), 2 * SECOND);
}

#[test]
fn a_member_that_joins_its_group_does_not_wait_for_itself() {
    let group = Group::new();
    let log = Log::new();
    let own = group.spawn({
        let (group, log) = (group.clone(), log.clone());
        move || {
            log.add(format!("{}", group.join()));
        }
    });
    group.spawn({
        let log = log.clone();
        move || log.add("other")
    });
    own.join().unwrap();
    assert_eq!(log.take(), "other true");
}

#[test]
fn a_kill_is_fired_once_at_each_even_if_it_is_caught() {
    let (group, log) = (Group::new(), Log::new());
    for name in ["a", "b"] {
        let log = log.clone();
        group.spawn(move || {
            let caught: Result<(), Payload> = catch(|| forever());
            assert!(caught.unwrap_err().is::<GreenletExit>());
            log.add(name);
            for _ in 0..10 {
                yield_now();
            }
            log.add(format!("{name}-done"));
        });
    }
    yield_now();
    group.kill();
    assert_eq!(log.take(), "a b a-done b-done");
    assert!(group.is_empty());
}

#[test]
fn a_kill_includes_those_who_join_meanwhile() {
    let (group, log) = (Group::new(), Log::new());
    group.spawn({
        let (group, log) = (group.clone(), log.clone());
        move || {
            let _ = catch(|| forever());
            let born_dead = group.spawn(|| unreachable!("it was killed before it ran"));
            let added = spawn(|| forever());
            group.add(&added.handle());
            log.add(format!("{} {}", is_exit(&born_dead.join()), is_exit(&added.join())));
        }
    });
    yield_now();
    group.kill();
    assert_eq!(log.take(), "true true");
    // It is over: the group can be used again.
    assert_eq!(group.spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn a_kill_of_those_who_never_ran_drops_what_they_had() {
    let (group, drops) = (Group::new(), Drops::new());
    let guard = drops.guard();
    let greenlet = group.spawn(move || drop(guard));
    group.kill();
    assert_eq!(drops.count(), 1);
    assert!(is_exit(&greenlet.join()));
}

#[test]
fn kill_timeout_gives_up_waiting_and_says_so() {
    let clock = Clock::start();
    let group = Group::new();
    let stubborn = group.spawn(|| {
        let _ = catch(|| forever());
        sleep(secs(10));
    });
    yield_now();
    assert!(!group.kill_timeout(SECOND));
    assert_eq!(clock.elapsed(), SECOND);
    assert!(group.join());
    assert!(stubborn.is_ready() && group.kill_timeout(Duration::ZERO));
    assert_eq!(clock.elapsed(), secs(10));
}

#[test]
fn a_member_that_kills_its_group_goes_last() {
    let (group, log) = (Group::new(), Log::new());
    for name in ["a", "b"] {
        let on_drop = log.on_drop(name);
        group.spawn(move || {
            let _on_drop = on_drop;
            forever()
        });
    }
    let own = group.spawn({
        let (group, on_drop) = (group.clone(), log.on_drop("own"));
        move || {
            let _on_drop = on_drop;
            group.kill();
        }
    });
    assert!(is_exit(&own.join()));
    assert_eq!(log.take(), "a b own");
    assert!(group.is_empty());
}

#[test]
fn a_full_pool_makes_who_spawns_wait_in_line() {
    let (pool, gauge, log) = (Pool::new(2), Gauge::default(), Log::new());
    let spawning: Vec<_> = (0..6)
        .map(|n| {
            let (pool, gauge, log) = (pool.clone(), gauge.clone(), log.clone());
            spawn(move || {
                pool.spawn(move || {
                    let _inside = gauge.enter();
                    yield_now();
                    log.add(n.to_string());
                });
            })
        })
        .collect();
    assert_eq!((pool.size(), pool.free_count(), pool.is_full()), (2, 2, false));
    yield_now();
    assert_eq!((pool.free_count(), pool.is_full(), pool.len()), (0, true, 2));
    switchgrass::joinall(&spawning);
    assert!(pool.join());
    assert_eq!((gauge.most(), pool.free_count()), (2, 2));
    assert_eq!(log.take(), "0 1 2 3 4 5");
}

#[test]
fn a_full_pool_gives_back_what_it_does_not_take() {
    let clock = Clock::start();
    let pool = Pool::new(1);
    let first = pool.spawn(|| sleep(secs(3)));
    let PoolFull(back) = pool.try_spawn(|| "run by hand").unwrap_err();
    assert_eq!(back(), "run by hand");
    let PoolFull(back) = pool.spawn_timeout(SECOND, || 2).unwrap_err();
    assert_eq!((back(), clock.elapsed()), (2, SECOND));
    assert_eq!(pool.spawn_timeout(HOUR, || 3).unwrap().join().unwrap(), 3);
    assert_eq!(clock.elapsed(), secs(3));
    assert!(first.is_ready());
    assert_eq!(pool.try_spawn(|| 4).unwrap().join().unwrap(), 4);
}

#[test]
fn wait_available_leaves_the_slot_to_others() {
    let clock = Clock::start();
    let pool = Pool::new(1);
    assert!(pool.wait_available());
    pool.spawn(|| sleep(secs(2)));
    assert!(!pool.wait_available_timeout(SECOND));
    assert!(pool.wait_available());
    assert_eq!((pool.free_count(), clock.elapsed()), (1, secs(2)));
}

#[test]
fn a_pool_without_slots_runs_nothing() {
    testing::virtual_clock();
    let pool = Pool::new(0);
    assert!(pool.is_full() && pool.join());
    assert!(pool.try_spawn(|| ()).is_err());
    assert!(timeout(SECOND, || pool.spawn(|| ())).is_err());
    assert!(timeout(SECOND, || pool.map([1], |n| n)).is_err());
    assert!(pool.map([0; 0], |n| n).is_empty());
    assert!(pool.is_empty());
}

#[test]
fn no_slot_is_lost_however_a_greenlet_ends() {
    testing::virtual_clock();
    let pool = Pool::new(1);
    // Killed before it ran.
    pool.spawn(|| ()).kill();
    assert_eq!(pool.free_count(), 1);
    // Panicked.
    assert!(pool.spawn(|| oops()).join().is_err());
    assert_eq!(pool.free_count(), 1);
    // Killed while it ran.
    let running = pool.spawn(|| forever());
    yield_now();
    running.kill();
    assert_eq!(pool.free_count(), 1);
    // Killed, or timed out, while it waits in `spawn`.
    let holder = pool.spawn(park);
    let spawner = spawn({
        let pool = pool.clone();
        move || pool.spawn(|| ())
    });
    assert!(timeout(SECOND, || pool.spawn(|| ())).is_err());
    spawner.kill();
    assert_eq!(pool.free_count(), 0);
    // Killed when it had been given the slot, and had not run on.
    let spawner = spawn({
        let pool = pool.clone();
        move || pool.spawn(|| ())
    });
    yield_now();
    assert!(pool.discard(&holder.handle()));
    spawner.kill_nowait();
    assert!(is_exit(&spawner.join().map(drop)));
    assert_eq!((pool.free_count(), pool.len()), (1, 0));
    holder.kill();
}

#[test]
fn a_discarded_greenlet_frees_its_slot_once() {
    let pool = Pool::new(1);
    let first = pool.spawn(|| forever());
    assert!(pool.discard(&first.handle()) && !pool.discard(&first.handle()));
    assert_eq!((pool.free_count(), pool.len()), (1, 0));
    let second = pool.spawn(|| forever());
    first.kill();
    assert_eq!((pool.free_count(), pool.len()), (0, 1), "the end of the first frees nothing more");
    second.kill();
    assert_eq!(pool.free_count(), 1);
}

#[test]
fn a_kill_of_a_pool_lets_those_in_who_wait_for_a_slot() {
    let pool = Pool::new(1);
    fill(&pool);
    let spawner = spawn({
        let pool = pool.clone();
        move || pool.spawn(|| 7).join()
    });
    yield_now();
    pool.kill();
    let result = spawner.join().unwrap();
    assert!(is_exit(&result) || result.unwrap() == 7);
    assert_eq!((pool.free_count(), pool.is_empty()), (1, true));
}

#[test]
fn apply_runs_in_a_greenlet_of_the_pool_and_gives_its_result() {
    let pool = Pool::new(1);
    let main = switchgrass::current().id();
    assert_ne!(pool.apply(|| switchgrass::current().id()), main);
    assert_eq!(text(&catch(|| pool.apply(|| oops())).unwrap_err()), "oops");
    assert_eq!(pool.free_count(), 1);
}

#[test]
fn a_worker_of_a_full_pool_that_applies_or_maps_does_not_wait_for_its_own_slot() {
    time_limit();
    let pool = Pool::new(1);
    let worker = pool.spawn({
        let pool = pool.clone();
        move || {
            let own = switchgrass::current().id();
            let inner = pool.clone();
            assert_eq!(pool.apply(move || inner.apply(|| switchgrass::current().id())), own);
            let mut unordered: Vec<_> = pool.imap_unordered(1..=3, |n| n * 10).map(Result::unwrap).collect();
            unordered.sort_unstable();
            assert_eq!(unordered, [10, 20, 30]);
            let errors = pool.imap(1..=3, |n| if n == 2 { oops() } else { n }).filter(Result::is_err).count();
            assert_eq!(errors, 1);
            pool.map(1..=3, |n| n + 1)
        }
    });
    assert_eq!(worker.join().unwrap(), [2, 3, 4]);
    assert_eq!(pool.free_count(), 1);
}

#[test]
fn a_kill_of_a_worker_that_maps_in_place_is_its_own() {
    let pool = Pool::new(1);
    let worker = pool.spawn({
        let pool = pool.clone();
        move || pool.map([1], |_| forever()).len()
    });
    yield_now();
    worker.kill();
    assert!(is_exit(&worker.join()));
}

#[test]
fn a_greenlet_whose_result_nobody_waits_for_any_more_is_killed() {
    testing::virtual_clock();
    let (pool, drops) = (Pool::new(1), Drops::new());
    let guard = drops.guard();
    let waited = timeout(SECOND, || {
        pool.apply(move || {
            let _guard = guard;
            forever()
        })
    });
    assert!(waited.is_err());
    assert!(pool.join());
    assert_eq!(drops.count(), 1);
}

#[test]
fn map_keeps_the_order_whoever_is_first() {
    testing::virtual_clock();
    let pool = Pool::new(3);
    let nap = |n: u64| {
        sleep(Duration::from_millis((n * 7) % 5));
        n * n
    };
    let squares: Vec<_> = (0..20).map(|n| n * n).collect();
    assert_eq!(pool.map(0..20, nap), squares);
    assert_eq!(Group::new().map(0..20, nap), squares);
}

#[test]
fn map_raises_the_first_error_and_leaves_nothing_running() {
    testing::virtual_clock();
    for pool in [Pool::new(2), Pool::new(10)] {
        let before = testing::live();
        let panic = catch(|| {
            pool.map(0..10, |n: u64| {
                sleep(Duration::from_secs(10 - n));
                if n > 2 {
                    std::panic::resume_unwind(Box::new(format!("item {n}")));
                }
            })
        });
        assert_eq!(text(&panic.unwrap_err()), "item 3");
        assert_eq!((pool.len(), pool.free_count(), testing::live()), (0, pool.size(), before));
    }
    let group = Group::new();
    let panic = catch(|| group.map([()], |()| switchgrass::current().kill())).unwrap_err();
    assert!(text(&panic).contains("was killed before it had a result"), "the caller was not");
}

#[test]
fn imap_takes_items_only_as_they_are_needed() {
    let (pool, taken, gauge) = (Pool::new(3), Rc::new(Cell::new(0)), Gauge::default());
    let items = {
        let taken = Rc::clone(&taken);
        (0..).inspect(move |_| taken.set(taken.get() + 1))
    };
    let work = {
        let gauge = gauge.clone();
        move |n: usize| {
            let _inside = gauge.enter();
            yield_now();
            n
        }
    };
    let mut results = pool.imap(items, work);
    assert_eq!(taken.get(), 0, "nothing was asked for");
    for n in 0..10 {
        assert_eq!(results.next().unwrap().unwrap(), n);
        // Those given out, and what may be on its way: the size, and one.
        assert!(taken.get() <= n + 1 + 3 + 1, "{} were taken for {n}", taken.get());
        yield_now();
    }
    assert_eq!(gauge.most(), 3);
    drop(results);
    assert_eq!((gauge.now(), pool.free_count()), (0, 3));
}

#[test]
fn imap_unordered_gives_what_comes_first_and_is_bounded() {
    testing::virtual_clock();
    let (pool, taken) = (Pool::new(2), Rc::new(Cell::new(0)));
    let naps = [7, 1, 3, 1, 1];
    let items = {
        let taken = Rc::clone(&taken);
        naps.into_iter().inspect(move |_| taken.set(taken.get() + 1))
    };
    let nap = |seconds| {
        sleep(Duration::from_secs(seconds));
        seconds
    };
    let mut results = pool.imap_unordered(items, nap);
    let mut got = Vec::new();
    for result in results.by_ref() {
        got.push(result.unwrap());
        assert!(taken.get() <= got.len() + 2 + 1);
    }
    assert_eq!(got, [1, 3, 1, 1, 7]);
    assert!(results.next().is_none());
}

#[test]
fn after_an_items_panic_the_iteration_goes_on() {
    let pool = Pool::new(2);
    let work = |n: i32| if n % 2 == 0 { oops() } else { n };
    let show = |result: Result<i32, Payload>| match result {
        Ok(n) => n.to_string(),
        Err(payload) => text(&payload).to_owned(),
    };
    assert_eq!(pool.imap(1..=5, work).map(show).collect::<Vec<_>>(), ["1", "oops", "3", "oops", "5"]);
    let mut unordered: Vec<_> = pool.imap_unordered(1..=5, work).map(show).collect();
    unordered.sort();
    assert_eq!(unordered, ["1", "3", "5", "oops", "oops"]);
    assert_eq!(pool.free_count(), 2);
}

#[test]
fn an_item_whose_greenlet_is_killed_is_an_error_also_before_it_ran() {
    let pool = Pool::new(2);
    let mut ordered = pool.imap::<_, _, ()>([()], |()| forever());
    let mut unordered = pool.imap_unordered::<_, _, ()>([()], |()| forever());
    let killer = spawn({
        let pool = pool.clone();
        move || pool.kill()
    });
    assert!(is_exit(&ordered.next().unwrap()));
    killer.join().unwrap();

    let killer = spawn({
        let pool = pool.clone();
        move || {
            yield_now();
            pool.iter().for_each(|handle| handle.kill_nowait());
        }
    });
    assert!(is_exit(&unordered.next().unwrap()));
    killer.join().unwrap();
    assert!(ordered.next().is_none() && unordered.next().is_none());
}

#[test]
fn a_panic_of_the_input_is_the_iterations_panic() {
    let pool = Pool::new(2);
    let items = || {
        (0..5).inspect(|&n| {
            if n == 3 {
                oops()
            }
        })
    };
    let mut results = pool.imap(items(), |n| n);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    assert_eq!(results.next().unwrap().unwrap(), 1);
    assert_eq!(text(&catch(|| results.next()).map(drop).unwrap_err()), "oops");
    // What was begun is not lost by it.
    assert_eq!(results.next().unwrap().unwrap(), 2);
    drop(results);

    assert_eq!(text(&catch(|| pool.map(items(), |n| n)).unwrap_err()), "oops");
    let unordered = pool.imap_unordered(items(), |n| n);
    assert_eq!(text(&catch(|| unordered.count()).unwrap_err()), "oops");
    assert!(pool.join());
    assert_eq!(pool.free_count(), 2);
}

#[test]
fn an_empty_input_ends_at_once_even_if_the_pool_is_full() {
    time_limit();
    let pool = Pool::new(1);
    fill(&pool);
    let nothing = || std::iter::empty::<i32>();
    assert!(pool.imap(nothing(), |n| n).next().is_none());
    assert!(pool.imap_unordered(nothing(), |n| n).next().is_none());
    assert!(pool.map(nothing(), |n| n).is_empty());
    assert!(Group::new().imap_unordered(nothing(), |n| n).next().is_none());
    pool.kill();
}

#[test]
fn an_iteration_waits_for_a_slot_that_others_have() {
    let clock = Clock::start();
    let pool = Pool::new(1);
    pool.spawn(|| sleep(SECOND));
    assert_eq!(pool.map(0..3, |n| n), [0, 1, 2]);
    assert_eq!(clock.elapsed(), SECOND);
}

#[test]
fn two_iterations_share_a_pool() {
    let (pool, gauge) = (Pool::new(2), Gauge::default());
    let map = || {
        let (pool, gauge) = (pool.clone(), gauge.clone());
        spawn(move || {
            pool.map(0..20, move |n| {
                let _inside = gauge.enter();
                yield_now();
                n
            })
        })
    };
    let both = [map(), map()];
    for greenlet in both {
        assert_eq!(greenlet.join().unwrap(), (0..20).collect::<Vec<_>>());
    }
    assert_eq!((gauge.most(), pool.free_count()), (2, 2));
}

#[test]
fn what_interrupts_an_iteration_loses_nothing() {
    testing::virtual_clock();
    let pool = Pool::new(2);
    let nap = |seconds| {
        sleep(Duration::from_secs(seconds));
        seconds
    };
    fn all(mut results: impl Iterator<Item = Result<u64, Payload>>) -> (Vec<u64>, usize) {
        let (mut got, mut interrupted) = (Vec::new(), 0);
        loop {
            match timeout(SECOND * 3 / 4, || results.next()) {
                Err(_) => interrupted += 1,
                Ok(None) => return (got, interrupted),
                Ok(Some(result)) => got.push(result.unwrap()),
            }
        }
    }
    let (got, interrupted) = all(pool.imap([3, 1, 2, 1], nap));
    assert_eq!(got, [3, 1, 2, 1]);
    assert!(interrupted >= 3);
    let (got, interrupted) = all(pool.imap_unordered([3, 1, 2, 1], nap));
    assert_eq!(got, [1, 3, 2, 1]);
    assert!(interrupted >= 3);

    // Also while it waits for a slot.
    let blocker = pool.spawn(|| sleep(secs(2)));
    let other = pool.spawn(|| sleep(secs(2)));
    let (got, interrupted) = all(pool.imap([1, 1], nap));
    assert_eq!(got, [1, 1]);
    assert!(interrupted >= 2 && blocker.is_ready() && other.is_ready());
}

#[test]
fn dropping_an_iteration_early_leaves_nothing_running() {
    let (pool, drops, before) = (Pool::new(3), Drops::new(), testing::live());
    let items = || {
        let drops = drops.clone();
        (0..10).map(move |n| (n, drops.guard()))
    };
    let work = |(n, guard)| {
        let _guard = guard;
        if n > 0 {
            forever();
        }
    };
    let mut ordered = pool.imap(items(), work);
    ordered.next().unwrap().unwrap();
    drop(ordered);
    assert_eq!((drops.count(), testing::live(), pool.free_count()), (drops.made(), before, 3));

    let mut unordered = pool.imap_unordered(items(), work);
    unordered.next().unwrap().unwrap();
    drop(unordered);
    assert_eq!((drops.count(), testing::live(), pool.free_count()), (drops.made(), before, 3));

    // By a kill, which cannot wait while it unwinds.
    let user = spawn({
        let (pool, items) = (pool.clone(), items());
        move || pool.map(items, work).len()
    });
    yield_now();
    yield_now();
    assert!(!pool.is_empty());
    user.kill();
    assert!(pool.join());
    assert_eq!((drops.count(), testing::live(), pool.free_count()), (drops.made(), before, 3), "{user:?}");
}

#[test]
fn a_destructor_that_unwinds_may_use_a_pool() {
    struct Uses(Pool, Rc<RefCell<Vec<String>>>);
    impl Drop for Uses {
        fn drop(&mut self) {
            let Uses(pool, seen) = self;
            let note = |text: String| seen.borrow_mut().push(text);
            note(format!("{}", pool.try_spawn(|| ()).is_ok()));
            note(format!("{}", pool.spawn_timeout(HOUR, || ()).is_ok()));
            note(format!("{}", pool.apply(|| 1)));
            note(format!("{:?}", pool.map(0..3, |n| n)));
            note(format!("{}", pool.join()));
            note(format!("{}", pool.wait_available()));
        }
    }
    let (pool, seen) = (Pool::new(1), Rc::default());
    let uses = Uses(pool.clone(), Rc::clone(&seen));
    let panicked = spawn(move || -> () {
        let _uses = uses;
        oops()
    });
    assert!(panicked.join().is_err());
    assert_eq!(*seen.borrow(), ["true", "false", "1", "[0, 1, 2]", "false", "false"]);
    assert!(pool.join());
    assert_eq!(pool.free_count(), 1);
}

#[test]
fn slots_are_conserved_whatever_happens_at_random() {
    time_limit();
    testing::virtual_clock();
    let mut state = 42_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (pool, gauge) = (Pool::new(4), Gauge::default());
    let before = testing::live();
    for _ in 0..300 {
        let spawners: Vec<_> = (0..10)
            .map(|_| {
                let (pool, gauge) = (pool.clone(), gauge.clone());
                let (nap, fate, limit) = (random(5), random(6), random(8));
                spawn(move || {
                    let work = {
                        let pool = pool.clone();
                        move || {
                            let _inside = gauge.enter();
                            sleep(Duration::from_millis(nap));
                            match fate {
                                0 => oops(),
                                1 => switchgrass::current().kill(),
                                2 => pool.apply(yield_now),
                                _ => {}
                            }
                        }
                    };
                    if fate == 3 {
                        let _ = pool.spawn_timeout(Duration::from_millis(limit), work);
                    } else if fate == 4 {
                        pool.imap_unordered(0..limit, move |_| work.clone()()).take(2).for_each(drop);
                    } else {
                        pool.spawn(work);
                    }
                })
            })
            .collect();
        for _ in 0..random(4) {
            yield_now();
        }
        for spawner in &spawners {
            if random(4) == 0 {
                spawner.kill_nowait();
            }
        }
        if random(10) == 0 {
            pool.kill();
        }
        switchgrass::joinall(&spawners);
    }
    assert!(pool.join());
    assert_eq!((pool.free_count(), pool.len(), gauge.now(), testing::live()), (4, 0, 0, before));
    assert!(gauge.most() <= 4, "{} at once", gauge.most());
}
