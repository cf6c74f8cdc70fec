//! What ends a process, or changes it for good: overflows, limits of the system, the end of `main`.
//!
//! Each case has the main thread of a process of its own (see `cases`).

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::panic_any;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, hint, process, ptr, thread};

use std::sync::atomic::{AtomicU32, Ordering};
use switchgrass::threadpool::{self, ThreadPool};

use switchgrass::signal::{self, SIGHUP, SIGTERM, Signals};
use switchgrass::sync::{Barrier, Condvar, Event, Mutex, Once, ReentrantMutex, RwLock, Semaphore};
use switchgrass::{
    Builder, Greenlet, current, joinall, killall, park, scope, sleep, spawn, testing, unblock, yield_now,
};

use self::cases::Outcome;
use self::util::{catch, text};

mod cases;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "it/util.rs"]
mod util;

struct Case {
    name: &'static str,
    child: fn(),
    check: fn(&Outcome),
}

impl cases::Case for Case {
    fn name(&self) -> &'static str {
        self.name
    }

    fn child(&self) {
        limit(libc::RLIMIT_CORE, 0);
        (self.child)();
    }

    fn check(&self, outcome: &Outcome) {
        (self.check)(outcome);
    }
}

impl Outcome {
    #[track_caller]
    fn died_by(&self, signal: i32) {
        assert_eq!(self.status.signal(), Some(signal), "{}", self.status);
    }

    #[track_caller]
    fn exited_with(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{}", self.status);
    }

    #[track_caller]
    fn says(&self, part: &str) {
        assert!(self.stderr.contains(part), "no {part:?} on stderr");
    }

    #[track_caller]
    fn does_not_say(&self, part: &str) {
        assert!(!self.stderr.contains(part), "{part:?} on stderr");
    }

    #[track_caller]
    fn printed(&self, all: &str) {
        assert_eq!(self.stdout, all);
    }
}

fn main() -> ExitCode {
    // Two at a time: most of them wait for the system, not for the processor.
    cases::main(CASES, 2, 100)
}

macro_rules! cases {
    ($($name:ident: $child:expr, $check:expr;)*) => {
        &[$(Case { name: stringify!($name), child: $child, check: $check }),*]
    };
}

