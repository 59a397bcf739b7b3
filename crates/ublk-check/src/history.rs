//! Concurrent reads and writes of a few blocks, recorded, and the proof that each block behaved as one register: every operation seems to
//! happen at one moment between its call and its answer ("linearizable").
//!
//! Every write has a value of its own, so it is known which write a read saw, and the proof takes n log n steps (Gibbons and Korach,
//! "Testing Shared Memories", 1997). A write and the reads that saw it are a *cluster*: in any order that explains the history they stand
//! side by side, with nothing of the block between them. Cluster A must come before cluster B if any operation of A was answered before one
//! of B was called.
//! An order exists if and only if no two clusters must each come before the other.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use crate::buffer::Buffer;
use crate::disk::Disk;
use crate::random::Random;

/// What an operation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stored the value.
    Write,
    /// Saw the value.
    Read,
    /// Saw half of one value and half of another: no evidence.
    MixedRead,
}

/// One operation of a history. Times are of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Which register.
    pub block: u32,
    /// Write or read.
    pub action: Action,
    /// What was stored or seen.
    pub value: u64,
    /// When the client asked.
    pub called: u64,
    /// When it had the answer. `u64::MAX` for a write whose answer never came: it may have happened, or not.
    pub answered: u64,
}

/// Why a history cannot be that of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A read saw what nobody wrote.
    NeverWritten(Operation),
    /// A read was answered before the write that it saw was called.
    FromTheFuture(Operation),
    /// Two writes have one value: the history proves nothing.
    NotUnique(Operation),
    /// Of the operations with each of two values, one was answered before one with the other was called: neither can have been first.
    NoOrder {
        /// The register.
        block: u32,
        /// The two.
        values: [u64; 2],
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NeverWritten(read) => write!(f, "a read saw what nobody wrote: {read:?}"),
            Violation::FromTheFuture(read) => write!(f, "a read was answered before its value was written: {read:?}"),
            Violation::NotUnique(write) => write!(f, "a value was written twice: {write:?}"),
            Violation::NoOrder { block, values: [one, other] } => {
                write!(f, "block {block}: neither of the values {one:#x} and {other:#x} can have been there first")
            }
        }
    }
}

/// A write and the reads that saw it, as far as other clusters are concerned.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    value: u64,
    /// When the write was called.
    written: u64,
    /// The first answer of any of its operations: what is called later comes after the cluster.
    first_answer: u64,
    /// The last call of any of its operations: what was answered earlier comes before the cluster.
    last_call: u64,
}

impl Cluster {
    /// Its value was there at each moment from the first answer to the last call, and no other was. If the last call came before the first
    /// answer, all of it may have happened at one moment between the two.
    fn was_seen_to_last(&self) -> bool {
        self.first_answer < self.last_call
    }

    fn must_precede(&self, other: &Cluster) -> bool {
        self.first_answer < other.last_call
    }

    fn conflicts(&self, other: &Cluster) -> bool {
        self.must_precede(other) && other.must_precede(self)
    }
}

/// Proves that a history is that of registers, one per block. Every block's first value must have been written in it.
///
/// # Errors
/// What makes it impossible.
pub fn verify(history: &[Operation]) -> Result<(), Violation> {
    let mut blocks: HashMap<u32, Vec<Operation>> = HashMap::new();
    for operation in history {
        blocks.entry(operation.block).or_default().push(*operation);
    }
    blocks.into_values().try_for_each(|operations| verify_block(&operations))
}

fn verify_block(operations: &[Operation]) -> Result<(), Violation> {
    let clusters = clusters(operations)?;
    let (mut lasting, momentary): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_iter().partition(Cluster::was_seen_to_last);
    let block = operations.first().map_or(0, |operation| operation.block);
    let no_order = |one: &Cluster, other: &Cluster| Violation::NoOrder { block, values: [one.value, other.value] };
    // Two that lasted conflict when they overlap; sorted by their beginnings, neighbours tell.
    lasting.sort_unstable_by_key(|cluster| cluster.first_answer);
    if let Some(pair) = lasting.windows(2).find(|pair| pair[0].conflicts(&pair[1])) {
        return Err(no_order(&pair[0], &pair[1]));
    }
    // A momentary one conflicts with one that lasted all the time it had. Those do not overlap: of all that began before, the last to begin
    // ended last.
    for cluster in &momentary {
        let began_before = lasting.partition_point(|long| long.must_precede(cluster));
        let longest = began_before.checked_sub(1).map(|index| &lasting[index]);
        if let Some(long) = longest.filter(|long| long.conflicts(cluster)) {
            return Err(no_order(long, cluster));
        }
    }
    // Two momentary ones never conflict.
    Ok(())
}

