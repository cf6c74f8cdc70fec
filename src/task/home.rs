//! Where the tasks of one hub live: the ready queue for its own thread, the inbox for all others.
//!
//! Homes are never freed, so that a task of a thread that has ended can still be asked for its home; a new
//! hub moves into an empty one. `incarnation` tells the hubs apart.

use std::alloc::Layout;
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cells::{self, Cells};
use super::inbox::Inbox;
use super::{State, Task, TaskRef};
use crate::coro::unwind::Payload;
use crate::sys::clock::Nanos;

thread_local! {
    static HERE: Cell<Option<&'static Home>> = const { Cell::new(None) };
}

/// The home of this thread's hub, if it has one.
#[inline]
pub(crate) fn here() -> Option<&'static Home> {
    HERE.get()
}

/// What another thread wants of a hub.
#[derive(Debug)]
pub(crate) enum Message {
    /// Wake the task if it is in the park of that epoch.
    Wake(TaskRef, u32),
    /// Kill it.
    Interrupt(TaskRef, Payload),
    /// `Handle::unpark`.
    Unpark(TaskRef),
    /// Start it, if it has not been started: now, or at that time.
    Start(TaskRef, Option<Nanos>),
    /// Its last handle was dropped over there.
    Unreferenced(TaskRef),
    /// A socket that was registered here was closed over there.
    Closed { slot: u32, generation: u32 },
    /// A socket that is registered here was shut down over there.
    Poke { slot: u32, generation: u32 },
}

/// See the module's head.
pub(crate) struct Home {
    /// Owner's thread only.
    ready: ReadyQueue,
    /// Owner's thread only.
    cells: Cells,
    /// Its owner is the hub that lives here.
    inbox: Inbox<Message>,
    /// What wakes the poller. Set before the hub sleeps for the first time.
    alarm: Mutex<Option<mio::Waker>>,
    thread_name: Mutex<String>,
}

// SAFETY: `ready` and `cells` are touched by the owner's thread only: `ready()` is called by code that holds a `&Task` or
// is the hub, both of which stay on that thread; `cells()` when a task is made, which is there, too, or by `free_cell`,
// which asks first. All other fields are Sync.
unsafe impl Sync for Home {}
// SAFETY: a Home is only ever shared (`&'static`); the queue in it moves with nobody.
unsafe impl Send for Home {}

static EMPTY_HOMES: Mutex<Vec<&'static Home>> = Mutex::new(Vec::new());

impl Home {
    /// A home for a new hub of this thread.
    pub(crate) fn move_in() -> &'static Home {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let home = lock(&EMPTY_HOMES).pop().unwrap_or_else(|| {
            Box::leak(Box::new(Home {
                ready: ReadyQueue::new(),
                cells: Cells::new(),
                inbox: Inbox::new(),
                alarm: Mutex::default(),
                thread_name: Mutex::default(),
            }))
        });
        let thread = std::thread::current();
        *lock(&home.thread_name) = match thread.name() {
            Some(name) => format!("'{name}' ({:?})", thread.id()),
            None => format!("{:?}", thread.id()),
        };
        home.inbox.open(NEXT.fetch_add(1, Ordering::Relaxed));
        HERE.set(Some(home));
        home
    }

    /// The hub is gone: later messages are dropped, and another thread may move in.
    pub(crate) fn move_out(&'static self) {
        HERE.set(None);
        drop(self.inbox.close());
        self.ready.clear();
        self.cells.clear();
        *lock(&self.alarm) = None;
        lock(&EMPTY_HOMES).push(self);
    }

    #[inline]
    pub(crate) fn incarnation(&self) -> u64 {
        self.inbox.owner()
    }

    #[inline]
    pub(crate) fn ready(&self) -> &ReadyQueue {
        &self.ready
    }

    /// Whether [`Home::trim`] would give something back. Owner only.
    pub(crate) fn keeps_much(&self) -> bool {
        self.cells.keep_much()
    }

    /// The hub has nothing to do: gives memory back that was kept for a busy one. Owner only.
    #[inline]
    pub(crate) fn trim(&self) {
        self.cells.trim();
    }

    #[inline]
    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }

    pub(crate) fn thread_name(&self) -> String {
        lock(&self.thread_name).clone()
    }

    /// Leaves a message for the hub of that incarnation. If it is gone, so are its tasks: nobody misses it.
    pub(crate) fn post(&self, incarnation: u64, message: Message) {
        if self.inbox.post(incarnation, message)
            && let Some(alarm) = &*lock(&self.alarm)
        {
            alarm.wake().expect("waking a hub writes to an eventfd of our own");
        }
    }

    #[inline]
    pub(crate) fn inbox(&self) -> &Inbox<Message> {
        &self.inbox
    }

    /// Sets what wakes the poller.
    pub(crate) fn set_alarm(&self, alarm: mio::Waker) {
        *lock(&self.alarm) = Some(alarm);
    }
}

