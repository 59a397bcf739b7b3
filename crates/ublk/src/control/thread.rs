//! The thread that talks to `/dev/ublk-control`.
//!
//! Thread: its own, with an SQE128 ring, because the driver takes control commands in no other and because most are worked off by the
//! kernel's io-wq and may hang there on a faulty kernel. Callers wait on a condition variable, never in the ring.
//! It ends after an idle second and is started again by the next command: io-wq would wake its worker every five seconds for ever.
//! Invariant: a command's buffer lives in `Inbox::open` from submission to completion; a caller that gave up leaves it there.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue::Entry128, types};
use ublk_executor::{Completion, Ring, RingOptions, Wait, Waker};
use ublk_uapi::{CtrlCmd, CtrlOp};

use super::opcodes::Opcodes;
use crate::Error;

const RING_ENTRIES: u32 = 64;
pub(super) const CONTROL_PATH: &str = "/dev/ublk-control";
/// After a cancel, how long the driver may take to let go before it counts as stuck.
const CANCEL_LIMIT: Duration = Duration::from_millis(500);
/// The same for DEL_DEV: the driver removes one device at a time, and a removal whose turn has not come cannot be cancelled.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// Without a command for so long, the thread ends.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// One command on its way.
struct Call {
    /// The number of the operation, as this kernel takes it.
    code: u32,
    command: CtrlCmd,
    buffer: Vec<u8>,
    reply: Arc<Reply>,
}

#[derive(Default)]
struct Reply {
    answer: Mutex<Option<(i32, Vec<u8>)>>,
    arrived: Condvar,
}

enum Job {
    Call(u64, Call),
    Cancel(u64),
}

#[derive(Default)]
struct Inbox {
    jobs: VecDeque<Job>,
    next_key: u64,
    /// A thread takes what is put in here.
    is_served: bool,
}

impl Inbox {
    fn withdraw(&mut self, key: u64) {
        self.jobs.retain(|job| !matches!(job, Job::Call(other, _) if *other == key));
    }
}

/// The control plane of the process: what its callers and its thread share. The thread holds it too, so that devices that come and go
/// find it at work; it goes when the thread is idle and nobody holds it.
pub(super) struct ControlThread {
    device: File,
    inbox: Mutex<Inbox>,
    waker: Waker,
    /// Held while a thread is being started.
    starting: Mutex<()>,
    /// Known from the first command on.
    pub(super) opcodes: OnceLock<Opcodes>,
}

impl ControlThread {
    pub(super) fn start() -> Result<Arc<ControlThread>, Error> {
        let device = open_control()?;
        let waker = Waker::new().map_err(|source| Error::Kernel { id: None, call: "eventfd2", source })?;
        let (inbox, starting, opcodes) = (Mutex::default(), Mutex::default(), OnceLock::new());
        let control = Arc::new(ControlThread { device, inbox, waker, starting, opcodes });
        control.ensure_served()?;
        Ok(control)
    }

    /// Starts the thread if it has ended.
    fn ensure_served(self: &Arc<Self>) -> Result<(), Error> {
        let _starting = lock(&self.starting);
        if lock(&self.inbox).is_served {
            return Ok(());
        }
        // From here on the new thread is the one to take this back.
        lock(&self.inbox).is_served = true;
        spawn(self).inspect_err(|_| lock(&self.inbox).is_served = false)
    }

    /// Sends one command and waits. The answer is the command's result and its buffer, which the driver may have filled.
    pub(super) fn call(
        self: &Arc<Self>,
        (op, code): (CtrlOp, u32),
        command: CtrlCmd,
        buffer: Vec<u8>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<(i32, Vec<u8>), Error> {
        let reply = Arc::new(Reply::default());
        let id = command.dev_id;
        let key = {
            let mut inbox = lock(&self.inbox);
            let key = inbox.next_key;
            inbox.next_key += 1;
            let call = Call { code, command, buffer, reply: Arc::clone(&reply) };
            inbox.jobs.push_back(Job::Call(key, call));
            key
        };
        // After the job is in: a thread that ends looks for jobs last.
        self.ensure_served().inspect_err(|_| lock(&self.inbox).withdraw(key))?;
        self.waker.wake();
        if let Some(answer) = reply.wait_until(deadline) {
            return Ok(answer);
        }
        lock(&self.inbox).jobs.push_back(Job::Cancel(key));
        self.waker.wake();
        let cancel_limit = if op == CtrlOp::DelDev { TURN_LIMIT } else { CANCEL_LIMIT };
        match reply.wait_until(Instant::now() + cancel_limit) {
            Some((answer, buffer)) if answer >= 0 => Ok((answer, buffer)),
            Some(_) => Err(Error::Timeout { id, op, limit }),
            None => Err(Error::KernelStuck { id, op, limit }),
        }
    }
}

/// Returns when the ring is there.
fn spawn(control: &Arc<ControlThread>) -> Result<(), Error> {
    let (report, ready) = mpsc::channel();
    let control = Arc::clone(control);
    let serve = move || match Server::new(control) {
        Ok(server) => {
            let _ = report.send(Ok(()));
            server.run();
        }
        Err(error) => {
            let _ = report.send(Err(error));
        }
    };
    std::thread::Builder::new().name("ublk-control".into()).spawn(serve).map_err(|source| Error::Kernel {
        id: None,
        call: "clone",
        source,
    })?;
    ready.recv().unwrap_or_else(|_| Err(gone()))
}

impl Reply {
    fn wait_until(&self, deadline: Instant) -> Option<(i32, Vec<u8>)> {
        let guard = lock(&self.answer);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.arrived.wait_timeout_while(guard, left, |answer| answer.is_none());
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.take()
    }

