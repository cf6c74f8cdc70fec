//! Links, values, reasons, kills with a payload, unstarted greenlets: gevent.md 2.1.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use switchgrass::queue::{PutError, Queue};
use switchgrass::sync::{AsyncResult, Event, Semaphore};
use switchgrass::{
    ExitReason, Greenlet, GreenletExit, channel, joinall, joinall_raise, joinall_timeout, killall_timeout,
    sleep, spawn, spawn_later, testing, yield_now,
};

use crate::util::{Drops, Log, catch, forever, is_exit, secs, text};

#[test]
fn links_are_called_in_order_also_after_the_end_and_may_wait() {
    testing::virtual_clock();
    let log = Log::new();
    let greenlet = spawn(|| 7);
    for name in ["a", "b"] {
        let log = log.clone();
        greenlet.link(move |exit| {
            log.add(name);
            assert_eq!(exit.reason, ExitReason::Returned);
            sleep(secs(1));
            log.add(format!("{name}-later"));
        });
    }
    joinall([&greenlet]);
    let after = log.clone();
    greenlet.link(move |_| after.add("after"));
    sleep(secs(2));
    assert_eq!(log.take(), "a b after a-later b-later");
    assert_eq!(greenlet.join().unwrap(), 7);
}

#[test]
fn a_link_that_panics_stops_no_other() {
    let log = Log::new();
    let greenlet = spawn(|| ());
    greenlet.link(|_| std::panic::resume_unwind(Box::new(1)));
    greenlet.rawlink(|| std::panic::resume_unwind(Box::new(2)));
    let called = log.clone();
    greenlet.link(move |_| called.add("called"));
    joinall([&greenlet]);
    yield_now();
    assert_eq!(log.take(), "called");
}

#[test]
fn a_link_outlives_the_handle() {
    let log = Log::new();
    let called = log.clone();
    spawn(|| "value").link_value(move |value| called.add(value));
    yield_now();
    yield_now();
    assert_eq!(log.take(), "value");
}

#[test]
fn value_and_panic_links_are_called_for_their_kind_of_end() {
    let log = Log::new();
    let watch = |greenlet: &Greenlet<i32>| {
        let (values, panics) = (log.clone(), log.clone());
        greenlet.link_value(move |value| values.add(value.to_string()));
        greenlet.link_panic(move |exit| panics.add(exit.reason.to_string()));
    };
    let returns = spawn(|| 1);
    let panics = spawn(|| std::panic::resume_unwind(Box::new("oh")));
    let killed = spawn(|| forever());
    for greenlet in [&returns, &panics, &killed] {
        watch(greenlet);
    }
    killed.kill();
    joinall([&returns, &panics, &killed]);
    yield_now();
    assert_eq!(log.take(), "1 panicked: oh");
    assert_eq!((returns.value(), panics.value(), killed.value()), (Some(&1), None, None));
    assert_eq!(returns.exit_reason(), Some(ExitReason::Returned));
    assert_eq!(panics.exit_reason(), Some(ExitReason::Panicked(Some("oh".into()))));
    assert_eq!(killed.exit_reason(), Some(ExitReason::Killed));
}

#[test]
fn a_link_is_taken_back() {
    let drops = Drops::new();
    let greenlet = spawn(yield_now);
    let guard = drops.guard();
    let link = greenlet.link(move |_| drop(guard));
    assert!(greenlet.unlink(link));
    assert!(!greenlet.unlink(link));
    greenlet.join().unwrap();
    yield_now();
    assert_eq!(drops.count(), 1, "what it was made of is dropped, without a call");
}

#[test]
fn a_raw_link_may_take_back_a_later_one() {
    let greenlet = Arc::new(spawn(yield_now));
    let called = Arc::new(Event::new());
    let later = Arc::new(std::sync::OnceLock::new());
    greenlet.rawlink({
        let (greenlet, later) = (Arc::clone(&greenlet), Arc::clone(&later));
        move || assert!(greenlet.unlink(*later.get().unwrap()))
    });
    let id = greenlet.rawlink({
        let called = Arc::clone(&called);
        move || called.set()
    });
    later.set(id).unwrap();
    joinall([&*greenlet]);
    assert!(!called.is_set());
}

#[test]
fn a_raw_link_that_waits_is_refused_and_the_hub_goes_on() {
    let greenlet = spawn(|| ());
    let refused = Arc::new(Event::new());
    greenlet.rawlink({
        let refused = Arc::clone(&refused);
        move || {
            let panic = catch(|| sleep(secs(1))).unwrap_err();
            assert!(text(&panic).contains("in the event loop itself"));
            refused.set();
        }
    });
    greenlet.join().unwrap();
    assert!(refused.is_set());
}

