//! Killing: who unwinds, when, and who waits for it.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use switchgrass::channel::{Receiver, bounded, unbounded};
use switchgrass::queue::Queue;
use switchgrass::sync::{AsyncResult, Barrier, Condvar, Event, Mutex, OnceLock, RwLock, Semaphore};
use switchgrass::{
    Greenlet, Handle, Timeout, block_on, current, iwait, joinall, killall, park, scope, select, sleep, spawn,
    spawn_later, testing, timeout, yield_now,
};

use crate::util::{Clock, Drops, HOUR, Log, OnDrop, catch, forever, is_exit, secs, text};

#[test]
fn killed_before_its_first_run_it_never_runs_and_what_it_captured_is_dropped() {
    let (ran, captured) = (Rc::new(Cell::new(false)), Drops::new());
    let victim = spawn({
        let (ran, guard) = (Rc::clone(&ran), captured.guard());
        move || {
            let _guard = guard;
            ran.set(true);
        }
    });
    victim.kill();
    assert!(victim.is_ready());
    assert_eq!(captured.count(), 1);
    assert!(is_exit(&victim.join()));
    assert!(!ran.get());
}

#[test]
fn those_who_join_a_greenlet_that_is_killed_before_its_first_run_are_woken() {
    let victim = Rc::new(spawn_later(HOUR, || ()));
    let joiners = [(); 3].map(|()| {
        let victim = Rc::clone(&victim);
        spawn(move || joinall([&*victim]))
    });
    yield_now();
    victim.kill_nowait();
    joinall(&joiners);
    assert!(victim.is_ready());
}

#[test]
fn a_sleeper_has_run_its_destructors_before_kill_returns() {
    let clock = Clock::start();
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _first = log.on_drop("outer");
            let _second = log.on_drop("inner");
            log.add("start");
            sleep(HOUR);
            log.add("never");
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(log.take(), "start inner outer");
    assert!(is_exit(&victim.join()));
    assert_eq!(clock.elapsed(), secs(0));
}

#[test]
fn a_victim_may_catch_the_exit_and_live_on_and_kill_waits_for_its_end() {
    let clock = Clock::start();
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let caught = catch(|| sleep(HOUR));
            log.add(if is_exit(&caught) { "caught" } else { "?" });
            sleep(secs(5));
            log.add("finished");
            "result"
        }
    });
    yield_now();
    victim.kill();
    log.add("kill-returned");
    assert_eq!(log.take(), "caught finished kill-returned");
    assert_eq!(clock.elapsed(), secs(5));
    assert_eq!(victim.join().unwrap(), "result");
}

#[test]
fn kill_interrupts_a_greenlet_that_yields() {
    let turns = Rc::new(Cell::new(0));
    let victim = spawn({
        let turns = Rc::clone(&turns);
        move || {
            loop {
                turns.set(turns.get() + 1);
                yield_now();
            }
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(turns.get(), 1);
    assert!(is_exit(&victim.join()));
}

#[test]
fn kill_interrupts_a_greenlet_that_joins_another_which_goes_on() {
    let awaited = Rc::new(spawn(|| {
        park();
        1
    }));
    let victim = spawn({
        let awaited = Rc::clone(&awaited);
        move || joinall([&*awaited])
    });
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
    assert!(!awaited.is_ready());
    awaited.handle().unpark();
    assert_eq!(Rc::into_inner(awaited).unwrap().join().unwrap(), 1);
}

#[test]
fn a_victim_that_was_woken_in_the_same_turn_is_killed_all_the_same() {
    let victim = spawn(park);
    yield_now();
    victim.handle().unpark();
    victim.kill();
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_greenlet_that_ends_without_waiting_again_is_not_hurt_by_a_kill() {
    // It kills itself without waiting, and then never waits.
    let victim = spawn(|| {
        current().kill_nowait();
        "result"
    });
    assert_eq!(victim.join().unwrap(), "result");
}

#[test]
fn killed_twice_it_unwinds_once() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            sleep(HOUR);
        }
    });
    yield_now();
    victim.kill_nowait();
    victim.kill_nowait();
    victim.kill();
    victim.kill();
    assert_eq!(log.take(), "unwound");
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_victim_that_caught_one_exit_gets_another_for_the_next_kill() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            for _ in 0..2 {
                let caught = catch(park);
                log.add(if is_exit(&caught) { "caught" } else { "?" });
            }
            park();
        }
    });
    for _ in 0..3 {
        yield_now();
        victim.kill_nowait();
    }
    yield_now();
    assert_eq!(log.take(), "caught caught");
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_greenlet_that_kills_itself_unwinds_at_once() {
    let log = Log::new();
    let suicide = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            current().kill();
            log.add("never");
        }
    });
    assert!(is_exit(&suicide.join()));
    assert_eq!(log.take(), "unwound");
}

