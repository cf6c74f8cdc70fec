//! Greenlets and `async`, with crates that know nothing of each other.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::{join_all, select};
use futures::lock::Mutex;
use switchgrass::{block_on, joinall, scope, sleep, spawn, testing, timeout, yield_now};

use crate::util::{secs, time_limit};

#[test]
fn many_greenlets_block_on_futures_at_once_on_one_hub() {
    let (tx, rx) = async_channel::bounded::<usize>(1);
    let total = Cell::new(0);
    scope(|s| {
        for _ in 0..10 {
            let (rx, total) = (rx.clone(), &total);
            s.spawn(move || {
                while let Ok(n) = block_on(rx.recv()) {
                    total.set(total.get() + n);
                }
            });
        }
        drop(rx);
        for n in 1..=100 {
            block_on(tx.send(n)).unwrap();
        }
        drop(tx);
    });
    assert_eq!(total.get(), 5050);
}

#[test]
fn a_pending_future_parks_the_greenlet_not_the_thread() {
    let (tx, rx) = oneshot::channel();
    let ran = Rc::new(Cell::new(false));
    let waiting = spawn({
        let ran = Rc::clone(&ran);
        move || {
            let got = block_on(rx).unwrap();
            (got, ran.get())
        }
    });
    yield_now();
    ran.set(true);
    tx.send(4).unwrap();
    assert_eq!(waiting.join().unwrap(), (4, true));
}

#[test]
fn futures_are_woken_from_other_threads() {
    time_limit();
    let (tx, rx) = mpsc::channel::<u32>(2);
    let thread = std::thread::spawn(move || {
        let mut tx = tx;
        for n in 0..1_000 {
            block_on(futures::future::poll_fn(|context| tx.poll_ready(context))).unwrap();
            tx.start_send(n).unwrap();
        }
    });
    let sum = block_on(rx.fold(0, |sum, n| async move { sum + n }));
    assert_eq!(sum, 499_500);
    thread.join().unwrap();
}

#[test]
fn a_greenlet_is_awaited_by_another_executor() {
    time_limit();
    let (tx, rx) = std::sync::mpsc::channel();
    // A hub of its own, which runs while the other thread's executor awaits.
    let hub = std::thread::spawn(move || {
        let greenlet = spawn(|| {
            yield_now();
            "from afar"
        });
        let handle = greenlet.handle();
        tx.send(greenlet).unwrap();
        switchgrass::wait([&handle], None, None);
    });
    let greenlet = rx.recv().unwrap();
    assert_eq!(futures::executor::block_on(greenlet).unwrap(), "from afar");
    hub.join().unwrap();
}

#[test]
fn greenlets_are_awaited_together_with_other_futures() {
    testing::virtual_clock();
    let greenlets = (1..=3).map(|n| {
        spawn(move || {
            sleep(secs(n));
            n
        })
    });
    let all = block_on(join_all(greenlets));
    assert_eq!(all.into_iter().map(Result::unwrap).sum::<u64>(), 6);

    let (slow, fast) = (spawn(|| sleep(secs(9))), spawn(|| sleep(secs(1))));
    let (first, slow) = block_on(select(fast, slow)).into_inner_left();
    first.unwrap();
    assert!(!slow.is_ready());
    slow.kill();
    assert!(block_on(spawn(|| panic!("on purpose"))).is_err());
}

trait IntoInnerLeft {
    type Left;
    type Right;
    fn into_inner_left(self) -> (Self::Left, Self::Right);
}

impl<A, B, L, R> IntoInnerLeft for futures::future::Either<(A, R), (B, L)> {
    type Left = A;
    type Right = R;

    fn into_inner_left(self) -> (A, R) {
        match self {
            futures::future::Either::Left(left) => left,
            futures::future::Either::Right(_) => panic!("the right one was first"),
        }
    }
}

#[test]
fn a_kill_and_a_timeout_reach_who_blocks_on_a_future() {
    testing::virtual_clock();
    assert!(timeout(secs(1), || block_on(futures::future::pending::<()>())).is_err());
    let waiting = spawn(|| block_on(futures::future::pending::<()>()));
    yield_now();
    waiting.kill();
    assert!(waiting.join().is_err());
}

#[test]
fn an_async_mutex_is_shared_by_greenlets_that_block_on_it() {
    let mutex = Rc::new(Mutex::new(0));
    let greenlets: Vec<_> = (0..10)
        .map(|_| {
            let mutex = Rc::clone(&mutex);
            spawn(move || {
                let mut held = block_on(mutex.lock());
                let before = *held;
                yield_now();
                *held = before + 1;
            })
        })
        .collect();
    joinall(&greenlets);
    assert_eq!(*block_on(mutex.lock()), 10);
}

#[test]
fn a_greenlet_that_was_polled_and_then_dropped_keeps_no_waker() {
    let count = Arc::new(Counter::default());
    let waker = Arc::clone(&count).into();
    let mut polled = spawn(yield_now);
    for _ in 0..3 {
        assert!(Pin::new(&mut polled).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&count), 3, "one of the last poll");
    drop(polled);
    assert_eq!(Arc::strong_count(&count), 2);
    yield_now();
    yield_now();
    assert_eq!((testing::live(), count.0.load(Ordering::SeqCst)), (0, 0), "it went on, and woke nobody");
}

#[test]
fn a_greenlet_that_was_polled_can_be_joined_linked_and_killed() {
    let count = Arc::new(Counter::default());
    let waker = Arc::clone(&count).into();
    let mut context = Context::from_waker(&waker);
    let mut joined = spawn(|| 7);
    assert!(Pin::new(&mut joined).poll(&mut context).is_pending());
    let linked = Rc::new(Cell::new(0));
    joined.link_value({
        let linked = Rc::clone(&linked);
        move |value| linked.set(value)
    });
    assert_eq!(joined.join().unwrap(), 7);
    yield_now();
    assert_eq!((linked.get(), count.0.load(Ordering::SeqCst)), (7, 1));

    let mut killed = spawn(|| sleep(secs(3600)));
    assert!(Pin::new(&mut killed).poll(&mut context).is_pending());
    yield_now();
    killed.kill();
    assert!(matches!(Pin::new(&mut killed).poll(&mut context), Poll::Ready(Err(_))));
    assert_eq!(Arc::strong_count(&count), 2);
}

#[test]
fn a_waker_that_panics_harms_neither_the_hub_nor_the_next() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a bad waker");
        }
    }
    let waker = Arc::new(Panics).into();
    let mut polled = spawn(|| 7);
    assert!(Pin::new(&mut polled).poll(&mut Context::from_waker(&waker)).is_pending());
    let called = Arc::new(Counter::default());
    polled.rawlink({
        let called = Arc::clone(&called);
        move || called.wake_by_ref()
    });
    yield_now();
    assert_eq!(called.0.load(Ordering::SeqCst), 1);
    assert_eq!(polled.join().unwrap(), 7);
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
