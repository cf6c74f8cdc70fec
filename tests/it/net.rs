//! TCP, and what all sockets share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use switchgrass::net::{
    ConcurrentUse, TcpListener, TcpStream, ToSocketAddrs, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
use switchgrass::{scope, sleep, spawn, timeout, yield_now};

use crate::util::{OnDrop, catch, in_child, is_exit, open_fds, time_limit};

// ---- Helpers ------------------------------------------------------------------------------------------------------------

/// For a limit that must run out: no matter how long.
pub(crate) const SHORT: Duration = Duration::from_millis(20);

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The two ends of a connection.
fn connected() -> (TcpStream, TcpStream) {
    let (listener, address) = listen();
    let here = TcpStream::connect(address).unwrap();
    (here, listener.accept().unwrap().0)
}

/// Lets the others run until it is so.
pub(crate) fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now();
    }
}

pub(crate) fn error_kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub(crate) fn is_nonblocking(fd: impl AsFd) -> bool {
    // SAFETY: F_GETFL takes no further argument.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags, -1);
    flags & libc::O_NONBLOCK != 0
}

pub(crate) fn is_close_on_exec(fd: impl AsFd) -> bool {
    // SAFETY: F_GETFD takes no further argument.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFD) };
    assert_ne!(flags, -1);
    flags & libc::FD_CLOEXEC != 0
}

pub(crate) fn listen_with(fd: impl AsFd, backlog: i32) {
    // SAFETY: listen takes no pointers.
    assert_eq!(unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) }, 0);
}

/// Reproducible noise (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

// ---- Reading and writing --------------------------------------------------------------------------------------------------

#[test]
fn an_echo_comes_back() {
    time_limit();
    let (listener, address) = listen();
    let server = spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut buf = [0; 64];
        loop {
            match stream.read(&mut buf)? {
                0 => return io::Result::Ok(()),
                n => stream.write_all(&buf[..n])?,
            }
        }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), address);
    for round in 0..100_u32 {
        stream.write_all(&round.to_be_bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(u32::from_be_bytes(answer), round);
    }
    drop(stream);
    server.join().unwrap().unwrap();
}

#[test]
fn incoming_gives_connections_as_they_come() {
    time_limit();
    let (listener, address) = listen();
    let clients = spawn(move || {
        for n in 0..5_u8 {
            TcpStream::connect(address).unwrap().write_all(&[n]).unwrap();
        }
    });
    for (n, stream) in listener.incoming().take(5).enumerate() {
        let mut text = Vec::new();
        stream.unwrap().read_to_end(&mut text).unwrap();
        assert_eq!(text, [n as u8]);
    }
    clients.join().unwrap();
}

#[test]
fn the_end_is_read_after_a_short_read_that_emptied_the_socket() {
    time_limit();
    let (mut here, mut there) = connected();
    let sizes = Rc::new(RefCell::new(Vec::new()));
    let reader = spawn({
        let sizes = sizes.clone();
        move || {
            let mut buf = [0; 64];
            loop {
                let n = here.read(&mut buf).unwrap();
                sizes.borrow_mut().push(n);
                if n == 0 {
                    return;
                }
            }
        }
    });
    yield_now();
    there.write_all(b"hello").unwrap();
    until(|| *sizes.borrow() == [5]);
    drop(there);
    reader.join().unwrap();
    assert_eq!(*sizes.borrow(), [5, 0]);
}

#[test]
fn the_end_is_read_when_it_came_together_with_the_data() {
    time_limit();
    let (mut here, mut there) = connected();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        [here.read(&mut buf).unwrap(), here.read(&mut buf).unwrap(), here.read(&mut buf).unwrap()]
    });
    yield_now();
    there.write_all(b"hello").unwrap();
    drop(there);
    assert_eq!(reader.join().unwrap(), [5, 0, 0]);
}

#[test]
fn the_end_is_read_when_it_came_between_the_wake_and_the_read() {
    time_limit();
    // Two readers are woken by one look at the events; the first closes the other end of the second's connection.
    let (mut one_here, mut one_there) = connected();
    let (mut two_here, two_there) = connected();
    let two_there = Rc::new(two_there);
    let first = spawn({
        let two_there = two_there.clone();
        move || {
            one_here.read_exact(&mut [0]).unwrap();
            drop(two_there);
        }
    });
    let second = spawn(move || {
        let mut buf = [0; 64];
        [two_here.read(&mut buf).unwrap(), two_here.read(&mut buf).unwrap()]
    });
    yield_now();
    one_there.write_all(b"!").unwrap();
    (&*two_there).write_all(b"hello").unwrap();
    drop(two_there);
    first.join().unwrap();
    assert_eq!(second.join().unwrap(), [5, 0]);
}

#[test]
fn the_end_is_read_by_one_that_has_only_written_before() {
    time_limit();
    // Only writing has waited, so only that is watched, and no event tells of the end.
    let (mut here, mut there) = connected();
    let filled = fill(&here);
    scope(|s| {
        let writer = s.spawn(|| (&here).write_all(&[7; 16 << 20]));
        yield_now();
        assert!(!writer.is_ready());
        there.read_exact(&mut vec![0; filled + (16 << 20)]).unwrap();
        writer.join().unwrap().unwrap();
    });
    there.write_all(b"bye").unwrap();
    drop(there);
    let mut buf = [0; 64];
    assert_eq!([here.read(&mut buf).unwrap(), here.read(&mut buf).unwrap()], [3, 0]);
}

