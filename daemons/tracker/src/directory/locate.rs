//! Where a file may be read or changed (FastDFS 6.16, QUERY_FETCH_ONE, QUERY_FETCH_ALL, QUERY_UPDATE).

use std::sync::atomic::Ordering;

use fdfs_protocol::Status;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::names::GroupName;

use super::name::NameFacts;
use super::{Directory, DownloadServer, GroupView, MemberView};

impl MemberView {
    fn is_source(&self, file: &NameFacts) -> bool {
        match file.source {
            Source::Id(id) => self.number == Some(id),
            Source::Ip(ip) => self.sources.contains(&Some(ip)),
        }
    }
}

impl Directory {
    /// Whether a readable member has the file, as far as its reports tell: it took the upload, or the file is so old
    /// that everybody has it, or it has applied changes newer than the file.
    fn has_file(&self, member: &MemberView, file: &NameFacts, now: i64) -> bool {
        let time = i64::from(file.time);
        member.is_source(file)
            || time < now - self.rules.sync_max_delay
            || member.last_synced > time
            || (member.last_synced + 1 >= time && now - time > self.rules.sync_max_time)
    }

    fn readable_group(&self, name: &GroupName) -> Result<&GroupView, Status> {
        self.group(name).filter(|g| !g.readable.is_empty()).ok_or(Status::ENOENT)
    }

    /// One member to read the file from.
    ///
    /// # Errors
    /// `ENOENT`: no such group, or nobody to read from.
    pub fn fetch_one(
        &self,
        group: &GroupName,
        file: &NameFacts,
        now: i64,
    ) -> Result<(&GroupView, &MemberView), Status> {
        let group = self.readable_group(group)?;
        let source_first = !file.normal || self.rules.download_server == DownloadServer::Source;
        if source_first && let Some(source) = group.readable_source(file) {
            return Ok((group, source));
        }
        if file.normal {
            let n = group.readable.len();
            let start = group.cursors.read.load(Ordering::Relaxed);
            for i in 0..n {
                let at = start.wrapping_add(i) % n;
                let member = group.member(group.readable[at]);
                if self.has_file(member, file, now) {
                    group.cursors.read.store((at + 1) % n, Ordering::Relaxed);
                    return Ok((group, member));
                }
            }
        }
        group.readable_store_server().map(|m| (group, m)).ok_or(Status::ENOENT)
    }

    /// All members to read the file from, in the order of their ids; each is given to `found`.
    ///
    /// # Errors
    /// `ENOENT`: no such group, or nobody to read from; `found` was not called then.
    pub fn fetch_all<'a>(
        &'a self,
        group: &GroupName,
        file: &NameFacts,
        now: i64,
        mut found: impl FnMut(&'a GroupView, &'a MemberView),
    ) -> Result<(), Status> {
        let group = self.readable_group(group)?;
        let mut any = false;
        if file.normal {
            for member in group.readable.iter().map(|&i| group.member(i)) {
                if self.has_file(member, file, now) {
                    any = true;
                    found(group, member);
                }
            }
        } else if let Some(source) = group.readable_source(file) {
            any = true;
            found(group, source);
        }
        if !any {
            found(group, group.readable_store_server().ok_or(Status::ENOENT)?);
        }
        Ok(())
    }

    /// The member that takes changes of the file.
    ///
    /// # Errors
    /// `ENOENT`: no such group, or nobody in it takes changes.
    pub fn locate_update(&self, group: &GroupName, file: &NameFacts) -> Result<(&GroupView, &MemberView), Status> {
        let group = self.group(group).filter(|g| g.is_writable()).ok_or(Status::ENOENT)?;
        let mut writable = group.writable.iter().map(|&i| group.member(i));
        let member = match writable.find(|m| m.is_source(file)) {
            Some(source) => source,
            None => group.choose_writer(self.rules.store_server).ok_or(Status::ENOENT)?,
        };
        Ok((group, member))
    }
}

impl GroupView {
    fn readable_source(&self, file: &NameFacts) -> Option<&MemberView> {
        self.readable.iter().map(|&i| self.member(i)).find(|m| m.is_source(file))
    }

