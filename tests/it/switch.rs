//! `Coroutine` behaves as greenlet's `greenlet`. The order is that of greenlet's own tests: switching, ends and panics, `throw`,
//! parents, dropping, threads, what `Debug` shows, the tracer; then what greenlet does not have: types, and blocking calls.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use switchgrass::{
    Coroutine, Elapsed, Generator, GreenletExit, Handle, ParentError, SwitchError, TraceEvent, Tracer,
    current, park, set_tracer, sleep, spawn, timeout, yield_now,
};

use crate::util::{DropGuard, Drops, OnDrop, catch, text};

/// What happened, in order.
#[derive(Clone)]
struct Log<T>(Rc<RefCell<Vec<T>>>);

impl<T: Clone> Log<T> {
    fn new() -> Self {
        Log(Rc::default())
    }

    fn add(&self, entry: T) {
        self.0.borrow_mut().push(entry);
    }

    fn all(&self) -> Vec<T> {
        self.0.borrow().clone()
    }
}

/// A handle that is set after the closures that use it were made.
type Later<M> = Rc<OnceCell<Coroutine<M>>>;

fn later<M: 'static>() -> Later<M> {
    Rc::default()
}

fn set<M: 'static>(later: &Later<M>, coroutine: &Coroutine<M>) {
    assert!(later.set(coroutine.clone()).is_ok());
}

fn to_main() {
    Coroutine::main().switch(()).unwrap();
}

/// Panics without a line on stderr.
/// One that is suspended with this in its frame.
fn suspended_with<T: 'static>(kept: T) -> Coroutine<()> {
    let g = Coroutine::new(move |()| {
        let _kept = kept;
        to_main();
    });
    g.switch(()).unwrap();
    g
}

fn panic_with(text: &'static str) -> ! {
    resume_unwind(Box::new(text))
}

fn is_exit<M>(result: &Result<M, SwitchError<M>>) -> bool {
    matches!(result, Err(SwitchError::Exit(_)))
}

// ---- Switching ------------------------------------------------------------------------------------------------------

#[test]
fn control_goes_to_and_fro_in_the_order_of_the_switches() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            log.add(1);
            to_main();
            log.add(3);
        })
    };
    log.add(0);
    g.switch(()).unwrap();
    log.add(2);
    g.switch(()).unwrap();
    log.add(4);
    assert_eq!(log.all(), [0, 1, 2, 3, 4]);
    assert!(g.is_dead());
}

#[test]
fn two_children_interleave() {
    let log = Log::new();
    let child = |name| {
        let log = log.clone();
        Coroutine::new(move |()| {
            log.add((name, 1));
            to_main();
            log.add((name, 2));
        })
    };
    let (a, b) = (child("a"), child("b"));
    a.switch(()).unwrap();
    b.switch(()).unwrap();
    b.switch(()).unwrap();
    assert!(b.is_dead() && !a.is_dead());
    a.switch(()).unwrap();
    assert!(a.is_dead());
    assert_eq!(log.all(), [("a", 1), ("b", 1), ("b", 2), ("a", 2)]);
}

/// A child makes and runs a child of its own, which switches to its parent: not to main.
fn recursive_scenario() -> Vec<u32> {
    let log = Log::new();
    let outer = {
        let log = log.clone();
        Coroutine::new(move |()| {
            log.add(1);
            let inner = {
                let log = log.clone();
                Coroutine::new(move |()| {
                    log.add(2);
                    let parent = Coroutine::<()>::current().parent().expect("not main");
                    let _ = parent.switch(());
                    log.add(99);
                })
            };
            inner.switch(()).unwrap();
            log.add(3);
        })
    };
    outer.switch(()).unwrap();
    assert!(outer.is_dead());
    log.all()
}

#[test]
fn a_child_makes_and_runs_children_of_its_own() {
    assert_eq!(recursive_scenario(), [1, 2, 3]);
}

#[test]
fn ten_threads_each_have_a_tree_of_their_own() {
    let threads: Vec<_> = (0..10).map(|_| std::thread::spawn(recursive_scenario)).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), [1, 2, 3]);
    }
}

#[test]
fn the_first_message_is_the_argument_and_later_ones_are_what_switch_returns() {
    let g = Coroutine::new(|first: Vec<i32>| {
        assert_eq!(first, [1]);
        let second = Coroutine::main().switch(vec![1, 2]).unwrap();
        assert_eq!(second, [3, 4]);
        vec![5]
    });
    assert_eq!(g.switch(vec![1]).unwrap(), [1, 2]);
    assert_eq!(g.switch(vec![3, 4]).unwrap(), [5]);
}

#[test]
fn whoever_resumes_a_switch_gives_its_value() {
    // a switches to b, and is resumed by c.
    let (b, c) = (later::<&str>(), later::<&str>());
    let a = {
        let b = Rc::clone(&b);
        Coroutine::new(move |_: &str| {
            let got = b.get().unwrap().switch("from a").unwrap();
            assert_eq!(got, "from c");
            "end of a"
        })
    };
    let to_c = Rc::clone(&c);
    set(
        &b,
        &Coroutine::new(move |got| {
            assert_eq!(got, "from a");
            to_c.get().unwrap().switch("from b").unwrap()
        }),
    );
    let to_a = a.clone();
    set(
        &c,
        &Coroutine::new(move |got| {
            assert_eq!(got, "from b");
            to_a.switch("from c").unwrap()
        }),
    );
    assert_eq!(a.switch("start").unwrap(), "end of a");
    // Unwound here, as nobody could switch to them.
    drop((a, b, c));
}

#[test]
fn a_switch_to_oneself_returns_at_once() {
    assert_eq!(Coroutine::current().switch(7).unwrap(), 7);
    let g = Coroutine::new(|n: i32| Coroutine::current().switch(n + 1).unwrap());
    assert_eq!(g.switch(1).unwrap(), 2);
}

#[test]
fn a_million_switches_keep_their_order() {
    let g = Coroutine::new(|mut n: u64| {
        let main = Coroutine::main();
        loop {
            n = main.switch(n + 1).unwrap();
        }
    });
    let mut n = 0;
    for _ in 0..1_000_000 {
        n = g.switch(n).unwrap();
    }
    assert_eq!(n, 1_000_000);
}

#[test]
fn the_function_is_consumed_when_it_starts() {
    let drops = Drops::new();
    let captured = drops.guard();
    let g = Coroutine::new(move |()| {
        drop(captured);
        to_main();
    });
    assert_eq!(drops.count(), 0);
    g.switch(()).unwrap();
    assert_eq!(drops.count(), 1, "what it captured is not held by the handle");
}

#[test]
fn coroutines_can_be_made_and_started_while_another_starts() {
    fn nested(depth: u32) -> u32 {
        if depth == 0 {
            return 0;
        }
        Coroutine::new(|depth: u32| nested(depth - 1) + 1).switch(depth).unwrap()
    }
    assert_eq!(nested(100), 100);
}

#[test]
fn a_destructor_of_the_argument_may_start_another_one() {
    struct Starts(Log<&'static str>);
    impl Drop for Starts {
        fn drop(&mut self) {
            let log = self.0.clone();
            Coroutine::new(move |()| log.add("other")).switch(()).unwrap();
        }
    }
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |argument: Option<Starts>| {
            drop(argument);
            log.add("first");
            None
        })
    };
    assert!(g.switch(Some(Starts(log.clone()))).unwrap().is_none());
    assert_eq!(log.all(), ["other", "first"]);
}

#[test]
fn a_deep_stack_of_another_size_works() {
    fn deep(n: u64) -> u64 {
        let page = std::hint::black_box([n; 512]);
        if n == 0 { 0 } else { page[7] + deep(n - 1) }
    }
    let g = Coroutine::with_stack_size(16 << 20, deep).unwrap();
    assert_eq!(g.switch(1000).unwrap(), 500_500);
    assert!(Coroutine::with_stack_size(2 << 30, |()| ()).is_err());
}

#[test]
fn errno_survives_a_switch() {
    fn set_errno(value: i32) {
        // SAFETY: errno's own address.
        unsafe { *libc::__errno_location() = value };
    }
    let g = Coroutine::new(|()| {
        loop {
            set_errno(libc::EPERM);
            to_main();
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
        }
    });
    for _ in 0..3 {
        set_errno(libc::ENOENT);
        g.switch(()).unwrap();
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOENT));
    }
}

// ---- Ends and panics ------------------------------------------------------------------------------------------------

