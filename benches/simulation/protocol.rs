//! Who is woken for work: as the library does it, and as it might.

use std::cell::{Cell, RefCell};

use crate::idle::Idle;

/// What hubs ask. The calls, and when each is due, are those of [`Idle`].
pub(crate) trait Protocol {
    fn choose(&self) -> Option<usize>;
    fn begin_search(&self);
    fn end_search(&self) -> bool;
    fn fall_asleep(&self, who: usize);
    fn wake_up(&self, who: usize) -> bool;
}

/// The library's own, as it is shipped.
impl Protocol for Idle {
    fn choose(&self) -> Option<usize> {
        Idle::choose(self)
    }

    fn begin_search(&self) {
        Idle::begin_search(self);
    }

    fn end_search(&self) -> bool {
        Idle::end_search(self)
    }

    fn fall_asleep(&self, who: usize) {
        Idle::fall_asleep(self, who);
    }

    fn wake_up(&self, who: usize) -> bool {
        Idle::wake_up(self, who)
    }
}

/// The library's own without its second rule: only who has put work into a queue wakes somebody.
pub(crate) struct NoChain(pub(crate) Idle);

impl Protocol for NoChain {
    fn choose(&self) -> Option<usize> {
        self.0.choose()
    }

    fn begin_search(&self) {
        self.0.begin_search();
    }

    fn end_search(&self) -> bool {
        let _ = self.0.end_search();
        false
    }

    fn fall_asleep(&self, who: usize) {
        self.0.fall_asleep(who);
    }

    fn wake_up(&self, who: usize) -> bool {
        self.0.wake_up(who)
    }
}

/// As the library's, but so many may search at once; so with one, the same. Who ends its search as one of so many chooses the next.
pub(crate) struct Searchers {
    limit: usize,
    searching: Cell<usize>,
    asleep: RefCell<Vec<usize>>,
}

impl Searchers {
    pub(crate) fn new(limit: usize) -> Self {
        Searchers { limit, searching: Cell::new(0), asleep: RefCell::default() }
    }

    /// Each push wakes somebody who sleeps, whoever searches.
    pub(crate) fn without_limit() -> Self {
        Searchers::new(usize::MAX)
    }
}

impl Protocol for Searchers {
    fn choose(&self) -> Option<usize> {
        if self.searching.get() >= self.limit {
            return None;
        }
        let chosen = self.asleep.borrow_mut().pop();
        if chosen.is_some() {
            self.begin_search();
        }
        chosen
    }

    fn begin_search(&self) {
        self.searching.set(self.searching.get() + 1);
    }

    fn end_search(&self) -> bool {
        self.searching.set(self.searching.get() - 1);
        self.searching.get() < self.limit
    }

    fn fall_asleep(&self, who: usize) {
        self.asleep.borrow_mut().push(who);
    }

    fn wake_up(&self, who: usize) -> bool {
        let mut asleep = self.asleep.borrow_mut();
        let Some(at) = asleep.iter().rposition(|&other| other == who) else { return true };
        asleep.swap_remove(at);
        false
    }
}

/// Nobody wakes anybody: hubs that sleep look every now and then.
pub(crate) struct Nobody;

impl Protocol for Nobody {
    fn choose(&self) -> Option<usize> {
        None
    }

    fn begin_search(&self) {}

    fn end_search(&self) -> bool {
        false
    }

    fn fall_asleep(&self, _: usize) {}

    fn wake_up(&self, _: usize) -> bool {
        false
    }
}
