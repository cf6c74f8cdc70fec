//! `DatagramServer` and `UnixDatagramServer`.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use switchgrass::net::{UdpSocket, UnixDatagram};
use switchgrass::server::{AfterError, DatagramServer, Stopped, UnixDatagramServer};
use switchgrass::{current, park, sleep, spawn, testing, yield_now};

use crate::util::{HOUR, OnDrop, secs};

/// A free port of a loopback address that no other test uses.
fn here() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (NEXT.fetch_add(1, Ordering::Relaxed) + 2).to_be_bytes();
    SocketAddr::from(([127, 2, high, low], 0))
}

/// A server that has been started.
fn serve(handler: impl Fn(Vec<u8>, SocketAddr, &UdpSocket) + 'static) -> DatagramServer {
    let server = DatagramServer::bind(here(), handler).unwrap();
    server.start();
    server
}

fn echo(data: Vec<u8>, peer: SocketAddr, socket: &UdpSocket) {
    assert_eq!(socket.send_to(&data, peer).unwrap(), data.len());
}

/// A socket that is connected to the server.
fn client(server: &DatagramServer) -> UdpSocket {
    let client = UdpSocket::bind(here()).unwrap();
    client.connect(server.local_addr()).unwrap();
    client
}

fn ask(client: &UdpSocket, data: &[u8]) -> Vec<u8> {
    client.send(data).unwrap();
    receive(client)
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 70_000];
    let len = client.recv(&mut answer).unwrap();
    answer.truncate(len);
    answer
}

fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        yield_now();
    }
}

fn many_turns() {
    (0..2000).for_each(|_| yield_now());
}

/// A path that no other test uses, and the file there, which goes away with this.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("switchgrass-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&place);
        Place(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

// ---- Datagrams ------------------------------------------------------------------------------------------------------

#[test]
fn each_datagram_has_a_greenlet_of_its_own() {
    let ids = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&ids);
    let server = serve(move |data, peer, socket| {
        seen.borrow_mut().push(current().id());
        if data == b"first" {
            park();
        }
        echo(data, peer, socket);
    });
    let client = client(&server);
    client.send(b"first").unwrap();
    assert_eq!(ask(&client, b"second"), b"second");
    assert_eq!((server.datagrams(), server.statistics().accepted), (1, 2));
    let ids = ids.borrow();
    assert!(ids.len() == 2 && ids[0] != ids[1]);
}

#[test]
fn the_handler_is_told_who_sends() {
    let server = serve(|_, peer, socket| drop(socket.send_to(peer.to_string().as_bytes(), peer)));
    let client = client(&server);
    assert_eq!(ask(&client, b"?"), client.local_addr().unwrap().to_string().as_bytes());
}

#[test]
fn the_longest_datagram_comes_whole() {
    let server = serve(echo);
    let client = client(&server);
    // An IP packet has 65,535 bytes, its head 20, that of UDP 8.
    let longest: Vec<u8> = (0..65_507_u32).map(|n| n as u8).collect();
    assert_eq!(ask(&client, &longest), longest);
    assert_eq!(ask(&client, b""), b"");
}

#[test]
fn a_handler_that_panics_is_its_own_misfortune() {
    let server = serve(|data, peer, socket| {
        if data == b"p" {
            std::panic::resume_unwind(Box::new(()));
        }
        echo(data, peer, socket);
    });
    let client = client(&server);
    client.send(b"p").unwrap();
    assert_eq!(ask(&client, b"well"), b"well");
    assert_eq!(server.datagrams(), 0);
}

#[test]
fn a_server_that_is_full_stops_reading() {
    let server = DatagramServer::bind(here(), |data, peer, socket| {
        if data == b"wait" {
            park();
        }
        echo(data, peer, socket);
    })
    .unwrap()
    .max_datagrams(2);
    server.start();
    let client = client(&server);
    for _ in 0..2 {
        client.send(b"wait").unwrap();
    }
    client.send(b"third").unwrap();
    until(|| server.is_full());
    many_turns();
    assert_eq!((server.statistics().accepted, server.datagrams()), (2, 2));
    assert!(server.is_accepting());
    // The third is in the kernel's queue, and lost with the socket.
    assert_eq!(server.stop(Duration::ZERO), Stopped { finished: 0, killed: 2 });
    assert_eq!(server.statistics().accepted, 2);
}

