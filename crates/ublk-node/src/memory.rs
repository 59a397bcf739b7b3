//! Memory that a queue shares with JavaScript: the slab of data slots and the control words.
//!
//! Both are SharedArrayBuffers made by the thread that owns the device. They never move, cannot be detached, and the owner's napi
//! references (owner.rs) keep them until the device's queues are gone. Control words are touched through atomics alone.

use std::sync::atomic::{AtomicI32, Ordering, fence};

use napi::bindgen_prelude::Uint8Array;
use ublk::target::BufferAddress;
use ublk_executor::memory::{page_bytes, whole_pages};

use crate::layout;

const PAGE_BYTES: usize = 4096;

/// Pointers into one queue's two buffers.
pub(crate) struct QueueMemory {
    slab: usize,
    slot_bytes: usize,
    slots: u32,
    control: *const AtomicI32,
    capacity: usize,
    completions: usize,
}

// SAFETY: `slab` is only handed to the kernel as a number; `control` points to atomics in memory that stays mapped (module header).
unsafe impl Send for QueueMemory {}
// SAFETY: as above; every access through `&self` is atomic.
unsafe impl Sync for QueueMemory {}

impl QueueMemory {
    /// Takes the buffers of a queue of `depth` tags; writes where slot 0 begins to `SLAB_BASE`.
    pub(crate) fn new(
        slab: &Uint8Array,
        control: &Uint8Array,
        slots: u32,
        depth: usize,
        max_io_bytes: usize,
    ) -> napi::Result<QueueMemory> {
        let (slab, control) = ((slab.as_ptr() as usize, slab.len()), (control.as_ptr() as usize, control.len()));
        QueueMemory::at(slab, control, slots, depth, max_io_bytes).map_err(napi::Error::from_reason)
    }

    /// The same from addresses and lengths.
    fn at(
        (slab, slab_bytes): (usize, usize),
        (control, control_bytes): (usize, usize),
        slots: u32,
        depth: usize,
        max_io_bytes: usize,
    ) -> Result<QueueMemory, String> {
        let base = slab.next_multiple_of(PAGE_BYTES);
        if (slots as usize) <= depth || base - slab + slots as usize * max_io_bytes > slab_bytes {
            return Err(format!(
                "a slab of {slab_bytes} bytes is too small for {slots} slots of {max_io_bytes} and depth {depth}"
            ));
        }
        if control_bytes < layout::control_words(depth) * 4 || !control.is_multiple_of(4) {
            return Err(format!(
                "control memory of {control_bytes} bytes is too small for depth {depth}, or not aligned"
            ));
        }
        let memory = QueueMemory {
            slab: base,
            slot_bytes: max_io_bytes,
            slots,
            control: std::ptr::with_exposed_provenance(control),
            capacity: layout::ring_capacity(depth),
            completions: layout::completions_at(depth),
        };
        memory.store(layout::SLAB_BASE, (base - slab) as i32);
        // Small pages, so that a request takes what it moves and not 2 MiB: the first ones after a rest would wait for the zeroing of it all.
        memory.advise(libc::MADV_NOHUGEPAGE);
        Ok(memory)
    }

    /// Memory for tests without JavaScript, which is never freed.
    #[cfg(test)]
    pub(crate) fn leaked(slots: u32, depth: usize, max_io_bytes: usize) -> QueueMemory {
        let slab = Vec::leak(vec![0_u8; slots as usize * max_io_bytes + PAGE_BYTES]);
        let control = Vec::leak(vec![0_u32; layout::control_words(depth)]);
        let slab = (slab.as_mut_ptr().expose_provenance(), slab.len());
        QueueMemory::at(slab, (control.as_mut_ptr().expose_provenance(), control.len() * 4), slots, depth, max_io_bytes)
            .unwrap()
    }

    /// The slot that no handler ever sees: for tags that are answered although a handler may still use theirs.
    pub(crate) fn last_slot(&self) -> u32 {
        self.slots - 1
    }

    /// Where a slot begins.
    #[inline]
    pub(crate) fn slot(&self, slot: u32) -> BufferAddress {
        assert!(slot < self.slots);
        // SAFETY: `new` checked that all slots lie within the slab, whose life the module header explains; Rust makes no reference to it.
        unsafe { BufferAddress::new((self.slab + slot as usize * self.slot_bytes) as u64) }
    }

    /// Gives the pages of the slab back to the system while no request's data is in it, or no ring uses it any more: V8 frees a
    /// SharedArrayBuffer much later. A handler that still holds a view reads zeroes: its view ended with its request.
    pub(crate) fn give_back(&self) {
        self.advise(libc::MADV_DONTNEED);
    }

    /// Tells the kernel how the slots are used; a wish that it may refuse.
    fn advise(&self, advice: libc::c_int) {
        let slots = self.slab as u64..(self.slab + self.slots as usize * self.slot_bytes) as u64;
        let Some(pages) = whole_pages(slots, page_bytes()) else { return };
        let start: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(pages.start as usize);
        // SAFETY: whole pages inside the slab, which the owner's reference keeps mapped (module header). NOHUGEPAGE changes no content; after
        // DONTNEED anonymous memory reads as zeroes, and views of shared memory expect any change.
        unsafe { libc::madvise(start, (pages.end - pages.start) as usize, advice) };
    }

    #[inline]
    pub(crate) fn load(&self, word: usize) -> u32 {
        self.word(word).load(Ordering::Acquire) as u32
    }

    /// Publishes: what was written before is seen by whoever loads this.
    #[inline]
    pub(crate) fn store(&self, word: usize, value: i32) {
        self.word(word).store(value, Ordering::Release);
    }

    #[inline]
    pub(crate) fn swap(&self, word: usize, value: i32) -> i32 {
        self.word(word).swap(value, Ordering::SeqCst)
    }

    /// Writes one request entry; `head` counts on for ever.
    #[inline]
    pub(crate) fn write_request(&self, head: u32, words: [u32; 6]) {
        let first = layout::REQUESTS + layout::REQUEST_WORDS * (head as usize & (self.capacity - 1));
        for (index, value) in words.into_iter().enumerate() {
            self.word(first + index).store(value as i32, Ordering::Relaxed);
        }
    }

    /// Reads one completion entry: the request's first word, and the result.
    #[inline]
    pub(crate) fn read_completion(&self, tail: u32) -> (u32, i32) {
        let first = self.completions + layout::COMPLETION_WORDS * (tail as usize & (self.capacity - 1));
        (self.word(first).load(Ordering::Relaxed) as u32, self.word(first + 1).load(Ordering::Relaxed))
    }

    /// Entries of each ring.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicI32 {
        assert!(index < self.completions + layout::COMPLETION_WORDS * self.capacity);
        // SAFETY: `new` checked the length and the alignment of the control memory; the module header says why it stays.
        unsafe { &*self.control.add(index) }
    }
}

/// Orders what was stored before against what is loaded after: the two sides of "I sleep" and "there is work".
#[inline]
pub(crate) fn store_load_fence() {
    fence(Ordering::SeqCst);
}
