//! `Outcome<T>` of src/native.ts: `{ value, error }`, one of them null. Expected failures are answers, never exceptions.

use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, sys};

use crate::error::NativeError;

/// Answer of a call that can fail.
pub struct Outcome<T>(pub(crate) Result<T, NativeError>);

impl<T: ToNapiValue> ToNapiValue for Outcome<T> {
    // SAFETY: as for every implementation of this trait: `env` is the live environment of the calling thread.
    unsafe fn to_napi_value(env: sys::napi_env, outcome: Self) -> napi::Result<sys::napi_value> {
        let mut object = Object::new(&Env::from_raw(env))?;
        let (value, error) = match outcome.0 {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error)),
        };
        object.set("value", value)?;
        object.set("error", error)?;
        // SAFETY: as above.
        unsafe { Object::to_napi_value(env, object) }
    }
}
