//! Greenlets: functions that run concurrently on this thread, each on a stack of its own.

#![allow(unsafe_code)]

mod any;
mod block_on;
mod children;
mod future;
mod links;
mod packet;
mod result;
mod scope;

use std::any::Any;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::coro::stack;
use crate::coro::unwind::{self, Payload};
use crate::hub::{Unwinding, Wake, hub};
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{
    Afloat, GreenletExit, Kind, Listener, Message, Origin, PARKED, Reason, TaskHandle, TaskRef, WatchSet,
    Watcher,
};

pub use self::any::AnyGreenlet;
use self::any::sealed::AsTask;
pub use self::block_on::block_on;
pub(crate) use self::children::Children;
pub use self::links::{Exit, ExitReason, LinkId};
use self::packet::{Packet, Roaming};
use self::result::{Look, ResultPart};
pub use self::scope::{Scope, ScopedGreenlet, scope};

/// Runs `f` in a new greenlet of this thread, soon: when the current one waits, after those spawned before.
///
/// No `Send` is needed, and no lock: greenlets of one thread never run at the same time. A greenlet that is dropped
/// goes on by itself, like a detached thread; see [`Greenlet`] for what becomes of it at the end of the thread.
///
/// Does not switch.
///
/// # Panics
///
/// A panic of `f` is its result: [`Greenlet::join`] gives it. If the greenlet gets no stack when it first runs, because
/// a limit of the system is reached, that is its panic, and the text names the limit. [`Builder`] has more choices.
///
/// # Examples
///
/// ```
/// use switchgrass::spawn;
///
/// let squares: Vec<_> = (1..=3).map(|n| spawn(move || n * n)).collect();
/// let sum: i32 = squares.into_iter().map(|greenlet| greenlet.join().unwrap()).sum();
/// assert_eq!(sum, 14);
/// ```
///
/// The greenlet may outlive the function that spawns it, so it cannot borrow from there; in a [`scope()`], it can:
///
/// ```compile_fail,E0373
/// let local = 1;
/// switchgrass::spawn(|| println!("{local}")).join().unwrap();
/// ```
#[track_caller]
pub fn spawn<F, T>(f: F) -> Greenlet<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    // SAFETY: `f` and its result borrow nothing.
    unsafe { launch(Origin::here(), Start::Now, f, ptr::null()) }
}

/// Like [`spawn`], but `f` starts no sooner than after `delay`. Killed before that, it never runs.
///
/// Does not switch.
#[track_caller]
pub fn spawn_later<F, T>(delay: Duration, f: F) -> Greenlet<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let deadline = hub().deadline(delay);
    // SAFETY: `f` and its result borrow nothing.
    unsafe { launch(Origin::here(), Start::At(deadline), f, ptr::null()) }
}

impl Origin {
    #[track_caller]
    #[inline]
    pub(crate) fn here() -> Origin {
        Origin {
            id: 0,
            kind: Kind::Greenlet,
            name: None,
            spawned_by: 0,
            spawned_at: Location::caller(),
            stack_size: stack::DEFAULT_SIZE,
            measured: false,
        }
    }
}

/// When a new greenlet runs for the first time.
#[derive(Clone, Copy, Debug)]
enum Start {
    Now,
    At(Nanos),
    /// When it is told to.
    Later,
}

/// Makes a greenlet.
///
/// # Safety
///
/// What `f` and its result borrow, and `unhandled`, must outlive the greenlet and its handle.
#[inline]
unsafe fn launch<F, T>(mut origin: Origin, start: Start, f: F, unhandled: *const AtomicBool) -> Greenlet<T>
where
    F: FnOnce() -> T,
{
    let hub = hub();
    origin.id = hub.new_id();
    origin.spawned_by = hub.current().shared.id;
    // First, for cloning values is the user's code, which may unwind.
    let locals = hub.current().bequeath_locals();
    let task = TaskRef::new(hub.home, origin, 1, Packet::new(f, unhandled));
    // SAFETY: the one handle that the task was made with; and the body is of the type given two lines above.
    let (handle, result) =
        unsafe { (task.adopt_handle(), NonNull::from(&task.body::<Packet<F, T>>().result)) };
    {
        let task = task.here().expect("it was made for this thread");
        task.local.locals.set(locals);
        match start {
            Start::Now => task.make_ready(),
            Start::At(deadline) => hub.start_at(task, Some(deadline)),
            Start::Later => {}
        }
    }
    hub.adopt(task);
    Greenlet { handle, result }
}

