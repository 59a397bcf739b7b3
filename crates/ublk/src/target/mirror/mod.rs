//! `mirror`: RAID 1 over files or block devices.
//!
//! A write goes to every leg and is answered when all have done it; reads take turns. A leg that fails a write or a read is dropped, which is
//! recorded on the others (record.rs) before that write, or a later one, is answered (shared.rs); a read is done again on another leg. The last
//! leg in sync is never dropped: its errors are the device's. When it fails a write, legs that are resyncing go instead, for they may hold it.
//! A thread of its own (keeper.rs) writes records and brings stale legs up to date.

mod keeper;
mod open;
mod record;
mod shared;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::backing::Backing;
use super::transfer::{Span, Transfer, Zeroes};
use super::{Geometry, Io, LegStatus, Op, Progress, QueueTarget, Report, Request, Target};
use crate::error::words;
use crate::{BufferMode, CharDevice, Error};
use keeper::Keeper;
use shared::Shared;

pub use open::open;

/// How often a request looks whether what it waits for has come: the record of a failure, or the end of a window.
const POLL: Duration = Duration::from_millis(1);

struct Mirror {
    /// Dropped before the legs: it writes their last records. None for a mirror that is only read.
    _keeper: Option<Keeper>,
    legs: Arc<Vec<Option<Backing>>>,
    /// Stands in the ring's table for a leg that could not be opened.
    nothing: File,
    shared: Arc<Shared>,
    geometry: Geometry,
}

impl Target for Mirror {
    fn kind(&self) -> &'static str {
        "mirror"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::AutoZeroCopy]
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.legs.iter().map(|leg| leg.as_ref().map_or(self.nothing.as_fd(), |leg| leg.file.as_fd())).collect()
    }

    fn legs(&self) -> Vec<LegStatus> {
        self.shared.status()
    }

    fn report_to(&self, report: Report) {
        self.shared.set_report(report);
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let slots = tags as usize;
        Ok(Box::new(MirrorQueue {
            shared: Arc::clone(&self.shared),
            is_recorded: !self.geometry.read_only,
            legs: self.legs.len(),
            transfers: vec![Transfer::IDLE; slots * self.legs.len()],
            slots: vec![Slot::default(); slots],
            next_read: 0,
            zeroes: Zeroes::new(device)?,
        }))
    }
}

#[derive(Debug, Clone, Copy, Default)]
enum Step {
    /// One transfer, on this leg.
    #[default]
    Read,
    /// A transfer on each leg.
    Write,
    /// The resync works where the write wants to.
    AwaitWindow,
    /// All legs are done; that one has failed is not on record yet.
    AwaitRecord,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    step: Step,
    /// Legs that the request went to.
    legs: u8,
    failed: u8,
    open: u8,
    /// Of the last leg that failed.
    errno: i32,
    /// While there is a resync.
    epoch: Option<usize>,
}

struct MirrorQueue {
    shared: Arc<Shared>,
    is_recorded: bool,
    legs: usize,
    transfers: Vec<Transfer>,
    slots: Vec<Slot>,
    next_read: u32,
    zeroes: Zeroes,
}

impl QueueTarget for MirrorQueue {
    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        self.slots[usize::from(tag)] = Slot::default();
        match request.op {
            Op::Read => self.read(tag, request, self.shared.legs().in_sync, io),
            Op::Write | Op::Discard | Op::WriteZeroes | Op::Flush => self.write(tag, &of_legs(request), io),
            _ => Progress::Done(-libc::EOPNOTSUPP),
        }
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        let request = &of_legs(request);
        match self.slots[usize::from(tag)].step {
            Step::AwaitWindow => {
                self.shared.set_waiting(false);
                return self.write(tag, request, io);
            }
            Step::AwaitRecord => return self.acknowledge(tag, request, io),
            Step::Read | Step::Write => {}
        }
        let span = Span::whole(request, part);
        let transfer = &mut self.transfers[usize::from(tag) * self.legs + usize::from(part)];
        let Some(ended) = transfer.resume(request, span, part, result, &self.zeroes, io) else {
            return Progress::Pending;
        };
        if request.op == Op::Read {
            return self.read_ended(tag, request, part, ended, io);
        }
        let slot = &mut self.slots[usize::from(tag)];
        slot.open -= 1;
        if ended < 0 {
            slot.failed |= 1 << part;
            slot.errno = ended;
        }
        if slot.open > 0 { Progress::Pending } else { self.written(tag, request, io) }
    }
}

