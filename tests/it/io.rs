//! Any descriptor, pipes, stdin, and copying.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{
    BufRead, BufReader, ErrorKind, PipeReader as StdPipeReader, PipeWriter as StdPipeWriter, Read, Write,
};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream as StdUnix};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, io as std_io, thread};

use switchgrass::io::{self, ConcurrentUse, PipeReader, Pollable, copy_bidirectional, pipe, stdin};
use switchgrass::net::UnixStream;
use switchgrass::select::{PollFd, PollFlags, poll};
use switchgrass::{GreenletExit, joinall, scope, spawn, timeout, unblock, yield_now};

use crate::net::{is_close_on_exec, is_nonblocking};
use crate::util::{Clock, HOUR, Log, is_exit, secs, time_limit};

fn std_pipe() -> (StdPipeReader, StdPipeWriter) {
    std_io::pipe().unwrap()
}

fn is_readable(fd: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::READABLE)], Some(Duration::ZERO)).unwrap() > 0
}

// ---- Pollable ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_read_of_a_foreign_descriptor_waits_for_its_greenlet_only() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    let mut reader = Pollable::new(reader).unwrap();
    let greenlet = spawn(move || {
        for _ in 0..3 {
            yield_now();
            writer.write_all(b"x").unwrap();
        }
    });
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"xxx");
    greenlet.join().unwrap();
}

#[test]
fn a_write_waits_for_room() {
    time_limit();
    const LEN: usize = 1 << 20;
    let (reader, writer) = std_pipe();
    let (reader, writer) = (Pollable::new(reader).unwrap(), Pollable::new(writer).unwrap());
    let greenlet = spawn(move || (&writer).write_all(&vec![7; LEN]));
    let mut all = Vec::new();
    (&reader).read_to_end(&mut all).unwrap();
    assert!(all.len() == LEN && all.iter().all(|&byte| byte == 7));
    greenlet.join().unwrap().unwrap();
}

#[test]
fn one_greenlet_reads_by_reference_while_another_writes() {
    time_limit();
    let (one, other) = StdUnix::pair().unwrap();
    let (one, other) = (Pollable::new(one).unwrap(), Pollable::new(other).unwrap());
    scope(|s| {
        let reader = s.spawn(|| {
            let mut buf = [0; 2];
            (&one).read_exact(&mut buf).map(|()| buf)
        });
        yield_now();
        (&one).write_all(b"a").unwrap();
        let mut buf = [0; 1];
        (&other).read_exact(&mut buf).unwrap();
        (&other).write_all(b"bc").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), *b"bc");
    });
}

/// Has only what is needed, and reads by `&mut` alone.
struct Counting(StdPipeReader, usize);

impl AsFd for Counting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Counting {
    fn read(&mut self, buf: &mut [u8]) -> std_io::Result<usize> {
        self.1 += 1;
        self.0.read(buf)
    }
}

#[test]
fn a_type_of_ones_own_that_reads_only_by_itself_reads_in_here_too() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    let mut reader = Pollable::new(Counting(reader, 0)).unwrap();
    let greenlet = spawn(move || writer.write_all(b"xy").map(|()| writer));
    let mut buf = [0; 2];
    reader.read_exact(&mut buf).unwrap();
    assert_eq!(buf, *b"xy");
    drop(greenlet.join().unwrap().unwrap());
    assert_eq!(reader.read(&mut buf).unwrap(), 0);
    assert_eq!(reader.get_ref().1, 3, "would block, two bytes, the end");
}

#[test]
fn closures_do_what_the_type_has_methods_for() {
    time_limit();
    let (one, other) = UnixDatagram::pair().unwrap();
    let (one, other) = (Pollable::new(one).unwrap(), Pollable::new(other).unwrap());
    let greenlet = spawn(move || {
        for number in 0..1000_u32 {
            other.write_with(|socket| socket.send(&number.to_be_bytes())).unwrap();
        }
    });
    for number in 0..1000_u32 {
        let mut buf = [0; 4];
        assert_eq!(one.read_with(|socket| socket.recv(&mut buf)).unwrap(), 4);
        assert_eq!(u32::from_be_bytes(buf), number);
    }
    greenlet.join().unwrap();
}

