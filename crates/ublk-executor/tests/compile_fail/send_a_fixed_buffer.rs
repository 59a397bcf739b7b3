//! A registered buffer lies in the table of one ring, and goes back to it when it is dropped.

// The bound of `spawn` again, as the compiler quotes std's own only where std's source is installed.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

fn give(buffer: ublk_executor::io::FixedBuffer) {
    on_a_thread(move || drop(buffer));
}

fn main() {}
