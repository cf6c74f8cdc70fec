//! A recorder of who ran when, who woke whom, and who waited for what.
//!
//! Off until [`start`], and free of cost then. While it is on, each run costs some tenths of a microsecond.
//!
//! ```
//! use switchgrass::{Builder, spawn, trace, yield_now};
//!
//! trace::start(10_000);
//! let worker = Builder::new().name("worker").spawn(|| (0..3).for_each(|_| yield_now()))?;
//! worker.join().unwrap();
//! let trace = trace::stop();
//!
//! let worker = trace.tasks().iter().find(|task| task.name.as_deref() == Some("worker")).unwrap();
//! let runs = trace.events().iter().filter(|event| event.task == worker.id && matches!(event.what, trace::What::Ran { .. }));
//! assert_eq!(runs.count(), 4);
//!
//! // To look at in https://ui.perfetto.dev, or in a browser at chrome://tracing.
//! let mut json = Vec::new();
//! trace.write_chrome_json(&mut json)?;
//! # std::io::Result::Ok(())
//! ```

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::io::{self, BufWriter, Write};
use std::panic::Location;
use std::time::Duration;

use crate::hub::record::{self, Cause};
use crate::sys::clock::Nanos;
use crate::task::{Kind, State, TaskRef};

/// Starts recording on all hubs of this process, those included that are made later. What was being recorded is thrown away.
///
/// `capacity` is how many events are kept per hub (1 at least): the newest. An event takes 100 bytes, and keeps the
/// control block of its greenlet in memory (but neither its stack nor its result).
///
/// This thread's hub begins at once. Another one begins when its loop comes by, soon if it sleeps.
///
/// Does not switch.
pub fn start(capacity: usize) {
    record::start(capacity);
}

/// Whether a recording goes on.
pub fn is_on() -> bool {
    record::is_on()
}

/// Ends the recording, and gives what there is of it: nothing, if none was going on. From any thread.
///
/// What the greenlet that calls this (or the thread's own code) has run since it was resumed is in it. Whoever runs on
/// another thread at this moment is not seen since it was resumed.
///
/// Does not switch.
pub fn stop() -> Trace {
    Trace::new(record::stop())
}

/// What was recorded between [`start`] and [`stop`].
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// By number, with the thread.
    hubs: BTreeMap<u64, String>,
    tasks: Vec<Task>,
    events: Vec<Event>,
    dropped: u64,
}

/// Somebody that appears in a [`Trace`]: a greenlet, a coroutine, a generator, the thread's own stack, or a hub's loop.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Task {
    /// What [`Greenlet::id`](crate::Greenlet::id) gives. A loop has such a number, too.
    pub id: u64,
    /// What it is.
    pub kind: TaskKind,
    /// The name, if it has one.
    pub name: Option<String>,
    /// Where it was spawned. Says nothing of a thread's own stack, and of a loop.
    pub spawned_at: &'static Location<'static>,
    /// The hub it belongs to, as in [`Stats::hub`](crate::stats::Stats::hub); 0 if none of several has taken it yet.
    pub hub: u64,
}

/// What a [`Task`] is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum TaskKind {
    /// The thread's own stack.
    Main,
    /// A greenlet.
    Greenlet,
    /// A [`Coroutine`](crate::Coroutine).
    Coroutine,
    /// A [`Generator`](crate::Generator).
    Generator,
    /// The event loop of a hub.
    Loop,
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// When, from the start of the recording.
    pub at: Duration,
    /// The id of whom it happened to.
    pub task: u64,
    /// What it was.
    pub what: What,
}

/// What an [`Event`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// It was made. The time is that of the end of the run in which it was.
    Spawned {
        /// The id of who made it.
        by: u64,
    },
    /// It ran, beginning at the time of the event.
    Ran {
        /// How long.
        time: Duration,
        /// What it did then.
        then: Then,
    },
    /// It became ready to run. If by one of its own hub, the time is that of the end of the run in which it was woken.
    /// If by one of another hub, it was sent word at this time, and is woken once more when its own hub's loop looks.
    Woken {
        /// The id of who woke it. It is a hub's loop for descriptors, timers and what comes from another thread.
        by: u64,
        /// By what: `"greenlet"`, `"descriptor"`, `"timer"`, `"thread"`; `"loop"` for what else a loop does.
        through: &'static str,
    },
    /// It has ended.
    Ended,
    /// It is a hub's loop, and asked the system for events.
    Polled {
        /// How long that took.
        time: Duration,
        /// Whether it slept until there was one, since nobody was ready.
        slept: bool,
    },
}

