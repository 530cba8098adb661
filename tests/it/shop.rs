//! A platform with one seed's traffic, published piece by piece, and the oracle's verdict on all of it so far.

use crate::platform::{Finished, Platform, Role, eventually};
use rustix::process::Signal;
use serde_json::Value;

/// The random shop of one test. Its roles are members of their groups by name, so that one that died is let in
/// again at once, and a test need not wait for the end of its session.
pub struct Shop {
    pub platform: Platform,
    seed: u64,
    /// So many of the seed's events are in the log.
    published: u64,
}

impl Shop {
    /// Another seed each time, and printed: put it here to repeat a run.
    pub async fn open() -> Self {
        Self::on(Platform::start().await)
    }

    pub fn on(platform: Platform) -> Self {
        let seed = u64::from(uuid::Uuid::new_v4().as_fields().0);
        println!("seed {seed}");
        Self::of(platform, seed)
    }

    pub fn of(platform: Platform, seed: u64) -> Self {
        Self { platform, seed, published: 0 }
    }

    /// How many of the seed's events the log holds.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Starts a role as the group member of this name.
    pub fn member(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Role {
        self.platform.member(name, arguments, environment)
    }

    /// Waits for what a dead client had sent: the engine carries it out to its end.
    pub async fn inserts_have_ended(&self) {
        let inserts = "select count() from system.processes where query_kind = 'Insert'";
        eventually("no insert is under way", async || self.platform.number(inserts).await == 0).await;
    }

    /// The next events of the seed, as fast as the log takes them; the simulator's report.
    pub fn publish(&mut self, events: u64, more: &[&str]) -> Value {
        self.publish_in(&[], events, more)
    }

    /// The same from a publisher with this environment.
    pub fn publish_in(&mut self, environment: &[(&str, &str)], events: u64, more: &[&str]) -> Value {
        let report = self.simulate(environment, events, more);
        assert_eq!(report.code(), 0, "{}{}", report.out, report.err);
        self.published += events;
        report.json()
    }

    /// All of it once more, under the same ids, as where a log is filled from a copy. It has taken effect by then, and
    /// something of it is there twice.
    pub fn publish_all_again(&self) {
        let verified = self.simulate_from(0, &[], self.published, &["--verify"]);
        assert_eq!(verified.code(), 2, "{}{}", verified.out, verified.err);
    }

    /// The next events of the seed in the background, at a rate and without end: see [`Shop::stop_publishing`].
    pub fn publishing(&self, rate: u32) -> Role {
        let (seed, first, rate) = (self.seed.to_string(), self.published.to_string(), rate.to_string());
        self.platform.role(&["simulate", "--json", "--seed", &seed, "--first", &first, "--rate", &rate])
    }

    pub fn stop_publishing(&mut self, mut traffic: Role) {
        assert!(traffic.is_running(), "the traffic had ended by itself:\n{}", traffic.log());
        traffic.signal(Signal::TERM);
        let (code, out) = traffic.finish();
        assert_eq!(code, 0, "{out}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["published"], report["acknowledged"]);
        self.published = report["next"].as_u64().unwrap();
    }

    /// Waits until everything published took effect, and finds it where it must be, once, field by field.
    pub fn assert_equals_the_oracle(&self) {
        let verified = self.simulate(&[], 0, &["--verify"]);
        assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
        assert_eq!(verified.json()["next"], self.published);
    }

    fn simulate(&self, environment: &[(&str, &str)], events: u64, more: &[&str]) -> Finished {
        self.simulate_from(self.published, environment, events, more)
    }

    fn simulate_from(&self, first: u64, environment: &[(&str, &str)], events: u64, more: &[&str]) -> Finished {
        let Self { platform, seed, .. } = self;
        let line = format!("simulate --json --rate 0 --seed {seed} --first {first} --events {events}");
        let arguments = line.split(' ').chain(more.iter().copied());
        Finished::of(platform.command().args(arguments).envs(environment.iter().copied()))
    }
}
