//! Questions of other members about what they lack (SYNC_COMPARE), on their way to the loop that pushes to the asker.

use std::collections::HashMap;

use fdfs_protocol::StorageId;
use fdfs_protocol::peer::compare::SyncCompare;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

/// A question; answered when what the asker lacks is set aside for it on stable storage.
#[derive(Debug)]
pub struct Question {
    /// What the asker has.
    pub compare: SyncCompare,
    /// To be told when it will get what it lacks.
    pub answer: oneshot::Sender<()>,
}

/// The way to the push loops.
#[derive(Debug)]
pub struct Questions {
    loops: Mutex<HashMap<StorageId, mpsc::Sender<Question>>>,
    one: Semaphore,
}

impl Default for Questions {
    fn default() -> Questions {
        Questions { loops: Mutex::default(), one: Semaphore::new(1) }
    }
}

impl Questions {
    /// The questions of a member, for its loop. They end when the loop begins again.
    pub fn of(&self, member: StorageId) -> mpsc::Receiver<Question> {
        let (sender, receiver) = mpsc::channel(1);
        self.loops.lock().insert(member, sender);
        receiver
    }

    /// The turn to receive a question: each may be large. `None` while another is being received or answered.
    pub fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.one.try_acquire().ok()
    }

    /// Asks; false if nobody pushes to the asker now, or stopped before it was done.
    pub async fn ask(&self, compare: SyncCompare) -> bool {
        let sender = self.loops.lock().get(&compare.sender).cloned();
        let Some(sender) = sender else { return false };
        let (answer, answered) = oneshot::channel();
        sender.send(Question { compare, answer }).await.is_ok() && answered.await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> SyncCompare {
        let id = |text: &str| text.parse().unwrap();
        SyncCompare { lost: id("1"), sender: id("2"), since: 0, until: 0, part: 0, parts: 1, files: Vec::new() }
    }

    #[tokio::test]
    async fn questions_reach_the_loop_of_the_asker_or_fail() {
        let questions = Questions::default();
        assert!(!questions.ask(question()).await);
        let mut receiver = questions.of("2".parse().unwrap());
        let serve = async {
            let first = receiver.recv().await.unwrap();
            first.answer.send(()).unwrap();
            drop(receiver.recv().await.unwrap());
            drop(receiver);
        };
        let ask = async {
            assert!(questions.ask(question()).await);
            assert!(!questions.ask(question()).await, "given up");
        };
        tokio::join!(serve, ask);
        assert!(!questions.ask(question()).await, "the loop has ended");
    }
}
