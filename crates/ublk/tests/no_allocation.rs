//! The data path allocates nothing: a counting allocator sees none while requests run. Needs a ublk kernel and root.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Live, MIB, page};
use ublk::Target;
use ublk::target::{Faults, FileOptions, StripeOptions, fault, file, mem, mirror, null, stripe};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes every call on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of the whole process during 4 000 requests.
fn allocations_under_load(target: Arc<dyn Target>) -> u64 {
    let live = Live::new(target);
    let device = live.open();
    let mut data = page(1);
    let mut round = |count: u64| {
        for index in 0..count {
            device.write_all_at(&data.0, (index % 256) * 4096).unwrap();
            device.read_exact_at(&mut data.0, (index % 256) * 4096).unwrap();
        }
    };
    round(10); // what happens once
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    round(2_000);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
#[ignore = "needs a ublk kernel"]
fn requests_allocate_nothing() {
    let path = std::env::temp_dir().join("ublk-no-allocation.img");
    let options = FileOptions { size_bytes: Some(4 * MIB), create: true, ..FileOptions::default() };
    let legs = |kind: &str| [0, 1].map(|leg| std::env::temp_dir().join(format!("ublk-no-allocation-{kind}{leg}.img")));
    let striped = StripeOptions { chunk_bytes: 4096, files: options.clone() };
    let faults = Faults { delay: Duration::from_micros(1), ..Faults::default() };
    let targets: [Arc<dyn Target>; 6] = [
        null(4 * MIB),
        mem(4 * MIB).unwrap(),
        file(&path, &options).unwrap(),
        stripe(&legs("stripe"), &striped).unwrap(),
        mirror(&legs("mirror"), &options).unwrap(),
        fault(mem(4 * MIB).unwrap(), faults),
    ];
    for target in targets {
        let kind = target.kind();
        assert_eq!(allocations_under_load(target), 0, "{kind}");
    }
    for path in [[path].as_slice(), &legs("stripe"), &legs("mirror")].concat() {
        std::fs::remove_file(path).unwrap();
    }
    // The counter counts: the test would pass for nothing otherwise.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before + 1);
}
