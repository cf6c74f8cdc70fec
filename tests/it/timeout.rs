//! Time limits: which one fires, when, and who sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use switchgrass::channel::bounded;
use switchgrass::sync::Event;
use switchgrass::{
    Coroutine, Elapsed, Greenlet, Handle, Timeout, current, joinall, park, park_timeout, sleep, spawn,
    spawn_later, testing, timeout, yield_now,
};

use crate::util::{Clock, HOUR, Log, OnDrop, catch, is_exit, secs, text, time_limit};

#[test]
fn what_ends_in_time_gives_its_result_and_leaves_no_timer() {
    let clock = Clock::start();
    let result = timeout(secs(5), || {
        sleep(secs(3));
        "done"
    });
    assert_eq!((result, clock.elapsed()), (Ok("done"), secs(3)));
    // The limit of 5 s is gone: this sleep goes over it.
    sleep(secs(10));
    assert_eq!(clock.elapsed(), secs(13));
}

#[test]
fn what_takes_too_long_is_unwound_at_its_time() {
    let clock = Clock::start();
    let log = Log::new();
    let result = timeout(secs(2), || {
        let _guard = log.on_drop("unwound");
        sleep(HOUR);
        log.add("never");
    });
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(2)));
    assert_eq!(log.take(), "unwound");
}

#[test]
fn it_works_in_a_greenlet_as_on_the_main_stack() {
    let clock = Clock::start();
    let results = spawn(|| [timeout(secs(2), park), timeout(secs(3), || sleep(secs(1)))]);
    assert_eq!(results.join().unwrap(), [Err(Elapsed), Ok(())]);
    assert_eq!(clock.elapsed(), secs(3));
}

#[test]
fn an_inner_limit_that_runs_out_first_ends_at_its_own_boundary() {
    let clock = Clock::start();
    let result = timeout(secs(5), || {
        let inner = timeout(secs(2), || sleep(HOUR));
        sleep(secs(1));
        inner
    });
    assert_eq!((result, clock.elapsed()), (Ok(Err(Elapsed)), secs(3)));
}

#[test]
fn an_outer_limit_that_runs_out_first_unwinds_through_the_inner_one() {
    let clock = Clock::start();
    let log = Log::new();
    let result = timeout(secs(2), || {
        let inner = timeout(secs(5), || {
            let _guard = log.on_drop("unwound");
            sleep(HOUR);
        });
        log.add("never");
        inner
    });
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(2)));
    assert_eq!(log.take(), "unwound");
}

#[test]
fn an_outer_limit_still_holds_after_an_inner_one_has_fired() {
    let clock = Clock::start();
    let result = timeout(secs(5), || {
        assert_eq!(timeout(secs(2), park), Err(Elapsed));
        park();
    });
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(5)));
}

#[test]
fn of_two_limits_with_the_same_deadline_the_outer_one_fires() {
    let clock = Clock::start();
    let result = timeout(secs(2), || timeout(secs(2), || sleep(HOUR)));
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(2)));
}

#[test]
fn the_innermost_of_a_hundred_limits_fires_alone() {
    fn nested(level: u64) -> Result<u64, u64> {
        if level == 0 {
            park();
        }
        match timeout(secs(100 + level), || nested(level - 1)) {
            Ok(inner) => inner,
            Err(Elapsed) => Ok(level),
        }
    }
    let clock = Clock::start();
    assert_eq!(nested(100), Ok(1));
    assert_eq!(clock.elapsed(), secs(101));
}

#[test]
fn a_limit_of_zero_fires_at_the_first_wait() {
    let clock = Clock::start();
    let log = Log::new();
    let result = timeout(Duration::ZERO, || {
        log.add("runs");
        sleep(secs(1));
        log.add("never");
    });
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(0)));
    assert_eq!(log.take(), "runs");
    assert_eq!(timeout(Duration::ZERO, yield_now), Err(Elapsed));
    assert_eq!(timeout(Duration::ZERO, || 5), Ok(5));
}

