//! Waiting for many descriptors at once, whoever they belong to: `poll(2)` and `select(2)`, cooperative.
//!
//! | | |
//! |---|---|
//! | [`wait_readable`], [`wait_writable`] | one descriptor |
//! | [`poll`] | any number, each with what to look for; tells everything that is ready |
//! | [`select()`] | the same in the older shape: three lists |
//!
//! These are for descriptors that other code reads and writes: a C library's connection, a socket of another crate, a timer or an
//! inotify queue. They may be blocking or not, listed twice, be in use by a type of this crate at the same time, and have any
//! number. (For a descriptor of your own, [`io::Pollable`](crate::io::Pollable) reads and writes, too.)
//!
//! The answer is always that of a real `poll(2)`, so it is about the state, not about changes: what is ready and was not read
//! is ready the next time. What is ready at once costs one system call, and does not switch. To wait, the descriptors
//! are put into an epoll instance made for that one call: count two system calls for the call and one for each descriptor. For
//! thousands of connections, a greenlet each is simpler and faster.
//!
//! **Regular files**, directories and the like are always ready, as `poll(2)` has it; [`unblock`](crate::unblock) is
//! what keeps a slow disk from holding up the others.
//!
//! **Closing a descriptor that is waited for** is impossible by safe means, for it is borrowed meanwhile. If it
//! happens nevertheless (a C library's own descriptor), it wakes nobody, as with the system's `poll`: the wait
//! goes on for the other descriptors and for the timeout, which then tells [`PollFlags::INVALID`]. So give a
//! timeout where that may happen.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::slice;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use crate::descriptor::{Direction, late};
use crate::hub::{Hub, SlotId, Waits, Wake, hub};
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::Reason;

/// What to look for on a descriptor, and what was found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PollFlags(libc::c_short);

impl PollFlags {
    /// There is something to read: data, a connection to accept, or the end (`POLLIN`).
    pub const READABLE: PollFlags = PollFlags(libc::POLLIN);
    /// There is room to write (`POLLOUT`). A connection that was being made is made, or has failed.
    pub const WRITABLE: PollFlags = PollFlags(libc::POLLOUT);
    /// There is something out of the ordinary to read: urgent data of TCP, a change of a pseudo-terminal or
    /// of a file in `/sys` (`POLLPRI`).
    pub const PRIORITY: PollFlags = PollFlags(libc::POLLPRI);
    /// An error waits to be told by the next operation; or nobody reads the pipe any more. Found
    /// without being looked for (`POLLERR`).
    pub const ERROR: PollFlags = PollFlags(libc::POLLERR);
    /// The other end has closed. There may be data left. Found without being looked for (`POLLHUP`).
    pub const HANGUP: PollFlags = PollFlags(libc::POLLHUP);
    /// The descriptor is not open. Found without being looked for (`POLLNVAL`).
    pub const INVALID: PollFlags = PollFlags(libc::POLLNVAL);

    const NAMES: [(PollFlags, &'static str); 6] = [
        (PollFlags::READABLE, "READABLE"),
        (PollFlags::WRITABLE, "WRITABLE"),
        (PollFlags::PRIORITY, "PRIORITY"),
        (PollFlags::ERROR, "ERROR"),
        (PollFlags::HANGUP, "HANGUP"),
        (PollFlags::INVALID, "INVALID"),
    ];

    /// Nothing.
    pub const fn empty() -> PollFlags {
        PollFlags(0)
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: PollFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in it.
    pub const fn intersects(self, other: PollFlags) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for PollFlags {
    type Output = PollFlags;

    fn bitor(self, other: PollFlags) -> PollFlags {
        PollFlags(self.0 | other.0)
    }
}

impl BitOrAssign for PollFlags {
    fn bitor_assign(&mut self, other: PollFlags) {
        self.0 |= other.0;
    }
}

impl BitAnd for PollFlags {
    type Output = PollFlags;

    fn bitand(self, other: PollFlags) -> PollFlags {
        PollFlags(self.0 & other.0)
    }
}

impl fmt::Debug for PollFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names =
            PollFlags::NAMES.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| name);
        write!(f, "PollFlags({}", names.next().unwrap_or(&""))?;
        names.try_for_each(|name| write!(f, " | {name}"))?;
        f.write_str(")")
    }
}

