//! Signals, sent by each test to its own thread alone, so that the others do not see them.

#![allow(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use ublk_executor::signal::Signals;
use ublk_executor::{LocalExecutor, sleep, spawn_local};

const LIMIT: Duration = Duration::from_secs(30);

fn raise(signal: i32) {
    // SAFETY: the thread is this one.
    assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), signal) }, 0);
}

/// The signals that this thread blocks, as the kernel says.
fn blocked() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            let (mut future, mut limit) = (pin!(future), pin!(sleep(LIMIT)));
            poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Pending if limit.as_mut().poll(context).is_ready() => panic!("it took longer than {LIMIT:?}"),
                polled => polled,
            })
            .await
        })
        .unwrap()
}

#[test]
fn signals_are_received_before_and_while_one_waits() {
    let signals = Signals::new(&[libc::SIGUSR1, libc::SIGUSR2]).unwrap();
    run(async move {
        raise(libc::SIGUSR2);
        raise(libc::SIGUSR2);
        assert_eq!(signals.recv().await.unwrap(), libc::SIGUSR2);
        let sending = spawn_local(async {
            sleep(Duration::from_millis(5)).await;
            raise(libc::SIGUSR1);
        })
        .unwrap();
        let begin = Instant::now();
        assert_eq!(signals.recv().await.unwrap(), libc::SIGUSR1);
        assert!(begin.elapsed() >= Duration::from_millis(4));
        sending.await.unwrap();
    });
}

#[test]
fn a_signal_that_comes_when_nobody_waits_any_more_stays() {
    let signals = Signals::new(&[libc::SIGUSR1]).unwrap();
    run(async {
        for comes_after in [false, true] {
            let mut dropped = Box::pin(signals.recv());
            let mut is_first = true;
            poll_fn(|context| {
                assert!(!is_first || dropped.as_mut().poll(context).is_pending());
                is_first = false;
                Poll::Ready(())
            })
            .await;
            sleep(Duration::from_millis(1)).await;
            if !comes_after {
                raise(libc::SIGUSR1);
                sleep(Duration::from_millis(1)).await; // the operation has ended, and nobody has polled
            }
            drop(dropped);
            if comes_after {
                raise(libc::SIGUSR1);
            }
            assert_eq!(signals.recv().await.unwrap(), libc::SIGUSR1);
        }
    });
}

#[test]
fn dropping_gives_back_what_was_blocked_and_no_more() {
    let before = blocked();
    let outer = Signals::new(&[libc::SIGUSR1]).unwrap();
    let inner = Signals::new(&[libc::SIGUSR1, libc::SIGHUP]).unwrap();
    assert_eq!(blocked(), before | bit(libc::SIGUSR1) | bit(libc::SIGHUP));
    raise(libc::SIGHUP); // discarded: it would end this program
    drop(inner);
    assert_eq!(blocked(), before | bit(libc::SIGUSR1));
    drop(outer);
    assert_eq!(blocked(), before);
}

#[test]
fn what_cannot_be_received_is_an_error_and_blocks_nothing() {
    let before = blocked();
    for signal in [0, -1, 65, libc::SIGKILL, libc::SIGSTOP] {
        let error = Signals::new(&[libc::SIGUSR1, signal]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), format!("signal {signal} cannot be received"));
    }
    assert_eq!(blocked(), before);
}
