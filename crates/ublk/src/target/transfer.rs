//! One operation on one file, from its first submission to its end: what `file`, `stripe` and `mirror` are made of.
//!
//! FLUSH is fdatasync, FUA is RWF_DSYNC, DISCARD punches a hole, WRITE_ZEROES zeroes a range by the cheapest way that the file system has.
//! A discard is advice: where no hole can be punched nothing is done, and that is a success.
//! Short reads and writes are resumed, and the file system's errors (ENOSPC, EIO) are the result as they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use ublk_executor::Mapping;
use ublk_uapi::IoFlags;

use super::{BackingIo, BufferAddress, Io, Op, Request};
use crate::{CharDevice, Error};

pub(super) const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Zero bytes written at a time where the file system cannot zero a range by itself.
const ZEROES_BYTES: u32 = 1 << 20;

/// Zero bytes for a queue's transfers.
pub(super) struct Zeroes(Mapping);

impl Zeroes {
    pub(super) fn new(device: &Arc<CharDevice>) -> Result<Zeroes, Error> {
        let no_memory = |_| Error::NoMemory { what: "a buffer of zeroes".into(), id: Some(device.id()) };
        Mapping::new(ZEROES_BYTES as usize).map(Zeroes).map_err(no_memory)
    }

    #[allow(unsafe_code)]
    fn address(&self) -> BufferAddress {
        // SAFETY: nobody ever writes to this mapping, and it lives in the target, which outlives the queue.
        unsafe { BufferAddress::new(self.0.address(0, ZEROES_BYTES as usize)) }
    }
}

/// The failure of a durable write that the next FLUSH must tell, of a target whose queues share its files: the kernel tells that an earlier write
/// did not reach the disk once for an open file, to whoever syncs first, and who flushes then would hear that all is well.
#[derive(Debug, Default)]
pub(super) struct Unreported(AtomicI32);

impl Unreported {
    /// Takes the result of a request, and answers what it is answered with.
    pub(super) fn account(&self, request: &Request, result: i32) -> i32 {
        match request.op {
            Op::Flush if result >= 0 => match self.0.swap(0, Ordering::AcqRel) {
                0 => result,
                errno => errno,
            },
            Op::Flush => result,
            _ => {
                if result < 0 && request.is_fua() {
                    self.0.store(result, Ordering::Release);
                }
                result
            }
        }
    }
}

/// Where a transfer takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The target's file, 0 is its first.
    pub(super) file: u16,
    /// First byte in the file.
    pub(super) offset: u64,
    /// First byte in the request's data.
    pub(super) data_offset: u32,
    /// Bytes; 0 for FLUSH.
    pub(super) length: u32,
}

impl Span {
    /// The whole request, at the same place of file `file`.
    #[inline]
    pub(super) fn whole(request: &Request, file: u16) -> Span {
        Span { file, offset: request.offset_bytes(), data_offset: 0, length: request.len_bytes }
    }
}

/// Where an operation stands. One operation on the ring is open at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    step: Step,
    /// Bytes done so far.
    done: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Data,
    Sync,
    Punch,
    ZeroRange,
    WriteZeroes,
}

impl Transfer {
    pub(super) const IDLE: Transfer = Transfer { step: Step::Data, done: 0 };

    /// Starts the request's operation on a span; its ends come to `resume` with `part`. False: there is no such operation on files.
    #[inline(always)] // of data, as the rest of a request's way
    pub(super) fn start(&mut self, request: &Request, span: Span, part: u16, zeroes: &Zeroes, io: &mut Io<'_>) -> bool {
        if !matches!(request.op, Op::Read | Op::Write) {
            return self.start_without_data(request, span, part, zeroes, io);
        }
        *self = Transfer::IDLE;
        self.operate(request, span, part, zeroes, io);
        true
    }

