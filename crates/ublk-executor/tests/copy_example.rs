//! The example `copy`, run as its users do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// An empty directory, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("copy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Place(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// cargo builds the examples of a package along with its tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap(); // target/<profile>/deps/copy_example-…
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/copy");
    assert!(path.exists(), "{} is missing: cargo build -p ublk-executor --examples", path.display());
    path
}

fn copy<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// No two blocks alike, none of zeroes.
fn content(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8 | 1
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn files_of_all_sizes_are_copied_with_their_permissions() {
    let place = Place::new("sizes");
    for size in [0, 1, 4095, 4096, 4097, (5 << 20) + 3] {
        for arguments in [vec![], vec!["--depth", "1"], vec!["--depth", "64", "--block", "4K"]] {
            let (from, to) = (place.path("from"), place.path("to"));
            fs::write(&from, content(size)).unwrap();
            fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).unwrap();
            let done = Command::new(program()).args(&arguments).arg(&from).arg(&to).output().unwrap();
            assert!(done.status.success(), "{size}: {}", text(&done.stderr));
            assert!(fs::read(&to).unwrap() == content(size), "{size} bytes, {arguments:?}");
            assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o7777, 0o640);
            assert_eq!(place.names(), ["from", "to"]);
            if size == 4097 {
                continue; // the next one replaces it
            }
            fs::remove_file(to).unwrap();
        }
    }
}

#[test]
fn blocks_of_zeroes_become_holes() {
    let place = Place::new("holes");
    let (from, to) = (place.path("from"), place.path("to"));
    let mut bytes = vec![0; 8 << 20];
    bytes[3 << 20] = 1;
    fs::write(&from, &bytes).unwrap();
    assert!(copy([&from, &to]).status.success());
    assert!(fs::read(&to).unwrap() == bytes);
    assert_eq!(fs::metadata(&to).unwrap().blocks() * 512, 1 << 20);
}

#[test]
fn a_copy_that_is_killed_leaves_the_old_file_and_no_other() {
    let place = Place::new("killed");
    let (from, to) = (place.path("from"), place.path("to"));
    fs::write(&from, content(48 << 20)).unwrap();
    fs::write(&to, "old").unwrap();
    let mut killed = 0;
    for round in 0..12_u64 {
        let arguments = ["--depth", "1", "--block", "4K"];
        let mut child =
            Command::new(program()).args(arguments).arg(&from).arg(&to).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(10 + 7 * round));
        let signal = if round % 2 == 0 { send("KILL", child.id()) } else { send("INT", child.id()) };
        assert!(signal);
        killed += u32::from(!child.wait().unwrap().success());
        assert_eq!(place.names(), ["from", "to"], "round {round}");
        assert_eq!(fs::read(&to).unwrap(), b"old", "round {round}");
    }
    assert_eq!(killed, 12, "the copies were faster than their end");
    assert!(copy([&from, &to]).status.success());
    assert!(fs::read(&to).unwrap() == content(48 << 20));
    assert_eq!(place.names(), ["from", "to"]);
}

fn send(name: &str, process: u32) -> bool {
    Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().unwrap().success()
}

#[test]
fn progress_is_a_line_a_second_where_there_is_no_terminal() {
    let place = Place::new("progress");
    let (from, to) = (place.path("from"), place.path("to"));
    // A block at a time, of which the largest hole has enough for some seconds.
    fs::File::create(&from).unwrap().set_len(64 << 30).unwrap();
    let arguments = ["--depth", "1", "--block", "4K"];
    let begin = Instant::now();
    let child = Command::new(program()).args(arguments).arg(&from).arg(&to).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let (first, second) = (lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap());
    let elapsed = begin.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(elapsed >= Duration::from_millis(1900), "{elapsed:?}");
    let copied = |line: &str| line.split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(0 < copied(&first) && copied(&first) < copied(&second), "{first}\n{second}");
    assert!(first.contains(" of 68719476736 bytes, ") && first.ends_with(" MiB/s"), "{first}");
    assert_eq!(place.names(), ["from"]);
}

