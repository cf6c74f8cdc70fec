//! The three doors through which a task suspends, and what may come of it.

use std::ptr::NonNull;

use super::{Deadlock, Hub, ScopeExpired, Unwinding, Wake};
use crate::coro::trace::Inspection;
use crate::coro::unwind;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{GreenletExit, Interrupt, PARKED, Reason, Scope, State, Task, TaskRef, Waker};

impl Hub {
    /// The task that is running.
    #[inline]
    pub(crate) fn current(&self) -> &Task {
        // SAFETY: the task that runs is alive, and the loop sets `current` before it resumes one.
        unsafe { self.current.get().as_ref() }
    }

    #[inline]
    pub(crate) fn is_main(&self, task: &Task) -> bool {
        task.ptr() == self.main_ptr
    }

    /// Whether the loop calls this, by a destructor: then there is no task to suspend.
    pub(crate) fn in_the_loop(&self) -> bool {
        self.current().local.state.get() != State::Running
    }

    /// The current task is about to wait where it must not leave: deadlocks that it meets are counted from now on.
    pub(crate) fn begin_to_insist(&self) {
        if self.is_main(self.current()) {
            self.deadlocks.set(0);
        }
    }

    pub(crate) fn main(&self) -> &TaskRef {
        &self.main
    }

    /// The one function that suspends. The caller has set the state, which says who may resume the task.
    ///
    /// Inlined into its callers, as they are into theirs where it matters: the processor predicts the return of a
    /// switch rightly only if no call lies between it and the resumption before (twice 20 cycles, otherwise).
    #[inline(always)]
    pub(super) fn suspend(&self, task: &Task, next: Option<NonNull<Task>>) -> Result<(), Deadlock> {
        // SAFETY: `errno` is this thread's, whose address never changes.
        let errno = unsafe { *self.errno };
        let result = if self.is_main(task) {
            self.run(next)
        } else {
            if next.is_none() {
                let here = 0_u8;
                task.local.frame.set(&raw const here);
            }
            // SAFETY: set by `run_task` on this very stack, and valid until that function returns.
            unsafe { (*task.local.suspender.get()).suspend(next.map(NonNull::cast)) };
            if self.inspection.get().is_some() {
                self.answer_inspections(task);
            }
            Ok(())
        };
        // Not before the switch: a signal handler that finds a task `Running` may walk its stack.
        task.local.state.set(State::Running);
        // SAFETY: as above.
        unsafe { *self.errno = errno };
        result
    }

    /// The task was resumed only to tell where it stands: does that, and goes on waiting.
    #[cold]
    #[inline(never)]
    fn answer_inspections(&self, task: &Task) {
        while let Some(inspection) = self.inspection.get() {
            // SAFETY: set by `run_task` on this very stack, and valid until that function returns.
            let suspender = unsafe { &*task.local.suspender.get() };
            // SAFETY: `Hub::inspect` has set it, and waits for the answer.
            unsafe { Inspection::answer(inspection, suspender) };
            suspender.suspend(None);
        }
    }

    /// What to wake the current task with, in the park that it will do next.
    #[inline]
    pub(crate) fn waker(&self) -> Waker {
        Waker::new(self.current())
    }

    /// What the wakers made so far for the current task do, is not for its next park.
    pub(crate) fn disregard_wakes(&self) {
        let local = &self.current().local;
        local.notified.set(false);
        local.epoch.set(local.epoch.get().wrapping_add(1));
    }

    /// Waits for a wake, until `deadline` at most. May switch to other tasks.
    ///
    /// A kill, or a timeout scope that has run out, unwinds from here. So whoever registered a waker must take it
    /// back in a `Drop`.
    ///
    /// # Panics
    ///
    /// On the thread's own task, if nothing can ever wake it: with the report of who waits for what.
    ///
    /// Inlined, as [`Hub::suspend`] wants it: a message between two channels then costs 49 ns, else 64.
    #[inline(always)]
    pub(crate) fn park(&self, reason: Reason, deadline: Nanos) -> Result<Wake, Unwinding> {
        let task = self.may_suspend(reason)?;
        let local = &task.local;
        if local.interrupted.get() {
            self.deliver_interrupt(task);
        }
        if local.notified.replace(false) {
            local.epoch.set(local.epoch.get().wrapping_add(1));
            return Ok(Wake::Notified);
        }
        local.reason.set(reason);
        // Not read anew, which would cost more than the park itself.
        local.parked_at.set(self.now.get());
        let result = loop {
            local.timed_out.set(false);
            let nearest = deadline.min(self.nearest_scope(task));
            if nearest != NEVER {
                self.timers.borrow_mut().arm(task, nearest);
            }
            local.state.set(State::Parked);
            let result = self.suspend(task, None);
            local.deadline.set(NEVER);
            if !local.timed_out.get() || !self.is_false_alarm(task, deadline) {
                break result;
            }
        };
        local.notified.set(false);
        local.epoch.set(local.epoch.get().wrapping_add(1));
        if let Err(Deadlock) = result {
            self.fail_deadlocked(task, State::Parked);
        }
        local.reason.set(Reason::NONE);
        if local.interrupted.get() {
            self.deliver_interrupt(task);
        }
        if local.timed_out.get() {
            let nearest = self.nearest_scope(task);
            if self.is_due(nearest) && nearest < deadline {
                self.raise_expired_scope(task);
            }
            if self.is_due(deadline) {
                return Ok(Wake::TimedOut);
            }
        }
        Ok(Wake::Notified)
    }

