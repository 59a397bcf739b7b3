//! The measures of queues between two threads.

use std::hint::spin_loop;
use std::thread;

use crate::Measure;
use crate::clock::{Sample, best_of, pin_to};

const ITEMS: u64 = 500_000;

/// A queue of one producer and one consumer, by what the measures use of it.
pub trait Queue: 'static {
    type Producer: Send + 'static;
    type Consumer: Send + 'static;

    fn new(capacity: usize) -> (Self::Producer, Self::Consumer);
    /// False: full.
    fn push(producer: &mut Self::Producer, item: u64) -> bool;
    /// None: empty.
    fn pop(consumer: &mut Self::Consumer) -> Option<u64>;
}

pub fn queue_measures<Q: Queue>() -> Vec<Measure> {
    vec![
        ("spsc-one-thread", Box::new(one_thread::<Q>)),
        ("spsc-64", Box::new(|| two_threads::<Q>(64))),
        ("spsc-1024", Box::new(|| two_threads::<Q>(1_024))),
    ]
}

/// What push and pop take where nobody else is: half a queue full in, half a queue full out.
fn one_thread<Q: Queue>() -> Sample {
    const CAPACITY: u64 = 64;
    pin_to(0);
    let (mut producer, mut consumer) = Q::new(CAPACITY as usize);
    best_of(30, ITEMS, || {
        for begin in (0..ITEMS).step_by(CAPACITY as usize / 2) {
            let items = begin..(begin + CAPACITY / 2).min(ITEMS);
            for item in items.clone() {
                assert!(Q::push(&mut producer, item));
            }
            for item in items {
                assert_eq!(Q::pop(&mut consumer), Some(item));
            }
        }
    })
}

/// Time per item from one CPU to the other, both spinning.
fn two_threads<Q: Queue>(capacity: usize) -> Sample {
    const BATCHES: usize = 60;
    let (mut producer, mut consumer) = Q::new(capacity);
    let pushes = thread::spawn(move || {
        pin_to(1);
        for item in 0..ITEMS * (BATCHES as u64 + 1) {
            while !Q::push(&mut producer, item) {
                spin_loop();
            }
        }
    });
    let pops = thread::spawn(move || {
        pin_to(0);
        let mut next = 0;
        best_of(BATCHES, ITEMS, || {
            for _ in 0..ITEMS {
                let item = loop {
                    match Q::pop(&mut consumer) {
                        Some(item) => break item,
                        None => spin_loop(),
                    }
                };
                assert_eq!(item, next);
                next += 1;
            }
        })
    });
    let best = pops.join().expect("the consumer ends");
    pushes.join().expect("the producer ends");
    best
}
