//! Reads of which nobody waits for the end: the kernel writes into no memory that was freed.
//!
//! Freed buffers are poisoned and kept by this program's allocator; afterwards no byte of them may have changed. Closing a ring does not
//! stop its reads: without the wait for them at an executor's end hundreds of buffers are overwritten.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use ublk_executor::io::{DmaBuffer, DmaFile};
use ublk_executor::{LocalExecutor, leaked_operations, sleep, spawn_local, yield_now};

const BUFFER_BYTES: usize = 1 << 20;
const READS: usize = 32;
const POISON: u8 = 0xab;

/// Freed buffers, by address.
static QUARANTINE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Keeps freed blocks of the size of our buffers.
struct Quarantining;

fn is_buffer(layout: Layout) -> bool {
    layout.size() == BUFFER_BYTES && layout.align() == 4096
}

// SAFETY: the system's allocator, which is asked for every block; blocks that are never given back to it are never given out again.
unsafe impl GlobalAlloc for Quarantining {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_buffer(layout) {
            // SAFETY: the block is of that size, and nobody else's any more.
            unsafe { std::ptr::write_bytes(block, POISON, layout.size()) };
            QUARANTINE.lock().unwrap().push(block as usize);
        } else {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(block, layout) };
        }
    }
}

#[global_allocator]
static ALLOCATOR: Quarantining = Quarantining;

/// How many freed buffers were written to since; forgets them all.
fn overwritten() -> (usize, usize) {
    let blocks = std::mem::take(&mut *QUARANTINE.lock().unwrap());
    let changed = blocks.iter().filter(|&&block| {
        // SAFETY: the block is in quarantine: allocated, ours, and of that size.
        let bytes = unsafe { std::slice::from_raw_parts(block as *const u8, BUFFER_BYTES) };
        bytes.iter().any(|&byte| byte != POISON)
    });
    let changed = changed.count();
    for &block in &blocks {
        let layout = Layout::from_size_align(BUFFER_BYTES, 4096).unwrap();
        // SAFETY: allocated by the system's allocator with this layout, and kept from it until now.
        unsafe { System.dealloc(block as *mut u8, layout) };
    }
    (changed, blocks.len())
}

/// A file whose bytes are not the poison.
fn image(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let mut file = File::create(&path).unwrap();
    for _ in 0..READS {
        file.write_all(&vec![0x11; BUFFER_BYTES]).unwrap();
    }
    file.sync_all().unwrap();
    path
}

#[test]
fn no_freed_buffer_is_written_to_whenever_futures_and_executors_are_dropped() {
    let path = image("in-flight");
    let mut seed = 1_u64;
    // Fewer under Valgrind, where each takes seconds.
    let rounds = std::env::var("UBLK_EXECUTOR_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let mut rounds_with_reads = 0;
    for round in 0..rounds {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chance = seed >> 33;
        let executor = LocalExecutor::new().unwrap();
        let file = DmaFile::from_std(File::open(&path).unwrap()).unwrap();
        executor
            .block_on(async move {
                let mut tasks = Vec::new();
                for index in 0..READS {
                    let file = file.clone();
                    let (buffer, offset) = (DmaBuffer::new(BUFFER_BYTES), (index * BUFFER_BYTES) as u64);
                    let read = async move {
                        match index % 2 {
                            0 => file.read_at(buffer, offset).await.0,
                            _ => file.read_vectored_at(vec![buffer], offset).await.0,
                        }
                    };
                    tasks.push(spawn_local(read).unwrap());
                }
                yield_now().await;
                if chance.is_multiple_of(2) {
                    sleep(Duration::from_micros(chance % 700)).await;
                }
                // Some are dropped here, with their reads under way; the rest go with the executor.
                let kept = tasks.split_off((chance % (READS as u64 + 1)) as usize);
                drop(tasks);
                for task in kept {
                    task.detach();
                }
            })
            .unwrap();
        rounds_with_reads += usize::from(executor.stats().in_flight > 0);
        drop(executor);
        std::thread::sleep(Duration::from_millis(if round + 1 == rounds { 200 } else { 20 }));
        let (changed, freed) = overwritten();
        assert_eq!((changed, freed), (0, READS), "round {round}");
    }
    assert_eq!(leaked_operations(), 0);
    // Reads of memory end as they begin: there the drain has nothing to do.
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let is_on_disk = rustix::fs::statfs(&path).unwrap().f_type as i64 != TMPFS_MAGIC;
    assert!(rounds_with_reads > 0 || rounds < 30 || !is_on_disk, "no read was under way when its executor was dropped");
    std::fs::remove_file(path).unwrap();
}
