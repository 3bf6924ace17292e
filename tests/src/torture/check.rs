//! What a file may be after what was asked of it: pure.
//!
//! A file has one owner, so its changes are asked for one after the other. One that was acknowledged was made then. One
//! that was refused was not. One without an answer may be made at any time from when it was asked, also after later
//! ones (the request may lie in the socket of a stopped process), or never.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::history::{Change, Event, Outcome};

/// A file as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct State {
    /// `None`: there is no such file.
    pub content: Option<Arc<Vec<u8>>>,
    /// Empty: there is none.
    pub metadata: BTreeMap<String, String>,
}

/// How a file is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// It is not there, and must be.
    Lost,
    /// It is there, and must not be.
    Resurrected,
    /// Its bytes are none of those that it may have.
    WrongContent(String),
    /// Its bytes may be so, but not with this metadata.
    WrongMetadata(String),
    /// A change was acknowledged that cannot have been made.
    Impossible(&'static str),
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Violation::Lost => f.write_str("lost: it must be there and is not"),
            Violation::Resurrected => f.write_str("resurrected: it was deleted and is there"),
            Violation::WrongContent(detail) => write!(f, "wrong content: {detail}"),
            Violation::WrongMetadata(detail) => write!(f, "wrong metadata: {detail}"),
            Violation::Impossible(kind) => write!(f, "{kind} was acknowledged, and cannot have been made"),
        }
    }
}

/// The state after one change; `None` if it cannot be made.
fn apply(state: &State, change: &Change) -> Option<State> {
    let mut next = state.clone();
    if let Change::Put(data) = change {
        next.content = Some(Arc::new(data.bytes()));
        return Some(next);
    }
    let content = Arc::make_mut(next.content.as_mut()?);
    match change {
        Change::Put(_) => {}
        Change::Append(data) => content.extend(data.bytes()),
        Change::Modify(at, data) => {
            let at = usize::try_from(*at).ok().filter(|at| *at <= content.len())?;
            content.resize(content.len().max(at + data.len), 0);
            content[at..at + data.len].copy_from_slice(&data.bytes());
        }
        Change::Truncate(size) => content.resize(usize::try_from(*size).ok()?, 0),
        Change::SetMetadata(items) => next.metadata = items.clone(),
        Change::MergeMetadata(items) => next.metadata.extend(items.clone()),
        Change::Regenerate => next.metadata.clear(),
        Change::Delete => next = State::default(),
    }
    Some(next)
}

/// What the file may be after `events`, beginning as `base`.
///
/// # Errors
/// When a change was acknowledged that cannot have been made.
pub fn possible(base: &State, events: &[Event]) -> Result<BTreeSet<State>, Violation> {
    // Each with the unknown changes that are not made in it yet.
    let mut states = BTreeSet::from([(base.clone(), Vec::<usize>::new())]);
    for (i, event) in events.iter().enumerate() {
        match event.outcome {
            Outcome::Failed => {}
            Outcome::Unknown => {
                for mut state in std::mem::take(&mut states) {
                    state.1.push(i);
                    states.insert(state);
                }
                spread(&mut states, events);
            }
            Outcome::Done => {
                states = states
                    .into_iter()
                    .filter_map(|(state, open)| Some((apply(&state, &event.change)?, open)))
                    .collect();
                if states.is_empty() {
                    return Err(Violation::Impossible(event.change.kind()));
                }
                spread(&mut states, events);
            }
        }
    }
    // Where the new name did not come back, the file is there under a name that nobody knows.
    let moved = |event: &Event| event.change == Change::Regenerate && event.outcome == Outcome::Unknown;
    let mut found: BTreeSet<State> = states.into_iter().map(|(state, _)| state).collect();
    if events.iter().any(moved) {
        found.insert(State::default());
    }
    Ok(found)
}

/// Adds what the states become when open changes are made now, in any order.
fn spread(states: &mut BTreeSet<(State, Vec<usize>)>, events: &[Event]) {
    let mut fresh: Vec<_> = states.iter().cloned().collect();
    while let Some((state, open)) = fresh.pop() {
        for (at, i) in open.iter().enumerate() {
            let Some(next) = apply(&state, &events[*i].change) else { continue };
            let mut left = open.clone();
            left.remove(at);
            if states.insert((next.clone(), left.clone())) {
                fresh.push((next, left));
            }
        }
    }
}

