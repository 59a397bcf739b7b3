//! Counters and latencies of one queue: written by its owner alone, readable from any thread.
//!
//! A latency runs from the batch that brought the request to the batch that commits it, in clock ticks; buckets are 16 per power of
//! two (6 % wide). Percentiles are computed when somebody asks, never on the way of a request.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use ublk_executor::clock;

use super::request::Op;

const SUB_BUCKET_BITS: u32 = 4;
const SUB_BUCKETS: u64 = 1 << SUB_BUCKET_BITS;
/// Sixteen for the values below 16, and sixteen for each power of two above.
const BUCKETS: usize = ((64 - SUB_BUCKET_BITS as usize) + 1) * SUB_BUCKETS as usize;

/// A counter with one writer: an ordinary load and store, no locked instruction.
#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn add(&self, value: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(value), Relaxed);
    }
    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

struct OpCounters {
    bytes: Counter,
    errors: Counter,
    latency_ticks: Counter,
    max_ticks: AtomicU64,
    /// Requests by their latency.
    buckets: [Counter; BUCKETS],
}

impl Default for OpCounters {
    fn default() -> OpCounters {
        OpCounters {
            bytes: Counter::default(),
            errors: Counter::default(),
            latency_ticks: Counter::default(),
            max_ticks: AtomicU64::new(0),
            buckets: array::from_fn(|_| Counter::default()),
        }
    }
}

/// One queue's numbers.
#[derive(Default)]
pub struct QueueStats {
    ops: [OpCounters; Op::COUNTED.len()],
    in_flight: AtomicU32,
    enters: AtomicU64,
    completions: AtomicU64,
}

impl QueueStats {
    #[inline]
    pub(super) fn record(&self, op: Op, result: i32, ticks: u64) {
        let Some(counters) = counted_index(op).map(|index| &self.ops[index]) else { return };
        match u64::try_from(result) {
            Ok(bytes) => counters.bytes.add(bytes),
            Err(_) => counters.errors.add(1),
        }
        counters.latency_ticks.add(ticks);
        counters.buckets[bucket(ticks)].add(1);
        if ticks > counters.max_ticks.load(Relaxed) {
            counters.max_ticks.store(ticks, Relaxed);
        }
    }

    /// When a batch is drained, and before the owner waits: what it has not answered by then is in flight.
    #[inline]
    pub(super) fn publish_in_flight(&self, in_flight: u32) {
        self.in_flight.store(in_flight, Relaxed);
    }

    #[inline]
    pub(super) fn publish_counts(&self, enters: u64, completions: u64) {
        self.enters.store(enters, Relaxed);
        self.completions.store(completions, Relaxed);
    }
}

/// Numbers of one operation, summed over queues. Times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpStats {
    /// Operation.
    pub op: Op,
    /// Requests answered.
    pub requests: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Requests answered with an errno.
    pub errors: u64,
    /// Mean latency.
    pub mean_ns: f64,
    /// Half of the requests were faster.
    pub p50_ns: f64,
    /// 99 % were faster.
    pub p99_ns: f64,
    /// 99.9 % were faster.
    pub p999_ns: f64,
    /// Slowest request.
    pub max_ns: f64,
}

/// Numbers of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// One entry per counted operation.
    pub ops: Vec<OpStats>,
    /// Requests that the server owned when it last drained a batch or began to wait.
    pub in_flight: u32,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Completions reaped.
    pub completions: u64,
}

impl Stats {
    /// Sums the queues and computes the percentiles.
    pub fn of(queues: &[Arc<QueueStats>]) -> Stats {
        let nanoseconds_per_tick = clock::nanoseconds_per_tick();
        Stats {
            ops: (0..Op::COUNTED.len()).map(|index| sum_op(queues, index, nanoseconds_per_tick)).collect(),
            in_flight: queues.iter().map(|queue| queue.in_flight.load(Relaxed)).sum(),
            enters: queues.iter().map(|queue| queue.enters.load(Relaxed)).sum(),
            completions: queues.iter().map(|queue| queue.completions.load(Relaxed)).sum(),
        }
    }
}

