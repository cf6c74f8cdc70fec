//! Locks and events: each operation should cost an atomic or two, or a switch.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use switchgrass::sync::{Event, Mutex, RwLock, Semaphore};
use switchgrass::{joinall, spawn, yield_now};

use crate::{Keys, Outcome, check, fail, per};

/// Locking and unlocking, by `$alone` where nobody is in the way, by `$contended` where two greenlets are in each other's way: who unlocks hands over to
/// the other one, and then waits.
macro_rules! lock_work {
    ($name:ident, $lock:expr, |$l:ident| $alone:expr, $contended:expr) => {
        pub(crate) fn $name(keys: &Keys) -> Outcome {
            let n = keys.number("n", 10_000_000);
            let $l = Rc::new($lock);
            let count = Rc::new(Cell::new(0_u64));
            let add = |count: &Cell<u64>| count.set(count.get() + 1);
            let start = Instant::now();
            match keys.text("mode", "uncontended").as_str() {
                "uncontended" => {
                    for _ in 0..n {
                        drop(black_box($alone));
                        add(&count);
                    }
                }
                "contended" => {
                    let greenlet = || {
                        let ($l, count) = (Rc::clone(&$l), Rc::clone(&count));
                        spawn(move || {
                            let mut guard = $contended;
                            // The other one gets in line.
                            yield_now();
                            for _ in 0..n / 2 {
                                drop(guard);
                                guard = $contended;
                                add(&count);
                            }
                            drop(guard);
                        })
                    };
                    joinall(&[greenlet(), greenlet()]);
                }
                other => fail(&format!("--mode is uncontended or contended, not {other}")),
            }
            let elapsed = start.elapsed();
            check("how often it was locked", count.get(), n / 2 * 2)?;
            Ok((per(elapsed, n), "ns/lock and unlock", vec![]))
        }
    };
}

lock_work!(mutex, Mutex::new(()), |lock| lock.lock().unwrap(), lock.lock().unwrap());
/// std's, uncontended: the floor.
pub(crate) fn std_mutex(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000);
    let mutex = std::sync::Mutex::new(0_u64);
    let start = Instant::now();
    for _ in 0..n {
        *black_box(mutex.lock().unwrap()) += 1;
    }
    let elapsed = start.elapsed();
    let count = mutex.into_inner().unwrap();
    check("how often it was locked", count, n)?;
    Ok((per(elapsed, n), "ns/lock and unlock", vec![]))
}

lock_work!(rwlock, RwLock::new(()), |lock| lock.read().unwrap(), lock.write().unwrap());
lock_work!(semaphore, Semaphore::new(1), |lock| lock.acquire(), lock.acquire());

/// Two greenlets set each other's event, and wait for their own.
pub(crate) fn event(keys: &Keys) -> Outcome {
    let n = keys.number("n", 10_000_000) / 2;
    let events = Rc::new([Event::new(), Event::new()]);
    let count = Rc::new(Cell::new(0_u64));
    let start = Instant::now();
    let greenlet = |own: usize| {
        let (events, count) = (Rc::clone(&events), Rc::clone(&count));
        spawn(move || {
            for _ in 0..n {
                if events[own].wait() {
                    count.set(count.get() + 1);
                }
                events[own].clear();
                events[1 - own].set();
            }
        })
    };
    let both = [greenlet(0), greenlet(1)];
    events[0].set();
    joinall(&both);
    let elapsed = start.elapsed();
    check("waits that ended", count.get(), n * 2)?;
    Ok((per(elapsed, n * 2), "ns/set and wait", vec![]))
}
