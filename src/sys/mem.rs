//! Memory mappings for stacks.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::check;

/// The page size of this machine, in bytes.
pub(crate) fn page_size() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    let mut page = PAGE.load(Ordering::Relaxed);
    if page == 0 {
        // SAFETY: no pointers; _SC_PAGESIZE is always known.
        page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize };
        PAGE.store(page, Ordering::Relaxed);
    }
    page
}

/// Reserves `len` bytes that are readable and writable and cost memory only where they are touched.
pub(crate) fn reserve(len: usize) -> io::Result<NonNull<u8>> {
    // Linux reads MAP_STACK as "no huge pages here" since 6.7, and as nothing before.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    #[cfg(target_os = "linux")]
    // SAFETY: the range is the mapping just made. Failure (a kernel without huge pages) changes nothing:
    // the advice only keeps a 4 KiB stack from being backed by a 2 MiB page.
    unsafe {
        libc::madvise(start, len, libc::MADV_NOHUGEPAGE);
    }
    Ok(NonNull::new(start.cast()).expect("mmap does not map address zero"))
}

/// Gives a mapping back.
///
/// # Safety
///
/// The range must come from [`reserve`], whole, and nobody may use it any more.
pub(crate) unsafe fn release(start: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise. munmap of a whole mapping cannot fail.
    unsafe { libc::munmap(start.as_ptr().cast(), len) };
}

/// Linux 6.13: a guard is a mark in the page table, so it does not split the mapping. libc has no name
/// for it in all the versions that we accept.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// Linux 5.14.
const MADV_POPULATE_WRITE: libc::c_int = 23;

/// Makes one page fault on every access, without a new mapping. `Err(EINVAL)`: this kernel cannot.
///
/// # Safety
///
/// The page must lie in a mapping from [`reserve`], and nobody may use what is in it.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn install_guard(page: NonNull<u8>) -> io::Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::madvise(page.as_ptr().cast(), page_size(), MADV_GUARD_INSTALL) }).map(drop)
}

/// As on Linux before 6.13.
///
/// # Safety
///
/// None: it does nothing. It is unsafe like its namesake.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn install_guard(_page: NonNull<u8>) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// How many ranges the functions below take at most.
pub(crate) const MOST_RANGES: usize = 64;

/// Makes pages fault on every access, as [`install_guard`] does with one, by a single system call: the first, and those that follow it at the
/// distance given. Says how many it was; an error means that it was none. Kernels before 6.15 cannot, nor does every sandbox allow it.
///
/// # Safety
///
/// As for [`install_guard`], for each. At most [`MOST_RANGES`].
pub(crate) unsafe fn install_guards(first: NonNull<u8>, distance: usize, count: usize) -> io::Result<usize> {
    let page = |index| (first.as_ptr().wrapping_add(index * distance), page_size());
    // SAFETY: the caller's promise.
    let done = unsafe { advise_all((0..count).map(page), MADV_GUARD_INSTALL) };
    done.map(|bytes| bytes / page_size())
}

/// Has memory put behind pages that will be written to soon, without a fault for each. If it cannot be done, it will be when they are touched.
///
/// # Safety
///
/// The pages must lie in a mapping from [`reserve`]. At most [`MOST_RANGES`].
pub(crate) unsafe fn commit(first: NonNull<u8>, distance: usize, count: usize) {
    let page = |index| (first.as_ptr().wrapping_add(index * distance), page_size());
    // SAFETY: it changes nothing that could be read: what has no memory reads as zeros before and after.
    let _ = unsafe { advise_all((0..count).map(page), MADV_POPULATE_WRITE) };
}

/// Drops what is in several ranges of pages, as [`discard`] does with one. With a single call, the other threads' cores are interrupted
/// once to forget the pages, and not for each.
///
/// # Safety
///
/// As for [`discard`], for each. At most [`MOST_RANGES`].
pub(crate) unsafe fn discard_all(ranges: &[(NonNull<u8>, usize)]) {
    let all = ranges.iter().map(|&(start, len)| (start.as_ptr(), len));
    // SAFETY: the caller's promise.
    let mut done = unsafe { advise_all(all, libc::MADV_DONTNEED) }.unwrap_or(0);
    for &(start, len) in ranges {
        if done >= len {
            done -= len;
        } else {
            done = 0;
            // SAFETY: the caller's promise.
            unsafe { discard(start, len) };
        }
    }
}

/// Linux 6.15: this process, without a descriptor for it. libc has no name for it in all the versions that we accept.
#[cfg(target_os = "linux")]
const PIDFD_SELF: libc::c_int = -10001;

/// One advice for several ranges. Says how many bytes it was given for, which are those of the first ranges.
///
/// # Safety
///
/// As the advice demands it, for each of the ranges.
#[cfg(target_os = "linux")]
unsafe fn advise_all(
    ranges: impl Iterator<Item = (*mut u8, usize)>,
    advice: libc::c_int,
) -> io::Result<usize> {
    let mut vector = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MOST_RANGES];
    let mut count = 0;
    for ((start, len), place) in ranges.zip(&mut vector) {
        *place = libc::iovec { iov_base: start.cast(), iov_len: len };
        count += 1;
    }
    // SAFETY: so many of the vector are set; for what happens to the ranges, the caller's promise.
    let done =
        unsafe { libc::syscall(libc::SYS_process_madvise, PIDFD_SELF, vector.as_ptr(), count, advice, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as usize) }
}

#[cfg(not(target_os = "linux"))]
unsafe fn advise_all(
    _ranges: impl Iterator<Item = (*mut u8, usize)>,
    _advice: libc::c_int,
) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Makes one page fault on every access, at the price of splitting the mapping in up to three.
///
/// # Safety
///
/// As for [`install_guard`].
pub(crate) unsafe fn protect(page: NonNull<u8>) -> io::Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { libc::mprotect(page.as_ptr().cast(), page_size(), libc::PROT_NONE) }).map(drop)
}

/// Drops what is in the pages: they cost nothing and read as zeros until they are touched again. Guards
/// in the range stay.
///
/// # Safety
///
/// The range must be page-aligned, in a mapping from [`reserve`], and hold nothing that anyone needs.
pub(crate) unsafe fn discard(start: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise. It fails only for arguments that break it.
    unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) };
}

/// The index of the lowest page of the range that is in memory; `None` if none is.
///
/// # Safety
///
/// The range must be page-aligned and mapped.
pub(crate) unsafe fn lowest_resident(start: NonNull<u8>, len: usize) -> Option<usize> {
    let mut resident = vec![0_u8; len / page_size()];
    // SAFETY: the range is mapped, and the vector has a byte for each of its pages.
    let done = unsafe { libc::mincore(start.as_ptr().cast(), len, resident.as_mut_ptr().cast()) };
    if done != 0 {
        return None;
    }
    resident.iter().position(|page| page & 1 == 1)
}
