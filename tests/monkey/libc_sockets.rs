//! libc's calls on sockets and pipes: flags, limits, `errno`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use libc::c_void;
use switchgrass::spawn;

use crate::util::{checked, in_greenlet, let_all_run, patched, tcp_pair, waits};

/// A read by libc's `recv`.
fn recv(fd: &impl AsRawFd, len: usize, flags: i32) -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0_u8; len];
    // SAFETY: the buffer has so much room.
    let result = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), len, flags) };
    checked(result).map(|count| buffer[..count as usize].to_vec())
}

fn read(fd: &impl AsRawFd, len: usize) -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0_u8; len];
    // SAFETY: as above.
    let result = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), len) };
    checked(result).map(|count| buffer[..count as usize].to_vec())
}

fn flags(fd: RawFd) -> i32 {
    // SAFETY: F_GETFL takes no argument.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

#[test]
fn msg_dontwait_does_not_wait() {
    in_greenlet(|| {
        let (one, _other) = tcp_pair();
        assert_eq!(recv(&one, 1, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        let (one, _other) = UnixDatagram::pair().unwrap();
        assert_eq!(recv(&one, 1, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        let full = vec![0_u8; 1 << 22];
        let (one, _other) = UnixStream::pair().unwrap();
        let send = || {
            // SAFETY: the buffer is as long.
            checked(unsafe {
                libc::send(one.as_raw_fd(), full.as_ptr().cast(), full.len(), libc::MSG_DONTWAIT)
            })
        };
        assert!(send().unwrap() < full.len() as i64);
        assert_eq!(send(), Err(libc::EAGAIN));
    });
}

#[test]
fn msg_waitall_waits_for_all_or_the_end() {
    patched();
    for (one, other) in [
        {
            let (one, other) = tcp_pair();
            (OwnedFd::from(one), OwnedFd::from(other))
        },
        {
            let (one, other) = UnixStream::pair().unwrap();
            (one.into(), other.into())
        },
    ] {
        let mut other = std::fs::File::from(other);
        let greenlet = spawn(move || {
            assert_eq!(recv(&one, 6, libc::MSG_WAITALL).unwrap(), b"abcdef");
            assert_eq!(recv(&one, 6, libc::MSG_WAITALL).unwrap(), b"gh");
            assert_eq!(recv(&one, 6, libc::MSG_WAITALL).unwrap(), b"");
        });
        for part in [&b"ab"[..], b"cd", b"ef", b"gh"] {
            let_all_run();
            assert!(!greenlet.is_ready());
            other.write_all(part).unwrap();
        }
        drop(other);
        greenlet.join().unwrap();
    }
}

/// The address is not looked at, and all is sent; it is not told, and all is waited for.
#[test]
fn a_stream_is_written_and_read_whole_by_the_calls_with_addresses() {
    patched();
    let (one, other) = tcp_pair();
    let length = 1 << 22;
    let address = other.local_addr().unwrap();
    let reads = spawn(move || {
        let mut all = vec![0_u8; length];
        let mut from = [0_u8; 128];
        let mut from_len = 128;
        // SAFETY: so much room is there.
        let got = unsafe {
            let from = (&raw mut from).cast();
            libc::recvfrom(
                other.as_raw_fd(),
                all.as_mut_ptr().cast(),
                length,
                libc::MSG_WAITALL,
                from,
                &mut from_len,
            )
        };
        assert!(all.iter().all(|byte| *byte == 7));
        (got, from_len)
    });
    let writes = spawn(move || {
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as _,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
            sin_zero: [0; 8],
        };
        let all = vec![7_u8; length];
        let (to, to_len) = ((&raw const to).cast(), size_of::<libc::sockaddr_in>() as u32);
        // SAFETY: the buffer and the address are as long as is said.
        let sent = unsafe { libc::sendto(one.as_raw_fd(), all.as_ptr().cast(), length, 0, to, to_len) };
        (sent, one)
    });
    assert_eq!(writes.join().unwrap().0, length as isize);
    assert_eq!(reads.join().unwrap(), (length as isize, 0));
}

#[test]
fn msg_waitall_gives_what_has_come_when_its_time_is_over() {
    in_greenlet(|| {
        let (one, mut other) = tcp_pair();
        one.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        other.write_all(b"ab").unwrap();
        assert_eq!(recv(&one, 6, libc::MSG_WAITALL).unwrap(), b"ab");
        assert_eq!(recv(&one, 6, libc::MSG_WAITALL), Err(libc::EAGAIN));
    });
}

#[test]
fn msg_peek_waits_and_takes_nothing() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    waits(
        move || {
            assert_eq!(recv(&one, 9, libc::MSG_PEEK).unwrap(), b"abc");
            assert_eq!(recv(&one, 2, libc::MSG_PEEK).unwrap(), b"ab");
            // Here the kernel waits for all on TCP only.
            assert_eq!(recv(&one, 9, libc::MSG_PEEK | libc::MSG_WAITALL).unwrap(), b"abc");
            assert_eq!(recv(&one, 9, 0).unwrap(), b"abc");
        },
        move || other.write_all(b"abc").unwrap(),
    );
}

#[test]
fn msg_trunc_tells_how_long_a_datagram_is() {
    patched();
    let (one, other) = UnixDatagram::pair().unwrap();
    waits(
        move || {
            let mut byte = [0_u8; 1];
            // SAFETY: room for one byte.
            let len = unsafe { libc::recv(one.as_raw_fd(), byte.as_mut_ptr().cast(), 1, libc::MSG_TRUNC) };
            assert_eq!((len, &byte), (5, b"h"));
        },
        move || assert_eq!(other.send(b"hello").unwrap(), 5),
    );
}

/// A read that ends at the mark of urgent data does not mean that there is no more.
#[test]
fn data_behind_urgent_data_is_read() {
    patched();
    let (one, mut other) = tcp_pair();
    let greenlet = spawn(move || {
        let mut all = Vec::new();
        while all.len() < 6 {
            all.extend(recv(&one, 100, 0).unwrap());
        }
        (all, recv(&one, 1, libc::MSG_OOB).unwrap_or_default())
    });
    let_all_run();
    other.write_all(b"ab").unwrap();
    let_all_run();
    other.write_all(b"cd").unwrap();
    // SAFETY: one byte.
    assert_eq!(unsafe { libc::send(other.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
    other.write_all(b"ef").unwrap();
    assert_eq!(greenlet.join().unwrap().0, b"abcdef");
}

#[test]
fn an_empty_read_returns_at_once() {
    in_greenlet(|| {
        let (one, _other) = tcp_pair();
        assert_eq!(read(&one, 0), Ok(vec![]));
        let (from, _to) = std::io::pipe().unwrap();
        assert_eq!(read(&from, 0), Ok(vec![]));
    });
}

/// Unlike `read`, `recv` of nothing waits until there is something: that is how some wait for a socket. A datagram is taken by it.
#[test]
fn an_empty_recv_waits_for_data() {
    patched();
    let (one, mut other) = tcp_pair();
    waits(
        move || {
            assert_eq!(recv(&one, 0, 0), Ok(vec![]));
            assert_eq!((&one).read(&mut []).unwrap(), 0);
            assert_eq!(recv(&one, 2, 0).unwrap(), b"!");
            assert_eq!(recv(&one, 0, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        },
        || other.write_all(b"!").unwrap(),
    );
    let (one, other) = UnixDatagram::pair().unwrap();
    waits(
        move || {
            assert_eq!(recv(&one, 0, 0), Ok(vec![]));
            assert_eq!(recv(&one, 2, 0).unwrap(), b"b");
        },
        move || [b"a", b"b"].iter().for_each(|text| assert_eq!(other.send(*text).unwrap(), 1)),
    );
}

#[test]
fn the_program_sees_the_flags_that_it_has_set_and_no_others() {
    in_greenlet(|| {
        let (one, mut other) = tcp_pair();
        let fd = one.as_raw_fd();
        other.write_all(b"!").unwrap();
        read(&one, 1).unwrap();
        assert_eq!(flags(fd) & libc::O_NONBLOCK, 0);
        // By FIONBIO …
        let mut on = 1;
        // SAFETY: reads one int.
        unsafe { libc::ioctl(fd, libc::FIONBIO, &raw mut on) };
        assert_ne!(flags(fd) & libc::O_NONBLOCK, 0);
        assert_eq!(read(&one, 1), Err(libc::EAGAIN));
        // … and by F_SETFL, back …
        // SAFETY: takes a number.
        unsafe { libc::fcntl(fd, libc::F_SETFL, flags(fd) & !libc::O_NONBLOCK) };
        assert_eq!(flags(fd) & libc::O_NONBLOCK, 0);
        let clone = one.try_clone().unwrap();
        waits(move || read(&clone, 1).unwrap(), || other.write_all(b"!").unwrap());
        // … and forth.
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETFL, flags(fd) | libc::O_NONBLOCK) };
        assert_eq!(read(&one, 1), Err(libc::EAGAIN));
        // SAFETY: takes numbers; the result is ours.
        let made = unsafe {
            OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0))
        };
        assert_eq!(read(&made, 1), Err(libc::EAGAIN));
    });
}

#[test]
fn nonblocking_pipes_say_so() {
    in_greenlet(|| {
        let mut ends = [0; 2];
        // SAFETY: room for two numbers, which are ours then.
        let (from, to) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC), 0);
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        };
        assert_eq!(read(&from, 1), Err(libc::EAGAIN));
        let full = [0_u8; 1 << 17];
        // SAFETY: the buffer is as long.
        let write = || checked(unsafe { libc::write(to.as_raw_fd(), full.as_ptr().cast(), full.len()) });
        assert_eq!(write(), Ok(1 << 16));
        assert_eq!(write(), Err(libc::EAGAIN));
    });
}

#[test]
fn a_connect_that_is_nonblocking_says_that_it_goes_on() {
    in_greenlet(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: takes numbers; the result is ours. The address is as long as is said.
        unsafe {
            let socket =
                OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0));
            let to = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
                sin_zero: [0; 8],
            };
            let connect = || {
                checked(libc::connect(
                    socket.as_raw_fd(),
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_in>() as u32,
                ))
            };
            assert_eq!(connect(), Err(libc::EINPROGRESS));
            let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            assert_eq!(libc::poll(&mut entry, 1, -1), 1);
            assert_eq!(connect(), Ok(0));
            assert_eq!(connect(), Err(libc::EISCONN));
        }
    });
}

