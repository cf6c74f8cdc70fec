//! `Generator` follows Python's protocol (PEP 342), and `yield_from` its delegation (PEP 380).

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Duration;

use switchgrass::{
    CloseError, Coroutine, Elapsed, Generator, GeneratorError, GeneratorState, GreenletExit, Handle, Step,
    SwitchError, Yielder, current, scope, sleep, spawn, testing, timeout, yield_now,
};

use crate::util::{Clock, DropGuard, Drops, Log, OnDrop, Payload, catch, forever, text};

const MS: Duration = Duration::from_millis(1);

/// Panics without a line on stderr.
fn panic_with(text: &'static str) -> ! {
    resume_unwind(Box::new(text))
}

fn boxed(text: &'static str) -> Payload {
    Box::new(text)
}

fn exit() -> Payload {
    Box::new(GreenletExit)
}

/// Yields 1 to `n`, returns the sum of what it is sent.
fn counter(n: u32) -> Generator<u32, u32, u32> {
    Generator::new(move |out, first| (1..=n).fold(first, |sum, n| sum + out.yield_(n)))
}

/// Yields once, with this in its frame.
fn yields_with<T: 'static>(kept: T) -> Generator<u32> {
    Generator::new(move |out, ()| {
        let _kept = kept;
        out.yield_(1);
    })
}

/// Yields each text that is thrown into it, until it is sent something.
fn catcher() -> Generator<String, (), &'static str> {
    Generator::new(|out, ()| {
        let mut say = "ready".to_owned();
        while let Err(payload) = out.try_yield(say) {
            say = format!("caught {}", text(&payload));
        }
        "sent to"
    })
}

// ---- send -----------------------------------------------------------------------------------------------------------

#[test]
fn the_first_send_starts_it_and_later_ones_are_what_yield_returns() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Generator::new(move |out, first: &str| {
            log.add(first);
            log.add(out.yield_(1));
            log.add(out.yield_(2));
            "end"
        })
    };
    assert_eq!(log.take(), "");
    assert_eq!(g.send("a").unwrap(), Step::Yield(1));
    assert_eq!(log.take(), "a");
    assert_eq!(g.send("b").unwrap(), Step::Yield(2));
    assert_eq!(g.send("c").unwrap(), Step::Return("end"));
    assert_eq!(log.take(), "b c");
}

#[test]
fn the_state_goes_from_created_by_way_of_running_and_suspended_to_closed() {
    let own: Rc<OnceCell<Generator<GeneratorState>>> = Rc::default();
    let inside = Rc::clone(&own);
    let g = own.get_or_init(|| {
        Generator::new(move |out, ()| {
            let state = inside.get().unwrap().state();
            out.yield_(state);
        })
    });
    assert_eq!(g.state(), GeneratorState::Created);
    assert_eq!(g.send(()).unwrap(), Step::Yield(GeneratorState::Running));
    assert_eq!(g.state(), GeneratorState::Suspended);
    assert_eq!(g.send(()).unwrap(), Step::Return(()));
    assert_eq!(g.state(), GeneratorState::Closed);
}

#[test]
fn a_closed_one_gives_back_what_is_sent() {
    let g = counter(0);
    assert_eq!(g.send(5).unwrap(), Step::Return(5));
    for _ in 0..2 {
        let error = g.send(7).unwrap_err();
        assert_eq!(error.to_string(), "the generator has ended");
        assert!(matches!(error, GeneratorError::Closed(7)));
        assert_eq!(error.into_given(), 7);
    }
}

#[test]
fn a_panic_arrives_at_the_caller_and_closes_it() {
    let g = Generator::<u32>::new(|out, ()| {
        out.yield_(1);
        panic_with("inside");
    });
    assert_eq!(g.send(()).unwrap(), Step::Yield(1));
    assert_eq!(text(&catch(|| g.send(())).unwrap_err()), "inside");
    assert_eq!(g.state(), GeneratorState::Closed);
    assert!(matches!(g.send(()), Err(GeneratorError::Closed(()))));
}

#[test]
fn each_value_and_message_is_dropped_once() {
    let (values, messages) = (Drops::new(), Drops::new());
    let make = values.clone();
    let g = Generator::new(move |out, first: DropGuard| {
        let mut kept = vec![first];
        for _ in 0..3 {
            kept.push(out.yield_(make.guard()));
        }
        make.guard()
    });
    for n in 0..4 {
        let step = g.send(messages.guard()).unwrap();
        assert_eq!(values.count(), n);
        drop(step);
    }
    assert_eq!((values.made(), values.count()), (4, 4));
    assert_eq!((messages.made(), messages.count()), (4, 4));
    drop(g.send(messages.guard()));
    assert_eq!(messages.count(), 5);
}

#[test]
fn values_and_messages_without_debug_can_be_unwrapped() {
    struct Opaque;
    let g = Generator::new(|out, _: Opaque| {
        out.yield_(Opaque);
    });
    let _ = g.send(Opaque).unwrap();
    assert!(matches!(g.send(Opaque).unwrap(), Step::Return(())));
    assert!(g.close().unwrap().is_none());
}

impl std::fmt::Debug for DropGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DropGuard")
    }
}

// ---- throw ----------------------------------------------------------------------------------------------------------

