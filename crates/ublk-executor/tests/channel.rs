//! Queues between executors: order, back-pressure, close in both directions.

use std::cell::Cell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ublk_executor::channel::channel;
use ublk_executor::{LocalExecutor, sleep, spawn_local, yield_now};

#[test]
fn all_items_arrive_in_order_between_two_threads() {
    for capacity in [1, 3, 64] {
        let (mut requests, mut requested) = channel::<u64>(capacity);
        let (mut answers, mut answered) = channel::<String>(capacity);
        let server = thread::spawn(move || {
            let serve = async {
                while let Some(number) = requested.recv().await {
                    answers.send(number.to_string()).await.unwrap();
                }
            };
            LocalExecutor::new().unwrap().block_on(serve).unwrap();
        });
        let executor = LocalExecutor::new().unwrap();
        executor
            .block_on(async {
                let sending = spawn_local(async move {
                    for number in 0..5_000 {
                        requests.send(number).await.unwrap();
                    }
                })
                .unwrap();
                for number in 0..5_000_u64 {
                    assert_eq!(answered.recv().await, Some(number.to_string()));
                }
                sending.await.unwrap();
                assert_eq!(answered.recv().await, None);
            })
            .unwrap();
        server.join().unwrap();
    }
}

#[test]
fn a_full_queue_holds_its_sender_back() {
    let sent = Rc::new(Cell::new(0));
    let counts = Rc::clone(&sent);
    LocalExecutor::new()
        .unwrap()
        .block_on(async move {
            let (mut sender, mut receiver) = channel(2);
            let sending = spawn_local(async move {
                for number in 0..5 {
                    sender.send(number).await.unwrap();
                    counts.set(number + 1);
                }
            })
            .unwrap();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(sent.get(), 2);
            assert_eq!(receiver.recv().await, Some(0));
            yield_now().await;
            assert_eq!(sent.get(), 3);
            while receiver.recv().await.is_some() {}
            sending.await.unwrap();
        })
        .unwrap();
}

#[test]
fn a_sender_gets_its_item_back_when_the_receiver_is_gone() {
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            let (mut sender, receiver) = channel(1);
            sender.send("first").await.unwrap();
            let waiting = spawn_local(async move { sender.send("second").await }).unwrap();
            yield_now().await;
            drop(receiver);
            assert_eq!(waiting.await.unwrap().unwrap_err().0, "second");
        })
        .unwrap();
}

#[test]
fn a_receiver_that_stopped_waiting_loses_nothing() {
    LocalExecutor::new()
        .unwrap()
        .block_on(async {
            let (mut sender, mut receiver) = channel(1);
            // A wait that is given up after its first poll.
            let gives_up = spawn_local(async move {
                let _ = std::future::poll_fn(|context| {
                    let waits = std::pin::pin!(receiver.recv()).as_mut().poll(context).is_pending();
                    std::task::Poll::Ready(waits)
                })
                .await;
                receiver
            })
            .unwrap();
            let mut receiver = gives_up.await.unwrap();
            sender.send(5).await.unwrap();
            assert_eq!(receiver.recv().await, Some(5));
        })
        .unwrap();
}
