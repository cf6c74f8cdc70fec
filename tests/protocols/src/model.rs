//! How a check is run, in both forms.

#[cfg(feature = "loom")]
pub(crate) use self::exhaustive::*;
#[cfg(not(feature = "loom"))]
pub(crate) use self::sampled::*;

#[cfg(feature = "loom")]
mod exhaustive {
    pub(crate) use loom::{thread, thread_local};

    /// Runs it in every order in which no thread is interrupted more than so often, where a number is given; else in every order.
    pub(crate) fn check(preemptions: Option<usize>, f: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        model.max_branches = 10_000;
        let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = std::sync::Arc::clone(&runs);
        let started = std::time::Instant::now();
        model.check(move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            crate::seen::stock_up();
            f();
        });
        println!("{} orders in {:?}", runs.load(std::sync::atomic::Ordering::Relaxed), started.elapsed());
    }
}

#[cfg(not(feature = "loom"))]
mod sampled {
    pub(crate) use std::{thread, thread_local};

    pub(crate) fn check(_: Option<usize>, f: impl Fn() + Send + Sync + 'static) {
        for _ in 0..if cfg!(miri) { 16 } else { 500 } {
            f();
        }
    }
}
