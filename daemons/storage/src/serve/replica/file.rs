//! SYNC_CREATE_FILE and SYNC_UPDATE_FILE: a whole file.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crc32fast::Hasher;
use fdfs_protocol::Status;
use fdfs_protocol::binlog::{Change, Origin};
use fdfs_protocol::peer::replica::SyncFileHead;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use super::Origins;
use crate::counters::Count;
use crate::disk::dir::{self, Meta, RelPath};
use crate::disk::incoming::Incoming;
use crate::names::{Held, Sum};
use crate::net::Conn;
use crate::serve::info::{has_sum, is_appender};
use crate::serve::record::Line;
use crate::serve::upload::WHOLE;
use crate::serve::{Done, Place, Pusher, Refusal, Service, fixed, warn_removed};

/// What a member took has come to the others by then, as a rule.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// A file that is pushed.
struct Push<'a> {
    head: &'a SyncFileHead,
    /// It takes the place of what is here.
    replace: bool,
    /// It has a change that was not taken here, and all later ones that its pusher knows of.
    both: bool,
    place: &'a Place<'a>,
    origin: Origins<'a>,
    line: &'a Line,
}

impl Push<'_> {
    /// The file that is here.
    fn here(&self) -> Option<Meta> {
        self.place.dir().meta(&self.place.rel, false).ok().filter(Meta::is_file)
    }

    /// The same, if it was made at the time at which what is pushed was.
    fn tied(&self) -> Option<Meta> {
        self.here().filter(|meta| meta.mtime == i64::from(self.head.timestamp))
    }

    /// Whether it is here already, as far as the size tells. Of an appender that was changed since, it does not.
    fn is_here(&self) -> bool {
        let is_older = |here: &Meta| is_appender(&self.head.name) && here.mtime < i64::from(self.head.timestamp);
        self.head.name.is_given_once()
            && self.here().is_some_and(|here| here.size == self.head.size && !is_older(&here))
    }

    /// Whether something else can be made anew under this name.
    fn is_renewable(&self) -> bool {
        !self.head.name.is_given_once()
    }
}

/// What stays here instead of what is pushed.
enum Instead {
    /// The same.
    Same,
    /// What was made, or removed, later.
    Later,
    /// What was made at the same time.
    Other,
}

/// What becomes of the file that is here.
enum AtOnce {
    Stays(Instead),
    /// What is pushed takes its place. `unheard`: members that hear from neither pusher nor maker may have what was here,
    /// and get the other from this one.
    Goes {
        unheard: bool,
    },
}

impl Service {
    pub(super) async fn take_file(&self, conn: &mut Conn<'_>, flag: u8, replace: bool, from: Option<&Pusher>) -> Done {
        let body = conn.body_left();
        let names = SyncFileHead::names_len(fixed(conn, SyncFileHead::FIXED_LEN).await?)?;
        let both = replace && flag == SyncFileHead::HAS_BOTH;
        let with_content = match Status(flag) {
            Status::OK => true,
            Status::EEXIST => false,
            _ if both => true,
            _ => return Err(Status::EINVAL.into()),
        };
        let len = SyncFileHead::FIXED_LEN + names;
        let head = SyncFileHead::decode(conn.head(len).await?, body, with_content)?;
        conn.consume(len);
        self.own_group(&head.group)?;
        let place = self.place(&head.name)?;
        let origin = Origins::new(&head.name, head.timestamp, from);
        let line = origin.line(if replace { Change::Update } else { Change::Create }, &head.name)?;
        let push = Push { head: &head, replace, both, place: &place, origin, line: &line };
        if !with_content {
            return self.not_taken(conn, &push, Instead::Same).await;
        }
        self.counters.tried(Count::SyncInBytes, head.size);
        if self.is_late(&push) {
            return self.not_taken(conn, &push, Instead::Later).await;
        }
        if !replace && push.is_here() {
            return self.not_taken(conn, &push, Instead::Same).await;
        }
        let incoming = self.begin_push(&place)?;
        let hasher = self.receive_push(conn, incoming.file(), &head).await?;
        place.try_on("set the time of", |_| dir::set_mtime(incoming.file(), head.timestamp, Origin::Replica))?;
        // Whoever changes the file now comes first, and what it did is pushed to its source in turn.
        let began = Instant::now();
        let mut held = self.hold_for_push(conn, &head.name).await?;
        if self.is_late(&push) {
            return self.not_taken(conn, &push, Instead::Later).await;
        }
        let patience = self.settings.patience().saturating_sub(began.elapsed());
        let unheard = match self.made_at_once(&push, &hasher, &held, patience).await? {
            AtOnce::Stays(Instead::Other) if !push.is_renewable() => {
                // Who got the other one may have it with what was made of it: all get this one, before what follows.
                self.record_whole(&mut held, push.head)?;
                return self.overtaken(conn, origin, Status::EEXIST).await;
            }
            AtOnce::Stays(instead) => return self.not_taken(conn, &push, instead).await,
            AtOnce::Goes { unheard } => unheard || self.goes_unheard(conn, &push, &held).await,
        };
        self.not_lost(conn, &head.name)?;
        let (file, fresh) = self.give_name(&push, incoming)?;
        // Of other files nothing need be remembered, and metadata that clients set here has no sum.
        if is_appender(&head.name) {
            held.set_sum(head.name.is_given_once().then_some(Sum { hasher, size: head.size }));
            held.set_pushed();
        }
        let recorded = match unheard {
            true => self.record_whole(&mut held, push.head),
            false => self.record_push(&line, !fresh),
        };
        if let Err(status) = recorded {
            if fresh {
                warn_removed("a file without a record", &place.dir().full(&place.rel), place.dir().unlink(&place.rel));
            }
            return Err(status.into());
        }
        self.deleted.forget(&head.name);
        place.path.took(head.size);
        self.settle(place.index, Some(file), self.dir_to_settle(&place)?).await?;
        drop(held);
        self.counters.went_well(Count::SyncInBytes, head.size);
        self.has(origin);
        Ok(())
    }

