//! The executor without a kernel: what Miri can run (`make miri`), so each of its unsafe steps is looked at, and each block that it leaves.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::opcode;

use super::mock_ring::{ANSWER, executor};
use super::{JoinError, RemoteGone, sleep, sleep_until, spawn_local, yield_now};
use crate::io::operation;
use crate::reactor::OpKind;
use crate::{channel, spsc};

/// Notes its name when it is dropped.
struct Noted(&'static str, Rc<RefCell<Vec<&'static str>>>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
    }
}

#[test]
fn tasks_are_joined_cancelled_detached_and_dropped_at_the_end() {
    let ends = Rc::new(RefCell::new(Vec::new()));
    let noted = |name| Noted(name, Rc::clone(&ends));
    let (executor, _) = executor();
    let (joined, cancelled, parked, panics) = (noted("joined"), noted("cancelled"), noted("parked"), noted("panics"));
    executor
        .block_on(async {
            let joins = spawn_local(async move {
                let held = joined;
                held.0.to_owned()
            })
            .unwrap();
            let waits = spawn_local(async move {
                let _held = cancelled;
                pending::<()>().await;
            });
            let stays = spawn_local(async move {
                let _held = parked;
                pending::<()>().await;
            });
            stays.unwrap().detach();
            yield_now().await;
            assert_eq!(joins.await.unwrap(), "joined");
            assert_eq!(waits.unwrap().cancel(), None);
            let fails = spawn_local(async move {
                let _held = panics;
                panic!("on purpose");
            });
            assert!(matches!(fails.unwrap().await, Err(JoinError::Panicked(_))));
        })
        .unwrap();
    assert_eq!(*ends.borrow(), ["joined", "cancelled", "panics"]);
    assert_eq!(executor.close().dropped_tasks, 1);
    assert_eq!(ends.borrow().last(), Some(&"parked"));
}

#[test]
fn a_slot_is_used_again_and_wakers_of_its_tasks_outlive_the_executor() {
    let wakers = Arc::new(Mutex::new(Vec::new()));
    let (executor, _) = executor();
    for _ in 0..4 {
        let handed = Arc::clone(&wakers);
        let hands_out = poll_fn(move |context| {
            handed.lock().unwrap().push(context.waker().clone());
            Poll::Ready(())
        });
        executor.block_on(executor.spawn_local(hands_out).unwrap()).unwrap().unwrap();
        wakers_of(&wakers).iter().for_each(Waker::wake_by_ref);
    }
    drop(executor);
    let others = wakers_of(&wakers);
    thread::spawn(move || others.into_iter().for_each(Waker::wake)).join().unwrap();
    assert_eq!(wakers.lock().unwrap().len(), 4);
}

fn wakers_of(wakers: &Mutex<Vec<Waker>>) -> Vec<Waker> {
    wakers.lock().unwrap().clone()
}

#[test]
fn a_task_is_woken_from_another_thread_while_the_executor_sleeps() {
    let (executor, _) = executor();
    let is_woken = Arc::new(Mutex::new(false));
    let mut waking = None;
    let waits = poll_fn(|context| {
        if *is_woken.lock().unwrap() {
            return Poll::Ready(());
        }
        let (is_woken, waker) = (Arc::clone(&is_woken), context.waker().clone());
        waking.get_or_insert_with(|| {
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(5));
                *is_woken.lock().unwrap() = true;
                waker.wake();
            })
        });
        Poll::Pending
    });
    executor.block_on(waits).unwrap();
    waking.unwrap().join().unwrap();
}

#[test]
fn timers_fire_in_their_order_and_are_taken_back() {
    let (executor, _) = executor();
    let order = Rc::new(RefCell::new(Vec::new()));
    let begin = Instant::now();
    executor
        .block_on(async {
            let tasks = [300, 100, 200].map(|span| {
                let order = Rc::clone(&order);
                spawn_local(async move {
                    sleep_until(begin + Duration::from_millis(span)).await;
                    order.borrow_mut().push(span);
                })
                .unwrap()
            });
            let never = spawn_local(sleep(Duration::from_secs(3600))).unwrap();
            for task in tasks {
                task.await.unwrap();
            }
            never.cancel();
        })
        .unwrap();
    assert_eq!(*order.borrow(), [100, 200, 300]);
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

/// Starts an operation that holds `held`.
fn start<H: 'static>(held: H) -> operation::Operation<H> {
    // SAFETY: NOP points to no memory.
    unsafe { operation::start(opcode::Nop::new().build(), OpKind::Bounded, held) }
}

