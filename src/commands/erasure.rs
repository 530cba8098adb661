//! `millrace erasure`: the proof that whoever asked to be forgotten is.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::commands::roles::reach_clickhouse;
use crate::config::Config;
use crate::exit::Exit;
use chrono::{TimeDelta, Utc};
use millrace_processors::clickhouse::erasure::{self, PROMISED_WITHIN, Progress, Remains};

pub async fn run(config: &Config, global: &Global) -> Result<(), Exit> {
    let progress = erasure::progress(&config.postgres.connect().await?).await?;
    reach_clickhouse(&config.clickhouse).await?;
    let tables = erasure::remains(&config.clickhouse).await?;
    let broken = broken(&progress, &tables);
    if global.json {
        println!("{}", serde_json::json!({ "people": progress, "tables": tables, "kept": broken.is_none() }));
    } else {
        print!("{}", table(&tables));
        println!("{}", line(&progress));
    }
    broken.map_or(Ok(()), |broken| Err(Exit::found(broken)))
}

/// What is not as promised.
fn broken(progress: &Progress, tables: &[Remains]) -> Option<String> {
    let overdue: u64 = tables.iter().map(|table| table.overdue).sum();
    let promised = TimeDelta::from_std(PROMISED_WITHIN).unwrap_or_default();
    if overdue > 0 {
        return Some(format!("{overdue} rows still hold personal data longer than the promised {PROMISED_WITHIN:?}"));
    }
    let oldest = progress.oldest.filter(|oldest| Utc::now() - *oldest > promised)?;
    Some(format!("somebody has waited since {}, longer than the promised {PROMISED_WITHIN:?}", oldest.format("%F %T")))
}

fn table(tables: &[Remains]) -> String {
    if tables.is_empty() {
        return "no table has personal columns: no contract marks a field with `pii`\n".to_owned();
    }
    let mut text = format!("{:<24} {:>14} {:>9}  {}\n", "table", "rows with data", "overdue", "personal columns");
    for Remains { table, columns, rows, overdue } in tables {
        text += &format!("{table:<24} {rows:>14} {overdue:>9}  {}\n", columns.join(", "));
    }
    text
}

/// One line, for `status` too.
pub fn line(Progress { pending, oldest, erased }: &Progress) -> String {
    let since = oldest.map(|oldest| format!(", the first since {}", oldest.format("%F %T"))).unwrap_or_default();
    format!("erasures: {erased} people erased, {pending} waiting{since}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promise_is_broken_by_a_row_or_by_a_person_that_is_overdue() {
        let waiting = |minutes| {
            let oldest = Some(Utc::now() - TimeDelta::minutes(minutes));
            Progress { pending: 1, oldest, erased: 0 }
        };
        let remains = |overdue| Remains { table: "t".into(), columns: vec!["email".into()], rows: 3, overdue };
        assert_eq!(broken(&waiting(59), &[remains(0)]), None, "what is on its way is no fault");
        assert!(broken(&waiting(61), &[]).is_some_and(|said| said.starts_with("somebody has waited since")));
        assert!(broken(&waiting(0), &[remains(2)]).is_some_and(|said| said.starts_with("2 rows still hold")));
    }
}