    #[inline(never)]
    fn start_without_data(
        &mut self,
        request: &Request,
        span: Span,
        part: u16,
        zeroes: &Zeroes,
        io: &mut Io<'_>,
    ) -> bool {
        let step = match request.op {
            Op::Flush => Step::Sync,
            Op::Discard => Step::Punch,
            Op::WriteZeroes if request.flags.contains(IoFlags::NOUNMAP) => Step::ZeroRange,
            Op::WriteZeroes => Step::Punch,
            _ => return false,
        };
        *self = Transfer { step, done: 0 };
        self.next(request, span, part, zeroes, io);
        true
    }

    /// True in the usual case: the first operation has moved all of the request's data, and that is the end.
    #[inline]
    pub(super) fn is_whole(&self, request: &Request, result: i32) -> bool {
        self.step == Step::Data && self.done == 0 && result > 0 && result as u32 == request.len_bytes
    }

    /// Goes on after a completion. Some when the operation has ended: bytes of data, 0 for the operations without, or -errno.
    pub(super) fn resume(
        &mut self,
        request: &Request,
        span: Span,
        part: u16,
        result: i32,
        zeroes: &Zeroes,
        io: &mut Io<'_>,
    ) -> Option<i32> {
        match (self.step, result) {
            (_, errno) if errno == -libc::EAGAIN || errno == -libc::EINTR => {}
            (Step::Data | Step::WriteZeroes, 0) => return Some(-libc::EIO), // the file became shorter
            (Step::Data | Step::WriteZeroes, 1..) => {
                self.done += result as u32;
                if self.done == span.length {
                    return self.durable(request, span, part, zeroes, io);
                }
            }
            (Step::Punch, errno) if is_missing(errno) && request.op == Op::WriteZeroes => self.step = Step::ZeroRange,
            (Step::Punch, errno) if is_missing(errno) => return Some(0),
            (Step::ZeroRange, errno) if is_missing(errno) => self.step = Step::WriteZeroes,
            (Step::Punch | Step::ZeroRange, 0) => return self.durable(request, span, part, zeroes, io),
            _ => return Some(result),
        }
        self.next(request, span, part, zeroes, io);
        None
    }

    /// `operate` where it is not the first one of data, which is rare.
    #[inline(never)]
    fn next(&self, request: &Request, span: Span, part: u16, zeroes: &Zeroes, io: &mut Io<'_>) {
        self.operate(request, span, part, zeroes, io);
    }

    /// Starts the operation on the ring that the step asks for.
    #[inline(always)] // with what is known of the first one
    fn operate(&self, request: &Request, span: Span, part: u16, zeroes: &Zeroes, io: &mut Io<'_>) {
        let done = self.done;
        let (offset, data_offset) = (span.offset + u64::from(done), span.data_offset + done);
        let (left, whole) = (span.length - done, u64::from(span.length));
        let mut start = |operation| io.start(span.file, part, operation);
        match self.step {
            Step::Data if request.op == Op::Read => start(BackingIo::Read { offset, data_offset, length: left }),
            Step::Data => start(BackingIo::Write { offset, data_offset, length: left, is_durable: request.is_fua() }),
            Step::Sync => start(BackingIo::Sync),
            Step::Punch => start(BackingIo::Allocate { mode: PUNCH_HOLE, offset, length: whole }),
            Step::ZeroRange => start(BackingIo::Allocate { mode: ZERO_RANGE, offset, length: whole }),
            Step::WriteZeroes => {
                let length = left.min(ZEROES_BYTES);
                start(BackingIo::WriteFrom { source: zeroes.address(), offset, length });
            }
        }
    }

    /// The data is in place: zeroing with FUA still wants a sync, a FUA write was durable by itself.
    fn durable(&mut self, request: &Request, span: Span, part: u16, zeroes: &Zeroes, io: &mut Io<'_>) -> Option<i32> {
        if request.op == Op::WriteZeroes && request.is_fua() {
            self.step = Step::Sync;
            self.next(request, span, part, zeroes, io);
            return None;
        }
        let has_data = matches!(request.op, Op::Read | Op::Write);
        Some(if has_data { span.length as i32 } else { 0 })
    }
}

fn is_missing(errno: i32) -> bool {
    errno == -libc::EOPNOTSUPP || errno == -libc::ENOSYS
}
