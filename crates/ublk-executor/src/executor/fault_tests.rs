//! The executor over a ring that misbehaves.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use io_uring::{opcode, squeue};

use super::{ExecutorError, LocalExecutor, sleep, spawn_local, yield_now};
use crate::MissingOpcode;
use crate::io::{BufferedFile, DmaBuffer, DmaFile, Events, FixedBuffer, poll_once};
use crate::net::{ListenOptions, TcpListener};
use crate::reactor::{AnyPort, Port};
use crate::ring::faults::{Fault, left, on_enter};
use crate::ring::{Completion, Kinds, Opcodes, Ring, RingError, RingOptions, Wait};

/// What goes wrong next; each happens once.
#[derive(Default)]
struct Faults {
    refused_push: Cell<Option<i32>>,
    failed_turn: Cell<Option<i32>>,
    missing_opcode: Cell<Option<u8>>,
    /// Completions that no operation has.
    stray: RefCell<Vec<u64>>,
    /// Each completion comes twice.
    doubles: Cell<bool>,
    /// Completions are kept back while this is set.
    withholds: Cell<bool>,
    /// No read or write is of more than this: bytes, or buffers if it is vectored. 0: as many as asked for.
    most: Cell<u32>,
}

/// A real ring with faults in between.
struct FaultyRing {
    ring: Ring,
    faults: Rc<Faults>,
    withheld: Vec<Completion>,
}

impl Port for FaultyRing {
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), RingError> {
        match self.faults.refused_push.take() {
            Some(errno) => Err(failure(errno)),
            // SAFETY: the caller's promise; what is left of a transfer is of its memory.
            None => unsafe { self.ring.push(&shortened(entry, self.faults.most.get())) },
        }
    }

    unsafe fn push_chain(&mut self, entries: &[squeue::Entry]) -> Result<(), RingError> {
        match self.faults.refused_push.take() {
            Some(errno) => Err(failure(errno)),
            // SAFETY: the caller's promise.
            None => unsafe { Port::push_chain(&mut self.ring, entries) },
        }
    }

    unsafe fn push_wide(&mut self, entry: &squeue::Entry128) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { Port::push_wide(&mut self.ring, entry) }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), RingError> {
        if let Some(errno) = self.faults.failed_turn.take() {
            return Err(failure(errno));
        }
        self.ring.turn(if self.withheld.is_empty() || self.faults.withholds.get() { wait } else { Wait::No })
    }

    fn reap(&mut self, batch: &mut Vec<Completion>) -> Option<usize> {
        let room = batch.capacity();
        let mut real = Vec::with_capacity(room / 2 - self.withheld.len());
        self.ring.reap(&mut real);
        real.splice(0..0, self.withheld.drain(..));
        if self.faults.withholds.get() {
            self.withheld = real;
            return Kinds::of(batch).ended_of_one();
        }
        for completion in real {
            batch.push(completion);
            if self.faults.doubles.get() {
                batch.push(completion);
            }
        }
        for user_data in self.faults.stray.take() {
            batch.push(Completion { user_data, result: 1, flags: 0 });
        }
        Kinds::of(batch).ended_of_one()
    }

    fn has_work(&mut self) -> bool {
        self.ring.has_work()
    }

    fn has_unsubmitted(&mut self) -> bool {
        self.ring.has_unsubmitted()
    }

    fn is_quiet(&mut self) -> bool {
        self.ring.is_quiet()
    }

    fn register_files(&mut self, files: &[BorrowedFd<'_>]) -> Result<(), RingError> {
        self.ring.register_files(files)
    }

    fn register_buffer_table(&mut self, count: u32) -> Result<(), RingError> {
        self.ring.register_buffer_table(count)
    }

    unsafe fn register_buffer_ring(&mut self, ring: u64, group: u16) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.register_buffer_ring(ring, group) }
    }

    fn register_file_table(&mut self, count: u32) -> Result<(), RingError> {
        self.ring.register_file_table(count)
    }

    fn set_file(&mut self, slot: u32, file: Option<BorrowedFd<'_>>) -> Result<(), RingError> {
        self.ring.set_file(slot, file)
    }

    unsafe fn set_buffer(&mut self, slot: u32, start: *mut u8, bytes: usize) -> Result<(), RingError> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.set_buffer(slot, start, bytes) }
    }

    fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> Result<(), RingError> {
        self.ring.register_eventfd(fd)
    }

    fn second_fd(&self) -> Result<OwnedFd, RingError> {
        self.ring.second_fd()
    }

    fn leave_registered(&mut self) {
        self.ring.leave_registered();
    }

    fn counts(&self) -> (u64, u64) {
        self.ring.counts()
    }

    fn opcodes(&self) -> Opcodes {
        let opcodes = self.ring.opcodes();
        self.faults.missing_opcode.get().map_or(opcodes, |opcode| opcodes.without(opcode))
    }
}