/// Whether the file may be what was found.
///
/// # Errors
/// How it is not.
pub fn judge(base: &State, events: &[Event], found: &State) -> Result<(), Violation> {
    let possible = possible(base, events)?;
    if possible.contains(found) {
        return Ok(());
    }
    let Some(content) = &found.content else { return Err(Violation::Lost) };
    if possible.iter().all(|state| state.content.is_none()) {
        return Err(Violation::Resurrected);
    }
    if let Some(state) = possible.iter().find(|state| state.content.as_ref() == Some(content)) {
        let detail = format!("{:?}, where it may be {:?}", found.metadata, state.metadata);
        return Err(Violation::WrongMetadata(detail));
    }
    let differences: Vec<String> =
        possible.iter().filter_map(|state| state.content.as_ref()).map(|wanted| difference(wanted, content)).collect();
    Err(Violation::WrongContent(differences.join("; or ")))
}

/// Where two contents differ, in words.
pub fn difference(wanted: &[u8], found: &[u8]) -> String {
    let at = wanted.iter().zip(found).position(|(a, b)| a != b).unwrap_or(wanted.len().min(found.len()));
    format!("{} bytes instead of {}, other from {at} on", found.len(), wanted.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::history::Data;

    const FIRST: Data = Data { seed: 1, len: 100 };
    const SECOND: Data = Data { seed: 2, len: 50 };
    const THIRD: Data = Data { seed: 3, len: 70 };

    fn done(change: Change) -> Event {
        Event { change, outcome: Outcome::Done }
    }
    fn unknown(change: Change) -> Event {
        Event { change, outcome: Outcome::Unknown }
    }
    fn failed(change: Change) -> Event {
        Event { change, outcome: Outcome::Failed }
    }
    fn file(parts: &[Data]) -> State {
        State {
            content: Some(Arc::new(parts.iter().flat_map(|data| data.bytes()).collect())),
            metadata: BTreeMap::new(),
        }
    }
    fn items(items: &[(&str, &str)]) -> BTreeMap<String, String> {
        items.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }
    fn new(events: &[Event], found: &State) -> Result<(), Violation> {
        judge(&State::default(), events, found)
    }

    #[test]
    fn an_acknowledged_upload_must_be_there() {
        let events = [done(Change::Put(FIRST))];
        assert_eq!(new(&events, &file(&[FIRST])), Ok(()));
        assert_eq!(new(&events, &State::default()), Err(Violation::Lost));
        // Also one of an earlier round, of which nothing was asked since.
        assert_eq!(judge(&file(&[FIRST]), &[], &State::default()), Err(Violation::Lost));
        assert_eq!(judge(&file(&[FIRST]), &[failed(Change::Delete)], &State::default()), Err(Violation::Lost));
    }

    #[test]
    fn every_byte_counts() {
        let events = [done(Change::Put(FIRST))];
        for at in [0, 50, 99] {
            let mut found = file(&[FIRST]);
            Arc::make_mut(found.content.as_mut().unwrap())[at] ^= 1;
            let Err(Violation::WrongContent(text)) = new(&events, &found) else { panic!("byte {at}") };
            assert!(text.contains(&format!("from {at} on")), "{text}");
        }
        let mut short = file(&[FIRST]);
        Arc::make_mut(short.content.as_mut().unwrap()).pop();
        assert!(matches!(new(&events, &short), Err(Violation::WrongContent(_))));
    }

    #[test]
    fn what_was_deleted_stays_away() {
        let events = [done(Change::Put(FIRST)), done(Change::Delete)];
        assert_eq!(new(&events, &State::default()), Ok(()));
        assert_eq!(new(&events, &file(&[FIRST])), Err(Violation::Resurrected));
        let maybe = [done(Change::Put(FIRST)), unknown(Change::Delete)];
        assert_eq!(new(&maybe, &State::default()), Ok(()));
        assert_eq!(new(&maybe, &file(&[FIRST])), Ok(()));
    }

    #[test]
    fn metadata_is_part_of_it() {
        let one = items(&[("a", "1"), ("b", "1")]);
        let two = items(&[("b", "2")]);
        let with = |metadata| State { metadata, ..file(&[FIRST]) };
        let set = [done(Change::Put(FIRST)), done(Change::SetMetadata(one.clone()))];
        assert_eq!(new(&set, &with(one.clone())), Ok(()));
        assert!(matches!(new(&set, &file(&[FIRST])), Err(Violation::WrongMetadata(_))));
        let merged = [set.to_vec(), vec![done(Change::MergeMetadata(two.clone()))]].concat();
        assert_eq!(new(&merged, &with(items(&[("a", "1"), ("b", "2")]))), Ok(()));
        assert!(matches!(new(&merged, &with(one.clone())), Err(Violation::WrongMetadata(_))));
        let replaced = [set.to_vec(), vec![done(Change::SetMetadata(two.clone()))]].concat();
        assert!(matches!(new(&replaced, &with(items(&[("a", "1"), ("b", "2")]))), Err(Violation::WrongMetadata(_))));
        let regenerated = [set.to_vec(), vec![done(Change::Regenerate)]].concat();
        assert_eq!(new(&regenerated, &file(&[FIRST])), Ok(()));
    }

    #[test]
    fn acknowledged_changes_are_there() {
        let events = [done(Change::Put(FIRST)), done(Change::Append(SECOND)), done(Change::Modify(10, THIRD))];
        let mut wanted = file(&[FIRST, SECOND]);
        Arc::make_mut(wanted.content.as_mut().unwrap())[10..80].copy_from_slice(&THIRD.bytes());
        assert_eq!(new(&events, &wanted), Ok(()));
        assert!(matches!(new(&events, &file(&[FIRST, SECOND])), Err(Violation::WrongContent(_))));
        assert!(matches!(new(&events[..2], &file(&[FIRST])), Err(Violation::WrongContent(_))));
        let grown = [done(Change::Put(SECOND)), done(Change::Truncate(60)), done(Change::Truncate(40))];
        let cut = State { content: Some(Arc::new(SECOND.bytes()[..40].to_vec())), ..State::default() };
        assert_eq!(new(&grown, &cut), Ok(()));
        assert!(matches!(new(&grown, &file(&[SECOND])), Err(Violation::WrongContent(_))));
    }

    #[test]
    fn of_unknown_changes_any_may_have_been_made() {
        let events = [done(Change::Put(FIRST)), unknown(Change::Append(SECOND)), unknown(Change::Append(THIRD))];
        for parts in [&[FIRST][..], &[FIRST, SECOND], &[FIRST, THIRD], &[FIRST, SECOND, THIRD], &[FIRST, THIRD, SECOND]]
        {
            assert_eq!(new(&events, &file(parts)), Ok(()), "{parts:?}");
        }
        // None is made twice.
        for parts in [&[FIRST, SECOND, SECOND][..], &[SECOND], &[FIRST, THIRD, THIRD]] {
            assert!(new(&events, &file(parts)).is_err(), "{parts:?}");
        }
        assert_eq!(new(&events, &State::default()), Err(Violation::Lost));
    }

    #[test]
    fn an_unknown_change_may_come_late() {
        let events = [done(Change::Put(FIRST)), unknown(Change::Append(SECOND)), done(Change::Append(THIRD))];
        for parts in [&[FIRST, THIRD][..], &[FIRST, SECOND, THIRD], &[FIRST, THIRD, SECOND]] {
            assert_eq!(new(&events, &file(parts)), Ok(()), "{parts:?}");
        }
        // The acknowledged one is there in any case.
        assert!(matches!(new(&events, &file(&[FIRST, SECOND])), Err(Violation::WrongContent(_))));
    }

    #[test]
    fn a_failed_close_leaves_old_or_new() {
        let events = [unknown(Change::Put(SECOND))];
        for found in [file(&[FIRST]), file(&[SECOND])] {
            assert_eq!(judge(&file(&[FIRST]), &events, &found), Ok(()));
        }
        for found in [file(&[]), file(&[THIRD]), State::default()] {
            assert!(judge(&file(&[FIRST]), &events, &found).is_err());
        }
    }

    #[test]
    fn a_new_name_that_did_not_arrive() {
        let events = [done(Change::Put(FIRST)), unknown(Change::Regenerate)];
        assert_eq!(new(&events, &State::default()), Ok(()));
        assert_eq!(new(&events, &file(&[FIRST])), Ok(()));
        assert!(new(&events, &file(&[SECOND])).is_err());
    }

    #[test]
    fn an_answer_that_cannot_be() {
        let events = [done(Change::Put(FIRST)), done(Change::Delete), done(Change::Append(SECOND))];
        assert_eq!(new(&events, &State::default()), Err(Violation::Impossible("append")));
        let events = [done(Change::Put(FIRST)), done(Change::Modify(101, SECOND))];
        assert_eq!(new(&events, &file(&[FIRST])), Err(Violation::Impossible("modify")));
    }
}
