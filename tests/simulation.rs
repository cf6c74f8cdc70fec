//! The protocol of hubs that share work, on 64 cores that are not there: see `benches/simulation`.

#![allow(missing_docs)]

#[path = "../src/hub/idle.rs"]
mod idle;
#[path = "../benches/simulation/model.rs"]
mod model;
#[path = "../benches/simulation/protocol.rs"]
mod protocol;
#[path = "../benches/simulation/random.rs"]
mod random;
#[path = "../benches/simulation/sys.rs"]
mod sys;

use idle::Idle;
use model::{Costs, Load, Nanos, Outcome, simulate};
use protocol::{NoChain, Nobody, Protocol, Searchers};

const COSTS: Costs =
    Costs { spawn: 20, run: 60, look: 2, fetch: 30, steal: 60, notify: 8000, wake: 6000, sleep: 200 };

/// 4096 tasks of 10 µs in bursts of 256.
const LOAD: Load = Load {
    hubs: 64,
    tasks: 4096,
    burst: 256,
    from_outside: false,
    service: 10_000,
    part: 0.5,
    poll: None,
    seed: 1,
};

fn ours(load: Load) -> Outcome {
    simulate(COSTS, load, &Idle::new())
}

/// Few hubs and many, from inside and outside, small bursts and large, short tasks and long, little to do and much.
fn loads() -> impl Iterator<Item = Load> {
    (0..216).map(|i| Load {
        hubs: [1, 2, 64][i % 3],
        from_outside: i / 3 % 2 == 1,
        burst: [1, 7, 1024][i / 6 % 3],
        service: [300, 10_000, 100_000][i / 18 % 3],
        part: [0.05, 0.95][i / 54 % 2],
        seed: 1 + i as u64 / 108,
        tasks: 600,
        ..LOAD
    })
}

#[test]
fn the_same_seed_gives_the_same_outcome_and_another_one_does_not() {
    assert_eq!(ours(LOAD), ours(LOAD));
    assert_ne!(ours(LOAD).delays, ours(Load { seed: 2, ..LOAD }).delays);
}

/// That each is started is asserted in `simulate`.
#[test]
fn work_never_waits_while_a_hub_sleeps_and_nobody_looks() {
    for load in loads() {
        assert_eq!(ours(load).unattended, 0, "{load:?}");
    }
}

/// What the check above says is not so by itself.
#[test]
fn without_the_chain_work_waits_while_a_hub_sleeps_and_nobody_looks() {
    let outcome = simulate(COSTS, Load { service: 100_000, ..LOAD }, &NoChain(Idle::new()));
    assert!(outcome.unattended > 100_000, "{} ns", outcome.unattended);
}

/// A wake and the search of who was woken, each as long as it can be.
#[test]
fn while_work_waits_and_a_hub_sleeps_some_hub_finds_work_within_a_wake_and_a_search() {
    let wake = 3 * COSTS.wake / 2;
    for load in loads() {
        let search = load.hubs as Nanos * COSTS.fetch + 3 * (COSTS.steal + 32 * COSTS.fetch) / 2;
        let stall = ours(load).stall;
        assert!(stall <= wake + search, "{stall} ns: {load:?}");
    }
}

/// A protocol that loses wakes: hubs that sleep are not counted.
struct Uncounted(Idle);

impl Protocol for Uncounted {
    fn choose(&self) -> Option<usize> {
        self.0.choose()
    }

    fn begin_search(&self) {
        self.0.begin_search();
    }

    fn end_search(&self) -> bool {
        self.0.end_search()
    }

    fn fall_asleep(&self, _: usize) {}

    fn wake_up(&self, _: usize) -> bool {
        false
    }
}

#[test]
#[should_panic(expected = "a wake was lost")]
fn a_lost_wake_is_found() {
    simulate(COSTS, Load { from_outside: true, ..LOAD }, &Uncounted(Idle::new()));
}

#[test]
fn with_one_searcher_the_model_of_several_is_the_protocol_of_the_library() {
    for load in loads().step_by(5) {
        assert_eq!(ours(load), simulate(COSTS, load, &Searchers::new(1)), "{load:?}");
    }
}

#[test]
fn a_wake_on_each_push_costs_several_times_the_wakes() {
    let each = simulate(COSTS, LOAD, &Searchers::without_limit());
    assert!(each.wakes > 3 * ours(LOAD).wakes, "{} and {}", each.wakes, ours(LOAD).wakes);
}

#[test]
fn hubs_that_only_look_on_their_own_keep_work_waiting() {
    let load = Load { from_outside: true, part: 0.05, ..LOAD };
    let nobody = simulate(COSTS, Load { poll: Some(1_000_000), ..load }, &Nobody);
    let half = |outcome: &Outcome| outcome.delays[outcome.delays.len() / 2];
    assert!(half(&nobody) > half(&ours(load)));
    assert!(nobody.unattended > 10_000, "{} ns", nobody.unattended);
}

/// One hub has all the work, and the others are awake: nothing that they share is changed but by those who take from it.
#[test]
fn a_push_reads_the_counts_and_seldom_changes_them() {
    let load = Load { burst: 4096, part: 0.95, ..LOAD };
    let _ = sys::touched();
    let outcome = ours(load);
    let touched = sys::touched();
    assert!(touched.reads >= load.tasks as u64);
    // A search begins and ends; a sleep and a wake are two changes and two locks.
    assert!(
        touched.writes <= 4 * (outcome.batches + outcome.wakes + outcome.searches_failed) + 64,
        "{touched:?}"
    );
    assert!(touched.locks <= touched.writes + outcome.wakes, "{touched:?}");
}
