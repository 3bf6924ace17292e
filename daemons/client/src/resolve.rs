//! Where the configured trackers are: their addresses, asked of the name service now and then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::address::ServerAddress;
use crate::error::Error;

/// How long the addresses of a host name are used.
const NAMES_KEPT: Duration = Duration::from_secs(60);

/// How long old addresses are used when a look-up fails, and while one is under way.
const NAMES_RETRY: Duration = Duration::from_secs(10);

/// The configured trackers and where they are.
#[derive(Debug)]
pub(crate) struct Trackers {
    configured: Vec<ServerAddress>,
    resolved: Mutex<Option<Resolved>>,
}

#[derive(Debug, Clone)]
struct Resolved {
    addrs: Arc<[SocketAddr]>,
    /// `None` if no name service was needed.
    until: Option<Instant>,
}

impl Trackers {
    pub(crate) fn new(configured: &[ServerAddress]) -> Self {
        let literal: Option<Vec<_>> = configured.iter().map(ServerAddress::literal).collect();
        let resolved = literal.map(|addrs| Resolved { addrs: addrs.concat().into(), until: None });
        Self { configured: configured.to_vec(), resolved: Mutex::new(resolved) }
    }

    /// The addresses of all trackers. A name that cannot be resolved only matters if it is the last hope.
    pub(crate) async fn addrs(&self, timeout: Duration) -> Result<Arc<[SocketAddr]>, Error> {
        let known = self.resolved.lock().clone();
        if let Some(known) = &known
            && known.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(Arc::clone(&known.addrs));
        }
        // The others need not wait for the name service.
        self.go_on_with(&known);
        let mut addrs = Vec::new();
        let mut failure = None;
        for tracker in &self.configured {
            let found = match tokio::time::timeout(timeout, tracker.resolve()).await {
                Ok(found) => found,
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            };
            match found {
                Ok(found) => addrs.extend(found),
                Err(source) => failure = Some(Error::Resolve { host: tracker.to_string(), source }),
            }
        }
        if addrs.is_empty() {
            // Old addresses are better than none.
            self.go_on_with(&known);
            return match (known, failure) {
                (Some(known), _) => Ok(known.addrs),
                (None, Some(failure)) => Err(failure),
                (None, None) => Err(Error::Invalid("no tracker is configured; set tracker_server".to_owned())),
            };
        }
        let addrs: Arc<[SocketAddr]> = addrs.into();
        *self.resolved.lock() = Some(Resolved { addrs: Arc::clone(&addrs), until: Some(Instant::now() + NAMES_KEPT) });
        Ok(addrs)
    }

    /// Has addresses that are too old, if there are any, used a while longer.
    fn go_on_with(&self, known: &Option<Resolved>) {
        if let Some(known) = known {
            let until = Some(Instant::now() + NAMES_RETRY);
            *self.resolved.lock() = Some(Resolved { until, ..known.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_name_service_old_addresses_are_used_and_few_wait_for_it() {
        let trackers = Trackers::new(&["tracker.invalid:22122".parse().unwrap()]);
        let addrs: Arc<[SocketAddr]> = [SocketAddr::from(([10, 0, 0, 1], 22122))].into();
        *trackers.resolved.lock() = Some(Resolved { addrs: Arc::clone(&addrs), until: Some(Instant::now()) });
        let is_known = || trackers.resolved.lock().as_ref().is_some_and(|known| known.until > Some(Instant::now()));
        let mut looking = std::pin::pin!(trackers.addrs(Duration::from_secs(60)));
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(looking.as_mut().poll(cx))).await;
        assert!(is_known(), "another one does not wait for the look-up");
        // It takes longer than that.
        *trackers.resolved.lock() = Some(Resolved { addrs: Arc::clone(&addrs), until: Some(Instant::now()) });
        let found = if first.is_ready() { trackers.addrs(Duration::ZERO).await } else { looking.await };
        assert_eq!(found.unwrap(), addrs);
        assert!(is_known(), "nor does the next one look again at once");
    }
}