#[test]
fn a_throw_into_a_created_one_closes_it_without_running_it() {
    let drops = Drops::new();
    let captured = drops.guard();
    let g = Generator::<u32>::new(move |_, ()| {
        drop(captured);
        unreachable!("it never runs");
    });
    assert_eq!(text(&catch(|| g.throw(boxed("no start"))).unwrap_err()), "no start");
    assert_eq!(g.state(), GeneratorState::Closed);
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_throw_that_is_caught_gives_what_is_yielded_next() {
    let g = catcher();
    assert_eq!(g.send(()).unwrap(), Step::Yield("ready".into()));
    assert_eq!(g.throw(boxed("one")).unwrap(), Step::Yield("caught one".into()));
    assert_eq!(g.throw(boxed("two")).unwrap(), Step::Yield("caught two".into()));
    assert_eq!(g.send(()).unwrap(), Step::Return("sent to"));
}

#[test]
fn a_throw_that_is_caught_may_end_it() {
    let g = Generator::new(|out, ()| match out.try_yield(1) {
        Ok(()) => "sent to",
        Err(_) => "thrown into",
    });
    g.send(()).unwrap();
    assert_eq!(g.throw(boxed("")).unwrap(), Step::Return("thrown into"));
    assert_eq!(g.state(), GeneratorState::Closed);
}

#[test]
fn a_throw_that_is_not_caught_arrives_at_the_caller() {
    let drops = Drops::new();
    let g = yields_with(drops.guard());
    g.send(()).unwrap();
    assert_eq!(text(&catch(|| g.throw(boxed("through"))).unwrap_err()), "through");
    assert_eq!(drops.count(), 1);
    assert_eq!(g.state(), GeneratorState::Closed);
    // A closed one has nobody to catch it.
    assert_eq!(text(&catch(|| g.throw(boxed("again"))).unwrap_err()), "again");
}

#[test]
fn a_throw_may_be_caught_as_a_panic_and_replaced() {
    let g = Generator::new(|out: &Yielder<u32, ()>, ()| {
        assert_eq!(text(&catch(|| out.yield_(1)).unwrap_err()), "first");
        panic_with("second");
    });
    g.send(()).unwrap();
    let payload = catch(|| g.throw(boxed("first")).map(|_: Step<u32, ()>| ())).unwrap_err();
    assert_eq!(text(&payload), "second");
}

// ---- close ----------------------------------------------------------------------------------------------------------

#[test]
fn closing_a_created_one_never_runs_it() {
    let drops = Drops::new();
    let captured = drops.guard();
    let g = Generator::<u32>::new(move |_, ()| drop(captured));
    assert_eq!(g.close(), Ok(None));
    assert_eq!(g.state(), GeneratorState::Closed);
    assert_eq!(drops.count(), 1);
}

#[test]
fn closing_a_suspended_one_unwinds_it_with_an_exit() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Generator::new(move |out: &Yielder<u32, ()>, ()| {
            let _frame = log.on_drop("frame");
            let payload = catch(|| out.yield_(1)).unwrap_err();
            assert!(payload.is::<GreenletExit>());
            log.add("exit");
            resume_unwind(payload)
        })
    };
    g.send(()).unwrap();
    assert_eq!(g.close(), Ok(None::<()>));
    assert_eq!(log.take(), "exit frame");
    assert_eq!(g.state(), GeneratorState::Closed);
    assert_eq!(g.close(), Ok(None), "again does nothing");
}

#[test]
fn closing_gives_what_is_returned_on_the_exit() {
    let g = Generator::new(|out, ()| out.try_yield(1).map_or("bye", |()| "go on"));
    g.send(()).unwrap();
    assert_eq!(g.close(), Ok(Some("bye")));
    assert_eq!(g.close(), Ok(None));
}

#[test]
fn closing_one_that_yields_instead_is_an_error_with_the_value() {
    let g = Generator::new(|out, ()| {
        let mut n = 0;
        while out.try_yield(n).is_err() {
            n += 1;
        }
    });
    assert_eq!(g.send(()).unwrap(), Step::Yield(0));
    for n in 1..3 {
        let error = g.close().unwrap_err();
        assert_eq!(error.to_string(), "the generator caught the exit and yielded");
        assert!(matches!(error, CloseError::Ignored(m) if m == n));
        assert_eq!(g.state(), GeneratorState::Suspended);
    }
    assert_eq!(g.send(()).unwrap(), Step::Return(()));
}

#[test]
fn closing_one_that_panics_instead_panics() {
    let g = Generator::new(|out, ()| {
        if out.try_yield(1).is_err() {
            panic_with("on the way out");
        }
    });
    g.send(()).unwrap();
    assert_eq!(text(&catch(|| g.close()).unwrap_err()), "on the way out");
    assert_eq!(g.state(), GeneratorState::Closed);
}

#[test]
fn closing_one_that_has_returned_or_panicked_gives_nothing() {
    let g = counter(0);
    g.send(1).unwrap();
    assert_eq!(g.close(), Ok(None));
    let g = Generator::<u32>::new(|_, ()| panic_with("ended"));
    let _ = catch(|| g.send(()));
    assert_eq!(g.close(), Ok(None));
}

// ---- Iteration, depth, recursion ------------------------------------------------------------------------------------

#[test]
fn it_is_an_iterator_where_nothing_is_sent() {
    let squares = || Generator::new(|out, ()| (1..=4).for_each(|n| out.yield_(n * n)));
    assert_eq!(squares().collect::<Vec<i32>>(), [1, 4, 9, 16]);
    let g = squares();
    let mut seen = Vec::new();
    for n in &g {
        seen.push(n);
        if n == 4 {
            break;
        }
    }
    // A `for` over a reference leaves it where it is.
    for n in &g {
        seen.push(n);
    }
    assert_eq!(seen, [1, 4, 9, 16]);
    let mut g = g;
    assert_eq!((g.next(), g.next()), (None, None));
}

