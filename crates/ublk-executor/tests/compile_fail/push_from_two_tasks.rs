//! Two tasks of one thread cannot be in one end either: sending takes `&mut self` for as long as it waits.

fn main() {
    let (mut sender, receiver) = ublk_executor::channel::channel::<u64>(1);
    let first = sender.send(1);
    let second = sender.send(2);
    drop((first, second, receiver));
}
