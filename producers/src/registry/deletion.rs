//! Taking versions away: first they are not listed any more, then, asked a second time, they are gone. A schema keeps
//! its id through both: the log may have records of it.

use super::answer::Refusal;
use super::settings;
use super::store::{Deleted, Store, Version, referring, to_the_end};
use sqlx::PgConnection;

impl Store {
    /// All versions of a subject; their numbers.
    pub async fn delete_subject(&self, subject: String, permanent: bool) -> Result<Vec<i32>, Refusal> {
        let store = self.clone();
        to_the_end(async move {
            let mut transaction = store.alone().await?;
            let deleted = delete_subject(&mut transaction, &subject, permanent).await?;
            transaction.commit().await?;
            Ok(deleted)
        })
        .await
    }

    /// One version; its number.
    pub async fn delete_version(&self, subject: String, version: Version, permanent: bool) -> Result<i32, Refusal> {
        let wanted = if permanent { Deleted::With } else { Deleted::Without };
        let number = match (version, self.version(&subject, version, wanted).await?) {
            (Version::Number(number), _) => number,
            (Version::Latest, Some(latest)) => latest.version,
            (Version::Latest, None) => return Err(Refusal::no_subject(&subject)),
        };
        let store = self.clone();
        to_the_end(async move {
            let mut transaction = store.alone().await?;
            delete_version(&mut transaction, &subject, number, permanent).await?;
            transaction.commit().await?;
            Ok(number)
        })
        .await
    }
}

async fn delete_subject(on: &mut PgConnection, subject: &str, permanent: bool) -> Result<Vec<i32>, Refusal> {
    settings::refuse_read_only(on, subject).await?;
    let sql = "select version, deleted_at is not null from millrace.subject_version where subject = $1 order by 1";
    let versions: Vec<(i32, bool)> = sqlx::query_as(sql).bind(subject).fetch_all(&mut *on).await?;
    let listed: Vec<i32> = versions.iter().filter(|(_, deleted)| !deleted).map(|(version, _)| *version).collect();
    match (versions.is_empty(), listed.is_empty(), permanent) {
        (true, ..) => return Err(Refusal::no_subject(subject)),
        (_, true, false) => return Err(Refusal::subject_deleted(subject)),
        (_, false, true) => return Err(Refusal::subject_not_deleted(subject)),
        _ => {}
    }
    if permanent {
        let sql = "delete from millrace.subject_version where subject = $1";
        sqlx::query(sql).bind(subject).execute(on).await?;
        return Ok(versions.into_iter().map(|(version, _)| version).collect());
    }
    for version in &listed {
        refuse_referred_to(on, subject, *version).await?;
    }
    let sql = "update millrace.subject_version set deleted_at = now() where subject = $1 and deleted_at is null";
    sqlx::query(sql).bind(subject).execute(&mut *on).await?;
    settings::forget(on, subject).await?;
    Ok(listed)
}

async fn delete_version(on: &mut PgConnection, subject: &str, version: i32, permanent: bool) -> Result<(), Refusal> {
    settings::refuse_read_only(on, subject).await?;
    let sql = "select deleted_at is not null from millrace.subject_version where subject = $1 and version = $2";
    let deleted: Option<bool> = sqlx::query_scalar(sql).bind(subject).bind(version).fetch_optional(&mut *on).await?;
    let sql = match (deleted, permanent) {
        (None, _) => return Err(no_version(on, subject, version).await?),
        (Some(true), false) => return Err(Refusal::version_deleted(subject, version)),
        (Some(false), true) => return Err(Refusal::version_not_deleted(subject, version)),
        (Some(false), false) => {
            refuse_referred_to(on, subject, version).await?;
            "update millrace.subject_version set deleted_at = now() where subject = $1 and version = $2"
        }
        (Some(true), true) => "delete from millrace.subject_version where subject = $1 and version = $2",
    };
    sqlx::query(sql).bind(subject).bind(version).execute(on).await?;
    Ok(())
}

async fn no_version(on: &mut PgConnection, subject: &str, version: i32) -> Result<Refusal, Refusal> {
    let sql = "select exists (select 1 from millrace.subject_version where subject = $1)";
    Ok(match sqlx::query_scalar(sql).bind(subject).fetch_one(on).await? {
        true => Refusal::no_version(Version::Number(version)),
        false => Refusal::no_subject(subject),
    })
}

async fn refuse_referred_to(on: &mut PgConnection, subject: &str, version: i32) -> Result<(), Refusal> {
    match referring(on, subject, version).await?.first() {
        Some(id) => Err(Refusal::referred_to(subject, version, *id)),
        None => Ok(()),
    }
}
