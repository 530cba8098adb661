//! The one loop: pull, decode, batch, handle, commit.

use crate::dead_letter::{DeadLetters, Rejected, SetAside};
use crate::decode::{Decoded, Decoder, Known, decode, framed};
use crate::dedup::Window;
use crate::memory_bound::{Held, MemoryBound};
use crate::metrics::{Shared, Trying};
use crate::offsets::{Batch, Checkpoints, Claim, Event, Purpose};
use crate::replay::settle_found;
use crate::retry::retry_until;
use crate::source::{Agreement, Filling, Pulled, Puller};
use crate::storm::Storm;
use crate::{Failure, PipelineConfig, Position, Range, Record, Reject, Source};
use chrono::{DateTime, Utc};
use millrace_schemas::{Contract, Envelope, WriterSchema};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A record whose envelope, schema and contract are known, and whose body is still bytes.
pub struct Incoming<'a> {
    pub position: &'a Position,
    /// The log's timestamp.
    pub logged_at: Option<DateTime<Utc>>,
    pub key: &'a [u8],
    pub envelope: &'a Envelope<'a>,
    pub contract: &'a Arc<Contract>,
    pub writer: &'a Arc<WriterSchema>,
    pub datum: &'a [u8],
}

impl Incoming<'_> {
    /// The event with this body, for a block that keeps whole events.
    pub fn event<E>(&self, body: E) -> Event<E> {
        Event {
            position: self.position.clone(),
            logged_at: self.logged_at,
            schema_id: self.writer.id,
            envelope: self.envelope.clone().into_owned(),
            body,
        }
    }
}

