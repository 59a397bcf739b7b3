//! Puts a mirror together: which legs are there, which of them hold every acknowledged write, and which must be brought up to date.
//!
//! The newest record decides. After a crash the legs may differ in writes that were under way, and either is right, so one leg is taken and
//! the others follow it. A leg that the newest record names must be there, for it may have a newer one; any other may be missing.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Mirror;
use super::keeper::Keeper;
use super::record::{MOST_LEGS, Record};
use super::shared::Shared;
use crate::Error;
use crate::target::backing::{Backing, FileOptions, check_once, failed, rule};
use crate::target::{Geometry, Target};

/// Opens and locks two to eight legs. With `create`, files that are no legs yet become ones: missing files are made, images grow by the space of
/// a record, block devices lose it; the first leg that was there is what the others are made the same as.
///
/// # Errors
/// [`Error::File`] naming the path and the rule; [`Error::Busy`] when a leg is locked.
pub fn open(paths: &[PathBuf], options: &FileOptions) -> Result<Arc<dyn Target>, Error> {
    if !(2..=MOST_LEGS).contains(&paths.len()) {
        let first = paths.first().cloned().unwrap_or_default();
        return Err(rule(&first, &format!("is one of {} legs; a mirror has 2 to {MOST_LEGS}", paths.len())));
    }
    let options = &FileOptions { create: options.create && !options.read_only, ..options.clone() };
    let found = Found::look(paths, options)?;
    let newest = found.newest()?;
    let size_bytes = found.size_bytes(newest.as_ref(), options)?;
    let mut legs = found.legs;
    let first_found = legs.iter().position(|leg| leg.backing.is_ok());
    let mut made = Vec::new();
    let completed = complete(&mut legs, newest.as_ref(), size_bytes, options, &mut made);
    let mirror = completed.and_then(|()| assemble(legs, newest, size_bytes, first_found, options));
    if mirror.is_err() {
        for path in made {
            let _ = std::fs::remove_file(path); // as with any file that was made for nothing
        }
    }
    mirror
}

struct Leg {
    path: PathBuf,
    backing: Result<Backing, Error>,
    record: Option<Record>,
}

struct Found {
    legs: Vec<Leg>,
}

impl Found {
    /// Opens what is there, as it is.
    fn look(paths: &[PathBuf], options: &FileOptions) -> Result<Found, Error> {
        let as_it_is = FileOptions { size_bytes: None, create: false, ..options.clone() };
        let mut legs: Vec<Leg> = Vec::new();
        for path in paths {
            check_once(path, legs.iter().filter_map(|leg| leg.backing.as_ref().ok()))?;
            let backing = match Backing::open(path, &as_it_is) {
                Err(error @ Error::Busy { .. }) => return Err(error),
                opened => opened,
            };
            let record = match &backing {
                Ok(backing) => Record::read(backing).map_err(|source| failed(path, "pread", &source))?,
                Err(_) => None,
            };
            legs.push(Leg { path: path.clone(), backing, record });
        }
        Ok(Found { legs })
    }

    /// The record that counts, if there is one; refuses legs of other mirrors and in other places.
    fn newest(&self) -> Result<Option<Record>, Error> {
        let records = self.legs.iter().filter_map(|leg| leg.record);
        let newest = records.max_by_key(|record| record.generation);
        for (index, leg) in self.legs.iter().enumerate() {
            let (Some(newest), Some(record)) = (&newest, &leg.record) else { continue };
            if record.mirror != newest.mirror {
                return Err(rule(&leg.path, "is a leg of another mirror than the other legs"));
            }
            let (legs, place) = (usize::from(record.legs), usize::from(record.leg));
            if (legs, place) != (self.legs.len(), index) {
                let given = format!("and was given as {} of {}", index + 1, self.legs.len());
                return Err(rule(&leg.path, &format!("is leg {} of {legs} of its mirror, {given}", place + 1)));
            }
        }
        Ok(newest)
    }

