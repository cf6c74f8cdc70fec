//! `trace`: the recorder. A recording is of the whole process, so each test has one of its own.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use switchgrass::net::{TcpListener, TcpStream};
use switchgrass::trace::{self, Event, TaskKind, Then, Trace, What};
use switchgrass::{Builder, Coroutine, Greenlet, current, park, sleep, spawn, stats, unblock, yield_now};

use crate::util::{in_child, secs, time_limit};

const MANY: usize = 1_000_000;

fn named(name: &str, f: impl FnOnce() + 'static) -> Greenlet<()> {
    Builder::new().name(name).spawn(f).unwrap()
}

/// The events of one task, in words.
fn story(trace: &Trace, id: u64) -> Vec<String> {
    let title = |id: &u64| {
        let task = trace.tasks().iter().find(|task| task.id == *id).unwrap();
        // A thread's own stack is called as the thread is.
        let name = task.name.clone().filter(|_| task.kind != TaskKind::Main);
        name.unwrap_or_else(|| format!("{:?}", task.kind).to_lowercase())
    };
    let words = |event: &Event| match &event.what {
        What::Spawned { by } => format!("spawned by {}", title(by)),
        What::Ran { then, .. } => format!("ran, then {then}"),
        What::Woken { by, through } => format!("woken by {} through {through}", title(by)),
        What::Ended => "ended".to_owned(),
        What::Polled { .. } => "polled".to_owned(),
        other => format!("{other:?}"),
    };
    trace.events().iter().filter(|event| event.task == id).map(words).collect()
}

fn recorded(f: impl FnOnce()) -> Trace {
    trace::start(MANY);
    f();
    trace::stop()
}

fn by_name(trace: &Trace, name: &str) -> u64 {
    trace.tasks().iter().find(|task| task.name.as_deref() == Some(name)).unwrap().id
}

fn main_of_this_thread() -> u64 {
    current().id()
}

#[test]
fn a_life_is_recorded_from_the_spawn_to_the_end() {
    in_child("trace::a_life_is_recorded_from_the_spawn_to_the_end", || {
        time_limit();
        let trace = recorded(|| {
            let sleeper = named("sleeper", || {
                yield_now();
                park();
                sleep(Duration::from_millis(1));
            });
            let handle = sleeper.handle();
            let waker = named("waker", move || {
                yield_now();
                handle.unpark();
            });
            sleeper.join().unwrap();
            waker.join().unwrap();
        });
        assert_eq!(
            story(&trace, by_name(&trace, "sleeper")),
            [
                "spawned by main",
                "woken by main through greenlet",
                "ran, then yielded",
                "ran, then waited: park",
                "woken by waker through greenlet",
                "ran, then waited: sleep",
                "woken by loop through timer",
                "ran, then ended",
                "ended",
            ]
        );
        let main = story(&trace, main_of_this_thread());
        assert_eq!(
            main.first().unwrap(),
            &format!("ran, then waited: join of greenlet {}", by_name(&trace, "sleeper"))
        );
        assert_eq!(main.last().unwrap(), "ran, then went on");
        assert_eq!(trace.dropped(), 0);
    });
}

#[test]
fn nothing_is_recorded_while_the_recorder_is_off() {
    in_child("trace::nothing_is_recorded_while_the_recorder_is_off", || {
        spawn(yield_now).join().unwrap();
        assert!(!trace::is_on());
        assert!(trace::stop().events().is_empty());

        trace::start(MANY);
        assert!(trace::is_on());
        spawn(yield_now).join().unwrap();
        let first = trace::stop();
        assert!(!first.events().is_empty());
        assert!(!trace::is_on());

        let unseen = named("unseen", yield_now);
        unseen.join().unwrap();
        let second = recorded(|| named("seen", yield_now).join().unwrap());
        assert!(second.tasks().iter().all(|task| task.name.as_deref() != Some("unseen")));
        assert_eq!(story(&second, by_name(&second, "seen")).len(), 5);
    });
}

