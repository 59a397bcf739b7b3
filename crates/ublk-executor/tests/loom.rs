//! The queue under every order of two threads that the memory model allows. Empty without `--cfg loom`:
//! `RUSTFLAGS=--cfg=loom cargo test -p ublk-executor --test loom --release --target-dir target/loom`

#![cfg(loom)]

use loom::thread;
use ublk_executor::spsc::{PopError, PushError, channel};

#[path = "support/ledger.rs"]
mod ledger;
use ledger::{Ledger, pop_all, push_all};

/// Checks every order of a model at capacity 1. At capacity 2 there are too many: those with three preemptions at most.
fn check(capacity: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = (capacity > 1).then_some(3);
    checker.check(model);
}

/// All of `count` items arrive in order, the last ones after the producer is gone.
fn all_arrive(capacity: usize, count: usize) {
    check(capacity, move || {
        let ledger = std::sync::Arc::new(Ledger::new(count));
        let (mut producer, mut consumer) = channel(capacity);
        let pushing = thread::spawn({
            let ledger = ledger.clone();
            move || push_all(&mut producer, &ledger, count)
        });
        assert!(pop_all(&mut consumer).into_iter().eq(0..count));
        drop(consumer);
        pushing.join().unwrap();
        assert_eq!(ledger.drops(), vec![1; count]);
    });
}

#[test]
fn all_arrive_in_order_at_capacity_1() {
    all_arrive(1, 2);
}

#[test]
fn all_arrive_in_order_at_capacity_2() {
    all_arrive(2, 4);
}

/// The producer pushes what it can and leaves; the consumer pops `pops` times at most and leaves. Whoever goes last, each
/// item is dropped once.
fn all_are_dropped_once(capacity: usize, pushes: usize, pops: usize) {
    check(capacity, move || {
        let ledger = std::sync::Arc::new(Ledger::new(pushes));
        let (mut producer, mut consumer) = channel(capacity);
        let pushing = thread::spawn({
            let ledger = ledger.clone();
            move || {
                let mut is_refused = false;
                for id in 0..pushes {
                    match producer.push(ledger.item(id)) {
                        Err(PushError::Closed(item)) => {
                            assert_eq!(item.id, id);
                            is_refused = true;
                        }
                        // Once closed, always closed.
                        Ok(()) | Err(PushError::Full(_)) => assert!(!is_refused),
                    }
                }
            }
        });
        let mut last = None;
        for _ in 0..pops {
            match consumer.pop() {
                Ok(item) => assert!(last.replace(item.id) < Some(item.id)),
                Err(PopError::Empty) => {}
                Err(PopError::Closed) => assert_eq!(consumer.pop().err(), Some(PopError::Closed)),
            }
        }
        drop(consumer);
        pushing.join().unwrap();
        assert_eq!(ledger.drops(), vec![1; pushes]);
    });
}

#[test]
fn leftover_items_are_dropped_once_at_capacity_1() {
    all_are_dropped_once(1, 2, 0);
    all_are_dropped_once(1, 2, 1);
    all_are_dropped_once(1, 3, 2);
}

#[test]
fn leftover_items_are_dropped_once_at_capacity_2() {
    all_are_dropped_once(2, 3, 0);
    all_are_dropped_once(2, 3, 1);
    all_are_dropped_once(2, 3, 2);
}

#[test]
fn a_producer_learns_that_the_consumer_left() {
    for capacity in [1, 2] {
        check(capacity, move || {
            let (mut producer, consumer) = channel(capacity);
            let leaving = thread::spawn(move || drop(consumer));
            let mut pushed = 0;
            while !matches!(producer.push(pushed), Err(PushError::Closed(_))) {
                pushed += 1;
                thread::yield_now();
            }
            assert!(producer.is_closed());
            leaving.join().unwrap();
        });
    }
}

#[test]
fn room_and_items_once_seen_stay() {
    check(2, || {
        let (mut producer, mut consumer) = channel(2);
        producer.push(0).unwrap();
        let pushing = thread::spawn(move || {
            for item in 0..producer.free() {
                producer.push(item).unwrap();
            }
            producer
        });
        for _ in 0..consumer.len() {
            consumer.pop().unwrap();
        }
        drop(pushing.join().unwrap());
        drop(consumer);
    });
}
