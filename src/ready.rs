//! Waiting for several things at once: gevent's `wait` and `iwait`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::coro::unwind;
use crate::greenlet::{Greenlet, Handle, next_ready, spawn};
use crate::hub::hub;
use crate::queue::{QueueOf, Store};
use crate::select::{wait_readable, wait_writable};
use crate::sync::{AsyncResult, BoundedSemaphore, Event, Semaphore};
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Reason, WatchSet, Watcher};

/// What [`wait`] and [`iwait`] can wait for. Nothing is taken by the wait: a semaphore's permit, a
/// queue's item stay where they are.
///
/// | | is ready when |
/// |---|---|
/// | [`Greenlet`], [`Handle`] | it has ended |
/// | [`Event`], [`AsyncResult`] | it is set |
/// | [`Semaphore`], [`BoundedSemaphore`] | a permit can be had |
/// | a [queue](crate::queue) | an item can be had, or it was shut down |
/// | [`FdWait`] | the descriptor can be read, or written |
///
/// Whatever else there is to wait for, a greenlet can wait for it: for a child process (`spawn(move || child.wait())`),
/// for a job of a pool, for a lock.
pub trait Waitable: sealed::Watch {}

pub(crate) mod sealed {
    use super::{Arc, WatchSet, Watcher};

    /// Tells watchers, once each.
    #[expect(private_interfaces, reason = "sealed: nobody else calls or implements it")]
    pub trait Watch {
        /// Has `watcher` notified when this is ready; now, if it is.
        fn watch(&self, watcher: Watcher);

        /// Forgets the watchers of that set.
        fn unwatch(&self, set: &Arc<WatchSet>);
    }
}

/// Makes a type that has `watch` and `unwatch` a [`Waitable`].
macro_rules! waitable {
    ($([$($generics:tt)*] $type:ty,)*) => {$(
        #[expect(private_interfaces, reason = "as for the trait")]
        impl<$($generics)*> sealed::Watch for $type {
            fn watch(&self, watcher: Watcher) {
                <$type>::watch(self, watcher);
            }

            fn unwatch(&self, set: &Arc<WatchSet>) {
                <$type>::unwatch(self, set);
            }
        }

        impl<$($generics)*> Waitable for $type {}
    )*};
}

waitable! {
    [T] Greenlet<T>,
    [] Handle,
    [] Event,
    [T, E] AsyncResult<T, E>,
    [] Semaphore,
    [] BoundedSemaphore,
    [T, S: Store<T>] QueueOf<T, S>,
    [] FdWait,
}

/// A descriptor that [`wait`] and [`iwait`] can wait for, among other things. For descriptors alone,
/// [`select`](mod@crate::select) is simpler.
///
/// It has a duplicate of the descriptor, so what is closed elsewhere stays open as long as this
/// exists. Each wait takes a greenlet.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use switchgrass::{FdWait, io, wait};
///
/// let (reader, mut writer) = io::pipe()?;
/// writer.write_all(b"!")?;
/// assert_eq!(wait([&FdWait::readable(&reader)?], None, None).len(), 1);
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct FdWait {
    fd: Rc<OwnedFd>,
    wait: fn(&OwnedFd) -> io::Result<()>,
    /// Who waits for it, and on whose behalf.
    waiting: RefCell<Vec<(Watcher, Greenlet<()>)>>,
}

impl FdWait {
    /// Ready when a read would not wait: there is data, the end, or an error.
    ///
    /// # Errors
    ///
    /// If no descriptor is left for the duplicate.
    pub fn readable(fd: impl AsFd) -> io::Result<FdWait> {
        FdWait::new(fd, |fd| wait_readable(fd, None))
    }

    /// Ready when a write would not wait: there is room, or an error.
    ///
    /// # Errors
    ///
    /// If no descriptor is left for the duplicate.
    pub fn writable(fd: impl AsFd) -> io::Result<FdWait> {
        FdWait::new(fd, |fd| wait_writable(fd, None))
    }

    fn new(fd: impl AsFd, wait: fn(&OwnedFd) -> io::Result<()>) -> io::Result<FdWait> {
        let fd = Rc::new(fd.as_fd().try_clone_to_owned()?);
        Ok(FdWait { fd, wait, waiting: RefCell::default() })
    }

