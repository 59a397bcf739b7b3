//! Machines for tests: described in a few lines, written as a sysfs tree below the temporary directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::placement::topology::CpuPlace;
use crate::placement::{Plan, Topology, cpu_list};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) cpu: usize,
    pub(super) node: usize,
    pub(super) package: usize,
    pub(super) cache: usize,
    /// Unique in the machine, unlike the `core_id` that is written.
    pub(super) core: usize,
    pub(super) online: bool,
    pub(super) allowed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Machine(pub(super) Vec<Cpu>);

impl Machine {
    /// One cache and package for each node; the CPUs of `allowed` are allowed. Numbered as x86 does: first the first
    /// thread of every core, then the second ones.
    pub(super) fn regular(nodes: usize, cores_per_node: usize, threads: usize, allowed: &str) -> Self {
        let allowed = cpu_list::parse(allowed).unwrap();
        let cores = nodes * cores_per_node;
        let cpu = |cpu: usize| {
            let core = cpu % cores;
            let node = core / cores_per_node;
            Cpu { cpu, node, package: node, cache: node, core, online: true, allowed: allowed.contains(&cpu) }
        };
        Self((0..cores * threads).map(cpu).collect())
    }

    pub(super) fn take_offline(&mut self, cpus: &[usize]) {
        for cpu in self.0.iter_mut().filter(|cpu| cpus.contains(&cpu.cpu)) {
            (cpu.online, cpu.allowed) = (false, false);
        }
    }

    pub(super) fn allowed(&self) -> Vec<&Cpu> {
        self.0.iter().filter(|cpu| cpu.allowed).collect()
    }

    pub(super) fn allowed_cpus(&self) -> Vec<usize> {
        self.allowed().iter().map(|cpu| cpu.cpu).collect()
    }

    /// How many domains of a kind the CPUs that `plan` uses are in.
    pub(super) fn domains_of<T: Ord>(&self, plan: &Plan, domain: impl Fn(&Cpu) -> T) -> usize {
        let used: BTreeSet<usize> = plan.shards.iter().flat_map(|shard| &shard.cpus).copied().collect();
        self.0.iter().filter(|cpu| used.contains(&cpu.cpu)).map(domain).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn topology(&self) -> Topology {
        Topology::read(&self.write().0, &self.allowed_cpus())
    }

    /// What reading the tree is to give, made without one: writing a tree takes longer than many plans.
    pub(super) fn expected_topology(&self) -> Topology {
        let lowest = |in_group: &dyn Fn(&Cpu) -> bool| {
            self.0.iter().filter(|cpu| cpu.online && in_group(cpu)).map(|cpu| cpu.cpu).min().unwrap()
        };
        let place = |cpu: &&Cpu| CpuPlace {
            cpu: cpu.cpu,
            node: Some(cpu.node),
            package: Some(cpu.package),
            cache: Some(lowest(&|other| other.cache == cpu.cache)),
            core: lowest(&|other| other.core == cpu.core),
            core_is_known: true,
        };
        let mut nodes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for cpu in &self.0 {
            nodes.entry(cpu.node).or_default().extend(cpu.online.then_some(cpu.cpu));
        }
        let online = self.0.iter().filter(|cpu| cpu.online).map(|cpu| cpu.cpu).collect();
        Topology { places: self.allowed().iter().map(place).collect(), online: Some(online), nodes }
    }

    /// Writes what the kernel shows: an offline CPU has no topology and is in no list of others.
    pub(super) fn write(&self) -> SystemDir {
        let dir = SystemDir::new();
        let online: Vec<&Cpu> = self.0.iter().filter(|cpu| cpu.online).collect();
        let list = |in_list: &dyn Fn(&Cpu) -> bool| {
            let cpus: Vec<usize> = online.iter().filter(|cpu| in_list(cpu)).map(|cpu| cpu.cpu).collect();
            cpu_list::format(&cpus)
        };
        dir.write("cpu/online", &list(&|_| true));
        for cpu in &self.0 {
            dir.write(&format!("node/node{}/cpulist", cpu.node), &list(&|other| other.node == cpu.node));
            let cpu_dir = format!("cpu/cpu{}", cpu.cpu);
            dir.write(&format!("{cpu_dir}/uevent"), "");
            if !cpu.online {
                continue;
            }
            dir.write(&format!("{cpu_dir}/topology/physical_package_id"), &cpu.package.to_string());
            // Counted from 0 in each cache, as device-tree machines do in each cluster.
            let first = self.0.iter().filter(|other| other.cache == cpu.cache).map(|other| other.core).min();
            dir.write(&format!("{cpu_dir}/topology/core_id"), &(cpu.core - first.unwrap()).to_string());
            dir.write(&format!("{cpu_dir}/topology/core_cpus_list"), &list(&|other| other.core == cpu.core));
            for (level, index) in [(1, 0), (1, 1), (3, 2)] {
                let shares = |other: &Cpu| if level == 3 { other.cache == cpu.cache } else { other.core == cpu.core };
                dir.write(&format!("{cpu_dir}/cache/index{index}/level"), &level.to_string());
                dir.write(&format!("{cpu_dir}/cache/index{index}/shared_cpu_list"), &list(&shares));
            }
        }
        dir
    }
}

/// A directory in the place of `/sys/devices/system`, removed when dropped.
pub(super) struct SystemDir(pub(super) PathBuf);

impl SystemDir {
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ublk-placement-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Removes a file or directory.
    pub(super) fn remove(&self, path: &str) {
        let path: &Path = &self.0.join(path);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
}

impl Drop for SystemDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
