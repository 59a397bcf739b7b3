//! A ring over the real kernel.

use super::*;
use io_uring::{opcode, types};
use std::time::Instant;

fn ring() -> Ring {
    Ring::new(RingOptions { submissions: 4, completions: 16 }).unwrap()
}

fn nop(user_data: u64) -> squeue::Entry {
    opcode::Nop::new().build().user_data(user_data)
}

#[test]
fn operations_come_back_with_their_user_data() {
    let mut ring = ring();
    let mut batch = Vec::with_capacity(16);
    for user_data in 0..3 {
        // SAFETY: NOP points to nothing.
        unsafe { ring.push(&nop(user_data)) }.unwrap();
    }
    ring.turn(Wait::Forever).unwrap();
    ring.reap(&mut batch);
    let mut seen: Vec<_> = batch.iter().map(|completion| completion.user_data).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!(ring.counts(), (1, 3));
}

#[test]
fn a_full_submission_queue_submits_itself() {
    let mut ring = ring();
    let mut batch = Vec::with_capacity(16);
    for user_data in 0..10 {
        // SAFETY: NOP points to nothing.
        unsafe { ring.push(&nop(user_data)) }.unwrap();
    }
    ring.turn(Wait::Forever).unwrap();
    ring.reap(&mut batch);
    assert_eq!(batch.len(), 10);
}

#[test]
fn reap_keeps_within_the_capacity() {
    let mut ring = ring();
    for user_data in 0..4 {
        // SAFETY: NOP points to nothing.
        unsafe { ring.push(&nop(user_data)) }.unwrap();
    }
    ring.turn(Wait::Forever).unwrap();
    let mut batch = Vec::with_capacity(3);
    ring.reap(&mut batch);
    assert_eq!((batch.len(), batch.capacity()), (3, 3));
    batch.clear();
    ring.reap(&mut batch);
    assert_eq!(batch.len(), 1);
}

#[test]
fn a_turn_ends_at_its_time() {
    let mut ring = ring();
    let begin = Instant::now();
    ring.turn(Wait::AtMost(Duration::from_millis(30))).unwrap();
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(29) && waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn a_waker_ends_a_wait() {
    let waker = crate::Waker::new().unwrap();
    let remote = waker.clone();
    let mut ring = ring();
    let poll = opcode::PollAdd::new(types::Fd(waker.as_fd().as_raw_fd()), libc::POLLIN as u32)
        .multi(true)
        .build()
        .user_data(9);
    // SAFETY: POLL_ADD points to no memory.
    unsafe { ring.push(&poll) }.unwrap();
    let thread = std::thread::spawn(move || remote.wake());
    let mut batch = Vec::with_capacity(4);
    while batch.is_empty() {
        ring.turn(Wait::AtMost(Duration::from_secs(5))).unwrap();
        ring.reap(&mut batch);
    }
    assert_eq!((batch[0].user_data, batch[0].more()), (9, true));
    thread.join().unwrap();
}

#[test]
fn dropped_rings_leave_no_descriptor_slot_behind() {
    // Each thread has 16 slots for registered rings: a leak would show as a ring that uses its plain descriptor.
    for _ in 0..40 {
        let ring = ring();
        assert!(ring.enter_flags & ENTER_REGISTERED_RING != 0);
    }
}
