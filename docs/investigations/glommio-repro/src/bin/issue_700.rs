//! Uses an end of glommio's queue for one producer and one consumer in two threads: a clone of it (glommio 0.9), or the very same end
//! (glommio-ng, which has taken the clones away). With ublk-executor neither compiles (refused.rs): there an end
//! is used by two threads in turns, behind a lock. No unsafe code here.
//! `issue_700 [RUNS]` runs each case RUNS times, each time in a process of its own, and says how the runs ended. It ends with 1 if any
//! of them went wrong.
#![forbid(unsafe_code)]

use glommio::channels::spsc_queue;
use glommio_ng::channels::spsc_queue as ng;
use std::{
    collections::{BTreeMap, HashMap},
    env, iter,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use ublk_executor::spsc::PushError;

/// (name, producers, consumers); the first is what the queue is made for.
const CASES: [(&str, usize, usize); 8] = [
    ("one-to-one", 1, 1),
    ("two-producers", 2, 1),
    ("two-consumers", 1, 2),
    ("two-of-each", 2, 2),
    ("ng-one-to-one", 1, 1),
    ("ng-shared-consumer", 1, 2),
    ("ours-one-to-one", 1, 1),
    ("ours-two-of-each", 2, 2),
];
/// Values in a run, over all producers.
const VALUES: usize = 200_000;
const CAPACITY: usize = 1024;
/// A queue that lets nothing through for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

fn value(number: usize) -> String {
    format!("{number:08}/{number:08}/{number:08}/{number:08}")
}

/// None if it is no string that anyone has pushed.
fn number(value: &str) -> Option<usize> {
    let number = value.get(..8)?.parse().ok()?;
    (value == self::value(number)).then_some(number)
}

/// Returns how many values it could not push.
fn produce(push: impl Fn(String) -> Option<String>, values: Vec<String>) -> usize {
    let mut values = values.into_iter();
    while let Some(value) = values.next() {
        let mut rest = push(value);
        let start = Instant::now();
        while let Some(refused) = rest {
            if start.elapsed() > PATIENCE {
                return values.len() + 1;
            }
            wait();
            rest = push(refused);
        }
    }
    0
}

/// Ends when every producer has ended and nothing came for some time.
fn consume(pop: impl Fn() -> Option<String>, producing: &AtomicUsize) -> Vec<String> {
    let mut values = Vec::new();
    let mut last = Instant::now();
    loop {
        if let Some(value) = pop() {
            values.push(value);
            last = Instant::now();
        } else if producing.load(Ordering::Acquire) == 0 && last.elapsed() > Duration::from_millis(100) {
            return values;
        } else {
            wait();
        }
    }
}

/// For a moment, without giving the processor away: the threads are to meet in the queue.
fn wait() {
    (0..50).for_each(|_| std::hint::spin_loop());
}

fn run(
    push: Vec<impl Fn(String) -> Option<String> + Send + 'static>,
    pop: Vec<impl Fn() -> Option<String> + Send + 'static>,
) -> ExitCode {
    let producing = Arc::new(AtomicUsize::new(push.len()));
    let share = VALUES / push.len();
    let start = Arc::new(Barrier::new(push.len() + pop.len()));
    let spawn_producer = |(index, push)| {
        let (producing, start) = (producing.clone(), start.clone());
        let values = (index * share..(index + 1) * share).map(value).collect();
        thread::spawn(move || {
            start.wait();
            let refused = produce(push, values);
            producing.fetch_sub(1, Ordering::Release);
            refused
        })
    };
    let spawn_consumer = |pop| {
        let (producing, start) = (producing.clone(), start.clone());
        thread::spawn(move || {
            start.wait();
            consume(pop, &producing)
        })
    };
    let pushers: Vec<_> = push.into_iter().enumerate().map(spawn_producer).collect();
    let poppers: Vec<_> = pop.into_iter().map(spawn_consumer).collect();
    let refused: usize = pushers.into_iter().map(|thread| thread.join().unwrap()).sum();
    let popped: Vec<String> = poppers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();

    let mut times: HashMap<usize, usize> = HashMap::new();
    let mut torn = 0;
    for value in &popped {
        match number(value) {
            Some(number) => *times.entry(number).or_default() += 1,
            None => torn += 1,
        }
    }
    let repeated: usize = times.values().filter(|&&times| times > 1).count();
    let lost = VALUES - refused - times.len().min(VALUES - refused);
    let symptoms: Vec<_> =
        [(lost, "lost values"), (repeated, "repeated values"), (torn, "torn values"), (refused, "a stuck queue")]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(_, name)| *name)
            .collect();
    eprintln!("{}", if symptoms.is_empty() { "ok".into() } else { symptoms.join(" and ") });
    // Strings that were popped twice are freed twice here.
    drop(popped);
    ExitCode::from(u8::from(!symptoms.is_empty()))
}

fn case(name: &str) -> ExitCode {
    let (name, producers, consumers) = *CASES.iter().find(|case| case.0 == name).expect("a name of a case");
    if name.starts_with("ng-") {
        let (producer, consumer) = ng::make(CAPACITY);
        let (producer, consumer) = (Arc::new(producer), Arc::new(consumer));
        let push = iter::repeat_with(|| producer.clone()).map(|end| move |value| end.try_push(value));
        let pop = iter::repeat_with(|| consumer.clone()).map(|end| move || end.try_pop());
        run(push.take(producers).collect(), pop.take(consumers).collect())
    } else if name.starts_with("ours-") {
        let (producer, consumer) = ublk_executor::spsc::channel(CAPACITY);
        let (producer, consumer) = (Arc::new(Mutex::new(producer)), Arc::new(Mutex::new(consumer)));
        let push = iter::repeat_with(|| producer.clone())
            .map(|end| move |value| end.lock().unwrap().push(value).err().map(PushError::into_item));
        let pop = iter::repeat_with(|| consumer.clone()).map(|end| move || end.lock().unwrap().pop().ok());
        run(push.take(producers).collect(), pop.take(consumers).collect())
    } else {
        let (producer, consumer) = spsc_queue::make(CAPACITY);
        let push = iter::repeat_with(|| producer.clone()).map(|end| move |value| end.try_push(value));
        let pop = iter::repeat_with(|| consumer.clone()).map(|end| move || end.try_pop());
        run(push.take(producers).collect(), pop.take(consumers).collect())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--case"
    {
        return case(name);
    }
    let runs: usize = arguments.first().map_or(20, |runs| runs.parse().expect("a number of runs"));
    let mut all_wrong = 0;
    for (name, ..) in CASES {
        let mut endings: BTreeMap<String, usize> = BTreeMap::new();
        let mut wrong = 0;
        for _ in 0..runs {
            let output = Command::new(env::current_exe().unwrap())
                .args(["--case", name])
                .stdout(Stdio::null())
                .output()
                .unwrap();
            wrong += usize::from(!output.status.success());
            let text = String::from_utf8_lossy(&output.stderr);
            let mut ending = text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
            if let Some(signal) = output.status.signal() {
                ending = format!("signal {signal}: {ending}");
            }
            *endings.entry(ending).or_default() += 1;
        }
        println!("{name}: {wrong} of {runs} runs went wrong");
        for (ending, times) in endings {
            println!("  {times:>3} × {ending}");
        }
        all_wrong += wrong;
    }
    ExitCode::from(u8::from(all_wrong > 0))
}
