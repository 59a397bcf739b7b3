//! Operations that the public face does not show in full: chains, streams, cancelled reads.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use super::operation::{start, start_linked, start_multishot};
use crate::executor::{LocalExecutor, current, sleep};
use crate::reactor::{Link, OpKind};

const LIMIT: Duration = Duration::from_secs(10);

/// Counts its end.
struct Held(Rc<Cell<u32>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

async fn until_nothing_is_in_flight(executor: &LocalExecutor) {
    let deadline = Instant::now() + LIMIT;
    while executor.stats().in_flight > 0 {
        assert!(Instant::now() < deadline, "{:?}", executor.stats());
        sleep(Duration::from_millis(1)).await;
    }
}

/// What `read` of `peer` says within a second: None when its other end is still open.
fn end_of(peer: &mut UnixStream) -> Option<()> {
    peer.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    match peer.read(&mut [0]) {
        Ok(0) => Some(()),
        Ok(_) => panic!("nothing was sent"),
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Some(()),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            None
        }
    }
}

#[test]
fn members_after_the_one_that_fails_are_cancelled_and_each_frees_its_own() {
    let executor = LocalExecutor::new().unwrap();
    let ended = Rc::new(Cell::new(0));
    executor
        .block_on(async {
            let nop = || opcode::Nop::new().build();
            let bad = opcode::Fsync::new(types::Fd(-1)).build();
            let links = [nop(), bad, nop(), nop()].map(|entry| {
                let held: Box<dyn std::any::Any> = Box::new(Held(Rc::clone(&ended)));
                Link { entry, kind: OpKind::Bounded, held }
            });
            let core = current().unwrap();
            // SAFETY: the entries point to no memory.
            let keys = core.with_reactor(|reactor| unsafe { reactor.unwrap().submit_chain(links.into()) }).unwrap();
            assert_eq!(executor.stats().in_flight, 4);
            until_nothing_is_in_flight(&executor).await;
            let mut answers = Vec::new();
            for key in keys {
                let polled = core.with_reactor(|reactor| reactor.unwrap().poll(key, std::task::Waker::noop()));
                match polled {
                    Some(crate::reactor::Polled::Ready(answer, _)) => answers.push(answer),
                    _ => panic!("{answers:?}: the next has not ended"),
                }
            }
            assert_eq!(answers, [0, -libc::EBADF, -libc::ECANCELED, -libc::ECANCELED]);
        })
        .unwrap();
    assert_eq!((ended.get(), executor.stats().in_flight), (4, 0));
}

