//! `src/hub/idle.rs`
//!
//! Hubs do here what `src/hub/team.rs` has them do. Each job that is started holds up its hub for good, the worst that a
//! job can do: so each needs a hub of its own, and a job that nobody takes is a hub that sleeps for ever.

use std::sync::{Arc, OnceLock};

use super::{Count, Place};
use crate::hub::idle::Idle;
use crate::model::check;
use crate::model::thread::{self, Thread};
use crate::sys::sync::{AtomicBool, AtomicUsize, Ordering};

/// A queue into which one puts, and out of which all take. Its accesses are no stronger than those of the queue that
/// hubs have.
struct Queue {
    jobs: [Place; 2],
    front: AtomicUsize,
    back: AtomicUsize,
}

impl Queue {
    fn new() -> Self {
        Queue { jobs: [Place::new(), Place::new()], front: AtomicUsize::new(0), back: AtomicUsize::new(0) }
    }

    /// For the owner.
    fn push(&self) {
        let back = self.back.load(Ordering::Relaxed);
        self.jobs[back].touch();
        self.back.store(back + 1, Ordering::Release);
    }

    #[track_caller]
    fn is_empty(&self) -> bool {
        self.front.load(Ordering::Relaxed) >= self.back.load(Ordering::Relaxed)
    }

    /// Takes all there are: how many. None as well, if another one was faster.
    fn take(&self) -> usize {
        let front = self.front.load(Ordering::Acquire);
        let back = self.back.load(Ordering::Acquire);
        if front >= back
            || self.front.compare_exchange(front, back, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return 0;
        }
        for job in &self.jobs[front..back] {
            assert_eq!(job.touch(), 1, "a job is put in once, and taken once");
        }
        back - front
    }
}

/// By which a hub is woken.
struct Seat {
    mail: AtomicBool,
    /// There before it sleeps for the first time.
    thread: OnceLock<Thread>,
}

struct Team {
    idle: Idle,
    queues: Vec<Queue>,
    seats: Vec<Seat>,
    /// How often one was chosen, and how often one that woke up learned that it was.
    chosen: Count,
    learned: Count,
    /// How many jobs are put in by those that are taken, one by each.
    by_jobs: Count,
}

impl Team {
    /// The queues of the hubs come first.
    fn new(hubs: usize, queues: usize, by_jobs: usize) -> Arc<Team> {
        Arc::new(Team {
            idle: Idle::new(),
            queues: (0..queues).map(|_| Queue::new()).collect(),
            seats: (0..hubs)
                .map(|_| Seat { mail: AtomicBool::new(false), thread: OnceLock::new() })
                .collect(),
            chosen: Count::default(),
            learned: Count::default(),
            by_jobs: Count(Arc::new(by_jobs.into())),
        })
    }

    fn put_in(&self, queue: usize) {
        self.queues[queue].push();
        self.tell_somebody();
    }

    fn tell_somebody(&self) {
        if let Some(chosen) = self.idle.choose() {
            self.chosen.more();
            self.send(chosen);
        }
    }

    fn send(&self, hub: usize) {
        let seat = &self.seats[hub];
        seat.mail.swap(true, Ordering::AcqRel);
        if let Some(thread) = seat.thread.get() {
            thread.unpark();
        }
    }

    #[track_caller]
    fn has_work(&self) -> bool {
        for queue in &self.queues {
            if !queue.is_empty() {
                return true;
            }
        }
        false
    }

    /// Until it has taken a job, which then never ends.
    fn work(&self, hub: usize) {
        self.seats[hub].thread.set(thread::current()).unwrap();
        while !self.turn(hub) {}
        if self.by_jobs.one_less() {
            self.put_in(hub);
        }
    }

    /// Whether it has taken a job.
    fn turn(&self, hub: usize) -> bool {
        if self.has_work() {
            self.idle.begin_search();
            if self.search(hub) {
                return true;
            }
        }
        self.idle.fall_asleep(hub);
        let sleeps = !self.has_work();
        while sleeps && !self.seats[hub].mail.swap(false, Ordering::AcqRel) {
            thread::park();
        }
        if !self.idle.wake_up(hub) {
            return false;
        }
        self.learned.more();
        self.search(hub)
    }

