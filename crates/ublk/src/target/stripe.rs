//! `stripe`: RAID 0 over files or block devices.
//!
//! Chunk `c` of the device is chunk `c / legs` of leg `c % legs`. A read or write becomes one transfer per chunk that it touches; the
//! other operations become one per leg, for the chunks of a leg that a range touches follow each other on it. A request has failed when a
//! transfer has, and is answered when all have ended. The legs hold nothing but data: their order and the chunk are the caller's to keep.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::backing::{Backing, FileOptions, rule};
use super::transfer::{Span, Transfer, Unreported, Zeroes};
use super::{Geometry, Io, Op, Progress, QueueTarget, Request, Target};
use crate::{BufferMode, CharDevice, Error};

/// Smallest chunk: a page.
const MIN_CHUNK_BYTES: u32 = 4096;

/// How to open a stripe.
#[derive(Debug, Clone)]
pub struct StripeOptions {
    /// Bytes that go to one leg before the next is taken: a power of two of at least 4096, and not below the logical block.
    pub chunk_bytes: u32,
    /// For every leg; `size_bytes` is that of the whole device.
    pub files: FileOptions,
}

/// Opens and locks two or more legs. The device has as many bytes as the smallest leg, in whole chunks, times the number of legs.
///
/// # Errors
/// [`Error::File`] naming the path and the rule, also for a chunk that is none; [`Error::Busy`] when a leg is locked.
pub fn open(paths: &[PathBuf], options: &StripeOptions) -> Result<Arc<dyn Target>, Error> {
    let StripeOptions { chunk_bytes, files } = options;
    let map = ChunkMap { chunk_bytes: *chunk_bytes, legs: paths.len() as u16 };
    check(paths, map.chunk_bytes)?;
    let per_leg = files.size_bytes.map(|size_bytes| map.leg_bytes(size_bytes));
    let legs = Backing::open_all(paths, &FileOptions { size_bytes: per_leg, ..files.clone() })?;
    let block_bytes = legs.iter().map(|leg| leg.block_bytes).max().unwrap_or(512);
    let smallest = legs.iter().min_by_key(|leg| leg.size_bytes).map(|leg| (leg.size_bytes, leg.path.clone()));
    let (leg_bytes, path) = smallest.unwrap_or_default();
    let whole = (leg_bytes - leg_bytes % u64::from(map.chunk_bytes)) * u64::from(map.legs);
    if whole == 0 {
        return Err(rule(&path, &format!("has {leg_bytes} bytes, less than one chunk of {} bytes", map.chunk_bytes)));
    }
    let size_bytes = files.size_bytes.map_or(whole, |wanted| wanted - wanted % u64::from(block_bytes));
    let can_punch = legs.iter().all(|leg| leg.can_punch);
    let geometry = Geometry::of_files(size_bytes, block_bytes, can_punch, files.read_only);
    let geometry = geometry.aligned(legs.iter().map(|leg| leg.memory_align_bytes));
    Ok(Arc::new(Stripe { legs, map, geometry, unreported: Arc::default() }))
}

fn check(paths: &[PathBuf], chunk_bytes: u32) -> Result<(), Error> {
    let first = paths.first().cloned().unwrap_or_default();
    if !(2..=usize::from(u8::MAX)).contains(&paths.len()) {
        return Err(rule(&first, &format!("is one of {} legs; a stripe has 2 to 255", paths.len())));
    }
    if !chunk_bytes.is_power_of_two() || chunk_bytes < MIN_CHUNK_BYTES {
        let problem =
            format!("cannot be striped in chunks of {chunk_bytes} bytes; a power of two of at least 4096 is needed");
        return Err(rule(&first, &problem));
    }
    Ok(())
}

/// Which part of a range of the device lies where.
#[derive(Debug, Clone, Copy)]
struct ChunkMap {
    chunk_bytes: u32,
    legs: u16,
}

