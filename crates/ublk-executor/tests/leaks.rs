//! Executors come and go and leave nothing: no descriptor, no thread, no memory. Each law is tried in a process of its own, as root and as
//! a user whose locked memory is limited to 8 MiB, which rings count against on some kernels.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, pending, poll_fn};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use ublk_executor::{ExecutorError, LocalExecutor, RingError, leaked_operations, yield_now};

/// Set in the process that is watched: what it does.
const CASE: &str = "UBLK_EXECUTOR_LEAK_CASE";
const CYCLES: usize = 10_000;
/// Wakers of executors that are gone.
const KEPT_WAKERS: usize = 300;
/// Before the first count: allocator, thread locals and the like.
const WARM_UP: usize = 500;
/// What the resident memory may differ by: pages of the allocator. Blocks are counted exactly.
const RSS_SLACK_BYTES: u64 = 512 * 1024;

/// Blocks of memory that are there.
static LIVE_BLOCKS: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: the system's allocator; counting changes nothing of what it promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BLOCKS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE_BLOCKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static LIVE_FUTURES: AtomicUsize = AtomicUsize::new(0);

/// Counts a future from its making to its drop.
struct Live;

impl Live {
    fn new() -> Live {
        LIVE_FUTURES.fetch_add(1, Ordering::Relaxed);
        Live
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE_FUTURES.fetch_sub(1, Ordering::Relaxed);
    }
}

fn entries(directory: &str) -> BTreeSet<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: BTreeSet<String>,
    threads: usize,
    futures: usize,
    leaked_operations: usize,
}

fn held() -> Held {
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task").len(),
        futures: LIVE_FUTURES.load(Ordering::Relaxed),
        leaked_operations: leaked_operations(),
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A future that hands its waker out and is never ready.
fn woken_from_outside(wakers: &Arc<Mutex<VecDeque<Waker>>>) -> impl Future<Output = ()> + use<> {
    let (wakers, live) = (Arc::clone(wakers), Live::new());
    poll_fn(move |context| {
        let _ = &live;
        wakers.lock().unwrap().push_back(context.waker().clone());
        Poll::Pending
    })
}

/// Waits for the memory of rings that were closed: the other tests here close many at the same time, and the kernel is slower.
fn build() -> LocalExecutor {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match LocalExecutor::builder().ring_entries(8).build() {
            Err(ExecutorError::Ring(RingError::NoMemory { .. })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(100));
            }
            built => return built.unwrap(),
        }
    }
}

/// An executor with tasks that are parked, finished, and woken from outside, made and dropped.
fn cycle(wakers: &Arc<Mutex<VecDeque<Waker>>>) {
    let executor = build();
    for _ in 0..3 {
        let live = Live::new();
        let parked = async move {
            pending::<()>().await;
            drop(live);
        };
        executor.spawn_local(parked).unwrap().detach();
        let live = Live::new();
        executor.spawn_local(async move { drop(live) }).unwrap().detach();
        executor.spawn_local(woken_from_outside(wakers)).unwrap().detach();
    }
    executor
        .block_on(async {
            yield_now().await;
            yield_now().await;
        })
        .unwrap();
}

/// What the watched process does.
fn run_case(keeps_wakers: bool) {
    let wakers = Arc::new(Mutex::new(VecDeque::new()));
    let cycles = |count: usize| {
        for _ in 0..count {
            cycle(&wakers);
            let mut held = wakers.lock().unwrap();
            let kept = if keeps_wakers { KEPT_WAKERS } else { 0 };
            while held.len() > kept {
                held.pop_front().into_iter().for_each(Waker::wake);
            }
        }
    };
    cycles(WARM_UP);
    let (before, resident) = (held(), resident_bytes());
    let blocks = LIVE_BLOCKS.load(Ordering::Relaxed);
    cycles(CYCLES);
    assert_eq!(LIVE_BLOCKS.load(Ordering::Relaxed), blocks, "blocks of memory");
    assert_eq!(held(), before);
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown <= RSS_SLACK_BYTES, "{grown} bytes more after {CYCLES} executors");
    assert!(keeps_wakers != wakers.lock().unwrap().is_empty());
}

/// This test program with one case, under another program. A copy of it: others may not read where it was built.
fn watched(case: &str, under: &[&str]) {
    // A program that another thread starts while this one copies would hold the copy open for writing: it could not be run.
    static STARTING: Mutex<()> = Mutex::new(());
    let copy = std::env::temp_dir().join(format!("ublk-executor-leaks-{case}-{}", std::process::id()));
    let mut words: Vec<&str> = under.to_vec();
    words.extend([copy.to_str().unwrap(), "--exact", "the_watched_process", "--nocapture", "--test-threads=1"]);
    let child = {
        let _starting = STARTING.lock().unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env(CASE, case).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(&copy).unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{case} {under:?}: {text}");
}

#[test]
fn the_watched_process() {
    match std::env::var(CASE).as_deref() {
        Ok("wakers-used") | Ok("wakers-used-limited") => run_case(false),
        Ok("wakers-kept") => run_case(true),
        _ => {} // the other tests start it
    }
}

#[test]
fn nothing_is_left_of_ten_thousand_executors() {
    watched("wakers-used", &["env"]);
}

#[test]
fn nothing_is_left_of_ten_thousand_executors_whose_wakers_live_on() {
    watched("wakers-kept", &["env"]);
}

#[test]
fn nothing_is_left_when_locked_memory_is_limited() {
    let limit = ["prlimit", "--memlock=8388608:8388608"];
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let is_root = rustix::process::geteuid().is_root();
    let under: Vec<&str> = if is_root { [&limit[..], &user[..]].concat() } else { limit.to_vec() };
    watched("wakers-used-limited", &under);
}
