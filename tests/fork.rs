//! What becomes of greenlets, sockets and threads when the process forks.
//!
//! Each case has the main thread of a process of its own (see `cases`). It fails by a panic, or by a child that does.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use switchgrass::hubs::{self, Hubs};
use switchgrass::net::{TcpListener, TcpStream, UnixStream};
use switchgrass::server::{Prefork, StreamServer, Worker, WorkerEvent};
use switchgrass::sync::Semaphore;
use switchgrass::{
    Coroutine, Generator, Greenlet, Handle, Waitable, current, joinall, park, scope, sleep, spawn,
    spawn_later, testing, timeout, unblock, wait, yield_now,
};

use self::util::{catch, text};

mod cases;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "it/util.rs"]
mod util;

macro_rules! cases {
    ($($name:ident;)*) => {
        &[$((stringify!($name), $name)),*]
    };
}

const CASES: &[(&str, fn())] = cases! {
    greenlets_that_are_queued_run_in_the_parent_only;
    greenlets_that_sleep_or_wait_go_on_in_the_parent_only;
    a_greenlet_that_was_left_behind_says_so_when_it_is_joined;
    what_a_greenlet_that_was_left_behind_owns_is_not_dropped;
    the_child_has_none_of_the_parents_pollers;
    what_the_child_does_to_a_socket_leaves_the_parents_registration_alone;
    what_the_parent_closes_wakes_it_no_more_though_the_child_has_it;
    a_socket_that_the_parent_waits_for_can_be_waited_for_in_the_child;
    a_greenlet_that_forks_goes_on_in_the_child;
    main_goes_on_when_the_greenlet_that_forked_has_ended;
    main_that_waits_for_a_descriptor_waits_for_it_in_the_child_too;
    main_that_sleeps_sleeps_on_in_the_child;
    main_that_waits_for_what_is_gone_is_told_in_the_child;
    generators_and_coroutines_go_on_in_both;
    a_generator_may_fork;
    a_timeout_goes_on_in_both;
    a_scope_ends_in_both;
    a_permit_is_not_lost_to_who_was_left_behind;
    links_are_called_in_the_parent_only;
    what_waits_for_several_is_told_who_was_left_behind;
    signals_can_be_handled_in_the_child;
    the_child_can_do_everything;
    a_child_of_a_child_can_do_everything;
    jobs_of_the_pool_are_the_parents;
    with_other_threads_at_work_the_child_can_do_everything;
    with_hubs_that_come_and_go_the_child_can_do_all_that_takes_no_thread;
    a_greenlet_of_a_thread_that_is_gone_is_not_waited_for;
    a_thread_without_a_hub_may_fork;
    hubs_are_the_parents;
    a_hub_that_forks_starts_nothing_of_the_parents_in_the_child;
    a_scope_of_hubs_ends_in_both;
    a_server_serves_in_both;
    commands_can_be_run;

    prefork_has_several_processes_serve_one_listener;
    prefork_starts_a_worker_again_that_has_died;
    prefork_starts_a_worker_again_that_was_killed_or_has_panicked;
    prefork_gives_up_a_worker_that_cannot_start;
    prefork_ends_when_all_workers_are_done;
    prefork_gives_live_connections_time_to_end;
    prefork_kills_after_the_grace_time;
    prefork_kills_at_once_when_told_twice;
    prefork_leaves_ctrl_c_to_the_parent;
    prefork_takes_its_workers_along_when_it_is_killed;
    prefork_refuses_a_process_with_other_threads;
    prefork_works_in_a_process_with_greenlets;
};

fn main() -> ExitCode {
    cases::main(CASES, 1, 60)
}

// ---- What runs, and where -------------------------------------------------------------------------------------------

fn greenlets_that_are_queued_run_in_the_parent_only() {
    let count = Shared::new();
    let greenlets: Vec<_> = (0..3).map(|_| spawn(count.add())).collect();
    fork(|| {
        nothing_is_left();
        (0..100).for_each(|_| yield_now());
        joinall(&greenlets);
        assert!(greenlets.iter().all(|greenlet| greenlet.is_ready()));
    })
    .ends_well();
    joinall(&greenlets);
    assert_eq!(count.get(), 3);
}

fn greenlets_that_sleep_or_wait_go_on_in_the_parent_only() {
    let count = Shared::new();
    let (mut here, there) = UnixStream::pair().unwrap();
    let (later, sleeps, reads) = (count.add(), count.add(), count.add());
    let greenlets = [
        spawn_later(Duration::from_millis(1), later),
        spawn(move || {
            sleep(Duration::from_millis(1));
            sleeps();
        }),
        spawn(move || {
            (&there).read_exact(&mut [0]).unwrap();
            reads();
        }),
    ];
    yield_now();
    fork(nothing_is_left).ends_well();
    here.write_all(b"!").unwrap();
    joinall(&greenlets);
    assert_eq!(count.get(), 3);
}

