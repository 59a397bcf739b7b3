//! `stripe`, `mirror` and `fault` behind real block devices. Needs a kernel with ublk and root: `make test-vm` runs these.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Live, MIB, Page, page, spec_for};
use ublk::target::{
    DieAt, Faults, FileOptions, Geometry, Io, LegState, Op, Progress, QueueTarget, Request, StripeOptions, fault, file,
    mem, mirror, stripe,
};
use ublk::{BufferMode, CharDevice, DataPath, DeviceSpec, Error, Target};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ublk-targets-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn legs(&self, count: usize) -> Vec<PathBuf> {
        (0..count).map(|leg| self.path(&format!("leg{leg}.img"))).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn creating(size_bytes: u64) -> FileOptions {
    FileOptions { size_bytes: Some(size_bytes), create: true, ..FileOptions::default() }
}

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// BLKDISCARD and BLKZEROOUT of linux/fs.h.
const DISCARD: libc::Ioctl = 0x1277;
const ZEROOUT: libc::Ioctl = 0x127f;

/// Gives up, or zeroes, a range of the device.
#[allow(unsafe_code)]
fn clear(device: &File, request: libc::Ioctl, offset: u64, length: u64) -> std::io::Result<()> {
    let range = [offset, length];
    // SAFETY: both requests read two numbers at the address.
    match unsafe { libc::ioctl(device.as_raw_fd(), request, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Random writes, discards, zeroings and flushes; returns what the device must hold. Compares as it goes.
fn exercise(live: &Live, size_bytes: u64, rounds: u64, random: &mut Random) -> Vec<u8> {
    let mut model = vec![0_u8; size_bytes as usize];
    let device = live.open();
    let blocks = size_bytes / 4096;
    for round in 0..rounds {
        let first = random.below(blocks);
        let count = 1 + random.below((blocks - first).min(64));
        let (offset, length) = (first * 4096, count * 4096);
        let range = offset as usize..(offset + length) as usize;
        match random.below(8) {
            0 => {
                clear(&device, DISCARD, offset, length).unwrap();
                model[range].fill(0);
            }
            1 => {
                clear(&device, ZEROOUT, offset, length).unwrap();
                model[range].fill(0);
            }
            2 => device.sync_data().unwrap(),
            _ => {
                let data: Vec<Page> = (0..count).map(|block| Page([(round * 7 + block * 3 + 1) as u8; 4096])).collect();
                device.write_all_at(bytes(&data), offset).unwrap();
                model[range].copy_from_slice(bytes(&data));
            }
        }
    }
    assert!(read_all(live, size_bytes) == model, "the device is not what was written");
    model
}

/// The bytes of pages, for one request.
#[allow(unsafe_code)]
fn bytes(pages: &[Page]) -> &[u8] {
    // SAFETY: a page is 4096 bytes without padding, and they follow each other.
    unsafe { std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len() * 4096) }
}

#[allow(unsafe_code)]
fn bytes_mut(pages: &mut [Page]) -> &mut [u8] {
    // SAFETY: as above, and any bytes are a page.
    unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), pages.len() * 4096) }
}

fn read_all(live: &Live, size_bytes: u64) -> Vec<u8> {
    let mut device = live.open();
    let mut pages = vec![Page([0; 4096]); (size_bytes / 4096) as usize];
    device.read_exact(bytes_mut(&mut pages)).unwrap();
    bytes(&pages).to_vec()
}

