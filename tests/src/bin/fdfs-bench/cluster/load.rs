//! The load generator: many connections on few threads, as cheap per operation as system calls allow.
//!
//! Each connection ([`Lane`]) has one request outstanding. A thread waits with edge-triggered epoll, so an operation
//! whose request and answer are small costs one `send`, one `recv` and its share of an `epoll_wait` that reports all
//! connections that have something; no buffer is allocated, no answer is copied that nobody looks at. Content is
//! sent from one shared buffer (`sendfile` from memory was measured: not cheaper, even for 1 MiB), and received
//! content is dropped in the kernel (`MSG_TRUNC`) unless the workload asks to see it.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use fdfs_protocol::Status;
use rustix::event::epoll;

use super::lane::{Lane, Progress};
use crate::report::{Latencies, latencies, record};

/// A run fails when no connection makes progress for this long.
const STALL_LIMIT: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
/// How long a connection may take to be accepted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What one connection does: the requests it sends and what it expects back.
pub trait Workload: Send {
    /// Leaves the next request, without its content, in `head`, which holds the previous one; `false` when nothing is
    /// left to do.
    fn request(&mut self, head: &mut Vec<u8>) -> bool;

    /// What is sent behind the head of every request.
    fn content(&self) -> &[u8] {
        &[]
    }

    /// How many bytes of an answer's body [`Workload::answer`] wants to see; the rest is dropped unseen.
    fn wanted(&self) -> usize {
        0
    }

    /// Checks a successful answer: its length, and the first [`Workload::wanted`] bytes of its body.
    fn answer(&mut self, body_len: u64, body: &[u8]) -> Result<()>;
}

/// When a run is over.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// This time after the warm-up.
    Elapsed(Duration),
    /// After this many measured operations.
    Count(u64),
    /// When no lane has anything left to do.
    Exhausted,
}

/// How a run is driven.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Threads; each drives its share of the lanes.
    pub threads: usize,
    /// Load before the measured window.
    pub warmup: Duration,
    /// End of the measured window.
    pub until: Until,
}

/// What happened in the measured window.
pub struct Outcome {
    /// Successful operations.
    pub operations: u64,
    /// Answers with another status.
    pub failures: BTreeMap<u8, u64>,
    /// Length of the window.
    pub elapsed: Duration,
    /// Latency of the successful operations.
    pub latencies: Latencies,
}

impl Outcome {
    fn new() -> Result<Outcome> {
        Ok(Outcome { operations: 0, failures: BTreeMap::new(), elapsed: Duration::ZERO, latencies: latencies()? })
    }

    /// For a run that prepares or cleans up: every operation must have succeeded.
    pub fn must_succeed(&self, what: &str) -> Result<()> {
        match self.failures.iter().next() {
            None => Ok(()),
            Some((&status, count)) => bail!("{what}: {count} requests failed: {}", Status(status)),
        }
    }
}

/// A connected, non-blocking socket.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let connect = || -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    connect().with_context(|| format!("cannot connect to {address}"))
}

/// The edges of the measured window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It begins.
    Begin,
    /// It is over.
    End,
}

/// Drives the lanes through `plan`. `at_edge` is called on this thread when the measured window begins and ends.
pub fn run<W: Workload>(
    lanes: &mut [Lane<W>],
    plan: Plan,
    mut at_edge: impl FnMut(Edge) -> Result<()>,
) -> Result<Outcome> {
    let threads = plan.threads.clamp(1, lanes.len().max(1));
    // Without a warm-up the first operations already count, so what they cost must count as well.
    if plan.warmup.is_zero() {
        at_edge(Edge::Begin)?;
    }
    let begin = Instant::now() + plan.warmup;
    let (report, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        let mut running = 0;
        for (n, share) in lanes.chunks_mut(lanes.len().div_ceil(threads).max(1)).enumerate() {
            let window = Window::new(begin, plan.until, n, threads)?;
            let report = report.clone();
            scope.spawn(move || {
                // The receiver only goes away when the run has failed already.
                let _ = report.send(drive(share, window));
            });
            running += 1;
        }
        drop(report);

        let mut total = Outcome::new()?;
        let mut finish = begin;
        let mut join = |deadline: Option<Instant>| -> Result<()> {
            while running > 0 {
                let window = match deadline {
                    None => reports.recv().map_err(|_| anyhow!("a load thread died"))?,
                    Some(deadline) => match reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                        Ok(window) => window,
                        Err(RecvTimeoutError::Timeout) => return Ok(()),
                        Err(RecvTimeoutError::Disconnected) => bail!("a load thread died"),
                    },
                }?;
                running -= 1;
                finish = finish.max(window.finish.unwrap_or(begin));
                total.operations += window.outcome.operations;
                total.latencies.add(&window.outcome.latencies)?;
                for (status, count) in window.outcome.failures {
                    *total.failures.entry(status).or_default() += count;
                }
            }
            Ok(())
        };
        if !plan.warmup.is_zero() {
            join(Some(begin))?;
            at_edge(Edge::Begin)?;
        }
        if let Until::Elapsed(duration) = plan.until {
            join(Some(begin + duration))?;
            at_edge(Edge::End)?;
            join(None)?;
            total.elapsed = duration;
        } else {
            join(None)?;
            at_edge(Edge::End)?;
            total.elapsed = finish.saturating_duration_since(begin);
        }
        Ok(total)
    })
}