    /// Whether it has taken a job. What it has taken beyond that one is in its own queue.
    fn search(&self, hub: usize) -> bool {
        let taken = self.queues.iter().map(Queue::take).find(|&taken| taken > 0).unwrap_or(0);
        for _ in 1..taken {
            self.queues[hub].push();
        }
        let is_last = self.idle.end_search();
        if is_last && self.has_work() {
            self.tell_somebody();
        }
        taken > 0
    }

    /// When all hubs are awake, and none searches.
    fn assert_all_awake(&self) {
        assert_eq!(format!("{:?}", self.idle), format!("{:?}", Idle::new()));
        assert_eq!(self.chosen.get(), self.learned.get());
        self.tell_somebody();
        assert_eq!(self.chosen.get(), self.learned.get(), "somebody was woken though nobody sleeps");
    }
}

/// What somebody does who is no hub, or is one that never looks into its queue again.
#[derive(Clone, Copy)]
enum Act {
    PutIn,
    /// Something happens for which a hub wakes up though it is not chosen.
    Event(usize),
}
use Act::{Event, PutIn};

fn all_work_is_taken(
    preemptions: Option<usize>,
    hubs: usize,
    by_jobs: usize,
    outside: &'static [&'static [Act]],
) {
    check(preemptions, move || {
        let team = Team::new(hubs, hubs + outside.len(), by_jobs);
        let act = {
            let team = Arc::clone(&team);
            move |number: usize| {
                for &act in outside[number] {
                    match act {
                        PutIn => team.put_in(hubs + number),
                        Event(hub) => team.send(hub),
                    }
                }
            }
        };
        let mut threads: Vec<_> = (0..hubs)
            .map(|hub| {
                let team = Arc::clone(&team);
                thread::spawn(move || team.work(hub))
            })
            .collect();
        threads.extend((1..outside.len()).map(|number| {
            let act = act.clone();
            thread::spawn(move || act(number))
        }));
        act(0);
        for thread in threads {
            thread.join().unwrap();
        }
        team.assert_all_awake();
    });
}

#[test]
fn no_work_is_slept_over() {
    all_work_is_taken(None, 1, 0, &[&[PutIn]]);
}

#[test]
fn no_work_is_slept_over_by_who_wakes_up_for_something_else() {
    all_work_is_taken(Some(3), 1, 0, &[&[PutIn], &[Event(0)]]);
}

#[test]
fn who_finds_more_than_it_can_start_sees_to_the_rest() {
    all_work_is_taken(Some(2), 2, 0, &[&[PutIn, PutIn]]);
}

#[test]
fn work_of_two_is_taken() {
    all_work_is_taken(Some(2), 2, 0, &[&[PutIn], &[PutIn]]);
}

#[test]
fn work_that_work_puts_in_is_taken() {
    all_work_is_taken(Some(2), 2, 1, &[&[PutIn]]);
}

#[test]
fn while_one_searches_no_other_is_woken() {
    check(None, || {
        let idle = Arc::new(Idle::new());
        for hub in [0, 1] {
            idle.fall_asleep(hub);
        }
        let choose = |idle: Arc<Idle>| thread::spawn(move || idle.choose());
        let chosen =
            [choose(Arc::clone(&idle)), choose(Arc::clone(&idle))].map(|thread| thread.join().unwrap());
        let [hub] = *chosen.into_iter().flatten().collect::<Vec<_>>() else {
            panic!("assertion: {chosen:?} are chosen")
        };
        assert!(idle.wake_up(hub));
        assert!(!idle.wake_up(1 - hub));
        assert_eq!(idle.choose(), None);
        assert!(idle.end_search());
        assert_eq!(format!("{idle:?}"), format!("{:?}", Idle::new()));
    });
}
