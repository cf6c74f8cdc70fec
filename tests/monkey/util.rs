//! What the tests share.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchgrass::{joinall, spawn};

/// Patches everything, once.
pub(crate) fn patched() {
    static ONCE: Once = Once::new();
    // SAFETY: nothing in these tests keeps anything per thread over a call that blocks.
    ONCE.call_once(|| unsafe { switchgrass::monkey::patch_all() });
    time_limit();
}

/// Catches a hang.
fn time_limit() {
    const LIMIT: Duration = Duration::from_secs(120);
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(LIMIT);
            eprintln!("the tests hang");
            std::process::abort();
        });
    });
}

/// How many are inside at once, at most.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Overlap {
    /// Counts a call as one that goes on.
    pub(crate) fn during<R>(&self, f: impl FnOnce() -> R) -> R {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let result = f();
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Runs `f` in so many greenlets of this thread; all of them must be inside at once.
pub(crate) fn all_at_once(count: usize, f: impl Fn(usize) + Clone + 'static) {
    patched();
    let overlap: &'static Overlap = Box::leak(Box::default());
    let greenlets: Vec<_> = (0..count)
        .map(|number| {
            let f = f.clone();
            spawn(move || overlap.during(|| f(number)))
        })
        .collect();
    joinall(&greenlets);
    for greenlet in greenlets {
        greenlet.join().unwrap();
    }
    assert_eq!(overlap.most(), count, "not all were waiting at once");
}
