//! What every greenlet of the process does right now: a tree of who spawned whom, with backtraces.
//!
//! ```
//! use std::io::{Read, Write};
//! use switchgrass::net::TcpListener;
//! use switchgrass::{Builder, dump, yield_now};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let server = Builder::new().name("server").spawn(move || listener.accept().map(drop))?;
//! yield_now(); // lets it run up to where it waits
//!
//! let text = dump::to_string();
//! assert!(text.contains(&format!("greenlet {} 'server': waits: ", server.id())), "{text}");
//! assert!(text.contains("accept"), "{text}");
//! # server.kill();
//! # std::io::Result::Ok(())
//! ```
//!
//! For each greenlet (coroutine, generator, thread's own context) it tells its number and name, what it
//! waits for and for how long, where it was spawned, and its backtrace. Those whose spawner has ended stand
//! under the context of their thread. Siblings that look alike are told of once, with their number, so that
//! 100,000 greenlets give a page or two.
//!
//! # How, and what it costs
//!
//! A hub looks at its own greenlets, between two of them: other hubs are asked, and answer when they come back to their
//! loop. A suspended greenlet is resumed for a moment, to walk its own stack: it runs nothing else, and nothing of it
//! changes. That takes a few microseconds each, in which the hub does nothing else, so it is done for the first 1,000
//! greenlets of a hub only ([`Options::backtraces`]). To find the names of functions takes a tenth of a second or more,
//! most of it the first time, as the debug information of the program is read. This is done on a thread of the pool
//! where that is possible, so it does not hold up the hub. Without debug information (`debug = "line-tables-only"` in
//! the profile is enough) there are the names that the symbol table has, without lines.
//!
//! A hub that does not come back to its loop in time ([`Options::patience`]) is asked by a signal, `SIGURG`, who runs
//! there and where; see [`monitor`](crate::monitor) for what that means. The others of that hub cannot be listed then.
//!
//! A program that never asks for a dump pays a load and a store per wait, for the time: "for 3.2 s" counts from the
//! hub's last look at the clock before, which was half a millisecond earlier at most if no greenlet ran longer.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use crate::coro::sample::{self, NoAnswer};
use crate::coro::trace::{self, MAX_FRAMES};
use crate::hub;
use crate::hub::inspect::{Answer, Snapshot, Wanted, ask_others, ask_thread};
use crate::hub::tree::{Names, write_tree};
use crate::sys;
use crate::task::{Bystander, Home, Reason};
use crate::threadpool::unblock_for;

/// How long a thread whose hub is busy may take to answer a signal.
const BUSY_PATIENCE: Duration = Duration::from_millis(200);

/// Writes a dump of all greenlets, with the default [`Options`]. May switch.
///
/// # Errors
///
/// What `out` gives.
pub fn write(out: &mut impl io::Write) -> io::Result<()> {
    Options::new().write(out)
}

/// A dump of all greenlets, with the default [`Options`]. May switch.
pub fn to_string() -> String {
    Options::new().to_string()
}

/// From now on, a dump is written to stderr whenever the process gets `signal` (`SIGQUIT`, say, or `SIGUSR1`).
///
/// That is done by an OS thread of its own, so that it works when a hub is held up. It cannot be undone. In a forked
/// child, it has to be asked for again. A handler that the program has set for the signal before is no longer called,
/// and a default action no longer taken.
///
/// # Errors
///
/// `InvalidInput` for a signal that cannot be handled, or that says what a thread has done (a fault, an abort).
/// `AlreadyExists` if this was asked for that signal already. If the system gives no descriptors or no thread.
pub fn on_signal(signal: i32) -> io::Result<()> {
    let mut alarm = sample::alarm(signal)?;
    std::thread::Builder::new().name("switchgrass-dump".to_owned()).spawn(move || {
        let _bystander = Bystander::new();
        // Several at once are one: a full pipe says no more than a byte.
        while matches!(alarm.read(&mut [0; 4096]), Ok(1..)) {
            sys::write_stderr(to_string().as_bytes());
        }
    })?;
    Ok(())
}

/// What a dump shows.
///
/// ```
/// let short = switchgrass::dump::Options::new().backtraces(0).lines(20);
/// println!("{}", short.to_string());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options {
    backtraces: usize,
    frames: usize,
    lines: usize,
    patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

impl Options {
    /// 1,000 backtraces of 32 frames and 1,000 lines for each hub, and a second for other hubs to answer.
    pub const fn new() -> Self {
        Options { backtraces: 1000, frames: 32, lines: 1000, patience: Duration::from_secs(1) }
    }

