//! The three orders in which a queue can give its items out.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;

/// What a queue needs of the collection that its items are in.
pub(crate) trait Keep<T> {
    const EMPTY: Self;

    fn push(&mut self, item: T);

    /// What [`pop`](Self::pop) would give.
    fn first(&self) -> Option<&T>;

    fn pop(&mut self) -> Option<T>;

    /// Takes an item back, to be the next to go among its equals.
    fn put_back(&mut self, item: T);

    fn len(&self) -> usize;
}

impl<T> Keep<T> for VecDeque<T> {
    const EMPTY: Self = VecDeque::new();

    fn push(&mut self, item: T) {
        self.push_back(item);
    }

    fn first(&self) -> Option<&T> {
        self.front()
    }

    fn pop(&mut self) -> Option<T> {
        self.pop_front()
    }

    fn put_back(&mut self, item: T) {
        self.push_front(item);
    }

    fn len(&self) -> usize {
        self.len()
    }
}

impl<T> Keep<T> for Vec<T> {
    const EMPTY: Self = Vec::new();

    fn push(&mut self, item: T) {
        self.push(item);
    }

    fn first(&self) -> Option<&T> {
        self.last()
    }

    fn pop(&mut self) -> Option<T> {
        self.pop()
    }

    fn put_back(&mut self, item: T) {
        self.push(item);
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// A heap that gives the smallest first, and of equal ones the oldest.
pub struct Heap<T> {
    entries: BinaryHeap<Reverse<Entry<T>>>,
    /// The least and the greatest number given so far.
    least: i64,
    greatest: i64,
}

/// An item, and its place among its equals.
struct Entry<T> {
    item: T,
    number: i64,
}

impl<T: Ord> Keep<T> for Heap<T> {
    const EMPTY: Self = Heap { entries: BinaryHeap::new(), least: 0, greatest: 0 };

    fn push(&mut self, item: T) {
        self.greatest += 1;
        self.entries.push(Reverse(Entry { item, number: self.greatest }));
    }

    fn first(&self) -> Option<&T> {
        self.entries.peek().map(|Reverse(entry)| &entry.item)
    }

    fn pop(&mut self) -> Option<T> {
        self.entries.pop().map(|Reverse(entry)| entry.item)
    }

    fn put_back(&mut self, item: T) {
        self.least -= 1;
        self.entries.push(Reverse(Entry { item, number: self.least }));
    }

    fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<T: Ord> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.item.cmp(&other.item).then(self.number.cmp(&other.number))
    }
}

impl<T: Ord> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for Entry<T> {}

impl<T> fmt::Debug for Heap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("len", &self.entries.len()).finish_non_exhaustive()
    }
}
