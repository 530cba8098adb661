//! Serves accounts; what it is told by the environment has the addresses of `make up` as its defaults.

use anyhow::Context;
use millrace_accounts::{Access, Service, migrate, router};
use sqlx::PgPool;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let _ = rustls::crypto::ring::default_provider().install_default(); // before anything else asks for one
    let pool = PgPool::connect(&setting("DATABASE_URL", "postgres://millrace@127.0.0.1:15432/millrace")).await?;
    migrate(&pool).await?;
    let secret_file = setting("ISSUER_SECRET_FILE", ".millrace/issuer/secret");
    let secret = std::fs::read_to_string(&secret_file).context(secret_file)?;
    let access = Access::discover(&setting("ISSUER", "http://127.0.0.1:7073"), secret.trim()).await?;
    let listener = tokio::net::TcpListener::bind(setting("LISTEN", "127.0.0.1:7100")).await?;
    tracing::info!("accounts on http://{}/account", listener.local_addr()?);
    let serving = axum::serve(listener, router(Service { pool, access }));
    Ok(serving.with_graceful_shutdown(asked_to_stop()).await?)
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

async fn asked_to_stop() {
    let _ = tokio::signal::ctrl_c().await;
}
