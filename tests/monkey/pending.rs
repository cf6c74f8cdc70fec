//! Kills and timeouts of greenlets in calls of libc's: nothing unwinds through those.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use switchgrass::monkey::no_switch;
use switchgrass::{ExitReason, Greenlet, joinall, spawn, timeout};

use crate::util::{in_greenlet, let_all_run, patched, tcp_pair};

/// What a call has failed with.
type Errors = Rc<RefCell<Vec<Option<i32>>>>;

fn is_killed(greenlet: &Greenlet<()>) -> bool {
    matches!(greenlet.exit_reason(), Some(ExitReason::Killed))
}

#[test]
fn a_greenlet_that_is_killed_in_recv_is_told_and_unwinds_in_a_wait_of_ours() {
    patched();
    let errors = Errors::default();
    let (one, other) = tcp_pair();
    let dropped = Rc::new(Cell::new(false));
    let greenlet = spawn({
        let (errors, dropped) = (Rc::clone(&errors), Rc::clone(&dropped));
        move || {
            struct OnDrop(Rc<Cell<bool>>);
            impl Drop for OnDrop {
                fn drop(&mut self) {
                    self.0.set(true);
                }
            }
            let _dropped = OnDrop(dropped);
            let note = |error: Option<i32>| errors.borrow_mut().push(error);
            note((&one).read(&mut [0]).unwrap_err().raw_os_error());
            // Not even what would not wait.
            note((&one).read(&mut [0]).unwrap_err().raw_os_error());
            note((&one).write(&[0]).unwrap_err().raw_os_error());
            note(one.peek(&mut [0]).unwrap_err().raw_os_error());
            note(TcpStream::connect(one.local_addr().unwrap()).unwrap_err().raw_os_error());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            note(listener.accept().unwrap_err().raw_os_error());
            // SAFETY: no descriptors.
            unsafe {
                assert_eq!(libc::poll(std::ptr::null_mut(), 0, -1), -1);
                note(std::io::Error::last_os_error().raw_os_error());
            }
            let start = Instant::now();
            std::thread::sleep(Duration::from_secs(1000));
            assert!(start.elapsed() < Duration::from_secs(100), "a sleep is over at once");
            switchgrass::sleep(Duration::from_secs(1000));
            unreachable!("it unwinds");
        }
    });
    let_all_run();
    greenlet.kill();
    assert!(is_killed(&greenlet), "{:?}", greenlet.exit_reason());
    assert!(dropped.get());
    assert_eq!(*errors.borrow(), [Some(libc::ECANCELED); 7]);
    // Nothing was written.
    other.set_nonblocking(true).unwrap();
    assert_eq!((&other).read(&mut [0; 2]).unwrap(), 0);
}

/// Code that gives up at the first error ends by itself, and nothing has to unwind.
#[test]
fn a_greenlet_that_gives_up_ends_with_its_own_value() {
    patched();
    let (one, _other) = UnixStream::pair().unwrap();
    let greenlet = spawn(move || (&one).read_to_end(&mut Vec::new()).unwrap_err().raw_os_error());
    let_all_run();
    greenlet.kill_nowait();
    assert_eq!(greenlet.join().unwrap(), Some(libc::ECANCELED));
}

