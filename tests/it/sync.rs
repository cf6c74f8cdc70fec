//! Events, semaphores, mutexes, results: gevent.md 2.2 and 2.4.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use switchgrass::sync::{
    AsyncResult, BoundedSemaphore, Event, Mutex, ReentrantMutex, RwLock, Semaphore, TryLockError,
};
use switchgrass::{GreenletExit, joinall, scope, sleep, spawn, testing, timeout, yield_now};

use crate::util::{Log, OnDrop, catch, in_child, text, time_limit};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn set_then_clear_wakes_all_who_waited_with_true() {
    let event = Rc::new(Event::new());
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let event = Rc::clone(&event);
            spawn(move || event.wait_timeout(SECOND))
        })
        .collect();
    yield_now();
    event.set();
    event.clear();
    assert!(!event.wait_timeout(Duration::from_millis(1)), "it is clear for those who come later");
    for greenlet in waiting {
        assert!(greenlet.join().unwrap());
    }
}

#[test]
fn waiting_for_an_event_that_is_set_does_not_switch() {
    let event = Event::new();
    event.set();
    let ran = Rc::new(Cell::new(false));
    let other = spawn({
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    assert!(event.wait());
    assert!(!ran.get());
    other.join().unwrap();
}

#[test]
fn waiting_for_an_event_ends_with_false_at_its_time() {
    testing::virtual_clock();
    let before = testing::now();
    assert!(!Event::new().wait_timeout(SECOND));
    assert_eq!(testing::now() - before, SECOND);
}

#[test]
fn an_event_wakes_in_the_order_of_coming() {
    let (event, log) = (Event::new(), Log::new());
    scope(|s| {
        for name in ["a", "b", "c"] {
            let (event, log) = (&event, &log);
            s.spawn(move || {
                event.wait();
                log.add(name);
            });
        }
        yield_now();
        event.set();
    });
    assert_eq!(log.take(), "a b c");
}

#[test]
fn who_waits_again_while_others_are_still_to_run_comes_after_them() {
    let (event, log) = (Event::new(), Log::new());
    scope(|s| {
        for name in ["a", "b", "c"] {
            let (event, log) = (&event, &log);
            s.spawn(move || {
                for round in 1..=2 {
                    event.wait();
                    log.add(format!("{name}{round}"));
                }
            });
        }
        yield_now();
        for _ in 0..2 {
            event.set();
            event.clear();
            // Comes when the others know already, and have not run.
            assert!(!event.wait_timeout(Duration::from_millis(1)));
            log.add("main");
        }
    });
    assert_eq!(log.take(), "a1 b1 c1 main a2 b2 c2 main");
}

#[test]
fn one_who_is_killed_or_timed_out_waits_for_an_event_no_more() {
    testing::virtual_clock();
    let event = Rc::new(Event::new());
    let wait = || {
        let event = Rc::clone(&event);
        spawn(move || event.wait())
    };
    let (killed, stays) = (wait(), wait());
    yield_now();
    killed.kill();
    assert!(timeout(SECOND, || event.wait()).is_err());
    assert_eq!(format!("{event:?}"), "Event { set: false, waiting: 1 }");
    event.set();
    assert!(stays.join().unwrap());
}

#[test]
fn a_destructor_cannot_wait_for_an_event_while_it_unwinds() {
    let (event, semaphore, got) = (Event::new(), Semaphore::new(0), Cell::new(None));
    let unwound = catch(|| {
        let _waits = OnDrop(|| {
            let waited = (event.wait(), event.wait_timeout(SECOND));
            got.set(Some((waited, semaphore.acquire_timeout(SECOND).is_some())));
        });
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(unwound.is_err());
    assert_eq!(got.get(), Some(((false, false), false)));
}

#[test]
fn an_event_is_set_by_another_thread() {
    let event = Arc::new(Event::new());
    let thread = std::thread::spawn({
        let event = Arc::clone(&event);
        move || event.set()
    });
    assert!(event.wait());
    thread.join().unwrap();
}

#[test]
fn a_semaphore_hands_over_in_the_order_of_coming_and_nobody_overtakes() {
    let (semaphore, log) = (Semaphore::new(1), Log::new());
    scope(|s| {
        let first = semaphore.acquire();
        for name in ["a", "b"] {
            let (semaphore, log) = (&semaphore, &log);
            s.spawn(move || {
                let _permit = semaphore.acquire();
                log.add(name);
            });
        }
        yield_now();
        drop(first);
        assert!(semaphore.try_acquire().is_none(), "the permit is a's already");
        let _permit = semaphore.acquire();
        log.add("main");
    });
    assert_eq!(log.take(), "a b main");
}

#[test]
fn who_releases_and_acquires_again_and_again_does_not_starve_the_others() {
    let (semaphore, turns) = (Semaphore::new(1), Cell::new(0));
    scope(|s| {
        let greedy = s.spawn(|| {
            for _ in 0..1000 {
                let _permit = semaphore.acquire();
                yield_now();
            }
        });
        let (semaphore, turns) = (&semaphore, &turns);
        s.spawn(move || {
            while !greedy.is_ready() {
                let _permit = semaphore.acquire();
                turns.set(turns.get() + 1);
            }
        });
    });
    assert!((999..=1001).contains(&turns.get()), "one in two, not {}", turns.get());
}

#[test]
fn a_permit_given_to_one_who_is_killed_goes_to_the_next() {
    let semaphore = Rc::new(Semaphore::new(0));
    let log = Log::new();
    let wait = |name: &'static str| {
        let (semaphore, log) = (Rc::clone(&semaphore), log.clone());
        spawn(move || {
            let _permit = semaphore.acquire();
            log.add(name);
        })
    };
    let (victim, next) = (wait("victim"), wait("next"));
    yield_now();
    semaphore.release();
    victim.kill_nowait();
    next.join().unwrap();
    assert!(victim.join().unwrap_err().is::<GreenletExit>());
    assert_eq!(log.take(), "next");
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_permit_is_not_lost_to_one_whose_time_is_up() {
    testing::virtual_clock();
    let semaphore = Rc::new(Semaphore::new(0));
    let late = spawn({
        let semaphore = Rc::clone(&semaphore);
        move || semaphore.acquire_timeout(SECOND).is_some()
    });
    let scoped = spawn({
        let semaphore = Rc::clone(&semaphore);
        move || timeout(SECOND, || drop(semaphore.acquire())).is_ok()
    });
    assert!(!late.join().unwrap());
    assert!(!scoped.join().unwrap());
    semaphore.release();
    assert!(semaphore.try_acquire().is_some());
}

#[test]
fn a_permit_released_at_the_deadline_is_had_or_kept() {
    testing::virtual_clock();
    let semaphore = Rc::new(Semaphore::new(0));
    let waiting = spawn({
        let semaphore = Rc::clone(&semaphore);
        move || semaphore.acquire_timeout(SECOND).map(|permit| permit.forget()).is_some()
    });
    // Comes up in the same turn as the waiter's deadline, after it.
    let releasing = spawn({
        let semaphore = Rc::clone(&semaphore);
        move || {
            sleep(SECOND);
            semaphore.release();
        }
    });
    releasing.join().unwrap();
    let had = waiting.join().unwrap();
    assert_eq!(usize::from(had) + semaphore.available(), 1);
}

#[test]
fn releasing_twice_wakes_two() {
    let semaphore = Rc::new(Semaphore::new(0));
    let both: Vec<_> = (0..2)
        .map(|_| {
            let semaphore = Rc::clone(&semaphore);
            spawn(move || semaphore.acquire().forget())
        })
        .collect();
    yield_now();
    semaphore.release();
    semaphore.release();
    joinall(&both);
    assert_eq!(semaphore.available(), 0);
    semaphore.release();
    assert_eq!(semaphore.available(), 1, "more than it was made with: that is what a bounded one is for");
}

#[test]
fn a_bounded_semaphore_finds_out_what_was_not_acquired() {
    let semaphore = BoundedSemaphore::new(1);
    semaphore.acquire().forget();
    semaphore.release();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| semaphore.release())).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("released more often than it was acquired"));
}

#[test]
fn a_bounded_semaphore_finds_it_out_at_the_latest_when_the_permit_is_dropped() {
    let semaphore = BoundedSemaphore::new(2);
    let permit = semaphore.acquire();
    semaphore.release();
    let panic = catch(|| drop(permit)).unwrap_err();
    assert_eq!(text(&panic), "a semaphore of 2 was released more often than it was acquired");
    assert_eq!(semaphore.available(), 2);

    let permit = semaphore.acquire();
    semaphore.release();
    let panic = catch(|| {
        let _permit = permit;
        std::panic::resume_unwind(Box::new("the first"));
    });
    assert_eq!(text(&panic.unwrap_err()), "the first", "and the process lives");
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn threads_that_release_too_often_do_not_get_over_the_bound() {
    in_child("sync::threads_that_release_too_often_do_not_get_over_the_bound", || {
        // Thousands of them are expected.
        std::panic::set_hook(Box::new(|_| ()));
        time_limit();
        let semaphore = Arc::new(BoundedSemaphore::new(1));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let semaphore = Arc::clone(&semaphore);
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        if let Some(permit) = semaphore.try_acquire() {
                            permit.forget();
                        }
                        // As often as not, one too many.
                        let _ = catch(|| semaphore.release());
                        assert!(semaphore.available() <= 1);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_loop_of_attempts_lets_the_holder_run() {
    time_limit();
    let locks = Rc::new((Semaphore::new(1), Mutex::new(()), RwLock::new(()), ReentrantMutex::new(())));
    let holder = spawn({
        let locks = Rc::clone(&locks);
        move || {
            let _permit = locks.0.acquire();
            yield_now();
            let _guard = locks.1.lock();
            yield_now();
            let _guard = locks.2.write();
            yield_now();
            let _guard = locks.3.lock();
            yield_now();
        }
    });
    while !holder.is_ready() {
        while locks.0.try_acquire().is_none() {}
        while locks.1.try_lock().is_err() {}
        while locks.2.try_read().is_err() {}
        while locks.2.try_write().is_err() {}
        while locks.3.try_lock().is_none() {}
        yield_now();
    }
}

#[test]
fn threads_without_a_hub_share_a_semaphore_and_a_mutex() {
    time_limit();
    let shared = Arc::new((Semaphore::new(1), Mutex::new(0), std::sync::atomic::AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for _ in 0..2_000 {
                    let permit = shared.0.acquire();
                    assert_eq!(shared.2.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    shared.2.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(permit);
                    *shared.1.lock().unwrap() += 1;
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*shared.1.lock().unwrap(), 8_000);
    assert_eq!(shared.0.available(), 1);
}

#[test]
fn a_mutex_may_be_held_across_a_switch() {
    let mutex = Mutex::new(Vec::new());
    scope(|s| {
        for n in 0..3 {
            let mutex = &mutex;
            s.spawn(move || {
                let mut list = mutex.lock().unwrap();
                yield_now();
                list.push(n);
            });
        }
    });
    assert_eq!(*mutex.lock().unwrap(), [0, 1, 2]);
}

#[test]
fn a_lock_that_is_not_had_in_time_leaves_nothing_behind() {
    testing::virtual_clock();
    let mutex = Rc::new(Mutex::new(()));
    let held = mutex.lock().unwrap();
    let before = testing::now();
    let late = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            let late = matches!(mutex.lock_timeout(SECOND), Err(TryLockError::WouldBlock));
            (late, testing::now() - before)
        }
    });
    assert_eq!(late.join().unwrap(), (true, SECOND));
    assert_eq!(format!("{mutex:?}"), "Mutex { data: <locked>, poisoned: false, .. }");
    drop(held);
    assert!(mutex.lock_timeout(SECOND).is_ok());
    assert_eq!(format!("{mutex:?}"), "Mutex { data: (), poisoned: false, .. }");
}

#[test]
fn a_mutex_given_to_one_who_is_killed_goes_to_the_next() {
    let mutex = Rc::new(Mutex::new(0));
    let held = mutex.lock().unwrap();
    let add = || {
        let mutex = Rc::clone(&mutex);
        spawn(move || *mutex.lock().unwrap() += 1)
    };
    let (victim, next) = (add(), add());
    yield_now();
    drop(held);
    victim.kill_nowait();
    next.join().unwrap();
    assert!(victim.join().is_err());
    assert_eq!(*mutex.lock().unwrap(), 1);
    assert!(!mutex.is_poisoned());
}

#[test]
fn a_holder_that_panics_poisons() {
    let mutex = Rc::new(Mutex::new(1));
    let panicked = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            let _held = mutex.lock().unwrap();
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    });
    assert!(panicked.join().is_err());
    assert!(mutex.is_poisoned());
    assert_eq!(*mutex.lock().unwrap_err().into_inner(), 1);
    mutex.clear_poison();
    assert_eq!(*mutex.lock().unwrap(), 1);
}

#[test]
fn a_mutex_that_is_poisoned_says_so_when_it_is_taken_apart() {
    let mut mutex = Mutex::new(1);
    *mutex.get_mut().unwrap() = 2;
    assert!(
        std::panic::catch_unwind(|| {
            let _held = mutex.lock().unwrap();
            std::panic::resume_unwind(Box::new("on purpose"));
        })
        .is_err(),
        "no AssertUnwindSafe is needed, as with std's"
    );
    assert!(matches!(mutex.try_lock(), Err(TryLockError::Poisoned(_))));
    assert_eq!(*mutex.get_mut().unwrap_err().into_inner(), 2);
    assert_eq!(mutex.into_inner().unwrap_err().into_inner(), 2);
}

#[test]
fn greenlets_of_several_threads_hand_a_permit_to_and_fro() {
    time_limit();
    let shared = Arc::new((Semaphore::new(0), Semaphore::new(0), Event::new()));
    let threads: Vec<_> = (0..2)
        .map(|side| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                assert!(shared.2.wait());
                let all: Vec<_> = (0..10)
                    .map(|_| {
                        let shared = Arc::clone(&shared);
                        spawn(move || {
                            for _ in 0..50 {
                                let (take, give) =
                                    if side == 0 { (&shared.0, &shared.1) } else { (&shared.1, &shared.0) };
                                take.acquire().forget();
                                give.release();
                            }
                        })
                    })
                    .collect();
                joinall(&all);
            })
        })
        .collect();
    shared.2.set();
    shared.0.release();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((shared.0.available(), shared.1.available()), (1, 0));
}

