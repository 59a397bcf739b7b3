//! The memory of requests: what of it users share, how it is aligned and cut, and how much of it a request has. Needs a kernel with ublk and
//! root.
#![allow(missing_docs)]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::elsewhere::elsewhere;
use common::huge::{HUGE, huge_pages, part};
use common::watched::{Seen, watched};
use common::{Live, MIB, spec_for};
use ublk::target::{FileOptions, file, mem, mem_zero_copy, null};
use ublk::uapi::Features;
use ublk::{BufferMode, Control, DataPath, Device, DeviceSpec, Error, Segments, SharedMemory, Target};
use ublk_executor::Mapping;

const SIZE: u64 = 64 * MIB;

fn kernel_has(flags: Features) -> bool {
    Control::open().unwrap().features().unwrap().contains(flags)
}

/// A setting of the block device's queue.
fn queue_setting(live: &Live, name: &str) -> u64 {
    let path = format!("/sys/block/ublkb{}/queue/{name}", live.device.id());
    std::fs::read_to_string(&path).unwrap().trim().parse().unwrap()
}

/// Bytes of a round: the period divides no block size, so no two places of a request look alike.
fn pattern(round: u8) -> Vec<u8> {
    (0..251).map(|byte| byte ^ round.wrapping_mul(0x5b)).collect::<Vec<u8>>().repeat(256)
}

/// Writes a part of the user's memory and reads it back into the same.
fn write_and_read(device: &File, users: &Mapping, (place, length): (usize, usize), round: u8) {
    let offset = u64::from(round) * MIB % (SIZE / 2);
    let pattern = pattern(round);
    for bytes in part(users, place, length).chunks_mut(pattern.len()) {
        bytes.copy_from_slice(&pattern[..bytes.len()]);
    }
    device.write_all_at(part(users, place, length), offset).unwrap();
    part(users, place, length).fill(0xee);
    device.read_exact_at(part(users, place, length), offset).unwrap();
    let is_same = part(users, place, length).chunks(pattern.len()).all(|bytes| *bytes == pattern[..bytes.len()]);
    assert!(is_same, "round {round}: {length} bytes from {place}");
}

fn shared(path: &Path) -> Arc<SharedMemory> {
    Arc::new(SharedMemory::open(path, false).unwrap())
}

fn sharing_device(target: Arc<dyn Target>) -> (Live, Arc<Seen>) {
    let (target, seen) = watched(target);
    let data_path = DataPath::Only(BufferMode::SharedMemory);
    (Live::with(Arc::clone(&target), DeviceSpec { data_path, ..spec_for(target.as_ref()) }), seen)
}

