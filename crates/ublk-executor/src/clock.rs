//! A clock cheap enough for every request: the CPU's time-stamp counter, converted to nanoseconds only when somebody reads.
//!
//! Invariant: ticks are comparable between threads (invariant TSC, or the generic timer on arm64).

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Shortest span over which the counter's rate is measured.
const CALIBRATION: Duration = Duration::from_millis(2);

/// Reads the counter: one instruction, no system call. (Miri knows no such counter: there it is std's clock. For the model checker time
/// stands still: each run of a model must go the same way.)
#[cfg(not(loom))]
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: RDTSC reads a counter and has no precondition; Linux does not disable it for user space.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        let value: u64;
        // SAFETY: CNTVCT_EL0 is readable from user space on Linux and reading it has no effect.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
        value
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        origin().1.elapsed().as_nanos() as u64
    }
}

#[cfg(loom)]
#[allow(missing_docs)]
pub fn ticks() -> u64 {
    0
}

/// Pair of readings from which the rate is computed; taken at the first call of [`start`].
fn origin() -> &'static (u64, Instant) {
    static ORIGIN: OnceLock<(u64, Instant)> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
        let first = ticks();
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        let first = 0;
        (first, Instant::now())
    })
}

/// Begins the calibration; call it early (a device is added), so that readers need not wait.
pub fn start() {
    origin();
}

/// Nanoseconds in one tick, measured since [`start`]. Waits up to 2 ms if called right after it.
pub fn nanoseconds_per_tick() -> f64 {
    if cfg!(loom) {
        return 1.0;
    }
    let (first_ticks, first_instant) = origin();
    if let Some(rest) = CALIBRATION.checked_sub(first_instant.elapsed()) {
        std::thread::sleep(rest);
    }
    let nanoseconds = first_instant.elapsed().as_nanos() as f64;
    let elapsed_ticks = ticks().wrapping_sub(*first_ticks).max(1) as f64;
    nanoseconds / elapsed_ticks
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_measured_sleep_converts_to_its_length() {
        start();
        let before = ticks();
        std::thread::sleep(Duration::from_millis(20));
        let elapsed_ms = (ticks() - before) as f64 * nanoseconds_per_tick() / 1e6;
        assert!((19.0..5_000.0).contains(&elapsed_ms), "20 ms measured as {elapsed_ms} ms");
    }
}
