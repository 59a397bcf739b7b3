//! Opens a native target: the mirrors of `TargetSpec`, `ZonedSpec`, `FaultSpec`, `NbdSpec` and `NbdTlsSpec` in src/native.ts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use napi_derive::napi;
use ublk::Target;
use ublk::target::{
    DieAt, Faults, FileOptions, Integrity, IntegrityFile, NbdAddress, NbdOptions, NbdTls, Op, StripeOptions,
    ZonedOptions, fault, file, mem, mem_zero_copy, mirror, nbd, null, stripe, with_integrity, zoned,
};
use ublk::uapi::IntegrityChecksum;

/// A native target.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct TargetSpec {
    /// null, mem, file, stripe, mirror, zoned, nbd or fault.
    pub kind: String,
    /// Bytes of the device.
    pub size_bytes: Option<i64>,
    /// Files or block devices: one for a file, none or one for a zoned target, the legs of a stripe or a mirror.
    pub paths: Vec<String>,
    /// O_DIRECT.
    pub direct: bool,
    /// Make or grow the files; for a mirror, make legs of them.
    pub create: bool,
    /// Open read-only.
    pub read_only: bool,
    /// Of a stripe.
    pub chunk_bytes: Option<u32>,
    /// The target below a fault: one; none for the others.
    pub over: Vec<TargetSpec>,
    /// Of a fault.
    pub faults: Option<FaultSpec>,
    /// Of a zoned target.
    pub zoned: Option<ZonedSpec>,
    /// Of an nbd target.
    pub nbd: Option<NbdSpec>,
}

/// Which export of which NBD server.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct NbdSpec {
    /// Name or address, for TCP.
    pub host: Option<String>,
    /// For TCP.
    pub port: u32,
    /// Path of a Unix socket, instead of a host.
    pub socket: Option<String>,
    /// Name of the export.
    pub export_name: String,
    /// How long requests wait for a lost connection.
    pub patience_ms: f64,
    /// How long the server may take for an answer; null waits without end.
    pub request_timeout_ms: Option<f64>,
    /// How long a request may take in all; null where nobody counts.
    pub deadline_ms: Option<f64>,
    /// None speaks none.
    pub tls: Option<NbdTlsSpec>,
}

/// Whom to trust at an NBD server, and who this client is.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct NbdTlsSpec {
    /// Directory of the files that are not named by themselves.
    pub certificates: Option<String>,
    /// Authorities.
    pub ca: Option<String>,
    /// What they have revoked.
    pub crl: Option<String>,
    /// This client's certificate.
    pub cert: Option<String>,
    /// The key of it.
    pub key: Option<String>,
    /// Name in the server's certificate.
    pub server_name: Option<String>,
    /// Whether it is looked at.
    pub verify_peer: bool,
}

/// What a fault does.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct FaultSpec {
    /// Of every request.
    pub delay_ms: f64,
    /// Share of the requests that fail, 0 to 1.
    pub error_rate: f64,
    /// Operations that may fail: read, write, flush, discard, write_zeroes; empty means all.
    pub error_ops: Vec<String>,
    /// First byte of the range that may fail; null without one.
    pub error_begin: Option<i64>,
    /// First byte after it.
    pub error_end: Option<i64>,
    /// Share of the writes that are torn, 0 to 1.
    pub torn_write_rate: f64,
    /// Decides which.
    pub seed: i64,
    /// fetch or commit; null does not die.
    pub die_at: Option<String>,
    /// Number of the request at which it dies, from 1.
    pub die_after: i64,
}

/// Zones of a zoned target.
#[napi(object, use_nullable = true, object_to_js = false)]
#[derive(Debug)]
pub struct ZonedSpec {
    /// Bytes from one zone to the next.
    pub zone_bytes: i64,
    /// Bytes that a zone takes; null is all.
    pub zone_capacity_bytes: Option<i64>,
    /// The first so many zones are conventional.
    pub conventional_zones: u32,
    /// 0 is no limit.
    pub max_open_zones: u32,
    /// 0 is no limit.
    pub max_active_zones: u32,
}

impl ZonedSpec {
    fn open(&self, path: Option<&PathBuf>, size_bytes: u64, opening: Opening) -> Result<Arc<dyn Target>, ublk::Error> {
        zoned(&ZonedOptions {
            size_bytes,
            path: path.cloned(),
            must_exist: !opening.may_make,
            zone_bytes: self.zone_bytes as u64,
            zone_capacity_bytes: self.zone_capacity_bytes.map(|bytes| bytes as u64),
            conventional_zones: self.conventional_zones,
            max_open_zones: self.max_open_zones,
            max_active_zones: self.max_active_zones,
            block_bytes: opening.block_bytes,
        })
    }
}

/// Integrity data of a device.
#[napi(object, use_nullable = true)]
#[derive(Debug)]
pub struct IntegritySpec {
    /// Bytes to a logical block.
    pub metadata_bytes: u32,
    /// none, t10dif, ip or nvme.
    pub checksum: String,
    /// Place of the protection information.
    pub pi_offset_bytes: u32,
    /// Bytes of the application's tag.
    pub tag_bytes: u32,
    /// The reference tag is checked.
    pub ref_tag: bool,
    /// The device checks by itself.
    pub capable: bool,
}

