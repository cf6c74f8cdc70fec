//! `StreamServer`. All over real sockets; where a test is about time, the clock is virtual.

use std::cell::{Cell, OnceCell, RefCell};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use switchgrass::net::{TcpListener, TcpStream, UnixStream};
use switchgrass::server::{AfterError, Stopped, StreamServer, UnixStreamServer};
use switchgrass::{Builder, current, park, sleep, spawn, testing, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// A free port of a loopback address that no other test uses: when it is closed, nobody else gets it, and a connection attempt is
/// refused for certain.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (NEXT.fetch_add(1, Ordering::Relaxed) + 2).to_be_bytes();
    SocketAddr::from(([127, 1, high, low], 0))
}

/// A server that has been started.
fn serve(handler: impl Fn(TcpStream, SocketAddr) + 'static) -> StreamServer {
    let server = StreamServer::bind(own_address(), handler).unwrap();
    server.start();
    server
}

/// Gives back each byte until the client has no more.
fn echo(mut stream: TcpStream, _: SocketAddr) {
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        if stream.write_all(&byte).is_err() {
            return;
        }
    }
}

fn connect(server: &StreamServer) -> TcpStream {
    TcpStream::connect(server.local_addr()).unwrap()
}

/// Whether an echo server, or what it takes the place of, has the connection.
fn ask(mut stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"?"
}

/// Whether the other side has closed the connection, be it with a reset: waits for that.
fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn is_refused(server: &StreamServer) -> bool {
    match TcpStream::connect(server.local_addr()) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}

/// Has the others run until it is so.
fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        yield_now();
    }
}

/// Long enough for whatever was to happen without anybody's doing to have happened.
fn many_turns() {
    for _ in 0..2000 {
        yield_now();
    }
}

/// Runs the function when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

// ---- Connections --------------------------------------------------------------------------------------------------

#[test]
fn each_connection_has_a_greenlet_of_its_own() {
    let server = serve(echo);
    let (one, two) = (connect(&server), connect(&server));
    assert!(ask(&one) && ask(&two) && ask(&one));
    assert_eq!(server.connections(), 2);
    drop(one);
    until(|| server.connections() == 1);
    assert!(ask(&two));
    assert_eq!(server.statistics().accepted, 2);
}

#[test]
fn the_handler_is_told_who_connects() {
    let server = serve(|mut stream, peer| write!(stream, "{peer}").unwrap());
    let mut client = connect(&server);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, client.local_addr().unwrap().to_string());
}

#[test]
fn the_connection_is_closed_when_the_handler_returns() {
    let server = serve(|_, _| {});
    assert!(is_closed(&connect(&server)));
}

#[test]
fn a_handler_that_gives_the_stream_away_ends_without_closing_it() {
    let kept = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&kept);
    let server = serve(move |stream, _| drop(keep.replace(Some(stream))));
    let mut client = connect(&server);
    until(|| server.statistics().accepted == 1 && server.connections() == 0);

    kept.borrow_mut().as_mut().unwrap().write_all(b"!").unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    kept.take();
    assert!(is_closed(&client));
}

#[test]
fn a_handler_that_panics_closes_its_connection_and_nothing_else() {
    let server = serve(|stream, peer| {
        let mut first = [0];
        (&stream).read_exact(&mut first).unwrap();
        if first == *b"p" {
            // A panic without its message on stderr.
            std::panic::resume_unwind(Box::new("the handler panics"));
        }
        (&stream).write_all(&first).unwrap();
        echo(stream, peer);
    });
    let good = connect(&server);
    assert!(ask(&good));
    let bad = connect(&server);
    (&bad).write_all(b"p").unwrap();
    assert!(is_closed(&bad));
    assert!(ask(&good));
    assert!(ask(&connect(&server)));
}

#[test]
fn greenlets_of_connections_are_made_as_the_builder_says() {
    let server = StreamServer::bind(own_address(), |mut s, _| {
        s.write_all(current().name().unwrap().as_bytes()).unwrap()
    })
    .unwrap()
    .greenlets(Builder::new().name("visitor").stack_size(64 << 10));
    server.start();
    let mut name = String::new();
    connect(&server).read_to_string(&mut name).unwrap();
    assert_eq!(name, "visitor");
}

