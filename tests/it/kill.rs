//! Killing: who unwinds, when, and who waits for it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use switchgrass::{
    Greenlet, Handle, current, joinall, killall, park, sleep, spawn, spawn_later, testing, timeout, yield_now,
};

use crate::util::{Clock, Drops, HOUR, Log, OnDrop, catch, forever, is_exit, secs, text};

#[test]
fn killed_before_its_first_run_it_never_runs_and_what_it_captured_is_dropped() {
    let (ran, captured) = (Rc::new(Cell::new(false)), Drops::new());
    let victim = spawn({
        let (ran, guard) = (Rc::clone(&ran), captured.guard());
        move || {
            let _guard = guard;
            ran.set(true);
        }
    });
    victim.kill();
    assert!(victim.is_ready());
    assert_eq!(captured.count(), 1);
    assert!(is_exit(&victim.join()));
    assert!(!ran.get());
}

#[test]
fn those_who_join_a_greenlet_that_is_killed_before_its_first_run_are_woken() {
    let victim = Rc::new(spawn_later(HOUR, || ()));
    let joiners = [(); 3].map(|()| {
        let victim = Rc::clone(&victim);
        spawn(move || joinall([&*victim]))
    });
    yield_now();
    victim.kill_nowait();
    joinall(&joiners);
    assert!(victim.is_ready());
}

#[test]
fn a_sleeper_has_run_its_destructors_before_kill_returns() {
    let clock = Clock::start();
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _first = log.on_drop("outer");
            let _second = log.on_drop("inner");
            log.add("start");
            sleep(HOUR);
            log.add("never");
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(log.take(), "start inner outer");
    assert!(is_exit(&victim.join()));
    assert_eq!(clock.elapsed(), secs(0));
}

#[test]
fn a_victim_may_catch_the_exit_and_live_on_and_kill_waits_for_its_end() {
    let clock = Clock::start();
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let caught = catch(|| sleep(HOUR));
            log.add(if is_exit(&caught) { "caught" } else { "?" });
            sleep(secs(5));
            log.add("finished");
            "result"
        }
    });
    yield_now();
    victim.kill();
    log.add("kill-returned");
    assert_eq!(log.take(), "caught finished kill-returned");
    assert_eq!(clock.elapsed(), secs(5));
    assert_eq!(victim.join().unwrap(), "result");
}

#[test]
fn kill_interrupts_a_greenlet_that_yields() {
    let turns = Rc::new(Cell::new(0));
    let victim = spawn({
        let turns = Rc::clone(&turns);
        move || {
            loop {
                turns.set(turns.get() + 1);
                yield_now();
            }
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(turns.get(), 1);
    assert!(is_exit(&victim.join()));
}

#[test]
fn kill_interrupts_a_greenlet_that_joins_another_which_goes_on() {
    let awaited = Rc::new(spawn(|| {
        park();
        1
    }));
    let victim = spawn({
        let awaited = Rc::clone(&awaited);
        move || joinall([&*awaited])
    });
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
    assert!(!awaited.is_ready());
    awaited.handle().unpark();
    assert_eq!(Rc::into_inner(awaited).unwrap().join().unwrap(), 1);
}

#[test]
fn a_victim_that_was_woken_in_the_same_turn_is_killed_all_the_same() {
    let victim = spawn(park);
    yield_now();
    victim.handle().unpark();
    victim.kill();
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_greenlet_that_ends_without_waiting_again_is_not_hurt_by_a_kill() {
    // It kills itself without waiting, and then never waits.
    let victim = spawn(|| {
        current().kill_nowait();
        "result"
    });
    assert_eq!(victim.join().unwrap(), "result");
}

#[test]
fn killed_twice_it_unwinds_once() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            sleep(HOUR);
        }
    });
    yield_now();
    victim.kill_nowait();
    victim.kill_nowait();
    victim.kill();
    victim.kill();
    assert_eq!(log.take(), "unwound");
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_victim_that_caught_one_exit_gets_another_for_the_next_kill() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            for _ in 0..2 {
                let caught = catch(park);
                log.add(if is_exit(&caught) { "caught" } else { "?" });
            }
            park();
        }
    });
    for _ in 0..3 {
        yield_now();
        victim.kill_nowait();
    }
    yield_now();
    assert_eq!(log.take(), "caught caught");
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_greenlet_that_kills_itself_unwinds_at_once() {
    let log = Log::new();
    let suicide = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            current().kill();
            log.add("never");
        }
    });
    assert!(is_exit(&suicide.join()));
    assert_eq!(log.take(), "unwound");
}

