//! An end that was given to another thread is not used here any more.

fn main() {
    let (mut sender, receiver) = ublk_executor::channel::channel::<u64>(1);
    let sending = std::thread::spawn(move || sender.try_send(1).is_ok());
    let _ = sender.try_send(2);
    drop((sending, receiver));
}
