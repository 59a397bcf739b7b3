//! Copies a file or a block device past the page cache, with many blocks under way at a time, and shows the progress.
//!
//! TARGET is written without a name (O_TMPFILE) and gets its name when all of it is on the disk: whatever ends the program before, SIGKILL and
//! errors too, leaves the old TARGET, or none, and no other file. Blocks of zeroes become holes.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ublk_executor::io::{Directory, DmaBuffer, DmaFile, FileKind, OpenOptions};
use ublk_executor::{LocalExecutor, sleep, spawn_local};

const USAGE: &str = "usage: copy [--depth N] [--block SIZE] SOURCE TARGET
  --depth N     blocks under way at a time, 1 to 1024; default 16
  --block SIZE  bytes of a block, a multiple of 4K from 4K to 64M; default 1M";

struct Options {
    depth: usize,
    block_bytes: usize,
    source: PathBuf,
    target: PathBuf,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("copy: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let executor = LocalExecutor::new().map_err(|error| error.to_string());
    let copied = executor.and_then(|executor| executor.block_on(copy(&options)).map_err(|error| error.to_string())?);
    match copied {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("copy: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What the tasks share.
struct Job {
    source: DmaFile,
    target: DmaFile,
    size: u64,
    block_bytes: usize,
    /// Where the next task that is free begins.
    next: Cell<u64>,
    copied: Cell<u64>,
}

async fn copy(options: &Options) -> Result<(), String> {
    let (source, target) = (options.source.display(), options.target.display());
    let at_source = |error: io::Error| format!("{source}: {error}");
    let at_target = |error: io::Error| format!("{target}: {error}");

    let (directory, name) = place_of(&options.target)?;
    let directory = Directory::open(directory).await.map_err(at_target)?;
    let here = Directory::open(".").await.map_err(at_source)?;
    let metadata = here.metadata(&options.source).await.map_err(at_source)?;
    if !matches!(metadata.kind, FileKind::File | FileKind::BlockDevice) {
        return Err(format!("{source} is neither a file nor a block device"));
    }
    match directory.metadata(name).await {
        Ok(old) if (old.device, old.inode) == (metadata.device, metadata.inode) => {
            return Err(format!("{source} and {target} are the same file"));
        }
        Ok(old) if old.kind != FileKind::File => return Err(format!("{target} is there and no file")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at_target(error)),
        _ => {}
    }
    let from = DmaFile::open(&options.source, &OpenOptions::new().read(true)).await.map_err(at_source)?;
    let unnamed = OpenOptions::new().write(true).unnamed(true).mode(metadata.mode & 0o777);
    let to = DmaFile::open_in(&directory, ".", &unnamed).await;
    let to = to.map_err(|error| format!("{target}: {error}; its file system needs O_TMPFILE and O_DIRECT"))?;

    let size = from.size().map_err(at_source)?;
    let block_bytes = options.block_bytes;
    let job = Job { source: from, target: to, size, block_bytes, next: Cell::new(0), copied: Cell::new(0) };
    let job = Rc::new(job);
    copy_blocks(&job, options.depth).await.map_err(|error| format!("{source} to {target}: {error}"))?;
    job.target.set_len(size).await.map_err(at_target)?; // the last block was written whole
    job.target.sync_all().await.map_err(at_target)?;
    give_name(&directory, &job.target, name).await.map_err(at_target)
}

async fn copy_blocks(job: &Rc<Job>, depth: usize) -> io::Result<()> {
    let spawned = "the executor runs, and takes tasks";
    let progress = spawn_local(show_progress(Rc::clone(job))).expect(spawned);
    let tasks: Vec<_> = (0..depth).map(|_| spawn_local(copy_some(Rc::clone(job))).expect(spawned)).collect();
    let mut result = Ok(());
    for task in tasks {
        let copied = task.await.map_err(|error| io::Error::other(error.to_string()))?;
        if copied.is_err() {
            job.next.set(job.size); // the others end with the block that they are in
        }
        result = result.and(copied);
    }
    progress.cancel();
    result
}

/// Takes blocks until none is left, all in one buffer.
async fn copy_some(job: Rc<Job>) -> io::Result<()> {
    let mut buffer = DmaBuffer::new(job.block_bytes);
    while job.next.get() < job.size {
        let offset = job.next.replace(job.next.get() + job.block_bytes as u64);
        let length = (job.size - offset).min(job.block_bytes as u64) as usize;
        let (read, back) = job.source.read_at(buffer, offset).await;
        buffer = back;
        if read? < length {
            return Err(io::Error::other(format!(
                "the source was cut while it was read, within {length} bytes from {offset} on"
            )));
        }
        buffer[length..].fill(0);
        if buffer.iter().any(|&byte| byte != 0) {
            let (written, back) = job.target.write_at(buffer, offset).await;
            buffer = back;
            written?;
        }
        job.copied.set(job.copied.get() + length as u64);
    }
    Ok(())
}

/// On a terminal one line that changes, else a line a second.
async fn show_progress(job: Rc<Job>) {
    let is_terminal = io::stderr().is_terminal();
    let begin = Instant::now();
    loop {
        sleep(Duration::from_millis(if is_terminal { 100 } else { 1000 })).await;
        let copied = job.copied.get();
        let percent = copied * 100 / job.size.max(1);
        let speed = copied as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64();
        let line = format!("{copied} of {} bytes, {percent} %, {speed:.0} MiB/s", job.size);
        if is_terminal { eprint!("\r{line}\x1b[K") } else { eprintln!("{line}") }
    }
}

/// A new name is one step. To replace a file takes two: killed in between, the copy is left complete, beside the old file.
async fn give_name(directory: &Directory, file: &DmaFile, name: &Path) -> io::Result<()> {
    match directory.link(file, name).await {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let beside = format!(".{}.copy-{}", name.display(), std::process::id());
            directory.link(file, &beside).await?;
            if let Err(error) = directory.rename(&beside, directory, name).await {
                directory.remove_file(&beside).await?;
                return Err(error);
            }
        }
        linked => linked?,
    }
    directory.sync().await
}

fn place_of(target: &Path) -> Result<(&Path, &Path), String> {
    let name = target.file_name().ok_or_else(|| format!("{} names no file", target.display()))?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), Path::new(name)))
}

fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Options, String> {
    let (mut depth, mut block_bytes, mut paths) = (16, 1 << 20, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default().to_string_lossy().into_owned();
        match argument.to_str() {
            Some("--depth") => {
                let text = value();
                let number = text.parse().ok().filter(|number| (1..=1024).contains(number));
                depth = number.ok_or_else(|| format!("--depth {text}: not a number from 1 to 1024"))?;
            }
            Some("--block") => {
                let text = value();
                let bytes = size_of(&text).filter(|bytes| (4096..=64 << 20).contains(bytes) && bytes % 4096 == 0);
                block_bytes = bytes.ok_or_else(|| format!("--block {text}: not a multiple of 4K from 4K to 64M"))?;
            }
            Some(option) if option.starts_with('-') => return Err(format!("{option} is no option")),
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let [source, target] = <[PathBuf; 2]>::try_from(paths)
        .map_err(|paths| format!("two paths are needed, SOURCE and TARGET, and {} came", paths.len()))?;
    Ok(Options { depth, block_bytes, source, target })
}

/// Bytes: a number, or one with K or M behind it.
fn size_of(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}
