//! Words of a queue's control memory: the mirror of src/layout.ts, same names, same order (a test compares both).
//!
//! All numbers are indexes of 32-bit words, or counts of them. What each word means: docs/architecture.md, section 4.

pub(crate) const REQUEST_HEAD: usize = 0;
pub(crate) const REQUEST_TAIL: usize = 16;
pub(crate) const COMPLETION_HEAD: usize = 32;
pub(crate) const COMPLETION_TAIL: usize = 48;
pub(crate) const JS_SLEEPING: usize = 64;
pub(crate) const NATIVE_SLEEPING: usize = 80;
pub(crate) const STATE: usize = 96;
pub(crate) const SLAB_BASE: usize = 97;
pub(crate) const JS_REFUSES: usize = 98;
pub(crate) const REQUESTS: usize = 128;
pub(crate) const STATE_SERVING: usize = 1;
pub(crate) const STATE_FAILING: usize = 2;
pub(crate) const STATE_ENDED: usize = 3;
pub(crate) const REQUEST_WORDS: usize = 8;
pub(crate) const COMPLETION_WORDS: usize = 2;
pub(crate) const SPARE_SLOTS: usize = 16;
pub(crate) const TAG_BITS: usize = 12;
pub(crate) const OP_EXPIRED: usize = 255;

/// Entries of each ring: a power of two that holds every tag and every spare slot twice, so that neither ring can be full.
pub(crate) fn ring_capacity(depth: usize) -> usize {
    (2 * (depth + SPARE_SLOTS)).next_power_of_two()
}

/// First word of the completion entries.
pub(crate) fn completions_at(depth: usize) -> usize {
    REQUESTS + REQUEST_WORDS * ring_capacity(depth)
}

/// Words of the control memory.
pub(crate) fn control_words(depth: usize) -> usize {
    completions_at(depth) + COMPLETION_WORDS * ring_capacity(depth)
}

#[cfg(test)]
mod tests {
    /// `(name, value)` of every constant that is a plain number.
    fn constants<'t>(text: &'t str, prefix: &str) -> Vec<(&'t str, usize)> {
        let constant = |line: &'t str| {
            let (name, value) = line.strip_prefix(prefix)?.split_once(" = ")?;
            let name = name.split(':').next()?;
            Some((name, value.trim_end_matches(';').parse().ok()?))
        };
        text.lines().filter_map(constant).collect()
    }

    #[test]
    fn both_sides_of_the_boundary_have_the_same_layout() {
        let rust = constants(include_str!("layout.rs"), "pub(crate) const ");
        let mut typescript = constants(include_str!("../../../src/layout.ts"), "export const ").into_iter();
        assert!(rust.len() >= 15, "found only {rust:?}");
        for ours in rust {
            // In the same order; TypeScript has some more, such as the words of an entry.
            assert!(typescript.any(|theirs| theirs == ours), "{ours:?} is not in src/layout.ts, or not at its place");
        }
    }
}
