//! One thread's queue with its native target and its buffers: opened, served until the device is stopped, and taken down.
//!
//! Thread: the queue's owner. Invariant: backing operations end before the memory that they use is freed.
//! A panic in the target is caught here: from then on every request is answered EIO until the device is stopped.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ublk_executor::{Mapping, Wait};

use super::io::Io;
use super::serving::Serving;
use super::{BufferAddress, Queue, Slot};
use crate::Error;
use crate::device::CharDevice;
use crate::target::{Progress, QueueTarget, Target};

/// A queue, what its requests need, and its target.
pub(crate) struct NativeQueue {
    serving: Serving,
    target: Box<dyn QueueTarget>,
}

impl NativeQueue {
    pub(crate) fn open(device: &Arc<CharDevice>, slots: &[Slot], target: &dyn Target) -> Result<NativeQueue, Error> {
        let queue = Queue::open_slots(device, slots, &target.files())?;
        let buffers = (!device.buffers().is_zero_copy())
            .then(|| Mapping::new(slots.len() * device.max_io_bytes() as usize))
            .transpose()
            .map_err(|_| Error::NoMemory { what: format!("{} tag buffers", slots.len()), id: Some(device.id()) })?;
        let addresses = (0..slots.len()).map(|tag| tag_buffer(device, buffers.as_ref(), tag)).collect();
        let target = target.queue(device, queue.tags())?;
        Ok(NativeQueue {
            serving: Serving {
                queue,
                buffers,
                addresses,
                shared_memory: Arc::clone(device.shared_memory()),
                woken: Vec::with_capacity(slots.len()),
                broken: None,
                uses_data: target.uses_data(),
                is_failing: false,
            },
            target,
        })
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.serving.queue
    }

    /// Fetches every tag; START_DEV may be sent from now on.
    pub(crate) fn fetch_all(&mut self) -> Result<(), Error> {
        let serving = &mut self.serving;
        for tag in all_tags(&serving.queue) {
            serving.queue.fetch(tag, serving.own_buffer(tag))?;
        }
        serving.queue.turn(Wait::No)?;
        self.target.drain(&mut self.serving);
        self.serving.broken.take().map_or(Ok(()), Err)
    }

    /// Serves until the device is stopped, quiesced, or given up. `report` hears of a panic in the target, once.
    pub(crate) fn serve(&mut self, report: &dyn Fn(String)) -> Result<(), Error> {
        loop {
            while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.target.drain(&mut self.serving))) {
                if !std::mem::replace(&mut self.serving.is_failing, true) {
                    report(format!("the target panicked: {}", panic_text(panic.as_ref())));
                }
                self.fail_open_requests();
            }
            let Serving { queue, broken, .. } = &mut self.serving;
            if broken.is_some() {
                return broken.take().map_or(Ok(()), Err);
            }
            if queue.is_over() {
                return Ok(());
            }
            if queue.device().is_given_up() && queue.backing_open() == 0 {
                // What was answered has to reach the driver.
                return queue.turn(Wait::No);
            }
            queue.turn(Wait::Forever)?;
        }
    }

    fn fail_open_requests(&mut self) {
        let serving = &mut self.serving;
        for tag in all_tags(&serving.queue) {
            if serving.queue.is_open(tag) && !serving.queue.has_backing(tag) {
                let committed = serving.queue.commit(tag, -libc::EIO, serving.own_buffer(tag));
                serving.note(committed);
            }
        }
    }
}

fn all_tags(queue: &Queue) -> impl Iterator<Item = u16> + use<> {
    (0..queue.tags()).map(|tag| tag as u16) // 65 536 at most, so numbered to 65 535
}

#[allow(unsafe_code)]
fn tag_buffer(device: &CharDevice, buffers: Option<&Mapping>, tag: usize) -> BufferAddress {
    let Some(buffers) = buffers else { return BufferAddress::NONE };
    let bytes = device.max_io_bytes() as usize;
    // SAFETY: `max_io_bytes` of the mapping for each tag; it is dropped after the queue, and Rust touches it by raw copies only.
    unsafe { BufferAddress::new(buffers.address(tag * bytes, bytes)) }
}

impl Drop for NativeQueue {
    fn drop(&mut self) {
        // Those of a ring that is broken go on: what they use is never freed.
        if self.serving.queue.finish_backing() {
            self.serving.queue.keep(self.serving.buffers.take());
        } else {
            std::mem::forget(self.serving.buffers.take());
            Arc::clone(&self.serving.shared_memory).keep();
            std::mem::forget(std::mem::replace(&mut self.target, Box::new(Gone)));
        }
    }
}

/// Stands for a target whose memory the kernel may still use.
struct Gone;

impl QueueTarget for Gone {
    fn start(&mut self, _: u16, _: &super::Request, _: &mut Io<'_>) -> Progress {
        Progress::Done(-libc::EIO)
    }
}

/// The target has panicked where nothing can be answered any more.
pub(crate) fn panicked(device: &CharDevice, panic: &(dyn Any + Send)) -> Error {
    let source = std::io::Error::other(panic_text(panic).to_owned());
    Error::Kernel { id: Some(device.id()), call: "the target panicked", source }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}
