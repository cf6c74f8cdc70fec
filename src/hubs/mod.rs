//! Many cores: hubs on several OS threads, which share work before it starts.
//!
//! ```
//! use switchgrass::hubs::Hubs;
//!
//! let hubs = Hubs::new(2)?;
//! let greenlets: Vec<_> = (1..=100_u64).map(|n| hubs.spawn(move || n * n)).collect();
//! let sum: u64 = greenlets.into_iter().map(|greenlet| greenlet.join().unwrap()).sum();
//! assert_eq!(sum, 338_350);
//! # std::io::Result::Ok(())
//! ```
//!
//! [`Hubs::spawn`] needs a closure that is `Send`, and gives the [`Greenlet`] that [`switchgrass::spawn`](crate::spawn) gives: it can be joined,
//! linked, killed and awaited from anywhere. Which hub starts it is open: the one that has spawned it, or one that has nothing else to do. Once it has started it
//! stays there. So it may use what is not `Send` (an `Rc`, a [`switchgrass::spawn`](crate::spawn) of its own, the sockets that it opens) without
//! a lock, like any greenlet; only what it is started with, and its result, cross threads:
//!
//! ```compile_fail,E0277
//! # let hubs = switchgrass::hubs::Hubs::new(1).unwrap();
//! let shared = std::rc::Rc::new(1);
//! hubs.spawn(move || *shared + 1);
//! ```
//!
//! ```compile_fail,E0277
//! # let hubs = switchgrass::hubs::Hubs::new(1).unwrap();
//! // The greenlet would give one thread's Rc to another.
//! hubs.spawn(|| std::rc::Rc::new(1)).join();
//! ```
//!
//! A started one never moves. There is nothing to send to another thread but its handle, and of a greenlet that is made of what must stay, not even that:
//!
//! ```compile_fail,E0277
//! # let hubs = switchgrass::hubs::Hubs::new(1).unwrap();
//! let started = switchgrass::spawn(|| std::rc::Rc::new(1));
//! hubs.spawn(move || started.join());
//! ```
//!
//! # What is shared
//!
//! Each hub has its own event loop, timers, stacks and descriptors, as everywhere else. Greenlets that have not started wait in a queue per hub, first in, first out, from
//! which a hub without work takes half. One that computes for long, or that blocks its OS thread, holds up those that have started on its hub, and no others.
//! Values of [`green_local!`](crate::green_local!) are not inherited, since they need not be `Send`.

#![allow(unsafe_code)]

mod scope;

use std::fmt;
use std::io;
use std::mem;
use std::panic::Location;
use std::ptr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::coro::unwind;
use crate::greenlet::{Builder, Children, Greenlet, launch_afloat};
use crate::hub::team::{Member, Team};
use crate::hub::{existing, hub, watch_forks};
use crate::sync::Event;
use crate::task::{Afloat, GreenletExit, Origin};
use crate::threadpool::unblock;

pub use self::scope::Scope;

/// Hubs on OS threads of their own, which share unstarted greenlets; see the [module](self).
///
/// When it is dropped, its threads end: greenlets that have not ended are killed and unwound there, and those that have not started never run. The drop waits for that,
/// unless it happens on one of these threads. May switch then. Where nothing can wait, while its greenlet unwinds for example, it blocks the OS
/// thread: what these greenlets wait for must not be on that thread then.
#[must_use = "dropped at once, it ends its greenlets"]
pub struct Hubs {
    team: Arc<Team>,
    stop: Arc<Event>,
    threads: Vec<JoinHandle<()>>,
}

