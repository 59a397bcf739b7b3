//! Random requests from several threads, against a model in memory: what a device must hold is known for every byte.
//!
//! Each thread has a part of the disk of its own, which it first fills and at the end reads as a whole. What a step changed is read back at
//! once, with a block on either side. Everything comes from the seed.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::buffer::Buffer;
use crate::disk::{Disk, Zeroing};
use crate::evidence::{Failure, Wrong, compare, fill, in_threads, take_steps};
use crate::random::Random;

/// Longest request; a device with a smaller limit gets it in parts.
const MAX_REQUEST_BYTES: u64 = 128 << 10;

/// Which requests a check is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reads of what was filled in.
    Read,
    /// Writes.
    Write,
    /// Writes and flushes.
    Flush,
    /// Writes that are durable by themselves.
    Fua,
    /// Discards among writes.
    Discard,
    /// Zeroing of both kinds among writes.
    WriteZeroes,
    /// All of them.
    Mixed,
}

impl Operation {
    /// Each by its name.
    pub const ALL: [(&'static str, Operation); 7] = [
        ("read", Operation::Read),
        ("write", Operation::Write),
        ("flush", Operation::Flush),
        ("fua", Operation::Fua),
        ("discard", Operation::Discard),
        ("write-zeroes", Operation::WriteZeroes),
        ("mixed", Operation::Mixed),
    ];

    fn kinds(self) -> &'static [Kind] {
        use Kind::{Discard, DurableWrite, Flush, Read, Write, Zero};
        use Zeroing::{Keep, Unmap};
        match self {
            Operation::Read => &[Read],
            Operation::Write => &[Write],
            Operation::Flush => &[Write, Flush],
            Operation::Fua => &[DurableWrite, DurableWrite, Write],
            Operation::Discard => &[Write, Discard, Discard],
            Operation::WriteZeroes => &[Write, Zero(Unmap), Zero(Keep)],
            Operation::Mixed => {
                &[Read, Read, Write, Write, Write, DurableWrite, Flush, Discard, Zero(Unmap), Zero(Keep)]
            }
        }
    }
}

/// What a read must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// What was written.
    Data,
    /// Zeroes: the device forgets.
    Zeroes,
    /// Whatever: only that requests succeed is checked.
    Anything,
}

/// One check.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its requests.
    pub operation: Operation,
    /// Chooses their kinds, places and lengths.
    pub seed: u64,
    /// How many threads send them.
    pub threads: u64,
    /// Requests of each thread.
    pub steps: u64,
    /// What reads bring.
    pub expect: Expect,
    /// The file that the device serves: it must hold the same, once the device was flushed.
    pub image: Option<PathBuf>,
    /// A file of memory for the requests' data, shared with the server.
    pub shared: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    DurableWrite,
    Flush,
    Discard,
    Zero(Zeroing),
}

/// One request. The place is in the thread's part of the disk.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: Kind,
    offset: u64,
    length: u64,
    /// Makes the bytes of each write different.
    version: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes at {}", self.kind, self.length, self.offset)
    }
}

/// Runs a check. The answer is the number of steps done.
///
/// # Errors
/// A sentence that says what was wrong, where, and how to have it again.
pub fn check(disk: &dyn Disk, plan: &Plan) -> Result<u64, String> {
    let parts = parts(disk, plan.threads);
    in_threads(&parts, |thread, part| {
        let steps = steps(plan, thread, part.end - part.start, disk.block_bytes());
        let run = |steps: &[Step]| Part::new(disk, plan, thread, part.clone())?.run(steps);
        take_steps(steps, run).map_err(|wrong| format!("seed {}, thread {thread}, {wrong}", plan.seed))
    })?;
    Ok(plan.threads * plan.steps)
}

/// Equal parts of whole blocks; the last one takes the rest.
fn parts(disk: &dyn Disk, count: u64) -> Vec<Range<u64>> {
    let size = disk.size_bytes() / count / disk.block_bytes() * disk.block_bytes();
    (0..count).map(|part| part * size..if part + 1 == count { disk.size_bytes() } else { (part + 1) * size }).collect()
}

