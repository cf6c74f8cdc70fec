//! Queues, channels, selects, and somebody else's channel.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchgrass::channel::{self, Receiver, Sender};
use switchgrass::queue::{GetError, LifoQueue, PriorityQueue, PutError, Queue, QueueOf, Store};
use switchgrass::{Waitable, block_on, iwait, scope, select, spawn, wait, yield_now};

use super::Place::{Anywhere, Nested};
use super::items::{Fate, Item};
use super::{Actor, Operation, World, check, operation};

pub(super) const OPERATIONS: &[Operation] = &[
    operation("put", Anywhere, put),
    operation("put again", Anywhere, put),
    operation("get", Anywhere, get),
    operation("get again", Anywhere, get),
    operation("peek", Anywhere, peek),
    operation("iterate over queue", Anywhere, iterate),
    operation("resize queue", Anywhere, resize),
    operation("send", Anywhere, send),
    operation("send again", Anywhere, send),
    operation("receive", Anywhere, receive),
    operation("receive again", Anywhere, receive),
    operation("select of two receives", Anywhere, select_receives),
    operation("select of two sends", Anywhere, select_sends),
    operation("select of both", Anywhere, select_both),
    operation("select on one channel", Anywhere, select_on_one),
    operation("select with default", Anywhere, select_now),
    operation("async send", Anywhere, async_send),
    operation("async receive", Anywhere, async_receive),
    operation("wait for many", Anywhere, wait_for_many),
    operation("own channel", Nested, own_channel),
    operation("own queue", Nested, own_queue),
];

pub(super) struct Flow {
    queues: Vec<Box<dyn AnyQueue>>,
    channels: Vec<Channel>,
    foreign: (async_channel::Sender<Item>, async_channel::Receiver<Item>),
}

/// One end is gone when the run comes to its end.
struct Channel {
    sender: Mutex<Option<Sender<Item>>>,
    receiver: Mutex<Option<Receiver<Item>>>,
}

/// Whichever order it has.
trait AnyQueue: Waitable + fmt::Debug + Send + Sync {
    fn put(&self, item: Item, how: How) -> Result<(), Item>;
    fn get(&self, how: How) -> Result<Item, GetError>;
    fn peek(&self, how: How) -> Result<Item, GetError>;
    fn some(&self, count: usize) -> Vec<Item>;
    fn resize(&self, capacity: usize);
    fn shut_down(&self);
    /// How many are there, how many could be, how many wait to get, and to put.
    fn numbers(&self) -> [usize; 4];
}

#[derive(Clone, Copy)]
enum How {
    Forever,
    For(Duration),
    Now,
}

impl<S: Store<Item>> AnyQueue for QueueOf<Item, S>
where
    QueueOf<Item, S>: Send + Sync,
{
    fn put(&self, item: Item, how: How) -> Result<(), Item> {
        match how {
            How::Forever => QueueOf::put(self, item),
            How::For(time) => self.put_timeout(item, time),
            How::Now => self.try_put(item),
        }
        .map_err(PutError::into_inner)
    }

    fn get(&self, how: How) -> Result<Item, GetError> {
        match how {
            How::Forever => QueueOf::get(self),
            How::For(time) => self.get_timeout(time),
            How::Now => self.try_get(),
        }
    }

    fn peek(&self, how: How) -> Result<Item, GetError> {
        match how {
            How::Forever => QueueOf::peek(self),
            How::For(time) => self.peek_timeout(time),
            How::Now => self.try_peek(),
        }
    }

    fn some(&self, count: usize) -> Vec<Item> {
        self.iter().take(count).collect()
    }

    fn resize(&self, capacity: usize) {
        self.set_capacity(Some(capacity));
    }

    fn shut_down(&self) {
        self.shutdown();
    }

    fn numbers(&self) -> [usize; 4] {
        [self.len(), self.capacity().unwrap_or(usize::MAX), self.getting(), self.putting()]
    }
}

impl Flow {
    pub(super) fn new() -> Self {
        Flow {
            queues: vec![
                Box::new(Queue::bounded(0)),
                Box::new(Queue::bounded(2)),
                Box::new(Queue::unbounded()),
                Box::new(PriorityQueue::bounded(2)),
                Box::new(LifoQueue::bounded(1)),
            ],
            channels: [0, 0, 1, 3, usize::MAX]
                .map(|capacity| {
                    let (sender, receiver) = match capacity {
                        usize::MAX => channel::unbounded(),
                        _ => channel::bounded(capacity),
                    };
                    Channel { sender: Mutex::new(Some(sender)), receiver: Mutex::new(Some(receiver)) }
                })
                .into(),
            foreign: async_channel::bounded(2),
        }
    }

