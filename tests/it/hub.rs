//! The loop: time, fairness, offloaded work, deadlocks.

use std::cell::{Cell, RefCell};
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use switchgrass::{
    Builder, Elapsed, current, joinall, park, park_timeout, sleep, sleep_until, spawn, spawn_later, stats,
    testing, timeout, unblock, yield_now,
};

use crate::util::{Clock, Drops, HOUR, Log, OnDrop, catch, forever, is_exit, secs, text, time_limit};

// ---- Time ---------------------------------------------------------------------------------------------------------------

#[test]
fn two_sleepers_of_two_seconds_and_one_take_two_seconds_together() {
    let clock = Clock::start();
    let log = Log::new();
    let sleepers = [2, 1].map(|n| {
        let log = log.clone();
        spawn(move || {
            log.add(format!("{n}-start"));
            sleep(secs(n));
            log.add(format!("{n}-end"));
        })
    });
    joinall(&sleepers);
    assert_eq!(log.take(), "2-start 1-start 1-end 2-end");
    assert_eq!(clock.elapsed(), secs(2));
}

#[test]
fn a_thousand_sleepers_wake_in_the_order_of_their_deadlines_each_exactly_on_time() {
    let clock = Rc::new(Clock::start());
    let woken = Rc::new(RefCell::new(Vec::new()));
    // Each number below 1000 once, in a scattered order.
    let times: Vec<u64> = (0..1000).map(|n| n * 377 % 1000).collect();
    let sleepers: Vec<_> = times
        .iter()
        .map(|&time| {
            let (clock, woken) = (Rc::clone(&clock), Rc::clone(&woken));
            spawn(move || {
                sleep(secs(time));
                assert_eq!(clock.elapsed(), secs(time));
                woken.borrow_mut().push(time);
            })
        })
        .collect();
    for sleeper in sleepers {
        sleeper.join().unwrap();
    }
    assert_eq!(*woken.borrow(), Vec::from_iter(0..1000));
}

#[test]
fn those_with_the_same_deadline_wake_in_the_order_in_which_they_fell_asleep() {
    Clock::start();
    let log = Log::new();
    let sleepers = ["a", "b", "c"].map(|name| {
        let log = log.clone();
        spawn(move || {
            sleep(secs(1));
            log.add(name);
        })
    });
    joinall(&sleepers);
    assert_eq!(log.take(), "a b c");
}

#[test]
fn a_sleep_of_zero_and_one_until_a_time_that_has_passed_are_yields() {
    let log = Log::new();
    let greenlet = spawn({
        let log = log.clone();
        move || {
            log.add("g1");
            yield_now();
            log.add("g2");
        }
    });
    sleep(Duration::ZERO);
    log.add("m1");
    sleep_until(Instant::now());
    log.add("m2");
    greenlet.join().unwrap();
    assert_eq!(log.take(), "g1 m1 g2 m2");
}

#[test]
fn sleep_until_sleeps_until_then() {
    let clock = Clock::start();
    let before = Instant::now();
    sleep_until(before + HOUR);
    let slept = clock.elapsed();
    assert!(slept <= HOUR && slept >= HOUR - before.elapsed(), "{slept:?}");
}

#[test]
fn a_sleep_longer_than_can_be_counted_does_not_end() {
    let clock = Clock::start();
    let result = timeout(HOUR, || sleep(Duration::MAX));
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), HOUR));
}

#[test]
fn a_longer_sleep_after_a_shorter_wait_and_the_other_way_round_are_both_exact() {
    let clock = Clock::start();
    let sleeper = spawn({
        move || {
            for (time, total) in [(10, 10), (1, 11), (100, 111), (2, 113), (2, 115)] {
                sleep(secs(time));
                assert_eq!(clock.elapsed(), secs(total));
            }
        }
    });
    sleeper.join().unwrap();
}

#[test]
fn a_real_sleep_takes_at_least_its_time() {
    let before = testing::now();
    sleep(Duration::from_millis(2));
    assert!(testing::now() - before >= Duration::from_millis(2));
}

#[test]
fn waits_shorter_than_the_resolution_of_epoll_do_not_spin() {
    let before = stats::here().polls;
    for _ in 0..20 {
        sleep(Duration::from_micros(300));
    }
    let polls = stats::here().polls - before;
    assert!((20..=60).contains(&polls), "{polls} polls for 20 sleeps");
}

#[test]
fn a_computation_before_a_sleep_or_a_limit_shortens_neither() {
    fn compute() {
        // By a clock that the hub does not see being read.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(5) {}
    }
    let short = Duration::from_millis(2);
    spawn(move || {
        compute();
        let before = Instant::now();
        sleep(short);
        assert!(before.elapsed() >= short);

        compute();
        let before = Instant::now();
        assert_eq!(timeout(short, || sleep(HOUR)), Err(Elapsed));
        assert!(before.elapsed() >= short);

        compute();
        let before = Instant::now();
        spawn_later(short, || ()).join().unwrap();
        assert!(before.elapsed() >= short);
    })
    .join()
    .unwrap();
}

