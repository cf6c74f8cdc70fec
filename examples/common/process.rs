//! What the operating system grants a process, and what the process uses.

use std::fs;
use std::time::Duration;

use super::Failure;

/// Raises the soft limit on open descriptors (`ulimit -n`) to the hard one, and gives it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write `limit`, which is plain data. If the second one fails, the third tells what is so.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
    }
    limit.rlim_cur
}

/// As many of the wanted connections as one process may have, at one descriptor each. If that is less, says so.
pub(crate) fn affordable(wanted: usize) -> Result<usize, Failure> {
    /// Standard streams, listeners, epoll, pipes to the other process: fewer than these.
    const SPARE: u64 = 64;
    let limit = raise_descriptor_limit();
    let most = limit.saturating_sub(SPARE);
    if most >= wanted as u64 {
        return Ok(wanted);
    }
    if most == 0 {
        return Err(Failure::new(format!("the limit on open files (ulimit -Hn: {limit}) is too low")));
    }
    say!(
        "The limit on open files (ulimit -Hn: {limit}) is too low for {wanted} connections: going on with {most}."
    );
    Ok(most as usize)
}

/// The resident memory of a process, in bytes; 0 where the system has no /proc to ask.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

/// The time that a process has computed, in user and in kernel mode, to a hundredth of a second; zero where there is no /proc.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15, in ticks of 10 ms. The second, a name in parentheses, may hold anything.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
