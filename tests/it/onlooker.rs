//! Somebody who reads the views all the while. Whatever dies: no look shows an event twice, and none shows fewer events
//! than the one before.

use crate::platform::{Platform, ask_clickhouse};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// One statement reads a view at one moment, so that its numbers belong together.
const LOOK: &str = "select _table as view, count() as events, uniqExact(event_id) as ids
                    from merge('events', '.*') group by view";
/// Between two looks: some fall into every recovery, and all of them cost the server little.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until it is told to leave; a look that shows what may not be ends it, and its story is told at once.
pub struct Onlooker {
    leave: oneshot::Sender<()>,
    looking: JoinHandle<Looks>,
}

#[derive(Default)]
pub struct Looks {
    /// When each of them was answered.
    pub answered: Vec<Instant>,
    /// What the others were told instead: as a rule that nobody is there.
    pub unanswered: Vec<String>,
}

impl Onlooker {
    /// Of the views of this platform.
    pub fn of(platform: &Platform) -> Self {
        let (leave, left) = oneshot::channel();
        let looking = tokio::spawn(look_until(left, platform.addresses().clickhouse.clone()));
        Self { leave, looking }
    }

    /// Panics if it has seen what may not be.
    pub async fn leaves(self) -> Looks {
        let _ = self.leave.send(());
        self.looking.await.expect("a look showed what may not be")
    }
}

async fn look_until(mut left: oneshot::Receiver<()>, url: String) -> Looks {
    let (mut looks, mut shown) = (Looks::default(), BTreeMap::new());
    loop {
        tokio::select! {
            _ = &mut left => return looks,
            answer = look(&url) => match answer {
                Ok(shows) => {
                    assert_none_is_gone(&shown, &shows);
                    shown = shows;
                    looks.answered.push(Instant::now());
                }
                Err(error) => looks.unanswered.push(error),
            },
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The events of each view that has some.
async fn look(url: &str) -> Result<BTreeMap<String, i64>, String> {
    let views = ask_clickhouse(url, LOOK).await?;
    let mut shows = BTreeMap::new();
    for view in views {
        let number = |key: &str| view[key].as_i64().unwrap();
        assert_eq!(number("events"), number("ids"), "an event stands twice: {view}");
        shows.insert(view["view"].as_str().unwrap().to_owned(), number("events"));
    }
    Ok(shows)
}

fn assert_none_is_gone(shown: &BTreeMap<String, i64>, shows: &BTreeMap<String, i64>) {
    for (view, before) in shown {
        let now = shows.get(view).copied().unwrap_or_default();
        assert!(now >= *before, "events.{view} showed {before} events, and now {now}");
    }
}