#[test]
fn a_listener_of_std_will_do() {
    let listener = std::net::TcpListener::bind(own_address()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = StreamServer::new(listener, echo).unwrap();
    server.start();
    assert_eq!(server.local_addr(), address);
    assert!(ask(&connect(&server)));
}

#[test]
fn a_listener_that_was_told_not_to_wait_waits() {
    let listener = TcpListener::bind(own_address()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = StreamServer::new(listener, echo).unwrap();
    server.start();
    many_turns();
    assert!(ask(&connect(&server)));
    assert_eq!(server.statistics().errors, 0);
}

#[test]
fn an_address_in_use_is_an_error() {
    let server = serve(echo);
    let error = StreamServer::bind(server.local_addr(), echo).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let server = serve(echo);
    for _ in 0..1000 {
        assert!(ask(&connect(&server)));
    }
    until(|| server.connections() == 0);
    assert_eq!(server.statistics().accepted, 1000);
}

// ---- Limits ---------------------------------------------------------------------------------------------------------

#[test]
fn no_more_than_max_connections_are_accepted_at_once() {
    let most = Rc::new(Cell::new(0));
    let server_of_handler = Rc::new(OnceCell::<StreamServer>::new());
    let (seen, own) = (Rc::clone(&most), Rc::clone(&server_of_handler));
    let server = StreamServer::bind(own_address(), move |stream, peer| {
        seen.set(seen.get().max(own.get().unwrap().connections()));
        echo(stream, peer);
    })
    .unwrap()
    .max_connections(2);
    server_of_handler.set(server.clone()).unwrap();
    server.start();

    let clients: Vec<_> = (0..5).map(|_| connect(&server)).collect();
    for turn in 0..5 {
        // Those that are in are served; the others, whose connections the kernel has, are not.
        assert!(ask(&clients[turn]));
        if let Some(next) = clients.get(turn + 1) {
            assert!(ask(next));
        }
        many_turns();
        assert_eq!(server.statistics().accepted, 5.min(turn as u64 + 2));
        clients[turn].shutdown(Shutdown::Both).unwrap();
    }
    until(|| server.connections() == 0);
    assert_eq!(most.get(), 2);
    server.close();
}

#[test]
fn a_server_that_is_full_can_be_stopped() {
    let server = StreamServer::bind(own_address(), echo).unwrap().max_connections(1);
    server.start();
    let (inside, outside) = (connect(&server), connect(&server));
    assert!(ask(&inside));
    assert_eq!(server.stop(Duration::ZERO), Stopped { finished: 0, killed: 1 });
    assert!(is_closed(&inside) && is_closed(&outside));
    assert_eq!(server.statistics().accepted, 1);
}

#[test]
fn after_max_accept_connections_the_others_have_their_turn() {
    let server = StreamServer::bind(own_address(), echo).unwrap().max_accept(10);
    let clients: Vec<_> = (0..35).map(|_| connect(&server)).collect();
    server.start();
    let mut accepted = Vec::new();
    until(|| {
        let now = server.statistics().accepted;
        if accepted.last() != Some(&now) {
            accepted.push(now);
        }
        now == 35
    });
    assert_eq!(accepted, [0, 10, 20, 30, 35]);
    assert!(clients.iter().all(ask));
}

// ---- Stopping -------------------------------------------------------------------------------------------------------

#[test]
fn stop_waits_for_the_grace_time_and_then_kills() {
    testing::virtual_clock();
    let killed = Rc::new(Cell::new(false));
    let note = Rc::clone(&killed);
    let server = serve(move |mut stream, _| {
        let mut kind = [0];
        stream.read_exact(&mut kind).unwrap();
        stream.write_all(&kind).unwrap();
        if kind == *b"s" {
            sleep(Duration::from_secs(3));
            stream.write_all(b"late").unwrap();
        } else {
            let _note = OnDrop(|| note.set(true));
            park();
        }
    });
    let (mut slow, mut endless) = (connect(&server), connect(&server));
    for (client, kind) in [(&mut slow, b"s"), (&mut endless, b"e")] {
        client.write_all(kind).unwrap();
        client.read_exact(&mut [0]).unwrap();
    }

    let start = testing::now();
    assert_eq!(server.stop(Duration::from_secs(5)), Stopped { finished: 1, killed: 1 });
    assert_eq!(testing::now() - start, Duration::from_secs(5));
    assert!(killed.get());
    assert_eq!(server.connections(), 0);
    let mut last = String::new();
    slow.read_to_string(&mut last).unwrap();
    assert_eq!(last, "late");
    assert!(is_closed(&endless));
}

#[test]
fn stop_returns_when_the_last_connection_has_ended() {
    testing::virtual_clock();
    let server = serve(|stream, _| {
        (&stream).write_all(b"!").unwrap();
        sleep(Duration::from_secs(3));
    });
    let mut client = connect(&server);
    client.read_exact(&mut [0]).unwrap();
    let start = testing::now();
    assert_eq!(server.stop(HOUR), Stopped { finished: 1, killed: 0 });
    assert_eq!(testing::now() - start, Duration::from_secs(3));
}

#[test]
fn stop_waits_for_a_handler_that_cleans_up_after_its_kill() {
    testing::virtual_clock();
    let server = serve(|stream, _| {
        let (mut input, mut output) = (&stream, &stream);
        output.write_all(b"!").unwrap();
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| input.read(&mut [0]))).is_err();
        assert!(killed);
        sleep(Duration::from_secs(1));
        output.write_all(b"bye").unwrap();
    });
    let mut client = connect(&server);
    client.read_exact(&mut [0]).unwrap();
    assert_eq!(server.stop(Duration::ZERO), Stopped { finished: 0, killed: 1 });
    let mut last = String::new();
    client.read_to_string(&mut last).unwrap();
    assert_eq!(last, "bye");
}

