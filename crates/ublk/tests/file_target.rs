//! What opening a file target makes, refuses and leaves behind. Needs no driver.

use std::path::{Path, PathBuf};

use ublk::target::{FileOptions, file};

const MIB: u64 = 1 << 20;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ublk-file-target-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn refusal(path: &Path, options: &FileOptions) -> String {
    file(path, options).err().expect("refused").to_string()
}

fn creating(size_bytes: Option<u64>) -> FileOptions {
    FileOptions { size_bytes, create: true, ..FileOptions::default() }
}

#[test]
fn a_file_that_cannot_be_created_is_not_left_behind() {
    let scratch = Scratch::new("left");
    let path = scratch.path("new.img");
    assert!(refusal(&path, &creating(None)).contains("to create it a size is needed"));
    assert!(!path.exists(), "without a size");
    assert!(refusal(&path, &creating(Some(1 << 62))).contains(path.to_str().unwrap()));
    assert!(!path.exists(), "larger than the file system allows");
}

#[test]
fn a_creation_that_fails_removes_nothing_that_was_there() {
    let scratch = Scratch::new("kept");
    let link = scratch.path("link.img");
    std::os::unix::fs::symlink(scratch.path("nowhere/disk.img"), &link).unwrap();
    refusal(&link, &creating(Some(MIB)));
    assert!(link.is_symlink());
}

#[test]
fn a_file_is_created_grown_and_never_shortened() {
    let scratch = Scratch::new("grown");
    let path = scratch.path("disk.img");
    assert_eq!(file(&path, &creating(Some(MIB))).unwrap().geometry().size_bytes, MIB);
    assert_eq!(file(&path, &creating(Some(2 * MIB))).unwrap().geometry().size_bytes, 2 * MIB);
    assert_eq!(file(&path, &creating(Some(MIB))).unwrap().geometry().size_bytes, MIB);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * MIB);
    let kept = FileOptions { size_bytes: Some(4 * MIB), ..FileOptions::default() };
    assert!(refusal(&path, &kept).contains("has 2097152 bytes, fewer than the 4194304 asked for"));
}

#[test]
fn the_served_size_is_whole_blocks_of_the_size_asked_for() {
    let scratch = Scratch::new("blocks");
    let path = scratch.path("odd.img");
    std::fs::write(&path, vec![0; 10_000]).unwrap();
    for (block_bytes, served) in [(None, 19 * 512), (Some(4096), 2 * 4096)] {
        let options = FileOptions { block_bytes, ..FileOptions::default() };
        assert_eq!(file(&path, &options).unwrap().geometry().size_bytes, served);
    }
}

/// Regression: whether holes can be punched was tried right behind what is served, in the middle of the file.
#[test]
fn what_lies_behind_the_served_size_is_left_alone() {
    let scratch = Scratch::new("behind");
    let path = scratch.path("disk.img");
    std::fs::write(&path, vec![0xa5; 1 << 20]).unwrap();
    file(&path, &FileOptions { size_bytes: Some(4096), ..FileOptions::default() }).unwrap();
    assert!(std::fs::read(&path).unwrap().iter().all(|&byte| byte == 0xa5));
}
