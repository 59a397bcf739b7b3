//! Counters, latencies and legs: mirrors of `NativeOpStats`, `NativeLeg` and `NativeStats` in src/native.ts.

use napi_derive::napi;
use ublk::queue::{OpStats, Stats};
use ublk::target::{LegState, LegStatus};

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
    /// Of a mirror; empty for other targets.
    pub legs: Vec<NativeLeg>,
}

/// One leg of a mirror.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
pub struct NativeLeg {
    /// As given.
    pub path: String,
    /// in-sync, resyncing or failed.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes of the device that are done, while it is resyncing.
    pub resynced_bytes: Option<i64>,
}

impl From<LegStatus> for NativeLeg {
    fn from(LegStatus { path, state }: LegStatus) -> NativeLeg {
        let (state, error, resynced_bytes) = match state {
            LegState::InSync => ("in-sync", None, None),
            LegState::Resyncing { done_bytes } => ("resyncing", None, Some(done_bytes as i64)),
            LegState::Failed { reason } => ("failed", Some(reason), None),
        };
        NativeLeg { path, state: state.to_owned(), error, resynced_bytes }
    }
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

impl NativeStats {
    pub(crate) fn new(stats: &Stats, legs: Vec<LegStatus>) -> NativeStats {
        NativeStats {
            ops: stats.ops.iter().map(Into::into).collect(),
            in_flight: stats.in_flight,
            enters: stats.enters as i64,
            completions: stats.completions as i64,
            legs: legs.into_iter().map(Into::into).collect(),
        }
    }
}
