//! Generators: Python's protocol, on stacks of their own.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::iter::FusedIterator;
use std::panic::Location;
use std::rc::Rc;

use crate::coro::stack;
use crate::coro::unwind::{self, Payload};
use crate::hub::{self, hub};
use crate::sys::clock::NEVER;
use crate::task::{Body, GreenletExit, Interrupt, Kind, Origin, Reason, State, Task, TaskRef};

/// A function that gives values one after the other, and gets one back for each. It yields from any depth of calls.
///
/// `Y` is what it yields, `S` what is sent to it, `R` what it returns at the end. Where nothing is sent
/// (`S = ()`), it is an [`Iterator`].
///
/// The first [`send`](Self::send) starts it: what is sent becomes the function's second argument. Each further one
/// is what the pending [`yield_`](Yielder::yield_) returns. Dropping it closes it. Blocking calls inside suspend
/// whoever waits for the next value.
///
/// A caller that is killed or times out *within* `send` closes the generator.
///
/// ```
/// use switchgrass::{Generator, Step};
///
/// let averager = Generator::new(|out, mut value: f64| {
///     let (mut sum, mut count) = (0.0, 0.0);
///     while value >= 0.0 {
///         sum += value;
///         count += 1.0;
///         value = out.yield_(sum / count);
///     }
///     count as u32
/// });
/// assert_eq!(averager.send(10.0).unwrap(), Step::Yield(10.0));
/// assert_eq!(averager.send(20.0).unwrap(), Step::Yield(15.0));
/// assert_eq!(averager.send(-1.0).unwrap(), Step::Return(2));
///
/// let numbers = Generator::new(|out, ()| (1..).for_each(|n| out.yield_(n)));
/// assert_eq!(numbers.take(3).collect::<Vec<i32>>(), [1, 2, 3]);
/// ```
pub struct Generator<Y, S = (), R = ()> {
    task: TaskRef,
    link: Rc<Link<Y, S, R>>,
}

/// What a generator gives for what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step<Y, R> {
    /// It yields this, and waits.
    Yield(Y),
    /// It has returned this, and is closed.
    Return(R),
}

/// Where a generator is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GeneratorState {
    /// Nothing was sent yet.
    Created,
    /// It runs, or waits for something else than its caller.
    Running,
    /// It waits in a `yield_`.
    Suspended,
    /// It has ended.
    Closed,
}

/// Why nothing can be sent. Gives back what was to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GeneratorError<S> {
    /// The generator has ended.
    Closed(S),
    /// The generator runs already: it is sending to itself, or another greenlet waits for its next value.
    Running(S),
    /// The caller is unwinding, and must not be suspended.
    Unwinding(S),
}

impl<S> GeneratorError<S> {
    /// Gives back what was to be sent.
    pub fn into_given(self) -> S {
        match self {
            GeneratorError::Closed(given)
            | GeneratorError::Running(given)
            | GeneratorError::Unwinding(given) => given,
        }
    }
}

impl<S> fmt::Display for GeneratorError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GeneratorError::Closed(_) => "the generator has ended",
            GeneratorError::Running(_) => "the generator is running already",
            GeneratorError::Unwinding(_) => "a generator cannot be resumed in a destructor while unwinding",
        })
    }
}

// Without asking that of the value, as std's `SendError`: `send` can be unwrapped whatever is sent.
impl<S> fmt::Debug for GeneratorError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<S> std::error::Error for GeneratorError<S> {}

/// Why [`Generator::close`] did not close it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseError<Y> {
    /// It caught the exit and yielded this.
    Ignored(Y),
    /// It is running; see [`GeneratorError::Running`].
    Running,
    /// The caller is unwinding, and must not be suspended. (Dropping the generator works then.)
    Unwinding,
}

impl<Y> fmt::Display for CloseError<Y> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseError::Ignored(_) => "the generator caught the exit and yielded",
            CloseError::Running => "the generator is running",
            CloseError::Unwinding => "a generator cannot be resumed in a destructor while unwinding",
        })
    }
}

impl<Y> fmt::Debug for CloseError<Y> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<Y> std::error::Error for CloseError<Y> {}

