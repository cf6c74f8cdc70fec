//! `poll`, `select`, `epoll_wait` and their relatives in greenlets.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use switchgrass::spawn;

use crate::util::{all_at_once, checked, in_greenlet, patched, tcp_pair, waits};

/// What `poll` says, for each descriptor.
fn poll(entries: &[(&dyn AsRawFd, i16)], timeout: i32) -> Vec<i16> {
    let mut fds: Vec<_> = entries
        .iter()
        .map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events: *events, revents: 0 })
        .collect();
    // SAFETY: an array of that length.
    let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as _, timeout) };
    let events: Vec<_> = fds.iter().map(|entry| entry.revents).collect();
    assert_eq!(checked(count), Ok(events.iter().filter(|events| **events != 0).count() as i64));
    events
}

#[test]
fn a_hundred_greenlets_poll_at_once() {
    patched();
    let ends: Rc<Vec<_>> = Rc::new((0..100).map(|_| UnixStream::pair().unwrap()).collect());
    let started = Rc::new(Cell::new(0));
    all_at_once(100, move |number| {
        started.set(started.get() + 1);
        if started.get() == 100 {
            for (_, other) in ends.iter() {
                (&*other).write_all(b"!").unwrap();
            }
        }
        assert_eq!(poll(&[(&ends[number].0, libc::POLLIN)], -1), [libc::POLLIN]);
    });
}

#[test]
fn a_poll_without_limit_waits() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let got = waits(move || poll(&[(&one, libc::POLLIN)], -1), || other.write_all(b"!").unwrap());
    assert_eq!(got, [libc::POLLIN]);
}

#[test]
fn a_poll_of_several_waits_for_any() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let (from, _to) = std::io::pipe().unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let got = waits(
        move || {
            let all: [(&dyn AsRawFd, i16); 4] =
                [(&from, libc::POLLIN), (&one, libc::POLLIN), (&-1, libc::POLLIN), (&file, 0)];
            poll(&all, -1)
        },
        || other.write_all(b"!").unwrap(),
    );
    assert_eq!(got, [0, libc::POLLIN, 0, 0]);
}

#[test]
fn one_descriptor_may_be_there_twice() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let got = waits(
        move || poll(&[(&one, libc::POLLIN), (&one, libc::POLLPRI), (&one, libc::POLLIN)], -1),
        || other.write_all(b"!").unwrap(),
    );
    assert_eq!(got, [libc::POLLIN, 0, libc::POLLIN]);
}

#[test]
fn a_poll_of_both_directions_waits_for_either() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    while (&one).write(&[0; 4096]).is_ok() {}
    let got =
        waits(move || poll(&[(&one, libc::POLLIN | libc::POLLOUT)], -1), || other.write_all(b"!").unwrap());
    assert_eq!(got, [libc::POLLIN]);
}

#[test]
fn a_poll_for_what_only_errors_end_waits_for_the_hang_up() {
    patched();
    let (one, other) = UnixStream::pair().unwrap();
    let got = waits(move || poll(&[(&one, 0)], -1), || drop(other));
    assert_eq!(got, [libc::POLLHUP]);
    let (one, other) = UnixStream::pair().unwrap();
    let got = waits(
        move || poll(&[(&one, libc::POLLRDHUP)], -1),
        || other.shutdown(std::net::Shutdown::Write).unwrap(),
    );
    assert_eq!(got, [libc::POLLRDHUP]);
}

#[test]
fn a_poll_for_urgent_data_waits_for_it() {
    patched();
    for with_another in [false, true] {
        let (one, mut other) = tcp_pair();
        let (silent, _keeps) = UnixStream::pair().unwrap();
        let got = waits(
            move || match with_another {
                false => poll(&[(&one, libc::POLLPRI)], -1),
                true => poll(&[(&one, libc::POLLPRI), (&silent, libc::POLLIN)], -1),
            },
            move || {
                // What is not urgent does not end it.
                other.write_all(b"ab").unwrap();
                crate::util::let_all_run();
                // SAFETY: one byte.
                assert_eq!(
                    // SAFETY: a buffer of one byte.
                    unsafe { libc::send(other.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB) },
                    1
                );
            },
        );
        assert_eq!(got[0], libc::POLLPRI);
    }
}

