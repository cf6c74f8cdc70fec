//! `src/greenlet/result.rs`

use std::sync::Arc;

use super::{Count, Dropped};
use crate::greenlet::Outcome;
use crate::model::{check, thread};
use crate::task::Ended;

#[test]
fn a_result_that_nobody_takes_is_dropped_once() {
    check(None, || {
        let drops = Count::default();
        let outcome = Arc::new(Outcome::new());
        let greenlet = {
            let (outcome, value) = (Arc::clone(&outcome), Dropped(drops.clone()));
            thread::spawn(move || outcome.store(value))
        };
        outcome.detach();
        greenlet.join().unwrap();
        assert_eq!(drops.get(), 1);
    });
}

#[test]
fn each_link_looks_once() {
    check(None, || {
        let (drops, looks) = (Count::default(), Count::default());
        let outcome = Arc::new(Outcome::new());
        let greenlet = {
            let (outcome, value) = (Arc::clone(&outcome), Dropped(drops.clone()));
            thread::spawn(move || outcome.store(value))
        };
        for _ in 0..2 {
            let looks = looks.clone();
            outcome.link(move |result| {
                assert_eq!(result.as_ref().ok().unwrap().0.get(), 0);
                looks.more();
            });
        }
        outcome.detach();
        greenlet.join().unwrap();
        assert_eq!((drops.get(), looks.get()), (1, 2));
    });
}

#[test]
fn who_sees_the_end_takes_the_result() {
    check(None, || {
        let shared = Arc::new((Outcome::new(), Ended::new()));
        let greenlet = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.store(1);
                shared.1.set();
            })
        };
        if shared.1.is_set() {
            assert_eq!(shared.0.take().ok(), Some(1));
        }
        shared.0.detach();
        greenlet.join().unwrap();
    });
}
