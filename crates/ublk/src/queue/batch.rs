//! BATCH_IO: requests come and go many at a time, whatever thread they are handled by.
//!
//! Per hardware queue: PREP_IO_CMDS once for all of its tags; two multishot FETCH_IO_CMDS, each with a buffer that the driver fills with tags
//! piece by piece and that is given to it again when it is full; and a COMMIT_IO_CMDS per turn for what was answered meanwhile.
//! Everything that the driver reads and writes lies in one mapping, which is dropped after the ring.

use io_uring::squeue::{Entry, Flags};
use ublk_executor::Mapping;
use ublk_executor::external::External;
use ublk_executor::memory::page_bytes;
use ublk_uapi::{BATCH_FETCH_ELEM_BYTES, BatchFlags, BatchIo, ElemHeader, IoCmdOp, RES_ABORT};

use super::Slot;
use super::submit::Label;
use crate::device::{CharDevice, ZeroCopyFallback};
use crate::{BufferMode, Error};

/// Fetch commands of a hardware queue: while one's buffer is handed back, the other takes what comes.
const FETCHES: usize = 2;

/// Buffers for answers of a hardware queue: while the driver reads one, the other is filled.
const COMMITS: usize = 2;

/// What a fetch ends with when its buffer is full.
const NO_BUFFER: i32 = -libc::ENOBUFS;

/// One tag of a PREP or COMMIT.
pub(super) struct Element {
    pub(super) tag: u16,
    pub(super) buffer_index: u16,
    pub(super) result: i32,
    pub(super) address: u64,
}

/// A command to be sent.
pub(super) struct Command {
    pub(super) entry: Entry,
    pub(super) label: Label,
    /// It completes when it is submitted, and what it answers can wait until the next requests come.
    pub(super) can_wait: bool,
}

/// What the end of a fetch brought.
pub(super) enum Arrival {
    /// Tags, or nothing new.
    Tags,
    /// The device is being stopped or quiesced, and this was the last fetch of the area: nothing comes for it any more.
    End(u16),
    /// The driver refused the command, with this -errno.
    Refused(i32),
}

/// The hardware queues of one thread.
pub(super) struct Batches {
    areas: Vec<Area>,
    flags: BatchFlags,
    fallback: ZeroCopyFallback,
    depth: u16,
    /// Bytes of a fetch's buffer.
    fetch_bytes: u32,
    /// Bytes of an element of a commit's.
    element_bytes: u64,
    /// What is handed out.
    arrived: Arrived,
    /// The driver took a fetch of some area back.
    is_ending: bool,
    /// Where the addresses of all areas lead.
    _memory: Mapping,
}

/// Tags that arrived and were not handed out.
#[derive(Default)]
struct Arrived {
    /// Addresses of the next one and of their end, in the memory.
    next: u64,
    end: u64,
    area: u16,
    /// As the area's.
    first_tag: u16,
}

impl Arrived {
    #[inline]
    fn is_empty(&self) -> bool {
        self.next == self.end
    }
}

struct Area {
    queue: u16,
    /// The number that the queue's tag 0 has here.
    first_tag: u16,
    is_prepared: bool,
    /// The driver took a fetch back: none is sent any more. The other one may still bring tags.
    is_ending: bool,
    fetches: [Fetch; FETCHES],
    commits: [Commit; COMMITS],
    /// The one that is being filled.
    filling: usize,
}

struct Fetch {
    /// Group of provided buffers, and address of its ring, a page.
    group: u16,
    ring: u64,
    /// Address of the buffer, and how much of it was filled.
    buffer: u64,
    filled: u32,
    is_armed: bool,
    /// Buffers put into the ring so far.
    tail: u16,
}

struct Commit {
    /// Address of the buffer, which has room for an element of each tag.
    buffer: u64,
    elements: u16,
    /// Elements that the driver has not taken yet, of a command under way.
    under_way: u16,
    /// How many of `elements` it took before.
    taken: u16,
    /// The command is the PREP, which tells no number.
    prepares: bool,
}

/// Bytes of the buffers of an area: whole pages.
#[derive(Clone, Copy)]
struct Room {
    fetch: usize,
    commit: usize,
}

impl Room {
    fn of_area(self) -> usize {
        FETCHES * (page_bytes() + self.fetch) + COMMITS * self.commit
    }
}

