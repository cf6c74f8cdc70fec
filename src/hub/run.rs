//! The loop: [`Hub::run`] and what it is made of.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use super::observe::Next;
use super::record::Cause;
use super::{Deadlock, Hub, SlotId};
use crate::coro::stack::{self, Stack};
use crate::coro::unwind::AbortIfPanic;
use crate::coro::{Context, Suspender, Turn};
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Kind, Message, State, Task, TaskRef};

/// The clock is read after this many resumptions.
pub(super) const RESUMES_PER_CHECK: u32 = 64;
/// I/O and timers are looked at after this many checks …
pub(super) const CHECKS_PER_TURN: u32 = 16;
/// … or this long, whichever comes first.
const TURN: Nanos = 500_000;
impl Hub {
    /// Runs tasks until the thread's own task is the next. This loop is the event loop.
    ///
    /// # Errors
    ///
    /// Nothing can ever become ready again.
    #[inline(never)]
    pub(super) fn run(&self, mut next: Option<NonNull<Task>>) -> Result<(), Deadlock> {
        let result = 'turns: loop {
            // The target of a switch, what is ready, in order, and what is not started; but only so much before the next look at I/O and timers.
            while self.turn_goes_on() {
                match next.take().or_else(|| self.home.ready().pop_front()) {
                    Some(task) if task == self.main_ptr => break 'turns Ok(()),
                    Some(task) => next = self.resume(task),
                    None => match self.start_work() {
                        Some(target) => next = target,
                        None => {
                            // That was none.
                            self.home.set_countdown(self.home.countdown() + 1);
                            break;
                        }
                    },
                }
            }
            match self.between_runs(next.take()) {
                Ok(Next::Runs(target) | Next::Turn(target)) => next = target,
                Ok(Next::Main) => break Ok(()),
                Err(deadlock) => break Err(deadlock),
            }
        };
        // Who goes on, if with an error.
        self.current.set(self.main_ptr);
        result
    }

    /// What is due when runs do not just go on: those that are to be observed, or a look at I/O and timers. Apart from the loop, which is
    /// the faster for it.
    #[inline(never)]
    fn between_runs(&self, mut next: Option<NonNull<Task>>) -> Result<Next, Deadlock> {
        if self.runs_are_observed() {
            match self.run_observed(next) {
                Next::Turn(target) => next = target,
                other => return Ok(other),
            }
        }
        // One per turn, for a second one that has landed would wait for the first: so before the sleep, whose end may
        // start one, too, and which does not come about then. And the target of a switch goes before it.
        self.start_one();
        if let Some(target) = next {
            self.run_next(self.alive(target));
        }
        self.publish();
        self.begin_turn();
        let waited = self.in_loop(|| {
            let waited = self.wait_for_events();
            self.end_part(Cause::Descriptor);
            self.fire_timers();
            self.end_part(Cause::Timer);
            self.read_mail();
            self.watch_no_more();
            self.end_turn(Cause::Thread);
            waited
        });
        if waited.is_err() {
            self.main_runs();
        }
        waited.map(|()| Next::Runs(None))
    }

    /// Does something on the loop's own behalf: meanwhile nothing may wait.
    #[inline]
    pub(super) fn in_loop<R>(&self, f: impl FnOnce() -> R) -> R {
        self.no_waiting.set(true);
        self.special.set(true);
        let guard = AbortIfPanic("a destructor that the event loop runs has panicked");
        let result = f();
        std::mem::forget(guard);
        self.no_waiting.set(self.is_closing());
        self.special.set(self.is_closing() || self.traced.get());
        result
    }

    /// Whether the current task may switch explicitly, and nobody else has a say in it.
    #[inline(always)]
    pub(crate) fn may_switch_fast(&self) -> bool {
        !self.special.get() && !std::thread::panicking()
    }

    /// A task of this hub, by a reference to it.
    #[inline(always)]
    pub(crate) fn local<'a>(&self, task: &'a TaskRef) -> Option<&'a Task> {
        // SAFETY: a Hub is reached from its own thread only (it is neither Send nor Sync).
        unsafe { task.of_hub(self.incarnation) }
    }

    /// Counts a resumption. `false`: look at I/O and timers first.
    #[inline]
    pub(super) fn turn_goes_on(&self) -> bool {
        let left = self.home.countdown();
        if left > 0 {
            self.home.set_countdown(left - 1);
            return true;
        }
        self.check_the_clock()
    }

    #[cold]
    pub(super) fn check_the_clock(&self) -> bool {
        self.count_anew();
        if self.runs_are_observed() {
            return false;
        }
        let now = self.read_clock();
        let left = self.checks.get();
        if left == 0 || now - self.turn_started.get() >= TURN || self.home.inbox().has_mail() {
            return false;
        }
        self.checks.set(left - 1);
        self.home.set_countdown(self.window.get() - 1);
        self.start_one();
        true
    }

    pub(super) fn fire_timers(&self) {
        let now = self.read_clock();
        self.turn_started.set(now);
        let recorded = self.recorder.is_on();
        self.checks.set(if recorded { RESUMES_PER_CHECK } else { CHECKS_PER_TURN });
        self.count_anew();
        self.timers.borrow_mut().fire_due(now);
    }

    pub(super) fn read_mail(&self) {
        if !self.home.inbox().has_mail() {
            return;
        }
        self.home.inbox().collect().into_iter().for_each(|message| self.read(message));
    }

    pub(super) fn read(&self, message: Message) {
        match message {
            // To read it is to be awake.
            Message::Work => {}
            Message::Land(task) => {
                self.land(task);
            }
            Message::Wake(task, epoch) => on(&task, |task| task.wake(epoch)),
            Message::Interrupt(task, payload) => on(&task, |task| task.interrupt(payload)),
            Message::Unpark(task) => on(&task, Task::unpark),
            Message::Record => self.join_recording(),
            Message::Start(task, at) => on(&task, |task| self.start_at(task, at)),
            Message::Unreferenced(task) => task.unreferenced(),
            Message::Call(letter) => letter.open(),
            Message::Closed { slot, generation } => self.forget_fd(SlotId { index: slot, generation }),
            Message::Poke { slot, generation } => self.poke_fd(SlotId { index: slot, generation }),
        }
    }

    /// A task from the ready queue or the list of the living, or the target of a switch.
    #[inline(always)]
    pub(super) fn alive(&self, ptr: NonNull<Task>) -> &Task {
        // SAFETY: tasks in the queue and in the list are alive; and a switch goes to a task that is, and nobody has run since.
        unsafe { ptr.as_ref() }
    }

    /// Resumes a task until it suspends or ends. Gives the target, if it switches to somebody.
    #[inline(always)]
    pub(super) fn resume(&self, ptr: NonNull<Task>) -> Option<NonNull<Task>> {
        let task = self.alive(ptr);
        self.current.set(ptr);
        // SAFETY: only the hub touches contexts, and it is not inside this one: the loop runs on the thread's
        // own stack, so no context is being resumed now.
        let turn = match unsafe { &mut *task.local.context.get() } {
            Some(context) => context.resume(),
            None => self.start(task),
        };
        match turn {
            Turn::Suspended(next) => next.map(NonNull::cast),
            Turn::Finished => {
                self.finish(task);
                None
            }
        }
    }

    /// Gives a task its stack and runs it for the first time.
    #[inline(never)]
    pub(super) fn start(&self, task: &Task) -> Turn {
        if task.is_place() {
            return self.arrive_at_place(task);
        }
        match self.take_stack(task) {
            Ok(stack) => {
                task.local.stack_low.set(stack.low().as_ptr().expose_provenance());
                // Killed before the time it was to start at: that is no deadline of the first wait in a destructor.
                task.local.deadline.set(NEVER);
                let context = Context::new(stack, task.ptr(), run_task);
                // SAFETY: as in `resume`.
                unsafe { &mut *task.local.context.get() }.insert(context).resume()
            }
            Err(error) => {
                // It ends without having run, which needs no stack. What it is made of is dropped here, in the loop.
                task.local.state.set(State::Ready);
                self.current.set(self.main_ptr);
                let end = match task.take_interrupt() {
                    // It was to end so anyway.
                    Some(interrupt) => interrupt.into_payload(),
                    None => {
                        let text = format!("{} could not be started: {error}", task.shared.title());
                        // Once: at a limit, thousands may fail, and each has it as its result.
                        static SAID: AtomicBool = AtomicBool::new(false);
                        if !SAID.swap(true, Ordering::Relaxed) {
                            sys::write_stderr(format!("switchgrass: {text}\n").as_bytes());
                        }
                        Box::new(text)
                    }
                };
                self.in_loop(|| {
                    task.run_body(Err(end));
                    task.drop_locals();
                });
                Turn::Finished
            }
        }
    }

    pub(super) fn take_stack(&self, task: &Task) -> io::Result<Stack> {
        self.stacks.borrow_mut().take(task.local.stack_size, task.local.measured)
    }

    /// Takes leave of a task that has ended.
    #[inline(never)]
    pub(super) fn finish(&self, task: &Task) {
        let local = &task.local;
        // Until the next one is resumed, the loop is on its own: what is dropped here may unwind others (see `unwind_now`).
        self.current.set(self.main_ptr);
        // SAFETY: as in `resume`; the context has finished.
        if let Some(context) = unsafe { &mut *local.context.get() }.take() {
            let stack = context.into_stack();
            if local.measured {
                // SAFETY: the stack is ours, and idle.
                local.stack_used.set(unsafe { stack::used(stack.low(), stack.size()) });
            }
            local.stack_low.set(0);
            self.stacks.borrow_mut().give_back(stack);
        }
        local.state.set(State::Dead);
        if local.timer.get() != NEVER {
            self.timers.borrow_mut().forget(task);
        }
        self.unlink(task);
        task.shared.ended.set_by(|tell| self.in_loop(tell));
        if task.shared.kind == Kind::Coroutine {
            task.settle_parent();
        }
        // SAFETY: the hub's own reference, given to the list of the living by `adopt`. Nothing of `task` is used after.
        drop(unsafe { TaskRef::from_counted(task.ptr()) });
    }
}

/// Does something with a task that a message names, which is of this hub.
fn on(task: &TaskRef, act: impl FnOnce(&Task)) {
    if let Some(task) = task.here() {
        act(task);
    }
}

/// The entry function of every context.
fn run_task(ptr: NonNull<Task>, suspender: &Suspender) {
    // SAFETY: the hub resumes live tasks only, and keeps them alive until they have ended.
    let task = unsafe { ptr.as_ref() };
    task.local.suspender.set(suspender);
    task.local.state.set(State::Running);
    let start = task.take_interrupt().map_or(Ok(()), |interrupt| Err(interrupt.into_payload()));
    let guard = AbortIfPanic("a panic reached the root of a greenlet's stack");
    task.run_body(start);
    task.drop_locals();
    std::mem::forget(guard);
    // Before the last switch: see `Hub::suspend`.
    task.local.state.set(State::Dead);
}
