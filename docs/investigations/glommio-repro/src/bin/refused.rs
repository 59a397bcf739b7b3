//! The programs of issue_700 with the ends of ublk-executor: with either feature it does not compile. One feature each, as the compiler
//! reports a missing method and goes no further.
#![forbid(unsafe_code)]

fn main() {
    #[cfg(feature = "cloned")]
    {
        let (producer, consumer) = ublk_executor::spsc::channel::<String>(1024);
        let second = producer.clone();
        drop((second, consumer));
    }
    #[cfg(feature = "shared")]
    {
        let (producer, mut consumer) = ublk_executor::spsc::channel::<String>(1024);
        std::thread::scope(|scope| {
            scope.spawn(|| consumer.pop());
            scope.spawn(|| consumer.pop());
        });
        drop(producer);
    }
}
