//! Unix sockets.

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, process};

use switchgrass::net::{UnixDatagram, UnixListener, UnixStream};
use switchgrass::{Greenlet, scope, spawn, timeout, yield_now};

use crate::net::{SHORT, error_kind, is_close_on_exec, is_nonblocking, listen_with, until};
use crate::util::{is_exit, time_limit};

/// A path that nothing has, and that is free again after the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        Place(std::env::temp_dir().join(unique()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("switchgrass-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An address without a file.
fn abstract_address() -> SocketAddr {
    SocketAddr::from_abstract_name(unique()).unwrap()
}

// ---- Streams ----------------------------------------------------------------------------------------------------------------

fn echo(mut stream: UnixStream) -> io::Result<()> {
    let mut buf = [0; 64];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            n => stream.write_all(&buf[..n])?,
        }
    }
}

fn ask(mut stream: UnixStream) {
    for round in 0..100_u32 {
        stream.write_all(&round.to_be_bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(u32::from_be_bytes(answer), round);
    }
}

#[test]
fn an_echo_comes_back_by_path_and_by_address() {
    time_limit();
    let place = Place::new();
    let listener = UnixListener::bind(&place.0).unwrap();
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(&*place.0));
    let server = spawn(move || echo(listener.accept()?.0));
    let stream = UnixStream::connect(&place.0).unwrap();
    assert_eq!(stream.peer_addr().unwrap().as_pathname(), Some(&*place.0));
    assert!(stream.local_addr().unwrap().is_unnamed());
    ask(stream);
    server.join().unwrap().unwrap();

    let address = abstract_address();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let server = spawn(move || {
        let (stream, from) = listener.accept()?;
        assert!(from.is_unnamed());
        echo(stream)
    });
    ask(UnixStream::connect_addr(&address).unwrap());
    server.join().unwrap().unwrap();
}

#[test]
fn incoming_gives_connections_as_they_come() {
    time_limit();
    let address = abstract_address();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let clients = spawn(move || {
        for n in 0..6_u8 {
            UnixStream::connect_addr(&address).unwrap().write_all(&[n]).unwrap();
        }
    });
    let mut found = Vec::new();
    for stream in listener.incoming().take(3) {
        stream.unwrap().read_to_end(&mut found).unwrap();
    }
    for stream in &listener {
        stream.unwrap().read_to_end(&mut found).unwrap();
        if found.len() == 6 {
            break;
        }
    }
    assert_eq!(found, [0, 1, 2, 3, 4, 5]);
    clients.join().unwrap();
}

#[test]
fn connect_fails_as_std_s_does() {
    time_limit();
    let place = Place::new();
    assert_eq!(error_kind(UnixStream::connect(&place.0)), ErrorKind::NotFound);
    drop(UnixListener::bind(&place.0).unwrap());
    assert_eq!(error_kind(UnixStream::connect(&place.0)), ErrorKind::ConnectionRefused);
    assert_eq!(error_kind(UnixListener::bind(&place.0)), ErrorKind::AddrInUse);
    for path in ["x".repeat(200), "with\0zero".to_owned()] {
        let (ours, stds) = (
            UnixStream::connect(&path).unwrap_err(),
            std::os::unix::net::UnixStream::connect(&path).unwrap_err(),
        );
        assert_eq!((ours.kind(), ours.to_string()), (ErrorKind::InvalidInput, stds.to_string()));
    }
    assert_eq!(error_kind(UnixStream::connect_addr(&abstract_address())), ErrorKind::ConnectionRefused);
}

/// A listener whose queue is full, and what fills it.
fn full_listener() -> (UnixListener, SocketAddr, Vec<UnixStream>) {
    let address = abstract_address();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listen_with(&listener, 1);
    let filling =
        vec![UnixStream::connect_addr(&address).unwrap(), UnixStream::connect_addr(&address).unwrap()];
    (listener, address, filling)
}

fn connect(address: &SocketAddr) -> Greenlet<io::Result<UnixStream>> {
    let address = address.clone();
    spawn(move || UnixStream::connect_addr(&address))
}

