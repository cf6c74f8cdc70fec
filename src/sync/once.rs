//! std's `Once`, for greenlets.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::hub::hub;
use crate::sys::lock::{Lock, LockGuard};
use crate::task::Reason;
use crate::wait::{Line, Queue, insist};

const INCOMPLETE: u8 = 0;
const RUNNING: u8 = 1;
const POISONED: u8 = 2;
const COMPLETE: u8 = 3;

/// No task has this id.
const NOBODY: u64 = 0;

/// `std::sync::Once` for greenlets: runs an initialiser once, whoever comes first.
///
/// The initialiser may switch; who comes meanwhile waits until it is done. Poisoning is std's: an initialiser that
/// panics (a kill and a timeout unwind, too) makes every later [`call_once`](Self::call_once) panic.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use switchgrass::{scope, sync::Once, yield_now};
///
/// let (once, runs) = (Once::new(), Cell::new(0));
/// scope(|s| {
///     for _ in 0..3 {
///         s.spawn(|| {
///             once.call_once(|| {
///                 yield_now();                    // the others come by meanwhile
///                 runs.set(runs.get() + 1);
///             });
///             assert_eq!(runs.get(), 1);
///         });
///     }
/// });
/// ```
pub struct Once {
    /// Changed under the lock.
    state: AtomicU8,
    /// The id of the task that runs the initialiser.
    runner: AtomicU64,
    waiting: Lock<Queue<()>>,
}

impl Once {
    /// Nothing was run yet.
    pub const fn new() -> Self {
        Once {
            state: AtomicU8::new(INCOMPLETE),
            runner: AtomicU64::new(NOBODY),
            waiting: Lock::new(Queue::new()),
        }
    }

    /// Runs `f` if no initialiser has been run yet; waits as long as another one runs. When it returns, one has been
    /// run to its end, and what that did can be seen. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks
    /// the OS thread if it has to wait.
    ///
    /// # Panics
    ///
    /// If an initialiser has panicked before. If `f` calls this on the same `Once`: it would wait for itself. On a
    /// thread's main stack, if the initialiser that runs can never end.
    #[inline]
    #[track_caller]
    pub fn call_once(&self, f: impl FnOnce()) {
        if !self.is_completed() {
            self.run_once(false, |_| {
                f();
                true
            });
        }
    }

    /// As [`call_once`](Self::call_once), also if an initialiser has panicked before: then `f` is told, and if it
    /// returns, the poison is gone. May switch.
    ///
    /// # Panics
    ///
    /// As [`call_once`](Self::call_once), but for the first.
    #[inline]
    #[track_caller]
    pub fn call_once_force(&self, f: impl FnOnce(&OnceState)) {
        if !self.is_completed() {
            self.run_once(true, |state| {
                f(state);
                true
            });
        }
    }

    /// Whether an initialiser has been run to its end.
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.state.load(Ordering::Acquire) == COMPLETE
    }

    /// Waits until an initialiser has been run to its end, whoever calls it. May switch.
    ///
    /// # Panics
    ///
    /// If an initialiser has panicked, or does so now. On a thread's main stack, if nothing is left that could run one.
    #[track_caller]
    pub fn wait(&self) {
        self.wait_for(false);
    }

    /// As [`wait`](Self::wait), also if an initialiser panics: then for the next one, by
    /// [`call_once_force`](Self::call_once_force). May switch.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could run one.
    pub fn wait_force(&self) {
        self.wait_for(true);
    }

    #[track_caller]
    fn wait_for(&self, force: bool) {
        while !self.is_completed() {
            let waiting = self.waiting.lock();
            match self.state.load(Ordering::Acquire) {
                COMPLETE => return,
                POISONED if !force => poisoned(waiting),
                _ => insist(self, waiting, None),
            };
        }
    }

    /// Runs `f`, which says whether it did it.
    #[inline]
    #[track_caller]
    pub(super) fn run_once(&self, force: bool, f: impl FnOnce(&OnceState) -> bool) {
        let mut f = Some(f);
        self.run(force, &mut |state| f.take().is_some_and(|f| f(state)));
    }

    #[cold]
    #[track_caller]
    fn run(&self, force: bool, f: &mut dyn FnMut(&OnceState) -> bool) {
        let own = hub().current().shared.id;
        loop {
            let waiting = self.waiting.lock();
            let before = self.state.load(Ordering::Acquire);
            match before {
                COMPLETE => return,
                POISONED if !force => poisoned(waiting),
                RUNNING if self.runner.load(Ordering::Relaxed) == own => {
                    drop(waiting);
                    panic!("an initialiser that needs what it is to initialise would wait for itself");
                }
                // Then again: it may have panicked, or somebody else was faster.
                RUNNING => {
                    insist(self, waiting, None);
                }
                _ => {
                    self.state.store(RUNNING, Ordering::Relaxed);
                    self.runner.store(own, Ordering::Relaxed);
                    drop(waiting);
                    let mut running = Running { once: self, end: POISONED };
                    let done = f(&OnceState { poisoned: before == POISONED });
                    running.end = if done { COMPLETE } else { INCOMPLETE };
                    return;
                }
            }
        }
    }
}

#[cold]
#[track_caller]
fn poisoned(waiting: LockGuard<'_, Queue<()>>) -> ! {
    drop(waiting);
    panic!("Once instance has previously been poisoned")
}

/// While an initialiser runs.
struct Running<'a> {
    once: &'a Once,
    /// What becomes of it.
    end: u8,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut waiting = self.once.waiting.lock();
        self.once.runner.store(NOBODY, Ordering::Relaxed);
        self.once.state.store(self.end, Ordering::Release);
        // All of them, in order: if it failed, the first one is the next to run its own.
        while let Some(((), wakeup)) = waiting.hand_over(|_| ()) {
            wakeup.wake();
        }
    }
}

impl Line for Once {
    type State = Queue<()>;
    type Item = ();

    fn lock(&self) -> &Lock<Queue<()>> {
        &self.waiting
    }

    fn queue(waiting: &mut Queue<()>) -> &mut Queue<()> {
        waiting
    }

    /// Everybody is told anyway.
    fn pass_on(&self, _: LockGuard<'_, Queue<()>>, _: Option<()>) {}

    fn reason(&self) -> Reason {
        Reason::shared("once", self)
    }
}

impl Default for Once {
    fn default() -> Self {
        Once::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state.load(Ordering::Relaxed) {
            INCOMPLETE => "incomplete",
            RUNNING => "running",
            POISONED => "poisoned",
            _ => "complete",
        };
        f.debug_struct("Once").field("state", &state).finish_non_exhaustive()
    }
}

/// What the initialiser given to [`Once::call_once_force`] is told.
#[derive(Debug)]
pub struct OnceState {
    poisoned: bool,
}

impl OnceState {
    /// Whether an initialiser has panicked before.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }
}
