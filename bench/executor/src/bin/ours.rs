//! ublk-executor.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use executor_bench::{Contestant, Page, Queue, main_of, queue_measures};
use ublk_executor::channel::{Receiver, Sender, channel};
use ublk_executor::io::{DmaBuffer, DmaFile, OpenOptions};
use ublk_executor::{LocalExecutor, spsc};

struct Ours;

impl Contestant for Ours {
    type File = DmaFile;
    type Buffer = DmaBuffer;
    type Side = (Sender<u64>, Receiver<u64>);
    type Ends = Self::Side;

    fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        LocalExecutor::new().unwrap().block_on(future).unwrap()
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let task = ublk_executor::spawn_local(future).unwrap();
        async { task.await.unwrap() }
    }

    async fn sleep(duration: Duration) {
        ublk_executor::sleep(duration).await;
    }

    async fn open(path: &Path) -> DmaFile {
        DmaFile::open(path, &OpenOptions::new().read(true)).await.unwrap()
    }

    fn buffer(_: Page) -> DmaBuffer {
        DmaBuffer::new(4096)
    }

    async fn read(file: &DmaFile, buffer: DmaBuffer, offset: u64) -> DmaBuffer {
        let (read, buffer) = file.read_at(buffer, offset).await;
        assert_eq!(read.unwrap(), 4096);
        buffer
    }

    fn sides() -> (Self::Side, Self::Side) {
        let (there, back) = (channel(1), channel(1));
        ((there.0, back.1), (back.0, there.1))
    }

    async fn connect(side: Self::Side) -> Self::Ends {
        side
    }

    async fn send((sender, _): &mut Self::Ends, item: u64) {
        sender.send(item).await.unwrap();
    }

    async fn receive((_, receiver): &mut Self::Ends) -> u64 {
        receiver.recv().await.unwrap()
    }
}

impl Queue for Ours {
    type Producer = spsc::Producer<u64>;
    type Consumer = spsc::Consumer<u64>;

    fn new(capacity: usize) -> (Self::Producer, Self::Consumer) {
        spsc::channel(capacity)
    }

    #[inline]
    fn push(producer: &mut Self::Producer, item: u64) -> bool {
        producer.push(item).is_ok()
    }

    #[inline]
    fn pop(consumer: &mut Self::Consumer) -> Option<u64> {
        consumer.pop().ok()
    }
}

fn main() {
    main_of::<Ours>(queue_measures::<Ours>());
}