/// What somebody did after a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Then {
    /// Waited, for this.
    Waited(String),
    /// Let others run.
    Yielded,
    /// Switched to a coroutine or generator, or back from it.
    Switched,
    /// Ended.
    Ended,
    /// Went on: it was this one that stopped the recording.
    WentOn,
}

impl Trace {
    fn new(record: record::Record) -> Trace {
        let mut tasks = BTreeMap::new();
        let mut id_of = |task: &TaskRef| {
            let shared = task.shared();
            tasks.entry(shared.id).or_insert_with(|| Task::new(task));
            shared.id
        };
        let since = |at: Nanos| Duration::from_nanos(at.saturating_sub(record.since));
        let mut events: Vec<Event> = record
            .events
            .into_iter()
            .map(|event| Event {
                at: since(event.at),
                task: id_of(&event.task),
                what: match event.what {
                    record::What::Spawned { by } => What::Spawned { by: id_of(&by) },
                    record::What::Ran { until, state, reason } => What::Ran {
                        time: since(until).saturating_sub(since(event.at)),
                        then: match state {
                            State::Running => Then::WentOn,
                            State::Parked => Then::Waited(reason.to_string()),
                            State::Ready => Then::Yielded,
                            State::Switched | State::Exchanging | State::Unstarted => Then::Switched,
                            State::Dead => Then::Ended,
                        },
                    },
                    record::What::Woken { by, cause } => What::Woken {
                        by: id_of(&by),
                        through: match cause {
                            _ if by.shared().kind != Kind::Loop => "greenlet",
                            Cause::Descriptor => "descriptor",
                            Cause::Timer => "timer",
                            Cause::Thread => "thread",
                            Cause::Task => "loop",
                        },
                    },
                    record::What::Ended => What::Ended,
                    record::What::Polled { until, may_wait } => {
                        What::Polled { time: since(until).saturating_sub(since(event.at)), slept: may_wait }
                    }
                },
            })
            .collect();
        // A run is noted when it ends.
        events.sort_by_key(|event| event.at);
        Trace {
            hubs: record.rings.iter().map(|ring| (ring.hub, ring.thread.clone())).collect(),
            tasks: tasks.into_values().collect(),
            events,
            dropped: record.dropped,
        }
    }

    /// All that appear in the events, by id.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// What happened, of all hubs, by time.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many events were not kept, since they were too many. They were before all others of their hub.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes the trace in Chrome's trace event format, which <https://ui.perfetto.dev> opens.
    ///
    /// Hubs are shown as processes, with a row for the loop and one for each that ran on it. A slice
    /// is a run, its arguments say what woke it and what it waited for after; an arrow leads from who
    /// woke to the run that came of it.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_chrome_json(&self, out: &mut impl Write) -> io::Result<()> {
        let mut lines = Lines { out: BufWriter::new(out), first: true };
        lines.out.write_all(b"{\"displayTimeUnit\":\"ns\",")?;
        write!(lines.out, "\"otherData\":{{\"dropped\":{}}},\"traceEvents\":[", self.dropped)?;
        for (hub, thread) in &self.hubs {
            let name = format!("hub {hub}, thread {thread}");
            lines.add(format_args!(
                r#""ph":"M","name":"process_name","pid":{hub},"args":{{"name":{}}}"#,
                Json(&name)
            ))?;
        }
        let mut titles = HashMap::new();
        for task in &self.tasks {
            let title = task.to_string();
            lines.add(format_args!(
                r#""ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":{}}}"#,
                task.hub,
                task.id,
                Json(&title)
            ))?;
            titles.insert(task.id, (task, title));
        }

