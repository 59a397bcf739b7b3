//! `null`: takes writes and forgets them; reads are zeroes.
//!
//! The driver copies into and out of the tag's buffer all the same. A write leaves its data there, so a later read clears just as much as
//! was written; a device that is only read, or only written, never clears anything.

use std::sync::Arc;

use super::{Geometry, Io, Op, Progress, QueueTarget, Request, Target};
use crate::{BufferMode, CharDevice, Error};

struct Null {
    size_bytes: u64,
}

/// A device of `size_bytes` that stores nothing.
pub fn null(size_bytes: u64) -> Arc<dyn Target> {
    Arc::new(Null { size_bytes })
}

impl Target for Null {
    fn kind(&self) -> &'static str {
        "null"
    }

    fn geometry(&self) -> Geometry {
        Geometry::in_memory(self.size_bytes)
    }

    fn resize(&self, _size_bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn buffers(&self) -> Vec<BufferMode> {
        Vec::new()
    }

    /// It never looks at the data.
    fn serves_zero_copy(&self) -> bool {
        true
    }

    fn answers_at_once(&self) -> bool {
        true
    }

    fn queue(&self, _device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        Ok(Box::new(NullQueue { dirty_bytes: vec![0; tags as usize] }))
    }
}

struct NullQueue {
    /// For each tag, how much of its buffer may hold written data.
    dirty_bytes: Vec<u32>,
}

impl QueueTarget for NullQueue {
    fn uses_data(&self) -> bool {
        false // what it clears is the tag's buffer
    }

    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let dirty_bytes = &mut self.dirty_bytes[usize::from(tag)];
        match request.op {
            // In memory of the device's users, beside their other bytes, and whatever was in it before.
            Op::Read if request.is_shared() => {
                io.zero_buffer(request.len_bytes as usize);
                Progress::Done(request.len_bytes as i32)
            }
            Op::Write if request.is_shared() => Progress::Done(request.len_bytes as i32),
            Op::Read => {
                if *dirty_bytes > 0 {
                    io.zero_buffer(*dirty_bytes as usize);
                    *dirty_bytes = 0;
                }
                Progress::Done(request.len_bytes as i32)
            }
            Op::Write => {
                *dirty_bytes = request.len_bytes.max(*dirty_bytes);
                Progress::Done(request.len_bytes as i32)
            }
            Op::Flush | Op::Discard | Op::WriteZeroes => Progress::Done(0),
            _ => Progress::Done(-libc::EOPNOTSUPP),
        }
    }
}
