//! Locks and the like that std has: std's facts, and those that are new because one can be killed while one waits.

use std::cell::{Cell, RefCell};
use std::panic::{RefUnwindSafe, UnwindSafe, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use switchgrass::channel::{self, Sender};
use switchgrass::sync::{
    Barrier, Condvar, Event, LazyLock, Mutex, Once, OnceLock, ReentrantMutex, RwLock, RwLockReadGuard,
    RwLockWriteGuard, Semaphore, TryLockError,
};
use switchgrass::{Greenlet, joinall, scope, sleep, spawn, testing, timeout, yield_now};

use crate::util::{Clock, Drops, HOUR, Log, OnDrop, catch, forever, is_exit, secs, text, time_limit};

fn panic_on_purpose() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// A greenlet that does something with a shared thing.
fn with<S: 'static, T: 'static>(shared: &Rc<S>, f: impl FnOnce(&S) -> T + 'static) -> Greenlet<T> {
    let shared = Rc::clone(shared);
    spawn(move || f(&shared))
}

#[test]
fn all_of_them_may_be_shared_and_sent_as_those_of_std() {
    fn all<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    fn sync<T: Sync>() {}
    all::<Mutex<Cell<i32>>>();
    all::<RwLock<i32>>();
    all::<(Condvar, Barrier, Once, Event, Semaphore)>();
    all::<OnceLock<i32>>();
    all::<LazyLock<i32, fn() -> i32>>();
    all::<ReentrantMutex<i32>>();
    sync::<ReentrantMutex<RefCell<i32>>>();
    sync::<RwLockReadGuard<'_, i32>>();
    sync::<RwLockWriteGuard<'_, i32>>();
}

// ---- RwLock ---------------------------------------------------------------------------------------------------------------

/// Greenlets that read or write, hold it over a switch, and log when they come in and go.
fn visitors(lock: &Rc<RwLock<()>>, log: &Log, names: &[&'static str]) -> Vec<Greenlet<()>> {
    let visit = |name: &'static str| {
        let log = log.clone();
        with(lock, move |lock| {
            let hold = |guard: &dyn std::any::Any| {
                let _ = guard;
                log.add(format!("+{name}"));
                yield_now();
                yield_now();
                log.add(format!("-{name}"));
            };
            if name.starts_with('r') {
                let _guard = lock.read().unwrap();
                hold(&());
            } else {
                let _guard = lock.write().unwrap();
                hold(&());
            }
        })
    };
    let all = names.iter().map(|name| visit(name)).collect();
    yield_now();
    all
}

#[test]
fn readers_share_and_a_waiting_writer_is_not_overtaken() {
    let (lock, log) = (Rc::new(RwLock::new(())), Log::new());
    joinall(visitors(&lock, &log, &["r1", "r2", "w1", "r3", "r4", "w2", "r5"]));
    assert_eq!(log.take(), "+r1 +r2 -r1 -r2 +w1 -w1 +r3 +r4 -r3 -r4 +w2 -w2 +r5 -r5");
}

#[test]
fn attempts_fail_while_somebody_is_inside_or_waits() {
    let (lock, log) = (Rc::new(RwLock::new(())), Log::new());
    let reading = lock.read().unwrap();
    assert!(lock.try_read().is_ok(), "readers share");
    assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
    let writer = visitors(&lock, &log, &["w"]);
    assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)), "a writer waits");
    drop(reading);
    assert!(lock.try_read().is_err() && lock.try_write().is_err(), "it is the writer's already");
    joinall(&writer);
    assert!(lock.try_write().is_ok());
    let _reading = lock.try_read().unwrap();
}

#[test]
fn a_writer_that_is_killed_in_line_lets_the_readers_behind_it_in() {
    let (lock, log) = (Rc::new(RwLock::new(())), Log::new());
    let _reading = lock.read().unwrap();
    let all = visitors(&lock, &log, &["w1", "r1", "r2", "w2"]);
    assert_eq!(log.take(), "");
    all[0].kill();
    joinall(&all[1..3]);
    assert_eq!(log.take(), "+r1 +r2 -r1 -r2");
    all[3].kill();
    assert!(lock.try_read().is_ok(), "nobody is in line any more");
}

