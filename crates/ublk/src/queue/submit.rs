//! Builds and pushes every command of a queue's ring: the one place where addresses go to the kernel.

use io_uring::{opcode, squeue::Entry, types};
use ublk_uapi::{AutoBufReg, AutoBufRegFlags, IoCmd, IoCmdOp};

use super::Queue;
use crate::Error;

/// `/dev/ublkcN` in the table of registered files.
const CHAR_DEVICE: types::Fixed = types::Fixed(0);

/// An address that the kernel may read and write, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferAddress(u64);

impl BufferAddress {
    /// For requests without data, and for modes in which the kernel needs no address.
    pub const NONE: BufferAddress = BufferAddress(0);

    /// # Safety
    /// `address` is the begin of memory as long as the largest request for which it is used (a tag's buffer: `max_io_bytes`), mapped and
    /// writable until the queue is dropped, and no Rust reference to it exists while the kernel may use it.
    pub unsafe fn new(address: u64) -> BufferAddress {
        BufferAddress(address)
    }

    /// The plain number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a completion is of: tag in bits 0–15, part in 16–30, and bit 31 for a backing operation.
#[derive(Clone, Copy)]
pub(super) struct Label(pub(super) u32);

const BACKING: u32 = 1 << 31;

impl Label {
    fn command(tag: u16) -> Label {
        Label(u32::from(tag))
    }
    fn backing(tag: u16, part: u16) -> Label {
        debug_assert!(part < 1 << 15, "part {part} has more than 15 bits");
        Label(u32::from(tag) | u32::from(part) << 16 | BACKING)
    }
    #[inline]
    pub(super) fn tag(self) -> u16 {
        self.0 as u16
    }
    #[inline]
    pub(super) fn part(self) -> u16 {
        (self.0 >> 16) as u16 & 0x7fff
    }
    #[inline]
    pub(super) fn is_backing(self) -> bool {
        self.0 & BACKING != 0
    }
}

/// One operation on a backing file, for a tag that the server owns. Offsets and lengths in bytes.
#[derive(Debug, Clone, Copy)]
pub enum BackingIo {
    /// Fill `length` bytes of the request's data from `data_offset` on.
    Read {
        /// Place in the file.
        offset: u64,
        /// Place in the request's data.
        data_offset: u32,
        /// Bytes.
        length: u32,
    },
    /// Store them.
    Write {
        /// Place in the file.
        offset: u64,
        /// Place in the request's data.
        data_offset: u32,
        /// Bytes.
        length: u32,
        /// RWF_DSYNC: durable when it completes.
        is_durable: bool,
    },
    /// Store `length` zero bytes, taken from `zeroes`.
    WriteZeroes {
        /// At least `length` zero bytes.
        zeroes: BufferAddress,
        /// Place in the file.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// fdatasync.
    Sync,
    /// fallocate with a mode of the FALLOC_FL flags.
    Allocate {
        /// Flags.
        mode: i32,
        /// Place in the file.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

impl Queue {
    #[inline]
    pub(super) fn push_fetch(&mut self, tag: u16, buffer: BufferAddress) -> Result<(), Error> {
        self.push_command(IoCmdOp::FetchReq, tag, -1, buffer)
    }

    #[inline]
    pub(super) fn push_commit(&mut self, tag: u16, result: i32, buffer: BufferAddress) -> Result<(), Error> {
        self.push_command(IoCmdOp::CommitAndFetchReq, tag, result, buffer)
    }

    #[inline]
    pub(super) fn push_need_data(&mut self, tag: u16, place: BufferAddress) -> Result<(), Error> {
        self.push_command(IoCmdOp::NeedGetData, tag, 0, place)
    }

    #[inline]
    fn push_command(&mut self, op: IoCmdOp, tag: u16, result: i32, buffer: BufferAddress) -> Result<(), Error> {
        let command = IoCmd { q_id: self.id, tag, result, addr: buffer.0 };
        // With AUTO_BUF_REG the SQE's own address names the slot in the ring's buffer table: the tag.
        let auto_buffer = self.is_zero_copy.then(|| AutoBufReg::new(tag, AutoBufRegFlags::empty()).to_sqe_addr());
        let entry =
            opcode::UringCmd16::new(CHAR_DEVICE, op.ioctl_code()).cmd(command.to_sqe_bytes()).addr(auto_buffer).build();
        self.push(entry, Label::command(tag))
    }

    /// Starts one operation on registered file `file` (1 is the first of the target's). `buffer` is the tag's buffer in copy mode.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    pub(super) fn push_backing(
        &mut self,
        tag: u16,
        part: u16,
        file: u16,
        buffer: BufferAddress,
        io: BackingIo,
    ) -> Result<(), Error> {
        let file = types::Fixed(u32::from(file));
        let has_fixed_buffers = self.is_zero_copy;
        // In zero-copy mode an address is an offset into the registered pages.
        let place = |data_offset: u32| {
            if has_fixed_buffers { u64::from(data_offset) } else { buffer.0 + u64::from(data_offset) }
        };
        let entry = match io {
            BackingIo::Read { offset, data_offset, length } if has_fixed_buffers => {
                opcode::ReadFixed::new(file, place(data_offset) as *mut u8, length, tag).offset(offset).build()
            }
            BackingIo::Read { offset, data_offset, length } => {
                opcode::Read::new(file, place(data_offset) as *mut u8, length).offset(offset).build()
            }
            BackingIo::Write { offset, data_offset, length, is_durable } if has_fixed_buffers => {
                opcode::WriteFixed::new(file, place(data_offset) as *const u8, length, tag)
                    .offset(offset)
                    .rw_flags(durability(is_durable))
                    .build()
            }
            BackingIo::Write { offset, data_offset, length, is_durable } => {
                opcode::Write::new(file, place(data_offset) as *const u8, length)
                    .offset(offset)
                    .rw_flags(durability(is_durable))
                    .build()
            }
            BackingIo::WriteZeroes { zeroes, offset, length } => {
                opcode::Write::new(file, zeroes.0 as *const u8, length).offset(offset).build()
            }
            BackingIo::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            BackingIo::Allocate { mode, offset, length } => {
                opcode::Fallocate::new(file, length).offset(offset).mode(mode).build()
            }
        };
        self.push(entry, Label::backing(tag, part))?;
        self.backing += 1; // what was refused never completes
        Ok(())
    }

    #[inline(always)] // a call would copy the entry once more
    fn push(&mut self, entry: Entry, label: Label) -> Result<(), Error> {
        // SAFETY: entries point only to a `BufferAddress`, whose maker promised that it outlives the queue; `Drop` of the queue waits for
        // backing operations, and a ring that is closed takes its ublk commands back before the driver could use their addresses.
        let pushed = unsafe { self.external.push(entry, label.0) };
        pushed.map_err(|error| Error::from_ring(error, Some(self.device.id())))
    }
}

fn durability(is_durable: bool) -> i32 {
    if is_durable { libc::RWF_DSYNC } else { 0 }
}
