//! Native targets behind real block devices. Needs a kernel with ublk and root: `make test-vm` runs these.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Live, MIB, of_the_dead, page, spec_for};
use ublk::serve::ServeEvent;
use ublk::target::{
    Faults, FileOptions, Geometry, Io, Op, Progress, QueueTarget, Request, StripeOptions, fault, file, mem,
    mem_zero_copy, null, stripe,
};
use ublk::{BufferMode, CharDevice, Control, Deletion, Device, DeviceSpec, Error, Target, list};

#[test]
#[ignore = "needs a ublk kernel"]
fn memory_keeps_what_was_written_over_stop_and_start() {
    let mut live = Live::new(mem(64 * MIB).unwrap());
    live.write(0, 1);
    live.write(63 * MIB, 2);
    live.stop();
    live.start();
    assert!(live.read(0).0 == [1; 4096]);
    assert!(live.read(63 * MIB).0 == [2; 4096]);
    assert!(live.read(4096).0 == [0; 4096], "never written");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn every_queue_of_a_device_serves_its_own_descriptors() {
    let target = mem(64 * MIB).unwrap();
    let spec = DeviceSpec { queues: 2, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    // Writers pinned to different CPUs use different queues.
    std::thread::scope(|scope| {
        for cpu in 0..2_u64 {
            let live = &live;
            scope.spawn(move || {
                let _ = ublk_executor::placement::pin_current_thread(&[cpu as usize]);
                let file = live.open();
                for block in (cpu..512).step_by(2) {
                    file.write_all_at(&page(block as u8).0, block * 4096).unwrap();
                }
            });
        }
    });
    for block in 0..512_u64 {
        assert!(live.read(block * 4096).0 == [block as u8; 4096], "block {block}");
    }
}

/// The kernel tells once that earlier writes did not reach the disk, and a durable write hears it as well as a flush.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_flush_fails_after_a_write_that_is_lost_also_when_a_durable_write_heard_of_it_first() {
    let faults =
        Faults { error_rate: 1.0, error_ops: vec![Op::Write], error_range: Some((0, 4096)), ..Faults::default() };
    let disk = Live::new(fault(mem(16 * MIB).unwrap(), faults));
    let second = Live::new(mem(16 * MIB).unwrap());
    let paths = [PathBuf::from(disk.path()), PathBuf::from(second.path())];
    let striped = StripeOptions { chunk_bytes: 1 << 20, files: FileOptions::default() };
    for kind in ["file", "stripe"] {
        let open = || if kind == "file" { file(&paths[0], &FileOptions::default()) } else { stripe(&paths, &striped) };
        let live = Live::new(of_the_dead(open));
        live.write(0, 1); // in the page cache of the disk
        File::open(disk.path()).unwrap().sync_data().unwrap_err(); // and lost
        let durable =
            File::options().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(live.path()).unwrap();
        durable.write_all_at(&page(2).0, 8192).unwrap_err();
        durable.sync_data().expect_err(kind);
        durable.sync_data().unwrap();
        durable.write_all_at(&page(2).0, 8192).unwrap();
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn null_reads_zeroes_also_after_writes() {
    let live = Live::new(null(64 * MIB));
    for round in 0..200 {
        live.write(round * 4096, 0xab);
        assert!(live.read(round * 4096).0 == [0; 4096]);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_file_holds_the_bytes_and_loses_discarded_ones() {
    for direct in [false, true] {
        let path = std::env::temp_dir().join(format!("ublk-device-test-{direct}.img"));
        let options = FileOptions { size_bytes: Some(16 * MIB), direct, create: true, ..FileOptions::default() };
        let live = Live::new(file(&path, &options).unwrap());
        live.write(MIB, 0x5a);
        live.open().sync_all().unwrap();
        let mut stored = page(0);
        std::fs::File::open(&path).unwrap().read_exact_at(&mut stored.0, MIB).unwrap();
        assert!(stored.0 == [0x5a; 4096], "direct {direct}");
        blkdiscard(&live, MIB, MIB);
        assert!(live.read(MIB).0 == [0; 4096], "direct {direct}");
        drop(live);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 * MIB);
        std::fs::remove_file(&path).unwrap();
    }
}

fn blkdiscard(live: &Live, offset: u64, length: u64) {
    let status = std::process::Command::new("blkdiscard")
        .args(["-o", &offset.to_string(), "-l", &length.to_string(), &live.path()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "needs a ublk kernel"]
fn zero_copy_is_taken_where_the_kernel_grants_it_and_copy_elsewhere() {
    let live = Live::new(mem_zero_copy(16 * MIB).unwrap());
    let has_zero_copy = live.device.features().contains(ublk::uapi::Features::AUTO_BUF_REG);
    let expected = if has_zero_copy { BufferMode::AutoZeroCopy } else { BufferMode::Copy };
    assert_eq!(live.device.buffers(), expected);
    live.write(8192, 7);
    assert!(live.read(8192).0 == [7; 4096]);
    assert!(live.read(0).0 == [0; 4096]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_second_device_of_the_same_id_is_refused() {
    let live = Live::new(null(MIB));
    let spec = DeviceSpec { id: Some(live.device.id()), ..spec_for(live.target.as_ref()) };
    let answer = Device::add(&Control::open().unwrap(), spec);
    assert!(matches!(answer, Err(Error::IdInUse { id }) if id == live.device.id()));
}

#[test]
#[ignore = "needs a ublk kernel"]
fn list_and_info_show_the_device_as_it_is() {
    let target = mem(64 * MIB).unwrap();
    let spec = DeviceSpec { depth: 7, logical_block_bytes: 4096, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    let control = Control::open().unwrap();
    let info = control.info(live.device.id()).unwrap();
    assert_eq!((info.size_bytes, info.logical_block_bytes, info.depth, info.queues), (64 * MIB, 4096, 7, 1));
    assert_eq!((info.pid, info.state.to_string()), (std::process::id(), "live".to_string()));
    assert!(list(&control).unwrap().iter().any(|entry| entry.id == info.id));
    assert!(matches!(control.info(4000), Err(Error::NoDevice { id: 4000 })));
    assert!(!control.queue_affinity(info.id, 0).unwrap().is_empty());
    let by_number = control.dev_info_plain(info.id).unwrap();
    assert_eq!(by_number, control.dev_info_by_path(info.id).unwrap());
    assert_eq!(by_number.queue_depth, 7);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn every_depth_starts_and_serves() {
    for depth in [1, 2, 3, 31, 255, 1024, 4096] {
        let target = null(MIB);
        let live = Live::with(Arc::clone(&target), DeviceSpec { depth, ..spec_for(target.as_ref()) });
        assert!(live.read(0).0 == [0; 4096], "depth {depth}");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn large_requests_arrive_whole() {
    let target = mem(128 * MIB).unwrap();
    let spec = DeviceSpec { max_io_bytes: 32 << 20, depth: 4, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    let pages: Vec<common::Page> = (0..8192_u32).map(|index| common::Page([(index % 251) as u8; 4096])).collect();
    let file = live.open();
    for (index, page) in pages.iter().enumerate() {
        file.write_all_at(&page.0, index as u64 * 4096).unwrap();
    }
    let status = std::process::Command::new("dd")
        .args([
            &format!("if={}", live.path()),
            "of=/tmp/ublk-large",
            "bs=32M",
            "count=1",
            "iflag=direct",
            "status=none",
        ])
        .status()
        .unwrap();
    assert!(status.success());
    let copied = std::fs::read("/tmp/ublk-large").unwrap();
    assert!(copied.chunks(4096).enumerate().all(|(index, chunk)| chunk == [(index % 251) as u8; 4096]));
    std::fs::remove_file("/tmp/ublk-large").unwrap();
}

/// Answers reads until block 8 is read, then panics.
struct Faulty;
struct FaultyQueue;

impl Target for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }
    fn geometry(&self) -> Geometry {
        null(MIB).geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        Vec::new()
    }
    fn queue(&self, _device: &Arc<CharDevice>, _tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        Ok(Box::new(FaultyQueue))
    }
}

impl QueueTarget for FaultyQueue {
    fn start(&mut self, _tag: u16, request: &Request, _io: &mut Io<'_>) -> Progress {
        assert!(request.op != Op::Read || request.start_sector != 64, "block 8 is cursed");
        Progress::Done(request.len_bytes as i32)
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_panicking_target_answers_eio_and_the_device_can_be_stopped() {
    let live = Live::new(Arc::new(Faulty));
    let file = live.open();
    let mut data = page(0);
    file.read_exact_at(&mut data.0, 0).unwrap();
    for offset in [8 * 4096, 0] {
        let error = file.read_exact_at(&mut data.0, offset).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "offset {offset}");
    }
    let events = live.events.lock().unwrap();
    assert!(matches!(&events[..], [ServeEvent::QueueFailed(failure)] if failure.reason.contains("block 8 is cursed")));
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_stopped_by_somebody_else_ends_its_queues() {
    let mut live = Live::new(mem(MIB).unwrap());
    Control::open().unwrap().stop(live.device.id()).unwrap();
    live.served.take().unwrap().join();
    assert!(matches!(live.events.lock().unwrap()[..], [ServeEvent::Ended]));
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_start_whose_queues_never_fetch_times_out_and_can_be_deleted() {
    let target = null(MIB);
    let start_limit = Duration::from_millis(300);
    let spec = DeviceSpec { start_limit, ..spec_for(target.as_ref()) };
    let mut device = Device::add(&Control::open().unwrap(), spec).unwrap();
    let char_device = device.open().unwrap();
    let error = device.start().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("START_DEV gave no answer within 300 ms"), "{error}");
    drop(char_device);
    device.stop().unwrap();
    device.close_char();
    device.delete().unwrap();
}

/// Does not answer at one place, which nobody reads unasked, until it is let go.
struct Silent(Arc<AtomicBool>);

impl Target for Silent {
    fn kind(&self) -> &'static str {
        "silent"
    }
    fn geometry(&self) -> Geometry {
        null(64 * MIB).geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        Vec::new()
    }
    fn queue(&self, _device: &Arc<CharDevice>, _tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        Ok(Box::new(Silent(Arc::clone(&self.0))))
    }
}

impl QueueTarget for Silent {
    fn start(&mut self, _tag: u16, request: &Request, _io: &mut Io<'_>) -> Progress {
        while request.offset_bytes() == SILENT_PLACE && !self.0.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Progress::Done(request.len_bytes as i32)
    }
}

const SILENT_PLACE: u64 = 32 * MIB;

#[test]
#[ignore = "needs a ublk kernel"]
fn a_stop_that_waits_for_a_silent_server_names_its_process() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let live = Live::new(Arc::new(Silent(Arc::clone(&may_answer))));
    let file = live.open();
    let reader = std::thread::spawn(move || file.read_exact_at(&mut page(0).0, SILENT_PLACE));
    std::thread::sleep(Duration::from_millis(200));
    let control = Control::open().unwrap();
    let error = control.stop_within(live.device.id(), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::ServerSilent { pid, .. } if pid == std::process::id()), "{error}");
    assert_eq!(error.code(), "ERR_UBLK_TIMEOUT");
    assert!(error.hint().contains("do not kill -9 this process"), "{}", error.hint());
    may_answer.store(true, Ordering::Release);
    let _ = reader.join().unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_that_is_held_open_is_deleted_when_it_is_released() {
    let target = null(MIB);
    let mut live = std::mem::ManuallyDrop::new(Live::new(target));
    let holder = live.open();
    live.stop();
    let id = live.device.id();
    assert_eq!(live.device.delete().unwrap(), Deletion::WhenReleased);
    drop(holder);
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::path::Path::new(&ublk::control::char_path(id)).exists() {
        assert!(Instant::now() < deadline, "still there 5 s after its release");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn statistics_count_requests_bytes_and_latency() {
    let live = Live::new(mem(MIB).unwrap());
    for _ in 0..50 {
        live.write(4096, 3);
    }
    let stats = live.served.as_ref().unwrap().stats();
    let writes = stats.ops[1];
    assert_eq!((writes.op, writes.requests, writes.bytes, writes.errors), (Op::Write, 50, 50 * 4096, 0));
    assert!(writes.p50_ns > 0.0 && writes.p50_ns <= writes.p99_ns && writes.p99_ns <= writes.max_ns);
    assert_eq!(stats.in_flight, 0);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_idle_control_plane_has_no_thread_and_answers_all_the_same() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().filter(is_control_thread).count();
    let is_idle = || {
        let until = Instant::now() + Duration::from_secs(10);
        while threads() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        threads() == 0
    };
    let control = Control::open().unwrap();
    for _ in 0..2 {
        assert!(is_idle(), "a thread stays");
        assert!(!control.features().unwrap().is_empty());
        assert!(threads() > 0);
    }
    // Commands that meet the thread's end: each is answered.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(990));
        for _ in 0..40 {
            control.features().unwrap();
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Its io-wq worker has a name of its own.
fn is_control_thread(task: &std::io::Result<std::fs::DirEntry>) -> bool {
    let comm = task.as_ref().ok().and_then(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    comm.is_some_and(|comm| comm.trim() == "ublk-control")
}