/// Under Miri a shorter sleep may have passed before it is polled first, and is none then.
const LONGER_THAN_A_STEP: Duration = Duration::from_millis(if cfg!(miri) { 300 } else { 1 });

/// A yield alone may go on within the slice; for a timer the executor turns its ring, and sleeps in it.
async fn ring_turns() {
    sleep(LONGER_THAN_A_STEP).await;
}

#[test]
fn an_operation_gives_back_what_it_holds_or_keeps_it_until_its_end() {
    let ends = Rc::new(RefCell::new(Vec::new()));
    let noted = |name| Noted(name, Rc::clone(&ends));
    let (executor, holds) = executor();
    executor
        .block_on(async {
            let (answer, held) = start(Box::new(noted("given back"))).await;
            assert_eq!((answer.unwrap(), held.0), (ANSWER as u32, "given back"));
            assert!(ends.borrow().is_empty());
            drop(held);
            holds.set(true);
            let mut given_up = start(noted("given up"));
            poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut given_up).poll(context).is_pending())).await;
            drop(given_up);
            ring_turns().await;
            assert_eq!(*ends.borrow(), ["given back"], "freed under the kernel's hands");
            holds.set(false);
            ring_turns().await;
            assert_eq!(*ends.borrow(), ["given back", "given up"]);
            let waits = noted("left to the executor's end");
            spawn_local(async move { start(waits).await.0.map(drop) }).unwrap().detach();
            holds.set(true);
            yield_now().await;
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 1);
    holds.set(false);
    assert_eq!(executor.close().leaked_operations, 0);
    assert_eq!(ends.borrow().last(), Some(&"left to the executor's end"));
}

#[test]
fn work_from_another_thread_is_done_and_refused_after_the_end() {
    let (executor, _) = executor();
    let remote = executor.remote();
    let far = remote.clone();
    let asking = thread::spawn(move || {
        let (other, _) = super::mock_ring::executor();
        other.block_on(far.spawn(|| async { "done".to_owned() })).unwrap()
    });
    executor
        .block_on(async {
            while !asking.is_finished() {
                sleep(LONGER_THAN_A_STEP).await;
            }
        })
        .unwrap();
    assert_eq!(asking.join().unwrap(), Ok("done".to_owned()));
    drop(executor);
    let (other, _) = super::mock_ring::executor();
    assert_eq!(other.block_on(remote.spawn(|| async {})).unwrap(), Err(RemoteGone));
}

#[test]
fn a_channel_between_two_executors_carries_everything_and_closes() {
    const ITEMS: usize = 20;
    let (mut sender, mut receiver) = channel::channel(1);
    let sending = thread::spawn(move || {
        let (executor, _) = executor();
        executor.block_on(async move {
            for item in 0..ITEMS {
                sender.send(item.to_string()).await.unwrap();
            }
        })
    });
    let (executor, _) = executor();
    executor
        .block_on(async {
            for item in 0..ITEMS {
                assert_eq!(receiver.recv().await, Some(item.to_string()));
            }
            assert_eq!(receiver.recv().await, None);
        })
        .unwrap();
    sending.join().unwrap().unwrap();
}

#[test]
fn a_queue_carries_everything_and_drops_what_is_left() {
    const ITEMS: usize = 100;
    let (mut producer, mut consumer) = spsc::channel(3);
    let pushing = thread::spawn(move || {
        for item in 0..ITEMS {
            let mut item = item.to_string();
            while let Err(spsc::PushError::Full(back)) = producer.push(item) {
                item = back;
                thread::yield_now();
            }
        }
    });
    let mut popped = 0;
    while popped < ITEMS - 2 {
        match consumer.pop() {
            Ok(item) => assert_eq!(item, popped.to_string()),
            Err(_) => {
                thread::yield_now();
                continue;
            }
        }
        popped += 1;
    }
    pushing.join().unwrap();
    drop(consumer); // with two strings in it
}

#[test]
fn spawning_in_a_destructor_gives_the_future_back() {
    struct Spawns(Rc<Cell<bool>>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            self.0.set(spawn_local(pending::<()>()).is_err());
        }
    }
    let is_refused = Rc::new(Cell::new(false));
    let (executor, _) = executor();
    let spawns = Spawns(Rc::clone(&is_refused));
    executor
        .spawn_local(async move {
            let _held = spawns;
            pending::<()>().await;
        })
        .unwrap()
        .detach();
    drop(executor);
    assert!(is_refused.get());
}
