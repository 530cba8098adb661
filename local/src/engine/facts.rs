//! What never changes while the engine runs, asked once: for headers.

use super::exception::Exception;
use super::library::Connection;
use std::collections::HashMap;

/// The engine about itself.
#[derive(Debug, Default)]
pub struct Facts {
    pub version: String,
    pub timezone: String,
    pub display_name: String,
    /// Lower-case name → the format's own name and its content type.
    formats: HashMap<String, (String, String)>,
}

impl Facts {
    pub fn ask(connection: &mut Connection) -> Result<Self, Exception> {
        let answer = text(connection, "SELECT version(), timezone(), displayName()")?;
        let mut fields = answer.trim_end().split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let formats = text(connection, "SELECT name, content_type FROM system.formats WHERE is_output")?;
        let format = |line: &str| {
            let (name, content_type) = line.split_once('\t')?;
            Some((name.to_ascii_lowercase(), (name.to_owned(), content_type.to_owned())))
        };
        Ok(Self {
            version: next(),
            timezone: next(),
            display_name: next(),
            formats: formats.lines().filter_map(format).collect(),
        })
    }

    /// The content type of a format; the engine knows formats by any case.
    pub fn content_type(&self, format: &str) -> &str {
        self.formats
            .get(&format.to_ascii_lowercase())
            .map_or("text/plain; charset=UTF-8", |(_, content_type)| content_type)
    }

    pub fn format_name<'name>(&'name self, format: &'name str) -> &'name str {
        self.formats.get(&format.to_ascii_lowercase()).map_or(format, |(name, _)| name)
    }
}

fn text(connection: &mut Connection, sql: &str) -> Result<String, Exception> {
    let output = connection.query(sql.as_bytes(), "TabSeparated", &[])?.output;
    Ok(String::from_utf8_lossy(&output).into_owned())
}
