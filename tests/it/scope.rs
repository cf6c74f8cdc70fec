//! Greenlets that borrow: they have ended before what they borrow goes away, whatever happens.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;

use switchgrass::{
    Builder, Coroutine, Elapsed, current, park, scope, sleep, spawn, spawn_later, testing, timeout, yield_now,
};

use crate::util::{Clock, HOUR, Log, OnDrop, catch, forever, is_exit, secs, text};

#[test]
fn greenlets_borrow_from_the_outside_and_give_results() {
    let numbers = [1, 2, 3];
    let mut doubled = [0; 3];
    let sum = scope(|s| {
        for (n, d) in numbers.iter().zip(&mut doubled) {
            s.spawn(move || {
                yield_now();
                *d = n * 2;
            });
        }
        let sum = s.spawn(|| numbers.iter().sum::<i32>());
        sum.join().unwrap()
    });
    assert_eq!((sum, doubled), (6, [2, 4, 6]));
}

#[test]
fn the_scope_waits_for_greenlets_that_nobody_joined() {
    let clock = Clock::start();
    let ended = Cell::new(0);
    scope(|s| {
        for n in 1..=3 {
            s.spawn({
                let ended = &ended;
                move || {
                    sleep(secs(n));
                    ended.set(ended.get() + 1);
                }
            });
        }
    });
    assert_eq!((ended.get(), clock.elapsed()), (3, secs(3)));
}

#[test]
fn a_scoped_greenlet_may_spawn_into_its_own_scope() {
    let log = Log::new();
    scope(|s| {
        s.spawn(|| {
            log.add("parent");
            s.spawn(|| {
                yield_now();
                log.add("child");
                s.spawn(|| log.add("grandchild"));
            });
        });
    });
    assert_eq!(log.take(), "parent child grandchild");
}

#[test]
fn scopes_nest() {
    let total = Cell::new(0);
    scope(|outer| {
        outer.spawn(|| {
            let local = Cell::new(0);
            scope(|inner| {
                for _ in 0..3 {
                    inner.spawn(|| {
                        yield_now();
                        local.set(local.get() + 1);
                    });
                }
            });
            total.set(total.get() + local.get());
        });
        outer.spawn(|| total.set(total.get() + 100));
    });
    assert_eq!(total.get(), 103);
}

#[test]
fn more_greenlets_than_the_list_is_swept_at_all_run() {
    let ran = Cell::new(0);
    scope(|s| {
        for n in 0..1000 {
            s.spawn(|| ran.set(ran.get() + 1));
            if n % 100 == 0 {
                yield_now();
            }
        }
    });
    assert_eq!((ran.get(), testing::live()), (1000, 0));
}

#[test]
fn builder_spawns_into_a_scope() {
    let text = String::from("borrowed");
    scope(|s| {
        let child = Builder::new().name("child").stack_size(32 << 10);
        let child = child.spawn_scoped(s, || (text.len(), current().name().map(str::to_owned))).unwrap();
        assert_eq!(child.join().unwrap(), (8, Some("child".into())));
    });
}

#[test]
fn join_timeout_of_a_scoped_greenlet_gives_it_back() {
    Clock::start();
    let word = String::from("word");
    scope(|s| {
        let child = s.spawn(|| {
            sleep(secs(5));
            &word
        });
        let child = child.join_timeout(secs(1)).unwrap_err();
        assert!(!child.is_ready());
        assert_eq!(child.join_timeout(HOUR).unwrap().unwrap(), "word");
    });
}

// ---- Panics -------------------------------------------------------------------------------------------------------------

#[test]
fn a_panic_of_a_greenlet_that_nobody_joins_is_a_panic_of_the_scope_after_all_have_ended() {
    let log = Log::new();
    let caught = catch(|| {
        scope(|s| {
            s.spawn(|| panic!("child"));
            s.spawn(|| {
                (0..5).for_each(|_| yield_now());
                log.add("other-ended");
            });
        });
    });
    assert_eq!(text(&caught.unwrap_err()), "a scoped greenlet panicked");
    assert_eq!(log.take(), "other-ended");
}

#[test]
fn a_panic_that_was_joined_is_not_one_of_the_scope() {
    let result = scope(|s| s.spawn(|| panic!("child")).join().map_err(|payload| text(&payload).to_owned()));
    assert_eq!(result, Err::<(), _>("child".to_owned()));
}