    /// Nothing more comes. Gives the functions that get what is there, until nothing can come any more.
    pub(super) fn end(&self) -> Vec<Box<dyn Fn(&World) + '_>> {
        let mut drains: Vec<Box<dyn Fn(&World) + '_>> = Vec::new();
        for queue in &self.queues {
            queue.shut_down();
            drains.push(Box::new(|world| {
                while let Ok(item) = queue.get(How::Forever) {
                    world.note(item.got());
                }
            }));
        }
        for channel in &self.channels {
            drop(channel.sender.lock().unwrap().take());
            let receiver = channel.receiver.lock().unwrap().clone().expect("it is taken once");
            drains.push(Box::new(move |world| receiver.iter().for_each(|item| world.note(item.got()))));
        }
        self.foreign.0.close();
        drains.push(Box::new(|world| {
            while let Ok(item) = block_on(self.foreign.1.recv()) {
                world.note(item.got());
            }
        }));
        drains
    }

    /// Everybody has gone: gets what came back after that.
    pub(super) fn look(&self, world: &World) {
        for queue in &self.queues {
            while let Ok(item) = queue.get(How::Now) {
                world.note(item.got());
            }
            let [items, _, getting, putting] = queue.numbers();
            check((items, getting, putting) == (0, 0, 0), || format!("{queue:?} is not empty"));
        }
        for channel in &self.channels {
            let receiver = channel.receiver.lock().unwrap().take().expect("it is taken once");
            receiver.try_iter().for_each(|item| world.note(item.got()));
            let found = format!("{receiver:?}");
            let expected = "Receiver { messages: 0, sending: 0, receiving: 0, .. }";
            check(found == expected, || format!("{found} is not empty"));
        }
        while let Ok(item) = self.foreign.1.try_recv() {
            world.note(item.got());
        }
    }

    /// Whether nobody waits for what is there.
    pub(super) fn look_while_quiet(&self) -> Result<(), String> {
        for queue in &self.queues {
            let [items, capacity, getting, putting] = queue.numbers();
            let is_right = (items == 0 || getting == 0) && (items >= capacity || putting == 0);
            is_right.then_some(()).ok_or_else(|| format!("who waits? {queue:?}, room for {capacity}"))?;
        }
        for channel in &self.channels {
            let channel = format!("{:?}", channel.receiver.lock().unwrap());
            let is_right = channel.contains("messages: 0") || channel.contains("receiving: 0");
            is_right.then_some(()).ok_or_else(|| format!("who waits? {channel}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let receivers: Vec<_> =
            self.channels.iter().map(|channel| channel.receiver.lock().unwrap()).collect();
        f.debug_struct("Flow")
            .field("queues", &self.queues)
            .field("channels", &receivers)
            .finish_non_exhaustive()
    }
}

impl Actor {
    fn queue(&self) -> &dyn AnyQueue {
        let queues = &self.world.flow.queues;
        &*queues[self.below(queues.len() as u64) as usize]
    }

    fn channel(&self) -> &Channel {
        let channels = &self.world.flow.channels;
        &channels[self.below(channels.len() as u64) as usize]
    }

    fn sender(&self) -> Option<Sender<Item>> {
        self.channel().sender.lock().unwrap().clone()
    }

    fn receiver(&self) -> Option<Receiver<Item>> {
        self.channel().receiver.lock().unwrap().clone()
    }

    fn how(&self) -> How {
        match self.below(4) {
            0 => How::Now,
            1 => How::For(self.time()),
            _ => How::Forever,
        }
    }

    pub(super) fn put(&self, put: impl FnOnce(Item) -> Result<(), Item>) -> bool {
        self.world.items.put(self.below(10), None, put)
    }

    pub(super) fn got(&self, item: Item) {
        self.world.note(item.got());
    }

    fn got_any(&self, item: Option<Item>) {
        if let Some(item) = item {
            self.got(item);
        }
    }

    /// What cannot wait.
    pub(super) fn put_or_get_now(&self) {
        match self.below(4) {
            0 => drop(self.put(|item| self.queue().put(item, How::Now))),
            1 => drop(self.queue().get(How::Now).map(|item| self.got(item))),
            2 => {
                if let Some(sender) = self.sender() {
                    self.put(|item| sender.try_send(item).map_err(channel_item));
                }
            }
            _ => {
                if let Some(Ok(item)) = self.receiver().map(|receiver| receiver.try_recv()) {
                    self.got(item);
                }
            }
        }
    }
}

fn channel_item(error: channel::TrySendError<Item>) -> Item {
    match error {
        channel::TrySendError::Full(item) | channel::TrySendError::Disconnected(item) => item,
    }
}

fn put(actor: &Actor) {
    let (queue, how) = (actor.queue(), actor.how());
    actor.limited(|| actor.put(|item| queue.put(item, how)));
}

fn get(actor: &Actor) {
    let (queue, how) = (actor.queue(), actor.how());
    actor.limited(|| queue.get(how).map(|item| actor.got(item)));
}

fn peek(actor: &Actor) {
    let (queue, how) = (actor.queue(), actor.how());
    actor.limited(|| drop(queue.peek(how)));
}

fn iterate(actor: &Actor) {
    let queue = actor.queue();
    actor.limited(|| {
        // What a kill or a timeout finds in the list is got, too.
        let mut some = Kept(actor, Vec::new());
        for _ in 0..actor.below(4) {
            some.1.extend(queue.some(1));
        }
    });
}

struct Kept<'a>(&'a Actor, Vec<Item>);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.1.drain(..).for_each(|item| self.0.got(item));
    }
}