fn a_greenlet_that_was_left_behind_says_so_when_it_is_joined() {
    let greenlet = spawn(|| 1);
    let mut greenlet = Some(greenlet);
    fork(|| {
        let error = greenlet.take().unwrap().join().unwrap_err();
        assert!(text(&error).contains("left behind in the parent process by a fork"));
    })
    .ends_well();
    assert_eq!(greenlet.unwrap().join().unwrap(), 1);
}

fn what_a_greenlet_that_was_left_behind_owns_is_not_dropped() {
    struct Counts(Option<Box<dyn FnOnce()>>);
    impl Drop for Counts {
        fn drop(&mut self) {
            (self.0.take().unwrap())();
        }
    }
    let count = Shared::new();
    let (one, other) = (Counts(Some(Box::new(count.add()))), Counts(Some(Box::new(count.add()))));
    let parked = spawn(move || {
        let _one = one;
        park();
    });
    yield_now();
    let queued = spawn(move || drop(other));
    let mut both = Some((parked, queued));
    fork(|| {
        let (parked, queued) = both.take().unwrap();
        parked.kill();
        drop(parked);
        drop(queued);
        // At the end of the thread, too.
        thread_end();
    })
    .ends_well();
    let (parked, queued) = both.unwrap();
    queued.join().unwrap();
    parked.kill();
    assert_eq!(count.get(), 2);
}

fn a_greenlet_that_forks_goes_on_in_the_child() {
    let other = spawn(park);
    let forking = spawn(move || {
        let id = current().id();
        fork(|| {
            assert_eq!(current().id(), id);
            assert_eq!(testing::live(), 1);
            do_everything();
            assert_eq!(current().id(), id);
        })
        .ends_well();
    });
    forking.join().unwrap();
    other.handle().unpark();
    other.join().unwrap();
}

fn main_goes_on_when_the_greenlet_that_forked_has_ended() {
    let other = spawn(park);
    let forking = spawn(|| raw_fork().inspect(|child| child.ends_well()).is_none());
    let is_child = forking.join().unwrap();
    if is_child {
        // The other one is not waited for.
        assert!(other.join().is_err());
        do_everything();
    } else {
        other.handle().unpark();
        other.join().unwrap();
    }
}

fn main_that_waits_for_a_descriptor_waits_for_it_in_the_child_too() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    drop(spawn(move || match raw_fork() {
        // Does not run its loop before the child has ended, so it is the child that reads this.
        Some(child) => {
            child.ends_well();
            there.write_all(b"p").unwrap();
        }
        None => there.write_all(b"c").unwrap(),
    }));
    let parent = std::process::id();
    let mut byte = [0];
    here.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, if std::process::id() == parent { b"p" } else { b"c" });
}

fn main_that_sleeps_sleeps_on_in_the_child() {
    drop(spawn(|| raw_fork().iter().for_each(Child::ends_well)));
    let start = Instant::now();
    sleep(Duration::from_millis(20));
    assert!(start.elapsed() >= Duration::from_millis(20));
}

fn main_that_waits_for_what_is_gone_is_told_in_the_child() {
    let (give, take) = std::sync::mpsc::channel();
    let parent = std::process::id();
    drop(spawn(move || {
        if let Some(child) = raw_fork() {
            child.ends_well();
            give.send(()).unwrap();
        }
    }));
    let result = catch(|| unblock(move || take.recv().is_ok()));
    if std::process::id() == parent {
        assert!(result.unwrap());
    } else {
        assert!(text(&result.unwrap_err()).contains("this would block forever"));
    }
}