#[test]
fn connect_waits_while_the_queue_is_full() {
    time_limit();
    let (listener, address, _filling) = full_listener();
    let waiting = connect(&address);
    // So long that it waits for the clock, not only for its turn.
    assert!(timeout(SHORT, switchgrass::park).is_err());
    assert!(!waiting.is_ready());
    drop(listener.accept().unwrap());
    let mut stream = waiting.join().unwrap().unwrap();
    assert!(is_nonblocking(&stream) && is_close_on_exec(&stream));
    drop(listener.accept().unwrap());
    let (mut there, _) = listener.accept().unwrap();
    there.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn a_connect_that_waits_hears_that_the_listener_has_gone() {
    time_limit();
    let (listener, address, _filling) = full_listener();
    let waiting = connect(&address);
    yield_now();
    drop(listener);
    assert_eq!(error_kind(waiting.join().unwrap()), ErrorKind::ConnectionRefused);
}

#[test]
fn a_connect_that_waits_can_be_killed_and_timed_out() {
    time_limit();
    let (_listener, address, _filling) = full_listener();
    let waiting = connect(&address);
    yield_now();
    waiting.kill();
    assert!(is_exit(&waiting.join()));
    assert!(timeout(SHORT, || UnixStream::connect_addr(&address)).is_err());
}

#[test]
fn many_clients_get_through_a_short_queue() {
    time_limit();
    let address = abstract_address();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listen_with(&listener, 1);
    let clients: Vec<_> = (0..100).map(|_| connect(&address)).collect();
    let accepted: Vec<_> = listener.incoming().take(100).map(Result::unwrap).collect();
    for client in clients {
        client.join().unwrap().unwrap();
    }
    assert_eq!(accepted.len(), 100);
}

#[test]
fn sixteen_mebibytes_go_each_way_at_once_over_one_stream() {
    time_limit();
    const LEN: usize = 16 << 20;
    let (here, there) = UnixStream::pair().unwrap();
    let byte = |at: usize, factor: usize| (at.wrapping_mul(factor) >> 5) as u8;
    let send = |mut stream: &UnixStream, factor: usize| {
        for at in (0..LEN).step_by(1 << 18) {
            let piece: Vec<u8> = (at..at + (1 << 18)).map(|at| byte(at, factor)).collect();
            stream.write_all(&piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
    };
    let receive = |mut stream: &UnixStream, factor: usize| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len() == LEN && all.iter().enumerate().all(|(at, &found)| found == byte(at, factor))
    };
    scope(|s| {
        s.spawn(|| send(&here, 3));
        s.spawn(|| send(&there, 5));
        let (one, other) = (s.spawn(|| receive(&here, 5)), s.spawn(|| receive(&there, 3)));
        assert!(one.join().unwrap() && other.join().unwrap());
    });
}

#[test]
fn the_end_is_read_after_a_short_read_and_with_the_data() {
    time_limit();
    for end_at_once in [false, true] {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let got = Rc::new(Cell::new(0));
        let reader = spawn({
            let got = got.clone();
            move || {
                let mut buf = [0; 64];
                got.set(here.read(&mut buf).unwrap());
                here.read(&mut buf).unwrap()
            }
        });
        yield_now();
        there.write_all(b"hello").unwrap();
        if !end_at_once {
            until(|| got.get() == 5);
        }
        drop(there);
        assert_eq!(reader.join().unwrap(), 0);
        assert_eq!(got.get(), 5);
    }
}

/// Sends a byte with a descriptor attached.
fn send_with_descriptor(stream: &UnixStream, byte: u8) {
    let mut vector = libc::iovec { iov_base: (&raw const byte).cast_mut().cast(), iov_len: 1 };
    let mut control = [0_u64; 8];
    // SAFETY: all zeroes is a valid msghdr. The buffer has room for a header and one descriptor, and is aligned for it; the
    // pointers are valid during the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(stream.as_raw_fd());
        assert_eq!(libc::sendmsg(stream.as_raw_fd(), &message, 0), 1);
    }
}

#[test]
fn a_read_that_ends_early_at_a_descriptor_does_not_lose_what_follows() {
    time_limit();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        let mut text = Vec::new();
        while !text.ends_with(b"end") {
            let n = here.read(&mut buf).unwrap();
            text.extend_from_slice(&buf[..n]);
        }
        text
    });
    yield_now();
    send_with_descriptor(&there, b'>');
    there.write_all(b"the end").unwrap();
    assert_eq!(reader.join().unwrap(), b">the end");
}

