//! Queues behind real block devices with a scripted JavaScript: what it may do wrong, and what a request costs.
//! Needs a kernel with ublk and root: `make test-vm` runs these.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ublk::{BufferMode, Control, DataPath, Device, DeviceSpec, QueueOptions, Recovery, Threads, Wait};

use crate::bridge::{Bridge, End};
use crate::events::Events;
use crate::layout;
use crate::lifecycle::{DeviceState, Mode};
use crate::memory::QueueMemory;
use crate::registry;

const DEPTH: u16 = 4;
const SPARES: u32 = 2;
const MAX_IO_BYTES: u32 = 64 << 10;
const DEADLINE: Duration = Duration::from_millis(400);

/// A place that partition scans and udev do not read.
const PLACE: u64 = 32 << 20;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: passes every call on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One request as JavaScript sees it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    key: u32,
    length: u32,
    slot: u32,
    offset: u64,
}

/// JavaScript's half of the control memory, in Rust.
struct Script<'m> {
    memory: &'m QueueMemory,
    tail: u32,
    head: u32,
    /// Keys of the requests that were answered past their deadline, as far as told.
    expired: Vec<u32>,
}

impl Script<'_> {
    fn next(&mut self) -> Option<Seen> {
        loop {
            if self.memory.load(layout::REQUEST_HEAD) == self.tail {
                return None;
            }
            let (op, seen) = self.take();
            if op != layout::OP_EXPIRED as u32 {
                return Some(seen);
            }
            self.expired.push(seen.key);
        }
    }

    fn take(&mut self) -> (u32, Seen) {
        let mask = layout::ring_capacity(DEPTH.into()) - 1;
        let first = layout::REQUESTS + layout::REQUEST_WORDS * (self.tail as usize & mask);
        let word = |index| self.memory.load(first + index);
        self.tail = self.tail.wrapping_add(1);
        self.memory.store(layout::REQUEST_TAIL, self.tail as i32);
        let sector = u64::from(word(4)) | u64::from(word(5)) << 32;
        (word(1) & 0xff, Seen { key: word(0), length: word(2), slot: word(3), offset: sector * 512 })
    }

    fn answer(&mut self, key: u32, result: i32) {
        let mask = layout::ring_capacity(DEPTH.into()) - 1;
        let first = layout::completions_at(DEPTH.into()) + layout::COMPLETION_WORDS * (self.head as usize & mask);
        self.memory.store(first, key as i32);
        self.memory.store(first + 1, result);
        self.head = self.head.wrapping_add(1);
        self.memory.store(layout::COMPLETION_HEAD, self.head as i32);
    }
}