/// Only of one of them, the first with room.
fn resize(actor: &Actor) {
    actor.world.flow.queues[1].resize(actor.below(4) as usize);
}

fn send(actor: &Actor) {
    let Some(sender) = actor.sender() else { return };
    actor.limited(|| {
        actor.put(|item| match actor.how() {
            How::Forever => sender.send(item).map_err(|error| error.0),
            How::For(time) => sender.send_timeout(item, time).map_err(|error| error.into_inner()),
            How::Now => sender.try_send(item).map_err(channel_item),
        })
    });
}

fn receive(actor: &Actor) {
    let Some(receiver) = actor.receiver() else { return };
    actor.limited(|| {
        let item = match actor.how() {
            How::Forever => receiver.recv().ok(),
            How::For(time) => receiver.recv_timeout(time).ok(),
            How::Now => receiver.try_recv().ok(),
        };
        item.map(|item| actor.got(item))
    });
}

/// An item that is made when its send has been chosen.
#[derive(Default)]
struct Late(RefCell<Option<Arc<Fate>>>);

impl Late {
    fn make(&self, actor: &Actor) -> Item {
        // A kill may strike when the send is chosen, and has no item yet.
        actor.pause();
        let item = actor.world.items.make(0, None);
        self.0.replace(Some(item.fate()));
        item
    }

    fn sent(&self, result: Result<(), channel::SendError<Item>>) {
        let fate = self.0.take().expect("it was made");
        fate.settle(result.map_err(|error| error.0));
    }
}

fn select_receives(actor: &Actor) {
    let (Some(a), Some(b)) = (actor.receiver(), actor.receiver()) else { return };
    actor.limited(|| {
        let item = select! {
            recv(a) -> item => item.ok(),
            recv(b) -> item => item.ok(),
        };
        item.map(|item| actor.got(item))
    });
}

fn select_sends(actor: &Actor) {
    let (Some(a), Some(b)) = (actor.sender(), actor.sender()) else { return };
    let (late, other) = (Late::default(), Late::default());
    actor.limited(|| {
        select! {
            send(a, late.make(actor)) -> result => late.sent(result),
            send(b, other.make(actor)) -> result => other.sent(result),
        }
    });
}

fn select_both(actor: &Actor) {
    let (Some(a), Some(b)) = (actor.receiver(), actor.sender()) else { return };
    let late = Late::default();
    // With a limit: both may be of one channel, or of two between which two of these wait for each other's drain.
    select! {
        recv(a) -> item => actor.got_any(item.ok()),
        send(b, late.make(actor)) -> result => late.sent(result),
        default(actor.time()) => {}
    }
}

fn select_on_one(actor: &Actor) {
    let channel = actor.channel();
    let sender = channel.sender.lock().unwrap().clone();
    let receiver = channel.receiver.lock().unwrap().clone();
    let (Some(sender), Some(receiver)) = (sender, receiver) else { return };
    let late = Late::default();
    select! {
        send(sender, late.make(actor)) -> result => late.sent(result),
        recv(receiver) -> item => actor.got_any(item.ok()),
        default(actor.time()) => {}
    }
}

