//! Calls that block: they run beside the executor, a panic is an error, and nothing of the pool outlives the executor.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ublk_executor::blocking::{BlockingError, Unblock};
use ublk_executor::{LocalExecutor, sleep, spawn_local, unblock};

const LIMIT: Duration = Duration::from_secs(10);

/// The tests here count threads of the process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Threads of pools, by name.
fn pool_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "blocking").count()
}

/// The kernel takes a thread off the list a moment after it was joined.
fn wait_for_no_pool_thread() {
    let deadline = Instant::now() + LIMIT;
    while pool_threads() > 0 {
        assert!(Instant::now() < deadline, "{} threads of the pool are left", pool_threads());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Not a wait without end where a worker has died.
async fn soon<T>(mut closure: Unblock<T>) -> Result<T, BlockingError> {
    let mut limit = sleep(LIMIT);
    poll_fn(|context| {
        let is_late = Pin::new(&mut limit).poll(context).is_ready();
        assert!(!is_late, "the closure was not run in {LIMIT:?}");
        Pin::new(&mut closure).poll(context)
    })
    .await
}

/// Of one thread; its end waits for none that has died.
fn with_one_thread() -> LocalExecutor {
    LocalExecutor::builder().blocking_threads(1).close_limit(LIMIT).build().unwrap()
}

#[test]
fn a_closure_runs_on_another_thread_while_tasks_go_on() {
    let _alone = alone();
    let executor = LocalExecutor::new().unwrap();
    let here = thread::current().id();
    executor
        .block_on(async {
            let (go, wait) = mpsc::channel();
            let blocked = unblock(move || {
                wait.recv_timeout(LIMIT).unwrap();
                thread::current().id()
            });
            // The closure waits for what only a task does.
            sleep(Duration::from_millis(1)).await;
            go.send(()).unwrap();
            assert_ne!(blocked.await.unwrap(), here);
        })
        .unwrap();
    drop(executor);
    wait_for_no_pool_thread();
}

#[test]
fn ten_thousand_closures_run_once_each_on_as_many_threads_as_allowed() {
    let _alone = alone();
    let executor = LocalExecutor::builder().blocking_threads(3).build().unwrap();
    let seen = Arc::new(Mutex::new((BTreeSet::new(), Vec::new())));
    executor
        .block_on(async {
            let running: Vec<_> = (0..10_000_u32)
                .map(|number| {
                    let seen = Arc::clone(&seen);
                    unblock(move || {
                        let thread = format!("{:?}", thread::current().id());
                        let mut seen = seen.lock().unwrap();
                        seen.0.insert(thread);
                        seen.1.push(number);
                        number
                    })
                })
                .collect();
            for (number, closure) in running.into_iter().enumerate() {
                assert_eq!(closure.await.unwrap(), number as u32);
            }
        })
        .unwrap();
    assert!(pool_threads() <= 3);
    let (threads, mut numbers) = std::mem::take(&mut *seen.lock().unwrap());
    assert!((1..=3).contains(&threads.len()), "{threads:?}");
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..10_000));
    drop(executor);
    wait_for_no_pool_thread();
}

/// Regression of others (glommio #37, #62, #68, #70): a panic killed the worker, and whoever waited hung.
#[test]
fn a_panic_is_an_error_and_its_thread_goes_on() {
    let _alone = alone();
    let executor = with_one_thread();
    executor
        .block_on(async {
            for _ in 0..3 {
                let error = soon(unblock(|| -> u32 { panic!("no such disk") })).await.unwrap_err();
                assert!(matches!(error, BlockingError::Panicked(_)));
                assert_eq!(error.to_string(), "the closure panicked: no such disk");
            }
            assert_eq!(soon(unblock(|| 7)).await.unwrap(), 7);
        })
        .unwrap();
}

/// Panics when it is dropped, with what panics when it is dropped.
struct DoubleBomb;