/// Makes a greenlet that any hub of a team may start, and gives it with its handle. It inherits no values of `green_local!`, which need not be `Send`.
///
/// # Safety
///
/// What `f` and its result borrow, and `unhandled`, must outlive the greenlet and its handle.
#[inline]
pub(crate) unsafe fn launch_afloat<F, T>(
    mut origin: Origin,
    f: F,
    unhandled: *const AtomicBool,
) -> (Afloat, Greenlet<T>)
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    let hub = hub();
    origin.id = hub.new_id();
    origin.spawned_by = hub.current().shared.id;
    let afloat = Afloat::new(hub.home, origin, 1, Roaming(Packet::new(f, unhandled)));
    let task = afloat.task();
    // SAFETY: the one handle that the task was made with; and the body is of the type given two lines above.
    let (handle, result) =
        unsafe { (task.adopt_handle(), NonNull::from(&task.body::<Roaming<F, T>>().0.result)) };
    (afloat, Greenlet { handle, result })
}

/// Makes greenlets with a name or a stack size of their own.
///
/// ```
/// use switchgrass::Builder;
///
/// let greenlet = Builder::new().name("deep").stack_size(4 << 20).spawn(|| "done")?;
/// assert_eq!(greenlet.name(), Some("deep"));
/// assert_eq!(greenlet.join().unwrap(), "done");
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<usize>,
    measured: bool,
}

impl Builder {
    /// The defaults of [`spawn`]: no name, 256 KiB of stack.
    pub fn new() -> Self {
        Builder::default()
    }

    /// Names the greenlet, for reports.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the size of the stack in bytes, rounded up to whole pages and to 32 KiB at least.
    ///
    /// It is address space: memory is taken only for what the greenlet touches. Stacks do not grow.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Keeps account of the most stack that the greenlet uses; see [`Greenlet::stack_used`]. Costs a system call per start.
    pub fn measure_stack(mut self, measure: bool) -> Self {
        self.measured = measure;
        self
    }

    /// Spawns a greenlet; see [`spawn`].
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a stack of more than 1 GiB.
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<Greenlet<T>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let origin = self.origin(Location::caller())?;
        // SAFETY: `f` and its result borrow nothing.
        Ok(unsafe { launch(origin, Start::Now, f, ptr::null()) })
    }

    /// Makes a greenlet that is not started yet; see [`Greenlet::new`].
    ///
    /// # Errors
    ///
    /// As [`Builder::spawn`].
    #[track_caller]
    pub fn create<F, T>(self, f: F) -> io::Result<Greenlet<T>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let origin = self.origin(Location::caller())?;
        // SAFETY: `f` and its result borrow nothing.
        Ok(unsafe { launch(origin, Start::Later, f, ptr::null()) })
    }

    /// Spawns a greenlet of `scope`, which may borrow what the scope may; see [`scope()`].
    ///
    /// # Errors
    ///
    /// As [`Builder::spawn`].
    #[track_caller]
    pub fn spawn_scoped<'scope, 'env, F, T>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        f: F,
    ) -> io::Result<ScopedGreenlet<'scope, T>>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        Ok(scope.launch(self.origin(Location::caller())?, f))
    }

    pub(crate) fn origin(self, spawned_at: &'static Location<'static>) -> io::Result<Origin> {
        Ok(Origin {
            id: 0,
            kind: Kind::Greenlet,
            name: self.name.map(String::into_boxed_str),
            spawned_by: 0,
            spawned_at,
            stack_size: stack::round_size(self.stack_size.unwrap_or(stack::DEFAULT_SIZE))?,
            measured: self.measured,
        })
    }
}

