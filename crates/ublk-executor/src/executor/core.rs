//! What an executor is made of: its tasks, who of them is runnable, timers, ring.
//!
//! Thread: the one that made it. Foreign code (polls, wakers, destructors) is never run while something here is borrowed: it may call back.
//! Invariant: every task is in `tasks` from `spawn` to its end, parked ones too; only what is in there is ever polled or dropped.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use slotmap::{Key, SlotMap};

use super::class::{Class, RunQueues, Shares};
use super::context;
use super::join::{JoinCell, JoinError, JoinHandle};
use super::locals::CurrentLocals;
use super::spin::Spin;
use super::stats::{Counters, Stats};
use super::task::{Body, Message, Task, TaskInbox, TaskKey, WakeCell};
use super::timers::Timers;
use super::{SpawnRefused, TaskOptions};
use crate::blocking::Pool;
use crate::clock;
use crate::reactor::Reactor;
use crate::ring::{RingError, Wait};
use crate::sync::Arc;

pub(crate) struct Core {
    pub(crate) inbox: Arc<TaskInbox>,
    pub(super) timers: RefCell<Timers>,
    pub(super) locals: CurrentLocals,
    /// None once it was drained.
    reactor: RefCell<Option<Reactor>>,
    pub(crate) blocking: Pool,
    pub(super) counters: Counters,
    tasks: RefCell<SlotMap<TaskKey, Task>>,
    queues: RefCell<RunQueues>,
    is_closing: Cell<bool>,
    is_running: Cell<bool>,
    is_main_queued: Cell<bool>,
    /// The counter's value at which a task that asks should yield.
    slice_end_ticks: Cell<u64>,
    slice_ticks: u64,
    stall_ticks: u64,
    spin: Spin,
    /// What a turn fills and empties: kept, so that no turn allocates.
    mail: Cell<Vec<Message>>,
}

/// See [`Builder`](super::Builder).
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) slice: Duration,
    pub(super) stall: Duration,
    pub(super) spin: Duration,
}

/// The kernel's clock has no room for centuries.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Class of the future of `block_on`.
const MAIN_CLASS: Class = Class::Normal;

/// What became of the tasks and operations at the end of an executor.
#[derive(Debug, Default)]
pub struct Closed {
    /// Tasks that had not ended, and were dropped.
    pub dropped_tasks: usize,
    /// Destructors of them that panicked.
    pub panics: usize,
    /// Operations that had not ended by the deadline: their memory is never freed.
    pub leaked_operations: usize,
    /// Closures of [`unblock`](crate::unblock) that had not ended by the deadline: their threads end when they do.
    pub running_closures: usize,
}

impl Core {
    pub(super) fn new(
        inbox: Arc<TaskInbox>,
        reactor: Reactor,
        shares: Shares,
        limits: Limits,
        blocking: Pool,
    ) -> Rc<Core> {
        clock::start();
        let ticks = |span: Duration| (span.as_nanos() as f64 / clock::nanoseconds_per_tick()) as u64;
        Rc::new(Core {
            inbox,
            timers: RefCell::default(),
            locals: CurrentLocals::default(),
            reactor: RefCell::new(Some(reactor)),
            blocking,
            counters: Counters::default(),
            tasks: RefCell::default(),
            queues: RefCell::new(RunQueues::new(shares)),
            is_closing: Cell::new(false),
            is_running: Cell::new(false),
            is_main_queued: Cell::new(false),
            slice_end_ticks: Cell::new(0),
            slice_ticks: ticks(limits.slice),
            stall_ticks: ticks(limits.stall),
            spin: Spin::new(limits.spin, ticks(limits.spin)),
            mail: Cell::default(),
        })
    }

