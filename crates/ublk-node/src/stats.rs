//! Counters and latencies: mirrors of `NativeOpStats` and `NativeStats` in src/native.ts.

use napi_derive::napi;
use ublk::queue::{OpStats, Stats};

/// One operation, summed over the queues. Times are nanoseconds.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
pub struct NativeOpStats {
    /// read, write, flush, discard, write_zeroes.
    pub op: String,
    /// Answered.
    pub requests: i64,
    /// Of those that succeeded.
    pub bytes: i64,
    /// Answered with an errno.
    pub errors: i64,
    /// Mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: f64,
    /// 99 % were faster.
    pub p99_ns: f64,
    /// 99.9 % were faster.
    pub p999_ns: f64,
    /// Slowest.
    pub max_ns: f64,
}

/// A device's numbers.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
pub struct NativeStats {
    /// One entry per operation.
    pub ops: Vec<NativeOpStats>,
    /// Requests that the server owns.
    pub in_flight: u32,
    /// io_uring_enter calls.
    pub enters: i64,
    /// Completions reaped.
    pub completions: i64,
}

impl From<&OpStats> for NativeOpStats {
    fn from(stats: &OpStats) -> NativeOpStats {
        NativeOpStats {
            op: stats.op.name().to_owned(),
            requests: stats.requests as i64,
            bytes: stats.bytes as i64,
            errors: stats.errors as i64,
            mean_ns: stats.mean_ns,
            p50_ns: stats.p50_ns,
            p99_ns: stats.p99_ns,
            p999_ns: stats.p999_ns,
            max_ns: stats.max_ns,
        }
    }
}

impl From<Stats> for NativeStats {
    fn from(stats: Stats) -> NativeStats {
        NativeStats {
            ops: stats.ops.iter().map(Into::into).collect(),
            in_flight: stats.in_flight,
            enters: stats.enters as i64,
            completions: stats.completions as i64,
        }
    }
}
