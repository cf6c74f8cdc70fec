//! That the checks can fail: each of these mistakes is found by one of them.
//!
//! A mistake is made by the access that a line of the library's source makes, in a process of its own, which runs the check.

use std::process::Command;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// As if it said `Ordering::Relaxed`.
    Relaxed,
    /// As if the store, or the storing half, were not there.
    Left,
    /// As if it were two steps, a load and a store.
    Torn,
    /// As if it stood after the access that follows it.
    Late,
}
use Kind::{Late, Left, Relaxed, Torn};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mistake {
    /// By which it is found.
    check: &'static str,
    /// What that says.
    says: &'static str,
    pub(crate) file: &'static str,
    text: &'static str,
    pub(crate) kind: Kind,
}

const fn mistake(check: &'static str, says: &'static str, file: &'static str, text: &'static str, kind: Kind) -> Mistake {
    Mistake { check, says, file, text, kind }
}

const LOST: &str = "deadlock";
const RACE: &str = "Causality violation";

pub(crate) const MISTAKES: &[Mistake] = &[
    mistake("no_message_is_slept_over", LOST, "src/task/inbox.rs", "self.pending.store(true, Ordering::Release);", Late),
    mistake("no_message_is_slept_over", LOST, "src/task/inbox.rs", "self.sleeping.swap(true, Ordering::AcqRel);", Torn),
];

impl Mistake {
    /// Where the access is.
    pub(crate) fn line(&self) -> u32 {
        let path = format!("{}/../../{}", env!("CARGO_MANIFEST_DIR"), self.file);
        let source = std::fs::read_to_string(path).unwrap();
        let mut lines = (1..).zip(source.lines()).filter(|(_, line)| line.contains(self.text)).map(|(number, _)| number);
        let line = lines.next().unwrap_or_else(|| panic!("{self:?}: no such line"));
        assert_eq!(lines.next(), None, "{self:?}: not the only such line");
        line
    }
}

#[test]
fn each_mistake_is_found() {
    let mut missed = Vec::new();
    for (number, mistake) in MISTAKES.iter().enumerate() {
        mistake.line();
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("checks::{}", mistake.check)])
            .env("MISTAKE", number.to_string())
            .output()
            .unwrap();
        let text = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if run.status.success() || !text.contains(mistake.says) {
            missed.push(format!("{mistake:?}\n{text}"));
        }
    }
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n\n"));
}