const CASES: &[Case] = cases! {
    // Overflows.
    an_overflow_on_a_greenlet_names_it_and_the_remedy_and_aborts: overflow_named, |outcome| {
        outcome.died_by(libc::SIGABRT);
        let id = outcome.stdout.trim();
        outcome.says(&format!("greenlet {id} 'deep' has overflowed its stack of 256 KiB"));
        outcome.says("spawned at tests/crash.rs:");
        outcome.says("remedy: give it more, Builder::new().stack_size(524288)");
    };
    a_stack_has_the_size_asked_for_rounded_up_to_pages: || overflow_of(40_000), |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("'unnamed' has overflowed its stack of 40 KiB");
    };
    a_stack_has_32_kib_at_least: || overflow_of(1), |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("has overflowed its stack of 32 KiB");
    };
    the_smallest_stack_carries_a_panic_with_its_backtrace: panic_on_smallest, |outcome| {
        outcome.exited_with(0);
        outcome.says("small");
        outcome.says("stack backtrace:");
    };
    an_overflow_is_caught_by_mprotect_guards_too: overflow_by_mprotect, |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("has overflowed its stack of 256 KiB");
    };
    an_overflow_on_a_stack_that_was_used_before_is_caught: overflow_on_used_stack, |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("'second' has overflowed its stack of 256 KiB");
    };
    an_overflow_of_the_main_stack_names_it_and_the_remedy_and_aborts: overflow_on_main, |outcome| {
        outcome.died_by(libc::SIGABRT);
        let id = outcome.stdout.trim();
        outcome.says(&format!("the main context {id} of thread 'main' has overflowed the thread's stack of"));
        outcome.says("ulimit -s");
    };
    an_overflow_of_a_threads_own_stack_names_the_thread: overflow_on_thread, |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("of thread 'worker' has overflowed the thread's stack of");
    };
    an_overflow_of_a_thread_without_a_hub_is_reported_by_std: overflow_without_hub, |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("thread 'plain'");
        outcome.says("has overflowed its stack");
        outcome.does_not_say("switchgrass:");
    };
    another_segfault_on_a_greenlet_is_an_ordinary_segfault: segfault, |outcome| {
        outcome.died_by(libc::SIGSEGV);
        outcome.does_not_say("overflowed");
    };
    another_segfault_reaches_the_handler_that_the_program_had_before: segfault_with_handler, |outcome| {
        outcome.exited_with(42);
        outcome.says("earlier handler");
        outcome.does_not_say("overflowed");
    };

    // The end of the process.
    greenlets_are_unwound_when_main_returns: main_returns, |outcome| {
        outcome.exited_with(0);
        outcome.printed("main ends\nunstarted dropped\nparked unwound\nsleeping unwound\n");
    };
    greenlets_are_unwound_when_main_panics: main_panics, |outcome| {
        outcome.exited_with(101);
        outcome.printed("unstarted dropped\nparked unwound\nsleeping unwound\n");
        outcome.says("main panics");
    };
    exit_within_a_greenlet_ends_the_process_at_once: exit_in_greenlet, |outcome| {
        outcome.exited_with(7);
        outcome.printed("");
    };
    exit_on_the_main_stack_with_live_greenlets_keeps_its_status: exit_on_main, |outcome| outcome.exited_with(3);
    exit_on_another_thread_with_live_greenlets_keeps_its_status: exit_on_thread, |outcome| outcome.exited_with(5);
    destructors_of_thread_locals_may_wait_after_the_hub_has_gone: late_destructor, |outcome| {
        outcome.exited_with(0);
        outcome.printed("slept\n");
    };
    a_kill_prints_nothing: kill_quietly, |outcome| {
        outcome.exited_with(0);
        outcome.printed("");
        assert_eq!(outcome.stderr, "");
    };

    // Deadlocks, where no other thread could help.
    a_deadlock_is_found_though_there_are_handles: deadlock_with_handles, |outcome| outcome.exited_with(0);
    a_get_that_nobody_can_serve_is_a_deadlock: deadlock_of_queue, |outcome| outcome.exited_with(0);
    who_waits_for_a_lock_that_nobody_can_unlock_is_told_and_leaves_the_line: deadlock_of_locks, |outcome| outcome.exited_with(0);
    a_destructor_that_needs_a_lock_of_its_own_thread_while_it_unwinds_aborts: lock_in_destructor, |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("waits for a mutex at");
        outcome.says("in a destructor while it unwinds");
        outcome.says("there is no other thread that could end the wait");
    };
    a_deadlock_is_found_though_a_thread_of_the_pool_is_idle: deadlock_after_unblock, |outcome| outcome.exited_with(0);
    a_job_that_an_idle_thread_of_the_pool_is_about_to_do_is_no_idle_thread: job_of_idle_thread, |outcome| {
        outcome.exited_with(0);
    };
    a_deadlock_is_found_though_threads_of_several_pools_are_idle: deadlock_after_pools, |outcome| {
        outcome.exited_with(0);
    };
    a_wait_for_the_pool_is_no_deadlock: || assert_eq!(unblock(|| 5), 5), |outcome| outcome.exited_with(0);

    // Signals.
    when_nobody_handles_a_signal_any_more_the_default_action_is_back: after_wait, |outcome| {
        outcome.died_by(libc::SIGTERM);
        outcome.printed("15\n");
    };
    while_somebody_else_handles_a_signal_the_default_action_is_not_back: after_one_of_two, |outcome| {
        outcome.exited_with(0);
    };
    a_signal_that_has_come_is_handled_before_a_deadlock_is_declared: signal_before_deadlock, |outcome| {
        outcome.exited_with(0);
    };
    a_signal_that_was_ignored_is_ignored_again: after_wait_for_ignored, |outcome| outcome.exited_with(0);
    a_handler_that_was_there_before_is_called_too: earlier_handler, |outcome| {
        outcome.exited_with(0);
        outcome.printed("15\ncalled twice\n");
    };
    a_signal_needs_no_room_on_the_stack_of_the_greenlet_that_runs: signal_on_small_stack, |outcome| {
        outcome.exited_with(0);
    };

    // Memory.
    deep_pages_of_pooled_stacks_are_given_back: deep_pages, |outcome| outcome.exited_with(0);
    deep_pages_are_given_back_one_by_one_too: deep_pages_one_by_one, |outcome| outcome.exited_with(0);
    threads_that_end_with_a_thousand_suspended_greenlets_leave_no_memory_behind: ending_threads, |outcome| {
        outcome.exited_with(0);
    };
    a_million_greenlets_one_after_the_other_take_no_memory: a_million_spawns, |outcome| outcome.exited_with(0);
    each_of_a_thousand_stacks_has_its_guard: a_thousand_guards, |outcome| outcome.exited_with(0);
    each_has_it_where_several_cannot_be_prepared_at_once: guards_one_by_one, |outcome| outcome.exited_with(0);
    mprotect_guards_work: mprotect_guards, |outcome| outcome.exited_with(0);

    // Limits.
    out_of_address_space_is_the_panic_of_a_greenlet_and_names_the_limit: no_address_space, |outcome| {
        outcome.exited_with(0);
        outcome.says("could not be started");
    };
    a_greenlet_that_gets_no_stack_cannot_borrow_while_it_is_dropped: scope_in_loop, |outcome| {
        outcome.exited_with(0);
        outcome.printed("dropped with the frame as 1\nscope left\n");
    };
    out_of_memory_maps_is_the_panic_of_a_greenlet_and_names_the_setting: no_maps, |outcome| outcome.exited_with(0);
    out_of_descriptors_is_an_abort_that_names_the_limit: no_descriptors, |outcome| {
        outcome.died_by(libc::SIGABRT);
        outcome.says("ulimit -n");
    };
    a_program_that_only_switches_opens_no_descriptor: only_switches, |outcome| outcome.exited_with(0);
};

