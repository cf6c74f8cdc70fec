//! std's channels: between a greenlet and another thread as between threads; between greenlets of one thread with a limit.
//!
//! std's `mpsc` never wakes a waiter of its own thread (it takes it for itself, in `std/src/sync/mpmc/waker.rs`). So one greenlet cannot wake another
//! one of its thread from a blocking `recv`: that is what `switchgrass::channel` is for. `tests/monkey_process.rs` has what becomes of one who tries.

use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError, TrySendError};
use std::time::{Duration, Instant};

use switchgrass::spawn;

use crate::util::{let_all_run, patched, waits};

const COUNT: u32 = 1000;

#[test]
fn a_greenlet_receives_what_a_thread_sends_and_others_run_meanwhile() {
    patched();
    let (sender, receiver) = mpsc::channel();
    let all = waits(
        move || receiver.iter().collect::<Vec<u32>>(),
        || std::thread::spawn(move || (0..COUNT).for_each(|n| sender.send(n).unwrap())).join().unwrap(),
    );
    assert!(all.into_iter().eq(0..COUNT));
}

#[test]
fn a_thread_receives_what_a_greenlet_sends() {
    patched();
    for capacity in [None, Some(0), Some(1), Some(10)] {
        let (answer, answers) = mpsc::channel();
        let greenlet = match capacity {
            None => {
                let (sender, receiver) = mpsc::channel();
                std::thread::spawn(move || answer.send(receiver.iter().collect::<Vec<u32>>()).unwrap());
                spawn(move || (0..COUNT).for_each(|n| sender.send(n).unwrap()))
            }
            Some(capacity) => {
                let (sender, receiver) = mpsc::sync_channel(capacity);
                std::thread::spawn(move || answer.send(receiver.iter().collect::<Vec<u32>>()).unwrap());
                spawn(move || (0..COUNT).for_each(|n| sender.send(n).unwrap()))
            }
        };
        greenlet.join().unwrap();
        assert!(answers.recv().unwrap().into_iter().eq(0..COUNT));
    }
}

#[test]
fn a_full_channel_has_a_greenlet_wait_for_a_thread() {
    patched();
    for capacity in [0, 1, 10] {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        waits(
            move || (0..COUNT).for_each(|n| sender.send(n).unwrap()),
            || drop(std::thread::spawn(move || assert!(receiver.iter().eq(0..COUNT)))),
        );
    }
}

#[test]
fn many_greenlets_of_two_threads_send_to_one() {
    patched();
    let (sender, receiver) = mpsc::sync_channel(3);
    let hubs: Vec<_> = (0..2)
        .map(|_| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let greenlets: Vec<_> = (0..10)
                    .map(|_| {
                        let sender = sender.clone();
                        spawn(move || (0..100).for_each(|n| sender.send(n).unwrap()))
                    })
                    .collect();
                greenlets.into_iter().for_each(|greenlet| greenlet.join().unwrap());
            })
        })
        .collect();
    drop(sender);
    let sum = spawn(move || receiver.iter().sum::<u32>()).join().unwrap();
    assert_eq!(sum, 2 * 10 * 4950);
    hubs.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_receiver_gives_up_in_time() {
    patched();
    spawn(|| {
        let (_sender, receiver) = mpsc::channel::<()>();
        let start = Instant::now();
        assert_eq!(receiver.recv_timeout(Duration::from_millis(5)), Err(RecvTimeoutError::Timeout));
        assert!(start.elapsed() >= Duration::from_millis(5));
    })
    .join()
    .unwrap();
}

#[test]
fn a_receiver_with_a_limit_gets_what_a_thread_sends_at_once() {
    patched();
    let (sender, receiver) = mpsc::channel();
    let got = waits(
        move || receiver.recv_timeout(Duration::from_secs(1000)),
        || std::thread::spawn(move || sender.send(1).unwrap()).join().unwrap(),
    );
    assert_eq!(got, Ok(1));
}

#[test]
fn a_receiver_hears_that_the_last_sender_of_its_own_thread_is_gone() {
    patched();
    let (sender, receiver) = mpsc::channel::<()>();
    let got = waits(move || receiver.recv(), || drop(sender));
    assert!(got.is_err());
}

/// The limit of std's: not woken, but it looks once more when its time is over.
#[test]
fn a_receiver_with_a_limit_gets_what_a_greenlet_of_its_thread_sends_when_its_time_is_over() {
    patched();
    let (sender, receiver) = mpsc::channel();
    let start = Instant::now();
    let limit = Duration::from_millis(50);
    let waiting = spawn(move || receiver.recv_timeout(limit));
    let_all_run();
    sender.send(1).unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(1));
    assert!(start.elapsed() >= limit);
}

/// The same with room in the channel, and without a rendezvous ever.
#[test]
fn bounded_channels_within_one_thread() {
    patched();
    let limit = Duration::from_millis(20);
    let (sender, receiver) = mpsc::sync_channel(1);
    let waiting = spawn(move || receiver.recv_timeout(limit));
    let_all_run();
    sender.send(1).unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(1));

    let (sender, receiver) = mpsc::sync_channel(0);
    let waiting = spawn(move || receiver.recv_timeout(limit));
    let_all_run();
    assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
    assert_eq!(waiting.join().unwrap(), Err(RecvTimeoutError::Timeout));
}

/// What never waits works within one thread.
#[test]
fn looking_for_messages_works_within_one_thread() {
    patched();
    let (sender, receiver) = mpsc::channel();
    let looking = spawn(move || {
        loop {
            match receiver.try_recv() {
                Ok(value) => return value,
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => panic!("nobody sends"),
            }
        }
    });
    let_all_run();
    sender.send(5).unwrap();
    assert_eq!(looking.join().unwrap(), 5);
}
