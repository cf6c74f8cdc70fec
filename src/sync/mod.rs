//! Waiting for each other: events, results, locks.
//!
//! All of them work between the greenlets of one hub, between hubs, and with plain OS threads, which get a hub when
//! they wait. Who waits is served in the order of coming, and nobody overtakes: what is released goes straight to the
//! first in line, and if that one is killed or runs out of time just then, to the next.
//!
//! What std has, has std's names, signatures and poisoning. Unlike std's, these suspend the greenlet, not the thread;
//! and they may be held across a call that switches.

mod async_result;
mod barrier;
mod condvar;
mod event;
mod mutex;
mod once;
mod once_lock;
mod poison;
mod reentrant;
mod rwlock;
mod semaphore;

pub use self::async_result::{AlreadySet, AsyncResult};
pub use self::barrier::{Barrier, BarrierWaitResult};
pub use self::condvar::{Condvar, WaitTimeoutResult};
pub use self::event::Event;
pub use self::mutex::{Mutex, MutexGuard};
pub use self::once::{Once, OnceState};
pub use self::once_lock::{LazyLock, OnceLock};
pub use self::reentrant::{ReentrantMutex, ReentrantMutexGuard};
pub use self::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use self::semaphore::{BoundedSemaphore, Permit, Semaphore};
pub use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
