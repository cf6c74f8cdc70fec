//! Pools of OS threads.

use std::cell::{Cell, RefCell};
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use switchgrass::threadpool::{Job, ThreadPool};
use switchgrass::{park, scope, spawn, testing, timeout, unblock, yield_now};

use crate::util::{Drops, HOUR, Log, OnDrop, catch, is_exit, text, time_limit};

/// A job that runs until it is let go, and says when it has begun.
struct Held {
    job: Job<()>,
    go: mpsc::Sender<()>,
}

impl Held {
    /// Returns when the job runs.
    fn by(pool: &ThreadPool) -> Held {
        let (begin, begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let job = pool.spawn(move || {
            begin.send(()).unwrap();
            let _ = may_go.recv();
        });
        unblock(move || begun.recv()).unwrap();
        Held { job, go }
    }

    fn let_go(self) {
        self.go.send(()).unwrap();
        self.job.join().unwrap();
    }
}

/// Runs the others until the condition holds, which an OS thread will bring about.
fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now();
    }
}

fn assert_send_sync<T: Send + Sync>() {}

#[test]
fn pools_and_jobs_may_be_shared_between_threads() {
    assert_send_sync::<ThreadPool>();
    assert_send_sync::<Job<Cell<i32>>>();
}

// ---- Jobs ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_job_runs_on_another_thread_and_join_gives_its_result() {
    time_limit();
    let pool = ThreadPool::new(2);
    let ran_on = pool.spawn(|| thread::current().id()).join().unwrap();
    assert_ne!(ran_on, thread::current().id());
    assert_eq!(pool.apply(|| 7), 7);
}

#[test]
fn a_panic_of_a_job_comes_back_with_its_payload() {
    time_limit();
    let pool = ThreadPool::new(1);
    let error = pool.spawn(|| panic_any(42_i32)).join().unwrap_err();
    assert_eq!(*error.downcast::<i32>().unwrap(), 42);
    let error = catch(|| pool.apply(|| panic_any(43_i32))).unwrap_err();
    assert_eq!(*error.downcast::<i32>().unwrap(), 43);
    assert_eq!(pool.apply(|| 1), 1);
}

#[test]
fn others_run_while_a_greenlet_waits_for_its_job() {
    time_limit();
    let pool = ThreadPool::new(1);
    let held = Held::by(&pool);
    let go = held.go.clone();
    let waits = spawn(move || held.job.join().unwrap());
    let other = spawn(move || go.send(()).unwrap());
    other.join().unwrap();
    waits.join().unwrap();
}

#[test]
fn join_timeout_gives_the_job_back() {
    time_limit();
    let pool = ThreadPool::new(1);
    let Held { job, go } = Held::by(&pool);
    assert!(!job.is_ready());
    assert!(format!("{job:?}").contains("running"));
    let job = job.join_timeout(Duration::from_millis(1)).unwrap_err();
    go.send(()).unwrap();
    job.join_timeout(HOUR).unwrap().unwrap();
}

#[test]
fn a_job_can_be_joined_from_another_thread() {
    time_limit();
    let pool = ThreadPool::new(1);
    let job = pool.spawn(|| "result");
    assert_eq!(thread::spawn(move || job.join().unwrap()).join().unwrap(), "result");
}

#[test]
fn what_a_job_has_captured_is_dropped_before_it_counts_as_ended() {
    time_limit();
    let pool = ThreadPool::new(1);
    let drops = Drops::new();
    let guard = drops.guard();
    let job = pool.spawn(move || {
        let _guard = &guard;
        5
    });
    until(|| job.is_ready());
    assert_eq!(drops.count(), 1);
    assert_eq!(job.join().unwrap(), 5);
}

#[test]
fn a_detached_job_goes_on_and_its_result_is_dropped_by_its_thread() {
    time_limit();
    let pool = ThreadPool::new(1);
    let (tell, told) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    drop(pool.spawn(move || {
        may_go.recv().unwrap();
        OnDrop(move || tell.send(thread::current().id()).unwrap())
    }));
    go.send(()).unwrap();
    let dropped_on = unblock(move || told.recv()).unwrap();
    assert_ne!(dropped_on, thread::current().id());
}