/// What a generator's function yields through.
pub struct Yielder<Y, S> {
    link: Rc<dyn Exchange<Y, S>>,
}

/// What the generator and its function share.
struct Link<Y, S, R> {
    state: Cell<GeneratorState>,
    input: Cell<Option<S>>,
    output: Cell<Option<Output<Y, R>>>,
    /// Who waits for the next value.
    caller: RefCell<Option<TaskRef>>,
    /// The generator's own task.
    task: RefCell<Option<TaskRef>>,
    /// Nobody will ask again: the function is to end.
    abandoned: Cell<bool>,
    /// How often it has tried to yield when it should end.
    refusals: Cell<u32>,
}

enum Output<Y, R> {
    Step(Step<Y, R>),
    Panic(Payload),
}

impl<Y, R> Output<Y, R> {
    fn into_step(self) -> Step<Y, R> {
        match self {
            Output::Step(step) => step,
            Output::Panic(payload) => unwind::raise(payload),
        }
    }
}

/// How often a function that should end may try to yield and get an error, before it is unwound; and how
/// often then, before it is given up.
const PATIENCE: u32 = 1000;

const GIVEN_UP: Reason = Reason::new("nothing: it has caught every exit, and is given up");
const NEXT: Reason = Reason::new("next value of a generator");

impl<Y: 'static, S: 'static, R: 'static> Generator<Y, S, R> {
    /// A generator that will run `f`. Nothing runs yet.
    #[track_caller]
    pub fn new(f: impl FnOnce(&Yielder<Y, S>, S) -> R + 'static) -> Self {
        let hub = hub();
        let origin = Origin {
            id: hub.new_id(),
            kind: Kind::Generator,
            name: None,
            spawned_by: hub.current().shared.id,
            spawned_at: Location::caller(),
            stack_size: stack::DEFAULT_SIZE,
            measured: false,
        };
        let link = Rc::new(Link {
            state: Cell::new(GeneratorState::Created),
            input: Cell::new(None),
            output: Cell::new(None),
            caller: RefCell::new(None),
            task: RefCell::new(None),
            abandoned: Cell::new(false),
            refusals: Cell::new(0),
        });
        let body =
            GeneratorBody { parts: Cell::new(Some((Rc::clone(&link), Box::new(f) as Function<Y, S, R>))) };
        let task = TaskRef::new(hub.home, origin, 0, body);
        *link.task.borrow_mut() = Some(task.clone());
        hub.adopt(task.clone());
        Generator { task, link }
    }

    /// Sends `value` into the generator, and gives what it yields next or returns. May switch.
    ///
    /// # Errors
    ///
    /// See [`GeneratorError`]; the value comes back.
    ///
    /// # Panics
    ///
    /// If the function does, with the same payload.
    pub fn send(&self, value: S) -> Result<Step<Y, R>, GeneratorError<S>> {
        if let Some(refused) = self.refuse() {
            return Err(match refused {
                GeneratorError::Closed(()) => GeneratorError::Closed(value),
                GeneratorError::Running(()) => GeneratorError::Running(value),
                GeneratorError::Unwinding(()) => GeneratorError::Unwinding(value),
            });
        }
        self.link.input.set(Some(value));
        Ok(self.resume().into_step())
    }

    /// Has the pending `yield_` unwind with `payload`; gives what the generator yields next or returns, if it catches that.
    ///
    /// # Errors
    ///
    /// `Running` or `Unwinding`, with the payload.
    ///
    /// # Panics
    ///
    /// With the payload, if the generator does not catch it: one that was not started or has ended cannot. With
    /// another one, if the function panics.
    pub fn throw(&self, payload: Payload) -> Result<Step<Y, R>, GeneratorError<Payload>> {
        match self.refuse() {
            Some(GeneratorError::Running(())) => return Err(GeneratorError::Running(payload)),
            Some(GeneratorError::Unwinding(())) => return Err(GeneratorError::Unwinding(payload)),
            Some(GeneratorError::Closed(())) => unwind::raise(payload),
            None => {}
        }
        self.on_task(|task| task.set_interrupt(Interrupt::Raise(payload)));
        Ok(self.resume().into_step())
    }

    /// Has the pending `yield_` unwind with [`GreenletExit`]. Gives what the generator returned, if it caught that and returned.
    ///
    /// # Errors
    ///
    /// See [`CloseError`].
    ///
    /// # Panics
    ///
    /// If the function panics on its way out.
    pub fn close(&self) -> Result<Option<R>, CloseError<Y>> {
        match self.refuse() {
            Some(GeneratorError::Running(())) => return Err(CloseError::Running),
            Some(GeneratorError::Unwinding(())) => return Err(CloseError::Unwinding),
            Some(GeneratorError::Closed(())) => return Ok(None),
            None => {}
        }
        self.on_task(|task| task.set_interrupt(Interrupt::Raise(Box::new(GreenletExit))));
        match self.resume() {
            Output::Step(Step::Yield(value)) => Err(CloseError::Ignored(value)),
            Output::Step(Step::Return(value)) => Ok(Some(value)),
            Output::Panic(payload) if payload.is::<GreenletExit>() => Ok(None),
            Output::Panic(payload) => unwind::raise(payload),
        }
    }

    fn refuse(&self) -> Option<GeneratorError<()>> {
        match self.link.state.get() {
            GeneratorState::Closed => Some(GeneratorError::Closed(())),
            GeneratorState::Running => Some(GeneratorError::Running(())),
            _ if hub().may_suspend(NEXT).is_err() => Some(GeneratorError::Unwinding(())),
            // A kill or a timeout of its own has got it going.
            _ if !self
                .on_task(|task| matches!(task.local.state.get(), State::Exchanging | State::Unstarted)) =>
            {
                Some(GeneratorError::Running(()))
            }
            _ => None,
        }
    }

    /// Runs the generator until it yields or ends.
    fn resume(&self) -> Output<Y, R> {
        let hub = hub();
        let current = hub.current();
        self.link.state.set(GeneratorState::Running);
        *self.link.caller.borrow_mut() = Some(current.to_ref());
        let waiting = Waiting { generator: self };
        self.on_task(|task| hub.switch_to(current, task, State::Exchanging));
        if let Some(Interrupt::Raise(payload)) = current.take_interrupt() {
            unwind::raise(payload);
        }
        std::mem::forget(waiting);
        self.link.output.take().expect("a generator that gives control back has an output")
    }

    fn on_task<T>(&self, act: impl FnOnce(&Task) -> T) -> T {
        act(self.task.here().expect("a generator does not leave its thread"))
    }
}

