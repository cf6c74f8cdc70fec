//! The typed part of a greenlet: its closure, and its result on the way to whoever joins.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use super::result::ResultPart;
use crate::coro::unwind::{self, Payload};
use crate::task::{Body, GreenletExit, Message, State, Task, TaskRef};

pub(super) struct Packet<F, T> {
    pub(super) result: ResultPart<T>,
    /// Taken at the first run, by the greenlet's thread.
    f: Cell<Option<F>>,
}

impl<F, T> Packet<F, T> {
    #[inline]
    pub(super) fn new(f: F, unhandled: *const AtomicBool) -> Self {
        Packet { result: ResultPart::new(unhandled), f: Cell::new(Some(f)) }
    }
}

impl<F: FnOnce() -> T, T> Body for Packet<F, T> {
    fn run(&self, _task: &Task, start: Result<(), Payload>) {
        let f = self.f.take();
        let value = match start {
            Ok(()) => unwind::catch(f.expect("a greenlet runs once")),
            // Killed before its first run. A panic of what it drops is nobody's result.
            Err(payload) => {
                let _ = unwind::catch(|| drop(f));
                Err(payload)
            }
        };
        self.result.store(value);
    }

    /// Nobody is left who could start it: so it ends.
    fn unreferenced(task: &TaskRef) {
        match task.here() {
            Some(local) if local.local.state.get() != State::Unstarted => {}
            Some(local) if local.is_to_be_started() && unwind::is_possible() => {
                local.interrupt(Box::new(GreenletExit));
            }
            Some(_) => {}
            None if task.shared().ended.is_set() => {}
            None => task.post(Message::Unreferenced),
        }
    }
}

/// That of a greenlet which any hub of a team may start. Its last handle may go at any time: it is to run all the same.
pub(super) struct Roaming<F, T>(pub(super) Packet<F, T>);

// SAFETY: what is of type F or T in it is Send; the pointer is to an atomic, which its maker promises to keep (see `launch_afloat`).
unsafe impl<F: Send, T: Send> Send for Roaming<F, T> {}

impl<F: FnOnce() -> T, T> Body for Roaming<F, T> {
    fn run(&self, task: &Task, start: Result<(), Payload>) {
        self.0.run(task, start);
    }
}
