//! `monitor`: who holds up a hub. Each test has a process of its own, for a monitor looks at all hubs.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use switchgrass::testing::Looks;
use switchgrass::{Builder, current, monitor, park, spawn, unblock, yield_now};

use crate::util::*;

#[inline(never)]
fn spin_until(done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        SPINS.fetch_add(1, Ordering::Release);
    }
}

/// Counted within [`spin_until`].
static SPINS: AtomicUsize = AtomicUsize::new(0);

/// Looks several times from another OS thread, while `meanwhile` runs here until it is told that it is over. The first look is when somebody has come to
/// [`spin_until`].
fn looks_while(meanwhile: impl FnOnce(&AtomicBool)) -> Vec<monitor::Report> {
    let over = Arc::new(AtomicBool::new(false));
    let looker = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            while SPINS.load(Ordering::Acquire) == 0 {
                hint::spin_loop();
            }
            let mut looks = Looks::new();
            let reports = (0..5).flat_map(|_| looks.look()).collect();
            over.store(true, Ordering::Release);
            reports
        }
    });
    meanwhile(&over);
    looker.join().unwrap()
}

#[test]
fn a_greenlet_that_spins_is_reported_again_and_again_with_where_it_is() {
    in_child("monitor::a_greenlet_that_spins_is_reported_again_and_again_with_where_it_is", || {
        let done = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let monitor = {
            let done = Arc::clone(&done);
            monitor::Builder::new()
                .limit(std::time::Duration::from_millis(10))
                .on_report(move |report| {
                    let _ = tell.send(report.clone());
                    if report.held_for() >= std::time::Duration::from_millis(20) {
                        done.store(true, Ordering::Release);
                    }
                })
                .start()
                .unwrap()
        };
        let spinner = Builder::new().name("spinner").spawn(move || spin_until(&done)).unwrap();
        let id = spinner.id();
        spinner.join().unwrap();
        drop(monitor);
        let reports: Vec<_> = told.iter().collect();
        assert!(reports.len() >= 2);
        for report in reports {
            assert_eq!((report.id(), report.name()), (id, Some("spinner")));
            assert!(report.spawned_at().unwrap().file().ends_with("monitor.rs"));
            assert!(report.backtrace().contains("monitor::spin_until"), "{report}");
            // Not what lies below the greenlet on the hub's own stack.
            assert!(!report.backtrace().contains("Hub>::run"), "{report}");
            assert!(
                report.to_string().contains(&format!("greenlet {id} 'spinner' has held up its hub")),
                "{report}"
            );
        }
    });
}

#[test]
fn a_greenlet_that_blocks_the_thread_is_reported() {
    in_child("monitor::a_greenlet_that_blocks_the_thread_is_reported", || {
        let (tell, told) = mpsc::channel();
        let _monitor = monitor::Builder::new()
            .limit(std::time::Duration::from_millis(10))
            .on_report(move |report| {
                let _ = tell.send(report.to_string());
            })
            .start()
            .unwrap();
        let blocker = spawn(move || told.recv().unwrap());
        let report = blocker.join().unwrap();
        assert!(report.contains("Receiver"), "{report}");
    });
}

#[test]
fn a_hub_that_waits_for_events_is_not_reported() {
    in_child("monitor::a_hub_that_waits_for_events_is_not_reported", || {
        let reports = looks_while(|over| {
            let main = current();
            let handle = main.clone();
            // Woken from elsewhere, when it is over.
            thread::scope(|scope| {
                // SAFETY: takes nothing.
                let thread = unsafe { libc::gettid() };
                scope.spawn(move || {
                    // The first look comes when the hub sleeps: one that is kept from running on its way there has not come back to its loop, either.
                    while !sleeps(thread) {
                        hint::spin_loop();
                    }
                    spin_until(over);
                    handle.unpark();
                });
                let _other = spawn(sleep_long);
                while !over.load(Ordering::Acquire) {
                    park();
                }
            });
        });
        assert!(reports.is_empty(), "{reports:?}");
    });
}

/// Whether a thread of this process waits in the kernel.
fn sleeps(thread: libc::pid_t) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    // After the name, which may have anything in it.
    status.rsplit_once(')').unwrap().1.trim_start().starts_with('S')
}

fn sleep_long() {
    switchgrass::sleep(HOUR);
}

#[test]
fn a_main_context_that_holds_up_nobody_is_not_reported() {
    in_child("monitor::a_main_context_that_holds_up_nobody_is_not_reported", || {
        spawn(|| ()).join().unwrap();
        let reports = looks_while(spin_until);
        assert!(reports.is_empty(), "{reports:?}");
    });
}

#[test]
fn a_main_context_that_holds_up_a_greenlet_is_reported() {
    in_child("monitor::a_main_context_that_holds_up_a_greenlet_is_reported", || {
        let _held_up = spawn(park);
        let reports = looks_while(spin_until);
        assert!(!reports.is_empty());
        assert_eq!(reports[0].id(), current().id());
        assert_eq!(reports[0].spawned_at(), None);
        assert!(reports[0].backtrace().contains("monitor::spin_until"), "{}", reports[0]);
    });
}

