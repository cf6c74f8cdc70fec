//! Greenlets that belong together: gevent's `Group` and `Pool`.
//!
//! A [`Group`] knows its greenlets from their spawning to their end, and can wait for all of them, or kill them. A
//! [`Pool`] is a group that never has more than so many.
//!
//! ```
//! use switchgrass::pool::Pool;
//!
//! let pool = Pool::new(3);
//! let squares = pool.map(1..=4, |n| n * n);       // three at a time
//! assert_eq!(squares, [1, 4, 9, 16]);
//! ```
//!
//! Both belong to the thread on which they were made, as do their greenlets; so nothing that is given to them needs to be `Send`:
//!
//! ```compile_fail,E0277
//! let pool = switchgrass::pool::Pool::new(3);
//! std::thread::spawn(move || pool.join());
//! ```

#![forbid(unsafe_code)]

mod imap;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use self::imap::{Feed, Worker};
pub use self::imap::{Imap, ImapUnordered};
use crate::coro::unwind::{self, Payload};
use crate::greenlet::{Greenlet, Handle, kill, kill_nowait, spawn, wait_for};
use crate::hub::{Wake, hub};
use crate::sync::Semaphore;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{GreenletExit, Reason, TaskRef};

/// Greenlets that are waited for, or killed, together.
///
/// A greenlet is in the group until it has ended. Clones are the same group. Dropping it changes nothing for the greenlets.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use switchgrass::{pool::Group, sleep};
///
/// let group = Group::new();
/// for n in 0..3 {
///     group.spawn(move || sleep(Duration::from_millis(n)));
/// }
/// group.join();
/// assert!(group.is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Group {
    members: Rc<Members>,
}

impl Group {
    /// A group without anybody in it.
    pub fn new() -> Self {
        Group::default()
    }

