//! What a hub does when nothing is ready: looks at I/O, and sleeps until something comes.

#![forbid(unsafe_code)]

use std::cell::RefMut;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{Deadlock, Hub, Poller};
use crate::sys;
use crate::sys::clock::{self, Nanos};

/// After so long without an event, memory that was kept for the next tasks goes back to the system …
const QUIET: Duration = Duration::from_millis(10);
/// … of so many stacks at a time: less than a millisecond's work.
const STACKS_SWEPT_IDLE: usize = 1024;
/// A busy hub sweeps so many per turn: less than one part in a hundred of its time.
const STACKS_SWEPT_BUSY: usize = 8;
/// A hub that only another thread could wake looks whether there is another thread: when nothing has come for a moment,
/// for a look costs as much as some messages …
const MOMENT: Duration = Duration::from_millis(1);
/// … and then so often.
const LONELY_CHECK: Duration = Duration::from_secs(1);

/// Before it sleeps, a hub gives way once to whoever waits for its core, for that may be who makes work for it: a client, the
/// other end of a channel. What comes meanwhile needs no wake, which costs both sides more, above all when a core has gone idle.
/// (An echo server of two hubs with 64 connections slept 15,000 times a second without that, 3,000 times with it.)
/// Yet who computes keeps the core for a whole slice of time, while the kernel would have given it back for an event: longer
/// than this, it was in vain …
const DEAR: Duration = Duration::from_millis(1);
/// … if not wholly, for who computes was to have the core some time. One part in so many counts: at most a thirteenth of the hub's time goes so.
const PART_OF_DEAR: Nanos = 8;
// A hub that waits for nothing but mail looks up after a moment, and is to give way before that.
const _: () = assert!(DEAR.as_nanos() <= MOMENT.as_nanos());
/// Then it looks out for mail, for about as long as it costs to sleep and to be woken. It does not look
/// all the time: two hubs that talk would do so word by word, and their caches with them. Meanwhile the other one fills
/// a channel, say, which is then emptied at one go. (Two hubs with a channel of 128: 2 million messages a second
/// without that, 20 with it; 1.5 if it looks for 10 µs, here, where a sleep costs more.)
const LOOKS: u64 = 20;
const BETWEEN_LOOKS: Nanos = 2_000;

/// With one core, who is to send the mail runs only when this hub does not.
///
/// No `LazyLock`: a child that was forked while another thread is asking would wait for that one for ever. To ask twice does no harm.
fn has_several_cores() -> bool {
    static CORES: AtomicUsize = AtomicUsize::new(0);
    let mut cores = CORES.load(Ordering::Relaxed);
    if cores == 0 {
        cores = thread::available_parallelism().map_or(1, usize::from);
        CORES.store(cores, Ordering::Relaxed);
    }
    cores > 1
}

impl Hub {
    /// Looks at I/O: without waiting if something is ready, else until the next deadline.
    pub(super) fn wait_for_events(&self) -> Result<(), Deadlock> {
        self.around_events(true);
        let waited = self.wait_for_events_or_fail();
        self.around_events(false);
        waited
    }

    #[inline]
    fn around_events(&self, before: bool) {
        #[cfg(feature = "monkey")]
        {
            self.is_of_this_process();
            self.look_for_signals();
        }
        #[cfg(feature = "monkey")]
        if let Some(look) = self.around_events.get() {
            look(before);
        }
        #[cfg(not(feature = "monkey"))]
        let _ = before;
    }

