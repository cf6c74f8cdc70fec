//! `std::net`, `std::os::unix::net`, `std::thread::sleep`.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use switchgrass::{joinall, spawn};

use crate::util::{
    Overlap, TempDir, all_at_once, checked, in_greenlet, let_all_run, patched, tcp_pair, waits,
};

#[test]
fn a_hundred_greenlets_sleep_at_once() {
    all_at_once(100, |_| std::thread::sleep(Duration::from_millis(300)));
}

#[test]
fn a_hundred_greenlets_read_at_once_from_a_server_in_greenlets() {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        // Answers only when all are there.
        let mut streams: Vec<TcpStream> = (0..100).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
    });
    all_at_once(100, move |number| {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = (number as u32).to_be_bytes();
        stream.write_all(&request).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, request);
        assert_eq!(stream.read(&mut answer).unwrap(), 0);
    });
    server.join().unwrap();
}

#[test]
fn a_hundred_greenlets_wait_for_one_listener() {
    patched();
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let inside = Arc::new(Overlap::default());
    let greenlets: Vec<_> = (0..100)
        .map(|_| {
            let (listener, inside) = (Arc::clone(&listener), Arc::clone(&inside));
            spawn(move || inside.during(|| listener.accept().unwrap()).1)
        })
        .collect();
    let_all_run();
    assert_eq!(inside.most(), 100);
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut accepted: Vec<_> = greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).collect();
    let mut connected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
    accepted.sort();
    connected.sort();
    assert_eq!(accepted, connected);
}

/// Each connection is accepted once; nobody is told `WouldBlock` of a listener that is blocking, though accepting makes it non-blocking for
/// moments, and though others change the settings of other descriptors all the time.
#[test]
fn greenlets_of_two_hubs_and_os_threads_accept_on_one_listener() {
    const EACH: usize = 200;
    patched();
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let hubs: Vec<_> = (0..2)
        .map(|_| {
            let listener = Arc::clone(&listener);
            std::thread::spawn(move || {
                let greenlets: Vec<_> = (0..4)
                    .map(|_| {
                        let listener = Arc::clone(&listener);
                        spawn(move || (0..EACH / 4).for_each(|_| drop(listener.accept().unwrap())))
                    })
                    .collect();
                joinall(&greenlets);
                greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
            })
        })
        .collect();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let listener = Arc::clone(&listener);
            std::thread::spawn(move || (0..EACH).for_each(|_| drop(listener.accept().unwrap())))
        })
        .collect();
    let changes = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let (socket, _other) = UnixStream::pair().unwrap();
            while !done.load(Ordering::Relaxed) {
                socket.set_nonblocking(true).unwrap();
            }
        }
    });
    let clients: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || (0..2 * EACH).for_each(|_| drop(TcpStream::connect(address).unwrap())))
        })
        .collect();
    for thread in hubs.into_iter().chain(threads).chain(clients) {
        thread.join().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    changes.join().unwrap();
}

/// What is set while others accept is not undone by them.
#[test]
fn a_listener_stays_nonblocking_that_is_made_so_while_others_accept() {
    patched();
    for _ in 0..200 {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let accepts = std::thread::spawn({
            let listener = Arc::clone(&listener);
            move || {
                // Made non-blocking meanwhile, it says so; and must not be made blocking again.
                spawn(move || while listener.accept().is_ok() {}).join().unwrap();
            }
        });
        let _clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        listener.set_nonblocking(true).unwrap();
        let _last = TcpStream::connect(address).unwrap();
        accepts.join().unwrap();
        // SAFETY: F_GETFL takes no argument.
        let flags = unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFL) };
        assert_ne!(flags & libc::O_NONBLOCK, 0);
    }
}

