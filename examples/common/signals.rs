//! Ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use switchgrass::{current, park};

/// Waits for SIGINT or SIGTERM; other greenlets run meanwhile. From the second one on, they end the process at once.
pub(crate) fn wait_for_stop() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stop = Arc::new(AtomicBool::new(false));

    // A greenlet can be woken from any thread.
    let (waiting, stopped) = (current(), Arc::clone(&stop));
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if stopped.swap(true, Ordering::Relaxed) {
                std::process::exit(128 + signal);
            }
            waiting.unpark();
        }
    })?;

    while !stop.load(Ordering::Relaxed) {
        park();
    }
    Ok(())
}

/// For a process whose parent takes care of Ctrl-C, which a terminal sends to both.
pub(crate) fn leave_ctrl_c_to_parent() -> io::Result<()> {
    // Somebody has to handle it, else it ends the process; setting a flag that nobody reads is enough.
    signal_hook::flag::register(SIGINT, Arc::default())?;
    Ok(())
}