    fn readable_store_server(&self) -> Option<&MemberView> {
        self.store_server.map(|i| self.member(i)).filter(|m| m.readable)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{M, directory, group, member, rules};
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn file(source: &str, age: i64, normal: bool) -> NameFacts {
        NameFacts { source: Source::Ip(source.parse().unwrap()), time: (NOW - age) as i32, normal }
    }

    fn last(m: &MemberView) -> String {
        m.id.as_str().rsplit('.').next().unwrap().to_string()
    }

    fn one(d: &Directory, f: &NameFacts) -> String {
        d.fetch_one(&"g".parse().unwrap(), f, NOW).map_or_else(|e| format!("{e:?}"), |(_, m)| last(m))
    }

    fn all(d: &Directory, f: &NameFacts) -> String {
        let mut found = Vec::new();
        match d.fetch_all(&"g".parse().unwrap(), f, NOW, |_, m| found.push(last(m))) {
            Ok(()) => found.join(","),
            Err(e) => format!("{e:?}"),
        }
    }

    fn update(d: &Directory, f: &NameFacts) -> String {
        d.locate_update(&"g".parse().unwrap(), f).map_or_else(|e| format!("{e:?}"), |(_, m)| last(m))
    }

    fn synced(id: &'static str, ago: i64) -> M {
        M { synced: NOW - ago, ..member(id, &[500]) }
    }

    #[test]
    fn the_four_read_rules() {
        let r = rules();
        let d = directory(
            r,
            vec![group("g", 0, &[synced("10.0.0.1", 1000), synced("10.0.0.2", 10), synced("10.0.0.3", 101)], &r)],
        );
        for (age, source, expected, why) in [
            (5, "10.0.0.1", "1", "only the source has it"),
            (5, "10.0.0.3", "3", "only the source has it"),
            (50, "10.0.0.1", "1,2", "2 has applied newer changes"),
            (100, "10.0.0.1", "1,2", "3 is one second behind, but the file is young"),
            (102, "10.0.0.9", "2,3", "strictly newer changes"),
            (999, "10.0.0.9", "1,2,3", "one second behind counts for files older than sync_max_time"),
            (998, "10.0.0.9", "2,3", "two seconds behind never"),
            (86_400, "10.0.0.9", "1,2,3", "older than everything"),
            (86_401, "10.0.0.9", "1,2,3", "older than sync_max_delay"),
        ] {
            assert_eq!(all(&d, &file(source, age, true)), expected, "age {age}: {why}");
        }
        let idle = directory(r, vec![group("g", 0, &[synced("10.0.0.1", NOW), synced("10.0.0.2", NOW)], &r)]);
        assert_eq!(all(&idle, &file("10.0.0.9", 86_400, true)), "1", "nobody has it: the store server");
        assert_eq!(all(&idle, &file("10.0.0.9", 86_401, true)), "1,2");
    }

    #[test]
    fn normal_files_are_read_in_turn() {
        let r = rules();
        let d = directory(
            r,
            vec![group("g", 0, &[synced("10.0.0.1", 0), synced("10.0.0.2", 1000), synced("10.0.0.3", 0)], &r)],
        );
        let f = file("10.0.0.1", 50, true);
        assert_eq!([one(&d, &f), one(&d, &f), one(&d, &f)], ["1", "3", "1"]);
        let old = file("10.0.0.9", 100_000, true);
        assert_eq!([one(&d, &old), one(&d, &old), one(&d, &old)], ["2", "3", "1"]);
    }

    #[test]
    fn changing_files_are_read_at_the_source() {
        let r = rules();
        let d = directory(r, vec![group("g", 0, &[synced("10.0.0.1", 0), synced("10.0.0.2", 0)], &r)]);
        let f = file("10.0.0.2", 100_000, false);
        assert_eq!([one(&d, &f), one(&d, &f), all(&d, &f)], ["2", "2", "2"]);
        let lost = file("10.0.0.9", 100_000, false);
        assert_eq!([one(&d, &lost), all(&d, &lost)], ["1", "1"], "source gone: the store server");
    }

    #[test]
    fn download_server_source_first() {
        let mut r = rules();
        r.download_server = DownloadServer::Source;
        let d = directory(r, vec![group("g", 0, &[synced("10.0.0.1", 0), synced("10.0.0.2", 0)], &r)]);
        let f = file("10.0.0.2", 100, true);
        assert_eq!([one(&d, &f), one(&d, &f)], ["2", "2"]);
        assert_eq!(all(&d, &f), "1,2", "the list is not affected");
        let other = file("10.0.0.9", 100, true);
        assert_eq!([one(&d, &other), one(&d, &other)], ["1", "2"]);
    }

    #[test]
    fn read_and_write_modes() {
        let r = rules();
        let readonly = M { writable: false, ..synced("10.0.0.1", 0) };
        let writeonly = M { readable: false, ..synced("10.0.0.2", 0) };
        let d = directory(r, vec![group("g", 0, &[readonly.clone(), writeonly.clone()], &r)]);
        let f = file("10.0.0.1", 100, true);
        assert_eq!([one(&d, &f), all(&d, &f), update(&d, &f)], ["1", "1", "2"]);
        let only_writer = directory(r, vec![group("g", 0, &[writeonly], &r)]);
        assert_eq!(one(&only_writer, &f), "Status(ENOENT)");
        assert_eq!(all(&only_writer, &f), "Status(ENOENT)");
        let only_reader = directory(r, vec![group("g", 0, &[readonly], &r)]);
        assert_eq!(update(&only_reader, &f), "Status(ENOENT)");
        assert_eq!(one(&only_reader, &file("10.0.0.9", -5, true)), "Status(ENOENT)", "there is no store server");
    }

    #[test]
    fn changes_go_to_the_source_or_any_writer_in_turn() {
        let r = rules();
        let d = directory(r, vec![group("g", 0, &[synced("10.0.0.1", 0), synced("10.0.0.2", 0)], &r)]);
        let f = file("10.0.0.2", 5, false);
        assert_eq!([update(&d, &f), update(&d, &f)], ["2", "2"]);
        let lost = file("10.0.0.9", 5, false);
        assert_eq!([update(&d, &lost), update(&d, &lost), update(&d, &lost)], ["1", "2", "1"]);
        assert_eq!(d.locate_update(&"x".parse().unwrap(), &f).unwrap_err(), Status::ENOENT);
    }

    #[test]
    fn source_by_configured_id_or_either_address() {
        let r = rules();
        let two = M { number: Some(100_002), second: Some("8.8.8.8"), ..synced("10.0.0.2", NOW) };
        let d = directory(r, vec![group("g", 0, &[M { number: Some(100_001), ..synced("10.0.0.1", NOW) }, two], &r)]);
        let by_id = NameFacts { source: Source::Id(100_002), ..file("10.0.0.9", 5, true) };
        assert_eq!(update(&d, &by_id), "2");
        assert_eq!(update(&d, &file("8.8.8.8", 5, true)), "2");
        assert_eq!(all(&d, &file("8.8.8.8", 5, true)), "2");
    }
}