/// Panics when it is dropped, with what does so, too.
struct PanicsOnDrop(u32);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(PanicsOnDrop(self.0 - 1));
        }
    }
}

#[test]
fn results_that_nobody_wants_and_panic_when_dropped_do_no_harm() {
    time_limit();
    let pool = ThreadPool::new(1);
    for _ in 0..3 {
        drop(pool.spawn(|| PanicsOnDrop(2)));
        let ended = pool.spawn(|| PanicsOnDrop(2));
        until(|| ended.is_ready());
        drop(ended);
        let guard = PanicsOnDrop(2);
        // Dropped by the call, before there is a result.
        std::mem::forget(pool.spawn(move || drop(guard)).join().unwrap_err());
    }
    assert_eq!(pool.apply(|| 5), 5);
    assert_eq!(pool.threads(), 1);
}

// ---- Places -------------------------------------------------------------------------------------------------------------

#[test]
fn spawn_waits_for_a_place_and_no_more_than_max_run_at_once() {
    time_limit();
    let pool = ThreadPool::new(2);
    let (first, second) = (Held::by(&pool), Held::by(&pool));
    scope(|s| {
        let third = s.spawn(|| Held::by(&pool));
        for _ in 0..10 {
            yield_now();
        }
        assert!(!third.is_ready());
        assert_eq!((pool.len(), pool.threads()), (3, 2));
        second.let_go();
        third.join().unwrap().let_go();
    });
    first.let_go();
    assert_eq!((pool.max(), pool.threads()), (2, 2));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "on a thread of the pool: lets the other threads run")]
fn many_jobs_at_once_never_exceed_max() {
    time_limit();
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let pool = ThreadPool::new(3);
    let square = |n| {
        MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::yield_now();
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        n * n
    };
    let squares = pool.map(0..200_u64, square);
    assert!(squares.into_iter().eq((0..200).map(|n| n * n)));
    assert!((1..=3).contains(&MOST.load(Ordering::SeqCst)));
}

#[test]
fn jobs_begin_in_the_order_in_which_they_came() {
    time_limit();
    let pool = ThreadPool::new(1);
    let held = Held::by(&pool);
    let order = Mutex::new(Vec::new());
    let order: &'static Mutex<Vec<u32>> = Box::leak(Box::new(order));
    scope(|s| {
        for n in 0..20 {
            let pool = &pool;
            s.spawn(move || match n % 2 {
                0 => pool.spawn(move || order.lock().unwrap().push(n)).join().unwrap(),
                _ => pool.apply(move || order.lock().unwrap().push(n)),
            });
        }
        until(|| pool.len() == 21);
        held.let_go();
    });
    assert_eq!(*order.lock().unwrap(), Vec::from_iter(0..20));
}

#[test]
fn who_is_killed_or_timed_out_while_it_waits_for_a_place_takes_the_job_back() {
    time_limit();
    let pool = ThreadPool::new(1);
    let held = Held::by(&pool);
    let drops = Drops::new();
    scope(|s| {
        let spawns = s.spawn(|| {
            drop(pool.spawn({
                let guard = drops.guard();
                move || drop(guard)
            }))
        });
        let applies = s.spawn(|| {
            pool.apply({
                let guard = drops.guard();
                move || drop(guard)
            })
        });
        yield_now();
        assert_eq!(pool.len(), 3);
        spawns.kill();
        applies.kill();
        assert_eq!((pool.len(), drops.count()), (1, 2));
        assert!(is_exit(&spawns.join()) && is_exit(&applies.join()));
    });
    let late = timeout(Duration::from_millis(1), || {
        let guard = drops.guard();
        pool.apply(move || drop(guard))
    });
    assert!(late.is_err());
    assert_eq!((pool.len(), drops.count()), (1, 3));
    held.let_go();
}

