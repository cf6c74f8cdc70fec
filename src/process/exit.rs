//! How to learn that a child has ended: by a descriptor for the process (pidfd, Linux 5.3), else by SIGCHLD.
//!
//! Either tells only that it is worth looking. Looking is `waitpid` for that one child, without waiting.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::descriptor::{Direction, Io};
use crate::hub::{Wake, hub};
use crate::signal::{self, SIGCHLD, SignalHandler};
use crate::sys;
use crate::sys::clock::Nanos;
use crate::task::{Reason, Waker};

/// For tests: do without pidfds.
static FORCE_SIGCHLD: AtomicBool = AtomicBool::new(false);

pub(crate) fn force_sigchld() {
    FORCE_SIGCHLD.store(true, Ordering::Relaxed);
}

/// A descriptor for a child. `None` if the system has no such thing, or does not allow it (a sandbox
/// that does not know the call yet).
pub(super) fn pidfd(pid: u32) -> io::Result<Option<Io<OwnedFd>>> {
    if FORCE_SIGCHLD.load(Ordering::Relaxed) {
        return Ok(None);
    }
    match sys::process::pidfd_open(pid) {
        Ok(fd) => Ok(Some(Io::new(fd))),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

/// Calls `look` whenever the child may have ended, until it gives something. `None`: the deadline has passed. May switch.
pub(super) fn wait<R>(
    pid: u32,
    pidfd: Option<&Io<OwnedFd>>,
    deadline: Nanos,
    mut look: impl FnMut() -> io::Result<Option<R>>,
) -> io::Result<Option<R>> {
    // Before the first look, so that none is missed.
    let by_signal = if pidfd.is_none() { Some(ChildSignal::of_this_thread()?) } else { None };
    loop {
        if let Some(result) = look()? {
            return Ok(Some(result));
        }
        let wake = match (pidfd, &by_signal) {
            (Some(pidfd), _) => match pidfd.wait(Direction::Read, "end of child by pidfd", deadline) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Wake::TimedOut,
                result => result.map(|()| Wake::Notified)?,
            },
            (None, Some(by_signal)) => by_signal.wait(pid, deadline)?,
            (None, None) => unreachable!("without a descriptor there is the signal"),
        };
        if wake == Wake::TimedOut {
            return look();
        }
    }
}

thread_local! {
    static CHILD_SIGNAL: RefCell<Weak<ChildSignal>> = const { RefCell::new(Weak::new()) };
}

/// SIGCHLD, for all greenlets of a thread that wait for a child. Handled as long as there is one.
struct ChildSignal {
    waiting: Rc<RefCell<Vec<Waker>>>,
    _handler: SignalHandler,
}

impl ChildSignal {
    fn of_this_thread() -> io::Result<Rc<ChildSignal>> {
        // While the thread-locals are destroyed, each wait has its own.
        let shared = CHILD_SIGNAL.try_with(|shared| shared.borrow().upgrade());
        if let Ok(Some(shared)) = shared {
            return Ok(shared);
        }
        let waiting = Rc::<RefCell<Vec<Waker>>>::default();
        let handler = {
            let waiting = Rc::clone(&waiting);
            // Several children may have ended by now: equal signals that are pending are one.
            signal::handle(SIGCHLD, move || waiting.take().iter().for_each(Waker::wake))?
        };
        let new = Rc::new(ChildSignal { waiting, _handler: handler });
        let _ = CHILD_SIGNAL.try_with(|shared| shared.replace(Rc::downgrade(&new)));
        Ok(new)
    }

    /// Waits until a child has ended, whichever.
    fn wait(&self, pid: u32, deadline: Nanos) -> io::Result<Wake> {
        let hub = hub();
        let reason = Reason::of("end of child process", u64::from(pid));
        hub.may_suspend(reason)?;
        let waker = hub.waker();
        self.waiting.borrow_mut().push(waker.clone());
        let _listed = Listed { waiting: &self.waiting, waker };
        let _outside = hub.outside_wait();
        Ok(hub.park(reason, deadline)?)
    }
}

struct Listed<'a> {
    waiting: &'a RefCell<Vec<Waker>>,
    waker: Waker,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.waiting.borrow_mut().retain(|other| !other.is(&self.waker));
    }
}
