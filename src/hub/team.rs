//! Hubs that share work before it starts.
//!
//! Each hub of a team has a queue of unstarted tasks, out of which the others may steal; what comes from outside of the team is injected into one that
//! belongs to all. A task that a hub has taken is its own for good (see `task::afloat`).
//!
//! A hub takes one when nothing else of its own is ready, and each time it looks at the clock, so that tasks which yield all the
//! time keep none from starting. It runs at once. What a hub has not taken others can have: so a task that computes for long holds up nobody
//! but those that have started on its hub.
//!
//! Who is woken when there is work: `idle.rs`.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use crossbeam_deque::{Injector, Steal, Stealer, Worker};

use super::Hub;
use super::idle::Idle;
use crate::sys::fork;
use crate::task::{Afloat, GreenletExit, Home, Message, Task};

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
        let member =
            |(index, queue)| Member { team: Arc::clone(&team), index, queue, has_left: Cell::new(false) };
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

    /// Takes a task from what all have, or from another member, the first of which is to be `first`; and puts some more into `queue`.
    fn steal(&self, queue: &Worker<Afloat>, first: usize) -> Option<Afloat> {
        let others = self.members[first..].iter().chain(&self.members[..first]);
        let victims = others.map(|seat| &seat.stealer);
        until_decided(|| self.injector.steal_batch_and_pop(queue)).or_else(|| {
            victims.into_iter().find_map(|victim| until_decided(|| victim.steal_batch_and_pop(queue)))
        })
    }
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
        if !member.team.is_of_this_process() {
            return Err(task);
        }
        if member.has_left.get() {
            // Destructors run here, at the end of the thread. Nobody else would take it.
            self.land(task);
            return Ok(());
        }
        member.queue.push(task);
        member.team.tell_somebody();
        Ok(())
    }

    /// Makes it a task of this hub, which runs next: so nobody who is ready before it can hold it up, now that no other hub can take it.
    pub(crate) fn land(&self, task: Afloat) -> &Task {
        let (task, messages) = task.land(self.home);
        let landed = self.alive(self.adopt(task));
        if std::thread::panicking() {
            // Somebody unwinds, and has another one unwound meanwhile: nobody may run before they have.
            landed.make_ready();
        } else {
            self.run_next(landed);
        }
        if !messages.is_empty() {
            self.read_landed(messages);
        }
        landed
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
        self.land(task);
        self.home.ready().pop_front()
    }

    fn search(&self, member: &Member) -> Option<Afloat> {
        if !member.team.has_work() {
            return None;
        }
        member.team.idle.begin_search();
        self.search_as_chosen(member)
    }

    fn search_as_chosen(&self, member: &Member) -> Option<Afloat> {
        let team = &member.team;
        let found = team.steal(&member.queue, self.any_below(team.size()));
        if team.idle.end_search() && team.has_work() {
            team.tell_somebody();
        }
        found
    }

    /// To be called now and then, while others are ready all the time: starts the first of what waits.
    pub(super) fn start_one(&self) {
        let Some(member) = self.member() else { return };
        if let Some(task) = member.queue.pop().or_else(|| until_decided(|| member.team.injector.steal())) {
            self.land(task);
        }
    }

    /// Whether there is work that nobody has taken.
    pub(super) fn sees_work(&self) -> bool {
        self.member().is_some_and(|member| member.team.has_work())
    }

    /// The hub is about to sleep. `false`: there is work.
    pub(super) fn may_sleep(&self) -> bool {
        let Some(member) = self.member() else { return true };
        member.team.idle.fall_asleep(member.index);
        if !member.team.has_work() {
            return true;
        }
        self.has_slept();
        false
    }

    /// The hub does not sleep any more.
    pub(super) fn has_slept(&self) {
        let Some(member) = self.member() else { return };
        if member.team.idle.wake_up(member.index)
            && let Some(task) = self.search_as_chosen(member)
        {
            self.land(task);
        }
    }
}
