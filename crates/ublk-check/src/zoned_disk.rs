//! A zoned block device as its user sees it.

use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use crate::disk::{BlockDevice, Disk};

/// State of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// A conventional zone: it has none.
    NotWritePointer,
    /// Nothing is written.
    Empty,
    /// Opened by a write.
    ImplicitOpen,
    /// Opened by a command.
    ExplicitOpen,
    /// Written in part, and not open.
    Closed,
    /// Takes no more.
    Full,
    /// What no disk in order reports.
    Other(u8),
}

/// A zone as it is reported. Places and lengths are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    /// Where it begins.
    pub start: u64,
    /// From there to the next one.
    pub length: u64,
    /// What it takes.
    pub capacity: u64,
    /// Where the next write goes. Of a full or conventional zone, anything.
    pub pointer: u64,
    /// It is written at the pointer only.
    pub is_sequential: bool,
    /// Its state.
    pub condition: Condition,
}

/// What a sequential zone is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Stay open.
    Open,
    /// Be open no more.
    Close,
    /// Be full.
    Finish,
    /// Be empty.
    Reset,
}

/// A disk with zones.
pub trait ZonedDisk: Disk {
    /// `count` zones, or as many as there are, from the one that begins at `start` on.
    ///
    /// # Errors
    /// As the device answers.
    fn report(&self, start: u64, count: usize) -> Result<Vec<Zone>>;
    /// Tells a zone what to do.
    ///
    /// # Errors
    /// As the device answers.
    fn command(&self, command: Command, zone: &Zone) -> Result<()>;
}

impl ZonedDisk for BlockDevice {
    #[allow(unsafe_code)]
    fn report(&self, start: u64, count: usize) -> Result<Vec<Zone>> {
        // A header of a u64 and two u32, and the zones: linux/blkzoned.h.
        let mut words = vec![0_u64; HEADER_WORDS + count * ZONE_WORDS];
        words[0] = start >> SECTOR_SHIFT;
        words[1] = count as u64;
        // SAFETY: the kernel fills at most the zones that the second word asks for, and there is room for them.
        match unsafe { libc::ioctl(self.file().as_raw_fd(), BLKREPORTZONE, words.as_mut_ptr()) } {
            0 => Ok(words[HEADER_WORDS..].chunks_exact(ZONE_WORDS).take(words[1] as u32 as usize).map(zone).collect()),
            _ => Err(Error::last_os_error()),
        }
    }

    #[allow(unsafe_code)]
    fn command(&self, command: Command, zone: &Zone) -> Result<()> {
        let range = [zone.start >> SECTOR_SHIFT, zone.length >> SECTOR_SHIFT];
        let request = match command {
            Command::Open => BLKOPENZONE,
            Command::Close => BLKCLOSEZONE,
            Command::Finish => BLKFINISHZONE,
            Command::Reset => BLKRESETZONE,
        };
        // SAFETY: each of them reads two u64 at the address, which are there until the call returns.
        match unsafe { libc::ioctl(self.file().as_raw_fd(), request, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }
}

// linux/blkzoned.h
const BLKREPORTZONE: libc::Ioctl = 0xc010_1282_u32 as libc::Ioctl;
const BLKRESETZONE: libc::Ioctl = 0x4010_1283;
const BLKOPENZONE: libc::Ioctl = 0x4010_1286;
const BLKCLOSEZONE: libc::Ioctl = 0x4010_1287;
const BLKFINISHZONE: libc::Ioctl = 0x4010_1288;
const HEADER_WORDS: usize = 2;
const ZONE_WORDS: usize = 8;
const SECTOR_SHIFT: u32 = 9;

/// `struct blk_zone`: start, length and write pointer in sectors; type, condition and six bytes more; the capacity.
fn zone(words: &[u64]) -> Zone {
    const CONVENTIONAL: u8 = 1;

    let [kind, condition, ..] = words[3].to_ne_bytes();
    Zone {
        start: words[0] << SECTOR_SHIFT,
        length: words[1] << SECTOR_SHIFT,
        capacity: words[4] << SECTOR_SHIFT,
        pointer: words[2] << SECTOR_SHIFT,
        is_sequential: kind != CONVENTIONAL,
        condition: match condition {
            0 => Condition::NotWritePointer,
            1 => Condition::Empty,
            2 => Condition::ImplicitOpen,
            3 => Condition::ExplicitOpen,
            4 => Condition::Closed,
            14 => Condition::Full,
            other => Condition::Other(other),
        },
    }
}
