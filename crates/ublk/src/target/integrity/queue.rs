//! One queue of a target with integrity data: what is done with the metadata before and after the inner target's work.
//!
//! ```text
//! read      metadata from the store -> inner target -> metadata to the request
//! write     metadata from the request, inner target -> metadata to the store (-> sync, with FUA)
//! discard, write zeroes, write without metadata: the range's metadata is cleared -> inner target (-> sync, with FUA)
//! flush     inner target -> sync
//! ```
//! One operation of a request is open at a time: the inner target's, or the store's.

use std::sync::Arc;

use ublk_executor::Mapping;
use ublk_uapi::IoFlags;

use super::super::transfer::PUNCH_HOLE;
use super::super::{BackingIo, BufferAddress, Io, Op, Progress, QueueTarget, Request};
use super::Integrity;
use super::store::{QueueStore, file_offset};
use crate::{CharDevice, Error};

/// The store's `part`: the largest that an operation can have, and no target's.
const STORE: u16 = 0x7fff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fetch,
    Clear,
    Inner,
    Keep,
    Sync,
    /// The answer, with the metadata of a read.
    End,
}

#[derive(Debug, Clone, Copy)]
struct Transfer {
    step: Step,
    /// Bytes of metadata done in this step.
    done: u32,
    /// The inner target's.
    answer: Progress,
}

pub(super) struct IntegrityQueue {
    inner: Box<dyn QueueTarget>,
    integrity: Integrity,
    store: QueueStore,
    transfers: Vec<Transfer>,
    /// Metadata of each tag's request.
    buffers: Mapping,
    buffer_bytes: usize,
}

impl IntegrityQueue {
    pub(super) fn new(
        inner: Box<dyn QueueTarget>,
        integrity: Integrity,
        store: QueueStore,
        device: &Arc<CharDevice>,
        tags: u32,
    ) -> Result<IntegrityQueue, Error> {
        let buffer_bytes = integrity.metadata_length(device.max_io_bytes().into()) as usize;
        let buffers = Mapping::new(buffer_bytes * tags as usize);
        let no_memory = |_| Error::NoMemory { what: "buffers of integrity data".into(), id: Some(device.id()) };
        let idle = Transfer { step: Step::Inner, done: 0, answer: Progress::Pending };
        Ok(IntegrityQueue {
            inner,
            integrity,
            store,
            transfers: vec![idle; tags as usize],
            buffers: buffers.map_err(no_memory)?,
            buffer_bytes,
        })
    }
}

impl QueueTarget for IntegrityQueue {
    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let step = match request.op {
            Op::Read if has_metadata(request) => Step::Fetch,
            Op::Write if has_metadata(request) => {
                let (place, length) = self.buffer(tag, request);
                if let Err(errno) = io.take_integrity(place, length) {
                    return Progress::Done(-errno);
                }
                self.invert(tag, length);
                Step::Inner
            }
            Op::Write | Op::Discard | Op::WriteZeroes => Step::Clear,
            _ => Step::Inner,
        };
        self.transfers[usize::from(tag)] = Transfer { step, done: 0, answer: Progress::Pending };
        self.go_on(tag, request, io)
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        if part != STORE {
            let progress = self.inner.resume(tag, request, part, result, io);
            return self.after_inner(tag, request, progress, io);
        }
        let length = self.buffer(tag, request).1 as u32;
        let transfer = &mut self.transfers[usize::from(tag)];
        match (transfer.step, result) {
            (_, errno) if errno == -libc::EAGAIN || errno == -libc::EINTR => {}
            (_, ..0) => return Progress::Done(result),
            (Step::Fetch | Step::Keep, 0) => return Progress::Done(-libc::EIO), // the file became shorter
            (Step::Fetch | Step::Keep, _) => {
                transfer.done += result as u32;
                if transfer.done == length {
                    transfer.step = next(transfer.step, request);
                }
            }
            _ => transfer.step = next(transfer.step, request),
        }
        self.go_on(tag, request, io)
    }

    #[inline]
    fn place(&mut self, request: &Request) -> BufferAddress {
        self.inner.place(request)
    }
}

