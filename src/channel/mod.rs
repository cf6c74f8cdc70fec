//! Channels: many senders, many receivers, with or without room in between; and [`select!`](macro@crate::select) over several.
//!
//! Names and errors are those of std's `mpsc` and of crossbeam. They work between the greenlets of one hub,
//! between hubs, and with plain OS threads. Each message goes to one receiver; those who wait are served in
//! the order of coming. A message that was on its way to a receiver which is killed goes to the next, or
//! stays the first in the channel.
//!
//! ```
//! use switchgrass::{channel, spawn};
//!
//! let (tx, rx) = channel::bounded(2);
//! let squares = spawn(move || rx.iter().map(|n: u64| n * n).sum::<u64>());
//! for n in 1..=4 {
//!     tx.send(n).unwrap();        // waits while two are on their way
//! }
//! drop(tx);                       // no sender is left: the iteration ends
//! assert_eq!(squares.join().unwrap(), 30);
//! ```

#![deny(unsafe_code)]

#[doc(hidden)]
pub mod select;

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

use crate::hub::{be_fair, hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{Reason, Wakeup};
use crate::wait::{Claim, Line, Outcome, Queue, wait};

/// A channel with room for `capacity` messages. With none (0), a send waits until somebody receives.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    new(capacity)
}

/// A channel in which a send never waits. What is not received takes memory.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    new(usize::MAX)
}

fn new<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State {
        buffer: VecDeque::new(),
        capacity,
        reserved: 0,
        senders: Queue::new(),
        receivers: Queue::new(),
        closed: false,
    };
    let channel = Arc::new(Channel {
        state: Lock::new(state),
        senders: AtomicUsize::new(1),
        receivers: AtomicUsize::new(1),
    });
    (Sender { channel: Arc::clone(&channel) }, Receiver { channel })
}

struct Channel<T> {
    state: Lock<State<T>>,
    /// How many handles of each kind there are.
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

/// # Invariants
///
/// Between two sections under the lock: nobody waits in `receivers` while there is a message, and nobody in
/// `senders` while there is room.
pub(crate) struct State<T> {
    buffer: VecDeque<T>,
    capacity: usize,
    /// Places promised to selects that have not come up with their message yet.
    reserved: usize,
    /// The item of a node is the message; none in the node of a select, which makes its message when it is chosen.
    senders: Queue<T>,
    /// The item is where the message is put. None is put there when the channel closes.
    receivers: Queue<T>,
    /// One side is gone.
    closed: bool,
}

/// What a receiver finds.
enum Found<T> {
    Message(T, Option<Wakeup>),
    /// A select was promised that its message will be received.
    Promised(Wakeup),
    Nothing,
}

impl<T> State<T> {
    /// Then a message is put in or taken out, and that is all: the way that is worth to be inlined.
    #[inline]
    fn nobody_waits(&self) -> bool {
        self.senders.is_empty() && self.receivers.is_empty()
    }

    /// Puts a message in, if there is room or somebody waits for it.
    #[inline]
    fn put(&mut self, message: &mut Option<T>) -> Option<Option<Wakeup>> {
        if let Some(((), wakeup)) = self.receivers.hand_over(|place| *place = message.take()) {
            return Some(Some(wakeup));
        }
        if self.buffer.len() + self.reserved < self.capacity {
            self.buffer.extend(message.take());
            return Some(None);
        }
        None
    }

    /// Takes the first message, and lets the first sender that waits move up.
    #[inline]
    fn take(&mut self) -> Found<T> {
        match self.buffer.pop_front() {
            Some(message) => Found::Message(message, self.refill()),
            None if self.capacity > 0 => Found::Nothing,
            None => match self.senders.hand_over(Option::take) {
                Some((Some(message), wakeup)) => Found::Message(message, Some(wakeup)),
                Some((None, wakeup)) => {
                    self.reserved += 1;
                    Found::Promised(wakeup)
                }
                None => Found::Nothing,
            },
        }
    }

    /// A place may have become free: gives it to the first sender that waits.
    #[inline]
    fn refill(&mut self) -> Option<Wakeup> {
        if self.buffer.len() + self.reserved >= self.capacity {
            return None;
        }
        let (message, wakeup) = self.senders.hand_over(Option::take)?;
        match message {
            Some(message) => self.buffer.push_back(message),
            None => self.reserved += 1,
        }
        Some(wakeup)
    }

