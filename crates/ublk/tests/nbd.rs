//! The target `nbd` against nbdkit, behind real block devices. Needs a kernel with ublk, root and nbdkit: `make test-vm` runs these.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::io::{IoSliceMut, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certificates::Certificates;
use common::nbd_server::{Manner, NbdServer, PLACE};
use common::{Live, MIB, page, spec_for};
use rustix::process::{Pid, Signal, kill_process};
use ublk::target::{Faults, NbdAddress, NbdOptions, NbdTls, fault, nbd};
use ublk::{DeviceSpec, Error, Recovery};

/// A running nbdkit. Dropping it kills it.
struct Server(Child);

impl Server {
    /// `arguments` are filters, the plugin and its settings. Returns when it listens.
    fn start(socket: &Path, arguments: &[&str]) -> Server {
        let _ = std::fs::remove_file(socket);
        let server = Server::spawn(&["-U", socket.to_str().unwrap()], arguments);
        wait_until("nbdkit listens", || UnixStream::connect(socket).is_ok());
        server
    }

    fn spawn(place: &[&str], arguments: &[&str]) -> Server {
        let mut command = Command::new("nbdkit");
        command.arg("--foreground").args(place).args(arguments).stderr(Stdio::null());
        Server(command.spawn().expect("nbdkit is there"))
    }

    /// Takes what its sockets hold, and does nothing.
    fn stop(&self) -> Stopped {
        let server = Pid::from_child(&self.0);
        kill_process(server, Signal::STOP).unwrap();
        let stopped = Stopped(server);
        // Not before each of its threads has seen the signal: one could take a request until then.
        wait_until("nbdkit is stopped", || thread_states(server).iter().all(|state| state == "T"));
        stopped
    }
}

fn thread_states(process: Pid) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.filter_map(|stat| Some(stat.rsplit_once(") ")?.1.split(' ').next()?.to_owned())).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that goes on when this is dropped.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ublk-nbd-{name}-{}.sock", std::process::id()))
}

fn over(socket: &Path) -> NbdOptions {
    NbdOptions {
        address: NbdAddress::Unix { path: socket.to_owned() },
        export: String::new(),
        read_only: false,
        size_bytes: None,
        block_bytes: None,
        patience: Duration::from_secs(20),
        request_timeout: None,
        deadline: None,
        tls: None,
    }
}

