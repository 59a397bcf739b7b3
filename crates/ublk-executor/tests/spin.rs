//! Spinning: found where answers come at once, given up where nothing comes. And what the time in the queue is counted as.

use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use ublk_executor::channel::{Receiver, Sender, channel};
use ublk_executor::executor::{Class, Stats, TaskOptions, sleep};
use ublk_executor::{LocalExecutor, yield_now};

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn play(mut sender: Sender<u32>, mut receiver: Receiver<u32>, serves: bool, rounds: u32) {
    for round in 0..rounds {
        if serves {
            sender.send(round).await.unwrap();
        }
        assert_eq!(receiver.recv().await, Some(round));
        if !serves {
            sender.send(round).await.unwrap();
        }
    }
}

/// The numbers of a shard that has played 3 000 rounds with another one.
fn ping_pong(spin: Duration) -> Stats {
    let ((there, from_here), (back, from_there)) = (channel(1), channel(1));
    let answers = thread::spawn(move || {
        let executor = LocalExecutor::builder().spin(spin).build().unwrap();
        executor.block_on(play(back, from_here, false, 3_000)).unwrap();
    });
    let executor = LocalExecutor::builder().spin(spin).build().unwrap();
    executor.block_on(play(there, from_there, true, 3_000)).unwrap();
    answers.join().unwrap();
    executor.stats()
}

#[test]
fn shards_that_answer_at_once_find_the_answer_before_they_sleep() {
    if ublk_executor::placement::allowed_cpus().unwrap().len() < 2 {
        eprintln!("skipped: on one CPU nobody can answer while the other looks");
        return;
    }
    assert_eq!(ping_pong(Duration::ZERO).spins, 0, "spinning is off unless it is asked for");
    // Longer than any wake-up takes: that it is found, not how fast.
    let stats = ping_pong(Duration::from_millis(2));
    assert!(stats.spins > 30, "{stats:?}");
}

#[test]
fn an_executor_that_timers_wake_now_and_then_does_not_spin() {
    let executor = LocalExecutor::builder().spin(Duration::from_millis(2)).build().unwrap();
    let napping = async {
        let until = Instant::now() + Duration::from_millis(600);
        while Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let before = cpu_time();
    executor.block_on(napping).unwrap();
    let busy = cpu_time() - before;
    assert!(busy < Duration::from_millis(120), "{busy:?} of CPU time in 600 ms");
}

#[test]
fn a_timer_is_not_late_for_a_look() {
    let executor = LocalExecutor::builder().spin(Duration::from_millis(100)).build().unwrap();
    let begin = Instant::now();
    let napping = async {
        for _ in 0..40 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    executor.block_on(napping).unwrap();
    assert!(begin.elapsed() < Duration::from_millis(1_900), "{:?} for 40 ms of sleep", begin.elapsed());
}

#[test]
fn looks_that_find_nothing_end() {
    let executor = LocalExecutor::builder().spin(Duration::from_millis(2)).build().unwrap();
    let before = cpu_time();
    executor
        .block_on(async {
            // Short sleeps earn looks; then nothing comes for long.
            for _ in 0..40 {
                sleep(Duration::from_micros(200)).await;
            }
            for _ in 0..120 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .unwrap();
    let busy = cpu_time() - before;
    assert!(busy < Duration::from_millis(200), "{busy:?} of CPU time in 700 ms");
}

fn hog(wall: Duration) {
    let until = Instant::now() + wall;
    while Instant::now() < until {}
}

#[test]
fn time_in_the_queue_is_counted_and_time_asleep_is_not() {
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            // Asleep: nobody waits in a queue.
            sleep(Duration::from_millis(1_200)).await;
            let background = TaskOptions { class: Class::Background, ..TaskOptions::default() };
            let waits = ublk_executor::executor::spawn_with(background, async {}).unwrap();
            hog(Duration::from_millis(30));
            yield_now().await;
            waits.await.unwrap();
        })
        .unwrap();
    let [_, normal, background] = executor.stats().classes;
    // The background task waited for the poll that hogged; nobody else waited for anything.
    assert!(background.longest_queue_delay >= Duration::from_millis(29), "{background:?}");
    assert!(background.queue_delay >= background.longest_queue_delay, "{background:?}");
    assert!(normal.longest_queue_delay < Duration::from_millis(1_100), "{normal:?}");

    // A task that is spawned while nothing runs waits since then, and not since the last run.
    let executor = LocalExecutor::new().unwrap();
    thread::sleep(Duration::from_millis(1_200));
    executor.spawn_local(async {}).unwrap().detach();
    executor.block_on(yield_now()).unwrap();
    let [_, normal, _] = executor.stats().classes;
    assert!(normal.longest_queue_delay < Duration::from_millis(1_100), "{normal:?}");
}
