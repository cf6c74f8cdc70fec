//! Random operations on sockets, and with other OS threads.
//!
//! Each direction of each connection (a [`Lane`]) has its own bytes, which tell their place. So a byte that is lost, doubled, or came
//! from elsewhere is found: also if its reader or writer was killed or timed out in the middle, or has used a clone.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use switchgrass::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};
use switchgrass::{Coroutine, Greenlet, Handle, SwitchError, sleep, spawn, testing, timeout, unblock};

use super::{Done, Random, Token, World, check, fail, leaves_nothing, many_seeds, refuse_panics};
use crate::util::{DropGuard, in_child, time_limit};

const MOST_ENDS: usize = 60;
const MOST_DATAGRAM_ENDS: usize = 20;
const COURIERS: usize = 2;

/// What a world with sockets has more.
pub(super) struct Sockets {
    ends: RefCell<Vec<Rc<End>>>,
    datagram_ends: RefCell<Vec<Rc<DatagramEnd>>>,
    next_lane: Cell<u64>,
    couriers: RefCell<Vec<mpsc::Sender<Errand>>>,
}

impl Sockets {
    pub(super) fn drop_all(&self) {
        self.ends.take();
        self.datagram_ends.take();
    }

    fn lane(&self) -> Arc<Lane> {
        self.next_lane.set(self.next_lane.get() + 1);
        Arc::new(Lane { tag: self.next_lane.get(), ..Lane::default() })
    }
}

impl World {
    pub(super) fn socket_step(self: &Rc<Self>) {
        let Some(sockets) = &self.sockets else { return };
        match self.below(30) {
            0..=3 => self.open(sockets),
            4..=10 => self.on_end(sockets, |end| self.read(end)),
            11..=16 => self.on_end(sockets, |end| self.write(end)),
            17 => self.on_end(sockets, |end| self.shut_down(end)),
            18 => self.on_end(sockets, |end| self.set_limits(end)),
            19 => self.on_end(sockets, |end| self.duplicate(sockets, end)),
            20 | 21 => drop(self.random.take(&sockets.ends)),
            22 => self.convert(sockets),
            23 => self.open_datagrams(sockets),
            24..=26 => self.on_datagram_end(sockets),
            27 => self.unblock(),
            _ => self.send_errand(sockets),
        }
    }
}

// ---- Streams --------------------------------------------------------------------------------------------------------------

/// One direction of a connection.
#[derive(Default)]
struct Lane {
    tag: u64,
    /// Bytes that were written, as far as that is known.
    sent: AtomicU64,
    /// Bytes that may have been written.
    tried: AtomicU64,
    received: AtomicU64,
    /// Somebody writes: the bytes are given their places before it waits, so there can be one only.
    busy: AtomicBool,
    /// Nobody knows how much was written, since a `write_all` was interrupted.
    torn: AtomicBool,
    /// There will be no more bytes.
    shut: AtomicBool,
    /// Bytes that were on their way may be lost: the reader wanted no more, or the connection was reset.
    broken: AtomicBool,
}

impl Lane {
    fn byte(&self, place: u64) -> u8 {
        (self.tag.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(place.wrapping_mul(0x94d0_49bb_1331_11eb))
            >> 40) as u8
    }

    fn bytes(&self, place: u64, len: u64) -> Vec<u8> {
        (place..place + len).map(|place| self.byte(place)).collect()
    }

    /// Looks at bytes that have arrived, or (`peeked`) will.
    fn look_at(&self, bytes: &[u8], peeked: bool) {
        let place = self.received.load(SeqCst);
        for (n, &byte) in (place..).zip(bytes) {
            check(byte == self.byte(n), || {
                format!("wrong byte {n} of lane {} ({place} + {} read)", self.tag, bytes.len())
            });
        }
        if !peeked {
            self.received.store(place + bytes.len() as u64, SeqCst);
            let tried = self.tried.load(SeqCst);
            check(place + bytes.len() as u64 <= tried, || format!("{place} + {} of {tried}", bytes.len()));
        }
    }

