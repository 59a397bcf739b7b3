//! A small NBD server that negotiates as any does, answers requests before [`PLACE`] at once, and treats the others as a test says.
//!
//! It is so for [`FOR_SO_LONG`]: then it answers everybody, so that a test that fails has an end.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::MIB;

/// Where nobody reads by itself: no partition scan, no udev.
pub const PLACE: u64 = 5 * MIB;
pub const SIZE: u64 = 16 * MIB;
/// Longer than the driver leaves an unprivileged server alone.
const FOR_SO_LONG: Duration = Duration::from_secs(45);
/// Longest piece of an answer that is sent at once: what the client takes in one operation.
const PIECE: usize = 512 << 10;

/// What becomes of requests from [`PLACE`] on.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// They are taken, and that is all.
    Silent,
    /// They are answered piece by piece, each after a pause.
    Slow(Duration),
}

/// Connections that were made.
pub struct NbdServer(Arc<AtomicUsize>);

impl NbdServer {
    /// Ends with the process.
    pub fn start(socket: &Path, manner: Manner) -> NbdServer {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let until = Instant::now() + FOR_SO_LONG;
        std::thread::spawn(move || {
            for client in listener.incoming() {
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || serve(&client.unwrap(), manner, until));
            }
        });
        NbdServer(connections)
    }

    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn serve(mut client: &UnixStream, manner: Manner, until: Instant) -> io::Result<()> {
    client.set_read_timeout(Some(FOR_SO_LONG))?; // whoever hears nothing else connects anew
    client.write_all(b"NBDMAGICIHAVEOPT\0\x03")?; // fixed newstyle, no zeroes
    client.read_exact(&mut [0; 4])?;
    negotiate(client)?;
    let mut owes = false;
    while !owes || Instant::now() < until {
        let mut request = [0; 28];
        client.read_exact(&mut request)?;
        let kind = u16::from_be_bytes([request[6], request[7]]);
        let offset = u64::from_be_bytes(request[16..24].try_into().unwrap());
        let length = u32::from_be_bytes(request[24..].try_into().unwrap()) as usize;
        if kind == 1 {
            client.read_exact(&mut vec![0; length])?;
        }
        let data = vec![0; if kind == 0 { length } else { 0 }];
        let header = [&b"\x67\x44\x66\x98\0\0\0\0"[..], &request[8..16]].concat();
        match manner {
            _ if offset < PLACE || Instant::now() > until => client.write_all(&[header, data].concat())?,
            Manner::Silent => owes = true,
            Manner::Slow(pause) => {
                client.write_all(&header)?;
                for piece in data.chunks(PIECE) {
                    std::thread::sleep(pause);
                    client.write_all(piece)?;
                }
            }
        }
    }
    Ok(())
}

/// Answers NBD_OPT_GO, which is all that is asked.
fn negotiate(mut client: &UnixStream) -> io::Result<()> {
    let mut option = [0; 16];
    client.read_exact(&mut option)?;
    let length = u32::from_be_bytes(option[12..].try_into().unwrap());
    client.read_exact(&mut vec![0; length as usize])?;
    let has_flags: u16 = 1;
    let export = [&[0, 0][..], &SIZE.to_be_bytes(), &has_flags.to_be_bytes()].concat();
    for (kind, data) in [(3_u32, &export[..]), (1, &[])] {
        client.write_all(&0x0003_e889_0455_65a9_u64.to_be_bytes())?;
        client.write_all(&option[8..12])?;
        client.write_all(&kind.to_be_bytes())?;
        client.write_all(&(data.len() as u32).to_be_bytes())?;
        client.write_all(data)?;
    }
    Ok(())
}
