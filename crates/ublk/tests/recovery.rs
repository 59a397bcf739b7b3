//! Devices that outlive their servers: killed, quiesced, recovered, resized. Needs a kernel with ublk and root: `make test-vm` runs these.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Live, MIB, of_the_dead, page, spec_for};
use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ublk::control::{block_path, char_path};
use ublk::device::{DataPath, Threads};
use ublk::target::{
    DieAt, Faults, FileOptions, Geometry, Io, Progress, QueueTarget, Request, ZonedOptions, fault, file, mem,
    mem_zero_copy, null, zoned,
};
use ublk::uapi::{DevState, Features};
use ublk::{
    BufferMode, CharDevice, Control, Device, DeviceId, DeviceSpec, Error, QueueOptions, Recovery, Served, Target,
    spawn_target,
};

const SIZE: u64 = 64 * MIB;
const LIMIT: Duration = Duration::from_secs(10);
/// Says in the environment of a process of this program that it is to be a server, and of what.
const SERVER: &str = "UBLK_TEST_SERVER";
/// The same: at which of its writes it kills itself.
const LAST_WRITE: &str = "UBLK_TEST_LAST_WRITE";

fn has(feature: Features) -> bool {
    Control::open().unwrap().features().unwrap().contains(feature)
}

fn policies() -> Vec<Recovery> {
    let with_fail_io = has(Features::USER_RECOVERY_FAIL_IO).then_some(Recovery::FailIo);
    [Recovery::Requeue, Recovery::Reissue].into_iter().chain(with_fail_io).collect()
}

fn image(path: &Path) -> Arc<dyn Target> {
    let options = FileOptions { size_bytes: Some(SIZE), create: true, ..FileOptions::default() };
    of_the_dead(|| file(path, &options))
}

/// The server of another process; killed at the end.
struct Server {
    process: Child,
    id: DeviceId,
    image: PathBuf,
}

impl Server {
    fn of(recovery: Recovery) -> Server {
        Server::with(recovery, None)
    }

    /// Dies with a write that has come to it and is not answered: with a kill from outside there need be none.
    fn that_dies_at_write(recovery: Recovery, number: u64) -> Server {
        Server::with(recovery, Some(number))
    }

    fn with(recovery: Recovery, last_write: Option<u64>) -> Server {
        let image = std::env::temp_dir().join(format!("ublk-recovery-{}.img", std::process::id()));
        let _ = std::fs::remove_file(&image);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "a_server_of_its_own", "--nocapture"])
            .env(SERVER, format!("{recovery:?} {}", image.display()))
            .envs(last_write.map(|number| (LAST_WRITE, number.to_string())))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let id = lines.map_while(Result::ok).find_map(|line| line.split("device ").nth(1)?.parse().ok());
        Server { process, id: id.expect("the server did not start"), image }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = Control::open().unwrap().delete(self.id);
        let _ = std::fs::remove_file(&self.image);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_of_its_own() {
    let Ok(order) = std::env::var(SERVER) else { return };
    let (recovery, path) = order.split_once(' ').unwrap();
    let recovery = match recovery {
        "Requeue" => Recovery::Requeue,
        "Reissue" => Recovery::Reissue,
        "FailIo" => Recovery::FailIo,
        _ => Recovery::Off,
    };
    let mut target = image(Path::new(path));
    if let Ok(number) = std::env::var(LAST_WRITE) {
        let die_after = number.parse().unwrap();
        target = fault(target, Faults { die_at: Some(DieAt::Fetch), die_after, ..Faults::default() });
    }
    let spec = DeviceSpec { recovery, queues: 2, ..spec_for(target.as_ref()) };
    let mut live = Live::with(target, spec);
    println!("device {}", live.device.id());
    live.served.take().unwrap().join(); // another process has quiesced the device
    std::process::exit(0);
}

fn state(id: DeviceId) -> DevState {
    Control::open().unwrap().info(id).unwrap().state
}

