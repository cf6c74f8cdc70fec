//! Stacks: slabs of address space, cut into slots, pooled per hub.
//!
//! ```text
//!            slot 0                      slot 1
//!   ┌───────┬─────────────────┬───────┬───────┬─────────────────┬───────┬──
//!   │ guard │ size            │colour │ guard │ size            │colour │ …      one mmap, one VMA
//!   └───────┴─────────────────┴───────┴───────┴─────────────────┴───────┴──
//!   low                       base
//! ```
//!
//! - **Guards** are put in by `MADV_GUARD_INSTALL` (Linux 6.13), which marks the page table and leaves
//!   the mapping whole. Older kernels get `mprotect`, which splits it: about 32,000 stacks are then the limit
//!   with the default `vm.max_map_count`. From Linux 6.15 on, up to 64 stacks are prepared by one call, their guards and
//!   the memory behind their tops, once there are many; ahead of need by an eighth of what there is.
//! - **Colour**: tops are offset by a multiple of 64 bytes that differs from slot to slot. Without it each
//!   saved frame falls into the same cache set, and a switch among 1,000 contexts costs three times as much.
//!   The guard page makes the distance between slots an odd number of pages (for the default size), which
//!   does the same for the TLB.
//! - **Pages** are committed by touch, and given back by [`Pool::sweep`]: what a deep call has dirtied below a pooled
//!   stack's top [`KEEP`] bytes, and everything of those beyond the [`WARM`] that will be used next. It costs a system
//!   call, and the other cores must be told, so a busy hub does a few per turn, and only if there are many; an idle one does the rest.

use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::mem::{self as pages, page_size};

/// Usable bytes of a stack that nobody asked a size for.
pub(crate) const DEFAULT_SIZE: usize = 256 * 1024;
/// Half of this does not carry a panic with its backtrace (`RUST_BACKTRACE=1`), which takes some 20 KiB of std.
pub(crate) const MIN_SIZE: usize = 32 * 1024;
/// More than this is a mistake in the caller's arithmetic.
pub(crate) const MAX_SIZE: usize = 1 << 30;

/// How much of a warm pooled stack's top stays committed.
const KEEP: usize = 16 * 1024;
/// How many pooled stacks of a size are kept warm: 4 MiB for those that touched one page.
const WARM: usize = 1024;
/// So few dirty stacks are not worth the time of a busy hub.
const FEW: usize = 64;
/// 32 colours of one cache line each do as well as more, and leave half a page to the parked frames.
const COLOURS: usize = 32;
const CACHE_LINE: usize = 64;

/// A slab has at most this many slots, so that one `mmap` is never absurdly large.
const MAX_SLOTS: usize = 16 * 1024;
const FIRST_SLOTS: usize = 32;

/// With this part of what there is already, the next stacks are prepared ahead, [`pages::MOST_RANGES`] at most.
const AHEAD: usize = 8;

/// Set once several could not be prepared by one call: then each is by itself.
static ONE_BY_ONE: AtomicBool = AtomicBool::new(false);

/// Set once `MADV_GUARD_INSTALL` was refused (or a test refuses it): from then on `mprotect` guards.
static GUARDS_BY_MPROTECT: AtomicBool = AtomicBool::new(false);

/// Makes all further guards `mprotect` ones, as on a kernel before 6.13.
pub(crate) fn force_mprotect_guards() {
    GUARDS_BY_MPROTECT.store(true, Ordering::Relaxed);
}

/// A stack: `size` usable bytes below `base`, and a guard page below those.
///
/// # Invariant
///
/// The range `low ..= base` is mapped, its first page faults on access, and nobody else uses it until this
/// value goes back to its pool.
#[derive(Debug)]
pub(crate) struct Stack {
    /// Start of the slot, which is the guard page.
    low: NonNull<u8>,
    /// Where the first frame goes: the end of the slot, less the colour.
    base: NonZeroUsize,
    /// Usable bytes. Names the size class that the stack belongs to.
    size: usize,
    /// In the pool: was used since its deep pages were last given back.
    dirty: bool,
}

