//! What the hub can tell: who runs (to the overflow handler), and who waits for what (when nothing can go on).

use std::fmt::Write;

use super::{HUB, Hub};
use crate::coro::overflow::Running;
use crate::sys;
use crate::sys::mem::page_size;
use crate::task::{Kind, State, Task};

/// The reports in this process that some other thread could make wrong name at most this many tasks in full.
const LISTED: usize = 100;

/// Names the task that runs on this thread. Called from a signal handler: reads, and nothing else.
pub(super) fn who_runs(tell: &mut dyn FnMut(&Running<'_>)) {
    let hub = HUB.get();
    if hub.is_null() {
        return;
    }
    // SAFETY: the hub in HUB is alive while it stands there.
    let hub = unsafe { &*hub };
    let task = hub.current();
    let low = task.local.stack_low.get();
    let main = low == 0;
    tell(&Running {
        guard: if main { hub.native_guard.clone() } else { low..low + page_size() },
        size: if main { hub.native_size } else { task.local.stack_size },
        id: task.shared.id,
        name: task.shared.name.as_deref(),
        spawned_at: (!main).then_some(task.shared.spawned_at),
    });
}

impl Hub {
    /// Whether a wake could come from a thread that we know nothing of: there is one, and there is a handle that it could hold.
    pub(super) fn another_thread_may_wake_us(&self) -> bool {
        let reachable = |task: &Task| {
            task.shared.handles.load(super::Ordering::Acquire) > 0
                || (matches!(task.local.state.get(), State::Parked | State::Running)
                    && task.local.reason.get().is_shared())
        };
        let main_waits_for_anyone = on_main(self, reachable);
        if !main_waits_for_anyone && !self.living().iter().any(|task| task.here().is_some_and(reachable)) {
            return false;
        }
        // Threads of ours that have no work cannot wake anybody.
        sys::thread_count().is_none_or(|threads| threads > 1 + crate::task::idle_workers())
    }

    /// The table that a main context gets which waits for what can never come.
    pub(super) fn deadlock_report(&self) -> String {
        let mut text = String::from(
            "this would block forever: nothing is ready, and no timer, descriptor or other thread is left that could make anything ready",
        );
        let line = |text: &mut String, task: &Task| {
            let waits = match task.local.state.get() {
                State::Parked | State::Running => format!("waits: {}", task.local.reason.get()),
                State::Switched => "suspended in a switch: waits for somebody to switch to it".to_owned(),
                State::Exchanging => "waits in a generator's send or yield".to_owned(),
                State::Unstarted if task.shared.kind == Kind::Greenlet => "was never started".to_owned(),
                State::Unstarted => "was never switched to".to_owned(),
                State::Ready | State::Dead => "can run".to_owned(),
            };
            let _ = write!(text, "\n  {}: {waits}", task.shared.title());
            if !self.is_main(task) {
                let _ = write!(text, "; spawned at {}", task.shared.spawned_at);
            }
        };
        on_main(self, |main| line(&mut text, main));
        let mut living = self.living();
        living.reverse();
        for task in living.iter().take(LISTED) {
            if let Some(task) = task.here() {
                line(&mut text, task);
            }
        }
        if living.len() > LISTED {
            let _ = write!(text, "\n  … and {} more", living.len() - LISTED);
        }
        text
    }
}

fn on_main<R>(hub: &Hub, f: impl FnOnce(&Task) -> R) -> R {
    f(hub.main.here().expect("the hub's own task is of this thread"))
}