#[test]
fn every_kind_of_wait_ends_by_a_kill() {
    patched();
    let (one, _keeps) = UnixStream::pair().unwrap();
    let (two, _keeps_too) = UnixStream::pair().unwrap();
    two.set_nonblocking(true).unwrap();
    while (&two).write(&[0; 4096]).is_ok() {}
    two.set_nonblocking(false).unwrap();
    let (pipe, _to) = std::io::pipe().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let poll = |count: usize| {
        let mut fds = [libc::pollfd { fd: 0, events: 0, revents: 0 }; 2];
        fds[..count].fill(libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 });
        // SAFETY: so many entries.
        match unsafe { libc::poll(fds.as_mut_ptr(), count as u64, -1) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(0),
        }
    };
    let result = |result: i64| match result {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(0),
    };
    let (three, _keeps_this) = UnixStream::pair().unwrap();
    let (from, _to_keep) = std::io::pipe().unwrap();
    let (_from_keep, to) = std::io::pipe().unwrap();
    let (full, _keeps_full) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while (&full).write(&[0; 4096]).is_ok() {}
    full.set_nonblocking(false).unwrap();
    let (silent, _full_queue) = crate::std_net::silent();
    let waits: Vec<Box<dyn FnOnce() -> std::io::Result<usize>>> = vec![
        Box::new(move || TcpStream::connect(silent).map(|_| 0)),
        Box::new(move || {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: takes a number; the result is ours.
            let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
            // SAFETY: room for one event.
            result(unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, -1) }.into())
        }),
        Box::new(move || {
            let null = std::ptr::null_mut();
            // SAFETY: no sets.
            result(unsafe { libc::select(0, null, null, null, std::ptr::null_mut()) }.into())
        }),
        Box::new(move || {
            // SAFETY: a message of zeros has no room for anything.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            result(unsafe { libc::recvmsg(three.as_raw_fd(), &mut message, 0) } as i64)
        }),
        Box::new(move || {
            let file = std::fs::File::open("/proc/self/exe").unwrap();
            let null = std::ptr::null_mut();
            // SAFETY: takes numbers.
            result(unsafe { libc::sendfile(full.as_raw_fd(), file.as_raw_fd(), null, 9) } as i64)
        }),
        Box::new(move || {
            let null = std::ptr::null_mut();
            // SAFETY: takes numbers.
            result(unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, 9, 0) } as i64)
        }),
        Box::new(move || (&one).read(&mut [0])),
        Box::new(move || (&two).write(&[0])),
        Box::new(move || (&pipe).read(&mut [0])),
        Box::new(move || listener.accept().map(|_| 0)),
        Box::new(move || poll(0)),
        Box::new(move || poll(2)),
    ];
    for (number, wait) in waits.into_iter().enumerate() {
        let greenlet = spawn(move || wait().map_err(|error| error.raw_os_error()));
        let_all_run();
        assert!(!greenlet.is_ready(), "{number} waits");
        greenlet.kill_nowait();
        assert_eq!(greenlet.join().unwrap(), Err(Some(libc::ECANCELED)), "{number}");
    }
}

#[test]
fn a_write_that_is_killed_tells_what_is_through() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let greenlet = spawn(move || {
        let first = (&one).write(&[7; 1 << 22]).unwrap();
        (first, (&one).write(&[7]).unwrap_err().raw_os_error())
    });
    let_all_run();
    greenlet.kill_nowait();
    let (written, then) = greenlet.join().unwrap();
    assert_eq!(then, Some(libc::ECANCELED));
    let mut all = Vec::new();
    other.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), written);
    assert!(written > 0 && written < 1 << 22);
}

/// Code that takes any error for one that goes away, as servers do when they accept, tries again for as long as it is killed.
#[test]
fn a_killed_greenlet_that_tries_again_and_again_lets_others_run() {
    patched();
    let (one, _keeps) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tries: Vec<Box<dyn Fn()>> = vec![
        Box::new(move || drop(listener.accept())),
        Box::new(move || drop((&one).read(&mut [0]))),
        Box::new(|| std::thread::sleep(Duration::from_secs(1000))),
        Box::new(|| {
            // SAFETY: no descriptors.
            unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
        }),
        Box::new(|| {
            // SAFETY: a place for the result is not wanted.
            unsafe { libc::waitpid(std::process::id() as i32, std::ptr::null_mut(), 0) };
            std::thread::sleep(Duration::from_secs(1000));
        }),
        Box::new(|| drop(std::net::ToSocketAddrs::to_socket_addrs("localhost:1"))),
    ];
    for attempt in tries {
        let enough = Rc::new(Cell::new(false));
        let greenlet = spawn({
            let enough = Rc::clone(&enough);
            move || {
                while !enough.get() {
                    attempt();
                }
            }
        });
        let_all_run();
        greenlet.kill_nowait();
        // Who never waits would keep us from here.
        let_all_run();
        enough.set(true);
        assert!(greenlet.join().is_ok());
    }
    // The same for a timeout that has run out.
    let enough = Rc::new(Cell::new(false));
    let late = spawn({
        let enough = Rc::clone(&enough);
        move || {
            timeout(Duration::from_millis(1), || {
                while !enough.get() {
                    std::thread::sleep(Duration::from_secs(1000));
                }
            })
        }
    });
    std::thread::sleep(Duration::from_millis(10));
    enough.set(true);
    assert_eq!(late.join().unwrap(), Ok(()));
}