#[test]
fn a_panic_arrives_in_the_parent_and_the_dead_one_passes_switches_on() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            log.add(1);
            to_main();
            log.add(2);
            panic_with("from the child");
        })
    };
    g.switch(()).unwrap();
    let payload = catch(|| g.switch(())).unwrap_err();
    assert_eq!(text(&payload), "from the child");
    assert!(g.is_dead());
    g.switch(()).unwrap();
    assert_eq!(log.all(), [1, 2]);
}

#[test]
fn a_panic_is_caught_by_the_parent_and_not_by_who_switched() {
    let log = Log::new();
    let child = later::<()>();
    let parent = {
        let (log, child) = (log.clone(), Rc::clone(&child));
        Coroutine::new(move |()| {
            set(&child, &Coroutine::new(|()| panic_with("boom")));
            let payload = catch(to_main).unwrap_err();
            log.add(text(&payload).to_owned());
        })
    };
    parent.switch(()).unwrap();
    let switcher = {
        let child = Rc::clone(&child);
        Coroutine::new(move |()| {
            let _ = child.get().unwrap().switch(());
        })
    };
    // The child panics into its parent; that one ends, which leads to its own parent: here.
    switcher.switch(()).unwrap();
    assert_eq!(log.all(), ["boom"]);
    assert!(parent.is_dead() && !switcher.is_dead());
}

#[test]
fn an_end_by_greenlet_exit_arrives_as_a_value() {
    let g = Coroutine::new(|()| resume_unwind(Box::new(GreenletExit)));
    assert!(is_exit(&g.switch(())));
    assert!(g.is_dead());
}

#[test]
fn a_dead_parent_is_skipped() {
    let (child, log) = (later::<i32>(), Log::new());
    let parent = {
        let child = Rc::clone(&child);
        Coroutine::new(move |n: i32| {
            set(&child, &Coroutine::new(|n| n * 2));
            n
        })
    };
    assert_eq!(parent.switch(1).unwrap(), 1);
    assert!(parent.is_dead());
    log.add(child.get().unwrap().switch(21).unwrap());
    assert_eq!(log.all(), [42]);
}

#[test]
fn an_unstarted_parent_is_started_with_the_result() {
    let parent = Coroutine::new(|n: i32| n + 1);
    let child = Coroutine::new(|n: i32| n * 10);
    child.set_parent(&parent).unwrap();
    // The child's result starts the parent, whose result comes here.
    assert_eq!(child.switch(4).unwrap(), 41);
    assert!(child.is_dead() && parent.is_dead());
}

#[test]
fn a_panic_of_a_child_ends_an_unstarted_parent_and_goes_up() {
    let drops = Drops::new();
    let captured = drops.guard();
    let parent = Coroutine::new(move |()| {
        let _captured = captured;
        unreachable!("it is thrown into before it runs");
    });
    let child = Coroutine::new(|()| panic_with("up"));
    child.set_parent(&parent).unwrap();
    assert_eq!(text(&catch(|| child.switch(())).unwrap_err()), "up");
    assert!(parent.is_dead());
    assert_eq!(drops.count(), 1);
}

#[test]
fn the_error_of_a_parent_that_was_started_by_a_result_goes_up() {
    let parent = Coroutine::new(|()| panic_with("the parent's own"));
    let child = Coroutine::new(|()| ());
    child.set_parent(&parent).unwrap();
    assert_eq!(text(&catch(|| child.switch(())).unwrap_err()), "the parent's own");
}

#[test]
fn a_switch_to_a_dead_one_with_an_unstarted_parent_starts_that() {
    let parent = Coroutine::new(|n: i32| n + 1);
    let dead = Coroutine::new(|n: i32| n);
    dead.switch(0).unwrap();
    dead.set_parent(&parent).unwrap();
    assert_eq!(dead.switch(5).unwrap(), 6);
    assert!(parent.is_dead());
}

#[test]
fn a_dead_one_forwards_to_the_parent_it_was_given_after_its_death() {
    let log = Log::new();
    let dead = Coroutine::new(|n: i32| n);
    dead.switch(0).unwrap();
    let new_parent = |name: &'static str| {
        let log = log.clone();
        let parent = Coroutine::new(move |mut n: i32| {
            loop {
                log.add((name, n));
                n = Coroutine::main().switch(n).unwrap();
            }
        });
        dead.set_parent(&parent).unwrap();
        parent
    };
    let first = new_parent("first");
    dead.switch(1).unwrap();
    let _second = new_parent("second");
    dead.switch(2).unwrap();
    dead.set_parent(&first).unwrap();
    dead.switch(3).unwrap();
    assert_eq!(log.all(), [("first", 1), ("second", 2), ("first", 3)]);
}

#[test]
fn a_result_that_no_ancestor_waits_for_is_dropped_and_nothing_else_happens() {
    let drops = Drops::new();
    let counts = drops.clone();
    let greenlet = spawn(move || {
        // Its parent is this greenlet, which sleeps when it ends.
        let child = Coroutine::new(move |_: Option<DropGuard>| {
            sleep(Duration::from_millis(1));
            Some(counts.guard())
        });
        let starter = {
            let child = child.clone();
            spawn(move || {
                let _ = child.switch(None);
                unreachable!("nobody switches back to it");
            })
        };
        while !child.is_dead() {
            sleep(Duration::from_millis(1));
        }
        starter.kill();
    });
    greenlet.join().unwrap();
    assert_eq!(drops.count(), 1);
}

// ---- throw ----------------------------------------------------------------------------------------------------------

#[test]
fn a_throw_arrives_in_the_pending_switch_and_may_be_caught() {
    let g = Coroutine::new(|_: &str| {
        let payload = catch(|| Coroutine::main().switch("ready")).unwrap_err();
        assert_eq!(text(&payload), "thrown");
        Coroutine::main().switch("caught").unwrap()
    });
    assert_eq!(g.switch("").unwrap(), "ready");
    assert_eq!(g.throw(Box::new("thrown")).unwrap(), "caught");
    assert!(!g.is_dead());
    assert_eq!(g.switch("end").unwrap(), "end");
}

#[test]
fn a_throw_that_is_not_caught_comes_back_to_the_parent() {
    let drops = Drops::new();
    let g = suspended_with(drops.guard());
    let payload = catch(|| g.throw(Box::new(17))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&17));
    assert!(g.is_dead());
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_thrown_exit_that_is_not_caught_comes_back_as_a_value() {
    let g = Coroutine::new(|()| to_main());
    g.switch(()).unwrap();
    assert!(matches!(g.throw(Box::new(GreenletExit)), Err(SwitchError::Exit(GreenletExit))));
    assert!(g.is_dead());
}

#[test]
fn a_throw_into_an_unstarted_one_ends_it_without_running_it() {
    let drops = Drops::new();
    let counts = drops.clone();
    let make = || {
        let captured = counts.guard();
        Coroutine::new(move |()| {
            drop(captured);
            unreachable!("it never runs");
        })
    };
    let g = make();
    assert_eq!(text(&catch(|| g.throw(Box::new("no start"))).unwrap_err()), "no start");
    assert!(g.is_dead());
    assert_eq!(drops.count(), 1);

    let g = make();
    assert!(matches!(g.throw(Box::new(GreenletExit)), Err(SwitchError::Exit(_))));
    assert!(g.is_dead());
    assert_eq!(drops.count(), 2);
}

#[test]
fn a_throw_into_a_dead_one_goes_to_its_parent_unless_it_is_an_exit() {
    let g = Coroutine::new(|()| ());
    g.switch(()).unwrap();
    assert!(matches!(g.throw(Box::new(GreenletExit)), Err(SwitchError::Exit(_))));
    assert_eq!(text(&catch(|| g.throw(Box::new("up"))).unwrap_err()), "up");

    let parent = Coroutine::new(|_: &str| {
        let payload = catch(|| Coroutine::main().switch("ready")).unwrap_err();
        assert_eq!(text(&payload), "to the parent");
        "parent ends"
    });
    assert_eq!(parent.switch("").unwrap(), "ready");
    let dead = Coroutine::new(|text: &str| text);
    dead.switch("").unwrap();
    dead.set_parent(&parent).unwrap();
    assert_eq!(dead.throw(Box::new("to the parent")).unwrap(), "parent ends");
}

#[test]
fn a_throw_into_oneself_unwinds_at_once() {
    assert_eq!(text(&catch(|| Coroutine::<()>::current().throw(Box::new("own"))).unwrap_err()), "own");
    let g = Coroutine::new(|()| {
        let _ = Coroutine::<()>::current().throw(Box::new(GreenletExit));
    });
    assert!(is_exit(&g.switch(())));
}

