//! The spool's files: appended to at the end and synced, read from the beginning, removed once all of one is in the log.
//! Of a file that was damaged everything else is read, and then it is not removed but renamed.
//!
//! Blocks; one thread owns it.

use super::frame;
use anyhow::{Context, ensure};
use rustix::fs::{FlockOperation, flock};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What is sent again after a crash, at most: far fewer events than the log's own deduplication remembers.
pub(super) const SEGMENT_BYTES: u64 = 16 << 20;
const EXTENSION: &str = "spool";
/// What was cut off of a segment lies beside it.
const TORN: &str = "torn";
/// A segment that had damage, once all else of it is in the log.
const DAMAGED: &str = "damaged";

pub(super) struct Segments {
    directory: PathBuf,
    /// Oldest first.
    files: VecDeque<Segment>,
    /// The last one, while it is appended to.
    end: Option<File>,
    next_number: u64,
    /// Of the first, what is in the log.
    settled: u64,
    /// Of all.
    bytes: u64,
    _lock: File,
}

/// Whole frames one behind the other: all of a file, or of one that was damaged the stretch up to there, or behind it.
struct Segment {
    path: PathBuf,
    begin: u64,
    /// Synced.
    bytes: u64,
    is_damaged: bool,
}

/// What an earlier process left.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub events: u64,
    /// Stretches that are no events any more.
    pub damaged: u64,
}

impl Segments {
    /// Takes the directory, and counts the events that an earlier process left there.
    ///
    /// # Errors
    /// When another process has it, or it can't be used.
    pub fn open(directory: &Path) -> anyhow::Result<(Self, Found)> {
        let context = || format!("gateway.spool.directory = {}", directory.display());
        let lock = take(directory).with_context(context)?;
        let numbers = numbers(directory).with_context(context)?;
        let next_number = numbers.last().map_or(0, |newest| newest + 1);
        let (files, directory) = (VecDeque::new(), directory.to_path_buf());
        let mut segments = Self { directory, files, end: None, next_number, settled: 0, bytes: 0, _lock: lock };
        let mut found = Found::default();
        for number in numbers {
            let path = path(&segments.directory, number);
            let recovered = segments.recover(&path, number + 1 == next_number, &mut found);
            recovered.with_context(|| format!("could not read {}", path.display()))?;
        }
        Ok((segments, found))
    }

    /// Only the newest file may end with what is no frame: a process died while it wrote, and nobody was told of it.
    fn recover(&mut self, path: &Path, is_newest: bool, found: &mut Found) -> io::Result<()> {
        let bytes = fs::read(path)?;
        let (stretches, mut gaps) = scan(&bytes);
        let torn = gaps.pop_if(|gap| is_newest && gap.end == bytes.len());
        let is_left = torn.is_some_and(|torn| !cut_off(path, torn.start, &bytes[torn]));
        for Range { start, end } in &gaps {
            let (path, bytes) = (path.display(), end - start);
            tracing::error!(
                "{path} is damaged: at {start} are {bytes} bytes that are no events, which are passed over"
            );
        }
        let is_damaged = !gaps.is_empty();
        found.damaged += gaps.len() as u64;
        for Stretch { begin, bytes, events } in &stretches {
            found.events += events;
            self.bytes += bytes;
            self.files.push_back(Segment { path: path.into(), begin: *begin, bytes: *bytes, is_damaged });
        }
        if stretches.is_empty() && !is_left { put_away(path, is_damaged) } else { Ok(()) }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of what is not settled.
    pub fn unsettled(&self) -> u64 {
        self.bytes - self.settled
    }

    /// All of these frames are on disk when it returns, or none counts.
    pub fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        let written = self.write(frames);
        if written.is_err() {
            self.abandon_end();
        }
        written
    }

