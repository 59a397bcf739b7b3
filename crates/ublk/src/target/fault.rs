//! `fault`: a layer over any target that delays requests, fails them, tears writes, and kills its own process.
//!
//! What happens to a request follows from the seed and from how many requests of its operation came before it: the same requests meet the
//! same faults, whatever others the kernel sends in between (it reads when it likes).
//!
//! A request is delayed first, then fails or goes on to the target below; a torn one goes on with its first blocks alone, and fails when they
//! have been written. The layer has no operation of its own open while the target below has any, so parts need not be told apart.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::{Geometry, Io, LegStatus, Op, Progress, QueueTarget, Report, Request, Target, ZonedGeometry};
use crate::{BufferMode, CharDevice, Error};

/// Where the process kills itself (SIGKILL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DieAt {
    /// When the request has come, before anything is done about it.
    Fetch,
    /// When the target below has done it, before it is answered.
    Commit,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Every request waits this long first.
    pub delay: Duration,
    /// Share of the requests that fail with EIO, 0 to 1, of those that `error_ops` and `error_range` let through.
    pub error_rate: f64,
    /// Operations that may fail; empty means all.
    pub error_ops: Vec<Op>,
    /// Bytes of the device (from, to) that a request must touch to fail; None means anywhere.
    pub error_range: Option<(u64, u64)>,
    /// Share of the writes that are torn, 0 to 1: some of the first blocks are written, the request fails with EIO.
    pub torn_write_rate: f64,
    /// Decides which requests are hit.
    pub seed: u64,
    /// Dies at the `die_after`-th request that changes the device: a write, flush, discard or write-zeroes.
    pub die_at: Option<DieAt>,
    /// From 1 on.
    pub die_after: u64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            delay: Duration::ZERO,
            error_rate: 0.0,
            error_ops: Vec::new(),
            error_range: None,
            torn_write_rate: 0.0,
            seed: 0,
            die_at: None,
            die_after: 1,
        }
    }
}

/// Lays faults over a target.
pub fn fault(below: Arc<dyn Target>, faults: Faults) -> Arc<dyn Target> {
    let plan = Arc::new(Plan { faults, counts: Default::default(), changes: AtomicU64::new(0) });
    Arc::new(Fault { below, plan })
}

struct Fault {
    below: Arc<dyn Target>,
    plan: Arc<Plan>,
}

impl Target for Fault {
    fn kind(&self) -> &'static str {
        "fault"
    }

    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn resize(&self, size_bytes: u64) -> Result<(), Error> {
        self.below.resize(size_bytes)
    }

    /// Not the modes in which data goes to the memory below before this layer hears of the request: no write could be torn or refused.
    fn buffers(&self) -> Vec<BufferMode> {
        self.below.buffers().into_iter().filter(|mode| mode.is_zero_copy()).collect()
    }

    fn serves_zero_copy(&self) -> bool {
        self.below.serves_zero_copy()
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.below.files()
    }

    fn zoned(&self) -> Option<ZonedGeometry> {
        self.below.zoned()
    }

    fn legs(&self) -> Vec<LegStatus> {
        self.below.legs()
    }

    fn report_to(&self, report: Report) {
        self.below.report_to(report);
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let slots = tags as usize;
        let has_places = self.below.buffers().contains(&BufferMode::GetData);
        if has_places && matches!(device.buffers(), BufferMode::GetData | BufferMode::UserCopy) {
            let problem = "moves data straight into the memory below a fault; choose the data path copy or zero-copy";
            return Err(Error::InvalidState { id: device.id(), problem });
        }
        Ok(Box::new(FaultQueue {
            below: self.below.queue(device, tags)?,
            plan: Arc::clone(&self.plan),
            block_bytes: self.below.geometry().logical_block_bytes,
            slots: vec![Slot { is_delayed: false, fate: Fate::Pass, dies: false }; slots],
        }))
    }
}

/// What the seed has in store, shared by the queues.
struct Plan {
    faults: Faults,
    /// Requests so far of each counted operation.
    counts: [AtomicU64; Op::COUNTED.len()],
    /// Requests so far that change the device.
    changes: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Fail,
    /// Bytes that are written before it fails.
    Torn(u32),
}

impl Plan {
    fn fate(&self, request: &Request, block_bytes: u32) -> Fate {
        let Some(index) = Op::COUNTED.iter().position(|&op| op == request.op) else { return Fate::Pass };
        let count = self.counts[index].fetch_add(1, Relaxed);
        let draw = |what: u64| mix(self.faults.seed ^ mix(count << 8 | (index as u64) << 4 | what));
        if self.may_fail(request) && share(draw(0)) < self.faults.error_rate {
            return Fate::Fail;
        }
        if request.op == Op::Write && share(draw(1)) < self.faults.torn_write_rate {
            let blocks = u64::from(request.len_bytes / block_bytes);
            return Fate::Torn((draw(2) % blocks.max(1)) as u32 * block_bytes);
        }
        Fate::Pass
    }

    fn may_fail(&self, request: &Request) -> bool {
        let Faults { error_ops, error_range, .. } = &self.faults;
        let (begin, end) = (request.offset_bytes(), request.offset_bytes() + u64::from(request.len_bytes));
        (error_ops.is_empty() || error_ops.contains(&request.op))
            && error_range.is_none_or(|(from, to)| begin < to && from < end)
    }

    /// Counts a request, and tells whether it is the last one.
    fn dies(&self, request: &Request) -> bool {
        let changes = matches!(request.op, Op::Write | Op::Flush | Op::Discard | Op::WriteZeroes);
        self.faults.die_at.is_some() && changes && self.changes.fetch_add(1, Relaxed) + 1 == self.faults.die_after
    }
}