#[test]
fn what_is_thrown_goes_to_the_parent_and_not_to_the_thrower() {
    let log = Log::new();
    let victim = later::<()>();
    let parent = {
        let (log, victim) = (log.clone(), Rc::clone(&victim));
        Coroutine::new(move |()| {
            set(&victim, &Coroutine::new(|()| to_main()));
            victim.get().unwrap().switch(()).unwrap();
            unreachable!("the victim's panic comes here");
        })
        .caught(log)
    };
    parent.switch(()).unwrap();
    let thrower = {
        let (log, victim) = (log.clone(), Rc::clone(&victim));
        Coroutine::new(move |()| {
            let _ = victim.get().unwrap().throw(Box::new("hit"));
            log.add("thrower went on".to_owned());
        })
    };
    thrower.switch(()).unwrap();
    assert_eq!(log.all(), ["hit"]);
    assert!(parent.is_dead() && !thrower.is_dead());
}

/// The same coroutine, with what its function unwinds with noted instead.
trait Caught {
    fn caught(self, log: Log<String>) -> Self;
}

impl Caught for Coroutine<()> {
    fn caught(self, log: Log<String>) -> Self {
        let inner = self;
        Coroutine::new(move |()| {
            // The inner one's end leads here, as its parent.
            inner.set_parent(&Coroutine::<()>::current()).unwrap();
            let payload = catch(|| inner.switch(())).unwrap_err();
            log.add(text(&payload).to_owned());
        })
    }
}

#[test]
fn an_exit_thrown_into_an_unstarted_parent_by_its_child_goes_up_as_a_value() {
    let parent = Coroutine::new(|()| unreachable!("an exit is no message to start with"));
    let child = Coroutine::new(|()| resume_unwind(Box::new(GreenletExit)));
    child.set_parent(&parent).unwrap();
    assert!(is_exit(&child.switch(())));
    assert!(parent.is_dead());
}

#[test]
fn a_payload_whose_destructor_switches_does_not_harm_the_throw() {
    struct Switches(Coroutine<()>);
    impl Drop for Switches {
        fn drop(&mut self) {
            let _ = self.0.switch(());
        }
    }
    let log = Log::new();
    let helper = {
        let log = log.clone();
        Coroutine::new(move |()| {
            loop {
                log.add("helper");
                to_main();
            }
        })
    };
    let g = Coroutine::new(|()| to_main());
    g.switch(()).unwrap();
    let payload = catch(|| g.throw(Box::new(Switches(helper.clone())))).unwrap_err();
    assert!(payload.is::<Switches>());
    drop(payload);
    assert_eq!(log.all(), ["helper"]);
}

// ---- Parents --------------------------------------------------------------------------------------------------------

#[test]
fn the_parent_is_the_one_in_which_it_was_made() {
    let main = Coroutine::<()>::main();
    let child = later::<()>();
    let g = {
        let child = Rc::clone(&child);
        Coroutine::new(move |()| {
            set(&child, &Coroutine::new(|()| ()));
            to_main();
        })
    };
    assert_eq!(g.parent(), Some(main.clone()));
    g.switch(()).unwrap();
    assert_eq!(child.get().unwrap().parent(), Some(g.clone()));
    assert_eq!(main.parent(), None);
    assert_eq!(Coroutine::<()>::current(), main);
}

#[test]
fn cycles_of_parents_are_refused() {
    let (a, b, c) = (Coroutine::new(|()| ()), Coroutine::new(|()| ()), Coroutine::new(|()| ()));
    assert_eq!(a.set_parent(&a), Err(ParentError::Cycle));
    b.set_parent(&a).unwrap();
    c.set_parent(&b).unwrap();
    assert_eq!(a.set_parent(&b), Err(ParentError::Cycle));
    assert_eq!(a.set_parent(&c), Err(ParentError::Cycle));
    assert_eq!(a.parent(), Some(Coroutine::main()));
}

#[test]
fn main_has_no_parent_and_gets_none() {
    let g = Coroutine::new(|()| ());
    assert_eq!(Coroutine::<()>::main().set_parent(&g), Err(ParentError::Main));
    assert_eq!(ParentError::Main.to_string(), "the main coroutine of a thread has no parent");
}

#[test]
fn a_parent_of_another_thread_is_refused() {
    let here = Coroutine::new(|()| ());
    let there = std::thread::spawn(|| Coroutine::new(|()| ())).join().unwrap();
    assert_eq!(here.set_parent(&there), Err(ParentError::OtherThread));
    assert_eq!(there.set_parent(&here), Err(ParentError::OtherThread));
    assert_eq!(here.parent(), Some(Coroutine::main()));
    assert!(there.parent().is_none());
    assert!(there.is_dead());
}

#[test]
fn only_a_coroutine_is_given_a_parent() {
    let greenlet = spawn(|| {
        let other = Coroutine::new(|()| ());
        Coroutine::<()>::current().set_parent(&other)
    });
    assert_eq!(greenlet.join().unwrap(), Err(ParentError::NotACoroutine));
}

#[test]
fn the_old_parent_is_unwound_when_its_last_handle_was_its_child() {
    let log = Log::new();
    let child = later::<()>();
    let parent = {
        let (log, child) = (log.clone(), Rc::clone(&child));
        Coroutine::new(move |()| {
            set(&child, &Coroutine::new(|()| ()));
            let _noted = OnDrop(move || log.add("parent unwound"));
            to_main();
        })
    };
    parent.switch(()).unwrap();
    drop(parent);
    assert_eq!(log.all(), [] as [&str; 0], "the child keeps it");
    child.get().unwrap().set_parent(&Coroutine::<()>::main()).unwrap();
    assert_eq!(log.all(), ["parent unwound"]);
}

// ---- Dropping -------------------------------------------------------------------------------------------------------

#[test]
fn dropping_the_last_handle_unwinds_right_there_and_comes_back() {
    let log = Log::new();
    let make = |name: &'static str| {
        let log = log.clone();
        let g = Coroutine::new(move |()| {
            let inner = log.clone();
            let _frame = OnDrop(move || inner.add(format!("{name}: frame")));
            let payload = catch(to_main).unwrap_err();
            assert!(payload.is::<GreenletExit>());
            log.add(format!("{name}: exit"));
            resume_unwind(payload)
        });
        g.switch(()).unwrap();
        g
    };
    let (a, b) = (make("a"), make("b"));
    let also_a = a.clone();
    drop(a);
    assert_eq!(log.all(), [] as [&str; 0]);
    drop(also_a);
    assert_eq!(log.all(), ["a: exit", "a: frame"]);
    drop(b);
    assert_eq!(log.all(), ["a: exit", "a: frame", "b: exit", "b: frame"]);
}

#[test]
fn dropping_an_unstarted_one_drops_what_it_captured() {
    let drops = Drops::new();
    let captured = drops.guard();
    drop(Coroutine::new(move |()| drop(captured)));
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_cleanup_that_panics_with_something_else_does_not_reach_the_dropper() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            assert!(catch(to_main).is_err());
            log.add("cleanup");
            panic_with("something else");
        })
    };
    g.switch(()).unwrap();
    drop(g);
    assert_eq!(log.all(), ["cleanup"]);
}

#[test]
fn a_result_after_a_caught_exit_does_not_reach_the_dropper() {
    let drops = Drops::new();
    let counts = drops.clone();
    let g = Coroutine::new(move |_: Option<DropGuard>| {
        let _ = catch(|| Coroutine::main().switch(None::<DropGuard>));
        Some(counts.guard())
    });
    g.switch(None).unwrap();
    drop(g);
    assert_eq!(drops.count(), 1);
}

#[test]
fn drops_nest() {
    // Each holds the next one on its stack.
    let drops = Drops::new();
    let mut outermost = None;
    for _ in 0..100 {
        outermost = Some(suspended_with((outermost.take(), drops.guard())));
    }
    drop(outermost);
    assert_eq!(drops.count(), 100);
}

