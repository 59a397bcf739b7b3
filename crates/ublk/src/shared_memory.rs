//! Memory that a device's users share with its server: requests on it need no copy (SHMEM_ZC).
//!
//! Users map the same file, and read and write the device with O_DIRECT from there. The driver recognises the pages and says where they are;
//! the server has them mapped already. Huge pages make it likely that the pages of a request lie in one piece, which the driver wants.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;

use ublk_executor::Mapping;
use ublk_uapi::ShmemBufFlags;

use crate::Error;
use crate::error::words;

/// A file that is mapped whole, usually of hugetlbfs (`/dev/hugepages`).
#[derive(Debug)]
pub struct SharedMemory {
    mapping: Mapping,
    read_only: bool,
}

impl SharedMemory {
    /// Opens and maps a file that is there. Read-only, it serves only writes to the device: data that is read cannot go there.
    ///
    /// # Errors
    /// [`Error::File`] naming the path and the rule.
    pub fn open(path: &Path, read_only: bool) -> Result<SharedMemory, Error> {
        let failed = |syscall, source: std::io::Error| Error::File {
            path: path.display().to_string(),
            problem: words(&source),
            syscall: Some(syscall),
            errno: source.raw_os_error(),
        };
        let mut file =
            File::options().read(true).write(!read_only).open(path).map_err(|source| failed("open", source))?;
        let length = file.seek(SeekFrom::End(0)).map_err(|source| failed("lseek", source))?;
        if length == 0 || length % ublk_executor::memory::PAGE_BYTES as u64 != 0 {
            let problem = format!("has {length} bytes; memory to share is whole pages: give it a size with truncate");
            return Err(Error::File { path: path.display().to_string(), problem, syscall: None, errno: None });
        }
        let mapping =
            Mapping::of_file(file.as_fd(), length as usize, read_only).map_err(|source| failed("mmap", source))?;
        Ok(SharedMemory { mapping, read_only })
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Address, length and flags for REG_BUF.
    pub(crate) fn registration(&self) -> (u64, u64, ShmemBufFlags) {
        let length = self.mapping.len();
        let flags = if self.read_only { ShmemBufFlags::READ_ONLY } else { ShmemBufFlags::empty() };
        (self.mapping.address(0, length), length as u64, flags)
    }
}
