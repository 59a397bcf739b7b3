//! `PATH.zones`: how far each zone of a zoned image is written.
//!
//! ```text
//! 0     header: magic, version, sizes of the zones, check
//! 4096  a record of 16 bytes for each zone: sectors written, check
//! ```
//! A record lies within a sector, which disks write whole, and a zone that nothing was written to has a record of zeroes. All numbers are
//! little-endian. A table is made under another name and renamed when it is on the disk, so there is none that is half made.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::backing::{failed, rule};
use super::zones::Layout;
use crate::Error;

const MAGIC: [u8; 8] = *b"ublkzone";
const VERSION: u32 = 1;

/// Where the records begin.
const RECORDS_AT: u64 = 4096;

/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = size_of::<Record>();

#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    zones: U32,
    conventional: U32,
    reserved: U32,
    zone_sectors: U64,
    capacity_sectors: U64,
    check: U64,
}

impl Header {
    fn new(layout: &Layout) -> Header {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            zones: layout.zones.into(),
            conventional: layout.conventional.into(),
            reserved: 0.into(),
            zone_sectors: layout.zone_sectors.into(),
            capacity_sectors: layout.capacity_sectors.into(),
            check: 0.into(),
        };
        header.check = header.sum().into();
        header
    }

    fn sum(&self) -> u64 {
        let words = Header { check: 0.into(), ..*self };
        words
            .as_bytes()
            .chunks_exact(8)
            .fold(0, |sum, word| check(sum ^ u64::from_le_bytes(word.try_into().unwrap_or_default())).rotate_left(1))
    }
}

/// What is kept of a zone.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Record {
    written: U64,
    check: U64,
}

impl Record {
    pub(super) fn new(written: u64) -> Record {
        Record { written: written.into(), check: check(written).into() }
    }

    fn written(&self) -> Option<u64> {
        (check(self.written.get()) == self.check.get()).then(|| self.written.get())
    }
}

/// Of zero, zero. A changed bit of either number shows.
fn check(number: u64) -> u64 {
    (number ^ number >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Place of a zone's record in the file.
pub(super) fn record_offset(index: u32) -> u64 {
    RECORDS_AT + u64::from(index) * RECORD_BYTES as u64
}

/// The table that belongs to an image.
pub(super) fn path_of(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".zones");
    path.into()
}

/// Opens the table; None if there is none.
pub(super) fn open(path: &Path, layout: &Layout) -> Result<Option<(File, Vec<u64>)>, Error> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(path, "open", &source)),
    };
    let mut bytes = vec![0; record_offset(layout.zones) as usize];
    let short = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof => too_short(path, &file, layout),
        _ => failed(path, "pread", &source),
    };
    let mut header = Header::new(layout);
    file.read_exact_at(header.as_mut_bytes(), 0).map_err(short)?;
    check_header(path, &header, layout)?;
    file.read_exact_at(&mut bytes, 0).map_err(short)?;
    let records = bytes[RECORDS_AT as usize..].chunks_exact(RECORD_BYTES);
    let written = |(index, bytes): (usize, &[u8])| {
        let written = Record::read_from_bytes(bytes).ok().and_then(|record| record.written());
        written
            .filter(|&written| written <= layout.capacity_sectors)
            .ok_or_else(|| rule(path, &format!("is damaged: what it says of zone {index} cannot be")))
    };
    Ok(Some((file, records.enumerate().map(written).collect::<Result<_, _>>()?)))
}

/// A table is made whole, so what is missing was lost.
fn too_short(path: &Path, file: &File, layout: &Layout) -> Error {
    let needed = record_offset(layout.zones);
    match file.metadata() {
        Ok(metadata) => {
            let (has, zones) = (metadata.len(), layout.zones);
            let needed = format!("{needed} of a table of {zones} zones");
            rule(path, &format!("is too short: it has {has} bytes, fewer than the {needed}, and is not made anew"))
        }
        Err(source) => failed(path, "fstat", &source),
    }
}