#[test]
fn links_from_another_thread_are_called_there() {
    let (tx, rx) = std::sync::mpsc::channel();
    let greenlet = Arc::new(spawn(move || rx.recv_timeout(secs(60)).unwrap()));
    let thread = {
        let greenlet = Arc::clone(&greenlet);
        std::thread::spawn(move || {
            let got = Rc::new(Cell::new(0));
            let value = Rc::clone(&got);
            greenlet.link_value(move |n| value.set(n));
            tx.send(5).unwrap();
            joinall([&*greenlet]);
            while got.get() == 0 {
                yield_now();
            }
            got.get()
        })
    };
    joinall([&*greenlet]);
    assert_eq!(thread.join().unwrap(), 5);
}

#[test]
fn an_unstarted_greenlet_runs_when_it_is_started_and_not_before() {
    testing::virtual_clock();
    let log = Log::new();
    let make = |name: &'static str| {
        let log = log.clone();
        Greenlet::new(move || log.add(name))
    };
    let (first, second) = (make("first"), make("second"));
    second.start_later(secs(1));
    second.start();
    yield_now();
    assert_eq!(log.take(), "");
    first.start();
    first.start();
    sleep(secs(2));
    assert_eq!(log.take(), "first second");
    joinall([&first, &second]);
}

#[test]
fn an_unstarted_greenlet_that_nobody_can_start_ends_without_running() {
    let drops = Drops::new();
    let guard = drops.guard();
    drop(Greenlet::new(move || {
        let _guard = guard;
        unreachable!("nobody has started it");
    }));
    yield_now();
    assert_eq!(drops.count(), 1);
    assert_eq!(testing::live(), 0);
}

#[test]
fn an_unstarted_greenlet_is_started_by_another_thread() {
    let greenlet = Arc::new(Greenlet::new(|| 3));
    let other = Arc::clone(&greenlet);
    let thread = std::thread::spawn(move || other.start());
    joinall([&*greenlet]);
    thread.join().unwrap();
    assert_eq!(greenlet.value(), Some(&3));
}

#[test]
fn killed_before_its_start_it_never_runs_but_links_fire_and_joiners_wake() {
    let log = Log::new();
    let greenlet = Greenlet::new(|| unreachable!());
    let exits = log.clone();
    greenlet.link(move |exit| exits.add(exit.reason.to_string()));
    greenlet.kill();
    greenlet.start();
    assert!(is_exit(&greenlet.join()));
    yield_now();
    assert_eq!(log.take(), "was killed");
}

#[test]
fn kill_with_a_payload_gives_it_to_join() {
    let greenlet = spawn(|| -> () { forever() });
    yield_now();
    greenlet.kill_with(42_u8);
    assert_eq!(*greenlet.join().unwrap_err().downcast::<u8>().unwrap(), 42);

    let never = spawn(|| ());
    never.kill_nowait_with("not at all");
    assert_eq!(text(&never.join().unwrap_err()), "not at all");
}

#[test]
fn kill_timeout_leaves_one_that_lives_on() {
    testing::virtual_clock();
    let greenlet = spawn(|| {
        let caught = catch(|| sleep(secs(10))).unwrap_err();
        assert!(caught.is::<GreenletExit>());
        sleep(secs(10));
        "lived on"
    });
    yield_now();
    assert!(!greenlet.kill_timeout(secs(1)));
    assert_eq!(greenlet.join().unwrap(), "lived on");
}

#[test]
fn joinall_raise_gives_the_earliest_failure_not_the_first_of_the_list() {
    testing::virtual_clock();
    let fail = |after: u64, why: &'static str| {
        spawn_later(secs(after), move || -> i32 { std::panic::resume_unwind(Box::new(why)) })
    };
    let panic = catch(|| joinall_raise([fail(2, "late"), fail(1, "early")])).unwrap_err();
    assert_eq!(text(&panic), "early");
    assert_eq!(joinall_raise((0..3).map(|n| spawn_later(secs(3 - n), move || n))), [0, 1, 2]);
    assert!(joinall_raise(Vec::<Greenlet<()>>::new()).is_empty());
}

#[test]
fn joinall_and_killall_with_a_time() {
    testing::virtual_clock();
    let greenlets = [spawn(|| sleep(secs(1))), spawn(|| sleep(secs(3)))];
    assert!(!joinall_timeout(&greenlets, secs(2)));
    assert!(greenlets[0].is_ready() && !greenlets[1].is_ready());
    assert!(joinall_timeout(&greenlets, secs(2)));

    let stubborn = [spawn(|| {
        let _ = catch(|| sleep(secs(100)));
        sleep(secs(5));
    })];
    yield_now();
    assert!(!killall_timeout(&stubborn, secs(1)));
    assert!(killall_timeout(&stubborn, Duration::MAX));
}

