//! Snapshots in words: the tasks of a hub as a tree of who made whom.
//!
//! It must stay readable with 100,000 greenlets. So siblings that look alike (made at the same place,
//! waiting for the same in the same place, with children that look alike) are told of once, and a backtrace
//! that was shown before is referred to.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use super::inspect::{Doing, Snapshot, TaskView, Trace};
use crate::coro::trace::{self, Symbol};
use crate::task::Kind;

/// So many siblings that look alike are told of as one.
const ALIKE: usize = 10;
/// How many of them are named then.
const NAMED: usize = 3;
/// Deeper descendants stand at this depth.
const DEEPEST: usize = 32;

/// The names of instructions, looked up once each.
#[derive(Debug)]
pub(crate) struct Names {
    known: HashMap<usize, Vec<Symbol>>,
    here: Option<PathBuf>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Names { known: HashMap::new(), here: std::env::current_dir().ok() }
    }

    /// Writes a backtrace, a line per function. What every stack begins and ends with, in this
    /// crate and in std, is left out.
    pub(crate) fn write_trace(
        &mut self,
        out: &mut dyn Write,
        addresses: &[usize],
        indent: usize,
    ) -> fmt::Result {
        for address in addresses {
            self.known.entry(*address).or_insert_with(|| trace::resolve(*address));
        }
        let symbols: Vec<&Symbol> = addresses.iter().flat_map(|address| &self.known[address]).collect();
        for symbol in interesting(symbols) {
            write!(out, "\n{:indent$}{}", "", symbol.name)?;
            if let Some((file, line)) = &symbol.place {
                write!(out, " ({}:{line})", shorter(file, self.here.as_deref()))?;
            }
        }
        Ok(())
    }
}

/// Where this crate's code comes from, in the debug information.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");

/// Part of the program, by the beginning of its names, and by its files: with `debug = "line-tables-only"`, the names
/// of inlined functions have no paths; without debug information there are no files.
struct Part {
    names: &'static [&'static str],
    own_files: &'static [&'static str],
    files: &'static [&'static str],
}

/// What lies between a wait and those who wait, innermost.
const INNER: Part = Part {
    names: &[
        "backtrace::",
        "corosensei::",
        "switchgrass::coro::",
        "switchgrass::dump::",
        "switchgrass::hub::",
        "switchgrass::task::",
    ],
    own_files: &["coro/", "dump.rs", "hub/", "task/"],
    files: &["/backtrace-0.", "/corosensei-0."],
};
/// What lies between functions, anywhere.
const GLUE: Part = Part {
    names: &[
        "__rust_try",
        "alloc::boxed::",
        "core::ops::function::",
        "core::panic::",
        "std::panic::",
        "std::panicking::",
        "switchgrass::coro::unwind::",
    ],
    own_files: &["coro/unwind.rs"],
    files: &[
        "/library/alloc/src/boxed.rs",
        "/library/core/src/ops/function.rs",
        "/library/core/src/panic/",
        "/library/std/src/panic.rs",
        "/library/std/src/panicking.rs",
    ],
};
/// Calls the body of a task.
const ROOT: Part = Part { names: &["switchgrass::task::"], own_files: &["task/"], files: &[] };

impl Part {
    fn has(&self, symbol: &Symbol) -> bool {
        let name = symbol.name.trim_start_matches(['<', '&']);
        // A function pointer, as the harness of tests has them.
        let name = name.split_once("as core::ops::function::").map_or(name, |_| "core::ops::function::");
        let in_file = || {
            let Some((file, _)) = &symbol.place else { return false };
            let own = file.strip_prefix(OWN);
            own.is_some_and(|file| self.own_files.iter().any(|prefix| file.starts_with(prefix)))
                || self.files.iter().any(|part| file.contains(part))
        };
        self.names.iter().any(|prefix| name.starts_with(prefix)) || in_file()
    }
}

/// The frames without ours and std's at both ends, and without glue; all, if nothing would be left.
fn interesting(mut symbols: Vec<&Symbol>) -> Vec<&Symbol> {
    let start = symbols.iter().take_while(|symbol| INNER.has(symbol) || GLUE.has(symbol)).count();
    let is_root = |symbol: &&Symbol| ROOT.has(symbol) || symbol.name.contains("__rust_begin_short_backtrace");
    let end = symbols[start..].iter().position(is_root).map_or(symbols.len(), |end| start + end);
    let is_body = |symbol: &Symbol| {
        let own = symbol.place.as_ref().is_some_and(|(file, _)| file.starts_with(OWN));
        symbol.name.contains("switchgrass::task::Body>::run") || own && symbol.name.starts_with("run<")
    };
    let mut left = symbols[start..end].to_vec();
    left.retain(|symbol| !GLUE.has(symbol) && !is_body(symbol));
    if !left.is_empty() {
        symbols = left;
    }
    symbols
}

