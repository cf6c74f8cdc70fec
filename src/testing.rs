//! For this crate's own tests: time without waiting, and a look at what the hub keeps. Not a public interface.

use std::time::Duration;

use crate::coro::stack;
use crate::hub::hub;
use crate::process;

/// From now on the time of this thread's hub stands still while anything is ready, and jumps to the next deadline when
/// nothing is.
pub fn virtual_clock() {
    hub().use_virtual_clock();
}

/// The time of this thread's hub, since a moment that never changes.
pub fn now() -> Duration {
    Duration::from_nanos(hub().read_clock())
}

/// Makes all further stacks of the process guarded as on a kernel before 6.13.
pub fn force_mprotect_guards() {
    stack::force_mprotect_guards();
}

/// From now on the process learns of its children's ends as on a kernel before 5.3, by SIGCHLD.
pub fn force_sigchld() {
    process::force_sigchld();
}

/// How many stacks of this thread's hub are in use, and how many are in its pool.
pub fn stack_counts() -> (usize, usize) {
    hub().stack_counts()
}

/// How many tasks of this thread's hub have not ended, apart from the thread's own.
pub fn live() -> usize {
    hub().live_count.get()
}