#[test]
fn a_writer_whose_time_is_up_lets_the_readers_behind_it_in() {
    testing::virtual_clock();
    let (lock, log) = (Rc::new(RwLock::new(())), Log::new());
    let _reading = lock.read().unwrap();
    let writer = with(&lock, |lock| timeout(secs(1), || drop(lock.write())).is_err());
    yield_now();
    let reader = visitors(&lock, &log, &["r"]);
    assert!(writer.join().unwrap());
    joinall(&reader);
    assert!(!lock.is_poisoned());
}

#[test]
fn the_right_to_go_in_passes_from_one_who_is_killed_to_the_next() {
    for names in [["w1", "w2", "r"], ["w1", "r", "w2"], ["r", "w1", "w2"]] {
        let (lock, log) = (Rc::new(RwLock::new(())), Log::new());
        let writing = lock.write().unwrap();
        let all = visitors(&lock, &log, &names);
        drop(writing);
        // It is the first one's now, who does not know yet.
        all[0].kill_nowait();
        joinall(&all);
        let [_, second, third] = names;
        assert_eq!(log.take(), format!("+{second} -{second} +{third} -{third}"));
        assert!(lock.try_write().is_ok());
    }
}

#[test]
fn a_writer_that_becomes_a_reader_lets_readers_in_and_no_writer() {
    let (lock, log) = (Rc::new(RwLock::new(())), Log::new());
    let writing = lock.write().unwrap();
    let all = visitors(&lock, &log, &["r1", "r2", "w"]);
    let reading = RwLockWriteGuard::downgrade(writing);
    joinall(&all[..2]);
    assert_eq!(log.take(), "+r1 +r2 -r1 -r2");
    drop(reading);
    joinall(&all);
    assert_eq!(log.take(), "+w -w");
    assert!(!lock.is_poisoned());
}

#[test]
fn a_writer_that_panics_poisons_and_a_reader_does_not() {
    let lock = RwLock::new(1);
    assert!(
        catch(|| {
            let _reading = lock.read().unwrap();
            panic_on_purpose()
        })
        .is_err()
    );
    assert!(!lock.is_poisoned());
    assert!(
        catch(|| {
            let _writing = lock.write().unwrap();
            panic_on_purpose()
        })
        .is_err()
    );
    assert!(lock.is_poisoned() && lock.read().is_err() && lock.write().is_err());
    assert!(matches!(lock.try_read(), Err(TryLockError::Poisoned(_))));
    assert_eq!(format!("{lock:?}"), "RwLock { data: 1, poisoned: true, .. }");
    *lock.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = 2;
    lock.clear_poison();
    assert_eq!(*lock.read().unwrap(), 2);
}

#[test]
fn a_poisoned_lock_says_so_when_it_is_taken_apart() {
    let mut lock = RwLock::new(Rc::new(1));
    *lock.get_mut().unwrap() = Rc::new(2);
    assert!(
        catch(|| {
            let _writing = lock.write().unwrap();
            panic_on_purpose()
        })
        .is_err()
    );
    assert_eq!(**lock.get_mut().unwrap_err().into_inner(), 2);
    assert_eq!(*lock.into_inner().unwrap_err().into_inner(), 2);
}

#[test]
fn a_lock_is_usable_in_a_destructor_that_a_panic_runs() {
    let lock = RwLock::new(1);
    let result = catch(|| {
        let _adds = OnDrop(|| *lock.write().unwrap() += 1);
        panic_on_purpose()
    });
    assert!(result.is_err() && !lock.is_poisoned(), "it was locked after the panic began");
    assert_eq!(*lock.read().unwrap(), 2);
}

#[test]
fn a_lock_holds_what_has_no_size() {
    let lock: &RwLock<[i32]> = &RwLock::new([4, 2]);
    lock.write().unwrap()[0] = 5;
    assert_eq!(*lock.read().unwrap(), [5, 2]);
}