fn clusters(operations: &[Operation]) -> Result<Vec<Cluster>, Violation> {
    let mut clusters: HashMap<u64, Cluster> = HashMap::new();
    for write in operations.iter().filter(|operation| operation.action == Action::Write) {
        let &Operation { value, called, answered, .. } = write;
        let cluster = Cluster { value, written: called, first_answer: answered, last_call: called };
        if clusters.insert(value, cluster).is_some() {
            return Err(Violation::NotUnique(*write));
        }
    }
    for read in operations.iter().filter(|operation| operation.action == Action::Read) {
        let cluster = clusters.get_mut(&read.value).ok_or(Violation::NeverWritten(*read))?;
        if read.answered < cluster.written {
            return Err(Violation::FromTheFuture(*read));
        }
        cluster.first_answer = cluster.first_answer.min(read.answered);
        cluster.last_call = cluster.last_call.max(read.called);
    }
    Ok(clusters.into_values().collect())
}

/// What to record.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Chooses blocks and actions.
    pub seed: u64,
    /// Clients, each with one operation open at a time.
    pub threads: u64,
    /// Operations of all of them together, at least.
    pub operations: u64,
    /// Registers, from the start of the disk on.
    pub blocks: u32,
    /// Requests on a block happen one after another. Where several threads serve them, two at the same time may mix: then one client at a
    /// time writes a block, and a read that is half of one write and half of another is no evidence if a write was open meanwhile.
    pub is_atomic: bool,
    /// A file of memory for the requests' data, shared with the server.
    pub shared: Option<PathBuf>,
}

/// Writes and reads the blocks from all threads at once, then reads each once more, and proves the history.
/// The answer is the number of operations in it.
///
/// # Errors
/// A sentence: what the device answered, or what was impossible.
pub fn check(disk: &dyn Disk, plan: &Plan) -> Result<u64, String> {
    let history = record(disk, plan).map_err(|error| format!("seed {}: {error}", plan.seed))?;
    let (mixed, whole): (Vec<Operation>, Vec<Operation>) =
        history.iter().partition(|operation| operation.action == Action::MixedRead);
    if let Some(read) = mixed.iter().find(|read| plan.is_atomic || !is_beside_a_write(read, &whole)) {
        return Err(format!("seed {}: a block was read half of one write and half of another: {read:?}", plan.seed));
    }
    verify(&whole).map_err(|violation| format!("seed {}: {violation}", plan.seed))?;
    Ok(history.len() as u64)
}

fn is_beside_a_write(read: &Operation, history: &[Operation]) -> bool {
    let writes = history.iter().filter(|other| other.action == Action::Write && other.block == read.block);
    writes.into_iter().any(|write| write.called <= read.answered && read.called <= write.answered)
}

fn record(disk: &dyn Disk, plan: &Plan) -> io::Result<Vec<Operation>> {
    let clock = Instant::now();
    let writers: Vec<Mutex<()>> = (0..plan.blocks).map(|_| Mutex::new(())).collect();
    let client = |thread| Client::new(disk, plan, thread, clock, &writers);
    let mut first = client(0)?;
    let mut history = (0..plan.blocks).map(|block| first.write(block)).collect::<io::Result<Vec<_>>>()?;
    let recorded: Vec<io::Result<Vec<Operation>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=plan.threads).map(|thread| scope.spawn(move || client(thread)?.run())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a panic")))).collect()
    });
    for operations in recorded {
        history.extend(operations?);
    }
    for block in 0..plan.blocks {
        history.push(first.read(block)?);
    }
    Ok(history)
}

/// One thread's operations.
struct Client<'a> {
    disk: &'a dyn Disk,
    plan: &'a Plan,
    thread: u64,
    written: u64,
    random: Random,
    buffer: Buffer,
    clock: Instant,
    /// Held by the one who writes the block, where writes may mix.
    writers: &'a [Mutex<()>],
}