impl<Y, S, R> Generator<Y, S, R> {
    /// Where the generator is in its life.
    pub fn state(&self) -> GeneratorState {
        match self.link.state.get() {
            // A kill or a timeout of its own has got it going.
            GeneratorState::Suspended
                if self.task.here().is_some_and(|task| task.local.state.get() != State::Exchanging) =>
            {
                GeneratorState::Running
            }
            state => state,
        }
    }

    /// Nobody will ask again: has the function end.
    fn abandon(&self) {
        self.link.abandoned.set(true);
        *self.link.caller.borrow_mut() = None;
        let (Some(task), Some(hub)) = (self.task.here(), hub::existing()) else { return };
        if !unwind::is_possible() {
            return;
        }
        match task.local.state.get() {
            State::Switched | State::Exchanging | State::Unstarted => hub.unwind_now(task),
            State::Parked | State::Ready => task.interrupt(Box::new(GreenletExit)),
            State::Running | State::Dead => {}
        }
    }
}

/// The caller waits for the next value. If it is unwound meanwhile, nobody does.
struct Waiting<'a, Y, S, R> {
    generator: &'a Generator<Y, S, R>,
}

impl<Y, S, R> Drop for Waiting<'_, Y, S, R> {
    fn drop(&mut self) {
        self.generator.abandon();
    }
}

impl<Y, S, R> Drop for Generator<Y, S, R> {
    fn drop(&mut self) {
        if self.link.state.get() != GeneratorState::Closed {
            self.abandon();
        }
    }
}

