//! Blocks that change below a device with protection information: a read of one must fail, and not bring what nobody wrote.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::buffer::Buffer;
use crate::disk::Disk;
use crate::evidence::{compare, fill};
use crate::random::Random;

/// One check.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Chooses the blocks, and of each the byte.
    pub seed: u64,
    /// How many blocks are changed, one after the other.
    pub steps: u64,
    /// The file that the device serves.
    pub image: PathBuf,
}

/// Runs a check. The answer is the number of blocks that were changed.
///
/// # Errors
/// A sentence that says what was wrong, where, and how to have it again.
pub fn check(disk: &dyn Disk, plan: &Plan) -> Result<u64, String> {
    let mut random = Random::new(plan.seed, 0);
    let block = disk.block_bytes();
    for version in 1..=plan.steps {
        let place = random.below(disk.size_bytes() / block) * block;
        change_block(disk, plan, place, random.below(block), version)
            .map_err(|wrong| format!("seed {}, block at {place}: {wrong}", plan.seed))?;
    }
    Ok(plan.steps)
}

/// Writes a block, changes a byte of it in the image, and puts that byte back.
fn change_block(disk: &dyn Disk, plan: &Plan, place: u64, at: u64, version: u64) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let mut buffer = Buffer::new(disk.block_bytes() as usize, None, 0).map_err(told)?;
    let data = buffer.bytes();
    fill(data, place, version);
    let written = data.to_vec();
    disk.write(data, place, false).and_then(|()| disk.flush()).map_err(told)?;

    let image = File::options().write(true).open(&plan.image).map_err(told)?;
    let right = written[at as usize];
    image.write_all_at(&[right ^ 1], place + at).map_err(told)?;
    let answer = disk.read(data, place);
    image.write_all_at(&[right], place + at).map_err(told)?;
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EILSEQ) => {}
        Err(error) => return Err(format!("byte {at} was changed, and the read failed otherwise: {error}")),
        Ok(()) => return Err(format!("byte {at} was changed, and the read succeeded")),
    }
    disk.read(data, place).map_err(told)?;
    compare(data, &written, place).map_err(|wrong| wrong.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Zeroing;

    /// A disk over a file, with the sum of each block in memory.
    struct Summed {
        file: File,
        sums: std::sync::Mutex<Vec<u64>>,
        verifies: bool,
    }

    fn sum(data: &[u8]) -> u64 {
        data.iter().fold(0, |sum, byte| (sum * 257 + u64::from(*byte)) & 0xffff_ffff)
    }

    impl Disk for Summed {
        fn size_bytes(&self) -> u64 {
            8192
        }
        fn block_bytes(&self) -> u64 {
            512
        }
        fn discard_granularity(&self) -> u64 {
            512
        }
        fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.file.read_exact_at(buffer, offset)?;
            let is_right = self.sums.lock().unwrap()[offset as usize / 512] == sum(buffer);
            if is_right || !self.verifies { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EILSEQ)) }
        }
        fn write(&self, buffer: &[u8], offset: u64, _is_durable: bool) -> io::Result<()> {
            self.sums.lock().unwrap()[offset as usize / 512] = sum(buffer);
            self.file.write_all_at(buffer, offset)
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
        fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
            Ok(())
        }
        fn write_zeroes(&self, _offset: u64, _length: u64, _zeroing: Zeroing) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer(verifies: bool) -> Result<u64, String> {
        let image = std::env::temp_dir().join(format!("ublk-check-protection-{verifies}-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&image).unwrap();
        file.set_len(8192).unwrap();
        let disk = Summed { file, sums: vec![0; 16].into(), verifies };
        let answer = check(&disk, &Plan { seed: 1, steps: 20, image: image.clone() });
        std::fs::remove_file(&image).unwrap();
        answer
    }

    #[test]
    fn a_disk_that_verifies_passes_and_one_that_believes_is_refused() {
        assert_eq!(answer(true), Ok(20));
        let wrong = answer(false).unwrap_err();
        assert!(wrong.starts_with("seed 1, block at ") && wrong.ends_with("and the read succeeded"), "{wrong}");
    }
}