    /// Nobody knows what the disk has of what failed: cut off if that works, and never appended to again.
    fn abandon_end(&mut self) {
        let Some((end, segment)) = self.end.take().zip(self.files.back()) else { return };
        if segment.bytes > 0 {
            let _ = end.set_len(segment.bytes).and_then(|()| end.sync_data());
        } else {
            let _ = fs::remove_file(&segment.path);
            self.files.pop_back();
        }
    }

    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.files.back().is_none_or(|segment| segment.bytes + frames.len() as u64 > SEGMENT_BYTES) {
            self.end = None;
        }
        let end = match &mut self.end {
            Some(end) => end,
            None => {
                let path = path(&self.directory, self.next_number);
                let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
                self.next_number += 1;
                self.files.push_back(Segment { path, begin: 0, bytes: 0, is_damaged: false });
                let end = self.end.insert(file);
                sync_directory(&self.directory)?; // or the file could be gone, with what it holds
                end
            }
        };
        end.write_all(frames)?;
        end.sync_data()?;
        if let Some(segment) = self.files.back_mut() {
            segment.bytes += frames.len() as u64;
            self.bytes += frames.len() as u64;
        }
        Ok(())
    }

    /// The oldest frames that are not settled, about so many bytes; empty when there are none.
    pub fn read(&self, bytes: usize) -> io::Result<Vec<u8>> {
        let Some(segment) = self.files.front() else { return Ok(Vec::new()) };
        let file = File::open(&segment.path)?;
        let left = usize::try_from(segment.bytes - self.settled).unwrap_or(usize::MAX);
        let mut wanted = left.min(bytes);
        loop {
            let mut found = vec![0; wanted];
            file.read_exact_at(&mut found, segment.begin + self.settled)?;
            let (whole, _) = whole_frames(&found);
            if whole > 0 || wanted == left {
                found.truncate(whole);
                let error = || format!("{} is damaged: a restart passes over that", segment.path.display());
                return if whole == 0 && left > 0 { Err(io::Error::other(error())) } else { Ok(found) };
            }
            wanted = left.min(2 * wanted); // a frame that is larger
        }
    }

    /// So many bytes of the oldest are in the log.
    pub fn settle(&mut self, bytes: u64) {
        self.settled += bytes;
        let Some(segment) = self.files.pop_front_if(|segment| segment.bytes <= self.settled) else { return };
        self.bytes -= segment.bytes;
        self.settled = 0;
        if self.files.is_empty() {
            self.end = None;
        }
        if self.files.front().is_some_and(|next| next.path == segment.path) {
            return;
        }
        if let Err(error) = put_away(&segment.path, segment.is_damaged) {
            let path = segment.path.display();
            tracing::error!("could not put {path} away, so it is sent again after a restart: {error}");
        }
    }
}

/// Gone for good: without the sync a machine that dies would send it again.
fn put_away(path: &Path, is_damaged: bool) -> io::Result<()> {
    if is_damaged {
        fs::rename(path, path.with_extension(DAMAGED))?;
    } else {
        fs::remove_file(path)?;
    }
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Two processes in one directory would each remove what the other needs.
fn take(directory: &Path) -> anyhow::Result<File> {
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?; // which names it
        }
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock"))?;
    let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    ensure!(taken.is_ok(), "another process uses it: give each gateway a directory of its own");
    Ok(file)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}.{EXTENSION}"))
}

/// Of the segments, oldest first.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        numbers.extend(stem.filter(|_| is_segment).and_then(|stem| stem.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// False where what it cuts off could not be kept: then it stays where it is, and is no more in the way there.
fn cut_off(path: &Path, whole: usize, torn: &[u8]) -> bool {
    let (segment, bytes, kept) = (path.display(), torn.len(), path.with_extension(TORN));
    let cut = keep(&kept, torn).and_then(|()| {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()
    });
    let kept = kept.display();
    match &cut {
        Ok(()) => tracing::warn!("{segment} ends with {bytes} bytes that are no whole event: cut off, kept in {kept}"),
        Err(error) => tracing::warn!(
            "{segment} ends with {bytes} bytes that are no whole event: left there, for {kept} could not be written: \
             {error}"
        ),
    }
    cut.is_ok()
}

fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_directory)
}

struct Stretch {
    begin: u64,
    bytes: u64,
    events: u64,
}

