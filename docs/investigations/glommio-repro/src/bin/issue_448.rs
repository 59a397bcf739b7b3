//! Creates and drops executors of glommio and counts what is left: descriptors, memory and futures that were never dropped.
//! `issue_448 [EXECUTORS]` runs each case in a process of its own and ends with 1 if any of them leaks, with 0 if none does.
//! With the feature `ng` it does so with the fork glommio-ng, with the feature `ours` with ublk-executor.
#![forbid(unsafe_code)]

#[cfg(not(any(feature = "ng", feature = "ours")))]
use glommio as runtime;
#[cfg(feature = "ng")]
use glommio_ng as runtime;
#[cfg(feature = "ours")]
#[path = "../ours.rs"]
mod runtime;
use runtime::{
    LocalExecutor, LocalExecutorBuilder, Placement,
    channels::local_channel,
    timer::{Timer, sleep},
};
use std::{
    env, fs,
    future::{pending, poll_fn},
    process::{Command, ExitCode},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};

const CASES: [&str; 7] = ["unused", "finished", "timer", "channel", "pair", "pending", "foreign"];
/// Tasks for each executor.
const TASKS: usize = 4;
/// What a future of a task owns, so that a lost one shows in the resident set too.
const OWNED: usize = 16 << 10;

static CREATED: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);
/// Wakers that live longer than the executor whose tasks they wake.
static FOREIGN: Mutex<Vec<Waker>> = Mutex::new(Vec::new());

/// Stands for what a future owns; counts its own end.
struct Guard(Vec<u8>);

impl Guard {
    fn new() -> Self {
        CREATED.fetch_add(1, Ordering::Relaxed);
        Self(vec![1; OWNED])
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        assert_eq!(self.0.len(), OWNED);
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn executor() -> LocalExecutor {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).make().expect("an executor")
}

/// Lets every task that was spawned get to the place where it stays.
async fn settle() {
    Timer::new(Duration::from_millis(1)).await;
}

fn life(case: &str) {
    let executor = executor();
    match case {
        "unused" => {}
        "finished" => executor.run(async {
            let tasks: Vec<_> = (0..TASKS).map(|_| runtime::spawn_local(async { drop(Guard::new()) })).collect();
            for task in tasks {
                let _ = task.await;
            }
        }),
        // The reactor's timers own the only waker.
        "timer" => executor.run(async {
            for _ in 0..TASKS {
                let guard = Guard::new();
                runtime::spawn_local(async move {
                    sleep(Duration::from_secs(3600)).await;
                    drop(guard);
                })
                .detach();
            }
            settle().await;
        }),
        // The task owns the channel that owns the task's waker.
        "channel" => executor.run(async {
            for _ in 0..TASKS {
                let guard = Guard::new();
                let (sender, receiver) = local_channel::new_unbounded::<u8>();
                runtime::spawn_local(async move {
                    receiver.recv().await;
                    drop((guard, sender));
                })
                .detach();
            }
            settle().await;
        }),
        // Two tasks wait for each other: each owns the end that would wake the other.
        "pair" => executor.run(async {
            for _ in 0..TASKS / 2 {
                let (left, right) = (Guard::new(), Guard::new());
                let (to_right, from_left) = local_channel::new_unbounded::<u8>();
                let (to_left, from_right) = local_channel::new_unbounded::<u8>();
                runtime::spawn_local(async move {
                    from_right.recv().await;
                    drop((left, to_right));
                })
                .detach();
                runtime::spawn_local(async move {
                    from_left.recv().await;
                    drop((right, to_left));
                })
                .detach();
            }
            settle().await;
        }),
        // Nobody has a waker.
        "pending" => executor.run(async {
            for _ in 0..TASKS {
                let guard = Guard::new();
                runtime::spawn_local(async move {
                    pending::<()>().await;
                    drop(guard);
                })
                .detach();
            }
            settle().await;
        }),
        // A waker outlives the executor and is used and dropped after it.
        "foreign" => executor.run(async {
            for _ in 0..TASKS {
                let guard = Guard::new();
                runtime::spawn_local(async move {
                    poll_fn(|context| {
                        FOREIGN.lock().unwrap().push(context.waker().clone());
                        Poll::<()>::Pending
                    })
                    .await;
                    drop(guard);
                })
                .detach();
            }
            settle().await;
        }),
        other => panic!("no case is called {other}; there are {CASES:?}"),
    }
    drop(executor);
    for waker in FOREIGN.lock().unwrap().drain(..) {
        waker.wake();
    }
}

/// (all descriptors, eventfds)
fn descriptors() -> (usize, usize) {
    let links: Vec<_> =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    (links.len(), links.iter().filter(|link| link.as_os_str() == "anon_inode:[eventfd]").count())
}

/// A number of /proc/self/status: VmRSS is the resident memory in KiB.
fn status(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn measure(case: &str, executors: usize) -> ExitCode {
    // What glommio makes once for a process is no leak.
    drop(executor());
    // The executor's thread for blocking calls, which closes the last descriptors, is not joined by its drop.
    thread::sleep(Duration::from_millis(200));
    let ((before, eventfds_before), memory_before) = (descriptors(), status("VmRSS"));
    let threads_before = status("Threads");
    for _ in 0..executors {
        life(case);
    }
    thread::sleep(Duration::from_millis(200));
    let ((after, eventfds), threads) = (descriptors(), status("Threads"));
    let (created, dropped) = (CREATED.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed));
    println!(
        "{case:<9} open fds {before:>3} -> {after:>4} (eventfds {eventfds_before} -> {eventfds}), RSS {memory_before:>5} -> {:>6} KiB, \
         threads {threads_before} -> {threads}, futures dropped {dropped} of {created}",
        status("VmRSS")
    );
    ExitCode::from(u8::from(after > before || threads > threads_before || dropped != created))
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [flag, case, executors] = &arguments[..]
        && flag == "--case"
    {
        return measure(case, executors.parse().expect("a number of executors"));
    }
    let executors = arguments.first().map_or("200", String::as_str);
    println!("{executors} executors for each case, {TASKS} tasks each");
    let mut leaks = Vec::new();
    for case in CASES {
        let status = Command::new(env::current_exe().unwrap()).args(["--case", case, executors]).status().unwrap();
        match status.code() {
            Some(0) => {}
            Some(1) => leaks.push(case.to_string()),
            _ => leaks.push(format!("{case} ({status})")),
        }
    }
    println!("leaks: {}", if leaks.is_empty() { "none".into() } else { leaks.join(", ") });
    ExitCode::from(u8::from(!leaks.is_empty()))
}
