//! Being called when a greenlet has ended.
//!
//! A link is an unstarted greenlet of the thread that makes it. The greenlet that it waits for, before it ends, shows
//! it the result (see `packet`), and starts it afterwards, as one of those who wait for its end. So what a link is
//! made of stays on its own thread.

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use super::Greenlet;
use crate::coro::unwind::{self, Payload};
use crate::hub::{ScopeExpired, hub};
use crate::sys::lock::Lock;
use crate::task::{Call, GreenletExit, Listener};

/// How a greenlet has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// Its function has returned.
    Returned,
    /// It was killed.
    Killed,
    /// It has panicked, with this text if it was one; or it was killed [with something
    /// else](Greenlet::kill_with) than [`GreenletExit`].
    Panicked(Option<String>),
}

impl ExitReason {
    pub(super) fn of<T>(result: &Result<T, Payload>) -> Self {
        match result {
            Ok(_) => ExitReason::Returned,
            Err(payload) if payload.is::<GreenletExit>() => ExitReason::Killed,
            Err(payload) if payload.is::<ScopeExpired>() => {
                ExitReason::Panicked(Some("a Timeout that nobody caught".to_owned()))
            }
            Err(payload) => {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                ExitReason::Panicked(text.or(payload.downcast_ref::<&str>().copied()).map(str::to_owned))
            }
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Returned => f.write_str("returned"),
            ExitReason::Killed => f.write_str("was killed"),
            ExitReason::Panicked(Some(text)) => write!(f, "panicked: {text}"),
            ExitReason::Panicked(None) => f.write_str("panicked"),
        }
    }
}

/// What a link is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The id of the greenlet that has ended.
    pub id: u64,
    /// Its name.
    pub name: Option<String>,
    /// How it has ended.
    pub reason: ExitReason,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "greenlet {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " '{name}'")?;
        }
        write!(f, " {}", self.reason)
    }
}

/// One link of a greenlet, for [`Greenlet::unlink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(u64);

impl<T: 'static> Greenlet<T> {
    /// Has `f` called when the greenlet has ended, or soon if it has already: in a greenlet of its own
    /// on this thread, so it may wait.
    ///
    /// Links are started in the order in which they were made, among those who [`join`](Greenlet::join). A
    /// panic of one is reported as that of any greenlet, and stops no other. The link stays when the
    /// handle is dropped. Does not switch.
    ///
    /// ```
    /// use switchgrass::{ExitReason, channel, spawn};
    ///
    /// let (tx, rx) = channel::bounded(1);
    /// spawn(|| panic!("on purpose")).link(move |exit| tx.send(exit.reason).unwrap());
    /// assert_eq!(rx.recv().unwrap(), ExitReason::Panicked(Some("on purpose".into())));
    /// ```
    #[track_caller]
    pub fn link(&self, f: impl FnOnce(Exit) + 'static) -> LinkId {
        self.link_with(|exit, _| Some(exit), f)
    }

    /// As [`link`](Self::link), for a greenlet that returns: `f` gets a copy of the value.
    #[track_caller]
    pub fn link_value(&self, f: impl FnOnce(T) + 'static) -> LinkId
    where
        T: Clone,
    {
        self.link_with(|_, result| result.as_ref().ok().cloned(), f)
    }

    /// As [`link`](Self::link), for a greenlet that panics; not if it is killed.
    #[track_caller]
    pub fn link_panic(&self, f: impl FnOnce(Exit) + 'static) -> LinkId {
        self.link_with(|exit, _| matches!(exit.reason, ExitReason::Panicked(_)).then_some(exit), f)
    }

    /// Has `f` called when the greenlet has ended, by the event loop itself of the greenlet's thread; at once, by
    /// the caller, if it has already.
    ///
    /// For what is short and cannot wait: setting an event, counting. What would wait panics there. A panic goes no
    /// further than the panic hook. Does not switch.
    ///
    /// The greenlet may be of another thread, so `f` has to be `Send`:
    ///
    /// ```compile_fail,E0277
    /// let count = std::rc::Rc::new(std::cell::Cell::new(0));
    /// switchgrass::spawn(|| ()).rawlink(move || count.set(1));
    /// ```
    pub fn rawlink(&self, f: impl FnOnce() + Send + 'static) -> LinkId {
        let number = hub().new_id();
        let listener = Listener::Call(number, Call(Box::new(f)));
        if let Err(Listener::Call(_, Call(f))) = self.handle.task().shared().ended.add(listener) {
            drop(unwind::catch(f));
        }
        LinkId(number)
    }

    /// Takes a link back that has not been called. `false`: it has been, or is about to be. Does not switch.
    pub fn unlink(&self, link: LinkId) -> bool {
        // The greenlet of a link that nobody can start any more ends.
        self.handle.task().shared().ended.remove(|listener| listener.is_number(link.0)).is_some()
    }

    #[track_caller]
    fn link_with<A: 'static>(
        &self,
        pick: impl FnOnce(Exit, &Result<T, Payload>) -> Option<A> + 'static,
        f: impl FnOnce(A) + 'static,
    ) -> LinkId {
        let spawned_at = Location::caller();
        let shared = self.handle.task().shared();
        let (id, name) = (shared.id, shared.name.as_deref().map(str::to_owned));
        let picked = Arc::new(Lock::new(None));
        let link = {
            let picked = Arc::clone(&picked);
            Greenlet::unstarted(spawned_at, move || {
                let argument = picked.lock().take();
                argument.map(f);
            })
        };
        let number = link.id();
        self.look_at_result(Box::new(move |result| {
            let exit = Exit { id, name, reason: ExitReason::of(result) };
            // Copying is the user's code, and this is a greenlet that wants to end.
            if let Ok(argument) = unwind::catch(|| pick(exit, result)) {
                *picked.lock() = argument;
            }
        }));
        if let Err(listener) = shared.ended.add(Listener::Start(link.handle.clone())) {
            drop(listener);
            link.handle.task().start();
        }
        LinkId(number)
    }
}