#[test]
fn errors_are_told_exactly() {
    in_greenlet(|| {
        assert_eq!(recv(&-1, 1, 0), Err(libc::EBADF));
        assert_eq!(read(&-1, 1), Err(libc::EBADF));
        assert_eq!(recv(&1_000_000_000, 1, 0), Err(libc::EBADF));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(recv(&file, 1, 0), Err(libc::ENOTSOCK));
        let (from, to) = std::io::pipe().unwrap();
        assert_eq!(recv(&from, 1, 0), Err(libc::ENOTSOCK));
        assert_eq!(read(&to, 1), Err(libc::EBADF), "the wrong end");
        // SAFETY: takes numbers; the result is ours.
        let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
        assert_eq!(recv(&socket, 1, 0), Err(libc::ENOTCONN));
        // SAFETY: without an address to write.
        let accepted =
            unsafe { libc::accept(socket.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
        assert_eq!(checked(accepted), Err(libc::EINVAL));
        let (one, other) = UnixStream::pair().unwrap();
        drop(other);
        // SAFETY: one byte.
        let sent = unsafe { libc::send(one.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
        assert_eq!(checked(sent), Err(libc::EPIPE));
        // SAFETY: an address that is not the caller's, of which the kernel says so.
        let result = unsafe { libc::recv(one.as_raw_fd(), 16 as *mut c_void, 0, 0) };
        assert_eq!(checked(result), Ok(0));
    });
}

/// Each greenlet finds the `errno` that its own call has set, though others had their own meanwhile.
#[test]
fn errno_is_of_the_call_though_others_ran_in_between() {
    patched();
    let (one, _other) = tcp_pair();
    one.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let waiting = spawn(move || recv(&one, 1, 0));
    let other = spawn(|| {
        for _ in 0..100 {
            assert_eq!(read(&-1, 1), Err(libc::EBADF));
            switchgrass::yield_now();
        }
    });
    assert_eq!(waiting.join().unwrap(), Err(libc::EAGAIN));
    other.join().unwrap();
}

/// Those without SA_RESTART, which end it, are in `monkey_process.rs`.
#[test]
fn a_handler_that_restarts_calls_does_not_end_a_wait() {
    extern "C" fn nothing(_: i32) {}
    patched();
    // SAFETY: an action of zeros, with a handler that does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()), 0);
    }
    let (one, mut other) = tcp_pair();
    // SAFETY: this thread's.
    let me = unsafe { libc::pthread_self() };
    let signals = std::thread::spawn(move || {
        for _ in 0..20 {
            // SAFETY: the thread waits for the data that comes after this.
            unsafe { libc::pthread_kill(me, libc::SIGURG) };
            std::thread::sleep(Duration::from_micros(500));
        }
        other.write_all(b"!").unwrap();
        other
    });
    assert_eq!(waits(move || recv(&one, 1, 0), || ()), Ok(b"!".to_vec()));
    signals.join().unwrap();
}

#[test]
fn messages_with_descriptors_wait_and_are_whole() {
    patched();
    let (one, other) = UnixStream::pair().unwrap();
    let (from, mut to) = std::io::pipe().unwrap();
    let passed = waits(
        move || {
            let mut bytes = [0_u8; 8];
            let mut control = [0_u64; 8];
            let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // SAFETY: the header points to what lives until the end of this block.
            unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_iov = &mut part;
                header.msg_iovlen = 1;
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = size_of_val(&control) as _;
                assert_eq!(checked(libc::recvmsg(one.as_raw_fd(), &mut header, 0)), Ok(3));
                assert_eq!(&bytes[..3], b"abc");
                let first = libc::CMSG_FIRSTHDR(&header);
                assert_eq!((*first).cmsg_type, libc::SCM_RIGHTS);
                OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<i32>().read_unaligned())
            }
        },
        || {
            let mut control = [0_u64; 8];
            let mut part = libc::iovec { iov_base: b"abc".as_ptr().cast_mut().cast(), iov_len: 3 };
            // SAFETY: as above.
            unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_iov = &mut part;
                header.msg_iovlen = 1;
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(4) as _;
                let first = libc::CMSG_FIRSTHDR(&header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(4) as _;
                libc::CMSG_DATA(first).cast::<i32>().write_unaligned(from.as_raw_fd());
                assert_eq!(checked(libc::sendmsg(other.as_raw_fd(), &header, 0)), Ok(3));
            }
        },
    );
    waits(move || assert_eq!(read(&passed, 9).unwrap(), b"xyz"), || to.write_all(b"xyz").unwrap());
}

#[test]
fn several_messages_at_once_have_a_time_limit() {
    in_greenlet(|| {
        let (one, other) = UnixDatagram::pair().unwrap();
        other.send(b"a").unwrap();
        other.send(b"bc").unwrap();
        let mut buffers = [[0_u8; 4]; 3];
        let mut parts =
            buffers.each_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 4 });
        // SAFETY: headers of zeros that point to what lives until the end.
        let (count, lens) = unsafe {
            let mut headers: [libc::mmsghdr; 3] = std::mem::zeroed();
            for (header, part) in headers.iter_mut().zip(&mut parts) {
                header.msg_hdr.msg_iov = part;
                header.msg_hdr.msg_iovlen = 1;
            }
            let mut limit = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            let count = libc::recvmmsg(one.as_raw_fd(), headers.as_mut_ptr(), 3, 0, &mut limit);
            (count, headers.map(|header| header.msg_len))
        };
        assert_eq!((count, lens[0], lens[1]), (2, 1, 2));
    });
}

