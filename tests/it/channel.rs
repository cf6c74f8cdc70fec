//! Channels and `select!`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use switchgrass::channel::{
    RecvError, RecvTimeoutError, SendTimeoutError, TryRecvError, TrySendError, bounded, unbounded,
};
use switchgrass::{GreenletExit, joinall, scope, select, sleep, spawn, testing, timeout, yield_now};

use crate::util::{Drops, Log, catch, secs, text, time_limit};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_bounded_channel_makes_the_sender_wait_when_it_is_full() {
    let (tx, rx) = bounded(2);
    let log = Log::new();
    let sending = spawn({
        let log = log.clone();
        move || {
            for n in 0..4 {
                tx.send(n).unwrap();
                log.add(format!("sent{n}"));
            }
        }
    });
    yield_now();
    assert_eq!(log.take(), "sent0 sent1");
    assert_eq!((rx.len(), rx.capacity()), (2, Some(2)));
    assert_eq!(rx.iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    sending.join().unwrap();
}

#[test]
fn a_channel_without_room_hands_from_one_to_the_other() {
    let (tx, rx) = bounded(0);
    assert_eq!(tx.try_send(1), Err(TrySendError::Full(1)));
    let sent = Rc::new(Cell::new(false));
    let sending = spawn({
        let sent = Rc::clone(&sent);
        move || {
            tx.send(2).unwrap();
            sent.set(true);
        }
    });
    yield_now();
    assert!(!sent.get());
    assert_eq!(rx.recv(), Ok(2));
    sending.join().unwrap();
    assert_eq!(rx.recv(), Err(RecvError));
}

#[test]
fn receivers_and_senders_are_served_in_the_order_of_coming() {
    let (tx, rx) = bounded(0);
    let log = Log::new();
    scope(|s| {
        for name in ["a", "b", "c"] {
            let (rx, log) = (&rx, &log);
            s.spawn(move || log.add(format!("{name}{}", rx.recv().unwrap())));
        }
        yield_now();
        for n in 0..3 {
            tx.send(n).unwrap();
        }
    });
    assert_eq!(log.take(), "a0 b1 c2");
    scope(|s| {
        for n in 0..3 {
            let tx = &tx;
            s.spawn(move || tx.send(n).unwrap());
        }
        yield_now();
        assert_eq!([rx.recv(), rx.recv(), rx.recv()], [Ok(0), Ok(1), Ok(2)]);
    });
}

#[test]
fn a_message_handed_to_a_receiver_that_is_killed_goes_to_the_next_or_stays_first() {
    let (tx, rx) = bounded(4);
    let receive = || {
        let rx = rx.clone();
        spawn(move || rx.recv().unwrap())
    };
    let (victim, next) = (receive(), receive());
    yield_now();
    tx.send(1).unwrap();
    victim.kill_nowait();
    assert_eq!(next.join().unwrap(), 1);
    assert!(victim.join().unwrap_err().is::<GreenletExit>());

    let victim = receive();
    yield_now();
    tx.send(2).unwrap();
    tx.send(3).unwrap();
    victim.kill();
    assert_eq!([rx.recv(), rx.recv()], [Ok(2), Ok(3)]);
}

#[test]
fn a_sender_that_is_killed_while_it_waits_has_not_sent() {
    let drops = Drops::new();
    let (tx, rx) = bounded(1);
    tx.send(drops.guard()).unwrap();
    let victim = spawn({
        let (tx, guard) = (tx.clone(), drops.guard());
        move || tx.send(guard)
    });
    yield_now();
    victim.kill();
    assert_eq!(drops.count(), 1);
    drop(rx.recv().unwrap());
    assert_eq!(rx.try_recv().map(drop), Err(TryRecvError::Empty));
}

#[test]
fn the_last_handle_of_a_side_ends_the_waits_of_the_other() {
    let (tx, rx) = bounded(1);
    tx.send(1).unwrap();
    let sending = spawn({
        let tx = tx.clone();
        move || tx.send(2)
    });
    yield_now();
    drop(rx);
    assert_eq!(sending.join().unwrap().unwrap_err().0, 2);
    assert_eq!(tx.send(3).unwrap_err().0, 3);
    assert_eq!(tx.try_send(3), Err(TrySendError::Disconnected(3)));

    let (tx, rx) = unbounded::<i32>();
    let receiving = spawn(move || rx.recv());
    yield_now();
    drop(tx.clone());
    yield_now();
    assert!(!receiving.is_ready());
    drop(tx);
    assert_eq!(receiving.join().unwrap(), Err(RecvError));
}

#[test]
fn what_was_sent_is_received_after_the_last_sender_has_gone() {
    let (tx, rx) = unbounded();
    tx.send(1).unwrap();
    tx.send(2).unwrap();
    drop(tx);
    assert_eq!(rx.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn messages_that_nobody_can_receive_are_dropped_with_the_last_receiver() {
    let drops = Drops::new();
    let (tx, rx) = bounded(2);
    tx.send(drops.guard()).unwrap();
    drop(rx);
    assert_eq!(drops.count(), 1);
}

#[test]
fn sending_and_receiving_end_at_their_time() {
    testing::virtual_clock();
    let (tx, rx) = bounded(1);
    assert_eq!(rx.recv_timeout(SECOND), Err(RecvTimeoutError::Timeout));
    tx.send(1).unwrap();
    assert_eq!(tx.send_timeout(2, SECOND), Err(SendTimeoutError::Timeout(2)));
    assert!(timeout(SECOND, || tx.send(3)).is_err());
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1]);
    drop(tx);
    assert_eq!(rx.recv_timeout(SECOND), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_loop_of_attempts_lets_the_other_side_run() {
    time_limit();
    let (tx, rx) = bounded(1);
    let other = spawn(move || tx.send(1).unwrap());
    while rx.try_recv().is_err() {}
    other.join().unwrap();
}

#[test]
fn a_receiver_whose_channel_is_never_empty_lets_the_others_run() {
    let (tx, rx) = unbounded();
    (0..10_000).for_each(|n| tx.send(n).unwrap());
    let ran = Rc::new(Cell::new(false));
    let _other = spawn({
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    rx.iter().take(1_000).for_each(drop);
    assert!(ran.get());
}

#[test]
fn threads_exchange_every_message_once() {
    time_limit();
    for capacity in [0, 1, 7, usize::MAX] {
        let (tx, rx) = if capacity == usize::MAX { unbounded() } else { bounded(capacity) };
        let senders: Vec<_> = (0..3_u64)
            .map(|thread| {
                let tx = tx.clone();
                std::thread::spawn(move || (0..1_000).for_each(|n| tx.send(thread * 1_000 + n).unwrap()))
            })
            .collect();
        drop(tx);
        let receivers: Vec<_> = (0..2)
            .map(|_| {
                let rx = rx.clone();
                std::thread::spawn(move || rx.iter().collect::<Vec<_>>())
            })
            .collect();
        senders.into_iter().for_each(|thread| thread.join().unwrap());
        let mut all: Vec<_> = receivers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..3_000).collect::<Vec<_>>(), "capacity {capacity}");
    }
}

#[test]
fn select_takes_what_is_ready() {
    let (tx, rx) = bounded(1);
    let (other_tx, other_rx) = bounded::<&str>(0);
    tx.send(7).unwrap();
    let got = select! {
        recv(rx) -> message => message.unwrap(),
        recv(other_rx) -> _ => unreachable!(),
        default => 0,
    };
    assert_eq!(got, 7);
    let got = select! { recv(rx) -> message => message.unwrap(), default => 0 };
    assert_eq!(got, 0);
    select! {
        send(tx, 8) -> sent => { sent.unwrap(); }
        send(other_tx, "no") -> _ => unreachable!(),
    }
    assert_eq!(rx.recv(), Ok(8));
}

#[test]
fn select_waits_for_the_first_that_can_be_done() {
    let (tx, rx) = bounded::<i32>(0);
    let (out_tx, out_rx) = bounded::<i32>(0);
    let turns = spawn(move || {
        let mut log = Vec::new();
        for _ in 0..2 {
            select! {
                recv(rx) -> message => log.push(format!("received {}", message.unwrap())),
                send(out_tx, 5) -> sent => log.push(format!("sent {sent:?}")),
            }
        }
        log.join(", ")
    });
    yield_now();
    assert_eq!(out_rx.recv(), Ok(5));
    tx.send(6).unwrap();
    assert_eq!(turns.join().unwrap(), "sent Ok(()), received 6");
}

#[test]
fn the_message_of_a_send_is_made_when_it_is_chosen() {
    let (tx, rx) = bounded::<i32>(1);
    let (_keep, other) = bounded::<i32>(1);
    tx.send(0).unwrap();
    let made = Cell::new(0);
    let make = || made.set(made.get() + 1);
    select! {
        send(tx, { make(); 1 }) -> _ => unreachable!("there is no room"),
        recv(other) -> _ => unreachable!(),
        default => {}
    }
    assert_eq!(made.get(), 0);
    rx.recv().unwrap();
    select! { send(tx, { make(); 1 }) -> sent => sent.unwrap() }
    assert_eq!((made.get(), rx.recv()), (1, Ok(1)));
}

#[test]
fn a_panic_while_the_message_is_made_gives_the_place_back() {
    let (tx, rx) = bounded::<i32>(1);
    let panicked = spawn({
        let tx = tx.clone();
        let make = || -> i32 { std::panic::resume_unwind(Box::new(1)) };
        move || select! { send(tx, make()) -> _ => {} }
    });
    assert!(panicked.join().is_err());
    tx.try_send(1).unwrap();
    assert_eq!(rx.recv(), Ok(1));
}

#[test]
fn a_select_whose_time_is_up_takes_the_default() {
    testing::virtual_clock();
    let (_tx, rx) = bounded::<i32>(0);
    let before = testing::now();
    let took = select! { recv(rx) -> _ => false, default(SECOND) => true };
    assert!(took);
    assert_eq!(testing::now() - before, SECOND);
}

#[test]
fn select_sees_that_the_other_side_is_gone() {
    let (tx, rx) = bounded::<i32>(0);
    let waiting = spawn(move || select! { recv(rx) -> message => message });
    yield_now();
    drop(tx);
    assert_eq!(waiting.join().unwrap(), Err(RecvError));

    let (tx, rx) = bounded::<i32>(0);
    let waiting = spawn(move || select! { send(tx, 3) -> sent => sent.unwrap_err().0 });
    yield_now();
    drop(rx);
    assert_eq!(waiting.join().unwrap(), 3);
}

#[test]
fn select_favours_none_of_those_that_are_ready() {
    let channels: Vec<_> = (0..3).map(|_| unbounded::<()>()).collect();
    let [(a_tx, a), (b_tx, b), (_c_tx, c)] = &channels[..] else { unreachable!() };
    let (mut from_a, mut from_b) = (0, 0);
    for _ in 0..1_000 {
        a_tx.send(()).unwrap();
        b_tx.send(()).unwrap();
        // The third is never ready, and must not make the first the favourite.
        select! {
            recv(c) -> _ => unreachable!(),
            recv(a) -> _ => from_a += 1,
            recv(b) -> _ => from_b += 1,
        }
    }
    assert!(from_a > 400 && from_b > 400, "{from_a} {from_b}");
}

#[test]
fn what_a_killed_select_was_given_is_given_on() {
    let (tx, rx) = bounded::<i32>(0);
    let (_keep, idle) = bounded::<i32>(0);
    let victim = spawn({
        let rx = rx.clone();
        move || select! { recv(rx) -> message => message.unwrap(), recv(idle) -> _ => 0 }
    });
    yield_now();
    tx.send(9).unwrap();
    victim.kill_nowait();
    assert_eq!(rx.recv(), Ok(9));
    assert!(victim.join().is_err());

    // A place that was promised to a select which is killed goes to the next sender.
    let (tx, rx) = bounded::<i32>(1);
    tx.send(1).unwrap();
    let victim = spawn({
        let tx = tx.clone();
        move || select! { send(tx, 2) -> _ => {} }
    });
    yield_now();
    let next = spawn({
        let tx = tx.clone();
        move || tx.send(3)
    });
    yield_now();
    assert_eq!(rx.recv(), Ok(1));
    victim.kill_nowait();
    assert_eq!(rx.recv(), Ok(3));
    next.join().unwrap().unwrap();
}

#[test]
fn a_select_does_not_send_to_itself() {
    testing::virtual_clock();
    let (tx, rx) = bounded::<i32>(0);
    let took = select! {
        send(tx, 1) -> _ => "sent",
        recv(rx) -> _ => "received",
        default(SECOND) => "neither",
    };
    assert_eq!(took, "neither");
}

#[test]
fn a_select_that_has_chosen_something_else_counts_as_a_receiver_no_more() {
    let (a, rx_a) = bounded(0);
    let (b, rx_b) = bounded(0);
    let receiving = spawn(move || {
        let got =
            select! { recv(rx_a) -> message => message.unwrap(), recv(rx_b) -> message => message.unwrap() };
        (got, rx_b)
    });
    yield_now();
    a.send(1).unwrap();
    // The receiver has not run since, and its operation is still in line at `b`.
    let sent = select! { send(b, 2) -> sent => Some(sent), default => None };
    assert_eq!(sent, None, "nobody would have received that message");
    let (got, rx_b) = receiving.join().unwrap();
    assert_eq!((got, rx_b.try_recv()), (1, Err(TryRecvError::Empty)));
}

#[test]
fn two_selects_meet() {
    let (tx, rx) = bounded::<i32>(0);
    let (_keep_a, idle_a) = bounded::<i32>(0);
    let (_keep_b, idle_b) = bounded::<i32>(0);
    let sender = spawn(move || select! { recv(idle_a) -> _ => false, send(tx, 4) -> sent => sent.is_ok() });
    let receiver = spawn(move || select! { recv(rx) -> message => message.unwrap(), recv(idle_b) -> _ => 0 });
    assert_eq!(receiver.join().unwrap(), 4);
    assert!(sender.join().unwrap());
}

#[test]
fn selects_of_several_threads_lose_and_double_nothing() {
    time_limit();
    let (a_tx, a_rx) = bounded::<u64>(0);
    let (b_tx, b_rx) = bounded::<u64>(3);
    let producers: Vec<_> = (0..2_u64)
        .map(|thread| {
            let (a, b) = (a_tx.clone(), b_tx.clone());
            std::thread::spawn(move || {
                for n in thread * 5_000..(thread + 1) * 5_000 {
                    select! { send(a, n) -> sent => sent.unwrap(), send(b, n) -> sent => sent.unwrap() }
                }
            })
        })
        .collect();
    drop((a_tx, b_tx));
    let consumers: Vec<_> = (0..2)
        .map(|_| {
            let (a, b) = (a_rx.clone(), b_rx.clone());
            std::thread::spawn(move || {
                let mut got = Vec::new();
                // Ends when one is closed; the other one is emptied then.
                while let Ok(n) = select! { recv(a) -> n => n, recv(b) -> n => n } {
                    got.push(n);
                }
                got.extend(a.iter().chain(b.iter()));
                got
            })
        })
        .collect();
    producers.into_iter().for_each(|thread| thread.join().unwrap());
    let mut all: Vec<_> = consumers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn a_sleeping_hub_is_woken_by_a_message_from_another() {
    let (tx, rx) = bounded(1);
    let (ready_tx, ready_rx) = bounded(0);
    let thread = std::thread::spawn(move || {
        let receiving = [spawn(move || rx.recv().unwrap())];
        drop(spawn(move || ready_tx.send(())));
        joinall(&receiving);
        sleep(Duration::ZERO);
    });
    ready_rx.recv().unwrap();
    tx.send(1).unwrap();
    thread.join().unwrap();
}

#[test]
fn an_operation_that_is_in_two_selects_at_once_is_refused() {
    use switchgrass::channel::select::{Patience, Receive, select};
    let (tx, rx) = bounded::<u32>(0);
    let operation = Receive::new(&rx);
    let twice = catch(|| select(&[&operation, &operation], Patience::Forever));
    assert!(text(&twice.unwrap_err()).contains("two selects"));
    assert_eq!(tx.try_send(1), Err(TrySendError::Full(1)), "it is in no queue any more");
}

#[test]
fn a_clone_of_a_waiter_that_was_forgotten_holds_up_nobody() {
    let (tx, rx) = bounded(0);
    std::mem::forget(rx.clone());
    let waiting = spawn(move || rx.recv());
    yield_now();
    tx.send(7).unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(7));
}

#[test]
fn a_message_that_a_select_makes_slowly_leaves_its_place_to_the_next_sender_if_a_receiver_takes_it_at_once() {
    testing::virtual_clock();
    let (tx, rx) = bounded(1);
    let sender = tx.clone();
    let slow = move || {
        select! {
            send(sender, { sleep(secs(1)); 1 }) -> sent => sent.unwrap(),
        }
    };
    let _senders = [spawn(slow), spawn(move || tx.send(2).unwrap())];
    let receivers = [rx.clone(), rx].map(|rx| spawn(move || rx.recv_timeout(secs(5))));
    assert_eq!(receivers.map(|receiver| receiver.join().unwrap()), [Ok(1), Ok(2)]);
}

#[test]
fn a_place_that_a_select_gives_up_goes_to_the_next_sender_and_so_on() {
    testing::virtual_clock();
    let (tx, rx) = bounded(1);
    let sender = tx.clone();
    let interrupted = move || {
        let wait = || select! { send(sender, { sleep(secs(9)); 1 }) -> sent => sent.unwrap() };
        timeout(secs(1), wait).unwrap_err()
    };
    let _interrupted = spawn(interrupted);
    let senders = [2, 3].map(|n| {
        let tx = tx.clone();
        spawn(move || tx.send_timeout(n, secs(5)).is_ok())
    });
    yield_now();
    assert_eq!(rx.recv(), Ok(2));
    assert_eq!(senders.map(|sender| sender.join().unwrap()), [true, true]);
    assert_eq!(rx.recv(), Ok(3));
}
