//! What tasks of one executor share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ublk_executor::local::{Gate, GateClosed, Semaphore};
use ublk_executor::{LocalExecutor, spawn_local, yield_now};

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