fn contents(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn copying(target: &dyn Target) -> DeviceSpec {
    DeviceSpec { data_path: DataPath::Only(BufferMode::Copy), ..spec_for(target) }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn states(target: &dyn Target) -> Vec<LegState> {
    target.legs().into_iter().map(|leg| leg.state).collect()
}

fn all_in_sync(target: &dyn Target) -> bool {
    states(target).iter().all(|state| *state == LegState::InSync)
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_stripe_keeps_every_byte_and_lays_chunks_on_legs_in_turn() {
    for (legs, chunk_bytes, direct, copies) in
        [(2, 4096, false, true), (3, 65536, true, false), (3, 16384, false, false)]
    {
        let scratch = Scratch::new("stripe");
        let paths = scratch.legs(legs);
        let size_bytes = 3 * legs as u64 * u64::from(chunk_bytes.max(65536)) - 4096;
        let files = FileOptions { direct, ..creating(size_bytes) };
        let target = stripe(&paths, &StripeOptions { chunk_bytes, files }).unwrap();
        assert_eq!(target.geometry().size_bytes, size_bytes);
        let spec = if copies { copying(target.as_ref()) } else { spec_for(target.as_ref()) };
        let live = Live::with(target, spec);
        let model = exercise(&live, size_bytes, 300, &mut Random(legs as u64));
        drop(live);
        let files: Vec<Vec<u8>> = paths.iter().map(|path| contents(path)).collect();
        for (chunk, expected) in model.chunks(chunk_bytes as usize).enumerate() {
            let start = chunk / legs * chunk_bytes as usize;
            assert!(&files[chunk % legs][start..start + expected.len()] == expected, "chunk {chunk} of {legs} legs");
        }
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_stripe_fails_what_a_leg_fails_and_nothing_else() {
    let below = fault(
        mem(4 * MIB).unwrap(),
        Faults { error_rate: 1.0, error_range: Some((MIB, 2 * MIB)), ..Faults::default() },
    );
    let bad_leg = Live::new(below);
    let scratch = Scratch::new("stripe-error");
    std::fs::write(scratch.path("good.img"), vec![0; 4 << 20]).unwrap();
    let paths = [scratch.path("good.img"), bad_leg.path().into()];
    let options = StripeOptions { chunk_bytes: 65536, files: FileOptions { direct: true, ..FileOptions::default() } };
    let live = Live::new(stripe(&paths, &options).unwrap());
    let device = live.open();
    device.write_all_at(&page(1).0, 2 * MIB).unwrap(); // leg 0 at 1 MiB
    let both: Vec<Page> = vec![Page([2; 4096]); 32];
    let error = device.write_all_at(bytes(&both), 2 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    device.write_all_at(bytes(&both), 0).unwrap();
    drop(device);
    drop(live);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_mirror_keeps_every_byte_on_every_leg() {
    for (legs, direct, copies) in [(2, false, true), (3, true, false)] {
        let scratch = Scratch::new("mirror");
        let paths = scratch.legs(legs);
        let size_bytes = 2 * MIB - 4096;
        let target = mirror(&paths, &FileOptions { direct, ..creating(size_bytes) }).unwrap();
        assert!(all_in_sync(target.as_ref()), "new legs are empty, and the same");
        let spec = if copies { copying(target.as_ref()) } else { spec_for(target.as_ref()) };
        let live = Live::with(target, spec);
        let model = exercise(&live, size_bytes, 300, &mut Random(legs as u64));
        drop(live);
        for path in &paths {
            assert!(contents(path)[..size_bytes as usize] == model, "{}", path.display());
        }
        // It ended in order: nothing is to be done, and it is what it was.
        let target = mirror(&paths, &FileOptions::default()).unwrap();
        assert!(all_in_sync(target.as_ref())); // at once: a resync of so little is soon over
        let live = Live::new(target);
        assert!(read_all(&live, size_bytes) == model);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn reads_of_a_mirror_are_spread_over_its_legs() {
    let legs = [Live::new(mem(4 * MIB).unwrap()), Live::new(mem(4 * MIB).unwrap())];
    let paths: Vec<PathBuf> = legs.iter().map(|leg| leg.path().into()).collect();
    let options = FileOptions { direct: true, create: true, ..FileOptions::default() };
    let live = Live::new(mirror(&paths, &options).unwrap());
    wait_until("the second leg is in sync", || all_in_sync(live.target.as_ref()));
    let reads = |leg: &Live| leg.served.as_ref().unwrap().stats().ops[0].requests;
    let before = [reads(&legs[0]), reads(&legs[1])];
    (0..100).for_each(|block| drop(live.read(block * 4096)));
    for (leg, before) in legs.iter().zip(before) {
        assert!(reads(leg) - before >= 45, "{} of 100 reads", reads(leg) - before); // udev reads too
    }
    drop(live);
}

/// A mirror of a file and of a block device with faults; the device comes first to be dropped last.
fn mirror_with_faults(scratch: &Scratch, faults: Faults) -> (Live, Live, [PathBuf; 2]) {
    let bad_leg = Live::new(fault(mem(8 * MIB).unwrap(), faults));
    let paths = [bad_leg.path().into(), scratch.path("good.img")];
    let options = FileOptions { direct: true, create: true, ..FileOptions::default() };
    let live = Live::new(mirror(&paths, &options).unwrap());
    wait_until("the new leg is in sync", || all_in_sync(live.target.as_ref()));
    (live, bad_leg, paths)
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_leg_that_fails_a_write_is_dropped_told_and_not_read_after_a_restart() {
    let scratch = Scratch::new("write-error");
    let faults =
        Faults { error_rate: 1.0, error_ops: vec![Op::Write], error_range: Some((MIB, 2 * MIB)), ..Faults::default() };
    let (live, bad_leg, paths) = mirror_with_faults(&scratch, faults);
    live.write(0, 1);
    live.write(MIB, 2); // the first leg refuses
    assert!(matches!(&states(live.target.as_ref())[..], [LegState::Failed { .. }, LegState::InSync]));
    assert!(
        live.warnings().iter().any(|text| text.contains("has failed (Input/output error)")),
        "{:?}",
        live.warnings()
    );
    live.write(4 * MIB, 3);
    for _ in 0..4 {
        assert!(live.read(MIB).0 == [2; 4096] && live.read(4 * MIB).0 == [3; 4096]);
    }
    drop(live);

    // The first leg still has its old data and its old record.
    let mut old = page(9);
    bad_leg.open().read_exact_at(&mut old.0, 4 * MIB).unwrap();
    assert!(old.0 == [0; 4096], "it was written to after it was dropped");
    let live = Live::new(mirror(&paths, &FileOptions { direct: true, ..FileOptions::default() }).unwrap());
    for _ in 0..8 {
        assert!(live.read(4 * MIB).0 == [3; 4096] && live.read(MIB).0 == [2; 4096]);
    }
    // The resync meets the fault again, and the mirror goes on without the leg.
    wait_until("the bad leg has failed again", || matches!(states(live.target.as_ref())[0], LegState::Failed { .. }));
    live.write(5 * MIB, 4);
    drop(live);

    // Without the good leg there is no telling what is newest; without the bad one there is.
    std::fs::rename(&paths[1], scratch.path("away.img")).unwrap();
    let refused = mirror(&paths, &FileOptions { direct: true, ..FileOptions::default() }).err().unwrap();
    assert!(refused.to_string().contains("it may hold newer data"), "{refused}");
    std::fs::rename(scratch.path("away.img"), &paths[1]).unwrap();
    let mut gone = paths.clone();
    gone[0] = scratch.path("no-such-leg");
    let live = Live::new(mirror(&gone, &FileOptions { direct: true, ..FileOptions::default() }).unwrap());
    assert!(live.read(5 * MIB).0 == [4; 4096]);
    drop(live);
    drop(bad_leg);
}

/// The good leg is slow, so a record that was not waited for would not be there yet.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_write_that_a_leg_missed_is_answered_when_that_is_on_record_and_not_before() {
    let scratch = Scratch::new("record");
    let below = file(&scratch.path("slow.img"), &creating(8 * MIB)).unwrap();
    let slow_leg = Live::new(fault(below, Faults { delay: Duration::from_millis(20), ..Faults::default() }));
    let faults =
        Faults { error_rate: 1.0, error_ops: vec![Op::Write], error_range: Some((MIB, 2 * MIB)), ..Faults::default() };
    let bad_leg = Live::new(fault(mem(8 * MIB).unwrap(), faults));
    let paths = [bad_leg.path().into(), slow_leg.path().into()];
    let options = FileOptions { direct: true, create: true, size_bytes: Some(4 * MIB), ..FileOptions::default() };
    let live = Live::new(mirror(&paths, &options).unwrap());
    wait_until("the second leg is in sync", || all_in_sync(live.target.as_ref()));
    live.write(MIB, 2);
    let at_the_answer = contents(&scratch.path("slow.img"));
    drop(live);
    drop(slow_leg);

    // Power was lost at the answer: what the slow leg held then is all that there is of it.
    std::fs::write(scratch.path("slow.img"), at_the_answer).unwrap();
    let paths = [bad_leg.path().into(), scratch.path("slow.img")];
    let live = Live::new(mirror(&paths, &FileOptions { direct: true, ..FileOptions::default() }).unwrap());
    for _ in 0..4 {
        assert!(live.read(MIB).0 == [2; 4096], "a leg was read that had missed an acknowledged write");
    }
    drop(live);
    drop(bad_leg);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_read_that_a_leg_fails_is_answered_by_another_and_the_leg_is_dropped() {
    let scratch = Scratch::new("read-error");
    let faults =
        Faults { error_rate: 1.0, error_ops: vec![Op::Read], error_range: Some((MIB, 2 * MIB)), ..Faults::default() };
    let bad_leg = Live::new(fault(mem(8 * MIB).unwrap(), faults));
    std::fs::write(scratch.path("good.img"), vec![0x77; 4 << 20]).unwrap();
    // The good leg is the source; of the bad one only the first MiB is ever read by the resync, since the device ends there.
    let paths = [scratch.path("good.img"), bad_leg.path().into()];
    let small = FileOptions { size_bytes: Some(MIB), direct: true, create: true, ..FileOptions::default() };
    let live = Live::new(mirror(&paths, &small).unwrap());
    wait_until("the bad leg is in sync", || all_in_sync(live.target.as_ref()));
    assert!(live.read(0).0 == [0x77; 4096]);
    drop(live);
    drop(bad_leg);

    // The same bytes, on a leg that reads badly from its middle on.
    let below = file(&scratch.path("copy.img"), &creating(2 * MIB)).unwrap();
    let faults = Faults {
        error_rate: 1.0,
        error_ops: vec![Op::Read],
        error_range: Some((64 << 10, 128 << 10)),
        ..Faults::default()
    };
    let options = FileOptions { direct: true, create: true, size_bytes: Some(MIB), ..FileOptions::default() };
    {
        let healthy = Live::new(Arc::clone(&below));
        let paths = [scratch.path("other.img"), healthy.path().into()];
        let live = Live::new(mirror(&paths, &options).unwrap());
        wait_until("both are in sync", || all_in_sync(live.target.as_ref()));
        live.write(64 << 10, 5);
        drop(live);
    }
    let bad_leg = Live::new(fault(below, faults));
    let paths = [scratch.path("other.img"), bad_leg.path().into()];
    let live = Live::new(mirror(&paths, &FileOptions { direct: true, ..FileOptions::default() }).unwrap());
    assert!(all_in_sync(live.target.as_ref()));
    for _ in 0..4 {
        assert!(live.read(64 << 10).0 == [5; 4096]);
    }
    assert!(matches!(&states(live.target.as_ref())[..], [LegState::InSync, LegState::Failed { .. }]));
    // The last leg is never dropped, and its errors are the device's.
    live.write(0, 1);
    assert!(live.read(0).0 == [1; 4096]);
    drop(live);
    drop(bad_leg);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn the_errors_of_the_last_leg_are_the_devices() {
    let scratch = Scratch::new("last-leg");
    let faults =
        Faults { error_rate: 1.0, error_ops: vec![Op::Write], error_range: Some((MIB, 2 * MIB)), ..Faults::default() };
    let (live, bad_leg, paths) = mirror_with_faults(&scratch, faults);
    drop(live);
    let mut gone = paths.clone();
    std::fs::rename(&paths[1], scratch.path("away.img")).unwrap();
    gone[1] = scratch.path("nowhere.img");
    // Both are in sync: one alone may not go on.
    let refused = mirror(&gone, &FileOptions { direct: true, ..FileOptions::default() }).err().unwrap();
    assert!(matches!(refused, Error::File { .. }) && refused.to_string().contains("nowhere.img"), "{refused}");
    // A new leg in the place of the lost one is a decision that it is lost.
    let options = FileOptions { direct: true, create: true, ..FileOptions::default() };
    let live = Live::new(mirror(&gone, &options).unwrap());
    assert!(matches!(states(live.target.as_ref())[0], LegState::InSync));
    wait_until("the new leg is in sync", || all_in_sync(live.target.as_ref()));
    drop(live);
    drop(bad_leg);

    // Two legs that both refuse: the request fails, one leg stays.
    let faults = || Faults {
        error_rate: 1.0,
        error_ops: vec![Op::Write],
        error_range: Some((MIB, 2 * MIB)),
        ..Faults::default()
    };
    let bad = [Live::new(fault(mem(8 * MIB).unwrap(), faults())), Live::new(fault(mem(8 * MIB).unwrap(), faults()))];
    let paths: Vec<PathBuf> = bad.iter().map(|leg| leg.path().into()).collect();
    let live = Live::new(mirror(&paths, &options).unwrap());
    wait_until("both are in sync", || all_in_sync(live.target.as_ref()));
    let error = live.open().write_all_at(&page(1).0, MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(states(live.target.as_ref()).iter().filter(|state| **state == LegState::InSync).count(), 1);
    live.write(0, 7);
    assert!(live.read(0).0 == [7; 4096]);
    drop(live);
}

/// Each time where the resync has been, so that nobody would make the legs the same there again.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_leg_that_took_what_the_last_one_in_sync_refused_is_not_let_in() {
    type Change = fn(&File) -> std::io::Result<()>;
    let changes: [(&str, Change); 3] = [
        ("write", |device| device.write_all_at(&page(1).0, 0)),
        ("discard", |device| clear(device, DISCARD, 0, 4096)),
        ("write-zeroes", |device| clear(device, ZEROOUT, 0, 4096)),
    ];
    for (name, change) in changes {
        let scratch = Scratch::new(&format!("refused-{name}"));
        std::fs::write(scratch.path("bad.img"), vec![0xaa; 8 << 20]).unwrap();
        let below = file(&scratch.path("bad.img"), &FileOptions::default()).unwrap();
        let error_ops = vec![Op::Write, Op::Discard, Op::WriteZeroes];
        let faults = Faults { error_rate: 1.0, error_ops, error_range: Some((0, 64 << 10)), ..Faults::default() };
        let bad_leg = Live::new(fault(below, faults));
        let below = file(&scratch.path("slow.img"), &creating(8 * MIB)).unwrap();
        let slow_leg = Live::new(fault(below, Faults { delay: Duration::from_millis(20), ..Faults::default() }));
        let paths = [bad_leg.path().into(), slow_leg.path().into()];
        let options = FileOptions { direct: true, create: true, size_bytes: Some(4 * MIB), ..FileOptions::default() };
        let live = Live::new(mirror(&paths, &options).unwrap());
        let target = Arc::clone(&live.target);
        let has_passed = |state: &LegState| matches!(state, LegState::Resyncing { done_bytes: 524_288.. });
        wait_until("the resync is past the place", || has_passed(&states(target.as_ref())[1]));
        let error = change(&live.open()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");

        wait_until("the resync is over", || !has_passed(&states(target.as_ref())[1]));
        for _ in 0..4 {
            assert!(live.read(0).0 == [0xaa; 4096], "{name}: a leg is read that differs from the other");
        }
        assert!(matches!(&states(target.as_ref())[..], [LegState::InSync, LegState::Failed { .. }]), "{name}");
        let told = |text: &String| text.starts_with(&slow_leg.path()) && text.contains("is out of the mirror");
        assert!(live.warnings().iter().any(told), "{:?}", live.warnings());
        drop(live);
        drop(target);

        // The next time it is brought up to date; it has no record yet, for it has never been in sync.
        let live = Live::new(mirror(&paths, &options).unwrap());
        wait_until("the slow leg is in sync", || all_in_sync(live.target.as_ref()));
        for _ in 0..4 {
            assert!(live.read(0).0 == [0xaa; 4096], "{name}: after a restart");
        }
        drop(live);
        drop((bad_leg, slow_leg));
    }
}

/// A disk in memory that has no WRITE_ZEROES, which is what a hole in it takes, or loses it while it is used.
struct Disk {
    below: Arc<dyn Target>,
    write_zeroes: bool,
    has_lost_it: Arc<AtomicBool>,
}

impl Disk {
    fn with(write_zeroes: bool) -> Disk {
        Disk { below: mem(8 * MIB).unwrap(), write_zeroes, has_lost_it: Arc::default() }
    }
}

impl Target for Disk {
    fn kind(&self) -> &'static str {
        "disk"
    }
    fn geometry(&self) -> Geometry {
        Geometry { write_zeroes: self.write_zeroes, ..self.below.geometry() }
    }
    fn buffers(&self) -> Vec<BufferMode> {
        Vec::new()
    }
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let below = self.below.queue(device, tags)?;
        Ok(Box::new(DiskQueue { below, has_lost_it: Arc::clone(&self.has_lost_it) }))
    }
}

struct DiskQueue {
    below: Box<dyn QueueTarget>,
    has_lost_it: Arc<AtomicBool>,
}

impl QueueTarget for DiskQueue {
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        if request.op == Op::WriteZeroes && self.has_lost_it.load(Ordering::SeqCst) {
            return Progress::Done(-libc::EOPNOTSUPP);
        }
        self.below.start(tag, request, io)
    }
}

fn offers_discard(target: Arc<dyn Target>) -> bool {
    let live = Live::new(target);
    let path = format!("/sys/block/ublkb{}/queue/discard_max_bytes", live.device.id());
    std::fs::read_to_string(path).unwrap().trim() != "0"
}

/// Regression: it was offered over every disk; where one has no WRITE_ZEROES each discard failed, and a mirror lost that leg.
#[test]
#[ignore = "needs a ublk kernel"]
fn discard_is_offered_over_disks_that_can_punch_holes_and_no_others() {
    for can_punch in [true, false] {
        let disk: Arc<dyn Target> = Arc::new(Disk::with(can_punch));
        let live = Live::new(Arc::clone(&disk));
        let other = Live::new(mem(8 * MIB).unwrap());
        let paths: [PathBuf; 2] = [other.path().into(), live.path().into()];
        let files = FileOptions { direct: true, create: true, ..FileOptions::default() };
        assert_eq!(offers_discard(file(&paths[1], &files).unwrap()), can_punch, "file");
        let options = StripeOptions { chunk_bytes: 65536, files: files.clone() };
        assert_eq!(offers_discard(stripe(&paths, &options).unwrap()), can_punch, "stripe");
        assert_eq!(offers_discard(mirror(&paths, &files).unwrap()), can_punch, "mirror");
        common::run_with_input(
            &["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", &live.path()],
            "label: dos\nstart=2048\n",
        );
        drop((live, other));

        // The next device finds the partition when it starts.
        let live = Live::new(disk);
        let partition = PathBuf::from(format!("{}p1", live.path()));
        wait_until("there is a partition", || partition.exists());
        assert_eq!(offers_discard(file(&partition, &files).unwrap()), can_punch, "partition");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_disk_that_cannot_punch_holes_any_more_fails_no_discard() {
    let scratch = Scratch::new("no-more-holes");
    let disk = Disk::with(true);
    let has_lost_it = Arc::clone(&disk.has_lost_it);
    let leg = Live::new(Arc::new(disk));
    let paths = [leg.path().into(), scratch.path("leg1.img")];
    let files = FileOptions { direct: true, create: true, size_bytes: Some(2 * MIB), ..FileOptions::default() };
    let live = Live::new(mirror(&paths, &files).unwrap());
    wait_until("the new leg is in sync", || all_in_sync(live.target.as_ref()));
    live.write(MIB, 1);
    has_lost_it.store(true, Ordering::SeqCst);

    // The other leg has a hole then, so this one must read as zeroes, too.
    clear(&live.open(), DISCARD, MIB, 4096).unwrap();
    assert!((0..4).all(|_| live.read(MIB).0 == [0; 4096]), "a leg still has what was discarded");
    let model = exercise(&live, 2 * MIB, 100, &mut Random(5));
    assert!(all_in_sync(live.target.as_ref()), "{:?}", live.warnings());
    drop(live);
    assert!(contents(&paths[1])[..model.len()] == model && read_all(&leg, 2 * MIB) == model, "the legs differ");

    // Alone, or in a stripe, it keeps its data: a discard is advice.
    let options = StripeOptions { chunk_bytes: 65536, files: files.clone() };
    let open: [&dyn Fn() -> Result<Arc<dyn Target>, Error>; 2] =
        [&|| file(&paths[0], &files), &|| stripe(&paths, &options)];
    for open in open {
        let live = Live::new(open().unwrap());
        live.write(0, 2);
        clear(&live.open(), DISCARD, 0, MIB).unwrap();
        assert!(live.read(0).0 == [2; 4096]);
    }
}

/// The mirror of a crash: legs that differ, and records that say that it was open.
#[test]
#[ignore = "needs a ublk kernel"]
fn after_a_crash_one_leg_is_followed_and_no_write_is_lost_while_the_others_are_resynced() {
    const SIZE: u64 = 32 * MIB;
    let scratch = Scratch::new("resync");
    let paths = scratch.legs(2);
    let live = Live::new(mirror(&paths, &creating(SIZE)).unwrap());
    live.write(0, 1);
    let crashed: Vec<Vec<u8>> = paths.iter().map(|path| contents(path)).collect(); // with the records of an open mirror
    drop(live);
    for (path, bytes) in paths.iter().zip(&crashed) {
        std::fs::write(path, bytes).unwrap();
    }
    let leg = File::options().write(true).open(&paths[1]).unwrap();
    for block in (0..SIZE / 4096).step_by(3) {
        leg.write_all_at(&[0xbb; 4096], block * 4096).unwrap(); // writes that had come to the second leg only
    }
    let target = mirror(&paths, &FileOptions::default()).unwrap();
    assert!(matches!(&states(target.as_ref())[..], [LegState::InSync, LegState::Resyncing { .. }]));
    let live = Live::with(Arc::clone(&target), copying(target.as_ref()));
    let stop = AtomicBool::new(false);
    let mut models = std::thread::scope(|scope| {
        // Each writer has its own part of the device, all over which the resync goes.
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (live, stop) = (&live, &stop);
                scope.spawn(move || {
                    let (device, mut random) = (live.open(), Random(writer + 1));
                    let mut model = std::collections::HashMap::new();
                    let mut fill = 0_u8;
                    while !stop.load(Ordering::Relaxed) {
                        let block = random.below(SIZE / 4096 / 4) * 4 + writer;
                        fill = fill.wrapping_add(1);
                        device.write_all_at(&page(fill).0, block * 4096).unwrap();
                        model.insert(block, fill);
                    }
                    model
                })
            })
            .collect();
        wait_until("the second leg is in sync", || all_in_sync(target.as_ref()));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(models.iter().all(|model| !model.is_empty()), "the resync was over before anybody wrote");
    assert!(live.warnings().iter().any(|text| text.contains("leg1.img is in sync again")));
    drop(live);
    drop(target);
    let (first, second) = (contents(&paths[0]), contents(&paths[1]));
    assert!(first[..SIZE as usize] == second[..SIZE as usize], "the legs differ");
    for (block, fill) in models.drain(..).flatten() {
        let at = block as usize * 4096;
        assert!(second[at..at + 4096] == [fill; 4096], "block {block} lost its last write");
    }
    assert!(!second[..SIZE as usize].contains(&0xbb) || first.contains(&0xbb));
}

/// Each window takes the slow leg tens of milliseconds, and every write goes to one of four.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_write_into_the_window_of_a_slow_resync_is_not_lost() {
    let scratch = Scratch::new("window");
    let good = scratch.path("good.img");
    std::fs::write(&good, vec![0xaa; 1 << 20]).unwrap();
    let below = file(&scratch.path("slow.img"), &creating(2 * MIB)).unwrap();
    let slow_leg = Live::new(fault(below, Faults { delay: Duration::from_millis(20), ..Faults::default() }));
    let options = FileOptions { direct: true, create: true, ..FileOptions::default() };
    let live = Live::new(mirror(&[good.clone(), slow_leg.path().into()], &options).unwrap());
    let mut progress = Vec::new();
    std::thread::scope(|scope| {
        for writer in 0..8_u64 {
            let live = &live;
            scope.spawn(move || {
                let device = live.open();
                let mut random = Random(writer + 1);
                while !all_in_sync(live.target.as_ref()) {
                    let block = random.below(32) * 8 + writer;
                    device.write_all_at(&page(random.below(250) as u8).0, block * 4096).unwrap();
                }
            });
        }
        while !all_in_sync(live.target.as_ref()) {
            if let LegState::Resyncing { done_bytes } = states(live.target.as_ref())[1] {
                progress.push(done_bytes);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(progress.is_sorted() && progress.iter().any(|&done| done > 0), "it tells how far it is: {progress:?}");
    drop(live);
    drop(slow_leg);
    let (good, slow) = (contents(&good), contents(&scratch.path("slow.img")));
    assert!(good[..1 << 20] == slow[..1 << 20], "the resync wrote what a newer write had replaced");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_old_copy_of_a_leg_is_stale_although_the_newest_record_names_it() {
    let scratch = Scratch::new("old-copy");
    let paths = scratch.legs(2);
    drop(Live::new(mirror(&paths, &creating(MIB)).unwrap()));
    let old = contents(&paths[1]);
    let live = Live::new(mirror(&paths, &FileOptions::default()).unwrap());
    live.write(4096, 5);
    drop(live);
    std::fs::write(&paths[1], old).unwrap();
    let live = Live::new(mirror(&paths, &FileOptions::default()).unwrap());
    for _ in 0..4 {
        assert!(live.read(4096).0 == [5; 4096]);
    }
    wait_until("the old copy is in sync", || all_in_sync(live.target.as_ref()));
    drop(live);
    assert!(contents(&paths[1])[4096..8192] == [5; 4096]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_image_becomes_a_mirror_and_keeps_what_it_holds() {
    let scratch = Scratch::new("adopt");
    let paths = scratch.legs(2);
    let image: Vec<u8> = (0..MIB).map(|byte| (byte / 512) as u8).collect();
    std::fs::write(&paths[1], &image).unwrap();
    let refused = mirror(&paths, &FileOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("leg0.img"), "{refused}");
    let refused = mirror(&[paths[1].clone(), paths[1].clone()], &FileOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("is given twice"), "{refused}");
    let options = FileOptions { create: true, ..FileOptions::default() };
    let live = Live::new(mirror(&paths, &options).unwrap());
    assert_eq!(live.target.geometry().size_bytes, MIB);
    wait_until("the new leg is in sync", || all_in_sync(live.target.as_ref()));
    drop(live);
    for path in &paths {
        assert!(contents(path)[..MIB as usize] == image, "{}", path.display());
    }
    let swapped = [paths[1].clone(), paths[0].clone()];
    let refused = mirror(&swapped, &FileOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("is leg 2 of 2 of its mirror, and was given as 1 of 2"), "{refused}");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_delay_holds_every_request_back_and_they_wait_together() {
    let delay = Duration::from_millis(500);
    let live = Live::new(fault(mem(MIB).unwrap(), Faults { delay, ..Faults::default() }));
    let begin = Instant::now();
    live.write(0, 3);
    assert!(begin.elapsed() >= delay);
    assert!(live.read(0).0 == [3; 4096]);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        (0..16_u64).for_each(|block| {
            drop(scope.spawn({
                let live = &live;
                move || live.write(block * 4096, 1)
            }))
        });
    });
    assert!((delay..delay * 8).contains(&begin.elapsed()), "{:?} for 16 writes at once", begin.elapsed());
}

/// Which of 1 000 writes fail, one after the other.
fn failures(faults: Faults) -> Vec<bool> {
    let live = Live::new(fault(mem(MIB).unwrap(), faults));
    let device = live.open();
    (0..1000_u64).map(|index| device.write_all_at(&page(1).0, index % 256 * 4096).is_err()).collect()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn errors_come_at_their_rate_and_again_from_the_same_seed() {
    let faults = Faults { error_rate: 0.05, error_ops: vec![Op::Write], seed: 42, ..Faults::default() };
    let first = failures(faults.clone());
    let count = first.iter().filter(|&&failed| failed).count();
    assert!((25..=80).contains(&count), "{count} of 1000 writes failed at a rate of 0.05");
    assert_eq!(first, failures(faults.clone()));
    assert_ne!(first, failures(Faults { seed: 43, ..faults }));
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_torn_write_leaves_its_first_blocks_and_fails() {
    let scratch = Scratch::new("torn");
    let below = file(&scratch.path("disk.img"), &creating(MIB)).unwrap();
    let live = Live::new(fault(below, Faults { torn_write_rate: 1.0, seed: 3, ..Faults::default() }));
    let mut lengths = std::collections::HashSet::new();
    for round in 0..40_u64 {
        let error = live.open().write_all_at(&page(round as u8 + 1).0, round * 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let data = live.read(round * 4096);
        let written = data.0.iter().take_while(|&&byte| byte == round as u8 + 1).count();
        assert!(written % 512 == 0 && written < 4096, "{written} bytes");
        assert!(data.0[written..].iter().all(|&byte| byte == 0), "not the first ones alone");
        lengths.insert(written);
    }
    assert!(lengths.len() >= 6, "{lengths:?}");
}

/// The server that dies, in a process of its own: started by `a_server_dies_where_it_was_told_to`.
#[test]
#[ignore = "needs a ublk kernel"]
fn child_that_dies() {
    let Ok(path) = std::env::var("UBLK_DIE_PATH") else { return };
    let die_at = if std::env::var("UBLK_DIE_AT").unwrap() == "fetch" { DieAt::Fetch } else { DieAt::Commit };
    let below = file(Path::new(&path), &creating(MIB)).unwrap();
    let live = Live::new(fault(below, Faults { die_at: Some(die_at), die_after: 3, ..Faults::default() }));
    println!("device {}.", live.device.id());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_dies_where_it_was_told_to() {
    for (die_at, third) in [("fetch", 0), ("commit", 0x11)] {
        let scratch = Scratch::new(die_at);
        let path = scratch.path("disk.img");
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "child_that_dies"])
            .env("UBLK_DIE_PATH", &path)
            .env("UBLK_DIE_AT", die_at)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
        let id = lines.find_map(|line| line.split("device ").nth(1)?.strip_suffix('.')?.parse().ok()).unwrap();
        let device =
            File::options().write(true).custom_flags(libc::O_DIRECT).open(ublk::control::block_path(id)).unwrap();
        let written: Vec<bool> = (0..3).map(|block| device.write_all_at(&page(0x11).0, block * 4096).is_ok()).collect();
        assert_eq!(written, [true, true, false], "{die_at}");
        assert_eq!(server.wait().unwrap().signal(), Some(libc::SIGKILL));
        drop(device);
        ublk::Control::open().unwrap().delete(id).unwrap();
        let data = contents(&path);
        assert!(data[..8192] == [0x11; 8192], "{die_at}: the writes before it were answered");
        assert!(data[8192..12288] == [third; 4096], "{die_at}: {}", data[8192]);
    }
}