/// A greenlet that was spawned, and its result.
///
/// Dropping it detaches the greenlet, which goes on. With a result that is `Send`, it may be moved to another thread, and
/// joined or killed from there; the greenlet stays where it is.
///
/// **At the end of its thread** (for the main thread: when `main` returns) a greenlet that has not ended is killed: it
/// unwinds with [`GreenletExit`], its destructors run, and waiting in them fails. One that catches the exit and waits
/// again, more often than is reasonable, is left as it is. If the process ends from within a greenlet
/// (`std::process::exit`) or aborts, nothing is unwound; `exit` on the main stack may unwind or not.
///
/// With a result that is not `Send`, the handle stays on its thread, too:
///
/// ```compile_fail,E0277
/// let greenlet = switchgrass::spawn(|| std::rc::Rc::new(()));
/// std::thread::spawn(move || greenlet.join());
/// ```
///
/// With one that is not `Sync`, only one thread has it at a time:
///
/// ```compile_fail,E0277
/// let greenlet = switchgrass::spawn(|| std::cell::Cell::new(0));
/// std::thread::scope(|s| { s.spawn(|| greenlet.value().map(|cell| cell.set(1))); });
/// ```
pub struct Greenlet<T> {
    handle: TaskHandle,
    /// Within the task, which `handle` keeps alive.
    result: NonNull<ResultPart<T>>,
}

// SAFETY: the only things of type T or F within reach are the result, which is Send and taken by one thread only (see
// ResultPart), and the closure, which only the greenlet's own thread touches.
unsafe impl<T: Send> Send for Greenlet<T> {}
// SAFETY: a shared Greenlet gives shared access to the result, and links may copy it on one thread for another.
unsafe impl<T: Send + Sync> Sync for Greenlet<T> {}

impl<T: 'static> Greenlet<T> {
    /// A greenlet that does not run before it is [started](Self::start). Killed before that, or if its last
    /// handle is dropped, it never does.
    ///
    /// Does not switch.
    ///
    /// ```
    /// use switchgrass::Greenlet;
    ///
    /// let greenlet = Greenlet::new(|| 7);
    /// greenlet.start();
    /// assert_eq!(greenlet.join().unwrap(), 7);
    /// ```
    #[track_caller]
    #[must_use = "dropped before it is started, it never runs"]
    pub fn new(f: impl FnOnce() -> T + 'static) -> Greenlet<T> {
        Greenlet::unstarted(Location::caller(), f)
    }

    fn unstarted(spawned_at: &'static Location<'static>, f: impl FnOnce() -> T + 'static) -> Greenlet<T> {
        let origin = Origin { spawned_at, ..Origin::here() };
        // SAFETY: `f` and its result borrow nothing.
        unsafe { launch(origin, Start::Later, f, ptr::null()) }
    }

    /// Has `look` called with the result.
    fn look_at_result(&self, look: Look<T>) {
        // SAFETY: the part is alive as long as `handle`, and this is a borrow of the one handle. If this is
        // not the greenlet's thread, then T is Send, as is what the links have `look` made of: a copy of T
        // and an Arc of where it is put.
        unsafe { self.result.as_ref().link(look) }
    }
}

impl<T> Greenlet<T> {
    /// Waits until the greenlet has ended, and gives its result. May switch.
    ///
    /// # Errors
    ///
    /// What the greenlet panicked with, as for `std::thread::JoinHandle`; [`GreenletExit`] if it was killed.
    /// In a destructor that runs while its own greenlet unwinds, where nothing can wait: a text that says so,
    /// if the result is not there yet.
    ///
    /// # Panics
    ///
    /// On a thread's main stack, if the greenlet can never end since nothing is left that could make anything go on. The message
    /// tells who waits for what.
    #[doc(alias = "get")]
    pub fn join(self) -> Result<T, Payload> {
        if !self.is_ready() && !self.wait_privately() {
            return Err(Box::new("this greenlet is unwinding and cannot wait for another one to end"));
        }
        // SAFETY: the greenlet has ended, and `self` is its one handle.
        unsafe { self.into_result() }
    }

    /// Waits for the end as one who has the only way to reach the greenlet: `self` was given up to us.
    /// `false`: it unwinds, and cannot.
    #[inline(never)]
    pub(crate) fn wait_privately(&self) -> bool {
        let task = self.handle.task();
        let _private = Private::new(task);
        wait_for(task, NEVER).is_some()
    }

    /// The result of a greenlet that has ended, without giving it up.
    ///
    /// # Panics
    ///
    /// The second time.
    fn take_result(&mut self) -> Result<T, Payload> {
        assert!(self.is_ready());
        // SAFETY: it has ended, and this is a mutable borrow of the one handle, which the part lives as long as.
        unsafe { self.result.as_ref().take() }
    }

