//! Sleeping.

use std::time::Duration;

use libc::{c_int, c_uint, clockid_t, timespec, useconds_t};

use super::{fail, originals as real};
use crate::hub::Hub;
use crate::hub::foreign::Verdict;
use crate::sys::clock::Nanos;
use crate::task::Reason;

const SLEEP: Reason = Reason::new("sleep");

pub(super) fn duration(time: &timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub(super) fn is_valid(time: &timespec) -> bool {
    time.tv_sec >= 0 && (0..1_000_000_000).contains(&time.tv_nsec)
}

/// How long it is until that time by that clock.
pub(super) fn left_until(clock: clockid_t, time: &timespec) -> Duration {
    let mut now = NOTHING;
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

/// `false`: something is pending against the greenlet.
fn sleep_until(hub: &Hub, deadline: Nanos) -> bool {
    loop {
        match hub.park_foreign(SLEEP, deadline) {
            Verdict::TimedOut => return true,
            Verdict::Woken => {}
            Verdict::Expired | Verdict::Killed => return false,
        }
    }
}

/// What is left of a sleep that a kill or a timeout has ended: nothing, since whoever sleeps again for the rest, as std does, is never done.
const NOTHING: timespec = timespec { tv_sec: 0, tv_nsec: 0 };

pub(super) unsafe fn nanosleep(hub: &Hub, request: *const timespec, rest: *mut timespec) -> c_int {
    // SAFETY: the caller's pointers: the first one valid, the second one valid or null.
    unsafe {
        let time = *request;
        if !is_valid(&time) {
            return fail(libc::EINVAL);
        }
        if sleep_until(hub, hub.deadline(duration(&time))) {
            return 0;
        }
        if !rest.is_null() {
            *rest = NOTHING;
        }
        fail(libc::EINTR)
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
            if sleep_until(hub, hub.deadline(duration(&time))) {
                return 0;
            }
            if !rest.is_null() {
                *rest = NOTHING;
            }
            return libc::EINTR;
        }
        // Looked at again after each sleep: the clock may have been set, or (under a virtual clock) stand still.
        loop {
            let left = left_until(clock, &time);
            // Who sleeps until an instant sleeps again if it is told that it was woken early. So it is told nothing.
            if left.is_zero() || !sleep_until(hub, hub.deadline(left)) {
                return 0;
            }
        }
    }
}

pub(super) unsafe fn sleep(hub: &Hub, seconds: c_uint) -> c_uint {
    sleep_until(hub, hub.deadline(Duration::from_secs(seconds.into())));
    0
}

pub(super) unsafe fn usleep(hub: &Hub, micros: useconds_t) -> c_int {
    match sleep_until(hub, hub.deadline(Duration::from_micros(micros.into()))) {
        true => 0,
        false => fail(libc::EINTR),
    }
}

pub(super) unsafe fn sched_yield(hub: &Hub) -> c_int {
    hub.yield_foreign();
    0
}