fn check_header(path: &Path, header: &Header, layout: &Layout) -> Result<(), Error> {
    if header.magic != MAGIC || header.sum() != header.check.get() {
        Err(rule(path, "is no table of zones, or a damaged one"))
    } else if header.version != VERSION {
        Err(rule(path, &format!("has version {}; this program reads version {VERSION}", header.version)))
    } else if *header != Header::new(layout) {
        let problem = format!(
            "is for {} zones of {} sectors, {} of them conventional, with a capacity of {}; give the same sizes again",
            header.zones, header.zone_sectors, header.conventional, header.capacity_sectors
        );
        Err(rule(path, &problem))
    } else {
        Ok(())
    }
}

/// Makes the table of an image whose zones are all empty.
pub(super) fn create(path: &Path, layout: &Layout) -> Result<File, Error> {
    let mut unfinished = OsString::from(path);
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600) // as the image
        .open(&unfinished)
        .map_err(|source| failed(&unfinished, "open", &source))?;
    let done = file
        .write_all_at(Header::new(layout).as_bytes(), 0)
        .and_then(|()| file.set_len(record_offset(layout.zones)))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&unfinished, path))
        .and_then(|()| {
            File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
                .sync_all()
        });
    match done {
        Ok(()) => Ok(file),
        Err(source) => {
            let _ = std::fs::remove_file(&unfinished);
            Err(failed(path, "write", &source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout =
        Layout { zone_sectors: 2048, capacity_sectors: 1536, zones: 40, conventional: 3, max_open: 0, max_active: 0 };

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ublk-zone-table-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_table_says_again_what_was_written_into_it() {
        let path = scratch("again");
        let file = create(&path, &LAYOUT).unwrap();
        for (index, written) in [(3, 1536), (7, 8), (39, 1000)] {
            file.write_all_at(Record::new(written).as_bytes(), record_offset(index)).unwrap();
        }
        let (_, written) = open(&path, &LAYOUT).unwrap().unwrap();
        let expected: Vec<u64> = (0..40)
            .map(|index| [(3, 1536), (7, 8), (39, 1000)].iter().find(|zone| zone.0 == index).map_or(0, |zone| zone.1))
            .collect();
        assert_eq!(written, expected);
        std::fs::remove_file(&path).unwrap();
        assert!(open(&path, &LAYOUT).unwrap().is_none());
    }

    #[test]
    fn a_table_of_other_zones_is_refused() {
        let path = scratch("other");
        create(&path, &LAYOUT).unwrap();
        for other in [
            Layout { zones: 41, ..LAYOUT },
            Layout { conventional: 0, ..LAYOUT },
            Layout { zone_sectors: 4096, ..LAYOUT },
            Layout { capacity_sectors: 2048, ..LAYOUT },
        ] {
            let error = open(&path, &other).unwrap_err().to_string();
            assert!(
                error.contains("is for 40 zones of 2048 sectors, 3 of them conventional, with a capacity of 1536"),
                "{error}"
            );
        }
        assert!(open(&path, &Layout { max_open: 4, ..LAYOUT }).unwrap().is_some(), "limits may change");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn every_bit_that_is_changed_is_noticed() {
        let path = scratch("bits");
        let file = create(&path, &LAYOUT).unwrap();
        file.write_all_at(Record::new(1000).as_bytes(), record_offset(5)).unwrap();
        let places = (0..size_of::<Header>() as u64).chain(record_offset(4)..record_offset(6));
        for place in places {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            for bit in 0..8 {
                file.write_all_at(&[byte[0] ^ 1 << bit], place).unwrap();
                assert!(open(&path, &LAYOUT).is_err(), "bit {bit} of byte {place}");
            }
            file.write_all_at(&byte, place).unwrap();
        }
        file.set_len(record_offset(39)).unwrap();
        assert!(open(&path, &LAYOUT).unwrap_err().to_string().contains("too short"));
        std::fs::remove_file(&path).unwrap();
    }
}
