//! `std::sync`, `std::thread::park`.

use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock};
use std::time::Duration;

use crate::util::{Overlap, all_at_once, patched};
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
