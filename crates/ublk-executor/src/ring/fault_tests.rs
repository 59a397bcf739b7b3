//! A ring whose system calls fail or do half of what was asked: nothing is lost, nothing comes twice, nothing spins for ever.

use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use super::faults::{Fault, left, on_enter, on_setup};
use super::{Completion, Ring, RingError, RingOptions, Wait};

const LIMIT: Wait = Wait::AtMost(Duration::from_secs(5));

fn ring(submissions: u32, completions: u32) -> Ring {
    Ring::new(RingOptions { submissions, completions }).unwrap()
}

fn push(ring: &mut Ring, user_data: u64) -> Result<(), RingError> {
    // SAFETY: NOP points to nothing.
    unsafe { ring.push(&opcode::Nop::new().build().user_data(user_data)) }
}

/// Takes turns until `count` completions were reaped, then looks for more.
fn reap(ring: &mut Ring, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut batch: Vec<Completion> = Vec::with_capacity(3);
    let mut turns = 0;
    while seen.len() < count {
        turns += 1;
        assert!(turns < 1000, "{seen:?} of {count}");
        ring.turn(LIMIT).unwrap();
        ring.reap(&mut batch);
        seen.extend(batch.drain(..).map(|completion| completion.user_data));
    }
    ring.turn(Wait::No).unwrap();
    ring.reap(&mut batch);
    seen.extend(batch.iter().map(|completion| completion.user_data));
    seen.sort_unstable();
    seen
}

fn numbers(count: u64) -> Vec<u64> {
    (0..count).collect()
}

#[test]
fn what_a_short_submission_left_goes_with_the_next_turns_once() {
    let mut ring = ring(8, 32);
    for user_data in 0..8 {
        push(&mut ring, user_data).unwrap();
    }
    on_enter([Fault::Short(3), Fault::Short(0), Fault::Short(1)]);
    ring.turn(LIMIT).unwrap();
    ring.turn(LIMIT).unwrap();
    assert_eq!(ring.io.submission().len(), 5, "the kernel took 3");
    assert_eq!(reap(&mut ring, 8), numbers(8));
    assert_eq!(left(), 0);
}

#[test]
fn a_turn_that_a_passing_error_ended_loses_nothing() {
    for errno in [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ETIME] {
        let mut ring = ring(8, 32);
        for user_data in 0..5 {
            push(&mut ring, user_data).unwrap();
        }
        on_enter([Fault::Errno(errno), Fault::Errno(errno)]);
        ring.turn(LIMIT).unwrap();
        ring.turn(LIMIT).unwrap();
        assert_eq!(reap(&mut ring, 5), numbers(5), "errno {errno}");
        assert_eq!(left(), 0);
    }
}

#[test]
fn any_other_error_is_the_turns_and_the_entries_stay() {
    let mut ring = ring(8, 32);
    for user_data in 0..5 {
        push(&mut ring, user_data).unwrap();
    }
    on_enter([Fault::Errno(libc::EBADFD)]);
    let error = ring.turn(LIMIT).unwrap_err();
    assert_eq!((error.errno(), error.to_string().starts_with("io_uring_enter: ")), (Some(libc::EBADFD), true));
    assert_eq!(reap(&mut ring, 5), numbers(5));
}

