//! The control plane: commands to `/dev/ublk-control`, each with a deadline.
//!
//! Thread: any but a queue's or JavaScript's. A command may sleep (START_DEV waits until every tag was fetched), so
//! the caller blocks until the answer or the deadline.

mod info;
mod opcodes;
mod recovery;
mod shared_memory;
mod thread;

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ublk_uapi::{CtrlCmd, CtrlOp, DevInfo, FEATURES_BYTES, Features, Params};
use zerocopy::{FromBytes, IntoBytes};

use crate::{DeviceId, Error};
pub use info::{DeviceInfo, ZoneLimits, list};
pub(crate) use opcodes::Opcodes;
use thread::ControlThread;

/// Time for a command that only does arithmetic and allocation in the driver.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Time to ask who serves a device that does not stop.
const BLAME_LIMIT: Duration = Duration::from_secs(1);

/// How long DEL_DEV may wait for those who still hold the device open.
const DELETE_LIMIT: Duration = Duration::from_secs(2);

/// Bytes of a CPU mask: 1024 CPUs, and a multiple of a long as the driver demands.
const CPU_MASK_BYTES: usize = 128;

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The device is gone and its id is free.
    Done,
    /// The device is stopped for good; its id is free when the last process that holds it open lets go.
    WhenReleased,
}

/// Handle of the process's control plane. Its thread ends when it has had nothing to do for a second.
#[derive(Clone)]
pub struct Control {
    thread: Arc<ControlThread>,
}

impl Control {
    /// Opens `/dev/ublk-control` and starts the thread, or takes those that are there.
    ///
    /// # Errors
    /// [`Error::DriverMissing`], [`Error::Permission`], [`Error::IoUringDisabled`], [`Error::NoMemory`].
    pub fn open() -> Result<Control, Error> {
        static RUNNING: Mutex<Weak<ControlThread>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(thread) = running.upgrade() {
            return Ok(Control { thread });
        }
        let thread = ControlThread::start()?;
        *running = Arc::downgrade(&thread);
        Ok(Control { thread })
    }

    /// GET_FEATURES: what this kernel offers. Kernels before 6.5 cannot say.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before 6.5, and those of every command.
    pub fn features(&self) -> Result<Features, Error> {
        let mut bytes = vec![0; FEATURES_BYTES];
        self.run(CtrlOp::GetFeatures, CtrlCmd::for_device(u32::MAX), &mut bytes)?;
        Ok(Features::read_from_bytes(&bytes).unwrap_or_default())
    }

    /// How this kernel numbers its commands. Asked for once; an answer that does not tell is for the command that follows to report.
    pub(crate) fn opcodes(&self) -> Opcodes {
        if let Some(known) = self.thread.opcodes.get() {
            return *known;
        }
        let ask = (CtrlOp::GetFeatures, CtrlOp::GetFeatures.ioctl_code());
        let (command, buffer) = (CtrlCmd::for_device(u32::MAX), vec![0; FEATURES_BYTES]);
        let answer = self.thread.call(ask, command, buffer, Instant::now() + COMMAND_LIMIT, COMMAND_LIMIT);
        match answer.ok().and_then(|(answer, _)| Opcodes::told_by(answer)) {
            Some(told) => *self.thread.opcodes.get_or_init(|| told),
            None => Opcodes::Ioctl,
        }
    }

    /// True when this kernel says that it has a feature.
    pub(crate) fn has(&self, feature: Features) -> bool {
        self.features().is_ok_and(|features| features.contains(feature))
    }

    /// ADD_DEV: `info` names the wishes; the answer is what the driver granted (unknown flags are dropped in silence).
    pub(crate) fn add(&self, info: &DevInfo) -> Result<DevInfo, Error> {
        let mut bytes = info.as_bytes().to_vec();
        self.run(CtrlOp::AddDev, CtrlCmd::for_device(info.dev_id), &mut bytes)?;
        DevInfo::read_from_bytes(&bytes).map_err(|_| short_answer(CtrlOp::AddDev))
    }

