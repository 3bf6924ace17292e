//! Where to upload: group, member, path (FastDFS 6.16, QUERY_STORE_*).

use std::sync::atomic::Ordering;

use fdfs_protocol::Status;
use fdfs_protocol::names::GroupName;

use super::{Directory, GroupView, MemberView, StoreLookup, StorePath};

/// The choice.
#[derive(Debug, Clone, Copy)]
pub struct Upload<'a> {
    /// The group.
    pub group: &'a GroupView,
    /// The member; for the "all" queries the first of the writable ones, which decides the path for all.
    pub member: &'a MemberView,
    /// The store path index to put into the upload.
    pub path: u8,
}

impl Directory {
    /// Chooses where an upload goes; `group` only if the client names one. `all` is the form that lists every
    /// writable member.
    ///
    /// # Errors
    /// `ENOENT`: no such group, or nobody in it takes uploads. `ENOSPC`: somebody does, but none has space.
    pub fn choose_upload(&self, group: Option<&GroupName>, all: bool) -> Result<Upload<'_>, Status> {
        let group = match (group, self.rules.store_lookup) {
            (Some(name), _) => self.named_group(name)?,
            (None, StoreLookup::Group(name)) => self.named_group(&name)?,
            (None, StoreLookup::RoundRobin | StoreLookup::MostFree) => self.choose_group()?,
        };
        if group.path_count == 0 {
            return Err(Status::ENOENT);
        }
        let member = if all {
            group.writable.first().map(|&i| group.member(i))
        } else {
            group.choose_writer(self.rules.store_server)
        };
        let member = member.ok_or(Status::ENOENT)?;
        let path = self.choose_path(group, member)?;
        Ok(Upload { group, member, path })
    }

    fn named_group(&self, name: &GroupName) -> Result<&GroupView, Status> {
        let group = self.group(name).filter(|g| g.is_writable()).ok_or(Status::ENOENT)?;
        let has_space = self.has_space(group) || self.has_trunk_space(group);
        if has_space { Ok(group) } else { Err(Status::ENOSPC) }
    }

    fn has_space(&self, group: &GroupView) -> bool {
        self.rules.allows_group(group.space)
    }

    fn has_trunk_space(&self, group: &GroupView) -> bool {
        self.rules.use_trunk && self.rules.allows_group(group.space_with_trunk())
    }

    /// The group at the cursor, or the next with space in the order of names. Groups that have space only inside
    /// their trunk files come last, except that the fullest-free one may be chosen for it at once.
    fn choose_group(&self) -> Result<&GroupView, Status> {
        let n = self.groups.len();
        let start = self.cursor.load(Ordering::Relaxed);
        let start = if start < n { start } else { 0 };
        let most_free = self.rules.store_lookup == StoreLookup::MostFree;
        let writable = || (0..n).map(|i| (start + i) % n.max(1)).filter(|&i| self.groups[i].is_writable());
        let with_space = writable().find(|&i| {
            let group = &self.groups[i];
            self.has_space(group) || (i == start && most_free && self.has_trunk_space(group))
        });
        let chosen = match with_space {
            Some(i) => i,
            None if writable().next().is_none() => return Err(Status::ENOENT),
            None => {
                let fits = |g: &GroupView| g.is_writable() && self.has_trunk_space(g);
                self.groups.iter().position(|g| fits(g)).ok_or(Status::ENOSPC)?
            }
        };
        let next = if most_free { chosen } else { (chosen + 1) % n };
        self.cursor.store(next, Ordering::Relaxed);
        Ok(&self.groups[chosen])
    }

    /// The member's current path, or the next one with space.
    fn choose_path(&self, group: &GroupView, member: &MemberView) -> Result<u8, Status> {
        let count = group.path_count;
        let current = member.write_path.load(Ordering::Relaxed);
        let current = if current < count { current } else { 0 };
        let from_current = || (0..count).map(|i| (current + i) % count);
        let chosen = from_current()
            .find(|&i| self.rules.allows_path(member.space(i), count))
            .or_else(|| {
                let trunk = if self.rules.use_trunk { group.trunk_free_mb } else { return None };
                from_current().find(|&i| {
                    let mut space = member.space(i);
                    space.free_mb = space.free_mb.saturating_add(trunk);
                    self.rules.allows_path(space, count)
                })
            })
            .ok_or(Status::ENOSPC)?;
        let next = match self.rules.store_path {
            StorePath::RoundRobin => (chosen + 1) % count,
            StorePath::MostFree => chosen,
        };
        if next != current || chosen != current {
            member.write_path.store(next, Ordering::Relaxed);
        }
        Ok(chosen as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreServer;
    use super::super::testing::{directory, group, member, rules};
    use super::*;
    use fdfs_protocol::config::ReservedSpace;

    /// `group/member/path` of successive choices.
    fn choices(d: &Directory, n: usize) -> Vec<String> {
        (0..n)
            .map(|_| match d.choose_upload(None, false) {
                Ok(u) => format!("{}/{}/{}", u.group.name, u.member.id.as_str().rsplit('.').next().unwrap(), u.path),
                Err(e) => format!("{e:?}"),
            })
            .collect()
    }

    #[test]
    fn nothing_there() {
        let r = rules();
        assert_eq!(choices(&directory(r, vec![]), 1), ["Status(ENOENT)"]);
        let mut idle = member("10.0.0.1", &[500]);
        idle.writable = false;
        let d = directory(r, vec![group("g1", 0, &[idle], &r)]);
        assert_eq!(choices(&d, 1), ["Status(ENOENT)"]);
        assert_eq!(d.choose_upload(Some(&"g1".parse().unwrap()), false).unwrap_err(), Status::ENOENT);
        assert_eq!(d.choose_upload(Some(&"g2".parse().unwrap()), true).unwrap_err(), Status::ENOENT);
    }

    #[test]
    fn groups_in_turn_skip_full_and_idle_ones() {
        let r = rules();
        let mut readonly = member("10.0.3.1", &[500]);
        readonly.writable = false;
        let d = directory(
            r,
            vec![
                group("g1", 0, &[member("10.0.1.1", &[500])], &r),
                group("g2", 0, &[member("10.0.2.1", &[100])], &r),
                group("g3", 0, &[readonly], &r),
                group("g4", 0, &[member("10.0.4.1", &[101])], &r),
            ],
        );
        assert_eq!(choices(&d, 4), ["g1/1/0", "g4/1/0", "g1/1/0", "g4/1/0"]);
        assert_eq!(d.choose_upload(Some(&"g2".parse().unwrap()), false).unwrap_err(), Status::ENOSPC);
    }

    #[test]
    fn all_full_is_no_space() {
        let r = rules();
        let d = directory(r, vec![group("g1", 1000, &[member("10.0.1.1", &[100])], &r)]);
        assert_eq!(choices(&d, 2), ["Status(ENOSPC)", "Status(ENOSPC)"], "trunk space counts only with trunk files");
    }

    #[test]
    fn members_in_turn_first_and_by_priority() {
        let mut members = [member("10.0.0.1", &[500]), member("10.0.0.2", &[500]), member("10.0.0.3", &[500])];
        members[1].priority = 1;
        members[2].priority = 1;
        for (rule, expected) in [
            (StoreServer::RoundRobin, ["g/1/0", "g/2/0", "g/3/0", "g/1/0"]),
            (StoreServer::First, ["g/1/0", "g/1/0", "g/1/0", "g/1/0"]),
            (StoreServer::ByPriority, ["g/2/0", "g/2/0", "g/2/0", "g/2/0"]),
        ] {
            let mut r = rules();
            r.store_server = rule;
            let d = directory(r, vec![group("g", 0, &members, &r)]);
            assert_eq!(choices(&d, 4), expected, "{rule:?}");
        }
    }

    #[test]
    fn paths_in_turn_skip_full_ones() {
        let r = rules(); // the reserve of 100 is 33 for each of three paths
        let d = directory(r, vec![group("g", 0, &[member("10.0.0.1", &[34, 33, 500])], &r)]);
        assert_eq!(choices(&d, 4), ["g/1/0", "g/1/2", "g/1/0", "g/1/2"]);
        let d = directory(r, vec![group("g", 0, &[member("10.0.0.1", &[33, 33, 33])], &r)]);
        assert_eq!(choices(&d, 1), ["Status(ENOSPC)"]);
    }

    #[test]
    fn most_free_path_stays_until_full() {
        let mut r = rules();
        r.store_path = StorePath::MostFree;
        let d = directory(r, vec![group("g", 0, &[member("10.0.0.1", &[10, 90, 80])], &r)]);
        assert_eq!(choices(&d, 3), ["g/1/1", "g/1/1", "g/1/1"], "path 0 is full: the next one, and it stays");
    }

    #[test]
    fn all_form_uses_the_first_members_path_and_moves_it() {
        let r = rules();
        let members = [member("10.0.0.1", &[500, 500]), member("10.0.0.2", &[500, 500])];
        let d = directory(r, vec![group("g", 0, &members, &r)]);
        let paths: Vec<u8> = (0..3).map(|_| d.choose_upload(None, true).unwrap().path).collect();
        assert_eq!(paths, [0, 1, 0]);
        assert_eq!(choices(&d, 2), ["g/1/1", "g/2/0"], "the member cursor did not move");
    }

    #[test]
    fn fixed_group() {
        let mut r = rules();
        r.store_lookup = StoreLookup::Group("g2".parse().unwrap());
        let groups = |free| {
            vec![group("g1", 0, &[member("10.0.1.1", &[500])], &r), group("g2", 0, &[member("10.0.2.1", &[free])], &r)]
        };
        assert_eq!(choices(&directory(r, groups(500)), 2), ["g2/1/0", "g2/1/0"]);
        assert_eq!(choices(&directory(r, groups(50)), 1), ["Status(ENOSPC)"]);
        assert_eq!(choices(&directory(r, groups(500).into_iter().take(1).collect()), 1), ["Status(ENOENT)"]);
    }

    #[test]
    fn most_free_group_then_the_next_by_name() {
        let mut r = rules();
        r.store_lookup = StoreLookup::MostFree;
        let g = |name, id, free| group(name, 0, &[member(id, &[free])], &r);
        let d = directory(r, vec![g("a", "10.0.0.1", 300), g("b", "10.0.0.2", 700), g("c", "10.0.0.3", 700)]);
        assert_eq!(choices(&d, 3), ["b/2/0", "b/2/0", "b/2/0"], "the first of equals, and it stays");
        let mut strict = r;
        strict.reserve = ReservedSpace::Ratio(0.75);
        let d = directory(strict, vec![g("a", "10.0.0.1", 800), g("b", "10.0.0.2", 700)]);
        d.cursor.store(1, Ordering::Relaxed);
        assert_eq!(choices(&d, 2), ["a/1/0", "a/1/0"], "a full choice falls to the next");
    }

    #[test]
    fn trunk_space_is_the_last_resort() {
        let mut r = rules();
        r.use_trunk = true;
        let d = directory(
            r,
            vec![group("a", 500, &[member("10.0.0.1", &[50])], &r), group("b", 0, &[member("10.0.0.2", &[500])], &r)],
        );
        assert_eq!(choices(&d, 2), ["b/2/0", "b/2/0"], "real space first");
        let d = directory(
            r,
            vec![group("a", 0, &[member("10.0.0.1", &[50])], &r), group("b", 500, &[member("10.0.0.2", &[60])], &r)],
        );
        assert_eq!(choices(&d, 1), ["b/2/0"]);
        r.store_lookup = StoreLookup::MostFree;
        let d = directory(
            r,
            vec![group("a", 600, &[member("10.0.0.1", &[50])], &r), group("b", 500, &[member("10.0.0.2", &[60])], &r)],
        );
        assert_eq!(choices(&d, 1), ["a/1/0"], "all full: most space inside trunk files");
    }
}
