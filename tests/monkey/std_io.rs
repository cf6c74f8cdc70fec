//! `std::io` over sockets: buffered readers, copies, vectored calls.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Seek, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use switchgrass::spawn;

use crate::util::{TempDir, all_at_once, let_all_run, patched, tcp_pair, waits};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 251 + n) as u8).collect()
}

/// Reads all, in small pieces, and lets others run in between.
fn read_slowly(mut stream: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 50_000];
    loop {
        switchgrass::yield_now();
        match stream.read(&mut buffer).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn ten_megabytes_are_written_to_a_slow_reader() {
    patched();
    let sent = pattern(10_000_000);
    let (mut stream, peer) = tcp_pair();
    let reader = spawn(move || read_slowly(peer));
    stream.write_all(&sent).unwrap();
    drop(stream);
    assert!(reader.join().unwrap() == sent);

    let (mut stream, peer) = UnixStream::pair().unwrap();
    let reader = spawn(move || read_slowly(peer));
    stream.write_all(&sent).unwrap();
    drop(stream);
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn ten_megabytes_go_through_a_pipe() {
    patched();
    let sent = pattern(10_000_000);
    let (from, mut to) = io::pipe().unwrap();
    let reader = spawn(move || read_slowly(from));
    to.write_all(&sent).unwrap();
    drop(to);
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_hundred_greenlets_read_pipes_at_once() {
    patched();
    let ends: Rc<Vec<_>> = Rc::new((0..100).map(|_| io::pipe().unwrap()).collect());
    let started = Rc::new(Cell::new(0));
    all_at_once(100, move |number| {
        started.set(started.get() + 1);
        if started.get() == 100 {
            for (number, (_, to)) in ends.iter().enumerate() {
                (&*to).write_all(&[number as u8]).unwrap();
            }
        }
        let mut byte = [0];
        (&ends[number].0).read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), number);
    });
}

#[test]
fn lines_come_one_by_one_from_a_socket() {
    patched();
    let (mut stream, peer) = tcp_pair();
    let got = Rc::new(Cell::new(0));
    let reader = spawn({
        let got = Rc::clone(&got);
        move || {
            for (number, line) in BufReader::new(peer).lines().enumerate() {
                assert_eq!(line.unwrap(), format!("line {number}"));
                got.set(number + 1);
            }
        }
    });
    for number in 0..5 {
        // A line in two parts.
        write!(stream, "line ").unwrap();
        let_all_run();
        assert_eq!(got.get(), number);
        writeln!(stream, "{number}").unwrap();
        while got.get() == number {
            switchgrass::yield_now();
        }
    }
    drop(stream);
    reader.join().unwrap();
    assert_eq!(got.get(), 5);
}

/// A server of one connection that gives back all it has got, at the end.
fn sink() -> (TcpStream, switchgrass::Greenlet<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = spawn(move || read_slowly(listener.accept().unwrap().0));
    (TcpStream::connect(address).unwrap(), server)
}

#[test]
fn a_copy_from_socket_to_socket() {
    patched();
    let sent = pattern(3_000_000);
    let (mut source, mut middle) = tcp_pair();
    let (mut out, server) = sink();
    let copy = spawn(move || io::copy(&mut middle, &mut out).unwrap());
    source.write_all(&sent).unwrap();
    drop(source);
    assert_eq!(copy.join().unwrap(), 3_000_000);
    assert!(server.join().unwrap() == sent);
}

#[test]
fn copies_between_a_file_and_a_socket() {
    patched();
    let directory = TempDir::new();
    let sent = pattern(3_000_000);
    let mut file = File::create_new(directory.0.join("file")).unwrap();
    file.write_all(&sent).unwrap();
    drop(file);
    let mut file = File::open(directory.0.join("file")).unwrap();
    let (mut out, server) = sink();
    let copied = spawn(move || {
        let count = io::copy(&mut file, &mut out).unwrap();
        out.shutdown(Shutdown::Write).unwrap();
        // Nothing has made it non-blocking for good.
        assert_eq!(out.read(&mut [0]).unwrap(), 0);
        (count, file.stream_position().unwrap())
    });
    assert_eq!(copied.join().unwrap(), (3_000_000, 3_000_000));
    assert!(server.join().unwrap() == sent);

    let (mut source, mut middle) = tcp_pair();
    let path = directory.0.join("other");
    let copy = spawn({
        let path = path.clone();
        move || io::copy(&mut middle, &mut File::create(path).unwrap()).unwrap()
    });
    source.write_all(&sent).unwrap();
    drop(source);
    assert_eq!(copy.join().unwrap(), 3_000_000);
    assert!(std::fs::read(path).unwrap() == sent);
}

#[test]
fn copies_through_a_pipe() {
    patched();
    let sent = pattern(3_000_000);
    let (mut source, mut middle) = tcp_pair();
    let (mut from, mut to) = io::pipe().unwrap();
    let (mut out, server) = sink();
    let into = spawn(move || io::copy(&mut middle, &mut to).unwrap());
    let onward = spawn(move || io::copy(&mut from, &mut out).unwrap());
    source.write_all(&sent).unwrap();
    drop(source);
    assert_eq!((into.join().unwrap(), onward.join().unwrap()), (3_000_000, 3_000_000));
    assert!(server.join().unwrap() == sent);
}

#[test]
fn vectored_calls_wait() {
    patched();
    let (mut stream, peer) = tcp_pair();
    let read = move |mut from: &dyn Fn(&mut [IoSliceMut<'_>]) -> io::Result<usize>| {
        let _ = &mut from;
        let (mut one, mut two) = ([0; 3], [0; 9]);
        let count = from(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]).unwrap();
        assert_eq!((count, &one, &two[..2]), (5, b"abc", &b"de"[..]));
    };
    waits(
        move || read(&|parts| (&peer).read_vectored(parts)),
        || assert_eq!(stream.write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b"cde")]).unwrap(), 5),
    );
    let (from, mut to) = io::pipe().unwrap();
    waits(
        move || read(&|parts| (&from).read_vectored(parts)),
        || assert_eq!(to.write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b"cde")]).unwrap(), 5),
    );
}

#[test]
fn vectored_writes_of_megabytes_are_whole() {
    patched();
    let sent = pattern(3_000_000);
    let parts: Vec<_> = sent.chunks(10_007).map(IoSlice::new).collect();
    let (mut stream, peer) = tcp_pair();
    let reader = spawn(move || read_slowly(peer));
    // A blocking writev is through only when all is.
    assert_eq!(stream.write_vectored(&parts).unwrap(), 3_000_000);
    drop(stream);
    assert!(reader.join().unwrap() == sent);

    let (from, mut to) = io::pipe().unwrap();
    let reader = spawn(move || read_slowly(from));
    assert_eq!(to.write_vectored(&parts).unwrap(), 3_000_000);
    drop(to);
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn a_written_part_is_told_when_the_peer_is_gone() {
    patched();
    let (from, mut to) = io::pipe().unwrap();
    let result = waits(move || (to.write(&[0; 1 << 20]), to.write(&[0])), || drop(from));
    // A pipe has taken 64 KiB; the next write says why not more.
    assert_eq!(result.0.unwrap(), 1 << 16);
    assert_eq!(result.1.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
