//! An executor stays on the thread that made it: its ring takes submissions from no other.

// The bound of `spawn` again, as the compiler quotes std's own only where std's source is installed.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

fn main() {
    let executor = ublk_executor::LocalExecutor::new().unwrap();
    on_a_thread(move || drop(executor));
}