    /// Spawns a greenlet in the group; see [`spawn`]. Does not switch.
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> Greenlet<T>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.members.launch(Place::of_no_slot(&self.members), f)
    }

    /// Takes a greenlet in that was spawned elsewhere, also by another thread. Does nothing if it has ended. Does not switch.
    pub fn add(&self, greenlet: &Handle) {
        self.members.add(greenlet.task());
    }

    /// Lets a greenlet out of the group, and go on. Whether it was in. Does not switch.
    pub fn discard(&self, greenlet: &Handle) -> bool {
        self.members.discard(greenlet.id())
    }

    /// How many greenlets are in the group: those that have not ended.
    pub fn len(&self) -> usize {
        self.members.sweep();
        self.members.tasks.borrow().len()
    }

    /// Whether nobody is in the group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this greenlet is in the group: it is in until it has ended.
    pub fn contains(&self, greenlet: &Handle) -> bool {
        self.members.has(greenlet.id()) && !greenlet.is_ready()
    }

    /// Those in the group now, in the order of their spawning.
    pub fn iter(&self) -> impl Iterator<Item = Handle> + use<> {
        self.members.sweep();
        let handles: Vec<_> = self.members.tasks.borrow().values().map(Handle::of).collect();
        handles.into_iter()
    }

    /// Waits until nobody is in the group, those included who join it meanwhile. At once if that is so. May switch.
    ///
    /// The results stay with the handles that [`spawn`](Self::spawn) gave. Called by a greenlet of the group,
    /// this does not wait for that one.
    ///
    /// `false` only in a destructor that runs while its greenlet unwinds, where nothing can wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if they can never end since nothing is left that could make them go on.
    pub fn join(&self) -> bool {
        self.members.wait_until_empty(NEVER)
    }

    /// As [`join`](Self::join), for no longer than `duration`; whether all have ended. May switch.
    ///
    /// # Panics
    ///
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, duration: Duration) -> bool {
        self.members.wait_until_empty(hub().deadline(duration))
    }

    /// Kills all of the group, and waits until they have ended; see [`Greenlet::kill`]. May switch.
    ///
    /// Each is killed once: one that catches its exit, and lives on, is waited for. Who joins the group meanwhile is
    /// killed at once. Called by a greenlet of the group, this kills that one last.
    ///
    /// # Panics
    ///
    /// As [`Greenlet::kill`].
    pub fn kill(&self) {
        self.members.kill_until(NEVER);
    }

    /// As [`kill`](Self::kill), but waits no longer than `duration`; whether all have ended. May switch.
    ///
    /// # Panics
    ///
    /// As [`Greenlet::kill`].
    pub fn kill_timeout(&self, duration: Duration) -> bool {
        self.members.kill_until(hub().deadline(duration))
    }

    /// Runs `f` in a greenlet of the group, and gives its result. In place, if it is a greenlet of the
    /// group that calls this. May switch.
    ///
    /// If the caller is killed or timed out while it waits, so is the greenlet.
    ///
    /// # Panics
    ///
    /// If `f` does, with the same payload. If the greenlet was killed.
    #[track_caller]
    pub fn apply<F, T>(&self, f: F) -> T
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.members.apply(f)
    }

    /// Calls `f` with each of the items, each in a greenlet of the group, and gives the results in the
    /// order of the items. May switch.
    ///
    /// # Panics
    ///
    /// If one of the greenlets panics, with its payload: the first in the order of the items. If one was killed. The
    /// greenlets of the other items are killed then.
    pub fn map<I, F, T>(&self, items: I, f: F) -> Vec<T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        self.members.map(items, f)
    }

    /// Calls `f` with each of the items, each in a greenlet of the group, and iterates over the results in the
    /// order of the items. See [`Imap`].
    ///
    /// All items are taken, and their greenlets spawned, when the first result is asked for. For less at once, use a [`Pool`].
    ///
    /// ```
    /// let group = switchgrass::pool::Group::new();
    /// let results = group.imap([5, 0, 2], |n: u32| 10 / n);
    /// # std::panic::set_hook(Box::new(|_| {}));
    /// let results: Vec<_> = results.map(Result::ok).collect();
    /// assert_eq!(results, [Some(2), None, Some(5)]);        // a panic is the result of its item
    /// ```
    pub fn imap<I, F, T>(&self, items: I, f: F) -> Imap<I::IntoIter, F, T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        Imap::new(Feed::new(&self.members, items.into_iter(), f))
    }

    /// As [`imap`](Self::imap), but gives the results in the order in which they come. See [`ImapUnordered`].
    pub fn imap_unordered<I, F, T>(&self, items: I, f: F) -> ImapUnordered<I::IntoIter, F, T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        ImapUnordered::new(Feed::new(&self.members, items.into_iter(), f))
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A [`Group`] that never has more than a certain number of greenlets: who spawns one more waits in line for a slot.
///
/// A slot becomes free when its greenlet ends, however it does, or is [discarded](Self::discard). Clones are the same
/// pool. Dropping it changes nothing for the greenlets.
///
/// A greenlet of the pool that calls [`spawn`](Self::spawn) may wait for ever, if all of them do.
/// [`apply`](Self::apply), [`map`](Self::map) and the other iterators run in place then.
///
/// # Examples
///
/// ```
/// use switchgrass::{pool::Pool, yield_now};
/// use std::{cell::Cell, rc::Rc};
///
/// let (pool, most) = (Pool::new(2), Rc::new(Cell::new(0)));
/// for _ in 0..10 {
///     let (own, most) = (pool.clone(), Rc::clone(&most));
///     pool.spawn(move || {                // waits while there are two
///         most.set(most.get().max(own.len()));
///         yield_now();
///     });
/// }
/// pool.join();
/// assert_eq!(most.get(), 2);
/// ```
#[derive(Clone)]
pub struct Pool {
    group: Group,
}

impl Pool {
    /// A pool with `size` slots. With none (0), it never runs anything.
    ///
    /// # Panics
    ///
    /// If `size` is more than [`Semaphore::MAX_PERMITS`].
    pub fn new(size: usize) -> Self {
        let slots = Some(Slots { free: Semaphore::new(size), size });
        Pool { group: Group { members: Rc::new(Members { slots, ..Members::default() }) } }
    }

    fn members(&self) -> &Rc<Members> {
        &self.group.members
    }

    fn slots(&self) -> &Slots {
        self.members().slots.as_ref().expect("a pool has slots")
    }