    /// # Safety
    ///
    /// The greenlet must have ended, and `self` must come from `spawn` or the like: there is one of it.
    #[inline]
    unsafe fn into_result(self) -> Result<T, Payload> {
        let this = ManuallyDrop::new(self);
        // SAFETY: the caller's promise; the task, and with it the result part, is alive as long as `handle`. `this` is not
        // dropped, so the handle is moved out once.
        unsafe {
            let result = this.result.as_ref().take();
            TaskRef::forget_handle(ptr::read(&raw const this.handle));
            result
        }
    }

    /// As [`join`](Self::join), for no longer than `duration`.
    ///
    /// # Errors
    ///
    /// The greenlet itself, if it has not ended in time.
    pub fn join_timeout(self, duration: Duration) -> Result<Result<T, Payload>, Self> {
        match wait_for(self.handle.task(), hub().deadline(duration)) {
            // SAFETY: as in `join`.
            Some(Wake::Notified) => Ok(unsafe { self.into_result() }),
            _ => Err(self),
        }
    }

    /// Whether the greenlet has ended, so that `join` would not wait.
    #[doc(alias("ready", "dead"))]
    pub fn is_ready(&self) -> bool {
        self.handle.task().shared().ended.is_set()
    }

    /// Starts a greenlet that was made [unstarted](Self::new). Does nothing if it is started, or has a
    /// time to start at. Does not switch.
    pub fn start(&self) {
        self.handle.task().start();
    }

    /// Has a greenlet that was made [unstarted](Self::new) start after `delay`. Does nothing if it is started, or has a
    /// time to start at. Does not switch.
    pub fn start_later(&self, delay: Duration) {
        let (task, hub) = (self.handle.task(), hub());
        let deadline = hub.deadline(delay);
        match task.here() {
            Some(task) => hub.start_at(task, Some(deadline)),
            None => task.post(|task| Message::Start(task, Some(deadline))),
        }
    }

    /// The value that the greenlet has returned. `None` if it has not ended, or not by returning.
    #[doc(alias = "successful")]
    pub fn value(&self) -> Option<&T> {
        self.peek()?.as_ref().ok()
    }

    /// How the greenlet has ended; `None` if it has not.
    #[doc(alias = "exception")]
    pub fn exit_reason(&self) -> Option<ExitReason> {
        self.peek().map(ExitReason::of)
    }

    fn peek(&self) -> Option<&Result<T, Payload>> {
        if !self.is_ready() {
            return None;
        }
        // SAFETY: the part is alive as long as `handle`, and this is a borrow of the one handle.
        unsafe { self.result.as_ref().peek() }
    }

    /// Kills the greenlet and waits until it has ended. May switch.
    ///
    /// The suspension point that it waits in, or else the next one that it comes to, unwinds with [`GreenletExit`]: its
    /// destructors run. Before its first run, it never runs. It may catch the exit and live on; then this waits all the
    /// same. Killed twice, or when it has ended, nothing more happens. A greenlet that kills itself unwinds at once.
    ///
    /// In a destructor that runs while its greenlet unwinds, this does not wait.
    ///
    /// # Panics
    ///
    /// As [`join`](Self::join). In a program built with `panic = "abort"`, where nothing can be unwound.
    pub fn kill(&self) {
        kill(self.handle.task());
    }

    /// Has the greenlet killed, as [`kill`](Self::kill) does, without waiting for its end. Does not switch.
    ///
    /// # Panics
    ///
    /// In a program built with `panic = "abort"`, where nothing can be unwound.
    pub fn kill_nowait(&self) {
        kill_nowait(self.handle.task());
    }

    /// As [`kill`](Self::kill), but waits no longer than `duration`; whether it has ended. The exit is
    /// delivered all the same. May switch.
    ///
    /// # Panics
    ///
    /// As [`kill`](Self::kill).
    pub fn kill_timeout(&self, duration: Duration) -> bool {
        let task = self.handle.task();
        let deadline = hub().deadline(duration);
        kill_with(task, Box::new(GreenletExit), deadline);
        self.is_ready()
    }

    /// As [`kill`](Self::kill), with something of one's own to unwind with, which [`join`](Self::join) then gives. May switch.
    ///
    /// A greenlet that is being killed already goes on with what it was killed with first.
    ///
    /// # Panics
    ///
    /// As [`kill`](Self::kill).
    pub fn kill_with(&self, payload: impl Any + Send) {
        kill_with(self.handle.task(), Box::new(payload), NEVER);
    }

    /// As [`kill_with`](Self::kill_with), without waiting for the end. Does not switch.
    ///
    /// # Panics
    ///
    /// As [`kill_nowait`](Self::kill_nowait).
    pub fn kill_nowait_with(&self, payload: impl Any + Send) {
        interrupt(self.handle.task(), Box::new(payload));
    }

