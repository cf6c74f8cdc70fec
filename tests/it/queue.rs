//! Queues: gevent.md 2.3 and §5, items 1, 3 and 4.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use switchgrass::queue::{GetError, LifoQueue, PriorityQueue, PutError, Queue};
use switchgrass::{Greenlet, joinall, scope, sleep, spawn, testing, timeout, wait, yield_now};

use crate::util::{Clock, Drops, HOUR, Log, catch, is_exit, text, time_limit};

const SECOND: Duration = Duration::from_secs(1);

/// A greenlet that gets one item.
fn get<T: 'static>(queue: &Rc<Queue<T>>) -> Greenlet<Result<T, GetError>> {
    let queue = Rc::clone(queue);
    spawn(move || queue.get())
}

/// A greenlet that puts one item in.
fn put<T: 'static>(queue: &Rc<Queue<T>>, item: T) -> Greenlet<Result<(), PutError<T>>> {
    let queue = Rc::clone(queue);
    spawn(move || queue.put(item))
}

/// Compared by its level only.
#[derive(Debug)]
struct Job(u32, &'static str);

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Job {}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Job {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

#[test]
fn a_bounded_queue_makes_who_puts_wait_for_room() {
    let (queue, log) = (Queue::bounded(2), Log::new());
    scope(|s| {
        s.spawn(|| {
            for n in 1..=4 {
                queue.put(n).unwrap();
                log.add(format!("put{n}"));
            }
            queue.shutdown();
        });
        yield_now();
        assert_eq!(log.take(), "put1 put2");
        assert!(queue.is_full() && !queue.is_empty());
        assert_eq!((queue.len(), queue.capacity(), queue.putting(), queue.getting()), (2, Some(2), 1, 0));
        assert_eq!(queue.iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    });
    assert!(queue.is_empty() && queue.is_shut_down());
}

#[test]
fn an_unbounded_queue_has_room_for_all() {
    let queue = Queue::unbounded();
    for n in 0..10_000 {
        queue.try_put(n).unwrap();
    }
    assert!(!queue.is_full());
    assert_eq!((queue.len(), queue.capacity()), (10_000, None));
    assert!((0..10_000).all(|n| queue.try_get() == Ok(n)));
    assert_eq!(queue.try_get(), Err(GetError::Empty));
}

#[test]
fn getters_are_served_in_the_order_of_coming() {
    let (queue, log) = (Queue::unbounded(), Log::new());
    scope(|s| {
        for name in ["a", "b", "c"] {
            let (queue, log) = (&queue, &log);
            s.spawn(move || log.add(format!("{name}{}", queue.get().unwrap())));
        }
        yield_now();
        assert_eq!(queue.getting(), 3);
        queue.put(1).unwrap();
        queue.put(2).unwrap();
        // a and b have theirs, though they have not run yet: nobody overtakes them.
        assert_eq!(queue.try_get(), Err(GetError::Empty));
        queue.put(3).unwrap();
    });
    assert_eq!(log.take(), "a1 b2 c3");
}

#[test]
fn putters_are_served_in_the_order_of_coming_and_nobody_overtakes() {
    let queue = Rc::new(Queue::bounded(1));
    queue.put(0).unwrap();
    let putting: Vec<_> = (1..=3).map(|n| put(&queue, n)).collect();
    yield_now();
    assert_eq!(queue.putting(), 3);
    assert_eq!(queue.get(), Ok(0));
    assert_eq!(queue.try_put(9), Err(PutError::Full(9)), "the room is the first putter's");
    assert!((1..=3).all(|n| queue.get() == Ok(n)));
    joinall(&putting);
}

#[test]
fn a_getter_whose_time_is_up_takes_nothing() {
    let clock = Clock::start();
    let queue = Queue::<i32>::unbounded();
    assert_eq!(queue.get_timeout(SECOND), Err(GetError::Empty));
    assert_eq!(clock.elapsed(), SECOND);
    assert!(timeout(SECOND, || queue.get()).is_err());
    assert_eq!(queue.getting(), 0);
    queue.put(1).unwrap();
    assert_eq!(queue.try_get(), Ok(1));
}

#[test]
fn two_getters_with_no_time_leave_the_item_for_a_third() {
    testing::virtual_clock();
    let queue = Rc::new(Queue::unbounded());
    let bogus: Vec<_> = (0..2)
        .map(|_| {
            let queue = Rc::clone(&queue);
            spawn(move || queue.get_timeout(Duration::ZERO))
        })
        .collect();
    for greenlet in bogus {
        assert_eq!(greenlet.join().unwrap(), Err(GetError::Empty));
    }
    let third = get(&queue);
    yield_now();
    queue.put(7).unwrap();
    assert_eq!(third.join().unwrap(), Ok(7));
}

#[test]
fn an_item_put_at_a_getters_deadline_is_had_or_kept() {
    testing::virtual_clock();
    let queue = Rc::new(Queue::unbounded());
    let getter = spawn({
        let queue = Rc::clone(&queue);
        move || queue.get_timeout(SECOND)
    });
    let putter = spawn({
        let queue = Rc::clone(&queue);
        move || {
            sleep(SECOND);
            queue.put(1).unwrap();
        }
    });
    putter.join().unwrap();
    let had = getter.join().unwrap().is_ok();
    assert_eq!(usize::from(had) + queue.len(), 1);
}

#[test]
fn of_two_getters_of_which_one_dies_the_other_gets_the_item() {
    let queue = Rc::new(Queue::unbounded());
    let (victim, survivor) = (get(&queue), get(&queue));
    yield_now();
    victim.kill();
    queue.put("item").unwrap();
    assert_eq!(survivor.join().unwrap(), Ok("item"));
}

#[test]
fn an_item_on_its_way_to_a_getter_that_is_killed_goes_to_the_next() {
    let queue = Rc::new(Queue::unbounded());
    let (victim, next) = (get(&queue), get(&queue));
    yield_now();
    queue.put("item").unwrap();
    victim.kill_nowait();
    assert_eq!(next.join().unwrap(), Ok("item"));
    assert!(is_exit(&victim.join()));
}

#[test]
fn an_item_on_its_way_to_the_only_getter_that_is_killed_is_the_first_again() {
    let queue = Rc::new(Queue::unbounded());
    let victim = get(&queue);
    yield_now();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    victim.kill();
    assert_eq!([queue.get(), queue.get()], [Ok(1), Ok(2)]);
    assert_eq!(queue.unfinished(), 2, "it counts as put once");
}

#[test]
fn what_comes_back_keeps_its_place_in_every_order() {
    let queue = Rc::new(PriorityQueue::unbounded());
    let victim = spawn({
        let queue = Rc::clone(&queue);
        move || queue.get()
    });
    yield_now();
    for job in [Job(2, "first"), Job(2, "second"), Job(1, "urgent")] {
        queue.put(job).unwrap();
    }
    victim.kill();
    let order: Vec<_> = queue.shutdown_now().into_iter().map(|job| job.1).collect();
    assert_eq!(order, ["urgent", "first", "second"]);

    let queue = Rc::new(LifoQueue::unbounded());
    let victim = spawn({
        let queue = Rc::clone(&queue);
        move || queue.get()
    });
    yield_now();
    queue.put("taken").unwrap();
    victim.kill();
    assert_eq!(queue.get(), Ok("taken"));
}

#[test]
fn what_a_greenlet_has_put_outlives_it() {
    let queue = Rc::new(Queue::bounded(1));
    put(&queue, 1).join().unwrap().unwrap();
    assert_eq!(queue.get(), Ok(1));

    // Also one that is killed between its item being taken and its running on.
    queue.put(2).unwrap();
    let victim = put(&queue, 3);
    yield_now();
    assert_eq!(queue.get(), Ok(2));
    victim.kill();
    assert!(is_exit(&victim.join()));
    assert_eq!(queue.get(), Ok(3));
}

#[test]
fn a_putter_that_dies_in_line_has_put_nothing() {
    testing::virtual_clock();
    let (queue, drops) = (Rc::new(Queue::bounded(1)), Drops::new());
    queue.put(drops.guard()).unwrap();
    let victim = put(&queue, drops.guard());
    let late = spawn({
        let (queue, item) = (Rc::clone(&queue), drops.guard());
        move || queue.put_timeout(item, SECOND)
    });
    yield_now();
    victim.kill();
    assert_eq!(drops.count(), 1);
    let Err(PutError::Full(back)) = late.join().unwrap() else { panic!("there was no room") };
    assert_eq!(drops.count(), 1, "the item is given back");
    drop(back);
    drop(queue.get());
    assert!(queue.is_empty());
    assert_eq!((queue.unfinished(), queue.putting()), (1, 0));
}

#[test]
fn an_operation_that_never_waits_serves_the_other_side() {
    let queue = Rc::new(Queue::bounded(1));
    let getter = get(&queue);
    yield_now();
    queue.try_put(1).unwrap();
    assert_eq!(getter.join().unwrap(), Ok(1));

    queue.put(2).unwrap();
    let putter = put(&queue, 3);
    yield_now();
    assert_eq!(queue.try_get(), Ok(2));
    assert_eq!(queue.len(), 1, "the putter's item is in, before it has run");
    putter.join().unwrap().unwrap();
    assert_eq!(queue.try_get(), Ok(3));
}

#[test]
fn a_loop_of_attempts_lets_the_other_side_run() {
    time_limit();
    let queue = Rc::new(Queue::bounded(1));
    let putter = put(&queue, 1);
    while queue.try_get().is_err() {}
    putter.join().unwrap().unwrap();
    queue.put(2).unwrap();
    let getter = get(&queue);
    while queue.try_put(3).is_err() {}
    assert_eq!(getter.join().unwrap(), Ok(2));
}

#[test]
fn a_blocked_peek_wakes_on_put_and_the_item_stays() {
    let queue = Rc::new(Queue::bounded(1));
    let peek = || {
        let queue = Rc::clone(&queue);
        spawn(move || queue.peek())
    };
    let both = [peek(), peek()];
    yield_now();
    assert_eq!(queue.getting(), 2);
    queue.put("item").unwrap();
    for peek in both {
        assert_eq!(peek.join().unwrap(), Ok("item"));
    }
    assert_eq!(queue.try_peek(), Ok("item"));
    assert_eq!(queue.try_get(), Ok("item"));
    assert_eq!(queue.try_peek(), Err(GetError::Empty));
}

#[test]
fn a_peek_sees_what_a_get_would_take() {
    let queue = [3, 1, 2].into_iter().collect::<PriorityQueue<_>>();
    assert_eq!((queue.peek(), queue.get()), (Ok(1), Ok(1)));
    let queue = [3, 1, 2].into_iter().collect::<LifoQueue<_>>();
    assert_eq!((queue.peek(), queue.get()), (Ok(2), Ok(2)));
}

#[test]
fn a_peek_waits_on_if_the_item_went_to_somebody_who_gets() {
    testing::virtual_clock();
    let queue = Rc::new(Queue::unbounded());
    let peeking = spawn({
        let queue = Rc::clone(&queue);
        move || queue.peek_timeout(SECOND)
    });
    yield_now();
    queue.put(1).unwrap();
    assert_eq!(queue.try_get(), Ok(1));
    yield_now();
    assert!(!peeking.is_ready());
    assert_eq!(queue.peek_timeout(2 * SECOND), Err(GetError::Empty));
    assert_eq!(peeking.join().unwrap(), Err(GetError::Empty));
    assert_eq!(queue.getting(), 0);
}

#[test]
fn a_queue_without_room_hands_from_one_to_the_other() {
    let queue = Rc::new(Queue::bounded(0));
    assert_eq!(queue.try_put(1), Err(PutError::Full(1)));
    let putter = put(&queue, 2);
    yield_now();
    assert!(!putter.is_ready());
    assert!(queue.is_empty() && queue.is_full());
    assert_eq!(queue.len(), 0);
    assert_eq!(queue.get(), Ok(2));
    putter.join().unwrap().unwrap();

    let getter = get(&queue);
    yield_now();
    queue.try_put(3).unwrap();
    assert_eq!(getter.join().unwrap(), Ok(3));
}

#[test]
fn more_capacity_lets_those_in_who_wait_and_less_throws_nobody_out() {
    let queue = Rc::new(Queue::bounded(1));
    queue.put(0).unwrap();
    let putting: Vec<_> = (1..=4).map(|n| put(&queue, n)).collect();
    yield_now();
    queue.set_capacity(Some(3));
    yield_now();
    assert_eq!(putting.iter().map(Greenlet::is_ready).collect::<Vec<_>>(), [true, true, false, false]);
    queue.set_capacity(Some(1));
    assert_eq!((queue.len(), queue.capacity()), (3, Some(1)));
    assert_eq!([queue.get(), queue.get()], [Ok(0), Ok(1)]);
    yield_now();
    assert_eq!(queue.putting(), 2, "there is no room yet");
    assert_eq!(queue.get(), Ok(2));
    assert_eq!(queue.putting(), 1);
    queue.set_capacity(None);
    joinall(&putting);
    assert_eq!(queue.shutdown_now(), [3, 4]);
}

#[test]
fn more_capacity_shows_the_items_to_those_who_peek() {
    let queue = Rc::new(Queue::bounded(0));
    let peeking = spawn({
        let queue = Rc::clone(&queue);
        move || queue.peek()
    });
    let putting = put(&queue, 1);
    yield_now();
    assert!(!peeking.is_ready());
    queue.set_capacity(Some(1));
    assert_eq!(peeking.join().unwrap(), Ok(1));
    putting.join().unwrap().unwrap();
}

#[test]
fn a_priority_queue_gives_the_smallest_first_and_of_equals_the_oldest() {
    let queue = PriorityQueue::unbounded();
    for (level, name) in [(2, "c"), (1, "a"), (2, "d"), (3, "f"), (1, "b"), (2, "e")] {
        queue.try_put(Job(level, name)).unwrap();
    }
    let order: String = (0..6).map(|_| queue.get().unwrap().1).collect();
    assert_eq!(order, "abcdef");

    let greatest_first = [1, 3, 2].into_iter().map(Reverse).collect::<PriorityQueue<_>>();
    assert_eq!(greatest_first.get(), Ok(Reverse(3)));
}

#[test]
fn a_comparison_that_panics_hangs_nobody() {
    time_limit();
    #[derive(PartialEq, Eq)]
    struct Sulky(bool);
    impl PartialOrd for Sulky {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Sulky {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            if self.0 || other.0 {
                std::panic::resume_unwind(Box::new("will not be compared"));
            }
            std::cmp::Ordering::Equal
        }
    }
    let queue = Rc::new(PriorityQueue::bounded(2));
    queue.put(Sulky(false)).unwrap();
    queue.put(Sulky(false)).unwrap();
    let putter = spawn({
        let queue = Rc::clone(&queue);
        move || queue.put(Sulky(true))
    });
    yield_now();
    // The putter's item moves up, and is compared in here.
    assert_eq!(text(&catch(|| queue.get()).map(drop).unwrap_err()), "will not be compared");
    assert!(putter.join().unwrap().is_ok());
}

#[test]
fn a_lifo_queue_gives_the_newest_first() {
    let queue = LifoQueue::bounded(3);
    for n in 1..=3 {
        queue.put(n).unwrap();
    }
    assert_eq!(queue.try_put(4), Err(PutError::Full(4)));
    assert_eq!([queue.get(), queue.get(), queue.get()], [Ok(3), Ok(2), Ok(1)]);
}

#[test]
fn join_waits_until_each_item_is_done() {
    let (queue, log) = (Queue::bounded(1), Log::new());
    assert!(queue.join(), "nothing was put: at once");
    scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                for item in &queue {
                    yield_now();
                    log.add(item);
                    queue.task_done();
                }
            });
        }
        for item in ["a", "b", "c", "d"] {
            queue.put(item).unwrap();
        }
        assert!(queue.join());
        assert_eq!(queue.unfinished(), 0);
        log.add("joined");
        queue.shutdown();
    });
    assert_eq!(log.take(), "a b c d joined");
}

