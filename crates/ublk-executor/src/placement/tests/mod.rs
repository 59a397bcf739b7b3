//! Plans on synthetic machines.

mod machine;
mod properties;

use super::*;
use machine::{Machine, SystemDir};

/// One CPU for each shard: what the strategies that bind to single CPUs give.
fn single_cpus(plan: &Plan) -> Vec<usize> {
    let single = |shard: &ShardCpus| {
        assert!(shard.bound && shard.cpus.len() == 1, "{shard:?}");
        shard.cpus[0]
    };
    plan.shards.iter().map(single).collect()
}

fn assert_all_unbound(plan: &Plan, allowed: &[usize]) {
    assert!(plan.shards.iter().all(|shard| *shard == ShardCpus { cpus: allowed.to_vec(), bound: false }), "{plan:?}");
}

#[test]
fn spread_takes_nodes_then_cores_then_smt_siblings() {
    // Nodes {0,1,4,5} and {2,3,6,7}; siblings are four apart.
    let machine = Machine::regular(2, 2, 2, "0-7");
    let plan = plan_on(&machine.topology(), &Strategy::Spread, 8);
    assert_eq!(single_cpus(&plan), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert_eq!(plan.warnings, []);
}

#[test]
fn spread_takes_caches_of_a_node_in_turn() {
    let mut machine = Machine::regular(1, 4, 1, "0-3");
    for cpu in &mut machine.0 {
        cpu.cache = cpu.cpu / 2;
    }
    assert_eq!(single_cpus(&plan_on(&machine.topology(), &Strategy::Spread, 4)), [0, 2, 1, 3]);
}

#[test]
fn spread_takes_nodes_and_packages_in_turn_whichever_contains_the_other() {
    let places = |package_of: fn(usize) -> usize, node_of: fn(usize) -> usize| {
        let mut machine = Machine::regular(1, 8, 1, "0-7");
        for cpu in &mut machine.0 {
            (cpu.package, cpu.node, cpu.cache) = (package_of(cpu.cpu), node_of(cpu.cpu), cpu.cpu / 2);
        }
        single_cpus(&plan_on(&machine.topology(), &Strategy::Spread, 4))
    };
    assert_eq!(places(|cpu| cpu / 4, |cpu| cpu / 2), [0, 4, 2, 6], "sub-NUMA clusters");
    assert_eq!(places(|cpu| cpu / 2, |cpu| cpu / 4), [0, 4, 2, 6], "two packages in a node");
    assert_eq!(places(|cpu| cpu / 2, |_| 0), [0, 2, 4, 6], "NUMA switched off");
}

#[test]
fn pack_takes_siblings_then_cores_of_one_node() {
    let machine = Machine::regular(2, 2, 2, "0-7");
    let plan = plan_on(&machine.topology(), &Strategy::Pack, 6);
    assert_eq!(single_cpus(&plan), [0, 4, 1, 5, 2, 6]);
    assert_eq!(plan.warnings, []);
}

#[test]
fn pack_goes_where_the_cpuset_leaves_enough_cpus_together() {
    // Node 0 has the sibling-less 0 and 1 left, node 1 all of 4-7 and 12-15.
    let machine = Machine::regular(2, 4, 2, "0,1,4-7,12-15");
    let topology = machine.topology();
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Pack, 4)), [4, 12, 5, 13]);
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Pack, 2)), [4, 12], "one core rather than two");
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Pack, 1)), [0]);
}

#[test]
fn pack_keeps_to_one_of_the_packages_in_a_node() {
    let mut machine = Machine::regular(2, 4, 1, "0-7");
    for cpu in &mut machine.0 {
        cpu.package = [0, 1, 1, 0, 2, 3, 3, 2][cpu.cpu];
    }
    let plan = plan_on(&machine.topology(), &Strategy::Pack, 4);
    assert_eq!(single_cpus(&plan), [0, 3, 1, 2], "two packages of one node");
}

