//! Replication: every change that a client makes here is pushed to the other storages of the group.
//!
//! Each member has a loop of its own, which reads the binlog of this storage and pushes its records, several at a time
//! where their order does not matter. The loop goes on from its mark after a restart; what it sends twice is taken as
//! done. A record that the peer cannot take is set aside and tried again later; it holds up no other. Loops are woken by
//! what is written to the binlog.
//!
//! | module | what it does |
//! |---|---|
//! | [`rules`] | which records go to a peer, what its answers and its status mean; pure |
//! | [`window`] | the records on their way, and the position that nothing unfinished is before; pure |
//! | [`turns`] | which lane takes the next push, and when; pure |
//! | [`reader`] | the binlog, line by line |
//! | [`mark`] | the position on disk |
//! | [`aside`] | what could not be pushed |
//! | [`lost`] | members that lost their disks: what they gave to some members only |
//! | [`lives`] | connections that such members had made before; pure |
//! | [`account`] | what the binlog says of files, compared with another member's |
//! | [`compare`] | what other members let the loops know: questions about what they lack, and what they are owed |
//! | [`hours`] | the hours of the day in which anything is pushed; pure |
//! | [`lane`] | one connection to the peer, and the pushes |
//! | [`pump`] | records into lanes, as long as the peer is there |
//! | [`peer`] | the loop: waiting for the peer, sources of old data, starting again |
//!
//! All loops share one thread, which serves no client.

pub mod account;
pub mod aside;
pub mod compare;
pub mod hours;
pub mod lane;
pub mod lives;
pub mod lost;
pub mod mark;
pub mod peer;
pub mod pump;
pub mod reader;
pub mod rules;
pub mod turns;
pub mod window;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use fdfs_host::thread::{self, Thread};
use fdfs_protocol::StorageId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::error;

use self::mark::Trails;
use self::peer::Peer;
use self::rules::{Step, step};
use crate::report::session::Cluster;

/// The thread of the push loops. Dropping it stops them.
#[derive(Debug)]
pub struct Replication {
    stop: watch::Sender<bool>,
    thread: Option<Thread>,
}

impl Replication {
    /// Starts the thread; loops begin as members become known.
    ///
    /// # Errors
    /// When no thread or runtime can be made.
    pub fn start(cluster: Arc<Cluster>) -> io::Result<Replication> {
        let (stop, mut stopped) = watch::channel(false);
        let thread = thread::spawn("storage-push", async move {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => {}
                () = attend(cluster.clone()) => {}
                () = lost::attend(cluster) => {}
            }
        })?;
        Ok(Replication { stop, thread: Some(thread) })
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the replication thread had panicked");
        }
    }
}

/// Keeps a loop for every other member of the group; never returns.
pub async fn attend(cluster: Arc<Cluster>) {
    let mut members = cluster.members.subscribe();
    let trails = Arc::new(Trails::default());
    let mut running: HashSet<StorageId> = HashSet::new();
    let mut loops: JoinSet<StorageId> = JoinSet::new();
    loop {
        let present: Vec<StorageId> = {
            let members = members.borrow_and_update();
            let here = members.iter().filter(|(_, member)| step(Some(member.status), true) != Step::End);
            here.map(|(id, _)| *id).filter(|id| *id != cluster.identity.id).collect()
        };
        for id in present {
            if running.insert(id) {
                let peer = Peer::new(cluster.clone(), id, trails.clone());
                loops.spawn(async move {
                    peer.run().await;
                    id
                });
            }
        }
        tokio::select! {
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(ended) = loops.join_next() => match ended {
                Ok(id) => drop(running.remove(&id)),
                Err(e) => error!("a push loop ended badly: {e}; it begins again when this storage does"),
            },
        }
    }
}
