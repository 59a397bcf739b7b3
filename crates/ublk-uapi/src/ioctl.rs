//! The kernel's `_IOR` and `_IOWR` (`include/uapi/asm-generic/ioctl.h`) for the driver's letter, `'u'`.
//!
//! The driver issues no ioctl. It only uses the encoding, so that a command's number also states the size
//! of its argument.

#[cfg(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "sparc",
    target_arch = "sparc64"
))]
compile_error!("this architecture places the direction bits of an ioctl number elsewhere: extend ioctl.rs");

const READ: u32 = 2;
const WRITE: u32 = 1;

const fn encode(direction: u32, nr: u8, argument_bytes: usize) -> u32 {
    assert!(argument_bytes < 1 << 14, "an ioctl number has 14 bits for the size of the argument");
    direction << 30 | (argument_bytes as u32) << 16 | (b'u' as u32) << 8 | nr as u32
}

/// `_IOR('u', nr, T)`
pub(crate) const fn ior<T>(nr: u8) -> u32 {
    encode(READ, nr, size_of::<T>())
}

/// `_IOWR('u', nr, T)`
pub(crate) const fn iowr<T>(nr: u8) -> u32 {
    encode(READ | WRITE, nr, size_of::<T>())
}
