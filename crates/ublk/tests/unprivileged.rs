//! Devices of users who are not root, on a real kernel: root plays udev, other processes are the users.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::nbd_server::{Manner, NbdServer, PLACE};
use common::{Live, MIB, page, spec_for};
use ublk::control::{block_path, char_path};
use ublk::target::{NbdAddress, NbdOptions, mem, nbd, null};
use ublk::uapi::Features;
use ublk::{BufferMode, Control, DataPath, Device, DeviceSpec, Error, Recovery, list};

const OWNER: u32 = 1000;
const STRANGER: u32 = 1001;

/// What udev does where the rules are installed, for as long as this lives: nodes of ublk devices belong to one user.
struct Rules {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Rules {
    fn install() -> Rules {
        std::fs::set_permissions("/dev/ublk-control", std::fs::Permissions::from_mode(0o666)).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Acquire) {
                for entry in std::fs::read_dir("/dev").unwrap().flatten() {
                    let name = entry.file_name().into_string().unwrap_or_default();
                    if name.starts_with("ublkc") || name.starts_with("ublkb") {
                        let _ = chown(entry.path(), Some(OWNER), Some(OWNER));
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Rules { ends, thread: Some(thread) }
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        let _ = self.thread.take().unwrap().join();
        std::fs::set_permissions("/dev/ublk-control", std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Runs another test of this program as a user.
fn run_as(user: u32, test: &str, device: &str) -> Child {
    let user = format!("{user}");
    Command::new("setpriv")
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("UBLK_TEST_USER", &user)
        .env("UBLK_TEST_DEVICE", device)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The device that the other process says it serves.
fn served_by(child: &mut Child) -> u32 {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let id = lines.map_while(Result::ok).find_map(|line| line.split_once("serves ")?.1.parse().ok());
    id.expect("the owner's process ended")
}

fn is_user(user: u32) -> bool {
    std::env::var("UBLK_TEST_USER").is_ok_and(|text| text == user.to_string())
}

fn unprivileged() -> DeviceSpec {
    DeviceSpec { unprivileged: true, ..spec_for(mem(16 * MIB).unwrap().as_ref()) }
}

fn open_when_allowed(id: u32) -> File {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(block_path(id)) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn as_the_owner() {
    if !is_user(OWNER) {
        return;
    }
    let control = Control::open().unwrap();
    let refused = Device::add(&control, spec_for(null(MIB).as_ref())).err().unwrap();
    assert!(matches!(&refused, Error::Permission { what, .. } if what == "ADD_DEV"), "{refused}");
    assert!(refused.hint().contains("`ublk udev`"));

    let mut live = Live::with(mem(16 * MIB).unwrap(), unprivileged());
    let id = live.device.id();
    assert!(live.device.features().contains(Features::UNPRIVILEGED_DEV));
    assert_eq!(live.device.buffers(), BufferMode::GetData);
    let file = open_when_allowed(id);
    file.write_all_at(&page(7).0, MIB).unwrap();
    let mut data = page(0);
    file.read_exact_at(&mut data.0, MIB).unwrap();
    assert!(data.0 == [7; 4096]);
    drop(file);

    let info = control.info(id).unwrap();
    assert_eq!((info.owner_uid, info.owner_gid, info.state.to_string()), (OWNER, OWNER, "live".to_string()));
    let number = |path: String| {
        let device = std::fs::metadata(path).unwrap().rdev();
        (libc::major(device), libc::minor(device))
    };
    assert_eq!((info.char_number, info.block_number), (number(char_path(id)), number(block_path(id))));
    assert!(!control.queue_affinity(id, 0).unwrap().is_empty());
    let others = std::env::var("UBLK_TEST_DEVICE").unwrap().parse().unwrap();
    assert!(matches!(control.stop(others), Err(Error::Permission { .. })), "root's device");
    assert_eq!(list(&control).unwrap().iter().map(|device| device.id).collect::<Vec<_>>(), [id], "root's is left out");

    // A stop, another start (which adds the device anew), and use by the process that waits.
    live.stop();
    live.start();
    println!("serves {id}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn as_a_stranger() {
    if !is_user(STRANGER) {
        return;
    }
    let id = std::env::var("UBLK_TEST_DEVICE").unwrap().parse().unwrap();
    let control = Control::open().unwrap();
    for refused in [control.info(id).err(), control.stop(id).err(), control.delete(id).err()] {
        assert!(matches!(refused, Some(Error::Permission { .. })), "{refused:?}");
    }
    assert!(list(&control).unwrap().is_empty());
    assert!(File::open(block_path(id)).is_err());
}

fn succeeds(mut child: Child) {
    drop(child.stdin.take());
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_user_adds_uses_and_removes_a_device_that_others_cannot_touch() {
    let roots = Live::new(null(MIB));
    let _rules = Rules::install();
    let mut owner = run_as(OWNER, "as_the_owner", &roots.device.id().to_string());
    let id = served_by(&mut owner);
    succeeds(run_as(STRANGER, "as_a_stranger", &id.to_string()));

    // Root may do everything, in the form that such a device wants.
    let control = Control::open().unwrap();
    assert_eq!(control.info(id).unwrap().owner_uid, OWNER);
    assert_eq!(control.dev_info_by_path(id).unwrap().owner_uid, OWNER);
    assert_eq!(list(&control).unwrap().len(), 2);
    control.stop(id).unwrap();
    succeeds(owner);
    assert!(!std::path::Path::new(&char_path(id)).exists());
}

/// Serves an export of which one place is never answered.
#[test]
#[ignore = "needs a ublk kernel"]
fn as_the_owner_of_a_silent_export() {
    if !is_user(OWNER) {
        return;
    }
    let path = std::env::temp_dir().join(format!("ublk-silent-{}.sock", std::process::id()));
    let server = NbdServer::start(&path, Manner::Silent);
    let target = nbd(NbdOptions {
        address: NbdAddress::Unix { path: path.clone() },
        export: String::new(),
        read_only: false,
        size_bytes: None,
        block_bytes: None,
        patience: Duration::from_secs(20),
        request_timeout: Some(Duration::from_secs(1)),
        deadline: Some(Duration::from_secs(3)),
        tls: None,
    });
    let target = target.unwrap();
    let spec = DeviceSpec { unprivileged: true, ..spec_for(target.as_ref()) };
    let live = Live::with(target, spec);
    println!("serves {}", live.device.id());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(server.connections() > 2, "it was sent again: {}", server.connections());
    std::fs::remove_file(&path).unwrap();
}

#[test]
#[ignore = "needs a ublk kernel"]
fn a_deadline_saves_the_owner_of_an_export_that_is_never_answered() {
    let _rules = Rules::install();
    let mut owner = run_as(OWNER, "as_the_owner_of_a_silent_export", "");
    let file = open_when_allowed(served_by(&mut owner));
    let begin = Instant::now();
    let error = file.read_exact_at(&mut page(0).0, PLACE).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    file.read_exact_at(&mut page(0).0, 0).unwrap();
    drop(file);
    succeeds(owner);
}

#[test]
#[ignore = "needs a ublk kernel"]
fn without_the_rules_the_owner_is_told_what_is_missing() {
    std::fs::set_permissions("/dev/ublk-control", std::fs::Permissions::from_mode(0o666)).unwrap();
    succeeds(run_as(OWNER, "as_an_owner_without_rules", ""));
    std::fs::set_permissions("/dev/ublk-control", std::fs::Permissions::from_mode(0o600)).unwrap();
    let control = Control::open().unwrap();
    for device in list(&control).unwrap() {
        assert_eq!(device.owner_uid, OWNER);
        control.delete(device.id).unwrap();
    }
}

#[test]
#[ignore = "needs a ublk kernel"]
fn as_an_owner_without_rules() {
    if !is_user(OWNER) {
        return;
    }
    let error = Device::add(&Control::open().unwrap(), unprivileged()).err().unwrap();
    assert!(matches!(&error, Error::Permission { what, .. } if what.starts_with("/dev/ublkc")), "{error}");
    assert!(error.hint().contains("`ublk udev`") && error.hint().contains("ublk del"), "{}", error.hint());
}

#[test]
#[ignore = "needs a ublk kernel"]
fn what_the_driver_would_strip_is_refused_with_the_reason() {
    let control = Control::open().unwrap();
    let refusal = |spec| match Device::add(&control, spec) {
        Err(Error::BadOption { rule }) => rule,
        other => panic!("{:?}", other.map(|device| device.id())),
    };
    assert!(refusal(DeviceSpec { recovery: Recovery::Requeue, ..unprivileged() }).contains("has no recovery"));
    for mode in [BufferMode::UserCopy, BufferMode::ZeroCopy, BufferMode::AutoZeroCopy] {
        let rule = refusal(DeviceSpec { data_path: DataPath::Only(mode), ..unprivileged() });
        assert_eq!(rule, format!("an unprivileged device moves its data by copy or get-data, not by {}", mode.name()));
    }
    assert!(refusal(unprivileged()).starts_with("a process with CAP_SYS_ADMIN makes no unprivileged devices"));
    assert!(list(&control).unwrap().is_empty());
}
