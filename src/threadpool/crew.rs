//! The threads of a pool, and the queue in front of them.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::job::{Work, discard, lock};
use crate::sys::fork::generation;
use crate::task::{self, Ended};

/// What the threads of one pool share, in one process.
pub(super) struct Crew {
    pub(super) name: &'static str,
    /// The process that this is of.
    generation: u32,
    // These two are written under the lock, but a forked child reads them without.
    max: AtomicUsize,
    idle_nanos: AtomicU64,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    threads: usize,
    /// Threads that have a job.
    running: usize,
    /// Threads that sleep until there is one.
    resting: usize,
    /// How many of this pool's threads the hubs were told have nothing to do.
    published: usize,
    /// Who finds no job leaves at once.
    dismissed: bool,
    /// Those who wait until nothing is queued or runs.
    idle_waiters: Vec<Arc<Ended>>,
    /// For the names of the threads.
    hired: usize,
}

/// When a job that was just queued will run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// There is a thread for it.
    Soon,
    /// When one of those before it has ended.
    Waits,
}

/// A job in the queue. Dropped there, it ends without having run.
struct Queued(Arc<dyn Work>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

thread_local! {
    /// The crew that this thread belongs to. Compared, never followed.
    static EMPLOYER: Cell<*const Crew> = const { Cell::new(ptr::null()) };
}

impl Crew {
    pub(super) fn new(name: &'static str, max: usize, idle: Duration) -> Arc<Crew> {
        let crew = Crew {
            name,
            generation: generation(),
            max: AtomicUsize::new(max),
            idle_nanos: AtomicU64::new(0),
            state: Mutex::default(),
            more: Condvar::new(),
        };
        crew.store_idle_timeout(idle);
        Arc::new(crew)
    }

    /// One for a forked child, with the same settings and nothing else.
    pub(super) fn successor(&self) -> Arc<Crew> {
        Crew::new(self.name, self.max(), self.idle_timeout())
    }

    /// Whether the process has forked since, and this was its parent's: whose threads are gone, and
    /// whose lock may be held forever.
    pub(super) fn is_of_parent(&self) -> bool {
        self.generation != generation()
    }

    /// Whether the current thread is one of this crew.
    pub(super) fn employs_us(&self) -> bool {
        ptr::eq(EMPLOYER.get(), self)
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    pub(super) fn set_max(self: &Arc<Self>, max: usize) {
        let mut state = lock(&self.state);
        self.max.store(max, Ordering::Relaxed);
        // Jobs that wait run when there is a thread; if none could be started, the next one to be queued tries again.
        let _ = self.hire(&mut state);
        state.publish();
        // Those that rest and are too many leave.
        self.more.notify_all();
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_nanos(self.idle_nanos.load(Ordering::Relaxed))
    }

    fn store_idle_timeout(&self, idle: Duration) {
        let nanos = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        self.idle_nanos.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn set_idle_timeout(&self, idle: Duration) {
        let _state = lock(&self.state);
        self.store_idle_timeout(idle);
        // Those that rest count anew.
        self.more.notify_all();
    }

    /// Threads, and jobs that have not ended.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.threads, state.unfinished())
    }

    /// Queues a job, and starts a thread for it if there may be one more.
    ///
    /// # Panics
    ///
    /// If there is no thread at all, and the system refuses one.
    pub(super) fn submit(self: &Arc<Self>, job: Arc<dyn Work>) -> Placed {
        let mut state = lock(&self.state);
        state.dismissed = false;
        state.queue.push_back(Queued(job));
        let hired = self.hire(&mut state);
        state.publish();
        if state.queue.len() <= self.free(&state) {
            if state.resting > 0 {
                self.more.notify_one();
            }
            return Placed::Soon;
        }
        if let Err(error) = hired
            && state.threads == 0
        {
            let refused = state.queue.pop_back();
            state.publish();
            drop(state);
            drop(refused);
            panic!("cannot start a thread for blocking work: {error} (see `ulimit -u`)");
        }
        Placed::Waits
    }

    /// Threads that have no job, or will have none when they have looked at the queue.
    fn free(&self, state: &State) -> usize {
        state.threads.min(self.max()).saturating_sub(state.running)
    }

    /// Starts threads for the jobs that find none.
    fn hire(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        while state.threads < self.max() && state.queue.len() > self.free(state) {
            state.hired += 1;
            let crew = Arc::clone(self);
            let name = format!("{}-{}", self.name, state.hired);
            thread::Builder::new().name(name).spawn(move || crew.work())?;
            state.threads += 1;
        }
        Ok(())
    }

    /// Takes a job out of the queue, if it is still there: it ends without having run.
    pub(super) fn withdraw(&self, job: &Arc<dyn Work>) {
        if self.is_of_parent() {
            return;
        }
        let mut state = lock(&self.state);
        // Those who came first are usually the first to give up.
        let place = state.queue.iter().position(|queued| Arc::ptr_eq(&queued.0, job));
        let withdrawn = place.and_then(|place| state.queue.remove(place));
        state.publish();
        let waiters = state.waiters_if_idle();
        drop(state);
        // Not under the lock: the closure is dropped here, which may do anything.
        drop(withdrawn);
        waiters.iter().for_each(|waiter| waiter.set());
    }

    /// Runs a job on the current thread, if it has not begun. For one of this crew that would wait
    /// for it: there may be nobody else.
    pub(super) fn run_here(&self, job: &Arc<dyn Work>) {
        if job.run() {
            job.begin();
            job.finish();
            self.withdraw(job);
        }
    }

    /// Ends all jobs that have not begun, and has the threads leave when those that run have ended.
    pub(super) fn give_up_queue(&self) {
        let mut state = lock(&self.state);
        let queue = std::mem::take(&mut state.queue);
        state.dismissed = true;
        state.publish();
        let waiters = state.waiters_if_idle();
        self.more.notify_all();
        drop(state);
        drop(queue);
        waiters.iter().for_each(|waiter| waiter.set());
    }

    /// Has the threads leave when nothing is left to do.
    pub(super) fn dismiss(&self) {
        lock(&self.state).dismissed = true;
        self.more.notify_all();
    }

    /// What is set when nothing is queued or runs. `None`: so it is.
    pub(super) fn idle_waiter(&self) -> Option<IdleWaiter<'_>> {
        let mut state = lock(&self.state);
        (state.unfinished() > 0).then(|| {
            let idle = Arc::new(Ended::new());
            state.idle_waiters.push(Arc::clone(&idle));
            IdleWaiter { crew: self, idle }
        })
    }

    /// The lock itself.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Sized + '_ {
        lock(&self.state)
    }

    /// What a thread of the pool does.
    fn work(self: Arc<Self>) {
        EMPLOYER.set(Arc::as_ptr(&self));
        let mut state = lock(&self.state);
        // More than that since `set_max` has said less.
        while state.threads <= self.max() {
            if let Some(queued) = state.queue.pop_front() {
                state.running += 1;
                state.publish();
                drop(state);
                match self.do_one(queued) {
                    Some(guard) => state = guard,
                    None => return,
                }
                continue;
            }
            if state.dismissed {
                break;
            }
            state.resting += 1;
            state.publish();
            let idle = self.idle_timeout();
            let (guard, waited) = self.more.wait_timeout(state, idle).unwrap_or_else(|e| e.into_inner());
            state = guard;
            state.resting -= 1;
            state.publish();
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    /// Runs a job, and says that it has ended. `None`: it has forked, and this is the child, where the pool is another one.
    fn do_one(&self, queued: Queued) -> Option<MutexGuard<'_, State>> {
        let job = Arc::clone(&queued.0);
        job.begin();
        let ran = job.run();
        // Has nothing to give up any more.
        discard(queued);
        if self.is_of_parent() {
            return None;
        }
        let mut state = lock(&self.state);
        state.running -= 1;
        let waiters = state.waiters_if_idle();
        drop(state);
        // After the count: who has joined the job finds its place free. Before this thread rests: as long
        // as it could wake somebody (a result that nobody waits for is dropped here, too), the hubs must
        // not take it for one that cannot.
        if ran {
            job.finish();
        }
        discard(job);
        waiters.iter().for_each(|waiter| waiter.set());
        Some(lock(&self.state))
    }
}

impl State {
    fn unfinished(&self) -> usize {
        self.queue.len() + self.running
    }

    /// To be called after each change. A thread that has a job to wake up for does not rest.
    fn publish(&mut self) {
        let resting = self.resting.saturating_sub(self.queue.len());
        task::change_idle_workers(self.published, resting);
        self.published = resting;
    }

    fn waiters_if_idle(&mut self) -> Vec<Arc<Ended>> {
        if self.unfinished() == 0 { std::mem::take(&mut self.idle_waiters) } else { Vec::new() }
    }
}

/// See [`Crew::idle_waiter`].
pub(super) struct IdleWaiter<'a> {
    crew: &'a Crew,
    pub(super) idle: Arc<Ended>,
}

impl Drop for IdleWaiter<'_> {
    fn drop(&mut self) {
        if !self.idle.is_set() && !self.crew.is_of_parent() {
            lock(&self.crew.state).idle_waiters.retain(|other| !Arc::ptr_eq(other, &self.idle));
        }
    }
}
