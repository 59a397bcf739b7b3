//! Values of a task's own.

use std::cell::RefCell;
use std::future::pending;
use std::panic::catch_unwind;
use std::rc::Rc;

use ublk_executor::executor::TaskLocal;
use ublk_executor::{JoinHandle, LocalExecutor, spawn_local, yield_now};

static NUMBER: TaskLocal<usize> = TaskLocal::new();
static OTHER: TaskLocal<usize> = TaskLocal::new();

fn number() -> Option<usize> {
    NUMBER.get().map(|number| *number)
}

#[test]
fn each_task_has_its_own_value_and_so_has_the_future_of_block_on() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            assert_eq!(NUMBER.set(100), None);
            let tasks: Vec<_> = (0..10)
                .map(|index| {
                    spawn_local(async move {
                        assert_eq!(number(), None);
                        NUMBER.set(index);
                        OTHER.set(index + 50);
                        yield_now().await;
                        assert_eq!(NUMBER.set(index + 10), Some(Rc::new(index)));
                        yield_now().await;
                        assert_eq!(OTHER.take(), Some(Rc::new(index + 50)));
                        (number(), OTHER.get())
                    })
                    .unwrap()
                })
                .collect();
            for (index, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await.unwrap(), (Some(index + 10), None));
                assert_eq!(number(), Some(100));
            }
            let provided = spawn_local(NUMBER.provide(5, async { number() })).unwrap();
            assert_eq!(provided.await.unwrap(), Some(5));
        })
        .unwrap();
    assert_eq!(executor.block_on(async { number() }).unwrap(), None, "the next block_on begins anew");
}

/// Writes down the value that it sees when it is dropped.
struct Sees(Rc<RefCell<Vec<Option<usize>>>>);

impl Drop for Sees {
    fn drop(&mut self) {
        self.0.borrow_mut().push(number());
    }
}

#[test]
fn a_destructor_sees_its_own_tasks_value_whoever_drops_it() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let spawn = |value| {
        let sees = Sees(Rc::clone(&seen));
        let carries = async move {
            let _sees = sees;
            pending::<()>().await;
        };
        spawn_local(NUMBER.provide(value, carries)).unwrap()
    };
    let executor = LocalExecutor::new().unwrap();
    let main_sees = Sees(Rc::clone(&seen));
    let left: RefCell<Option<JoinHandle<()>>> = RefCell::default();
    executor
        .block_on(async {
            let _sees = main_sees;
            NUMBER.set(1);
            let cancelled = spawn(2);
            *left.borrow_mut() = Some(spawn(3));
            yield_now().await;
            drop(cancelled);
            assert_eq!(number(), Some(1), "the canceller keeps its own");
        })
        .unwrap();
    drop(executor);
    drop(left);
    assert_eq!(*seen.borrow(), [Some(2), Some(1), Some(3)]);
}

#[test]
fn values_are_dropped_with_their_task_and_may_use_the_executor() {
    struct Value(#[allow(dead_code)] Rc<()>);
    impl Drop for Value {
        fn drop(&mut self) {
            // Its task is gone, and with it the key's value.
            assert!(VALUE.get().is_none());
        }
    }
    static VALUE: TaskLocal<Value> = TaskLocal::new();
    let live = Rc::new(());
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let value = || Value(Rc::clone(&live));
            let ends = spawn_local(VALUE.provide(value(), yield_now())).unwrap();
            let panics = spawn_local(VALUE.provide(value(), async { panic!("with a value") })).unwrap();
            let waits = spawn_local(VALUE.provide(value(), pending::<()>())).unwrap();
            ends.await.unwrap();
            assert!(panics.await.is_err());
            assert_eq!(Rc::strong_count(&live), 2);
            assert!(VALUE.get().is_none(), "a panic has left its value behind");
            drop(waits);
            assert_eq!(Rc::strong_count(&live), 1);
        })
        .unwrap();
    assert_eq!(executor.stats().panics, 1);
}

#[test]
fn executors_within_one_another_keep_their_values_apart() {
    let (outer, inner) = (LocalExecutor::new().unwrap(), LocalExecutor::new().unwrap());
    outer
        .block_on(async {
            NUMBER.set(1);
            let seen = inner.block_on(async {
                let before = number();
                NUMBER.set(2);
                (before, spawn_local(async { number() }).unwrap().await.unwrap())
            });
            assert_eq!((seen.unwrap(), number()), ((None, None), Some(1)));
        })
        .unwrap();
    assert!(catch_unwind(number).is_err(), "outside of an executor");
}
