//! `std::sync`, `std::thread::park`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, MutexGuard, Once, OnceLock, RwLock, mpsc};
use std::time::{Duration, Instant};

use crate::util::{Overlap, all_at_once, let_all_run, patched, waits};
use switchgrass::{joinall, spawn, yield_now};

#[test]
fn a_std_mutex_may_be_held_over_a_switch() {
    patched();
    let mutex = Arc::new(Mutex::new(0));
    let inside = Arc::new(Overlap::default());
    let greenlets: Vec<_> = (0..100)
        .map(|_| {
            let (mutex, inside) = (Arc::clone(&mutex), Arc::clone(&inside));
            spawn(move || {
                let mut count = mutex.lock().unwrap();
                inside.during(yield_now);
                *count += 1;
            })
        })
        .collect();
    joinall(&greenlets);
    assert_eq!((*mutex.lock().unwrap(), inside.most()), (100, 1));
}

#[test]
fn a_hundred_greenlets_meet_at_a_std_barrier() {
    let barrier = Arc::new(Barrier::new(100));
    all_at_once(100, move |_| {
        barrier.wait();
    });
}

#[test]
fn a_hundred_greenlets_wait_for_a_std_condvar() {
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    all_at_once(100, move |_| {
        let (mutex, condvar) = &*pair;
        let mut count = mutex.lock().unwrap();
        *count += 1;
        condvar.notify_all();
        while *count < 100 {
            count = condvar.wait(count).unwrap();
        }
    });
}

#[test]
fn writers_wait_for_readers_of_a_std_rwlock() {
    patched();
    let lock = Arc::new(RwLock::new(0));
    let reading = lock.read().unwrap();
    let writers: Vec<_> = (0..10)
        .map(|_| {
            let lock = Arc::clone(&lock);
            spawn(move || *lock.write().unwrap() += 1)
        })
        .collect();
    yield_now();
    assert_eq!(*reading, 0);
    drop(reading);
    joinall(&writers);
    assert_eq!(*lock.read().unwrap(), 10);
}

#[test]
fn a_parked_greenlet_is_unparked_by_another_thread() {
    patched();
    let unparked = Arc::new(Mutex::new(false));
    let main = std::thread::current();
    let greenlets: Vec<_> = (0..100)
        .map(|_| {
            let unparked = Arc::clone(&unparked);
            spawn(move || {
                while !*unparked.lock().unwrap() {
                    std::thread::park();
                }
            })
        })
        .collect();
    yield_now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        *unparked.lock().unwrap() = true;
        main.unpark();
    });
    joinall(&greenlets);
    thread.join().unwrap();
}

#[test]
fn a_condvar_gives_up_in_time_and_has_the_lock_again() {
    patched();
    spawn(|| {
        let (mutex, condvar) = (Mutex::new(5), Condvar::new());
        let start = Instant::now();
        let (guard, timed_out) =
            condvar.wait_timeout(mutex.lock().unwrap(), Duration::from_millis(5)).unwrap();
        assert!(timed_out.timed_out() && start.elapsed() >= Duration::from_millis(5));
        assert!(mutex.try_lock().is_err());
        assert_eq!(*guard, 5);
    })
    .join()
    .unwrap();
}

#[test]
fn a_notified_condvar_does_not_time_out() {
    patched();
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let waiting = spawn({
        let pair = Arc::clone(&pair);
        move || {
            let guard = pair.0.lock().unwrap();
            let (guard, result) =
                pair.1.wait_timeout_while(guard, Duration::from_secs(1000), |ready| !*ready).unwrap();
            (*guard, result.timed_out())
        }
    });
    let_all_run();
    *pair.0.lock().unwrap() = true;
    pair.1.notify_one();
    assert_eq!(waiting.join().unwrap(), (true, false));
}

