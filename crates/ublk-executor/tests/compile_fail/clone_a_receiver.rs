//! Regression: ends that could be cloned let two threads use one slot (glommio #700).

fn main() {
    let ends = ublk_executor::channel::channel::<u64>(1);
    let _second = ends.1.clone();
}
