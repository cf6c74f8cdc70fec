//! What a hub looks like at one moment: its tasks, who made them, what they wait for, and where they stand.
//!
//! A hub's tasks can only be looked at on its own thread. So each hub is asked with a message, which it reads when it
//! comes back to its loop; the answer is plain data, which is put into words elsewhere (see `tree.rs`).

use std::collections::HashMap;
use std::ops::Range;
use std::panic::Location;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::Hub;
use crate::coro::sample::{self, NoAnswer, Standing};
use crate::coro::trace::{Frames, Inspection};
use crate::sys::clock::Nanos;
use crate::sys::mem::page_size;
use crate::task::{Home, Kind, Letter, Message, Reason, State, Task, TaskRef};

/// The tasks of one hub at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The hub's number.
    pub(crate) hub: u64,
    pub(crate) thread: String,
    /// Oldest first: the thread's own, then the others in the order of their ids. Or the one that
    /// was asked for, if it is there.
    pub(crate) tasks: Vec<TaskView>,
    /// The backtraces that `tasks` refer to, each once.
    pub(crate) traces: Vec<Box<[usize]>>,
}

/// One task at that moment.
#[derive(Debug)]
pub(crate) struct TaskView {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) name: Option<Box<str>>,
    pub(crate) spawned_by: u64,
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) doing: Doing,
    /// For how long it has waited, as of the hub's last look at the clock before.
    pub(crate) waited: Option<Duration>,
    /// Index into the snapshot's traces.
    pub(crate) trace: Trace,
}

/// What a task does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Doing {
    Runs,
    CanRun,
    Waits(Reason),
    /// Suspended in `Coroutine::switch`.
    Switched,
    /// In a generator's `send` or `yield_`.
    Exchanges,
    NotStarted,
}

/// The backtrace of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Trace {
    /// That one of the snapshot's.
    At(u32),
    /// It has none, or none was asked for.
    None,
    /// So many were taken already.
    TooMany,
    /// It has too little stack left to tell.
    NoRoom,
}

/// What a snapshot is to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Of so many tasks at most the backtrace is taken.
    pub(crate) traces: usize,
    /// So many frames of each.
    pub(crate) frames: usize,
    /// The task with this id only.
    pub(crate) only: Option<u64>,
}

/// The backtraces of a snapshot, each once.
struct Traces {
    left: usize,
    frames: usize,
    known: HashMap<Box<[usize]>, u32>,
}

impl Traces {
    fn add(&mut self, frames: &Frames) -> Trace {
        let addresses = frames.addresses();
        if addresses.is_empty() {
            return Trace::None;
        }
        let addresses = &addresses[..addresses.len().min(self.frames)];
        let next = self.known.len() as u32;
        match self.known.get(addresses) {
            Some(&index) => Trace::At(index),
            None => {
                self.known.insert(addresses.into(), next);
                Trace::At(next)
            }
        }
    }

    fn into_list(self) -> Vec<Box<[usize]>> {
        let mut list = vec![Box::default(); self.known.len()];
        for (addresses, index) in self.known {
            list[index as usize] = addresses;
        }
        list
    }
}

impl Hub {
    /// Looks at all tasks of this hub. Those that are suspended are resumed for a moment each, to take their
    /// backtraces, and nobody else runs meanwhile.
    #[inline(never)]
    pub(crate) fn snapshot(&self, wanted: Wanted) -> Snapshot {
        let mut traces = Traces { left: wanted.traces, frames: wanted.frames, known: HashMap::new() };
        // From here: the frames of who runs, and then those of the thread's own stack, if that is another.
        let mut current_frames = Frames::new();
        let mut main_frames = Frames::new();
        if wanted.traces > 0 {
            let current = self.current();
            if self.in_the_loop() || self.is_main(current) {
                main_frames.here();
            } else {
                current_frames = Frames::of_caller(&stack_of(current), &mut main_frames);
            }
        }
        let mut living = self.living();
        living.push(self.main.clone());
        let mut tasks: Vec<&Task> = living.iter().filter_map(|task| task.here()).collect();
        tasks.retain(|task| wanted.only.is_none_or(|id| id == task.shared.id));
        tasks.sort_unstable_by_key(|task| task.shared.id);
        let now = self.read_clock();
        let views = tasks.iter().map(|task| {
            let trace = if traces.left == 0 {
                if wanted.traces == 0 { Trace::None } else { Trace::TooMany }
            } else if self.is_main(task) {
                traces.add(&main_frames)
            } else if task.local.state.get() == State::Running {
                traces.add(&current_frames)
            } else {
                self.trace_of(task, &mut traces)
            };
            self.view(task, trace, now)
        });
        let tasks = views.collect();
        Snapshot { hub: self.incarnation, thread: self.home.thread_name(), tasks, traces: traces.into_list() }
    }

