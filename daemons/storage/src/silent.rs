//! Members that do not answer, and so are not asked who has the last change of a file: for a while, and not for those files
//! of which they still push changes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fdfs_protocol::RemoteName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::names::{self, Key};

/// Who did not answer is not waited for again so soon, and who does not know the question is not asked again.
const SILENT: Duration = Duration::from_secs(10);
const FOREIGN: Duration = Duration::from_secs(600);

/// Files remembered at most of one member. One that pushes changes of more is asked again about all.
const MAX_PUSHED: usize = 16_384;

/// Members that are not asked now. One that was away asks, or connects, before it changes anything.
#[derive(Debug, Default)]
pub struct Silent(Mutex<HashMap<SocketAddr, Silence>>);

#[derive(Debug)]
struct Silence {
    until: Instant,
    /// Of these files it pushed changes since it was found silent; `None` if it could not answer about any.
    pushed: Option<HashSet<Key>>,
}

impl Silence {
    fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }
}

impl Silent {
    /// It does not answer, asked about this file.
    pub fn note(&self, at: SocketAddr, name: &RemoteName) {
        let mut all = self.0.lock();
        let mut pushed = all.remove(&at).filter(|s| !s.is_over()).and_then(|s| s.pushed).unwrap_or_default();
        pushed.remove(&names::key(name));
        all.insert(at, Silence { until: Instant::now() + SILENT, pushed: Some(pushed) });
    }

    /// It does not know the question: it is one of FastDFS's storages.
    pub fn note_foreign(&self, at: SocketAddr) {
        self.0.lock().insert(at, Silence { until: Instant::now() + FOREIGN, pushed: None });
    }

    /// Members at this address are there.
    pub fn heard(&self, ip: IpAddr) {
        let ip = ip.to_canonical();
        self.0.lock().retain(|at, _| at.ip() != ip);
    }

    /// A change of this file comes from this address: whoever is there changes it.
    pub fn pushes(&self, ip: IpAddr, name: &RemoteName) {
        let mut all = self.0.lock();
        if all.is_empty() {
            return;
        }
        let ip = ip.to_canonical();
        all.retain(|at, silence| {
            if let Some(pushed) = silence.pushed.as_mut().filter(|_| at.ip() == ip) {
                pushed.insert(names::key(name));
            }
            !silence.is_over() && silence.pushed.as_ref().is_none_or(|pushed| pushed.len() <= MAX_PUSHED)
        });
    }

    /// Whether it is not asked about this file.
    pub fn is_silent(&self, at: SocketAddr, name: &RemoteName) -> bool {
        self.0.lock().get(&at).is_some_and(|silence| {
            !silence.is_over() && silence.pushed.as_ref().is_none_or(|pushed| !pushed.contains(&names::key(name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 23000);
    const OTHER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 23000);

    fn name(n: usize) -> RemoteName {
        RemoteName::parse(format!("M00/00/00/file{n:08}").as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_lasts_for_a_while_or_until_something_is_heard() {
        let silent = Silent::default();
        silent.note(ONE, &name(1));
        silent.note_foreign(OTHER);
        assert!(
            silent.is_silent(ONE, &name(1)) && silent.is_silent(ONE, &name(2)) && silent.is_silent(OTHER, &name(1))
        );
        tokio::time::advance(SILENT).await;
        assert!(!silent.is_silent(ONE, &name(1)) && silent.is_silent(OTHER, &name(1)));
        silent.note(ONE, &name(1));
        silent.heard("::ffff:10.0.0.1".parse().unwrap());
        assert!(!silent.is_silent(ONE, &name(1)) && silent.is_silent(OTHER, &name(1)));
        tokio::time::advance(FOREIGN).await;
        assert!(!silent.is_silent(OTHER, &name(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_pushes_is_asked_about_that_file() {
        let silent = Silent::default();
        silent.pushes(ONE.ip(), &name(1));
        silent.note(ONE, &name(1));
        silent.note(OTHER, &name(1));
        silent.note_foreign(OTHER);
        for at in [ONE, OTHER] {
            silent.pushes(at.ip(), &name(1));
        }
        assert!(!silent.is_silent(ONE, &name(1)) && silent.is_silent(ONE, &name(2)));
        assert!(silent.is_silent(OTHER, &name(1)), "it cannot answer");
        silent.note(ONE, &name(2));
        assert!(!silent.is_silent(ONE, &name(1)), "asked about another file only");
        silent.note(ONE, &name(1));
        assert!(silent.is_silent(ONE, &name(1)), "asked since, in vain");
        silent.pushes(ONE.ip(), &name(1));
        tokio::time::advance(SILENT).await;
        silent.note(ONE, &name(2));
        assert!(silent.is_silent(ONE, &name(1)), "pushed before it was found silent");
        for n in 0..=MAX_PUSHED {
            assert!(silent.is_silent(ONE, &name(n)));
            silent.pushes(ONE.ip(), &name(n));
        }
        assert!(!silent.is_silent(ONE, &name(MAX_PUSHED + 1)), "it pushes too much to be remembered");
    }
}
