//! What of a wish could not be granted, and why. Never an error: the shards run, if elsewhere.

use std::fmt;

use super::cpu_list;

/// A part of a [`Strategy`](super::Strategy) that could not be granted. CPU, node and shard numbers ascend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Wished CPUs that are offline or do not exist. Lists from a driver often name such: the kernel maps its queues to
    /// every CPU that may ever be plugged in.
    CpusOffline {
        /// Their numbers.
        cpus: Vec<usize>,
    },
    /// Wished CPUs outside of the cpuset or affinity of the process.
    CpusNotAllowed {
        /// Their numbers.
        cpus: Vec<usize>,
    },
    /// sysfs tells no NUMA nodes.
    NumaUnknown,
    /// The wished NUMA node does not exist.
    NodeMissing {
        /// Number of the wished node.
        node: usize,
        /// Numbers of the nodes that exist.
        nodes: Vec<usize>,
    },
    /// The wished NUMA node has memory alone, or none of its CPUs is allowed.
    NodeWithoutAllowedCpu {
        /// Its number.
        node: usize,
    },
    /// sysfs does not tell the cores of these CPUs, so SMT siblings may have been taken for cores.
    CoresUnknown {
        /// Their numbers.
        cpus: Vec<usize>,
    },
    /// More shards than lists of queue CPUs.
    ShardsShareQueues {
        /// Number of shards.
        shards: usize,
        /// Number of lists.
        queues: usize,
    },
    /// Shards for which no wished CPU is usable: they run on any that is allowed.
    ShardsUnbound {
        /// Their indices.
        shards: Vec<usize>,
    },
    /// More shards than CPUs for them.
    ShardsShareCpus {
        /// Number of shards.
        shards: usize,
        /// The CPUs that they share.
        cpus: Vec<usize>,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = cpu_list::format;
        match self {
            Self::CpusOffline { cpus } => write!(f, "CPUs {} are offline or do not exist: left out", list(cpus)),
            Self::CpusNotAllowed { cpus } => {
                write!(f, "CPUs {} are outside of the cpuset or affinity of this process: left out", list(cpus))
            }
            Self::NumaUnknown => f.write_str(
                "/sys/devices/system/node tells no NUMA nodes (hidden by a container, or no NUMA in the kernel)",
            ),
            Self::NodeMissing { node, nodes } => {
                write!(f, "NUMA node {node} does not exist; there are nodes {}", list(nodes))
            }
            Self::NodeWithoutAllowedCpu { node } => {
                write!(f, "NUMA node {node} has no CPU in the cpuset and affinity of this process")
            }
            Self::CoresUnknown { cpus } => write!(
                f,
                "/sys/devices/system/cpu does not tell the cores of CPUs {}: each was taken for a core of its own",
                list(cpus)
            ),
            Self::ShardsShareQueues { shards, queues } => {
                write!(f, "{shards} shards for {queues} queues: some serve the CPUs of the same queue")
            }
            Self::ShardsUnbound { shards } => {
                write!(
                    f,
                    "shards {} are not bound: no CPU wished for them is usable, any allowed one serves",
                    list(shards)
                )
            }
            Self::ShardsShareCpus { shards, cpus } => {
                write!(f, "{shards} shards on {} CPUs ({}): some share one", cpus.len(), list(cpus))
            }
        }
    }
}