/// Writes as much as there is room for, nearly: some more may appear when the system has moved it on. What was written.
fn fill(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    let error = loop {
        match stream.write(&[7; 1 << 16]) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    written
}

#[test]
fn sixteen_mebibytes_go_each_way_at_once_over_one_stream() {
    time_limit();
    const LEN: usize = 16 << 20;
    let (here, there) = connected();
    let send = |mut stream: &TcpStream, seed: u64| {
        let mut noise = Noise(seed);
        let mut left = LEN;
        while left > 0 {
            let size = (1 + noise.below(200_000)).min(left);
            let piece: Vec<u8> = (LEN - left..LEN - left + size).map(|at| byte(seed, at)).collect();
            stream.write_all(&piece).unwrap();
            left -= size;
        }
        stream.shutdown(Shutdown::Write).unwrap();
    };
    let receive = |mut stream: &TcpStream, seed: u64| {
        let mut noise = Noise(!seed);
        let mut at = 0;
        let mut buf = vec![0; 200_000];
        loop {
            let size = 1 + noise.below(buf.len());
            let n = stream.read(&mut buf[..size]).unwrap();
            if n == 0 {
                return at;
            }
            for &found in &buf[..n] {
                assert_eq!(found, byte(seed, at), "at {at}");
                at += 1;
            }
        }
    };
    fn byte(seed: u64, at: usize) -> u8 {
        ((at as u64).wrapping_mul(seed * 2 + 1) >> 7) as u8
    }
    scope(|s| {
        s.spawn(|| send(&here, 1));
        s.spawn(|| send(&there, 2));
        let one = s.spawn(|| receive(&here, 2));
        let other = s.spawn(|| receive(&there, 1));
        assert_eq!([one.join().unwrap(), other.join().unwrap()], [LEN, LEN]);
    });
}

#[test]
fn a_second_reader_gets_an_error_and_the_first_its_data() {
    time_limit();
    let (here, mut there) = connected();
    scope(|s| {
        let first = s.spawn(|| {
            let mut buf = [0; 5];
            (&here).read_exact(&mut buf).map(|()| buf)
        });
        yield_now();
        let error = (&here).read(&mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(error.get_ref().unwrap().is::<ConcurrentUse>());
        assert!(error.to_string().starts_with("another greenlet already waits"), "{error}");
        // The other direction is free.
        (&here).write_all(b"!").unwrap();
        there.write_all(b"hello").unwrap();
        assert_eq!(&first.join().unwrap().unwrap(), b"hello");
    });
    // And so is this one, now.
    there.write_all(b"again").unwrap();
    (&here).read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn a_second_acceptor_gets_an_error_and_the_first_its_connection() {
    time_limit();
    let (listener, address) = listen();
    scope(|s| {
        let first = s.spawn(|| listener.accept());
        yield_now();
        assert_eq!(error_kind(listener.accept()), ErrorKind::ResourceBusy);
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(first.join().unwrap().unwrap().1, client.local_addr().unwrap());
    });
}

#[test]
fn shutdown_by_another_greenlet_wakes_the_reader() {
    time_limit();
    let (here, _there) = connected();
    for how in [Shutdown::Read, Shutdown::Both] {
        scope(|s| {
            let reader = s.spawn(|| (&here).read(&mut [0; 5]));
            if how == Shutdown::Read {
                yield_now();
            }
            here.shutdown(how).unwrap();
            assert_eq!(reader.join().unwrap().unwrap(), 0);
        });
    }
}

#[test]
fn shutdown_by_another_greenlet_wakes_the_writer() {
    time_limit();
    let (here, _there) = connected();
    fill(&here);
    scope(|s| {
        let writer = s.spawn(|| (&here).write_all(&vec![0; 64 << 20]));
        yield_now();
        here.shutdown(Shutdown::Write).unwrap();
        assert_eq!(error_kind(writer.join().unwrap()), ErrorKind::BrokenPipe);
    });
}

#[test]
fn the_peers_drop_wakes_the_reader() {
    time_limit();
    let (mut here, there) = connected();
    let reader = spawn(move || here.read(&mut [0; 5]));
    yield_now();
    drop(there);
    assert_eq!(reader.join().unwrap().unwrap(), 0);
}

#[test]
fn a_reset_by_the_peer_wakes_reader_and_writer() {
    time_limit();
    let (here, there) = connected();
    fill(&here);
    scope(|s| {
        let reader = s.spawn(|| (&here).read(&mut [0; 5]));
        let writer = s.spawn(|| (&here).write_all(&vec![0; 64 << 20]));
        yield_now();
        // Closing with unread data resets the connection.
        drop(there);
        // One of the two gets the reset, the other what follows from it.
        let write = error_kind(writer.join().unwrap());
        match reader.join().unwrap() {
            Ok(n) => assert_eq!((n, write), (0, ErrorKind::ConnectionReset)),
            Err(read) => {
                assert_eq!((read.kind(), write), (ErrorKind::ConnectionReset, ErrorKind::BrokenPipe))
            }
        }
    });
}

#[test]
fn peek_leaves_the_data_where_it_is() {
    time_limit();
    let (mut here, mut there) = connected();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        // Shorter than the buffer, and yet the socket is not empty.
        for _ in 0..3 {
            assert_eq!(here.peek(&mut buf).unwrap(), 5);
        }
        assert_eq!(here.peek(&mut buf[..2]).unwrap(), 2);
        let n = here.read(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"hello");
        assert_eq!(here.peek(&mut buf).unwrap(), 0);
    });
    yield_now();
    there.write_all(b"hello").unwrap();
    there.shutdown(Shutdown::Write).unwrap();
    reader.join().unwrap();
}

#[test]
fn several_buffers_are_read_and_written_at_once() {
    time_limit();
    let (mut here, mut there) = connected();
    let reader = spawn(move || {
        let (mut head, mut body) = ([0; 4], [0; 60]);
        let n = here.read_vectored(&mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut body)]).unwrap();
        assert_eq!((n, &head, &body[..5]), (9, b"head", &b"body!"[..]));
        here.read_vectored(&mut [IoSliceMut::new(&mut head)]).unwrap()
    });
    yield_now();
    assert_eq!(there.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(b"body!")]).unwrap(), 9);
    drop(there);
    assert_eq!(reader.join().unwrap(), 0);
}

