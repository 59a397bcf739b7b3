//! Where integrity data is kept, inverted: what was never written reads as all ones.
//!
//! `PATH.integrity` has a header of 4096 bytes (sizes, and what protection information there is), and then the metadata of each
//! interval in their order; it is as sparse as the image.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ublk_executor::Mapping;
use ublk_uapi::IntegrityChecksum;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::super::Geometry;
use super::super::backing::{failed, lock, rule};
use super::{Integrity, IntegrityFile};
use crate::Error;

const MAGIC: [u8; 8] = *b"ublkintg";
const VERSION: u32 = 2;

/// Its header has the sizes only. Any protection information may be in such a file, so any is taken.
const VERSION_OF_SIZES: u32 = 1;

const NOT_ANEW: &str = "is not made anew for a device that has data";

/// Where the metadata of the first interval is in the file.
const METADATA_AT: u64 = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    interval_bytes: U32,
    metadata_bytes: U32,
    protection: Protection,
}

/// Of all protection information in the file; zeroes in version 1.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Protection {
    /// Number of an [`IntegrityChecksum`].
    checksum: u8,
    offset_bytes: u8,
    /// 1: the reference tag holds the place of the data.
    ref_tag: u8,
    reserved: u8,
}

impl fmt::Display for Protection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = IntegrityChecksum::try_from(self.checksum).map_or("an unknown checksum", IntegrityChecksum::name);
        let tag = if self.ref_tag == 0 { "without" } else { "with" };
        write!(formatter, "{name} from byte {} on, {tag} a reference tag", self.offset_bytes)
    }
}

impl Header {
    fn new(integrity: &Integrity) -> Header {
        Header {
            magic: MAGIC,
            version: VERSION.into(),
            interval_bytes: integrity.interval_bytes.into(),
            metadata_bytes: u32::from(integrity.metadata_bytes).into(),
            protection: Protection {
                checksum: integrity.checksum.code(),
                offset_bytes: integrity.pi_offset_bytes,
                ref_tag: integrity.ref_tag.into(),
                reserved: 0,
            },
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

    /// Opens the file beside an image, or makes it for a device that has no data.
    pub(super) fn beside(of: &IntegrityFile<'_>, integrity: &Integrity, geometry: &Geometry) -> Result<Store, Error> {
        let path = path_of(of.image);
        let writes = !geometry.read_only;
        let is_in_use = of.in_use_bytes.is_some();
        let file = open(&path, writes, is_in_use)?;
        lock(&file, &path, geometry.read_only)?;
        let length_for = |size_bytes| METADATA_AT + integrity.metadata_length(size_bytes);
        let has = file.metadata().map_err(|source| failed(&path, "fstat", &source))?.len();
        if let Some(needed) = of.in_use_bytes.map(length_for).filter(|&needed| has < needed) {
            return Err(rule(&path, &format!("has {has} bytes, fewer than the {needed} needed, and {NOT_ANEW}")));
        }
        if has == 0 && writes && !is_in_use {
            file.write_all_at(Header::new(integrity).as_bytes(), 0)
                .map_err(|source| failed(&path, "pwrite", &source))?;
        }
        check_header(&file, &path, integrity)?;
        let length = length_for(geometry.size_bytes);
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

/// The file that belongs to an image.
fn path_of(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".integrity");
    path.into()
}

fn open(path: &Path, writes: bool, is_in_use: bool) -> Result<File, Error> {
    let mut options = File::options();
    options.read(true).write(writes).create(writes && !is_in_use).truncate(false);
    options.mode(0o600); // as the image
    options.open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound if is_in_use => rule(path, &format!("cannot be found, and {NOT_ANEW}")),
        _ => failed(path, "open", &source),
    })
}

fn check_header(file: &File, path: &Path, integrity: &Integrity) -> Result<(), Error> {
    let (mut has, wanted) = (Header::new_zeroed(), Header::new(integrity));
    let is_whole = file.read_exact_at(has.as_mut_bytes(), 0).is_ok();
    if !is_whole || has.magic != MAGIC || !(VERSION_OF_SIZES..=VERSION).contains(&has.version.get()) {
        return Err(rule(path, "is no file of integrity data, or one of another version"));
    }
    if (has.metadata_bytes, has.interval_bytes) != (wanted.metadata_bytes, wanted.interval_bytes) {
        let problem = format!(
            "has {} bytes for each {} bytes of data, not {} for {}",
            has.metadata_bytes, has.interval_bytes, wanted.metadata_bytes, wanted.interval_bytes
        );
        return Err(rule(path, &problem));
    }
    if has.version != VERSION_OF_SIZES && has.protection != wanted.protection {
        let problem = format!("has protection information of {}; not of {}", has.protection, wanted.protection);
        return Err(rule(path, &problem));
    }
    Ok(())
}

/// Place in a file of the metadata that begins at `offset` of all.
pub(super) fn file_offset(offset: u64) -> u64 {
    METADATA_AT + offset
}
