//! What the JavaScript thread that made a device keeps for it: references to shared memory, and the hook for the thread's end.
//!
//! Thread: the owner's. napi references belong to one environment, and so to one thread: hence a thread-local table by device key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::Uint8Array;

use crate::env_hook::EnvHook;
use crate::events::Wakes;
use crate::lifecycle::DeviceState;

struct Owned {
    state: Arc<DeviceState>,
    /// Slabs and control memories of the current run: the kernel and our threads hold addresses in them.
    memory: Vec<Uint8Array>,
    wakes: Option<Arc<Wakes>>,
    is_live: bool,
    wants_ref: bool,
    hook: Option<EnvHook>,
}

thread_local! {
    static OWNED: RefCell<HashMap<u32, Owned>> = RefCell::default();
}

/// Remembers a new device.
pub(crate) fn add(env: &Env, state: Arc<DeviceState>) -> napi::Result<()> {
    let key = state.key;
    let owned = Owned { state, memory: Vec::new(), wakes: None, is_live: false, wants_ref: true, hook: None };
    OWNED.with_borrow_mut(|table| table.insert(key, owned));
    rearm_hook(env, key)
}

/// Holds what a run needs, until `release`.
pub(crate) fn hold(env: &Env, key: u32, memory: Vec<Uint8Array>, wakes: Option<Arc<Wakes>>) -> napi::Result<()> {
    let former = OWNED.with_borrow_mut(|table| {
        let owned = table.get_mut(&key)?;
        Some((std::mem::replace(&mut owned.memory, memory), std::mem::replace(&mut owned.wakes, wakes)))
    });
    drop(former);
    rearm_hook(env, key)
}

/// The run is over: its queues are gone.
pub(crate) fn release(env: &Env, key: u32) {
    set_live(env, key, false);
    let held = OWNED.with_borrow_mut(|table| {
        let owned = table.get_mut(&key)?;
        Some((std::mem::take(&mut owned.memory), owned.wakes.take()))
    });
    if let Some((_, Some(wakes))) = &held {
        wakes.close();
    }
}

/// The device is deleted.
pub(crate) fn remove(key: u32) {
    let owned = OWNED.with_borrow_mut(|table| table.remove(&key));
    if let Some(owned) = owned {
        owned.close_sinks();
    }
}

/// A live device keeps the process alive.
pub(crate) fn set_live(env: &Env, key: u32, is_live: bool) {
    update(env, key, |owned| owned.is_live = is_live);
}

/// `ref()` and `unref()`.
pub(crate) fn set_ref(env: &Env, key: u32, wants_ref: bool) {
    update(env, key, |owned| owned.wants_ref = wants_ref);
}

fn update(env: &Env, key: u32, change: impl FnOnce(&mut Owned)) {
    OWNED.with_borrow_mut(|table| {
        if let Some(owned) = table.get_mut(&key) {
            change(owned);
            owned.state.events.keep_alive(env, owned.is_live && owned.wants_ref);
        }
    });
}

/// Hooks run last-in first-out: ours must be newer than every function that our threads call, so that these threads are quiet before
/// Node tears the functions down.
fn rearm_hook(env: &Env, key: u32) -> napi::Result<()> {
    let hook = EnvHook::new(env, move || environment_ends(key))?;
    let former = OWNED.with_borrow_mut(|table| table.get_mut(&key).and_then(|owned| owned.hook.replace(hook)));
    drop(former);
    Ok(())
}

fn environment_ends(key: u32) {
    let owned = OWNED.with_borrow_mut(|table| table.remove(&key));
    if let Some(owned) = owned {
        owned.state.owner_ends();
        owned.close_sinks();
    }
}

impl Owned {
    fn close_sinks(&self) {
        self.state.events.close();
        if let Some(wakes) = &self.wakes {
            wakes.close();
        }
    }
}