        // Who was woken, and has not run since: when, by whom, and through what.
        let mut woken: HashMap<u64, Vec<(Duration, u64, &str)>> = HashMap::new();
        let mut arrows = 0;
        for event in &self.events {
            let (task, title) = &titles[&event.task];
            let at = format!(r#""pid":{},"tid":{},"ts":{}"#, task.hub, task.id, Micros(event.at));
            match &event.what {
                What::Ran { time, then } => {
                    let wakes = woken.remove(&event.task).unwrap_or_default();
                    let mut args = format!(r#""then":{}"#, Json(then));
                    if let Some((_, by, through)) = wakes.last() {
                        let (_, by) = &titles[by];
                        args += &format!(r#","woken by":{},"through":"{through}""#, Json(by));
                    }
                    lines.add(format_args!(
                        r#""ph":"X","name":{},"cat":"run",{at},"dur":{},"args":{{{args}}}"#,
                        Json(title),
                        Micros(*time)
                    ))?;
                    for (when, by, _) in wakes {
                        let (by, _) = &titles[&by];
                        if by.kind == TaskKind::Loop {
                            // It has no slice for the arrow to begin at.
                            continue;
                        }
                        arrows += 1;
                        lines.add(format_args!(
                            r#""ph":"s","name":"wake","cat":"wake","id":{arrows},"pid":{},"tid":{},"ts":{}"#,
                            by.hub,
                            by.id,
                            // Within the run at whose end it was noted.
                            Micros(when.saturating_sub(Duration::from_nanos(1)))
                        ))?;
                        lines.add(format_args!(
                            r#""ph":"f","bp":"e","name":"wake","cat":"wake","id":{arrows},{at}"#
                        ))?;
                    }
                }
                What::Woken { by, through } => {
                    woken.entry(event.task).or_default().push((event.at, *by, through));
                }
                What::Spawned { by } => {
                    let (_, by) = &titles[by];
                    lines.add(format_args!(
                        r#""ph":"i","s":"t","name":"spawned","cat":"life",{at},"args":{{"by":{},"at":{}}}"#,
                        Json(by),
                        Json(&task.spawned_at)
                    ))?;
                }
                What::Ended => {
                    lines.add(format_args!(r#""ph":"i","s":"t","name":"ended","cat":"life",{at}"#))?;
                }
                What::Polled { time, slept: true } => lines.add(format_args!(
                    r#""ph":"X","name":"sleep","cat":"poll",{at},"dur":{}"#,
                    Micros(*time)
                ))?,
                What::Polled { slept: false, .. } => {
                    lines.add(format_args!(r#""ph":"i","s":"t","name":"poll","cat":"poll",{at}"#))?;
                }
            }
        }
        lines.out.write_all(b"\n]}\n")?;
        lines.out.flush()
    }
}

impl Task {
    fn new(task: &TaskRef) -> Task {
        let shared = task.shared();
        Task {
            id: shared.id,
            kind: match shared.kind {
                Kind::Main => TaskKind::Main,
                Kind::Greenlet => TaskKind::Greenlet,
                Kind::Coroutine => TaskKind::Coroutine,
                Kind::Generator => TaskKind::Generator,
                Kind::Loop => TaskKind::Loop,
            },
            name: shared.name.as_deref().map(Into::into),
            spawned_at: shared.spawned_at,
            hub: shared.hub_number(),
        }
    }
}

/// `greenlet 7 'name'`.
impl Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            TaskKind::Main => "main",
            TaskKind::Greenlet => "greenlet",
            TaskKind::Coroutine => "coroutine",
            TaskKind::Generator => "generator",
            TaskKind::Loop => return f.write_str("event loop"),
        };
        write!(f, "{kind} {}", self.id)?;
        match &self.name {
            Some(name) => write!(f, " '{name}'"),
            None => Ok(()),
        }
    }
}

impl Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Then::Waited(reason) => write!(f, "waited: {reason}"),
            Then::Yielded => f.write_str("yielded"),
            Then::Switched => f.write_str("switched"),
            Then::Ended => f.write_str("ended"),
            Then::WentOn => f.write_str("went on"),
        }
    }
}

/// The objects of a JSON array, one per line.
struct Lines<W: Write> {
    out: BufWriter<W>,
    first: bool,
}

impl<W: Write> Lines<W> {
    fn add(&mut self, members: fmt::Arguments<'_>) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        writeln!(self.out, "{comma}")?;
        write!(self.out, "{{{members}}}")
    }
}

/// Microseconds, to the nanosecond.
struct Micros(Duration);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_micros(), self.0.subsec_nanos() % 1000)
    }
}

/// A text as JSON has it, in quotes.
struct Json<'a, T>(&'a T);

impl<T: Display> Display for Json<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for c in self.0.to_string().chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}