fn generators_and_coroutines_go_on_in_both() {
    let generator = Generator::new(|out, ()| (1..=4).for_each(|n| out.yield_(n)));
    let coroutine = Coroutine::new(|mut n: i32| {
        loop {
            n = Coroutine::main().switch(n + 1).unwrap();
        }
    });
    let new = Coroutine::new(|n: i32| n * 2);
    assert_eq!((&generator).take(2).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(coroutine.switch(1).unwrap(), 2);
    let goes_on = || {
        assert_eq!((&generator).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(coroutine.switch(5).unwrap(), 6);
        assert_eq!(new.switch(4).unwrap(), 8);
    };
    fork(goes_on).ends_well();
    goes_on();
}

fn a_generator_may_fork() {
    let other = spawn(park);
    let generator = Generator::new(|out, ()| {
        out.yield_(1);
        let child = raw_fork();
        child.iter().for_each(Child::ends_well);
        sleep(Duration::from_millis(1));
        out.yield_(if child.is_some() { 2 } else { 20 });
    });
    // The caller waits for the generator in a greenlet.
    let values = spawn(move || generator.collect::<Vec<_>>()).join().unwrap();
    assert!(values == [1, 2] || values == [1, 20]);
    other.handle().unpark();
    assert_eq!(other.join().is_ok(), values == [1, 2]);
}

fn a_timeout_goes_on_in_both() {
    let child = Cell::new(None);
    let elapsed = timeout(Duration::from_millis(10), || {
        child.set(raw_fork());
        sleep(Duration::from_secs(100));
    });
    assert!(elapsed.is_err());
    child.take().iter().for_each(Child::ends_well);
}

fn a_scope_ends_in_both() {
    let count = Cell::new(0);
    let child = scope(|s| {
        let parked = s.spawn(|| {
            park();
            count.set(count.get() + 1);
        });
        yield_now();
        let child = raw_fork();
        match &child {
            Some(_) => parked.handle().unpark(),
            None => assert!(parked.is_ready()),
        }
        s.spawn(|| {
            sleep(Duration::from_millis(1));
            count.set(count.get() + 1);
        });
        child
    });
    assert_eq!(count.get(), if child.is_some() { 2 } else { 1 });
    child.iter().for_each(Child::ends_well);
}

/// Holds up the only hub until the file is written to.
fn hold_up(hubs: &Hubs) -> std::os::unix::net::UnixStream {
    let (here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    drop(hubs.spawn(move || {
        tell.send(()).unwrap();
        there.read_exact(&mut [0]).unwrap();
    }));
    told.recv().unwrap();
    here
}

fn hubs_are_the_parents() {
    let hubs = Hubs::new(1).unwrap();
    let mut go_on = hold_up(&hubs);
    let unstarted = hubs.spawn(|| 1);
    let mut both = Some((hubs, unstarted));
    fork(|| {
        let (hubs, unstarted) = both.take().unwrap();
        for refused in [catch(|| drop(hubs.spawn(|| ()))), catch(|| hubs.run(|| ()))] {
            assert!(text(&refused.unwrap_err()).contains("a child has to make its own"));
        }
        unstarted.kill_nowait();
        assert!(text(&unstarted.join().unwrap_err()).contains("left behind in the parent process by a fork"));
        drop(hubs);
        let own = Hubs::new(2).unwrap();
        assert_eq!(own.spawn(|| 2).join().unwrap(), 2);
    })
    .ends_well();
    go_on.write_all(b"!").unwrap();
    assert_eq!(both.unwrap().1.join().unwrap(), 1);
}

fn a_hub_that_forks_starts_nothing_of_the_parents_in_the_child() {
    let count = Shared::new();
    let (own, outside) = (count.add(), count.add());
    let hubs = Hubs::new(1).unwrap();
    hubs.scope(|s| {
        let mut go_on = hold_up(&hubs);
        let forks = s.spawn(move || {
            let mut own = Some(hubs::spawn(own));
            fork(|| {
                (0..1000).for_each(|_| yield_now());
                sleep(Duration::from_millis(1));
                assert!(catch(|| hubs::spawn(|| ())).is_err());
                assert!(own.take().unwrap().join().is_err());
                do_everything();
            })
            .ends_well();
            own.unwrap().join().unwrap();
        });
        let outside = s.spawn(outside);
        go_on.write_all(b"!").unwrap();
        forks.join().unwrap();
        outside.join().unwrap();
    });
    assert_eq!(count.get(), 2);
}

fn a_scope_of_hubs_ends_in_both() {
    let hubs = Hubs::new(1).unwrap();
    let mut go_on = hold_up(&hubs);
    let (started, unstarted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let child = hubs.scope(|s| {
        s.spawn(|| started.fetch_add(1, Ordering::SeqCst));
        go_on.write_all(b"!").unwrap();
        while started.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(1));
        }
        go_on = hold_up(&hubs);
        s.spawn(|| unstarted.fetch_add(1, Ordering::SeqCst));
        let child = raw_fork();
        match &child {
            Some(_) => go_on.write_all(b"!").unwrap(),
            None => assert!(catch(|| drop(s.spawn(|| ()))).is_err()),
        }
        child
    });
    assert_eq!(unstarted.into_inner(), if child.is_some() { 1 } else { 0 });
    child.iter().for_each(Child::ends_well);
}

fn a_permit_is_not_lost_to_who_was_left_behind() {
    let semaphore = Rc::new(Semaphore::new(0));
    let waits = || {
        let semaphore = Rc::clone(&semaphore);
        spawn(move || std::mem::forget(semaphore.acquire()))
    };
    let first = waits();
    yield_now();
    fork(|| {
        let second = waits();
        yield_now();
        semaphore.release();
        second.join().unwrap();
    })
    .ends_well();
    semaphore.release();
    first.join().unwrap();
}

fn links_are_called_in_the_parent_only() {
    let count = Shared::new();
    let (one, another) = (spawn(park), Greenlet::new(count.add()));
    let add = count.add();
    one.link(move |_| add());
    yield_now();
    fork(|| {
        joinall([&one]);
        (0..100).for_each(|_| yield_now());
        // One that nobody had started yet can be started in both.
        another.start();
        joinall([&another]);
    })
    .ends_well();
    assert_eq!(count.get(), 1);
    one.handle().unpark();
    another.start();
    joinall([&one]);
    joinall([&another]);
    (0..100).for_each(|_| yield_now());
    assert_eq!(count.get(), 2);
}

fn what_waits_for_several_is_told_who_was_left_behind() {
    let others = [spawn(park), spawn(park)];
    let forking = spawn(|| raw_fork().inspect(Child::ends_well).is_none());
    let waitable: [&dyn Waitable; 3] = [&others[0], &forking, &others[1]];
    let is_child = || *forking.value().expect("it was waited for");
    assert_eq!(wait(waitable, Some(1), None).len(), 1);
    if forking.is_ready() && !is_child() {
        others.iter().for_each(|other| other.handle().unpark());
    }
    assert_eq!(wait(waitable, None, None).len(), 3);
}

fn signals_can_be_handled_in_the_child() {
    let parents = spawn(|| switchgrass::signal::wait(&[libc::SIGUSR1]));
    yield_now();
    let child = fork(|| {
        let mut signals = switchgrass::signal::Signals::new(&[libc::SIGUSR1]).unwrap();
        // SAFETY: raise takes a number.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(signals.wait().unwrap(), libc::SIGUSR1);
    });
    child.ends_well();
    yield_now();
    assert!(!parents.is_ready());
    signal(std::process::id() as libc::pid_t, libc::SIGUSR1);
    assert_eq!(parents.join().unwrap().unwrap(), libc::SIGUSR1);
}

// ---- Descriptors ------------------------------------------------------------------------------------------------------

fn the_child_has_none_of_the_parents_pollers() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (begun, begin) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        sleep(Duration::from_millis(1));
        begun.send(()).unwrap();
        let _ = stopped.recv();
    });
    begin.recv().unwrap();
    sleep(Duration::from_millis(1));
    assert_eq!((count_open("eventpoll"), count_open("eventfd")), (2, 2));
    fork(|| {
        assert_eq!((count_open("eventpoll"), count_open("eventfd")), (0, 0));
        sleep(Duration::from_millis(1));
        assert_eq!((count_open("eventpoll"), count_open("eventfd")), (1, 1));
    })
    .ends_well();
    drop(stop);
    other.join().unwrap();
}