#[test]
fn it_yields_from_any_depth_of_calls() {
    fn deep(out: &Yielder<u32, ()>, depth: u32) {
        if depth == 0 {
            return;
        }
        deep(out, depth - 1);
        out.yield_(depth);
    }
    let g = Generator::new(|out, ()| deep(out, 100));
    assert!(g.eq(1..=100));
}

#[test]
fn layers_of_generators_pass_values_up() {
    let plain = |n: u32| Generator::new(move |out, ()| (1..n).for_each(|n| out.yield_(n)));
    let with_squares = Generator::new(move |out, ()| {
        for n in plain(5) {
            out.yield_(n);
            out.yield_(n * n);
        }
    });
    assert_eq!(with_squares.collect::<Vec<_>>(), [1, 1, 2, 4, 3, 9, 4, 16]);
}

fn permutations(items: Vec<u32>) -> Generator<Vec<u32>> {
    Generator::new(move |out, ()| {
        if items.len() <= 1 {
            return out.yield_(items);
        }
        for &first in &items {
            let others = items.iter().copied().filter(|&other| other != first).collect();
            for rest in permutations(others) {
                out.yield_([vec![first], rest].concat());
            }
        }
    })
}

#[test]
fn recursive_generators_give_all_permutations() {
    let all: Vec<_> = permutations((0..4).collect()).collect();
    assert_eq!(all.len(), 24);
    assert!(all.is_sorted_by(|a, b| a < b), "in order, and all different");
}

#[test]
fn two_recursive_generators_interleave() {
    let pairs: Vec<_> = permutations((0..4).collect()).zip(permutations((0..3).collect())).collect();
    let expected = [
        ([0, 1, 2, 3], [0, 1, 2]),
        ([0, 1, 3, 2], [0, 2, 1]),
        ([0, 2, 1, 3], [1, 0, 2]),
        ([0, 2, 3, 1], [1, 2, 0]),
        ([0, 3, 1, 2], [2, 0, 1]),
        ([0, 3, 2, 1], [2, 1, 0]),
    ];
    assert_eq!(pairs, expected.map(|(a, b)| (a.to_vec(), b.to_vec())));
}

struct Tree {
    value: u32,
    children: Vec<Tree>,
}

impl Tree {
    /// Of all numbers below `n`, in order from left to right.
    fn balanced(numbers: std::ops::Range<u32>) -> Vec<Tree> {
        if numbers.is_empty() {
            return Vec::new();
        }
        let middle = u32::midpoint(numbers.start, numbers.end);
        let mut children = Tree::balanced(numbers.start..middle);
        children.extend(Tree::balanced(middle + 1..numbers.end));
        vec![Tree { value: middle, children }]
    }
}

#[test]
fn a_tree_is_walked_by_recursion_with_one_stack_or_with_a_generator_for_each_node() {
    fn by_calls(out: &Yielder<u32, ()>, trees: &[Tree]) {
        for tree in trees {
            out.yield_(tree.value);
            by_calls(out, &tree.children);
        }
    }
    fn by_generators(trees: Rc<Vec<Tree>>, path: Vec<usize>) -> Generator<u32> {
        Generator::new(move |out, ()| {
            let node = path.iter().fold(&*trees, |trees, &index| &trees[index].children);
            for (index, tree) in node.iter().enumerate() {
                out.yield_(tree.value);
                out.yield_from(&by_generators(Rc::clone(&trees), [&*path, &[index]].concat()), ());
            }
        })
    }
    let trees = Rc::new(Tree::balanced(0..63));
    let shared = Rc::clone(&trees);
    let calls: Vec<_> = Generator::new(move |out, ()| by_calls(out, &shared)).collect();
    let generators: Vec<_> = by_generators(trees, Vec::new()).collect();
    assert_eq!(calls, generators);
    assert_eq!(calls[..6], [31, 15, 7, 3, 1, 0]);
    assert_eq!(calls.len(), 63);
}

#[test]
fn an_infinite_one_is_cut_short_and_unwound() {
    let drops = Drops::new();
    let counts = drops.clone();
    let primes = Generator::new(move |out, ()| {
        let _frame = counts.guard();
        let mut found: Vec<u32> = Vec::new();
        for n in 2.. {
            if found.iter().all(|prime| n % prime != 0) {
                found.push(n);
                out.yield_(n);
            }
        }
    });
    assert_eq!(primes.take(8).collect::<Vec<_>>(), [2, 3, 5, 7, 11, 13, 17, 19]);
    assert_eq!(drops.count(), 1);
}

#[test]
fn all_items_of_an_iterator_are_yielded() {
    let g = Generator::new(|out, ()| {
        out.yield_all(1..3);
        out.yield_all([10, 20]);
    });
    assert_eq!(g.collect::<Vec<_>>(), [1, 2, 10, 20]);
}

#[test]
fn yielding_from_another_context_is_an_error() {
    let g = Generator::new(|out: &Yielder<u32, ()>, ()| {
        let error = scope(|s| {
            s.spawn(|| catch(|| out.yield_(1)).map_err(|payload| text(&payload).to_owned())).join()
        });
        out.yield_(2);
        error.unwrap().unwrap_err()
    });
    assert_eq!(g.send(()).unwrap(), Step::Yield(2));
    let expected = "a generator can yield only from its own context, not from another greenlet";
    assert_eq!(g.send(()).unwrap(), Step::Return(expected.to_owned()));
}

#[test]
fn debug_shows_id_and_state() {
    let g = counter(1);
    let shown = format!("{g:?}");
    assert!(shown.starts_with("Generator(") && shown.ends_with(", Created)"), "{shown}");
    g.send(0).unwrap();
    assert!(format!("{g:?}").ends_with(", Suspended)"));
    g.close().unwrap();
    assert!(format!("{g:?}").ends_with(", Closed)"));
}