/// Stretches of whole frames, and between them what is none.
fn scan(bytes: &[u8]) -> (Vec<Stretch>, Vec<Range<usize>>) {
    let (mut stretches, mut gaps, mut at) = (Vec::new(), Vec::new(), 0);
    while at < bytes.len() {
        let (whole, events) = whole_frames(&bytes[at..]);
        if whole > 0 {
            stretches.push(Stretch { begin: at as u64, bytes: whole as u64, events });
            at += whole;
        } else {
            let end = frame::find(&bytes[at..]).map_or(bytes.len(), |next| at + next);
            gaps.push(at..end);
            at = end;
        }
    }
    (stretches, gaps)
}

fn whole_frames(bytes: &[u8]) -> (usize, u64) {
    let (mut whole, mut events) = (0, 0);
    while let Some(frame) = frame::whole(&bytes[whole..]) {
        whole += frame;
        events += 1;
    }
    (whole, events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::spool::frame::tests::event;

    fn frames(ids: std::ops::Range<u128>) -> Vec<u8> {
        let mut frames = Vec::new();
        for n in ids {
            frame::write(&event(n, b"value"), &mut frames);
        }
        frames
    }

    fn ids(frames: &[u8]) -> Vec<u128> {
        frame::read(frames).unwrap().iter().map(|event| event.envelope.id.as_u128()).collect()
    }

    /// All that is left, as it would be sent.
    fn drained(segments: &mut Segments, at_once: usize) -> Vec<u128> {
        let mut found = Vec::new();
        loop {
            let frames = segments.read(at_once).unwrap();
            if frames.is_empty() {
                return found;
            }
            found.extend(ids(&frames));
            segments.settle(frames.len() as u64);
        }
    }

    fn files(directory: &Path) -> usize {
        numbers(directory).unwrap().len()
    }

    #[test]
    fn what_was_appended_is_read_in_its_order_by_this_process_and_the_next_and_then_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, found) = Segments::open(directory.path()).unwrap();
        assert_eq!((found, segments.bytes()), (Found::default(), 0));
        segments.append(&frames(0..10)).unwrap();
        let first = segments.read(1).unwrap();
        assert_eq!(ids(&first), [0], "at least one event, however large");
        segments.settle(first.len() as u64);
        segments.append(&frames(10..12)).unwrap();
        drop(segments);
        let (mut segments, found) = Segments::open(directory.path()).unwrap();
        assert_eq!(found.events, 12, "of a segment that is not settled all of it");
        segments.append(&frames(12..15)).unwrap();
        assert_eq!(drained(&mut segments, 500), (0..15).collect::<Vec<_>>());
        assert_eq!((segments.bytes(), files(directory.path())), (0, 0));
        segments.append(&frames(15..16)).unwrap();
        assert_eq!(drained(&mut segments, 500), [15]);
    }

    #[test]
    fn wherever_a_process_dies_while_it_writes_what_was_synced_before_is_whole() {
        let (before, after) = (frames(0..3), frames(3..5));
        let first_of_after = frames(3..4).len();
        for cut in (0..after.len()).step_by(7).chain([first_of_after - 1, first_of_after, after.len()]) {
            let directory = tempfile::tempdir().unwrap();
            let torn = [&before[..], &after[..cut]].concat();
            fs::write(path(directory.path(), 7), torn).unwrap();
            let (mut segments, found) = Segments::open(directory.path()).unwrap();
            let whole = 3 + u128::from(cut >= first_of_after) + u128::from(cut == after.len());
            assert_eq!((u128::from(found.events), found.damaged), (whole, 0), "cut at {cut}");
            segments.append(&frames(9..10)).unwrap();
            let expected: Vec<u128> = (0..whole).chain([9]).collect();
            assert_eq!(drained(&mut segments, 1 << 20), expected, "cut at {cut}");
        }
    }

    /// Three files of so many events, the second with damage in its event of that number.
    fn damaged(directory: &Path, events: u128, at: u128) {
        for number in 0..3 {
            let begin = u128::from(number) * events;
            let mut bytes = frames(begin..begin + events);
            if number == 1 {
                let bad = frames(begin..begin + at).len() + 20;
                bytes[bad] ^= 1;
            }
            fs::write(path(directory, number), bytes).unwrap();
        }
    }

    #[test]
    fn damage_costs_the_event_that_it_hit_and_none_before_or_behind_it() {
        for at in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            damaged(directory.path(), 3, at);
            let (mut segments, found) = Segments::open(directory.path()).unwrap();
            assert_eq!(found, Found { events: 8, damaged: 1 });
            segments.append(&frames(9..10)).unwrap();
            let others: Vec<u128> = (0..10).filter(|id| *id != 3 + at).collect();
            assert_eq!(drained(&mut segments, 1 << 20), others);
            assert_eq!((segments.bytes(), files(directory.path())), (0, 0));
            let kept = fs::read(path(directory.path(), 1).with_extension(DAMAGED)).unwrap();
            assert_eq!(kept.len(), frames(3..6).len(), "the file is there as it was");
        }
    }

    #[test]
    fn the_newest_file_may_be_damaged_and_torn_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = [frames(0..3), b"\x40\0\0\0half an event".to_vec()].concat();
        bytes[0] ^= 1;
        fs::write(path(directory.path(), 0), bytes).unwrap();
        let (mut segments, found) = Segments::open(directory.path()).unwrap();
        assert_eq!(found, Found { events: 2, damaged: 1 });
        assert_eq!(drained(&mut segments, 1 << 20), [1, 2]);
        assert_eq!(fs::read(path(directory.path(), 0).with_extension(TORN)).unwrap(), b"\x40\0\0\0half an event");
    }

    #[test]
    fn what_is_torn_and_finds_no_place_beside_stays_and_keeps_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(path(directory.path(), 0), [frames(0..2), b"half".to_vec()].concat()).unwrap();
        fs::create_dir(path(directory.path(), 0).with_extension(TORN)).unwrap();
        let (mut segments, found) = Segments::open(directory.path()).unwrap();
        assert_eq!(found, Found { events: 2, damaged: 0 });
        segments.append(&frames(2..3)).unwrap();
        assert_eq!(drained(&mut segments, 1 << 20), [0, 1, 2]);
    }

    #[test]
    fn a_segment_ends_at_its_size_and_is_removed_as_soon_as_it_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, _) = Segments::open(directory.path()).unwrap();
        let mut large = Vec::new();
        for n in 0..16 {
            frame::write(&event(n, &vec![0; 1 << 20]), &mut large);
        }
        segments.append(&large).unwrap();
        segments.append(&frames(16..17)).unwrap();
        assert_eq!(files(directory.path()), 2);
        let first = segments.read(usize::MAX).unwrap();
        segments.settle(first.len() as u64);
        assert_eq!((files(directory.path()), drained(&mut segments, 1)), (1, vec![16]));
    }

    #[test]
    fn what_the_disk_did_not_take_does_not_count_and_is_not_in_the_way_of_what_it_takes_later() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, _) = Segments::open(directory.path()).unwrap();
        let (gone, moved) = (directory.path().to_path_buf(), directory.path().with_extension("moved"));
        fs::rename(&gone, &moved).unwrap();
        assert!(segments.append(&frames(0..2)).is_err());
        assert_eq!((segments.bytes(), segments.read(1).unwrap()), (0, vec![]));
        fs::rename(&moved, &gone).unwrap();
        segments.append(&frames(2..4)).unwrap();
        assert_eq!(drained(&mut segments, 1), [2, 3]);
    }

    #[test]
    fn a_directory_is_one_processs_alone() {
        let directory = tempfile::tempdir().unwrap();
        let held = Segments::open(directory.path()).unwrap();
        let error = Segments::open(directory.path()).err().unwrap();
        assert!(format!("{error:#}").contains("another process uses it"), "{error:#}");
        drop(held);
        assert!(Segments::open(directory.path()).is_ok());
    }
}
