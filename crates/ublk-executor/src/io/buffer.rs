//! Memory that the kernel reads and writes for a task.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment that every block device takes: a page.
pub(super) const ALIGNMENT: usize = 4096;

/// Owned bytes that an operation can take along: it keeps them until the kernel is done, and then gives them back.
///
/// # Safety
/// The bytes are initialised, and neither their address nor their number changes when the value is moved.
pub unsafe trait IoBuffer: 'static {
    /// Address of the first byte.
    fn start(&mut self) -> *mut u8;

    /// Number of bytes.
    fn bytes(&self) -> usize;
}

// SAFETY: a vector's elements are on the heap, `len` of them initialised.
unsafe impl IoBuffer for Vec<u8> {
    fn start(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: a box's content is on the heap, and initialised.
unsafe impl IoBuffer for Box<[u8]> {
    fn start(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

// SAFETY: `start` stays where it is until the drop, and is that many initialised bytes.
unsafe impl IoBuffer for DmaBuffer {
    fn start(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }
}

/// Owned bytes, aligned to 4096 as O_DIRECT wants it. Their address does not change when the value is moved.
pub struct DmaBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory of one owner, as a Box<[u8]>.
unsafe impl Send for DmaBuffer {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Zero-filled; `bytes` is rounded up to a multiple of 4096, and 0 to one page.
    ///
    /// # Panics
    /// When `bytes` exceeds `isize::MAX`. A failed allocation ends the process, as with [`Vec`].
    pub fn new(bytes: usize) -> DmaBuffer {
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGNMENT).expect("a buffer of more than isize::MAX bytes");
        let layout = Layout::from_size_align(bytes, ALIGNMENT).expect("a buffer of more than isize::MAX bytes");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        DmaBuffer { start, layout }
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is that many initialised bytes, ours until the drop. While the kernel works on them an operation owns the value, so
        // that nobody can get here.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for DmaBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the reference is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DmaBuffer({} bytes)", self.layout.size())
    }
}
