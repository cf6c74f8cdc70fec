//! What is known of each descriptor number: what it is, how the program has set it, and where it is registered.
//!
//! The kernel's flags stay the program's own: nothing is made non-blocking behind its back (a single call, like
//! `accept`, excepted). So what is here is a copy, which is made anew when something was set since, by
//! whichever duplicate of the descriptor.
//!
//! A number that is closed and given out again without our seeing it (by a library that makes system calls of its own,
//! or within libc) is found out by its inode: when it is registered, and a second into a wait.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::gate;
use super::originals as real;
use crate::hub::foreign::Verdict;
use crate::hub::{self, Direction, Hub, SlotId};
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::fork::{self, HeldAtFork};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{Handlers, Home, Message, Reason};

/// What a descriptor is, as far as waiting for it is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Unknown = 0,
    /// A stream socket of TCP: a short read has emptied it.
    Tcp,
    /// Another stream socket.
    Stream,
    /// A socket with messages.
    Datagram,
    /// Anything else that can be waited for: a pipe, a terminal, an eventfd, a timer.
    Other,
    /// A file, directory or disk: always ready.
    File,
    /// What is left as it is: standard input, output and error.
    Standard,
}

impl Kind {
    #[inline]
    pub(super) fn is_socket(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Stream | Kind::Datagram)
    }
}

/// So long into a wait comes the look whether the number is still that of the descriptor that was registered. (An
/// `fstat` before each wait costs a tenth of an echo.)
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// One descriptor number. What each call looks at is one cache line.
#[repr(C, align(64))]
pub(super) struct Entry {
    /// The place that was registered first, seldom another one, to be seen without the lock: the hub,
    /// then its slot. 0: there is none.
    near: AtomicU64,
    near_slot: AtomicU64,
    /// Counts the descriptors that have had this number.
    generation: AtomicU64,
    /// The count of settings that the following are of.
    known: AtomicU64,
    /// Nanoseconds; 0: no limit.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    kind: AtomicU8,
    nonblocking: AtomicU8,
    /// The process that `near` is of.
    near_process: AtomicU32,
    registered: Lock<Registered>,
}

#[derive(Default)]
struct Registered {
    inode: (u64, u64),
    /// Seldom more than one.
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    home: &'static Home,
    incarnation: u64,
    process: u32,
    slot: SlotId,
}

impl Place {
    fn is_with(&self, hub: &Hub) -> bool {
        self.incarnation == hub.incarnation && self.process == fork::generation()
    }
}

impl Entry {
    const fn new() -> Self {
        Entry {
            near: AtomicU64::new(0),
            near_slot: AtomicU64::new(0),
            near_process: AtomicU32::new(0),
            kind: AtomicU8::new(Kind::Unknown as u8),
            generation: AtomicU64::new(0),
            known: AtomicU64::new(0),
            nonblocking: AtomicU8::new(0),
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
            registered: Lock::new(Registered { inode: (0, 0), places: Vec::new() }),
        }
    }
}

const PAGE: usize = 1024;
const PAGES: usize = 1024;

/// Numbers above a million are left alone.
static TABLE: [AtomicPtr<[Entry; PAGE]>; PAGES] = [const { AtomicPtr::new(ptr::null_mut()) }; PAGES];

/// What is known of a number, if anything ever was.
#[inline]
fn existing(fd: RawFd) -> Option<&'static Entry> {
    let number = usize::try_from(fd).ok()?;
    let page = TABLE.get(number / PAGE)?.load(Ordering::Acquire);
    // SAFETY: a page that is there was leaked by `entry`.
    unsafe { page.as_ref() }.map(|page| &page[number % PAGE])
}

/// The place for a number.
#[inline]
pub(super) fn entry(fd: RawFd) -> Option<&'static Entry> {
    existing(fd).or_else(|| add_page(fd))
}

/// The place for a number, if that can be waited for.
pub(super) fn waitable(fd: RawFd) -> Option<&'static Entry> {
    let is_waitable = |kind: Kind| kind.is_socket() || kind == Kind::Other;
    entry(fd).filter(|entry| is_waitable(entry.kind(fd)))
}

#[cold]
fn add_page(fd: RawFd) -> Option<&'static Entry> {
    let slot = TABLE.get(usize::try_from(fd).ok()? / PAGE)?;
    let mut page = Vec::with_capacity(PAGE);
    page.resize_with(PAGE, Entry::new);
    let page: Box<[Entry; PAGE]> = page.into_boxed_slice().try_into().ok()?;
    let page = Box::into_raw(page);
    if slot.compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: it is ours still, since another thread's is there.
        drop(unsafe { Box::from_raw(page) });
    }
    existing(fd)
}