#[test]
fn join_ends_at_its_time() {
    let clock = Clock::start();
    let queue = [1].into_iter().collect::<Queue<_>>();
    assert!(!queue.join_timeout(SECOND));
    assert_eq!(clock.elapsed(), SECOND);
    queue.get().unwrap();
    assert!(!queue.join_timeout(SECOND), "it is taken, but not done");
    queue.task_done();
    assert!(queue.join_timeout(SECOND));
    assert_eq!(clock.elapsed(), 2 * SECOND);
}

#[test]
fn all_who_join_are_told_even_if_more_is_put_at_once() {
    let queue = Rc::new(Queue::unbounded());
    queue.put(1).unwrap();
    let joining: Vec<_> = (0..2)
        .map(|_| {
            let queue = Rc::clone(&queue);
            spawn(move || queue.join())
        })
        .collect();
    yield_now();
    queue.task_done();
    queue.put(2).unwrap();
    for greenlet in joining {
        assert!(greenlet.join().unwrap());
    }
}

#[test]
fn task_done_too_often_panics() {
    let queue = [1].into_iter().collect::<Queue<_>>();
    queue.task_done();
    let panic = catch(|| queue.task_done()).unwrap_err();
    assert!(text(&panic).contains("called more often than items were put"));
    // Nothing is broken by that.
    queue.put(2).unwrap();
    assert_eq!(queue.unfinished(), 1);
}