// ---- yield_from -----------------------------------------------------------------------------------------------------

/// Delegates to `inner`, and notes how that ends.
fn delegate<Y: 'static, R: std::fmt::Debug + 'static>(
    log: &Log,
    inner: Generator<Y, (), R>,
) -> Generator<Y, (), &'static str> {
    let log = log.clone();
    Generator::new(move |out, ()| {
        match catch(|| out.yield_from(&inner, ())) {
            Ok(value) => log.add(format!("returned {value:?}")),
            Err(payload) if payload.is::<GreenletExit>() => {
                log.add(format!("exit, inner {:?}", inner.state()));
                resume_unwind(payload)
            }
            Err(payload) => log.add(format!("panicked {}", text(&payload))),
        }
        "outer ends"
    })
}

#[test]
fn yield_from_passes_values_both_ways_and_gives_the_return_value() {
    let g = Generator::new(|out, first: u32| {
        let sum = out.yield_from(&counter(2), first);
        out.yield_(100 + sum);
        sum
    });
    assert_eq!(g.send(1).unwrap(), Step::Yield(1));
    assert_eq!(g.send(10).unwrap(), Step::Yield(2));
    assert_eq!(g.send(100).unwrap(), Step::Yield(211));
    assert_eq!(g.send(0).unwrap(), Step::Return(111));
}

#[test]
fn yield_from_one_that_returns_at_once_yields_nothing() {
    let g = Generator::<u32, u32, u32>::new(|out, first| out.yield_from(&counter(0), first) + 1);
    assert_eq!(g.send(5).unwrap(), Step::Return(6));
}

#[test]
fn yield_from_goes_on_with_one_that_was_started() {
    let inner = counter(3);
    assert_eq!(inner.send(0).unwrap(), Step::Yield(1));
    let g = Generator::new(move |out, first| out.yield_from(&inner, first));
    assert_eq!(g.send(5).unwrap(), Step::Yield(2));
    assert_eq!(g.send(6).unwrap(), Step::Yield(3));
    assert_eq!(g.send(7).unwrap(), Step::Return(18));
}

