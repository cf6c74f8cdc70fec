//! What does not allocate: locking, waiting in line, being woken.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use switchgrass::sync::{
    Barrier, Condvar, Event, LazyLock, Mutex, Once, OnceLock, ReentrantMutex, RwLock, Semaphore,
};
use switchgrass::{joinall, spawn, yield_now};

/// Counts per thread: the harness has threads of its own.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all the work; the counter has neither initialiser nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; it came from the same allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread has made in `f`.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn what_nobody_else_has_is_locked_without_an_allocation() {
    yield_now();
    let (mutex, lock, semaphore) = (Mutex::new(()), RwLock::new(()), Semaphore::new(1));
    let (reentrant, once, cell, event) =
        (ReentrantMutex::new(()), Once::new(), OnceLock::new(), Event::new());
    let (lazy, barrier, condvar) = (LazyLock::new(|| 1), Barrier::new(1), Condvar::new());
    let count = allocations(|| {
        for _ in 0..100 {
            drop(mutex.lock());
            drop(lock.read());
            drop(lock.write());
            drop(semaphore.acquire());
            let _guard = reentrant.lock();
            drop(reentrant.lock());
            once.call_once(|| ());
            assert_eq!((cell.get_or_init(|| 1), &*lazy), (&1, &1));
            event.set();
            assert!(event.wait() && barrier.wait().is_leader());
            condvar.notify_all();
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn who_waits_in_line_needs_no_allocation_for_it_nor_who_hands_over() {
    let shared =
        Rc::new((Mutex::new(()), RwLock::new(()), Semaphore::new(1), Barrier::new(2), Condvar::new()));
    let greenlet = || {
        let shared = Rc::clone(&shared);
        spawn(move || {
            let (mutex, lock, semaphore, barrier, condvar) = &*shared;
            let round = || {
                {
                    let _guard = mutex.lock();
                    yield_now();
                }
                {
                    let _guard = lock.write();
                    yield_now();
                }
                {
                    let _permit = semaphore.acquire();
                    yield_now();
                }
                barrier.wait();
                let guard = mutex.lock().unwrap();
                condvar.notify_one();
                drop(condvar.wait(guard));
                condvar.notify_one();
            };
            // Long enough that the hub has taken samples for its statistics, which keep what memory they take.
            (0..1_000).for_each(|_| round());
            allocations(|| (0..100).for_each(|_| round()))
        })
    };
    let both = [greenlet(), greenlet()];
    joinall(&both);
    for greenlet in both {
        assert_eq!(greenlet.join().unwrap(), 0);
    }
}