#[test]
fn a_short_write_keeps_what_is_linked_to_it_from_beginning() {
    let executor = LocalExecutor::new().unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    executor
        .block_on(async {
            let mut bytes = vec![7_u8; 1 << 20]; // more than a pipe takes
            let write = opcode::Write::new(types::Fd(writer.as_raw_fd()), bytes.as_mut_ptr(), 1 << 20).build();
            let nop = opcode::Nop::new().build();
            // SAFETY: the entry points into the vector's content, which the operation owns.
            let (write, after) = unsafe { start_linked((write, OpKind::Bounded, bytes), (nop, OpKind::Bounded, ())) };
            let (written, bytes) = write.await;
            let written = written.unwrap() as usize;
            assert!(written > 0 && written < bytes.len(), "{written}");
            assert_eq!(after.await.0.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
        })
        .unwrap();
    drop(reader);
}

#[test]
fn a_read_that_is_cancelled_gives_its_buffer_back() {
    let executor = LocalExecutor::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let read = |mut bytes: Vec<u8>| {
        let length = bytes.len() as u32;
        let entry = opcode::Read::new(types::Fd(reader.as_raw_fd()), bytes.as_mut_ptr(), length).build();
        // SAFETY: the entry points into the vector's content, which the operation owns; the test keeps the pipe.
        unsafe { start(entry, OpKind::Cancelable, bytes) }
    };
    executor
        .block_on(async {
            let (result, bytes) = read(vec![1; 8]).cancel().await;
            assert_eq!((result.unwrap_err().raw_os_error(), &bytes[..]), (Some(libc::ECANCELED), &[1; 8][..]));
            // Bytes that came first are not lost.
            let waiting = read(bytes);
            (&writer).write_all(b"hello").unwrap();
            sleep(Duration::from_millis(2)).await;
            let (result, bytes) = waiting.cancel().await;
            assert_eq!((result.unwrap(), &bytes[..5]), (5, &b"hello"[..]));
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 0);
}

fn accept(listener: &UnixListener) -> squeue::Entry {
    opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).build()
}

/// Closes a connection that nobody took.
fn close(fd: u32) {
    // SAFETY: the kernel has made the descriptor for this accept, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
}

#[test]
fn connections_that_nobody_takes_are_closed() {
    let path = std::env::temp_dir().join(format!("ublk-executor-accept-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = Rc::new(UnixListener::bind(&path).unwrap());
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            // SAFETY: without an address, ACCEPT points to no memory; the operation owns the listener.
            let mut accepts = unsafe { start_multishot(accept(&listener), close, Rc::clone(&listener)) };
            let connect = || UnixStream::connect(&path).unwrap();
            let (mut taken, mut first, mut second) = (connect(), connect(), connect());
            let fd = accepts.next().await.unwrap().unwrap();
            sleep(Duration::from_millis(2)).await;
            drop(accepts);
            // This one may be accepted before the cancellation is.
            let mut last = connect();
            until_nothing_is_in_flight(&executor).await;
            assert_eq!((end_of(&mut first), end_of(&mut second)), (Some(()), Some(())));
            assert_eq!(end_of(&mut taken), None);
            close(fd);
            assert_eq!(end_of(&mut taken), Some(()));
            assert_eq!(Rc::strong_count(&listener), 1);
            drop(listener);
            assert_eq!(end_of(&mut last), Some(()));
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_stream_that_nobody_reads_ends_at_its_limit_and_loses_nothing() {
    let executor = LocalExecutor::new().unwrap();
    let signal = Rc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap());
    executor
        .block_on(async {
            let entry = opcode::PollAdd::new(types::Fd(signal.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
            // SAFETY: POLL_ADD points to no memory; the operation owns the descriptor.
            let mut edges = unsafe { start_multishot(entry, |_| (), Rc::clone(&signal)) };
            sleep(Duration::from_micros(1)).await;
            let mut written = 0;
            while executor.stats().in_flight > 0 {
                written += 1;
                assert!(written < 10_000, "nothing limits what waits");
                rustix::io::write(&*signal, &1_u64.to_ne_bytes()).unwrap();
                sleep(Duration::from_micros(1)).await;
            }
            assert!(written >= 1000, "{written}");
            let mut seen = 0;
            while let Some(edge) = edges.next().await {
                assert_eq!(edge.unwrap(), libc::POLLIN as u32);
                seen += 1;
            }
            assert!(seen <= written && seen >= 1000, "{seen} of {written}");
            assert!(edges.next().await.is_none());
        })
        .unwrap();
    assert_eq!(Rc::strong_count(&signal), 1);
}

#[test]
fn a_stream_whose_executor_ends_is_cancelled_and_frees_what_it_held() {
    let executor = LocalExecutor::new().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let ended = Rc::new(Cell::new(0));
    let held = (Held(Rc::clone(&ended)), Rc::new(reader));
    let (entry, reader) = {
        let fd = types::Fd(held.1.as_raw_fd());
        (opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build(), Rc::clone(&held.1))
    };
    let waits = async move {
        // SAFETY: POLL_ADD points to no memory; the operation owns the descriptor.
        let mut edges = unsafe { start_multishot(entry, |_| (), held) };
        edges.next().await;
    };
    executor.spawn_local(waits).unwrap().detach();
    executor.block_on(sleep(Duration::from_millis(2))).unwrap();
    assert_eq!((executor.stats().in_flight, ended.get()), (1, 0));
    let closed = executor.close();
    assert_eq!((closed.dropped_tasks, closed.leaked_operations, ended.get()), (1, 0, 1));
    assert_eq!(Rc::strong_count(&reader), 1);
}