#[test]
fn notify_one_wakes_one() {
    patched();
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let woken = Rc::new(Cell::new(0));
    let greenlets: Vec<_> = (0..10)
        .map(|_| {
            let (pair, woken) = (Arc::clone(&pair), Rc::clone(&woken));
            spawn(move || {
                let mut tokens = pair.0.lock().unwrap();
                while *tokens == 0 {
                    tokens = pair.1.wait(tokens).unwrap();
                    woken.set(woken.get() + 1);
                }
                *tokens -= 1;
            })
        })
        .collect();
    let_all_run();
    for number in 1..=10 {
        *pair.0.lock().unwrap() += 1;
        pair.1.notify_one();
        let_all_run();
        assert_eq!((woken.get(), *pair.0.lock().unwrap()), (number, 0));
    }
    joinall(&greenlets);
}

#[test]
fn a_hundred_greenlets_wait_for_a_mutex_at_once() {
    patched();
    let mutex = Arc::new(Mutex::new(0));
    let started = Rc::new(Cell::new(0));
    let held = RefCell::new(Some(mutex.lock().unwrap()));
    // SAFETY: dropped below, before the mutex is.
    let held = unsafe {
        std::mem::transmute::<RefCell<Option<MutexGuard<'_, i32>>>, RefCell<Option<MutexGuard<'static, i32>>>>(
            held,
        )
    };
    let held = Rc::new(held);
    all_at_once(100, {
        let mutex = Arc::clone(&mutex);
        move |_| {
            started.set(started.get() + 1);
            if started.get() == 100 {
                held.borrow_mut().take();
            }
            *mutex.lock().unwrap() += 1;
        }
    });
    assert_eq!(*mutex.lock().unwrap(), 100);
}

#[test]
fn a_hundred_readers_are_inside_a_rwlock_at_once() {
    let lock = Arc::new(RwLock::new(()));
    let barrier = Arc::new(Barrier::new(100));
    all_at_once(100, move |_| {
        let _inside = lock.read().unwrap();
        barrier.wait();
    });
}

#[test]
fn what_is_made_once_is_made_by_one_and_the_others_wait() {
    static ONCE: Once = Once::new();
    static CELL: OnceLock<u64> = OnceLock::new();
    static LAZY: LazyLock<u64> = LazyLock::new(|| {
        std::thread::sleep(Duration::from_millis(1));
        MADE.fetch_add(1, Ordering::SeqCst);
        7
    });
    static MADE: AtomicUsize = AtomicUsize::new(0);
    all_at_once(100, |_| {
        let make = || {
            std::thread::sleep(Duration::from_millis(1));
            MADE.fetch_add(1, Ordering::SeqCst);
        };
        ONCE.call_once(make);
        let cell = CELL.get_or_init(|| {
            make();
            5
        });
        assert_eq!((*cell, *LAZY), (5, 7));
    });
    assert_eq!(MADE.load(Ordering::SeqCst), 3);
}

#[test]
fn a_once_of_two_threads_lets_the_greenlets_of_the_waiting_one_run() {
    patched();
    let once = Arc::new(OnceLock::new());
    let (begun, begins) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let thread = std::thread::spawn({
        let once = Arc::clone(&once);
        move || {
            once.get_or_init(|| {
                begun.send(()).unwrap();
                ends.recv().unwrap();
                1
            });
        }
    });
    begins.recv().unwrap();
    let value = waits(move || *once.get_or_init(|| 2), || end.send(()).unwrap());
    assert_eq!(value, 1);
    thread.join().unwrap();
}

#[test]
fn a_park_with_a_time_limit_ends() {
    let start = Instant::now();
    all_at_once(100, move |_| {
        while start.elapsed() < Duration::from_millis(300) {
            std::thread::park_timeout(Duration::from_millis(300));
        }
    });
}

#[test]
fn a_token_that_was_there_before_ends_the_park_at_once() {
    patched();
    std::thread::current().unpark();
    std::thread::park();
    // And in a greenlet, since it is of the same thread.
    std::thread::current().unpark();
    spawn(std::thread::park).join().unwrap();
}

#[test]
fn one_greenlet_unparks_another_one_of_its_thread() {
    patched();
    let ready = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ready);
    waits(
        move || {
            while !seen.get() {
                std::thread::park();
            }
        },
        || {
            ready.set(true);
            std::thread::current().unpark();
        },
    );
}

