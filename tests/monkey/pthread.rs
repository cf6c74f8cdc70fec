//! pthread's locks, and semaphores.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libc::{c_int, timespec};
use switchgrass::{joinall, spawn, yield_now};

use crate::util::{Overlap, all_at_once, patched};

/// An object of libc's, initialised by `new`.
struct Object<T>(UnsafeCell<T>);

// SAFETY: pthread's objects and semaphores are for several threads.
unsafe impl<T> Sync for Object<T> {}
// SAFETY: as above; it is not moved while it is in use, for it is in an `Arc`.
unsafe impl<T> Send for Object<T> {}

impl<T> Object<T> {
    fn new(init: impl FnOnce(*mut T) -> c_int) -> Arc<Self> {
        // SAFETY: plain data.
        let object = Arc::new(Object(UnsafeCell::new(unsafe { MaybeUninit::<T>::zeroed().assume_init() })));
        assert_eq!(init(object.get()), 0);
        object
    }

    fn get(&self) -> *mut T {
        self.0.get()
    }
}

type Mutex = Object<libc::pthread_mutex_t>;
type Cond = Object<libc::pthread_cond_t>;
type Rwlock = Object<libc::pthread_rwlock_t>;
type Sem = Object<libc::sem_t>;

fn mutex(kind: c_int) -> Arc<Mutex> {
    // SAFETY: initialised attributes and a place for the mutex.
    Mutex::new(|mutex| unsafe {
        let mut attributes = MaybeUninit::uninit();
        assert_eq!(libc::pthread_mutexattr_init(attributes.as_mut_ptr()), 0);
        assert_eq!(libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), kind), 0);
        libc::pthread_mutex_init(mutex, attributes.as_ptr())
    })
}

fn cond() -> Arc<Cond> {
    // SAFETY: a place for it.
    Cond::new(|cond| unsafe { libc::pthread_cond_init(cond, std::ptr::null()) })
}

fn sem(value: u32) -> Arc<Sem> {
    // SAFETY: a place for it.
    Sem::new(|sem| unsafe { libc::sem_init(sem, 0, value) })
}

impl Mutex {
    fn lock(&self) -> c_int {
        // SAFETY: it is initialised, here and below.
        unsafe { libc::pthread_mutex_lock(self.get()) }
    }

    fn try_lock(&self) -> c_int {
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_trylock(self.get()) }
    }

    fn unlock(&self) -> c_int {
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_unlock(self.get()) }
    }
}

fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

fn after(clock: libc::clockid_t, time: Duration) -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut now) }, 0);
    let nanos = now.tv_nsec as u64 + u64::from(time.subsec_nanos());
    timespec {
        tv_sec: now.tv_sec + time.as_secs() as i64 + (nanos / 1_000_000_000) as i64,
        tv_nsec: (nanos % 1_000_000_000) as i64,
    }
}

const KINDS: [c_int; 4] = [
    libc::PTHREAD_MUTEX_NORMAL,
    libc::PTHREAD_MUTEX_RECURSIVE,
    libc::PTHREAD_MUTEX_ERRORCHECK,
    libc::PTHREAD_MUTEX_ADAPTIVE_NP,
];

#[test]
fn a_mutex_of_any_kind_has_one_greenlet_at_a_time() {
    patched();
    for kind in KINDS {
        let (mutex, inside) = (mutex(kind), Arc::new(Overlap::default()));
        let greenlets: Vec<_> = (0..50)
            .map(|_| {
                let (mutex, inside) = (Arc::clone(&mutex), Arc::clone(&inside));
                spawn(move || {
                    assert_eq!(mutex.lock(), 0);
                    inside.during(yield_now);
                    assert_eq!(mutex.unlock(), 0);
                })
            })
            .collect();
        joinall(&greenlets);
        greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
        assert_eq!(inside.most(), 1, "kind {kind}");
        assert_eq!((mutex.try_lock(), mutex.unlock()), (0, 0));
    }
}

