//! A block device as its user sees it, past the page cache; and what stands in for one in the tests of this crate.

use std::fs::File;
use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, ioctl_blksszget, major, minor};
use rustix::io::{ReadWriteFlags, preadv2, pwritev2};

/// Why something is zeroed: it decides which request the device gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroing {
    /// WRITE_ZEROES, where space may be given back.
    Unmap,
    /// WRITE_ZEROES with NOUNMAP: the range stays allocated.
    Keep,
}

/// Anything that takes the requests of a disk. Offsets and lengths are bytes, multiples of the block.
pub trait Disk: Sync {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;
    /// Smallest I/O in bytes.
    fn block_bytes(&self) -> u64;
    /// Pieces in bytes that a discard clears; of less than a piece nothing is promised.
    fn discard_granularity(&self) -> u64;
    /// READ.
    ///
    /// # Errors
    /// As the device answers, and EIO for a short one.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// WRITE, with `is_durable` a FUA one.
    ///
    /// # Errors
    /// As the device answers, and EIO for a short one.
    fn write(&self, buffer: &[u8], offset: u64, is_durable: bool) -> Result<()>;
    /// FLUSH.
    ///
    /// # Errors
    /// As the device answers.
    fn flush(&self) -> Result<()>;
    /// DISCARD.
    ///
    /// # Errors
    /// As the device answers.
    fn discard(&self, offset: u64, length: u64) -> Result<()>;
    /// WRITE_ZEROES.
    ///
    /// # Errors
    /// As the device answers.
    fn write_zeroes(&self, offset: u64, length: u64, zeroing: Zeroing) -> Result<()>;
}

/// An open block device.
pub struct BlockDevice {
    file: File,
    size_bytes: u64,
    block_bytes: u64,
    discard_granularity: u64,
}

impl BlockDevice {
    /// Opens a block device with O_DIRECT.
    ///
    /// # Errors
    /// Those of open(2) and of asking for the size.
    pub fn open(path: &Path) -> Result<BlockDevice> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        let size_bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        let block_bytes = u64::from(ioctl_blksszget(&file)?);
        let discard_granularity = queue_limit(&file, "discard_granularity")?.max(block_bytes);
        Ok(BlockDevice { file, size_bytes, block_bytes, discard_granularity })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Disk for BlockDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    fn discard_granularity(&self) -> u64 {
        self.discard_granularity
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let length = buffer.len();
        whole(preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::empty())?, length)
    }

    fn write(&self, buffer: &[u8], offset: u64, is_durable: bool) -> Result<()> {
        let flags = if is_durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        whole(pwritev2(&self.file, &[IoSlice::new(buffer)], offset, flags)?, buffer.len())
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_data()
    }

    #[allow(unsafe_code)]
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        const BLKDISCARD: libc::Ioctl = 0x1277; // _IO(0x12, 119) in linux/fs.h

        let range = [offset, length];
        // SAFETY: BLKDISCARD reads two u64 at the address, which are there until the call returns.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), BLKDISCARD, range.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, zeroing: Zeroing) -> Result<()> {
        let how = match zeroing {
            Zeroing::Unmap => FallocateFlags::PUNCH_HOLE,
            Zeroing::Keep => FallocateFlags::ZERO_RANGE,
        };
        Ok(fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length)?)
    }
}

fn queue_limit(file: &File, name: &str) -> Result<u64> {
    let number = file.metadata()?.rdev();
    let path = format!("/sys/dev/block/{}:{}/queue/{name}", major(number), minor(number));
    let text = std::fs::read_to_string(&path)?;
    text.trim().parse().map_err(|_| Error::other(format!("{path} is \"{}\"", text.trim())))
}

fn whole(done: usize, length: usize) -> Result<()> {
    if done == length { Ok(()) } else { Err(Error::other(format!("{done} bytes of {length}"))) }
}