#[test]
fn a_limit_of_duration_max_is_none() {
    let clock = Clock::start();
    let days = HOUR * 24 * 1000;
    assert_eq!(timeout(Duration::MAX, || sleep(days)), Ok(()));
    assert_eq!(clock.elapsed(), days);
}

#[test]
fn a_function_that_never_waits_is_not_interrupted_and_its_result_counts() {
    let result = timeout(Duration::ZERO, || (1..=10_u64).product::<u64>());
    assert_eq!(result, Ok(3_628_800));
}

#[test]
fn a_wait_that_ends_with_the_limit_counts_as_done() {
    Clock::start();
    assert_eq!(timeout(secs(1), || sleep(secs(1))), Ok(()));
}

#[test]
fn a_loop_that_only_yields_is_interrupted() {
    time_limit();
    let turns = Rc::new(Cell::new(0_u64));
    let result = timeout(Duration::from_millis(5), || {
        loop {
            turns.set(turns.get() + 1);
            yield_now();
        }
    });
    assert_eq!(result, Err::<(), _>(Elapsed));
    assert!(turns.get() > 0);
}

#[test]
fn a_panic_passes_through_unchanged() {
    let caught = catch(|| timeout(HOUR, || panic!("mine")));
    assert_eq!(text(&caught.unwrap_err()), "mine");
    // And its limit is gone.
    let clock = Clock::start();
    sleep(HOUR * 2);
    assert_eq!(clock.elapsed(), HOUR * 2);
}

#[test]
fn who_catches_the_unwinding_and_waits_again_is_unwound_again() {
    let clock = Clock::start();
    let caught = Cell::new(0);
    let result = timeout(secs(1), || {
        while caught.get() < 3 {
            assert!(catch(|| sleep(HOUR)).is_err());
            caught.set(caught.get() + 1);
        }
        sleep(HOUR);
    });
    assert_eq!((result, caught.get()), (Err(Elapsed), 3));
    assert_eq!(clock.elapsed(), secs(1));
}

#[test]
fn who_catches_the_unwinding_and_returns_has_its_result_count() {
    Clock::start();
    let result = timeout(secs(1), || catch(|| sleep(HOUR)).is_err());
    assert_eq!(result, Ok(true));
}

#[test]
fn a_destructor_that_unwinds_for_a_limit_may_use_limits_itself() {
    Clock::start();
    let log = Log::new();
    let result = timeout(secs(1), || {
        let _guard = OnDrop(|| {
            let inner = timeout(secs(1), || 5);
            log.add(format!("{inner:?}"));
        });
        park();
    });
    assert_eq!(result, Err(Elapsed));
    assert_eq!(log.take(), "Ok(5)");
}

#[test]
fn limits_of_different_greenlets_do_not_meet() {
    let clock = Clock::start();
    let log = Log::new();
    let greenlets = [3, 1, 2].map(|n| {
        let log = log.clone();
        spawn(move || {
            let result = timeout(secs(n), park);
            log.add(format!("{n}:{}", result.is_err()));
        })
    });
    assert_eq!(timeout(secs(10), || joinall(&greenlets)), Ok(()));
    assert_eq!(log.take(), "1:true 2:true 3:true");
    assert_eq!(clock.elapsed(), secs(3));
}

#[test]
fn the_limit_of_who_spawns_does_not_hold_for_the_spawned() {
    let clock = Clock::start();
    let child = timeout(secs(1), || spawn(|| sleep(secs(5)))).unwrap();
    child.join().unwrap();
    assert_eq!(clock.elapsed(), secs(5));
}

#[test]
fn a_join_that_is_timed_out_leaves_the_greenlet_alone() {
    let clock = Clock::start();
    let greenlet = Rc::new(spawn(|| {
        sleep(secs(5));
        1
    }));
    assert_eq!(timeout(secs(1), || joinall([&*greenlet])), Err(Elapsed));
    assert!(!greenlet.is_ready());
    assert_eq!(Rc::into_inner(greenlet).unwrap().join().unwrap(), 1);
    assert_eq!(clock.elapsed(), secs(5));
}