    /// The reader has come to the end.
    fn ended(&self) {
        if self.broken.load(SeqCst) {
            return;
        }
        let [received, sent, tried] = [&self.received, &self.sent, &self.tried].map(|n| n.load(SeqCst));
        let right = match self.torn.load(SeqCst) {
            true => (sent..=tried).contains(&received),
            false => received == sent,
        };
        check(right, || format!("lane {}: {received} bytes received, {sent} sent, {tried} tried", self.tag));
    }
}

/// The right to write to a lane.
struct Writing<'a> {
    lane: &'a Lane,
    /// If this goes before it is settled, nobody knows how much was written.
    tears: bool,
}

impl<'a> Writing<'a> {
    fn begin(lane: &'a Lane, len: u64, tears: bool) -> Option<(Self, Vec<u8>)> {
        if lane.torn.load(SeqCst) || lane.shut.load(SeqCst) || lane.busy.swap(true, SeqCst) {
            return None;
        }
        let place = lane.sent.load(SeqCst);
        lane.tried.store(place + len, SeqCst);
        Some((Writing { lane, tears }, lane.bytes(place, len)))
    }

    fn settle(mut self, written: u64) {
        self.tears = false;
        self.lane.sent.fetch_add(written, SeqCst);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if self.tears {
            self.lane.torn.store(true, SeqCst);
        }
        self.lane.busy.store(false, SeqCst);
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! with {
    ($stream:expr, $name:ident => $what:expr) => {
        match $stream {
            Stream::Tcp($name) => $what,
            Stream::Unix($name) => $what,
        }
    };
}

/// One end of a connection, or a clone of it.
struct End {
    stream: Stream,
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
    /// Counts the clones.
    same: Arc<()>,
}

impl End {
    fn pair(sockets: &Sockets, one: Stream, other: Stream) -> [End; 2] {
        let (there, back) = (sockets.lane(), sockets.lane());
        [(one, back.clone(), there.clone()), (other, there, back)].map(|(stream, incoming, outgoing)| End {
            stream,
            incoming,
            outgoing,
            same: Arc::default(),
        })
    }

    /// How random reads and writes may fail. A reset is told once only, to whoever comes first.
    fn failed(&self, error: &io::Error, writes: bool) {
        match error.kind() {
            // No socket says that it is busy: a second greenlet waits.
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::ResourceBusy => {}
            ErrorKind::BrokenPipe if self.outgoing.shut.load(SeqCst) => {}
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset if writes => self.break_both(),
            ErrorKind::ConnectionReset => self.break_both(),
            _ => fail(&format!("lane {}: {error:?}", self.incoming.tag)),
        }
    }

    fn break_both(&self) {
        self.incoming.broken.store(true, SeqCst);
        self.outgoing.broken.store(true, SeqCst);
    }

    /// Reads once. No greenlet runs between the read and the look at what came.
    fn read(&self, len: usize, style: u64) -> Option<usize> {
        let mut buf = vec![0; len];
        let result = match (style, &self.stream) {
            (0, stream) => {
                let (one, other) = buf.split_at_mut(len / 3);
                let mut bufs = [IoSliceMut::new(one), IoSliceMut::new(other)];
                with!(stream, s => (&*s).read_vectored(&mut bufs))
            }
            (1, Stream::Tcp(tcp)) => {
                match tcp.peek(&mut buf) {
                    Ok(count) => self.incoming.look_at(&buf[..count], true),
                    Err(error) => self.failed(&error, false),
                }
                return None;
            }
            (_, stream) => with!(stream, s => (&*s).read(&mut buf)),
        };
        match result {
            Ok(0) if len > 0 => self.incoming.ended(),
            Ok(count) => self.incoming.look_at(&buf[..count], false),
            Err(ref error) => self.failed(error, false),
        }
        result.ok()
    }

    fn write(&self, len: u64, style: u64) -> Option<usize> {
        let (writing, buf) = Writing::begin(&self.outgoing, len, style == 0)?;
        let result = match style {
            0 => with!(&self.stream, s => (&*s).write_all(&buf).map(|()| buf.len())),
            1 => {
                let (one, other) = buf.split_at(buf.len() / 3);
                let bufs = [IoSlice::new(one), IoSlice::new(other)];
                with!(&self.stream, s => (&*s).write_vectored(&bufs))
            }
            _ => with!(&self.stream, s => (&*s).write(&buf)),
        };
        match result {
            Ok(count) => writing.settle(count as u64),
            Err(ref error) => {
                self.failed(error, true);
                if style != 0 {
                    writing.settle(0);
                }
            }
        }
        result.ok()
    }
}

impl World {
    fn on_end(&self, sockets: &Sockets, act: impl FnOnce(&End)) {
        if let Some(end) = self.random.copy(&sockets.ends) {
            act(&end);
        }
    }

    fn open(&self, sockets: &Sockets) {
        if sockets.ends.borrow().len() >= MOST_ENDS {
            return;
        }
        let pair = match self.below(2) {
            0 => self.tcp_pair(),
            _ => UnixStream::pair().map(|(one, other)| (Stream::Unix(one), Stream::Unix(other))),
        };
        match pair {
            Ok((one, other)) => {
                let [one, other] = End::pair(sockets, one, other).map(Rc::new);
                sockets.ends.borrow_mut().extend([one, other]);
            }
            // It was to wait while it unwinds; or all ports of an address rest.
            Err(error) => {
                check(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::AddrNotAvailable), || {
                    format!("{error:?}")
                })
            }
        }
    }

    fn tcp_pair(&self) -> io::Result<(Stream, Stream)> {
        // Many addresses, since each port of each rests for a while after use.
        let host = Ipv4Addr::new(127, 0, self.below(200) as u8, self.below(200) as u8 + 1);
        let listener = TcpListener::bind((host, 0))?;
        let one = TcpStream::connect(listener.local_addr()?)?;
        let (other, from) = listener.accept()?;
        check(one.local_addr()? == from, || format!("{from} is a stranger"));
        Ok((Stream::Tcp(one), Stream::Tcp(other)))
    }

    fn read(&self, end: &End) {
        let len = [1, 10, 1000, 10_000, 100_000][self.below(5) as usize];
        let style = self.below(6);
        if let Some(Some(count)) = self.limited(|| end.read(len, style)) {
            self.done(if count > 0 || len == 0 { Done::Bytes } else { Done::End });
        }
    }

    fn write(&self, end: &End) {
        let len = match self.below(10) {
            0 => self.below(200_000),
            _ => self.below(3000),
        };
        let style = self.below(4);
        self.limited(|| end.write(len, style));
    }

    fn shut_down(&self, end: &End) {
        let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][self.below(3) as usize];
        if how != Shutdown::Write {
            end.incoming.broken.store(true, SeqCst);
        }
        if how != Shutdown::Read {
            end.outgoing.shut.store(true, SeqCst);
        }
        if let Err(error) = with!(&end.stream, s => s.shutdown(how)) {
            check(error.kind() == ErrorKind::NotConnected, || format!("{error:?}"));
        }
    }