#[test]
fn a_job_of_the_pool_is_not_reported() {
    in_child("monitor::a_job_of_the_pool_is_not_reported", || {
        let reports = unblock(|| looks_while(spin_until));
        assert!(reports.is_empty(), "{reports:?}");
    });
}

/// Attaches a process as a debugger does, and lets it go when dropped. `None`: this system does not allow it.
#[cfg(target_os = "linux")]
struct Debugger(std::io::PipeWriter);

#[cfg(target_os = "linux")]
impl Debugger {
    fn attach() -> Option<Self> {
        use std::io::Read;
        use std::os::fd::AsRawFd;

        let (mut told, tell) = std::io::pipe().unwrap();
        let (until, end) = std::io::pipe().unwrap();
        // SAFETY: the new process only makes system calls, with valid buffers, before it ends.
        unsafe {
            libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
            let parent = libc::getpid();
            if libc::fork() == 0 {
                let attached = libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) == 0;
                libc::write(tell.as_raw_fd(), [u8::from(attached)].as_ptr().cast(), 1);
                // Ends when the other end is closed, which this process has, too.
                libc::close(end.as_raw_fd());
                libc::read(until.as_raw_fd(), [0_u8].as_mut_ptr().cast(), 1);
                libc::_exit(0);
            }
        }
        let mut attached = [0];
        told.read_exact(&mut attached).unwrap();
        (attached == [1]).then_some(Debugger(end))
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_reported_while_a_debugger_is_attached() {
    in_child("monitor::nothing_is_reported_while_a_debugger_is_attached", || {
        let Some(debugger) = Debugger::attach() else { return println!("cannot attach to a process here") };
        let _held_up = spawn(park);
        let reports = looks_while(spin_until);
        assert!(reports.is_empty(), "{reports:?}");
        drop(debugger.0);
    });
}

#[test]
fn a_hub_that_goes_on_between_two_looks_is_not_reported() {
    in_child("monitor::a_hub_that_goes_on_between_two_looks_is_not_reported", || {
        let (turns, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let looker = thread::spawn({
            let (turns, over) = (Arc::clone(&turns), Arc::clone(&over));
            move || {
                let mut looks = Looks::new();
                let mut reports = Vec::new();
                for _ in 0..20 {
                    reports.extend(looks.look());
                    // One resumption more than the one that may be going on.
                    let now = turns.load(Ordering::Acquire);
                    while turns.load(Ordering::Acquire) < now + 2 {
                        hint::spin_loop();
                    }
                }
                over.store(true, Ordering::Release);
                reports
            }
        });
        let yielder = spawn(move || {
            while !over.load(Ordering::Acquire) {
                turns.fetch_add(1, Ordering::AcqRel);
                yield_now();
            }
        });
        yielder.join().unwrap();
        assert!(looker.join().unwrap().is_empty());
    });
}

#[test]
fn a_panic_of_the_function_does_not_end_the_monitor_and_dropping_it_does() {
    in_child("monitor::a_panic_of_the_function_does_not_end_the_monitor_and_dropping_it_does", || {
        let done = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicUsize::new(0));
        let monitor = monitor::Builder::new().limit(std::time::Duration::from_millis(5));
        let monitor = {
            let (done, calls) = (Arc::clone(&done), Arc::clone(&calls));
            monitor.on_report(move |_| {
                if calls.fetch_add(1, Ordering::AcqRel) == 2 {
                    done.store(true, Ordering::Release);
                }
                panic!("this panic is part of the test");
            })
        };
        let monitor = monitor.start().unwrap();
        spawn(move || spin_until(&done)).join().unwrap();
        drop(monitor);
        assert!(calls.load(Ordering::Acquire) >= 3);
        let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
            let name = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("switchgrass-mon"))
        });
        assert_eq!(threads.count(), 0);
    });
}

#[test]
fn a_monitor_is_no_thread_that_could_end_a_deadlock() {
    in_child("monitor::a_monitor_is_no_thread_that_could_end_a_deadlock", || {
        // The harness has a thread that waits for this one.
        let ended = thread::spawn(|| ());
        ended.join().unwrap();
        let _monitor = monitor::start().unwrap();
        let stuck = spawn(park);
        let report = catch(|| stuck.join()).unwrap_err();
        assert!(text(&report).contains("would block forever"));
    });
}

#[test]
fn a_signal_that_is_not_the_monitors_goes_to_the_handler_that_was_there_before() {
    static CALLED: AtomicBool = AtomicBool::new(false);
    extern "C" fn before(_: libc::c_int) {
        CALLED.store(true, Ordering::SeqCst);
    }
    in_child("monitor::a_signal_that_is_not_the_monitors_goes_to_the_handler_that_was_there_before", || {
        yield_now();
        // SAFETY: the handler stores to an atomic.
        unsafe { libc::signal(libc::SIGURG, before as *const () as libc::sighandler_t) };
        let _monitor = monitor::start().unwrap();
        // SAFETY: raise takes a number.
        unsafe { libc::raise(libc::SIGURG) };
        assert!(CALLED.load(Ordering::SeqCst));
    });
}

#[test]
fn a_signal_that_says_what_a_thread_has_done_is_refused() {
    for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGKILL, 0, -1, 1000] {
        let refused = monitor::Builder::new().signal(signal).start().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "{signal}");
    }
}