#[test]
fn a_timeout_around_a_call_makes_it_fail_and_is_told_at_its_end() {
    in_greenlet(|| {
        let (one, mut other) = UnixStream::pair().unwrap();
        let error = Cell::new(None);
        let limit = Duration::from_millis(5);
        let result = timeout(limit, || {
            error.set((&one).read(&mut [0]).unwrap_err().raw_os_error());
            assert_eq!((&one).read(&mut [0]).unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
            switchgrass::sleep(Duration::from_secs(1000));
        });
        assert!(result.is_err());
        assert_eq!(error.get(), Some(libc::ETIMEDOUT));
        // Who gives up has an end of its own.
        assert_eq!(
            timeout(limit, || (&one).read(&mut [0]).unwrap_err().raw_os_error()),
            Ok(Some(libc::ETIMEDOUT))
        );
        // Nothing is left of it.
        other.write_all(b"!").unwrap();
        assert_eq!((&one).read(&mut [0]).unwrap(), 1);
        assert_eq!(timeout(Duration::from_secs(1000), || std::thread::sleep(limit)), Ok(()));
    });
}

#[test]
fn a_timeout_ends_a_sleep() {
    in_greenlet(|| {
        let start = Instant::now();
        let slept = timeout(Duration::from_millis(5), || {
            std::thread::sleep(Duration::from_secs(1000));
            start.elapsed()
        });
        assert!(slept.unwrap() < Duration::from_secs(100));
    });
}

#[test]
fn a_kill_ends_a_sleep() {
    patched();
    let greenlet = spawn(|| {
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(1000));
        start.elapsed()
    });
    let_all_run();
    greenlet.kill_nowait();
    assert!(greenlet.join().unwrap() < Duration::from_secs(100));
}

