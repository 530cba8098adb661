//! Where a worker pulls one partition's records from.

use crate::Record;
use crate::memory_bound::Held;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// A batch is weighed, and what all partitions together hold is told, after so many bytes of records: that is one number
/// that all of them write.
const TOLD_EVERY: usize = 64 << 10;

/// How often who is short of memory looks whether there is some.
const ROOM_EVERY: Duration = Duration::from_millis(20);

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub rows: usize,
    pub bytes: usize,
    /// From its first record on; then until somebody waits for it.
    pub linger: Duration,
}

/// One partition's records in offset order.
pub trait Source: Send {
    /// The next record, or `None` when this partition is being given up. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Option<Record>> + Send;

    /// The next record, if it is there already: most are, and need not be waited for.
    fn ready(&mut self) -> Option<Record> {
        None
    }
}

/// How far the batch is that is being gathered: there is one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for company.
    Growing,
    /// It may end: it has waited for long enough, or is full.
    Ripe,
    /// It ends once it is ripe and no record is there that it has room for. Until then more records cost no time, and
    /// fewer batches less.
    Wanted,
}

/// Where who gathers and who applies agree on when a batch ends.
#[derive(Debug, Clone)]
pub(crate) struct Agreement(Arc<watch::Sender<Stage>>);

impl Agreement {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Stage::Growing)))
    }

    /// Said by who gathers.
    pub fn ripens(&self) {
        self.0.send_if_modified(|stage| {
            let growing = *stage == Stage::Growing;
            if growing {
                *stage = Stage::Ripe;
            }
            growing
        });
    }

    pub async fn until_ripe(&self) {
        self.until(|stage| stage != Stage::Growing).await;
    }

    /// Said by who is to apply it.
    pub fn wants(&self) {
        self.0.send_replace(Stage::Wanted);
    }

    pub async fn until_wanted(&self) {
        self.until(|stage| stage == Stage::Wanted).await;
    }

    /// That batch was handed over: this is about the next one.
    pub fn begins_anew(&self) {
        self.0.send_replace(Stage::Growing);
    }

    async fn until(&self, reached: impl Fn(Stage) -> bool) {
        let _ = self.0.subscribe().wait_for(|stage| reached(*stage)).await; // the sender is here
    }
}

/// A source that can hold one record back, so that a batch may end exactly where a plan says.
pub(crate) struct Puller<S> {
    source: S,
    held: Option<Record>,
    agreed: Agreement,
}

impl<S: Source> Puller<S> {
    pub fn new(source: S, agreed: Agreement) -> Self {
        Self { source, held: None, agreed }
    }

    pub async fn next(&mut self) -> Option<Record> {
        match self.held.take() {
            Some(record) => Some(record),
            None => self.source.next().await,
        }
    }

    pub fn hold(&mut self, record: Record) {
        self.held = Some(record);
    }

    /// The next record of a batch.
    pub async fn pull(&mut self, filling: &mut Filling) -> Pulled {
        while filling.is_full() {
            filling.tell();
            if !filling.is_cut_short() || self.is_wanted_soon().await {
                return Pulled::Full;
            }
            filling.has_lingered();
            filling.look_for_room();
        }
        let record = match (self.held.take().or_else(|| self.source.ready()), filling.deadline()) {
            (Some(record), _) => Some(record),
            (None, None) => self.source.next().await,
            (None, Some(deadline)) => {
                filling.tell();
                match self.next_until_wanted(deadline).await {
                    Some(record) => Some(record),
                    None => return Pulled::Full,
                }
            }
        };
        filling.begin();
        match record {
            None => Pulled::Ended,
            Some(record) if filling.is_beyond(&record) => {
                self.hold(record);
                Pulled::Full
            }
            Some(record) => {
                filling.count(&record);
                Pulled::Record(record)
            }
        }
    }

    /// What is cut short waits for room as long as nobody waits for it.
    async fn is_wanted_soon(&self) -> bool {
        self.agreed.ripens();
        timeout(ROOM_EVERY, self.agreed.until_wanted()).await.is_ok()
    }

    /// `None` at the end, too.
    async fn next_until_wanted(&mut self, deadline: Instant) -> Option<Record> {
        let wanted = async {
            sleep_until(deadline).await;
            self.agreed.ripens();
            self.agreed.until_wanted().await;
        };
        tokio::select! {
            biased;
            record = self.source.next() => record,
            () = wanted => None,
        }
    }
}

/// What [`Puller::pull`] found.
pub(crate) enum Pulled {
    Record(Record),
    /// The batch is as large as it gets.
    Full,
    /// The partition is being given up.
    Ended,
}

