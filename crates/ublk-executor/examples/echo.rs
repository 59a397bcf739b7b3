//! An echo server on all cores: `cargo run --example echo -- ADDRESS [--shards N]`. SIGINT and SIGTERM end it.
//!
//! Every shard has a listener of its own on the same port, between which the kernel spreads the connections, and a task for each
//! connection. Shards share nothing; they end when the main thread drops its end of their channels.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ublk_executor::channel::{Receiver, channel};
use ublk_executor::executor::ExecutorPool;
use ublk_executor::io::Part;
use ublk_executor::net::{ListenOptions, TcpListener, TcpStream};
use ublk_executor::placement::allowed_cpus;
use ublk_executor::signal::Signals;
use ublk_executor::{LocalExecutor, sleep, spawn_local};

const BUFFER_BYTES: usize = 64 * 1024;

/// What a shard has done.
#[derive(Default)]
struct Counts {
    connections: Cell<u64>,
    bytes: Cell<u64>,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(|(address, shards)| run(address, shards)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut address: SocketAddr, shards: usize) -> Result<(), Box<dyn Error>> {
    let signals = Signals::new(&[libc::SIGINT, libc::SIGTERM])?; // before there are other threads
    let options = ListenOptions { shares_port: true, ..ListenOptions::default() };
    let (mut stops, mut parts) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let listener = TcpListener::bind(address, options)?;
        address = listener.local_addr()?; // port 0 is any port for the first, and this one for the others
        let (stop, stopped) = channel(1);
        stops.push(stop);
        parts.push((listener, stopped));
    }
    let parts = Arc::new(Mutex::new(parts));
    let pool = ExecutorPool::<(u64, u64)>::builder().name("echo").shards(shards).start(move |_| {
        let part = parts.lock().expect("no shard panics here").pop();
        let (listener, stopped) = part.expect("there is one for each shard");
        serve(listener, stopped)
    })?;
    println!("listening on {address} with {shards} shards");
    let signal = LocalExecutor::new()?.block_on(signals.recv())??;
    println!("signal {signal}");
    drop(stops);
    for (shard, counts) in pool.join().into_iter().enumerate() {
        let (connections, bytes) = counts?;
        println!("shard {shard}: {connections} connections, {bytes} bytes");
    }
    Ok(())
}

/// One shard: connections and bytes that it has served. Its connections close with its executor, right after this.
async fn serve(listener: TcpListener, mut stopped: Receiver<()>) -> (u64, u64) {
    let counts = Rc::new(Counts::default());
    let accepting = spawn_local(accept(listener, Rc::clone(&counts)));
    stopped.recv().await; // nothing is ever sent: the main thread drops the other end
    drop(accepting);
    (counts.connections.get(), counts.bytes.get())
}

async fn accept(listener: TcpListener, counts: Rc<Counts>) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                counts.connections.update(|count| count + 1);
                let counts = Rc::clone(&counts);
                if let Ok(connection) = spawn_local(async move { echo(stream, &counts).await }) {
                    connection.detach();
                }
            }
            Err(error) => {
                eprintln!("accept: {error}"); // too many open files, for one: connections that end make room
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// An error ends the connection and nothing else.
async fn echo(stream: TcpStream, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (received, filled) = stream.read(buffer).await;
        let received = received?;
        if received == 0 {
            return Ok(());
        }
        let (sent, part) = stream.write_all(Part::new(filled, 0..received)).await;
        sent?;
        counts.bytes.update(|bytes| bytes + received as u64);
        buffer = part.into_inner();
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<(SocketAddr, usize), Box<dyn Error>> {
    let (mut address, mut shards) = (None, None);
    while let Some(word) = words.next() {
        if word == "--shards" {
            let value = words.next().ok_or("--shards: a number must follow")?;
            let number = value.parse().ok().filter(|number| (1..=1024).contains(number));
            shards = Some(number.ok_or(format!("--shards {value}: must be a whole number from 1 to 1024"))?);
        } else if address.is_none() {
            let parsed = word.parse();
            address = Some(parsed.map_err(|_| format!("ADDRESS {word}: must be IP:PORT, as 127.0.0.1:7000"))?);
        } else {
            return Err(format!("{word}: only ADDRESS and --shards N are expected").into());
        }
    }
    let shards = shards.map_or_else(|| allowed_cpus().map(|cpus| cpus.len()), Ok)?;
    Ok((address.ok_or("ADDRESS is missing: echo ADDRESS [--shards N]")?, shards))
}
