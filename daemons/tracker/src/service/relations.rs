//! The relations to the other trackers: one thread with its own small runtime that drives the election.
//!
//! [`Election`] says what to ask; here it is asked, each question in a task of its own, so that no tracker waits for
//! another. Connections are kept between questions. A question that is answered late is no error by itself: what silence
//! means is for the election to say.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fdfs_host::tcp;
use fdfs_host::thread::{self, Thread};
use fdfs_protocol::peer::election::{JoinLeader, PingLeader, TrunkServerTable};
use fdfs_protocol::tracker::{LeaderAddress, TrackerStatus};
use fdfs_protocol::{Command, Encode, Status};
use fdfs_server::link::{Dial, Link, LinkError};
use tokio::sync::oneshot;
use tokio::task::{self, JoinSet};
use tracing::{debug, error, info, warn};

use super::{Shared, moment, now};
use crate::state::election::{Answer, Election, Order, Peer, Question, SILENCE};
use crate::state::statistics::VERSION;
use crate::state::trackers::{Moment, Trackers};

/// A leader that does not answer a ping within this time has failed it. Three of them fit well into ten seconds.
const PING_LIMIT: Duration = Duration::from_millis(1500);
/// The same for proposals and confirmations, which only go to trackers that answered a moment ago.
const NOTICE_LIMIT: Duration = Duration::from_millis(1500);

/// How to reach other trackers.
#[derive(Debug, Clone)]
pub(super) struct Dialling {
    /// Addresses this tracker listens on: others know it by them.
    pub(super) bind: Vec<IpAddr>,
    /// Longest wait for a connection.
    pub(super) connect: Duration,
    /// Longest wait for an answer.
    pub(super) answer: Duration,
}

impl Dialling {
    /// For a tracker at these addresses.
    pub(super) fn to(&self, addresses: &[SocketAddr]) -> Dial {
        let fits = |from: &&IpAddr| addresses.iter().any(|to| to.is_ipv4() == from.is_ipv4());
        Dial { from: self.bind.iter().find(fits).copied(), connect: self.connect, answer: self.answer }
    }
}

/// No longer for connecting than that each of the addresses has its share of this time: the last may be the one that works.
fn within(limit: Duration, to: &[SocketAddr], dial: Dial) -> Dial {
    let share = limit / u32::try_from(to.len().max(1)).unwrap_or(u32::MAX);
    Dial { connect: dial.connect.min(share), ..dial }
}

/// The running thread. Dropping it ends it at once.
#[derive(Debug)]
pub(super) struct Relations {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<Thread>,
}