/// How often this process has a file mapped.
fn mappings_of(path: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.ends_with(path.to_str().unwrap())).count()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn memory_is_shared_and_let_go_of_while_the_device_is_used() {
    if !kernel_has(Features::SHMEM_ZC) {
        return;
    }
    let (mut live, seen) = sharing_device(mem(SIZE).unwrap());
    let ((first, ours), (second, theirs)) = (huge_pages("first", 1), huge_pages("second", 1));
    let device = live.open();
    seen.take_shared();
    write_and_read(&device, &ours, (0, 4096), 1);
    assert_eq!(seen.take_shared(), 0, "nothing is shared yet");

    live.device.share_memory(shared(&first)).unwrap();
    live.device.share_memory(shared(&second)).unwrap();
    write_and_read(&device, &ours, (4096, 65536), 2);
    write_and_read(&device, &theirs, (1 << 20, 256 << 10), 3);
    assert_eq!(seen.take_shared(), 4, "from two files");

    live.device.unshare_memory(&first).unwrap();
    assert_eq!((mappings_of(&first), mappings_of(&second)), (1, 2), "the user's, and the server's");
    write_and_read(&device, &ours, (4096, 65536), 4);
    assert_eq!(seen.take_shared(), 0, "it is shared no longer");
    write_and_read(&device, &theirs, (0, 4096), 5);
    assert_eq!(seen.take_shared(), 2, "the other still is");

    // The number that is free again goes to the next.
    live.device.share_memory(shared(&first)).unwrap();
    write_and_read(&device, &ours, (0, 4096), 6);
    write_and_read(&device, &theirs, (0, 4096), 7);
    assert_eq!(seen.take_shared(), 4);
    drop(device);

    live.stop();
    live.start();
    let device = live.open();
    seen.take_shared();
    write_and_read(&device, &ours, (0, 4096), 8);
    write_and_read(&device, &theirs, (0, 4096), 9);
    assert_eq!(seen.take_shared(), 4, "a device that starts again shares what it has shared");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn memory_comes_and_goes_under_load() {
    if !kernel_has(Features::SHMEM_ZC) {
        return;
    }
    let image = std::env::temp_dir().join("ublk-request-memory-load.img");
    let options = FileOptions { size_bytes: Some(SIZE), create: true, ..FileOptions::default() };
    let target = file(&image, &options).unwrap();
    std::fs::remove_file(&image).unwrap();
    let (mut live, seen) = sharing_device(target);
    let (path, users) = huge_pages("coming-and-going", 1);
    let device = live.open();
    let is_over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds: usize = 0;
            while !is_over.load(Ordering::Acquire) || rounds < 50 {
                write_and_read(&device, &users, (rounds % 8 * 65536, 65536), rounds as u8);
                rounds += 1;
            }
            rounds
        });
        for _ in 0..50 {
            live.device.share_memory(shared(&path)).unwrap();
            live.device.unshare_memory(&path).unwrap();
        }
        is_over.store(true, Ordering::Release);
        load.join().unwrap()
    });
    let from_shared = seen.take_shared();
    assert!((1..2 * rounds).contains(&from_shared), "{from_shared} of {} requests", 2 * rounds);
    assert_eq!(mappings_of(&path), 1, "the user's");
    assert!(live.events.lock().unwrap().is_empty(), "{:?}", live.events.lock().unwrap());
}

#[test]
#[ignore = "needs a ublk kernel"]
fn memory_that_cannot_be_shared_is_refused_by_name() {
    if !kernel_has(Features::SHMEM_ZC) {
        return;
    }
    let (mut live, seen) = sharing_device(mem(SIZE).unwrap());
    let (path, users) = huge_pages("refused", 1);
    live.device.share_memory(shared(&path)).unwrap();
    let link = std::env::temp_dir().join("ublk-request-memory-link");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let unknown = Path::new("/run/huge/unknown");
    for (done, problem) in [
        (live.device.share_memory(shared(&path)), "shares the memory of /run/huge/refused already"),
        // Another path, and the same pages: the driver knows.
        (live.device.share_memory(shared(&link)), "shares the memory of /tmp/ublk-request-memory-link already"),
        (live.device.unshare_memory(unknown), "shares no memory of /run/huge/unknown"),
    ] {
        let error = done.unwrap_err();
        assert!(matches!(&error, Error::Refused { problem: is, .. } if is == problem), "{error}");
    }
    std::fs::remove_file(&link).unwrap();
    let device = live.open();
    seen.take_shared();
    write_and_read(&device, &users, (0, 4096), 1);
    assert_eq!(seen.take_shared(), 2, "it is shared as before");

    // Somebody else's registration is not mapped here: its requests fail, and touch nothing.
    let (_, alien) = huge_pages("alien", 1);
    let control = Control::open().unwrap();
    let flags = ublk::uapi::ShmemBufFlags::empty();
    let number = control.register_shared_memory(live.device.id(), alien.address(0, HUGE), HUGE as u64, flags).unwrap();
    let failed = device.write_all_at(part(&alien, 0, 4096), 0).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    let (late, _) = huge_pages("late", 1);
    let error = live.device.share_memory(shared(&late)).unwrap_err();
    assert!(error.to_string().contains("memory of another program"), "{error}");
    control.unregister_shared_memory(live.device.id(), number).unwrap();
    live.device.share_memory(shared(&late)).unwrap();
    drop(device);

    let mut copying = Live::new(mem(SIZE).unwrap());
    let error = copying.device.share_memory(shared(&late)).unwrap_err();
    assert!(error.to_string().ends_with("moves its data by get-data, not by shmem"), "{error}");
}

const SEGMENTS: Segments = Segments { max_count: 4, max_bytes: 8192, boundary_bytes: 65536 };

/// Whether the kernel takes parameters of memory, as all do that have zero copy.
fn has_memory_parameters() -> bool {
    kernel_has(Features::AUTO_BUF_REG)
}