#[test]
fn stop_closes_the_listener_before_it_waits() {
    let server = serve(echo);
    let client = connect(&server);
    assert!(ask(&client));
    let stop = spawn({
        let server = server.clone();
        move || server.stop(HOUR)
    });
    until(|| is_refused(&server));
    assert!(!stop.is_ready());
    assert!(ask(&client));
    drop(client);
    assert_eq!(stop.join().unwrap().finished, 1);
}

#[test]
fn close_refuses_newcomers_and_leaves_the_others_alone() {
    let server = serve(echo);
    let client = connect(&server);
    assert!(ask(&client));
    server.close();
    assert!(is_refused(&server));
    assert!(ask(&client));
    server.close();
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_second_stop_with_less_patience_ends_the_first() {
    let server = serve(echo);
    let client = connect(&server);
    assert!(ask(&client));
    let patient = spawn({
        let server = server.clone();
        move || server.stop(HOUR)
    });
    until(|| is_refused(&server));
    assert_eq!(server.stop(Duration::ZERO), Stopped { finished: 0, killed: 1 });
    // Of those that it found, none was left for it to kill.
    assert_eq!(patient.join().unwrap(), Stopped { finished: 1, killed: 0 });
    assert_eq!(server.stop(HOUR), Stopped { finished: 0, killed: 0 });
}

#[test]
fn a_server_that_is_stopped_before_it_starts_never_does() {
    let server = StreamServer::bind(own_address(), echo).unwrap();
    let waits_for_nobody = connect(&server);
    assert_eq!(server.stop(HOUR), Stopped { finished: 0, killed: 0 });
    assert!(is_closed(&waits_for_nobody));
    server.start();
    assert!(is_refused(&server));
    server.serve_forever().unwrap();
}

#[test]
fn a_server_can_be_stopped_before_its_greenlet_has_run() {
    let server = serve(echo);
    let waits_for_nobody = connect(&server);
    assert_eq!(server.stop(HOUR), Stopped { finished: 0, killed: 0 });
    assert!(is_closed(&waits_for_nobody));
    assert_eq!(server.statistics().accepted, 0);
}

#[test]
fn a_handler_may_stop_its_server_and_goes_on() {
    let own = Rc::new(OnceCell::<StreamServer>::new());
    let of_handler = Rc::clone(&own);
    let server = serve(move |mut stream, peer| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(&first).unwrap();
        if first != *b"q" {
            return echo(stream, peer);
        }
        let stopped = of_handler.get().unwrap().stop(Duration::ZERO);
        assert_eq!(stopped, Stopped { finished: 0, killed: 1 });
        stream.write_all(b"bye").unwrap();
    });
    own.set(server.clone()).unwrap();
    let client = connect(&server);
    assert!(ask(&client));
    let mut quitter = connect(&server);
    quitter.write_all(b"q").unwrap();

    // Does not return before the handler does.
    server.serve_forever().unwrap();
    assert_eq!(server.connections(), 0);
    let mut text = String::new();
    quitter.read_to_string(&mut text).unwrap();
    assert_eq!(text, "qbye");
    assert!(is_closed(&client));
}

