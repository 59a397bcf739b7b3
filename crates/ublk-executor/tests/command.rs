//! Commands of drivers, on rings of both widths.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::ErrorKind;

use ublk_executor::io::{uring_cmd16, uring_cmd80};
use ublk_executor::{LocalExecutor, RingError};

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn regular() -> File {
    File::open(std::env::current_exe().unwrap()).unwrap()
}

const OP: u32 = 0x1234_5678;

#[test]
fn a_driver_answers_and_a_file_refuses_whatever_the_width() {
    for is_wide in [false, true] {
        let executor = LocalExecutor::builder().wide_entries(is_wide).build().unwrap();
        executor
            .block_on(async {
                // SAFETY: /dev/null looks at no command, and a regular file has none.
                let (answer, _, held) = unsafe { uring_cmd16(null(), OP, [7; 16], vec![1, 2, 3]) }.await;
                assert_eq!((answer.unwrap(), held), (0, vec![1, 2, 3]));
                // SAFETY: as above.
                let (answer, _, held) = unsafe { uring_cmd16(regular(), OP, [7; 16], "held") }.await;
                assert_eq!((answer.unwrap_err().raw_os_error(), held), (Some(95), "held")); // EOPNOTSUPP
            })
            .unwrap();
    }
}

/// SOCKET_URING_OP_SIOCINQ, 0: the bytes that wait in a socket.
#[test]
fn the_command_arrives() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            // SAFETY: SIOCINQ points to no memory.
            let (bytes, socket, ()) = unsafe { uring_cmd16(socket, 0, [0; 16], ()) }.await;
            assert_eq!(bytes.unwrap(), 5);
            // SAFETY: there is no such command.
            let (answer, ..) = unsafe { uring_cmd16(socket, OP, [0; 16], ()) }.await;
            assert_eq!(answer.unwrap_err().raw_os_error(), Some(95)); // EOPNOTSUPP
        })
        .unwrap();
}

#[test]
fn eighty_bytes_need_wide_entries() {
    let executor = LocalExecutor::builder().wide_entries(true).build().unwrap();
    executor
        .block_on(async {
            // SAFETY: as above.
            let (answer, _, held) = unsafe { uring_cmd80(null(), OP, [7; 80], "held") }.await;
            assert_eq!((answer.unwrap(), held), (0, "held"));
            // SAFETY: as above.
            let (answer, ..) = unsafe { uring_cmd80(regular(), OP, [7; 80], ()) }.await;
            assert_eq!(answer.unwrap_err().raw_os_error(), Some(95)); // EOPNOTSUPP
        })
        .unwrap();
    let executor = LocalExecutor::new().unwrap();
    executor
        .block_on(async {
            // SAFETY: as above.
            let (answer, _, held) = unsafe { uring_cmd80(null(), OP, [7; 80], "held") }.await;
            let error = answer.unwrap_err();
            assert_eq!((error.kind(), held), (ErrorKind::Unsupported, "held"));
            let inner = error.get_ref().unwrap().downcast_ref::<RingError>();
            assert!(matches!(inner, Some(RingError::Narrow)), "{error}");
            assert!(error.to_string().contains("wide_entries(true)"), "{error}");
        })
        .unwrap();
    assert_eq!(executor.stats().in_flight, 0);
}

/// Files, too, go through a ring of wide entries.
#[test]
fn other_operations_work_with_wide_entries() {
    use std::fs::OpenOptions;
    use ublk_executor::io::{DmaBuffer, DmaFile};

    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wide-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = DmaFile::from_std(options.open(&path).unwrap()).unwrap();
    let executor = LocalExecutor::builder().wide_entries(true).build().unwrap();
    executor
        .block_on(async {
            for block in 0..300_u64 {
                let mut buffer = DmaBuffer::new(4096);
                buffer.fill(block as u8);
                file.write_and_sync(buffer, block * 4096).await.0.unwrap();
            }
            for block in 0..300_u64 {
                let (read, buffer) = file.read_at(DmaBuffer::new(4096), block * 4096).await;
                assert_eq!(read.unwrap(), 4096);
                assert!(buffer.iter().all(|&byte| byte == block as u8), "block {block}");
            }
        })
        .unwrap();
    std::fs::remove_file(path).unwrap();
}
