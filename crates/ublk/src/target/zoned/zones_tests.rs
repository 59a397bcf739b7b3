//! `Zones` against a model that counts everything anew, and the cases that people ask about.

use proptest::prelude::*;
use ublk_uapi::ZoneCond::{self, Closed, Empty, ExplicitOpen, Full, ImplicitOpen, NotWritePointer};

use super::zones::{Layout, Refusal, Zones};

#[path = "../../../tests/common/zone_model.rs"]
mod zone_model;
use zone_model::{Answer, Model, ModelDisk, Step};

const ZONE: u64 = 64;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let zone = || 0..7_u64; // one more than there are
    let step = prop_oneof![
        2 => (zone(), 0..=ZONE, 1..=ZONE).prop_map(|(zone, offset, sectors)| Step::Write { zone, offset, sectors }),
        8 => (zone(), 1..=ZONE / 2).prop_map(|(zone, sectors)| Step::WriteAtPointer { zone, sectors }),
        3 => (zone(), prop_oneof![9 => Just(0), 1 => 1..ZONE], 1..=ZONE)
            .prop_map(|(zone, offset, sectors)| Step::Append { zone, offset, sectors }),
        3 => zone().prop_map(Step::Open),
        3 => zone().prop_map(Step::Close),
        1 => zone().prop_map(Step::Finish),
        2 => zone().prop_map(Step::Reset),
    ];
    prop::collection::vec(step, 0..80)
}

fn layouts() -> impl Strategy<Value = Layout> {
    (48..=ZONE, 0..4_u32, 0..4_u32, 0..5_u32).prop_map(|(capacity_sectors, conventional, max_open, active)| {
        let max_active = if active == 0 { 0 } else { active.max(max_open) };
        Layout { zone_sectors: ZONE, capacity_sectors, zones: 6, conventional, max_open, max_active }
    })
}

fn apply(zones: &mut Zones, step: Step) -> Answer {
    try_apply(zones, step).map_err(Refusal::errno)
}

fn try_apply(zones: &mut Zones, step: Step) -> Result<Option<u64>, Refusal> {
    let at = |zone: u64| zone * ZONE;
    let pointer = |zones: &Zones, zone: u64| match zones.index_of(at(zone)) {
        Some(index) if !zones.is_conventional(index) && zones.report(index).cond != Full.code() => {
            zones.report(index).wp.0
        }
        // A full zone's is at its capacity for the model, and past its end in a report: both are refused.
        _ => at(zone),
    };
    match step {
        Step::Write { zone, offset, sectors } if offset < ZONE => {
            zones.write(at(zone) + offset, sectors).map(|()| None)
        }
        Step::Write { .. } => Err(Refusal::Invalid), // begins in the next zone
        Step::WriteAtPointer { zone, sectors } => zones.write(pointer(zones, zone), sectors).map(|()| None),
        Step::Append { zone, offset, sectors } => zones.append(at(zone) + offset, sectors).map(Some),
        Step::Open(zone) => zones.open(at(zone)).map(|()| None),
        Step::Close(zone) => zones.close(at(zone)).map(|()| None),
        Step::Finish(zone) => zones.finish(at(zone)).map(|()| None),
        Step::Reset(zone) => zones.reset(at(zone)).map(|()| None),
    }
}

fn model_disk(layout: Layout) -> ModelDisk {
    let Layout { zone_sectors, capacity_sectors, zones, conventional, max_open, max_active } = layout;
    ModelDisk { zone_sectors, capacity_sectors, zones, conventional, max_open, max_active }
}

proptest! {
    #[test]
    fn zones_do_what_the_model_does(layout in layouts(), steps in steps()) {
        let (mut zones, mut model) = (Zones::new(layout, |_| 0), Model::new(model_disk(layout)));
        for (number, &step) in steps.iter().enumerate() {
            let expected = model.apply(step);
            prop_assert_eq!(apply(&mut zones, step), expected, "step {}: {:?}", number, step);
            for (index, zone) in model.zones.iter().enumerate() {
                let report = zones.report(index as u32);
                prop_assert_eq!(report.cond().unwrap(), zone.condition, "zone {} after step {}: {:?}", index, number, step);
                if !matches!(zone.condition, NotWritePointer | Full) {
                    prop_assert_eq!(report.wp.0, index as u64 * ZONE + zone.written);
                }
            }
        }
    }
}

const LAYOUT: Layout =
    Layout { zone_sectors: ZONE, capacity_sectors: 48, zones: 6, conventional: 1, max_open: 2, max_active: 3 };

fn conditions(zones: &Zones) -> Vec<ZoneCond> {
    (1..6).map(|index| zones.report(index).cond().unwrap()).collect()
}

#[test]
fn the_oldest_zone_that_opened_by_itself_is_closed_for_another() {
    let mut zones = Zones::new(LAYOUT, |_| 0);
    for zone in [2, 1, 3] {
        zones.write(zone * ZONE, 8).unwrap();
    }
    assert_eq!(conditions(&zones), [ImplicitOpen, Closed, ImplicitOpen, Empty, Empty]);
    assert_eq!(zones.write(4 * ZONE, 8), Err(Refusal::TooManyActive));
    zones.finish(2 * ZONE).unwrap();
    zones.open(4 * ZONE).unwrap();
    zones.open(3 * ZONE).unwrap();
    assert_eq!(conditions(&zones), [Closed, Full, ExplicitOpen, ExplicitOpen, Empty]);
    assert_eq!(zones.write(ZONE + 8, 8), Err(Refusal::TooManyOpen));
}

#[test]
fn zones_come_back_closed_empty_or_full() {
    let written = [99, 0, 8, 48, 1, 47];
    let zones = Zones::new(LAYOUT, |index| written[index as usize]);
    assert_eq!(conditions(&zones), [Empty, Closed, Full, Closed, Closed]);
    assert_eq!(zones.report(0).cond().unwrap(), NotWritePointer);
    assert_eq!(zones.report(2).wp.0, 2 * ZONE + 8);
}

#[test]
fn reports_tell_type_length_and_capacity() {
    let zones = Zones::new(LAYOUT, |_| 0);
    let (conventional, sequential) = (zones.report(0), zones.report(5));
    assert_eq!((conventional.zone_type, conventional.capacity.0, conventional.len.0), (1, ZONE, ZONE));
    assert_eq!((sequential.zone_type, sequential.capacity.0, sequential.start.0), (2, 48, 5 * ZONE));
}
