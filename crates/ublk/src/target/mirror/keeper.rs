//! The thread that keeps a mirror's records, and brings stale legs up to date.
//!
//! Recording goes before resyncing: writes wait for it. The resync copies one window after the other from a leg in sync, and writes only what
//! differs, so that holes stay holes; meanwhile new writes go to both legs, and wait while they touch the window.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::record::{MOST_LEGS, RECORD_BYTES, Record};
use super::shared::{Shared, WINDOW_BYTES};
use crate::Error;
use crate::error::words;
use crate::serve::prepare_queue_thread;
use crate::target::backing::Backing;

/// How long to wait before a record is tried again that no leg took.
const RETRY: Duration = Duration::from_millis(100);
/// How often to look whether the writes before a window have ended.
const POLL: Duration = Duration::from_micros(100);
/// Time for the writes that waited for the window.
const COURTESY: Duration = Duration::from_millis(2);

pub(super) struct Keeper {
    thread: Option<JoinHandle<u64>>,
    work: Work,
}

/// What the thread works with, and what is left to do when it has ended.
#[derive(Clone)]
struct Work {
    legs: Arc<Vec<Option<Backing>>>,
    shared: Arc<Shared>,
    /// As recorded; of its fields `leg`, `in_sync` and `generation` are filled in when it is written.
    record: Record,
}

impl Keeper {
    /// Records that the mirror is open, and starts the thread.
    ///
    /// # Errors
    /// [`Error::File`] when no leg takes the record; [`Error::Kernel`] when there is no thread.
    pub(super) fn start(legs: Arc<Vec<Option<Backing>>>, shared: Arc<Shared>, record: Record) -> Result<Keeper, Error> {
        let mut work = Work { legs, shared, record };
        if !work.record_now() {
            let path = work.legs.iter().flatten().next().map(|leg| leg.path.display().to_string()).unwrap_or_default();
            let problem = "the mirror's record cannot be written".into();
            return Err(Error::File { path, problem, syscall: Some("pwrite"), errno: Some(libc::EIO) });
        }
        let mut of_thread = work.clone();
        let spawned = thread::Builder::new().name("ublk-mirror".into()).spawn(move || {
            let _ = prepare_queue_thread(&[]);
            of_thread.run();
            of_thread.record.generation
        });
        let thread = spawned.map_err(|source| Error::Kernel { id: None, call: "clone", source })?;
        work.shared.set_keeper(thread.thread().clone());
        Ok(Keeper { thread: Some(thread), work })
    }
}

impl Drop for Keeper {
    /// With every queue gone: records that the legs are the same, unless one does not sync.
    fn drop(&mut self) {
        self.work.shared.stop();
        let Some(Ok(generation)) = self.thread.take().map(JoinHandle::join) else { return };
        let Work { legs, shared, record } = &mut self.work;
        let in_sync = shared.legs().in_sync;
        let all_sync = members(legs, in_sync).all(|(_, leg)| leg.file.sync_data().is_ok());
        if all_sync && shared.is_recorded() {
            (record.generation, record.is_open) = (generation, false);
            self.work.record_now();
        }
    }
}

impl Work {
    fn run(&mut self) {
        let mut next_window = Some(0);
        while !self.shared.is_stopping() {
            if !self.shared.is_recorded() {
                if !self.record_now() {
                    thread::park_timeout(RETRY);
                }
            } else if let Some(number) = next_window {
                next_window = self.resync(number);
            } else {
                thread::park();
            }
        }
    }

    /// Writes a new record to every leg in sync. A leg that does not take it is dropped, and the others get another. False: nobody took it.
    fn record_now(&mut self) -> bool {
        loop {
            let now = self.shared.legs();
            self.record.generation += 1;
            self.record.in_sync = now.in_sync;
            let mut has_last_failed = false;
            let mut has_lost_one = false;
            for (index, leg) in members(&self.legs, now.in_sync) {
                let record = Record { leg: index as u8, ..self.record };
                if let Err(error) = record.write(leg) {
                    let is_dropped = self.shared.drop_leg(index, &|| words(&error));
                    has_lost_one |= is_dropped;
                    has_last_failed |= !is_dropped;
                }
            }
            if has_last_failed {
                self.shared.set_unrecordable();
                return false;
            }
            if !has_lost_one {
                self.shared.set_recorded(now.changes);
                return true;
            }
        }
    }

    /// Copies one window; the next one's number, or None when there is nothing (more) to resync.
    fn resync(&mut self, number: u64) -> Option<u64> {
        if self.shared.legs().resyncing == 0 {
            return None;
        }
        let offset = number * WINDOW_BYTES;
        if offset >= self.record.size_bytes {
            self.end_resync();
            return None;
        }
        let length = WINDOW_BYTES.min(self.record.size_bytes.next_multiple_of(RECORD_BYTES) - offset) as usize;
        let pause = || {
            thread::sleep(POLL);
            !self.shared.is_stopping()
        };
        if self.shared.close_window(number, &pause) {
            self.copy(offset, length);
        }
        self.shared.open_window();
        self.shared.set_resynced(offset + length as u64);
        if self.shared.has_waiting() {
            thread::sleep(COURTESY);
        }
        Some(number + 1)
    }

    /// Makes every leg that is resyncing the same as a leg in sync; those that fail are dropped.
    fn copy(&self, offset: u64, length: usize) {
        let mut good = Window::new();
        let now = self.shared.legs();
        let source = members(&self.legs, now.in_sync).find(|(index, leg)| {
            let read = leg.file.read_exact_at(&mut good.0[..length], offset);
            if let Err(error) = &read {
                self.shared.drop_leg(*index, &|| words(error));
            }
            read.is_ok()
        });
        for (index, leg) in members(&self.legs, now.resyncing) {
            let copied = match source {
                Some(_) => overwrite_different(leg, offset, &good.0[..length]),
                None => Err(io::Error::other("no leg in sync could be read")),
            };
            if let Err(error) = copied {
                self.shared.drop_leg(index, &|| words(&error));
            }
        }
    }

    fn end_resync(&mut self) {
        for (index, leg) in members(&self.legs, self.shared.legs().resyncing) {
            if let Err(error) = leg.file.sync_data() {
                self.shared.drop_leg(index, &|| words(&error));
            }
        }
        let resynced = members(&self.legs, self.shared.legs().resyncing);
        let names: Vec<String> = resynced.map(|(_, leg)| leg.path.display().to_string()).collect();
        self.shared.admit_resynced();
        if !names.is_empty() {
            self.shared.tell(format!("{} is in sync again", names.join(", ")));
        }
    }
}

/// Memory that O_DIRECT takes.
#[repr(align(4096))]
struct Window([u8; WINDOW_BYTES as usize]);

impl Window {
    fn new() -> Box<Window> {
        Box::new(Window([0; WINDOW_BYTES as usize]))
    }
}

fn overwrite_different(leg: &Backing, offset: u64, good: &[u8]) -> io::Result<()> {
    let mut there = Window::new();
    let there = &mut there.0[..good.len()];
    leg.file.read_exact_at(there, offset)?;
    if there == good { Ok(()) } else { leg.file.write_all_at(good, offset) }
}

/// The legs of a mask and their numbers.
fn members(legs: &[Option<Backing>], mask: u8) -> impl Iterator<Item = (u16, &Backing)> {
    let indices = (0..MOST_LEGS as u16).zip(legs);
    indices.filter(move |(index, _)| mask >> index & 1 == 1).filter_map(|(index, leg)| Some((index, leg.as_ref()?)))
}
