//! Memory of tasks: in blocks, and kept for the next ones.
//!
//! A program that spawns does so again and again with closures of the same sizes, often a thousand at a time; malloc
//! has its fast path for seven of a size only. So each home keeps some empty cells per size. And a cell begins with a
//! cache line, which malloc does not do by itself, and slowly if asked: what each switch touches lies in the first line
//! of a task (1,000 yields in turn: 24 ns each where it lay across two, 18 so).
//!
//! A cell may end on any thread, so each knows its block, which goes when all of its cells have been given back.

use std::alloc::{self, Layout};
use std::cell::RefCell;
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// Sizes are rounded up to this: a cache line.
const STEP: usize = 64;
/// Cells of up to this many steps are kept.
const CLASSES: usize = 16;
/// How many cells a block has: some 60 KiB of usual ones. glibc grows the arena of a thread by a system call per block, which all threads wait for.
const CELLS: usize = 128;
/// How many of a size are kept while the hub is busy, since a batch as large as the last one may follow …
const KEPT_BUSY: usize = 256 * 1024;
/// … and when it has nothing to do: up to 2 MiB of usual cells.
const KEPT_IDLE: usize = 4 * 1024;

/// The empty cells of one home, by size. Owner's thread only.
pub(super) struct Cells {
    empty: RefCell<[Vec<NonNull<u8>>; CLASSES]>,
}

/// What stands before the cells of a block, and takes a line of its own.
#[repr(C, align(64))]
struct Block {
    layout: Layout,
    /// How many of the cells are somebody's, or in a list of empty ones.
    cells: AtomicUsize,
}

/// The class of a cell, if cells of that size come from blocks.
#[inline]
fn class(layout: Layout) -> Option<usize> {
    // Behind the cell, there is a pointer to its block.
    let steps = (layout.size() + size_of::<NonNull<Block>>()).div_ceil(STEP);
    (steps <= CLASSES && layout.align() <= STEP).then(|| steps - 1)
}

/// Where the cell of a class has the pointer to its block.
#[inline]
fn block_of(cell: NonNull<u8>, class: usize) -> NonNull<NonNull<Block>> {
    let offset = (class + 1) * STEP - size_of::<NonNull<Block>>();
    // SAFETY: a cell of this class has `class + 1` steps.
    unsafe { cell.byte_add(offset) }.cast()
}

impl Cells {
    pub(super) const fn new() -> Self {
        Cells { empty: RefCell::new([const { Vec::new() }; CLASSES]) }
    }

    /// Memory for a cell.
    #[inline]
    pub(super) fn allocate(&self, layout: Layout) -> NonNull<u8> {
        let Some(class) = class(layout) else { return allocate(layout) };
        let empty = &mut self.empty.borrow_mut()[class];
        match empty.pop() {
            Some(cell) => cell,
            None => open_block(class, empty),
        }
    }

    /// Takes back the memory of a cell.
    ///
    /// # Safety
    ///
    /// It must come from [`Cells::allocate`] with that layout, of whichever home, and nobody may use it.
    #[inline]
    pub(super) unsafe fn free(&self, cell: NonNull<u8>, layout: Layout) {
        if let Some(class) = class(layout) {
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
            for cell in empty.drain(kept..) {
                // SAFETY: it is a cell of this class, and empty.
                unsafe { leave_block(cell, class) };
            }
            empty.shrink_to(kept);
        }
    }
}

/// A cell of a new block, whose others are put into the list.
#[cold]
#[inline(never)]
fn open_block(class: usize, empty: &mut Vec<NonNull<u8>>) -> NonNull<u8> {
    let size = (class + 1) * STEP;
    let layout = Layout::from_size_align(size_of::<Block>() + CELLS * size, STEP).expect("some KiB");
    let block = allocate(layout).cast::<Block>();
    // SAFETY: the memory is new, begins with room for a `Block`, and is aligned for it.
    unsafe { block.write(Block { layout, cells: AtomicUsize::new(CELLS) }) };
    // The first one is used first.
    for index in (0..CELLS).rev() {
        // SAFETY: behind the head, there are so many cells of that size.
        let cell = unsafe { block.add(1).cast::<u8>().byte_add(index * size) };
        // SAFETY: the place is in that cell, and nobody else knows of it. It is aligned, since sizes are whole lines.
        unsafe { block_of(cell, class).write(block) };
        empty.push(cell);
    }
    empty.pop().expect("they were just put there")
}

/// Gives a cell back to its block, and the block to the allocator if that was the last one.
///
/// # Safety
///
/// It must be a cell of that class which is nobody's, and in no list.
unsafe fn leave_block(cell: NonNull<u8>, class: usize) {
    // SAFETY: `open_block` has written the pointer, where a task does not reach. The block is there while a cell of it is.
    let block = unsafe { block_of(cell, class).read() };
    // SAFETY: as above.
    let before = unsafe { block.as_ref() }.cells.fetch_sub(1, Ordering::Release);
    if before == 1 {
        // What other threads did to their cells came before this.
        fence(Ordering::Acquire);
        // SAFETY: all cells have left, so nobody knows of the block any more.
        unsafe { alloc::dealloc(block.as_ptr().cast(), block.as_ref().layout) };
    }
}

#[cold]
fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: a cell holds a task, and a block has a head, so the size is not zero.
    NonNull::new(unsafe { alloc::alloc(layout) }).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Gives a cell back, on any thread.
///
/// # Safety
///
/// As for [`Cells::free`].
#[cold]
pub(super) unsafe fn free(cell: NonNull<u8>, layout: Layout) {
    match class(layout) {
        // SAFETY: the caller's promise; it was in no list, since it was somebody's.
        Some(class) => unsafe { leave_block(cell, class) },
        // SAFETY: `Cells::allocate` has allocated it so.
        None => unsafe { alloc::dealloc(cell.as_ptr(), layout) },
    }
}