#[test]
fn a_panic_of_a_greenlet_whose_handle_is_dropped_after_it_ended_is_one_of_the_scope() {
    let caught = catch(|| {
        scope(|s| {
            let child = s.spawn(|| panic!("child"));
            yield_now();
            assert!(child.is_ready());
        });
    });
    assert_eq!(text(&caught.unwrap_err()), "a scoped greenlet panicked");
}

#[test]
fn a_panic_of_the_body_waits_for_the_greenlets_and_is_kept() {
    let clock = Clock::start();
    let log = Log::new();
    let caught = catch(|| {
        let local = String::from("still-here");
        scope(|s| {
            s.spawn(|| {
                sleep(secs(2));
                log.add(&*local);
            });
            panic!("body");
        });
    });
    assert_eq!(text(&caught.unwrap_err()), "body");
    assert_eq!((log.take().as_str(), clock.elapsed()), ("still-here", secs(2)));
}

// ---- Kill and timeout ---------------------------------------------------------------------------------------------------

/// Logs when a child that borrows `frame` ends, and proves that the frame is still there.
fn watch<'a>(log: &'a Log, frame: &'a String) -> OnDrop<impl FnMut() + use<'a>> {
    OnDrop(move || log.add(format!("child-ended-before-{frame}")))
}

#[test]
fn a_killed_owner_kills_the_greenlets_of_its_scope_before_its_frame_goes() {
    let log = Log::new();
    let owner = spawn({
        let log = log.clone();
        move || {
            let _gone = log.on_drop("frame-gone");
            let frame = String::from("frame");
            scope(|s| {
                s.spawn(|| {
                    let _watch = watch(&log, &frame);
                    park();
                });
                s.spawn(|| {
                    let _watch = watch(&log, &frame);
                    sleep(HOUR);
                });
            });
        }
    });
    yield_now();
    yield_now();
    owner.kill();
    assert!(is_exit(&owner.join()));
    assert_eq!(log.take(), "child-ended-before-frame child-ended-before-frame frame-gone");
    assert_eq!(testing::live(), 0);
}

#[test]
fn an_owner_killed_in_the_body_of_its_scope_kills_its_greenlets_too() {
    let log = Log::new();
    let owner = spawn({
        let log = log.clone();
        move || {
            let frame = String::from("frame");
            scope(|s| {
                s.spawn(|| {
                    let _watch = watch(&log, &frame);
                    park();
                });
                park();
            });
        }
    });
    yield_now();
    yield_now();
    owner.kill();
    assert!(is_exit(&owner.join()));
    assert_eq!(log.take(), "child-ended-before-frame");
}

#[test]
fn greenlets_of_a_scope_that_never_ran_never_do_when_the_owner_is_killed() {
    let ran = Rc::new(Cell::new(false));
    let owner = spawn({
        let ran = Rc::clone(&ran);
        move || {
            scope(|s| {
                current().kill_nowait();
                s.spawn(|| ran.set(true));
            });
        }
    });
    assert!(is_exit(&owner.join()));
    assert!(!ran.get());
    assert_eq!(testing::live(), 0);
}

#[test]
fn a_limit_around_a_scope_ends_its_greenlets_first() {
    let clock = Clock::start();
    let log = Log::new();
    let result = timeout(secs(2), || {
        let frame = String::from("frame");
        scope(|s| {
            s.spawn(|| {
                let _watch = watch(&log, &frame);
                sleep(HOUR);
            });
        });
        log.add("never");
    });
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(2)));
    assert_eq!(log.take(), "child-ended-before-frame");
}

#[test]
fn a_limit_within_the_body_ends_there_and_the_scope_goes_on() {
    let clock = Clock::start();
    let ended = Cell::new(false);
    scope(|s| {
        s.spawn(|| {
            sleep(secs(5));
            ended.set(true);
        });
        assert_eq!(timeout(secs(1), park), Err(Elapsed));
    });
    assert!(ended.get());
    assert_eq!(clock.elapsed(), secs(5));
}

#[test]
fn a_greenlet_that_catches_its_kill_is_waited_for_before_the_frame_goes() {
    let clock = Clock::start();
    let log = Log::new();
    let result = timeout(secs(1), || {
        let _gone = log.on_drop("frame-gone");
        let frame = String::from("frame");
        scope(|s| {
            s.spawn(|| {
                let _watch = watch(&log, &frame);
                assert!(is_exit(&catch(park)));
                log.add("caught");
                sleep(secs(3));
            });
        });
    });
    assert_eq!(result, Err(Elapsed));
    assert_eq!(log.take(), "caught child-ended-before-frame frame-gone");
    assert_eq!(clock.elapsed(), secs(4));
}

