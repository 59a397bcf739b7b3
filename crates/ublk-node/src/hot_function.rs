//! JavaScript functions on Node-API itself, for what is called once per batch. The generated method of a class costs some 4000 instructions
//! a call (receiver, type tag, conversions), as much as a whole turn of a ring with one request; one of these costs a tenth of that.
//!
//! Thread: the environment's.

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use napi::bindgen_prelude::Unknown;
use napi::{Env, Status, sys};

/// What a function does: takes nothing, answers a number.
type Body = Box<dyn Fn() -> u32>;

const PANICKED: &CStr = c"a native function panicked; please report it";

/// A JavaScript function that runs `body`, which lives as long as the function does.
///
/// # Errors
/// Those of Node-API: an environment that ends.
pub(crate) fn hot_function<'env>(env: &'env Env, body: impl Fn() -> u32 + 'static) -> napi::Result<Unknown<'env>> {
    let body: Body = Box::new(body);
    // Twice boxed: the data of a function is one thin pointer.
    let data: *mut Body = Box::into_raw(Box::new(body));
    let mut function = ptr::null_mut();
    // SAFETY: `env` is alive, and `function` a local. `data` is valid until the finalizer, which runs when nobody can call any more.
    let status = unsafe {
        match sys::napi_create_function(env.raw(), ptr::null(), 0, Some(call), data.cast(), &mut function) {
            sys::Status::napi_ok => {
                let hint = ptr::null_mut();
                sys::napi_add_finalizer(env.raw(), function, data.cast(), Some(finalize), hint, ptr::null_mut())
            }
            failed => failed,
        }
    };
    if status != sys::Status::napi_ok {
        // SAFETY: no finalizer has it, and JavaScript has not seen the function.
        drop(unsafe { Box::from_raw(data) });
        return Err(napi::Error::new(Status::from(status), "napi_create_function failed"));
    }
    // SAFETY: a value of `env` that was made just now.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), function) })
}

unsafe extern "C" fn call(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let (mut data, mut result) = (ptr::null_mut(), ptr::null_mut());
    let (no_count, no_arguments, no_receiver) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: Node-API calls with the environment and call that it gave to this callback; every pointer is to a local or null. `data` is
    // the body of the function that is being called, so its finalizer has not run.
    unsafe {
        sys::napi_get_cb_info(env, info, no_count, no_arguments, no_receiver, &mut data);
        let body = &*data.cast::<Body>();
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(number) => sys::napi_create_uint32(env, number, &mut result),
            Err(_) => sys::napi_throw_error(env, ptr::null(), PANICKED.as_ptr()),
        };
    }
    result
}

unsafe extern "C" fn finalize(_env: sys::napi_env, data: *mut c_void, _hint: *mut c_void) {
    // SAFETY: the box that `hot_function` gave away; a finalizer runs once. A panic in a drop must not cross into C.
    let body = unsafe { Box::from_raw(data.cast::<Body>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(body)));
}