#[test]
fn many_messages_are_sent_when_there_is_room() {
    patched();
    let (one, other) = UnixDatagram::pair().unwrap();
    let sent = waits(
        move || {
            let mut byte = 7_u8;
            let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            // SAFETY: as above.
            unsafe {
                let mut headers: [libc::mmsghdr; 500] = std::mem::zeroed();
                for header in &mut headers {
                    header.msg_hdr.msg_iov = &mut part;
                    header.msg_hdr.msg_iovlen = 1;
                }
                libc::sendmmsg(one.as_raw_fd(), headers.as_mut_ptr(), 500, 0)
            }
        },
        || (0..500).for_each(|_| assert_eq!(other.recv(&mut [0; 2]).unwrap(), 1)),
    );
    assert_eq!(sent, 500);
}

#[test]
fn an_eventfd_and_a_timer_are_waited_for() {
    patched();
    // SAFETY: take numbers; the results are ours.
    let (event, timer) = unsafe {
        (
            OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)),
            OwnedFd::from_raw_fd(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC)),
        )
    };
    let other = event.try_clone().unwrap();
    let got = waits(
        move || read(&event, 8).unwrap(),
        // SAFETY: eight bytes.
        || assert_eq!(unsafe { libc::write(other.as_raw_fd(), (&raw const THREE).cast(), 8) }, 8),
    );
    assert_eq!(got, THREE.to_ne_bytes());
    let start = Instant::now();
    let in_time = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 },
    };
    // SAFETY: reads a valid structure.
    assert_eq!(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &in_time, std::ptr::null_mut()) }, 0);
    assert_eq!(waits(move || read(&timer, 8).unwrap(), || ()), 1_u64.to_ne_bytes());
    assert!(start.elapsed() >= Duration::from_millis(5));
}

