//! Files and directories of tasks: what was written comes back, short transfers are resumed, errors are the kernel's, and whoever gives up
//! leaves no descriptor behind.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use ublk_executor::io::{BufferedFile, Directory, DmaBuffer, DmaFile, FileKind, OpenOptions};
use ublk_executor::{LocalExecutor, sleep, yield_now};

/// An empty directory on a file system with O_DIRECT, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Place(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run<F: Future>(future: F) -> F::Output {
    LocalExecutor::new().unwrap().block_on(future).unwrap()
}

fn for_all() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().expect("it should have failed").raw_os_error()
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 + index / 4096 + seed) as u8).collect()
}

fn dma(bytes: &[u8]) -> DmaBuffer {
    let mut buffer = DmaBuffer::new(bytes.len());
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer
}

fn joined(buffers: &[DmaBuffer]) -> Vec<u8> {
    buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect()
}

/// Descriptors of this process that lead into the directory.
fn open_below(place: &Path) -> BTreeSet<PathBuf> {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(place)).collect()
}

#[test]
fn a_buffered_file_takes_any_offset_length_and_buffer() {
    let place = Place::new("buffered");
    run(async {
        let file = BufferedFile::open(place.path("log"), &for_all()).await.unwrap();
        let (written, buffer) = file.write_at(b"hello, world".to_vec(), 5).await;
        written.unwrap();
        assert_eq!(buffer, b"hello, world");
        file.write_at(Box::<[u8]>::from(*b"H"), 5).await.0.unwrap();
        file.sync_data().await.unwrap();
        file.sync_all().await.unwrap();
        assert_eq!(file.size().unwrap(), 17);
        let (read, bytes) = file.read_at(vec![9; 20], 3).await;
        assert_eq!(read.unwrap(), 14, "the end of the file");
        assert_eq!(&bytes, b"\0\0Hello, world\x09\x09\x09\x09\x09\x09");
        assert_eq!(file.read_at(Vec::new(), 0).await.0.unwrap(), 0);
        assert_eq!(file.read_at(vec![0; 8], 17).await.0.unwrap(), 0);
    });
    assert_eq!(fs::read(place.path("log")).unwrap(), b"\0\0\0\0\0Hello, world");
}

#[test]
fn space_is_allocated_given_back_and_cut() {
    let place = Place::new("space");
    run(async {
        let file = BufferedFile::open(place.path("image"), &for_all()).await.unwrap();
        file.allocate(0, 1 << 20).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().allocated, 1 << 20);
        file.write_at(pattern(1 << 20, 1), 0).await.0.unwrap();
        file.sync_all().await.unwrap();
        file.punch_hole(4096, 1 << 19).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().allocated, 1 << 19);
        let mut expected = pattern(1 << 20, 1);
        expected[4096..4096 + (1 << 19)].fill(0);
        assert!(file.read_at(vec![1; 1 << 20], 0).await.1 == expected);
        file.set_len(1000).await.unwrap();
        assert_eq!((file.size().unwrap(), file.metadata().await.unwrap().size), (1000, 1000));
        file.set_len(5000).await.unwrap();
        let (read, bytes) = file.read_at(vec![1; 5000], 0).await;
        assert_eq!(read.unwrap(), 5000);
        assert!(bytes[..1000] == expected[..1000] && bytes[1000..].iter().all(|&byte| byte == 0));
        let file = DmaFile::open(place.path("image"), &OpenOptions::new().read(true)).await.unwrap();
        assert_eq!(errno(file.set_len(0).await), Some(libc::EINVAL), "it is open for reading alone");
    });
}

#[test]
fn options_are_what_the_kernel_opens_with() {
    let place = Place::new("options");
    run(async {
        let path = place.path("file");
        let missing = BufferedFile::open(&path, &OpenOptions::new().read(true)).await;
        assert_eq!(errno(missing), Some(libc::ENOENT));
        let new = OpenOptions::new().write(true).create_new(true).mode(0o640);
        let file = BufferedFile::open(&path, &new).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(errno(file.read_at(vec![0; 1], 0).await.0), Some(libc::EBADF), "it is open for writing alone");
        file.write_at(vec![1; 10], 0).await.0.unwrap();
        assert_eq!(errno(BufferedFile::open(&path, &new).await), Some(libc::EEXIST));
        let file = BufferedFile::open(&path, &for_all().truncate(true)).await.unwrap();
        assert_eq!(file.size().unwrap(), 0);
        let neither = BufferedFile::open(&path, &OpenOptions::new()).await.unwrap_err();
        assert_eq!(neither.kind(), std::io::ErrorKind::InvalidInput);
        let zero = BufferedFile::open("a\0b", &for_all()).await.unwrap_err();
        assert_eq!(zero.to_string(), "a\0b: a path contains no zero byte");
    });
}

