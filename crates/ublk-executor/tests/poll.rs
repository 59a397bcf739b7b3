//! Waiting for descriptors: once, in time, again and again; what is given up is cancelled and lets go of the descriptor.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ublk_executor::io::{Events, poll_many, poll_once, poll_once_within};
use ublk_executor::{LocalExecutor, sleep, spawn_local};

const LIMIT: Duration = Duration::from_secs(10);

fn ends() -> (Rc<PipeReader>, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    (Rc::new(reader), writer)
}

/// Waits until the ring has let go of the descriptor.
async fn until_free(executor: &LocalExecutor, reader: &Rc<PipeReader>) {
    let deadline = Instant::now() + LIMIT;
    while executor.stats().in_flight > 0 || Rc::strong_count(reader) > 1 {
        assert!(Instant::now() < deadline, "{:?}", executor.stats());
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_pipe_is_ready_when_bytes_or_the_end_are_there() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let (reader, mut writer) = pipe().unwrap();
            let waiting = spawn_local(poll_once(reader, Events::READABLE)).unwrap();
            sleep(Duration::from_millis(2)).await;
            assert_eq!(executor.stats().in_flight, 1);
            writer.write_all(b"a").unwrap();
            let (events, mut reader) = waiting.await.unwrap();
            assert_eq!(events.unwrap(), Events::READABLE);
            reader.read_exact(&mut [0]).unwrap();
            drop(writer);
            let (events, _) = poll_once(reader, Events::READABLE).await;
            assert!(events.unwrap().contains(Events::HANG_UP));
            let (_reader, writer) = pipe().unwrap();
            let (events, _) = poll_once(writer, Events::READABLE | Events::WRITABLE).await;
            assert_eq!(events.unwrap(), Events::WRITABLE);
        })
        .unwrap();
}

#[test]
fn a_wait_that_is_dropped_is_cancelled_and_one_that_is_cancelled_gives_back() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let (reader, _writer) = ends();
            let waiting = poll_once(Rc::clone(&reader), Events::READABLE);
            sleep(Duration::from_millis(2)).await;
            drop(waiting);
            assert_eq!(Rc::strong_count(&reader), 2, "the kernel still has it");
            until_free(&executor, &reader).await;
            let (events, back) = poll_once(Rc::clone(&reader), Events::READABLE).cancel().await;
            assert_eq!(events.unwrap_err().raw_os_error(), Some(125)); // ECANCELED
            assert!(Rc::ptr_eq(&back, &reader));
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 0);
}

#[test]
fn a_wait_ends_at_its_limit_and_not_before() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let (reader, mut writer) = ends();
            let begin = Instant::now();
            let limit = Duration::from_millis(30);
            let (events, back) = poll_once_within(Rc::clone(&reader), Events::READABLE, limit).await;
            assert_eq!(events.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
            assert!(begin.elapsed() >= limit && begin.elapsed() < LIMIT);
            drop(back);
            until_free(&executor, &reader).await;
            writer.write_all(b"a").unwrap();
            let (events, _) = poll_once_within(Rc::clone(&reader), Events::READABLE, LIMIT).await;
            assert_eq!(events.unwrap(), Events::READABLE);
            // The time limit ends with what it limits: 10 s are not waited for.
            let begin = Instant::now();
            until_free(&executor, &reader).await;
            assert!(begin.elapsed() < LIMIT / 2);
        })
        .unwrap();
}

#[test]
fn every_edge_is_told_once_by_one_operation() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let (reader, mut writer) = ends();
            let mut edges = poll_many(Rc::clone(&reader), Events::READABLE);
            // Three come before anybody looks.
            for _ in 0..3 {
                sleep(Duration::from_millis(2)).await;
                writer.write_all(b"a").unwrap();
            }
            sleep(Duration::from_millis(2)).await;
            for _ in 0..3 {
                assert_eq!(edges.next().await.unwrap(), Events::READABLE);
            }
            // A wait that is given up takes no edge with it.
            let mut given_up = Box::pin(edges.next());
            assert!(given_up.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
            writer.write_all(b"a").unwrap();
            sleep(Duration::from_millis(2)).await;
            drop(given_up);
            assert_eq!(edges.next().await.unwrap(), Events::READABLE);
            assert_eq!((executor.stats().in_flight, edges.get_ref().as_ref().read(&mut [0; 8]).unwrap()), (1, 4));
            drop(edges);
            until_free(&executor, &reader).await;
        })
        .unwrap();
}

/// Nobody takes its edges, so it ends; whoever takes them then gets all of them, and those that come later.
#[test]
fn a_wait_that_has_ended_is_armed_anew() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let (reader, mut writer) = ends();
            let mut edges = poll_many(Rc::clone(&reader), Events::READABLE);
            sleep(Duration::from_micros(1)).await;
            let mut written = 0;
            while executor.stats().in_flight > 0 {
                written += 1;
                assert!(written < 10_000, "nothing limits what waits");
                writer.write_all(b"a").unwrap();
                sleep(Duration::from_micros(1)).await;
            }
            for _ in 0..1000 {
                assert_eq!(edges.next().await.unwrap(), Events::READABLE);
            }
            assert_eq!(executor.stats().in_flight, 0);
            // The rest, and then those of a new wait.
            for _ in 1000..written + 10 {
                writer.write_all(b"a").unwrap();
                assert_eq!(edges.next().await.unwrap(), Events::READABLE);
            }
            assert_eq!(executor.stats().in_flight, 1);
        })
        .unwrap();
}