fn sum_op(queues: &[Arc<QueueStats>], index: usize, nanoseconds_per_tick: f64) -> OpStats {
    let all = || queues.iter().map(|queue| &queue.ops[index]);
    let buckets: Vec<u64> =
        (0..BUCKETS).map(|bucket| all().map(|counters| counters.buckets[bucket].get()).sum()).collect();
    let counted: u64 = buckets.iter().sum();
    let max_ticks = all().map(|counters| counters.max_ticks.load(Relaxed)).max().unwrap_or(0);
    let to_ns = |ticks: f64| ticks * nanoseconds_per_tick;
    let percentile = |share| to_ns(percentile_ticks(&buckets, counted, share).min(max_ticks as f64));
    let latency_ticks: u64 = all().map(|counters| counters.latency_ticks.get()).sum();
    OpStats {
        op: Op::COUNTED[index],
        requests: counted,
        bytes: all().map(|counters| counters.bytes.get()).sum(),
        errors: all().map(|counters| counters.errors.get()).sum(),
        mean_ns: to_ns(latency_ticks as f64 / counted.max(1) as f64),
        p50_ns: percentile(0.50),
        p99_ns: percentile(0.99),
        p999_ns: percentile(0.999),
        max_ns: to_ns(max_ticks as f64),
    }
}

fn percentile_ticks(buckets: &[u64], counted: u64, share: f64) -> f64 {
    let rank = (counted as f64 * share).ceil() as u64;
    let mut seen = 0;
    for (index, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= rank && seen > 0 {
            return bucket_middle(index);
        }
    }
    0.0
}

#[inline]
fn counted_index(op: Op) -> Option<usize> {
    match op {
        Op::Read => Some(0),
        Op::Write => Some(1),
        Op::Flush => Some(2),
        Op::Discard => Some(3),
        Op::WriteZeroes => Some(4),
        _ => None,
    }
}

#[inline]
fn bucket(ticks: u64) -> usize {
    // `ticks >> shift` is one of 16 to 31, and below only where nothing is shifted: so the rows of sixteen follow each other.
    let shift = (ticks | SUB_BUCKETS).ilog2() - SUB_BUCKET_BITS;
    ((shift << SUB_BUCKET_BITS) as usize) + (ticks >> shift) as usize
}

fn bucket_middle(index: usize) -> f64 {
    let (power, sub_bucket) = (index as u64 / SUB_BUCKETS, index as u64 % SUB_BUCKETS);
    if power == 0 {
        return sub_bucket as f64;
    }
    let width = (1_u64 << (power - 1)) as f64;
    (SUB_BUCKETS + sub_bucket) as f64 * width + width / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_own_middle_and_they_ascend() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(bucket_middle(index) as u64), index, "bucket {index}");
            assert!(bucket_middle(index) < bucket_middle(index + 1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_lie_within_a_bucket_of_the_truth() {
        let stats = Arc::new(QueueStats::default());
        for value in 1..=100_000_u64 {
            stats.record(Op::Read, 512, value);
        }
        let read = sum_op(&[Arc::clone(&stats)], 0, 1.0);
        assert_eq!((read.requests, read.bytes, read.errors), (100_000, 51_200_000, 0));
        for (measured, truth) in [(read.p50_ns, 50_000.0), (read.p99_ns, 99_000.0), (read.p999_ns, 99_900.0)] {
            assert!((measured / truth - 1.0_f64).abs() < 0.07, "{measured} for {truth}");
        }
        assert_eq!((read.max_ns, read.mean_ns), (100_000.0, 50_000.5));
    }

    #[test]
    fn errors_count_no_bytes() {
        let stats = Arc::new(QueueStats::default());
        stats.record(Op::Write, -libc::EIO, 10);
        stats.record(Op::Other(13), 0, 10);
        let write = sum_op(&[stats], 1, 1.0);
        assert_eq!((write.requests, write.bytes, write.errors), (1, 0, 1));
    }
}
