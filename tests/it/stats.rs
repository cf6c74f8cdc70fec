//! `stats`: the numbers of a hub.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use switchgrass::stats::{self, Stats};
use switchgrass::{Coroutine, park, sleep, spawn, yield_now};

use crate::util::{HOUR, time_limit};

/// Holds the thread up.
fn compute(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {}
}

#[test]
fn each_resumption_is_counted_once() {
    time_limit();
    let before = stats::here().switches;
    let greenlets: Vec<_> = (0..10)
        .map(|_| {
            spawn(|| {
                for _ in 0..99 {
                    yield_now();
                }
            })
        })
        .collect();
    for greenlet in greenlets {
        greenlet.join().unwrap();
    }
    // 10 times the first run and 99 yields; and the thread's own stack for the first one's end, which all but see.
    let main = 10;
    let switches = stats::here().switches - before;
    assert!((1001..=1000 + main).contains(&switches), "{switches}");
}

#[test]
fn explicit_switches_are_counted() {
    time_limit();
    let before = stats::here().switches;
    let echo = Coroutine::new(|mut value: u32| {
        let main = Coroutine::main();
        for _ in 0..500 {
            value = main.switch(value).unwrap();
        }
        value
    });
    for i in 0..501 {
        assert_eq!(echo.switch(i).unwrap(), i);
    }
    // There and back.
    assert_eq!(stats::here().switches - before, 1002);
}

#[test]
fn who_is_ready_and_who_lives_is_told_exactly() {
    time_limit();
    let first = stats::here();
    assert_eq!((first.ready, first.live, first.stacks_in_use), (0, 0, 0));
    // More than one sample's worth.
    let greenlets: Vec<_> = (0..1000).map(|_| spawn(park)).collect();
    let spawned = stats::here();
    assert_eq!((spawned.ready, spawned.live, spawned.stacks_in_use), (1000, 1000, 0));
    yield_now();
    let parked = stats::here();
    assert_eq!((parked.ready, parked.live, parked.stacks_in_use), (0, 1000, 1000));
    for greenlet in &greenlets {
        greenlet.handle().unpark();
    }
    assert_eq!(stats::here().ready, 1000);
    for greenlet in greenlets {
        greenlet.join().unwrap();
    }
    let ended = stats::here();
    assert_eq!((ended.ready, ended.live, ended.stacks_in_use), (0, 0, 0));
    assert!(ended.stacks_pooled > 0);
}

#[test]
fn deadlines_and_polls_are_counted() {
    time_limit();
    let sleepers: Vec<_> = (0..3).map(|_| spawn(|| sleep(HOUR))).collect();
    sleep(Duration::from_millis(1));
    let stats = stats::here();
    assert_eq!(stats.timers, 3);
    assert!(stats.polls >= 1, "a sleep is a poll");
    for sleeper in sleepers {
        sleeper.kill();
    }
    assert_eq!(stats::here().timers, 0);
}

/// One run in 2,048 is looked at: of the main context's, which queue the others, 16.
#[test]
fn the_time_in_the_ready_queue_is_that_behind_those_before() {
    time_limit();
    const ROUNDS: u64 = 32_000;
    const HELD_UP: Duration = Duration::from_micros(30);
    let before = stats::here().queue_time;
    for _ in 0..ROUNDS {
        let first = spawn(|| compute(HELD_UP));
        let others: Vec<_> = (0..9).map(|_| spawn(|| ())).collect();
        first.join().unwrap();
        for greenlet in others {
            greenlet.join().unwrap();
        }
    }
    let waits = stats::here().queue_time.since(&before);
    let count = |from: Duration, to: Duration| -> u64 {
        waits
            .buckets()
            .filter(|(range, _)| range.start >= from && range.end <= to)
            .map(|(_, count)| count)
            .sum()
    };
    // Nine in ten wait for the first; it does not wait, nor does main, which it wakes at its end.
    let all = ROUNDS * 11;
    assert!((all / 5..all * 5).contains(&waits.count()), "{waits:?}");
    let (short, long) = (count(Duration::ZERO, HELD_UP / 2), count(HELD_UP / 2, HOUR));
    assert!(long > short, "{waits:?}");
    assert!(waits.quantile(0.9) >= HELD_UP, "{waits:?}");
}

#[test]
fn who_yields_behind_others_waits_in_the_queue() {
    time_limit();
    const EACH: Duration = Duration::from_micros(50);
    let before = stats::here().queue_time;
    let greenlets: Vec<_> = (0..4)
        .map(|_| {
            spawn(|| {
                for _ in 0..2500 {
                    compute(EACH);
                    yield_now();
                }
            })
        })
        .collect();
    for greenlet in greenlets {
        greenlet.join().unwrap();
    }
    let waits = stats::here().queue_time.since(&before);
    assert!(waits.count() >= 3, "{waits:?}");
    // Three others run first.
    assert!(waits.quantile(0.5) >= 3 * EACH, "{waits:?}");
}

#[test]
fn the_sleep_of_the_hub_is_no_time_in_the_queue() {
    time_limit();
    const SLEEP: Duration = Duration::from_micros(200);
    let before = stats::here().queue_time;
    for _ in 0..500 {
        sleep(SLEEP);
    }
    let waits = stats::here().queue_time.since(&before);
    assert!(waits.count() >= 3, "{waits:?}");
    assert!(waits.quantile(0.5) < SLEEP / 4, "{waits:?}");
}

#[test]
fn a_hub_is_seen_from_other_threads_until_its_thread_ends() {
    time_limit();
    let (here, there) = (mpsc::channel(), mpsc::channel::<()>());
    let thread = thread::Builder::new()
        .name("seen from elsewhere".to_owned())
        .spawn(move || {
            let parked: Vec<_> = (0..7).map(|_| spawn(park)).collect();
            // The loop has been round.
            sleep(Duration::from_millis(1));
            here.0.send(stats::here().hub).unwrap();
            there.1.recv().unwrap();
            for greenlet in parked {
                greenlet.kill();
            }
        })
        .unwrap();
    let hub = here.1.recv().unwrap();
    let find = || stats::all().into_iter().find(|stats| stats.hub == hub);
    let seen: Stats = find().unwrap();
    assert!(seen.thread.contains("seen from elsewhere"));
    assert_eq!((seen.live, seen.ready, seen.stacks_in_use), (7, 0, 7));
    assert!(seen.switches >= 8, "{seen}");
    there.0.send(()).unwrap();
    thread.join().unwrap();
    assert!(find().is_none());
}

#[test]
fn all_hubs_are_told_in_the_order_of_their_making_and_the_own_one_exactly() {
    time_limit();
    let own = stats::here().hub;
    let greenlet = spawn(|| ());
    let all = stats::all();
    assert!(all.is_sorted_by_key(|stats| stats.hub));
    assert_eq!(all.iter().find(|stats| stats.hub == own).unwrap().ready, 1);
    greenlet.join().unwrap();
}

#[test]
fn a_histogram_of_nothing_is_all_zero() {
    let nothing = thread::spawn(|| stats::here().queue_time).join().unwrap();
    assert_eq!(
        (nothing.count(), nothing.mean(), nothing.quantile(0.99)),
        (0, Duration::ZERO, Duration::ZERO)
    );
    assert_eq!(nothing.buckets().count(), 0);
}