// ---- Overflows ----------------------------------------------------------------------------------------------------------

fn overflow() {
    #[allow(unconditional_recursion)]
    fn recurse(depth: u64) -> u64 {
        let frame = hint::black_box([depth; 16]);
        recurse(depth + 1) + hint::black_box(frame)[3]
    }
    hint::black_box(recurse(0));
}

fn overflow_named() {
    let deep = Builder::new().name("deep").spawn(overflow).unwrap();
    println!("{}", deep.id());
    let _ = deep.join();
}

fn overflow_of(size: usize) {
    let _ = Builder::new().stack_size(size).spawn(overflow).unwrap().join();
}

fn panic_on_smallest() {
    // SAFETY: no other thread of ours is there to read the environment.
    unsafe { std::env::set_var("RUST_BACKTRACE", "full") };
    let small = Builder::new().stack_size(0).spawn(|| panic!("small")).unwrap();
    assert_eq!(text(&small.join().unwrap_err()), "small");
}

fn overflow_by_mprotect() {
    testing::force_mprotect_guards();
    let _ = spawn(overflow).join();
}

fn overflow_on_used_stack() {
    spawn(|| at_depth(200 << 10, &mut || ())).join().unwrap();
    let _ = Builder::new().name("second").spawn(overflow).unwrap().join();
}

fn overflow_on_main() {
    println!("{}", current().id());
    overflow();
}

fn overflow_on_thread() {
    let worker = thread::Builder::new().name("worker".into()).spawn(|| {
        yield_now();
        overflow();
    });
    let _ = worker.unwrap().join();
}

fn overflow_without_hub() {
    yield_now();
    let _ = thread::Builder::new().name("plain".into()).spawn(overflow).unwrap().join();
}

fn read_null() {
    // SAFETY: none. The fault is the point of it, and the process ends by it.
    unsafe { hint::black_box(ptr::null::<u8>()).read_volatile() };
}

fn segfault() {
    let _ = spawn(read_null).join();
}

fn segfault_with_handler() {
    extern "C" fn earlier(_: libc::c_int) {
        let text = b"earlier handler\n";
        // SAFETY: the buffer is valid, and both calls are async-signal-safe.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(42);
        }
    }
    // SAFETY: an all-zero sigaction is valid, and so is the handler put into it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = earlier as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
    }
    segfault();
}

// ---- The end of the process ---------------------------------------------------------------------------------------------

struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        println!("{}", self.0);
    }
}

fn leave_greenlets() {
    drop(spawn(|| {
        let _says = Says("parked unwound");
        park();
    }));
    drop(spawn(|| {
        let _says = Says("sleeping unwound");
        sleep(Duration::from_secs(3600));
    }));
    yield_now();
    let says = Says("unstarted dropped");
    drop(spawn(move || {
        let _says = says;
        println!("never");
    }));
}