#[test]
fn one_that_catches_the_exit_and_switches_elsewhere_lives_on_with_its_parent() {
    let (log, rescued) = (Log::new(), later::<&str>());
    let dropper = later::<&str>();
    let refuge = {
        let (log, dropper) = (log.clone(), Rc::clone(&dropper));
        Coroutine::new(move |_: &str| {
            log.add(Coroutine::main().switch("refuge stands").unwrap());
            let error = dropper.get().unwrap().switch("on").unwrap_err();
            assert!(matches!(error, SwitchError::Busy { .. }), "{error}");
            log.add("the dropper is busy");
            // Lets it go on with its drop.
            sleep(Duration::from_secs(3600));
            ""
        })
    };
    refuge.switch("").unwrap();
    let parent = {
        let (log, rescued) = (log.clone(), Rc::clone(&rescued));
        Coroutine::new(move |_: &str| {
            let child = {
                let log = log.clone();
                Coroutine::new(move |_: &str| {
                    let payload = catch(|| Coroutine::main().switch("child stands")).unwrap_err();
                    assert!(payload.is::<GreenletExit>());
                    set(&rescued, &Coroutine::current());
                    log.add(refuge.switch("I live").unwrap());
                    "the child's result"
                })
            };
            log.add(child.switch("").unwrap());
            drop(child);
            log.add("the drop came back");
            log.add(Coroutine::main().switch("parent stands").unwrap());
            "the parent's result"
        })
    };
    set(&dropper, &parent);
    assert_eq!(parent.switch("").unwrap(), "child stands");
    assert_eq!(parent.switch("go on").unwrap(), "parent stands");
    assert_eq!(log.all(), ["go on", "I live", "the dropper is busy", "the drop came back"]);

    let child = rescued.get().unwrap();
    assert!(!child.is_dead());
    assert_eq!(child.parent(), Some(parent.clone()));
    // Its result goes to its parent as ever, and the parent's to main.
    assert_eq!(child.switch("wake up").unwrap(), "the parent's result");
    assert!(child.is_dead());
    assert_eq!(log.all()[4..], ["wake up", "the child's result"]);
}

#[test]
fn one_that_catches_the_exit_cannot_switch_to_the_dropper() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            let _ = catch(to_main);
            let error = Coroutine::main().switch(()).unwrap_err();
            log.add(error.to_string());
        })
    };
    g.switch(()).unwrap();
    drop(g);
    assert_eq!(log.all().len(), 1);
    assert!(log.all()[0].starts_with("cannot switch to main"), "{}", log.all()[0]);
}

#[test]
fn one_that_catches_the_exit_and_sleeps_lets_the_dropper_go_on() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            let _ = catch(to_main);
            log.add("says goodbye");
            sleep(Duration::from_millis(1));
            log.add("goodbye said");
        })
    };
    g.switch(()).unwrap();
    drop(g);
    log.add("dropped");
    while log.all().len() < 3 {
        sleep(Duration::from_millis(1));
    }
    assert_eq!(log.all(), ["says goodbye", "dropped", "goodbye said"]);
}

/// Runs `body` in a coroutine that nobody has a handle to, and gives what main is sent by it, or by its end.
///
/// ```text
/// main ──switch──▶ link (dead) ──its parent──▶ holder ──switch──▶ orphan
/// ```
///
/// The holder has the orphan's only handle on its stack, and the link to the parent is the holder's only handle. The orphan takes that
/// away, so the holder is unwound, and drops the handle.
fn run_orphan(log: &Log<&'static str>, body: impl FnOnce() -> i32 + 'static) -> i32 {
    let link = Coroutine::new(|n: i32| n);
    link.switch(0).unwrap();
    let holder = {
        let (log, link) = (log.clone(), link.clone());
        Coroutine::new(move |_: i32| {
            let _unwound = OnDrop(move || log.add("holder unwound"));
            let orphan = Coroutine::new(move |_: i32| {
                let main = Coroutine::<i32>::main();
                // Its own link to its parent would keep the holder, too.
                Coroutine::<i32>::current().set_parent(&main).unwrap();
                link.set_parent(&main).unwrap();
                body()
            });
            orphan.switch(0).unwrap()
        })
    };
    link.set_parent(&holder).unwrap();
    drop(holder);
    link.switch(0).unwrap()
}

#[test]
fn the_result_of_an_orphan_arrives() {
    let log = Log::new();
    assert_eq!(run_orphan(&log, || 42), 42);
    assert_eq!(log.all(), ["holder unwound"]);
}

#[test]
fn the_message_of_an_orphan_arrives_and_the_switch_is_its_end() {
    let (log, drops) = (Log::new(), Drops::new());
    let in_frame = drops.guard();
    let got = run_orphan(&log, move || {
        let _frame = in_frame;
        let _ = Coroutine::main().switch(42);
        unreachable!("nobody can switch back");
    });
    assert_eq!(got, 42);
    assert_eq!(log.all(), ["holder unwound"]);
    assert_eq!(drops.count(), 1);
}

#[test]
fn the_message_of_an_orphan_that_saves_itself_arrives() {
    let (log, rescued) = (Log::new(), later::<i32>());
    let got = {
        let (log, rescued) = (log.clone(), Rc::clone(&rescued));
        run_orphan(&log.clone(), move || {
            let payload = catch(|| Coroutine::main().switch(42)).unwrap_err();
            assert!(payload.is::<GreenletExit>());
            set(&rescued, &Coroutine::current());
            log.add("rescued");
            // Main is about to run, with the 42.
            let error = Coroutine::main().switch(43).unwrap_err();
            assert!(matches!(error, SwitchError::Busy { .. }), "{error}");
            let elsewhere = Coroutine::new(|n: i32| {
                yield_now();
                n
            });
            elsewhere.set_parent(rescued.get().unwrap()).unwrap();
            elsewhere.switch(1).unwrap() + 1
        })
    };
    assert_eq!(got, 42);
    // Its result comes here, to its parent, although it was to end.
    let waits = Coroutine::new(|n: i32| {
        sleep(Duration::from_secs(3600));
        n
    });
    assert_eq!(waits.switch(0).unwrap(), 2);
    assert!(rescued.get().unwrap().is_dead());
    assert_eq!(log.all(), ["holder unwound", "rescued"]);
}

#[test]
fn a_coroutine_is_dropped_from_within_itself_only_when_it_leaves() {
    let drops = Drops::new();
    let counts = drops.clone();
    let own: Rc<RefCell<Option<Coroutine<()>>>> = Rc::default();
    let g = {
        let own = Rc::clone(&own);
        Coroutine::new(move |()| {
            let _frame = counts.guard();
            own.borrow_mut().take();
        })
    };
    *own.borrow_mut() = Some(g.clone());
    g.switch(()).unwrap();
    assert_eq!(drops.count(), 1);
}

#[test]
fn dropping_while_the_dropper_unwinds_works() {
    let drops = Drops::new();
    let g = suspended_with(drops.guard());
    let payload = catch(move || {
        let _g = g;
        panic_with("the dropper's own");
    })
    .unwrap_err();
    assert_eq!(text(&payload), "the dropper's own");
    assert_eq!(drops.count(), 1);
    assert!(!std::thread::panicking());
}

#[test]
fn a_destructor_cannot_switch_while_it_unwinds_and_gets_its_message_back() {
    let log = Log::new();
    let other = Coroutine::new(|n: i32| n);
    let g = {
        let (log, other) = (log.clone(), other.clone());
        Coroutine::new(move |n: i32| {
            let _frame = OnDrop(move || {
                let error = other.switch(7).unwrap_err();
                log.add(error.to_string());
                log.add(format!("{:?}", error.into_given()));
                let error = other.throw(Box::new("x")).unwrap_err();
                log.add(error.to_string());
            });
            Coroutine::main().switch(n).unwrap()
        })
    };
    g.switch(0).unwrap();
    drop(g);
    let refused =
        "cannot switch in a destructor while unwinding: the thread would seem to panic to all others";
    assert_eq!(log.all(), [refused, "Some(7)", refused]);
    assert!(!other.is_active(), "it was not started");
    assert_eq!(other.switch(3).unwrap(), 3);
}

#[test]
fn a_destructor_that_switches_at_a_normal_end_works() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            let _frame = OnDrop(|| {
                to_main();
                log.add("after the switch of the destructor");
            });
        })
    };
    g.switch(()).unwrap();
    assert!(!g.is_dead());
    g.switch(()).unwrap();
    assert!(g.is_dead());
    assert_eq!(log.all().len(), 1);
}