#[test]
fn streams_wait_end_and_refuse_as_tcp_s_do() {
    time_limit();
    let (here, mut there) = UnixStream::pair().unwrap();
    scope(|s| {
        let first = s.spawn(|| (&here).read(&mut [0; 5]));
        yield_now();
        assert_eq!(error_kind((&here).read(&mut [0; 5])), ErrorKind::ResourceBusy);
        there.write_all(b"x").unwrap();
        assert_eq!(first.join().unwrap().unwrap(), 1);
    });
    assert_eq!(error_kind(here.set_read_timeout(Some(Duration::ZERO))), ErrorKind::InvalidInput);
    here.set_read_timeout(Some(SHORT)).unwrap();
    here.set_write_timeout(Some(SHORT)).unwrap();
    assert_eq!((here.read_timeout().unwrap(), here.write_timeout().unwrap()), (Some(SHORT), Some(SHORT)));
    assert_eq!(error_kind((&here).read(&mut [0; 5])), ErrorKind::TimedOut);
    assert_eq!(error_kind((&here).write_all(&[0; 16 << 20])), ErrorKind::TimedOut);
    assert_eq!((&here).read(&mut []).unwrap(), 0);
    assert_eq!((&here).write(&[]).unwrap(), 0);
    here.set_nonblocking(true).unwrap();
    assert_eq!(error_kind((&here).read(&mut [0; 5])), ErrorKind::WouldBlock);
    here.set_nonblocking(false).unwrap();
    here.set_read_timeout(None).unwrap();
    scope(|s| {
        let reader = s.spawn(|| (&here).read(&mut [0; 5]));
        yield_now();
        here.shutdown(Shutdown::Both).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
    });
    assert!(here.take_error().unwrap().is_none());
}

#[test]
fn shutdown_by_another_greenlet_or_thread_wakes_the_writer() {
    time_limit();
    let (stream, _peer) = UnixStream::pair().unwrap();
    let stream = Rc::new(stream);
    let writer = spawn({
        let stream = stream.clone();
        move || (&*stream).write_all(&[0; 16 << 20])
    });
    yield_now();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(error_kind(writer.join().unwrap()), ErrorKind::BrokenPipe);

    let (stream, _peer) = UnixStream::pair().unwrap();
    let stream = Arc::new(stream);
    let writer = spawn({
        let stream = stream.clone();
        move || (&*stream).write_all(&[0; 16 << 20])
    });
    yield_now();
    switchgrass::unblock(move || stream.shutdown(Shutdown::Write)).unwrap();
    assert_eq!(error_kind(writer.join().unwrap()), ErrorKind::BrokenPipe);

    let (socket, _peer) = UnixDatagram::pair().unwrap();
    scope(|s| {
        let writer = s.spawn(|| {
            loop {
                if let Err(error) = socket.send(&[0; 1000]) {
                    return error.kind();
                }
            }
        });
        yield_now();
        assert!(!writer.is_ready());
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(writer.join().unwrap(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn several_buffers_are_read_and_written_at_once() {
    time_limit();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let reader = spawn(move || {
        let (mut head, mut body) = ([0; 4], [0; 60]);
        let n = here.read_vectored(&mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut body)]).unwrap();
        assert_eq!((n, &head, &body[..5]), (9, b"head", &b"body!"[..]));
    });
    yield_now();
    assert_eq!(there.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(b"body!")]).unwrap(), 9);
    reader.join().unwrap();
}

#[test]
fn handles_and_conversions() {
    time_limit();
    let (here, mut there) = UnixStream::pair().unwrap();
    assert!(is_nonblocking(&here) && is_close_on_exec(&here));
    let mut clone = here.try_clone().unwrap();
    let reader = spawn(move || clone.read(&mut [0; 5]));
    yield_now();
    there.write_all(b"x").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), 1);
    let std = std::os::unix::net::UnixStream::from(here);
    assert!(!is_nonblocking(&std));
    let mut here = UnixStream::from(OwnedFd::from(std));
    let reader = spawn(move || here.read(&mut [0; 5]));
    yield_now();
    there.write_all(b"x").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), 1);

    let address = abstract_address();
    let listener = UnixListener::from(std::os::unix::net::UnixListener::bind_addr(&address).unwrap());
    assert!(is_nonblocking(&listener));
    let clone = listener.try_clone().unwrap();
    drop(listener);
    let waiting = spawn(move || clone.accept().map(|(stream, _)| (clone, stream)));
    yield_now();
    let _client = UnixStream::connect_addr(&address).unwrap();
    let (listener, accepted) = waiting.join().unwrap().unwrap();
    assert!(is_nonblocking(&accepted) && is_close_on_exec(&accepted));
    listener.set_nonblocking(true).unwrap();
    assert_eq!(error_kind(listener.accept()), ErrorKind::WouldBlock);
    assert!(listener.take_error().unwrap().is_none());
    listener.set_nonblocking(false).unwrap();
    assert!(!is_nonblocking(std::os::unix::net::UnixListener::from(listener)));
}

