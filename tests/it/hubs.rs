//! Hubs that share unstarted greenlets.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::panic::{panic_any, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use switchgrass::hubs::{self, Hubs};
use switchgrass::net::{TcpListener, TcpStream, UdpSocket};
use switchgrass::server::{DatagramServer, Spread, StreamServer};
use switchgrass::sync::Event;
use switchgrass::{Builder, Coroutine, Greenlet, GreenletExit, joinall, spawn, timeout, yield_now};

use crate::util::{Drops, catch, in_child, time_limit};

fn here() -> ThreadId {
    thread::current().id()
}

/// Holds up one hub, which is told which one, until the sender is dropped.
fn hold_up(hubs: &Hubs) -> (mpsc::Sender<()>, ThreadId) {
    let (go_on, told) = mpsc::channel::<()>();
    let (tell, thread) = mpsc::channel();
    drop(hubs.spawn(move || {
        tell.send(here()).unwrap();
        // Blocks the OS thread, as a computation would.
        let _ = told.recv();
    }));
    (go_on, thread.recv().unwrap())
}

#[test]
fn results_come_back_from_other_threads() {
    let hubs = Hubs::new(2).unwrap();
    let greenlets: Vec<_> = (0..1000).map(|n| hubs.spawn(move || (n, here()))).collect();
    let mut threads = HashSet::new();
    for (expected, greenlet) in greenlets.into_iter().enumerate() {
        let (n, thread) = greenlet.join().unwrap();
        assert_eq!(n, expected);
        threads.insert(thread);
    }
    assert!(!threads.contains(&here()));
    assert!(threads.len() <= 2);
}

#[test]
fn there_are_as_many_hubs_as_asked_for_or_as_cores() {
    assert_eq!(Hubs::new(3).unwrap().count(), 3);
    assert_eq!(Hubs::default().count(), thread::available_parallelism().unwrap().get());
    assert_eq!(Hubs::new(0).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_greenlet_has_its_name_and_its_panic_is_its_result() {
    let hubs = Hubs::new(1).unwrap();
    let greenlet = hubs.spawn_with(Builder::new().name("worker"), || panic_any(7_u8)).unwrap();
    assert_eq!(greenlet.name(), Some("worker"));
    assert_eq!(*greenlet.join().unwrap_err().downcast::<u8>().unwrap(), 7);
    // The hub goes on.
    assert_eq!(hubs.run(|| 8), 8);
}

/// Both run at once, or neither would get past the barrier.
#[test]
fn greenlets_that_block_their_threads_run_at_the_same_time() {
    let hubs = Hubs::new(2).unwrap();
    let barrier = Arc::new(Barrier::new(2));
    let both: Vec<_> = (0..2)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            hubs.spawn(move || barrier.wait().is_leader())
        })
        .collect();
    assert_eq!(
        both.into_iter().filter(|_| true).map(|one| one.join().unwrap()).filter(|&one| one).count(),
        1
    );
}

#[test]
fn the_unstarted_work_of_a_hub_that_is_stuck_is_stolen() {
    let hubs = Hubs::new(2).unwrap();
    hubs.run(|| {
        let stuck = here();
        let greenlets: Vec<_> = (0..100).map(|_| hubs::spawn(here)).collect();
        // This hub runs nothing else before they have ended: so the other one has started all of them.
        while !greenlets.iter().all(|greenlet| greenlet.is_ready()) {
            std::hint::spin_loop();
        }
        assert!(greenlets.into_iter().all(|greenlet| greenlet.join().unwrap() != stuck));
    });
}

#[test]
fn what_is_injected_goes_to_the_hub_that_is_not_stuck() {
    let hubs = Hubs::new(2).unwrap();
    let (go_on, stuck) = hold_up(&hubs);
    let greenlets: Vec<_> = (0..100).map(|_| hubs.spawn(here)).collect();
    assert!(greenlets.into_iter().all(|greenlet| greenlet.join().unwrap() != stuck));
    drop(go_on);
}