/// The file without what is the same for all: the present directory, or where cargo keeps the sources of others.
fn shorter<'a>(file: &'a str, here: Option<&Path>) -> &'a str {
    let relative = here.and_then(|here| Path::new(file).strip_prefix(here).ok()).and_then(Path::to_str);
    let tail = |part| file.split_once(part).and_then(|(_, rest)| rest.split_once('/')).map(|(_, tail)| tail);
    relative.or_else(|| tail("/registry/src/")).or_else(|| tail("/rustc/")).unwrap_or(file)
}

/// Writes the tasks of a hub, each on a line that begins with `indent` spaces or more, at most `lines` of them.
pub(crate) fn write_tree(
    out: &mut dyn Write,
    snapshot: &Snapshot,
    names: &mut Names,
    indent: usize,
    lines: usize,
) -> fmt::Result {
    if snapshot.tasks.is_empty() {
        return Ok(());
    }
    let mut writer = Writer {
        out,
        snapshot,
        names,
        tree: Tree::of(&snapshot.tasks),
        shown: HashMap::new(),
        lines,
        told: 0,
    };
    writer.entries(&[0], indent)?;
    let untold = snapshot.tasks.len() - writer.told;
    if untold > 0 {
        write!(out, "\n{:indent$}… and {untold} more", "")?;
    }
    Ok(())
}

/// Who made whom, by index.
struct Tree {
    children: Vec<Vec<usize>>,
    /// What each looks like, with all its descendants: equal numbers look alike.
    looks: Vec<usize>,
    /// How many descendants each has, with itself.
    sizes: Vec<usize>,
}

#[derive(PartialEq, Eq, Hash)]
struct Looks<'a> {
    kind: Kind,
    place: (&'static str, u32, u32),
    doing: &'a str,
    trace: Trace,
    /// The looks of the children, sorted, and how many there are of each.
    children: Vec<(usize, usize)>,
}

impl Tree {
    /// Of tasks in the order of their ids, so that whoever made one comes before it.
    fn of(tasks: &[TaskView]) -> Tree {
        let by_id: HashMap<u64, usize> =
            tasks.iter().enumerate().map(|(index, task)| (task.id, index)).collect();
        // One whose maker has ended stands under the thread's own.
        let mut parents = vec![0; tasks.len()];
        let mut depths = vec![0; tasks.len()];
        let mut children = vec![Vec::new(); tasks.len()];
        for (index, task) in tasks.iter().enumerate().skip(1) {
            let maker = by_id.get(&task.spawned_by).copied().filter(|&maker| maker < index).unwrap_or(0);
            let parent = if depths[maker] < DEEPEST { maker } else { parents[maker] };
            parents[index] = parent;
            depths[index] = depths[parent] + 1;
            children[parent].push(index);
        }
        let (mut looks, mut sizes) = (vec![0; tasks.len()], vec![1; tasks.len()]);
        let mut known = HashMap::new();
        for (index, task) in tasks.iter().enumerate().rev() {
            let mut below: Vec<usize> = children[index].iter().map(|&child| looks[child]).collect();
            below.sort_unstable();
            let look = Looks {
                kind: task.kind,
                place: (task.spawned_at.file(), task.spawned_at.line(), task.spawned_at.column()),
                doing: task.doing.text(task.kind),
                trace: task.trace,
                children: below.chunk_by(|a, b| a == b).map(|alike| (alike[0], alike.len())).collect(),
            };
            let next = known.len();
            looks[index] = *known.entry(look).or_insert(next);
            sizes[index] += children[index].iter().map(|&child| sizes[child]).sum::<usize>();
        }
        Tree { children, looks, sizes }
    }

    /// The tasks, with those that look alike together, if they are many.
    fn groups(&self, tasks: &[usize]) -> Vec<Vec<usize>> {
        let mut alike: HashMap<usize, Vec<usize>> = HashMap::new();
        for &task in tasks {
            alike.entry(self.looks[task]).or_default().push(task);
        }
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for group in alike.into_values() {
            match group.len() {
                ..=ALIKE => groups.extend(group.into_iter().map(|task| vec![task])),
                _ => groups.push(group),
            }
        }
        groups.sort_unstable_by_key(|group| group[0]);
        groups
    }
}

