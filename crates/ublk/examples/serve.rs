//! Serves one native target until standard input ends: the Rust core alone, for measurements and for reading.
//!
//! ```text
//! serve null|mem|mem-zero-copy SIZE_MIB [QUEUES] [DEPTH]
//! serve file|file-direct PATH [QUEUES] [DEPTH]
//! ```
//! Prints the path of the block device on standard output when it is live.

use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use ublk::target::{FileOptions, file, mem, mem_zero_copy, null};
use ublk::{Control, Device, DeviceSpec, Target, control, spawn_target};

const USAGE: &str =
    "serve null|mem|mem-zero-copy SIZE_MIB [QUEUES] [DEPTH] | serve file|file-direct PATH [QUEUES] [DEPTH]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, what, rest @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let target = open_target(kind, what)?;
    let number = |index: usize, default: u16| rest.get(index).map_or(Ok(default), |text| text.parse());
    let spec = DeviceSpec { queues: number(0, 1)?, depth: number(1, 128)?, ..DeviceSpec::for_target(target.as_ref()) };

    let mut device = Device::add(&Control::open()?, spec)?;
    let observer = Arc::new(|event| eprintln!("{event:?}"));
    let served = spawn_target(&mut device, target, observer)?;
    device.start()?;
    println!("{}", control::block_path(device.id()));

    std::io::stdin().read_to_end(&mut Vec::new())?;
    device.stop()?;
    served.join();
    device.close_char();
    device.delete()?;
    Ok(())
}

fn open_target(kind: &str, what: &str) -> Result<Arc<dyn Target>, Box<dyn Error>> {
    let size_bytes = || what.parse::<u64>().map(|mebibytes| mebibytes << 20);
    Ok(match kind {
        "null" => null(size_bytes()?),
        "mem" => mem(size_bytes()?)?,
        "mem-zero-copy" => mem_zero_copy(size_bytes()?)?,
        "file" | "file-direct" => {
            file(Path::new(what), &FileOptions { direct: kind == "file-direct", ..FileOptions::default() })?
        }
        _ => return Err(USAGE.into()),
    })
}
