//! Where the real header comes from.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of Linux 7.2's `linux/ublk_cmd.h`, with the headers it includes in the same tree.
pub(crate) fn header_path() -> PathBuf {
    if let Some(path) = env::var_os("UBLK_CMD_H") {
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "UBLK_CMD_H names {}, which is no file; name linux/ublk_cmd.h of Linux 7.2",
            path.display()
        );
        return path;
    }
    let builder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vm/build");
    let answer = Command::new(&builder).arg("--header").output().unwrap_or_else(|error| {
        panic!("{} cannot run ({error}); set UBLK_CMD_H to linux/ublk_cmd.h of Linux 7.2", builder.display())
    });
    assert!(
        answer.status.success(),
        "{} --header failed ({}); set UBLK_CMD_H to linux/ublk_cmd.h of Linux 7.2\n{}",
        builder.display(),
        answer.status,
        String::from_utf8_lossy(&answer.stderr),
    );
    let path = PathBuf::from(String::from_utf8(answer.stdout).expect("a path in UTF-8").trim_end());
    assert!(path.is_file(), "{} --header printed {path:?}, which is no file", builder.display());
    path
}