    fn set_limits(&self, end: &End) {
        let limit = || match self.below(3) {
            0 => None,
            _ => Some(self.unit * (1 + self.below(20) as u32)),
        };
        let (read, write, nonblocking) = (limit(), limit(), self.below(4) == 0);
        with!(&end.stream, s => {
            s.set_read_timeout(read).unwrap();
            s.set_write_timeout(write).unwrap();
            s.set_nonblocking(nonblocking).unwrap();
        });
    }

    fn duplicate(&self, sockets: &Sockets, end: &End) {
        if sockets.ends.borrow().len() >= MOST_ENDS {
            return;
        }
        let stream = match &end.stream {
            Stream::Tcp(tcp) => Stream::Tcp(tcp.try_clone().unwrap()),
            Stream::Unix(unix) => Stream::Unix(unix.try_clone().unwrap()),
        };
        let clone = End {
            stream,
            incoming: end.incoming.clone(),
            outgoing: end.outgoing.clone(),
            same: end.same.clone(),
        };
        sockets.ends.borrow_mut().push(Rc::new(clone));
        self.done(Done::Duplicate);
    }

    /// Takes an end that nobody uses now.
    fn take_end(&self, sockets: &Sockets) -> Option<End> {
        match Rc::try_unwrap(self.random.take(&sockets.ends)?) {
            Ok(end) => Some(end),
            Err(used) => {
                sockets.ends.borrow_mut().push(used);
                None
            }
        }
    }