    /// Spawns a greenlet in the pool; see [`spawn`]. Waits in line while all slots are taken. May switch.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if it has to wait and no slot can ever become free. In a destructor that runs while
    /// its greenlet unwinds, if it would have to wait: use [`try_spawn`](Self::try_spawn) there.
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> Greenlet<T>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        match Place::within(self.members(), Duration::MAX) {
            Some(place) => self.members().launch(place, f),
            None => panic!("a greenlet that unwinds cannot wait for a slot of a full pool"),
        }
    }

    /// As [`spawn`](Self::spawn), but waits no longer than `duration` for a slot. May switch.
    ///
    /// # Errors
    ///
    /// `f`, if no slot became free in time.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if it has to wait and no slot can ever become free.
    #[track_caller]
    pub fn spawn_timeout<F, T>(&self, duration: Duration, f: F) -> Result<Greenlet<T>, PoolFull<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        match Place::within(self.members(), duration) {
            Some(place) => Ok(self.members().launch(place, f)),
            None => Err(PoolFull(f)),
        }
    }

    /// As [`spawn`](Self::spawn), if there is a free slot.
    ///
    /// If there is none, the other greenlets get a turn now and then, so that a loop of attempts does not keep the
    /// pool from running. May switch.
    ///
    /// # Errors
    ///
    /// `f`, if there is no free slot.
    #[track_caller]
    pub fn try_spawn<F, T>(&self, f: F) -> Result<Greenlet<T>, PoolFull<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        match Place::free(self.members()) {
            Some(place) => Ok(self.members().launch(place, f)),
            None => Err(PoolFull(f)),
        }
    }

    /// How many slots it has.
    pub fn size(&self) -> usize {
        self.slots().size
    }

    /// How many greenlets could be spawned now without waiting.
    pub fn free_count(&self) -> usize {
        self.slots().free.available()
    }

    /// Whether [`spawn`](Self::spawn) would have to wait.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        self.free_count() == 0
    }

    /// Waits in line until a slot is free, and leaves it to others. At once, if one is free. May switch.
    ///
    /// `false` only in a destructor that runs while its greenlet unwinds, where nothing can wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if no slot can ever become free.
    pub fn wait_available(&self) -> bool {
        self.wait_available_timeout(Duration::MAX)
    }

    /// As [`wait_available`](Self::wait_available), but no longer than `duration`; whether a slot became free. May switch.
    ///
    /// # Panics
    ///
    /// As [`wait_available`](Self::wait_available).
    pub fn wait_available_timeout(&self, duration: Duration) -> bool {
        self.slots().free.acquire_timeout(duration).is_some()
    }

    /// Lets a greenlet out of the pool, and go on. Its slot becomes free. Whether it was in. Does not switch.
    pub fn discard(&self, greenlet: &Handle) -> bool {
        self.group.discard(greenlet)
    }

    /// See [`Group::len`].
    pub fn len(&self) -> usize {
        self.group.len()
    }

    /// See [`Group::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.group.is_empty()
    }

    /// See [`Group::contains`].
    pub fn contains(&self, greenlet: &Handle) -> bool {
        self.group.contains(greenlet)
    }

    /// See [`Group::iter`].
    pub fn iter(&self) -> impl Iterator<Item = Handle> + use<> {
        self.group.iter()
    }

    /// See [`Group::join`]. Who waits for a slot is not in the pool yet. May switch.
    ///
    /// # Panics
    ///
    /// As that.
    pub fn join(&self) -> bool {
        self.group.join()
    }

    /// See [`Group::join_timeout`]. May switch.
    ///
    /// # Panics
    ///
    /// As that.
    pub fn join_timeout(&self, duration: Duration) -> bool {
        self.group.join_timeout(duration)
    }

    /// See [`Group::kill`]. May switch.
    ///
    /// # Panics
    ///
    /// As that.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// See [`Group::kill_timeout`]. May switch.
    ///
    /// # Panics
    ///
    /// As that.
    pub fn kill_timeout(&self, duration: Duration) -> bool {
        self.group.kill_timeout(duration)
    }

    /// Runs `f` in a greenlet of the pool, and gives its result. In place, if it is a greenlet of the pool that calls
    /// this: so it cannot wait for its own slot. May switch.
    ///
    /// If the caller is killed or timed out while it waits, so is the greenlet.
    ///
    /// # Panics
    ///
    /// As [`Group::apply`]. On a thread's main stack, if it has to wait and no slot can ever become free.
    #[track_caller]
    pub fn apply<F, T>(&self, f: F) -> T
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.group.apply(f)
    }

    /// See [`Group::map`]; no more at once than the pool has slots. May switch.
    ///
    /// # Panics
    ///
    /// As that. On a thread's main stack, if it has to wait and no slot can ever become free.
    pub fn map<I, F, T>(&self, items: I, f: F) -> Vec<T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        self.group.map(items, f)
    }

    /// Calls `f` with each of the items, each in a greenlet of the pool, and iterates over the results in the
    /// order of the items. See [`Imap`].
    pub fn imap<I, F, T>(&self, items: I, f: F) -> Imap<I::IntoIter, F, T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        self.group.imap(items, f)
    }

    /// As [`imap`](Self::imap), but gives the results in the order in which they come. See [`ImapUnordered`].
    pub fn imap_unordered<I, F, T>(&self, items: I, f: F) -> ImapUnordered<I::IntoIter, F, T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        self.group.imap_unordered(items, f)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("size", &self.size()).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// No slot of a [`Pool`] was free. Gives back what was to be spawned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PoolFull<F>(pub F);

