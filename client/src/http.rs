//! One request to the gateway, and what its answer means. Decides nothing.

use crate::batch::Pending;
use crate::credential::Bearer;
use crate::{Options, PublishError, Quarantine, Violation};
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use serde::Deserialize;
use std::error::Error;
use std::time::Duration;

/// A verdict for each of a thousand events, and everything that is wrong with each.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// To find the gateway: less than an attempt.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a gateway may make us wait: not at all would be a storm of attempts, for longer than this an event would
/// hardly live.
const RETRY_AFTER_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// What became of one event.
#[derive(Debug, Deserialize)]
pub(crate) struct Verdict {
    pub status: Status,
    #[serde(default)]
    pub errors: Vec<Violation>,
    quarantine: Option<Quarantined>,
}

/// A gateway may come to say more; what it says of the events must be understood all the same.
#[derive(Debug, Deserialize)]
struct Quarantined {
    kept: Option<String>,
    not_kept: Option<String>,
}

impl Verdict {
    pub fn quarantine(&mut self) -> Option<Quarantine> {
        let Quarantined { kept, not_kept } = self.quarantine.take()?;
        kept.map(Quarantine::Kept).or(not_kept.map(Quarantine::NotKept))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Accepted,
    Duplicate,
    Spooled,
    Invalid,
    Unauthorized,
    Throttled,
    Retry,
}

#[derive(Debug)]
pub(crate) enum Answer {
    /// Of each event, in their order.
    Verdicts { verdicts: Vec<Verdict>, retry_after: Option<Duration> },
    /// Of all of them. If it is the gateway's, none is in the log.
    Refused { status: u16, detail: String, retry_after: Option<Duration> },
    /// There was no request.
    Unsent(String),
    /// Nobody knows what became of them.
    Broken(String),
}

pub(crate) struct Gateway {
    http: reqwest::Client,
    url: String,
    attempt: Duration,
    keep_invalid: bool,
    bearer: Bearer,
}

impl Gateway {
    pub fn new(options: &Options) -> Result<Self, PublishError> {
        let url = format!("{}/v1/events", options.gateway.trim_end_matches('/'));
        let parsed = reqwest::Url::parse(&url).ok();
        if !parsed.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host()) {
            return Err(PublishError::Options("`gateway` is no URL such as https://events.example.com".into()));
        }
        // Fails where the process has one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_DEADLINE).redirect(Policy::none());
        if let Some(authorities) = &options.authorities {
            http = http.tls_certs_merge(authorities.certificates()?);
        }
        if let Some(identity) = &options.identity {
            http = http.identity(identity.identity()?);
        }
        let http = http.build().map_err(|error| PublishError::Options(format!("no HTTP client: {}", told(error))))?;
        let bearer = Bearer::new(options.credential.clone(), http.clone());
        Ok(Self { http, url, attempt: options.attempt, keep_invalid: options.keep_invalid, bearer })
    }

    pub async fn post(&mut self, batch: &[Pending]) -> Answer {
        let token = match self.bearer.token().await {
            Ok(token) => token,
            Err(error) => return Answer::Unsent(format!("could not get a token: {error}")),
        };
        let answered = tokio::time::timeout(self.attempt, self.ask(batch, token)).await;
        answered.unwrap_or_else(|_| Answer::Broken(format!("no answer within {:?}", self.attempt)))
    }

    /// False where a new token is not to be had.
    pub fn renew(&mut self) -> bool {
        self.bearer.forget()
    }

    async fn ask(&self, batch: &[Pending], token: Option<String>) -> Answer {
        let mut request = self.http.post(&self.url).header(CONTENT_TYPE, "application/cloudevents-batch+json");
        if self.keep_invalid {
            request = request.header("millrace-quarantine", "invalid");
        }
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        match request.body(body(batch)).send().await {
            Ok(answer) => heard(answer, batch.len()).await.unwrap_or_else(Answer::Broken),
            Err(error) if error.is_connect() => Answer::Unsent(told(error)),
            Err(error) => Answer::Broken(told(error)),
        }
    }
}

async fn heard(mut answer: Response, events: usize) -> Result<Answer, String> {
    let (status, retry_after) = (answer.status().as_u16(), retry_after(answer.headers()));
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(told)? {
        if text.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(read(status, retry_after, &text, events))
}

/// With its causes, of which the last says most.
pub(crate) fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn body(batch: &[Pending]) -> String {
    let events: Vec<&str> = batch.iter().map(|pending| pending.json.as_str()).collect();
    format!("[{}]", events.join(","))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(RETRY_AFTER_BOUNDS.0, RETRY_AFTER_BOUNDS.1))
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Verdict>,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// What has no verdicts speaks of the whole request; it may also come from something between us and the gateway.
fn read(status: u16, retry_after: Option<Duration>, text: &[u8], events: usize) -> Answer {
    match serde_json::from_slice::<Results>(text) {
        Ok(found) if found.results.len() == events => Answer::Verdicts { verdicts: found.results, retry_after },
        Ok(found) => Answer::Broken(format!("{} verdicts for {events} events", found.results.len())),
        Err(_) if status < 400 => Answer::Broken(format!("an answer ({status}) that is none of a gateway's")),
        Err(_) => {
            let problem: Option<Problem> = serde_json::from_slice(text).ok();
            let detail = problem.map_or_else(|| "without a reason".to_owned(), |problem| problem.detail);
            Answer::Refused { status, detail, retry_after }
        }
    }
}