    /// Into std's type, or a plain descriptor, and back.
    fn convert(&self, sockets: &Sockets) {
        let Some(end) = self.take_end(sockets) else { return };
        let stream = match (end.stream, self.below(2)) {
            (Stream::Tcp(tcp), 0) => Stream::Tcp(std::net::TcpStream::from(tcp).into()),
            (Stream::Tcp(tcp), _) => Stream::Tcp(OwnedFd::from(tcp).into()),
            (Stream::Unix(unix), 0) => Stream::Unix(std::os::unix::net::UnixStream::from(unix).into()),
            (Stream::Unix(unix), _) => Stream::Unix(OwnedFd::from(unix).into()),
        };
        sockets.ends.borrow_mut().push(Rc::new(End { stream, ..end }));
    }
}

// ---- Datagrams ------------------------------------------------------------------------------------------------------------

enum DatagramSocket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

struct DatagramEnd {
    socket: DatagramSocket,
    incoming: Rc<DatagramLane>,
    outgoing: Rc<DatagramLane>,
}

#[derive(Default)]
struct DatagramLane {
    lane: Lane,
    /// How many were sent.
    sent: Cell<u64>,
    /// Their numbers.
    received: RefCell<HashSet<u64>>,
}

impl World {
    fn open_datagrams(&self, sockets: &Sockets) {
        if sockets.datagram_ends.borrow().len() >= MOST_DATAGRAM_ENDS {
            return;
        }
        let (one, other) = match self.below(2) {
            0 => {
                let [one, other] = [0, 0].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
                let (Ok(()), Ok(())) = (
                    one.connect(other.local_addr().unwrap()),
                    // May switch.
                    other.connect(one.local_addr().unwrap()),
                ) else {
                    return;
                };
                (DatagramSocket::Udp(one), DatagramSocket::Udp(other))
            }
            _ => {
                let (one, other) = UnixDatagram::pair().unwrap();
                (DatagramSocket::Unix(one), DatagramSocket::Unix(other))
            }
        };
        let lane = || {
            let lane =
                Lane { tag: sockets.next_lane.replace(sockets.next_lane.get() + 1) << 32, ..Lane::default() };
            Rc::new(DatagramLane { lane, ..DatagramLane::default() })
        };
        let (there, back) = (lane(), lane());
        let ends = [(one, back.clone(), there.clone()), (other, there, back)];
        let ends =
            ends.map(|(socket, incoming, outgoing)| Rc::new(DatagramEnd { socket, incoming, outgoing }));
        sockets.datagram_ends.borrow_mut().extend(ends);
    }

    fn on_datagram_end(&self, sockets: &Sockets) {
        let Some(end) = self.random.copy(&sockets.datagram_ends) else { return };
        match self.below(12) {
            0..=4 => drop(self.limited(|| self.send_datagram(&end))),
            5..=10 => drop(self.limited(|| self.receive_datagram(&end))),
            _ => drop(self.random.take(&sockets.datagram_ends)),
        }
    }

    fn send_datagram(&self, end: &DatagramEnd) {
        let lane = &end.outgoing;
        // Its number is given before it is sent, which may wait.
        let number = lane.sent.replace(lane.sent.get() + 1);
        let mut datagram = [lane.lane.tag.to_ne_bytes(), number.to_ne_bytes()].concat();
        datagram.extend(lane.lane.bytes(number, self.below(1000)));
        let result = match &end.socket {
            DatagramSocket::Udp(udp) => udp.send(&datagram),
            DatagramSocket::Unix(unix) => unix.send(&datagram),
        };
        match result {
            Ok(len) => check(len == datagram.len(), || format!("{len} sent of {}", datagram.len())),
            Err(error) => datagram_failed(&error),
        }
    }

