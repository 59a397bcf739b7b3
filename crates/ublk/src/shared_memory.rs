//! Memory that a device's users share with its server: requests on it need no copy (SHMEM_ZC).
//!
//! Users map the same file, and read and write the device with O_DIRECT from there. The driver recognises the pages and says where they are;
//! the server has them mapped already. Huge pages make it likely that the pages of a request lie in one piece, which the driver wants.
//!
//! Threads: queues look memory up by the number that the driver gives, without a lock; whoever changes the device adds and removes it
//! meanwhile. Invariant: memory is removed only when no request has its number, which UNREG_BUF waits for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ublk_executor::Mapping;
use ublk_uapi::{SHMEM_MAX_BUF_BYTES, ShmemBufFlags};

use crate::error::words;
use crate::{BufferMode, Error};

/// Most files that one device shares; the driver would take 65 536.
pub const MOST_SHARED: usize = 1024;

/// A file that is mapped whole, usually of hugetlbfs (`/dev/hugepages`).
#[derive(Debug)]
pub struct SharedMemory {
    path: PathBuf,
    file_id: String,
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
        if length == 0 || length % ublk_executor::memory::page_bytes() as u64 != 0 {
            let problem = format!("has {length} bytes; memory to share is whole pages: give it a size with truncate");
            return Err(Error::File { path: path.display().to_string(), problem, syscall: None, errno: None });
        }
        if length > SHMEM_MAX_BUF_BYTES {
            let problem =
                format!("has {length} bytes; the driver takes at most {SHMEM_MAX_BUF_BYTES} (4 GiB) in one file");
            return Err(Error::File { path: path.display().to_string(), problem, syscall: None, errno: None });
        }
        let mapping =
            Mapping::of_file(file.as_fd(), length as usize, read_only).map_err(|source| failed("mmap", source))?;
        let metadata = file.metadata().map_err(|source| failed("fstat", source))?;
        let file_id = format!("{}:{}", metadata.dev(), metadata.ino());
        Ok(SharedMemory { path: path.to_owned(), file_id, mapping, read_only })
    }

    /// Path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is, whatever lies under its path by now: the numbers of its device and inode.
    pub fn file_id(&self) -> &str {
        &self.file_id
    }

    /// It serves only writes to the device.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Bytes mapped.
    pub fn len_bytes(&self) -> u64 {
        self.mapping.len() as u64
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

/// What a device's users share with it now, by the driver's number.
#[derive(Debug, Default)]
pub(crate) struct SharedTable {
    /// For the queues: null, or what `owned` keeps.
    places: Box<[AtomicPtr<SharedMemory>]>,
    owned: Mutex<BTreeMap<u16, Arc<SharedMemory>>>,
    /// A ring broke with operations open: nothing is unmapped any more.
    is_kept: AtomicBool,
}

impl SharedTable {
    /// Room for as many as a device can share, in the mode that shares memory; in the others none.
    pub(crate) fn of(mode: BufferMode) -> SharedTable {
        let room = if mode == BufferMode::SharedMemory { MOST_SHARED } else { 0 };
        SharedTable { places: (0..room).map(|_| AtomicPtr::default()).collect(), ..SharedTable::default() }
    }

    fn owned(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<SharedMemory>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest number that is free, if there is room.
    pub(crate) fn free_number(&self) -> Option<u16> {
        let owned = self.owned();
        (0..self.places.len() as u16).find(|number| !owned.contains_key(number))
    }

    /// The number of the memory of a file.
    pub(crate) fn number_of(&self, path: &Path) -> Option<u16> {
        self.owned().iter().find(|(_, memory)| memory.path == path).map(|(number, _)| *number)
    }

    pub(crate) fn has(&self, number: u16) -> bool {
        self.owned().contains_key(&number)
    }

    /// All that is shared, by number.
    pub(crate) fn list(&self) -> Vec<(u16, Arc<SharedMemory>)> {
        self.owned().iter().map(|(number, memory)| (*number, Arc::clone(memory))).collect()
    }

    /// From now on requests with this number find the memory.
    pub(crate) fn insert(&self, number: u16, memory: Arc<SharedMemory>) {
        self.places[usize::from(number)].store(Arc::as_ptr(&memory).cast_mut(), Ordering::Release);
        self.owned().insert(number, memory);
    }

    /// The memory of this number, for the request that has it.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn get(&self, number: u16) -> Option<&SharedMemory> {
        let memory = self.places.get(usize::from(number))?.load(Ordering::Acquire);
        // SAFETY: null, or the address of a value that `owned` keeps until `remove`, which is called when no request has the number. The
        // reference is of one request: it is not kept over its answer.
        unsafe { memory.as_ref() }
    }

    /// Lets go of it.
    ///
    /// # Safety
    /// No request has this number, nor will: the driver has answered UNREG_BUF, or has never registered it.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn remove(&self, number: u16) {
        self.places[usize::from(number)].store(std::ptr::null_mut(), Ordering::Release);
        let memory = self.owned().remove(&number);
        if self.is_kept.load(Ordering::Acquire) {
            std::mem::forget(memory);
        }
    }

    /// Operations of a broken ring may go on with all that is here: it is never unmapped.
    pub(crate) fn keep(self: Arc<Self>) {
        self.is_kept.store(true, Ordering::Release);
        std::mem::forget(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(name: &str) -> Arc<SharedMemory> {
        let path = std::env::temp_dir().join(format!("ublk-shared-{}-{name}", std::process::id()));
        File::create(&path).unwrap().set_len(8192).unwrap();
        let memory = SharedMemory::open(&path, false).unwrap();
        std::fs::remove_file(&path).unwrap();
        Arc::new(memory)
    }

    #[test]
    #[allow(unsafe_code)]
    fn numbers_are_those_that_the_driver_will_give() {
        let table = SharedTable::of(BufferMode::SharedMemory);
        let (first, second) = (memory("first"), memory("second"));
        for (number, memory) in [(0, &first), (1, &second)] {
            assert_eq!(table.free_number(), Some(number));
            table.insert(number, Arc::clone(memory));
        }
        assert_eq!(table.number_of(second.path()), Some(1));
        assert!(std::ptr::eq(table.get(1).unwrap(), second.as_ref()));
        // SAFETY: no driver, no requests.
        unsafe { table.remove(0) };
        assert!(table.get(0).is_none() && table.get(1).is_some() && table.get(u16::MAX).is_none());
        assert_eq!((table.free_number(), Arc::strong_count(&first)), (Some(0), 1));
        drop(table);
        assert_eq!(Arc::strong_count(&second), 1);
    }

    #[test]
    #[allow(unsafe_code)]
    fn what_a_broken_ring_may_use_stays_mapped() {
        let table = Arc::new(SharedTable::of(BufferMode::SharedMemory));
        let (removed, left) = (memory("removed"), memory("left"));
        table.insert(0, Arc::clone(&removed));
        table.insert(1, Arc::clone(&left));
        Arc::clone(&table).keep();
        // SAFETY: no driver, no requests.
        unsafe { table.remove(0) };
        drop(table);
        assert_eq!((Arc::strong_count(&removed), Arc::strong_count(&left)), (2, 2));
    }

    #[test]
    fn a_device_that_shares_nothing_has_no_room() {
        assert_eq!(SharedTable::default().free_number(), None);
        assert!(SharedTable::default().get(0).is_none());
    }
}
