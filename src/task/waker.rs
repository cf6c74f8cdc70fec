//! Waking a parked task, exactly once, from any thread; and the list of those who wait for a task's end.

use std::fmt;
use std::ptr::NonNull;

use super::{Message, Task, TaskHandle, TaskRef, Watcher};
use crate::coro::unwind;
use crate::sys::lock::Lock;
use crate::sys::sync::{AtomicU8, Ordering};

/// Ends one particular park of one task: the first wake counts, later ones and those for a park that has
/// ended for another reason do nothing. A wake before the park is kept.
///
/// Exactly once without an atomic: the park's epoch is compared on the task's own thread, where a wake from
/// elsewhere arrives as a message.
#[derive(Debug, Clone)]
pub(crate) struct Waker {
    task: TaskRef,
    epoch: u32,
}

impl Waker {
    /// For the park that `task` is about to do.
    pub(crate) fn new(task: &Task) -> Self {
        Waker { task: task.to_ref(), epoch: task.local.epoch.get() }
    }

    pub(crate) fn wake(&self) {
        match self.task.here() {
            Some(task) => task.wake(self.epoch),
            None => self.task.post(|task| Message::Wake(task, self.epoch)),
        }
    }

    /// Whether it is for a task of this thread.
    #[cfg(feature = "monkey")]
    pub(crate) fn is_here(&self) -> bool {
        self.task.here().is_some()
    }

    /// Whether it is for that task.
    #[inline]
    pub(crate) fn is_of(&self, task: &Task) -> bool {
        self.task.0 == task.ptr()
    }

    /// Whether both end the same park.
    pub(crate) fn is(&self, other: &Waker) -> bool {
        self.epoch == other.epoch && self.task.0 == other.task.0
    }
}

/// A wake that is due, of a task that somebody found in a list: to be called when the lock of the list is free again.
#[must_use]
#[derive(Debug)]
pub(crate) struct Wakeup(Target);

#[derive(Debug)]
enum Target {
    /// Of this thread.
    Here(NonNull<Task>, u32),
    There(Waker),
}

impl Wakeup {
    /// For the park of `task` that `epoch` counts. `None`: the task is over.
    ///
    /// # Safety
    ///
    /// `task` must be alive, and if it is of this thread, it must stay so until it has run again.
    #[inline]
    pub(crate) unsafe fn new(task: NonNull<Task>, epoch: u32) -> Option<Wakeup> {
        // SAFETY: alive, says the caller; and `Shared` may be looked at from any thread.
        let shared = unsafe { &(*task.as_ptr()).shared };
        if shared.ended.is_set() {
            return None;
        }
        if shared.is_here() {
            return Some(Wakeup(Target::Here(task, epoch)));
        }
        shared.retain();
        // SAFETY: the reference just counted.
        let task = unsafe { TaskRef::from_counted(task) };
        Some(Wakeup(Target::There(Waker { task, epoch })))
    }

    #[inline]
    pub(crate) fn wake(self) {
        match self.0 {
            // SAFETY: the promise of `new`: it has not run again, for this thread has been here all
            // the time (a Wakeup is not Send).
            Target::Here(task, epoch) => unsafe { task.as_ref() }.wake(epoch),
            Target::There(waker) => waker.wake(),
        }
    }
}

/// Who is told that something has ended.
#[derive(Debug)]
pub(crate) enum Listener {
    Task(Waker),
    Watcher(Watcher),
    /// A task of somebody else's executor.
    Foreign(std::task::Waker),
    /// A task that is started then.
    Start(TaskHandle),
    /// A function that the hub calls then, and its number.
    Call(u64, Call),
}

/// What a [`Listener::Call`] calls.
pub(crate) struct Call(pub(crate) Box<dyn FnOnce() + Send>);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call(..)")
    }
}

impl Listener {
    fn tell(self) {
        match self {
            Listener::Task(waker) => waker.wake(),
            Listener::Watcher(watcher) => watcher.notify(),
            Listener::Start(task) => task.task().start(),
            // The hub is no place to unwind, and the others have to be told, too. The panic itself has
            // been reported by the panic hook.
            Listener::Foreign(waker) => drop(unwind::catch(|| waker.wake())),
            Listener::Call(_, call) => drop(unwind::catch(call.0)),
        }
    }

    /// Whether it has that number: of its task, or its own.
    pub(crate) fn is_number(&self, number: u64) -> bool {
        match self {
            Listener::Start(task) => task.task().shared().id == number,
            Listener::Call(own, _) => *own == number,
            _ => false,
        }
    }
}

/// Whether something has ended, and who waits for it. Usable from any thread.
#[derive(Debug)]
pub(crate) struct Ended {
    state: AtomicU8,
    waiting: Lock<Vec<Listener>>,
}

const GOING_ON: u8 = 0;
/// Going on, and somebody has looked at `waiting` under its lock.
const AWAITED: u8 = 1;
const ENDED: u8 = 2;

impl Ended {
    pub(crate) const fn new() -> Self {
        Ended { state: AtomicU8::new(GOING_ON), waiting: Lock::new(Vec::new()) }
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.state.load(Ordering::Acquire) == ENDED
    }

    /// Whether it goes on, and somebody may wait for the end.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        self.state.load(Ordering::Relaxed) == AWAITED
    }

    /// It has ended: tells all who wait, in the order in which they came.
    pub(crate) fn set(&self) {
        self.set_by(|tell| tell());
    }

    /// As [`Ended::set`]. `context` calls what it is given: some are told by a function of the user's.
    #[inline]
    pub(crate) fn set_by(&self, context: impl FnOnce(&dyn Fn())) {
        if self.state.swap(ENDED, Ordering::AcqRel) == AWAITED {
            context(&|| self.tell_all());
        }
    }

    /// As [`Ended::set`], of a task that was left behind by a fork: wakes those who wait for the end in the child, too.
    /// All else that was to be done then is the parent's to do.
    pub(crate) fn set_left_behind(&self) {
        if self.state.swap(ENDED, Ordering::AcqRel) != AWAITED {
            return;
        }
        // If a thread that is no more has the lock, the list may be half-changed. Nobody needs it any longer.
        let Some(listeners) = self.waiting.try_lock().map(|mut waiting| std::mem::take(&mut *waiting)) else {
            return;
        };
        for listener in listeners {
            match listener {
                Listener::Task(waker) => waker.wake(),
                Listener::Watcher(watcher) => watcher.try_notify(),
                other => std::mem::forget(other),
            }
        }
    }

    #[cold]
    fn tell_all(&self) {
        // Nobody can be added any more. The first comes last, where taking one out moves none.
        self.waiting.lock().reverse();
        let next = || self.waiting.lock().pop();
        // One by one: who is told may take back one that comes later.
        while let Some(listener) = next() {
            listener.tell();
        }
    }

    /// Has `listener` told at the end. `Err`: it has ended already.
    pub(crate) fn add(&self, listener: Listener) -> Result<(), Listener> {
        let mut waiting = self.waiting.lock();
        // Under the lock: `set` either sees AWAITED and finds the listener when it gets the lock, or came first.
        let before = self.state.compare_exchange(GOING_ON, AWAITED, Ordering::AcqRel, Ordering::Acquire);
        if before == Err(ENDED) {
            return Err(listener);
        }
        waiting.push(listener);
        Ok(())
    }

    /// Undoes [`Ended::add`], for one that `which` finds.
    pub(crate) fn remove(&self, which: impl Fn(&Listener) -> bool) -> Option<Listener> {
        let mut waiting = self.waiting.lock();
        let place = waiting.iter().position(which)?;
        Some(waiting.remove(place))
    }
}
