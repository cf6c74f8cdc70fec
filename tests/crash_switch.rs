//! What becomes of coroutines and generators when the process ends, and what only a process without other threads can show.
//!
//! Each case has the main thread of a process of its own (see `cases`).

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::process::{ExitCode, exit};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, thread};

use switchgrass::{
    Coroutine, Generator, GreenletExit, Step, Yielder, current, set_tracer, sleep, spawn, timeout, yield_now,
};

use self::cases::Outcome;
use self::util::{Drops, OnDrop, catch};

mod cases;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "it/util.rs"]
mod util;

struct Case {
    name: &'static str,
    /// What the child does on its main thread.
    child: fn(),
    status: i32,
    stdout: &'static str,
    /// Parts of it. None: it is empty.
    stderr: &'static [&'static str],
}

impl cases::Case for Case {
    fn name(&self) -> &'static str {
        self.name
    }

    fn child(&self) {
        (self.child)();
    }

    fn check(&self, outcome: &Outcome) {
        assert_eq!(outcome.status.code(), Some(self.status));
        assert_eq!(outcome.stdout, self.stdout);
        match self.stderr {
            [] => assert_eq!(outcome.stderr, ""),
            parts => assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "not all of {parts:?}"),
        }
    }
}

fn main() -> ExitCode {
    cases::main(CASES, 1, 60)
}

macro_rules! cases {
    ($($name:ident: $status:literal, $stdout:literal, $stderr:expr, $child:expr;)*) => {
        &[$(Case { name: stringify!($name), child: $child, status: $status, stdout: $stdout, stderr: &$stderr }),*]
    };
}

