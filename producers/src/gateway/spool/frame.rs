//! An event as it lies on disk: `length u32 │ CRC-32 u32 │ payload`, all integers little-endian. The payload is a count
//! of parts and the parts, each behind its length: topic, value, then a name and a value for each header.

use crate::gateway::prepare::Prepared;
use anyhow::{Context, ensure};
use millrace_schemas::{Envelope, Header};

const HEAD_BYTES: usize = 2 * size_of::<u32>();
/// No record is larger, whatever a damaged length says.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// An event that was read back.
pub(super) struct Spooled {
    pub topic: String,
    pub envelope: Envelope<'static>,
    pub value: Vec<u8>,
    /// Its frame's.
    pub bytes: usize,
}

impl Spooled {
    /// Unix time.
    pub fn recorded_at(&self) -> i64 {
        self.envelope.recorded_at.map_or(0, |at| at.timestamp())
    }
}

/// Writes the event behind what is there; returns how many bytes it takes.
pub(super) fn write(event: &Prepared<'_>, frames: &mut Vec<u8>) -> usize {
    let begin = frames.len();
    frames.extend_from_slice(&[0; HEAD_BYTES]);
    part(event.topic.as_bytes(), frames);
    part(&event.value, frames);
    let frames = event.envelope.put_headers(frames, |frames, name, value| {
        part(name.as_bytes(), frames);
        part(value, frames);
        frames
    });
    let payload = &frames[begin + HEAD_BYTES..];
    let head = [payload.len() as u32, crc32fast::hash(payload)];
    for (at, number) in [begin, begin + 4].into_iter().zip(head) {
        frames[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    frames.len() - begin
}

fn part(bytes: &[u8], frames: &mut Vec<u8>) {
    frames.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    frames.extend_from_slice(bytes);
}

/// How many bytes the first frame of these takes; none where it is not whole.
pub(super) fn whole(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let (length, checksum) = (number(&mut rest)? as usize, number(&mut rest)?);
    let payload = rest.get(..length).filter(|payload| !payload.is_empty() && length <= PAYLOAD_BYTES_MAX)?;
    (crc32fast::hash(payload) == checksum).then_some(HEAD_BYTES + length)
}

/// Where in these bytes the next frame begins that is whole. What can't be one is passed by without its checksum: that
/// of sixteen million bytes at each place would take hours.
pub(super) fn find(bytes: &[u8]) -> Option<usize> {
    let may_be = |mut rest: &[u8]| {
        let (length, _) = (number(&mut rest)? as usize, number(&mut rest)?);
        let mut payload = rest.get(..length).filter(|_| length <= PAYLOAD_BYTES_MAX)?;
        while !payload.is_empty() {
            next_part(&mut payload)?;
        }
        Some(())
    };
    (0..bytes.len()).find(|&at| may_be(&bytes[at..]).is_some() && whole(&bytes[at..]).is_some())
}

/// Of frames that are whole, each event.
///
/// # Errors
/// When one is none of ours.
pub(super) fn read(mut frames: &[u8]) -> anyhow::Result<Vec<Spooled>> {
    let mut events = Vec::new();
    while !frames.is_empty() {
        let bytes = whole(frames).context("a frame is damaged")?;
        events.push(event(&frames[HEAD_BYTES..bytes])?);
        frames = &frames[bytes..];
    }
    Ok(events)
}

fn event(mut payload: &[u8]) -> anyhow::Result<Spooled> {
    let (mut parts, bytes) = (Vec::new(), HEAD_BYTES + payload.len());
    while !payload.is_empty() {
        parts.push(next_part(&mut payload).context("a frame's parts are cut off")?);
    }
    ensure!(parts.len() >= 2, "a frame has no event");
    let headers = parts[2..].chunks_exact(2);
    let headers = headers.filter_map(|header| Some((Header::named(header[0], None)?, header[1])));
    let envelope = Envelope::from_headers(headers)?.into_owned();
    Ok(Spooled { topic: String::from_utf8(parts[0].to_vec())?, envelope, value: parts[1].to_vec(), bytes })
}

fn next_part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(bytes)? as usize;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use chrono::{SubsecRound, Utc};
    use uuid::Uuid;

    pub fn event(n: u128, value: &[u8]) -> Prepared<'static> {
        let mut envelope = Envelope::new("/it", "a.b", "key");
        envelope.id = Uuid::from_u128(n);
        envelope.recorded_at = Some(Utc::now().trunc_subsecs(6));
        envelope.occurred_at = Utc::now().trunc_subsecs(6);
        Prepared {
            id: envelope.id.to_string().into(),
            topic: "a.v1",
            event_type: "a.b",
            envelope,
            value: value.to_vec(),
        }
    }

    #[test]
    fn events_are_read_back_as_they_were_written() {
        let (events, mut frames) = ([event(1, b"one"), event(2, &[0; 70_000])], Vec::new());
        let bytes: usize = events.iter().map(|event| write(event, &mut frames)).sum();
        assert_eq!(bytes, frames.len());
        let read = read(&frames).unwrap();
        assert_eq!(read.len(), 2);
        for (event, found) in events.iter().zip(&read) {
            assert_eq!((event.topic, &event.envelope, &event.value), (&*found.topic, &found.envelope, &found.value));
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_or_altered_anywhere_is_not_whole() {
        let mut frame = Vec::new();
        write(&event(1, b"one"), &mut frame);
        assert_eq!(whole(&frame), Some(frame.len()));
        for at in 0..frame.len() {
            assert_eq!(whole(&frame[..at]), None, "cut at {at}");
            let mut altered = frame.clone();
            altered[at] ^= 1;
            assert_eq!(whole(&altered), None, "altered at {at}");
        }
        assert_eq!(whole(&[0; 64]), None, "what a file system fills in");
    }
}
