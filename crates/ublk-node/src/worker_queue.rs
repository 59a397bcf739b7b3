//! A queue owned by the worker thread that answers its requests: the mirror of `WorkerQueue` in src/native.ts.
//!
//! Thread: the worker's, for the ring belongs to the thread that opened it. `wait` and `poll` call nothing of napi and allocate nothing.
//! When the worker dies with its queue open, a hook answers what is open, without JavaScript, before the thread ends.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::{Function, Object, Unknown};
use napi_derive::napi;
use ublk::{Wait, Waker};

use crate::bridge::{Bridge, End};
use crate::env_hook::EnvHook;
use crate::error::{NativeError, panic_message};
use crate::hot_function::hot_function;
use crate::layout;
use crate::outcome::Outcome;
use crate::registry;
use crate::session::Session;
use crate::uv::UvPoll;

/// One queue, owned by the calling worker thread.
#[napi(js_name = "WorkerQueue")]
pub struct WorkerQueue {
    serving: Rc<Serving>,
    watch: Option<UvPoll>,
}

/// What the queue's functions share.
struct Serving {
    session: Arc<Session>,
    id: u16,
    /// None before `fetch`, and after the end.
    open: RefCell<Option<Bridge>>,
    hook: RefCell<Option<EnvHook>>,
    /// Signalled when `poll` has something to do; made by `watch`.
    signal: RefCell<Option<Waker>>,
}

#[napi]
impl WorkerQueue {
    /// Finds the prepared device of another thread by its key.
    #[napi(constructor, catch_unwind)]
    pub fn new(key: u32, queue: u32) -> napi::Result<WorkerQueue> {
        let session = registry::get(key)
            .and_then(|device| device.session())
            .ok_or_else(|| napi::Error::from_reason(format!("no device with key {key} is prepared for workers")))?;
        let id = u16::try_from(queue).map_err(|_| napi::Error::from_reason(format!("there is no queue {queue}")))?;
        let (open, hook, signal) = Default::default();
        Ok(WorkerQueue { serving: Rc::new(Serving { session, id, open, hook, signal }), watch: None })
    }

    /// Opens the ring on this thread and fetches every tag. The value has the functions that serve: `wait` and `poll`.
    #[napi(catch_unwind)]
    pub fn fetch<'env>(&mut self, env: &'env Env) -> napi::Result<Outcome<Object<'env>>> {
        let bridge = match Bridge::open(&self.serving.session, self.serving.id) {
            Ok(bridge) => bridge,
            Err(error) => return Ok(Outcome(Err(error))),
        };
        *self.serving.open.borrow_mut() = Some(bridge);
        let serving = Rc::clone(&self.serving);
        let hook = EnvHook::new(env, move || serving.environment_ends())?;
        *self.serving.hook.borrow_mut() = Some(hook);
        let (waiting, polling) = (Rc::clone(&self.serving), Rc::clone(&self.serving));
        let mut turns = Object::new(env)?;
        turns.set("wait", hot_function(env, move || waiting.wait())?)?;
        turns.set("poll", hot_function(env, move || polling.poll())?)?;
        Ok(Outcome(Ok(turns)))
    }

    /// Calls `callback` on this thread when `poll` has something to do.
    #[napi(catch_unwind, ts_args_type = "callback: () => void")]
    pub fn watch(&mut self, env: &Env, callback: Function<'_, (), Unknown<'static>>) -> napi::Result<()> {
        let signal = self.serving.signal().map_err(|error| napi::Error::from_reason(error.to_string()))?;
        let kept = signal.clone();
        self.watch = Some(UvPoll::new(env, signal.as_fd().as_raw_fd(), &callback, move || kept.clear())?);
        signal.wake(); // for what came before
        Ok(())
    }

    /// Ends `watch`.
    #[napi(catch_unwind)]
    pub fn unwatch(&mut self) {
        self.watch = None;
    }
}

impl Serving {
    /// Commits, waits for a batch, publishes it. Answers STATE.
    fn wait(&self) -> u32 {
        self.advance(|bridge| {
            loop {
                if bridge.turn(Wait::Forever)? > 0 {
                    return Ok(());
                }
            }
        })
    }

    /// Commits, takes what is there. Answers STATE.
    fn poll(&self) -> u32 {
        self.advance(|bridge| {
            bridge.turn(Wait::No)?;
            if let Some(signal) = &*self.signal.borrow() {
                // The turn's own completions have signalled. What is left in the kernel, or came since, signals no more by itself.
                signal.clear();
                if bridge.queue().has_work() {
                    signal.wake();
                }
            }
            Ok(())
        })
    }

    /// The descriptor to watch, which the ring signals from now on.
    fn signal(&self) -> Result<Waker, ublk::Error> {
        let mut signal = self.signal.borrow_mut();
        if let Some(signal) = &*signal {
            return Ok(signal.clone());
        }
        let id = Some(self.session.device_id);
        let made = Waker::new().map_err(|source| ublk::Error::Kernel { id, call: "eventfd2", source })?;
        if let Some(bridge) = &mut *self.open.borrow_mut() {
            bridge.queue().register_eventfd(made.as_fd())?;
        }
        Ok(signal.insert(made).clone())
    }

    fn advance(&self, step: impl FnOnce(&mut Bridge) -> Result<(), End>) -> u32 {
        let mut open = self.open.borrow_mut();
        let Some(bridge) = open.as_mut() else { return layout::STATE_ENDED as u32 };
        let end = match catch_unwind(AssertUnwindSafe(|| step(bridge))) {
            Ok(Ok(())) => return layout::STATE_SERVING as u32,
            Ok(Err(end)) => end,
            Err(payload) => {
                let device_id = Some(self.session.device_id);
                End::Broken(NativeError::panicked(device_id, panic_message(payload.as_ref())))
            }
        };
        if let Some(bridge) = open.take() {
            bridge.close(end);
        }
        drop(open);
        *self.hook.borrow_mut() = None;
        layout::STATE_ENDED as u32
    }

    /// Answers what is open, without JavaScript.
    fn environment_ends(&self) {
        let bridge = self.open.borrow_mut().take();
        if let Some(bridge) = bridge {
            bridge.close(End::Broken(worker_ended(&self.session, self.id)));
        }
    }
}

fn worker_ended(session: &Session, id: u16) -> NativeError {
    let device = session.device_id;
    NativeError::backend(device, format!("the worker of queue {id} of device {device} ended while it served"))
}
