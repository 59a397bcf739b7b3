//! Misuse that the compiler refuses: each file of tests/compile_fail is a program that must not compile, and the
//! message it must not compile with.

/// The compiler whose messages the .stderr files hold. Another words them differently; the assertions beside the types
/// hold under each. To renew the files: `TRYBUILD=overwrite cargo test -p ublk-executor --test compile_fail`.
#[cfg(not(loom))]
const MESSAGES_OF: &str = "rustc 1.95.";

#[cfg(not(loom))]
#[test]
fn misuse_does_not_compile() {
    let compiler = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let version = std::process::Command::new(compiler).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8_lossy(&version);
    if !version.starts_with(MESSAGES_OF) {
        // Not by eprintln!, which the output of a test that passes swallows.
        let note =
            format!("misuse_does_not_compile: SKIPPED, its messages are those of {MESSAGES_OF}x, this is {version}");
        std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).unwrap();
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}

#[cfg(loom)]
#[test]
#[ignore = "the same under loom; trybuild runs without it"]
fn misuse_does_not_compile() {}
