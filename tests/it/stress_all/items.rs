//! What goes through queues and channels, and what has become of it.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::check;
use crate::util::{DropGuard, Drops};

/// Whoever has put it was told that it is in.
const PUT: u8 = 1;
const GOT: u8 = 2;
/// Whoever wanted to put it has it back.
const BACK: u8 = 4;

/// What is known of all items of a run.
pub(super) struct Items {
    all: Mutex<Vec<Arc<Fate>>>,
    next: AtomicU64,
    drops: Drops,
}

pub(super) struct Fate {
    number: u64,
    bits: AtomicU8,
    /// Whether it may be lost: while nobody is left who could get it.
    may_be_lost: Option<Arc<AtomicBool>>,
}

/// Something that is put, and got once.
pub(super) struct Item {
    fate: Arc<Fate>,
    rank: u64,
    drops: Drops,
    _guard: DropGuard,
}

impl Items {
    pub(super) fn new(drops: &Drops) -> Self {
        Items { all: Mutex::default(), next: AtomicU64::new(0), drops: drops.clone() }
    }

    pub(super) fn make(&self, rank: u64, may_be_lost: Option<&Arc<AtomicBool>>) -> Item {
        let number = self.next.fetch_add(1, SeqCst);
        let fate = Fate { number, bits: AtomicU8::new(0), may_be_lost: may_be_lost.cloned() };
        let fate = Arc::new(fate);
        self.all.lock().unwrap().push(Arc::clone(&fate));
        Item { fate, rank, drops: self.drops.clone(), _guard: self.drops.guard() }
    }

    /// Has it put by `put`, which gives it back if it is not in. If that unwinds, it may be in or not.
    pub(super) fn put(
        &self,
        rank: u64,
        may_be_lost: Option<&Arc<AtomicBool>>,
        put: impl FnOnce(Item) -> Result<(), Item>,
    ) -> bool {
        let item = self.make(rank, may_be_lost);
        let fate = Arc::clone(&item.fate);
        fate.settle(put(item))
    }

    /// All that were put have been got.
    pub(super) fn look(&self) {
        for fate in &*self.all.lock().unwrap() {
            let bits = fate.bits.load(SeqCst);
            let may_be_lost = fate.may_be_lost.as_ref().is_some_and(|lost| lost.load(SeqCst));
            check(bits != PUT || may_be_lost, || {
                format!("item {} was put, and nobody has got it", fate.number)
            });
        }
    }
}

impl Fate {
    fn set(&self, bit: u8, not: u8) {
        let before = self.bits.fetch_or(bit, SeqCst);
        check(before & not == 0, || format!("item {}: {bit} after {before}", self.number));
    }

    pub(super) fn settle(&self, put: Result<(), Item>) -> bool {
        match put {
            Ok(()) => self.set(PUT, PUT | BACK),
            Err(item) => {
                check(item.fate.number == self.number, || "another one came back".to_owned());
                self.set(BACK, PUT | GOT | BACK);
                return false;
            }
        }
        true
    }
}

impl Item {
    pub(super) fn fate(&self) -> Arc<Fate> {
        Arc::clone(&self.fate)
    }

    pub(super) fn got(self) -> u64 {
        self.fate.set(GOT, GOT | BACK);
        self.fate.number
    }
}

/// For a look at it: another copy of the same.
impl Clone for Item {
    fn clone(&self) -> Self {
        let drops = self.drops.clone();
        Item { fate: self.fate(), rank: self.rank, _guard: drops.guard(), drops }
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Item {}
