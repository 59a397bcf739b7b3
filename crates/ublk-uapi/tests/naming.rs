//! Names that people and scripts see are the kernel's, and unknown numbers are told, not hidden.

use ublk_uapi::*;

#[test]
fn the_table_of_features_has_each_of_the_20_once_in_the_order_of_bits() {
    assert_eq!(FEATURES.len(), 20);
    for (bit, feature) in FEATURES.iter().enumerate() {
        assert_eq!(feature.bit() as usize, bit);
        assert_eq!(feature.flag.bits(), 1 << bit, "{}", feature.name);
        assert_eq!(Features::from_name(feature.name), Some(feature.flag));
        assert_eq!(feature.kernel_name, format!("UBLK_F_{}", feature.name));
    }
    let all: Features = FEATURES.iter().map(|feature| feature.flag).collect();
    assert_eq!(all, Features::all());
}

/// Bit 0 was reserved long before it worked; all others came in the order of their bits.
#[test]
fn features_with_higher_bits_came_in_later_releases() {
    assert!(FEATURES[1..].is_sorted_by_key(|feature| feature.since));
    assert_eq!(FEATURES[0].since.to_string(), "6.15");
}

#[test]
fn flags_show_as_names_and_unknown_bits_as_numbers() {
    let flags = Features::CMD_IOCTL_ENCODE | Features::ZONED | Features::from_bits_retain(1 << 40);
    assert_eq!(flags.to_string(), "CMD_IOCTL_ENCODE | ZONED | 0x10000000000");
    assert_eq!(format!("{:?}", BatchFlags::HAS_BUF_ADDR), "BatchFlags(HAS_BUF_ADDR)");
    assert!(flags.iter_names().map(|(name, _)| name).eq(["CMD_IOCTL_ENCODE", "ZONED"]));
}

#[test]
fn states_and_operations_have_the_names_that_people_see() {
    let states: Vec<String> = DevState::ALL.iter().map(DevState::to_string).collect();
    assert_eq!(states, ["dead", "live", "quiesced", "fail_io"]);
    assert_eq!(IoOp::WriteZeroes.to_string(), "WRITE_ZEROES");
    assert_eq!(CtrlOp::GetDevInfo2.to_string(), "GET_DEV_INFO2");
    assert_eq!(IoCmdOp::CommitAndFetchReq.to_string(), "COMMIT_AND_FETCH_REQ");
}

#[test]
fn a_number_of_a_newer_kernel_is_an_error_that_names_it() {
    let state = DevInfo { state: 4, ..Default::default() }.state().unwrap_err();
    assert_eq!(state, UnknownCode { prefix: "UBLK_S_DEV_", code: 4 });
    assert!(state.to_string().starts_with("4 is no UBLK_S_DEV_* number of Linux 7.2"), "{state}");
    assert_eq!(IoDesc { op_flags: 6, ..Default::default() }.op().unwrap_err().code, 6);
    assert_eq!(Zone::default().zone_type().unwrap_err().code, 0);
    assert_eq!(Zone { cond: 0xe, ..Default::default() }.cond(), Ok(ZoneCond::Full));
    assert_eq!(ParamIntegrity { csum_type: 3, ..Default::default() }.checksum().unwrap_err().code, 3);
}

#[test]
fn commands_that_came_after_the_ioctl_encoding_have_no_legacy_number() {
    let legacy = |codes: &[Option<u32>]| codes.iter().flatten().count();
    assert_eq!(legacy(&CtrlOp::ALL.iter().map(|op| op.legacy_code()).collect::<Vec<_>>()), 11);
    assert_eq!(legacy(&IoCmdOp::ALL.iter().map(|op| op.legacy_code()).collect::<Vec<_>>()), 3);
    assert_eq!(CtrlOp::ALL.len(), 18);
}
