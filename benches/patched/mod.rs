//! Unmodified std code under `monkey`, and what the interposition costs where it does nothing.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use switchgrass::monkey::{self, originals};
use switchgrass::{joinall, spawn};

use super::servers::{address, text};
use super::{Keys, Outcome, check, fail, per};

fn patch() {
    // SAFETY: nothing in this program keeps anything per thread over a call that blocks.
    unsafe { monkey::patch_all() };
}

/// The echo server, with std's types: `servers::echo` with another `use`.
pub(crate) fn echo(keys: &Keys) -> Outcome {
    patch();
    let listener = TcpListener::bind(address(keys)?).map_err(text)?;
    // A greenlet, so that this thread has a hub from the first accept on.
    let accepting = spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.map_err(text)?;
            spawn(move || {
                stream.set_nodelay(true)?;
                let mut buffer = [0; 4096];
                loop {
                    let len = stream.read(&mut buffer)?;
                    if len == 0 {
                        return std::io::Result::Ok(());
                    }
                    stream.write_all(&buffer[..len])?;
                }
            });
        }
        Err("the listener has ended".to_owned())
    });
    accepting.join().unwrap_or_else(|_| Err("the acceptor has panicked".to_owned()))
}

/// What a call costs more that is passed through: a `recv` on no descriptor, which the kernel refuses at once, by our symbol and by libc's own.
///
/// `--mode off`: nothing is patched. `thread`: patched, on a thread without a hub. In turns, and the least difference of the medians.
pub(crate) fn pass_through(keys: &Keys) -> Outcome {
    let n = keys.number("n", 20_000_000);
    match keys.text("mode", "thread").as_str() {
        "off" => {}
        "thread" => patch(),
        other => fail(&format!("--mode is off or thread, not {other}")),
    }
    const ROUND: u64 = 10_000;
    let time = |call: &dyn Fn() -> isize| {
        let start = Instant::now();
        for _ in 0..ROUND {
            assert_eq!(call(), -1);
        }
        start.elapsed()
    };
    let mut buffer = [0_u8];
    let place = buffer.as_mut_ptr();
    let mut ours: Vec<Duration> = Vec::new();
    let mut libcs: Vec<Duration> = Vec::new();
    for _ in 0..(n / ROUND / 2).max(1) {
        // SAFETY: there is no such descriptor, so nothing is written.
        ours.push(time(&|| unsafe { libc::recv(-1, place.cast(), 1, 0) }));
        // SAFETY: as above.
        libcs.push(time(&|| unsafe { originals::recv(-1, place.cast(), 1, 0) }));
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_nanos() as f64 / ROUND as f64
    };
    let (ours, libcs) = (median(&mut ours), median(&mut libcs));
    Ok((ours - libcs, "ns/call", vec![("ours_ns", ours), ("libc_ns", libcs)]))
}

/// std's mutex: `--mode uncontended`, or handed over between two greenlets of one hub.
pub(crate) fn mutex(keys: &Keys) -> Outcome {
    patch();
    let n = keys.number("n", 1_000_000);
    let mutex = Rc::new(std::sync::Mutex::new(0_u64));
    let start = Instant::now();
    match keys.text("mode", "contended").as_str() {
        "uncontended" => {
            for _ in 0..n {
                *mutex.lock().unwrap() += 1;
            }
        }
        "contended" => {
            let changes = Rc::new(Cell::new(0_u64));
            let last = Rc::new(Cell::new(0));
            let greenlets: Vec<_> = (0..2)
                .map(|own| {
                    let (mutex, changes, last) = (Rc::clone(&mutex), Rc::clone(&changes), Rc::clone(&last));
                    spawn(move || {
                        for _ in 0..n / 2 {
                            let mut count = mutex.lock().unwrap();
                            if last.replace(own) != own {
                                changes.set(changes.get() + 1);
                            }
                            *count += 1;
                            // The other one comes, and finds it locked.
                            switchgrass::yield_now();
                        }
                    })
                })
                .collect();
            joinall(&greenlets);
            let elapsed = start.elapsed();
            check("the count", *mutex.lock().unwrap(), n / 2 * 2)?;
            let changes = changes.get();
            return Ok((per(elapsed, n), "ns/lock, yield and unlock", vec![("handed_over", changes as f64)]));
        }
        other => fail(&format!("--mode is uncontended or contended, not {other}")),
    }
    let elapsed = start.elapsed();
    check("the count", *mutex.lock().unwrap(), n)?;
    Ok((per(elapsed, n), "ns/lock and unlock", vec![]))
}
