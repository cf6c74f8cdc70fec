//! The same three tasks in three ways: one after the other, in threads, and on greenlets. Who works and who waits
//! when is drawn into one picture.
//!
//! ```text
//! cargo run --release --example three_models
//! cargo run --release --example three_models -- picture.svg
//! ```
//!
//! Each task works and waits in turn, as one does that asks a slow server for something. In threads and on greenlets,
//! the waits of one are used by the others, so that all is done sooner. Threads may also *work* at the same time, if
//! there are processors for that, and have to be locked against each other for it. Greenlets of one thread never do:
//! who works goes on until it waits.
//!
//! The greenlets' part of the picture is what `switchgrass::trace` has recorded. A row is what happened, not what should have.

use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use lexopt::Arg::{Long, Short, Value};
use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text};
use switchgrass::trace::{self, Then, Trace, What};
use switchgrass::{Builder, joinall};

#[macro_use]
mod common;

use common::Failure;

const HELP: &str = "\
Draws who works and who waits: one after the other, in threads, on greenlets.

usage: three_models [FILE]

  FILE     where to write the picture [target/three_models.svg]
  --help   this
";

/// What the tasks do: milliseconds of work and of waiting, in turn.
const TASKS: [(&str, [u64; 5]); 3] =
    [("task A", [20, 60, 20, 40, 10]), ("task B", [10, 70, 30, 50, 10]), ("task C", [30, 40, 10, 60, 20])];

/// What a task does for a while.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Work,
    Wait,
    /// It could work, but another one does.
    Queue,
}

/// One piece of a row.
#[derive(Clone, Copy)]
struct Segment {
    from: Duration,
    to: Duration,
    does: Does,
}

/// What one task did.
struct Row {
    name: &'static str,
    segments: Vec<Segment>,
}

/// What one model did: a panel of the picture.
struct Panel {
    title: &'static str,
    rows: Vec<Row>,
}

/// Computes for about so long on this machine: always the same amount, however many others compute.
fn work(amount: u64, millis: u64) {
    for i in 0..amount * millis {
        black_box(i);
    }
}

/// How often `work` goes round in a millisecond.
fn rounds_per_milli() -> u64 {
    const ROUNDS: u64 = 20_000_000;
    let start = Instant::now();
    work(1, ROUNDS);
    ROUNDS / (start.elapsed().as_micros() as u64 / 1000).max(1)
}

/// Runs the task, with `sleep` to wait, and tells of each piece when it is over.
fn run(pieces: [u64; 5], amount: u64, sleep: fn(Duration), mut done: impl FnMut(Does)) {
    for (i, millis) in pieces.into_iter().enumerate() {
        if i % 2 == 0 {
            work(amount, millis);
            done(Does::Work);
        } else {
            sleep(Duration::from_millis(millis));
            done(Does::Wait);
        }
    }
}

/// A task that keeps its own record, where nobody else does.
#[expect(clippy::disallowed_methods, reason = "this is the row of a thread, which has nobody else to run")]
fn recorded(start: Instant, name: &'static str, pieces: [u64; 5], amount: u64) -> Row {
    let (mut segments, mut from) = (Vec::new(), start.elapsed());
    run(pieces, amount, thread::sleep, |does| {
        let to = start.elapsed();
        segments.push(Segment { from, to, does });
        from = to;
    });
    Row { name, segments }
}

fn one_after_the_other(amount: u64) -> Panel {
    let start = Instant::now();
    let rows = TASKS.map(|(name, pieces)| recorded(start, name, pieces, amount)).into();
    Panel { title: "one after the other", rows }
}

fn threads(amount: u64) -> Panel {
    let rows = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for (name, pieces) in TASKS {
            let rows = &rows;
            scope.spawn(move || {
                let row = recorded(start, name, pieces, amount);
                rows.lock().expect("no thread panics").push(row);
            });
        }
    });
    let mut rows = rows.into_inner().expect("no thread panics");
    rows.sort_by_key(|row| row.name);
    Panel { title: "in threads", rows }
}

fn greenlets(amount: u64) -> Result<Panel, Failure> {
    trace::start(10_000);
    let mut tasks = Vec::new();
    for (name, pieces) in TASKS {
        // The same code, with a `sleep` that lets others run.
        tasks.push(Builder::new().name(name).spawn(move || run(pieces, amount, switchgrass::sleep, |_| ()))?);
    }
    joinall(&tasks);
    let trace = trace::stop();
    Ok(Panel { title: "on greenlets", rows: TASKS.map(|(name, _)| row_of(&trace, name)).into() })
}

/// The row of one greenlet: it works while it runs, waits after a run that ended in a wait, and queues when it has been
/// woken. (A sleep that ends while another one works lasts until the loop hears of it, after that.)
fn row_of(trace: &Trace, name: &'static str) -> Row {
    let id = trace.tasks().iter().find(|task| task.name.as_deref() == Some(name)).map(|task| task.id);
    let (mut segments, mut before) = (Vec::new(), None);
    for event in trace.events().iter().filter(|event| Some(event.task) == id) {
        // What it did until now, and what it does from now on.
        let (to, next) = match &event.what {
            What::Woken { .. } => (event.at, Some((event.at, Does::Queue))),
            What::Ran { time, then } => {
                let end = event.at + *time;
                (event.at, matches!(then, Then::Waited(_)).then_some((end, Does::Wait)))
            }
            _ => continue,
        };
        if let Some((from, does)) = before {
            segments.push(Segment { from, to, does });
        }
        if let What::Ran { time, .. } = event.what {
            segments.push(Segment { from: event.at, to: event.at + time, does: Does::Work });
        }
        before = next;
    }
    Row { name, segments }
}

