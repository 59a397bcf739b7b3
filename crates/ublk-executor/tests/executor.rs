//! Tasks, from `spawn` to their end: by themselves, cancelled, by panic, with their executor.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use ublk_executor::executor::{
    Class, JoinError, RemoteGone, Shares, SpawnRefused, TaskOptions, sleep_until, spawn_with,
};
use ublk_executor::{JoinHandle, LocalExecutor, sleep, spawn_local, yield_if_needed, yield_now};

fn executor() -> LocalExecutor {
    LocalExecutor::new().unwrap()
}

/// Counts its drops, and on which thread they were.
#[derive(Clone, Default)]
struct Drops(Arc<Mutex<Vec<ThreadId>>>);

struct Dropped(Drops);

impl Drops {
    fn guard(&self) -> Dropped {
        Dropped(self.clone())
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn all_on(&self, thread: ThreadId) -> bool {
        self.0.lock().unwrap().iter().all(|&id| id == thread)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().push(thread::current().id());
    }
}

/// Parks for ever with something to drop.
async fn parked(guard: Dropped) {
    pending::<()>().await;
    drop(guard);
}

/// Hands its waker out at the first poll, and ends when it is polled again after `go`.
fn externally_woken(wakers: &Arc<Mutex<Vec<Waker>>>, go: &Arc<AtomicUsize>) -> impl Future<Output = ()> + use<> {
    let (wakers, go) = (Arc::clone(wakers), Arc::clone(go));
    let mut has_registered = false;
    poll_fn(move |context| {
        if go.load(Ordering::Acquire) > 0 {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut has_registered, true) {
            wakers.lock().unwrap().push(context.waker().clone());
        }
        Poll::Pending
    })
}

#[test]
fn tasks_give_their_output_to_whoever_awaits_them() {
    let sum = executor().block_on(async {
        let tasks: Vec<_> = (0..100)
            .map(|number| {
                spawn_local(async move {
                    for _ in 0..number % 7 {
                        yield_now().await;
                    }
                    spawn_local(async move { number }).unwrap().await.unwrap()
                })
                .unwrap()
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        sum
    });
    assert_eq!(sum.unwrap(), (0..100).sum::<i32>());
}

#[test]
fn tasks_that_are_left_go_on_in_the_next_block_on() {
    let executor = executor();
    let steps = Rc::new(Cell::new(0));
    let counted = Rc::clone(&steps);
    let task = executor.spawn_local(async move {
        loop {
            counted.set(counted.get() + 1);
            sleep(Duration::from_millis(1)).await;
        }
    });
    executor.block_on(sleep(Duration::from_millis(200))).unwrap();
    let before = steps.get();
    assert!(before > 1, "{before} steps");
    executor.block_on(sleep(Duration::from_millis(200))).unwrap();
    assert!(steps.get() > before);
    drop(task);
    let end = steps.get();
    executor.block_on(sleep(Duration::from_millis(5))).unwrap();
    assert_eq!(steps.get(), end, "a task runs after its handle was dropped");
}

#[test]
fn dropping_a_handle_drops_the_future_at_once() {
    let drops = Drops::default();
    let guard = drops.guard();
    let seen = drops.clone();
    executor()
        .block_on(async move {
            let task = spawn_local(parked(guard)).unwrap();
            yield_now().await;
            assert_eq!(seen.count(), 0);
            drop(task);
            assert_eq!(seen.count(), 1);
        })
        .unwrap();
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_cancelled_task_gives_its_output_if_it_had_ended() {
    executor()
        .block_on(async {
            let done = spawn_local(async { "done" }).unwrap();
            let waits = spawn_local(pending::<&str>()).unwrap();
            yield_now().await;
            assert!(done.is_finished() && !waits.is_finished());
            assert_eq!(done.cancel(), Some("done"));
            assert_eq!(waits.cancel(), None);
        })
        .unwrap();
}

#[test]
fn a_task_that_cancels_itself_is_dropped_when_its_poll_returns() {
    let drops = Drops::default();
    let guard = drops.guard();
    let executor = executor();
    let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let own = Rc::clone(&slot);
    let count = drops.clone();
    let task = executor.spawn_local(async move {
        drop(own.borrow_mut().take());
        assert_eq!(count.count(), 0, "dropped under its own poll");
        parked(guard).await;
    });
    *slot.borrow_mut() = Some(task.unwrap());
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    assert_eq!(drops.count(), 1);
    assert_eq!(executor.stats().tasks, 0);
}

#[test]
fn cancel_and_wait_gives_the_output_of_a_task_that_had_ended() {
    let drops = Drops::default();
    let guard = drops.guard();
    executor()
        .block_on(async {
            let done = spawn_local(async { "done" }).unwrap();
            let waits = spawn_local(parked(guard)).unwrap();
            let unpolled = spawn_local(parked(drops.guard())).unwrap();
            yield_now().await;
            assert_eq!(done.cancel_and_wait().await, Some("done"));
            let mut taken = spawn_local(async { "taken" }).unwrap();
            assert_eq!((&mut taken).await.unwrap(), "taken");
            assert_eq!(taken.cancel_and_wait().await, None);
            let cancelling = waits.cancel_and_wait();
            assert_eq!(drops.count(), 0, "nothing happens before the first poll");
            assert_eq!((cancelling.await, drops.count()), (None, 1));
            drop(unpolled.cancel_and_wait());
            assert_eq!(drops.count(), 2);
        })
        .unwrap();
}

/// A task that begins to cancel itself within its poll, and leaves the wait to another.
fn cancelled_under_its_poll(drops: &Drops, ends: bool) -> (Option<i32>, usize) {
    type Waiting = Pin<Box<dyn Future<Output = Option<i32>>>>;
    let own: Rc<RefCell<Option<JoinHandle<i32>>>> = Rc::default();
    let waiting: Rc<RefCell<Option<Waiting>>> = Rc::default();
    let (handle, leaves, guard, seen) = (Rc::clone(&own), Rc::clone(&waiting), drops.guard(), drops.clone());
    let executor = executor();
    let cancels = poll_fn(move |_| {
        let _guard = &guard;
        let mut cancelling: Waiting = Box::pin(handle.take().unwrap().cancel_and_wait());
        assert!(cancelling.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        *leaves.borrow_mut() = Some(cancelling);
        assert_eq!(seen.count(), 0, "dropped under its own poll");
        if ends { Poll::Ready(5) } else { Poll::Pending }
    });
    *own.borrow_mut() = Some(executor.spawn_local(cancels).unwrap());
    let answer = executor.block_on(async {
        yield_now().await;
        let cancelling = waiting.take().unwrap();
        cancelling.await
    });
    (answer.unwrap(), drops.count())
}

#[test]
fn cancel_and_wait_waits_for_the_poll_that_is_under_way() {
    assert_eq!(cancelled_under_its_poll(&Drops::default(), false), (None, 1));
    assert_eq!(cancelled_under_its_poll(&Drops::default(), true), (Some(5), 1));
}

#[test]
fn a_task_that_cancels_itself_and_waits_is_dropped_at_the_await() {
    let drops = Drops::default();
    let guard = drops.guard();
    let executor = executor();
    let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let own = Rc::clone(&slot);
    let task = executor.spawn_local(async move {
        let _guard = guard;
        let handle = own.take().unwrap();
        handle.cancel_and_wait().await;
        unreachable!("a cancelled task goes on");
    });
    *slot.borrow_mut() = Some(task.unwrap());
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    let stats = executor.stats();
    assert_eq!((drops.count(), stats.tasks, stats.panics), (1, 0, 0));
}

#[test]
fn a_detached_task_runs_to_its_end() {
    let ended = Rc::new(Cell::new(false));
    let sets = Rc::clone(&ended);
    let executor = executor();
    executor
        .spawn_local(async move {
            sleep(Duration::from_millis(2)).await;
            sets.set(true);
        })
        .unwrap()
        .detach();
    executor.block_on(sleep(Duration::from_millis(20))).unwrap();
    assert!(ended.get());
}

#[test]
fn a_panic_goes_to_whoever_awaits_the_task_and_to_nobody_else() {
    let drops = Drops::default();
    let guard = drops.guard();
    let executor = executor();
    let error = executor
        .block_on(async {
            let fine = spawn_local(async { 7 }).unwrap();
            let panics = spawn_local(async move {
                let _guard = guard;
                yield_now().await;
                panic!("no such luck");
            })
            .unwrap();
            let error: Result<(), JoinError> = panics.await;
            assert_eq!(fine.await.unwrap(), 7);
            error.unwrap_err()
        })
        .unwrap();
    assert_eq!(error.to_string(), "the task panicked: no such luck");
    assert_eq!(drops.count(), 1);
    assert_eq!(executor.stats().panics, 1);
}

#[test]
fn a_panic_of_block_on_leaves_the_executor_usable() {
    let executor = executor();
    let panicked = catch_unwind(AssertUnwindSafe(|| executor.block_on(async { panic!("main") })));
    assert!(panicked.is_err());
    assert_eq!(executor.block_on(async { 3 }).unwrap(), 3);
    assert!(catch_unwind(|| spawn_local(async {})).is_err(), "the executor is still the thread's");
}

struct PanicsWhenDropped(#[allow(dead_code)] Dropped);

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("destructor");
    }
}

#[test]
fn panics_in_destructors_are_counted_and_keep_nothing_alive() {
    let drops = Drops::default();
    let executor = executor();
    for _ in 0..3 {
        let bomb = PanicsWhenDropped(drops.guard());
        let task = executor.spawn_local(async move {
            pending::<()>().await;
            drop(bomb);
        });
        task.unwrap().detach();
    }
    let bomb = PanicsWhenDropped(drops.guard());
    let cancelled = executor.spawn_local(async move {
        pending::<()>().await;
        drop(bomb);
    });
    let bomb = PanicsWhenDropped(drops.guard());
    executor.spawn_local(async move { drop(bomb) }).unwrap().detach();
    executor.spawn_local(parked(drops.guard())).unwrap().detach();
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    drop(cancelled);
    assert_eq!(executor.stats().panics, 2);
    let closed = executor.close();
    assert_eq!((closed.dropped_tasks, closed.panics, drops.count()), (4, 3, 6));
}

/// The leak of glommio #448: parked tasks outlive the executor, in the wakers that others hold.
#[test]
fn parked_tasks_are_dropped_with_the_executor_on_its_thread() {
    let drops = Drops::default();
    let wakers = Arc::new(Mutex::new(Vec::new()));
    let go = Arc::new(AtomicUsize::new(0));
    let (in_thread, wakers_in_thread) = (drops.clone(), Arc::clone(&wakers));
    let thread = thread::spawn(move || {
        let executor = executor();
        for _ in 0..10 {
            executor.spawn_local(parked(in_thread.guard())).unwrap().detach();
            let (woken, guard) = (externally_woken(&wakers_in_thread, &go), in_thread.guard());
            executor
                .spawn_local(async move {
                    woken.await;
                    drop(guard);
                })
                .unwrap()
                .detach();
        }
        executor.block_on(sleep(Duration::from_millis(1))).unwrap();
        assert_eq!(in_thread.count(), 0);
        drop(executor);
        assert_eq!(in_thread.count(), 20);
        thread::current().id()
    });
    let id = thread.join().unwrap();
    assert!(drops.all_on(id));
    // Wakers that others still hold wake nobody, and nothing breaks.
    for waker in wakers.lock().unwrap().drain(..) {
        waker.wake_by_ref();
        waker.wake();
    }
}

#[test]
fn a_spawn_while_the_executor_closes_gives_the_future_back() {
    struct SpawnsWhenDropped(Rc<Cell<usize>>, Dropped);
    impl Drop for SpawnsWhenDropped {
        fn drop(&mut self) {
            let (refused, guard) = (Rc::clone(&self.0), self.1.0.guard());
            // Each generation would spawn the next: a chain without an end, were it not refused.
            let next = SpawnsWhenDropped(Rc::clone(&self.0), guard);
            let spawned = spawn_local(async move {
                pending::<()>().await;
                drop(next);
            });
            if let Err(SpawnRefused(future)) = spawned {
                refused.set(refused.get() + 1);
                std::mem::forget(future);
            }
        }
    }
    let refused = Rc::new(Cell::new(0));
    let drops = Drops::default();
    let executor = executor();
    for _ in 0..5 {
        let first = SpawnsWhenDropped(Rc::clone(&refused), drops.guard());
        let task = executor.spawn_local(async move {
            pending::<()>().await;
            drop(first);
        });
        task.unwrap().detach();
    }
    assert_eq!(executor.close().dropped_tasks, 5);
    assert_eq!((refused.get(), drops.count()), (5, 5));
}

#[test]
fn tasks_that_cancel_each_other_are_dropped_once() {
    let drops = Drops::default();
    let executor = executor();
    let handles: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();
    for _ in 0..10 {
        let (all, guard) = (Rc::clone(&handles), drops.guard());
        let task = executor.spawn_local(async move {
            pending::<()>().await;
            drop((all, guard));
        });
        handles.borrow_mut().push(task.unwrap());
    }
    drop(handles);
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    // The last task that goes drops all handles, those of tasks that are gone among them.
    drop(executor);
    assert_eq!(drops.count(), 10);
}

#[test]
fn wakes_from_other_threads_are_never_lost() {
    let executor = executor();
    executor
        .block_on(async {
            for round in 0..2_000 {
                let (wakers, go) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
                let woken = externally_woken(&wakers, &go);
                let task = spawn_local(woken).unwrap();
                yield_now().await;
                let threads: Vec<_> = (0..2)
                    .map(|_| {
                        let (waker, go) = (wakers.lock().unwrap()[0].clone(), Arc::clone(&go));
                        thread::spawn(move || {
                            if round % 3 == 0 {
                                thread::yield_now();
                            }
                            go.store(1, Ordering::Release);
                            waker.wake();
                        })
                    })
                    .collect();
                task.await.unwrap();
                for thread in threads {
                    thread.join().unwrap();
                }
            }
        })
        .unwrap();
    assert!(executor.stats().remote_wakes >= 2_000);
}

#[test]
fn a_closure_runs_on_another_executor_and_its_result_comes_back() {
    let (send, receive) = std::sync::mpsc::channel();
    let stop = Arc::new(AtomicUsize::new(0));
    let stops = Arc::clone(&stop);
    let other = thread::spawn(move || {
        let executor = executor();
        send.send((executor.remote(), thread::current().id())).unwrap();
        let ended = async {
            while stops.load(Ordering::Acquire) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        executor.block_on(ended).unwrap();
    });
    let (remote, id) = receive.recv().unwrap();
    let executor = executor();
    executor
        .block_on(async {
            for number in 0..1_000 {
                let there = remote.spawn(move || async move {
                    // The future is made there, and need not be Send.
                    let number = Rc::new(number);
                    yield_now().await;
                    (thread::current().id(), *number + 1)
                });
                assert_eq!(there.await, Ok((id, number + 1)));
            }
            let panics = remote.spawn(|| async {
                yield_now().await;
                panic!("there");
            });
            let result: Result<(), RemoteGone> = panics.await;
            assert_eq!(result, Err(RemoteGone));
            assert_eq!(remote.spawn(|| async { 5 }).await, Ok(5));
            let never = remote.spawn(pending::<()>);
            stop.store(1, Ordering::Release);
            assert_eq!(never.await, Err(RemoteGone));
            assert_eq!(remote.spawn(|| async { 5 }).await, Err(RemoteGone));
        })
        .unwrap();
    other.join().unwrap();
}

#[test]
fn timers_fire_in_order_and_not_early() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let executor = executor();
    let begin = Instant::now();
    for ms in [30, 5, 20, 10, 1] {
        let order = Rc::clone(&order);
        executor
            .spawn_local(async move {
                sleep_until(begin + Duration::from_millis(ms)).await;
                assert!(begin.elapsed() >= Duration::from_millis(ms));
                order.borrow_mut().push(ms);
            })
            .unwrap()
            .detach();
    }
    executor.block_on(sleep(Duration::from_millis(60))).unwrap();
    assert_eq!(*order.borrow(), [1, 5, 10, 20, 30]);
}

#[test]
fn a_sleep_moved_to_another_executor_leaves_that_ones_timers_alone() {
    let (first, second) = (executor(), executor());
    let mut moved = Box::pin(sleep(Duration::from_secs(600)));
    first
        .block_on(poll_fn(|context| {
            assert!(moved.as_mut().poll(context).is_pending());
            Poll::Ready(())
        }))
        .unwrap();
    second
        .block_on(async move {
            let own = spawn_local(sleep(Duration::from_millis(10))).unwrap();
            yield_now().await;
            drop(moved);
            own.await.unwrap();
        })
        .unwrap();
}

#[test]
fn an_idle_executor_does_not_enter_its_ring() {
    let executor = executor();
    executor.block_on(sleep(Duration::from_millis(300))).unwrap();
    let enters = executor.stats().enters;
    assert!(enters < 10, "{enters} enters in 300 idle ms");
}

/// A task that always wants to run, in short polls.
fn hog(class: Class, stop: &Rc<Cell<bool>>) {
    let stop = Rc::clone(stop);
    let spin = async move {
        while !stop.get() {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(20) {
                std::hint::spin_loop();
            }
            yield_now().await;
        }
    };
    spawn_with(TaskOptions { class, name: "hog" }, spin).unwrap().detach();
}

#[test]
fn classes_run_for_their_shares() {
    let shares = Shares { latency: 50, normal: 30, background: 20 };
    let executor = LocalExecutor::builder().shares(shares).build().unwrap();
    let stop = Rc::new(Cell::new(false));
    executor
        .block_on(async {
            for class in Class::ALL {
                hog(class, &stop);
            }
            // More tasks of a class are no more time for it.
            hog(Class::Background, &stop);
            sleep(Duration::from_millis(1_500)).await;
            stop.set(true);
        })
        .unwrap();
    let classes = executor.stats().classes;
    let total: Duration = classes.iter().map(|class| class.run_time).sum();
    for (class, share) in classes.iter().zip([0.5, 0.3, 0.2]) {
        let got = class.run_time.as_secs_f64() / total.as_secs_f64();
        assert!((got - share).abs() < 0.05, "{:?} got {got:.3} of the time instead of {share}", class.class);
    }
}

#[test]
fn a_latency_task_waits_for_one_slice_of_a_hog_that_yields() {
    let executor = executor();
    let stop = Rc::new(Cell::new(false));
    let stops = Rc::clone(&stop);
    let late = executor
        .block_on(async move {
            let hog = async move {
                let mut sum = 0_u64;
                while !stops.get() {
                    for number in 0..1_000 {
                        sum = std::hint::black_box(sum + number);
                    }
                    yield_if_needed().await;
                }
            };
            spawn_with(TaskOptions { class: Class::Background, name: "hog" }, hog).unwrap().detach();
            let ticker = async {
                let mut late = Vec::new();
                for _ in 0..100 {
                    let due = Instant::now() + Duration::from_millis(1);
                    sleep_until(due).await;
                    late.push(due.elapsed());
                }
                late.sort();
                late[late.len() / 2]
            };
            let ticker = spawn_with(TaskOptions { class: Class::Latency, name: "ticker" }, ticker).unwrap();
            let late = ticker.await.unwrap();
            stop.set(true);
            late
        })
        .unwrap();
    // A slice is 200 µs; the median stands outside of what else runs on the machine, but for a share of the CPU that it loses.
    assert!(late < Duration::from_millis(20), "half of the ticks are more than {late:?} late");
    let polls = executor.stats().classes.map(|class| class.polls);
    assert!(polls[2] > 50, "the hog was polled {} times", polls[2]);
}

#[test]
fn a_long_poll_is_counted_and_named() {
    // Longer than other processes keep a poll from the CPU.
    let executor = LocalExecutor::builder().stall_limit(Duration::from_millis(500)).build().unwrap();
    executor
        .block_on(async {
            let long = async {
                thread::sleep(Duration::from_millis(600));
                pending::<()>().await;
            };
            spawn_with(TaskOptions { name: "long", ..TaskOptions::default() }, long).unwrap().detach();
            sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
    let stats = executor.stats();
    assert_eq!((stats.stalls, stats.last_stall), (1, Some("long")));
}

struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("waker");
    }
}

#[test]
fn a_waker_that_panics_takes_no_wake_from_others() {
    let executor = executor();
    let due = Instant::now() + Duration::from_millis(5);
    let mut bad = Box::pin(sleep_until(due));
    let woken = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let woken = Rc::clone(&woken);
        let waits = async move {
            sleep_until(due).await;
            woken.set(woken.get() + 1);
        };
        executor.spawn_local(waits).unwrap().detach();
    }
    let waker = Waker::from(Arc::new(PanicsWhenWoken));
    executor
        .block_on(async {
            assert!(bad.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            sleep(Duration::from_millis(30)).await;
        })
        .unwrap();
    assert_eq!((woken.get(), executor.stats().panics), (3, 1));
    // Nor does one that waits for a task keep the executor from its end.
    let drops = Drops::default();
    let mut first = Box::pin(executor.spawn_local(parked(drops.guard())).unwrap());
    executor.spawn_local(parked(drops.guard())).unwrap().detach();
    let polled = async { first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() };
    assert!(executor.block_on(polled).unwrap());
    let closed = executor.close();
    assert_eq!((closed.dropped_tasks, closed.panics, drops.count()), (2, 1, 2));
}

#[test]
fn the_longest_and_the_shortest_times_do_no_harm() {
    let executor =
        LocalExecutor::builder().slice(Duration::ZERO).stall_limit(Duration::MAX).close_limit(Duration::MAX).build();
    let executor = executor.unwrap();
    executor.spawn_local(sleep(Duration::MAX)).unwrap().detach();
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    assert_eq!(executor.close().dropped_tasks, 1);
    let executor = LocalExecutor::builder().slice(Duration::MAX).close_limit(Duration::ZERO).build().unwrap();
    executor.block_on(async { spawn_local(sleep(Duration::ZERO)).unwrap().await.unwrap() }).unwrap();
    assert_eq!(executor.close().leaked_operations, 0);
}

#[test]
fn many_tasks_are_dropped_in_a_moment() {
    let executor = executor();
    for _ in 0..200_000 {
        executor.spawn_local(pending::<()>()).unwrap().detach();
    }
    let begin = Instant::now();
    assert_eq!(executor.close().dropped_tasks, 200_000);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn an_executor_may_end_within_another_and_with_its_thread() {
    thread_local! {
        static KEPT: RefCell<Option<LocalExecutor>> = const { RefCell::new(None) };
    }
    let drops = Drops::default();
    let seen = drops.clone();
    thread::spawn(move || {
        let inner = executor();
        inner.spawn_local(parked(seen.guard())).unwrap().detach();
        let kept = executor();
        kept.spawn_local(parked(seen.guard())).unwrap().detach();
        executor()
            .block_on(async {
                inner.block_on(sleep(Duration::from_millis(1))).unwrap();
                drop(inner);
                assert_eq!(seen.count(), 1);
                // The outer one is the thread's again.
                spawn_local(async {}).unwrap().await.unwrap();
            })
            .unwrap();
        KEPT.with(|slot| *slot.borrow_mut() = Some(kept));
    })
    .join()
    .unwrap();
    assert_eq!(drops.count(), 2);
}

#[test]
#[should_panic(expected = "block_on within a block_on of the same executor")]
fn a_block_on_within_itself_is_refused() {
    let executor = executor();
    let _ = executor.block_on(async { executor.block_on(async {}) });
}