fn flags_of(file: impl std::os::fd::AsFd) -> i32 {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file.as_fd());
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap()
}

#[test]
fn every_descriptor_is_closed_on_exec_and_only_a_dma_file_is_direct() {
    let place = Place::new("exec");
    run(async {
        let dma = DmaFile::open(place.path("file"), &for_all().custom_flags(libc::O_DSYNC)).await.unwrap();
        let buffered = BufferedFile::open(place.path("file"), &for_all()).await.unwrap();
        let (dma, buffered) = (flags_of(&dma), flags_of(&buffered));
        assert_eq!((dma | buffered) & libc::O_CLOEXEC, libc::O_CLOEXEC);
        assert_eq!(dma & buffered & libc::O_CLOEXEC, libc::O_CLOEXEC);
        assert_eq!((dma & libc::O_DIRECT, buffered & libc::O_DIRECT), (libc::O_DIRECT, 0));
        assert_eq!((dma & libc::O_DSYNC, buffered & libc::O_DSYNC), (libc::O_DSYNC, 0));
    });
}

#[test]
fn an_offset_that_no_file_has_is_an_error_and_not_the_position_of_the_descriptor() {
    let place = Place::new("offset");
    fs::write(place.path("file"), [7; 8192]).unwrap();
    run(async {
        let file = BufferedFile::open(place.path("file"), &for_all()).await.unwrap();
        for offset in [u64::MAX, 1 << 63] {
            assert_eq!(errno(file.read_at(vec![0; 4096], offset).await.0), Some(libc::EINVAL));
            assert_eq!(errno(file.write_at(vec![0; 4096], offset).await.0), Some(libc::EINVAL));
        }
        // From the last offset there is, and beyond.
        assert_eq!(errno(file.read_at(vec![0; 4096], i64::MAX as u64).await.0), Some(libc::EINVAL));
    });
    assert_eq!(fs::read(place.path("file")).unwrap(), [7; 8192]);
}

#[test]
fn vectored_reads_and_writes_take_more_buffers_than_one_operation() {
    let place = Place::new("vectored");
    let content = pattern(1500 * 4096 + 4096, 3);
    run(async {
        let file = DmaFile::open(place.path("file"), &for_all()).await.unwrap();
        // Of different lengths: the last is longer.
        let mut buffers: Vec<_> = content[..1499 * 4096].chunks(4096).map(dma).collect();
        buffers.push(dma(&content[1499 * 4096..]));
        let (written, buffers) = file.write_vectored_at(buffers, 8192).await;
        written.unwrap();
        assert_eq!(buffers.len(), 1500);
        assert!(joined(&buffers) == content, "the buffers come back as they were");
        let empty = (0..1500).map(|_| DmaBuffer::new(4096)).chain([DmaBuffer::new(16384)]).collect();
        let (read, buffers) = file.read_vectored_at(empty, 8192).await;
        assert_eq!(read.unwrap(), content.len(), "the end of the file");
        assert!(joined(&buffers)[..content.len()] == content);
        assert_eq!(file.read_vectored_at(Vec::new(), 0).await.0.unwrap(), 0);
        file.write_vectored_at(Vec::new(), 0).await.0.unwrap();
        assert_eq!(errno(file.read_vectored_at(vec![DmaBuffer::new(1)], 8199).await.0), Some(libc::EINVAL));
    });
    assert!(fs::read(place.path("file")).unwrap()[8192..] == content);
}

#[test]
fn alignment_is_one_that_the_kernel_takes() {
    let place = Place::new("alignment");
    fs::write(place.path("file"), [7; 8192]).unwrap();
    run(async {
        let file = DmaFile::open(place.path("file"), &for_all()).await.unwrap();
        let alignment = u64::from(file.alignment().await.unwrap());
        assert!(alignment.is_power_of_two() && (1..=4096).contains(&alignment), "{alignment}");
        assert_eq!(file.read_at(DmaBuffer::new(4096), alignment).await.0.unwrap(), 4096);
    });
}