impl IntegrityQueue {
    /// Does steps until one has to wait, or the last is done.
    fn go_on(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        loop {
            let step = self.transfers[usize::from(tag)].step;
            match step {
                Step::Inner => {
                    let progress = self.inner.start(tag, request, io);
                    return self.after_inner(tag, request, progress, io);
                }
                Step::End => return self.end(tag, request, io),
                _ if self.begin(tag, request, io) => return Progress::Pending,
                _ => self.transfers[usize::from(tag)].step = next(step, request),
            }
        }
    }

    fn after_inner(&mut self, tag: u16, request: &Request, progress: Progress, io: &mut Io<'_>) -> Progress {
        match progress {
            Progress::Done(0..) | Progress::DoneAt(0.., _) => {
                self.transfers[usize::from(tag)] =
                    Transfer { step: next(Step::Inner, request), done: 0, answer: progress };
                self.go_on(tag, request, io)
            }
            other => other,
        }
    }

    /// True when an operation of the store was begun, false when the step is done already.
    fn begin(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> bool {
        let Transfer { step, done, .. } = self.transfers[usize::from(tag)];
        let (place, length) = self.buffer(tag, request);
        let offset = self.integrity.metadata_length(request.offset_bytes());
        let buffer_offset = usize::from(tag) * self.buffer_bytes;
        let cleared = self.integrity.metadata_length(request.len_bytes.into());
        match (&self.store, step) {
            (QueueStore::File(file), _) => {
                let (at, left) = (file_offset(offset) + u64::from(done), length as u32 - done);
                let operation = match step {
                    Step::Fetch => BackingIo::ReadInto { place: place.after(done), offset: at, length: left },
                    Step::Keep => BackingIo::WriteFrom { source: place.after(done), offset: at, length: left },
                    Step::Clear => {
                        BackingIo::Allocate { mode: PUNCH_HOLE, offset: file_offset(offset), length: cleared }
                    }
                    _ => BackingIo::Sync,
                };
                io.start(*file, STORE, operation);
                return true;
            }
            (QueueStore::Memory(store), Step::Fetch) => {
                self.buffers.copy_from(buffer_offset, store, offset as usize, length);
            }
            (QueueStore::Memory(store), Step::Keep) => {
                store.copy_from(offset as usize, &self.buffers, buffer_offset, length);
            }
            (QueueStore::Memory(store), Step::Clear) => store.zero(offset as usize, cleared as usize),
            (QueueStore::Nothing, Step::Fetch) => self.buffers.overwrite_with_zeroes(buffer_offset, length),
            _ => {}
        }
        false
    }

    fn end(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        if request.op == Op::Read && has_metadata(request) {
            let (place, length) = self.buffer(tag, request);
            self.invert(tag, length);
            if let Err(errno) = io.give_integrity(place, length) {
                return Progress::Done(-errno);
            }
        }
        self.transfers[usize::from(tag)].answer
    }

    fn invert(&mut self, tag: u16, length: usize) {
        self.buffers.invert(usize::from(tag) * self.buffer_bytes, length);
    }

    /// Where the metadata of a tag's request is, and how long it is.
    #[allow(unsafe_code)]
    fn buffer(&self, tag: u16, request: &Request) -> (BufferAddress, usize) {
        let length = match request.op {
            Op::Read | Op::Write => self.integrity.metadata_length(request.len_bytes.into()) as usize,
            _ => 0,
        };
        let address = self.buffers.address(usize::from(tag) * self.buffer_bytes, length);
        // SAFETY: `address` checked the range. The mapping lives in the target, which outlives the queue; the bytes are this tag's alone, and
        // Rust touches them by raw copies only, when no operation of the tag is under way.
        (unsafe { BufferAddress::new(address) }, length)
    }
}

/// What follows a step that is done.
fn next(step: Step, request: &Request) -> Step {
    let is_change = matches!(request.op, Op::Write | Op::Discard | Op::WriteZeroes);
    let is_durable = request.op == Op::Flush || is_change && request.is_fua();
    match step {
        Step::Fetch | Step::Clear => Step::Inner,
        Step::Inner if request.op == Op::Write && has_metadata(request) => Step::Keep,
        Step::Inner | Step::Keep if is_durable => Step::Sync,
        Step::Inner | Step::Keep | Step::Sync | Step::End => Step::End,
    }
}

fn has_metadata(request: &Request) -> bool {
    request.flags.contains(IoFlags::INTEGRITY)
}