#[test]
fn the_shorter_of_an_own_time_and_a_limit_ends_the_wait() {
    let clock = Clock::start();
    assert_eq!(timeout(secs(2), || park_timeout(secs(1))), Ok(()));
    assert_eq!(timeout(secs(1), || park_timeout(secs(2))), Err(Elapsed));
    assert_eq!(clock.elapsed(), secs(2));
}

#[test]
fn a_kill_within_a_limit_is_a_kill() {
    Clock::start();
    let victim = spawn(|| timeout(HOUR, park));
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_wake_that_comes_before_the_limit_wins() {
    let clock = Clock::start();
    let main = current();
    let waker = spawn_later(secs(1), move || main.unpark());
    assert_eq!(timeout(secs(2), park), Ok(()));
    assert_eq!(clock.elapsed(), secs(1));
    waker.join().unwrap();
}

#[test]
fn a_thousand_limits_one_after_the_other_leave_nothing_that_fires_later() {
    let clock = Clock::start();
    for n in 0..1000 {
        assert_eq!(timeout(secs(1000), || sleep(secs(1))), Ok(()), "round {n}");
    }
    assert_eq!(clock.elapsed(), secs(1000));
    sleep(secs(5000));
    assert_eq!(clock.elapsed(), secs(6000));
}

#[test]
fn elapsed_becomes_an_io_error_of_its_kind() {
    let error = std::io::Error::from(Elapsed);
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(Elapsed.to_string(), "the time allowed has elapsed");
}

// ---- The object.

#[test]
fn a_timeout_object_unwinds_once_and_knows_its_own() {
    testing::virtual_clock();
    let mut outer = Timeout::start_new(secs(2));
    let mut inner = Timeout::new(secs(1));
    assert!(!inner.is_pending());
    inner.start();
    let payload = catch(|| sleep(secs(60))).unwrap_err();
    assert!(inner.is_cause_of(&*payload) && !outer.is_cause_of(&*payload));
    assert!(inner.is_cause_of(&payload) && !outer.is_cause_of(&payload), "also by a reference to the box");
    assert!(inner.has_fired() && !inner.is_pending() && outer.is_pending());
    let payload = catch(|| sleep(secs(60))).unwrap_err();
    assert!(outer.is_cause_of(&*payload));
    let before = testing::now();
    sleep(secs(60));
    assert_eq!(testing::now() - before, secs(60), "neither is a limit any more");
    inner.start();
    assert!(inner.is_pending());
    inner.cancel();
    outer.cancel();
    sleep(secs(60));
}

#[test]
fn a_timeout_object_that_is_dropped_or_cancelled_does_not_fire() {
    testing::virtual_clock();
    drop(Timeout::start_new(secs(1)));
    let mut cancelled = Timeout::start_new(secs(1));
    cancelled.cancel();
    sleep(secs(5));
    assert!(!cancelled.has_fired());
}

#[test]
fn timeout_objects_and_scopes_may_be_left_in_any_order() {
    testing::virtual_clock();
    let mut outlives = None;
    let inner = timeout(secs(5), || {
        outlives = Some(Timeout::start_new(secs(3)));
        sleep(secs(1));
    });
    assert_eq!(inner, Ok(()));
    let earlier = Timeout::start_new(secs(60));
    let later = Timeout::start_new(secs(50));
    drop(earlier);
    let payload = catch(|| sleep(secs(100))).unwrap_err();
    assert!(outlives.as_ref().unwrap().is_cause_of(&*payload));
    drop(outlives);
    let payload = catch(|| sleep(secs(100))).unwrap_err();
    assert!(later.is_cause_of(&*payload));
    // A forgotten one keeps its box, and goes on to limit.
    std::mem::forget(Timeout::start_new(secs(1)));
    assert!(catch(|| sleep(secs(100))).is_err());
}

#[test]
fn a_timeout_object_limits_the_greenlet_that_started_it() {
    testing::virtual_clock();
    let limited = spawn(|| {
        let mut timeout = Timeout::start_new(secs(1));
        let other = spawn(|| sleep(secs(5)));
        let payload = catch(|| sleep(secs(60))).unwrap_err();
        assert!(timeout.is_cause_of(&*payload));
        timeout.cancel();
        other.join().unwrap();
    });
    sleep(secs(10));
    limited.join().unwrap();

    let uncaught = spawn(|| {
        let _timeout = Timeout::start_new(secs(1));
        sleep(secs(60));
    });
    joinall([&uncaught]);
    assert_eq!(uncaught.exit_reason().unwrap().to_string(), "panicked: a Timeout that nobody caught");
}

/// Starts a timeout of a second in a new greenlet that then does `f`, and gives that out.
fn limited<T: 'static>(f: impl FnOnce() -> T + 'static) -> (Timeout, Greenlet<T>) {
    let (tx, rx) = bounded(1);
    let greenlet = spawn(move || {
        tx.send(Timeout::start_new(secs(1))).unwrap();
        f()
    });
    (rx.recv().unwrap(), greenlet)
}

