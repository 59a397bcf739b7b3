//! What the queues and the keeper of a mirror share: which legs hold what, and which writes are where.
//!
//! The order that keeps acknowledged writes safe: a leg that misses a write leaves the mask of legs in sync, the keeper records that on the
//! others, and only then is that write answered, and every later one. So a leg that the newest record names has every write that was
//! acknowledged, whenever the power goes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use super::record::MOST_LEGS;
use crate::target::{LegState, LegStatus, Report};

/// Bytes that the resync copies at a time. Writes to them wait.
pub(super) const WINDOW_BYTES: u64 = 256 << 10;

/// The legs in one word, so that it changes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Legs {
    /// A bit for each leg that has every acknowledged write.
    pub(super) in_sync: u8,
    /// A bit for each leg that gets new writes, and the old ones from the resync.
    pub(super) resyncing: u8,
    /// Counts the changes of `in_sync`.
    pub(super) changes: u32,
}

impl Legs {
    fn from_word(word: u64) -> Legs {
        Legs { in_sync: word as u8, resyncing: (word >> 8) as u8, changes: (word >> 32) as u32 }
    }
    fn word(self) -> u64 {
        u64::from(self.in_sync) | u64::from(self.resyncing) << 8 | u64::from(self.changes) << 32
    }
    /// Legs that a write goes to.
    pub(super) fn written(self) -> u8 {
        self.in_sync | self.resyncing
    }
    /// When these legs have failed; None: no leg in sync would be left.
    fn without(self, failed: u8) -> Option<Legs> {
        let in_sync = self.in_sync & !failed;
        let changes = self.changes.wrapping_add(u32::from(in_sync != self.in_sync));
        (in_sync != 0).then_some(Legs { in_sync, resyncing: self.resyncing & !failed, changes })
    }
    /// When these legs have failed a write that went to all. If no leg in sync took it, the first of them is what there is: a leg that is
    /// resyncing may hold the write where the resync has been, and would be let in with it.
    fn after_write(self, failed: u8) -> Option<Legs> {
        let first = self.in_sync & self.in_sync.wrapping_neg();
        self.without(failed).or_else(|| self.without(!first))
    }
}

pub(super) struct Shared {
    legs: AtomicU64,
    /// The `changes` that the legs' records know.
    recorded: AtomicU32,
    /// The record could not be written anywhere: no write may be acknowledged.
    is_unrecordable: AtomicBool,
    /// Number of the window that the resync works on, from 1; 0 is none.
    window: AtomicU64,
    /// Writes under way that began in an even or odd epoch of the resync.
    writes: [AtomicU32; 2],
    epoch: AtomicU32,
    /// Writes that wait for the window to move.
    waiting: AtomicU32,
    resynced_bytes: AtomicU64,
    is_stopping: AtomicBool,
    keeper: OnceLock<Thread>,
    names: Vec<String>,
    errors: Mutex<Vec<Option<String>>>,
    reports: Mutex<Reports>,
}

#[derive(Default)]
struct Reports {
    to: Option<Report>,
    /// A leg may fail before anybody serves the mirror.
    untold: Vec<String>,
}

impl Shared {
    pub(super) fn new(names: Vec<String>, in_sync: u8, resyncing: u8, errors: Vec<Option<String>>) -> Shared {
        Shared {
            legs: AtomicU64::new(Legs { in_sync, resyncing, changes: 0 }.word()),
            recorded: AtomicU32::new(0),
            is_unrecordable: AtomicBool::new(false),
            window: AtomicU64::new(0),
            writes: Default::default(),
            epoch: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            resynced_bytes: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            keeper: OnceLock::new(),
            names,
            errors: Mutex::new(errors),
            reports: Mutex::default(),
        }
    }

    #[inline]
    pub(super) fn legs(&self) -> Legs {
        Legs::from_word(self.legs.load(SeqCst))
    }

    /// Takes a leg that has failed out of use. False: it is the last one in sync, and stays.
    pub(super) fn drop_leg(&self, leg: u16, why: &dyn Fn() -> String) -> bool {
        let bit = 1_u8 << leg;
        let change = |word| Legs::from_word(word).without(bit).map(Legs::word);
        let Ok(before) = self.legs.fetch_update(SeqCst, SeqCst, change) else { return false };
        if Legs::from_word(before).written() & bit != 0 {
            self.tell_failed(leg, why());
        }
        true
    }

