//! The executor that runs on this thread: known while it runs, and no longer.

use std::cell::RefCell;
use std::rc::Rc;

use super::core::Core;

#[cfg(not(loom))]
thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}
#[cfg(loom)]
loom::thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = RefCell::new(None);
}

/// The executor whose `block_on`, or whose end, is under way on this thread.
pub(crate) fn current() -> Option<Rc<Core>> {
    with(|core| core.cloned())
}

/// Like [`current`], without a new reference. `look` must not run foreign code.
pub(super) fn with<R>(look: impl FnOnce(Option<&Rc<Core>>) -> R) -> R {
    // At the end of a thread its locals are gone before the last destructors run.
    let mut look = Some(look);
    let seen = CURRENT.try_with(|current| look.take().map(|look| look(current.borrow().as_ref())));
    match (seen, look) {
        (Ok(Some(seen)), _) => seen,
        (_, Some(look)) => look(None),
        _ => unreachable!("`look` is either used or left"),
    }
}

/// Makes `core` the current one until the guard goes; then the one before it is so again.
pub(super) fn enter(core: &Rc<Core>) -> Entered {
    let entered = Some(Rc::clone(core));
    Entered { before: CURRENT.try_with(|current| current.replace(entered)).ok().flatten() }
}

pub(super) struct Entered {
    before: Option<Rc<Core>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        let ours = CURRENT.try_with(|current| current.replace(before));
        drop(ours);
    }
}