#[test]
fn a_recursive_mutex_is_its_greenlets_until_the_last_unlock() {
    patched();
    let mutex = mutex(libc::PTHREAD_MUTEX_RECURSIVE);
    assert_eq!((mutex.lock(), mutex.lock(), mutex.try_lock()), (0, 0, 0));
    let theirs = Arc::clone(&mutex);
    let other = spawn(move || {
        assert_eq!(theirs.try_lock(), libc::EBUSY);
        assert_eq!(theirs.unlock(), libc::EPERM);
        assert_eq!((theirs.lock(), theirs.lock()), (0, 0));
        yield_now();
        assert_eq!((theirs.unlock(), theirs.unlock(), theirs.unlock()), (0, 0, libc::EPERM));
    });
    for _ in 0..3 {
        yield_now();
        assert!(!other.is_ready());
        assert_eq!(mutex.unlock(), 0);
    }
    yield_now();
    // It has it twice by now, and waits.
    assert_eq!((mutex.try_lock(), mutex.unlock()), (libc::EBUSY, libc::EPERM));
    assert_eq!(mutex.lock(), 0);
    assert_eq!(mutex.unlock(), 0);
    other.join().unwrap();
}

#[test]
fn an_error_checking_mutex_tells_its_greenlet_from_others() {
    patched();
    let mutex = mutex(libc::PTHREAD_MUTEX_ERRORCHECK);
    let theirs = Arc::clone(&mutex);
    let holder = spawn(move || {
        assert_eq!((theirs.lock(), theirs.lock(), theirs.try_lock()), (0, libc::EDEADLK, libc::EBUSY));
        yield_now();
        assert_eq!(theirs.unlock(), 0);
    });
    yield_now();
    assert_eq!((mutex.try_lock(), mutex.unlock()), (libc::EBUSY, libc::EPERM));
    assert_eq!(mutex.lock(), 0);
    holder.join().unwrap();
    assert_eq!(mutex.unlock(), 0);
}

#[test]
fn a_greenlets_recursive_mutex_is_not_given_to_who_cannot_wait() {
    patched();
    let mutex = mutex(libc::PTHREAD_MUTEX_RECURSIVE);
    let theirs = Arc::clone(&mutex);
    let holder = spawn(move || {
        // In such a region, too, it is the greenlet's.
        switchgrass::monkey::no_switch(|| assert_eq!(theirs.lock(), 0));
        yield_now();
        assert_eq!(theirs.unlock(), 0);
    });
    yield_now();
    assert_eq!(switchgrass::monkey::no_switch(|| mutex.lock()), libc::EDEADLK);
    holder.join().unwrap();
    assert_eq!((mutex.lock(), mutex.unlock()), (0, 0));
}

#[test]
fn who_unlocks_and_locks_again_lets_a_waiter_in_between() {
    patched();
    let mutex = mutex(libc::PTHREAD_MUTEX_NORMAL);
    let theirs = Arc::clone(&mutex);
    assert_eq!(mutex.lock(), 0);
    let waiter = spawn(move || {
        assert_eq!(theirs.lock(), 0);
        assert_eq!(theirs.unlock(), 0);
    });
    yield_now();
    // Waits only while it has the mutex.
    for _ in 0..2 {
        yield_now();
        assert_eq!((mutex.unlock(), mutex.lock()), (0, 0));
    }
    assert!(waiter.is_ready());
    assert_eq!(mutex.unlock(), 0);
}

#[test]
fn greenlets_and_threads_count_under_one_mutex() {
    patched();
    for kind in KINDS {
        const ROUNDS: usize = 2000;
        let mutex = mutex(kind);
        // Under the mutex only: two instructions that anybody could get between.
        let count = Arc::new(AtomicUsize::new(0));
        let work = {
            let (mutex, count) = (Arc::clone(&mutex), Arc::clone(&count));
            move |may_switch: bool| {
                for round in 0..ROUNDS {
                    assert_eq!(mutex.lock(), 0);
                    let before = count.load(Ordering::Relaxed);
                    if may_switch && round % 64 == 0 {
                        yield_now();
                    }
                    count.store(before + 1, Ordering::Relaxed);
                    assert_eq!(mutex.unlock(), 0);
                }
            }
        };
        let threads: Vec<_> = (0..2)
            .map(|number| {
                let work = work.clone();
                std::thread::spawn(move || match number {
                    0 => work(false),
                    _ => {
                        let greenlets: Vec<_> = (0..3)
                            .map(|_| {
                                spawn({
                                    let work = work.clone();
                                    move || work(true)
                                })
                            })
                            .collect();
                        joinall(&greenlets);
                    }
                })
            })
            .collect();
        let greenlets: Vec<_> = (0..3)
            .map(|_| {
                spawn({
                    let work = work.clone();
                    move || work(true)
                })
            })
            .collect();
        joinall(&greenlets);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(count.load(Ordering::Relaxed), 7 * ROUNDS, "kind {kind}");
    }
}