/// Gives back the memory of a task, from any thread.
///
/// # Safety
///
/// As for [`Cells::free`].
#[inline]
pub(super) unsafe fn free_cell(home: &'static Home, cell: NonNull<u8>, layout: Layout) {
    match here() {
        // SAFETY: the caller's promise; and this is the owner's thread.
        Some(own) if std::ptr::eq(own, home) => unsafe { home.cells.free(cell, layout) },
        // SAFETY: the caller's promise.
        _ => unsafe { cells::free(cell, layout) },
    }
}

/// Our mutexes guard plain data that no panic can leave half-changed, so poisoning means nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Home(thread {})", self.thread_name())
    }
}

/// The tasks that can run, in order. The links live in the tasks, so that queueing costs two stores.
///
/// # Invariant
///
/// A queued task is alive (its hub holds a reference until it has ended), in state `Ready`, and in the queue
/// once.
pub(crate) struct ReadyQueue {
    head: Cell<Option<NonNull<Task>>>,
    /// Means something only while `head` is set.
    tail: Cell<Option<NonNull<Task>>>,
}

impl ReadyQueue {
    const fn new() -> Self {
        ReadyQueue { head: Cell::new(None), tail: Cell::new(None) }
    }

    fn clear(&self) {
        self.head.set(None);
        self.tail.set(None);
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Queues a task that has just become `Ready`.
    #[inline(always)]
    pub(crate) fn push_back(&self, task: &Task) {
        debug_assert_eq!(task.local.state.get(), State::Ready);
        task.local.next.set(None);
        let ptr = task.ptr();
        match self.head.get() {
            // SAFETY: the invariant: the tail of a queue that is not empty is alive.
            Some(_) => unsafe {
                self.tail.get().unwrap_unchecked().as_ref().local.next.set(Some(ptr));
            },
            None => self.head.set(Some(ptr)),
        }
        self.tail.set(Some(ptr));
    }

    /// Queues a task that has just become `Ready` before all others: the target of an explicit switch.
    #[inline(always)]
    pub(crate) fn push_front(&self, task: &Task) {
        debug_assert_eq!(task.local.state.get(), State::Ready);
        let ptr = task.ptr();
        let head = self.head.get();
        task.local.next.set(head);
        if head.is_none() {
            self.tail.set(Some(ptr));
        }
        self.head.set(Some(ptr));
    }

    /// The first task. What the one after it will need is fetched into the cache meanwhile: with thousands of
    /// tasks in turn, each is cold when it comes up (1,000 yields in turn: 31 ns each without this, 17 with).
    #[inline(always)]
    pub(crate) fn pop_front(&self) -> Option<NonNull<Task>> {
        let head = self.head.get()?;
        // SAFETY: the invariant.
        let next = unsafe { head.as_ref() }.local.next.get();
        self.head.set(next);
        if let Some(next) = next {
            // SAFETY: the invariant, again.
            prefetch(unsafe { next.as_ref() }.local.frame.get());
        }
        Some(head)
    }
}

static IDLE_WORKERS: AtomicUsize = AtomicUsize::new(0);

/// How many OS threads of ours have nothing to do, and so cannot wake anybody.
pub(crate) fn idle_workers() -> usize {
    IDLE_WORKERS.load(Ordering::SeqCst)
}

/// Of some OS threads of ours, so many have nothing to do now, and so many had before.
pub(crate) fn change_idle_workers(before: usize, now: usize) {
    // Each side undoes only what it did before, so the sum does not fall below zero, in whichever order.
    if before != now {
        IDLE_WORKERS.fetch_add(now.wrapping_sub(before), Ordering::SeqCst);
    }
}

/// In a forked child: none of them is here.
pub(crate) fn forget_idle_workers() {
    IDLE_WORKERS.store(0, Ordering::SeqCst);
}

#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint. It never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
        _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(64).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
