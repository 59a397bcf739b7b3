//! Zoned devices on a real kernel: the rules of zones through the block layer, file systems that need them, and crashes.

mod common;
#[path = "common/zone_model.rs"]
mod zone_model;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Live, MIB, eventually, of_the_dead, page, serve_elsewhere, spec_for};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use ublk::target::{Geometry, Io, Op, Progress, QueueTarget, Request, ZonedGeometry, ZonedOptions, zoned};
use ublk::uapi::{Features, Zone, ZoneCond};
use ublk::{BufferMode, CharDevice, Control, DataPath, Device, DeviceSpec, Error, QueueOptions, Recovery, Target};
use zerocopy::{FromZeros, IntoBytes};
use zone_model::{Model, ModelDisk, Step};

const KIB: u64 = 1 << 10;

/// `linux/blkzoned.h`.
const BLKREPORTZONE: libc::Ioctl = 0xc010_1282_u32 as libc::Ioctl;
const BLKRESETZONE: libc::Ioctl = 0x4010_1283;
const BLKOPENZONE: libc::Ioctl = 0x4010_1286;
const BLKCLOSEZONE: libc::Ioctl = 0x4010_1287;
const BLKFINISHZONE: libc::Ioctl = 0x4010_1288;

fn small() -> ZonedOptions {
    ZonedOptions { size_bytes: 16 * MIB, zone_bytes: MIB, conventional_zones: 2, ..ZonedOptions::default() }
}

fn live(options: &ZonedOptions) -> Live {
    Live::new(of_the_dead(|| zoned(options)))
}

/// The zones of a device, asked of the device itself.
#[allow(unsafe_code)]
fn report(device: &File, from_sector: u64, most: u32) -> Vec<Zone> {
    let mut words = vec![0_u64; 2 + most as usize * size_of::<Zone>() / 8];
    words[0] = from_sector;
    words[1] = u64::from(most);
    // SAFETY: the kernel fills at most the zones that the second word asks for, and there is room for them.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), BLKREPORTZONE, words.as_mut_ptr()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    let count = (words[1] & 0xffff_ffff) as usize;
    let mut zones = vec![Zone::new_zeroed(); count];
    zones.as_mut_bytes().copy_from_slice(&words.as_bytes()[16..16 + count * size_of::<Zone>()]);
    zones
}

