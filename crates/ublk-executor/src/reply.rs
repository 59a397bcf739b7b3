//! One value for a task, from another thread.
//!
//! The side that works has a [`Reply`], which answers once, also when it is dropped: whoever waits is never left waiting.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Arc, Mutex, MutexGuard};

/// The side that works has gone without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Both ends.
pub(crate) fn reply<T>() -> (Reply<T>, Answer<T>) {
    let shared = Arc::new(Mutex::new(State::Awaited(None)));
    (Reply { shared: Arc::clone(&shared) }, Answer { shared })
}

enum State<T> {
    Awaited(Option<Waker>),
    Ended(Result<T, Gone>),
    Taken,
}

/// The side that works.
pub(crate) struct Reply<T> {
    shared: Arc<Mutex<State<T>>>,
}

impl<T> Reply<T> {
    pub(crate) fn send(self, value: T) {
        end(&self.shared, Ok(value));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        end(&self.shared, Err(Gone));
    }
}

/// The first end counts.
fn end<T>(shared: &Mutex<State<T>>, result: Result<T, Gone>) {
    let waker = {
        let mut state = lock(shared);
        match &mut *state {
            State::Awaited(waker) => {
                let waker = waker.take();
                *state = State::Ended(result);
                waker
            }
            _ => return,
        }
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The side that waits. Cancel-safe: a value that was not taken stays.
pub(crate) struct Answer<T> {
    shared: Arc<Mutex<State<T>>>,
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.shared);
        match &mut *state {
            State::Awaited(waker) => {
                let old = waker.replace(context.waker().clone());
                drop(state);
                drop(old);
                Poll::Pending
            }
            State::Ended(_) => match mem::replace(&mut *state, State::Taken) {
                State::Ended(result) => Poll::Ready(result),
                _ => unreachable!("looked at under the same lock"),
            },
            State::Taken => panic!("an answer was polled after it was ready"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