type Handler = Box<dyn FnMut(&mut Script<'_>, Seen) + Send>;

/// A live device whose queue is answered by a handler.
struct Live {
    state: Arc<DeviceState>,
    worker: Option<JoinHandle<()>>,
}

impl Live {
    fn new(mut handler: Handler) -> Live {
        let control = Control::open().unwrap();
        let spec = DeviceSpec {
            id: None,
            queues: 1,
            depth: DEPTH,
            max_io_bytes: MAX_IO_BYTES,
            size_bytes: 64 << 20,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            read_only: false,
            rotational: false,
            volatile_cache: false,
            fua: false,
            discard: false,
            write_zeroes: false,
            zoned: None,
            integrity: None,
            dma_align_bytes: None,
            zero_copy_align_bytes: 1,
            segments: None,
            unprivileged: false,
            recovery: Recovery::Off,
            data_path: DataPath::Only(BufferMode::Copy),
            shared_memory: Vec::new(),
            threads: Threads::default(),
            queue_options: QueueOptions::default(),
            partition_scan: true,
            cpus: None,
            start_limit: ublk::device::START_LIMIT,
        };
        let device = Device::add(&control, spec).unwrap();
        let state = DeviceState::new(registry::next_key(), device, None, DEADLINE, Events::closed());
        let memory = QueueMemory::leaked(u32::from(DEPTH) + SPARES + 1, DEPTH.into(), MAX_IO_BYTES as usize);
        state.prepare_queues(vec![memory], &Mode::Workers).unwrap();
        let session = state.session().unwrap();
        let (fetched, all_fetched) = channel();
        let worker = std::thread::spawn(move || {
            let mut bridge = Bridge::open(&session, 0).unwrap();
            fetched.send(()).unwrap();
            let mut script = Script { memory: &session.queues[0].memory, tail: 0, head: 0, expired: Vec::new() };
            let end = loop {
                match bridge.turn(Wait::Forever) {
                    Ok(_) => {}
                    Err(end) => break end,
                }
                while let Some(seen) = script.next() {
                    handler(&mut script, seen);
                }
            };
            assert!(!matches!(&end, End::Broken(error) if error.message.contains("internal")));
            bridge.close(end);
        });
        all_fetched.recv().unwrap();
        state.start().unwrap();
        Live { state, worker: Some(worker) }
    }

    /// errno of reading one block at `PLACE`, 0 for success.
    fn read(&self) -> i32 {
        read(self.state.id)
    }

    /// errno of writing one block of `byte` at `PLACE`, 0 for success.
    fn write(&self, byte: u8) -> i32 {
        let path = ublk::control::block_path(self.state.id);
        let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        file.write_all_at(&Page([byte; 4096]).0, PLACE).err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.state.close().unwrap();
        self.worker.take().unwrap().join().unwrap();
    }
}

#[repr(align(4096))]
struct Page([u8; 4096]);

fn read(id: u32) -> i32 {
    let path = ublk::control::block_path(id);
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let mut page = Page([0; 4096]);
    file.read_exact_at(&mut page.0, PLACE).err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn answer_all(script: &mut Script<'_>, seen: Seen) {
    script.answer(seen.key, seen.length as i32);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn the_owner_of_a_queue_allocates_nothing_per_request() {
    let (counted, counts): (Sender<u64>, Receiver<u64>) = channel();
    let mut requests = 0;
    let live = Live::new(Box::new(move |script, seen| {
        answer_all(script, seen);
        if seen.offset == PLACE {
            requests += 1;
            if requests == 100 || requests == 1100 {
                counted.send(ALLOCATIONS.get()).unwrap();
            }
        }
    }));
    for _ in 0..1100 {
        assert_eq!(live.read(), 0);
    }
    let (early, late) = (counts.recv().unwrap(), counts.recv().unwrap());
    // Sending the first count may allocate; a thousand requests do not.
    assert!(late - early <= 2, "{} allocations in 1000 requests", late - early);
    assert!(late > 0, "the counter counts");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn results_that_cannot_be_are_io_errors() {
    let results = [1 << 20, i32::MIN, -4096, i32::MAX, 4097];
    let mut index = 0;
    let live = Live::new(Box::new(move |script, seen| {
        if seen.offset == PLACE && index < results.len() {
            script.answer(seen.key, results[index]);
            index += 1;
        } else {
            answer_all(script, seen);
        }
    }));
    for result in results {
        assert_eq!(live.read(), libc::EIO, "{result}");
    }
    assert_eq!(live.read(), 0);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn answers_to_nothing_are_ignored() {
    let live = Live::new(Box::new(move |script, seen| {
        if seen.offset == PLACE {
            let stale = seen.key.wrapping_sub(1 << layout::TAG_BITS);
            script.answer(stale, -libc::ENOSPC); // an earlier request of the tag
            script.answer((seen.key & !0xfff) | 0xfff, -libc::ENOSPC); // no such tag
            script.answer(seen.key, seen.length as i32);
            script.answer(seen.key, -libc::ENOSPC); // answered already
        } else {
            answer_all(script, seen);
        }
    }));
    for _ in 0..50 {
        assert_eq!(live.read(), 0);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_deadline_gives_the_tag_another_slot_until_none_is_left() {
    let (slots, taken) = channel();
    let (told, expired) = channel();
    let live = Live::new(Box::new(move |script, seen| {
        if seen.offset == PLACE {
            slots.send((seen.key, seen.slot)).unwrap();
        } else {
            answer_all(script, seen);
        }
        script.expired.drain(..).for_each(|key| told.send(key).unwrap());
    }));
    for _ in 0..SPARES {
        assert_eq!(live.read(), libc::ETIMEDOUT);
    }
    assert_eq!(live.read(), libc::EIO, "no spare slot: the queue fails");
    let (keys, lost): (Vec<u32>, Vec<u32>) = taken.try_iter().unzip();
    assert_eq!(lost.len(), SPARES as usize + 1);
    for (index, slot) in lost.iter().enumerate() {
        assert!(!lost[..index].contains(slot), "slot {slot}, which a late handler may write to, was given away");
    }
    // The last ones are told after the last request that the script has seen.
    let expired: Vec<u32> = expired.try_iter().collect();
    assert_eq!(expired, keys[..expired.len()]);
    assert!(expired.len() + 2 > SPARES as usize, "only {} of {SPARES} were told", expired.len());
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_late_answer_answers_nothing_and_gives_its_slot_back() {
    let mut late = None;
    let live = Live::new(Box::new(move |script, seen| {
        if seen.offset != PLACE {
            return answer_all(script, seen);
        }
        if let Some(key) = late.replace(seen.key) {
            script.answer(key, seen.length as i32);
        }
    }));
    for round in 0..2 * SPARES + 1 {
        assert_eq!(live.read(), libc::ETIMEDOUT, "round {round}");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn what_is_refused_keeps_its_data_while_other_writes_come() {
    const REFUSED: u8 = 0xaa;
    const ROUNDS: usize = 20;
    let (done, dones) = channel();
    let mut held: Option<Seen> = None;
    // Which tag a write gets is the block layer's to say: with a write on each of them, one has the refused one's.
    let mut writes = Vec::new();
    let live = Live::new(Box::new(move |script, seen| {
        let Some(refused) = held else {
            if seen.offset != PLACE {
                return answer_all(script, seen);
            }
            // Once it refuses, JavaScript refuses everything: also what udev reads after each writer.
            script.memory.store(layout::JS_REFUSES, 1);
            held = Some(seen);
            return script.answer(seen.key, -libc::EIO);
        };
        if seen.offset != PLACE {
            return script.answer(seen.key, -libc::EIO);
        }
        writes.push(seen.key);
        if writes.len() == usize::from(DEPTH) {
            assert!(writes.iter().any(|key| key & TAG_MASK == refused.key & TAG_MASK), "{writes:x?}");
            done.send(first_byte(script.memory, refused.slot)).unwrap();
            writes.drain(..).for_each(|key| script.answer(key, -libc::EIO));
        }
    }));
    assert_eq!(live.write(REFUSED), libc::EIO);
    std::thread::scope(|scope| {
        for _ in 0..DEPTH {
            scope.spawn(|| (0..ROUNDS).for_each(|_| assert_eq!(live.write(0xbb), libc::EIO)));
        }
    });
    assert_eq!(dones.try_iter().collect::<Vec<u8>>(), [REFUSED; ROUNDS]);
}

const TAG_MASK: u32 = (1 << layout::TAG_BITS) - 1;

#[allow(unsafe_code)]
fn first_byte(memory: &QueueMemory, slot: u32) -> u8 {
    // SAFETY: the slot lies in leaked memory, and the kernel writes to it only while the calling thread is in the ring.
    unsafe { std::ptr::read_volatile(std::ptr::with_exposed_provenance(memory.slot(slot).get() as usize)) }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_overrun_ring_fails_the_queue_and_stops_the_device() {
    let live = Live::new(Box::new(move |script, seen| {
        if seen.offset == PLACE {
            script.head = script.head.wrapping_add(1 << 20);
        }
        answer_all(script, seen);
    }));
    assert_eq!(live.read(), libc::EIO);
    let path = ublk::control::block_path(live.state.id);
    for _ in 0..100 {
        if !std::path::Path::new(&path).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{path} is still there");
}
