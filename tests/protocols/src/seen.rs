//! Atomics, cells and locks whose accesses loom sees, and in which a mistake can be made.

pub(crate) mod lock;
pub(crate) mod sync;

pub(crate) use self::sync::stock_up;
use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use crate::mistakes::{Kind, MISTAKES, Mistake};

/// The mistake that this process is to make.
pub(crate) fn mistake() -> Option<&'static (Mistake, u32)> {
    static CHOSEN: OnceLock<Option<(Mistake, u32)>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| {
            let number: usize = std::env::var("MISTAKE").ok()?.parse().expect("a number");
            Some((MISTAKES[number], MISTAKES[number].line()))
        })
        .as_ref()
}

/// What to do wrong here.
fn wrong(at: &Location<'_>) -> Option<Kind> {
    let (mistake, line) = mistake()?;
    (at.line() == *line && at.file().ends_with(mistake.file)).then_some(mistake.kind)
}

fn weakened(order: Ordering, wrong: Option<Kind>) -> Ordering {
    if wrong == Some(Kind::Relaxed) { Ordering::Relaxed } else { order }
}

loom::thread_local! {
    /// A store that is made after the access that follows it in the text.
    static LATE: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::new(None);
    /// What this thread has loaded last.
    static LOADED: Cell<u64> = Cell::new(0);
}

fn keep_loaded(value: u64) {
    if mistake().is_some() {
        LOADED.with(|loaded| loaded.set(value));
    }
}

fn loaded() -> u64 {
    LOADED.with(Cell::get)
}

fn store_later(store: impl FnOnce() + 'static) {
    LATE.with(|late| *late.borrow_mut() = Some(Box::new(store)));
}

/// To be called after each access.
fn done() {
    if mistake().is_some()
        && let Some(store) = LATE.with(|late| late.borrow_mut().take())
    {
        store();
    }
}
