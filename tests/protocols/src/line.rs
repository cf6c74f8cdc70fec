//! More of `src/wait.rs` than can be run in every order, for Miri: it knows whether a node is touched that has gone.

use std::sync::Arc;

use crate::checks::green;
use crate::sync::semaphore::Semaphore;

#[test]
fn from_a_long_line_anybody_may_go() {
    for leaving in 0..6_usize {
        let semaphore = Arc::new(Semaphore::new(0));
        let line: Vec<_> = (0..5)
            .map(|place| {
                let own = Arc::clone(&semaphore);
                let waiter = green(move || own.acquire().forget());
                while !format!("{semaphore:?}").contains(&format!("waiting: {}", place + 1)) {
                    std::thread::yield_now();
                }
                waiter
            })
            .collect();
        // The first, the last, one in between; two side by side; all but one; nobody.
        for place in [&[0][..], &[4], &[2], &[1, 2], &[0, 1, 3, 4], &[]][leaving] {
            line[*place].task.kill();
        }
        for _ in 0..5 {
            semaphore.release();
        }
        let served = line.into_iter().filter_map(|waiter| waiter.join()).count();
        assert_eq!(served + semaphore.available(), 5);
    }
}
