//! Where a statement's parts are: enough of ClickHouse's lexis to find the data of an insert and the FORMAT of a
//! query. It decides nothing about meaning; the engine parses the statement itself.

use super::exception::{Exception, raise};
use std::ops::Range;

/// What to do with a statement.
#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    /// `INSERT … FORMAT x` or `INSERT … VALUES`: the statement's text before that, the format, where the data begins.
    Insert { text: Range<usize>, format: String, data: usize },
    /// A query with an answer: its text before and after its FORMAT clause, and the format it asks for.
    Answer { before: Range<usize>, after: Range<usize>, format: Option<String> },
    /// Everything else: run it and give back what little it says.
    Command { text: Range<usize> },
}

/// Finds the shape of the statement that `text` begins with. `None`: more text is needed to say, and `whole` is false.
pub fn shape(text: &[u8], whole: bool) -> Result<Option<Shape>, Exception> {
    let tokens = Tokens::of(text, whole);
    let mut start = tokens;
    let Some(first) = start.next() else {
        return if whole { Err(raise::SYNTAX_ERROR("Empty query")) } else { Ok(None) };
    };
    if first.is("INSERT") {
        return insert(text, start, whole);
    }
    if !whole {
        return Ok(None);
    }
    answer_or_command(text, tokens)
}

fn insert(text: &[u8], mut tokens: Tokens<'_>, whole: bool) -> Result<Option<Shape>, Exception> {
    skip_target(&mut tokens);
    while let Some(token) = tokens.next() {
        if token.depth > 0 {
            continue;
        }
        if token.is("SELECT") || token.is("WITH") {
            refuse_input(tokens)?;
            return if whole { answer_or_command(text, Tokens::of(text, whole)) } else { Ok(None) };
        }
        if token.is("INFILE") {
            return Err(raise::UNKNOWN_TYPE_OF_QUERY("Query has infile and was send directly to server"));
        }
        if token.is("VALUES") {
            let data = token.end;
            return Ok(Some(Shape::Insert { text: 0..token.start, format: "Values".into(), data }));
        }
        if token.is("FORMAT") {
            let Some(name) = tokens.next().filter(|name| name.kind == Kind::Word) else { break };
            let Some(data) = data_start(text, name.end, whole) else { return Ok(None) };
            let format = String::from_utf8_lossy(name.text).into_owned();
            return Ok(Some(Shape::Insert { text: 0..token.start, format, data }));
        }
    }
    if !whole {
        return Ok(None);
    }
    // As on a server, rows without a format are VALUES; there are none here, and the engine says what is wrong.
    Ok(Some(Shape::Insert { text: 0..statement_end(text)?, format: "Values".into(), data: text.len() }))
}

/// `INSERT … SELECT … FROM input(…)`: the engine would find no rows and say nothing, so this must.
fn refuse_input(mut tokens: Tokens<'_>) -> Result<(), Exception> {
    while let Some(token) = tokens.next() {
        if token.is("input") && tokens.peek().is_some_and(|next| next.text == b"(") {
            return Err(raise::NOT_IMPLEMENTED(
                "input() has no rows here: insert them into a table, and select from that",
            ));
        }
    }
    Ok(())
}

/// `INTO TABLE db.name` or `INTO FUNCTION name`: a table may be called `format` or `values`.
fn skip_target(tokens: &mut Tokens<'_>) {
    let mut ahead = *tokens;
    while let Some(token) = ahead.next() {
        if token.is("INTO") || token.is("TABLE") || token.is("FUNCTION") {
            *tokens = ahead;
            continue;
        }
        *tokens = ahead; // the name, or the first part of it
        if ahead.next().is_some_and(|dot| dot.text == b".") {
            continue;
        }
        return;
    }
}

/// Data begins after the blanks that follow the format's name, and after one line end if there is one.
fn data_start(text: &[u8], name_end: usize, whole: bool) -> Option<usize> {
    let mut at = name_end;
    while text.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\x0c')) {
        at += 1;
    }
    if text.get(at) == Some(&b'\r') {
        at += 1;
    }
    match text.get(at) {
        None if !whole => None,
        Some(b'\n') => Some(at + 1),
        _ => Some(at),
    }
}

fn answer_or_command(text: &[u8], mut tokens: Tokens<'_>) -> Result<Option<Shape>, Exception> {
    let end = statement_end(text)?;
    let (mut format, mut outfile, mut inserts) = (None, false, false);
    let mut first: Option<Token<'_>> = None;
    while let Some(token) = tokens.next().filter(|token| token.start < end) {
        let first = first.get_or_insert(token);
        if token.depth > 0 {
            continue;
        }
        inserts |= token.is("INSERT") && !first.is("EXPLAIN") && !first.is("SHOW");
        let next = tokens.peek().filter(|next| next.start < end);
        outfile |= token.is("INTO") && next.is_some_and(|next| next.is("OUTFILE"));
        if token.is("FORMAT") && next.is_some_and(|next| next.kind == Kind::Word && ends_clause(tokens, next, end)) {
            format = next.map(|next| (token.start, next));
        }
    }
    if outfile {
        return Err(raise::INTO_OUTFILE_NOT_ALLOWED("INTO OUTFILE is not allowed"));
    }
    if inserts || !first.is_some_and(answers) {
        return Ok(Some(Shape::Command { text: 0..end }));
    }
    Ok(Some(match format {
        Some((start, name)) => Shape::Answer {
            before: 0..start,
            after: name.end..end,
            format: Some(String::from_utf8_lossy(name.text).into_owned()),
        },
        None => Shape::Answer { before: 0..end, after: end..end, format: None },
    }))
}

