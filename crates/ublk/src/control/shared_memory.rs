//! REG_BUF and UNREG_BUF: memory that a device's users share with its server, so that their requests need no copy.
//!
//! The driver takes note of the pages behind an address and pins them; it neither reads nor writes through the address, and it keeps the
//! pages when the mapping goes. So these are calls like any other, and safe ones.

use ublk_uapi::{CtrlCmd, CtrlOp, Features, ShmemBufFlags, ShmemBufReg};
use zerocopy::IntoBytes;

use super::Control;
use crate::{DeviceId, Error};

impl Control {
    /// REG_BUF (7.1): requests on these pages carry their place, the index and an offset, in their descriptor from now on. Pins
    /// `len_bytes` from `address` on, both whole pages, at most 4 GiB; `flags` asks for a pin that does not need the right to write.
    /// Answers the index.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before 7.1; [`Error::InvalidState`] for a device without `SHMEM_ZC`; [`Error::Kernel`] with EINVAL for a
    /// range that is not whole pages, EFAULT for one that is not mapped; [`Error::NoMemory`]; else as [`Control::stop`].
    pub fn register_shared_memory(
        &self,
        id: DeviceId,
        address: u64,
        len_bytes: u64,
        flags: ShmemBufFlags,
    ) -> Result<u16, Error> {
        let buffer = ShmemBufReg { addr: address, len: len_bytes, flags, reserved: 0 };
        let mut bytes = buffer.as_bytes().to_vec();
        let index = self
            .run(CtrlOp::RegBuf, CtrlCmd::for_device(id), &mut bytes)
            .map_err(|error| self.without_shared_memory(id, error))?;
        Ok(index as u16) // the driver has 2^16 of them
    }

    /// UNREG_BUF (7.1): the driver waits for requests that are under way, forgets the buffer and lets its pages go.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ENOENT for an index that is not registered; else as [`Control::register_shared_memory`].
    pub fn unregister_shared_memory(&self, id: DeviceId, index: u16) -> Result<(), Error> {
        let command = CtrlCmd::for_device(id).with_data(u64::from(index));
        self.run(CtrlOp::UnregBuf, command, &mut Vec::new())
            .map(drop)
            .map_err(|error| self.without_shared_memory(id, error))
    }

    /// EOPNOTSUPP has two meanings: the kernel lacks the command, or the device the feature.
    fn without_shared_memory(&self, id: DeviceId, error: Error) -> Error {
        match error {
            Error::Unsupported { .. } if self.features().is_ok_and(|here| here.contains(Features::SHMEM_ZC)) => {
                Error::InvalidState { id, problem: "was made without SHMEM_ZC" }
            }
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use ublk_executor::Mapping;
    use ublk_uapi::{DevInfo, ParamBasic, Params, Sectors};

    use super::*;

    const PAGES_BYTES: usize = 2 << 20;

    fn add(control: &Control, flags: Features) -> DeviceId {
        let info = DevInfo {
            nr_hw_queues: 1,
            queue_depth: 4,
            max_io_buf_bytes: 512 << 10,
            dev_id: u32::MAX,
            flags: Features::CMD_IOCTL_ENCODE | flags,
            ..DevInfo::default()
        };
        let id = control.add(&info).unwrap().dev_id;
        let basic = ParamBasic {
            logical_bs_shift: 9,
            physical_bs_shift: 12,
            max_sectors: 1024,
            dev_sectors: Sectors(2048),
            ..ParamBasic::default()
        };
        control.set_params(id, &Params::new(basic)).unwrap();
        id
    }

    #[test]
    #[ignore = "needs a ublk kernel"]
    fn memory_is_registered_under_an_index_and_let_go_again() {
        let control = Control::open().unwrap();
        let id = add(&control, Features::SHMEM_ZC);
        let memory = Mapping::new(PAGES_BYTES).unwrap();
        let address = memory.address(0, PAGES_BYTES);
        let register = |address, length| control.register_shared_memory(id, address, length, ShmemBufFlags::empty());
        if !control.features().unwrap().contains(Features::SHMEM_ZC) {
            let error = register(address, PAGES_BYTES as u64).unwrap_err();
            assert!(matches!(error, Error::Unsupported { since: "7.1", .. }), "{error}");
        } else {
            let first = register(address, 4096).unwrap();
            let second = register(address + 4096, PAGES_BYTES as u64 - 4096).unwrap();
            assert_ne!(first, second);
            control.unregister_shared_memory(id, first).unwrap();
            let gone = control.unregister_shared_memory(id, first).unwrap_err();
            assert_eq!(gone.errno(), Some(-libc::ENOENT), "{gone}");
            assert_eq!(register(address, 4096).unwrap(), first);
            for (address, length, errno) in
                [(address + 1, 4096, libc::EINVAL), (address, 0, libc::EINVAL), (4096, 4096, libc::EFAULT)]
            {
                let error = register(address, length).unwrap_err();
                assert_eq!((error.errno(), error.syscall()), (Some(-errno), Some("REG_BUF")), "{error}");
            }
            control.unregister_shared_memory(id, second).unwrap();
        }
        assert!(matches!(control.delete(id), Ok(super::super::Deletion::Done)));
    }

    #[test]
    #[ignore = "needs a ublk kernel"]
    fn a_device_without_the_feature_and_one_that_is_not_there_say_so() {
        let control = Control::open().unwrap();
        let id = add(&control, Features::empty());
        let error = control.register_shared_memory(id, 4096, 4096, ShmemBufFlags::empty()).unwrap_err();
        match control.features().unwrap().contains(Features::SHMEM_ZC) {
            true => assert!(matches!(error, Error::InvalidState { .. }), "{error}"),
            false => assert!(matches!(error, Error::Unsupported { since: "7.1", .. }), "{error}"),
        }
        control.delete(id).unwrap();
        if control.features().unwrap().contains(Features::SHMEM_ZC) {
            let error = control.unregister_shared_memory(4000, 0).unwrap_err();
            assert!(matches!(error, Error::NoDevice { id: 4000 }), "{error}");
        }
    }
}
