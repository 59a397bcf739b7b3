//! Integrity data on a real kernel: the block layer makes and checks it, we keep it.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use common::{Live, MIB, eventually, of_the_dead, page, serve_elsewhere, spec_for};
use ublk::target::{FileOptions, Integrity, IntegrityFile, file, mem, null, with_integrity};
use ublk::uapi::{Features, IntegrityChecksum};
use ublk::{BufferMode, Control, DataPath, Device, DeviceSpec, Error, Recovery, Target};

const T10DIF: Integrity = Integrity {
    interval_bytes: 512,
    metadata_bytes: 8,
    checksum: IntegrityChecksum::Crc16T10Dif,
    pi_offset_bytes: 0,
    tag_bytes: 2,
    ref_tag: true,
    capable: false,
};

/// Of the file, before the metadata of the first interval.
const HEADER_BYTES: u64 = 4096;

/// False, after a look at the error, on a kernel without the feature.
fn kernel_has_integrity() -> bool {
    let control = Control::open().unwrap();
    if control.features().unwrap().contains(Features::INTEGRITY) {
        return true;
    }
    let target = with_integrity(mem(MIB).unwrap(), T10DIF, None).unwrap();
    let error = Device::add(&control, spec_for(target.as_ref())).err().unwrap();
    assert!(matches!(&error, Error::Unsupported { what, since: "7.0" } if what.contains("INTEGRITY")), "{error}");
    false
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ublk-integrity-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
    fn image(&self) -> PathBuf {
        self.0.join("disk")
    }
    fn metadata(&self) -> std::fs::File {
        std::fs::File::options().read(true).write(true).open(self.0.join("disk.integrity")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SIZE: u64 = 16 * MIB;

fn over_file(image: &Path, integrity: Integrity) -> Result<Arc<dyn Target>, Error> {
    let block_bytes = Some(integrity.interval_bytes);
    let options = FileOptions { size_bytes: Some(SIZE), create: true, block_bytes, ..FileOptions::default() };
    with_integrity(file(image, &options)?, integrity, Some(IntegrityFile { image, in_use_bytes: None }))
}

/// As a recovery does, for a device of `SIZE` bytes.
fn over_file_in_use(image: &Path, integrity: Integrity) -> Result<Arc<dyn Target>, Error> {
    let block_bytes = Some(integrity.interval_bytes);
    let options = FileOptions { block_bytes, ..FileOptions::default() };
    with_integrity(file(image, &options)?, integrity, Some(IntegrityFile { image, in_use_bytes: Some(SIZE) }))
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

fn of_sysfs(live: &Live, name: &str) -> String {
    let path = format!("/sys/block/ublkb{}/integrity/{name}", live.device.id());
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn the_block_layer_verifies_what_it_generated() {
    if !kernel_has_integrity() {
        return;
    }
    use IntegrityChecksum::{Crc64Nvme, Ip, None};
    let nvme = Integrity { checksum: Crc64Nvme, metadata_bytes: 16, ..T10DIF };
    let cases = [
        (T10DIF, "T10-DIF-TYPE1-CRC"),
        (Integrity { ref_tag: false, tag_bytes: 6, ..T10DIF }, "T10-DIF-TYPE3-CRC"),
        (
            Integrity { interval_bytes: 4096, metadata_bytes: 64, pi_offset_bytes: 56, capable: true, ..T10DIF },
            "T10-DIF-TYPE1-CRC",
        ),
        (Integrity { checksum: Ip, ..T10DIF }, "T10-DIF-TYPE1-IP"),
        (nvme, "EXT-DIF-TYPE1-CRC64"),
        (Integrity { ref_tag: false, pi_offset_bytes: 3, metadata_bytes: 20, ..nvme }, "EXT-DIF-TYPE3-CRC64"),
        (Integrity { checksum: None, ref_tag: false, metadata_bytes: 5, ..T10DIF }, "nop"),
    ];
    for (integrity, format) in cases {
        let scratch = Scratch::new("formats");
        for target in [
            with_integrity(mem(16 * MIB).unwrap(), integrity, Option::None).unwrap(),
            over_file(&scratch.image(), integrity).unwrap(),
        ] {
            let spec = DeviceSpec { logical_block_bytes: integrity.interval_bytes, ..spec_for(target.as_ref()) };
            let live = Live::with(target, spec);
            assert_eq!(of_sysfs(&live, "format"), format);
            assert_eq!(of_sysfs(&live, "tag_size"), integrity.tag_bytes.to_string());
            assert_eq!(of_sysfs(&live, "protection_interval_bytes"), integrity.interval_bytes.to_string());
            assert_eq!(of_sysfs(&live, "device_is_integrity_capable"), u8::from(integrity.capable).to_string());
            for index in 0..32_u64 {
                live.write(index * 5 * 4096, index as u8);
            }
            for index in 0..32_u64 {
                assert!(live.read(index * 5 * 4096).0 == [index as u8; 4096], "{format}");
                assert!(live.read((index * 5 + 1) * 4096).0 == [0; 4096], "never written, {format}");
            }
        }
    }
}

/// The CRC of T10's protection information: polynomial 0x8bb7.
fn crc16_t10dif(data: &[u8]) -> u16 {
    data.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| crc << 1 ^ if crc & 0x8000 != 0 { 0x8bb7 } else { 0 })
    })
}

#[test]
#[ignore = "needs a ublk kernel"]
fn what_is_kept_is_the_protection_information_of_each_block() {
    if !kernel_has_integrity() {
        return;
    }
    let scratch = Scratch::new("kept");
    let integrity = Integrity { metadata_bytes: 16, pi_offset_bytes: 8, ..T10DIF };
    let live = Live::new(over_file(&scratch.image(), integrity).unwrap());
    live.write(MIB, 0xa7);
    live.open().sync_all().unwrap();
    for block in 0..8 {
        let lba = MIB / 512 + block;
        let mut stored = [0; 16];
        scratch.metadata().read_exact_at(&mut stored, HEADER_BYTES + lba * 16).unwrap();
        let metadata = stored.map(|byte: u8| !byte);
        // The checksum is that of the data and of what is before the tuple.
        let guarded = [&[0xa7; 512][..], &metadata[..8]].concat();
        assert_eq!(metadata[8..10], crc16_t10dif(&guarded).to_be_bytes(), "block {lba}");
        assert_eq!(metadata[12..], (lba as u32).to_be_bytes(), "block {lba}");
    }
    let mut never_written = [1; 16];
    scratch.metadata().read_exact_at(&mut never_written, HEADER_BYTES + 16 * 5000).unwrap();
    assert_eq!(never_written, [0; 16]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_changed_byte_of_data_or_metadata_fails_the_read() {
    if !kernel_has_integrity() {
        return;
    }
    let scratch = Scratch::new("changed");
    for changes_metadata in [true, false] {
        let live = Live::new(over_file(&scratch.image(), T10DIF).unwrap());
        live.write(MIB, 3);
        let image = std::fs::File::options().read(true).write(true).open(scratch.image()).unwrap();
        let (changed, place) = match changes_metadata {
            true => (scratch.metadata(), HEADER_BYTES + (MIB / 512 + 2) * 8),
            false => (image, MIB + 1024),
        };
        let mut byte = [0];
        changed.read_exact_at(&mut byte, place).unwrap();
        changed.write_all_at(&[byte[0] ^ 1], place).unwrap();
        let read = live.open().read_exact_at(&mut page(0).0, MIB);
        assert_eq!(errno(read), Some(libc::EILSEQ), "metadata {changes_metadata}");
        changed.write_all_at(&byte, place).unwrap();
        assert!(live.read(MIB).0 == [3; 4096]);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn what_is_discarded_zeroed_or_written_without_is_checked_by_nobody() {
    if !kernel_has_integrity() {
        return;
    }
    let scratch = Scratch::new("cleared");
    let over_memory = with_integrity(mem(16 * MIB).unwrap(), T10DIF, None).unwrap();
    for target in [over_memory, over_file(&scratch.image(), T10DIF).unwrap()] {
        let live = Live::new(target);
        for index in 0..16 {
            live.write(MIB + index * 4096, 9);
        }
        let run = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).arg(live.path()).status().unwrap();
            assert!(status.success(), "{program}");
        };
        run("blkdiscard", &["-o", "1048576", "-l", "12288"]);
        run("blkdiscard", &["-z", "-o", "1060864", "-l", "8192"]);
        let generate = format!("/sys/block/ublkb{}/integrity/write_generate", live.device.id());
        std::fs::write(&generate, "0").unwrap();
        live.write(MIB + 5 * 4096, 7);
        std::fs::write(&generate, "1").unwrap();
        let expected = [0, 0, 0, 0, 0, 7, 9, 9];
        for (index, byte) in (0..).zip(expected) {
            assert!(live.read(MIB + index * 4096).0 == [byte; 4096], "page {index}");
        }
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn null_keeps_no_integrity_data_and_reads_all_the_same() {
    if !kernel_has_integrity() {
        return;
    }
    let live = Live::new(with_integrity(null(MIB), T10DIF, None).unwrap());
    live.write(4096, 5);
    assert!(live.read(4096).0 == [0; 4096]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_file_keeps_its_integrity_data_for_the_next_server() {
    if !kernel_has_integrity() {
        return;
    }
    let scratch = Scratch::new("next");
    let live = Live::new(over_file(&scratch.image(), T10DIF).unwrap());
    live.write(MIB, 1);
    drop(live);
    let live = Live::new(over_file(&scratch.image(), T10DIF).unwrap());
    assert!(live.read(MIB).0 == [1; 4096]);
    let mut stored = [0; 8];
    scratch.metadata().read_exact_at(&mut stored, HEADER_BYTES + MIB / 512 * 8).unwrap();
    assert_ne!(stored, [0; 8]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn fio_verifies_through_integrity_data() {
    if !kernel_has_integrity() {
        return;
    }
    let scratch = Scratch::new("fio");
    let target = over_file(&scratch.image(), T10DIF).unwrap();
    let live = Live::with(Arc::clone(&target), DeviceSpec { queues: 2, ..spec_for(target.as_ref()) });
    let status = std::process::Command::new("fio")
        .args(["--name=pi", "--direct=1", "--ioengine=libaio", "--iodepth=16", "--rw=randwrite", "--bsrange=4k-128k"])
        .args(["--size=16m", "--verify=crc32c", "--verify_fatal=1", "--numjobs=1", "--output-format=terse"])
        .arg(format!("--filename={}", live.path()))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn what_cannot_be_is_refused_with_the_rule() {
    use IntegrityChecksum::{Crc64Nvme, None};
    let cases: [(Integrity, &str); 8] = [
        (Integrity { metadata_bytes: 0, ..T10DIF }, "at least one byte per interval"),
        (Integrity { metadata_bytes: 7, ..T10DIF }, "has 8 bytes, from 0 on: more than the 7 of the metadata"),
        (Integrity { pi_offset_bytes: 1, ..T10DIF }, "has 8 bytes, from 1 on: more than the 8"),
        (Integrity { checksum: Crc64Nvme, ..T10DIF }, "CRC64_NVME has 16 bytes"),
        (Integrity { checksum: None, ..T10DIF }, "a reference tag needs a checksum"),
        (Integrity { tag_bytes: 3, ..T10DIF }, "a tag of 3 bytes is more than the 2"),
        (Integrity { tag_bytes: 7, ref_tag: false, ..T10DIF }, "a tag of 7 bytes is more than the 6"),
        (Integrity { interval_bytes: 8192, ..T10DIF }, "a power of two from 512 to the logical block 4096, not 8192"),
    ];
    for (integrity, rule) in cases {
        let error = with_integrity(mem(MIB).unwrap(), integrity, Option::None).err().unwrap();
        assert!(matches!(&error, Error::BadOption { rule: told } if told.contains(rule)), "{error}");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn what_does_not_fit_the_device_is_refused() {
    let target = with_integrity(mem(MIB).unwrap(), T10DIF, None).unwrap();
    let spec = spec_for(target.as_ref());
    let refusal = |spec| Device::add(&Control::open().unwrap(), spec).err().unwrap().to_string();
    let copy = DeviceSpec { data_path: DataPath::Only(BufferMode::Copy), ..spec.clone() };
    assert!(refusal(copy).contains("integrity data moves by user-copy, not by copy"));
    let wide = Integrity { interval_bytes: 4096, ..T10DIF };
    assert!(refusal(DeviceSpec { integrity: Some(wide), ..spec }).contains("to the logical block 512, not 4096"));
}

const SERVED_PATH: &str = "UBLK_TEST_INTEGRITY_PATH";

/// The other process of `a_killed_servers_...`.
#[test]
#[ignore = "needs a ublk kernel"]
fn serve_for_another_process() {
    let Some(path) = std::env::var_os(SERVED_PATH) else { return };
    let target = over_file(Path::new(&path), T10DIF).unwrap();
    let spec = DeviceSpec { recovery: Recovery::Reissue, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    println!("serves {}", live.path());
    std::thread::park();
}

/// Blocks that a lane writes in turn: so many until its server is dead, and the next so many afterwards.
const LAP: u64 = 64;
/// From one lane to the next: room for both.
const LANE_BYTES: u64 = 4 * MIB;

/// What the writers are told, and how far they all are.
#[derive(Default)]
struct Course {
    is_dead: AtomicBool,
    is_over: AtomicBool,
    written: AtomicU64,
}

/// Writes block after block; answers with which round each was written last. With `reissue` no write fails, so all of them were acknowledged,
/// the one that was under way at the kill by the next server.
fn write_lane(file: &Arc<File>, course: &Arc<Course>, lane: u64) -> JoinHandle<BTreeMap<u64, u64>> {
    let (file, course) = (Arc::clone(file), Arc::clone(course));
    std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        for round in 0.. {
            if course.is_over.load(Ordering::Acquire) {
                break;
            }
            let first = if course.is_dead.load(Ordering::Acquire) { LAP } else { 0 };
            let place = lane * LANE_BYTES + (first + round % LAP) * 4096;
            file.write_all_at(&page(fill(round)).0, place).unwrap();
            acknowledged.insert(place, round);
            course.written.fetch_add(1, Ordering::AcqRel);
        }
        acknowledged
    })
}

/// Another one in each lap, and never that of a block that was not written.
fn fill(round: u64) -> u8 {
    (1 + round % 251) as u8
}

/// Regression: blocks were compared with what every round writes there, and all were written again after the recovery.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_killed_servers_device_goes_on_and_its_data_is_verified() {
    if !kernel_has_integrity() {
        return;
    }
    let scratch = Scratch::new("recovered");
    let (mut server, block) = serve_elsewhere(&[(SERVED_PATH, scratch.image().as_os_str())]);
    let file = Arc::new(File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&block).unwrap());
    let course = Arc::new(Course::default());
    let written = || course.written.load(Ordering::Acquire);
    let writers: Vec<_> = (0..4).map(|lane| write_lane(&file, &course, lane)).collect();
    assert!(eventually(|| written() > 400));
    server.kill().unwrap();
    server.wait().unwrap();
    // From now on no block is written that the dead server has acknowledged.
    course.is_dead.store(true, Ordering::Release);

    let id = block.trim_start_matches("/dev/ublkb").parse().unwrap();
    let mut device = Device::recover(&Control::open().unwrap(), id).unwrap();
    assert_eq!(device.integrity(), Some(T10DIF));
    let error = device.take_target(Some(mem(SIZE).unwrap().as_ref())).unwrap_err();
    assert!(error.to_string().contains("was made with other integrity data"), "{error}");
    let target = of_the_dead(|| over_file_in_use(&scratch.image(), T10DIF));
    let served = ublk::spawn_target(&mut device, target, Arc::new(|_| ())).unwrap();
    device.start().unwrap();
    let before = written();
    assert!(eventually(|| written() > before + 400));
    course.is_over.store(true, Ordering::Release);
    for writer in writers {
        let acknowledged = writer.join().unwrap();
        assert!(acknowledged.len() as u64 > LAP, "it did not write all blocks before the kill, and some afterwards");
        for (place, round) in acknowledged {
            let mut data = page(0);
            // The block layer compares each block with what was kept of it.
            file.read_exact_at(&mut data.0, place).unwrap();
            assert!(data.0 == [fill(round); 4096], "round {round} at {place} was lost");
        }
    }
    device.stop().unwrap();
    served.join();
    device.close_char();
    drop(file);
    device.delete().unwrap();
}

#[test]
fn a_file_of_other_integrity_data_is_refused() {
    let scratch = Scratch::new("other");
    drop(over_file(&scratch.image(), T10DIF).unwrap());
    let other = Integrity { metadata_bytes: 16, ..T10DIF };
    let refusal = || over_file(&scratch.image(), other).err().unwrap().to_string();
    assert!(refusal().contains("has 8 bytes for each 512 bytes of data, not 16 for 512"), "{}", refusal());
    std::fs::write(scratch.0.join("disk.integrity"), "something else").unwrap();
    assert!(refusal().contains("is no file of integrity data"), "{}", refusal());
    assert_eq!(std::fs::read(scratch.0.join("disk.integrity")).unwrap(), b"something else");
}

/// Regression: it was taken, and what had been written before failed with EILSEQ.
#[test]
fn a_file_of_other_protection_information_is_refused() {
    let scratch = Scratch::new("protection");
    let wide = Integrity { metadata_bytes: 16, ..T10DIF };
    drop(over_file(&scratch.image(), wide).unwrap());
    let cases = [
        (Integrity { checksum: IntegrityChecksum::Ip, ..wide }, "IP from byte 0 on, with a reference tag"),
        (Integrity { pi_offset_bytes: 8, ..wide }, "CRC16_T10DIF from byte 8 on, with a reference tag"),
        (Integrity { ref_tag: false, ..wide }, "CRC16_T10DIF from byte 0 on, without a reference tag"),
    ];
    for open in [over_file, over_file_in_use] {
        for (other, words) in cases {
            let error = open(&scratch.image(), other).err().unwrap().to_string();
            let both = format!("of CRC16_T10DIF from byte 0 on, with a reference tag; not of {words}");
            assert!(error.ends_with(&both), "{error}");
        }
        open(&scratch.image(), Integrity { tag_bytes: 0, capable: true, ..wide }).unwrap();
    }
}

#[test]
fn a_file_that_does_not_say_which_protection_information_it_has_is_taken() {
    let scratch = Scratch::new("version-1");
    drop(over_file(&scratch.image(), T10DIF).unwrap());
    let sizes = [1_u32, 512, 8, 0].map(u32::to_le_bytes).concat();
    scratch.metadata().write_all_at(&[b"ublkintg", &*sizes].concat(), 0).unwrap();
    for integrity in [T10DIF, Integrity { checksum: IntegrityChecksum::Ip, ..T10DIF }] {
        over_file(&scratch.image(), integrity).unwrap();
        over_file_in_use(&scratch.image(), integrity).unwrap();
    }
    let other = Integrity { metadata_bytes: 16, ..T10DIF };
    assert!(over_file(&scratch.image(), other).is_err(), "the sizes count in all versions");
}

/// Regression: an empty file was begun anew, and a short one grown; the blocks of the device were checked by nobody then.
#[test]
fn integrity_data_of_a_device_in_use_is_neither_made_nor_grown() {
    let scratch = Scratch::new("in-use");
    drop(over_file(&scratch.image(), T10DIF).unwrap());
    over_file_in_use(&scratch.image(), T10DIF).unwrap();
    let whole = HEADER_BYTES + SIZE / 512 * 8;
    let refusal = || over_file_in_use(&scratch.image(), T10DIF).err().unwrap().to_string();
    for has in [whole - 8, HEADER_BYTES, 10, 0] {
        scratch.metadata().set_len(has).unwrap();
        let problem = format!(
            "disk.integrity: has {has} bytes, fewer than the {whole} needed, and is not made anew for a device that has data"
        );
        assert!(refusal().ends_with(&problem), "{}", refusal());
        assert_eq!(scratch.metadata().metadata().unwrap().len(), has);
    }
    let path = scratch.0.join("disk.integrity");
    std::fs::remove_file(&path).unwrap();
    assert!(refusal().ends_with("disk.integrity: cannot be found, and is not made anew for a device that has data"));
    assert!(!path.exists());
    drop(over_file(&scratch.image(), T10DIF).unwrap());
    scratch.metadata().set_len(0).unwrap();
    drop(over_file(&scratch.image(), T10DIF).unwrap());
    assert_eq!(scratch.metadata().metadata().unwrap().len(), whole, "for a new device it is made, and begun anew");
}

#[test]
fn a_device_in_use_needs_integrity_data_of_its_own_size_only() {
    let scratch = Scratch::new("grown");
    drop(over_file(&scratch.image(), T10DIF).unwrap());
    File::options().write(true).open(scratch.image()).unwrap().set_len(2 * SIZE).unwrap();
    over_file_in_use(&scratch.image(), T10DIF).unwrap();
}

#[test]
fn a_file_of_integrity_data_is_its_owners_as_the_image_is() {
    let scratch = Scratch::new("mode");
    over_file(&scratch.image(), T10DIF).unwrap();
    for name in ["disk", "disk.integrity"] {
        assert_eq!(scratch.0.join(name).metadata().unwrap().mode() & 0o777, 0o600, "{name}");
    }
}
