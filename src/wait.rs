//! Waiting in line: what every primitive is made of.
//!
//! A primitive keeps its state behind a [`Lock`], and in the state one [`Queue`] for each thing that can be waited for.
//! A task that has to wait puts a [`Node`], which lives on its own stack, at the end of a queue, and parks. Whoever has
//! something for it *hands it over*: takes the first node out, exchanges its item, and marks it as chosen, all under
//! the lock; then wakes its task. So nobody overtakes, and who wakes up has what it waited for and need not look again.
//!
//! ```text
//!             push                  hand_over                 wake
//!   OUT ───────────────▶ QUEUED ───────────────▶ CHOSEN ─────────────▶ the wait returns
//!                          │                        │
//!                          │ deadline, kill         │ kill: `pass_on` gives it to the next
//!                          ▼                        ▼
//!                         OUT: `gave_up` tells     OUT
//!                              the primitive
//! ```
//!
//! A `select` has a node in each of several queues, which share a [`Claim`]: who hands something over must win it first.

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::{self, NonNull};
use std::time::Duration;

use crate::hub::{Hub, Wake, hub};
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::lock::{Lock, LockGuard};
use crate::sys::sync::{AtomicU8, AtomicUsize, Cell, Ordering, UnsafeCell};
use crate::task::{Reason, Task, Wakeup};

/// Tasks that wait for the same, in the order in which they came. Belongs into what a [`Lock`] guards.
///
/// # Invariant
///
/// A node that is in a queue is alive, and is touched only under the lock of that queue.
pub(crate) struct Queue<P> {
    head: *const Node<P>,
    /// Means something only while `head` is set.
    tail: *const Node<P>,
}

// SAFETY: the nodes belong to tasks of any thread. Of a node, its item goes to another thread, which `P: Send` allows;
// the task is only woken, which any thread may; the other fields are changed under the lock only.
unsafe impl<P: Send> Send for Queue<P> {}

/// One task in one queue.
pub(crate) struct Node<P> {
    next: Cell<*const Node<P>>,
    before: Cell<*const Node<P>>,
    /// Who waits, and in which park.
    task: Cell<Option<NonNull<Task>>>,
    epoch: Cell<u32>,
    state: AtomicU8,
    /// Of a select: where it is decided which of its nodes is chosen, and the number of this one. Else null.
    claim: Cell<*const Claim>,
    number: Cell<usize>,
    /// What the two sides exchange.
    item: UnsafeCell<Option<P>>,
}

const OUT: u8 = 0;
const QUEUED: u8 = 1;
const CHOSEN: u8 = 2;

/// Which node of a select was chosen.
#[derive(Debug)]
pub(crate) struct Claim(AtomicUsize);

impl Claim {
    pub(crate) const fn new() -> Self {
        Claim(AtomicUsize::new(0))
    }

    /// Tries to be the one who chooses.
    fn win(&self, number: usize) -> bool {
        self.0.compare_exchange(0, number + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The number of the node that was chosen.
    pub(crate) fn chosen(&self) -> Option<usize> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }
}

impl<P> Node<P> {
    pub(crate) const fn new(item: Option<P>) -> Self {
        Node {
            next: Cell::new(ptr::null()),
            before: Cell::new(ptr::null()),
            task: Cell::new(None),
            epoch: Cell::new(0),
            state: AtomicU8::new(OUT),
            claim: Cell::new(ptr::null()),
            number: Cell::new(0),
            item: UnsafeCell::new(item),
        }
    }

    /// The node is for the park that `task` does next.
    fn aim(&self, task: &Task) {
        self.task.set(Some(task.ptr()));
        self.epoch.set(task.local.epoch.get());
    }

    /// Makes this node number `number` of a select. `claim` must outlive its time in a queue.
    ///
    /// # Panics
    ///
    /// If it is in a queue, or was chosen: one operation belongs to one select at a time.
    pub(crate) fn claim_by(&self, claim: &Claim, number: usize) {
        assert_eq!(self.state.load(Ordering::Relaxed), OUT, "an operation is in two selects at once");
        self.claim.set(claim);
        self.number.set(number);
    }

