//! Many devices: one after the other without a trace, at the same time in one process and in many, and of every depth.
//! `UBLK_WHOLE=1` makes as many as the promise says; without, a few.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Live, MIB, page, spec_for};
use ublk::target::{mem, null};
use ublk::{Control, Device, DeviceSpec};

/// Set for the programs that one of the tests starts: what to fill their device with.
const FILL: &str = "UBLK_TEST_FILL";

fn is_whole() -> bool {
    std::env::var_os("UBLK_WHOLE").is_some()
}

/// At the same time.
fn count() -> u8 {
    if is_whole() { 64 } else { 16 }
}

/// What a process holds. The control plane's thread comes and goes on its own.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    devices: usize,
}

fn held() -> Held {
    let entries = |path: &str| std::fs::read_dir(path).unwrap();
    let is_ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("ublk") && name != "ublk-control";
    let threads = entries("/proc/self/task").filter(|task| {
        let comm = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap_or_default();
        comm.trim() != "ublk-control"
    });
    let devices =
        entries("/dev").chain(entries("/sys/block")).filter(|entry| is_ours(&entry.as_ref().unwrap().file_name()));
    Held { descriptors: entries("/proc/self/fd").count(), threads: threads.count(), devices: devices.count() }
}

/// The kernel and udev take away what is left of a device in their own time.
fn assert_held(before: &Held) {
    let until = Instant::now() + Duration::from_secs(20);
    while !held().is_within(before) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(held().is_within(before), "{:?}, and before {before:?}", held());
}

impl Held {
    /// The control plane of an earlier test may have gone meanwhile.
    fn is_within(&self, before: &Held) -> bool {
        self.descriptors <= before.descriptors && self.threads <= before.threads && self.devices <= before.devices
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
#[ignore = "needs a ublk kernel"]
fn devices_come_and_go_without_a_trace() {
    let (used, unused) = if is_whole() { (1000, 5000) } else { (60, 100) };
    let control = Control::open().unwrap();
    let target = null(MIB);
    let use_one = || {
        let live = Live::new(mem(MIB).unwrap());
        live.write(4096, 0x5a);
        assert!(live.read(4096).0 == [0x5a; 4096]);
    };
    let add_one = || Device::add(&control, spec_for(target.as_ref())).unwrap().delete().map(drop).unwrap();
    use_one();
    add_one();
    let (before, mut resident) = (held(), 0);
    for round in 0..used {
        use_one();
        // By then the allocator has what it keeps.
        if round == used / 10 {
            resident = resident_bytes();
        }
    }
    (0..unused).for_each(|_| add_one());
    assert_held(&before);
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 4 * MIB, "{grown} bytes more after {used} devices");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn devices_of_one_process_keep_their_own_data() {
    let before = held();
    let lives: Vec<Live> = (0..count()).map(|_| Live::new(mem(MIB).unwrap())).collect();
    for (fill, live) in lives.iter().enumerate() {
        live.write(4096, fill as u8 + 1);
    }
    for (fill, live) in lives.iter().enumerate() {
        assert!(live.read(4096).0 == [fill as u8 + 1; 4096], "device {}", live.device.id());
    }
    drop(lives);
    assert_held(&before);
}

/// Serves until its standard input ends. Started by the test below, and else nothing.
#[test]
#[ignore = "needs a ublk kernel"]
fn one_of_many() {
    let Ok(fill) = std::env::var(FILL) else { return };
    let live = Live::new(mem(MIB).unwrap());
    live.write(4096, fill.parse().unwrap());
    println!("{FILL} {}", live.path());
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().for_each(drop);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn processes_serve_at_the_same_time() {
    let before = held();
    let mut servers: Vec<Child> = (1..=count()).map(server).collect();
    let mut outputs: Vec<_> = servers.iter_mut().map(|server| BufReader::new(server.stdout.take().unwrap())).collect();
    for (index, output) in outputs.iter_mut().enumerate() {
        let line = output.lines().map(Result::unwrap).find(|line| line.contains(FILL)).expect("a server has ended");
        let path = line.split(' ').next_back().unwrap();
        let mut data = page(0xee);
        std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::open(path).unwrap(), &mut data.0, 4096).unwrap();
        assert!(data.0 == [index as u8 + 1; 4096], "{path}");
    }
    servers.iter_mut().for_each(|server| drop(server.stdin.take()));
    for mut server in servers {
        assert!(server.wait().unwrap().success());
    }
    drop(outputs);
    assert_held(&before);
}

fn server(fill: u8) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "one_of_many"])
        .env(FILL, fill.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn every_depth_starts() {
    let target = mem(MIB).unwrap();
    let few = [1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 2047, 2048, 2049, 4095, 4096];
    let depths: Vec<u16> = if is_whole() { (1..=4096).collect() } else { few.to_vec() };
    for depth in depths {
        let spec = DeviceSpec { depth, max_io_bytes: 4096, ..spec_for(target.as_ref()) };
        let live = Live::with(Arc::clone(&target), spec);
        live.write(0, depth as u8);
        assert!(live.read(0).0 == [depth as u8; 4096], "depth {depth}");
    }
}
