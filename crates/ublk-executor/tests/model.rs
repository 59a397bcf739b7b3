//! Random lives of tasks against a model: each future is dropped once and on its thread, no wake is lost, an output is given once.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ublk_executor::executor::{Class, TaskOptions};
use ublk_executor::io::{DmaBuffer, DmaFile};
use ublk_executor::{JoinHandle, LocalExecutor, sleep, yield_now};

#[derive(Debug, Clone)]
enum Step {
    /// A task that is ready when it was woken so often.
    Spawn {
        class: usize,
        wakes: u32,
    },
    SpawnSleeper {
        class: usize,
        micros: u64,
    },
    SpawnReader {
        class: usize,
    },
    Wake {
        task: usize,
        is_remote: bool,
    },
    /// Two threads at once, and this one.
    WakeByAll {
        task: usize,
    },
    SetClass {
        task: usize,
        class: usize,
    },
    Detach {
        task: usize,
    },
    DropHandle {
        task: usize,
    },
    Cancel {
        task: usize,
    },
    CancelAndWait {
        task: usize,
    },
    Join {
        task: usize,
    },
    Run,
}

fn step() -> impl Strategy<Value = Step> {
    let (task, class) = (0..12_usize, 0..3_usize);
    prop_oneof![
        4 => (class.clone(), 0..4_u32).prop_map(|(class, wakes)| Step::Spawn { class, wakes }),
        1 => (class.clone(), 0..400_u64).prop_map(|(class, micros)| Step::SpawnSleeper { class, micros }),
        1 => class.clone().prop_map(|class| Step::SpawnReader { class }),
        6 => (task.clone(), any::<bool>()).prop_map(|(task, is_remote)| Step::Wake { task, is_remote }),
        1 => task.clone().prop_map(|task| Step::WakeByAll { task }),
        1 => (task.clone(), class).prop_map(|(task, class)| Step::SetClass { task, class }),
        1 => task.clone().prop_map(|task| Step::Detach { task }),
        1 => task.clone().prop_map(|task| Step::DropHandle { task }),
        1 => task.clone().prop_map(|task| Step::Cancel { task }),
        1 => task.clone().prop_map(|task| Step::CancelAndWait { task }),
        2 => task.prop_map(|task| Step::Join { task }),
        4 => Just(Step::Run),
    ]
}

/// What the model knows of a task.
struct Probe {
    wakes_wanted: u32,
    /// None: it ends by a timer or a read.
    wakes_granted: Option<Cell<u32>>,
    wakes_seen: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    drops: Cell<u32>,
    has_ended: Cell<bool>,
    is_cancelled: Cell<bool>,
    thread: thread::ThreadId,
}

/// Counts its drop.
struct Body(Rc<Probe>);

impl Drop for Body {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.0.thread);
        self.0.drops.set(self.0.drops.get() + 1);
    }
}

struct Model {
    executor: LocalExecutor,
    tasks: Vec<(Rc<Probe>, Option<JoinHandle<usize>>)>,
}

fn image() -> DmaFile {
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
        std::fs::write(&path, [7; 4096]).unwrap();
        path
    });
    DmaFile::from_std(File::open(path).unwrap()).unwrap()
}