/// The number is somebody else's from now on: it is about to be closed, or was just given out. Who
/// waits for the old one is woken.
pub(super) fn forget(fd: RawFd) {
    if gate::is_open()
        && let Some(entry) = existing(fd)
    {
        entry.forget(fd);
    }
}

/// Who waits for it looks again.
pub(super) fn poke(fd: RawFd) {
    let Some(entry) = existing(fd).filter(|_| gate::is_open()) else { return };
    let places = entry.registered.lock().places.clone();
    let message = |SlotId { index, generation }| Message::Poke { slot: index, generation };
    tell(&places, |hub, slot| hub.poke_fd(slot), message);
}

/// Tells the hubs of these places: this thread's own by a call, the others by a message.
fn tell(places: &[Place], call: impl Fn(&Hub, SlotId), message: impl Fn(SlotId) -> Message) {
    let own = hub::existing();
    for place in places.iter().filter(|place| place.process == fork::generation()) {
        match own {
            Some(hub) if place.is_with(hub) => call(hub, place.slot),
            _ => place.home.post(place.incarnation, message(place.slot)),
        }
    }
}

/// All numbers of a range.
pub(super) fn forget_range(first: u32, last: u32) {
    for (index, page) in TABLE.iter().enumerate() {
        if page.load(Ordering::Acquire).is_null() {
            continue;
        }
        let start = (index * PAGE) as u32;
        for fd in start.max(first)..=(start + PAGE as u32 - 1).min(last) {
            forget(fd as RawFd);
        }
    }
}

/// How many registrations there are with hubs.
pub(super) fn registered() -> usize {
    let numbers = 0..(PAGE * PAGES) as RawFd;
    numbers.filter_map(existing).map(|entry| entry.registered.lock().places.len()).sum()
}

impl Entry {
    fn known_process(&self) -> bool {
        fork::generation() == gate::process()
    }

