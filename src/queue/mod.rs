//! Queues for work: gevent's `Queue`, `PriorityQueue` and `LifoQueue`.
//!
//! Unlike a [channel](crate::channel) a queue is one object, used through `&self`: in an `Rc`, an `Arc`, a `static`, or
//! borrowed in a [scope](crate::scope()). It knows which of its items are still being worked on
//! ([`join`](QueueOf::join)), can be looked into ([`peek`](QueueOf::peek)), gets another capacity at any time, and is
//! ended by [`shutdown`](QueueOf::shutdown).
//!
//! Queues work between the greenlets of one hub, between hubs, and with plain OS threads. Who waits is
//! served in the order of coming. An item that was on its way to a greenlet which is killed goes to the
//! next, or back to where it was.
//!
//! ```
//! use switchgrass::{queue::Queue, scope};
//!
//! let jobs = Queue::bounded(2);
//! let done = Queue::unbounded();
//! scope(|s| {
//!     for _ in 0..3 {
//!         s.spawn(|| {
//!             for n in &jobs {            // until the shutdown
//!                 done.put(n * n).unwrap();
//!                 jobs.task_done();
//!             }
//!         });
//!     }
//!     for n in 1..=10 {
//!         jobs.put(n).unwrap();           // waits while there are two
//!     }
//!     jobs.join();                        // all of them are done
//!     jobs.shutdown();
//! });
//! assert_eq!(done.shutdown_now().iter().sum::<i32>(), 385);
//! ```

#![forbid(unsafe_code)]

mod store;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::Duration;

