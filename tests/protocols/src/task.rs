//! Tasks that have a thread each, and a mailbox as simple as can be. (That of the library is checked by itself.)

#[path = "../../../src/task/cells.rs"]
mod cells;
#[cfg(not(feature = "loom"))]
mod cells_check;
#[path = "../../../src/task/inbox.rs"]
pub(crate) mod inbox;
#[path = "../../../src/task/waker.rs"]
mod waker;
#[path = "../../../src/task/watch.rs"]
mod watch;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use self::waker::{Call, Ended, Listener, Waker, Wakeup};
pub(crate) use self::watch::{WatchSet, Watcher};
use crate::coro::unwind::{self, Payload};
use crate::model::thread::{self, Thread};
use crate::model::thread_local;
use crate::sys::lock::Lock;

#[derive(Debug)]
pub(crate) struct GreenletExit;

pub(crate) type NotSend = PhantomData<*mut ()>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason(&'static str);

impl Reason {
    pub(crate) const fn new(text: &'static str) -> Self {
        Reason(text)
    }

    pub(crate) fn shared<T: ?Sized>(text: &'static str, _: &T) -> Self {
        Reason(text)
    }

    pub(crate) const fn shared_by_many(text: &'static str) -> Self {
        Reason(text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

pub(crate) fn idle_workers() -> usize {
    0
}

/// Tells threads apart, and nothing else.
pub(crate) mod home {
    #[derive(Debug)]
    pub(crate) struct Home(());

    impl Home {
        pub(crate) fn incarnation(&self) -> u64 {
            super::current().map_or(0, |task| task.shared.id)
        }
    }

    pub(crate) static HOME: Home = Home(());

    pub(crate) fn here() -> Option<&'static Home> {
        super::current().map(|_| &HOME)
    }
}

thread_local! {
    static CURRENT: Cell<Option<NonNull<Task>>> = Cell::new(None);
}

/// The task whose thread this is.
pub(crate) fn current<'a>() -> Option<&'a Task> {
    // SAFETY: `run` keeps it alive while it is there. Nobody keeps what this gives for longer.
    CURRENT.with(Cell::get).map(|task| unsafe { &*task.as_ptr() })
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) local: Local,
    pub(crate) shared: Shared,
}

#[derive(Debug)]
pub(crate) struct Shared {
    refs: AtomicUsize,
    pub(crate) home: &'static home::Home,
    pub(crate) incarnation: u64,
    pub(crate) id: u64,
    pub(crate) ended: Ended,
    mailbox: Lock<Mailbox>,
}

#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) epoch: Cell<u32>,
    pub(crate) notified: Cell<bool>,
    pub(crate) killed: Cell<bool>,
    pub(crate) expired: Cell<bool>,
}

#[derive(Debug, Default)]
struct Mailbox {
    messages: Vec<Message>,
    /// Whom to wake.
    thread: Option<Thread>,
    /// The task has ended.
    closed: bool,
}

#[derive(Debug)]
pub(crate) enum Message {
    Wake(TaskRef, u32),
    Kill,
    /// Its deadline, if it has one, has passed, now or soon.
    Expire,
}

impl Shared {
    pub(crate) fn retain(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is the task of this thread.
    pub(crate) fn is_here(&self) -> bool {
        current().is_some_and(|task| task.shared.id == self.id)
    }

    pub(crate) fn title(&self) -> String {
        format!("task {}", self.id)
    }
}

impl Task {
    pub(crate) fn ptr(&self) -> NonNull<Task> {
        CURRENT.with(Cell::get).expect("its own thread asks")
    }

    pub(crate) fn to_ref(&self) -> TaskRef {
        self.shared.retain();
        TaskRef(self.ptr())
    }

    pub(crate) fn wake(&self, epoch: u32) {
        if self.local.epoch.get() == epoch {
            self.local.notified.set(true);
        }
    }

    pub(crate) fn read_mail(&self) {
        let messages = std::mem::take(&mut self.shared.mailbox.lock().messages);
        for message in messages {
            match message {
                Message::Wake(_, epoch) => self.wake(epoch),
                Message::Kill => self.local.killed.set(true),
                Message::Expire => self.local.expired.set(true),
            }
        }
    }
}

pub(crate) struct TaskRef(NonNull<Task>);

// SAFETY: as the library's: `Shared` can be reached from any thread, `Local` from the task's own.
unsafe impl Send for TaskRef {}
// SAFETY: as above.
unsafe impl Sync for TaskRef {}

impl TaskRef {
    /// A task that is to be run.
    pub(crate) fn new() -> TaskRef {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed) as u64;
        let shared = Shared {
            refs: AtomicUsize::new(1),
            home: &home::HOME,
            incarnation: id,
            id,
            ended: Ended::new(),
            mailbox: Lock::default(),
        };
        let task = TaskRef(NonNull::from(Box::leak(Box::new(Task { local: Local::default(), shared }))));
        assert!(!task.shared().ended.is_set());
        task
    }

    /// Runs it on this thread. `Err`: it was killed.
    pub(crate) fn run<R>(&self, f: impl FnOnce() -> R) -> Result<R, Payload> {
        self.shared().mailbox.lock().thread = Some(thread::current());
        CURRENT.with(|current| current.set(Some(self.0)));
        let result = unwind::catch(f);
        self.shared().ended.set();
        CURRENT.with(|current| current.set(None));
        let unread = {
            let mut mailbox = self.shared().mailbox.lock();
            mailbox.closed = true;
            std::mem::take(&mut mailbox.messages)
        };
        drop(unread);
        match result {
            Err(payload) if !payload.is::<GreenletExit>() => unwind::raise(payload),
            result => result,
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: alive, since this is counted; only `Shared` is borrowed.
        unsafe { &(*self.0.as_ptr()).shared }
    }

    pub(crate) fn here(&self) -> Option<&Task> {
        current().filter(|_| self.shared().is_here())
    }

    pub(crate) unsafe fn from_counted(task: NonNull<Task>) -> TaskRef {
        TaskRef(task)
    }

    pub(crate) fn post(&self, message: impl FnOnce(TaskRef) -> Message) {
        self.leave(message(self.clone()));
    }

    pub(crate) fn kill(&self) {
        self.leave(Message::Kill);
    }

    /// Its deadline has come.
    pub(crate) fn expire(&self) {
        self.leave(Message::Expire);
    }

    fn leave(&self, message: Message) {
        let thread = {
            let mut mailbox = self.shared().mailbox.lock();
            if mailbox.closed {
                drop(mailbox);
                return;
            }
            mailbox.messages.push(message);
            mailbox.thread.clone()
        };
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    pub(crate) fn start(&self) {
        unreachable!("nobody here starts a task by a link");
    }

    pub(crate) fn new_handle(&self) -> TaskHandle {
        TaskHandle(self.clone())
    }
}

impl Clone for TaskRef {
    fn clone(&self) -> Self {
        self.shared().retain();
        TaskRef(self.0)
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        if self.shared().refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: it came from a box, and nobody has it any more.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

impl fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared().title())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct TaskHandle(TaskRef);

impl TaskHandle {
    pub(crate) fn task(&self) -> &TaskRef {
        &self.0
    }
}
