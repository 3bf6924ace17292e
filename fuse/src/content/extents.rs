//! A set of byte ranges: which parts of a staged content are local.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-adjacent, non-empty ranges. Costs grow with the number of ranges touched, not with their length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extents {
    /// Start → end.
    ranges: BTreeMap<u64, u64>,
}

impl Extents {
    /// Adds a range, merging it with what it overlaps or touches.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // The common case: a write that begins where the last one ended.
        if let Some(mut last) = self.ranges.last_entry()
            && *last.key() <= range.start
            && *last.get() >= range.start
        {
            let end = last.get_mut();
            *end = range.end.max(*end);
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&s, &e)) = self.ranges.range(..start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.ranges.range(start..=end).next() {
            end = end.max(e);
            self.ranges.remove(&s);
        }
        self.ranges.insert(start, end);
    }

    /// Removes everything at and beyond `end`.
    pub(crate) fn cut(&mut self, end: u64) {
        self.ranges.split_off(&end);
        if let Some(mut last) = self.ranges.last_entry()
            && *last.get() > end
        {
            *last.get_mut() = end;
        }
    }

    /// Removes a range.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<Range<u64>> = self.within(range.clone()).collect();
        for part in touched {
            // Each part lies in one stored range, of which the ends may remain.
            if let Some((&start, &end)) = self.ranges.range(..=part.start).next_back() {
                self.ranges.remove(&start);
                if start < part.start {
                    self.ranges.insert(start, part.start);
                }
                if part.end < end {
                    self.ranges.insert(part.end, end);
                }
            }
        }
    }

    /// How far the set reaches from 0 without a gap.
    pub(crate) fn prefix(&self) -> u64 {
        self.ranges.first_key_value().filter(|(start, _)| **start == 0).map_or(0, |(_, end)| *end)
    }

    /// The parts of `range` that are in the set, in order.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let from = self.ranges.range(..=range.start).next_back().map_or(range.start, |(&s, _)| s);
        // `from` may lie beyond an empty range's end; BTreeMap::range wants order.
        let to = range.end.max(from);
        self.ranges
            .range(from..to)
            .map(move |(&s, &e)| s.max(range.start)..e.min(range.end))
            .filter(|r| r.start < r.end)
    }

    /// The parts of `range` that are not in the set, in order.
    pub(crate) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for have in self.within(range.clone()) {
            if have.start > at {
                gaps.push(at..have.start);
            }
            at = have.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// All ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(&s, &e)| s..e)
    }

    /// Sum of the lengths.
    pub(crate) fn len(&self) -> u64 {
        self.iter().map(|r| r.end - r.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Change {
        Insert(u64, u64),
        Remove(u64, u64),
        Cut(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => (0..64u64, 0..16u64).prop_map(|(s, l)| Change::Insert(s, s + l)),
            2 => (0..64u64, 0..16u64).prop_map(|(s, l)| Change::Remove(s, s + l)),
            1 => (0..80u64).prop_map(Change::Cut),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_set_of_bytes(changes in prop::collection::vec(change(), 0..24), from in 0..80u64, len in 0..40u64) {
            let mut model = [false; 128];
            let mut extents = Extents::default();
            for c in changes {
                match c {
                    Change::Insert(s, e) => {
                        extents.insert(s..e);
                        model[s as usize..e as usize].fill(true);
                    }
                    Change::Remove(s, e) => {
                        extents.remove(s..e);
                        model[s as usize..e as usize].fill(false);
                    }
                    Change::Cut(end) => {
                        extents.cut(end);
                        model[end as usize..].fill(false);
                    }
                }
            }
            let bytes = |ranges: &mut dyn Iterator<Item = Range<u64>>| {
                let mut out = [false; 128];
                for r in ranges {
                    assert!(r.start < r.end);
                    out[r.start as usize..r.end as usize].fill(true);
                }
                out
            };
            prop_assert_eq!(bytes(&mut extents.iter()), model);
            prop_assert_eq!(extents.len(), model.iter().filter(|b| **b).count() as u64);
            prop_assert_eq!(extents.prefix(), model.iter().take_while(|b| **b).count() as u64);
            // Touching ranges are merged.
            let all: Vec<_> = extents.iter().collect();
            prop_assert!(all.windows(2).all(|w| w[0].end < w[1].start));
            let inside = bytes(&mut extents.within(from..from + len));
            let outside = bytes(&mut extents.gaps(from..from + len).into_iter());
            for i in 0..128u64 {
                let asked = (from..from + len).contains(&i);
                prop_assert_eq!(inside[i as usize], asked && model[i as usize]);
                prop_assert_eq!(outside[i as usize], asked && !model[i as usize]);
            }
        }
    }
}
