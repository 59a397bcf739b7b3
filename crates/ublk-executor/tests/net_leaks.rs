//! Connections that nobody waited for leave no descriptor. A program of its own with a single test, so that every descriptor is this test's.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::unix::net as std_unix;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ublk_executor::net::{ListenOptions, Listener, Stream, TcpListener, UnixListener};
use ublk_executor::{LocalExecutor, leaked_operations, sleep, yield_now};

const LIMIT: Duration = Duration::from_secs(30);

fn descriptors() -> BTreeSet<String> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

type Accept<'a, F> = Pin<Box<dyn Future<Output = std::io::Result<Stream<F>>> + 'a>>;

/// Started, and submitted.
async fn begun<F>(listener: &Listener<F>) -> Accept<'_, F> {
    let mut accept: Accept<'_, F> = Box::pin(listener.accept());
    poll_fn(|_| {
        assert!(accept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        Poll::Ready(())
    })
    .await;
    sleep(Duration::from_millis(1)).await;
    accept
}

fn dial(address: SocketAddr) -> StdTcpStream {
    let peer = StdTcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    peer
}

/// What an accept that nobody takes does to a connection, with `after` between its coming and the drop of the future.
async fn dropped_accept(listener: &TcpListener, address: SocketAddr, after: impl Future<Output = ()>) -> StdTcpStream {
    let accept = begun(listener).await;
    let peer = dial(address);
    after.await;
    drop(accept);
    sleep(Duration::from_millis(1)).await;
    peer
}

fn is_closed(mut peer: impl Read) -> bool {
    loop {
        match peer.read(&mut [0]) {
            Ok(read) => return read == 0,
            // A ring's work interrupts other calls of its thread; those with a time limit are not taken up again by the kernel.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), ListenOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn executor() -> LocalExecutor {
    LocalExecutor::builder().ring_entries(8).close_limit(LIMIT).build().unwrap()
}

/// The kernel puts the last reference to a socket back a moment after the ring is gone.
fn assert_same(before: &BTreeSet<String>, what: &str) {
    let deadline = Instant::now() + LIMIT;
    while descriptors() != *before {
        assert!(Instant::now() < deadline, "{what}: {before:?} became {:?}", descriptors());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_nobody_waits_for_is_closed() {
    drop(executor());
    let before = descriptors();

    for _ in 0..50 {
        // The accept has a connection when its future is dropped.
        let executor = executor();
        let accepted = async {
            while executor.stats().in_flight > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let dropped = async {
            let (listener, address) = listen();
            let peer = dropped_accept(&listener, address, accepted).await;
            assert!(is_closed(&peer), "an accepted connection that nobody took was not closed");
        };
        executor.block_on(dropped).unwrap();
    }
    assert_same(&before, "accepts that had ended");

    for _ in 0..50 {
        // The connection comes as the accept is dropped: whether it is accepted is open, but not that it is closed with the listener.
        let peer = executor().block_on(async {
            let (listener, address) = listen();
            dropped_accept(&listener, address, yield_now()).await
        });
        assert!(is_closed(peer.unwrap()));
    }
    assert_same(&before, "accepts that had not ended");

    for _ in 0..50 {
        // The executor ends with accepts under way, and connections for them.
        let path = std::env::temp_dir().join(format!("ublk-net-leaks-{}", std::process::id()));
        let executor = executor();
        let (listener, address) = listen();
        let unix_listener = UnixListener::bind(&path).unwrap();
        executor.spawn_local(async move { drop(listener.accept().await) }).unwrap().detach();
        executor.spawn_local(async move { drop(unix_listener.accept().await) }).unwrap().detach();
        executor.block_on(sleep(Duration::from_millis(1))).unwrap();
        let (peer, unix_peer) = (dial(address), std_unix::UnixStream::connect(&path).unwrap());
        unix_peer.set_read_timeout(Some(LIMIT)).unwrap();
        drop(executor);
        assert!(is_closed(peer) && is_closed(unix_peer));
        std::fs::remove_file(&path).unwrap();
    }
    assert_same(&before, "executors that ended");
    assert_eq!(leaked_operations(), 0);
}
