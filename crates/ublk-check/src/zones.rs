//! Random requests and commands to the zones of a zoned disk, against a model in memory: every byte, every state and every write pointer is known.
//!
//! The zones are dealt out to the threads in turn, so that neighbours are written at the same time. Each thread begins with zones that are
//! empty, full, and something in between, and at the end reads all of them. A sequential zone is written at its pointer only, and one that is
//! full is reset first. What a step changed is read back at once, below and above the pointer, and all zones are reported.
//! The disk must have no limit on open zones: with one, what a thread does would depend on the others. Everything comes from the seed.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::buffer::Buffer;
use crate::evidence::{Failure, Wrong, compare, fill, in_threads, take_steps};
use crate::random::Random;
use crate::zoned_disk::{Command, Condition, Zone, ZonedDisk};

/// Longest request; a device with a smaller limit gets it in parts.
const MAX_REQUEST_BYTES: u64 = 128 << 10;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads from anywhere in the zone.
    Read,
    /// Writes at the pointer, or anywhere in a conventional zone.
    Write,
    /// The same, durable by itself.
    DurableWrite,
    /// Flushes the disk.
    Flush,
    /// Tells a sequential zone what to do.
    Tell(Command),
}

use Kind::{DurableWrite, Flush, Read, Tell, Write};

/// The kinds that a check is made of, by its name.
pub const OPERATIONS: [(&str, &[Kind]); 6] = [
    ("read", &[Read]),
    ("write", &[Write]),
    ("flush", &[Write, Flush]),
    ("fua", &[DurableWrite, DurableWrite, Write]),
    ("zone-commands", &[Write, OPEN, OPEN, CLOSE, CLOSE, FINISH, RESET, RESET]),
    ("mixed", &[Read, Read, Write, Write, Write, DurableWrite, Flush, OPEN, CLOSE, FINISH, RESET]),
];

const OPEN: Kind = Tell(Command::Open);
const CLOSE: Kind = Tell(Command::Close);
const FINISH: Kind = Tell(Command::Finish);
const RESET: Kind = Tell(Command::Reset);

/// One check.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What its steps do.
    pub kinds: &'static [Kind],
    /// Chooses their kinds, places and lengths.
    pub seed: u64,
    /// How many threads take them.
    pub threads: u64,
    /// Steps of each thread.
    pub steps: u64,
    /// The file that the disk serves: it must hold the same, once the disk was flushed.
    pub image: Option<PathBuf>,
}

/// One step. In a sequential zone a write goes to the pointer and is as long as there is room.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: Kind,
    /// Of the disk's.
    zone: u64,
    /// In the zone.
    offset: u64,
    length: u64,
    /// Makes the bytes of each write different.
    version: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { kind, zone, offset, length, .. } = self;
        match kind {
            Read | Write | DurableWrite => write!(f, "{kind:?} of {length} bytes at {offset} of zone {zone}"),
            Flush => write!(f, "Flush"),
            Tell(command) => write!(f, "{command:?} of zone {zone}"),
        }
    }
}

/// Runs a check. The answer is the number of steps done.
///
/// # Errors
/// A sentence that says what was wrong, where, and how to have it again.
pub fn check(disk: &dyn ZonedDisk, plan: &Plan) -> Result<u64, String> {
    let zones = zones_of(disk).map_err(|wrong| wrong.to_string())?;
    if (zones.len() as u64) < plan.threads {
        return Err(format!("{} zones are too few for {} threads", zones.len(), plan.threads));
    }
    let threads: Vec<u64> = (0..plan.threads).collect();
    in_threads(&threads, |thread, _| {
        let steps = steps(plan, thread, &zones, disk.block_bytes());
        take_steps(steps, |steps| Part::new(disk, plan, thread, &zones)?.run(steps))
            .map_err(|wrong| format!("seed {}, thread {thread}, {wrong}", plan.seed))
    })?;
    Ok(plan.threads * plan.steps)
}

