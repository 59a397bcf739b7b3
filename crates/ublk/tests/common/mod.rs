//! Devices for tests on a real kernel: made, used past the page cache, and gone at the end whatever happens.

#![allow(dead_code, unreachable_pub)] // each test binary uses its part

pub mod elsewhere;
pub mod huge;
pub mod nbd_server;
pub mod watched;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ublk::serve::ServeEvent;
use ublk::{Control, Deletion, Device, DeviceSpec, Error, Served, Target, spawn_target};

pub const MIB: u64 = 1 << 20;

/// Bytes at an address that O_DIRECT takes.
#[repr(align(4096))]
#[derive(Clone)]
pub struct Page(pub [u8; 4096]);

pub fn page(fill: u8) -> Box<Page> {
    Box::new(Page([fill; 4096]))
}

/// A spec that takes everything from the target.
pub fn spec_for(target: &dyn Target) -> DeviceSpec {
    DeviceSpec { depth: 64, ..DeviceSpec::for_target(target) }
}

/// This test program once more, in its test `serve_for_another_process`: the process, and the block device that it says it `serves`.
pub fn serve_elsewhere(variables: &[(&str, &OsStr)]) -> (Child, String) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "serve_for_another_process", "--nocapture"])
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let block = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("serves ")?.1.to_owned()));
    (server, block.expect("the other process ended"))
}

/// Runs a program with text on its standard input; it must succeed.
pub fn run_with_input(command: &[&str], input: &str) {
    let mut child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}

/// Opens a target over files of a server that was killed: their locks go with its ring, a little later than the process.
pub fn of_the_dead(open: impl Fn() -> Result<Arc<dyn Target>, Error>) -> Arc<dyn Target> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match open() {
            Err(Error::Busy { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            target => return target.unwrap(),
        }
    }
}

/// Whether it is so within two seconds, and still is half a second later.
pub fn eventually(is_so: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(2);
    while !is_so() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
    is_so()
}

/// A live device with its queue threads and what they reported.
pub struct Live {
    pub device: Device,
    pub served: Option<Served>,
    pub events: Arc<Mutex<Vec<ServeEvent>>>,
    pub target: Arc<dyn Target>,
}

impl Live {
    pub fn new(target: Arc<dyn Target>) -> Live {
        let spec = spec_for(target.as_ref());
        Live::with(target, spec)
    }

    pub fn with(target: Arc<dyn Target>, spec: DeviceSpec) -> Live {
        let control = Control::open().unwrap();
        let device = Device::add(&control, spec).unwrap();
        let mut live = Live { device, served: None, events: Arc::default(), target };
        live.start();
        live
    }

    pub fn start(&mut self) {
        let events = Arc::clone(&self.events);
        let observer = Arc::new(move |event| events.lock().unwrap().push(event));
        self.served = Some(spawn_target(&mut self.device, Arc::clone(&self.target), observer).unwrap());
        self.device.start().unwrap();
    }

    pub fn stop(&mut self) {
        self.device.stop().unwrap();
        if let Some(served) = self.served.take() {
            served.join();
        }
        self.device.close_char();
    }

    pub fn path(&self) -> String {
        ublk::control::block_path(self.device.id())
    }

    /// What its target has warned of so far.
    pub fn warnings(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let texts = events.iter().filter_map(|event| match event {
            ServeEvent::Warning(text) => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    }

    /// The block device past the page cache.
    pub fn open(&self) -> File {
        File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(self.path()).unwrap()
    }

    pub fn write(&self, offset: u64, fill: u8) {
        self.open().write_all_at(&page(fill).0, offset).unwrap();
    }

    pub fn read(&self, offset: u64) -> Box<Page> {
        let mut data = page(0xee);
        self.open().read_exact_at(&mut data.0, offset).unwrap();
        data
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop();
        // Where many are removed at once, its turn may come later: one after the other, in half a second each on a slow machine.
        let until = Instant::now() + Duration::from_secs(120);
        let deletion = self.device.delete().unwrap();
        let path = ublk::control::char_path(self.device.id());
        while std::path::Path::new(&path).exists() {
            assert!(deletion == Deletion::WhenReleased && Instant::now() < until, "{path} is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