/// `FORMAT name` is a clause when the statement or its settings follow; `SELECT format x FROM t` is not one.
fn ends_clause(mut tokens: Tokens<'_>, name: Token<'_>, end: usize) -> bool {
    tokens.at = name.end;
    tokens.next().filter(|next| next.start < end).is_none_or(|next| next.is("SETTINGS"))
}

fn answers(first: Token<'_>) -> bool {
    const ANSWERING: [&str; 8] = ["SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"];
    first.text == b"(" || ANSWERING.iter().any(|word| first.is(word))
}

/// The end of the first statement; a second one is refused, as a server does.
fn statement_end(text: &[u8]) -> Result<usize, Exception> {
    let mut tokens = Tokens::of(text, true);
    let mut end = text.len();
    while let Some(token) = tokens.next() {
        if end < text.len() && token.text != b";" {
            let at = token.start + 1;
            return Err(raise::SYNTAX_ERROR(format!(
                "Syntax error (Multi-statements are not allowed): failed at position {at}"
            )));
        }
        if token.text == b";" && token.depth == 0 {
            end = end.min(token.start);
        }
    }
    Ok(end)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Mark,
}

#[derive(Debug, Clone, Copy)]
struct Token<'text> {
    kind: Kind,
    text: &'text [u8],
    start: usize,
    end: usize,
    /// Brackets around it.
    depth: usize,
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word.as_bytes())
    }
}

/// Words, quoted texts and marks; comments and blanks are passed over. A token that may go on after the end of an
/// unfinished text is not given out.
#[derive(Debug, Clone, Copy)]
struct Tokens<'text> {
    text: &'text [u8],
    at: usize,
    depth: usize,
    whole: bool,
}

impl<'text> Tokens<'text> {
    fn of(text: &'text [u8], whole: bool) -> Self {
        Self { text, at: 0, depth: 0, whole }
    }

