//! Regression: ends that were `Sync` let two threads use one slot without cloning (glommio #700).

use std::thread::Scope;

// The bound of `spawn` again, as the compiler quotes std's own only where std's source is installed.
fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) {
    scope.spawn(work);
}

fn main() {
    let ends = ublk_executor::channel::channel::<u64>(1);
    let shared = &ends.0;
    std::thread::scope(|scope| {
        spawn(scope, || drop(format!("{shared:?}")));
    });
}