// ---- Fairness -----------------------------------------------------------------------------------------------------------

#[test]
fn a_loop_that_only_yields_does_not_starve_a_timer() {
    time_limit();
    let due = Rc::new(Cell::new(false));
    let sleeper = spawn({
        let due = Rc::clone(&due);
        move || {
            sleep(Duration::from_millis(1));
            due.set(true);
        }
    });
    let busy = spawn({
        let due = Rc::clone(&due);
        move || {
            while !due.get() {
                yield_now();
            }
        }
    });
    joinall([&sleeper, &busy]);
    sleeper.join().unwrap();
}

#[test]
fn a_loop_that_only_yields_on_the_main_stack_does_not_starve_a_timer() {
    time_limit();
    let sleeper = spawn(|| sleep(Duration::from_millis(1)));
    while !sleeper.is_ready() {
        yield_now();
    }
    sleeper.join().unwrap();
}

#[test]
fn a_loop_that_only_yields_does_not_starve_a_message_from_another_thread() {
    time_limit();
    let parked = spawn(park);
    yield_now();
    let handle = parked.handle();
    let waker = std::thread::spawn(move || handle.unpark());
    while !parked.is_ready() {
        yield_now();
    }
    waker.join().unwrap();
}

#[test]
fn greenlets_that_yield_all_get_the_same_number_of_turns() {
    let turns = Rc::new(RefCell::new([0; 10]));
    let greenlets: Vec<_> = (0..10)
        .map(|n| {
            let turns = Rc::clone(&turns);
            spawn(move || {
                for turn in 1..=1000 {
                    turns.borrow_mut()[n] = turn;
                    let turns = *turns.borrow();
                    assert!(turns.iter().max().unwrap() - turns.iter().min().unwrap() <= 1);
                    yield_now();
                }
            })
        })
        .collect();
    for greenlet in greenlets {
        greenlet.join().unwrap();
    }
}

// ---- Offloaded work -----------------------------------------------------------------------------------------------------

#[test]
fn unblock_gives_the_result_from_another_thread_while_others_run() {
    time_limit();
    let (go, may_go) = mpsc::channel::<()>();
    let here = std::thread::current().id();
    // The job can end only after the other greenlet has run.
    let blocked = spawn(move || {
        unblock(move || {
            may_go.recv().unwrap();
            std::thread::current().id()
        })
    });
    let other = spawn(move || go.send(()).unwrap());
    assert_ne!(blocked.join().unwrap(), here);
    other.join().unwrap();
}

#[test]
fn unblock_on_the_main_stack_with_nothing_else_to_do_is_no_deadlock() {
    time_limit();
    assert_eq!(unblock(|| 5), 5);
    let greenlet = spawn(|| unblock(|| 6));
    assert_eq!(greenlet.join().unwrap(), 6);
}

#[test]
fn a_panic_of_the_offloaded_job_arrives_where_it_is_waited_for() {
    time_limit();
    let payload = catch(|| unblock(|| panic_any(42_i32))).unwrap_err();
    assert_eq!(*payload.downcast::<i32>().unwrap(), 42);
    assert_eq!(unblock(|| 1), 1);
}

#[test]
fn who_is_killed_while_it_waits_for_an_offloaded_job_abandons_it() {
    time_limit();
    let (go, may_go) = mpsc::channel::<()>();
    let result = Drops::new();
    let (given, gone) = (result.guard(), result.clone());
    let (begin, begun) = mpsc::channel();
    let victim = spawn(move || {
        unblock(move || {
            begin.send(()).unwrap();
            may_go.recv().unwrap();
            given
        });
    });
    yield_now();
    unblock(move || begun.recv()).unwrap();
    victim.kill();
    assert!(is_exit(&victim.join()));
    assert_eq!(gone.count(), 0);
    go.send(()).unwrap();
    // The job goes on, and drops its result over there.
    while gone.count() == 0 {
        yield_now();
    }
}

#[test]
fn more_jobs_than_threads_in_the_pool_all_run() {
    time_limit();
    let jobs: Vec<_> = (0..100).map(|n| spawn(move || unblock(move || n))).collect();
    let sum: i32 = jobs.into_iter().map(|job| job.join().unwrap()).sum();
    assert_eq!(sum, 4950);
}

#[test]
fn in_a_destructor_that_unwinds_unblock_runs_in_place() {
    let ran_on = Rc::new(Cell::new(None));
    let panics = spawn({
        let ran_on = Rc::clone(&ran_on);
        move || {
            let _guard = OnDrop(|| ran_on.set(Some(unblock(|| std::thread::current().id()))));
            panic!("on purpose");
        }
    });
    assert!(panics.join().is_err());
    assert_eq!(ran_on.get(), Some(std::thread::current().id()));
}