#[test]
fn killing_itself_without_waiting_takes_effect_at_the_next_wait() {
    let log = Log::new();
    let suicide = spawn({
        let log = log.clone();
        move || {
            current().kill_nowait();
            log.add("still");
            yield_now();
            log.add("never");
        }
    });
    assert!(is_exit(&suicide.join()));
    assert_eq!(log.take(), "still");
}

#[test]
fn killed_again_by_its_own_destructor_while_it_unwinds_it_goes_on_unwinding() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _outer = log.on_drop("outer");
            let _inner = OnDrop(|| {
                current().kill_nowait();
                log.add("inner");
            });
            sleep(HOUR);
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(log.take(), "inner outer");
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_destructor_that_unwinds_may_kill_its_own_greenlet_and_wait_for_nothing() {
    let log = Log::new();
    let panics = spawn({
        let log = log.clone();
        move || {
            let _outer = log.on_drop("outer");
            let _inner = OnDrop(|| {
                current().kill();
                log.add("inner");
            });
            panic!("first");
        }
    });
    assert_eq!(text(&panics.join().unwrap_err()), "first");
    assert_eq!(log.take(), "inner outer");
}

#[test]
fn a_kill_while_a_caught_panic_unwinds_takes_effect_at_the_next_wait() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let caught = catch(|| {
                let _guard = OnDrop(|| current().kill_nowait());
                panic!("first");
            });
            log.add(text(&caught.unwrap_err()));
            yield_now();
            log.add("never");
        }
    });
    assert!(is_exit(&victim.join()));
    assert_eq!(log.take(), "first");
}

#[test]
fn a_destructor_that_unwinds_kills_another_without_waiting() {
    let log = Log::new();
    let other = Rc::new(spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("other-unwound");
            park();
        }
    }));
    let panics = spawn({
        let (log, other) = (log.clone(), Rc::clone(&other));
        move || {
            let _guard = OnDrop(|| {
                other.kill();
                log.add("kill-returned");
            });
            panic!("on purpose");
        }
    });
    assert!(panics.join().is_err());
    joinall([&*other]);
    assert_eq!(log.take(), "kill-returned other-unwound");
}

#[test]
fn two_greenlets_that_kill_each_other_both_end() {
    let first: Rc<OnceCell<Handle>> = Rc::default();
    let second = spawn({
        let first = Rc::clone(&first);
        move || first.get().unwrap().kill()
    });
    let greenlet = spawn({
        let second = second.handle();
        move || second.kill()
    });
    first.set(greenlet.handle()).unwrap();
    joinall([&greenlet, &second]);
    // The first to kill waits for the other to end, which is killed before it runs.
    assert!(is_exit(&greenlet.join()));
    second.join().unwrap();
}

#[test]
fn kill_of_an_ended_greenlet_returns_and_leaves_its_result() {
    let ended = spawn(|| 9);
    joinall([&ended]);
    ended.kill();
    ended.kill_nowait();
    ended.handle().kill();
    assert_eq!(ended.join().unwrap(), 9);
}

#[test]
fn spawn_later_killed_before_its_time_never_runs_and_holds_up_nobody() {
    let clock = Clock::start();
    let (ran, captured) = (Rc::new(Cell::new(false)), Drops::new());
    let victim = spawn_later(HOUR, {
        let (ran, guard) = (Rc::clone(&ran), captured.guard());
        move || {
            drop(guard);
            ran.set(true);
        }
    });
    sleep(secs(1));
    victim.kill();
    assert_eq!((clock.elapsed(), captured.count(), testing::live()), (secs(1), 1, 0));
    assert!(is_exit(&victim.join()));
    sleep(HOUR + HOUR);
    assert!(!ran.get());
}

