//! The registry's tables in Postgres: read and added to, never changed but for compatibility levels.

use super::DEFAULT_LEVEL;
use super::answer::Refusal;
use super::submitted::Submitted;
use millrace_schemas::compatibility::Mode;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, PgPool, Row};
use std::fmt;
use std::str::FromStr;

/// One registration at a time: they are rare, and ids and versions count up without gaps.
const REGISTRATION_LOCK: i64 = 0x6d69_6c6c_7265_6700; // "millreg"
/// The subject that speaks for all.
const EVERY_SUBJECT: &str = "";

#[derive(Clone)]
pub(super) struct Store(PgPool);

/// A version of a subject.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Registered {
    pub subject: String,
    pub id: i32,
    pub version: i32,
    pub schema: String,
}

/// Where a schema is used.
#[derive(Debug, Serialize)]
pub(super) struct User {
    pub subject: String,
    version: i32,
}

impl FromRow<'_, PgRow> for Registered {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            subject: row.try_get("subject")?,
            id: row.try_get("id")?,
            version: row.try_get("version")?,
            schema: row.try_get("schema")?,
        })
    }
}

impl FromRow<'_, PgRow> for User {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { subject: row.try_get("subject")?, version: row.try_get("version")? })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Latest,
    Number(i32),
}

