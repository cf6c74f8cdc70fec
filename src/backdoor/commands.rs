//! The commands, and their answers.
//!
//! What takes long is done on a thread of the pool: waiting for other hubs, putting much into words, writing a file.

#![forbid(unsafe_code)]

use std::fmt::{self, Display, Write as _};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::coro::trace::forget_symbols;
use crate::coro::unwind;
use crate::dump;
use crate::greenlet;
use crate::hub::inspect::{self, Doing, TaskView, Wanted, ask_others};
use crate::hub::tree::{Names, write_tree};
use crate::hub::{Hub, hub};
use crate::stats;
use crate::task::{Kind, Reason};
use crate::threadpool::unblock_for;
use crate::timeout::timeout;
use crate::trace;

/// How long other hubs have to answer, and who is killed has to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many lines of each hub `ps` shows unless it is told otherwise.
const ROWS: usize = 1000;
/// So many events of each hub a recording keeps unless it is told otherwise: 10 MB.
const EVENTS: usize = 100_000;
/// So many frames of a backtrace are shown.
const FRAMES: usize = 64;

/// What becomes of a line.
pub(super) enum Answer {
    /// These lines, or an error that says why not.
    Lines(Result<Vec<u8>, String>),
    /// The end.
    Quit,
}

const HELP: &str = "\
help                 these lines
ps [N]               one line per greenlet: the N oldest of each hub (1000)
tree                 who spawned whom
bt [ID]              the backtrace of one, or of all
stats                the numbers of each hub
kill ID              kills a greenlet
trace start [N]      starts a recording of N events per hub (100000)
trace stop [FILE]    ends it: sends Chrome's JSON, or writes it to a new file
quit                 closes the connection
# An answer ends with a line that is a single dot. Columns are separated by tabs.
";

/// Does what a line says. May switch.
pub(super) fn answer(line: &str) -> Answer {
    let (command, arguments) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let arguments = arguments.trim_start();
    let text = match (command, arguments) {
        ("", _) => Ok(String::new()),
        ("quit", "") => return Answer::Quit,
        ("help", "") => Ok(HELP.to_owned()),
        ("ps", rows) => number(rows, ROWS).map(ps),
        ("tree", "") => Ok(dump::Options::new().backtraces(0).patience(PATIENCE).to_string()),
        ("bt", "") => Ok(dump::Options::new().patience(PATIENCE).to_string()),
        ("bt", id) => the_id(id).and_then(backtrace),
        ("stats", "") => Ok(statistics()),
        ("kill", id) => the_id(id).and_then(kill),
        ("trace", arguments) => match arguments.split_once(char::is_whitespace).unwrap_or((arguments, "")) {
            ("start", events) => number(events, EVENTS).and_then(start_recording),
            ("stop", "") => return Answer::Lines(stop_recording()),
            ("stop", file) => stop_recording_to(file.trim_start()),
            _ => Err("trace what? `trace start [N]` or `trace stop [FILE]`".to_owned()),
        },
        ("quit" | "help" | "tree" | "stats", _) => Err(format!("`{command}` stands alone")),
        _ => {
            Err(format!("there is no command `{}`: `help` tells which there are", Plain(&shortened(command))))
        }
    };
    Answer::Lines(text.map(String::into_bytes))
}

fn number(text: &str, default: usize) -> Result<usize, String> {
    match text.trim() {
        "" => Ok(default),
        text => text.parse().map_err(|_| format!("`{}` is not a number", Plain(&shortened(text)))),
    }
}

fn the_id(text: &str) -> Result<u64, String> {
    let text = text.trim();
    text.parse().map_err(|_| match text {
        "" => "of which? `ps` tells the ids".to_owned(),
        _ => format!("`{}` is not an id: `ps` tells them", Plain(&shortened(text))),
    })
}

/// What the hubs have answered, and the threads of those that have not.
struct Found<T> {
    answers: Vec<T>,
    busy: Vec<String>,
}