impl Panel {
    /// How many are under way, work, or wait at the same time, at most.
    fn at_once(&self, counts: impl Fn(Does) -> bool) -> usize {
        let mut changes: Vec<(Duration, i32)> = Vec::new();
        for segment in self.rows.iter().flat_map(|row| &row.segments).filter(|segment| counts(segment.does)) {
            changes.extend([(segment.from, 1), (segment.to, -1)]);
        }
        // Where one ends and the next begins, there are not two.
        changes.sort();
        let mut now = 0;
        changes
            .iter()
            .map(|(_, change)| {
                now += change;
                now
            })
            .max()
            .unwrap_or(0) as usize
    }

    fn end(&self) -> Duration {
        self.rows.iter().filter_map(|row| row.segments.last()).map(|last| last.to).max().unwrap_or_default()
    }
}

fn color(does: Does) -> &'static str {
    match does {
        Does::Work => "#2a7f4f",
        Does::Wait => "#f2d9a0",
        Does::Queue => "#ffffff",
    }
}

const LEFT: f64 = 90.0;
const WIDTH: f64 = 900.0;
const ROW: f64 = 26.0;
const PANEL: f64 = 150.0;
const TOP: f64 = 70.0;

fn text(content: impl Into<String>, x: f64, y: f64, size: u32) -> Text {
    Text::new(content).set("x", x).set("y", y).set("font-size", size)
}

fn bar(x: f64, y: f64, width: f64, color: &str) -> Rectangle {
    let (height, width) = (ROW - 8.0, width.max(0.5));
    let bar = Rectangle::new().set("x", format!("{x:.1}")).set("y", y).set("width", format!("{width:.1}"));
    bar.set("height", height).set("fill", color).set("stroke", "#555").set("stroke-width", 0.5)
}

/// All panels on the same scale, so that the lengths can be compared.
fn draw(panels: &[Panel]) -> Document {
    let end = panels.iter().map(Panel::end).max().unwrap_or_default().as_secs_f64() * 1000.0;
    let x = |millis: f64| LEFT + millis / end * WIDTH;
    let (width, height) = (LEFT + WIDTH + 40.0, TOP + PANEL * panels.len() as f64);
    let mut picture = Document::new()
        .set("viewBox", (0.0, 0.0, width, height))
        .set("width", width)
        .set("height", height)
        .set("font-family", "sans-serif")
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
        .add(text("The same three tasks in three ways", 20.0, 30.0, 20));

    let mut legend = Group::new();
    let meanings =
        [(Does::Work, "works"), (Does::Wait, "waits"), (Does::Queue, "could work, but another one does")];
    for (i, (does, meaning)) in meanings.into_iter().enumerate() {
        let at = LEFT + 420.0 + 100.0 * i as f64;
        legend = legend.add(bar(at, 16.0, 22.0, color(does))).add(text(meaning, at + 28.0, 30.0, 13));
    }
    picture = picture.add(legend);

    for (i, panel) in panels.iter().enumerate() {
        let top = TOP + PANEL * i as f64;
        let total = panel.end().as_millis();
        picture = picture
            .add(text(format!("{} ({total} ms)", panel.title), 20.0, top, 15).set("font-weight", "bold"));
        for (j, row) in panel.rows.iter().enumerate() {
            let y = top + 12.0 + ROW * j as f64;
            picture = picture.add(text(row.name, 20.0, y + 13.0, 13));
            for segment in &row.segments {
                let (from, to) = (x(millis(segment.from)), x(millis(segment.to)));
                picture = picture.add(bar(from, y, to - from, color(segment.does)));
            }
        }
        // The axis: a mark each 100 ms.
        let y = top + 14.0 + ROW * panel.rows.len() as f64;
        let line = |x1: f64, y1: f64, x2: f64, y2: f64| {
            Line::new().set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2).set("stroke", "#333")
        };
        picture = picture.add(line(LEFT, y, LEFT + WIDTH, y));
        for mark in (0..=end as u64).step_by(100) {
            let at = x(mark as f64);
            let label = if mark == 0 { "0 ms".to_owned() } else { mark.to_string() };
            picture = picture
                .add(line(at, y, at, y + 5.0))
                .add(text(label, at, y + 18.0, 11).set("text-anchor", "middle"));
        }
    }
    picture
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn main() -> ExitCode {
    common::finish(run_all())
}

fn run_all() -> Result<ExitCode, Failure> {
    let mut path = PathBuf::from("target/three_models.svg");
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(value) => path = value.into(),
            Long("help") | Short('h') => {
                common::print(format_args!("{HELP}"));
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    let amount = rounds_per_milli();
    let panels = [one_after_the_other(amount), threads(amount), greenlets(amount)?];

    for panel in &panels {
        let (under_way, wait) = (panel.at_once(|_| true), panel.at_once(|does| does == Does::Wait));
        say!("{}:", panel.title);
        say!(
            "  tasks that are under way at the same time: {}",
            if under_way > 1 { "several" } else { "one" }
        );
        say!("  tasks that wait at the same time: {}", if wait > 1 { "several" } else { "one" });
    }
    let [one, threads, greenlets] = &panels;
    say!("greenlets that work at the same time: {}", greenlets.at_once(|does| does == Does::Work));
    let sooner = |panel: &Panel| if panel.end() < one.end() { "sooner" } else { "not sooner" };
    say!("than one after the other: threads are done {}, greenlets {}", sooner(threads), sooner(greenlets));

    let cannot = |error: io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(cannot)?;
    }
    svg::write(File::create(&path).map_err(cannot)?, &draw(&panels)).map_err(cannot)?;
    complain!("the picture is in {}", path.display());
    Ok(ExitCode::SUCCESS)
}
