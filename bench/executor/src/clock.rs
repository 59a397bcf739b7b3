//! Time and place of a measurement.

use std::time::Instant;

/// What one item took.
#[derive(Clone, Copy)]
pub struct Sample {
    pub wall_ns: f64,
    /// CPU time of all threads of the process, the kernel's share included.
    pub cpu_ns: f64,
}

impl Sample {
    const NONE: Sample = Sample { wall_ns: f64::INFINITY, cpu_ns: f64::INFINITY };

    fn least(self, other: Sample) -> Sample {
        Sample { wall_ns: self.wall_ns.min(other.wall_ns), cpu_ns: self.cpu_ns.min(other.cpu_ns) }
    }
}

struct Stopwatch {
    begin: Instant,
    cpu_ns: f64,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { cpu_ns: cpu_ns(), begin: Instant::now() }
    }

    fn per_item(&self, items: u64) -> Sample {
        let wall_ns = self.begin.elapsed().as_nanos() as f64 / items as f64;
        Sample { wall_ns, cpu_ns: (cpu_ns() - self.cpu_ns) / items as f64 }
    }
}

/// Runs `batch`, which does `items`, so many times after one that does not count. The least of each kind of time: whatever else the machine
/// does can only add to it.
pub fn best_of(batches: usize, items: u64, mut batch: impl FnMut()) -> Sample {
    batch();
    let mut best = Sample::NONE;
    for _ in 0..batches {
        let watch = Stopwatch::start();
        batch();
        best = best.least(watch.per_item(items));
    }
    best
}

/// [`best_of_async`] of what `batch` itself times: the part of it that counts.
pub async fn best_part(batches: usize, items: u64, mut batch: impl AsyncFnMut() -> Stopped) -> Sample {
    batch().await;
    let mut best = Sample::NONE;
    for _ in 0..batches {
        let Stopped(whole) = batch().await;
        best = best.least(Sample { wall_ns: whole.wall_ns / items as f64, cpu_ns: whole.cpu_ns / items as f64 });
    }
    best
}

/// What a part of a batch took.
pub struct Stopped(Sample);

/// Times `part`.
pub fn timed<T>(part: impl FnOnce() -> T) -> (T, Stopped) {
    let watch = Stopwatch::start();
    let result = part();
    (result, Stopped(watch.per_item(1)))
}

/// [`best_of`] within one executor: what it has grown to stays, as in a program that runs for long.
pub async fn best_of_async(batches: usize, items: u64, mut batch: impl AsyncFnMut()) -> Sample {
    batch().await;
    let mut best = Sample::NONE;
    for _ in 0..batches {
        let watch = Stopwatch::start();
        batch().await;
        best = best.least(watch.per_item(items));
    }
    best
}

fn cpu_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Binds this thread to the last but `index` of the CPUs that the process has; the first ones serve the machine's interrupts.
pub fn pin_to(index: usize) {
    // SAFETY: `set` is plain data, and both calls stay within its size; CPU_ISSET and CPU_SET are given CPUs below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let bytes = size_of::<libc::cpu_set_t>();
        // The process's own, not that of a thread that is bound already.
        assert_eq!(libc::sched_getaffinity(std::process::id() as i32, bytes, &raw mut set), 0);
        let allowed: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect();
        let cpu = allowed[allowed.len().saturating_sub(index + 1)];
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut one);
        assert_eq!(libc::sched_setaffinity(0, bytes, &raw const one), 0);
    }
}