    fn peek(mut self) -> Option<Token<'text>> {
        self.next()
    }

    fn next(&mut self) -> Option<Token<'text>> {
        let start = self.skip_blanks(self.at);
        let first = *self.text.get(start)?;
        let (kind, end) = match first {
            b'\'' | b'"' | b'`' => (Kind::Quoted, self.quoted_end(start, first)),
            b'$' => self.heredoc(start),
            _ if is_word(first) => (Kind::Word, self.word_end(start)),
            _ => (Kind::Mark, start + 1),
        };
        if end >= self.text.len() && !self.whole {
            return None;
        }
        let depth = self.bracket(first);
        self.at = end;
        Some(Token { kind, text: &self.text[start..end], start, end, depth })
    }

    /// The depth of this token; brackets themselves stand outside of what they hold.
    fn bracket(&mut self, first: u8) -> usize {
        let outside = self.depth;
        match first {
            b'(' | b'[' | b'{' => self.depth += 1,
            b')' | b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        outside.min(self.depth)
    }

    fn skip_blanks(&self, mut at: usize) -> usize {
        loop {
            let rest = &self.text[at..];
            if rest.first().is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            } else if rest.starts_with(b"--") || rest.starts_with(b"#!") || rest.starts_with(b"# ") {
                at += rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
            } else if rest.starts_with(b"/*") {
                at += find(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4);
            } else {
                return at;
            }
        }
    }

    fn quoted_end(&self, start: usize, quote: u8) -> usize {
        let mut at = start + 1;
        while let Some(byte) = self.text.get(at) {
            match *byte {
                b'\\' => at += 2,
                byte if byte == quote && self.text.get(at + 1) == Some(&quote) => at += 2,
                byte if byte == quote => return at + 1,
                _ => at += 1,
            }
        }
        self.text.len()
    }

    /// `$tag$ text $tag$`; a lone `$` is a mark.
    fn heredoc(&self, start: usize) -> (Kind, usize) {
        let rest = &self.text[start + 1..];
        let Some(tag) = rest.iter().position(|byte| !is_word(*byte)).filter(|end| rest[*end] == b'$') else {
            return (Kind::Mark, start + 1);
        };
        let opening = &self.text[start..start + tag + 2];
        let body = start + opening.len();
        let end = find(&self.text[body..], opening).map_or(self.text.len(), |end| body + end + opening.len());
        (Kind::Quoted, end)
    }

    fn word_end(&self, start: usize) -> usize {
        self.text[start..].iter().position(|byte| !is_word(*byte)).map_or(self.text.len(), |length| start + length)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Shape {
        shape(text.as_bytes(), true).unwrap().unwrap()
    }

    fn parts(text: &str) -> (&str, String, &str) {
        match whole(text) {
            Shape::Insert { text: range, format, data } => (&text[range], format, &text[data..]),
            other => panic!("{text} is no insert but {other:?}"),
        }
    }

    fn pieces(text: &str) -> (&str, Option<String>, &str) {
        match whole(text) {
            Shape::Answer { before, after, format } => (&text[before], format, &text[after]),
            other => panic!("{text} has no answer but {other:?}"),
        }
    }

    #[test]
    fn the_data_of_an_insert_begins_after_its_format() {
        assert_eq!(parts("INSERT INTO t FORMAT CSV\n1,2\n"), ("INSERT INTO t ", "CSV".into(), "1,2\n"));
        assert_eq!(
            parts("insert into d.t (a, b) format JSONEachRow {}"),
            ("insert into d.t (a, b) ", "JSONEachRow".into(), "{}")
        );
        assert_eq!(parts("INSERT INTO t FORMAT Native \r\n\n"), ("INSERT INTO t ", "Native".into(), "\n"));
        assert_eq!(parts("INSERT INTO t VALUES (1), (2)"), ("INSERT INTO t ", "Values".into(), " (1), (2)"));
        assert_eq!(
            parts("INSERT INTO t SETTINGS a = 'FORMAT x' /* FORMAT y */ FORMAT CSV\n"),
            ("INSERT INTO t SETTINGS a = 'FORMAT x' /* FORMAT y */ ", "CSV".into(), "")
        );
    }

    #[test]
    fn tables_may_be_called_like_keywords() {
        assert_eq!(parts("INSERT INTO format FORMAT TSV\n1"), ("INSERT INTO format ", "TSV".into(), "1"));
        assert_eq!(
            parts("INSERT INTO values.values VALUES (1)"),
            ("INSERT INTO values.values ", "Values".into(), " (1)")
        );
        assert_eq!(
            parts("INSERT INTO `a b` (`format`) VALUES (1)"),
            ("INSERT INTO `a b` (`format`) ", "Values".into(), " (1)")
        );
    }

    #[test]
    fn an_unfinished_insert_asks_for_more_until_its_data_is_seen() {
        let text = b"INSERT INTO t (a) FORMAT RowBinary\n\x01";
        for cut in 0..text.len() - 1 {
            assert_eq!(shape(&text[..cut], false).unwrap(), None, "cut at {cut}");
        }
        let found = Shape::Insert { text: 0..18, format: "RowBinary".into(), data: 35 };
        assert_eq!(shape(text, false).unwrap(), Some(found));
    }

    #[test]
    fn a_query_keeps_everything_but_its_format() {
        assert_eq!(pieces("SELECT 1"), ("SELECT 1", None, ""));
        assert_eq!(pieces("SELECT 1 FORMAT JSON;"), ("SELECT 1 ", Some("JSON".into()), ""));
        assert_eq!(
            pieces("SELECT 1 FORMAT JSON SETTINGS a = 1 ; -- c"),
            ("SELECT 1 ", Some("JSON".into()), " SETTINGS a = 1 ")
        );
        assert_eq!(pieces("select format f from t"), ("select format f from t", None, ""));
        assert_eq!(pieces("SELECT ';' -- FORMAT x\n"), ("SELECT ';' -- FORMAT x\n", None, ""));
        assert_eq!(pieces("(SELECT 1 FORMAT x)"), ("(SELECT 1 FORMAT x)", None, ""));
        assert_eq!(
            pieces("SELECT $a$ FORMAT CSV $a$ FORMAT TSV"),
            ("SELECT $a$ FORMAT CSV $a$ ", Some("TSV".into()), "")
        );
    }

    #[test]
    fn what_gives_no_rows_is_a_command() {
        for text in [
            "CREATE TABLE t (a Int8)",
            "INSERT INTO t SELECT 1 FORMAT Null",
            "SET a = 1",
            "WITH 1 AS x INSERT INTO t SELECT x",
        ] {
            assert!(matches!(whole(text), Shape::Command { .. }), "{text}");
        }
        assert!(matches!(whole("EXPLAIN INSERT INTO t SELECT 1"), Shape::Answer { .. }));
    }

    #[test]
    fn files_empty_queries_and_second_statements_are_refused() {
        let code = |text: &str| shape(text.as_bytes(), true).unwrap_err().code;
        assert_eq!(code("SELECT 1 INTO OUTFILE 'x'"), 358);
        assert_eq!(code("INSERT INTO t FROM INFILE 'x' FORMAT CSV"), 78);
        assert_eq!(code("INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n1"), 48);
        assert_eq!(code("  -- nothing"), 62);
        assert_eq!(code("SELECT 1; SELECT 2"), 62);
        assert_eq!(code("DROP TABLE a; DROP TABLE b"), 62);
    }
}
