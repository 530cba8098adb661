//! How bytes are packed on the wire, both ways: ClickHouse's own block framing (`compress=1`, `decompress=1`) and the
//! codings of HTTP. Blocks in, blocks out; it never sees a socket.
//!
//! A block of ClickHouse's framing is
//! `checksum (16: CityHash128 1.0.2 of the rest) · method (1) · packed size and these 9 bytes (4) · size (4) · packed`.

use super::exception::{Exception, raise};
use cityhash_rs::cityhash_102_128;
use flate2::write::{GzEncoder, ZlibEncoder};
use lz4_flex::frame::FrameEncoder;
use std::io::{self, Read, Write};

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;
/// What clients send is at most some MiB; a server refuses more than this too.
const BLOCK_BYTES_MAX: usize = 1 << 30;
/// Answers are on this machine: speed before size.
const LEVEL: u32 = 1;

/// How a body or an answer is packed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    #[default]
    Plain,
    /// ClickHouse's framing with LZ4.
    Native,
    Gzip,
    Deflate,
    Zstd,
    /// The LZ4 frame format.
    Lz4,
}

/// How a request's body is packed: an HTTP coding around ClickHouse's framing around the data.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BodyCoding {
    pub http: Coding,
    pub native: bool,
}

impl Coding {
    /// `Content-Encoding` of a request.
    pub fn of_body(name: Option<&str>) -> Result<Self, Exception> {
        match name.map(str::trim) {
            None | Some("" | "identity") => Ok(Self::Plain),
            Some(name) => Self::named(name).ok_or_else(|| {
                raise::UNKNOWN_COMPRESSION_METHOD(format!(
                    "Unknown Content-Encoding '{}': gzip, deflate, zstd and lz4 are understood here",
                    name.escape_debug()
                ))
            }),
        }
    }

    /// The first of `Accept-Encoding` that is known here; clients name what they like best first.
    pub fn acceptable(names: &str) -> Self {
        let wanted = |part: &str| {
            let (name, quality) = part.split_once(';').unwrap_or((part, ""));
            if quality.trim() == "q=0" { None } else { Self::named(name.trim()) }
        };
        names.split(',').find_map(wanted).unwrap_or_default()
    }

    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "zstd" => Some(Self::Zstd),
            "lz4" => Some(Self::Lz4),
            _ => None,
        }
    }

    /// For the `Content-Encoding` header of an answer.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Native => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
            Self::Zstd => Some("zstd"),
            Self::Lz4 => Some("lz4"),
        }
    }
}

/// Packs an answer, block by block; each block can be unpacked as soon as it has arrived.
pub enum Packer {
    Plain,
    Native,
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Lz4(FrameEncoder<Vec<u8>>),
}

impl Packer {
    pub fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Plain => Self::Plain,
            Coding::Native => Self::Native,
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(LEVEL))),
            Coding::Deflate => Self::Deflate(ZlibEncoder::new(Vec::new(), flate2::Compression::new(LEVEL))),
            Coding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), LEVEL.cast_signed())?),
            Coding::Lz4 => Self::Lz4(FrameEncoder::new(Vec::new())),
        })
    }

    pub fn pack(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(block.to_vec()),
            Self::Native => Ok(pack_native(block)),
            Self::Gzip(encoder) => flushed(encoder, block, GzEncoder::get_mut),
            Self::Deflate(encoder) => flushed(encoder, block, ZlibEncoder::get_mut),
            Self::Zstd(encoder) => flushed(encoder, block, |encoder| encoder.get_mut()),
            Self::Lz4(encoder) => flushed(encoder, block, FrameEncoder::get_mut),
        }
    }

    /// What closes the stream.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain | Self::Native => Ok(Vec::new()),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
        }
    }
}

fn flushed<E: Write>(encoder: &mut E, block: &[u8], output: impl Fn(&mut E) -> &mut Vec<u8>) -> io::Result<Vec<u8>> {
    encoder.write_all(block)?;
    encoder.flush()?;
    Ok(std::mem::take(output(encoder)))
}

/// One block of ClickHouse's framing; sizes fit, because blocks here are pieces of a pipe.
fn pack_native(block: &[u8]) -> Vec<u8> {
    let mut framed = vec![0; CHECKSUM + HEADER + lz4_flex::block::get_maximum_output_size(block.len())];
    let packed = lz4_flex::block::compress_into(block, &mut framed[CHECKSUM + HEADER..]).unwrap_or(0);
    framed.truncate(CHECKSUM + HEADER + packed);
    framed[CHECKSUM] = LZ4;
    framed[CHECKSUM + 1..CHECKSUM + 5].copy_from_slice(&size32(HEADER + packed));
    framed[CHECKSUM + 5..CHECKSUM + HEADER].copy_from_slice(&size32(block.len()));
    let checksum = checksum(&framed[CHECKSUM..]);
    framed[..CHECKSUM].copy_from_slice(&checksum);
    framed
}

fn size32(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes()
}

/// ClickHouse writes the two halves of the hash in the other order.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    cityhash_102_128(bytes).rotate_right(64).to_le_bytes()
}

