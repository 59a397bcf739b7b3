//! What holds for every plan, whatever the machine.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;

use super::machine::{Cpu, Machine};
use crate::placement::{Strategy, Warning, plan_on};

/// Up to three nodes of up to two caches of up to three cores of up to two threads, numbered at random and with gaps;
/// some CPUs are offline, some outside of the cpuset, at least one is allowed.
fn machines() -> impl Generator<Value = Machine> {
    let cores = prop::collection::vec(1..=2_usize, 1..=3);
    let caches = prop::collection::vec(cores, 1..=2);
    let nodes = prop::collection::vec(caches, 1..=3);
    let numbers = Just((0..45_usize).collect::<Vec<_>>()).prop_shuffle();
    let states = prop::collection::vec(
        prop_oneof![6 => Just((true, true)), 2 => Just((true, false)), 1 => Just((false, false))],
        36,
    );
    (nodes, 0..3_usize, numbers, states).prop_map(|(nodes, packages, numbers, states)| {
        let mut cpus = Vec::new();
        let (mut cache, mut core) = (0, 0);
        for (node, caches) in nodes.iter().enumerate() {
            for cores in caches {
                for &threads in cores {
                    for _ in 0..threads {
                        let package = [node, 0, cache][packages]; // one a node, one with all nodes, several in a node
                        let (online, allowed) = if cpus.is_empty() { (true, true) } else { states[cpus.len()] };
                        cpus.push(Cpu { cpu: numbers[cpus.len()], node, package, cache, core, online, allowed });
                    }
                    core += 1;
                }
                cache += 1;
            }
        }
        cpus.sort_by_key(|cpu| cpu.cpu);
        Machine(cpus)
    })
}

fn strategies() -> impl Generator<Value = Strategy> {
    let cpus = || prop::collection::vec(0..50_usize, 0..8);
    prop_oneof![
        Just(Strategy::Unbound),
        cpus().prop_map(Strategy::Fixed),
        Just(Strategy::Spread),
        Just(Strategy::Pack),
        (0..5_usize).prop_map(Strategy::NumaNode),
        Just(Strategy::EachNumaNode),
        prop::collection::vec(cpus(), 0..6).prop_map(Strategy::QueueAffinity),
    ]
}

/// Sizes of the domains of a kind, counted in allowed CPUs, the largest first.
fn sizes<'a, T: Ord>(cpus: impl IntoIterator<Item = &'a Cpu>, domain: impl Fn(&Cpu) -> T) -> Vec<usize> {
    let mut sizes = BTreeMap::new();
    for cpu in cpus {
        *sizes.entry(domain(cpu)).or_insert(0) += 1;
    }
    let mut sizes: Vec<usize> = sizes.into_values().collect();
    sizes.sort_unstable_by(|left, right| right.cmp(left));
    sizes
}

/// The fewest domains that hold `wanted` CPUs together.
fn fewest(sizes: &[usize], wanted: usize) -> usize {
    let sums = sizes.iter().scan(0, |sum, size| {
        *sum += size;
        Some(*sum)
    });
    1 + sums.take_while(|&sum| sum < wanted).count()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn a_tree_is_read_as_it_was_described(machine in machines()) {
        prop_assert_eq!(machine.topology(), machine.expected_topology());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn every_cpu_of_a_plan_is_allowed_and_every_shard_has_one(
        machine in machines(), strategy in strategies(), shards in 0..40_usize,
    ) {
        let allowed = machine.allowed_cpus();
        let plan = plan_on(&machine.expected_topology(), &strategy, shards);
        prop_assert_eq!(plan.shards.len(), shards);
        for shard in &plan.shards {
            prop_assert!(!shard.cpus.is_empty());
            prop_assert!(shard.cpus.iter().all(|cpu| allowed.contains(cpu)), "{:?}", shard);
            prop_assert!(shard.bound || shard.cpus == allowed);
        }
        let warned_of_unbound = plan.warnings.iter().any(|warning| matches!(warning, Warning::ShardsUnbound { .. }));
        let unbound = plan.shards.iter().any(|shard| !shard.bound);
        prop_assert_eq!(warned_of_unbound, unbound && strategy != Strategy::Unbound);
    }

    #[test]
    fn spread_shares_no_domain_that_it_need_not(machine in machines(), shards in any::<prop::sample::Index>()) {
        let allowed = machine.allowed();
        let shards = 1 + shards.index(allowed.len() + 3);
        let plan = plan_on(&machine.expected_topology(), &Strategy::Spread, shards);
        prop_assert!(plan.shards.iter().all(|shard| shard.bound && shard.cpus.len() == 1));
        prop_assert_eq!(machine.domains_of(&plan, |cpu| cpu.cpu), shards.min(allowed.len()));
        prop_assert_eq!(plan.warnings.is_empty(), shards <= allowed.len());
        for domain in [|cpu: &Cpu| cpu.core, |cpu: &Cpu| cpu.cache, |cpu: &Cpu| cpu.node, |cpu: &Cpu| cpu.package] {
            let domains = sizes(allowed.iter().copied(), domain).len();
            prop_assert_eq!(machine.domains_of(&plan, domain), shards.min(domains));
        }
    }

    #[test]
    fn pack_stays_within_the_fewest_nodes_caches_and_cores(machine in machines(), shards in any::<prop::sample::Index>()) {
        let allowed = machine.allowed();
        let shards = 1 + shards.index(allowed.len() + 3);
        let plan = plan_on(&machine.expected_topology(), &Strategy::Pack, shards);
        prop_assert!(plan.shards.iter().all(|shard| shard.bound && shard.cpus.len() == 1));
        let wanted = shards.min(allowed.len());
        prop_assert_eq!(machine.domains_of(&plan, |cpu| cpu.cpu), wanted);
        prop_assert_eq!(plan.warnings.is_empty(), shards <= allowed.len());

        let nodes = sizes(allowed.iter().copied(), |cpu| cpu.node);
        let packages = sizes(allowed.iter().copied(), |cpu| cpu.package);
        if nodes.len() <= packages.len() {
            prop_assert_eq!(machine.domains_of(&plan, |cpu| cpu.node), fewest(&nodes, wanted));
        } else {
            prop_assert_eq!(machine.domains_of(&plan, |cpu| cpu.package), fewest(&packages, wanted));
        }
        for domain in [|cpu: &Cpu| cpu.core, |cpu: &Cpu| cpu.cache, |cpu: &Cpu| cpu.node, |cpu: &Cpu| cpu.package] {
            if sizes(allowed.iter().copied(), domain)[0] >= wanted {
                prop_assert_eq!(machine.domains_of(&plan, domain), 1, "all would fit in one");
            }
        }
        // In one cache: the fewest cores of all caches that hold enough.
        let cores_in = |cache| sizes(allowed.iter().copied().filter(|cpu| cpu.cache == cache), |cpu| cpu.core);
        let in_one_cache = (0..6).map(cores_in).filter(|cores| cores.iter().sum::<usize>() >= wanted);
        if let Some(cores) = in_one_cache.map(|cores| fewest(&cores, wanted)).min() {
            prop_assert_eq!(machine.domains_of(&plan, |cpu| cpu.core), cores);
        }
    }
}
