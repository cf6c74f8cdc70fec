//! That the checks can fail: each of these mistakes is found by one of them.
//!
//! A mistake is made by the access that a line of the library's source makes, in a process of its own, which runs the check.

use std::process::Command;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// As if it said `Ordering::Relaxed`.
    Relaxed,
    /// As if the store, or the storing half, or the fence were not there; as if what is loaded had never been changed.
    Left,
    /// As if what the thread has loaded last were loaded.
    Again,
    /// As if it were two steps, a load and a store.
    Torn,
    /// As if it stood after the access that follows it.
    Late,
}
use Kind::{Again, Late, Left, Relaxed, Torn};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mistake {
    /// By which it is found.
    check: &'static str,
    /// What that says.
    says: &'static str,
    pub(crate) file: &'static str,
    /// Lines that follow each other, of which the last one makes the access.
    text: &'static str,
    pub(crate) kind: Kind,
}

const fn mistake(
    check: &'static str,
    says: &'static str,
    file: &'static str,
    text: &'static str,
    kind: Kind,
) -> Mistake {
    Mistake { check, says, file, text, kind }
}

/// What loom says when nobody can go on.
const LOST: &str = "deadlock";
/// What loom says when two threads use a place at once.
const RACE: &str = "Causality violation";
/// What the check itself says.
const WRONG: &str = "assertion";