/// A descriptor for [`poll`], with what to look for on it and what was found.
#[derive(Clone)]
pub struct PollFd<'fd> {
    entry: libc::pollfd,
    fd: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollFd<'fd> {
    /// Looks for `events` on `fd`. [`ERROR`](PollFlags::ERROR), [`HANGUP`](PollFlags::HANGUP) and [`INVALID`](PollFlags::INVALID)
    /// are always looked for.
    pub fn new(fd: &'fd (impl AsFd + ?Sized), events: PollFlags) -> PollFd<'fd> {
        PollFd::from_borrowed_fd(fd.as_fd(), events)
    }

    /// The same, for a descriptor that is borrowed already.
    pub fn from_borrowed_fd(fd: BorrowedFd<'fd>, events: PollFlags) -> PollFd<'fd> {
        PollFd { entry: entry(fd, events), fd: PhantomData }
    }

    /// What is looked for.
    pub fn events(&self) -> PollFlags {
        PollFlags(self.entry.events)
    }

    /// Looks for something else from now on.
    pub fn set_events(&mut self, events: PollFlags) {
        self.entry.events = events.0;
    }

    /// What the last [`poll`] has found.
    pub fn revents(&self) -> PollFlags {
        PollFlags(self.entry.revents)
    }
}

impl fmt::Debug for PollFd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollFd")
            .field("fd", &self.entry.fd)
            .field("events", &self.events())
            .field("revents", &self.revents())
            .finish()
    }
}

fn entry(fd: BorrowedFd<'_>, events: PollFlags) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events: events.0, revents: 0 }
}

/// Waits until at least one of the descriptors has something of what is looked for on it. Tells how many have, and fills in
/// [`PollFd::revents`] of all. After `timeout`: 0 (`None`: no limit; zero: only looks).
///
/// Without descriptors it is a sleep. May switch.
///
/// # Errors
///
/// `InvalidInput` if there are more descriptors in the list than the process may have open (`RLIMIT_NOFILE`).
/// `OutOfMemory` and the like if the system cannot watch so many (`/proc/sys/fs/epoll/max_user_watches`). In a
/// destructor that runs while its greenlet unwinds: if it would have to wait.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
/// use switchgrass::select::{PollFd, PollFlags, poll};
///
/// let (one, _stays_open) = UnixStream::pair()?;   // std's: blocking, and not known to this crate
/// let (other, mut peer) = UnixStream::pair()?;
/// let greenlet = switchgrass::spawn(move || peer.write_all(b"hello"));
///
/// let mut fds = [&one, &other].map(|stream| PollFd::new(stream, PollFlags::READABLE));
/// assert_eq!(poll(&mut fds, None)?, 1);
/// assert!(fds[0].revents().is_empty());
/// assert!(fds[1].revents().contains(PollFlags::READABLE));
/// # greenlet.join().unwrap()?;
/// # std::io::Result::Ok(())
/// ```
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let mut entries: Vec<_> = fds.iter().map(|fd| fd.entry).collect();
    let reason = Reason::of("poll, number of descriptors:", entries.len() as u64);
    let ready = wait(&mut entries, timeout, reason, |entry| entry.revents != 0)?;
    for (fd, entry) in fds.iter_mut().zip(entries) {
        fd.entry = entry;
    }
    Ok(ready)
}

/// What [`select()`] has found: positions in the lists it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selected {
    /// Which of the first list have something to read, the end or an error included.
    pub read: Vec<usize>,
    /// Which of the second list have room to write, or an error to tell.
    pub write: Vec<usize>,
    /// Which of the third list have something out of the ordinary, like urgent data ([`PollFlags::PRIORITY`]).
    pub except: Vec<usize>,
}

impl Selected {
    /// Whether nothing is ready: the time is up.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty() && self.except.is_empty()
    }
}