#[test]
fn one_that_waits_for_something_else_is_not_unwound_by_its_last_handle() {
    // It would come back from that by itself.
    let log = Log::new();
    {
        let log = log.clone();
        let g = Coroutine::new(move |()| {
            sleep(Duration::from_millis(1));
            log.add("slept");
        });
        let starter = spawn(move || {
            let _ = g.switch(());
        });
        yield_now();
        starter.kill();
    }
    while log.all().is_empty() {
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn dropping_the_chain_of_parents_from_its_end_unwinds_all_of_it() {
    let drops = Drops::new();
    let counts = drops.clone();
    fn nest(depth: u32, counts: Drops, innermost: Later<()>) {
        let _frame = counts.guard();
        if depth == 0 {
            set(&innermost, &Coroutine::current());
            to_main();
            return;
        }
        let child = Coroutine::new(move |()| nest(depth - 1, counts, innermost));
        // The only other handle to the child is the one in `innermost`.
        let _ = child.switch(());
    }
    let innermost = later();
    let root = {
        let innermost = Rc::clone(&innermost);
        Coroutine::new(move |()| nest(20, counts, innermost))
    };
    root.switch(()).unwrap();
    // Frames hold the children, children hold the parents: a circle, which the drop of the handles does not end …
    drop(root);
    assert_eq!(drops.count(), 0);
    // … but a throw into the innermost does: its exit goes up as a value, and all return.
    let _ = innermost.get().unwrap().clone().throw(Box::new(GreenletExit));
    assert_eq!(drops.count(), 21);
}

#[test]
fn the_parent_that_only_a_child_kept_is_unwound_when_the_loop_has_unwound_the_child() {
    let log = Log::new();
    let child = Rc::new(RefCell::new(None));
    let parent = {
        let (log, child) = (log.clone(), Rc::clone(&child));
        Coroutine::new(move |()| {
            *child.borrow_mut() = Some(Coroutine::new(|()| to_main()));
            let _unwound = OnDrop(move || log.add("parent unwound"));
            to_main();
        })
    };
    parent.switch(()).unwrap();
    drop(parent);
    let child = child.take().unwrap();
    child.switch(()).unwrap();
    // The owner's loop reads its mail, and frees the child.
    std::thread::spawn(move || drop(child)).join().unwrap();
    yield_until(|| !log.all().is_empty());
    assert_eq!(log.all(), ["parent unwound"]);
}

#[test]
fn the_parent_that_only_an_orphan_kept_is_unwound_when_that_has_ended() {
    let (log, all) = (Log::new(), Log::new());
    let parent = {
        let all = all.clone();
        Coroutine::new(move |n: i32| {
            let _unwound = OnDrop(move || all.add("parent unwound"));
            Coroutine::main().switch(n).unwrap()
        })
    };
    parent.switch(0).unwrap();
    let got = run_orphan(&log, move || {
        Coroutine::<i32>::current().set_parent(&parent).unwrap();
        drop(parent);
        Coroutine::main().switch(42).unwrap()
    });
    assert_eq!(got, 42);
    yield_until(|| !all.all().is_empty());
    assert_eq!(all.all(), ["parent unwound"]);
}

#[test]
fn one_that_waits_for_a_generator_is_not_unwound_by_its_last_handle() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            let mut slow = Generator::<u32>::new(|out, ()| {
                sleep(Duration::from_millis(1));
                out.yield_(7);
            });
            log.add(slow.next());
        })
    };
    let starter = spawn(move || {
        let _ = g.switch(());
    });
    yield_now();
    starter.kill();
    drop(starter);
    assert_eq!(log.all(), [], "nobody has a handle, but the generator goes on");
    yield_until(|| !log.all().is_empty());
    assert_eq!(log.all(), [Some(7)]);
}

#[test]
fn dead_ancestors_that_nobody_can_reach_are_not_kept() {
    // Each one makes its successor and ends. Were all the dead kept as the ancestors of the last, they would be freed by recursion.
    fn generation(next: Rc<RefCell<Option<Coroutine<()>>>>) -> Coroutine<()> {
        Coroutine::new(move |()| {
            let successor = generation(Rc::clone(&next));
            *next.borrow_mut() = Some(successor);
        })
    }
    let next = Rc::default();
    let mut current = generation(Rc::clone(&next));
    for _ in 0..200_000 {
        current.switch(()).unwrap();
        current = next.take().unwrap();
    }
    let parent = current.parent().unwrap();
    assert!(parent.is_dead());
    assert_eq!(parent.parent(), Some(Coroutine::main()));
}

/// Lets the hub run until `done`; a test that hangs here has failed.
fn yield_until(done: impl Fn() -> bool) {
    while !done() {
        sleep(Duration::from_millis(1));
    }
}

// ---- Threads --------------------------------------------------------------------------------------------------------

#[test]
fn sixteen_and_sixteen_threads_are_refused_with_both_names_and_harm_nothing() {
    const EACH: usize = 16;
    let published = Arc::new(Mutex::new(Vec::new()));
    let (made, tried) = (Arc::new(Barrier::new(2 * EACH)), Arc::new(Barrier::new(2 * EACH)));
    let thread =
        |name: String, f: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name).spawn(f).unwrap();
    let mut threads = Vec::new();
    for n in 0..EACH {
        let (published, made, tried) = (Arc::clone(&published), Arc::clone(&made), Arc::clone(&tried));
        threads.push(thread(
            format!("creator {n}"),
            Box::new(move || {
                let suspended = Coroutine::new(|n: i32| Coroutine::main().switch(n + 1).unwrap() + 1);
                assert_eq!(suspended.switch(1).unwrap(), 2);
                let pending = Coroutine::new(|n: i32| n + 10);
                published.lock().unwrap().push((n, suspended.clone(), pending.clone()));
                made.wait();
                tried.wait();
                assert!(suspended.is_active() && !pending.is_active());
                assert_eq!(suspended.switch(5).unwrap(), 6);
                assert_eq!(pending.switch(1).unwrap(), 11);
            }),
        ));
    }
    for n in 0..EACH {
        let (published, made, tried) = (Arc::clone(&published), Arc::clone(&made), Arc::clone(&tried));
        threads.push(thread(
            format!("switcher {n}"),
            Box::new(move || {
                made.wait();
                let targets = published.lock().unwrap().clone();
                assert_eq!(targets.len(), EACH);
                for (creator, suspended, pending) in &targets {
                    for target in [suspended, pending] {
                        let error = target.switch(100).unwrap_err();
                        let text = error.to_string();
                        assert!(text.contains(&format!("'switcher {n}'")), "{text}");
                        assert!(text.contains(&format!("'creator {creator}'")), "{text}");
                        assert!(matches!(error, SwitchError::OtherThread { given: 100, .. }));
                        let error = target.throw(Box::new(5_u8)).unwrap_err();
                        assert!(matches!(error, SwitchError::OtherThread { .. }));
                        assert_eq!(error.into_given().unwrap().downcast_ref(), Some(&5_u8));
                        assert!(!target.is_active());
                        assert!(!target.is_dead());
                    }
                }
                tried.wait();
            }),
        ));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_implicit_parent_is_the_current_one_of_the_thread_that_makes_it() {
    let main_here = Coroutine::<()>::main();
    std::thread::spawn(move || {
        let g = Coroutine::new(|()| ());
        let parent = g.parent().unwrap();
        assert_eq!(parent, Coroutine::main());
        assert_ne!(parent, main_here);
        g.switch(()).unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_last_handle_dropped_on_another_thread_has_it_unwound_by_its_own() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        let owner = std::thread::current().id();
        suspended_with(OnDrop(move || {
            assert_eq!(std::thread::current().id(), owner);
            log.add("unwound");
        }))
    };
    std::thread::spawn(move || drop(g)).join().unwrap();
    assert_eq!(log.all(), [] as [&str; 0]);
    yield_until(|| !log.all().is_empty());
    assert_eq!(log.all(), ["unwound"]);
}

#[test]
fn an_unstarted_one_dropped_on_another_thread_drops_its_closure_on_its_own() {
    let log = Log::new();
    let g = {
        let owner = std::thread::current().id();
        let log = log.clone();
        let captured = OnDrop(move || {
            assert_eq!(std::thread::current().id(), owner);
            log.add("dropped");
        });
        Coroutine::new(move |()| drop(captured))
    };
    std::thread::spawn(move || drop(g)).join().unwrap();
    assert_eq!(log.all(), [] as [&str; 0]);
    yield_until(|| !log.all().is_empty());
}

#[test]
fn handles_dropped_by_many_threads_at_once_have_it_unwound_once() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 500;
    let drops = Drops::new();
    let start = Arc::new(Barrier::new(THREADS + 1));
    let (give, threads): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| {
            let (give, take) = mpsc::channel::<Coroutine<u32>>();
            let start = Arc::clone(&start);
            let thread = std::thread::spawn(move || {
                for g in take {
                    start.wait();
                    let again = g.clone();
                    drop(g);
                    drop(again);
                }
            });
            (give, thread)
        })
        .unzip();
    for round in 0..ROUNDS {
        let counts = drops.clone();
        let g = Coroutine::new(move |mut n: u32| {
            let _frame = counts.guard();
            let main = Coroutine::main();
            loop {
                n = main.switch(n + 1).unwrap();
            }
        });
        assert_eq!(g.switch(1).unwrap(), 2);
        give.iter().for_each(|give| give.send(g.clone()).unwrap());
        start.wait();
        (0..round as u32 % 50).for_each(|n| assert_eq!(g.switch(n).unwrap(), n + 1));
        drop(g);
    }
    yield_until(|| drops.count() == ROUNDS);
    drop(give);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(drops.made(), ROUNDS);
}

