//! Which views and columns a metric's SELECT names, as far as can be told without a server: a typo found by
//! `millrace check` is one that no migration stumbles over.
//!
//! No parser: names are read off the words. Where a SELECT reads anything but `events` (a function, another
//! database), its columns are nobody's to know here, and only its views are checked. What is wrong in other ways is
//! the server's to say.

use super::table::{Table, Tables, VIEWS};
use std::collections::BTreeSet;

/// The first name that nothing stands behind, as a sentence.
pub(super) fn unknown(select: &str, tables: &Tables) -> Option<String> {
    let words = words(select);
    let mut read: Vec<&Table> = Vec::new();
    for view in views_among(&words) {
        match tables.named(view) {
            Some(table) => read.push(table),
            None => return Some(format!("there is no view `{VIEWS}.{view}`: no contract has this table")),
        }
    }
    let given = given_names(&words);
    if reads_something_else(&words, &given) {
        return None;
    }
    let column = unknown_column(&words, &read, &given)?;
    let views: BTreeSet<String> = read.iter().map(|table| format!("{VIEWS}.{}", table.name())).collect();
    let views = views.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!("`{column}` is no column of {views}, and the SELECT gives nothing this name"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    /// A name or a keyword.
    Name(&'a str),
    /// `->`, `::`, or one character.
    Sign(&'a str),
    /// A text or a number.
    Literal,
}

impl<'a> Word<'a> {
    fn name(self) -> Option<&'a str> {
        if let Self::Name(name) = self { Some(name) } else { None }
    }

    fn is(self, text: &str) -> bool {
        match self {
            Self::Name(name) => name.eq_ignore_ascii_case(text),
            Self::Sign(sign) => sign == text,
            Self::Literal => false,
        }
    }
}

fn words(sql: &str) -> Vec<Word<'_>> {
    let (mut words, mut rest) = (Vec::new(), sql.trim_start());
    while let Some(first) = rest.chars().next() {
        let (word, length) = match first {
            _ if rest.starts_with("--") => (None, rest.find('\n').unwrap_or(rest.len())),
            _ if rest.starts_with("/*") => (None, rest.find("*/").map_or(rest.len(), |end| end + 2)),
            '\'' => (Some(Word::Literal), quoted(rest, first)),
            '`' | '"' => {
                let length = quoted(rest, first);
                (Some(Word::Name(rest[..length].trim_matches(first))), length)
            }
            '0'..='9' => (Some(Word::Literal), run(rest)),
            _ if first.is_alphabetic() || first == '_' => (Some(Word::Name(&rest[..run(rest)])), run(rest)),
            _ => {
                let double = ["->", "::"].iter().any(|sign| rest.starts_with(sign));
                let length = if double { 2 } else { first.len_utf8() };
                (Some(Word::Sign(&rest[..length])), length)
            }
        };
        words.extend(word);
        rest = rest[length..].trim_start();
    }
    words
}

/// Up to the closing quote; one behind a backslash is none, and two in a row begin anew.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn run(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// `name` in each `events.name`.
pub(super) fn views(select: &str) -> BTreeSet<&str> {
    views_among(&words(select)).into_iter().collect()
}

fn views_among<'a>(words: &[Word<'a>]) -> Vec<&'a str> {
    let view = |three: &[Word<'a>]| match three {
        [database, Word::Sign("."), Word::Name(view)] if database.is(VIEWS) => Some(*view),
        _ => None,
    };
    words.windows(3).filter_map(view).collect()
}

/// Names that the SELECT itself gives: to columns, tables, parts of it, windows and the arguments of functions.
fn given_names<'a>(words: &[Word<'a>]) -> BTreeSet<&'a str> {
    let mut given = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let Some(name) = word.name() else { continue };
        let (before, after) = around(words, at);
        let then = |sign| words.get(at + 2).is_some_and(|word| word.is(sign));
        let defined = after.is_some_and(|word| word.is("as")) && then("(");
        if before.is_some_and(is_named_next) || defined || after.is_some_and(|word| word.is("->")) {
            given.insert(name);
        }
        if after.is_some_and(|word| word.is(")")) && then("->") {
            let arguments = words[..=at].iter().rev().take_while(|word| !word.is("("));
            given.extend(arguments.filter_map(|word| word.name()));
        }
    }
    given.retain(|name| !is_keyword(name));
    given
}

/// `as` says so; without it a name stands right behind what it names.
fn is_named_next(word: Word) -> bool {
    match word {
        Word::Name(name) => ["as", "end"].iter().any(|word| name.eq_ignore_ascii_case(word)) || !is_keyword(name),
        Word::Sign(sign) => [")", "]"].contains(&sign),
        Word::Literal => true,
    }
}

fn around<'a>(words: &[Word<'a>], at: usize) -> (Option<Word<'a>>, Option<Word<'a>>) {
    (at.checked_sub(1).map(|before| words[before]), words.get(at + 1).copied())
}

