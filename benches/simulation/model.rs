//! Hubs that share work as `src/hub/team.rs` has it, in virtual nanoseconds: each is a state that takes a step at a time.
//!
//! ```text
//!     GoesOn: its own work ──▶ Sees: has any queue work? ──no──▶ LooksAgain ──no──▶ Asleep
//!        ▲                       │ yes: begin_search       fall_asleep │ yes           │
//!        │                       ▼                                     ▼ wake_up       ▼
//!      Ends ◀───────────────── Searches ◀──────── if it was chosen ────┴───────────────┘
//!        end_search; if it was the last: looks at the queues, chooses
//! ```
//!
//! Each look at a queue is a step of its own, so hubs come between each other's looks as they would on as many cores. A step costs its hub time; what
//! it does to the queues and to the protocol happens at its beginning.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::protocol::Protocol;
use crate::random::Random;

/// In virtual nanoseconds.
pub(crate) type Nanos = u64;

/// At most so many are taken from another queue at once, and at most half of what is there.
const MOST_STOLEN: usize = 32;

/// What a step takes. The means; each time it is from half to one and a half times as much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// To spawn a greenlet.
    pub(crate) spawn: Nanos,
    /// To start and end one, besides what it does.
    pub(crate) run: Nanos,
    /// To see that a queue is empty which was looked at before, and has not changed since …
    pub(crate) look: Nanos,
    /// … and to fetch a cache line that another core has changed: for a queue that has changed, and for each greenlet that was made elsewhere.
    pub(crate) fetch: Nanos,
    /// To take a batch, besides the lines.
    pub(crate) steal: Nanos,
    /// To write to the eventfd of a hub that sleeps.
    pub(crate) notify: Nanos,
    /// From the beginning of that write until the hub goes on.
    pub(crate) wake: Nanos,
    /// To go to sleep.
    pub(crate) sleep: Nanos,
}

/// What there is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) hubs: usize,
    pub(crate) tasks: usize,
    /// How many are spawned at once, one after the other …
    pub(crate) burst: usize,
    /// … by a hub, to which an event comes; or by another thread.
    pub(crate) from_outside: bool,
    /// How long one takes: the mean of an exponential distribution.
    pub(crate) service: Nanos,
    /// Which part of the time of all hubs is work, if spawning, starting and ending are counted as such.
    pub(crate) part: f64,
    /// Hubs that sleep look so often on their own, if they do.
    pub(crate) poll: Option<Nanos>,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// From the event until the start, of each; sorted.
    pub(crate) delays: Vec<Nanos>,
    /// The same if there were one queue, and nothing took time but to spawn, to run and to end a task.
    pub(crate) ideal: Vec<Nanos>,
    pub(crate) wakes: u64,
    /// Of these, those who found nothing.
    pub(crate) wakes_in_vain: u64,
    pub(crate) searches_failed: u64,
    /// Batches that were taken from another queue, and tasks in them.
    pub(crate) batches: u64,
    pub(crate) stolen: u64,
    /// Looks at other queues.
    pub(crate) looks: u64,
    /// Time of hubs that was spent on looking, taking, waking others and going to sleep.
    pub(crate) overhead: Nanos,
    /// The longest time in which there was work in a queue, a hub slept, and nobody was looking or on the way: the protocol says, never.
    pub(crate) unattended: Nanos,
    /// The longest time in which there was work in a queue, and a hub slept, and no hub found any that it could take over.
    pub(crate) stall: Nanos,
    pub(crate) ended_at: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Task {
    /// When the event came that it is spawned for.
    since: Nanos,
    service: Nanos,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    GoesOn,
    /// Makes a task, and pushes it …
    Spawns,
    /// … and looks at the counts.
    HasPushed,
    Sees(Round),
    Searches(Round),
    Ends {
        round: Round,
        found: Option<Task>,
    },
    /// Knows that there is work, and whom to wake.
    Finds {
        found: Option<Task>,
    },
    LooksAgain(Round),
    FallsAsleep,
    Asleep,
}

/// Looks at queues, one after the other: the injector, then those of the hubs from `first` on.
#[derive(Clone, Copy, Debug)]
struct Round {
    looked_at: usize,
    first: usize,
}

