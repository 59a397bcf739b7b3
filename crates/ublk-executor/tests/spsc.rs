//! The queue between two threads: order, bounds, closing and drops. tests/loom.rs has the orders that a clock seldom shows.

#![cfg(not(loom))]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use proptest::prelude::*;
use ublk_executor::spsc::{PopError, PushError, channel};

#[path = "support/ledger.rs"]
mod ledger;
use ledger::{Item, Ledger, pop_all, push_all};

#[test]
fn two_threads_lose_nothing_and_keep_the_order() {
    const ITEMS: usize = 50_000;
    for capacity in [1, 2, 3, 64, 1000] {
        let ledger = Ledger::new(ITEMS);
        let (mut producer, mut consumer) = channel(capacity);
        thread::scope(|scope| {
            scope.spawn(|| {
                push_all(&mut producer, &ledger, ITEMS);
                drop(producer);
            });
            let ids = pop_all(&mut consumer);
            assert!(ids.iter().copied().eq(0..ITEMS), "capacity {capacity}: {} items, or another order", ids.len());
        });
        assert!(ledger.drops().iter().all(|&count| count == 1), "capacity {capacity}");
    }
}

#[test]
fn a_consumer_that_leaves_midway_costs_no_item() {
    const ITEMS: usize = 1000;
    for round in 0..50 {
        let ledger = Ledger::new(ITEMS);
        let (mut producer, mut consumer) = channel(1 + round % 8);
        thread::scope(|scope| {
            scope.spawn(|| {
                for id in 0..ITEMS {
                    // Full or closed: the item comes back and is dropped here.
                    let _ = producer.push(ledger.item(id));
                }
                drop(producer);
            });
            scope.spawn(move || {
                for _ in 0..round {
                    let _ = consumer.pop();
                }
                drop(consumer);
            });
        });
        assert!(ledger.drops().iter().all(|&count| count == 1), "round {round}");
    }
}

#[test]
fn exactly_the_capacity_fits() {
    for capacity in 1..=17 {
        let (mut producer, mut consumer) = channel(capacity);
        assert_eq!((producer.capacity(), consumer.capacity()), (capacity, capacity));
        assert!(consumer.is_empty());
        for item in 0..capacity {
            assert_eq!((producer.free(), consumer.len()), (capacity - item, item));
            producer.push(item).unwrap();
        }
        assert!(matches!(producer.push(99), Err(PushError::Full(99))));
        assert_eq!(consumer.pop(), Ok(0));
        producer.push(capacity).unwrap();
        assert_eq!((producer.free(), consumer.len()), (0, capacity));
    }
}

#[test]
fn what_was_pushed_before_the_producer_left_is_received() {
    let ledger = Ledger::new(3);
    let (mut producer, mut consumer) = channel(4);
    push_all(&mut producer, &ledger, 3);
    assert!(!consumer.is_closed());
    drop(producer);
    assert!(consumer.is_closed());
    assert_eq!(consumer.len(), 3);
    assert_eq!(pop_all(&mut consumer), [0, 1, 2]);
    assert_eq!(consumer.pop().err(), Some(PopError::Closed));
    assert_eq!(ledger.drops(), [1, 1, 1]);
}

#[test]
fn a_push_after_the_consumer_left_gives_the_item_back() {
    let (mut producer, consumer) = channel(1);
    producer.push(1).unwrap();
    assert!(!producer.is_closed());
    drop(consumer);
    assert!(producer.is_closed());
    assert_eq!(format!("{:?}", producer.push(2)), "Err(Closed(..))");
    assert_eq!(producer.push(3).unwrap_err().into_item(), 3);
}

#[test]
fn leftover_items_are_dropped_once_by_the_last_end() {
    for is_producer_first in [true, false] {
        let ledger = Ledger::new(5);
        let (mut producer, mut consumer) = channel(5);
        push_all(&mut producer, &ledger, 5);
        drop(consumer.pop());
        let last: Box<dyn std::any::Any> = if is_producer_first {
            drop(producer);
            Box::new(consumer)
        } else {
            drop(consumer);
            Box::new(producer)
        };
        assert_eq!(ledger.drops(), [1, 0, 0, 0, 0]);
        drop(last);
        assert_eq!(ledger.drops(), [1; 5]);
    }
}

#[test]
fn a_panic_in_one_drop_spares_no_other_leftover_item() {
    struct Bomb(Item);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(self.0.id != 1, "the drop of item 1 panics");
        }
    }
    let ledger = Ledger::new(4);
    let (mut producer, consumer) = channel(4);
    for id in 0..4 {
        producer.push(Bomb(ledger.item(id))).unwrap();
    }
    drop(consumer);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(producer))).is_err());
    assert_eq!(ledger.drops(), [1; 4]);
}