#[test]
fn a_timed_lock_ends_at_its_time() {
    patched();
    let mutex = mutex(libc::PTHREAD_MUTEX_NORMAL);
    assert_eq!(mutex.lock(), 0);
    all_at_once(20, {
        let mutex = Arc::clone(&mutex);
        move |_| {
            let began = Instant::now();
            let until = after(libc::CLOCK_REALTIME, Duration::from_millis(300));
            // SAFETY: an initialised mutex.
            let result = unsafe { libc::pthread_mutex_timedlock(mutex.get(), &until) };
            assert_eq!(result, libc::ETIMEDOUT);
            assert!(began.elapsed() >= Duration::from_millis(299));
        }
    });
    let wrong = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_mutex_timedlock(mutex.get(), &wrong) }, libc::EINVAL);
    assert_eq!(mutex.unlock(), 0);
}

/// Hands `amount` numbers from producers to consumers through one place.
fn produce_and_consume(threads: bool) {
    const EACH: usize = 200;
    struct Place {
        mutex: Arc<Mutex>,
        filled: Arc<Cond>,
        emptied: Arc<Cond>,
        number: Cell<Option<usize>>,
    }
    // SAFETY: the number is used under the mutex only.
    unsafe impl Send for Place {}
    // SAFETY: as above.
    unsafe impl Sync for Place {}
    patched();
    let place = Arc::new(Place {
        mutex: mutex(libc::PTHREAD_MUTEX_NORMAL),
        filled: cond(),
        emptied: cond(),
        number: Cell::new(None),
    });
    let produce = {
        let place = Arc::clone(&place);
        move || {
            for number in 0..EACH {
                assert_eq!(place.mutex.lock(), 0);
                while place.number.get().is_some() {
                    // SAFETY: initialised, and the mutex is ours.
                    assert_eq!(unsafe { libc::pthread_cond_wait(place.emptied.get(), place.mutex.get()) }, 0);
                }
                place.number.set(Some(number));
                // SAFETY: initialised.
                assert_eq!(unsafe { libc::pthread_cond_signal(place.filled.get()) }, 0);
                assert_eq!(place.mutex.unlock(), 0);
            }
        }
    };
    let consume = {
        let place = Arc::clone(&place);
        move || {
            let mut sum = 0;
            for _ in 0..EACH {
                assert_eq!(place.mutex.lock(), 0);
                sum += loop {
                    if let Some(number) = place.number.take() {
                        break number;
                    }
                    // SAFETY: as above.
                    assert_eq!(unsafe { libc::pthread_cond_wait(place.filled.get(), place.mutex.get()) }, 0);
                };
                // SAFETY: as above.
                assert_eq!(unsafe { libc::pthread_cond_signal(place.emptied.get()) }, 0);
                assert_eq!(place.mutex.unlock(), 0);
            }
            sum
        }
    };
    let mut others: Vec<std::thread::JoinHandle<usize>> = Vec::new();
    if threads {
        others.push(std::thread::spawn({
            let produce = produce.clone();
            move || {
                produce();
                0
            }
        }));
        others.push(std::thread::spawn(consume.clone()));
    }
    let producers: Vec<_> = (0..3).map(|_| spawn(produce.clone())).collect();
    let consumers: Vec<_> = (0..3).map(|_| spawn(consume.clone())).collect();
    joinall(&producers);
    let sums = consumers.into_iter().map(|consumer| consumer.join().unwrap());
    let sum: usize =
        sums.sum::<usize>() + others.into_iter().map(|other| other.join().unwrap()).sum::<usize>();
    assert_eq!(sum, (0..EACH).sum::<usize>() * if threads { 4 } else { 3 });
}