/// Splitmix64's finalizer: every bit of the result depends on every bit of the value.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// A number from 0 up to 1 and never 1, so that a rate of 1 hits all and one of 0 none.
fn share(drawn: u64) -> f64 {
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

fn die() {
    let _ = kill_process(getpid(), Signal::KILL);
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    is_delayed: bool,
    fate: Fate,
    dies: bool,
}

struct FaultQueue {
    below: Box<dyn QueueTarget>,
    plan: Arc<Plan>,
    block_bytes: u32,
    slots: Vec<Slot>,
}

impl QueueTarget for FaultQueue {
    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let dies = self.plan.dies(request);
        if dies && self.plan.faults.die_at == Some(DieAt::Fetch) {
            die();
        }
        let fate = self.plan.fate(request, self.block_bytes);
        let delay = self.plan.faults.delay;
        self.slots[usize::from(tag)] = Slot { is_delayed: !delay.is_zero(), fate, dies };
        if delay.is_zero() {
            return self.go_on(tag, request, io);
        }
        io.delay(0, delay);
        Progress::Pending
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        let slot = &mut self.slots[usize::from(tag)];
        if std::mem::take(&mut slot.is_delayed) {
            return self.go_on(tag, request, io);
        }
        let request = slot.fate.applied_to(request);
        let progress = self.below.resume(tag, &request, part, result, io);
        self.settle(tag, progress)
    }
}

impl Fate {
    /// The request as the target below sees it.
    #[inline]
    fn applied_to(self, request: &Request) -> Request {
        match self {
            Fate::Torn(len_bytes) => Request { len_bytes, ..*request },
            Fate::Pass | Fate::Fail => *request,
        }
    }
}

impl FaultQueue {
    #[inline]
    fn go_on(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let fate = self.slots[usize::from(tag)].fate;
        let progress = match fate {
            Fate::Fail | Fate::Torn(0) => Progress::Done(-libc::EIO),
            Fate::Torn(_) | Fate::Pass => self.below.start(tag, &fate.applied_to(request), io),
        };
        self.settle(tag, progress)
    }

    #[inline]
    fn settle(&mut self, tag: u16, progress: Progress) -> Progress {
        let slot = self.slots[usize::from(tag)];
        if matches!(progress, Progress::Pending | Progress::Waiting) {
            return progress;
        }
        if slot.dies {
            die();
        }
        match slot.fate {
            Fate::Torn(_) => Progress::Done(-libc::EIO),
            Fate::Fail | Fate::Pass => progress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(faults: Faults) -> Plan {
        Plan { faults, counts: Default::default(), changes: AtomicU64::new(0) }
    }

    fn request(op: Op, start_sector: u64, len_bytes: u32) -> Request {
        Request { op, start_sector, len_bytes, ..Request::default() }
    }

    #[test]
    fn a_seed_gives_the_same_fates_whatever_is_read_in_between() {
        let faults = Faults { error_rate: 0.3, torn_write_rate: 0.3, seed: 7, ..Faults::default() };
        let fates = |plan: &Plan, reads: usize| -> Vec<Fate> {
            (0..1000)
                .map(|_| {
                    (0..reads).for_each(|_| _ = plan.fate(&request(Op::Read, 0, 512), 512));
                    plan.fate(&request(Op::Write, 0, 16384), 512)
                })
                .collect()
        };
        let first = fates(&plan(faults.clone()), 0);
        assert_eq!(first, fates(&plan(faults.clone()), 3));
        assert_ne!(first, fates(&plan(Faults { seed: 8, ..faults }), 0));
        let failed = first.iter().filter(|&&fate| fate == Fate::Fail).count();
        let torn = first.iter().filter(|fate| matches!(fate, Fate::Torn(bytes) if *bytes < 16384)).count();
        assert!((250..350).contains(&failed), "{failed} of 1000 failed at a rate of 0.3");
        assert!((160..260).contains(&torn), "{torn} of 1000 were torn at a rate of 0.3 of the rest");
    }

    #[test]
    fn a_rate_of_one_hits_all_that_touch_the_range_and_have_the_operation() {
        let faults = Faults {
            error_rate: 1.0,
            error_ops: vec![Op::Write],
            error_range: Some((4096, 8192)),
            ..Faults::default()
        };
        let plan = plan(faults);
        for (op, start_sector, len_bytes, fails) in [
            (Op::Write, 8, 4096, true),
            (Op::Write, 0, 4608, true),
            (Op::Write, 15, 512, true),
            (Op::Write, 0, 4096, false),
            (Op::Write, 16, 4096, false),
            (Op::Read, 8, 4096, false),
            (Op::Flush, 0, 0, false),
        ] {
            let fate = plan.fate(&request(op, start_sector, len_bytes), 512);
            assert_eq!(fate == Fate::Fail, fails, "{op:?} of {len_bytes} at sector {start_sector}");
        }
    }

    #[test]
    fn death_comes_with_the_request_that_was_counted_out_and_reads_do_not_count() {
        let plan = plan(Faults { die_at: Some(DieAt::Fetch), die_after: 3, ..Faults::default() });
        let ops = [Op::Read, Op::Write, Op::Read, Op::Flush, Op::Read, Op::Discard, Op::Write];
        let dies: Vec<bool> = ops.iter().map(|&op| plan.dies(&request(op, 0, 512))).collect();
        assert_eq!(dies, [false, false, false, false, false, true, false]);
    }
}