impl Batches {
    /// # Errors
    /// [`Error::NoMemory`], [`Error::Kernel`] before Linux 6.12.
    pub(super) fn open(device: &CharDevice, slots: &[Slot], external: &External) -> Result<Batches, Error> {
        let flags = match device.buffers() {
            BufferMode::Copy | BufferMode::GetData | BufferMode::SharedMemory => BatchFlags::HAS_BUF_ADDR,
            BufferMode::AutoZeroCopy if device.options().fallback != ZeroCopyFallback::Off => {
                BatchFlags::AUTO_BUF_REG_FALLBACK
            }
            BufferMode::UserCopy | BufferMode::ZeroCopy | BufferMode::AutoZeroCopy => BatchFlags::empty(),
        };
        let depth = usize::from(device.depth());
        let room = Room {
            fetch: fetch_bytes(depth),
            commit: (depth * usize::from(flags.elem_bytes())).next_multiple_of(page_bytes()),
        };
        // Areas are numbered as the queues whose descriptors are mapped: in ascending order, each with all of its tags.
        let is_whole = |slots: &[Slot]| {
            slots.iter().enumerate().all(|(tag, slot)| usize::from(slot.tag) == tag && slot.queue == slots[0].queue)
        };
        let queues = slots.chunks(depth);
        assert!(
            queues.clone().all(|queue| queue.len() == depth && is_whole(queue)),
            "batches take whole hardware queues"
        );
        assert!(queues.is_sorted_by_key(|queue| queue[0].queue), "batches take hardware queues in their order");
        let count = slots.len() / depth;
        let memory = Mapping::new(count * room.of_area())
            .map_err(|_| Error::NoMemory { what: "the buffers of batches".into(), id: Some(device.id()) })?;
        let areas: Vec<Area> =
            (0..count).map(|index| Area::new(index, slots[index * depth].queue, depth, room, &memory)).collect();
        for fetch in areas.iter().flat_map(|area| &area.fetches) {
            // SAFETY: the memory is dropped after the ring is closed, with the queue that both belong to.
            unsafe { external.register_buffer_ring(fetch.ring, fetch.group) }
                .map_err(|error| Error::from_ring(error, Some(device.id())))?;
        }
        Ok(Batches {
            areas,
            flags,
            fallback: device.options().fallback,
            depth: device.depth(),
            fetch_bytes: room.fetch as u32, // 4096 tags have 32 KiB
            element_bytes: u64::from(flags.elem_bytes()),
            arrived: Arrived::default(),
            is_ending: false,
            _memory: memory,
        })
    }

    /// Adds a tag to what the next turn sends: to be prepared, or its answer.
    #[inline(always)] // as the rest of a request's way
    pub(super) fn add(&mut self, area: u16, element: Element) {
        let area = &mut self.areas[usize::from(area)];
        let commit = &mut area.commits[area.filling];
        assert!(commit.elements < self.depth, "more answers than tags");
        let place = commit.buffer + u64::from(commit.elements) * self.element_bytes;
        let buf_index = self.fallback.buffer_index(element.buffer_index);
        let header = ElemHeader { tag: element.tag, buf_index, result: element.result };
        // SAFETY: the buffer has `depth` elements, and this is one of them: the header takes its 8 bytes, and the address the next 8. The
        // driver reads it only while a command for it is under way, and then another one is filled.
        unsafe {
            (place as *mut ElemHeader).write(header);
            if let Some(offset) = self.flags.buf_addr_offset_bytes() {
                ((place + offset as u64) as *mut u64).write(element.address);
            }
        }
        commit.elements += 1;
    }