fn what_the_child_does_to_a_socket_leaves_the_parents_registration_alone() {
    let (here, mut there) = UnixStream::pair().unwrap();
    // With a duplicate, so that closing it takes its registration back by hand.
    let _duplicate = here.try_clone().unwrap();
    register(&here);
    let before = registrations();
    let mut here = Some(here);
    fork(|| {
        register(here.as_ref().unwrap());
        drop(here.take());
        sleep(Duration::from_millis(1));
    })
    .ends_well();
    assert_eq!(registrations(), before);
    let reading = spawn(move || here.unwrap().read_exact(&mut [0]));
    yield_now();
    there.write_all(b"!").unwrap();
    reading.join().unwrap().unwrap();
}

fn what_the_parent_closes_wakes_it_no_more_though_the_child_has_it() {
    let (order, orders) = std::os::unix::net::UnixStream::pair().unwrap();
    let (here, _there) = UnixStream::pair().unwrap();
    register(&here);
    assert_eq!(registrations(), 2);
    let child = fork(move || {
        drop(order);
        let _ = (&orders).read(&mut [0]);
    });
    drop(here);
    // What is left is the hub's alarm.
    assert_eq!(registrations(), 1);
    child.ends_well();
}

fn a_socket_that_the_parent_waits_for_can_be_waited_for_in_the_child() {
    let (here, mut there) = UnixStream::pair().unwrap();
    let here = Rc::new(here);
    let reading = spawn({
        let here = Rc::clone(&here);
        move || (&*here).read_exact(&mut [0])
    });
    yield_now();
    fork(|| {
        register(&here);
        // And waited for by one at a time, there as well.
        let first = spawn({
            let here = Rc::clone(&here);
            move || (&*here).read(&mut [0]).map(drop)
        });
        yield_now();
        assert_eq!((&*here).read(&mut [0]).unwrap_err().kind(), ErrorKind::ResourceBusy);
        first.kill();
    })
    .ends_well();
    there.write_all(b"!").unwrap();
    reading.join().unwrap().unwrap();
}

