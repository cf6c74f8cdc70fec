//! The loop: [`Hub::run`] and what it is made of.

use std::cell::RefMut;
use std::io;
use std::ptr::NonNull;
use std::time::Duration;

use super::observe::Next;
use super::record::Cause;
use super::{Deadlock, Hub, Poller, SlotId};
use crate::coro::stack::{self, Stack};
use crate::coro::unwind::AbortIfPanic;
use crate::coro::{Context, Suspender, Turn};
use crate::sys;
use crate::sys::clock::{self, NEVER, Nanos};
use crate::task::{Kind, Message, State, Task, TaskRef};

/// The clock is read after this many resumptions.
pub(super) const RESUMES_PER_CHECK: u32 = 64;
/// I/O and timers are looked at after this many checks …
pub(super) const CHECKS_PER_TURN: u32 = 16;
/// … or this long, whichever comes first.
const TURN: Nanos = 500_000;
/// After so long without an event, memory that was kept for the next tasks goes back to the system …
const QUIET: Duration = Duration::from_millis(10);
/// … of so many stacks at a time: less than a millisecond's work.
const STACKS_SWEPT_IDLE: usize = 1024;
/// A busy hub sweeps so many per turn: less than one part in a hundred of its time.
const STACKS_SWEPT_BUSY: usize = 8;
/// How often a hub that only another thread could wake looks whether there is another thread.
const LONELY_CHECK: Duration = Duration::from_secs(1);

impl Hub {
    /// Runs tasks until the thread's own task is the next. This loop is the event loop.
    ///
    /// # Errors
    ///
    /// Nothing can ever become ready again.
    #[inline(never)]
    pub(super) fn run(&self, mut next: Option<NonNull<Task>>) -> Result<(), Deadlock> {
        loop {
            // The target of a switch, then what is ready, in order; but only so much before the next look at I/O and timers.
            while self.turn_goes_on() {
                match next.take().or_else(|| self.home.ready().pop_front()) {
                    Some(task) if task == self.main_ptr => {
                        self.current.set(task);
                        return Ok(());
                    }
                    Some(task) => next = self.resume(task),
                    None => {
                        // That was none.
                        self.home.set_countdown(self.home.countdown() + 1);
                        break;
                    }
                }
            }
            if self.runs_are_observed() {
                match self.run_observed(&mut next) {
                    Next::Main => return Ok(()),
                    Next::Unobserved => continue,
                    Next::Turn => {}
                }
            }
            if let Some(target) = next.take() {
                // SAFETY: a switch goes to a task that is alive, and nobody has run since.
                self.run_next(unsafe { target.as_ref() });
            }

            self.publish();
            self.begin_turn();
            let waited = self.in_loop(|| {
                let waited = self.wait_for_events();
                self.end_part(Cause::Descriptor);
                self.fire_timers();
                self.end_part(Cause::Timer);
                self.read_mail();
                self.end_turn(Cause::Thread);
                waited
            });
            if let Err(deadlock) = waited {
                // The thread's own task goes on, with the error.
                self.current.set(self.main_ptr);
                self.main_runs();
                return Err(deadlock);
            }
        }
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
        true
    }

    /// Looks at I/O: without waiting if something is ready, else until the next deadline.
    pub(super) fn wait_for_events(&self) -> Result<(), Deadlock> {
        if !self.home.ready().is_empty() || self.home.inbox().has_mail() {
            if self.has_sources() {
                self.poll(Some(Duration::ZERO));
            }
            self.tidy_up_a_little();
            return Ok(());
        }
        let timeout = match self.timers.borrow_mut().next_deadline() {
            Some(deadline) => Some(Duration::from_nanos(deadline.saturating_sub(self.read_clock()))),
            None if self.outside_waits.get() > 0 => None,
            None if self.another_thread_may_wake_us() => Some(LONELY_CHECK),
            // Whoever could have woken us may have done so just now, and gone.
            None if self.home.inbox().has_mail() => return Ok(()),
            // A signal that has come already is still to be handled, though nobody may wait for the next one.
            None if self.has_sources() => {
                self.poll(Some(Duration::ZERO));
                return if self.home.ready().is_empty() { Err(Deadlock) } else { Ok(()) };
            }
            None => return Err(Deadlock),
        };
        if timeout == Some(Duration::ZERO) {
            // A deadline has passed. Yet I/O has its turn, or short sleeps would starve it.
            if self.has_sources() {
                self.poll(timeout);
            }
            return Ok(());
        }
        if self.virtual_now.get().is_some() && self.jump_to_next_deadline() {
            return Ok(());
        }
        // First, for who finds the hub asleep must find the alarm set.
        drop(self.poller());
        let untidy = self.stacks.borrow().has_dirt(false) || self.home.keeps_much();
        let may_be_quiet = untidy && timeout.is_none_or(|timeout| timeout > QUIET);
        if self.home.inbox().fall_asleep() {
            self.poll(if may_be_quiet { Some(QUIET) } else { timeout });
            self.home.inbox().wake_up();
        }
        if may_be_quiet && self.home.ready().is_empty() && !self.home.inbox().has_mail() {
            self.stacks.borrow_mut().sweep(STACKS_SWEPT_IDLE);
            self.home.trim();
        } else {
            self.tidy_up_a_little();
        }
        Ok(())
    }

    /// Gives some of the memory back that is kept for the next tasks, if it is very much.
    pub(super) fn tidy_up_a_little(&self) {
        if self.stacks.borrow().has_dirt(true) {
            self.stacks.borrow_mut().sweep(STACKS_SWEPT_BUSY);
        }
    }

    fn has_sources(&self) -> bool {
        self.poller.borrow().as_ref().is_some_and(Poller::has_sources)
    }

    pub(super) fn poll(&self, timeout: Option<Duration>) {
        self.home.meter.polls.add(1);
        let began = if self.recorder.is_on() { Some(clock::now()) } else { None };
        if let Err(error) = self.poller().poll(timeout) {
            sys::abort(&format!("waiting for events failed: {error}"));
        }
        if let Some(began) = began {
            self.record_poll(began, timeout != Some(Duration::ZERO));
        }
    }

    /// Waits for a message from another thread, and for nothing else.
    pub(super) fn sleep_until_mail(&self) {
        // First, for who finds the hub asleep must find the alarm set.
        drop(self.poller());
        if self.home.inbox().fall_asleep() {
            self.poll(None);
            self.home.inbox().wake_up();
        }
    }

    pub(super) fn poller(&self) -> RefMut<'_, Poller> {
        RefMut::map(self.poller.borrow_mut(), |slot| {
            self.open_poller(slot).unwrap_or_else(|error| {
                // Without its poller the hub can neither wait nor be woken; nobody could handle that.
                sys::abort(&format!("cannot wait for events: {error} (each thread that waits needs two descriptors: see `ulimit -n`)"))
            })
        })
    }

    pub(super) fn open_poller<'a>(&self, slot: &'a mut Option<Poller>) -> io::Result<&'a mut Poller> {
        if slot.is_none() {
            let poller = Poller::new()?;
            self.home.set_alarm(poller.alarm()?, poller.as_raw_fd());
            *slot = Some(poller);
        }
        Ok(slot.as_mut().expect("it was just opened"))
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
        for message in self.home.inbox().collect() {
            match message {
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
                        static SAID: std::sync::Once = std::sync::Once::new();
                        SAID.call_once(|| sys::write_stderr(format!("switchgrass: {text}\n").as_bytes()));
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