#[test]
fn all_readers_of_a_result_get_it_and_it_is_set_once() {
    let result = Rc::new(AsyncResult::<String, &str>::new());
    let got = Rc::new(RefCell::new(Vec::<Result<String, &str>>::new()));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (result, got) = (Rc::clone(&result), Rc::clone(&got));
            spawn(move || {
                let value = result.get().cloned().map_err(|error| *error);
                got.borrow_mut().push(value);
            })
        })
        .collect();
    yield_now();
    assert!(result.try_get().is_none() && !result.is_ready());
    result.set("value".into()).unwrap();
    assert_eq!(result.set("again".into()).unwrap_err().0, "again");
    assert_eq!(result.set_error("error").unwrap_err().0, "error");
    joinall(&readers);
    assert_eq!(*got.borrow(), [Ok("value".to_owned()), Ok("value".to_owned())]);
    assert!(result.is_successful());
}

#[test]
fn an_error_is_what_every_reader_gets() {
    let result = AsyncResult::<i32>::new();
    result.set_error("no luck".into()).unwrap();
    for _ in 0..2 {
        assert_eq!(result.get().unwrap_err().to_string(), "no luck");
    }
    assert!(result.is_ready() && !result.is_successful());
}

#[test]
fn a_result_goes_from_and_to_any_thread() {
    time_limit();
    let (there, back) = (Arc::new(AsyncResult::<u32>::new()), Arc::new(AsyncResult::<u32>::new()));
    let thread = std::thread::spawn({
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        move || back.set(there.get().unwrap() + 1).unwrap()
    });
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let back = Arc::clone(&back);
            spawn(move || *back.get().unwrap())
        })
        .collect();
    yield_now();
    there.set(1).unwrap();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 2);
    }
    thread.join().unwrap();
}

#[test]
fn a_result_that_does_not_come_in_time_is_elapsed() {
    testing::virtual_clock();
    assert!(AsyncResult::<i32>::new().get_timeout(SECOND).is_err());
}
