//! The NBD protocol as a client speaks it: fixed newstyle negotiation with NBD_OPT_STARTTLS and NBD_OPT_GO, requests, simple replies.
//!
//! Numbers are big endian. Structured replies are not asked for, so the server sends none.

use std::io::{self, Read, Write};

use ublk_uapi::IoFlags;

use super::super::{Op, Request};
use super::Failure;

const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;
const OPT_STARTTLS: u32 = 5;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// More than any answer to an option: a longer one is no NBD.
const MAX_OPTION_REPLY: u32 = 64 << 10;

/// What the specification lets a client send when the server names no limit.
const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;

pub(super) const REQUEST_BYTES: usize = 28;
pub(super) const REPLY_BYTES: usize = 16;

/// What a server says of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) size_bytes: u64,
    pub(super) flags: u16,
    /// Smallest I/O.
    pub(super) min_block_bytes: u32,
    /// Longest data of one request.
    pub(super) max_payload_bytes: u32,
}

impl Export {
    pub(super) const READ_ONLY: u16 = 1 << 1;
    pub(super) const FLUSH: u16 = 1 << 2;
    pub(super) const FUA: u16 = 1 << 3;
    pub(super) const ROTATIONAL: u16 = 1 << 4;
    pub(super) const TRIM: u16 = 1 << 5;
    pub(super) const WRITE_ZEROES: u16 = 1 << 6;
    pub(super) const MULTI_CONN: u16 = 1 << 8;

    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Takes the server's greeting and answers it: the server then waits for options.
///
/// # Errors
/// What the server did not say as it should; the connection's own errors.
pub(super) fn greet(stream: &mut (impl Read + Write)) -> Result<(), Failure> {
    let (magic, option) = (read_u64(stream)?, read_u64(stream)?);
    if magic != SERVER_MAGIC || option != OPTION_MAGIC {
        return Err(refused("it speaks no NBD, or only its oldest form"));
    }
    let flags = read_u16(stream)?;
    if flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(refused("it does not negotiate (no fixed newstyle)"));
    }
    stream.write_all(&u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).to_be_bytes())?;
    Ok(())
}

/// Asks for TLS. What comes next from the server is its part of the handshake.
///
/// # Errors
/// [`Failure::Tls`] when the server has none: there is no going on without.
pub(super) fn start_tls(stream: &mut (impl Read + Write)) -> Result<(), Failure> {
    stream.write_all(&option(OPT_STARTTLS, &[]))?;
    match option_reply(stream, OPT_STARTTLS)? {
        (REP_ACK, _) => Ok(()),
        (kind, data) if kind & REP_ERROR != 0 => Err(Failure::Tls {
            problem: with_reason("it has no TLS", &data),
            hint: "Give the server a certificate (nbdkit: --tls=require --tls-certificates=DIR), or use nbd:// where nobody can listen or step in.",
        }),
        _ => Err(refused("it answered an option with something unknown")),
    }
}

/// Chooses the export, and with it brings the connection to the transmission phase.
///
/// # Errors
/// What the server refused, or did not say as it should; the connection's own errors.
pub(super) fn choose(stream: &mut (impl Read + Write), export_name: &str) -> Result<Export, Failure> {
    stream.write_all(&option(OPT_GO, &go(export_name)))?;
    let mut export = Export { size_bytes: 0, flags: 0, min_block_bytes: 1, max_payload_bytes: DEFAULT_MAX_PAYLOAD };
    let mut has_size = false;
    loop {
        let (kind, data) = option_reply(stream, OPT_GO)?;
        match (kind, info_type(&data)) {
            (REP_ACK, _) if has_size => return Ok(export),
            (REP_ACK, _) => return Err(refused("it named no size")),
            (REP_INFO, Some(INFO_EXPORT)) if data.len() >= 12 => {
                export.size_bytes = u64::from_be_bytes(array(&data[2..10]));
                export.flags = u16::from_be_bytes(array(&data[10..12]));
                has_size = true;
            }
            (REP_INFO, Some(INFO_BLOCK_SIZE)) if data.len() >= 14 => {
                export.min_block_bytes = u32::from_be_bytes(array(&data[2..6]));
                export.max_payload_bytes = u32::from_be_bytes(array(&data[10..14]));
            }
            (REP_INFO, _) => {}
            (kind, _) if kind & REP_ERROR != 0 => return Err(option_error(kind, &data, export_name)),
            _ => return Err(refused("it answered an option with something unknown")),
        }
    }
}