#[test]
fn killing_itself_without_waiting_takes_effect_at_the_next_wait() {
    let log = Log::new();
    let suicide = spawn({
        let log = log.clone();
        move || {
            current().kill_nowait();
            log.add("still");
            yield_now();
            log.add("never");
        }
    });
    assert!(is_exit(&suicide.join()));
    assert_eq!(log.take(), "still");
}

#[test]
fn killed_again_by_its_own_destructor_while_it_unwinds_it_goes_on_unwinding() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _outer = log.on_drop("outer");
            let _inner = OnDrop(|| {
                current().kill_nowait();
                log.add("inner");
            });
            sleep(HOUR);
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(log.take(), "inner outer");
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_destructor_that_unwinds_may_kill_its_own_greenlet_and_wait_for_nothing() {
    let log = Log::new();
    let panics = spawn({
        let log = log.clone();
        move || {
            let _outer = log.on_drop("outer");
            let _inner = OnDrop(|| {
                current().kill();
                log.add("inner");
            });
            panic!("first");
        }
    });
    assert_eq!(text(&panics.join().unwrap_err()), "first");
    assert_eq!(log.take(), "inner outer");
}

#[test]
fn a_kill_while_a_caught_panic_unwinds_takes_effect_at_the_next_wait() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let caught = catch(|| {
                let _guard = OnDrop(|| current().kill_nowait());
                panic!("first");
            });
            log.add(text(&caught.unwrap_err()));
            yield_now();
            log.add("never");
        }
    });
    assert!(is_exit(&victim.join()));
    assert_eq!(log.take(), "first");
}

#[test]
fn a_destructor_that_unwinds_kills_another_without_waiting() {
    let log = Log::new();
    let other = Rc::new(spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("other-unwound");
            park();
        }
    }));
    let panics = spawn({
        let (log, other) = (log.clone(), Rc::clone(&other));
        move || {
            let _guard = OnDrop(|| {
                other.kill();
                log.add("kill-returned");
            });
            panic!("on purpose");
        }
    });
    assert!(panics.join().is_err());
    joinall([&*other]);
    assert_eq!(log.take(), "kill-returned other-unwound");
}

#[test]
fn two_greenlets_that_kill_each_other_both_end() {
    let first: Rc<OnceCell<Handle>> = Rc::default();
    let second = spawn({
        let first = Rc::clone(&first);
        move || first.get().unwrap().kill()
    });
    let greenlet = spawn({
        let second = second.handle();
        move || second.kill()
    });
    first.set(greenlet.handle()).unwrap();
    joinall([&greenlet, &second]);
    // The first to kill waits for the other to end, which is killed before it runs.
    assert!(is_exit(&greenlet.join()));
    second.join().unwrap();
}

#[test]
fn kill_of_an_ended_greenlet_returns_and_leaves_its_result() {
    let ended = spawn(|| 9);
    joinall([&ended]);
    ended.kill();
    ended.kill_nowait();
    ended.handle().kill();
    assert_eq!(ended.join().unwrap(), 9);
}

#[test]
fn spawn_later_killed_before_its_time_never_runs_and_holds_up_nobody() {
    let clock = Clock::start();
    let (ran, captured) = (Rc::new(Cell::new(false)), Drops::new());
    let victim = spawn_later(HOUR, {
        let (ran, guard) = (Rc::clone(&ran), captured.guard());
        move || {
            drop(guard);
            ran.set(true);
        }
    });
    sleep(secs(1));
    victim.kill();
    assert_eq!((clock.elapsed(), captured.count(), testing::live()), (secs(1), 1, 0));
    assert!(is_exit(&victim.join()));
    sleep(HOUR + HOUR);
    assert!(!ran.get());
}

