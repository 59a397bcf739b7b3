//! A short write breaks the chain to the sync after it; the rest follows with a sync of its own. Alone in its process: it lowers a limit.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ublk_executor::io::{DmaBuffer, DmaFile};
use ublk_executor::{LocalExecutor, sleep};

#[test]
fn a_short_write_is_resumed_and_synced() {
    // SAFETY: no handler is installed: beyond the limit writes fail, instead of ending the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("short-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let file = DmaFile::from_std(options.open(&path).unwrap()).unwrap();
    let limits = getrlimit(Resource::Fsize);
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let mut buffer = DmaBuffer::new(16384);
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = (index / 512) as u8;
            }
            setrlimit(Resource::Fsize, Rlimit { current: Some(8192), maximum: limits.maximum }).unwrap();
            let mut writing = pin!(file.write_and_sync(buffer, 0));
            assert!(writing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            while executor.stats().in_flight > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            setrlimit(Resource::Fsize, limits).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192, "half of it was to be written");
            let before = executor.stats().completions;
            let (written, buffer) = writing.await;
            written.unwrap();
            assert_eq!(executor.stats().completions - before, 2, "the rest, and its sync");
            assert!(std::fs::read(&path).unwrap() == buffer[..]);
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}
