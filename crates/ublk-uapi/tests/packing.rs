//! Packings go there and back, refuse what does not fit, and keep what they do not know.

use proptest::prelude::*;
use ublk_uapi::*;
use zerocopy::{FromBytes, IntoBytes};

prop_compose! {
    fn positions()(queue_id in 0..MAX_NR_QUEUES, tag: u16, offset_bytes in 0..MAX_IO_BUF_BYTES, integrity: bool) -> IoBufPosition {
        IoBufPosition { queue_id, tag, offset_bytes, integrity }
    }
}

proptest! {
    #[test]
    fn a_position_of_data_unpacks_to_what_was_packed(position in positions()) {
        prop_assert_eq!(IoBufPosition::unpack(position.pack()?), Ok(position));
    }

    #[test]
    fn a_number_is_a_position_only_if_packing_makes_it(number: u64, near in positions(), flipped_bit in 0..64) {
        for number in [number, near.pack()? ^ (1_u64 << flipped_bit)] {
            match IoBufPosition::unpack(number) {
                Ok(position) => prop_assert_eq!(position.pack(), Ok(number)),
                Err(error) => prop_assert_eq!(error, OffsetError::Position(number)),
            }
        }
    }

    #[test]
    fn a_queue_or_byte_over_the_limit_is_refused_by_name(
        position in positions(), queue_id in MAX_NR_QUEUES.., offset_bytes in MAX_IO_BUF_BYTES..
    ) {
        let far_queue = IoBufPosition { queue_id, ..position };
        prop_assert_eq!(far_queue.pack(), Err(OffsetError::QueueId(queue_id)));
        let far_byte = IoBufPosition { offset_bytes, ..position };
        prop_assert_eq!(far_byte.pack(), Err(OffsetError::OffsetBytes(offset_bytes)));
    }

    #[test]
    fn the_bytes_of_one_request_are_consecutive(position in positions(), step in 0..MAX_IO_BUF_BYTES) {
        let start = IoBufPosition { offset_bytes: 0, ..position };
        let later = IoBufPosition { offset_bytes: step, ..position };
        prop_assert_eq!(later.pack()? - start.pack()?, u64::from(step));
    }

    #[test]
    fn auto_buf_reg_keeps_every_bit_of_an_sqe_addr(addr: u64, index: u16, flags: u8) {
        prop_assert_eq!(AutoBufReg::from_sqe_addr(addr).to_sqe_addr(), addr);
        let reg = AutoBufReg::new(index, AutoBufRegFlags::from_bits_retain(flags));
        prop_assert_eq!(AutoBufReg::from_sqe_addr(reg.to_sqe_addr()), reg);
    }

    #[test]
    fn a_place_in_shared_memory_unpacks_to_what_was_packed(index: u16, offset_bytes: u32) {
        let position = ShmemPosition { index, offset_bytes };
        prop_assert_eq!(ShmemPosition::from_addr(position.to_addr()), position);
    }

    #[test]
    fn a_descriptor_splits_into_operation_and_flags_in_place(op_flags: u32) {
        let desc = IoDesc { op_flags, ..Default::default() };
        prop_assert_eq!(u32::from(desc.op_code()) | desc.flags().bits(), op_flags);
        prop_assert_eq!(desc.flags().bits() & 0xff, 0);
        prop_assert_eq!(desc.op().map(IoOp::code).unwrap_or_else(|unknown| unknown.code as u8), desc.op_code());
    }

    #[test]
    fn a_descriptor_area_is_whole_pages_and_never_reaches_the_next_queue(
        depth in 1..=MAX_QUEUE_DEPTH, queue_id in 0..MAX_NR_QUEUES, page_shift in 12..=16_u32
    ) {
        let page_bytes = 1 << page_shift;
        let area = descriptor_area_bytes(depth, page_bytes);
        let used = u64::from(depth) * size_of::<IoDesc>() as u64;
        prop_assert!(area.is_multiple_of(page_bytes) && area >= used && area - used < page_bytes);
        let (here, next) = (descriptor_area_offset_bytes(queue_id, page_bytes), descriptor_area_offset_bytes(queue_id + 1, page_bytes));
        prop_assert!(here.is_multiple_of(page_bytes) && here + area <= next && next <= IO_BUF_OFFSET_BYTES);
    }

    #[test]
    fn commands_survive_the_sqe(bytes: [u8; 32], tail: u8) {
        let ctrl = CtrlCmd::read_from_bytes(&bytes).unwrap();
        let mut sqe = ctrl.to_sqe_bytes();
        prop_assert_eq!(&sqe[..32], &bytes);
        prop_assert_eq!(&sqe[32..], &[0; 48]);
        sqe[32..].fill(tail);
        prop_assert_eq!(CtrlCmd::from_sqe_bytes(&sqe), ctrl);

        let half: [u8; 16] = bytes[..16].try_into().unwrap();
        prop_assert_eq!(IoCmd::from_sqe_bytes(&half).to_sqe_bytes(), half);
        prop_assert_eq!(BatchIo::from_sqe_bytes(&half).to_sqe_bytes(), half);
    }

    #[test]
    fn sectors_are_512_bytes(sectors in 0..=u64::MAX / SECTOR_BYTES, odd in 1..SECTOR_BYTES) {
        let bytes = Sectors(sectors).to_bytes();
        prop_assert_eq!(bytes, sectors * 512);
        prop_assert_eq!(Sectors::from_bytes(bytes), Some(Sectors(sectors)));
        prop_assert_eq!(Sectors::from_bytes(bytes.saturating_sub(SECTOR_BYTES) + odd), None);
    }
}