// ---- Datagrams --------------------------------------------------------------------------------------------------------------

#[test]
fn datagrams_go_by_path_by_address_and_by_connection() {
    time_limit();
    let place = Place::new();
    let by_path = UnixDatagram::bind(&place.0).unwrap();
    let address = abstract_address();
    let by_address = UnixDatagram::bind_addr(&address).unwrap();
    let unbound = UnixDatagram::unbound().unwrap();
    assert!(unbound.local_addr().unwrap().is_unnamed());
    let mut buf = [0; 64];

    assert_eq!(by_address.send_to(b"hello", &place.0).unwrap(), 5);
    let (n, from) = by_path.recv_from(&mut buf).unwrap();
    assert_eq!((n, from.as_abstract_name()), (5, address.as_abstract_name()));

    assert_eq!(by_path.send_to_addr(b"hi", &address).unwrap(), 2);
    let (n, from) = by_address.recv_from(&mut buf).unwrap();
    assert_eq!((n, from.as_pathname()), (2, Some(&*place.0)));

    for connect in [&|| unbound.connect(&place.0) as io::Result<()>, &|| unbound.connect_addr(&address)]
        as [&dyn Fn() -> io::Result<()>; 2]
    {
        connect().unwrap();
        unbound.send(b"anonymous").unwrap();
    }
    assert_eq!(unbound.peer_addr().unwrap().as_abstract_name(), address.as_abstract_name());
    assert_eq!(by_path.recv(&mut buf).unwrap(), 9);
    assert_eq!(by_address.recv(&mut buf).unwrap(), 9);
    assert_eq!(error_kind(unbound.send_to(b"", "/no/such/place")), ErrorKind::NotFound);
}

#[test]
fn a_datagram_shorter_than_the_buffer_does_not_hide_the_next() {
    time_limit();
    let (here, there) = UnixDatagram::pair().unwrap();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        [(); 4].map(|()| here.recv(&mut buf).unwrap())
    });
    yield_now();
    for text in ["one", "", "three", "four"] {
        there.send(text.as_bytes()).unwrap();
    }
    assert_eq!(reader.join().unwrap(), [3, 0, 5, 4]);
}

/// Sends more datagrams than any queue holds before anything is received. `on_thread`: to a receiver that shares no hub.
fn flood(send: impl Fn(&[u8]) + 'static, receiver: UnixDatagram, on_thread: bool) {
    const COUNT: u32 = 2_000;
    let sender = spawn(move || (0..COUNT).for_each(|n| send(&n.to_be_bytes())));
    yield_now();
    assert!(!sender.is_ready());
    let receive = move || {
        for n in 0..COUNT {
            let mut buf = [0; 64];
            assert_eq!(receiver.recv(&mut buf).unwrap(), 4);
            assert_eq!(buf[..4], n.to_be_bytes());
        }
    };
    if on_thread {
        switchgrass::unblock(receive);
    } else {
        receive();
    }
    sender.join().unwrap();
}

