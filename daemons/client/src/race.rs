//! The same question to several servers: the next one is asked when those before have failed, or have shown nothing for
//! a while. The first good answer counts.
//!
//! Nobody is given up for being slow: a server that was overtaken may still answer first, and with nobody else to ask it
//! has all the time that the timeouts give. So impatience costs requests, never an error; how many there may be at a time
//! is for the caller to say. That is for requests that may be carried out more than once.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::patience::Pulse;

/// Something under way.
pub(crate) type Attempt<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Requests under way, in the order in which they began.
pub(crate) struct Race<'a, T> {
    pulse: Pulse,
    running: Vec<Running<'a, T>>,
}

struct Running<'a, T> {
    /// `None`: something that is done beside the requests.
    server: Option<SocketAddr>,
    attempt: Attempt<'a, T>,
    /// It has seen a stall.
    stalled: bool,
    /// See [`Race::is_gone`].
    gone: bool,
}

/// What has happened in a race.
#[derive(Debug)]
pub(crate) enum Event<T> {
    Ended {
        outcome: T,
        /// The servers that were asked earlier, have stood still for a while, have not answered, and are not known to be
        /// gone.
        overtaken: Vec<SocketAddr>,
    },
    /// None of those under way has moved a byte for a while.
    Stalled,
}

impl<'a, T> Race<'a, T> {
    /// A race whose attempts show their progress with `pulse`.
    pub(crate) fn new(pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), running: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn start(&mut self, server: Option<SocketAddr>, attempt: impl Future<Output = T> + Send + 'a) {
        self.running.push(Running { server, attempt: Box::pin(attempt), stalled: false, gone: false });
    }

    /// Whether a server has been asked and has not answered.
    pub(crate) fn is_on(&self) -> bool {
        self.running.iter().any(|running| running.server.is_some())
    }

    /// The servers that have been asked, have not answered, and are not known to be gone.
    pub(crate) fn working(&self) -> impl Iterator<Item = SocketAddr> {
        self.running.iter().filter(|running| !running.gone).filter_map(|running| running.server)
    }

    /// The server turned out to be gone. Should it come back, its answer counts as any other.
    pub(crate) fn is_gone(&mut self, server: SocketAddr) {
        let asked = self.running.iter_mut().filter(|running| running.server == Some(server));
        asked.for_each(|running| running.gone = true);
    }

    /// Waits until an attempt ends, or until all stand still for `patience` (`None`: as long as it takes). There must be
    /// one under way.
    pub(crate) async fn next(&mut self, patience: Option<Duration>) -> Event<T> {
        let pulse = self.pulse.clone();
        let mut stalled = pin!(async move {
            match patience {
                Some(patience) => pulse.quiet(patience).await,
                None => std::future::pending().await,
            }
        });
        std::future::poll_fn(|context| {
            for at in 0..self.running.len() {
                if let Poll::Ready(outcome) = self.running[at].attempt.as_mut().poll(context) {
                    let stalled = self.running[..at].iter().filter(|running| running.stalled && !running.gone);
                    let overtaken = stalled.filter_map(|running| running.server).collect();
                    drop(self.running.remove(at));
                    return Poll::Ready(Event::Ended { outcome, overtaken });
                }
            }
            stalled.as_mut().poll(context).map(|()| {
                self.running.iter_mut().for_each(|running| running.stalled = true);
                Event::Stalled
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const SECOND: Duration = Duration::from_secs(1);

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 23000))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_end_counts_and_tells_whom_it_overtook() {
        let mut race = Race::new(&Pulse::default());
        race.start(Some(server(1)), async {
            sleep(60 * SECOND).await;
            1
        });
        assert!(matches!(race.next(Some(SECOND)).await, Event::Stalled));
        race.start(Some(server(2)), async {
            sleep(SECOND / 2).await;
            2
        });
        let Event::Ended { outcome: 2, overtaken } = race.next(Some(SECOND)).await else { panic!() };
        assert_eq!(overtaken, [server(1)]);
        let begun = Instant::now();
        let Event::Ended { outcome: 1, overtaken } = race.next(None).await else { panic!() };
        assert!(overtaken.is_empty() && race.is_empty());
        assert!(begun.elapsed() > 50 * SECOND, "the slow one was not given up");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_hardly_begun_is_not_overtaken() {
        let mut race = Race::new(&Pulse::default());
        race.start(Some(server(1)), sleep(60 * SECOND));
        assert!(matches!(race.next(Some(SECOND)).await, Event::Stalled));
        race.start(Some(server(2)), sleep(60 * SECOND));
        race.start(Some(server(3)), sleep(SECOND / 2));
        let Event::Ended { overtaken, .. } = race.next(Some(SECOND)).await else { panic!() };
        assert_eq!(overtaken, [server(1)]);
        assert_eq!(race.working().collect::<Vec<_>>(), [server(1), server(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_does_not_work_and_may_win() {
        let mut race = Race::new(&Pulse::default());
        race.start(Some(server(1)), async {
            sleep(20 * SECOND).await;
            1
        });
        assert!(matches!(race.next(Some(SECOND)).await, Event::Stalled));
        race.is_gone(server(1));
        assert!(race.is_on() && race.working().next().is_none());
        for (time, last) in [(SECOND, 2), (60 * SECOND, 3)] {
            race.start(Some(server(last)), async move {
                sleep(time).await;
                last
            });
        }
        let Event::Ended { outcome: 2, overtaken } = race.next(None).await else { panic!() };
        assert!(overtaken.is_empty(), "that it is gone was known");
        assert!(matches!(race.next(None).await, Event::Ended { outcome: 1, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn who_moves_does_not_stall() {
        let pulse = Pulse::default();
        let mut race = Race::new(&pulse);
        race.start(Some(server(1)), async {
            for _ in 0..20 {
                sleep(SECOND / 2).await;
                pulse.beat();
            }
            sleep(10 * SECOND).await;
        });
        let begun = Instant::now();
        assert!(matches!(race.next(Some(SECOND)).await, Event::Stalled));
        let waited = begun.elapsed();
        assert!(waited >= 11 * SECOND && waited <= 12 * SECOND, "{waited:?}");
    }
}
