//! What [`select!`](macro@crate::select) is made of. Not a public interface, but for the macro.
//!
//! A select first tries all its operations, beginning with another one each time. If none can be done, it puts a node
//! into the queue of each, and parks. Who hands something over has to win the claim that the nodes share, so one
//! operation is done, and the others are taken back.
//!
//! The message of a send is made when the send has been chosen. So what is won by a send is a *reserved place* in the channel.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use super::{Found, Receiver, Receivers, RecvError, SendError, Sender, wake};
use crate::hub::{Wake, be_fair, hub};
use crate::sys::clock::NEVER;
use crate::task::{Reason, Task};
use crate::wait::{Claim, Line, Node};

/// One arm of a select.
#[doc(hidden)]
#[expect(private_interfaces, reason = "the macro names the trait, and calls nothing of it")]
pub trait Operation {
    /// Does it, if it can be done now.
    fn attempt(&self) -> bool;

    /// Enters the queue. `false`: it could be done now.
    ///
    /// # Safety
    ///
    /// The operation must stay where it is, and the claim alive, until `withdraw` was called.
    unsafe fn enlist(&self, claim: &Claim, number: usize, task: &Task) -> bool;

    /// Leaves the queue.
    fn withdraw(&self);

    /// It was chosen: keeps what was handed over.
    fn conclude(&self);

    /// It was chosen, but will not be used: gives on what was handed over.
    fn give_up(&self);
}

/// How long a select waits.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Not at all: there is a `default`.
    None,
    /// At most so long: there is a `default(duration)`.
    For(Duration),
    Forever,
}

/// Does one of the operations, and tells which. `None`: the default.
#[doc(hidden)]
pub fn select(operations: &[&dyn Operation], patience: Patience) -> Option<usize> {
    const REASON: Reason = Reason::shared_by_many("select");
    be_fair();
    let hub = hub();
    let count = operations.len();
    // A random first and a random direction: else the one that follows those that are never ready would be favoured.
    let (first, step) = (hub.any_below(count), [1, count.saturating_sub(1)][hub.any_below(2)]);
    let mut deadline = None;
    loop {
        let tried =
            (0..count).map(|turn| (first + turn * step) % count).find(|&number| operations[number].attempt());
        if tried.is_some() {
            return tried;
        }
        let deadline = *deadline.get_or_insert_with(|| match patience {
            Patience::None => 0,
            Patience::For(duration) => hub.deadline(duration),
            Patience::Forever => NEVER,
        });
        if deadline == 0 {
            return None;
        }
        let Ok(task) = hub.may_suspend(REASON) else {
            assert!(deadline != NEVER, "a greenlet that unwinds cannot wait in a select: give it a default");
            return None;
        };
        let claim = Claim::new();
        let mut enlisted = Enlisted { operations, count: 0, claim: &claim };
        let ready = operations.iter().enumerate().any(|(number, operation)| {
            enlisted.count = number + 1;
            // SAFETY: the operations are borrowed, and `enlisted` has them withdraw before `claim` or this borrow ends.
            !unsafe { operation.enlist(&claim, number, task) }
        });
        let waited =
            if ready || claim.chosen().is_some() { Ok(Wake::Notified) } else { hub.park(REASON, deadline) };
        enlisted.withdraw();
        if let Some(number) = claim.chosen() {
            std::mem::forget(enlisted);
            // A wake may be on its way that came before the park.
            hub.disregard_wakes();
            operations[number].conclude();
            return Some(number);
        }
        if waited == Ok(Wake::TimedOut) {
            return None;
        }
    }
}

/// The operations that are in their queues.
struct Enlisted<'a> {
    operations: &'a [&'a dyn Operation],
    count: usize,
    claim: &'a Claim,
}

impl Enlisted<'_> {
    fn withdraw(&mut self) {
        for operation in &self.operations[..std::mem::take(&mut self.count)] {
            operation.withdraw();
        }
    }
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.withdraw();
        if let Some(number) = self.claim.chosen() {
            self.operations[number].give_up();
        }
    }
}

/// `recv(receiver)`.
#[doc(hidden)]
pub struct Receive<'a, T> {
    receiver: &'a Receiver<T>,
    node: Node<T>,
    result: Cell<Option<Result<T, RecvError>>>,
}

impl<'a, T> Receive<'a, T> {
    #[doc(hidden)]
    pub fn new(receiver: &'a Receiver<T>) -> Self {
        Receive { receiver, node: Node::new(None), result: Cell::new(None) }
    }

    #[doc(hidden)]
    pub fn finish(self) -> Result<T, RecvError> {
        self.result.take().expect("it was selected")
    }
}

