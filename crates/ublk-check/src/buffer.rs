//! Bytes at an address that O_DIRECT takes: a thread's own, or in a file of memory that is shared with the server of the device.

use std::fs::File;
use std::io::Result;
use std::path::Path;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What O_DIRECT asks of an address, whatever the device.
const ALIGNMENT: usize = 4096;

/// Of the shared file, what one thread has: a huge page.
const SHARE_BYTES: usize = 2 << 20;

/// Memory for the data of one request at a time.
pub struct Buffer {
    memory: Memory,
    length: usize,
}

enum Memory {
    Own { bytes: Vec<u8>, start: usize },
    Shared(NonNull<u8>),
}

impl Buffer {
    /// `length` bytes, where `shared` names a file in the part of it that is `thread`'s.
    ///
    /// # Errors
    /// Those of opening and mapping the file.
    pub fn new(length: usize, shared: Option<&Path>, thread: u64) -> Result<Buffer> {
        let memory = match shared {
            None => {
                let bytes = vec![0; length + ALIGNMENT];
                let start = bytes.as_ptr().align_offset(ALIGNMENT);
                Memory::Own { bytes, start }
            }
            Some(path) => Memory::Shared(map_share(path, thread)?),
        };
        assert!(length <= SHARE_BYTES, "{length} bytes in one request");
        Ok(Buffer { memory, length })
    }

    /// The bytes.
    #[allow(unsafe_code)]
    pub fn bytes(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Own { bytes, start } => &mut bytes[*start..*start + self.length],
            // SAFETY: mapped for reading and writing for the life of this value, `length` was checked against the mapping, and no other
            // thread has this part of the file. The server and the kernel use it during a system call alone, which has the slice then.
            Memory::Shared(address) => unsafe { std::slice::from_raw_parts_mut(address.as_ptr(), self.length) },
        }
    }
}

impl Drop for Buffer {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if let Memory::Shared(address) = self.memory {
            // SAFETY: mapped by `map_share` with this length; slices of it do not outlive this value.
            let _ = unsafe { munmap(address.as_ptr().cast(), SHARE_BYTES) };
        }
    }
}

#[allow(unsafe_code)]
fn map_share(path: &Path, thread: u64) -> Result<NonNull<u8>> {
    let file = File::options().read(true).write(true).open(path)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let offset = thread * SHARE_BYTES as u64;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { mmap(std::ptr::null_mut(), SHARE_BYTES, protection, MapFlags::SHARED, &file, offset)? };
    NonNull::new(address.cast()).ok_or_else(|| std::io::Error::other("mapped at 0"))
}
