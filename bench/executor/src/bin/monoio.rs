//! monoio, with the channel of futures: it has none of its own between threads.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use executor_bench::foreign_channel::{self, Side};
use executor_bench::{Contestant, Page, main_of, open_direct};
use monoio::fs::File;
use monoio::{IoUringDriver, RuntimeBuilder};

struct Monoio;

impl Contestant for Monoio {
    type File = File;
    type Buffer = Page;
    type Side = Side;
    type Ends = Side;

    fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        RuntimeBuilder::<IoUringDriver>::new().enable_timer().build().unwrap().block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        monoio::spawn(future)
    }

    async fn sleep(duration: Duration) {
        monoio::time::sleep(duration).await;
    }

    async fn open(path: &Path) -> File {
        File::from_std(open_direct(path)).unwrap()
    }

    fn buffer(page: Page) -> Page {
        page
    }

    async fn read(file: &File, page: Page, offset: u64) -> Page {
        let (read, page) = file.read_at(page, offset).await;
        assert_eq!(read.unwrap(), 4096);
        page
    }

    fn sides() -> (Side, Side) {
        foreign_channel::sides()
    }

    async fn connect(side: Side) -> Side {
        side
    }

    async fn send(ends: &mut Side, item: u64) {
        foreign_channel::send(ends, item).await;
    }

    async fn receive(ends: &mut Side) -> u64 {
        foreign_channel::receive(ends).await
    }
}

fn main() {
    main_of::<Monoio>(Vec::new());
}
