//! `signal`. Signals concern the whole process: each test here has a signal to itself while it runs, and what the process must be alone for
//! runs in a child process.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use std::{io, thread};

use signal_hook::low_level::raise;
use switchgrass::signal::{self, SIGUSR1, SIGUSR2, Signals};
use switchgrass::{park, sleep, spawn, testing, timeout, unblock, yield_now};

use crate::util::{HOUR, Log, OnDrop, catch, in_child, is_exit, open_fds, text};

/// SIGUSR1 and SIGUSR2, for the one who has this.
fn signals() -> MutexGuard<'static, ()> {
    static SIGNALS: Mutex<()> = Mutex::new(());
    SIGNALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the others run until it is so.
fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        yield_now();
    }
}

/// Long enough for a signal to be handled, if anybody does.
fn many_turns() {
    for _ in 0..10_000 {
        yield_now();
    }
}

/// A count, and what adds to it.
fn counter() -> (Rc<Cell<u32>>, impl Fn() + 'static) {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    (count, move || counted.set(counted.get() + 1))
}

#[test]
fn a_handler_runs_in_a_greenlet_of_its_own_each_time_and_may_wait() {
    let _signals = signals();
    let log = Log::new();
    let said = log.clone();
    let _handler = signal::handle(SIGUSR1, move || {
        said.add(switchgrass::current().name().unwrap());
        sleep(Duration::from_millis(1));
        said.add("after");
    })
    .unwrap();
    let entries = RefCell::new(String::new());
    for _ in 0..2 {
        raise(SIGUSR1).unwrap();
        entries.borrow_mut().clear();
        until(|| {
            entries.borrow_mut().push_str(&log.take());
            entries.borrow().ends_with("after")
        });
        assert!(entries.borrow().starts_with("SIGUSR1 handler"), "{}", entries.borrow());
    }
}

#[test]
fn a_signal_is_handled_while_the_handler_of_the_one_before_waits() {
    let _signals = signals();
    let (count, add) = counter();
    let waiting = Rc::new(Cell::new(0));
    let waits = Rc::clone(&waiting);
    let _handler = signal::handle(SIGUSR1, move || {
        waits.set(waits.get() + 1);
        let _leave = OnDrop(|| waits.set(waits.get() - 1));
        add();
        park();
    })
    .unwrap();
    for n in 1..=3 {
        raise(SIGUSR1).unwrap();
        until(|| count.get() == n);
    }
    assert_eq!(waiting.get(), 3);
}

#[test]
fn a_sleeping_main_is_interrupted_for_a_handler_but_sleeps_on() {
    let _signals = signals();
    let (count, add) = counter();
    let _handler = signal::handle(SIGUSR1, add).unwrap();
    let sleeper = spawn(|| sleep(Duration::from_millis(60)));
    let other = thread::spawn(|| raise(SIGUSR1).unwrap());
    assert!(sleeper.join().is_ok());
    other.join().unwrap();
    until(|| count.get() == 1);
}

#[test]
fn a_panic_in_a_handler_ends_that_call_only() {
    let _signals = signals();
    let (count, add) = counter();
    let _handler = signal::handle(SIGUSR1, move || {
        add();
        std::panic::resume_unwind(Box::new("a panic of a handler"));
    })
    .unwrap();
    for n in 1..=2 {
        raise(SIGUSR1).unwrap();
        until(|| count.get() == n);
    }
}

#[test]
fn all_handlers_of_a_signal_are_called_and_no_others() {
    let _signals = signals();
    let ((one, add_one), (two, add_two), (other, add_other)) = (counter(), counter(), counter());
    let _one = signal::handle(SIGUSR1, add_one).unwrap();
    let _two = signal::handle(SIGUSR1, add_two).unwrap();
    let _other = signal::handle(SIGUSR2, add_other).unwrap();
    raise(SIGUSR1).unwrap();
    until(|| one.get() == 1 && two.get() == 1);
    many_turns();
    assert_eq!((one.get(), two.get(), other.get()), (1, 1, 0));
}

#[test]
fn hubs_of_several_threads_handle_the_same_signal_each_on_its_own_thread() {
    const THREADS: usize = 3;
    let _signals = signals();
    let ready = Barrier::new(THREADS + 1);
    let (tell, told) = mpsc::channel();
    thread::scope(|s| {
        for _ in 0..THREADS {
            let tell = tell.clone();
            let ready = &ready;
            s.spawn(move || {
                let (count, add) = counter();
                let _handler = signal::handle(SIGUSR1, move || {
                    add();
                    tell.send(thread::current().id()).unwrap();
                })
                .unwrap();
                ready.wait();
                until(|| count.get() == 1);
                thread::current().id()
            });
        }
        ready.wait();
        raise(SIGUSR1).unwrap();
        let mut threads: Vec<_> = (0..THREADS).map(|_| told.recv().unwrap()).collect();
        threads.dedup();
        assert_eq!(threads.len(), THREADS);
        assert!(!threads.contains(&thread::current().id()));
    });
}

#[test]
fn a_handler_that_was_dropped_or_cancelled_is_not_called_and_one_that_was_detached_is() {
    let _signals = signals();
    // Without it the last one that goes would bring the default action back, which ends the process.
    let (heard, add) = counter();
    signal::handle(SIGUSR1, add).unwrap().detach();
    let ((dropped, add_dropped), (cancelled, add_cancelled)) = (counter(), counter());
    drop(signal::handle(SIGUSR1, add_dropped).unwrap());
    let handler = signal::handle(SIGUSR1, add_cancelled).unwrap();
    assert_eq!(handler.signal(), SIGUSR1);
    // Its greenlet waits by now, and one that came before the cancelling and was not looked at is gone, too.
    many_turns();
    raise(SIGUSR1).unwrap();
    handler.cancel();
    raise(SIGUSR1).unwrap();
    until(|| heard.get() > 0);
    many_turns();
    assert_eq!((dropped.get(), cancelled.get()), (0, 0));
}

