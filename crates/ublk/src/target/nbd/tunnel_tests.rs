//! The handshake and the tunnel against a TLS server in this process: what a real one does seldom, and what is on the wire.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls::{ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion, version};

use super::socket::Socket;
use super::tls::{first_answer, handshake};
use super::tunnel::Tunnel;
use super::{Failure, NbdAddress, NbdTls};

#[path = "../../../tests/common/certificates.rs"]
mod certificates;
use certificates::Certificates;

impl Certificates {
    fn trusting(&self, directory: &str) -> NbdTls {
        NbdTls { certificates: Some(self.path(directory)), ..NbdTls::default() }
    }

    fn client(&self) -> ClientConnection {
        self.trusting("client").client(&NbdAddress::Unix { path: PathBuf::new() }).unwrap()
    }

    fn server(&self, wants_client: bool, version: &'static SupportedProtocolVersion) -> ServerConnection {
        let certificate = |name: &str| CertificateDer::from_pem_file(self.path(name)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(certificate("ca-cert.pem")).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(self.path("server/server-key.pem")).unwrap();
        let config = builder.with_single_cert(vec![certificate("server/server-cert.pem")], key).unwrap();
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    /// What a client of these options thinks of the server, when it has read a byte.
    fn opinion(&self, tls: &NbdTls, host: &str, wants_client: bool) -> Result<(), Failure> {
        let client = tls.client(&NbdAddress::Tcp { host: host.into(), port: 0 })?;
        let server = self.server(wants_client, &version::TLS13);
        let (near, far) = Socket::pair()?;
        let served = thread::spawn(move || {
            let mut session = StreamOwned::new(server, far);
            session.write_all(b"!").and_then(|()| session.flush())
        });
        let outcome = handshake(client, near)
            .and_then(|mut session| first_answer(session.read_exact(&mut [0]).map_err(Failure::from)));
        let _ = served.join().unwrap();
        outcome
    }
}

/// A tunnel to a server that does `serve`.
fn tunnel_to(
    version: &'static SupportedProtocolVersion,
    serve: impl FnOnce(StreamOwned<ServerConnection, Socket>) + Send + 'static,
) -> (Socket, Tunnel, thread::JoinHandle<()>) {
    let certificates = Certificates::make();
    let (near, far) = Socket::pair().unwrap();
    let server = certificates.server(false, version);
    let served = thread::spawn(move || serve(StreamOwned::new(server, far)));
    let (queue, tunnel) = Tunnel::through(handshake(certificates.client(), near).unwrap()).unwrap();
    (queue, tunnel, served)
}

fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes).map(|place| (place as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

#[test]
fn only_the_right_server_is_believed() {
    let certificates = Certificates::make();
    let trusting = |directory| certificates.trusting(directory);
    let opinion = |tls: &NbdTls, host| certificates.opinion(tls, host, false);
    let named = |name: &str| NbdTls { server_name: Some(name.into()), ..trusting("client") };
    opinion(&trusting("client"), "localhost").unwrap();
    opinion(&trusting("client"), "127.0.0.1").unwrap();
    opinion(&named("localhost"), "elsewhere").unwrap();
    opinion(&NbdTls { verify_peer: false, ..trusting("stranger") }, "elsewhere").unwrap();
    let by_file = NbdTls { ca: Some(certificates.path("ca-cert.pem")), ..trusting("stranger") };
    opinion(&by_file, "localhost").unwrap();
    for (tls, host, problem) in [
        (trusting("stranger"), "localhost", "its certificate is from no authority that is trusted here"),
        (NbdTls::default(), "localhost", "its certificate is from no authority that is trusted here"),
        (trusting("client"), "elsewhere", "its certificate is for another name"),
        (trusting("client"), "127.0.0.2", "its certificate is for another name"),
        (named("elsewhere"), "localhost", "its certificate is for another name"),
        (trusting("revoked"), "localhost", "its certificate has been revoked"),
        (trusting("nowhere"), "localhost", "nowhere/ca-cert.pem: No such file or directory"),
        (NbdTls { ca: Some("/dev/null".into()), ..trusting("client") }, "localhost", "/dev/null: it has no such thing"),
        (named("local host"), "localhost", "cannot be for the name \"local host\""),
    ] {
        let refusal = opinion(&tls, host).unwrap_err();
        assert!(matches!(&refusal, Failure::Tls { problem: told, .. } if told.contains(problem)), "{host}: {refusal}");
    }
}

#[test]
fn a_server_that_wants_to_know_its_client_is_shown_a_certificate() {
    let certificates = Certificates::make();
    certificates.opinion(&certificates.trusting("client"), "localhost", true).unwrap();
    let anonymous = NbdTls { ca: Some(certificates.path("ca-cert.pem")), ..NbdTls::default() };
    let refusal = certificates.opinion(&anonymous, "localhost", true).unwrap_err();
    let what = "it does not take this client's certificate, or wants one";
    assert!(matches!(&refusal, Failure::Tls { problem, .. } if problem.starts_with(what)), "{refusal}");
}

#[test]
fn bytes_arrive_as_they_were_sent_both_ways_at_once_and_through_new_keys() {
    for version in [&version::TLS12, &version::TLS13] {
        // An echo: what it has not sent back yet keeps it from reading more.
        let (queue, tunnel, served) = tunnel_to(version, |mut session| {
            let mut room = vec![0; 100_000];
            for round in 0.. {
                let Ok(bytes @ 1..) = session.read(&mut room) else { return };
                session.write_all(&room[..bytes]).unwrap();
                if round % 16 == 3 && session.conn.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
                    session.conn.refresh_traffic_keys().unwrap();
                }
            }
        });
        const BYTES: usize = 8 << 20;
        let mut sender = Socket::from(rustix::io::dup(&queue).unwrap());
        let sending = thread::spawn(move || sender.write_all(&pattern(0, BYTES)).unwrap());
        let mut queue = queue;
        let mut received = 0;
        while received < BYTES {
            let mut data = vec![0; 1 << 20];
            queue.read_exact(&mut data).unwrap();
            assert!(data == pattern(received, data.len()), "{version:?}: wrong behind {received}");
            received += data.len();
            thread::sleep(Duration::from_millis(5)); // so that all buffers are full at times
        }
        sending.join().unwrap();
        assert_eq!(tunnel.end(), None);
        queue.hang_up();
        drop(tunnel);
        served.join().unwrap();
    }
}

/// Passes on what it hears, and keeps it; one byte in `wrong_at` is changed.
fn wiretap(mut from: Socket, mut to: Socket, heard: &Mutex<Vec<u8>>, wrong_at: Option<usize>) {
    let mut room = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut room) {
        let mut heard = heard.lock().unwrap();
        if let Some(place) = wrong_at.and_then(|at| at.checked_sub(heard.len())).filter(|&place| place < bytes) {
            room[place] ^= 1;
        }
        heard.extend_from_slice(&room[..bytes]);
        if to.write_all(&room[..bytes]).is_err() {
            break;
        }
    }
    to.hang_up();
}

#[test]
fn what_is_changed_on_the_way_ends_the_connection_and_nothing_of_it_arrives() {
    let (near, tap) = Socket::pair().unwrap();
    let (far_tap, far) = Socket::pair().unwrap();
    let (heard, dup) =
        (Arc::new(Mutex::new(Vec::new())), |socket: &Socket| Socket::from(rustix::io::dup(socket).unwrap()));
    let (to_server, from_client) = (dup(&far_tap), dup(&tap));
    let quiet = Mutex::new(Vec::new());
    thread::spawn(move || wiretap(from_client, to_server, &quiet, None));
    let of_tap = Arc::clone(&heard);
    thread::spawn(move || wiretap(far_tap, tap, &of_tap, Some(20_000)));
    let certificates = Certificates::make();
    let server = certificates.server(false, &version::TLS13);
    let served = thread::spawn(move || {
        let mut session = StreamOwned::new(server, far);
        let _ = session.write_all(&[b'x'; 1 << 20]).and_then(|()| session.flush());
    });
    let (mut queue, tunnel) = Tunnel::through(handshake(certificates.client(), near).unwrap()).unwrap();
    let mut arrived = Vec::new();
    let _ = queue.read_to_end(&mut arrived);
    assert!(arrived.len() < 20_000 && arrived.iter().all(|&byte| byte == b'x'), "{} bytes", arrived.len());
    assert_eq!(tunnel.end(), Some("TLS failed (cannot decrypt peer's message)"));
    assert!(!heard.lock().unwrap().windows(16).any(|window| window == [b'x'; 16]), "it was sent in the clear");
    drop(queue);
    drop(tunnel);
    served.join().unwrap();
}

#[test]
fn a_server_that_hangs_up_is_told_from_one_that_is_left() {
    let (mut queue, tunnel, served) = tunnel_to(&version::TLS13, |mut session| {
        session.read_exact(&mut [0]).unwrap();
    });
    queue.write_all(b"?").unwrap();
    assert_eq!(queue.read(&mut [0]).unwrap(), 0);
    assert_eq!(tunnel.end(), Some("the server hung up"));
    drop(tunnel);
    served.join().unwrap();
    // Left, with requests on their way that the server does not read: the thread ends all the same.
    let (left, wait_until_left) = mpsc::channel();
    let (mut queue, tunnel, served) = tunnel_to(&version::TLS13, move |mut session| {
        session.read_exact(&mut [0]).unwrap();
        wait_until_left.recv().unwrap();
    });
    queue.set_limit(Some(Duration::from_millis(100))).unwrap();
    let stuck = queue.write_all(&vec![7; 16 << 20]).unwrap_err();
    assert_eq!(stuck.kind(), io::ErrorKind::WouldBlock);
    queue.hang_up();
    drop(tunnel);
    left.send(()).unwrap();
    served.join().unwrap();
}