/// What a pipeline does with events. One instance serves all partitions of a process.
pub trait Handler: Send + Sync + 'static {
    /// What the events of a batch become, in the order of the log: `Vec<Event<…>>`, or something denser.
    type Block: Default + Send + Sync;

    /// Told of a schema before the first record written with it is decoded, by every partition that meets it: the
    /// time to make room for fields that are new. Called again after [`Failure::Retry`].
    ///
    /// # Errors
    /// When there is no room yet. A schema that can have none is a matter of [`Handler::decode`].
    fn meet(&self, contract: &Contract, writer: &WriterSchema) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = (contract, writer);
        async { Ok(()) }
    }

    /// Appends the event to the block. Pure: the same record always adds the same. `false` means that the event
    /// is not for this pipeline.
    ///
    /// # Errors
    /// What is wrong with this record: it becomes a dead letter and the flow goes on. The block is as it was.
    fn decode(&self, incoming: &Incoming<'_>, block: &mut Self::Block) -> Result<bool, Reject>;

    /// What the block takes in memory, in bytes, where that is less than the records that it was made of: a batch holds
    /// as many more of them. `None` where it is not. Cheap: asked for every 64 KiB of records.
    fn weight(&self, block: &Self::Block) -> Option<usize> {
        let _ = block;
        None
    }

    /// Returns when it is time for another batch of this partition, which goes on growing meanwhile. Asked once it has
    /// lingered or is full, dropped when the partition is given up, and followed by [`Handler::apply`] if all goes well.
    /// At once by default.
    fn turn(&self, topic: &str, partition: i32) -> impl Future<Output = ()> + Send {
        let _ = (topic, partition);
        async {}
    }

    /// The first of these records of one event whose effect is there, though their dead letters are open. For effects
    /// that are written without the transaction that settles the letter, so that a replay may die in between. Asked where
    /// the event comes again, and before one of the letters is replayed.
    ///
    /// # Errors
    /// When it can't be seen now.
    fn effect_of(
        &self,
        records: &[(Position, Envelope<'_>)],
    ) -> impl Future<Output = Result<Option<usize>, Failure>> + Send {
        let _ = records;
        async { Ok(None) }
    }

    /// Gives the batch its effect and settles it ([`Batch::settle`]) in the same transaction where there is
    /// one. Called again with the same batch after [`Failure::Retry`]. A key's later events do not wait behind its
    /// dead letter, which may be replayed any time: an effect must not depend on the order (docs/adr/0007).
    fn apply(&self, batch: &Batch<Self::Block>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How long the next try may wait until the failure of the last one is written down.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

/// How often a partition that goes no further says so: Postgres may be away the first time.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// A batch, or why there is none and will be none.
type Gathered<H> = Result<Batch<<H as Handler>::Block>, Failure>;

/// One partition of one pipeline: everything its worker needs.
pub(crate) struct Worker<H> {
    pub handler: Arc<H>,
    pub decoder: Decoder,
    pub checkpoints: Checkpoints,
    pub config: PipelineConfig,
    pub reads: Reads,
    pub claim: Claim,
    /// Bounds the batches being applied, shared by the pipeline's workers.
    pub permits: Arc<Semaphore>,
    pub memory: Arc<MemoryBound>,
    pub metrics: Shared,
    /// Set when the partition is being given up: what is in hand may end, and is not tried again.
    pub closing: CancellationToken,
    /// Set when whatever is not settled by now must be given up.
    pub abort: CancellationToken,
}

/// What a partition is read for.
pub(crate) enum Reads {
    /// To give its records their effect. `section`: where the pipeline's settings are.
    Once { section: Arc<str> },
    /// To see what its pipeline made of it, which had set these aside.
    Again { set_aside: Arc<SetAside> },
}

impl<H: Handler> Worker<H> {
    /// Runs until the source ends, the partition is given up, or something must stop. A batch is gathered while the
    /// one before it is applied: at most two are in hand. `settled` is told what has taken effect.
    pub async fn run(self, source: impl Source, settled: impl Fn(i64)) -> Result<(), Failure> {
        let (batches, gathered) = mpsc::channel(1);
        let agreed = Agreement::new();
        let source = Puller::new(source, agreed.clone());
        let gathering = async {
            let halted = self.gather_all(source, batches, &agreed).await;
            agreed.wants(); // there will be none to wait for
            halted
        };
        let (applied, halted) = tokio::join!(self.apply_all(gathered, &agreed, settled), gathering);
        applied?;
        if let Some((at, why)) = halted {
            self.halt(at, &why).await;
        }
        Ok(())
    }

    /// Until there is no more, or no more may take effect: from which offset on, and why.
    async fn gather_all(
        &self,
        mut source: Puller<impl Source>,
        batches: mpsc::Sender<Gathered<H>>,
        agreed: &Agreement,
    ) -> Option<(i64, String)> {
        let mut partition = self.partition();
        match self.warm(&mut source, &mut partition).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(failure) => {
                let _ = batches.send(Err(failure)).await;
                return None;
            }
        }
        // Room first: what is gathered must not wait for what was gathered before it.
        while let Ok(room) = batches.reserve().await {
            if self.closing.is_cancelled() || partition.halted.is_some() {
                break; // records that are there already would be gathered still
            }
            let gathered = tokio::select! {
                () = batches.closed() => break, // it could not be applied
                gathered = self.gather(&mut source, &mut partition) => gathered,
            };
            let Some(gathered) = gathered.transpose() else { break };
            match &gathered {
                Ok(_) => agreed.ripens(),
                Err(_) => agreed.wants(), // whoever hears of it need not wait
            }
            room.send(gathered);
        }
        partition.halted.map(|why| (partition.next, why))
    }

    /// Keeps the partition where it is, and says why, until it is given up. The others go on.
    async fn halt(&self, at: i64, why: &str) {
        let Claim { pipeline, topic, partition, .. } = &self.claim;
        tracing::error!(%pipeline, %topic, partition, "held up: {why}");
        let trying = self.metrics.trying();
        while !self.closing.is_cancelled() {
            self.say(why, at, &trying).await;
            self.closing.run_until_cancelled(tokio::time::sleep(SAID_EVERY)).await;
        }
    }

    async fn apply_all(
        &self,
        mut gathered: mpsc::Receiver<Gathered<H>>,
        agreed: &Agreement,
        settled: impl Fn(i64),
    ) -> Result<(), Failure> {
        let mut next = async || {
            agreed.until_ripe().await;
            tokio::select! {
                biased;
                () = agreed.until_wanted() => {}
                () = self.closing.cancelled() => {}
                () = self.handler.turn(&self.claim.topic, self.claim.partition) => {}
            }
            agreed.wants();
            let next = gathered.recv().await;
            agreed.begins_anew();
            next
        };
        while let Some(batch) = next().await {
            let batch = batch?;
            if !self.apply_until_settled(&batch).await? {
                break;
            }
            batch.range().iter().for_each(|(_, to)| settled(*to));
            if self.closing.is_cancelled() {
                break; // the one behind it is whole for whoever comes next
            }
        }
        Ok(())
    }

    fn partition(&self) -> Partition {
        Partition {
            claim: Arc::new(self.claim.clone()),
            next: self.claim.next,
            planned: self.claim.planned_to,
            window: Window::new(self.config.dedup_window),
            set_aside: Window::new(self.config.dedup_window),
            storm: match &self.reads {
                Reads::Once { section } => Some(Storm::new(section.clone(), self.config.dead_letters_per_1000)),
                // Whoever only reads writes no dead letter that there could be too many of.
                Reads::Again { .. } => None,
            },
            halted: None,
            met: BTreeMap::new(),
        }
    }

    /// Fills the windows from the records before the checkpoint. False when the source ended meanwhile.
    async fn warm(&self, source: &mut Puller<impl Source>, partition: &mut Partition) -> Result<bool, Failure> {
        let Some(set_aside) = self.set_aside().await? else { return Ok(false) };
        if let Some(storm) = &mut partition.storm {
            storm.go_on(self.claim.next, &set_aside);
        }
        while let Some(record) = source.next().await {
            if record.position.offset >= self.claim.next {
                source.hold(record);
                return Ok(true);
            }
            if let Ok(envelope) = self.decoder.identify_with(&record, |id| partition.window.prefetch(id)) {
                match set_aside.holds(&record.position, envelope.id) {
                    true => partition.set_aside.note(record.position.offset, envelope.id),
                    false => partition.window.note(record.position.offset, envelope.id),
                };
            }
        }
        Ok(false)
    }

    /// Of what lies before the checkpoint. `None` when the partition is given up while Postgres cannot be asked.
    async fn set_aside(&self) -> Result<Option<Arc<SetAside>>, Failure> {
        if let Reads::Again { set_aside } = &self.reads {
            return Ok(Some(set_aside.clone()));
        }
        let (topic, partition, to) = (self.claim.topic.to_string(), self.claim.partition, self.claim.next);
        let from = Window::warm_from(self.config.dedup_window, to, 0).min(Storm::counts_from(to));
        let before = Range { topic, partition, from, to };
        let (letters, trying) = (self.letters(), self.metrics.trying());
        let ask = async || {
            let found = letters.set_aside(&self.claim.pipeline, Some(&before)).await;
            found.map(Arc::new).inspect_err(|_| trying.has_failed()) // nothing is in hand that would be held up
        };
        retry_until(&self.closing, "could not read which records were set aside", ask).await
    }

    fn letters(&self) -> DeadLetters {
        DeadLetters::new(self.checkpoints.pool().clone())
    }

    /// Pulls and decodes until the batch is full: a record's bytes are let go once it is in the block. A batch before
    /// a halt ends there. `None` when the partition is being given up, or goes no further.
    async fn gather(
        &self,
        source: &mut Puller<impl Source>,
        partition: &mut Partition,
    ) -> Result<Option<Batch<H::Block>>, Failure> {
        let mut batch = partition.begin_batch();
        let held = Held::nothing(&self.memory);
        let planned = partition.planned.take();
        let mut filling = Filling::new(self.config.limits(), planned, held);
        loop {
            match source.pull(&mut filling).await {
                Pulled::Record(record) => {
                    // Decoding alone never waits, and the batch before shares this task.
                    tokio::task::coop::consume_budget().await;
                    if self.add(&record, &mut batch, partition).await?.is_none() {
                        // What an earlier owner planned is all of it or nothing.
                        let ends_here = partition.halted.is_some() && planned.is_none() && batch.has_begun();
                        if ends_here { break } else { return Ok(None) }
                    }
                    filling.weigh(|| self.weight(&batch));
                }
                Pulled::Full => break,
                Pulled::Ended => return Ok(None),
            }
        }
        batch.held = Some(filling.into_held());
        partition.gathered(&batch);
        Ok(Some(batch))
    }

    /// What the batch has come to weigh, if its records no longer tell.
    fn weight(&self, batch: &Batch<H::Block>) -> Option<usize> {
        let rejected = batch.rejected.iter().map(|rejected| rejected.record.weight());
        Some(self.handler.weight(&batch.block)? + rejected.sum::<usize>())
    }

    /// `None` when the partition is given up, or goes no further than the record before this one.
    async fn add(
        &self,
        record: &Record,
        batch: &mut Batch<H::Block>,
        partition: &mut Partition,
    ) -> Result<Option<()>, Failure> {
        let Some(decoded) = self.decode(record, batch, partition).await? else { return Ok(None) };
        if let Some(why) = partition.storm.as_mut().and_then(|storm| storm.note(record, &decoded)) {
            partition.halted = Some(why);
            return Ok(None);
        }
        batch.reached(record);
        match decoded {
            Decoded::Event => batch.count(record),
            Decoded::Ignored => {}
            Decoded::Rejected(reject) => {
                tracing::warn!(
                    pipeline = %batch.pipeline, topic = %record.position.topic, partition = record.position.partition,
                    offset = record.position.offset, reason = reject.reason.as_str(), "is a dead letter: {}", reject.error
                );
                let event_id = partition.set_aside(record, &self.decoder);
                batch.rejected.push(Rejected { record: record.alone(), event_id, reject });
            }
        }
        Ok(Some(()))
    }

    /// `None` when the partition is given up while the registry cannot be asked.
    async fn decode(
        &self,
        record: &Record,
        batch: &mut Batch<H::Block>,
        partition: &mut Partition,
    ) -> Result<Option<Decoded>, Failure> {
        if self.decoder.is_tombstone(record) {
            self.metrics.ignored.inc();
            return Ok(Some(Decoded::Ignored));
        }
        let identified = self.decoder.identify_with(record, |id| partition.window.prefetch(id));
        if self.is_given_up(record, identified.as_ref().ok()) {
            return Ok(Some(Decoded::Ignored));
        }
        let envelope = match identified {
            Ok(envelope) => envelope,
            Err(reject) => return Ok(Some(Decoded::Rejected(reject))),
        };
        if partition.window.note(record.position.offset, envelope.id) {
            self.metrics.duplicate();
            return Ok(Some(Decoded::Ignored));
        }
        let came_again = partition.set_aside.holds(record.position.offset, envelope.id);
        if came_again {
            match self.took_effect(envelope.id, partition.next).await? {
                Some(false) => {}
                Some(true) => {
                    self.metrics.duplicate();
                    return Ok(Some(Decoded::Ignored));
                }
                None => return Ok(None),
            }
        }
        let (id, datum) = match framed(record) {
            Ok(framed) => framed,
            Err(reject) => return Ok(Some(Decoded::Rejected(reject))),
        };
        if !partition.knows(id, &envelope) {
            match self.meet(id, record, &envelope, partition.next).await? {
                Some(Ok(known)) => partition.met.insert(id, known),
                Some(Err(reject)) => return Ok(Some(Decoded::Rejected(reject))),
                None => return Ok(None),
            };
        }
        let decoded = decode(&*self.handler, record, &envelope, &partition.met[&id], datum, &mut batch.block);
        match decoded {
            Decoded::Event if came_again => batch.superseding.push(envelope.id),
            Decoded::Event | Decoded::Rejected(_) => {}
            Decoded::Ignored => drop(self.metrics.ignored.inc()),
        }
        Ok(Some(decoded))
    }

    /// Has nobody any use for this record, of those that are read again?
    fn is_given_up(&self, record: &Record, envelope: Option<&Envelope<'_>>) -> bool {
        let Reads::Again { set_aside } = &self.reads else { return false };
        set_aside.is_given_up(&record.position, envelope.map(|envelope| envelope.id))
    }

    /// Did somebody replay the event's letter meanwhile, if only half? `None` when the partition is given up while a
    /// server cannot be asked.
    async fn took_effect(&self, event_id: Uuid, next: i64) -> Result<Option<bool>, Failure> {
        if let Reads::Again { .. } = self.reads {
            return Ok(Some(false)); // then it was not set aside
        }
        let (letters, trying) = (self.letters(), self.metrics.trying());
        let Claim { pipeline, topic, .. } = &self.claim;
        let took = async || {
            settle_found(&letters, &self.decoder, &*self.handler, (pipeline, topic, event_id)).await?;
            letters.took_effect(&self.claim, event_id).await
        };
        let ask = async || self.told(next, &trying, took().await).await;
        retry_until(&self.abort, "could not look a dead letter up", ask).await
    }

    /// Asks for a schema that this partition meets for the first time, and tells the handler of it. `None` when given
    /// up.
    async fn meet(
        &self,
        id: u32,
        record: &Record,
        envelope: &Envelope<'_>,
        next: i64,
    ) -> Result<Option<Result<Known, Reject>>, Failure> {
        let trying = self.metrics.trying();
        let ask = async || self.told(next, &trying, self.decoder.known(id, record, envelope).await).await;
        let known = match retry_until(&self.abort, "could not look a schema up", ask).await? {
            Some(Ok(known)) => known,
            other => return Ok(other),
        };
        let tell = async || self.told(next, &trying, self.handler.meet(&known.contract, &known.writer).await).await;
        let told = retry_until(&self.abort, "could not make room for a new schema", tell).await?;
        Ok(told.map(|()| Ok(known)))
    }

    /// False when given up.
    async fn apply_until_settled(&self, batch: &Batch<H::Block>) -> Result<bool, Failure> {
        let started = Instant::now();
        let what = format!("{} could not apply {}[{}]", batch.pipeline, self.claim.topic, self.claim.partition);
        let (mut tried, trying) = (false, &self.metrics.trying());
        let from = batch.range().map_or(0, |(from, _)| from);
        // Nothing is in flight between two tries: who must give the partition up does not wait for the next one.
        let settled = retry_until(&self.closing, &what, || {
            let again = std::mem::replace(&mut tried, true);
            async move { self.told(from, trying, self.try_once(batch, again).await).await }
        });
        let settled = settled.await?.is_some_and(|settled| settled);
        if settled {
            self.count(batch, started.elapsed());
        }
        Ok(settled)
    }

    /// Says of a try that failed what failed.
    async fn told<T>(&self, from: i64, trying: &Trying<'_>, tried: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &tried {
            self.say(failure, from, trying).await;
        }
        tried
    }

    /// Why what begins at `from` is held up, where `status` and the metrics look.
    async fn say(&self, why: impl ToString, from: i64, trying: &Trying<'_>) {
        trying.has_failed();
        if !self.claim.is_nobodys() {
            let (checkpoints, claim, by) = (self.checkpoints.clone(), self.claim.clone(), why.to_string());
            let note = tokio::spawn(async move { checkpoints.note_held_up(&claim, from, &by).await });
            // Where Postgres is what failed, nobody waits for the note.
            let _ = tokio::time::timeout(NOTED_WITHIN, note).await;
        }
    }

    /// A batch that waits for its next try holds no permit: the others go on. False when given up.
    async fn try_once(&self, batch: &Batch<H::Block>, again: bool) -> Result<bool, Failure> {
        let permit = self.abort.run_until_cancelled(self.permits.acquire());
        let Some(Ok(_permit)) = permit.await else { return Ok(false) };
        // What is sent is made of what was gathered, and both are there meanwhile.
        let mut sent = Held::nothing(&self.memory);
        sent.take(batch.held.as_ref().map_or(0, Held::bytes));
        self.apply(batch, again).await.map(|()| true)
    }

    /// A COMMIT whose answer was lost may have worked: ask before doing it again.
    async fn apply(&self, batch: &Batch<H::Block>, again: bool) -> Result<(), Failure> {
        if let (true, Purpose::Advance { claim, from, to, .. }) = (again, &batch.purpose)
            && !claim.is_nobodys()
            && self.checkpoints.has_settled(claim, (*from, *to)).await?
        {
            return Ok(());
        }
        self.handler.apply(batch).await
    }

    fn count(&self, batch: &Batch<H::Block>, took: Duration) {
        batch.rejected.iter().for_each(|rejected| self.metrics.dead_letter(rejected.reject.reason));
        self.metrics.applied.inc_by(batch.events as u64);
        self.metrics.duration.observe(took.as_secs_f64());
        if let Some(oldest) = batch.oldest {
            self.metrics.age.observe((Utc::now() - oldest).as_seconds_f64().max(0.0));
        }
    }
}

/// What a worker knows of its partition, moving forward.
struct Partition {
    claim: Arc<Claim>,
    /// Where the next batch begins.
    next: i64,
    /// The end of a range an earlier owner planned and may have written.
    planned: Option<i64>,
    /// Events that took effect, or had none to take.
    window: Window,
    /// Events of which a record was set aside. They may come again, in a form that can be read.
    set_aside: Window,
    storm: Option<Storm>,
    /// Why it goes no further, if it does not.
    halted: Option<String>,
    /// Schemas that the handler was told of, by their ids.
    met: BTreeMap<u32, Known>,
}

impl Partition {
    /// An empty batch; it reaches as far as an earlier owner planned, or as far as its records will.
    fn begin_batch<B: Default>(&self) -> Batch<B> {
        let claim = self.claim.clone();
        let to = self.planned.unwrap_or(self.next);
        let purpose = Purpose::Advance { claim, from: self.next, to, reached_at: None };
        Batch::new(purpose, self.claim.pipeline.clone())
    }

    /// A schema's records are of one type, unless somebody mislabels them.
    fn knows(&self, schema: u32, envelope: &Envelope<'_>) -> bool {
        self.met.get(&schema).is_some_and(|known| known.contract.event_type == envelope.event_type)
    }

    /// Which event's record it was, if it says.
    fn set_aside(&mut self, record: &Record, decoder: &Decoder) -> Option<Uuid> {
        let event_id = decoder.identify(record).ok()?.id;
        self.window.take_back(record.position.offset);
        self.set_aside.note(record.position.offset, event_id);
        Some(event_id)
    }

    fn gathered<B>(&mut self, batch: &Batch<B>) {
        if let Some((_, to)) = batch.range() {
            self.next = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordBuilder;
    use bytes::BytesMut;
    use millrace_schemas::Contracts;
    use millrace_schemas::registry::Registry;
    use std::sync::Mutex;

    /// Notes the ranges that it is given, once it is let.
    struct Gated {
        open: CancellationToken,
        applied: Mutex<Vec<(i64, i64)>>,
    }

    impl Handler for Gated {
        type Block = ();

        fn decode(&self, _: &Incoming<'_>, (): &mut ()) -> Result<bool, Reject> {
            unreachable!("a record without a key is rejected before")
        }

        async fn turn(&self, _: &str, _: i32) {
            self.open.cancelled().await;
        }

        async fn apply(&self, batch: &Batch<()>) -> Result<(), Failure> {
            self.applied.lock().unwrap().extend(batch.range());
            Ok(())
        }
    }

    /// A record every ten milliseconds, until the partition is given up.
    struct Trickle {
        next: i64,
        closing: CancellationToken,
    }

    impl Source for Trickle {
        async fn next(&mut self) -> Option<Record> {
            let (closing, tick) = (self.closing.clone(), tokio::time::sleep(Duration::from_millis(10)));
            closing.run_until_cancelled(tick).await?;
            let position = Position { topic: "t".into(), partition: 0, offset: self.next };
            self.next += 1;
            Some(RecordBuilder::new(&mut BytesMut::new(), None, Some(b"v")).build(position, None))
        }
    }

    /// Ranges applied by a worker that lingers for 20 ms and has its turn after 105, and is given up after 195.
    async fn applied(open: bool) -> Vec<(i64, i64)> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = PipelineConfig { linger_ms: 20, ..PipelineConfig::default() };
        let handler = Arc::new(Gated { open: CancellationToken::new(), applied: Mutex::default() });
        let contracts = Arc::new(Contracts::embedded().unwrap());
        let closing = CancellationToken::new();
        let worker = Worker {
            handler: handler.clone(),
            decoder: Decoder::new(Registry::new("http://127.0.0.1:1").unwrap(), contracts),
            checkpoints: Checkpoints::new(sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap()),
            reads: Reads::Again { set_aside: Arc::new(SetAside::of([])) },
            claim: Claim::nobodys("gated", "t", 0, 0),
            permits: Arc::new(Semaphore::new(1)),
            memory: MemoryBound::new(config.memory_bytes),
            metrics: Arc::new(crate::Metrics::default().of("gated")),
            closing: closing.clone(),
            abort: CancellationToken::new(),
            config,
        };
        let meanwhile = async {
            tokio::time::sleep(Duration::from_millis(105)).await;
            if open {
                handler.open.cancel();
            }
            tokio::time::sleep(Duration::from_millis(90)).await;
            closing.cancel();
        };
        let source = Trickle { next: 0, closing: closing.clone() };
        let (ran, ()) = tokio::join!(worker.run(source, |_| ()), meanwhile);
        ran.unwrap();
        std::mem::take(&mut *handler.applied.lock().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_grows_until_its_turn_comes() {
        let applied = applied(true).await;
        assert_eq!(applied[0], (0, 10), "and not what was there after its linger, or nothing");
        assert!(applied.len() > 2, "then it is its turn always: {applied:?}");
        assert!(applied.windows(2).all(|two| two[0].1 == two[1].0), "{applied:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_a_partition_up_waits_for_no_turn() {
        assert_eq!(applied(false).await, [(0, 19)]);
    }
}
