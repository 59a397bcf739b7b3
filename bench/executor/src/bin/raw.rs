//! The floor of a round trip: two threads that do nothing but wake each other, each asleep in a ring with the executor's own flags.

use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use executor_bench::{PING_PONG, ROUND_BATCHES, ROUND_TRIPS, Sample, best_of, pin_to, run_one};
use io_uring::{opcode, types};
use ublk_executor::{Completion, Ring, RingOptions, Wait, Waker};

/// A thread's ring, with a poll on what the other thread wakes it by.
struct Sleeper {
    ring: Ring,
    batch: Vec<Completion>,
    waker: Waker,
}

impl Sleeper {
    fn new(waker: Waker) -> Sleeper {
        let mut ring = Ring::new(RingOptions { submissions: 256, completions: 1_024 }).unwrap();
        let poll = opcode::PollAdd::new(types::Fd(waker.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        // SAFETY: POLL_ADD points to no memory.
        unsafe { ring.push(&poll) }.unwrap();
        Sleeper { ring, batch: Vec::with_capacity(256), waker }
    }

    fn sleep(&mut self) {
        while self.batch.is_empty() {
            self.ring.turn(Wait::Forever).unwrap();
            self.ring.reap(&mut self.batch);
        }
        assert!(self.batch.iter().all(|completion| completion.more));
        self.batch.clear();
        self.waker.clear();
    }
}

fn ping_pong() -> Sample {
    let (here, there) = (Waker::new().unwrap(), Waker::new().unwrap());
    let (wakes_here, wakes_there) = (here.clone(), there.clone());
    let answers = thread::spawn(move || {
        pin_to(1);
        let mut sleeper = Sleeper::new(there);
        for _ in 0..ROUND_TRIPS * (ROUND_BATCHES as u64 + 1) {
            sleeper.sleep();
            wakes_here.wake();
        }
    });
    let asks = thread::spawn(move || {
        pin_to(0);
        let mut sleeper = Sleeper::new(here);
        best_of(ROUND_BATCHES, ROUND_TRIPS, || {
            for _ in 0..ROUND_TRIPS {
                wakes_there.wake();
                sleeper.sleep();
            }
        })
    });
    let best = asks.join().unwrap();
    answers.join().unwrap();
    best
}

fn main() {
    run_one(&[(PING_PONG, Box::new(ping_pong))]);
}