impl FromStr for Version {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        match text {
            "latest" | "-1" => Ok(Self::Latest),
            number => match number.parse() {
                Ok(number) if number > 0 => Ok(Self::Number(number)),
                _ => Err(Refusal::invalid_version(text)),
            },
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Store {
    pub fn new(pool: PgPool) -> Self {
        Self(pool)
    }

    /// The schema's id. Most registrations are repeated ones and need no lock.
    ///
    /// Goes on when the client hangs up: a transaction given up while it begins would go back into the pool
    /// half-open, and the next one on that connection would be part of it.
    pub async fn register(&self, subject: String, submitted: Submitted) -> Result<i32, Refusal> {
        if let Some(registered) = self.find(&subject, &submitted).await? {
            return Ok(registered.id);
        }
        let store = self.clone();
        let registering = tokio::spawn(async move { store.register_locked(&subject, &submitted).await });
        registering.await.unwrap_or_else(|error| Err(Refusal::damaged(format!("the registration ended: {error}"))))
    }

    async fn register_locked(&self, subject: &str, submitted: &Submitted) -> Result<i32, Refusal> {
        let mut transaction = self.0.begin().await?;
        sqlx::query("set local lock_timeout = '10s'").execute(&mut *transaction).await?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(REGISTRATION_LOCK).execute(&mut *transaction).await?;
        let id = register(&mut transaction, subject, submitted).await?;
        transaction.commit().await?;
        Ok(id)
    }

    pub async fn find(&self, subject: &str, submitted: &Submitted) -> Result<Option<Registered>, Refusal> {
        Ok(find(&mut *self.0.acquire().await?, subject, submitted).await?)
    }

    /// `refusal` if there is such a subject; if there isn't, that comes first.
    pub async fn missing(&self, subject: &str, refusal: Refusal) -> Result<Refusal, Refusal> {
        let versions = self.versions(subject).await?;
        Ok(if versions.is_empty() { Refusal::no_subject(subject) } else { refusal })
    }

    pub async fn subjects(&self, prefix: &str) -> Result<Vec<String>, Refusal> {
        let sql = "select distinct subject from millrace.subject_version where starts_with(subject, $1) order by 1";
        Ok(sqlx::query_scalar(sql).bind(prefix).fetch_all(&self.0).await?)
    }

    pub async fn versions(&self, subject: &str) -> Result<Vec<i32>, Refusal> {
        let sql = "select version from millrace.subject_version where subject = $1 order by 1";
        Ok(sqlx::query_scalar(sql).bind(subject).fetch_all(&self.0).await?)
    }

    pub async fn version(&self, subject: &str, version: Version) -> Result<Option<Registered>, Refusal> {
        let number = match version {
            Version::Latest => None,
            Version::Number(number) => Some(number),
        };
        let sql = "select v.subject, s.id, v.version, s.schema
                   from millrace.subject_version v join millrace.avro_schema s on s.id = v.schema_id
                   where v.subject = $1 and ($2::int is null or v.version = $2)
                   order by v.version desc limit 1";
        Ok(sqlx::query_as(sql).bind(subject).bind(number).fetch_optional(&self.0).await?)
    }

    /// Every version, oldest first.
    pub async fn earlier(&self, subject: &str) -> Result<Vec<Registered>, Refusal> {
        earlier(&mut *self.0.acquire().await?, subject).await
    }

    pub async fn schema(&self, id: i32) -> Result<Option<String>, Refusal> {
        let sql = "select schema from millrace.avro_schema where id = $1";
        Ok(sqlx::query_scalar(sql).bind(id).fetch_optional(&self.0).await?)
    }

    pub async fn newest_id(&self) -> Result<i32, Refusal> {
        Ok(sqlx::query_scalar("select coalesce(max(id), 0) from millrace.avro_schema").fetch_one(&self.0).await?)
    }

    /// Where a schema is used.
    pub async fn users(&self, id: i32) -> Result<Vec<User>, Refusal> {
        let sql = "select subject, version from millrace.subject_version where schema_id = $1 order by 1, 2";
        Ok(sqlx::query_as(sql).bind(id).fetch_all(&self.0).await?)
    }

    /// What counts for a subject.
    pub async fn level(&self, subject: &str) -> Result<Mode, Refusal> {
        level(&mut *self.0.acquire().await?, subject).await
    }

    pub async fn default_level(&self) -> Result<Mode, Refusal> {
        self.level(EVERY_SUBJECT).await
    }

    /// What a subject says itself.
    pub async fn own_level(&self, subject: &str) -> Result<Option<Mode>, Refusal> {
        let sql = "select level from millrace.subject_compatibility where subject = $1";
        let level: Option<String> = sqlx::query_scalar(sql).bind(subject).fetch_optional(&self.0).await?;
        level.map(|level| level.parse().map_err(Refusal::damaged)).transpose()
    }

    pub async fn set_default_level(&self, level: Mode) -> Result<(), Refusal> {
        self.set_level(EVERY_SUBJECT, level).await
    }

    pub async fn set_level(&self, subject: &str, level: Mode) -> Result<(), Refusal> {
        let sql = "insert into millrace.subject_compatibility (subject, level) values ($1, $2)
                   on conflict (subject) do update set level = excluded.level";
        sqlx::query(sql).bind(subject).bind(level.to_string()).execute(&self.0).await?;
        Ok(())
    }
}

/// Under the lock: nobody else adds anything meanwhile.
async fn register(on: &mut PgConnection, subject: &str, submitted: &Submitted) -> Result<i32, Refusal> {
    if let Some(registered) = find(on, subject, submitted).await? {
        return Ok(registered.id);
    }
    let earlier = earlier(on, subject).await?;
    let reasons = submitted.incompatible(level(on, subject).await?, &earlier)?;
    if !reasons.is_empty() {
        return Err(Refusal::incompatible(subject, &reasons));
    }
    let id = schema_id(on, submitted).await?;
    let version = earlier.last().map_or(1, |newest| newest.version + 1);
    let sql = "insert into millrace.subject_version (subject, version, schema_id) values ($1, $2, $3)";
    sqlx::query(sql).bind(subject).bind(version).bind(id).execute(on).await?;
    Ok(id)
}

/// The id that it has, or the next one.
async fn schema_id(on: &mut PgConnection, submitted: &Submitted) -> Result<i32, Refusal> {
    let known = "select id from millrace.avro_schema where digest = sha256($1)";
    let id = sqlx::query_scalar(known).bind(submitted.canonical.as_bytes()).fetch_optional(&mut *on).await?;
    if let Some(id) = id {
        return Ok(id);
    }
    let insert = "insert into millrace.avro_schema (id, schema, digest)
                  select coalesce(max(id), 0) + 1, $1, sha256($2) from millrace.avro_schema returning id";
    let insert = sqlx::query_scalar(insert).bind(&submitted.text).bind(submitted.canonical.as_bytes());
    Ok(insert.fetch_one(on).await?)
}

async fn find(on: &mut PgConnection, subject: &str, submitted: &Submitted) -> Result<Option<Registered>, sqlx::Error> {
    let sql = "select v.subject, s.id, v.version, s.schema
               from millrace.subject_version v join millrace.avro_schema s on s.id = v.schema_id
               where v.subject = $1 and s.digest = sha256($2)";
    sqlx::query_as(sql).bind(subject).bind(submitted.canonical.as_bytes()).fetch_optional(on).await
}

async fn earlier(on: &mut PgConnection, subject: &str) -> Result<Vec<Registered>, Refusal> {
    let sql = "select v.subject, s.id, v.version, s.schema
               from millrace.subject_version v join millrace.avro_schema s on s.id = v.schema_id
               where v.subject = $1 order by v.version";
    Ok(sqlx::query_as(sql).bind(subject).fetch_all(on).await?)
}

async fn level(on: &mut PgConnection, subject: &str) -> Result<Mode, Refusal> {
    // The subject's own word comes before everyone's: its name sorts after the empty one.
    let sql =
        "select level from millrace.subject_compatibility where subject in ($1, '') order by subject desc limit 1";
    let level: Option<String> = sqlx::query_scalar(sql).bind(subject).fetch_optional(on).await?;
    level.map_or(Ok(DEFAULT_LEVEL), |level| level.parse().map_err(Refusal::damaged))
}