/// Waits until something of `read` can be read, something of `write` be written, or something of `except` has
/// an exceptional condition. Gives all that is ready, as positions in the lists; nothing after `timeout`
/// (`None`: no limit; zero: only looks).
///
/// Descriptors may have any number: the 1024 of `select(2)` are no limit here. May switch.
///
/// # Errors
///
/// `EBADF` if one of the descriptors is not open. Else as [`poll`].
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use switchgrass::select::select;
///
/// let (reader, mut writer) = std::io::pipe()?;
/// let nothing = select(&[&reader], &[], &[], Some(Duration::ZERO))?;
/// assert!(nothing.is_empty());
///
/// writer.write_all(b"x")?;
/// let ready = select(&[&reader], &[&writer], &[], None)?;
/// assert_eq!((ready.read, ready.write), (vec![0], vec![0]));
/// # std::io::Result::Ok(())
/// ```
pub fn select(
    read: &[&dyn AsFd],
    write: &[&dyn AsFd],
    except: &[&dyn AsFd],
    timeout: Option<Duration>,
) -> io::Result<Selected> {
    let lists = [(read, PollFlags::READABLE), (write, PollFlags::WRITABLE), (except, PollFlags::PRIORITY)];
    let mut entries: Vec<_> =
        lists.iter().flat_map(|(list, events)| list.iter().map(|fd| entry(fd.as_fd(), *events))).collect();
    let reason = Reason::of("select, number of descriptors:", entries.len() as u64);
    wait(&mut entries, timeout, reason, is_selected)?;
    if entries.iter().any(|entry| entry.revents & libc::POLLNVAL != 0) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let mut rest = entries.as_slice();
    let [read, write, except] = lists.map(|(list, _)| {
        let (these, others) = rest.split_at(list.len());
        rest = others;
        these.iter().enumerate().filter(|(_, entry)| is_selected(entry)).map(|(place, _)| place).collect()
    });
    Ok(Selected { read, write, except })
}

/// What select(2) takes for ready, by what is looked for. A closed descriptor ends the wait, too.
fn is_selected(entry: &libc::pollfd) -> bool {
    let counts = match entry.events {
        libc::POLLIN => libc::POLLIN | libc::POLLHUP | libc::POLLERR,
        libc::POLLOUT => libc::POLLOUT | libc::POLLERR,
        other => other,
    };
    entry.revents & (counts | libc::POLLNVAL) != 0
}

/// Waits until `fd` has something to read: data, a connection to accept, the end, or an error that reading will tell. May switch.
///
/// `timeout`: `None` for no limit; zero only looks.
///
/// # Errors
///
/// `TimedOut`. `EBADF` if the descriptor is not open. Else as [`poll`].
///
/// # Examples
///
/// ```
/// use std::io::{ErrorKind, Write};
/// use std::time::Duration;
/// use switchgrass::select::wait_readable;
///
/// let (reader, mut writer) = std::io::pipe()?;
/// let error = wait_readable(&reader, Some(Duration::from_millis(1))).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
///
/// let greenlet = switchgrass::spawn(move || writer.write_all(b"x"));
/// wait_readable(&reader, None)?;
/// # greenlet.join().unwrap()?;
/// # std::io::Result::Ok(())
/// ```
#[doc(alias = "wait_read")]
pub fn wait_readable(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    wait_for_one(fd.as_fd(), PollFlags::READABLE, timeout, "wait_readable of fd")
}

/// Waits until there is room to write to `fd`, or an error that writing will tell; on a connection that is being made,
/// until it is made, or has failed. May switch.
///
/// `timeout`: `None` for no limit; zero only looks.
///
/// # Errors
///
/// As [`wait_readable`].
#[doc(alias = "wait_write")]
pub fn wait_writable(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    wait_for_one(fd.as_fd(), PollFlags::WRITABLE, timeout, "wait_writable of fd")
}

pub(crate) fn wait_for_one(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    timeout: Option<Duration>,
    what: &'static str,
) -> io::Result<()> {
    let mut entry = entry(fd, events);
    let reason = Reason::of(what, entry.fd as u64);
    match wait(slice::from_mut(&mut entry), timeout, reason, |entry| entry.revents != 0)? {
        0 => Err(late(reason)),
        _ if entry.revents & libc::POLLNVAL != 0 => Err(io::Error::from_raw_os_error(libc::EBADF)),
        _ => Ok(()),
    }
}

