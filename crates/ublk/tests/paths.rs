//! Every way from a request to a target and back, with data checked at the far end. Needs a kernel with ublk and root.
#![allow(missing_docs)]

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::huge::{HUGE, huge_pages, part};
use common::watched::watched;
use common::{Live, MIB, spec_for};
use ublk::target::{Faults, FileOptions, fault, file, mem, mem_zero_copy, null};
use ublk::uapi::{FEATURES, Features};
use ublk::{
    BufferMode, Control, DataPath, Device, DeviceSpec, Error, Preemption, QueueOptions, SharedMemory, Target, Threads,
    ZeroCopyFallback, spawn_target,
};

const SIZE: u64 = 16 * MIB;
const DEPTH: u16 = 8;

/// A request's bytes at an address that O_DIRECT takes.
#[repr(align(4096))]
struct Buffer([u8; 256 << 10]);

fn kernel_has(flags: Features) -> bool {
    Control::open().unwrap().features().unwrap().contains(flags)
}

fn needs(mode: BufferMode) -> Features {
    match mode {
        BufferMode::Copy => Features::empty(),
        BufferMode::GetData => Features::NEED_GET_DATA,
        BufferMode::UserCopy => Features::USER_COPY,
        // Its bit is older than the feature: before 6.15 it is never granted.
        BufferMode::ZeroCopy => Features::SUPPORT_ZERO_COPY,
        BufferMode::AutoZeroCopy => Features::AUTO_BUF_REG,
        BufferMode::SharedMemory => Features::SHMEM_ZC,
    }
}

/// A target for the mode: memory, and a file that is taken away with the test's directory.
fn targets(mode: BufferMode, name: &str) -> Vec<Arc<dyn Target>> {
    let path = std::env::temp_dir().join(format!("ublk-paths-{name}-{}.img", mode.name()));
    let options = FileOptions { size_bytes: Some(SIZE), create: true, ..FileOptions::default() };
    let image = file(&path, &options).unwrap();
    std::fs::remove_file(&path).unwrap();
    let memory = match mode {
        BufferMode::ZeroCopy | BufferMode::AutoZeroCopy => mem_zero_copy(SIZE),
        _ => mem(SIZE),
    };
    vec![memory.unwrap(), image]
}

/// What the sectors from `offset` on hold in a round: no two places and no two rounds look alike.
fn fill(sectors: &mut [u8], offset: u64, round: u8) {
    for (index, sector) in (0..).zip(sectors.chunks_exact_mut(512)) {
        let number = offset / 512 + index;
        sector.fill((number * 31) as u8 ^ round.wrapping_mul(0x5b));
        sector[..8].copy_from_slice(&(number << 8 | u64::from(round)).to_le_bytes());
    }
}

/// Requests of all sizes in one quarter of the device, by place.
fn requests(quarter: u64) -> impl Iterator<Item = (u64, usize)> {
    let sizes = [512, 4096, 65536 + 512, 256 << 10];
    let (start, room) = (quarter * SIZE / 4, SIZE / 4 - (256 << 10));
    (0..24).scan(0, move |at, index| {
        let length = sizes[index % sizes.len()];
        let offset = start + *at % room / 512 * 512;
        *at += length as u64;
        Some((offset, length))
    })
}

/// Writes and reads from four threads, each on its own quarter, twice.
fn check(live: &Live, what: &str) {
    std::thread::scope(|scope| {
        for quarter in 0..4 {
            let device = live.open();
            scope.spawn(move || {
                let mut data = Box::new(Buffer([0; 256 << 10]));
                let mut expected = vec![0; 256 << 10];
                for round in 0..2 {
                    for (offset, length) in requests(quarter) {
                        fill(&mut data.0[..length], offset, round);
                        device.write_all_at(&data.0[..length], offset).unwrap();
                    }
                    for (offset, length) in requests(quarter) {
                        data.0.fill(0xee);
                        device.read_exact_at(&mut data.0[..length], offset).unwrap();
                        fill(&mut expected[..length], offset, round);
                        assert!(data.0[..length] == expected[..length], "{what}: a read of {length} at {offset}");
                    }
                }
            });
        }
    });
    assert!(live.events.lock().unwrap().is_empty(), "{what}: {:?}", live.events.lock().unwrap());
}