#[test]
fn two_handlers_that_stop_their_server_at_once_do_not_wait_for_ever() {
    testing::virtual_clock();
    let own = Rc::new(OnceCell::<StreamServer>::new());
    let of_handler = Rc::clone(&own);
    let server = serve(move |mut stream, _| {
        stream.read_exact(&mut [0]).unwrap();
        of_handler.get().unwrap().stop(Duration::from_secs(5));
    });
    own.set(server.clone()).unwrap();
    let clients = [connect(&server), connect(&server)];
    until(|| server.connections() == 2);
    for mut client in &clients {
        client.write_all(b"q").unwrap();
    }
    let start = testing::now();
    server.serve_forever().unwrap();
    assert_eq!(testing::now() - start, Duration::from_secs(5));
    assert!(clients.iter().all(is_closed));
}

#[test]
fn stop_may_be_called_by_a_destructor_that_unwinds() {
    let server = serve(echo);
    let client = connect(&server);
    assert!(ask(&client));
    let stopping = server.clone();
    let result = spawn(move || {
        // Nothing can wait in there. All the same, everything has its end.
        let _stop = OnDrop(|| {
            stopping.stop(HOUR);
        });
        std::panic::resume_unwind(Box::new(()));
    })
    .join();
    assert!(result.is_err());
    server.serve_forever().unwrap();
    assert!(is_closed(&client));
    assert!(is_refused(&server));
}

/// A connection that comes in the very turn of the event loop in which the server is stopped is either accepted, and then
/// waited for or killed, or it is not, and then refused; in neither case is it left over.
#[test]
fn a_connection_that_races_with_stop_is_not_lost() {
    for connect_first in [true, false] {
        let handled = Rc::new(Cell::new(0));
        let count = Rc::clone(&handled);
        let server = serve(move |stream, peer| {
            count.set(count.get() + 1);
            echo(stream, peer);
        });
        // A greenlet that stops the server when a byte comes.
        let pair = TcpListener::bind(own_address()).unwrap();
        let mut order = TcpStream::connect(pair.local_addr().unwrap()).unwrap();
        let (mut orders, _) = pair.accept().unwrap();
        let stopping = server.clone();
        let stop = spawn(move || {
            orders.read_exact(&mut [0]).unwrap();
            stopping.stop(Duration::ZERO)
        });
        many_turns();

        // Both wait in the poller now. Neither of these switches, so both find out in the same turn.
        let mut client = None;
        if connect_first {
            client = Some(std::net::TcpStream::connect(server.local_addr()).unwrap());
        }
        order.write_all(b"!").unwrap();
        let client =
            client.unwrap_or_else(|| std::net::TcpStream::connect(server.local_addr()).unwrap()).into();
        let stopped = stop.join().unwrap();

        assert!(is_closed(&client));
        assert_eq!(server.statistics().accepted, stopped.killed as u64);
        assert!(handled.get() <= stopped.killed);
        assert_eq!(server.connections(), 0);
        assert!(is_refused(&server));
    }
}

// ---- Serving for ever -------------------------------------------------------------------------------------------------

