//! What a burst took goes back to the system when it is over. By itself glibc keeps most of it, for the next one.
#![allow(unsafe_code)] // it is asked in C

use prometheus_client::metrics::gauge::Gauge;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After less in hand than this at once there is little to give back.
const BURST_BYTES: i64 = 8 << 20;

/// Sees when far less is in hand than there was, for ever.
pub(super) async fn keep_given_back(bytes_in_hand: Gauge) {
    let mut most = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = bytes_in_hand.get();
        most = most.max(now);
        if most >= BURST_BYTES && now < most / 4 {
            let _ = tokio::task::spawn_blocking(give_back).await; // some milliseconds for each 100 MB
            most = now;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: it takes no pointer, and may be called from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
