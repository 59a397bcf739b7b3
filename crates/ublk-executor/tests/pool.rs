//! Executors on threads of their own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ublk_executor::executor::{ExecutorPool, PoolBuilder, PoolError, ShardError, SpawnError};
use ublk_executor::placement::{Strategy, allowed_cpus};
use ublk_executor::{LocalExecutor, sleep, spawn_local};

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn each_allowed_cpu_gets_a_shard_and_each_shard_its_cpu() {
    let pool = PoolBuilder::default()
        .name("test")
        .start(
            |shard| async move { (shard.index, allowed_cpus().unwrap(), thread::current().name().map(str::to_owned)) },
        )
        .unwrap();
    assert!(pool.warnings().is_empty(), "{:?}", pool.warnings());
    let allowed: BTreeSet<usize> = allowed_cpus().unwrap().into_iter().collect();
    let mut used = BTreeSet::new();
    for (number, result) in pool.join().into_iter().enumerate() {
        let (index, cpus, name) = result.unwrap();
        assert_eq!((index, cpus.len(), name), (number, 1, Some(format!("test-{number}"))));
        used.insert(cpus[0]);
    }
    assert_eq!(used, allowed);
}

#[test]
fn shards_work_for_each_other() {
    let done = Arc::new(AtomicUsize::new(0));
    let pool = ExecutorPool::<usize>::builder()
        .shards(4)
        .strategy(Strategy::Unbound)
        .start(move |shard| {
            let done = Arc::clone(&done);
            async move {
                let mut sum = 0;
                for (number, remote) in shard.remotes.iter().enumerate() {
                    let from = shard.index;
                    sum += remote.spawn(move || async move { 10 * from + number }).await.unwrap();
                }
                // A shard that ended early would leave the later ones without an answer.
                done.fetch_add(1, Ordering::SeqCst);
                until(|| done.load(Ordering::SeqCst) == 4).await;
                sum
            }
        })
        .unwrap();
    let sums: Vec<usize> = pool.join().into_iter().map(Result::unwrap).collect();
    assert_eq!(sums, [6, 46, 86, 126]);
}

#[test]
fn a_panic_is_its_own_shards_result() {
    let pool = PoolBuilder::default()
        .shards(3)
        .start(|shard| async move {
            assert!(shard.index != 1, "shard one is broken");
            shard.index
        })
        .unwrap();
    let results = pool.join();
    assert!(matches!(results[..], [Ok(0), Err(ShardError::Panicked(_)), Ok(2)]), "{results:?}");
    assert_eq!(results[1].as_ref().unwrap_err().to_string(), "the shard panicked: shard one is broken");
}

#[test]
fn work_comes_from_outside_and_more_shards_than_cpus_are_told() {
    let shards = allowed_cpus().unwrap().len() + 1;
    let stop = Arc::new(AtomicUsize::new(0));
    let stops = Arc::clone(&stop);
    let serve = move |_| {
        let stops = Arc::clone(&stops);
        async move { until(|| stops.load(Ordering::SeqCst) == 1).await }
    };
    let pool = PoolBuilder::default().shards(shards).start(serve).unwrap();
    assert!(!pool.warnings().is_empty());
    let executor = ublk_executor::LocalExecutor::new().unwrap();
    for (number, remote) in pool.remotes().iter().enumerate() {
        let name = remote.spawn(|| async { thread::current().name().map(str::to_owned) });
        assert_eq!(executor.block_on(name).unwrap(), Ok(Some(format!("shard-{number}"))));
    }
    stop.store(1, Ordering::SeqCst);
    assert_eq!(pool.join().len(), shards);
}

#[test]
fn no_shards_are_an_error() {
    let error = PoolBuilder::default().shards(0).start(|_| async {}).unwrap_err();
    assert!(matches!(error, PoolError::NoShards));
}

/// Uses so much of the stack.
fn recurse(kib: usize) -> usize {
    let block = std::hint::black_box([1_u8; 1024]);
    if kib == 0 { 0 } else { recurse(kib - 1) + usize::from(block[kib % 1024]) }
}

#[test]
fn a_thread_has_its_name_stack_and_cpu_and_gives_its_result() {
    let cpu = *allowed_cpus().unwrap().last().unwrap();
    // More than std's default.
    let builder = LocalExecutor::builder().name("single").placement(Strategy::Fixed(vec![cpu])).stack_bytes(32 << 20);
    let serve = || async {
        let name = thread::current().name().map(str::to_owned);
        (name, allowed_cpus().unwrap(), spawn_local(async { recurse(8 << 10) }).unwrap().await.unwrap())
    };
    let thread = builder.spawn(serve).unwrap();
    assert!(thread.warnings().is_empty());
    assert_eq!(thread.join().unwrap(), (Some("single".into()), vec![cpu], 8 << 10));
}

#[test]
fn a_thread_tells_its_panic_and_what_it_could_not_grant() {
    let builder = LocalExecutor::builder().placement(Strategy::Fixed(vec![1_000]));
    let thread = builder.spawn(|| async { panic!("no shard") }).unwrap();
    assert!(!thread.warnings().is_empty());
    let result: Result<(), ShardError> = thread.join();
    assert_eq!(result.unwrap_err().to_string(), "the shard panicked: no shard");
}

#[test]
fn a_thread_takes_work_from_outside_until_its_future_ends() {
    let stop = Arc::new(AtomicUsize::new(0));
    let stops = Arc::clone(&stop);
    let thread =
        LocalExecutor::builder().spawn(|| async move { until(|| stops.load(Ordering::SeqCst) == 1).await }).unwrap();
    let there = thread.remote().spawn(|| async { thread::current().name().map(str::to_owned) });
    let executor = LocalExecutor::new().unwrap();
    assert_eq!(executor.block_on(there).unwrap(), Ok(Some("executor".into())));
    stop.store(1, Ordering::SeqCst);
    thread.join().unwrap();
}

#[test]
fn what_cannot_be_had_is_an_error_of_its_kind() {
    let huge = LocalExecutor::builder().stack_bytes(1 << 50);
    let error = huge.clone().spawn(|| async { unreachable!("there is no thread") }).map(drop).unwrap_err();
    assert!(matches!(error, SpawnError::Thread(_)), "{error}");
    let error = PoolBuilder::default().shards(2).executor(huge).start(|_| async {}).unwrap_err();
    assert!(matches!(error, PoolError::Thread { shard: 0, .. }), "{error}");
    // More than any kernel takes.
    let error = LocalExecutor::builder().fixed_buffers(1 << 20).spawn(|| async {}).unwrap_err();
    assert!(matches!(error, SpawnError::Executor(_)), "{error}");
}
