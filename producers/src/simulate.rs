//! Simulated traffic: the events of a seed, in their order, at a rate, through the real client.
//!
//! Publishes nothing that [`Shop`] did not think of, and counts an event only once the log has it. Equal seeds give
//! equal events, ids and times included, so a stream that was cut off goes on where [`Report::next`] says.

mod agenda;
mod catalogue;
mod dice;
pub mod events;
mod pace;
mod shop;

pub use events::{Body, SimulatedEvent};
pub use shop::{OPENING, Shop};

use crate::client::{Client, Occurrence, SendError};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use millrace_stream::DRAIN_DEADLINE;
use pace::Pace;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How far the newest event sent may be ahead of the oldest that is not acknowledged: enough to keep a broker busy,
/// a few megabytes, and all that a stuck event can be overtaken by.
const AHEAD_MAX: u64 = 10_000;
/// A repeated event is at most this many older than the newest: far within the window in which they are removed.
const REPEATED_MAX: usize = 256;
/// Often enough for a progress bar.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    /// Events a second; 0 is as fast as they are taken.
    pub rate: u32,
    /// The first event to send: 0, or the `next` of an earlier report.
    pub first: u64,
    /// How many; without it, until cancelled.
    pub events: Option<u64>,
    /// Of a thousand events so many are sent once more, with the same id: the log holds them twice.
    pub duplicates_per_thousand: u32,
}

/// What became of a stream so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Events handed to the Kafka client, from `first` on, each counted once.
    pub published: u64,
    /// Those of them that all in-sync replicas have.
    pub acknowledged: u64,
    /// The log has every event of the seed before this one (from `first` on): where to go on.
    pub next: u64,
    /// Events sent once more.
    pub repeated: u64,
    /// The simulated time of the newest event sent.
    pub simulated: Option<DateTime<Utc>>,
}

/// An event could not be published. `report.next` is where to go on.
#[derive(Debug, thiserror::Error)]
#[error("simulation stopped after {} of {} events were acknowledged: {error}", report.acknowledged, report.published)]
pub struct Interrupted {
    pub report: Report,
    pub error: SendError,
}

/// Sends until all is sent or `cancelled`, then waits for what is under way, at most [`DRAIN_DEADLINE`] if cancelled.
///
/// Events of one key enter the log in their order, also while the broker is away for less than the client's two
/// minutes a try. An event that needed another try, after those, may stand behind later ones of its key.
///
/// # Errors
/// When an event can't be published, after the client's own tries.
pub async fn run(
    options: &Options,
    client: &Client,
    mut progress: impl FnMut(&Report),
    cancelled: &CancellationToken,
) -> Result<Report, Interrupted> {
    let mut flight = Flight::new(options.first);
    let sent = send_all(options, client, &mut flight, &mut progress, cancelled).await;
    let landed = match sent {
        Ok(()) => flight.land_all(&mut progress, cancelled).await,
        Err(error) => Err(error),
    };
    progress(&flight.report);
    match landed {
        Ok(()) => Ok(flight.report),
        Err(error) => Err(Interrupted { report: flight.report, error }),
    }
}

async fn send_all(
    options: &Options,
    client: &Client,
    flight: &mut Flight,
    progress: &mut impl FnMut(&Report),
    cancelled: &CancellationToken,
) -> Result<(), SendError> {
    let mut shop = wound_forward(options.seed, options.first).await;
    let mut pace = Pace::new(options.rate);
    let mut repeats = Repeats::new(options);
    let mut left = options.events.unwrap_or(u64::MAX);
    while left > 0 && !cancelled.is_cancelled() {
        flight.tell(progress);
        if flight.full() {
            flight.land_one(cancelled, None).await?;
        } else if let Some(due) = pace.wait() {
            flight.land_one(cancelled, Some(due)).await?;
        } else if let Some(event) = shop.next() {
            flight.depart(client, &event, false).await?;
            if let Some(earlier) = repeats.after(event) {
                flight.depart(client, &earlier, true).await?;
            }
            pace.sent();
            left -= 1;
        }
    }
    Ok(())
}

/// Millions of events take seconds: not on a thread that others wait for.
async fn wound_forward(seed: u64, first: u64) -> Shop {
    let wind = move || {
        let mut shop = Shop::open(seed);
        (0..first).for_each(|_| drop(shop.next()));
        shop
    };
    if first == 0 {
        return wind();
    }
    tokio::task::spawn_blocking(wind).await.unwrap_or_else(|_| wind())
}

/// The event's index, if it is not a repeated one, and what became of it.
type Arrival = (Option<u64>, Result<(), SendError>);

/// What is on its way, and what has arrived.
struct Flight {
    sendings: FuturesUnordered<BoxFuture<'static, Arrival>>,
    /// Whether the event at `report.next`, and those after it, have arrived.
    arrived: VecDeque<bool>,
    report: Report,
    told: Instant,
}

impl Flight {
    fn new(first: u64) -> Self {
        let report = Report { next: first, ..Report::default() };
        Self { sendings: FuturesUnordered::new(), arrived: VecDeque::new(), report, told: Instant::now() }
    }

