//! What becomes of the hub in the child of a `fork`.
//!
//! The child has one OS thread. What it shares with its parent is the open files, among them the epoll instance: so the
//! child never touches that one, and opens its own when it waits for the first time. Who goes on there:
//!
//! - the task that called `fork`, and the thread's own task;
//! - those that are suspended in an explicit switch, or were never started: nobody runs them but who switches to them,
//!   so they are like any other value of the program.
//!
//! All others, which the hub would run, run in the parent only. In the child they are dead: they never run, their
//! destructors do not either, and their stacks stay as they are, for others may borrow from them.

use std::sync::Once;

use super::{Hub, existing};
use crate::sys;
use crate::sys::clock::NEVER;
use crate::sys::fork;
use crate::task::{Home, State, Task};

/// Sees to it that a child of this process finds everything as it should be there: what the
/// hubs have, and what `task` counts.
pub(crate) fn watch_forks() {
    static WATCHED: Once = Once::new();
    extern "C" fn prepare() {
        Home::before_fork();
    }
    extern "C" fn in_parent() {
        Home::after_fork();
    }
    extern "C" fn in_child() {
        Home::after_fork_in_child();
        if let Some(hub) = existing() {
            hub.begin_anew();
        }
    }
    WATCHED.call_once(|| fork::at_fork(prepare, in_parent, in_child));
}

impl Hub {
    fn begin_anew(&self) {
        if self.in_the_loop() {
            sys::abort(
                "fork was called by a destructor that the event loop runs: the child has nobody to go on as",
            );
        }
        let poller = self.poller.borrow_mut().take();
        drop(self.timers.take());
        self.leave_team_behind();
        self.outside_waits.set(0);
        let main_is_ready = self.main_task().local.state.get() == State::Ready;
        self.home.ready().clear();
        if main_is_ready {
            self.home.ready().push_back(self.main_task());
        }

        self.keep_deadline(self.main_task());
        let mut next = self.live.get();
        while let Some(ptr) = next {
            // SAFETY: it is in the list, so alive.
            let task = unsafe { ptr.as_ref() };
            next = task.local.live.1.get();
            if self.goes_on(task) {
                self.keep_deadline(task);
            } else {
                // The list's reference is never given back, so that nothing of the task is ever dropped.
                self.unlink(task);
                task.local.state.set(State::Dead);
                task.local.timer.set(NEVER);
                task.local.deadline.set(NEVER);
                task.shared.ended.set_left_behind();
            }
        }

        // Main may have waited for a descriptor. It looks again, and waits with the new poller.
        if let Some(mut poller) = poller {
            poller.wake_all();
        }
    }

    fn goes_on(&self, task: &Task) -> bool {
        match task.local.state.get() {
            State::Running | State::Switched | State::Exchanging => true,
            // Not one that the hub would start when its time has come.
            State::Unstarted => task.is_to_be_started(),
            State::Ready | State::Parked | State::Dead => false,
        }
    }

    fn keep_deadline(&self, task: &Task) {
        task.local.timer.set(NEVER);
        let deadline = task.local.deadline.get();
        if deadline != NEVER {
            self.timers.borrow_mut().arm(task, deadline);
        }
    }

    /// The thread's own task.
    pub(crate) fn main_task(&self) -> &Task {
        self.main.here().expect("the hub's own task is of this thread")
    }
}