    #[cold]
    fn forget_known(&self) {
        self.kind.store(Kind::Unknown as u8, Ordering::Relaxed);
        self.known.store(0, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn forget(&self, fd: RawFd) {
        if self.kind.load(Ordering::Relaxed) == Kind::Unknown as u8 && self.known.load(Ordering::Relaxed) == 0
        {
            return;
        }
        self.forget_known();
        // In the child of a fork nobody may be left who lets the lock go.
        let registered =
            if self.known_process() { Some(self.registered.lock()) } else { self.registered.try_lock() };
        let Some(mut registered) = registered else { return };
        let places = self.take_places(&mut registered);
        drop(registered);
        // SAFETY: a number that is open, or was just now; only epoll is asked about it, which tells if it is not.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let message = |SlotId { index, generation }| Message::Closed { slot: index, generation };
        tell(&places, |hub, slot| hub.close_fd(slot, fd, true), message);
    }

    /// What it is.
    #[inline]
    pub(super) fn kind(&self, fd: RawFd) -> Kind {
        let kind = self.kind.load(Ordering::Relaxed);
        if kind != Kind::Unknown as u8 {
            // SAFETY: only kinds are stored here.
            return unsafe { std::mem::transmute::<u8, Kind>(kind) };
        }
        let kind = find_kind(fd);
        self.kind.store(kind as u8, Ordering::Relaxed);
        kind
    }

    /// Which descriptor of this number it is.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    #[inline]
    fn learn(&self, fd: RawFd) {
        if self.known.load(Ordering::Relaxed) != gate::settings() {
            flags_at_rest(|| self.learn_at_rest(fd));
        }
    }

    fn learn_at_rest(&self, fd: RawFd) {
        let now = gate::settings();
        if self.known.load(Ordering::Relaxed) == now {
            return;
        }
        // SAFETY: F_GETFL takes no argument.
        let flags = unsafe { real::fcntl(fd, libc::F_GETFL, 0) };
        self.nonblocking.store(u8::from(flags != -1 && flags & libc::O_NONBLOCK != 0), Ordering::Relaxed);
        let is_socket = self.kind(fd).is_socket();
        let limit = |option| if is_socket { time_limit(fd, option) } else { 0 };
        self.read_timeout.store(limit(libc::SO_RCVTIMEO), Ordering::Relaxed);
        self.write_timeout.store(limit(libc::SO_SNDTIMEO), Ordering::Relaxed);
        self.known.store(now, Ordering::Relaxed);
    }

    /// Whether the program has made it non-blocking.
    #[inline]
    pub(super) fn is_nonblocking(&self, fd: RawFd) -> bool {
        self.learn(fd);
        self.nonblocking.load(Ordering::Relaxed) != 0
    }

    /// The same within [`flags_at_rest`].
    pub(super) fn is_nonblocking_at_rest(&self, fd: RawFd) -> bool {
        self.learn_at_rest(fd);
        self.nonblocking.load(Ordering::Relaxed) != 0
    }

    /// When a call that begins now has to be done, by the limit that the program has set.
    pub(super) fn deadline(&self, hub: &Hub, fd: RawFd, direction: Direction) -> Nanos {
        self.learn(fd);
        let limit = match direction {
            Direction::Read => &self.read_timeout,
            Direction::Write => &self.write_timeout,
        };
        match limit.load(Ordering::Relaxed) {
            0 => NEVER,
            nanos => hub.deadline(std::time::Duration::from_nanos(nanos)),
        }
    }

    pub(super) fn has_read_limit(&self, fd: RawFd) -> bool {
        self.learn(fd);
        self.read_timeout.load(Ordering::Relaxed) != 0
    }

    #[inline]
    fn slot(&self, hub: &Hub) -> Option<SlotId> {
        let near = self.near.load(Ordering::Acquire);
        if near == 0 {
            return None;
        }
        if near == hub.incarnation && self.near_process.load(Ordering::Relaxed) == fork::generation() {
            let slot = self.near_slot.load(Ordering::Acquire);
            // Only this thread puts its own number there. So if it is there still, the slot is
            // the one that goes with it.
            if self.near.load(Ordering::Relaxed) == near {
                return Some(SlotId { index: slot as u32, generation: (slot >> 32) as u32 });
            }
        }
        self.far_slot(hub)
    }

    #[cold]
    fn far_slot(&self, hub: &Hub) -> Option<SlotId> {
        self.registered.lock().places.iter().find(|place| place.is_with(hub)).map(|place| place.slot)
    }

    /// Takes all places.
    fn take_places(&self, registered: &mut Registered) -> Vec<Place> {
        self.near.store(0, Ordering::Release);
        std::mem::take(&mut registered.places)
    }

    #[cold]
    fn register(&self, hub: &Hub, fd: BorrowedFd<'_>, direction: Direction) -> Result<SlotId, i32> {
        let slot = hub.register_fd(fd, direction).map_err(number)?;
        let process = fork::generation();
        let (home, incarnation) = (hub.home, hub.incarnation);
        let mut registered = self.registered.lock();
        registered
            .places
            .retain(|place| place.home.incarnation() == place.incarnation && place.process == process);
        registered.places.push(Place { home, incarnation, process, slot });
        if registered.places.len() == 1 {
            self.near.store(0, Ordering::Release);
            self.near_slot.store(u64::from(slot.generation) << 32 | u64::from(slot.index), Ordering::Release);
            self.near_process.store(process, Ordering::Relaxed);
            self.near.store(incarnation, Ordering::Release);
        }
        Ok(slot)
    }

    /// Whether a call in that direction may find something to do.
    #[inline]
    pub(super) fn may_be_ready(&self, hub: &Hub, direction: Direction) -> bool {
        self.slot(hub).is_none_or(|slot| hub.fd_ready(slot, direction))
    }

    /// A call has found that there is nothing (more) to do.
    #[inline]
    pub(super) fn exhausted(&self, hub: &Hub, direction: Direction) {
        if let Some(slot) = self.slot(hub) {
            hub.fd_exhausted(slot, direction);
        }
    }

    /// Waits until there may be something to do. An error is a number: `EBADF` if it was closed meanwhile, `ETIMEDOUT`
    /// and `ECANCELED` for what is pending against the greenlet.
    pub(super) fn wait(
        &self,
        hub: &Hub,
        fd: RawFd,
        direction: Direction,
        what: &'static str,
        deadline: Nanos,
        ended_by: Handlers,
    ) -> Result<Waited, i32> {
        let generation = self.generation();
        // SAFETY: if it is not open, epoll says so.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let reason = Reason::of(what, fd as u64);
        let slot = match self.slot(hub) {
            Some(slot) => slot,
            None => {
                self.is_another(hub, fd)?;
                self.register(hub, borrowed, direction)?
            }
        };
        let wait = |until| match hub.wait_fd_foreign(slot, borrowed, direction, reason, until, ended_by) {
            Ok(_) if self.generation() != generation => Err(libc::EBADF),
            Ok(verdict) => Ok(verdict),
            Err(error) => Err(number(error)),
        };
        let look = hub.deadline(LOOK).min(deadline);
        match wait(look)? {
            Verdict::TimedOut if look < deadline => {
                if self.is_another(hub, fd)? {
                    return Ok(Waited::Woken);
                }
                answer(wait(deadline)?)
            }
            verdict => answer(verdict),
        }
    }

    /// Whether the number is another descriptor's than when it was registered. Then that registration is forgotten.
    fn is_another(&self, hub: &Hub, fd: RawFd) -> Result<bool, i32> {
        let inode = inode(fd)?;
        let known = self.registered.lock().inode;
        if known != inode {
            self.forget_places(hub, inode);
        }
        Ok(known != inode)
    }

    /// The number has become another descriptor's unseen.
    #[cold]
    fn forget_places(&self, hub: &Hub, inode: (u64, u64)) {
        let mut registered = self.registered.lock();
        registered.inode = inode;
        let places = self.take_places(&mut registered);
        drop(registered);
        for place in places {
            if place.is_with(hub) {
                hub.forget_fd(place.slot);
            }
        }
    }
}

/// Held by who makes a descriptor non-blocking for one call, and by who sets or reads that flag.
static FLAGS: Lock<()> = Lock::new(());
static HELD_AT_FORK: HeldAtFork<LockGuard<'static, ()>> = HeldAtFork::new();

/// Calls `f`, while nobody else of this process sets `O_NONBLOCK`, for good or for a moment. `f` does not wait.
pub(super) fn flags_at_rest<R>(f: impl FnOnce() -> R) -> R {
    // A handler may have interrupted this very thread within here.
    let _turn = (gate::is_open() && !gate::is_in_handler()).then(|| FLAGS.lock());
    f()
}

/// Has a child process find the lock free.
pub(super) fn watch_forks() {
    static WATCHED: Once = Once::new();
    extern "C" fn prepare() {
        HELD_AT_FORK.put(FLAGS.lock());
    }
    extern "C" fn after() {
        drop(HELD_AT_FORK.take());
    }
    WATCHED.call_once(|| fork::at_fork(prepare, after, after));
}

/// How a wait ended that may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waited {
    Woken,
    TimedOut,
}

/// What a call fails with for what is pending against its greenlet.
pub(super) fn answer(verdict: Verdict) -> Result<Waited, i32> {
    match verdict {
        Verdict::Woken => Ok(Waited::Woken),
        Verdict::TimedOut => Ok(Waited::TimedOut),
        Verdict::Expired => Err(libc::ETIMEDOUT),
        Verdict::Killed => Err(libc::ECANCELED),
        Verdict::Interrupted => Err(libc::EINTR),
    }
}

/// What a call fails with for an error of the hub's.
pub(super) fn number(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn stat(fd: RawFd) -> Result<libc::stat, i32> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes a whole `stat` through the pointer if it succeeds.
    match unsafe { libc::fstat(fd, stat.as_mut_ptr()) } {
        // SAFETY: it has succeeded.
        0 => Ok(unsafe { stat.assume_init() }),
        _ => Err(super::errno()),
    }
}

fn inode(fd: RawFd) -> Result<(u64, u64), i32> {
    stat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

#[cold]
fn find_kind(fd: RawFd) -> Kind {
    if (0..=2).contains(&fd) {
        return Kind::Standard;
    }
    let Ok(stat) = stat(fd) else { return Kind::Unknown };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => Kind::File,
        libc::S_IFSOCK => {
            let family = int_option(fd, libc::SO_DOMAIN);
            match int_option(fd, libc::SO_TYPE) {
                Some(libc::SOCK_STREAM) if matches!(family, Some(libc::AF_INET | libc::AF_INET6)) => {
                    Kind::Tcp
                }
                Some(libc::SOCK_STREAM) => Kind::Stream,
                _ => Kind::Datagram,
            }
        }
        _ => Kind::Other,
    }
}

pub(super) fn int_option(fd: RawFd, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int, and so much room is given.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut len) };
    (result == 0).then_some(value)
}

fn time_limit(fd: RawFd, option: libc::c_int) -> u64 {
    let mut value = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut len = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the option is a timeval, and so much room is given.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut len) };
    if result != 0 {
        return 0;
    }
    (value.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(value.tv_usec as u64 * 1000)
}