#[test]
fn readers_and_writers_of_several_threads_exclude_each_other() {
    time_limit();
    let shared = Arc::new((RwLock::new(0_usize), AtomicUsize::new(0), AtomicBool::new(false)));
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (lock, readers, writes) = &*shared;
                let mut random = thread;
                for _ in 0..2000 {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    if (random >> 33) % 4 == 0 {
                        let mut count = lock.write().unwrap();
                        assert!(!writes.swap(true, Ordering::SeqCst));
                        assert_eq!(readers.load(Ordering::SeqCst), 0);
                        *count += 1;
                        writes.store(false, Ordering::SeqCst);
                    } else {
                        let count = lock.read().unwrap();
                        readers.fetch_add(1, Ordering::SeqCst);
                        assert!(!writes.load(Ordering::SeqCst) && *count <= 8000);
                        readers.fetch_sub(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(*shared.0.read().unwrap() > 1000 && shared.0.try_write().is_ok());
}

// ---- Condvar --------------------------------------------------------------------------------------------------------------

type Pair = (Mutex<u32>, Condvar);

/// Greenlets that wait once each, and log that they were woken, with the mutex locked.
fn waiters(pair: &Rc<Pair>, log: &Log, names: &[&'static str]) -> Vec<Greenlet<()>> {
    let wait = |name: &'static str| {
        let log = log.clone();
        with(pair, move |(mutex, condvar)| {
            let _guard = condvar.wait(mutex.lock().unwrap()).unwrap();
            assert!(mutex.try_lock().is_err());
            log.add(name);
        })
    };
    let all = names.iter().map(|name| wait(name)).collect();
    yield_now();
    all
}

#[test]
fn notifications_wake_in_the_order_of_coming() {
    let (pair, log) = (Rc::new(Pair::default()), Log::new());
    let all = waiters(&pair, &log, &["a", "b", "c", "d"]);
    pair.1.notify_one();
    sleep(Duration::from_millis(1));
    assert_eq!(log.take(), "a");
    pair.1.notify_one();
    pair.1.notify_one();
    sleep(Duration::from_millis(1));
    assert_eq!(log.take(), "b c");
    assert!(!all[3].is_ready());
    pair.1.notify_all();
    joinall(&all);
    assert_eq!(log.take(), "d");
}

#[test]
fn all_are_woken_and_have_the_mutex_one_after_the_other() {
    let (pair, log) = (Rc::new(Pair::default()), Log::new());
    let all = waiters(&pair, &log, &["a", "b", "c"]);
    let guard = pair.0.lock().unwrap();
    pair.1.notify_all();
    yield_now();
    assert_eq!(log.take(), "", "main has the mutex");
    drop(guard);
    joinall(&all);
    assert_eq!(log.take(), "a b c");
}

#[test]
fn a_notification_without_anybody_who_waits_is_gone() {
    let clock = Clock::start();
    let (mutex, condvar) = Pair::default();
    condvar.notify_one();
    condvar.notify_all();
    let (_guard, result) = condvar.wait_timeout(mutex.lock().unwrap(), secs(1)).unwrap();
    assert!(result.timed_out());
    assert_eq!(clock.elapsed(), secs(1));
}

#[test]
fn a_notification_given_to_one_who_is_killed_goes_to_the_next() {
    let (pair, log) = (Rc::new(Pair::default()), Log::new());
    let all = waiters(&pair, &log, &["a", "b", "c"]);
    pair.1.notify_one();
    all[0].kill_nowait();
    joinall(&all[1..2]);
    assert_eq!(log.take(), "b");
    assert!(!all[2].is_ready() && pair.0.try_lock().is_ok() && !pair.0.is_poisoned());
    all[2].kill();
}

#[test]
fn a_notification_given_to_one_who_is_killed_before_it_has_the_mutex_goes_to_the_next() {
    let (pair, log) = (Rc::new(Pair::default()), Log::new());
    let all = waiters(&pair, &log, &["a", "b"]);
    let guard = pair.0.lock().unwrap();
    pair.1.notify_one();
    yield_now();
    all[0].kill();
    drop(guard);
    joinall(&all);
    assert_eq!(log.take(), "b");
    assert!(pair.0.try_lock().is_ok() && !pair.0.is_poisoned());
}

#[test]
fn one_of_many_that_were_all_told_passes_nothing_on() {
    let (pair, log) = (Rc::new(Pair::default()), Log::new());
    let first = waiters(&pair, &log, &["a"]);
    pair.1.notify_all();
    let later = waiters(&pair, &log, &["b"]);
    first[0].kill();
    yield_now();
    assert!(!later[0].is_ready());
    later[0].kill();
}

#[test]
fn a_notification_is_not_lost_to_one_whose_time_is_up() {
    testing::virtual_clock();
    let pair = Rc::new(Pair::default());
    let late = with(&pair, |(mutex, condvar)| {
        condvar.wait_timeout(mutex.lock().unwrap(), secs(1)).unwrap().1.timed_out()
    });
    let scoped = with(&pair, |(mutex, condvar)| {
        timeout(secs(1), || drop(condvar.wait(mutex.lock().unwrap()))).is_err()
    });
    let notified = with(&pair, |(mutex, condvar)| {
        condvar.wait_timeout(mutex.lock().unwrap(), secs(10)).unwrap().1.timed_out()
    });
    sleep(secs(2));
    pair.1.notify_one();
    assert!(late.join().unwrap() && scoped.join().unwrap());
    assert!(!notified.join().unwrap());
    assert!(!pair.0.is_poisoned());
}

#[test]
fn waiting_for_a_condition_looks_at_it_after_each_notification() {
    let pair = Rc::new(Pair::default());
    let looks = Rc::new(Cell::new(0));
    let count = Rc::clone(&looks);
    let waiting = with(&pair, move |(mutex, condvar)| {
        let guard = condvar.wait_while(mutex.lock().unwrap(), |value| {
            count.set(count.get() + 1);
            *value < 2
        });
        *guard.unwrap()
    });
    for _ in 0..2 {
        yield_now();
        *pair.0.lock().unwrap() += 1;
        pair.1.notify_one();
    }
    assert_eq!(waiting.join().unwrap(), 2);
    assert_eq!(looks.get(), 3);
}

#[test]
fn waiting_for_a_condition_ends_when_the_time_is_up() {
    let clock = Clock::start();
    let pair = Rc::new(Pair::default());
    let (mutex, condvar) = &*pair;
    let (guard, result) = condvar.wait_timeout_while(mutex.lock().unwrap(), secs(1), |_| true).unwrap();
    assert!(result.timed_out());
    assert_eq!(clock.elapsed(), secs(1));
    let (guard, result) = condvar.wait_timeout_while(guard, secs(1), |_| false).unwrap();
    assert!(!result.timed_out());
    assert_eq!(clock.elapsed(), secs(1));
    drop(guard);
    // Notified each second, and the time counts from the beginning.
    let notifying = with(&pair, |(_, condvar)| {
        loop {
            sleep(secs(1));
            condvar.notify_all();
        }
    });
    let begin = clock.elapsed();
    let (guard, result) =
        condvar.wait_timeout_while(mutex.lock().unwrap(), Duration::from_millis(2500), |_| true).unwrap();
    assert!(result.timed_out());
    assert_eq!(clock.elapsed() - begin, Duration::from_millis(2500));
    drop(guard);
    notifying.kill();
}

#[test]
fn waiting_gives_the_poison_of_the_mutex() {
    let pair = Rc::new(Pair::default());
    let waiting = with(&pair, |(mutex, condvar)| condvar.wait(mutex.lock().unwrap()).is_err());
    yield_now();
    let panics = with(&pair, |(mutex, condvar)| {
        let _guard = mutex.lock().unwrap();
        condvar.notify_one();
        panic_on_purpose()
    });
    assert!(panics.join().is_err());
    assert!(waiting.join().unwrap());
}

#[test]
fn a_token_goes_round_greenlets_of_several_threads_by_notifications() {
    time_limit();
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 200;
    let pair = Arc::new(Pair::default());
    let threads: Vec<_> = (0..THREADS)
        .map(|own| {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                for _ in 0..ROUNDS {
                    let mut turn =
                        pair.1.wait_while(pair.0.lock().unwrap(), |turn| *turn % THREADS != own).unwrap();
                    *turn += 1;
                    pair.1.notify_all();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*pair.0.lock().unwrap(), THREADS * ROUNDS);
}

// ---- Barrier --------------------------------------------------------------------------------------------------------------

#[test]
fn a_barrier_keeps_all_in_step_and_each_round_has_one_leader() {
    const N: usize = 5;
    const ROUNDS: usize = 10;
    let barrier = Barrier::new(N);
    let (arrived, leaders) = (Cell::new(0), Cell::new(0));
    scope(|s| {
        for n in 0..N {
            let (barrier, arrived, leaders) = (&barrier, &arrived, &leaders);
            s.spawn(move || {
                for round in 1..=ROUNDS {
                    for _ in 0..(n * round) % 4 {
                        yield_now();
                    }
                    arrived.set(arrived.get() + 1);
                    let leads = barrier.wait().is_leader();
                    leaders.set(leaders.get() + usize::from(leads));
                    assert!((N * round..N * (round + 1)).contains(&arrived.get()));
                }
            });
        }
    });
    assert_eq!(leaders.get(), ROUNDS);
}

#[test]
fn the_last_to_come_leads_and_the_others_go_on_in_the_order_of_coming() {
    let (barrier, log) = (Rc::new(Barrier::new(3)), Log::new());
    let wait = |name: &'static str| {
        let log = log.clone();
        with(&barrier, move |barrier| {
            assert!(!barrier.wait().is_leader());
            log.add(name);
        })
    };
    let both = [wait("a"), wait("b")];
    yield_now();
    assert!(barrier.wait().is_leader());
    assert_eq!(log.take(), "", "who comes last does not wait");
    joinall(&both);
    assert_eq!(log.take(), "a b");
}

#[test]
fn a_barrier_for_none_or_one_lets_everybody_through() {
    for size in [0, 1] {
        let barrier = Barrier::new(size);
        assert!(barrier.wait().is_leader() && barrier.wait().is_leader());
    }
}

#[test]
fn who_is_killed_at_a_barrier_has_not_come() {
    testing::virtual_clock();
    let barrier = Rc::new(Barrier::new(3));
    let wait = || with(&barrier, |barrier| barrier.wait().is_leader());
    let (killed, late) = (wait(), with(&barrier, |barrier| timeout(secs(1), || barrier.wait()).is_err()));
    yield_now();
    killed.kill();
    assert!(late.join().unwrap());
    let stays = wait();
    yield_now();
    assert_eq!(format!("{barrier:?}"), "Barrier { size: 3, waiting: 1 }");
    let second = wait();
    yield_now();
    assert!(!stays.is_ready() && !second.is_ready(), "two of three have come");
    assert!(barrier.wait().is_leader());
    joinall(&[stays, second]);
}

#[test]
fn a_kill_after_the_last_has_come_changes_nothing_for_the_others() {
    let barrier = Rc::new(Barrier::new(3));
    let wait = || with(&barrier, |barrier| barrier.wait().is_leader());
    let (killed, stays) = (wait(), wait());
    yield_now();
    barrier.wait();
    killed.kill();
    assert!(!stays.join().unwrap());
    assert_eq!(format!("{barrier:?}"), "Barrier { size: 3, waiting: 0 }");
}

#[test]
fn a_barrier_joins_threads() {
    time_limit();
    let shared = Arc::new((Barrier::new(4), AtomicUsize::new(0), AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for round in 1..=100 {
                    shared.1.fetch_add(1, Ordering::SeqCst);
                    if shared.0.wait().is_leader() {
                        shared.2.fetch_add(1, Ordering::SeqCst);
                    }
                    assert!(shared.1.load(Ordering::SeqCst) >= 4 * round);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(shared.2.load(Ordering::SeqCst), 100);
}

// ---- Once, OnceLock, LazyLock ---------------------------------------------------------------------------------------------

#[test]
fn an_initialiser_that_switches_runs_once_and_the_others_wait_for_it() {
    let (once, runs) = (Once::new(), Cell::new(0));
    scope(|s| {
        for _ in 0..10 {
            s.spawn(|| {
                for _ in 0..3 {
                    yield_now();
                }
                once.call_once(|| {
                    yield_now();
                    runs.set(runs.get() + 1);
                    yield_now();
                });
                assert!(once.is_completed());
                assert_eq!(runs.get(), 1);
            });
        }
        s.spawn(|| {
            once.wait();
            assert_eq!(runs.get(), 1);
        });
    });
}

#[test]
fn a_stampede_of_threads_runs_an_initialiser_once() {
    static ONCE: Once = Once::new();
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    time_limit();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(|| {
                yield_now();
                ONCE.call_once(|| {
                    sleep(Duration::from_millis(1));
                    RUNS.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(RUNS.load(Ordering::Relaxed), 1);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn an_initialiser_that_panics_poisons_until_one_is_forced() {
    let once = Once::new();
    assert!(catch(|| once.call_once(|| panic_on_purpose())).is_err());
    for call in [|once: &Once| once.call_once(|| ()), Once::wait] {
        let payload = catch(|| call(&once)).unwrap_err();
        assert_eq!(text(&payload), "Once instance has previously been poisoned");
    }
    assert!(!once.is_completed());
    let told = Cell::new(false);
    once.call_once_force(|state| told.set(state.is_poisoned()));
    assert!(told.get() && once.is_completed());
    once.call_once(|| unreachable!());
    once.call_once_force(|_| unreachable!());
    once.wait();
}

#[test]
fn those_who_wait_for_an_initialiser_that_is_killed_are_told() {
    let once = Rc::new(Once::new());
    let killed = with(&once, |once| once.call_once(|| sleep(HOUR)));
    let waiting = with(&once, |once| once.call_once(|| unreachable!()));
    let forcing = with(&once, |once| {
        let mut poisoned = None;
        once.call_once_force(|state| poisoned = Some(state.is_poisoned()));
        poisoned
    });
    let patient = with(&once, |once| once.wait_force());
    yield_now();
    killed.kill();
    assert!(text(&waiting.join().unwrap_err()).contains("poisoned"));
    assert_eq!(forcing.join().unwrap(), Some(true));
    patient.join().unwrap();
}

#[test]
fn who_is_killed_while_it_waits_for_an_initialiser_poisons_nothing() {
    let (once, go) = (Rc::new(Once::new()), Rc::new(Event::new()));
    let running = with(&once, {
        let go = Rc::clone(&go);
        move |once| once.call_once(|| assert!(go.wait()))
    });
    let waiting = with(&once, |once| once.call_once(|| unreachable!()));
    yield_now();
    waiting.kill();
    go.set();
    running.join().unwrap();
    assert!(once.is_completed());
}

#[test]
fn an_initialiser_that_needs_itself_panics_instead_of_waiting() {
    let once = Once::new();
    let payload = catch(|| once.call_once(|| once.call_once(|| ()))).unwrap_err();
    assert!(text(&payload).contains("would wait for itself"));
    static SELF: LazyLock<u32> = LazyLock::new(|| *SELF + 1);
    assert!(text(&catch(|| *SELF).unwrap_err()).contains("would wait for itself"));
}

#[test]
fn a_value_is_set_once() {
    let mut cell = OnceLock::new();
    assert_eq!(cell.get(), None);
    assert_eq!(format!("{cell:?}"), "OnceLock(<uninit>)");
    assert_eq!(cell.set(1), Ok(()));
    assert_eq!(cell.set(2), Err(2));
    assert_eq!((cell.get(), cell.get_or_init(|| unreachable!()), cell.wait()), (Some(&1), &1, &1));
    assert_eq!(format!("{cell:?}"), "OnceLock(1)");
    *cell.get_mut().unwrap() = 3;
    assert_eq!((cell.clone(), cell.clone().into_inner()), (OnceLock::from(3), Some(3)));
    assert_eq!(cell.take(), Some(3));
    assert_eq!((cell.take(), cell.get_or_init(|| 4)), (None, &4));
}

#[test]
fn a_value_is_dropped_with_its_cell() {
    let drops = Drops::new();
    let cell = OnceLock::new();
    assert!(cell.set(drops.guard()).is_ok());
    assert!(cell.set(drops.guard()).is_err());
    assert_eq!(drops.count(), 1);
    drop(cell);
    drop(OnceLock::<crate::util::DropGuard>::new());
    assert_eq!((drops.count(), drops.made()), (2, 2));
}

#[test]
fn one_initialises_and_all_get_the_same_value() {
    let cell = Rc::new(OnceLock::new());
    let all: Vec<_> = (0..5)
        .map(|n| {
            with(&cell, move |cell| {
                *cell.get_or_init(|| {
                    yield_now();
                    n
                })
            })
        })
        .collect();
    let waiting = with(&cell, |cell| *cell.wait());
    for greenlet in all {
        assert_eq!(greenlet.join().unwrap(), 0);
    }
    assert_eq!(waiting.join().unwrap(), 0);
}

#[test]
fn an_initialiser_that_fails_leaves_it_to_the_next_in_line() {
    let cell = Rc::new(OnceLock::new());
    let killed = with(&cell, |cell| {
        *cell.get_or_init(|| {
            sleep(HOUR);
            0
        })
    });
    let panics = with(&cell, |cell| {
        *cell.get_or_init(|| {
            yield_now();
            panic_on_purpose()
        })
    });
    let fails = with(&cell, |cell| {
        cell.get_or_try_init(|| {
            yield_now();
            Err("no luck")
        })
        .copied()
    });
    let works = with(&cell, |cell| *cell.get_or_init(|| 3));
    let late = with(&cell, |cell| cell.set(4));
    yield_now();
    killed.kill();
    assert!(is_exit(&killed.join()));
    assert!(panics.join().is_err());
    assert_eq!(fails.join().unwrap(), Err("no luck"));
    assert_eq!(works.join().unwrap(), 3);
    assert_eq!(late.join().unwrap(), Err(4));
}

#[test]
fn a_lazy_value_is_made_when_it_is_first_used() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    static LAZY: LazyLock<usize> = LazyLock::new(|| {
        yield_now();
        MADE.fetch_add(1, Ordering::SeqCst) + 41
    });
    assert_eq!((MADE.load(Ordering::SeqCst), LazyLock::get(&LAZY)), (0, None));
    assert_eq!(format!("{LAZY:?}"), "LazyLock(<uninit>)");
    let both = [spawn(|| *LAZY), spawn(|| *LazyLock::force(&LAZY))];
    for greenlet in both {
        assert_eq!(greenlet.join().unwrap(), 41);
    }
    assert_eq!((MADE.load(Ordering::SeqCst), LazyLock::get(&LAZY)), (1, Some(&41)));
    let mut own = LazyLock::new(|| 1);
    assert_eq!(LazyLock::get_mut(&mut own), None);
    *own += 1;
    assert_eq!((*own, *LazyLock::<u8>::default()), (2, 0));
}

#[test]
fn a_lazy_value_whose_initialiser_panics_is_poisoned() {
    let lazy: LazyLock<u32> = LazyLock::new(|| panic_on_purpose());
    assert!(catch(|| *lazy).unwrap_err().is::<&str>());
    for _ in 0..2 {
        let payload = catch(|| *lazy).unwrap_err();
        assert_eq!(text(&payload), "LazyLock instance has previously been poisoned");
    }
    drop(lazy);
}

// ---- ReentrantMutex -------------------------------------------------------------------------------------------------------

#[test]
fn the_owner_locks_again_and_the_others_wait_for_the_last_guard() {
    let (mutex, log) = (Rc::new(ReentrantMutex::new(RefCell::new(0))), Log::new());
    let (first, second) = (mutex.lock(), mutex.try_lock().unwrap());
    let other = with(&mutex, {
        let log = log.clone();
        move |mutex| {
            assert!(mutex.try_lock().is_none(), "the owner is the greenlet, not the thread");
            let guard = mutex.lock();
            let _again = mutex.lock();
            *guard.borrow_mut() += 1;
            log.add("other");
        }
    });
    yield_now();
    drop(first);
    yield_now();
    *second.borrow_mut() += 1;
    log.add("main");
    drop(second);
    other.join().unwrap();
    assert_eq!(log.take(), "main other");
    assert_eq!(*mutex.lock().borrow(), 2);
}

#[test]
fn an_owner_that_panics_unlocks_and_does_not_poison() {
    testing::virtual_clock();
    let mutex = Rc::new(ReentrantMutex::new(()));
    let panics = with(&mutex, |mutex| {
        let (_first, _second) = (mutex.lock(), mutex.lock());
        yield_now();
        panic_on_purpose()
    });
    yield_now();
    assert!(mutex.try_lock().is_none());
    assert!(panics.join().is_err());
    assert!(mutex.lock_timeout(secs(1)).is_some());
}

#[test]
fn threads_count_under_a_mutex_that_each_locks_twice() {
    time_limit();
    let mutex = Arc::new(ReentrantMutex::new(Cell::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mutex = Arc::clone(&mutex);
            thread::spawn(move || {
                for _ in 0..1000 {
                    let (first, second) = (mutex.lock(), mutex.lock());
                    first.set(second.get() + 1);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(mutex.lock().get(), 4000);
}

// ---- The line -------------------------------------------------------------------------------------------------------------

/// `catch` of an exit, again and again, until this greenlet is given up.
fn never_give_way(wait: impl Fn()) {
    loop {
        drop(catch(&wait));
    }
}

#[test]
fn one_that_is_given_up_at_the_end_of_its_thread_stands_in_nobodys_way() {
    time_limit();
    let shared = Arc::new((Event::new(), Mutex::new(()), RwLock::new(()), Barrier::new(2)));
    let held = (shared.1.lock().unwrap(), shared.2.write().unwrap());
    let thread = thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            for which in 0..4 {
                let shared = Arc::clone(&shared);
                drop(spawn(move || {
                    never_give_way(|| match which {
                        0 => drop(shared.0.wait()),
                        1 => drop(shared.1.lock()),
                        2 => drop(shared.2.read()),
                        _ => drop(shared.3.wait()),
                    });
                }));
            }
            yield_now();
        }
    });
    thread.join().unwrap();
    drop(held);
    shared.0.set();
    assert!(shared.1.try_lock().is_ok() && shared.2.try_write().is_ok());
    assert_eq!(format!("{:?}", shared.3), "Barrier { size: 2, waiting: 0 }");
}

#[test]
fn what_cannot_be_sent_at_the_end_of_a_thread_is_dropped_when_the_channel_is_free() {
    struct Looks(Sender<Option<Looks>>, Drops);
    impl Drop for Looks {
        fn drop(&mut self) {
            assert_eq!(self.0.len(), 1);
            drop(self.1.guard());
        }
    }
    time_limit();
    let looked = Drops::new();
    let thread = thread::spawn({
        let looked = looked.clone();
        move || {
            let (tx, rx) = channel::bounded(1);
            tx.send(None).unwrap();
            drop(spawn(move || {
                let _rx = rx;
                assert!(is_exit(&catch(|| forever())));
                let message = Looks(tx.clone(), looked.clone());
                drop(catch(|| tx.send(Some(message))));
            }));
            yield_now();
        }
    });
    thread.join().unwrap();
    assert_eq!(looked.count(), 1);
}

#[test]
fn who_waits_when_its_thread_ends_leaves_the_line_and_passes_on_what_it_was_given() {
    time_limit();
    let shared = Arc::new((Semaphore::new(0), RwLock::new(())));
    let held = shared.1.read().unwrap();
    let (wait, told) = std::sync::mpsc::channel();
    let thread = thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            for _ in 0..3 {
                let permits = Arc::clone(&shared);
                drop(spawn(move || permits.0.acquire().forget()));
                let lock = Arc::clone(&shared);
                drop(spawn(move || drop(lock.1.write())));
            }
            yield_now();
            wait.send(()).unwrap();
            shared.0.release();
        }
    });
    told.recv().unwrap();
    let reader = thread::spawn({
        let shared = Arc::clone(&shared);
        move || drop(shared.1.read().unwrap())
    });
    thread.join().unwrap();
    reader.join().unwrap();
    drop(held);
    assert_eq!(shared.0.available(), 1);
    assert!(shared.1.try_write().is_ok());
}

#[test]
fn a_destructor_that_blocks_its_thread_is_served_before_others_of_that_thread() {
    time_limit();
    let semaphore = Arc::new(Semaphore::new(1));
    let held = semaphore.acquire();
    let thread = thread::spawn({
        let semaphore = Arc::clone(&semaphore);
        move || {
            let log = Log::new();
            let pass = |name| {
                let (semaphore, log) = (Arc::clone(&semaphore), log.clone());
                move || {
                    let _permit = semaphore.acquire();
                    log.add(name);
                }
            };
            let waiting = spawn(pass("greenlet"));
            yield_now();
            let result = catch(|| {
                let _passes = OnDrop(pass("destructor"));
                panic_on_purpose()
            });
            assert!(result.is_err());
            waiting.join().unwrap();
            log.take()
        }
    });
    while !format!("{semaphore:?}").contains("waiting: 2") {
        yield_now();
    }
    drop(held);
    assert_eq!(thread.join().unwrap(), "destructor greenlet");
}

#[test]
fn a_destructor_that_waits_while_it_unwinds_is_not_missed() {
    time_limit();
    let shared = Arc::new((Mutex::new(0_u32), RwLock::new(0_u32), AtomicBool::new(false)));
    let other = thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            while !shared.2.load(Ordering::Relaxed) {
                *shared.0.lock().unwrap() += 1;
                *shared.1.write().unwrap() += 1;
                // Not one after the other without a gap: the other thread would seldom get in between.
                (0..100).for_each(|_| std::hint::spin_loop());
            }
        }
    });
    let (mut waits, start) = (0, Instant::now());
    while waits < 100 && start.elapsed() < secs(2) {
        let result = catch(|| {
            let _locks = OnDrop(|| {
                waits += u32::from(shared.0.try_lock().is_err());
                *shared.0.lock().unwrap() += 1;
                drop(shared.1.read().unwrap());
            });
            panic_on_purpose()
        });
        assert!(result.is_err());
    }
    shared.2.store(true, Ordering::Relaxed);
    other.join().unwrap();
    assert!(!shared.0.is_poisoned() && !shared.1.is_poisoned());
}
