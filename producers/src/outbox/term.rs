//! One relay's time as the owner of an outbox: look, decide, read, publish, settle; and sleep while there is nothing.
//!
//! Whatever fails ends the term: the next owner, mostly this same process, begins where the last batch was settled and
//! sends what was on its way again, under the same ids.

use super::OutboxConfig;
use super::fences::Fences;
use super::metrics::Meter;
use super::row::Row;
use super::store::{self, SetAside, Store};
use crate::gateway::prepare::{Arrival, Prepared, Routes};
use millrace_schemas::Violation;
use millrace_stream::{Acknowledgement, Failure, KafkaConfig, Outgoing, PublishError, Publisher, crash_at};
use sqlx::postgres::{PgConnectOptions, PgListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// While something is undecided, and while a writer that was told we are awake has not ended.
const NAPS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// Between two looks at what is old, set aside, or can be emptied.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// A term begins with few rows, which a connection gets through whatever their size, and doubles them.
pub(super) const ROWS_FIRST: i64 = 32;
/// Of one reason in `outbox_set_aside`: a page, whatever the names in an event are.
const REASON_CHARS_MAX: usize = 4_000;

/// An outbox and what its events become.
pub(super) struct Source {
    pub name: String,
    pub config: OutboxConfig,
    pub database: PgConnectOptions,
    pub kafka: KafkaConfig,
    pub routes: Arc<Routes>,
    pub meter: Meter,
    /// Who we are, for people.
    pub owner: String,
}

pub(super) struct Term<'a> {
    source: &'a Source,
    store: Store,
    listener: PgListener,
    publisher: Publisher,
    fences: Fences,
    /// Everything up to here is in the log, set aside, or was rolled back.
    published: i64,
    /// Rows of the next batch: fewer where the last one was full of bytes before.
    rows_next: i64,
    nap: Duration,
    renewed: Instant,
    kept: Option<Instant>,
    alarmed: Option<Instant>,
}

/// What a batch became: on its way, or not for the log.
#[derive(Default)]
struct Sent<'a> {
    acknowledgements: Vec<Acknowledgement>,
    types: Vec<&'a str>,
    refused: Vec<SetAside>,
}