// SAFETY: the invariant of `Stack` is what the trait asks for: a guard page at `limit`, at least MIN_SIZE
// usable bytes, and both ends aligned (`low` to a page, `base` to a cache line).
unsafe impl corosensei::stack::Stack for Stack {
    #[inline]
    fn base(&self) -> NonZeroUsize {
        self.base
    }

    #[inline]
    fn limit(&self) -> NonZeroUsize {
        self.low.addr()
    }
}

impl Stack {
    /// Usable bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Start of the guard page.
    pub(crate) fn low(&self) -> NonNull<u8> {
        self.low
    }

    /// Gives all of its memory back to the system. Then it reads as zeros, as if nobody had used it.
    fn clear(&mut self) {
        // SAFETY: the stack is ours and idle, so nothing in it is needed; the range is its own pages.
        unsafe { pages::discard(self.low.add(page_size()), self.size) };
    }

    /// Its lowest pages, all but so many bytes at its top.
    fn below_top(&self, kept: usize) -> (NonNull<u8>, usize) {
        // SAFETY: a slot is a guard page, and then `size` bytes.
        (unsafe { self.low.add(page_size()) }, self.size.saturating_sub(kept))
    }
}

/// The most bytes that were ever in use on a stack that was fresh when its user began.
///
/// # Safety
///
/// `low` and `size` must be those of a live stack, used by this thread only.
pub(crate) unsafe fn used(low: NonNull<u8>, size: usize) -> usize {
    let page = page_size();
    // SAFETY: the usable part of a live stack is mapped.
    let (start, lowest) = unsafe {
        let start = low.add(page);
        (start, pages::lowest_resident(start, size))
    };
    let Some(lowest) = lowest else { return 0 };
    // A page that was never touched reads as zeros, so the deepest word that is not zero was written.
    let words = page / mem::size_of::<usize>();
    // SAFETY: the page is mapped and readable, and no other thread writes to it. It may hold live frames
    // of this very thread, deeper than this one there are none: volatile reads of plain words.
    let untouched = unsafe {
        let first = start.add(lowest * page).cast::<usize>();
        (0..words).take_while(|&i| first.add(i).read_volatile() == 0).count()
    };
    size - lowest * page - untouched * mem::size_of::<usize>()
}

/// Rounds a wished size up to what stacks come in.
///
/// # Errors
///
/// `InvalidInput` beyond [`MAX_SIZE`].
pub(crate) fn round_size(wished: usize) -> io::Result<usize> {
    if wished > MAX_SIZE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a stack of {wished} bytes is more than the maximum of {MAX_SIZE} (1 GiB): ask for less, stacks do not grow"
            ),
        ));
    }
    Ok(wished.max(MIN_SIZE).next_multiple_of(page_size()))
}

/// The stacks of one hub: those in use come from here and come back.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// One per size that was asked for; few, so a linear search.
    classes: Vec<Class>,
    /// How many stacks are in use.
    pub(crate) in_use: usize,
}

#[derive(Debug)]
struct Class {
    size: usize,
    /// Idle stacks; the one that was used last is the first to be used again, as its pages are warm.
    free: Vec<Stack>,
    slabs: Vec<Slab>,
    /// How many in `free` are dirty.
    dirty: usize,
    /// So many at the beginning of `free` hold no memory.
    cold: usize,
}

#[derive(Debug)]
struct Slab {
    start: NonNull<u8>,
    slots: usize,
    /// How many slots were handed out at least once.
    cut: usize,
    /// How many have their guards.
    prepared: usize,
}

impl Pool {
    /// A stack of exactly `size` bytes, which must come from [`round_size`]. `fresh`: with no trace of an
    /// earlier user.
    ///
    /// # Errors
    ///
    /// When the system gives no more address space, maps or memory; the text names the limit and the remedy.
    #[inline]
    pub(crate) fn take(&mut self, size: usize, fresh: bool) -> io::Result<Stack> {
        let class = self.class(size);
        let mut stack = match class.free.pop() {
            Some(stack) => stack,
            None => class.cut()?,
        };
        class.cold = class.cold.min(class.free.len());
        class.dirty -= usize::from(stack.dirty);
        if fresh {
            stack.clear();
        }
        self.in_use += 1;
        Ok(stack)
    }