    /// Where it was spawned, in the source.
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.handle.task().shared().spawned_at
    }

    /// A number that no other greenlet of this process has or had.
    pub fn id(&self) -> u64 {
        self.handle.task().shared().id
    }

    /// The name given by [`Builder::name`].
    pub fn name(&self) -> Option<&str> {
        self.handle.task().shared().name.as_deref()
    }

    /// The most bytes of stack that the greenlet has used so far, if [`Builder::measure_stack`] was asked for. Up to 2
    /// KiB more than it really was: the offset that keeps stacks from falling into the same cache sets is counted.
    ///
    /// `None` on another thread than the greenlet's own.
    pub fn stack_used(&self) -> Option<usize> {
        self.handle.task().here().and_then(|task| hub().stack_used(task))
    }

    /// A handle without the result, which can be cloned and sent anywhere.
    pub fn handle(&self) -> Handle {
        Handle(self.handle.clone())
    }

    pub(crate) fn task(&self) -> &TaskRef {
        self.handle.task()
    }
}

impl<T> Greenlet<T> {
    pub(crate) fn watch(&self, watcher: Watcher) {
        watch(self.handle.task(), watcher);
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        unwatch(self.handle.task(), set);
    }
}

impl Handle {
    pub(crate) fn watch(&self, watcher: Watcher) {
        watch(self.0.task(), watcher);
    }

    pub(crate) fn unwatch(&self, set: &Arc<WatchSet>) {
        unwatch(self.0.task(), set);
    }
}

fn watch(task: &TaskRef, watcher: Watcher) {
    if let Err(Listener::Watcher(watcher)) = task.shared().ended.add(Listener::Watcher(watcher)) {
        watcher.notify();
    }
}

fn unwatch(task: &TaskRef, set: &Arc<WatchSet>) {
    let of_set = |listener: &Listener| matches!(listener, Listener::Watcher(watcher) if watcher.is_of(set));
    while task.shared().ended.remove(of_set).is_some() {}
}

/// While it exists, the joined greenlet counts one handle less.
struct Private<'a>(&'a TaskRef);

impl<'a> Private<'a> {
    fn new(task: &'a TaskRef) -> Self {
        task.shared().handles.fetch_sub(1, Ordering::AcqRel);
        Private(task)
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        self.0.shared().handles.fetch_add(1, Ordering::AcqRel);
    }
}

impl<T> Drop for Greenlet<T> {
    #[inline]
    fn drop(&mut self) {
        let ended = &self.handle.task().shared().ended;
        if ended.is_awaited() {
            future::forget_waker(ended);
        }
        // SAFETY: the task, and with it the result part, is alive as long as `handle`.
        unsafe { self.result.as_ref() }.detach();
    }
}

impl<T> fmt::Debug for Greenlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_task(self.handle.task(), "Greenlet", f)
    }
}

fn fmt_task(task: &TaskRef, what: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shared = task.shared();
    let mut out = f.debug_struct(what);
    out.field("id", &shared.id);
    if let Some(name) = &shared.name {
        out.field("name", name);
    }
    match task.here() {
        _ if shared.ended.is_set() => out.field("state", &"ended"),
        Some(task) => out.field("state", &task.local.state.get()),
        None => out.field("thread", &task.thread_name()),
    };
    out.finish()
}

/// A greenlet (or coroutine, or a thread's main context) without its result. Can be cloned and sent to other threads.
#[derive(Clone)]
pub struct Handle(TaskHandle);

impl Handle {
    pub(crate) fn of(task: &TaskRef) -> Handle {
        Handle(task.new_handle())
    }

    pub(crate) fn task(&self) -> &TaskRef {
        self.0.task()
    }

    /// See [`Greenlet::kill`].
    pub fn kill(&self) {
        kill(self.0.task());
    }

    /// See [`Greenlet::kill_nowait`].
    pub fn kill_nowait(&self) {
        kill_nowait(self.0.task());
    }

    /// See [`Greenlet::id`].
    pub fn id(&self) -> u64 {
        self.0.task().shared().id
    }

    /// See [`Greenlet::name`].
    pub fn name(&self) -> Option<&str> {
        self.0.task().shared().name.as_deref()
    }