impl<'a> Client<'a> {
    fn new(
        disk: &'a dyn Disk,
        plan: &'a Plan,
        thread: u64,
        clock: Instant,
        writers: &'a [Mutex<()>],
    ) -> io::Result<Client<'a>> {
        let buffer = Buffer::new(disk.block_bytes() as usize, plan.shared.as_deref(), thread)?;
        Ok(Client { disk, plan, thread, written: 0, random: Random::new(plan.seed, thread), buffer, clock, writers })
    }

    fn run(mut self) -> io::Result<Vec<Operation>> {
        (0..self.plan.operations.div_ceil(self.plan.threads))
            .map(|_| {
                let block = self.random.below(u64::from(self.plan.blocks)) as u32;
                if self.random.below(2) == 0 { self.write(block) } else { self.read(block) }
            })
            .collect()
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn write(&mut self, block: u32) -> io::Result<Operation> {
        self.written += 1;
        // Unique, for the factor is odd; and no byte of two values is likely to be the same, which would hide a block that is half of each.
        let value = (self.thread << 48 | self.written).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for word in self.buffer.bytes().chunks_exact_mut(8) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        let _alone = (!self.plan.is_atomic).then(|| self.writers[block as usize].lock());
        let called = self.now();
        self.disk.write(self.buffer.bytes(), u64::from(block) * self.disk.block_bytes(), false)?;
        Ok(Operation { block, action: Action::Write, value, called, answered: self.now() })
    }

    fn read(&mut self, block: u32) -> io::Result<Operation> {
        self.buffer.bytes().fill(0xee);
        let called = self.now();
        self.disk.read(self.buffer.bytes(), u64::from(block) * self.disk.block_bytes())?;
        let answered = self.now();
        let mut words = self
            .buffer
            .bytes()
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)));
        let value = words.next().unwrap_or(0);
        let action = if words.all(|word| word == value) { Action::Read } else { Action::MixedRead };
        Ok(Operation { block, action, value, called, answered })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(value: u64, called: u64, answered: u64) -> Operation {
        Operation { block: 0, action: Action::Write, value, called, answered }
    }
    fn read(value: u64, called: u64, answered: u64) -> Operation {
        Operation { action: Action::Read, ..write(value, called, answered) }
    }

    #[test]
    fn one_client_after_another_is_accepted() {
        verify(&[write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7)]).unwrap();
    }

    #[test]
    fn a_read_beside_a_write_may_see_the_old_value_or_the_new_one() {
        for seen in [1, 2] {
            verify(&[write(1, 0, 1), write(2, 2, 9), read(seen, 3, 4), read(2, 10, 11)]).unwrap();
        }
    }

    #[test]
    fn writes_side_by_side_may_happen_in_either_order() {
        for last in [2, 3] {
            verify(&[write(1, 0, 1), write(2, 2, 9), write(3, 2, 9), read(last, 10, 11)]).unwrap();
        }
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_or_not() {
        for seen in [1, 2] {
            verify(&[write(1, 0, 1), write(2, 2, u64::MAX), read(seen, 10, 11)]).unwrap();
        }
        let both = [write(1, 0, 1), write(2, 2, u64::MAX), read(2, 10, 11), read(1, 12, 13)];
        assert!(matches!(verify(&both), Err(Violation::NoOrder { .. })));
    }

    #[test]
    fn a_stale_read_is_rejected() {
        let history = [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)];
        assert!(matches!(verify(&history), Err(Violation::NoOrder { block: 0, .. })));
    }

    #[test]
    fn a_value_that_comes_and_goes_is_rejected() {
        let history = [write(1, 0, 1), write(2, 2, 20), read(2, 3, 4), read(1, 5, 6), read(2, 7, 8)];
        assert!(matches!(verify(&history), Err(Violation::NoOrder { .. })));
    }

    #[test]
    fn two_readers_that_disagree_on_the_order_are_rejected() {
        let writes = [write(1, 0, 1), write(2, 2, 30), write(3, 2, 30)];
        let first_reader = [read(2, 3, 4), read(3, 5, 6)];
        let second_reader = [read(3, 3, 4), read(2, 5, 6)];
        verify(&[&writes[..], &first_reader].concat()).unwrap();
        assert!(verify(&[&writes[..], &first_reader, &second_reader].concat()).is_err());
    }

    #[test]
    fn a_lost_write_is_rejected() {
        assert!(verify(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5), read(1, 6, 7)]).is_err());
    }

    #[test]
    fn what_nobody_wrote_and_what_is_not_yet_written_is_rejected() {
        assert_eq!(verify(&[write(1, 0, 1), read(9, 2, 3)]), Err(Violation::NeverWritten(read(9, 2, 3))));
        assert_eq!(
            verify(&[write(1, 0, 1), read(2, 2, 3), write(2, 4, 5)]),
            Err(Violation::FromTheFuture(read(2, 2, 3)))
        );
        assert_eq!(verify(&[write(1, 0, 1), write(1, 2, 3)]), Err(Violation::NotUnique(write(1, 2, 3))));
    }

    #[test]
    fn each_block_is_a_register_of_its_own() {
        let other = |operation: Operation| Operation { block: 1, ..operation };
        verify(&[write(1, 0, 1), other(write(1, 0, 1)), write(2, 2, 3), other(read(1, 4, 5)), read(2, 4, 5)]).unwrap();
    }

    /// Tries every order: what the algorithm must agree with.
    fn has_an_order(rest: &[Operation], value: Option<u64>) -> bool {
        rest.is_empty()
            || (0..rest.len()).any(|index| {
                let next = rest[index];
                let is_first = rest.iter().all(|other| other.answered >= next.called);
                let fits = next.action == Action::Write || value == Some(next.value);
                let others: Vec<Operation> = [&rest[..index], &rest[index + 1..]].concat();
                is_first && fits && has_an_order(&others, Some(next.value))
            })
    }

    fn histories() -> impl Strategy<Value = Vec<Operation>> {
        // The first write is before all; every other operation anywhere. Writes get values in turn, reads any of them.
        let operation = (any::<bool>(), 0..4_u64, 2..16_u64, 0..8_u64);
        prop::collection::vec(operation, 1..6).prop_map(|drawn| {
            let mut history = vec![write(0, 0, 1)];
            for (index, (is_write, seen, called, length)) in (1..).zip(drawn) {
                history.push(match is_write {
                    true => write(index, called, called + length),
                    false => read(seen, called, called + length),
                });
            }
            history
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn the_verdict_is_that_of_trying_every_order(history in histories()) {
            prop_assert_eq!(verify(&history).is_ok(), has_an_order(&history, None), "{:?}", history);
        }
    }
}
