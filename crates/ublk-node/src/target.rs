//! Opens a native target: the mirror of `TargetSpec` in src/native.ts.

use std::path::Path;
use std::sync::Arc;

use napi_derive::napi;
use ublk::Target;
use ublk::target::{FileOptions, file, mem, mem_zero_copy, null};

/// A native target.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct TargetSpec {
    /// null, mem or file.
    pub kind: String,
    /// Bytes.
    pub size_bytes: Option<i64>,
    /// Path of a file target.
    pub path: Option<String>,
    /// O_DIRECT.
    pub direct: bool,
    /// Make or grow the file.
    pub create: bool,
    /// Open read-only.
    pub read_only: bool,
}

impl TargetSpec {
    /// Opens it; `zero_copy` asks for the form that works with AUTO_BUF_REG, `block_bytes` is the block size wanted.
    pub(crate) fn open(&self, zero_copy: bool, block_bytes: Option<u32>) -> Result<Arc<dyn Target>, ublk::Error> {
        let size_bytes = self.size_bytes.map(|size| size as u64);
        match self.kind.as_str() {
            "file" => {
                let &TargetSpec { direct, create, read_only, .. } = self;
                let options = FileOptions { size_bytes, direct, create, read_only, block_bytes };
                file(Path::new(self.path.as_deref().unwrap_or_default()), &options)
            }
            "mem" if zero_copy => mem_zero_copy(size_bytes.unwrap_or_default()),
            "mem" => mem(size_bytes.unwrap_or_default()),
            _ => Ok(null(size_bytes.unwrap_or_default())),
        }
    }
}