#[test]
fn killall_ends_suspended_and_unstarted_ones_and_those_unstarted_never_run() {
    let log = Log::new();
    let body = |name: &'static str| {
        let log = log.clone();
        move || {
            log.add(name);
            let _guard = log.on_drop("unwound");
            park();
        }
    };
    let started = [spawn(body("a")), spawn(body("b"))];
    yield_now();
    let ended = spawn(|| ());
    joinall([&ended]);
    let unstarted = [spawn(body("c")), spawn_later(HOUR, body("d"))];

    killall(started.iter().chain(&unstarted).chain([&ended]));
    assert!(started.iter().chain(&unstarted).all(Greenlet::is_ready));
    assert_eq!(log.take(), "a b unwound unwound");
    assert_eq!(testing::live(), 0);
    ended.join().unwrap();
}

#[test]
fn killall_of_a_list_with_the_caller_kills_the_others_first() {
    let log = Log::new();
    let body = |name: &'static str| {
        let log = log.clone();
        move || {
            let _guard = log.on_drop(name);
            park();
        }
    };
    let all = Rc::new(RefCell::new(vec![spawn(body("a"))]));
    let killer = spawn({
        let (log, all) = (log.clone(), Rc::clone(&all));
        move || {
            let _guard = log.on_drop("killer");
            yield_now();
            let all = all.take();
            killall(&all);
            log.add("never");
        }
    });
    let handle = killer.handle();
    all.borrow_mut().push(killer);
    all.borrow_mut().push(spawn(body("b")));
    yield_now();
    while !handle.is_ready() {
        yield_now();
    }
    assert_eq!(log.take(), "a b killer");
    assert_eq!(testing::live(), 0);
}

#[test]
fn killall_takes_greenlets_of_several_types_as_handles() {
    let (suspended, unstarted) = (spawn(|| forever()), spawn_later(HOUR, || 1));
    yield_now();
    killall([suspended.handle(), unstarted.handle()]);
    assert!(suspended.is_ready() && unstarted.is_ready());
}

#[test]
fn kill_nowait_returns_with_the_victim_alive_which_is_dead_one_yield_later() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _guard = log.on_drop("unwound");
            park();
        }
    });
    yield_now();
    victim.kill_nowait();
    assert!(!victim.is_ready());
    assert_eq!(log.take(), "");
    yield_now();
    assert!(victim.is_ready());
    assert_eq!(log.take(), "unwound");
}

#[test]
fn a_killed_greenlets_destructor_cannot_switch() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _guard = OnDrop(|| {
                yield_now();
                log.add("yielded");
                let refused = spawn(|| ()).join();
                log.add(if refused.is_err() { "refused" } else { "?" });
                sleep(secs(1) / 1000);
                log.add("slept");
            });
            park();
        }
    });
    yield_now();
    let bystander = spawn({
        let log = log.clone();
        move || log.add("bystander")
    });
    victim.kill_nowait();
    joinall([&victim, &bystander]);
    // The bystander was spawned before the kill. The victim then ran in one go.
    assert_eq!(log.take(), "bystander yielded refused slept");
}

#[test]
fn a_victim_that_panics_while_it_unwinds_and_catches_that_still_exits() {
    let victim = spawn(|| {
        let _guard = OnDrop(|| {
            let _ = catch(|| panic!("in a destructor"));
        });
        park();
    });
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
}

#[test]
fn a_victim_that_turns_the_exit_into_a_panic_has_that_as_its_result() {
    let victim = spawn(|| {
        if catch(park).is_err() {
            panic!("instead");
        }
    });
    yield_now();
    victim.kill();
    assert_eq!(text(&victim.join().unwrap_err()), "instead");
}