impl<F> fmt::Debug for PoolFull<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolFull(..)")
    }
}

impl<F> fmt::Display for PoolFull<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no slot of the pool is free")
    }
}

impl<F> Error for PoolFull<F> {}

/// What the clones of a group share, and its greenlets.
#[derive(Default)]
struct Members {
    /// By their ids, which grow with each spawning. Those spawned here leave by themselves.
    tasks: RefCell<BTreeMap<u64, TaskRef>>,
    /// Some were added, and may have ended in here.
    has_added: Cell<bool>,
    /// When there are so many, those that have ended are taken out.
    sweep_at: Cell<usize>,
    /// How many kills are going on: who joins meanwhile is killed, too.
    kills: Cell<usize>,
    /// Of a pool.
    slots: Option<Slots>,
}

struct Slots {
    free: Semaphore,
    size: usize,
}

impl Members {
    #[track_caller]
    fn launch<F, T>(&self, place: Place, f: F) -> Greenlet<T>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let id = Rc::clone(&place.id);
        let work = Work { f, _place: place };
        let greenlet = spawn(move || work.run());
        id.set(greenlet.id());
        self.insert(greenlet.task());
        greenlet
    }

    fn insert(&self, task: &TaskRef) {
        let before = self.tasks.borrow_mut().insert(task.shared().id, task.clone());
        drop(before);
        if self.kills.get() > 0 {
            kill_nowait(task);
        }
    }

    fn add(&self, task: &TaskRef) {
        if task.shared().ended.is_set() {
            return;
        }
        self.has_added.set(true);
        if self.tasks.borrow().len() >= self.sweep_at.get() {
            self.sweep();
            self.sweep_at.set(64.max(self.tasks.borrow().len() * 2));
        }
        self.insert(task);
    }

    /// Takes those out that have ended and do not leave by themselves.
    fn sweep(&self) {
        if self.has_added.get() {
            let ended: Vec<_> =
                self.tasks.borrow_mut().extract_if(.., |_, task| task.shared().ended.is_set()).collect();
            // Outside of the borrow: a result that nobody took may be dropped here.
            drop(ended);
        }
    }

    fn has(&self, id: u64) -> bool {
        self.tasks.borrow().contains_key(&id)
    }

    fn remove(&self, id: u64) -> bool {
        let removed = self.tasks.borrow_mut().remove(&id);
        removed.is_some()
    }

    fn discard(&self, id: u64) -> bool {
        self.sweep();
        let removed = self.remove(id);
        if removed {
            self.free_a_slot();
        }
        removed
    }

    fn free_a_slot(&self) {
        if let Some(slots) = &self.slots {
            slots.free.release();
        }
    }

    /// The first that has not ended, and is not the current one.
    fn first_other(&self) -> Option<TaskRef> {
        let own = own_id();
        let mut ended = Vec::new();
        let first = self.tasks.borrow().iter().find_map(|(&id, task)| {
            if task.shared().ended.is_set() {
                // It was added. Not to be looked at again and again.
                ended.push(id);
                return None;
            }
            (id != own).then(|| task.clone())
        });
        for id in ended {
            self.remove(id);
        }
        first
    }

    fn wait_until_empty(&self, deadline: Nanos) -> bool {
        while let Some(task) = self.first_other() {
            if wait_for(&task, deadline) != Some(Wake::Notified) {
                return false;
            }
        }
        true
    }

    fn kill_until(&self, deadline: Nanos) -> bool {
        let own = own_id();
        let killing = Killing::new(&self.kills);
        let others: Vec<_> =
            self.tasks.borrow().iter().filter(|(id, _)| **id != own).map(|(_, task)| task.clone()).collect();
        others.iter().for_each(kill_nowait);
        drop(others);
        let all = self.wait_until_empty(deadline);
        drop(killing);
        if all && self.has(own) {
            kill(&hub().current().to_ref());
        }
        all
    }

    #[track_caller]
    fn apply<F, T>(self: &Rc<Self>, f: F) -> T
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        // Where nothing can wait, there is no other way either.
        if self.has(own_id()) || hub().may_suspend(Reason::new("apply")).is_err() {
            return f();
        }
        match Place::within(self, Duration::MAX) {
            Some(place) => finished(Worker::new(self.launch(place, f)).result()),
            None => f(),
        }
    }

    fn map<I, F, T>(self: &Rc<Self>, items: I, f: F) -> Vec<T>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(I::Item) -> T + 'static,
        T: 'static,
    {
        let mut results = Imap::new(Feed::new(self, items.into_iter(), f));
        let values = results.by_ref().collect::<Result<Vec<T>, Payload>>();
        // Before a panic begins to unwind: then it could not wait for those that it kills.
        drop(results);
        finished(values)
    }
}