fn shortened(entry: &squeue::Entry, most: u32) -> squeue::Entry {
    const TRANSFERS: [u8; 4] = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Read::CODE, opcode::Write::CODE];
    let mut entry = entry.clone();
    let start: *mut squeue::Entry = &raw mut entry;
    // SAFETY: an entry is a `struct io_uring_sqe`: the opcode is its first byte, `len` the four bytes at 24.
    unsafe {
        let len = start.cast::<u32>().add(6);
        if most > 0 && TRANSFERS.contains(&start.cast::<u8>().read()) {
            len.write(len.read().min(most));
        }
    }
    entry
}

fn failure(errno: i32) -> RingError {
    RingError::Kernel { call: "io_uring_enter", source: std::io::Error::from_raw_os_error(errno) }
}

fn faulty(close_limit: Duration) -> (LocalExecutor, Rc<Faults>) {
    faulty_without(None, close_limit)
}

fn faulty_without(missing_opcode: Option<u8>, close_limit: Duration) -> (LocalExecutor, Rc<Faults>) {
    let ring = Ring::new(RingOptions { submissions: 8, completions: 64 }).unwrap();
    let faults = Rc::new(Faults { missing_opcode: Cell::new(missing_opcode), ..Faults::default() });
    let port = FaultyRing { ring, faults: Rc::clone(&faults), withheld: Vec::new() };
    (LocalExecutor::builder().close_limit(close_limit).build_on(AnyPort::Other(Box::new(port))).unwrap(), faults)
}