    /// Of the mirror: as recorded, as asked for, or as the first image has. The device may have less of it, as one that was made smaller.
    fn size_bytes(&self, newest: Option<&Record>, options: &FileOptions) -> Result<u64, Error> {
        let first = &self.legs[0];
        if let Some(record) = newest {
            return match options.size_bytes {
                Some(wanted) if wanted > record.size_bytes => {
                    Err(rule(&first.path, &format!("is of a mirror of {} bytes, not {wanted}", record.size_bytes)))
                }
                _ => Ok(record.size_bytes),
            };
        }
        let there = self.legs.iter().find_map(|leg| leg.backing.as_ref().ok());
        match (options.create, options.size_bytes, there) {
            (false, ..) => Err(not_a_leg(&first.path, first.backing.as_ref().err())),
            (true, Some(wanted), _) => Ok(wanted),
            (true, None, Some(leg)) if leg.is_block_device => Ok(Record::offset(leg.size_bytes)),
            (true, None, Some(leg)) => Ok(leg.size_bytes),
            (true, None, None) => Err(rule(&first.path, "does not exist, and to create it a size is needed")),
        }
    }
}

fn not_a_leg(path: &Path, why: Option<&Error>) -> Error {
    match why {
        Some(Error::File { problem, .. }) => rule(path, problem),
        _ => {
            rule(path, "is no leg of a mirror yet; with `create` it becomes one, and what it holds may be overwritten")
        }
    }
}

