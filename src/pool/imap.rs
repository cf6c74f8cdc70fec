//! Iterators over what greenlets make of the items of another iterator.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::iter::{Fuse, FusedIterator};
use std::rc::Rc;
use std::time::Duration;

use super::{Members, Place, own_id};
use crate::coro::unwind::{self, Payload};
use crate::greenlet::{Greenlet, kill_nowait, wait_for};
use crate::hub::{ScopeExpired, hub};
use crate::queue::Queue;
use crate::sys::clock::NEVER;
use crate::task::{GreenletExit, Reason, TaskRef};

/// Items on their way to greenlets.
pub(super) struct Feed<I: Iterator, F> {
    members: Rc<Members>,
    items: Fuse<I>,
    /// An item that was taken, and has no slot yet.
    held: Option<I::Item>,
    f: Rc<F>,
}

impl<I: Iterator<Item: 'static>, F> Feed<I, F> {
    pub(super) fn new(members: &Rc<Members>, items: I, f: F) -> Self {
        Feed { members: Rc::clone(members), items: items.fuse(), held: None, f: Rc::new(f) }
    }

    /// How many may be on their way, or wait to be given out.
    fn limit(&self) -> usize {
        // At least the one to wait with, where there is no slot at all.
        self.members.slots.as_ref().map_or(usize::MAX, |slots| slots.size.max(1))
    }

    /// Starts on the next item. If all slots are taken: waits for one if it `must`, or else does nothing. `None`
    /// also if there is no more item.
    ///
    /// What `at_end` makes is dropped when the greenlet ends, however it does.
    fn start<T, D>(&mut self, must: bool, at_end: impl FnOnce() -> D) -> Option<Pending<T>>
    where
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
        D: 'static,
    {
        if self.held.is_none() {
            self.held = Some(self.items.next()?);
        }
        let place = if hub().may_suspend(Reason::new("imap")).is_err() {
            None
        } else {
            match Place::free(&self.members) {
                None if !must => return None,
                // It would wait for its own slot, perhaps.
                None if self.members.has(own_id()) => None,
                None => Place::within(&self.members, Duration::MAX),
                free => free,
            }
        };
        let (item, f, at_end) = (self.held.take()?, Rc::clone(&self.f), at_end());
        let work = move || {
            let _at_end = at_end;
            f(item)
        };
        Some(match place {
            Some(place) => Pending::Running(Worker::new(self.members.launch(place, work))),
            None => Pending::Done(in_place(work)),
        })
    }
}

/// One item that was started on.
enum Pending<T> {
    Running(Worker<T>),
    /// There was no slot, nor a way to wait for one.
    Done(Result<T, Payload>),
}

impl<T> Pending<T> {
    /// Waits for the end. If that is interrupted, it goes on.
    fn wait(&self) {
        if let Pending::Running(Worker { greenlet, .. }) = self
            && !greenlet.is_ready()
        {
            greenlet.wait_privately();
        }
    }

    fn result(self) -> Result<T, Payload> {
        match self {
            Pending::Running(worker) => worker.result(),
            Pending::Done(result) => result,
        }
    }
}

/// As a greenlet would run it; but a kill or a timeout that comes meanwhile is the caller's.
fn in_place<T>(f: impl FnOnce() -> T) -> Result<T, Payload> {
    match unwind::catch(f) {
        Err(payload) if payload.is::<GreenletExit>() || payload.is::<ScopeExpired>() => {
            unwind::raise(payload)
        }
        result => result,
    }
}

/// A greenlet whose result only we want: without us, it is killed.
pub(super) struct Worker<T> {
    greenlet: Greenlet<T>,
    leash: Leash,
}

struct Leash(TaskRef);

impl Drop for Leash {
    fn drop(&mut self) {
        // Where nothing can be killed, it goes on.
        if unwind::is_possible() {
            kill_nowait(&self.0);
        }
    }
}

impl<T> Worker<T> {
    pub(super) fn new(greenlet: Greenlet<T>) -> Self {
        let leash = Leash(greenlet.task().clone());
        Worker { greenlet, leash }
    }

    /// If that is interrupted, it is killed.
    pub(super) fn result(self) -> Result<T, Payload> {
        let Worker { greenlet, leash: _leash } = self;
        greenlet.join()
    }
}

/// Kills them, and waits until they have ended, if it can wait.
fn end<'a, T: 'a>(pending: impl Iterator<Item = &'a Pending<T>> + Clone) {
    let workers = pending.filter_map(|pending| match pending {
        Pending::Running(worker) => Some(&worker.leash.0),
        Pending::Done(_) => None,
    });
    if unwind::is_possible() {
        workers.clone().for_each(kill_nowait);
        // In the loop there is nobody who could wait.
        if !hub().in_the_loop() {
            for worker in workers {
                wait_for(worker, NEVER);
            }
        }
    }
}

