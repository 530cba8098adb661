//! The registry's tables in Postgres: schemas and the versions of subjects. Schemas are only ever added, since a record
//! may name one as long as there are records.

use super::answer::Refusal;
use super::settings;
use super::submitted::{Reference, Request, Submitted};
use millrace_schemas::compatibility::Mode;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Row, Transaction};
use std::fmt;
use std::str::FromStr;

/// One change at a time: they are rare, ids and versions count up without gaps, and what is referred to stays.
const REGISTRATION_LOCK: i64 = 0x6d69_6c6c_7265_6700; // "millreg"

#[derive(Clone)]
pub(super) struct Store(pub(super) PgPool);

/// A version of a subject.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Registered {
    pub subject: String,
    pub id: i32,
    pub version: i32,
    pub schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    #[serde(skip)]
    resolved: Option<String>,
}

impl Registered {
    /// With everything in it that it refers to.
    pub fn resolved(&self) -> &str {
        self.resolved.as_ref().unwrap_or(&self.schema)
    }
}

/// What an id stands for.
pub(super) struct Known {
    pub schema: String,
    pub references: Vec<Reference>,
    pub resolved: Option<String>,
}

/// Which versions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deleted {
    Without,
    With,
    Only,
}

impl Deleted {
    /// For `($n::bool is null or $n = (deleted_at is not null))`.
    fn wanted(self) -> Option<bool> {
        match self {
            Self::Without => Some(false),
            Self::With => None,
            Self::Only => Some(true),
        }
    }
}