#[test]
fn what_greenlets_produce_greenlets_consume() {
    produce_and_consume(false);
}

#[test]
fn greenlets_and_threads_produce_and_consume_by_the_same_conditions() {
    produce_and_consume(true);
}

#[test]
fn a_mutex_that_a_thread_gives_up_to_wait_for_a_condition_goes_to_a_greenlet() {
    patched();
    let (mutex, cond) = (mutex(libc::PTHREAD_MUTEX_NORMAL), cond());
    let (tell, told) = std::sync::mpsc::channel();
    let (done, is_locked) = (Arc::new(AtomicUsize::new(0)), sem(0));
    let thread = std::thread::spawn({
        let (mutex, cond, done, is_locked) =
            (Arc::clone(&mutex), Arc::clone(&cond), Arc::clone(&done), Arc::clone(&is_locked));
        move || {
            assert_eq!(mutex.lock(), 0);
            // SAFETY: initialised, here and below.
            assert_eq!(unsafe { libc::sem_post(is_locked.get()) }, 0);
            // When the greenlet waits for the mutex.
            told.recv().unwrap();
            while done.load(Ordering::Relaxed) == 0 {
                // SAFETY: as above, and the mutex is ours.
                assert_eq!(unsafe { libc::pthread_cond_wait(cond.get(), mutex.get()) }, 0);
            }
            assert_eq!(mutex.unlock(), 0);
        }
    });
    // SAFETY: as above.
    assert_eq!(unsafe { libc::sem_wait(is_locked.get()) }, 0);
    let greenlet = spawn(move || {
        assert_eq!(mutex.lock(), 0);
        done.store(1, Ordering::Relaxed);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_cond_signal(cond.get()) }, 0);
        assert_eq!(mutex.unlock(), 0);
    });
    yield_now();
    tell.send(()).unwrap();
    greenlet.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_broadcast_wakes_all_greenlets() {
    let (mutex, cond, count) = (mutex(libc::PTHREAD_MUTEX_RECURSIVE), cond(), Arc::new(AtomicUsize::new(0)));
    all_at_once(100, move |_| {
        assert_eq!(mutex.lock(), 0);
        if count.fetch_add(1, Ordering::Relaxed) == 99 {
            // SAFETY: initialised.
            assert_eq!(unsafe { libc::pthread_cond_broadcast(cond.get()) }, 0);
        }
        while count.load(Ordering::Relaxed) < 100 {
            // SAFETY: initialised, and the mutex is ours.
            assert_eq!(unsafe { libc::pthread_cond_wait(cond.get(), mutex.get()) }, 0);
        }
        assert_eq!(mutex.unlock(), 0);
    });
}

#[test]
fn the_time_of_a_condition_is_by_its_clock() {
    patched();
    for clock in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC] {
        // SAFETY: initialised attributes and a place for the condition.
        let cond = Cond::new(|cond| unsafe {
            let mut attributes = MaybeUninit::uninit();
            assert_eq!(libc::pthread_condattr_init(attributes.as_mut_ptr()), 0);
            assert_eq!(libc::pthread_condattr_setclock(attributes.as_mut_ptr(), clock), 0);
            libc::pthread_cond_init(cond, attributes.as_ptr())
        });
        let wait = move || {
            let mutex = mutex(libc::PTHREAD_MUTEX_NORMAL);
            assert_eq!(mutex.lock(), 0);
            let began = Instant::now();
            let until = after(clock, Duration::from_millis(10));
            // SAFETY: initialised, and the mutex is ours.
            let result = unsafe { libc::pthread_cond_timedwait(cond.get(), mutex.get(), &until) };
            assert_eq!(result, libc::ETIMEDOUT);
            assert!((9..5000).contains(&began.elapsed().as_millis()));
            assert_eq!((mutex.try_lock(), mutex.unlock()), (libc::EBUSY, 0));
        };
        // In libc, and here.
        std::thread::spawn(wait.clone()).join().unwrap();
        spawn(wait).join().unwrap();
    }
}

