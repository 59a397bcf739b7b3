//! What each leg remembers of its mirror: two blocks of 4 KiB behind the data, at the leg's end.
//!
//! At the end and not in a file beside the leg: so it also is where the leg is a block device, goes wherever the leg goes, and the data begins at
//! byte 0, where other programs look for it. The record with the highest generation is the one that counts. Generations take the two blocks in
//! turn, so that one that a crash has torn, which its checksum tells, leaves the one before.

use std::io;
use std::os::unix::fs::FileExt;

use crate::target::backing::Backing;

/// Space of a record.
pub(super) const RECORD_BYTES: u64 = 4096;
/// Space of a leg's records, and what is behind them is less than one.
const RECORDS: u64 = 2;

/// Legs that a mirror may have: the bits of a mask.
pub(super) const MOST_LEGS: usize = 8;

const MAGIC: [u8; 8] = *b"ublkmirr";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 48;

/// Numbers in little endian, in this order, behind magic and version; a checksum closes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Legs of the mirror.
    pub(super) legs: u8,
    /// Which of them this is, from 0.
    pub(super) leg: u8,
    /// A bit for each leg that has all acknowledged writes.
    pub(super) in_sync: u8,
    /// The mirror is being written: after a crash the legs may differ.
    pub(super) is_open: bool,
    /// Random number of the mirror.
    pub(super) mirror: [u8; 16],
    /// Counts the changes of the record.
    pub(super) generation: u64,
    /// Of the mirror; a device may have less of it.
    pub(super) size_bytes: u64,
}

/// Memory that O_DIRECT takes.
#[repr(align(4096))]
struct Block([u8; RECORD_BYTES as usize]);

impl Record {
    /// Where the records of a leg of this many bytes begin: what is before them is for data.
    pub(super) fn offset(leg_bytes: u64) -> u64 {
        (leg_bytes / RECORD_BYTES).saturating_sub(RECORDS) * RECORD_BYTES
    }

    /// Bytes that a leg needs for a device of this size.
    pub(super) fn leg_bytes(size_bytes: u64) -> u64 {
        size_bytes.next_multiple_of(RECORD_BYTES) + RECORDS * RECORD_BYTES
    }

    /// The leg's newest record; None when there is none.
    pub(super) fn read(leg: &Backing) -> io::Result<Option<Record>> {
        if leg.size_bytes < RECORDS * RECORD_BYTES {
            return Ok(None);
        }
        let mut newest: Option<Record> = None;
        for index in 0..RECORDS {
            let mut block = Block([0; RECORD_BYTES as usize]);
            leg.file.read_exact_at(&mut block.0, Record::offset(leg.size_bytes) + index * RECORD_BYTES)?;
            let record = Record::decode(&block.0);
            newest = [newest, record].into_iter().flatten().max_by_key(|record| record.generation);
        }
        Ok(newest)
    }

    /// Durable when it returns.
    pub(super) fn write(&self, leg: &Backing) -> io::Result<()> {
        let mut block = Block([0; RECORD_BYTES as usize]);
        self.encode(&mut block.0);
        let index = self.generation % RECORDS;
        leg.file.write_all_at(&block.0, Record::offset(leg.size_bytes) + index * RECORD_BYTES)?;
        leg.file.sync_data()
    }

    fn encode(&self, block: &mut [u8]) {
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&[self.legs, self.leg, self.in_sync, u8::from(self.is_open)]);
        block[16..32].copy_from_slice(&self.mirror);
        block[32..40].copy_from_slice(&self.generation.to_le_bytes());
        block[40..48].copy_from_slice(&self.size_bytes.to_le_bytes());
        let checksum = checksum(&block[..CHECKED_BYTES]);
        block[48..56].copy_from_slice(&checksum.to_le_bytes());
    }

    fn decode(block: &[u8]) -> Option<Record> {
        let number = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap_or_default());
        if block[..8] != MAGIC
            || block[8..12] != VERSION.to_le_bytes()
            || number(48) != checksum(&block[..CHECKED_BYTES])
        {
            return None;
        }
        let mirror = block[16..32].try_into().ok()?;
        let (generation, size_bytes) = (number(32), number(40));
        let &[legs, leg, in_sync, is_open] = &block[12..16] else { return None };
        Some(Record { legs, leg, in_sync, is_open: is_open != 0, mirror, generation, size_bytes })
    }
}

/// FNV-1a: to notice a block that was written by half, not an enemy.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        legs: 3,
        leg: 1,
        in_sync: 0b101,
        is_open: true,
        mirror: [7; 16],
        generation: 0x0123_4567_89ab,
        size_bytes: 1 << 40,
    };

    #[test]
    fn a_record_reads_as_it_was_written_and_not_when_a_byte_of_it_is_another() {
        let mut block = [0; RECORD_BYTES as usize];
        RECORD.encode(&mut block);
        assert_eq!(Record::decode(&block), Some(RECORD));
        for byte in 0..CHECKED_BYTES + 8 {
            let mut torn = block;
            torn[byte] ^= 1;
            assert_eq!(Record::decode(&torn), None, "byte {byte}");
        }
        assert_eq!(Record::decode(&[0; RECORD_BYTES as usize]), None);
    }

    #[test]
    fn a_record_lies_behind_the_data() {
        for size_bytes in [4096, 4608, 1 << 20] {
            let leg_bytes = Record::leg_bytes(size_bytes);
            assert!(
                Record::offset(leg_bytes) >= size_bytes
                    && Record::offset(leg_bytes) + RECORDS * RECORD_BYTES <= leg_bytes
            );
        }
    }
}