#[test]
fn max_can_be_raised_while_jobs_wait_and_lowered_while_they_run() {
    time_limit();
    let pool = ThreadPool::new(1);
    let first = Held::by(&pool);
    let second = scope(|s| {
        let second = s.spawn(|| Held::by(&pool));
        until(|| pool.len() == 2);
        pool.set_max(2);
        second.join().unwrap()
    });
    pool.set_max(1);
    // Both go on, and when one has ended there is a thread too many.
    let third = scope(|s| {
        let third = s.spawn(|| Held::by(&pool));
        until(|| pool.len() == 3);
        first.let_go();
        until(|| pool.threads() == 1);
        assert!(!third.is_ready());
        second.let_go();
        third.join().unwrap()
    });
    third.let_go();
    assert_eq!((pool.max(), pool.threads()), (1, 1));
}

#[test]
fn with_a_max_of_zero_nothing_runs_until_it_is_raised() {
    time_limit();
    let pool = ThreadPool::new(0);
    scope(|s| {
        let job = s.spawn(|| pool.apply(|| 5));
        for _ in 0..10 {
            yield_now();
        }
        assert_eq!((job.is_ready(), pool.len(), pool.threads()), (false, 1, 0));
        pool.set_max(1);
        assert_eq!(job.join().unwrap(), 5);
    });
    pool.set_max(0);
    // The thread that rests leaves.
    until(|| pool.threads() == 0);
}

// ---- Threads ------------------------------------------------------------------------------------------------------------

thread_local! {
    static AT_THREAD_END: RefCell<Option<mpsc::Sender<()>>> = const { RefCell::new(None) };
}

/// The receiver is told when the thread of the pool that runs this has left: its sender is gone then.
fn when_the_thread_leaves(pool: &ThreadPool) -> mpsc::Receiver<()> {
    let (held, gone) = mpsc::channel();
    pool.apply(move || AT_THREAD_END.set(Some(held)));
    gone
}

#[test]
fn a_thread_that_has_nothing_to_do_leaves_after_the_idle_timeout_and_another_comes_when_needed() {
    time_limit();
    let pool = ThreadPool::new(1);
    assert_eq!(pool.idle_timeout(), Duration::from_secs(5));
    pool.set_idle_timeout(HOUR);
    let left = when_the_thread_leaves(&pool);
    // Who rests already counts anew.
    pool.set_idle_timeout(Duration::from_millis(1));
    assert!(unblock(move || left.recv()).is_err());
    until(|| pool.threads() == 0);
    assert_eq!(pool.apply(|| 1), 1);
}

#[test]
fn a_dropped_pool_runs_what_it_was_given_and_its_threads_leave() {
    time_limit();
    let pool = ThreadPool::new(1);
    let left = when_the_thread_leaves(&pool);
    let Held { job, go } = Held::by(&pool);
    drop(pool);
    go.send(()).unwrap();
    job.join().unwrap();
    assert!(unblock(move || left.recv()).is_err());
}

#[test]
fn a_greenlet_that_a_job_leaves_behind_is_unwound_when_the_thread_leaves() {
    time_limit();
    let pool = ThreadPool::new(1);
    let (tell, told) = mpsc::channel();
    pool.apply(move || {
        let guard = OnDrop(move || tell.send(()).unwrap());
        drop(spawn(move || {
            let _guard = guard;
            park();
        }));
        yield_now();
    });
    drop(pool);
    unblock(move || told.recv()).unwrap();
}

#[test]
fn a_pool_that_is_only_made_starts_no_thread() {
    let pool = ThreadPool::new(1000);
    assert_eq!((pool.threads(), pool.len(), pool.is_empty()), (0, 0, true));
}

#[test]
fn several_hubs_and_threads_without_one_use_a_pool_at_once() {
    time_limit();
    static POOL: ThreadPool = ThreadPool::new(2);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                let greenlets: Vec<_> = (0..100_u64)
                    .map(|n| spawn(move || POOL.apply(move || n) + POOL.spawn(|| 1).join().unwrap()))
                    .collect();
                greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).sum::<u64>()
            })
        })
        .collect();
    let sums: Vec<u64> = unblock(move || threads.into_iter().map(|thread| thread.join().unwrap()).collect());
    assert_eq!(sums, [5050; 4]);
    POOL.join();
    assert!(POOL.threads() <= 2);
}