#[test]
fn handles_that_go_while_their_thread_ends_do_no_harm() {
    for _ in 0..50 {
        let drops = Drops::new();
        let counts = drops.clone();
        let (give, take) = mpsc::channel();
        let owner = std::thread::spawn(move || {
            for _ in 0..20 {
                give.send(suspended_with(counts.guard())).unwrap();
            }
        });
        for g in take {
            assert!(matches!(g.switch(()), Err(SwitchError::OtherThread { .. })));
            drop(g);
        }
        owner.join().unwrap();
        assert_eq!((drops.made(), drops.count()), (20, 20));
    }
}

#[test]
fn a_throw_into_one_of_a_thread_that_has_exited_is_an_error() {
    let (pending, suspended) = std::thread::Builder::new()
        .name("short-lived".into())
        .spawn(|| {
            let suspended = Coroutine::new(|()| to_main());
            suspended.switch(()).unwrap();
            (Coroutine::new(|()| ()), suspended)
        })
        .unwrap()
        .join()
        .unwrap();
    for g in [pending, suspended] {
        assert!(g.is_dead());
        let error = g.throw(Box::new("late")).unwrap_err();
        assert!(error.to_string().contains("(which has exited)"), "{error}");
        assert_eq!(text(&error.into_given().unwrap()), "late");
        assert!(matches!(g.switch(()), Err(SwitchError::OtherThread { .. })));
        assert!(g.parent().is_none());
    }
}

#[test]
fn a_thread_that_ends_unwinds_what_is_suspended() {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        thread_local!(static KEPT: RefCell<Vec<Coroutine<()>>> = const { RefCell::new(Vec::new()) });
        // Makes the hub before KEPT is registered, so that KEPT goes first; and again the other way round below.
        let outlives = Coroutine::<()>::main();
        for name in ["one", "two"] {
            let tell = tell.clone();
            let g = suspended_with(OnDrop(move || tell.send(name).unwrap()));
            KEPT.with_borrow_mut(|kept| kept.push(g));
        }
        drop(outlives);
    })
    .join()
    .unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn handles_in_a_thread_local_that_outlives_the_hub_are_harmless() {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        struct Kept(RefCell<Vec<Coroutine<()>>>, mpsc::Sender<&'static str>);
        impl Drop for Kept {
            fn drop(&mut self) {
                for g in self.0.borrow().iter() {
                    assert!(g.is_dead());
                    let _ = format!("{g:?}");
                }
                self.1.send("kept goes").unwrap();
            }
        }
        thread_local!(static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) });
        // Registered before the hub: destroyed after it.
        KEPT.with_borrow_mut(|kept| *kept = Some(Kept(RefCell::default(), tell.clone())));
        let g = suspended_with(OnDrop(move || tell.send("unwound").unwrap()));
        let pending = Coroutine::new(|()| ());
        KEPT.with_borrow(|kept| kept.as_ref().unwrap().0.borrow_mut().extend([g, pending]));
    })
    .join()
    .unwrap();
    assert_eq!(told.iter().collect::<Vec<_>>(), ["unwound", "kept goes"]);
}

#[test]
fn coroutines_that_would_switch_for_ever_do_not_hold_up_the_end_of_their_thread() {
    let ended = Arc::new(Mutex::new(0));
    let count = Arc::clone(&ended);
    std::thread::spawn(move || {
        let (a, b) = (later::<()>(), later::<()>());
        let forever = |other: &Later<()>| {
            let (other, count) = (Rc::clone(other), Arc::clone(&count));
            Coroutine::new(move |()| {
                for _ in 0..3 {
                    // Catches the exit of the end, and switches again: that is refused by another one.
                    let _ = catch(|| {
                        loop {
                            other.get().unwrap().switch(()).unwrap();
                            if Coroutine::<()>::current().id() < other.get().unwrap().id() {
                                break to_main();
                            }
                        }
                    });
                }
                *count.lock().unwrap() += 1;
            })
        };
        set(&a, &forever(&b));
        set(&b, &forever(&a));
        a.get().unwrap().switch(()).unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(*ended.lock().unwrap(), 2);
}

// ---- Debug ----------------------------------------------------------------------------------------------------------

#[test]
fn debug_shows_the_state() {
    let main = Coroutine::<()>::main();
    assert_eq!(format!("{main:?}"), format!("Coroutine({}, main, current)", main.id()));
    let g = Coroutine::new(|text: String| {
        let own = format!("{:?}", Coroutine::<String>::current());
        Coroutine::main().switch(text + &own).unwrap()
    });
    let id = g.id();
    assert_eq!(format!("{g:?}"), format!("Coroutine({id}, pending)"));
    assert!(!g.is_active() && !g.is_dead());
    assert_eq!(g.switch(String::new()).unwrap(), format!("Coroutine({id}, current)"));
    assert_eq!(format!("{g:?}"), format!("Coroutine({id}, suspended)"));
    assert!(g.is_active() && !g.is_dead());

    let elsewhere = {
        let (g, main) = (g.clone(), main.clone());
        let show = move || (format!("{g:?}"), format!("{main:?}"));
        std::thread::Builder::new().name("looker".into()).spawn(show).unwrap().join().unwrap()
    };
    assert!(elsewhere.0.starts_with(&format!("Coroutine({id}, of other thread ")), "{}", elsewhere.0);
    assert!(elsewhere.1.starts_with(&format!("Coroutine({}, main, of other thread ", main.id())));

    g.switch(String::new()).unwrap();
    assert_eq!(format!("{g:?}"), format!("Coroutine({id}, dead)"));
    assert!(!g.is_active() && g.is_dead());

    let of_main = Coroutine::new(|text: String| text + &format!("{:?}", Coroutine::<()>::main()));
    assert_eq!(of_main.switch(String::new()).unwrap(), format!("Coroutine({}, main, suspended)", main.id()));
}

#[test]
fn debug_shows_that_one_is_blocked() {
    let g = Coroutine::new(|()| sleep(Duration::from_millis(1)));
    let watcher = {
        let g = g.clone();
        spawn(move || format!("{g:?}"))
    };
    g.switch(()).unwrap();
    assert_eq!(watcher.join().unwrap(), format!("Coroutine({}, suspended (blocked))", g.id()));
}

#[test]
fn main_of_an_ended_thread_is_dead() {
    let main = std::thread::spawn(Coroutine::<()>::main).join().unwrap();
    assert!(main.is_dead());
    assert_eq!(format!("{main:?}"), format!("Coroutine({}, main, dead)", main.id()));
}

// ---- The tracer -----------------------------------------------------------------------------------------------------

fn traced(log: &Log<(bool, u64, u64)>) -> Tracer {
    let log = log.clone();
    Box::new(move |event: TraceEvent| log.add((event.throw, event.origin, event.target)))
}

#[test]
fn the_tracer_is_told_of_every_switch_and_throw() {
    let log = Log::new();
    let main = Coroutine::<()>::main().id();
    assert!(set_tracer(Some(traced(&log))).is_none());
    let g1 = Coroutine::new(|()| ());
    g1.switch(()).unwrap();
    let g2 = Coroutine::new(|()| panic_with("traced"));
    assert!(catch(|| g2.switch(())).is_err());
    // Not told of: a switch to oneself, what comes after.
    Coroutine::current().switch(()).unwrap();
    g1.switch(()).unwrap();
    assert!(set_tracer(None).is_some());
    Coroutine::new(|()| ()).switch(()).unwrap();
    assert_eq!(
        log.all(),
        [(false, main, g1.id()), (false, g1.id(), main), (false, main, g2.id()), (true, g2.id(), main)]
    );
}

#[test]
fn the_tracer_runs_in_the_target() {
    let log = Log::new();
    set_tracer(Some({
        let log = log.clone();
        Box::new(move |event| log.add((event.target, Coroutine::<()>::current().id())))
    }));
    let g = Coroutine::new(|()| to_main());
    g.switch(()).unwrap();
    let _ = g.throw(Box::new(GreenletExit));
    let pending = Coroutine::new(|()| ());
    let _ = pending.throw(Box::new(GreenletExit));
    set_tracer(None);
    assert_eq!(log.all().len(), 6);
    assert!(log.all().iter().all(|(target, current)| target == current));
}

#[test]
fn a_tracer_that_panics_is_removed_and_its_panic_raised_in_the_target() {
    let g = Coroutine::new(|_: &str| {
        let payload = catch(|| Coroutine::main().switch("ready")).unwrap_err();
        assert_eq!(text(&payload), "tracer");
        "in the target"
    });
    assert_eq!(g.switch("").unwrap(), "ready");
    set_tracer(Some(Box::new(|_| panic_with("tracer"))));
    assert_eq!(g.switch("lost").unwrap(), "in the target");
    assert!(set_tracer(None).is_none(), "it was removed");

    // A pending one ends with it, unrun.
    let g = Coroutine::new(|()| unreachable!("the tracer's panic comes first"));
    set_tracer(Some(Box::new(|_| panic_with("tracer"))));
    assert_eq!(text(&catch(|| g.switch(())).unwrap_err()), "tracer");
    assert!(set_tracer(None).is_none());
}

#[test]
fn a_tracer_that_panics_replaces_what_was_thrown() {
    let g = Coroutine::new(|()| panic_with("thrown"));
    let seen = Rc::new(Cell::new(0));
    let count = Rc::clone(&seen);
    set_tracer(Some(Box::new(move |_| {
        count.set(count.get() + 1);
        if count.get() == 2 {
            panic_with("tracer");
        }
    })));
    assert_eq!(text(&catch(|| g.switch(())).unwrap_err()), "tracer");
    // Nothing is left over for the next wait.
    yield_now();
    sleep(Duration::from_micros(1));
    assert!(set_tracer(None).is_none());
}

#[test]
fn setting_the_same_tracer_twice_is_setting_it_once() {
    let log = Log::new();
    let main = Coroutine::<()>::main().id();
    assert!(set_tracer(Some(traced(&log))).is_none());
    let before = set_tracer(None);
    assert!(before.is_some());
    set_tracer(before);
    let again = set_tracer(Some(traced(&log)));
    assert!(again.is_some());
    set_tracer(again);
    let g = Coroutine::new(|()| ());
    g.switch(()).unwrap();
    set_tracer(None);
    assert_eq!(log.all(), [(false, main, g.id()), (false, g.id(), main)]);
}

#[test]
fn a_tracer_may_switch_itself_and_is_not_told_of_that() {
    let log = Log::new();
    let helper_ran = Rc::new(Cell::new(0));
    let count = Rc::clone(&helper_ran);
    set_tracer(Some({
        let log = log.clone();
        Box::new(move |event| {
            log.add(event.target);
            let count = Rc::clone(&count);
            Coroutine::new(move |()| count.set(count.get() + 1)).switch(()).unwrap();
        })
    }));
    let g = Coroutine::new(|n: i32| n + 1);
    assert_eq!(g.switch(1).unwrap(), 2);
    set_tracer(None);
    assert_eq!(log.all(), [g.id(), Coroutine::<()>::main().id()]);
    assert_eq!(helper_ran.get(), 2);
}

#[test]
fn a_tracer_that_switches_to_the_target_of_the_switch_that_it_is_told_of_harms_nothing() {
    let g = Coroutine::new(|mut n: i32| {
        loop {
            n = Coroutine::main().switch(n + 1).unwrap();
        }
    });
    let target = g.clone();
    set_tracer(Some(Box::new(move |_| {
        // In g: a switch to oneself. In main: one more round.
        let _ = target.switch(100);
    })));
    let got = g.switch(1);
    set_tracer(None);
    assert_eq!(got.unwrap(), 2);
    assert_eq!(g.switch(5).unwrap(), 6);
}

#[test]
fn one_that_is_unwound_while_a_switch_is_under_way_is_not_taken_for_its_target() {
    // An orphan sends a message and ends by that. Its frame has another coroutine, which is unwound before the message arrives.
    let (log, unwound) = (Log::new(), Log::new());
    set_tracer(Some({
        let log = log.clone();
        Box::new(move |event| log.add((event.target, Coroutine::<()>::current().id())))
    }));
    let got = {
        let unwound = unwound.clone();
        run_orphan(&Log::new(), move || {
            let main = Coroutine::main();
            // The way back here, without a handle that would stay.
            let link = Coroutine::new(|n: i32| n);
            link.switch(0).unwrap();
            let inner = {
                let link = link.clone();
                Coroutine::new(move |n: i32| {
                    let _unwound = OnDrop(move || unwound.add("inner"));
                    link.switch(n).unwrap()
                })
            };
            inner.set_parent(&main).unwrap();
            inner.switch(1).unwrap();
            link.set_parent(&main).unwrap();
            main.switch(42).unwrap()
        })
    };
    set_tracer(None);
    assert_eq!(got, 42);
    assert_eq!(unwound.all(), ["inner"]);
    assert!(log.all().iter().all(|(target, current)| target == current), "{:?}", log.all());
}

// ---- Types ----------------------------------------------------------------------------------------------------------

#[test]
fn a_message_of_the_wrong_type_is_refused_and_comes_back() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |n: i32| {
            // Main waits for an i32.
            let error = Coroutine::<String>::main().switch("text".to_owned()).unwrap_err();
            log.add(error.to_string());
            assert_eq!(error.into_given().as_deref(), Some("text"));
            let parent = Coroutine::<i32>::current().parent().unwrap();
            parent.switch(n + 1).unwrap()
        })
    };
    assert_eq!(g.switch(1).unwrap(), 2);
    assert_eq!(log.all(), ["cannot switch with a `alloc::string::String`: the target waits for a `i32`"]);
}

