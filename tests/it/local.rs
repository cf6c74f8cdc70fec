//! `green_local!`.

use std::cell::{Cell, RefCell};

use switchgrass::{Coroutine, green_local, joinall, scope, spawn, testing, yield_now};

use crate::util::{DropGuard, Drops, Log, OnDrop, catch, forever, text};

green_local! {
    static COUNT: Cell<u32> = Cell::new(1);
    static NAMES: RefCell<Vec<&'static str>> = RefCell::new(vec![]);
    inherit static REQUEST: Cell<u64> = Cell::new(0);
    static KEPT: RefCell<Option<DropGuard>> = RefCell::new(None);
    static LOG: RefCell<Option<AtEnd>> = RefCell::new(None)
}

#[test]
fn each_greenlet_has_its_own_value_across_switches() {
    let both: Vec<_> = (0..2)
        .map(|n| {
            spawn(move || {
                COUNT.set(COUNT.get() + n);
                NAMES.with_borrow_mut(|names| names.push("x"));
                yield_now();
                (COUNT.get(), NAMES.take().len())
            })
        })
        .collect();
    assert_eq!(switchgrass::joinall_raise(both), [(1, 1), (2, 1)]);
    assert_eq!(COUNT.get(), 1, "main has one of its own");
    let coroutine = Coroutine::new(|(): ()| COUNT.set(9));
    coroutine.switch(()).unwrap();
    assert_eq!(COUNT.get(), 1);
}

#[test]
fn an_inherited_value_is_the_spawners_at_that_time() {
    REQUEST.set(7);
    let child = spawn(|| {
        let grandchild = spawn(|| REQUEST.get());
        REQUEST.set(70);
        (REQUEST.get(), grandchild.join().unwrap())
    });
    REQUEST.set(8);
    assert_eq!(child.join().unwrap(), (70, 7));
    assert_eq!(REQUEST.get(), 8);
}

#[test]
fn values_are_dropped_at_the_end_before_joiners_go_on_also_when_killed() {
    let drops = Drops::new();
    let keep = || {
        let guard = drops.guard();
        move || KEPT.set(Some(guard))
    };
    let returns = spawn(keep());
    let detached = {
        let keep = keep();
        spawn(move || {
            keep();
            forever()
        })
    };
    returns.join().unwrap();
    assert_eq!(drops.count(), 1);
    detached.kill();
    assert_eq!(drops.count(), 2);
}

struct AtEnd(Log);

impl Drop for AtEnd {
    fn drop(&mut self) {
        // A destructor may use other values, and wait.
        NAMES.with_borrow_mut(|names| names.push("anew"));
        yield_now();
        self.0.add(format!("dropped {}", NAMES.take().len()));
    }
}

#[test]
fn the_destructor_of_a_value_may_use_others_and_switch() {
    let log = Log::new();
    let ended = log.clone();
    spawn(move || LOG.set(Some(AtEnd(ended)))).join().unwrap();
    assert_eq!(log.take(), "dropped 1");
}

#[test]
fn the_values_of_a_threads_main_stack_are_dropped_with_the_thread() {
    let drops = Drops::new();
    let guard = drops.guard();
    std::thread::spawn(move || KEPT.set(Some(guard))).join().unwrap();
    assert_eq!(drops.count(), 1);
}

/// Panics when it is inherited.
struct NoHeir(Cell<bool>);

impl Clone for NoHeir {
    fn clone(&self) -> Self {
        assert!(!self.0.get(), "not for you");
        NoHeir(Cell::new(false))
    }
}

green_local! {
    inherit static NO_HEIR: NoHeir = NoHeir(Cell::new(false));
}

#[test]
fn a_clone_that_panics_is_the_spawners_panic_and_the_greenlet_is_none() {
    let drops = Drops::new();
    NO_HEIR.with(|value| value.0.set(true));
    for scoped in [false, true] {
        let guard = drops.guard();
        let task = move || drop(guard);
        let result = catch(|| if scoped { scope(|s| drop(s.spawn(task))) } else { drop(spawn(task)) });
        assert_eq!(text(&result.unwrap_err()), "not for you");
    }
    assert_eq!((drops.count(), testing::live()), (2, 0), "what it captured is dropped at once");
    NO_HEIR.with(|value| value.0.set(false));
    // Nothing of those is left in the ready queue.
    joinall(&[spawn(yield_now), spawn(yield_now)]);
}

#[test]
fn a_clone_that_waits_and_is_killed_leaves_nothing() {
    #[derive(Default)]
    struct Slow(Cell<bool>);
    impl Clone for Slow {
        fn clone(&self) -> Self {
            forever()
        }
    }
    green_local! {
        inherit static SLOW: Slow = Slow::default();
    }
    let drops = Drops::new();
    let guard = drops.guard();
    let spawner = spawn(move || {
        SLOW.with(|slow| slow.0.set(true));
        spawn(move || drop(guard));
    });
    yield_now();
    spawner.kill();
    assert_eq!((drops.count(), testing::live()), (1, 0));
    yield_now();
}

#[test]
fn a_value_whose_making_asks_for_it_again_is_the_first_that_was_made() {
    green_local! {
        static NESTED: Cell<u32> = {
            static DEPTH: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let depth = DEPTH.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if depth < 2 {
                NESTED.with(Cell::get);
            }
            Cell::new(depth)
        };
    }
    assert_eq!(NESTED.get(), 2);
    NESTED.set(9);
    assert_eq!(NESTED.get(), 9);
}

#[test]
fn a_value_stays_while_it_is_used_though_its_greenlet_unwinds() {
    let drops = Drops::new();
    let guard = drops.guard();
    let seen = drops.clone();
    let killed = spawn(move || {
        KEPT.set(Some(guard));
        KEPT.with(|_| {
            let _later = OnDrop(|| assert_eq!(seen.count(), 0));
            forever()
        })
    });
    yield_now();
    killed.kill();
    assert_eq!(drops.count(), 1);
}