/// A notification that another parked greenlet has taken does not leave the one that it was for waiting for ever.
#[test]
fn no_unpark_is_lost_among_parked_greenlets() {
    patched();
    let turn = Arc::new(AtomicUsize::new(0));
    let greenlets: Vec<_> = (0..20)
        .map(|number| {
            let turn = Arc::clone(&turn);
            spawn(move || {
                for round in 0..2 {
                    while turn.load(Ordering::SeqCst) != round * 20 + number {
                        std::thread::park();
                    }
                    turn.fetch_add(1, Ordering::SeqCst);
                    std::thread::current().unpark();
                }
            })
        })
        .collect();
    joinall(&greenlets);
    assert_eq!(turn.load(Ordering::SeqCst), 40);
}

/// Two hubs with greenlets and two threads without, all at the same locks: counts are conserved, and all come to an end.
#[test]
fn locks_between_hubs_and_threads_lose_nothing() {
    patched();
    for seed in [1, 2, 3] {
        const ROUNDS: usize = 300;
        let state = Arc::new((Mutex::new((0_usize, 0_usize)), Condvar::new(), RwLock::new(0_usize)));
        // Puts tokens, and takes as many.
        let work = move |state: &(Mutex<(usize, usize)>, Condvar, RwLock<usize>), seed: u64| {
            let mut random = seed;
            for _ in 0..ROUNDS {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (mutex, condvar, lock) = state;
                {
                    let mut tokens = mutex.lock().unwrap();
                    if random >> 60 < 4 {
                        std::thread::yield_now();
                    }
                    tokens.0 += 1;
                    tokens.1 += 1;
                    condvar.notify_one();
                }
                if random >> 32 & 7 == 0 {
                    *lock.write().unwrap() += 1;
                } else {
                    let _ = *lock.read().unwrap();
                }
                let mut tokens = mutex.lock().unwrap();
                while tokens.0 == 0 {
                    tokens = condvar.wait(tokens).unwrap();
                }
                tokens.0 -= 1;
            }
        };
        let hubs: Vec<_> = (0..2)
            .map(|hub| {
                let state = Arc::clone(&state);
                std::thread::spawn(move || {
                    let greenlets: Vec<_> = (0..5)
                        .map(|number| {
                            let state = Arc::clone(&state);
                            spawn(move || work(&state, seed * 1000 + hub * 10 + number))
                        })
                        .collect();
                    joinall(&greenlets);
                    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
                })
            })
            .collect();
        let threads: Vec<_> = (0..2)
            .map(|number| {
                let state = Arc::clone(&state);
                std::thread::spawn(move || work(&state, seed * 1000 + 100 + number))
            })
            .collect();
        hubs.into_iter().chain(threads).for_each(|thread| thread.join().unwrap());
        assert_eq!(*state.0.lock().unwrap(), (0, 12 * ROUNDS));
    }
}

#[test]
fn os_threads_are_woken_though_greenlets_wait_for_the_same() {
    patched();
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let wait = |pair: &(Mutex<i32>, Condvar)| {
        let mut guard = pair.0.lock().unwrap();
        *guard += 1;
        while *guard < 100 {
            guard = pair.1.wait(guard).unwrap();
        }
    };
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let pair = Arc::clone(&pair);
            std::thread::spawn(move || wait(&pair))
        })
        .collect();
    let greenlets: Vec<_> = (0..4)
        .map(|_| {
            let pair = Arc::clone(&pair);
            spawn(move || wait(&pair))
        })
        .collect();
    while *pair.0.lock().unwrap() < 8 {
        yield_now();
    }
    *pair.0.lock().unwrap() = 100;
    pair.1.notify_all();
    joinall(&greenlets);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn scoped_threads_are_awaited_while_others_run() {
    patched();
    let (end, ends) = mpsc::channel::<()>();
    waits(
        move || {
            std::thread::scope(|scope| {
                scope.spawn(move || ends.recv().unwrap());
            });
        },
        || end.send(()).unwrap(),
    );
}