// ---- From within a job --------------------------------------------------------------------------------------------------

#[test]
fn apply_in_a_job_of_the_same_pool_runs_in_place() {
    time_limit();
    static POOL: ThreadPool = ThreadPool::new(1);
    let (outer, inner) = POOL.apply(|| {
        let inner = POOL.apply(|| POOL.apply(|| thread::current().id()));
        (thread::current().id(), inner)
    });
    assert_eq!(outer, inner);
    let panics = catch(|| POOL.apply(|| POOL.apply(|| panic_any("inner")))).unwrap_err();
    assert_eq!(text(&panics), "inner");
}

#[test]
fn a_job_may_spawn_map_and_join_in_its_own_full_pool() {
    time_limit();
    static POOL: ThreadPool = ThreadPool::new(1);
    let result = POOL.apply(|| {
        let jobs: Vec<_> = (0..3).map(|n| POOL.spawn(move || n)).collect();
        let joined: i32 = jobs.into_iter().rev().map(|job| job.join().unwrap()).sum();
        (joined, POOL.map(0..3, |n| n * n), POOL.len())
    });
    assert_eq!(result, (3, vec![0, 1, 4], 1));
}

#[test]
fn a_greenlet_of_a_job_gets_through_its_own_full_pool() {
    time_limit();
    static POOL: ThreadPool = ThreadPool::new(1);
    let result = POOL.apply(|| spawn(|| POOL.apply(|| 1) + POOL.spawn(|| 2).join().unwrap()).join().unwrap());
    assert_eq!(result, 3);
}

#[test]
fn greenlets_of_a_job_run_at_once_where_threads_are_free() {
    time_limit();
    static POOL: ThreadPool = ThreadPool::new(3);
    POOL.apply(|| {
        let (go, may_go) = mpsc::channel();
        let waits = spawn(move || POOL.apply(move || may_go.recv().unwrap()));
        let goes = spawn(move || POOL.apply(move || go.send(()).unwrap()));
        goes.join().unwrap();
        waits.join().unwrap();
    });
}

#[test]
fn a_job_that_waits_for_its_own_pool_to_be_idle_is_told_so() {
    time_limit();
    static POOL: ThreadPool = ThreadPool::new(1);
    let told = catch(|| POOL.apply(|| POOL.join())).unwrap_err();
    assert!(text(&told).contains("a job cannot wait for all jobs of its own pool"));
    assert_eq!(POOL.apply(|| 1), 1);
}

// ---- map, join, kill ----------------------------------------------------------------------------------------------------

#[test]
fn map_raises_the_first_panic_in_the_order_of_the_items() {
    time_limit();
    let pool = ThreadPool::new(4);
    let panics = catch(|| pool.map([0, 1, 2, 3], |n| if n >= 2 { panic_any(n) } else { n })).unwrap_err();
    assert_eq!(*panics.downcast::<i32>().unwrap(), 2);
}

#[test]
fn join_waits_until_nothing_is_queued_and_none_runs() {
    time_limit();
    let pool = ThreadPool::new(1);
    pool.join();
    assert!(pool.join_timeout(Duration::ZERO));
    let held = Held::by(&pool);
    assert!(!pool.join_timeout(Duration::from_millis(1)));
    let log = Log::new();
    scope(|s| {
        let applies = s.spawn(|| {
            pool.apply(|| ());
            log.add("applied");
        });
        let joins = s.spawn(|| {
            pool.join();
            log.add("idle");
        });
        let gives_up = s.spawn(|| timeout(Duration::from_millis(1), || pool.join()));
        assert!(gives_up.join().unwrap().is_err());
        assert!(!joins.is_ready());
        held.let_go();
        applies.join().unwrap();
        joins.join().unwrap();
    });
    assert_eq!(log.take(), "applied idle");
    assert!(pool.is_empty());
}