impl<Y: 'static, R: 'static> Iterator for Generator<Y, (), R> {
    type Item = Y;

    fn next(&mut self) -> Option<Y> {
        (&*self).next()
    }
}

impl<Y: 'static, R: 'static> Iterator for &Generator<Y, (), R> {
    type Item = Y;

    /// The next value; `None` when the generator has ended. What it returned is dropped; see [`Generator::send`]. May switch.
    ///
    /// # Panics
    ///
    /// If the function does; if the generator runs already; in a destructor while unwinding, where `send` is an error.
    fn next(&mut self) -> Option<Y> {
        match self.send(()) {
            Ok(Step::Yield(value)) => Some(value),
            Ok(Step::Return(_)) | Err(GeneratorError::Closed(())) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<Y: 'static, R: 'static> FusedIterator for Generator<Y, (), R> {}
impl<Y: 'static, R: 'static> FusedIterator for &Generator<Y, (), R> {}

impl<Y, S, R> fmt::Debug for Generator<Y, S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generator({}, {:?})", self.task.shared().id, self.state())
    }
}

impl<Y: 'static, S: 'static> Yielder<Y, S> {
    /// Gives `value` to whoever waits for it, and waits for what is sent next.
    ///
    /// # Panics
    ///
    /// With what is thrown into the generator; with [`GreenletExit`] when it is closed or dropped. If it is called from
    /// another greenlet than the generator's own.
    pub fn yield_(&self, value: Y) -> S {
        self.try_yield(value).unwrap_or_else(|payload| unwind::raise(payload))
    }

    /// [`yield_`](Self::yield_), with what is thrown into the generator as an error instead of unwinding.
    ///
    /// # Errors
    ///
    /// What is thrown; [`GreenletExit`] when the generator is closed or dropped: then it should end. One that has been
    /// dropped and ignores that a thousand times is unwound.
    pub fn try_yield(&self, value: Y) -> Result<S, Payload> {
        self.link.exchange(value)
    }

    /// Yields all that `inner` yields, and gives what it returns: Python's `yield from` (PEP 380).
    ///
    /// What is sent goes to `inner`, which is started with `first`; what is thrown is thrown there; and when this
    /// generator is closed, so is that one.
    ///
    /// # Panics
    ///
    /// As [`yield_`](Self::yield_). If `inner` has ended, or runs.
    pub fn yield_from<R: 'static>(&self, inner: &Generator<Y, S, R>, first: S) -> R {
        const CANNOT: &str = "yield_from needs a generator that has not ended and does not run";
        let mut step = match inner.send(first) {
            Ok(step) => step,
            Err(error) => panic!("{CANNOT}: {error}"),
        };
        loop {
            let value = match step {
                Step::Yield(value) => value,
                Step::Return(value) => return value,
            };
            step = match self.try_yield(value) {
                Ok(sent) => inner.send(sent).unwrap_or_else(|error| panic!("{CANNOT}: {error}")),
                Err(payload) if payload.is::<GreenletExit>() => match inner.close() {
                    Err(error @ CloseError::Ignored(_)) => {
                        panic!("yield_from could not close the inner generator: {error}")
                    }
                    // If it cannot be closed now, it is when it is dropped, or has been killed itself.
                    Ok(_) | Err(CloseError::Running | CloseError::Unwinding) => unwind::raise(payload),
                },
                Err(payload) => inner.throw(payload).unwrap_or_else(|error| panic!("{CANNOT}: {error}")),
            };
        }
    }
}

impl<Y: 'static> Yielder<Y, ()> {
    /// Yields all items of an iterator.
    ///
    /// # Panics
    ///
    /// As [`yield_`](Self::yield_).
    pub fn yield_all(&self, items: impl IntoIterator<Item = Y>) {
        items.into_iter().for_each(|item| self.yield_(item));
    }
}

impl<Y, S> fmt::Debug for Yielder<Y, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Yielder")
    }
}

/// A `Link` whose result type does not matter: what a `Yielder` needs of it.
trait Exchange<Y, S> {
    fn exchange(&self, value: Y) -> Result<S, Payload>;
}