#[expect(private_interfaces, reason = "as for the trait")]
impl<T> Operation for Receive<'_, T> {
    fn attempt(&self) -> bool {
        let mut state = self.receiver.channel.state.lock();
        let found = state.take();
        let closed = state.closed;
        drop(state);
        match found {
            Found::Message(message, wakeup) => {
                wake(wakeup);
                self.result.set(Some(Ok(message)));
                true
            }
            Found::Promised(wakeup) => {
                wakeup.wake();
                false
            }
            Found::Nothing => {
                self.result.set(closed.then_some(Err(RecvError)));
                closed
            }
        }
    }

    unsafe fn enlist(&self, claim: &Claim, number: usize, task: &Task) -> bool {
        let mut state = self.receiver.channel.state.lock();
        if state.closed || state.has_message(Some(claim)) {
            return false;
        }
        self.node.claim_by(claim, number);
        // SAFETY: the caller's promise.
        unsafe { state.receivers.push(&self.node, task) };
        true
    }

    fn withdraw(&self) {
        self.receiver.channel.state.lock().receivers.remove(&self.node);
    }

    fn conclude(&self) {
        self.result.set(Some(self.node.take_item().ok_or(RecvError)));
    }

    fn give_up(&self) {
        let line = Receivers(&self.receiver.channel);
        line.pass_on(line.lock().lock(), self.node.take_item());
    }
}

/// `send(sender, ..)`.
#[doc(hidden)]
pub struct Send<'a, T> {
    sender: &'a Sender<T>,
    node: Node<T>,
    /// There is a place for the message in the channel.
    reserved: Cell<bool>,
}

impl<'a, T> Send<'a, T> {
    #[doc(hidden)]
    pub fn new(sender: &'a Sender<T>) -> Self {
        Send { sender, node: Node::new(None), reserved: Cell::new(false) }
    }

    #[doc(hidden)]
    pub fn finish(self, message: T) -> Result<(), SendError<T>> {
        let mut state = self.sender.channel.state.lock();
        if state.closed {
            drop(state);
            return Err(SendError(message));
        }
        self.reserved.set(false);
        state.put_reserved(message);
        Ok(())
    }
}

#[expect(private_interfaces, reason = "as for the trait")]
impl<T> Operation for Send<'_, T> {
    fn attempt(&self) -> bool {
        let mut state = self.sender.channel.state.lock();
        self.reserved.set(!state.closed && state.reserve(None));
        state.closed || self.reserved.get()
    }

    unsafe fn enlist(&self, claim: &Claim, number: usize, task: &Task) -> bool {
        let mut state = self.sender.channel.state.lock();
        if state.closed || state.has_room(Some(claim)) {
            return false;
        }
        self.node.claim_by(claim, number);
        // SAFETY: the caller's promise.
        unsafe { state.senders.push(&self.node, task) };
        true
    }

    fn withdraw(&self) {
        self.sender.channel.state.lock().senders.remove(&self.node);
    }

    fn conclude(&self) {
        // Chosen with a place in the channel; or because it was closed, which `finish` sees.
        self.reserved.set(true);
    }

    fn give_up(&self) {
        self.reserved.set(true);
    }
}

impl<T> Drop for Send<'_, T> {
    fn drop(&mut self) {
        if self.reserved.get() {
            let mut state = self.sender.channel.state.lock();
            if !state.closed {
                state.unreserve();
            }
        }
    }
}

impl<T> fmt::Debug for Receive<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Send<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Send").finish_non_exhaustive()
    }
}

