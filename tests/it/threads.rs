//! Other OS threads: what they may do to a greenlet, and what becomes of greenlets when their thread ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use switchgrass::{
    Builder, Coroutine, Greenlet, GreenletExit, Handle, current, joinall, park, scope, sleep, spawn,
    spawn_later, testing, timeout, unblock, yield_now,
};

use crate::util::{Drops, HOUR, OnDrop, catch, forever, is_exit, secs, text, time_limit};

// ---- From another thread ------------------------------------------------------------------------------------------------

/// Starts a thread that runs greenlets until the sender is dropped, and hands out what `make` makes there.
fn serve<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> (T, Server) {
    let (give, take) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        give.send(make()).unwrap();
        // The hub runs until the channel is closed.
        let _ = unblock(move || stopped.recv());
    });
    (take.recv().unwrap(), Server { stop: Some(stop), thread: Some(thread) })
}

struct Server {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

fn assert_send_sync<T: Send + Sync>() {}

#[test]
fn handles_and_greenlets_with_a_sendable_result_are_send_and_sync() {
    assert_send_sync::<Handle>();
    assert_send_sync::<Greenlet<String>>();
}

#[test]
fn a_greenlet_can_be_joined_from_another_thread() {
    time_limit();
    let (greenlet, _server) = serve(|| {
        spawn(|| {
            yield_now();
            Rc::new(7).to_string()
        })
    });
    assert_eq!(greenlet.join().unwrap(), "7");
}

#[test]
fn a_greenlet_of_this_thread_joins_one_of_another_while_others_run_here() {
    time_limit();
    let (greenlet, _server) = serve(|| {
        spawn(|| {
            park();
            7
        })
    });
    let handle = greenlet.handle();
    let joiner = spawn(move || greenlet.join().unwrap());
    let other = spawn(move || handle.unpark());
    assert_eq!(joiner.join().unwrap(), 7);
    other.join().unwrap();
}

#[test]
fn a_greenlet_of_another_thread_can_be_killed_from_here() {
    time_limit();
    let drops = Drops::new();
    let guard = drops.guard();
    let (greenlet, _server) = serve(|| {
        spawn(move || {
            let _guard = guard;
            forever();
        })
    });
    greenlet.kill();
    assert!(greenlet.is_ready());
    assert_eq!(drops.count(), 1);
    assert!(is_exit(&greenlet.join()));
}

#[test]
fn one_of_another_thread_that_has_not_begun_is_killed_before_it_begins() {
    time_limit();
    let ran = Arc::new(AtomicBool::new(false));
    let (greenlet, _server) = serve({
        let ran = Arc::clone(&ran);
        move || spawn_later(HOUR, move || ran.store(true, Ordering::SeqCst))
    });
    greenlet.handle().kill();
    assert!(is_exit(&greenlet.join()));
    assert!(!ran.load(Ordering::SeqCst));
}

#[test]
fn join_timeout_of_a_greenlet_of_another_thread_gives_it_back() {
    time_limit();
    let (greenlet, _server) = serve(|| spawn(park));
    let greenlet = greenlet.join_timeout(secs(1) / 1000).unwrap_err();
    greenlet.handle().unpark();
    greenlet.join().unwrap();
}

#[test]
fn a_limit_ends_a_join_of_a_greenlet_of_another_thread() {
    time_limit();
    let (greenlet, _server) = serve(|| spawn(park));
    assert!(timeout(secs(1) / 1000, || joinall([&greenlet])).is_err());
    greenlet.kill();
}

#[test]
fn a_result_can_be_dropped_by_another_thread_with_the_greenlet() {
    time_limit();
    let drops = Drops::new();
    let guard = drops.guard();
    let (greenlet, _server) = serve(|| spawn(move || guard));
    joinall([&greenlet]);
    assert_eq!(drops.count(), 0);
    drop(greenlet);
    assert_eq!(drops.count(), 1);
}

#[test]
fn stack_used_and_debug_of_a_greenlet_of_another_thread_tell_what_they_can() {
    time_limit();
    let (greenlet, _server) = serve(|| Builder::new().name("far").measure_stack(true).spawn(park).unwrap());
    assert_eq!(greenlet.stack_used(), None);
    let shown = format!("{greenlet:?}");
    assert!(shown.contains("\"far\"") && shown.contains("ThreadId"), "{shown}");
    greenlet.kill();
}

#[test]
fn main_of_another_thread_can_be_unparked_and_killed() {
    time_limit();
    let (give, take) = mpsc::channel();
    let other = thread::spawn(move || {
        give.send(current()).unwrap();
        park();
        give.send(current()).unwrap();
        is_exit(&catch::<()>(|| forever()))
    });
    take.recv().unwrap().unpark();
    take.recv().unwrap().kill_nowait();
    assert!(other.join().unwrap());
}

#[test]
fn a_park_is_no_deadlock_while_another_thread_has_a_handle() {
    time_limit();
    let main = current();
    let (started, has_started) = mpsc::channel();
    let waker = thread::spawn(move || {
        started.send(()).unwrap();
        main.unpark();
    });
    has_started.recv().unwrap();
    park();
    waker.join().unwrap();
}

#[test]
fn a_handle_that_is_used_and_then_dropped_by_another_thread_has_still_woken() {
    time_limit();
    let turn = Arc::new(AtomicUsize::new(0));
    let (give, take) = mpsc::channel::<Handle>();
    let waker = thread::spawn({
        let turn = Arc::clone(&turn);
        move || {
            // Spins, so that the wake and the drop of the handle meet the hub on its way to sleep.
            loop {
                match take.try_recv() {
                    Ok(handle) => {
                        turn.fetch_add(1, Ordering::SeqCst);
                        handle.unpark();
                    }
                    Err(mpsc::TryRecvError::Empty) => std::hint::spin_loop(),
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
        }
    });
    for n in 1..=20_000 {
        give.send(current()).unwrap();
        while turn.load(Ordering::SeqCst) != n {
            park();
        }
        // Uses up an unpark that came after the look.
        yield_now();
    }
    drop(give);
    waker.join().unwrap();
}

#[test]
fn two_threads_that_wake_each_other_ten_thousand_times_lose_no_wake() {
    const ROUNDS: usize = 10_000;
    time_limit();
    let turn = Arc::new(AtomicUsize::new(0));
    let play = |own: usize, turn: Arc<AtomicUsize>, other: Handle| {
        for round in 0..ROUNDS {
            let mine = 2 * round + own;
            while turn.load(Ordering::SeqCst) != mine {
                park();
            }
            turn.store(mine + 1, Ordering::SeqCst);
            other.unpark();
        }
    };
    let (give, take) = mpsc::channel();
    let (give_back, take_back) = mpsc::channel();
    let other = thread::spawn({
        let turn = Arc::clone(&turn);
        move || {
            let player = spawn(move || play(1, turn, take.recv().unwrap()));
            give_back.send(player.handle()).unwrap();
            player.join().unwrap();
        }
    });
    let player = spawn({
        let turn = Arc::clone(&turn);
        move || play(0, turn, take_back.recv().unwrap())
    });
    give.send(player.handle()).unwrap();
    player.join().unwrap();
    other.join().unwrap();
    assert_eq!(turn.load(Ordering::SeqCst), 2 * ROUNDS);
}

#[test]
fn a_kill_is_not_lost_on_a_coroutine_that_is_about_to_be_told_of_the_exit_of_another() {
    time_limit();
    let (give, take) = mpsc::channel::<(Handle, Arc<AtomicBool>)>();
    let killer = thread::spawn(move || {
        for (victim, killed) in take {
            victim.kill_nowait();
            killed.store(true, Ordering::Release);
        }
    });
    // The kill arrives when the hub looks at its mail, so at a different moment in each round.
    for round in 0..200 {
        (0..round).for_each(|_| yield_now());
        let (give, lost) = (give.clone(), Rc::new(Cell::new(false)));
        let victim = Coroutine::new({
            let lost = lost.clone();
            move |()| {
                let killed = Arc::new(AtomicBool::new(false));
                give.send((current(), killed.clone())).unwrap();
                let child = Coroutine::new(move |()| {
                    while !killed.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    std::panic::resume_unwind(Box::new(GreenletExit));
                });
                let _ = child.switch(());
                (0..200).for_each(|_| yield_now());
                lost.set(true);
            }
        });
        let _ = victim.switch(());
        assert!(!lost.get(), "round {round}");
    }
    drop(give);
    killer.join().unwrap();
}

#[test]
fn a_wake_for_a_wait_that_was_killed_before_it_began_does_not_end_the_next() {
    time_limit();
    const PAUSE: Duration = Duration::from_micros(300);
    let (sender, receiver) = mpsc::channel::<Arc<AtomicBool>>();
    let (give, take) = mpsc::channel::<Greenlet<()>>();
    let other = thread::spawn(move || {
        for go in receiver {
            let greenlet = spawn({
                let go = go.clone();
                move || {
                    while !go.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            });
            give.send(greenlet).unwrap();
            yield_now();
        }
    });
    for round in 0..1_000 {
        let go = Arc::new(AtomicBool::new(false));
        sender.send(go.clone()).unwrap();
        let theirs = take.recv().unwrap();
        let early = spawn(move || {
            current().kill_nowait();
            go.store(true, Ordering::Relaxed);
            (0..round % 200).for_each(|_| std::hint::spin_loop());
            // It ends about now: before the join, or while the kill is on its way out of it.
            if !is_exit(&catch(|| theirs.join())) {
                return catch(yield_now).is_ok();
            }
            let begun = Instant::now();
            sleep(PAUSE);
            begun.elapsed() < PAUSE
        });
        assert!(!early.join().unwrap(), "round {round}");
    }
    drop(sender);
    other.join().unwrap();
}

#[test]
fn a_thousand_greenlets_of_one_thread_are_woken_by_another() {
    time_limit();
    let greenlets: Vec<_> = (0..1000).map(|_| spawn(park)).collect();
    let handles: Vec<_> = greenlets.iter().map(Greenlet::handle).collect();
    let waker = thread::spawn(move || handles.iter().for_each(Handle::unpark));
    joinall(&greenlets);
    waker.join().unwrap();
}

// ---- At the end of a thread -----------------------------------------------------------------------------------------------

/// Runs `f` on an OS thread, to the thread's end.
fn on_a_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    time_limit();
    thread::spawn(f).join().unwrap()
}

#[test]
fn suspended_sleeping_and_joining_greenlets_are_unwound_when_their_thread_ends() {
    let drops = Drops::new();
    let mut guards: Vec<_> = (0..4).map(|_| drops.guard()).collect();
    let mut next = move || guards.pop().unwrap();
    on_a_thread(move || {
        let (parks, sleeps, yields, joins) = (next(), next(), next(), next());
        let parked = spawn(move || {
            let _guard = parks;
            park();
        });
        drop(spawn(move || {
            let _guard = sleeps;
            sleep(HOUR);
        }));
        drop(spawn(move || {
            let _guard = yields;
            loop {
                yield_now();
            }
        }));
        drop(spawn(move || {
            let _guard = joins;
            let _ = parked.join();
        }));
        yield_now();
    });
    assert_eq!(drops.count(), 4);
}

#[test]
fn greenlets_that_have_not_begun_when_their_thread_ends_never_do() {
    let (ran, drops) = (Arc::new(AtomicUsize::new(0)), Drops::new());
    let body = || {
        let (ran, guard) = (Arc::clone(&ran), drops.guard());
        move || {
            let _guard = guard;
            ran.fetch_add(1, Ordering::SeqCst);
        }
    };
    let (soon, later) = (body(), body());
    on_a_thread(move || {
        drop(spawn(soon));
        drop(spawn_later(HOUR, later));
    });
    assert_eq!((ran.load(Ordering::SeqCst), drops.count()), (0, 2));
}

#[test]
fn a_greenlet_that_has_yielded_does_not_go_on_when_its_thread_ends() {
    let (went_on, drops) = (Arc::new(AtomicBool::new(false)), Drops::new());
    let (set, guard) = (Arc::clone(&went_on), drops.guard());
    on_a_thread(move || {
        drop(spawn(move || {
            let _guard = guard;
            yield_now();
            set.store(true, Ordering::SeqCst);
        }));
        yield_now();
    });
    assert_eq!((went_on.load(Ordering::SeqCst), drops.count()), (false, 1));
}

#[test]
fn at_the_end_of_the_thread_greenlets_unwind_in_the_order_of_spawn() {
    let (log, events) = mpsc::channel();
    on_a_thread(move || {
        for n in 0..5 {
            let log = log.clone();
            drop(spawn(move || {
                let _guard = OnDrop(|| log.send(n).unwrap());
                park();
            }));
        }
        yield_now();
    });
    assert_eq!(Vec::from_iter(events), [0, 1, 2, 3, 4]);
}

#[test]
fn waits_in_destructors_at_the_end_of_the_thread_fail_and_do_not_hang() {
    let drops = Drops::new();
    let guard = drops.guard();
    on_a_thread(move || {
        drop(spawn(move || {
            let _guard = guard;
            let _waits = OnDrop(|| {
                park();
                yield_now();
                drop(spawn(|| ()).join());
            });
            park();
        }));
        yield_now();
    });
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_greenlet_that_catches_the_exit_once_and_ends_has_run_its_destructors_at_the_end_of_the_thread() {
    let drops = Drops::new();
    let guard = drops.guard();
    on_a_thread(move || {
        drop(spawn(move || {
            let _guard = guard;
            let _ = catch(park);
            let _ = catch(|| sleep(HOUR));
        }));
        yield_now();
    });
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_greenlet_that_catches_every_exit_does_not_hang_the_end_of_its_thread() {
    let drops = Drops::new();
    let (before, after) = (drops.guard(), drops.guard());
    let body = |guard| {
        move || {
            let _guard = guard;
            park();
        }
    };
    let (before, after) = (body(before), body(after));
    on_a_thread(move || {
        drop(spawn(before));
        drop(spawn(|| {
            loop {
                let _ = catch(yield_now);
                let _ = catch(park);
            }
        }));
        drop(spawn(after));
        yield_now();
    });
    assert_eq!(drops.count(), 2);
}

#[test]
fn a_greenlet_whose_destructor_spawns_again_and_again_does_not_hang_the_end_of_its_thread() {
    fn again(spawned: Arc<AtomicUsize>) {
        drop(spawn(move || {
            let _guard = OnDrop(|| {
                spawned.fetch_add(1, Ordering::SeqCst);
                again(Arc::clone(&spawned));
            });
            park();
        }));
    }
    let spawned = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&spawned);
    on_a_thread(move || {
        again(count);
        yield_now();
    });
    assert!(spawned.load(Ordering::SeqCst) >= 1);
}

#[test]
fn a_scope_that_is_open_when_its_thread_ends_ends_its_greenlets_before_its_frame_goes() {
    let (log, events) = mpsc::channel();
    on_a_thread(move || {
        drop(spawn(move || {
            let _gone = OnDrop(|| log.send("frame-gone").unwrap());
            let frame = String::from("frame");
            scope(|s| {
                s.spawn(|| {
                    let _ended = OnDrop(|| {
                        assert_eq!(frame, "frame");
                        log.send("child-ended").unwrap();
                    });
                    park();
                });
            });
        }));
        yield_now();
        yield_now();
    });
    assert_eq!(Vec::from_iter(events), ["child-ended", "frame-gone"]);
}

#[test]
fn a_panic_of_a_thread_unwinds_its_greenlets() {
    time_limit();
    let drops = Drops::new();
    let guard = drops.guard();
    let panicked = thread::spawn(move || {
        drop(spawn(move || {
            let _guard = guard;
            park();
        }));
        yield_now();
        panic!("thread");
    });
    assert_eq!(text(&panicked.join().unwrap_err()), "thread");
    assert_eq!(drops.count(), 1);
}

#[test]
fn who_joins_a_greenlet_whose_thread_ends_is_told_of_its_exit() {
    time_limit();
    let (greenlet, server) = serve(|| spawn(park));
    let joiner = spawn(move || greenlet.join());
    yield_now();
    drop(server);
    assert!(is_exit(&joiner.join().unwrap()));
}

#[test]
fn a_handle_of_a_greenlet_whose_thread_has_ended_does_nothing() {
    let (greenlet, main) = on_a_thread(|| {
        let parked = spawn(park);
        yield_now();
        (parked, current())
    });
    let handle = greenlet.handle();
    handle.unpark();
    handle.kill();
    main.unpark();
    main.kill();
    assert!(handle.is_ready());
    assert!(format!("{handle:?}").contains("ended"));
    assert!(is_exit(&greenlet.join()));
}

#[test]
fn one_that_could_not_be_unwound_says_so_when_it_is_joined() {
    let greenlet = on_a_thread(|| {
        let stubborn = spawn(|| {
            loop {
                let _ = catch(park);
            }
        });
        yield_now();
        stubborn
    });
    let refused: Result<(), _> = greenlet.join();
    assert!(text(&refused.unwrap_err()).contains("could not be unwound"));
}

#[test]
fn a_new_thread_is_not_reached_by_messages_for_one_that_has_ended() {
    for _ in 0..20 {
        let old = on_a_thread(current);
        on_a_thread(move || {
            old.kill_nowait();
            old.unpark();
            let own = current();
            assert!(!own.is_ready());
            spawn(yield_now).join().unwrap();
        });
    }
}

#[test]
fn killing_a_thousand_suspended_greenlets_gives_all_their_stacks_back() {
    let (before, after) = on_a_thread(|| {
        let greenlets: Vec<_> = (0..1000).map(|_| spawn(park)).collect();
        yield_now();
        let before = (testing::stack_counts().0, testing::live());
        switchgrass::killall(&greenlets);
        (before, (testing::stack_counts(), testing::live()))
    });
    assert_eq!(before, (1000, 1000));
    assert_eq!(after, ((0, 1000), 0));
}

#[test]
fn thread_locals_of_the_program_outlive_greenlets_that_used_them_after_they_were_made() {
    thread_local! {
        static VALUE: Cell<u32> = const { Cell::new(0) };
    }
    let (log, events) = mpsc::channel();
    on_a_thread(move || {
        VALUE.set(5);
        drop(spawn(move || {
            let _guard = OnDrop(|| log.send(VALUE.get()).unwrap());
            park();
        }));
        yield_now();
    });
    assert_eq!(Vec::from_iter(events), [5]);
}

#[test]
fn a_message_that_a_thread_never_read_is_dropped_after_its_hub() {
    time_limit();
    let (give, take) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        give.send(spawn(|| -> () { forever() })).unwrap();
        // Blocks the thread: the hub does not run before its end.
        may_go_on.recv().unwrap();
    });
    let greenlet: Greenlet<()> = take.recv().unwrap();
    let dropped = Drops::new();
    let guard = dropped.guard();
    // What a destructor may do at the end of a thread, it may do here.
    let on_drop = OnDrop(move || {
        spawn(|| ());
        yield_now();
        let _ = &guard;
    });
    greenlet.kill_nowait_with(Keeps(on_drop));
    go_on.send(()).unwrap();
    thread.join().unwrap();
    assert_eq!(dropped.count(), 1);
    assert!(is_exit(&greenlet.join()));
}

/// Something with a destructor, to be killed with.
struct Keeps<T>(#[allow(dead_code, reason = "it is dropped")] T);