fn main_returns() {
    leave_greenlets();
    println!("main ends");
}

fn main_panics() {
    leave_greenlets();
    panic!("main panics");
}

fn exit_in_greenlet() {
    let exits: Greenlet<()> = spawn(|| {
        let _says = Says("never");
        process::exit(7)
    });
    // It runs before the last one of these begins.
    leave_greenlets();
    let _ = exits.join();
}

fn exit_on_main() {
    leave_greenlets();
    process::exit(3);
}

fn exit_on_thread() {
    leave_greenlets();
    let _ = thread::spawn(|| {
        leave_greenlets();
        process::exit(5)
    })
    .join();
}

fn late_destructor() {
    struct Sleeps;
    impl Drop for Sleeps {
        fn drop(&mut self) {
            sleep(Duration::from_millis(1));
            println!("slept");
        }
    }
    thread_local!(static EARLIER: Sleeps = const { Sleeps });
    thread::spawn(|| {
        EARLIER.with(|_| {});
        sleep(Duration::from_millis(1));
    })
    .join()
    .unwrap();
}

fn kill_quietly() {
    let victims = [spawn(park), spawn(|| sleep(Duration::from_secs(3600))), spawn(park)];
    yield_now();
    killall(&victims);
    let suicide: Greenlet<()> = spawn(|| current().kill());
    joinall([&suicide]);
    assert!(switchgrass::timeout(Duration::ZERO, park).is_err());
}

// ---- Deadlocks ----------------------------------------------------------------------------------------------------------

fn deadlock_with_handles() {
    let parked = spawn(park);
    let report = catch(|| joinall([&parked])).unwrap_err();
    assert!(text(&report).contains(&format!("greenlet {}: waits: park", parked.id())), "{}", text(&report));
    // It was no more than a question of who wakes it.
    parked.handle().unpark();
    parked.join().unwrap();
}

fn deadlock_of_locks() {
    let says = |what: &str, wait: &dyn Fn()| {
        let report = catch(wait).unwrap_err();
        let report = text(&report);
        assert!(
            report.contains("would block forever") && report.contains(&format!("waits: {what} at")),
            "{report}"
        );
    };
    let lock = RwLock::new(());
    let reading = lock.read().unwrap();
    says("rwlock", &|| drop(lock.write()));
    assert!(lock.try_read().is_ok(), "the writer is in line no more");
    drop(reading);
    let writing = lock.write().unwrap();
    says("rwlock", &|| drop(lock.read()));
    drop(writing);

    let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    says("condvar", &|| drop(condvar.wait(mutex.lock().unwrap())));
    let held = mutex.try_lock().expect("it is not held, nor poisoned");
    says("mutex", &|| drop(mutex.lock()));
    drop(held);

    let barrier = Barrier::new(2);
    says("barrier", &|| {
        barrier.wait();
    });
    assert_eq!(format!("{barrier:?}"), "Barrier { size: 2, waiting: 0 }");

    says("once", &|| Once::new().wait());
    says("semaphore", &|| drop(Semaphore::new(0).acquire()));
    says("event", &|| assert!(Event::new().wait()));
    let reentrant = Rc::new(ReentrantMutex::new(()));
    let _owner = spawn({
        let reentrant = Rc::clone(&reentrant);
        move || {
            let _guard = reentrant.lock();
            park();
        }
    });
    yield_now();
    says("reentrant mutex", &|| drop(reentrant.lock()));
}

fn lock_in_destructor() {
    struct Locks<'a>(&'a Mutex<()>);
    impl Drop for Locks<'_> {
        fn drop(&mut self) {
            drop(self.0.lock());
        }
    }
    let mutex = Mutex::new(());
    let _held = mutex.lock();
    let _ = catch(|| {
        let _locks = Locks(&mutex);
        panic_any("on purpose");
    });
}

fn deadlock_of_queue() {
    let queue = std::rc::Rc::new(switchgrass::queue::Queue::<i32>::unbounded());
    let other = spawn({
        let queue = std::rc::Rc::clone(&queue);
        move || queue.get()
    });
    let report = catch(|| queue.get()).unwrap_err();
    assert_eq!(text(&report).matches("waits: get from queue at 0x").count(), 2, "{}", text(&report));
    // Main has left the line.
    assert_eq!(queue.getting(), 1);
    queue.put(1).unwrap();
    assert_eq!(other.join().unwrap(), Ok(1));
}

