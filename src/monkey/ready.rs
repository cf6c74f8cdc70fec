//! `poll`, `select` and `epoll_wait`: so that somebody else's event loop waits for its greenlet only.
//!
//! What is asked is always the real function, without waiting; in between, the greenlet waits until something has
//! happened to one of the descriptors.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::table::{self, Waited, number};
use super::{errno, fail, originals as real};
use crate::descriptor::Direction;
use crate::hub::Hub;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Handlers, Reason};

pub(super) unsafe fn poll(hub: &Hub, fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller's array, here and below.
    let look = || unsafe { real::poll(fds, count, 0) };
    let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
    // SAFETY: as above.
    unsafe { poll_until(hub, fds, count, timeout, look) }
}

pub(super) unsafe fn ppoll(
    hub: &Hub,
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let Ok(time) = limit(timeout) else { return fail(libc::EINVAL) };
        poll_until(hub, fds, count, time, || real::ppoll(fds, count, &ZERO, mask))
    }
}

/// Or not a valid time.
unsafe fn limit(timeout: *const timespec) -> Result<Option<Duration>, ()> {
    // SAFETY: the caller's pointer, null or valid.
    match unsafe { timeout.as_ref() } {
        Some(time) if !super::time::is_valid(time) => Err(()),
        time => Ok(time.map(super::time::duration)),
    }
}

const ZERO: timespec = timespec { tv_sec: 0, tv_nsec: 0 };

unsafe fn poll_until(
    hub: &Hub,
    fds: *mut pollfd,
    count: nfds_t,
    timeout: Option<Duration>,
    look: impl Fn() -> c_int,
) -> c_int {
    let wanted = || {
        // SAFETY: the caller's array of so many.
        let fds = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(fds, count as usize) } };
        fds.iter().filter(|entry| entry.fd >= 0).map(|entry| Wanted {
            fd: entry.fd,
            read: entry.events & (libc::POLLIN | libc::POLLPRI | libc::POLLRDHUP | libc::POLLRDNORM) != 0,
            write: entry.events & (libc::POLLOUT | libc::POLLWRNORM) != 0,
        })
    };
    wait(hub, timeout, look, || wanted().collect())
}

/// What is waited for on one descriptor.
#[derive(Clone, Copy)]
struct Wanted {
    fd: RawFd,
    read: bool,
    write: bool,
}

/// Looks, and waits, and looks again.
fn wait(
    hub: &Hub,
    timeout: Option<Duration>,
    look: impl Fn() -> c_int,
    wanted: impl FnOnce() -> Vec<Wanted>,
) -> c_int {
    hub.be_fair_foreign();
    if let Err(error) = table::answer(hub.verdict()) {
        return fail(error);
    }
    let result = look();
    if result != 0 || timeout == Some(Duration::ZERO) {
        return result;
    }
    let deadline = timeout.map_or(NEVER, |timeout| hub.deadline(timeout));
    let wanted = wanted();
    let waited = match wanted[..] {
        // One descriptor, one direction: where it is registered anyway.
        [Wanted { fd, read, write }] if read != write && table::waitable(fd).is_some() => {
            let direction = if read { Direction::Read } else { Direction::Write };
            wait_for_one(hub, fd, direction, deadline, &look)
        }
        _ => wait_for_many(hub, &wanted, deadline, &look),
    };
    waited.unwrap_or_else(fail)
}

fn wait_for_one(
    hub: &Hub,
    fd: RawFd,
    direction: Direction,
    deadline: Nanos,
    look: &impl Fn() -> c_int,
) -> Result<c_int, i32> {
    let entry = table::entry(fd).ok_or(libc::EBADF)?;
    loop {
        // What comes from here on is an edge. (An edge that was there before makes us look once more.)
        entry.exhausted(hub, direction);
        let waited = entry.wait(hub, fd, direction, "poll of fd", deadline, Handlers::All);
        let result = match waited {
            Ok(_) => look(),
            // Closed meanwhile: a look tells POLLNVAL.
            Err(libc::EBADF) => return Ok(look()),
            Err(error) => return Err(error),
        };
        if result != 0 || waited == Ok(Waited::TimedOut) {
            return Ok(result);
        }
    }
}

/// By an epoll instance for this one call, which the hub's own watches. It tells of changes, so the
/// look comes after it is set up.
fn wait_for_many(
    hub: &Hub,
    wanted: &[Wanted],
    deadline: Nanos,
    look: &impl Fn() -> c_int,
) -> Result<c_int, i32> {
    let poll = Poll::new().map_err(number)?;
    let mut merged: Vec<(RawFd, Interest)> = Vec::with_capacity(wanted.len());
    for &Wanted { fd, read, write } in wanted {
        let mut interest = if read { Interest::READABLE | Interest::PRIORITY } else { Interest::WRITABLE };
        if write {
            interest |= Interest::WRITABLE;
        }
        merged.push((fd, interest));
    }
    merged.sort_unstable_by_key(|(fd, _)| *fd);
    merged.dedup_by(|(fd, more), (kept, interest)| {
        let same = fd == kept;
        if same {
            *interest |= *more;
        }
        same
    });
    let mut any = false;
    for (fd, interest) in merged {
        match poll.registry().register(&mut SourceFd(&fd), Token(0), interest) {
            Ok(()) => any = true,
            // Nothing ever happens to it (a regular file), or it is not open: the look tells.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBADF)) => {}
            Err(error) => return Err(number(error)),
        }
    }
    // SAFETY: the instance lives until the end of this function.
    let fd = unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) };
    let slot = match any {
        true => Some(hub.register_fd(fd, Direction::Read).map_err(number)?),
        false => None,
    };
    let reason = Reason::of("poll of descriptors", wanted.len() as u64);
    let result = loop {
        let result = look();
        if result != 0 {
            break Ok(result);
        }
        let verdict = match slot {
            Some(slot) => {
                hub.fd_exhausted(slot, Direction::Read);
                hub.wait_fd_foreign(slot, fd, Direction::Read, reason, deadline, Handlers::All)
                    .map_err(number)
            }
            None => Ok(hub.park_foreign(reason, deadline, Handlers::All)),
        };
        match verdict.and_then(table::answer) {
            Ok(Waited::Woken) => {}
            Ok(Waited::TimedOut) => break Ok(look()),
            Err(error) => break Err(error),
        }
    };
    if let Some(slot) = slot {
        hub.close_fd(slot, fd, false);
    }
    result
}

