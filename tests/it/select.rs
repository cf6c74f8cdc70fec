//! Waiting for many descriptors at once.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read, Write};
use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream as StdUnix;
use std::rc::Rc;
use std::time::Duration;

use switchgrass::net::{TcpListener, TcpStream, UnixStream};
use switchgrass::select::{PollFd, PollFlags, Selected, poll, select, wait_readable, wait_writable};
use switchgrass::{GreenletExit, scope, spawn, testing, timeout, yield_now};

use crate::util::{Clock, HOUR, catch, in_child, is_exit, open_fds, secs, text, time_limit};

const READABLE: PollFlags = PollFlags::READABLE;
const WRITABLE: PollFlags = PollFlags::WRITABLE;

fn pipe() -> (PipeReader, std::io::PipeWriter) {
    std::io::pipe().unwrap()
}

fn wait_for(fd: &impl AsFd, events: PollFlags, timeout: Option<Duration>) -> PollFlags {
    let mut fds = [PollFd::new(fd, events)];
    let ready = poll(&mut fds, timeout).unwrap();
    assert_eq!(ready == 1, !fds[0].revents().is_empty());
    fds[0].revents()
}

// ---- What is found ----------------------------------------------------------------------------------------------------------

#[test]
fn poll_tells_everything_that_is_ready_at_once_and_not_only_the_first() {
    let (one, mut to_one) = pipe();
    let (two, _keep) = pipe();
    let (three, mut to_three) = pipe();
    to_one.write_all(b"1").unwrap();
    to_three.write_all(b"3").unwrap();
    let mut fds = [&one, &two, &three].map(|pipe| PollFd::new(pipe, READABLE));
    assert_eq!(poll(&mut fds, None).unwrap(), 2);
    assert_eq!(fds.map(|fd| fd.revents()), [READABLE, PollFlags::empty(), READABLE]);
}

#[test]
fn poll_after_a_wait_tells_everything_too() {
    time_limit();
    let (one, mut to_one) = pipe();
    let (two, mut to_two) = pipe();
    let greenlet = spawn(move || {
        to_one.write_all(b"1").unwrap();
        to_two.write_all(b"2").unwrap();
        (to_one, to_two)
    });
    let mut fds = [&one, &two].map(|pipe| PollFd::new(pipe, READABLE));
    assert_eq!(poll(&mut fds, None).unwrap(), 2);
    greenlet.join().unwrap();
}

#[test]
fn what_was_not_read_is_ready_again() {
    time_limit();
    let (reader, mut writer) = pipe();
    let greenlet = spawn(move || {
        writer.write_all(b"x").unwrap();
        writer
    });
    for _ in 0..3 {
        assert_eq!(wait_for(&reader, READABLE, None), READABLE);
        wait_readable(&reader, Some(Duration::ZERO)).unwrap();
    }
    drop(greenlet.join().unwrap());
    (&reader).read_exact(&mut [0]).unwrap();
    assert_eq!(wait_for(&reader, READABLE, None), PollFlags::HANGUP);
}

#[test]
fn a_fd_that_is_ready_costs_no_switch() {
    let (reader, mut writer) = pipe();
    writer.write_all(b"x").unwrap();
    let ran = Rc::new(Cell::new(false));
    let other = spawn({
        let ran = ran.clone();
        move || ran.set(true)
    });
    assert_eq!(wait_for(&reader, READABLE, None), READABLE);
    select(&[&reader], &[], &[], None).unwrap();
    wait_readable(&reader, None).unwrap();
    assert!(!ran.get());
    other.join().unwrap();
}

#[test]
fn a_loop_that_always_finds_something_ready_starves_nobody() {
    time_limit();
    let (reader, mut writer) = pipe();
    writer.write_all(b"x").unwrap();
    let stop = Rc::new(Cell::new(false));
    let other = spawn({
        let stop = stop.clone();
        move || stop.set(true)
    });
    while !stop.get() {
        wait_readable(&reader, None).unwrap();
    }
    other.join().unwrap();
}