/// Versions and their schemas; the rest of the statement follows.
macro_rules! versions {
    ($rest:literal) => {
        concat!(
            "select v.subject, s.id, v.version, s.schema, s.refs, s.resolved
             from millrace.subject_version v join millrace.avro_schema s on s.id = v.schema_id ",
            $rest
        )
    };
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
            references: row.try_get::<Json<_>, _>("refs")?.0,
            resolved: row.try_get("resolved")?,
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

    /// What a client sent, with what it refers to.
    pub async fn read(&self, request: Request, normal: bool) -> Result<Submitted, Refusal> {
        let mut referenced = Vec::new();
        for Reference { name, subject, version } in request.references() {
            let found = self.version(subject, Version::Number(*version), Deleted::Without).await?;
            let found = found.ok_or_else(|| Refusal::no_reference(subject, *version))?;
            referenced.push((name.clone(), found.resolved().to_owned()));
        }
        request.resolve(&referenced, normal)
    }

    /// The schema's id. Most registrations are repeated ones and need no lock.
    pub async fn register(&self, subject: String, submitted: Submitted) -> Result<i32, Refusal> {
        if let Some(registered) = self.find(&subject, &submitted, Deleted::Without).await? {
            return Ok(registered.id);
        }
        let store = self.clone();
        to_the_end(async move {
            let mut transaction = store.alone().await?;
            let id = register(&mut transaction, &subject, &submitted).await?;
            transaction.commit().await?;
            Ok(id)
        })
        .await
    }

    /// A transaction in which nobody else adds or removes anything.
    pub(super) async fn alone(&self) -> Result<Transaction<'static, Postgres>, Refusal> {
        let mut transaction = self.0.begin().await?;
        sqlx::query("set local lock_timeout = '10s'").execute(&mut *transaction).await?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(REGISTRATION_LOCK).execute(&mut *transaction).await?;
        Ok(transaction)
    }

    pub async fn find(
        &self,
        subject: &str,
        submitted: &Submitted,
        deleted: Deleted,
    ) -> Result<Option<Registered>, Refusal> {
        find(&mut *self.0.acquire().await?, subject, submitted, deleted).await
    }

    /// `refusal` if there is such a subject; if there isn't, that comes first.
    pub async fn missing(&self, subject: &str, deleted: Deleted, refusal: Refusal) -> Result<Refusal, Refusal> {
        let versions = self.versions(subject, deleted).await?;
        Ok(if versions.is_empty() { Refusal::no_subject(subject) } else { refusal })
    }

    pub async fn subjects(&self, prefix: &str, deleted: Deleted) -> Result<Vec<String>, Refusal> {
        // A subject is deleted when all of its versions are.
        let sql = "select subject from millrace.subject_version where starts_with(subject, $1) group by subject
                   having $2::bool is null or $2 = bool_and(deleted_at is not null) order by 1";
        Ok(sqlx::query_scalar(sql).bind(prefix).bind(deleted.wanted()).fetch_all(&self.0).await?)
    }

    pub async fn versions(&self, subject: &str, deleted: Deleted) -> Result<Vec<i32>, Refusal> {
        let sql = "select version from millrace.subject_version
                   where subject = $1 and ($2::bool is null or $2 = (deleted_at is not null)) order by 1";
        Ok(sqlx::query_scalar(sql).bind(subject).bind(deleted.wanted()).fetch_all(&self.0).await?)
    }

    pub async fn version(
        &self,
        subject: &str,
        version: Version,
        deleted: Deleted,
    ) -> Result<Option<Registered>, Refusal> {
        let number = match version {
            Version::Latest => None,
            Version::Number(number) => Some(number),
        };
        let sql = versions!(
            "where v.subject = $1 and ($2::int is null or v.version = $2)
             and ($3::bool is null or $3 = (v.deleted_at is not null)) order by v.version desc limit 1"
        );
        Ok(sqlx::query_as(sql).bind(subject).bind(number).bind(deleted.wanted()).fetch_optional(&self.0).await?)
    }

    /// Every version that counts, oldest first.
    pub async fn earlier(&self, subject: &str) -> Result<Vec<Registered>, Refusal> {
        earlier(&mut *self.0.acquire().await?, subject, Deleted::Without).await
    }

    /// Every version of every subject.
    pub async fn all(&self, prefix: &str, deleted: Deleted) -> Result<Vec<Registered>, Refusal> {
        let sql = versions!(
            "where starts_with(v.subject, $1) and ($2::bool is null or $2 = (v.deleted_at is not null))
             order by v.subject, v.version"
        );
        Ok(sqlx::query_as(sql).bind(prefix).bind(deleted.wanted()).fetch_all(&self.0).await?)
    }

    /// What the next version of a subject must be able to do.
    pub async fn level(&self, subject: &str) -> Result<Mode, Refusal> {
        settings::effective(&mut *self.0.acquire().await?, subject).await
    }

    pub async fn schema(&self, id: i32) -> Result<Option<Known>, Refusal> {
        let sql = "select schema, refs, resolved from millrace.avro_schema where id = $1";
        let row: Option<(String, Json<Vec<Reference>>, Option<String>)> =
            sqlx::query_as(sql).bind(id).fetch_optional(&self.0).await?;
        Ok(row.map(|(schema, Json(references), resolved)| Known { schema, references, resolved }))
    }

    pub async fn newest_id(&self) -> Result<i32, Refusal> {
        Ok(sqlx::query_scalar("select coalesce(max(id), 0) from millrace.avro_schema").fetch_one(&self.0).await?)
    }

    /// Where a schema is used.
    pub async fn users(&self, id: i32, deleted: Deleted) -> Result<Vec<User>, Refusal> {
        let sql = "select subject, version from millrace.subject_version
                   where schema_id = $1 and ($2::bool is null or $2 = (deleted_at is not null)) order by 1, 2";
        Ok(sqlx::query_as(sql).bind(id).bind(deleted.wanted()).fetch_all(&self.0).await?)
    }

    /// The ids of the schemas that refer to a version.
    pub async fn referring(&self, subject: &str, version: i32) -> Result<Vec<i32>, Refusal> {
        referring(&mut *self.0.acquire().await?, subject, version).await
    }
}

/// Goes on when the client hangs up: a transaction given up while it begins would go back into the pool half-open,
/// and the next one on that connection would be part of it.
pub(super) async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let changed = tokio::spawn(change).await;
    changed.unwrap_or_else(|error| Err(Refusal::damaged(format!("the change ended: {error}"))))
}

