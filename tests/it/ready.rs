//! `wait` and `iwait`.

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use switchgrass::process::Command;
use switchgrass::sync::{AsyncResult, Event, Semaphore};
use switchgrass::threadpool::ThreadPool;
use switchgrass::{FdWait, Waitable, io, iwait, sleep, spawn, spawn_later, testing, wait, yield_now};

use crate::util::{Log, secs};

#[test]
fn wait_gives_them_in_the_order_of_becoming_ready() {
    testing::virtual_clock();
    let (slow, fast) = (spawn(|| sleep(secs(2))), spawn(|| sleep(secs(1))));
    let event = Rc::new(Event::new());
    let _setter = spawn_later(secs(3), {
        let event = Rc::clone(&event);
        move || event.set()
    });
    let objects: [&dyn Waitable; 3] = [&*event, &slow, &fast];
    let ready = wait(objects, None, None);
    let place =
        |object: &dyn Waitable| objects.iter().position(|other| std::ptr::addr_eq(*other, object)).unwrap();
    assert_eq!(ready.into_iter().map(place).collect::<Vec<_>>(), [2, 1, 0]);
}

#[test]
fn wait_ends_with_the_count_or_the_time() {
    testing::virtual_clock();
    let greenlets: Vec<_> = (1..=4).map(|n| spawn(move || sleep(secs(n)))).collect();
    assert_eq!(wait(&greenlets, Some(2), None).len(), 2);
    assert_eq!(testing::now(), testing::now());
    assert_eq!(wait(&greenlets, None, Some(secs(1))).len(), 3);
    assert_eq!(wait(&greenlets, Some(0), None).len(), 0);
    assert_eq!(wait(&greenlets, None, None).len(), 4);
    assert_eq!(wait(&Vec::<switchgrass::Greenlet<()>>::new(), None, None).len(), 0);
}

#[test]
fn what_is_listed_twice_is_given_twice() {
    let event = Event::new();
    event.set();
    assert_eq!(wait([&event, &event], None, None).len(), 2);
}

#[test]
fn the_consumer_of_iwait_may_wait_in_between() {
    testing::virtual_clock();
    let greenlets: Vec<_> = (1..=3).map(|n| spawn(move || sleep(secs(n)))).collect();
    let mut seen = 0;
    for greenlet in iwait(&greenlets) {
        assert!(greenlet.is_ready());
        sleep(secs(10));
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn an_iwait_that_is_left_early_leaves_no_watchers() {
    let (event, semaphore) = (Rc::new(Event::new()), Semaphore::new(0));
    let result = AsyncResult::<i32>::new();
    let objects: [&dyn Waitable; 3] = [&*event, &semaphore, &result];
    assert_eq!(iwait(objects).timeout(secs(0)).count(), 0);
    semaphore.release();
    assert!(semaphore.try_acquire().is_some());
    let log = Log::new();
    let waiting = spawn({
        let (event, log) = (Rc::clone(&event), log.clone());
        move || log.add(event.wait().to_string())
    });
    yield_now();
    event.set();
    waiting.join().unwrap();
    assert_eq!(log.take(), "true");
}

#[test]
fn a_semaphore_is_ready_when_a_permit_can_be_had_and_keeps_it() {
    let semaphore = Semaphore::new(1);
    assert_eq!(wait([&semaphore], None, None).len(), 1);
    assert_eq!(semaphore.available(), 1);
    semaphore.acquire().forget();
    let semaphore = Rc::new(semaphore);
    let _releasing = spawn({
        let semaphore = Rc::clone(&semaphore);
        move || semaphore.release()
    });
    assert_eq!(wait([&*semaphore], None, None).len(), 1);
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn wait_for_what_another_thread_does() {
    let (result, event) = (Arc::new(AsyncResult::<i32>::new()), Arc::new(Event::new()));
    let thread = std::thread::spawn({
        let (result, event) = (Arc::clone(&result), Arc::clone(&event));
        move || {
            result.set(1).unwrap();
            event.set();
        }
    });
    let objects: [&dyn Waitable; 2] = [&*event, &*result];
    assert_eq!(wait(objects, None, None).len(), 2);
    thread.join().unwrap();
}

#[test]
fn waiting_for_ten_thousand_takes_no_square_of_time() {
    let greenlets: Vec<_> = (0..10_000).map(|n| spawn(move || n)).collect();
    assert_eq!(iwait(&greenlets).filter_map(|greenlet| greenlet.value()).sum::<i32>(), 49_995_000);
}

#[test]
fn what_a_greenlet_can_wait_for_can_be_waited_for_among_others() {
    let child = spawn(|| assert!(Command::new("true").status().unwrap().success()));
    let job = ThreadPool::new(1).spawn(|| 7);
    let job = spawn(move || assert_eq!(job.join().unwrap(), 7));
    let never = Event::new();
    let objects: [&dyn Waitable; 3] = [&never, &child, &job];
    assert_eq!(wait(objects, Some(2), None).len(), 2);
    child.join().unwrap();
    job.join().unwrap();
}

#[test]
fn a_descriptor_is_waited_for_among_other_things() {
    let (reader, mut writer) = io::pipe().unwrap();
    let (readable, writable) = (FdWait::readable(&reader).unwrap(), FdWait::writable(&writer).unwrap());
    let event = Event::new();
    let objects: [&dyn Waitable; 3] = [&readable, &event, &writable];
    assert_eq!(wait(objects, Some(1), None).len(), 1, "there is room to write");
    let _writing = spawn(move || writer.write_all(b"!").unwrap());
    let ready = wait(objects, Some(2), None);
    assert!(ready.iter().any(|ready| std::ptr::addr_eq(*ready, &raw const readable)));
    drop(reader);
    yield_now();
    assert_eq!(testing::live(), 0, "no greenlet is left that waits");
}
