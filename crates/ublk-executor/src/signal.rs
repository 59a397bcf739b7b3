//! Signals as something to wait for, rather than as interruptions.
//!
//! They are blocked in the thread, so that the kernel keeps them until they are read from a descriptor (signalfd).

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use io_uring::{opcode, types};

use crate::io::operation::start;
use crate::reactor::OpKind;

/// Receives signals of this process, in place of what they would do.
///
/// Make it first thing in `main`, before any other thread: it blocks the signals in the calling thread alone, and threads that are made
/// afterwards take that over. A thread that does not block them would get them instead, and they would end the process as before. Child
/// processes take the block over, too.
///
/// Dropping it discards what was not received, and unblocks what it had blocked, in this thread; threads made meanwhile keep the block.
///
/// ```no_run
/// use ublk_executor::LocalExecutor;
/// use ublk_executor::signal::Signals;
///
/// let signals = Signals::new(&[libc::SIGINT, libc::SIGTERM])?;
/// let signal = LocalExecutor::new()?.block_on(signals.recv())??;
/// println!("ended by signal {signal}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Signals {
    pending: Arc<OwnedFd>,
    /// Those of them that were not blocked before.
    blocked: libc::sigset_t,
    /// The mask is the thread's.
    not_send: PhantomData<*const ()>,
}

assert_not_impl!(Signals, Send);

impl Signals {
    /// Blocks the signals in this thread and takes them in. Needs no executor.
    ///
    /// # Errors
    /// InvalidInput for a number that is no signal, and for SIGKILL and SIGSTOP, which no process receives. EMFILE and ENFILE: no
    /// descriptor left.
    pub fn new(signals: &[i32]) -> io::Result<Signals> {
        let wanted = set_of(signals)?;
        // SAFETY: `wanted` is initialised, and lives across the call.
        let fd = unsafe { libc::signalfd(-1, &raw const wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let pending = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        let before = mask(libc::SIG_BLOCK, &wanted)?;
        // SAFETY: `before` is initialised.
        let is_new = |signal: &i32| unsafe { libc::sigismember(&raw const before, *signal) } == 0;
        let new: Vec<i32> = signals.iter().copied().filter(is_new).collect();
        Ok(Signals { pending, blocked: set_of(&new)?, not_send: PhantomData })
    }

    /// The number of the next signal; waits for it. The same signal sent again before it was received counts once. Cancel-safe: a signal
    /// that was not returned stays.
    ///
    /// # Errors
    /// The ring's, when it refuses the operation.
    ///
    /// # Panics
    /// Outside of an executor, or when the executor of its first poll has ended.
    pub async fn recv(&self) -> io::Result<i32> {
        loop {
            if let Some(signal) = self.take()? {
                return Ok(signal);
            }
            let fd = types::Fd(self.pending.as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            // SAFETY: POLL_ADD points to no memory; the operation owns the descriptor.
            let operation = unsafe { start(entry, OpKind::Cancelable, Arc::clone(&self.pending)) };
            operation.await.0?;
        }
    }

    fn take(&self) -> io::Result<Option<i32>> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.pending, &mut info)) {
            // `ssi_signo`, a u32, comes first.
            Ok(_) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Or they would be delivered now.
        while let Ok(Some(_)) = self.take() {}
        let _ = mask(libc::SIG_UNBLOCK, &self.blocked);
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Signals({})", self.pending.as_raw_fd())
    }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that it is given.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: the set is initialised.
        let answer = unsafe { libc::sigaddset(&raw mut set, signal) };
        if answer != 0 || matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            let rule = format!("signal {signal} cannot be received");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, rule));
        }
    }
    Ok(set)
}

/// Changes the mask of this thread; the mask before.
fn mask(how: i32, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: `set` is initialised, `before` is room for a set; both live across the call.
    match unsafe { libc::pthread_sigmask(how, ptr::from_ref(set), before.as_mut_ptr()) } {
        // SAFETY: the call has succeeded, and filled it.
        0 => Ok(unsafe { before.assume_init() }),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
