//! Files of huge pages, and the same memory as a user of a device has it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use ublk_executor::Mapping;

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// A file of huge pages, and the user's mapping of it.
pub fn huge_pages(name: &str, count: usize) -> (PathBuf, Mapping) {
    std::fs::write("/proc/sys/vm/nr_hugepages", "24").unwrap();
    std::fs::create_dir_all("/run/huge").unwrap();
    if !std::fs::read_to_string("/proc/mounts").unwrap().contains(" /run/huge ") {
        super::run_with_input(&["mount", "-t", "hugetlbfs", "none", "/run/huge"], "");
    }
    let path = PathBuf::from("/run/huge").join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len((count * HUGE) as u64).unwrap();
    let users = Mapping::of_file(file.as_fd(), count * HUGE, false).unwrap();
    users.overwrite_with_zeroes(0, count * HUGE); // a page that nobody has touched is not there to be recognised
    (path, users)
}

/// A part of the user's memory, for a system call alone.
#[allow(unsafe_code, clippy::mut_from_ref)] // of memory that is no Rust value's
pub fn part(memory: &Mapping, offset: usize, length: usize) -> &mut [u8] {
    // SAFETY: `address` checks the range, and the tests make one slice of a part at a time; what the server and the kernel do with the
    // memory meanwhile is done before the system call that the slice is for returns.
    unsafe { std::slice::from_raw_parts_mut(memory.address(offset, length) as *mut u8, length) }
}