#[test]
fn a_loop_that_only_looks_starves_nobody() {
    time_limit();
    let (reader, mut writer) = pipe();
    let other = spawn(move || writer.write_all(b"x"));
    while wait_for(&reader, READABLE, Some(Duration::ZERO)).is_empty() {}
    other.join().unwrap().unwrap();
}

#[test]
fn a_fd_may_be_listed_twice_with_different_wishes() {
    time_limit();
    let (one, other) = StdUnix::pair().unwrap();
    let mut fds = [PollFd::new(&one, READABLE), PollFd::new(&one, WRITABLE), PollFd::new(&one, READABLE)];
    assert_eq!(poll(&mut fds, None).unwrap(), 1);
    assert_eq!(fds[1].revents(), WRITABLE);

    let greenlet = spawn(move || (&other).write_all(b"x").map(|()| other));
    let mut fds =
        [PollFd::new(&one, PollFlags::PRIORITY), PollFd::new(&one, READABLE), PollFd::new(&one, READABLE)];
    assert_eq!(poll(&mut fds, None).unwrap(), 2);
    assert_eq!(fds.map(|fd| fd.revents()), [PollFlags::empty(), READABLE, READABLE]);
    greenlet.join().unwrap().unwrap();
}

#[test]
fn duplicates_are_ready_together() {
    time_limit();
    let (one, mut writer) = pipe();
    let other = one.try_clone().unwrap();
    let greenlet = spawn(move || writer.write_all(b"x"));
    let mut fds = [&one, &other].map(|pipe| PollFd::new(pipe, READABLE));
    assert_eq!(poll(&mut fds, None).unwrap(), 2);
    greenlet.join().unwrap().unwrap();
}

#[test]
fn errors_and_hangups_are_told_to_who_looks_for_nothing() {
    time_limit();
    let (reader, writer) = pipe();
    let greenlet = spawn(move || drop(reader));
    assert_eq!(wait_for(&writer, PollFlags::empty(), None), PollFlags::ERROR);
    greenlet.join().unwrap();
    let (reader, writer) = pipe();
    let greenlet = spawn(move || drop(writer));
    assert_eq!(wait_for(&reader, PollFlags::empty(), None), PollFlags::HANGUP);
    greenlet.join().unwrap();
}