#[derive(Debug)]
struct Hub {
    doing: Doing,
    queue: VecDeque<Task>,
    /// What it is to spawn.
    orders: VecDeque<Task>,
    /// It was chosen, and has not seen it yet.
    has_mail: bool,
    /// While it sleeps: it is on its way. While it searches: that is what it was woken for.
    was_woken: bool,
    /// Its search was in vain, so it sleeps without looking before.
    found_nothing: bool,
    /// Counts the steps that were put off, so that a sleeper is not woken twice.
    turn: u64,
    /// Which change of each queue it has seen.
    seen: Vec<u64>,
}

struct World<'a> {
    costs: Costs,
    load: Load,
    protocol: &'a dyn Protocol,
    /// Of the load, which is the same whatever the protocol; and of the rest.
    load_random: Random,
    random: Random,
    hubs: Vec<Hub>,
    /// For work from outside.
    injector: VecDeque<Task>,
    /// How often each queue was changed; the last one is the injector's.
    changes: Vec<u64>,
    /// When who takes a step: `(when, which, who, turn)`.
    steps: BinaryHeap<Reverse<(Nanos, u64, usize, u64)>>,
    step: u64,
    now: Nanos,
    /// What the thread outside does, and the tasks that it is to spawn.
    outside: Doing,
    outside_orders: VecDeque<Task>,
    /// How many tasks are to come.
    tasks_left: usize,
    /// Tasks that are not started.
    queued: usize,
    /// Hubs that sleep, and nobody has woken.
    asleep: usize,
    /// Who looks at queues, was chosen to do so, or has pushed and not looked at the counts.
    looking: usize,
    unattended_since: Option<Nanos>,
    stalled_since: Option<Nanos>,
    /// Each task, and when it could be pushed.
    work: Vec<(Nanos, Task)>,
    outcome: Outcome,
}

/// Who is no hub takes steps, too.
const OUTSIDE: usize = usize::MAX;
const ARRIVALS: usize = usize::MAX - 1;

/// Between a push and the look at the counts: others come in between.
const FENCE: Nanos = 1;

pub(crate) fn simulate(costs: Costs, load: Load, protocol: &dyn Protocol) -> Outcome {
    let hub = |_| Hub {
        doing: Doing::GoesOn,
        queue: VecDeque::new(),
        orders: VecDeque::new(),
        has_mail: false,
        was_woken: false,
        found_nothing: false,
        turn: 0,
        seen: vec![0; load.hubs + 1],
    };
    let mut world = World {
        costs,
        load,
        protocol,
        load_random: Random(load.seed),
        random: Random(!load.seed),
        hubs: (0..load.hubs).map(hub).collect(),
        injector: VecDeque::new(),
        changes: vec![0; load.hubs + 1],
        steps: BinaryHeap::new(),
        step: 0,
        now: 0,
        outside: Doing::Asleep,
        outside_orders: VecDeque::new(),
        tasks_left: load.tasks,
        queued: 0,
        asleep: 0,
        looking: 0,
        unattended_since: None,
        stalled_since: None,
        work: Vec::new(),
        outcome: Outcome::default(),
    };
    for who in 0..load.hubs {
        world.after(0, who);
    }
    world.after(0, ARRIVALS);
    world.run();
    world.finish()
}

