//! Queues between all shards of a pool: nobody waits in a circle, everybody gets his turn, ends that go are seen.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use ublk_executor::executor::{PoolBuilder, Shard, ShardError};
use ublk_executor::mesh::{Mesh, MeshEnd, MeshReceiver};
use ublk_executor::placement::Strategy;
use ublk_executor::{JoinHandle, LocalExecutor, spawn_local, yield_now};

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a shard for each end; fails when they have not ended by the deadline.
fn run<F>(mesh: Mesh<usize>, shards: usize, serve: fn(Shard, MeshEnd<usize>) -> F) -> Vec<Result<F::Output, ShardError>>
where
    F: Future + 'static,
    F::Output: Send + 'static,
{
    let make = move |shard: Shard| {
        let end = mesh.take(shard.index).unwrap();
        assert!(mesh.take(shard.index).is_none());
        serve(shard, end)
    };
    let pool = PoolBuilder::default().shards(shards).strategy(Strategy::Unbound).start(make).unwrap();
    let (report, ended) = mpsc::channel();
    thread::spawn(move || report.send(pool.join()));
    ended.recv_timeout(DEADLINE).expect("the shards wait for each other")
}

/// Everything that comes, with its order checked; how much it was.
async fn receive_all(mut receiver: MeshReceiver<usize>, shards: usize) -> Vec<usize> {
    let mut next = vec![0; shards];
    while let Some((from, number)) = receiver.recv().await {
        assert_eq!(number, next[from], "from shard {from}");
        next[from] += 1;
    }
    next
}

fn without(own: usize, count: usize) -> Vec<usize> {
    (0..4).map(|from| if from == own { 0 } else { count }).collect()
}

/// The deadlock of glommio #555.
#[test]
fn everybody_may_send_to_everybody_before_anybody_receives() {
    let results = run(Mesh::new(4, 1), 4, |shard, mut end| async move {
        for number in 0..1_000 {
            for to in (0..4).filter(|&to| to != shard.index) {
                end.send(to, number).await.unwrap();
            }
        }
        let (senders, receiver) = end.split();
        drop(senders);
        receive_all(receiver, 4).await
    });
    for (own, received) in results.into_iter().enumerate() {
        assert_eq!(received.unwrap(), without(own, 1_000));
    }
}

#[test]
fn a_shard_that_waits_for_room_takes_in_all_that_comes() {
    let serve = async {
        let mesh = Mesh::new(2, 8);
        let [mut own, other] = [0, 1].map(|index| mesh.take(index).unwrap());
        let (mut senders, mut receiver) = other.split();
        // Sends more than fits before it receives, and takes nothing in.
        let other = spawn_local(async move {
            for number in 0..50 {
                senders.send(0, number).await.unwrap();
            }
            while receiver.recv().await.is_some() {}
        });
        let own = spawn_local(async move {
            for number in 0..9 {
                own.send(1, number).await.unwrap();
            }
            for number in 0..50 {
                assert_eq!(own.recv().await, Some((1, number)));
            }
        });
        let tasks = [other.unwrap(), own.unwrap()];
        for _ in 0..1_000 {
            yield_now().await;
        }
        assert!(tasks.iter().all(JoinHandle::is_finished), "the shards wait for each other");
    };
    LocalExecutor::new().unwrap().block_on(serve).unwrap();
}

#[test]
fn split_ends_send_and_receive_at_once() {
    let results = run(Mesh::new(4, 1), 4, |shard, end| async move {
        let (mut senders, receiver) = end.split();
        let receiving = spawn_local(receive_all(receiver, 4)).unwrap();
        for number in 0..1_000 {
            for to in (0..4).filter(|&to| to != shard.index) {
                senders.send(to, number).await.unwrap();
            }
        }
        drop(senders);
        receiving.await.unwrap()
    });
    for (own, received) in results.into_iter().enumerate() {
        assert_eq!(received.unwrap(), without(own, 1_000));
    }
}