    /// Whether a deadline had come when the timers were looked at.
    fn is_due(&self, deadline: Nanos) -> bool {
        deadline <= self.now.get()
    }

    /// Whether the task was resumed for nothing: the `Timeout` that its alarm was set for was cancelled by somebody else, and nothing else has happened
    /// since.
    #[cold]
    fn is_false_alarm(&self, task: &Task, deadline: Nanos) -> bool {
        let local = &task.local;
        let is_unparked = local.reason.get().text == PARKED.text && local.unpark_token.get();
        let is_ended = local.notified.get() || local.interrupted.get() || is_unparked;
        !is_ended && !self.is_due(deadline.min(self.nearest_scope(task)))
    }

    /// Lets every other task that is ready run first. Does nothing while unwinding.
    #[inline(always)]
    pub(crate) fn yield_now(&self) {
        if std::thread::panicking() {
            return;
        }
        if self.no_waiting.get() {
            self.refuse_to_suspend(Reason::new("yield"));
        }
        let task = self.current();
        task.local.state.set(State::Ready);
        self.home.ready().push_back(task);
        // Cannot be a deadlock: this task itself is ready.
        let _ = self.suspend(task, None);
        if task.local.interrupted.get() || !task.local.scopes.get().is_null() {
            self.after_yield(task);
        }
    }

    #[cold]
    pub(super) fn after_yield(&self, task: &Task) {
        self.deliver_interrupt(task);
        // The time as of the last look, 64 yields ago at most, is good enough for a timeout.
        if self.nearest_scope(task) <= self.now.get() {
            self.raise_expired_scope(task);
        }
    }

    /// Runs `target` next, and suspends `task`, the current one, in the state given, until somebody switches to it.
    ///
    /// # Panics
    ///
    /// As [`Hub::park`].
    #[inline(always)]
    pub(crate) fn switch_to(&self, task: &Task, target: &Task, waiting: State) {
        if !task.local.scopes.get().is_null() {
            return self.switch_within_scope(task, target, waiting);
        }
        self.switch_unlimited(task, target, waiting);
    }

    #[inline(always)]
    fn switch_unlimited(&self, task: &Task, target: &Task, waiting: State) {
        debug_assert!(target.local.state.get().is_suspended());
        task.local.state.set(waiting);
        if let Err(Deadlock) = self.suspend(task, Some(target.ptr())) {
            self.fail_deadlocked(task, waiting);
        }
    }

    /// The same within a timeout.
    #[cold]
    #[inline(never)]
    fn switch_within_scope(&self, task: &Task, target: &Task, waiting: State) {
        self.arm_for_scope(task);
        self.switch_unlimited(task, target, waiting);
        self.check_scope(task, waiting);
    }

    /// An explicit switch within a timeout: has the task resumed when its time is up.
    #[cold]
    pub(super) fn arm_for_scope(&self, task: &Task) {
        task.local.timed_out.set(false);
        let nearest = self.nearest_scope(task);
        if nearest != NEVER {
            self.timers.borrow_mut().arm(task, nearest);
        }
    }

    /// Undoes [`Hub::arm_for_scope`], and unwinds if it was that which has resumed the task. After a false alarm, waits on.
    #[cold]
    pub(super) fn check_scope(&self, task: &Task, waiting: State) {
        task.local.deadline.set(NEVER);
        while task.local.timed_out.replace(false) {
            if self.is_due(self.nearest_scope(task)) {
                self.raise_expired_scope(task);
            }
            if task.local.interrupted.get() {
                return;
            }
            self.arm_for_scope(task);
            task.local.state.set(waiting);
            if let Err(Deadlock) = self.suspend(task, None) {
                self.fail_deadlocked(task, waiting);
            }
            task.local.deadline.set(NEVER);
        }
    }

    /// Puts a suspended (or unstarted) task at the head of the queue.
    #[inline]
    pub(crate) fn run_next(&self, target: &Task) {
        debug_assert!(target.local.state.get().is_suspended());
        target.local.state.set(State::Ready);
        self.home.ready().push_front(target);
    }