    fn send(&self, result: i32, buffer: Vec<u8>) {
        *lock(&self.answer) = Some((result, buffer));
        self.arrived.notify_all();
    }
}

/// The thread's own side.
struct Server {
    ring: Ring<Entry128>,
    control: Arc<ControlThread>,
    open: HashMap<u64, Call>,
    batch: Vec<Completion>,
}

impl Server {
    fn new(control: Arc<ControlThread>) -> Result<Server, Error> {
        let ring = Ring::new(RingOptions { submissions: RING_ENTRIES, completions: 4 * RING_ENTRIES })
            .map_err(|error| Error::from_ring(error, None))?;
        Ok(Server { ring, control, open: HashMap::new(), batch: Vec::with_capacity(RING_ENTRIES as usize) })
    }

    fn run(mut self) {
        self.arm_wake();
        loop {
            let wait = if self.open.is_empty() { Wait::AtMost(IDLE_LIMIT) } else { Wait::Forever };
            if self.ring.turn(wait).is_err() {
                break; // the ring is broken: who waits runs into the deadline, who comes gets a new thread
            }
            let mut batch = std::mem::take(&mut self.batch);
            self.ring.reap(&mut batch);
            let was_idle = batch.is_empty();
            for completion in batch.drain(..) {
                self.complete(completion);
            }
            self.batch = batch;
            self.take_jobs();
            if self.open.is_empty() && self.may_end(was_idle) {
                return;
            }
        }
        lock(&self.control.inbox).is_served = false;
        // Buffers of open commands may still be written by the kernel: they stay.
        std::mem::forget(std::mem::take(&mut self.open));
    }

    fn may_end(&self, was_idle: bool) -> bool {
        let mut inbox = lock(&self.control.inbox);
        let ends = was_idle && inbox.jobs.is_empty();
        inbox.is_served = !ends;
        ends
    }

    fn complete(&mut self, completion: Completion) {
        match completion.user_data {
            WAKE if completion.more() => {}
            WAKE => self.arm_wake(),
            CANCEL => {}
            key => {
                if let Some(call) = self.open.remove(&key) {
                    call.reply.send(completion.result, call.buffer);
                }
            }
        }
    }

    fn take_jobs(&mut self) {
        self.control.waker.clear();
        loop {
            let job = lock(&self.control.inbox).jobs.pop_front();
            match job {
                Some(Job::Call(key, call)) => self.submit(key, call),
                Some(Job::Cancel(key)) => self.cancel(key),
                None => return,
            }
        }
    }

    #[allow(unsafe_code)]
    fn submit(&mut self, key: u64, mut call: Call) {
        let mut command = call.command;
        if !call.buffer.is_empty() {
            command = command.with_buffer(call.buffer.as_mut_ptr() as u64, call.buffer.len() as u16);
        }
        let entry = opcode::UringCmd80::new(types::Fd(self.control.device.as_raw_fd()), call.code)
            .cmd(command.to_sqe_bytes())
            .build()
            .user_data(key);
        // SAFETY: the entry points into `call.buffer`, whose heap block does not move with the Vec; `self.open` keeps it until the completion.
        let pushed = unsafe { self.ring.push(&entry) };
        match pushed {
            Ok(()) => {
                self.open.insert(key, call);
            }
            Err(error) => call.reply.send(-error.errno().unwrap_or(libc::EIO), call.buffer),
        }
    }

    #[allow(unsafe_code)]
    fn cancel(&mut self, key: u64) {
        let entry: Entry128 = opcode::AsyncCancel::new(key).build().user_data(CANCEL).into();
        // SAFETY: ASYNC_CANCEL points to no memory.
        let _ = unsafe { self.ring.push(&entry) };
    }

    #[allow(unsafe_code)]
    fn arm_wake(&mut self) {
        let fd = types::Fd(self.control.waker.as_fd().as_raw_fd());
        let entry: Entry128 = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build().user_data(WAKE).into();
        // SAFETY: POLL_ADD points to no memory.
        let _ = unsafe { self.ring.push(&entry) };
    }
}

fn open_control() -> Result<File, Error> {
    File::options().read(true).write(true).open(CONTROL_PATH).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::DriverMissing,
        Some(errno @ (libc::EACCES | libc::EPERM)) => Error::Permission { what: CONTROL_PATH.into(), id: None, errno },
        _ => Error::Kernel { id: None, call: "open(/dev/ublk-control)", source },
    })
}

fn gone() -> Error {
    Error::Kernel { id: None, call: "clone", source: std::io::ErrorKind::BrokenPipe.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
