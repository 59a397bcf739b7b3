//! What tasks of one executor share.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use ublk_executor::local::{Gate, GateClosed, Receiver, ReceiverGone, RwLock, Semaphore, Sender, channel};
use ublk_executor::spsc::{PopError, PushError};
use ublk_executor::{JoinHandle, LocalExecutor, spawn_local, yield_now};

fn run<T>(future: impl Future<Output = T>) -> T {
    LocalExecutor::new().unwrap().block_on(future).unwrap()
}

#[test]
fn no_more_are_under_way_than_there_are_permits() {
    let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let semaphore = Semaphore::new(5);
    let seen = Rc::clone(&most);
    let limit = semaphore.clone();
    run(async move {
        let mut tasks = Vec::new();
        for number in 0..60_usize {
            let (limit, now, most) = (limit.clone(), Rc::clone(&now), Rc::clone(&most));
            let work = async move {
                let wanted = number % 3 + 1;
                let _permit = limit.acquire(wanted).await;
                now.set(now.get() + wanted);
                most.set(most.get().max(now.get()));
                for _ in 0..number % 4 {
                    yield_now().await;
                }
                now.set(now.get() - wanted);
            };
            tasks.push(spawn_local(work).unwrap());
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!((seen.get(), semaphore.free()), (5, 5));
}

#[test]
fn who_asks_for_much_is_not_overtaken() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let semaphore = Semaphore::new(2);
    run(async {
        let one = semaphore.acquire(1).await;
        let mut tasks = Vec::new();
        for wanted in [2, 1] {
            let (semaphore, order) = (semaphore.clone(), Rc::clone(&order));
            let waits = async move {
                let _permit = semaphore.acquire(wanted).await;
                order.borrow_mut().push(wanted);
            };
            tasks.push(spawn_local(waits).unwrap());
            yield_now().await;
        }
        assert!(semaphore.try_acquire(1).is_none(), "one is free, but others wait for it");
        yield_now().await;
        assert!(order.borrow().is_empty());
        drop(one);
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(*order.borrow(), [2, 1]);
}

#[test]
fn who_stops_waiting_holds_nobody_up_and_keeps_nothing() {
    let semaphore = Semaphore::new(1);
    run(async {
        let one = semaphore.acquire(1).await;
        let wait = |wanted| {
            let semaphore = semaphore.clone();
            spawn_local(async move { semaphore.acquire(wanted).await }).unwrap()
        };
        let (too_much, next) = (wait(9), wait(1));
        yield_now().await;
        drop(one);
        yield_now().await;
        assert!(!next.is_finished());
        drop(too_much);
        let permit = next.await.unwrap();
        // Granted, and given up before it was taken.
        let granted = wait(1);
        yield_now().await;
        drop(permit);
        drop(granted);
        assert_eq!(semaphore.free(), 1);
    });
}

#[test]
fn a_gate_closes_when_the_last_one_has_left() {
    let gate = Gate::new();
    run(async {
        let passes = [gate.enter().unwrap(), gate.enter().unwrap()];
        let closing = gate.close();
        assert_eq!(gate.enter().unwrap_err(), GateClosed);
        let waits: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                spawn_local(async move { gate.close().await }).unwrap()
            })
            .collect();
        for pass in passes {
            yield_now().await;
            assert!(waits.iter().all(|task| !task.is_finished()));
            drop(pass);
        }
        closing.await;
        for task in waits {
            task.await.unwrap();
        }
        assert_eq!(gate.inside(), 0);
        gate.close().await;
    });
}

/// Sends in a task of its own.
fn send<T: 'static>(sender: &Sender<T>, item: T) -> JoinHandle<Result<(), T>> {
    let sender = sender.clone();
    spawn_local(async move { sender.send(item).await.map_err(|error| error.0) }).unwrap()
}

#[test]
fn all_senders_items_arrive_in_their_order_and_no_more_wait_than_fit() {
    for capacity in [1, 3, 1_000] {
        run(async {
            let (sender, mut receiver) = channel(capacity);
            let under_way = Rc::new(Cell::new(0_usize));
            for from in 0..5 {
                let (sender, under_way) = (sender.clone(), Rc::clone(&under_way));
                let sends = async move {
                    for number in 0..200 {
                        sender.send((from, number)).await.unwrap();
                        under_way.set(under_way.get() + 1);
                    }
                };
                spawn_local(sends).unwrap().detach();
            }
            drop(sender);
            let mut next = [0; 5];
            while let Some((from, number)) = receiver.recv().await {
                under_way.set(under_way.get() - 1);
                assert!(under_way.get() < capacity);
                assert_eq!(number, next[from]);
                next[from] += 1;
                if number % 3 == from {
                    yield_now().await;
                }
            }
            assert_eq!(next, [200; 5]);
        });
    }
}

#[test]
fn senders_are_served_in_the_order_in_which_they_came() {
    run(async {
        let (sender, mut receiver) = channel(1);
        sender.send(0).await.unwrap();
        let waiting: Vec<_> = (1..4).map(|number| send(&sender, number)).collect();
        yield_now().await;
        assert!(matches!(sender.try_send(9), Err(PushError::Full(9))));
        assert_eq!(receiver.try_recv(), Ok(0));
        // There is room, but it is another's.
        assert!(matches!(sender.try_send(9), Err(PushError::Full(9))));
        for (number, sending) in (1..4).zip(waiting) {
            sending.await.unwrap().unwrap();
            assert_eq!(receiver.recv().await, Some(number));
        }
        assert_eq!(receiver.try_recv(), Err(PopError::Empty));
        sender.try_send(9).unwrap();
        assert_eq!(receiver.recv().await, Some(9));
    });
}

#[test]
fn items_come_back_when_the_receiver_is_gone_and_unreceived_ones_are_dropped() {
    run(async {
        let (sender, receiver) = channel(1);
        let (first, second) = (Rc::new(1), Rc::new(2));
        let slot = sender.reserve().await.unwrap();
        assert!(sender.try_send(Rc::clone(&first)).is_err());
        slot.send(Rc::clone(&first)).unwrap();
        let waiting = [send(&sender, Rc::clone(&second)), send(&sender, Rc::clone(&second))];
        yield_now().await;
        drop(receiver);
        assert_eq!(Rc::strong_count(&first), 1);
        for sending in waiting {
            assert_eq!(sending.await.unwrap(), Err(Rc::clone(&second)));
        }
        assert!(matches!(sender.try_send(Rc::clone(&second)), Err(PushError::Closed(_))));
        assert_eq!(sender.reserve().await.unwrap_err(), ReceiverGone);
        assert_eq!(Rc::strong_count(&second), 1);
    });
}

#[test]
fn a_receiver_gets_what_was_sent_before_the_queue_was_closed() {
    run(async {
        let (sender, mut receiver) = channel(2);
        sender.try_send(1).unwrap();
        let slot = sender.reserve().await.unwrap();
        drop(sender);
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.try_recv(), Err(PopError::Empty), "whoever has a slot may send");
        let receiving = spawn_local(async move { (receiver.recv().await, receiver.recv().await) }).unwrap();
        yield_now().await;
        slot.send(2).unwrap();
        assert_eq!(receiving.await.unwrap(), (Some(2), None));

        let (sender, mut receiver) = channel(2);
        let slot = sender.reserve().await.unwrap();
        sender.try_send(1).unwrap();
        let waiting = send(&sender, 4);
        yield_now().await;
        receiver.close();
        assert_eq!(waiting.await.unwrap(), Err(4));
        assert_eq!(slot.send(2).unwrap_err().0, 2);
        assert!(sender.is_closed() && sender.send(3).await.is_err());
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(1), None));

        let (sender, mut receiver) = channel::<()>(1);
        let receiving = spawn_local(async move { receiver.recv().await }).unwrap();
        yield_now().await;
        drop(sender);
        assert_eq!(receiving.await.unwrap(), None);
    });
}