fn check_path(name: &str, mode: BufferMode, spec: impl Fn(DeviceSpec) -> DeviceSpec) {
    for target in targets(mode, name) {
        let what = format!("{name}, {} over {}", mode.name(), target.kind());
        let wanted = DeviceSpec { depth: DEPTH, data_path: DataPath::Only(mode), ..spec_for(target.as_ref()) };
        let live = Live::with(target, spec(wanted));
        assert_eq!(live.device.buffers(), mode, "{what}");
        check(&live, &what);
    }
}

/// Those that need nothing beside the device.
fn modes_here() -> Vec<BufferMode> {
    let has_zero_copy = kernel_has(Features::AUTO_BUF_REG);
    let is_here = |mode: &BufferMode| {
        *mode != BufferMode::SharedMemory
            && kernel_has(needs(*mode))
            && (*mode != BufferMode::ZeroCopy || has_zero_copy)
    };
    BufferMode::ALL.into_iter().filter(is_here).collect()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn every_buffer_mode_of_this_kernel_moves_the_data() {
    assert!(modes_here().len() >= 3, "{:?}", modes_here());
    for mode in modes_here() {
        check_path("a queue", mode, |spec| spec);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn one_thread_serves_two_queues() {
    for mode in modes_here() {
        let threads = Threads { count: Some(1), per_io: false };
        check_path("one thread", mode, |spec| DeviceSpec { queues: 2, threads, ..spec });
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn threads_share_the_tags_of_all_queues() {
    if !kernel_has(Features::PER_IO_DAEMON) {
        return refused(|spec| DeviceSpec { threads: Threads { count: Some(3), per_io: true }, ..spec }, "6.16");
    }
    for mode in modes_here() {
        let threads = Threads { count: Some(3), per_io: true };
        check_path("per io", mode, |spec| DeviceSpec { queues: 2, threads, ..spec });
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn files_need_not_be_registered() {
    for mode in modes_here() {
        let queue_options = QueueOptions { plain_files: true, ..QueueOptions::default() };
        check_path("plain files", mode, |spec| DeviceSpec { queue_options, ..spec });
    }
}

/// It would acknowledge writes whose data it never had.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_target_that_needs_its_data_in_memory_is_not_served_with_zero_copy() {
    if !kernel_has(Features::AUTO_BUF_REG) {
        return;
    }
    for mode in [BufferMode::ZeroCopy, BufferMode::AutoZeroCopy] {
        let memory = mem(SIZE).unwrap();
        let spec = DeviceSpec { data_path: DataPath::Only(mode), ..spec_for(memory.as_ref()) };
        let mut device = Device::add(&Control::open().unwrap(), spec).unwrap();
        for target in [Arc::clone(&memory), fault(memory, Faults::default())] {
            let kind = target.kind();
            let error = spawn_target(&mut device, target, Arc::new(|_| {})).err().unwrap();
            let rule = format!("moves its data by {}, and {kind} needs it in the memory of its server", mode.name());
            assert!(error.to_string().contains(&rule), "{error}");
        }
        let served = spawn_target(&mut device, mem_zero_copy(SIZE).unwrap(), Arc::new(|_| {})).unwrap();
        device.start().unwrap();
        device.stop().unwrap();
        served.join();
        device.close_char();
        device.delete().unwrap();
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_may_leave_the_cpu_to_others() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert!(cpus > 1, "else each queue has one CPU, whatever is asked for");
    let [memory, image] = targets(BufferMode::Copy, "preemption").try_into().ok().unwrap();
    let queues = |queues: usize| DeviceSpec { depth: DEPTH, queues: queues as u16, ..spec_for(memory.as_ref()) };
    let one_thread = Threads { count: Some(1), per_io: false };
    let same_cpu = Some(vec![0]);
    let (auto, always, never) = (Preemption::Auto, Preemption::Always, Preemption::Never);
    for (what, target, preemption, yielding, spec) in [
        ("beside their senders", &memory, auto, cpus, queues(cpus)),
        ("whose requests come from several CPUs", &memory, auto, 0, queues(1)),
        ("of several queues", &memory, auto, 0, DeviceSpec { threads: one_thread, ..queues(cpus) }),
        ("on a CPU that sends to one of them", &memory, auto, 1, DeviceSpec { cpus: same_cpu, ..queues(cpus) }),
        ("that wait for a file", &image, auto, 0, queues(cpus)),
        ("that are told to preempt", &memory, always, 0, queues(cpus)),
        ("that are told not to", &image, never, 1, queues(1)),
    ] {
        let queue_options = QueueOptions { preemption, ..QueueOptions::default() };
        let live = Live::with(Arc::clone(target), DeviceSpec { queue_options, ..spec });
        let found = policies(&format!("ublk{}q", live.device.id()));
        assert!(
            found.iter().all(|policy| [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(policy)),
            "{what}: {found:?}"
        );
        let batch = found.iter().filter(|&&policy| policy == libc::SCHED_BATCH).count();
        assert_eq!(batch, yielding, "threads {what}: {found:?}");
        check(&live, what);
    }
}

/// Scheduling policies of this process's threads whose names begin so.
fn policies(name: &str) -> Vec<i32> {
    const POLICY: usize = 41 - 3; // field 41 in proc_pid_stat(5), counted from the state behind the name
    let stats = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("stat"));
    let stats = stats.filter_map(|path| std::fs::read_to_string(path).ok());
    let named = stats.filter(|stat| stat.contains(&format!("({name}")));
    named
        .map(|stat| stat.rsplit(')').next().unwrap().split_whitespace().nth(POLICY).unwrap().parse().unwrap())
        .collect()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn requests_come_and_go_in_batches() {
    let batch = QueueOptions { batch: true, ..QueueOptions::default() };
    if !kernel_has(Features::BATCH_IO) {
        return refused(|spec| DeviceSpec { queue_options: batch, ..spec }, "7.0");
    }
    for mode in modes_here().into_iter().filter(|&mode| mode != BufferMode::GetData) {
        check_path("batch", mode, |spec| DeviceSpec { queue_options: batch, ..spec });
    }
    let threads = Threads { count: Some(1), per_io: false };
    check_path("batch of two queues", BufferMode::Copy, |spec| DeviceSpec {
        queues: 2,
        threads,
        queue_options: batch,
        ..spec
    });
    let fallback = QueueOptions { fallback: ZeroCopyFallback::Always, ..batch };
    check_path("batch with fallback", BufferMode::AutoZeroCopy, |spec| DeviceSpec { queue_options: fallback, ..spec });
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_answer_in_a_batch_takes_no_turn_of_its_own() {
    const READS: u64 = 1000;
    if !kernel_has(Features::BATCH_IO) {
        return;
    }
    let target = mem(SIZE).unwrap();
    let queue_options = QueueOptions { batch: true, ..QueueOptions::default() };
    let live = Live::with(Arc::clone(&target), DeviceSpec { queue_options, ..spec_for(target.as_ref()) });
    let turns = || live.served.as_ref().unwrap().stats().enters;
    let disk = live.open();
    let mut buffer = Box::new(Buffer([0; 256 << 10]));
    disk.read_exact_at(&mut buffer.0[..4096], 0).unwrap();
    let before = turns();
    for _ in 0..READS {
        disk.read_exact_at(&mut buffer.0[..4096], 0).unwrap();
    }
    // One for each read, and some for udev's.
    let taken = turns() - before;
    assert!(taken < READS * 3 / 2, "{taken} turns for {READS} reads");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn pages_that_the_driver_cannot_register_are_registered_by_the_server() {
    if !kernel_has(Features::AUTO_BUF_REG) {
        return;
    }
    for fallback in [ZeroCopyFallback::Off, ZeroCopyFallback::Always] {
        let queue_options = QueueOptions { fallback, ..QueueOptions::default() };
        check_path("fallback", BufferMode::AutoZeroCopy, |spec| DeviceSpec { queue_options, ..spec });
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn partitions_are_not_looked_for_when_told_so() {
    let unscanned = |spec| DeviceSpec { partition_scan: false, ..spec };
    if !kernel_has(Features::NO_AUTO_PART_SCAN) {
        return refused(unscanned, "7.0");
    }
    for (scans, expected) in [(true, 1), (false, 0)] {
        let target = mem(SIZE).unwrap();
        let live = Live::with(Arc::clone(&target), DeviceSpec { partition_scan: scans, ..spec_for(target.as_ref()) });
        let table = "label: dos\nstart=2048, size=4096\n";
        common::run_with_input(&["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", &live.path()], table);
        // The same store under a new device: what it shows is what its start found.
        drop(live);
        let live = Live::with(Arc::clone(&target), DeviceSpec { partition_scan: scans, ..spec_for(target.as_ref()) });
        let partition = format!("/sys/block/ublkb{0}/ublkb{0}p1", live.device.id());
        let found = common::eventually(|| std::path::Path::new(&partition).exists() == (expected == 1));
        assert!(found, "scan {scans}: {partition}");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_mode_that_the_kernel_lacks_is_refused_by_name() {
    let is_missing = |mode: &BufferMode| !modes_here().contains(mode) && !kernel_has(needs(*mode));
    for mode in BufferMode::ALL.into_iter().filter(is_missing) {
        let since = FEATURES.iter().find(|feature| feature.flag == needs(mode)).unwrap().since_text;
        refused(|spec| DeviceSpec { data_path: DataPath::Only(mode), ..spec }, since);
    }
}

/// And not what lies beside it, however much the tag's buffer had to be cleared of.
#[test]
#[ignore = "needs a ublk kernel"]
fn null_clears_what_is_read_in_shared_memory() {
    if !kernel_has(Features::SHMEM_ZC) {
        return;
    }
    let (path, users) = huge_pages("null", 1);
    let target = null(SIZE);
    let spec = DeviceSpec {
        data_path: DataPath::Only(BufferMode::SharedMemory),
        shared_memory: vec![Arc::new(SharedMemory::open(&path, false).unwrap())],
        depth: 1,
        ..spec_for(target.as_ref())
    };
    let live = Live::with(target, spec);
    let disk = live.open();
    let mut elsewhere = Box::new(Buffer([0x11; 256 << 10]));
    disk.write_all_at(&elsewhere.0, 0).unwrap();
    part(&users, 0, HUGE).fill(0x22);
    disk.write_all_at(part(&users, 0, 64 << 10), 0).unwrap();
    disk.read_exact_at(part(&users, 4096, 4096), 0).unwrap();
    assert!(part(&users, 4096, 4096).iter().all(|&byte| byte == 0), "what was read");
    assert!(part(&users, 0, 4096).iter().all(|&byte| byte == 0x22), "what lies before it");
    assert!(part(&users, 8192, HUGE - 8192).iter().all(|&byte| byte == 0x22), "what lies behind it");
    disk.read_exact_at(&mut elsewhere.0, 0).unwrap();
    assert!(elsewhere.0.iter().all(|&byte| byte == 0), "what was written before, in the buffer of the tag");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn data_in_shared_memory_stays_there() {
    if !kernel_has(Features::SHMEM_ZC) {
        return;
    }
    for read_only in [false, true] {
        for target in targets(BufferMode::SharedMemory, "shared") {
            let what = format!("{} with read-only {read_only}", target.kind());
            let (path, users) = huge_pages("shared", 1);
            let (counting, seen) = watched(target);
            let spec = DeviceSpec {
                data_path: DataPath::Only(BufferMode::SharedMemory),
                shared_memory: vec![Arc::new(SharedMemory::open(&path, read_only).unwrap())],
                ..spec_for(counting.as_ref())
            };
            let live = Live::with(counting, spec);
            let device = live.open();
            seen.take_shared();
            for (place, length, offset) in [(0, 4096, MIB), (8192, 65536, 2 * MIB), (1 << 20, 256 << 10, 3 * MIB)] {
                fill(part(&users, place, length), offset, 1);
                device.write_all_at(part(&users, place, length), offset).unwrap();
            }
            assert_eq!(seen.take_shared(), 3, "{what}: writes out of shared memory");
            let mut expected = vec![0; 256 << 10];
            for (place, length, offset) in
                [(4096, 4096, MIB), (512 << 10, 65536, 2 * MIB), (1 << 20, 256 << 10, 3 * MIB)]
            {
                part(&users, place, length).fill(0xee);
                device.read_exact_at(part(&users, place, length), offset).unwrap();
                fill(&mut expected[..length], offset, 1);
                assert!(*part(&users, place, length) == expected[..length], "{what}: a read of {length} at {offset}");
            }
            let reads = if read_only { 0 } else { 3 };
            assert_eq!(seen.take_shared(), reads, "{what}: reads into shared memory");
            check(&live, &what); // from the user's own memory
            assert_eq!(seen.take_shared(), 0, "{what}: the user's own memory");
        }
    }
}

/// The wish is refused with the kernel that has it, and nothing is left.
fn refused(wish: impl Fn(DeviceSpec) -> DeviceSpec, release: &str) {
    let control = Control::open().unwrap();
    let spec = wish(spec_for(null(MIB).as_ref()));
    match Device::add(&control, spec).map(|device| device.id()) {
        Err(Error::Unsupported { since, .. }) => assert_eq!(since, release),
        other => panic!("expected to be refused, got {other:?}"),
    }
    assert!(ublk::list(&control).unwrap().is_empty());
}