#[test]
fn items_without_size_are_counted_too() {
    let (mut producer, mut consumer) = channel(2);
    producer.push(()).unwrap();
    producer.push(()).unwrap();
    assert!(matches!(producer.push(()), Err(PushError::Full(()))));
    drop(producer);
    assert_eq!([consumer.pop(), consumer.pop(), consumer.pop()], [Ok(()), Ok(()), Err(PopError::Closed)]);
}

#[test]
#[should_panic(expected = "room for one item")]
fn a_queue_for_nothing_is_refused() {
    let _ = channel::<u8>(0);
}

#[test]
#[should_panic(expected = "counted in usize")]
fn a_queue_beyond_memory_is_refused() {
    let _ = channel::<()>(usize::MAX);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Pop,
    DropProducer,
    DropConsumer,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => Just(Step::Push),
        20 => Just(Step::Pop),
        1 => Just(Step::DropProducer),
        1 => Just(Step::DropConsumer),
    ];
    prop::collection::vec(step, 0..200)
}

/// What a push answers, for the queue, the model and the oracle alike.
#[derive(Debug, PartialEq)]
enum Pushed {
    Done,
    Full,
    Closed,
}

/// The model: a VecDeque, and whether each end is there.
struct Model {
    items: VecDeque<usize>,
    capacity: usize,
    has_producer: bool,
    has_consumer: bool,
}

impl Model {
    fn push(&mut self, id: usize) -> Pushed {
        if !self.has_consumer {
            return Pushed::Closed;
        }
        if self.items.len() == self.capacity {
            return Pushed::Full;
        }
        self.items.push_back(id);
        Pushed::Done
    }

    fn pop(&mut self) -> Result<usize, PopError> {
        self.items.pop_front().ok_or(if self.has_producer { PopError::Empty } else { PopError::Closed })
    }
}

fn rtrb_push(oracle: &mut rtrb::Producer<usize>, id: usize) -> Pushed {
    if oracle.is_abandoned() {
        return Pushed::Closed; // rtrb itself goes on until it is full
    }
    if oracle.push(id).is_ok() { Pushed::Done } else { Pushed::Full }
}

fn rtrb_pop(oracle: &mut rtrb::Consumer<usize>) -> Result<usize, PopError> {
    oracle.pop().map_err(|_| if oracle.is_abandoned() { PopError::Closed } else { PopError::Empty })
}

proptest! {
    #[test]
    fn any_sequence_agrees_with_a_vec_deque_and_with_rtrb(capacity in 1_usize..10, steps in steps()) {
        let ledger = Ledger::new(steps.len());
        let (producer, consumer) = channel(capacity);
        let (mut producer, mut consumer) = (Some(producer), Some(consumer));
        let (oracle_producer, oracle_consumer) = rtrb::RingBuffer::new(capacity);
        let (mut oracle_producer, mut oracle_consumer) = (Some(oracle_producer), Some(oracle_consumer));
        let mut model = Model { items: VecDeque::new(), capacity, has_producer: true, has_consumer: true };
        let mut made = 0;
        for step in steps {
            match step {
                Step::Push => {
                    let Some((producer, oracle)) = producer.as_mut().zip(oracle_producer.as_mut()) else { continue };
                    let id = made;
                    made += 1;
                    let pushed = match producer.push(ledger.item(id)) {
                        Ok(()) => Pushed::Done,
                        Err(PushError::Full(item)) => { prop_assert_eq!(item.id, id); Pushed::Full }
                        Err(PushError::Closed(item)) => { prop_assert_eq!(item.id, id); Pushed::Closed }
                    };
                    prop_assert_eq!(&pushed, &model.push(id));
                    prop_assert_eq!(&pushed, &rtrb_push(oracle, id));
                }
                Step::Pop => {
                    let Some((consumer, oracle)) = consumer.as_mut().zip(oracle_consumer.as_mut()) else { continue };
                    let popped = consumer.pop().map(|item| item.id);
                    prop_assert_eq!(popped, model.pop());
                    prop_assert_eq!(popped, rtrb_pop(oracle));
                }
                Step::DropProducer => {
                    drop((producer.take(), oracle_producer.take()));
                    model.has_producer = false;
                }
                Step::DropConsumer => {
                    drop((consumer.take(), oracle_consumer.take()));
                    model.has_consumer = false;
                }
            }
            if let Some((producer, oracle)) = producer.as_ref().zip(oracle_producer.as_ref()) {
                prop_assert_eq!(producer.free(), capacity - model.items.len());
                prop_assert_eq!(producer.free(), oracle.slots());
                prop_assert_eq!(producer.is_closed(), !model.has_consumer);
            }
            if let Some((consumer, oracle)) = consumer.as_ref().zip(oracle_consumer.as_ref()) {
                prop_assert_eq!(consumer.len(), model.items.len());
                prop_assert_eq!(consumer.len(), oracle.slots());
                prop_assert_eq!(consumer.is_closed(), !model.has_producer);
            }
        }
        drop((producer, consumer));
        prop_assert!(ledger.drops()[..made].iter().all(|&count| count == 1), "{:?}", ledger.drops());
    }
}