#[test]
fn an_empty_buffer_neither_waits_nor_tells_anything() {
    time_limit();
    let (mut here, mut there) = connected();
    let done = Rc::new(Cell::new(false));
    let reader = spawn({
        let done = done.clone();
        move || {
            let mut buf = [0; 64];
            assert_eq!(here.read(&mut buf).unwrap(), 3);
            // The socket is known to be empty now: a read would wait.
            assert_eq!(here.read(&mut []).unwrap(), 0);
            assert_eq!(here.read_vectored(&mut []).unwrap(), 0);
            assert_eq!(here.read_vectored(&mut [IoSliceMut::new(&mut [])]).unwrap(), 0);
            assert_eq!(here.write(&[]).unwrap(), 0);
            assert_eq!(here.write_vectored(&[IoSlice::new(&[])]).unwrap(), 0);
            here.write_all(&[]).unwrap();
            done.set(true);
            here.read(&mut buf).unwrap()
        }
    });
    yield_now();
    there.write_all(b"abc").unwrap();
    until(|| done.get());
    drop(there);
    assert_eq!(reader.join().unwrap(), 0);

    // A full socket takes nothing, which it does at once.
    let (mut here, _there) = connected();
    here.set_write_timeout(Some(SHORT)).unwrap();
    assert_eq!(error_kind(here.write_all(&vec![0; 64 << 20])), ErrorKind::TimedOut);
    here.set_write_timeout(None).unwrap();
    assert_eq!(here.write(&[]).unwrap(), 0);
    assert_eq!(here.write_vectored(&[IoSlice::new(&[])]).unwrap(), 0);
    here.write_all(&[]).unwrap();
    // Unless it can say that it is closed.
    here.shutdown(Shutdown::Write).unwrap();
    assert_eq!(error_kind(here.write(&[])), ErrorKind::BrokenPipe);
}