    /// The next command to be sent: `command` makes an entry of the operation, its argument and its address.
    pub(super) fn next_command(&mut self, command: impl Fn(IoCmdOp, BatchIo, u64) -> Entry) -> Option<Command> {
        for (index, area) in self.areas.iter_mut().enumerate() {
            if let Some(number) = area.next_commit() {
                let commit = &mut area.commits[number];
                let address = commit.buffer + u64::from(commit.taken) * self.element_bytes;
                let op = if area.is_prepared { IoCmdOp::CommitIoCmds } else { IoCmdOp::PrepIoCmds };
                let argument = BatchIo::of_elements(area.queue, self.flags, commit.under_way);
                commit.prepares = !std::mem::replace(&mut area.is_prepared, true);
                // After the driver has taken a fetch back, nothing else may come.
                let can_wait = !commit.prepares && !self.is_ending;
                let label = Label::batch_commit((index * COMMITS + number) as u16);
                return Some(Command { entry: command(op, argument, address), label, can_wait });
            }
            if !area.is_prepared || area.is_ending {
                continue;
            }
            if let Some((number, fetch)) = area.fetches.iter_mut().enumerate().find(|(_, fetch)| !fetch.is_armed) {
                fetch.provide(self.fetch_bytes);
                let entry = select_multishot(command(IoCmdOp::FetchIoCmds, BatchIo::fetch(area.queue), 0), fetch.group);
                let label = Label::batch_fetch((index * FETCHES + number) as u16);
                return Some(Command { entry, label, can_wait: false });
            }
        }
        None
    }

    /// A PREP or COMMIT has ended. -errno if it was refused.
    pub(super) fn committed(&mut self, buffer: u16, result: i32) -> Option<i32> {
        let area = &mut self.areas[usize::from(buffer) / COMMITS];
        let commit = &mut area.commits[usize::from(buffer) % COMMITS];
        let sent = std::mem::take(&mut commit.under_way);
        let taken = match result {
            0 if commit.prepares => u64::from(sent),
            // The bytes of what was taken; the rest goes once more.
            1.. => result as u64 / self.element_bytes,
            0 => return Some(-libc::EIO),
            errno => return Some(errno),
        };
        if taken > u64::from(sent) {
            return Some(-libc::EIO);
        }
        commit.taken += taken as u16;
        if commit.taken == commit.elements {
            (commit.elements, commit.taken) = (0, 0);
        }
        None
    }

    /// A fetch has brought tags, or has ended.
    pub(super) fn fetched(&mut self, buffer: u16, result: i32, goes_on: bool) -> Arrival {
        let index = usize::from(buffer) / FETCHES;
        let area = &mut self.areas[index];
        let fetch = &mut area.fetches[usize::from(buffer) % FETCHES];
        fetch.is_armed = goes_on;
        match result {
            0.. => {
                let tags = result as u32 / u32::from(BATCH_FETCH_ELEM_BYTES);
                let filled = fetch.filled + tags * u32::from(BATCH_FETCH_ELEM_BYTES);
                assert!(filled <= self.fetch_bytes, "the driver filled {filled} bytes of {}", self.fetch_bytes);
                assert!(self.arrived.is_empty(), "tags come while others were not handed out");
                let next = fetch.buffer + u64::from(fetch.filled);
                let end = fetch.buffer + u64::from(filled);
                self.arrived = Arrived { next, end, area: index as u16, first_tag: area.first_tag };
                fetch.filled = filled;
                Arrival::Tags
            }
            RES_ABORT | NO_BUFFER => {
                fetch.is_armed = false;
                area.is_ending |= result == RES_ABORT;
                self.is_ending |= area.is_ending;
                if area.has_ended() { Arrival::End(index as u16) } else { Arrival::Tags }
            }
            errno => Arrival::Refused(errno),
        }
    }

    /// The next tag that arrived, by the number that it has in this thread.
    #[inline(always)]
    pub(super) fn next_tag(&mut self) -> Option<u16> {
        if self.arrived.is_empty() {
            return None;
        }
        // SAFETY: `fetched` saw that all up to the end lies in a fetch's buffer; the driver wrote it before the completion that told of it, and
        // again only when the buffer is provided anew. Tags are two bytes each in a buffer that begins with a page.
        let tag = unsafe { (self.arrived.next as *const u16).read_volatile() };
        self.arrived.next += u64::from(BATCH_FETCH_ELEM_BYTES);
        assert!(tag < self.depth, "the driver brought tag {tag} of {}", self.depth);
        Some(self.arrived.first_tag + tag)
    }

    /// Answers that the driver has not taken.
    pub(super) fn unsent(&self) -> u32 {
        self.areas.iter().flat_map(|area| &area.commits).map(|commit| u32::from(commit.elements - commit.taken)).sum()
    }

    /// True when no request comes to the area any more, and none waits to be handed out.
    #[inline]
    pub(super) fn has_ended(&self, area: u16) -> bool {
        self.is_ending
            && self.areas[usize::from(area)].has_ended()
            && (self.arrived.is_empty() || self.arrived.area != area)
    }
}