impl Relations {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Relations> {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn("tracker-election", Worker::new(shared).run(stopped))?;
        Ok(Relations { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Relations {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            error!("the election thread had panicked");
        }
    }
}

/// What became of a question.
struct Report {
    order: Order,
    answer: Answer,
    /// The connection, if it is still good.
    link: Option<Link>,
    /// What the leader told about trunk servers.
    table: Option<TrunkServerTable>,
}

struct Worker {
    shared: Arc<Shared>,
    election: Election,
    /// Connections for everything but pings.
    links: HashMap<Peer, Link>,
    /// The connection on which the leader knows this tracker as its follower.
    leader: Option<(Peer, Link)>,
    tasks: JoinSet<Report>,
    /// What each of the tasks asks.
    out: HashMap<task::Id, Order>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Worker {
        Worker {
            shared,
            election: Election::new(RandomState::new().hash_one(moment())),
            links: HashMap::new(),
            leader: None,
            tasks: JoinSet::new(),
            out: HashMap::new(),
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let shared = self.shared.clone();
        loop {
            let due = self.advance();
            tokio::select! {
                _ = &mut stopped => return,
                Some(report) = self.tasks.join_next_with_id() => match report {
                    Ok((id, report)) => {
                        self.out.remove(&id);
                        self.hear(report);
                    }
                    Err(e) => {
                        error!("a question to another tracker had panicked: {e}");
                        // Without an answer the tracker would never be asked again.
                        if let Some(order) = self.out.remove(&e.id()) {
                            self.hear(Report { order, answer: Answer::Silent, link: None, table: None });
                        }
                    }
                },
                () = shared.leadership.notified() => {}
                () = tokio::time::sleep(due.saturating_sub(moment())) => {}
            }
        }
    }

    /// Lets the election do what is due, and says when it wants to be called again.
    fn advance(&mut self) -> Moment {
        let own: Vec<IpAddr> = self.shared.cluster.lock().trackers.own().collect();
        // What cannot be found out stays as it was.
        let own = tcp::own(&own).unwrap_or_default();
        let (orders, due) = {
            let mut cluster = self.shared.cluster.lock();
            let trackers = &mut cluster.trackers;
            trackers.note_own(own);
            let before = trackers.leader_changes();
            let (orders, due) = self.election.advance(moment(), now(), trackers);
            if trackers.leader_changes() != before {
                announce(trackers);
            }
            let orders: Vec<_> = orders.into_iter().map(|order| (order, addresses(trackers, order.to))).collect();
            let leader = trackers.leader_index();
            self.leader = self.leader.take().filter(|(peer, _)| Some(*peer) == leader);
            (orders, due)
        };
        for (order, to) in orders {
            self.send(order, to);
        }
        due
    }

    fn send(&mut self, order: Order, to: Vec<SocketAddr>) {
        let dial = self.shared.dialling.to(&to);
        if order.question == Question::Ping {
            let link = self.leader.take().map(|(_, link)| link);
            let me = self.introduction();
            let ping = PingLeader { connections: self.shared.connections() };
            let task = self.tasks.spawn(async move {
                let (answer, link, table) = match self::ping(link, &to, dial, me, ping).await {
                    Ok((link, table)) => (Answer::Yes, Some(link), table),
                    Err(e) => {
                        let answer = answer_of(&e);
                        match answer {
                            // It is the last to hear that it was elected.
                            Answer::No(Status::EOPNOTSUPP) => debug!("{to:?} does not lead, or not yet"),
                            _ => warn!("leader {to:?} fails a ping: {e}"),
                        }
                        (answer, None, None)
                    }
                };
                Report { order, answer, link, table }
            });
            self.out.insert(task.id(), order);
            return;
        }
        let link = self.links.remove(&order.to);
        let task = self.tasks.spawn(async move {
            let (answer, link) = match order.question {
                Question::Propose(at) => notify(link, &to, dial, Command::TrackerNotifyNextLeader, at).await,
                Question::Commit(at) => notify(link, &to, dial, Command::TrackerCommitNextLeader, at).await,
                Question::Status | Question::Ping => status(link, &to, dial).await,
            };
            if order.question != Question::Status {
                debug!("{:?} to {to:?}: {answer:?}", order.question);
            }
            Report { order, answer, link, table: None }
        });
        self.out.insert(task.id(), order);
    }

    fn hear(&mut self, report: Report) {
        let Report { order, answer, link, table } = report;
        self.election.hear(moment(), order, answer);
        match (order.question, link) {
            (Question::Ping, Some(link)) => {
                if let Some(table) = table {
                    self.shared.change(|cluster| {
                        if cluster.trackers.leader_index() == Some(order.to) {
                            cluster.adopt_trunk_servers(&table.0);
                        }
                    });
                }
                self.leader = Some((order.to, link));
            }
            (_, Some(link)) => {
                self.links.insert(order.to, link);
            }
            (_, None) => {}
        }
    }

    fn introduction(&self) -> JoinLeader {
        let mut cluster = self.shared.cluster.lock();
        let trackers = &mut cluster.trackers;
        JoinLeader { up_time: trackers.up_time(), version: VERSION.parse().unwrap_or_default(), port: trackers.port() }
    }
}

fn addresses(trackers: &Trackers, peer: Peer) -> Vec<SocketAddr> {
    let tracker = trackers.list().get(peer);
    tracker.map_or_else(Vec::new, |t| t.addresses.iter().map(|ip| SocketAddr::new(ip, t.port)).collect())
}

fn announce(trackers: &Trackers) {
    match trackers.leader() {
        Some(_) if trackers.i_lead() => info!("this tracker leads {} others", trackers.others().count()),
        Some(leader) => info!("tracker {} leads", leader.host_port()),
        None => warn!("no tracker leads; electing one"),
    }
}

/// How a failure looks to the election.
fn answer_of(e: &LinkError) -> Answer {
    use io::ErrorKind as K;
    match e {
        LinkError::Status(status, _) => Answer::No(*status),
        LinkError::Malformed(..) => Answer::No(Status::EINVAL),
        LinkError::Io(e) => match e.kind() {
            K::ConnectionRefused | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => {
                Answer::Gone
            }
            K::InvalidData => Answer::No(Status::EINVAL),
            _ => Answer::Silent,
        },
    }
}

/// Asks on a connection that was kept, or on a new one. A kept one may have been closed since, which says nothing.
async fn ask<M: Encode + ?Sized>(
    kept: Option<Link>,
    to: &[SocketAddr],
    dial: Dial,
    command: Command,
    message: &M,
) -> (Result<Vec<u8>, LinkError>, Option<Link>) {
    if let Some(mut link) = kept {
        let result = link.ask(command, message).await;
        if result.as_ref().map_or_else(|e| answer_of(e) != Answer::Gone, |_| true) {
            return settle(result, link);
        }
    }
    match Link::connect(to.iter().copied(), dial).await {
        Ok(mut link) => {
            let result = link.ask(command, message).await;
            settle(result, link)
        }
        Err(e) => (Err(e), None),
    }
}

/// A connection is good as long as it is in step.
fn settle(result: Result<Vec<u8>, LinkError>, link: Link) -> (Result<Vec<u8>, LinkError>, Option<Link>) {
    let good = result.as_ref().map_or_else(|e| e.status().is_some(), |_| true);
    (result, good.then_some(link))
}

/// Asks how a tracker stands. What has no answer is asked again on a new connection after a while: across a network that
/// was cut and is mended, an old connection would take long to find out.
async fn status(kept: Option<Link>, to: &[SocketAddr], dial: Dial) -> (Answer, Option<Link>) {
    let dial = Dial { answer: dial.answer.min(SILENCE * 2), ..within(SILENCE, to, dial) };
    let (result, link) = ask(kept, to, dial, Command::TrackerGetStatus, &()).await;
    let answer = match result.as_deref().map(TrackerStatus::decode) {
        Ok(Ok(status)) => Answer::Status(status),
        Ok(Err(_)) => Answer::No(Status::EINVAL),
        Err(e) => answer_of(e),
    };
    (answer, link)
}

async fn notify(
    kept: Option<Link>,
    to: &[SocketAddr],
    dial: Dial,
    command: Command,
    leader: SocketAddr,
) -> (Answer, Option<Link>) {
    let leader = LeaderAddress(leader);
    let dial = within(NOTICE_LIMIT, to, dial);
    let asked = tokio::time::timeout(NOTICE_LIMIT, ask(kept, to, dial, command, &leader)).await;
    match asked {
        Ok((Ok(_), link)) => (Answer::Yes, link),
        Ok((Err(e), link)) => {
            warn!("{command} for {} to {to:?}: {e}", leader.0);
            (answer_of(&e), link)
        }
        Err(_) => (Answer::Silent, None),
    }
}

/// Pings the leader, introducing this tracker if the connection is new.
async fn ping(
    kept: Option<Link>,
    to: &[SocketAddr],
    dial: Dial,
    me: JoinLeader,
    ping: PingLeader,
) -> Result<(Link, Option<TrunkServerTable>), LinkError> {
    let dial = within(PING_LIMIT, to, dial);
    let asked = async {
        let mut link = match kept {
            Some(link) => link,
            None => {
                let mut link = Link::connect(to.iter().copied(), dial).await?;
                link.ask(Command::TrackerJoinLeader, &me).await?;
                link
            }
        };
        let table = link.ask_for(Command::TrackerPingLeader, &ping, TrunkServerTable::decode).await?;
        Ok((link, Some(table).filter(|t| !t.0.is_empty())))
    };
    let asked = tokio::time::timeout(PING_LIMIT, asked).await;
    asked.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::header::{HEADER_LEN, Header};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const DIAL: Dial = Dial { from: None, connect: Duration::from_secs(60), answer: Duration::from_secs(60) };

    async fn listen() -> (TcpListener, [SocketAddr; 1]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, [addr])
    }