impl ChunkMap {
    /// What each leg must have for a device of this size.
    fn leg_bytes(self, size_bytes: u64) -> u64 {
        let chunk = u64::from(self.chunk_bytes);
        size_bytes.div_ceil(chunk * u64::from(self.legs)) * chunk
    }

    /// Chunks that a range of at least one byte touches.
    #[inline]
    fn pieces(self, offset: u64, length: u32) -> u16 {
        let chunk = u64::from(self.chunk_bytes);
        ((offset + u64::from(length) - 1) / chunk - offset / chunk + 1) as u16
    }

    /// The `index`-th of them.
    #[inline]
    fn piece(self, offset: u64, length: u32, index: u16) -> Span {
        let chunk = u64::from(self.chunk_bytes);
        let number = offset / chunk + u64::from(index);
        let (start, end) = (offset.max(number * chunk), (offset + u64::from(length)).min((number + 1) * chunk));
        let legs = u64::from(self.legs);
        Span {
            file: (number % legs) as u16,
            offset: number / legs * chunk + start % chunk,
            data_offset: (start - offset) as u32,
            length: (end - start) as u32,
        }
    }

    /// All of a range that lies on one leg. Its length may be 0; it has no data.
    #[inline]
    fn on_leg(self, offset: u64, length: u32, leg: u16) -> Span {
        let start = self.bytes_before(offset, leg);
        let end = self.bytes_before(offset + u64::from(length), leg);
        Span { file: leg, offset: start, data_offset: 0, length: (end - start) as u32 }
    }

    /// How much of a leg lies before a place of the device.
    #[inline]
    fn bytes_before(self, offset: u64, leg: u16) -> u64 {
        let chunk = u64::from(self.chunk_bytes);
        let stripe = chunk * u64::from(self.legs);
        offset / stripe * chunk + (offset % stripe).saturating_sub(u64::from(leg) * chunk).min(chunk)
    }
}

struct Stripe {
    legs: Vec<Backing>,
    map: ChunkMap,
    geometry: Geometry,
    unreported: Arc<Unreported>,
}

impl Target for Stripe {
    fn kind(&self) -> &'static str {
        "stripe"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::AutoZeroCopy]
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.legs.iter().map(|leg| leg.file.as_fd()).collect()
    }

    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let slots = tags as usize;
        // A request that begins within a chunk ends within another.
        let most_pieces = (device.max_io_bytes() / self.map.chunk_bytes) as usize + 2;
        let row = most_pieces.max(self.legs.len());
        Ok(Box::new(StripeQueue {
            map: self.map,
            row,
            transfers: vec![Transfer::IDLE; slots * row],
            open: vec![Open { transfers: 0, errno: 0 }; slots],
            zeroes: Zeroes::new(device)?,
            unreported: Arc::clone(&self.unreported),
        }))
    }
}

/// What a request still waits for.
#[derive(Debug, Clone, Copy)]
struct Open {
    transfers: u16,
    /// Of the first transfer that failed.
    errno: i32,
}

struct StripeQueue {
    map: ChunkMap,
    /// Transfers that a slot may have.
    row: usize,
    transfers: Vec<Transfer>,
    open: Vec<Open>,
    zeroes: Zeroes,
    unreported: Arc<Unreported>,
}

impl QueueTarget for StripeQueue {
    #[inline]
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        let parts = match request.op {
            Op::Read | Op::Write => self.map.pieces(request.offset_bytes(), request.len_bytes),
            Op::Flush | Op::Discard | Op::WriteZeroes => self.map.legs,
            _ => return Progress::Done(-libc::EOPNOTSUPP),
        };
        let mut transfers = 0;
        for part in 0..parts {
            let span = self.span(request, part);
            if span.length > 0 || request.op == Op::Flush {
                let transfer = &mut self.transfers[usize::from(tag) * self.row + usize::from(part)];
                transfer.start(request, span, part, &self.zeroes, io);
                transfers += 1;
            }
        }
        self.open[usize::from(tag)] = Open { transfers, errno: 0 };
        Progress::Pending
    }

    #[inline]
    fn resume(&mut self, tag: u16, request: &Request, part: u16, result: i32, io: &mut Io<'_>) -> Progress {
        let span = self.span(request, part);
        let transfer = &mut self.transfers[usize::from(tag) * self.row + usize::from(part)];
        let Some(ended) = transfer.resume(request, span, part, result, &self.zeroes, io) else {
            return Progress::Pending;
        };
        let open = &mut self.open[usize::from(tag)];
        open.transfers -= 1;
        if ended < 0 && open.errno == 0 {
            open.errno = ended;
        }
        match (open.transfers, open.errno) {
            (1.., _) => Progress::Pending,
            (0, 0) if request.op != Op::Flush => Progress::Done(request.done_bytes()),
            (0, errno) => Progress::Done(self.unreported.account(request, errno)),
        }
    }
}