#[test]
fn a_throw_goes_to_the_inner_one_which_may_catch_it() {
    let log = Log::new();
    let g = delegate(&log, catcher());
    assert_eq!(g.send(()).unwrap(), Step::Yield("ready".into()));
    assert_eq!(g.throw(boxed("it")).unwrap(), Step::Yield("caught it".into()));
    assert_eq!(g.send(()).unwrap(), Step::Return("outer ends"));
    assert_eq!(log.take(), r#"returned "sent to""#);
}

#[test]
fn a_throw_that_the_inner_one_answers_by_returning_is_the_value_of_yield_from() {
    let log = Log::new();
    let g = delegate(&log, Generator::new(|out, ()| out.try_yield(1).map_or("thrown into", |()| "sent to")));
    g.send(()).unwrap();
    assert_eq!(g.throw(boxed("")).unwrap(), Step::Return("outer ends"));
    assert_eq!(log.take(), r#"returned "thrown into""#);
}

#[test]
fn a_throw_that_the_inner_one_does_not_catch_arrives_in_the_outer_one() {
    let log = Log::new();
    let g = delegate(&log, Generator::new(|out, ()| out.yield_(1)));
    g.send(()).unwrap();
    assert_eq!(g.throw(boxed("through")).unwrap(), Step::Return("outer ends"));
    assert_eq!(log.take(), "panicked through");
    // And if that does not catch it either, at the caller.
    let g = Generator::new(|out, ()| out.yield_from(&Generator::<u32>::new(|out, ()| out.yield_(1)), ()));
    g.send(()).unwrap();
    assert_eq!(text(&catch(|| g.throw(boxed("all through"))).unwrap_err()), "all through");
}

#[test]
fn a_panic_of_the_inner_one_arrives_in_the_outer_one() {
    let log = Log::new();
    let g = delegate(
        &log,
        Generator::<u32>::new(|out, ()| {
            out.yield_(1);
            panic_with("of its own");
        }),
    );
    g.send(()).unwrap();
    assert_eq!(g.send(()).unwrap(), Step::Return("outer ends"));
    assert_eq!(log.take(), "panicked of its own");
}

#[test]
fn closing_closes_the_inner_one_first() {
    let log = Log::new();
    let g = delegate(&log, yields_with(log.on_drop("inner")));
    g.send(()).unwrap();
    assert_eq!(g.close(), Ok(None));
    assert_eq!(log.take(), "inner exit, inner Closed");
}

#[test]
fn a_thrown_exit_closes_the_inner_one_and_goes_on_in_the_outer_one() {
    let log = Log::new();
    // Its answer to the exit, a return, does not count.
    let g = delegate(&log, Generator::new(|out, ()| out.try_yield(1).map_or("bye", |()| "sent to")));
    g.send(()).unwrap();
    assert!(catch(|| g.throw(exit())).unwrap_err().is::<GreenletExit>());
    assert_eq!(log.take(), "exit, inner Closed");
}

#[test]
fn an_inner_one_that_panics_when_it_is_closed_panics_in_the_outer_one() {
    let log = Log::new();
    let inner = Generator::new(|out, ()| {
        if out.try_yield(1).is_err() {
            panic_with("while closing");
        }
    });
    let g = delegate(&log, inner);
    g.send(()).unwrap();
    assert_eq!(g.close(), Ok(Some("outer ends")));
    assert_eq!(log.take(), "panicked while closing");
}

#[test]
fn an_inner_one_that_ignores_the_exit_is_an_error_in_the_outer_one() {
    let log = Log::new();
    let inner = Generator::new(|out, ()| while out.try_yield(1).is_err() {});
    let inner = Rc::new(inner);
    let g = {
        let (log, inner) = (log.clone(), Rc::clone(&inner));
        Generator::new(move |out, ()| {
            let payload = catch(|| out.yield_from(&inner, ())).unwrap_err();
            log.add(text(&payload));
        })
    };
    g.send(()).unwrap();
    assert_eq!(g.close(), Ok(Some(())));
    assert_eq!(
        log.take(),
        "yield_from could not close the inner generator: the generator caught the exit and yielded"
    );
    assert_eq!(inner.state(), GeneratorState::Suspended);
    assert_eq!(inner.send(()).unwrap(), Step::Return(()));
}

#[test]
fn yield_from_one_that_has_ended_is_a_clear_panic() {
    let inner = counter(0);
    inner.send(0).unwrap();
    let g = Generator::new(move |out, first| out.yield_from(&inner, first));
    let payload = catch(|| g.send(0)).unwrap_err();
    assert_eq!(
        text(&payload),
        "yield_from needs a generator that has not ended and does not run: the generator has ended"
    );
}

#[test]
fn dropping_the_outer_one_unwinds_inner_then_outer() {
    let log = Log::new();
    let make = || {
        let log = log.clone();
        let g = Generator::new(move |out, ()| {
            let _frame = log.on_drop("outer");
            let inner = yields_with(log.on_drop("inner"));
            let payload = catch(|| out.yield_from(&inner, ())).unwrap_err();
            assert!(payload.is::<GreenletExit>());
        });
        g.send(()).unwrap();
        g
    };
    drop(make());
    assert_eq!(log.take(), "inner outer");
    // While its owner unwinds, nothing can be switched to in an orderly way; the unwinding of the outer one drops the inner one.
    let payload = catch(|| {
        let _g = make();
        panic_with("the owner's");
    })
    .unwrap_err();
    assert_eq!(text(&payload), "the owner's");
    assert_eq!(log.take(), "inner outer");
}

#[test]
fn an_inner_one_outlives_an_outer_one_that_was_closed_before_it_delegated() {
    let inner = Rc::new(counter(2));
    let g = {
        let inner = Rc::clone(&inner);
        Generator::new(move |out, first| {
            out.yield_(0);
            out.yield_from(&inner, first)
        })
    };
    g.send(0).unwrap();
    g.close().unwrap();
    assert_eq!(inner.state(), GeneratorState::Created);
    assert_eq!(inner.send(0).unwrap(), Step::Yield(1));
}

#[test]
fn a_long_chain_of_yield_from_works() {
    fn chain(depth: u32) -> Generator<u32, u32, u32> {
        if depth == 0 {
            return counter(2);
        }
        Generator::new(move |out, first| out.yield_from(&chain(depth - 1), first) + 1)
    }
    let g = chain(50);
    assert_eq!(g.send(0).unwrap(), Step::Yield(1));
    assert_eq!(g.send(20).unwrap(), Step::Yield(2));
    assert_eq!(g.send(30).unwrap(), Step::Return(100));
}

// ---- Running --------------------------------------------------------------------------------------------------------

#[test]
fn one_that_runs_refuses_to_be_resumed() {
    let own: Rc<OnceCell<Generator<String, u32>>> = Rc::default();
    let inside = Rc::clone(&own);
    let g = own.get_or_init(|| {
        Generator::new(move |out, _| {
            let own = inside.get().unwrap();
            let send = own.send(7).unwrap_err();
            assert!(matches!(send, GeneratorError::Running(7)));
            let throw = own.throw(boxed("mine")).unwrap_err();
            assert!(matches!(throw, GeneratorError::Running(_)));
            assert_eq!(text(&throw.into_given()), "mine");
            assert!(matches!(own.close(), Err(CloseError::Running)));
            out.yield_(send.to_string());
        })
    });
    assert_eq!(g.send(0).unwrap(), Step::Yield("the generator is running already".to_owned()));
    assert_eq!(g.send(0).unwrap(), Step::Return(()));
}

#[test]
fn yield_from_oneself_is_a_clear_panic() {
    let own: Rc<OnceCell<Generator<u32>>> = Rc::default();
    let inside = Rc::clone(&own);
    let g = own.get_or_init(|| Generator::new(move |out, ()| out.yield_from(inside.get().unwrap(), ())));
    assert!(text(&catch(|| g.send(())).unwrap_err()).contains("running already"));
}

#[test]
fn a_generator_that_sleeps_holds_up_only_its_caller() {
    let clock = Clock::start();
    let log = Log::new();
    let other = {
        let log = log.clone();
        spawn(move || {
            for _ in 0..3 {
                sleep(MS);
                log.add("other");
            }
        })
    };
    let slow = Generator::new(|out, ()| {
        for n in 1..=2 {
            sleep(2 * MS);
            out.yield_(n);
        }
    });
    for n in slow {
        log.add(format!("{n}"));
    }
    other.join().unwrap();
    assert_eq!(log.take(), "other 1 other other 2");
    assert_eq!(clock.elapsed(), 4 * MS);
}

#[test]
fn a_second_greenlet_that_asks_meanwhile_is_refused() {
    let _clock = Clock::start();
    let g = Rc::new(Generator::new(|out, n: u32| {
        sleep(MS);
        out.yield_(n);
    }));
    let first = {
        let g = Rc::clone(&g);
        spawn(move || g.send(1).unwrap())
    };
    yield_now();
    assert_eq!(g.state(), GeneratorState::Running);
    assert!(matches!(g.send(2), Err(GeneratorError::Running(2))));
    assert_eq!(first.join().unwrap(), Step::Yield(1));
    assert_eq!(g.send(0).unwrap(), Step::Return(()));
}

#[test]
fn it_is_resumed_by_one_greenlet_after_the_other() {
    let g = Rc::new(counter(10));
    g.send(0).unwrap();
    let greenlets: Vec<_> = (0..9)
        .map(|n| {
            let g = Rc::clone(&g);
            spawn(move || g.send(n).unwrap())
        })
        .collect();
    for (n, greenlet) in greenlets.into_iter().enumerate() {
        assert_eq!(greenlet.join().unwrap(), Step::Yield(n as u32 + 2));
    }
    assert_eq!(g.send(100).unwrap(), Step::Return(136));
}

#[test]
fn it_moves_from_one_greenlet_to_another() {
    let g = spawn(|| {
        let g = counter(2);
        g.send(1).unwrap();
        g
    })
    .join()
    .unwrap();
    let last = spawn(move || {
        assert_eq!(g.send(2).unwrap(), Step::Yield(2));
        g.send(3).unwrap()
    });
    assert_eq!(last.join().unwrap(), Step::Return(6));
}

#[test]
fn its_result_can_be_waited_for_in_a_coroutine() {
    let g = Coroutine::new(|n: u32| Generator::new(move |out, ()| out.yield_all(0..n)).sum());
    assert_eq!(g.switch(5).unwrap(), 10);
}

#[test]
fn a_switch_to_one_that_waits_for_a_generator_or_in_a_yield_is_refused() {
    let inside: Rc<RefCell<Option<Coroutine<u32>>>> = Rc::default();
    let note = Rc::clone(&inside);
    let g = Generator::new(move |out, ()| {
        *note.borrow_mut() = Some(Coroutine::current());
        let error = Coroutine::<u32>::main().switch(1).unwrap_err();
        assert!(matches!(error, SwitchError::Busy { given: 1, .. }), "{error}");
        out.yield_(1);
    });
    g.send(()).unwrap();
    let handle = inside.borrow().clone().unwrap();
    assert!(matches!(handle.switch(2), Err(SwitchError::Busy { given: 2, .. })));
    assert!(matches!(handle.throw(exit()), Err(SwitchError::Busy { .. })));
    assert_eq!(g.send(()).unwrap(), Step::Return(()));
}

// ---- Dropping -------------------------------------------------------------------------------------------------------

#[test]
fn dropping_a_created_one_drops_what_it_captured() {
    let drops = Drops::new();
    let captured = drops.guard();
    drop(Generator::<u32>::new(move |_, ()| drop(captured)));
    assert_eq!(drops.count(), 1);
}

#[test]
fn dropping_a_suspended_one_unwinds_it_right_there() {
    let log = Log::new();
    let g = yields_with(log.on_drop("frame"));
    g.send(()).unwrap();
    drop(g);
    log.add("dropped");
    assert_eq!(log.take(), "frame dropped");
}

#[test]
fn dropping_while_the_owner_unwinds_works() {
    let drops = Drops::new();
    let payload = catch(|| {
        let g = yields_with(drops.guard());
        g.send(()).unwrap();
        panic_with("the owner's");
    })
    .unwrap_err();
    assert_eq!(text(&payload), "the owner's");
    assert_eq!(drops.count(), 1);
    assert!(!std::thread::panicking());
}

#[test]
fn one_that_yields_again_after_its_handle_was_dropped_is_told_to_exit_again() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Generator::new(move |out, ()| {
            for n in 0..3 {
                let exit = out.try_yield(n).unwrap_err();
                assert!(exit.is::<GreenletExit>());
                log.add(format!("{n}"));
            }
        })
    };
    g.send(()).unwrap();
    drop(g);
    assert_eq!(log.take(), "0 1 2");
}

