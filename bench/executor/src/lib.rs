//! What is measured, written once for all contestants: each is a program of its own (`src/bin`) that names its ways of doing the same.
//!
//! A program does one measure per run and prints one line of JSON. `bench/executor.ts` runs the programs in turns, and compares.

mod clock;
pub mod foreign_channel;
mod measures;
mod queues;

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

pub use clock::{Sample, best_of, pin_to};
pub use measures::{LAST, PING_PONG, ROUND_BATCHES, ROUND_TRIPS};
pub use queues::{Queue, queue_measures};

/// 4 KiB that O_DIRECT takes. Leaked, because that is what compio and monoio both accept.
pub type Page = &'static mut [u8; 4096];

/// A measure by its name.
pub type Measure = (&'static str, Box<dyn Fn() -> Sample>);

/// An executor, by what the measures use of it.
pub trait Contestant: 'static {
    /// A file that was opened with O_DIRECT.
    type File: 'static;
    /// What it reads into.
    type Buffer: 'static;
    /// One side of two queues between two threads, before it came to its thread and after.
    type Side: Send + 'static;
    type Ends;

    /// Makes an executor on this thread and runs the future.
    fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T;
    /// Starts a task; what it returns waits for its end.
    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static;
    fn sleep(duration: Duration) -> impl Future<Output = ()>;
    fn open(path: &Path) -> impl Future<Output = Self::File>;
    fn buffer(page: Page) -> Self::Buffer;
    fn read(file: &Self::File, buffer: Self::Buffer, offset: u64) -> impl Future<Output = Self::Buffer>;
    fn sides() -> (Self::Side, Self::Side);
    fn connect(side: Self::Side) -> impl Future<Output = Self::Ends>;
    fn send(ends: &mut Self::Ends, item: u64) -> impl Future<Output = ()>;
    fn receive(ends: &mut Self::Ends) -> impl Future<Output = u64>;
}

pub fn open_direct(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).expect("the file can be opened")
}

/// The program of a contestant.
pub fn main_of<C: Contestant>(others: Vec<Measure>) {
    let mut measures = measures::all::<C>();
    measures.extend(others);
    run_one(&measures);
}

/// Runs the measure that the first argument names, and prints what it found.
pub fn run_one(measures: &[Measure]) {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some((_, measure)) = measures.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = measures.iter().map(|(known, _)| *known).collect();
        eprintln!("no measure is called \"{name}\"; there are {}", names.join(", "));
        std::process::exit(2);
    };
    let Sample { wall_ns, cpu_ns } = measure();
    println!("{{\"wallNanoseconds\":{wall_ns:.2},\"cpuNanoseconds\":{cpu_ns:.2}}}");
}
