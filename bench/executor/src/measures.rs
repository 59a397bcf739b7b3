//! The measures of executors. Each runs on threads that it makes and binds, so that the process's own set of CPUs stays known.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use crate::clock::{Sample, best_of_async, best_part, pin_to, timed};
use crate::{Contestant, Measure};

const SWITCHES: u64 = 100_000;
const SPAWNS: u64 = 50_000;
const STORM: u64 = 100_000;
const FILE_PAGES: u64 = 16_384;

pub const PING_PONG: &str = "ping-pong";
pub const ROUND_TRIPS: u64 = 2_000;
pub const ROUND_BATCHES: usize = 20;
/// After this item both sides are done.
pub const LAST: u64 = u64::MAX;

pub(crate) fn all<C: Contestant>() -> Vec<Measure> {
    vec![
        ("switch", Box::new(|| alone::<C, _>(switch::<C>))),
        ("spawn-alone", Box::new(|| alone::<C, _>(spawn_alone::<C>))),
        ("spawn", Box::new(|| alone::<C, _>(spawn::<C>))),
        ("spawn-many", Box::new(|| alone::<C, _>(spawn_many::<C>))),
        ("timers", Box::new(|| alone::<C, _>(timers::<C>))),
        ("read-qd1", Box::new(|| alone::<C, _>(|| read::<C>(1, 2_000)))),
        ("read-qd32", Box::new(|| alone::<C, _>(|| read::<C>(32, 8_000)))),
        (PING_PONG, Box::new(ping_pong::<C>)),
    ]
}

/// On one executor, bound to one CPU.
fn alone<C: Contestant, F: Future<Output = Sample> + 'static>(measure: impl FnOnce() -> F + Send + 'static) -> Sample {
    let bound = thread::spawn(|| {
        pin_to(0);
        C::run(async { measure().await })
    });
    bound.join().expect("the measure ends")
}

/// The same future for all, whatever they offer themselves: wakes itself, and is ready at the second poll.
async fn yield_once() {
    let mut is_done = false;
    poll_fn(|context| {
        if is_done {
            return Poll::Ready(());
        }
        is_done = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// From one task to the other: both yield and yield.
async fn switch<C: Contestant>() -> Sample {
    best_of_async(20, SWITCHES, async || {
        let yields = || async {
            for _ in 0..SWITCHES / 2 {
                yield_once().await;
            }
        };
        let (one, two) = (C::spawn(yields()), C::spawn(yields()));
        one.await;
        two.await;
    })
    .await
}

/// The spawning alone of a thousand empty tasks, which are run and joined off the clock.
async fn spawn_alone<C: Contestant>() -> Sample {
    best_part(200, 1_000, async || {
        let mut tasks = Vec::with_capacity(1_000);
        let ((), stopped) = timed(|| tasks.extend((0..1_000).map(|_| C::spawn(async {}))));
        for task in tasks {
            task.await;
        }
        stopped
    })
    .await
}

/// An empty task: spawned, run, joined, then the next.
async fn spawn<C: Contestant>() -> Sample {
    best_of_async(20, SPAWNS, async || {
        for _ in 0..SPAWNS {
            C::spawn(async {}).await;
        }
    })
    .await
}

/// A hundred thousand empty tasks at once, then all joined.
async fn spawn_many<C: Contestant>() -> Sample {
    best_of_async(10, STORM, async || {
        let mut tasks = Vec::with_capacity(STORM as usize);
        tasks.extend((0..STORM).map(|_| C::spawn(async {})));
        for task in tasks {
            task.await;
        }
    })
    .await
}

/// A hundred thousand tasks that each sleep once, for 1 to 10 ms. Its CPU time is what counts: the rest is sleep.
async fn timers<C: Contestant>() -> Sample {
    let mut random = Random(7);
    best_of_async(5, STORM, async || {
        let naps: Vec<_> = (0..STORM).map(|_| Duration::from_micros(1_000 + random.below(9_000))).collect();
        let tasks: Vec<_> = naps.into_iter().map(|nap| C::spawn(async move { C::sleep(nap).await })).collect();
        for task in tasks {
            task.await;
        }
    })
    .await
}

/// Random pages of the file that the second argument names, `depth` at a time.
async fn read<C: Contestant>(depth: u64, reads: u64) -> Sample {
    let path = std::env::args().nth(2).expect("a file of 64 MiB as second argument");
    let file = Rc::new(C::open(path.as_ref()).await);
    best_of_async(3, reads, async || {
        let reader = |reader| {
            let file = Rc::clone(&file);
            C::spawn(async move {
                let mut random = Random(reader + 1);
                let mut buffer = C::buffer(&mut Box::leak(Box::new(Aligned([0; 4096]))).0);
                for _ in 0..reads / depth {
                    buffer = C::read(&file, buffer, random.below(FILE_PAGES) * 4096).await;
                }
            })
        };
        let readers: Vec<_> = (0..depth).map(reader).collect();
        for reader in readers {
            reader.await;
        }
    })
    .await
}

/// A number there and back, between executors on two CPUs.
fn ping_pong<C: Contestant>() -> Sample {
    let (here, there) = C::sides();
    let answers = thread::spawn(move || {
        pin_to(1);
        C::run(async move {
            let mut ends = C::connect(there).await;
            let mut item = 0;
            while item != LAST {
                item = C::receive(&mut ends).await;
                C::send(&mut ends, item).await;
            }
        });
    });
    let asks = thread::spawn(move || {
        pin_to(0);
        C::run(async move {
            let mut ends = C::connect(here).await;
            let mut round_trip = async |item| {
                C::send(&mut ends, item).await;
                assert_eq!(C::receive(&mut ends).await, item);
            };
            let best = best_of_async(ROUND_BATCHES, ROUND_TRIPS, async || {
                for item in 0..ROUND_TRIPS {
                    round_trip(item).await;
                }
            })
            .await;
            round_trip(LAST).await;
            best
        })
    });
    let best = asks.join().expect("the asking side ends");
    answers.join().expect("the answering side ends");
    best
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

/// xorshift: the same numbers for all.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
