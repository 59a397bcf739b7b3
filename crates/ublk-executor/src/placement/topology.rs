//! Where the allowed CPUs sit in the machine, as far as sysfs tells.
//!
//! Containers hide sysfs in part or in whole, virtual machines leave fields out, and a CPU may go offline between two
//! reads: whatever is missing or damaged counts as unknown, and reading never fails.

use std::collections::BTreeMap;
use std::path::Path;

use super::cpu_list;

/// Where Linux keeps `cpu/` and `node/`.
pub const SYSTEM_DIR: &str = "/sys/devices/system";

/// One CPU and the domains it shares with others. Equal numbers mean a shared domain; `None` is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuPlace {
    /// Number of the CPU: N of `cpuN`.
    pub cpu: usize,
    /// Number of its NUMA node.
    pub node: Option<usize>,
    /// Its physical package (socket), `physical_package_id`.
    pub package: Option<usize>,
    /// Its last level of cache, by the lowest CPU that shares it.
    pub cache: Option<usize>,
    /// Its core, by the lowest of its SMT siblings, whether allowed or not. A CPU of which nothing is known is its own.
    pub core: usize,
    /// Whether sysfs told the core.
    pub core_is_known: bool,
}

/// The allowed CPUs and their places: what a [`Strategy`](super::Strategy) chooses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    // Open to the tests, which also make topologies without a tree.
    /// Invariant: ascends by number, each CPU once.
    pub(super) places: Vec<CpuPlace>,
    pub(super) online: Option<Vec<usize>>,
    /// CPUs of each node, allowed or not.
    pub(super) nodes: BTreeMap<usize, Vec<usize>>,
}

impl Topology {
    /// Reads the places of the `allowed` CPUs (in any order) below `system_dir`, which is [`SYSTEM_DIR`] outside of tests.
    pub fn read(system_dir: &Path, allowed: &[usize]) -> Self {
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        allowed.dedup();
        let nodes = read_nodes(&system_dir.join("node"));
        let cpu_dir = system_dir.join("cpu");
        let mut first_of_core = BTreeMap::new();
        let mut place = |cpu| {
            let dir = cpu_dir.join(format!("cpu{cpu}"));
            let core = read_core(&dir.join("topology"), cpu, &mut first_of_core);
            CpuPlace {
                cpu,
                node: nodes.iter().find(|(_, cpus)| cpus.contains(&cpu)).map(|(&node, _)| node),
                package: read_number(&dir.join("topology/physical_package_id")),
                cache: read_last_level_cache(&dir.join("cache"), cpu),
                core: core.unwrap_or(cpu),
                core_is_known: core.is_some(),
            }
        };
        let places = allowed.into_iter().map(&mut place).collect();
        Self { places, online: read_list(&cpu_dir.join("online")), nodes }
    }

    /// The allowed CPUs, lowest first.
    pub fn places(&self) -> &[CpuPlace] {
        &self.places
    }

    /// Numbers of the allowed CPUs, lowest first.
    pub fn allowed_cpus(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.cpu).collect()
    }

    /// Whether `cpu` may be used.
    pub fn is_allowed(&self, cpu: usize) -> bool {
        self.places.binary_search_by_key(&cpu, |place| place.cpu).is_ok()
    }

    /// Whether `cpu` is known to be offline or not to exist; `false` where sysfs does not tell.
    pub fn is_offline(&self, cpu: usize) -> bool {
        self.online.as_ref().is_some_and(|online| !online.contains(&cpu))
    }

    /// Numbers of the NUMA nodes, lowest first, those without CPUs as well; empty where sysfs does not tell, as with a
    /// kernel built without NUMA.
    pub fn nodes(&self) -> Vec<usize> {
        self.nodes.keys().copied().collect()
    }
}

fn read_nodes(dir: &Path) -> BTreeMap<usize, Vec<usize>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let node = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        Some((number, read_list(&entry.path().join("cpulist"))?))
    };
    entries.filter_map(node).collect()
}

/// The siblings' own list comes first: `core_id` counts from 0 in each cluster on device-tree machines, and in each
/// package or die on others.
fn read_core(dir: &Path, cpu: usize, first_of_core: &mut BTreeMap<[Option<usize>; 4], usize>) -> Option<usize> {
    let siblings = ["core_cpus_list", "thread_siblings_list"].iter().find_map(|name| read_group(&dir.join(name), cpu));
    if siblings.is_some() {
        return siblings;
    }
    let id = |name: &str| read_number(&dir.join(name));
    let core_id = id("core_id")?;
    let ids = [id("physical_package_id"), id("die_id"), id("cluster_id"), Some(core_id)];
    Some(*first_of_core.entry(ids).or_insert(cpu))
}

fn read_last_level_cache(dir: &Path, cpu: usize) -> Option<usize> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let level = |entry: std::fs::DirEntry| Some((read_number(&entry.path().join("level"))?, entry.path()));
    let (_, last) = entries.filter_map(level).max()?;
    read_group(&last.join("shared_cpu_list"), cpu)
}

/// The lowest CPU of a list of which `cpu` must be part; any other list is damaged.
fn read_group(path: &Path, cpu: usize) -> Option<usize> {
    let group = read_list(path)?;
    group.contains(&cpu).then(|| group[0])
}

fn read_list(path: &Path) -> Option<Vec<usize>> {
    cpu_list::parse(&std::fs::read_to_string(path).ok()?).ok()
}

/// A number of 0 or above: the kernel writes -1 for what the firmware does not tell.
fn read_number(path: &Path) -> Option<usize> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