/// All zones, which must cover the disk.
fn zones_of(disk: &dyn ZonedDisk) -> Result<Vec<Zone>, Wrong> {
    let Some(&Zone { length, .. }) = disk.report(0, 1)?.first() else {
        return Err(Wrong::Zone("no zone is reported".into()));
    };
    let count = disk.size_bytes().div_ceil(length.max(1)) as usize;
    let zones = disk.report(0, count)?;
    let is_placed = |(number, zone): (u64, &Zone)| zone.start == number * length && zone.length == length;
    if zones.len() != count || !(0..).zip(&zones).all(is_placed) {
        return Err(Wrong::Zone(format!(
            "{} zones of {length} bytes that do not cover the disk's {}",
            zones.len(),
            disk.size_bytes()
        )));
    }
    Ok(zones)
}

fn steps(plan: &Plan, thread: u64, zones: &[Zone], block: u64) -> Vec<Step> {
    let mut random = Random::new(plan.seed, thread);
    let own: Vec<u64> = (thread..zones.len() as u64).step_by(plan.threads as usize).collect();
    let mut zone = own[0];
    let step = |version| {
        let kind = plan.kinds[random.below(plan.kinds.len() as u64) as usize];
        // Half of the steps go on in the zone of the one before: what a command does depends on others.
        if random.below(2) == 0 {
            zone = own[random.below(own.len() as u64) as usize];
        }
        let Zone { length: size, is_sequential, .. } = zones[zone as usize];
        // A conventional zone has no states.
        let kind = if matches!(kind, Tell(_)) && !is_sequential { Write } else { kind };
        let longest = MAX_REQUEST_BYTES.min(size) / block;
        // Half of the requests are of few blocks.
        let most = if random.below(2) == 0 { longest.min(8) } else { longest };
        let length = (1 + random.below(most)) * block;
        let offset = random.below((size - length) / block + 1) * block;
        Step { kind, zone, offset, length, version }
    };
    (1..=plan.steps).map(step).collect()
}

/// A zone's model.
struct Model {
    /// As it was reported first.
    zone: Zone,
    condition: Condition,
    /// Bytes from the start to the pointer.
    written: u64,
    bytes: Vec<u8>,
}

impl Model {
    /// What the zone is told makes it; None: it must refuse.
    fn after(&self, command: Command) -> Option<Condition> {
        use Condition::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen};
        match (command, self.condition) {
            (Command::Open, Empty | Closed | ImplicitOpen | ExplicitOpen) => Some(ExplicitOpen),
            (Command::Close, ImplicitOpen | ExplicitOpen) => Some(if self.written == 0 { Empty } else { Closed }),
            (Command::Close, Closed) => Some(Closed),
            (Command::Open | Command::Close, _) => None,
            (Command::Finish, _) => Some(Full),
            (Command::Reset, _) => Some(Empty),
        }
    }

    fn is_told(&mut self, command: Command, condition: Condition) {
        self.condition = condition;
        match command {
            Command::Open | Command::Close => {}
            Command::Finish => self.written = self.zone.capacity,
            Command::Reset => {
                self.written = 0;
                self.bytes.fill(0);
            }
        }
    }

    fn is_written(&mut self, offset: u64, data: &[u8]) {
        self.bytes[offset as usize..][..data.len()].copy_from_slice(data);
        if !self.zone.is_sequential {
            return;
        }
        self.written += data.len() as u64;
        if self.written == self.zone.capacity {
            self.condition = Condition::Full;
        } else if self.condition != Condition::ExplicitOpen {
            self.condition = Condition::ImplicitOpen;
        }
    }

    /// The zone as it must be reported; `found` says what nobody promises.
    fn expected(&self, found: &Zone) -> Zone {
        let pointer = match self.condition {
            Condition::Full | Condition::NotWritePointer => found.pointer,
            _ => self.zone.start + self.written,
        };
        Zone { pointer, condition: self.condition, ..self.zone }
    }
}

/// The zones of one thread, with their models.
struct Part<'a> {
    disk: &'a dyn ZonedDisk,
    plan: &'a Plan,
    thread: u64,
    zones: usize,
    models: Vec<Model>,
    buffer: Buffer,
}

