//! Sleeping.

use std::time::Duration;

use libc::{c_int, c_uint, clockid_t, timespec, useconds_t};

use super::{fail, originals as real, table};
use crate::hub::Hub;
use crate::hub::foreign::Verdict;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::{Handlers, Reason};

const SLEEP: Reason = Reason::new("sleep");
const PAUSE: Reason = Reason::new("a signal");

pub(super) fn duration(time: &timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub(super) fn is_valid(time: &timespec) -> bool {
    time.tv_sec >= 0 && (0..1_000_000_000).contains(&time.tv_nsec)
}

/// How long it is until that time by that clock.
pub(super) fn left_until(clock: clockid_t, time: &timespec) -> Duration {
    let mut now = timespec(Duration::ZERO);
    // SAFETY: a valid place.
    unsafe { libc::clock_gettime(clock, &mut now) };
    duration(time).saturating_sub(duration(&now))
}

/// When a call of pthread's has to be done. `Err`: what it returns for a time or a clock that it does not take.
pub(super) fn deadline(hub: &Hub, clock: clockid_t, time: &timespec) -> Result<Nanos, c_int> {
    let is_valid = (0..1_000_000_000).contains(&time.tv_nsec)
        && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC);
    if is_valid { Ok(hub.deadline(left_until(clock, time))) } else { Err(libc::EINVAL) }
}

/// `Err`: it has ended before, with so much left.
///
/// If something is pending against the greenlet, that is nothing, since whoever sleeps again for the rest, as
/// std does, would never be done.
fn sleep_until(hub: &Hub, deadline: Nanos) -> Result<(), Duration> {
    loop {
        match hub.park_foreign(SLEEP, deadline, Handlers::All) {
            Verdict::TimedOut => return Ok(()),
            Verdict::Woken => {}
            Verdict::Expired | Verdict::Killed => return Err(Duration::ZERO),
            Verdict::Interrupted => {
                return Err(Duration::from_nanos(deadline.saturating_sub(hub.read_clock())));
            }
        }
    }
}

fn timespec(time: Duration) -> timespec {
    timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() }
}

/// Sleeps, and tells what is left if that ends before its time.
unsafe fn sleep_for(hub: &Hub, time: &timespec, rest: *mut timespec) -> Result<(), c_int> {
    sleep_until(hub, hub.deadline(duration(time))).map_err(|left| {
        // SAFETY: the caller's pointer, valid or null.
        if let Some(rest) = unsafe { rest.as_mut() } {
            *rest = timespec(left);
        }
        libc::EINTR
    })
}

pub(super) unsafe fn nanosleep(hub: &Hub, request: *const timespec, rest: *mut timespec) -> c_int {
    // SAFETY: the caller's pointers: the first one valid, the second one valid or null.
    unsafe {
        let time = *request;
        if !is_valid(&time) {
            return fail(libc::EINVAL);
        }
        sleep_for(hub, &time, rest).map_or_else(fail, |()| 0)
    }
}

pub(super) unsafe fn clock_nanosleep(
    hub: &Hub,
    clock: clockid_t,
    flags: c_int,
    request: *const timespec,
    rest: *mut timespec,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        if !matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME) {
            return real::clock_nanosleep(clock, flags, request, rest);
        }
        let time = *request;
        if !is_valid(&time) {
            return libc::EINVAL;
        }
        if flags & libc::TIMER_ABSTIME == 0 {
            return sleep_for(hub, &time, rest).err().unwrap_or(0);
        }
        // Looked at again after each sleep: the clock may have been set, or (under a virtual clock) stand still.
        loop {
            let left = left_until(clock, &time);
            if left.is_zero() {
                return 0;
            }
            match sleep_until(hub, hub.deadline(left)) {
                Ok(()) => {}
                // Who sleeps until an instant sleeps again if it is told that it was woken early. So of what
                // is pending it is told nothing.
                Err(Duration::ZERO) => return 0,
                Err(_) => return libc::EINTR,
            }
        }
    }
}

pub(super) unsafe fn sleep(hub: &Hub, seconds: c_uint) -> c_uint {
    match sleep_until(hub, hub.deadline(Duration::from_secs(seconds.into()))) {
        Ok(()) => 0,
        Err(left) => left.as_secs() as c_uint,
    }
}

pub(super) unsafe fn usleep(hub: &Hub, micros: useconds_t) -> c_int {
    match sleep_until(hub, hub.deadline(Duration::from_micros(micros.into()))) {
        Ok(()) => 0,
        Err(_) => fail(libc::EINTR),
    }
}

pub(super) unsafe fn pause(hub: &Hub) -> c_int {
    // A signal may come at any time, so this is no deadlock.
    let _outside = hub.outside_wait();
    let error = loop {
        match table::answer(hub.park_foreign(PAUSE, NEVER, Handlers::All)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    fail(error)
}

pub(super) unsafe fn sched_yield(hub: &Hub) -> c_int {
    let is_alone = hub.home.ready().is_empty();
    hub.yield_foreign();
    // Then it is for another thread, who has what this one spins for.
    // SAFETY: takes nothing.
    if is_alone { unsafe { real::sched_yield() } } else { 0 }
}
