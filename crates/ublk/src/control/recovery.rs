//! How a device goes from one server to the next (QUIESCE_DEV, START_USER_RECOVERY, END_USER_RECOVERY), and UPDATE_SIZE, which like these
//! changes a device that is in use.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use ublk_uapi::{CtrlCmd, CtrlOp, DevInfo, DevState, Features, SECTOR_SHIFT};

use super::thread::CONTROL_PATH;
use super::{Control, char_path};
use crate::{DeviceId, Error};

/// How often to look whether the driver has worked a release off: it tells nobody.
const RELEASE_POLL: Duration = Duration::from_millis(2);

/// A server that was killed may still be seen to run for so long.
const KILLED_LIMIT: Duration = Duration::from_millis(500);

/// How long another recovery may take for what takes microseconds.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// What QUIESCE_DEV may take beyond the time that it is told to wait.
const QUIESCE_SLACK: Duration = Duration::from_secs(2);

impl Control {
    /// Waits until the driver has worked off the end of the former server, so that the device can be recovered. Answers what it was granted.
    pub(crate) fn wait_recoverable(&self, id: DeviceId, limit: Duration) -> Result<DevInfo, Error> {
        let began = Instant::now();
        loop {
            let info = self.dev_info(id)?;
            if !info.flags.contains(Features::USER_RECOVERY) {
                let hint = "Only devices that were made with the option `recovery` can be recovered. Remove it (`ublk del`) and make a new one.";
                return Err(Error::Refused { id, problem: "was made without recovery".into(), hint });
            }
            match info.state() {
                Ok(DevState::Quiesced | DevState::FailIo) => return Ok(info),
                Ok(DevState::Dead) => return Err(dead(id, "recovered")),
                _ if began.elapsed() >= KILLED_LIMIT && runs(info.ublksrv_pid) => return Err(live(&info)),
                _ if began.elapsed() >= limit => return Err(Error::Busy { what: char_path(id), id: Some(id) }),
                _ => std::thread::sleep(RELEASE_POLL),
            }
        }
    }