#[test]
fn what_a_killed_greenlet_still_spawns_into_the_scope_never_runs() {
    let clock = Clock::start();
    let log = Log::new();
    let result = timeout(secs(1), || {
        scope(|s| {
            s.spawn(|| {
                let _ = catch(park);
                let late = s.spawn(|| {
                    log.add("late");
                    sleep(HOUR);
                });
                assert!(is_exit(&late.join()));
                log.add("joined");
                s.spawn(park);
            });
        });
    });
    assert_eq!((result, clock.elapsed()), (Err(Elapsed), secs(1)));
    assert_eq!((log.take().as_str(), testing::live()), ("joined", 0));
}

#[test]
fn killed_again_while_it_waits_for_its_killed_greenlets_the_owner_still_waits() {
    let clock = Clock::start();
    let log = Log::new();
    let owner = spawn({
        let log = log.clone();
        move || {
            let _gone = log.on_drop("frame-gone");
            let frame = String::from("frame");
            scope(|s| {
                s.spawn(|| {
                    let _watch = watch(&log, &frame);
                    let _ = catch(park);
                    sleep(secs(3));
                });
            });
        }
    });
    sleep(secs(1));
    owner.kill_nowait();
    sleep(secs(1));
    assert!(!owner.is_ready());
    owner.kill();
    assert!(is_exit(&owner.join()));
    assert_eq!(log.take(), "child-ended-before-frame frame-gone");
    assert_eq!(clock.elapsed(), secs(4));
}

#[test]
fn a_kill_while_the_body_has_panicked_is_delivered_after_the_greenlets_have_ended() {
    let log = Log::new();
    let owner = spawn({
        let log = log.clone();
        move || {
            let _gone = log.on_drop("frame-gone");
            let frame = String::from("frame");
            scope(|s| {
                s.spawn(|| {
                    let _watch = watch(&log, &frame);
                    park();
                });
                panic!("body");
            });
        }
    });
    yield_now();
    yield_now();
    owner.kill();
    // The panic was first.
    assert_eq!(text(&owner.join().unwrap_err()), "body");
    assert_eq!(log.take(), "child-ended-before-frame frame-gone");
}

#[test]
fn nested_scopes_are_killed_from_the_inside_out() {
    let log = Log::new();
    let owner = spawn({
        let log = log.clone();
        move || {
            let _gone = log.on_drop("owner");
            scope(|outer| {
                outer.spawn(|| {
                    let _gone = log.on_drop("child");
                    scope(|inner| {
                        inner.spawn(|| {
                            let _gone = log.on_drop("grandchild");
                            park();
                        });
                    });
                });
            });
        }
    });
    (0..3).for_each(|_| yield_now());
    owner.kill();
    assert_eq!(log.take(), "grandchild child owner");
}

#[test]
fn a_killed_greenlet_of_a_scope_is_no_panic_of_the_scope() {
    scope(|s| {
        let child = s.spawn(park);
        yield_now();
        child.kill();
        let other = s.spawn(park);
        other.kill_nowait();
    });
}

#[test]
fn a_scope_in_a_destructor_that_unwinds_runs_but_refuses_to_spawn() {
    let log = Log::new();
    let panics = spawn({
        let log = log.clone();
        move || {
            let _guard = OnDrop(|| {
                let refused = catch(|| scope(|s| drop(s.spawn(|| ()))));
                log.add(if text(&refused.unwrap_err()).contains("while unwinding") {
                    "refused"
                } else {
                    "?"
                });
                log.add(scope(|_| "ran"));
            });
            panic!("on purpose");
        }
    });
    assert_eq!(text(&panics.join().unwrap_err()), "on purpose");
    assert_eq!(log.take(), "refused ran");
}

#[test]
fn a_handle_may_leave_the_scope_and_does_nothing_then() {
    let kept = RefCell::new(None);
    scope(|s| {
        let child = s.spawn(park);
        *kept.borrow_mut() = Some(child.handle());
        child.handle().unpark();
    });
    let handle = kept.into_inner().unwrap();
    assert!(handle.is_ready());
    handle.unpark();
    handle.kill();
}

