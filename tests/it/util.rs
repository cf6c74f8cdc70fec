//! What the tests share.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchgrass::{GreenletExit, park, testing};

pub(crate) type Payload = Box<dyn Any + Send>;

/// Ends the test process, should it hang. Anew for each test that calls it.
pub(crate) fn time_limit() {
    // SAFETY: alarm takes a number and touches no memory.
    unsafe { libc::alarm(120) };
}

/// Runs `body` in a process of its own, in which nothing else runs. `test`: the full name of the test that calls this.
pub(crate) fn in_child(test: &str, body: impl FnOnce()) {
    in_child_with(test, "", |_| body());
}

/// The same, with an argument for `body`.
pub(crate) fn in_child_with(test: &str, argument: &str, body: impl FnOnce(&str)) {
    const MARK: &str = "SWITCHGRASS_TEST_CHILD";
    if let Ok(argument) = std::env::var(MARK) {
        return body(&argument);
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--test-threads=1", "--nocapture"])
        .env(MARK, argument)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !text.contains("1 passed") {
        // Random coroutines end with nobody who waits for it.
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("is lost: no ancestor")).collect();
        panic!("{}\n{}", output.status, lines.join("\n"));
    }
}

pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Numbers that look random: splitmix64.
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub(crate) fn new() -> Self {
        Log::default()
    }

    pub(crate) fn add(&self, entry: impl Into<String>) {
        self.0.borrow_mut().push(entry.into());
    }

    /// All entries so far, separated by spaces; the log is empty after.
    pub(crate) fn take(&self) -> String {
        self.0.take().join(" ")
    }

    /// Adds `entry` when it is dropped.
    pub(crate) fn on_drop(&self, entry: &'static str) -> OnDrop<impl FnMut() + use<>> {
        let log = self.clone();
        OnDrop(move || log.add(entry))
    }
}

/// Runs the function when it is dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Counts how many of its guards were made and dropped, on whichever thread.
#[derive(Clone, Default)]
pub(crate) struct Drops(Arc<Counts>);

#[derive(Default)]
struct Counts {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

impl Drops {
    pub(crate) fn new() -> Self {
        Drops::default()
    }

    pub(crate) fn guard(&self) -> DropGuard {
        self.0.made.fetch_add(1, Ordering::SeqCst);
        DropGuard(self.clone())
    }

    /// How many were dropped.
    pub(crate) fn count(&self) -> usize {
        self.0.dropped.load(Ordering::SeqCst)
    }

    pub(crate) fn made(&self) -> usize {
        self.0.made.load(Ordering::SeqCst)
    }
}

pub(crate) struct DropGuard(Drops);

impl DropGuard {
    /// One more, which is counted with this one.
    pub(crate) fn another(&self) -> DropGuard {
        self.0.guard()
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// The text of a panic.
pub(crate) fn text(payload: &Payload) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .expect("the payload is a text")
}

/// Whether a join gave the mark of a killed greenlet.
pub(crate) fn is_exit<T>(result: &Result<T, Payload>) -> bool {
    matches!(result, Err(payload) if payload.is::<GreenletExit>())
}

/// Catches what unwinds out of `f`.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Payload> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
}

/// Waits for what never comes.
pub(crate) fn forever() -> ! {
    loop {
        park();
    }
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Long enough never to pass in a test.
pub(crate) const HOUR: Duration = secs(3600);

/// A virtual clock that starts at zero.
pub(crate) struct Clock(Duration);

impl Clock {
    pub(crate) fn start() -> Self {
        testing::virtual_clock();
        Clock(testing::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        testing::now() - self.0
    }
}