/// A file system of one mebibyte, for root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Option<SmallDisk> {
        fs::create_dir_all(&path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let done = std::process::Command::new("mount").args(mount).arg(&path).output().ok()?.status.success();
        done.then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_that_says_so_and_the_buffer_comes_back() {
    let place = Place::new("full");
    let Some(disk) = SmallDisk::mount(place.path("disk")) else {
        eprintln!("skipped: only root can mount");
        return;
    };
    run(async {
        let file = BufferedFile::open(disk.0.join("file"), &for_all()).await.unwrap();
        let (written, buffer) = file.write_at(pattern(2 << 20, 1), 0).await;
        assert_eq!(errno(written), Some(libc::ENOSPC));
        assert!(buffer == pattern(2 << 20, 1));
        assert_eq!(file.size().unwrap(), 1 << 20, "what was written before stays");
        assert_eq!(errno(file.allocate(0, 2 << 20).await), Some(libc::ENOSPC));
    });
}

#[test]
fn directories_are_made_listed_renamed_and_removed() {
    let place = Place::new("directory");
    run(async {
        let top = Directory::open(&place.0).await.unwrap();
        top.create_directory("images", 0o750).await.unwrap();
        assert_eq!(errno(top.create_directory("images", 0o750).await), Some(libc::EEXIST));
        let images = top.open_directory("images").await.unwrap();
        let file = BufferedFile::open_in(&images, "disk.new", &for_all()).await.unwrap();
        file.write_at(vec![1; 5000], 0).await.0.unwrap();
        DmaFile::open_in(&images, "disk.img", &for_all()).await.unwrap();
        std::os::unix::fs::symlink("disk.img", place.path("images/link")).unwrap();
        let mut entries = images.entries().await.unwrap();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let entries: Vec<_> = entries.iter().map(|entry| (entry.name.to_str().unwrap(), entry.kind)).collect();
        let file = FileKind::File;
        assert_eq!(entries, [("disk.img", file), ("disk.new", file), ("link", FileKind::SymbolicLink)]);
        assert_eq!(images.entries().await.unwrap().len(), 3, "the list begins anew");
        images.rename("disk.new", &images, "disk.img").await.unwrap(); // in place of what was there
        images.rename("disk.img", &top, "moved").await.unwrap();
        images.sync().await.unwrap();
        top.sync().await.unwrap();
        assert_eq!(fs::read(place.path("moved")).unwrap(), [1; 5000]);
        assert_eq!(errno(images.rename("disk.img", &top, "moved").await), Some(libc::ENOENT));
        assert_eq!(errno(top.remove_directory("images").await), Some(libc::ENOTEMPTY));
        assert_eq!(errno(top.remove_file("images").await), Some(libc::EISDIR));
        images.remove_file("link").await.unwrap();
        top.remove_directory("images").await.unwrap();
        assert_eq!(errno(top.remove_directory("moved").await), Some(libc::ENOTDIR));
        top.remove_file("moved").await.unwrap();
        assert_eq!(top.entries().await.unwrap(), []);
        assert_eq!(errno(Directory::open(place.path("none")).await), Some(libc::ENOENT));
        fs::write(place.path("file"), "").unwrap();
        assert_eq!(errno(Directory::open(place.path("file")).await), Some(libc::ENOTDIR));
    });
}

#[test]
fn metadata_are_those_of_the_file_system() {
    let place = Place::new("metadata");
    fs::write(place.path("file"), [1; 5000]).unwrap();
    fs::set_permissions(place.path("file"), fs::Permissions::from_mode(0o4601)).unwrap();
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
    std::os::unix::fs::symlink("file", place.path("link")).unwrap();
    run(async {
        let top = Directory::open(&place.0).await.unwrap();
        let (ours, theirs) = (top.metadata("link").await.unwrap(), fs::metadata(place.path("file")).unwrap());
        assert_eq!((ours.kind, ours.size, ours.mode), (FileKind::File, 5000, 0o4601));
        assert_eq!((ours.allocated, ours.modified), (theirs.blocks() * 512, theirs.modified().unwrap()));
        assert_eq!((ours.device, ours.inode), (theirs.dev(), theirs.ino()));
        assert_eq!(top.symlink_metadata("link").await.unwrap().kind, FileKind::SymbolicLink);
        assert_eq!(top.metadata("").await.err().and_then(|error| error.raw_os_error()), Some(libc::ENOENT));
        fs::File::open(place.path("file")).unwrap().set_modified(before_1970).unwrap();
        let file = BufferedFile::open_in(&top, "file", &for_all()).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().modified, before_1970);
        for (path, kind) in [("/dev/null", FileKind::CharacterDevice), ("/", FileKind::Directory)] {
            assert_eq!(top.metadata(path).await.unwrap().kind, kind, "{path}");
        }
    });
}

