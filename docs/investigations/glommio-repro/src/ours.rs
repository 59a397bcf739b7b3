//! ublk-executor under the names of glommio that issue_448 uses.

use std::{cell::RefCell, future::Future};

pub struct LocalExecutor(ublk_executor::LocalExecutor);

impl LocalExecutor {
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future).unwrap()
    }
}

pub enum Placement {
    Unbound,
}

pub struct LocalExecutorBuilder;

impl LocalExecutorBuilder {
    pub fn new(_: Placement) -> Self {
        Self
    }

    pub fn io_memory(self, _: usize) -> Self {
        self
    }

    pub fn make(self) -> Result<LocalExecutor, ublk_executor::ExecutorError> {
        ublk_executor::LocalExecutor::new().map(LocalExecutor)
    }
}

pub struct Task<T>(ublk_executor::JoinHandle<T>);

impl<T> Task<T> {
    pub fn detach(self) {
        self.0.detach();
    }
}

impl<T> IntoFuture for Task<T> {
    type Output = Result<T, ublk_executor::executor::JoinError>;
    type IntoFuture = ublk_executor::JoinHandle<T>;

    fn into_future(self) -> Self::IntoFuture {
        self.0
    }
}

pub fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    Task(ublk_executor::spawn_local(future).unwrap())
}

pub mod timer {
    pub use ublk_executor::sleep;

    pub struct Timer;

    impl Timer {
        #[allow(clippy::new_ret_no_self)]
        pub fn new(duration: std::time::Duration) -> ublk_executor::executor::Sleep {
            sleep(duration)
        }
    }
}

pub mod channels {
    pub mod local_channel {
        use super::super::RefCell;

        pub struct Receiver<T>(RefCell<ublk_executor::channel::Receiver<T>>);

        pub fn new_unbounded<T>() -> (ublk_executor::channel::Sender<T>, Receiver<T>) {
            let (sender, receiver) = ublk_executor::channel::channel(1);
            (sender, Receiver(RefCell::new(receiver)))
        }

        impl<T> Receiver<T> {
            #[allow(clippy::await_holding_refcell_ref)]
            pub async fn recv(&self) -> Option<T> {
                self.0.borrow_mut().recv().await
            }
        }
    }
}
