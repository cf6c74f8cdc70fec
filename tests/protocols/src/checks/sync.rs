//! The words of `RawMutex` and `Semaphore`, in `src/sync`, and `src/wait.rs` under them: fast paths against slow ones, hand-over against deadline and kill.

use std::sync::Arc;
use std::time::Duration;

use super::{Place, as_task, green};
use crate::model::check;
use crate::sync::mutex::Mutex;
use crate::sync::semaphore::Semaphore;

/// Of no importance: the check says when it has passed.
const SOON: Duration = Duration::from_secs(1);

fn add(mutex: &Mutex<u32>) {
    *mutex.lock().unwrap() += 1;
}

#[test]
fn a_mutex_lets_one_in_at_a_time_and_all_in_the_end() {
    check(Some(3), || {
        let mutex = Arc::new(Mutex::new(0));
        let others = [(); 2].map(|()| {
            let mutex = Arc::clone(&mutex);
            green(move || add(&mutex))
        });
        as_task(|| add(&mutex));
        for other in others {
            other.join();
        }
        assert_eq!(mutex.try_lock().ok().as_deref(), Some(&3));
    });
}

#[test]
fn a_mutex_is_not_lost_with_one_whose_deadline_comes() {
    check(Some(3), || {
        let mutex = Arc::new(Mutex::new(0));
        let held = mutex.try_lock().unwrap();
        let waiter = {
            let mutex = Arc::clone(&mutex);
            green(move || {
                mutex.lock_timeout(SOON).is_ok_and(|mut value| {
                    *value += 1;
                    true
                })
            })
        };
        waiter.task.expire();
        drop(held);
        let in_time = waiter.join().unwrap();
        assert_eq!(mutex.try_lock().ok().as_deref(), Some(&u32::from(in_time)));
    });
}

#[test]
fn a_mutex_that_was_handed_to_one_who_is_killed_goes_on_to_the_next() {
    check(Some(3), || {
        let mutex = Arc::new(Mutex::new(0));
        let held = mutex.try_lock().unwrap();
        let [victim, next] = [(); 2].map(|()| {
            let mutex = Arc::clone(&mutex);
            green(move || add(&mutex))
        });
        drop(held);
        victim.task.kill();
        let entered = u32::from(victim.join().is_some());
        next.join();
        // A kill poisons, as any unwinding does, but only who has the lock.
        assert_eq!(mutex.try_lock().ok().as_deref(), Some(&(entered + 1)));
    });
}

#[test]
fn the_permits_of_a_semaphore_are_as_many_as_before() {
    check(Some(3), || {
        let semaphore = Arc::new(Semaphore::new(1));
        let others = [(); 2].map(|()| {
            let semaphore = Arc::clone(&semaphore);
            green(move || drop(semaphore.acquire()))
        });
        as_task(|| drop(semaphore.acquire()));
        for other in others {
            other.join();
        }
        assert_eq!(semaphore.available(), 1);
    });
}

#[test]
fn a_permit_is_not_lost_with_one_whose_deadline_comes_or_who_is_killed() {
    check(Some(3), || {
        let semaphore = Arc::new(Semaphore::new(0));
        let late = {
            let semaphore = Arc::clone(&semaphore);
            green(move || semaphore.acquire_timeout(SOON).map(|permit| permit.forget()).is_some())
        };
        let victim = {
            let semaphore = Arc::clone(&semaphore);
            green(move || semaphore.acquire().forget())
        };
        semaphore.release();
        victim.task.kill();
        late.task.expire();
        let taken = [late.join() == Some(true), victim.join().is_some()];
        let taken = taken.into_iter().filter(|taken| *taken).count();
        assert_eq!(semaphore.available() + taken, 1);
    });
}

/// What one has done who had the permit is seen by the next, however it was given on.
#[test]
fn a_permit_brings_along_what_was_done_under_it() {
    check(Some(4), || {
        let shared = Arc::new((Semaphore::new(1), Place::new()));
        let other = {
            let shared = Arc::clone(&shared);
            green(move || {
                let _permit = shared.0.acquire();
                shared.1.touch();
            })
        };
        as_task(|| {
            let _permit = shared.0.acquire();
            shared.1.touch();
        });
        other.join();
        assert_eq!(shared.1.touch(), 2);
    });
}

#[test]
fn a_permit_brings_it_along_past_one_who_gave_up() {
    check(Some(4), || {
        let shared = Arc::new((Semaphore::new(1), Place::new()));
        let held = shared.0.try_acquire().unwrap();
        let impatient = {
            let shared = Arc::clone(&shared);
            green(move || {
                for permit in [shared.0.acquire_timeout(SOON), shared.0.try_acquire()] {
                    permit.is_some().then(|| shared.1.touch());
                }
            })
        };
        impatient.task.expire();
        shared.1.touch();
        drop(held);
        impatient.join();
        assert_eq!(shared.0.available(), 1);
    });
}
