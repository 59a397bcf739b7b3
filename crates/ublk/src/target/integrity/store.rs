//! Where integrity data is kept, inverted: what was never written reads as all ones.
//!
//! `PATH.integrity` has a header of 4096 bytes, and then the metadata of each interval in their order; it is as sparse as the image.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ublk_executor::Mapping;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::super::Geometry;
use super::super::backing::{failed, lock, rule};
use super::Integrity;
use crate::Error;

const MAGIC: [u8; 8] = *b"ublkintg";
const VERSION: u32 = 1;

/// Where the metadata of the first interval is in the file.
const METADATA_AT: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    interval_bytes: U32,
    metadata_bytes: U32,
    reserved: U32,
}

impl Header {
    fn new(integrity: &Integrity) -> Header {
        Header {
            magic: MAGIC,
            version: VERSION.into(),
            interval_bytes: integrity.interval_bytes.into(),
            metadata_bytes: u32::from(integrity.metadata_bytes).into(),
            reserved: 0.into(),
        }
    }
}

/// One per device.
pub(super) enum Store {
    /// Forgets it: what is read is all ones.
    Nothing,
    Memory(Arc<Mapping>),
    File(File),
}

/// What a queue has of it.
pub(super) enum QueueStore {
    Nothing,
    Memory(Arc<Mapping>),
    /// Number of the file among the target's.
    File(u16),
}

impl Store {
    pub(super) fn in_memory(integrity: &Integrity, size_bytes: u64) -> Result<Store, Error> {
        let length = integrity.metadata_length(size_bytes);
        let store = usize::try_from(length).ok().and_then(|length| Mapping::new(length).ok());
        let what = || Error::NoMemory { what: format!("{length} bytes of integrity data"), id: None };
        store.map(|store| Store::Memory(Arc::new(store))).ok_or_else(what)
    }

    /// Opens the file beside an image, or makes it.
    pub(super) fn beside(image: &Path, integrity: &Integrity, geometry: &Geometry) -> Result<Store, Error> {
        let mut path = OsString::from(image);
        path.push(".integrity");
        let path = PathBuf::from(path);
        let writes = !geometry.read_only;
        let file = File::options().read(true).write(writes).create(writes).truncate(false).open(&path);
        let file = file.map_err(|source| failed(&path, "open", &source))?;
        lock(&file, &path, geometry.read_only)?;
        let length = METADATA_AT + integrity.metadata_length(geometry.size_bytes);
        let has = file.metadata().map_err(|source| failed(&path, "fstat", &source))?.len();
        if has == 0 && writes {
            file.write_all_at(Header::new(integrity).as_bytes(), 0)
                .map_err(|source| failed(&path, "pwrite", &source))?;
        }
        check_header(&file, &path, integrity)?;
        if has < length {
            if !writes {
                return Err(rule(&path, "has integrity data of a part of the image only"));
            }
            file.set_len(length).map_err(|source| failed(&path, "ftruncate", &source))?;
        }
        Ok(Store::File(file))
    }

    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Store::File(file) => Some(file.as_fd()),
            Store::Nothing | Store::Memory(_) => None,
        }
    }

    pub(super) fn queue(&self, file: u16) -> QueueStore {
        match self {
            Store::Nothing => QueueStore::Nothing,
            Store::Memory(store) => QueueStore::Memory(Arc::clone(store)),
            Store::File(_) => QueueStore::File(file),
        }
    }
}

fn check_header(file: &File, path: &Path, integrity: &Integrity) -> Result<(), Error> {
    let mut header = Header::new_zeroed();
    let is_whole = file.read_exact_at(header.as_mut_bytes(), 0).is_ok();
    if !is_whole || header.magic != MAGIC || header.version.get() != VERSION {
        return Err(rule(path, "is no file of integrity data, or one of another version"));
    }
    if header != Header::new(integrity) {
        let problem = format!(
            "has {} bytes for each {} bytes of data, not {} for {}",
            header.metadata_bytes, header.interval_bytes, integrity.metadata_bytes, integrity.interval_bytes
        );
        return Err(rule(path, &problem));
    }
    Ok(())
}

/// Place in a file of the metadata that begins at `offset` of all.
pub(super) fn file_offset(offset: u64) -> u64 {
    METADATA_AT + offset
}
