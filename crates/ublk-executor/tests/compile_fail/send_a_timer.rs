//! A timer is armed in the executor of its thread.

// The bound of `spawn` again, as the compiler quotes std's own only where std's source is installed.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

fn main() {
    let sleep = ublk_executor::sleep(std::time::Duration::ZERO);
    on_a_thread(move || drop(sleep));
}