fn deadlock_after_unblock() {
    unblock(|| ());
    let parked = spawn(park);
    assert!(catch(|| joinall([&parked])).is_err());
}

#[expect(clippy::disallowed_methods, reason = "another thread of the pool is waited for, not a greenlet")]
fn job_of_idle_thread() {
    unblock(|| ());
    for _ in 0..100 {
        // Until the thread of the pool is idle again.
        thread::sleep(Duration::from_millis(2));
        let main = current();
        // Nobody is known to wait for this one.
        drop(threadpool::global().spawn(move || main.unpark()));
        park();
    }
}

fn deadlock_after_pools() {
    let pools = [ThreadPool::new(2), ThreadPool::new(2), ThreadPool::new(1)];
    // None leaves by itself, else a wrong count would only take longer.
    pools.iter().for_each(|pool| pool.set_idle_timeout(Duration::from_secs(3600)));
    for round in 0..3 {
        for pool in &pools {
            let both = Arc::new(std::sync::Barrier::new(pool.max()));
            pool.map(vec![both; pool.max()], |both| both.wait().is_leader());
        }
        // One that leaves is not counted any more.
        if round == 1 {
            pools[0].set_max(1);
        }
        let main = current();
        assert!(catch(park).is_err());
        drop(pools[1].spawn(move || main.unpark()));
        park();
    }
}

// ---- Signals ------------------------------------------------------------------------------------------------------------

fn raise(signal: i32) {
    // SAFETY: raise takes a number.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn ignore(signal: i32) {
    // SAFETY: SIG_IGN needs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn wait_for_sigterm() {
    let raiser = spawn(|| raise(SIGTERM));
    println!("{}", signal::wait(&[SIGHUP, SIGTERM]).unwrap());
    raiser.join().unwrap();
}

fn after_wait() {
    wait_for_sigterm();
    raise(SIGTERM);
    println!("never");
}

fn after_one_of_two() {
    let mut other = Signals::new(&[SIGTERM]).unwrap();
    wait_for_sigterm();
    assert_eq!(other.try_wait(), Some(SIGTERM));
    raise(SIGTERM);
    assert_eq!(other.wait().unwrap(), SIGTERM);
}

fn signal_before_deadlock() {
    let main = current();
    let _handler = signal::handle(SIGTERM, move || main.unpark()).unwrap();
    // Its greenlet waits already, and nobody has looked at I/O since.
    yield_now();
    raise(SIGTERM);
    park();
    assert!(catch(park).is_err());
}

fn after_wait_for_ignored() {
    ignore(SIGTERM);
    wait_for_sigterm();
    raise(SIGTERM);
}

fn earlier_handler() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn earlier(_: libc::c_int) {
        CALLS.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler has the signature that is asked for, and does nothing but count.
    unsafe { libc::signal(SIGTERM, earlier as *const () as libc::sighandler_t) };
    wait_for_sigterm();
    raise(SIGTERM);
    assert_eq!(CALLS.load(Ordering::SeqCst), 2);
    println!("called twice");
}

fn signal_on_small_stack() {
    let mut signals = Signals::new(&[SIGTERM]).unwrap();
    // Of the 32 KiB two may be left out at the top, and a few are for the frames around this. Deeper down there is no room for the registers
    // that the kernel saves when a signal comes, and for the handler.
    let small =
        Builder::new().stack_size(32 << 10).spawn(|| at_depth(12_900 + (16 << 10), &mut || raise(SIGTERM)));
    small.unwrap().join().unwrap();
    assert_eq!(signals.wait().unwrap(), SIGTERM);
}

// ---- Memory -------------------------------------------------------------------------------------------------------------

/// Bytes of address space, and of memory, that this process uses.
fn memory() -> (usize, usize) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<usize> = statm.split(' ').map(|number| number.trim().parse().unwrap()).collect();
    // Without pages of files: how much of the program's code was read is not the question.
    (pages[0] * 4096, (pages[1] - pages[2]) * 4096)
}