#[test]
fn polls_end_in_time_and_not_before() {
    in_greenlet(|| {
        let (one, _other) = UnixStream::pair().unwrap();
        let (two, _another) = UnixStream::pair().unwrap();
        let start = Instant::now();
        assert_eq!(poll(&[(&one, libc::POLLIN)], 5), [0]);
        assert_eq!(poll(&[(&one, libc::POLLIN), (&two, libc::POLLIN)], 5), [0, 0]);
        assert_eq!(poll(&[], 5), [0; 0]);
        assert!(start.elapsed() >= Duration::from_millis(15));
        assert_eq!(poll(&[(&one, libc::POLLIN)], 0), [0]);
        assert_eq!(poll(&[(&one, libc::POLLOUT)], -1), [libc::POLLOUT]);
        assert_eq!(poll(&[(&12345, libc::POLLIN)], -1), [libc::POLLNVAL]);
        assert_eq!(poll(&[(&1_000_000_000, libc::POLLIN), (&one, libc::POLLIN)], -1), [libc::POLLNVAL, 0]);
    });
}

#[test]
fn invalid_times_are_refused() {
    in_greenlet(|| {
        let bad = libc::timespec { tv_sec: -1, tv_nsec: 0 };
        let worse = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
        for time in [bad, worse] {
            // SAFETY: no descriptors, and valid structures.
            unsafe {
                assert_eq!(checked(libc::ppoll(ptr::null_mut(), 0, &time, ptr::null())), Err(libc::EINVAL));
                let null = ptr::null_mut();
                assert_eq!(
                    checked(libc::pselect(0, null, null, null, &time, ptr::null())),
                    Err(libc::EINVAL)
                );
            }
        }
        let mut time = libc::timeval { tv_sec: -1, tv_usec: 0 };
        // SAFETY: as above.
        let result = unsafe { libc::select(0, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), &mut time) };
        assert_eq!(checked(result), Err(libc::EINVAL));
    });
}

fn set(fds: &[RawFd]) -> libc::fd_set {
    // SAFETY: a set of zeros is empty; the numbers are below 1024.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        fds.iter().for_each(|fd| libc::FD_SET(*fd, &mut set));
        set
    }
}

fn has(fd: RawFd, set: &libc::fd_set) -> bool {
    // SAFETY: as above.
    unsafe { libc::FD_ISSET(fd, set) }
}

#[test]
fn a_select_without_sets_is_a_sleep() {
    in_greenlet(|| {
        let start = Instant::now();
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 5000 };
        let null = ptr::null_mut();
        // SAFETY: null is no set.
        assert_eq!(unsafe { libc::select(0, null, null, null, &mut time) }, 0);
        assert!(start.elapsed() >= Duration::from_millis(5));
        // Linux tells what is left.
        assert_eq!((time.tv_sec, time.tv_usec), (0, 0));
    });
}

#[test]
fn a_select_without_limit_waits_for_any() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let (from, _to) = std::io::pipe().unwrap();
    waits(
        move || {
            let (one, from) = (one.as_raw_fd(), from.as_raw_fd());
            let mut read = set(&[one, from]);
            let null = ptr::null_mut();
            // SAFETY: a valid set.
            let count = unsafe { libc::select(one.max(from) + 1, &mut read, null, null, ptr::null_mut()) };
            assert_eq!((count, has(one, &read), has(from, &read)), (1, true, false));
        },
        || other.write_all(b"!").unwrap(),
    );
}

