//! The executor itself, over a mock ring, under every order of threads that the memory model allows: wakes from other threads, work from
//! other threads, and its end in the middle of both. A wake that is lost is a deadlock, which the checker reports, as it does what leaks.

use std::future::poll_fn;
use std::sync::Arc as StdArc;
use std::task::{Poll, Waker};

use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use slotmap::Key;

use super::remote::RemoteGone;
use super::task::{Message, TaskInbox, TaskKey, WakeCell};
use super::{LocalExecutor, mock_ring, yield_now};
use crate::wake::EventFd;

/// Every order of so many preemptions; all orders would take minutes.
fn check_with(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(preemptions);
    checker.check(model);
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    check_with(3, model);
}

fn executor() -> LocalExecutor {
    mock_ring::executor().0
}

/// Counts its drops.
struct Counted(StdArc<std::sync::atomic::AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Something that is dropped, and how often it was.
fn counted() -> (Counted, impl Fn() -> usize) {
    let drops = StdArc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = StdArc::clone(&drops);
    (Counted(drops), move || seen.load(std::sync::atomic::Ordering::Relaxed))
}

/// Where a future leaves its waker for another thread.
#[derive(Default)]
struct Handed(loom::sync::Mutex<Option<Waker>>);

impl Handed {
    fn put(&self, waker: &Waker) {
        let old = self.0.lock().unwrap().replace(waker.clone());
        drop(old);
    }

    fn take(&self) -> Option<Waker> {
        self.0.lock().unwrap().take()
    }
}

/// What was written before a wake is seen by the poll that it causes, relaxed as the write may be: the wake itself orders them.
#[test]
fn a_wake_from_another_thread_is_not_lost_and_carries_what_was_written_before() {
    check(|| {
        let executor = executor();
        let (is_set, handed) = (Arc::new(AtomicBool::new(false)), Arc::new(Handed::default()));
        let (sets, takes) = (Arc::clone(&is_set), Arc::clone(&handed));
        let mut waking = None;
        executor
            .block_on(poll_fn(|context| {
                if is_set.load(Ordering::Relaxed) {
                    return Poll::Ready(());
                }
                handed.put(context.waker());
                // Begun here, so that there is a waker to take.
                if waking.is_none() {
                    let (sets, takes) = (Arc::clone(&sets), Arc::clone(&takes));
                    waking = Some(thread::spawn(move || {
                        sets.store(true, Ordering::Relaxed);
                        takes.take().into_iter().for_each(Waker::wake);
                    }));
                }
                Poll::Pending
            }))
            .unwrap();
        waking.unwrap().join().unwrap();
    });
}

/// compio #948: two wakes at once, and the task was queued by neither.
#[test]
fn of_two_wakes_at_once_none_is_lost() {
    check_with(2, || {
        let executor = executor();
        let count = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&count);
        let mut waking = Vec::new();
        let mut polls = 0;
        let task = poll_fn(move |context| {
            polls += 1;
            if waking.is_empty() {
                waking.extend((0..2).map(|_| {
                    let (count, waker) = (Arc::clone(&count), context.waker().clone());
                    thread::spawn(move || {
                        count.fetch_add(1, Ordering::Relaxed);
                        waker.wake();
                    })
                }));
            }
            if count.load(Ordering::Relaxed) < 2 {
                return Poll::Pending;
            }
            waking.drain(..).for_each(|thread| thread.join().unwrap());
            assert!(polls <= 3, "{polls} polls for two wakes");
            Poll::Ready(())
        });
        let task = executor.spawn_local(task).unwrap();
        executor.block_on(task).unwrap().unwrap();
        assert_eq!(counts.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn of_two_wakes_at_once_one_is_queued() {
    loom::model(|| {
        let inbox = Arc::new(TaskInbox::new(EventFd::new().unwrap()));
        let cell = StdArc::new(WakeCell::new(&inbox, TaskKey::null()));
        let wakers = [0, 1].map(|_| Waker::from(StdArc::clone(&cell)));
        let waking = wakers.map(|waker| thread::spawn(move || waker.wake()));
        waking.into_iter().for_each(|thread| thread.join().unwrap());
        let mut messages = Vec::new();
        inbox.take(&mut messages);
        let [Message::Wake(sent)] = &messages[..] else { panic!("{} messages", messages.len()) };
        assert!(StdArc::ptr_eq(sent, &cell) && sent.receive().is_null());
        Waker::from(cell).wake();
        inbox.take(&mut messages);
        assert_eq!(messages.len(), 2, "after it was received another one is sent");
        inbox.close();
    });
}

/// A waker is cloned, used and dropped on another thread while its task ends, another takes its place, and the executor ends.
#[test]
fn a_waker_of_a_task_that_ends_wakes_no_other_and_keeps_nothing() {
    check(|| {
        let executor = executor();
        let handed = Arc::new(Handed::default());
        let (first, first_drops) = counted();
        let (second, second_drops) = counted();
        let puts = Arc::clone(&handed);
        let ends = executor.spawn_local(poll_fn(move |context| {
            let _ = &first;
            puts.put(context.waker());
            Poll::Ready(())
        }));
        executor.block_on(ends.unwrap()).unwrap().unwrap();
        assert_eq!(first_drops(), 1);
        let waking = thread::spawn(move || {
            let waker = handed.take().unwrap();
            let clone = waker.clone();
            waker.wake_by_ref();
            drop(waker);
            clone.wake();
        });
        let mut polls = 0;
        let takes_its_place = poll_fn(move |_| {
            let _ = &second;
            polls += 1;
            assert_eq!(polls, 1, "a wake of the task that was here before");
            Poll::<()>::Pending
        });
        executor.spawn_local(takes_its_place).unwrap().detach();
        executor.block_on(yield_now()).unwrap();
        executor.block_on(yield_now()).unwrap();
        let closed = executor.close();
        assert_eq!((closed.dropped_tasks, closed.panics, second_drops()), (1, 0, 1));
        waking.join().unwrap();
    });
}

/// A task is cancelled while another thread wakes it: its future is dropped once, by the executor's thread.
#[test]
fn a_task_that_is_cancelled_while_it_is_woken_is_dropped_once() {
    check(|| {
        let executor = executor();
        let handed = Arc::new(Handed::default());
        let (held, drops) = counted();
        let puts = Arc::clone(&handed);
        let parked = executor.spawn_local(poll_fn(move |context| {
            let _ = &held;
            puts.put(context.waker());
            Poll::<()>::Pending
        }));
        let parked = parked.unwrap();
        executor.block_on(yield_now()).unwrap();
        let waking = thread::spawn(move || handed.take().unwrap().wake());
        executor.block_on(yield_now()).unwrap();
        assert_eq!((parked.cancel(), drops()), (None, 1));
        executor.block_on(yield_now()).unwrap();
        assert_eq!(executor.stats().tasks, 0);
        drop(executor);
        waking.join().unwrap();
        assert_eq!(drops(), 1);
    });
}

/// Work comes from another thread while the executor takes its mail, runs, and ends. Whoever waits for it always gets an answer.
#[test]
fn work_for_an_executor_that_ends_is_done_or_refused() {
    check(|| {
        let executor = executor();
        let remote = executor.remote();
        let (held, drops) = counted();
        let asking = thread::spawn(move || {
            block_on(remote.spawn(move || async move {
                drop(held);
                5
            }))
        });
        executor.block_on(yield_now()).unwrap();
        let closed = executor.close();
        assert_eq!((closed.dropped_tasks <= 1, closed.panics), (true, 0));
        assert!(matches!(asking.join().unwrap(), Ok(5) | Err(RemoteGone)));
        assert_eq!(drops(), 1);
    });
}

/// The executor sleeps until the work is there.
#[test]
fn an_executor_that_sleeps_does_what_comes() {
    check(|| {
        let executor = executor();
        let remote = executor.remote();
        let (is_done, handed) = (Arc::new(AtomicBool::new(false)), Arc::new(Handed::default()));
        let asking = thread::spawn({
            let (is_done, handed) = (Arc::clone(&is_done), Arc::clone(&handed));
            move || {
                let work = move || async move {
                    is_done.store(true, Ordering::Relaxed);
                    handed.take().into_iter().for_each(Waker::wake);
                };
                block_on(remote.spawn(work))
            }
        });
        let waits = poll_fn(|context| {
            if is_done.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            handed.put(context.waker());
            Poll::Pending
        });
        executor.block_on(waits).unwrap();
        // It may have been the wake of the work's last step that ended the wait.
        executor.block_on(yield_now()).unwrap();
        drop(executor);
        assert_eq!(asking.join().unwrap(), Ok(()));
    });
}

/// Whoever waits gives up while the answer is on its way: the answer is dropped once, by one side or the other.
#[test]
fn an_answer_that_nobody_waits_for_any_more_is_dropped_once() {
    check(|| {
        let executor = executor();
        let remote = executor.remote();
        let (held, drops) = counted();
        let asking = thread::spawn(move || {
            let mut answer = remote.spawn(move || async move { held });
            let once = poll_fn(move |context| Poll::Ready(std::pin::Pin::new(&mut answer).poll(context).is_ready()));
            block_on(once)
        });
        executor.block_on(yield_now()).unwrap();
        executor.block_on(yield_now()).unwrap();
        drop(executor);
        asking.join().unwrap();
        assert_eq!(drops(), 1);
    });
}