    /// Writes the record that gives the whole file to all members, as a client's change would.
    fn record_whole(&self, held: &mut Held<'_>, head: &SyncFileHead) -> Result<(), Status> {
        self.record_done(head.timestamp.into(), Change::Update, &head.name).map(drop)?;
        held.set_recorded_before(self.binlog.place());
        Ok(())
    }

    /// Answers a push whose content is not taken.
    async fn not_taken(&self, conn: &mut Conn<'_>, push: &Push<'_>, instead: Instead) -> Done {
        match instead {
            Instead::Same => {
                self.record_push(push.line, false)?;
                self.had(conn, push.origin, push.place, Status::EEXIST).await
            }
            Instead::Later => self.overtaken(conn, push.origin, Status::EEXIST).await,
            Instead::Other => self.kept(conn, push.origin, &push.head.name, Status::EEXIST).await,
        }
    }

    /// Whether the file was removed, or changed here, after what is pushed was made.
    fn is_late(&self, push: &Push<'_>) -> bool {
        self.deleted.is_late(&push.head.name, push.head.timestamp)
            || push.here().is_some_and(|meta| {
                // What is being added, and gives the file a later time, may come to nothing.
                let meta = self.names.recorded(&push.head.name, meta);
                is_overtaken(push.head, push.replace, &meta)
            })
    }

    /// Of two files that members made at the same time all keep the same one.
    async fn made_at_once(
        &self,
        push: &Push<'_>,
        pushed: &Hasher,
        held: &Held<'_>,
        patience: Duration,
    ) -> Result<AtOnce, Refusal> {
        let Push { head, place, .. } = push;
        let Some(here) = push.tied() else { return Ok(AtOnce::Goes { unheard: false }) };
        let whole = push.replace && is_appender(&head.name) && push.origin.is_strict();
        if !push.is_renewable() && !whole {
            return Ok(AtOnce::Goes { unheard: false });
        }
        let look = async || {
            let file = place.try_on("open", |p| p.dir().open_read(&p.rel))?;
            self.checksum_held(held, patience, file, here.size).await
        };
        // Of one file's appends the sizes tell which came last: here may be one that the pusher had not got yet. Other changes
        // have different times, so that with the same size these are two that no one member has seen both of.
        let order = match here.size.cmp(&head.size) {
            Ordering::Equal => match look().await {
                Ok(crc32) => crc32.cmp(&pushed.clone().finalize()),
                // What takes too long to look at is replaced: it may be the same.
                Err(Status::EAGAIN) if !push.is_renewable() => return Ok(AtOnce::Goes { unheard: false }),
                Err(status) => return Err(status.into()),
            },
            order => order,
        };
        Ok(match order {
            // What has been added here in the same second is on its way to the pusher, which comes again with it. If it does
            // not come, it was cut off there.
            Ordering::Greater
                if push.both
                    && here.pushed
                    && here.size > head.size
                    && held.pushed_ago().is_some_and(|ago| ago < ON_ITS_WAY) =>
            {
                return Err(Status::EAGAIN.into());
            }
            // What is here came from another member, without what the pusher has besides.
            order if push.both && here.pushed => AtOnce::Goes { unheard: order != Ordering::Equal },
            Ordering::Equal if !push.replace => AtOnce::Stays(Instead::Same),
            Ordering::Greater if push.origin.is_strict() => AtOnce::Stays(Instead::Other),
            // Metadata and slaves go whole from their maker to all. Of an appender a third member has what its changes made of
            // what it had.
            order => AtOnce::Goes { unheard: whole && order == Ordering::Less },
        })
    }