pub use self::store::Heap;
use self::store::Keep;
use crate::hub::{be_fair, hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::lock::{Lock, LockGuard};
use crate::task::{Reason, Wakeup, WatchSet, Watcher};
use crate::wait::{self, Line, Outcome, wait};

/// A queue that gives out first what was put first. All its methods are those of [`QueueOf`].
#[doc(alias("JoinableQueue", "SimpleQueue"))]
pub type Queue<T> = QueueOf<T, VecDeque<T>>;

/// A queue that gives out the smallest first, as gevent's and Python's do, and of equal items the one that was put
/// first. All its methods are those of [`QueueOf`].
///
/// Where the greatest is to be first, put `std::cmp::Reverse(item)`.
///
/// An item that is put while somebody waits goes to that one, whatever is put later. Items are compared under
/// the lock of the queue, so their `Ord` must not wait, nor use the queue. If it panics, it is not specified
/// which items are in the queue then.
///
/// ```
/// use switchgrass::queue::PriorityQueue;
///
/// let queue = PriorityQueue::unbounded();
/// for job in [(2, "sweep"), (1, "cook"), (2, "mop")] {
///     queue.put(job).unwrap();
/// }
/// assert_eq!(queue.get(), Ok((1, "cook")));
/// ```
pub type PriorityQueue<T> = QueueOf<T, Heap<T>>;

/// A queue that gives out first what was put last. All its methods are those of [`QueueOf`].
pub type LifoQueue<T> = QueueOf<T, Vec<T>>;

/// How a queue keeps its items: the standard collections, and [`Heap`]. Not to be implemented elsewhere.
#[expect(private_bounds, reason = "so that nobody else implements it")]
pub trait Store<T>: Keep<T> {}

impl<T, S: Keep<T>> Store<T> for S {}

/// A queue over one of the stores: see [`Queue`], [`PriorityQueue`] and [`LifoQueue`].
pub struct QueueOf<T, S: Store<T>> {
    state: Lock<State<T, S>>,
}

/// # Invariants
///
/// Between two sections under the lock:
/// - nobody waits in `getters` or `peekers` while there is an item;
/// - nobody waits in `getters` while somebody waits in `putters`;
/// - nobody waits in `putters` while there is room;
/// - nobody waits, but in `joiners`, once the queue was shut down, unless to get what is there.
pub(crate) struct State<T, S> {
    store: S,
    capacity: usize,
    phase: Phase,
    /// Items that were put, and are not done.
    unfinished: usize,
    /// The item is what is put. It is still there when a shutdown ends the wait.
    putters: wait::Queue<T>,
    /// The item is where one is put. None is put there when a shutdown ends the wait.
    getters: wait::Queue<T>,
    /// Those who wait for an item to look at. They look again when they were woken.
    peekers: wait::Queue<()>,
    joiners: wait::Queue<()>,
    watchers: Vec<Watcher>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Shut down. What is there can still be had.
    Draining,
    /// Shut down, and what was there was dropped.
    Over,
}

/// Wakes when it is dropped: behind the lock, if it can be; but always.
struct Chosen(Option<Wakeup>);

impl Drop for Chosen {
    #[inline]
    fn drop(&mut self) {
        if let Some(wakeup) = self.0.take() {
            wakeup.wake();
        }
    }
}

impl<T, S: Store<T>> State<T, S> {
    /// Lets an item in, if there is room or somebody waits for it.
    #[inline]
    fn admit(&mut self, item: &mut Option<T>) -> Option<Chosen> {
        if let Some(((), wakeup)) = self.getters.hand_over(|place| *place = item.take()) {
            self.unfinished += 1;
            return Some(Chosen(Some(wakeup)));
        }
        if self.store.len() < self.capacity {
            self.store.push(item.take()?);
            self.unfinished += 1;
            self.tell();
            return Some(Chosen(None));
        }
        None
    }

    /// The next item; and the first of those who wait to put one moves up.
    #[inline]
    fn take(&mut self) -> Option<(T, Chosen)> {
        if let Some(item) = self.store.pop() {
            return Some((item, self.refill().unwrap_or(Chosen(None))));
        }
        // Only of a queue without any room: else they would be in.
        let (item, wakeup) = self.putters.hand_over(Option::take)?;
        self.unfinished += 1;
        Some((item?, Chosen(Some(wakeup))))
    }

    /// If there is room, the first of those who wait for it gets it.
    #[inline]
    fn refill(&mut self) -> Option<Chosen> {
        if self.store.len() >= self.capacity {
            return None;
        }
        let (item, wakeup) = self.putters.hand_over(Option::take)?;
        let chosen = Chosen(Some(wakeup));
        self.store.push(item?);
        self.unfinished += 1;
        self.tell();
        Some(chosen)
    }

    /// There is an item to look at, or will never be.
    fn tell(&mut self) {
        while let Some(((), wakeup)) = self.peekers.hand_over(|_| ()) {
            wakeup.wake();
        }
        self.tell_watchers();
    }

    fn tell_watchers(&mut self) {
        self.watchers.drain(..).for_each(|watcher| watcher.notify());
    }

    /// `count` tasks are done, or will not be done any more.
    fn done(&mut self, count: usize) {
        self.unfinished = self.unfinished.saturating_sub(count);
        if self.unfinished == 0 {
            while let Some(((), wakeup)) = self.joiners.hand_over(|_| ()) {
                wakeup.wake();
            }
        }
    }

    fn shut_down(&mut self, phase: Phase) {
        self.phase = phase;
        while let Some(((), wakeup)) = self.getters.hand_over(|_| ()) {
            wakeup.wake();
        }
        while let Some(((), wakeup)) = self.putters.hand_over(|_| ()) {
            wakeup.wake();
        }
        self.tell();
    }

    /// Whether a get would not wait.
    fn is_ready(&self) -> bool {
        self.store.len() > 0 || !self.putters.is_empty() || self.phase != Phase::Open
    }
}

impl<T, S: Store<T>> QueueOf<T, S> {
    /// An empty queue with room for `capacity` items. Without any room (0), a put waits until somebody gets the item.
    #[doc(alias = "maxsize")]
    pub const fn bounded(capacity: usize) -> Self {
        QueueOf {
            state: Lock::new(State {
                store: S::EMPTY,
                capacity,
                phase: Phase::Open,
                unfinished: 0,
                putters: wait::Queue::new(),
                getters: wait::Queue::new(),
                peekers: wait::Queue::new(),
                joiners: wait::Queue::new(),
                watchers: Vec::new(),
            }),
        }
    }

    /// An empty queue in which a put never waits. What is not fetched takes memory.
    pub const fn unbounded() -> Self {
        Self::bounded(usize::MAX)
    }

    /// Puts an item in. Waits in line while there is no room. May switch.
    ///
    /// Killed while it waits, it has put nothing.
    ///
    /// # Errors
    ///
    /// The item: [`ShutDown`](PutError::ShutDown) if the queue was shut down, before or meanwhile;
    /// [`Full`](PutError::Full) only if this would have to wait in a destructor that runs while its greenlet unwinds.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if it has to wait and nothing is left that could make room.
    #[inline]
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_until(item, || NEVER)
    }

    /// Puts an item in, but waits no longer than `duration` for room. May switch.
    ///
    /// # Errors
    ///
    /// The item: [`Full`](PutError::Full) if there was no room in time, or if the queue was shut down, that.
    ///
    /// # Panics
    ///
    /// As [`put`](Self::put).
    pub fn put_timeout(&self, item: T, duration: Duration) -> Result<(), PutError<T>> {
        self.put_until(item, || hub().deadline(duration))
    }

    /// Puts an item in if there is room, or somebody waits for it.
    ///
    /// If not, the other greenlets get a turn now and then, so that a loop of attempts does not keep those from running
    /// that would make room. May switch.
    ///
    /// # Errors
    ///
    /// The item, with the reason.
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        let mut item = Some(item);
        let mut state = self.state.lock();
        let is_open = state.phase == Phase::Open;
        let _chosen = if is_open { state.admit(&mut item) } else { None };
        drop(state);
        match item {
            None => Ok(()),
            Some(item) if is_open => {
                be_fair();
                Err(PutError::Full(item))
            }
            Some(item) => Err(PutError::ShutDown(item)),
        }
    }

    #[inline]
    fn put_until(&self, item: T, deadline: impl FnOnce() -> Nanos) -> Result<(), PutError<T>> {
        let mut item = Some(item);
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            if let Some(_chosen) = state.admit(&mut item) {
                drop(state);
                return Ok(());
            }
            // Of a queue without room, the item can be had from now on.
            state.tell_watchers();
            match wait(&Putters(self), state, item, deadline()) {
                Outcome::Chosen(None) => return Ok(()),
                Outcome::Chosen(back) => item = back,
                Outcome::TimedOut(back) | Outcome::Unwinding(back) => {
                    return Err(PutError::Full(back.expect("nobody has taken it")));
                }
            }
        }
        Err(PutError::ShutDown(item.expect("nobody has taken it")))
    }

    /// Takes the next item out. Waits in line while there is none. May switch.
    ///
    /// Killed while it waits, it has taken nothing.
    ///
    /// # Errors
    ///
    /// [`ShutDown`](GetError::ShutDown) if the queue was shut down, before or meanwhile, and nothing is left;
    /// [`Empty`](GetError::Empty) only if this would have to wait in a destructor that runs while its greenlet unwinds.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if it has to wait and nothing is left that could put an item in.
    #[inline]
    pub fn get(&self) -> Result<T, GetError> {
        self.get_until(|| NEVER)
    }

    /// Takes the next item out, but waits no longer than `duration` for one. May switch.
    ///
    /// # Errors
    ///
    /// [`Empty`](GetError::Empty) if there was none in time; [`ShutDown`](GetError::ShutDown) as for [`get`](Self::get).
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    pub fn get_timeout(&self, duration: Duration) -> Result<T, GetError> {
        self.get_until(|| hub().deadline(duration))
    }

    /// Takes the next item out if there is one.
    ///
    /// If there is none, the other greenlets get a turn now and then, so that a loop of attempts does not keep those
    /// from running that would put one in. May switch.
    ///
    /// # Errors
    ///
    /// Why there is none.
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError> {
        let mut state = self.state.lock();
        if let Some((item, _chosen)) = state.take() {
            drop(state);
            return Ok(item);
        }
        self.nothing(state)
    }

    #[inline]
    fn get_until(&self, deadline: impl FnOnce() -> Nanos) -> Result<T, GetError> {
        // A queue that another thread keeps full must not keep this one's other greenlets from running.
        be_fair();
        let mut state = self.state.lock();
        if let Some((item, _chosen)) = state.take() {
            drop(state);
            return Ok(item);
        }
        if state.phase != Phase::Open {
            return Err(GetError::ShutDown);
        }
        match wait(&Getters(self), state, None, deadline()) {
            Outcome::Chosen(Some(item)) => Ok(item),
            Outcome::Chosen(None) => Err(GetError::ShutDown),
            Outcome::TimedOut(_) | Outcome::Unwinding(_) => Err(GetError::Empty),
        }
    }

    fn nothing<R>(&self, state: LockGuard<'_, State<T, S>>) -> Result<R, GetError> {
        let phase = state.phase;
        drop(state);
        if phase != Phase::Open {
            return Err(GetError::ShutDown);
        }
        be_fair();
        Err(GetError::Empty)
    }

    /// A copy of what [`get`](Self::get) would take, which stays in the queue. Waits while there is nothing in it. May switch.
    ///
    /// Those who wait to *get* come first: an item that goes to one of them has never been in the queue. Nor
    /// has one that is put where there is no room. The copy is made under the lock of the queue, so `clone`
    /// must not wait, nor use the queue.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    pub fn peek(&self) -> Result<T, GetError>
    where
        T: Clone,
    {
        self.peek_until(NEVER)
    }

    /// As [`peek`](Self::peek), but waits no longer than `duration`. May switch.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Self::get_timeout).
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get).
    pub fn peek_timeout(&self, duration: Duration) -> Result<T, GetError>
    where
        T: Clone,
    {
        self.peek_until(hub().deadline(duration))
    }

    /// As [`peek`](Self::peek), if there is something in the queue. If not, the other greenlets get a
    /// turn now and then. May switch.
    ///
    /// # Errors
    ///
    /// Why there is nothing.
    #[doc(alias = "peek_nowait")]
    pub fn try_peek(&self) -> Result<T, GetError>
    where
        T: Clone,
    {
        let state = self.state.lock();
        if let Some(item) = state.store.first() {
            return Ok(item.clone());
        }
        self.nothing(state)
    }

    fn peek_until(&self, deadline: Nanos) -> Result<T, GetError>
    where
        T: Clone,
    {
        loop {
            let state = self.state.lock();
            if let Some(item) = state.store.first() {
                return Ok(item.clone());
            }
            if state.phase != Phase::Open {
                return Err(GetError::ShutDown);
            }
            if !wait(&Peekers(self), state, None, deadline).is_chosen() {
                return Err(GetError::Empty);
            }
        }
    }

    /// The items, each taken out by a [`get`](Self::get), until the queue was shut down and is empty. Each `next` may switch.
    ///
    /// (It also ends where a `get` would have to wait and cannot, since its greenlet unwinds.)
    pub fn iter(&self) -> Iter<'_, T, S> {
        Iter(self)
    }

    /// How many items are in the queue.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.state.lock().store.len()
    }

    /// Whether no item is in the queue.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a put would have to wait, if nobody waits to get.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.store.len() >= state.capacity
    }

    /// How many items it has room for. `None`: as many as there is memory for.
    pub fn capacity(&self) -> Option<usize> {
        let capacity = self.state.lock().capacity;
        (capacity != usize::MAX).then_some(capacity)
    }

    /// Sets how many items it has room for; `None`: as many as there is memory for. Does not switch.
    ///
    /// With more room, those who wait to put move up at once. With less, what is there stays.
    #[doc(alias = "maxsize")]
    pub fn set_capacity(&self, capacity: Option<usize>) {
        let mut state = self.state.lock();
        state.capacity = capacity.unwrap_or(usize::MAX);
        while state.refill().is_some() {}
    }

    /// How many wait to put an item in. Takes time in proportion.
    pub fn putting(&self) -> usize {
        self.state.lock().putters.len()
    }

    /// How many wait to get an item, or to look at one. Takes time in proportion.
    pub fn getting(&self) -> usize {
        let state = self.state.lock();
        state.getters.len() + state.peekers.len()
    }

    /// Tells that the work on an item that was taken out is done, for [`join`](Self::join). Does not switch.
    ///
    /// # Panics
    ///
    /// If it is called more often than items were put in.
    pub fn task_done(&self) {
        let mut state = self.state.lock();
        if state.unfinished == 0 {
            drop(state);
            panic!("task_done() was called more often than items were put into the queue");
        }
        state.done(1);
    }

    /// How many items were put in whose work is not done: each counts until [`task_done`](Self::task_done) is called for it.
    #[doc(alias = "unfinished_tasks")]
    pub fn unfinished(&self) -> usize {
        self.state.lock().unfinished
    }

    /// Waits until the work on all items is done, that is, [`task_done`](Self::task_done) was called as often as items
    /// were put in; not at all if that is so. May switch.
    ///
    /// `false` only in a destructor that runs while its greenlet unwinds, where nothing can wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could do the work.
    pub fn join(&self) -> bool {
        self.join_until(NEVER)
    }

    /// As [`join`](Self::join), but no longer than `duration`; whether all was done. May switch.
    ///
    /// # Panics
    ///
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, duration: Duration) -> bool {
        self.join_until(hub().deadline(duration))
    }

    fn join_until(&self, deadline: Nanos) -> bool {
        let state = self.state.lock();
        state.unfinished == 0 || wait(&Joiners(self), state, None, deadline).is_chosen()
    }

    /// Lets nobody put an item in any more. What is in the queue can still be had; after that, who gets is told. Those
    /// who wait to put have their items given back. Does not switch.
    pub fn shutdown(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.shut_down(Phase::Draining);
        }
    }

    /// As [`shutdown`](Self::shutdown), and takes out what is in the queue, in the order in which it would have gone.
    /// No work is expected on that any more. Does not switch.
    ///
    /// An item that is on its way to a greenlet which is killed before it could take it is dropped.
    pub fn shutdown_now(&self) -> Vec<T> {
        let mut state = self.state.lock();
        if state.phase != Phase::Over {
            state.shut_down(Phase::Over);
        }
        let mut left = std::mem::replace(&mut state.store, S::EMPTY);
        state.done(left.len());
        drop(state);
        std::iter::from_fn(|| left.pop()).collect()
    }

    /// Whether it was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.state.lock().phase != Phase::Open
    }

    /// Has `watcher` told when a get would not wait.
    pub(crate) fn watch(&self, watcher: Watcher) {
        let mut state = self.state.lock();
        if state.is_ready() {
            drop(state);
            watcher.notify();
        } else {
            state.watchers.push(watcher);
        }
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        self.state.lock().watchers.retain(|watcher| !watcher.is_of(set));
    }
}

