//! Who ran when and who woke whom: what `trace` is made of.
//!
//! What happens is found out by `observe.rs`, which observes each run while a recording goes on.
//!
//! One recording goes on in the process, or none. Each hub has a ring of its own in it, which is locked for each
//! event: for the sake of who stops the recording, on whichever thread. The ring is closed then, and its hub
//! finds out with the next event.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Hub, existing, hub};
use crate::sys::clock::{self, Nanos};
use crate::task::{Home, Message, Reason, State, TaskRef};

/// Something that happened, to `task`.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) at: Nanos,
    pub(crate) task: TaskRef,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Spawned {
        by: TaskRef,
    },
    /// It ran, from `at` on. The state, and the reason if it waits, are those after.
    Ran {
        until: Nanos,
        state: State,
        reason: Reason,
    },
    /// It became ready, or another thread was told to make it so.
    Woken {
        by: TaskRef,
        cause: Cause,
    },
    Ended,
    /// The task is the loop's own.
    Polled {
        until: Nanos,
        may_wait: bool,
    },
}

/// What has woken: a task, or the loop, because of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Cause {
    #[default]
    Task,
    Descriptor,
    Timer,
    Thread,
}

/// The events of one hub.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) hub: u64,
    pub(crate) thread: String,
    events: Mutex<Events>,
}

#[derive(Debug)]
struct Events {
    kept: VecDeque<Event>,
    capacity: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Session {
    capacity: usize,
    since: Nanos,
    rings: Vec<Arc<Ring>>,
}

/// What was recorded.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) since: Nanos,
    pub(crate) rings: Vec<Arc<Ring>>,
    pub(crate) events: Vec<Event>,
    pub(crate) dropped: u64,
}

static SESSION: Mutex<Option<Session>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is done under these locks does not panic.
    crate::sys::lock::lock(mutex)
}

/// Starts recording on all hubs: on this thread's at once, on others when their loop comes to their inbox, on
/// later ones from the beginning.
pub(crate) fn start(capacity: usize) {
    // What was recorded before is dropped after the lock.
    let _before = stop();
    let own = hub();
    *lock(&SESSION) = Some(Session { capacity: capacity.max(1), since: clock::now(), rings: Vec::new() });
    own.join_recording();
    // A hub that is made from here on joins by itself.
    for home in Home::all() {
        if home.incarnation() != own.incarnation {
            home.post(home.incarnation(), Message::Record);
        }
    }
}

pub(crate) fn is_on() -> bool {
    lock(&SESSION).is_some()
}

/// Ends the recording, if there is one, and gives what is in its rings.
pub(crate) fn stop() -> Record {
    if let Some(hub) = existing().filter(|hub| hub.recorder.is_on()) {
        hub.end_run(Cause::Task);
        hub.stop_recording();
    }
    let Some(Session { since, rings, .. }) = lock(&SESSION).take() else { return Record::default() };
    let mut record = Record { since, ..Record::default() };
    for ring in &rings {
        let mut events = lock(&ring.events);
        // Closed.
        events.capacity = 0;
        record.dropped += events.dropped;
        record.events.extend(std::mem::take(&mut events.kept));
    }
    record.rings = rings;
    record
}

impl Ring {
    /// Adds an event, in the place of the oldest if there is no other. `false`: the recording has ended.
    fn push(&self, event: Event) -> bool {
        // The oldest event may hold the last reference to its task. It is dropped after the lock.
        let _oldest = {
            let mut events = lock(&self.events);
            if events.capacity == 0 {
                return false;
            }
            let full = events.kept.len() == events.capacity;
            let oldest = if full { events.kept.pop_front() } else { None };
            events.dropped += u64::from(full);
            events.kept.push_back(event);
            oldest
        };
        true
    }
}

/// A hub's part in the recording.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    on: Cell<bool>,
    ring: RefCell<Option<Arc<Ring>>>,
}

impl Recorder {
    #[inline(always)]
    pub(super) fn is_on(&self) -> bool {
        self.on.get()
    }
}

impl Hub {
    /// Takes part in the recording that is going on, if there is one.
    #[cold]
    pub(super) fn join_recording(&self) {
        let ring = {
            let mut session = lock(&SESSION);
            let Some(session) = &mut *session else { return };
            if let Some(ring) = session.rings.iter().find(|ring| ring.hub == self.incarnation) {
                Arc::clone(ring)
            } else {
                let events = Events { kept: VecDeque::new(), capacity: session.capacity, dropped: 0 };
                let ring = Arc::new(Ring {
                    hub: self.incarnation,
                    thread: self.home.thread_name(),
                    events: Mutex::new(events),
                });
                session.rings.push(Arc::clone(&ring));
                ring
            }
        };
        let recorder = &self.recorder;
        if recorder.ring.borrow().as_ref().is_some_and(|own| Arc::ptr_eq(own, &ring)) {
            return;
        }
        recorder.ring.replace(Some(ring));
        recorder.on.set(true);
        self.home.watch_sent(Some(record_sent));
        // In the loop, its own turn goes on.
        if self.in_the_loop() {
            self.count_anew();
        } else {
            self.begin_run(self.current());
        }
    }

    /// The thread's own task runs from here on.
    pub(super) fn main_runs(&self) {
        if self.recorder.is_on() {
            self.begin_run(self.alive(self.main_ptr));
        }
    }

    pub(super) fn record(&self, at: Nanos, task: TaskRef, what: What) {
        let open =
            self.recorder.ring.borrow().as_ref().is_some_and(|ring| ring.push(Event { at, task, what }));
        if !open {
            self.stop_recording();
        }
    }

    fn stop_recording(&self) {
        self.recorder.on.set(false);
        self.recorder.ring.take();
        self.home.watch_sent(None);
    }

    #[cold]
    pub(super) fn record_poll(&self, began: Nanos, may_wait: bool) {
        let until = clock::now();
        self.record(began, self.loop_task.clone(), What::Polled { until, may_wait });
    }
}

/// A hub whose runs are recorded sends word to a task of another one.
fn record_sent(task: &TaskRef) {
    if let Some(hub) = existing().filter(|hub| hub.recorder.is_on()) {
        hub.record(clock::now(), task.clone(), What::Woken { by: hub.who(), cause: Cause::Task });
    }
}