fn go(export_name: &str) -> Vec<u8> {
    let name = export_name.as_bytes();
    let mut data = Vec::new();
    data.extend_from_slice(&(name.len() as u32).to_be_bytes());
    data.extend_from_slice(name);
    data.extend_from_slice(&1_u16.to_be_bytes());
    data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
    data
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [&OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

fn option_reply(stream: &mut impl Read, to: u32) -> Result<(u32, Vec<u8>), Failure> {
    let (magic, option) = (read_u64(stream)?, read_u32(stream)?);
    let (kind, length) = (read_u32(stream)?, read_u32(stream)?);
    if magic != OPTION_REPLY_MAGIC || option != to || length > MAX_OPTION_REPLY {
        return Err(refused("it answered an option that was not asked"));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

fn info_type(data: &[u8]) -> Option<u16> {
    data.get(..2).map(|data| u16::from_be_bytes(array(data)))
}

fn option_error(kind: u32, data: &[u8], export_name: &str) -> Failure {
    let what = match kind & !REP_ERROR {
        1 => "it does not know NBD_OPT_GO (too old)".to_owned(),
        2 => "its policy forbids it".to_owned(),
        5 => {
            return Failure::Tls {
                problem: with_reason("it wants TLS", data),
                hint: "Use nbds:// (or nbds+unix://), with ?tls-certificates=DIR if its certificate is from an authority of your own.",
            };
        }
        6 => format!("it has no export {export_name:?}"),
        7 => "it is shutting down".to_owned(),
        number => format!("it refused the export (error {number})"),
    };
    Failure::Refused(with_reason(&what, data))
}

/// A server may say why it refuses.
fn with_reason(what: &str, data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if !text.trim().is_empty() => format!("{what}: {}", text.trim()),
        _ => what.to_owned(),
    }
}

fn refused(what: &str) -> Failure {
    Failure::Refused(what.to_owned())
}

/// A request; None for operations that NBD does not have.
pub(super) fn encode(request: &Request, cookie: u64) -> Option<[u8; REQUEST_BYTES]> {
    let command: u16 = match request.op {
        Op::Read => 0,
        Op::Write => 1,
        Op::Flush => 3,
        Op::Discard => 4,
        Op::WriteZeroes => 6,
        _ => return None,
    };
    let no_hole = request.op == Op::WriteZeroes && request.flags.contains(IoFlags::NOUNMAP);
    let fua = matches!(request.op, Op::Write | Op::WriteZeroes) && request.is_fua();
    let flags = u16::from(fua) | u16::from(no_hole) << 1;
    let offset = if request.op == Op::Flush { 0 } else { request.offset_bytes() };
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..28].copy_from_slice(&request.len_bytes.to_be_bytes());
    Some(bytes)
}

/// A reply: its cookie, and 0 or -errno. None: it is none.
pub(super) fn decode(bytes: &[u8; REPLY_BYTES]) -> Option<(u64, i32)> {
    if bytes[..4] != REPLY_MAGIC.to_be_bytes() {
        return None;
    }
    let error = u32::from_be_bytes(array(&bytes[4..8]));
    Some((u64::from_be_bytes(array(&bytes[8..16])), -linux_errno(error)))
}

/// NBD's errors have Linux's numbers; one that the specification does not have is EINVAL, as it says.
fn linux_errno(error: u32) -> i32 {
    const KNOWN: [i32; 7] =
        [libc::EPERM, libc::EIO, libc::ENOMEM, libc::EINVAL, libc::ENOSPC, libc::EOVERFLOW, libc::EOPNOTSUPP];
    match error as i32 {
        0 => 0,
        libc::ESHUTDOWN => libc::EIO,
        errno if KNOWN.contains(&errno) => errno,
        _ => libc::EINVAL,
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

fn read_u16(stream: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(stream: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that has written all its answers in advance.
    struct Script {
        answers: io::Cursor<Vec<u8>>,
        said: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answers.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.said.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reply(kind: u32, data: &[u8]) -> Vec<u8> {
        let head = [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &OPT_GO.to_be_bytes(), &kind.to_be_bytes()].concat();
        [&head[..], &(data.len() as u32).to_be_bytes(), data].concat()
    }

    fn negotiated(answers: &[Vec<u8>]) -> (Result<Export, Failure>, Vec<u8>) {
        let greeting = [&SERVER_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &3_u16.to_be_bytes()].concat();
        let mut script = Script { answers: io::Cursor::new([greeting, answers.concat()].concat()), said: Vec::new() };
        (greet(&mut script).and_then(|()| choose(&mut script, "disk")), script.said)
    }

    #[test]
    fn an_export_is_what_the_server_says_whatever_else_it_tells() {
        let size = [&INFO_EXPORT.to_be_bytes()[..], &(1_u64 << 40).to_be_bytes(), &0x16d_u16.to_be_bytes()].concat();
        let blocks = [&INFO_BLOCK_SIZE.to_be_bytes()[..], &[0, 0, 2, 0, 0, 0, 16, 0, 0, 1, 0, 0]].concat();
        let answers =
            [reply(REP_INFO, &[0, 2, b'x']), reply(REP_INFO, &size), reply(REP_INFO, &blocks), reply(REP_ACK, &[])];
        let (export, said) = negotiated(&answers);
        let expected = Export { size_bytes: 1 << 40, flags: 0x16d, min_block_bytes: 512, max_payload_bytes: 65536 };
        assert_eq!(export.unwrap(), expected);
        assert_eq!(said, [&[0, 0, 0, 3][..], b"IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04disk\0\x01\0\x03"].concat());
    }

    #[test]
    fn what_a_server_refuses_is_told() {
        for (answers, problem) in [
            (vec![reply(REP_ERROR | 6, b"no such thing")], "it has no export \"disk\": no such thing"),
            (vec![reply(REP_ERROR | 5, b"")], "it wants TLS"),
            (vec![reply(REP_ACK, b"")], "it named no size"),
            (vec![b"HTTP/1.1 400 Bad Request and so on".to_vec()], "it answered an option that was not asked"),
        ] {
            assert_eq!(negotiated(&answers).0.unwrap_err().to_string(), problem);
        }
        assert_eq!(negotiated(&[]).0.unwrap_err().to_string(), "it hung up");
    }

    #[test]
    fn a_server_without_tls_is_asked_nothing_more() {
        for (answer, problem) in [(REP_ERROR | 1, "it has no TLS: what?"), (REP_ERROR | 2, "it has no TLS: what?")] {
            let mut answer = reply(answer, b"what?");
            answer[8..12].copy_from_slice(&OPT_STARTTLS.to_be_bytes());
            let mut script = Script { answers: io::Cursor::new(answer), said: Vec::new() };
            let refusal = start_tls(&mut script).unwrap_err();
            assert!(matches!(&refusal, Failure::Tls { problem: told, .. } if told == problem), "{refusal}");
            assert_eq!(script.said, b"IHAVEOPT\0\0\0\x05\0\0\0\0");
        }
    }

    #[test]
    fn requests_and_replies_have_the_layout_of_the_specification() {
        let flags = IoFlags::FUA | IoFlags::NOUNMAP;
        let request = Request { op: Op::WriteZeroes, flags, start_sector: 3, len_bytes: 4096, ..Request::default() };
        let bytes = encode(&request, 0x0102).unwrap();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 3, 0, 6]);
        assert_eq!(bytes[8..], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0x10, 0]);
        let mut reply = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(decode(&reply), Some((0x0102, -libc::ENOSPC)));
        reply[7] = 108;
        assert_eq!(decode(&reply), Some((0x0102, -libc::EIO)));
        reply[0] = 0;
        assert_eq!(decode(&reply), None);
    }
}