impl<T, S: Store<T>> FromIterator<T> for QueueOf<T, S> {
    /// An unbounded queue with these items in it.
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let queue = QueueOf::unbounded();
        for item in items {
            let put = queue.try_put(item);
            debug_assert!(put.is_ok(), "it has room for all");
        }
        queue
    }
}

impl<T, S: Store<T>> fmt::Debug for QueueOf<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Queue")
            .field("len", &state.store.len())
            .field("unfinished", &state.unfinished)
            .field("putting", &state.putters.len())
            .field("getting", &(state.getters.len() + state.peekers.len()))
            .finish_non_exhaustive()
    }
}

/// See [`QueueOf::iter`].
pub struct Iter<'a, T, S: Store<T>>(&'a QueueOf<T, S>);

impl<T, S: Store<T>> Iterator for Iter<'_, T, S> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.get().ok()
    }
}

impl<T, S: Store<T>> FusedIterator for Iter<'_, T, S> {}

impl<T, S: Store<T>> fmt::Debug for Iter<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Iter").field(self.0).finish()
    }
}

impl<'a, T, S: Store<T>> IntoIterator for &'a QueueOf<T, S> {
    type Item = T;
    type IntoIter = Iter<'a, T, S>;

    fn into_iter(self) -> Iter<'a, T, S> {
        self.iter()
    }
}