    /// Unwinds `target`, which is suspended, right here, and comes back when it has ended (or has caught the exit
    /// and waits again). Nobody runs in between but whom that unwinds in turn. Works while the current task unwinds, too: a task cannot suspend itself while
    /// the thread is panicking.
    ///
    /// In the loop there is nobody to come back to: then it is unwound next.
    pub(crate) fn unwind_now(&self, target: &Task) {
        target.set_interrupt(Interrupt::Raise(Box::new(GreenletExit)));
        if self.in_the_loop() {
            return self.run_next(target);
        }
        debug_assert!(target.local.state.get().is_suspended());
        let task = self.current();
        task.local.state.set(State::Ready);
        self.home.ready().push_front(task);
        self.waiting_for_unwound.set(self.waiting_for_unwound.get() + 1);
        // By a switch, so that it is the next, whatever the loop is in the middle of.
        let _ = self.suspend(task, Some(target.ptr()));
        self.waiting_for_unwound.set(self.waiting_for_unwound.get() - 1);
    }

    /// The current task, if it may be suspended.
    ///
    /// A masked one always may: if the thread is panicking then, it is not this task that unwinds, but the one that has it unwound
    /// ([`Hub::unwind_now`]), and which goes on first. See `greenlet::scope`.
    #[inline(always)]
    pub(crate) fn may_suspend(&self, reason: Reason) -> Result<&Task, Unwinding> {
        if self.is_unwinding() {
            return Err(Unwinding);
        }
        if self.no_waiting.get() {
            self.refuse_to_suspend(reason);
        }
        Ok(self.current())
    }

    /// Whether a wait would be a wait, and neither refused nor a panic.
    pub(crate) fn may_wait_now(&self) -> bool {
        !self.no_waiting.get() && !std::thread::panicking()
    }

    /// Whether the current task unwinds: then [`Hub::may_suspend`] gives the error.
    #[inline(always)]
    pub(crate) fn is_unwinding(&self) -> bool {
        std::thread::panicking() && self.current().local.masked.get() == 0
    }

    /// Whether nothing may wait: then [`Hub::may_suspend`] unwinds, or stops the current task for good. (Only one that is masked gets
    /// through.) Who holds a lock has to ask this first.
    #[inline]
    pub(crate) fn refuses_to_suspend(&self) -> bool {
        self.no_waiting.get()
    }

    #[cold]
    pub(super) fn refuse_to_suspend(&self, reason: Reason) {
        assert!(
            self.closing.get().is_some(),
            "blocking call ({reason}) in the event loop itself: a raw link, or a destructor that the loop runs, must not wait (a `link` may)"
        );
        self.deny_while_closing();
    }

    /// The earliest deadline among the timeout scopes that the task is in, if they may end a wait.
    #[inline]
    pub(super) fn nearest_scope(&self, task: &Task) -> Nanos {
        if task.local.masked.get() > 0 {
            return NEVER;
        }
        self.nearest_scope_of_all(task)
    }

    #[inline]
    pub(super) fn nearest_scope_of_all(&self, task: &Task) -> Nanos {
        let scope = task.local.scopes.get();
        if scope.is_null() {
            return NEVER;
        }
        // SAFETY: scopes live on the stack of the task, which takes them out of the list before they go.
        unsafe { (*scope).nearest.get() }
    }

    #[cold]
    pub(super) fn deliver_interrupt(&self, task: &Task) {
        // Only `switch` can give an exit as a value, and it looks before this is called.
        if let Some(interrupt) = task.take_interrupt() {
            unwind::raise(interrupt.into_payload());
        }
    }

    /// Unwinds up to the timeout scope that ran out first (the outer one of two with the same deadline).
    #[cold]
    pub(super) fn raise_expired_scope(&self, task: &Task) -> ! {
        let mut first: Option<&Scope> = None;
        for scope in task.scopes() {
            if first.is_none_or(|first| scope.deadline.get() <= first.deadline.get()) {
                first = Some(scope);
            }
        }
        let scope = first.expect("a scope has run out, so there is one");
        scope.fired.set(true);
        if scope.once {
            scope.deadline.set(NEVER);
            task.renew_nearest();
        }
        unwind::raise(Box::new(ScopeExpired { id: scope.id }))
    }

    /// The thread's own task waits for what can never come.
    #[cold]
    pub(super) fn fail_deadlocked(&self, task: &Task, waiting: State) {
        #[cfg(feature = "monkey")]
        if self.stays_in_deadlock() {
            return;
        }
        if task.local.masked.get() > 0 {
            // It must not leave now (see `greenlet::scope`): the others have to.
            return self.kill_all_for_deadlock();
        }
        // The report is of the time before.
        task.local.state.set(waiting);
        let report = self.deadlock_report();
        task.local.state.set(State::Running);
        task.local.reason.set(Reason::NONE);
        panic!("{report}");
    }
}
