//! Sockets, against those of the standard library: bytes, ends, errors, and what becomes of operations that nobody waits for.

#![allow(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use ublk_executor::channel::channel;
use ublk_executor::executor::ExecutorPool;
use ublk_executor::io::{DmaBuffer, Part};
use ublk_executor::net::{
    EndedEarly, ListenOptions, Listener, Stream, TcpListener, TcpStream, UnixListener, UnixStream,
};
use ublk_executor::{LocalExecutor, leaked_operations, sleep, spawn_local};

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(30);
const MEBIBYTE: usize = 1 << 20;

/// Runs on an executor of its own, within the limit.
fn run<T>(future: impl Future<Output = T>) -> T {
    LocalExecutor::new().unwrap().block_on(within(future)).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let (mut future, mut limit) = (pin!(future), pin!(sleep(LIMIT)));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Pending if limit.as_mut().poll(context).is_ready() => panic!("it took longer than {LIMIT:?}"),
        polled => polled,
    })
    .await
}

/// Polls once, which starts the operation, and lets the ring submit it.
async fn begin<F: Future>(future: std::pin::Pin<&mut F>) {
    let mut future = Some(future);
    poll_fn(|context| {
        assert!(future.take().unwrap().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    sleep(Duration::from_millis(1)).await;
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(any_port(), ListenOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ublk-net-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 + index / 256 + seed) as u8).collect()
}

/// The other implementation's end of a connection.
trait Peer: Read + Write + Send + Sized + 'static {
    fn limited(self) -> Self;
    fn twin(&self) -> Self;
    fn end_writing(&self);
}

macro_rules! peer {
    ($stream:ty) => {
        impl Peer for $stream {
            fn limited(self) -> Self {
                self.set_read_timeout(Some(LIMIT)).unwrap();
                self.set_write_timeout(Some(LIMIT)).unwrap();
                self
            }
            fn twin(&self) -> Self {
                self.try_clone().unwrap()
            }
            fn end_writing(&self) {
                self.shutdown(Shutdown::Write).unwrap();
            }
        }
    };
}

peer!(std::net::TcpStream);
peer!(std_unix::UnixStream);

fn dial(address: SocketAddr) -> std::net::TcpStream {
    std::net::TcpStream::connect(address).unwrap().limited()
}

/// Connected over TCP: our end, and the other.
async fn tcp_pair() -> (TcpStream, std::net::TcpStream) {
    let (listener, address) = listen();
    let peer = dial(address);
    (listener.accept().await.unwrap(), peer)
}

/// A thread that sends back 1 MiB, in odd pieces and with pauses, and then reads to the end.
fn echo_in_pieces(mut peer: impl Peer) -> thread::JoinHandle<()> {
    let (send, pieces) = std::sync::mpsc::channel::<Vec<u8>>();
    let mut writing = peer.twin();
    let writer = thread::spawn(move || {
        for (number, piece) in pieces.into_iter().enumerate() {
            writing.write_all(&piece).unwrap();
            if number % 16 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        writing.end_writing();
    });
    thread::spawn(move || {
        let mut piece = vec![0; 7777];
        loop {
            let read = peer.read(&mut piece).unwrap();
            if read == 0 {
                break;
            }
            send.send(piece[..read].to_vec()).unwrap();
        }
        drop(send);
        writer.join().unwrap();
    })
}

/// 1 MiB there and back, written by one task while another reads, with buffers of every kind, and sends and receives that are short.
async fn exchange<F: 'static>(ours: Stream<F>, peer: impl Peer) {
    set_socket_send_buffer_size(&ours, 4096).unwrap();
    let echo = echo_in_pieces(peer);
    let sent = pattern(MEBIBYTE, 3);
    let writing = {
        let (stream, sent) = (ours.clone(), sent.clone());
        spawn_local(async move {
            let (first, rest) = (sent[..300_000].to_vec(), sent[300_000..700_000].to_vec());
            let (written, first, rest) = stream.write_all_pair(first, rest).await;
            written.unwrap();
            assert!([first, rest].concat() == sent[..700_000]);
            let (written, all) = stream.write_all(Part::new(sent, 700_000..1_000_000)).await;
            written.unwrap();
            let (written, _) = stream.write_all(all.into_inner()[1_000_000..].to_vec().into_boxed_slice()).await;
            written.unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        })
        .unwrap()
    };
    let (read, first) = ours.read_exact(DmaBuffer::new(MEBIBYTE / 2)).await;
    read.unwrap();
    let (read, mut rest) = ours.read_exact(vec![0; MEBIBYTE / 2]).await;
    read.unwrap();
    assert!(first[..] == sent[..MEBIBYTE / 2] && rest == sent[MEBIBYTE / 2..]);
    let read;
    (read, rest) = ours.read(rest).await;
    assert_eq!((read.unwrap(), rest.len()), (0, MEBIBYTE / 2));
    writing.await.unwrap();
    echo.join().unwrap();
}

async fn accept_one<F>(listener: &Listener<F>, dial: impl FnOnce() -> io::Result<()> + Send + 'static) -> Stream<F> {
    let dialling = thread::spawn(dial);
    let stream = listener.accept().await.unwrap();
    dialling.join().unwrap().unwrap();
    stream
}

#[test]
fn a_mebibyte_comes_back_over_tcp_whoever_connects() {
    run(async {
        let (listener, address) = listen();
        let (hand_over, theirs) = std::sync::mpsc::channel();
        let ours = accept_one(&listener, move || {
            hand_over.send(dial(address)).unwrap();
            Ok(())
        })
        .await;
        exchange(ours, theirs.recv().unwrap()).await;

        let theirs = std::net::TcpListener::bind("[::1]:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let ours = TcpStream::connect(address).await.unwrap();
        let (peer, from) = theirs.accept().unwrap();
        assert_eq!((ours.local_addr().unwrap(), ours.peer_addr().unwrap()), (from, address));
        exchange(ours, peer.limited()).await;
    });
}

#[test]
fn a_mebibyte_comes_back_over_unix_sockets_whoever_connects() {
    run(async {
        let path = path("exchange");
        let listener = UnixListener::bind(&path).unwrap();
        let (hand_over, theirs) = std::sync::mpsc::channel();
        let to = path.clone();
        let ours = accept_one(&listener, move || {
            hand_over.send(std_unix::UnixStream::connect(to)?.limited()).unwrap();
            Ok(())
        })
        .await;
        exchange(ours, theirs.recv().unwrap()).await;
        std::fs::remove_file(&path).unwrap();

        let theirs = std_unix::UnixListener::bind(&path).unwrap();
        let ours = UnixStream::connect(&path).await.unwrap();
        exchange(ours, theirs.accept().unwrap().0.limited()).await;
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn the_ends_of_a_pair_are_connected() {
    run(async {
        let (one, other) = UnixStream::pair().unwrap();
        one.write_all(b"over".to_vec()).await.0.unwrap();
        let (read, buffer) = other.read(vec![0; 16]).await;
        assert_eq!(&buffer[..read.unwrap()], b"over");
        drop(one);
        assert_eq!(other.read(buffer).await.0.unwrap(), 0);
    });
}

#[test]
fn a_side_that_was_closed_leaves_the_other_open() {
    run(async {
        let (ours, mut peer) = tcp_pair().await;
        let replying = thread::spawn(move || {
            let mut request = Vec::new();
            peer.read_to_end(&mut request).unwrap();
            peer.write_all(b"reply to ").unwrap();
            peer.write_all(&request).unwrap();
        });
        ours.write_all(b"request".to_vec()).await.0.unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        let (read, reply) = ours.read_exact(vec![0; 16]).await;
        read.unwrap();
        assert_eq!(reply, b"reply to request");
        assert_eq!(ours.read(reply).await.0.unwrap(), 0);
        replying.join().unwrap();
    });
}

#[test]
fn an_end_in_the_middle_tells_how_much_came() {
    run(async {
        let (ours, mut peer) = tcp_pair().await;
        peer.write_all(b"16 bytes of head12345").unwrap();
        drop(peer);
        ours.read_exact(vec![0; 16]).await.0.unwrap();
        for received in [5, 0] {
            let (read, buffer) = ours.read_exact(vec![0; 16]).await;
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert_eq!(error.to_string(), format!("the peer closed after {received} of 16 bytes"));
            let inner = error.get_ref().unwrap().downcast_ref();
            assert_eq!(inner, Some(&EndedEarly { received, wanted: 16 }));
            assert_eq!(&buffer[..received], &b"12345"[..received]);
        }
        assert!(ours.read_exact(Vec::new()).await.0.is_ok());
    });
}

#[test]
fn errors_are_the_kernels_and_name_the_address() {
    run(async {
        // Bound and not listening: nobody else takes the port meanwhile.
        let taken =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&taken, &any_port()).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&taken).unwrap()).unwrap();
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&format!("connect to {address}: ")), "{error}");

        let (_listener, address) = listen();
        for shares_port in [false, true] {
            let error = TcpListener::bind(address, ListenOptions { shares_port, backlog: 1 }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.to_string().starts_with(&format!("listen on {address}: ")), "{error}");
        }
    });
}

