//! Negative control of the suite "asan": a block that is used after it was freed is reported, and one that nobody frees. Empty elsewhere.

#![cfg(asan)]
#![allow(unsafe_code)]

use std::hint::black_box;
use std::process::Command;

/// Set in the process that goes wrong: how.
const CASE: &str = "UBLK_EXECUTOR_SANITIZER_CASE";

#[test]
fn the_process_that_goes_wrong() {
    match std::env::var(CASE).as_deref() {
        Ok("use after free") => {
            let block = Box::into_raw(Box::new(black_box([7_u8; 64])));
            // SAFETY: none for the read: that is the point, and the process is one that ends here.
            unsafe {
                drop(Box::from_raw(block));
                black_box(block.read_volatile());
            }
        }
        Ok("leak") => drop(black_box(Box::into_raw(Box::new(black_box([7_u8; 64]))))),
        _ => {} // the other tests start it
    }
}

fn report_of(case: &str) -> String {
    let mut itself = Command::new(std::env::current_exe().unwrap());
    let output = itself.args(["--exact", "the_process_that_goes_wrong"]).env(CASE, case).output().unwrap();
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "nothing was reported: {report}");
    report
}

#[test]
fn what_is_used_after_it_was_freed_is_reported() {
    assert!(report_of("use after free").contains("AddressSanitizer: heap-use-after-free"));
}

#[test]
fn what_nobody_frees_is_reported() {
    assert!(report_of("leak").contains("LeakSanitizer: detected memory leaks"));
}
