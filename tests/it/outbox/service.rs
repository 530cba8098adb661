//! A service with a database of its own, an outbox in it, and many writers: what they committed is what must be in the log.

use crate::gateway;
use crate::platform::{Platform, Role, eventually};
use millrace_outbox::Event;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use sqlx::PgPool;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;
use uuid::Uuid;

pub struct Service<'p> {
    pub platform: &'p Platform,
    /// Of its database, and of the outbox.
    pub name: String,
    /// Its owner's, who may do more than the service.
    pub owner: PgPool,
    /// The relay's, with the rights that the page gives it.
    pub relay_url: String,
}

/// What a database holds that its transactions committed: event, account, version of the account.
pub type Committed = HashMap<Uuid, (Uuid, i32)>;

impl<'p> Service<'p> {
    pub async fn open(platform: &'p Platform, name: &str) -> Self {
        let url = platform.addresses().postgres.clone();
        let (server, _) = url.rsplit_once('/').unwrap();
        let admin = platform.postgres().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&admin).await.unwrap();
        for role in ["shop_service", "millrace_relay"] {
            let _ = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create role {role} login"))).execute(&admin).await;
        }
        let owner = PgPool::connect(&format!("{server}/{name}")).await.unwrap();
        sqlx::raw_sql(millrace_outbox::SCHEMA).execute(&owner).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(grants())).execute(&owner).await.unwrap();
        let accounts = "create table public.account (user_id uuid primary key, version int not null default 0);
                        grant select, insert, update on public.account to shop_service";
        sqlx::raw_sql(accounts).execute(&owner).await.unwrap();
        let relay_url = format!("{}/{name}", server.replace("//millrace@", "//millrace_relay@"));
        Self { platform, name: name.to_owned(), owner, relay_url }
    }

    /// With the service's own rights.
    pub async fn pool(&self, connections: u32) -> PgPool {
        let url = self.relay_url.replace("//millrace_relay@", "//shop_service@");
        sqlx::postgres::PgPoolOptions::new().max_connections(connections).connect(&url).await.unwrap()
    }

    /// `settings` of its outbox, such as `LEASE_MS`; a name that is whole stands for itself.
    pub fn relay(&self, settings: &[(&str, &str)]) -> Role {
        let mut command = self.platform.command();
        command.args(["relay", &self.name]);
        let key = |key: &str| format!("MILLRACE_OUTBOX__{}__{key}", self.name.to_uppercase());
        command.env(key("URL"), &self.relay_url);
        for (name, value) in settings {
            let whole = name.starts_with("MILLRACE_");
            command.env(if whole { (*name).to_owned() } else { key(name) }, value);
        }
        Role::start(&mut command, &self.platform.data, &self.name)
    }

    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.owner).await.unwrap()
    }

    pub async fn published(&self) -> i64 {
        self.number("select last_value from millrace.outbox_published").await
    }

    pub async fn everything_is_published(&self) {
        let left = "select count(*) from millrace.outbox, millrace.outbox_published where seq > last_value";
        eventually("everything is published", async || self.number(left).await == 0).await;
    }

    /// Of these accounts, ids in the log in its order, a repeated one where it was first.
    pub fn log(&self, accounts: &HashSet<Uuid>) -> (Vec<(Uuid, Uuid)>, usize) {
        let (mut seen, mut first, mut all) = (HashSet::new(), Vec::new(), 0);
        for (key, id) in gateway::log(&self.platform.addresses().kafka) {
            let (Ok(key), Ok(id)) = (key.parse::<Uuid>(), id.parse::<Uuid>()) else { continue };
            if accounts.contains(&key) {
                all += 1;
                if seen.insert(id) {
                    first.push((key, id));
                }
            }
        }
        let repeated = all - first.len();
        (first, repeated)
    }

    /// Everything that was committed, nothing else, each account's versions in their order. How many came twice.
    pub fn assert_log_holds(&self, mut committed: Committed, accounts: &[Uuid]) -> usize {
        let (log, repeated) = self.log(&accounts.iter().copied().collect());
        let mut versions: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
        for (key, id) in log {
            let (account, version) = committed.remove(&id).unwrap_or_else(|| panic!("{id} was never committed"));
            assert_eq!(account, key);
            versions.entry(account).or_default().push(version);
        }
        assert!(committed.is_empty(), "{} events were skipped, such as {:?}", committed.len(), committed.iter().next());
        for (account, found) in versions {
            let expected: Vec<i32> = (1..=found.len() as i32).collect();
            assert_eq!(found, expected, "the order of {account}");
        }
        repeated
    }
}

/// The rights of the service and of the relay, as the page says them.
fn grants() -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/outbox.md")).unwrap();
    let (_, rest) = page.split_once("\n```sql\n-- The rights").unwrap();
    format!("-- The rights{}", rest.split_once("\n```").unwrap().0)
}

pub const WRITERS: usize = 50;
const ACCOUNTS: usize = 20;

/// Fifty writers that change accounts and say so.
pub struct Load {
    pub accounts: Arc<Vec<Uuid>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Committed>>,
}

impl Load {
    pub async fn start(service: &Service<'_>) -> Self {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let accounts: Arc<Vec<Uuid>> = Arc::new((0..ACCOUNTS).map(|_| Uuid::new_v4()).collect());
        for account in accounts.iter() {
            let new = sqlx::query("insert into account (user_id) values ($1)").bind(account);
            new.execute(&service.owner).await.unwrap();
        }
        let (pool, stop) = (service.pool(WRITERS as u32).await, Arc::new(AtomicBool::new(false)));
        let writer = |number: usize| {
            let dice = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number as u64));
            tokio::spawn(write(pool.clone(), dice, accounts.clone(), stop.clone()))
        };
        Self { writers: (0..WRITERS).map(writer).collect(), accounts, stop }
    }

    /// Lets every transaction end; what was committed.
    pub async fn end(self) -> Committed {
        self.stop.store(true, Ordering::SeqCst);
        let mut committed = Committed::new();
        for writer in self.writers {
            committed.extend(writer.await.unwrap());
        }
        println!("{} events committed", committed.len());
        committed
    }
}

async fn write(pool: PgPool, mut dice: ChaCha8Rng, accounts: Arc<Vec<Uuid>>, stop: Arc<AtomicBool>) -> Committed {
    let mut committed = Committed::new();
    while !stop.load(Ordering::SeqCst) {
        let account = accounts[dice.random_range(0..accounts.len())];
        let (early, long, undone) = (dice.random_bool(0.3), dice.random_bool(0.02), dice.random_bool(0.2));
        let mut transaction = pool.begin().await.unwrap();
        if early {
            // A transaction's number says nothing of who gets the account first.
            sqlx::query("select pg_current_xact_id()::text").execute(&mut *transaction).await.unwrap();
        }
        let changed =
            sqlx::query_scalar("update account set version = version + 1 where user_id = $1 returning version");
        let version: i32 = changed.bind(account).fetch_one(&mut *transaction).await.unwrap();
        let data = json!({ "user_id": account, "requested_by": format!("version {version}") });
        let event = Event::new("user.erased", &data);
        millrace_outbox::write(&mut *transaction, &event).await.unwrap();
        if long {
            sqlx::query("select pg_sleep(0.4)").execute(&mut *transaction).await.unwrap();
        }
        if undone {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            committed.insert(event.id, (account, version));
        }
    }
    committed
}
