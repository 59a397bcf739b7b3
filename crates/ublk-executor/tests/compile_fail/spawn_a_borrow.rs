//! A task may outlive the function that spawns it, so it borrows nothing of it.

fn main() {
    let executor = ublk_executor::LocalExecutor::new().unwrap();
    let on_the_stack = [0_u8; 16];
    let task = executor.spawn_local(async { on_the_stack.len() + on_the_stack.iter().count() });
    drop(task);
}