    /// Takes the legs that have failed a write out of use, in one step with those that may be ahead of the last leg in sync, which stays.
    pub(super) fn drop_after_write(&self, failed: u8, why: &dyn Fn() -> String) {
        let change = |word| Legs::from_word(word).after_write(failed).map(Legs::word);
        let Ok(before) = self.legs.fetch_update(SeqCst, SeqCst, change) else { return };
        let before = Legs::from_word(before);
        let left = before.after_write(failed).unwrap_or(before);
        let gone = before.written() & !left.written();
        for leg in (0..MOST_LEGS as u16).filter(|leg| gone >> leg & 1 == 1) {
            let has_failed = failed >> leg & 1 == 1;
            let ahead = || format!("it may hold a write that the last leg in sync refused: {}", why());
            self.tell_failed(leg, if has_failed { why() } else { ahead() });
        }
    }

    fn tell_failed(&self, leg: u16, reason: String) {
        let message = format!("{} has failed ({reason}) and is out of the mirror", self.names[usize::from(leg)]);
        lock(&self.errors)[usize::from(leg)] = Some(reason);
        self.wake_keeper();
        self.tell(message);
    }

    /// The resync has gone through: legs that are still resyncing are in sync.
    pub(super) fn admit_resynced(&self) {
        let _ = self.legs.fetch_update(SeqCst, SeqCst, |word| {
            let legs = Legs::from_word(word);
            let changes = legs.changes.wrapping_add(u32::from(legs.resyncing != 0));
            Some(Legs { in_sync: legs.written(), resyncing: 0, changes }.word())
        });
    }

    /// Every change of the legs is on record: a write that has been done may be acknowledged.
    #[inline]
    pub(super) fn is_recorded(&self) -> bool {
        self.legs().changes == self.recorded.load(SeqCst)
    }

    #[inline]
    pub(super) fn is_unrecordable(&self) -> bool {
        self.is_unrecordable.load(SeqCst)
    }

    pub(super) fn set_recorded(&self, changes: u32) {
        self.recorded.store(changes, SeqCst);
        self.is_unrecordable.store(false, SeqCst);
    }

    pub(super) fn set_unrecordable(&self) {
        self.is_unrecordable.store(true, SeqCst);
    }

    /// Begins a write while there is a resync; None: it touches the window, and must be tried again. Else give the number to `end_write`.
    ///
    /// The write counts itself before it looks at the window, the resync sets the window before it looks at the count: one of them sees
    /// the other.
    pub(super) fn begin_write(&self, begin: u64, length: u64) -> Option<usize> {
        let epoch = (self.epoch.load(SeqCst) & 1) as usize;
        self.writes[epoch].fetch_add(1, SeqCst);
        let window = self.window.load(SeqCst);
        let is_free = window == 0 || begin >= window * WINDOW_BYTES || begin + length <= (window - 1) * WINDOW_BYTES;
        if !is_free {
            self.end_write(epoch);
        }
        is_free.then_some(epoch)
    }

    pub(super) fn end_write(&self, epoch: usize) {
        self.writes[epoch].fetch_sub(1, SeqCst);
    }