impl<'a> Part<'a> {
    fn new(disk: &'a dyn ZonedDisk, plan: &'a Plan, thread: u64, zones: &[Zone]) -> Result<Part<'a>, Failure> {
        let model = |zone: &Zone| Model {
            zone: *zone,
            condition: zone.condition,
            written: 0,
            bytes: vec![0; zone.length as usize],
        };
        let models = zones.iter().skip(thread as usize).step_by(plan.threads as usize).map(model).collect();
        let buffer = Buffer::new((MAX_REQUEST_BYTES + 2 * disk.block_bytes()) as usize, None, thread)
            .map_err(|error| Failure { at: 0, wrong: error.to_string() })?;
        Ok(Part { disk, plan, thread, zones: zones.len(), models, buffer })
    }

    /// Makes the zones what they are at the beginning, takes the steps, looks at everything.
    fn run(mut self, steps: &[Step]) -> Result<(), Failure> {
        self.begin().map_err(|wrong| Failure { at: 0, wrong: format!("at the beginning: {wrong}") })?;
        for (at, step) in steps.iter().enumerate() {
            self.take(step).map_err(|wrong| Failure { at, wrong: wrong.to_string() })?;
        }
        self.look_at_all().map_err(|wrong| Failure { at: steps.len(), wrong: wrong.to_string() })
    }

    fn begin(&mut self) -> Result<(), Wrong> {
        let mut random = Random::new(self.plan.seed, self.plan.threads + self.thread);
        for index in 0..self.models.len() {
            let zone = self.models[index].zone;
            let written = match (zone.is_sequential, random.below(3)) {
                (false, _) => zone.length,
                (true, 0) => 0,
                (true, 1) => zone.capacity,
                (true, _) => random.below(zone.capacity / self.disk.block_bytes()) * self.disk.block_bytes(),
            };
            if zone.is_sequential {
                self.tell(index, Command::Reset)?;
            }
            for (offset, length) in pieces(0, written) {
                self.write(index, offset, length, 0, false)?;
            }
        }
        self.look_at_states()
    }

    fn take(&mut self, step: &Step) -> Result<(), Wrong> {
        let index = (step.zone / self.plan.threads) as usize;
        match step.kind {
            Read => return self.look(index, step.offset, step.length),
            Flush => return Ok(self.disk.flush()?),
            Write | DurableWrite => self.take_write(index, step)?,
            Tell(command) => {
                self.tell(index, command)?;
                self.look(index, 0, self.models[index].zone.length)?;
            }
        }
        self.look_at_states()
    }

    fn take_write(&mut self, index: usize, step: &Step) -> Result<(), Wrong> {
        let Model { zone, condition, .. } = self.models[index];
        if condition == Condition::Full {
            self.tell(index, Command::Reset)?;
        }
        let (offset, length) = match zone.is_sequential {
            true => (self.models[index].written, step.length.min(zone.capacity - self.models[index].written)),
            false => (step.offset, step.length),
        };
        self.write(index, offset, length, step.version, step.kind == DurableWrite)?;
        let block = self.disk.block_bytes();
        let start = offset.saturating_sub(block);
        self.look(index, start, (offset + length + block).min(zone.length) - start)
    }

    fn tell(&mut self, index: usize, command: Command) -> Result<(), Wrong> {
        let model = &mut self.models[index];
        match (self.disk.command(command, &model.zone), model.after(command)) {
            (Ok(()), Some(condition)) => {
                model.is_told(command, condition);
                Ok(())
            }
            (Err(error), None) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
            (Err(error), _) => Err(error.into()),
            (Ok(()), None) => Err(Wrong::Zone(format!("a zone that is {:?} took it", model.condition))),
        }
    }

    fn write(
        &mut self,
        index: usize,
        offset: u64,
        length: u64,
        version: u64,
        is_durable: bool,
    ) -> Result<(), io::Error> {
        let model = &mut self.models[index];
        let data = &mut self.buffer.bytes()[..length as usize];
        let place = model.zone.start + offset;
        fill(data, place, version);
        self.disk.write(data, place, is_durable)?;
        model.is_written(offset, data);
        Ok(())
    }

    /// Reads a range of a zone and compares it with the model.
    fn look(&mut self, index: usize, offset: u64, length: u64) -> Result<(), Wrong> {
        let Model { zone, bytes, .. } = &self.models[index];
        for (offset, length) in pieces(offset, length) {
            let data = &mut self.buffer.bytes()[..length as usize];
            data.fill(0xee);
            self.disk.read(data, zone.start + offset)?;
            compare(data, &bytes[offset as usize..][..length as usize], zone.start + offset)?;
        }
        Ok(())
    }

    fn look_at_states(&self) -> Result<(), Wrong> {
        let found = self.disk.report(0, self.zones)?;
        let own = found.iter().skip(self.thread as usize).step_by(self.plan.threads as usize);
        for (zone, model) in own.zip(&self.models) {
            let expected = model.expected(zone);
            if *zone != expected {
                return Err(Wrong::Zone(format!("a zone is {zone:?} and not {expected:?}")));
            }
        }
        if found.len() == self.zones { Ok(()) } else { Err(Wrong::Zone(format!("{} zones are reported", found.len()))) }
    }

    fn look_at_all(&mut self) -> Result<(), Wrong> {
        for index in 0..self.models.len() {
            self.look(index, 0, self.models[index].zone.length)?;
        }
        let Some(image) = &self.plan.image else { return Ok(()) };
        self.disk.flush()?;
        let image = File::open(image)?;
        for Model { zone, bytes, .. } in &self.models {
            let mut held = vec![0; bytes.len()];
            image.read_exact_at(&mut held, zone.start)?;
            compare(&held, bytes, zone.start).map_err(|wrong| wrong.with_place("in the image, "))?;
        }
        Ok(())
    }
}