impl Area {
    fn new(index: usize, queue: u16, depth: usize, room: Room, memory: &Mapping) -> Area {
        let rings = index * room.of_area();
        let fetches = rings + FETCHES * page_bytes();
        let commits = fetches + FETCHES * room.fetch;
        let fetch = |number: usize| Fetch {
            group: (index * FETCHES + number) as u16,
            ring: memory.address(rings + number * page_bytes(), page_bytes()),
            buffer: memory.address(fetches + number * room.fetch, room.fetch),
            filled: 0,
            is_armed: false,
            tail: 0,
        };
        let commit = |number: usize| Commit {
            buffer: memory.address(commits + number * room.commit, room.commit),
            elements: 0,
            under_way: 0,
            taken: 0,
            prepares: false,
        };
        Area {
            queue,
            first_tag: (index * depth) as u16,
            is_prepared: false,
            is_ending: false,
            fetches: std::array::from_fn(fetch),
            commits: std::array::from_fn(commit),
            filling: 0,
        }
    }

    fn has_ended(&self) -> bool {
        self.is_ending && self.fetches.iter().all(|fetch| !fetch.is_armed)
    }

    /// The buffer of answers to send now, if there is one; then the other one is filled.
    fn next_commit(&mut self) -> Option<usize> {
        // What was not taken whole goes on before anything new.
        let left = (0..COMMITS).find(|&number| number != self.filling && self.commits[number].is_ready());
        let number = match left {
            Some(number) => number,
            None if self.commits[self.filling].is_ready() => {
                let number = self.filling;
                let free = (0..COMMITS).find(|&other| other != number && self.commits[other].elements == 0)?;
                self.filling = free;
                number
            }
            None => return None,
        };
        let commit = &mut self.commits[number];
        commit.under_way = commit.elements - commit.taken;
        Some(number)
    }
}

impl Commit {
    fn is_ready(&self) -> bool {
        self.under_way == 0 && self.elements > self.taken
    }
}

impl Fetch {
    /// Puts the whole buffer into the group's ring: entry 0 of 1, whose tail is the half word at byte 14.
    fn provide(&mut self, bytes: u32) {
        let ring = self.ring;
        self.tail = self.tail.wrapping_add(1);
        self.filled = 0;
        self.is_armed = true;
        // SAFETY: the ring is a page, the buffer has so many bytes (`Area::new` checked both). `struct io_uring_buf` is the address (8 bytes),
        // the length (4) and the number (2); the kernel reads them after it has seen the new tail, which is published with Release and
        // written by nobody else.
        unsafe {
            (ring as *mut u64).write_volatile(self.buffer);
            ((ring + 8) as *mut u32).write_volatile(bytes);
            ((ring + 12) as *mut u16).write_volatile(0);
            let tail = std::sync::atomic::AtomicU16::from_ptr((ring + 14) as *mut u16);
            tail.store(self.tail, std::sync::atomic::Ordering::Release);
        }
    }
}

/// Room for some rounds of all tags, in whole pages: a buffer is handed back only when it is full, and that takes a command.
fn fetch_bytes(depth: usize) -> usize {
    (4 * depth * usize::from(BATCH_FETCH_ELEM_BYTES)).next_multiple_of(page_bytes())
}

/// Makes a command multishot, with its buffers from a group: the library has no word for that.
fn select_multishot(entry: Entry, group: u16) -> Entry {
    const URING_CMD_FLAGS_AT: usize = 28;
    const BUFFER_GROUP_AT: usize = 40;
    const MULTISHOT: u32 = 1 << 1; // IORING_URING_CMD_MULTISHOT

    const { assert!(size_of::<Entry>() == 64) };
    let entry = entry.flags(Flags::BUFFER_SELECT);
    // SAFETY: `Entry` is the kernel's `struct io_uring_sqe` of 64 bytes (repr(C)), plain numbers of which every pattern is valid; the two
    // fields are at these places in linux/io_uring.h.
    unsafe {
        let mut bytes: [u8; 64] = std::mem::transmute(entry);
        bytes[URING_CMD_FLAGS_AT..][..4].copy_from_slice(&MULTISHOT.to_ne_bytes());
        bytes[BUFFER_GROUP_AT..][..2].copy_from_slice(&group.to_ne_bytes());
        std::mem::transmute::<[u8; 64], Entry>(bytes)
    }
}