/// What one thread measures, and when.
struct Window {
    begin: Instant,
    end: Option<Instant>,
    /// Operations left to measure, when they are counted.
    left: Option<u64>,
    measuring: bool,
    over: bool,
    /// When the last measured operation ended.
    finish: Option<Instant>,
    outcome: Outcome,
}

impl Window {
    /// The window of thread `n` of `threads`; a counted run is divided among them.
    fn new(begin: Instant, until: Until, n: usize, threads: usize) -> Result<Window> {
        let (n, threads) = (n as u64, threads as u64);
        let (end, left) = match until {
            Until::Elapsed(duration) => (Some(begin + duration), None),
            Until::Count(count) => (None, Some(count / threads + u64::from(n < count % threads))),
            Until::Exhausted => (None, None),
        };
        let outcome = Outcome::new()?;
        Ok(Window { begin, end, left, measuring: false, over: left == Some(0), finish: None, outcome })
    }

    /// Accounts an operation that took from `started` to `now`.
    fn account(&mut self, started: Instant, now: Instant, status: Status) {
        if self.over {
            return;
        }
        if !self.measuring {
            if now < self.begin {
                return;
            }
            self.measuring = true;
        }
        if self.end.is_some_and(|end| now >= end) {
            self.over = true;
            return;
        }
        self.finish = Some(now);
        if status.is_ok() {
            self.outcome.operations += 1;
            record(&mut self.outcome.latencies, now - started);
        } else {
            *self.outcome.failures.entry(status.0).or_default() += 1;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
            self.over = *left == 0;
        }
    }
}

