//! Waiting below frames that are not ours: those of a C library, or of std, that call what they take for libc.
//!
//! Nothing may unwind through them. So a kill and a timeout that has run out stay pending, and end the wait with a
//! verdict; the next wait of our own unwinds.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use super::{Direction, Hub, Listed, SlotId, Waits, Wake};
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::sys::fork::generation;
use crate::sys::hooks;
use crate::task::{Ended, Handlers, Listener, Reason, State, Task, TaskRef};

/// How a wait for foreign frames ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Somebody called the waker; or nothing has happened.
    Woken,
    /// The deadline given has passed.
    TimedOut,
    /// A timeout scope around has run out.
    Expired,
    /// A kill, or something else to be raised, is pending.
    Killed,
    /// A signal handler has run on this thread meanwhile.
    Interrupted,
}

impl Hub {
    /// Whether the current context may wait on behalf of foreign frames.
    #[inline]
    pub(crate) fn may_wait_for_foreign_frames(&self) -> bool {
        !self.no_waiting.get()
            && self.current().local.state.get() == State::Running
            && !std::thread::panicking()
            && !hooks::are_aside()
            && self.process.get() == generation()
    }

    /// The loop runs, in this process. (In a child, that is a hub of its own only then.)
    pub(super) fn is_of_this_process(&self) {
        self.process.set(generation());
    }

    /// What is pending against the current task.
    #[inline]
    pub(crate) fn verdict(&self) -> Verdict {
        let task = self.current();
        if task.local.interrupted.get() {
            Verdict::Killed
        } else if !task.local.scopes.get().is_null() && self.nearest_scope_of_all(task) <= self.read_clock() {
            Verdict::Expired
        } else {
            Verdict::Woken
        }
    }

    /// Waits for a wake. Does not unwind.
    pub(crate) fn park_foreign(&self, reason: Reason, deadline: Nanos, ended_by: Handlers) -> Verdict {
        self.foreign(deadline, ended_by, |deadline| self.park(reason, deadline).unwrap_or(Wake::Notified))
    }

    /// Waits for a wake, whatever is pending against the task.
    pub(crate) fn park_unbroken(&self, reason: Reason, deadline: Nanos) -> Verdict {
        // Refused only while unwinding, when nobody comes here.
        match self.wait_below(|| self.park(reason, deadline)) {
            Ok(Wake::TimedOut) => Verdict::TimedOut,
            _ => Verdict::Woken,
        }
    }

    /// Calls `f`, whose waits do not unwind.
    pub(crate) fn unbroken<R>(&self, f: impl FnOnce() -> R) -> R {
        let _masked = Unbroken::begin(self.current());
        f()
    }

    /// As [`Hub::wait_ended`] of what ends elsewhere, without unwinding.
    pub(crate) fn wait_ended_foreign(&self, ended: &Ended, reason: Reason) -> Verdict {
        let _outside = self.outside_wait();
        loop {
            let waker = self.waker();
            if ended.is_set() || ended.add(Listener::Task(waker.clone())).is_err() {
                return Verdict::Woken;
            }
            let _listed = Listed { ended, waker };
            match self.park_foreign(reason, NEVER, Handlers::None) {
                Verdict::Woken => {}
                // If it has ended at the same time, that counts.
                _ if ended.is_set() => return Verdict::Woken,
                verdict => return verdict,
            }
        }
    }

    /// Has a function called before (`true`) and after the loop looks for events.
    pub(crate) fn set_around_events(&self, f: fn(bool)) {
        self.around_events.set(Some(f));
    }

    /// Waits for the next edge of a descriptor. Does not unwind. Others may wait for the same.
    pub(crate) fn wait_fd_foreign(
        &self,
        id: SlotId,
        fd: BorrowedFd<'_>,
        direction: Direction,
        reason: Reason,
        deadline: Nanos,
        ended_by: Handlers,
    ) -> io::Result<Verdict> {
        let mut result = Ok(());
        let verdict = self.foreign(deadline, ended_by, |deadline| {
            self.wait_fd(id, fd, direction, reason, deadline, Waits::ForIt).unwrap_or_else(|error| {
                result = Err(error);
                Wake::Notified
            })
        });
        result.map(|()| verdict)
    }