    /// Whether what is here, and goes, has changes that were made here and that the pusher has not got: others may have got
    /// them, and are to have the same.
    async fn goes_unheard(&self, conn: &Conn<'_>, push: &Push<'_>, held: &Held<'_>) -> bool {
        let is_earlier = |here: Meta| here.mtime < i64::from(push.head.timestamp);
        if !push.replace || !is_appender(&push.head.name) || !push.here().is_some_and(is_earlier) {
            return false;
        }
        let lacks = self.questions.lacks(conn.peer().ip(), push.head.name, held.recorded_before());
        timeout(self.settings.timeout / 8, lacks).await.unwrap_or(true)
    }

    /// Gives what was received its name; true if nothing had that.
    fn give_name(&self, push: &Push<'_>, mut incoming: Incoming) -> Result<(File, bool), Refusal> {
        let Push { head, place, .. } = push;
        let replace = push.replace || (push.is_renewable() && push.tied().is_some());
        let base = RelPath::new(place.rel.split().1).ok_or(Status::EINVAL)?;
        let published = if replace { Err(io::ErrorKind::AlreadyExists.into()) } else { incoming.publish(&base) };
        let fresh = match published {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !replace && push.here().is_some_and(|here| here.size != head.size) {
                    warn!("{} is here with another size; taking the one that is pushed", head.name);
                }
                self.can_record()?;
                place.try_on("replace", |_| incoming.replace(&base))?;
                false
            }
            other => place.try_on("name", |_| other).map(|()| true)?,
        };
        Ok((incoming.into_file(), fresh))
    }

    /// A file without a name in the directory of `place`.
    pub(super) fn begin_push(&self, place: &Place<'_>) -> Result<Incoming, Status> {
        let parent = RelPath::new(place.rel.split().0).ok_or(Status::EINVAL)?;
        let begun = place
            .try_on("open the directory of", |p| p.dir().open_dir(&parent))
            .and_then(|dir| place.try_on("make", |_| Incoming::begin(&Arc::new(dir))));
        self.counters.count(Count::FileOpen, 1, begun.is_ok());
        begun
    }

    async fn receive_push(&self, conn: &mut Conn<'_>, file: &File, head: &SyncFileHead) -> Result<Hasher, Refusal> {
        let mut hasher = Hasher::new();
        match head.size <= WHOLE {
            true => self.receive_at_once(conn, file, 0, head.size, &mut hasher).await?,
            false => self.receive_into(conn, file, 0, head.size, &mut hasher).await?,
        }
        // The source is taken at its word: refusing would stop it for good. But somebody should look at its disk.
        let told = head.name.block().ok().filter(|_| has_sum(&head.name));
        if let Some(block) = told
            && (block.size.size() != Some(head.size) || block.crc32 != hasher.clone().finalize())
        {
            error!("{}: what was pushed here does not have the size and checksum in its name", head.name);
        }
        Ok(hasher)
    }
}

/// Whether the file here has changed after what is pushed was: what can be made anew under its name (metadata, slaves), and
/// appenders, which another member may have changed while their source was away. When a creation is pushed again, the
/// changes that followed come after it.
fn is_overtaken(head: &SyncFileHead, replace: bool, here: &Meta) -> bool {
    let pushed = i64::from(head.timestamp);
    let appender = is_appender(&head.name);
    (here.mtime > pushed && (appender || !head.name.is_given_once()))
        || (appender && !replace && here.mtime == pushed && here.size > head.size)
}