    #[inline]
    pub(crate) fn is_chosen(&self) -> bool {
        self.state.load(Ordering::Acquire) == CHOSEN
    }

    /// The item, once nobody else can reach the node.
    pub(crate) fn take_item(&self) -> Option<P> {
        debug_assert_ne!(self.state.load(Ordering::Relaxed), QUEUED);
        // SAFETY: the node is in no queue, so only its owner reaches it, and has no reference into it.
        unsafe { (*self.item.get()).take() }
    }

    pub(crate) fn into_item(self) -> Option<P> {
        self.take_item()
    }
}

impl<P> Queue<P> {
    pub(crate) const fn new() -> Self {
        Queue { head: ptr::null(), tail: ptr::null() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// How many wait. Takes time in proportion.
    pub(crate) fn len(&self) -> usize {
        self.len_without(None)
    }

    /// How many wait, apart from a certain select, and from those that have chosen something else already and are about to leave.
    pub(crate) fn len_without(&self, own: Option<&Claim>) -> usize {
        let own = own.map_or(ptr::null(), ptr::from_ref);
        let mut count = 0;
        let mut next = self.head;
        while !next.is_null() {
            // SAFETY: the invariant; `&self` is had under the lock.
            let node = unsafe { &*next };
            let claim = node.claim.get();
            // SAFETY: who has queued the node keeps the claim alive as long.
            let waits = claim.is_null() || claim != own && unsafe { (*claim).chosen() }.is_none();
            count += usize::from(waits);
            next = node.next.get();
        }
        count
    }

    /// Puts a node at the end, for the park that `task`, the current one, does next.
    ///
    /// # Safety
    ///
    /// The node must stay where it is until it is out again, which its owner learns under the lock, by [`Queue::remove`], or from
    /// [`Node::is_chosen`].
    pub(crate) unsafe fn push(&mut self, node: &Node<P>, task: &Task) {
        debug_assert_ne!(node.state.load(Ordering::Relaxed), QUEUED);
        node.aim(task);
        node.next.set(ptr::null());
        node.state.store(QUEUED, Ordering::Relaxed);
        if self.head.is_null() {
            node.before.set(ptr::null());
            self.head = node;
        } else {
            node.before.set(self.tail);
            // SAFETY: the invariant; the tail of a queue that is not empty is in it.
            unsafe { (*self.tail).next.set(node) };
        }
        self.tail = node;
    }

    /// As [`Queue::push`], before all others.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn push_front(&mut self, node: &Node<P>, task: &Task) {
        debug_assert_ne!(node.state.load(Ordering::Relaxed), QUEUED);
        node.aim(task);
        node.before.set(ptr::null());
        node.next.set(self.head);
        node.state.store(QUEUED, Ordering::Relaxed);
        if self.head.is_null() {
            self.tail = node;
        } else {
            // SAFETY: the invariant.
            unsafe { (*self.head).before.set(node) };
        }
        self.head = node;
    }

    /// Takes a node out, if it is in.
    pub(crate) fn remove(&mut self, node: &Node<P>) {
        if node.state.load(Ordering::Relaxed) == QUEUED {
            self.unlink(node);
            node.state.store(OUT, Ordering::Relaxed);
        }
    }

    fn unlink(&mut self, node: &Node<P>) {
        let (before, next) = (node.before.get(), node.next.get());
        // SAFETY: the invariant: neighbours of a node that is in the queue are in it, too.
        unsafe {
            match before.is_null() {
                true => self.head = next,
                false => (*before).next.set(next),
            }
            match next.is_null() {
                true => self.tail = before,
                false => (*next).before.set(before),
            }
        }
    }

    /// Takes the first node out whose task can still be reached, has `exchange` do something with its item, and
    /// chooses it. `None`: nobody waits.
    ///
    /// `exchange` is called under the lock: it moves things, and does nothing else.
    #[inline]
    pub(crate) fn hand_over<R>(&mut self, exchange: impl FnOnce(&mut Option<P>) -> R) -> Option<(R, Wakeup)> {
        self.hand_over_if(|_| true, exchange)
    }

    /// The same, if `admit` says so of the item of that node. Else it stays the first, and this gives `None`.
    #[inline]
    pub(crate) fn hand_over_if<R>(
        &mut self,
        admit: impl Fn(&Option<P>) -> bool,
        exchange: impl FnOnce(&mut Option<P>) -> R,
    ) -> Option<(R, Wakeup)> {
        while !self.head.is_null() {
            // SAFETY: the invariant. The owner may go on, and the node be gone, once its state is
            // CHOSEN: the last thing done here.
            let node = unsafe { &*self.head };
            let task = node.task.get().expect("a queued node has a task");
            // SAFETY: the task is alive: it cannot leave the wait while its node is queued, and one that
            // was given up at the end of its thread is never freed, nor is its stack. If it is of this
            // thread, it has to run to get away.
            let wakeup = unsafe { Wakeup::new(task, node.epoch.get()) };
            // SAFETY: the node is QUEUED to its owner, who leaves the item alone.
            if wakeup.is_some() && !admit(unsafe { &*node.item.get() }) {
                return None;
            }
            let next = node.next.get();
            self.head = next;
            if !next.is_null() {
                // SAFETY: as above.
                unsafe { (*next).before.set(ptr::null()) };
            }
            let claim = node.claim.get();
            // SAFETY: who has queued the node keeps the claim alive as long.
            let won = claim.is_null() || unsafe { (*claim).win(node.number.get()) };
            match wakeup {
                Some(wakeup) if won => {
                    // SAFETY: the node is still QUEUED to its owner, who leaves the item alone.
                    let result = exchange(unsafe { &mut *node.item.get() });
                    node.state.store(CHOSEN, Ordering::Release);
                    return Some((result, wakeup));
                }
                _ => node.state.store(OUT, Ordering::Release),
            }
        }
        None
    }
}

impl<P> fmt::Debug for Queue<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.len()).finish()
    }
}