    /// Answers one question on a new connection, and closes it.
    async fn answer_once(listener: &TcpListener, answer: &[u8]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; HEADER_LEN]).await.unwrap();
        stream.write_all(answer).await.unwrap();
    }

    fn standing() -> Vec<u8> {
        let mut out = Vec::new();
        let status = TrackerStatus { leader: true, running_time: 300, restart_interval: 0 };
        fdfs_protocol::header::response(&status, &mut out);
        out
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_says_nothing() {
        let (listener, to) = listen().await;
        let peer = tokio::spawn(async move {
            for _ in 0..3 {
                answer_once(&listener, &standing()).await;
            }
        });
        let mut kept = None;
        for _ in 0..3 {
            let (answer, link) = status(kept, &to, DIAL).await;
            assert!(matches!(answer, Answer::Status(s) if s.leader), "{answer:?}");
            kept = link;
        }
        peer.await.unwrap();
        assert_eq!(status(kept, &to, DIAL).await.0, Answer::Gone, "nobody listens any more");
    }

    #[tokio::test]
    async fn what_answers_mean() {
        let (listener, to) = listen().await;
        let refused = Header::failure(Status::ENOENT).encode();
        let short = Header { body_len: 3, cmd: 100, status: 0 }.encode();
        let cases: [(Vec<u8>, Answer); 4] = [
            (refused.to_vec(), Answer::No(Status::ENOENT)),
            ([&short[..], b"abc"].concat(), Answer::No(Status::EINVAL)),
            (vec![7; 30], Answer::No(Status::EINVAL)),
            (Vec::new(), Answer::Gone),
        ];
        for (bytes, expected) in cases {
            let (answer, ()) = tokio::join!(status(None, &to, DIAL), answer_once(&listener, &bytes));
            assert_eq!(answer.0, expected, "{bytes:?}");
        }
        // The kernel takes the connection and the question; the process does not look.
        let dial = Dial { answer: Duration::from_millis(50), ..DIAL };
        let (answer, link) = status(None, &to, dial).await;
        assert!(answer == Answer::Silent && link.is_none());
    }

    #[tokio::test]
    async fn a_refused_proposal() {
        let (listener, to) = listen().await;
        let refused = Header::failure(Status::EOPNOTSUPP).encode();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; HEADER_LEN];
            stream.read_exact(&mut head).await.unwrap();
            let header = Header::decode(&head).unwrap();
            stream.read_exact(&mut vec![0; header.body_len as usize]).await.unwrap();
            stream.write_all(&refused).await.unwrap();
            header.cmd
        };
        let ((result, link), cmd) =
            tokio::join!(notify(None, &to, DIAL, Command::TrackerNotifyNextLeader, to[0]), answer);
        assert_eq!((result, cmd), (Answer::No(Status::EOPNOTSUPP), Command::TrackerNotifyNextLeader.code()));
        assert!(link.is_some(), "a refusal keeps the connection in step");
    }

    #[tokio::test]
    async fn an_address_that_this_machine_has_no_more_is_anothers() {
        use crate::address::Addresses;
        use crate::state::own::Reached;
        let shared = super::super::tests::shared();
        let both = ["127.0.0.1", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for local in both {
            let listed = [(Addresses::one(local), 22122)];
            shared.cluster.lock().trackers.learn(&listed, Reached { local, dialled: None }).unwrap();
        }
        assert_eq!(shared.cluster.lock().trackers.others().count(), 0);
        Worker::new(shared.clone()).advance();
        assert_eq!(shared.cluster.lock().trackers.others().collect::<Vec<_>>(), [1]);
    }

    /// An address that takes no packets: its queue of connections is full.
    fn deaf() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
        use socket2::{Domain, Socket, Type};
        let new = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = new();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = new();
            if socket.connect_timeout(&addr.into(), Duration::from_millis(200)).is_err() {
                return (listener, queued, addr);
            }
            queued.push(socket);
            assert!(queued.len() < 100, "it takes every connection");
        }
    }

    #[tokio::test]
    async fn the_second_address_is_reached_though_the_first_answers_nothing() {
        let (_listener, _queued, first) = deaf();
        let (listener, [second]) = listen().await;
        let to = [first, second];
        let peer = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; HEADER_LEN];
                while stream.read_exact(&mut head).await.is_ok() {
                    let len = Header::decode(&head).unwrap().body_len;
                    stream.read_exact(&mut vec![0; len as usize]).await.unwrap();
                    stream.write_all(&Header { body_len: 0, cmd: 100, status: 0 }.encode()).await.unwrap();
                }
            }
        });
        let me = JoinLeader { up_time: 0, version: VERSION.parse().unwrap(), port: 1 };
        let connections = PingLeader { connections: Default::default() };
        assert!(ping(None, &to, DIAL, me, connections).await.is_ok());
        let told = notify(None, &to, DIAL, Command::TrackerNotifyNextLeader, second).await;
        assert_eq!(told.0, Answer::Yes);
        peer.abort();
    }
}
