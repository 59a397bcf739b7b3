//! What the memory of a device's requests is like: its alignment and its segments, as the block layer promises them to the server.

use ublk_uapi::{MIN_SEGMENT_BYTES, ParamDmaAlign, ParamSegment, ParamTypes, Params};

use super::{BufferMode, Device, DeviceSpec};
use crate::Error;

/// Alignment of the memory of requests when nothing else is said: what the driver takes by itself.
const DMA_ALIGN_BYTES: u32 = 4;

/// Shape of the memory of a request: a segment is a part of it that lies in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Most segments of a request, at least 1.
    pub max_count: u16,
    /// Largest segment in bytes, at least 4096.
    pub max_bytes: u32,
    /// Bytes of the boundary that no segment crosses: a power of two, at least 4096.
    pub boundary_bytes: u64,
}

impl Segments {
    /// What the driver takes for a device without a wish.
    pub const UNLIMITED: Segments = Segments { max_count: u16::MAX, max_bytes: u32::MAX, boundary_bytes: 1 << 32 };

    pub(crate) fn of(params: &Params) -> Segments {
        if !params.types.contains(ParamTypes::SEGMENT) {
            return Segments::UNLIMITED;
        }
        let ParamSegment { seg_boundary_mask, max_segment_size, max_segments, .. } = params.segment;
        Segments {
            max_count: max_segments,
            max_bytes: max_segment_size,
            boundary_bytes: seg_boundary_mask.saturating_add(1),
        }
    }

    fn param(self) -> ParamSegment {
        ParamSegment {
            seg_boundary_mask: self.boundary_bytes - 1,
            max_segment_size: self.max_bytes,
            max_segments: self.max_count,
            ..ParamSegment::default()
        }
    }
}

impl DeviceSpec {
    /// All parameters of a device in this mode.
    pub(super) fn params(&self, buffers: BufferMode) -> Params {
        let params = self.block_params();
        let target_wants = if buffers.is_zero_copy() { self.zero_copy_align_bytes } else { 1 };
        let alignment = self.dma_align_bytes.unwrap_or(DMA_ALIGN_BYTES).max(target_wants);
        let params = match self.dma_align_bytes {
            None if alignment == DMA_ALIGN_BYTES => params,
            _ => params.with_dma_align(ParamDmaAlign { alignment: alignment - 1, ..ParamDmaAlign::default() }),
        };
        match self.segments {
            Some(segments) => params.with_segment(segments.param()),
            None => params,
        }
    }
}

impl Device {
    /// The driver drops parameters that it does not know in silence: of those that it may not know it says which it has.
    pub(super) fn check_params(&self) -> Result<(), Error> {
        let young = self.params.types & (ParamTypes::DMA_ALIGN | ParamTypes::SEGMENT);
        if young.is_empty() || self.control.params(self.id())?.types.contains(young) {
            return Ok(());
        }
        Err(Error::Unsupported { what: format!("parameters {young}"), since: "6.15" })
    }
}

/// Alignment of the memory of a device's requests.
pub(crate) fn dma_align_bytes(params: &Params) -> u32 {
    match params.types.contains(ParamTypes::DMA_ALIGN) {
        true => params.dma_align.alignment.saturating_add(1),
        false => DMA_ALIGN_BYTES,
    }
}

/// What the memory of requests cannot be: the driver would answer EINVAL, or the block layer take another value.
pub(super) fn check_memory(spec: &DeviceSpec) -> Result<(), Error> {
    let boundary = |bytes: u64| bytes.is_power_of_two() && bytes >= u64::from(MIN_SEGMENT_BYTES);
    let rule = match (spec.dma_align_bytes, spec.segments) {
        // The block layer would take 512 for 1.
        (Some(bytes), _) if !bytes.is_power_of_two() || !(2..=4096).contains(&bytes) => {
            format!("the alignment of memory is a power of two from 2 to 4096 bytes, not {bytes}")
        }
        (_, Some(segments)) if segments.max_count == 0 => "a request has at least one segment".into(),
        (_, Some(segments)) if segments.max_bytes < MIN_SEGMENT_BYTES => {
            format!("segments have at least {MIN_SEGMENT_BYTES} bytes, not {} at most", segments.max_bytes)
        }
        (_, Some(segments)) if !boundary(segments.boundary_bytes) => format!(
            "the boundary of segments is a power of two of at least {MIN_SEGMENT_BYTES} bytes, not {}",
            segments.boundary_bytes
        ),
        _ => return Ok(()),
    };
    Err(Error::BadOption { rule })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::null;

    /// What `ublk_validate_params` takes.
    fn driver_takes(params: &Params) -> bool {
        let is_power_of_two = |mask: u64| mask.checked_add(1).is_some_and(u64::is_power_of_two);
        let (alignment, segment) = (params.dma_align.alignment, params.segment);
        let takes_alignment = alignment < 4096 && is_power_of_two(alignment.into());
        let takes_segments = is_power_of_two(segment.seg_boundary_mask)
            && segment.seg_boundary_mask >= u64::from(MIN_SEGMENT_BYTES) - 1
            && segment.max_segment_size >= MIN_SEGMENT_BYTES;
        (!params.types.contains(ParamTypes::DMA_ALIGN) || takes_alignment)
            && (!params.types.contains(ParamTypes::SEGMENT) || takes_segments)
    }

    fn numbers(bits: u32) -> impl Strategy<Value = u64> {
        let shifted = (0..bits).prop_map(|shift| 1_u64 << shift);
        prop_oneof![shifted.clone(), shifted.prop_map(|power| power - 1), any::<u64>()]
    }

    proptest! {
        #[test]
        fn what_the_rules_let_through_the_driver_takes_and_says_again(
            alignment in prop::option::of(numbers(14)),
            target_align in 0..=12_u32,
            count in any::<u16>(), bytes in numbers(33), boundary in numbers(63),
            is_cut in any::<bool>(), is_zero_copy in any::<bool>(),
        ) {
            let segments = Segments { max_count: count, max_bytes: bytes as u32, boundary_bytes: boundary };
            let spec = DeviceSpec {
                dma_align_bytes: alignment.map(|bytes| bytes as u32),
                zero_copy_align_bytes: 1 << target_align,
                segments: is_cut.then_some(segments),
                ..DeviceSpec::for_target(null(1 << 20).as_ref())
            };
            prop_assume!(check_memory(&spec).is_ok());
            let params = spec.params(if is_zero_copy { BufferMode::AutoZeroCopy } else { BufferMode::Copy });
            prop_assert!(driver_takes(&params), "{params:?}");
            let least = spec.dma_align_bytes.unwrap_or(DMA_ALIGN_BYTES);
            let target_wants = if is_zero_copy { spec.zero_copy_align_bytes } else { 1 };
            prop_assert_eq!(dma_align_bytes(&params), least.max(target_wants));
            prop_assert_eq!(Segments::of(&params), if is_cut { segments } else { Segments::UNLIMITED });
        }
    }
}
