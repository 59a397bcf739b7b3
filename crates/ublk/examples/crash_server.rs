//! A server that is made to end badly, for the crash matrix: a file behind a target that panics when it is told to.
//!
//! ```text
//! crash_server IMAGE MODE off|requeue|reissue|fail-io DELAY_MS [ID]
//! ```
//! MODE is a buffer mode, `batch`, or `shmem=FILE`. Every request waits DELAY_MS first. With ID it recovers that device. Says `device ID`
//! when it is live; on the line `panic` its next request panics, and it leaves the device to its recovery, as the addon does, but does not
//! end. At the end of its input it stops and deletes the device. It ends when somebody else stops it.

use std::error::Error;
use std::io::BufRead;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ublk::serve::{ServeEvent, Served};
use ublk::target::{BufferAddress, Faults, FileOptions, Geometry, Io, Progress, QueueTarget, Request, fault, file};
use ublk::uapi::Features;
use ublk::{
    BufferMode, CharDevice, Control, DataPath, Device, DeviceSpec, FormerMemory, QueueOptions, Recovery, SharedMemory,
    Target, spawn_target,
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
    /// The target has panicked.
    Panicked,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, mode, recovery, delay, rest @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let is_armed = Arc::new(AtomicBool::new(false));
    let target = open_target(Path::new(image), delay.parse()?, &is_armed)?;
    let spec = spec_for(target.as_ref(), mode, recovery)?;

    let control = Control::open()?;
    let mut device = match rest.first() {
        Some(id) => {
            let former = spec.shared_memory.into_iter().map(|memory| FormerMemory { number: 0, memory: Some(memory) });
            let mut device = Device::recover(&control, id.parse()?)?;
            device.take_shared_memory(former.collect())?;
            device
        }
        None => Device::add(&control, spec)?,
    };
    let (tell, told) = mpsc::channel();
    let ended = tell.clone();
    let observer = move |event| {
        eprintln!("crash_server: {event:?}");
        let _ = match event {
            ServeEvent::Ended => ended.send(End::Stopped),
            ServeEvent::QueueFailed(_) => ended.send(End::Panicked),
            ServeEvent::Warning(_) => Ok(()),
        };
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
    match told.recv()? {
        End::Asked => {
            device.stop()?;
            served.join();
            device.close_char();
            device.delete()?;
        }
        End::Stopped => served.join(),
        End::Panicked => {
            let_go(&mut device, served)?;
            while told.recv()? != End::Asked {}
        }
    }
    Ok(())
}

/// Leaves the device to its recovery. Before Linux 6.16 the driver may forget a request of a queue that ends while its process lives: there
/// the device is stopped.
fn let_go(device: &mut Device, served: Served) -> Result<(), ublk::Error> {
    let may_end_alone = device.control().features()?.contains(Features::QUIESCE);
    if may_end_alone && device.spec().recovery != Recovery::Off {
        served.give_up();
    } else {
        device.stop()?;
    }
    served.join();
    device.close_char();
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
    let (mode, shared) = mode.split_once('=').map_or((mode, None), |(mode, file)| (mode, Some(file)));
    let shared_memory = shared.map(|file| SharedMemory::open(Path::new(file), false)).transpose()?.map(Arc::new);
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
        shared_memory: shared_memory.into_iter().collect(),
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
    fn serves_zero_copy(&self) -> bool {
        self.below.serves_zero_copy()
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