impl StripeQueue {
    #[inline]
    fn span(&self, request: &Request, part: u16) -> Span {
        let (offset, length) = (request.offset_bytes(), request.len_bytes);
        match request.op {
            Op::Read | Op::Write => self.map.piece(offset, length, part),
            _ => self.map.on_leg(offset, length, part),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The leg and the place on it of one byte, counted out chunk by chunk.
    fn place(map: ChunkMap, byte: u64) -> (u16, u64) {
        let (mut chunk, mut leg, mut row) = (0, 0, 0);
        while (chunk + 1) * u64::from(map.chunk_bytes) <= byte {
            (chunk, leg) = (chunk + 1, leg + 1);
            if leg == map.legs {
                (leg, row) = (0, row + 1);
            }
        }
        (leg, row * u64::from(map.chunk_bytes) + byte - chunk * u64::from(map.chunk_bytes))
    }

    proptest! {
        #[test]
        fn pieces_cover_a_range_in_order_each_where_its_bytes_are(
            legs in 2..7_u16, shift in 12..15_u32, block in 0..600_u64, blocks in 1..200_u32
        ) {
            let map = ChunkMap { chunk_bytes: 1 << shift, legs };
            let (offset, length) = (block * 512, blocks * 512);
            let mut next = 0;
            for index in 0..map.pieces(offset, length) {
                let span = map.piece(offset, length, index);
                prop_assert_eq!(span.data_offset, next);
                prop_assert!(span.length > 0);
                for within in [0, span.length - 1] {
                    let expected = place(map, offset + u64::from(span.data_offset + within));
                    prop_assert_eq!((span.file, span.offset + u64::from(within)), expected);
                }
                prop_assert!(span.offset % u64::from(map.chunk_bytes) + u64::from(span.length) <= u64::from(map.chunk_bytes));
                next += span.length;
            }
            prop_assert_eq!(next, length);
        }

        #[test]
        fn what_lies_on_a_leg_is_the_union_of_its_pieces(
            legs in 2..7_u16, shift in 12..15_u32, block in 0..600_u64, blocks in 1..600_u32
        ) {
            let map = ChunkMap { chunk_bytes: 1 << shift, legs };
            let (offset, length) = (block * 512, blocks * 512);
            for leg in 0..legs {
                let pieces: Vec<Span> = (0..map.pieces(offset, length))
                    .map(|index| map.piece(offset, length, index))
                    .filter(|piece| piece.file == leg)
                    .collect();
                let span = map.on_leg(offset, length, leg);
                prop_assert_eq!(pieces.iter().map(|piece| piece.length).sum::<u32>(), span.length);
                if let Some(first) = pieces.first() {
                    prop_assert_eq!(first.offset, span.offset);
                }
            }
        }

        #[test]
        fn a_device_fits_its_legs_and_no_chunk_less(legs in 2..7_u16, blocks in 1..100_000_u64) {
            let map = ChunkMap { chunk_bytes: 8192, legs };
            let (leg, end) = (map.leg_bytes(blocks * 512), blocks * 512);
            let used = (0..legs).map(|leg| map.bytes_before(end, leg)).max().unwrap();
            prop_assert!(used <= leg && leg - used < 8192, "{} of {}", used, leg);
        }
    }
}