#[test]
fn kill_drops_what_has_not_begun_and_waits_for_what_runs() {
    time_limit();
    let pool = ThreadPool::new(1);
    let held = Held::by(&pool);
    let drops = Drops::new();
    scope(|s| {
        let queued = s.spawn(|| {
            let guard = drops.guard();
            pool.apply(move || drop(guard));
        });
        let queued_too = s.spawn(|| pool.spawn(|| 1).join());
        until(|| pool.len() == 3);
        let killer = s.spawn(|| pool.kill());
        assert!(is_exit(&queued.join()) && is_exit(&queued_too.join().unwrap()));
        assert_eq!((drops.count(), pool.len(), killer.is_ready()), (1, 1, false));
        held.let_go();
        killer.join().unwrap();
    });
    until(|| pool.threads() == 0);
    assert_eq!(pool.apply(|| 2), 2);
}

// ---- While unwinding ----------------------------------------------------------------------------------------------------

#[test]
fn in_a_destructor_that_unwinds_nothing_waits() {
    time_limit();
    let pool = ThreadPool::new(1);
    let held = Held::by(&pool);
    let seen = RefCell::new(Vec::new());
    let here = thread::current().id();
    let _ = catch(|| {
        let _guard = OnDrop(|| {
            // In place.
            assert_eq!(pool.apply(|| thread::current().id()), here);
            pool.scope(|s| assert_eq!(s.spawn(|| thread::current().id()).join().unwrap(), here));
            // Queued, and not waited for.
            let job = pool.spawn(|| 7);
            pool.join();
            assert!(!pool.join_timeout(HOUR));
            seen.borrow_mut().push(job.join().unwrap_err());
        });
        panic_any("on purpose");
    });
    assert!(text(&seen.borrow()[0]).contains("unwinding and cannot wait"));
    held.let_go();
    pool.join();
}

// ---- Scopes -------------------------------------------------------------------------------------------------------------

#[test]
fn scoped_jobs_borrow_and_have_ended_when_the_scope_is_left() {
    time_limit();
    let pool = ThreadPool::new(2);
    let mut numbers = vec![0; 10];
    let sum = pool.scope(|s| {
        let jobs: Vec<_> = numbers
            .iter_mut()
            .enumerate()
            .map(|(n, place)| {
                s.spawn(move || {
                    *place = n;
                    n
                })
            })
            .collect();
        jobs.into_iter().map(|job| job.join().unwrap()).sum::<usize>()
    });
    assert_eq!(sum, 45);
    assert!(numbers.iter().copied().eq(0..10));
    pool.scope(|s| numbers.chunks_mut(3).for_each(|chunk| drop(s.spawn(|| chunk.reverse()))));
    assert_eq!(numbers, [2, 1, 0, 5, 4, 3, 8, 7, 6, 9]);
}

#[test]
fn a_panic_of_a_scoped_job_that_nobody_joins_is_the_scopes() {
    time_limit();
    let pool = ThreadPool::new(1);
    let unseen = catch(|| pool.scope(|s| drop(s.spawn(|| panic_any(1))))).unwrap_err();
    assert_eq!(text(&unseen), "a scoped job panicked");
    let seen = pool.scope(|s| s.spawn(|| panic_any(2)).join()).unwrap_err();
    assert_eq!(*seen.downcast::<i32>().unwrap(), 2);
    // That of the function itself comes first.
    let own = catch(|| {
        pool.scope(|s| {
            s.spawn(|| panic_any(3));
            panic_any("own")
        })
    });
    assert_eq!(text(&own.unwrap_err()), "own");
}

#[test]
fn the_result_of_a_scoped_job_that_nobody_joins_is_dropped_within_the_scope() {
    time_limit();
    struct Borrows<'a>(&'a AtomicUsize);
    impl Drop for Borrows<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let pool = ThreadPool::new(4);
    for round in 0..200 {
        let drops = AtomicUsize::new(0);
        pool.scope(|s| {
            for _ in 0..4 {
                drop(s.spawn(|| Borrows(&drops)));
            }
        });
        assert_eq!(drops.into_inner(), 4, "in round {round}");
    }
}

