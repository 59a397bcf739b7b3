//! A range of a buffer, for operations on less than all of it.

use std::ops::Range;

use super::buffer::IoBuffer;

/// A range of a buffer, together with all of it: operations read or write the range alone.
///
/// ```
/// use ublk_executor::io::{IoBuffer, Part};
///
/// let header = Part::new(vec![0; 4096], 0..16);
/// assert_eq!(header.bytes(), 16);
/// assert_eq!(header.into_inner().len(), 4096);
/// ```
#[derive(Debug)]
pub struct Part<B> {
    buffer: B,
    range: Range<usize>,
}

impl<B: IoBuffer> Part<B> {
    /// The bytes `range` of `buffer`.
    ///
    /// # Panics
    /// When the range is not within the buffer.
    pub fn new(buffer: B, range: Range<usize>) -> Part<B> {
        assert!(
            range.start <= range.end && range.end <= buffer.bytes(),
            "range {range:?} of a buffer of {} bytes",
            buffer.bytes()
        );
        Part { buffer, range }
    }

    /// The buffer as it was given, all of it.
    pub fn into_inner(self) -> B {
        self.buffer
    }
}

// SAFETY: the range is within the buffer, whose bytes are as the trait wants them, and does not change.
unsafe impl<B: IoBuffer> IoBuffer for Part<B> {
    fn start(&mut self) -> *mut u8 {
        // SAFETY: the range is within the buffer.
        unsafe { self.buffer.start().add(self.range.start) }
    }

    fn bytes(&self) -> usize {
        self.range.len()
    }
}