#[test]
fn killall_ends_suspended_and_unstarted_ones_and_those_unstarted_never_run() {
    let log = Log::new();
    let body = |name: &'static str| {
        let log = log.clone();
        move || {
            log.add(name);
            let _guard = log.on_drop("unwound");
            park();
        }
    };
    let started = [spawn(body("a")), spawn(body("b"))];
    yield_now();
    let ended = spawn(|| ());
    joinall([&ended]);
    let unstarted = [spawn(body("c")), spawn_later(HOUR, body("d"))];

    killall(started.iter().chain(&unstarted).chain([&ended]));
    assert!(started.iter().chain(&unstarted).all(Greenlet::is_ready));
    assert_eq!(log.take(), "a b unwound unwound");
    assert_eq!(testing::live(), 0);
    ended.join().unwrap();
}

#[test]
fn killall_of_a_list_with_the_caller_kills_the_others_first() {
    let log = Log::new();
    let body = |name: &'static str| {
        let log = log.clone();
        move || {
            let _guard = log.on_drop(name);
            park();
        }
    };
    let all = Rc::new(RefCell::new(vec![spawn(body("a"))]));
    let killer = spawn({
        let (log, all) = (log.clone(), Rc::clone(&all));
        move || {
            let _guard = log.on_drop("killer");
            yield_now();
            let all = all.take();
            killall(&all);
            log.add("never");
        }
    });
    let handle = killer.handle();
    all.borrow_mut().push(killer);
    all.borrow_mut().push(spawn(body("b")));
    yield_now();
    while !handle.is_ready() {
        yield_now();
    }
    assert_eq!(log.take(), "a b killer");
    assert_eq!(testing::live(), 0);
}

#[test]
fn killall_takes_greenlets_of_several_types_as_handles() {
    let (suspended, unstarted) = (spawn(|| forever()), spawn_later(HOUR, || 1));
    yield_now();
    killall([suspended.handle(), unstarted.handle()]);
    assert!(suspended.is_ready() && unstarted.is_ready());
}

#[test]
fn kill_nowait_returns_with_the_victim_alive_which_is_dead_one_yield_later() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            park();
        }
    });
    yield_now();
    victim.kill_nowait();
    assert!(!victim.is_ready());
    assert_eq!(log.take(), "");
    yield_now();
    assert!(victim.is_ready());
    assert_eq!(log.take(), "unwound");
}

#[test]
fn a_killed_greenlets_destructor_cannot_switch() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _guard = OnDrop(|| {
                yield_now();
                log.add("yielded");
                let refused = spawn(|| ()).join();
                log.add(if refused.is_err() { "refused" } else { "?" });
                sleep(secs(1) / 1000);
                log.add("slept");
            });
            park();
        }
    });
    yield_now();
    let bystander = spawn({
        let log = log.clone();
        move || log.add("bystander")
    });
    victim.kill_nowait();
    joinall([&victim, &bystander]);
    // The bystander was spawned before the kill. The victim then ran in one go.
    assert_eq!(log.take(), "bystander yielded refused slept");
}

#[test]
fn a_victim_that_panics_while_it_unwinds_and_catches_that_still_exits() {
    let victim = spawn(|| {
        let _guard = OnDrop(|| {
            let _ = catch(|| panic!("in a destructor"));
        });
        park();
    });
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_victim_that_turns_the_exit_into_a_panic_has_that_as_its_result() {
    let victim = spawn(|| {
        if catch(park).is_err() {
            panic!("instead");
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(text(&victim.join().unwrap_err()), "instead");
}

#[test]
fn a_victim_within_a_timeout_unwinds_through_it() {
    let clock = Clock::start();
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _ = timeout(HOUR, park);
            log.add("never");
        }
    });
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
    assert_eq!((log.take().as_str(), clock.elapsed()), ("", secs(0)));
}

#[test]
fn the_killer_may_be_killed_while_it_waits_and_the_victim_goes_on() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _ = catch(park);
            log.add("lives-on");
            park();
            log.add("ends");
        }
    });
    yield_now();
    let killer = spawn({
        let victim = victim.handle();
        move || victim.kill()
    });
    yield_now();
    yield_now();
    assert!(!killer.is_ready());
    killer.kill();
    assert!(is_exit(&killer.join()));
    assert_eq!(log.take(), "lives-on");
    victim.handle().unpark();
    victim.join().unwrap();
    assert_eq!(log.take(), "ends");
}

#[test]
fn the_main_context_can_be_killed_out_of_its_wait() {
    let main = current();
    let killer = spawn(move || main.kill_nowait());
    let caught = catch::<()>(|| forever());
    assert!(is_exit(&caught));
    killer.join().unwrap();
}