    fn wait_for_events_or_fail(&self) -> Result<(), Deadlock> {
        if !self.home.ready().is_empty() || self.home.inbox().has_mail() {
            if self.has_sources() {
                self.poll(Some(Duration::ZERO));
            }
            self.tidy_up_a_little();
            return Ok(());
        }
        let timeout = match self.timers.borrow_mut().next_deadline() {
            Some(deadline) => Some(Duration::from_nanos(deadline.saturating_sub(self.read_clock()))),
            None if self.outside_waits.get() > 0 => None,
            None if !self.lonely.get() => Some(MOMENT),
            None if self.another_thread_may_wake_us() => Some(LONELY_CHECK),
            // Whoever could have woken us may have done so just now, and gone.
            None if self.home.inbox().has_mail() => return Ok(()),
            // A signal that has come already is still to be handled, though nobody may wait for the next one.
            None if self.has_sources() => {
                self.poll(Some(Duration::ZERO));
                return if self.home.ready().is_empty() { Err(Deadlock) } else { Ok(()) };
            }
            None => return Err(Deadlock),
        };
        if timeout == Some(Duration::ZERO) {
            // A deadline has passed. Yet I/O has its turn, or short sleeps would starve it.
            if self.has_sources() {
                self.poll(timeout);
            }
            return Ok(());
        }
        if self.virtual_now.get().is_some() && self.jump_to_next_deadline() {
            return Ok(());
        }
        // First, for who finds the hub asleep must find the alarm set.
        drop(self.poller());
        let untidy = self.stacks.borrow().has_dirt(false) || self.home.keeps_much();
        let may_be_quiet = untidy && timeout.is_none_or(|timeout| timeout > QUIET);
        let mut polled = false;
        if !(timeout.is_none_or(|timeout| timeout >= DEAR) && self.something_comes_soon()) && self.may_sleep()
        {
            if self.home.inbox().fall_asleep() {
                polled = true;
                self.poll(self.sleep_limit(if may_be_quiet { Some(QUIET) } else { timeout }));
                self.home.inbox().wake_up();
                self.woken_by_mail.set(self.home.inbox().has_mail());
            }
            self.has_slept();
        }
        self.lonely.set(self.home.ready().is_empty() && !self.home.inbox().has_mail());
        // If it has not even slept, there is work of its team, and it is not quiet at all.
        if polled && may_be_quiet && self.lonely.get() {
            self.stacks.borrow_mut().sweep(STACKS_SWEPT_IDLE);
            self.home.trim();
        } else {
            self.tidy_up_a_little();
        }
        Ok(())
    }

    /// Puts the sleep off a little: gives way once and looks at I/O, and looks out for mail if it was mail that ended the last sleep.
    /// `true`: something has come.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the loop: no greenlet is to give way, but the OS thread"
    )]
    fn something_comes_soon(&self) -> bool {
        let (for_mail, for_events) = (self.woken_by_mail.get() && has_several_cores(), self.has_sources());
        let (mut vigil, began) = (self.vigil.get(), clock::now());
        if !(for_mail || for_events) || !vigil.is_due(began) {
            return false;
        }
        thread::yield_now();
        let was_dear = clock::now() > clock::after(began, DEAR);
        if for_events {
            self.poll(Some(Duration::ZERO));
        }
        let events = !self.home.ready().is_empty();
        // If giving way took longer than the first look was to take, the mail is there.
        let mail = for_mail
            && !events
            && (1..=LOOKS).any(|look| {
                while clock::now() < began + look * BETWEEN_LOOKS {
                    std::hint::spin_loop();
                }
                self.home.inbox().has_mail() || self.sees_work()
            });
        let now = clock::now();
        if was_dear && !mail {
            vigil.was_in_vain(now, (now - began) / PART_OF_DEAR);
        } else if mail || events {
            vigil.has_saved_a_sleep();
        } else {
            vigil.was_in_vain(now, now - began);
        }
        self.vigil.set(vigil);
        mail || events
    }

    /// Gives some of the memory back that is kept for the next tasks, if it is very much.
    pub(super) fn tidy_up_a_little(&self) {
        if self.stacks.borrow().has_dirt(true) {
            self.stacks.borrow_mut().sweep(STACKS_SWEPT_BUSY);
        }
    }

    fn has_sources(&self) -> bool {
        self.poller.borrow().as_ref().is_some_and(Poller::has_sources)
    }

    pub(super) fn poll(&self, timeout: Option<Duration>) {
        self.home.meter.polls.add(1);
        let began = if self.recorder.is_on() { Some(clock::now()) } else { None };
        if let Err(error) = self.poller().poll(timeout) {
            sys::abort(&format!("waiting for events failed: {error}"));
        }
        if let Some(began) = began {
            self.record_poll(began, timeout != Some(Duration::ZERO));
        }
    }

    /// Waits for a message from another thread, and for nothing else.
    pub(super) fn sleep_until_mail(&self) {
        // First, for who finds the hub asleep must find the alarm set.
        drop(self.poller());
        if self.home.inbox().fall_asleep() {
            self.poll(None);
            self.home.inbox().wake_up();
        }
    }

    pub(super) fn poller(&self) -> RefMut<'_, Poller> {
        RefMut::map(self.poller.borrow_mut(), |slot| {
            self.open_poller(slot).unwrap_or_else(|error| {
                // Without its poller the hub can neither wait nor be woken; nobody could handle that.
                sys::abort(&format!("cannot wait for events: {error} (each thread that waits needs two descriptors: see `ulimit -n`)"))
            })
        })
    }

    pub(super) fn open_poller<'a>(&self, slot: &'a mut Option<Poller>) -> io::Result<&'a mut Poller> {
        if slot.is_none() {
            let poller = Poller::new()?;
            self.home.set_alarm(poller.alarm()?, poller.as_raw_fd());
            *slot = Some(poller);
        }
        Ok(slot.as_mut().expect("it was just opened"))
    }
}