    /// Takes back a stack that nobody uses any more.
    #[inline]
    pub(crate) fn give_back(&mut self, mut stack: Stack) {
        self.in_use -= 1;
        stack.dirty = true;
        let class = self.class(stack.size);
        class.dirty += 1;
        class.free.push(stack);
    }

    /// Whether pooled stacks hold memory that they need not: at all, or (if the hub is `busy`) so much that it is worth its time.
    #[inline]
    pub(crate) fn has_dirt(&self, busy: bool) -> bool {
        let bearable = if busy { FEW } else { 0 };
        self.classes
            .iter()
            .any(|class| class.dirty > bearable || class.cold + WARM + bearable < class.free.len())
    }

    /// Gives the memory that pooled stacks need not hold back to the system, of `budget` stacks at most.
    #[cold]
    pub(crate) fn sweep(&mut self, mut budget: usize) {
        for class in &mut self.classes {
            budget = class.sweep(budget);
        }
    }

    /// How many stacks are idle.
    pub(crate) fn pooled(&self) -> usize {
        self.classes.iter().map(|class| class.free.len()).sum()
    }

    #[inline]
    fn class(&mut self, size: usize) -> &mut Class {
        let position = match self.classes.iter().position(|class| class.size == size) {
            Some(position) => position,
            None => {
                self.classes.push(Class { size, free: Vec::new(), slabs: Vec::new(), dirty: 0, cold: 0 });
                self.classes.len() - 1
            }
        };
        &mut self.classes[position]
    }
}

impl Class {
    fn sweep(&mut self, budget: usize) -> usize {
        let mut idle = Vec::new();
        // The coldest give everything.
        let cold = self.free.len().saturating_sub(WARM).min(self.cold + budget).max(self.cold);
        let mut budget = budget - (cold - self.cold);
        for stack in &mut self.free[self.cold..cold] {
            idle.push(stack.below_top(0));
            self.dirty -= usize::from(mem::take(&mut stack.dirty));
        }
        self.cold = cold;
        // The warm ones what is below their tops.
        for stack in self.free.iter_mut().rev().take(WARM) {
            if self.dirty == 0 || budget == 0 {
                break;
            }
            if mem::take(&mut stack.dirty) {
                idle.push(stack.below_top(KEEP));
                self.dirty -= 1;
                budget -= 1;
            }
        }
        for ranges in idle.chunks(pages::MOST_RANGES) {
            // SAFETY: these are pages of stacks in the pool, which nobody uses.
            unsafe { pages::discard_all(ranges) };
        }
        budget
    }

    /// A stack that was never used, from the newest slab or a new one.
    #[cold]
    fn cut(&mut self) -> io::Result<Stack> {
        let slot_size = self.size + page_size();
        if self.slabs.last().is_none_or(|slab| slab.cut == slab.slots) {
            self.slabs.push(self.new_slab(slot_size)?);
            // Taking a stack back must not fail, also when the system gives no more memory: so the room for it is made here.
            self.free.reserve(self.slabs.iter().map(|slab| slab.slots).sum());
        }
        let so_far: usize = self.slabs.iter().map(|slab| slab.cut).sum();
        let slab = self.slabs.last_mut().expect("a slab was just made");
        // SAFETY: `cut < slots`, so the slot lies within the slab.
        let low = unsafe { slab.start.add(slab.cut * slot_size) };
        if slab.cut == slab.prepared {
            let wished = (so_far / AHEAD).min(pages::MOST_RANGES).min(slab.slots - slab.cut);
            slab.prepared += prepare(low, slot_size, wished)?;
        }
        let colour = slab.cut % COLOURS * CACHE_LINE;
        slab.cut += 1;
        let base = low.addr().checked_add(slot_size - colour).expect("the slot ends within the slab");
        Ok(Stack { low, base, size: self.size, dirty: false })
    }

    /// Each slab doubles what there is, within reason; less if the system does not have that much in one piece.
    fn new_slab(&self, slot_size: usize) -> io::Result<Slab> {
        let so_far: usize = self.slabs.iter().map(|slab| slab.slots).sum();
        let by_size = ((4_usize << 30) / slot_size).max(1);
        let mut slots = so_far.clamp(FIRST_SLOTS, MAX_SLOTS).min(by_size);
        loop {
            match pages::reserve(slots * slot_size) {
                Ok(start) => return Ok(Slab { start, slots, cut: 0, prepared: 0 }),
                Err(_) if slots > 1 => slots /= 2,
                Err(cause) => return Err(no_address_space(slot_size, &cause)),
            }
        }
    }
}