#[test]
fn a_victim_within_a_timeout_unwinds_through_it() {
    let clock = Clock::start();
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _ = timeout(HOUR, park);
            log.add("never");
        }
    });
    yield_now();
    victim.kill();
    assert!(is_exit(&victim.join()));
    assert_eq!((log.take().as_str(), clock.elapsed()), ("", secs(0)));
}

#[test]
fn the_killer_may_be_killed_while_it_waits_and_the_victim_goes_on() {
    let log = Log::new();
    let victim = spawn({
        let log = log.clone();
        move || {
            let _ = catch(park);
            log.add("lives-on");
            park();
            log.add("ends");
        }
    });
    yield_now();
    let killer = spawn({
        let victim = victim.handle();
        move || victim.kill()
    });
    yield_now();
    yield_now();
    assert!(!killer.is_ready());
    killer.kill();
    assert!(is_exit(&killer.join()));
    assert_eq!(log.take(), "lives-on");
    victim.handle().unpark();
    victim.join().unwrap();
    assert_eq!(log.take(), "ends");
}

#[test]
fn the_main_context_can_be_killed_out_of_its_wait() {
    let main = current();
    let killer = spawn(move || main.kill_nowait());
    let caught = catch::<()>(|| forever());
    assert!(is_exit(&caught));
    killer.join().unwrap();
}

// ---- At each suspension -------------------------------------------------------------------------------------------------

/// Runs a scenario again and again, with the victim that it gives killed after 0, 1, 2 … turns, until it ends by itself before.
/// Then calls what the scenario gives to look at what is left.
#[track_caller]
fn killed_at_each_suspension<C: FnOnce()>(scenario: impl Fn() -> (Greenlet<()>, C)) {
    let mut kills = 0;
    loop {
        let (victim, check) = scenario();
        (0..kills).for_each(|_| yield_now());
        let ended = victim.is_ready();
        victim.kill();
        let result = victim.join();
        assert!(if ended { result.is_ok() } else { is_exit(&result) }, "after {kills} turns");
        check();
        assert_eq!(testing::live(), 0, "after {kills} turns");
        if ended {
            assert!(kills > 1, "it has never waited");
            return;
        }
        kills += 1;
        assert!(kills < 500, "it never ends");
    }
}

/// Numbers in the order in which they were added.
#[derive(Clone, Default)]
struct Numbers(Rc<RefCell<Vec<u32>>>);

impl Numbers {
    fn add(&self, number: u32) {
        self.0.borrow_mut().push(number);
    }

    fn len(&self) -> u32 {
        self.0.borrow().len() as u32
    }

    #[track_caller]
    fn are_each_once(&self, count: u32) {
        let mut all = self.0.take();
        all.sort_unstable();
        assert_eq!(all, (0..count).collect::<Vec<_>>());
    }
}

const MANY: u32 = 5;

/// A greenlet that calls `f` with each number, and yields in between.
fn one_by_one(f: impl Fn(u32) + 'static) -> Greenlet<()> {
    spawn(move || {
        for number in 0..MANY {
            f(number);
            yield_now();
        }
    })
}

fn drain(rx: &Receiver<u32>, into: &Numbers) {
    rx.iter().for_each(|number| into.add(number));
}

#[test]
fn a_receiver_that_is_killed_anywhere_takes_no_message_along() {
    for channel in [|| bounded(0), || bounded(1), || bounded(3), || unbounded()] {
        killed_at_each_suspension(|| {
            let (tx, rx) = channel();
            let all = Numbers::default();
            let (receiver, received) = (rx.clone(), all.clone());
            let victim = spawn(move || drain(&receiver, &received));
            let sending = one_by_one(move |number| tx.send(number).unwrap());
            (victim, move || {
                drain(&rx, &all);
                sending.join().unwrap();
                all.are_each_once(MANY);
            })
        });
    }
}