    /// A write that waits for the window makes the resync pause behind it, else a long one would wait for the end.
    pub(super) fn set_waiting(&self, waits: bool) {
        if waits {
            self.waiting.fetch_add(1, SeqCst);
        } else {
            self.waiting.fetch_sub(1, SeqCst);
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Sets the window; no write that touches it is under way when it returns. `pause` is called while one may be. False: it gave up.
    pub(super) fn close_window(&self, number: u64, pause: &dyn Fn() -> bool) -> bool {
        self.window.store(number + 1, SeqCst);
        // Twice: a write that took the old epoch's number late may have counted itself there after the first look.
        for _ in 0..2 {
            let old = (self.epoch.fetch_add(1, SeqCst) & 1) as usize;
            while self.writes[old].load(SeqCst) > 0 {
                if !pause() {
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn open_window(&self) {
        self.window.store(0, SeqCst);
    }

    pub(super) fn set_resynced(&self, bytes: u64) {
        self.resynced_bytes.store(bytes, SeqCst);
    }

    pub(super) fn set_keeper(&self, keeper: Thread) {
        let _ = self.keeper.set(keeper);
    }

    fn wake_keeper(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }

    pub(super) fn stop(&self) {
        self.is_stopping.store(true, SeqCst);
        self.wake_keeper();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// Where to tell from now on, and what was to be told before.
    pub(super) fn set_report(&self, report: Report) {
        let mut reports = lock(&self.reports);
        reports.untold.drain(..).for_each(&report);
        reports.to = Some(report);
    }

    pub(super) fn tell(&self, message: String) {
        let mut reports = lock(&self.reports);
        match &reports.to {
            Some(report) => report(message),
            None => reports.untold.push(message),
        }
    }

    pub(super) fn status(&self) -> Vec<LegStatus> {
        let legs = self.legs();
        let errors = lock(&self.errors);
        let state = |leg: usize| match (legs.in_sync >> leg & 1, legs.resyncing >> leg & 1) {
            (1, _) => LegState::InSync,
            (_, 1) => LegState::Resyncing { done_bytes: self.resynced_bytes.load(SeqCst) },
            _ => LegState::Failed { reason: errors[leg].clone().unwrap_or_default() },
        };
        self.names.iter().enumerate().map(|(leg, path)| LegStatus { path: path.clone(), state: state(leg) }).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(in_sync: u8, resyncing: u8) -> Shared {
        let names = (0..3).map(|leg| format!("leg {leg}")).collect();
        Shared::new(names, in_sync, resyncing, vec![None; 3])
    }

    #[test]
    fn the_last_leg_in_sync_stays_and_a_dropped_one_must_be_recorded() {
        let shared = shared(0b011, 0b100);
        assert!(shared.drop_leg(2, &|| "old".into()) && shared.is_recorded(), "it was not in sync: nothing to record");
        assert!(shared.drop_leg(0, &|| "EIO".into()) && !shared.is_recorded());
        assert!(!shared.drop_leg(1, &|| "EIO".into()));
        assert_eq!(shared.legs(), Legs { in_sync: 0b010, resyncing: 0, changes: 1 });
        shared.set_recorded(1);
        assert!(shared.is_recorded());
        assert!(shared.drop_leg(0, &|| "again".into()) && shared.is_recorded());
        assert!(matches!(&shared.status()[0].state, LegState::Failed { reason } if reason == "EIO"));
    }

    /// Else reads would find now one and now the other.
    #[test]
    fn legs_that_stay_after_a_write_have_all_taken_it_or_there_is_one() {
        for case in 0..1_u16 << 9 {
            let [in_sync, resyncing, failed] = [0, 3, 6].map(|shift| (case >> shift & 0b111) as u8);
            if in_sync == 0 || in_sync & resyncing != 0 || failed & !(in_sync | resyncing) != 0 {
                continue;
            }
            let shared = shared(in_sync, resyncing);
            shared.drop_after_write(failed, &|| "EIO".into());
            let legs = shared.legs();
            let case = format!("{failed:03b} of {in_sync:03b} and {resyncing:03b} have failed: {legs:?}");
            assert!(legs.in_sync != 0 && legs.in_sync & !in_sync == 0 && legs.resyncing & !resyncing == 0, "{case}");
            assert!(legs.written() & failed == 0 || legs.written().count_ones() == 1, "{case}");
            assert_eq!(shared.is_recorded(), legs.in_sync == in_sync, "{case}");
            if failed & in_sync != in_sync {
                assert_eq!(legs.written(), (in_sync | resyncing) & !failed, "{case}: a good leg was dropped");
            }
        }
    }

    #[test]
    fn legs_that_go_with_a_write_are_told_each_with_its_own_reason() {
        let shared = shared(0b001, 0b110);
        shared.drop_after_write(0b011, &|| "EIO".into());
        shared.admit_resynced();
        assert_eq!(shared.legs(), Legs { in_sync: 0b001, resyncing: 0, changes: 0 });
        let states: Vec<_> = shared.status().into_iter().map(|leg| leg.state).collect();
        let ahead = "it may hold a write that the last leg in sync refused: EIO";
        let failed = |reason: &str| LegState::Failed { reason: reason.into() };
        assert_eq!(states, [LegState::InSync, failed("EIO"), failed(ahead)]);
        assert_eq!(lock(&shared.reports).untold.len(), 2);
    }

    #[test]
    fn a_write_waits_for_the_window_that_it_touches_and_no_other() {
        let shared = shared(0b01, 0b10);
        assert!(shared.close_window(2, &|| false));
        let (begin, end) = (2 * WINDOW_BYTES, 3 * WINDOW_BYTES);
        for (offset, length, is_free) in [
            (0, begin, true),
            (0, begin + 512, false),
            (end - 512, 512, false),
            (end, 512, true),
            (0, end + begin, false),
        ] {
            assert_eq!(shared.begin_write(offset, length).is_some(), is_free, "{length} at {offset}");
        }
        shared.open_window();
        assert!(shared.begin_write(begin, 512).is_some());
    }

    #[test]
    fn a_window_is_not_closed_before_the_writes_of_both_epochs_have_ended() {
        let shared = shared(0b01, 0b10);
        for _ in 0..2 {
            let epoch = shared.begin_write(0, 512).unwrap();
            assert!(!shared.close_window(0, &|| false), "a write is under way there");
            shared.end_write(epoch);
            assert!(shared.close_window(0, &|| false));
            shared.open_window();
            shared.epoch.fetch_add(1, SeqCst);
        }
    }
}
