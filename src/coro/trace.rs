//! Backtraces: the frames of a stack as plain addresses, and what they are called.
//!
//! Taking one and naming it are apart. To take it is a walk over the stack that neither allocates nor locks, so that a
//! context can do it which has hardly any stack left, or a signal handler. To name it reads the program's debug
//! information, which takes time and stack, and is done wherever there is both.
//!
//! A suspended context is asked for its frames by being resumed while an [`Inspection`] stands where it looks first. It
//! walks its own stack, on the stack of who has resumed it, and suspends again. Nothing of it has changed then: it has
//! used a few hundred bytes below its last frame, and no page that it would not have used at its next call.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

use super::Suspender;

/// So many frames are taken, from the innermost.
pub(crate) const MAX_FRAMES: usize = 128;

/// A context with less stack than this below its last frame is not asked: what it does to answer must fit.
const ROOM: usize = 2048;

/// The frames of one stack, innermost first: addresses of instructions.
#[derive(Clone)]
pub(crate) struct Frames {
    addresses: [usize; MAX_FRAMES],
    len: usize,
}

impl Frames {
    pub(crate) const fn new() -> Self {
        Frames { addresses: [0; MAX_FRAMES], len: 0 }
    }

    pub(crate) fn addresses(&self) -> &[usize] {
        &self.addresses[..self.len]
    }

    /// `false`: that was the last for which there is room.
    fn push(&mut self, address: usize) -> bool {
        self.addresses[self.len] = address;
        self.len += 1;
        self.len < MAX_FRAMES
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Forgets what is above (called by) the frame that stands at `address`, if there is one.
    pub(crate) fn cut_above(&mut self, address: usize) {
        if let Some(first) = self.addresses().iter().position(|&frame| frame == address) {
            self.addresses.copy_within(first..self.len, 0);
            self.len -= first;
        }
    }

    /// The frames of the caller, and of those that called it, as far as they stand on the stack at `own`;
    /// what comes after goes to `rest`.
    #[inline(never)]
    pub(crate) fn of_caller(own: &Range<usize>, rest: &mut Frames) -> Frames {
        let mut frames = Frames::new();
        walk(|address, stack_pointer| {
            if rest.len == 0 && own.contains(&stack_pointer) {
                return frames.push(address);
            }
            rest.push(address)
        });
        frames
    }

    /// The frames of the caller, and of all that called it, on whichever stacks.
    #[inline(never)]
    pub(crate) fn here(&mut self) {
        walk(|address, _| self.push(address));
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

/// Calls `visit` with the instruction and the stack pointer of each frame from here on, until it says `false`.
///
/// Async-signal-safe from glibc 2.35 on, where the unwinder finds its tables without a lock (`_dl_find_object`).
#[inline(always)]
fn walk(mut visit: impl FnMut(usize, usize) -> bool) {
    // SAFETY: the lock that this goes without guards the one unwinder of Windows that needs it.
    unsafe { backtrace::trace_unsynchronized(|frame| visit(frame.ip() as usize, frame.sp() as usize)) };
}

/// What a suspended context is asked.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The context's stack, from the end of its guard page.
    stack: Range<usize>,
    pub(crate) frames: Frames,
    /// `false`: it has too little stack left.
    pub(crate) answered: bool,
}

impl Inspection {
    pub(crate) fn new(stack: Range<usize>) -> Self {
        Inspection { stack, frames: Frames::new(), answered: false }
    }
}

impl Inspection {
    /// Answers, on behalf of the suspended context that calls this.
    ///
    /// # Safety
    ///
    /// `this` must be valid, and nobody else may look at it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn answer(this: NonNull<Inspection>, suspender: &Suspender) {
        // SAFETY: the caller's promise.
        let inspection = unsafe { &mut *this.as_ptr() };
        // Before anything is called: a call might be one too many.
        if stack_pointer().saturating_sub(inspection.stack.start) >= ROOM {
            take(suspender, inspection);
        }
    }
}

#[cold]
#[inline(never)]
fn take(suspender: &Suspender, inspection: &mut Inspection) {
    // The walk itself needs some KiB, which would be pages that this context has never touched: so it is done over there.
    suspender.on_parent_stack(|| {
        let Inspection { stack, frames, answered } = inspection;
        walk(
            |address, stack_pointer| {
                if stack.contains(&stack_pointer) { frames.push(address) } else { frames.len == 0 }
            },
        );
        *answered = true;
    });
}

/// Where the stack of the caller ends.
#[inline(always)]
fn stack_pointer() -> usize {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register.
    unsafe {
        let pointer: usize;
        std::arch::asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags));
        pointer
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // Somewhere in the caller's frame, the end of which is not far.
        let here = 0_u8;
        (&raw const here).addr()
    }
}

/// What a frame is called. Several for one address where calls were inlined, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: String,
    /// The file and the line, where the debug information has them.
    pub(crate) place: Option<(String, u32)>,
}

/// Looks up what stands at `address`, the return address of a frame. Slow, and slower the first time; it allocates and locks.
pub(crate) fn resolve(address: usize) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    // It takes one off, as it does for a frame: a return address may be the first of the next function.
    backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
        let place =
            symbol.filename().map(|file| (file.to_string_lossy().into_owned(), symbol.lineno().unwrap_or(0)));
        let name = symbol.name().map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}"));
        symbols.push(Symbol { name, place });
    });
    if symbols.is_empty() {
        symbols.push(Symbol { name: format!("{address:#x}"), place: None });
    }
    symbols
}

/// Lets go of the debug information that [`resolve`] keeps.
pub(crate) fn forget_symbols() {
    backtrace::clear_symbol_cache();
}
