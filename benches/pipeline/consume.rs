//! What taking records from librdkafka costs in each of its ways: of the same log, with nothing behind it.

use crate::Bench;
use crate::limit::{self, Looks, Spec, Way};
use crate::report::Report;

const GROUP: &str = "consume";

const WAYS: [(&str, Way, Looks); 6] = [
    ("one by one", Way::OneByOne, Looks::Lengths),
    ("in batches", Way::InBatches, Looks::Lengths),
    ("a queue for each partition", Way::QueueEach, Looks::Lengths),
    ("one by one, with headers", Way::OneByOne, Looks::Headers),
    ("in batches, with headers", Way::InBatches, Looks::Headers),
    ("a queue for each partition, with headers", Way::QueueEach, Looks::Headers),
];

pub fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for _ in 0..bench.runs {
        for (name, way, looks) in WAYS {
            let spec = Spec { way, looks, ..Spec::of(Some(&bench.log), None) };
            report.add(GROUP, name, limit::measure(&bench.platform, &spec, bench.log.records())?);
        }
    }
    Ok(())
}