#[allow(unsafe_code)]
fn manage(device: &File, request: libc::Ioctl, sector: u64, sectors: u64) -> Result<(), i32> {
    let range = [sector, sectors];
    // SAFETY: the kernel reads the two numbers.
    match unsafe { libc::ioctl(device.as_raw_fd(), request, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn conditions(device: &File) -> Vec<ZoneCond> {
    report(device, 0, 64).iter().map(|zone| zone.cond().unwrap()).collect()
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}\n{text}");
    text
}

#[test]
#[ignore = "needs a ublk kernel"]
fn the_zones_are_reported_as_asked_for() {
    let options =
        ZonedOptions { zone_capacity_bytes: Some(768 * KIB), max_open_zones: 3, max_active_zones: 5, ..small() };
    let live = live(&options);
    assert_eq!(live.device.buffers(), BufferMode::UserCopy);
    let zones = report(&live.open(), 0, 64);
    let seen: Vec<_> = zones.iter().map(|zone| (zone.start.0, zone.len.0, zone.capacity.0, zone.zone_type)).collect();
    let expected = |index| match index {
        0..2 => (index * 2048, 2048, 2048, 1),
        _ => (index * 2048, 2048, 1536, 2),
    };
    assert_eq!(seen, (0..16).map(expected).collect::<Vec<_>>());
    let queue = format!("/sys/block/ublkb{}/queue", live.device.id());
    let limit = |name: &str| std::fs::read_to_string(format!("{queue}/{name}")).unwrap().trim().to_owned();
    assert_eq!(
        (limit("zoned"), limit("max_open_zones"), limit("max_active_zones")),
        ("host-managed".into(), "3".into(), "5".into())
    );
    assert_eq!((limit("chunk_sectors"), limit("zone_append_max_bytes")), ("2048".into(), (512 * KIB).to_string()));
    assert_eq!(sh(&format!("blkzone report {} | grep -c 'type: 2(SEQ_WRITE_REQUIRED)'", live.path())).trim(), "14");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn as_many_zones_as_a_request_reports_are_reported_right() {
    let options = ZonedOptions {
        size_bytes: 8192 * 64 * KIB,
        zone_bytes: 64 * KIB,
        conventional_zones: 8000,
        ..ZonedOptions::default()
    };
    let live = live(&options);
    let zones = report(&live.open(), 0, 8192);
    assert_eq!(zones.len(), 8192);
    let is_right = |(index, zone): (usize, &Zone)| {
        zone.start.0 == index as u64 * 128 && zone.zone_type == if index < 8000 { 1 } else { 2 }
    };
    assert!(zones.iter().enumerate().all(is_right));

    let target = zoned(&ZonedOptions { size_bytes: 8193 * 64 * KIB, ..options }).unwrap();
    let error = Device::add(&Control::open().unwrap(), spec_for(target.as_ref())).err().unwrap();
    assert!(error.to_string().starts_with("all 8193 zones are reported in one request"), "{error}");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_zone_is_written_at_its_write_pointer_only() {
    let live = live(&ZonedOptions { zone_capacity_bytes: Some(8 * KIB), ..small() });
    let device = live.open();
    let write = |offset| device.write_all_at(&page(7).0, offset).map_err(|error| error.raw_os_error().unwrap());
    let zone = 4 * MIB;
    assert_eq!(write(zone + 4096), Err(libc::EIO), "past the pointer");
    report(&device, 0, 64);
    assert_eq!(write(zone), Ok(()));
    assert_eq!(write(zone), Err(libc::EIO), "before it");
    report(&device, 0, 64);
    assert_eq!(write(zone + 4096), Ok(()));
    assert_eq!(write(zone + 8192), Err(libc::EIO), "past the capacity");
    assert_eq!(report(&device, zone / 512, 1)[0].cond(), Ok(ZoneCond::Full));
    assert!(live.read(zone + 4096).0 == [7; 4096] && live.read(zone + 8192).0 == [0; 4096]);
    for offset in [MIB, 0, MIB + 8192, MIB] {
        assert_eq!(write(offset), Ok(()), "a conventional zone");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn blkzone_opens_closes_finishes_and_resets() {
    let scratch = Scratch::new("blkzone");
    for options in [small(), scratch.image(small())] {
        opens_closes_finishes_and_resets(live(&options));
    }
    // Of conventional zones and zones in use alone is there anything in the file.
    let image = std::fs::metadata(scratch.0.join("disk")).unwrap();
    assert!(image.blocks() * 512 < MIB, "{} blocks are left after a reset", image.blocks());
}

fn opens_closes_finishes_and_resets(live: Live) {
    let device = live.open();
    let zone = |number: u64, verb: &str| sh(&format!("blkzone {verb} -o {} -c 1 {}", number * 2048, live.path()));
    for number in 3..7 {
        live.write(number * MIB, number as u8);
    }
    zone(4, "close");
    zone(5, "finish");
    zone(6, "reset");
    zone(7, "open");
    use ZoneCond::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen};
    assert_eq!(conditions(&device)[2..8], [Empty, ImplicitOpen, Closed, Full, Empty, ExplicitOpen]);
    assert!(live.read(6 * MIB).0 == [0; 4096], "what was reset is gone");
    assert!(live.read(5 * MIB).0 == [5; 4096]);
    sh(&format!("blkzone reset {} -o 4096", live.path()));
    assert!(conditions(&device)[2..].iter().all(|&condition| condition == Empty));
    assert!(live.read(3 * MIB).0 == [0; 4096]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn all_zones_of_a_disk_without_conventional_ones_are_reset_at_once() {
    let resets = Arc::new(AtomicU64::new(0));
    let target = zoned(&ZonedOptions { conventional_zones: 0, ..small() }).unwrap();
    let live = Live::new(Arc::new(Counting { target, op: Op::ZoneResetAll, count: Arc::clone(&resets) }));
    for zone in 0..16 {
        live.write(zone * MIB, 9);
    }
    sh(&format!("blkzone reset {}", live.path()));
    assert!(conditions(&live.open()).iter().all(|&condition| condition == ZoneCond::Empty));
    assert_eq!(resets.load(Ordering::Relaxed), 1);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn limits_on_zones_are_kept_and_told() {
    let live = live(&ZonedOptions { max_open_zones: 2, max_active_zones: 3, ..small() });
    let device = live.open();
    let open = |zone: u64| manage(&device, BLKOPENZONE, zone * 2048, 2048);
    assert_eq!((open(2), open(3)), (Ok(()), Ok(())));
    assert_eq!(open(4), Err(libc::ETOOMANYREFS));
    let write = |zone: u64| device.write_all_at(&page(1).0, zone * MIB).map_err(|error| error.raw_os_error().unwrap());
    assert_eq!(write(4), Err(libc::ETOOMANYREFS));
    report(&device, 0, 64);
    manage(&device, BLKCLOSEZONE, 3 * 2048, 2048).unwrap();
    assert_eq!((write(4), write(5)), (Ok(()), Ok(())), "the one that opened by itself is closed");
    assert_eq!(write(6), Err(libc::EOVERFLOW));
    use ZoneCond::{Closed, Empty, ExplicitOpen, ImplicitOpen};
    assert_eq!(conditions(&device)[2..7], [ExplicitOpen, Empty, Closed, ImplicitOpen, Empty]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_zoned_device_has_one_queue_and_user_copy() {
    let target = zoned(&small()).unwrap();
    let control = Control::open().unwrap();
    let refusal = |spec| match Device::add(&control, spec) {
        Err(Error::BadOption { rule }) => rule,
        other => panic!("{:?}", other.map(|device| device.id())),
    };
    let spec = spec_for(target.as_ref());
    assert_eq!(refusal(DeviceSpec { queues: 2, ..spec.clone() }), "a zoned device has one queue, not 2");
    let copy = DeviceSpec { data_path: DataPath::Only(BufferMode::Copy), ..spec.clone() };
    assert_eq!(refusal(copy), "a zoned device moves its data by user-copy, not by copy");
    let batch = QueueOptions { batch: true, ..QueueOptions::default() };
    assert_eq!(refusal(DeviceSpec { queue_options: batch, ..spec.clone() }), "a zoned device takes no batches");
    let reissue = DeviceSpec { recovery: Recovery::Reissue, ..spec.clone() };
    assert!(refusal(reissue).starts_with("a zoned device has the recovery requeue or fail-io"));
    // The zones themselves are given out once.
    let mut second = Device::add(&control, spec).unwrap();
    let first = Live::new(Arc::clone(&target));
    let error = ublk::spawn_target(&mut second, target, Arc::new(|_| ())).err().unwrap();
    assert!(matches!(error, Error::InvalidState { .. }), "{error}");
    second.delete().unwrap();
    drop(first);
}

#[test]
fn options_that_cannot_be_are_refused_with_the_rule() {
    let cases: [(ZonedOptions, &str); 8] = [
        (ZonedOptions { zone_bytes: 3 * MIB, ..small() }, "a power of two of bytes, 64 KiB to 1 TiB, not 3145728"),
        (ZonedOptions { zone_bytes: 32 * KIB, ..small() }, "not 32768"),
        (
            ZonedOptions { size_bytes: 16 * MIB + 4096, ..small() },
            "whole zones: 16781312 bytes are no multiple of 1048576",
        ),
        (ZonedOptions { zone_capacity_bytes: Some(2 * MIB), ..small() }, "up to its size 1048576, not 2097152"),
        (ZonedOptions { zone_capacity_bytes: Some(1000), ..small() }, "a multiple of 4096"),
        (ZonedOptions { conventional_zones: 16, ..small() }, "of 16 zones at least one is sequential"),
        (ZonedOptions { max_active_zones: 17, ..small() }, "16 zones have no limit of 17"),
        (
            ZonedOptions { max_open_zones: 4, max_active_zones: 3, ..small() },
            "at most 4 open needs at least so many active",
        ),
    ];
    for (options, rule) in cases {
        let error = zoned(&options).err().unwrap();
        assert!(matches!(&error, Error::BadOption { rule: told } if told.contains(rule)), "{error}");
    }
}

/// Counts the requests of one operation, and passes all on.
struct Counting {
    target: Arc<dyn Target>,
    op: Op,
    count: Arc<AtomicU64>,
}

struct CountingQueue {
    queue: Box<dyn QueueTarget>,
    op: Op,
    count: Arc<AtomicU64>,
}

impl Target for Counting {
    fn kind(&self) -> &'static str {
        self.target.kind()
    }
    fn geometry(&self) -> Geometry {
        self.target.geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        self.target.buffers()
    }
    fn zoned(&self) -> Option<ZonedGeometry> {
        self.target.zoned()
    }
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.target.files()
    }
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let queue = self.target.queue(device, tags)?;
        Ok(Box::new(CountingQueue { queue, op: self.op, count: Arc::clone(&self.count) }))
    }
}

impl QueueTarget for CountingQueue {
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        self.count.fetch_add(u64::from(request.op == self.op), Ordering::Relaxed);
        self.queue.start(tag, request, io)
    }
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        self.queue.resume(tag, request, part, result, io)
    }
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ublk-zoned-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
    fn image(&self, options: ZonedOptions) -> ZonedOptions {
        ZonedOptions { path: Some(self.0.join("disk")), ..options }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn btrfs_lives_on_a_zoned_device_and_appends() {
    let scratch = Scratch::new("btrfs");
    let disk =
        ZonedOptions { size_bytes: 512 * MIB, zone_bytes: 4 * MIB, block_bytes: Some(4096), ..ZonedOptions::default() };
    for options in [disk.clone(), scratch.image(disk)] {
        let appends = Arc::new(AtomicU64::new(0));
        let target = zoned(&options).unwrap();
        let live = Live::new(Arc::new(Counting { target, op: Op::ZoneAppend, count: Arc::clone(&appends) }));
        let mount = scratch.0.join("mount");
        let (device, mount) = (live.path(), mount.display());
        sh(&format!(
            "modprobe btrfs; mkfs.btrfs -q -O zoned -d single -m single {device}; mkdir -p {mount}; mount {device} {mount}
             for i in $(seq 40); do head -c 700000 /dev/urandom >{mount}/$i; done; sync
             (cd {mount} && sha256sum * >/tmp/ublk-zoned-sums); umount {mount}; btrfs check {device} 2>/dev/null
             mount {device} {mount}; (cd {mount} && sha256sum --quiet -c /tmp/ublk-zoned-sums); umount {mount}"
        ));
        assert!(appends.load(Ordering::Relaxed) > 0, "btrfs appended nothing");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn fio_verifies_what_it_wrote_zone_by_zone() {
    let scratch = Scratch::new("fio");
    let disk = ZonedOptions {
        zone_capacity_bytes: Some(768 * KIB),
        max_open_zones: 4,
        max_active_zones: 6,
        block_bytes: Some(4096),
        ..small()
    };
    for options in [disk.clone(), scratch.image(disk)] {
        let live = live(&options);
        sh(&format!(
            "fio --name=zones --filename={} --direct=1 --zonemode=zbd --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k-64k \
             --offset=2m --size=14m --io_size=40m --max_open_zones=4 --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse",
            live.path()
        ));
    }
}

/// Random zone commands through the block layer: the device and the model answer alike, and have the same zones.
fn commands_agree_with_the_model(options: &ZonedOptions, cases: u32) {
    let target = zoned(options).unwrap();
    let zoned = target.zoned().unwrap();
    let disk = ModelDisk {
        zone_sectors: zoned.zone_bytes / 512,
        capacity_sectors: zoned.zone_capacity_bytes / 512,
        zones: (options.size_bytes / zoned.zone_bytes) as u32,
        conventional: options.conventional_zones,
        max_open: options.max_open_zones,
        max_active: options.max_active_zones,
    };
    let live = Live::new(target);
    let device = live.open();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let ran = runner.run(&prop::collection::vec(device_steps(u64::from(disk.zones)), 1..40), |steps| {
        for zone in u64::from(disk.conventional)..u64::from(disk.zones) {
            manage(&device, BLKRESETZONE, zone * disk.zone_sectors, disk.zone_sectors).unwrap();
        }
        let mut model = Model::new(disk);
        for (number, &step) in steps.iter().enumerate() {
            let pointers: Vec<u64> = model.zones.iter().map(|zone| zone.written).collect();
            if ends_in_the_next_zone(&disk, &pointers, step) {
                continue; // the block layer makes two requests of it
            }
            let expected = model.apply(step);
            let answer = apply(&device, &disk, &pointers, step);
            prop_assert_eq!(answer, expected.map(|_| ()), "step {}: {:?}", number, step);
            // Also what makes the block layer forget a write that failed.
            for (zone, index) in report(&device, 0, 64).iter().zip(0_u64..) {
                let expected = &model.zones[index as usize];
                prop_assert_eq!(
                    zone.cond().unwrap(),
                    expected.condition,
                    "zone {} after step {}: {:?}",
                    index,
                    number,
                    step
                );
            }
        }
        Ok(())
    });
    ran.unwrap();
}

fn device_steps(zones: u64) -> impl Strategy<Value = Step> {
    let zone = move || 0..zones;
    let pages = |most: u64| (1..=most).prop_map(|pages| pages * 8);
    prop_oneof![
        1 => (zone(), 0..12_u64, pages(4)).prop_map(|(zone, page, sectors)| Step::Write { zone, offset: page * 8, sectors }),
        8 => (zone(), pages(6)).prop_map(|(zone, sectors)| Step::WriteAtPointer { zone, sectors }),
        3 => zone().prop_map(Step::Open),
        3 => zone().prop_map(Step::Close),
        1 => zone().prop_map(Step::Finish),
        2 => zone().prop_map(Step::Reset),
    ]
}

fn ends_in_the_next_zone(disk: &ModelDisk, pointers: &[u64], step: Step) -> bool {
    match step {
        Step::Write { offset, sectors, .. } => offset + sectors > disk.zone_sectors,
        Step::WriteAtPointer { zone, sectors } => pointers[zone as usize] + sectors > disk.zone_sectors,
        _ => false,
    }
}

fn apply(device: &File, disk: &ModelDisk, pointers: &[u64], step: Step) -> Result<(), i32> {
    let write = |zone: u64, offset: u64, sectors: u64| {
        let data: Vec<common::Page> = vec![common::Page([zone as u8 + 1; 4096]); sectors as usize / 8];
        // SAFETY: pages are plain bytes, one after the other.
        #[allow(unsafe_code)]
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), data.len() * 4096) };
        let place = (zone * disk.zone_sectors + offset) * 512;
        device.write_all_at(bytes, place).map_err(|error| error.raw_os_error().unwrap())
    };
    let zone_at = |zone: u64, request| manage(device, request, zone * disk.zone_sectors, disk.zone_sectors);
    match step {
        Step::Write { zone, offset, sectors } => write(zone, offset, sectors),
        Step::WriteAtPointer { zone, sectors } => write(zone, pointers[zone as usize], sectors),
        Step::Append { .. } => Ok(()),
        Step::Open(zone) => zone_at(zone, BLKOPENZONE),
        Step::Close(zone) => zone_at(zone, BLKCLOSEZONE),
        Step::Finish(zone) => zone_at(zone, BLKFINISHZONE),
        Step::Reset(zone) => zone_at(zone, BLKRESETZONE),
    }
}

fn tight() -> ZonedOptions {
    ZonedOptions {
        size_bytes: 6 * 64 * KIB,
        zone_bytes: 64 * KIB,
        zone_capacity_bytes: Some(48 * KIB),
        conventional_zones: 1,
        max_open_zones: 2,
        max_active_zones: 3,
        ..ZonedOptions::default()
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn random_zone_commands_agree_with_the_model_in_memory() {
    commands_agree_with_the_model(&tight(), 25);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn random_zone_commands_agree_with_the_model_in_a_file() {
    let scratch = Scratch::new("random");
    commands_agree_with_the_model(&scratch.image(tight()), 25);
}

const SERVED_PATH: &str = "UBLK_TEST_ZONED_PATH";
const SERVED_RECOVERY: &str = "UBLK_TEST_ZONED_RECOVERY";

/// The other process of `a_killed_server_leaves_...`.
#[test]
#[ignore = "needs a ublk kernel"]
fn serve_for_another_process() {
    let Some(path) = std::env::var_os(SERVED_PATH) else { return };
    let target = zoned(&ZonedOptions { path: Some(path.into()), ..small() }).unwrap();
    let recovery = match std::env::var(SERVED_RECOVERY).as_deref() {
        Ok("Requeue") => Recovery::Requeue,
        Ok("FailIo") => Recovery::FailIo,
        _ => Recovery::Off,
    };
    let spec = DeviceSpec { recovery, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    println!("serves {}", live.path());
    std::thread::park();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_killed_server_leaves_every_answered_write_and_its_write_pointer() {
    let scratch = Scratch::new("killed");
    let options = scratch.image(small());
    let path = options.path.clone().unwrap();
    for round in 1..=3_u8 {
        let (mut server, block) = serve_zones_elsewhere(&path, Recovery::Off);
        let device = open_direct(&block);
        for index in 0..20_u64 {
            let place = u64::from(2 + round) * MIB + index * 4096;
            device.write_all_at(&page(round).0, place).unwrap();
        }
        manage(&device, BLKFINISHZONE, u64::from(10 + round) * 2048, 2048).unwrap();
        manage(&device, BLKRESETZONE, u64::from(1 + round) * 2048, 2048).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        drop(device);
        delete(&block);

        let live = live(&options);
        let zones = report(&live.open(), 0, 64);
        let written: Vec<u64> = zones.iter().map(|zone| zone.wp.0 - zone.start.0).collect();
        let mut expected = [0; 8];
        expected[usize::from(round)] = 160;
        assert_eq!(written[2..10], expected, "round {round}");
        assert_eq!(zones[10 + usize::from(round)].cond(), Ok(ZoneCond::Full));
        assert!(live.read(u64::from(2 + round) * MIB + 19 * 4096).0 == [round; 4096]);
        assert!(live.read(u64::from(1 + round) * MIB).0 == [0; 4096], "what was reset stays away");
    }
}

/// Writes a zone from its write pointer on until a write fails or it is told to stop; answers how many were written.
fn fill_zone(block: &str, zone: u64, is_over: &Arc<AtomicBool>, written: &Arc<AtomicU64>) -> JoinHandle<u64> {
    let (device, is_over, written) = (open_direct(block), Arc::clone(is_over), Arc::clone(written));
    std::thread::spawn(move || {
        let pages = 0..MIB / 4096;
        let place = |index| zone * MIB + index * 4096;
        let write = |index| device.write_all_at(&page(index as u8).0, place(index)).is_ok();
        for index in pages {
            if is_over.load(Ordering::Acquire) || !write(index) {
                return index;
            }
            written.fetch_add(1, Ordering::AcqRel);
            std::thread::sleep(Duration::from_millis(1)); // the zone is to last longer than its server
        }
        MIB / 4096
    })
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_killed_servers_zones_go_on_under_the_next_one() {
    let control = Control::open().unwrap();
    let has_fail_io = control.features().unwrap().contains(Features::USER_RECOVERY_FAIL_IO);
    let policies = [Recovery::Requeue].into_iter().chain(has_fail_io.then_some(Recovery::FailIo));
    for recovery in policies {
        let scratch = Scratch::new("recovered");
        let options = scratch.image(small());
        let (mut server, block) = serve_zones_elsewhere(options.path.as_ref().unwrap(), recovery);
        let id = block.trim_start_matches("/dev/ublkb").parse().unwrap();
        let (is_over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers: Vec<_> = (4..8).map(|zone| fill_zone(&block, zone, &is_over, &written)).collect();
        assert!(eventually(|| written.load(Ordering::Acquire) > 40));
        server.kill().unwrap();
        server.wait().unwrap();

        let other = zoned(&ZonedOptions { zone_bytes: 2 * MIB, conventional_zones: 1, ..small() }).unwrap();
        let mut device = Device::recover(&control, id).unwrap();
        let refusal =
            |device: &mut Device, target: Option<&dyn Target>| device.take_target(target).unwrap_err().to_string();
        assert!(refusal(&mut device, Some(other.as_ref())).contains("was made with other zones"));
        assert!(refusal(&mut device, None).contains("was made with other zones"));
        let forgotten = zoned(&small()).unwrap();
        assert!(refusal(&mut device, Some(forgotten.as_ref())).contains("has lost its zones"));
        let served = ublk::spawn_target(&mut device, of_the_dead(|| zoned(&options)), Arc::new(|_| ())).unwrap();
        device.start().unwrap();

        is_over.store(true, Ordering::Release);
        let file = open_direct(&block);
        for (writer, zone) in writers.into_iter().zip(4_u64..) {
            let pages = writer.join().unwrap();
            let pointer = report(&file, zone * 2048, 1)[0].wp.0 - zone * 2048;
            // A write that failed may have been done.
            assert!(
                (pages..=pages + 1).contains(&(pointer / 8)),
                "{recovery:?}, zone {zone}: {pages} pages, {pointer}"
            );
            for index in 0..pages {
                let mut data = page(0);
                file.read_exact_at(&mut data.0, zone * MIB + index * 4096).unwrap();
                assert!(data.0 == [index as u8; 4096], "{recovery:?}, zone {zone}: page {index}");
            }
            file.write_all_at(&page(0xee).0, zone * MIB + pointer * 512).unwrap();
        }
        device.stop().unwrap();
        served.join();
        device.close_char();
        drop(file);
        device.delete().unwrap();
    }
}

fn serve_zones_elsewhere(path: &Path, recovery: Recovery) -> (Child, String) {
    let recovery = format!("{recovery:?}");
    serve_elsewhere(&[(SERVED_PATH, path.as_os_str()), (SERVED_RECOVERY, recovery.as_ref())])
}

fn open_direct(block: &str) -> File {
    File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(block).unwrap()
}

fn delete(block: &str) {
    let id = block.trim_start_matches("/dev/ublkb").parse().unwrap();
    Control::open().unwrap().delete(id).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn zones_are_as_they_were_after_stop_and_start() {
    let mut live = live(&small());
    live.write(5 * MIB, 1);
    live.stop();
    live.start();
    assert_eq!(report(&live.open(), 5 * 2048, 1)[0].wp.0, 5 * 2048 + 8);
    assert!(live.read(5 * MIB).0 == [1; 4096]);
}

#[test]
fn an_image_without_its_table_or_a_table_without_its_image_is_refused() {
    let scratch = Scratch::new("pair");
    let options = scratch.image(small());
    let path = options.path.clone().unwrap();
    let table = scratch.0.join("disk.zones");
    std::fs::write(&path, [1; 8192]).unwrap();
    let refusal = || zoned(&options).err().unwrap().to_string();
    assert!(refusal().contains("has data, but not the table"), "{}", refusal());
    assert_eq!(std::fs::read(&path).unwrap(), [1; 8192]);
    std::fs::remove_file(&path).unwrap();
    drop(zoned(&options).unwrap());
    assert!(path.exists() && table.exists());
    let first = zoned(&options).unwrap();
    assert!(matches!(zoned(&options), Err(Error::Busy { .. })), "served already");
    drop(first);
    std::fs::remove_file(&path).unwrap();
    assert!(refusal().contains("is the table of"), "{}", refusal());
    assert!(!path.exists());
}

/// Regression: a short image was grown, and its zones read as zeroes under a mounted file system.
#[test]
fn the_image_and_the_table_of_a_device_in_use_are_neither_made_nor_grown() {
    let scratch = Scratch::new("in-use");
    let options = scratch.image(small());
    let in_use = ZonedOptions { must_exist: true, ..options.clone() };
    let (image, table) = (options.path.clone().unwrap(), scratch.0.join("disk.zones"));
    let refusal = || zoned(&in_use).err().unwrap().to_string();
    assert!(refusal().ends_with("disk: cannot be found, and is not made anew for a device that has data"));
    assert!(!image.exists() && !table.exists());
    drop(zoned(&options).unwrap());
    drop(zoned(&in_use).unwrap());

    let (whole_image, whole_table) = (16 * MIB, 4096 + 16 * 16);
    let cut = |path: &Path, length| File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    for has in [whole_image - 512, 0] {
        cut(&image, has);
        let problem = format!(
            "disk: has {has} bytes, fewer than the {whole_image} needed, and is not grown for a device that has data"
        );
        assert!(refusal().ends_with(&problem), "{}", refusal());
        assert_eq!(image.metadata().unwrap().len(), has);
    }
    drop(zoned(&options).unwrap());
    assert_eq!(image.metadata().unwrap().len(), whole_image, "for a new device it is grown");

    for has in [whole_table - 16, 10, 0] {
        cut(&table, has);
        let problem =
            format!("has {has} bytes, fewer than the {whole_table} of a table of 16 zones, and is not made anew");
        assert!(refusal().ends_with(&problem), "{}", refusal());
        assert_eq!(table.metadata().unwrap().len(), has);
    }
    std::fs::remove_file(&table).unwrap();
    assert!(refusal().ends_with("disk.zones: cannot be found, and is not made anew for a device that has data"));
    assert!(!table.exists());
    drop(zoned(&options).unwrap());
    assert_eq!(table.metadata().unwrap().len(), whole_table, "beside an image without data it is made");
}

#[test]
fn an_image_and_its_table_are_their_owners() {
    let scratch = Scratch::new("mode");
    zoned(&scratch.image(small())).unwrap();
    for name in ["disk", "disk.zones"] {
        assert_eq!(scratch.0.join(name).metadata().unwrap().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn what_is_past_a_write_pointer_is_cleared_when_the_image_is_opened() {
    let scratch = Scratch::new("past");
    let options = scratch.image(small());
    drop(zoned(&options).unwrap());
    let image = File::options().read(true).write(true).open(options.path.as_ref().unwrap()).unwrap();
    for zone in [1, 5] {
        image.write_all_at(&[7; 4096], zone * MIB + 8192).unwrap();
    }
    drop(zoned(&options).unwrap());
    let at = |offset| {
        let mut byte = [0];
        image.read_exact_at(&mut byte, offset).unwrap();
        byte[0]
    };
    assert_eq!((at(MIB + 8192), at(5 * MIB + 8192)), (7, 0), "a conventional zone keeps its data");
}
