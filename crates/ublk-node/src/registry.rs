//! Every device of this process by its key: how a worker finds the device of another thread, and how the process's end finds them all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lifecycle::DeviceState;

static DEVICES: Mutex<Option<HashMap<u32, Arc<DeviceState>>>> = Mutex::new(None);
static ADDING: Mutex<Adding> = Mutex::new(Adding { running: 0, forbidden: false });
static ADDED: Condvar = Condvar::new();
static NEXT_KEY: AtomicU32 = AtomicU32::new(1);

struct Adding {
    running: u32,
    forbidden: bool,
}

/// A number for a new device, never used again in this process.
pub(crate) fn next_key() -> u32 {
    NEXT_KEY.fetch_add(1, Ordering::Relaxed)
}

/// Makes a device known.
pub(crate) fn insert(state: &Arc<DeviceState>) {
    devices().get_or_insert_default().insert(state.key, Arc::clone(state));
}

/// The device of a key.
pub(crate) fn get(key: u32) -> Option<Arc<DeviceState>> {
    devices().as_ref()?.get(&key).cloned()
}

/// Forgets a deleted device.
pub(crate) fn remove(key: u32) {
    let removed = devices().as_mut().and_then(|table| table.remove(&key));
    drop(removed);
}

/// All devices.
pub(crate) fn all() -> Vec<Arc<DeviceState>> {
    devices().as_ref().map(|table| table.values().cloned().collect()).unwrap_or_default()
}

/// Runs while a device is between ADD_DEV and `insert`. None: the process is ending, add nothing.
pub(crate) fn begin_adding() -> Option<AddingGuard> {
    let mut adding = adding();
    if adding.forbidden {
        return None;
    }
    adding.running += 1;
    Some(AddingGuard)
}

/// See [`begin_adding`].
pub(crate) struct AddingGuard;

impl Drop for AddingGuard {
    fn drop(&mut self) {
        adding().running -= 1;
        ADDED.notify_all();
    }
}

/// Forbids new devices and waits until those being added are known.
pub(crate) fn forbid_adding(until: Instant) {
    let mut adding = adding();
    adding.forbidden = true;
    while adding.running > 0 {
        let left = until.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return;
        }
        adding = ADDED.wait_timeout(adding, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn devices() -> MutexGuard<'static, Option<HashMap<u32, Arc<DeviceState>>>> {
    DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn adding() -> MutexGuard<'static, Adding> {
    ADDING.lock().unwrap_or_else(PoisonError::into_inner)
}