/// A stride that follows the depth would make every queue serve the requests of queue 0.
#[test]
fn the_stride_of_descriptor_areas_is_that_of_the_deepest_queue() {
    assert_eq!(descriptor_area_stride_bytes(4096), 98_304);
    assert_eq!(descriptor_area_stride_bytes(65_536), 131_072);
    assert_eq!(descriptor_area_offset_bytes(3, 4096), 3 * 98_304);
    assert_eq!(descriptor_area_bytes(64, 4096), 4096);
}

#[test]
fn the_first_queue_and_byte_over_the_limit_are_refused() {
    let last = IoBufPosition { queue_id: 4095, offset_bytes: (32 << 20) - 1, ..Default::default() };
    assert!(last.pack().is_ok());
    assert_eq!(IoBufPosition { queue_id: 4096, ..last }.pack(), Err(OffsetError::QueueId(4096)));
    assert_eq!(IoBufPosition { offset_bytes: 32 << 20, ..last }.pack(), Err(OffsetError::OffsetBytes(32 << 20)));
}

#[test]
fn sectors_past_the_end_of_all_numbers_stay_there() {
    assert_eq!(Sectors(u64::MAX).to_bytes(), u64::MAX);
}

#[test]
fn batch_elements_lie_as_the_driver_reads_them() {
    let layout = |flags: BatchFlags| (flags.elem_bytes(), flags.buf_addr_offset_bytes(), flags.zone_lba_offset_bytes());
    assert_eq!(layout(BatchFlags::AUTO_BUF_REG_FALLBACK), (8, None, None));
    assert_eq!(layout(BatchFlags::HAS_BUF_ADDR), (16, Some(8), None));
    assert_eq!(layout(BatchFlags::HAS_ZONE_LBA), (16, None, Some(8)));
    assert_eq!(layout(BatchFlags::HAS_BUF_ADDR | BatchFlags::HAS_ZONE_LBA), (24, Some(8), Some(16)));
    let commit = BatchIo::of_elements(1, BatchFlags::HAS_BUF_ADDR, 7);
    assert_eq!((commit.q_id, commit.nr_elem, commit.elem_bytes), (1, 7, 16));
    let fetch = BatchIo::fetch(2);
    assert_eq!((fetch.q_id, fetch.nr_elem, fetch.elem_bytes, fetch.flags), (2, 0, 2, BatchFlags::empty()));
}

#[test]
fn a_zone_append_commits_the_sector_in_place_of_the_address() {
    let commit = IoCmd::zone_append_commit(1, 2, 4096, Sectors(99));
    assert_eq!(commit, IoCmd { q_id: 1, tag: 2, result: 4096, addr: 99 });
    assert_eq!(commit.zone_append_lba(), Sectors(99));
}

#[test]
fn params_say_which_parts_they_hold() {
    let basic = ParamBasic { logical_bs_shift: 9, dev_sectors: Sectors(8), ..Default::default() };
    let params = Params::new(basic)
        .with_discard(ParamDiscard { discard_granularity: 512, ..Default::default() })
        .with_zoned(ParamZoned { max_open_zones: 1, ..Default::default() })
        .with_dma_align(ParamDmaAlign { alignment: 511, ..Default::default() })
        .with_segment(ParamSegment { max_segments: 2, ..Default::default() })
        .with_integrity(ParamIntegrity { metadata_size: 8, ..Default::default() });
    assert_eq!(params.len as usize, size_of::<Params>());
    assert_eq!(params.types, ParamTypes::all() - ParamTypes::DEVT);
    assert_eq!((params.basic, params.discard.discard_granularity, params.zoned.max_open_zones), (basic, 512, 1));
    assert_eq!((params.dma_align.alignment, params.segment.max_segments, params.integrity.metadata_size), (511, 2, 8));
    assert_eq!(Params::read_from_bytes(params.as_bytes()), Ok(params));
}

#[test]
fn a_completion_says_what_became_of_the_fetch() {
    let read = [0, 1, -19, -4].map(FetchResult::from_cqe);
    assert_eq!(read, [FetchResult::Request, FetchResult::NeedGetData, FetchResult::Abort, FetchResult::Refused(-4)]);
}