pub(crate) const MISTAKES: &[Mistake] = &[
    mistake(
        "inbox::no_message_is_slept_over",
        LOST,
        "src/task/inbox.rs",
        "self.pending.store(true, Ordering::Release);",
        Late,
    ),
    mistake(
        "inbox::no_message_is_slept_over",
        LOST,
        "src/task/inbox.rs",
        "self.sleeping.swap(true, Ordering::AcqRel);",
        Torn,
    ),
    mistake(
        "inbox::no_message_is_slept_over",
        LOST,
        "src/task/inbox.rs",
        "self.sleeping.swap(true, Ordering::AcqRel);",
        Relaxed,
    ),
    mistake(
        "inbox::a_message_for_a_hub_that_goes_is_dropped_once_and_the_next_hub_does_not_get_it",
        WRONG,
        "src/task/inbox.rs",
        "self.owner.store(0, Ordering::Release);",
        Left,
    ),
    mistake(
        "ended::who_listens_is_told_once_or_learns_that_it_has_ended",
        WRONG,
        "src/task/waker.rs",
        "let before = self.state.compare_exchange(GOING_ON, AWAITED, Ordering::AcqRel, Ordering::Acquire);",
        Torn,
    ),
    mistake(
        "ended::who_listens_is_told_once_or_learns_that_it_has_ended",
        WRONG,
        "src/task/waker.rs",
        "if self.state.swap(ENDED, Ordering::AcqRel) == AWAITED {",
        Torn,
    ),
    mistake(
        "ended::who_sees_the_end_sees_what_was_done_before",
        RACE,
        "src/task/waker.rs",
        "if self.state.swap(ENDED, Ordering::AcqRel) == AWAITED {",
        Relaxed,
    ),
    mistake(
        "ended::who_sees_the_end_sees_what_was_done_before",
        RACE,
        "src/task/waker.rs",
        "self.state.load(Ordering::Acquire) == ENDED",
        Relaxed,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        RACE,
        "src/sync/mutex.rs",
        "self.state.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()",
        Relaxed,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        RACE,
        "src/sync/mutex.rs",
        "self.state.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()",
        Torn,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        RACE,
        "src/sync/mutex.rs",
        "if self.state.compare_exchange(LOCKED, FREE, Ordering::Release, Ordering::Relaxed).is_err() {",
        Relaxed,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        LOST,
        "src/sync/mutex.rs",
        "if self.state.compare_exchange(LOCKED, FREE, Ordering::Release, Ordering::Relaxed).is_err() {",
        Torn,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        RACE,
        "src/sync/mutex.rs",
        "if self.state.swap(CONTENDED, Ordering::Acquire) == FREE {",
        Relaxed,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        LOST,
        "src/sync/mutex.rs",
        "if self.state.swap(CONTENDED, Ordering::Acquire) == FREE {",
        Left,
    ),
    mistake(
        "sync::a_mutex_lets_one_in_at_a_time_and_all_in_the_end",
        RACE,
        "src/sync/mutex.rs",
        "None => self.state.store(FREE, Ordering::Release),",
        Relaxed,
    ),
    mistake(
        "sync::a_permit_brings_along_what_was_done_under_it",
        RACE,
        "src/sync/semaphore.rs",
        "match self.permits.compare_exchange_weak(permits, fewer, Ordering::Acquire, Ordering::Relaxed) {",
        Relaxed,
    ),
    mistake(
        "sync::a_permit_brings_along_what_was_done_under_it",
        RACE,
        "src/sync/semaphore.rs",
        "match self.permits.compare_exchange_weak(permits, fewer, Ordering::Acquire, Ordering::Relaxed) {",
        Torn,
    ),
    mistake(
        "sync::a_permit_brings_along_what_was_done_under_it",
        RACE,
        "src/sync/semaphore.rs",
        "match self.permits.compare_exchange_weak(",
        Relaxed,
    ),
    mistake(
        "sync::the_permits_of_a_semaphore_are_as_many_as_before",
        LOST,
        "src/sync/semaphore.rs",
        "match self.permits.compare_exchange_weak(",
        Torn,
    ),
    mistake(
        "sync::a_permit_brings_along_what_was_done_under_it",
        LOST,
        "src/sync/semaphore.rs",
        "if self.permits.compare_exchange(none, SLOW, Ordering::Relaxed, Ordering::Relaxed).is_ok() {",
        Torn,
    ),
    mistake(
        "sync::a_permit_brings_it_along_past_one_who_gave_up",
        RACE,
        "src/sync/semaphore.rs",
        "match self.permits.compare_exchange(permits, more, Ordering::Release, Ordering::Relaxed) {",
        Relaxed,
    ),
    mistake(
        "channel::a_message_is_received_or_stays_when_the_deadline_comes",
        RACE,
        "src/wait.rs",
        "node.state.store(CHOSEN, Ordering::Release);",
        Relaxed,
    ),
    mistake(
        "channel::a_message_goes_to_one_of_two",
        LOST,
        "src/wait.rs",
        "node.state.store(CHOSEN, Ordering::Release);",
        Left,
    ),
    mistake(
        "channel::a_message_is_received_or_stays_when_the_deadline_comes",
        RACE,
        "src/wait.rs",
        "self.state.load(Ordering::Acquire) == CHOSEN",
        Relaxed,
    ),
    mistake(
        "channel::a_select_takes_one_message_and_leaves_the_other",
        WRONG,
        "src/wait.rs",
        "self.0.compare_exchange(0, number + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()",
        Torn,
    ),
    mistake(
        "result::a_result_that_nobody_takes_is_dropped_once",
        RACE,
        "src/greenlet/result.rs",
        "if self.bits.compare_exchange(0, DONE, Ordering::AcqRel, Ordering::Acquire).is_err() {",
        Relaxed,
    ),
    mistake(
        "result::a_result_that_nobody_takes_is_dropped_once",
        WRONG,
        "src/greenlet/result.rs",
        "if self.bits.compare_exchange(0, DONE, Ordering::AcqRel, Ordering::Acquire).is_err() {",
        Torn,
    ),
    mistake(
        "result::a_result_that_nobody_takes_is_dropped_once",
        RACE,
        "src/greenlet/result.rs",
        "if self.bits.fetch_or(DETACHED, Ordering::AcqRel) & DONE != 0 {",
        Relaxed,
    ),
    mistake(
        "result::a_result_that_nobody_takes_is_dropped_once",
        WRONG,
        "src/greenlet/result.rs",
        "if self.bits.fetch_or(DETACHED, Ordering::AcqRel) & DONE != 0 {",
        Torn,
    ),
    mistake(
        "result::each_link_looks_once",
        WRONG,
        "src/greenlet/result.rs",
        "match self.bits.compare_exchange(bits, bits | DONE, Ordering::AcqRel, Ordering::Acquire) {",
        Torn,
    ),
    mistake(
        "result::each_link_looks_once",
        RACE,
        "src/greenlet/result.rs",
        "match self.bits.compare_exchange(bits, bits | DONE, Ordering::AcqRel, Ordering::Acquire) {",
        Relaxed,
    ),
    mistake(
        "result::each_link_looks_once",
        WRONG,
        "src/greenlet/result.rs",
        "if self.bits.fetch_or(LINKED, Ordering::AcqRel) & DONE == 0 {",
        Left,
    ),
    mistake(
        "result::each_link_looks_once",
        WRONG,
        "src/greenlet/result.rs",
        "if self.bits.fetch_or(LINKED, Ordering::AcqRel) & DONE == 0 {",
        Torn,
    ),
    mistake(
        "block_on::no_wake_of_a_future_is_missed",
        LOST,
        "src/greenlet/block_on.rs",
        "self.woken.swap(true, Ordering::Release);",
        Left,
    ),
    mistake(
        "block_on::no_wake_of_a_future_is_missed",
        LOST,
        "src/greenlet/block_on.rs",
        "while !signal.woken.swap(false, Ordering::AcqRel) {",
        Torn,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        LOST,
        "src/hub/idle.rs",
        "pub(crate) fn choose(&self) -> Option<usize> {\nfence(Ordering::SeqCst);",
        Left,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        LOST,
        "src/hub/idle.rs",
        "if wants_a_searcher(self.counts.load(Ordering::Relaxed)) { self.choose_one() } else { None }",
        Left,
    ),
    mistake(
        "idle::while_one_searches_no_other_is_woken",
        WRONG,
        "src/hub/idle.rs",
        "if !wants_a_searcher(self.counts.load(Ordering::Relaxed)) {",
        Again,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_add(SEARCHER - SLEEPER, Ordering::Relaxed);",
        Left,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_add(SEARCHER, Ordering::Relaxed);",
        Left,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        LOST,
        "src/hub/idle.rs",
        "let is_last = self.counts.fetch_sub(SEARCHER, Ordering::AcqRel) < 2 * SEARCHER;",
        Relaxed,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        WRONG,
        "src/hub/idle.rs",
        "let is_last = self.counts.fetch_sub(SEARCHER, Ordering::AcqRel) < 2 * SEARCHER;",
        Left,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        LOST,
        "src/hub/idle.rs",
        "let is_last = self.counts.fetch_sub(SEARCHER, Ordering::AcqRel) < 2 * SEARCHER;\nfence(Ordering::SeqCst);",
        Left,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_add(SLEEPER, Ordering::Relaxed);",
        Left,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        LOST,
        "src/hub/idle.rs",
        "drop(asleep);\nfence(Ordering::SeqCst);",
        Left,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_sub(SLEEPER, Ordering::Relaxed);",
        Left,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_add(SEARCHER - SLEEPER, Ordering::Relaxed);",
        Torn,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_add(SEARCHER, Ordering::Relaxed);",
        Torn,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        LOST,
        "src/hub/idle.rs",
        "let is_last = self.counts.fetch_sub(SEARCHER, Ordering::AcqRel) < 2 * SEARCHER;",
        Torn,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_add(SLEEPER, Ordering::Relaxed);",
        Torn,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        WRONG,
        "src/hub/idle.rs",
        "self.counts.fetch_sub(SLEEPER, Ordering::Relaxed);",
        Torn,
    ),
    mistake(
        "idle::no_work_is_slept_over",
        LOST,
        "tests/protocols/src/checks/idle.rs",
        "let sleeps = !self.has_work();",
        Left,
    ),
    mistake(
        "idle::who_finds_more_than_it_can_start_sees_to_the_rest",
        LOST,
        "tests/protocols/src/checks/idle.rs",
        "if is_last && self.has_work() {",
        Left,
    ),
];

impl Mistake {
    /// Where the access is.
    pub(crate) fn line(&self) -> u32 {
        let path = format!("{}/../../{}", env!("CARGO_MANIFEST_DIR"), self.file);
        let source = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        let text: Vec<_> = self.text.lines().collect();
        let mut found = (text.len()..).zip(lines.windows(text.len())).filter(|(_, window)| **window == text);
        let (line, _) = found.next().unwrap_or_else(|| panic!("{self:?}: no such line"));
        assert!(found.next().is_none(), "{self:?}: not the only such line");
        u32::try_from(line).unwrap()
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
        let text =
            [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if run.status.success() || !text.contains(mistake.says) {
            missed.push(format!("{mistake:?}\n{text}"));
        }
    }
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n\n"));
}
