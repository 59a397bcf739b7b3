//! Writes that must outlive the server of the device: a load in the background while the server is killed, stopped or replaced, and an
//! account of what each block may hold afterwards.
//!
//! Each thread has blocks of its own and one request open at a time. What was acknowledged must be there; a write that failed, or had no
//! answer when the load ended, may be there or not, sector by sector.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::disk::{BlockDevice, Disk};
use crate::random::Random;

const BLOCK_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;
const BLOCKS_PER_THREAD: u64 = 64;

/// A device that fails requests fails them at once: not so often, then.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(2);

/// One write in so many is durable by itself (FUA).
const FUA_EVERY: u64 = 4;

/// How often to look whether the threads have ended.
const POLL: Duration = Duration::from_millis(2);

/// What the load is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes and reads that are compared.
    Verify,
    /// Each write is followed by a flush, or is durable by itself.
    Flush,
}

/// A load to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is made of.
    pub kind: Kind,
    /// Where its randomness begins.
    pub seed: u64,
    /// Threads, each with one request open.
    pub threads: u64,
    /// Memory that is shared with the server, for the data of the requests.
    pub shared: Option<PathBuf>,
}

/// What one block may hold: versions of its data, 0 for what was there before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Block {
    acknowledged: u64,
    /// Tried since then, without success.
    possible: Vec<u64>,
    latest: u64,
}

/// Counters that can be read while it runs.
#[derive(Debug, Default)]
struct Progress {
    is_over: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    fn counts(&self) -> (u64, u64) {
        (self.done.load(Ordering::Acquire), self.failed.load(Ordering::Acquire))
    }
}

/// A running load.
pub struct Load {
    progress: Arc<Progress>,
    threads: Vec<JoinHandle<Result<Vec<Block>, String>>>,
}

impl Load {
    /// Starts threads on the device.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn start(path: &Path, plan: &Plan) -> Result<Load, String> {
        let progress = Arc::new(Progress::default());
        let threads = (0..plan.threads)
            .map(|thread| {
                let disk = BlockDevice::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let (progress, plan) = (Arc::clone(&progress), plan.clone());
                Ok(std::thread::spawn(move || {
                    let shared = plan.shared.as_deref();
                    let buffer = Buffer::new(BLOCK_BYTES, shared, thread).map_err(|error| error.to_string())?;
                    let random = Random::new(plan.seed, thread);
                    Lane { disk, buffer, kind: plan.kind, random, thread, blocks: Vec::new(), progress }.run()
                }))
            })
            .collect::<Result<_, String>>()?;
        Ok(Load { progress, threads })
    }

    /// Requests that succeeded so far, and that failed.
    pub fn counts(&self) -> (u64, u64) {
        self.progress.counts()
    }

    /// Ends the load.
    ///
    /// # Errors
    /// A read that brought what cannot be there; or a request that hangs.
    pub fn settle(self, limit: Duration) -> Result<Account, String> {
        self.progress.is_over.store(true, Ordering::Release);
        let until = Instant::now() + limit;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > until {
                return Err(format!("a request hangs: no answer within {} ms", limit.as_millis()));
            }
            std::thread::sleep(POLL);
        }
        let lanes = self.threads.into_iter().map(|thread| thread.join().unwrap_or(Err("a panic".into())));
        Ok(Account { lanes: lanes.collect::<Result<_, _>>()?, counts: self.progress.counts() })
    }
}

/// One thread of a load.
struct Lane {
    disk: BlockDevice,
    buffer: Buffer,
    kind: Kind,
    random: Random,
    thread: u64,
    blocks: Vec<Block>,
    progress: Arc<Progress>,
}

impl Lane {
    fn run(mut self) -> Result<Vec<Block>, String> {
        self.blocks = vec![Block::default(); BLOCKS_PER_THREAD as usize];
        while !self.progress.is_over.load(Ordering::Acquire) {
            let block = self.random.below(BLOCKS_PER_THREAD);
            let is_read = self.kind == Kind::Verify && self.random.below(3) == 0;
            let result = if is_read { self.read(block)? } else { self.write(block) };
            match result {
                Ok(()) => self.progress.done.fetch_add(1, Ordering::AcqRel),
                Err(_) => {
                    std::thread::sleep(PAUSE_AFTER_ERROR);
                    self.progress.failed.fetch_add(1, Ordering::AcqRel)
                }
            };
        }
        Ok(self.blocks)
    }

    fn write(&mut self, block: u64) -> io::Result<()> {
        let place = place(self.thread, block);
        let state = &mut self.blocks[block as usize];
        state.latest += 1;
        // Until it is acknowledged: a write that hangs to the end was tried as well.
        state.possible.push(state.latest);
        fill(self.buffer.bytes(), place, state.latest);
        let is_durable = self.random.below(FUA_EVERY) == 0;
        self.disk.write(self.buffer.bytes(), place, is_durable)?;
        *state = Block { acknowledged: state.latest, possible: Vec::new(), latest: state.latest };
        if self.kind == Kind::Flush && !is_durable { self.disk.flush() } else { Ok(()) }
    }

