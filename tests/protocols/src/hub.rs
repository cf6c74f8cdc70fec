//! A scheduler for tasks that have a thread each.

#[path = "../../../src/hub/idle.rs"]
pub(crate) mod idle;

use std::time::Duration;

use crate::coro::unwind;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{self, GreenletExit, Reason, Task, Waker};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wake {
    Notified,
    TimedOut,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unwinding;

/// That of the current thread.
pub(crate) struct Hub(());

pub(crate) fn hub() -> &'static Hub {
    &Hub(())
}

pub(crate) fn be_fair() {}

impl Hub {
    pub(crate) fn current(&self) -> &Task {
        task::current().expect("only a task waits")
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker::new(self.current())
    }

    pub(crate) fn deadline(&self, duration: Duration) -> Nanos {
        u64::try_from(duration.as_nanos()).unwrap()
    }

    /// Nobody here waits in a destructor.
    pub(crate) fn is_unwinding(&self) -> bool {
        false
    }

    pub(crate) fn refuses_to_suspend(&self) -> bool {
        false
    }

    pub(crate) fn may_suspend(&self, _: Reason) -> Result<&Task, Unwinding> {
        Ok(self.current())
    }

    pub(crate) fn any_below(&self, _: usize) -> usize {
        0
    }

    pub(crate) fn disregard_wakes(&self) {
        let local = &self.current().local;
        local.notified.set(false);
        local.epoch.set(local.epoch.get().wrapping_add(1));
    }

    /// As the library's, with the same order of the same steps: a kill comes before all, a wake before a deadline.
    pub(crate) fn park(&self, _: Reason, deadline: Nanos) -> Result<Wake, Unwinding> {
        let task = self.current();
        let local = &task.local;
        loop {
            task.read_mail();
            let notified = local.notified.get();
            let timed_out = deadline != NEVER && local.expired.get();
            if notified || timed_out || local.killed.get() {
                local.notified.set(false);
                local.epoch.set(local.epoch.get().wrapping_add(1));
                if local.killed.take() {
                    unwind::raise(Box::new(GreenletExit));
                }
                return Ok(if notified { Wake::Notified } else { Wake::TimedOut });
            }
            crate::model::thread::park();
        }
    }
}
