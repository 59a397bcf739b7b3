//! `copy`, the one native function that handlers call per request: written on Node-API itself, since the generated conversions of five
//! arguments cost more than moving 4 KiB.
//!
//! Thread: any with an environment. Nothing here can panic. A misuse throws, as everywhere.

use std::ffi::CStr;
use std::ptr;

use napi::bindgen_prelude::{JsObjectValue, Object};
use napi::sys;
use napi_derive::napi;

const ARGUMENTS: usize = 5;
const OUTSIDE: &CStr = c"copy: a range is outside its view";

/// Adds `copy(target, targetOffset, source, sourceOffset, length)` to the addon's exports.
#[napi(module_exports)]
pub(crate) fn export_copy(mut exports: Object<'_>) -> napi::Result<()> {
    exports.create_named_method("copy", copy)
}

/// memmove between views; JavaScript has checked the ranges, and they are checked again.
unsafe extern "C" fn copy(env: sys::napi_env, call: sys::napi_callback_info) -> sys::napi_value {
    let mut values = [ptr::null_mut(); ARGUMENTS];
    let mut count = ARGUMENTS;
    // SAFETY: Node-API calls with the environment and call that it gave to this callback; every pointer is to a local.
    let is_done = unsafe {
        sys::napi_get_cb_info(env, call, &mut count, values.as_mut_ptr(), ptr::null_mut(), ptr::null_mut())
            == sys::Status::napi_ok
            && count == ARGUMENTS
            && move_bytes(env, &values).is_some()
    };
    if !is_done {
        // SAFETY: as above; the text ends with a zero.
        unsafe { sys::napi_throw_range_error(env, ptr::null(), OUTSIDE.as_ptr()) };
    }
    ptr::null_mut() // undefined
}

/// None when an argument is of another type, or a range outside its view.
///
/// # Safety
/// `values` are values of `env`, in a call of its thread.
unsafe fn move_bytes(env: sys::napi_env, values: &[sys::napi_value; ARGUMENTS]) -> Option<()> {
    // SAFETY: the caller's promise.
    let (target, target_bytes, source, source_bytes) = unsafe {
        let (target, target_bytes) = view(env, values[0])?;
        let (source, source_bytes) = view(env, values[2])?;
        (target, target_bytes, source, source_bytes)
    };
    // SAFETY: the caller's promise.
    let [target_offset, source_offset, length] =
        unsafe { [number(env, values[1])?, number(env, values[3])?, number(env, values[4])?] };
    let fits = |offset: usize, bytes: usize| offset.checked_add(length).is_some_and(|end| end <= bytes);
    if !fits(target_offset, target_bytes) || !fits(source_offset, source_bytes) {
        return None;
    }
    // SAFETY: both ranges lie within their views, which live across the call. They may overlap (memmove), and another thread may write to
    // shared memory meanwhile: the bytes are then undefined in value, as for JavaScript itself, and nothing else.
    unsafe { ptr::copy(source.add(source_offset), target.add(target_offset), length) };
    Some(())
}

/// Address and length of a Uint8Array or Buffer.
///
/// # Safety
/// As [`move_bytes`].
unsafe fn view(env: sys::napi_env, value: sys::napi_value) -> Option<(*mut u8, usize)> {
    let (mut kind, mut length, mut data) = (0, 0, ptr::null_mut());
    // SAFETY: the caller's promise; every pointer is to a local.
    let status = unsafe {
        sys::napi_get_typedarray_info(env, value, &mut kind, &mut length, &mut data, ptr::null_mut(), ptr::null_mut())
    };
    (status == sys::Status::napi_ok && kind == sys::TypedarrayType::uint8_array).then_some((data.cast(), length))
}

/// A whole number from 0 on.
///
/// # Safety
/// As [`move_bytes`].
unsafe fn number(env: sys::napi_env, value: sys::napi_value) -> Option<usize> {
    let mut number = 0;
    // SAFETY: the caller's promise; the pointer is to a local.
    let status = unsafe { sys::napi_get_value_int64(env, value, &mut number) };
    if status == sys::Status::napi_ok { usize::try_from(number).ok() } else { None }
}
