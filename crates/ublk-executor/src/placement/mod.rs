//! Where the threads of an executor run: always within the CPUs that the process is allowed, whatever is asked.
//!
//! [`plan`] turns a [`Strategy`] into one set of CPUs for each shard (a thread with its ring), on any thread; each
//! shard's thread then calls [`ShardCpus::bind_current_thread`] for itself. A wish that cannot be granted in full is
//! granted as far as it can be, and a [`Warning`] says what is missing and why.
//!
//! Invariant: a plan names allowed CPUs alone (sched_getaffinity: cpuset, affinity and hotplug in one), and none of its
//! sets is empty. What was allowed may change later, so binding asks again.

pub mod cpu_list;
mod order;
#[cfg(test)]
mod tests;
mod thread;
pub mod topology;
mod warning;

use std::path::Path;

pub use thread::{Placement, allowed_cpus, pin_current_thread};
pub use topology::Topology;
pub use warning::Warning;

/// A wish for the CPUs of an executor's shards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Every shard wherever the kernel likes, and it follows when the allowed set changes.
    #[default]
    Unbound,
    /// Shard `i` on the `i`-th usable CPU of these, from the start again when there are more shards. A CPU named twice
    /// counts once.
    Fixed(Vec<usize>),
    /// One CPU for each shard, as far apart as possible: no two on a core, in a last-level cache, in a NUMA node or in a
    /// package while there is another. SMT siblings come last.
    Spread,
    /// One CPU for each shard, as near together as possible: in the fewest packages, NUMA nodes, last-level caches and
    /// cores, in this order (nodes before packages where a node has several).
    Pack,
    /// Every shard on any CPU of this NUMA node.
    NumaNode(usize),
    /// Each shard on any CPU of one NUMA node, and the shards dealt out to all nodes by the number of their CPUs.
    EachNumaNode,
    /// Shard `i` on any CPU of the `i`-th list, from the first list again when there are more shards: what a driver says
    /// of its hardware queues, as UBLK_CMD_GET_QUEUE_AFFINITY does.
    QueueAffinity(Vec<Vec<usize>>),
}

/// Where one shard is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardCpus {
    /// Numbers of the CPUs; those that were allowed at planning when `bound` is false.
    pub cpus: Vec<usize>,
    /// Whether the thread is to be bound to `cpus`. One that is not keeps its affinity, and gains CPUs that come online
    /// or into the cpuset.
    pub bound: bool,
}

impl ShardCpus {
    /// Binds the calling thread to those of `cpus` that it is allowed now; leaves it alone when `bound` is false.
    ///
    /// # Errors
    /// As [`pin_current_thread`].
    pub fn bind_current_thread(&self) -> std::io::Result<Placement> {
        if self.bound { pin_current_thread(&self.cpus) } else { Ok(Placement::Unbound) }
    }
}

/// What became of a [`Strategy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each shard. No set is empty, unless no CPU at all was allowed.
    pub shards: Vec<ShardCpus>,
    /// What could not be granted; empty when all was.
    pub warnings: Vec<Warning>,
}

/// Plans `shards` threads on the CPUs that the calling thread is allowed, by the topology of this machine.
///
/// # Errors
/// As [`allowed_cpus`]. A wish that cannot be granted is a [`Warning`] and no error.
pub fn plan(strategy: &Strategy, shards: usize) -> std::io::Result<Plan> {
    let topology = Topology::read(Path::new(topology::SYSTEM_DIR), &allowed_cpus()?);
    Ok(plan_on(&topology, strategy, shards))
}

/// Plans `shards` threads on the allowed CPUs of `topology`. The same arguments give the same plan.
pub fn plan_on(topology: &Topology, strategy: &Strategy, shards: usize) -> Plan {
    let mut planner = Planner { topology, shards, warnings: Vec::new() };
    let wished = match strategy {
        Strategy::Unbound => vec![None; shards],
        Strategy::Fixed(cpus) => planner.fixed(cpus),
        Strategy::Spread => {
            planner.warn_of_unknown_cores();
            planner.one_each(&order::spread(topology.places(), shards))
        }
        Strategy::Pack => {
            planner.warn_of_unknown_cores();
            planner.one_each(&order::pack(topology.places(), shards))
        }
        Strategy::NumaNode(node) => planner.numa_node(*node),
        Strategy::EachNumaNode => planner.each_numa_node(),
        Strategy::QueueAffinity(queues) => planner.queue_affinity(queues),
    };
    planner.finish(wished, *strategy != Strategy::Unbound)
}

/// CPUs of one shard; none when it is left unbound.
type Wished = Option<Vec<usize>>;

struct Planner<'a> {
    topology: &'a Topology,
    shards: usize,
    warnings: Vec<Warning>,
}