#[test]
fn a_value_whose_clone_panics_is_told_to_no_link_and_stays_the_result() {
    #[derive(Debug)]
    struct Unique;
    impl Clone for Unique {
        fn clone(&self) -> Self {
            panic!("there is one")
        }
    }
    let log = Log::new();
    let greenlet = spawn(|| Unique);
    let (value, exit) = (log.clone(), log.clone());
    greenlet.link_value(move |_| value.add("value"));
    greenlet.link(move |exit_of| exit.add(exit_of.reason.to_string()));
    joinall([&greenlet]);
    yield_now();
    assert_eq!(log.take(), "returned");
    assert!(greenlet.value().is_some());
    greenlet.join().unwrap();
}

#[test]
fn a_handle_that_goes_while_its_value_is_copied_drops_it_once() {
    struct Slow(Rc<Cell<u32>>);
    impl Clone for Slow {
        fn clone(&self) -> Self {
            yield_now();
            Slow(Rc::clone(&self.0))
        }
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let value = Slow(Rc::clone(&dropped));
    let greenlet = spawn(move || value);
    let linked = Rc::new(Cell::new(false));
    greenlet.link_value({
        let linked = Rc::clone(&linked);
        move |_| linked.set(true)
    });
    yield_now();
    assert!(!greenlet.is_ready(), "it copies");
    drop(greenlet);
    assert_eq!(dropped.get(), 0);
    (0..3).for_each(|_| yield_now());
    assert_eq!((dropped.get(), linked.get(), testing::live()), (2, true, 0), "the copy, and the value");
}

#[test]
fn a_link_may_add_another_and_take_back_a_later_one() {
    let log = Log::new();
    let greenlet = Rc::new(spawn(yield_now));
    let later = Rc::new(Cell::new(None));
    greenlet.link({
        let (greenlet, later, log) = (Rc::clone(&greenlet), Rc::clone(&later), log.clone());
        move |_| {
            // All links are on their way once the first one runs.
            log.add(format!("first {}", greenlet.unlink(later.get().unwrap())));
            greenlet.link(move |_| log.add("added"));
        }
    });
    let second = log.clone();
    later.set(Some(greenlet.link(move |_| second.add("second"))));
    joinall([&greenlet]);
    yield_now();
    yield_now();
    assert_eq!(log.take(), "first false second added");
}

#[test]
fn a_raw_link_to_one_that_has_ended_is_called_at_once() {
    let greenlet = spawn(|| ());
    joinall([&greenlet]);
    let called = Arc::new(Event::new());
    let event = Arc::clone(&called);
    greenlet.rawlink(move || event.set());
    assert!(called.is_set());
}

#[test]
fn links_set_a_result_that_others_wait_for() {
    let make = |fails: bool| {
        let result = Rc::new(AsyncResult::<i32, ExitReason>::new());
        let greenlet = spawn(move || {
            if fails {
                std::panic::resume_unwind(Box::new("oh"));
            }
            7
        });
        let (value, error) = (Rc::clone(&result), Rc::clone(&result));
        greenlet.link_value(move |n| value.set(n).unwrap());
        greenlet.link_panic(move |exit| error.set_error(exit.reason).unwrap());
        result
    };
    let (good, bad) = (make(false), make(true));
    assert_eq!(good.get(), Ok(&7));
    assert_eq!(bad.get(), Err(&ExitReason::Panicked(Some("oh".into()))));
}

#[test]
fn a_raw_link_may_do_all_that_does_not_wait() {
    let queue = Arc::new(Queue::bounded(1));
    let getter = spawn({
        let queue = Arc::clone(&queue);
        move || queue.get()
    });
    let ended = spawn(|| ());
    let (semaphore, (tx, rx)) = (Arc::new(Semaphore::new(1)), channel::bounded(1));
    ended.rawlink({
        let (queue, semaphore) = (Arc::clone(&queue), Arc::clone(&semaphore));
        move || {
            queue.try_put("for the getter").unwrap();
            queue.try_put("stays").unwrap();
            // More failures than any fair operation lets pass without a yield.
            for _ in 0..1000 {
                assert_eq!(queue.try_put("too much"), Err(PutError::Full("too much")));
                let permit = semaphore.try_acquire().unwrap();
                assert!(semaphore.try_acquire().is_none());
                drop(permit);
                tx.try_send(1).unwrap();
                assert!(tx.try_send(2).is_err());
                assert_eq!(rx.try_recv(), Ok(1));
            }
            tx.send(3).unwrap();
            assert_eq!(rx.recv(), Ok(3));
        }
    });
    assert_eq!(getter.join().unwrap(), Ok("for the getter"));
    assert_eq!(queue.try_get(), Ok("stays"));
}