#[test]
fn hybrid_cores_with_and_without_siblings_count_once_each() {
    // Two performance cores {0,1} and {2,3}, four efficient ones.
    let mut machine = Machine::regular(1, 8, 1, "0-7");
    for cpu in &mut machine.0 {
        cpu.core = [0, 0, 2, 2, 4, 5, 6, 7][cpu.cpu];
    }
    let topology = machine.topology();
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Spread, 8)), [0, 2, 4, 5, 6, 7, 1, 3]);
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Pack, 5)), [0, 1, 2, 3, 4]);
}

#[test]
fn offline_cpus_and_gaps_in_the_numbering_are_stepped_over() {
    let mut machine = Machine::regular(2, 4, 1, "0-7");
    machine.take_offline(&[0, 5]);
    machine.0.retain(|cpu| cpu.cpu != 2);
    let topology = machine.topology();
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Spread, 5)), [1, 4, 3, 6, 7]);
    let plan = plan_on(&topology, &Strategy::Fixed(vec![0, 1, 2, 5, 7]), 2);
    assert_eq!(single_cpus(&plan), [1, 7]);
    assert_eq!(plan.warnings, [Warning::CpusOffline { cpus: vec![0, 2, 5] }]);
}

#[test]
fn an_smt_sibling_outside_of_the_cpuset_is_no_reason_to_avoid_the_core() {
    let machine = Machine::regular(1, 4, 2, "1,4,6,7");
    assert_eq!(single_cpus(&plan_on(&machine.topology(), &Strategy::Spread, 4)), [1, 4, 6, 7]);
}

#[test]
fn a_single_cpu_takes_every_shard() {
    let topology = Machine::regular(1, 1, 1, "0").topology();
    for strategy in [Strategy::Spread, Strategy::Pack, Strategy::Fixed(vec![0])] {
        let plan = plan_on(&topology, &strategy, 3);
        assert_eq!(single_cpus(&plan), [0, 0, 0]);
        assert_eq!(plan.warnings, [Warning::ShardsShareCpus { shards: 3, cpus: vec![0] }], "{strategy:?}");
    }
}

#[test]
fn more_shards_than_cpus_start_again_from_the_first() {
    let plan = plan_on(&Machine::regular(2, 2, 1, "0-3").topology(), &Strategy::Spread, 6);
    assert_eq!(single_cpus(&plan), [0, 2, 1, 3, 0, 2]);
    assert_eq!(plan.warnings, [Warning::ShardsShareCpus { shards: 6, cpus: vec![0, 1, 2, 3] }]);
}

#[test]
fn no_shards_are_no_plan_and_no_warning() {
    let topology = Machine::regular(1, 2, 1, "0-1").topology();
    for strategy in [Strategy::Unbound, Strategy::Pack, Strategy::EachNumaNode, Strategy::QueueAffinity(vec![])] {
        assert_eq!(plan_on(&topology, &strategy, 0), Plan { shards: vec![], warnings: vec![] });
    }
}

#[test]
fn unbound_shards_get_the_allowed_cpus_without_a_warning() {
    let plan = plan_on(&Machine::regular(1, 4, 1, "1-3").topology(), &Strategy::Unbound, 3);
    assert_all_unbound(&plan, &[1, 2, 3]);
    assert_eq!(plan.warnings, []);
}

#[test]
fn fixed_keeps_the_order_and_counts_a_cpu_once() {
    let plan = plan_on(&Machine::regular(1, 4, 1, "0-3").topology(), &Strategy::Fixed(vec![3, 1, 3, 0]), 4);
    assert_eq!(single_cpus(&plan), [3, 1, 0, 3]);
}

#[test]
fn fixed_leaves_out_what_the_cpuset_forbids_and_says_so() {
    let topology = Machine::regular(1, 4, 1, "2-3").topology();
    let plan = plan_on(&topology, &Strategy::Fixed(vec![1, 2, 0, 9]), 1);
    assert_eq!(single_cpus(&plan), [2]);
    assert_eq!(plan.warnings, [Warning::CpusOffline { cpus: vec![9] }, Warning::CpusNotAllowed { cpus: vec![0, 1] }]);

    let plan = plan_on(&topology, &Strategy::Fixed(vec![0, 1]), 2);
    assert_all_unbound(&plan, &[2, 3]);
    assert_eq!(
        plan.warnings,
        [Warning::CpusNotAllowed { cpus: vec![0, 1] }, Warning::ShardsUnbound { shards: vec![0, 1] }]
    );
}