impl Planner<'_> {
    fn fixed(&mut self, cpus: &[usize]) -> Vec<Wished> {
        self.warn_of_unusable(cpus);
        let mut usable: Vec<usize> = Vec::new();
        for &cpu in cpus {
            if self.topology.is_allowed(cpu) && !usable.contains(&cpu) {
                usable.push(cpu);
            }
        }
        self.one_each(&usable)
    }

    fn numa_node(&mut self, node: usize) -> Vec<Wished> {
        let nodes = self.topology.nodes();
        let cpus = self.cpus_of_node(Some(node));
        if nodes.is_empty() {
            self.warnings.push(Warning::NumaUnknown);
        } else if !nodes.contains(&node) {
            self.warnings.push(Warning::NodeMissing { node, nodes });
        } else if cpus.is_empty() {
            self.warnings.push(Warning::NodeWithoutAllowedCpu { node });
        }
        vec![Some(cpus); self.shards]
    }

    fn each_numa_node(&mut self) -> Vec<Wished> {
        if self.topology.nodes().is_empty() {
            self.warnings.push(Warning::NumaUnknown);
            return vec![None; self.shards];
        }
        // Dealt by one CPU each: a node gets no more shards than it has CPUs while others have some left.
        let order = order::spread(self.topology.places(), self.shards);
        let node_of = |cpu| self.topology.places().iter().find(|place| place.cpu == cpu).and_then(|place| place.node);
        order.iter().cycle().take(self.shards).map(|&cpu| Some(self.cpus_of_node(node_of(cpu)))).collect()
    }

    fn queue_affinity(&mut self, queues: &[Vec<usize>]) -> Vec<Wished> {
        self.warn_of_unusable(&queues.concat());
        if self.shards > queues.len() {
            self.warnings.push(Warning::ShardsShareQueues { shards: self.shards, queues: queues.len() });
        }
        let usable = |queue: &Vec<usize>| {
            let cpus = self.topology.allowed_cpus();
            Some(cpus.into_iter().filter(|cpu| queue.contains(cpu)).collect())
        };
        queues.iter().cycle().take(self.shards).map(usable).collect()
    }

    fn one_each(&self, cpus: &[usize]) -> Vec<Wished> {
        cpus.iter().cycle().take(self.shards).map(|&cpu| Some(vec![cpu])).collect()
    }

    fn cpus_of_node(&self, node: Option<usize>) -> Vec<usize> {
        self.topology.places().iter().filter(|place| place.node == node).map(|place| place.cpu).collect()
    }

    fn warn_of_unusable(&mut self, wished: &[usize]) {
        let mut unusable: Vec<usize> = wished.iter().copied().filter(|&cpu| !self.topology.is_allowed(cpu)).collect();
        unusable.sort_unstable();
        unusable.dedup();
        let (offline, outside): (Vec<_>, Vec<_>) = unusable.iter().partition(|&&cpu| self.topology.is_offline(cpu));
        if !offline.is_empty() {
            self.warnings.push(Warning::CpusOffline { cpus: offline });
        }
        if !outside.is_empty() {
            self.warnings.push(Warning::CpusNotAllowed { cpus: outside });
        }
    }

    fn warn_of_unknown_cores(&mut self) {
        let unknown = self.topology.places().iter().filter(|place| !place.core_is_known);
        let cpus: Vec<usize> = unknown.map(|place| place.cpu).collect();
        if !cpus.is_empty() {
            self.warnings.push(Warning::CoresUnknown { cpus });
        }
    }

    /// Gives every shard a set: one without a usable CPU runs on any that is allowed.
    fn finish(mut self, mut wished: Vec<Wished>, warn_of_unbound: bool) -> Plan {
        wished.resize(self.shards, None);
        let allowed = self.topology.allowed_cpus();
        let shard = |wished: Wished| match wished {
            Some(cpus) if !cpus.is_empty() => ShardCpus { cpus, bound: true },
            _ => ShardCpus { cpus: allowed.clone(), bound: false },
        };
        let shards: Vec<ShardCpus> = wished.into_iter().map(shard).collect();

        let unbound: Vec<usize> = (0..shards.len()).filter(|&index| !shards[index].bound).collect();
        if warn_of_unbound && !unbound.is_empty() {
            self.warnings.push(Warning::ShardsUnbound { shards: unbound });
        }
        let in_use: std::collections::BTreeSet<usize> = shards.iter().flat_map(|shard| &shard.cpus).copied().collect();
        if shards.len() > in_use.len() {
            self.warnings.push(Warning::ShardsShareCpus { shards: shards.len(), cpus: in_use.into_iter().collect() });
        }
        Plan { shards, warnings: self.warnings }
    }
}
