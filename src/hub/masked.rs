//! Waiting where nobody may leave before what is waited for has come: what a scope lends out must be back first.

#![forbid(unsafe_code)]

use super::hub;
use crate::task::TaskRef;

/// While it exists, the current task is neither killed nor timed out; both stay pending.
#[derive(Debug)]
pub(crate) struct Masked(TaskRef);

impl Masked {
    pub(crate) fn new() -> Self {
        let hub = hub();
        hub.begin_to_insist();
        let task = hub.current().to_ref();
        Masked::count(&task, 1);
        Masked(task)
    }

    fn count(task: &TaskRef, change: i32) {
        let task = task.here().expect("a greenlet stays on its thread");
        task.local.masked.set(task.local.masked.get().wrapping_add_signed(change));
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        Masked::count(&self.0, -1);
    }
}
