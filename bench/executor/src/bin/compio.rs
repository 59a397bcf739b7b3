//! compio, with the channel of futures: it has none of its own between threads.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use compio::buf::BufResult;
use compio::fs::{File, OpenOptions};
use compio::io::AsyncReadAt;
use compio::runtime::Runtime;
use executor_bench::foreign_channel::{self, Side};
use executor_bench::{Contestant, Page, main_of};

struct Compio;

impl Contestant for Compio {
    type File = File;
    type Buffer = Page;
    type Side = Side;
    type Ends = Side;

    fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        Runtime::new().unwrap().block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let task = compio::runtime::spawn(future);
        async {
            assert!(task.await.is_ok());
        }
    }

    async fn sleep(duration: Duration) {
        compio::time::sleep(duration).await;
    }

    async fn open(path: &Path) -> File {
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).await.unwrap()
    }

    fn buffer(page: Page) -> Page {
        page
    }

    async fn read(file: &File, page: Page, offset: u64) -> Page {
        let BufResult(read, page) = file.read_at(page, offset).await;
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
    main_of::<Compio>(Vec::new());
}
