//! Members that do not answer, and so are not asked who has the last change of a file: for a while, and not for those files
//! of which they still push changes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fdfs_protocol::RemoteName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::names::{self, Key};

/// Who did not answer is not waited for again so soon, and who does not know the question is not asked again.
const SILENT: Duration = Duration::from_secs(10);
const FOREIGN: Duration = Duration::from_secs(600);

/// So long its pushes are waited for before a file is changed without it, since they may have waited themselves.
pub const LET_GO: Duration = Duration::from_millis(500);

/// Files remembered at most of one member. One that pushes changes of more is asked again about all.
const MAX_FILES: usize = 16_384;

/// Members that are not asked now. One that was away asks, or connects, before it changes anything.
#[derive(Debug, Default)]
pub struct Silent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When members were heard of last.
    heard: HashMap<IpAddr, Instant>,
    silent: HashMap<SocketAddr, Silence>,
}

#[derive(Debug)]
struct Silence {
    found: Instant,
    until: Instant,
    /// What happened to files since; `None` if it could not answer about any.
    files: Option<HashMap<Key, Since>>,
}

#[derive(Debug)]
enum Since {
    /// It pushed a change of it.
    Pushed,
    /// It was asked about it again then, in vain.
    Asked(Instant),
}

/// What to do with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// To ask it.
    Ask,
    /// To wait for what it may push.
    Wait,
    /// To go on without it.
    PassOver,
}

impl Silence {
    fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }

    fn turn(&self, key: &Key) -> Turn {
        let Some(files) = self.files.as_ref().filter(|_| !self.is_over()) else {
            return if self.is_over() { Turn::Ask } else { Turn::PassOver };
        };
        let found = match files.get(key) {
            Some(Since::Pushed) => return Turn::Ask,
            Some(Since::Asked(at)) => *at,
            None => self.found,
        };
        if found + LET_GO > Instant::now() { Turn::Wait } else { Turn::PassOver }
    }
}

impl Silent {
    /// It did not answer a question about this file, asked then.
    pub fn note(&self, at: SocketAddr, name: &RemoteName, asked: Instant) {
        let mut state = self.0.lock();
        if state.heard.get(&at.ip()).is_some_and(|heard| *heard >= asked) {
            // It is there by now.
            return;
        }
        let now = Instant::now();
        match state.silent.get_mut(&at).filter(|silence| !silence.is_over()) {
            Some(Silence { until, files: Some(files), .. }) => {
                *until = now + SILENT;
                files.insert(names::key(name), Since::Asked(now));
            }
            _ => {
                let silence = Silence { found: now, until: now + SILENT, files: Some(HashMap::new()) };
                state.silent.insert(at, silence);
            }
        }
    }

    /// It does not know the question: it is one of FastDFS's storages.
    pub fn note_foreign(&self, at: SocketAddr) {
        let now = Instant::now();
        self.0.lock().silent.insert(at, Silence { found: now, until: now + FOREIGN, files: None });
    }

    /// Members at this address are there.
    pub fn heard(&self, ip: IpAddr) {
        let ip = ip.to_canonical();
        let mut state = self.0.lock();
        state.silent.retain(|at, _| at.ip() != ip);
        state.heard.insert(ip, Instant::now());
    }

    /// A change of this file comes from this address: whoever is there changes it.
    pub fn pushes(&self, ip: IpAddr, name: &RemoteName) {
        let silent = &mut self.0.lock().silent;
        if silent.is_empty() {
            return;
        }
        let ip = ip.to_canonical();
        silent.retain(|at, silence| {
            if let Some(files) = silence.files.as_mut().filter(|_| at.ip() == ip) {
                files.insert(names::key(name), Since::Pushed);
            }
            !silence.is_over() && silence.files.as_ref().is_none_or(|files| files.len() <= MAX_FILES)
        });
    }

    /// What to do with it before this file is changed.
    pub fn turn(&self, at: SocketAddr, name: &RemoteName) -> Turn {
        let state = self.0.lock();
        state.silent.get(&at).map_or(Turn::Ask, |silence| silence.turn(&names::key(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ONE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 23000);
    const OTHER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 23000);

    fn name(n: usize) -> RemoteName {
        RemoteName::parse(format!("M00/00/00/file{n:08}").as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_lasts_for_a_while_or_until_something_is_heard() {
        let silent = Silent::default();
        let turns = || [(ONE, 1), (ONE, 2), (OTHER, 1)].map(|(at, n)| silent.turn(at, &name(n)));
        assert_eq!(turns(), [Turn::Ask; 3]);
        silent.note(ONE, &name(1), Instant::now());
        silent.note_foreign(OTHER);
        assert_eq!(turns(), [Turn::Wait, Turn::Wait, Turn::PassOver]);
        tokio::time::advance(LET_GO).await;
        assert_eq!(turns(), [Turn::PassOver; 3]);
        tokio::time::advance(SILENT - LET_GO).await;
        assert_eq!(turns(), [Turn::Ask, Turn::Ask, Turn::PassOver]);
        silent.note(ONE, &name(1), Instant::now());
        silent.heard("::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(turns(), [Turn::Ask, Turn::Ask, Turn::PassOver]);
        tokio::time::advance(FOREIGN).await;
        assert_eq!(turns(), [Turn::Ask; 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_heard_of_since_it_was_asked_is_not_silent() {
        let silent = Silent::default();
        let asked = Instant::now();
        tokio::time::advance(LET_GO).await;
        silent.heard(ONE.ip());
        silent.note(ONE, &name(1), asked);
        silent.note(OTHER, &name(1), asked);
        assert_eq!([ONE, OTHER].map(|at| silent.turn(at, &name(1))), [Turn::Ask, Turn::Wait]);
        tokio::time::advance(LET_GO).await;
        silent.note(ONE, &name(1), Instant::now());
        assert_eq!(silent.turn(ONE, &name(1)), Turn::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn who_pushes_is_asked_about_that_file() {
        let silent = Silent::default();
        let turns = || [1, 2].map(|n| silent.turn(ONE, &name(n)));
        let note = |n| silent.note(ONE, &name(n), Instant::now());
        silent.pushes(ONE.ip(), &name(1));
        note(1);
        silent.note_foreign(OTHER);
        for at in [ONE, OTHER] {
            silent.pushes(at.ip(), &name(1));
        }
        assert_eq!(turns(), [Turn::Ask, Turn::Wait]);
        assert_eq!(silent.turn(OTHER, &name(1)), Turn::PassOver, "it cannot answer");
        tokio::time::advance(LET_GO).await;
        assert_eq!(turns(), [Turn::Ask, Turn::PassOver]);
        note(2);
        assert_eq!(turns(), [Turn::Ask, Turn::Wait], "asked about another file only");
        note(1);
        assert_eq!(turns(), [Turn::Wait; 2]);
        tokio::time::advance(LET_GO).await;
        assert_eq!(turns(), [Turn::PassOver; 2], "asked since, in vain");
        silent.pushes(ONE.ip(), &name(1));
        tokio::time::advance(SILENT).await;
        note(2);
        assert_eq!(turns(), [Turn::Wait; 2], "pushed before it was found silent");
        for n in 0..=MAX_FILES {
            assert_eq!(silent.turn(ONE, &name(n)), Turn::Wait);
            silent.pushes(ONE.ip(), &name(n));
        }
        assert_eq!(silent.turn(ONE, &name(MAX_FILES + 1)), Turn::Ask, "it pushes too much to be remembered");
    }
}