#[test]
fn one_that_ignores_that_it_was_dropped_is_unwound() {
    let drops = Drops::new();
    let counts = drops.clone();
    let g = Generator::new(move |out, ()| {
        let _frame = counts.guard();
        let mut n = 0;
        while out.try_yield(n).is_err() {
            n += 1;
        }
    });
    g.send(()).unwrap();
    drop(g);
    assert_eq!(drops.count(), 1);
}

#[test]
fn one_that_catches_every_exit_is_given_up_and_holds_up_neither_the_dropper_nor_the_end_of_the_thread() {
    std::thread::spawn(|| {
        let g = Generator::<u32>::new(|out, ()| {
            loop {
                let _ = catch(|| out.yield_(1));
            }
        });
        g.send(()).unwrap();
        drop(g);
        assert_eq!(testing::live(), 1);
        let killed = Generator::<Handle>::new(|out, ()| while out.try_yield(current()).is_err() {});
        let Step::Yield(handle) = killed.send(()).unwrap() else { panic!("it yields") };
        handle.kill();
        assert_eq!(killed.state(), GeneratorState::Closed);
        let forgotten = Generator::<u32>::new(|out, ()| while out.try_yield(1).is_err() {});
        forgotten.send(()).unwrap();
        std::mem::forget(forgotten);
    })
    .join()
    .unwrap();
}

#[test]
fn a_panic_on_the_way_out_of_a_dropped_one_does_not_reach_the_dropper() {
    let g = Generator::new(|out, ()| {
        if out.try_yield(1).is_err() {
            panic_with("nobody hears this");
        }
    });
    g.send(()).unwrap();
    drop(g);
}