    /// GET_DEV_INFO2, the form that works for unprivileged callers too, or GET_DEV_INFO on kernels before 6.3.
    pub(crate) fn dev_info(&self, id: DeviceId) -> Result<DevInfo, Error> {
        match self.dev_info_by_path(id) {
            Err(Error::Unsupported { .. }) => self.dev_info_plain(id),
            // Before 6.3 the answer to what is not known is ENODEV.
            Err(Error::NoDevice { .. }) if self.opcodes() == Opcodes::Legacy => self.dev_info_plain(id),
            answer => answer,
        }
    }

    /// GET_DEV_INFO: by number alone; needs CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// As [`Control::stop`].
    pub fn dev_info_plain(&self, id: DeviceId) -> Result<DevInfo, Error> {
        let mut bytes = vec![0; size_of::<DevInfo>()];
        self.run(CtrlOp::GetDevInfo, CtrlCmd::for_device(id), &mut bytes)?;
        DevInfo::read_from_bytes(&bytes).map_err(|_| short_answer(CtrlOp::GetDevInfo))
    }

    /// GET_DEV_INFO2: the buffer begins with the path of the char device, whose rights decide.
    ///
    /// # Errors
    /// As [`Control::stop`], and [`Error::Unsupported`] before 6.3.
    pub fn dev_info_by_path(&self, id: DeviceId) -> Result<DevInfo, Error> {
        let mut bytes = char_path(id).into_bytes();
        let path_bytes = bytes.len();
        bytes.resize(path_bytes + size_of::<DevInfo>(), 0);
        let command = CtrlCmd::for_device(id).with_dev_path_len(path_bytes as u16);
        self.run(CtrlOp::GetDevInfo2, command, &mut bytes)?;
        DevInfo::read_from_bytes(&bytes[path_bytes..]).map_err(|_| short_answer(CtrlOp::GetDevInfo2))
    }

    /// SET_PARAMS; refused once the device was started.
    pub(crate) fn set_params(&self, id: DeviceId, params: &Params) -> Result<(), Error> {
        let mut bytes = params.as_bytes().to_vec();
        self.run(CtrlOp::SetParams, CtrlCmd::for_device(id), &mut bytes).map(drop)
    }

    /// GET_PARAMS.
    pub(crate) fn params(&self, id: DeviceId) -> Result<Params, Error> {
        let mut bytes = Params::request().as_bytes().to_vec();
        self.run(CtrlOp::GetParams, CtrlCmd::for_device(id), &mut bytes)?;
        Params::read_from_bytes(&bytes).map_err(|_| short_answer(CtrlOp::GetParams))
    }

    /// START_DEV: returns when the block device is live; every queue must be fetching on another thread.
    pub(crate) fn start(&self, id: DeviceId, limit: Duration) -> Result<(), Error> {
        let command = CtrlCmd::for_device(id).with_data(u64::from(std::process::id()));
        self.run_within(limit, CtrlOp::StartDev, command, &mut Vec::new()).map(drop)
    }