#[test]
fn a_server_that_was_full_reads_on_when_a_handler_has_returned() {
    let server = DatagramServer::bind(here(), |data, peer, socket| {
        yield_now();
        echo(data, peer, socket);
    })
    .unwrap()
    .max_datagrams(1);
    server.start();
    let client = client(&server);
    for n in 0..20_u8 {
        client.send(&[n]).unwrap();
    }
    let answers: Vec<u8> = (0..20).map(|_| receive(&client)[0]).collect();
    assert_eq!(answers, (0..20).collect::<Vec<u8>>());
}

#[test]
fn after_max_accept_datagrams_the_others_have_their_turn() {
    let server = DatagramServer::bind(here(), echo).unwrap().max_accept(10);
    let client = client(&server);
    for _ in 0..35 {
        client.send(b"!").unwrap();
    }
    server.start();
    let mut received = Vec::new();
    until(|| {
        let now = server.statistics().accepted;
        if received.last() != Some(&now) {
            received.push(now);
        }
        now == 35
    });
    assert_eq!(received, [0, 10, 20, 30, 35]);
}

// ---- Stopping -------------------------------------------------------------------------------------------------------

#[test]
fn stop_gives_handlers_the_grace_time_in_which_they_may_answer() {
    testing::virtual_clock();
    let server = serve(|data, peer, socket| {
        sleep(secs(u64::from(data[0])));
        echo(data, peer, socket);
    });
    let client = client(&server);
    client.send(&[1]).unwrap();
    client.send(&[100]).unwrap();
    until(|| server.datagrams() == 2);
    let start = testing::now();
    assert_eq!(server.stop(secs(5)), Stopped { finished: 1, killed: 1 });
    assert_eq!(testing::now() - start, secs(5));
    assert_eq!(receive(&client), [1]);
    // The address is free.
    drop(UdpSocket::bind(server.local_addr()).unwrap());
}

#[test]
fn dropping_the_last_clone_closes_the_socket() {
    let server = serve(echo);
    let address = server.local_addr();
    assert_eq!(ask(&client(&server), b"!"), b"!");
    drop(server);
    until(|| UdpSocket::bind(address).is_ok());
}

#[test]
fn serve_forever_returns_after_close_when_the_last_handler_has_returned() {
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    let server = DatagramServer::bind(here(), move |_, _, _| {
        yield_now();
        flag.set(true);
    })
    .unwrap();
    let closing = server.clone();
    spawn(move || {
        client(&closing).send(b"!").unwrap();
        until(|| closing.statistics().accepted == 1);
        closing.close();
    });
    server.serve_forever().unwrap();
    assert!(done.get());
}

#[test]
fn datagrams_wait_while_the_server_does_not_accept() {
    let server = serve(echo);
    let client = client(&server);
    assert_eq!(ask(&client, b"1"), b"1");
    server.stop_accepting();
    client.send(b"2").unwrap();
    many_turns();
    assert_eq!(server.statistics().accepted, 1);
    server.start_accepting();
    assert_eq!(receive(&client), b"2");
}

#[test]
fn another_socket_takes_over_and_nothing_that_was_sent_is_lost() {
    let server = serve(echo);
    let (old, address) = (client(&server), server.local_addr());
    assert_eq!(ask(&old, b"1"), b"1");
    old.send(b"2").unwrap();
    server.set_listener(UdpSocket::bind(here()).unwrap()).unwrap();
    assert_ne!(server.local_addr(), address);
    assert_eq!(receive(&old), b"2");
    assert_eq!(ask(&client(&server), b"3"), b"3");
    // The old one is closed.
    drop(UdpSocket::bind(address).unwrap());
}

// ---- Errors -----------------------------------------------------------------------------------------------------------

#[test]
fn a_refusal_of_a_peer_that_is_gone_does_not_stop_the_server() {
    // On a connected socket, an ICMP error for what was sent is the result of the next receive.
    let socket = UdpSocket::bind(here()).unwrap();
    let peer = UdpSocket::bind(here()).unwrap();
    let peer_address = peer.local_addr().unwrap();
    socket.connect(peer_address).unwrap();
    peer.connect(socket.local_addr().unwrap()).unwrap();
    let server = DatagramServer::new(socket, echo).unwrap();
    server.start();
    peer.send(b"answer me").unwrap();
    drop(peer);
    until(|| server.statistics().errors == 1);
    let peer = UdpSocket::bind(peer_address).unwrap();
    peer.send_to(b"again", server.local_addr()).unwrap();
    assert_eq!(receive(&peer), b"again");
}