    /// See [`Greenlet::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.0.task().shared().ended.is_set()
    }

    /// See [`Greenlet::stack_used`].
    pub fn stack_used(&self) -> Option<usize> {
        self.0.task().here().and_then(|task| hub().stack_used(task))
    }

    /// Makes the greenlet's present [`park`], or else its next one, return. From any thread.
    pub fn unpark(&self) {
        let task = self.0.task();
        match task.here() {
            Some(task) => task.unpark(),
            None => task.post(crate::task::Message::Unpark),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_task(self.0.task(), "Handle", f)
    }
}

/// The greenlet that calls this: its id, its name, and what to wake or kill it with. On a thread's main stack: that.
#[doc(alias = "getcurrent")]
pub fn current() -> Handle {
    Handle(hub().current().to_ref().new_handle())
}

/// Lets all others that are ready run once before the current greenlet goes on.
///
/// A loop of these starves nobody: sockets and timers are looked at in between. Does nothing in a destructor that runs
/// while its greenlet unwinds. May switch.
#[inline(always)]
pub fn yield_now() {
    hub().yield_now();
}

/// Waits until somebody calls [`Handle::unpark`]; at once, if that has happened since the last time.
///
/// As `std::thread::park`: it may also return without (it does in a destructor that runs while its greenlet unwinds), so look
/// again at what you wait for. May switch.
pub fn park() {
    park_until(NEVER);
}

/// As [`park`], for no longer than `duration`.
pub fn park_timeout(duration: Duration) {
    park_until(hub().deadline(duration));
}

fn park_until(deadline: Nanos) {
    let hub = hub();
    let token = &hub.current().local.unpark_token;
    if !token.replace(false) {
        // Refused while unwinding: then it returns without, as documented.
        let _ = hub.park(PARKED, deadline);
        token.set(false);
    }
}

/// Waits until all of them have ended. Their results stay where they are: [`Greenlet::value`] and
/// [`Greenlet::join`] give them. May switch.
///
/// Greenlets with results of different types go into one list as [handles](Greenlet::handle). [`wait`](crate::wait)
/// also tells which end first, or waits for some of them; [`joinall_raise`] gives the values.
///
/// # Panics
///
/// As [`Greenlet::join`], where nothing can go on; not for a panic of one of the greenlets.
///
/// # Examples
///
/// ```
/// use switchgrass::{joinall, spawn};
///
/// let greenlets = [spawn(|| 1), spawn(|| 2)];
/// joinall(&greenlets);
/// assert_eq!(greenlets[1].value(), Some(&2));
/// ```
pub fn joinall(greenlets: impl IntoIterator<Item: AnyGreenlet>) {
    joinall_until(greenlets, NEVER);
}

/// As [`joinall`], for no longer than `duration`; whether all have ended. May switch.
///
/// # Panics
///
/// As [`joinall`].
pub fn joinall_timeout(greenlets: impl IntoIterator<Item: AnyGreenlet>, duration: Duration) -> bool {
    joinall_until(greenlets, hub().deadline(duration))
}

fn joinall_until(greenlets: impl IntoIterator<Item: AnyGreenlet>, deadline: Nanos) -> bool {
    // All of them first: the iterator may be what spawns them.
    let greenlets: Vec<_> = greenlets.into_iter().collect();
    greenlets
        .iter()
        .fold(true, |all, greenlet| all & (wait_for(greenlet.as_task(), deadline) == Some(Wake::Notified)))
}

/// Waits until all of them have returned, and gives their values, in the order of the list. The first that fails ends
/// the wait, whichever place it has. May switch.
///
/// Those that have not ended then go on by themselves, like all whose handle is dropped.
///
/// # Panics
///
/// With what the first failing greenlet has panicked with; also with the [`GreenletExit`] of one that was
/// killed. As [`Greenlet::join`], where nothing can go on. In a destructor that runs while its greenlet
/// unwinds, if it would have to wait.
///
/// ```
/// use switchgrass::{joinall_raise, spawn};
///
/// assert_eq!(joinall_raise([spawn(|| 1), spawn(|| 2)]), [1, 2]);
/// ```
#[doc(alias = "raise_error")]
pub fn joinall_raise<T>(greenlets: impl IntoIterator<Item = Greenlet<T>>) -> Vec<T> {
    let mut greenlets: Vec<_> = greenlets.into_iter().map(Some).collect();
    let set = Arc::new(WatchSet::default());
    for (number, greenlet) in greenlets.iter().flatten().enumerate() {
        greenlet.watch(Watcher::new(&set, number));
    }
    let mut values: Vec<_> = greenlets.iter().map(|_| None).collect();
    for _ in 0..greenlets.len() {
        let Ok(Some(number)) = next_ready(&set, Reason::shared_by_many("joinall"), NEVER) else {
            panic!("a greenlet that unwinds cannot wait for others to end");
        };
        let greenlet = greenlets[number].take().expect("each ends once");
        // SAFETY: it has ended, and comes from the caller, who had the one handle.
        match unsafe { greenlet.into_result() } {
            Ok(value) => values[number] = Some(value),
            Err(payload) => unwind::raise(payload),
        }
    }
    values.into_iter().flatten().collect()
}

