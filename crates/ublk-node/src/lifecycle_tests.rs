//! What becomes of a device whose native target panics.
//! Needs a kernel with ublk and root: `make test-vm` runs these.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ublk::target::{Geometry, Io, Progress, QueueTarget, Request};
use ublk::uapi::{DevState, Features};
use ublk::{BufferMode, CharDevice, Control, Device, DeviceSpec, Error, Recovery, Target};

use crate::events::Events;
use crate::lifecycle::DeviceState;
use crate::registry;

const MIB: u64 = 1 << 20;
/// A place that partition scans and udev do not read.
const PLACE: u64 = 32 * MIB;

/// Reads as zeroes, but for one place.
struct Panicking;

impl Target for Panicking {
    fn kind(&self) -> &'static str {
        "panicking"
    }
    fn geometry(&self) -> Geometry {
        ublk::target::null(64 * MIB).geometry()
    }
    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::Copy]
    }
    fn queue(&self, _: &Arc<CharDevice>, _: u32) -> Result<Box<dyn QueueTarget>, Error> {
        Ok(Box::new(Panicking))
    }
}

impl QueueTarget for Panicking {
    fn start(&mut self, _: u16, request: &Request, _: &mut Io<'_>) -> Progress {
        assert!(request.offset_bytes() != PLACE, "this place is cursed");
        Progress::Done(request.done_bytes())
    }
}

fn live(recovery: Recovery) -> Arc<DeviceState> {
    let target: Arc<dyn Target> = Arc::new(Panicking);
    let spec = DeviceSpec { recovery, depth: 4, queues: 2, ..DeviceSpec::for_target(target.as_ref()) };
    let device = Device::add(&Control::open().unwrap(), spec).unwrap();
    let state = DeviceState::new(registry::next_key(), device, Some(target), Duration::ZERO, Events::closed());
    state.start().unwrap();
    state
}

#[repr(align(4096))]
struct Page([u8; 4096]);

fn panic_in(device: &DeviceState) {
    let path = ublk::control::block_path(device.id);
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let refused = file.read_exact_at(&mut Page([0; 4096]).0, PLACE).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
}

fn comes_to(device: &DeviceState, wanted: DevState) {
    let until = Instant::now() + Duration::from_secs(20);
    while device.info().unwrap().state != wanted {
        assert!(Instant::now() < until, "device {} is {:?}", device.id, device.info().unwrap().state);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_panic_of_the_target_leaves_a_device_with_recovery_to_the_next_server() {
    if !Control::open().unwrap().features().unwrap().contains(Features::QUIESCE) {
        return; // the next test says what is done there
    }
    for recovery in [Recovery::Requeue, Recovery::Reissue] {
        let device = live(recovery);
        panic_in(&device);
        comes_to(&device, DevState::Quiesced);
        let control = Control::open().unwrap();
        // Forgotten here: it is the next server's.
        device.close().unwrap();
        assert_eq!(control.info(device.id).unwrap().state, DevState::Quiesced);
        control.delete(device.id).unwrap();
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_panic_of_the_target_stops_a_device_without_recovery_or_quiesce() {
    let can_quiesce = Control::open().unwrap().features().unwrap().contains(Features::QUIESCE);
    let stopped: &[Recovery] =
        if can_quiesce { &[Recovery::Off] } else { &[Recovery::Off, Recovery::Requeue, Recovery::Reissue] };
    for &recovery in stopped {
        let device = live(recovery);
        panic_in(&device);
        comes_to(&device, DevState::Dead);
        device.close().unwrap();
    }
}