/// Asks all hubs the same, and has `then` make something of it, on a thread of the pool. May switch.
fn look<T: Send + 'static, R: Send + 'static>(
    question: impl Fn(&Hub) -> T + Clone + Send + 'static,
    then: impl FnOnce(Found<T>) -> R + Send + 'static,
) -> R {
    let hub = hub();
    let (own, answer) = (hub.incarnation, question(hub));
    unblock_for(Reason::new("backdoor: what other hubs answer"), move || {
        let until = Instant::now() + PATIENCE;
        let mut found = Found { answers: vec![answer], busy: Vec::new() };
        for asked in ask_others(Some(own), question) {
            match asked.wait(until) {
                Some(inspect::Answer::Here(answer)) => found.answers.push(answer),
                Some(inspect::Answer::Busy { home, .. }) => found.busy.push(home.thread_name()),
                None => {}
            }
        }
        then(found)
    })
}

/// Asks hubs about the task with this id until one has it. May switch.
fn find<T: Send + 'static>(
    id: u64,
    question: impl Fn(&Hub) -> Option<T> + Clone + Send + 'static,
) -> Result<T, String> {
    if let Some(own) = question(hub()) {
        return Ok(own);
    }
    look(question, move |found| match (found.answers.into_iter().flatten().next(), &found.busy[..]) {
        (Some(found), _) => Ok(found),
        (None, []) => Err(format!("nobody who lives has the id {id}: `ps` tells the ids")),
        (None, busy) => Err(format!(
            "nobody has the id {id}, unless on thread {}, whose hub is busy: `bt` tells with what",
            Plain(&busy.join(", "))
        )),
    })
}

fn ps(rows: usize) -> String {
    let question = |hub: &Hub| hub.snapshot(Wanted { traces: 0, frames: 0, only: None });
    look(question, move |mut found| {
        found.answers.sort_unstable_by_key(|snapshot| snapshot.hub);
        let mut text = "#ID\tHUB\tKIND\tSTATE\tSECONDS\tSPAWNED_BY\tNAME\tSPAWNED_AT\tWAITS_FOR\n".to_owned();
        for snapshot in &found.answers {
            snapshot.tasks.iter().take(rows).for_each(|task| row(&mut text, snapshot.hub, task));
            let more = snapshot.tasks.len().saturating_sub(rows);
            if more > 0 {
                line(&mut text, format_args!("# and {more} more on hub {}", snapshot.hub));
            }
        }
        for thread in &found.busy {
            line(
                &mut text,
                format_args!("# the hub of thread {} is busy: `bt` tells with what", Plain(thread)),
            );
        }
        text
    })
}

fn row(text: &mut String, hub: u64, task: &TaskView) {
    let state = match task.doing {
        Doing::Runs => "runs",
        Doing::CanRun => "ready",
        Doing::Waits(_) => "waits",
        Doing::Switched | Doing::Exchanges => "switched",
        Doing::NotStarted => "unstarted",
    };
    let seconds = task.waited.map(|waited| format!("{:.3}", waited.as_secs_f64()));
    let is_main = task.kind == Kind::Main;
    let spawned_by = (!is_main).then_some(task.spawned_by);
    let spawned_at = (!is_main).then_some(task.spawned_at);
    let reason = match task.doing {
        Doing::Waits(reason) => Some(reason),
        _ => None,
    };
    line(
        text,
        format_args!(
            "{}\t{hub}\t{}\t{state}\t{}\t{}\t{}\t{}\t{}",
            task.id,
            task.kind,
            Cell(seconds),
            Cell(spawned_by),
            Cell(task.name.as_deref()),
            Cell(spawned_at),
            Cell(reason)
        ),
    );
}

