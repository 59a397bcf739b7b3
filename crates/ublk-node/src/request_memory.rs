//! What the memory of requests is like, and what of it a device's users share: mirrors of `SharedMemorySpec`, `NativeSharedMemory` and
//! `SegmentSpec` in src/native.ts.

use std::path::Path;
use std::sync::Arc;

use napi_derive::napi;
use ublk::{FormerMemory, Segments, SharedMemory};

/// A file of memory that users share.
#[napi(object, use_nullable = true)]
#[derive(Debug)]
#[allow(unreachable_pub)] // a field of an exported object
pub struct SharedMemorySpec {
    /// Absolute.
    pub path: String,
    /// Mapped for reading alone.
    pub read_only: bool,
    /// Of a device that is recovered: the driver's number.
    pub number: Option<u32>,
    /// And which file it was.
    pub file_id: Option<String>,
}

impl SharedMemorySpec {
    pub(crate) fn open(&self) -> Result<Arc<SharedMemory>, ublk::Error> {
        SharedMemory::open(Path::new(&self.path), self.read_only).map(Arc::new)
    }

    /// As the former server of a device had it.
    pub(crate) fn of_former(&self) -> FormerMemory {
        let memory = self.open().ok().filter(|memory| self.file_id.as_deref() == Some(memory.file_id()));
        FormerMemory { number: self.number.unwrap_or(0) as u16, memory }
    }
}

/// A file of memory that users share now.
#[napi(object, use_nullable = true, object_from_js = false)]
#[derive(Debug)]
#[allow(unreachable_pub)] // a public method of an exported class returns it
pub struct NativeSharedMemory {
    /// As given.
    pub path: String,
    /// It serves only writes to the device.
    pub read_only: bool,
    /// Bytes.
    pub size_bytes: i64,
    /// The driver's number.
    pub number: u32,
    /// Which file it is.
    pub file_id: String,
}

impl From<(u16, Arc<SharedMemory>)> for NativeSharedMemory {
    fn from((number, memory): (u16, Arc<SharedMemory>)) -> NativeSharedMemory {
        NativeSharedMemory {
            number: number.into(),
            file_id: memory.file_id().to_owned(),
            path: memory.path().display().to_string(),
            read_only: memory.is_read_only(),
            size_bytes: memory.len_bytes() as i64,
        }
    }
}

/// Shape of the memory of requests.
#[napi(object, use_nullable = true)]
#[derive(Debug)]
#[allow(unreachable_pub)] // a field of exported objects
pub struct SegmentSpec {
    /// Most segments of a request.
    pub max_count: u32,
    /// Largest segment.
    pub max_bytes: u32,
    /// Boundary that none crosses.
    pub boundary_bytes: i64,
}

impl From<&SegmentSpec> for Segments {
    fn from(spec: &SegmentSpec) -> Segments {
        Segments {
            max_count: spec.max_count as u16,
            max_bytes: spec.max_bytes,
            boundary_bytes: spec.boundary_bytes as u64,
        }
    }
}

impl From<Segments> for SegmentSpec {
    fn from(segments: Segments) -> SegmentSpec {
        SegmentSpec {
            max_count: segments.max_count.into(),
            max_bytes: segments.max_bytes,
            // Another program's device may have any; JavaScript counts to 2^53.
            boundary_bytes: segments.boundary_bytes.min(1 << 53) as i64,
        }
    }
}
