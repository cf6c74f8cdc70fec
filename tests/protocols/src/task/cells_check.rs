//! `src/task/cells.rs`, for Miri: memory given back with another layout than it was taken with, or twice, or used after that, is an error there.

use std::alloc::Layout;

use super::cells::{self, Cells};

#[test]
fn cells_are_used_again_and_given_back() {
    let home = Cells::new();
    // Of several classes; too large, and too much aligned to be kept.
    let layouts = [(1, 1), (64, 8), (65, 8), (1024, 16), (1025, 8), (4096, 8), (64, 64)]
        .map(|(size, align)| Layout::from_size_align(size, align).unwrap());
    for round in 0..3 {
        let taken: Vec<_> = layouts
            .iter()
            .cycle()
            .take(21)
            .map(|layout| {
                let cell = home.allocate(*layout);
                assert_eq!(cell.addr().get() % layout.align(), 0);
                // SAFETY: it is that large, and ours.
                unsafe { cell.write_bytes(round, layout.size()) };
                (cell, *layout)
            })
            .collect();
        for (number, (cell, layout)) in taken.into_iter().enumerate() {
            if number % 5 == 0 {
                // SAFETY: it was taken with that layout. As another thread does it.
                unsafe { cells::free(cell, layout) };
            } else {
                // SAFETY: as above.
                unsafe { home.free(cell, layout) };
            }
        }
        home.trim();
    }
    home.clear();
}
