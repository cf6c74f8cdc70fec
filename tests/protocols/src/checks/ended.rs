//! `Ended`, of `src/task/waker.rs`

use std::sync::Arc;

use super::{Count, Place};
use crate::model::{check, thread};
use crate::task::{Call, Ended, Listener};

fn listener(number: u64, told: &Count) -> Listener {
    let told = told.clone();
    Listener::Call(number, Call(Box::new(move || told.more())))
}

#[test]
fn who_listens_is_told_once_or_learns_that_it_has_ended() {
    check(Some(4), || {
        let ended = Arc::new(Ended::new());
        let adders = [1, 2].map(|number| {
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                let told = Count::default();
                let late = ended.add(listener(number, &told)).is_err();
                (told, late)
            })
        });
        ended.set();
        for adder in adders {
            let (told, late) = adder.join().unwrap();
            assert_eq!(told.get() + usize::from(late), 1);
        }
    });
}

#[test]
fn who_takes_its_listener_back_is_not_told() {
    check(None, || {
        let ended = Arc::new(Ended::new());
        let told = [Count::default(), Count::default()];
        for (number, told) in (0..).zip(&told) {
            assert!(ended.add(listener(number, told)).is_ok());
        }
        let setter = {
            let ended = Arc::clone(&ended);
            thread::spawn(move || ended.set())
        };
        let back = ended.remove(|listener| listener.is_number(1));
        setter.join().unwrap();
        assert_eq!(told[0].get(), 1);
        assert_eq!(told[1].get() + usize::from(back.is_some()), 1);
    });
}

#[test]
fn who_sees_the_end_sees_what_was_done_before() {
    check(None, || {
        let shared = Arc::new((Ended::new(), Place::new()));
        let setter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (ended, place) = &*shared;
                place.touch();
                ended.set();
            })
        };
        let (ended, place) = &*shared;
        if ended.is_set() || ended.add(listener(0, &Count::default())).is_err() {
            assert_eq!(place.touch(), 1);
        }
        setter.join().unwrap();
    });
}
