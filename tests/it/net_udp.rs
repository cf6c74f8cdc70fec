//! UDP.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use switchgrass::net::UdpSocket;
use switchgrass::{scope, spawn, timeout, yield_now};

use crate::net::{SHORT, error_kind, is_close_on_exec, is_nonblocking};
use crate::util::{is_exit, time_limit};

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn an_echo_comes_back() {
    time_limit();
    let (server, address) = socket();
    let echo = spawn(move || {
        let mut buf = [0; 64];
        for _ in 0..100 {
            let (n, from) = server.recv_from(&mut buf).unwrap();
            assert_eq!(server.send_to(&buf[..n], from).unwrap(), n);
        }
    });
    let (client, _) = socket();
    client.connect(address).unwrap();
    assert_eq!(client.peer_addr().unwrap(), address);
    for round in 0..100_u32 {
        client.send(&round.to_be_bytes()).unwrap();
        let mut buf = [0; 64];
        assert_eq!(client.recv(&mut buf).unwrap(), 4);
        assert_eq!(buf[..4], round.to_be_bytes());
    }
    echo.join().unwrap();
}

#[test]
fn a_datagram_shorter_than_the_buffer_does_not_hide_the_next() {
    time_limit();
    let (here, address) = socket();
    let (there, _) = socket();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        [(); 4].map(|()| here.recv_from(&mut buf).unwrap().0)
    });
    yield_now();
    // All come with one event. An empty one is a datagram, too; it ends nothing.
    for text in ["one", "", "three", "four"] {
        there.send_to(text.as_bytes(), address).unwrap();
    }
    assert_eq!(reader.join().unwrap(), [3, 0, 5, 4]);
}

#[test]
fn a_datagram_longer_than_the_buffer_loses_its_rest() {
    time_limit();
    let (here, address) = socket();
    let (there, _) = socket();
    there.send_to(b"hello", address).unwrap();
    there.send_to(b"world", address).unwrap();
    let mut buf = [0; 2];
    assert_eq!((here.recv(&mut buf).unwrap(), &buf), (2, b"he"));
    // Even with no buffer at all: unlike a stream's read, this takes the datagram.
    assert_eq!(here.recv(&mut []).unwrap(), 0);
    assert_eq!(timeout(SHORT, || here.recv(&mut buf)).map(drop), Err(switchgrass::Elapsed));
}

#[test]
fn peek_leaves_the_datagram_where_it_is() {
    time_limit();
    let (here, address) = socket();
    let (there, from) = socket();
    let reader = spawn(move || {
        let mut buf = [0; 64];
        assert_eq!(here.peek_from(&mut buf).unwrap(), (5, from));
        assert_eq!(here.peek(&mut buf).unwrap(), 5);
        assert_eq!(here.recv_from(&mut buf).unwrap(), (5, from));
        assert_eq!(here.peek(&mut buf).unwrap(), 3);
        assert_eq!(here.recv(&mut buf).unwrap(), 3);
    });
    yield_now();
    there.send_to(b"hello", address).unwrap();
    there.send_to(b"you", address).unwrap();
    reader.join().unwrap();
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    time_limit();
    let (here, address) = socket();
    let (friend, friends) = socket();
    let (stranger, _) = socket();
    here.connect(friends).unwrap();
    stranger.send_to(b"hey", address).unwrap();
    friend.send_to(b"hello", address).unwrap();
    let mut buf = [0; 64];
    assert_eq!(here.recv_from(&mut buf).unwrap(), (5, friends));
}

#[test]
fn nobody_there_is_an_error_once_and_then_the_socket_works_on() {
    time_limit();
    let (gone, address) = socket();
    drop(gone);
    let (here, own) = socket();
    here.connect(address).unwrap();
    scope(|s| {
        let reader = s.spawn(|| here.recv(&mut [0; 64]));
        yield_now();
        // The answer that nobody is there comes at once.
        here.send(b"hello?").unwrap();
        assert_eq!(error_kind(reader.join().unwrap()), ErrorKind::ConnectionRefused);
        let there = UdpSocket::bind(address).unwrap();
        for _ in 0..3 {
            let reader = s.spawn(|| here.recv(&mut [0; 64]));
            yield_now();
            assert!(!reader.is_ready());
            there.send_to(b"here", own).unwrap();
            assert_eq!(reader.join().unwrap().unwrap(), 4);
        }
    });
}

