//! `syscall(SYS_futex, ..)`: what std's locks, conditions and parked threads wait by.
//!
//! A greenlet that waits stands in a table by the address of the word; an OS thread waits in the kernel. Who
//! wakes looks into the table, and asks the kernel only if a thread went there. That the word still has the
//! value is looked at under the lock of the table, under which who wakes looks for waiters after having
//! changed the word: so no wake is lost.
//!
//! A kill does not end such a wait for good: std's locks wait again until they have what they want, and cannot be
//! told. The wait returns once, for those who look at something else, too; from then on the greenlet really
//! waits, and the kill stays pending.
//!
//! A wait for a word that is in the thread's own storage, and not std's, is by a crate with one place per OS thread in
//! its queues (`parking_lot`). A second greenlet of the thread would come to the same place before it comes here. So
//! such a wait blocks the thread: then no other greenlet of it can come there.
//!
//! A futex that is not private may be in memory that another process has, too. So a wake asks the kernel in any case;
//! and a greenlet that waits looks again after a moment, and after some of those returns for nothing, as the kernel
//! may: it is the caller who knows whether it was meant.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering, fence};
use std::time::Duration;

use libc::{c_int, c_long, timespec};

use super::parker::{self, PARKED};
use super::waiters::{self, Taken, bucket, is_of_table, wait_in_table};
use super::{Parts, errno, gate, originals as real, set_errno, storage, time};
use crate::hub::Hub;
use crate::sys;
use crate::sys::clock::{NEVER, Nanos};
use crate::task::Waker;

/// `syscall`, whatever it is about.
///
/// # Safety
///
/// As the system call's.
pub(super) unsafe fn syscall(number: c_long, args: [c_long; 6]) -> c_long {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's arguments, here and below.
    unsafe {
        if number == libc::SYS_futex {
            return futex(a as *const AtomicI32, b as c_int, c as i32, d as *const timespec, [d, e, f]);
        }
        real::syscall(number, a, b, c, d, e, f)
    }
}

unsafe fn futex(
    word: *const AtomicI32,
    operation: c_int,
    value: i32,
    timeout: *const timespec,
    rest: [c_long; 3],
) -> c_long {
    let [d, _, f] = rest;
    let address = word as usize;
    let is_shared = operation & libc::FUTEX_PRIVATE_FLAG == 0;
    // SAFETY: the caller's arguments; or a wake of another number, or a wait with another limit.
    let call = |value: i32, d: c_long| unsafe {
        let [_, e, f] = rest;
        let (address, operation, value) = (address as c_long, operation.into(), value.into());
        real::syscall(libc::SYS_futex, address, operation, value, d, e, f)
    };
    let kernel = |value| call(value, d);
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        wait @ (libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET) => {
            parker::note(address, value);
            let absolute = wait == libc::FUTEX_WAIT_BITSET;
            let bits = if absolute { f as u32 } else { u32::MAX };
            match gate::gate(Parts::LOCKS) {
                // All of std's are absolute.
                Some(hub) if !absolute && storage::is_own(address) => {
                    // SAFETY: the caller's pointer: valid, or null.
                    let timeout = unsafe { timeout.as_ref() };
                    wait_as_thread(hub, timeout, |limit| {
                        let limit = limit.map_or(0, |limit| std::ptr::from_ref(limit) as c_long);
                        counted(address, || call(value, limit))
                    })
                }
                Some(hub) => {
                    // SAFETY: the caller's pointer: valid, or null.
                    let deadline = deadline(hub, unsafe { timeout.as_ref() }, absolute, operation);
                    let result = match value == PARKED && Some(address) == parker::parker() {
                        // SAFETY: the word is this thread's parker's.
                        true => parker::park(hub, unsafe { &*word }, deadline),
                        // SAFETY: the caller's word.
                        false if is_shared => wait_shared(hub, unsafe { &*word }, value, deadline, bits),
                        // SAFETY: as above.
                        false => wait_here(hub, unsafe { &*word }, value, deadline, bits),
                    };
                    match result {
                        Ok(()) => 0,
                        Err(error) => {
                            set_errno(error);
                            -1
                        }
                    }
                }
                None => counted(address, || kernel(value)),
            }
        }
        wake @ (libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET) => {
            // For the table's own locks only threads wait; and there the table is not to be locked.
            if !gate::is_patched(Parts::LOCKS) || waiters::are_locked_for_fork() || is_of_table(address) {
                return kernel(value);
            }
            let bits = if wake == libc::FUTEX_WAKE_BITSET { f as u32 } else { u32::MAX };
            let wanted = value.max(0) as usize;
            let threads = |count| kernel(i32::try_from(count).unwrap_or(i32::MAX)).max(0) as usize;
            wake_here(address, wanted, bits, is_shared, threads) as c_long
        }
        _ => kernel(value),
    }
}

/// A wait in the kernel, of which those know who wake.
fn counted(address: usize, wait: impl FnOnce() -> c_long) -> c_long {
    let bucket = bucket(address);
    bucket.threads.fetch_add(1, Ordering::SeqCst);
    let result = wait();
    let error = errno();
    bucket.threads.fetch_sub(1, Ordering::SeqCst);
    set_errno(error);
    result
}