#[test]
fn a_shard_that_ends_or_panics_is_seen_by_the_others() {
    let results = run(Mesh::new(3, 1), 3, |shard, mut end| async move {
        if shard.index == 0 {
            end.send(1, 7).await.unwrap();
            panic!("shard 0 is broken");
        }
        if shard.index == 2 {
            return (0, 0);
        }
        let received = end.recv().await;
        assert_eq!((received, end.recv().await), (Some((0, 7)), None));
        (end.send(0, 8).await.unwrap_err().0, end.send(2, 9).await.unwrap_err().0)
    });
    assert!(matches!(results[..], [Err(ShardError::Panicked(_)), Ok((8, 9)), Ok((0, 0))]), "{results:?}");
}

#[test]
fn all_senders_get_their_turn_and_a_wait_that_was_given_up_loses_nothing() {
    let mesh = Mesh::new(3, 8);
    let [mut own, mut second, mut third] = [0, 1, 2].map(|index| mesh.take(index).unwrap());
    let serve = async {
        for number in 0..8 {
            second.send(0, number).await.unwrap();
        }
        third.send(0, 0).await.unwrap();
        let froms = [own.recv().await, own.recv().await].map(|received| received.unwrap().0);
        assert_eq!(froms, [1, 2], "one that sends much holds nobody up");
        for number in 1..8 {
            assert_eq!(own.recv().await, Some((1, number)));
        }
        // Nothing is there: whichever of them comes wakes.
        for from in [1, 2] {
            let receiving = spawn_local(async move { (own.recv().await, own) }).unwrap();
            yield_now().await;
            [&mut second, &mut third][from - 1].send(0, 50).await.unwrap();
            let (received, back) = receiving.await.unwrap();
            assert_eq!(received, Some((from, 50)));
            own = back;
        }
        let gives_up = spawn_local(async move {
            own.recv().await;
        })
        .unwrap();
        yield_now().await;
        drop(gives_up);
        assert!(second.send(0, 1).await.is_err() && third.send(0, 1).await.is_err());
        // Between the two that are left all goes on; what is not taken closes with the mesh.
        third.send(1, 5).await.unwrap();
        drop(third);
        assert_eq!((second.recv().await, second.recv().await), (Some((2, 5)), None));
    };
    LocalExecutor::new().unwrap().block_on(serve).unwrap();
}

thread_local! {
    static WAITS: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>> = const { RefCell::new(None) };
}

/// Polls what it wakes at once.
struct PollsAtOnce;

impl Wake for PollsAtOnce {
    fn wake(self: Arc<Self>) {
        if let Some(mut waits) = WAITS.take() {
            assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
    }
}

#[test]
fn whoever_is_told_that_nothing_comes_cannot_send_either() {
    let mesh = Mesh::new(2, 1);
    let [mut own, other] = [0, 1].map(|index| mesh.take(index).unwrap());
    let mut waits = Box::pin(async move {
        assert_eq!(own.recv().await, None);
        assert!(own.send(1, 5).await.is_err());
    });
    let waker = Waker::from(Arc::new(PollsAtOnce));
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    WAITS.set(Some(waits));
    drop(other);
    assert!(WAITS.take().is_none());
}

#[test]
fn ends_that_nobody_took_close_with_the_mesh() {
    let mesh = Mesh::new(2, 1);
    let mut end = mesh.take(0).unwrap();
    assert!(mesh.take(2).is_none());
    drop(mesh);
    let executor = LocalExecutor::new().unwrap();
    assert!(executor.block_on(end.send(1, 5)).unwrap().is_err());
    assert_eq!(executor.block_on(end.recv()).unwrap(), None);
}

#[test]
#[should_panic(expected = "shard 0 of 2 is not another shard of the mesh")]
fn a_shard_does_not_send_to_itself() {
    let mut end = Mesh::new(2, 1).take(0).unwrap();
    let _ = LocalExecutor::new().unwrap().block_on(end.send(0, 5));
}
