//! Jobs that borrow: `std::thread::scope` for a pool.

#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::crew::Placed;
use super::job::{Job, discard, lock};
use super::{ThreadPool, WithdrawOnUnwind};
use crate::coro::unwind::{self, AbortIfPanic, Payload};
use crate::hub::{Masked, hub};
use crate::sys::clock::NEVER;
use crate::task::{Ended, GreenletExit, Reason};

/// Where jobs are spawned that borrow; see [`ThreadPool::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    pool: &'scope ThreadPool,
    books: Arc<Books>,
    // As in std: 'scope is invariant, so that it cannot shrink to less than what the jobs borrow; and what they borrow
    // must outlive it.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// What a scope and its jobs share. Borrows nothing.
struct Books {
    /// The jobs that may still touch what they borrow, and one for the scope itself while more may be spawned.
    open: AtomicUsize,
    closed: Ended,
    /// A job panicked, and nobody joined it.
    unhandled: AtomicBool,
}

impl Books {
    fn close_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.closed.set();
        }
    }
}

/// A function that borrows, on its way through a queue that asks for what does not. Dropped, with or without having
/// run, it closes its account: nothing that it borrows is touched after.
struct Loan {
    f: Option<Box<dyn FnOnce() + Send>>,
    books: Arc<Books>,
}

impl Loan {
    fn run(mut self) {
        // Consumed by the call: what it has captured is gone when it returns.
        if let Some(f) = self.f.take() {
            f();
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        discard(self.f.take());
        self.books.close_one();
    }
}

/// The result of one job.
struct Slot<T> {
    result: Mutex<Option<Result<T, Payload>>>,
    books: Arc<Books>,
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let result = lock(&self.result).take();
        if matches!(&result, Some(Err(payload)) if !payload.is::<GreenletExit>()) {
            self.books.unhandled.store(true, Ordering::Relaxed);
        }
        discard(result);
    }
}