#[test]
#[ignore = "needs a ublk kernel"]
fn alignment_and_segments_are_what_the_block_layer_has() {
    let wish = |spec: DeviceSpec| DeviceSpec { dma_align_bytes: Some(512), segments: Some(SEGMENTS), ..spec };
    let (target, seen) = watched(mem(SIZE).unwrap());
    let spec = wish(spec_for(target.as_ref()));
    if !has_memory_parameters() {
        let error = Device::add(&Control::open().unwrap(), spec).err().unwrap();
        assert!(matches!(error, Error::Unsupported { since: "6.15", .. }), "{error}");
        return assert!(ublk::list(&Control::open().unwrap()).unwrap().is_empty());
    }
    let live = Live::with(target, spec);
    let info = Control::open().unwrap().info(live.device.id()).unwrap();
    assert_eq!((info.dma_align_bytes, info.segments), (512, SEGMENTS));
    for (name, value) in [("dma_alignment", 511), ("max_segments", 4), ("max_segment_size", 8192)] {
        assert_eq!(queue_setting(&live, name), value, "{name}");
    }
    let device = live.open();
    let users = Mapping::new(2 * HUGE).unwrap();
    seen.take_longest();
    write_and_read(&device, &users, (512, 256 << 10), 1);
    assert!(seen.take_longest() <= 4 * 8192, "a request has at most four segments");
    let error = device.write_all_at(part(&users, 256, 4096), 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "memory that is not aligned");
    drop(device);

    let live = Live::new(mem(SIZE).unwrap());
    let info = Control::open().unwrap().info(live.device.id()).unwrap();
    assert_eq!((info.dma_align_bytes, info.segments), (4, Segments::UNLIMITED), "without a wish");
    assert_eq!(queue_setting(&live, "dma_alignment") + 1, 4);
    assert_eq!(queue_setting(&live, "max_segments"), u16::MAX.into());
    assert_eq!(queue_setting(&live, "max_segment_size"), u32::MAX.into());
    write_and_read(&live.open(), &users, (4, 256 << 10), 2);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn memory_that_no_driver_takes_is_refused_by_its_rule() {
    let segments = |max_count, max_bytes, boundary_bytes| DeviceSpec {
        segments: Some(Segments { max_count, max_bytes, boundary_bytes }),
        ..spec_for(null(MIB).as_ref())
    };
    let alignment = |bytes| DeviceSpec { dma_align_bytes: Some(bytes), ..spec_for(null(MIB).as_ref()) };
    let aligned = |bytes| (alignment(bytes), format!("from 2 to 4096 bytes, not {bytes}"));
    for (spec, rule) in [
        aligned(0),
        aligned(1),
        aligned(6),
        aligned(8192),
        (segments(0, 4096, 4096), "a request has at least one segment".into()),
        (segments(1, 4095, 4096), "segments have at least 4096 bytes, not 4095 at most".into()),
        (segments(1, 4096, 2048), "at least 4096 bytes, not 2048".into()),
        (segments(1, 4096, 12288), "at least 4096 bytes, not 12288".into()),
    ] {
        let error = Device::add(&Control::open().unwrap(), spec).err().unwrap();
        assert!(matches!(&error, Error::BadOption { rule: is } if is.ends_with(&rule)), "{error}: {rule}");
    }
    // What the rules let through at their edges, the driver takes.
    if has_memory_parameters() {
        for spec in [alignment(2), alignment(4096), segments(1, 4096, 4096), segments(u16::MAX, u32::MAX, 1 << 32)] {
            drop(Live::with(null(MIB), spec));
        }
    }
}

/// Zero copy hands the user's memory on to the file: the device must want what the file wants.
#[test]
#[ignore = "needs a ublk kernel"]
fn zero_copy_wants_memory_as_its_file_does() {
    if !has_memory_parameters() {
        return;
    }
    let below = mem(SIZE).unwrap();
    let below = Live::with(Arc::clone(&below), DeviceSpec { dma_align_bytes: Some(512), ..spec_for(below.as_ref()) });
    let users = Mapping::new(2 * HUGE).unwrap();
    let options = FileOptions { direct: true, ..FileOptions::default() };
    for (mode, alignment) in [(BufferMode::AutoZeroCopy, 512), (BufferMode::ZeroCopy, 512), (BufferMode::Copy, 4)] {
        let target = file(Path::new(&below.path()), &options).unwrap();
        let spec = DeviceSpec { data_path: DataPath::Only(mode), ..spec_for(target.as_ref()) };
        let live = Live::with(target, spec);
        assert_eq!(live.device.granted().dma_align_bytes, alignment, "{mode:?}");
        assert_eq!(queue_setting(&live, "dma_alignment") + 1, alignment.into(), "{mode:?}");
        let device = live.open();
        write_and_read(&device, &users, (512, 65536), 1);
        let odd = device.write_all_at(part(&users, 4, 4096), 0);
        match mode {
            BufferMode::Copy => odd.unwrap(),
            _ => assert_eq!(odd.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{mode:?}"),
        }
        assert_eq!(live.served.as_ref().unwrap().stats().ops[1].errors, 0, "{mode:?}: no request has failed");
    }
    // A larger wish counts; a smaller one would let requests through that fail.
    for (wish, alignment) in [(2, 512), (1024, 1024)] {
        let target = file(Path::new(&below.path()), &options).unwrap();
        let live =
            Live::with(Arc::clone(&target), DeviceSpec { dma_align_bytes: Some(wish), ..spec_for(target.as_ref()) });
        assert_eq!(live.device.granted().dma_align_bytes, alignment);
    }
}

const LONGEST: usize = 32 << 20;

/// The library's limit and the driver's. The block layer sends so much at once only when its queue's `max_sectors_kb` is raised.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_request_of_32_mib_is_one_in_every_mode() {
    let (path, users) = huge_pages("longest", LONGEST / HUGE);
    for mode in BufferMode::ALL {
        let is_here = match mode {
            BufferMode::SharedMemory => kernel_has(Features::SHMEM_ZC),
            BufferMode::ZeroCopy | BufferMode::AutoZeroCopy => kernel_has(Features::AUTO_BUF_REG),
            _ => true,
        };
        if !is_here {
            continue;
        }
        let is_zero_copy = matches!(mode, BufferMode::ZeroCopy | BufferMode::AutoZeroCopy);
        let (target, seen) = watched(if is_zero_copy { mem_zero_copy(SIZE) } else { mem(SIZE) }.unwrap());
        let is_shared = mode == BufferMode::SharedMemory;
        let spec = DeviceSpec {
            max_io_bytes: LONGEST as u32,
            depth: 2,
            data_path: DataPath::Only(mode),
            shared_memory: if is_shared { vec![shared(&path)] } else { Vec::new() },
            ..spec_for(target.as_ref())
        };
        let live = Live::with(target, spec);
        assert_eq!(queue_setting(&live, "max_hw_sectors_kb"), 32 << 10, "{mode:?}");
        assert!(
            queue_setting(&live, "max_sectors_kb") < 32 << 10,
            "the block layer's default became larger: say so in the docs"
        );
        let raise = format!("/sys/block/ublkb{}/queue/max_sectors_kb", live.device.id());
        std::fs::write(raise, "32768").unwrap();
        seen.take_longest();
        write_and_read(&live.open(), &users, (0, LONGEST), 3);
        assert_eq!(seen.take_longest() as usize, LONGEST, "{mode:?}");
        assert_eq!(seen.take_shared(), if is_shared { 2 } else { 0 }, "{mode:?}");
    }
}

/// BUF_REG_OFF_DAEMON: the queue that fetched a tag answers its request, and another thread's ring has the pages.
#[test]
#[ignore = "needs a ublk kernel"]
fn another_ring_than_the_queues_can_register_the_pages() {
    if !kernel_has(Features::BUF_REG_OFF_DAEMON) {
        return;
    }
    for mode in [BufferMode::ZeroCopy, BufferMode::AutoZeroCopy] {
        let target = elsewhere(SIZE);
        let spec = DeviceSpec { data_path: DataPath::Only(mode), depth: 4, ..spec_for(target.as_ref()) };
        let live = Live::with(target, spec);
        assert!(live.device.features().contains(Features::BUF_REG_OFF_DAEMON));
        let users = Mapping::new(HUGE).unwrap();
        for (round, length) in [(1, 512), (2, 4096), (3, 256 << 10), (4, 1 << 20)] {
            write_and_read(&live.open(), &users, (0, length), round);
        }
    }
}