#[test]
fn a_sender_that_is_killed_anywhere_has_sent_each_message_once_or_not_at_all() {
    for channel in [|| bounded(0), || bounded(1), || bounded(3)] {
        killed_at_each_suspension(|| {
            let (tx, rx) = channel();
            let (sent, all) = (Numbers::default(), Numbers::default());
            let (counted, received) = (sent.clone(), all.clone());
            let victim = one_by_one(move |number| {
                tx.send(number).unwrap();
                counted.add(number);
            });
            let receiving = spawn(move || drain(&rx, &received));
            (victim, move || {
                receiving.join().unwrap();
                let count = all.len();
                assert!(
                    count == sent.len() || count == sent.len() + 1,
                    "the last was sent, or died with its sender"
                );
                all.are_each_once(count);
            })
        });
    }
}

#[test]
fn a_select_that_is_killed_anywhere_takes_no_message_along_and_leaves_the_channels_in_order() {
    for room in 0..3 {
        killed_at_each_suspension(|| {
            let (left, right, out) = (bounded(room), bounded(room), bounded(room));
            let (all, echoed) = (Numbers::default(), Numbers::default());
            let receivers = (left.1.clone(), right.1.clone());
            let (received, echo) = (all.clone(), out.0);
            let victim = spawn(move || {
                let mut left = (MANY * 2, MANY * 2);
                while left.0 > 0 || left.1 > 0 {
                    select! {
                        recv(receivers.0) -> number => match number {
                            Ok(number) => received.add(number),
                            Err(_) => left.0 = 0,
                        },
                        recv(receivers.1) -> number => match number {
                            Ok(number) => received.add(number),
                            Err(_) => left.1 = 0,
                        },
                        send(echo, 1) -> sent => sent.unwrap(),
                    }
                }
            });
            let sending = [
                one_by_one(move |number| left.0.send(number * 2).unwrap()),
                one_by_one(move |number| right.0.send(number * 2 + 1).unwrap()),
            ];
            let echoes = spawn({
                let echoed = echoed.clone();
                move || drain(&out.1, &echoed)
            });
            (victim, move || {
                drain(&left.1, &all);
                drain(&right.1, &all);
                joinall(&sending);
                echoes.join().unwrap();
                all.are_each_once(MANY * 2);
            })
        });
    }
}

#[test]
fn who_is_killed_at_any_point_of_a_lock_leaves_it_free() {
    killed_at_each_suspension(|| {
        let semaphore = Rc::new(Semaphore::new(2));
        let use_it = |semaphore: Rc<Semaphore>| {
            move |_| {
                let _permits = (semaphore.acquire(), semaphore.acquire());
                yield_now();
            }
        };
        let other = {
            let semaphore = Rc::clone(&semaphore);
            one_by_one(move |_| {
                let _permit = semaphore.acquire();
                yield_now();
            })
        };
        let victim = one_by_one(use_it(Rc::clone(&semaphore)));
        (victim, move || {
            other.join().unwrap();
            assert_eq!(semaphore.available(), 2);
        })
    });
    killed_at_each_suspension(|| {
        let shared = Rc::new((Mutex::new(0), RwLock::new(0)));
        let use_them = |shared: Rc<(Mutex<u32>, RwLock<u32>)>| {
            move |number| {
                let mut held = shared.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                *held = number;
                yield_now();
                if number % 2 == 0 {
                    *shared.1.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = number;
                } else {
                    let read = shared.1.read();
                    yield_now();
                    drop(read);
                }
                drop(held);
            }
        };
        let others = [Rc::clone(&shared), Rc::clone(&shared)].map(|shared| one_by_one(use_them(shared)));
        let victim = one_by_one(use_them(Rc::clone(&shared)));
        (victim, move || {
            joinall(&others);
            assert!(!matches!(shared.0.try_lock(), Err(std::sync::TryLockError::WouldBlock)));
            assert!(!matches!(shared.1.try_write(), Err(std::sync::TryLockError::WouldBlock)));
        })
    });
}