#[test]
fn current_with_the_wrong_type_is_refused() {
    let wrong: Rc<RefCell<Option<Coroutine<String>>>> = Rc::default();
    let g = {
        let wrong = Rc::clone(&wrong);
        Coroutine::new(move |n: i32| {
            *wrong.borrow_mut() = Some(Coroutine::current());
            Coroutine::main().switch(n).unwrap()
        })
    };
    g.switch(1).unwrap();
    let error = wrong.borrow().as_ref().unwrap().switch("no".to_owned()).unwrap_err();
    assert!(matches!(error, SwitchError::WrongType { .. }), "{error:?}");
    assert_eq!(error.into_given().unwrap(), "no");
    assert_eq!(g.switch(9).unwrap(), 9);
}

#[test]
fn a_dead_one_passes_a_message_of_its_own_type_and_the_parent_may_refuse_it() {
    let parent = Coroutine::new(|text: String| text);
    let dead = Coroutine::new(|n: i32| n);
    dead.switch(0).unwrap();
    dead.set_parent(&parent).unwrap();
    assert!(matches!(dead.switch(7), Err(SwitchError::WrongType { given: 7, .. })));
    assert!(!parent.is_dead());
}

#[test]
fn a_result_of_the_wrong_type_is_a_clear_panic_in_the_parent() {
    let drops = Drops::new();
    let counts = drops.clone();
    let child = Coroutine::new(move |_: Option<DropGuard>| Some(counts.guard()));
    let parent = {
        let child = child.clone();
        Coroutine::new(move |n: i32| {
            child.set_parent(&Coroutine::<i32>::current()).unwrap();
            // It waits for an i32 of main, while somebody starts the child.
            let payload = catch(|| Coroutine::main().switch(n)).unwrap_err();
            let text = text(&payload).to_owned();
            assert!(text.contains("ended with a `core::option::Option<"), "{text}");
            assert!(text.contains("waits for a `i32`"), "{text}");
            1
        })
    };
    parent.switch(0).unwrap();
    let starter = Coroutine::new(move |n: i32| {
        let _ = child.switch(None);
        n
    });
    assert_eq!(starter.switch(0).unwrap(), 1);
    assert_eq!(drops.count(), 1);
}

#[test]
fn messages_that_are_not_send_stay_on_their_thread() {
    let g = Coroutine::new(|message: Rc<i32>| message);
    let there = g.clone();
    std::thread::spawn(move || {
        let error = there.switch(Rc::new(1)).unwrap_err();
        assert_eq!(*error.into_given().unwrap(), 1);
    })
    .join()
    .unwrap();
    assert_eq!(*g.switch(Rc::new(2)).unwrap(), 2);
}

#[test]
fn every_message_is_dropped_once() {
    let drops = Drops::new();
    let counts = drops.clone();
    let g = Coroutine::new(|mut message: Option<DropGuard>| {
        let main = Coroutine::main();
        loop {
            message = main.switch(message).unwrap();
        }
    });
    for _ in 0..10 {
        drop(g.switch(Some(counts.guard())).unwrap());
    }
    // One that stays in the frame.
    let keeps = Coroutine::new(|message: Option<DropGuard>| {
        let _kept = message;
        let _ = Coroutine::<Option<DropGuard>>::main().switch(None);
        None
    });
    keeps.switch(Some(counts.guard())).unwrap();
    drop(keeps);
    drop(g);
    assert_eq!(drops.count(), 11);
}