// ---- What the child can do --------------------------------------------------------------------------------------------

fn the_child_can_do_everything() {
    do_everything();
    fork(do_everything).ends_well();
    do_everything();
}

fn a_child_of_a_child_can_do_everything() {
    do_everything();
    fork(|| {
        do_everything();
        let spawned = spawn(park);
        fork(|| {
            nothing_is_left();
            do_everything();
        })
        .ends_well();
        spawned.handle().unpark();
        spawned.join().unwrap();
    })
    .ends_well();
}

fn jobs_of_the_pool_are_the_parents() {
    let (give, take) = std::sync::mpsc::channel::<()>();
    let job = spawn(move || unblock(move || take.recv().is_ok()));
    yield_now();
    fork(|| {
        do_everything();
        nothing_is_left();
    })
    .ends_well();
    give.send(()).unwrap();
    assert!(job.join().unwrap());
}

/// Forks many times while threads do these things again and again: in some of the forks one of them has just a lock.
fn fork_while(work: &[fn(&Handle)], child: impl Fn(&Handle)) {
    let (stop, running) = (AtomicBool::new(false), AtomicUsize::new(0));
    let main = current();
    thread::scope(|s| {
        for work in work {
            s.spawn(|| {
                running.fetch_add(1, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    work(&main);
                    // Not faster than main can read its messages.
                    thread::park_timeout(Duration::from_micros(20));
                }
            });
        }
        while running.load(Ordering::Relaxed) < work.len() {
            std::hint::spin_loop();
        }
        for _ in 0..200 {
            fork(|| child(&main)).ends_well();
            park();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn with_other_threads_at_work_the_child_can_do_everything() {
    // Now, so that no thread is just being started when the process forks: that takes locks of std, which the child would find locked.
    unblock(|| ());
    let post: fn(&Handle) = Handle::unpark;
    fork_while(&[post, post, |_| unblock(|| ())], |main| {
        main.unpark();
        park();
        assert_eq!(spawn(|| 1).join().unwrap(), 1);
        sleep(Duration::ZERO);
        assert_eq!(unblock(|| 2), 2);
        thread_end();
    });
}

fn with_hubs_that_come_and_go_the_child_can_do_all_that_takes_no_thread() {
    let hub: fn(&Handle) = |_| thread::spawn(yield_now).join().unwrap();
    fork_while(&[hub, hub, Handle::unpark], |main| {
        main.unpark();
        park();
        assert_eq!(spawn(|| 1).join().unwrap(), 1);
        let (mut here, there) = UnixStream::pair().unwrap();
        let reading = spawn(move || (&there).read_exact(&mut [0]));
        yield_now();
        here.write_all(b"!").unwrap();
        reading.join().unwrap().unwrap();
    });
}

fn a_greenlet_of_a_thread_that_is_gone_is_not_waited_for() {
    let (give, take) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        give.send(spawn(park)).unwrap();
        yield_now();
        let _ = stopped.recv();
    });
    let mut theirs = Some(take.recv().unwrap());
    fork(|| {
        let theirs = theirs.take().unwrap();
        theirs.handle().unpark();
        theirs.kill_nowait();
        assert!(text(&theirs.join().unwrap_err()).contains("by a fork"));
    })
    .ends_well();
    drop(stop);
    other.join().unwrap();
    assert!(theirs.unwrap().join().is_err());
}

fn a_thread_without_a_hub_may_fork() {
    let waiting = spawn(park);
    yield_now();
    thread::spawn(|| fork(do_everything).ends_well()).join().unwrap();
    waiting.handle().unpark();
    waiting.join().unwrap();
}

fn a_server_serves_in_both() {
    let echo = |mut stream: TcpStream, _| {
        let mut byte = [0];
        let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
    };
    let ask = |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut byte = *b"?";
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
    };
    let server = StreamServer::bind("127.0.0.1:0", echo).unwrap();
    server.start();
    ask(server.local_addr());
    fork(|| {
        // The one that accepts was left behind, so the child gives it a new one.
        assert!(!server.is_accepting());
        server.start_accepting();
        let before = server.statistics().accepted;
        ask(server.local_addr());
        assert_eq!(server.statistics().accepted, before + 1);
        server.stop(Duration::ZERO);
    })
    .ends_well();
    ask(server.local_addr());
    server.stop(Duration::ZERO);
}

fn commands_can_be_run() {
    let waiting = spawn(park);
    yield_now();
    let mut command = Command::new("true");
    // SAFETY: it does nothing. It makes std fork, instead of posix_spawn.
    unsafe { command.pre_exec(|| Ok(())) };
    assert!(command.status().unwrap().success());
    waiting.handle().unpark();
    waiting.join().unwrap();
}

// ---- Prefork ----------------------------------------------------------------------------------------------------------

/// A parent of workers, in a process of its own, which must end with this.
fn prefork(
    prefork: Prefork,
    restarts: u64,
    killed: usize,
    work: impl Fn(Worker) -> std::io::Result<()>,
) -> Child {
    fork(move || {
        let done = prefork.run(work).unwrap();
        assert_eq!((done.restarts, done.killed), (restarts, killed));
    })
}

/// Serves one client at a time: tells it the process and how often it was restarted, and does as it is told.
fn serve(listener: &std::net::TcpListener, worker: Worker) -> std::io::Result<()> {
    let server = StreamServer::new(listener.try_clone()?, move |mut stream, _| {
        writeln!(stream, "{} {}", std::process::id(), worker.restarts()).unwrap();
        let mut order = [0];
        let _ = stream.read_exact(&mut order);
        match &order {
            b"x" => std::process::exit(3),
            b"a" => std::process::abort(),
            _ => {}
        }
    })?;
    // Without `Worker::serve`, so that SIGTERM ends the process.
    server.max_connections(1).max_accept(1).serve_forever()
}

/// A connection to a worker: its process, how often it was restarted, and the rest of the connection.
fn ask(listener: &std::net::TcpListener) -> (libc::pid_t, u32, std::net::TcpStream) {
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line).unwrap();
    let (pid, restarts) = line.trim().split_once(' ').unwrap();
    (pid.parse().unwrap(), restarts.parse().unwrap(), stream)
}