/// A table that is no view in `events` and no part of the SELECT.
fn reads_something_else(words: &[Word], given: &BTreeSet<&str>) -> bool {
    words.iter().enumerate().any(|(at, word)| {
        let (_, after) = around(words, at);
        let reads = word.is("from") || word.is("join");
        let is_array = at > 0 && words[at - 1].is("array");
        let table = after.and_then(Word::name).filter(|_| reads && !is_array);
        table.is_some_and(|table| table != VIEWS && !given.contains(table))
    })
}

fn unknown_column<'a>(words: &[Word<'a>], read: &[&Table], given: &BTreeSet<&str>) -> Option<&'a str> {
    let columns: BTreeSet<&str> = read.iter().flat_map(|table| table.column_names()).collect();
    // `lines.quantity` is one column's name; without quotes it is two words.
    let halves: BTreeSet<&str> = columns.iter().flat_map(|column| column.split('.')).collect();
    let settings = words.iter().position(|word| word.is("settings")).unwrap_or(words.len());
    words[..settings].iter().enumerate().find_map(|(at, word)| {
        let name = word.name()?;
        let (before, after) = around(words, at);
        let is_elsewhere = before.is_some_and(|word| word.is("as") || word.is("::"))
            || after.is_some_and(|word| word.is("(") || word.is("."));
        let is_table = at >= 2 && words[at - 1].is(".") && words[at - 2].is(VIEWS);
        let is_type = name.starts_with(|c: char| c.is_ascii_uppercase());
        let known = columns.contains(name) || halves.contains(name) || given.contains(name) || is_keyword(name);
        (!is_elsewhere && !is_table && !is_type && !known).then_some(name)
    })
}

fn is_keyword(name: &str) -> bool {
    KEYWORDS.split_whitespace().any(|keyword| name.eq_ignore_ascii_case(keyword))
}

/// Of ClickHouse's SELECT, units of time included. A word too many only lets a typo pass; one too few would refuse a
/// metric that is right.
const KEYWORDS: &str = "
    all and anti any apply array as asc asof between by case collate columns cross cube current date day days desc
    descending ascending distinct div else end events except exists extract false fill filter final first following for
    format from full global group grouping groups having hour hours ignore ilike in inner intersect interpolate
    interval into is join last lateral left like limit local materialized microsecond microseconds millisecond
    milliseconds minute minutes mod month months nanosecond nanoseconds natural not null nulls offset on or order
    outer over overlay paste partition preceding prewhere qualify quarter quarters range recursive regexp replace
    respect right rlike rollup row rows sample second seconds select semi sets settings staleness step substring then
    ties timestamp to top totals true truncate unbounded union using values week weeks when where window with year
    years";

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Contracts;

    fn found(select: &str) -> Option<String> {
        unknown(select, &Tables::of(&Contracts::embedded().unwrap()).unwrap())
    }

    #[test]
    fn a_view_that_no_contract_has_is_named() {
        let message = found("select 1 from events.order_placd").unwrap();
        assert_eq!(message, "there is no view `events.order_placd`: no contract has this table");
        assert!(found("select count() from merge('events', '.*') inner join `events`.gone using (x)").is_some());
    }

    #[test]
    fn a_column_that_none_of_the_views_has_is_named() {
        for (select, column) in [
            ("select sum(totl) from events.order_placed", "totl"),
            ("select sum(total) as gross from events.order_placed as o where o.user_ids is null", "user_ids"),
            ("with x as (select total as t from events.order_placed) select t, u from x", "u"),
            ("select day from (select toDate(occured_at) as day from events.order_placed) group by day", "occured_at"),
            ("select arrayMap(line -> lin + 1, `lines.quantity`) from events.order_placed", "lin"),
        ] {
            let message = found(select);
            let expected = format!("`{column}` is no column of events.order_placed");
            assert!(message.as_ref().is_some_and(|message| message.starts_with(&expected)), "{select}: {message:?}");
        }
    }

    #[test]
    fn what_the_select_names_itself_or_takes_from_elsewhere_is_let_pass() {
        for select in [
            "select *, _offset, `event_id`, lines.quantity from events.order_placed",
            "select o.total t, t + 1 as more, 'total_x' -- typo_in_comment\nfrom events.order_placed o /* and_here */",
            "select arraySum((price, units) -> price * units, lines.unit_price, lines.quantity) from events.order_placed",
            "select x.total from (select total from events.order_placed) x",
            "select sum(total) over w from events.order_placed window w as (partition by user_id order by occurred_at)",
            "select cast(total as Nullable(Float64)), total::Int128, interval 1 day from events.order_placed",
            "select total from events.order_placed settings max_threads = 1",
            "select anything from metrics.orders inner join events.order_placed using (day)",
            "select number from numbers(10)",
            "select 'it''s', 'a\\'b' from events.order_placed",
        ] {
            assert_eq!(found(select), None, "{select}");
        }
    }
}