/// Makes legs of those that are none yet, if that is allowed, and sees that every one that is needed is there.
fn complete(
    legs: &mut [Leg],
    newest: Option<&Record>,
    size_bytes: u64,
    options: &FileOptions,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    for (index, leg) in legs.iter_mut().enumerate() {
        let is_needed = newest.is_none_or(|record| record.in_sync >> index & 1 == 1);
        match (&leg.backing, leg.record) {
            (Ok(_), Some(_)) => {}
            (Ok(_), None) if !options.create => return Err(not_a_leg(&leg.path, None)),
            _ if options.create => {
                let was_there = leg.path.exists();
                let backing = grown(leg, size_bytes, options)?;
                if !was_there {
                    made.push(leg.path.clone());
                }
                leg.backing = Ok(backing);
            }
            (Err(error), _) if is_needed => {
                let missing = "and the mirror needs it: the newest record there is names it, so it may hold newer data";
                return Err(rule(&leg.path, &format!("{}, {missing}", problem_of(error))));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The leg with room for its record; a lock that is held already is let go first.
fn grown(leg: &mut Leg, size_bytes: u64, options: &FileOptions) -> Result<Backing, Error> {
    let is_block_device = leg.backing.as_ref().is_ok_and(|leg| leg.is_block_device);
    leg.backing = Err(rule(&leg.path, "is being opened"));
    let has = std::fs::metadata(&leg.path).map_or(0, |metadata| metadata.len());
    // A block device cannot grow, and keeps all that it has: its record is at its end.
    let size_bytes = (!is_block_device).then(|| Record::leg_bytes(size_bytes).max(has));
    Backing::open(&leg.path, &FileOptions { size_bytes, ..options.clone() })
}

fn problem_of(error: &Error) -> String {
    match error {
        Error::File { problem, .. } => problem.clone(),
        other => other.to_string(),
    }
}

fn assemble(
    legs: Vec<Leg>,
    newest: Option<Record>,
    size_bytes: u64,
    first_found: Option<usize>,
    options: &FileOptions,
) -> Result<Arc<dyn Target>, Error> {
    let present = mask(&legs, |_, leg| leg.backing.is_ok());
    let is_short = |leg: &&Leg| leg.backing.as_ref().is_ok_and(|leg| Record::offset(leg.size_bytes) < size_bytes);
    if let Some(leg) = legs.iter().find(is_short) {
        return Err(rule(&leg.path, &format!("is too small for a leg of a mirror of {size_bytes} bytes")));
    }
    let in_sync = match &newest {
        Some(newest) => {
            let up_to_date =
                mask(&legs, |_, leg| leg.record.is_some_and(|record| record.generation == newest.generation));
            let safe = up_to_date & newest.in_sync;
            if newest.is_open { safe & safe.wrapping_neg() } else { safe }
        }
        // All are new, and empty; or the others follow the one that was there.
        None => first_found.map_or(present, |first| 1 << first),
    };
    if in_sync == 0 {
        return Err(rule(&legs[0].path, "no leg of the mirror has all of its data"));
    }
    let record = Record {
        legs: legs.len() as u8,
        leg: 0,
        in_sync,
        is_open: true,
        mirror: newest
            .map_or_else(random, |record| Ok(record.mirror))
            .map_err(|source| failed(&legs[0].path, "read", &source))?,
        generation: newest.map_or(0, |record| record.generation),
        size_bytes,
    };
    let geometry = geometry(&legs, options.size_bytes.unwrap_or(size_bytes), options.read_only);
    let names = legs.iter().map(|leg| leg.path.display().to_string()).collect();
    let errors = legs.iter().map(|leg| leg.backing.as_ref().err().map(problem_of));
    let resyncing = if options.read_only { 0 } else { present & !in_sync };
    let errors = errors.map(|error| error.or_else(|| options.read_only.then(|| "stale, and opened read-only".into())));
    let shared = Arc::new(Shared::new(names, in_sync, resyncing, errors.collect()));
    let nothing = File::open("/dev/null").map_err(|source| failed(Path::new("/dev/null"), "open", &source))?;
    let legs = Arc::new(legs.into_iter().map(|leg| leg.backing.ok()).collect::<Vec<_>>());
    let keeper = match options.read_only {
        true => None,
        false => Some(Keeper::start(Arc::clone(&legs), Arc::clone(&shared), record)?),
    };
    Ok(Arc::new(Mirror { _keeper: keeper, legs, nothing, shared, geometry }))
}

fn geometry(legs: &[Leg], size_bytes: u64, read_only: bool) -> Geometry {
    let there = || legs.iter().filter_map(|leg| leg.backing.as_ref().ok());
    let block_bytes = there().map(|leg| leg.block_bytes).max().unwrap_or(512);
    let size_bytes = size_bytes - size_bytes % u64::from(block_bytes);
    let geometry = Geometry::of_files(size_bytes, block_bytes, there().all(|leg| leg.can_punch), read_only);
    geometry.aligned(there().map(|leg| leg.memory_align_bytes))
}

fn mask(legs: &[Leg], is_in: impl Fn(usize, &Leg) -> bool) -> u8 {
    legs.iter().enumerate().filter(|(index, leg)| is_in(*index, leg)).fold(0, |mask, (index, _)| mask | 1 << index)
}

fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn asking(size_bytes: impl Into<Option<u64>>) -> FileOptions {
        FileOptions { size_bytes: size_bytes.into(), block_bytes: Some(4096), ..FileOptions::default() }
    }

    /// As a device that was made smaller, or has whole blocks of what was asked for, is recovered.
    #[test]
    fn a_mirror_serves_as_little_as_is_asked_for_and_keeps_its_size() {
        let directory = std::env::temp_dir().join(format!("ublk-mirror-smaller-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let paths = ["leg0.img", "leg1.img"].map(|name| directory.join(name));
        let serves = |options: FileOptions| open(&paths, &options).map(|mirror| mirror.geometry().size_bytes);
        let has = MIB + 512;
        assert_eq!(serves(FileOptions { create: true, ..asking(has) }).unwrap(), MIB);
        for (wanted, served) in [(Some(MIB), MIB), (Some(MIB / 2), MIB / 2), (Some(has), MIB), (None, MIB)] {
            assert_eq!(serves(asking(wanted)).unwrap(), served, "{wanted:?}");
        }

        // A new leg is one of the whole mirror.
        std::fs::remove_file(&paths[1]).unwrap();
        assert_eq!(serves(FileOptions { create: true, ..asking(4096) }).unwrap(), 4096);
        assert_eq!(std::fs::metadata(&paths[1]).unwrap().len(), Record::leg_bytes(has));
        let refused = serves(asking(MIB + 4096)).unwrap_err().to_string();
        assert!(refused.contains("is of a mirror of 1049088 bytes, not 1052672"), "{refused}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