impl IntegritySpec {
    /// For blocks of a size.
    pub(crate) fn options(&self, block_bytes: u32) -> Integrity {
        Integrity {
            interval_bytes: block_bytes,
            metadata_bytes: self.metadata_bytes as u8,
            checksum: match self.checksum.as_str() {
                "t10dif" => IntegrityChecksum::Crc16T10Dif,
                "ip" => IntegrityChecksum::Ip,
                "nvme" => IntegrityChecksum::Crc64Nvme,
                _ => IntegrityChecksum::None,
            },
            pi_offset_bytes: self.pi_offset_bytes as u8,
            tag_bytes: self.tag_bytes as u8,
            ref_tag: self.ref_tag,
            capable: self.capable,
        }
    }
}

impl From<&Integrity> for IntegritySpec {
    fn from(integrity: &Integrity) -> IntegritySpec {
        let checksum = match integrity.checksum {
            IntegrityChecksum::None => "none",
            IntegrityChecksum::Crc16T10Dif => "t10dif",
            IntegrityChecksum::Ip => "ip",
            IntegrityChecksum::Crc64Nvme => "nvme",
        };
        IntegritySpec {
            metadata_bytes: integrity.metadata_bytes.into(),
            checksum: checksum.into(),
            pi_offset_bytes: integrity.pi_offset_bytes.into(),
            tag_bytes: integrity.tag_bytes.into(),
            ref_tag: integrity.ref_tag,
            capable: integrity.capable,
        }
    }
}

/// How a target is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// In the form that works with AUTO_BUF_REG.
    pub zero_copy: bool,
    /// The block size wanted.
    pub block_bytes: Option<u32>,
    /// What is not there may be made, where `create` says so; zones without being told. Not for a device that is in use: it would be
    /// an empty disk under a file system.
    pub may_make: bool,
}

impl TargetSpec {
    pub(crate) fn open(&self, opening: Opening) -> Result<Arc<dyn Target>, ublk::Error> {
        let Opening { zero_copy, block_bytes, may_make } = opening;
        let size_bytes = self.size_bytes.map(|size| size as u64);
        let &TargetSpec { direct, read_only, .. } = self;
        let files = FileOptions { size_bytes, direct, create: self.create && may_make, read_only, block_bytes };
        let paths: Vec<PathBuf> = self.paths.iter().map(PathBuf::from).collect();
        if let Some(zoned) = &self.zoned {
            return zoned.open(paths.first(), size_bytes.unwrap_or_default(), opening);
        }
        if let Some(spec) = &self.nbd {
            return nbd(spec.options(&files));
        }
        match (self.kind.as_str(), &*paths, &*self.over) {
            ("file", [path], _) => file(path, &files),
            ("stripe", paths, _) => {
                stripe(paths, &StripeOptions { chunk_bytes: self.chunk_bytes.unwrap_or_default(), files })
            }
            ("mirror", paths, _) => mirror(paths, &files),
            ("mem", ..) if zero_copy => mem_zero_copy(size_bytes.unwrap_or_default()),
            ("mem", ..) => mem(size_bytes.unwrap_or_default()),
            ("fault", _, [below]) => {
                let faults = self.faults.as_ref().map(FaultSpec::faults).unwrap_or_default();
                Ok(fault(below.open(opening)?, faults))
            }
            _ => Ok(null(size_bytes.unwrap_or_default())),
        }
    }
}

impl TargetSpec {
    /// A layer over `target`, which is this one. `in_use_bytes`: of a device that has data, for which nothing may be made.
    pub(crate) fn with_integrity(
        &self,
        target: Arc<dyn Target>,
        integrity: Integrity,
        in_use_bytes: Option<u64>,
    ) -> Result<Arc<dyn Target>, ublk::Error> {
        let file = self.paths.first().map(|image| IntegrityFile { image: Path::new(image), in_use_bytes });
        with_integrity(target, integrity, file)
    }
}

impl NbdSpec {
    fn options(&self, files: &FileOptions) -> NbdOptions {
        let &FileOptions { size_bytes, read_only, block_bytes, .. } = files;
        let address = match (&self.socket, &self.host) {
            (Some(path), _) => NbdAddress::Unix { path: path.into() },
            (None, host) => NbdAddress::Tcp { host: host.clone().unwrap_or_default(), port: self.port as u16 },
        };
        let duration = |milliseconds: f64| Duration::from_secs_f64(milliseconds / 1000.0);
        NbdOptions {
            address,
            export: self.export_name.clone(),
            read_only,
            size_bytes,
            block_bytes,
            patience: duration(self.patience_ms),
            request_timeout: self.request_timeout_ms.map(duration),
            deadline: self.deadline_ms.map(duration),
            tls: self.tls.as_ref().map(NbdTlsSpec::tls),
        }
    }
}

impl NbdTlsSpec {
    fn tls(&self) -> NbdTls {
        let path = |path: &Option<String>| path.as_ref().map(PathBuf::from);
        NbdTls {
            certificates: path(&self.certificates),
            ca: path(&self.ca),
            crl: path(&self.crl),
            cert: path(&self.cert),
            key: path(&self.key),
            server_name: self.server_name.clone(),
            verify_peer: self.verify_peer,
        }
    }
}

impl FaultSpec {
    fn faults(&self) -> Faults {
        let is_named = |op: &Op| self.error_ops.iter().any(|name| name == op.name());
        Faults {
            delay: Duration::from_secs_f64(self.delay_ms / 1000.0),
            error_rate: self.error_rate,
            error_ops: Op::COUNTED.into_iter().filter(is_named).collect(),
            error_range: self.error_begin.zip(self.error_end).map(|(begin, end)| (begin as u64, end as u64)),
            torn_write_rate: self.torn_write_rate,
            seed: self.seed as u64,
            die_at: self.die_at.as_deref().map(|at| if at == "fetch" { DieAt::Fetch } else { DieAt::Commit }),
            die_after: self.die_after as u64,
        }
    }
}