#[test]
fn cancelled_handlers_leave_no_descriptor_and_no_greenlet_behind() {
    in_child("signal::cancelled_handlers_leave_no_descriptor_and_no_greenlet_behind", || {
        yield_now();
        let round = || {
            let handlers: Vec<_> = (0..10).map(|_| signal::handle(SIGUSR1, || {}).unwrap()).collect();
            let signals = Signals::new(&[SIGUSR1, SIGUSR2]).unwrap();
            yield_now();
            drop((handlers, signals));
            many_turns();
        };
        round();
        let before = (open_fds(), testing::live());
        round();
        assert_eq!((open_fds(), testing::live()), before);
        assert_eq!(testing::live(), 0);
    });
}

#[test]
fn a_detached_handler_goes_with_its_thread() {
    in_child("signal::a_detached_handler_goes_with_its_thread", || {
        let keep = Signals::new(&[SIGUSR1]).unwrap();
        let run = || {
            let thread = thread::spawn(|| {
                signal::handle(SIGUSR1, || {}).unwrap().detach();
                yield_now();
            });
            thread.join().unwrap();
        };
        run();
        let before = open_fds();
        run();
        raise(SIGUSR1).unwrap();
        assert_eq!(open_fds(), before);
        drop(keep);
    });
}

#[test]
fn wait_gives_the_signal_that_came_and_others_run_meanwhile() {
    let _signals = signals();
    let raiser = spawn(|| {
        // The main stack waits by now.
        raise(SIGUSR2).unwrap();
    });
    assert_eq!(signal::wait(&[SIGUSR1, SIGUSR2]).unwrap(), SIGUSR2);
    raiser.join().unwrap();
}

#[test]
fn a_wait_for_a_signal_is_no_deadlock() {
    in_child("signal::a_wait_for_a_signal_is_no_deadlock", || {
        let pid = std::process::id();
        let mut kill = std::process::Command::new("sh")
            .args(["-c", &format!("sleep 0.2; kill -USR1 {pid}")])
            .spawn()
            .unwrap();
        assert_eq!(signal::wait(&[SIGUSR1]).unwrap(), SIGUSR1);
        kill.wait().unwrap();
    });
}

#[test]
fn a_handler_does_not_hide_a_deadlock() {
    let _signals = signals();
    let _handler = signal::handle(SIGUSR1, || {}).unwrap();
    let report = catch(park).unwrap_err();
    assert!(text(&report).starts_with("this would block forever"), "{}", text(&report));
    assert!(text(&report).contains("'SIGUSR1 dispatcher': waits: signal by fd"), "{}", text(&report));
}

#[test]
fn signals_between_two_waits_are_kept_and_equal_ones_count_once() {
    let _signals = signals();
    let mut both = Signals::new(&[SIGUSR2, SIGUSR1]).unwrap();
    assert_eq!(both.try_wait(), None);
    for signal in [SIGUSR1, SIGUSR2, SIGUSR1] {
        raise(signal).unwrap();
    }
    let mut came: Vec<i32> = both.by_ref().take(2).collect::<io::Result<_>>().unwrap();
    came.sort_unstable();
    assert_eq!(came, [SIGUSR1, SIGUSR2]);
    assert_eq!(both.try_wait(), None);
}

#[test]
fn a_wait_that_is_timed_out_or_killed_loses_no_signal() {
    let _signals = signals();
    let mut signals = Signals::new(&[SIGUSR1]).unwrap();
    assert!(timeout(Duration::from_millis(1), || signals.wait()).is_err());
    raise(SIGUSR1).unwrap();
    assert_eq!(signals.wait().unwrap(), SIGUSR1);

    let signals = Rc::new(RefCell::new(signals));
    let waits = {
        let signals = Rc::clone(&signals);
        spawn(move || signals.borrow_mut().wait())
    };
    yield_now();
    // Both at once: it is woken and killed.
    raise(SIGUSR1).unwrap();
    waits.kill_nowait();
    assert!(is_exit(&waits.join()));
    assert_eq!(signals.borrow_mut().wait().unwrap(), SIGUSR1);
}

#[test]
fn signals_go_to_another_thread_and_are_waited_for_there() {
    let _signals = signals();
    let mut signals = Signals::new(&[SIGUSR1]).unwrap();
    assert!(timeout(Duration::from_millis(1), || signals.wait()).is_err());
    let other = spawn(move || unblock(move || signals.wait()));
    yield_now();
    raise(SIGUSR1).unwrap();
    assert_eq!(other.join().unwrap().unwrap(), SIGUSR1);
}

#[test]
fn in_a_destructor_that_runs_while_unwinding_wait_fails() {
    let _signals = signals();
    let result = Rc::new(Cell::new(None));
    let given = Rc::clone(&result);
    let greenlet = spawn(move || {
        let _on_drop = OnDrop(move || given.set(Some(signal::wait(&[SIGUSR1]))));
        sleep(HOUR);
    });
    yield_now();
    greenlet.kill();
    assert_eq!(result.take().unwrap().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn what_cannot_be_handled_is_refused_by_name() {
    let refusal = |signal| {
        let error = signal::handle(signal, || {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    assert_eq!(refusal(libc::SIGKILL), "cannot handle SIGKILL: the system keeps it for itself");
    assert!(refusal(libc::SIGSEGV).starts_with("cannot handle SIGSEGV: it is a fault"));
    for number in [-1, 0, 1000] {
        assert_eq!(refusal(number), format!("cannot handle signal {number}: there is no such signal"));
    }
}
