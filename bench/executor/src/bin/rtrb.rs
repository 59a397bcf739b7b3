//! The queue rtrb.

use executor_bench::{Queue, queue_measures, run_one};

struct Rtrb;

impl Queue for Rtrb {
    type Producer = rtrb::Producer<u64>;
    type Consumer = rtrb::Consumer<u64>;

    fn new(capacity: usize) -> (Self::Producer, Self::Consumer) {
        rtrb::RingBuffer::new(capacity)
    }

    #[inline]
    fn push(producer: &mut Self::Producer, item: u64) -> bool {
        producer.push(item).is_ok()
    }

    #[inline]
    fn pop(consumer: &mut Self::Consumer) -> Option<u64> {
        consumer.pop().ok()
    }
}

fn main() {
    run_one(&queue_measures::<Rtrb>());
}