#[test]
fn a_shutdown_leaves_what_is_there_and_gives_back_what_could_not_get_in() {
    let queue = Rc::new(Queue::bounded(2));
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    let putter = put(&queue, 3);
    yield_now();
    queue.shutdown();
    assert_eq!(putter.join().unwrap(), Err(PutError::ShutDown(3)));
    assert_eq!(queue.put(4), Err(PutError::ShutDown(4)));
    assert_eq!(queue.try_put(5), Err(PutError::ShutDown(5)));
    assert_eq!(queue.try_peek(), Ok(1));
    assert_eq!(queue.iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!((queue.get(), queue.try_get()), (Err(GetError::ShutDown), Err(GetError::ShutDown)));
    assert_eq!((queue.peek(), queue.try_peek()), (Err(GetError::ShutDown), Err(GetError::ShutDown)));
    assert!(!queue.join_timeout(Duration::ZERO), "what was taken is still to be done");
    queue.task_done();
    queue.task_done();
    assert!(queue.join());
}

#[test]
fn a_shutdown_tells_all_who_wait_for_an_item() {
    let queue = Rc::new(Queue::<i32>::unbounded());
    let (getter, peeker) = (get(&queue), {
        let queue = Rc::clone(&queue);
        spawn(move || queue.peek())
    });
    let iterating = spawn({
        let queue = Rc::clone(&queue);
        move || queue.iter().count()
    });
    yield_now();
    queue.shutdown();
    queue.shutdown();
    assert_eq!(getter.join().unwrap(), Err(GetError::ShutDown));
    assert_eq!(peeker.join().unwrap(), Err(GetError::ShutDown));
    assert_eq!(iterating.join().unwrap(), 0);
}

#[test]
fn shutdown_now_takes_what_is_left_and_expects_no_work_on_it() {
    let queue = Rc::new(Queue::bounded(2));
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    let putter = put(&queue, 3);
    let joining = spawn({
        let queue = Rc::clone(&queue);
        move || queue.join()
    });
    yield_now();
    assert_eq!(queue.shutdown_now(), [1, 2]);
    assert!(joining.join().unwrap());
    assert_eq!(putter.join().unwrap(), Err(PutError::ShutDown(3)));
    assert_eq!(queue.get(), Err(GetError::ShutDown));
    assert!(queue.shutdown_now().is_empty());
}

#[test]
fn what_comes_back_after_shutdown_now_is_dropped_and_counts_as_done() {
    let (queue, drops) = (Rc::new(Queue::unbounded()), Drops::new());
    let victim = get(&queue);
    yield_now();
    queue.put(drops.guard()).unwrap();
    assert!(queue.shutdown_now().is_empty(), "it is the getter's");
    assert_eq!(queue.unfinished(), 1);
    victim.kill();
    assert_eq!((drops.count(), queue.unfinished(), queue.len()), (1, 0, 0));
}

#[test]
fn what_comes_back_after_a_shutdown_can_still_be_had() {
    let queue = Rc::new(Queue::unbounded());
    let victim = get(&queue);
    yield_now();
    queue.put(1).unwrap();
    queue.shutdown();
    victim.kill();
    assert_eq!(queue.iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_destructor_that_unwinds_may_do_what_does_not_wait() {
    struct Uses(Rc<Queue<i32>>, Rc<RefCell<Vec<Result<i32, GetError>>>>);
    impl Drop for Uses {
        fn drop(&mut self) {
            let mut seen = self.1.borrow_mut();
            seen.push(self.0.get());
            seen.push(self.0.get());
            seen.push(self.0.get_timeout(HOUR));
            assert!(self.0.put(2).is_ok());
            assert_eq!(self.0.put(3), Err(PutError::Full(3)));
            assert!(!self.0.join());
        }
    }
    let queue = Rc::new(Queue::bounded(1));
    let seen = Rc::default();
    queue.put(1).unwrap();
    let uses = Uses(Rc::clone(&queue), Rc::clone(&seen));
    let panicked = spawn(move || {
        let _uses = uses;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panicked.join().is_err());
    assert_eq!(*seen.borrow(), [Ok(1), Err(GetError::Empty), Err(GetError::Empty)]);
    assert_eq!(queue.get(), Ok(2));
}

#[test]
fn a_queue_is_waited_for_with_others_and_nothing_is_taken() {
    testing::virtual_clock();
    let queues: [Rc<Queue<i32>>; 4] =
        [Queue::unbounded(), Queue::bounded(0), Queue::unbounded(), Queue::unbounded()].map(Rc::new);
    let refs = || queues.iter().map(|queue| &**queue);
    let place = |ready: Vec<&Queue<i32>>| -> Vec<usize> {
        ready.into_iter().map(|queue| refs().position(|other| std::ptr::eq(other, queue)).unwrap()).collect()
    };
    assert_eq!(place(wait(refs(), None, Some(SECOND))), [0; 0]);

    let waiting = spawn({
        let queues = queues.clone();
        move || wait(queues.iter().map(|queue| &**queue), Some(3), None).len()
    });
    yield_now();
    // An item; a shutdown; and somebody with an item where there is no room.
    queues[2].put(1).unwrap();
    queues[3].shutdown();
    let putting = put(&queues[1], 2);
    assert_eq!(waiting.join().unwrap(), 3);
    assert_eq!(place(wait(refs(), None, Some(SECOND))), [1, 2, 3]);
    assert_eq!((queues[2].get(), queues[1].get()), (Ok(1), Ok(2)));
    putting.join().unwrap().unwrap();
    assert_eq!(place(wait(refs(), None, Some(SECOND))), [3]);

    // What comes back from one who dies can be had, too.
    let victim = get(&queues[0]);
    yield_now();
    let waiting = spawn({
        let queue = Rc::clone(&queues[0]);
        move || wait([&*queue], None, None).len()
    });
    yield_now();
    queues[0].put(3).unwrap();
    yield_now();
    assert!(victim.is_ready() && !waiting.is_ready(), "it went to who gets");
    let victim = get(&queues[0]);
    yield_now();
    queues[0].put(4).unwrap();
    victim.kill();
    assert_eq!(waiting.join().unwrap(), 1);
    assert_eq!(queues[0].get(), Ok(4));
}

#[test]
fn a_queue_is_a_static_that_plain_threads_share() {
    static QUEUE: Queue<usize> = Queue::bounded(4);
    time_limit();
    let sum = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                for n in &QUEUE {
                    sum.fetch_add(n, Ordering::Relaxed);
                    QUEUE.task_done();
                }
            });
        }
        let putting: Vec<_> =
            (0..2).map(|_| s.spawn(|| (0..2_000).for_each(|n| QUEUE.put(n).unwrap()))).collect();
        for thread in putting {
            thread.join().unwrap();
        }
        assert!(QUEUE.join());
        QUEUE.shutdown();
    });
    assert_eq!(sum.into_inner(), 2 * (0..2_000).sum::<usize>());
}