pub(super) unsafe fn select(
    hub: &Hub,
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let time = timeout.as_ref().map(|time| {
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
        });
        if timeout.as_ref().is_some_and(|time| time.tv_sec < 0 || time.tv_usec < 0) {
            return fail(libc::EINVAL);
        }
        let began = std::time::Instant::now();
        let result = select_until(hub, count, [read, write, except], time, |sets| {
            let mut zero = timeval { tv_sec: 0, tv_usec: 0 };
            real::select(count, sets[0], sets[1], sets[2], &mut zero)
        });
        // Linux tells in it what is left of the time.
        if let (Some(place), Some(time)) = (timeout.as_mut(), time) {
            let left = time.saturating_sub(began.elapsed());
            place.tv_sec = left.as_secs() as _;
            place.tv_usec = left.subsec_micros() as _;
        }
        result
    }
}

pub(super) unsafe fn pselect(
    hub: &Hub,
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let Ok(time) = limit(timeout) else { return fail(libc::EINVAL) };
        select_until(hub, count, [read, write, except], time, |sets| {
            real::pselect(count, sets[0], sets[1], sets[2], &ZERO, mask)
        })
    }
}

/// The sets may be longer than `fd_set`, where a program has numbers above 1023: only so many
/// words as `count` says are touched.
unsafe fn select_until(
    hub: &Hub,
    count: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<Duration>,
    look: impl Fn([*mut fd_set; 3]) -> c_int,
) -> c_int {
    const BITS: usize = 64;
    let Ok(numbers) = usize::try_from(count) else { return fail(libc::EINVAL) };
    // Whoever asks for all numbers that there may be has sets of the usual size.
    let numbers = if numbers > libc::FD_SETSIZE { numbers.min(table_size()) } else { numbers };
    let words = numbers.div_ceil(BITS);
    let asked: [Vec<u64>; 3] = sets.map(|set| match set.is_null() {
        true => Vec::new(),
        // SAFETY: the caller's set has room for `count` numbers, in whole words.
        false => unsafe { std::slice::from_raw_parts(set.cast::<u64>(), words) }.to_vec(),
    });
    let restore = || {
        for (set, asked) in sets.iter().zip(&asked).filter(|(set, _)| !set.is_null()) {
            // SAFETY: as above.
            unsafe { ptr::copy_nonoverlapping(asked.as_ptr(), set.cast::<u64>(), words) };
        }
    };
    let look = || {
        restore();
        look(sets)
    };
    let has = |set: &Vec<u64>, fd: usize| set.get(fd / BITS).is_some_and(|word| word >> (fd % BITS) & 1 == 1);
    let result = wait(hub, timeout, look, || {
        (0..numbers)
            .map(|fd| Wanted {
                fd: fd as RawFd,
                read: has(&asked[0], fd) || has(&asked[2], fd),
                write: has(&asked[1], fd),
            })
            .filter(|wanted| wanted.read || wanted.write)
            .collect()
    });
    if result == -1 {
        // As the kernel: after an error the sets are as they were.
        restore();
    }
    result
}

/// How many descriptors this process has a table for. The kernel looks at no more of a set.
fn table_size() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    line.and_then(|size| size.trim().parse().ok()).unwrap_or(libc::FD_SETSIZE)
}

pub(super) unsafe fn epoll_wait(
    hub: &Hub,
    epfd: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: c_int,
) -> c_int {
    let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
    // SAFETY: as above.
    epoll_until(hub, epfd, timeout, || unsafe { real::epoll_wait(epfd, events, count, 0) })
}

pub(super) unsafe fn epoll_pwait(
    hub: &Hub,
    epfd: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
    // SAFETY: as above.
    epoll_until(hub, epfd, timeout, || unsafe { real::epoll_pwait(epfd, events, count, 0, mask) })
}

pub(super) unsafe fn epoll_pwait2(
    hub: &Hub,
    epfd: c_int,
    events: *mut epoll_event,
    count: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        let Ok(time) = limit(timeout) else { return fail(libc::EINVAL) };
        epoll_until(hub, epfd, time, || real::epoll_pwait(epfd, events, count, 0, mask))
    }
}

fn epoll_until(hub: &Hub, epfd: c_int, timeout: Option<Duration>, look: impl Fn() -> c_int) -> c_int {
    let wanted = || vec![Wanted { fd: epfd, read: true, write: false }];
    let result = wait(hub, timeout, look, wanted);
    if result == -1 && errno() == libc::EBADF {
        // What a look says of a number that is no epoll instance.
        return fail(libc::EBADF);
    }
    result
}