    fn full(&self) -> bool {
        self.arrived.len() as u64 >= AHEAD_MAX || self.sendings.len() as u64 >= 2 * AHEAD_MAX
    }

    async fn depart(&mut self, client: &Client, event: &SimulatedEvent, again: bool) -> Result<(), SendError> {
        let sending = client.send(event.body.event_type(), occurrence(event), &event.body).await?;
        let index = self.report.next + self.arrived.len() as u64;
        let index = (!again).then_some(index);
        self.sendings.push(Box::pin(async move { (index, sending.acknowledged().await) }));
        match again {
            true => self.report.repeated += 1,
            false => {
                self.arrived.push_back(false);
                self.report.published += 1;
                self.report.simulated = Some(event.occurred_at);
            }
        }
        Ok(())
    }

    /// Waits for one arrival, at most until `due` or cancelled.
    async fn land_one(&mut self, cancelled: &CancellationToken, due: Option<Instant>) -> Result<(), SendError> {
        let due_or_progress = due.unwrap_or_else(|| Instant::now() + PROGRESS_EVERY);
        tokio::select! {
            () = cancelled.cancelled() => Ok(()),
            Some((index, outcome)) = self.sendings.next() => {
                self.landed(index, outcome)?;
                self.land_ready()
            }
            () = tokio::time::sleep_until(due_or_progress.into()) => Ok(()),
        }
    }

    fn land_ready(&mut self) -> Result<(), SendError> {
        while let Some(Some((index, outcome))) = self.sendings.next().now_or_never() {
            self.landed(index, outcome)?;
        }
        Ok(())
    }

    async fn land_all(
        &mut self,
        progress: &mut impl FnMut(&Report),
        cancelled: &CancellationToken,
    ) -> Result<(), SendError> {
        let never = CancellationToken::new();
        let mut deadline = None;
        while !self.sendings.is_empty() {
            self.tell(progress);
            if cancelled.is_cancelled() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + DRAIN_DEADLINE);
                if Instant::now() >= deadline {
                    break;
                }
            }
            self.land_one(&never, None).await?;
        }
        Ok(())
    }

    fn landed(&mut self, index: Option<u64>, outcome: Result<(), SendError>) -> Result<(), SendError> {
        outcome?;
        let Some(index) = index else { return Ok(()) };
        self.report.acknowledged += 1;
        self.arrived[(index - self.report.next) as usize] = true;
        while self.arrived.front() == Some(&true) {
            self.arrived.pop_front();
            self.report.next += 1;
        }
        Ok(())
    }

    fn tell(&mut self, progress: &mut impl FnMut(&Report)) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            progress(&self.report);
        }
    }
}

/// Each event is a trace of its own, told by its id.
pub fn occurrence(event: &SimulatedEvent) -> Occurrence {
    let (_, span) = event.id.as_u64_pair();
    let traceparent = Some(format!("00-{}-{span:016x}-01", event.id.simple()));
    Occurrence { traceparent, ..Occurrence::new(event.id, event.occurred_at) }
}

/// Which events are sent once more. Its dice are not the shop's: what happens there stays the same.
struct Repeats {
    dice: dice::Dice,
    per_thousand: u64,
    recent: VecDeque<SimulatedEvent>,
}

impl Repeats {
    fn new(options: &Options) -> Self {
        let dice = dice::Dice::new(!options.seed);
        Self { dice, per_thousand: options.duplicates_per_thousand.into(), recent: VecDeque::new() }
    }

    /// Perhaps one of the recent events, after this one.
    fn after(&mut self, event: SimulatedEvent) -> Option<SimulatedEvent> {
        if self.per_thousand == 0 {
            return None;
        }
        if self.recent.len() == REPEATED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
        let again = self.dice.below(1000) < self.per_thousand;
        again.then(|| self.recent[self.dice.below(self.recent.len() as u64) as usize].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_after_the_last_event_before_which_none_is_missing() {
        let mut flight = Flight::new(100);
        flight.arrived.extend([false; 4]);
        for (index, next) in [(102, 100), (101, 100), (100, 103)] {
            flight.landed(Some(index), Ok(())).unwrap();
            assert_eq!(flight.report.next, next);
        }
        flight.landed(None, Ok(())).unwrap(); // a repeated event counts as none
        assert_eq!((flight.report.acknowledged, flight.arrived.len()), (3, 1));
    }

    #[test]
    fn so_many_of_a_thousand_events_are_sent_once_more() {
        let options = Options { seed: 4, rate: 0, first: 0, events: None, duplicates_per_thousand: 50 };
        let repeated = |options: &Options| {
            let mut repeats = Repeats::new(options);
            Shop::open(4).take(10_000).filter_map(|event| repeats.after(event)).count()
        };
        assert!((400..600).contains(&repeated(&options)), "{}", repeated(&options));
        assert_eq!(repeated(&Options { duplicates_per_thousand: 0, ..options }), 0);
    }
}