const CASES: &[Case] = cases! {
    // The end of the process.
    a_suspended_one_is_unwound_when_main_returns: 0, "main ends\ng unwound\n", [], || {
        keep(suspended("g"));
        println!("main ends");
    };
    one_that_is_still_held_by_main_is_unwound_by_its_drop: 0, "main ends\ng unwound\n", [], || {
        let _g = suspended("g");
        println!("main ends");
    };
    a_handle_in_a_static_does_no_harm: 0, "main ends\ng unwound\n", [], || {
        static KEPT: OnceLock<Coroutine<()>> = OnceLock::new();
        KEPT.set(suspended("g")).unwrap();
        println!("main ends");
    };
    nested_ones_are_unwound: 0, "main ends\nouter unwound\ninner unwound\n", [], || {
        keep(Coroutine::new(|()| {
            let _says = Says("outer unwound");
            keep(suspended_in("inner", Coroutine::main()));
        }));
        KEPT.with_borrow(|kept| kept[0].switch(()).unwrap());
        println!("main ends");
    };
    one_that_waits_for_its_child_is_unwound: 0, "main ends\nparent unwound\nchild unwound\n", [], || {
        let parent = Coroutine::new(|()| {
            let _says = Says("parent unwound");
            let child = Coroutine::new(|()| {
                let _says = Says("child unwound");
                to_main();
            });
            child.switch(()).unwrap();
        });
        parent.switch(()).unwrap();
        keep(parent);
        println!("main ends");
    };
    an_unstarted_one_drops_what_it_captured: 0, "main ends\ncaptured dropped\n", [], || {
        let says = Says("captured dropped");
        keep(Coroutine::new(move |()| drop(says)));
        println!("main ends");
    };
    one_that_is_blocked_is_unwound: 0, "main ends\nblocked unwound\n", [], || {
        let g = Coroutine::new(|()| {
            let _says = Says("blocked unwound");
            sleep(Duration::from_secs(3600));
        });
        drop(spawn(move || g.switch(()).unwrap()));
        yield_now();
        println!("main ends");
    };
    a_panic_of_main_unwinds_what_is_suspended: 101, "g unwound\nkept unwound\n", ["main panics"], || {
        keep(suspended("kept"));
        let _g = suspended("g");
        panic!("main panics");
    };
    an_exit_within_a_coroutine_ends_the_process_at_once: 7, "", [], || {
        keep(suspended("never"));
        let g = Coroutine::new(|()| {
            let _says = Says("never");
            exit(7);
        });
        g.switch(()).unwrap();
    };
    an_exit_within_a_generator_ends_the_process_at_once: 8, "1\n", [], || {
        for n in Generator::new(|out, ()| {
            let _says = Says("never");
            out.yield_(1);
            exit(8);
        }) {
            println!("{n}");
        }
    };
    suspended_ones_of_other_threads_do_no_harm: 0, "main ends\n", [], || {
        let (tell, told) = std::sync::mpsc::channel();
        let (open, never) = std::sync::mpsc::channel::<()>();
        std::mem::forget(open);
        thread::spawn(move || {
            keep(suspended("never"));
            tell.send(()).unwrap();
            let _ = never.recv();
        });
        told.recv().unwrap();
        println!("main ends");
    };
    a_thread_unwinds_its_own_before_it_is_joined: 0, "g unwound\njoined\n", [], || {
        thread::spawn(|| keep(suspended("g"))).join().unwrap();
        println!("joined");
    };
    a_cleanup_that_panics_at_the_end_is_the_last_of_it: 0, "main ends\nsecond unwound\n", ["in the cleanup"], || {
        let g = Coroutine::new(|()| {
            assert!(catch(to_main).is_err());
            panic!("in the cleanup");
        });
        g.switch(()).unwrap();
        keep(g);
        keep(suspended("second"));
        println!("main ends");
    };
    a_cleanup_that_switches_is_refused_by_another_exit: 0, "main ends\ncaught 1\ncaught 2\nunwound\n", [], || {
        let g = Coroutine::new(|()| {
            let _says = Says("unwound");
            for n in 1..3 {
                assert!(catch(to_main).unwrap_err().is::<GreenletExit>());
                println!("caught {n}");
            }
        });
        g.switch(()).unwrap();
        keep(g);
        println!("main ends");
    };
    those_that_catch_every_exit_and_switch_on_do_not_hold_up_the_end: 0, "main ends\n", [], || {
        let both: Rc<RefCell<Vec<Coroutine<()>>>> = Rc::default();
        for _ in 0..2 {
            let others = Rc::clone(&both);
            let g = Coroutine::new(move |()| {
                loop {
                    let _ = catch(to_main);
                    for other in &*others.borrow() {
                        let _ = catch(|| other.switch(()));
                    }
                }
            });
            g.switch(()).unwrap();
            both.borrow_mut().push(g);
        }
        println!("main ends");
    };
    a_cleanup_that_makes_and_drops_others_works: 0, "main ends\nanother captured\nunwound\n", [], || {
        let g = Coroutine::new(|()| {
            let _says = Says("unwound");
            let _ = catch(to_main);
            let says = Says("another captured");
            drop(Coroutine::new(move |()| drop(says)));
            // A switch is refused: then it is unwound.
            let _ = catch(|| Coroutine::new(|()| println!("never")).switch(()));
        });
        g.switch(()).unwrap();
        keep(g);
        println!("main ends");
    };
    a_handle_that_goes_while_the_hub_closes_has_its_coroutine_unwound: 0,
        "main ends\nparent unwound\nchild unwound\n", [], || {
        // The frame of the first has the only handle of the second.
        let g = Coroutine::new(|()| {
            let _child = suspended_in("child", Coroutine::current());
            let _says = Says("parent unwound");
            to_main();
        });
        g.switch(()).unwrap();
        std::mem::forget(g);
        println!("main ends");
    };
    generators_are_unwound_when_main_returns: 0, "main ends\ninner unwound\nouter unwound\n", [], || {
        let outer = Generator::new(|out: &Yielder<u32, ()>, ()| {
            let _says = Says("outer unwound");
            let inner = Generator::new(|out: &Yielder<u32, ()>, ()| {
                let _says = Says("inner unwound");
                out.yield_(1);
            });
            out.yield_from(&inner, ());
        });
        assert_eq!(outer.send(()).unwrap(), Step::Yield(1));
        println!("main ends");
    };
    forgotten_generators_are_unwound_when_main_returns: 0, "main ends\nsuspended unwound\ncreated dropped\n", [], || {
        let suspended = Generator::new(|out: &Yielder<u32, ()>, ()| {
            let _says = Says("suspended unwound");
            out.yield_(1);
        });
        suspended.send(()).unwrap();
        let says = Says("created dropped");
        let created = Generator::<u32>::new(move |_, ()| drop(says));
        std::mem::forget((suspended, created));
        println!("main ends");
    };
    a_generator_in_a_thread_local_that_goes_after_the_hub_does_no_harm: 0, "main ends\nunwound\n", [], || {
        thread_local!(static LATE: RefCell<Option<Generator<u32>>> = const { RefCell::new(None) });
        // Registers its destructor before there is a hub.
        LATE.with_borrow_mut(|late| *late = None);
        let g = Generator::new(|out: &Yielder<u32, ()>, ()| {
            let _says = Says("unwound");
            out.yield_(1);
        });
        g.send(()).unwrap();
        LATE.with_borrow_mut(|late| *late = Some(g));
        println!("main ends");
    };
    a_tracer_that_is_still_set_does_no_harm: 0, "main ends\ng unwound\n", [], || {
        keep(suspended("g"));
        set_tracer(Some(Box::new(|event| println!("{event:?}"))));
        println!("main ends");
    };

    // Without another thread that could help.
    a_switch_that_nobody_can_answer_is_a_deadlock_with_a_report: 0, "true\nafter\n", ["block forever"], || {
        let g = Coroutine::new(|()| switchgrass::park());
        let payload = catch(|| g.switch(())).unwrap_err();
        let report = payload.downcast_ref::<String>().unwrap();
        let expected = [
            "this would block forever",
            "\n  main 1 'main': suspended in a switch: waits for somebody to switch to it\n",
            &format!("\n    coroutine {}: waits: park; spawned at tests/crash_switch.rs:", g.id()),
        ];
        assert!(expected.iter().all(|part| report.contains(part)), "{report}");
        println!("{}", Coroutine::<()>::current() == Coroutine::main());
        // Its slot is closed, and main can switch again.
        Coroutine::new(|()| println!("after")).switch(()).unwrap();
    };
    a_generator_that_never_yields_is_a_deadlock_and_is_unwound: 0, "unwound\n", ["block forever"], || {
        let g = Generator::new(|out, ()| {
            let _says = Says("unwound");
            switchgrass::park();
            out.yield_(1);
        });
        let payload = catch(|| g.send(())).unwrap_err();
        let report = payload.downcast_ref::<String>().unwrap();
        assert!(report.contains(": waits: park"), "{report}");
        assert!(report.contains("\n  main 1 'main': waits in a generator's send or yield\n"), "{report}");
        yield_now();
        assert_eq!(g.state(), switchgrass::GeneratorState::Closed);
    };
    a_tree_in_which_all_wait_is_a_deadlock_for_main_only: 0, "still there\n", ["block forever"], || {
        let other = Coroutine::new(|()| {
            let g = Coroutine::new(|()| switchgrass::park());
            let _ = g.switch(());
        });
        assert!(catch(|| other.switch(())).is_err());
        assert!(!other.is_dead());
        println!("still there");
    };

    // Here, since it tells of the results that get lost.
    random_trees_leave_nothing_behind: 0, "", ["is lost: no ancestor of it waits in a switch"], || {
        random_trees(env::var("SWITCHGRASS_ROUNDS").map_or(100, |rounds| rounds.parse().unwrap()));
    };

    // Limits.
    without_memory_for_a_stack_the_parent_gets_the_reason: 0, "ended\n", ["could not be started"], || {
        limit_address_space();
        let large = large(|n| n);
        let id = large.id();
        let payload = catch(|| large.switch(1)).unwrap_err();
        let text = payload.downcast_ref::<String>().unwrap();
        assert!(text.starts_with(&format!("coroutine {id} could not be started: ")), "{text}");
        assert!(large.is_dead());
        assert_eq!(Coroutine::new(|n| n).switch(5).unwrap(), 5);
        println!("ended");
    };
    without_memory_for_a_stack_the_unstarted_end_all_the_same: 0, "dropped\nthrown: true\n", [], || {
        limit_address_space();
        let says = Says("dropped");
        drop(large(move |n| {
            drop(says);
            n
        }));
        let g = large(|n| n);
        println!("thrown: {}", catch(|| g.throw(Box::new(1_u8))).unwrap_err().is::<u8>());
    };
    a_destructor_that_switches_in_the_loop_is_refused: 0, "ended\nnot switched to: true\n", ["event loop itself"], || {
        struct Switches(Coroutine<i32>, Rc<Cell<bool>>);
        impl Drop for Switches {
            fn drop(&mut self) {
                let _ = self.0.switch(7);
                // Not reached.
                self.1.set(true);
            }
        }
        limit_address_space();
        let (other, reached) = (Coroutine::new(|n| n), Rc::new(Cell::new(false)));
        let captured = Switches(other.clone(), Rc::clone(&reached));
        let g = large(move |n| {
            drop(captured);
            n
        });
        drop(g);
        println!("ended");
        println!("not switched to: {}", !other.is_dead() && !reached.get());
    };
    a_destructor_that_drops_a_suspended_one_in_the_loop_has_it_unwound_next: 0, "inner unwound\nended\n", [], || {
        limit_address_space();
        let inner = suspended("inner");
        let g = large(move |n| {
            drop(inner);
            n
        });
        drop(g);
        println!("ended");
    };

    // Memory, which only a process of its own can count.
    twenty_thousand_made_and_destroyed_leave_nothing: 0, "63000 dropped\n", [], || {
        let drops = Drops::new();
        let round = |n: u32| {
            for _ in 0..n {
                let (suspended, ended, pending) = (drops.guard(), drops.guard(), drops.guard());
                let suspended = Coroutine::new(move |()| {
                    let _frame = suspended;
                    to_main();
                });
                suspended.switch(()).unwrap();
                let ended = Coroutine::new(move |()| drop(ended));
                ended.switch(()).unwrap();
                let pending = Coroutine::new(move |()| drop(pending));
                drop((suspended, ended, pending));
            }
        };
        round(1_000);
        let before = resident_pages();
        round(20_000);
        println!("{} dropped", drops.count());
        // The kernel counts to within some dozens of pages. Fifty bytes for each would be 240.
        assert!(resident_pages() < before + 200, "{before} pages before, {} after", resident_pages());
    };
};

