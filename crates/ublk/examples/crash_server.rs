//! A server that is made to end badly, for the crash matrix: a file behind a target that panics when it is told to.
//!
//! ```text
//! crash_server IMAGE MODE off|requeue|reissue|fail-io DELAY_MS [ID]
//! ```
//! MODE is a buffer mode, or `batch`. Every request waits DELAY_MS first. With ID it recovers that device. Says `device ID` when it is live;
//! on the line `panic` its next request panics; at the end of its input it stops and deletes the device. It ends when somebody else stops it.

use std::error::Error;
use std::io::BufRead;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ublk::serve::ServeEvent;
use ublk::target::{BufferAddress, Faults, FileOptions, Geometry, Io, Progress, QueueTarget, Request, fault, file};
use ublk::{
    BufferMode, CharDevice, Control, DataPath, Device, DeviceSpec, QueueOptions, Recovery, Target, spawn_target,
};

const USAGE: &str = "crash_server IMAGE MODE off|requeue|reissue|fail-io DELAY_MS [ID]";

/// The lock of a killed server goes with its ring, a little later than the process.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Why the server ends.
#[derive(PartialEq)]
enum End {
    /// The end of its input.
    Asked,
    /// Somebody else has stopped the device: what becomes of it is theirs to say.
    Stopped,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, mode, recovery, delay, rest @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let is_armed = Arc::new(AtomicBool::new(false));
    let target = open_target(Path::new(image), delay.parse()?, &is_armed)?;
    let spec = spec_for(target.as_ref(), mode, recovery)?;

    let control = Control::open()?;
    let mut device = match rest.first() {
        Some(id) => Device::recover(&control, id.parse()?)?,
        None => Device::add(&control, spec)?,
    };
    let (tell, told) = mpsc::channel();
    let ended = tell.clone();
    let observer = move |event| {
        eprintln!("crash_server: {event:?}");
        if matches!(event, ServeEvent::Ended) {
            let _ = ended.send(End::Stopped);
        }
    };
    let served = spawn_target(&mut device, target, Arc::new(observer))?;
    device.start()?;
    println!("device {}", device.id());

    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            is_armed.store(line == "panic", Ordering::Release);
        }
        let _ = tell.send(End::Asked);
    });
    if told.recv()? == End::Stopped {
        served.join();
        return Ok(());
    }
    device.stop()?;
    served.join();
    device.close_char();
    device.delete()?;
    Ok(())
}

fn open_target(path: &Path, delay_ms: u64, is_armed: &Arc<AtomicBool>) -> Result<Arc<dyn Target>, ublk::Error> {
    let until = Instant::now() + LOCK_LIMIT;
    let below = loop {
        match file(path, &FileOptions::default()) {
            Err(ublk::Error::Busy { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            opened => break opened?,
        }
    };
    let slow = if delay_ms == 0 {
        below
    } else {
        fault(below, Faults { delay: Duration::from_millis(delay_ms), ..Faults::default() })
    };
    Ok(Arc::new(Panicking { below: slow, is_armed: Arc::clone(is_armed) }))
}

fn spec_for(target: &dyn Target, mode: &str, recovery: &str) -> Result<DeviceSpec, Box<dyn Error>> {
    let batch = mode == "batch";
    let named = |buffers: &&BufferMode| buffers.name() == mode;
    let buffers = if batch { BufferMode::Copy } else { *BufferMode::ALL.iter().find(named).ok_or(USAGE)? };
    let recovery = match recovery {
        "off" => Recovery::Off,
        "requeue" => Recovery::Requeue,
        "reissue" => Recovery::Reissue,
        "fail-io" => Recovery::FailIo,
        _ => return Err(USAGE.into()),
    };
    Ok(DeviceSpec {
        depth: 16,
        queues: 2,
        recovery,
        data_path: DataPath::Only(buffers),
        queue_options: QueueOptions { batch, ..QueueOptions::default() },
        ..DeviceSpec::for_target(target)
    })
}

/// A target with a fault in its code.
struct Panicking {
    below: Arc<dyn Target>,
    is_armed: Arc<AtomicBool>,
}

struct PanickingQueue {
    below: Box<dyn QueueTarget>,
    is_armed: Arc<AtomicBool>,
}

impl Target for Panicking {
    fn kind(&self) -> &'static str {
        "panicking"
    }
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        self.below.buffers()
    }
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.below.files()
    }
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, ublk::Error> {
        let below = self.below.queue(device, tags)?;
        Ok(Box::new(PanickingQueue { below, is_armed: Arc::clone(&self.is_armed) }))
    }
}

impl QueueTarget for PanickingQueue {
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        assert!(!self.is_armed.load(Ordering::Acquire), "this target was told to panic");
        self.below.start(tag, request, io)
    }
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        self.below.resume(tag, request, part, result, io)
    }
    fn place(&mut self, request: &Request) -> BufferAddress {
        self.below.place(request)
    }
}