/// Calls `f` at least `bytes` deeper in the stack, all of it written to.
fn at_depth(bytes: usize, f: &mut dyn FnMut()) {
    fn recurse(start: usize, bytes: usize, f: &mut dyn FnMut()) {
        let frame = [1_u8; 1024];
        let here = hint::black_box(&frame).as_ptr().addr();
        if start - here < bytes {
            recurse(start, bytes, f)
        } else {
            f()
        }
        hint::black_box(&frame);
    }
    let start = 0_u8;
    recurse((&raw const start).addr(), bytes, f);
}

fn deep_pages_one_by_one() {
    forbid_process_madvise();
    deep_pages();
}

fn deep_pages() {
    const GREENLETS: usize = 50;
    const DEPTH: usize = 200 << 10;
    // Twice: on fresh stacks, and on those from the pool.
    for _ in 0..2 {
        let before = memory().1;
        let deep: Vec<_> = (0..GREENLETS).map(|_| spawn(|| at_depth(DEPTH, &mut yield_now))).collect();
        yield_now();
        let during = memory().1;
        joinall(&deep);
        // The hub has nothing to do for ten milliseconds, and tidies up.
        sleep(Duration::from_millis(50));
        let after = memory().1;
        assert!(during - before > GREENLETS * (DEPTH - (32 << 10)), "{before} {during} {after}");
        assert!(after < before + GREENLETS * (32 << 10), "{before} {during} {after}");
    }
}

fn ending_threads() {
    let run = || {
        thread::spawn(|| {
            (0..1000).for_each(|_| drop(spawn(park)));
            yield_now();
            assert_eq!(testing::stack_counts().0, 1000);
        })
        .join()
        .unwrap();
    };
    run();
    let (space, resident) = memory();
    (0..20).for_each(|_| run());
    let (space_after, resident_after) = memory();
    // One thread's stacks are 260 MB of address space and 4 MB of memory.
    assert!(space_after < space + (200 << 20), "{space} {space_after}");
    assert!(resident_after < resident + (8 << 20), "{resident} {resident_after}");
}

fn a_million_spawns() {
    let round = || {
        for n in 0..100 {
            let greenlets: Vec<_> = (0..100).map(|m| spawn(move || n + m)).collect();
            let sum: u64 = greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).sum();
            assert_eq!(sum, 100 * n + 4950);
        }
    };
    round();
    let (space, resident) = memory();
    (0..99).for_each(|_| round());
    let (space_after, resident_after) = memory();
    assert!(space_after <= space + (1 << 20), "{space} {space_after}");
    assert!(resident_after <= resident + (1 << 20), "{resident} {resident_after}");
    assert_eq!((testing::stack_counts(), testing::live()), ((0, 1), 0));
}

fn a_thousand_guards() {
    const PAGE: usize = 4096;
    let tops = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..1000 {
        let tops = Rc::clone(&tops);
        drop(spawn(move || {
            let local = 0_u8;
            tops.borrow_mut().push((&raw const local).expose_provenance());
            park();
        }));
    }
    yield_now();
    let (_reader, writer) = std::io::pipe().unwrap();
    // The kernel reads for us, and says so if it cannot.
    let can_be_read = |address: usize| {
        // SAFETY: a pointer that cannot be read from is an error.
        let written = unsafe { libc::write(writer.as_raw_fd(), ptr::with_exposed_provenance(address), 1) };
        assert!(written == 1 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT));
        written == 1
    };
    for &top in &*tops.borrow() {
        // The local is in the highest of 64 pages; below them is the guard.
        let guard = top / PAGE * PAGE - 64 * PAGE;
        assert!(can_be_read(guard + PAGE) && !can_be_read(guard));
    }
    assert_eq!(tops.borrow().len(), 1000);
}

fn guards_one_by_one() {
    forbid_process_madvise();
    a_thousand_guards();
}

/// As a sandbox may: from now on the call fails.
fn forbid_process_madvise() {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let statement = |code: u32, value: u32, jump_if_not: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump_if_not,
        k: value,
    };
    // The number of the call is the first word of what a filter sees.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_process_madvise as u32, 1),
        statement(libc::BPF_RET | libc::BPF_K, REFUSE, 0),
        statement(libc::BPF_RET | libc::BPF_K, ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter are valid for reading. Calls that it refuses fail, and that is all.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
        assert_eq!(libc::syscall(libc::SYS_process_madvise, -1, 0, 0, 0, 0), -1);
    }
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
}

