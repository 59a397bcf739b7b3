//! Clients of an executor's ring: each gets its own completions, in batches, and the executor sleeps for all.

#![allow(unsafe_code)] // operations that point to no memory

use std::cell::Cell;
use std::io::Write;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};
use ublk_executor::executor::sleep;
use ublk_executor::external::External;
use ublk_executor::io::{Events, poll_once};
use ublk_executor::{LocalExecutor, RingError, Wait, Waker};

fn nop() -> squeue::Entry {
    opcode::Nop::new().build()
}

/// Ends after `timespec`, which must outlive it.
fn timeout(timespec: &'static types::Timespec) -> squeue::Entry {
    opcode::Timeout::new(timespec).build()
}

static LONG: types::Timespec = types::Timespec::new().sec(60);
static SHORT: types::Timespec = types::Timespec::new().nsec(20_000_000);

fn push(client: &External, mut entry: squeue::Entry, data: u32) {
    // SAFETY: NOP points to nothing, and a timeout to what is static.
    unsafe { client.push(&mut entry, data) }.unwrap();
}

fn data_of(client: &External) -> Vec<u32> {
    let mut batch = Vec::new();
    client.take(&mut batch);
    let mut data: Vec<u32> = batch.iter().map(|completion| completion.data()).collect();
    data.sort_unstable();
    data
}

#[test]
fn each_client_gets_its_own_completions() {
    let executor = LocalExecutor::new().unwrap();
    let (one, two) = (External::new(&executor, 16).unwrap(), External::new(&executor, 16).unwrap());
    for data in [0, 1, u32::MAX] {
        push(&one, nop(), data);
        push(&two, nop(), data ^ 0x100);
    }
    executor.turn(Wait::Forever).unwrap();
    assert_eq!(data_of(&one), [0, 1, u32::MAX]);
    assert_eq!(data_of(&two), [0x100, 0x101, u32::MAX ^ 0x100]);
    assert!(data_of(&one).is_empty());
}

fn push_prompt(client: &External, data: u32) {
    // SAFETY: NOP points to nothing.
    unsafe { client.push_prompt(&mut nop(), data) }.unwrap();
}

#[test]
fn a_prompt_operation_alone_ends_no_wait() {
    let executor = LocalExecutor::new().unwrap();
    let client = External::new(&executor, 16).unwrap();
    let limit = Duration::from_millis(50);
    let begin = Instant::now();
    push_prompt(&client, 1);
    executor.turn(Wait::AtMost(limit)).unwrap();
    assert!(begin.elapsed() >= limit, "{:?}", begin.elapsed());
    assert_eq!(data_of(&client), [1]);
}

#[test]
fn what_comes_beside_a_prompt_operation_ends_the_wait_and_so_does_a_wake() {
    let executor = LocalExecutor::new().unwrap();
    let client = External::new(&executor, 16).unwrap();
    push_prompt(&client, 1);
    push(&client, timeout(&SHORT), 2);
    executor.turn(Wait::Forever).unwrap();
    assert_eq!(data_of(&client), [1, 2]);
    push(&client, nop(), 3); // the turn after it waits for one again
    executor.turn(Wait::Forever).unwrap();
    assert_eq!(data_of(&client), [3]);
    let remote = executor.remote();
    let waking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        remote.wake();
    });
    push_prompt(&client, 4);
    executor.turn(Wait::Forever).unwrap();
    assert_eq!(data_of(&client), [4]);
    waking.join().unwrap();
}

#[test]
fn a_task_sleeps_until_its_batch_is_there() {
    let executor = LocalExecutor::new().unwrap();
    let client = External::new(&executor, 16).unwrap();
    let mut batch = Vec::with_capacity(16);
    let enters = executor.stats().enters;
    executor
        .block_on(async {
            for round in 0..10 {
                push(&client, timeout(&SHORT), round);
                client.next(&mut batch).await;
                assert_eq!(batch.iter().map(|completion| completion.data()).collect::<Vec<_>>(), [round]);
            }
        })
        .unwrap();
    let enters = executor.stats().enters - enters;
    assert!(enters <= 20, "{enters} enters for ten batches");
}