/// A file of two pages, of ones and twos.
struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Image {
        let path = std::env::temp_dir().join(format!("ublk-executor-{name}-{}", std::process::id()));
        std::fs::write(&path, [[1; 4096], [2; 4096]].concat()).unwrap();
        Image(path)
    }

    fn open(&self) -> DmaFile {
        DmaFile::from_std(File::options().read(true).write(true).open(&self.0).unwrap()).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_push_that_is_refused_gives_the_buffer_back_with_the_error() {
    let image = Image::new("refused");
    let (executor, faults) = faulty(LIMIT);
    let file = image.open();
    executor
        .block_on(async {
            let mut buffer = DmaBuffer::new(4096);
            buffer.fill(9);
            faults.refused_push.set(Some(libc::ENOMEM));
            let (read, buffer) = file.read_at(buffer, 0).await;
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
            assert!(buffer.iter().all(|&byte| byte == 9));
            let (read, buffer) = file.read_at(buffer, 4096).await;
            assert_eq!(read.unwrap(), 4096);
            assert!(buffer.iter().all(|&byte| byte == 2));
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 0);
}

#[test]
fn short_reads_and_writes_are_resumed_where_they_ended() {
    let path = std::env::temp_dir().join(format!("ublk-executor-short-{}", std::process::id()));
    let content: Vec<u8> = (0..10_000_u32).map(|index| (index % 251) as u8).collect();
    let pages: Vec<u8> = (0..5 * 8192_u32).map(|index| (index % 251) as u8).collect();
    let (executor, faults) = faulty(LIMIT);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let direct = DmaFile::from_std(File::options().read(true).write(true).open(&path).unwrap()).unwrap();
    executor
        .block_on(async {
            faults.most.set(999);
            let file = BufferedFile::from_std(file);
            file.write_at(content.clone(), 77).await.0.unwrap();
            let (read, bytes) = file.read_at(vec![0; 12_000], 77).await;
            assert_eq!(read.unwrap(), 10_000);
            assert!(bytes[..10_000] == content);

            let buffers = |bytes: &[u8]| {
                let buffers = bytes.chunks(8192).map(|chunk| {
                    let mut buffer = DmaBuffer::new(8192);
                    buffer.copy_from_slice(chunk);
                    buffer
                });
                buffers.collect::<Vec<_>>()
            };
            for most in [2, 1] {
                faults.most.set(most);
                direct.write_vectored_at(buffers(&pages), 4096).await.0.unwrap();
                let (read, back) = direct.read_vectored_at(buffers(&[0; 6 * 8192]), 4096).await;
                assert_eq!(read.unwrap(), pages.len());
                assert!(back[..5].iter().flat_map(|buffer| buffer.iter()).eq(&pages));
            }
            faults.most.set(4096); // in the middle of the buffer
            direct.write_at(buffers(&pages).remove(1), 4096).await.0.unwrap();
            let (read, buffer) = direct.read_at(DmaBuffer::new(8192), 4096).await;
            assert_eq!(read.unwrap(), 8192);
            assert!(buffer[..] == pages[8192..16384]);
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_turn_that_fails_ends_block_on_and_loses_no_task() {
    let (executor, faults) = faulty(LIMIT);
    let steps = Rc::new(Cell::new(0));
    let counts = Rc::clone(&steps);
    let stepping = async move {
        loop {
            counts.set(counts.get() + 1);
            yield_now().await;
        }
    };
    executor.spawn_local(stepping).unwrap().detach();
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    faults.failed_turn.set(Some(libc::ENXIO));
    let error = executor.block_on(sleep(Duration::from_millis(1))).unwrap_err();
    assert!(matches!(&error, ExecutorError::Ring(error) if error.errno() == Some(libc::ENXIO)), "{error}");
    let before = steps.get();
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    assert!(steps.get() > before);
    assert_eq!(executor.stats().tasks, 1);
}

#[test]
fn doubled_and_foreign_completions_reach_nobody() {
    let image = Image::new("doubled");
    let (executor, faults) = faulty(LIMIT);
    let file = image.open();
    faults.doubles.set(true);
    executor
        .block_on(async {
            for round in 0..20 {
                // Numbers of operations that never were, or ended long ago.
                faults.stray.borrow_mut().extend([0, 77, 1 << 32 | 77, 3 << 32 | 78]);
                if round > 0 {
                    faults.stray.borrow_mut().push(1 << 32 | 1);
                }
                let first = file.read_at(DmaBuffer::new(4096), 0);
                let (read, buffer) = first.await;
                assert_eq!((read.unwrap(), buffer[0], buffer[4095]), (4096, 1, 1), "round {round}");
                let (read, buffer) = file.read_at(DmaBuffer::new(4096), 4096).await;
                assert_eq!((read.unwrap(), buffer[0], buffer[4095]), (4096, 2, 2), "round {round}");
            }
        })
        .unwrap();
    let stats = executor.stats();
    assert_eq!(stats.in_flight, 0);
    assert!(stats.stray_completions >= 40, "{stats:?}");
}

#[test]
fn an_operation_that_does_not_end_is_leaked_at_the_deadline_and_counted() {
    let image = Image::new("leaked");
    let (executor, faults) = faulty(Duration::from_millis(50));
    let file = image.open();
    faults.withholds.set(true);
    let before = crate::leaked_operations();
    let read = executor.spawn_local(async move { file.read_at(DmaBuffer::new(4096), 0).await.0 }).unwrap();
    executor.block_on(sleep(Duration::from_millis(5))).unwrap();
    assert_eq!(executor.stats().in_flight, 1);
    drop(read);
    assert_eq!(executor.stats().in_flight, 1, "its buffer was freed under the kernel's hands");
    let closed = executor.close();
    assert_eq!((closed.leaked_operations, crate::leaked_operations() - before), (1, 1));
}

fn poll_with_a_new_waker(future: Pin<&mut impl Future>, waker: Waker) {
    assert!(future.poll(&mut Context::from_waker(&waker)).is_pending());
}

/// A waker whose end calls the executor.
struct CallsWhenDropped(Rc<LocalExecutor>, Rc<Cell<u32>>);

impl Drop for CallsWhenDropped {
    fn drop(&mut self) {
        assert!(self.0.stats().in_flight <= 1);
        self.1.set(self.1.get() + 1);
    }
}

#[test]
fn a_waker_whose_end_calls_the_executor_does_not_find_it_lent() {
    thread_local! {
        static ENDS: RefCell<Vec<CallsWhenDropped>> = const { RefCell::new(Vec::new()) };
    }
    /// Wakers must be `Send`: what is dropped with it waits in this thread.
    struct EndsOne;
    impl std::task::Wake for EndsOne {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    impl Drop for EndsOne {
        fn drop(&mut self) {
            drop(ENDS.with(|ends| ends.borrow_mut().pop()));
        }
    }
    let image = Image::new("lent");
    let (executor, faults) = faulty(LIMIT);
    let (executor, ended) = (Rc::new(executor), Rc::new(Cell::new(0)));
    ENDS.with(|ends| {
        let end = || CallsWhenDropped(Rc::clone(&executor), Rc::clone(&ended));
        ends.borrow_mut().extend([end(), end()]);
    });
    let file = image.open();
    faults.withholds.set(true);
    let mut read = Box::pin(file.read_at(DmaBuffer::new(4096), 0));
    executor
        .block_on(async {
            let waker = || Waker::from(std::sync::Arc::new(EndsOne));
            poll_with_a_new_waker(read.as_mut(), waker());
            poll_with_a_new_waker(read.as_mut(), waker()); // another waker takes the place of the first
        })
        .unwrap();
    assert_eq!(ended.get(), 1);
    drop(read);
    assert_eq!(ended.get(), 2);
    faults.withholds.set(false);
    let deadline = std::time::Instant::now() + LIMIT;
    while executor.stats().in_flight > 0 {
        assert!(std::time::Instant::now() < deadline, "the read that was given up never ended");
        executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    }
}

#[test]
fn an_operation_that_ends_late_is_waited_for() {
    let image = Image::new("late");
    let (executor, faults) = faulty(LIMIT);
    let file = image.open();
    faults.withholds.set(true);
    let read = executor.spawn_local(async move { file.read_at(DmaBuffer::new(4096), 0).await.0 }).unwrap();
    executor.block_on(sleep(Duration::from_millis(5))).unwrap();
    drop(read);
    faults.withholds.set(false);
    assert_eq!(executor.close().leaked_operations, 0);
}

#[test]
fn an_operation_that_the_kernel_lacks_is_an_error_that_names_it_and_the_kernel() {
    let image = Image::new("lacks");
    let missing = |error: std::io::Error| {
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
        error.get_ref().unwrap().downcast_ref::<MissingOpcode>().unwrap().clone()
    };
    let (executor, _) = faulty_without(Some(opcode::Read::CODE), LIMIT);
    let file = image.open();
    executor
        .block_on(async {
            let mut buffer = DmaBuffer::new(4096);
            buffer.fill(9);
            let (read, buffer) = file.read_at(buffer, 0).await;
            let lacks = missing(read.unwrap_err());
            assert_eq!((lacks.name, lacks.opcode), ("READ", opcode::Read::CODE));
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            assert!(lacks.to_string().contains(release.trim()), "{lacks}");
            assert!(buffer.iter().all(|&byte| byte == 9));
            file.sync_data().await.unwrap();
        })
        .unwrap();
    // One member of a chain is enough, and nothing of it is done.
    let (executor, _) = faulty_without(Some(opcode::Fsync::CODE), LIMIT);
    executor
        .block_on(async {
            let (written, _) = file.write_and_sync(DmaBuffer::new(4096), 4096).await;
            assert_eq!(missing(written.unwrap_err()).name, "FSYNC");
        })
        .unwrap();
    assert_eq!((executor.stats().in_flight, std::fs::read(&image.0).unwrap()[4096]), (0, 2));
}

/// That a fixed buffer goes by its slot shows in the operation that is missing then.
#[test]
fn a_fixed_buffer_asks_for_the_operations_of_fixed_buffers() {
    let image = Image::new("fixed-lacks");
    for (missing, name) in [(opcode::ReadFixed::CODE, "READ_FIXED"), (opcode::WriteFixed::CODE, "WRITE_FIXED")] {
        let ring = Ring::new(RingOptions { submissions: 8, completions: 64 }).unwrap();
        let faults = Rc::new(Faults { missing_opcode: Cell::new(Some(missing)), ..Faults::default() });
        let port = Box::new(FaultyRing { ring, faults, withheld: Vec::new() });
        let executor = LocalExecutor::builder().fixed_buffers(1).build_on(AnyPort::Other(port)).unwrap();
        let file = image.open();
        executor
            .block_on(async {
                let (read, buffer) = file.read_at(FixedBuffer::new(4096).unwrap(), 0).await;
                let (written, _) = file.write_at(buffer, 0).await;
                let (failed, passed) = if name == "READ_FIXED" {
                    (read.map(drop).unwrap_err(), written)
                } else {
                    (written.unwrap_err(), read.map(drop))
                };
                passed.unwrap();
                assert!(failed.to_string().contains(name), "{failed}");
            })
            .unwrap();
    }
}

#[test]
fn a_chain_that_is_refused_gives_the_buffer_back_and_leaves_nothing_in_flight() {
    let image = Image::new("refused-chain");
    let (executor, faults) = faulty(LIMIT);
    let file = image.open();
    executor
        .block_on(async {
            let mut buffer = DmaBuffer::new(4096);
            buffer.fill(9);
            faults.refused_push.set(Some(libc::ENOMEM));
            let (written, buffer) = file.write_and_sync(buffer, 0).await;
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
            assert!(buffer.iter().all(|&byte| byte == 9));
            assert_eq!(std::fs::read(&image.0).unwrap()[0], 1);
            file.write_and_sync(buffer, 0).await.0.unwrap();
            assert_eq!(std::fs::read(&image.0).unwrap()[0], 9);
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 0);
}

#[test]
fn operations_survive_what_system_calls_answer() {
    let image = Image::new("enters");
    let (executor, _) = faulty(LIMIT);
    let file = image.open();
    let faults = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ETIME].map(Fault::Errno);
    executor
        .block_on(async {
            for round in 0..50 {
                on_enter([faults[round % 4], Fault::Short(round as u32 % 3), faults[(round / 4) % 4]]);
                let reads = [0, 4096].map(|offset| {
                    let file = file.clone();
                    spawn_local(async move { file.read_at(DmaBuffer::new(4096), offset).await }).unwrap()
                });
                for (byte, read) in [1, 2].into_iter().zip(reads) {
                    let (read, buffer) = read.await.unwrap();
                    assert_eq!((read.unwrap(), buffer[0], buffer[4095]), (4096, byte, byte), "round {round}");
                }
            }
        })
        .unwrap();
    let stats = executor.stats();
    assert_eq!((stats.in_flight, stats.stray_completions, left()), (0, 0, 0));
}

/// 64 operations under way, and room for 4 completions.
#[test]
fn an_executor_whose_completion_queue_overflows_loses_nothing() {
    let ring: Ring = Ring::new(RingOptions { submissions: 4, completions: 4 }).unwrap();
    let executor = LocalExecutor::builder().build_on(AnyPort::Usual(ring)).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = Rc::new(reader);
    executor
        .block_on(async {
            let polls: Vec<_> =
                (0..64).map(|_| spawn_local(poll_once(Rc::clone(&reader), Events::READABLE)).unwrap()).collect();
            sleep(Duration::from_millis(5)).await;
            std::io::Write::write_all(&mut &writer, b"x").unwrap();
            for poll in polls {
                assert!(poll.await.unwrap().0.unwrap().contains(Events::READABLE));
            }
        })
        .unwrap();
    let stats = executor.stats();
    assert_eq!((stats.in_flight, stats.stray_completions, Rc::strong_count(&reader)), (0, 0, 1));
}

#[test]
fn a_connection_that_comes_after_its_accept_was_given_up_is_closed() {
    let (executor, faults) = faulty(LIMIT);
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut accept = Box::pin(listener.accept());
    executor.block_on(async { poll_with_a_new_waker(accept.as_mut(), Waker::noop().clone()) }).unwrap();
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    faults.withholds.set(true);
    let before = executor.stats().completions;
    let mut peer = std::net::TcpStream::connect(address).unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    while executor.stats().completions == before {
        assert!(std::time::Instant::now() < deadline, "nothing was accepted");
        executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    }
    // The kernel has accepted it, but the executor has not heard of that.
    drop(accept);
    faults.withholds.set(false);
    executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    assert_eq!(executor.stats().in_flight, 0);
    // Another thread: the ring's work would interrupt the wait.
    let read = std::thread::spawn(move || {
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        peer.read(&mut [0])
    });
    assert_eq!(read.join().unwrap().unwrap(), 0);
    drop(listener);
}

#[test]
fn a_cancellation_that_is_refused_is_sent_again() {
    let (executor, faults) = faulty(LIMIT);
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut wait = None;
    executor
        .block_on(async {
            wait = Some(poll_once(reader, Events::READABLE));
            sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 1);
    faults.refused_push.set(Some(libc::EBUSY));
    drop(wait);
    assert_eq!(faults.refused_push.get(), None, "nothing was pushed");
    let deadline = std::time::Instant::now() + LIMIT;
    while executor.stats().in_flight > 0 {
        assert!(std::time::Instant::now() < deadline, "what nobody waits for goes on");
        executor.block_on(sleep(Duration::from_millis(1))).unwrap();
    }
}