impl World<'_> {
    fn run(&mut self) {
        while let Some(Reverse((when, _, who, turn))) = self.steps.pop() {
            if self.outcome.delays.len() == self.load.tasks {
                // Hubs that look on their own would do so for ever.
                break;
            }
            if self.hubs.get(who).is_some_and(|hub| hub.turn != turn) {
                continue;
            }
            self.now = when;
            self.watch();
            match who {
                ARRIVALS => self.burst_comes(),
                OUTSIDE => self.outside_spawns(),
                _ => self.hub_goes_on(who),
            }
            self.watch();
        }
    }

    fn finish(mut self) -> Outcome {
        assert_eq!(self.outcome.delays.len(), self.load.tasks, "a task was never started: a wake was lost");
        self.outcome.delays.sort_unstable();
        self.outcome.ideal = ideal(self.load.hubs, self.costs.run, &mut self.work);
        self.outcome.ended_at = self.now;
        self.outcome
    }

    /// `who` takes its next step then.
    fn after(&mut self, time: Nanos, who: usize) {
        let turn = self.hubs.get_mut(who).map_or(0, |hub| {
            hub.turn += 1;
            hub.turn
        });
        self.step += 1;
        self.steps.push(Reverse((self.now + time, self.step, who, turn)));
    }

    /// A hub does that, after so much time that is no work.
    fn then(&mut self, who: usize, cost: Nanos, doing: Doing) {
        self.outcome.overhead += cost;
        self.hubs[who].doing = doing;
        self.after(cost, who);
    }

    fn about(&mut self, cost: Nanos) -> Nanos {
        self.random.about(cost)
    }

    /// Work comes, and after a while more.
    fn burst_comes(&mut self) {
        let burst = self.load.burst.min(self.tasks_left);
        self.tasks_left -= burst;
        let who = self.load_random.below(self.load.hubs);
        let since = self.now;
        let order = |_| Task { since, service: self.load_random.exponential(self.load.service as f64) };
        let orders: Vec<_> = (0..burst).map(order).collect();
        let pushed = (1..).map(|nth| since + nth * self.costs.spawn);
        self.work.extend(pushed.zip(orders.iter().copied()));
        if self.load.from_outside {
            self.outside_orders.extend(orders);
            if matches!(self.outside, Doing::Asleep) {
                self.outside = Doing::Spawns;
                self.after(self.costs.spawn, OUTSIDE);
            }
        } else {
            let hub = &mut self.hubs[who];
            hub.orders.extend(orders);
            if matches!(hub.doing, Doing::Asleep) && !hub.was_woken {
                self.rouse(who);
            }
        }
        if self.tasks_left > 0 {
            let of_one = self.costs.spawn + self.costs.run + self.load.service;
            let gap = of_one as f64 * self.load.burst as f64 / (self.load.hubs as f64 * self.load.part);
            let gap = self.load_random.exponential(gap);
            self.after(gap, ARRIVALS);
        }
    }

    fn outside_spawns(&mut self) {
        if let Doing::Spawns = self.outside {
            let task = self.outside_orders.pop_front().expect("it has something to do");
            self.is_pushed();
            self.injector.push_back(task);
            self.changes[self.load.hubs] += 1;
            self.outside = Doing::HasPushed;
            return self.after(FENCE, OUTSIDE);
        }
        let notify = self.choose();
        self.looking -= 1;
        self.outside = if self.outside_orders.is_empty() { Doing::Asleep } else { Doing::Spawns };
        if let Doing::Spawns = self.outside {
            let spawn = self.about(self.costs.spawn);
            self.after(notify + spawn, OUTSIDE);
        }
    }

    /// There is one more, and who has pushed it is about to look at the counts.
    fn is_pushed(&mut self) {
        self.queued += 1;
        self.looking += 1;
    }

    /// Asks the protocol whom to wake, and does it. What that costs the caller.
    fn choose(&mut self) -> Nanos {
        let Some(chosen) = self.protocol.choose() else { return 0 };
        let hub = &mut self.hubs[chosen];
        assert!(!hub.has_mail, "it was chosen before, and has not searched since");
        hub.has_mail = true;
        self.looking += 1;
        match hub.doing {
            Doing::Asleep if !hub.was_woken => self.rouse(chosen),
            Doing::Asleep | Doing::FallsAsleep => {}
            // It is on its way to sleep, and finds the message.
            _ => return 0,
        }
        self.outcome.wakes += 1;
        self.about(self.costs.notify)
    }

    /// A hub that sleeps goes on, when its thread has been woken.
    fn rouse(&mut self, who: usize) {
        self.hubs[who].was_woken = true;
        self.asleep -= 1;
        let wake = self.about(self.costs.wake);
        self.after(wake, who);
    }

    fn hub_goes_on(&mut self, who: usize) {
        match self.hubs[who].doing {
            Doing::GoesOn => self.next(who),
            Doing::Spawns => self.spawns(who),
            Doing::HasPushed => {
                let notify = self.choose();
                self.looking -= 1;
                self.then(who, notify, Doing::GoesOn);
            }
            Doing::Sees(round) => match self.look(who, round) {
                Look::Work(_) => {
                    self.protocol.begin_search();
                    let first = self.anywhere();
                    self.then(who, 0, Doing::Searches(first));
                }
                Look::On(round, cost) => self.then(who, cost, Doing::Sees(round)),
                Look::Nothing => {
                    self.looking -= 1;
                    self.falls_asleep(who);
                }
            },
            Doing::Searches(round) => match self.look(who, round) {
                Look::Work(victim) => self.takes(who, victim),
                Look::On(round, cost) => self.then(who, cost, Doing::Searches(round)),
                Look::Nothing => {
                    self.outcome.searches_failed += 1;
                    if self.hubs[who].was_woken {
                        self.outcome.wakes_in_vain += 1;
                    } else {
                        self.hubs[who].found_nothing = true;
                    }
                    self.ends(who, 0, None);
                }
            },
            Doing::Ends { round, found } => match self.look(who, round) {
                Look::Work(_) => self.then(who, 0, Doing::Finds { found }),
                Look::On(round, cost) => self.then(who, cost, Doing::Ends { round, found }),
                Look::Nothing => {
                    self.looking -= 1;
                    self.goes_on_with(who, 0, found);
                }
            },
            Doing::Finds { found } => {
                let notify = self.choose();
                self.looking -= 1;
                self.outcome.overhead += notify;
                self.goes_on_with(who, notify, found);
            }
            Doing::LooksAgain(round) => match self.look(who, round) {
                Look::Work(_) => {
                    self.looking -= 1;
                    self.wakes_up(who);
                }
                Look::On(round, cost) => self.then(who, cost, Doing::LooksAgain(round)),
                Look::Nothing => {
                    self.looking -= 1;
                    self.hubs[who].doing = Doing::FallsAsleep;
                    let sleep = self.about(self.costs.sleep);
                    self.outcome.overhead += sleep;
                    self.after(sleep, who);
                }
            },
            Doing::FallsAsleep => {
                let hub = &self.hubs[who];
                if hub.has_mail || !hub.orders.is_empty() {
                    return self.wakes_up(who);
                }
                self.hubs[who].doing = Doing::Asleep;
                self.hubs[who].was_woken = false;
                self.asleep += 1;
                if let Some(poll) = self.load.poll {
                    let poll = self.about(poll);
                    self.after(poll, who);
                }
            }
            Doing::Asleep => {
                if !self.hubs[who].was_woken {
                    // By its own clock.
                    self.asleep -= 1;
                    self.hubs[who].was_woken = true;
                }
                self.wakes_up(who);
            }
        }
    }

    fn wakes_up(&mut self, who: usize) {
        if self.protocol.wake_up(who) {
            self.looking += 1;
            self.mail_is_read(who);
            let first = self.anywhere();
            self.then(who, 0, Doing::Searches(first));
        } else {
            self.then(who, 0, Doing::GoesOn);
        }
    }

    /// From now on it counts as one that looks in its own right.
    fn mail_is_read(&mut self, who: usize) {
        assert!(self.hubs[who].has_mail, "who is chosen gets a message");
        self.hubs[who].has_mail = false;
        self.looking -= 1;
    }

    /// The loop: what it has been told to spawn, its own work, that of others.
    fn next(&mut self, who: usize) {
        if !self.hubs[who].orders.is_empty() {
            let spawn = self.about(self.costs.spawn);
            self.hubs[who].doing = Doing::Spawns;
            self.after(spawn, who);
        } else if let Some(task) = self.hubs[who].queue.pop_front() {
            self.changes[who] += 1;
            self.starts(who, 0, task);
        } else {
            self.hubs[who].was_woken = false;
            if std::mem::take(&mut self.hubs[who].found_nothing) {
                return self.falls_asleep(who);
            }
            self.looking += 1;
            self.then(who, 0, Doing::Sees(self.in_order()));
        }
    }

    fn spawns(&mut self, who: usize) {
        let task = self.hubs[who].orders.pop_front().expect("it has something to do");
        self.is_pushed();
        self.hubs[who].queue.push_back(task);
        self.changes[who] += 1;
        self.hubs[who].doing = Doing::HasPushed;
        self.after(FENCE, who);
    }

    /// Takes the first, to be run at once, and some that go into its own queue.
    fn takes(&mut self, who: usize, victim: usize) {
        let queue = if victim == self.load.hubs { &mut self.injector } else { &mut self.hubs[victim].queue };
        let first = queue.pop_front().expect("it was just looked at");
        let more = (queue.len() / 2).min(MOST_STOLEN - 1);
        let batch: Vec<_> = queue.drain(..more).collect();
        self.changes[victim] += 1;
        self.outcome.batches += 1;
        self.outcome.stolen += 1 + more as u64;
        let lines = 1 + more as u64;
        self.hubs[who].queue.extend(batch);
        self.changes[who] += 1;
        // The found one counts as queued until it is started.
        let cost = self.about(self.costs.steal + lines * self.costs.fetch);
        self.stalled_since = None;
        self.ends(who, cost, Some(first));
    }

    fn ends(&mut self, who: usize, cost: Nanos, found: Option<Task>) {
        self.hubs[who].was_woken = false;
        if self.protocol.end_search() {
            self.then(who, cost, Doing::Ends { round: self.in_order(), found });
        } else {
            self.looking -= 1;
            self.outcome.overhead += cost;
            self.goes_on_with(who, cost, found);
        }
    }

    fn goes_on_with(&mut self, who: usize, cost: Nanos, found: Option<Task>) {
        match found {
            Some(task) => self.starts(who, cost, task),
            None => {
                self.hubs[who].doing = Doing::GoesOn;
                self.after(cost, who);
            }
        }
    }

    /// In so much time it starts the task.
    fn starts(&mut self, who: usize, cost: Nanos, task: Task) {
        self.queued -= 1;
        self.outcome.delays.push(self.now + cost - task.since);
        self.hubs[who].doing = Doing::GoesOn;
        let run = self.about(self.costs.run);
        self.after(cost + run + task.service, who);
    }

    fn falls_asleep(&mut self, who: usize) {
        self.protocol.fall_asleep(who);
        self.looking += 1;
        self.then(who, 0, Doing::LooksAgain(self.in_order()));
    }

    /// As who wants to take something.
    fn anywhere(&mut self) -> Round {
        Round { looked_at: 0, first: self.random.below(self.load.hubs) }
    }

    /// As who wants to know whether there is something.
    fn in_order(&self) -> Round {
        Round { looked_at: 0, first: 0 }
    }

    fn look(&mut self, who: usize, round: Round) -> Look {
        if round.looked_at > self.load.hubs {
            return Look::Nothing;
        }
        let queue = match round.looked_at {
            0 => self.load.hubs,
            at => (round.first + at - 1) % self.load.hubs,
        };
        let next = Round { looked_at: round.looked_at + 1, ..round };
        let work = if queue == self.load.hubs { &self.injector } else { &self.hubs[queue].queue };
        if !work.is_empty() {
            return Look::Work(queue);
        }
        if queue == who {
            return Look::On(next, 0);
        }
        self.outcome.looks += 1;
        let seen = std::mem::replace(&mut self.hubs[who].seen[queue], self.changes[queue]);
        let cost = if seen == self.changes[queue] { self.costs.look } else { self.costs.fetch };
        Look::On(next, cost)
    }

    /// Looks whether work waits while a hub sleeps.
    fn watch(&mut self) {
        let waits = self.queued > 0 && self.asleep > 0;
        let now = self.now;
        let measure = |since: &mut Option<Nanos>, is_so: bool, longest: &mut Nanos| {
            if let Some(since) = *since {
                *longest = (*longest).max(now - since);
            }
            *since = if is_so { Some(since.unwrap_or(now)) } else { None };
        };
        measure(&mut self.unattended_since, waits && self.looking == 0, &mut self.outcome.unattended);
        measure(&mut self.stalled_since, waits, &mut self.outcome.stall);
    }
}

enum Look {
    Work(usize),
    /// That queue is empty, and to see that took so long.
    On(Round, Nanos),
    Nothing,
}

/// The delays if whoever is free takes the oldest, at once. `work`: the tasks, and when each is in the queue.
fn ideal(hubs: usize, run: Nanos, work: &mut [(Nanos, Task)]) -> Vec<Nanos> {
    work.sort_by_key(|&(pushed, _)| pushed);
    let mut free_at: BinaryHeap<_> = (0..hubs).map(|_| Reverse(0)).collect();
    let mut delays = Vec::with_capacity(work.len());
    for &mut (pushed, task) in work {
        let Reverse(free) = free_at.pop().expect("there are hubs");
        let starts = pushed.max(free);
        delays.push(starts - task.since);
        free_at.push(Reverse(starts + run + task.service));
    }
    delays.sort_unstable();
    delays
}
