//! `src/wait.rs` and its `Claim`, by way of `src/channel`: what is handed over is handed over once, and to one who takes it.

use std::time::Duration;

use super::{as_task, green};
use crate::channel::{Receiver, bounded};
use crate::model::{check, thread};
use crate::select;

const SOON: Duration = Duration::from_secs(1);

/// What is left in a channel.
fn left(channel: &Receiver<u32>) -> Vec<u32> {
    channel.try_iter().collect()
}

#[test]
fn a_message_goes_to_one_of_two() {
    check(Some(3), || {
        let (tx, rx) = bounded(1);
        let receivers = [(); 2].map(|()| {
            let rx = rx.clone();
            green(move || rx.recv().ok())
        });
        tx.try_send(1).unwrap();
        drop(tx);
        let mut got: Vec<_> = receivers.into_iter().filter_map(|receiver| receiver.join().unwrap()).collect();
        got.extend(left(&rx));
        assert_eq!(got, [1]);
    });
}

#[test]
fn a_message_is_received_or_stays_when_the_deadline_comes() {
    check(Some(4), || {
        let (tx, rx) = bounded(1);
        let receiver = {
            let rx = rx.clone();
            green(move || rx.recv_timeout(SOON).ok())
        };
        receiver.task.expire();
        tx.try_send(1).unwrap();
        let mut got: Vec<_> = receiver.join().unwrap().into_iter().collect();
        got.extend(left(&rx));
        assert_eq!(got, [1]);
    });
}

#[test]
fn a_message_stays_when_its_receiver_is_killed() {
    check(Some(4), || {
        let (tx, rx) = bounded(1);
        let receiver = {
            let rx = rx.clone();
            green(move || rx.recv().unwrap())
        };
        tx.try_send(1).unwrap();
        receiver.task.kill();
        let mut got: Vec<_> = receiver.join().into_iter().collect();
        got.extend(left(&rx));
        assert_eq!(got, [1]);
    });
}

#[test]
fn a_rendezvous_is_kept_by_both_or_by_none() {
    check(Some(3), || {
        let (tx, rx) = bounded(0);
        let sender = green(move || tx.send_timeout(1, SOON).is_ok());
        sender.task.expire();
        let received = rx.try_recv().is_ok();
        assert_eq!(sender.join().unwrap(), received);
    });
}

#[test]
fn a_select_takes_one_message_and_leaves_the_other() {
    check(Some(2), || {
        let ((tx1, rx1), (tx2, rx2)) = (bounded(1), bounded(1));
        let senders = [tx1, tx2].map(|tx| thread::spawn(move || tx.try_send(1).unwrap()));
        let selected = as_task(|| {
            select! {
                recv(rx1) -> message => message.unwrap(),
                recv(rx2) -> message => message.unwrap() + 1,
            }
        });
        for sender in senders {
            sender.join().unwrap();
        }
        let rest = (left(&rx1), left(&rx2));
        assert_eq!(rest, if selected == 1 { (vec![], vec![1]) } else { (vec![1], vec![]) });
    });
}

#[test]
fn a_select_that_is_killed_or_comes_too_late_leaves_all_messages() {
    for kill in [true, false] {
        check(Some(3), move || {
            let ((tx1, rx1), (tx2, rx2)) = (bounded(1), bounded(1));
            let selecting = {
                let (rx1, rx2) = (rx1.clone(), rx2.clone());
                green(move || {
                    select! {
                        recv(rx1) -> message => message.unwrap(),
                        recv(rx2) -> message => message.unwrap(),
                        default(SOON) => 0,
                    }
                })
            };
            tx1.try_send(1).unwrap();
            if kill {
                selecting.task.kill();
            } else {
                selecting.task.expire();
            }
            tx2.try_send(2).unwrap();
            let mut got = vec![selecting.join().unwrap_or(0)];
            got.extend(left(&rx1));
            got.extend(left(&rx2));
            assert_eq!(got.iter().sum::<u32>(), 3, "{got:?}");
        });
    }
}
