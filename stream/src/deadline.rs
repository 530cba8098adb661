//! A conversation with Postgres that ends, also when the server vanished without a word.

use crate::Failure;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

/// A server that vanished answers nothing, not even that a timeout passed; TCP alone would wait a quarter of an
/// hour. More than our statements may take, so that a slow answer is told apart from none.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Runs `work` on a connection of its own. One that did not answer in time is closed: half a conversation is no
/// use to the next one.
///
/// # Errors
/// [`Failure::Retry`] when there was no answer; it may have taken effect or not.
pub async fn answered<T>(
    pool: &PgPool,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut connection = pool.acquire().await?;
    match tokio::time::timeout(ANSWER_DEADLINE, work(&mut connection)).await {
        Ok(done) => done,
        Err(_) => {
            connection.close_on_drop();
            Err(no_answer())
        }
    }
}

/// The same of work that brings its own connection, which is no use after an error.
///
/// # Errors
/// [`Failure::Retry`] when there was no answer; it may have taken effect or not.
pub async fn in_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(ANSWER_DEADLINE, work).await.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> Failure {
    Failure::retry(anyhow::anyhow!("postgres did not answer within {ANSWER_DEADLINE:?}"))
}
