//! Deadlines of one hub.
//!
//! A task waits for one thing at a time, so it needs one timer: the deadline of its present park. The heap
//! has one entry for it, and that entry is not moved when the deadline changes:
//!
//! - *Cancelling* touches the task only. The entry stays.
//! - *Arming* again with a later deadline touches the task only. When the entry comes up, it is renewed.
//! - Only an earlier deadline than the entry's pushes a new one; the old one is garbage then.
//!
//! So a connection that reads with a timeout of 30 s a thousand times a second pushes an entry each 30 s.
//! Garbage is swept when it is half of the heap.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Task, TaskRef};

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Entry>,
    /// Counts the entries: those with the same deadline come up in the order of their making.
    next_seq: u64,
    /// About how many entries belong to no deadline any more.
    garbage: usize,
}

#[derive(Debug)]
struct Entry {
    deadline: Nanos,
    seq: u64,
    task: TaskRef,
}

impl Timers {
    /// Has `task` made ready at `deadline`, instead of at any deadline it had before.
    #[inline]
    pub(crate) fn arm(&mut self, task: &Task, deadline: Nanos) {
        task.local.deadline.set(deadline);
        if deadline < task.local.timer.get() {
            if task.local.timer.get() != NEVER {
                self.drop_entry();
            }
            self.push(task, deadline);
        }
    }

    /// `task` has ended and will not need its entry any more.
    #[inline]
    pub(crate) fn forget(&mut self, task: &Task) {
        task.local.deadline.set(NEVER);
        if task.local.timer.replace(NEVER) != NEVER {
            self.drop_entry();
        }
    }

    /// The earliest deadline that somebody really waits for.
    pub(crate) fn next_deadline(&mut self) -> Option<Nanos> {
        loop {
            let entry = self.heap.peek()?;
            let task = entry.task.here().expect("timers hold tasks of their own hub");
            if task.local.timer.get() == entry.deadline && task.local.deadline.get() == entry.deadline {
                return Some(entry.deadline);
            }
            self.settle_first();
        }
    }

    /// Makes the tasks ready whose deadline has come.
    pub(crate) fn fire_due(&mut self, now: Nanos) {
        while self.heap.peek().is_some_and(|entry| entry.deadline <= now) {
            let entry = self.heap.peek().expect("it was there a line ago");
            let task = entry.task.here().expect("timers hold tasks of their own hub");
            if task.local.timer.get() == entry.deadline && task.local.deadline.get() <= now {
                let task = self.heap.pop().expect("it was there a line ago").task;
                let task = task.here().expect("timers hold tasks of their own hub");
                task.local.timer.set(NEVER);
                task.local.deadline.set(NEVER);
                if task.local.state.get().is_suspended() {
                    task.local.timed_out.set(true);
                    task.make_ready();
                }
            } else {
                self.settle_first();
            }
        }
    }

    /// Removes the first entry, or renews it where its task has a later deadline by now.
    fn settle_first(&mut self) {
        let Some(entry) = self.heap.pop() else { return };
        let task = entry.task.here().expect("timers hold tasks of their own hub");
        if task.local.timer.get() != entry.deadline {
            self.garbage = self.garbage.saturating_sub(1);
            return;
        }
        task.local.timer.set(NEVER);
        let deadline = task.local.deadline.get();
        if deadline != NEVER {
            self.push(task, deadline);
        }
    }

    /// How many deadlines are kept: all that somebody waits for, and those that were given up and are not due yet.
    pub(crate) fn kept(&self) -> usize {
        self.heap.len().saturating_sub(self.garbage)
    }

    fn push(&mut self, task: &Task, deadline: Nanos) {
        task.local.timer.set(deadline);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.heap.push(Entry { deadline, seq, task: task.to_ref() });
    }

    fn drop_entry(&mut self) {
        self.garbage += 1;
        // A few are not worth a sweep.
        if self.garbage > 64 && self.garbage > self.heap.len() / 2 {
            self.garbage = 0;
            self.heap.retain(|entry| {
                entry.task.here().is_some_and(|task| task.local.timer.get() == entry.deadline)
            });
        }
    }
}

// The heap gives out its greatest entry first: the one with the earliest deadline.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.deadline, other.seq).cmp(&(self.deadline, self.seq))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}