#[test]
fn serve_forever_returns_after_stop_when_the_last_connection_has_ended() {
    testing::virtual_clock();
    let log = Rc::new(RefCell::new(Vec::new()));
    let of_handler = Rc::clone(&log);
    let server = StreamServer::bind(own_address(), move |mut stream, _| {
        stream.write_all(b"!").unwrap();
        sleep(Duration::from_secs(2));
        of_handler.borrow_mut().push("handler returns");
    })
    .unwrap();
    let (of_client, client_server) = (Rc::clone(&log), server.clone());
    spawn(move || {
        connect(&client_server).read_exact(&mut [0]).unwrap();
        let stopped = client_server.stop(HOUR);
        assert_eq!(stopped, Stopped { finished: 1, killed: 0 });
        of_client.borrow_mut().push("stop returns");
    });
    server.serve_forever().unwrap();
    log.borrow_mut().push("serve_forever returns");
    until(|| log.borrow().len() == 3);
    assert_eq!(log.borrow()[0], "handler returns");
}

#[test]
fn serve_forever_may_follow_start_and_be_called_by_several() {
    let server = serve(echo);
    let others = [server.clone(), server.clone()].map(|server| spawn(move || server.serve_forever()));
    let client = connect(&server);
    assert!(ask(&client));
    drop(client);
    let stopping = server.clone();
    spawn(move || stopping.stop(HOUR));
    server.serve_forever().unwrap();
    for other in others {
        other.join().unwrap().unwrap();
    }
}

#[test]
fn serve_forever_returns_the_error_that_broke_the_listener() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let same = listener.try_clone().unwrap();
    let server = StreamServer::new(listener, echo).unwrap();
    server.start();
    let client = connect(&server);
    assert!(ask(&client));

    // On Linux this ends the listening, and whoever waits for a connection is told.
    TcpStream::from(OwnedFd::from(same)).shutdown(Shutdown::Both).unwrap();
    let error = server.serve_forever().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));

    // The error is given once, and what is live goes on.
    assert!(ask(&client));
    assert!(is_refused(&server));
    drop(client);
    server.serve_forever().unwrap();
}

#[test]
fn killing_the_greenlet_that_serves_leaves_the_server_to_its_owners() {
    let server = StreamServer::bind(own_address(), echo).unwrap();
    let serving = server.clone();
    let greenlet = spawn(move || serving.serve_forever());
    assert!(ask(&connect(&server)));
    greenlet.kill();
    assert!(ask(&connect(&server)));
}

// ---- Dropping -------------------------------------------------------------------------------------------------------

#[test]
fn dropping_the_last_clone_closes_the_listener_and_connections_go_on() {
    let server = serve(echo);
    let address = server.local_addr();
    let client = connect(&server);
    assert!(ask(&client));
    drop(server.clone());
    assert!(ask(&client) && ask(&connect(&server)));
    drop(server);
    until(|| TcpStream::connect(address).is_err());
    assert!(ask(&client));
}

#[test]
fn dropping_a_server_that_was_never_started_closes_the_listener() {
    let server = StreamServer::bind(own_address(), echo).unwrap();
    let address = server.local_addr();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_handler_is_dropped_after_stop_though_it_has_its_own_server() {
    let dropped = Rc::new(Cell::new(false));
    let own = Rc::new(OnceCell::<StreamServer>::new());
    let handler = {
        let dropped = Rc::clone(&dropped);
        let witness = (OnDrop(move || dropped.set(true)), Rc::clone(&own));
        move |stream, peer| {
            let _ = &witness;
            echo(stream, peer);
        }
    };
    let server = serve(handler);
    assert!(own.set(server.clone()).is_ok());
    drop(own);
    let client = connect(&server);
    assert!(ask(&client));
    server.close();
    assert!(!dropped.get());
    server.stop(Duration::ZERO);
    until(|| dropped.get());
}

// ---- Errors of accept -------------------------------------------------------------------------------------------------

/// Runs the test of that name in a process of its own, with whose limits it may do what it likes. `true`: this is that process.
fn in_a_process_of_its_own(test: &str) -> bool {
    const MARK: &str = "SWITCHGRASS_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

fn set_descriptor_limit(n: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: n, rlim_max: n };
    // SAFETY: setrlimit reads the struct, which is valid.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// All descriptors that there are.
fn hoard() -> Vec<File> {
    let mut hoard = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return hoard;
            }
        }
    }
}