impl ThreadPool {
    /// Runs `f` with a scope, in which jobs can be spawned that borrow from the outside. Waits for all of them at the end.
    ///
    /// The guarantee is that of `std::thread::scope`: when this function returns, or unwinds, all jobs of the scope
    /// have ended. Since nothing can stop a job, this holds for a greenlet that is **killed or runs out of time**, too:
    /// it waits for the jobs, and unwinds then. So does the end of its thread.
    ///
    /// May switch to other greenlets.
    ///
    /// # Panics
    ///
    /// If `f` does, or if a job of the scope panicked that was not joined.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = switchgrass::threadpool::ThreadPool::new(2);
    /// let mut numbers = [3, 1, 2, 9, 7, 8];
    /// let (left, right) = numbers.split_at_mut(3);
    /// pool.scope(|s| {
    ///     s.spawn(|| left.sort());
    ///     s.spawn(|| right.sort());
    /// });
    /// assert_eq!(numbers, [1, 2, 3, 7, 8, 9]);
    /// ```
    ///
    /// A job cannot borrow what does not outlive the scope, and its handle does not leave it:
    ///
    /// ```compile_fail,E0373
    /// # let pool = switchgrass::threadpool::ThreadPool::new(2);
    /// pool.scope(|s| {
    ///     let local = 1;
    ///     s.spawn(|| println!("{local}"));
    /// });
    /// ```
    ///
    /// ```compile_fail,E0521
    /// # let pool = switchgrass::threadpool::ThreadPool::new(2);
    /// let mut kept = None;
    /// pool.scope(|s| kept = Some(s.spawn(|| 1)));
    /// ```
    ///
    /// Nor can it borrow what is not for other threads:
    ///
    /// ```compile_fail,E0277
    /// # let pool = switchgrass::threadpool::ThreadPool::new(2);
    /// let count = std::cell::Cell::new(1);
    /// pool.scope(|s| { s.spawn(|| count.set(2)); });
    /// ```
    pub fn scope<'env, F, T>(&'env self, f: F) -> T
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
    {
        let books = Arc::new(Books {
            open: AtomicUsize::new(1),
            closed: Ended::new(),
            unhandled: AtomicBool::new(false),
        });
        let scope = Scope { pool: self, books: Arc::clone(&books), scope: PhantomData, env: PhantomData };
        let result = unwind::catch(|| f(&scope));
        books.close_one();
        let guard = AbortIfPanic("a scope of a thread pool was to be left before its jobs had ended");
        if !books.closed.is_set() {
            let masked = Masked::new();
            hub()
                .wait_ended(&books.closed, true, Reason::new("end of a scope of a thread pool"), NEVER)
                .expect("who is masked may wait");
            drop(masked);
        }
        mem::forget(guard);
        match result {
            Err(payload) => unwind::raise(payload),
            Ok(value) => {
                assert!(!books.unhandled.load(Ordering::Relaxed), "a scoped job panicked");
                value
            }
        }
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Has `f`, which may borrow what outlives the scope, run by a thread of the pool. Waits for a place
    /// as [`ThreadPool::spawn`] does.
    ///
    /// Where that cannot wait, `f` runs in place, before this returns: in a job of the same pool if no other thread is
    /// free, and in a destructor that runs while its greenlet unwinds.
    ///
    /// May switch to other greenlets.
    ///
    /// # Panics
    ///
    /// As [`ThreadPool::spawn`].
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJob<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let slot = Arc::new(Slot { result: Mutex::new(None), books: Arc::clone(&self.books) });
        let run: Box<dyn FnOnce() + Send + 'scope> = Box::new({
            let slot = Arc::clone(&slot);
            move || {
                *lock(&slot.result) = Some(unwind::catch(f));
                // The last one if nobody will join: then the result goes here, while what it borrows is there.
                drop(slot);
            }
        });
        let reason = Reason::new("place in a thread pool");
        let in_place = hub().may_suspend(reason).is_err();
        // Relaxed is enough: the caller holds the count above zero, being in the scope or in a job of it.
        self.books.open.fetch_add(1, Ordering::Relaxed);
        // SAFETY: only the lifetime changes. What `run` borrows outlives 'scope. `run` is called or dropped by a
        // `Loan`, which then closes its account and has nothing more of it; and `ThreadPool::scope`, whose call
        // outlives 'scope, is not left before all accounts are closed: it waits masked, so that neither kill nor
        // timeout can end the wait, and aborts if it were to panic. A greenlet that is given up at the end of its
        // thread keeps its frames, as a leak.
        let f = unsafe {
            mem::transmute::<Box<dyn FnOnce() + Send + 'scope>, Box<dyn FnOnce() + Send + 'static>>(run)
        };
        let loan = Loan { f: Some(f), books: Arc::clone(&self.books) };
        let job = if in_place {
            loan.run();
            None
        } else {
            let (job, placed) = self.pool.enqueue(move || loan.run());
            if placed == Placed::Waits {
                if job.crew.employs_us() {
                    job.crew.run_here(&job.work());
                } else {
                    let place = WithdrawOnUnwind::new(&job);
                    // Not refused: that was asked above.
                    let _ = hub().wait_ended(&job.outcome().begun, true, reason, NEVER);
                    place.keep();
                }
            }
            Some(job)
        };
        ScopedJob { job, slot, scope: PhantomData }
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.books.open.load(Ordering::Relaxed).saturating_sub(1);
        f.debug_struct("Scope").field("pool", self.pool).field("jobs", &open).finish_non_exhaustive()
    }
}

/// A job of a [`Scope`], and its result.
pub struct ScopedJob<'scope, T> {
    /// `None`: it ran in place.
    job: Option<Job<()>>,
    slot: Arc<Slot<T>>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

impl<T> ScopedJob<'_, T> {
    /// Waits until the job has ended, and gives its result; see [`Job::join`]. May switch to other greenlets.
    ///
    /// # Errors
    ///
    /// As [`Job::join`].
    pub fn join(mut self) -> Result<T, Payload> {
        if let Some(job) = self.job.take() {
            job.join()?;
        }
        // A job that ended well has run, and has left its result here.
        lock(&self.slot.result).take().unwrap_or_else(|| Err(Box::new(GreenletExit)))
    }

    /// Whether the job has ended, so that `join` would not wait.
    pub fn is_ready(&self) -> bool {
        self.job.as_ref().is_none_or(Job::is_ready)
    }
}

impl<T> fmt::Debug for ScopedJob<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJob").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}
