//! Builds and pushes every command of a queue's ring: the one place where addresses go to the kernel.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::{opcode, squeue::Entry, types};
use ublk_executor::RingError;
use ublk_executor::external::External;
use ublk_uapi::{AutoBufReg, AutoBufRegFlags, IoBufPosition, IoCmd, IoCmdOp};

use super::batch::{Command, Element};
use super::{Queue, Slot, TagName};
use crate::Error;
use crate::device::ZeroCopyFallback;

/// `/dev/ublkcN` among the files.
const CHAR_DEVICE: u16 = 0;

/// The files of a queue as its operations name them: indexes into the ring's table, or descriptors.
pub(super) enum Files {
    Registered,
    Plain(Vec<RawFd>),
}

impl Files {
    pub(super) fn new(external: &External, files: &[BorrowedFd<'_>], plain: bool) -> Result<Files, RingError> {
        if plain {
            return Ok(Files::Plain(files.iter().map(AsRawFd::as_raw_fd).collect()));
        }
        external.register_files(files)?;
        Ok(Files::Registered)
    }
}

/// An entry on a file of the queue, however that is named: `$file` is bound to a `Fixed` or an `Fd`.
macro_rules! on_file {
    ($files:expr, $index:expr, |$file:ident| $entry:expr) => {
        match &$files {
            Files::Registered => {
                let $file = types::Fixed(u32::from($index));
                $entry
            }
            Files::Plain(descriptors) => {
                let $file = types::Fd(descriptors[usize::from($index)]);
                $entry
            }
        }
    };
}

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

    /// The same memory, so many bytes further on.
    pub(crate) fn after(self, bytes: u32) -> BufferAddress {
        BufferAddress(self.0 + u64::from(bytes))
    }

    /// What the commit of a zone append has in place of an address (`IoCmd::zone_append_lba`).
    pub(super) fn sector(sector: u64) -> BufferAddress {
        BufferAddress(sector)
    }

