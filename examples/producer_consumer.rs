//! A producer and a consumer without a queue, a lock or a thread: control goes to and fro with the goods.
//!
//! First the consumer is a `Generator`: the producer sends, and what the consumer yields is the answer. Then both are
//! equals and switch to each other with `Coroutine::switch`, which any two coroutines can.
//!
//! Run with: `cargo run --release --example producer_consumer`

use switchgrass::{Coroutine, Generator, Step};

const OK: &str = "200 OK";

/// The consumer is asked by `send`, and answers by `yield_`.
fn with_a_generator() {
    let consumer = Generator::new(|out, mut n: u32| {
        let mut sum = 0;
        while n > 0 {
            println!("consumer: got {n}");
            sum += n;
            n = out.yield_(OK);
        }
        sum
    });

    // Zero is the end.
    for n in [1, 2, 3, 4, 5, 0] {
        println!("producer: sends {n}");
        match consumer.send(n).expect("it has not ended") {
            Step::Yield(answer) => println!("producer: answer {answer}"),
            Step::Return(sum) => println!("producer: the consumer has ended, with {sum}"),
        }
    }
}

/// What the two give each other: goods one way, answers the other. A switch has one type of message for both ways.
#[derive(Debug)]
enum Message {
    Goods(u32),
    Answer(&'static str),
}

/// Neither is the master of the other: each switches, and its switch returns what the other one gives.
fn with_switches() {
    let main = Coroutine::main();
    let consumer = Coroutine::new(move |mut message| {
        while let Message::Goods(n) = message {
            println!("consumer: got {n}");
            // To whom the answer goes is its decision. The producer is main here.
            message = main.switch(Message::Answer(OK)).expect("main waits for an answer");
        }
        // Its end leads to its parent, with the result: to main again.
        Message::Answer("goodbye")
    });

    for n in 1..=5 {
        println!("producer: sends {n}");
        match consumer.switch(Message::Goods(n)) {
            Ok(Message::Answer(answer)) => println!("producer: answer {answer}"),
            other => panic!("no answer: {other:?}"),
        }
    }

    // Anything but goods ends it.
    let Ok(Message::Answer(goodbye)) = consumer.switch(Message::Answer("bye")) else { panic!("no answer") };
    println!("consumer ends with {goodbye}; dead: {}", consumer.is_dead());
}

fn main() {
    println!("-- with a generator");
    with_a_generator();
    println!("-- with switches");
    with_switches();
}