/// std's lock cannot be told; and does not turn round and round until it has what it wants.
#[test]
fn a_kill_of_who_waits_for_a_std_mutex_stays_pending_and_costs_nothing() {
    patched();
    let mutex = Arc::new(Mutex::new(0));
    let got = Rc::new(Cell::new(false));
    let held = mutex.lock().unwrap();
    let greenlet = spawn({
        let (mutex, got) = (Arc::clone(&mutex), Rc::clone(&got));
        move || {
            *mutex.lock().unwrap() += 1;
            got.set(true);
            switchgrass::sleep(Duration::from_secs(1000));
        }
    });
    let_all_run();
    greenlet.kill_nowait();
    let before = cpu_time();
    switchgrass::sleep(Duration::from_millis(50));
    assert!(cpu_time() - before < Duration::from_millis(25), "it turns");
    assert!(!greenlet.is_ready() && !got.get());
    drop(held);
    joinall([&greenlet]);
    assert!(is_killed(&greenlet) && got.get());
    assert_eq!(*mutex.lock().unwrap(), 1, "it is neither locked nor poisoned");
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn a_kill_of_who_waits_for_a_std_condvar_returns_once_for_nothing() {
    patched();
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let woken = Rc::new(Cell::new(0));
    let greenlet = spawn({
        let (pair, woken) = (Arc::clone(&pair), Rc::clone(&woken));
        move || {
            let mut ready = pair.0.lock().unwrap();
            while !*ready {
                ready = pair.1.wait(ready).unwrap();
                woken.set(woken.get() + 1);
            }
            drop(ready);
            switchgrass::sleep(Duration::from_secs(1000));
        }
    });
    let_all_run();
    greenlet.kill_nowait();
    let before = cpu_time();
    switchgrass::sleep(Duration::from_millis(50));
    assert!(cpu_time() - before < Duration::from_millis(25), "it turns");
    assert_eq!(woken.get(), 1);
    *pair.0.lock().unwrap() = true;
    pair.1.notify_one();
    joinall([&greenlet]);
    assert!(is_killed(&greenlet));
}

#[test]
fn a_kill_of_a_parked_greenlet_returns_from_the_park_once() {
    patched();
    let woken = Rc::new(Cell::new(0));
    let greenlet = spawn({
        let woken = Rc::clone(&woken);
        move || {
            std::thread::park();
            woken.set(woken.get() + 1);
            std::thread::park_timeout(Duration::from_millis(50));
            switchgrass::yield_now();
        }
    });
    let_all_run();
    greenlet.kill();
    assert!(is_killed(&greenlet));
    assert_eq!(woken.get(), 1);
}

#[test]
fn no_switch_blocks_the_thread_and_only_within() {
    patched();
    let other = spawn(|| ());
    no_switch(|| std::thread::sleep(Duration::from_millis(1)));
    assert!(!other.is_ready());
    std::thread::sleep(Duration::from_millis(1));
    assert!(other.is_ready());
    // A panic leaves it, too.
    let other = spawn(|| ());
    let caught = std::panic::catch_unwind(|| no_switch(|| std::panic::resume_unwind(Box::new(()))));
    assert!(caught.is_err());
    std::thread::sleep(Duration::from_millis(1));
    assert!(other.is_ready());
}

#[test]
fn no_switch_is_of_its_greenlet() {
    patched();
    let log = Rc::new(RefCell::new(Vec::new()));
    let inside = spawn({
        let log = Rc::clone(&log);
        move || {
            no_switch(|| {
                log.borrow_mut().push("in");
                // A wait of ours switches; within other greenlets, libc's do.
                switchgrass::sleep(Duration::from_millis(20));
                log.borrow_mut().push("back");
                std::thread::sleep(Duration::from_millis(1));
                log.borrow_mut().push("out");
            });
        }
    });
    let other = spawn({
        let log = Rc::clone(&log);
        move || {
            std::thread::sleep(Duration::from_millis(1));
            log.borrow_mut().push("other");
        }
    });
    let last = spawn({
        let log = Rc::clone(&log);
        move || {
            while log.borrow().last() != Some(&"back") && log.borrow().last() != Some(&"out") {
                std::thread::sleep(Duration::from_millis(1));
            }
            log.borrow_mut().push("last");
        }
    });
    joinall([&inside, &other, &last]);
    assert_eq!(*log.borrow(), ["in", "other", "back", "out", "last"]);
}

#[test]
fn no_switch_holds_on_a_thread_that_had_no_hub() {
    patched();
    std::thread::spawn(|| {
        no_switch(|| {
            let other = spawn(|| ());
            std::thread::sleep(Duration::from_millis(1));
            assert!(!other.is_ready());
        });
        // And does not outlive itself.
        let other = spawn(|| ());
        std::thread::sleep(Duration::from_millis(1));
        assert!(other.is_ready());
    })
    .join()
    .unwrap();
}

/// While a greenlet unwinds, its calls block the thread: nobody may run in between.
#[test]
fn calls_in_drops_of_a_panic_block_the_thread() {
    struct Sleeps;
    impl Drop for Sleeps {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    patched();
    let panics = spawn(|| {
        let _sleeps = Sleeps;
        std::panic::resume_unwind(Box::new(5));
    });
    let other = spawn(|| ());
    let order = Rc::new(Cell::new(false));
    drop(order);
    assert!(!other.is_ready());
    assert_eq!(*panics.join().unwrap_err().downcast::<i32>().unwrap(), 5);
    other.join().unwrap();
}

/// A thread-local that talks when its thread ends.
#[test]
fn thread_locals_may_wait_when_their_thread_ends() {
    thread_local! {
        static BEFORE: RefCell<Option<Talks>> = const { RefCell::new(None) };
        static AFTER: RefCell<Option<Talks>> = const { RefCell::new(None) };
    }
    struct Talks(UnixStream);
    impl Drop for Talks {
        fn drop(&mut self) {
            self.0.write_all(b"?").unwrap();
            std::thread::sleep(Duration::from_millis(1));
            let lock = Mutex::new(());
            drop(lock.lock());
            self.0.read_exact(&mut [0]).unwrap();
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    patched();
    let pairs = [(); 2].map(|()| UnixStream::pair().unwrap());
    let [(one, mut other), (two, mut another)] = pairs;
    let thread = std::thread::spawn(move || {
        // Registered before the hub's own, and after: one is dropped when the hub is gone already.
        BEFORE.set(Some(Talks(one)));
        spawn(|| std::thread::sleep(Duration::from_millis(1))).join().unwrap();
        AFTER.set(Some(Talks(two)));
    });
    for end in [&mut another, &mut other] {
        end.write_all(b"!").unwrap();
        end.read_exact(&mut [0]).unwrap();
    }
    thread.join().unwrap();
}