#[test]
fn urgent_data_is_a_priority_event_and_an_exceptional_condition() {
    time_limit();
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let greenlet = spawn(move || {
        // SAFETY: one byte is read from a valid address.
        let sent = unsafe { libc::send(client.as_raw_fd(), [b'!'].as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        client
    });
    let ready = select(&[], &[], &[&server], None).unwrap();
    assert_eq!(ready, Selected { except: vec![0], ..Selected::default() });
    assert_eq!(wait_for(&server, PollFlags::PRIORITY, None), PollFlags::PRIORITY);
    greenlet.join().unwrap();
}

#[test]
fn select_gives_positions_in_its_three_lists() {
    time_limit();
    let (one, other) = StdUnix::pair().unwrap();
    let (full, _keep) = pipe();
    (&other).write_all(b"x").unwrap();
    let ready = select(&[&full, &one], &[&other, &one], &[&one], None).unwrap();
    assert_eq!(ready, Selected { read: vec![1], write: vec![0, 1], except: vec![] });
    assert!(!ready.is_empty());
}

#[test]
fn select_takes_the_end_for_readable_and_an_error_for_writable() {
    time_limit();
    let (reader, writer) = pipe();
    let (other_reader, other_writer) = pipe();
    let greenlet = spawn(move || drop((writer, other_reader)));
    let ready = select(&[&reader], &[], &[], None).unwrap();
    assert_eq!(ready.read, [0]);
    greenlet.join().unwrap();
    let ready = select(&[], &[&other_writer], &[], None).unwrap();
    assert_eq!(ready.write, [0]);
}

#[test]
fn select_does_not_take_a_hangup_for_an_exceptional_condition() {
    time_limit();
    let _clock = Clock::start();
    let (reader, writer) = pipe();
    drop(writer);
    assert!(select(&[], &[], &[&reader], Some(secs(1))).unwrap().is_empty());
}

#[test]
fn a_regular_file_is_always_ready() {
    let file = File::open("/proc/self/exe").unwrap();
    assert_eq!(wait_for(&file, READABLE | WRITABLE, None), READABLE | WRITABLE);
    let null = File::open("/dev/null").unwrap();
    wait_readable(&null, None).unwrap();
    assert_eq!(select(&[&file], &[&file], &[], None).unwrap().read, [0]);
}

#[test]
fn what_epoll_refuses_does_not_spoil_the_wait_for_the_others() {
    time_limit();
    let file = File::open("/proc/self/exe").unwrap();
    let (reader, mut writer) = pipe();
    let greenlet = spawn(move || writer.write_all(b"x"));
    let mut fds = [PollFd::new(&file, PollFlags::PRIORITY), PollFd::new(&reader, READABLE)];
    assert_eq!(poll(&mut fds, None).unwrap(), 1);
    greenlet.join().unwrap().unwrap();

    let clock = Clock::start();
    assert_eq!(wait_for(&file, PollFlags::PRIORITY, Some(secs(3))), PollFlags::empty());
    assert_eq!(clock.elapsed(), secs(3));
}

#[test]
fn the_flags_have_readable_names() {
    assert_eq!(format!("{:?}", READABLE | PollFlags::HANGUP), "PollFlags(READABLE | HANGUP)");
    assert_eq!(format!("{:?}", PollFlags::empty()), "PollFlags()");
    let fd = PollFd::new(&std::io::stdin(), WRITABLE).events();
    assert!(fd.contains(WRITABLE) && fd.intersects(WRITABLE | READABLE) && !fd.contains(WRITABLE | READABLE));
}

// ---- Timeouts ---------------------------------------------------------------------------------------------------------------

#[test]
fn nothing_comes_until_the_time_is_up() {
    time_limit();
    let clock = Clock::start();
    let (reader, _writer) = pipe();
    assert_eq!(wait_for(&reader, READABLE, Some(secs(5))), PollFlags::empty());
    assert_eq!(clock.elapsed(), secs(5));
    assert!(select(&[&reader], &[], &[], Some(secs(2))).unwrap().is_empty());
    assert_eq!(clock.elapsed(), secs(7));
    let error = wait_readable(&reader, Some(secs(1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), format!("timed out: wait_readable of fd {}", reader.as_raw_fd()));
    assert_eq!(clock.elapsed(), secs(8));
    assert_eq!(wait_readable(&reader, Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(clock.elapsed(), secs(8));
}

#[test]
fn a_timeout_of_zero_only_looks() {
    let (reader, mut writer) = pipe();
    assert_eq!(wait_for(&reader, READABLE, Some(Duration::ZERO)), PollFlags::empty());
    writer.write_all(b"x").unwrap();
    assert_eq!(wait_for(&reader, READABLE, Some(Duration::ZERO)), READABLE);
}

#[test]
fn without_descriptors_it_is_a_sleep() {
    time_limit();
    let clock = Clock::start();
    assert_eq!(poll(&mut [], Some(secs(9))).unwrap(), 0);
    assert!(select(&[], &[], &[], Some(secs(1))).unwrap().is_empty());
    assert_eq!(clock.elapsed(), secs(10));
}

#[test]
fn without_descriptors_and_timeout_it_is_a_deadlock() {
    time_limit();
    in_child("select::without_descriptors_and_timeout_it_is_a_deadlock", || {
        let panic = catch(|| poll(&mut [], None)).unwrap_err();
        assert!(text(&panic).contains("poll, number of descriptors: 0"), "{}", text(&panic));
    });
}

#[test]
fn events_that_are_not_looked_for_do_not_renew_the_timeout() {
    time_limit();
    let clock = Clock::start();
    let (one, other) = UnixStream::pair().unwrap();
    let greenlet = spawn(move || {
        for _ in 0..10 {
            switchgrass::sleep(secs(1));
            (&other).write_all(b"x").unwrap();
        }
        other
    });
    // Data comes each second, but it is urgent data that is waited for.
    assert!(select(&[], &[], &[&one], Some(Duration::from_millis(5500))).unwrap().is_empty());
    assert_eq!(clock.elapsed(), Duration::from_millis(5500));
    greenlet.join().unwrap();
}

/// How much there is to read; -1 for nothing yet.
fn recv_now(fd: &impl AsFd, buf: &mut [u8]) -> isize {
    // SAFETY: the pointer is valid for writing that many bytes.
    unsafe { libc::recv(fd.as_fd().as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) }
}

// ---- Others use the same descriptors ----------------------------------------------------------------------------------------

#[test]
fn a_socket_of_ours_can_be_selected_while_a_greenlet_reads_it() {
    time_limit();
    let (one, other) = UnixStream::pair().unwrap();
    scope(|s| {
        let reader = s.spawn(|| {
            let mut buf = [0; 1];
            (&one).read_exact(&mut buf).unwrap();
            buf
        });
        let waiter = s.spawn(|| wait_writable(&one, None));
        let nothing = s.spawn(|| timeout(secs(0), || wait_readable(&one, None)));
        yield_now();
        (&other).write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap(), *b"x");
        waiter.join().unwrap().unwrap();
        let _ = nothing.join().unwrap();
    });
    // The registration of the socket itself is as it was.
    let greenlet = spawn(move || (&other).write_all(b"y"));
    let mut buf = [0; 1];
    (&one).read_exact(&mut buf).unwrap();
    assert_eq!(buf, *b"y");
    greenlet.join().unwrap().unwrap();
}

#[test]
fn who_loses_the_race_for_the_data_waits_on() {
    time_limit();
    let (one, other) = UnixStream::pair().unwrap();
    scope(|s| {
        // Both are woken by the first byte, and whoever runs first takes it.
        let take_one = || {
            wait_readable(&one, None).unwrap();
            let mut buf = [0; 1];
            // Does not wait: fails if there was nothing after all.
            let got = recv_now(&one, &mut buf);
            (got, buf)
        };
        let waiting = [s.spawn(take_one), s.spawn(take_one)];
        yield_now();
        for byte in [b"1", b"2"] {
            (&other).write_all(byte).unwrap();
            // Sleeps, so that the hub looks at its descriptors, and wakes both, before the next byte.
            switchgrass::sleep(Duration::from_millis(1));
        }
        let mut got = waiting.map(|greenlet| greenlet.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [(1, *b"1"), (1, *b"2")]);
    });
}

#[test]
fn many_greenlets_may_wait_for_one_descriptor() {
    time_limit();
    let (reader, mut writer) = pipe();
    let reader = Rc::new(reader);
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let reader = reader.clone();
            spawn(move || wait_readable(&*reader, None).unwrap())
        })
        .collect();
    yield_now();
    writer.write_all(b"x").unwrap();
    for greenlet in waiting {
        greenlet.join().unwrap();
    }
}

#[test]
fn a_listener_is_readable_and_a_connection_writable() {
    time_limit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let client = spawn(move || TcpStream::connect(addr).unwrap());
    wait_readable(&listener, None).unwrap();
    let (server, _) = listener.accept().unwrap();
    wait_writable(&server, None).unwrap();
    let client = client.join().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(wait_for(&server, READABLE, None).contains(READABLE));
}

#[test]
fn the_mode_of_the_descriptor_is_left_alone() {
    time_limit();
    let (reader, mut writer) = pipe();
    let greenlet = spawn(move || writer.write_all(b"x"));
    wait_readable(&reader, None).unwrap();
    assert!(!crate::net::is_nonblocking(&reader));
    greenlet.join().unwrap().unwrap();
}

#[test]
fn an_epoll_instance_can_be_waited_for() {
    time_limit();
    let (reader, mut writer) = pipe();
    let mut inner = mio::Poll::new().unwrap();
    inner
        .registry()
        .register(&mut mio::unix::SourceFd(&reader.as_raw_fd()), mio::Token(1), mio::Interest::READABLE)
        .unwrap();
    let greenlet = spawn(move || writer.write_all(b"x"));
    wait_readable(inner.registry(), None).unwrap();
    let mut events = mio::Events::with_capacity(4);
    inner.poll(&mut events, Some(Duration::ZERO)).unwrap();
    assert_eq!(events.iter().count(), 1);
    greenlet.join().unwrap().unwrap();
}

// ---- Closed descriptors -----------------------------------------------------------------------------------------------------

/// A number that is open, and that nobody owns.
fn unowned() -> (BorrowedFd<'static>, std::io::PipeWriter) {
    let (reader, writer) = pipe();
    // SAFETY: the tests that use it close it, on purpose, in a process where nobody opens another with its number.
    (unsafe { BorrowedFd::borrow_raw(reader.into_raw_fd()) }, writer)
}

fn close(fd: BorrowedFd<'_>) {
    // SAFETY: as above.
    assert_eq!(unsafe { libc::close(fd.as_raw_fd()) }, 0);
}

#[test]
fn a_closed_descriptor_is_invalid_or_ebadf() {
    time_limit();
    in_child("select::a_closed_descriptor_is_invalid_or_ebadf", || {
        let (fd, _writer) = unowned();
        let (open, _keep) = pipe();
        close(fd);
        assert_eq!(wait_for(&fd, READABLE, None), PollFlags::INVALID);
        let error = select(&[&open, &fd], &[], &[], None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert_eq!(wait_readable(fd, None).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(wait_writable(fd, Some(secs(1))).unwrap_err().raw_os_error(), Some(libc::EBADF));
    });
}

#[test]
fn closing_while_waiting_is_told_when_the_time_is_up() {
    time_limit();
    in_child("select::closing_while_waiting_is_told_when_the_time_is_up", || {
        let clock = Clock::start();
        let (fd, mut writer) = unowned();
        let greenlet = spawn(move || {
            close(fd);
            // Really closed: the peer is told at once.
            assert_eq!(writer.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        });
        assert_eq!(wait_for(&fd, READABLE, Some(secs(3))), PollFlags::INVALID);
        assert_eq!(clock.elapsed(), secs(3));
        greenlet.join().unwrap();

        let (fd, _writer) = unowned();
        let greenlet = spawn(move || close(fd));
        let error = select(&[&fd], &[], &[], Some(secs(3))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        greenlet.join().unwrap();
    });
}

#[test]
fn closing_one_does_not_disturb_the_wait_for_the_others() {
    time_limit();
    in_child("select::closing_one_does_not_disturb_the_wait_for_the_others", || {
        let (fd, _keep) = unowned();
        let (other, mut writer) = pipe();
        let greenlet = spawn(move || {
            close(fd);
            yield_now();
            writer.write_all(b"x").unwrap();
            writer
        });
        let mut fds = [PollFd::from_borrowed_fd(fd, READABLE), PollFd::new(&other, READABLE)];
        assert_eq!(poll(&mut fds, None).unwrap(), 2);
        assert_eq!(fds.map(|fd| fd.revents()), [PollFlags::INVALID, READABLE]);
        greenlet.join().unwrap();
    });
}

#[test]
fn a_number_that_is_closed_and_taken_again_while_waiting_is_the_new_file() {
    time_limit();
    in_child("select::a_number_that_is_closed_and_taken_again_while_waiting_is_the_new_file", || {
        let _clock = Clock::start();
        let (fd, _keep) = unowned();
        let (new, mut writer) = pipe();
        let greenlet = spawn(move || {
            // SAFETY: both numbers are open, and nobody owns the one that is replaced.
            assert!(unsafe { libc::dup2(new.as_raw_fd(), fd.as_raw_fd()) } >= 0);
            writer.write_all(b"x").unwrap();
            (new, writer)
        });
        // Its events wake nobody, but it is looked at when the time is up.
        assert_eq!(wait_for(&fd, READABLE, Some(secs(1))), READABLE);
        greenlet.join().unwrap();
    });
}

// ---- Many, and how a wait ends ----------------------------------------------------------------------------------------------

#[test]
fn a_thousand_descriptors_beyond_number_1024() {
    time_limit();
    in_child("select::a_thousand_descriptors_beyond_number_1024", || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid pointer to write to, and to read from.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = limit.rlim_max.min(8192);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        assert!(limit.rlim_cur > 3000, "this machine does not allow enough descriptors");
        let pairs: Vec<_> = (0..1200).map(|_| StdUnix::pair().unwrap()).collect();
        let fds: Vec<&dyn AsFd> = pairs[200..].iter().map(|(one, _)| one as &dyn AsFd).collect();
        assert!(fds.iter().any(|fd| fd.as_fd().as_raw_fd() >= 1024));
        let before = open_fds();
        scope(|s| {
            let writer = s.spawn(|| {
                for place in [700, 999, 3] {
                    (&pairs[200 + place].1).write_all(b"x").unwrap();
                }
            });
            let ready = select(&fds, &[], &[], None).unwrap();
            assert_eq!(ready.read, [3, 700, 999]);
            writer.join().unwrap();
        });
        assert_eq!(open_fds(), before + 2, "the hub has opened its own two, and nothing is left of the wait");
    });
}

#[test]
fn a_kill_or_a_timeout_ends_the_wait_and_leaves_nothing_behind() {
    time_limit();
    in_child("select::a_kill_or_a_timeout_ends_the_wait_and_leaves_nothing_behind", || {
        let (reader, mut writer) = pipe();
        let reader = Rc::new(reader);
        yield_now();
        assert!(timeout(Duration::from_millis(1), || wait_readable(&*reader, Some(HOUR))).is_err());
        let before = open_fds();
        for _ in 0..100 {
            let shared = reader.clone();
            let greenlet = spawn(move || poll(&mut [PollFd::new(&*shared, READABLE)], None).unwrap());
            yield_now();
            greenlet.kill();
            assert!(is_exit(&greenlet.join()));
            let limited = timeout(Duration::from_micros(1), || wait_readable(&*reader, None));
            assert!(limited.is_err());
        }
        assert_eq!(open_fds(), before);
        writer.write_all(b"x").unwrap();
        wait_readable(&*reader, None).unwrap();
        assert_eq!(testing::live(), 0);
    });
}

#[test]
fn while_unwinding_it_looks_but_does_not_wait() {
    time_limit();
    struct OnDrop(PipeReader, Rc<Cell<Option<ErrorKind>>>, Rc<Cell<bool>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let (other, mut writer) = pipe();
            writer.write_all(b"x").unwrap();
            self.2.set(wait_readable(&other, None).is_ok());
            self.1.set(wait_readable(&self.0, None).err().map(|error| error.kind()));
        }
    }
    let (reader, _writer) = pipe();
    let (refused, looked) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(false)));
    let guard = OnDrop(reader, refused.clone(), looked.clone());
    let greenlet = spawn(move || {
        let _guard = guard;
        std::panic::resume_unwind(Box::new(GreenletExit))
    });
    assert!(is_exit::<()>(&greenlet.join()));
    assert_eq!((refused.get(), looked.get()), (Some(ErrorKind::WouldBlock), true));
}

#[test]
fn any_thread_may_wait() {
    time_limit();
    let (reader, mut writer) = pipe();
    let thread = std::thread::spawn(move || wait_for(&reader, READABLE, None));
    writer.write_all(b"x").unwrap();
    assert_eq!(thread.join().unwrap(), READABLE);
}
