//! Queues between threads for executors that have none: those of futures-channel, which both compio and monoio are used with.

use futures_channel::mpsc::{Receiver, Sender, channel};
use futures_util::{SinkExt, StreamExt};

pub type Side = (Sender<u64>, Receiver<u64>);

pub fn sides() -> (Side, Side) {
    let (there, back) = (channel(1), channel(1));
    ((there.0, back.1), (back.0, there.1))
}

pub async fn send((sender, _): &mut Side, item: u64) {
    sender.send(item).await.expect("the other side receives");
}

pub async fn receive((_, receiver): &mut Side) -> u64 {
    receiver.next().await.expect("the other side sends")
}
