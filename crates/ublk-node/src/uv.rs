//! Watches a file descriptor on Node's event loop, by libuv's `uv_poll`, and calls a JavaScript function when it is readable.
//!
//! Thread: the environment's. The `uv_*` functions are looked up in the running executable, which exports them.
//! Invariant: the handle's memory is freed in its close callback alone. An environment that ends first runs our asynchronous hook, which
//! closes the handle and is waited for: a loop with an open handle would abort the process.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use napi::bindgen_prelude::{Function, JsValue, JsValuesTupleIntoVec};
use napi::{Env, Status, sys};

const UV_POLL: c_int = 8; // uv_handle_type in uv.h
const UV_READABLE: c_int = 1; // uv_poll_event in uv.h

type Handle = c_void;
type PollCallback = unsafe extern "C" fn(*mut Handle, c_int, c_int);
type CloseCallback = unsafe extern "C" fn(*mut Handle);

/// The functions of libuv that we need; their signatures are fixed for libuv 1.
#[derive(Clone, Copy)]
struct Uv {
    handle_size: unsafe extern "C" fn(c_int) -> usize,
    set_data: unsafe extern "C" fn(*mut Handle, *mut c_void),
    get_data: unsafe extern "C" fn(*const Handle) -> *mut c_void,
    poll_init: unsafe extern "C" fn(*mut c_void, *mut Handle, c_int) -> c_int,
    poll_start: unsafe extern "C" fn(*mut Handle, c_int, PollCallback) -> c_int,
    close: unsafe extern "C" fn(*mut Handle, CloseCallback),
}

/// A watched descriptor; dropping it ends the watch.
pub(crate) struct UvPoll {
    state: *mut State,
    /// Cleared when the environment's end has closed the handle, and `state` may be freed.
    is_alive: std::rc::Rc<std::cell::Cell<bool>>,
}

struct State {
    env: sys::napi_env,
    /// `uv_poll_t`, in words so that it is aligned.
    handle: Box<[u64]>,
    callback: sys::napi_ref,
    hook: sys::napi_async_cleanup_hook_handle,
    before_call: Box<dyn Fn()>,
    is_alive: std::rc::Rc<std::cell::Cell<bool>>,
}

impl UvPoll {
    /// `before_call` runs before each call: it must make the descriptor unreadable. The descriptor must stay open until the drop.
    pub(crate) fn new<Args: JsValuesTupleIntoVec, Return>(
        env: &Env,
        fd: c_int,
        callback: &Function<'_, Args, Return>,
        before_call: impl Fn() + 'static,
    ) -> napi::Result<UvPoll> {
        let uv = uv()?;
        let is_alive = std::rc::Rc::new(std::cell::Cell::new(true));
        // SAFETY: a pure function of libuv.
        let words = unsafe { (uv.handle_size)(UV_POLL) }.div_ceil(size_of::<u64>());
        let state = Box::into_raw(Box::new(State {
            env: env.raw(),
            handle: vec![0; words].into_boxed_slice(),
            callback: std::ptr::null_mut(),
            hook: std::ptr::null_mut(),
            before_call: Box::new(before_call),
            is_alive: std::rc::Rc::clone(&is_alive),
        }));
        // SAFETY: `state` is a fresh allocation that only this function knows so far.
        match unsafe { open(uv, env, fd, callback.raw(), state) } {
            Ok(()) => Ok(UvPoll { state, is_alive }),
            Err(error) => {
                // SAFETY: libuv and the environment have not kept `state`: `open` fails before they do, or takes it back.
                drop(unsafe { Box::from_raw(state) });
                Err(error)
            }
        }
    }
}

impl Drop for UvPoll {
    fn drop(&mut self) {
        if self.is_alive.get() {
            // SAFETY: nobody has closed the handle, so `state` is valid; this is the environment's thread, as UvPoll is not Send.
            unsafe { close(self.state) };
        }
    }
}

/// Makes the reference to the function, the hook, and last the handle, which cannot be taken back at once.
///
/// # Safety
/// `state` is valid and not shared; `callback` is a function of `env`, and this is its thread.
unsafe fn open(uv: Uv, env: &Env, fd: c_int, callback: sys::napi_value, state: *mut State) -> napi::Result<()> {
    let event_loop = env.get_uv_event_loop()?;
    // SAFETY: the caller's promises; every pointer given away is to `state`, which outlives its users (module header).
    unsafe {
        let raw = env.raw();
        check(sys::napi_create_reference(raw, callback, 1, &raw mut (*state).callback), "napi_create_reference")?;
        let hooked =
            sys::napi_add_async_cleanup_hook(raw, Some(environment_ends), state.cast(), &raw mut (*state).hook);
        if let Err(error) = check(hooked, "napi_add_async_cleanup_hook") {
            sys::napi_delete_reference(raw, (*state).callback);
            return Err(error);
        }
        let handle: *mut Handle = (*state).handle.as_mut_ptr().cast();
        let status = (uv.poll_init)(event_loop.cast(), handle, fd);
        if status != 0 {
            sys::napi_delete_reference(raw, (*state).callback);
            sys::napi_remove_async_cleanup_hook((*state).hook);
            return Err(napi::Error::from_reason(format!("uv_poll_init failed: {status}")));
        }
        (uv.set_data)(handle, state.cast());
        (uv.poll_start)(handle, UV_READABLE, on_readable); // fails for a closing handle only, which this is not
    }
    Ok(())
}