#[test]
fn a_select_tells_of_each_direction_and_of_bad_numbers() {
    in_greenlet(|| {
        let (one, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"!").unwrap();
        let fd = one.as_raw_fd();
        let (mut read, mut write, mut except) = (set(&[fd]), set(&[fd]), set(&[fd]));
        let mut limit = libc::timeval { tv_sec: 100, tv_usec: 0 };
        // SAFETY: valid sets.
        let count = unsafe { libc::select(fd + 1, &mut read, &mut write, &mut except, &mut limit) };
        assert_eq!((count, has(fd, &read), has(fd, &write), has(fd, &except)), (2, true, true, false));
        assert!(limit.tv_sec >= 90);
        drop((one, other));
        let mut read = set(&[1000]);
        let null = ptr::null_mut();
        // SAFETY: as above.
        assert_eq!(
            // SAFETY: the set has room for 1024 numbers.
            checked(unsafe { libc::select(1001, &mut read, null, null, ptr::null_mut()) }),
            Err(libc::EBADF)
        );
        assert!(has(1000, &read), "after an error the sets are as they were");
        // SAFETY: as above.
        assert_eq!(
            // SAFETY: no pointers.
            checked(unsafe { libc::select(-1, null, null, null, ptr::null_mut()) }),
            Err(libc::EINVAL)
        );
    });
}

/// Programs pass the number of descriptors that they may have, which the kernel cuts to those that it has a table for.
#[test]
fn a_select_of_more_numbers_than_the_set_has_does_not_read_beyond_it() {
    in_greenlet(|| {
        let (one, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"!").unwrap();
        // A set at the end of what is mapped.
        // SAFETY: a new mapping of two pages, of which the second is made inaccessible.
        unsafe {
            let page = 4096;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start =
                libc::mmap(ptr::null_mut(), 2 * page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(start.byte_add(page), page, libc::PROT_NONE), 0);
            let room = size_of::<libc::fd_set>();
            let place = start.byte_add(page - room).cast::<libc::fd_set>();
            place.write(set(&[one.as_raw_fd()]));
            let null = ptr::null_mut();
            assert_eq!(libc::select(1 << 20, place, null, null, ptr::null_mut()), 1);
            assert!(has(one.as_raw_fd(), &*place));
            libc::munmap(start, 2 * page);
        }
    });
}

fn epoll() -> OwnedFd {
    // SAFETY: takes a number; the result is ours.
    unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }
}

fn watch(epoll: &OwnedFd, fd: &impl AsRawFd, events: i32) {
    let fd = fd.as_raw_fd();
    let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
    // SAFETY: reads a valid event.
    assert_eq!(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }, 0);
}

/// The numbers of those to which something has happened.
fn epoll_wait(epoll: &OwnedFd, timeout: i32) -> Vec<RawFd> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 10];
    // SAFETY: room for ten events.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), 10, timeout) };
    events[..checked(count).unwrap() as usize].iter().map(|event| event.u64 as RawFd).collect()
}

#[test]
fn somebody_elses_epoll_waits_for_its_greenlet() {
    patched();
    for edge in [0, libc::EPOLLET] {
        let (one, mut other) = UnixStream::pair().unwrap();
        let ours = epoll();
        watch(&ours, &one, libc::EPOLLIN | edge);
        let (number, ours) = (one.as_raw_fd(), Rc::new(ours));
        for _ in 0..3 {
            let ours = Rc::clone(&ours);
            let got = waits(move || epoll_wait(&ours, -1), || other.write_all(b"!").unwrap());
            assert_eq!(got, [number]);
            assert_eq!((&one).read(&mut [0]).unwrap(), 1);
        }
    }
}

