//! Task classes: who is polled next.
//!
//! Deficit round robin over three classes, by measured run time. In a round each class may run for its share; what it ran too long comes
//! off its next one. Within a round the latency class goes first, so that its tasks wait for one poll of the others at most, for as long
//! as it keeps within its share.

use std::collections::VecDeque;

use super::task::TaskKey;

/// How a task is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Short work that somebody waits for: requests.
    Latency,
    /// Everything else.
    #[default]
    Normal,
    /// What may wait: scrubbing, flushing, statistics.
    Background,
}

impl Class {
    /// All classes, in the order in which a round serves them.
    pub const ALL: [Class; 3] = [Class::Latency, Class::Normal, Class::Background];

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Run time that the classes get while all of them have work, in relation to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Of [`Class::Latency`]; default 700.
    pub latency: u32,
    /// Of [`Class::Normal`]; default 250.
    pub normal: u32,
    /// Of [`Class::Background`]; default 50.
    pub background: u32,
}

impl Default for Shares {
    fn default() -> Shares {
        Shares { latency: 700, normal: 250, background: 50 }
    }
}

/// Ticks of run time for one share in a round: with the default shares a round takes about a million ticks, a third of a millisecond.
const TICKS_PER_SHARE: i64 = 1_000;

/// The runnable tasks.
#[derive(Debug)]
pub(super) struct RunQueues {
    queues: [Queue; 3],
    ready: usize,
    now_ticks: u64,
}

/// How long tasks of a class were runnable before they were polled, in clock ticks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delays {
    pub(super) sum_ticks: u64,
    pub(super) longest_ticks: u64,
}

#[derive(Debug)]
struct Queue {
    /// Who, and since when.
    ready: VecDeque<(TaskKey, u64)>,
    delays: Delays,
    quantum_ticks: i64,
    left_ticks: i64,
}

impl RunQueues {
    pub(super) fn new(shares: Shares) -> RunQueues {
        let queue = |shares: u32| Queue {
            ready: VecDeque::new(),
            delays: Delays::default(),
            quantum_ticks: i64::from(shares.max(1)) * TICKS_PER_SHARE,
            left_ticks: 0,
        };
        let queues = [queue(shares.latency), queue(shares.normal), queue(shares.background)];
        RunQueues { queues, ready: 0, now_ticks: 0 }
    }

    /// The clock as it was read last: what becomes runnable from now on is so since then.
    pub(super) fn set_now(&mut self, ticks: u64) {
        self.now_ticks = ticks;
    }

    pub(super) fn delays(&self, class: Class) -> Delays {
        self.queues[class.index()].delays
    }

    pub(super) fn push(&mut self, class: Class, key: TaskKey) {
        self.ready += 1;
        self.queues[class.index()].ready.push_back((key, self.now_ticks));
    }

    /// Takes a task out of the queue.
    pub(super) fn remove(&mut self, class: Class, key: TaskKey) {
        self.queues[class.index()].ready.retain(|&(queued, _)| queued != key);
        self.ready = self.queues.iter().map(|queue| queue.ready.len()).sum();
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.ready == 0
    }

    /// The task to poll next, and the class to charge for it.
    pub(super) fn pop(&mut self) -> Option<(Class, TaskKey)> {
        loop {
            for class in Class::ALL {
                let queue = &mut self.queues[class.index()];
                if queue.left_ticks > 0
                    && let Some((key, since)) = queue.ready.pop_front()
                {
                    let delay = self.now_ticks.saturating_sub(since);
                    queue.delays.sum_ticks = queue.delays.sum_ticks.wrapping_add(delay);
                    queue.delays.longest_ticks = queue.delays.longest_ticks.max(delay);
                    self.ready -= 1;
                    return Some((class, key));
                }
            }
            if self.is_empty() {
                return None;
            }
            self.begin_round();
        }
    }

    /// A class without work saves nothing for later, but pays what it owes.
    fn begin_round(&mut self) {
        // As many rounds at once as it takes until somebody with work may run: a long poll may owe thousands of them.
        let rounds = |queue: &Queue| 1 + (-queue.left_ticks).max(0) / queue.quantum_ticks;
        let ready = self.queues.iter().filter(|queue| !queue.ready.is_empty());
        let rounds = ready.map(rounds).min().unwrap_or(1);
        for queue in &mut self.queues {
            let left = queue.left_ticks.saturating_add(queue.quantum_ticks.saturating_mul(rounds));
            queue.left_ticks = left.min(queue.quantum_ticks);
        }
    }

    /// A task of the class was polled for so long.
    pub(super) fn charge(&mut self, class: Class, ticks: u64) {
        let queue = &mut self.queues[class.index()];
        queue.left_ticks = queue.left_ticks.saturating_sub(i64::try_from(ticks).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `polls` polls of tasks that are always ready, each as long as its class says. Ticks that each class got.
    fn ticks_of(shares: Shares, poll_ticks: [u64; 3], polls: usize) -> [u64; 3] {
        let mut queues = RunQueues::new(shares);
        for class in Class::ALL {
            queues.push(class, TaskKey::default());
        }
        let mut ran = [0; 3];
        for _ in 0..polls {
            let (class, key) = queues.pop().unwrap();
            queues.charge(class, poll_ticks[class.index()]);
            ran[class.index()] += poll_ticks[class.index()];
            queues.push(class, key);
        }
        ran
    }

    #[test]
    fn run_time_is_shared_as_told_whatever_a_poll_takes() {
        let shares = Shares { latency: 50, normal: 30, background: 20 };
        for poll_ticks in [[100, 100, 100], [10, 1_000, 77], [5_000, 50, 90_000], [100, 300, 2_000_000]] {
            let ran = ticks_of(shares, poll_ticks, 4_000_000);
            let total: u64 = ran.iter().sum();
            for (index, share) in [50.0, 30.0, 20.0].into_iter().enumerate() {
                let got = ran[index] as f64 / total as f64 * 100.0;
                assert!((got - share).abs() < share * 0.05, "{poll_ticks:?}: class {index} got {got:.1} %");
            }
        }
    }

    #[test]
    fn a_class_that_slept_has_saved_nothing() {
        let mut queues = RunQueues::new(Shares { latency: 1, normal: 1, background: 1 });
        queues.push(Class::Normal, TaskKey::default());
        for _ in 0..1_000 {
            let (class, key) = queues.pop().unwrap();
            queues.charge(class, 100);
            queues.push(class, key);
        }
        queues.push(Class::Background, TaskKey::default());
        let mut runs_in_a_row = 0;
        while let Some((Class::Background, key)) = queues.pop() {
            queues.charge(Class::Background, 100);
            queues.push(Class::Background, key);
            runs_in_a_row += 1;
        }
        assert!(runs_in_a_row <= 10, "{runs_in_a_row} polls in a row");
    }

    #[test]
    fn the_latency_class_waits_for_one_poll() {
        let mut queues = RunQueues::new(Shares::default());
        for _ in 0..10 {
            queues.push(Class::Background, TaskKey::default());
            queues.push(Class::Normal, TaskKey::default());
        }
        let (class, _) = queues.pop().unwrap();
        queues.charge(class, 100);
        queues.push(Class::Latency, TaskKey::default());
        assert_eq!(queues.pop().unwrap().0, Class::Latency);
    }
}