// ---- Unix sockets -------------------------------------------------------------------------------------------------------

#[test]
fn a_unix_server_answers_who_has_a_name() {
    let (here, there) = (Place::new("datagram-server"), Place::new("datagram-client"));
    let server = UnixDatagramServer::bind(&here.0, |data, peer, socket| match peer.as_pathname() {
        Some(path) => drop(socket.send_to(&data, path).unwrap()),
        None => assert_eq!(data, b"nobody"),
    })
    .unwrap();
    server.start();
    assert_eq!(server.local_addr().as_pathname(), Some(&*here.0));
    UnixDatagram::unbound().unwrap().send_to(b"nobody", &here.0).unwrap();
    let client = UnixDatagram::bind(&there.0).unwrap();
    // More than fits into a UDP datagram.
    let long = vec![7; 150_000];
    client.send_to(&long, &here.0).unwrap();
    let mut answer = vec![0; 200_000];
    assert_eq!(client.recv(&mut answer).unwrap(), long.len());
    assert!(answer[..long.len()] == long);
    assert_eq!(server.statistics().accepted, 2);
    assert_eq!(server.stop(HOUR), Stopped { finished: 0, killed: 0 });
    assert_eq!(client.send_to(b"!", &here.0).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_unix_datagram_of_no_bytes_is_one() {
    let place = Place::new("datagram-empty");
    let server = UnixDatagramServer::bind(&place.0, |data, _, _| assert!(data.is_empty())).unwrap();
    server.start();
    UnixDatagram::unbound().unwrap().send_to(b"", &place.0).unwrap();
    until(|| server.statistics().accepted == 1);
    many_turns();
    assert!(server.is_accepting());
    assert_eq!(server.statistics().errors, 0);
}

#[test]
fn a_socket_that_was_shut_down_closes_the_server() {
    let place = Place::new("datagram-shut");
    let socket = UnixDatagram::bind(&place.0).unwrap();
    let same = socket.try_clone().unwrap();
    let server = UnixDatagramServer::new(socket, |_, _, _| {}).unwrap();
    server.start();
    yield_now();
    same.shutdown(Shutdown::Read).unwrap();
    let error = server.serve_forever().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESHUTDOWN));
    assert!(server.is_closed());
}

/// The socket's own limit is raised, which takes a process that may (`CAP_NET_ADMIN`).
#[test]
fn a_datagram_that_is_too_long_is_an_error_and_not_cut_off() {
    let place = Place::new("datagram-long");
    let errors = Rc::new(RefCell::new(Vec::new()));
    let note = Rc::clone(&errors);
    let server = UnixDatagramServer::bind(&place.0, |data, _, _| assert_eq!(data, b"short"))
        .unwrap()
        .after_error(move |error| {
            note.borrow_mut().push(error.to_string());
            AfterError::usual(error)
        });
    server.start();
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let size: libc::c_int = 4 << 20;
    // SAFETY: the option's value is an int, and its size is told.
    let raised = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&client),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if raised == -1 {
        return eprintln!("not tested: {}", io::Error::last_os_error());
    }
    let client = UnixDatagram::from(OwnedFd::from(client));
    client.send_to(&vec![1; (1 << 20) + 1], &place.0).unwrap();
    client.send_to(b"short", &place.0).unwrap();
    until(|| server.statistics().accepted == 1);
    assert_eq!(errors.borrow().len(), 1);
    assert!(errors.borrow()[0].contains("more than 1048576 bytes"));
}

#[test]
fn a_handler_that_waits_is_unwound_at_the_end_of_stop() {
    let unwound = Rc::new(Cell::new(false));
    let flag = Rc::clone(&unwound);
    let server = serve(move |_, _, _| {
        let flag = Rc::clone(&flag);
        let _flag = OnDrop(move || flag.set(true));
        park();
    });
    client(&server).send(b"!").unwrap();
    until(|| server.datagrams() == 1);
    yield_now();
    server.stop(Duration::ZERO);
    assert!(unwound.get());
}