#[test]
fn an_epoll_within_an_epoll_is_waited_for() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let (inner, outer) = (epoll(), epoll());
    watch(&inner, &one, libc::EPOLLIN);
    watch(&outer, &inner, libc::EPOLLIN);
    let number = inner.as_raw_fd();
    let got = waits(
        move || {
            let outer_got = epoll_wait(&outer, -1);
            assert_eq!(epoll_wait(&inner, -1), [one.as_raw_fd()]);
            outer_got
        },
        || other.write_all(b"!").unwrap(),
    );
    assert_eq!(got, [number]);
}

/// The kernel lets epoll instances be nested five deep, and the hub's own is one of them.
#[test]
fn epolls_nested_four_deep_are_waited_for() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    let all: Vec<_> = (0..4).map(|_| epoll()).collect();
    watch(&all[0], &one, libc::EPOLLIN);
    for pair in all.windows(2) {
        watch(&pair[1], &pair[0], libc::EPOLLIN);
    }
    let number = all[2].as_raw_fd();
    let got = waits(move || epoll_wait(&all[3], -1), || other.write_all(b"!").unwrap());
    assert_eq!(got, [number]);
}

#[test]
fn what_is_added_to_an_epoll_that_is_waited_for_ends_the_wait() {
    patched();
    let (one, mut other) = UnixStream::pair().unwrap();
    other.write_all(b"!").unwrap();
    let ours = Rc::new(epoll());
    let waiting = Rc::clone(&ours);
    let got = waits(move || epoll_wait(&waiting, -1), || watch(&ours, &one, libc::EPOLLIN));
    assert_eq!(got, [one.as_raw_fd()]);
}

#[test]
fn epolls_end_in_time_and_are_polled_like_others() {
    in_greenlet(|| {
        let start = Instant::now();
        let ours = epoll();
        assert!(epoll_wait(&ours, 5).is_empty());
        assert!(start.elapsed() >= Duration::from_millis(5));
        let (one, mut other) = UnixStream::pair().unwrap();
        watch(&ours, &one, libc::EPOLLIN);
        waits(
            {
                let ours = ours.try_clone().unwrap();
                move || assert_eq!(poll(&[(&ours, libc::POLLIN)], -1), [libc::POLLIN])
            },
            || other.write_all(b"!").unwrap(),
        );
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        unsafe {
            assert_eq!(checked(libc::epoll_wait(-1, &mut event, 1, -1)), Err(libc::EBADF));
            assert_eq!(checked(libc::epoll_wait(one.as_raw_fd(), &mut event, 1, -1)), Err(libc::EINVAL));
            assert_eq!(checked(libc::epoll_wait(ours.as_raw_fd(), &mut event, 0, -1)), Err(libc::EINVAL));
        }
    });
}

/// An event loop of somebody else's in each of several greenlets of one thread, which serve each other.
#[test]
fn event_loops_in_greenlets_do_not_block_each_other() {
    patched();
    let pairs: Vec<_> = (0..10).map(|_| tcp_pair()).collect();
    let (ones, others): (Vec<TcpStream>, Vec<TcpStream>) = pairs.into_iter().unzip();
    let run = |streams: Vec<TcpStream>, begins: bool| {
        spawn(move || {
            let ours = epoll();
            for mut stream in &streams {
                watch(&ours, stream, libc::EPOLLIN);
                if begins {
                    stream.write_all(&[0]).unwrap();
                }
            }
            let mut open = streams.len();
            while open > 0 {
                for fd in epoll_wait(&ours, -1) {
                    let mut stream = streams.iter().find(|stream| stream.as_raw_fd() == fd).unwrap();
                    let mut count = [0];
                    if stream.read(&mut count).unwrap() == 0 || count[0] == 100 {
                        stream.shutdown(std::net::Shutdown::Both).ok();
                        // SAFETY: takes no event.
                        unsafe {
                            libc::epoll_ctl(ours.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, ptr::null_mut())
                        };
                        open -= 1;
                    } else {
                        stream.write_all(&[count[0] + 1]).unwrap();
                    }
                }
            }
        })
    };
    let greenlets = [run(ones, true), run(others, false)];
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
}
