//! What another thread sends an executor may make a future that is not `Send`, but must be `Send` itself.

fn main() {
    let executor = ublk_executor::LocalExecutor::new().unwrap();
    let local = std::rc::Rc::new(1);
    let joined = executor.remote().spawn(move || async move { drop(local) });
    drop(joined);
}
