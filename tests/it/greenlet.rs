//! Spawning, joining, parking, stacks.

use std::cell::{Cell, RefCell};
use std::io::{self, Error};
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::Mutex;

use switchgrass::sync::Event;
use switchgrass::{
    Builder, Greenlet, current, green_local, joinall, park, park_timeout, scope, sleep, spawn, spawn_later,
    testing, yield_now,
};

use crate::util::{Clock, Drops, HOUR, Log, OnDrop, catch, is_exit, secs, text};

// ---- Order ------------------------------------------------------------------------------------------------------------

#[test]
fn greenlets_first_run_in_the_order_in_which_they_were_spawned() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let greenlets: Vec<_> = (0..100)
        .map(|n| {
            let order = Rc::clone(&order);
            spawn(move || order.borrow_mut().push(n))
        })
        .collect();
    joinall(&greenlets);
    assert_eq!(*order.borrow(), Vec::from_iter(0..100));
}

#[test]
fn spawn_does_not_switch() {
    let log = Log::new();
    let greenlet = spawn({
        let log = log.clone();
        move || log.add("greenlet")
    });
    log.add("main");
    greenlet.join().unwrap();
    assert_eq!(log.take(), "main greenlet");
}

#[test]
fn two_greenlets_that_yield_take_turns() {
    let log = Log::new();
    let two = [1, 2].map(|n| {
        let log = log.clone();
        spawn(move || {
            log.add(format!("{n}A"));
            yield_now();
            log.add(format!("{n}B"));
        })
    });
    joinall(&two);
    assert_eq!(log.take(), "1A 2A 1B 2B");
}

#[test]
fn main_takes_its_turn_like_a_greenlet() {
    let log = Log::new();
    let greenlet = spawn({
        let log = log.clone();
        move || {
            log.add("G1");
            yield_now();
            log.add("G2");
        }
    });
    log.add("M1");
    yield_now();
    log.add("M2");
    yield_now();
    log.add("M3");
    greenlet.join().unwrap();
    assert_eq!(log.take(), "M1 G1 M2 G2 M3");
}

#[test]
fn a_greenlet_spawned_by_a_greenlet_runs_after_those_spawned_before() {
    let log = Log::new();
    let first = spawn({
        let log = log.clone();
        move || {
            log.add("first");
            let log = log.clone();
            spawn(move || log.add("child")).join().unwrap();
        }
    });
    let second = spawn({
        let log = log.clone();
        move || log.add("second")
    });
    joinall([&first, &second]);
    assert_eq!(log.take(), "first second child");
}

#[test]
fn a_chain_of_a_thousand_greenlets_each_joins_the_next() {
    fn chain(left: u32) -> u32 {
        if left == 0 { 0 } else { 1 + spawn(move || chain(left - 1)).join().unwrap() }
    }
    assert_eq!(chain(1000), 1000);
}

// ---- Results ----------------------------------------------------------------------------------------------------------

#[test]
fn join_gives_the_result_of_a_type_that_is_not_send() {
    let given = Rc::new(7);
    let greenlet = spawn({
        let given = Rc::clone(&given);
        move || given
    });
    let got = greenlet.join().unwrap();
    assert!(Rc::ptr_eq(&given, &got));
}

#[test]
fn join_of_an_ended_greenlet_does_not_switch() {
    let log = Log::new();
    let ended = spawn(|| 1);
    joinall([&ended]);
    let other = spawn({
        let log = log.clone();
        move || log.add("other")
    });
    assert_eq!(ended.join().unwrap(), 1);
    assert_eq!(log.take(), "");
    other.join().unwrap();
}

#[test]
fn join_gives_what_the_greenlet_panicked_with_and_the_hub_goes_on() {
    let payload = spawn(|| panic_any(42_i32)).join().unwrap_err();
    assert_eq!(*payload.downcast::<i32>().unwrap(), 42);
    let payload = spawn(|| panic!("number {}", 7)).join().unwrap_err();
    assert_eq!(text(&payload), "number 7");
    assert_eq!(spawn(|| "alive").join().unwrap(), "alive");
}

