//! Telling a slow server from one that is gone.
//!
//! A server that has been silent for a while is asked on another connection whether it is there at all
//! (`FDFS_PROTO_CMD_ACTIVE_TEST`, which costs it neither disk nor memory). One that waits for its disk answers that; one
//! that is stopped, hung or cut off does not.

use std::time::Instant;

use fdfs_protocol::Command;
use fdfs_protocol::header::frame;

use crate::client::Shared;
use crate::connection::Connection;
use crate::content::Content;
use crate::error::{Error, Server};
use crate::exchange::{Answer, Request, error_of};
use crate::patience::{Patience, Pulse};

/// When a request is given up because its server is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Never: the timeouts count.
    Never,
    /// As long as not a byte of it was taken, so that it cannot have been carried out.
    Untouched,
    /// At any point: it can be made elsewhere.
    Always,
}

impl Shared {
    /// [`Shared::exchange`], given up with [`Error::Hung`] when the server turns out to be gone.
    pub(crate) async fn exchange_watched(
        &self,
        server: Server,
        request: Request<'_>,
        content: &mut Content<'_>,
        watch: Watch,
    ) -> Result<Answer, Error> {
        let pulse = Pulse::default();
        let request = Request { pulse: Some(&pulse), ..request };
        tokio::select! {
            biased;
            answer = self.exchange(server, request, content) => answer,
            () = self.gone(server, &pulse, watch) => {
                let (command, limit, sent) = (request.command, self.config.failover_after, pulse.beats() > 0);
                Err(self.note(Error::Hung { command, server, limit, sent }))
            }
        }
    }

    /// Returns when the server is gone and the request may be given up.
    async fn gone(&self, server: Server, pulse: &Pulse, watch: Watch) {
        loop {
            pulse.quiet(self.config.failover_after).await;
            if watch == Watch::Never || (watch == Watch::Untouched && pulse.beats() > 0) {
                return std::future::pending().await;
            }
            if self.is_gone(server, pulse).await {
                return;
            }
        }
    }

    /// Whether the server does not answer a probe, and nothing of the requests with `pulse` moves meanwhile.
    pub(crate) async fn is_gone(&self, server: Server, pulse: &Pulse) -> bool {
        let seen = pulse.beats();
        self.probe(server).await == Some(false) && pulse.beats() == seen
    }

    /// Whether the server answers a small request on a new connection soon; `None` if this host cannot make one.
    async fn probe(&self, server: Server) -> Option<bool> {
        let mut head = Vec::new();
        frame(Command::ActiveTest, &(), &mut head);
        let limit = self.config.failover_after;
        let answered = async {
            let mut patience = Patience::new(limit);
            let mut connection = Connection::open(server.addr, limit).await?;
            connection.send(&head, &mut Content::empty(), &mut patience).await?;
            connection.receive_header(0, &mut patience).await
        };
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(_)) => Some(true),
            Ok(Err(broken)) => (!error_of(Command::ActiveTest, server, broken).is_of_this_host()).then_some(false),
            Err(_) => Some(false),
        }
    }

    /// Probes, in the background, those of `servers` that failed a while ago.
    pub(crate) fn look_after(&self, servers: impl IntoIterator<Item = Server>) {
        let now = Instant::now();
        let mut health = self.health.lock();
        for server in servers.into_iter().filter(|server| health.probe_due(server.addr, now)) {
            let this = self.this.clone();
            tokio::spawn(async move {
                let Some(shared) = this.upgrade() else { return };
                let answered = shared.probe(server).await;
                tracing::debug!(%server, answered, "probed");
                let mut health = shared.health.lock();
                match answered {
                    Some(true) => health.answered_probe(server.addr),
                    Some(false) => health.failed_probe(server.addr, Instant::now()),
                    // Nothing is known; it is asked again when that is due.
                    None => {}
                }
            });
        }
    }
}