/// The results of [`Group::imap`](super::Group::imap) and [`Pool::imap`](super::Pool::imap), in the order of the items.
///
/// It does something only when it is asked for a result, which may switch. Of a pool of `size` slots, it never has more
/// than `size` items that are being worked on, or whose results were not asked for yet, and one that waits for a slot.
///
/// A panic in `f` is the `Err` of its item, as is the kill of its greenlet; the iteration goes on. A panic of the
/// iterator that gives the items is a panic here.
///
/// If all slots are taken by others, it waits for one; but not if it is itself used by a greenlet of the pool: then it
/// calls `f` in place. (Killed with a payload of one's own meanwhile, that greenlet takes it for a panic of `f`.)
///
/// Nothing is lost if a kill or a timeout interrupts `next`: it can be called again. **Dropping** it kills the
/// greenlets whose results were not given out, and waits until they have ended (in a destructor that runs while its
/// greenlet unwinds: without waiting).
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Imap<I: Iterator, F, T> {
    feed: Feed<I, F>,
    pending: VecDeque<Pending<T>>,
}

impl<I: Iterator, F, T> Imap<I, F, T> {
    pub(super) fn new(feed: Feed<I, F>) -> Self {
        Imap { feed, pending: VecDeque::new() }
    }
}

impl<I, F, T> Iterator for Imap<I, F, T>
where
    I: Iterator<Item: 'static>,
    F: Fn(I::Item) -> T + 'static,
    T: 'static,
{
    type Item = Result<T, Payload>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.pending.len() < self.feed.limit() {
            match self.feed.start(self.pending.is_empty(), || ()) {
                Some(pending) => self.pending.push_back(pending),
                None => break,
            }
        }
        self.pending.front()?.wait();
        self.pending.pop_front().map(Pending::result)
    }
}

impl<I, F, T> FusedIterator for Imap<I, F, T>
where
    I: Iterator<Item: 'static>,
    F: Fn(I::Item) -> T + 'static,
    T: 'static,
{
}

impl<I: Iterator, F, T> Drop for Imap<I, F, T> {
    fn drop(&mut self) {
        end(self.pending.iter());
    }
}

impl<I: Iterator, F, T> fmt::Debug for Imap<I, F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

/// The results of [`Group::imap_unordered`](super::Group::imap_unordered) and
/// [`Pool::imap_unordered`](super::Pool::imap_unordered), in the order in which they come. All else is as for [`Imap`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct ImapUnordered<I: Iterator, F, T> {
    feed: Feed<I, F>,
    pending: BTreeMap<u64, Pending<T>>,
    /// The number of the next.
    next: u64,
    /// The numbers of those that have ended, or are about to.
    ended: Rc<Queue<u64>>,
}

/// Puts a number into a queue when it is dropped.
struct Report {
    number: u64,
    ended: Rc<Queue<u64>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        // It has room for all, and is never shut down.
        let _ = self.ended.put(self.number);
    }
}

impl<I: Iterator, F, T> ImapUnordered<I, F, T> {
    pub(super) fn new(feed: Feed<I, F>) -> Self {
        ImapUnordered { feed, pending: BTreeMap::new(), next: 0, ended: Rc::new(Queue::unbounded()) }
    }
}

impl<I, F, T> Iterator for ImapUnordered<I, F, T>
where
    I: Iterator<Item: 'static>,
    F: Fn(I::Item) -> T + 'static,
    T: 'static,
{
    type Item = Result<T, Payload>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.pending.len() < self.feed.limit() {
            let (number, ended) = (self.next, &self.ended);
            let report = || Report { number, ended: Rc::clone(ended) };
            let Some(pending) = self.feed.start(self.pending.is_empty(), report) else { break };
            self.pending.insert(number, pending);
            self.next += 1;
        }
        while !self.pending.is_empty() {
            // Taken out of the queue after it was waited for: that may be interrupted.
            let Ok(number) = self.ended.peek() else {
                // This unwinds. Some result says so.
                return self.pending.pop_first().map(|(_, pending)| pending.result());
            };
            if let Some(pending) = self.pending.get(&number) {
                pending.wait();
            }
            let _same = self.ended.try_get();
            if let Some(pending) = self.pending.remove(&number) {
                return Some(pending.result());
            }
        }
        None
    }
}

impl<I, F, T> FusedIterator for ImapUnordered<I, F, T>
where
    I: Iterator<Item: 'static>,
    F: Fn(I::Item) -> T + 'static,
    T: 'static,
{
}

impl<I: Iterator, F, T> Drop for ImapUnordered<I, F, T> {
    fn drop(&mut self) {
        end(self.pending.values());
    }
}

impl<I: Iterator, F, T> fmt::Debug for ImapUnordered<I, F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapUnordered").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}