/// A range in requests.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = (0..length).step_by(MAX_REQUEST_BYTES as usize);
    starts.map(move |start| (offset + start, MAX_REQUEST_BYTES.min(length - start)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::disk::{Disk, Zeroing};

    const ZONE: u64 = 16 << 10;
    const CAPACITY: u64 = 12 << 10;
    const COUNT: u64 = 8;

    /// What a disk may do wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        /// Writes that are answered are not done.
        LosesWrites,
        /// And their last byte is another.
        ChangesBytes,
        /// They do not move the pointer that is reported.
        ForgetsPointers,
        /// A reset leaves the data.
        KeepsData,
        /// A command is answered and not done.
        Ignores(Command),
        /// A zone that is full opens.
        OpensFullZones,
        /// A zone that nothing was written to is closed, and not empty, when it was open.
        ClosesEmptyZones,
        /// Flushes fail.
        NoFlush,
    }

    struct Memory {
        fault: Fault,
        zones: Mutex<Vec<Model>>,
    }

    impl Memory {
        fn new(fault: Fault) -> Memory {
            let zone = |number| Model {
                zone: Zone {
                    start: number * ZONE,
                    length: ZONE,
                    capacity: if number < 2 { ZONE } else { CAPACITY },
                    pointer: number * ZONE,
                    is_sequential: number >= 2,
                    condition: if number < 2 { Condition::NotWritePointer } else { Condition::Empty },
                },
                condition: if number < 2 { Condition::NotWritePointer } else { Condition::Empty },
                written: 0,
                bytes: vec![0; ZONE as usize],
            };
            Memory { fault, zones: Mutex::new((0..COUNT).map(zone).collect()) }
        }
    }

    fn refusal() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }

    impl Disk for Memory {
        fn size_bytes(&self) -> u64 {
            COUNT * ZONE
        }
        fn block_bytes(&self) -> u64 {
            512
        }
        fn discard_granularity(&self) -> u64 {
            512
        }
        fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let zones = self.zones.lock().unwrap();
            buffer.copy_from_slice(&zones[(offset / ZONE) as usize].bytes[(offset % ZONE) as usize..][..buffer.len()]);
            Ok(())
        }
        fn write(&self, buffer: &[u8], offset: u64, _is_durable: bool) -> io::Result<()> {
            let model = &mut self.zones.lock().unwrap()[(offset / ZONE) as usize];
            let (place, end) = (offset % ZONE, offset % ZONE + buffer.len() as u64);
            if model.zone.is_sequential && (place != model.written || end > CAPACITY) {
                return Err(refusal());
            }
            let mut data = buffer.to_vec();
            match self.fault {
                Fault::LosesWrites => data.fill(0),
                Fault::ChangesBytes => data[buffer.len() - 1] ^= 1,
                _ => {}
            }
            model.is_written(place, &data);
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            if self.fault == Fault::NoFlush { Err(refusal()) } else { Ok(()) }
        }
        fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
            Err(refusal())
        }
        fn write_zeroes(&self, _offset: u64, _length: u64, _zeroing: Zeroing) -> io::Result<()> {
            Err(refusal())
        }
    }

    impl ZonedDisk for Memory {
        fn report(&self, start: u64, count: usize) -> io::Result<Vec<Zone>> {
            let zones = self.zones.lock().unwrap();
            let zone = |model: &Model| Zone {
                pointer: model.zone.start + if self.fault == Fault::ForgetsPointers { 0 } else { model.written },
                condition: model.condition,
                ..model.zone
            };
            Ok(zones.iter().skip((start / ZONE) as usize).take(count).map(zone).collect())
        }
        fn command(&self, command: Command, zone: &Zone) -> io::Result<()> {
            let model = &mut self.zones.lock().unwrap()[(zone.start / ZONE) as usize];
            let is_full = model.condition == Condition::Full;
            match model.after(command) {
                _ if self.fault == Fault::Ignores(command) => {}
                None if self.fault == Fault::OpensFullZones && is_full => {}
                None => return Err(refusal()),
                Some(_) if command == Command::Reset && self.fault == Fault::KeepsData => {
                    (model.condition, model.written) = (Condition::Empty, 0);
                }
                Some(Condition::Empty) if command == Command::Close && self.fault == Fault::ClosesEmptyZones => {
                    model.condition = Condition::Closed;
                }
                Some(condition) => model.is_told(command, condition),
            }
            Ok(())
        }
    }

    fn plan(operation: &str, seed: u64) -> Plan {
        let (_, kinds) = OPERATIONS.into_iter().find(|(name, _)| *name == operation).unwrap();
        Plan { kinds, seed, threads: 2, steps: 100, image: None }
    }

    #[test]
    fn a_disk_that_keeps_its_promises_passes() {
        for (name, _) in OPERATIONS {
            let disk = Memory::new(Fault::None);
            for seed in 0..5 {
                assert_eq!(check(&disk, &plan(name, seed)), Ok(200), "{name}, seed {seed}");
            }
        }
    }

    #[test]
    fn each_fault_is_seen() {
        for (fault, operation) in [
            (Fault::LosesWrites, "read"),
            (Fault::LosesWrites, "write"),
            (Fault::ChangesBytes, "fua"),
            (Fault::ForgetsPointers, "write"),
            (Fault::KeepsData, "write"),
            (Fault::NoFlush, "flush"),
            (Fault::Ignores(Command::Open), "zone-commands"),
            (Fault::Ignores(Command::Close), "zone-commands"),
            (Fault::Ignores(Command::Finish), "zone-commands"),
            (Fault::Ignores(Command::Reset), "zone-commands"),
            (Fault::OpensFullZones, "zone-commands"),
            (Fault::ClosesEmptyZones, "zone-commands"),
            (Fault::KeepsData, "mixed"),
        ] {
            for seed in 0..5 {
                let answer = check(&Memory::new(fault), &plan(operation, seed));
                assert!(answer.is_err(), "{fault:?} was not seen by {operation}, seed {seed}");
            }
        }
    }

    #[test]
    fn a_failure_names_what_was_wrong_and_the_shortest_sequence() {
        let answer = check(&Memory::new(Fault::Ignores(Command::Finish)), &plan("zone-commands", 3)).unwrap_err();
        assert!(answer.starts_with("seed 3, thread "), "{answer}");
        assert!(answer.contains("Finish of zone ") && answer.contains("condition: Full"), "{answer}");
        assert!(answer.contains("; 1 steps show it: Finish of zone "), "{answer}");
    }

    #[test]
    fn the_image_must_hold_the_same() {
        let image = std::env::temp_dir().join(format!("ublk-check-zones-{}", std::process::id()));
        std::fs::write(&image, vec![0; (COUNT * ZONE) as usize]).unwrap();
        let answer =
            check(&Memory::new(Fault::None), &Plan { image: Some(image.clone()), ..plan("write", 1) }).unwrap_err();
        std::fs::remove_file(&image).unwrap();
        assert!(answer.contains("the last look at everything: in the image, byte "), "{answer}");
    }
}
