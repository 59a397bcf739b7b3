//! Memory by the page: tag buffers, in-memory stores, and memory that is shared with other processes.
//!
//! A [`Mapping`] hands out addresses, not references: the kernel reads and writes this memory while Rust code runs, so no `&[u8]`
//! to it may exist except for the moment of a copy. Concurrent access to the same bytes is a race between requests,
//! which the block layer leaves to the device's users, as on a disk.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// The smallest pages that there are, which lengths are rounded to.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of this machine's pages: [`PAGE_BYTES`], or 16 or 64 KiB with some kernels for arm64.
pub fn page_bytes() -> usize {
    rustix::param::page_size().max(PAGE_BYTES)
}

/// The whole pages in a range of addresses. Of others `madvise` takes the rest of the last page, too, where somebody else's bytes may be.
pub fn whole_pages(range: Range<u64>, page_bytes: usize) -> Option<Range<u64>> {
    let page_bytes = page_bytes as u64;
    let pages = range.start.checked_next_multiple_of(page_bytes)?..range.end - range.end % page_bytes;
    (!pages.is_empty()).then_some(pages)
}

/// Mapped pages: private and zero-filled, taking memory only where they were written, or those of a file.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is plain memory owned by this value. All access goes through raw copies on `&self`, whose
// races are races between device requests (see the module's head), never on Rust references.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes (rounded up to pages), address space only: MAP_NORESERVE, small pages so that a first write
    /// takes 4 KiB and not 2 MiB.
    ///
    /// # Errors
    /// ENOMEM: no address space, or overcommit is forbidden (`vm.overcommit_memory=2`).
    pub fn new(length: usize) -> std::io::Result<Mapping> {
        let length = length.max(1).next_multiple_of(PAGE_BYTES);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let start = NonNull::new(start.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: the range is the mapping just made. NOHUGEPAGE changes no content; a kernel without THP answers EINVAL.
        let _ = unsafe { madvise(start.as_ptr().cast(), length, Advice::LinuxNoHugepage) };
        Ok(Mapping { start, length })
    }

    /// Maps the first `length` bytes of a file (rounded up to 4 KiB), shared with everybody who maps it. Read-only, a write to it by copying
    /// is a fault that ends the process: callers keep to reading.
    ///
    /// # Errors
    /// The kernel's answer: EINVAL for a length that the file's file system does not take (whole huge pages), ENOMEM, EACCES.
    pub fn of_file(file: BorrowedFd<'_>, length: usize, read_only: bool) -> std::io::Result<Mapping> {
        let length = length.max(1).next_multiple_of(PAGE_BYTES);
        let rights = if read_only { ProtFlags::READ } else { ProtFlags::READ | ProtFlags::WRITE };
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of Rust's; others may change its bytes, and all access
        // is by raw copies.
        let start = unsafe { mmap(std::ptr::null_mut(), length, rights, MapFlags::SHARED, file, 0)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, length })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.length
    }

    /// A mapping is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Address of the byte at `offset`, for the kernel. `offset + length` must lie within the mapping.
    ///
    /// # Panics
    /// When the range is outside: that would be our own bug, and the kernel would write elsewhere.
    #[inline]
    pub fn address(&self, offset: usize, length: usize) -> u64 {
        assert!(
            offset <= self.length && length <= self.length - offset,
            "range {offset}+{length} is outside of {} mapped bytes",
            self.length
        );
        self.start.as_ptr() as u64 + offset as u64
    }

    /// Zeroes a range: whole pages go back to the system, the rest is overwritten.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn zero(&self, offset: usize, length: usize) {
        let Some(pages) = self.pages_within(offset, length) else { return self.overwrite_with_zeroes(offset, length) };
        self.overwrite_with_zeroes(offset, pages.start - offset);
        self.overwrite_with_zeroes(pages.end, offset + length - pages.end);
        self.give_back(pages);
    }

    /// Gives the whole pages inside a range back to the system (they read as zeroes afterwards); partial pages keep their bytes.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn discard(&self, offset: usize, length: usize) {
        if let Some(pages) = self.pages_within(offset, length) {
            self.give_back(pages);
        }
    }

    /// Offsets of the whole pages in a range.
    fn pages_within(&self, offset: usize, length: usize) -> Option<Range<usize>> {
        let begin = self.address(offset, length);
        let pages = whole_pages(begin..begin + length as u64, page_bytes())?;
        let to_offset = |address: u64| offset + (address - begin) as usize;
        Some(to_offset(pages.start)..to_offset(pages.end))
    }

    /// Copies `length` bytes from another mapping, which may be this one.
    ///
    /// # Panics
    /// When a range is outside.
    pub fn copy_from(&self, offset: usize, source: &Mapping, source_offset: usize, length: usize) {
        let to = self.address(offset, length) as *mut u8;
        let from = source.address(source_offset, length) as *const u8;
        // SAFETY: `address` checked both ranges; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from, to, length) };
    }

    /// Inverts every bit of a range.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn invert(&self, offset: usize, length: usize) {
        let start = self.address(offset, length) as *mut u8;
        for index in 0..length {
            // SAFETY: `address` checked the range; raw reads and writes, so no reference to the bytes exists.
            unsafe { *start.add(index) = !*start.add(index) };
        }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn copy_in(&self, offset: usize, source: &[u8]) {
        let to = self.address(offset, source.len()) as *mut u8;
        // SAFETY: `address` checked the range, the mapping is writable, and no reference to it exists.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), to, source.len()) };
    }

    /// Copies bytes out, for tests and checkers.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn copy_out(&self, offset: usize, target: &mut [u8]) {
        let from = self.address(offset, target.len()) as *const u8;
        // SAFETY: `address` checked the range; the target is a distinct Rust slice.
        unsafe { std::ptr::copy_nonoverlapping(from, target.as_mut_ptr(), target.len()) };
    }

    /// Overwrites a range with zeroes; takes memory where there was none, but no system call.
    ///
    /// # Panics
    /// When the range is outside.
    pub fn overwrite_with_zeroes(&self, offset: usize, length: usize) {
        let start = self.address(offset, length) as *mut u8;
        // SAFETY: `address` checked the range, and the mapping is writable for as long as `self` lives.
        unsafe { std::ptr::write_bytes(start, 0, length) };
    }

    fn give_back(&self, pages: Range<usize>) {
        let start = self.address(pages.start, pages.len());
        // SAFETY: whole pages of our own mapping, which only raw copies look at. Those of an anonymous one read as zeroes afterwards, which is
        // what both callers want; nobody clears a part of a file's.
        let given = unsafe { madvise(start as *mut _, pages.len(), Advice::LinuxDontNeed) };
        if given.is_err() {
            self.overwrite_with_zeroes(pages.start, pages.len()); // locked pages cannot be given back
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once. Whoever gave addresses to the kernel keeps the mapping until its ring is closed.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(mapping: &Mapping, offset: usize, bytes: &[u8]) {
        let to = mapping.address(offset, bytes.len()) as *mut u8;
        // SAFETY: `address` checked the range.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    fn read(mapping: &Mapping, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; length];
        mapping.copy_out(offset, &mut bytes);
        bytes
    }

    #[test]
    fn zero_clears_exactly_the_range() {
        let mapping = Mapping::new(4 * PAGE_BYTES).unwrap();
        for (offset, length) in [(100, 50), (4000, 200), (512, 3 * 4096), (4096, 4096), (0, 16384), (16000, 384)] {
            write(&mapping, 0, &[7; 4 * PAGE_BYTES]);
            mapping.zero(offset, length);
            let mut expected = vec![7; 4 * PAGE_BYTES];
            expected[offset..offset + length].fill(0);
            assert!(read(&mapping, 0, 4 * PAGE_BYTES) == expected, "zero({offset}, {length})");
        }
    }

    /// Some kernels for arm64 have them, and clearing a part of one clears it all.
    #[test]
    fn of_larger_pages_only_whole_ones_are_given_back() {
        const LARGE: u64 = 16384;
        let within = |range| whole_pages(range, LARGE as usize);
        assert_eq!(within(LARGE..LARGE + 4096), None);
        assert_eq!(within(0..LARGE + 4096), Some(0..LARGE));
        assert_eq!(within(4096..3 * LARGE - 1), Some(LARGE..2 * LARGE));
        assert_eq!(within(4096..LARGE + 4096), None);
        assert_eq!(whole_pages(4096..12288, PAGE_BYTES), Some(4096..12288));
        assert_eq!(within(u64::MAX - 10..u64::MAX), None);
        assert!(page_bytes().is_power_of_two() && page_bytes().is_multiple_of(PAGE_BYTES));
    }

    #[test]
    fn discard_clears_whole_pages_only() {
        let mapping = Mapping::new(3 * PAGE_BYTES).unwrap();
        write(&mapping, 0, &[9; 3 * PAGE_BYTES]);
        mapping.discard(1, 2 * PAGE_BYTES);
        let mut expected = vec![9; 3 * PAGE_BYTES];
        expected[PAGE_BYTES..2 * PAGE_BYTES].fill(0);
        assert!(read(&mapping, 0, 3 * PAGE_BYTES) == expected);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn an_address_outside_is_refused() {
        Mapping::new(PAGE_BYTES).unwrap().address(1, PAGE_BYTES);
    }

    #[test]
    fn a_terabyte_maps_without_memory() {
        let mapping = Mapping::new(1 << 40).unwrap();
        write(&mapping, (1 << 40) - 1, &[1]);
        assert_eq!(read(&mapping, (1 << 40) - 2, 2), [0, 1]);
    }
}
