//! Whatever bytes come, from the driver or from who pretends to be it, decoding answers and does not panic.

use proptest::prelude::*;
use ublk_uapi::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Decodes the first bytes, looks at the value with `Debug` (which names flags and codes), and gets the same bytes back.
fn decode<T: FromBytes + IntoBytes + Immutable + KnownLayout + std::fmt::Debug>(bytes: &[u8]) -> T {
    let (value, _) = T::read_from_prefix(bytes).expect("enough bytes");
    assert!(!format!("{value:?}").is_empty());
    assert_eq!(value.as_bytes(), &bytes[..size_of::<T>()]);
    value
}

/// Enough for the largest struct.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 256)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_bytes_are_a_struct_of_the_driver(bytes in bytes()) {
        let _ = decode::<DevInfo>(&bytes).state();
        let _ = decode::<Params>(&bytes);
        let _ = decode::<ParamIntegrity>(&bytes).checksum();
        let _ = decode::<CtrlCmd>(&bytes);
        let _ = decode::<ElemHeader>(&bytes);
        let _ = decode::<ShmemBufReg>(&bytes);
        let zone = decode::<Zone>(&bytes);
        let _ = (zone.zone_type(), zone.cond());
        let batch = decode::<BatchIo>(&bytes);
        let flags = batch.flags;
        prop_assert!(flags.elem_bytes() >= 8 && flags.elem_bytes() <= 24);
        for offset in [flags.buf_addr_offset_bytes(), flags.zone_lba_offset_bytes()].into_iter().flatten() {
            prop_assert!(offset + 8 <= usize::from(flags.elem_bytes()));
        }
    }

    #[test]
    fn any_bytes_are_a_request(bytes in bytes()) {
        let request = decode::<IoDesc>(&bytes);
        if let Ok(op) = request.op() {
            prop_assert_eq!(op.code(), request.op_code());
        }
        prop_assert_eq!(request.flags().bits() | u32::from(request.op_code()), request.op_flags);
        prop_assert!(request.start_sector.to_bytes() >= request.start_sector.0);
        prop_assert!(request.length().to_bytes() >= u64::from(request.nr_zones()));
        let position = ShmemPosition::from_addr(request.addr);
        prop_assert_eq!(ShmemPosition::from_addr(position.to_addr()), position);
    }

    #[test]
    fn any_bytes_of_an_sqe_are_a_command(control: [u8; CtrlCmd::SQE_BYTES], io: [u8; IoCmd::SQE_BYTES], batch: [u8; BatchIo::SQE_BYTES]) {
        let (control, io, batch) = (CtrlCmd::from_sqe_bytes(&control), IoCmd::from_sqe_bytes(&io), BatchIo::from_sqe_bytes(&batch));
        prop_assert_eq!(CtrlCmd::from_sqe_bytes(&control.to_sqe_bytes()), control);
        prop_assert_eq!(IoCmd::from_sqe_bytes(&io.to_sqe_bytes()), io);
        prop_assert_eq!(BatchIo::from_sqe_bytes(&batch.to_sqe_bytes()), batch);
        let _ = io.zone_append_lba();
    }

    #[test]
    fn any_number_is_an_answer_a_code_or_flags(number: u64, result: i32) {
        let _ = FetchResult::from_cqe(result);
        let _ = IoBufPosition::unpack(number);
        let _ = AutoBufReg::from_sqe_addr(number);
        let features = Features::from_bits_retain(number);
        prop_assert_eq!(format!("{features}").is_empty(), number == 0);
        for code in number.to_le_bytes() {
            let _ = (IoOp::try_from(code).map(|op| op.to_string()), IntegrityChecksum::try_from(code), ZoneType::try_from(code), ZoneCond::try_from(code));
        }
    }
}
