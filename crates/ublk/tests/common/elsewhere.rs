//! A target whose requests are served by the ring of another thread: it registers their pages there, and the queue only answers for them.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use ublk::target::{Geometry, Io, Op, Progress, QueueTarget, Request, null};
use ublk::uapi::{IoCmd, IoCmdOp};
use ublk::{BufferMode, CharDevice, Error, Target};

/// No result yet.
const UNDER_WAY: i32 = i32::MAX;

/// How often the queue looks whether there is one.
const POLL: Duration = Duration::from_millis(1);

/// The target, which keeps its data in a file of memory.
pub fn elsewhere(size_bytes: u64) -> Arc<dyn Target> {
    let store = File::from(rustix::fs::memfd_create("elsewhere", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    store.set_len(size_bytes).unwrap();
    Arc::new(Elsewhere { store: Arc::new(store), size_bytes })
}

struct Elsewhere {
    store: Arc<File>,
    size_bytes: u64,
}

impl Target for Elsewhere {
    fn kind(&self) -> &'static str {
        "elsewhere"
    }
    fn geometry(&self) -> Geometry {
        Geometry { discard: false, write_zeroes: false, ..null(self.size_bytes).geometry() }
    }
    fn buffers(&self) -> Vec<BufferMode> {
        vec![BufferMode::AutoZeroCopy]
    }
    fn queue(&self, device: &Arc<CharDevice>, tags: u32) -> Result<Box<dyn QueueTarget>, Error> {
        let results: Arc<Vec<AtomicI32>> = Arc::new((0..tags).map(|_| AtomicI32::new(UNDER_WAY)).collect());
        let (orders, inbox) = channel();
        let (device, store, ours) = (Arc::clone(device), Arc::clone(&self.store), Arc::clone(&results));
        let server = std::thread::spawn(move || serve(&device, &store, &inbox, &ours));
        Ok(Box::new(ElsewhereQueue { orders: Some(orders), results, server: Some(server) }))
    }
}

struct ElsewhereQueue {
    orders: Option<Sender<(u16, Request)>>,
    results: Arc<Vec<AtomicI32>>,
    server: Option<JoinHandle<()>>,
}

impl QueueTarget for ElsewhereQueue {
    fn start(&mut self, tag: u16, request: &Request, io: &mut Io<'_>) -> Progress {
        self.results[usize::from(tag)].store(UNDER_WAY, Ordering::Release);
        self.orders.as_ref().unwrap().send((tag, *request)).unwrap();
        io.delay(0, POLL);
        Progress::Pending
    }

    fn resume(&mut self, tag: u16, _: &Request, _: u16, _: i32, io: &mut Io<'_>) -> Progress {
        match self.results[usize::from(tag)].load(Ordering::Acquire) {
            UNDER_WAY => {
                io.delay(0, POLL);
                Progress::Pending
            }
            result => Progress::Done(result),
        }
    }
}

impl Drop for ElsewhereQueue {
    fn drop(&mut self) {
        self.orders = None;
        // It holds the char device, which the driver waits for.
        self.server.take().unwrap().join().unwrap();
    }
}

/// The other thread.
fn serve(device: &CharDevice, store: &File, orders: &Receiver<(u16, Request)>, results: &[AtomicI32]) {
    let mut ring = IoUring::new(4).unwrap();
    ring.submitter().register_buffers_sparse(results.len() as u32).unwrap();
    let char_device = device.as_fd().as_raw_fd();
    for (tag, request) in orders {
        let registered = run(&mut ring, command(char_device, IoCmdOp::RegisterIoBuf, tag));
        let result = if registered < 0 { registered } else { run(&mut ring, transfer(store, tag, &request)) };
        let let_go = run(&mut ring, command(char_device, IoCmdOp::UnregisterIoBuf, tag));
        let result = if let_go < 0 { let_go } else { result };
        results[usize::from(tag)].store(result, Ordering::Release);
    }
}

/// Fixed buffer `tag` of this ring.
fn command(char_device: RawFd, op: IoCmdOp, tag: u16) -> squeue::Entry {
    let command = IoCmd { q_id: 0, tag, result: 0, addr: tag.into() };
    opcode::UringCmd16::new(types::Fd(char_device), op.ioctl_code()).cmd(command.to_sqe_bytes()).build()
}

fn transfer(store: &File, tag: u16, request: &Request) -> squeue::Entry {
    let (file, length, offset) = (types::Fd(store.as_raw_fd()), request.len_bytes, request.offset_bytes());
    let start = std::ptr::null_mut(); // the first byte of the pages
    match request.op {
        Op::Read => opcode::ReadFixed::new(file, start, length, tag).offset(offset).build(),
        _ => opcode::WriteFixed::new(file, start, length, tag).offset(offset).build(),
    }
}

#[allow(unsafe_code)]
fn run(ring: &mut IoUring, entry: squeue::Entry) -> i32 {
    // SAFETY: the entry points to no memory of this process: its data is in a fixed buffer.
    unsafe { ring.submission().push(&entry).unwrap() };
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}