#[test]
fn who_sends_to_a_full_queue_waits_and_nothing_is_lost() {
    time_limit();
    for on_thread in [false, true] {
        let (here, there) = UnixDatagram::pair().unwrap();
        flood(move |bytes| assert_eq!(here.send(bytes).unwrap(), 4), there, on_thread);

        let address = abstract_address();
        let (here, there) = (UnixDatagram::unbound().unwrap(), UnixDatagram::bind_addr(&address).unwrap());
        here.connect_addr(&address).unwrap();
        flood(move |bytes| assert_eq!(here.send(bytes).unwrap(), 4), there, on_thread);

        let address = abstract_address();
        let (here, there) = (UnixDatagram::unbound().unwrap(), UnixDatagram::bind_addr(&address).unwrap());
        flood(move |bytes| assert_eq!(here.send_to_addr(bytes, &address).unwrap(), 4), there, on_thread);

        let place = Place::new();
        let path = place.0.clone();
        let (here, there) = (UnixDatagram::unbound().unwrap(), UnixDatagram::bind(&path).unwrap());
        flood(move |bytes| assert_eq!(here.send_to(bytes, &path).unwrap(), 4), there, on_thread);
    }
}

#[test]
fn who_sends_to_a_full_queue_is_limited_and_need_not_wait() {
    time_limit();
    let address = abstract_address();
    let (here, _there) = (UnixDatagram::unbound().unwrap(), UnixDatagram::bind_addr(&address).unwrap());
    here.set_nonblocking(true).unwrap();
    let error = loop {
        if let Err(error) = here.send_to_addr(b"x", &address) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    here.set_nonblocking(false).unwrap();
    here.set_write_timeout(Some(SHORT)).unwrap();
    let error = here.send_to_addr(b"x", &address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("send_to of fd"), "{error}");
    here.connect_addr(&address).unwrap();
    assert_eq!(error_kind(here.send(b"x")), ErrorKind::TimedOut);
    here.set_write_timeout(None).unwrap();
    let waiting = spawn(move || here.send_to_addr(b"x", &address));
    yield_now();
    waiting.kill();
    assert!(is_exit(&waiting.join()));
}

#[test]
fn datagram_sockets_wait_end_and_refuse_as_others_do() {
    time_limit();
    let (here, there) = UnixDatagram::pair().unwrap();
    scope(|s| {
        let first = s.spawn(|| here.recv(&mut [0; 5]));
        yield_now();
        assert_eq!(error_kind(here.recv(&mut [0; 5])), ErrorKind::ResourceBusy);
        there.send(b"x").unwrap();
        assert_eq!(first.join().unwrap().unwrap(), 1);
        let reader = s.spawn(|| here.recv(&mut [0; 5]));
        yield_now();
        here.shutdown(Shutdown::Read).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        let (n, from) = here.recv_from(&mut [0; 5]).unwrap();
        assert!(n == 0 && from.is_unnamed());
    });
    let (here, there) = UnixDatagram::pair().unwrap();
    here.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!((here.read_timeout().unwrap(), here.write_timeout().unwrap()), (Some(SHORT), None));
    assert_eq!(error_kind(here.recv_from(&mut [0; 5])), ErrorKind::TimedOut);
    here.set_nonblocking(true).unwrap();
    assert_eq!(error_kind(here.recv(&mut [0; 5])), ErrorKind::WouldBlock);
    here.set_nonblocking(false).unwrap();
    let clone = there.try_clone().unwrap();
    drop(there);
    clone.send(b"from the clone").unwrap();
    assert_eq!(here.recv(&mut [0; 64]).unwrap(), 14);
    assert!(is_nonblocking(&here) && is_close_on_exec(&here));
    let std = std::os::unix::net::UnixDatagram::from(here);
    assert!(!is_nonblocking(&std));
    let here = UnixDatagram::from(std);
    clone.send(b"again").unwrap();
    assert_eq!(here.recv(&mut [0; 64]).unwrap(), 5);
    assert!(here.take_error().unwrap().is_none());
}