    fn receive_datagram(&self, end: &DatagramEnd) {
        let mut buf = [0; 2000];
        let result = match &end.socket {
            DatagramSocket::Udp(udp) => udp.recv(&mut buf),
            DatagramSocket::Unix(unix) => unix.recv(&mut buf),
        };
        let len = match result {
            Ok(len) => len,
            Err(error) => return datagram_failed(&error),
        };
        let lane = &end.incoming;
        let word = |at: usize| u64::from_ne_bytes(buf[at..at + 8].try_into().unwrap());
        let (tag, number) = (word(0), word(8));
        check(len >= 16 && tag == lane.lane.tag, || {
            format!("{len} bytes of lane {tag} in lane {}", lane.lane.tag)
        });
        check(number < lane.sent.get() && lane.received.borrow_mut().insert(number), || {
            format!("datagram {number} came twice, or was never sent")
        });
        check(buf[16..len] == lane.lane.bytes(number, len as u64 - 16), || {
            format!("datagram {number} has changed")
        });
        self.done(Done::Datagram);
    }
}

fn datagram_failed(error: &io::Error) {
    let kinds = [
        ErrorKind::WouldBlock,
        ErrorKind::ResourceBusy,
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::NotConnected,
    ];
    check(kinds.contains(&error.kind()), || format!("{error:?}"));
}

// ---- Other OS threads -----------------------------------------------------------------------------------------------------

/// What a courier, an OS thread with a hub of its own, is asked for.
enum Errand {
    Unpark(Handle),
    Kill(Handle),
    /// Waits for the end.
    KillAndWait(Handle),
    Join(Greenlet<DropGuard>),
    /// Drops what may be the last handle; or tries to switch.
    Coroutine(Coroutine<Token>, Option<Token>),
    /// Reads from and writes to this end. Perhaps it comes back.
    Traffic(End, mpsc::Sender<End>),
}

impl World {
    fn unblock(&self) {
        let (guard, number) = (self.drops.guard(), self.below(1000));
        let answer = self.limited(|| {
            unblock(move || {
                let _guard = guard;
                number + 1
            })
        });
        if let Some(answer) = answer {
            check(answer == number + 1, || format!("{answer} after {number}"));
            self.done(Done::Unblock);
        }
    }

    fn send_errand(self: &Rc<Self>, sockets: &Sockets) {
        let Some(courier) = self.random.copy(&sockets.couriers) else { return };
        let errand = match self.below(8) {
            0 | 1 => self.any().map(Errand::Unpark),
            2 => self.any().map(Errand::Kill),
            3 => self.any().map(Errand::KillAndWait),
            4 => self.random.take(&self.greenlets).map(Errand::Join),
            5 => self.random.take(&self.coroutines).map(|coroutine| Errand::Coroutine(coroutine, None)),
            6 => self
                .random
                .copy(&self.coroutines)
                .map(|coroutine| Errand::Coroutine(coroutine, Some(self.token()))),
            _ => return self.give_away(sockets, &courier),
        };
        if let Some(errand) = errand {
            let _ = courier.send(errand);
        }
    }

    /// Another thread uses an end, which has no clone, and perhaps gives it back.
    fn give_away(&self, sockets: &Sockets, courier: &mpsc::Sender<Errand>) {
        let Some(end) = self.take_end(sockets) else { return };
        if Arc::strong_count(&end.same) > 1 || self.sockets.is_none() {
            return sockets.ends.borrow_mut().push(Rc::new(end));
        }
        let (give, take) = mpsc::channel();
        if courier.send(Errand::Traffic(end, give)).is_ok() {
            self.done(Done::Given);
            if let Some(Ok(end)) = self.limited(|| unblock(move || take.recv())) {
                self.done(Done::GivenBack);
                sockets.ends.borrow_mut().push(Rc::new(end));
            }
        }
    }
}