#[test]
fn other_tasks_run_beside_a_client() {
    let executor = LocalExecutor::new().unwrap();
    let client = Rc::new(External::new(&executor, 16).unwrap());
    let (batches, ticks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (served, counted) = (Rc::clone(&client), Rc::clone(&batches));
    let serving = async move {
        let mut batch = Vec::new();
        loop {
            served.next(&mut batch).await;
            counted.set(counted.get() + batch.len());
            push(&served, nop(), 0);
        }
    };
    let counted = Rc::clone(&ticks);
    let ticking = async move {
        for _ in 0..5 {
            sleep(Duration::from_millis(2)).await;
            counted.set(counted.get() + 1);
        }
    };
    executor.spawn_local(serving).unwrap().detach();
    let ticking = executor.spawn_local(ticking).unwrap();
    push(&client, nop(), 0);
    executor.block_on(ticking).unwrap().unwrap();
    assert_eq!(ticks.get(), 5);
    assert!(batches.get() > 50, "{} completions", batches.get());
}

#[test]
fn a_place_is_given_on_when_its_operations_have_ended() {
    let executor = LocalExecutor::new().unwrap();
    let first = External::new(&executor, 16).unwrap();
    push(&first, timeout(&SHORT), 7);
    executor.turn(Wait::No).unwrap();
    drop(first);
    let second = External::new(&executor, 16).unwrap();
    push(&second, nop(), 1);
    let deadline = Instant::now() + Duration::from_secs(10);
    let (mut seen, before) = (Vec::new(), executor.stats().completions);
    // The timeout and the no-op.
    while executor.stats().completions < before + 2 {
        assert!(Instant::now() < deadline, "{:?}", executor.stats());
        executor.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
        seen.extend(data_of(&second));
    }
    assert_eq!(seen, [1], "what belongs to a client that is gone reached another one");
    let others: Vec<External> = (0..254).map(|_| External::new(&executor, 1).unwrap()).collect();
    let refused = External::new(&executor, 1).unwrap_err();
    assert_eq!(refused.errno(), Some(libc::ENOSPC), "{refused}");
    drop(others);
    External::new(&executor, 1).unwrap();
}

#[test]
fn the_end_does_not_wait_for_clients_operations() {
    let executor = LocalExecutor::new().unwrap();
    let client = External::new(&executor, 16).unwrap();
    push(&client, timeout(&LONG), 1);
    executor.turn(Wait::No).unwrap();
    let begin = Instant::now();
    assert_eq!(executor.close().leaked_operations, 0);
    assert!(begin.elapsed() < Duration::from_secs(10));
    // SAFETY: NOP points to nothing.
    let refused: RingError = unsafe { client.push(&mut nop(), 0) }.unwrap_err();
    assert_eq!(refused.errno(), Some(libc::ESHUTDOWN));
    assert!(data_of(&client).is_empty());
}

#[test]
fn a_turn_ends_when_somebody_wakes_it_and_the_wake_is_kept_for_the_next_one() {
    let executor = LocalExecutor::new().unwrap();
    let remote = executor.remote();
    let begin = Instant::now();
    let waking = std::thread::spawn({
        let remote = remote.clone();
        move || {
            std::thread::sleep(Duration::from_millis(30));
            remote.wake();
        }
    });
    executor.turn(Wait::AtMost(Duration::from_secs(20))).unwrap();
    waking.join().unwrap();
    // Between turns: the owner is at its own work.
    for _ in 0..100 {
        remote.wake();
        executor.turn(Wait::AtMost(Duration::from_secs(20))).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

fn is_readable(waker: &Waker, limit: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    poll(&mut [PollFd::new(waker, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

/// An executor, a client of its ring, and what its owner sleeps on elsewhere.
fn in_an_outer_event_loop() -> (LocalExecutor, External, Waker) {
    let executor = LocalExecutor::new().unwrap();
    let client = External::new(&executor, 16).unwrap();
    let signal = Waker::new().unwrap();
    client.register_eventfd(signal.as_fd()).unwrap();
    (executor, client, signal)
}

#[test]
fn an_outer_event_loop_hears_of_completions_and_wakes() {
    let (executor, client, signal) = in_an_outer_event_loop();
    push(&client, timeout(&SHORT), 3);
    executor.turn(Wait::No).unwrap();
    assert!(is_readable(&signal, Duration::from_secs(10)), "no signal of a completion");
    executor.turn(Wait::No).unwrap();
    signal.clear(); // the completions of a turn of one's own signal too
    assert_eq!(data_of(&client), [3]);
    assert_eq!(executor.until_next(), Wait::Forever);
    assert!(!is_readable(&signal, Duration::ZERO));

    let ran = Arc::new(AtomicBool::new(false));
    let (remote, runs) = (executor.remote(), Arc::clone(&ran));
    std::thread::spawn(move || drop(remote.spawn(|| async move { runs.store(true, Ordering::Relaxed) })))
        .join()
        .unwrap();
    assert!(is_readable(&signal, Duration::from_secs(10)), "no signal of a message");
    executor.turn(Wait::No).unwrap();
    assert!(ran.load(Ordering::Relaxed));
}

/// Linux 6.12 and 6.18 raise a ring's eventfd for the first poll alone: docs/investigations/lost-signals.
#[test]
fn an_outer_event_loop_hears_of_each_wake() {
    let (executor, _client, signal) = in_an_outer_event_loop();
    let remote = executor.remote();
    for round in 0..5 {
        executor.turn(Wait::No).unwrap();
        signal.clear();
        assert!(!is_readable(&signal, Duration::ZERO), "a signal of nothing in round {round}");
        remote.wake();
        assert!(is_readable(&signal, Duration::from_secs(5)), "no signal of wake {round}");
    }
}

/// What a turn starts at its end, by tasks that it has woken, is submitted before the outer loop goes to sleep.
#[test]
fn an_operation_of_a_woken_task_does_not_wait_for_the_next_wake() {
    let (executor, _client, signal) = in_an_outer_event_loop();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let task = async move {
        sleep(Duration::from_millis(5)).await;
        poll_once(reader, Events::READABLE).await.0.unwrap();
    };
    executor.spawn_local(task).unwrap().detach();
    let deadline = Instant::now() + Duration::from_secs(10);
    while executor.stats().tasks > 0 {
        assert!(Instant::now() < deadline, "{:?}", executor.stats());
        match executor.until_next() {
            Wait::No => {}
            Wait::AtMost(limit) => {
                is_readable(&signal, limit);
            }
            Wait::Forever => {
                assert!(is_readable(&signal, Duration::from_secs(5)), "it sleeps over what it has not submitted")
            }
        }
        signal.clear();
        executor.turn(Wait::No).unwrap();
    }
}

#[test]
fn a_timer_bounds_what_an_outer_loop_may_sleep() {
    let executor = LocalExecutor::new().unwrap();
    let slept = executor.spawn_local(sleep(Duration::from_millis(50))).unwrap();
    executor.turn(Wait::No).unwrap();
    let Wait::AtMost(left) = executor.until_next() else { panic!("{:?}", executor.until_next()) };
    assert!(left <= Duration::from_millis(50));
    let begin = Instant::now();
    while executor.stats().tasks > 0 {
        executor.turn(Wait::Forever).unwrap();
    }
    assert!(begin.elapsed() >= Duration::from_millis(49) - (Duration::from_millis(50) - left));
    executor.block_on(slept).unwrap().unwrap();
}