impl Doing {
    fn text(&self, kind: Kind) -> &'static str {
        match self {
            Doing::Runs => "runs",
            Doing::CanRun => "can run",
            Doing::Waits(reason) => reason.text,
            Doing::Switched => "suspended in a switch: waits for somebody to switch to it",
            Doing::Exchanges => "waits in a generator's send or yield",
            Doing::NotStarted if kind == Kind::Greenlet => "is not started yet",
            Doing::NotStarted => "was never switched to",
        }
    }
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    snapshot: &'a Snapshot,
    names: &'a mut Names,
    tree: Tree,
    /// Backtraces that were written, and of whom.
    shown: HashMap<u32, usize>,
    /// So many are left.
    lines: usize,
    /// How many tasks were told of.
    told: usize,
}

impl Writer<'_> {
    fn entries(&mut self, tasks: &[usize], indent: usize) -> fmt::Result {
        for group in self.tree.groups(tasks) {
            if self.lines == 0 {
                return Ok(());
            }
            self.lines -= 1;
            self.line(&group, indent)?;
            let children = self.tree.children[group[0]].clone();
            if group.len() == 1 {
                self.told += 1;
                self.entries(&children, indent + 2)?;
            } else {
                if !children.is_empty() {
                    write!(self.out, "\n{:indent$}  each has made what the first has:", "")?;
                    let told = self.told;
                    self.entries(&children, indent + 4)?;
                    self.told = told;
                }
                self.told += group.iter().map(|&task| self.tree.sizes[task]).sum::<usize>();
            }
        }
        Ok(())
    }

    /// One line for tasks that look alike, and the backtrace.
    fn line(&mut self, group: &[usize], indent: usize) -> fmt::Result {
        let task = |index: usize| &self.snapshot.tasks[index];
        let first = task(group[0]);
        let out = &mut *self.out;
        write!(out, "\n{:indent$}", "")?;
        if let [_] = group {
            write!(out, "{}", Title(first))?;
        } else {
            write!(out, "{} {}s (", group.len(), first.kind)?;
            for &index in &group[..NAMED] {
                write!(out, "{}, ", Who(task(index)))?;
            }
            write!(out, "… {})", Who(task(group[group.len() - 1])))?;
        }
        match first.doing {
            Doing::Waits(reason) => {
                let same = |index: &usize| matches!(task(*index).doing, Doing::Waits(other) if other.object == reason.object);
                if group.iter().all(same) {
                    write!(out, ": waits: {reason}")?;
                } else {
                    write!(out, ": waits: {} (one each)", reason.text)?;
                }
            }
            doing => write!(out, ": {}", doing.text(first.kind))?,
        }
        if first.kind != Kind::Main {
            write!(out, "; spawned at {}", first.spawned_at)?;
        }
        let waited = group.iter().filter_map(|&index| task(index).waited);
        if let (Some(shortest), Some(longest)) = (waited.clone().min(), waited.max()) {
            write!(out, "; for {}", Rounded(shortest))?;
            if group.len() > 1 {
                write!(out, " to {}", Rounded(longest))?;
            }
        }
        match first.trace {
            Trace::None => Ok(()),
            Trace::TooMany => write!(out, "; no backtrace: there are too many"),
            Trace::NoRoom => write!(out, "; no backtrace: too little of its stack is left"),
            Trace::At(trace) => match self.shown.get(&trace) {
                Some(&other) => write!(out, "; backtrace as that of {}", Title(task(other))),
                None => {
                    self.shown.insert(trace, group[0]);
                    self.names.write_trace(out, &self.snapshot.traces[trace as usize], indent + 6)
                }
            },
        }
    }
}

/// `greenlet 7 'name'`.
struct Title<'a>(&'a TaskView);

impl fmt::Display for Title<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.kind, Who(self.0))
    }
}

/// `7 'name'`.
struct Who<'a>(&'a TaskView);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.id)?;
        match &self.0.name {
            Some(name) => write!(f, " '{name}'"),
            None => Ok(()),
        }
    }
}

/// A time to three digits or so: nobody waits for `1.000000001s`.
struct Rounded(std::time::Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            seconds => write!(f, "{} min {} s", seconds / 60, seconds % 60),
        }
    }
}
