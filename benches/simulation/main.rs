//! What the idle and steal protocol of several hubs does on more cores than this machine has: a simulation, the same for the same seed.
//!
//! ```text
//! cargo bench --bench simulation                      # 64 hubs; small and large bursts of short and long tasks
//! cargo bench --bench simulation -- --burst 1024 --service 10000 --wake 50000
//! cargo bench --bench simulation -- --measure         # what the steps cost here, as options
//! ```
//!
//! The protocol is the library's own file, `src/hub/idle.rs`, compiled into this program; queues, costs and load are a model (`model.rs`). Beside it
//! run the alternatives: nobody but who pushes wakes others, each push wakes somebody, several may search at once, hubs look on their own.

use std::process::exit;

use lexopt::Arg::{Long, Short};

use self::idle::Idle;
use self::model::{Costs, Load, Nanos, Outcome, simulate};
use self::protocol::{NoChain, Nobody, Protocol, Searchers};
use self::sys::Touched;

#[path = "../../src/hub/idle.rs"]
mod idle;
mod measure;
mod model;
mod protocol;
mod random;
mod sys;

const HELP: &str = "\
usage: cargo bench --bench simulation -- [--key value ...]

  --hubs 64            how many there are
  --tasks 200000       how many tasks in all
  --burst 1,64,4096    how many are spawned at once
  --service 1000,10000,100000   ns that a task takes, the mean of an exponential distribution
  --part 0.5           which part of the hubs' time is work
  --from hub           who spawns: a hub to which an event comes, or another thread: outside
  --seed 1             for another run of the same
  --poll 1000000       ns between two looks of hubs that look on their own

What the steps cost, in ns, each time from half to one and a half times as much (the defaults are of a virtual machine with two cores of an AMD EPYC):
  --spawn, --run       a greenlet: to spawn it; to start and end it
  --look, --fetch      a queue: one that has not changed; a cache line that another core has changed
  --steal              a batch, besides its lines
  --notify, --wake     a hub that sleeps: the write to its eventfd, and until it goes on
  --sleep              to go to sleep

  --measure            measures these on this machine, and prints them as options";

/// As `--measure` gave them: of each, the middle one of five runs.
const MEASURED: Costs =
    Costs { spawn: 19, run: 61, look: 2, fetch: 31, steal: 60, notify: 8506, wake: 5801, sleep: 213 };

fn fail(why: &str) -> ! {
    eprintln!("simulation: {why} (see --help)");
    exit(2)
}

fn main() {
    if let Err(error) = run() {
        fail(&error.to_string());
    }
}

fn run() -> Result<(), lexopt::Error> {
    let mut costs = MEASURED;
    let mut load = Load {
        hubs: 64,
        tasks: 200_000,
        burst: 0,
        from_outside: false,
        service: 0,
        part: 0.5,
        poll: None,
        seed: 1,
    };
    let (mut bursts, mut services, mut poll) = (vec![1, 64, 4096], vec![1000, 10_000, 100_000], 1_000_000);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("hubs") => load.hubs = parsed(&mut parser)?,
            Long("tasks") => load.tasks = parsed(&mut parser)?,
            Long("burst") => bursts = list(&mut parser)?,
            Long("service") => services = list(&mut parser)?,
            Long("part") => load.part = parsed(&mut parser)?,
            Long("seed") => load.seed = parsed(&mut parser)?,
            Long("poll") => poll = parsed(&mut parser)?,
            Long("from") => {
                load.from_outside = match parser.value()?.to_str() {
                    Some("hub") => false,
                    Some("outside") => true,
                    _ => return Err("--from is hub or outside".into()),
                };
            }
            Long("spawn") => costs.spawn = parsed(&mut parser)?,
            Long("run") => costs.run = parsed(&mut parser)?,
            Long("look") => costs.look = parsed(&mut parser)?,
            Long("fetch") => costs.fetch = parsed(&mut parser)?,
            Long("steal") => costs.steal = parsed(&mut parser)?,
            Long("notify") => costs.notify = parsed(&mut parser)?,
            Long("wake") => costs.wake = parsed(&mut parser)?,
            Long("sleep") => costs.sleep = parsed(&mut parser)?,
            Long("measure") => {
                println!("{}", options(&measure::costs().map_err(|error| error.to_string())?));
                return Ok(());
            }
            Long("help") | Short('h') => {
                println!("{HELP}");
                return Ok(());
            }
            // What `cargo bench` adds.
            Long("bench") => {}
            _ => return Err(arg.unexpected()),
        }
    }
    if load.hubs == 0 || load.tasks == 0 || bursts.contains(&0) || !(load.part > 0.0 && load.part < 1.0) {
        return Err("there have to be hubs, tasks, bursts, and a part of the time between 0 and 1".into());
    }
    println!("{} hubs, {} tasks, seed {}\n{}\n", load.hubs, load.tasks, load.seed, options(&costs));
    println!("{HEAD}");
    for &service in &services {
        for &burst in &bursts {
            for (name, protocol, polls) in protocols() {
                let load = Load { burst, service, poll: polls.then_some(poll), ..load };
                row(name, &costs, &load, protocol.as_ref());
            }
        }
    }
    Ok(())
}

fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    parser: &mut lexopt::Parser,
) -> Result<T, lexopt::Error> {
    use lexopt::ValueExt as _;
    parser.value()?.parse()
}

fn list<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    parser: &mut lexopt::Parser,
) -> Result<Vec<T>, lexopt::Error> {
    use lexopt::ValueExt as _;
    parser.value()?.parse_with(|text| text.split(',').map(str::parse).collect())
}

fn options(costs: &Costs) -> String {
    let Costs { spawn, run, look, fetch, steal, notify, wake, sleep } = costs;
    format!(
        "--spawn {spawn} --run {run} --look {look} --fetch {fetch} --steal {steal} --notify {notify} --wake {wake} --sleep {sleep}"
    )
}

/// Those that are compared, the library's first; and whether its hubs look on their own.
fn protocols() -> Vec<(&'static str, Box<dyn Protocol>, bool)> {
    vec![
        ("**ours**", Box::new(Idle::new()), false),
        ("two search", Box::new(Searchers::new(2)), false),
        ("four search", Box::new(Searchers::new(4)), false),
        ("each push wakes", Box::new(Searchers::without_limit()), false),
        ("no chain", Box::new(NoChain(Idle::new())), false),
        ("nobody wakes", Box::new(Nobody), true),
    ]
}

const HEAD: &str = "\
| task | burst | who is woken | wakes/task | in vain | failed searches/task | stolen | looks/task | counts: reads/task | changes/task | locks/task | own time/task | waits: half | 99 % | longest | work waits, a hub sleeps, nobody looks |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn row(name: &str, costs: &Costs, load: &Load, protocol: &dyn Protocol) {
    let _ = sys::touched();
    let outcome = simulate(*costs, *load, protocol);
    let touched = sys::touched();
    let Outcome { delays, ideal, .. } = &outcome;
    let tasks = load.tasks as f64;
    let per_task = |count: u64| format!("{:.3}", count as f64 / tasks);
    let at = |delays: &[Nanos], part: f64| time(delays[((delays.len() - 1) as f64 * part) as usize]);
    // Only `Idle` has counts of that kind.
    let shared = match touched {
        Touched { reads: 0, .. } => "| | ".to_owned(),
        Touched { reads, writes, locks } => {
            format!("{} | {} | {}", per_task(reads), per_task(writes), per_task(locks))
        }
    };
    println!(
        "| {} | {} | {name} | {} | {} | {} | {:.0} % | {:.1} | {shared} | {:.0} ns | {} | {} | {} | {} |",
        time(load.service),
        load.burst,
        per_task(outcome.wakes),
        per_task(outcome.wakes_in_vain),
        per_task(outcome.searches_failed),
        outcome.stolen as f64 / tasks * 100.0,
        outcome.looks as f64 / tasks,
        outcome.overhead as f64 / tasks,
        at(delays, 0.5),
        at(delays, 0.99),
        at(delays, 1.0),
        time(outcome.unattended),
    );
    if name == "**ours**" {
        println!(
            "| | | (one queue, no costs) | | | | | | | | | | {} | {} | {} | |",
            at(ideal, 0.5),
            at(ideal, 0.99),
            at(ideal, 1.0)
        );
    }
}

fn time(nanos: Nanos) -> String {
    match nanos {
        0 => "0".into(),
        1..1000 => format!("{nanos} ns"),
        1000..1_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        _ => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}