#[test]
fn a_terminal_is_waited_for() {
    patched();
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: room for two numbers, which are ours then; nothing else is wanted.
    let (ours, theirs) = unsafe {
        assert_eq!(libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()), 0);
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let mut keyboard = std::fs::File::from(ours);
    let mut keys = keyboard.try_clone().unwrap();
    let line = waits(move || read(&theirs, 100), move || keys.write_all(b"line\n").unwrap());
    assert_eq!(line.unwrap(), b"line\n");
    let mut echo = [0; 6];
    keyboard.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"line\r\n");
}

/// As a program that looks at the head of a message before it takes any of it.
#[test]
fn a_look_with_msg_waitall_waits_for_all_or_the_end() {
    patched();
    for end in [false, true] {
        let (one, mut other) = tcp_pair();
        let greenlet = spawn(move || {
            let seen = recv(&one, 6, libc::MSG_PEEK | libc::MSG_WAITALL).unwrap();
            assert_eq!(recv(&one, 6, 0).unwrap(), seen);
            seen
        });
        let_all_run();
        other.write_all(b"abcd").unwrap();
        // Until the hub has been told of that.
        switchgrass::sleep(Duration::from_millis(1));
        let_all_run();
        assert!(!greenlet.is_ready());
        if end {
            drop(other);
            assert_eq!(greenlet.join().unwrap(), b"abcd");
        } else {
            other.write_all(b"efgh").unwrap();
            assert_eq!(greenlet.join().unwrap(), b"abcdef");
        }
    }
    // A time limit.
    let (one, mut other) = tcp_pair();
    one.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    other.write_all(b"ab").unwrap();
    assert_eq!(in_greenlet(move || recv(&one, 6, libc::MSG_PEEK | libc::MSG_WAITALL)).unwrap(), b"ab");
}