#[test]
fn without_descriptors_the_server_pauses_ever_longer_and_then_serves_again() {
    if !in_a_process_of_its_own(
        "server::without_descriptors_the_server_pauses_ever_longer_and_then_serves_again",
    ) {
        return;
    }
    set_descriptor_limit(64);
    testing::virtual_clock();
    let server = serve(echo);
    let errors = || server.statistics().errors;
    assert!(ask(&connect(&server)));
    until(|| server.connections() == 0);
    let mut hoard = hoard();
    hoard.pop();
    let client = connect(&server);

    // At 0, 10, 30, 70, 150, 310, 630 and 1,270 ms; from then on each second.
    let mut expected = 0;
    for (ms, more) in [(1, 1), (10, 1), (20, 1), (40, 1), (80, 1), (160, 1), (320, 1), (640, 1), (10_000, 10)]
    {
        sleep(Duration::from_millis(ms));
        expected += more;
        assert_eq!(errors(), expected, "after {ms} ms more");
    }

    // Free again: within a second the client is served.
    hoard.truncate(hoard.len() - 4);
    let before = testing::now();
    assert!(ask(&client));
    assert!(testing::now() - before <= Duration::from_secs(1));
    assert_eq!(errors(), expected);

    // And the next time it begins with 10 ms anew.
    hoard.append(&mut self::hoard());
    hoard.pop();
    let _waits = connect(&server);
    sleep(Duration::from_millis(1));
    assert_eq!(errors(), expected + 1);
    sleep(Duration::from_millis(10));
    assert_eq!(errors(), expected + 2);
}

#[test]
fn without_descriptors_the_end_of_a_connection_ends_the_pause() {
    if !in_a_process_of_its_own("server::without_descriptors_the_end_of_a_connection_ends_the_pause") {
        return;
    }
    set_descriptor_limit(64);
    testing::virtual_clock();
    let server = serve(echo);
    let first = connect(&server);
    assert!(ask(&first));
    let mut hoard = hoard();
    hoard.pop();
    let second = connect(&server);
    sleep(HOUR);
    let (before, errors) = (testing::now(), server.statistics().errors);

    drop(first);
    assert!(ask(&second));
    assert_eq!(testing::now(), before);
    assert_eq!(server.statistics().errors, errors);
}

/// The same in real time: what a server that spins would show.
#[test]
fn a_server_without_descriptors_uses_no_time() {
    if !in_a_process_of_its_own("server::a_server_without_descriptors_uses_no_time") {
        return;
    }
    set_descriptor_limit(64);
    let server = serve(echo);
    assert!(ask(&connect(&server)));
    until(|| server.connections() == 0);
    let mut hoard = hoard();
    hoard.pop();
    let client = connect(&server);
    sleep(Duration::from_millis(200));
    // 5 in time, some more or fewer on a machine that is busy; hundreds of thousands when spinning.
    assert!((1..100).contains(&server.statistics().errors));
    hoard.clear();
    assert!(ask(&client));
}

#[test]
fn the_policy_for_errors_is_asked_and_obeyed() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let same = listener.try_clone().unwrap();
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let server = StreamServer::new(listener, echo).unwrap().after_error(move |error| {
        assert_eq!(AfterError::usual(error), AfterError::Close);
        count.set(count.get() + 1);
        match count.get() {
            1..=2 => AfterError::Skip,
            3 => AfterError::Pause,
            _ => AfterError::Close,
        }
    });
    testing::virtual_clock();
    let start = testing::now();
    TcpStream::from(OwnedFd::from(same)).shutdown(Shutdown::Both).unwrap();
    let error = server.serve_forever().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert_eq!((asked.get(), server.statistics().errors), (4, 4));
    assert_eq!(testing::now() - start, Duration::from_millis(10));
}