async fn register(on: &mut PgConnection, subject: &str, submitted: &Submitted) -> Result<i32, Refusal> {
    if let Some(registered) = find(on, subject, submitted, Deleted::Without).await? {
        return Ok(registered.id);
    }
    settings::refuse_read_only(on, subject).await?;
    for Reference { subject, version, .. } in &submitted.references {
        let there =
            "select true from millrace.subject_version where subject = $1 and version = $2 and deleted_at is null";
        let there: Option<bool> =
            sqlx::query_scalar(there).bind(subject).bind(version).fetch_optional(&mut *on).await?;
        there.ok_or_else(|| Refusal::no_reference(subject, *version))?; // it was, a moment ago
    }
    let level: Mode = settings::effective(on, subject).await?;
    let reasons = submitted.incompatible(level, &earlier(on, subject, Deleted::Without).await?)?;
    if !reasons.is_empty() {
        return Err(Refusal::incompatible(subject, &reasons));
    }
    let id = schema_id(on, submitted).await?;
    let sql = "insert into millrace.subject_version (subject, version, schema_id)
               select $1, coalesce(max(version), 0) + 1, $2 from millrace.subject_version where subject = $1";
    sqlx::query(sql).bind(subject).bind(id).execute(on).await?;
    Ok(id)
}

/// The id that it has, or the next one.
async fn schema_id(on: &mut PgConnection, submitted: &Submitted) -> Result<i32, Refusal> {
    let known = "select id from millrace.avro_schema where digest = sha256($1)";
    let id = sqlx::query_scalar(known).bind(submitted.canonical.as_bytes()).fetch_optional(&mut *on).await?;
    if let Some(id) = id {
        return Ok(id);
    }
    let insert = "insert into millrace.avro_schema (id, schema, digest, refs, resolved)
                  select coalesce(max(id), 0) + 1, $1, sha256($2), $3, $4 from millrace.avro_schema returning id";
    let insert = sqlx::query_scalar(insert).bind(&submitted.text).bind(submitted.canonical.as_bytes());
    Ok(insert.bind(Json(&submitted.references)).bind(&submitted.resolved).fetch_one(on).await?)
}

/// The newest of those that are this schema: one that was deleted may have been registered again.
async fn find(
    on: &mut PgConnection,
    subject: &str,
    submitted: &Submitted,
    deleted: Deleted,
) -> Result<Option<Registered>, Refusal> {
    let sql = versions!(
        "where v.subject = $1 and s.digest = sha256($2) and ($3::bool is null or $3 = (v.deleted_at is not null))
         order by v.version desc limit 1"
    );
    let found = sqlx::query_as(sql).bind(subject).bind(submitted.canonical.as_bytes()).bind(deleted.wanted());
    let found = found.fetch_optional(&mut *on).await?;
    if found.is_some() || !submitted.normal {
        return Ok(found);
    }
    let all = earlier(on, subject, deleted).await?;
    Ok(all.into_iter().rev().find(|registered| submitted.is_normally(registered)))
}

async fn earlier(on: &mut PgConnection, subject: &str, deleted: Deleted) -> Result<Vec<Registered>, Refusal> {
    let sql =
        versions!("where v.subject = $1 and ($2::bool is null or $2 = (v.deleted_at is not null)) order by v.version");
    Ok(sqlx::query_as(sql).bind(subject).bind(deleted.wanted()).fetch_all(on).await?)
}

pub(super) async fn referring(on: &mut PgConnection, subject: &str, version: i32) -> Result<Vec<i32>, Refusal> {
    let sql = "select s.id from millrace.avro_schema s where s.refs @> $1
               and exists (select 1 from millrace.subject_version v where v.schema_id = s.id and v.deleted_at is null)
               order by 1";
    let wanted = json!([{ "subject": subject, "version": version }]);
    Ok(sqlx::query_scalar(sql).bind(Json(wanted)).fetch_all(on).await?)
}
