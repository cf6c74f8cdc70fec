//! The end of a hub: with its thread, or because nothing can go on.
//!
//! When a thread ends (for the main thread: when `main` returns), its hub unwinds every greenlet, coroutine and
//! generator that has not ended, so that their destructors run. They cannot wait for anything any more: each attempt
//! raises [`GreenletExit`] anew. Whoever catches that again and again is given up: its stack stays as it is, unseen,
//! and its memory is not used again.
//!
//! Under `panic = "abort"` nothing can be unwound, and everything is given up as it is.
//!
//! If the process exits from within a greenlet (`std::process::exit`), the thread-locals are destroyed on the
//! greenlet's own stack. Nothing can be unwound then, and nothing is.

use super::record::Cause;
use super::{Hub, State};
use crate::coro::unwind;
use crate::sys;
use crate::task::{GreenletExit, Message};

/// How many more waits each task may be refused before it is given up.
const PATIENCE: u32 = 64;

impl Hub {
    /// Unwinds what is left. Gives what is to be dropped after the hub. `None`: this is no place to do that
    /// from, leave everything as it is.
    pub(super) fn close(&self) -> Option<Vec<Message>> {
        let living = self.living();
        if !self.is_main(self.current()) || self.no_waiting.get() {
            return None;
        }
        self.home.refuse_signals();
        let refusals =
            u32::try_from(living.len()).unwrap_or(u32::MAX).saturating_add(1).saturating_mul(PATIENCE);
        self.closing.set(Some(refusals));
        self.no_waiting.set(true);
        // From here on this function is the loop.
        self.end_run(Cause::Task);
        self.current().local.state.set(State::Parked);
        self.special.set(true);
        self.current().drop_locals();
        // Oldest first, as they were spawned. Destructors may spawn more, and a task may catch the exit: so again,
        // until nobody is left or it is enough.
        let rounds = if unwind::is_possible() { PATIENCE } else { 0 };
        for _ in 0..rounds {
            let living = self.living();
            for task in living.iter().rev().filter_map(|task| task.here()) {
                task.interrupt(Box::new(GreenletExit));
            }
            self.run_while_closing();
            // Who waits for another thread now is masked, since all others were refused: what it has lent to that
            // thread must be back before its frame can go.
            while self.outside_waits.get() > 0 {
                self.sleep_until_mail();
                self.read_mail();
                self.run_while_closing();
            }
            if self.live.get().is_none() {
                break;
            }
        }
        for task in self.living() {
            if let Some(task) = task.here() {
                task.local.state.set(State::Dead);
            }
            task.shared().ended.set();
        }
        self.main.shared().ended.set();
        self.current.set(self.main_ptr);
        if let Some(main) = self.main.here() {
            main.local.state.set(State::Dead);
        }
        Some(self.home.move_out())
    }

    fn run_while_closing(&self) {
        let mut next = None;
        while let Some(task) = next.take().or_else(|| self.home.ready().pop_front()) {
            if task != self.main_ptr {
                next = self.resume_to_close(task);
            }
        }
    }

    /// A task wants to wait while its hub closes: it is to unwind, or to stop for good. A masked one may wait for
    /// others to unwind.
    pub(super) fn deny_while_closing(&self) {
        let task = self.current();
        match self.closing.get() {
            Some(_) if task.local.masked.get() > 0 => {}
            Some(0) if !self.is_main(task) => {
                // It has caught every exit so far. Nobody resumes it.
                task.local.state.set(State::Parked);
                loop {
                    let _ = self.suspend(task, None);
                }
            }
            Some(left) => {
                self.closing.set(Some(left.saturating_sub(1)));
                unwind::raise(Box::new(GreenletExit));
            }
            None => {}
        }
    }

    /// The thread's own task waits for the children of a scope, which it must not leave before they have ended. They
    /// were killed, yet they wait again, for what can never come: kill them once more.
    #[cold]
    pub(super) fn kill_all_for_deadlock(&self) {
        let round = self.deadlocks.get() + 1;
        self.deadlocks.set(round);
        let living = self.living();
        let waiting = || {
            living.iter().filter_map(|task| task.here()).filter(|task| task.local.state.get().is_suspended())
        };
        if round > PATIENCE || waiting().next().is_none() {
            sys::abort(&format!(
                "{}\nand a scope cannot be left before its greenlets have ended",
                self.deadlock_report()
            ));
        }
        waiting().for_each(|task| task.interrupt(Box::new(GreenletExit)));
    }
}