// ---- What the cases use ---------------------------------------------------------------------------------------------

struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        println!("{}", self.0);
    }
}

thread_local! {
    static KEPT: RefCell<Vec<Coroutine<()>>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a handle past the end of main, so that it is the hub that unwinds.
fn keep(g: Coroutine<()>) {
    std::mem::forget(g.clone());
    KEPT.with_borrow_mut(|kept| kept.push(g));
}

fn suspended(name: &'static str) -> Coroutine<()> {
    suspended_in(name, Coroutine::main())
}

/// One that is started, and has switched back to `home`, who calls this.
fn suspended_in(name: &'static str, home: Coroutine<()>) -> Coroutine<()> {
    let g = Coroutine::new(move |()| {
        let _unwound = OnEnd(name);
        let _ = home.switch(());
    });
    g.switch(()).unwrap();
    g
}

struct OnEnd(&'static str);

impl Drop for OnEnd {
    fn drop(&mut self) {
        println!("{} unwound", self.0);
    }
}

fn to_main() {
    let _ = Coroutine::main().switch(());
}

/// One whose stack is more than there is.
fn large(f: impl FnOnce(i32) -> i32 + 'static) -> Coroutine<i32> {
    Coroutine::with_stack_size(512 << 20, f).unwrap()
}

fn resident_pages() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse().unwrap()
}

fn limit_address_space() {
    // The hub and a stack of the usual size are there already.
    assert_eq!(Coroutine::new(|n: i32| n).switch(1).unwrap(), 1);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let bytes = pages * 4096 + (64 << 20);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the struct is valid for reading.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

// ---- All of it, at random -------------------------------------------------------------------------------------------

/// What the coroutines of `random_trees` share: handles that anybody may use, replace and drop at any time.
struct Zoo {
    seed: Cell<u64>,
    steps: Cell<u32>,
    handles: RefCell<Vec<Option<Coroutine<u64>>>>,
    frames: Drops,
}

impl Zoo {
    fn random(&self, below: u64) -> u64 {
        // xorshift64.
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        x % below
    }

    fn place(&self) -> usize {
        self.random(24) as usize
    }

    fn pick(&self) -> Option<Coroutine<u64>> {
        self.handles.borrow()[self.place()].clone()
    }

    fn put(&self, g: Option<Coroutine<u64>>) {
        let place = self.place();
        let old = std::mem::replace(&mut self.handles.borrow_mut()[place], g);
        // Only now, as this may unwind it: then it looks at the handles.
        drop(old);
    }

    fn make(self: &Rc<Self>) -> Coroutine<u64> {
        let zoo = Rc::clone(self);
        let captured = zoo.frames.guard();
        Coroutine::new(move |n| {
            let _captured = captured;
            let _frame = zoo.frames.guard();
            let lives = zoo.random(4);
            for life in 0..=lives {
                let lived = catch(|| (0..zoo.random(12)).for_each(|_| zoo.act()));
                if let (Err(payload), true) = (lived, life == lives) {
                    resume_unwind(payload);
                }
            }
            n + 1
        })
    }

    /// Does one thing of those that a coroutine can do.
    fn act(self: &Rc<Self>) {
        if self.steps.get() == 0 {
            return;
        }
        self.steps.set(self.steps.get() - 1);
        let _frame = self.frames.guard();
        match self.random(40) {
            0..15 => {
                if let Some(g) = self.pick() {
                    let _ = g.switch(self.random(1000));
                }
            }
            15..18 => drop(Coroutine::main().switch(1)),
            18..24 => {
                let g = self.make();
                self.put(Some(g));
            }
            24..27 => self.put(None),
            27..29 => {
                if let (Some(g), Some(parent)) = (self.pick(), self.pick()) {
                    let _ = g.set_parent(&parent);
                }
            }
            29 => {
                if let Some(g) = self.pick() {
                    let _ = g.throw(if self.random(2) == 0 {
                        Box::new(GreenletExit)
                    } else {
                        Box::new("thrown")
                    });
                }
            }
            30 => resume_unwind(Box::new("at random")),
            31 => sleep(Duration::from_micros(self.random(50))),
            32 => yield_now(),
            33 => self.put(Some(Coroutine::current())),
            34 => {
                let _ = timeout(Duration::from_micros(self.random(50)), || self.act());
            }
            35 => {
                let (zoo, values) = (Rc::clone(self), self.random(4));
                let generator = Generator::new(move |out, ()| {
                    for n in 0..values {
                        zoo.act();
                        out.yield_(n);
                    }
                });
                while let Ok(Step::Yield(_)) = generator.send(()) {
                    self.act();
                }
            }
            36 => {
                let g = self.pick();
                thread::spawn(move || drop(g)).join().unwrap();
            }
            37 => current().kill_nowait(),
            38 => {
                let zoo = Rc::clone(self);
                let greenlet = spawn(move || zoo.act());
                if self.random(2) == 0 {
                    greenlet.kill_nowait();
                }
            }
            _ => {
                let zoo = Rc::clone(self);
                let _at_the_end = OnDrop(move || zoo.put(None));
                self.act();
            }
        }
    }
}

fn random_trees(rounds: u64) {
    for round in 1..=rounds {
        let frames = Drops::new();
        let counted = frames.clone();
        // On a thread of its own, whose end unwinds what is left.
        let trees = thread::spawn(move || {
            let zoo = Rc::new(Zoo {
                seed: Cell::new(round << 32 | 0x9e37_79b9),
                steps: Cell::new(2_000),
                handles: RefCell::new(vec![None; 24]),
                frames: counted,
            });
            while zoo.steps.get() > 0 {
                // Main may be left waiting for ever, so its time is limited.
                let _ = catch(|| timeout(Duration::from_millis(1), || zoo.act()));
            }
        });
        trees.join().unwrap();
        assert_eq!(frames.made(), frames.count(), "in round {round}");
        assert!(frames.made() > 1_000);
    }
}
