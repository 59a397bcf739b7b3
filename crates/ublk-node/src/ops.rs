//! Runs a lifecycle operation on a short-lived thread of its own and settles a promise with its outcome.
//!
//! Why not JavaScript's thread or libuv's pool: START_DEV reads through the backend (partition scan), so whoever waits for it must not be
//! needed by the backend. The deferred aborts itself when its environment dies; a thread that is still at work then settles nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use napi::Env;
use napi::bindgen_prelude::{Object, ToNapiValue};

use crate::error::{NativeError, panic_message};
use crate::outcome::Outcome;

/// Runs `work` on a thread; then `settle` on JavaScript's, also after a failure. Its answer resolves the promise.
pub(crate) fn run<'env, T, V>(
    env: &'env Env,
    work: impl FnOnce() -> Result<T, NativeError> + Send + 'static,
    settle: impl FnOnce(&Env, Result<T, NativeError>) -> Result<V, NativeError> + Send + 'static,
) -> napi::Result<Object<'env>>
where
    T: Send + 'static,
    V: ToNapiValue + 'static,
{
    let (deferred, promise) = env.create_deferred()?;
    let finish = move |result| deferred.resolve(move |env| Ok(Outcome(settle(&env, result))));
    // Shared, because a thread that cannot be made swallows its closure, and the promise must settle nevertheless.
    let job = Arc::new(Mutex::new(Some((work, finish))));
    let taken = Arc::clone(&job);
    let spawned = std::thread::Builder::new().name("ublk-op".into()).spawn(move || {
        if let Some((work, finish)) = take(&taken) {
            finish(caught(work));
        }
    });
    if let Err(source) = spawned
        && let Some((_, finish)) = take(&job)
    {
        finish(Err(NativeError::no_thread(&source)));
    }
    Ok(promise)
}

/// Runs `work` on a thread that nobody waits for.
pub(crate) fn detach(work: impl FnOnce() + Send + 'static) {
    // Without a thread nothing can be done here: the queues go on failing requests, and the process's end frees the device.
    let _ = std::thread::Builder::new().name("ublk-op".into()).spawn(move || {
        let _ = caught(|| {
            work();
            Ok(())
        });
    });
}

fn caught<T>(work: impl FnOnce() -> Result<T, NativeError>) -> Result<T, NativeError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(NativeError::panicked(None, panic_message(payload.as_ref()))))
}

fn take<J>(job: &Mutex<Option<J>>) -> Option<J> {
    job.lock().unwrap_or_else(PoisonError::into_inner).take()
}
