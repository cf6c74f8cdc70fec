//! `parking_lot`'s locks, of greenlets and of threads.
//!
//! Note: A greenlet that waits for such a lock blocks its OS thread, as without us. Where several greenlets of a thread
//! Note: use one lock, and other threads too, `no_switch` belongs around what holds it, or std's lock in its place. A wait
//! Note: of more than a second is told on standard error.

#![allow(clippy::disallowed_methods, reason = "what they are about: calls that block")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use switchgrass::monkey::no_switch;
use switchgrass::{joinall, spawn, yield_now};

const MOMENT: Duration = Duration::from_millis(1);

/// So many greenlets of three threads each take three locks in turns, each in another order, so that many wait at once.
fn count_under_locks(greenlets: usize, section: fn(&mut dyn FnMut())) {
    const COUNT: usize = 2000;
    let locks: Arc<[Mutex<usize>; 3]> = Arc::default();
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let locks = Arc::clone(&locks);
            let work = move |number: usize| {
                for step in 0..COUNT {
                    section(&mut || {
                        let mut guard = locks[(thread + number + step) % 3].lock();
                        (0..1000).for_each(|_| std::hint::spin_loop());
                        *guard += 1;
                    });
                    if step % 10 == 0 {
                        yield_now();
                    }
                }
            };
            thread::spawn(move || drop(real::all(greenlets, work)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(locks.iter().map(|lock| *lock.lock()).sum::<usize>(), 3 * greenlets * COUNT);
}

#[test]
fn one_greenlet_of_each_of_three_threads_counts_under_locks() {
    count_under_locks(1, |section| section());
}

#[test]
fn ten_greenlets_of_each_of_three_threads_count_under_locks_and_no_switch() {
    count_under_locks(10, |section| no_switch(section));
}

#[test]
fn ten_greenlets_read_at_once_and_wait_meanwhile() {
    real::patched();
    let lock = Arc::new(RwLock::new(0));
    let meeting = Arc::new(std::sync::Barrier::new(10));
    real::all(10, move |_| {
        let _guard = lock.read();
        meeting.wait();
    });
}

#[test]
fn under_no_switch_a_lock_is_held_over_a_call_that_blocks() {
    let lock = Arc::new(Mutex::new(0));
    let theirs = Arc::clone(&lock);
    real::all(10, move |_| {
        no_switch(|| {
            let mut guard = theirs.lock();
            thread::sleep(MOMENT);
            *guard += 1;
        });
    });
    assert_eq!(*lock.lock(), 10);
}

#[test]
fn a_condition_that_a_thread_signals_is_waited_for() {
    real::patched();
    let shared = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = Arc::clone(&shared);
    let waits = spawn(move || {
        let mut guard = theirs.0.lock();
        while !*guard {
            theirs.1.wait(&mut guard);
        }
    });
    let signals = thread::spawn(move || {
        *shared.0.lock() = true;
        shared.1.notify_all();
    });
    waits.join().unwrap();
    signals.join().unwrap();
}

#[test]
fn a_wait_ends_in_time() {
    real::patched();
    let lock = Arc::new(Mutex::new(()));
    let (locked, is_locked) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let theirs = Arc::clone(&lock);
    let holds = thread::spawn(move || {
        let _guard = theirs.lock();
        locked.send(()).unwrap();
        is_done.recv().unwrap();
    });
    is_locked.recv().unwrap();
    // More than the second after which a message comes.
    for limit in [MOMENT, Duration::from_millis(1200)] {
        let lock = Arc::clone(&lock);
        assert!(spawn(move || lock.try_lock_for(limit).is_none()).join().unwrap());
    }
    done.send(()).unwrap();
    holds.join().unwrap();
}

/// Whether the thread waits in the kernel for a futex, and not for the hub's events.
fn waits_for_futex(thread: i32) -> bool {
    let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap();
    call.starts_with(&format!("{} ", libc::SYS_futex))
}

const CHILD: &str = "REAL_CHILD";

/// Runs that test again in a process of its own, which must tell what it waits for, and go on waiting.
fn is_told_and_blocks(test: &str, case: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, case)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = lines.into_iter().find(|line| line.starts_with("switchgrass: ")).expect("it ended");
    assert!(said.contains("one place per OS thread") && said.contains("parking_lot.rs"), "{said}");
    assert!(child.try_wait().unwrap().is_none(), "it does block");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn case() -> Option<String> {
    std::env::var(CHILD).ok()
}

real::limits! {
    "its queues have one place per OS thread, so nobody else of that thread may come to wait there"
    fn a_greenlet_that_waits_for_a_lock_blocks_its_thread() {
        real::patched();
        let lock = Arc::new(Mutex::new(()));
        let ran = Arc::new(AtomicBool::new(false));
        let about_to_wait = Arc::new(AtomicBool::new(false));
        let (locked, is_locked) = mpsc::channel();
        let (go, goes) = mpsc::channel();
        // SAFETY: takes nothing.
        let number = unsafe { libc::gettid() };
        let holds = thread::spawn({
            let (lock, ran, about_to_wait) = (Arc::clone(&lock), Arc::clone(&ran), Arc::clone(&about_to_wait));
            move || {
                let _guard = lock.lock();
                locked.send(()).unwrap();
                while !about_to_wait.load(Ordering::SeqCst) || !waits_for_futex(number) {
                    thread::yield_now();
                }
                go.send(()).unwrap();
                // Long enough for one who could run.
                thread::sleep(Duration::from_millis(50));
                !ran.load(Ordering::SeqCst)
            }
        });
        is_locked.recv().unwrap();
        let runs = spawn(move || {
            goes.recv().unwrap();
            ran.store(true, Ordering::SeqCst);
        });
        let waits = spawn(move || {
            about_to_wait.store(true, Ordering::SeqCst);
            drop(lock.lock());
        });
        waits.join().unwrap();
        runs.join().unwrap();
        assert!(holds.join().unwrap(), "another greenlet ran meanwhile");
    }

    "who has it is on the thread that is blocked"
    fn a_lock_that_is_held_over_a_call_that_blocks_is_never_had_by_another_greenlet_of_the_thread() {
        const NAME: &str = "limits::a_lock_that_is_held_over_a_call_that_blocks_is_never_had_by_another_greenlet_of_the_thread";
        let Some(case) = case() else {
            return ["mutex", "write", "read"].into_iter().for_each(|case| is_told_and_blocks(NAME, case));
        };
        real::patched();
        let mutex = Arc::new(Mutex::new(()));
        let rwlock = Arc::new(RwLock::new(()));
        let use_it = move || match &case[..] {
            "mutex" => {
                let _guard = mutex.lock();
                thread::sleep(MOMENT);
            }
            "write" => {
                let _guard = rwlock.write();
                thread::sleep(MOMENT);
            }
            _ => {
                let guard = rwlock.write();
                thread::sleep(MOMENT);
                drop(guard);
                drop(rwlock.read());
            }
        };
        joinall([&spawn(use_it.clone()), &spawn(use_it)]);
    }

    "who would signal it is on the thread that is blocked"
    fn a_condition_is_not_signalled_by_another_greenlet_of_the_thread() {
        if case().is_none() {
            return is_told_and_blocks("limits::a_condition_is_not_signalled_by_another_greenlet_of_the_thread", "condition");
        }
        real::patched();
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let waits = spawn(move || {
            let mut guard = theirs.0.lock();
            while !*guard {
                theirs.1.wait(&mut guard);
            }
        });
        let signals = spawn(move || {
            *shared.0.lock() = true;
            shared.1.notify_all();
        });
        joinall([&waits, &signals]);
    }
}
