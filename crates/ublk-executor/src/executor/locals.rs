//! Task-local storage: values that a task carries along, without handing them through every call.
//!
//! The values lie with the task. While it is polled or dropped they are swapped into its executor, where whatever runs then finds them: two
//! words are moved for a poll, and nothing is looked up. What runs between polls (wakers, closures that other threads sent) sees those of the
//! future of `block_on`.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context;
use super::core::Core;

/// The values of one task; no memory until the first is set.
pub(super) type Locals = Option<Box<Values>>;

/// By the number of their key. A task has few.
#[derive(Default)]
pub(super) struct Values(Vec<(u64, Rc<dyn Any>)>);

/// Where the values of the task lie that is polled now.
#[derive(Default)]
pub(super) struct CurrentLocals(Cell<Locals>);

impl CurrentLocals {
    /// Until the guard goes, `locals` are the current ones.
    pub(super) fn enter<'a>(&'a self, locals: &'a mut Locals) -> EnteredLocals<'a> {
        self.swap(locals);
        EnteredLocals { current: self, locals }
    }

    /// Drops nothing, and does not look at what it swaps: that is its whole cost to a task without values.
    #[inline(always)]
    fn swap(&self, locals: &mut Locals) {
        *locals = self.0.replace(locals.take());
    }

    /// `act` must not run foreign code.
    fn with<R>(&self, act: impl FnOnce(&mut Locals) -> R) -> R {
        let mut locals = self.0.take();
        let result = act(&mut locals);
        self.0.set(locals);
        result
    }
}

/// Keeps in `locals` those that were the current ones before.
pub(super) struct EnteredLocals<'a> {
    current: &'a CurrentLocals,
    locals: &'a mut Locals,
}

impl Drop for EnteredLocals<'_> {
    fn drop(&mut self) {
        self.current.swap(self.locals);
    }
}

/// A key under which each task has a value of its own: while the task is polled, and while its future is dropped. The values go after the
/// future, on the executor's thread.
///
/// ```
/// use ublk_executor::executor::TaskLocal;
/// use ublk_executor::{LocalExecutor, spawn_local};
///
/// static REQUEST: TaskLocal<u64> = TaskLocal::new();
///
/// fn log() -> String {
///     format!("request {}", REQUEST.get().unwrap())
/// }
///
/// LocalExecutor::new()?.block_on(async {
///     let task = spawn_local(REQUEST.provide(7, async { log() })).unwrap();
///     assert_eq!(task.await.unwrap(), "request 7");
///     assert!(REQUEST.get().is_none());
/// })?;
/// # Ok::<(), ublk_executor::ExecutorError>(())
/// ```
pub struct TaskLocal<T> {
    /// Given at the first use.
    number: OnceLock<u64>,
    value: PhantomData<fn() -> T>,
}

impl<T: 'static> TaskLocal<T> {
    /// A key, for a `static`. Two keys are two values, also of one type.
    pub const fn new() -> TaskLocal<T> {
        TaskLocal { number: OnceLock::new(), value: PhantomData }
    }

    /// The running task's value. None: it has set none.
    ///
    /// # Panics
    /// Outside of an executor.
    pub fn get(&self) -> Option<Rc<T>> {
        let number = self.number();
        let value = running().locals.with(|locals| {
            let (_, value) = locals.as_ref()?.0.iter().find(|(key, _)| *key == number)?;
            Some(Rc::clone(value))
        });
        value.map(of_this_key)
    }

    /// Sets the running task's value; returns the one before.
    ///
    /// # Panics
    /// Outside of an executor.
    pub fn set(&self, value: T) -> Option<Rc<T>> {
        let number = self.number();
        let value: Rc<dyn Any> = Rc::new(value);
        let before = running().locals.with(|locals| {
            let values = &mut locals.get_or_insert_default().0;
            match values.iter_mut().find(|(key, _)| *key == number) {
                Some((_, old)) => Some(std::mem::replace(old, value)),
                None => {
                    values.push((number, value));
                    None
                }
            }
        });
        before.map(of_this_key)
    }

    /// Takes the running task's value away.
    ///
    /// # Panics
    /// Outside of an executor.
    pub fn take(&self) -> Option<Rc<T>> {
        let number = self.number();
        let before = running().locals.with(|locals| {
            let values = &mut locals.as_mut()?.0;
            let index = values.iter().position(|(key, _)| *key == number)?;
            Some(values.swap_remove(index).1)
        });
        before.map(of_this_key)
    }

    /// `future`, for `spawn_local`: a task whose value is set before its first poll. Cancel-safe if `future` is.
    pub async fn provide<F: Future>(&'static self, value: T, future: F) -> F::Output {
        drop(self.set(value));
        future.await
    }

    fn number(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        *self.number.get_or_init(|| NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

fn running() -> Rc<Core> {
    context::current().expect("a TaskLocal is used outside of an executor")
}

fn of_this_key<T: 'static>(value: Rc<dyn Any>) -> Rc<T> {
    value.downcast().expect("a key has values of one type")
}

impl<T: 'static> Default for TaskLocal<T> {
    fn default() -> TaskLocal<T> {
        TaskLocal::new()
    }
}

impl<T> fmt::Debug for TaskLocal<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TaskLocal")
    }
}
