//! Generators, as in Python: functions that give one value after the other and keep their place in between. Here each
//! has a stack of its own, so it can yield from any depth of calls, recursion included.
//!
//! Run with: `cargo run --release --example generators`

use switchgrass::{Generator, GeneratorState, Step, Yielder};

/// What is sent comes out of the pending `yield_`. The first `send` starts the function, and is its second argument.
fn printer() {
    let printer = Generator::new(|out, mut text: &str| {
        let mut count = 0;
        while !text.is_empty() {
            count += 1;
            println!("  printer: {count}: {text}");
            text = out.yield_(count);
        }
        "nothing to print"
    });
    println!("state: {:?}", printer.state());
    // Primed: it has run to its first `yield_`, and waits there.
    let count = printer.send("the first text starts it").unwrap();
    println!("answer: {count:?}, state: {:?}", printer.state());
    println!("answer: {:?}", printer.send("the second comes out of its yield_").unwrap());
    println!("answer: {:?}", printer.send("").unwrap());
    println!("state: {:?}", printer.state());
    println!("error: {}", printer.send("too late").unwrap_err());
}

/// Yields the sum of what it was sent so far, and returns it when it is sent a negative number.
fn summer() -> Generator<i32, i32, i32> {
    Generator::new(|out, first| {
        let (mut sum, mut n) = (0, first);
        while n >= 0 {
            sum += n;
            n = out.yield_(sum);
        }
        sum
    })
}

/// `yield_from` hands the conversation over to another generator: what is sent goes there, what it yields comes from there, and
/// what it returns in the end is the value of the call.
fn delegation() {
    let two_groups = Generator::new(|out: &Yielder<i32, i32>, mut n| {
        let mut groups = Vec::new();
        for _ in 0..2 {
            let sum = out.yield_from(&summer(), n);
            println!("  the group has {sum}");
            groups.push(sum);
            // The sum of all so far is the answer to what has ended the group.
            n = out.yield_(groups.iter().sum());
        }
        groups
    });
    for n in [1, 2, 3, -1, 10, 20, -1, 0] {
        match two_groups.send(n).unwrap() {
            Step::Yield(sum) => println!("sent {n}: {sum}"),
            Step::Return(groups) => println!("sent {n}: returned {groups:?}"),
        }
    }
}

struct Tree {
    value: char,
    left: Option<Box<Tree>>,
    right: Option<Box<Tree>>,
}

/// `values` in a tree that is as flat as can be.
fn tree(values: &[char]) -> Option<Box<Tree>> {
    let (left, rest) = values.split_at(values.len() / 2);
    let (value, right) = rest.split_first()?;
    Some(Box::new(Tree { value: *value, left: tree(left), right: tree(right) }))
}

/// An ordinary recursive function. It yields from however deep it is; the levels above need not know.
fn walk(out: &Yielder<char, ()>, tree: Option<&Tree>) {
    if let Some(tree) = tree {
        walk(out, tree.left.as_deref());
        out.yield_(tree.value);
        walk(out, tree.right.as_deref());
    }
}

fn recursion() {
    let letters: Vec<char> = ('a'..='o').collect();
    let tree = tree(&letters);
    // Nothing is collected on the way: each letter is found when it is asked for.
    let in_order = Generator::new(move |out, ()| walk(out, tree.as_deref()));
    println!("{}", in_order.collect::<String>());
}

/// A loop without an end, and a caller who takes what it needs.
fn infinity() {
    let fibonacci = Generator::new(|out, ()| {
        let (mut a, mut b) = (0_u64, 1);
        loop {
            out.yield_(a);
            (a, b) = (b, a + b);
        }
    });
    let small: Vec<u64> = (&fibonacci).take_while(|&n| n < 100).collect();
    println!("{small:?}");
    // 144 was taken, too, to see that it is too much. The loop stands where it was, and would go on.
    assert_eq!(fibonacci.state(), GeneratorState::Suspended);
    println!("and then {:?}", (&fibonacci).take(2).collect::<Vec<u64>>());
    // Dropping it unwinds it: its destructors run.
}

fn main() {
    println!("-- a printer that counts what it is sent");
    printer();
    println!("-- delegation");
    delegation();
    println!("-- a recursive walk");
    recursion();
    println!("-- an infinite list, cut short");
    infinity();
}