    /// Reserves a place for a select's message. `claim`: of the select, which is no receiver of its own message.
    fn reserve(&mut self, claim: Option<&Claim>) -> bool {
        let room = self.has_room(claim);
        self.reserved += usize::from(room);
        room
    }

    #[inline]
    fn has_room(&self, claim: Option<&Claim>) -> bool {
        self.buffer.len() + self.reserved < self.capacity
            || (self.capacity == 0 && self.receivers.len_without(claim) > self.reserved)
    }

    fn has_message(&self, claim: Option<&Claim>) -> bool {
        !self.buffer.is_empty() || (self.capacity == 0 && self.senders.len_without(claim) > 0)
    }

    /// Gives a reserved place up.
    fn unreserve(&mut self) {
        self.reserved -= 1;
        self.move_up();
    }

    /// Puts the message in for which a place was reserved.
    fn put_reserved(&mut self, message: T) {
        self.reserved -= 1;
        let mut message = Some(message);
        if let Some(((), wakeup)) = self.receivers.hand_over(|place| *place = message.take()) {
            wakeup.wake();
            // The place was not needed.
            return self.move_up();
        }
        // Without capacity, the receiver that it was meant for has gone meanwhile: the next one gets it.
        self.buffer.extend(message);
    }

    /// What was reserved is free: the first of those who wait to send get it, and if that is a place that a
    /// receiver waits for, the ones behind.
    fn move_up(&mut self) {
        while self.has_room(None)
            && let Some((mut message, wakeup)) = self.senders.hand_over(Option::take)
        {
            wakeup.wake();
            match message {
                None => self.reserved += 1,
                Some(_) => match self.put(&mut message) {
                    Some(wakeup) => wake(wakeup),
                    None => self.buffer.extend(message),
                },
            }
        }
    }
}

impl<T> Channel<T> {
    fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut message = Some(message);
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return Err(TrySendError::Disconnected(message.expect("nobody has taken it")));
        }
        match state.put(&mut message) {
            Some(wakeup) => {
                drop(state);
                wake(wakeup);
                Ok(())
            }
            None => {
                drop(state);
                be_fair();
                Err(TrySendError::Full(message.expect("nobody has taken it")))
            }
        }
    }

    #[inline(always)]
    fn send_until(&self, message: T, deadline: impl FnOnce() -> Nanos) -> Result<(), SendTimeoutError<T>> {
        let mut state = self.state.lock();
        if state.nobody_waits() && state.has_room(None) && !state.closed {
            state.buffer.push_back(message);
            return Ok(());
        }
        let mut message = Some(message);
        if !state.closed {
            if let Some(wakeup) = state.put(&mut message) {
                drop(state);
                wake(wakeup);
                return Ok(());
            }
            match wait(&Senders(self), state, message, deadline()) {
                Outcome::Chosen(None) => return Ok(()),
                Outcome::Chosen(closed) => message = closed,
                Outcome::TimedOut(message) | Outcome::Unwinding(message) => {
                    return Err(SendTimeoutError::Timeout(message.expect("nobody has taken it")));
                }
            }
        }
        Err(SendTimeoutError::Disconnected(message.expect("nobody has taken it")))
    }

    fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.state.lock();
        let found = state.take();
        let closed = state.closed;
        drop(state);
        match found {
            Found::Message(message, wakeup) => {
                wake(wakeup);
                Ok(message)
            }
            Found::Nothing if closed => Err(TryRecvError::Disconnected),
            Found::Nothing => {
                be_fair();
                Err(TryRecvError::Empty)
            }
            Found::Promised(wakeup) => {
                wakeup.wake();
                be_fair();
                Err(TryRecvError::Empty)
            }
        }
    }

    #[inline(always)]
    fn recv_until(&self, deadline: impl FnOnce() -> Nanos) -> Result<T, RecvTimeoutError> {
        // A channel that another thread keeps full must not keep this one's other greenlets from running.
        be_fair();
        let mut state = self.state.lock();
        if state.nobody_waits()
            && let Some(message) = state.buffer.pop_front()
        {
            return Ok(message);
        }
        match state.take() {
            Found::Message(message, wakeup) => {
                drop(state);
                wake(wakeup);
                return Ok(message);
            }
            Found::Promised(wakeup) => wakeup.wake(),
            Found::Nothing if state.closed => return Err(RecvTimeoutError::Disconnected),
            Found::Nothing => {}
        }
        match wait(&Receivers(self), state, None, deadline()) {
            Outcome::Chosen(Some(message)) => Ok(message),
            Outcome::Chosen(None) => Err(RecvTimeoutError::Disconnected),
            Outcome::TimedOut(_) | Outcome::Unwinding(_) => Err(RecvTimeoutError::Timeout),
        }
    }

    /// The last handle of a side is gone: those who wait on the other learn it.
    fn close(&self, receivers_gone: bool) {
        let mut state = self.state.lock();
        state.closed = true;
        while let Some(((), wakeup)) = state.receivers.hand_over(|_| ()) {
            wakeup.wake();
        }
        while let Some(((), wakeup)) = state.senders.hand_over(|_| ()) {
            wakeup.wake();
        }
        let lost = if receivers_gone { std::mem::take(&mut state.buffer) } else { VecDeque::new() };
        drop(state);
        // Their destructors are the user's code.
        drop(lost);
    }

    fn len(&self) -> usize {
        self.state.lock().buffer.len()
    }
}