fn own_id() -> u64 {
    hub().current().shared.id
}

/// The result of a greenlet that was worked for us, as if it had been done here.
fn finished<T>(result: Result<T, Payload>) -> T {
    match result {
        Ok(value) => value,
        // It is not the caller that was killed.
        Err(payload) if payload.is::<GreenletExit>() => {
            panic!("a greenlet of the group was killed before it had a result")
        }
        Err(payload) => unwind::raise(payload),
    }
}

/// Counts a kill while it goes on.
struct Killing<'a>(&'a Cell<usize>);

impl<'a> Killing<'a> {
    fn new(kills: &'a Cell<usize>) -> Self {
        kills.set(kills.get() + 1);
        Killing(kills)
    }
}

impl Drop for Killing<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What a greenlet of a group runs.
struct Work<F> {
    f: F,
    /// Last: it is given up when all else is gone, also if the greenlet is killed before its first run.
    _place: Place,
}

impl<F: FnOnce() -> T, T> Work<F> {
    fn run(self) -> T {
        (self.f)()
    }
}

/// The right to be in a group; in a pool, a slot.
struct Place {
    members: Rc<Members>,
    /// Of the greenlet that has it. 0: nobody yet.
    id: Rc<Cell<u64>>,
}

impl Place {
    /// In a group without a limit; or for a slot that was taken.
    fn of_no_slot(members: &Rc<Members>) -> Place {
        Place { members: Rc::clone(members), id: Rc::default() }
    }

    /// If there is a free slot, or no limit.
    fn free(members: &Rc<Members>) -> Option<Place> {
        if let Some(slots) = &members.slots {
            slots.free.try_acquire()?.forget();
        }
        Some(Place::of_no_slot(members))
    }

    /// Waits for a slot. `None`: there was none in time, or this unwinds and cannot wait.
    fn within(members: &Rc<Members>, duration: Duration) -> Option<Place> {
        if let Some(slots) = &members.slots {
            slots.free.acquire_timeout(duration)?.forget();
        }
        Some(Place::of_no_slot(members))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let id = self.id.get();
        // One that was discarded has no slot any more.
        if id == 0 || self.members.remove(id) {
            self.members.free_a_slot();
        }
    }
}