#[test]
fn who_is_killed_while_it_waits_for_a_notification_passes_it_on() {
    killed_at_each_suspension(|| {
        let shared = Rc::new((Mutex::new(0_u32), Condvar::new()));
        let take = |shared: Rc<(Mutex<u32>, Condvar)>| {
            move || {
                let mut count = shared.1.wait_while(shared.0.lock().unwrap(), |count| *count == 0).unwrap();
                *count -= 1;
            }
        };
        let victim = spawn(take(Rc::clone(&shared)));
        let other = spawn(take(Rc::clone(&shared)));
        let notifier = spawn({
            let shared = Rc::clone(&shared);
            move || {
                yield_now();
                *shared.0.lock().unwrap() += 1;
                shared.1.notify_one();
            }
        });
        (victim, move || {
            notifier.join().unwrap();
            // If the victim has got it, this one needs another.
            *shared.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += u32::from(!other.is_ready());
            shared.1.notify_one();
            other.join().unwrap();
        })
    });
}

#[test]
fn who_is_killed_in_a_queue_takes_no_item_along() {
    for capacity in [1, 2] {
        killed_at_each_suspension(|| {
            let queue = Rc::new(Queue::bounded(capacity));
            let all = Numbers::default();
            let (getter, putter, got) = (Rc::clone(&queue), Rc::clone(&queue), all.clone());
            let victim = spawn(move || {
                for _ in 0..MANY {
                    getter.peek().unwrap();
                    got.add(getter.get().unwrap());
                    getter.task_done();
                }
            });
            let putting = one_by_one(move |number| putter.put(number).unwrap());
            (victim, move || {
                while all.len() < MANY {
                    all.add(queue.get().unwrap());
                    queue.task_done();
                }
                putting.join().unwrap();
                assert!(queue.join());
                all.are_each_once(MANY);
            })
        });
    }
}

#[test]
fn who_is_killed_while_it_waits_for_others_leaves_no_trace_with_them() {
    killed_at_each_suspension(|| {
        let (event, result) = (Rc::new(Event::new()), Rc::new(AsyncResult::<u32>::new()));
        let barrier = Rc::new(Barrier::new(2));
        let others: Rc<[_]> = [spawn(yield_now), spawn(yield_now)].into();
        let victim = spawn({
            let (event, result, barrier) = (Rc::clone(&event), Rc::clone(&result), Rc::clone(&barrier));
            let others = Rc::clone(&others);
            move || {
                assert_eq!(iwait(&*others).count(), 2);
                joinall(&*others);
                event.wait();
                assert_eq!(*result.get().unwrap(), 7);
                barrier.wait();
                scope(|s| {
                    let child = s.spawn(yield_now);
                    s.spawn(yield_now);
                    child.join().unwrap();
                });
                let _limit = Timeout::start_new(HOUR);
                timeout(HOUR, || {
                    let woken = spawn(yield_now);
                    block_on(woken).unwrap();
                })
                .unwrap();
            }
        });
        let setter = spawn({
            let (event, result, barrier) = (Rc::clone(&event), Rc::clone(&result), Rc::clone(&barrier));
            move || {
                (0..3).for_each(|_| yield_now());
                event.set();
                yield_now();
                result.set(7).unwrap();
                yield_now();
                barrier.wait();
            }
        });
        (victim, move || {
            // Each child of the victim's that goes on by itself has ended before that.
            (0..10).for_each(|_| yield_now());
            if !setter.is_ready() {
                barrier.wait();
            }
            setter.join().unwrap();
            assert_eq!((Rc::strong_count(&event), Rc::strong_count(&result)), (1, 1));
            assert!(event.is_set() && result.is_ready());
            joinall(&*others);
        })
    });
}

#[test]
fn who_is_killed_while_it_makes_a_value_leaves_that_to_the_next() {
    killed_at_each_suspension(|| {
        let cell = Rc::new(OnceLock::new());
        let drops = Drops::new();
        let make = |cell: Rc<OnceLock<u32>>, drops: &Drops| {
            let guard = drops.guard();
            move || {
                let _guard = guard;
                cell.get_or_init(|| {
                    yield_now();
                    yield_now();
                    7
                });
            }
        };
        let before = spawn(make(Rc::clone(&cell), &drops));
        let victim = spawn(make(Rc::clone(&cell), &drops));
        let after = spawn(make(Rc::clone(&cell), &drops));
        (victim, move || {
            before.join().unwrap();
            after.join().unwrap();
            assert_eq!((cell.get(), drops.count()), (Some(&7), 3));
        })
    });
}
