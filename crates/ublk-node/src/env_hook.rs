//! A removable hook for the end of a JavaScript environment (worker exit, process exit). Hooks run last-in first-out.
//!
//! Thread: the environment's. napi-rs has such hooks too, but removing one leaks what it holds.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use napi::{Env, Status, sys};

type Callback = RefCell<Option<Box<dyn FnOnce()>>>;

/// A registered hook; dropping it takes it back. Not `Send`.
pub(crate) struct EnvHook {
    env: sys::napi_env,
    callback: Rc<Callback>,
}

impl EnvHook {
    /// Calls `callback` when the environment ends.
    pub(crate) fn new(env: &Env, callback: impl FnOnce() + 'static) -> napi::Result<EnvHook> {
        let callback: Rc<Callback> = Rc::new(RefCell::new(Some(Box::new(callback))));
        let argument = Rc::into_raw(Rc::clone(&callback)).cast_mut().cast();
        // SAFETY: `argument` is a counted reference that `run` or `drop` gives back, whichever comes first; `run` leaves None behind.
        let status = unsafe { sys::napi_add_env_cleanup_hook(env.raw(), Some(run), argument) };
        if status == sys::Status::napi_ok {
            return Ok(EnvHook { env: env.raw(), callback });
        }
        // SAFETY: the hook was not taken, so the reference is still ours.
        drop(unsafe { Rc::from_raw(argument.cast::<Callback>().cast_const()) });
        Err(napi::Error::new(Status::from(status), "napi_add_env_cleanup_hook failed"))
    }
}

impl Drop for EnvHook {
    fn drop(&mut self) {
        if self.callback.borrow_mut().take().is_none() {
            return; // it ran, or runs: the environment is ending and has forgotten it
        }
        let argument = Rc::as_ptr(&self.callback).cast_mut().cast();
        // SAFETY: the hook has not run, so the environment is alive and knows this argument; the reference that `new` gave away comes back.
        unsafe {
            sys::napi_remove_env_cleanup_hook(self.env, Some(run), argument);
            Rc::decrement_strong_count(argument.cast::<Callback>().cast_const());
        }
    }
}

unsafe extern "C" fn run(argument: *mut c_void) {
    // SAFETY: the reference that `new` gave away; this function is called at most once, and not after `drop` has removed it.
    let callback = unsafe { Rc::from_raw(argument.cast::<Callback>().cast_const()) };
    let taken = callback.borrow_mut().take();
    if let Some(taken) = taken {
        // A panic must not cross into C; what it interrupts is clean-up of an environment that ends anyway.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(taken));
    }
}