/// Those who wait for room.
struct Putters<'a, T, S: Store<T>>(&'a QueueOf<T, S>);

impl<T, S: Store<T>> Line for Putters<'_, T, S> {
    type State = State<T, S>;
    type Item = T;

    #[inline]
    fn lock(&self) -> &Lock<State<T, S>> {
        &self.0.state
    }

    #[inline]
    fn queue(state: &mut State<T, S>) -> &mut wait::Queue<T> {
        &mut state.putters
    }

    /// The item is in. Or the queue was shut down, and it is dropped with its putter.
    fn pass_on(&self, state: LockGuard<'_, State<T, S>>, item: Option<T>) {
        drop(state);
        drop(item);
    }

    fn reason(&self) -> Reason {
        Reason::shared("put into queue", self.0)
    }
}

/// Those who wait for an item.
struct Getters<'a, T, S: Store<T>>(&'a QueueOf<T, S>);

impl<T, S: Store<T>> Line for Getters<'_, T, S> {
    type State = State<T, S>;
    type Item = T;

    #[inline]
    fn lock(&self) -> &Lock<State<T, S>> {
        &self.0.state
    }

    #[inline]
    fn queue(state: &mut State<T, S>) -> &mut wait::Queue<T> {
        &mut state.getters
    }

    /// The item goes to the next, or back to where it would have been.
    fn pass_on(&self, mut state: LockGuard<'_, State<T, S>>, mut item: Option<T>) {
        if item.is_none() {
            // It was shut down, which the others were told, too.
            return;
        }
        let chosen = state.getters.hand_over(|place| *place = item.take());
        let _chosen = Chosen(chosen.map(|((), wakeup)| wakeup));
        if state.phase == Phase::Over {
            state.done(1);
        } else if let Some(item) = item.take() {
            state.store.put_back(item);
            state.tell();
        }
        drop(state);
        drop(item);
    }

    fn reason(&self) -> Reason {
        Reason::shared("get from queue", self.0)
    }
}

