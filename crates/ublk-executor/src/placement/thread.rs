//! Asks and sets the CPUs of the calling thread.
//!
//! The kernel refuses a set without a single usable CPU (EINVAL), and a wish may be older than the last change of the
//! cpuset: so the allowed set is read first, every time, and nothing outside of it is ever asked for.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Numbers of the CPUs that the calling thread may run on, lowest first: online, in its cpuset and in its affinity.
///
/// # Errors
/// The kernel's answer to sched_getaffinity; EINVAL where the kernel counts more than [`CpuSet::MAX_CPU`] CPUs.
pub fn allowed_cpus() -> std::io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// What became of a wish for certain CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The thread runs on these CPUs only.
    Pinned(Vec<usize>),
    /// None of the wished CPUs is allowed (cpuset, hotplug): the thread stays where it was.
    Unbound,
}

/// Binds the calling thread to those of `wanted` that it is allowed.
///
/// # Errors
/// The kernel's answer to sched_getaffinity or sched_setaffinity.
pub fn pin_current_thread(wanted: &[usize]) -> std::io::Result<Placement> {
    let allowed = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    let cpus: Vec<usize> = wanted.iter().copied().filter(|&cpu| cpu < CpuSet::MAX_CPU && allowed.is_set(cpu)).collect();
    if cpus.is_empty() {
        return Ok(Placement::Unbound);
    }
    for &cpu in &cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set)?;
    Ok(Placement::Pinned(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_within_the_allowed_cpus_only() {
        std::thread::spawn(|| {
            let allowed = allowed_cpus().unwrap();
            let first = allowed[0];
            let placed = pin_current_thread(&[first, CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU + 7]).unwrap();
            assert_eq!(placed, Placement::Pinned(vec![first]));
            assert_eq!(allowed_cpus().unwrap(), vec![first]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_wish_that_cannot_be_granted_leaves_the_thread_unbound() {
        std::thread::spawn(|| {
            let before = allowed_cpus().unwrap();
            assert_eq!(pin_current_thread(&[CpuSet::MAX_CPU - 1]).unwrap(), Placement::Unbound);
            assert_eq!(allowed_cpus().unwrap(), before);
        })
        .join()
        .unwrap();
    }
}
