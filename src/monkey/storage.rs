//! Which memory is the calling thread's own: that of the program's `thread_local!` values.

use std::cell::Cell;
use std::sync::OnceLock;

use libc::{PT_TLS, c_int, c_void, dl_phdr_info, size_t};

thread_local! {
    /// In the block of each thread at the same place.
    static MARK: Cell<u8> = const { Cell::new(0) };
}

fn mark() -> usize {
    MARK.with(|mark| mark.as_ptr().addr())
}

/// How far the mark is within the block, and how long that is.
static BLOCK: OnceLock<(usize, usize)> = OnceLock::new();

/// Finds the block that this crate's thread-locals are in, with those of all Rust crates that were linked with it.
/// Where there is none to be found, no memory counts as the thread's own.
pub(super) fn learn() {
    if BLOCK.get().is_some() {
        return;
    }
    let mut found: Option<(usize, usize)> = None;
    // SAFETY: the function is called for each loaded file, only during this call, with what `found` points to.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    if let Some((start, len)) = found {
        let _ = BLOCK.set((mark() - start, len));
    }
}

unsafe extern "C" fn look(file: *mut dl_phdr_info, _size: size_t, found: *mut c_void) -> c_int {
    // SAFETY: the loader describes a file, and has so many headers there; `found` is that of `learn`.
    let (file, headers, found) = unsafe {
        let file = &*file;
        let headers = std::slice::from_raw_parts(file.dlpi_phdr, file.dlpi_phnum.into());
        (file, headers, &mut *found.cast::<Option<(usize, usize)>>())
    };
    // Null for a file without such values.
    let start = file.dlpi_tls_data.addr();
    if let Some(header) = headers.iter().find(|header| header.p_type == PT_TLS)
        && (start..start + header.p_memsz as usize).contains(&mark())
    {
        *found = Some((start, header.p_memsz as usize));
        return 1;
    }
    0
}

/// Whether the address is in this thread's block.
pub(super) fn is_own(address: usize) -> bool {
    BLOCK.get().is_some_and(|&(before, len)| address.wrapping_sub(mark() - before) < len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_this_thread_are_its_own_and_no_others() {
        thread_local! {
            static CONSTANT: Cell<u64> = const { Cell::new(1) };
            static MADE: Cell<Vec<u8>> = Cell::new(vec![1]);
        }
        static STATIC: u8 = 0;
        let address = || CONSTANT.with(|value| value.as_ptr().addr());
        assert!(!is_own(address()) || BLOCK.get().is_some());
        learn();
        assert!(is_own(mark()));
        assert!(is_own(address()));
        assert!(MADE.with(|value| is_own(value.as_ptr().addr())));
        assert!(!is_own((&raw const STATIC).addr()));
        assert!(!is_own((&raw const *Box::new(0)).addr()));
        assert!(!is_own((&raw const address).addr()), "the stack");
        let here = address();
        std::thread::spawn(move || {
            assert!(is_own(address()));
            assert!(!is_own(here), "another thread's");
        })
        .join()
        .unwrap();
    }
}
