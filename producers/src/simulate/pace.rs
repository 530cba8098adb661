//! When the next event may be sent: so many a second, evenly.

use std::time::{Duration, Instant};

/// After a pause, at most so much is made up for: a broker that was away is not met by all it has missed.
const BEHIND_MAX: Duration = Duration::from_secs(1);

pub(super) struct Pace {
    /// Between two events; none when there is no limit.
    every: Option<Duration>,
    due: Instant,
}

impl Pace {
    /// `rate` a second; 0 is no limit.
    pub fn new(rate: u32) -> Self {
        Self { every: (rate > 0).then(|| Duration::from_secs(1) / rate), due: Instant::now() }
    }

    /// Until when to wait, if the next event is not due yet.
    pub fn wait(&self) -> Option<Instant> {
        (self.every.is_some() && self.due > Instant::now()).then_some(self.due)
    }

    pub fn sent(&mut self) {
        let Some(every) = self.every else { return };
        let earliest = Instant::now().checked_sub(BEHIND_MAX).unwrap_or(self.due);
        self.due = self.due.max(earliest) + every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_made_up_for_by_at_most_a_seconds_worth() {
        let mut pace = Pace::new(1000);
        pace.due = Instant::now().checked_sub(BEHIND_MAX * 5).unwrap_or_else(Instant::now);
        let burst = std::iter::from_fn(|| pace.wait().is_none().then(|| pace.sent())).take(5000).count();
        assert!((1000..1500).contains(&burst), "{burst}");
    }
}