    /// Of so many greenlets of each hub at most the backtrace is taken; 0: of none.
    pub const fn backtraces(mut self, count: usize) -> Self {
        self.backtraces = count;
        self
    }

    /// So many frames of each backtrace at most, from the innermost, and never more than 128. The frames of this
    /// library and of std that surround a greenlet's own are counted, but not shown.
    pub const fn frames(mut self, count: usize) -> Self {
        self.frames = if count < MAX_FRAMES { count } else { MAX_FRAMES };
        self
    }

    /// So many lines for each hub at most, backtraces not counted. A line may stand for many greenlets that look alike.
    pub const fn lines(mut self, count: usize) -> Self {
        self.lines = count;
        self
    }

    /// How long other hubs have to answer, all together. One that does not is listed as busy.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Writes a dump. May switch.
    ///
    /// # Errors
    ///
    /// What `out` gives.
    pub fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        out.write_all(self.to_string().as_bytes())
    }

    /// A dump, as text. May switch.
    ///
    /// In a destructor that runs while its greenlet unwinds, it does not, and blocks the OS thread instead.
    #[expect(clippy::inherent_to_string, reason = "no Display: it looks at the process, and may switch")]
    pub fn to_string(&self) -> String {
        let options = *self;
        match hub::existing() {
            None => options.finish(None),
            Some(hub) => {
                let own = (hub.incarnation, hub.snapshot(options.wanted()));
                if hub.may_wait_now() {
                    unblock_for(Reason::new("dump of all greenlets"), move || options.finish(Some(own)))
                } else {
                    options.finish(Some(own))
                }
            }
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted { traces: self.backtraces, frames: self.frames, only: None }
    }

    /// Asks the other hubs, and puts it all into words. Blocks the OS thread.
    fn finish(self, own: Option<(u64, Snapshot)>) -> String {
        let wanted = self.wanted();
        let asked = ask_others(own.as_ref().map(|&(hub, _)| hub), move |hub| hub.snapshot(wanted));
        let until = Instant::now() + self.patience;
        let mut text = String::new();
        let mut names = Names::new();
        // A String takes whatever is written to it.
        if let Some((_, own)) = own {
            self.write_hub(&mut text, &own, &mut names);
        }
        for hub in asked {
            match hub.wait(until) {
                Some(Answer::Here(snapshot)) => self.write_hub(&mut text, &snapshot, &mut names),
                Some(Answer::Busy { home, incarnation }) => {
                    self.write_busy(&mut text, home, incarnation, &mut names);
                }
                None => {}
            }
        }
        trace::forget_symbols();
        text
    }

    /// A hub that has not answered: who runs there, and where. The others can only be looked at by their own thread.
    fn write_busy(&self, text: &mut String, home: &'static Home, incarnation: u64, names: &mut Names) {
        let _ = write!(
            text,
            "hub of thread {}: busy, has not come back to its loop within {:?}",
            home.thread_name(),
            self.patience
        );
        let ask = || ask_thread(home, incarnation, sample::ANY, sample::DEFAULT, BUSY_PATIENCE);
        let standing = match sample::install(sample::DEFAULT) {
            // It may be in the middle of a switch, or in its loop: then it is soon somewhere else.
            Ok(()) => (0..9)
                .map(|_| ask())
                .find(|answer| !matches!(answer, Err(NoAnswer::MovesOn)))
                .unwrap_or_else(ask),
            Err(_) => Err(NoAnswer::Silent),
        };
        match standing {
            Ok(standing) => {
                let _ = write!(text, "\n  {} {}", standing.what, standing.id);
                if let Some(name) = standing.name() {
                    let _ = write!(text, " '{name}'");
                }
                text.push_str(": runs");
                if let Some(place) = standing.spawned_at {
                    let _ = write!(text, "; spawned at {place}");
                }
                if self.backtraces > 0 {
                    let addresses = standing.frames.addresses();
                    let _ = names.write_trace(text, &addresses[..addresses.len().min(self.frames)], 8);
                }
            }
            Err(NoAnswer::MovesOn) => text.push_str("; but it goes on"),
            Err(NoAnswer::Silent) => text.push_str("; and its thread does not answer SIGURG"),
        }
        text.push('\n');
    }

    fn write_hub(&self, text: &mut String, snapshot: &Snapshot, names: &mut Names) {
        let greenlets = snapshot.tasks.len() - 1;
        let _ = write!(text, "hub of thread {}: {greenlets} besides its own context", snapshot.thread);
        let _ = write_tree(text, snapshot, names, 2, self.lines);
        text.push('\n');
    }
}