/// Puts guards into the next slots, so many if it can be done at once, and memory behind their tops. Says how many it was, one at least.
///
/// A stack that is used for the first time costs a system call and a page fault, which is most of what it costs. (A greenlet that starts
/// and parks: 3.9 µs so, 4.8 one by one.)
fn prepare(low: NonNull<u8>, slot_size: usize, wished: usize) -> io::Result<usize> {
    if wished > 1 && !ONE_BY_ONE.load(Ordering::Relaxed) && !GUARDS_BY_MPROTECT.load(Ordering::Relaxed) {
        // SAFETY: these slots lie within a slab, and nobody has used them yet.
        unsafe {
            match pages::install_guards(low, slot_size, wished) {
                Ok(count @ 1..) => {
                    // The colour is less than a page, so this is where the first frame goes.
                    pages::commit(low.add(slot_size - page_size()), slot_size, count);
                    return Ok(count);
                }
                _ => ONE_BY_ONE.store(true, Ordering::Relaxed),
            }
        }
    }
    install_guard(low).map(|()| 1)
}

fn install_guard(page: NonNull<u8>) -> io::Result<()> {
    if !GUARDS_BY_MPROTECT.load(Ordering::Relaxed) {
        // SAFETY: the page is the first of a slot that nobody has used yet.
        match unsafe { pages::install_guard(page) } {
            Ok(()) => return Ok(()),
            // EINVAL: an older kernel, or memory that is locked (mlockall).
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => force_mprotect_guards(),
            Err(error) => return Err(no_guard(&error)),
        }
    }
    // SAFETY: as above.
    unsafe { pages::protect(page) }.map_err(|error| no_guard(&error))
}

#[cold]
fn no_address_space(slot_size: usize, cause: &io::Error) -> io::Error {
    let setting = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    let why = if limit.rlim_cur != libc::RLIM_INFINITY {
        format!(
            "the address space of this process is limited to {} bytes (RLIMIT_AS): raise it with `ulimit -v`, or use smaller stacks (Builder::stack_size)",
            limit.rlim_cur
        )
    } else if setting("/proc/sys/vm/overcommit_memory").as_deref() == Some("2") {
        "vm.overcommit_memory is 2, so that reserved memory counts as used: set it to 0 or 1, or use smaller stacks (Builder::stack_size)".to_owned()
    } else {
        format!(
            "the process may have reached vm.max_map_count ({}) or its address space: raise the setting, or use smaller stacks (Builder::stack_size)",
            setting("/proc/sys/vm/max_map_count").unwrap_or_else(|| "unknown".to_owned())
        )
    };
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        format!("cannot reserve {slot_size} bytes for the stack of a greenlet ({cause}): {why}"),
    )
}

#[cold]
fn no_guard(cause: &io::Error) -> io::Error {
    let text = if cause.raw_os_error() == Some(libc::ENOMEM) && GUARDS_BY_MPROTECT.load(Ordering::Relaxed) {
        format!(
            "cannot protect the guard page of a greenlet's stack ({cause}): each stack needs two memory maps on this kernel, and the process has reached vm.max_map_count; raise it with `sysctl vm.max_map_count=..`, or use Linux 6.13 or newer, where guards need no maps"
        )
    } else {
        format!(
            "cannot install the guard page of a greenlet's stack ({cause}): the system is out of memory for page tables; have fewer greenlets at once, or give the machine or its cgroup more memory"
        )
    };
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A stack that is still in use belongs to a context that could not be unwound. Its memory must
        // stay, for others may borrow from it; which slab it is in is not worth finding out.
        if self.in_use > 0 {
            return;
        }
        for class in &self.classes {
            for slab in &class.slabs {
                // SAFETY: all stacks are back in the pool, so nobody uses the slab.
                unsafe { pages::release(slab.start, slab.slots * (class.size + page_size())) };
            }
        }
    }
}
