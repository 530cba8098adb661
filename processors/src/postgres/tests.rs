//! The law of projections, held against naive models: any order and any batches give the same rows.

use super::handler::fold_all;
use super::projection::{Projection, Rows};
use super::*;
use chrono::{DateTime, Utc};
use millrace_schemas::Envelope;
use millrace_stream::{Event, Position};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

/// Histories tried by one test, each in several orders.
const HISTORIES: usize = 300;
const ORDERS: usize = 5;
const EVENTS_MAX: usize = 40;
const BATCH_MAX: usize = 8;

/// Numbers that repeat with `MILLRACE_TEST_SEED`, which a failing test prints.
pub fn random() -> ChaCha8Rng {
    let chosen = std::env::var("MILLRACE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = chosen.unwrap_or_else(rand::random);
    println!("MILLRACE_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// One of a few, so that events meet.
pub fn one_of_few(random: &mut ChaCha8Rng) -> Uuid {
    Uuid::from_u128(random.random_range(1..=3))
}

/// Within a few microseconds, finer than Postgres keeps, so that events are often simultaneous.
fn moment(random: &mut ChaCha8Rng) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(1_767_225_600_000_000_000 + random.random_range(0..5_000))
}

pub fn event<E>(random: &mut ChaCha8Rng, body: E) -> Event<E> {
    let envelope = Envelope { occurred_at: moment(random), ..Envelope::new("/shop", "any", "any") };
    let position = Position { topic: "any".into(), partition: 0, offset: 0 };
    Event { position, logged_at: None, schema_id: 1, envelope, body }
}

/// Plays random histories in random orders, cut into random batches, and compares the rows with the model's.
pub fn gives_what_the_model_says<P>(
    mut draw: impl FnMut(&mut ChaCha8Rng) -> P::Event,
    model: impl Fn(Uuid, &[Event<P::Event>]) -> P::Row,
) where
    P: Projection,
    P::Event: Clone,
    P::Row: Clone + PartialEq + std::fmt::Debug,
{
    let mut random = random();
    for _ in 0..HISTORIES {
        let length = random.random_range(1..=EVENTS_MAX);
        let mut history: Vec<Event<P::Event>> = Vec::new();
        for _ in 0..length {
            let body = draw(&mut random);
            history.push(event(&mut random, body));
        }
        for _ in 0..ORDERS {
            history.shuffle(&mut random);
            let table = play::<P>(&history, &mut random);
            for (key, row) in &table {
                assert_eq!(*row, model(*key, &history), "row {key}");
            }
            assert!(history.iter().all(|event| table.contains_key(&P::key(&event.body))));
        }
    }
}

/// What the handler does to a table, with a map for the table.
fn play<P>(history: &[Event<P::Event>], random: &mut ChaCha8Rng) -> Rows<P>
where
    P: Projection,
    P::Event: Clone,
    P::Row: Clone,
{
    let mut table = Rows::<P>::new();
    let mut rest = history;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(random.random_range(1..=BATCH_MAX.min(rest.len())));
        let touched = batch.iter().map(|event| P::key(&event.body));
        let mut rows: Rows<P> = touched.filter_map(|key| Some((key, table.get(&key)?.clone()))).collect();
        fold_all::<P>(&mut rows, batch);
        table.extend(rows);
        rest = later;
    }
    table
}

fn contracts() -> Contracts {
    Contracts::embedded().unwrap()
}

#[test]
fn every_event_that_is_read_is_understood() {
    fn understands<P: Projection>(contracts: &Contracts) {
        for event_type in P::READS {
            let event = read_example::<P>(contracts.get(event_type).unwrap());
            assert!(event.unwrap().is_some(), "{} read nothing in {event_type}", P::NAME);
        }
    }
    understands::<OrderStatus>(&contracts());
    understands::<CustomerSummary>(&contracts());
}

#[test]
fn topics_are_those_of_the_contracts() {
    let topics = |name| topics(name, &contracts()).unwrap().unwrap();
    assert_eq!(topics("order_status"), ["shop.order.v1"]);
    assert_eq!(topics("customer_summary"), ["shop.account.v1", "shop.order.v1", "shop.visit.v1"]);
}

#[test]
fn a_project_without_a_needed_contract_is_told_which() {
    let error = topics("order_status", &Contracts::default()).unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "order_status reads `order.placed`, which no contract of this project describes: \
         add the contract, or leave order_status out of what is run"
    );
}

#[test]
fn every_name_is_known_to_the_dispatch() {
    assert!(NAMES.iter().all(|name| topics(name, &contracts()).is_some()));
    assert!(topics("nothing", &contracts()).is_none());
}
