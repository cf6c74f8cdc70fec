//! The greenlets of a scope, and how a scope is left: not before they have ended.

#![forbid(unsafe_code)]

use super::wait_for;
use crate::coro::unwind::{self, AbortIfPanic, Payload};
use crate::hub::{Masked, ScopeExpired, Unwinding, hub};
use crate::sys::clock::NEVER;
use crate::sys::lock::Lock;
use crate::sys::sync::{AtomicBool, Ordering};
use crate::task::{GreenletExit, TaskRef};

/// How many are in the list before those that have ended are taken out for the first time.
const FIRST_SWEEP: usize = 64;

#[derive(Debug)]
pub(crate) struct Children {
    list: Lock<List>,
    /// A greenlet panicked, and nobody joined it.
    unhandled: AtomicBool,
    /// They are being killed: a new one is, too.
    ending: AtomicBool,
}

#[derive(Debug)]
struct List {
    /// Those that may not have ended yet, and some that have.
    tasks: Vec<TaskRef>,
    /// When there are so many, those that have ended are taken out.
    sweep_at: usize,
}

impl Children {
    pub(crate) const fn new() -> Self {
        Children {
            list: Lock::new(List { tasks: Vec::new(), sweep_at: FIRST_SWEEP }),
            unhandled: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }

    /// Where a greenlet tells of a panic that nobody takes.
    pub(crate) fn unhandled(&self) -> *const AtomicBool {
        &raw const self.unhandled
    }

    /// # Panics
    ///
    /// If a scope could not wait for a new greenlet here.
    #[track_caller]
    pub(crate) fn require_wait() {
        assert!(
            !std::thread::panicking(),
            "a greenlet cannot be spawned in a scope while unwinding: the scope could not wait for it"
        );
        assert!(
            !hub().in_the_loop(),
            "a greenlet cannot be spawned in a scope in the event loop itself: the scope could not wait for it"
        );
    }

    pub(crate) fn add(&self, task: &TaskRef) {
        let mut list = self.list.lock();
        if list.tasks.len() >= list.sweep_at {
            let ended: Vec<_> = list.tasks.extract_if(.., |task| task.shared().ended.is_set()).collect();
            list.sweep_at = FIRST_SWEEP.max(list.tasks.len() * 2);
            drop(list);
            drop(ended);
            list = self.list.lock();
        }
        list.tasks.push(task.clone());
        drop(list);
        // After it is in the list: either we see that it ends, or who ends it sees this one.
        if self.ending.load(Ordering::SeqCst) {
            task.interrupt(Box::new(GreenletExit));
        }
    }

    /// Calls `f`, the body of a scope, and leaves when all that it has added have ended.
    ///
    /// # Panics
    ///
    /// See [`scope()`](super::scope()).
    pub(crate) fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        let result = unwind::catch(f);
        // Nothing below may leave before the children have ended.
        let interrupted = match &result {
            Err(payload) if payload.is::<GreenletExit>() || payload.is::<ScopeExpired>() => Err(None),
            _ => match unwind::catch(|| self.wait()) {
                Ok(ended) => ended.map_err(|Unwinding| None),
                Err(payload) => Err(Some(payload)),
            },
        };
        if interrupted.is_err() {
            let guard = AbortIfPanic("a scope was to be left before its greenlets had ended");
            self.end();
            std::mem::forget(guard);
        }
        let panicked: Payload = match (result, interrupted) {
            (Err(payload), _) | (Ok(_), Err(Some(payload))) => payload,
            (Ok(value), _) => {
                assert!(!self.unhandled.load(Ordering::Acquire), "a scoped greenlet panicked");
                return value;
            }
        };
        unwind::raise(panicked)
    }

    /// # Errors
    ///
    /// The thread is panicking, and not all have ended. Then it is somebody else who unwinds, and has dropped the last handle of the
    /// coroutine that is in here: had this task begun to unwind since it has entered the scope, it would have left it; and before, it
    /// could have spawned nothing (see [`Children::require_wait`]).
    fn wait(&self) -> Result<(), Unwinding> {
        loop {
            // Those that are waited for may spawn more. The one waited for stays in the list, in case we are killed meanwhile.
            let Some(child) = self.list.lock().tasks.last().cloned() else { return Ok(()) };
            wait_for(&child, NEVER).ok_or(Unwinding)?;
            // Only from the end: looking at all of them after each wait would take time without measure.
            while let Some(ended) = self.pop_ended() {
                drop(ended);
            }
        }
    }

    fn pop_ended(&self) -> Option<TaskRef> {
        self.list.lock().tasks.pop_if(|child| child.shared().ended.is_set())
    }

    /// Kills the children and waits for them, whatever happens.
    fn end(&self) {
        let masked = Masked::new();
        self.ending.store(true, Ordering::SeqCst);
        let children = self.list.lock().tasks.clone();
        children.iter().for_each(|child| child.interrupt(Box::new(GreenletExit)));
        drop(children);
        self.wait().expect("who is masked may wait");
        drop(masked);
    }

    /// How many have not ended.
    pub(crate) fn running(&self) -> usize {
        self.list.lock().tasks.iter().filter(|child| !child.shared().ended.is_set()).count()
    }
}
