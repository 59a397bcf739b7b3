//! Integrity data: a layer over a target that keeps, for each interval of data, the bytes that the block layer checks it with.
//!
//! ```text
//! options  sizes, checksums and their rules
//! store    where the bytes are: nowhere (null), in memory, or in a file of their own
//! queue    when they move: beside the inner target's work
//! ```
//! The layer adds no checksum: what it stores was made by the block layer or by who wrote, and is checked by whom it is given back to.
//! An interval that was written without integrity data, was discarded, or never written has bytes of all ones, which are checked by nobody
//! (the escape of T10). The store holds them inverted, so that a hole is just that.
//! The driver moves integrity data by user copy only.

mod options;
mod queue;
mod store;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use super::{Geometry, QueueTarget, Target};
use crate::{BufferMode, CharDevice, Error};
pub use options::Integrity;
use queue::IntegrityQueue;
use store::Store;

/// Largest logical block of a device.
const MAX_BLOCK_BYTES: u32 = 4096;

/// A file of integrity data: `PATH.integrity`, beside an image `PATH`.
#[derive(Debug, Clone, Copy)]
pub struct IntegrityFile<'a> {
    /// The image.
    pub image: &'a Path,
    /// Bytes of the device that has data there already: the file must have theirs, and nothing of it is made. None: it is made, or grown.
    pub in_use_bytes: Option<u64>,
}

/// `target` with integrity data as `integrity` says; in a file if there is one to be, else where the target has its data.
///
/// # Errors
/// [`Error::BadOption`] naming the rule that an option breaks, [`Error::NoMemory`], [`Error::File`], [`Error::Busy`].
pub fn with_integrity(
    target: Arc<dyn Target>,
    integrity: Integrity,
    file: Option<IntegrityFile<'_>>,
) -> Result<Arc<dyn Target>, Error> {
    let geometry = target.geometry();
    integrity.check(MAX_BLOCK_BYTES)?; // the device's own block is looked at when it is added
    let store = match file {
        Some(file) => Store::beside(&file, &integrity, &geometry)?,
        None if target.kind() == "null" => Store::Nothing,
        None => Store::in_memory(&integrity, geometry.size_bytes)?,
    };
    Ok(Arc::new(WithIntegrity { target, integrity, store }))
}

struct WithIntegrity {
    target: Arc<dyn Target>,
    integrity: Integrity,
    store: Store,
}

impl Target for WithIntegrity {
    fn kind(&self) -> &'static str {
        self.target.kind()
    }

    fn geometry(&self) -> Geometry {
        self.target.geometry()
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::UserCopy]
    }

    fn integrity(&self) -> Option<Integrity> {
        Some(self.integrity)
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        let mut files = self.target.files();
        files.extend(self.store.file());
        files
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let inner = self.target.queue(device, tags)?;
        let file = self.target.files().len() as u16;
        Ok(Box::new(IntegrityQueue::new(inner, self.integrity, self.store.queue(file), device, tags)?))
    }
}
