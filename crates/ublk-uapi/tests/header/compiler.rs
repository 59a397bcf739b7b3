//! Asks a C compiler for the value of expressions over the header.

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};

/// The value of each of `expressions`, in their order; one of 64 unsigned bits keeps its bits.
pub(crate) fn evaluate(header: &Path, expressions: &[&str]) -> Vec<i64> {
    let unique = format!("header_values.{}", process::id()); // another run may compile at the same time
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
    let source = PathBuf::from(format!("{}.c", program.display()));
    fs::write(&source, program_text(header, expressions)).expect("the C program is written");

    let include = header.parent().and_then(Path::parent).expect("the header lies in a directory `linux`");
    let compiler = env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
    let mut compile = Command::new(&compiler);
    compile.args(["-std=gnu11", "-Wall", "-Werror", "-isystem"]).arg(include).arg("-o").arg(&program).arg(&source);
    run(&mut compile);

    let output = run(&mut Command::new(&program));
    for file in [&source, &program] {
        fs::remove_file(file).expect("the files of this run are removed");
    }
    String::from_utf8(output.stdout)
        .expect("numbers in ASCII")
        .lines()
        .map(|line| line.parse().unwrap_or_else(|error| panic!("{line:?} is no number: {error}")))
        .collect()
}

fn program_text(header: &Path, expressions: &[&str]) -> String {
    let mut text = String::from("#include <errno.h>\n#include <stddef.h>\n#include <stdio.h>\n");
    writeln!(text, "#include \"{}\"", header.display()).unwrap();
    text +=
        "#include <linux/blkzoned.h>\n#include <linux/fs.h>\n#include <linux/io_uring.h>\n#include <linux/ioctl.h>\n";
    text += "#define IS_SIGNED(field) _Generic((field), signed char: 1, short: 1, int: 1, long: 1, long long: 1, default: 0)\n";
    text += "int main(void)\n{\n";
    for expression in expressions {
        writeln!(text, "\tprintf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    text + "\treturn 0;\n}\n"
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot run ({error}); install a C compiler, or name one in CC"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    output
}
