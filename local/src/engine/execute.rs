//! One request on its thread, from its body to its answer. Straight-line code: read the statement, take a connection,
//! run it in the way its shape needs.

use super::answer::{Answer, Stopped};
use super::body::BodyReader;
use super::compression::unpack;
use super::connections::{Engine, Trace};
use super::exception::{Exception, raise};
use super::form;
use super::library::{Connection, Counts};
use super::request::{Access, Asked};
use super::running::Statement;
use super::statement::{Shape, shape};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsRawFd as _;

/// The text of a statement, without the rows of an insert. The engine's own `max_query_size` is far below.
const STATEMENT_BYTES_MAX: usize = 16 << 20;
/// Rows are handed to the engine in pieces of this size; it queues up to 16 of them.
const PIECE_BYTES: usize = 256 << 10;
/// How much of a body is looked at first for the end of the statement.
const LOOK_BYTES: usize = 16 << 10;
const DEFAULT_FORMAT: &str = "TabSeparated";

/// Runs a request and ends its answer, whatever happens.
pub fn run(engine: &Engine, asked: Asked, body: BodyReader, mut answer: Answer, statement: &Statement) {
    match perform(engine, asked, body, &mut answer, statement) {
        Ok(counts) => answer.finish(counts),
        Err(exception) => {
            tracing::debug!("statement failed: {exception}");
            answer.fail(&exception);
        }
    }
}

fn perform(
    engine: &Engine,
    mut asked: Asked,
    body: BodyReader,
    answer: &mut Answer,
    statement: &Statement,
) -> Result<Counts, Exception> {
    let mut body = unpack(body, asked.body)?;
    if let Some(boundary) = asked.form_boundary.take() {
        for (name, value) in form::fields(&read_statement(&mut body)?, &boundary)? {
            asked.field(name, value)?;
        }
        body = Box::new(io::empty());
    }
    let (text, shape) = head(&asked.query, &mut body)?;
    engine.with_connection(&asked, |connection| {
        let mut run = Run { asked: &asked, text: &text, answer, statement };
        match run.guard(connection) {
            Ok(()) => run.shape(connection, shape, &mut body),
            Err(exception) => (Err(exception), Trace::None),
        }
    })
}

/// The beginning of query and body, up to and including the statement, and what it is. Rows of an insert stay in
/// `body`, except for those that came along.
fn head(query: &str, body: &mut dyn Read) -> Result<(Vec<u8>, Shape), Exception> {
    let mut text = query.as_bytes().to_vec();
    if !text.is_empty() {
        text.push(b'\n');
    }
    let mut look_at = 0;
    loop {
        if text.len() >= look_at
            && let Some(shape) = shape(&text, false)?
        {
            return Ok((text, shape));
        }
        look_at = look_at.max(text.len() * 2); // twice as far each time: long statements are not read again and again
        if read_piece(&mut text, body, LOOK_BYTES)? == 0 {
            let shape = shape(&text, true)?.ok_or_else(|| raise::SYNTAX_ERROR("Empty query"))?;
            return Ok((text, shape));
        }
        if text.len() > STATEMENT_BYTES_MAX {
            return Err(statement_too_large());
        }
    }
}

fn read_statement(body: &mut dyn Read) -> Result<Vec<u8>, Exception> {
    let mut text = Vec::new();
    while read_piece(&mut text, body, PIECE_BYTES)? > 0 {
        if text.len() > STATEMENT_BYTES_MAX {
            return Err(statement_too_large());
        }
    }
    Ok(text)
}

fn statement_too_large() -> Exception {
    raise::QUERY_IS_TOO_LARGE(format!(
        "a statement may have {STATEMENT_BYTES_MAX} bytes, not counting an insert's rows"
    ))
}

/// Appends what `body` gives at once, at most `bytes`; 0 at its end.
fn read_piece(text: &mut Vec<u8>, body: &mut dyn Read, bytes: usize) -> Result<usize, Exception> {
    let length = text.len();
    text.resize(length + bytes, 0);
    let read = body.read(&mut text[length..]);
    text.truncate(length + *read.as_ref().unwrap_or(&0));
    Ok(read?)
}

/// One statement with all that it needs.
struct Run<'request> {
    asked: &'request Asked,
    text: &'request [u8],
    answer: &'request mut Answer,
    statement: &'request Statement,
}