fn steps(plan: &Plan, thread: u64, size: u64, block: u64) -> Vec<Step> {
    let mut random = Random::new(plan.seed, thread);
    let kinds = plan.operation.kinds();
    let longest = MAX_REQUEST_BYTES.min(size) / block;
    (1..=plan.steps)
        .map(|version| {
            let kind = kinds[random.below(kinds.len() as u64) as usize];
            // Half of the requests are of few blocks.
            let most = if random.below(2) == 0 { longest.min(8) } else { longest };
            let length = (1 + random.below(most)) * block;
            let offset = random.below((size - length) / block + 1) * block;
            Step { kind, offset, length, version }
        })
        .collect()
}

/// One thread's part of the disk, with its model.
struct Part<'a> {
    disk: &'a dyn Disk,
    plan: &'a Plan,
    range: Range<u64>,
    model: Vec<u8>,
    buffer: Buffer,
}

impl<'a> Part<'a> {
    fn new(disk: &'a dyn Disk, plan: &'a Plan, thread: u64, range: Range<u64>) -> Result<Part<'a>, Failure> {
        let size = (range.end - range.start) as usize;
        let longest = size.min((MAX_REQUEST_BYTES + 2 * disk.block_bytes()) as usize);
        let buffer = Buffer::new(longest, plan.shared.as_deref(), thread)
            .map_err(|error| Failure { at: 0, wrong: format!("the shared memory: {error}") })?;
        Ok(Part { disk, plan, model: vec![0; size], range, buffer })
    }

    /// Fills the part, takes the steps, looks at everything.
    fn run(mut self, steps: &[Step]) -> Result<(), Failure> {
        self.fill_all().map_err(|error| Failure { at: 0, wrong: format!("filling the disk: {error}") })?;
        for (at, step) in steps.iter().enumerate() {
            self.take(step).map_err(|wrong| Failure { at, wrong: self.explain(wrong, &steps[..=at]) })?;
        }
        self.look_at_all().map_err(|wrong| Failure { at: steps.len(), wrong: self.explain(wrong, steps) })
    }

    fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn chunks(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let size = self.size();
        (0..size.div_ceil(MAX_REQUEST_BYTES)).map(move |index| {
            let offset = index * MAX_REQUEST_BYTES;
            (offset, MAX_REQUEST_BYTES.min(size - offset))
        })
    }

    fn fill_all(&mut self) -> io::Result<()> {
        for (offset, length) in self.chunks() {
            self.write(&Step { kind: Kind::Write, offset, length, version: 0 }, false)?;
        }
        Ok(())
    }

    fn look_at_all(&mut self) -> Result<(), Wrong> {
        for (offset, length) in self.chunks() {
            self.look(offset, length)?;
        }
        let Some(image) = &self.plan.image else { return Ok(()) };
        self.disk.flush()?;
        let mut held = vec![0; self.model.len()];
        File::open(image)?.read_exact_at(&mut held, self.range.start)?;
        compare(&held, &self.model, 0).map_err(|wrong| wrong.with_place("in the image, "))
    }

    fn take(&mut self, step: &Step) -> Result<(), Wrong> {
        let (offset, length) = (step.offset, step.length);
        // What is cleared was just written, or a clearing that was lost would not show. (In a mixed sequence holes are cleared too.)
        if matches!(step.kind, Kind::Discard | Kind::Zero(_)) && self.plan.operation != Operation::Mixed {
            self.write(step, false)?;
        }
        match step.kind {
            Kind::Read => return self.look(offset, length),
            Kind::Flush => return Ok(self.disk.flush()?),
            Kind::Write | Kind::DurableWrite => self.write(step, step.kind == Kind::DurableWrite)?,
            Kind::Discard => {
                self.disk.discard(self.range.start + offset, length)?;
                self.forget(offset, length)?;
            }
            Kind::Zero(zeroing) => {
                self.disk.write_zeroes(self.range.start + offset, length, zeroing)?;
                self.model[offset as usize..][..length as usize].fill(0);
            }
        }
        let block = self.disk.block_bytes();
        let start = offset.saturating_sub(block);
        self.look(start, (offset + length + block).min(self.size()) - start)
    }

    /// A discard clears whole pieces of its granularity. What is less at its ends is cleared or kept, block by block.
    fn forget(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let granularity = self.disk.discard_granularity();
        let (start, end) = (self.range.start + offset, self.range.start + offset + length);
        let cleared_start = start.next_multiple_of(granularity).min(end);
        let cleared_end = (end / granularity * granularity).max(cleared_start);
        let base = self.range.start;
        self.model[(cleared_start - base) as usize..(cleared_end - base) as usize].fill(0);
        let block = self.disk.block_bytes() as usize;
        for place in (start..cleared_start).chain(cleared_end..end).step_by(block) {
            let data = &mut self.buffer.bytes()[..block];
            self.disk.read(data, place)?;
            if data.iter().all(|byte| *byte == 0) {
                self.model[(place - base) as usize..][..block].fill(0);
            }
        }
        Ok(())
    }

    fn write(&mut self, step: &Step, is_durable: bool) -> io::Result<()> {
        let data = &mut self.buffer.bytes()[..step.length as usize];
        fill(data, self.range.start + step.offset, step.version);
        if self.plan.expect == Expect::Data {
            self.model[step.offset as usize..][..step.length as usize].copy_from_slice(data);
        }
        self.disk.write(data, self.range.start + step.offset, is_durable)
    }

    /// Reads a range and compares it with the model.
    fn look(&mut self, offset: u64, length: u64) -> Result<(), Wrong> {
        let data = &mut self.buffer.bytes()[..length as usize];
        data.fill(0xee);
        self.disk.read(data, self.range.start + offset)?;
        if self.plan.expect == Expect::Anything {
            return Ok(());
        }
        compare(data, &self.model[offset as usize..][..length as usize], offset)
    }

    fn explain(&self, wrong: Wrong, steps: &[Step]) -> String {
        let Wrong::Byte { place, at, found, expected } = wrong else { return wrong.to_string() };
        let covers = |step: &&Step| {
            step.kind != Kind::Read
                && step.kind != Kind::Flush
                && (step.offset..step.offset + step.length).contains(&at)
        };
        let last =
            steps.iter().rfind(covers).map_or("filled at the start".into(), |step| format!("last changed by {step}"));
        format!("{place}byte {} is {found:#04x} and not {expected:#04x}; it was {last}", self.range.start + at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// What a device may do wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        /// One byte of the n-th write is another.
        WrongByte(u64),
        /// The n-th discard is answered and not done.
        LostDiscard(u64),
        /// None is done.
        NoDiscard,
        /// No fault: pieces of 2048 bytes are discarded, less is kept.
        DiscardsWholePieces,
        /// The n-th zeroing leaves its last block.
        ShortZeroes(u64),
        /// The n-th write goes one block too far.
        WrongPlace(u64),
        /// The n-th write is answered and not done.
        LostWrite(u64),
        /// Flushes fail.
        NoFlush,
    }

    struct Memory {
        bytes: Mutex<Vec<u8>>,
        fault: Fault,
        count: AtomicU64,
    }

    impl Memory {
        fn new(fault: Fault) -> Memory {
            Memory { bytes: Mutex::new(vec![0; (1 << 20) + 512]), fault, count: AtomicU64::new(0) }
        }
        /// Whether this is the n-th call that may fail; only kinds of the fault count.
        fn is_turn(&self, turn: u64) -> bool {
            self.count.fetch_add(1, Ordering::Relaxed) == turn
        }
    }

    impl Disk for Memory {
        fn size_bytes(&self) -> u64 {
            (1 << 20) + 512
        }
        fn block_bytes(&self) -> u64 {
            512
        }
        fn discard_granularity(&self) -> u64 {
            if self.fault == Fault::DiscardsWholePieces { 2048 } else { 512 }
        }
        fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            buffer.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..][..buffer.len()]);
            Ok(())
        }
        fn write(&self, buffer: &[u8], offset: u64, _is_durable: bool) -> io::Result<()> {
            let mut bytes = self.bytes.lock().unwrap();
            let mut place = offset as usize;
            match self.fault {
                Fault::LostWrite(turn) if self.is_turn(turn) => return Ok(()),
                Fault::WrongPlace(turn) if self.is_turn(turn) => {
                    place = (place + 512).min(bytes.len() - buffer.len());
                }
                Fault::WrongByte(turn) if self.is_turn(turn) => {
                    bytes[place..][..buffer.len()].copy_from_slice(buffer);
                    bytes[place + buffer.len() / 2] ^= 1;
                    return Ok(());
                }
                _ => {}
            }
            bytes[place..][..buffer.len()].copy_from_slice(buffer);
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            if self.fault == Fault::NoFlush { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        }
        fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
            match self.fault {
                Fault::NoDiscard => Ok(()),
                Fault::DiscardsWholePieces => {
                    let (start, end) = (offset.next_multiple_of(2048), (offset + length) / 2048 * 2048);
                    self.bytes.lock().unwrap()[start as usize..(end.max(start)) as usize].fill(0);
                    Ok(())
                }
                Fault::LostDiscard(turn) if self.is_turn(turn) => Ok(()),
                _ => {
                    self.bytes.lock().unwrap()[offset as usize..][..length as usize].fill(0);
                    Ok(())
                }
            }
        }
        fn write_zeroes(&self, offset: u64, length: u64, _zeroing: Zeroing) -> io::Result<()> {
            let kept = match self.fault {
                Fault::ShortZeroes(turn) if self.is_turn(turn) => 512,
                _ => 0,
            };
            self.bytes.lock().unwrap()[offset as usize..][..length as usize - kept].fill(0);
            Ok(())
        }
    }

    fn plan(operation: Operation, seed: u64) -> Plan {
        Plan { operation, seed, threads: 2, steps: 40, expect: Expect::Data, image: None, shared: None }
    }

    #[test]
    fn a_disk_that_keeps_its_promises_passes() {
        for (name, operation) in Operation::ALL {
            for seed in 0..5 {
                for right in [Fault::None, Fault::DiscardsWholePieces] {
                    assert_eq!(
                        check(&Memory::new(right), &plan(operation, seed)),
                        Ok(80),
                        "{name}, seed {seed}, {right:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_fault_is_seen_by_the_check_of_its_operation() {
        for (fault, operation) in [
            (Fault::WrongByte(14), Operation::Write),
            (Fault::WrongByte(3), Operation::Read),
            (Fault::WrongPlace(12), Operation::Write),
            (Fault::LostWrite(14), Operation::Flush),
            (Fault::LostWrite(14), Operation::Fua),
            (Fault::LostDiscard(5), Operation::Discard),
            (Fault::ShortZeroes(5), Operation::WriteZeroes),
            (Fault::NoFlush, Operation::Flush),
            (Fault::WrongByte(14), Operation::Mixed),
            (Fault::NoDiscard, Operation::Mixed),
        ] {
            for seed in 0..5 {
                // One thread: the fault is then in one of its steps, and not in another's filling, which a step may cover.
                let answer = check(&Memory::new(fault), &Plan { threads: 1, ..plan(operation, seed) });
                assert!(answer.is_err(), "{fault:?} was not seen by {operation:?}, seed {seed}");
            }
        }
    }

    #[test]
    fn a_failure_names_the_seed_the_byte_and_what_should_be_there() {
        let answer = check(&Memory::new(Fault::LostDiscard(0)), &plan(Operation::Discard, 7)).unwrap_err();
        assert!(answer.contains("seed 7"), "{answer}");
        assert!(answer.contains("and not 0x00; it was last changed by Discard of"), "{answer}");
    }

    /// A device that never discards: the shortest sequence that shows it is the discard alone.
    #[test]
    fn a_failure_that_comes_again_is_made_short() {
        let answer = check(&Memory::new(Fault::NoDiscard), &plan(Operation::Mixed, 3)).unwrap_err();
        assert!(answer.contains("; 1 steps show it: Discard of"), "{answer}");
    }

    #[test]
    fn a_disk_that_forgets_must_read_as_zeroes() {
        let forgets = Plan { expect: Expect::Zeroes, ..plan(Operation::Write, 1) };
        assert!(check(&Memory::new(Fault::None), &forgets).is_err(), "this one remembers");
        let whatever = Plan { expect: Expect::Anything, ..plan(Operation::Write, 1) };
        assert_eq!(check(&Memory::new(Fault::WrongByte(5)), &whatever), Ok(80));
    }

    #[test]
    fn the_parts_of_the_threads_cover_the_disk() {
        let disk = Memory::new(Fault::None);
        let parts = parts(&disk, 3);
        assert_eq!((parts[0].start, parts[2].end), (0, disk.size_bytes()));
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(parts.iter().all(|part| part.start % 512 == 0));
    }
}