    /// START_USER_RECOVERY: the driver forgets the former server. It refuses while somebody holds the char device, which is waited for: that is
    /// the former server, or another recovery. Keep the turn until the char device is open.
    pub(crate) fn start_recovery(&self, id: DeviceId, limit: Duration) -> Result<Turn, Error> {
        let until = Instant::now() + limit;
        loop {
            let turn = Turn::take();
            match self.run(CtrlOp::StartUserRecovery, CtrlCmd::for_device(id), &mut Vec::new()) {
                // EINVAL: another recovery has got so far, and its queues are not ready.
                Err(Error::Kernel { source, .. })
                    if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EINVAL)) => {}
                answer => return answer.map(|_| turn),
            }
            drop(turn);
            let info = self.dev_info(id)?;
            match info.state() {
                Ok(DevState::Live) => return Err(live(&info)),
                Ok(DevState::Dead) => return Err(dead(id, "recovered")),
                _ if Instant::now() >= until => return Err(Error::Busy { what: char_path(id), id: Some(id) }),
                _ => std::thread::sleep(RELEASE_POLL),
            }
        }
    }

    /// False before Linux 7.0, when not every queue was fetched since the last time: before 6.16 the driver follows a null pointer at the
    /// second START_USER_RECOVERY, and in 6.18 the char device stays busy.
    pub(crate) fn can_start_recovery_twice(&self) -> bool {
        self.features().is_ok_and(|here| here.contains(Features::SAFE_STOP_DEV))
    }

    /// END_USER_RECOVERY: returns when the device is live again; every queue must be fetching on another thread of this process, which
    /// must have opened the char device itself.
    pub(crate) fn end_recovery(&self, id: DeviceId, limit: Duration) -> Result<(), Error> {
        let command = CtrlCmd::for_device(id).with_data(u64::from(std::process::id()));
        self.run_within(limit, CtrlOp::EndUserRecovery, command, &mut Vec::new()).map(drop)
    }

    /// QUIESCE_DEV (6.16), and the wait until the server has answered what it has and let go: the device is quiesced then (or fails I/O, if
    /// that is its recovery), and another server can recover it. New requests wait. For a device that waits already nothing happens.
    ///
    /// # Errors
    /// [`Error::Refused`] for a device that is dead, was made without recovery, or is served in batches; [`Error::Unsupported`] before 6.16;
    /// [`Error::ServerSilent`] when its server does not let go within `limit`: requests wait then until it does, or until it has ended
    /// and the device is recovered; else as [`Control::stop`].
    pub fn quiesce(&self, id: DeviceId, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        self.begin_quiesce(id, limit)?;
        if self.wait_released(id, until.saturating_duration_since(Instant::now()))? {
            return Ok(());
        }
        Err(self.blame(id, CtrlOp::QuiesceDev, limit))
    }

    /// QUIESCE_DEV alone: the server hears of it by tags that come back aborted, and has to let go.
    pub(crate) fn begin_quiesce(&self, id: DeviceId, limit: Duration) -> Result<(), Error> {
        let info = self.dev_info(id)?;
        if info.state() == Ok(DevState::Dead) {
            return Err(dead(id, "quiesced"));
        }
        if !info.flags.contains(Features::USER_RECOVERY) {
            let hint = "Only devices that were made with the option `recovery` can be handed to another server.";
            return Err(Error::Refused { id, problem: "was made without recovery".into(), hint });
        }
        self.check_granted(&info, Features::QUIESCE, CtrlOp::QuiesceDev)?;
        if info.flags.contains(Features::BATCH_IO) {
            // 7.2: taking back the fetches of a queue marks it as one that is being stopped, and every request fails from then on.
            let problem =
                "is served in batches, and the driver fails what comes while such a device is quiesced".into();
            let hint = "Make it without `batch` to hand it over so; or with the recovery `reissue`: then its server may be killed and \
                        the device recovered, and nothing fails.";
            return Err(Error::Refused { id, problem, hint });
        }
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1); // 0 would be for ever
        let command = CtrlCmd::for_device(id).with_data(limit_ms);
        match self.run_within(limit + QUIESCE_SLACK, CtrlOp::QuiesceDev, command, &mut Vec::new()) {
            // A queue had no tag idle in all that time.
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                Err(self.blame(id, CtrlOp::QuiesceDev, limit))
            }
            Err(Error::NoDevice { .. }) => Err(dead(id, "quiesced")), // it was stopped meanwhile
            answer => answer.map(drop),
        }
    }

    /// Waits until the driver has seen that nobody serves the device: it works the release off late, and says until then that it is live.
    /// True when it has, false after `limit`.
    ///
    /// # Errors
    /// Those of [`Control::info`]; a device that is gone is no error.
    pub fn wait_released(&self, id: DeviceId, limit: Duration) -> Result<bool, Error> {
        let until = Instant::now() + limit;
        loop {
            match self.dev_info(id) {
                Ok(info) if info.state() == Ok(DevState::Live) => {}
                Ok(_) | Err(Error::NoDevice { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(RELEASE_POLL);
        }
    }

    /// UPDATE_SIZE (6.16): the block device has `size_bytes` from now on, a multiple of its logical block (which the caller checks), and
    /// whoever has it open is told. Its server is not asked: it must be able to serve that much.
    ///
    /// # Errors
    /// [`Error::Refused`] for a device that is dead; [`Error::Unsupported`] before 6.16; else as [`Control::stop`].
    pub fn resize(&self, id: DeviceId, size_bytes: u64) -> Result<(), Error> {
        let info = self.dev_info(id)?;
        self.check_granted(&info, Features::UPDATE_SIZE, CtrlOp::UpdateSize)?;
        if info.state() == Ok(DevState::Dead) {
            return Err(dead(id, "resized")); // before 7.0 the driver would follow a null pointer
        }
        let command = CtrlCmd::for_device(id).with_data(size_bytes >> SECTOR_SHIFT);
        self.run(CtrlOp::UpdateSize, command, &mut Vec::new()).map(drop)
    }

    /// Features that old kernels drop in silence, asked for always: the kernel lacks what the device was not granted, unless another
    /// program made the device.
    fn check_granted(&self, info: &DevInfo, feature: Features, op: CtrlOp) -> Result<(), Error> {
        if info.flags.contains(feature) {
            return Ok(());
        }
        if self.features().is_ok_and(|here| here.contains(feature)) {
            let hint = "The program that made the device did not ask for it.";
            return Err(Error::Refused { id: info.dev_id, problem: format!("was made without {feature}"), hint });
        }
        Err(Error::from_answer(op, info.dev_id, libc::EOPNOTSUPP))
    }
}

/// One recovery of this machine at a time is between START_USER_RECOVERY and its hold on the char device: a second START_USER_RECOVERY in
/// between is taken by some drivers, and more than some others can take (before 6.16 they follow a null pointer). It goes with its process.
pub(crate) struct Turn {
    _lock: Option<File>,
}

impl Turn {
    /// Who keeps it for long delays others, and no more.
    fn take() -> Turn {
        let until = Instant::now() + TURN_LIMIT;
        let lock = File::open(CONTROL_PATH).ok();
        while let Some(file) = &lock {
            match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(RELEASE_POLL),
                _ => break,
            }
        }
        Turn { _lock: lock }
    }
}

fn live(info: &DevInfo) -> Error {
    let problem = format!("is live: process {} serves it", info.ublksrv_pid);
    let hint = "Quiesce it (`ublk quiesce`) for another server to take it over, or end its server first.";
    Error::Refused { id: info.dev_id, problem, hint }
}

fn dead(id: DeviceId, done: &str) -> Error {
    let hint = "It is not served and keeps no requests. Start it, or remove it (`ublk del`) and make a new one.";
    Error::Refused { id, problem: format!("is dead: it cannot be {done}"), hint }
}

/// False for a process that has ended, is a zombie (its threads may still end), or is none that can be seen from here.
fn runs(pid: i32) -> bool {
    let stat = if pid > 0 { std::fs::read_to_string(format!("/proc/{pid}/stat")) } else { return false };
    // The state comes after the name, which is in brackets and may hold any character.
    let state = stat.ok().and_then(|stat| stat.rsplit(") ").next().and_then(|rest| rest.chars().next()));
    !matches!(state, None | Some('Z' | 'X'))
}
