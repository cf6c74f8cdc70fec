//! `dump`: who spawned whom, what each waits for, and where.

use switchgrass::{Builder, Coroutine, Generator, dump, park, spawn, unblock, yield_now};

use crate::util::*;

#[inline(never)]
fn waits_deep_inside() {
    park();
}

#[test]
fn look() {
    let parent = Builder::new()
        .name("parent")
        .spawn(|| {
            spawn(waits_deep_inside);
            for _ in 0..20 {
                spawn(waits_deep_inside);
            }
            park()
        })
        .unwrap();
    let c = Coroutine::<u32>::new(|_| {
        let main = Coroutine::main();
        main.switch(1).unwrap()
    });
    c.switch(2).unwrap();
    let g = Generator::new(|y, ()| y.yield_(5));
    let _ = g.send(());
    let unst = Coroutine::<u32>::new(|x| x);
    yield_now();
    yield_now();
    println!("{}", dump::to_string());
    let inner = spawn(|| dump::to_string());
    println!("{}", inner.join().unwrap());
    println!(
        "{}",
        std::thread::spawn(|| {
            let g = spawn(|| forever());
            yield_now();
            println!("THREAD {}", dump::to_string());
            g.kill();
        })
        .join()
        .is_ok()
    );
}
