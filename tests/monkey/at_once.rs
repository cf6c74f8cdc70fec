//! What std can wait for: a hundred greenlets of one thread do at once. Nobody is let go before the last one waits, or is about to.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, OnceLock, RwLock, RwLockWriteGuard, mpsc};
use std::time::Duration;

use crate::util::{all_at_once, patched, tcp_pair};

const COUNT: usize = 100;

/// Each greenlet waits by `wait`; the last one calls `release` before.
fn released_by_the_last(wait: impl Fn(usize) + Clone + 'static, release: impl Fn() + Clone + 'static) {
    let inside = Rc::new(Cell::new(0));
    all_at_once(COUNT, move |number| {
        inside.set(inside.get() + 1);
        if inside.get() == COUNT {
            release();
        }
        wait(number);
    });
}

fn tcp_pairs() -> (Rc<Vec<TcpStream>>, Rc<Vec<TcpStream>>) {
    patched();
    let (ours, others): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| tcp_pair()).unzip();
    (Rc::new(ours), Rc::new(others))
}

fn write_to_all(streams: &[TcpStream], text: &[u8]) {
    for mut stream in streams {
        stream.write_all(text).unwrap();
    }
}

#[test]
fn unix_streams_are_read() {
    patched();
    let (ours, others): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| UnixStream::pair().unwrap()).unzip();
    let (ours, others) = (Rc::new(ours), Rc::new(others));
    released_by_the_last(
        move |number| assert_eq!((&ours[number]).read(&mut [0; 8]).unwrap(), 3),
        move || others.iter().for_each(|mut other| other.write_all(b"abc").unwrap()),
    );
}

#[test]
fn one_listener_accepts() {
    patched();
    let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let clients = Rc::new(RefCell::new(Vec::new()));
    released_by_the_last(
        move |_| drop(listener.accept().unwrap()),
        move || {
            let connected = (0..COUNT).map(|_| TcpStream::connect(address).unwrap());
            let connected: Vec<_> = connected.collect();
            clients.borrow_mut().extend(connected);
        },
    );
}

#[test]
fn the_second_of_two_time_limits_ends_a_read() {
    let (ours, others) = tcp_pairs();
    released_by_the_last(
        move |number| {
            let mut stream = &ours[number];
            stream.set_read_timeout(Some(Duration::from_secs(1000))).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        },
        move || assert_eq!(others.len(), COUNT),
    );
}

#[test]
fn clones_are_read() {
    let (ours, others) = tcp_pairs();
    released_by_the_last(
        move |number| {
            let mut clone = ours[number].try_clone().unwrap();
            assert_eq!(clone.read(&mut [0; 8]).unwrap(), 3);
        },
        move || write_to_all(&others, b"abc"),
    );
}

#[test]
fn streams_are_copied_to_their_end() {
    let (ours, others) = tcp_pairs();
    released_by_the_last(
        move |number| {
            let mut copy = Vec::new();
            assert_eq!(std::io::copy(&mut &ours[number], &mut copy).unwrap(), 3);
            assert_eq!(copy, b"abc");
        },
        move || {
            write_to_all(&others, b"abc");
            others.iter().for_each(|other| other.shutdown(Shutdown::Write).unwrap());
        },
    );
}

#[test]
fn lines_are_read() {
    let (ours, others) = tcp_pairs();
    released_by_the_last(
        move |number| {
            let mut lines = BufReader::new(&ours[number]).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "one");
            assert_eq!(lines.next().unwrap().unwrap(), "two");
        },
        move || write_to_all(&others, b"one\ntwo\n"),
    );
}

#[test]
fn a_mutex_is_waited_for() {
    patched();
    static MUTEX: Mutex<usize> = Mutex::new(0);
    let held: Rc<RefCell<Option<MutexGuard<'static, usize>>>> =
        Rc::new(RefCell::new(Some(MUTEX.lock().unwrap())));
    released_by_the_last(move |_| *MUTEX.lock().unwrap() += 1, move || drop(held.borrow_mut().take()));
    assert_eq!(*MUTEX.lock().unwrap(), COUNT);
}

#[test]
fn a_rwlock_is_waited_for_by_readers_and_writers() {
    patched();
    static RWLOCK: RwLock<usize> = RwLock::new(0);
    let held: Rc<RefCell<Option<RwLockWriteGuard<'static, usize>>>> =
        Rc::new(RefCell::new(Some(RWLOCK.write().unwrap())));
    released_by_the_last(
        move |number| match number % 2 {
            0 => assert!(*RWLOCK.read().unwrap() <= COUNT / 2),
            _ => *RWLOCK.write().unwrap() += 1,
        },
        move || drop(held.borrow_mut().take()),
    );
    assert_eq!(*RWLOCK.read().unwrap(), COUNT / 2);
}

#[test]
fn what_is_made_once_is_waited_for() {
    static ONCE: Once = Once::new();
    static CELL: OnceLock<usize> = OnceLock::new();
    static LAZY: LazyLock<usize> = LazyLock::new(made);
    static MAY_GO: AtomicBool = AtomicBool::new(false);
    fn made() -> usize {
        while !MAY_GO.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        7
    }
    released_by_the_last(
        |number| match number % 3 {
            0 => ONCE.call_once(|| assert_eq!(made(), 7)),
            1 => assert_eq!(*CELL.get_or_init(made), 7),
            _ => assert_eq!(*LAZY, 7),
        },
        || MAY_GO.store(true, Ordering::SeqCst),
    );
}

#[test]
fn channels_are_received_from_that_another_thread_sends_to() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..COUNT).map(|_| mpsc::channel()).unzip();
    let (senders, receivers) = (Rc::new(senders), Rc::new(receivers));
    released_by_the_last(
        move |number| assert_eq!(receivers[number].recv(), Ok(number)),
        move || {
            let senders: Vec<_> = senders.iter().cloned().collect();
            let thread = std::thread::spawn(move || {
                for (number, sender) in senders.iter().enumerate() {
                    sender.send(number).unwrap();
                }
            });
            thread.join().unwrap();
        },
    );
}

#[test]
fn greenlets_are_parked() {
    static MAY_GO: AtomicBool = AtomicBool::new(false);
    released_by_the_last(
        |_| {
            while !MAY_GO.load(Ordering::SeqCst) {
                std::thread::park();
            }
        },
        || {
            let thread = std::thread::current();
            let other = std::thread::spawn(move || {
                MAY_GO.store(true, Ordering::SeqCst);
                thread.unpark();
            });
            other.join().unwrap();
        },
    );
}

/// A child that ends when the other end of its input is closed.
fn child(input: &std::io::PipeReader) -> Command {
    let mut command = Command::new("cat");
    command.stdin(Stdio::from(input.try_clone().unwrap()));
    command
}

#[test]
fn the_output_of_commands_is_read() {
    patched();
    let (input, writer) = std::io::pipe().unwrap();
    let (input, writer) = (Rc::new(input), Rc::new(RefCell::new(Some(writer))));
    released_by_the_last(
        move |_| assert!(child(&input).output().unwrap().status.success()),
        move || drop(writer.borrow_mut().take()),
    );
}

#[test]
fn children_are_waited_for() {
    patched();
    let (input, writer) = std::io::pipe().unwrap();
    let (input, writer) = (Rc::new(input), Rc::new(RefCell::new(Some(writer))));
    released_by_the_last(
        move |_| assert!(child(&input).stdout(Stdio::null()).spawn().unwrap().wait().unwrap().success()),
        move || drop(writer.borrow_mut().take()),
    );
}