#[test]
fn a_destructor_cannot_resume_one_while_it_unwinds_but_drops_it() {
    let log = Log::new();
    let drops = Drops::new();
    let counts = drops.clone();
    let payload = catch(|| {
        let g = Generator::new(move |out, _: u32| {
            let _frame = counts.guard();
            out.yield_(1);
        });
        g.send(0).unwrap();
        let _in_frame = OnDrop(|| {
            let error = g.send(7).unwrap_err();
            assert!(matches!(error, GeneratorError::Unwinding(7)));
            log.add("send");
            assert!(matches!(g.throw(boxed("")), Err(GeneratorError::Unwinding(_))));
            assert!(matches!(g.close(), Err(CloseError::Unwinding)));
        });
        panic_with("the owner's");
    })
    .unwrap_err();
    assert_eq!(text(&payload), "the owner's");
    assert_eq!(log.take(), "send");
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_destructor_that_yields_while_the_generator_unwinds_is_told_to_exit() {
    let log = Log::new();
    let g = {
        let log = log.clone();
        Generator::new(move |out: &Yielder<u32, ()>, ()| {
            let _frame = OnDrop(|| {
                let exit = out.try_yield(99).unwrap_err();
                assert!(exit.is::<GreenletExit>());
                log.add("no yield");
            });
            out.yield_(1);
        })
    };
    g.send(()).unwrap();
    assert_eq!(text(&catch(|| g.throw(boxed("thrown"))).unwrap_err()), "thrown");
    assert_eq!(log.take(), "no yield");
}

#[test]
fn twenty_thousand_made_and_dropped_leave_nothing() {
    let live = testing::live();
    let round = |n: u32| {
        for _ in 0..n {
            drop(counter(1));
            let suspended = counter(1);
            suspended.send(0).unwrap();
            drop(suspended);
            assert_eq!(counter(0).send(1).unwrap(), Step::Return(1));
        }
        testing::stack_counts()
    };
    let warm = round(10);
    assert_eq!(round(20_000), warm);
    assert_eq!(testing::live(), live);
}

// ---- Kill and timeout -----------------------------------------------------------------------------------------------

#[test]
fn a_caller_killed_while_the_body_sleeps_closes_it() {
    let _clock = Clock::start();
    let log = Log::new();
    let g = {
        let log = log.clone();
        Rc::new(Generator::new(move |out, ()| {
            let _frame = log.on_drop("frame");
            sleep(Duration::from_secs(3600));
            out.yield_(1);
        }))
    };
    let caller = {
        let g = Rc::clone(&g);
        spawn(move || g.send(()))
    };
    yield_now();
    caller.kill();
    yield_now();
    assert_eq!(log.take(), "frame");
    assert_eq!(g.state(), GeneratorState::Closed);
    assert!(caller.join().unwrap_err().is::<GreenletExit>());
    assert!(matches!(g.send(()), Err(GeneratorError::Closed(()))));
}

#[test]
fn a_caller_that_times_out_while_the_body_sleeps_closes_it() {
    let clock = Clock::start();
    let drops = Drops::new();
    let counts = drops.clone();
    let g = Generator::new(move |out, ()| {
        let _frame = counts.guard();
        out.yield_(1);
        sleep(Duration::from_secs(3600));
    });
    assert_eq!(timeout(MS, || g.send(()).unwrap()), Ok(Step::Yield(1)));
    assert_eq!(timeout(MS, || g.send(())).unwrap_err(), Elapsed);
    assert_eq!(clock.elapsed(), MS);
    yield_now();
    assert_eq!(drops.count(), 1);
    assert_eq!(g.state(), GeneratorState::Closed);
}

#[test]
fn a_caller_killed_by_the_body_itself_unwinds_and_closes_it() {
    let log = Log::new();
    let caller = {
        let log = log.clone();
        spawn(move || {
            let own: Handle = current();
            let inside = log.clone();
            let g = Generator::new(move |out, ()| {
                let _frame = inside.on_drop("generator");
                own.kill_nowait();
                // Nobody waits for this any more.
                let payload = catch(|| out.yield_(1)).unwrap_err();
                assert!(payload.is::<GreenletExit>());
                inside.add("exit");
            });
            let _frame = log.on_drop("caller");
            let _ = g.send(());
            log.add("not reached");
        })
    };
    let bystander = {
        let log = log.clone();
        spawn(move || {
            yield_now();
            log.add("bystander");
        })
    };
    assert!(caller.join().unwrap_err().is::<GreenletExit>());
    bystander.join().unwrap();
    assert_eq!(log.take(), "exit generator caller bystander");
}

#[test]
fn a_body_that_wakes_up_when_the_time_of_its_caller_is_up_ends() {
    let log = Log::new();
    let caller = {
        let log = log.clone();
        spawn(move || {
            let g = Generator::new(move |out, ()| {
                sleep(MS);
                let payload = catch(|| out.yield_(1)).unwrap_err();
                assert!(payload.is::<GreenletExit>());
                log.add("exit");
            });
            timeout(50 * MS, || g.send(())).unwrap_err()
        })
    };
    yield_now();
    // Holds up the hub until both deadlines have passed: the body comes first, and finds a caller that is on its way out.
    let until = testing::now() + 60 * MS;
    while testing::now() < until {}
    assert_eq!(caller.join().unwrap(), Elapsed);
    assert_eq!(log.take(), "exit");
}

#[test]
fn one_that_is_killed_by_its_handle_refuses_to_be_resumed_and_closes() {
    let handle: Rc<OnceCell<Handle>> = Rc::default();
    let drops = Drops::new();
    let g = {
        let (handle, counts) = (Rc::clone(&handle), drops.clone());
        Generator::new(move |out, ()| {
            let _frame = counts.guard();
            handle.set(current()).unwrap();
            out.yield_(1);
        })
    };
    g.send(()).unwrap();
    handle.get().unwrap().kill_nowait();
    // It is about to unwind.
    assert_eq!(g.state(), GeneratorState::Running);
    assert!(matches!(g.send(()), Err(GeneratorError::Running(()))));
    assert!(matches!(g.close(), Err(CloseError::Running)));
    yield_now();
    assert_eq!(drops.count(), 1);
    assert_eq!(g.state(), GeneratorState::Closed);
    assert!(matches!(g.send(()), Err(GeneratorError::Closed(()))));
}

#[test]
fn a_limit_inside_that_runs_out_while_nobody_asks_ends_it() {
    let _clock = Clock::start();
    let log = Log::new();
    let g = {
        let log = log.clone();
        Generator::new(move |out, ()| {
            let elapsed = timeout(MS, || out.yield_(1)).unwrap_err();
            log.add(elapsed.to_string());
            // Nobody has asked for a value: there is nobody to yield to.
            assert!(out.try_yield(2).unwrap_err().is::<GreenletExit>());
        })
    };
    g.send(()).unwrap();
    sleep(2 * MS);
    assert_eq!(log.take(), "the time allowed has elapsed");
    assert_eq!(g.state(), GeneratorState::Closed);
}

#[test]
fn a_limit_inside_that_runs_out_while_the_body_works_is_its_own() {
    let _clock = Clock::start();
    let g = Generator::new(|out, ()| {
        let elapsed = timeout(MS, || sleep(Duration::from_secs(3600))).is_err();
        out.yield_(elapsed);
    });
    assert_eq!(timeout(2 * MS, || g.send(()).unwrap()), Ok(Step::Yield(true)));
}

#[test]
fn one_that_is_killed_and_waits_for_a_generator_of_its_own_refuses_to_be_resumed() {
    let own = Rc::new(OnceCell::new());
    let generator: Generator<u32> = Generator::new({
        let own = Rc::clone(&own);
        move |out, ()| {
            own.set(current()).unwrap();
            assert!(out.try_yield(1).is_err());
            let inner: Generator<u32> = Generator::new(|_, ()| {
                yield_now();
                yield_now();
            });
            assert_eq!(inner.send(()), Ok(Step::Return(())));
        }
    });
    assert_eq!(generator.send(()), Ok(Step::Yield(1)));
    own.get().unwrap().kill_nowait();
    yield_now();
    // It waits for the inner one, not in its `yield_`.
    assert_eq!(generator.state(), GeneratorState::Running);
    assert_eq!(generator.send(()), Err(GeneratorError::Running(())));
    yield_now();
    yield_now();
    assert_eq!(generator.state(), GeneratorState::Closed);
}

#[test]
fn a_caller_killed_while_it_closes_is_not_saved_by_that() {
    let _clock = Clock::start();
    let log = Log::new();
    let caller = {
        let log = log.clone();
        spawn(move || {
            let inside = log.clone();
            let g = Generator::new(move |out: &Yielder<u32, ()>, ()| {
                let _ = out.try_yield(1);
                inside.add("closing");
                // Suspended in a switch: the kill of the caller unwinds it at once.
                let waits = Coroutine::new(|()| forever());
                waits.switch(()).unwrap();
            });
            g.send(()).unwrap();
            let _ = g.close();
            log.add("not reached");
        })
    };
    yield_now();
    assert_eq!(log.take(), "closing");
    caller.kill();
    assert!(caller.join().unwrap_err().is::<GreenletExit>());
    assert_eq!(log.take(), "");
}

#[test]
fn dropping_one_whose_body_waits_for_something_has_it_unwound_soon() {
    let _clock = Clock::start();
    let drops = Drops::new();
    let counts = drops.clone();
    let g = Generator::new(move |out, ()| {
        let _frame = counts.guard();
        out.yield_(1);
        sleep(Duration::from_secs(3600));
    });
    g.send(()).unwrap();
    // The caller gives up; the generator still sleeps.
    assert!(timeout(MS, || g.send(())).is_err());
    drop(g);
    yield_now();
    assert_eq!(drops.count(), 1);
}

#[test]
fn it_may_be_abandoned_while_it_waits_for_another_generator() {
    let _clock = Clock::start();
    let log = Log::new();
    let inside = log.clone();
    let outer = Generator::new(move |out, ()| {
        let _frame = inside.on_drop("outer");
        let log = inside.clone();
        let inner = Generator::new(move |out: &Yielder<u32, ()>, ()| {
            let _frame = log.on_drop("inner");
            sleep(Duration::from_secs(3600));
            out.yield_(1);
        });
        out.yield_from(&inner, ());
    });
    assert!(timeout(MS, || outer.send(())).is_err());
    while outer.state() != GeneratorState::Closed {
        yield_now();
    }
    yield_now();
    let mut order: Vec<_> = log.take().split(' ').map(str::to_owned).collect();
    order.sort();
    assert_eq!(order, ["inner", "outer"]);
}

#[test]
fn a_thread_that_ends_unwinds_suspended_ones_without_a_word() {
    let drops = Drops::new();
    let counts = drops.clone();
    std::thread::spawn(move || {
        let g = Generator::new(move |out, ()| {
            let _frame = counts.guard();
            out.yield_from(&yields_with(counts.guard()), ());
        });
        g.send(()).unwrap();
        // Never dropped: the end of the thread does it.
        std::mem::forget(g);
    })
    .join()
    .unwrap();
    assert_eq!(drops.count(), 2);
}

#[test]
fn it_can_be_used_in_a_destructor_that_runs_at_a_normal_end() {
    let total = Rc::new(Cell::new(0));
    let sum = Rc::clone(&total);
    spawn(move || {
        let _frame = OnDrop(|| sum.set(Generator::new(|out, ()| out.yield_all(1..=4)).sum()));
    })
    .join()
    .unwrap();
    assert_eq!(total.get(), 10);
}