impl Hubs {
    /// So many hubs, each on an OS thread of its own. [`Hubs::default`] makes as many as there are cores for this process.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for none; or the system gives no thread.
    pub fn new(hubs: usize) -> io::Result<Hubs> {
        if hubs == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there must be one hub at least"));
        }
        // Before there are threads: a child of this process is to know that they are not its own.
        watch_forks();
        let (team, members) = Team::new(hubs);
        let mut hubs = Hubs { team, stop: Arc::default(), threads: Vec::new() };
        for (index, member) in members.into_iter().enumerate() {
            let stop = Arc::clone(&hubs.stop);
            let thread = thread::Builder::new().name(format!("hub-{index}"));
            hubs.threads.push(thread.spawn(move || work(member, &stop))?);
        }
        Ok(hubs)
    }

    /// How many hubs there are.
    pub fn count(&self) -> usize {
        self.team.size()
    }

    /// Runs `f` in a new greenlet of one of these hubs, soon. On one of them, that is as a rule this one, if no other has nothing to do.
    ///
    /// A greenlet whose handle is dropped goes on by itself. Does not switch.
    ///
    /// # Panics
    ///
    /// In a child process that was forked after this was made: its threads are the parent's.
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> Greenlet<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        // SAFETY: `f` and its result borrow nothing.
        let (task, greenlet) = unsafe { launch_afloat(Origin::here(), f, ptr::null()) };
        put_in(&self.team, task);
        greenlet
    }

    /// As [`Hubs::spawn`], with a name or a stack size of its own.
    ///
    /// # Errors
    ///
    /// As [`Builder::spawn`].
    ///
    /// # Panics
    ///
    /// As [`Hubs::spawn`].
    #[track_caller]
    pub fn spawn_with<F, T>(&self, builder: Builder, f: F) -> io::Result<Greenlet<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let origin = builder.origin(Location::caller())?;
        // SAFETY: `f` and its result borrow nothing.
        let (task, greenlet) = unsafe { launch_afloat(origin, f, ptr::null()) };
        put_in(&self.team, task);
        Ok(greenlet)
    }

    /// Runs `f` once on each of these hubs, with a number that counts them from 0, in a greenlet that no other hub can take. Gives the greenlets in that
    /// order.
    ///
    /// For what each hub is to have of its own: a server, a cache, a connection. Does not switch.
    ///
    /// # Panics
    ///
    /// As [`Hubs::spawn`].
    #[track_caller]
    pub fn broadcast<F, T>(&self, f: F) -> Vec<Greenlet<T>>
    where
        F: Fn(usize) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        let (f, spawned_at) = (Arc::new(f), Location::caller());
        let on_hub = |index| {
            let f = Arc::clone(&f);
            // SAFETY: `f` and its result borrow nothing.
            let (task, greenlet) = unsafe {
                launch_afloat(Origin { spawned_at, ..Origin::here() }, move || f(index), ptr::null())
            };
            require(self.team.send_to(index, task));
            greenlet
        };
        (0..self.count()).map(on_hub).collect()
    }

    /// Runs `f` in a greenlet of one of these hubs, and waits for its result. `f` may borrow. May switch.
    ///
    /// # Panics
    ///
    /// If `f` does, or is killed.
    ///
    /// ```
    /// use switchgrass::hubs::{self, Hubs};
    ///
    /// let hubs = Hubs::default();
    /// let words = ["many", "cores"];
    /// let lengths = hubs.run(|| {
    ///     let other = hubs::spawn(|| 1); // on these hubs
    ///     words.map(str::len).iter().sum::<usize>() + other.join().unwrap()
    /// });
    /// assert_eq!(lengths, 10);
    /// ```
    #[track_caller]
    pub fn run<F, T>(&self, f: F) -> T
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        match self.scope(|scope| scope.spawn(f).join()) {
            Ok(value) => value,
            Err(payload) if payload.is::<GreenletExit>() => {
                panic!("the greenlet that `Hubs::run` waits for was killed")
            }
            Err(payload) => unwind::raise(payload),
        }
    }

    /// Runs `f` with a scope, in which greenlets of these hubs can be spawned that borrow from the outside. Waits for all of them at the end, as
    /// [`scope()`](crate::scope()) does, with the same guarantee. `f` itself runs here. May switch.
    ///
    /// # Panics
    ///
    /// If `f` does, or if a greenlet of the scope panicked that was not joined.
    ///
    /// ```
    /// let hubs = switchgrass::hubs::Hubs::new(2)?;
    /// let words = ["stackful", "green", "threads"];
    /// let mut lengths = [0; 3];
    /// hubs.scope(|s| {
    ///     for (word, length) in words.iter().zip(&mut lengths) {
    ///         s.spawn(move || *length = word.len());
    ///     }
    /// });
    /// assert_eq!(lengths, [8, 5, 7]);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn scope<'env, F, T>(&self, f: F) -> T
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
    {
        let children = Children::new();
        let scope = Scope::new(&children, &self.team);
        // The scope lives as long as its greenlets: `run` is not left before.
        children.run(|| f(&scope))
    }

    /// Ends the hubs, as the drop does.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Default for Hubs {
    /// As many hubs as cores that this process may use (`std::thread::available_parallelism`, which knows of affinity and of cgroups).
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    fn default() -> Hubs {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Hubs::new(cores).unwrap_or_else(|error| panic!("a thread for each of {cores} hubs: {error}"))
    }
}

impl Drop for Hubs {
    fn drop(&mut self) {
        let threads = std::mem::take(&mut self.threads);
        if !self.team.is_of_this_process() {
            // They are the parent's.
            return mem::forget(threads);
        }
        self.stop.set();
        if is_member(&self.team) {
            return;
        }
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        // Where nothing can wait, the OS thread does.
        if hub().may_wait_now() { unblock(join) } else { join() }
    }
}

impl fmt::Debug for Hubs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hubs").field("count", &self.count()).field("unstarted", &self.team.queued()).finish()
    }
}

/// Runs `f` in a new greenlet of the hubs that the current one belongs to: see [`Hubs::spawn`]. Does not switch.
///
/// # Panics
///
/// On a thread that is none of [`Hubs`]'. In a child process, none is of those of its parent.
#[track_caller]
pub fn spawn<F, T>(f: F) -> Greenlet<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: `f` and its result borrow nothing.
    let (task, greenlet) = unsafe { launch_afloat(Origin::here(), f, ptr::null()) };
    if hub().put_in(task).is_err() {
        panic!(
            "`hubs::spawn` on a thread that is none of `Hubs`' (in a child process, those of the parent are not there): spawn with `Hubs::spawn` here, or with `switchgrass::spawn` for a greenlet of this thread"
        );
    }
    greenlet
}

/// What a thread of `Hubs` does: runs greenlets, until it is told to stop.
fn work(member: Member, stop: &Event) {
    let hub = hub();
    hub.join_team(member);
    {
        let _outside = hub.outside_wait();
        // A greenlet may interrupt the thread's own context. And in the child of a fork there is nothing to wait for.
        while hub.team().is_some() && !stop.is_set() {
            drop(unwind::catch(|| stop.wait()));
        }
    }
    hub.leave_team();
}

fn is_member(team: &Arc<Team>) -> bool {
    existing().and_then(|hub| hub.team()).is_some_and(|own| Arc::ptr_eq(own, team))
}

#[track_caller]
fn put_in(team: &Arc<Team>, task: Afloat) {
    require(if is_member(team) { hub().put_in(task) } else { team.inject(task) });
}

#[track_caller]
fn require(taken: Result<(), Afloat>) {
    assert!(
        taken.is_ok(),
        "these hubs are the parent process's: a child has to make its own, after the fork"
    );
}