#[test]
fn a_timer_descriptor_can_be_waited_for() {
    time_limit();
    // SAFETY: no pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: just opened.
    let timer = Pollable::new(unsafe { OwnedFd::from_raw_fd(fd) }).unwrap();
    let millisecond = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let when =
        libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: millisecond };
    // SAFETY: a valid pointer to read, and none to write.
    assert_eq!(unsafe { libc::timerfd_settime(fd, 0, &raw const when, std::ptr::null_mut()) }, 0);
    timer.wait_readable(None).unwrap();
    let mut count = [0; 8];
    File::from(timer.into_inner()).read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn waits_are_about_the_state_and_not_about_changes() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    let reader = Pollable::new(reader).unwrap();
    let greenlet = spawn(move || writer.write_all(b"xy").map(|()| writer));
    for _ in 0..3 {
        reader.wait_readable(None).unwrap();
    }
    (&reader).read_exact(&mut [0]).unwrap();
    reader.wait_readable(Some(Duration::ZERO)).unwrap();
    (&reader).read_exact(&mut [0]).unwrap();
    let writer = Pollable::new(greenlet.join().unwrap().unwrap()).unwrap();
    writer.wait_writable(None).unwrap();
    writer.wait_writable(None).unwrap();
    let clock = Clock::start();
    assert_eq!(reader.wait_readable(Some(secs(4))).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(clock.elapsed(), secs(4));
    assert_eq!(reader.wait_readable(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(clock.elapsed(), secs(4));
}

#[test]
fn wait_writable_waits_until_a_full_pipe_is_read() {
    time_limit();
    let (mut reader, writer) = std_pipe();
    let writer = Pollable::new(writer).unwrap();
    while !writer.get_ref().write(&[0; 4096]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {}
    let greenlet = spawn(move || reader.read_exact(&mut [0; 8192]).map(|()| reader));
    writer.wait_writable(None).unwrap();
    assert!(greenlet.is_ready());
}

#[test]
fn the_descriptor_comes_back_as_it_was() {
    let (reader, writer) = std_pipe();
    assert!(!is_nonblocking(&reader));
    let reader = Pollable::new(reader).unwrap();
    assert!(is_nonblocking(&reader));
    assert!(!is_nonblocking(reader.into_inner()));

    let (socket, _peer) = StdUnix::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    assert!(is_nonblocking(Pollable::new(socket).unwrap().into_inner()));
    drop(writer);
}

#[test]
fn what_cannot_be_waited_for_is_refused_with_the_remedy() {
    for path in ["/proc/self/exe", "/", "/dev/null"] {
        let file = File::open(path).unwrap();
        let error = Pollable::new(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("regular file") && text.contains("switchgrass::fs"), "{text}");
        assert!(!is_nonblocking(&file));
    }
}

#[test]
fn a_second_reader_is_told_and_a_writer_is_not() {
    time_limit();
    let (one, _other) = StdUnix::pair().unwrap();
    let one = Pollable::new(one).unwrap();
    scope(|s| {
        let first = s.spawn(|| (&one).read(&mut [0]));
        yield_now();
        let error = (&one).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(error.get_ref().unwrap().is::<ConcurrentUse>());
        assert!(one.wait_readable(None).unwrap_err().get_ref().unwrap().is::<ConcurrentUse>());
        one.wait_writable(None).unwrap();
        (&one).write_all(b"x").unwrap();
        first.kill();
    });
    // Whoever is next may wait.
    assert!(timeout(Duration::from_millis(1), || one.wait_readable(Some(HOUR))).is_err());
}

#[test]
fn one_number_in_two_hands_is_an_error_and_not_a_lost_wakeup() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    let first = Pollable::new(&reader).unwrap();
    // The first one waits: nobody takes it away.
    scope(|s| {
        let waiting = s.spawn(|| first.wait_readable(None));
        yield_now();
        let error = Pollable::new(&reader).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("duplicate it"), "{error}");
        writer.write_all(b"x").unwrap();
        waiting.join().unwrap().unwrap();
    });
    // It does not: the second one has it from now on.
    let second = Pollable::new(&reader).unwrap();
    (&reader).read_exact(&mut [0]).unwrap();
    assert_eq!(first.wait_readable(None).unwrap_err().kind(), ErrorKind::ResourceBusy);
    scope(|s| {
        let waiting = s.spawn(|| second.wait_readable(None));
        yield_now();
        drop(first);
        writer.write_all(b"x").unwrap();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn duplicates_are_independent() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    let other = Pollable::new(reader.try_clone().unwrap()).unwrap();
    let reader = Pollable::new(reader).unwrap();
    scope(|s| {
        let waiting = [&reader, &other].map(|pipe| s.spawn(|| pipe.wait_readable(None)));
        yield_now();
        writer.write_all(b"x").unwrap();
        for greenlet in waiting {
            greenlet.join().unwrap().unwrap();
        }
    });
}

#[test]
fn it_works_from_another_thread_than_that_which_made_it() {
    time_limit();
    let (reader, writer) = std_pipe();
    let (mut reader, mut writer) = (Pollable::new(reader).unwrap(), Pollable::new(writer).unwrap());
    let thread = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    writer.write_all(b"over there").unwrap();
    drop(writer);
    assert_eq!(thread.join().unwrap(), "over there");
}

#[test]
fn a_timeout_during_a_read_loses_nothing() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    let mut reader = Pollable::new(reader).unwrap();
    assert!(timeout(Duration::from_millis(1), || reader.read(&mut [0])).is_err());
    writer.write_all(b"x").unwrap();
    let mut buf = [0];
    reader.read_exact(&mut buf).unwrap();
    assert_eq!(buf, *b"x");
}

#[test]
fn a_loop_of_reads_that_never_wait_starves_nobody() {
    time_limit();
    let (reader, mut writer) = std_pipe();
    writer.write_all(&[0; 4096]).unwrap();
    let mut reader = Pollable::new(reader).unwrap();
    let stop = Rc::new(Cell::new(false));
    let greenlet = spawn({
        let stop = stop.clone();
        move || stop.set(true)
    });
    while !stop.get() {
        reader.read_exact(&mut [0]).unwrap();
    }
    assert!(is_readable(&reader), "it has never waited");
    greenlet.join().unwrap();
}

// ---- Pipes ------------------------------------------------------------------------------------------------------------------

#[test]
fn a_pipe_carries_more_than_it_holds() {
    time_limit();
    const LEN: usize = 1 << 20;
    let (mut reader, mut writer) = pipe().unwrap();
    let greenlet = spawn(move || {
        let bytes: Vec<u8> = (0..LEN).map(|n| n as u8).collect();
        for piece in bytes.chunks(70_001) {
            writer.write_all(piece).unwrap();
        }
    });
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.len() == LEN && all.iter().enumerate().all(|(n, &byte)| byte == n as u8));
    greenlet.join().unwrap();
}

#[test]
fn a_pipe_without_readers_is_broken_also_for_who_waits() {
    time_limit();
    let (reader, mut writer) = pipe().unwrap();
    let greenlet = spawn(move || writer.write_all(&vec![0; 1 << 20]));
    yield_now();
    drop(reader);
    assert_eq!(greenlet.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn the_ends_are_closed_on_exec_and_each_clone_counts() {
    time_limit();
    let (mut reader, writer) = pipe().unwrap();
    assert!(is_close_on_exec(&reader) && is_close_on_exec(&writer));
    let mut clone = writer.try_clone().unwrap();
    drop(writer);
    let greenlet = spawn(move || clone.write_all(b"still"));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still");
    greenlet.join().unwrap().unwrap();
}

#[test]
fn a_child_gets_blocking_pipes() {
    time_limit();
    let (to_child, mut input) = pipe().unwrap();
    let (mut output, from_child) = pipe().unwrap();
    let mut child = Command::new("cat").stdin(to_child).stdout(from_child).spawn().unwrap();
    let greenlet = spawn(move || {
        yield_now();
        input.write_all(b"through the cat").unwrap();
    });
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the cat");
    assert!(unblock(move || child.wait()).unwrap().success());
    greenlet.join().unwrap();

    let (reader, _writer) = pipe().unwrap();
    assert!(is_nonblocking(&reader));
    let reader = StdPipeReader::from(reader);
    assert!(!is_nonblocking(&reader));
    assert!(is_nonblocking(PipeReader::from(reader)));
}

#[test]
fn a_nonblocking_end_would_block() {
    let (mut reader, _writer) = pipe().unwrap();
    reader.set_nonblocking(true).unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

// ---- Copying ----------------------------------------------------------------------------------------------------------------

#[test]
fn copy_is_stds_and_waits_for_its_greenlet() {
    time_limit();
    let (mut reader, mut writer) = pipe().unwrap();
    let greenlet = spawn(move || writer.write_all(b"copied"));
    let mut to = Vec::new();
    assert_eq!(io::copy(&mut reader, &mut to).unwrap(), 6);
    assert_eq!(to, b"copied");
    greenlet.join().unwrap().unwrap();
}

/// A proxy between two connections: the client's end of one, the server's of the other.
fn proxied() -> (UnixStream, switchgrass::Greenlet<std_io::Result<(u64, u64)>>, UnixStream) {
    let (client, front) = UnixStream::pair().unwrap();
    let (back, server) = UnixStream::pair().unwrap();
    (client, spawn(move || copy_bidirectional(&front, &back)), server)
}

fn read_all(mut stream: &UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    time_limit();
    for server_first in [false, true] {
        let (client, proxy, server) = proxied();
        let (first, second) = if server_first { (&server, &client) } else { (&client, &server) };
        let (mut ends_first, mut ends_second) = (first, second);
        ends_first.write_all(b"first").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(second), "first");
        ends_second.write_all(b"and ").unwrap();
        yield_now();
        assert!(!proxy.is_ready());
        ends_second.write_all(b"second").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(first), "and second");
        let counts = if server_first { (10, 5) } else { (5, 10) };
        assert_eq!(proxy.join().unwrap().unwrap(), counts);
    }
}

#[test]
fn much_goes_both_ways_at_once() {
    time_limit();
    const LEN: usize = 3 << 20;
    let (client, proxy, server) = proxied();
    scope(|s| {
        for end in [&client, &server] {
            s.spawn(move || {
                let mut end = end;
                end.write_all(&vec![1; LEN]).unwrap();
                end.shutdown(Shutdown::Write).unwrap();
            });
            s.spawn(move || {
                let mut end = end;
                let mut all = Vec::new();
                end.read_to_end(&mut all).unwrap();
                assert_eq!(all.len(), LEN);
            });
        }
    });
    assert_eq!(proxy.join().unwrap().unwrap(), (LEN as u64, LEN as u64));
}

#[test]
fn an_error_of_one_direction_ends_the_other() {
    time_limit();
    let (client, proxy, server) = proxied();
    yield_now();
    // Nobody reads what the client sends; and nothing comes from there, either.
    server.shutdown(Shutdown::Read).unwrap();
    (&client).write_all(b"in vain").unwrap();
    assert_eq!(proxy.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(read_all(&client), "");
    assert_eq!(read_all(&server), "");
}

#[test]
fn a_peer_that_goes_away_altogether_ends_both() {
    time_limit();
    let (client, proxy, server) = proxied();
    (&client).write_all(b"bye").unwrap();
    drop(client);
    assert_eq!(read_all(&server), "bye");
    drop(server);
    assert_eq!(proxy.join().unwrap().unwrap(), (3, 0));
}

#[test]
fn a_killed_copy_leaves_the_streams_open() {
    time_limit();
    let (client, front) = UnixStream::pair().unwrap();
    let (back, server) = UnixStream::pair().unwrap();
    let (front, back) = (Rc::new(front), Rc::new(back));
    let proxy = spawn({
        let (front, back) = (front.clone(), back.clone());
        move || copy_bidirectional(&*front, &*back)
    });
    (&client).write_all(b"1").unwrap();
    (&server).read_exact(&mut [0]).unwrap();
    proxy.kill();
    assert!(is_exit(&proxy.join()));
    assert_eq!(switchgrass::testing::live(), 0, "no greenlet of the scope is left");
    assert!(timeout(Duration::from_millis(1), || copy_bidirectional(&*front, &*back)).is_err());
    (&*front).write_all(b"sorry").unwrap();
    drop(front);
    assert_eq!(read_all(&client), "sorry");
    drop(back);
}

#[test]
fn a_copy_in_a_destructor_that_unwinds_is_an_error() {
    struct Copies(UnixStream, UnixStream, Rc<Cell<Option<ErrorKind>>>);
    impl Drop for Copies {
        fn drop(&mut self) {
            self.2.set(copy_bidirectional(&self.0, &self.1).err().map(|error| error.kind()));
        }
    }
    let (one, two) = UnixStream::pair().unwrap();
    let kind = Rc::new(Cell::new(None));
    let guard = Copies(one, two, kind.clone());
    let greenlet = spawn(move || {
        let _guard = guard;
        std::panic::resume_unwind(Box::new(GreenletExit))
    });
    assert!(is_exit::<()>(&greenlet.join()));
    assert_eq!(kind.get(), Some(ErrorKind::WouldBlock));
}

// ---- stdin ------------------------------------------------------------------------------------------------------------------

/// Runs `body` in a child process with that stdin, while `feed` has the other ends. `test`: the full name of the test that calls this.
fn with_stdin(test: &str, stdin: impl Into<Stdio>, feed: impl FnOnce(&mut Fed), body: impl FnOnce()) {
    const MARK: &str = "SWITCHGRASS_TEST_STDIN";
    time_limit();
    if env::var_os(MARK).is_some() {
        return body();
    }
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(MARK, "")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut fed = Fed { child, output };
    feed(&mut fed);
    drop(fed.child.stdin.take());
    let mut rest = String::new();
    fed.output.read_to_string(&mut rest).unwrap();
    assert!(fed.child.wait().unwrap().success() && rest.contains("1 passed"), "{rest}");
}

struct Fed {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Fed {
    /// Waits until the child says so.
    fn wait_until_ready(&mut self) {
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child has ended");
        }
    }

    fn write(&mut self, text: impl AsRef<[u8]>) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_ref()).unwrap();
    }
}

fn say_ready() {
    println!("\nready");
}

fn next_line() -> String {
    let mut line = String::new();
    let len = stdin().read_line(&mut line).unwrap();
    assert_eq!(len, line.len());
    line
}

#[test]
fn reading_stdin_waits_for_its_greenlet_only() {
    with_stdin(
        "io::reading_stdin_waits_for_its_greenlet_only",
        Stdio::piped(),
        |fed| {
            fed.wait_until_ready();
            fed.write("hello\nthere\n");
            fed.wait_until_ready();
            fed.write("no newline");
        },
        || {
            let greenlet = spawn(|| {
                // Runs while main waits for the first line.
                say_ready();
            });
            assert_eq!(next_line(), "hello\n");
            assert!(greenlet.is_ready());
            assert_eq!(next_line(), "there\n");
            assert!(!is_nonblocking(stdin()), "the mode is everybody's");
            say_ready();
            assert_eq!(next_line(), "no newline");
            assert_eq!(next_line(), "");
            assert_eq!(next_line(), "");
        },
    );
}

#[test]
fn a_terminal_gives_line_by_line_and_the_end_is_not_for_ever() {
    let (mut master, mut slave) = (0, 0);
    // SAFETY: two numbers to write to; no name, settings or size.
    let result = unsafe {
        let null = std::ptr::null_mut();
        libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), null.cast())
    };
    assert_eq!(result, 0);
    // SAFETY: both were just opened.
    let (mut master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    with_stdin(
        "io::a_terminal_gives_line_by_line_and_the_end_is_not_for_ever",
        slave,
        |fed| {
            fed.wait_until_ready();
            master.write_all(b"typed\n").unwrap();
            fed.wait_until_ready();
            master.write_all(b"\x04").unwrap();
            fed.wait_until_ready();
            master.write_all(b"more\n").unwrap();
        },
        || {
            let greenlet = spawn(say_ready);
            assert_eq!(next_line(), "typed\n");
            assert!(greenlet.is_ready());
            say_ready();
            assert_eq!(next_line(), "");
            say_ready();
            assert_eq!(next_line(), "more\n");
        },
    );
}

