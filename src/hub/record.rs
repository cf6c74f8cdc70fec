//! Who ran when and who woke whom: what `trace` is made of.
//!
//! A hub that is not recorded pays nothing for this on the way of a switch or a wake. The recorder makes use of two countdowns that are there
//! anyway, and keeps them at zero: so each resumption comes by way of [`Hub::check_the_clock`], which says that the turn is over, to
//! [`Hub::run_recorded`], another form of the inner loop; and the hub is told of each wake, not only of the samples.
//!
//! One recording goes on in the process, or none. Each hub has a ring of its own in it, which is locked for each event: for the sake of
//! who stops the recording, on whichever thread. The ring is closed then, and its hub finds out with the next event.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Hub, existing, hub};
use crate::sys::clock::{self, Nanos};
use crate::task::{Home, Message, Reason, State, Task, TaskRef};

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
    /// It became ready, or another thread was told to make it so. `cause`: if by the loop, why.
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

/// What part of itself the loop is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Cause {
    #[default]
    Loop,
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
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts recording on all hubs: on this thread's at once, on others when their loop comes to their inbox, on later ones from the beginning.
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
        hub.stops_running();
        hub.recorder.turn_off();
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
    /// Who runs, since when. `None`: the loop.
    running: RefCell<Option<(TaskRef, Nanos)>>,
    /// What the loop does.
    cause: Cell<Cause>,
}

impl Recorder {
    #[inline(always)]
    pub(super) fn is_on(&self) -> bool {
        self.on.get()
    }

    fn turn_off(&self) {
        self.on.set(false);
        self.ring.take();
        self.running.take();
    }

    fn push(&self, at: Nanos, task: TaskRef, what: What) {
        let open = self.ring.borrow().as_ref().is_some_and(|ring| ring.push(Event { at, task, what }));
        if !open {
            self.turn_off();
        }
    }

    /// Says what the loop is about to do.
    #[inline]
    pub(super) fn in_the_loop(&self, cause: Cause) {
        self.cause.set(cause);
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
        let running = (!self.in_the_loop()).then(|| (self.current().to_ref(), clock::now()));
        recorder.running.replace(running);
        recorder.on.set(true);
        // From now on each resumption, and each wake, comes by way of us.
        self.count_anew(0);
        self.home.skip_wakes(0);
    }

    /// The inner loop of [`Hub::run`], recorded. `true`: the thread's own task is the next.
    ///
    /// A turn is as many resumptions as there are otherwise between two looks at the clock.
    #[cold]
    #[inline(never)]
    pub(super) fn run_recorded(&self, next: &mut Option<NonNull<Task>>) -> bool {
        // Whoever has run since the last time: the thread's own task, or who turned the recorder on.
        self.stops_running();
        while self.recorder.is_on() {
            let left = self.checks.get();
            if left == 0 {
                return false;
            }
            self.checks.set(left - 1);
            let Some(task) = next.take().or_else(|| self.home.ready().pop_front()) else { return false };
            self.count_one_more();
            if task == self.main_ptr {
                self.current.set(task);
                self.main_runs();
                return true;
            }
            *next = self.resume_recorded(task);
        }
        false
    }

    /// [`Hub::resume`], with a note of it if this is recorded.
    #[inline(never)]
    pub(super) fn resume_recorded(&self, ptr: NonNull<Task>) -> Option<NonNull<Task>> {
        let task = self.alive(ptr);
        if self.recorder.is_on() && !task.is_place() {
            self.recorder.running.replace(Some((task.to_ref(), clock::now())));
        }
        let next = self.resume(ptr);
        self.stops_running();
        next
    }

    /// The thread's own task runs from here on.
    pub(super) fn main_runs(&self) {
        if self.recorder.is_on() {
            self.recorder.running.replace(Some((self.main.clone(), clock::now())));
        }
    }

    /// Whoever has run does not from here on.
    fn stops_running(&self) {
        let Some((task, since)) = self.recorder.running.take() else { return };
        let Some((state, reason)) =
            self.local(&task).map(|task| (task.local.state.get(), task.local.reason.get()))
        else {
            return;
        };
        let until = clock::now();
        let ended = (state == State::Dead).then(|| task.clone());
        self.recorder.push(since, task, What::Ran { until, state, reason });
        if let Some(task) = ended {
            self.recorder.push(until, task, What::Ended);
        }
    }

    /// Who does what is done now.
    fn who(&self) -> TaskRef {
        let running = self.recorder.running.borrow();
        running.as_ref().map_or_else(|| self.loop_task.clone(), |(task, _)| task.clone())
    }

    #[cold]
    pub(super) fn record_spawn(&self, task: &Task) {
        self.recorder.push(clock::now(), task.to_ref(), What::Spawned { by: self.who() });
    }

    pub(super) fn record_wake(&self, now: Nanos, task: TaskRef) {
        let what = What::Woken { by: self.who(), cause: self.recorder.cause.get() };
        self.recorder.push(now, task, what);
    }

    #[cold]
    pub(super) fn record_poll(&self, began: Nanos, may_wait: bool) {
        let until = clock::now();
        self.recorder.push(began, self.loop_task.clone(), What::Polled { until, may_wait });
    }
}