impl Drop for DoubleBomb {
    fn drop(&mut self) {
        std::panic::panic_any(Bomb);
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn a_destructor_that_panics_ends_no_thread_and_no_executor() {
    let _alone = alone();
    let executor = with_one_thread();
    executor
        .block_on(async {
            // Of an output that nobody takes, on the pool's thread; of what a panic carried, there too.
            drop(unblock(|| {
                thread::sleep(Duration::from_millis(5));
                Bomb
            }));
            drop(unblock(|| {
                thread::sleep(Duration::from_millis(5));
                DoubleBomb
            }));
            drop(unblock(|| {
                thread::sleep(Duration::from_millis(5));
                std::panic::panic_any(Bomb);
            }));
            assert_eq!(soon(unblock(|| 7)).await.unwrap(), 7);
            // Of a closure that has not begun, at the executor's end.
            let bomb = Bomb;
            drop(unblock(|| thread::sleep(Duration::from_millis(20))));
            drop(unblock(move || drop(bomb)));
        })
        .unwrap();
    drop(executor);
    wait_for_no_pool_thread();
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn at_the_end_what_runs_is_waited_for_and_what_is_queued_is_dropped_unrun() {
    let _alone = alone();
    let executor = LocalExecutor::builder().blocking_threads(2).build().unwrap();
    let (ran, dropped, finished) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut waiting = None;
    executor
        .block_on(async {
            let (started, begins) = mpsc::channel();
            for _ in 0..2 {
                let (started, finished) = (started.clone(), Arc::clone(&finished));
                drop(unblock(move || {
                    started.send(()).unwrap();
                    thread::sleep(Duration::from_millis(100));
                    finished.fetch_add(1, Ordering::SeqCst);
                }));
            }
            for _ in 0..2 {
                begins.recv_timeout(LIMIT).unwrap();
            }
            let queue = || {
                let (ran, counted) = (Arc::clone(&ran), Counted(Arc::clone(&dropped)));
                unblock(move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                    drop(counted);
                })
            };
            for _ in 0..999 {
                drop(queue());
            }
            waiting = Some(queue());
        })
        .unwrap();
    let closed = executor.close();
    assert_eq!(closed.running_closures, 0);
    assert_eq!(finished.load(Ordering::SeqCst), 2);
    assert_eq!((ran.load(Ordering::SeqCst), dropped.load(Ordering::SeqCst)), (0, 1000));
    wait_for_no_pool_thread();
    // Whoever still waits is told, on whatever executor.
    let error = LocalExecutor::new().unwrap().block_on(waiting.unwrap()).unwrap().unwrap_err();
    assert!(matches!(error, BlockingError::Closed), "{error}");
}

#[test]
fn a_closure_that_hangs_is_counted_at_the_deadline_and_its_thread_ends_with_it() {
    let _alone = alone();
    let executor = LocalExecutor::builder().close_limit(Duration::from_millis(500)).build().unwrap();
    let (release, hang) = mpsc::channel::<()>();
    executor
        .block_on(async {
            // Threads that are idle are none that hang.
            let idle: Vec<_> = (0..4).map(|_| unblock(|| thread::sleep(Duration::from_millis(10)))).collect();
            for closure in idle {
                closure.await.unwrap();
            }
            let (started, begins) = mpsc::channel();
            drop(unblock(move || {
                started.send(()).unwrap();
                let _ = hang.recv();
            }));
            begins.recv_timeout(LIMIT).unwrap();
        })
        .unwrap();
    let begin = Instant::now();
    let closed = executor.close();
    assert_eq!(closed.running_closures, 1);
    assert!(begin.elapsed() < LIMIT);
    assert!(pool_threads() >= 1);
    drop(release);
    wait_for_no_pool_thread();
}

/// Uses the pool when it is dropped.
struct UnblocksWhenDropped(Rc<Cell<bool>>, Arc<AtomicUsize>);

impl Drop for UnblocksWhenDropped {
    fn drop(&mut self) {
        let ran = Arc::clone(&self.1);
        drop(unblock(move || ran.fetch_add(1, Ordering::SeqCst)));
        self.0.set(true);
    }
}

#[test]
fn a_destructor_at_the_executors_end_gets_no_thread() {
    let _alone = alone();
    let executor = LocalExecutor::new().unwrap();
    let (is_dropped, ran) = <(Rc<Cell<bool>>, Arc<AtomicUsize>)>::default();
    let guard = UnblocksWhenDropped(Rc::clone(&is_dropped), Arc::clone(&ran));
    executor
        .block_on(async {
            let parked = async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            };
            spawn_local(parked).unwrap().detach();
            sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
    drop(executor);
    assert!(is_dropped.get());
    assert_eq!((ran.load(Ordering::SeqCst), pool_threads()), (0, 0));
}

#[test]
fn executors_with_pools_come_and_go_and_leave_no_thread() {
    let _alone = alone();
    for _ in 0..200 {
        let executor = LocalExecutor::builder().ring_entries(8).build().unwrap();
        let sum = executor.block_on(async {
            let (one, two) = (unblock(|| 1), unblock(|| 2));
            one.await.unwrap() + two.await.unwrap()
        });
        assert_eq!(sum.unwrap(), 3);
    }
    wait_for_no_pool_thread();
}