    /// The task with this id, if it is one of this hub's and has not ended.
    pub(crate) fn find(&self, id: u64) -> Option<TaskRef> {
        let mut living = self.living();
        living.push(self.main.clone());
        living.into_iter().find(|task| task.shared().id == id)
    }

    fn view(&self, task: &Task, trace: Trace, now: Nanos) -> TaskView {
        let local = &task.local;
        let state = local.state.get();
        let doing = match state {
            State::Parked => Doing::Waits(local.reason.get()),
            State::Switched => Doing::Switched,
            State::Exchanging => Doing::Exchanges,
            State::Unstarted => Doing::NotStarted,
            State::Ready | State::Dead => Doing::CanRun,
            State::Running => Doing::Runs,
        };
        TaskView {
            id: task.shared.id,
            kind: task.shared.kind,
            name: task.shared.name.clone(),
            spawned_by: task.shared.spawned_by,
            spawned_at: task.shared.spawned_at,
            doing,
            waited: (state == State::Parked)
                .then(|| Duration::from_nanos(now.saturating_sub(local.parked_at.get()))),
            trace,
        }
    }

    fn trace_of(&self, task: &Task, traces: &mut Traces) -> Trace {
        let mut inspection = Inspection::new(stack_of(task));
        if !self.inspect(task, &mut inspection) {
            return Trace::None;
        }
        traces.left -= 1;
        if inspection.answered { traces.add(&inspection.frames) } else { Trace::NoRoom }
    }

    /// Has a suspended task tell where it stands. `false`: it has no stack, since it has not started.
    fn inspect(&self, task: &Task, inspection: &mut Inspection) -> bool {
        debug_assert!(task.local.state.get() != State::Running || self.is_main(task));
        // SAFETY: only the hub touches contexts. It is not inside of this one: the task is not the current one, or
        // nobody is, since this is the loop; and who is inspected does nothing but to answer.
        let Some(context) = (unsafe { &mut *task.local.context.get() }) else { return false };
        // SAFETY: `errno` is this thread's, whose address never changes.
        let errno = unsafe { *self.errno };
        self.inspection.set(Some((&mut *inspection).into()));
        context.inspect();
        self.inspection.set(None);
        // SAFETY: as above.
        unsafe { *self.errno = errno };
        true
    }
}

fn stack_of(task: &Task) -> Range<usize> {
    let low = task.local.stack_low.get();
    low + page_size()..low + page_size() + task.local.stack_size
}

/// A hub of another thread that was asked.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    home: &'static Home,
    incarnation: u64,
    answer: mpsc::Receiver<T>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    Here(T),
    /// It has not come back to its loop in time.
    Busy {
        home: &'static Home,
        incarnation: u64,
    },
}

/// Asks all hubs of the process but one. The question is put in each hub's loop, so it must not wait.
pub(crate) fn ask_others<T: Send + 'static>(
    own: Option<u64>,
    question: impl Fn(&Hub) -> T + Clone + Send + 'static,
) -> Vec<Asked<T>> {
    let others = Home::inhabited().into_iter().filter(|&(_, incarnation)| Some(incarnation) != own);
    others
        .map(|(home, incarnation)| {
            let (answer_to, answer) = mpsc::channel();
            let question = question.clone();
            home.post(
                incarnation,
                Message::Call(Letter::new(move || {
                    if let Some(hub) = super::existing() {
                        let _ = answer_to.send(question(hub));
                    }
                })),
            );
            Asked { home, incarnation, answer }
        })
        .collect()
}

impl<T> Asked<T> {
    /// Waits for the answer, and blocks this OS thread meanwhile. `None`: that hub has gone.
    pub(crate) fn wait(self, until: Instant) -> Option<Answer<T>> {
        match self.answer.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(answer) => Some(Answer::Here(answer)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Some(Answer::Busy { home: self.home, incarnation: self.incarnation })
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
        }
    }
}

/// Asks the thread of a hub, by a signal that was installed before, who runs there and where. Blocks this OS thread.
///
/// # Errors
///
/// The hub has come further than `expected` (if that is not [`sample::ANY`]), has gone, or does
/// not answer within `patience`.
pub(crate) fn ask_thread(
    home: &'static Home,
    incarnation: u64,
    expected: u64,
    signal: libc::c_int,
    patience: Duration,
) -> Result<Standing, NoAnswer> {
    sample::ask(home.address(), expected, patience, || home.signal(incarnation, signal))
}
