//! The boundary between the ublk server and Node.js: converts and wakes. The only crate that knows Node.
//!
//! ```text
//! device, worker_queue, info, stats, target, error, outcome   what JavaScript sees: mirrors of src/native.ts
//! lifecycle, ops, registry, owner                             operations of a device, off JavaScript's threads; who holds what
//! session, bridge, main_queue, watchdog                       one run of JavaScript's queues: requests out, completions in, deadlines
//! memory, layout                                              what a queue shares with JavaScript
//! copy, hot_function, events, uv, env_hook                    fast calls out of and into JavaScript; libuv; the end of an environment
//! notify                                                      a message to the service manager
//! ```
//!
//! No policy: defaults, ranges and messages for people are TypeScript's. An expected failure is an answer (`Outcome`), a throw is a bug, and
//! nothing ends the process: every exported function catches panics. Unsafe code lives in memory, copy,
//! hot_function, uv, env_hook and outcome.

#![deny(unsafe_code)]

mod bridge;
#[cfg(test)]
mod bridge_tests;
#[cfg(not(test))] // only Node calls it
#[allow(unsafe_code)]
mod copy;
mod device;
#[allow(unsafe_code)]
mod env_hook;
mod error;
mod events;
#[allow(unsafe_code)]
mod hot_function;
mod info;
mod layout;
mod lifecycle;
#[cfg(test)]
mod lifecycle_tests;
mod main_queue;
#[allow(unsafe_code)]
mod memory;
mod notify;
mod ops;
#[allow(unsafe_code)]
mod outcome;
mod owner;
mod registry;
mod request_memory;
mod session;
mod stats;
mod target;
#[allow(unsafe_code)]
mod uv;
mod watchdog;
mod worker_queue;

use std::time::{Duration, Instant};

use napi::Env;
use napi::bindgen_prelude::{Function, Null, Object, Unknown};
use napi_derive::napi;
use ublk::{Control, Error};

use device::DeviceSpec;
use events::NativeEvent;
use info::{NativeDeviceInfo, NativeFeatures};

/// Version of the addon, equal to the package's.
#[napi(catch_unwind)]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// What the kernel offers.
#[napi(catch_unwind)]
pub fn features(env: &Env) -> napi::Result<Object<'_>> {
    ops::run(env, || Ok(Control::open()?.features()?), |_, features| features.map(NativeFeatures::from))
}

/// Every ublk device of this machine, lowest id first.
#[napi(catch_unwind)]
pub fn list_devices(env: &Env) -> napi::Result<Object<'_>> {
    ops::run(
        env,
        || Ok(ublk::list(&Control::open()?)?),
        |_, devices| Ok(devices?.into_iter().map(NativeDeviceInfo::from).collect::<Vec<_>>()),
    )
}

/// One device.
#[napi(catch_unwind)]
pub fn device_info(env: &Env, id: u32) -> napi::Result<Object<'_>> {
    ops::run(env, move || Ok(Control::open()?.info(id)?), |_, info| info.map(NativeDeviceInfo::from))
}

/// CPUs whose requests come to a queue.
#[napi(catch_unwind)]
pub fn queue_affinity(env: &Env, id: u32, queue: u32) -> napi::Result<Object<'_>> {
    ops::run(
        env,
        move || Ok(Control::open()?.queue_affinity(id, queue as u16)?),
        |_, cpus| Ok(cpus?.into_iter().map(|cpu| cpu as u32).collect::<Vec<_>>()),
    )
}

/// STOP_DEV for a device of any process; `safe`: TRY_STOP_DEV.
#[napi(catch_unwind)]
pub fn stop_device(env: &Env, id: u32, safe: bool) -> napi::Result<Object<'_>> {
    let stop = move || -> Result<(), Error> {
        let control = Control::open()?;
        if safe { control.try_stop(id) } else { control.stop(id) }
    };
    ops::run(env, move || Ok(stop()?), |_, stopped| stopped.map(|()| Null))
}

/// QUIESCE_DEV for a device of any process; settles when its server has let go.
#[napi(catch_unwind)]
pub fn quiesce_device(env: &Env, id: u32, limit_ms: f64) -> napi::Result<Object<'_>> {
    let limit = Duration::from_secs_f64(limit_ms / 1000.0);
    ops::run(env, move || Ok(Control::open()?.quiesce(id, limit)?), |_, quiesced| quiesced.map(|()| Null))
}

/// UPDATE_SIZE for a device of any process.
#[napi(catch_unwind)]
pub fn resize_device(env: &Env, id: u32, size_bytes: i64) -> napi::Result<Object<'_>> {
    ops::run(env, move || Ok(Control::open()?.resize(id, size_bytes as u64)?), |_, resized| resized.map(|()| Null))
}

/// STOP_DEV and DEL_DEV for a device of any process.
#[napi(catch_unwind)]
pub fn delete_device(env: &Env, id: u32, wait: bool) -> napi::Result<Object<'_>> {
    let delete = move || -> Result<(), Error> {
        let control = Control::open()?;
        control.stop(id)?;
        if wait { control.delete(id).map(drop) } else { control.delete_async(id) }
    };
    ops::run(env, move || Ok(delete()?), |_, deleted| deleted.map(|()| Null))
}

/// A message to the service manager at `address`.
#[napi(catch_unwind)]
pub fn notify(env: &Env, address: String, state: String) -> napi::Result<Object<'_>> {
    ops::run(env, move || notify::notify(&address, &state), |_, sent| sent.map(|()| Null))
}

/// Adds a device, and starts it if asked; `on_event` is called on this thread.
#[napi(catch_unwind)]
pub fn add_device<'env>(
    env: &'env Env,
    spec: DeviceSpec,
    starts: bool,
    on_event: Function<'_, NativeEvent, Unknown<'static>>,
) -> napi::Result<Object<'env>> {
    device::add(env, spec, device::Origin::New, starts, &on_event)
}

/// Takes over a device whose server is gone; `spec` says what it is already, and what serves it from now on.
#[napi(catch_unwind)]
pub fn recover_device<'env>(
    env: &'env Env,
    id: u32,
    spec: DeviceSpec,
    starts: bool,
    on_event: Function<'_, NativeEvent, Unknown<'static>>,
) -> napi::Result<Object<'env>> {
    device::add(env, spec, device::Origin::Existing(id), starts, &on_event)
}

/// Last resort at process exit: fails, stops and deletes every device of this process.
#[napi(catch_unwind)]
pub fn shutdown(limit_ms: f64) {
    let until = Instant::now() + Duration::from_secs_f64(limit_ms.max(0.0) / 1000.0);
    registry::forbid_adding(until);
    lifecycle::end_all(&registry::all(), until);
}