#[test]
fn a_started_one_stays_on_its_thread() {
    let hubs = Hubs::new(2).unwrap();
    let greenlets: Vec<_> = (0..100)
        .map(|_| {
            hubs.spawn(|| {
                let (thread, local) = (here(), Rc::new(1));
                for _ in 0..20 {
                    yield_now();
                    hubs::spawn(|| ()).join().unwrap();
                }
                assert_eq!(here(), thread);
                *local
            })
        })
        .collect();
    joinall(&greenlets);
    assert_eq!(greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).sum::<i32>(), 100);
}

#[test]
fn greenlets_that_yield_all_the_time_keep_none_from_starting() {
    let hubs = Hubs::new(1).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = {
        let stop = Arc::clone(&stop);
        hubs.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                yield_now();
            }
        })
    };
    assert_eq!(hubs.spawn(|| 5).join().unwrap(), 5);
    assert_eq!(hubs.run(|| hubs::spawn(|| 6).join().unwrap()), 6);
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
}

#[test]
fn greenlets_that_spawn_the_next_one_all_the_time_keep_no_ready_one_from_running() {
    fn chain(told: Arc<Event>, stop: Arc<AtomicBool>) {
        told.set();
        if !stop.load(Ordering::Relaxed) {
            drop(hubs::spawn(move || chain(told, stop)));
        }
    }
    let hubs = Hubs::new(1).unwrap();
    hubs.run(|| {
        let (told, stop) = (Arc::new(Event::new()), Arc::new(AtomicBool::new(false)));
        chain(Arc::clone(&told), Arc::clone(&stop));
        for _ in 0..100 {
            told.clear();
            // Until it is told nobody is ready, and after that the hub goes on to start one after the other.
            assert!(told.wait());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Nobody runs between a greenlet that unwinds and the coroutine that it has unwound on its way.
#[test]
fn none_starts_while_another_one_unwinds() {
    let hubs = Hubs::new(1).unwrap();
    let are_panicking = hubs.run(|| {
        // More than the hub starts in a row.
        let pairs: Vec<_> = (0..100)
            .map(|_| {
                let unwinds: Greenlet<()> = hubs::spawn(|| {
                    let _coroutine = Coroutine::new(|n: i32| n);
                    resume_unwind(Box::new(1));
                });
                (unwinds, hubs::spawn(thread::panicking))
            })
            .collect();
        let of_pair = |(unwinds, next): (Greenlet<()>, Greenlet<bool>)| {
            unwinds.join().unwrap_err();
            next.join().unwrap()
        };
        pairs.into_iter().map(of_pair).filter(|&panicking| panicking).count()
    });
    assert_eq!(are_panicking, 0);
}

#[test]
fn none_starts_while_a_coroutine_is_dropped() {
    let hubs = Hubs::new(1).unwrap();
    let started_early = hubs.run(|| {
        let drops_and_looks = |_| {
            let started = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&started);
            let looks = hubs::spawn(move || {
                drop(Coroutine::new(|n: i32| n));
                seen.load(Ordering::Relaxed)
            });
            drop(hubs::spawn(move || started.store(true, Ordering::Relaxed)));
            looks
        };
        // More than the hub starts in a row.
        let greenlets: Vec<_> = (0..100).map(drops_and_looks).collect();
        greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).filter(|&early| early).count()
    });
    assert_eq!(started_early, 0);
}

#[test]
fn one_hub_starts_them_in_the_order_in_which_they_were_spawned() {
    let hubs = Hubs::new(1).unwrap();
    let order = hubs.run(|| {
        let order = Arc::new(switchgrass::sync::Mutex::new(Vec::new()));
        let greenlets: Vec<_> = (0..200)
            .map(|n| {
                let order = Arc::clone(&order);
                hubs::spawn(move || order.lock().unwrap().push(n))
            })
            .collect();
        joinall(&greenlets);
        std::mem::take(&mut *order.lock().unwrap())
    });
    assert_eq!(order, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_detached_one_runs() {
    let hubs = Hubs::new(1).unwrap();
    let ran = Arc::new(Event::new());
    let tell = Arc::clone(&ran);
    drop(hubs.spawn(move || tell.set()));
    assert!(ran.wait());
}

#[test]
fn one_that_is_killed_before_it_starts_never_runs() {
    let hubs = Hubs::new(1).unwrap();
    let drops = Drops::new();
    let (go_on, _) = hold_up(&hubs);
    let guard = drops.guard();
    let greenlet = hubs.spawn(move || {
        let _guard = guard;
        panic!("it runs");
    });
    greenlet.kill_nowait();
    greenlet.kill_nowait();
    assert!(!greenlet.is_ready());
    drop(go_on);
    let error = greenlet.join().map(|never: ()| never).unwrap_err();
    assert!(error.is::<GreenletExit>());
    assert_eq!(drops.count(), 1);
}

#[test]
fn one_that_runs_elsewhere_can_be_killed_linked_and_awaited() {
    let hubs = Hubs::new(2).unwrap();
    let started = Arc::new(Event::new());
    let tell = Arc::clone(&started);
    let waits = hubs.spawn(move || {
        tell.set();
        Event::new().wait()
    });
    started.wait();
    let linked = Rc::new(Event::new());
    let to = Rc::clone(&linked);
    // On this thread, with what is not Send.
    waits.link(move |_| to.set());
    waits.kill();
    assert!(waits.join().unwrap_err().is::<GreenletExit>());
    assert!(linked.wait());
    assert_eq!(switchgrass::block_on(async { hubs.spawn(|| 9).await.unwrap() }), 9);
}

#[test]
fn a_timeout_gives_the_greenlet_back() {
    let hubs = Hubs::new(1).unwrap();
    let (go_on, _) = hold_up(&hubs);
    let greenlet = hubs.spawn(|| 1).join_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(timeout(Duration::from_millis(1), || greenlet.join()).is_err());
    drop(go_on);
}

#[test]
fn a_broadcast_runs_once_on_each_hub() {
    let hubs = Hubs::new(3).unwrap();
    let greenlets = hubs.broadcast(|index| (index, here()));
    let results: Vec<_> = greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).collect();
    assert!(results.iter().map(|(index, _)| *index).eq(0..3));
    assert_eq!(results.into_iter().map(|(_, thread)| thread).collect::<HashSet<_>>().len(), 3);
}

// ---- Servers --------------------------------------------------------------------------------------------------------

/// Tells each client on which thread it is served, and then what it says, in capitals.
fn shouting(hubs: &Hubs) -> Spread<TcpListener> {
    StreamServer::spread(hubs, TcpListener::bind("127.0.0.1:0").unwrap(), |listener| {
        // Of one hub: neither Send nor Sync.
        let served = Rc::new(Cell::new(0));
        StreamServer::new(listener, move |mut stream, _| {
            served.set(served.get() + 1);
            writeln!(stream, "{:?}", here()).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(line)) = lines.next() {
                writeln!(stream, "{}", line.to_ascii_uppercase()).unwrap();
            }
        })
    })
    .unwrap()
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// And the thread that serves it.
    fn connect(server: &Spread<TcpListener>) -> (Client, String) {
        let mut client = Client(BufReader::new(TcpStream::connect(server.local_addr()).unwrap()));
        let thread = client.line();
        (client, thread)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.0.get_mut(), "{line}").unwrap();
        self.line()
    }
}

#[test]
fn a_hub_that_is_kept_busy_leaves_accepting_to_the_others() {
    let hubs = Hubs::new(2).unwrap();
    let server = shouting(&hubs);
    let (go_on, stuck) = hold_up(&hubs);
    let clients: Vec<_> = (0..50).map(|_| Client::connect(&server)).collect();
    let free = clients[0].1.clone();
    assert_ne!(free, format!("{stuck:?}"));
    assert!(clients.iter().all(|(_, thread)| *thread == free));
    drop(go_on);
    // Now the other one is held up.
    let (go_on, told) = mpsc::channel::<()>();
    let (tell, held) = mpsc::channel();
    let (told, other) = (Mutex::new(told), free.clone());
    hubs.broadcast(move |_| {
        if format!("{:?}", here()) == other {
            tell.send(()).unwrap();
            let _ = told.lock().unwrap().recv();
        }
    });
    held.recv().unwrap();
    let more: Vec<_> = (0..50).map(|_| Client::connect(&server)).collect();
    assert!(more.iter().all(|(_, thread)| *thread == format!("{stuck:?}")));
    drop(go_on);
    // All are served still, each where it was accepted.
    for (mut client, _) in clients.into_iter().chain(more) {
        assert_eq!(client.ask("here"), "HERE");
    }
}

#[test]
fn stopping_a_spread_server_ends_it_on_all_hubs() {
    let hubs = Hubs::new(2).unwrap();
    let server = shouting(&hubs);
    let clients: Vec<_> = (0..10).map(|_| Client::connect(&server)).collect();
    let stopped = server.stop(Duration::ZERO);
    assert_eq!(stopped.finished + stopped.killed, 10);
    assert!(TcpStream::connect(server.local_addr()).is_err());
    for (mut client, _) in clients {
        assert_eq!(client.line(), "");
    }
    server.wait().unwrap();
}

#[test]
fn dropping_a_spread_server_closes_the_listener_and_leaves_connections() {
    let hubs = Hubs::new(2).unwrap();
    let server = shouting(&hubs);
    let (mut client, _) = Client::connect(&server);
    let address = server.local_addr();
    drop(server);
    while TcpStream::connect(address).is_ok() {
        yield_now();
    }
    assert_eq!(client.ask("still here"), "STILL HERE");
}

#[test]
fn a_spread_server_that_cannot_be_made_says_why() {
    let hubs = Hubs::new(2).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let error =
        StreamServer::spread(&hubs, listener, |_| Err(std::io::Error::other("not today"))).unwrap_err();
    assert_eq!(error.to_string(), "not today");
    while TcpStream::connect(address).is_ok() {
        yield_now();
    }
}

#[test]
fn datagrams_are_received_by_a_hub_that_is_free() {
    let hubs = Hubs::new(2).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = DatagramServer::spread(&hubs, socket, |socket| {
        DatagramServer::new(socket, |data, peer, socket| {
            socket.send_to(format!("{:?} {data:?}", here()).as_bytes(), peer).unwrap();
        })
    })
    .unwrap();
    let (go_on, stuck) = hold_up(&hubs);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..20_u8 {
        client.send_to(&[n], server.local_addr()).unwrap();
        let mut answer = [0; 64];
        let (len, _) = client.recv_from(&mut answer).unwrap();
        let answer = String::from_utf8(answer[..len].to_vec()).unwrap();
        assert!(answer.ends_with(&format!(" [{n}]")), "{answer}");
        assert!(!answer.starts_with(&format!("{stuck:?}")), "{answer}");
    }
    drop(go_on);
}

// ---- The end --------------------------------------------------------------------------------------------------------

#[test]
fn a_drop_unwinds_what_runs_on_its_thread_and_ends_what_has_not_started() {
    let drops = Drops::new();
    let hubs = Hubs::new(2).unwrap();
    let (tell, told) = mpsc::channel();
    for _ in 0..4 {
        let (guard, tell) = (drops.guard(), tell.clone());
        drop(hubs.spawn(move || {
            let thread = here();
            struct SameThread(ThreadId);
            impl Drop for SameThread {
                fn drop(&mut self) {
                    assert_eq!(here(), self.0);
                }
            }
            let (_guard, _same) = (guard, SameThread(thread));
            tell.send(()).unwrap();
            Event::new().wait();
        }));
    }
    (0..4).for_each(|_| told.recv().unwrap());
    let (first, _) = hold_up(&hubs);
    let (second, _) = hold_up(&hubs);
    let unstarted: Vec<_> = (0..10)
        .map(|_| {
            let guard = drops.guard();
            hubs.spawn(move || drop(guard))
        })
        .collect();
    let ends = thread::spawn(move || drop(hubs));
    drop((first, second));
    ends.join().unwrap();
    // They were started after all, or are ended as killed: but ended they are.
    assert!(unstarted.iter().all(|greenlet| greenlet.is_ready()));
    assert_eq!(drops.count(), 14);
}

#[test]
fn a_destructor_at_the_end_may_still_spawn() {
    let ran = Arc::new(AtomicUsize::new(0));
    let hubs = Hubs::new(1).unwrap();
    struct Spawns(Arc<AtomicUsize>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let counts = Counts(Arc::clone(&self.0));
            // Killed before it runs, at the latest; what it has is dropped.
            drop(hubs::spawn(move || drop(counts)));
        }
    }
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let started = Arc::new(Event::new());
    let (tell, spawns) = (Arc::clone(&started), Spawns(Arc::clone(&ran)));
    drop(hubs.spawn(move || {
        let _spawns = spawns;
        tell.set();
        Event::new().wait();
    }));
    started.wait();
    hubs.shutdown();
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[test]
fn the_last_handle_of_hubs_may_go_on_one_of_them() {
    let hubs = Arc::new(Hubs::new(2).unwrap());
    let copy = Arc::clone(&hubs);
    let (tell, told) = mpsc::channel();
    let (go_on, waits) = mpsc::channel::<()>();
    drop(hubs.spawn(move || {
        let _ = waits.recv();
        drop(copy);
        tell.send(()).unwrap();
    }));
    drop(hubs);
    drop(go_on);
    told.recv().unwrap();
}

#[test]
fn spawn_outside_of_hubs_says_what_to_do() {
    let message = *catch(|| hubs::spawn(|| ()))
        .unwrap_err()
        .downcast::<String>()
        .unwrap_or_else(|payload| Box::new((*payload.downcast::<&str>().unwrap()).to_owned()));
    assert!(message.contains("Hubs::spawn"), "{message}");
}

// ---- Scopes ---------------------------------------------------------------------------------------------------------

#[test]
fn scoped_ones_borrow_and_spawn_more() {
    let hubs = Hubs::new(2).unwrap();
    let count = AtomicUsize::new(0);
    hubs.scope(|s| {
        for _ in 0..50 {
            s.spawn(|| {
                s.spawn(|| count.fetch_add(1, Ordering::Relaxed));
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(count.into_inner(), 100);
}

#[test]
fn a_scope_panics_if_one_of_its_greenlets_did_that_nobody_joined() {
    let hubs = Hubs::new(2).unwrap();
    assert!(catch(|| hubs.scope(|s| drop(s.spawn(|| panic_any(1_u8))))).is_err());
    assert!(catch(|| hubs.scope(|s| s.spawn(|| panic_any(1_u8)).join().is_err())).unwrap());
    assert_eq!(*catch(|| hubs.run(|| panic_any(2_u8))).unwrap_err().downcast::<u8>().unwrap(), 2);
}

#[test]
fn a_scope_that_is_killed_ends_its_greenlets_first() {
    let hubs = Arc::new(Hubs::new(2).unwrap());
    let drops = Drops::new();
    let started = Arc::new(Event::new());
    let scoped = {
        let (hubs, drops, started) = (Arc::clone(&hubs), drops.clone(), Arc::clone(&started));
        spawn(move || {
            hubs.scope(|s| {
                s.spawn(|| {
                    let _guard = drops.guard();
                    started.set();
                    Event::new().wait();
                });
            });
        })
    };
    started.wait();
    scoped.kill();
    assert_eq!(drops.count(), 1);
    assert!(scoped.join().unwrap_err().is::<GreenletExit>());
}

#[test]
fn run_borrows_and_gives_the_result() {
    let hubs = Hubs::new(1).unwrap();
    let text = String::from("borrowed");
    assert_eq!(hubs.run(|| text.len()), 8);
}

// ---- Corners --------------------------------------------------------------------------------------------------------

/// While runs are recorded the loop is another one.
#[test]
fn a_hub_steals_while_it_is_recorded() {
    in_child("hubs::a_hub_steals_while_it_is_recorded", || {
        time_limit();
        let hubs = Hubs::new(2).unwrap();
        switchgrass::trace::start(1000);
        hubs.run(|| {
            let stuck = here();
            let greenlets: Vec<_> = (0..100).map(|_| hubs::spawn(here)).collect();
            while !greenlets.iter().all(|greenlet| greenlet.is_ready()) {
                std::hint::spin_loop();
            }
            assert!(greenlets.into_iter().all(|greenlet| greenlet.join().unwrap() != stuck));
        });
        let trace = switchgrass::trace::stop();
        let seen: HashSet<_> = trace.tasks().iter().map(|task| task.hub).collect();
        assert!(seen.len() <= 3, "{seen:?}");
    });
}

/// The second exit is dropped by the hub that takes the greenlet, in its loop.
#[test]
fn what_an_unstarted_one_was_killed_with_cannot_wait_when_it_is_dropped() {
    struct Waits(mpsc::Sender<bool>);
    impl Drop for Waits {
        fn drop(&mut self) {
            self.0.send(catch(yield_now).is_err()).unwrap();
        }
    }
    in_child("hubs::what_an_unstarted_one_was_killed_with_cannot_wait_when_it_is_dropped", || {
        time_limit();
        let hubs = Hubs::new(1).unwrap();
        let (tell, refused) = mpsc::channel();
        hubs.run(|| {
            let greenlet = hubs::spawn(|| ());
            greenlet.kill_nowait();
            greenlet.kill_nowait_with(Waits(tell));
            assert!(greenlet.join().unwrap_err().is::<GreenletExit>());
        });
        assert!(refused.recv().unwrap());
    });
}

#[test]
fn hubs_that_are_dropped_in_the_event_loop_end() {
    in_child("hubs::hubs_that_are_dropped_in_the_event_loop_end", || {
        time_limit();
        let drops = Drops::new();
        let hubs = Hubs::new(2).unwrap();
        waits_with(&hubs, drops.guard());
        let one = spawn(|| ());
        one.rawlink(move || drop(hubs));
        one.join().unwrap();
        assert_eq!(drops.count(), 1);
    });
}

/// What a greenlet was to run with, which is killed before, at the end of its thread.
#[test]
fn hubs_that_are_dropped_when_their_thread_ends_end() {
    let drops = Drops::new();
    let guard = drops.guard();
    thread::spawn(move || {
        let hubs = Hubs::new(2).unwrap();
        waits_with(&hubs, guard);
        drop(spawn(move || drop(hubs)));
    })
    .join()
    .unwrap();
    assert_eq!(drops.count(), 1);
}

/// A greenlet of these hubs that never ends by itself, and has begun to wait. To unwind it takes a while.
#[expect(clippy::disallowed_methods, reason = "it takes its thread's time")]
fn waits_with(hubs: &Hubs, guard: crate::util::DropGuard) {
    let (tell, told) = mpsc::channel();
    drop(hubs.spawn(move || {
        let _guard = guard;
        let _slow = crate::util::OnDrop(|| thread::sleep(Duration::from_millis(20)));
        tell.send(()).unwrap();
        Event::new().wait();
    }));
    told.recv().unwrap();
}

/// In a raw link, `current` is the thread's own context.
#[test]
fn a_hub_whose_own_context_is_killed_goes_on() {
    in_child("hubs::a_hub_whose_own_context_is_killed_goes_on", || {
        time_limit();
        let hubs = Hubs::new(1).unwrap();
        hubs.run(|| {
            let one = hubs::spawn(|| ());
            one.rawlink(|| switchgrass::current().kill_nowait());
            one.join().unwrap();
        });
        assert_eq!(hubs.spawn(|| 7).join().unwrap(), 7);
    });
}

#[test]
fn what_was_sent_to_a_hub_that_ends_at_once_ends_too() {
    in_child("hubs::what_was_sent_to_a_hub_that_ends_at_once_ends_too", || {
        time_limit();
        let drops = Drops::new();
        for _ in 0..300 {
            let hubs = Hubs::new(2).unwrap();
            let guard = drops.guard();
            let greenlets = hubs.broadcast(move |_| _ = &guard);
            drop(hubs);
            joinall(&greenlets);
        }
        assert_eq!(drops.count(), drops.made());
    });
}