#[inline]
fn wake(wakeup: Option<Wakeup>) {
    if let Some(wakeup) = wakeup {
        wakeup.wake();
    }
}

/// Those who wait to send.
struct Senders<'a, T>(&'a Channel<T>);

impl<T> Line for Senders<'_, T> {
    type State = State<T>;
    type Item = T;

    #[inline]
    fn lock(&self) -> &Lock<State<T>> {
        &self.0.state
    }

    #[inline]
    fn queue(state: &mut State<T>) -> &mut Queue<T> {
        &mut state.senders
    }

    /// The message was sent. Or the channel was closed, and it is dropped with its sender.
    fn pass_on(&self, state: LockGuard<'_, State<T>>, message: Option<T>) {
        drop(state);
        drop(message);
    }

    fn reason(&self) -> Reason {
        Reason::shared("send to channel", self.0)
    }
}

/// Those who wait to receive.
struct Receivers<'a, T>(&'a Channel<T>);

impl<T> Line for Receivers<'_, T> {
    type State = State<T>;
    type Item = T;

    #[inline]
    fn lock(&self) -> &Lock<State<T>> {
        &self.0.state
    }

    #[inline]
    fn queue(state: &mut State<T>) -> &mut Queue<T> {
        &mut state.receivers
    }

    /// The message goes to the next, or stays the first.
    fn pass_on(&self, mut state: LockGuard<'_, State<T>>, mut message: Option<T>) {
        if message.is_none() {
            // The channel was closed, which the others have been told.
            return;
        }
        let wakeup = state.receivers.hand_over(|place| *place = message.take());
        if let Some(message) = message.take_if(|_| self.0.receivers.load(Ordering::Relaxed) > 0) {
            state.buffer.push_front(message);
        }
        drop(state);
        drop(message);
        wake(wakeup.map(|((), wakeup)| wakeup));
    }

    fn reason(&self) -> Reason {
        Reason::shared("receive from channel", self.0)
    }
}

/// The sending side of a channel. Clones are the same side; when the last is dropped, receivers get
/// what is left, and then an error.
pub struct Sender<T> {
    channel: Arc<Channel<T>>,
}

impl<T> Sender<T> {
    /// Sends a message. Waits while there is no room. May switch.
    ///
    /// # Errors
    ///
    /// The message, if no receiver is left; or if this would have to wait in a destructor that runs while its greenlet unwinds.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if it would have to wait and nothing is left that could receive.
    #[inline]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.channel.send_until(message, || NEVER).map_err(|error| SendError(error.into_inner()))
    }

    /// Sends a message if there is room for it.
    ///
    /// If there is none, the other greenlets get a turn now and then, so that a loop of attempts does not keep the
    /// receiver from running. May switch.
    ///
    /// # Errors
    ///
    /// The message, with the reason.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.channel.try_send(message)
    }

    /// Sends a message, but waits no longer than `duration` for room. May switch.
    ///
    /// # Errors
    ///
    /// The message, with the reason.
    ///
    /// # Panics
    ///
    /// As [`send`](Self::send).
    pub fn send_timeout(&self, message: T, duration: Duration) -> Result<(), SendTimeoutError<T>> {
        self.channel.send_until(message, || hub().deadline(duration))
    }

    /// How many messages are in the channel.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether there is no message in the channel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages there is room for; `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        capacity(&self.channel)
    }

    /// Whether both are of one channel.
    pub fn same_channel(&self, other: &Sender<T>) -> bool {
        Arc::ptr_eq(&self.channel, &other.channel)
    }
}