/// Waits for the first of several sends and receives that can be done, does that one, and runs its arm.
///
/// ```
/// use std::time::Duration;
/// use switchgrass::{channel, select};
///
/// let (tx, rx) = channel::bounded(1);
/// let (results, _keep) = channel::bounded::<u32>(0);
/// tx.send("job").unwrap();
/// let text = select! {
///     recv(rx) -> job => format!("got {}", job.unwrap()),
///     send(results, 7) -> sent => format!("sent: {sent:?}"),
///     default(Duration::from_secs(1)) => "nothing for a second".to_owned(),
/// };
/// assert_eq!(text, "got job");
/// ```
///
/// - `recv(receiver) -> pattern => arm`: the pattern gets what [`recv`](crate::channel::Receiver::recv) gives.
/// - `send(sender, message) -> pattern => arm`: the pattern gets what [`send`](crate::channel::Sender::send) gives.
///   The message is made only if this arm is chosen, after that. It takes its place in the channel all the same.
///   (In a channel without capacity: a receiver waits when the arm is chosen. If that one gives up before the
///   message is made, the next one gets it.)
/// - `default => arm`: if none can be done at once.
/// - `default(duration) => arm`: if none can be done for so long.
///
/// Among those that can be done, one is chosen at random. A channel without the other side can always be "done", with
/// the error. The syntax and the meaning are crossbeam's.
///
/// May switch.
///
/// # Panics
///
/// Without a `default`: on a thread's main stack, if nothing can ever be done; and in a destructor that runs while its
/// greenlet unwinds, if it would have to wait.
#[macro_export]
macro_rules! select {
    ($($arms:tt)*) => {
        $crate::__select!(@parse [] [] $($arms)*)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    // Each arm becomes `(operation result kind (channel) (message) (pattern) (body))`. The two names are another's in each step.
    (@parse [$($done:tt)*] [$($default:tt)*] recv($channel:expr $(,)?) -> $pattern:pat => $body:block $(,)? $($rest:tt)*) => {
        $crate::__select!(@parse [$($done)* (operation result Receive ($channel) () ($pattern) ($body))] [$($default)*] $($rest)*)
    };
    (@parse [$($done:tt)*] [$($default:tt)*] recv($channel:expr $(,)?) -> $pattern:pat => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@parse [$($done)* (operation result Receive ($channel) () ($pattern) ($body))] [$($default)*] $($($rest)*)?)
    };
    (@parse [$($done:tt)*] [$($default:tt)*] send($channel:expr, $message:expr $(,)?) -> $pattern:pat => $body:block $(,)? $($rest:tt)*) => {
        $crate::__select!(@parse [$($done)* (operation result Send ($channel) ($message) ($pattern) ($body))] [$($default)*] $($rest)*)
    };
    (@parse [$($done:tt)*] [$($default:tt)*] send($channel:expr, $message:expr $(,)?) -> $pattern:pat => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@parse [$($done)* (operation result Send ($channel) ($message) ($pattern) ($body))] [$($default)*] $($($rest)*)?)
    };
    (@parse [$($done:tt)*] [] default $(())? => $body:block $(,)? $($rest:tt)*) => {
        $crate::__select!(@parse [$($done)*] [($crate::channel::select::Patience::None) ($body)] $($rest)*)
    };
    (@parse [$($done:tt)*] [] default $(())? => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@parse [$($done)*] [($crate::channel::select::Patience::None) ($body)] $($($rest)*)?)
    };
    (@parse [$($done:tt)*] [] default($duration:expr $(,)?) => $body:block $(,)? $($rest:tt)*) => {
        $crate::__select!(@parse [$($done)*] [($crate::channel::select::Patience::For($duration)) ($body)] $($rest)*)
    };
    (@parse [$($done:tt)*] [] default($duration:expr $(,)?) => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@parse [$($done)*] [($crate::channel::select::Patience::For($duration)) ($body)] $($($rest)*)?)
    };
    (@parse [$($done:tt)*] []) => {
        $crate::__select!(@run [$($done)*] ($crate::channel::select::Patience::Forever)
            (::core::unreachable!("there is no default, so an operation was chosen")))
    };
    (@parse [$($done:tt)*] [$patience:tt $body:tt]) => {
        $crate::__select!(@run [$($done)*] $patience $body)
    };
    (@parse [$($done:tt)*] [$($default:tt)+] default $($rest:tt)*) => {
        ::core::compile_error!("a select has one default at most")
    };
    (@parse [$($done:tt)*] [$($default:tt)*] $($rest:tt)+) => {
        ::core::compile_error!(::core::concat!(
            "expected `recv(receiver) -> pattern => arm`, `send(sender, message) -> pattern => arm`, `default => arm` or `default(duration) => arm`, found: ",
            ::core::stringify!($($rest)+)
        ))
    };

    (@run [$(($operation:ident $result:ident $kind:ident ($channel:expr) ($($message:expr)?) ($pattern:pat) ($body:expr)))*] ($patience:expr) ($default:expr)) => {{
        $(let mut $result = ::core::option::Option::None;)*
        {
            $(let $operation = $crate::channel::select::$kind::new(&$channel);)*
            let chosen = $crate::channel::select::select(&[$(&$operation),*], $patience);
            #[allow(unused_mut, unused_variables)]
            let mut number = 0_usize..;
            $(
                if chosen == number.next() {
                    $result = ::core::option::Option::Some($operation.finish($($message)?));
                } else
            )* {}
        }
        $(
            if let ::core::option::Option::Some(result) = $result {
                let $pattern = result;
                $body
            } else
        )* {
            $default
        }
    }};
}