#[test]
fn greenlets_of_several_hubs_lose_and_double_nothing_though_some_are_killed() {
    time_limit();
    const EACH: usize = 500;
    let queue = Arc::new(Queue::bounded(3));
    let getting: Vec<_> = (0..2)
        .map(|_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let got = Rc::new(RefCell::new(Vec::new()));
                let worker = || {
                    let (queue, got) = (Arc::clone(&queue), Rc::clone(&got));
                    spawn(move || {
                        for n in &*queue {
                            got.borrow_mut().push(n);
                        }
                    })
                };
                // One of the workers is always about to be killed, in all states of a get.
                let steady = worker();
                while !queue.is_shut_down() {
                    let victim = worker();
                    yield_now();
                    yield_now();
                    victim.kill();
                }
                steady.join().unwrap();
                got.take()
            })
        })
        .collect();
    let putting: Vec<_> = (0..2)
        .map(|thread| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let greenlets: Vec<_> = (0..4)
                    .map(|greenlet| {
                        let queue = Arc::clone(&queue);
                        let first = (thread * 4 + greenlet) * EACH;
                        spawn(move || (first..first + EACH).for_each(|n| queue.put(n).unwrap()))
                    })
                    .collect();
                joinall(&greenlets);
            })
        })
        .collect();
    for thread in putting {
        thread.join().unwrap();
    }
    queue.shutdown();
    let mut got: Vec<_> = getting.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    got.extend(queue.iter());
    got.sort_unstable();
    assert!(got.iter().copied().eq(0..8 * EACH), "{} items", got.len());
}