#[test]
fn of_too_many_events_the_newest_are_kept() {
    in_child("trace::of_too_many_events_the_newest_are_kept", || {
        trace::start(50);
        for _ in 0..100 {
            spawn(|| ()).join().unwrap();
        }
        named("last", || ()).join().unwrap();
        let trace = trace::stop();
        assert_eq!(trace.events().len(), 50);
        assert!(trace.dropped() > 400, "{}", trace.dropped());
        assert!(story(&trace, by_name(&trace, "last")).contains(&"ended".to_owned()));
    });
}

#[test]
fn a_recorder_can_be_started_and_stopped_anywhere() {
    in_child("trace::a_recorder_can_be_started_and_stopped_anywhere", || {
        time_limit();
        let starter = named("starter", || {
            yield_now();
            trace::start(MANY);
            yield_now();
        });
        let stopper = named("stopper", || {
            for _ in 0..5 {
                yield_now();
            }
        });
        starter.join().unwrap();
        stopper.join().unwrap();
        let trace = spawn(trace::stop).join().unwrap();
        assert_eq!(
            story(&trace, by_name(&trace, "starter")),
            ["ran, then yielded", "ran, then ended", "ended"]
        );
        assert!(story(&trace, by_name(&trace, "stopper")).ends_with(&["ended".to_owned()]));
        // Another one in its place.
        trace::start(MANY);
        named("forgotten", || ()).join().unwrap();
        trace::start(MANY);
        let trace = thread::spawn(trace::stop).join().unwrap();
        assert!(trace.tasks().iter().all(|task| task.name.as_deref() != Some("forgotten")));
    });
}

#[test]
fn all_hubs_are_recorded_also_later_ones_and_wakes_between_them() {
    in_child("trace::all_hubs_are_recorded_also_later_ones_and_wakes_between_them", || {
        time_limit();
        let (ready, is_ready) = mpsc::channel();
        let early = thread::spawn(move || {
            let parked = named("early", || {
                park();
                park();
            });
            yield_now();
            ready.send(parked.handle()).unwrap();
            // Sleeps, when the recording begins.
            parked.join().unwrap();
        });
        let handle = is_ready.recv().unwrap();
        trace::start(MANY);
        // The first wake comes after the message that a recording has begun.
        handle.unpark();
        let late = thread::spawn(move || {
            named("late", move || {
                // Also when the early one is about to park: the token is kept.
                while !handle.is_ready() {
                    handle.unpark();
                    sleep(Duration::from_millis(1));
                }
            })
            .join()
            .unwrap();
        });
        early.join().unwrap();
        late.join().unwrap();
        let trace = trace::stop();
        let early = story(&trace, by_name(&trace, "early"));
        assert!(early.contains(&"woken by main through greenlet".to_owned()), "{early:#?}");
        assert!(early.contains(&"woken by loop through thread".to_owned()), "{early:#?}");
        assert!(early.contains(&"woken by late through greenlet".to_owned()), "{early:#?}");
        assert!(early.ends_with(&["ran, then ended".to_owned(), "ended".to_owned()]), "{early:#?}");
        assert_eq!(trace.tasks().iter().map(|task| task.hub).collect::<HashSet<_>>().len(), 3);
    });
}

#[test]
fn descriptors_and_threads_wake() {
    in_child("trace::descriptors_and_threads_wake", || {
        use std::io::{Read, Write};
        time_limit();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let trace = recorded(|| {
            let reader = named("reader", move || {
                let mut stream = listener.accept().unwrap().0;
                stream.read_exact(&mut [0; 1]).unwrap();
                assert_eq!(unblock(|| 7), 7);
            });
            let mut stream = TcpStream::connect(addr).unwrap();
            yield_now();
            sleep(Duration::from_millis(1));
            stream.write_all(b"x").unwrap();
            reader.join().unwrap();
        });
        let reader = story(&trace, by_name(&trace, "reader"));
        assert!(reader.contains(&"woken by loop through descriptor".to_owned()), "{reader:#?}");
        assert!(reader.contains(&"woken by loop through thread".to_owned()), "{reader:#?}");
        assert!(reader.iter().any(|line| line.starts_with("ran, then waited: read")), "{reader:#?}");
        let polls = |slept| {
            let event = |event: &&Event| matches!(event.what, What::Polled { slept: s, .. } if s == slept);
            trace.events().iter().filter(event).count()
        };
        assert!(polls(true) > 0);
    });
}