#[test]
fn a_numa_node_gives_its_allowed_cpus() {
    let topology = Machine::regular(2, 4, 1, "0-5").topology();
    let plan = plan_on(&topology, &Strategy::NumaNode(1), 2);
    assert_eq!(plan.shards, vec![ShardCpus { cpus: vec![4, 5], bound: true }; 2]);
    assert_eq!(plan.warnings, []);
}

#[test]
fn a_numa_node_that_cannot_serve_leaves_the_shards_unbound() {
    let dir = Machine::regular(2, 2, 1, "0-1").write();
    dir.write("node/node4/cpulist", ""); // memory alone
    let topology = Topology::read(&dir.0, &[0, 1]);
    let unbound = Warning::ShardsUnbound { shards: vec![0] };
    for (node, why) in [
        (1, Warning::NodeWithoutAllowedCpu { node: 1 }),
        (4, Warning::NodeWithoutAllowedCpu { node: 4 }),
        (7, Warning::NodeMissing { node: 7, nodes: vec![0, 1, 4] }),
    ] {
        let plan = plan_on(&topology, &Strategy::NumaNode(node), 1);
        assert_all_unbound(&plan, &[0, 1]);
        assert_eq!(plan.warnings, [why, unbound.clone()]);
    }
}

#[test]
fn shards_are_dealt_to_nodes_by_the_number_of_their_cpus() {
    let plan = plan_on(&Machine::regular(2, 4, 1, "0,4-7").topology(), &Strategy::EachNumaNode, 5);
    let on_node = |cpus: &[usize]| plan.shards.iter().filter(|shard| shard.bound && shard.cpus == cpus).count();
    assert_eq!((on_node(&[0]), on_node(&[4, 5, 6, 7])), (1, 4));
    assert_eq!(plan.shards[1].cpus, [4, 5, 6, 7], "the second shard is on the second node");
    assert_eq!(plan.warnings, []);
}

#[test]
fn a_queue_gives_its_shard_the_allowed_cpus_of_its_list() {
    let topology = Machine::regular(1, 8, 1, "0-5").topology();
    let queues = vec![vec![4, 0, 64], vec![1, 5], vec![6, 7]];
    let plan = plan_on(&topology, &Strategy::QueueAffinity(queues), 4);
    let bound = |cpus: &[usize]| ShardCpus { cpus: cpus.to_vec(), bound: true };
    let unbound = ShardCpus { cpus: vec![0, 1, 2, 3, 4, 5], bound: false };
    assert_eq!(plan.shards, [bound(&[0, 4]), bound(&[1, 5]), unbound, bound(&[0, 4])]);
    assert_eq!(
        plan.warnings,
        [
            Warning::CpusOffline { cpus: vec![64] },
            Warning::CpusNotAllowed { cpus: vec![6, 7] },
            Warning::ShardsShareQueues { shards: 4, queues: 3 },
            Warning::ShardsUnbound { shards: vec![2] },
        ]
    );
}

#[test]
fn without_sysfs_every_cpu_is_a_core_and_the_plan_says_so() {
    let dir = SystemDir::new();
    let topology = Topology::read(&dir.0.join("missing"), &[5, 3, 3, 1]);
    let unknown = [Warning::CoresUnknown { cpus: vec![1, 3, 5] }];
    for strategy in [Strategy::Spread, Strategy::Pack] {
        let plan = plan_on(&topology, &strategy, 3);
        assert_eq!(single_cpus(&plan), [1, 3, 5]);
        assert_eq!(plan.warnings, unknown);
    }
    for strategy in [Strategy::NumaNode(0), Strategy::EachNumaNode] {
        let plan = plan_on(&topology, &strategy, 1);
        assert_all_unbound(&plan, &[1, 3, 5]);
        assert_eq!(plan.warnings, [Warning::NumaUnknown, Warning::ShardsUnbound { shards: vec![0] }]);
    }
    let plan = plan_on(&topology, &Strategy::Fixed(vec![2, 3]), 1);
    assert_eq!(plan.warnings, [Warning::CpusNotAllowed { cpus: vec![2] }], "offline is said only where it is known");
}

