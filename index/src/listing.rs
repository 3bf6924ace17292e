//! Listing a directory.
//!
//! Invariants:
//! - No lock is held while the caller looks at an entry.
//! - Memory use is one page of entries, whatever the size of the directory; a directory too large to be loaded whole is
//!   read from the database page by page, with what memory knows better laid over it.

use std::sync::Arc;

use parking_lot::RwLockUpgradableReadGuard;

use crate::core::{Core, WHOLE};
use crate::delta::Name;
use crate::dir::{Dir, Known};
use crate::error::{IndexError, Result};
use crate::load::DentryRow;
use crate::node::Node;
use crate::types::*;

/// Entries collected at once.
const PAGE: usize = 128;
/// Inodes missing in memory that are worth one query for all of the page.
const WORTH_A_QUERY: usize = 4;

/// Some entries in order of their cookies, and whether there may be more.
struct Page {
    entries: Vec<(u64, Name, Ino)>,
    more: bool,
}

impl Core {
    pub fn readdir(&self, dir: Ino, after: u64, f: &mut dyn FnMut(u64, &[u8], &Attr) -> bool) -> Result<()> {
        let node = self.node(dir)?;
        let mut after = after;
        loop {
            let page = self.page(&node, after)?;
            self.warm(dir, &page.entries)?;
            for (cookie, name, ino) in &page.entries {
                after = *cookie;
                let attr = match self.node(*ino).and_then(|node| node.attr()) {
                    Ok(attr) => attr,
                    // Removed since the page was read.
                    Err(IndexError::NotFound) => continue,
                    Err(error) => return Err(error),
                };
                if !f(*cookie, name, &attr) {
                    return Ok(());
                }
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    fn page(&self, node: &Arc<Node>, after: u64) -> Result<Page> {
        let mut state = node.state.upgradable_read();
        if state.gone {
            return Err(IndexError::NotFound);
        }
        let complete = state.dir.as_ref().ok_or(IndexError::NotDirectory)?.complete;
        if !complete && state.attr.size <= WHOLE {
            state = self.load_whole(state)?;
        }
        let Some(dir) = &state.dir else { return Err(IndexError::NotDirectory) };
        let page = if dir.complete {
            let entries: Vec<_> = dir.after(after).take(PAGE).map(owned).collect();
            Page { more: entries.len() == PAGE, entries }
        } else {
            // The lock stays until the rows are laid over with what is known, so that both are of one moment.
            merge(self.readers.dentries(node.ino, after, PAGE)?, dir, after)
        };
        drop::<RwLockUpgradableReadGuard<'_, _>>(state);
        Ok(page)
    }

    /// Reads the inodes of a page with one query, if many are missing.
    fn warm(&self, dir: Ino, entries: &[(u64, Name, Ino)]) -> Result<()> {
        let missing = entries.iter().filter(|(_, _, ino)| !self.table.contains(*ino)).count();
        let (Some((first, ..)), Some((last, ..))) = (entries.first(), entries.last()) else { return Ok(()) };
        if missing < WORTH_A_QUERY {
            return Ok(());
        }
        let epochs = self.table.epochs();
        for row in self.readers.inodes_between(dir, *first, *last)? {
            // One that is refused will be read again by itself.
            let _ = self.table.insert_loaded_of(Node::loaded(row), &epochs);
        }
        self.trim();
        Ok(())
    }
}

fn owned((cookie, name, ino): (u64, &Name, Ino)) -> (u64, Name, Ino) {
    (cookie, Name::clone(name), ino)
}

/// Lays what memory knows over a page of the database: rows of unknown names, and the known entries in the same range.
fn merge(rows: Vec<DentryRow>, dir: &Dir, after: u64) -> Page {
    let more = rows.len() == PAGE;
    let last = match rows.last() {
        Some(row) if more => row.cookie,
        _ => u64::MAX,
    };
    let mut entries: Vec<_> = dir.after(after).take_while(|(cookie, ..)| *cookie <= last).map(owned).collect();
    let unknown = rows.into_iter().filter(|row| dir.get(&row.name) == Known::Unknown);
    entries.extend(unknown.map(|DentryRow { cookie, name, ino }| (cookie, name, ino)));
    entries.sort_unstable_by_key(|(cookie, ..)| *cookie);
    Page { entries, more }
}