#[test]
fn wrong_arguments_name_the_value_and_the_rule() {
    let cases: [(&[&str], &str); 8] = [
        (&[], "two paths are needed, SOURCE and TARGET, and 0 came"),
        (&["a", "b", "c"], "and 3 came"),
        (&["--depth"], "--depth : not a number from 1 to 1024"),
        (&["--depth", "0", "a", "b"], "--depth 0: not a number from 1 to 1024"),
        (&["--depth", "x", "a", "b"], "--depth x: not a number from 1 to 1024"),
        (&["--block", "5000", "a", "b"], "--block 5000: not a multiple of 4K from 4K to 64M"),
        (&["--block", "99999999999999999M", "a", "b"], "--block 99999999999999999M: not a multiple"),
        (&["--fast", "a", "b"], "--fast is no option"),
    ];
    for (arguments, expected) in cases {
        let done = copy(arguments);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(text(&done.stderr).contains(expected), "{arguments:?}: {}", text(&done.stderr));
        assert!(text(&done.stderr).contains("usage: copy"), "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_copied_is_an_error_that_names_it() {
    let place = Place::new("errors");
    let (from, to) = (place.path("from"), place.path("to"));
    fs::write(&from, content(5000)).unwrap();
    fs::hard_link(&from, place.path("same")).unwrap();
    let none = place.path("none");
    let cases = [
        (none.clone(), to.clone(), format!("{}: No such file or directory", none.display())),
        (from.clone(), none.join("to"), format!("{}: No such file or directory", none.join("to").display())),
        (from.clone(), from.clone(), "are the same file".to_owned()),
        (from.clone(), place.path("same"), "are the same file".to_owned()),
        (from.clone(), place.0.clone(), format!("{} is there and no file", place.0.display())),
        (from.clone(), PathBuf::from("/"), "/ names no file".to_owned()),
        (place.0.clone(), to.clone(), format!("{} is neither a file nor a block device", place.0.display())),
        (PathBuf::from("/dev/null"), to.clone(), "/dev/null is neither a file nor a block device".to_owned()),
    ];
    for (from, to, expected) in cases {
        let done = copy([&from, &to]);
        assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
        assert!(text(&done.stderr).contains(&expected), "{expected}: {}", text(&done.stderr));
    }
    assert_eq!(place.names(), ["from", "same"]);
    assert!(fs::read(&from).unwrap() == content(5000));
}

#[test]
fn missing_rights_are_an_error_that_names_the_file() {
    let place = Place::new("rights");
    let (from, to) = (place.path("from"), place.path("to"));
    fs::write(&from, content(5000)).unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o600)).unwrap();
    // Root may read everything: the program runs as somebody else.
    let shared = std::env::temp_dir().join(format!("copy-example-{}", std::process::id()));
    fs::copy(program(), &shared).unwrap();
    let as_nobody = |from: &Path, to: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&shared).arg(from).arg(to).output()
    };
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let done = if is_root { as_nobody(&from, &to).unwrap() } else { copy([Path::new("/etc/shadow"), &to]) };
    let _ = fs::remove_file(shared);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains(": Permission denied"), "{}", text(&done.stderr));
    assert_eq!(place.names(), ["from"]);
}

/// A file system of one mebibyte, for root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Option<SmallDisk> {
        fs::create_dir_all(&path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
        let done = Command::new("mount").args(mount).arg(&path).output().ok()?.status.success();
        done.then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_left_on_it() {
    let place = Place::new("full");
    let Some(disk) = SmallDisk::mount(place.path("disk")) else {
        eprintln!("skipped: only root can mount");
        return;
    };
    let (from, to) = (place.path("from"), disk.0.join("to"));
    fs::write(&from, content(3 << 20)).unwrap();
    let done = copy([&from, &to]);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("No space left on device"), "{}", text(&done.stderr));
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0);
}
