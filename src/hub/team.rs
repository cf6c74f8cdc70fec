//! Hubs that share work before it starts.
//!
//! Each hub of a team has a queue of unstarted tasks, out of which the others may steal; what comes from outside of the team is injected into one that
//! belongs to all. A task that a hub has taken is its own for good (see `task::afloat`).
//!
//! A hub takes one when nothing else of its own is ready, and each time it looks at the clock, so that tasks which yield all the
//! time keep none from starting. It runs at once. What a hub has not taken others can have: so a task that computes for long holds up nobody
//! but those that have started on its hub.
//!
//! Who is woken when there is work: `idle.rs`. Whether it is worth taking: `pace.rs`. A hub without work that sees some which is not *watches*: it sleeps for a millisecond at most, and
//! counts as one that searches. So while tiny tasks come and go, nobody is woken for them, and when their hub gets stuck with some, that is seen within a millisecond.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_deque::{Injector, Steal, Stealer, Worker};

use super::Hub;
use super::idle::Idle;
use super::pace::Paces;
use crate::sys::clock::Nanos;
use crate::sys::fork;
use crate::task::{Afloat, GreenletExit, Home, Message, State, Task};

/// One that sees work in good hands looks again after so long: whoever has it may have become slow, or stuck.
const WATCH: Duration = Duration::from_millis(1);

/// What several hubs share.
#[derive(Debug)]
pub(crate) struct Team {
    injector: Injector<Afloat>,
    members: Box<[Seat]>,
    idle: Idle,
    /// The process that it is of: in a child of it, the other threads are not there.
    process: u32,
}

/// What the others know of a member.
#[derive(Debug)]
struct Seat {
    stealer: Stealer<Afloat>,
    /// Where its hub lives, and its number. Set before it sleeps for the first time.
    hub: OnceLock<(&'static Home, u64)>,
}

/// The place of a hub in a team, which only that hub has.
#[derive(Debug)]
pub(crate) struct Member {
    team: Arc<Team>,
    index: usize,
    queue: Worker<Afloat>,
    paces: Paces,
    /// It sleeps for no longer than [`WATCH`], and searches meanwhile.
    watches: Cell<bool>,
    looks_again_at: Cell<Nanos>,
    has_left: Cell<bool>,
}

impl Team {
    /// A team of so many members.
    pub(crate) fn new(size: usize) -> (Arc<Team>, Vec<Member>) {
        let queues: Vec<_> = (0..size).map(|_| Worker::new_fifo()).collect();
        let seats = queues.iter().map(|queue| Seat { stealer: queue.stealer(), hub: OnceLock::new() });
        let team = Arc::new(Team {
            injector: Injector::new(),
            members: seats.collect(),
            idle: Idle::new(),
            process: fork::generation(),
        });
        let member = |(index, queue)| Member {
            team: Arc::clone(&team),
            index,
            queue,
            paces: Paces::new(size),
            watches: Cell::new(false),
            looks_again_at: Cell::new(0),
            has_left: Cell::new(false),
        };
        let members = queues.into_iter().enumerate().map(member).collect();
        (team, members)
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Whether its threads are here: not in a child process.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.process == fork::generation()
    }

    /// Puts in a task from outside of the team.
    ///
    /// # Errors
    ///
    /// The task: this is a child process, in which nobody would run it.
    pub(crate) fn inject(&self, task: Afloat) -> Result<(), Afloat> {
        if !self.is_of_this_process() {
            return Err(task);
        }
        self.injector.push(task);
        self.tell_somebody();
        Ok(())
    }

    /// Gives a task to one member, which alone will run it.
    ///
    /// Whoever calls this keeps the members from ending meanwhile: so it is read before the message that ends them.
    ///
    /// # Errors
    ///
    /// As [`Team::inject`].
    pub(crate) fn send_to(&self, index: usize, task: Afloat) -> Result<(), Afloat> {
        if !self.is_of_this_process() {
            return Err(task);
        }
        let &(home, hub) = self.members[index].hub.wait();
        home.post(hub, Message::Land(task));
        Ok(())
    }

    /// How many unstarted tasks there are, about.
    pub(crate) fn queued(&self) -> usize {
        self.injector.len() + self.members.iter().map(|seat| seat.stealer.len()).sum::<usize>()
    }

    /// There is work: wakes a member for it, if need be.
    #[inline]
    fn tell_somebody(&self) {
        if let Some(chosen) = self.idle.choose() {
            self.wake(chosen);
        }
    }

    #[cold]
    fn wake(&self, index: usize) {
        let &(home, hub) = self.members[index].hub.get().expect("who sleeps has taken its seat");
        home.post(hub, Message::Work);
    }