#[test]
fn the_real_functions_for_conditions_are_those_that_programs_are_linked_with() {
    patched();
    use switchgrass::monkey::originals as real;
    let (mutex, cond) = (mutex(libc::PTHREAD_MUTEX_NORMAL), cond());
    // The old ones keep a pointer to something of their own in the first word of the condition.
    assert_eq!(mutex.lock(), 0);
    let until = after(libc::CLOCK_REALTIME, Duration::from_millis(1));
    // SAFETY: initialised, and the mutex is ours.
    unsafe {
        assert_eq!(real::pthread_cond_timedwait(cond.get(), mutex.get(), &until), libc::ETIMEDOUT);
        assert_eq!(real::pthread_cond_signal(cond.get()), 0);
        assert!(cond.get().cast::<u64>().read() < 1 << 16);
    }
    assert_eq!(mutex.unlock(), 0);
}

#[test]
fn writers_and_readers_exclude_each_other() {
    patched();
    // SAFETY: a place for it.
    let lock = Rwlock::new(|lock| unsafe { libc::pthread_rwlock_init(lock, std::ptr::null()) });
    let (reading, writing) = (Arc::new(Overlap::default()), Arc::new(Overlap::default()));
    let written = Arc::new(AtomicUsize::new(0));
    let work = {
        let (reading, writing, written) = (Arc::clone(&reading), Arc::clone(&writing), Arc::clone(&written));
        move |number: usize| {
            for _ in 0..20 {
                // SAFETY: initialised.
                unsafe {
                    if number.is_multiple_of(3) {
                        assert_eq!(libc::pthread_rwlock_wrlock(lock.get()), 0);
                        let before = written.load(Ordering::Relaxed);
                        writing.during(yield_now);
                        written.store(before + 1, Ordering::Relaxed);
                    } else {
                        assert_eq!(libc::pthread_rwlock_rdlock(lock.get()), 0);
                        let before = written.load(Ordering::Relaxed);
                        reading.during(yield_now);
                        assert_eq!(written.load(Ordering::Relaxed), before);
                    }
                    assert_eq!(libc::pthread_rwlock_unlock(lock.get()), 0);
                }
            }
        }
    };
    let thread = std::thread::spawn({
        let work = work.clone();
        move || work(0)
    });
    let greenlets: Vec<_> = (0..30)
        .map(|number| {
            spawn({
                let work = work.clone();
                move || work(number)
            })
        })
        .collect();
    joinall(&greenlets);
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    thread.join().unwrap();
    assert_eq!((written.load(Ordering::Relaxed), writing.most()), (11 * 20, 1));
    assert!(reading.most() > 1, "readers do not exclude readers");
}

#[test]
fn greenlets_and_a_thread_meet_at_a_barrier() {
    // SAFETY: a place for it.
    let barrier = Object::<libc::pthread_barrier_t>::new(|barrier| unsafe {
        libc::pthread_barrier_init(barrier, std::ptr::null(), 101)
    });
    // SAFETY: initialised.
    let wait = move || unsafe { libc::pthread_barrier_wait(barrier.get()) };
    patched();
    let thread = std::thread::spawn(wait.clone());
    let leaders = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&leaders);
    all_at_once(100, move |_| match wait() {
        libc::PTHREAD_BARRIER_SERIAL_THREAD => _ = count.fetch_add(1, Ordering::Relaxed),
        result => assert_eq!(result, 0),
    });
    let of_thread = usize::from(thread.join().unwrap() == libc::PTHREAD_BARRIER_SERIAL_THREAD);
    assert_eq!(leaders.load(Ordering::Relaxed) + of_thread, 1);
}