/// The receiving side of a channel. Clones are the same side: each message goes to one of them. When the last is
/// dropped, so are the messages that nobody has received, and sending fails.
///
/// With messages that are not `Send`, both sides stay on their thread:
///
/// ```compile_fail,E0277
/// let (_tx, rx) = switchgrass::channel::unbounded::<std::rc::Rc<()>>();
/// std::thread::spawn(move || rx.recv());
/// ```
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
}

impl<T> Receiver<T> {
    /// Receives a message. Waits while there is none. May switch.
    ///
    /// # Errors
    ///
    /// If the channel is empty and no sender is left; or if this would have to wait in a destructor that
    /// runs while its greenlet unwinds.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if it would have to wait and nothing is left that could send.
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        self.channel.recv_until(|| NEVER).map_err(|_| RecvError)
    }

    /// Receives a message if there is one.
    ///
    /// If there is none, the other greenlets get a turn now and then, so that a loop of attempts does not keep the
    /// sender from running. May switch.
    ///
    /// # Errors
    ///
    /// If there is none, with the reason.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.channel.try_recv()
    }

    /// Receives a message, but waits no longer than `duration` for it. May switch.
    ///
    /// # Errors
    ///
    /// If there was none, with the reason.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&self, duration: Duration) -> Result<T, RecvTimeoutError> {
        self.channel.recv_until(|| hub().deadline(duration))
    }

    /// The messages, until the channel is empty and no sender is left. Waits for each. May switch.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self)
    }

    /// The messages that are there now.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter(self)
    }

    /// How many messages are in the channel.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Whether there is no message in the channel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages there is room for; `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        capacity(&self.channel)
    }

    /// Whether both are of one channel.
    pub fn same_channel(&self, other: &Receiver<T>) -> bool {
        Arc::ptr_eq(&self.channel, &other.channel)
    }
}

fn capacity<T>(channel: &Channel<T>) -> Option<usize> {
    let capacity = channel.state.lock().capacity;
    (capacity != usize::MAX).then_some(capacity)
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.channel.senders.fetch_add(1, Ordering::Relaxed);
        Sender { channel: Arc::clone(&self.channel) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.channel.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.channel.close(false);
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.channel.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver { channel: Arc::clone(&self.channel) }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.channel.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.channel.close(true);
        }
    }
}

// No panic leaves a channel half-changed: messages are made and dropped outside of its lock. As with std's.
impl<T> UnwindSafe for Sender<T> {}
impl<T> RefUnwindSafe for Sender<T> {}
impl<T> UnwindSafe for Receiver<T> {}
impl<T> RefUnwindSafe for Receiver<T> {}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.describe(f.debug_struct("Sender"))
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.channel.describe(f.debug_struct("Receiver"))
    }
}

impl<T> Channel<T> {
    fn describe(&self, mut out: fmt::DebugStruct<'_, '_>) -> fmt::Result {
        let state = self.state.lock();
        out.field("messages", &state.buffer.len())
            .field("sending", &state.senders.len())
            .field("receiving", &state.receivers.len())
            .finish_non_exhaustive()
    }
}

/// See [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    #[inline(always)]
    fn next(&mut self) -> Option<T> {
        self.0.channel.recv_until(|| NEVER).ok()
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

/// See [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

/// The messages of a [`Receiver`] that was given up for them.
#[derive(Debug)]
pub struct IntoIter<T>(Receiver<T>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    #[inline(always)]
    fn next(&mut self) -> Option<T> {
        self.0.channel.recv_until(|| NEVER).ok()
    }
}

impl<T> FusedIterator for IntoIter<T> {}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

/// What [`Sender::send_timeout`] gives back if the message was not sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendTimeoutError<T> {
    /// There was no room in time.
    Timeout(T),
    /// No receiver is left.
    Disconnected(T),
}

impl<T> SendTimeoutError<T> {
    /// The message.
    pub fn into_inner(self) -> T {
        match self {
            SendTimeoutError::Timeout(message) | SendTimeoutError::Disconnected(message) => message,
        }
    }
}

impl<T> fmt::Debug for SendTimeoutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendTimeoutError::Timeout(_) => "Timeout(..)",
            SendTimeoutError::Disconnected(_) => "Disconnected(..)",
        })
    }
}

impl<T> fmt::Display for SendTimeoutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendTimeoutError::Timeout(_) => "there was no room in the channel in time",
            SendTimeoutError::Disconnected(_) => "sending on a channel without receivers",
        })
    }
}

impl<T> std::error::Error for SendTimeoutError<T> {}