impl MirrorQueue {
    /// Reads from the next of these legs.
    #[inline]
    fn read(&mut self, tag: u16, request: &Request, legs: u8, io: &mut Io<'_>) -> Progress {
        self.next_read = self.next_read.wrapping_add(1);
        let leg = nth_bit(legs, self.next_read % legs.count_ones());
        self.transfer(tag, request, leg, io);
        Progress::Pending
    }

    fn read_ended(&mut self, tag: u16, request: &Request, leg: u16, ended: i32, io: &mut Io<'_>) -> Progress {
        if ended >= 0 {
            return Progress::Done(ended);
        }
        let is_dropped = self.shared.drop_leg(leg, &|| reason(ended));
        let others = self.shared.legs().in_sync & !(1 << leg);
        if is_dropped && others != 0 { self.read(tag, request, others, io) } else { Progress::Done(ended) }
    }

    fn write(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let legs = self.shared.legs();
        let slot = &mut self.slots[usize::from(tag)];
        if legs.resyncing != 0 && request.op != Op::Flush {
            slot.epoch = self.shared.begin_write(request.offset_bytes(), request.len_bytes.into());
            if slot.epoch.is_none() {
                slot.step = Step::AwaitWindow;
                self.shared.set_waiting(true);
                io.delay(0, POLL);
                return Progress::Pending;
            }
        }
        slot.step = Step::Write;
        slot.legs = legs.written();
        slot.open = legs.written().count_ones() as u8;
        for leg in (0..self.legs as u16).filter(|leg| legs.written() >> leg & 1 == 1) {
            self.transfer(tag, request, leg, io);
        }
        Progress::Pending
    }

    #[inline]
    fn transfer(&mut self, tag: u16, request: &Request, leg: u16, io: &mut Io<'_>) {
        let transfer = &mut self.transfers[usize::from(tag) * self.legs + usize::from(leg)];
        transfer.start(request, Span::whole(request, leg), leg, &self.zeroes, io);
    }

    /// Every leg has ended.
    #[inline]
    fn written(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let slot = self.slots[usize::from(tag)];
        if slot.failed != 0 {
            self.shared.drop_after_write(slot.failed, &|| reason(slot.errno));
        }
        // Behind that: once the write has ended, the resync may copy over it, and let a leg in as one that holds it.
        if let Some(epoch) = slot.epoch {
            self.shared.end_write(epoch);
        }
        self.acknowledge(tag, request, io)
    }

    /// Answers when every failure of a leg is on record.
    #[inline]
    fn acknowledge(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let slot = &mut self.slots[usize::from(tag)];
        if self.is_recorded && !self.shared.is_recorded() {
            if self.shared.is_unrecordable() {
                return Progress::Done(-libc::EIO);
            }
            slot.step = Step::AwaitRecord;
            io.delay(0, POLL);
            return Progress::Pending;
        }
        // What succeeded on a leg that others found wanting is lost with it.
        let has_it = slot.legs & !slot.failed & self.shared.legs().in_sync;
        match (has_it, slot.errno) {
            (1.., _) => Progress::Done(request.done_bytes()),
            (0, 0) => Progress::Done(-libc::EIO),
            (0, errno) => Progress::Done(errno),
        }
    }
}

/// The request as it goes to the legs, which must read the same after a discard: one that can punch no hole is zeroed by other means.
#[inline]
fn of_legs(request: &Request) -> Request {
    match request.op {
        Op::Discard => Request { op: Op::WriteZeroes, ..*request },
        _ => *request,
    }
}

#[inline]
fn nth_bit(mask: u8, n: u32) -> u16 {
    let mut left = mask;
    for _ in 0..n {
        left &= left - 1;
    }
    left.trailing_zeros() as u16
}

fn reason(errno: i32) -> String {
    words(&std::io::Error::from_raw_os_error(-errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_take_turns_over_the_legs_of_a_mask() {
        let legs = |mask: u8| (0..mask.count_ones()).map(|n| nth_bit(mask, n)).collect::<Vec<_>>();
        assert_eq!(legs(0b1), [0]);
        assert_eq!(legs(0b1000_0110), [1, 2, 7]);
    }
}
