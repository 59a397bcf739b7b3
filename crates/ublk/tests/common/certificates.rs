//! Certificates for tests of TLS, made by test/certificates (which says what there is) and gone at the end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub(crate) struct Certificates(PathBuf);

impl Certificates {
    pub(crate) fn make() -> Certificates {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("ublk-certificates-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let certificates = Certificates(std::env::temp_dir().join(name));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../test/certificates");
        let status = Command::new(script).arg(&certificates.0).status().expect("there is a shell");
        assert!(status.success(), "test/certificates needs openssl");
        certificates
    }

    pub(crate) fn path(&self, of: impl AsRef<Path>) -> PathBuf {
        self.0.join(of)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