impl<Y, S, R> Exchange<Y, S> for Link<Y, S, R> {
    fn exchange(&self, value: Y) -> Result<S, Payload> {
        let hub = hub();
        let current = hub.current();
        let own = self.task.borrow().as_ref().is_some_and(|task| task.is(current));
        assert!(own, "a generator can yield only from its own context, not from another greenlet");
        if self.abandoned.get() || std::thread::panicking() {
            // Closed for good, or this is a destructor that runs while the generator unwinds.
            return Err(self.refuse_to_yield());
        }
        // None: a kill or a timeout of its own has got the generator going, and nobody has asked for a value. Or who
        // has asked was killed or timed out meanwhile, and is about to unwind.
        let caller = self.caller.take();
        let waiting = |task: &&Task| task.local.state.get() == State::Exchanging;
        let Some(caller) = caller.as_ref().and_then(TaskRef::here).filter(waiting) else {
            return Err(self.refuse_to_yield());
        };
        self.output.set(Some(Output::Step(Step::Yield(value))));
        self.state.set(GeneratorState::Suspended);
        let goes_on = GoesOn(&self.state);
        hub.switch_to(current, caller, State::Exchanging);
        drop(goes_on);
        match current.take_interrupt() {
            Some(Interrupt::Raise(payload)) => Err(payload),
            Some(Interrupt::Exit(exit)) => Err(Box::new(exit)),
            None => Ok(self.input.take().expect("whoever resumes a generator has sent something")),
        }
    }
}

impl<Y, S, R> Link<Y, S, R> {
    /// What the function gets that yields when it should end. A loop that never looks at it must not hold up the thread for ever.
    #[cold]
    fn refuse_to_yield(&self) -> Payload {
        let refusals = self.refusals.get().saturating_add(1);
        self.refusals.set(refusals);
        // While unwinding, it is perhaps a destructor that yields, from which nothing must unwind.
        if refusals > PATIENCE && !std::thread::panicking() {
            if refusals > 2 * PATIENCE {
                let _ = hub().park(GIVEN_UP, NEVER);
            }
            unwind::raise(Box::new(GreenletExit));
        }
        Box::new(GreenletExit)
    }
}

/// However a `yield_` ends: it need not be the caller who gets the function going, but a kill or a timeout of its own.
struct GoesOn<'a>(&'a Cell<GeneratorState>);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        self.0.set(GeneratorState::Running);
    }
}

type Function<Y, S, R> = Box<dyn FnOnce(&Yielder<Y, S>, S) -> R>;
type Parts<Y, S, R> = (Rc<Link<Y, S, R>>, Function<Y, S, R>);

struct GeneratorBody<Y, S, R> {
    /// Taken when it runs: what is left when the task is freed, perhaps by another thread, is empty.
    parts: Cell<Option<Parts<Y, S, R>>>,
}

impl<Y: 'static, S: 'static, R: 'static> Body for GeneratorBody<Y, S, R> {
    fn run(&self, _task: &Task, start: Result<(), Payload>) {
        let (link, f) = self.parts.take().expect("a generator runs once");
        let first = link.input.take();
        let result = match start {
            Ok(()) => {
                let yielder = Yielder { link: Rc::clone(&link) as Rc<dyn Exchange<Y, S>> };
                unwind::catch(move || {
                    f(&yielder, first.expect("whoever starts a generator has sent something"))
                })
            }
            Err(payload) => {
                let _ = unwind::catch(|| drop((f, first)));
                Err(payload)
            }
        };
        link.state.set(GeneratorState::Closed);
        // The link holds the task, whose body holds the link: no longer.
        let own = link.task.take();
        let caller = link.caller.take();
        match caller.as_ref().and_then(TaskRef::here) {
            Some(caller) if caller.local.state.get() == State::Exchanging => {
                link.output.set(Some(match result {
                    Ok(value) => Output::Step(Step::Return(value)),
                    Err(payload) => Output::Panic(payload),
                }));
                hub().run_next(caller);
            }
            _ => {
                let _ = unwind::catch(|| drop(result));
            }
        }
        drop(own);
    }
}