#[test]
fn a_file_is_read_line_by_line_across_the_buffer() {
    let lines =
        || (0..3000).map(|n| format!("{n} {}", "x".repeat(n % 300))).chain([String::from("the last")]);
    let mut file = temporary_file();
    file.write_all(lines().collect::<Vec<_>>().join("\n").as_bytes()).unwrap();
    std_io::Seek::rewind(&mut file).unwrap();
    with_stdin(
        "io::a_file_is_read_line_by_line_across_the_buffer",
        file,
        |_| {},
        || assert!(stdin().lines().map(Result::unwrap).eq(lines())),
    );
}

/// Without a name.
fn temporary_file() -> File {
    let path =
        env::temp_dir().join(format!("switchgrass-io-{}-{:?}", std::process::id(), thread::current().id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

#[test]
fn a_file_whose_reader_is_killed_is_not_shorter_for_it() {
    let mut file = temporary_file();
    file.write_all(b"1\n2\n").unwrap();
    std_io::Seek::rewind(&mut file).unwrap();
    with_stdin(
        "io::a_file_whose_reader_is_killed_is_not_shorter_for_it",
        file,
        |_| {},
        || {
            // The threads of the pool are busy, so that the read comes after the kill.
            let gate = Arc::new(Mutex::new(()));
            let closed = gate.lock().unwrap();
            let busy = [(); 100].map(|()| {
                let gate = gate.clone();
                spawn(|| unblock(move || drop(gate.lock())))
            });
            let greenlet = spawn(next_line);
            yield_now();
            greenlet.kill();
            drop(closed);
            joinall(&busy);
            assert!(is_exit(&greenlet.join()));
            assert_eq!(next_line(), "1\n");
            assert_eq!(next_line(), "2\n");
            assert_eq!(next_line(), "");
        },
    );
}

#[test]
fn dev_null_and_a_closed_stdin_are_empty() {
    with_stdin(
        "io::dev_null_and_a_closed_stdin_are_empty",
        Stdio::null(),
        |_| {},
        || {
            assert_eq!(next_line(), "");
            // SAFETY: nobody owns number 0.
            assert_eq!(unsafe { libc::close(0) }, 0);
            assert_eq!(next_line(), "");
            assert_eq!(stdin().read(&mut [0]).unwrap(), 0);
            assert!(stdin().lines().next().is_none());
        },
    );
}

#[test]
fn two_greenlets_get_whole_lines_in_turn() {
    with_stdin(
        "io::two_greenlets_get_whole_lines_in_turn",
        Stdio::piped(),
        |fed| {
            fed.wait_until_ready();
            // In pieces that are no lines.
            let text: String = (0..1000).map(|n| format!("line number {n}\n")).collect();
            for piece in text.as_bytes().chunks(1234) {
                fed.write(piece);
            }
        },
        || {
            let log = Rc::new(RefCell::new(Vec::new()));
            let readers = [0, 1].map(|who| {
                let log = log.clone();
                spawn(move || {
                    loop {
                        let line = next_line();
                        if line.is_empty() {
                            return;
                        }
                        log.borrow_mut().push((who, line));
                    }
                })
            });
            yield_now();
            say_ready();
            for reader in readers {
                reader.join().unwrap();
            }
            let log = log.borrow();
            let expected = (0..1000).map(|n| (n % 2, format!("line number {n}\n")));
            assert!(log.iter().cloned().eq(expected), "{log:?}");
        },
    );
}

#[test]
fn threads_share_the_lines_too() {
    with_stdin(
        "io::threads_share_the_lines_too",
        Stdio::piped(),
        |fed| {
            for n in 0..2000 {
                fed.write(format!("{n}\n"));
            }
        },
        || {
            let threads = [(); 3].map(|()| {
                thread::spawn(|| {
                    let mut numbers: Vec<u32> = Vec::new();
                    loop {
                        match next_line().trim_end() {
                            "" => return numbers,
                            line => numbers.push(line.parse().unwrap()),
                        }
                    }
                })
            });
            let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..2000));
        },
    );
}

#[test]
fn who_is_killed_within_a_line_leaves_it_to_the_next() {
    with_stdin(
        "io::who_is_killed_within_a_line_leaves_it_to_the_next",
        Stdio::piped(),
        |fed| {
            fed.write("ha");
            fed.wait_until_ready();
            fed.write("lf\n");
        },
        || {
            switchgrass::select::wait_readable(stdin(), None).unwrap();
            let greenlet = spawn(next_line);
            yield_now();
            assert!(!is_readable(&stdin()), "the first half is in the buffer");
            greenlet.kill();
            assert!(is_exit(&greenlet.join()));
            assert!(timeout(Duration::from_millis(1), next_line).is_err());
            say_ready();
            assert_eq!(next_line(), "half\n");
        },
    );
}

#[test]
fn a_lock_keeps_the_others_waiting_in_order() {
    with_stdin(
        "io::a_lock_keeps_the_others_waiting_in_order",
        Stdio::piped(),
        |fed| fed.write("1\n2\n3\n4\nrest"),
        || {
            let log = Log::new();
            let mut lock = stdin().lock();
            let waiting = ["a", "killed", "b"].map(|name| {
                let log = log.clone();
                spawn(move || log.add(format!("{name}:{}", next_line().trim_end())))
            });
            yield_now();
            let mut line = String::new();
            lock.read_line(&mut line).unwrap();
            lock.read_line(&mut line).unwrap();
            assert_eq!(line, "1\n2\n");
            waiting[1].kill();
            assert_eq!(log.take(), "");
            drop(lock);
            for greenlet in waiting {
                let _ = greenlet.join();
            }
            assert_eq!(log.take(), "a:3 b:4");
            let mut rest = String::new();
            stdin().read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "rest");
        },
    );
}

