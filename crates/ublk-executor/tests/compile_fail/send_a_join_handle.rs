//! A handle cancels its task when it is dropped, which only the executor's thread may do.

// The bound of `spawn` again, as the compiler quotes std's own only where std's source is installed.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

fn main() {
    let executor = ublk_executor::LocalExecutor::new().unwrap();
    let handle = executor.spawn_local(async {}).unwrap();
    on_a_thread(move || drop(handle));
}