/// Waits for the next that is ready of those that `set` watches. `None`: the deadline has come.
pub(crate) fn next_ready(
    set: &WatchSet,
    reason: Reason,
    deadline: Nanos,
) -> Result<Option<usize>, Unwinding> {
    let hub = hub();
    if let Some(number) = set.try_next() {
        return Ok(Some(number));
    }
    loop {
        hub.may_suspend(reason)?;
        if let Some(number) = set.next(hub.waker()) {
            return Ok(Some(number));
        }
        let wake = hub.park(reason, deadline)?;
        if let Some(number) = set.try_next() {
            return Ok(Some(number));
        }
        if wake == Wake::TimedOut {
            return Ok(None);
        }
    }
}

/// Kills all of them, and waits until they have ended; see [`Greenlet::kill`]. Those that never ran never will. May switch.
///
/// If the caller is among them, it goes last.
///
/// # Panics
///
/// As [`Greenlet::kill`].
pub fn killall(greenlets: impl IntoIterator<Item: AnyGreenlet>) {
    killall_until(greenlets, NEVER);
}

/// As [`killall`], but waits no longer than `duration`; whether all have ended. May switch.
///
/// # Panics
///
/// As [`Greenlet::kill`].
pub fn killall_timeout(greenlets: impl IntoIterator<Item: AnyGreenlet>, duration: Duration) -> bool {
    killall_until(greenlets, hub().deadline(duration))
}

fn killall_until(greenlets: impl IntoIterator<Item: AnyGreenlet>, deadline: Nanos) -> bool {
    let greenlets: Vec<_> = greenlets.into_iter().collect();
    let tasks: Vec<TaskRef> = greenlets.iter().map(|greenlet| greenlet.as_task().clone()).collect();
    let others = || tasks.iter().filter(|task| !is_current(task));
    others().for_each(kill_nowait);
    for task in others() {
        wait_for(task, deadline);
    }
    if let Some(own) = tasks.iter().find(|task| is_current(task)) {
        kill(own);
    }
    tasks.iter().all(|task| task.shared().ended.is_set())
}

fn is_current(task: &TaskRef) -> bool {
    task.is(hub().current())
}

/// `None`: this cannot wait now, since it unwinds, and the task has not ended.
pub(crate) fn wait_for(task: &TaskRef, deadline: Nanos) -> Option<Wake> {
    let shared = task.shared();
    if shared.ended.is_set() {
        return Some(Wake::Notified);
    }
    let elsewhere = task.here().is_none();
    if elsewhere && task.has_no_hub() {
        // It was left behind by a fork, with its thread.
        shared.ended.set_left_behind();
        return Some(Wake::Notified);
    }
    let reason = Reason::of("join of greenlet", shared.id);
    hub().wait_ended(&shared.ended, elsewhere, reason, deadline).ok()
}

pub(crate) fn kill(task: &TaskRef) {
    kill_with(task, Box::new(GreenletExit), NEVER);
}

fn kill_with(task: &TaskRef, payload: Payload, deadline: Nanos) {
    // While it unwinds it cannot begin to unwind (that would abort): then the exit waits for its next wait.
    if is_current(task) && !std::thread::panicking() {
        unwind::require("kill()");
        unwind::raise(payload);
    }
    interrupt(task, payload);
    wait_for(task, deadline);
}

pub(crate) fn kill_nowait(task: &TaskRef) {
    interrupt(task, Box::new(GreenletExit));
}

fn interrupt(task: &TaskRef, payload: Payload) {
    unwind::require("kill()");
    if !task.shared().ended.is_set() {
        task.interrupt(payload);
    }
}