impl Model {
    fn spawn(&mut self, class: usize, wakes_wanted: Option<u32>, before: impl Future<Output = ()> + 'static) {
        let index = self.tasks.len();
        let probe = Rc::new(Probe {
            wakes_wanted: wakes_wanted.unwrap_or(0),
            wakes_granted: wakes_wanted.map(|_| Cell::new(0)),
            wakes_seen: Cell::new(0),
            waker: RefCell::new(None),
            drops: Cell::new(0),
            has_ended: Cell::new(false),
            is_cancelled: Cell::new(false),
            thread: thread::current().id(),
        });
        let body = Body(Rc::clone(&probe));
        let woken_often_enough = async move {
            before.await;
            poll_fn(|context| {
                let granted = body.0.wakes_granted.as_ref().map_or(0, Cell::get);
                body.0.wakes_seen.set(granted);
                *body.0.waker.borrow_mut() = Some(context.waker().clone());
                if granted < body.0.wakes_wanted { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            body.0.has_ended.set(true);
            index
        };
        let options = TaskOptions { class: Class::ALL[class], name: "model" };
        let handle = self.executor.spawn_with(options, woken_often_enough).unwrap();
        self.tasks.push((probe, Some(handle)));
    }

    fn wake(&self, task: usize, threads: usize, here: bool) {
        let Some((probe, _)) = self.tasks.get(task) else { return };
        let Some(granted) = &probe.wakes_granted else { return };
        granted.set(granted.get() + 1);
        let waker = probe.waker.borrow().clone();
        let Some(waker) = waker else { return };
        thread::scope(|scope| {
            for _ in 0..threads {
                let waker = waker.clone();
                scope.spawn(move || waker.wake());
            }
            if here {
                waker.wake_by_ref();
            }
        });
    }

    fn take_handle(&mut self, task: usize) -> Option<(Rc<Probe>, JoinHandle<usize>)> {
        let (probe, handle) = self.tasks.get_mut(task)?;
        Some((Rc::clone(probe), handle.take()?))
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Spawn { class, wakes } => self.spawn(class, Some(wakes), async {}),
            Step::SpawnSleeper { class, micros } => self.spawn(class, None, async move {
                yield_now().await;
                sleep(Duration::from_micros(micros)).await;
            }),
            Step::SpawnReader { class } => self.spawn(class, None, async {
                let (read, buffer) = image().read_at(DmaBuffer::new(4096), 0).await;
                assert!(read.unwrap() == 4096 && buffer.iter().all(|&byte| byte == 7));
            }),
            Step::Wake { task, is_remote } => self.wake(task, usize::from(is_remote), !is_remote),
            Step::WakeByAll { task } => self.wake(task, 2, true),
            Step::SetClass { task, class } => {
                if let Some((_, Some(handle))) = self.tasks.get(task) {
                    handle.set_class(Class::ALL[class]);
                }
            }
            Step::Detach { task } => {
                if let Some((_, handle)) = self.take_handle(task) {
                    handle.detach();
                }
            }
            Step::DropHandle { task } => {
                if let Some((probe, handle)) = self.take_handle(task) {
                    drop(handle);
                    self.check_gone(&probe);
                }
            }
            Step::Cancel { task } => {
                if let Some((probe, handle)) = self.take_handle(task) {
                    assert_eq!(handle.cancel(), probe.has_ended.get().then_some(task));
                    self.check_gone(&probe);
                }
            }
            Step::CancelAndWait { task } => {
                if let Some((probe, handle)) = self.take_handle(task) {
                    // Before its turn comes the task may be polled, and end.
                    let output = self.executor.block_on(handle.cancel_and_wait()).unwrap();
                    assert_eq!(output, probe.has_ended.get().then_some(task));
                    self.check_gone(&probe);
                }
            }
            Step::Join { task } => {
                let is_ready = self.tasks.get(task).is_some_and(|(probe, _)| probe.has_ended.get());
                if is_ready && let Some((_, handle)) = self.take_handle(task) {
                    assert_eq!(self.executor.block_on(handle).unwrap().unwrap(), task);
                }
            }
            Step::Run => self.run(),
        }
    }

    fn check_gone(&self, probe: &Probe) {
        assert_eq!(probe.drops.get(), 1, "dropped at once, and once");
        probe.is_cancelled.set(!probe.has_ended.get());
    }

    /// Lets the executor run until every task is as it must be; fails when that takes ten seconds.
    fn run(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.executor.block_on(sleep(Duration::from_micros(300))).unwrap();
            match self.tasks.iter().enumerate().find_map(|(index, task)| wrong(index, task)) {
                None => return,
                Some(wrong) => assert!(Instant::now() < deadline, "{wrong}"),
            }
        }
    }
}

/// What of a task is not as it must be when the executor is at rest.
fn wrong(index: usize, (probe, handle): &(Rc<Probe>, Option<JoinHandle<usize>>)) -> Option<String> {
    let has_ended = probe.has_ended.get();
    assert!(probe.drops.get() <= 1, "task {index} was dropped twice");
    if probe.drops.get() != u32::from(has_ended || probe.is_cancelled.get()) {
        return Some(format!("task {index} was not dropped, or too soon"));
    }
    let granted = probe.wakes_granted.as_ref()?.get();
    if probe.is_cancelled.get() {
        return None;
    }
    assert!(!has_ended || granted >= probe.wakes_wanted, "task {index} made a wake up");
    if has_ended != (granted >= probe.wakes_wanted) || !has_ended && probe.wakes_seen.get() != granted {
        return Some(format!("task {index} lost a wake"));
    }
    let is_told = handle.as_ref().is_none_or(|handle| handle.is_finished() == has_ended);
    (!is_told).then(|| format!("the handle of task {index} does not know its end"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tasks_live_as_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut model = Model { executor: LocalExecutor::builder().ring_entries(16).build().unwrap(), tasks: Vec::new() };
        for step in &steps {
            model.apply(step);
        }
        model.run();
        let stats = model.executor.stats();
        let live = model.tasks.iter().filter(|(probe, _)| probe.drops.get() == 0).count();
        prop_assert_eq!((stats.tasks, stats.panics, stats.stray_completions), (live, 0, 0));
        let Model { executor, tasks } = model;
        let closed = executor.close();
        prop_assert_eq!((closed.dropped_tasks, closed.panics, closed.leaked_operations), (live, 0, 0));
        for (probe, handle) in tasks {
            prop_assert_eq!(probe.drops.get(), 1);
            // Wakers and handles that live on do no harm.
            if let Some(waker) = probe.waker.take() {
                waker.wake();
            }
            drop(handle);
        }
    }
}