fn backtrace(id: u64) -> Result<String, String> {
    let wanted = Wanted { traces: 1, frames: FRAMES, only: Some(id) };
    let snapshot = find(id, move |hub| Some(hub.snapshot(wanted)).filter(|found| !found.tasks.is_empty()))?;
    Ok(unblock_for(Reason::new("backdoor: names of functions"), move || {
        let mut text = String::new();
        // A String takes whatever is written to it.
        let _ = write_tree(&mut text, &snapshot, &mut Names::new(), 0, 1);
        forget_symbols();
        text.trim_start_matches('\n').to_owned()
    }))
}

fn statistics() -> String {
    let mut text = "#HUB\tNAME\tVALUE\n".to_owned();
    for stats in stats::all() {
        let hub = stats.hub;
        let mut add =
            |name: &str, value: &dyn Display| line(&mut text, format_args!("{hub}\t{name}\t{value}"));
        add("thread", &Plain(&stats.thread));
        add("switches", &stats.switches);
        add("polls", &stats.polls);
        add("timers", &stats.timers);
        add("live", &stats.live);
        add("ready", &stats.ready);
        add("stacks_in_use", &stats.stacks_in_use);
        add("stacks_pooled", &stats.stacks_pooled);
        add("queue_time_mean_ns", &stats.queue_time.mean().as_nanos());
        add("queue_time_99_percent_ns", &stats.queue_time.quantile(0.99).as_nanos());
        add("queue_time_longest_ns", &stats.queue_time.longest().as_nanos());
    }
    text
}

fn kill(id: u64) -> Result<String, String> {
    if !unwind::is_possible() {
        return Err("a kill unwinds, and this program is built with panic = \"abort\"".to_owned());
    }
    let task = find(id, move |hub| hub.find(id))?;
    match task.shared().kind {
        Kind::Greenlet => {}
        Kind::Main | Kind::Loop => {
            return Err(format!("{id} is a thread's own context, which is not killed from outside"));
        }
        Kind::Coroutine | Kind::Generator => {
            return Err(format!("{id} is a {}: it ends when its last handle is dropped", task.shared().kind));
        }
    }
    match timeout(PATIENCE, || greenlet::kill(&task)) {
        Ok(()) => Ok(format!("killed {id}")),
        Err(_) => Ok(format!("told {id}")),
    }
}

fn start_recording(events: usize) -> Result<String, String> {
    if trace::is_on() {
        return Err("a recording goes on already: `trace stop` ends it".to_owned());
    }
    trace::start(events);
    Ok(format!("recording {} events per hub", events.max(1)))
}

const NO_RECORDING: &str = "no recording goes on: `trace start` begins one";

fn stop_recording() -> Result<Vec<u8>, String> {
    if !trace::is_on() {
        return Err(NO_RECORDING.to_owned());
    }
    unblock_for(Reason::new("backdoor: the trace as JSON"), || {
        let mut json = Vec::new();
        trace::stop().write_chrome_json(&mut json).map_err(|error| error.to_string())?;
        Ok(json)
    })
}

fn stop_recording_to(file: &str) -> Result<String, String> {
    if !trace::is_on() {
        return Err(NO_RECORDING.to_owned());
    }
    let file = file.to_owned();
    unblock_for(Reason::new("backdoor: the trace to a file"), move || {
        let write = || -> io::Result<String> {
            let path = std::path::absolute(Path::new(&file))?;
            // Before the recording ends, so that a wrong name does not lose it.
            let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            trace::stop().write_chrome_json(&mut out)?;
            Ok(format!("{} {}", out.metadata()?.len(), path.display()))
        };
        write().map_err(|error| format!("{}: {error}", Plain(&file)))
    })
}

fn line(text: &mut String, arguments: fmt::Arguments<'_>) {
    // A String takes whatever is written to it.
    let _ = writeln!(text, "{arguments}");
}

/// The beginning: what comes from a client may be anything.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A column.
struct Cell<T>(Option<T>);

impl<T: Display> Display for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => Plain(value).fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// A text without control characters.
struct Plain<'a, T: ?Sized>(&'a T);

impl<T: Display + ?Sized> Display for Plain<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}