/// Runs errands until there are no more.
fn courier(errands: &mpsc::Receiver<Errand>, seed: u64) {
    let random = Random::new(seed);
    let time = || Duration::from_micros(random.below(2000));
    for errand in errands {
        match errand {
            Errand::Unpark(handle) => handle.unpark(),
            Errand::Kill(handle) => handle.kill_nowait(),
            Errand::KillAndWait(handle) => drop(timeout(time(), || handle.kill())),
            // Comes too late for a greenlet that has gone on: then it is detached.
            Errand::Join(greenlet) => drop(greenlet.join_timeout(time())),
            Errand::Coroutine(coroutine, None) => drop(coroutine),
            Errand::Coroutine(coroutine, Some(token)) => match coroutine.switch(token) {
                Err(SwitchError::OtherThread { .. }) => {}
                other => fail(&format!("a switch to another thread gave {other:?}")),
            },
            Errand::Traffic(end, back) => {
                let end = Rc::new(end);
                let reader = spawn({
                    let (end, lens) = (end.clone(), [random.below(5000), random.below(5000)]);
                    move || lens.map(|len| end.read(len as usize + 1, 2))
                });
                for _ in 0..random.below(4) {
                    let len = random.below(5000);
                    let _ = timeout(time(), || end.write(len, 2));
                }
                drop(reader.join_timeout(time()).map_err(|reader| reader.kill()));
                if let Ok(end) = Rc::try_unwrap(end)
                    && random.below(2) == 0
                {
                    // It is dropped here if nobody waits for it any more.
                    let _ = back.send(end);
                }
            }
        }
    }
    check((testing::live(), testing::stack_counts().0) == (0, 0), || {
        format!("{} tasks are left to a courier", testing::live())
    });
}

// ---- Runs -----------------------------------------------------------------------------------------------------------------

/// Runs on a thread of its own; gives what was done how often.
fn run(seed: u64, operations: u32) -> Rc<World> {
    let (couriers, threads): (Vec<_>, Vec<JoinHandle<()>>) = (0..COURIERS as u64)
        .map(|n| {
            let (give, take) = mpsc::channel();
            (give, thread::spawn(move || courier(&take, seed << 8 | n)))
        })
        .unzip();
    let sockets = Sockets {
        ends: RefCell::default(),
        datagram_ends: RefCell::default(),
        next_lane: Cell::new(0),
        couriers: RefCell::new(couriers),
    };
    let world = World::with(seed, Duration::from_micros(40), Some(sockets));
    world.run(operations);
    world.sockets.as_ref().unwrap().couriers.take();
    for thread in threads {
        // They may wait for this thread's hub.
        unblock(|| thread.join()).unwrap();
    }
    // What comes back from them; and what jobs of `unblock` still have whose greenlets were killed.
    let sockets = world.sockets.as_ref().unwrap();
    while testing::live() > 0 || world.drops.made() != world.drops.count() {
        sockets.drop_all();
        sleep(world.unit);
    }
    world
}

fn run_on_thread(seed: u64, operations: u32) -> [u64; super::KINDS] {
    let run = move || {
        let world = run(seed, operations);
        let done = *world.done.borrow();
        world.look();
        done
    };
    thread::spawn(run).join().unwrap()
}

#[test]
fn random_operations_with_sockets_and_threads_lose_no_byte_and_leave_nothing_behind() {
    in_child(
        "stress::sockets::random_operations_with_sockets_and_threads_lose_no_byte_and_leave_nothing_behind",
        || {
            time_limit();
            refuse_panics();
            let done = run_on_thread(1, 2000);
            println!("{done:?}");
            for kind in [Done::Unblock, Done::GivenBack, Done::Bytes, Done::End, Done::Datagram] {
                assert!(done[kind as usize] > 3, "{kind:?} was done too rarely: {done:?}");
            }
            leaves_nothing(4, 12, |seed| {
                run_on_thread(seed, 150);
            });
        },
    );
}

#[test]
#[ignore = "takes a minute"]
fn random_operations_with_sockets_and_threads_from_many_seeds() {
    many_seeds(
        "stress::sockets::random_operations_with_sockets_and_threads_from_many_seeds",
        100,
        200,
        |seed| {
            run_on_thread(seed, 2000);
        },
    );
}
