//! A file of an executor is shared by operations of its ring.

// The bound of `spawn` again, as the compiler quotes std's own only where std's source is installed.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

fn give(file: ublk_executor::io::DmaFile) {
    on_a_thread(move || drop(file));
}

fn main() {}