fn mprotect_guards() {
    testing::force_mprotect_guards();
    let greenlets: Vec<_> = (0..1000).map(|_| spawn(|| at_depth(200 << 10, &mut yield_now))).collect();
    joinall(&greenlets);
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    assert_eq!(testing::stack_counts(), (0, 1000));
}

// ---- Limits -------------------------------------------------------------------------------------------------------------

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the struct is valid for reading.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

fn no_address_space() {
    yield_now();
    let allowed = memory().0 + (64 << 20);
    limit(libc::RLIMIT_AS, allowed as u64);

    let dropped = Rc::new(Cell::new(false));
    let captured = Flag(Rc::clone(&dropped));
    let large = Builder::new().name("large").stack_size(512 << 20).spawn(move || drop(captured)).unwrap();
    let id = large.id();
    let error = large.join().unwrap_err();
    let expected = [
        format!("greenlet {id} 'large' could not be started"),
        "RLIMIT_AS".into(),
        "ulimit -v".into(),
        allowed.to_string(),
    ];
    for part in &expected {
        assert!(text(&error).contains(part), "no {part:?} in: {}", text(&error));
    }
    assert!(dropped.get());
    assert_eq!(spawn(|| 5).join().unwrap(), 5);
}

struct Flag(Rc<Cell<bool>>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// What the closure owns is dropped by the loop, where a scope cannot wait.
fn scope_in_loop() {
    struct Borrows<'a>(&'a Cell<u64>);
    impl Drop for Borrows<'_> {
        fn drop(&mut self) {
            println!("dropped with the frame as {}", self.0.replace(3));
        }
    }
    struct Scopes;
    impl Drop for Scopes {
        fn drop(&mut self) {
            let refused = catch(|| {
                let frame = Cell::new(1);
                scope(|s| {
                    let borrows = Borrows(&frame);
                    s.spawn(move || drop(borrows));
                });
                frame.set(2);
            });
            println!("scope left");
            assert!(text(&refused.unwrap_err()).contains("in the event loop"));
        }
    }

    yield_now();
    limit(libc::RLIMIT_AS, (memory().0 + (64 << 20)) as u64);
    let captured = Scopes;
    let large = Builder::new().stack_size(512 << 20).spawn(move || drop(captured)).unwrap();
    large.join().unwrap_err();
    yield_now();
}

fn no_maps() {
    let setting = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    if setting.trim().parse::<usize>().unwrap() > 75_000 {
        println!("skipped: vm.max_map_count is {setting}");
        return;
    }
    testing::force_mprotect_guards();
    let started = Rc::new(Cell::new(0));
    let mut failed = Vec::new();
    let mut parked = Vec::with_capacity(41_000);
    while failed.is_empty() && parked.len() < 40_000 {
        let batch = (0..500).map(|_| {
            let started = Rc::clone(&started);
            let greenlet = Builder::new().stack_size(0).spawn(move || {
                started.set(started.get() + 1);
                park();
            });
            greenlet.unwrap()
        });
        let batch: Vec<_> = batch.collect();
        yield_now();
        for greenlet in batch {
            if greenlet.is_ready() {
                failed.push(greenlet.join().unwrap_err());
            } else {
                parked.push(greenlet);
            }
        }
    }
    assert!(parked.len() > 10_000 && parked.len() == started.get(), "{} {}", parked.len(), started.get());
    for error in &failed {
        assert!(text(error).contains("vm.max_map_count"), "{}", text(error));
    }
    assert!(!failed.is_empty());
    // The hub goes on: these all end, and their stacks serve the next. (No `killall`: it makes a list of them, and the
    // process gets no block of memory that large any more.)
    parked.iter().for_each(Greenlet::kill);
    assert_eq!(Builder::new().stack_size(0).spawn(|| 5).unwrap().join().unwrap(), 5);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn no_descriptors() {
    limit(libc::RLIMIT_NOFILE, 3);
    sleep(Duration::from_secs(1));
}

fn only_switches() {
    let before = descriptors();
    let greenlets = [(); 2].map(|()| spawn(|| (0..1000).for_each(|_| yield_now())));
    joinall(&greenlets);
    killall([&spawn(park)]);
    assert_eq!(descriptors(), before);
    sleep(Duration::from_millis(1));
    assert!(descriptors() > before);
}