#[test]
fn messages_without_a_size_and_large_ones_work() {
    let unit = Coroutine::new(|()| {
        loop {
            to_main();
        }
    });
    unit.switch(()).unwrap();
    let large = Coroutine::new(|mut block: [u8; 1_000]| {
        loop {
            block[999] += 1;
            block = Coroutine::main().switch(block).unwrap();
        }
    });
    let mut block = [7; 1_000];
    for _ in 0..3 {
        block = large.switch(block).unwrap();
    }
    assert_eq!((block[0], block[999]), (7, 10));
}

// ---- Blocking calls -------------------------------------------------------------------------------------------------

#[test]
fn a_sleep_in_a_coroutine_holds_up_only_the_one_who_waits_for_it() {
    let log = Log::new();
    let others = {
        let log = log.clone();
        spawn(move || {
            for _ in 0..3 {
                log.add("other");
                yield_now();
            }
        })
    };
    let g = {
        let log = log.clone();
        Coroutine::new(move |()| {
            sleep(Duration::from_millis(5));
            log.add("slept");
        })
    };
    g.switch(()).unwrap();
    assert_eq!(log.all(), ["other", "other", "other", "slept"]);
    others.join().unwrap();
}

#[test]
fn a_socket_in_a_coroutine_holds_up_only_the_one_who_waits_for_it() {
    use std::io::{Read, Write};
    use switchgrass::net::{TcpListener, TcpStream};
    let log = Log::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = {
        let log = log.clone();
        spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            log.add("accepted");
            stream.write_all(b"hello").unwrap();
        })
    };
    let g = {
        let log = log.clone();
        Coroutine::new(move |_: String| {
            let mut text = String::new();
            TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
            log.add("read");
            text
        })
    };
    assert_eq!(g.switch(String::new()).unwrap(), "hello");
    assert_eq!(log.all(), ["accepted", "read"]);
    server.join().unwrap();
}

#[test]
fn greenlets_switch_to_coroutines_of_their_own() {
    let greenlets: Vec<_> = (0..10)
        .map(|n: u32| {
            spawn(move || {
                let own = Coroutine::<u32>::current();
                let double = Coroutine::new(move |mut n: u32| {
                    loop {
                        yield_now();
                        n = own.switch(n * 2).unwrap();
                    }
                });
                (0..5).fold(n, |n, _| double.switch(n).unwrap())
            })
        })
        .collect();
    for (n, greenlet) in (0..).zip(greenlets) {
        assert_eq!(greenlet.join().unwrap(), n * 32);
    }
}

#[test]
fn the_end_of_a_child_of_a_greenlet_leads_to_the_greenlet() {
    let greenlet = spawn(|| Coroutine::new(|n: i32| n + 1).switch(1).unwrap());
    assert_eq!(greenlet.join().unwrap(), 2);
    let panics = spawn(|| Coroutine::new(|()| panic_with("up")).switch(()).unwrap());
    assert_eq!(text(&panics.join().unwrap_err()), "up");
}

#[test]
fn one_blocked_in_a_sleep_is_busy() {
    let g = Coroutine::new(|n: i32| {
        sleep(Duration::from_millis(1));
        n
    });
    let other = {
        let g = g.clone();
        spawn(move || {
            let busy = g.switch(5).unwrap_err();
            assert!(matches!(busy, SwitchError::Busy { given: 5, .. }));
            let thrown = g.throw(Box::new(6)).unwrap_err();
            assert!(matches!(thrown, SwitchError::Busy { .. }));
            assert_eq!(thrown.into_given().unwrap().downcast_ref(), Some(&6));
            busy.to_string()
        })
    };
    assert_eq!(g.switch(1).unwrap(), 1);
    let expected = format!(
        "cannot switch to coroutine {}, which waits: sleep: only one that is suspended in a switch can be switched to",
        g.id()
    );
    assert_eq!(other.join().unwrap(), expected);
}

#[test]
fn a_greenlet_that_waits_for_something_else_is_busy() {
    let greenlet = spawn(|| sleep(Duration::from_secs(3600)));
    let handle = {
        let own: Rc<RefCell<Option<Coroutine<()>>>> = Rc::default();
        let inside = Rc::clone(&own);
        let parked = spawn(move || {
            *inside.borrow_mut() = Some(Coroutine::current());
            sleep(Duration::from_secs(3600));
        });
        yield_now();
        let handle = own.borrow().clone().unwrap();
        assert!(matches!(handle.switch(()), Err(SwitchError::Busy { .. })));
        parked.kill();
        handle
    };
    assert!(handle.is_dead());
    greenlet.kill();
}

#[test]
fn a_greenlet_is_killed_in_a_switch_and_its_message_slot_closes() {
    let drops = Drops::new();
    let counts = drops.clone();
    let own = later::<i32>();
    let victim = {
        let own = Rc::clone(&own);
        spawn(move || {
            let _frame = counts.guard();
            set(&own, &Coroutine::current());
            let sleeper = Coroutine::new(|n: i32| {
                sleep(Duration::from_secs(3600));
                n
            });
            sleeper.switch(1).unwrap()
        })
    };
    yield_now();
    victim.kill();
    assert_eq!(drops.count(), 1);
    assert!(victim.join().unwrap_err().is::<GreenletExit>());
    // The dead one leads to main, which is the current one.
    assert_eq!(own.get().unwrap().switch(3).unwrap(), 3);
}

#[test]
fn a_switch_times_out() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Coroutine::new(move |n: i32| {
            sleep(Duration::from_millis(20));
            log.add("the coroutine goes on");
            n
        })
    };
    assert_eq!(timeout(Duration::from_millis(1), || g.switch(1)).unwrap_err(), Elapsed);
    assert!(!g.is_dead());
    // It ends by itself. Main waits for something else: what it gave is dropped.
    yield_until(|| g.is_dead());
    assert_eq!(log.all(), ["the coroutine goes on"]);
    assert_eq!(g.switch(2).unwrap(), 2);
}

#[test]
fn a_switch_that_is_answered_in_time_does_not_time_out() {
    let g = Coroutine::new(|mut n: i32| {
        loop {
            n = Coroutine::main().switch(n + 1).unwrap();
        }
    });
    for n in 0..100 {
        assert_eq!(timeout(Duration::from_secs(3600), || g.switch(n).unwrap()), Ok(n + 1));
    }
}

#[test]
fn a_coroutine_that_is_killed_by_its_handle_ends_with_an_exit_for_its_parent() {
    let handle: Rc<RefCell<Option<Handle>>> = Rc::default();
    let g = {
        let handle = Rc::clone(&handle);
        Coroutine::new(move |()| {
            *handle.borrow_mut() = Some(current());
            to_main();
        })
    };
    g.switch(()).unwrap();
    let handle = handle.borrow().clone().unwrap();
    handle.kill_nowait();
    // It is about to run, and not to be switched to.
    assert!(matches!(g.switch(()), Err(SwitchError::Busy { .. })));
    handle.kill();
    assert!(g.is_dead());
}

#[test]
fn a_coroutine_switched_to_after_a_caught_timeout_still_works() {
    let g = Coroutine::new(|n: i32| {
        let main = Coroutine::main();
        // A limit inside of the coroutine, which runs out while it is suspended.
        let elapsed = timeout(Duration::from_millis(1), || main.switch(n).unwrap());
        assert_eq!(elapsed, Err(Elapsed));
        sleep(Duration::from_millis(1));
        n + 1
    });
    assert_eq!(g.switch(1).unwrap(), 1);
    yield_until(|| g.is_dead());
}

#[test]
fn after_a_deadlock_was_reported_main_is_the_current_one_again() {
    let main = Coroutine::<()>::main().id();
    for _ in 0..3 {
        drop(spawn(|| ()));
        drop(spawn(|| {
            let _ = catch(park);
        }));
        let payload = catch(park).unwrap_err();
        assert!(text(&payload).contains("would block forever"));
        assert_eq!(Coroutine::<()>::current().id(), main);
        sleep(Duration::from_micros(1));
        assert_eq!(Coroutine::new(|n: i32| n).switch(3).unwrap(), 3);
    }
}

#[test]
fn a_panic_hook_sees_panics_of_coroutines_and_other_greenlets_do_not_seem_to_panic() {
    let mutex = Rc::new(Mutex::new(0));
    let g = {
        let mutex = Rc::clone(&mutex);
        Coroutine::new(move |()| {
            let _guard = OnDrop(|| {
                // Unwinding here, and nowhere else.
                assert!(std::thread::panicking());
            });
            to_main();
            *mutex.lock().unwrap() += 1;
            panic_with("unlocked before");
        })
    };
    g.switch(()).unwrap();
    assert!(catch(|| g.switch(())).is_err());
    assert!(!std::thread::panicking());
    assert_eq!(*mutex.lock().unwrap(), 1);
}