#[test]
fn greenlets_of_a_scope_and_others_run_side_by_side() {
    let clock = Clock::start();
    let log = Log::new();
    let outside = spawn_later(secs(2), {
        let log = log.clone();
        move || log.add("outside")
    });
    scope(|s| {
        s.spawn(|| {
            sleep(secs(3));
            log.add("inside");
        });
    });
    outside.join().unwrap();
    assert_eq!((log.take().as_str(), clock.elapsed()), ("outside inside", secs(3)));
}

// ---- Deadlock -----------------------------------------------------------------------------------------------------------

#[test]
fn a_scope_on_the_main_stack_that_can_never_end_kills_its_greenlets_and_panics_with_the_report() {
    let log = Log::new();
    let caught = catch(|| {
        let _gone = log.on_drop("frame-gone");
        let frame = String::from("frame");
        scope(|s| {
            let child = Builder::new().name("stuck");
            let child = child.spawn_scoped(s, || {
                let _watch = watch(&log, &frame);
                forever();
            });
            drop(child);
        });
    });
    let report = caught.unwrap_err();
    assert!(text(&report).contains("would block forever"), "{}", text(&report));
    assert!(text(&report).contains("'stuck': waits: park"), "{}", text(&report));
    assert_eq!(log.take(), "child-ended-before-frame frame-gone");
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn a_scope_that_can_never_end_is_left_also_if_a_greenlet_of_it_catches_the_first_kill() {
    let caughts = Cell::new(0);
    let caught = catch(|| {
        scope(|s| {
            s.spawn(|| {
                while caughts.get() < 3 {
                    let _ = catch(park);
                    caughts.set(caughts.get() + 1);
                }
            });
        });
    });
    assert!(text(&caught.unwrap_err()).contains("would block forever"));
    assert_eq!((caughts.get(), testing::live()), (3, 0));
}

// ---- Coroutines ---------------------------------------------------------------------------------------------------------

/// A coroutine is suspended in a scope, with a greenlet in it; then its last handle is dropped by one who unwinds. That one does not
/// wait, but the scope does.
fn dropped_in_a_scope_by_one_who_unwinds(catches: bool) {
    let log = Log::new();
    let coroutine = {
        let log = log.clone();
        Coroutine::new(move |()| {
            let _gone = log.on_drop("frame-gone");
            let frame = String::from("frame");
            scope(|s| {
                s.spawn(|| {
                    let _watch = watch(&log, &frame);
                    forever();
                });
                yield_now();
                let switched = catch(|| Coroutine::main().switch(()));
                log.add("coroutine-unwinds");
                if !catches {
                    switched.unwrap_or_else(|payload| resume_unwind(payload)).unwrap();
                }
            });
        })
    };
    coroutine.switch(()).unwrap();
    let owner = spawn({
        let log = log.clone();
        move || {
            let _later = log.on_drop("owner-unwinds");
            let _owned = coroutine;
            resume_unwind(Box::new("on purpose"))
        }
    });
    let payload = owner.join().unwrap_err();
    assert_eq!(text(&payload), "on purpose");
    while testing::live() > 0 {
        yield_now();
    }
    assert_eq!(log.take(), "coroutine-unwinds owner-unwinds child-ended-before-frame frame-gone");
}

#[test]
fn a_coroutine_that_is_dropped_by_one_who_unwinds_leaves_its_scope_when_the_greenlets_have_ended() {
    dropped_in_a_scope_by_one_who_unwinds(false);
}

#[test]
fn so_does_one_that_catches_the_exit() {
    dropped_in_a_scope_by_one_who_unwinds(true);
}

#[test]
fn scopes_that_can_never_end_are_left_however_many_there_were() {
    for _ in 0..100 {
        let caught = catch(|| {
            scope(|s| {
                s.spawn(|| {
                    let _ = catch(park);
                    park();
                });
            });
        });
        assert!(text(&caught.unwrap_err()).contains("would block forever"));
    }
}

#[test]
fn a_greenlet_of_a_scope_can_be_joined_by_another_thread() {
    let answer = 42;
    scope(|s| {
        let borrows = s.spawn(|| answer);
        yield_now();
        std::thread::scope(|threads| {
            threads.spawn(|| assert_eq!(borrows.join().unwrap(), 42));
        });
    });
}