#[test]
fn who_is_killed_when_it_is_its_turn_passes_it_on() {
    with_stdin(
        "io::who_is_killed_when_it_is_its_turn_passes_it_on",
        Stdio::piped(),
        |fed| fed.write("1\n2\n"),
        || {
            let lock = stdin().lock();
            let killed = spawn(next_line);
            let next = spawn(next_line);
            yield_now();
            drop(lock);
            // It has been called, and has not run yet.
            killed.kill_nowait();
            assert_eq!(next.join().unwrap(), "1\n");
            assert!(is_exit(&killed.join()));
            assert_eq!(next_line(), "2\n");
        },
    );
}

#[test]
fn a_line_that_is_no_text_is_an_error_and_gone() {
    with_stdin(
        "io::a_line_that_is_no_text_is_an_error_and_gone",
        Stdio::piped(),
        |fed| fed.write(b"\xff\xff\ntext\n"),
        || {
            let mut line = String::from("kept ");
            assert_eq!(stdin().read_line(&mut line).unwrap_err().kind(), ErrorKind::InvalidData);
            stdin().read_line(&mut line).unwrap();
            assert_eq!(line, "kept text\n");
        },
    );
}

#[test]
fn a_very_long_line_comes_whole() {
    const LEN: usize = 300_000;
    with_stdin(
        "io::a_very_long_line_comes_whole",
        Stdio::piped(),
        |fed| {
            fed.write(vec![b'x'; LEN]);
            fed.write("\nshort\n");
        },
        || {
            assert_eq!(next_line().len(), LEN + 1);
            let mut lock = stdin().lock();
            assert_eq!(lock.fill_buf().unwrap(), b"short\n");
            lock.consume(2);
            let mut rest = [0; 4];
            lock.read_exact(&mut rest).unwrap();
            assert_eq!(rest, *b"ort\n");
        },
    );
}