    fn watch(&self, watcher: Watcher) {
        let (fd, wait, own) = (Rc::clone(&self.fd), self.wait, watcher.clone());
        let greenlet = spawn(move || {
            // An error counts as ready: whoever reads or writes then gets it.
            let _ = wait(&fd);
            own.notify();
        });
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|(_, greenlet)| !greenlet.is_ready());
        waiting.push((watcher, greenlet));
    }

    fn unwatch(&self, set: &Arc<WatchSet>) {
        self.waiting.borrow_mut().retain(|(watcher, greenlet)| {
            let of_set = watcher.is_of(set);
            // Where nothing can be unwound, it waits on, unseen.
            if of_set && unwind::is_possible() {
                greenlet.kill_nowait();
            }
            !of_set
        });
    }
}

/// Waits until they are ready: all of them, or `count`, or as many as are within `timeout`. Gives those, in the order
/// in which they became ready. May switch.
///
/// # Panics
///
/// On a thread's main stack, if nothing is left that could make one ready, and there is no timeout. In a destructor
/// that runs while its greenlet unwinds, what is not ready is not waited for.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use switchgrass::{Waitable, sleep, spawn, sync::Event, wait};
///
/// let (event, slow) = (Event::new(), spawn(|| sleep(Duration::from_secs(3600))));
/// event.set();
/// let objects: [&dyn Waitable; 2] = [&slow, &event];
/// assert_eq!(wait(objects, Some(1), None).len(), 1);
/// ```
pub fn wait<'a, W: Waitable + ?Sized>(
    objects: impl IntoIterator<Item = &'a W>,
    count: Option<usize>,
    timeout: Option<Duration>,
) -> Vec<&'a W> {
    let ready = iwait(objects);
    let ready = match timeout {
        Some(timeout) => ready.timeout(timeout),
        None => ready,
    };
    ready.take(count.unwrap_or(usize::MAX)).collect()
}

/// Gives them one by one, as they become ready. One that is listed twice is given twice.
///
/// The next one is waited for when it is asked for. May switch then.
///
/// # Panics
///
/// As [`wait`], when the next one is asked for.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use switchgrass::{iwait, sleep, spawn};
///
/// let greenlets: Vec<_> = [20, 10].map(|n| spawn(move || { sleep(Duration::from_millis(n)); n })).into();
/// let order: Vec<_> = iwait(&greenlets).map(|greenlet| *greenlet.value().unwrap()).collect();
/// assert_eq!(order, [10, 20]);
/// ```
pub fn iwait<'a, W: Waitable + ?Sized>(objects: impl IntoIterator<Item = &'a W>) -> IWait<'a, W> {
    let objects: Vec<_> = objects.into_iter().collect();
    let set = Arc::new(WatchSet::default());
    let left = objects.len();
    let wait = IWait { objects, set, left, deadline: NEVER };
    for (number, object) in wait.objects.iter().enumerate() {
        object.watch(Watcher::new(&wait.set, number));
    }
    wait
}

/// See [`iwait`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct IWait<'a, W: Waitable + ?Sized> {
    objects: Vec<&'a W>,
    set: Arc<WatchSet>,
    /// How many were not given yet.
    left: usize,
    deadline: Nanos,
}

impl<W: Waitable + ?Sized> IWait<'_, W> {
    /// Ends the iteration after `duration`, from now on, whether all are ready or not.
    pub fn timeout(mut self, duration: Duration) -> Self {
        self.deadline = hub().deadline(duration);
        self
    }
}

impl<'a, W: Waitable + ?Sized> Iterator for IWait<'a, W> {
    type Item = &'a W;

    fn next(&mut self) -> Option<&'a W> {
        if self.left == 0 {
            return None;
        }
        let Ok(Some(number)) = next_ready(&self.set, Reason::shared_by_many("wait"), self.deadline) else {
            return None;
        };
        self.left -= 1;
        Some(self.objects[number])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl<W: Waitable + ?Sized> Drop for IWait<'_, W> {
    fn drop(&mut self) {
        if self.left > 0 {
            for object in &self.objects {
                object.unwatch(&self.set);
            }
        }
    }
}

impl<W: Waitable + ?Sized> fmt::Debug for IWait<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IWait").field("left", &self.left).finish_non_exhaustive()
    }
}