fn listen() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: kill has no pointers.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn prefork_has_several_processes_serve_one_listener() {
    let listener = listen();
    let parent = prefork(Prefork::new(3), 0, 0, |worker| serve(&listener, worker));
    let clients: Vec<_> = (0..3).map(|_| ask(&listener)).collect();
    let mut pids: Vec<_> = clients.iter().map(|(pid, ..)| *pid).collect();
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 3);
    assert!(!pids.contains(&parent.0));
    signal(parent.0, libc::SIGTERM);
    parent.ends_well();
    // And the workers have ended before.
    for (_, _, mut stream) in clients {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
}

fn prefork_starts_a_worker_again_that_has_died() {
    let listener = listen();
    let count = Shared::new();
    let prefork_of_one = Prefork::new(1).on_event({
        let add = count.there.try_clone().unwrap();
        move |event| {
            if let WorkerEvent::Ended { worker, status, restart, .. } = event {
                let code = status.unwrap().code();
                match (&add).write(b"+").map(|_| code) {
                    Ok(Some(3)) => {
                        assert_eq!(*restart, Some(Duration::from_millis(100 << worker.restarts())))
                    }
                    _ => assert_eq!(*restart, None),
                }
            }
        }
    });
    let parent = prefork(prefork_of_one, 2, 0, |worker| serve(&listener, worker));
    let mut pids = Vec::new();
    for died in 0..3 {
        let (pid, restarts, mut stream) = ask(&listener);
        assert_eq!(restarts, died);
        assert!(!pids.contains(&pid));
        pids.push(pid);
        if died < 2 {
            stream.write_all(b"x").unwrap();
        }
    }
    signal(parent.0, libc::SIGINT);
    parent.ends_well();
    assert_eq!(count.get(), 3);
}

fn prefork_starts_a_worker_again_that_was_killed_or_has_panicked() {
    let listener = listen();
    let parent = prefork(Prefork::new(1), 3, 0, |worker| {
        assert_ne!(worker.restarts(), 1, "the second one panics");
        serve(&listener, worker)
    });
    let (first, 0, _) = ask(&listener) else { panic!("it was not restarted yet") };
    signal(first, libc::SIGKILL);
    let (_, 2, mut stream) = ask(&listener) else { panic!("it was restarted twice") };
    stream.write_all(b"a").unwrap();
    let (_, 3, _) = ask(&listener) else { panic!("it was restarted three times") };
    signal(parent.0, libc::SIGTERM);
    parent.ends_well();
}