#[test]
fn a_sender_or_receiver_that_stops_waiting_costs_nothing() {
    run(async {
        let (sender, mut receiver) = channel(1);
        sender.try_send(1).unwrap();
        let (stops, next) = (send(&sender, 2), send(&sender, 3));
        yield_now().await;
        drop(stops);
        assert_eq!(receiver.recv().await, Some(1));
        next.await.unwrap().unwrap();
        // Granted, and given up before it was taken.
        let (stops, next) = (send(&sender, 4), send(&sender, 5));
        yield_now().await;
        assert_eq!(receiver.try_recv(), Ok(3));
        drop(stops);
        next.await.unwrap().unwrap();
        assert_eq!(receiver.recv().await, Some(5));
        // A wait that is given up after its first poll.
        assert!(pin!(receiver.recv()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        sender.send(6).await.unwrap();
        assert_eq!(receiver.recv().await, Some(6));
    });
}

#[test]
fn a_queue_for_nothing_is_refused() {
    assert!(std::panic::catch_unwind(|| channel::<()>(0)).is_err());
}

thread_local! {
    static WAITS: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>> = const { RefCell::new(None) };
    static QUEUE: (Sender<Sends>, RefCell<Option<Receiver<Sends>>>) = {
        let (sender, receiver) = channel(1);
        (sender, RefCell::new(Some(receiver)))
    };
    static REFUSED: Cell<u32> = const { Cell::new(0) };
}

/// Polls what it wakes at once.
struct PollsAtOnce;

impl Wake for PollsAtOnce {
    fn wake(self: Arc<Self>) {
        let mut waits = WAITS.take().unwrap();
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}

#[test]
fn whoever_is_woken_finds_the_value_free() {
    let lock = Rc::new(RwLock::new(0));
    let write = || {
        let lock = Rc::clone(&lock);
        Box::pin(async move { *lock.write().await += 1 })
    };
    let reader = lock.try_read().unwrap();
    let mut waits = write();
    let waker = Waker::from(Arc::new(PollsAtOnce));
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    WAITS.set(Some(waits));
    drop(reader);
    assert_eq!(*lock.try_read().unwrap(), 1);
    let writer = lock.try_write().unwrap();
    let mut waits = write();
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    WAITS.set(Some(waits));
    drop(writer);
    assert_eq!(*lock.try_read().unwrap(), 2);
}

/// An item whose destructor sends another.
struct Sends;

impl Drop for Sends {
    fn drop(&mut self) {
        QUEUE.with(|(sender, _)| {
            if let Err(refused) = sender.try_send(Sends) {
                REFUSED.set(REFUSED.get() + 1);
                std::mem::forget(refused);
            }
        });
    }
}

#[test]
fn a_destructor_may_use_the_queue_that_drops_it() {
    QUEUE.with(|(sender, receiver)| {
        assert!(sender.try_send(Sends).is_ok());
        let closing = receiver.take();
        drop(closing);
        assert!(sender.is_closed());
    });
    assert_eq!(REFUSED.get(), 1);
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let lock = Rc::new(RwLock::new(0_u32));
    let (readers, most) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0)));
    let (shared, seen) = (Rc::clone(&lock), Rc::clone(&most));
    run(async move {
        let mut tasks = Vec::new();
        for number in 0..60_u32 {
            let (lock, readers, most) = (Rc::clone(&shared), Rc::clone(&readers), Rc::clone(&most));
            let work = async move {
                if number % 5 == 0 {
                    let mut value = lock.write().await;
                    let before = *value;
                    for _ in 0..number % 4 {
                        yield_now().await;
                        assert_eq!(readers.get(), 0);
                    }
                    *value = before + 1;
                } else {
                    let value = lock.read().await;
                    readers.set(readers.get() + 1);
                    most.set(most.get().max(readers.get()));
                    let before = *value;
                    yield_now().await;
                    assert_eq!(*value, before);
                    readers.set(readers.get() - 1);
                }
            };
            tasks.push(spawn_local(work).unwrap());
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(seen.get(), 4, "readers at once, between two writers");
    assert_eq!(Rc::try_unwrap(lock).unwrap().into_inner(), 12);
}

#[test]
fn readers_that_come_later_do_not_starve_a_writer() {
    let lock = Rc::new(RwLock::new(Vec::new()));
    run(async {
        let reader = lock.read().await;
        let write = |number| {
            let lock = Rc::clone(&lock);
            spawn_local(async move { lock.write().await.push(number) }).unwrap()
        };
        let read = || {
            let lock = Rc::clone(&lock);
            spawn_local(async move { lock.read().await.clone() }).unwrap()
        };
        let tasks = (write(1), read(), write(2));
        yield_now().await;
        assert!(lock.try_read().is_none() && lock.try_write().is_none());
        assert!(!tasks.0.is_finished() && !tasks.1.is_finished());
        drop(reader);
        assert_eq!(tasks.1.await.unwrap(), [1]);
        tasks.2.await.unwrap();
        // A writer that stops waiting lets the readers behind it go.
        let reader = lock.try_read().unwrap();
        let (stops, reads) = (write(3), read());
        yield_now().await;
        assert!(!reads.is_finished());
        drop(stops);
        assert_eq!(reads.await.unwrap(), [1, 2]);
        drop(reader);
        // And one that had been granted the lock gives it back.
        let (reader, stops) = (lock.try_read().unwrap(), write(3));
        yield_now().await;
        drop(reader);
        drop(stops);
        assert_eq!(*lock.try_write().unwrap(), [1, 2]);
    });
}