fn select_now(actor: &Actor) {
    let (Some(a), Some(b)) = (actor.sender(), actor.receiver()) else { return };
    let late = Late::default();
    select! {
        send(a, late.make(actor)) -> result => late.sent(result),
        recv(b) -> item => actor.got_any(item.ok()),
        default => yield_now(),
    }
}

fn async_send(actor: &Actor) {
    let sender = &actor.world.flow.foreign.0;
    actor.limited(|| actor.put(|item| block_on(sender.send(item)).map_err(|error| error.0)));
}

fn async_receive(actor: &Actor) {
    let receiver = &actor.world.flow.foreign.1;
    actor.limited(|| block_on(receiver.recv()).map(|item| actor.got(item)));
}

fn wait_for_many(actor: &Actor) {
    let locks = &actor.world.locks;
    let result = locks.results.lock().unwrap().first().cloned();
    let (queue, other) = (actor.queue(), actor.queue());
    let mut objects: Vec<&dyn Waitable> =
        vec![&locks.event, &locks.semaphore.0, &locks.bounded.0, queue, other];
    objects.extend(result.as_deref().map(|result| -> &dyn Waitable { result }));
    let count = objects.len();
    match actor.below(3) {
        0 => drop(wait(objects, None, Some(actor.time()))),
        1 => drop(actor.limited(|| {
            let most = 1 + actor.below(3) as usize;
            let ready = wait(objects, Some(most), None).len();
            check(ready == most, || format!("{ready} of {most} are ready"));
        })),
        _ => drop(actor.limited(|| {
            let ready = iwait(objects).count();
            check(ready == count, || format!("{ready} of {count} are ready"));
        })),
    }
}

/// One that is closed by dropping. If its receiver comes to the end, nothing was lost.
fn own_channel(actor: &Actor) {
    let (sender, receiver) = match actor.below(4) {
        3 => channel::unbounded(),
        capacity => channel::bounded(capacity as usize),
    };
    let may_be_lost = Arc::new(AtomicBool::new(true));
    for _ in 0..1 + actor.below(3) {
        let (child, sender, may_be_lost) = (actor.child(), sender.clone(), Arc::clone(&may_be_lost));
        drop(spawn(move || {
            child.enter();
            for _ in 0..child.below(6) {
                let item = child.world.items.make(0, Some(&may_be_lost));
                let fate = item.fate();
                fate.settle(sender.send(item).map_err(|error| error.0));
                child.pause();
            }
        }));
    }
    drop(sender);
    actor.limited(|| {
        for item in receiver {
            actor.got(item);
            actor.pause();
        }
        may_be_lost.store(false, SeqCst);
    });
}

/// With workers, which may be killed; and tasks that are done. If nothing interrupts this, nothing was lost.
fn own_queue(actor: &Actor) {
    let queue = match actor.below(4) {
        3 => Queue::unbounded(),
        capacity => Queue::bounded(capacity as usize),
    };
    let may_be_lost = Arc::new(AtomicBool::new(true));
    let ends_at_once = actor.below(2) == 0;
    scope(|s| {
        for _ in 0..1 + actor.below(3) {
            s.spawn(|| {
                let child = actor.child();
                child.enter();
                for item in &queue {
                    let _done = Done(&queue);
                    actor.got(item);
                    child.pause();
                }
            });
        }
        // Whatever comes: the workers end.
        let _end = End(&queue);
        for _ in 0..actor.below(8) {
            let put = |item| queue.put_timeout(item, actor.time()).map_err(PutError::into_inner);
            actor.world.items.put(0, Some(&may_be_lost), put);
        }
        if actor.below(2) == 0 && queue.join_timeout(actor.time()) {
            check(queue.unfinished() == 0, || format!("{} are not done", queue.unfinished()));
        }
        if ends_at_once {
            queue.shutdown_now().into_iter().for_each(|item| actor.got(item));
        }
    });
    queue.shutdown_now().into_iter().for_each(|item| actor.got(item));
    check(queue.unfinished() == 0, || format!("{} are not done", queue.unfinished()));
    // What is on its way to one who is killed then is dropped.
    may_be_lost.store(ends_at_once, SeqCst);
}

struct Done<'a>(&'a Queue<Item>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.task_done();
    }
}

struct End<'a>(&'a Queue<Item>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