#[test]
fn a_read_that_ends_early_at_urgent_data_does_not_lose_what_follows() {
    time_limit();
    let (mut here, mut there) = connected();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        let mut text = Vec::new();
        loop {
            match here.read(&mut buf).unwrap() {
                0 => return text,
                n => text.extend_from_slice(&buf[..n]),
            }
            if text.ends_with(b"end") {
                return text;
            }
        }
    });
    yield_now();
    // A read stops at the urgent byte, which comes by another way: a short read, but not the last of the data.
    there.write_all(b"before ").unwrap();
    // SAFETY: the buffer is valid for one byte.
    assert_eq!(unsafe { libc::send(there.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
    there.write_all(b"the end").unwrap();
    assert_eq!(reader.join().unwrap(), b"before the end");
}

#[test]
fn a_write_does_not_wait_only_because_reading_does() {
    time_limit();
    let (here, mut there) = connected();
    let greenlet = spawn(move || {
        // Runs while the greenlet unwinds, where nothing can wait.
        let _bye = OnDrop(|| (&here).write_all(b"bye").unwrap());
        let _ = (&here).read(&mut [0; 64]);
    });
    yield_now();
    greenlet.kill();
    assert!(is_exit(&greenlet.join()));
    let mut text = String::new();
    there.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye");
}

// ---- Limits, and not waiting -----------------------------------------------------------------------------------------------

#[test]
fn a_read_that_takes_too_long_times_out_and_the_socket_still_works() {
    time_limit();
    let (mut here, mut there) = connected();
    here.set_read_timeout(Some(SHORT)).unwrap();
    for _ in 0..3 {
        let error = here.read(&mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("read of fd"), "{error}");
    }
    there.write_all(b"hello").unwrap();
    let mut buf = [0; 5];
    here.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
    here.set_read_timeout(None).unwrap();
    let reader = spawn(move || here.read(&mut [0; 5]));
    drop(there);
    assert_eq!(reader.join().unwrap().unwrap(), 0);
}

#[test]
fn the_limit_of_write_all_is_for_the_whole() {
    time_limit();
    let (mut here, mut there) = connected();
    here.set_write_timeout(Some(Duration::from_millis(60))).unwrap();
    let read = Rc::new(Cell::new(0));
    let peer = spawn({
        let read = read.clone();
        move || {
            // Makes room again and again, each time sooner than the limit.
            let mut buf = vec![0; 1 << 18];
            while there.read(&mut buf).unwrap() > 0 {
                read.set(read.get() + 1);
                sleep(Duration::from_millis(5));
            }
        }
    });
    assert_eq!(error_kind(here.write_all(&vec![0; 1 << 30])), ErrorKind::TimedOut);
    assert!(read.get() > 0);
    drop(here);
    peer.join().unwrap();
}

#[test]
fn limits_are_kept_as_set_and_zero_is_refused() {
    time_limit();
    let (here, _there) = connected();
    assert_eq!((here.read_timeout().unwrap(), here.write_timeout().unwrap()), (None, None));
    here.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    here.set_write_timeout(Some(Duration::from_nanos(1))).unwrap();
    for result in [here.set_read_timeout(Some(Duration::ZERO)), here.set_write_timeout(Some(Duration::ZERO))]
    {
        assert_eq!(error_kind(result), ErrorKind::InvalidInput);
    }
    let clone = here.try_clone().unwrap();
    for stream in [&here, &clone] {
        assert_eq!(stream.read_timeout().unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(stream.write_timeout().unwrap(), Some(Duration::from_nanos(1)));
    }
    clone.set_read_timeout(None).unwrap();
    assert_eq!(here.read_timeout().unwrap(), Some(Duration::from_secs(3)));
    here.set_read_timeout(Some(Duration::MAX)).unwrap();
    assert_eq!(here.read_timeout().unwrap(), None);
}

#[test]
fn what_is_set_nonblocking_does_not_wait() {
    time_limit();
    let (listener, address) = listen();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(error_kind(listener.accept()), ErrorKind::WouldBlock);
    listener.set_nonblocking(false).unwrap();
    let mut here = TcpStream::connect(address).unwrap();
    let (mut there, _) = listener.accept().unwrap();
    here.set_nonblocking(true).unwrap();
    assert_eq!(error_kind(here.read(&mut [0; 5])), ErrorKind::WouldBlock);
    assert_eq!(error_kind(here.peek(&mut [0; 5])), ErrorKind::WouldBlock);
    here.set_nonblocking(false).unwrap();
    let reader = spawn(move || {
        let n = here.read(&mut [0; 5]).unwrap();
        here.set_nonblocking(true).unwrap();
        assert_eq!(error_kind(here.read(&mut [0; 5])), ErrorKind::WouldBlock);
        n
    });
    yield_now();
    there.write_all(b"abc").unwrap();
    assert_eq!(reader.join().unwrap(), 3);
}

#[test]
fn a_timeout_around_a_read_ends_it_and_the_socket_still_works() {
    time_limit();
    let (mut here, mut there) = connected();
    assert!(timeout(SHORT, || here.read(&mut [0; 5])).is_err());
    there.write_all(b"hello").unwrap();
    here.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn a_killed_waiter_leaves_its_place_to_the_next() {
    time_limit();
    let (here, mut there) = connected();
    let (listener, address) = listen();
    fill(&here);
    let (here, listener) = (Rc::new(here), Rc::new(listener));
    let waiting = [
        spawn({
            let here = here.clone();
            move || drop((&*here).read(&mut [0; 5]))
        }),
        spawn({
            let here = here.clone();
            move || drop((&*here).write_all(&vec![0; 64 << 20]))
        }),
        spawn({
            let listener = listener.clone();
            move || drop(listener.accept())
        }),
    ];
    yield_now();
    for greenlet in waiting {
        assert!(!greenlet.is_ready());
        greenlet.kill();
        assert!(is_exit(&greenlet.join()));
    }
    scope(|s| {
        let reader = s.spawn(|| (&*here).read_exact(&mut [0; 5]));
        let writer = s.spawn(|| (&*here).write_all(&vec![0; 64 << 20]));
        let acceptor = s.spawn(|| listener.accept().map(drop));
        yield_now();
        there.write_all(b"hello").unwrap();
        let _client = TcpStream::connect(address).unwrap();
        reader.join().unwrap().unwrap();
        acceptor.join().unwrap().unwrap();
        s.spawn(|| io::copy(&mut &there, &mut io::sink()));
        writer.join().unwrap().unwrap();
        here.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn an_edge_that_woke_a_killed_reader_is_not_lost() {
    time_limit();
    let (here, mut there) = connected();
    let here = Rc::new(here);
    for _ in 0..100 {
        let victim = spawn({
            let here = here.clone();
            move || drop((&*here).read(&mut [0; 5]))
        });
        yield_now();
        there.write_all(b"hello").unwrap();
        victim.kill_nowait();
        let survivor = spawn({
            let here = here.clone();
            move || (&*here).read_exact(&mut [0; 5])
        });
        assert!(is_exit(&victim.join()));
        survivor.join().unwrap().unwrap();
    }
}

#[test]
fn a_destructor_during_unwinding_does_what_needs_no_waiting() {
    time_limit();
    let (here, mut there) = connected();
    there.write_all(b"here").unwrap();
    here.peek(&mut [0; 4]).unwrap();
    let results = RefCell::new(Vec::new());
    let unwound = catch(|| {
        let _guard = OnDrop(|| {
            let mut results = results.borrow_mut();
            results.push((&here).read(&mut [0; 4]));
            results.push((&here).write(b"bye"));
            results.push((&here).read(&mut [0; 4]));
        });
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(unwound.is_err());
    let results = results.into_inner();
    assert_eq!((results[0].as_ref().unwrap(), results[1].as_ref().unwrap()), (&4, &3));
    let error = results[2].as_ref().unwrap_err();
    assert!(error.to_string().contains("unwinds"), "{error}");
    // Nothing is left behind by the attempt.
    there.write_all(b"more").unwrap();
    (&here).read_exact(&mut [0; 4]).unwrap();
}

// ---- Connecting -------------------------------------------------------------------------------------------------------------

/// A listener whose queue is full, so that the system leaves further connections waiting; and what fills it.
fn full_listener() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let (listener, address) = listen();
    listen_with(&listener, 0);
    let mut filling = Vec::new();
    loop {
        match TcpStream::connect_timeout(&address, SHORT) {
            Ok(stream) => filling.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                return (listener, address, filling);
            }
        }
    }
}

#[test]
fn connect_is_refused_where_nobody_listens() {
    time_limit();
    let (listener, address) = listen();
    drop(listener);
    assert_eq!(error_kind(TcpStream::connect(address)), ErrorKind::ConnectionRefused);
    let result = TcpStream::connect_timeout(&address, Duration::from_secs(10));
    assert_eq!(error_kind(result), ErrorKind::ConnectionRefused);
}

#[test]
fn connect_goes_on_to_the_next_address() {
    time_limit();
    let (closed, dead) = listen();
    drop(closed);
    let (_listener, address) = listen();
    let stream = TcpStream::connect(&[dead, address][..]).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), address);
    assert_eq!(error_kind(TcpStream::connect(&[dead, dead][..])), ErrorKind::ConnectionRefused);
    assert_eq!(error_kind(TcpStream::connect::<&[SocketAddr]>(&[])), ErrorKind::InvalidInput);
}

#[test]
fn connect_takes_no_longer_than_its_limit() {
    time_limit();
    let (_listener, address, _filling) = full_listener();
    let error = TcpStream::connect_timeout(&address, SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("connect of fd"), "{error}");
    assert_eq!(error_kind(TcpStream::connect_timeout(&address, Duration::ZERO)), ErrorKind::InvalidInput);
}

#[test]
fn a_killed_connect_leaves_no_socket() {
    in_child("net::a_killed_connect_leaves_no_socket", || {
        time_limit();
        let (_listener, address, _filling) = full_listener();
        let before = open_fds();
        let greenlet = spawn(move || drop(TcpStream::connect(address)));
        yield_now();
        assert_eq!(open_fds(), before + 1);
        greenlet.kill();
        assert!(is_exit(&greenlet.join()));
        assert!(timeout(SHORT, || TcpStream::connect(address)).is_err());
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn a_name_is_looked_up_while_others_run() {
    time_limit();
    let (_listener, address) = listen();
    let turns = Rc::new(Cell::new(0));
    let counter = spawn({
        let turns = turns.clone();
        move || {
            loop {
                turns.set(turns.get() + 1);
                yield_now();
            }
        }
    });
    // A look-up may be done before the greenlet comes to wait for it. Not always.
    while turns.get() == 0 {
        let stream = TcpStream::connect(format!("localhost:{}", address.port())).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
    }
    counter.kill();

    let found = |name: &str| ToSocketAddrs::to_socket_addrs(&(name, 80)).unwrap().collect::<Vec<_>>();
    assert!(found("localhost").contains(&SocketAddr::from(([127, 0, 0, 1], 80))));
    // Numbers need no look-up, so nothing else runs.
    let before = turns.get();
    assert_eq!(found("127.0.0.1"), [SocketAddr::from(([127, 0, 0, 1], 80))]);
    assert_eq!(found("::1"), ["[::1]:80".parse().unwrap()]);
    assert_eq!(turns.get(), before);
}

#[test]
fn what_is_no_address_is_refused_with_the_reason() {
    time_limit();
    for (text, reason) in [
        ("localhost", "there is no port"),
        ("", "there is no port"),
        ("localhost:http", "the port is no number"),
        ("localhost:70000", "the port is no number"),
        ("localhost:", "the port is no number"),
    ] {
        let error = TcpStream::connect(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
        assert_eq!(error_kind(TcpListener::bind(text.to_owned())), ErrorKind::InvalidInput);
        assert_eq!(error_kind(UdpSocket::bind(text)), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_name_that_cannot_be_resolved_is_an_error() {
    time_limit();
    // A space is in no name, so no server is asked.
    let error = TcpStream::connect("no name:80").unwrap_err();
    assert!(error.to_string().contains("lookup"), "{error}");
    assert!(TcpStream::connect(("no\0name", 80)).is_err());
}

#[test]
fn a_listener_on_an_address_in_use_is_an_error() {
    time_limit();
    let (_listener, address) = listen();
    assert_eq!(error_kind(TcpListener::bind(address)), ErrorKind::AddrInUse);
}

#[test]
fn more_connections_than_the_std_queue_holds_may_wait() {
    time_limit();
    let (listener, address) = listen();
    let clients: Vec<_> = (0..500).map(|_| TcpStream::connect(address).unwrap()).collect();
    for client in &clients {
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    }
}

// ---- Handles, descriptors, options -----------------------------------------------------------------------------------------

#[test]
fn two_handles_on_one_socket_wait_at_once() {
    time_limit();
    let (here, mut there) = connected();
    let mut clone = here.try_clone().unwrap();
    let filled = fill(&here);
    let writer = spawn(move || clone.write_all(&[1; 1 << 20]).map(|()| clone));
    let reader = spawn(move || {
        let mut here = here;
        here.read_exact(&mut [0; 5]).map(|()| here)
    });
    yield_now();
    there.write_all(b"hello").unwrap();
    let mut all = vec![0; filled + (1 << 20)];
    there.read_exact(&mut all).unwrap();
    reader.join().unwrap().unwrap();
    writer.join().unwrap().unwrap();
    assert!(all[filled..].iter().all(|&byte| byte == 1));
}

#[test]
fn the_drop_of_one_handle_leaves_the_other_working_and_the_number_clean() {
    time_limit();
    let (mut here, mut there) = connected();
    // Registered with both numbers, once before and once after the other.
    for clone_first in [true, false] {
        let mut clone = here.try_clone().unwrap();
        let mut wait = |stream: &mut TcpStream| {
            scope(|s| {
                let reader = s.spawn(|| stream.read_exact(&mut [0; 1]).unwrap());
                yield_now();
                there.write_all(b"x").unwrap();
                reader.join().unwrap();
            });
        };
        if clone_first {
            wait(&mut clone);
            wait(&mut here);
        } else {
            wait(&mut here);
            wait(&mut clone);
        }
        drop(clone);

        // Other sockets, one of which has the clone's number now perhaps. What comes for `here` does not reach them.
        let (mut other_here, mut other_there) = connected();
        let other = spawn(move || {
            let mut buf = [0; 8];
            let n = other_here.read(&mut buf).unwrap();
            buf[..n].to_vec()
        });
        yield_now();
        wait(&mut here);
        yield_now();
        assert!(!other.is_ready());
        other_there.write_all(b"mine").unwrap();
        assert_eq!(other.join().unwrap(), b"mine");
    }
}

#[test]
fn a_descriptor_comes_back_from_a_conversion_as_it_went_in() {
    time_limit();
    let (here, mut there) = connected();
    assert!(is_nonblocking(&here) && is_close_on_exec(&here));

    // It was registered with this hub, to make it harder.
    here.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(error_kind((&here).read(&mut [0; 4])), ErrorKind::TimedOut);

    let std = std::net::TcpStream::from(here);
    assert!(!is_nonblocking(&std));
    there.write_all(b"1111").unwrap();
    (&std).read_exact(&mut [0; 4]).unwrap();

    let here = TcpStream::from(std);
    assert!(is_nonblocking(&here));
    let raw = here.as_raw_fd();
    assert_eq!(here.as_fd().as_raw_fd(), raw);
    scope(|s| {
        let reader = s.spawn(|| (&here).read_exact(&mut [0; 4]));
        yield_now();
        there.write_all(b"2222").unwrap();
        reader.join().unwrap().unwrap();
    });

    let owned = OwnedFd::from(here);
    assert!(!is_nonblocking(&owned) && owned.as_raw_fd() == raw);
    let here = TcpStream::from(owned);
    scope(|s| {
        let reader = s.spawn(|| (&here).read_exact(&mut [0; 4]));
        yield_now();
        there.write_all(b"3333").unwrap();
        reader.join().unwrap().unwrap();
    });

    here.set_nonblocking(true).unwrap();
    let number: RawFd = here.into_raw_fd();
    // SAFETY: the descriptor has just been given up.
    let here = unsafe { TcpStream::from_raw_fd(number) };
    assert!(is_nonblocking(&here));
    // A conversion knows of no set_nonblocking: it waits.
    let reader = spawn(move || {
        let mut here = here;
        here.read_exact(&mut [0; 4]).map(|()| here)
    });
    yield_now();
    there.write_all(b"4444").unwrap();
    let here = reader.join().unwrap().unwrap();
    here.set_nonblocking(true).unwrap();
    assert!(is_nonblocking(std::net::TcpStream::from(here)));

    let (listener, address) = listen();
    let std = std::net::TcpListener::from(listener);
    assert!(!is_nonblocking(&std));
    let listener = TcpListener::from(std);
    assert!(is_nonblocking(&listener));
    let _client = TcpStream::connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    assert!(is_nonblocking(&accepted) && is_close_on_exec(&accepted));
}

#[test]
fn options_are_std_s() {
    time_limit();
    let (here, _there) = connected();
    here.set_nodelay(true).unwrap();
    assert!(here.nodelay().unwrap());
    here.set_ttl(42).unwrap();
    assert_eq!(here.ttl().unwrap(), 42);
    assert!(here.take_error().unwrap().is_none());
    let (listener, address) = listen();
    listener.set_ttl(43).unwrap();
    assert_eq!(listener.ttl().unwrap(), 43);
    assert!(listener.take_error().unwrap().is_none());
    let clone = listener.try_clone().unwrap();
    assert_eq!(clone.local_addr().unwrap(), address);
    assert!(format!("{here:?} {listener:?}").contains("TcpStream"));
}

#[test]
fn sockets_have_the_auto_traits_of_std_s() {
    fn check<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe>() {}
    check::<TcpStream>();
    check::<TcpListener>();
    check::<UdpSocket>();
    check::<UnixStream>();
    check::<UnixListener>();
    check::<UnixDatagram>();
}

// ---- Several threads --------------------------------------------------------------------------------------------------------

/// Runs `f` on a thread of its own, and waits for it without blocking this one.
fn on_another_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    switchgrass::unblock(move || std::thread::spawn(f).join().unwrap())
}

/// Waits to read, so that the socket is registered with this thread's hub, and is sent something.
fn read_one(stream: &mut TcpStream, peer: &mut TcpStream, tag: u8) {
    scope(|s| {
        let reader = s.spawn(|| {
            let mut buf = [0; 64];
            let n = stream.read(&mut buf).unwrap();
            assert_eq!(buf[..n], [tag]);
        });
        yield_now();
        peer.write_all(&[tag]).unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_socket_works_on_the_thread_that_it_is_moved_to_and_back() {
    time_limit();
    let (mut here, mut there) = connected();
    for round in 0..5 {
        read_one(&mut here, &mut there, round);
        // Each of these threads ends, and its hub with it.
        (here, there) = on_another_thread(move || {
            read_one(&mut here, &mut there, round);
            read_one(&mut there, &mut here, round);
            (here, there)
        });
    }
    read_one(&mut here, &mut there, 99);
}

#[test]
fn a_socket_is_used_by_two_threads_in_turn() {
    time_limit();
    let (here, there) = connected();
    let here = std::sync::Arc::new(here);
    let (to_thread, from_here) = mpsc::channel::<()>();
    let (to_here, from_thread) = mpsc::channel::<()>();
    let thread = std::thread::spawn({
        let here = here.clone();
        move || {
            for round in 0..100_u8 {
                from_here.recv().unwrap();
                let mut buf = [0; 8];
                assert_eq!((&*here).read(&mut buf).unwrap(), 1);
                assert_eq!(buf[0], round);
                to_here.send(()).unwrap();
            }
        }
    });
    for round in 0..100_u8 {
        // Both hubs hear of it, whichever of them reads.
        to_thread.send(()).unwrap();
        (&there).write_all(&[round]).unwrap();
        from_thread.recv().unwrap();
        scope(|s| {
            let reader = s.spawn(|| {
                let mut buf = [0; 8];
                assert_eq!((&*here).read(&mut buf).unwrap(), 1);
                assert_eq!(buf[0], !round);
            });
            yield_now();
            (&there).write_all(&[!round]).unwrap();
            reader.join().unwrap();
        });
    }
    thread.join().unwrap();
}

#[test]
fn one_thread_reads_while_another_writes() {
    time_limit();
    const LEN: usize = 4 << 20;
    let (here, there) = connected();
    let here = std::sync::Arc::new(here);
    let echo = std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 16];
        loop {
            match (&there).read(&mut buf).unwrap() {
                0 => return,
                n => (&there).write_all(&buf[..n]).unwrap(),
            }
        }
    });
    let writer = std::thread::spawn({
        let here = here.clone();
        move || {
            for at in (0..LEN).step_by(1 << 12) {
                let piece: Vec<u8> = (at..at + (1 << 12)).map(|at| ((at * 7) >> 3) as u8).collect();
                (&*here).write_all(&piece).unwrap();
            }
            here.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut all = Vec::new();
    (&*here).read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), LEN);
    assert!(all.iter().enumerate().all(|(at, &byte)| byte == ((at * 7) >> 3) as u8));
    writer.join().unwrap();
    echo.join().unwrap();
}

#[test]
fn a_second_reader_on_another_thread_gets_an_error_too() {
    time_limit();
    let (here, mut there) = connected();
    let here = std::sync::Arc::new(here);
    let reader = spawn({
        let here = here.clone();
        move || (&*here).read_exact(&mut [0; 1])
    });
    yield_now();
    let error = on_another_thread({
        let here = here.clone();
        move || error_kind((&*here).read(&mut [0; 1]))
    });
    assert_eq!(error, ErrorKind::ResourceBusy);
    there.write_all(b"x").unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn a_socket_converted_on_another_thread_works_here_again() {
    time_limit();
    let (mut here, mut there) = connected();
    for round in 0..5 {
        // Registered with this hub, whose registration cannot be ended over there: the system refuses to make another.
        read_one(&mut here, &mut there, round);
        let std = on_another_thread(move || std::net::TcpStream::from(here));
        here = TcpStream::from(std);
    }
    read_one(&mut here, &mut there, 99);
}

#[test]
fn a_handle_dropped_on_another_thread_leaves_the_other_working_and_the_number_clean() {
    time_limit();
    let (mut here, mut there) = connected();
    for round in 0..5 {
        let mut clone = here.try_clone().unwrap();
        let number = clone.as_raw_fd();
        read_one(&mut clone, &mut there, round);
        read_one(&mut here, &mut there, round);
        on_another_thread(move || drop(clone));

        // Until one gets the number. The clone's registration lives on with it, since `here` keeps the connection.
        let mut others = Vec::new();
        while others.last().is_none_or(|(end, _): &(TcpStream, TcpStream)| end.as_raw_fd() < number) {
            others.push(connected());
        }
        scope(|s| {
            let readers: Vec<_> = others
                .iter()
                .map(|(end, _)| {
                    s.spawn(move || {
                        let mut buf = [0; 8];
                        let mut end = end;
                        let n = end.read(&mut buf).unwrap();
                        buf[..n].to_vec()
                    })
                })
                .collect();
            yield_now();
            read_one(&mut here, &mut there, round);
            yield_now();
            for (reader, (_, peer)) in readers.into_iter().zip(&others) {
                assert!(!reader.is_ready());
                let mut peer = peer;
                peer.write_all(b"mine").unwrap();
                assert_eq!(reader.join().unwrap(), b"mine");
            }
        });
    }
}

/// Thousands of sockets that are opened, waited for, and closed on this thread or another, so that their numbers are reused at
/// once. Whatever is read must be of the connection that it is read from.
fn numbers_are_reused(rounds: usize, seed: u64) {
    let (to_closer, closing) = mpsc::channel::<TcpStream>();
    let closer = std::thread::spawn(move || closing.into_iter().for_each(drop));
    let (listener, address) = listen();
    let mut noise = Noise(seed);
    let mut next_tag = 0_u64;
    let reads = Rc::new(Cell::new(0_usize));
    // Reader greenlets, the far ends of their connections, and how much was sent.
    let mut live: HashMap<u64, (switchgrass::Greenlet<TcpStream>, TcpStream)> = HashMap::new();
    for _ in 0..rounds {
        let tags: Vec<u64> = {
            let mut tags: Vec<u64> = live.keys().copied().collect();
            tags.sort_unstable();
            tags
        };
        let any = |noise: &mut Noise| tags.get(noise.below(tags.len().max(1))).copied();
        match noise.below(8) {
            // Opens a connection whose near end waits for its tag, again and again.
            0..=2 if live.len() < 64 => {
                next_tag += 1;
                let tag = next_tag;
                let mut near = TcpStream::connect(address).unwrap();
                let (far, _) = listener.accept().unwrap();
                let reads = reads.clone();
                let reader = spawn(move || {
                    let mut buf = [0; 8];
                    // Half of them read with room to spare, so that a read tells that the socket is empty.
                    loop {
                        let end = if tag.is_multiple_of(2) {
                            near.read_exact(&mut buf).is_err()
                        } else {
                            let mut large = [0; 4096];
                            let n = near.read(&mut large).unwrap();
                            assert_eq!(n % 8, 0);
                            for piece in large[..n].chunks(8) {
                                assert_eq!(u64::from_be_bytes(piece.try_into().unwrap()), tag);
                                reads.set(reads.get() + 1);
                            }
                            if n > 0 {
                                continue;
                            }
                            true
                        };
                        if end {
                            return near;
                        }
                        assert_eq!(u64::from_be_bytes(buf), tag);
                        reads.set(reads.get() + 1);
                    }
                });
                live.insert(tag, (reader, far));
            }
            // Sends a tag.
            0..=4 => {
                if let Some(tag) = any(&mut noise) {
                    live.get_mut(&tag).unwrap().1.write_all(&tag.to_be_bytes()).unwrap();
                }
            }
            // Ends a connection in order; the near end is dropped here or on the other thread.
            5 => {
                if let Some(tag) = any(&mut noise) {
                    let (reader, far) = live.remove(&tag).unwrap();
                    drop(far);
                    let near = reader.join().unwrap();
                    if noise.below(2) == 0 {
                        to_closer.send(near).unwrap();
                    }
                }
            }
            // Kills the reader, which drops the near end while something may be on its way; the far end goes elsewhere.
            6 => {
                if let Some(tag) = any(&mut noise) {
                    let (reader, mut far) = live.remove(&tag).unwrap();
                    let _ = far.write_all(&tag.to_be_bytes());
                    if noise.below(2) == 0 {
                        reader.kill();
                    } else {
                        reader.kill_nowait();
                    }
                    to_closer.send(far).unwrap();
                }
            }
            _ => yield_now(),
        }
    }
    for (_, (reader, far)) in live.drain() {
        drop(far);
        reader.join().unwrap();
    }
    drop(to_closer);
    closer.join().unwrap();
    assert!(next_tag as usize > rounds / 8 && reads.get() > rounds / 8, "{next_tag} {}", reads.get());
}

#[test]
fn reused_numbers_confuse_nobody() {
    time_limit();
    numbers_are_reused(20_000, 7);
}

#[test]
#[ignore = "the long form of reused_numbers_confuse_nobody"]
fn reused_numbers_confuse_nobody_for_long() {
    for seed in 0..50 {
        time_limit();
        numbers_are_reused(20_000, seed);
    }
}

#[test]
fn threads_that_pass_sockets_on_confuse_nobody() {
    time_limit();
    // Each thread makes connections, reads from one end with its own hub, and passes both ends on to the next thread, which
    // reads again and drops them.
    const THREADS: usize = 4;
    const EACH: u64 = 500;
    let channels: Vec<_> = (0..THREADS).map(|_| mpsc::channel::<(u64, TcpStream, TcpStream)>()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(index, incoming)| {
            let next = senders[(index + 1) % THREADS].clone();
            std::thread::spawn(move || {
                let (listener, address) = listen();
                let mut noise = Noise(index as u64);
                let mut got = 0;
                for n in 0..EACH {
                    let tag = (index as u64) << 32 | n;
                    let mut near = TcpStream::connect(address).unwrap();
                    let (mut far, _) = listener.accept().unwrap();
                    check(&mut near, &mut far, tag);
                    if noise.below(2) == 0 {
                        check(&mut far, &mut near, tag);
                    }
                    next.send((tag, near, far)).unwrap();
                    while let Ok((tag, mut near, mut far)) = incoming.try_recv() {
                        check(&mut near, &mut far, tag);
                        got += 1;
                    }
                }
                drop(next);
                (got, incoming)
            })
        })
        .collect();
    drop(senders);
    let mut got = 0;
    for thread in threads {
        let (count, rest) = thread.join().unwrap();
        got += count + rest.into_iter().count() as u64;
    }
    assert_eq!(got, THREADS as u64 * EACH);

    fn check(reader: &mut TcpStream, writer: &mut TcpStream, tag: u64) {
        scope(|s| {
            let reading = s.spawn(|| {
                let mut buf = [0; 8];
                reader.read_exact(&mut buf).unwrap();
                u64::from_be_bytes(buf)
            });
            yield_now();
            writer.write_all(&tag.to_be_bytes()).unwrap();
            assert_eq!(reading.join().unwrap(), tag);
        });
    }
}

// ---- Running out, and not leaking -------------------------------------------------------------------------------------------

fn set_fd_limit(limit: u64) {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the struct is valid for reading.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

#[test]
fn too_many_descriptors_are_an_error_of_accept_and_not_its_end() {
    in_child("net::too_many_descriptors_are_an_error_of_accept_and_not_its_end", || {
        time_limit();
        let (listener, address) = listen();
        let mut first = TcpStream::connect(address).unwrap();
        let waiting = spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"x").unwrap();
            (listener, stream)
        });
        // The hub has all that it needs by then.
        first.read_exact(&mut [0]).unwrap();
        let (listener, _stream) = waiting.join().unwrap();
        let client = TcpStream::connect(address).unwrap();
        set_fd_limit(100);
        let _all_others: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        for _ in 0..3 {
            assert_eq!(listener.accept().unwrap_err().raw_os_error(), Some(libc::EMFILE));
            assert_eq!(TcpStream::connect(address).unwrap_err().raw_os_error(), Some(libc::EMFILE));
            assert_eq!(listener.try_clone().unwrap_err().raw_os_error(), Some(libc::EMFILE));
        }
        drop(first);
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    });
}

/// Opens and closes connections, some at a time; each carries a byte both ways.
fn open_and_close(connections: usize) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = spawn(move || {
        for stream in listener.incoming().take(connections) {
            let mut stream = stream.unwrap();
            spawn(move || {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                stream.write_all(&byte).unwrap();
                assert_eq!(stream.read(&mut byte).unwrap(), 0);
            });
        }
    });
    scope(|s| {
        const CLIENTS: usize = 100;
        for client in 0..CLIENTS {
            s.spawn(move || {
                for n in 0..connections / CLIENTS {
                    // Many addresses, since each port of each rests for a while after use.
                    let host = Ipv4Addr::new(127, 0, (client + 1) as u8, (n % 250) as u8 + 1);
                    let mut stream = TcpStream::connect((host, port)).unwrap();
                    stream.write_all(&[n as u8]).unwrap();
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    assert_eq!(byte, [n as u8]);
                }
            });
        }
    });
    server.join().unwrap();
}

#[test]
fn ten_thousand_connections_leave_no_descriptor() {
    in_child("net::ten_thousand_connections_leave_no_descriptor", || {
        time_limit();
        open_and_close(100);
        yield_now();
        let before = open_fds();
        open_and_close(10_000);
        until(|| open_fds() == before);
    });
}

#[test]
#[ignore = "the long form of ten_thousand_connections_leave_no_descriptor"]
fn two_hundred_thousand_connections_leave_no_descriptor() {
    in_child("net::two_hundred_thousand_connections_leave_no_descriptor", || {
        open_and_close(100);
        yield_now();
        let before = open_fds();
        for _ in 0..20 {
            time_limit();
            open_and_close(10_000);
            until(|| open_fds() == before);
        }
    });
}

#[test]
fn a_reader_that_always_finds_data_starves_nobody() {
    time_limit();
    let (here, mut there) = connected();
    there.write_all(&[7; 1000]).unwrap();
    let turns = Rc::new(Cell::new(0));
    let counter = spawn({
        let turns = turns.clone();
        move || {
            loop {
                turns.set(turns.get() + 1);
                yield_now();
            }
        }
    });
    let reader = spawn(move || {
        for _ in 0..1000 {
            (&here).read_exact(&mut [0]).unwrap();
        }
    });
    reader.join().unwrap();
    // Each of the others has its turn at least every 128 operations.
    assert!(turns.get() >= 1000 / 128, "{}", turns.get());
    counter.kill();
}

#[test]
fn a_loop_that_only_yields_does_not_starve_a_socket() {
    time_limit();
    let (mut here, mut there) = connected();
    let reader = spawn(move || {
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        byte[0]
    });
    // It waits, so only an event can wake it.
    yield_now();
    let yielding = spawn(|| {
        loop {
            yield_now();
        }
    });
    there.write_all(&[7]).unwrap();
    // Nor does main starve it, which only yields, too.
    while !reader.is_ready() {
        yield_now();
    }
    assert_eq!(reader.join().unwrap(), 7);
    yielding.kill();
}
