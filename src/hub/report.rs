//! What the hub can tell: who runs (to the overflow handler), and who waits for what (when nothing can go on).

use super::inspect::Wanted;
use super::tree::{self, Names};
use super::{HUB, Hub};
use crate::coro::overflow::Running;
use crate::sys;
use crate::sys::mem::page_size;
use crate::task::{State, Task};

/// The reports in this process that some other thread could make wrong name at most this many tasks in full.
const LISTED: usize = 100;
/// … looks for their backtraces at so many, as those that look alike are told of once …
const TRACES: usize = 1000;
/// … and shows so many frames of each.
const FRAMES: usize = 24;

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
        what: task.shared.kind.name(),
        hub: hub.home.address(),
        progress: hub.home.progress(),
        // Nobody waits for the thread's own context, if there is nobody else.
        holds_up: !hub.no_waiting.get() && (!main || hub.live.get().is_some()),
        // In the middle of a switch, the unwind tables do not tell the truth.
        walkable: task.local.state.get() == State::Running && hub.inspection.get().is_none(),
    });
}

impl Hub {
    /// Whether a wake could come from a thread that we know nothing of: there is one, and there
    /// is a handle that it could hold.
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

    /// What a main context gets which waits for what can never come: who waits for what, and where.
    pub(super) fn deadlock_report(&self) -> String {
        let mut text = String::from(
            "this would block forever: nothing is ready, and no timer, descriptor or other thread is left that could make anything ready",
        );
        let snapshot = self.snapshot(Wanted { traces: TRACES, frames: FRAMES, only: None });
        let _ = tree::write_tree(&mut text, &snapshot, &mut Names::new(), 2, LISTED);
        text
    }
}

fn on_main<R>(hub: &Hub, f: impl FnOnce(&Task) -> R) -> R {
    f(hub.main.here().expect("the hub's own task is of this thread"))
}