#[test]
fn a_killed_or_timed_out_greenlet_leaves_a_scope_only_when_its_jobs_have_ended() {
    time_limit();
    let pool = ThreadPool::new(1);
    let ended = AtomicUsize::new(0);
    let after = Cell::new(None);
    for kill in [true, false] {
        let (begin, begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        scope(|s| {
            let victim = s.spawn(|| {
                let _guard = OnDrop(|| after.set(Some(ended.load(Ordering::SeqCst))));
                let limit = if kill { HOUR } else { Duration::from_millis(1) };
                timeout(limit, || {
                    pool.scope(|s| {
                        let ended = &ended;
                        s.spawn(move || {
                            begin.send(()).unwrap();
                            may_go.recv().unwrap();
                            ended.fetch_add(1, Ordering::SeqCst);
                        });
                    });
                    park();
                })
            });
            unblock(move || begun.recv()).unwrap();
            if kill {
                victim.kill_nowait();
                victim.kill_nowait();
            } else {
                switchgrass::sleep(Duration::from_millis(5));
            }
            for _ in 0..10 {
                yield_now();
            }
            assert!(!victim.is_ready());
            go.send(()).unwrap();
            match victim.join() {
                Ok(late) => assert!(!kill && late.is_err()),
                killed => assert!(kill && is_exit(&killed)),
            }
        });
    }
    assert_eq!(after.get(), Some(2));
}

#[test]
fn a_scoped_job_that_waits_for_a_place_is_taken_back_if_its_greenlet_is_killed() {
    time_limit();
    let pool = ThreadPool::new(1);
    let held = Held::by(&pool);
    let drops = Drops::new();
    scope(|s| {
        let victim = s.spawn(|| {
            let guard = drops.guard();
            pool.scope(|s| s.spawn(move || drop(guard)).join().unwrap());
        });
        until(|| pool.len() == 2);
        victim.kill();
        assert_eq!(drops.count(), 1);
    });
    held.let_go();
}

#[test]
fn scopes_nest_in_jobs_of_their_own_full_pool() {
    time_limit();
    let pool = ThreadPool::new(1);
    let mut numbers = [1, 2, 3, 4];
    pool.scope(|s| {
        s.spawn(|| {
            let (left, right) = numbers.split_at_mut(2);
            pool.scope(|s| {
                s.spawn(|| left.reverse());
                s.spawn(|| right.reverse());
            });
        });
    });
    assert_eq!(numbers, [2, 1, 4, 3]);
    // A job may spawn in the scope that it is of.
    let count = AtomicUsize::new(0);
    pool.scope(|s| {
        s.spawn(|| {
            s.spawn(|| count.fetch_add(1, Ordering::SeqCst));
            count.fetch_add(1, Ordering::SeqCst);
        });
    });
    assert_eq!(count.into_inner(), 2);
}

#[test]
fn the_end_of_a_thread_waits_for_the_scoped_jobs_of_its_greenlets() {
    time_limit();
    let (begin, begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let ends = thread::spawn(move || {
        drop(spawn(move || {
            let pool = ThreadPool::new(1);
            let tell_end = tell.clone();
            let _guard = OnDrop(move || tell_end.send("left").unwrap());
            let borrowed = String::from("ended");
            pool.scope(|s| {
                let borrowed = &borrowed;
                s.spawn(move || {
                    begin.send(()).unwrap();
                    may_go.recv().unwrap();
                    tell.send(if borrowed == "ended" { "ended" } else { "gone" }).unwrap();
                });
            });
        }));
        // The greenlet waits for its job when this thread's function returns.
        yield_now();
    });
    unblock(move || begun.recv()).unwrap();
    go.send(()).unwrap();
    unblock(move || ends.join()).unwrap();
    assert_eq!(Vec::from_iter(told), ["ended", "left"]);
}

#[test]
fn nothing_is_left_behind_by_jobs() {
    time_limit();
    let pool = Arc::new(ThreadPool::new(1));
    let counted = Rc::new(());
    for _ in 0..10 {
        let (pool, counted) = (Arc::clone(&pool), Rc::clone(&counted));
        spawn(move || {
            pool.apply(|| ());
            drop(counted);
        })
        .join()
        .unwrap();
    }
    assert_eq!((Rc::strong_count(&counted), testing::live()), (1, 0));
}