#[test]
fn a_panic_is_not_seen_by_other_greenlets() {
    let panics = spawn(|| panic!("only mine"));
    let other = spawn(|| {
        yield_now();
        std::thread::panicking()
    });
    assert!(panics.join().is_err());
    assert!(!other.join().unwrap());
    assert!(!std::thread::panicking());
}

#[test]
fn joinall_waits_for_all_and_leaves_results_and_panics_where_they_are() {
    let greenlets = [0, 1, 2].map(|n| {
        spawn(move || {
            (0..n).for_each(|_| yield_now());
            assert_ne!(n, 1);
            n
        })
    });
    joinall(&greenlets);
    assert!(greenlets.iter().all(Greenlet::is_ready));
    let results = greenlets.map(|greenlet| greenlet.join().ok());
    assert_eq!(results, [Some(0), None, Some(2)]);
}

#[test]
fn joinall_of_none_and_of_the_same_one_twice_returns() {
    joinall(&[] as &[Greenlet<()>]);
    let greenlet = spawn(yield_now);
    joinall([&greenlet, &greenlet]);
    greenlet.join().unwrap();
}

#[test]
fn joinall_takes_greenlets_of_several_types_as_handles_and_those_of_a_scope() {
    let (number, text) = (spawn(|| 1), spawn(|| "one"));
    joinall([number.handle(), text.handle()]);
    assert_eq!((number.value(), text.value()), (Some(&1), Some(&"one")));

    let shared = [Rc::new(spawn(yield_now)), Rc::new(spawn(yield_now))];
    joinall(&shared);
    assert!(shared.iter().all(|greenlet| greenlet.is_ready()));

    scope(|s| {
        let scoped = [s.spawn(yield_now), s.spawn(yield_now)];
        joinall(&scoped);
        assert!(scoped.iter().all(|greenlet| greenlet.is_ready()));
    });
}

#[test]
fn greenlets_that_are_spawned_by_the_list_given_to_joinall_run_at_once() {
    let clock = Clock::start();
    joinall((0..3).map(|_| spawn(|| sleep(secs(2)))));
    assert_eq!(clock.elapsed(), secs(2));
}

