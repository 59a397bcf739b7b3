//! Calls from any thread into the JavaScript of one environment: events of a device, wakes of a queue.
//!
//! Invariant: the environment's end (owner.rs) closes a sink before Node tears the function below it down; whoever calls later reaches
//! nothing. A call holds the lock only while Node queues it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{Function, JsValuesTupleIntoVec, Unknown};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;

use crate::error::NativeError;

/// Something that happened while nobody was calling. Mirror of `NativeEvent` in src/native.ts.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
pub struct NativeEvent {
    /// queue-failed, queue-stuck, request-timeout, warning or ended.
    pub kind: String,
    /// Queue number.
    pub queue: Option<u32>,
    /// What happened.
    pub error: Option<NativeError>,
}

impl NativeEvent {
    pub(crate) fn queue_failed(queue: u16, error: NativeError) -> NativeEvent {
        NativeEvent { kind: "queue-failed".into(), queue: Some(queue.into()), error: Some(error) }
    }
    pub(crate) fn queue_stuck(queue: u16) -> NativeEvent {
        NativeEvent { kind: "queue-stuck".into(), queue: Some(queue.into()), error: None }
    }
    pub(crate) fn request_timeout(queue: u16) -> NativeEvent {
        NativeEvent { kind: "request-timeout".into(), queue: Some(queue.into()), error: None }
    }
    pub(crate) fn warning(error: NativeError) -> NativeEvent {
        NativeEvent { kind: "warning".into(), queue: None, error: Some(error) }
    }
    pub(crate) fn ended() -> NativeEvent {
        NativeEvent { kind: "ended".into(), queue: None, error: None }
    }
}

/// A function that any thread may call; weak: it does not keep the process alive unless told to.
type Callable<T> = ThreadsafeFunction<T, Unknown<'static>, T, Status, false, true>;

/// One JavaScript function and whether it can still be called.
pub(crate) struct Sink<T: 'static + JsValuesTupleIntoVec> {
    function: Mutex<Option<Callable<T>>>,
}

/// Events of a device.
pub(crate) type Events = Sink<NativeEvent>;
/// Wakes, by queue number.
pub(crate) type Wakes = Sink<u32>;

impl<T: 'static + JsValuesTupleIntoVec> Sink<T> {
    /// `heard` runs on JavaScript's thread before each call.
    pub(crate) fn new(
        function: &Function<'_, T, Unknown<'static>>,
        heard: impl Fn(&Env, &T) + 'static,
    ) -> napi::Result<Sink<T>> {
        let callable =
            function.build_threadsafe_function::<T>().weak::<true>().callee_handled::<false>().build_callback(
                move |context| {
                    heard(&context.env, &context.value);
                    Ok(context.value)
                },
            )?;
        Ok(Sink { function: Mutex::new(Some(callable)) })
    }

    /// A sink that nobody hears.
    #[cfg(test)]
    pub(crate) fn closed() -> Sink<T> {
        Sink { function: Mutex::new(None) }
    }

    /// Queues one call; nothing happens when the environment is gone.
    pub(crate) fn call(&self, value: T) {
        if let Some(function) = self.lock().as_ref() {
            function.call(value, ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    /// Whether the function keeps the event loop alive. JavaScript's thread only.
    #[allow(deprecated)] // "use clone" is no answer: ref and unref of a live function are what is wanted
    pub(crate) fn keep_alive(&self, env: &Env, wanted: bool) {
        if let Some(function) = self.lock().as_mut() {
            let _ = if wanted { function.refer(env) } else { function.unref(env) };
        }
    }

    /// No call after this.
    pub(crate) fn close(&self) {
        let function = self.lock().take();
        drop(function);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Callable<T>>> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