/// Waits in the kernel on behalf of a greenlet, and says so if that takes long. Returns for nothing then, as the
/// kernel may.
fn wait_as_thread(
    hub: &Hub,
    timeout: Option<&timespec>,
    wait: impl FnOnce(Option<&timespec>) -> c_long,
) -> c_long {
    const LONG: timespec = timespec { tv_sec: 1, tv_nsec: 0 };
    let is_short = |time: &&timespec| !time::is_valid(time) || time::duration(time) <= time::duration(&LONG);
    if let Some(short) = timeout.filter(is_short) {
        return wait(Some(short));
    }
    let result = wait(Some(&LONG));
    if result != -1 || errno() != libc::ETIMEDOUT {
        return result;
    }
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        say_that_it_blocks(hub);
    }
    0
}

#[cold]
fn say_that_it_blocks(hub: &Hub) {
    let task = hub.current();
    let who = match &task.shared.name {
        _ if hub.is_main(task) => "main".to_owned(),
        Some(name) => format!("greenlet `{name}`, spawned at {},", task.shared.spawned_at),
        None => format!("a greenlet, spawned at {},", task.shared.spawned_at),
    };
    let text = format!(
        "switchgrass: {who} has waited for a second for a lock that has one place per OS thread in its queue (as \
         `parking_lot`'s have), and blocks its thread meanwhile. If only another greenlet of this thread can end \
         that, it never ends. Use std's locks, which wait for their greenlet, or `monkey::no_switch` around what \
         holds the lock.\n"
    );
    sys::write_stderr(text.as_bytes());
}

fn deadline(hub: &Hub, timeout: Option<&timespec>, absolute: bool, operation: c_int) -> Nanos {
    let Some(timeout) = timeout else { return NEVER };
    hub.deadline(match absolute {
        false => time::duration(timeout),
        true if operation & libc::FUTEX_CLOCK_REALTIME != 0 => {
            time::left_until(libc::CLOCK_REALTIME, timeout)
        }
        true => time::left_until(libc::CLOCK_MONOTONIC, timeout),
    })
}

/// Waits in the table, if the word has the value.
fn wait_here(hub: &Hub, word: &AtomicI32, value: i32, deadline: Nanos, bits: u32) -> Result<(), i32> {
    let address = word.as_ptr() as usize;
    let bucket = bucket(address);
    let number = {
        let mut greenlets = bucket.greenlets.lock();
        if word.load(Ordering::SeqCst) != value {
            return Err(libc::EAGAIN);
        }
        bucket.add(&mut greenlets, hub, address, bits, false)
    };
    match wait_in_table(hub, bucket, number, address, deadline) {
        // std waits again at once if it is told of a signal, and its caller sees nothing. A wake for nothing is
        // seen by who waits for a condition.
        Err(libc::EINTR) => Ok(()),
        result => result,
    }
}

/// As [`wait_here`], of a word that another process may have changed, or have woken somebody by.
fn wait_shared(hub: &Hub, word: &AtomicI32, value: i32, deadline: Nanos, bits: u32) -> Result<(), i32> {
    for (count, pause) in [1, 2, 5, 10, 20].into_iter().enumerate() {
        let until = deadline.min(hub.deadline(Duration::from_millis(pause)));
        match wait_here(hub, word, value, until, bits) {
            Err(libc::ETIMEDOUT) if until < deadline => {}
            // It was still the same when this began.
            Err(libc::EAGAIN) if count > 0 => return Ok(()),
            result => return result,
        }
    }
    Ok(())
}

/// Wakes up to so many: greenlets and threads by turns, where both wait.
fn wake_here(
    address: usize,
    wanted: usize,
    bits: u32,
    is_shared: bool,
    kernel: impl Fn(usize) -> usize,
) -> usize {
    let bucket = bucket(address);
    // The word was changed before this; who is about to wait is counted before the word is looked at.
    fence(Ordering::SeqCst);
    let mut woken = 0;
    let threads = is_shared || bucket.threads.load(Ordering::SeqCst) > 0;
    // A thread that forks has locked the bucket, and may be who is to be woken: it waits for the next
    // lock, which is being let go here.
    let is_locked = threads && bucket.greenlets.try_lock().is_none();
    let threads_first = threads && (is_locked || bucket.turn.fetch_add(1, Ordering::Relaxed) % 2 == 1);
    if threads_first {
        woken += kernel(wanted);
    }
    if woken < wanted {
        let Taken { wakers, parked } = bucket.take(address, wanted - woken, bits);
        wakers.iter().for_each(Waker::wake);
        if threads && !threads_first && (parked || wakers.len() < wanted) {
            kernel(if parked { wanted } else { wanted - wakers.len() });
        }
        woken += wakers.len();
        if let [waker] = &wakers[..]
            && !parked
            && waker.is_here()
            && let Some(hub) = gate::gate(Parts::LOCKS)
        {
            // Its turn now. std's locks are not handed over: a greenlet that takes one again between two of its waits
            // would keep it from the others for good. And who finds a lock that was taken without a wait spins for a
            // microsecond, which cannot help on the same thread.
            hub.yield_foreign();
        }
    }
    woken
}
