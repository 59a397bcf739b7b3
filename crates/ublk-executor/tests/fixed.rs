//! Fixed files and buffers: what is read and written through slots, and who owns a slot for how long.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use ublk_executor::io::{DmaBuffer, DmaFile, FixedBuffer, NoSlot};
use ublk_executor::{LocalExecutor, sleep};

fn executor() -> LocalExecutor {
    LocalExecutor::builder().fixed_files(2).fixed_buffers(2).build().unwrap()
}

/// Removed when the test ends, also when it fails.
struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Image {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::write(&path, [[1; 4096], [2; 4096]].concat()).unwrap();
        Image(path)
    }

    fn open(&self) -> DmaFile {
        DmaFile::from_std(OpenOptions::new().read(true).write(true).open(&self.0).unwrap()).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn no_slot(error: &std::io::Error) -> NoSlot {
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

#[test]
fn every_pair_of_file_and_buffer_reads_and_writes_the_same() {
    let image = Image::new("fixed-pairs");
    executor()
        .block_on(async {
            let plain = image.open();
            let fixed = plain.fixed().unwrap();
            for (round, file) in [&plain, &fixed].into_iter().enumerate() {
                let mut buffer = FixedBuffer::new(4096).unwrap();
                buffer.fill(10 + round as u8);
                let (written, mut buffer) = file.write_and_sync(buffer, 4096).await;
                written.unwrap();
                buffer.fill(0);
                let (read, buffer) = file.read_at(buffer, 4096).await;
                assert_eq!((read.unwrap(), buffer[0], buffer[4095]), (4096, 10 + round as u8, 10 + round as u8));
                let (read, buffer) = file.read_at(DmaBuffer::new(8192), 0).await;
                assert_eq!((read.unwrap(), buffer[0], buffer[4096]), (8192, 1, 10 + round as u8));
                file.write_at(buffer, 0).await.0.unwrap();
                file.sync_data().await.unwrap();
            }
        })
        .unwrap();
}

/// The kernel itself tells of the ring that it has the files and buffers.
#[test]
fn the_kernel_holds_a_file_until_its_slot_was_given_back() {
    let image = Image::new("fixed-held");
    let executor = executor();
    let is_held = || {
        std::fs::read_dir("/proc/self/fdinfo").unwrap().any(|entry| {
            // Those of other tests come and go.
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            text.contains("UserFiles") && text.contains("fixed-held")
        })
    };
    executor
        .block_on(async {
            let file = image.open();
            assert!(!is_held());
            let fixed = file.fixed().unwrap();
            let clone = fixed.clone();
            drop(file);
            drop(fixed);
            assert!(is_held(), "a clone still uses it");
            assert_eq!(clone.read_at(DmaBuffer::new(4096), 0).await.0.unwrap(), 4096);
            drop(clone);
            assert!(!is_held());
        })
        .unwrap();
}

/// The number of the descriptor is another file's now; the slot is not.
#[test]
fn operations_name_the_slot_and_not_the_descriptor() {
    let (image, decoy) = (Image::new("fixed-number"), Image::new("fixed-other-number"));
    std::fs::write(&decoy.0, [9; 8192]).unwrap();
    executor()
        .block_on(async {
            let fixed = image.open().fixed().unwrap();
            let number = std::fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
                let path = entry.unwrap().path();
                let is_it = std::fs::read_link(&path).is_ok_and(|target| target == image.0);
                is_it.then(|| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
            });
            // SAFETY: the descriptor is open, and forgotten below: `fixed` closes it.
            let mut place = unsafe { OwnedFd::from_raw_fd(number.unwrap()) };
            rustix::io::dup2(std::fs::File::open(&decoy.0).unwrap(), &mut place).unwrap();
            std::mem::forget(place);
            let (read, buffer) = fixed.read_at(DmaBuffer::new(4096), 0).await;
            assert_eq!((read.unwrap(), buffer[0]), (4096, 1));
        })
        .unwrap();
}

#[test]
fn slots_come_back_when_handle_and_operations_are_gone() {
    let image = Image::new("fixed-slots");
    let executor = executor();
    executor
        .block_on(async {
            let file = image.open();
            for _ in 0..100 {
                let (first, second) = (FixedBuffer::new(4096).unwrap(), FixedBuffer::new(4096).unwrap());
                let refused = FixedBuffer::new(4096).unwrap_err();
                assert_eq!(no_slot(&refused), NoSlot { table: "buffers", size: 2 });
                assert!(refused.to_string().contains("Builder::fixed_buffers"), "{refused}");
                drop((first, second));
                let files = (file.fixed().unwrap(), file.fixed().unwrap());
                assert_eq!(no_slot(&file.fixed().unwrap_err()), NoSlot { table: "files", size: 2 });
                drop(files);
            }
            // A read that was given up has buffer and file until the kernel is done with them.
            let fixed = file.fixed().unwrap();
            let (_kept, _other) = (FixedBuffer::new(4096).unwrap(), file.fixed().unwrap());
            {
                let mut reading = pin!(fixed.read_at(FixedBuffer::new(4096).unwrap(), 0));
                assert!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            drop(fixed);
            assert_eq!(no_slot(&FixedBuffer::new(4096).unwrap_err()).table, "buffers");
            assert_eq!(no_slot(&file.fixed().unwrap_err()).table, "files");
            while executor.stats().in_flight > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            FixedBuffer::new(4096).unwrap();
            file.fixed().unwrap();
        })
        .unwrap();
}

#[test]
fn without_tables_there_is_no_slot() {
    let image = Image::new("fixed-none");
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            assert_eq!(no_slot(&FixedBuffer::new(4096).unwrap_err()), NoSlot { table: "buffers", size: 0 });
            assert_eq!(no_slot(&image.open().fixed().unwrap_err()), NoSlot { table: "files", size: 0 });
        })
        .unwrap();
}

/// Slot 0 of the other executor is another file and another buffer.
#[test]
fn on_another_executor_they_are_ordinary_and_they_outlive_their_own() {
    let (image, decoy) = (Image::new("fixed-mine"), Image::new("fixed-decoy"));
    std::fs::write(&decoy.0, [9; 8192]).unwrap();
    let (mine, other) = (executor(), executor());
    let (file, buffer) =
        mine.block_on(async { (image.open().fixed().unwrap(), FixedBuffer::new(4096).unwrap()) }).unwrap();
    let buffer = other
        .block_on(async {
            let _decoys = (decoy.open().fixed().unwrap(), FixedBuffer::new(4096).unwrap());
            let (read, buffer) = file.read_at(buffer, 4096).await;
            assert_eq!((read.unwrap(), buffer[0]), (4096, 2));
            buffer
        })
        .unwrap();
    drop(mine);
    let (read, buffer) = other.block_on(file.read_at(buffer, 0)).unwrap();
    assert_eq!((read.unwrap(), buffer[0]), (4096, 1));
    drop(other);
    drop((file, buffer));
}
