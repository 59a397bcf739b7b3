//! The interface between the Linux ublk driver and a block server in user space: Linux 7.2's
//! `include/uapi/linux/ublk_cmd.h`, and the few lines of `blkzoned.h` and `fs.h` that it refers to.
//!
//! Job: numbers, layouts and bit packings. No I/O, no allocation, no unsafe, no policy.
//! Thread: any; everything here is plain data.
//! Invariant: every size, offset and value equals what a C compiler says of the real header
//! (`tests/header`), and every name of that header has a counterpart here.
//!
//! Structs keep the kernel's field names. Each turns into command bytes and back without unsafe by the
//! [`zerocopy`] traits; the three that travel inside an SQE also have `to_sqe_bytes`/`from_sqe_bytes`.
//!
//! ```
//! use ublk_uapi::{CtrlCmd, CtrlOp, DevInfo};
//! use zerocopy::IntoBytes;
//!
//! let mut info = DevInfo { nr_hw_queues: 2, queue_depth: 128, dev_id: u32::MAX, ..Default::default() };
//! let command = CtrlCmd::for_device(info.dev_id)
//!     .with_buffer(info.as_mut_bytes().as_mut_ptr() as u64, size_of::<DevInfo>() as u16);
//! let (opcode, bytes) = (CtrlOp::AddDev.ioctl_code(), command.to_sqe_bytes());
//! assert_eq!((opcode, bytes.len()), (0xc020_7504, 80));
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod kernel_enum;
mod kernel_flags;

mod batch;
mod buffer;
mod command;
mod feature;
mod integrity;
mod io;
mod ioctl;
mod offset;
mod params;
mod request;
mod sectors;
mod shmem;
mod zone;

pub use batch::{BATCH_FETCH_ELEM_BYTES, BatchFlags, BatchIo, ElemHeader};
pub use buffer::{AutoBufReg, AutoBufRegFlags};
pub use command::{CtrlCmd, CtrlOp, DevInfo, DevState, FEATURES_BYTES, NO_QUEUE};
pub use feature::{FEATURES, FeatureInfo, Features, KernelRelease};
pub use integrity::{IntegrityCapabilities, IntegrityChecksum, ParamIntegrity};
pub use io::{FetchResult, IoCmd, IoCmdOp, RES_ABORT, RES_NEED_GET_DATA, RES_OK};
pub use kernel_enum::UnknownCode;
pub use offset::{
    BUF_BITS, BUF_BITS_MASK, BUF_SHIFT, CMD_BUF_OFFSET_BYTES, INTEGRITY_FLAG, INTEGRITY_FLAG_SHIFT,
    IO_BUF_OFFSET_BYTES, IO_BUF_TOTAL_BITS, IO_BUF_TOTAL_BYTES, IoBufPosition, MAX_IO_BUF_BYTES, MAX_NR_QUEUES,
    MAX_QUEUE_DEPTH, OffsetError, QUEUE_ID_BITS, QUEUE_ID_BITS_MASK, QUEUE_ID_SHIFT, TAG_BITS, TAG_BITS_MASK,
    TAG_SHIFT, descriptor_area_bytes, descriptor_area_offset_bytes, descriptor_area_stride_bytes,
};
pub use params::{
    Attrs, MIN_SEGMENT_BYTES, ParamBasic, ParamDevt, ParamDiscard, ParamDmaAlign, ParamSegment, ParamTypes, ParamZoned,
    Params,
};
pub use request::{IoDesc, IoFlags, IoOp};
pub use sectors::{SECTOR_BYTES, SECTOR_SHIFT, Sectors};
pub use shmem::{
    SHMEM_MAX_BUF_BYTES, SHMEM_ZC_INDEX_MASK, SHMEM_ZC_INDEX_SHIFT, SHMEM_ZC_OFFSET_MASK, ShmemBufFlags, ShmemBufReg,
    ShmemPosition,
};
pub use zone::{Zone, ZoneCond, ZoneType};