#[test]
fn limits_and_not_waiting() {
    time_limit();
    let (here, address) = socket();
    let (there, _) = socket();
    let mut buf = [0; 64];
    assert_eq!(error_kind(here.set_read_timeout(Some(std::time::Duration::ZERO))), ErrorKind::InvalidInput);
    here.set_read_timeout(Some(SHORT)).unwrap();
    here.set_write_timeout(Some(SHORT)).unwrap();
    assert_eq!((here.read_timeout().unwrap(), here.write_timeout().unwrap()), (Some(SHORT), Some(SHORT)));
    assert_eq!(error_kind(here.recv_from(&mut buf)), ErrorKind::TimedOut);
    assert_eq!(error_kind(here.peek(&mut buf)), ErrorKind::TimedOut);
    here.set_nonblocking(true).unwrap();
    assert_eq!(error_kind(here.recv(&mut buf)), ErrorKind::WouldBlock);
    here.set_nonblocking(false).unwrap();
    there.send_to(b"hello", address).unwrap();
    assert_eq!(here.recv(&mut buf).unwrap(), 5);
}

#[test]
fn a_second_reader_gets_an_error_and_a_killed_one_leaves_its_place() {
    time_limit();
    let (here, address) = socket();
    let (there, _) = socket();
    let here = Rc::new(here);
    let first = spawn({
        let here = here.clone();
        move || drop(here.recv(&mut [0; 64]))
    });
    yield_now();
    assert_eq!(error_kind(here.recv(&mut [0; 64])), ErrorKind::ResourceBusy);
    // Sending is the other direction.
    here.send_to(b"out", there.local_addr().unwrap()).unwrap();
    first.kill();
    assert!(is_exit(&first.join()));
    let next = spawn(move || here.recv(&mut [0; 64]));
    yield_now();
    there.send_to(b"in", address).unwrap();
    assert_eq!(next.join().unwrap().unwrap(), 2);
}

#[test]
fn addresses_are_resolved_and_their_absence_is_an_error() {
    time_limit();
    let (here, address) = socket();
    let there = UdpSocket::bind(("localhost", 0)).unwrap();
    there.send_to(b"hello", format!("localhost:{}", address.port())).unwrap();
    assert_eq!(here.recv(&mut [0; 64]).unwrap(), 5);
    let none: &[SocketAddr] = &[];
    assert_eq!(error_kind(there.send_to(b"", none)), ErrorKind::InvalidInput);
    assert_eq!(error_kind(there.connect(none)), ErrorKind::InvalidInput);
    assert_eq!(error_kind(UdpSocket::bind(none)), ErrorKind::InvalidInput);
    assert_eq!(error_kind(UdpSocket::bind(address)), ErrorKind::AddrInUse);
    assert_eq!(
        error_kind(there.send(b"to whom?")),
        std::io::Error::from_raw_os_error(libc::EDESTADDRREQ).kind()
    );
    assert_eq!(error_kind(there.peer_addr()), ErrorKind::NotConnected);
}

#[test]
fn handles_and_conversions() {
    time_limit();
    let (here, address) = socket();
    let (there, _) = socket();
    assert!(is_nonblocking(&here) && is_close_on_exec(&here));
    let clone = here.try_clone().unwrap();
    scope(|s| {
        let reader = s.spawn(|| clone.recv(&mut [0; 64]));
        yield_now();
        there.send_to(b"hello", address).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 5);
    });
    drop(clone);
    let std = std::net::UdpSocket::from(here);
    assert!(!is_nonblocking(&std));
    let here = UdpSocket::from(OwnedFd::from(std));
    assert!(is_nonblocking(&here));
    there.send_to(b"hello", address).unwrap();
    assert_eq!(here.recv(&mut [0; 64]).unwrap(), 5);
}

#[test]
fn options_are_std_s() {
    time_limit();
    let (here, _) = socket();
    here.set_broadcast(true).unwrap();
    here.set_ttl(42).unwrap();
    here.set_multicast_ttl_v4(43).unwrap();
    here.set_multicast_loop_v4(false).unwrap();
    assert_eq!((here.broadcast().unwrap(), here.ttl().unwrap()), (true, 42));
    assert_eq!((here.multicast_ttl_v4().unwrap(), here.multicast_loop_v4().unwrap()), (43, false));
    assert!(here.take_error().unwrap().is_none());
    // What an IPv4 socket cannot do is the system's error.
    assert!(here.multicast_loop_v6().is_err() && here.set_multicast_loop_v6(true).is_err());
    assert!(here.join_multicast_v6(&Ipv6Addr::LOCALHOST, 0).is_err());
    assert!(here.leave_multicast_v6(&Ipv6Addr::LOCALHOST, 0).is_err());

    let group = Ipv4Addr::new(224, 0, 0, 251);
    here.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
    assert_eq!(error_kind(here.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)), ErrorKind::AddrInUse);
    here.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
    assert!(here.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_err());
}