/// Unpacks a body: `source` as it came, to the data that it means.
pub fn unpack<'body>(source: impl Read + 'body, coding: BodyCoding) -> io::Result<Box<dyn Read + 'body>> {
    let plain: Box<dyn Read + 'body> = match coding.http {
        Coding::Plain | Coding::Native => Box::new(source),
        Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(source)),
        Coding::Deflate => Box::new(flate2::read::ZlibDecoder::new(source)),
        Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(source)?),
        Coding::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(source)),
    };
    Ok(if coding.native { Box::new(NativeReader { source: plain, block: Vec::new(), at: 0 }) } else { plain })
}

/// Reads ClickHouse's framing, checking every block.
struct NativeReader<R> {
    source: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Read for NativeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let taken = buffer.len().min(self.block.len() - self.at);
        buffer[..taken].copy_from_slice(&self.block[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

impl<R: Read> NativeReader<R> {
    /// False at the end, which may only come between blocks.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut head = [0; CHECKSUM + HEADER];
        let first = self.source.read(&mut head)?;
        if first == 0 {
            return Ok(false);
        }
        self.source.read_exact(&mut head[first..]).map_err(cut)?;
        let sizes = [&head[CHECKSUM + 1..CHECKSUM + 5], &head[CHECKSUM + 5..]].map(size);
        let (packed, unpacked) = (sizes[0], sizes[1]);
        if !(HEADER..=BLOCK_BYTES_MAX).contains(&packed) || unpacked > BLOCK_BYTES_MAX {
            return Err(invalid(raise::CANNOT_DECOMPRESS(format!("a compressed block says it has {packed} bytes"))));
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&head[CHECKSUM..]);
        let rest = (packed - HEADER) as u64;
        if self.source.by_ref().take(rest).read_to_end(&mut bytes)? as u64 != rest {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        if checksum(&bytes) != head[..CHECKSUM] {
            return Err(invalid(raise::CHECKSUM_DOESNT_MATCH("Checksum doesn't match: corrupted data")));
        }
        self.block = unpack_block(bytes[0], &bytes[HEADER..], unpacked)?;
        self.at = 0;
        Ok(true)
    }
}

fn unpack_block(method: u8, packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let damaged =
        |what: &dyn std::fmt::Display| invalid(raise::CANNOT_DECOMPRESS(format!("Cannot decompress: {what}")));
    let block = match method {
        LZ4 => lz4_flex::block::decompress(packed, size).map_err(|error| damaged(&error))?,
        ZSTD => zstd::bulk::decompress(packed, size).map_err(|error| damaged(&error))?,
        NONE => packed.to_vec(),
        other => {
            let what = format!("Unknown codec family code: {other:#04x}");
            return Err(invalid(raise::UNKNOWN_COMPRESSION_METHOD(what)));
        }
    };
    if block.len() == size { Ok(block) } else { Err(damaged(&format!("{} bytes instead of {size}", block.len()))) }
}

fn size(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |size, byte| size << 8 | usize::from(*byte))
}

fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid(raise::CANNOT_DECOMPRESS("the last compressed block is cut")),
        _ => error,
    }
}

/// An exception on its way through [`Read`].
fn invalid(exception: Exception) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, exception)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither constant nor noise.
    fn sample() -> Vec<u8> {
        (0..200_000_u32)
            .map(|at| if at % 3 == 0 { at.wrapping_mul(2_654_435_761).to_le_bytes()[3] } else { 7 })
            .collect()
    }

    #[test]
    fn a_native_block_has_checksum_method_and_sizes() {
        let framed = pack_native(b"\x01");
        assert_eq!(framed[CHECKSUM..CHECKSUM + HEADER], [0x82, 11, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(framed[CHECKSUM + HEADER..], [0x10, 0x01]);
        assert_eq!(framed[..CHECKSUM], checksum(&framed[CHECKSUM..]));
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        let data = sample();
        for coding in [Coding::Plain, Coding::Native, Coding::Gzip, Coding::Deflate, Coding::Zstd, Coding::Lz4] {
            let mut packer = Packer::new(coding).unwrap();
            let mut packed: Vec<u8> = data.chunks(65_536).flat_map(|block| packer.pack(block).unwrap()).collect();
            packed.extend(packer.finish().unwrap());
            let body = BodyCoding {
                http: if coding == Coding::Native { Coding::Plain } else { coding },
                native: coding == Coding::Native,
            };
            let mut unpacked = Vec::new();
            unpack(packed.as_slice(), body).unwrap().read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == data, "{coding:?}");
        }
    }

    #[test]
    fn a_damaged_or_cut_block_is_refused() {
        let read = |bytes: &[u8]| {
            let native = BodyCoding { http: Coding::Plain, native: true };
            let error = unpack(bytes, native).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
            error.into_inner().unwrap().downcast::<Exception>().unwrap().code
        };
        let framed = pack_native(&sample()[..1000]);
        let mut damaged = framed.clone();
        damaged[40] ^= 1;
        assert_eq!(read(&damaged), 40);
        assert_eq!(read(&framed[..framed.len() - 1]), 271);
        assert_eq!(read(&framed[..7]), 271);
        let mut huge = framed;
        huge[CHECKSUM + 1..CHECKSUM + 5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&huge), 271);
    }

    #[test]
    fn the_first_known_coding_is_chosen() {
        assert_eq!(Coding::acceptable("br, zstd;q=0, gzip, lz4"), Coding::Gzip);
        assert_eq!(Coding::acceptable("lz4"), Coding::Lz4);
        assert_eq!(Coding::acceptable("identity"), Coding::Plain);
        assert_eq!(Coding::of_body(Some("br")).unwrap_err().code, 89);
    }
}