impl<'a> Term<'a> {
    /// None while somebody else owns the outbox.
    pub async fn take(source: &'a Source) -> Result<Option<Self>, Failure> {
        let config = &source.config;
        let Some((store, published)) = Store::take(&source.database, &source.owner, config.lease()).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            source,
            store,
            listener: store::listen(&source.database).await?,
            publisher: Publisher::new(&source.kafka).map_err(Failure::Stop)?,
            fences: Fences::new(published),
            published,
            rows_next: config.rows_max().min(ROWS_FIRST),
            nap: NAPS.0,
            renewed: Instant::now(),
            kept: None,
            alarmed: None,
        }))
    }

    /// Until told to stop, with nothing on its way then.
    pub async fn serve(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        self.source.meter.leading.set(1);
        while !stop.is_cancelled() {
            self.decide().await?;
            if self.fences.decided() > self.published {
                self.publish_batch().await?;
            } else {
                self.rest(stop).await?;
            }
            self.keep().await?;
        }
        Ok(())
    }

    /// After [`serve`](Self::serve), however it ended. Nothing of ours is sent any more.
    pub async fn release(self) {
        let Self { source, mut store, publisher, .. } = self;
        source.meter.not_leading();
        let _ended = tokio::task::spawn_blocking(move || drop(publisher)).await; // which waits for the client's end
        if let Err(failure) = store.release().await {
            tracing::debug!(outbox = source.name, "its lease ends by itself: {failure}");
        }
    }

    async fn decide(&mut self) -> Result<(), Failure> {
        let look = self.store.look().await?;
        if look.written < self.published {
            return Err(set_back(look.written, self.published));
        }
        self.fences.ended_below(look.xmin);
        if self.fences.wants(look.written) {
            let xid = self.store.draw_xid().await?;
            self.fences.put(look.written, xid, Instant::now());
            self.fences.ended_below(self.store.look().await?.xmin); // mostly nobody else runs
        }
        self.source.meter.lag_rows.set(look.written - self.published);
        self.source.meter.held_back.set(self.fences.waiting_since().map_or(0.0, |since| since.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn publish_batch(&mut self) -> Result<(), Failure> {
        let (config, decided) = (&self.source.config, self.fences.decided());
        let batch = self.store.read(self.published, decided, self.rows_next, config.batch_bytes).await?;
        let taken = i64::try_from(batch.rows.len()).unwrap_or(i64::MAX);
        // What was left unread is sent by the server all the same: it should not be much.
        let cut = batch.full && taken < self.rows_next;
        self.rows_next = if cut { taken } else { self.rows_next.saturating_mul(2).min(config.rows_max()) };
        let through = if batch.full { batch.rows.last().map_or(decided, |row| row.seq) } else { decided };
        if let Some(oldest) = batch.rows.first() {
            self.source.meter.oldest.set(oldest.written_at.unwrap_or_default());
            self.publish(&batch.rows, through).await?;
        }
        self.published = through;
        self.nap = NAPS.0;
        Ok(())
    }

    async fn publish(&mut self, rows: &[Row], through: i64) -> Result<(), Failure> {
        let since = Instant::now();
        let Sent { acknowledgements, types, refused } = self.send(rows).await?;
        self.acknowledged(acknowledgements).await?;
        crash_at("outbox_after_publish");
        if !refused.is_empty() {
            tracing::warn!(outbox = self.source.name, "set {} events aside, which fit no contract", refused.len());
            self.store.set_aside(&refused).await?;
        }
        if !self.store.settle(through).await? {
            return Err(deposed());
        }
        crash_at("outbox_after_settle");
        let meter = &self.source.meter;
        meter.client.took(since.elapsed());
        meter.published.inc_by(types.len() as u64);
        let alike = types.chunk_by(|one, next| one == next);
        alike.for_each(|types| meter.client.count(Some(types[0]), "acknowledged", types.len() as u64));
        Ok(())
    }

    /// All of it, in order, before any answer is awaited.
    async fn send<'r>(&self, rows: &'r [Row]) -> Result<Sent<'r>, Failure> {
        let mut sent = Sent::default();
        for row in rows {
            if let Some(reason) = &row.unfit {
                sent.refused.push(self.refused(row, reason));
                continue;
            }
            let submitted = row.submitted(&self.source.config.source);
            match self.source.routes.prepare_trusted(submitted, Arrival::now((None, None))) {
                Ok(prepared) => match self.enqueue(&prepared).await {
                    Ok(acknowledgement) => {
                        sent.acknowledgements.push(acknowledgement);
                        sent.types.push(&*row.event_type);
                    }
                    Err(error) if error.is_too_large() => sent.refused.push(self.refused(row, &error.to_string())),
                    Err(error) => return Err(Failure::retry(error)),
                },
                Err(violations) => sent.refused.push(self.refused(row, &reason(&violations))),
            }
        }
        Ok(sent)
    }

    async fn enqueue(&self, event: &Prepared<'_>) -> Result<Acknowledgement, PublishError> {
        let Prepared { topic, envelope, value, .. } = event;
        let outgoing = Outgoing { topic, key: &envelope.subject, envelope, value: Some(value) };
        self.publisher.enqueue(&outgoing).await
    }

    fn refused(&self, row: &Row, reason: &str) -> SetAside {
        let known = self.source.routes.contracts.get(&row.event_type).map(|contract| contract.event_type.as_str());
        self.source.meter.client.count(known, "refused", 1);
        SetAside { seq: row.seq, reason: reason.chars().take(REASON_CHARS_MAX).collect() }
    }

    /// However long the log is away: the client tries until it works, so that nothing overtakes what failed.
    async fn acknowledged(&mut self, acknowledgements: Vec<Acknowledgement>) -> Result<(), Failure> {
        let mut all = std::pin::pin!(async {
            // The last first: once it has its answer most others have theirs, and are not waited for one by one.
            for acknowledgement in acknowledgements.into_iter().rev() {
                acknowledgement.await?;
            }
            Ok::<_, PublishError>(())
        });
        loop {
            let due = self.renewal_due();
            tokio::select! {
                answer = &mut all => return answer.map_err(Failure::retry),
                () = tokio::time::sleep(due) => self.renew().await?,
            }
        }
    }

    fn renewal_due(&self) -> Duration {
        self.source.config.renewal().saturating_sub(self.renewed.elapsed())
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        self.renewed = Instant::now();
        if self.store.renew().await? { Ok(()) } else { Err(deposed()) }
    }

    /// Nothing is there, or nothing that is decided.
    async fn rest(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        if self.fences.newest() > self.published || !self.store.fall_asleep().await? {
            self.nap(stop).await;
            return Ok(());
        }
        // Whoever wrote before we slept did not notify; whoever writes from now on does.
        let unseen = self.store.look().await?.written > self.published;
        let polled = Duration::from_millis(self.source.config.poll_ms).min(self.renewal_due());
        if !unseen {
            tokio::select! {
                () = stop.cancelled() => {}
                woken = self.listener.recv() => drop(woken?),
                () = tokio::time::sleep(polled) => {}
            }
        }
        self.nap = NAPS.0;
        self.store.wake_up().await
    }

    async fn nap(&mut self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(self.nap) => {}
        }
        self.nap = (self.nap * 2).min(NAPS.1);
    }

    /// What is due from time to time, whether there is much to do or nothing.
    async fn keep(&mut self) -> Result<(), Failure> {
        if self.renewal_due().is_zero() {
            self.renew().await?;
        }
        self.watch_who_holds_back().await?;
        if self.kept.is_some_and(|kept| kept.elapsed() < KEEP_EVERY) {
            return Ok(());
        }
        self.kept = Some(Instant::now());
        self.renew().await?; // what follows may be slow
        if let Err(failure) = self.keep_house().await {
            tracing::warn!(
                outbox = self.source.name,
                "could not count what is set aside, or empty partitions: {failure}"
            );
        }
        Ok(())
    }

    /// Keeps no event waiting when it fails.
    async fn keep_house(&mut self) -> Result<(), Failure> {
        let (meter, oldest) = (&self.source.meter, self.store.oldest(self.published).await?);
        meter.oldest.set(oldest.unwrap_or_default());
        meter.set_aside.set(self.store.count_set_aside().await?);
        self.store.empty_partitions(self.published).await
    }

    async fn watch_who_holds_back(&mut self) -> Result<(), Failure> {
        let every = Duration::from_millis(self.source.config.held_back_alarm_ms);
        let Some(since) = self.fences.waiting_since() else { return Ok(()) };
        if since.elapsed() < every || self.alarmed.is_some_and(|alarmed| alarmed.elapsed() < every) {
            return Ok(());
        }
        self.alarmed = Some(Instant::now());
        let outbox = &self.source.name;
        let holder = self.store.holder().await?.unwrap_or_else(|| "a transaction that has just ended".into());
        tracing::warn!(outbox, "events have been held back for {:.0?} by {holder}", since.elapsed());
        Ok(())
    }
}

impl OutboxConfig {
    fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Twice may fail before the lease ends.
    fn renewal(&self) -> Duration {
        self.lease() / 3
    }

    fn rows_max(&self) -> i64 {
        self.batch_rows.into()
    }
}

fn deposed() -> Failure {
    Failure::retry(anyhow::anyhow!("another relay has taken over, since this one did not renew its lease in time"))
}

/// Rows would count as published, and be emptied, that never were. Both are set: some may have been written since.
fn set_back(written: i64, published: i64) -> Failure {
    Failure::stop(anyhow::anyhow!(
        "millrace.outbox_seq is at {written}, behind millrace.outbox_published at {published}: it was set back, by a \
         restore or a copy without sequences; nothing is published or emptied before `select \
         setval('millrace.outbox_seq', {published}), setval('millrace.outbox_published', 0)`, which sends what the \
         outbox holds again, under its ids"
    ))
}

fn reason(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
