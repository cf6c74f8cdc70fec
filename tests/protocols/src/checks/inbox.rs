//! `src/task/inbox.rs`

use std::sync::Arc;

use super::{Count, Dropped};
use crate::model::{check, thread};
use crate::task::inbox::Inbox;

const HUB: u64 = 7;

/// As the hub does it.
fn read<M>(inbox: &Inbox<M>, count: usize) -> Vec<M> {
    let mut read = Vec::new();
    while read.len() < count {
        if inbox.has_mail() {
            read.extend(inbox.collect());
        } else if inbox.fall_asleep() {
            thread::park();
            inbox.wake_up();
        }
    }
    read
}

#[test]
fn no_message_is_slept_over() {
    check(Some(3), || {
        let inbox = Arc::new(Inbox::new());
        inbox.open(HUB);
        let hub = thread::current();
        let senders = [1, 2].map(|message| {
            let (inbox, hub) = (Arc::clone(&inbox), hub.clone());
            thread::spawn(move || {
                if inbox.post(HUB, message) {
                    hub.unpark();
                }
            })
        });
        let read = read(&inbox, 2);
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(read.iter().sum::<i32>(), 3, "{read:?}");
    });
}

#[test]
fn the_second_message_of_a_sender_is_not_slept_over() {
    check(None, || {
        let inbox = Arc::new(Inbox::new());
        inbox.open(HUB);
        let hub = thread::current();
        let sender = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                for message in [1, 2] {
                    if inbox.post(HUB, message) {
                        hub.unpark();
                    }
                }
            })
        };
        assert_eq!(read(&inbox, 2), [1, 2]);
        sender.join().unwrap();
    });
}

#[test]
fn a_message_for_a_hub_that_goes_is_dropped_once_and_the_next_hub_does_not_get_it() {
    check(None, || {
        let inbox = Arc::new(Inbox::new());
        inbox.open(HUB);
        let drops = Count::default();
        let sender = {
            let (inbox, message) = (Arc::clone(&inbox), Dropped(drops.clone()));
            thread::spawn(move || inbox.post(HUB, message))
        };
        drop(inbox.close());
        inbox.open(HUB + 1);
        // Perhaps it says that the hub is to be woken: that would be for nothing, and do no harm.
        let _ = sender.join().unwrap();
        assert!(inbox.collect().is_empty());
        assert_eq!(drops.get(), 1);
    });
}
