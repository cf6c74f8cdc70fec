//! Two coroutines that switch to each other: 12, 56, 34, 78. What happens where is decided by nobody but them.
//!
//! Run with: `cargo run --release --example switch`

use std::cell::OnceCell;
use std::rc::Rc;

use switchgrass::Coroutine;

fn main() {
    let second = Rc::new(OnceCell::<Coroutine<()>>::new());

    let first = {
        let second = Rc::clone(&second);
        Coroutine::new(move |()| {
            println!("12");
            second.get().expect("set below").switch(()).expect("it switches back");
            println!("34");
            // Its end would lead to main, its parent. Let the other one end first.
            second.get().expect("set below").switch(()).expect("its end leads to main, not here");
        })
    };
    let back = first.clone();
    second
        .set(Coroutine::new(move |()| {
            println!("56");
            back.switch(()).expect("it switches back");
            println!("78");
        }))
        .expect("set once");

    first.switch(()).expect("the end of the second leads here");
}
