//! Files past the page cache: what is written comes back, holes are holes, errors are the kernel's.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use ublk_executor::LocalExecutor;
use ublk_executor::io::{DmaBuffer, DmaFile};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

fn create(path: &PathBuf) -> DmaFile {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    DmaFile::from_std(file).unwrap()
}

fn pattern(bytes: usize, seed: usize) -> DmaBuffer {
    let mut buffer = DmaBuffer::new(bytes);
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index * 31 + index / 4096 + seed) as u8;
    }
    buffer
}

#[test]
fn what_was_written_comes_back_and_a_hole_reads_as_zeroes() {
    let path = path("file");
    let file = create(&path);
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            for block in 0..8 {
                let (written, _) = file.write_at(pattern(1 << 16, block), (block << 16) as u64).await;
                written.unwrap();
            }
            file.sync_data().await.unwrap();
            assert_eq!(file.size().unwrap(), 8 << 16);
            let before = std::fs::metadata(&path).unwrap().blocks();
            file.punch_hole(3 << 16, 1 << 16).await.unwrap();
            assert!(std::fs::metadata(&path).unwrap().blocks() < before);
            for block in 0..8 {
                let (read, buffer) = file.read_at(DmaBuffer::new(1 << 16), (block << 16) as u64).await;
                assert_eq!(read.unwrap(), 1 << 16);
                let expected = if block == 3 { DmaBuffer::new(1 << 16) } else { pattern(1 << 16, block) };
                assert!(buffer[..] == expected[..], "block {block}");
            }
            // At the end of the file there is less to read.
            let (read, _) = file.read_at(DmaBuffer::new(1 << 16), (8 << 16) - 4096).await;
            assert_eq!(read.unwrap(), 4096);
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn flags_of_the_caller_are_kept() {
    let path = path("flags");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(libc::O_DSYNC);
    let file = DmaFile::from_std(options.open(&path).unwrap()).unwrap();
    let flags = std::fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let is_ours = std::fs::read_link(entry.path()).is_ok_and(|target| target == path);
        is_ours.then(|| std::fs::read_to_string(format!("/proc/self/fdinfo/{}", entry.file_name().display())).unwrap())
    });
    let flags = flags.unwrap().lines().find_map(|line| line.strip_prefix("flags:").map(str::trim).map(str::to_owned));
    let flags = i32::from_str_radix(&flags.unwrap(), 8).unwrap();
    assert_eq!(flags & libc::O_DIRECT, libc::O_DIRECT);
    assert_eq!(flags & libc::O_DSYNC, libc::O_DSYNC);
    drop(file);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_file_that_ends_in_a_block_is_read_to_its_end() {
    let path = path("odd");
    std::fs::write(&path, [3; 8292]).unwrap();
    let file = DmaFile::from_std(File::open(&path).unwrap()).unwrap();
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            let (read, buffer) = file.read_at(DmaBuffer::new(16384), 0).await;
            assert_eq!(read.unwrap(), 8292);
            assert!(buffer[..8292].iter().all(|&byte| byte == 3));
            assert_eq!(file.size().unwrap(), 8292);
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn errors_are_the_kernels_and_the_buffer_comes_back() {
    let path = path("errors");
    std::fs::write(&path, [1; 16384]).unwrap();
    let file = DmaFile::from_std(File::open(&path).unwrap()).unwrap();
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            let (written, buffer) = file.write_at(pattern(8192, 5), 0).await;
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert!(buffer[..] == pattern(8192, 5)[..]);
            let (read, _) = file.read_at(buffer, 7).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}

/// A FIFO takes the bytes, and cannot be synced.
#[test]
fn a_sync_that_fails_after_its_write_is_the_error() {
    let path = path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let file = DmaFile::from_std(OpenOptions::new().read(true).write(true).open(&path).unwrap()).unwrap();
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            let (written, buffer) = file.write_and_sync(pattern(4096, 5), 0).await;
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EINVAL));
            let (read, back) = file.read_at(DmaBuffer::new(4096), 0).await;
            assert_eq!(read.unwrap(), 4096);
            assert!(back[..] == buffer[..]);
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}