/// Those who wait for an item to look at.
struct Peekers<'a, T, S: Store<T>>(&'a QueueOf<T, S>);

impl<T, S: Store<T>> Line for Peekers<'_, T, S> {
    type State = State<T, S>;
    type Item = ();

    fn lock(&self) -> &Lock<State<T, S>> {
        &self.0.state
    }

    fn queue(state: &mut State<T, S>) -> &mut wait::Queue<()> {
        &mut state.peekers
    }

    /// All are told anyway.
    fn pass_on(&self, _: LockGuard<'_, State<T, S>>, _: Option<()>) {}

    fn reason(&self) -> Reason {
        Reason::shared("peek at queue", self.0)
    }
}

/// Those who wait until the work is done.
struct Joiners<'a, T, S: Store<T>>(&'a QueueOf<T, S>);

impl<T, S: Store<T>> Line for Joiners<'_, T, S> {
    type State = State<T, S>;
    type Item = ();

    fn lock(&self) -> &Lock<State<T, S>> {
        &self.0.state
    }

    fn queue(state: &mut State<T, S>) -> &mut wait::Queue<()> {
        &mut state.joiners
    }

    /// All are told anyway.
    fn pass_on(&self, _: LockGuard<'_, State<T, S>>, _: Option<()>) {}

    fn reason(&self) -> Reason {
        Reason::shared("join of queue", self.0)
    }
}

/// Why an item could not be put in; and the item.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PutError<T> {
    /// There is no room.
    Full(T),
    /// The queue was shut down.
    ShutDown(T),
}

impl<T> PutError<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            PutError::Full(item) | PutError::ShutDown(item) => item,
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PutError::Full(_) => "Full(..)",
            PutError::ShutDown(_) => "ShutDown(..)",
        })
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PutError::Full(_) => "there is no room in the queue",
            PutError::ShutDown(_) => "nothing can be put into a queue that was shut down",
        })
    }
}

impl<T> Error for PutError<T> {}

/// Why there is no item to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetError {
    /// There is none now.
    Empty,
    /// There is none, and the queue was shut down.
    ShutDown,
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GetError::Empty => "nothing is in the queue",
            GetError::ShutDown => "the queue was shut down, and nothing is left in it",
        })
    }
}

impl Error for GetError {}
