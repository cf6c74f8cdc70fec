//! The typed part of a greenlet: its closure, and its result on the way to whoever joins.

use std::cell::Cell;

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
    pub(super) fn new(f: F, unhandled: *const Cell<bool>) -> Self {
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
