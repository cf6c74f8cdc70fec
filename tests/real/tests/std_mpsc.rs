//! std's `mpsc`, between greenlets and threads.
//!
//! Note: Between greenlets, `switchgrass::channel` and `switchgrass::queue` do.

#![allow(clippy::disallowed_methods, reason = "what they are about: calls that block")]

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use switchgrass::{joinall_timeout, spawn};

const COUNT: u32 = 1000;

#[test]
fn fifty_greenlets_receive_from_threads_at_once() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..50).map(|_| mpsc::channel()).unzip();
    let receivers = std::rc::Rc::new(receivers);
    let (all_wait, go) = mpsc::channel();
    let sends = thread::spawn(move || {
        // Only when all of them wait.
        go.recv().unwrap();
        for number in 0..COUNT {
            senders.iter().for_each(|sender| sender.send(number).unwrap());
        }
    });
    let greenlets: Vec<_> = (0..50)
        .map(|number| {
            let receivers = std::rc::Rc::clone(&receivers);
            spawn(move || assert!(receivers[number].iter().eq(0..COUNT)))
        })
        .collect();
    real::all(1, move |_| all_wait.send(()).unwrap());
    greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
    sends.join().unwrap();
}

#[test]
fn a_full_channel_has_greenlets_wait_for_a_thread() {
    real::patched();
    let (sender, receiver) = mpsc::sync_channel(1);
    let receives = thread::spawn(move || receiver.iter().sum::<u32>());
    real::all(10, move |_| (0..COUNT).for_each(|number| sender.send(number).unwrap()));
    assert_eq!(receives.join().unwrap(), 10 * COUNT * (COUNT - 1) / 2);
}

real::limits! {
    "std wakes nobody who waits on the sender's own thread (`try_select` in `std/src/sync/mpmc/waker.rs`)"
    fn a_receiver_is_not_woken_by_a_greenlet_of_its_thread() {
        real::patched();
        let (sender, receiver) = mpsc::channel();
        let receives = spawn(move || receiver.recv().unwrap());
        thread::sleep(Duration::from_millis(1));
        sender.send(1).unwrap();
        assert!(!joinall_timeout([&receives], Duration::from_millis(1500)));
        // The end of the last sender is told to all.
        drop(sender);
        assert_eq!(receives.join().unwrap(), 1);
    }

    "for the same reason"
    fn two_greenlets_of_a_thread_do_not_meet_at_a_rendezvous() {
        real::patched();
        let (sender, receiver) = mpsc::sync_channel(0);
        let sends = spawn(move || sender.send(1));
        thread::sleep(Duration::from_millis(1));
        assert_eq!(receiver.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        drop(receiver);
        assert!(sends.join().unwrap().is_err());
    }
}