#[test]
fn connecting_where_nobody_listens_is_refused() {
    patched();
    spawn(|| {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let error = TcpStream::connect_timeout(&address, Duration::from_secs(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    })
    .join()
    .unwrap();
}

/// A listener whose queue is full answers no more: as a host that is not there.
#[test]
fn connecting_to_who_does_not_answer_ends_in_time_and_others_run_meanwhile() {
    patched();
    let (address, _full) = silent();
    let other = spawn(|| std::thread::sleep(Duration::from_millis(1)));
    let connecting = spawn(move || TcpStream::connect_timeout(&address, Duration::from_millis(50)));
    joinall([&other.handle()]);
    assert!(!connecting.is_ready());
    assert_eq!(connecting.join().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
}

/// Where nobody answers.
pub(crate) fn silent() -> (SocketAddr, Vec<OwnedFd>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // SAFETY: changes the length of the queue.
    unsafe { libc::listen(listener.as_raw_fd(), 0) };
    let mut kept = vec![OwnedFd::from(listener)];
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(20)) {
        kept.push(stream.into());
    }
    (address, kept)
}

/// A connect whose time is over goes on; the next one waits for its end, as the first would have.
#[test]
fn a_second_connect_waits_for_what_the_first_has_begun() {
    patched();
    let (address, mut full) = silent();
    // SAFETY: takes numbers; the result is ours. The address is as long as is said.
    let (socket, connect) = unsafe {
        let socket = OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0));
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as _,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
            sin_zero: [0; 8],
        };
        let size = size_of::<libc::sockaddr_in>() as u32;
        (socket, move |fd| checked(libc::connect(fd, (&raw const to).cast(), size)))
    };
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
    let fd = stream.as_raw_fd();
    assert_eq!(in_greenlet(move || connect(fd)), Err(libc::EINPROGRESS));
    stream.set_write_timeout(None).unwrap();
    let listener = TcpListener::from(full.remove(0));
    listener.set_nonblocking(true).unwrap();
    // There is room then, which the kernel tries for again after a second.
    let connected = waits(move || connect(fd), || while listener.accept().is_ok() {});
    assert_eq!(connected, Ok(0));
}

#[test]
fn a_hundred_greenlets_connect_with_a_time_limit_at_once() {
    patched();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || {
        let _streams: Vec<_> = (0..100).map(|_| listener.accept().unwrap()).collect();
    });
    all_at_once(100, move |_| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(100)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    server.join().unwrap();
}