/// Regression: a full queue was submitted again and again while the kernel answered EBUSY, with nobody to reap.
#[test]
fn a_push_into_a_full_queue_takes_completions_out_of_the_kernels_way() {
    let mut ring = ring(4, 4);
    for user_data in 0..4 {
        push(&mut ring, user_data).unwrap();
    }
    ring.turn(Wait::No).unwrap(); // four completions now fill the queue
    for user_data in 4..8 {
        push(&mut ring, user_data).unwrap();
    }
    on_enter([Fault::Errno(libc::EBUSY)]);
    push(&mut ring, 8).unwrap();
    assert_eq!(ring.aside.iter().map(|completion| completion.user_data).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(reap(&mut ring, 9), numbers(9));
    assert_eq!(left(), 0);
    // What lies aside is work, is not waited for, and alone keeps the ring from being quiet.
    push(&mut ring, 0).unwrap();
    ring.turn(Wait::No).unwrap();
    ring.set_aside();
    assert!(ring.has_work() && !ring.is_quiet());
    let begin = Instant::now();
    ring.turn(LIMIT).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert_eq!(reap(&mut ring, 1), [0]);
    assert!(!ring.has_work() && ring.is_quiet());
}

#[test]
fn a_push_into_a_queue_that_stays_full_gives_the_kernels_answer() {
    for errno in [libc::EBUSY, libc::EAGAIN, libc::EINTR] {
        let mut ring = ring(4, 8);
        for user_data in 0..4 {
            push(&mut ring, user_data).unwrap();
        }
        on_enter([Fault::Errno(errno); 8]);
        assert_eq!(push(&mut ring, 4).unwrap_err().errno(), Some(errno));
        assert_eq!(left(), 0);
        on_enter([Fault::Short(0); 8]);
        assert_eq!(push(&mut ring, 4).unwrap_err().errno(), Some(libc::EAGAIN));
        assert_eq!(left(), 0);
        push(&mut ring, 4).unwrap();
        assert_eq!(reap(&mut ring, 5), numbers(5));
    }
}

#[test]
fn a_chain_goes_into_one_submission_or_nowhere() {
    let nops = |numbers: std::ops::Range<u64>| -> Vec<squeue::Entry> {
        numbers.map(|number| opcode::Nop::new().build().user_data(number)).collect()
    };
    let mut ring = ring(4, 16);
    for user_data in 0..2 {
        push(&mut ring, user_data).unwrap();
    }
    // SAFETY: NOP points to nothing.
    unsafe { ring.push_all(&nops(2..5)) }.unwrap();
    let queued = ring.io.submission().len();
    assert_eq!((queued, ring.counts().0), (3, 1), "only what was there before was submitted");
    // SAFETY: NOP points to nothing.
    let error = unsafe { ring.push_all(&nops(5..10)) }.unwrap_err();
    assert!(matches!(error, RingError::ChainTooLong { chain: 5, entries: 4 }), "{error}");
    on_enter([Fault::Errno(libc::EAGAIN); 8]);
    // SAFETY: NOP points to nothing.
    assert_eq!(unsafe { ring.push_all(&nops(5..7)) }.unwrap_err().errno(), Some(libc::EAGAIN));
    assert_eq!(ring.io.submission().len(), 3, "nothing of the chain is in the queue");
    assert_eq!(reap(&mut ring, 5), numbers(5));
}

#[test]
fn an_overflowing_completion_queue_loses_nothing() {
    let mut ring = ring(4, 4);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    for user_data in 0..64 {
        let poll = opcode::PollAdd::new(types::Fd(std::os::fd::AsRawFd::as_raw_fd(&reader)), libc::POLLIN as u32);
        // SAFETY: POLL_ADD points to no memory.
        unsafe { ring.push(&poll.build().user_data(user_data)) }.unwrap();
    }
    ring.turn(Wait::No).unwrap();
    rustix::io::write(&writer, b"x").unwrap(); // 64 completions at once, for 4 entries
    while ring.io.submission().taskrun() {
        ring.turn(Wait::No).unwrap();
    }
    let mut batch = Vec::with_capacity(4);
    ring.reap(&mut batch);
    // The queue is empty, no task work is left, and yet there is more.
    assert!(ring.io.completion().is_empty() && !ring.io.submission().taskrun());
    assert!(ring.has_work() && !ring.is_quiet());
    let mut seen = reap(&mut ring, 60);
    seen.extend(batch.iter().map(|completion| completion.user_data));
    seen.sort_unstable();
    assert_eq!(seen, numbers(64));
    assert!(!ring.has_work() && ring.is_quiet());
}

#[test]
fn flags_that_the_kernel_does_not_know_are_left_out_step_by_step() {
    for (refused, is_deferred) in [(0, true), (1, true), (2, false), (3, false)] {
        on_setup(vec![libc::EINVAL; refused]);
        let mut ring = ring(4, 16);
        assert_eq!((ring.is_deferred, left()), (is_deferred, 0), "{refused} steps down");
        push(&mut ring, 0).unwrap();
        assert_eq!(reap(&mut ring, 1), numbers(1), "{refused} steps down");
    }
    on_setup([libc::EINVAL; 4]);
    let error = Ring::<squeue::Entry>::new(RingOptions { submissions: 4, completions: 4 }).map(drop).unwrap_err();
    assert!(matches!(&error, RingError::Kernel { call: "io_uring_setup", .. }), "{error}");
    assert_eq!((error.errno(), left()), (Some(libc::EINVAL), 0));
}

#[test]
fn a_set_up_that_is_refused_has_its_type_and_is_not_tried_again_with_fewer_flags() {
    for errno in [libc::ENOMEM, libc::EPERM, libc::ENOSYS, libc::EMFILE] {
        on_setup([errno]);
        let error = Ring::<squeue::Entry>::new(RingOptions { submissions: 4, completions: 4 }).map(drop).unwrap_err();
        match errno {
            libc::ENOMEM => assert!(matches!(error, RingError::NoMemory { entries: 4, .. }), "{error}"),
            libc::EMFILE => assert!(matches!(error, RingError::Kernel { .. }), "{error}"),
            _ => assert!(matches!(error, RingError::Disabled { .. }), "{error}"),
        }
        assert_eq!((error.errno(), left()), (Some(errno), 0));
    }
}

/// An unknown flag of enter is EINVAL: the ring goes on without it.
#[test]
fn an_enter_flag_that_the_kernel_does_not_know_is_left_out() {
    on_enter([Fault::Errno(libc::EINVAL)]);
    let mut ring = ring(4, 16);
    assert_eq!(ring.enter_flags & super::ENTER_NO_IOWAIT, 0);
    push(&mut ring, 0).unwrap();
    assert_eq!(reap(&mut ring, 1), numbers(1));
}