/// What all of these are: a real poll(2) that only looks, again and again, with waits for something to happen in
/// between. Tells how many are ready.
fn wait(
    entries: &mut [libc::pollfd],
    timeout: Option<Duration>,
    reason: Reason,
    is_ready: impl Fn(&libc::pollfd) -> bool,
) -> io::Result<usize> {
    let hub = hub();
    hub.be_fair();
    let mut deadline = None;
    let mut watch = None;
    let mut time_is_up = timeout == Some(Duration::ZERO);
    loop {
        sys::fd::poll(entries)?;
        let ready = entries.iter().filter(|entry| is_ready(entry)).count();
        if ready > 0 || time_is_up {
            return Ok(ready);
        }
        let deadline =
            *deadline.get_or_insert_with(|| timeout.map_or(NEVER, |timeout| hub.deadline(timeout)));
        if watch.is_none() {
            hub.may_suspend(reason)?;
            watch = Watch::new(hub, entries)?;
        }
        if let Some(watch) = &watch {
            time_is_up = watch.wait(reason, deadline)? == Wake::TimedOut;
        }
    }
}

/// An epoll instance of our own, itself watched by the hub's. (There is only one place for each descriptor in
/// the hub's, which may be taken.)
///
/// It refers to the open files by their numbers, not to duplicates of them, so that one that is closed meanwhile is
/// really closed: its peer is told at once. Both levels are edge-triggered: after an event that is not one of those
/// looked for, only the next one wakes.
struct Watch<'a> {
    hub: &'a Hub,
    poll: Poll,
    /// `None`: there is nothing that could be watched.
    slot: Option<SlotId>,
}

impl<'a> Watch<'a> {
    /// `None`: look again, a descriptor was closed just now.
    fn new(hub: &'a Hub, entries: &[libc::pollfd]) -> io::Result<Option<Self>> {
        let poll = Poll::new()?;
        let mut any = false;
        for (fd, interest) in interests(entries) {
            match poll.registry().register(&mut SourceFd(&fd), Token(0), interest) {
                Ok(()) => any = true,
                // What nothing ever happens to, like a regular file; and it is not ready for what is looked for.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        // What has happened since we looked counts as an event, of both levels.
        let slot = match any {
            true => Some(hub.register_fd(poll.registry().as_fd(), Direction::Read)?),
            false => None,
        };
        Ok(Some(Watch { hub, poll, slot }))
    }

    fn wait(&self, reason: Reason, deadline: Nanos) -> io::Result<Wake> {
        match self.slot {
            Some(slot) => self.hub.wait_fd(
                slot,
                self.poll.registry().as_fd(),
                Direction::Read,
                reason,
                deadline,
                Waits::ForIt,
            ),
            None => Ok(self.hub.park(reason, deadline)?),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.hub.close_fd(slot, self.poll.registry().as_fd(), false);
        }
    }
}

/// Each descriptor once, with all that is looked for on it.
fn interests(entries: &[libc::pollfd]) -> Vec<(RawFd, Interest)> {
    let mut wanted: Vec<_> = entries.iter().map(|entry| (entry.fd, interest(entry.events))).collect();
    wanted.sort_unstable_by_key(|(fd, _)| *fd);
    wanted.dedup_by(|(fd, more), (kept, interest)| {
        let same = fd == kept;
        if same {
            *interest |= *more;
        }
        same
    });
    wanted
}

/// Errors and hang-ups are always told. Where nothing else is looked for, something must be
/// nevertheless: mio has no empty interest.
fn interest(events: libc::c_short) -> Interest {
    #[cfg(target_os = "linux")]
    const PRIORITY: Interest = Interest::PRIORITY;
    #[cfg(not(target_os = "linux"))]
    const PRIORITY: Interest = Interest::READABLE;
    let wanted =
        [(libc::POLLIN, Interest::READABLE), (libc::POLLOUT, Interest::WRITABLE), (libc::POLLPRI, PRIORITY)];
    wanted
        .into_iter()
        .filter(|(flag, _)| events & flag != 0)
        .map(|(_, interest)| interest)
        .reduce(|one, other| one | other)
        .unwrap_or(PRIORITY)
}