#[test]
fn a_socket_file_is_its_users_alone_and_never_taken_over() {
    run(async {
        let path = path("file");
        let error = UnixStream::connect(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().starts_with(&format!("connect to {}: ", path.display())), "{error}");

        let listener = UnixListener::bind(&path).unwrap();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

        drop(listener);
        let error = UnixListener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(
            error.to_string(),
            format!("listen on {}: it exists; remove it if no server uses it", path.display())
        );
        assert_eq!(UnixStream::connect(&path).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        std::fs::remove_file(&path).unwrap();

        for path in [String::new(), "x".repeat(108)] {
            let rule = format!("socket path {path:?} has {} bytes: it must have 1 to 107", path.len());
            for error in [UnixListener::bind(&path).unwrap_err(), UnixStream::connect(&path).await.unwrap_err()] {
                assert_eq!((error.kind(), error.to_string()), (ErrorKind::InvalidInput, rule.clone()));
            }
        }
    });
}

#[test]
fn writing_to_a_peer_that_is_gone_is_an_error_and_no_signal() {
    // The standard library ignores it from the start of a program.
    // SAFETY: no handler is installed, and none was.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    run(async {
        for pairs in [false, true] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            drop(theirs);
            let written = match pairs {
                false => ours.write_all(vec![1; 10]).await.0,
                true => ours.write_all_pair(vec![1; 10], vec![2; 10]).await.0,
            };
            assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn a_connection_sends_small_writes_at_once_if_told() {
    run(async {
        let (ours, _peer) = tcp_pair().await;
        assert!(!ours.nodelay().unwrap());
        ours.set_nodelay(true).unwrap();
        assert!(ours.nodelay().unwrap());
    });
}

#[test]
fn what_comes_after_a_read_was_dropped_goes_to_the_next() {
    run(async {
        let (ours, mut peer) = tcp_pair().await;
        for round in 0..50_u8 {
            let mut dropped = Box::pin(ours.read(vec![0; 16]));
            begin(dropped.as_mut()).await;
            drop(dropped);
            sleep(Duration::from_millis(1)).await;
            peer.write_all(&[round; 16]).unwrap();
            sleep(Duration::from_millis(1)).await; // for a read that goes on to take them
            let (read, buffer) = ours.read_exact(vec![0; 16]).await;
            read.unwrap();
            assert_eq!(buffer, [round; 16]);
        }
    });
}

#[test]
fn a_connection_whose_accept_was_dropped_waits_for_the_next() {
    run(async {
        let (listener, address) = listen();
        let mut dropped = Box::pin(listener.accept());
        begin(dropped.as_mut()).await;
        drop(dropped);
        sleep(Duration::from_millis(1)).await;
        let mut peer = dial(address);
        sleep(Duration::from_millis(5)).await; // for an accept that goes on to take it
        let ours = listener.accept().await.unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(ours.read(vec![0; 4]).await.0.unwrap(), 1);
    });
}

#[test]
fn a_read_ends_when_its_side_is_closed() {
    run(async {
        let (ours, _peer) = tcp_pair().await;
        let reading = ours.clone();
        let read = spawn_local(async move { reading.read(vec![0; 16]).await.0 }).unwrap();
        sleep(Duration::from_millis(1)).await;
        ours.shutdown(Shutdown::Both).unwrap();
        assert_eq!(read.await.unwrap().unwrap(), 0);
    });
}

#[test]
fn an_executor_that_ends_closes_its_connections() {
    let before = leaked_operations();
    let executor = LocalExecutor::new().unwrap();
    let (listener, address) = listen();
    let mut peers: Vec<_> = (0..16).map(|_| dial(address)).collect();
    executor
        .block_on(within(async {
            for _ in &peers {
                let stream = listener.accept().await.unwrap();
                set_socket_send_buffer_size(&stream, 4096).unwrap();
                let writing = stream.clone();
                spawn_local(async move { stream.read(vec![0; 1 << 16]).await.0 }).unwrap().detach();
                // Nobody reads: this one waits, too.
                spawn_local(async move { writing.write_all(vec![0; 32 << 20]).await.0 }).unwrap().detach();
            }
            spawn_local(async move { listener.accept().await }).unwrap().detach();
            until(|| executor.stats().in_flight == 33).await;
        }))
        .unwrap();
    let closed = executor.close();
    assert_eq!((closed.dropped_tasks, closed.leaked_operations, leaked_operations()), (33, 0, before));
    for peer in &mut peers {
        io::copy(peer, &mut io::sink()).unwrap(); // to the end, which comes
    }
    assert_eq!(std::net::TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// A task for each connection; counts those that ended.
async fn serve(listener: TcpListener, served: Arc<Mutex<usize>>) {
    loop {
        let stream = listener.accept().await.unwrap();
        let served = Arc::clone(&served);
        let serving = async move {
            let mut buffer = vec![0; 1000];
            loop {
                let (read, filled) = stream.read(buffer).await;
                let read = read.unwrap();
                if read == 0 {
                    *served.lock().unwrap() += 1;
                    return;
                }
                let (written, part) = stream.write_all(Part::new(filled, 0..read)).await;
                written.unwrap();
                buffer = part.into_inner();
            }
        };
        spawn_local(serving).unwrap().detach();
    }
}

/// 64 connections at once: each sends twice and gets it back, then closes.
fn try_sixty_four(address: SocketAddr) {
    let mut peers: Vec<_> = (0..64).map(|_| dial(address)).collect();
    for round in 0..2 {
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&pattern(5000, number + round)).unwrap();
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            let mut back = vec![0; 5000];
            peer.read_exact(&mut back).unwrap();
            assert!(back == pattern(5000, number + round), "connection {number}");
        }
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn sixty_four_connections_are_served_at_once() {
    run(async {
        let (listener, address) = listen();
        let served = Arc::new(Mutex::new(0));
        let serving = spawn_local(serve(listener, Arc::clone(&served))).unwrap();
        let peers = thread::spawn(move || try_sixty_four(address));
        until(|| *served.lock().unwrap() == 64).await;
        peers.join().unwrap();
        drop(serving);
    });
}

#[test]
fn shards_that_share_a_port_share_its_connections() {
    let options = ListenOptions { shares_port: true, ..ListenOptions::default() };
    let first = TcpListener::bind(any_port(), options).unwrap();
    let address = first.local_addr().unwrap();
    let listeners = [first, TcpListener::bind(address, options).unwrap()];
    let counts = [Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0))];
    let (mut stops, mut parts) = (Vec::new(), Vec::new());
    for (listener, served) in listeners.into_iter().zip(&counts) {
        let (stop, stopped) = channel::<()>(1);
        stops.push(stop);
        parts.push((listener, stopped, Arc::clone(served)));
    }
    let parts = Arc::new(Mutex::new(parts));
    let pool = ExecutorPool::<()>::builder()
        .shards(2)
        .start(move |_| {
            let (listener, mut stopped, served) = parts.lock().unwrap().pop().unwrap();
            async move {
                let serving = spawn_local(serve(listener, served)).unwrap();
                within(stopped.recv()).await;
                drop(serving);
            }
        })
        .unwrap();
    try_sixty_four(address);
    let served = || counts.each_ref().map(|count| *count.lock().unwrap());
    run(until(|| served().iter().sum::<usize>() == 64));
    drop(stops);
    pool.join().into_iter().for_each(Result::unwrap);
    assert!(served().iter().all(|&count| count > 0), "{:?}", served()); // fails by chance once in 2^63 runs
}