    /// One `block_on` at a time.
    pub(super) fn begin_run(&self) -> Running<'_> {
        assert!(!self.is_running.replace(true), "block_on within a block_on of the same executor");
        Running { core: self }
    }

    pub(super) fn spawn<F>(
        self: &Rc<Self>,
        options: TaskOptions,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnRefused<F>>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        if self.is_closing.get() {
            return Err(SpawnRefused(future));
        }
        let cell = JoinCell::new();
        let output = Rc::clone(&cell);
        let future = Box::pin(async move { output.end(Ok(future.await)) });
        let key = self.tasks.borrow_mut().insert_with_key(|key| Task {
            body: Some(Body::new(future, WakeCell::new(&self.inbox, key))),
            class: options.class,
            name: options.name,
            is_queued: true,
            is_cancelled: false,
            ended: cell.clone(),
        });
        self.queue(options.class, key);
        self.counters.spawned.add(1);
        Ok(JoinHandle::new(self, key, cell))
    }

    /// A task, or with the null key the future of `block_on`, is to be polled.
    pub(super) fn make_ready(&self, key: TaskKey) {
        let (was_queued, class) = match self.tasks.borrow_mut().get_mut(key) {
            Some(task) => (mem::replace(&mut task.is_queued, true), task.class),
            None if key.is_null() => (self.is_main_queued.replace(true), MAIN_CLASS),
            None => return,
        };
        if !was_queued {
            self.queue(class, key);
        }
    }

    fn queue(&self, class: Class, key: TaskKey) {
        let mut queues = self.queues.borrow_mut();
        if !self.is_running.get() {
            queues.set_now(clock::ticks());
        }
        queues.push(class, key);
    }

    /// From now on until the next turn of the ring.
    pub(super) fn begin_slice(&self) {
        let now = clock::ticks();
        self.queues.borrow_mut().set_now(now);
        self.slice_end_ticks.set(now.saturating_add(self.slice_ticks));
    }

    /// Polls runnable tasks, one at least, until none is left, the slice is over, or the ring has something. True: the future of
    /// `block_on` is next.
    pub(super) fn run_slice(&self) -> bool {
        let mut now = clock::ticks();
        self.queues.borrow_mut().set_now(now);
        loop {
            let Some((class, key)) = self.queues.borrow_mut().pop() else { return false };
            if key.is_null() {
                self.is_main_queued.set(false);
                return true;
            }
            let Some(body) = self.tasks.borrow_mut().get_mut(key).and_then(Task::begin_poll) else { continue };
            self.poll(key, body);
            let end = clock::ticks();
            self.account(class, key, now, end);
            now = end;
            if self.is_over(now) {
                return false;
            }
        }
    }

    /// The future of `block_on` has ended, and may still be queued.
    pub(super) fn forget_main(&self) {
        if self.is_main_queued.take() {
            self.queues.borrow_mut().remove(MAIN_CLASS, TaskKey::null());
        }
    }

    /// The future of `block_on` was polled for so long.
    pub(super) fn charge_main(&self, ticks: u64) {
        self.queues.borrow_mut().charge(MAIN_CLASS, ticks);
    }

    fn poll(&self, key: TaskKey, mut body: Body) {
        let polled = {
            let _locals = self.locals.enter(&mut body.locals);
            let mut context = Context::from_waker(&body.waker);
            catch_unwind(AssertUnwindSafe(|| body.future.as_mut().poll(&mut context)))
        };
        if matches!(polled, Ok(std::task::Poll::Pending)) {
            let mut tasks = self.tasks.borrow_mut();
            match tasks.get_mut(key) {
                Some(task) if !task.is_cancelled => task.body = Some(body),
                _ => {
                    let task = tasks.remove(key);
                    drop(tasks);
                    self.finish(task, body, JoinError::Cancelled);
                }
            }
            return;
        }
        let task = self.tasks.borrow_mut().remove(key);
        let end = match polled {
            // The output is in the cell already: only a task that was lost on the way is told that it was cancelled.
            Ok(_) => JoinError::Cancelled,
            Err(payload) => {
                self.counters.panics.add(1);
                JoinError::Panicked(payload)
            }
        };
        self.finish(task, body, end);
    }

    /// Drops a task that is no longer in `tasks`, then tells whoever waits for its end. Returns false when its destructor panicked.
    fn finish(&self, task: Option<Task>, body: Body, end: JoinError) -> bool {
        let Body { future, mut locals, .. } = body;
        let is_dropped = self.caught(|| {
            let _locals = self.locals.enter(&mut locals);
            drop(future);
        });
        let is_dropped = self.drop_caught(locals) && is_dropped;
        let is_told = task.is_none_or(|task| {
            let is_told = self.caught(|| task.ended.fail(end));
            self.drop_caught(task) && is_told
        });
        self.counters.finished.add(1);
        is_dropped && is_told
    }

    fn drop_caught<T>(&self, value: T) -> bool {
        self.caught(move || drop(value))
    }

    /// Runs foreign code, a destructor or a waker. False: it panicked, which is counted and goes no further.
    fn caught(&self, act: impl FnOnce()) -> bool {
        match catch_unwind(AssertUnwindSafe(act)) {
            Ok(()) => true,
            Err(payload) => {
                self.counters.panics.add(1);
                drop_payload(payload);
                false
            }
        }
    }

    /// A task of the class was polled from the one tick to the other.
    fn account(&self, class: Class, key: TaskKey, begin: u64, end: u64) {
        let ticks = end.saturating_sub(begin);
        {
            let mut queues = self.queues.borrow_mut();
            queues.charge(class, ticks);
            queues.set_now(end);
        }
        self.counters.polls[class.index()].add(1);
        self.counters.run_ticks[class.index()].add(ticks);
        if ticks > self.stall_ticks {
            self.counters.stalls.add(1);
            let name = self.tasks.borrow().get(key).map(|task| task.name);
            self.counters.last_stall.set(name.or(self.counters.last_stall.get()));
        }
    }

    /// Drops a task's future now, or when its poll returns if that is under way.
    pub(super) fn cancel(self: &Rc<Self>, key: TaskKey) {
        let (task, body) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(key) else { return };
            let Some(body) = task.body.take() else {
                task.is_cancelled = true;
                return;
            };
            (tasks.remove(key), body)
        };
        let _entered = context::enter(self);
        self.finish(task, body, JoinError::Cancelled);
    }

    pub(super) fn set_class(&self, key: TaskKey, class: Class) {
        if let Some(task) = self.tasks.borrow_mut().get_mut(key) {
            task.class = class;
        }
    }

    /// Something runnable waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.queues.borrow().is_empty()
    }

    /// Whoever has run for a slice, or keeps completions waiting, should yield.
    pub(super) fn should_yield(&self) -> bool {
        self.is_over(clock::ticks())
    }

    fn is_over(&self, now: u64) -> bool {
        now >= self.slice_end_ticks.get() || self.ring_has_work()
    }

    /// None once the executor has ended. `act` must not run foreign code.
    #[inline(always)]
    pub(crate) fn with_reactor<R>(&self, act: impl FnOnce(Option<&mut Reactor>) -> R) -> R {
        act(self.reactor.borrow_mut().as_mut())
    }

    fn ring_has_work(&self) -> bool {
        self.reactor.borrow_mut().as_mut().is_some_and(Reactor::has_work)
    }

    /// Takes the mail, submits, sleeps as told if there is nothing to do, and wakes whoever is due. After it, whoever goes on with the
    /// executor's own work calls `awake`, and whoever leaves it `leave`.
    #[inline]
    pub(super) fn turn(self: &Rc<Self>, limit: Wait) -> Result<(), RingError> {
        let has_timers = !self.timers.borrow().is_empty();
        let wait = if self.inbox.has_mail() && self.read_mail() { Wait::No } else { self.how_long(limit, has_timers) };
        let asleep = (wait != Wait::No).then(|| self.spin.fall_asleep()).flatten();
        let (turned, has_outcome) = match self.reactor.borrow_mut().as_mut() {
            Some(reactor) => (reactor.turn(wait), reactor.has_outcome()),
            None => (Ok(()), false),
        };
        if let Some(since) = asleep {
            self.spin.wake(since);
        }
        if has_outcome || has_timers || self.inbox.has_mail() {
            self.settle();
        }
        turned
    }

    /// Wakes and drops what the turn has brought, in the ring, by time and by mail.
    fn settle(self: &Rc<Self>) {
        let _entered = context::enter(self);
        self.queues.borrow_mut().set_now(clock::ticks()); // the ring may have slept
        let mut outcome = self.with_reactor(|reactor| reactor.map(Reactor::take_outcome)).unwrap_or_default();
        self.timers.borrow_mut().take_due(&mut outcome.wakers);
        for waker in outcome.wakers.drain(..) {
            self.caught(move || waker.wake());
        }
        for held in outcome.freed.drain(..) {
            self.drop_caught(held);
        }
        self.with_reactor(|reactor| reactor.map(|reactor| reactor.give_back(outcome)));
        if self.inbox.has_mail() {
            self.read_mail();
        }
    }

    #[inline]
    fn how_long(&self, limit: Wait, has_timers: bool) -> Wait {
        let mut wait = self.shortest(limit, has_timers);
        if self.spin.may_look(wait) {
            if self.spin.finds(|| self.inbox.has_mail() || self.ring_has_work()) {
                return Wait::No;
            }
            wait = self.shortest(limit, has_timers); // a timer is nearer now
        }
        if wait == Wait::No || !self.inbox.may_sleep() {
            return Wait::No;
        }
        self.counters.sleeps.add(1);
        wait
    }

    #[inline]
    fn shortest(&self, limit: Wait, has_timers: bool) -> Wait {
        match (limit, has_timers) {
            (Wait::No, _) => Wait::No,
            _ if self.is_busy() => Wait::No,
            (limit, false) => limit,
            (limit, true) => limit.min(self.until_timer()),
        }
    }

    /// How long nothing is to be done, unless something comes.
    pub(super) fn until_next(&self) -> Wait {
        let is_quiet = self.with_reactor(|reactor| reactor.is_none_or(Reactor::has_nothing_to_do));
        if self.is_busy() || self.inbox.has_mail() || !is_quiet { Wait::No } else { self.until_timer() }
    }

    fn until_timer(&self) -> Wait {
        match self.timers.borrow().wait() {
            None => Wait::Forever,
            Some(Duration::ZERO) => Wait::No,
            Some(left) => Wait::AtMost(left.min(LONGEST_WAIT)),
        }
    }

    /// The owner goes on with the executor's work: until the next turn a wake need not raise the signal.
    #[inline]
    pub(super) fn awake(&self) {
        self.inbox.awake();
    }

    /// The owner goes to sleep elsewhere, or to its own work: from now on a wake raises the ring's signal.
    #[inline]
    pub(super) fn leave(self: &Rc<Self>) {
        while !self.inbox.may_sleep() {
            self.read_mail();
        }
    }

    /// False: there was none.
    fn read_mail(self: &Rc<Self>) -> bool {
        let _entered = context::enter(self);
        let mut mail = self.mail.take();
        let had_mail = self.inbox.take(&mut mail);
        for message in mail.drain(..) {
            match message {
                Message::Wake(cell) => {
                    self.counters.remote_wakes.add(1);
                    self.make_ready(cell.receive());
                }
                Message::Run(run) => {
                    self.caught(run);
                }
            }
        }
        self.mail.set(mail);
        had_mail
    }

    /// The end: drops every task, waits for operations under way, gives the signal and the ring back. Later calls do nothing.
    pub(super) fn close(self: &Rc<Self>, limit: Duration) -> Closed {
        let mut closed = Closed::default();
        if self.is_closing.replace(true) {
            return closed;
        }
        let deadline = Instant::now().checked_add(limit);
        let _entered = context::enter(self);
        for message in self.inbox.close() {
            self.drop_caught(message);
        }
        for closure in self.blocking.close() {
            self.drop_caught(closure);
        }
        // One by one: a destructor may cancel other tasks, but it can add none.
        let keys: Vec<TaskKey> = self.tasks.borrow().keys().collect();
        for key in keys {
            let task = self.tasks.borrow_mut().remove(key);
            let Some(mut task) = task else { continue };
            closed.dropped_tasks += 1;
            if let Some(body) = task.body.take()
                && !self.finish(Some(task), body, JoinError::Cancelled)
            {
                closed.panics += 1;
            }
        }
        let timers = self.timers.borrow_mut().take_all();
        for waker in timers.into_values() {
            self.drop_caught(waker);
        }
        let reactor = self.reactor.borrow_mut().take();
        if let Some(reactor) = reactor {
            let (leaked_operations, outcome) = reactor.drain(deadline);
            closed.leaked_operations = leaked_operations;
            for waker in outcome.wakers.into_iter().chain(outcome.dropped) {
                self.drop_caught(waker);
            }
            for held in outcome.freed {
                self.drop_caught(held);
            }
        }
        closed.running_closures = self.blocking.join(deadline);
        closed
    }

    pub(super) fn stats(&self) -> Stats {
        let reactor = self.reactor.borrow();
        let (enters, completions) = reactor.as_ref().map_or((0, 0), Reactor::counts);
        let in_flight = reactor.as_ref().map_or(0, Reactor::in_flight);
        let strays = reactor.as_ref().map_or(0, Reactor::strays);
        let queues = self.queues.borrow();
        let mut stats = self.counters.read(self.tasks.borrow().len(), Class::ALL.map(|class| queues.delays(class)));
        stats.spins = self.spin.found();
        Stats { enters, completions, in_flight, stray_completions: strays, ..stats }
    }
}

/// A `block_on` under way.
pub(super) struct Running<'a> {
    core: &'a Core,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.core.is_running.set(false);
    }
}

/// A panic's payload may panic when it is dropped: then it is leaked.
pub(crate) fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
}