impl Run<'_> {
    /// The engine's `readonly` holds back changes; this also holds back what it lets through, for those who may only
    /// read, and in sessions, where `readonly` would outlive the request.
    fn guard(&self, connection: &mut Connection) -> Result<(), Exception> {
        let guarded = match self.asked.access {
            Access::Everything => false,
            Access::Reading => self.asked.session.is_some(),
            Access::Reader => true,
        };
        if guarded && !connection.is_read_only(self.text) {
            return Err(raise::READONLY("Cannot execute query in readonly mode"));
        }
        Ok(())
    }

    fn shape(
        &mut self,
        connection: &mut Connection,
        shape: Shape,
        body: &mut dyn Read,
    ) -> (Result<Counts, Exception>, Trace) {
        match shape {
            Shape::Insert { format, .. } if format == "Values" && !self.asked.parameters.is_empty() => {
                // The values may use the parameters, which an insert of streamed rows has forgotten by then.
                (self.insert_with_parameters(connection, body), Trace::Perhaps)
            }
            Shape::Insert { text, format, data } => traceless(self.insert(connection, text, &format, data, body)),
            Shape::Answer { before, after, format } => traceless(self.rows(connection, before, after, format)),
            Shape::Command { text } => (self.command(connection, &self.text[text]), Trace::Perhaps),
        }
    }

    fn insert(
        &mut self,
        connection: &mut Connection,
        text: Range<usize>,
        format: &str,
        data: usize,
        body: &mut dyn Read,
    ) -> Result<Counts, Exception> {
        let (asked, all) = (self.asked, self.text);
        self.answer.format(default_format(asked));
        self.statement.run(false, || {
            let mut insert = connection.insert(&all[text], format, &asked.parameters)?;
            let mut rows = all[data..].chain(body);
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let filled = fill(&mut piece, &mut rows)?;
                if filled == 0 || insert.append(&piece[..filled]).is_err() {
                    return Ok(insert.finish()?); // after a failed append it knows why
                }
            }
        })
    }

    fn insert_with_parameters(
        &mut self,
        connection: &mut Connection,
        body: &mut dyn Read,
    ) -> Result<Counts, Exception> {
        let mut text = self.text.to_vec();
        text.extend(read_statement(body)?);
        self.command(connection, &text)
    }

    /// The engine writes the rows into a pipe, in its format's own way, and is held up when the client is slow.
    fn rows(
        &mut self,
        connection: &mut Connection,
        before: Range<usize>,
        after: Range<usize>,
        format: Option<String>,
    ) -> Result<Counts, Exception> {
        let format = format.unwrap_or_else(|| default_format(self.asked).to_owned());
        self.answer.format(&format);
        let (reader, writer) =
            io::pipe().map_err(|error| raise::UNKNOWN_EXCEPTION(format!("could not open a pipe: {error}")))?;
        let into = format!("\nINTO OUTFILE '/dev/fd/{}' APPEND FORMAT {format}\n", writer.as_raw_fd());
        let sql = [&self.text[before], into.as_bytes(), &self.text[after]].concat();
        let (asked, statement, answer) = (self.asked, self.statement, &mut *self.answer);
        std::thread::scope(|scope| {
            let drain = scope.spawn(move || answer.copy(reader));
            let finished = statement.run(true, || Ok(connection.query(&sql, &format, &asked.parameters)?));
            drop(writer); // now the pipe has an end
            let drained = drain.join().unwrap_or(Err(Stopped::Gone));
            match drained {
                Ok(()) => finished.map(|finished| finished.counts),
                Err(Stopped::Refused(exception)) => Err(exception),
                Err(Stopped::Gone) => Err(raise::QUERY_WAS_CANCELLED("the client went away")),
            }
        })
    }

    fn command(&mut self, connection: &mut Connection, text: &[u8]) -> Result<Counts, Exception> {
        let (asked, format) = (self.asked, default_format(self.asked));
        self.answer.format(format);
        let finished = self.statement.run(false, || Ok(connection.query(text, format, &asked.parameters)?))?;
        match self.answer.data(&finished.output) {
            Err(Stopped::Refused(exception)) => Err(exception),
            _ => Ok(finished.counts),
        }
    }
}

fn default_format(asked: &Asked) -> &str {
    asked.default_format.as_deref().unwrap_or(DEFAULT_FORMAT)
}

/// What ended well left nothing in its connection; after a failure nobody knows.
fn traceless(result: Result<Counts, Exception>) -> (Result<Counts, Exception>, Trace) {
    let trace = if result.is_ok() { Trace::None } else { Trace::Perhaps };
    (result, trace)
}

/// Fills a piece as far as there are bytes.
fn fill(piece: &mut [u8], rows: &mut dyn Read) -> Result<usize, Exception> {
    let mut filled = 0;
    while filled < piece.len() {
        match rows.read(&mut piece[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
