//! Memory that a device's users share with its server: registered with the driver, and let go of, at any time of the device's life.
//!
//! Thread: as the device's. The queues go on meanwhile; the driver holds requests back while it changes what it recognises.

use std::path::Path;
use std::sync::Arc;

use super::{BufferMode, Device};
use crate::shared_memory::{MOST_SHARED, SharedMemory};
use crate::{DeviceId, Error};

/// Memory that the users of a device share with it, as its former server knew it.
#[derive(Debug, Clone)]
pub struct FormerMemory {
    /// The driver's number.
    pub number: u16,
    /// None: the file is there no more, or another one has its path.
    pub memory: Option<Arc<SharedMemory>>,
}

impl Device {
    /// What is shared with a device that was recovered: the driver still knows its pages, and cannot tell which they are. Call it before
    /// `open`. Requests from memory that is not there any more fail, until the device is live and the driver forgets it.
    ///
    /// # Errors
    /// [`Error::Refused`] for a device in another buffer mode, and for a number that is given twice or that no device has.
    pub fn take_shared_memory(&mut self, former: Vec<FormerMemory>) -> Result<(), Error> {
        if !former.is_empty() {
            self.check_shares()?;
        }
        for FormerMemory { number, memory } in former {
            if usize::from(number) >= MOST_SHARED
                || self.lost_memory.contains(&number)
                || self.shared_memory.has(number)
            {
                let problem = format!("does not share memory of the number {number}, or not twice");
                return Err(Error::Refused { id: self.id(), problem, hint: "Give what its former server had." });
            }
            match memory {
                Some(memory) => {
                    self.shared_memory.insert(number, Arc::clone(&memory));
                    self.spec.shared_memory.push(memory);
                }
                None => self.lost_memory.push(number),
            }
        }
        Ok(())
    }

    /// Of a device that was recovered: has the driver forget what no server can map any more, and what the former one registered and
    /// nobody was told of, as when it died just then. What the driver does not let go of stays unusable, as it is.
    pub(super) fn forget_lost_memory(&mut self) {
        let lost = std::mem::take(&mut self.lost_memory);
        for &number in &lost {
            let _ = self.control.unregister_shared_memory(self.id(), number);
        }
        // The driver gives the lowest number that is free, so the first that it does not know is the end of those.
        let room = if self.buffers == BufferMode::SharedMemory { MOST_SHARED as u16 } else { 0 };
        let untold = (0..room).filter(|number| !lost.contains(number) && !self.shared_memory.has(*number));
        for number in untold {
            if self.control.unregister_shared_memory(self.id(), number).is_err() {
                break;
            }
        }
    }

    /// What the device's users share with it now, by the driver's number.
    pub fn shared_memory(&self) -> Vec<(u16, Arc<SharedMemory>)> {
        self.shared_memory.list()
    }

    fn check_shares(&self) -> Result<(), Error> {
        if self.buffers == BufferMode::SharedMemory {
            return Ok(());
        }
        let problem = format!("moves its data by {}, not by shmem", self.buffers.name());
        Err(Error::Refused { id: self.id(), problem, hint: "Make it with the data path shmem." })
    }

    /// REG_BUF (7.1): from now on the device's users share this memory too. The driver first waits until the requests that are open are
    /// answered.
    ///
    /// # Errors
    /// [`Error::Refused`] for a device in another buffer mode, and for a file that it shares already; [`Error::BadOption`] for one file more
    /// than [`MOST_SHARED`]; and those of [`Control::register_shared_memory`].
    pub fn share_memory(&mut self, memory: Arc<SharedMemory>) -> Result<(), Error> {
        let id = self.id();
        self.check_shares()?;
        if self.shared_memory.number_of(memory.path()).is_some() {
            return Err(shared_already(id, &memory));
        }
        self.register(&memory)?;
        self.spec.shared_memory.push(memory);
        Ok(())
    }

    pub(super) fn register(&self, memory: &Arc<SharedMemory>) -> Result<(), Error> {
        let (id, table) = (self.id(), &self.shared_memory);
        let Some(number) = table.free_number() else {
            return Err(Error::BadOption {
                rule: format!("device {id} shares {MOST_SHARED} files, and can share no more"),
            });
        };
        // The driver gives the lowest free number too, and requests may come with it before its answer does.
        table.insert(number, Arc::clone(memory));
        let (address, length, flags) = memory.registration();
        let error = match self.control.register_shared_memory(id, address, length, flags) {
            Ok(given) if given == number => return Ok(()),
            Ok(given) => {
                self.control.unregister_shared_memory(id, given)?;
                let problem = format!("has memory of another program, which took the number {number}");
                Error::Refused { id, problem, hint: "Register all of its memory by this process." }
            }
            // The command may be carried out yet, and requests come with the number: it stays taken.
            Err(error @ Error::KernelStuck { .. }) => return Err(error),
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                shared_already(id, memory)
            }
            Err(error) => error,
        };
        #[allow(unsafe_code)]
        // SAFETY: the driver has not taken it, or has let go of it again.
        unsafe {
            table.remove(number);
        }
        Err(error)
    }

    /// UNREG_BUF (7.1): the users of the device no longer share the memory of this file; what they read and write from there is copied. The
    /// driver waits for the requests that are open, and the memory is unmapped then.
    ///
    /// # Errors
    /// [`Error::Refused`] for a file that is not shared; those of [`Control::unregister_shared_memory`], and it is shared as before then.
    pub fn unshare_memory(&mut self, path: &Path) -> Result<(), Error> {
        let id = self.id();
        let Some(number) = self.shared_memory.number_of(path) else {
            let problem = format!("shares no memory of {}", path.display());
            return Err(Error::Refused { id, problem, hint: "`ublk shmem ID` shows what it shares." });
        };
        self.control.unregister_shared_memory(id, number)?;
        #[allow(unsafe_code)]
        // SAFETY: the driver has answered UNREG_BUF: it has waited for the requests with this number, and gives it to no other.
        unsafe {
            self.shared_memory.remove(number);
        }
        self.spec.shared_memory.retain(|memory| memory.path() != path);
        Ok(())
    }
}

fn shared_already(id: DeviceId, memory: &SharedMemory) -> Error {
    let problem = format!("shares the memory of {} already", memory.path().display());
    Error::Refused { id, problem, hint: "`ublk shmem ID` shows what it shares." }
}