fn wait_for(id: DeviceId, wanted: DevState) {
    let until = Instant::now() + LIMIT;
    while state(id) != wanted {
        assert!(Instant::now() < until, "device {id} is {}, not {wanted}", state(id));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn waiting_state(recovery: Recovery) -> DevState {
    if recovery == Recovery::FailIo { DevState::FailIo } else { DevState::Quiesced }
}

/// The next server, in this process.
struct Recovered {
    device: Device,
    served: Option<Served>,
}

impl Recovered {
    fn take(id: DeviceId, target: Arc<dyn Target>) -> Recovered {
        Recovered::try_take(id, target).unwrap()
    }

    fn try_take(id: DeviceId, target: Arc<dyn Target>) -> Result<Recovered, Error> {
        let mut device = Device::recover(&Control::open()?, id)?;
        match spawn_target(&mut device, target, Arc::new(|_| {})) {
            Ok(served) => {
                device.start()?;
                Ok(Recovered { device, served: Some(served) })
            }
            Err(error) => {
                device.give_up_recovery();
                Err(error)
            }
        }
    }

    /// Lets go of the device, which waits for the next server then.
    fn quiesce(mut self) {
        self.device.quiesce(LIMIT).unwrap();
        self.served.take().unwrap().join();
        self.device.close_char();
        assert!(self.device.control().wait_released(self.device.id(), LIMIT).unwrap());
    }
}

impl Drop for Recovered {
    fn drop(&mut self) {
        if let Some(served) = self.served.take() {
            self.device.stop().unwrap();
            served.join();
            self.device.close_char();
        }
    }
}

/// Writes block after block, remembers what was acknowledged, and goes on over errors.
struct Load {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    writer: JoinHandle<Vec<(u64, bool)>>,
}

impl Load {
    fn start(id: DeviceId, lane: u64) -> Load {
        Load::with(id, lane, libc::O_DIRECT)
    }

    /// Each write is durable, and a flush follows it.
    fn of_durable_writes(id: DeviceId, lane: u64) -> Load {
        Load::with(id, lane, libc::O_DIRECT | libc::O_DSYNC)
    }

    fn with(id: DeviceId, lane: u64, flags: i32) -> Load {
        let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&done));
        let device = File::options().read(true).write(true).custom_flags(flags).open(block_path(id)).unwrap();
        let writer = std::thread::spawn(move || {
            let mut answers = Vec::new();
            for round in 0.. {
                if over.load(Ordering::Acquire) {
                    break;
                }
                let block = lane * 1024 + round % 1024;
                let written = device.write_all_at(&page(fill(round)).0, block * 4096).is_ok();
                answers.push((round, written));
                if written {
                    count.fetch_add(1, Ordering::AcqRel);
                } else {
                    std::thread::sleep(Duration::from_millis(1)); // a device that fails I/O does so at once
                }
            }
            answers
        });
        Load { is_over, done, writer }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn wait_for_more_than(&self, done: u64) {
        let until = Instant::now() + LIMIT;
        while self.done() <= done {
            assert!(Instant::now() < until, "the load does not go on after {done} writes");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Ends it; answers which round was written and which failed.
    fn end(self) -> Vec<(u64, bool)> {
        self.is_over.store(true, Ordering::Release);
        self.writer.join().unwrap()
    }

    /// Ends it; every acknowledged write must read back. Answers how many failed.
    fn check(self, id: DeviceId, lane: u64) -> usize {
        let answers = self.end();
        let device = File::options().read(true).custom_flags(libc::O_DIRECT).open(block_path(id)).unwrap();
        for block in 0..1024_u64 {
            let of_block = || answers.iter().rev().filter(move |(round, _)| round % 1024 == block);
            let Some(&(last, true)) = of_block().next() else { continue };
            let mut data = page(0);
            device.read_exact_at(&mut data.0, (lane * 1024 + block) * 4096).unwrap();
            assert!(data.0 == [fill(last); 4096], "block {block} of lane {lane} lost round {last}");
        }
        answers.iter().filter(|(_, written)| !written).count()
    }
}

fn fill(round: u64) -> u8 {
    (round % 251) as u8
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_killed_servers_device_goes_on_under_the_next_one_within_a_second() {
    for recovery in policies() {
        let mut server = Server::that_dies_at_write(recovery, 200);
        let id = server.id;
        let loads: Vec<Load> = (0..4).map(|lane| Load::start(id, lane)).collect();
        server.process.wait().unwrap();
        wait_for(id, waiting_state(recovery));
        let target = image(&server.image);
        let before: Vec<u64> = loads.iter().map(Load::done).collect();

        let began = Instant::now();
        let recovered = Recovered::take(id, target);
        loads.iter().zip(&before).for_each(|(load, &before)| load.wait_for_more_than(before));
        let resumed = began.elapsed();
        println!("{recovery:?}: I/O goes on {resumed:?} after recover");
        assert!(resumed < Duration::from_secs(1), "{recovery:?}: {resumed:?}");

        assert_eq!(state(id), DevState::Live);
        assert_eq!(Control::open().unwrap().info(id).unwrap().pid, std::process::id());
        let failed: Vec<usize> = loads.into_iter().zip(0..).map(|(load, lane)| load.check(id, lane)).collect();
        match recovery {
            Recovery::Reissue => assert_eq!(failed, [0; 4], "requests in flight are issued again"),
            Recovery::Requeue => {
                assert!(failed.iter().all(|&failed| failed <= 1), "more than what was in flight: {failed:?}");
                assert!(failed.contains(&1), "the write that was with the server did not fail");
            }
            _ => assert!(failed.iter().all(|&failed| failed > 0), "nothing failed meanwhile: {failed:?}"),
        }
        drop(recovered);
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_killed_servers_device_without_recovery_is_dead() {
    let mut server = Server::of(Recovery::Off);
    let control = Control::open().unwrap();
    let refused = |expected: &str| {
        let error = Device::recover(&control, server.id).err().unwrap();
        assert_eq!(error.code(), "ERR_UBLK_INVALID_STATE");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused("was made without recovery");
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    wait_for(server.id, DevState::Dead);
    refused("was made without recovery");
    assert!(!Path::new(&block_path(server.id)).exists());
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_that_is_live_dead_or_not_there_is_not_recovered() {
    let control = Control::open().unwrap();
    assert!(matches!(Device::recover(&control, 4000), Err(Error::NoDevice { id: 4000 })));
    let target = mem(MIB).unwrap();
    let spec = DeviceSpec { recovery: Recovery::Requeue, ..spec_for(target.as_ref()) };
    let mut live = Live::with(target, spec);
    let id = live.device.id();
    let error = Device::recover(&control, id).err().unwrap();
    assert!(error.to_string().contains(&format!("is live: process {} serves it", std::process::id())), "{error}");
    assert!(error.hint().contains("ublk quiesce"), "{}", error.hint());
    live.stop();
    let error = Device::recover(&control, id).err().unwrap();
    assert!(error.to_string().contains("is dead: it cannot be recovered"), "{error}");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_char_device_in_other_hands_keeps_a_recovery_waiting_and_then_refuses_it() {
    let mut server = Server::of(Recovery::Requeue);
    server.kill();
    wait_for(server.id, DevState::Quiesced);
    let holder = hold(&char_path(server.id));
    let began = Instant::now();
    let mut device = Device::recover(&Control::open().unwrap(), server.id).unwrap();
    let error = device.open().unwrap_err();
    assert!(matches!(&error, Error::Busy { what, .. } if *what == char_path(server.id)), "{error}");
    assert!((9..12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    drop(holder);
    drop(Recovered::take(server.id, image(&server.image)));
}

/// Before Linux 6.16 the driver follows a null pointer when a second START_USER_RECOVERY comes before the first one's char device is open.
#[test]
#[ignore = "needs a ublk kernel"]
fn recoveries_keep_others_back_until_they_hold_the_char_device() {
    let mut server = Server::of(Recovery::Requeue);
    server.kill();
    wait_for(server.id, DevState::Quiesced);
    let (id, control) = (server.id, Control::open().unwrap());
    let other = File::open("/dev/ublk-control").unwrap();
    rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();

    let began = Instant::now();
    let mut device = Device::recover(&control, id).unwrap();
    drop(device.open().unwrap()); // one that keeps them back for long delays this one, and no more
    assert!(began.elapsed() > Duration::from_secs(1), "it did not wait: {:?}", began.elapsed());
    device.give_up_recovery();
    if !control.features().unwrap().contains(Features::SAFE_STOP_DEV) {
        return; // there the driver would not take a second one
    }
    let (opened, hears) = std::sync::mpsc::channel();
    let next = std::thread::spawn(move || {
        let mut device = Device::recover(&control, id).unwrap();
        opened.send(device.open().is_ok()).unwrap();
        device.give_up_recovery();
    });
    assert!(hears.recv_timeout(Duration::from_millis(300)).is_err(), "it did not wait");
    let released = Instant::now();
    drop(other);
    assert!(hears.recv().unwrap());
    assert!(released.elapsed() < Duration::from_secs(1), "{:?}", released.elapsed());
    next.join().unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn of_several_recoveries_at_once_one_has_the_device_and_the_others_hear_so() {
    for round in 0..3 {
        let mut server = Server::of(Recovery::Reissue);
        server.kill();
        wait_for(server.id, DevState::Quiesced);
        let id = server.id;
        let began = Instant::now();
        let contenders: Vec<_> =
            (0..3).map(|_| std::thread::spawn(move || Recovered::try_take(id, mem_zero_copy(SIZE).unwrap()))).collect();
        let outcomes: Vec<_> = contenders.into_iter().map(|contender| contender.join().unwrap()).collect();
        assert!(began.elapsed() < Duration::from_secs(5), "round {round}: {:?}", began.elapsed());
        let (taken, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(taken.len(), 1, "round {round}");
        for error in refused.into_iter().filter_map(Result::err) {
            let says = format!("is live: process {} serves it", std::process::id());
            assert!(error.to_string().contains(&says), "round {round}: {error}");
        }
        let disk = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(block_path(id)).unwrap();
        disk.write_all_at(&page(7).0, 4096).unwrap();
        let mut data = page(0);
        disk.read_exact_at(&mut data.0, 4096).unwrap();
        assert!(data.0 == [7; 4096], "round {round}");
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_target_that_cannot_have_the_data_leaves_the_device_to_the_next_one() {
    let mut server = Server::of(Recovery::Reissue);
    let is_zero_copy = has(Features::AUTO_BUF_REG);
    server.kill();
    wait_for(server.id, DevState::Quiesced);
    let taken = Recovered::try_take(server.id, mem(SIZE).unwrap());
    if !is_zero_copy {
        return drop(taken.unwrap());
    }
    let error = taken.err().unwrap();
    assert!(error.to_string().contains("needs it in the memory of its server"), "{error}");
    assert_eq!(state(server.id), DevState::Quiesced);
    drop(Recovered::take(server.id, image(&server.image)));
}

/// Before Linux 7.0 a recovery that has begun and cannot go on ends the device: one that lacks a descriptor does not begin.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_recovery_without_a_descriptor_to_spare_leaves_the_device_to_the_next_one() {
    let mut server = Server::of(Recovery::Reissue);
    server.kill();
    wait_for(server.id, DevState::Quiesced);
    let mut device = Device::recover(&Control::open().unwrap(), server.id).unwrap();
    let limits = getrlimit(Resource::Nofile);
    let next = File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let allow = |descriptors| setrlimit(Resource::Nofile, Rlimit { current: Some(descriptors), ..limits }).unwrap();
    allow(next);
    let refused = device.open();
    allow(next + 1);
    let opened = device.open();
    setrlimit(Resource::Nofile, limits).unwrap();
    assert!(refused.unwrap_err().to_string().contains("Too many open files"));
    drop(opened.unwrap());
    device.give_up_recovery();
}

/// The former server has it until its last memory is freed.
fn hold(path: &str) -> File {
    let until = Instant::now() + LIMIT;
    loop {
        match File::open(path) {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
}

/// Cannot serve its second queue.
struct Half(Arc<dyn Target>);

impl Target for Half {
    fn kind(&self) -> &'static str {
        "half"
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        self.0.buffers()
    }
    fn serves_zero_copy(&self) -> bool {
        self.0.serves_zero_copy()
    }
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        static MADE: AtomicBool = AtomicBool::new(false);
        match MADE.swap(true, Ordering::AcqRel) {
            true => Err(Error::NoMemory { what: "a second queue".into(), id: None }),
            false => null(SIZE).queue(device, tags),
        }
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_recovery_that_fails_leaves_the_device_to_the_next_one() {
    let mut server = Server::of(Recovery::Reissue);
    let load = Load::start(server.id, 0);
    load.wait_for_more_than(5);
    server.kill();
    let control = Control::open().unwrap();
    let mut device = Device::recover(&control, server.id).unwrap();
    assert!(device.is_recovering());
    let error = spawn_target(&mut device, Arc::new(Half(null(SIZE))), Arc::new(|_| {})).err().unwrap();
    assert!(error.to_string().contains("a second queue"), "{error}");
    assert!(device.is_recovering());
    drop(device);
    if !has(Features::SAFE_STOP_DEV) {
        return assert_eq!(
            state(server.id),
            DevState::Dead,
            "the next recovery would be refused, or crash this kernel"
        );
    }
    assert_eq!(state(server.id), DevState::Quiesced);

    // One whose queues were all there, but that gave up before it was live.
    let mut device = Device::recover(&control, server.id).unwrap();
    let served = spawn_target(&mut device, null(SIZE), Arc::new(|_| {})).unwrap();
    served.give_up();
    served.join();
    device.give_up_recovery();
    assert_eq!(state(server.id), DevState::Quiesced);

    let before = load.done();
    let recovered = Recovered::take(server.id, image(&server.image));
    load.wait_for_more_than(before);
    assert_eq!(load.check(server.id, 0), 0);
    drop(recovered);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn quiesce_hands_a_device_over_under_load_and_loses_nothing() {
    if !has(Features::QUIESCE) {
        return assert_quiesce_is_unsupported();
    }
    for recovery in [Recovery::Requeue, Recovery::Reissue] {
        let server = Server::of(recovery);
        let loads: Vec<Load> = (0..4).map(|lane| Load::start(server.id, lane)).collect();
        loads.iter().for_each(|load| load.wait_for_more_than(20));
        // The first hand-over is asked for from outside; the others by the one that serves.
        Control::open().unwrap().quiesce(server.id, LIMIT).unwrap();
        assert_eq!(state(server.id), DevState::Quiesced);
        for round in 0..5 {
            let before = loads.iter().map(Load::done).max().unwrap();
            let recovered = Recovered::take(server.id, image(&server.image));
            loads.iter().for_each(|load| load.wait_for_more_than(before + 20));
            if round < 4 {
                recovered.quiesce();
                assert_eq!(state(server.id), DevState::Quiesced);
                Control::open().unwrap().quiesce(server.id, LIMIT).unwrap(); // nothing to do
            } else {
                let failed: usize = loads.into_iter().zip(0..).map(|(load, lane)| load.check(server.id, lane)).sum();
                assert_eq!(failed, 0, "{recovery:?}");
                break;
            }
        }
    }
}

/// Who stops it is not its server, and asks nobody to let go.
#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_with_recovery_is_stopped_from_outside_under_flushes() {
    for round in 0..4 {
        let recovery = [Recovery::Requeue, Recovery::Reissue][round % 2];
        let mut server = Server::of(recovery);
        let loads: Vec<Load> = (0..4).map(|lane| Load::of_durable_writes(server.id, lane)).collect();
        loads.iter().for_each(|load| load.wait_for_more_than(20));
        Control::open().unwrap().stop_within(server.id, LIMIT).unwrap();
        assert_eq!(state(server.id), DevState::Dead);
        loads.into_iter().for_each(|load| assert!(load.end().iter().any(|(_, written)| !written)));
        server.kill();
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_with_a_volatile_cache_and_no_fua_has_no_recovery_that_holds_requests() {
    let control = Control::open().unwrap();
    let target = image(&std::env::temp_dir().join("ublk-no-fua.img"));
    for recovery in policies() {
        let spec = DeviceSpec { recovery, fua: false, ..spec_for(target.as_ref()) };
        match Device::add(&control, spec) {
            Ok(mut device) => {
                assert_eq!(recovery, Recovery::FailIo);
                device.delete().unwrap();
            }
            Err(error) => assert!(error.to_string().contains("takes FUA writes"), "{recovery:?}: {error}"),
        }
    }
    std::fs::remove_file(std::env::temp_dir().join("ublk-no-fua.img")).unwrap();
}

fn assert_quiesce_is_unsupported() {
    let target = null(MIB);
    let spec = DeviceSpec { recovery: Recovery::Requeue, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    let error = Control::open().unwrap().quiesce(live.device.id(), LIMIT).unwrap_err();
    assert!(matches!(error, Error::Unsupported { since: "6.16", .. }), "{error}");
    assert_eq!(error.to_string(), "this kernel has no control command QUIESCE_DEV");
}

/// Hands a device over in each way that its data can move and its commands can travel.
#[test]
#[ignore = "needs a ublk kernel"]
fn every_way_of_the_data_is_handed_over() {
    if !has(Features::QUIESCE) {
        return assert_quiesce_is_unsupported();
    }
    let per_io = Threads { count: Some(3), per_io: true };
    let ways = [
        (BufferMode::Copy, Threads::default()),
        (BufferMode::GetData, Threads::default()),
        (BufferMode::UserCopy, Threads::default()),
        (BufferMode::ZeroCopy, Threads::default()),
        (BufferMode::AutoZeroCopy, Threads::default()),
        (BufferMode::Copy, per_io),
    ];
    let path = std::env::temp_dir().join("ublk-ways.img");
    for (mode, threads) in ways {
        let _ = std::fs::remove_file(&path);
        let target = image(&path);
        let data_path = DataPath::Only(mode);
        let spec =
            DeviceSpec { recovery: Recovery::Requeue, queues: 2, data_path, threads, ..spec_for(target.as_ref()) };
        let mut live = Live::with(target, spec);
        let id = live.device.id();
        let load = Load::start(id, 0);
        load.wait_for_more_than(20);
        live.device.quiesce(LIMIT).unwrap();
        live.served.take().unwrap().join();
        live.device.close_char();
        wait_for(id, DevState::Quiesced);
        let before = load.done();
        let mut recovered = Recovered::take(id, Arc::clone(&live.target));
        assert_eq!(recovered.device.buffers(), mode);
        load.wait_for_more_than(before + 20);
        assert_eq!(load.check(id, 0), 0, "{mode:?} {threads:?}");
        recovered.device.quiesce(LIMIT).unwrap();
        recovered.served.take().unwrap().join();
        recovered.device.close_char();
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_with_batches_is_not_quiesced_and_goes_on() {
    if !has(Features::BATCH_IO) {
        return;
    }
    let target = mem(SIZE).unwrap();
    let queue_options = QueueOptions { batch: true, ..QueueOptions::default() };
    let spec = DeviceSpec { recovery: Recovery::Reissue, queue_options, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    let load = Load::start(live.device.id(), 0);
    let error = Control::open().unwrap().quiesce(live.device.id(), LIMIT).unwrap_err();
    assert!(error.to_string().contains("is served in batches"), "{error}");
    assert!(error.hint().contains("reissue"), "{}", error.hint());
    load.wait_for_more_than(load.done() + 20);
    assert_eq!(load.check(live.device.id(), 0), 0);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_without_recovery_dead_or_not_there_is_not_quiesced() {
    let control = Control::open().unwrap();
    assert!(matches!(control.quiesce(4000, LIMIT), Err(Error::NoDevice { id: 4000 })));
    let mut live = Live::new(null(MIB));
    let error = control.quiesce(live.device.id(), LIMIT).unwrap_err();
    assert!(error.to_string().contains("was made without recovery"), "{error}");
    live.stop();
    let error = control.quiesce(live.device.id(), LIMIT).unwrap_err();
    assert!(error.to_string().contains("is dead: it cannot be quiesced"), "{error}");
}

/// Does not answer reads of its second half until it is let go.
struct Silent(Arc<AtomicBool>);

impl Target for Silent {
    fn kind(&self) -> &'static str {
        "silent"
    }
    fn geometry(&self) -> Geometry {
        null(SIZE).geometry()
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
        while request.offset_bytes() == SIZE / 2 && !self.0.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Progress::Done(request.len_bytes as i32)
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_that_does_not_let_go_is_named() {
    if !has(Features::QUIESCE) {
        return assert_quiesce_is_unsupported();
    }
    // With one tag the driver waits for it; with many it has its answer, and the server is waited for.
    for depth in [1, 64] {
        let may_answer = Arc::new(AtomicBool::new(false));
        let target = Arc::new(Silent(Arc::clone(&may_answer)));
        let spec = DeviceSpec { recovery: Recovery::Requeue, depth, ..spec_for(target.as_ref()) };
        let mut live = Live::with(target, spec);
        let id = live.device.id();
        let file = live.open();
        let reader = std::thread::spawn(move || file.read_exact_at(&mut page(0).0, SIZE / 2));
        std::thread::sleep(Duration::from_millis(200));
        let error = Control::open().unwrap().quiesce(id, Duration::from_millis(300)).unwrap_err();
        assert!(
            matches!(error, Error::ServerSilent { pid, .. } if pid == std::process::id()),
            "depth {depth}: {error}"
        );
        assert_eq!((error.code(), error.syscall()), ("ERR_UBLK_TIMEOUT", Some("QUIESCE_DEV")));
        let kept = format!("`kill -9 {}`, then `ublk recover {id}`", std::process::id());
        assert!(error.hint().contains(&kept), "{}", error.hint());
        may_answer.store(true, Ordering::Release);
        // Asked again, it has idle tags, and the queue thread ends.
        let quiesced = std::thread::spawn(move || Control::open().unwrap().quiesce(id, LIMIT));
        live.served.take().unwrap().join();
        live.device.close_char();
        quiesced.join().unwrap().unwrap();
        reader.join().unwrap().unwrap();
        assert_eq!(state(id), DevState::Quiesced);
    }
}

fn size_of(id: DeviceId) -> u64 {
    // BLKGETSIZE64, by a program that everybody has.
    let output = Command::new("blockdev").args(["--getsize64", &block_path(id)]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_device_in_use_grows_and_shrinks() {
    let path = std::env::temp_dir().join("ublk-resize.img");
    let growing = FileOptions { size_bytes: Some(8 * MIB), create: true, ..FileOptions::default() };
    let mut live = Live::new(file(&path, &growing).unwrap());
    let id = live.device.id();
    let held = live.open();
    if !has(Features::UPDATE_SIZE) {
        let error = live.device.resize(16 * MIB).unwrap_err();
        assert!(matches!(error, Error::Unsupported { since: "6.16", .. }), "{error}");
        assert_eq!(error.to_string(), "this kernel has no control command UPDATE_SIZE");
        return std::fs::remove_file(path).unwrap();
    }
    for size in [16 * MIB, 4 * MIB, 32 * MIB] {
        live.target.resize(size).unwrap();
        live.device.resize(size).unwrap();
        assert_eq!(size_of(id), size);
        assert_eq!(Control::open().unwrap().info(id).unwrap().size_bytes, size);
        held.write_all_at(&page(7).0, size - 4096).unwrap();
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 32 * MIB, "it grew with the device, and never shrank");
    drop(held);
    live.stop();
    let error = live.device.resize(MIB).unwrap_err();
    assert!(error.to_string().contains("is dead: it cannot be resized"), "{error}");
    live.start();
    assert_eq!(size_of(id), 32 * MIB, "a stop keeps the size");
    drop(live);
    std::fs::remove_file(path).unwrap();
    assert!(matches!(Control::open().unwrap().resize(4000, MIB), Err(Error::NoDevice { id: 4000 })));
}

#[test]
fn a_target_says_how_far_it_can_grow() {
    let path = std::env::temp_dir().join("ublk-fixed.img");
    std::fs::write(&path, vec![0; MIB as usize]).unwrap();
    let fixed = file(&path, &FileOptions::default()).unwrap();
    fixed.resize(512).unwrap();
    let error = fixed.resize(2 * MIB).unwrap_err();
    assert!(error.to_string().contains("has 1048576 bytes, fewer than the 2097152 asked for"), "{error}");
    std::fs::remove_file(path).unwrap();
    let memory = mem(MIB).unwrap();
    memory.resize(MIB).unwrap();
    let error = memory.resize(2 * MIB).unwrap_err();
    assert_eq!(error.code(), "ERR_UBLK_NO_MEMORY");
    assert!(error.to_string().contains("2097152 bytes in a mem device that was made with 1048576"), "{error}");
    mem_zero_copy(MIB).unwrap().resize(2 * MIB).unwrap();
    null(MIB).resize(1 << 40).unwrap();
    // A layer leaves it to what is below.
    fault(null(MIB), Faults::default()).resize(2 * MIB).unwrap();
    assert_eq!(fault(mem(MIB).unwrap(), Faults::default()).resize(2 * MIB).unwrap_err().code(), "ERR_UBLK_NO_MEMORY");
    // Zones are the disk's whole size, and no other one has them.
    let zones = zoned(&ZonedOptions { size_bytes: 16 * MIB, zone_bytes: 4 * MIB, ..ZonedOptions::default() }).unwrap();
    zones.resize(16 * MIB).unwrap();
    for size_bytes in [8 * MIB, 32 * MIB] {
        let error = zones.resize(size_bytes).unwrap_err();
        assert_eq!(error.code(), "ERR_UBLK_INVALID_OPTION");
        assert!(error.to_string().starts_with("a zoned device keeps the 16777216 bytes"), "{error}");
    }
}
