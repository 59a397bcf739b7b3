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
use napi::bindgen_prelude::{Function, Null, Unknown};
use napi_derive::napi;
use ublk::{Wait, Waker};

use crate::bridge::{Bridge, End};
use crate::env_hook::EnvHook;
use crate::error::{NativeError, panic_message};
use crate::layout;
use crate::outcome::Outcome;
use crate::registry;
use crate::session::Session;
use crate::uv::UvPoll;

/// One queue, owned by the calling worker thread.
#[napi(js_name = "WorkerQueue")]
pub struct WorkerQueue {
    session: Arc<Session>,
    id: u16,
    open: Rc<RefCell<Option<Bridge>>>,
    hook: Option<EnvHook>,
    signal: Option<Waker>,
    watch: Option<UvPoll>,
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
        Ok(WorkerQueue { session, id, open: Rc::default(), hook: None, signal: None, watch: None })
    }

    /// Opens the ring on this thread and fetches every tag.
    #[napi(catch_unwind)]
    pub fn fetch(&mut self, env: &Env) -> napi::Result<Outcome<Null>> {
        let bridge = match Bridge::open(&self.session, self.id) {
            Ok(bridge) => bridge,
            Err(error) => return Ok(Outcome(Err(error))),
        };
        *self.open.borrow_mut() = Some(bridge);
        let (open, session, id) = (Rc::clone(&self.open), Arc::clone(&self.session), self.id);
        self.hook = Some(EnvHook::new(env, move || {
            let bridge = open.borrow_mut().take();
            if let Some(bridge) = bridge {
                bridge.close(End::Broken(worker_ended(&session, id)));
            }
        })?);
        Ok(Outcome(Ok(Null)))
    }

    /// Commits, waits for a batch, publishes it. Answers STATE.
    #[napi(catch_unwind)]
    pub fn wait(&mut self) -> u32 {
        self.advance(|bridge| {
            loop {
                if bridge.turn(Wait::Forever)? > 0 {
                    return Ok(());
                }
            }
        })
    }

    /// Commits, takes what is there. Answers STATE.
    #[napi(catch_unwind)]
    pub fn poll(&mut self) -> u32 {
        let signal = self.signal.clone();
        self.advance(|bridge| {
            bridge.turn(Wait::No)?;
            if let Some(signal) = signal {
                // The turn's own completions have signalled. What is left in the kernel, or came since, signals no more by itself.
                signal.clear();
                if bridge.queue().has_work() {
                    signal.wake();
                }
            }
            Ok(())
        })
    }

    /// Calls `callback` on this thread when `poll` has something to do.
    #[napi(catch_unwind, ts_args_type = "callback: () => void")]
    pub fn watch(&mut self, env: &Env, callback: Function<'_, (), Unknown<'static>>) -> napi::Result<()> {
        let signal = match &self.signal {
            Some(signal) => signal.clone(),
            None => Waker::new().map_err(|source| napi::Error::from_reason(format!("eventfd: {source}")))?,
        };
        if let Some(bridge) = self.open.borrow_mut().as_mut()
            && self.signal.is_none()
        {
            bridge
                .queue()
                .register_eventfd(signal.as_fd())
                .map_err(|error| napi::Error::from_reason(error.to_string()))?;
        }
        let kept = signal.clone();
        self.watch = Some(UvPoll::new(env, signal.as_fd().as_raw_fd(), &callback, move || kept.clear())?);
        signal.wake(); // for what came before
        self.signal = Some(signal);
        Ok(())
    }

    /// Ends `watch`.
    #[napi(catch_unwind)]
    pub fn unwatch(&mut self) {
        self.watch = None;
    }

    fn advance(&mut self, step: impl FnOnce(&mut Bridge) -> Result<(), End>) -> u32 {
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
        self.hook = None;
        layout::STATE_ENDED as u32
    }
}

fn worker_ended(session: &Session, id: u16) -> NativeError {
    let device = session.device_id;
    NativeError::backend(device, format!("the worker of queue {id} of device {device} ended while it served"))
}