impl<P> fmt::Debug for Node<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("state", &self.state).finish_non_exhaustive()
    }
}

/// One of the queues of a primitive, and how to wait in it.
pub(crate) trait Line {
    type State;
    type Item;

    fn lock(&self) -> &Lock<Self::State>;

    fn queue(state: &mut Self::State) -> &mut Queue<Self::Item>;

    /// Something was handed over to a task that is killed before it could take it: does with it
    /// what is done with what comes back.
    fn pass_on(&self, state: LockGuard<'_, Self::State>, item: Option<Self::Item>);

    /// A task that was to wait, or did, is not in line any more, and got nothing: its deadline has come, or it unwinds.
    /// Does what that makes possible for the others.
    fn gave_up(&self, _state: LockGuard<'_, Self::State>) {}

    fn reason(&self) -> Reason;
}

/// How a wait ended. What is in it is the node's item.
#[derive(Debug)]
pub(crate) enum Outcome<P> {
    /// It was handed over.
    Chosen(Option<P>),
    TimedOut(Option<P>),
    /// This task unwinds, and did not wait.
    Unwinding(Option<P>),
}

impl<P> Outcome<P> {
    pub(crate) fn is_chosen(&self) -> bool {
        matches!(self, Outcome::Chosen(_))
    }
}

/// Waits at the end of the line until something is handed over, or the deadline has come. `state` is the
/// lock, which is let go. May switch.
///
/// A kill or a timeout scope unwinds from here.
///
/// Inlined, as `Hub::suspend` wants it.
#[inline(always)]
pub(crate) fn wait<L: Line>(
    line: &L,
    mut state: LockGuard<'_, L::State>,
    item: Option<L::Item>,
    deadline: Nanos,
) -> Outcome<L::Item> {
    let hub = hub();
    if hub.is_unwinding() {
        line.gave_up(state);
        return Outcome::Unwinding(item);
    }
    if hub.refuses_to_suspend() {
        // This unwinds, or stops here for good: what others need must be free.
        line.gave_up(state);
        let _ = hub.may_suspend(line.reason());
        unreachable!("who is masked waits for its children, and for nothing else");
    }
    let node = Node::new(item);
    // SAFETY: the node stays here, and `Place` takes it out before this function is left in whichever way.
    unsafe { L::queue(&mut state).push(&node, hub.current()) };
    drop(state);
    let place = Place { line, node: &node };
    let chosen = place.wait(hub, deadline);
    let item = node.into_item();
    if chosen { Outcome::Chosen(item) } else { Outcome::TimedOut(item) }
}

/// As [`wait`] without a deadline, for what cannot fail. While the task unwinds, nothing may be switched, and this
/// blocks the OS thread: until another thread hands over, or for good, with a message, where there is none. It goes to
/// the head of the line then: those before it may be of its own thread.
pub(crate) fn insist<L: Line>(
    line: &L,
    state: LockGuard<'_, L::State>,
    item: Option<L::Item>,
) -> Option<L::Item> {
    if hub().is_unwinding() {
        return block_thread(line, state, item);
    }
    match wait(line, state, item, NEVER) {
        Outcome::Chosen(item) => item,
        Outcome::TimedOut(_) | Outcome::Unwinding(_) => unreachable!("no deadline, and not unwinding"),
    }
}

#[cold]
fn block_thread<L: Line>(
    line: &L,
    mut state: LockGuard<'_, L::State>,
    item: Option<L::Item>,
) -> Option<L::Item> {
    /// How often it is looked at. Nobody hurries here.
    const STEP: Duration = Duration::from_millis(1);
    const STEPS_UNTIL_MESSAGE: u32 = 1000;
    let task = hub().current();
    let node = Node::new(item);
    // Before those who were there first: some of them may be of this thread, and could do nothing with what they get.
    // SAFETY: the node stays here until it is chosen; nothing below unwinds.
    unsafe { L::queue(&mut state).push_front(&node, task) };
    drop(state);
    let explain = |what: &str| {
        let (title, reason) = (task.shared.title(), line.reason());
        format!(
            "{title} waits for a {reason} in a destructor while it unwinds, when nothing can be switched; {what}"
        )
    };
    let mut steps = 0;
    while !node.is_chosen() {
        // Whoever was the last other thread may have ended the wait just before it went.
        if steps == 0
            && sys::thread_count().is_some_and(|threads| threads <= 1 + crate::task::idle_workers())
            && !node.is_chosen()
        {
            sys::abort(&explain("and there is no other thread that could end the wait"));
        }
        if steps == STEPS_UNTIL_MESSAGE {
            let text = explain("so its thread is blocked until another one ends the wait");
            sys::write_stderr(format!("switchgrass: {text}\n").as_bytes());
        }
        steps = steps.saturating_add(1);
        #[expect(clippy::disallowed_methods, reason = "nothing may be switched")]
        std::thread::sleep(STEP);
    }
    // The wake is still on its way.
    hub().disregard_wakes();
    node.into_item()
}

/// A node's time in a queue.
struct Place<'a, L: Line> {
    line: &'a L,
    node: &'a Node<L::Item>,
}

impl<L: Line> Place<'_, L> {
    /// Whether it was chosen.
    #[inline(always)]
    fn wait(self, hub: &Hub, deadline: Nanos) -> bool {
        loop {
            let wake = hub.park(self.line.reason(), deadline);
            if self.node.is_chosen() {
                break;
            }
            let mut state = self.line.lock().lock();
            if self.node.is_chosen() {
                break;
            }
            if wake == Ok(Wake::Notified) {
                // By a kill that is masked, and so not delivered.
                self.node.aim(hub.current());
                continue;
            }
            L::queue(&mut state).remove(self.node);
            self.line.gave_up(state);
            std::mem::forget(self);
            return false;
        }
        std::mem::forget(self);
        true
    }
}

impl<L: Line> Drop for Place<'_, L> {
    #[cold]
    fn drop(&mut self) {
        let mut state = self.line.lock().lock();
        if self.node.is_chosen() {
            self.line.pass_on(state, self.node.take_item());
        } else {
            L::queue(&mut state).remove(self.node);
            self.line.gave_up(state);
        }
    }
}