/// Runs the lanes of one thread until the window is over and every outstanding answer has come.
fn drive<W: Workload>(lanes: &mut [Lane<W>], mut window: Window) -> Result<Window> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
    let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    let mut outstanding = 0;
    let mut now = Instant::now();
    for (n, lane) in lanes.iter_mut().enumerate() {
        epoll::add(&poll, lane.socket(), epoll::EventData::new_u64(n as u64), edges).context("epoll")?;
        outstanding += usize::from(!window.over && lane.begin(now)?);
    }
    let mut scratch = super::lane::Scratch::new();
    let mut events = Vec::with_capacity(lanes.len().clamp(1, 1024));
    while outstanding > 0 {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&STALL_LIMIT)) {
            Ok(0) => bail!("the server did not answer for {} s", STALL_LIMIT.tv_sec),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in &events {
            let (flags, data) = (event.flags, event.data);
            let Some(lane) = lanes.get_mut(data.u64() as usize) else { continue };
            if let Progress::Done(status) = lane.advance(flags, &mut scratch)? {
                now = Instant::now();
                window.account(lane.started(), now, status);
                if window.over || !lane.begin(now)? {
                    outstanding -= 1;
                }
            }
        }
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdfs_protocol::{Command, HEADER_LEN, Header};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Asks for the status it is given, and remembers what it was answered.
    #[derive(Default)]
    struct Echo {
        left: u64,
        content: Vec<u8>,
        wanted: usize,
        answers: Vec<(u64, Vec<u8>)>,
    }

    impl Workload for Echo {
        fn request(&mut self, head: &mut Vec<u8>) -> bool {
            head.clear();
            let header = Header::request(Command::ActiveTest, self.content.len() as u64);
            head.extend_from_slice(&header.encode());
            self.left = self.left.saturating_sub(1);
            self.left > 0
        }

        fn content(&self) -> &[u8] {
            &self.content
        }

        fn wanted(&self) -> usize {
            self.wanted
        }

        fn answer(&mut self, body_len: u64, body: &[u8]) -> Result<()> {
            self.answers.push((body_len, body.to_vec()));
            Ok(())
        }
    }

    /// Serves one connection: each request is answered with what `answer` makes of its body, in pieces of `piece`.
    fn server(piece: usize, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            let mut header = [0; HEADER_LEN];
            while socket.read_exact(&mut header).is_ok() {
                let mut body = vec![0; Header::decode(&header).unwrap().body_len as usize];
                socket.read_exact(&mut body).unwrap();
                let answer = answer(&body);
                if answer.is_empty() {
                    return;
                }
                for piece in answer.chunks(piece) {
                    socket.write_all(piece).unwrap();
                }
            }
        });
        (address, thread)
    }

    fn ok(body: &[u8]) -> Vec<u8> {
        [&Header::ok(body.len() as u64).encode(), body].concat()
    }

    fn exhaust(lane: Lane<Echo>) -> Result<(Outcome, Echo)> {
        let plan = Plan { threads: 1, warmup: Duration::ZERO, until: Until::Exhausted };
        let mut lanes = [lane];
        let outcome = run(&mut lanes, plan, |_| Ok(()))?;
        let [lane] = lanes;
        Ok((outcome, lane.workload))
    }

    #[test]
    fn answers_arrive_whole_however_they_are_cut() {
        let content: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        for (content, piece, wanted) in
            [(&content[..], usize::MAX, 0), (&content[..], 1 << 20, 100), (&content[..100], 1, 100), (&[], 3, 7)]
        {
            let (address, server) = server(piece, ok);
            let echo = Echo { left: 4, content: content.to_vec(), wanted, ..Echo::default() };
            let (outcome, echo) = exhaust(Lane::connect(address, echo).unwrap()).unwrap();
            assert_eq!(outcome.operations, 3);
            assert_eq!(outcome.latencies.len(), 3);
            let seen = content[..wanted.min(content.len())].to_vec();
            assert_eq!(echo.answers, vec![(content.len() as u64, seen); 3]);
            server.join().unwrap();
        }
    }

    #[test]
    fn failed_operations_are_counted_by_status() {
        let (address, server) = server(usize::MAX, |_| Header::failure(Status::ENOENT).encode().to_vec());
        let (outcome, _) = exhaust(Lane::connect(address, Echo { left: 6, ..Echo::default() }).unwrap()).unwrap();
        assert_eq!((outcome.operations, outcome.failures.get(&2)), (0, Some(&5)));
        assert!(outcome.must_succeed("test").unwrap_err().to_string().contains("5 requests failed"));
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_breaks_the_protocol_ends_the_run() {
        let broken: [(Vec<u8>, &str); 4] = [
            (Vec::new(), "closed the connection"),
            ([ok(b"x"), ok(b"y")].concat(), "more than its answer"),
            ([&Header { body_len: 1, cmd: 100, status: 2 }.encode()[..], b"x"].concat(), "has a body"),
            (vec![0xff; 10], "out of range"),
        ];
        for (answer, reason) in broken {
            let (address, server) = server(usize::MAX, move |_| answer.clone());
            let error = exhaust(Lane::connect(address, Echo { left: 3, ..Echo::default() }).unwrap()).err().unwrap();
            assert!(format!("{error:#}").contains(reason), "{error:#}");
            server.join().unwrap();
        }
    }

    #[test]
    fn a_counted_run_measures_exactly_that_many() {
        let (address, server) = server(usize::MAX, ok);
        let mut lanes = [Lane::connect(address, Echo { left: u64::MAX, ..Echo::default() }).unwrap()];
        let plan = Plan { threads: 4, warmup: Duration::ZERO, until: Until::Count(10) };
        let mut edges = Vec::new();
        let outcome = run(&mut lanes, plan, |edge| {
            edges.push(edge);
            Ok(())
        });
        assert_eq!(outcome.unwrap().operations, 10);
        assert_eq!(edges, [Edge::Begin, Edge::End]);
        drop(lanes);
        server.join().unwrap();
    }

    #[test]
    fn counts_are_divided_among_threads() {
        let now = Instant::now();
        let share = |n| Window::new(now, Until::Count(10), n, 4).unwrap().left.unwrap();
        assert_eq!([share(0), share(1), share(2), share(3)], [3, 3, 2, 2]);
        assert!(Window::new(now, Until::Count(1), 1, 2).unwrap().over);
    }

    #[test]
    fn only_what_ends_inside_the_window_counts() {
        let now = Instant::now();
        let begin = now + Duration::from_secs(1);
        let mut window = Window::new(begin, Until::Elapsed(Duration::from_secs(1)), 0, 1).unwrap();
        window.account(now, now, Status::OK);
        assert_eq!(window.outcome.operations, 0);
        window.account(now, begin, Status::OK);
        assert_eq!(window.outcome.operations, 1);
        window.account(now, begin + Duration::from_secs(1), Status::OK);
        assert!(window.over);
        assert_eq!(window.outcome.operations, 1);
    }
}
