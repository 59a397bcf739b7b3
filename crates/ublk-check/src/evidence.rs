//! What the checks against a model have in common: bytes that say where they belong, what was wrong, and the shortest sequence that shows it.

use std::fmt;
use std::io;

const SECTOR_BYTES: usize = 512;

/// Sequences tried to find a short one that fails.
const SHRINK_TRIES: usize = 200;

/// Why a step failed.
#[derive(Debug)]
pub(crate) enum Wrong {
    Error(io::Error),
    Byte { place: &'static str, at: u64, found: u8, expected: u8 },
    Zone(String),
}

impl Wrong {
    pub(crate) fn with_place(self, place: &'static str) -> Wrong {
        match self {
            Wrong::Byte { at, found, expected, .. } => Wrong::Byte { place, at, found, expected },
            error => error,
        }
    }
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Wrong {
        Wrong::Error(error)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Error(error) => write!(f, "{error}"),
            Wrong::Byte { place, at, found, expected } => {
                write!(f, "{place}byte {at} is {found:#04x} and not {expected:#04x}")
            }
            Wrong::Zone(sentence) => f.write_str(sentence),
        }
    }
}

/// What was wrong, at the step of this index or after the last.
pub(crate) struct Failure {
    pub(crate) at: usize,
    pub(crate) wrong: String,
}

/// Runs a check on each part in a thread of its own. The failure is the first part's that has one.
pub(crate) fn in_threads<P: Sync>(
    parts: &[P],
    check: impl Fn(u64, &P) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let check = &check;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..).zip(parts).map(|(number, part)| scope.spawn(move || check(number, part))).collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap_or(Err("a panic".into()))).collect();
        ends.into_iter().collect()
    })
}

/// Runs steps. When they fail, the sentence has the step, what was wrong, and the shortest sequence that shows it.
pub(crate) fn take_steps<S: Clone + fmt::Display>(
    steps: Vec<S>,
    run: impl Fn(&[S]) -> Result<(), Failure>,
) -> Result<(), String> {
    let Err(Failure { at, wrong }) = run(&steps) else { return Ok(()) };
    let named = steps.get(at).map_or("the last look at everything".into(), |step| format!("step {at}, {step}"));
    let short = shrink(steps, |steps| run(steps).is_err());
    Err(format!("{named}: {wrong}; {short}"))
}

/// Leaves out what the failure does not need, as long as one thread alone shows it.
fn shrink<S: Clone + fmt::Display>(mut steps: Vec<S>, fails: impl Fn(&[S]) -> bool) -> String {
    if !fails(&steps) {
        return "one thread alone does not show it".into();
    }
    let mut tries = 0;
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let mut start = 0;
        while start < steps.len() && tries < SHRINK_TRIES {
            let rest = [&steps[..start], &steps[(start + chunk).min(steps.len())..]].concat();
            tries += 1;
            if fails(&rest) {
                steps = rest;
            } else {
                start += chunk;
            }
        }
        chunk /= 2;
    }
    let shown: Vec<String> = steps.iter().map(S::to_string).collect();
    format!("{} steps show it: {}", steps.len(), shown.join(", "))
}

/// Compares what was found at `offset` with what the model says.
pub(crate) fn compare(found: &[u8], expected: &[u8], offset: u64) -> Result<(), Wrong> {
    if found == expected {
        return Ok(());
    }
    let different = |&index: &usize| found[index] != expected[index];
    let index = (0..expected.len()).find(different).unwrap_or(0);
    let (found, expected) = (found[index], expected[index]);
    Err(Wrong::Byte { place: "", at: offset + index as u64, found, expected })
}

/// No two sectors and no two versions look alike.
pub(crate) fn fill(data: &mut [u8], offset: u64, version: u64) {
    for (index, sector) in (0..).zip(data.chunks_mut(SECTOR_BYTES)) {
        let number = offset / SECTOR_BYTES as u64 + index;
        sector.fill((number * 31 + version * 0x5b) as u8 | 1); // never zero, as discarded bytes are
        sector[..8].copy_from_slice(&(number << 24 | version).to_le_bytes());
    }
}