#[test]
fn a_greenlet_is_not_ready_while_it_runs_nor_while_it_unwinds_or_drops_its_locals() {
    green_local! {
        static LAST: RefCell<Option<OnDrop<Box<dyn FnMut()>>>> = const { RefCell::new(None) };
    }
    let seen = Rc::new(RefCell::new(Vec::new()));
    let look = || {
        let seen = Rc::clone(&seen);
        let look: Box<dyn FnMut()> = Box::new(move || seen.borrow_mut().push(current().is_ready()));
        OnDrop(look)
    };
    let (first, last) = (look(), look());
    let greenlet = spawn(move || {
        LAST.set(Some(last));
        let mut first = first;
        (first.0)();
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(!greenlet.is_ready());
    joinall([&greenlet]);
    assert!(greenlet.is_ready());
    assert_eq!(*seen.borrow(), [false, false, false]);
}

#[test]
fn a_long_line_of_spawners_is_not_kept() {
    fn next(left: u32, most: Rc<Cell<usize>>) {
        most.set(most.get().max(testing::live()));
        if left > 0 {
            spawn(move || next(left - 1, most));
        }
    }
    let most = Rc::new(Cell::new(0));
    next(20_000, Rc::clone(&most));
    while testing::live() > 0 {
        yield_now();
    }
    assert_eq!(most.get(), 1);
    assert_eq!(Rc::strong_count(&most), 1);
}

#[test]
fn those_who_wait_for_the_same_greenlet_wake_in_the_order_in_which_they_came() {
    let log = Log::new();
    let awaited = Rc::new(spawn(|| (0..5).for_each(|_| yield_now())));
    let waiting = ["a", "b", "c"].map(|name| {
        let (log, awaited) = (log.clone(), Rc::clone(&awaited));
        spawn(move || {
            joinall([&*awaited]);
            log.add(name);
        })
    });
    joinall(&waiting);
    assert_eq!(log.take(), "a b c");
}

#[test]
fn is_ready_says_whether_it_has_ended() {
    let greenlet = spawn(yield_now);
    let handle = greenlet.handle();
    assert!(!greenlet.is_ready());
    yield_now();
    assert!(!greenlet.is_ready() && !handle.is_ready());
    yield_now();
    assert!(greenlet.is_ready() && handle.is_ready());
}

#[test]
fn join_timeout_gives_the_greenlet_back_when_the_time_is_up() {
    let clock = Clock::start();
    let greenlet = spawn(|| {
        sleep(secs(10));
        "done"
    });
    let greenlet = greenlet.join_timeout(secs(3)).unwrap_err();
    assert_eq!(clock.elapsed(), secs(3));
    assert!(!greenlet.is_ready());
    assert_eq!(greenlet.join_timeout(HOUR).unwrap().unwrap(), "done");
    assert_eq!(clock.elapsed(), secs(10));
}

#[test]
fn join_timeout_of_zero_lets_others_run_once() {
    let greenlet = spawn(|| 5);
    assert_eq!(greenlet.join_timeout(secs(0)).unwrap().unwrap(), 5);
}

// ---- Drops ------------------------------------------------------------------------------------------------------------

#[test]
fn a_greenlet_whose_handle_is_dropped_goes_on_and_drops_its_own_result() {
    let (captured, result) = (Drops::new(), Drops::new());
    let (held, given) = (captured.guard(), result.guard());
    drop(spawn(move || {
        let _held = held;
        yield_now();
        given
    }));
    yield_now();
    assert_eq!((captured.count(), result.count()), (0, 0));
    yield_now();
    assert_eq!((captured.count(), result.count()), (1, 1));
    assert_eq!(testing::live(), 0);
}

#[test]
fn a_result_that_is_there_is_dropped_with_the_handle() {
    let result = Drops::new();
    let given = result.guard();
    let greenlet = spawn(move || given);
    joinall([&greenlet]);
    assert_eq!(result.count(), 0);
    drop(greenlet);
    assert_eq!(result.count(), 1);
}

#[test]
fn a_result_that_was_joined_is_dropped_once() {
    let result = Drops::new();
    let given = result.guard();
    let greenlet = spawn(move || given);
    let handle = greenlet.handle();
    let got = greenlet.join().unwrap();
    assert_eq!(result.count(), 0);
    drop(got);
    drop(handle);
    assert_eq!(result.count(), 1);
}

#[test]
fn what_the_closure_captured_is_dropped_before_join_returns_also_after_a_panic() {
    let captured = Drops::new();
    let held = captured.guard();
    let panicked = spawn(move || {
        let _held = held;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(captured.count(), 1);
}

#[test]
fn a_result_nobody_wants_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    drop(spawn(|| Bomb));
    yield_now();
    let greenlet = spawn(|| Bomb);
    joinall([&greenlet]);
    drop(greenlet);
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

// ---- Names ------------------------------------------------------------------------------------------------------------

#[test]
fn ids_are_unique_and_names_are_those_given() {
    let named = Builder::new().name("worker").spawn(current).unwrap();
    let plain = spawn(current);
    assert_eq!((named.name(), plain.name()), (Some("worker"), None));
    let ids = [named.id(), plain.id(), current().id()];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);

    let seen = named.join().unwrap();
    assert_eq!((seen.id(), seen.name()), (ids[0], Some("worker")));
    assert_eq!(plain.join().unwrap().id(), ids[1]);
}

#[test]
fn the_main_context_has_the_name_of_its_thread() {
    let name = std::thread::Builder::new()
        .name("worker-3".into())
        .spawn(|| current().name().map(str::to_owned))
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(name.as_deref(), Some("worker-3"));
}

#[test]
fn debug_shows_id_name_and_state() {
    let greenlet = Builder::new().name("worker").spawn(park).unwrap();
    let handle = greenlet.handle();
    let id = greenlet.id();
    assert_eq!(format!("{greenlet:?}"), format!("Greenlet {{ id: {id}, name: \"worker\", state: Ready }}"));
    yield_now();
    assert_eq!(format!("{handle:?}"), format!("Handle {{ id: {id}, name: \"worker\", state: Parked }}"));
    handle.unpark();
    joinall([&greenlet]);
    assert_eq!(
        format!("{greenlet:?}"),
        format!("Greenlet {{ id: {id}, name: \"worker\", state: \"ended\" }}")
    );
}

// ---- spawn_later --------------------------------------------------------------------------------------------------------

#[test]
fn spawn_later_runs_at_its_time_and_not_before() {
    let clock = Clock::start();
    let log = Log::new();
    let later = [3, 1, 2].map(|n| {
        let log = log.clone();
        spawn_later(secs(n), move || log.add(n.to_string()))
    });
    sleep(secs(1) / 2);
    assert_eq!(log.take(), "");
    joinall(&later);
    assert_eq!(log.take(), "1 2 3");
    assert_eq!(clock.elapsed(), secs(3));
}

#[test]
fn spawn_later_runs_though_its_handle_is_dropped() {
    let clock = Clock::start();
    let ran = Rc::new(Cell::new(false));
    drop(spawn_later(secs(5), {
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    }));
    sleep(secs(6));
    assert!(ran.get());
    assert_eq!(clock.elapsed(), secs(6));
}

// ---- Parking ------------------------------------------------------------------------------------------------------------

#[test]
fn unpark_wakes_who_parks() {
    let log = Log::new();
    let greenlet = spawn({
        let log = log.clone();
        move || {
            park();
            log.add("woken");
        }
    });
    yield_now();
    yield_now();
    assert_eq!(log.take(), "");
    greenlet.handle().unpark();
    greenlet.join().unwrap();
    assert_eq!(log.take(), "woken");
}

#[test]
fn an_unpark_before_the_park_is_kept_once() {
    let log = Log::new();
    let greenlet = spawn({
        let log = log.clone();
        move || {
            park();
            log.add("first");
            park();
            log.add("second");
        }
    });
    let handle = greenlet.handle();
    handle.unpark();
    handle.unpark();
    yield_now();
    assert_eq!(log.take(), "first");
    yield_now();
    assert_eq!(log.take(), "");
    handle.unpark();
    greenlet.join().unwrap();
    assert_eq!(log.take(), "second");
}

#[test]
fn main_can_park_and_be_unparked() {
    let main = current();
    let greenlet = spawn(move || main.unpark());
    park();
    greenlet.join().unwrap();
}

#[test]
fn unpark_of_an_ended_greenlet_does_nothing() {
    let greenlet = spawn(|| ());
    let handle = greenlet.handle();
    greenlet.join().unwrap();
    handle.unpark();
    yield_now();
}

#[test]
fn park_timeout_returns_when_the_time_is_up_or_when_unparked() {
    let clock = Clock::start();
    park_timeout(secs(4));
    assert_eq!(clock.elapsed(), secs(4));

    let main = current();
    let waker = spawn_later(secs(1), move || main.unpark());
    park_timeout(HOUR);
    assert_eq!(clock.elapsed(), secs(5));
    waker.join().unwrap();

    // The hour's timer is gone: the next park ends at its own time.
    park_timeout(secs(1));
    assert_eq!(clock.elapsed(), secs(6));
}

#[test]
fn unpark_does_not_shorten_a_sleep_and_is_kept_for_the_next_park() {
    let clock = Clock::start();
    let sleeper = spawn(|| {
        sleep(secs(10));
        park();
    });
    yield_now();
    sleeper.handle().unpark();
    sleeper.join().unwrap();
    assert_eq!(clock.elapsed(), secs(10));
}

#[test]
fn unpark_does_not_end_a_join() {
    let awaited = spawn(|| {
        (0..5).for_each(|_| yield_now());
        1
    });
    let joiner = spawn(move || awaited.join().unwrap());
    yield_now();
    joiner.handle().unpark();
    assert_eq!(joiner.join().unwrap(), 1);
}

// ---- What a switch keeps ------------------------------------------------------------------------------------------------

#[test]
fn errno_is_kept_across_switches() {
    fn fail_with(errno: i32) {
        // SAFETY: neither call touches memory: both are refused for their arguments.
        unsafe {
            match errno {
                libc::EBADF => libc::close(-1),
                libc::EINVAL => libc::kill(0, -1),
                _ => unreachable!("no call for that"),
            }
        };
        assert_eq!(Error::last_os_error().raw_os_error(), Some(errno));
    }
    let other = spawn(|| {
        fail_with(libc::EINVAL);
        yield_now();
        Error::last_os_error().raw_os_error()
    });
    fail_with(libc::EBADF);
    yield_now();
    assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    sleep(secs(1) / 1000);
    assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    assert_eq!(other.join().unwrap(), Some(libc::EINVAL));
}

#[test]
fn no_switch_happens_while_a_greenlet_unwinds_so_other_greenlets_poison_nothing() {
    let log = Log::new();
    let mutex = Rc::new(Mutex::new(()));
    let panics = spawn({
        let log = log.clone();
        move || {
            let _guard = OnDrop(|| {
                log.add("unwinds");
                yield_now();
                log.add("still");
            });
            panic!("on purpose");
        }
    });
    let locks = spawn({
        let (log, mutex) = (log.clone(), Rc::clone(&mutex));
        move || {
            drop(mutex.lock());
            log.add("locked");
        }
    });
    assert!(panics.join().is_err());
    locks.join().unwrap();
    assert_eq!(log.take(), "unwinds still locked");
    assert!(!mutex.is_poisoned());
}

#[test]
fn in_a_destructor_that_unwinds_join_fails_park_returns_and_sleep_blocks() {
    let log = Log::new();
    let panics = spawn({
        let log = log.clone();
        move || {
            let _guard = OnDrop(|| {
                let other = spawn(|| 1);
                let refused = other.join().unwrap_err();
                log.add(if text(&refused).contains("unwinding") { "refused" } else { "?" });
                park();
                sleep(secs(1) / 1000);
                log.add("slept");
            });
            panic!("on purpose");
        }
    });
    let bystander = spawn({
        let log = log.clone();
        move || log.add("bystander")
    });
    assert_eq!(text(&panics.join().unwrap_err()), "on purpose");
    bystander.join().unwrap();
    assert_eq!(log.take(), "refused slept bystander");
}

#[test]
fn in_a_destructor_that_unwinds_join_of_an_ended_greenlet_gives_its_result() {
    let ended = spawn(|| 3);
    joinall([&ended]);
    let got = Rc::new(Cell::new(0));
    let panics = spawn({
        let got = Rc::clone(&got);
        move || {
            let mut ended = Some(ended);
            let _guard = OnDrop(|| got.set(ended.take().unwrap().join().unwrap()));
            panic!("on purpose");
        }
    });
    assert!(panics.join().is_err());
    assert_eq!(got.get(), 3);
}

// ---- Stacks -------------------------------------------------------------------------------------------------------------

/// Calls `f` at least `bytes` deeper in the stack, and less than a few KiB deeper than that.
fn at_depth(bytes: usize, f: &mut dyn FnMut()) {
    fn recurse(start: usize, bytes: usize, f: &mut dyn FnMut()) {
        let frame = [1_u8; 1024];
        let here = std::hint::black_box(&frame).as_ptr().addr();
        if start - here < bytes {
            recurse(start, bytes, f)
        } else {
            f()
        }
        std::hint::black_box(&frame);
    }
    let start = 0_u8;
    recurse((&raw const start).addr(), bytes, f);
}

#[test]
fn the_default_stack_carries_a_call_200_kib_deep_that_yields_there() {
    let deep = spawn(|| at_depth(200 * 1024, &mut yield_now));
    let other = spawn(|| at_depth(200 * 1024, &mut yield_now));
    joinall([&deep, &other]);
    deep.join().unwrap();
    other.join().unwrap();
}

#[test]
fn a_stack_of_the_size_asked_for_carries_what_the_default_could_not() {
    let deep = Builder::new().stack_size(8 << 20).spawn(|| at_depth(4 << 20, &mut yield_now)).unwrap();
    deep.join().unwrap();
}

#[test]
fn a_stack_that_is_too_large_is_an_error_at_spawn() {
    let ran = Rc::new(Cell::new(false));
    for size in [(1 << 30) + 1, usize::MAX] {
        let ran = Rc::clone(&ran);
        let error = Builder::new().stack_size(size).spawn(move || ran.set(true)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&size.to_string()), "{error}");
        assert!(error.to_string().contains("1 GiB"), "{error}");
    }
    yield_now();
    assert!(!ran.get());
}

#[test]
fn stack_used_is_at_least_what_was_used_and_known_also_after_the_end() {
    const DEPTH: usize = 64 * 1024;
    let measured = || Builder::new().measure_stack(true);
    let shallow = measured().spawn(|| ()).unwrap();
    let deep = measured().spawn(|| at_depth(DEPTH, &mut yield_now)).unwrap();
    let unmeasured = spawn(|| ());
    assert_eq!(deep.stack_used(), Some(0));
    yield_now();
    let while_running = deep.stack_used().unwrap();
    joinall([&shallow, &deep, &unmeasured]);
    let after = deep.stack_used().unwrap();
    let little = shallow.stack_used().unwrap();

    assert!((DEPTH..256 * 1024).contains(&while_running), "{while_running}");
    assert!((while_running..256 * 1024).contains(&after), "{after}");
    assert!((1..32 * 1024).contains(&little), "{little}");
    assert_eq!(unmeasured.stack_used(), None);
    assert_eq!(deep.handle().stack_used(), Some(after));
}

#[test]
fn a_measured_greenlet_on_a_used_stack_counts_its_own_use_only() {
    const DEPTH: usize = 128 * 1024;
    spawn(|| at_depth(DEPTH, &mut || ())).join().unwrap();
    let shallow = Builder::new().measure_stack(true).spawn(|| ()).unwrap();
    joinall([&shallow]);
    let used = shallow.stack_used().unwrap();
    assert!((1..32 * 1024).contains(&used), "{used}");
}

#[test]
fn a_stack_is_used_again_and_an_unstarted_greenlet_has_none() {
    for _ in 0..100 {
        spawn(|| ()).join().unwrap();
    }
    assert_eq!(testing::stack_counts(), (0, 1));

    let unstarted = spawn_later(HOUR, || ());
    assert_eq!((testing::stack_counts().0, testing::live()), (0, 1));
    let parked = spawn(park);
    yield_now();
    assert_eq!((testing::stack_counts(), testing::live()), ((1, 0), 2));
    parked.kill();
    unstarted.kill();
    assert_eq!((testing::stack_counts().0, testing::live()), (0, 0));
    assert!(is_exit(&parked.join()));
}

#[test]
fn ten_thousand_greenlets_at_once_leave_nothing_behind() {
    let drops = Drops::new();
    let greenlets: Vec<_> = (0..10_000)
        .map(|_| {
            let guard = drops.guard();
            spawn(move || {
                let _guard = guard;
                park();
            })
        })
        .collect();
    yield_now();
    assert_eq!(testing::stack_counts().0, 10_000);
    greenlets.iter().for_each(|greenlet| greenlet.handle().unpark());
    joinall(&greenlets);
    assert_eq!((drops.count(), testing::live()), (10_000, 0));
    assert_eq!(testing::stack_counts(), (0, 10_000));
}

#[test]
fn a_panic_hook_may_be_run_on_a_greenlet_that_is_nested_in_catch_unwind() {
    let caught = spawn(|| {
        let inner = catch(|| panic!("inner"));
        yield_now();
        text(&inner.unwrap_err()).to_owned()
    });
    assert_eq!(caught.join().unwrap(), "inner");
}

#[test]
fn what_one_that_is_killed_before_its_time_drops_may_wait_beyond_it() {
    let clock = Clock::start();
    let event = Rc::new(Event::new());
    let (waiting, waited) = (Rc::clone(&event), Rc::new(Cell::new(false)));
    let result = Rc::clone(&waited);
    let guard = OnDrop(move || result.set(waiting.wait()));
    let later = spawn_later(secs(2), move || drop(guard));
    spawn_later(secs(5), move || event.set());
    later.kill();
    assert_eq!((waited.get(), clock.elapsed()), (true, secs(5)));
}