    /// Waits for the next edge of a descriptor, whatever is pending against the task.
    pub(crate) fn wait_fd_unbroken(
        &self,
        id: SlotId,
        fd: BorrowedFd<'_>,
        direction: Direction,
        reason: Reason,
        deadline: Nanos,
    ) -> io::Result<Verdict> {
        let wake = self.unbroken(|| self.wait_fd(id, fd, direction, reason, deadline, Waits::ForIt))?;
        Ok(if wake == Wake::TimedOut { Verdict::TimedOut } else { Verdict::Woken })
    }

    /// Lets others run that are ready. Does not unwind.
    pub(crate) fn yield_foreign(&self) {
        let _masked = Unbroken::begin(self.current());
        self.yield_now();
    }

    /// As [`Hub::be_fair`], without unwinding.
    #[inline]
    pub(crate) fn be_fair_foreign(&self) {
        let _masked = Unbroken::begin(self.current());
        self.be_fair();
    }

    fn foreign(&self, deadline: Nanos, ended_by: Handlers, wait: impl FnOnce(Nanos) -> Wake) -> Verdict {
        let handled = self.home.handled(ended_by);
        let pending = self.verdict();
        if pending != Verdict::Woken {
            // Who tries again for as long as the call fails must not keep the others from running.
            self.be_fair_foreign();
            return pending;
        }
        let task = self.current();
        let deadline = deadline.min(self.nearest_scope_of_all(task));
        task.local.ended_by.set(ended_by);
        let wake = self.wait_below(|| wait(deadline));
        task.local.ended_by.set(Handlers::None);
        match self.verdict() {
            Verdict::Woken if wake == Wake::TimedOut => Verdict::TimedOut,
            Verdict::Woken if self.home.handled(ended_by) != handled => Verdict::Interrupted,
            verdict => verdict,
        }
    }

    /// Calls `wait`, which does not unwind. A main context that can never go on stays there, as it
    /// would without us; but it says so.
    #[inline]
    fn wait_below<T>(&self, wait: impl FnOnce() -> T) -> T {
        let is_main = self.is_main(self.current());
        let _outside = (is_main && self.foreign_deadlock.get()).then(|| self.outside_wait());
        self.foreign_wait.set(is_main);
        let result = self.unbroken(wait);
        if is_main {
            self.foreign_wait.set(false);
        }
        result
    }

    /// If a signal handler has run on this thread since the last look, ends the waits that it ends. POSIX has it end
    /// the call in which the thread blocks: here, the thread blocks in all of them.
    #[inline]
    pub(super) fn look_for_signals(&self) {
        let handled = self.home.handled(Handlers::All);
        if handled != self.signals_seen.get() {
            self.end_waits(handled);
        }
    }

    #[cold]
    fn end_waits(&self, handled: u32) {
        self.signals_seen.set(handled);
        let unrestarted = self.home.handled(Handlers::NotRestarting);
        let no_restart = self.unrestarted_seen.replace(unrestarted) != unrestarted;
        for task in self.living().iter().chain([&self.main]).filter_map(TaskRef::here) {
            let is_meant = match task.local.ended_by.get() {
                Handlers::None => false,
                Handlers::NotRestarting => no_restart,
                Handlers::All => true,
            };
            if is_meant && task.local.state.get() == State::Parked {
                task.wake(task.local.epoch.get());
            }
        }
    }

    /// Main waits for foreign frames, and nothing can wake it. `true`: it goes on waiting.
    pub(super) fn stays_in_deadlock(&self) -> bool {
        if !self.foreign_wait.replace(false) {
            return false;
        }
        if !self.foreign_deadlock.replace(true) {
            let report = self.deadlock_report();
            sys::write_stderr(
                format!("switchgrass: {report}\n(the call is libc's, through which nothing can be raised, so it blocks for good)\n")
                    .as_bytes(),
            );
        }
        true
    }
}

/// While it exists, nothing unwinds from a wait of that task.
struct Unbroken<'a>(&'a Task);

impl<'a> Unbroken<'a> {
    #[inline]
    fn begin(task: &'a Task) -> Self {
        task.local.masked.set(task.local.masked.get() + 1);
        Unbroken(task)
    }
}

impl Drop for Unbroken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.local.masked.set(self.0.local.masked.get() - 1);
    }
}
