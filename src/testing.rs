//! For this crate's own tests: time without waiting, and a look at what the hub keeps. Not a public interface.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::coro::{sample, stack};
use crate::hub::{Direction, hub};
use crate::monitor::{Report, Watch};
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

/// How many slots this thread's hub has for descriptors that it watches, at least so many, which are taken for this.
/// Those that were given back are taken first.
pub fn slots(taken: usize) -> usize {
    let pipes: Vec<_> = (0..taken).map(|_| std::io::pipe().expect("there is a descriptor left")).collect();
    let watched: Vec<_> = pipes
        .iter()
        .map(|(fd, _)| (fd, hub().register_fd(fd.as_fd(), Direction::Read).expect("a pipe can be watched")))
        .collect();
    let highest = watched.iter().map(|(_, slot)| slot.index as usize).max();
    watched.iter().for_each(|(fd, slot)| hub().close_fd(*slot, fd.as_fd(), false));
    highest.map_or(0, |index| index + 1)
}

/// What the tables of `monkey` keep: waits in the table of addresses, greenlets that are counted as waiting for objects
/// of pthread's, mutexes that greenlets of this thread have, barriers, and registrations of descriptors.
#[cfg(feature = "monkey")]
pub fn kept_by_monkey() -> [usize; 5] {
    crate::monkey::kept()
}

/// A monitor that looks when it is told to, as if a period had passed since the last time.
#[derive(Debug)]
pub struct Looks(Watch);

impl Looks {
    /// One that has not looked yet.
    #[expect(clippy::new_without_default, reason = "it changes the process")]
    pub fn new() -> Self {
        sample::install(sample::DEFAULT).expect("SIGURG can be handled");
        Looks(Watch::new(Duration::from_millis(100), sample::DEFAULT))
    }

    /// What it reports. Not to be called on a thread with a hub.
    pub fn look(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        self.0.look(&mut |report| reports.push(report.clone()));
        reports
    }
}
