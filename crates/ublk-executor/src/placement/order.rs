//! The order in which CPUs are handed out: as far apart, or as near together, as the machine allows.

use std::collections::BTreeMap;

use super::topology::CpuPlace;

/// Package and NUMA node (the coarser one first), last level of cache, core.
const LEVELS: usize = 4;

/// A CPU and its domains, coarse to fine. A number names a domain among all of its level, and each domain lies within
/// one of the level before.
#[derive(Debug, Clone)]
struct Leaf {
    cpu: usize,
    domains: [usize; LEVELS],
}

fn leaves(places: &[CpuPlace]) -> Vec<Leaf> {
    // Machines have several nodes in a package (sub-NUMA clusters), or several packages in a node (NUMA switched off).
    let nodes = distinct(places, |place| place.node);
    let packages = distinct(places, |place| place.package);
    let mut numbers: [BTreeMap<Vec<Option<usize>>, usize>; LEVELS] = Default::default();
    let leaf = |place: &CpuPlace| {
        let (outer, inner) = if nodes < packages { (place.node, place.package) } else { (place.package, place.node) };
        let path = [outer, inner, place.cache, Some(place.core)];
        let domains = std::array::from_fn(|level| {
            let next = numbers[level].len();
            *numbers[level].entry(path[..=level].to_vec()).or_insert(next)
        });
        Leaf { cpu: place.cpu, domains }
    };
    places.iter().map(leaf).collect()
}

fn distinct(places: &[CpuPlace], domain: impl Fn(&CpuPlace) -> Option<usize>) -> usize {
    places.iter().map(domain).collect::<std::collections::BTreeSet<_>>().len()
}

/// At most `wanted` of `places`, far apart: each next CPU is one whose core has been taken least often, among those one
/// whose cache has, then whose node or package has; the lowest number where all are equal. So a core is shared only
/// when there is none left, and a cache, node or package likewise.
pub(super) fn spread(places: &[CpuPlace], wanted: usize) -> Vec<usize> {
    let mut left = leaves(places);
    let mut taken = vec![[0_usize; LEVELS]; left.len()]; // by domain, then by level: a level has no more domains than CPUs
    let mut order = Vec::new();
    while order.len() < wanted.min(places.len()) {
        let crowding = |leaf: &Leaf| {
            let counts: [usize; LEVELS] = std::array::from_fn(|level| taken[leaf.domains[level]][level]);
            (counts[3], counts[2], counts[1], counts[0], leaf.cpu)
        };
        let next = (0..left.len()).min_by_key(|&index| crowding(&left[index])).expect("fewer taken than there are");
        let leaf = left.swap_remove(next);
        for (level, &domain) in leaf.domains.iter().enumerate() {
            taken[domain][level] += 1;
        }
        order.push(leaf.cpu);
    }
    order
}

/// At most `wanted` of `places`, near together: in the fewest packages or nodes (the coarser of both), among those
/// choices in the fewest of the finer, then caches, then cores; the lowest numbers where all are equal.
pub(super) fn pack(places: &[CpuPlace], wanted: usize) -> Vec<usize> {
    pack_level(leaves(places), 0, wanted.min(places.len())).cpus
}

#[derive(Debug, Default)]
struct Packed {
    cpus: Vec<usize>,
    /// Domains in use at each level.
    domains: [usize; LEVELS],
}

impl Packed {
    fn add(&mut self, level: usize, part: Packed) {
        self.cpus.extend(part.cpus);
        self.domains[level] += 1;
        for (sum, domains) in self.domains.iter_mut().zip(part.domains) {
            *sum += domains;
        }
    }
}

/// Chooses `wanted` of `leaves`, which lie in one domain of the level before. Whole domains are taken, the largest
/// first, until the rest fits in a single one.
fn pack_level(leaves: Vec<Leaf>, level: usize, wanted: usize) -> Packed {
    assert!(wanted <= leaves.len(), "more CPUs wanted than there are");
    if level == LEVELS {
        return Packed { cpus: leaves.iter().take(wanted).map(|leaf| leaf.cpu).collect(), ..Packed::default() };
    }
    let mut groups: BTreeMap<usize, Vec<Leaf>> = BTreeMap::new();
    for leaf in leaves {
        groups.entry(leaf.domains[level]).or_default().push(leaf);
    }
    let mut packed = Packed::default();
    while packed.cpus.len() < wanted {
        let rest = wanted - packed.cpus.len();
        let fitting = groups.values().filter(|group| group.len() >= rest);
        let choices = fitting.map(|group| pack_level(group.clone(), level + 1, rest));
        let part = choices.min_by_key(|choice| choice.domains).unwrap_or_else(|| {
            let largest = *groups.iter().rev().max_by_key(|(_, group)| group.len()).expect("CPUs are left").0;
            let group = groups.remove(&largest).expect("just found");
            let size = group.len();
            pack_level(group, level + 1, size)
        });
        packed.add(level, part);
    }
    packed
}