/// # Safety
/// The handle of `state` is open, and this is its thread. `state` is freed by the close callback.
unsafe fn close(state: *mut State) {
    let Ok(uv) = uv() else { return };
    // SAFETY: the caller's promise; the reference is deleted once, for a handle is closed once (`is_alive`).
    unsafe {
        (*state).is_alive.set(false);
        sys::napi_delete_reference((*state).env, (*state).callback);
        (uv.close)((*state).handle.as_mut_ptr().cast(), on_closed);
    }
}

unsafe extern "C" fn environment_ends(_hook: sys::napi_async_cleanup_hook_handle, state: *mut c_void) {
    let state: *mut State = state.cast();
    // SAFETY: the hook is removed in the close callback, before `state` is freed. A handle that is closing already is only waited for.
    unsafe {
        if (*state).is_alive.get() {
            close(state);
        }
    }
}

unsafe extern "C" fn on_closed(handle: *mut Handle) {
    let Ok(uv) = uv() else { return };
    // SAFETY: the data is the `state` that `open` set; libuv has let go of the handle, and after the hook's removal nobody knows `state`.
    unsafe {
        let state: *mut State = (uv.get_data)(handle).cast();
        sys::napi_remove_async_cleanup_hook((*state).hook);
        drop(Box::from_raw(state));
    }
}

unsafe extern "C" fn on_readable(handle: *mut Handle, _status: c_int, _events: c_int) {
    let Ok(uv) = uv() else { return };
    // SAFETY: libuv calls this only for an open handle, whose data is `state`, on the environment's thread. JavaScript may close the handle
    // meanwhile: `state` is then freed in a later turn of the loop, not under us.
    unsafe {
        let state: *mut State = (uv.get_data)(handle).cast();
        ((*state).before_call)();
        let env = (*state).env;
        let mut scope = std::ptr::null_mut();
        if sys::napi_open_handle_scope(env, &mut scope) != sys::Status::napi_ok {
            return;
        }
        let (mut function, mut receiver) = (std::ptr::null_mut(), std::ptr::null_mut());
        sys::napi_get_reference_value(env, (*state).callback, &mut function);
        sys::napi_get_global(env, &mut receiver);
        // make_callback, and not call_function: it runs the microtasks, as every call from the event loop must.
        let no_context = std::ptr::null_mut();
        let status =
            sys::napi_make_callback(env, no_context, receiver, function, 0, std::ptr::null(), std::ptr::null_mut());
        if status == sys::Status::napi_pending_exception {
            let mut exception = std::ptr::null_mut();
            sys::napi_get_and_clear_last_exception(env, &mut exception);
            sys::napi_fatal_exception(env, exception); // as if thrown by any other callback: 'uncaughtException'
        }
        sys::napi_close_handle_scope(env, scope);
    }
}

fn check(status: sys::napi_status, call: &str) -> napi::Result<()> {
    if status == sys::Status::napi_ok {
        return Ok(());
    }
    Err(napi::Error::new(Status::from(status), format!("{call} failed")))
}

fn uv() -> napi::Result<Uv> {
    static UV: OnceLock<Option<Uv>> = OnceLock::new();
    let missing = || {
        napi::Error::from_reason("this JavaScript runtime does not export libuv: serve the device from the main thread")
    };
    UV.get_or_init(look_up).ok_or_else(missing)
}

fn look_up() -> Option<Uv> {
    // SAFETY: each type is that of the function in uv.h of libuv 1.
    unsafe {
        Some(Uv {
            handle_size: symbol(c"uv_handle_size")?,
            set_data: symbol(c"uv_handle_set_data")?,
            get_data: symbol(c"uv_handle_get_data")?,
            poll_init: symbol(c"uv_poll_init")?,
            poll_start: symbol(c"uv_poll_start")?,
            close: symbol(c"uv_close")?,
        })
    }
}

/// # Safety
/// `F` is the function pointer type of the symbol.
unsafe fn symbol<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    let name: *const c_char = name.as_ptr();
    // SAFETY: a plain lookup; the size was checked above, the type is the caller's promise.
    unsafe {
        let address = libc::dlsym(libc::RTLD_DEFAULT, name);
        if address.is_null() { None } else { Some(std::mem::transmute_copy(&address)) }
    }
}