static THREE: u64 = 3;

/// Two hubs and an OS thread read one pipe: each byte comes once.
#[test]
fn a_pipe_is_read_by_greenlets_of_two_hubs_and_a_thread() {
    patched();
    let (from, mut to) = std::io::pipe().unwrap();
    let readers: Vec<_> = (0..3)
        .map(|number| {
            let mut from = from.try_clone().unwrap();
            let mut read = move || {
                let (mut count, mut sum) = (0_usize, 0_usize);
                let mut byte = [0];
                while from.read(&mut byte).unwrap() == 1 {
                    count += 1;
                    sum += usize::from(byte[0]);
                }
                (count, sum)
            };
            std::thread::spawn(move || if number == 0 { read() } else { spawn(read).join().unwrap() })
        })
        .collect();
    drop(from);
    for n in 0..5000_u32 {
        to.write_all(&[n as u8]).unwrap();
    }
    drop(to);
    let results: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let expected: usize = (0..5000_u32).map(|n| usize::from(n as u8)).sum();
    assert_eq!(results.iter().map(|(count, _)| count).sum::<usize>(), 5000);
    assert_eq!(results.iter().map(|(_, sum)| sum).sum::<usize>(), expected);
}

/// The same stream is read by a greenlet and by another thread: whatever is there, somebody is woken for it.
#[test]
fn a_stream_is_read_by_two_hubs() {
    patched();
    let (stream, mut peer) = tcp_pair();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut stream: TcpStream = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                spawn(move || {
                    let (mut count, mut buffer) = (0, [0; 7]);
                    loop {
                        match stream.read(&mut buffer).unwrap() {
                            0 => return count,
                            more => count += more,
                        }
                    }
                })
                .join()
                .unwrap()
            })
        })
        .collect();
    for _ in 0..2000 {
        peer.write_all(b"hello").unwrap();
    }
    drop(peer);
    assert_eq!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>(), 10_000);
}