    /// The plain number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a completion is of: tag in bits 0–15; bit 31 for a backing operation, with its part in 16–30; else bit 16 for the registration of
/// a request's pages, and 17 or 18 for a batch command, with its buffer in place of the tag.
#[derive(Clone, Copy)]
pub(super) struct Label(pub(super) u32);

const BACKING: u32 = 1 << 31;
const REGISTRATION: u32 = 1 << 16;
const BATCH_FETCH: u32 = 1 << 17;
const BATCH_COMMIT: u32 = 1 << 18;

impl Label {
    fn command(tag: u16) -> Label {
        Label(u32::from(tag))
    }
    fn registration(tag: u16) -> Label {
        Label(u32::from(tag) | REGISTRATION)
    }
    pub(super) fn batch_fetch(buffer: u16) -> Label {
        Label(u32::from(buffer) | BATCH_FETCH)
    }
    pub(super) fn batch_commit(buffer: u16) -> Label {
        Label(u32::from(buffer) | BATCH_COMMIT)
    }
    fn backing(tag: u16, part: u16) -> Label {
        assert!(part < 1 << 15, "part {part} has more than 15 bits");
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
    /// Of one that is no backing operation: a command for one tag.
    #[inline]
    pub(super) fn is_tag_command(self) -> bool {
        self.0 & (REGISTRATION | BATCH_FETCH | BATCH_COMMIT) == 0
    }
    /// Of one that is no backing operation.
    pub(super) fn is_batch_fetch(self) -> bool {
        self.0 & BATCH_FETCH != 0
    }
    /// Of one that is no backing operation.
    pub(super) fn is_batch_commit(self) -> bool {
        self.0 & BATCH_COMMIT != 0
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
    /// Fill `length` bytes of the target's own memory.
    ReadInto {
        /// At least `length` bytes, that nobody touches meanwhile.
        place: BufferAddress,
        /// Place in the file.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Store `length` bytes of the target's own memory.
    WriteFrom {
        /// At least `length` bytes, that stay as they are meanwhile.
        source: BufferAddress,
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

/// One operation on a stream socket, for a tag that the server owns. Lengths in bytes; it may move fewer.
#[derive(Debug, Clone, Copy)]
pub enum SocketIo {
    /// Send `length` bytes from the target's own memory.
    SendFrom {
        /// At least `length` bytes.
        address: BufferAddress,
        /// Bytes.
        length: u32,
        /// More follows at once: no packet need go yet.
        has_more: bool,
    },
    /// Send `length` bytes of the request's data.
    Send {
        /// Place in the request's data.
        data_offset: u32,
        /// Bytes.
        length: u32,
    },
    /// Receive into the target's own memory.
    ReceiveTo {
        /// Room for `length` bytes.
        address: BufferAddress,
        /// Bytes.
        length: u32,
    },
    /// Receive the request's data.
    Receive {
        /// Place in the request's data.
        data_offset: u32,
        /// Bytes.
        length: u32,
    },
}

impl Queue {
    pub(super) fn push_fetch(&mut self, tag: u16, buffer: BufferAddress) -> Result<(), Error> {
        let name = self.tags[usize::from(tag)].name;
        if let Some(batches) = &mut self.batches {
            batches.add(name.area, Element { tag: name.slot.tag, buffer_index: tag, result: -1, address: buffer.0 });
            return Ok(());
        }
        self.push_command(IoCmdOp::FetchReq, tag, name, -1, buffer)
    }

    #[inline]
    pub(super) fn push_need_data(&mut self, tag: u16, place: BufferAddress) -> Result<(), Error> {
        let name = self.tags[usize::from(tag)].name;
        self.push_command(IoCmdOp::NeedGetData, tag, name, 0, place)
    }

    #[inline(always)]
    pub(super) fn push_command(
        &mut self,
        op: IoCmdOp,
        tag: u16,
        name: TagName,
        result: i32,
        buffer: BufferAddress,
    ) -> Result<(), Error> {
        let entry = self.command(op, name.slot, result, buffer.0, name.auto_buffer);
        self.push(entry, Label::command(tag))
    }

    /// Batch mode: sends what was gathered. True if the end of an answer is not to end the next wait.
    #[cold]
    pub(super) fn push_batches(&mut self) -> Result<bool, Error> {
        let mut waits = false;
        let Some(batches) = &mut self.batches else { return Ok(waits) };
        while let Some(Command { mut entry, label, can_wait }) = batches.next_command(|op, command, address| {
            on_file!(self.files, CHAR_DEVICE, |file| {
                opcode::UringCmd16::new(file, op.ioctl_code()).cmd(command.to_sqe_bytes()).addr(Some(address)).build()
            })
        }) {
            waits |= can_wait;
            // SAFETY: the entry points to a buffer of `batches`, which is dropped with the queue, after its ring.
            let pushed = unsafe {
                if can_wait {
                    self.external.push_prompt(&mut entry, label.0)
                } else {
                    self.external.push(&mut entry, label.0)
                }
            };
            pushed.map_err(|error| Error::from_ring(error, Some(self.device.id())))?;
        }
        Ok(waits)
    }

    #[inline(always)]
    fn command(&self, op: IoCmdOp, slot: Slot, result: i32, addr: u64, auto_buffer: u64) -> Entry {
        let command = IoCmd { q_id: slot.queue, tag: slot.tag, result, addr };
        on_file!(self.files, CHAR_DEVICE, |file| {
            opcode::UringCmd16::new(file, self.opcodes.of_tag(op))
                .cmd(command.to_sqe_bytes())
                .addr(Some(auto_buffer))
                .build()
        })
    }

    /// The tag's pages become its fixed buffer: at the moment of submission, so that what is pushed next may use it.
    #[inline]
    pub(super) fn push_register(&mut self, tag: u16) -> Result<(), Error> {
        self.push_registration(IoCmdOp::RegisterIoBuf, tag)
    }

    #[inline]
    pub(super) fn push_unregister(&mut self, tag: u16) -> Result<(), Error> {
        self.push_registration(IoCmdOp::UnregisterIoBuf, tag)
    }

    #[inline]
    fn push_registration(&mut self, op: IoCmdOp, tag: u16) -> Result<(), Error> {
        let slot = self.tags[usize::from(tag)].name.slot;
        let entry = self.command(op, slot, 0, u64::from(tag), 0);
        // SAFETY: the command points to no memory.
        let pushed = unsafe { self.external.push_silent(entry, Label::registration(tag).0) };
        pushed.map_err(|error| self.broken_ring(error))
    }

    /// User-copy mode: brings the data of a tag's write to `place`, or that of its read from there, by a system call of its own: the driver
    /// copies at once.
    ///
    /// # Errors
    /// errno, EIO if the request has fewer bytes.
    pub(super) fn copy_data(&self, tag: u16, place: BufferAddress, length: usize, to_request: bool) -> Result<(), i32> {
        self.copy(tag, false, place, length, to_request)
    }

    /// The same for the request's integrity data.
    pub(super) fn copy_integrity(
        &self,
        tag: u16,
        place: BufferAddress,
        length: usize,
        to_request: bool,
    ) -> Result<(), i32> {
        self.copy(tag, true, place, length, to_request)
    }

    #[inline]
    fn copy(
        &self,
        tag: u16,
        integrity: bool,
        place: BufferAddress,
        length: usize,
        to_request: bool,
    ) -> Result<(), i32> {
        let Slot { queue, tag } = self.tags[usize::from(tag)].name.slot;
        let position = IoBufPosition { queue_id: queue, tag, offset_bytes: 0, integrity };
        let offset = position.pack().map_err(|_| libc::EINVAL)? as libc::off_t;
        let fd = self.device.as_fd().as_raw_fd();
        // SAFETY: `place` is valid for the largest request, or its integrity data, by the promise of whoever made it, and no reference to it exists.
        let copied = unsafe {
            if to_request {
                libc::pwrite(fd, place.0 as *const libc::c_void, length, offset)
            } else {
                libc::pread(fd, place.0 as *mut libc::c_void, length, offset)
            }
        };
        match copied {
            ..0 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
            bytes if bytes as usize == length => Ok(()),
            _ => Err(libc::EIO),
        }
    }

    /// Starts one operation on registered file `file` (1 is the first of the target's). `buffer` is the tag's buffer in copy mode.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    #[inline(always)] // of a known operation, which leaves one arm of the match
    pub(super) fn push_backing(
        &mut self,
        tag: u16,
        part: u16,
        file: u16,
        buffer: BufferAddress,
        io: BackingIo,
    ) -> Result<(), Error> {
        let has_fixed_buffers = self.buffers.is_zero_copy();
        let data_bytes = self.tags[usize::from(tag)].request.len_bytes;
        // In zero-copy mode an address is an offset into the registered pages.
        let place = |data_offset: u32, length: u32| {
            let start = if has_fixed_buffers { 0 } else { buffer.0 };
            start + within(data_bytes, data_offset, length)
        };
        let entry = on_file!(self.files, file, |file| match io {
            BackingIo::Read { offset, data_offset, length } if has_fixed_buffers => {
                opcode::ReadFixed::new(file, place(data_offset, length) as *mut u8, length, tag).offset(offset).build()
            }
            BackingIo::Read { offset, data_offset, length } => {
                opcode::Read::new(file, place(data_offset, length) as *mut u8, length).offset(offset).build()
            }
            BackingIo::Write { offset, data_offset, length, is_durable } if has_fixed_buffers => {
                opcode::WriteFixed::new(file, place(data_offset, length) as *const u8, length, tag)
                    .offset(offset)
                    .rw_flags(durability(is_durable))
                    .build()
            }
            BackingIo::Write { offset, data_offset, length, is_durable } => {
                opcode::Write::new(file, place(data_offset, length) as *const u8, length)
                    .offset(offset)
                    .rw_flags(durability(is_durable))
                    .build()
            }
            BackingIo::ReadInto { place, offset, length } => {
                opcode::Read::new(file, place.0 as *mut u8, length).offset(offset).build()
            }
            BackingIo::WriteFrom { source, offset, length } => {
                opcode::Write::new(file, source.0 as *const u8, length).offset(offset).build()
            }
            BackingIo::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            BackingIo::Allocate { mode, offset, length } => {
                opcode::Fallocate::new(file, length).offset(offset).mode(mode).build()
            }
        });
        self.push_for(tag, part, entry)
    }

    /// Starts one operation on a socket, which need not be among the queue's files. `buffer` is the tag's buffer.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    pub(super) fn push_socket(
        &mut self,
        tag: u16,
        part: u16,
        socket: RawFd,
        buffer: BufferAddress,
        io: SocketIo,
    ) -> Result<(), Error> {
        let socket = types::Fd(socket);
        let data_bytes = self.tags[usize::from(tag)].request.len_bytes;
        let place = |data_offset: u32, length: u32| buffer.0 + within(data_bytes, data_offset, length);
        let (address, length, more, is_send) = match io {
            SocketIo::SendFrom { address, length, has_more } => (address.0, length, has_more, true),
            SocketIo::Send { data_offset, length } => (place(data_offset, length), length, false, true),
            SocketIo::ReceiveTo { address, length } => (address.0, length, false, false),
            SocketIo::Receive { data_offset, length } => (place(data_offset, length), length, false, false),
        };
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
        let entry = if is_send {
            opcode::Send::new(socket, address as *const u8, length).flags(flags).build()
        } else {
            opcode::Recv::new(socket, address as *mut u8, length).flags(libc::MSG_WAITALL).build()
        };
        self.push_for(tag, part, entry)
    }

    /// Starts a time-out; its end is that of a backing operation.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the ring is broken.
    pub(super) fn push_delay(&mut self, tag: u16, part: u16, duration: Duration) -> Result<(), Error> {
        let timespec = &mut self.delays[usize::from(tag)];
        *timespec = types::Timespec::from(duration);
        let entry = opcode::Timeout::new(timespec).build();
        self.push_for(tag, part, entry)
    }

    #[inline(always)]
    fn push_for(&mut self, tag: u16, part: u16, entry: Entry) -> Result<(), Error> {
        self.push(entry, Label::backing(tag, part))?;
        self.backing += 1; // what was refused never completes
        self.tags[usize::from(tag)].backing += 1;
        Ok(())
    }

    #[inline(always)] // a call would copy the entry once more
    fn push(&mut self, mut entry: Entry, label: Label) -> Result<(), Error> {
        // SAFETY: entries point only to a `BufferAddress`, whose maker promised that it outlives the queue, or to a place of `delays`, which
        // is the queue's own and is never moved; `Drop` of the queue waits for backing operations, and the driver uses the addresses of its
        // commands only in turns, of which there are none after that. (Without DEFER_TASKRUN the ring is closed then.)
        let pushed = unsafe { self.external.push(&mut entry, label.0) };
        pushed.map_err(|error| self.broken_ring(error))
    }

    #[cold]
    fn broken_ring(&self, error: RingError) -> Error {
        Error::from_ring(error, Some(self.device.id()))
    }
}

/// Offset of a part of a request's data, which must not be longer than that.
#[inline(always)]
fn within(data_bytes: u32, data_offset: u32, length: u32) -> u64 {
    let end = u64::from(data_offset) + u64::from(length);
    assert!(end <= u64::from(data_bytes), "{length} bytes at {data_offset} of a request with {data_bytes}");
    u64::from(data_offset)
}

/// With AUTO_BUF_REG the SQE's own address names the slot in the ring's buffer table: the tag.
pub(super) fn auto_buffer(fallback: ZeroCopyFallback, tag: u16) -> u64 {
    let flags = match fallback {
        ZeroCopyFallback::Off => AutoBufRegFlags::empty(),
        ZeroCopyFallback::On | ZeroCopyFallback::Always => AutoBufRegFlags::FALLBACK,
    };
    AutoBufReg::new(fallback.buffer_index(tag), flags).to_sqe_addr()
}

fn durability(is_durable: bool) -> i32 {
    if is_durable { libc::RWF_DSYNC } else { 0 }
}