#[test]
fn the_first_sleep_of_a_hub_misses_no_wake() {
    time_limit();
    // Each thread has a new hub, which sleeps for the first time while the job ends.
    for _ in 0..500 {
        std::thread::spawn(|| unblock(|| ())).join().unwrap();
    }
}

// ---- Deadlocks ------------------------------------------------------------------------------------------------------------
//
// A joined greenlet that nobody else has a handle of cannot be woken by another thread, so these are found here too, where the
// harness has other threads. See tests/crash.rs for the others.

#[test]
fn a_join_that_can_never_end_panics_with_a_table_of_who_waits_for_what() {
    let stuck = Builder::new().name("stuck").spawn(|| forever()).unwrap();
    let (id, here) = (stuck.id(), current().id());
    let report = catch(|| stuck.join()).map(drop).unwrap_err();
    let expected = [
        "this would block forever".to_owned(),
        format!("main {here} 'hub::a_join_that_can_never_end"),
        format!("waits: join of greenlet {id}"),
        format!("greenlet {id} 'stuck': waits: park; spawned at tests/it/hub.rs:"),
    ];
    for part in &expected {
        assert!(text(&report).contains(part), "no {part:?} in:\n{}", text(&report));
    }
}

#[test]
fn after_a_deadlock_the_loop_goes_on() {
    let log = Log::new();
    let stuck = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            forever();
        }
    });
    assert!(catch(|| stuck.join()).is_err());
    // Other greenlets run, time passes, and the next deadlock is found, too.
    let clock = Clock::start();
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
    sleep(secs(3));
    assert_eq!(clock.elapsed(), secs(3));
    assert!(catch(|| spawn(|| forever()).join()).is_err());
    assert_eq!((log.take().as_str(), testing::live()), ("", 2));
}

#[test]
fn a_greenlet_that_catches_a_deadlock_never_sees_one_since_only_main_is_told() {
    let stuck = spawn(|| forever());
    let joiner = spawn(move || catch(|| stuck.join()).is_err());
    let report = catch(|| joiner.join()).map(drop).unwrap_err();
    assert!(text(&report).contains("join of greenlet"), "{}", text(&report));
    assert_eq!(testing::live(), 2);
}

#[test]
fn greenlets_that_join_each_other_in_a_ring_are_a_deadlock() {
    let slot = Rc::new(RefCell::new(None));
    let first = spawn({
        let slot = Rc::clone(&slot);
        move || {
            let second: switchgrass::Greenlet<()> = slot.take().unwrap();
            second.join().is_ok()
        }
    });
    let second = spawn({
        let first = RefCell::new(Some(first));
        move || drop(first.take().unwrap().join())
    });
    let second_id = second.id();
    *slot.borrow_mut() = Some(second);
    let report = catch(park).unwrap_err();
    assert!(text(&report).contains(&format!("waits: join of greenlet {second_id}")), "{}", text(&report));
}

#[test]
fn main_that_parks_with_nobody_to_wake_it_is_a_deadlock() {
    let report = catch(park).unwrap_err();
    assert!(text(&report).contains("waits: park"), "{}", text(&report));
}

#[test]
fn who_waits_for_a_time_is_no_deadlock() {
    let clock = Clock::start();
    park_timeout(secs(5));
    let later = spawn_later(secs(5), || ());
    later.join().unwrap();
    assert_eq!(timeout(secs(5), || catch(forever_quietly).is_err()), Ok(true));
    assert_eq!(clock.elapsed(), secs(15));
}

fn forever_quietly() {
    forever()
}

#[test]
fn a_deadlock_of_more_than_a_hundred_greenlets_is_cut_short() {
    // Those that look alike are told of once.
    for _ in 0..150 {
        drop(spawn(|| forever()));
    }
    // These do not.
    for children in 0..20 {
        for _ in 0..8 {
            drop(spawn(move || {
                for _ in 0..children {
                    drop(spawn(|| forever()));
                }
                forever()
            }));
        }
    }
    let report = catch(park).unwrap_err();
    assert_eq!(text(&report).matches("150 greenlets (").count(), 1);
    assert_eq!(text(&report).matches(": waits: park").count(), 100);
    assert!(text(&report).ends_with(" more"), "{}", text(&report));
}

/// Panics when it is dropped, unless its thread panics already.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "on purpose");
    }
}

#[test]
fn results_of_abandoned_jobs_that_panic_when_dropped_do_not_use_up_the_pool() {
    time_limit();
    // More than the pool has threads.
    for _ in 0..40 {
        let (go, may_go) = mpsc::channel::<()>();
        let abandoned = timeout(Duration::ZERO, || {
            unblock(move || {
                may_go.recv().unwrap();
                PanicsOnDrop
            })
        });
        assert!(abandoned.is_err());
        // Now nobody waits for the result: the thread of the pool drops it. (If the job had not begun, it was taken back.)
        let _ = go.send(());
    }
    assert_eq!(unblock(|| 5), 5);
}