fn prefork_gives_up_a_worker_that_cannot_start() {
    let listener = listen();
    let parent = fork(|| {
        let start = Instant::now();
        let error = Prefork::new(2)
            .give_up_after(3)
            .run(|worker| match worker.index() {
                0 => serve(&listener, worker),
                _ => Err(std::io::Error::other("no luck")),
            })
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("worker 1 has died 3 times in a row"), "{text}");
        assert!(text.contains("exit status: 1"), "{text}");
        // After 100 and 200 ms.
        assert!(start.elapsed() >= Duration::from_millis(300));
        // The other one was stopped.
        // SAFETY: waitpid may get no place for the status.
        assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }, -1);
    });
    parent.ends_well();
}

fn prefork_ends_when_all_workers_are_done() {
    let count = Shared::new();
    let parent = prefork(Prefork::new(3), 0, 0, |_| {
        // Has a hub, and whoever has not ended is unwound.
        let _add = spawn({
            let add = Cell::new(Some(count.add()));
            move || {
                let _adds = OnDrop(move || (add.take().unwrap())());
                park();
            }
        });
        sleep(Duration::from_millis(1));
        Ok(())
    });
    parent.ends_well();
    assert_eq!(count.get(), 3);
}

fn prefork_gives_live_connections_time_to_end() {
    let listener = listen();
    let ended = Shared::new();
    let patient = Prefork::new(2).grace(Duration::from_secs(50)).on_event({
        let there = ended.there.try_clone().unwrap();
        move |event| {
            if let WorkerEvent::Ended { status, .. } = event {
                assert!(status.unwrap().success());
                (&there).write_all(b"+").unwrap();
            }
        }
    });
    let parent = prefork(patient, 0, 0, |worker| {
        let server = StreamServer::new(listener.try_clone()?, |stream, _| {
            let _ = std::io::copy(&mut &stream, &mut &stream);
        })?;
        worker.serve(&server.max_connections(1))
    });
    let talk = |mut stream: &std::net::TcpStream| {
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    let [one, other] =
        [(); 2].map(|()| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    talk(&one);
    talk(&other);
    signal(parent.0, libc::SIGTERM);
    // One worker ends when its connection does; the other one still serves then.
    drop(one);
    ended.here.set_nonblocking(false).unwrap();
    assert_eq!(ended.get(), 1);
    talk(&other);
    drop(other);
    parent.ends_well();
    assert_eq!(ended.get(), 1);
}

/// A worker that does not end by SIGTERM, and says when it is so far.
fn stubborn(ready: &std::os::unix::net::UnixStream) -> std::io::Result<()> {
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    (&*ready).write_all(b"!")?;
    sleep(Duration::from_secs(100));
    Ok(())
}

fn prefork_kills_after_the_grace_time() {
    let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let start = Instant::now();
    let grace = Duration::from_millis(50);
    let parent = prefork(Prefork::new(2).grace(grace), 0, 2, |_| stubborn(&there));
    here.read_exact(&mut [0; 2]).unwrap();
    signal(parent.0, libc::SIGTERM);
    parent.ends_well();
    assert!(start.elapsed() >= grace);
}

fn prefork_kills_at_once_when_told_twice() {
    let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let patient = Prefork::new(2).grace(Duration::MAX).on_event({
        let there = there.try_clone().unwrap();
        move |event| {
            if matches!(event, WorkerEvent::Ended { worker, .. } if worker.index() == 1) {
                (&there).write_all(b"!").unwrap();
            }
        }
    });
    let parent = prefork(patient, 0, 1, |worker| match worker.index() {
        0 => stubborn(&there),
        _ => {
            (&there).write_all(b"!")?;
            sleep(Duration::from_secs(100));
            Ok(())
        }
    });
    here.read_exact(&mut [0; 2]).unwrap();
    signal(parent.0, libc::SIGTERM);
    // The first signal has done its work when the worker has ended that obeys it.
    here.read_exact(&mut [0]).unwrap();
    signal(parent.0, libc::SIGTERM);
    parent.ends_well();
}

fn prefork_leaves_ctrl_c_to_the_parent() {
    let listener = listen();
    let parent = prefork(Prefork::new(1), 0, 0, |worker| serve(&listener, worker));
    let (pid, ..) = ask(&listener);
    signal(pid, libc::SIGINT);
    assert_eq!(ask(&listener).0, pid);
    signal(parent.0, libc::SIGINT);
    parent.ends_well();
}

fn prefork_takes_its_workers_along_when_it_is_killed() {
    let listener = listen();
    let parent = prefork(Prefork::new(1), 0, 0, |worker| serve(&listener, worker));
    let (_, _, mut stream) = ask(&listener);
    signal(parent.0, libc::SIGKILL);
    // The worker is gone, and its connection with it.
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}

fn prefork_refuses_a_process_with_other_threads() {
    unblock(|| ());
    let error = Prefork::new(1).run(|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("call Prefork::run first in main"), "{error}");
}

fn prefork_works_in_a_process_with_greenlets() {
    let count = Shared::new();
    let greenlet = spawn(count.add());
    sleep(Duration::ZERO);
    let queued = spawn(count.add());
    let done = Prefork::new(2)
        .run(|_| {
            nothing_is_left();
            sleep(Duration::from_millis(1));
            Ok(())
        })
        .unwrap();
    assert_eq!(done.restarts, 0);
    joinall([&greenlet, &queued]);
    assert_eq!(count.get(), 2);
}

// ---- Helpers ----------------------------------------------------------------------------------------------------------

/// A number that parents and children count up together: bytes in a pipe.
struct Shared {
    here: std::os::unix::net::UnixStream,
    there: std::os::unix::net::UnixStream,
}

impl Shared {
    fn new() -> Self {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        Shared { here, there }
    }

    fn add(&self) -> impl FnOnce() + use<> {
        let there = self.there.try_clone().unwrap();
        move || (&there).write_all(b"+").unwrap()
    }

    fn get(&self) -> usize {
        (&self.here).read(&mut [0; 100]).unwrap()
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

struct Child(libc::pid_t);

impl Child {
    /// Waits for its end, which blocks the thread.
    #[track_caller]
    fn ends_well(&self) {
        let mut status = 0;
        // SAFETY: waitpid writes into a valid int.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        assert_eq!(status, 0, "how the child ended");
    }
}

/// `None` in the child.
fn raw_fork() -> Option<Child> {
    // SAFETY: what the child does is what these tests are about.
    match unsafe { libc::fork() } {
        -1 => panic!("fork failed"),
        0 => {
            // An alarm is the parent's only.
            // SAFETY: alarm takes a number.
            unsafe { libc::alarm(30) };
            None
        }
        pid => Some(Child(pid)),
    }
}

/// A child that does this, and ends.
fn fork(child: impl FnOnce()) -> Child {
    raw_fork().unwrap_or_else(|| {
        let result = catch(child);
        // SAFETY: ends the process as it is.
        unsafe { libc::_exit(if result.is_ok() { 0 } else { 1 }) }
    })
}

/// Nobody but the current one can ever run.
fn nothing_is_left() {
    assert_eq!(testing::live(), 0);
    assert!(catch_deadlock(park).is_err());
}

fn catch_deadlock(f: impl FnOnce()) -> Result<(), Box<dyn Any + Send>> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch(f);
    std::panic::set_hook(hook);
    result
}

/// Hubs of other threads come and go.
fn thread_end() {
    thread::spawn(|| {
        spawn(|| sleep(Duration::ZERO)).join().unwrap();
        drop(spawn(park));
        yield_now();
    })
    .join()
    .unwrap();
}

/// Greenlets, timers, sockets, the pool, other threads.
fn do_everything() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let greenlets: Vec<_> = [3, 1, 2]
        .map(|n| {
            let log = Rc::clone(&log);
            spawn(move || {
                sleep(Duration::from_millis(n * 5));
                log.borrow_mut().push(n);
            })
        })
        .into();
    joinall(&greenlets);
    assert_eq!(*log.borrow(), [1, 2, 3]);
    assert_eq!(unblock(|| 5), 5);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap()
    });
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
    assert_eq!(accepting.join().unwrap(), 5);

    let main = current();
    let other = thread::spawn(move || {
        let greenlet = spawn(|| 7);
        main.unpark();
        greenlet
    });
    park();
    // The thread may have ended before the greenlet has run.
    let _ = other.join().unwrap().join();
    assert!(timeout(Duration::from_millis(1), || sleep(Duration::from_secs(100))).is_err());
}

/// Has the socket registered with the poller.
fn register(socket: &UnixStream) {
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert_eq!((&*socket).read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    socket.set_read_timeout(None).unwrap();
}

fn open_files() -> Vec<(String, String)> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap());
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().into_string().unwrap(), target.to_string_lossy().into_owned()))
        })
        .collect()
}

fn count_open(kind: &str) -> usize {
    open_files().iter().filter(|(_, target)| target.contains(kind)).count()
}

/// How many descriptors the one poller of the process watches, its alarm among them.
fn registrations() -> usize {
    let files = open_files();
    let (fd, _) = files.iter().find(|(_, target)| target.contains("eventpoll")).unwrap();
    fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap().matches("tfd:").count()
}