/// How far a batch is filled, and what ends it.
pub(crate) struct Filling {
    limits: Limits,
    until: Until,
    rows: usize,
    held: Held,
    /// On top of it.
    untold: usize,
    /// Since it was weighed.
    unweighed: usize,
    bytes_max: usize,
    next: Option<i64>,
}

enum Until {
    /// An earlier owner planned this range: exactly the records before this offset, whatever the limits.
    Planned(i64),
    /// The limits, or the batch's linger once there is a first record.
    Linger(Option<Instant>),
}

impl Filling {
    pub fn new(limits: Limits, planned: Option<i64>, held: Held) -> Self {
        let until = planned.map_or(Until::Linger(None), Until::Planned);
        let bytes_max = held.share(limits.bytes);
        Self { limits, until, rows: 0, held, untold: 0, unweighed: 0, bytes_max, next: None }
    }

    fn is_full(&self) -> bool {
        match self.until {
            Until::Planned(to) => self.next.is_some_and(|next| next >= to),
            Until::Linger(_) => self.rows >= self.limits.rows || self.held.bytes() + self.untold >= self.bytes_max,
        }
    }

    /// It could hold more, if the others held less.
    fn is_cut_short(&self) -> bool {
        let room = self.rows < self.limits.rows && self.held.bytes() + self.untold < self.limits.bytes;
        room && matches!(self.until, Until::Linger(_))
    }

    fn has_lingered(&mut self) {
        self.until = Until::Linger(Some(Instant::now()));
    }

    fn look_for_room(&mut self) {
        self.bytes_max = self.held.share(self.limits.bytes);
    }

    /// Until when the next record may come, at least.
    fn deadline(&self) -> Option<Instant> {
        match self.until {
            Until::Planned(_) => None,
            Until::Linger(deadline) => deadline,
        }
    }

    /// From the first record on, company is waited for.
    fn begin(&mut self) {
        if let Until::Linger(None) = self.until {
            self.until = Until::Linger(Some(Instant::now() + self.limits.linger));
        }
    }

    fn is_beyond(&self, record: &Record) -> bool {
        matches!(self.until, Until::Planned(to) if record.position.offset >= to)
    }

    fn count(&mut self, record: &Record) {
        self.rows += 1;
        self.next = Some(record.position.offset + 1);
        self.untold += record.weight();
        self.unweighed += record.weight();
    }

    /// Now and then: a batch weighs what it has become, where that is known, and else what its records were.
    pub fn weigh(&mut self, weight: impl FnOnce() -> Option<usize>) {
        if self.unweighed >= TOLD_EVERY {
            self.held.set(weight().unwrap_or(self.held.bytes() + self.untold));
            (self.untold, self.unweighed) = (0, 0);
            self.look_for_room();
        }
    }

    /// Before it may have to wait for long: of many such batches, what is untold would be much. And the others may have
    /// taken all the room since it looked last.
    fn tell(&mut self) {
        self.held.take(std::mem::take(&mut self.untold));
        self.look_for_room();
    }

