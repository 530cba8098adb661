//! A connection's database and settings, from a request: `USE` and `SET` before its statement, and back again where the
//! connection is a session. Values and names never leave their quotes.

use super::connections::Trace;
use super::exception::Exception;
use super::library::Connection;
use super::request::Asked;

/// The database and the settings of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    database: Option<String>,
    roles: Vec<String>,
    settings: Vec<(String, String)>,
    /// Last, because nothing can be set after it.
    read_only: Option<&'static str>,
}

impl Setup {
    pub fn of(asked: &Asked) -> Self {
        Self {
            database: asked.database.clone(),
            roles: asked.role.clone(),
            settings: asked.settings.clone(),
            read_only: asked.read_only,
        }
    }

    pub fn apply(&self, connection: &mut Connection) -> Result<(), Exception> {
        self.apply_undoable(connection)?;
        if let Some(value) = self.read_only {
            run(connection, &format!("SET readonly = {value}"))?;
        }
        Ok(())
    }

    fn apply_undoable(&self, connection: &mut Connection) -> Result<(), Exception> {
        if let Some(database) = &self.database {
            run(connection, &format!("USE {}", identifier(database)))?;
        }
        if !self.roles.is_empty() {
            let roles: Vec<String> = self.roles.iter().map(|role| identifier(role)).collect();
            run(connection, &format!("SET ROLE {}", roles.join(", ")))?;
        }
        if !self.settings.is_empty() {
            let list: Vec<String> =
                self.settings.iter().map(|(name, value)| format!("{name} = {}", literal(value))).collect();
            run(connection, &format!("SET {}", list.join(", ")))?;
        }
        Ok(())
    }

    /// What puts a session back to how it was before this setup.
    fn undo(&self, connection: &mut Connection) -> Result<Vec<String>, Exception> {
        let mut undo = Vec::new();
        if self.database.is_some() {
            let sql = "SELECT currentDatabase()";
            let database = connection.query(sql.as_bytes(), "TSVRaw", &[])?.output;
            undo.push(format!("USE {}", identifier(String::from_utf8_lossy(&database).trim_end_matches('\n'))));
        }
        for (name, _) in &self.settings {
            let sql = format!("SELECT value FROM system.settings WHERE name = {} AND changed", literal(name));
            let value = connection.query(sql.as_bytes(), "RowBinary", &[])?.output;
            let value = String::from_utf8_lossy(after_length(&value)).into_owned();
            undo.push(if value.is_empty() {
                format!("SET {name} = DEFAULT")
            } else {
                format!("SET {name} = {}", literal(&value))
            });
        }
        Ok(undo)
    }
}

/// A session keeps what its statements set, not what a request's URL set for itself.
pub fn within_session<T>(
    connection: &mut Connection,
    setup: &Setup,
    work: impl FnOnce(&mut Connection) -> (Result<T, Exception>, Trace),
) -> Result<T, Exception> {
    let undo = setup.undo(connection)?;
    let result = setup.apply_undoable(connection).and_then(|()| work(connection).0);
    let undone = undo.iter().try_for_each(|sql| run(connection, sql));
    result.and_then(|done| undone.map(|()| done))
}

fn run(connection: &mut Connection, sql: &str) -> Result<(), Exception> {
    Ok(connection.query(sql.as_bytes(), "Null", &[]).map(drop)?)
}

/// The bytes after RowBinary's length of a string.
fn after_length(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).map_or(bytes.len(), |last| last + 1);
    &bytes[length..]
}

fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_cannot_leave_their_quotes() {
        assert_eq!(identifier("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(literal("it's \\"), "'it\\'s \\\\'");
    }

    #[test]
    fn a_length_of_several_bytes_is_passed_over() {
        assert_eq!(after_length(&[2, b'a', b'b']), b"ab");
        assert_eq!(after_length(&[0x80, 1, b'a']), b"a");
        assert_eq!(after_length(&[]), b"");
    }
}