#[test]
fn explicit_switches_are_runs_too() {
    in_child("trace::explicit_switches_are_runs_too", || {
        time_limit();
        let mut id = 0;
        let trace = recorded(|| {
            let echo = Coroutine::new(|mut value: u32| {
                let main = Coroutine::main();
                for _ in 0..2 {
                    value = main.switch(value).unwrap();
                }
                value
            });
            for i in 0..3 {
                assert_eq!(echo.switch(i).unwrap(), i);
            }
            id = echo.id();
        });
        assert_eq!(
            story(&trace, id),
            ["spawned by main", "ran, then switched", "ran, then switched", "ran, then ended", "ended"]
        );
        let main = story(&trace, main_of_this_thread());
        assert_eq!(main.iter().filter(|line| *line == "ran, then switched").count(), 3);
    });
}

#[test]
fn a_recorded_hub_counts_and_is_as_fair_as_any() {
    in_child("trace::a_recorded_hub_counts_and_is_as_fair_as_any", || {
        time_limit();
        trace::start(1000);
        let before = stats::here();
        // In greenlets: the timer fires although somebody is always ready.
        let sleeper = spawn(|| sleep(Duration::from_millis(5)));
        let busy = spawn({
            let sleeper = sleeper.handle();
            move || {
                let mut yields = 0;
                while !sleeper.is_ready() {
                    yield_now();
                    yields += 1;
                }
                yields
            }
        });
        let yields = busy.join().unwrap();
        let counted = stats::here().switches - before.switches;
        assert!((yields..yields + 10).contains(&counted), "{yields} {counted}");
        sleeper.join().unwrap();
        // And in main, which leaves the loop each time.
        let sleeper = spawn(|| sleep(Duration::from_millis(5)));
        let echo = Coroutine::new(|mut value: u32| {
            loop {
                value = Coroutine::main().switch(value).unwrap();
            }
        });
        let end = Instant::now() + secs(60);
        // Explicit switches go before all that are ready; but the timer fires.
        yield_now();
        while stats::here().ready == 0 {
            echo.switch(1).unwrap();
            assert!(Instant::now() < end);
        }
        sleeper.join().unwrap();
        assert!(stats::here().queue_time.count() > before.queue_time.count());
        trace::stop();
        // Not recorded any more, it counts as before.
        let before = stats::here().switches;
        spawn(|| (0..999).for_each(|_| yield_now())).join().unwrap();
        assert!((1000..1010).contains(&(stats::here().switches - before)));
    });
}

#[test]
fn what_the_end_of_a_thread_unwinds_is_recorded() {
    in_child("trace::what_the_end_of_a_thread_unwinds_is_recorded", || {
        let trace = recorded(|| {
            thread::spawn(|| {
                let _left = named("left", || {
                    loop {
                        park();
                    }
                });
                yield_now();
            })
            .join()
            .unwrap();
        });
        let left = story(&trace, by_name(&trace, "left"));
        assert!(left.ends_with(&["ran, then ended".to_owned(), "ended".to_owned()]), "{left:#?}");
    });
}

#[test]
fn a_deadlock_is_reported_while_it_is_recorded() {
    in_child("trace::a_deadlock_is_reported_while_it_is_recorded", || {
        let trace = recorded(|| {
            assert!(crate::util::catch(park).is_err());
            spawn(yield_now).join().unwrap();
        });
        let main = story(&trace, main_of_this_thread());
        assert_eq!(main[0], "ran, then waited: park");
        assert!(main[1].starts_with("ran, then waited: join"));
    });
}