#[test]
fn posts_of_threads_and_greenlets_are_counted_and_none_is_lost() {
    patched();
    const EACH: usize = 500;
    let (sem, taken) = (sem(0), Arc::new(AtomicUsize::new(0)));
    let wait = {
        let (sem, taken) = (Arc::clone(&sem), Arc::clone(&taken));
        move || {
            for _ in 0..EACH {
                // SAFETY: initialised, here and below.
                assert_eq!(unsafe { libc::sem_wait(sem.get()) }, 0);
                taken.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let post = {
        let sem = Arc::clone(&sem);
        move || {
            for _ in 0..EACH {
                // SAFETY: as above.
                assert_eq!(unsafe { libc::sem_post(sem.get()) }, 0);
            }
        }
    };
    let thread = std::thread::spawn(wait.clone());
    let waiters: Vec<_> = (0..3).map(|_| spawn(wait.clone())).collect();
    yield_now();
    let posters = [std::thread::spawn(post.clone()), std::thread::spawn(post.clone())];
    let more: Vec<_> = (0..2).map(|_| spawn(post.clone())).collect();
    joinall(&waiters);
    joinall(&more);
    thread.join().unwrap();
    posters.into_iter().for_each(|poster| poster.join().unwrap());
    assert_eq!(taken.load(Ordering::Relaxed), 4 * EACH);
    // SAFETY: as above.
    assert_eq!((unsafe { libc::sem_trywait(sem.get()) }, errno()), (-1, libc::EAGAIN));
}

#[test]
fn a_signal_handler_may_post() {
    patched();
    static SEM: Object<[u64; 8]> = Object(UnsafeCell::new([0; 8]));
    extern "C" fn handler(_: c_int) {
        // SAFETY: initialised below, before the signal comes.
        unsafe { libc::sem_post(SEM.get().cast()) };
    }
    // SAFETY: there is room; and the handler calls what a handler may.
    unsafe {
        assert_eq!(libc::sem_init(SEM.get().cast(), 0, 0), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
    }
    // SAFETY: as above.
    let waiter = spawn(|| unsafe { libc::sem_wait(SEM.get().cast()) });
    yield_now();
    // SAFETY: to this thread, with the handler installed.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
    assert_eq!(waiter.join().unwrap(), 0);
}

#[test]
fn a_timed_wait_for_a_semaphore_ends_at_its_time() {
    let sem = sem(0);
    all_at_once(20, move |_| {
        let until = after(libc::CLOCK_REALTIME, Duration::from_millis(300));
        // SAFETY: initialised.
        assert_eq!((unsafe { libc::sem_timedwait(sem.get(), &until) }, errno()), (-1, libc::ETIMEDOUT));
    });
}

#[test]
fn a_kill_ends_the_wait_for_a_semaphore_and_not_that_for_a_mutex() {
    patched();
    let (sem, mutex, steps) = (sem(0), mutex(libc::PTHREAD_MUTEX_NORMAL), Arc::new(AtomicUsize::new(0)));
    assert_eq!(mutex.lock(), 0);
    let waiter = spawn({
        let (sem, mutex, steps) = (Arc::clone(&sem), Arc::clone(&mutex), Arc::clone(&steps));
        move || {
            // SAFETY: initialised.
            assert_eq!((unsafe { libc::sem_wait(sem.get()) }, errno()), (-1, libc::EINTR));
            steps.store(1, Ordering::Relaxed);
            assert_eq!(mutex.lock(), 0);
            steps.store(2, Ordering::Relaxed);
            assert_eq!(mutex.unlock(), 0);
            yield_now();
            steps.store(3, Ordering::Relaxed);
        }
    });
    yield_now();
    waiter.kill_nowait();
    yield_now();
    yield_now();
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    assert_eq!(mutex.unlock(), 0);
    assert!(waiter.join().is_err());
    assert_eq!(steps.load(Ordering::Relaxed), 2);
}

/// With the mutex, as after a wake for nothing; from then on it really waits.
#[test]
fn a_kill_returns_once_for_nothing_from_the_wait_for_a_condition() {
    patched();
    let (cond, mutex, steps) = (cond(), mutex(libc::PTHREAD_MUTEX_NORMAL), Arc::new(AtomicUsize::new(0)));
    let waiter = spawn({
        let (cond, mutex, steps) = (Arc::clone(&cond), Arc::clone(&mutex), Arc::clone(&steps));
        move || {
            assert_eq!(mutex.lock(), 0);
            for step in 1..3 {
                // SAFETY: both are initialised, and the mutex is locked.
                assert_eq!(unsafe { libc::pthread_cond_wait(cond.get(), mutex.get()) }, 0);
                assert_eq!(mutex.try_lock(), libc::EBUSY, "it has the mutex");
                steps.store(step, Ordering::Relaxed);
            }
            assert_eq!(mutex.unlock(), 0);
            yield_now();
            steps.store(3, Ordering::Relaxed);
        }
    });
    yield_now();
    waiter.kill_nowait();
    (0..5).for_each(|_| yield_now());
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    // SAFETY: initialised.
    assert_eq!(unsafe { libc::pthread_cond_signal(cond.get()) }, 0);
    assert!(waiter.join().is_err());
    assert_eq!(steps.load(Ordering::Relaxed), 2);
}

#[test]
fn main_gets_the_mutex_that_it_waits_for_in_the_child_of_a_fork_too() {
    patched();
    for kind in [libc::PTHREAD_MUTEX_NORMAL, libc::PTHREAD_MUTEX_ADAPTIVE_NP] {
        let mutex = mutex(kind);
        let theirs = Arc::clone(&mutex);
        let holder = spawn(move || {
            assert_eq!(theirs.lock(), 0);
            yield_now();
            // SAFETY: the child uses what this crate promises to work there.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // Ends a child that hangs.
                // SAFETY: takes a number.
                unsafe { libc::alarm(20) };
            }
            assert_eq!(theirs.unlock(), 0);
            pid
        });
        yield_now();
        assert_eq!((mutex.lock(), mutex.unlock()), (0, 0));
        let pid = holder.join().unwrap();
        if pid == 0 {
            // Its loop looks for events, from when on greenlets wait here.
            switchgrass::sleep(Duration::from_millis(1));
            let greenlets: Vec<_> = (0..3)
                .map(|_| {
                    spawn({
                        let mutex = Arc::clone(&mutex);
                        move || {
                            mutex.lock();
                            yield_now();
                            mutex.unlock();
                        }
                    })
                })
                .collect();
            joinall(&greenlets);
            // SAFETY: ends the child, without the harness's exit handlers.
            unsafe { libc::_exit(if mutex.try_lock() == 0 { 42 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: a place for it.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 42, "{status:#x}");
    }
}

/// What a static constructor of C++ might do.
static BEFORE_MAIN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn before_main() {
    let mut mutex = libc::PTHREAD_MUTEX_INITIALIZER;
    let mut cond = libc::PTHREAD_COND_INITIALIZER;
    // SAFETY: objects made by their initialisers.
    unsafe {
        let locked = libc::pthread_mutex_lock(&mut mutex) == 0;
        let until = timespec { tv_sec: 1, tv_nsec: 0 };
        let waited = libc::pthread_cond_timedwait(&mut cond, &mut mutex, &until) == libc::ETIMEDOUT;
        let unlocked = libc::pthread_mutex_unlock(&mut mutex) == 0;
        BEFORE_MAIN.store(usize::from(locked && waited && unlocked), Ordering::Relaxed);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = before_main;

#[test]
fn constructors_may_lock_before_main() {
    assert_eq!(BEFORE_MAIN.load(Ordering::Relaxed), 1);
}

#[test]
fn destructors_of_thread_locals_may_lock_when_the_thread_ends() {
    struct AtEnd(Arc<Mutex>, Arc<Sem>);
    impl Drop for AtEnd {
        fn drop(&mut self) {
            for _ in 0..2 {
                assert_eq!((self.0.lock(), self.0.lock(), self.0.unlock(), self.0.unlock()), (0, 0, 0, 0));
                // SAFETY: initialised.
                assert_eq!(unsafe { libc::sem_post(self.1.get()) }, 0);
            }
        }
    }
    thread_local!(static AT_END: Cell<Option<AtEnd>> = const { Cell::new(None) });
    patched();
    let (mutex, sem) = (mutex(libc::PTHREAD_MUTEX_RECURSIVE), sem(0));
    let theirs = (Arc::clone(&mutex), Arc::clone(&sem));
    std::thread::spawn(move || {
        // Before the hub is made, so destroyed after it; and the other way round, by a greenlet that has locked.
        AT_END.set(Some(AtEnd(Arc::clone(&theirs.0), Arc::clone(&theirs.1))));
        spawn(move || assert_eq!((theirs.0.lock(), theirs.0.unlock()), (0, 0))).join().unwrap();
    })
    .join()
    .unwrap();
    for _ in 0..2 {
        // SAFETY: initialised.
        assert_eq!(unsafe { libc::sem_wait(sem.get()) }, 0);
    }
    assert_eq!((mutex.lock(), mutex.unlock()), (0, 0));
}