#[test]
fn a_timeout_object_that_is_cancelled_when_its_time_has_come_ends_no_wait_either() {
    let clock = Clock::start();
    // Its timer is the oldest, so it runs first when the time has come for all.
    let kept = Rc::new(Cell::new(None));
    let canceller = spawn({
        let kept = Rc::clone(&kept);
        move || {
            sleep(secs(1));
            drop(kept.take());
        }
    });
    yield_now();
    let (of_parked, parked) = limited(|| park_timeout(secs(4)));
    let (give, take) = bounded(1);
    let switched = Coroutine::new(move |(): ()| {
        give.send(Timeout::start_new(secs(1))).unwrap();
        let coroutine = Coroutine::<()>::current();
        coroutine.parent().unwrap().switch(()).unwrap();
    });
    switched.switch(()).unwrap();
    let of_switched: Timeout = take.recv().unwrap();
    yield_now();
    kept.set(Some((of_parked, of_switched)));
    canceller.join().unwrap();
    assert_eq!(clock.elapsed(), secs(1));
    assert!(!switched.is_dead());
    parked.join().unwrap();
    assert_eq!(clock.elapsed(), secs(4));
    switched.switch(()).unwrap();
    assert!(switched.is_dead());
}

#[test]
fn a_coroutine_whose_timeout_was_cancelled_while_it_was_switched_away_waits_undisturbed() {
    let clock = Clock::start();
    let (give, take) = bounded(1);
    let coroutine = Coroutine::new(move |(): ()| {
        give.send(Timeout::start_new(secs(1))).unwrap();
        Coroutine::<()>::current().parent().unwrap().switch(()).unwrap();
        // The deadline of then is none of this one.
        sleep(secs(2));
    });
    coroutine.switch(()).unwrap();
    drop::<Timeout>(take.recv().unwrap());
    coroutine.switch(()).unwrap();
    assert_eq!(clock.elapsed(), secs(2));
}

#[test]
fn what_a_limit_of_another_thread_unwound_with_is_no_cause_here() {
    let payloads: Vec<_> = thread::spawn(|| {
        let overrun = || catch(|| sleep(secs(1))).unwrap_err();
        (0..100)
            .map(|_| {
                let _timeout = Timeout::start_new(Duration::ZERO);
                overrun()
            })
            .collect()
    })
    .join()
    .unwrap();
    for payload in payloads {
        let own = Timeout::start_new(HOUR);
        assert!(!own.is_cause_of(&*payload));
        let foreign = catch(|| timeout(HOUR, || std::panic::resume_unwind(payload)));
        assert!(foreign.is_err(), "it is not the end of this scope");
    }
}