#[test]
fn a_file_without_a_name_is_gone_unless_it_gets_one() {
    let place = Place::new("unnamed");
    run(async {
        let top = Directory::open(&place.0).await.unwrap();
        let options = OpenOptions::new().write(true).unnamed(true).mode(0o600);
        let lost = DmaFile::open_in(&top, ".", &options).await.unwrap();
        lost.write_at(dma(&pattern(4096, 1)), 0).await.0.unwrap();
        drop(lost);
        assert_eq!(top.entries().await.unwrap(), []);
        let kept = DmaFile::open_in(&top, ".", &options).await.unwrap();
        kept.write_at(dma(&pattern(4096, 2)), 0).await.0.unwrap();
        top.link(&kept, "kept").await.unwrap();
        assert_eq!(errno(top.link(&kept, "kept").await), Some(libc::EEXIST));
    });
    assert!(fs::read(place.path("kept")).unwrap() == pattern(4096, 2));
    assert_eq!(fs::metadata(place.path("kept")).unwrap().permissions().mode() & 0o7777, 0o600);
}

/// Begins and gives up at once.
async fn poll_once(future: impl Future) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

#[test]
fn an_open_that_is_given_up_leaves_no_descriptor() {
    let place = Place::new("given-up");
    fs::write(place.path("file"), [1; 4096]).unwrap();
    let executor = LocalExecutor::new().unwrap();
    let read = OpenOptions::new().read(true);
    executor
        .block_on(async {
            // Given up while it is under way.
            for _ in 0..100 {
                poll_once(BufferedFile::open(place.path("file"), &read)).await;
                poll_once(DmaFile::open(place.path("file"), &read)).await;
                poll_once(Directory::open(&place.0)).await;
            }
            // And when it is done, but nobody has taken it.
            for _ in 0..100 {
                let mut open = Box::pin(BufferedFile::open(place.path("file"), &read));
                assert!(open.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                yield_now().await;
                sleep(Duration::from_micros(100)).await;
                drop(open);
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            while !open_below(&place.0).is_empty() {
                assert!(Instant::now() < deadline, "left open: {:?}", open_below(&place.0));
                sleep(Duration::from_millis(1)).await;
            }
            // And at the executor's end.
            for _ in 0..100 {
                poll_once(BufferedFile::open(place.path("file"), &read)).await;
            }
        })
        .unwrap();
    drop(executor);
    assert_eq!(open_below(&place.0), BTreeSet::new());
}

#[test]
fn dropped_futures_leave_neither_file_nor_directory_open() {
    let place = Place::new("dropped");
    fs::write(place.path("file"), [1; 1 << 20]).unwrap();
    run(async {
        let top = Directory::open(&place.0).await.unwrap();
        let file = DmaFile::open(place.path("file"), &for_all()).await.unwrap();
        poll_once(file.read_vectored_at(vec![DmaBuffer::new(1 << 19), DmaBuffer::new(1 << 19)], 0)).await;
        poll_once(file.sync_all()).await;
        poll_once(file.metadata()).await;
        poll_once(file.set_len(1 << 20)).await;
        poll_once(top.link(&file, "other")).await;
        poll_once(top.entries()).await;
        poll_once(top.metadata("file")).await;
        poll_once(top.rename("none", &top, "other")).await;
        poll_once(top.sync()).await;
    });
    assert_eq!(open_below(&place.0), BTreeSet::new());
    assert_eq!(fs::File::open(place.path("file")).unwrap().read_at(&mut [0; 1], 0).unwrap(), 1);
}
