//! How commands are numbered: as ioctls since Linux 6.4, by plain numbers before.

use ublk_uapi::{CtrlOp, IoCmdOp};

/// The numbers that a kernel takes. Those from 6.4 on may have been built without the plain ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcodes {
    /// As ioctls.
    Ioctl,
    /// Plain. There are none for what came with 6.5 and later.
    Legacy,
}

impl Opcodes {
    /// What the answer to GET_FEATURES tells, which is sent as an ioctl: kernels that have it take ioctls, and those from before it, 6.5, take
    /// plain numbers, 6.4 as it comes. None: the answer is about something else.
    pub(super) fn told_by(answer: i32) -> Option<Opcodes> {
        match -answer {
            ..=0 => Some(Opcodes::Ioctl),
            // 6.1 says ENODEV to a number that it does not know.
            libc::ENODEV | libc::EOPNOTSUPP | libc::EINVAL => Some(Opcodes::Legacy),
            _ => None,
        }
    }

    /// None where there is no such number.
    pub(super) fn of_control(self, op: CtrlOp) -> Option<u32> {
        match self {
            Opcodes::Ioctl => Some(op.ioctl_code()),
            Opcodes::Legacy => op.legacy_code(),
        }
    }

    /// Of a command for one tag. A device for which it has no plain number does not come to be on a kernel that takes no other.
    #[inline(always)]
    pub(crate) fn of_tag(self, op: IoCmdOp) -> u32 {
        match self {
            Opcodes::Ioctl => op.ioctl_code(),
            Opcodes::Legacy => u32::from(op.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::*;
    use crate::control::{Control, ControlThread, block_path};
    use crate::target::mem;
    use crate::{Device, DeviceSpec, Error, spawn_target};

    #[test]
    fn the_answer_to_get_features_tells_which_numbers_a_kernel_takes() {
        assert_eq!(Opcodes::told_by(0), Some(Opcodes::Ioctl));
        for errno in [libc::ENODEV, libc::EOPNOTSUPP, libc::EINVAL] {
            assert_eq!(Opcodes::told_by(-errno), Some(Opcodes::Legacy));
        }
        for errno in [libc::EPERM, libc::EINTR, libc::EAGAIN] {
            assert_eq!(Opcodes::told_by(-errno), None);
        }
    }

    #[test]
    fn plain_numbers_are_those_of_the_first_drivers() {
        assert_eq!(Opcodes::Legacy.of_control(CtrlOp::AddDev), Some(0x04));
        assert_eq!(Opcodes::Legacy.of_control(CtrlOp::GetFeatures), None);
        assert_eq!(
            (Opcodes::Legacy.of_tag(IoCmdOp::FetchReq), Opcodes::Legacy.of_tag(IoCmdOp::NeedGetData)),
            (0x20, 0x22)
        );
        assert_eq!(Opcodes::Ioctl.of_tag(IoCmdOp::FetchReq), IoCmdOp::FetchReq.ioctl_code());
    }

    /// Debian's kernels take both kinds: what a kernel before 6.4 is sent works, and is not sent what has no plain number.
    #[test]
    #[ignore = "needs a ublk kernel"]
    fn plain_numbers_serve_a_device() {
        let thread = ControlThread::start().unwrap();
        thread.opcodes.set(Opcodes::Legacy).unwrap();
        let control = Control { thread };
        let target = mem(1 << 20).unwrap();
        let mut device = Device::add(&control, DeviceSpec::for_target(target.as_ref())).unwrap();
        assert_eq!(device.open().unwrap().opcodes(), Opcodes::Legacy);
        device.close_char();
        let served = spawn_target(&mut device, target, Arc::new(|_| {})).unwrap();
        device.start().unwrap();
        let block = File::options().read(true).write(true).open(block_path(device.id())).unwrap();
        block.write_all_at(&[0x5a; 4096], 8192).unwrap();
        block.sync_data().unwrap();
        let mut bytes = [0; 4096];
        block.read_exact_at(&mut bytes, 8192).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0x5a));
        drop(block);
        assert_eq!(control.dev_info(device.id()).unwrap().dev_id, device.id());
        assert!(matches!(control.features(), Err(Error::Unsupported { since: "6.5", .. })));
        assert!(matches!(control.delete_async(device.id()), Err(Error::Unsupported { since: "6.9", .. })));
        device.stop().unwrap();
        served.join();
        device.close_char();
        device.delete().unwrap();
    }
}
