//! CPU lists in the kernel's notation: `0-3,8,10-11`, as in sysfs, `/proc/self/status` and cgroup cpusets.
//!
//! Invariant: a list that [`parse`] returns ascends and names no CPU twice; [`format()`] of it is the shortest notation.

/// Largest CPU number taken. Kernels are built for 8192 CPUs at most (NR_CPUS of MAXSMP on x86-64); the limit keeps a
/// damaged `0-18446744073709551615` from filling the memory.
pub const LARGEST_CPU: usize = 65_535;

/// Why a text is no CPU list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// A part is neither a number nor two with a dash between.
    #[error("{0:?} is no CPU number and no range of them; a CPU list looks like 0-3,8,10-11")]
    NotANumber(String),
    /// A range ends before it begins.
    #[error("the CPU range {first}-{last} ends before it begins")]
    Backwards {
        /// Number on the left of the dash.
        first: usize,
        /// Number on the right of the dash.
        last: usize,
    },
    /// A number is above [`LARGEST_CPU`].
    #[error("CPU {0} is above {LARGEST_CPU}, the largest number that a CPU list may hold here")]
    TooLarge(String),
}

/// Numbers in `text`, lowest first, each once. White space around the list is ignored; an empty list is one of no CPUs
/// (as a node of memory alone has).
///
/// # Errors
/// [`CpuListError`], for the first part that cannot be read.
pub fn parse(text: &str) -> Result<Vec<usize>, CpuListError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first, part)?, number(last, part)?);
        if last < first {
            return Err(CpuListError::Backwards { first, last });
        }
        ranges.push(first..=last);
    }
    // Merged before they are written out: a text of many overlapping ranges must not cost more than its union.
    ranges.sort_by_key(|range| *range.start());
    let mut cpus: Vec<usize> = Vec::new();
    for range in ranges {
        let start = cpus.last().map_or(0, |&last| last + 1).max(*range.start());
        cpus.extend(start..=*range.end());
    }
    Ok(cpus)
}

fn number(digits: &str, part: &str) -> Result<usize, CpuListError> {
    // `str::parse` alone would take +3.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CpuListError::NotANumber(part.to_owned()));
    }
    match digits.parse() {
        Ok(cpu) if cpu <= LARGEST_CPU => Ok(cpu),
        _ => Err(CpuListError::TooLarge(digits.to_owned())),
    }
}

/// The list of `cpus` in the kernel's notation, whatever their order; empty for none.
pub fn format(cpus: &[usize]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    let ranges = cpus.chunk_by(|&left, &right| left + 1 == right).map(|range| match range {
        [cpu] => cpu.to_string(),
        _ => format!("{}-{}", range[0], range[range.len() - 1]),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(parse("0-3,8,10-11\n"), Ok(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse("0\n"), Ok(vec![0]));
        assert_eq!(parse("\n"), Ok(vec![]));
    }

    #[test]
    fn takes_any_order_and_overlaps() {
        assert_eq!(parse("8,0-3,2-5,3"), Ok(vec![0, 1, 2, 3, 4, 5, 8]));
    }

    #[test]
    fn says_which_part_is_wrong() {
        for part in ["x", "", "1-", "-1", "+1", "1-2-3", "0x1", " 1", "0-31:2/4"] {
            assert_eq!(parse(&format!("0,{part},9")), Err(CpuListError::NotANumber(part.to_owned())));
        }
        assert_eq!(parse("3-1"), Err(CpuListError::Backwards { first: 3, last: 1 }));
    }

    #[test]
    fn a_huge_number_is_refused_and_not_counted_up_to() {
        for huge in ["65536", "18446744073709551615", "99999999999999999999999999"] {
            assert_eq!(parse(&format!("0-{huge}")), Err(CpuListError::TooLarge(huge.to_owned())));
        }
        assert_eq!(parse("65535"), Ok(vec![LARGEST_CPU]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_list_comes_back_from_its_text(cpus in prop::collection::btree_set(0..300_usize, 0..80)) {
            let cpus: Vec<usize> = cpus.into_iter().collect();
            prop_assert_eq!(parse(&format(&cpus)), Ok(cpus));
        }

        #[test]
        fn no_text_makes_it_panic(text in prop_oneof![".*", "[0-9,\\-\n +]{0,40}", "([0-9]{1,6}(-[0-9]{1,6})?,?){0,9}"]) {
            if let Ok(cpus) = parse(&text) {
                prop_assert!(cpus.is_sorted_by(|left, right| left < right));
                prop_assert!(cpus.iter().all(|&cpu| cpu <= LARGEST_CPU));
                prop_assert_eq!(parse(&format(&cpus)), Ok(cpus));
            }
        }
    }
}