    fn read(&mut self, block: u64) -> Result<io::Result<()>, String> {
        let place = place(self.thread, block);
        self.buffer.bytes().fill(0xee);
        if let Err(error) = self.disk.read(self.buffer.bytes(), place) {
            return Ok(Err(error));
        }
        self.blocks[block as usize].allows(self.buffer.bytes(), place).map(Ok)
    }
}

/// What a device must hold after a load.
#[derive(Debug)]
pub struct Account {
    lanes: Vec<Vec<Block>>,
    counts: (u64, u64),
}

impl Account {
    /// Requests that succeeded, and that failed.
    pub fn counts(&self) -> (u64, u64) {
        self.counts
    }

    /// Compares with a device, or with the file behind it. The answer is the number of acknowledged writes that were found.
    ///
    /// # Errors
    /// The block that holds what it cannot hold.
    pub fn examine(&self, path: &Path) -> Result<u64, String> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut data = vec![0; BLOCK_BYTES];
        let mut found = 0;
        for (thread, lane) in (0..).zip(&self.lanes) {
            for (block, state) in (0..).zip(lane) {
                let place = place(thread, block);
                file.read_exact_at(&mut data, place).map_err(|error| format!("reading at {place}: {error}"))?;
                state.allows(&data, place)?;
                found += u64::from(state.acknowledged > 0);
            }
        }
        Ok(found)
    }
}

impl Block {
    /// Each sector must be of the acknowledged version, or of one that was tried later.
    fn allows(&self, data: &[u8], place: u64) -> Result<(), String> {
        let mut expected = vec![0; BLOCK_BYTES];
        let mut is_right = vec![false; data.len() / SECTOR_BYTES];
        for version in std::iter::once(&self.acknowledged).chain(&self.possible) {
            fill(&mut expected, place, *version);
            let sectors = data.chunks(SECTOR_BYTES).zip(expected.chunks(SECTOR_BYTES));
            for (right, (found, expected)) in is_right.iter_mut().zip(sectors) {
                *right |= found == expected;
            }
        }
        match is_right.iter().position(|right| !right) {
            None => Ok(()),
            Some(sector) => {
                let found = &data[sector * SECTOR_BYTES..][..16];
                Err(format!(
                    "the block at {place}, sector {sector}, begins with {found:02x?}: not write {}, nor one of {:?} tried later",
                    self.acknowledged, self.possible
                ))
            }
        }
    }
}

fn place(thread: u64, block: u64) -> u64 {
    (thread * BLOCKS_PER_THREAD + block) * BLOCK_BYTES as u64
}

/// Version 0 is a device that was never written.
fn fill(data: &mut [u8], place: u64, version: u64) {
    if version == 0 {
        return data.fill(0);
    }
    for (index, sector) in (0..).zip(data.chunks_mut(SECTOR_BYTES)) {
        sector.fill((version * 0x5b + index) as u8);
        sector[..8].copy_from_slice(&place.to_le_bytes());
        sector[8..16].copy_from_slice(&version.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_of(version: u64) -> Vec<u8> {
        let mut data = vec![0; BLOCK_BYTES];
        fill(&mut data, 4096, version);
        data
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let state = Block { acknowledged: 3, possible: vec![], latest: 3 };
        state.allows(&block_of(3), 4096).unwrap();
        for lost in [0, 2, 4] {
            assert!(state.allows(&block_of(lost), 4096).is_err(), "version {lost}");
        }
        assert!(state.allows(&block_of(3), 8192).is_err(), "the data of another block");
    }

    #[test]
    fn a_write_without_success_may_be_there_in_part() {
        let state = Block { acknowledged: 3, possible: vec![4, 5], latest: 5 };
        for version in 3..=5 {
            state.allows(&block_of(version), 4096).unwrap();
        }
        let torn = [&block_of(5)[..512], &block_of(3)[512..]].concat();
        state.allows(&torn, 4096).unwrap();
        let older = [&block_of(2)[..512], &block_of(3)[512..]].concat();
        assert!(state.allows(&older, 4096).unwrap_err().contains("sector 0"));
    }

    #[test]
    fn one_wrong_byte_is_seen() {
        let state = Block { acknowledged: 7, possible: vec![], latest: 7 };
        for index in [0, 511, 512, 4095] {
            let mut data = block_of(7);
            data[index] ^= 1;
            assert!(state.allows(&data, 4096).is_err(), "byte {index}");
        }
    }
}