/// What Perfetto needs.
#[test]
fn the_json_is_valid_and_complete() {
    in_child("trace::the_json_is_valid_and_complete", || {
        time_limit();
        const ODD: &str = "a \"b\" \\ \n \u{1} é ∀ </script>";
        let trace = recorded(|| {
            let parked = named(ODD, || {
                park();
                sleep(Duration::from_millis(1));
            });
            let handle = parked.handle();
            let waker = named("waker", move || handle.unpark());
            parked.join().unwrap();
            waker.join().unwrap();
        });
        let mut text = Vec::new();
        trace.write_chrome_json(&mut text).unwrap();
        let json: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["otherData"]["dropped"], 0);
        let events = json["traceEvents"].as_array().unwrap();
        let with = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();

        // Rows have names.
        let odd = by_name(&trace, ODD);
        let row = with("M").into_iter().find(|event| event["tid"] == odd).unwrap();
        assert_eq!(row["args"]["name"], format!("greenlet {odd} '{ODD}'"));
        let rows: HashSet<_> = with("M").iter().filter_map(|event| event["tid"].as_u64()).collect();
        assert!(events.iter().filter_map(|event| event["tid"].as_u64()).all(|tid| rows.contains(&tid)));
        assert!(with("M").iter().any(|event| event["name"] == "process_name"));

        // On one hub, one runs at a time.
        let micros = |value: &Value| value.as_f64().unwrap();
        let mut runs: Vec<_> = with("X")
            .into_iter()
            .filter(|event| event["cat"] == "run")
            .map(|event| (micros(&event["ts"]), micros(&event["dur"])))
            .collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(runs.len() >= 6);
        for pair in runs.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0 + 0.001, "{pair:?}");
        }

        // Each arrow leads from a run of who woke to the start of a run of the woken.
        let in_a_run = |event: &Value| {
            with("X").iter().any(|run| {
                let at = micros(&event["ts"]);
                run["tid"] == event["tid"]
                    && micros(&run["ts"]) <= at + 0.0005
                    && at <= micros(&run["ts"]) + micros(&run["dur"]) + 0.0005
            })
        };
        let ends: HashMap<_, _> =
            with("f").into_iter().map(|event| (event["id"].as_u64().unwrap(), event)).collect();
        assert_eq!(ends.len(), with("s").len());
        assert!(ends.len() >= 3);
        for start in with("s") {
            let end = ends[&start["id"].as_u64().unwrap()];
            assert!(micros(&start["ts"]) <= micros(&end["ts"]));
            assert!(in_a_run(start) && in_a_run(end), "{start} {end}");
        }
        let waker = by_name(&trace, "waker");
        assert!(with("s").iter().any(|start| start["tid"] == waker));

        // Why it waited, and what ended that.
        let argument = |key: &str, text: &str| {
            let of = |event: &&&Value| event["tid"] == odd && event["args"][key] == text;
            assert!(with("X").iter().find(of).is_some(), "{key}: {text}");
        };
        argument("then", "waited: park");
        argument("woken by", &format!("greenlet {waker} 'waker'"));
        argument("through", "timer");
        let lives: Vec<_> = with("i").into_iter().filter(|event| event["tid"] == odd).collect();
        assert_eq!(
            lives.iter().map(|event| event["name"].as_str().unwrap()).collect::<Vec<_>>(),
            ["spawned", "ended"]
        );
        assert!(lives[0]["args"]["at"].as_str().unwrap().contains("trace.rs"));
    });
}

#[test]
fn kinds_are_told() {
    in_child("trace::kinds_are_told", || {
        let trace = recorded(|| {
            let mut numbers = switchgrass::Generator::new(|yielder, ()| {
                yielder.yield_(1);
            });
            assert_eq!(numbers.next(), Some(1));
            sleep(Duration::from_millis(1));
        });
        let kinds: HashSet<_> = trace.tasks().iter().map(|task| task.kind).collect();
        assert!(kinds.contains(&TaskKind::Main) && kinds.contains(&TaskKind::Loop), "{kinds:?}");
        assert!(kinds.contains(&TaskKind::Generator), "{kinds:?}");
        assert!(
            trace.events().iter().any(|event| matches!(event.what, What::Ran { then: Then::Switched, .. }))
        );
    });
}
