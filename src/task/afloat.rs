//! Tasks that have no hub yet: they wait, unstarted, where several hubs look for work.
//!
//! Nobody touches the `Local` of such a task, and so it may go to another thread, if what it is made of may. The hub that takes it writes its home,
//! and then its number into `Shared::incarnation`: from then on it is a task of that hub, for good.
//!
//! Until then that number is [`AFLOAT`], and messages for it (a kill) are kept here:
//!
//! ```text
//!   AFLOAT ────────────── land ──────────────▶ the hub's number
//!     │                                               ▲
//!   leave                                             │
//!     ▼                                               │
//!   AFLOAT | MAILED ── land, under the lock ──────────┘
//! ```
//!
//! It also tells the process: those that are afloat at a fork land in the parent only.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::Ordering;

use super::{Body, Home, Message, Origin, TaskRef};
use crate::sys::fork;
use crate::sys::lock::{Lock, LockGuard};

/// It has no hub. The numbers of hubs never come so far.
const AFLOAT: u64 = 1 << 63;
/// There are messages for it.
const MAILED: u64 = 1;

/// One of this process that has no messages.
#[inline(always)]
fn afloat_here() -> u64 {
    AFLOAT | u64::from(fork::generation()) << 1
}

/// The messages, by the address of their task, which each of them keeps alive.
static MESSAGES: Lock<BTreeMap<usize, Vec<Message>>> = Lock::new(BTreeMap::new());

pub(super) type Held = LockGuard<'static, BTreeMap<usize, Vec<Message>>>;

/// For a fork, in which nobody may be in the middle of something here.
pub(super) fn hold() -> Held {
    MESSAGES.lock()
}

#[inline(always)]
pub(super) fn is_afloat(incarnation: u64) -> bool {
    incarnation >= AFLOAT
}

/// Whether it is for a hub of the parent process to take.
pub(super) fn is_left_behind(incarnation: u64) -> bool {
    is_afloat(incarnation) && incarnation & !MAILED != afloat_here()
}

/// Leaves a message for a task that has no hub yet.
///
/// # Errors
///
/// The message, if it has one now.
#[cold]
pub(super) fn leave(task: &TaskRef, message: Message) -> Result<(), Message> {
    let mut messages = MESSAGES.lock();
    let incarnation = &task.shared().incarnation;
    let before = incarnation.load(Ordering::Acquire);
    if !is_afloat(before)
        || incarnation
            .compare_exchange(before, before | MAILED, Ordering::Relaxed, Ordering::Acquire)
            .is_err()
    {
        return Err(message);
    }
    messages.entry(task.0.addr().get()).or_default().push(message);
    Ok(())
}

/// An unstarted task that has no hub yet, with the reference that will be its hub's.
#[derive(Debug)]
#[must_use = "who waits for it waits for ever"]
pub(crate) struct Afloat(TaskRef);

impl Afloat {
    /// A new task, in memory of this thread's `home`. `handles` is as for [`TaskRef::new`].
    #[inline]
    pub(crate) fn new<B: Body + Send>(
        home: &'static Home,
        origin: Origin,
        handles: usize,
        body: B,
    ) -> Afloat {
        Afloat(TaskRef::of_incarnation(home, afloat_here(), origin, handles, body))
    }

    pub(crate) fn task(&self) -> &TaskRef {
        &self.0
    }

    /// Makes it a task of the hub that lives in `home`, which is this thread's.
    ///
    /// # Errors
    ///
    /// Itself: messages have come for it. It has to be [landed with them](Afloat::land_with_messages).
    #[inline(always)]
    pub(crate) fn land(self, home: &'static Home) -> Result<TaskRef, Afloat> {
        let shared = self.0.shared();
        shared.home.store(ptr::from_ref(home).cast_mut(), Ordering::Relaxed);
        // Release: who sees the number sees the home.
        let landed = shared.incarnation.compare_exchange(
            afloat_here(),
            home.incarnation(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        if landed.is_ok() { Ok(self.0) } else { Err(self) }
    }

    /// Ends what [`Afloat::land`] has begun, and gives what has come for it.
    #[cold]
    pub(crate) fn land_with_messages(self, home: &'static Home) -> (TaskRef, Vec<Message>) {
        let mut messages = MESSAGES.lock();
        self.0.shared().incarnation.store(home.incarnation(), Ordering::Release);
        let own = messages.remove(&self.0.0.addr().get()).unwrap_or_default();
        (self.0, own)
    }
}
