//! glommio of crates.io.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use executor_bench::{Contestant, Page, main_of};
use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};
use glommio::io::DmaFile;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};

struct Glommio;

impl Contestant for Glommio {
    type File = DmaFile;
    /// It allocates a buffer for each read.
    type Buffer = ();
    type Side = (SharedSender<u64>, SharedReceiver<u64>);
    type Ends = (ConnectedSender<u64>, ConnectedReceiver<u64>);

    fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        LocalExecutorBuilder::new(Placement::Unbound).make().unwrap().run(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        glommio::spawn_local(future)
    }

    async fn sleep(duration: Duration) {
        Timer::new(duration).await;
    }

    async fn open(path: &Path) -> DmaFile {
        DmaFile::open(path).await.unwrap()
    }

    fn buffer(_: Page) {}

    async fn read(file: &DmaFile, _: (), offset: u64) {
        assert_eq!(file.read_at_aligned(offset, 4096).await.unwrap().len(), 4096);
    }

    fn sides() -> (Self::Side, Self::Side) {
        let (there, back) = (new_bounded(1), new_bounded(1));
        ((there.0, back.1), (back.0, there.1))
    }

    async fn connect((sender, receiver): Self::Side) -> Self::Ends {
        // At the same time: each waits for the other side's.
        futures_util::future::join(sender.connect(), receiver.connect()).await
    }

    async fn send((sender, _): &mut Self::Ends, item: u64) {
        sender.send(item).await.unwrap();
    }

    async fn receive((_, receiver): &mut Self::Ends) -> u64 {
        receiver.recv().await.unwrap()
    }
}

fn main() {
    main_of::<Glommio>(Vec::new());
}