#[test]
fn a_forgotten_timeout_object_goes_on_limiting_and_a_moved_one_may_outlive_its_greenlet() {
    testing::virtual_clock();
    let forgetful = spawn(|| {
        std::mem::forget(Timeout::start_new(secs(1)));
        sleep(secs(60));
    });
    joinall([&forgetful]);
    assert!(forgetful.exit_reason().unwrap().to_string().contains("Timeout"));
    let (timeout, ended) = limited(|| ());
    ended.join().unwrap();
    assert!(timeout.is_pending());
    sleep(secs(5));
    drop(timeout);
}

/// A wait within a `Timeout` that another greenlet takes back after a second, when it would have had another.
fn cancelled_by_another<T: 'static>(wait: impl FnOnce() -> T + 'static) -> (T, Duration) {
    let clock = Clock::start();
    let waiting = spawn(move || {
        let limit = Rc::new(RefCell::new(Timeout::start_new(secs(2))));
        let other = Rc::clone(&limit);
        spawn_later(secs(1), move || other.borrow_mut().cancel());
        let result = wait();
        assert!(!limit.borrow().has_fired());
        result
    });
    (waiting.join().unwrap(), clock.elapsed())
}

#[test]
fn one_that_another_greenlet_cancels_ends_no_wait() {
    assert_eq!(cancelled_by_another(|| sleep(secs(5))), ((), secs(5)));
    let event = Rc::new(Event::new());
    let set = Rc::clone(&event);
    spawn_later(secs(7), move || set.set());
    assert_eq!(cancelled_by_another(move || event.wait()), (true, secs(7)));
}

#[test]
fn one_that_another_greenlet_cancels_fires_no_other_before_its_time() {
    let wait = || timeout(secs(5), || sleep(HOUR));
    assert_eq!(cancelled_by_another(wait), (Err(Elapsed), secs(5)));
}

#[test]
fn one_that_another_greenlet_cancels_ends_no_switch() {
    let clock = Clock::start();
    let limit = Rc::new(RefCell::new(Timeout::new(secs(2))));
    let other = Rc::clone(&limit);
    let target = Coroutine::new(move |()| {
        other.borrow_mut().cancel();
        sleep(secs(5));
    });
    limit.borrow_mut().start();
    assert_eq!(target.switch(()).unwrap(), ());
    assert_eq!(clock.elapsed(), secs(5));
    // Nor does it leave an alarm behind.
    let park = spawn(|| park_timeout(secs(9)));
    park.join().unwrap();
    assert_eq!(clock.elapsed(), secs(14));
}

#[test]
fn one_that_is_cancelled_when_it_is_due_does_not_fire() {
    let clock = Clock::start();
    let limit = Rc::new(RefCell::new(None));
    let cell = Rc::clone(&limit);
    let first = spawn(move || {
        sleep(secs(2));
        cell.borrow_mut().take();
    });
    let waiting = spawn(move || {
        *limit.borrow_mut() = Some(Timeout::start_new(secs(2)));
        sleep(secs(5));
    });
    joinall([&first, &waiting]);
    assert_eq!((waiting.join().unwrap(), clock.elapsed()), ((), secs(5)));
}

#[test]
fn one_that_another_greenlet_cancels_when_it_is_due_leaves_an_unpark_its_effect() {
    let clock = Clock::start();
    let limit = Rc::new(RefCell::new(None));
    let (cell, waiting) = (Rc::clone(&limit), Rc::new(RefCell::new(None)));
    let handle = Rc::clone(&waiting);
    spawn(move || {
        sleep(secs(2));
        cell.borrow_mut().take();
        handle.take().map(|handle: Handle| handle.unpark());
    });
    let parked = spawn(move || {
        waiting.replace(Some(current()));
        *limit.borrow_mut() = Some(Timeout::start_new(secs(2)));
        park();
    });
    parked.join().unwrap();
    assert_eq!(clock.elapsed(), secs(2));
}