    /// STOP_DEV: the block device goes, open or not; requests in flight fail. The char device stays.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::Permission`], [`Error::ServerSilent`] when a process does not answer what is open within 30 s,
    /// [`Error::KernelStuck`] when there is none.
    pub fn stop(&self, id: DeviceId) -> Result<(), Error> {
        self.stop_within(id, COMMAND_LIMIT)
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// As [`Control::stop`].
    pub fn stop_within(&self, id: DeviceId, limit: Duration) -> Result<(), Error> {
        match self.run_within(limit, CtrlOp::StopDev, CtrlCmd::for_device(id), &mut Vec::new()) {
            Err(Error::Timeout { op, limit, .. } | Error::KernelStuck { op, limit, .. }) => {
                Err(self.blame(id, op, limit))
            }
            answer => answer.map(drop),
        }
    }

    /// A stop waits for requests that are open. If somebody has the device, it is that process that does not answer, and not the kernel.
    fn blame(&self, id: DeviceId, op: CtrlOp, limit: Duration) -> Error {
        let mut bytes = vec![0; size_of::<DevInfo>()];
        let asked = self.run_within(BLAME_LIMIT, CtrlOp::GetDevInfo, CtrlCmd::for_device(id), &mut bytes);
        let pid = asked.ok().and_then(|_| DevInfo::read_from_bytes(&bytes).ok()).map_or(0, |info| info.ublksrv_pid);
        match u32::try_from(pid) {
            Ok(pid) if pid > 0 => Error::ServerSilent { id, pid, op, limit },
            _ => Error::KernelStuck { id, op, limit },
        }
    }

    /// TRY_STOP_DEV (7.0): as [`Control::stop`], but only while nobody has the block device open, and nobody can open it meanwhile.
    ///
    /// # Errors
    /// [`Error::Busy`] when it is open or mounted; [`Error::Unsupported`]; else as [`Control::stop`].
    pub fn try_stop(&self, id: DeviceId) -> Result<(), Error> {
        match self.run(CtrlOp::TryStopDev, CtrlCmd::for_device(id), &mut Vec::new()) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                Err(Error::Busy { what: block_path(id), id: Some(id) })
            }
            answer => answer.map(drop),
        }
    }

    /// DEL_DEV: stops the device and removes it. The driver waits for everybody who holds the block or the char device open; after two
    /// seconds that is left to it: the device is dead then, and goes when the last of them lets go.
    ///
    /// # Errors
    /// As [`Control::stop`].
    pub fn delete(&self, id: DeviceId) -> Result<Deletion, Error> {
        match self.run_within(DELETE_LIMIT, CtrlOp::DelDev, CtrlCmd::for_device(id), &mut Vec::new()) {
            Ok(_) => Ok(Deletion::Done),
            Err(Error::Timeout { .. }) => Ok(Deletion::WhenReleased),
            Err(error) => Err(error),
        }
    }

    /// DEL_DEV_ASYNC (6.9): the device goes when its last reference does.
    ///
    /// # Errors
    /// As [`Control::stop`], and [`Error::Unsupported`].
    pub fn delete_async(&self, id: DeviceId) -> Result<(), Error> {
        self.run(CtrlOp::DelDevAsync, CtrlCmd::for_device(id), &mut Vec::new()).map(drop)
    }

    /// GET_QUEUE_AFFINITY: the CPUs whose requests come to this queue, lowest first.
    ///
    /// # Errors
    /// As [`Control::stop`]; a queue that the device has not is [`Error::Kernel`] with EINVAL.
    pub fn queue_affinity(&self, id: DeviceId, queue: u16) -> Result<Vec<usize>, Error> {
        let mut mask = vec![0; CPU_MASK_BYTES];
        let command = CtrlCmd::for_device(id).with_data(u64::from(queue));
        self.run(CtrlOp::GetQueueAffinity, command, &mut mask)?;
        Ok((0..CPU_MASK_BYTES * 8).filter(|cpu| mask[cpu / 8] & (1 << (cpu % 8)) != 0).collect())
    }

    fn run(&self, op: CtrlOp, command: CtrlCmd, buffer: &mut Vec<u8>) -> Result<u32, Error> {
        self.run_within(COMMAND_LIMIT, op, command, buffer)
    }

    /// Sends a command, in the form that the device wants: one of an unprivileged user wants the path of its char device in front of each
    /// command's buffer, whoever sends it, and answers EINVAL without. Answers the result, which is 0 but for REG_BUF.
    fn run_within(&self, limit: Duration, op: CtrlOp, command: CtrlCmd, buffer: &mut Vec<u8>) -> Result<u32, Error> {
        let deadline = Instant::now() + limit;
        let refusal = match self.send(deadline, limit, op, command, buffer) {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                Error::from_answer(op, command.dev_id, libc::EINVAL)
            }
            answer => return answer,
        };
        let has_path = command.dev_path_len > 0 || matches!(op, CtrlOp::AddDev | CtrlOp::GetFeatures);
        if has_path || !self.is_unprivileged(command.dev_id)? {
            return Err(refusal);
        }
        let path = char_path(command.dev_id).into_bytes();
        let mut whole = [&path, &buffer[..]].concat();
        let answer = self.send(deadline, limit, op, command.with_dev_path_len(path.len() as u16), &mut whole);
        *buffer = whole.split_off(path.len().min(whole.len()));
        answer
    }

    /// # Errors
    /// [`Error::Permission`] for another user's device.
    fn is_unprivileged(&self, id: DeviceId) -> Result<bool, Error> {
        match self.dev_info_by_path(id) {
            Ok(info) => Ok(info.flags.contains(Features::UNPRIVILEGED_DEV)),
            Err(error @ Error::Permission { .. }) => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn send(
        &self,
        deadline: Instant,
        limit: Duration,
        op: CtrlOp,
        command: CtrlCmd,
        buffer: &mut Vec<u8>,
    ) -> Result<u32, Error> {
        let code = self.opcodes().of_control(op);
        let code = code.ok_or_else(|| Error::from_answer(op, command.dev_id, libc::EOPNOTSUPP))?;
        let answer = until_answered(deadline, || {
            let (answer, returned) = self.thread.call((op, code), command, std::mem::take(buffer), deadline, limit)?;
            *buffer = returned;
            Ok(answer)
        })?;
        u32::try_from(answer).map_err(|_| Error::from_answer(op, command.dev_id, -answer))
    }
}

/// Repeats a command until it is answered: signals interrupt some commands in the driver (EINTR), and a busy io_uring may ask to come
/// again (EAGAIN).
fn until_answered(deadline: Instant, mut call: impl FnMut() -> Result<i32, Error>) -> Result<i32, Error> {
    loop {
        match call()? {
            answer if matches!(-answer, libc::EINTR | libc::EAGAIN) && Instant::now() < deadline => {}
            answer => return Ok(answer),
        }
    }
}

/// Path of the char device that the server holds.
pub fn char_path(id: DeviceId) -> String {
    format!("/dev/ublkc{id}")
}

/// Path of the block device.
pub fn block_path(id: DeviceId) -> String {
    format!("/dev/ublkb{id}")
}

fn short_answer(op: CtrlOp) -> Error {
    Error::Kernel { id: None, call: op.name(), source: std::io::ErrorKind::UnexpectedEof.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to a command that the driver answers like this, and how often it was sent.
    fn answers(given: &[i32], limit: Duration) -> (i32, usize) {
        let mut sent = 0;
        let answer = until_answered(Instant::now() + limit, || {
            let answer = given[sent.min(given.len() - 1)];
            sent += 1;
            Ok(answer)
        });
        (answer.unwrap(), sent)
    }

    #[test]
    fn a_command_that_a_signal_interrupts_is_sent_again() {
        let minute = Duration::from_secs(60);
        assert_eq!(answers(&[-libc::EINTR, -libc::EINTR, 0], minute), (0, 3));
        assert_eq!(answers(&[-libc::EAGAIN, 7], minute), (7, 2));
    }

    #[test]
    fn a_refusal_is_an_answer_and_interruptions_end_with_the_deadline() {
        assert_eq!(answers(&[-libc::EBUSY, 0], Duration::from_secs(60)), (-libc::EBUSY, 1));
        let (answer, sent) = answers(&[-libc::EINTR], Duration::from_millis(20));
        assert_eq!(answer, -libc::EINTR);
        assert!(sent > 1);
    }
}
