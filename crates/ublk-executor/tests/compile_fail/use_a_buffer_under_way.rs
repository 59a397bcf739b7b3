//! A buffer that an operation works on is the operation's until it gives it back.

use ublk_executor::io::{DmaBuffer, DmaFile};

async fn read(file: &DmaFile) -> u8 {
    let buffer = DmaBuffer::new(4096);
    let reads = file.read_at(buffer, 0);
    let first = buffer[0];
    drop(reads.await);
    first
}

fn main() {}
