//! Connections of members whose disks are lost.
//!
//! The kernel of a host goes on sending what a killed process had written, after a cut was mended perhaps, when the other
//! members have long compared what they have of it ([`lost`](super::lost)): what comes then would come to one of them only.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::RwLock;
use tokio::time::Instant;

/// When the last life of each address was found to be over.
#[derive(Debug, Default)]
pub struct Lives(RwLock<HashMap<IpAddr, Instant>>);

impl Lives {
    /// The storage at this address was lost: nothing more is taken over the connections it has made.
    pub fn end(&self, ip: IpAddr) {
        self.0.write().insert(ip.to_canonical(), Instant::now());
    }

    /// Whether a connection accepted at that moment is one of a life that is over.
    pub fn is_over(&self, ip: IpAddr, accepted: Instant) -> bool {
        let lives = self.0.read();
        !lives.is_empty() && lives.get(&ip.to_canonical()).is_some_and(|ended| accepted <= *ended)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_life_ends_and_another_begins() {
        let lives = Lives::default();
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let first = Instant::now();
        assert!(!lives.is_over(a, first));
        lives.end("::ffff:10.0.0.1".parse().unwrap());
        assert!(lives.is_over(a, first) && !lives.is_over(b, first));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!lives.is_over(a, Instant::now()));
    }
}