    /// What the batch weighs, to be held as long as it is.
    pub fn into_held(mut self) -> Held {
        self.tell();
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_bound::MemoryBound;
    use crate::{MemorySource, Position, RecordBuilder};
    use bytes::BytesMut;
    use std::time::Duration;

    fn records(offsets: impl IntoIterator<Item = i64>) -> MemorySource {
        let record = |offset| {
            let position = Position { topic: "t".into(), partition: 0, offset };
            RecordBuilder::new(&mut BytesMut::new(), Some(b"k"), Some(&[0; 100])).build(position, None)
        };
        MemorySource::new(offsets.into_iter().map(record))
    }

    /// The offsets of the next batch.
    async fn batch(source: &mut Puller<MemorySource>, limits: Limits, planned: Option<i64>) -> Option<Vec<i64>> {
        let mut filling = Filling::new(limits, planned, plenty());
        let mut offsets = Vec::new();
        loop {
            match source.pull(&mut filling).await {
                Pulled::Record(record) => offsets.push(record.position.offset),
                Pulled::Full => return Some(offsets),
                Pulled::Ended => return None,
            }
        }
    }

    fn plenty() -> Held {
        Held::nothing(&MemoryBound::new(usize::MAX))
    }

    fn limits(rows: usize, bytes: usize) -> Limits {
        Limits { rows, bytes, linger: Duration::from_secs(1) }
    }

    fn wanted() -> Agreement {
        let agreed = Agreement::new();
        agreed.wants();
        agreed
    }

    #[tokio::test]
    async fn a_planned_range_is_read_again_exactly_whatever_the_limits_say() {
        // Compaction took some of the planned records since.
        let mut source = Puller::new(records([3, 4, 7, 10, 11]), wanted());
        assert_eq!(batch(&mut source, limits(1, 1), Some(10)).await, Some(vec![3, 4, 7]));
        assert_eq!(batch(&mut source, limits(9, 9_999), None).await, Some(vec![10, 11]), "nothing was lost behind it");
        assert_eq!(batch(&mut source, limits(9, 9_999), None).await, None);
    }

    #[tokio::test]
    async fn rows_and_bytes_end_a_batch() {
        let mut source = Puller::new(records(0..10), wanted());
        assert_eq!(batch(&mut source, limits(3, usize::MAX), None).await, Some(vec![0, 1, 2]));
        assert_eq!(batch(&mut source, limits(9, 1), None).await, Some(vec![3]), "one record is always taken");
    }

    /// Gives a record every 400 ms.
    struct Slow(MemorySource);

    impl Source for Slow {
        async fn next(&mut self) -> Option<Record> {
            tokio::time::sleep(Duration::from_millis(400)).await;
            self.0.next().await
        }
    }

    async fn rows(source: &mut Puller<Slow>) -> usize {
        let mut filling = Filling::new(limits(9, 9_999), None, plenty());
        let mut rows = 0;
        while let Pulled::Record(_) = source.pull(&mut filling).await {
            rows += 1;
        }
        rows
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_company_no_longer_than_its_linger() {
        let mut source = Puller::new(Slow(records(0..10)), wanted());
        assert_eq!(rows(&mut source).await, 3, "the first at 400 ms, then those of the second that follows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_nobody_waits_for_goes_on_until_somebody_does_or_it_is_full() {
        let agreed = Agreement::new();
        let mut source = Puller::new(Slow(records(0..20)), agreed.clone());
        let began = Instant::now();
        let soon = async {
            agreed.until_ripe().await;
            assert_eq!(began.elapsed(), Duration::from_millis(1_400), "the first at 400 ms, and its linger");
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            agreed.wants();
        };
        assert_eq!(tokio::join!(rows(&mut source), soon).0, 6, "those of 2.4 s");
        agreed.begins_anew();
        assert_eq!(rows(&mut source).await, 9, "the limit");
    }

    /// Of 40 KiB each: lighter than what is told at once.
    fn heavy(count: i64) -> MemorySource {
        let record = |offset| {
            let position = Position { topic: "t".into(), partition: 0, offset };
            RecordBuilder::new(&mut BytesMut::new(), Some(b"k"), Some(&[0; 40 << 10])).build(position, None)
        };
        MemorySource::new((0..count).map(record))
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_fills_slowly_hears_that_the_others_have_taken_the_room() {
        let bytes_max = 10 << 20;
        let memory = MemoryBound::new(bytes_max);
        let agreed = Agreement::new();
        let mut source = Puller::new(Slow(heavy(20)), agreed.clone());
        let mut filling = Filling::new(limits(9, bytes_max), None, Held::nothing(&memory));
        assert!(matches!(source.pull(&mut filling).await, Pulled::Record(_)));
        let mut others = Held::nothing(&memory);
        others.take(bytes_max);
        let gathering = async {
            let mut rows = 1;
            while let Pulled::Record(_) = source.pull(&mut filling).await {
                filling.weigh(|| None);
                rows += 1;
            }
            rows
        };
        let later = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            agreed.wants();
        };
        assert_eq!(tokio::join!(gathering, later).0, 7, "those that nobody is refused");
    }

    #[tokio::test(start_paused = true)]
    async fn what_memory_cuts_short_grows_once_there_is_some_or_ends_when_it_is_wanted() {
        let bytes_max = 10 << 20;
        let memory = MemoryBound::new(bytes_max);
        let mut others = Held::nothing(&memory);
        others.take(bytes_max);
        let agreed = Agreement::new();
        let mut source = Puller::new(heavy(20), agreed.clone());
        let mut rows = async || {
            let mut filling = Filling::new(limits(9, bytes_max), None, Held::nothing(&memory));
            let mut rows = 0;
            while let Pulled::Record(_) = source.pull(&mut filling).await {
                rows += 1;
            }
            rows
        };
        let freed = async {
            agreed.until_ripe().await;
            others.set(0);
        };
        assert_eq!(tokio::join!(rows(), freed).0, 9, "as many as it may hold");
        others.take(bytes_max);
        agreed.wants();
        assert_eq!(rows().await, 7, "those that nobody is refused");
    }
}
