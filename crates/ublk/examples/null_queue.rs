//! Serves `null` in one of two ways: by the data plane's loop, or by a task of the executor for each tag. bench/ compares them.
//!
//!   null_queue loop|tasks BYTES
//!
//! Prints the device's path when it is live, and removes the device when standard input ends.

#![allow(unsafe_code)] // addresses of tag buffers

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::future::poll_fn;
use std::io::{Read, stdin};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};

use ublk::queue::Op;
use ublk::serve::prepare_queue_thread;
use ublk::target::{BufferAddress, null};
use ublk::{BufferMode, CharDevice, Control, DataPath, Device, DeviceSpec, Event, Queue, Request, spawn_target};
use ublk_executor::{LocalExecutor, Mapping};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, bytes] = arguments.as_slice() else { return Err("usage: null_queue loop|tasks BYTES".into()) };
    let target = null(bytes.parse().map_err(|error| format!("BYTES \"{bytes}\": {error}"))?);
    let mut device = Device::add(
        &Control::open()?,
        DeviceSpec { data_path: DataPath::Only(BufferMode::Copy), ..DeviceSpec::for_target(target.as_ref()) },
    )?;
    let served: Box<dyn FnOnce()> = match mode.as_str() {
        "loop" => {
            let served = spawn_target(&mut device, target, Arc::new(|event| eprintln!("{event:?}")))?;
            Box::new(|| served.join())
        }
        "tasks" => {
            let thread = spawn_tasks(&mut device)?;
            Box::new(|| thread.join().expect("the queue thread panicked"))
        }
        other => return Err(format!("the mode \"{other}\" is neither loop nor tasks").into()),
    };
    device.start()?;
    println!("{}", ublk::control::block_path(device.id()));
    stdin().read_to_end(&mut Vec::new())?;
    device.stop()?;
    served();
    device.close_char();
    device.delete()?;
    Ok(())
}

/// Returns when every tag is fetched.
fn spawn_tasks(device: &mut Device) -> Result<JoinHandle<()>, Box<dyn Error>> {
    let cpus = device.queue_cpus(0);
    let char_device = device.open()?;
    assert_eq!(char_device.buffers(), BufferMode::Copy);
    let (report, ready) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = prepare_queue_thread(&cpus);
        match TagTasks::open(&char_device) {
            Ok(tags) => {
                let _ = report.send(Ok(()));
                tags.serve();
            }
            Err(error) => drop(report.send(Err(error))),
        }
    });
    ready.recv()??;
    Ok(thread)
}

/// A queue, and for each tag what its task waits for.
struct TagTasks {
    queue: RefCell<Queue>,
    waiting: Vec<RefCell<Option<Waker>>>,
    has_request: Vec<Cell<bool>>,
    buffers: Mapping,
    bytes_per_buffer: usize,
}

impl TagTasks {
    fn open(device: &Arc<CharDevice>) -> Result<Rc<TagTasks>, ublk::Error> {
        let depth = usize::from(device.depth());
        let bytes_per_buffer = device.max_io_bytes() as usize;
        let buffers = Mapping::new(depth * bytes_per_buffer)
            .map_err(|_| ublk::Error::NoMemory { what: "tag buffers".into(), id: None })?;
        let tags = TagTasks {
            queue: RefCell::new(Queue::open(device, 0, &[])?),
            waiting: (0..depth).map(|_| RefCell::default()).collect(),
            has_request: vec![Cell::new(false); depth],
            buffers,
            bytes_per_buffer,
        };
        for tag in 0..device.depth() {
            tags.queue.borrow_mut().fetch(tag, tags.buffer(tag))?;
        }
        tags.queue.borrow_mut().turn(ublk::Wait::No)?;
        Ok(Rc::new(tags))
    }

    fn buffer(&self, tag: u16) -> BufferAddress {
        let bytes = self.bytes_per_buffer;
        // SAFETY: each tag's own part of the mapping, which lives as long as the queue, and is not touched here.
        unsafe { BufferAddress::new(self.buffers.address(usize::from(tag) * bytes, bytes)) }
    }

    /// Until the device is stopped.
    fn serve(self: &Rc<Self>) {
        let executor: Rc<LocalExecutor> = Rc::clone(self.queue.borrow().executor());
        for tag in 0..self.waiting.len() as u16 {
            let tags = Rc::clone(self);
            executor.spawn_local(async move { tags.serve_tag(tag).await }).expect("it has just been made").detach();
        }
        executor.block_on(self.dispatch()).expect("the ring broke");
    }

    /// Wakes the tasks of the tags that have a request.
    async fn dispatch(&self) {
        while self.queue.borrow().live_tags() > 0 {
            poll_fn(|context| self.queue.borrow_mut().poll_batch(context)).await;
            loop {
                let event = self.queue.borrow_mut().next_event();
                match event {
                    Some(Event::Request(tag)) => {
                        self.has_request[usize::from(tag)].set(true);
                        let waker = self.waiting[usize::from(tag)].borrow_mut().take();
                        waker.into_iter().for_each(Waker::wake);
                    }
                    Some(Event::Aborted(_)) => {}
                    Some(other) => panic!("{other:?}"),
                    None => break,
                }
            }
        }
    }

    async fn serve_tag(&self, tag: u16) {
        let buffer = self.buffer(tag);
        loop {
            let request = self.next_request(tag).await;
            let result = answer(&request);
            self.queue.borrow_mut().commit(tag, result, buffer).expect("the ring broke");
        }
    }

    async fn next_request(&self, tag: u16) -> Request {
        poll_fn(|context| {
            if self.has_request[usize::from(tag)].take() {
                return Poll::Ready(*self.queue.borrow().request(tag));
            }
            self.waiting[usize::from(tag)].replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

fn answer(request: &Request) -> i32 {
    match request.op {
        Op::Read | Op::Write => request.len_bytes as i32,
        Op::Flush | Op::Discard | Op::WriteZeroes => 0,
        _ => -libc::EOPNOTSUPP,
    }
}