#[test]
fn without_lists_of_siblings_the_numbers_of_cores_tell_them() {
    let dir = Machine::regular(2, 2, 2, "0-7").write();
    for cpu in 0..8 {
        dir.remove(&format!("cpu/cpu{cpu}/topology/core_cpus_list"));
    }
    let topology = Topology::read(&dir.0, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let cores: Vec<usize> = topology.places().iter().map(|place| place.core).collect();
    assert_eq!(cores, [0, 1, 2, 3, 0, 1, 2, 3]);
}

/// On device-tree machines cores of two clusters in one package have the same `core_id`.
#[test]
fn cores_with_one_number_in_two_clusters_are_two_cores() {
    let mut machine = Machine::regular(1, 4, 1, "0-3");
    for cpu in &mut machine.0 {
        cpu.cache = cpu.cpu / 2; // the fixture counts core_id in each cache
    }
    let cores: Vec<usize> = machine.topology().places().iter().map(|place| place.core).collect();
    assert_eq!(cores, [0, 1, 2, 3]);
}

#[test]
fn damaged_files_count_as_missing() {
    let dir = Machine::regular(1, 2, 1, "0-1").write();
    for (file, text) in [
        ("cpu/online", "0-"),
        ("node/node0/cpulist", "zero"),
        ("cpu/cpu0/topology/physical_package_id", "-1"),
        ("cpu/cpu0/topology/core_cpus_list", "1"), // without CPU 0 itself
        ("cpu/cpu0/topology/core_id", "-1"),
        ("cpu/cpu0/cache/index2/shared_cpu_list", "0-99999999999"),
    ] {
        dir.write(file, text);
    }
    std::fs::write(dir.0.join("cpu/cpu1/topology/core_cpus_list"), [0xff, 0xfe]).unwrap();
    dir.write("node/nodeX/cpulist", "0");
    let topology = Topology::read(&dir.0, &[0, 1]);
    let place = &topology.places()[0];
    assert_eq!((place.node, place.package, place.cache, place.core, place.core_is_known), (None, None, None, 0, false));
    assert!(topology.places()[1].core_is_known, "core_id still tells");
    assert_eq!(topology.nodes(), []);
    assert!(!topology.is_offline(7));
    assert_eq!(single_cpus(&plan_on(&topology, &Strategy::Spread, 2)), [0, 1]);
}

#[test]
fn no_allowed_cpu_at_all_is_survived() {
    let topology = Machine::regular(1, 2, 1, "").topology();
    for strategy in [Strategy::Unbound, Strategy::Spread, Strategy::Pack, Strategy::NumaNode(0), Strategy::EachNumaNode]
    {
        assert_all_unbound(&plan_on(&topology, &strategy, 2), &[]);
    }
}

#[test]
fn a_warning_says_what_and_why() {
    let warning = Warning::CpusNotAllowed { cpus: vec![4, 5, 6, 9] };
    assert_eq!(warning.to_string(), "CPUs 4-6,9 are outside of the cpuset or affinity of this process: left out");
    let warning = Warning::ShardsShareCpus { shards: 3, cpus: vec![0, 1] };
    assert_eq!(warning.to_string(), "3 shards on 2 CPUs (0-1): some share one");
}

#[test]
fn a_plan_for_this_machine_binds_its_threads() {
    let allowed = allowed_cpus().unwrap();
    for strategy in [Strategy::Spread, Strategy::Pack, Strategy::Unbound] {
        for shard in plan(&strategy, 2).unwrap().shards {
            let here = std::thread::spawn(move || {
                let placement = shard.bind_current_thread().unwrap();
                (shard, placement, allowed_cpus().unwrap())
            });
            let (shard, placement, now) = here.join().unwrap();
            assert!(now.iter().all(|cpu| allowed.contains(cpu)));
            assert_eq!(now, shard.cpus);
            assert_eq!(placement == Placement::Unbound, strategy == Strategy::Unbound);
        }
    }
}