fn limit_holds(stream: &TcpStream) {
    let start = Instant::now();
    let error = (&*stream).read(&mut [0]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    assert!(start.elapsed() >= Duration::from_millis(5));
}

#[test]
fn read_timeouts_hold_set_again_on_a_clone_and_cleared() {
    patched();
    spawn(|| {
        let (stream, mut peer) = tcp_pair();
        let before = stream.try_clone().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1000))).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        assert!(stream.read_timeout().unwrap().unwrap() < Duration::from_secs(1));
        let after = stream.try_clone().unwrap();
        [&stream, &before, &after, &stream].into_iter().for_each(limit_holds);
        // Cleared by a clone, for all of them.
        before.set_read_timeout(None).unwrap();
        let reader = spawn(move || {
            for mut stream in [stream, before, after] {
                stream.read_exact(&mut [0]).unwrap();
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_ready());
        peer.write_all(b"abc").unwrap();
        reader.join().unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_write_timeout_ends_a_write_to_who_does_not_read() {
    patched();
    spawn(|| {
        let (mut stream, _peer) = tcp_pair();
        stream.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut written = 0;
        // What is through before the time is over is told, then that it is over.
        let error = loop {
            match stream.write(&[0; 1 << 20]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        assert!(written > 0);
    })
    .join()
    .unwrap();
}

#[test]
fn a_time_limit_of_udp_holds_too() {
    patched();
    spawn(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        assert_eq!(socket.recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        socket.set_read_timeout(None).unwrap();
        let own = socket.local_addr().unwrap();
        let other = socket.try_clone().unwrap();
        waits(
            move || socket.recv_from(&mut [0]).unwrap(),
            || assert_eq!(other.send_to(b"!", own).unwrap(), 1),
        );
    })
    .join()
    .unwrap();
}

#[test]
fn what_is_nonblocking_says_so_whichever_clone_was_told() {
    patched();
    spawn(|| {
        let (stream, peer) = tcp_pair();
        let before = stream.try_clone().unwrap();
        waits(
            {
                let mut stream = stream.try_clone().unwrap();
                move || stream.read(&mut [0]).unwrap()
            },
            || (&peer).write_all(b"!").unwrap(),
        );
        before.set_nonblocking(true).unwrap();
        let after = stream.try_clone().unwrap();
        for mut stream in [&stream, &before, &after] {
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            assert_eq!(stream.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        after.set_nonblocking(false).unwrap();
        waits(move || (&stream).read(&mut [0]).unwrap(), || (&peer).write_all(b"!").unwrap());

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let clone = listener.try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(clone.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        clone.set_nonblocking(false).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, _client) = {
            let accepting = spawn(move || listener.accept().unwrap().0);
            let_all_run();
            let client = TcpStream::connect(address).unwrap();
            (accepting.join().unwrap(), client)
        };
        // SAFETY: F_GETFL takes no argument.
        let flags = unsafe { libc::fcntl(accepted.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0, "accepted ones block, however we accept");
    })
    .join()
    .unwrap();
}

#[test]
fn a_peek_waits_and_takes_nothing() {
    let (mut stream, mut peer) = {
        patched();
        tcp_pair()
    };
    waits(
        move || {
            let mut buffer = [0; 5];
            assert_eq!(stream.peek(&mut buffer).unwrap(), 5);
            assert_eq!(stream.peek(&mut buffer).unwrap(), 5);
            stream.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"hello");
            assert_eq!(stream.peek(&mut buffer).unwrap(), 0);
        },
        move || peer.write_all(b"hello").unwrap(),
    );
}

#[test]
fn a_shutdown_by_another_greenlet_wakes_a_reader_and_an_accepter() {
    patched();
    let (stream, _peer) = tcp_pair();
    let other = stream.try_clone().unwrap();
    let got = waits(move || (&stream).read(&mut [0]), || other.shutdown(Shutdown::Read).unwrap());
    assert_eq!(got.unwrap(), 0);

    let (stream, _peer) = UnixStream::pair().unwrap();
    let other = stream.try_clone().unwrap();
    let got = waits(move || (&stream).read(&mut [0]), || other.shutdown(Shutdown::Both).unwrap());
    assert_eq!(got.unwrap(), 0);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let got = waits(
        move || listener.accept().map(drop),
        // SAFETY: it is open.
        || assert_eq!(unsafe { libc::shutdown(fd, libc::SHUT_RDWR) }, 0),
    );
    assert_eq!(got.unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_shutdown_by_an_os_thread_wakes_a_reader() {
    patched();
    let (stream, _peer) = UnixStream::pair().unwrap();
    let other = stream.try_clone().unwrap();
    let got = waits(
        move || (&stream).read(&mut [0]),
        || std::thread::spawn(move || other.shutdown(Shutdown::Both).unwrap()).join().unwrap(),
    );
    assert_eq!(got.unwrap(), 0);
}

#[test]
fn one_greenlet_reads_while_another_one_writes_the_same_stream() {
    patched();
    let (stream, peer) = tcp_pair();
    let echo = spawn(move || {
        let (mut from, mut to) = (&peer, &peer);
        std::io::copy(&mut from, &mut to).unwrap()
    });
    let reader = spawn({
        let stream = stream.try_clone().unwrap();
        move || {
            let mut all = Vec::new();
            (&stream).read_to_end(&mut all).unwrap();
            all
        }
    });
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    (&stream).write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(reader.join().unwrap() == sent);
    assert_eq!(echo.join().unwrap(), 3_000_000);
}

#[test]
fn a_hundred_greenlets_wait_for_datagrams_at_once() {
    patched();
    let sockets: Arc<Vec<_>> = Arc::new((0..100).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect());
    let started = Rc::new(Cell::new(0));
    all_at_once(100, move |number| {
        let mut buffer = [0; 4];
        started.set(started.get() + 1);
        if started.get() == 100 {
            for (number, socket) in sockets.iter().enumerate() {
                let message = (number as u32).to_be_bytes();
                sockets[0].send_to(&message, socket.local_addr().unwrap()).unwrap();
            }
        }
        let (len, from) = sockets[number].recv_from(&mut buffer).unwrap();
        assert_eq!((len, u32::from_be_bytes(buffer) as usize), (4, number));
        assert_eq!(from, sockets[0].local_addr().unwrap());
    });
}

#[test]
fn connected_udp_sockets_talk_and_are_told_of_refusals() {
    patched();
    spawn(|| {
        let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        other.connect(one.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 10];
        let echo = spawn(move || {
            let mut buffer = [0; 10];
            let len = other.recv(&mut buffer).unwrap();
            assert_eq!(other.peek(&mut [0; 1]).map_err(|error| error.kind()), Ok(1));
            other.send(&buffer[..len]).unwrap();
        });
        let_all_run();
        one.send(b"hello").unwrap();
        one.send(b"more").unwrap();
        assert_eq!(one.recv(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        echo.join().unwrap();
        // Nobody is there any more.
        let reader = one.try_clone().unwrap();
        let got = waits(move || reader.recv(&mut [0; 10]), || drop(one.send(b"?")));
        assert_eq!(got.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    })
    .join()
    .unwrap();
}

#[test]
fn a_hundred_greenlets_talk_over_unix_sockets_at_once() {
    patched();
    let directory = TempDir::new();
    let path = directory.0.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = spawn(move || {
        let mut streams: Vec<_> = (0..100).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
    });
    all_at_once(100, move |number| {
        let mut stream = UnixStream::connect(&path).unwrap();
        let request = (number as u32).to_be_bytes();
        stream.write_all(&request).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, request);
    });
    server.join().unwrap();
}

#[test]
fn a_connect_waits_for_room_in_the_queue_of_a_unix_listener() {
    patched();
    let directory = TempDir::new();
    let path = directory.0.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: changes the length of the queue.
    unsafe { libc::listen(listener.as_raw_fd(), 1) };
    let connects: Vec<_> = (0..10)
        .map(|_| {
            let path = path.clone();
            spawn(move || UnixStream::connect(path).unwrap())
        })
        .collect();
    let_all_run();
    assert!(connects.iter().any(|connect| !connect.is_ready()));
    let _accepted: Vec<_> = (0..10).map(|_| listener.accept().unwrap()).collect();
    connects.into_iter().for_each(|connect| drop(connect.join().unwrap()));
}

#[test]
fn unix_datagrams_wait_for_messages_and_for_room() {
    patched();
    let (one, other) = UnixDatagram::pair().unwrap();
    let receiver = other.try_clone().unwrap();
    waits(
        move || assert_eq!(receiver.recv(&mut [0; 9]).unwrap(), 5),
        || assert_eq!(one.send(b"hello").unwrap(), 5),
    );
    let sender = one.try_clone().unwrap();
    waits(
        move || (0..1000_u32).for_each(|n| assert_eq!(sender.send(&n.to_be_bytes()).unwrap(), 4)),
        || {
            for n in 0..1000_u32 {
                let mut buffer = [0; 9];
                assert_eq!(other.recv(&mut buffer).unwrap(), 4);
                assert_eq!(buffer[..4], n.to_be_bytes());
            }
        },
    );
}

/// The kernel wakes whose own messages were read; here the queue is full of somebody else's.
#[test]
fn a_unix_datagram_waits_for_room_in_a_queue_that_others_have_filled() {
    patched();
    let directory = TempDir::new();
    let path = directory.0.join("socket");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let mut count = 0;
    while filler.send_to(b"full", &path).is_ok() {
        count += 1;
    }
    waits(
        move || UnixDatagram::unbound().unwrap().send_to(b"last", &path).unwrap(),
        || {
            // The first edge, which tells that there is room in the sender's own buffer, has come and gone.
            std::thread::sleep(Duration::from_millis(10));
            for _ in 0..count {
                receiver.recv(&mut [0; 4]).unwrap();
            }
        },
    );
    let mut last = [0; 4];
    receiver.recv(&mut last).unwrap();
    assert_eq!(&last, b"last");
}

#[test]
fn sleeps_end_in_the_order_of_their_times() {
    patched();
    let log = Rc::new(RefCell::new(Vec::new()));
    let greenlets: Vec<_> = [30, 10, 20]
        .map(|millis| {
            let log = Rc::clone(&log);
            spawn(move || {
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(millis));
                assert!(start.elapsed() >= Duration::from_millis(millis));
                log.borrow_mut().push(millis);
            })
        })
        .into();
    joinall(&greenlets);
    assert_eq!(*log.borrow(), [10, 20, 30]);
}
