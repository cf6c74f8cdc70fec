//! Items from one greenlet to another, through a queue.

use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use switchgrass::queue::{PriorityQueue, Queue, QueueOf, Store};
use switchgrass::spawn;

use crate::{Keys, Outcome, check, per};

/// Two greenlets over two queues with room for one item.
pub(crate) fn ping_pong(keys: &Keys) -> Outcome {
    let n = keys.number("n", 4_000_000) / 2;
    let (there, back) = (Rc::new(Queue::bounded(1)), Rc::new(Queue::bounded(1)));
    let (requests, answers) = (Rc::clone(&there), Rc::clone(&back));
    let pong =
        spawn(move || requests.iter().for_each(|request| answers.put(request + 1).expect("it is open")));
    let start = Instant::now();
    let ping = spawn(move || {
        let right = (0..n).filter(|&i| there.put(i).is_ok() && back.get() == Ok(i + 1)).count();
        there.shutdown();
        right
    });
    let right = ping.join().expect("it does not panic");
    pong.join().expect("it does not panic");
    let elapsed = start.elapsed();
    check("right answers", right as u64, n)?;
    Ok((per(elapsed, n * 2), "ns/item", vec![]))
}

pub(crate) fn throughput(keys: &Keys) -> Outcome {
    let capacity = keys.number("cap", 128) as usize;
    match keys.text("mode", "").as_str() {
        "" => put_and_get(keys, Queue::bounded(capacity)),
        "priority" => put_and_get(keys, PriorityQueue::bounded(capacity)),
        other => Err(format!("--mode is pingpong or priority, not {other}")),
    }
}

/// One who puts, one who gets, each on a hub of its own if there are two threads.
fn put_and_get<S: Store<u64> + Send + 'static>(keys: &Keys, queue: QueueOf<u64, S>) -> Outcome {
    let n = keys.number("n", 10_000_000);
    let queue = Arc::new(queue);
    let put = {
        let queue = Arc::clone(&queue);
        move || {
            (0..n).for_each(|i| queue.put(i).expect("it is open"));
            queue.shutdown();
        }
    };
    let get = move || queue.iter().sum::<u64>();
    let start = Instant::now();
    let sum = if keys.number("threads", 1) == 1 {
        let putting = spawn(put);
        let sum = spawn(get).join();
        putting.join().expect("it does not panic");
        sum
    } else {
        let putting = thread::spawn(move || spawn(put).join());
        let sum = spawn(get).join();
        putting.join().expect("it does not panic").expect("it does not panic");
        sum
    };
    let elapsed = start.elapsed();
    check("sum", sum.expect("it does not panic"), n * (n - 1) / 2)?;
    Ok(((n as f64 / elapsed.as_secs_f64()).round(), "items/s", vec![]))
}