#[test]
fn a_policy_that_panics_closes_the_server() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let same = listener.try_clone().unwrap();
    let server = StreamServer::new(listener, echo)
        .unwrap()
        .after_error(|_| std::panic::resume_unwind(Box::new("no idea")));
    server.start();
    TcpStream::from(OwnedFd::from(same)).shutdown(Shutdown::Both).unwrap();
    let error = server.serve_forever().unwrap_err();
    assert!(error.to_string().contains("`after_error` has panicked"), "{error}");
    assert!(server.is_closed());
}

#[test]
fn a_policy_may_close_its_server() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let same = listener.try_clone().unwrap();
    let own = Rc::new(OnceCell::<StreamServer>::new());
    let of_policy = Rc::clone(&own);
    let server = StreamServer::new(listener, echo).unwrap().after_error(move |_| {
        of_policy.get().unwrap().stop(Duration::ZERO);
        unreachable!("the greenlet that asks ends by that");
    });
    own.set(server.clone()).unwrap();
    server.start();
    TcpStream::from(OwnedFd::from(same)).shutdown(Shutdown::Both).unwrap();
    server.serve_forever().unwrap();
    assert!(server.is_closed());
}

// ---- Pausing, and another listener ----------------------------------------------------------------------------------

#[test]
fn who_connects_while_the_server_does_not_accept_waits_in_the_kernel() {
    let server = serve(echo);
    let first = connect(&server);
    assert!(ask(&first));
    server.stop_accepting();
    let second = connect(&server);
    many_turns();
    assert_eq!(server.statistics().accepted, 1);
    assert!(ask(&first));
    server.start_accepting();
    assert!(ask(&second));
}

#[test]
fn the_state_of_a_server_can_be_asked() {
    let server = StreamServer::bind(own_address(), echo).unwrap().max_connections(1);
    let state = || (server.is_started(), server.is_accepting(), server.is_full(), server.is_closed());
    assert_eq!(state(), (false, false, false, false));
    server.stop_accepting();
    assert_eq!(state(), (false, false, false, false));
    server.start();
    assert_eq!(state(), (true, true, false, false));
    let client = connect(&server);
    assert!(ask(&client));
    assert_eq!(state(), (true, true, true, false));
    server.stop_accepting();
    server.start();
    assert_eq!(state(), (true, false, true, false), "start does not undo a pause");
    server.start_accepting();
    server.start_accepting();
    assert_eq!(state(), (true, true, true, false));
    server.stop(Duration::ZERO);
    assert_eq!(state(), (true, false, false, true));
    server.start_accepting();
    assert_eq!(state(), (true, false, false, true));
}

#[test]
fn serve_forever_outlasts_a_pause() {
    let server = serve(echo);
    let serving = spawn({
        let server = server.clone();
        move || server.serve_forever()
    });
    yield_now();
    server.stop_accepting();
    many_turns();
    assert!(!serving.is_ready());
    server.close();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_server_can_be_stopped_while_it_does_not_accept() {
    let server = serve(echo);
    server.stop_accepting();
    let waits = connect(&server);
    assert_eq!(server.stop(HOUR), Stopped { finished: 0, killed: 0 });
    assert!(is_refused(&server) && is_closed(&waits));
}

#[test]
fn another_listener_takes_over_and_nobody_is_refused() {
    let server = StreamServer::bind(own_address(), echo).unwrap().max_accept(2);
    server.start();
    let (first, old_address) = (connect(&server), server.local_addr());
    assert!(ask(&first));
    // Connected, and not accepted when the other listener comes: the server has not run since.
    let waiting: Vec<TcpStream> =
        (0..5).map(|_| std::net::TcpStream::connect(old_address).unwrap().into()).collect();
    let new = TcpListener::bind(own_address()).unwrap();
    let early = std::net::TcpStream::connect(new.local_addr().unwrap()).unwrap().into();
    server.set_listener(new).unwrap();
    assert_ne!(server.local_addr(), old_address);

    assert!(waiting.iter().all(ask));
    assert!(ask(&early) && ask(&connect(&server)) && ask(&first));
    assert!(TcpStream::connect(old_address).is_err());
    assert_eq!(server.statistics().accepted, 8);
}

#[test]
fn a_listener_that_is_replaced_again_and_again_loses_nobody() {
    let server = serve(echo);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.extend(
            (0..3).map(|_| TcpStream::from(std::net::TcpStream::connect(server.local_addr()).unwrap())),
        );
        server.set_listener(TcpListener::bind(own_address()).unwrap()).unwrap();
    }
    assert!(clients.iter().all(ask));
}