/// Writes blocks from several threads, each its own, and reads them among all the others, until told to stop; then every block must hold
/// its last write.
fn write_from_threads(live: &Live, blocks: u64, meanwhile: impl FnOnce()) -> usize {
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8_u64)
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || {
                    let device = live.open();
                    let mut last = std::collections::HashMap::new();
                    let mut number = writer;
                    while !stop.load(Ordering::Relaxed) {
                        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let block = (number >> 33) % (blocks / 8) * 8 + writer;
                        device.write_all_at(&page(number as u8).0, block * 4096).unwrap();
                        let mut data = page(0);
                        device.read_exact_at(&mut data.0, block * 4096).unwrap();
                        assert!(data.0 == [number as u8; 4096], "block {block} was read as another one");
                        last.insert(block, number as u8);
                    }
                    last
                })
            })
            .collect();
        meanwhile();
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    for (block, fill) in &written {
        assert!(live.read(block * 4096).0 == [*fill; 4096], "block {block}");
    }
    written.len()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_export_keeps_what_many_requests_at_once_write() {
    let socket = socket("data");
    let _server = Server::start(&socket, &["memory", "16M"]);
    let target = nbd(over(&socket)).unwrap();
    let geometry = target.geometry();
    assert_eq!(geometry.size_bytes, 16 * MIB);
    assert!(
        geometry.volatile_cache && geometry.fua && geometry.discard && geometry.write_zeroes && !geometry.read_only
    );
    // nbdkit's memory allows several connections: a queue each.
    let spec = DeviceSpec { queues: 2, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    assert!(write_from_threads(&live, 16 * MIB / 4096, || std::thread::sleep(Duration::from_secs(2))) > 0);
    live.open().sync_all().unwrap();
    // A request as long as the device takes.
    let data = "x".repeat(2 << 20);
    common::run_with_input(
        &["dd", &format!("of={}", live.path()), "bs=512k", "iflag=fullblock", "oflag=direct", "status=none"],
        &data,
    );
    assert!(live.read(2 * MIB - 4096).0 == [b'x'; 4096]);
    let status = Command::new("blkdiscard").args(["--zeroout", "-l", "1048576", &live.path()]).status().unwrap();
    assert!(status.success());
    assert!(live.read(0).0 == [0; 4096] && live.read(MIB).0 == [b'x'; 4096]);
    let status = Command::new("blkdiscard").args(["-o", "1048576", "-l", "1048576", &live.path()]).status().unwrap();
    assert!(status.success());
    assert!(live.read(MIB).0 == [0; 4096]);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_that_is_killed_under_load_and_started_again_costs_no_request() {
    kill_and_start_again(&[], None, 3);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_tls_server_that_is_killed_under_load_and_started_again_costs_no_request() {
    let certificates = Certificates::make();
    let of_server = tls_of_server(&certificates);
    kill_and_start_again(&of_server.each_ref().map(String::as_str), Some(trusting(&certificates, "client")), 1);
}

fn kill_and_start_again(of_server: &[&str], tls: Option<NbdTls>, rounds: usize) {
    let (socket, image) = (socket("restart"), std::env::temp_dir().join("ublk-nbd-restart.img"));
    std::fs::write(&image, vec![0; 8 << 20]).unwrap();
    let arguments = [of_server, &["file", image.to_str().unwrap()]].concat();
    let mut server = Some(Server::start(&socket, &arguments));
    let live = Live::new(nbd(NbdOptions { tls, ..over(&socket) }).unwrap());
    write_from_threads(&live, 8 * MIB / 4096, || {
        for round in 1..=rounds {
            std::thread::sleep(Duration::from_millis(300));
            drop(server.take());
            std::thread::sleep(Duration::from_millis(300));
            server = Some(Server::start(&socket, &arguments));
            let connections = || live.warnings().iter().filter(|text| text.contains("new connection")).count();
            wait_until("there is a new connection", || connections() == round);
        }
        std::thread::sleep(Duration::from_millis(300));
    });
    let warnings = live.warnings();
    assert_eq!(warnings.iter().filter(|text| text.contains("is lost")).count(), rounds, "{warnings:?}");
    assert_eq!(warnings.iter().filter(|text| text.contains("new connection")).count(), rounds, "{warnings:?}");
    drop(live);
    std::fs::remove_file(&image).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn requests_fail_when_a_server_stays_away_and_not_when_it_is_back() {
    let (socket, image) = (socket("patience"), std::env::temp_dir().join("ublk-nbd-patience.img"));
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let arguments = ["file", image.to_str().unwrap()];
    let server = Server::start(&socket, &arguments);
    let patience = Duration::from_millis(500);
    let live = Live::new(nbd(NbdOptions { patience, ..over(&socket) }).unwrap());
    live.write(0, 1);
    drop(server);
    let device = live.open();
    let begin = Instant::now();
    let error = device.write_all_at(&page(2).0, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!((patience..patience * 20).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    let begin = Instant::now();
    device.write_all_at(&page(2).0, 0).unwrap_err();
    assert!(begin.elapsed() < patience, "patience was at its end already");
    let server = Server::start(&socket, &arguments);
    wait_until("writes succeed again", || device.write_all_at(&page(3).0, 0).is_ok());
    assert!(live.read(0).0 == [3; 4096]);
    drop(server);
    let _smaller = Server::start(&socket, &["memory", "512K"]);
    device.write_all_at(&page(4).0, 0).unwrap_err();
    let told: Vec<_> = live.warnings().into_iter().filter(|text| text.contains("after 0.5 s")).collect();
    let why = ["(Connection refused)", "(the export has another size, or can do less)"];
    assert!(told.len() == 2 && why.iter().zip(&told).all(|(why, text)| text.contains(why)), "{told:?}");
    drop(live);
    std::fs::remove_file(&image).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_that_falls_silent_loses_its_connection_and_no_request() {
    let socket = socket("stopped");
    let server = Server::start(&socket, &["memory", "4M"]);
    falls_silent(&server, over(&socket));
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_over_tcp_that_falls_silent_loses_its_connection_and_no_request() {
    falls_silent_over_tcp(10811, &[], None);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_over_tls_that_falls_silent_loses_its_connection_and_no_request() {
    let certificates = Certificates::make();
    let of_server = tls_of_server(&certificates);
    falls_silent_over_tcp(10812, &of_server.each_ref().map(String::as_str), Some(trusting(&certificates, "client")));
}

fn falls_silent_over_tcp(port: u16, of_server: &[&str], tls: Option<NbdTls>) {
    let arguments = [of_server, &["memory", "4M"]].concat();
    let server = Server::spawn(&["-i", "127.0.0.1", "-p", &port.to_string()], &arguments);
    wait_until("nbdkit listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let address = NbdAddress::Tcp { host: "127.0.0.1".into(), port };
    falls_silent(&server, NbdOptions { address, tls, ..over(Path::new("")) });
}

fn falls_silent(server: &Server, options: NbdOptions) {
    let limit = Duration::from_millis(500);
    let live = Live::new(nbd(NbdOptions { request_timeout: Some(limit), ..options }).unwrap());
    live.write(0, 1);
    std::thread::sleep(limit * 2); // nobody waits, so nothing is missed
    live.write(0, 1);
    assert!(live.warnings().is_empty(), "{:?}", live.warnings());
    std::thread::scope(|scope| {
        let begin = Instant::now();
        let _stopped = server.stop();
        let writer = scope.spawn(|| live.write(0, 2));
        wait_until("the connection is lost", || !live.warnings().is_empty());
        // Of the limit itself watch.rs has a test; here udev may have read something just before.
        assert!(begin.elapsed() >= limit / 2 && !writer.is_finished(), "{:?}", begin.elapsed());
    });
    assert!(live.read(0).0 == [2; 4096]);
    let warnings = live.warnings();
    assert!(warnings[0].contains("is lost (a request had no answer after 0.5 s)"), "{warnings:?}");
    assert!(warnings.len() == 2 && warnings[1].contains("new connection"), "{warnings:?}");
    drop(live);
    assert_eq!(threads("ublk-nbd-watch"), 0);
}

/// A device of the small server of these tests.
fn of_small_server(name: &str, manner: Manner, options: NbdOptions) -> (NbdServer, Live) {
    let socket = socket(name);
    let server = NbdServer::start(&socket, manner);
    let address = NbdAddress::Unix { path: socket };
    let target = nbd(NbdOptions { address, ..options }).unwrap();
    let spec = DeviceSpec { max_io_bytes: 2 * MIB as u32, ..spec_for(target.as_ref()) };
    (server, Live::with(target, spec))
}

/// Reads 2 MiB at [`PLACE`]: how long that took, and errno if it failed.
fn read_at_place(live: &Live) -> (Duration, Option<i32>) {
    let mut device = live.open();
    device.seek(SeekFrom::Start(PLACE)).unwrap();
    let mut pages = vec![*page(1); 512];
    let mut slices: Vec<_> = pages.iter_mut().map(|page| IoSliceMut::new(&mut page.0)).collect();
    let begin = Instant::now();
    let read = device.read_vectored(&mut slices);
    assert!(read.as_ref().is_ok_and(|&bytes| bytes as u64 == 2 * MIB) || read.is_err(), "{read:?}");
    (begin.elapsed(), read.err().and_then(|error| error.raw_os_error()))
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_request_that_no_connection_gets_an_answer_to_fails_and_others_do_not() {
    let limit = Duration::from_millis(500);
    let options = NbdOptions { request_timeout: Some(limit), patience: limit, ..over(Path::new("")) };
    let (server, live) = of_small_server("silent", Manner::Silent, options);
    let (time, error) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_at_place(&live));
        // The answers to these do not stand for the one that is missing.
        while !reader.is_finished() {
            live.read(0);
        }
        reader.join().unwrap()
    });
    assert!(error == Some(libc::EIO));
    assert!((limit * 2..limit * 10).contains(&time), "it was sent, and sent again: {time:?}");
    assert!(server.connections() >= 2);
    let warnings = live.warnings();
    assert!(warnings.iter().any(|text| text.contains("no answer of")), "{warnings:?}");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_answer_that_comes_slowly_is_waited_for_by_all() {
    let limit = Duration::from_secs(1);
    let options = NbdOptions { request_timeout: Some(limit), ..over(Path::new("")) };
    let (server, live) = of_small_server("slow", Manner::Slow(limit * 2 / 3), options);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_at_place(&live));
        std::thread::sleep(limit / 2);
        live.read(0);
        let (time, error) = reader.join().unwrap();
        assert!(time >= limit * 2 && error.is_none(), "{time:?} {error:?}");
    });
    assert!(server.connections() == 1 && live.warnings().is_empty(), "{:?}", live.warnings());
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_deadline_ends_also_what_comes_slowly() {
    let limit = Duration::from_secs(2);
    let options = NbdOptions { request_timeout: Some(limit), deadline: Some(limit), ..over(Path::new("")) };
    let (_server, live) = of_small_server("deadline", Manner::Slow(limit / 2), options);
    let (time, error) = read_at_place(&live);
    assert!(error == Some(libc::EIO));
    assert!((limit / 2..limit * 5 / 4).contains(&time), "{time:?}");
    live.read(0);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_of_one_connection_serves_one_queue() {
    let socket = socket("single");
    let _server = Server::start(&socket, &["--filter=multi-conn", "memory", "4M", "multi-conn-mode=disable"]);
    let target = nbd(over(&socket)).unwrap();
    let spec = DeviceSpec { queues: 2, ..spec_for(target.as_ref()) };
    let control = ublk::Control::open().unwrap();
    let mut device = ublk::Device::add(&control, spec).unwrap();
    let refused = ublk::spawn_target(&mut device, Arc::clone(&target), Arc::new(|_| {})).err().unwrap();
    assert!(matches!(&refused, Error::Nbd { problem, .. } if problem.contains("one queue")), "{refused}");
    device.delete().unwrap();
    let live = Live::new(target);
    live.write(0, 7);
    assert!(live.read(0).0 == [7; 4096]);
}

/// Regression: only a connection that was made again was looked at. The device would have had less behind it than it promises.
#[test]
#[ignore = "needs a ublk kernel"]
fn an_export_that_became_less_is_refused_by_further_queues_and_by_the_next_start() {
    let socket = socket("less");
    let same = ["memory", "4M"];
    for less in [&["memory", "2M"][..], &["-r", "memory", "4M"]] {
        let is_refused = |device: &mut ublk::Device, target: &Arc<dyn ublk::Target>| {
            let refused = ublk::spawn_target(device, Arc::clone(target), Arc::new(|_| {})).err().expect("refused");
            let why = "the export has another size, or can do less";
            assert!(matches!(&refused, Error::Nbd { problem, .. } if problem == why), "{less:?}: {refused}");
        };
        let server = Server::start(&socket, &same);
        let target = nbd(over(&socket)).unwrap();
        drop(server);
        let server = Server::start(&socket, less);
        let spec = DeviceSpec { queues: 2, ..spec_for(target.as_ref()) };
        let mut device = ublk::Device::add(&ublk::Control::open().unwrap(), spec).unwrap();
        is_refused(&mut device, &target); // the first queue has the connection from before
        device.delete().unwrap();
        drop(server);

        let server = Server::start(&socket, &same);
        let mut live = Live::new(nbd(over(&socket)).unwrap());
        live.write(0, 7);
        live.stop();
        drop(server);
        let server = Server::start(&socket, less);
        let target = Arc::clone(&live.target);
        is_refused(&mut live.device, &target);
        live.device.close_char();
        drop(server);
        let _server = Server::start(&socket, &same);
        live.start();
        assert!(live.read(0).0 == [0; 4096], "it is another memory");
        drop(live); // while there is a server
    }
}

/// How often each word is in a log.
fn counts<const N: usize>(log: &Path, words: [&str; N]) -> [usize; N] {
    let text = std::fs::read_to_string(log).unwrap();
    words.map(|word| text.matches(word).count())
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_without_fua_gets_a_flush_behind_each_durable_write() {
    let (socket, log) = (socket("fua"), std::env::temp_dir().join("ublk-nbd-fua.log"));
    let logfile = format!("logfile={}", log.display());
    let filters = ["--filter=log", "--filter=fua", "memory", "8M", &logfile];
    // Without a mode the filter hides FUA; the one before it hears what the client says.
    let _server = Server::start(&socket, &filters);
    let target = nbd(over(&socket)).unwrap();
    assert!(target.geometry().volatile_cache && target.geometry().fua);
    let spec = DeviceSpec { recovery: Recovery::Reissue, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    live.write(0, 1);
    let asked = counts(&log, [" Write id=", " Flush id="]);
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let device = std::fs::File::options().read(true).write(true).custom_flags(flags).open(live.path()).unwrap();
    for round in 0..20 {
        device.write_all_at(&page(round).0, u64::from(round) * 4096).unwrap();
    }
    let now = counts(&log, [" Write id=", " Flush id="]);
    // Linux flushes once more behind a write with O_DSYNC, also when it had FUA.
    assert_eq!([now[0] - asked[0], now[1] - asked[1]], [20, 40]);
    assert_eq!(counts(&log, ["fua=1"]), [0]);
    assert!((0..20_u8).all(|round| live.read(u64::from(round) * 4096).0 == [round; 4096]));

    // Its stop would never end if a durable write was two requests (`check_recovery`).
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4_u64 {
            let (device, stop) = (&device, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && device.write_all_at(&page(9).0, writer * MIB).is_ok() {}
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        let stopped = live.device.control().stop_within(live.device.id(), Duration::from_secs(10));
        stop.store(true, Ordering::Relaxed);
        stopped.unwrap();
    });
    drop(live);
    std::fs::remove_file(&log).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn an_export_that_is_only_read_and_errors_of_the_server_are_passed_on() {
    let socket = socket("errors");
    {
        let _server = Server::start(&socket, &["-r", "memory", "4M"]);
        let live = Live::new(nbd(over(&socket)).unwrap());
        assert!(live.device.granted().read_only);
        let file = std::fs::File::open(live.path()).unwrap();
        let mut data = [1; 4096];
        file.read_exact_at(&mut data, 0).unwrap();
        assert!(data == [0; 4096]);
    }
    let filter = ["--filter=error", "memory", "4M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"];
    let _server = Server::start(&socket, &filter);
    let live = Live::new(nbd(over(&socket)).unwrap());
    let error = live.open().write_all_at(&page(1).0, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    live.read(0);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn what_cannot_be_connected_to_is_told() {
    let refused = |options| nbd(options).err().expect("refused").to_string();
    let nowhere = socket("nowhere");
    assert!(refused(over(&nowhere)).ends_with("No such file or directory"));
    let address = NbdAddress::Tcp { host: "127.0.0.1".into(), port: 1 };
    assert!(refused(NbdOptions { address, ..over(&nowhere) }).ends_with("127.0.0.1:1: Connection refused"));
    let socket = socket("exports");
    let _server =
        Server::start(&socket, &["--filter=exportname", "memory", "4M", "exportname=disk", "exportname-strict=true"]);
    let text = refused(NbdOptions { export: "tape".into(), ..over(&socket) });
    assert!(text.contains("it has no export \"tape\""), "{text}");
    let text = refused(NbdOptions { export: "disk".into(), size_bytes: Some(8 * MIB), ..over(&socket) });
    assert!(text.contains("has 4194304 bytes, too few"), "{text}");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn faults_lie_over_an_export_too_and_tcp_carries_it() {
    let _server = Server::spawn(&["-i", "127.0.0.1", "-p", "10809"], &["memory", "4M"]);
    wait_until("nbdkit listens", || std::net::TcpStream::connect("127.0.0.1:10809").is_ok());
    let address = NbdAddress::Tcp { host: "127.0.0.1".into(), port: 10809 };
    let below = nbd(NbdOptions { address, ..over(Path::new("")) }).unwrap();
    let live =
        Live::new(fault(below, Faults { torn_write_rate: 1.0, delay: Duration::from_millis(20), ..Faults::default() }));
    let mut lengths = std::collections::HashSet::new();
    for round in 0..20_u64 {
        let begin = Instant::now();
        live.open().write_all_at(&page(0xee).0, round * 4096).unwrap_err();
        assert!(begin.elapsed() >= Duration::from_millis(20));
        lengths.insert(live.read(round * 4096).0.iter().filter(|&&byte| byte == 0xee).count());
    }
    assert!(lengths.len() > 4 && !lengths.contains(&4096), "{lengths:?}");
}

/// nbdkit's options: nothing without TLS, nothing for clients without a certificate.
fn tls_of_server(certificates: &Certificates) -> [String; 3] {
    let directory = certificates.path("server");
    ["--tls=require".into(), format!("--tls-certificates={}", directory.display()), "--tls-verify-peer".into()]
}

fn trusting(certificates: &Certificates, directory: &str) -> NbdTls {
    NbdTls { certificates: Some(certificates.path(directory)), ..NbdTls::default() }
}

/// Stands before a server on a port of its own and keeps all that goes through.
struct Wiretap {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<usize>>,
}

impl Wiretap {
    fn before(server: u16) -> Wiretap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (of_thread, counter) = (Arc::clone(&heard), Arc::clone(&connections));
        // Ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
                *counter.lock().unwrap() += 1;
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let heard = Arc::clone(&of_thread);
                    std::thread::spawn(move || Wiretap::pass(from, to, &heard));
                }
            }
        });
        Wiretap { port, heard, connections }
    }

    fn pass(mut from: TcpStream, mut to: TcpStream, heard: &Mutex<Vec<u8>>) {
        let mut room = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = from.read(&mut room) {
            heard.lock().unwrap().extend_from_slice(&room[..bytes]);
            if to.write_all(&room[..bytes]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn has_heard(&self, what: &[u8]) -> bool {
        self.heard.lock().unwrap().windows(what.len()).any(|window| window == what)
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn over_tls_data_is_kept_and_nobody_on_the_way_can_read_it() {
    let certificates = Certificates::make();
    let of_server = tls_of_server(&certificates);
    let place = ["-i", "127.0.0.1", "-p", "10810"];
    let arguments = [&of_server.each_ref().map(String::as_str)[..], &["memory", "16M"]].concat();
    let _server = Server::spawn(&place, &arguments);
    wait_until("nbdkit listens", || TcpStream::connect("127.0.0.1:10810").is_ok());
    let wiretap = Wiretap::before(10810);
    let address = NbdAddress::Tcp { host: "127.0.0.1".into(), port: wiretap.port };
    let tls = Some(trusting(&certificates, "client"));
    let target = nbd(NbdOptions { address, tls, ..over(Path::new("")) }).unwrap();
    // A queue each on two connections.
    let spec = DeviceSpec { queues: 2, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    assert_eq!(*wiretap.connections.lock().unwrap(), 2);
    assert!(write_from_threads(&live, 16 * MIB / 4096, || std::thread::sleep(Duration::from_millis(500))) > 0);
    wiretap.heard.lock().unwrap().clear();
    let secret = "nobody may know this but the two ";
    common::run_with_input(
        &["dd", &format!("of={}", live.path()), "bs=512k", "iflag=fullblock", "oflag=direct", "status=none"],
        &secret.repeat(1 << 15),
    );
    assert!(live.read(0).0.starts_with(secret.as_bytes()));
    assert!(wiretap.heard.lock().unwrap().len() > 1 << 20, "all of it goes through the wiretap");
    assert!(!wiretap.has_heard(&secret.as_bytes()[..16]), "the data is on the wire");
    assert!(live.warnings().is_empty(), "{:?}", live.warnings());
    drop(live);
    assert_eq!(threads("ublk-nbd-tls"), 0);
}

fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|of_task| of_task.trim() == name).count()
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_server_is_refused_that_is_not_the_one_or_that_wants_tls_otherwise() {
    let certificates = Certificates::make();
    let (with_tls, without) = (socket("with-tls"), socket("without-tls"));
    let of_server = tls_of_server(&certificates);
    let arguments = [&of_server.each_ref().map(String::as_str)[..], &["memory", "4M"]].concat();
    let _with = Server::start(&with_tls, &arguments);
    let _without = Server::start(&without, &["memory", "4M"]);
    let client = trusting(&certificates, "client");
    let anonymous = NbdTls { ca: Some(certificates.path("ca-cert.pem")), ..NbdTls::default() };
    let misnamed = NbdTls { server_name: Some("elsewhere".into()), ..client.clone() };
    for (socket, tls, problem, hint) in [
        (&without, Some(client.clone()), "it has no TLS", "--tls=require"),
        (&with_tls, None, "it wants TLS", "Use nbds://"),
        (
            &with_tls,
            Some(trusting(&certificates, "stranger")),
            "its certificate is from no authority",
            "tls-certificates",
        ),
        (&with_tls, Some(misnamed), "its certificate is for another name", "tls-hostname"),
        (&with_tls, Some(trusting(&certificates, "revoked")), "its certificate has been revoked", ""),
        (&with_tls, Some(anonymous), "it does not take this client's certificate, or wants one", "client-cert.pem"),
    ] {
        let refused = nbd(NbdOptions { tls, ..over(socket) }).err().expect(problem);
        assert_eq!(refused.code(), "ERR_UBLK_NBD_TLS", "{refused}");
        assert!(refused.to_string().contains(problem) && refused.hint().contains(hint), "{refused} {}", refused.hint());
    }
    let unverified = NbdTls { verify_peer: false, server_name: Some("elsewhere".into()), ..client };
    let live = Live::new(nbd(NbdOptions { tls: Some(unverified), ..over(&with_tls) }).unwrap());
    live.write(0, 7);
    assert!(live.read(0).0 == [7; 4096]);
}
