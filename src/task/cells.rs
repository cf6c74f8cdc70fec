//! Memory of ended tasks, kept for the next ones.
//!
//! A program that spawns does so again and again with closures of the same sizes, often a thousand at a time; malloc has its
//! fast path for seven of a size only. So each home keeps some empty cells per size.

use std::alloc::{self, Layout};
use std::cell::RefCell;
use std::ptr::NonNull;

/// Sizes are rounded up to this.
const STEP: usize = 64;
/// Cells of up to this many steps are kept.
const CLASSES: usize = 16;
/// How many of a size are kept while the hub is busy, since a batch as large as the last one may follow …
const KEPT_BUSY: usize = 256 * 1024;
/// … and when it has nothing to do: up to 2 MiB of usual cells.
const KEPT_IDLE: usize = 4 * 1024;

/// The empty cells of one home, by size. Owner's thread only.
pub(super) struct Cells {
    empty: RefCell<[Vec<NonNull<u8>>; CLASSES]>,
}

/// The layout that is really allocated for a cell, and its class, if cells of that size are kept.
#[inline]
fn class(layout: Layout) -> Option<(usize, Layout)> {
    let steps = layout.size().div_ceil(STEP);
    if steps == 0 || steps > CLASSES || layout.align() > 16 {
        return None;
    }
    Some((steps - 1, Layout::from_size_align(steps * STEP, 16).ok()?))
}

impl Cells {
    pub(super) const fn new() -> Self {
        Cells { empty: RefCell::new([const { Vec::new() }; CLASSES]) }
    }

    /// Memory for a cell.
    #[inline]
    pub(super) fn allocate(&self, layout: Layout) -> NonNull<u8> {
        let Some((class, rounded)) = class(layout) else { return allocate(layout) };
        match self.empty.borrow_mut()[class].pop() {
            Some(cell) => cell,
            None => allocate(rounded),
        }
    }

    /// Takes back the memory of a cell.
    ///
    /// # Safety
    ///
    /// It must come from [`Cells::allocate`] with that layout, of whichever home, and nobody may use it.
    #[inline]
    pub(super) unsafe fn free(&self, cell: NonNull<u8>, layout: Layout) {
        if let Some((class, _)) = class(layout) {
            let empty = &mut self.empty.borrow_mut()[class];
            // At the limit of memory or of maps even this list cannot grow; then the cell goes, and makes room.
            if empty.len() < empty.capacity() || (empty.len() < KEPT_BUSY && empty.try_reserve(1).is_ok()) {
                empty.push(cell);
                return;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { free(cell, layout) };
    }

    /// Whether there is more than an idle hub keeps.
    pub(super) fn keep_much(&self) -> bool {
        self.empty.borrow().iter().any(|empty| empty.len() > KEPT_IDLE)
    }

    /// Gives back what was kept for a busy hub.
    #[inline]
    pub(super) fn trim(&self) {
        self.keep(KEPT_IDLE);
    }

    /// Gives everything back to the allocator.
    pub(super) fn clear(&self) {
        self.keep(0);
    }

    fn keep(&self, kept: usize) {
        for (class, empty) in self.empty.borrow_mut().iter_mut().enumerate() {
            if empty.len() <= kept {
                continue;
            }
            let layout = Layout::from_size_align((class + 1) * STEP, 16).expect("a small power of two");
            for cell in empty.drain(kept..) {
                // SAFETY: cells of this class were allocated with this layout, and are empty.
                unsafe { alloc::dealloc(cell.as_ptr(), layout) };
            }
            empty.shrink_to(kept);
        }
    }
}

#[cold]
fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: a cell holds a task, so its size is not zero.
    NonNull::new(unsafe { alloc::alloc(layout) }).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Gives a cell back to the allocator, on any thread.
///
/// # Safety
///
/// As for [`Cells::free`].
#[cold]
pub(super) unsafe fn free(cell: NonNull<u8>, layout: Layout) {
    let layout = class(layout).map_or(layout, |(_, rounded)| rounded);
    // SAFETY: `Cells::allocate` has allocated it with the same rounding.
    unsafe { alloc::dealloc(cell.as_ptr(), layout) };
}
