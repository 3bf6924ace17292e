//! The stage of an inode in use: made at the first change, kept over a restart when it cannot be stored, given up when the
//! index knows all.

use fdfs_index::{Ino, SetAttr, StagedRow};

use super::Core;
use super::error::{Result, TreeError};
use super::extension;
use super::inode::{Body, OpenInode, Staged, State, object};

/// A stage that is needed no more. Where its data was kept for a restart, it ends only after the commit of what replaced
/// it: see [`Core::drop_retired`].
#[must_use]
pub(crate) struct Retired {
    pub(crate) after_commit: bool,
    /// Whether its content was given up, not stored.
    given_up: bool,
    staged: Staged,
}

impl Retired {
    pub(crate) fn end(self) {
        if self.given_up {
            self.staged.stage.discard();
        }
    }
}

impl Core {
    /// The stage of the inode, made if there is none: a view of the content it has now.
    pub(crate) fn staged<'a>(&self, ino: Ino, state: &'a mut State) -> Result<&'a mut Staged> {
        let made = match &state.body {
            Body::Staged(_) => None,
            Body::Index => {
                let (base, pin) = self.pinned_content(ino)?.unzip();
                let size = base.as_ref().map_or(0, |base| base.size);
                let stage = self.store.stage(base.as_ref().map(object).as_ref(), size)?;
                Some(Staged::new(stage, pin))
            }
            Body::Copying { source, covered, .. } => {
                let stage = self.store.stage(Some(&object(source)), *covered)?;
                Some(Staged::new(stage, Some(self.pins.pin(&source.file_id))))
            }
        };
        if let Some(mut staged) = made {
            self.learn_extension(ino, state);
            staged.stage.set_extension(state.extension);
            state.body = Body::Staged(staged);
        }
        match &mut state.body {
            Body::Staged(staged) => Ok(staged),
            Body::Index | Body::Copying { .. } => Err(TreeError::Invalid("no stage")),
        }
    }

    /// Replaces whatever the inode holds by nothing at all, staged.
    pub(crate) fn stage_nothing(&self, ino: Ino, state: &mut State) -> Result<()> {
        self.learn_extension(ino, state);
        let mut stage = self.store.stage(None, 0)?;
        stage.set_extension(state.extension);
        self.replace_body(ino, state, Body::Staged(Staged::new(stage, None)));
        Ok(())
    }

    /// Gives up whatever the inode holds for something else.
    pub(crate) fn replace_body(&self, ino: Ino, state: &mut State, body: Body) {
        self.unkeep(ino, state);
        if let Body::Staged(staged) = std::mem::replace(&mut state.body, body) {
            self.drop_retired(Some(Retired { after_commit: staged.was_kept, given_up: true, staged }));
        }
    }

    /// Makes the staged data survive a restart. Its failure is not the caller's: the data is still here.
    pub(crate) fn keep(&self, inode: &OpenInode, state: &mut State) {
        let times = self.settle_times(inode.ino, state).ok().flatten();
        let Body::Staged(staged) = &mut state.body else { return };
        let kept = match staged.stage.keep() {
            Ok(kept) => kept,
            Err(error) => {
                return tracing::error!(ino = inode.ino.0, "data that could not be stored is in memory only: {error}");
            }
        };
        let row = StagedRow { ino: inode.ino, path: kept.path, size: kept.size };
        let mut noted = self.index.stage_put(row);
        if let (Ok(()), Some(times)) = (&noted, times) {
            let set = SetAttr { mtime: Some(times.mtime), ctime: Some(times.ctime), ..SetAttr::default() };
            noted = self.index.setattr(inode.ino, &set).map(drop);
        }
        match noted {
            Ok(()) => (staged.kept, staged.was_kept) = (true, true),
            Err(error) => {
                let path = staged.stage.set_apart(inode.ino.0).map(|()| "set apart for the next mount");
                let fate = path.unwrap_or("in memory only");
                tracing::error!(
                    ino = inode.ino.0,
                    "data that could not be stored is not in the index, but {fate}: {error}"
                );
            }
        }
    }

    /// Forgets that staged data is kept for a restart.
    pub(crate) fn unkeep(&self, ino: Ino, state: &mut State) {
        if let Body::Staged(staged) = &mut state.body
            && std::mem::replace(&mut staged.kept, false)
            && let Err(error) = self.index.stage_remove(ino)
        {
            tracing::warn!(ino = ino.0, "a row of staged data stays behind: {error}");
        }
    }

    /// Gives up the stage of a clean inode that nobody writes: its content is where the index says.
    pub(crate) fn retire_clean(&self, state: &mut State) -> Option<Retired> {
        if state.dirty() || state.writers > 0 || state.seals.running() || !matches!(state.body, Body::Staged(_)) {
            return None;
        }
        match std::mem::replace(&mut state.body, Body::Index) {
            Body::Staged(staged) => Some(Retired { after_commit: staged.was_kept, given_up: false, staged }),
            Body::Index | Body::Copying { .. } => None,
        }
    }

    /// Gives up a stage, after the commit if its data was kept for a restart.
    pub(crate) fn drop_retired(&self, retired: Option<Retired>) {
        let Some(retired) = retired else { return };
        if !retired.after_commit {
            retired.end();
        } else {
            let retries = self.retries.clone();
            self.index.on_commit(Box::new(move |result| retries.dispose(retired, result.is_ok())));
        }
    }

    /// Gives up all unsaved changes of an inode that has lost its last name and its last handle.
    pub(crate) fn abandon_if_lost(&self, inode: &OpenInode, state: &mut State) {
        if inode.used() || !state.dirty() || !self.doomed(inode.ino) {
            return;
        }
        state.attached = state.version;
        state.times = None;
        self.replace_body(inode.ino, state, Body::Index);
    }

    /// Of a file that was not created here, the extension is that of the content it had.
    fn learn_extension(&self, ino: Ino, state: &mut State) {
        if state.extension.is_empty()
            && let Ok(Some(content)) = self.index.content(ino)
        {
            state.extension = extension::of_file_id(&content.file_id);
        }
    }
}
