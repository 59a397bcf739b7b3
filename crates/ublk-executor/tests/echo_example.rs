//! The example `echo`, as a process: it serves on all shards, and ends cleanly on a signal.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;
const BYTES: usize = 300_000;

/// `cargo test` builds it beside the tests; with `--test` `cargo build --examples` comes first.
fn command() -> Command {
    let test = std::env::current_exe().unwrap();
    let example: PathBuf = test.ancestors().nth(2).unwrap().join("examples/echo");
    assert!(example.exists(), "{} is not there: cargo build --examples", example.display());
    Command::new(example)
}

/// The server, which does not survive its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// With two shards on a free port: it, the lines that it prints, and its address.
    fn start() -> (Server, mpsc::Receiver<String>, SocketAddr) {
        let mut command = command();
        command.args(["127.0.0.1:0", "--shards", "2"]).stdout(Stdio::piped());
        let mut server = Server(command.spawn().unwrap());
        let output = BufReader::new(server.0.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let line = lines.recv_timeout(LIMIT).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!([words[0], words[1], words[3], words[4], words[5]], ["listening", "on", "with", "2", "shards"]);
        let address = words[2].parse().unwrap();
        (server, lines, address)
    }

    /// What it prints after a signal, when it has ended well.
    fn end(mut self, signal: i32, lines: &mpsc::Receiver<String>) -> Vec<String> {
        let process = rustix::process::Pid::from_child(&self.0);
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(process, signal).unwrap();
        let deadline = Instant::now() + LIMIT;
        let mut printed = Vec::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => printed.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the server did not end: {printed:?}"),
            }
        }
        assert!(self.0.wait().unwrap().success(), "{printed:?}");
        printed
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn check_echo(address: SocketAddr, seed: usize) {
    let sent: Vec<u8> = (0..BYTES).map(|index| (index * 31 + index / 256 + seed) as u8).collect();
    let mut stream = connect(address);
    let mut writing = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            writing.write_all(&sent).unwrap();
            writing.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == sent, "client {seed}: {} bytes", received.len());
    });
}

/// Connections and bytes of "shard 0: 3 connections, 900 bytes".
fn counts(line: &str) -> (usize, usize) {
    let numbers: Vec<usize> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.len(), 2, "{line}");
    (numbers[0], numbers[1])
}

#[test]
fn eight_clients_get_back_what_they_sent_and_a_signal_ends_all_shards() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (server, lines, address) = Server::start();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || check_echo(address, client));
            }
        });
        // One that is still open when the server ends: served once, so that it is no longer waiting to be accepted.
        let mut open = connect(address);
        open.write_all(b"!").unwrap();
        open.read_exact(&mut [0]).unwrap();
        let printed = server.end(signal, &lines);
        assert_eq!(printed[0], format!("signal {signal}"));
        let shards: Vec<(usize, usize)> = printed[1..].iter().map(|line| counts(line)).collect();
        assert_eq!(shards.len(), 2, "{printed:?}");
        let (connections, bytes) = shards.iter().fold((0, 0), |sum, shard| (sum.0 + shard.0, sum.1 + shard.1));
        assert_eq!((connections, bytes), (CLIENTS + 1, CLIENTS * BYTES + 1), "{printed:?}");
        assert_eq!(open.read(&mut [0]).unwrap(), 0, "the open connection was not closed in order");
    }
}

fn refused(words: &[&str]) -> String {
    let Output { status, stderr, .. } = command().args(words).output().unwrap();
    assert_eq!(status.code(), Some(1), "{words:?}");
    String::from_utf8(stderr).unwrap().trim_end().to_owned()
}

#[test]
fn errors_name_the_value_and_the_rule() {
    assert_eq!(refused(&[]), "echo: ADDRESS is missing: echo ADDRESS [--shards N]");
    assert_eq!(refused(&["localhost"]), "echo: ADDRESS localhost: must be IP:PORT, as 127.0.0.1:7000");
    assert_eq!(refused(&["[::1]:1", "x"]), "echo: x: only ADDRESS and --shards N are expected");
    assert_eq!(refused(&["[::1]:1", "--shards"]), "echo: --shards: a number must follow");
    for value in ["0", "-1", "1025", "two"] {
        let rule = format!("echo: --shards {value}: must be a whole number from 1 to 1024");
        assert_eq!(refused(&["[::1]:1", "--shards", value]), rule);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(refused(&[&address]).starts_with(&format!("echo: listen on {address}: Address already in use")));
}