#[test]
fn a_handle_on_the_same_socket_may_replace_the_listener() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let same = listener.try_clone().unwrap();
    let server = StreamServer::new(listener, echo).unwrap();
    server.start();
    let address = server.local_addr();
    server.set_listener(same).unwrap();
    assert_eq!(server.local_addr(), address);
    assert!(ask(&connect(&server)));
}

#[test]
fn a_full_server_empties_the_old_listener_one_by_one() {
    let server = StreamServer::bind(own_address(), echo).unwrap().max_connections(1);
    server.start();
    let first = connect(&server);
    assert!(ask(&first));
    let second: TcpStream = std::net::TcpStream::connect(server.local_addr()).unwrap().into();
    server.set_listener(TcpListener::bind(own_address()).unwrap()).unwrap();
    let third = connect(&server);
    many_turns();
    assert_eq!(server.statistics().accepted, 1);
    drop(first);
    assert!(ask(&second));
    drop(second);
    assert!(ask(&third));
}

#[test]
fn a_server_that_does_not_accept_goes_over_when_it_does_again() {
    let server = StreamServer::bind(own_address(), echo).unwrap();
    let early = connect(&server);
    server.set_listener(TcpListener::bind(own_address()).unwrap()).unwrap();
    many_turns();
    assert!(!server.is_started());
    server.start();
    assert!(ask(&early) && ask(&connect(&server)));
}

#[test]
fn a_closed_server_takes_no_listener() {
    let server = serve(echo);
    server.close();
    let error = server.set_listener(TcpListener::bind(own_address()).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

// ---- Unix sockets -----------------------------------------------------------------------------------------------------

#[test]
fn a_unix_server_serves_as_one_of_tcp_does() {
    let path = std::env::temp_dir().join(format!("switchgrass-{}-stream-server", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let server = UnixStreamServer::bind(&path, |mut stream, peer| {
        assert!(peer.is_unnamed());
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            stream.write_all(&byte).unwrap();
        }
    })
    .unwrap()
    .max_connections(1);
    assert_eq!(server.local_addr().as_pathname(), Some(&*path));
    server.start();
    let ask = |mut client: &UnixStream| {
        client.write_all(b"?").unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    let first = UnixStream::connect(&path).unwrap();
    ask(&first);
    let second = UnixStream::connect(&path).unwrap();
    drop(first);
    ask(&second);
    assert_eq!((server.connections(), server.is_full()), (1, true));
    assert_eq!(server.stop(Duration::ZERO), Stopped { finished: 0, killed: 1 });
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The file is the caller's to remove.
    assert_eq!(UnixStreamServer::bind(&path, |_, _| {}).unwrap_err().kind(), ErrorKind::AddrInUse);
    std::fs::remove_file(&path).unwrap();
}

// ---- Looking ----------------------------------------------------------------------------------------------------------

#[test]
fn debug_tells_the_address_and_the_numbers() {
    let server = serve(echo);
    let text = format!("{server:?}");
    assert!(text.contains(&server.local_addr().to_string()), "{text}");
    assert!(text.contains("accepted: 0"), "{text}");
}

#[test]
fn the_result_of_a_failed_write_is_the_handlers_concern() -> io::Result<()> {
    let server = serve(|mut stream, _| {
        // The client is gone: an error, not a signal and not a panic.
        while stream.write_all(&[0; 4096]).is_ok() {}
    });
    drop(connect(&server));
    until(|| server.statistics().accepted == 1 && server.connections() == 0);
    assert_eq!(server.stop(Duration::ZERO), Stopped { finished: 0, killed: 0 });
    Ok(())
}