    fn has_work(&self) -> bool {
        !self.injector.is_empty() || self.members.iter().any(|seat| !seat.stealer.is_empty())
    }
}

impl Member {
    /// Another member that has work, and gets on slowly. The first one to be looked at is any.
    fn find_slow(&self, hub: &Hub) -> Option<usize> {
        let (count, first) = (self.team.size(), hub.any_below(self.team.size()));
        let others = (0..count).map(|offset| (first + offset) % count);
        let busy = others.filter_map(|index| {
            let seat = &self.team.members[index];
            // Its own queue was empty. If there is something now, the loop finds it.
            (index != self.index && !seat.stealer.is_empty()).then_some((index, seat.hub.get()?.0))
        });
        self.paces.find_slow(busy)
    }

    /// Whether there is work that somebody should take from where it is, as far as is known. For one that is awake: does not look all the time.
    fn sees_what_to_take(&self, hub: &Hub) -> bool {
        if !self.team.injector.is_empty() {
            return true;
        }
        if hub.now.get() < self.looks_again_at.get() {
            return false;
        }
        let sees = self.find_slow(hub).is_some();
        if !sees {
            self.looks_again_at.set(hub.now.get() + WATCH.as_nanos() as Nanos);
        }
        sees
    }

    fn end_search(&self) {
        if self.team.idle.end_search() && self.team.has_work() {
            self.team.tell_somebody();
        }
    }
}

/// What a search has come upon.
enum Found {
    Task(Afloat),
    /// There is work, but who has it gets on with it.
    InGoodHands,
    Nothing,
}

/// Tries again while somebody else was faster.
fn until_decided(attempt: impl Fn() -> Steal<Afloat>) -> Option<Afloat> {
    loop {
        match attempt() {
            Steal::Success(task) => return Some(task),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}

impl Hub {
    /// Takes a seat in a team, until [`Hub::leave_team`].
    pub(crate) fn join_team(&self, member: Member) {
        let seat = &member.team.members[member.index];
        seat.hub.set((self.home, self.incarnation)).expect("a seat is one hub's");
        self.member.set(member).expect("a hub is in one team only");
    }

    #[inline]
    fn member(&self) -> Option<&Member> {
        self.member.get().filter(|member| !member.has_left.get())
    }

    /// The team that this hub works for.
    pub(crate) fn team(&self) -> Option<&Arc<Team>> {
        self.member().map(|member| &member.team)
    }

    /// Takes no more work. What nobody has started ends as killed.
    pub(crate) fn leave_team(&self) {
        let Some(member) = self.member() else { return };
        member.has_left.set(true);
        // Some may have been sent here.
        self.in_loop(|| self.read_mail());
        let injected = || until_decided(|| member.team.injector.steal());
        while let Some(task) = member.queue.pop().or_else(injected) {
            self.land(task).interrupt(Box::new(GreenletExit));
        }
    }

    /// In the child of a fork: the team is the parent's, and its queues are as other threads have left them.
    pub(super) fn leave_team_behind(&self) {
        if let Some(member) = self.member() {
            member.has_left.set(true);
            // It is never dropped, nor is what waits in it.
            std::mem::forget(Arc::clone(&member.team));
        }
    }

    /// Puts in a task of this hub's team.
    ///
    /// # Errors
    ///
    /// The task, if the hub is in no team, or in one of the parent process.
    #[inline]
    pub(crate) fn put_in(&self, task: Afloat) -> Result<(), Afloat> {
        let Some(member) = self.member.get() else { return Err(task) };
        if member.has_left.get() {
            return self.put_in_late(member, task);
        }
        member.queue.push(task);
        member.team.tell_somebody();
        Ok(())
    }

    #[cold]
    fn put_in_late(&self, member: &Member, task: Afloat) -> Result<(), Afloat> {
        if !member.team.is_of_this_process() {
            return Err(task);
        }
        // Destructors run here, at the end of the thread. Nobody else would take it.
        self.land(task);
        Ok(())
    }

    /// Makes it a task of this hub, which runs next: so nobody who is ready before it can hold it up, now that no other hub can take it.
    pub(crate) fn land(&self, task: Afloat) -> &Task {
        let (task, messages) = task
            .land(self.home)
            .map_or_else(|task| task.land_with_messages(self.home), |task| (task, Vec::new()));
        let landed = self.alive(self.adopt(task));
        if self.waiting_for_unwound.get() == 0 {
            self.run_next(landed);
        } else {
            // Nobody may run before those.
            landed.make_ready();
        }
        if !messages.is_empty() {
            self.read_landed(messages);
        }
        landed
    }

    /// As [`Hub::land`], for the loop, which resumes it at once: the task, or who else is to run then.
    #[inline(always)]
    fn land_to_run(&self, task: Afloat) -> Option<NonNull<Task>> {
        debug_assert_eq!(self.waiting_for_unwound.get(), 0, "those are ready, and go first");
        match task.land(self.home) {
            Ok(task) => {
                let landed = self.adopt(task);
                self.alive(landed).local.state.set(State::Ready);
                Some(landed)
            }
            Err(task) => self.land_and_read(task),
        }
    }

    #[cold]
    fn land_and_read(&self, task: Afloat) -> Option<NonNull<Task>> {
        self.land(task);
        // It is the first, unless what was read has done something with others.
        self.home.ready().pop_front()
    }

    /// Reads what has come for a task before it had a hub. What is dropped with that may be the user's, so nothing may wait meanwhile.
    #[cold]
    fn read_landed(&self, messages: Vec<Message>) {
        let read = || messages.into_iter().for_each(|message| self.read(message));
        if self.refuses_to_suspend() { read() } else { self.in_loop(read) }
    }

    /// A task to be started, if there is one: own, injected, or stolen. To be called when no other is ready.
    #[inline]
    pub(super) fn take_work(&self) -> Option<NonNull<Task>> {
        let member = self.member()?;
        let task = member.queue.pop().or_else(|| self.search(member))?;
        self.land_to_run(task)
    }

    /// Starts a task if there is one, and then those of its own queue, before those that become ready meanwhile, until the clock is to be looked at. `Some`: it
    /// has, and gives the target of a switch, if the last one switches to somebody.
    ///
    /// Were only one started, whoever waits for a thousand one after the other would be resumed between any two.
    #[cold]
    #[inline(never)]
    pub(super) fn start_work(&self) -> Option<Option<NonNull<Task>>> {
        let mut task = self.take_work()?;
        loop {
            let target = self.resume(task);
            if target.is_some() || self.home.countdown() == 0 {
                return Some(target);
            }
            let Some(next) = self.member().and_then(|member| member.queue.pop()) else { return Some(None) };
            self.home.set_countdown(self.home.countdown() - 1);
            let Some(next) = self.land_to_run(next) else { return Some(None) };
            task = next;
        }
    }

    fn search(&self, member: &Member) -> Option<Afloat> {
        if !member.team.has_work() || !member.sees_what_to_take(self) {
            return None;
        }
        member.team.idle.begin_search();
        let found = self.look(member);
        member.end_search();
        match found {
            Found::Task(task) => Some(task),
            Found::InGoodHands | Found::Nothing => None,
        }
    }

    /// Looks into the queues of the others, as one that searches.
    fn look(&self, member: &Member) -> Found {
        let team = &member.team;
        let task = until_decided(|| team.injector.steal_batch_and_pop(&member.queue)).or_else(|| {
            let victim = member.find_slow(self)?;
            until_decided(|| team.members[victim].stealer.steal_batch_and_pop(&member.queue))
        });
        match task {
            Some(task) => Found::Task(task),
            None if team.has_work() => Found::InGoodHands,
            None => Found::Nothing,
        }
    }

    /// To be called now and then, while others are ready all the time: starts the first of what waits.
    pub(super) fn start_one(&self) {
        let Some(member) = self.member() else { return };
        if let Some(task) = member.queue.pop().or_else(|| until_decided(|| member.team.injector.steal())) {
            self.land(task);
        }
    }

    /// Whether there is work for this hub.
    pub(super) fn sees_work(&self) -> bool {
        self.member().is_some_and(|member| member.sees_what_to_take(self))
    }

    /// The hub is about to sleep. `false`: there is work.
    pub(super) fn may_sleep(&self) -> bool {
        let Some(member) = self.member().filter(|member| !member.watches.get()) else { return true };
        let idle = &member.team.idle;
        idle.fall_asleep(member.index);
        if !member.team.has_work() {
            return true;
        }
        if !idle.wake_up(member.index) {
            idle.begin_search();
        }
        match self.look(member) {
            Found::Task(task) => {
                member.end_search();
                self.land(task);
            }
            Found::InGoodHands => member.watches.set(true),
            Found::Nothing => member.end_search(),
        }
        member.watches.get()
    }

    /// How long the hub may sleep, if it is to be so long at most otherwise.
    pub(super) fn sleep_limit(&self, limit: Option<Duration>) -> Option<Duration> {
        match self.member() {
            Some(member) if member.watches.get() => Some(limit.map_or(WATCH, |limit| limit.min(WATCH))),
            _ => limit,
        }
    }

    /// The hub does not sleep any more.
    pub(super) fn has_slept(&self) {
        let Some(member) = self.member() else { return };
        let has_watched = member.watches.get();
        if !has_watched && !member.team.idle.wake_up(member.index) {
            return;
        }
        let found = self.look(member);
        // Woken for what is done already, it watches for a while: or each push would wake it anew.
        member.watches.set(match &found {
            Found::Task(_) => false,
            Found::InGoodHands => true,
            Found::Nothing => !has_watched,
        });
        if !member.watches.get() {
            member.end_search();
        }
        if let Found::Task(task) = found {
            self.land(task);
        }
    }

    /// Before greenlets run: who runs them does not watch.
    #[inline]
    pub(super) fn watch_no_more(&self) {
        if let Some(member) = self.member()
            && member.watches.get()
            && !self.home.ready().is_empty()
        {
            member.watches.set(false);
            member.end_search();
        }
    }
}
