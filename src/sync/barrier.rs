//! std's `Barrier`, for greenlets.

#![forbid(unsafe_code)]

use std::fmt;

use crate::sys::lock::{Lock, LockGuard};
use crate::task::Reason;
use crate::wait::{Line, Queue, insist};

/// `std::sync::Barrier` for greenlets: nobody goes on before all have come.
///
/// It can be used again and again: when the last of `n` has come, all go on, in the order of coming,
/// and the next `n` are waited for.
///
/// One that is killed while it waits (or unwound by a timeout) is taken out of the count: it has not come, and another
/// one must. Once all have come, a kill changes nothing for the others.
///
/// # Examples
///
/// ```
/// use switchgrass::{scope, sync::Barrier};
/// use std::cell::Cell;
///
/// let (barrier, arrived) = (Barrier::new(3), Cell::new(0));
/// scope(|s| {
///     for _ in 0..3 {
///         s.spawn(|| {
///             arrived.set(arrived.get() + 1);
///             barrier.wait();
///             assert_eq!(arrived.get(), 3);
///         });
///     }
/// });
/// ```
pub struct Barrier {
    size: usize,
    waiting: Lock<Waiting>,
}

/// Behind the lock.
pub(crate) struct Waiting {
    /// How many have come.
    count: usize,
    queue: Queue<()>,
}

impl Barrier {
    /// A barrier for `n`. With 0 or 1, nobody waits.
    pub const fn new(n: usize) -> Self {
        Barrier { size: n, waiting: Lock::new(Waiting { count: 0, queue: Queue::new() }) }
    }

    /// Waits until all have come. May switch; the last one to come does not.
    ///
    /// In a destructor that runs while its greenlet unwinds, where nothing can be switched, this blocks
    /// the OS thread if it has to wait.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if nothing is left that could come.
    pub fn wait(&self) -> BarrierWaitResult {
        let mut waiting = self.waiting.lock();
        waiting.count += 1;
        if waiting.count < self.size {
            insist(self, waiting, None);
            return BarrierWaitResult(false);
        }
        waiting.count = 0;
        // Under the lock: who comes from now on is of the next ones.
        while let Some(((), wakeup)) = waiting.queue.hand_over(|_| ()) {
            wakeup.wake();
        }
        BarrierWaitResult(true)
    }
}

impl Line for Barrier {
    type State = Waiting;
    type Item = ();

    fn lock(&self) -> &Lock<Waiting> {
        &self.waiting
    }

    fn queue(waiting: &mut Waiting) -> &mut Queue<()> {
        &mut waiting.queue
    }

    /// All have come, and all know.
    fn pass_on(&self, _: LockGuard<'_, Waiting>, _: Option<()>) {}

    fn gave_up(&self, mut waiting: LockGuard<'_, Waiting>) {
        waiting.count -= 1;
    }

    fn reason(&self) -> Reason {
        Reason::shared("barrier", self)
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.waiting.lock().count;
        f.debug_struct("Barrier").field("size", &self.size).field("waiting", &count).finish()
    }
}

/// What [`Barrier::wait`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// Whether this is the one of them who came last. One of each group is.
    pub fn is_leader(&self) -> bool {
        self.0
    }
}
