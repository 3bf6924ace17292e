//! The seven queries, from request body to response bytes (FastDFS 6.16, commands 101 to 107 without 108).
//!
//! This is the hot path: nothing is allocated once the output buffer has grown to its working size.

use fdfs_protocol::header::{HEADER_LEN, Header};
use fdfs_protocol::names::GroupName;
use fdfs_protocol::tracker::{FileQuery, GroupQuery};
use fdfs_protocol::{Command, Status};

use super::name::NameFacts;
use super::{Directory, GroupView, MemberView};
use crate::address::Kind;

impl Directory {
    /// Answers a query: appends a whole response to `out`. `client` is the kind of the client's address, `now` the
    /// time in seconds since 1970.
    ///
    /// # Errors
    /// The status to answer with; `out` is as it was then. `EINVAL` too for commands that are no query.
    pub fn answer(
        &self,
        command: Command,
        body: &[u8],
        client: Kind,
        now: i64,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        match command {
            Command::QueryStoreWithoutGroupOne | Command::QueryStoreWithoutGroupAll if body.is_empty() => {
                self.answer_store(None, command == Command::QueryStoreWithoutGroupAll, client, out)
            }
            Command::QueryStoreWithGroupOne | Command::QueryStoreWithGroupAll => {
                let query = GroupQuery::decode(body).map_err(|e| e.status())?;
                self.answer_store(Some(&query.group), command == Command::QueryStoreWithGroupAll, client, out)
            }
            Command::QueryFetchOne | Command::QueryFetchAll | Command::QueryUpdate => {
                let query = FileQuery::decode(body).map_err(|e| e.status())?;
                self.answer_file(command, &query.group, &NameFacts::of(query.name), client, now, out)
            }
            _ => Err(Status::EINVAL),
        }
    }

    fn answer_store(
        &self,
        group: Option<&GroupName>,
        all: bool,
        client: Kind,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        let upload = self.choose_upload(group, all)?;
        let mut answer = Answer::begin(upload.group, client, out);
        if all {
            upload.group.writable.iter().for_each(|&i| answer.member(upload.group.member(i)));
        } else {
            answer.member(upload.member);
        }
        answer.out.push(upload.path);
        answer.end();
        Ok(())
    }

    fn answer_file(
        &self,
        command: Command,
        group: &GroupName,
        file: &NameFacts,
        client: Kind,
        now: i64,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        if command == Command::QueryFetchAll {
            let mut answer: Option<Answer<'_>> = None;
            let mut out = Some(out);
            self.fetch_all(group, file, now, |group, member| {
                if let Some(out) = out.take() {
                    answer = Some(Answer::begin(group, client, out));
                }
                if let Some(answer) = &mut answer {
                    answer.member(member);
                }
            })?;
            if let Some(answer) = answer {
                answer.end();
            }
            return Ok(());
        }
        let (group, member) = match command {
            Command::QueryUpdate => self.locate_update(group, file)?,
            _ => self.fetch_one(group, file, now)?,
        };
        let mut answer = Answer::begin(group, client, out);
        answer.member(member);
        answer.end();
        Ok(())
    }
}

/// A response under construction: the header is filled in at the end.
struct Answer<'o> {
    start: usize,
    client: Kind,
    out: &'o mut Vec<u8>,
}

impl<'o> Answer<'o> {
    fn begin(group: &GroupView, client: Kind, out: &'o mut Vec<u8>) -> Answer<'o> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        group.name.encode(out);
        Answer { start, client, out }
    }

    fn member(&mut self, member: &MemberView) {
        self.out.extend_from_slice(member.endpoint(self.client));
    }

    fn end(self) {
        let body_len = self.out.len() - self.start - HEADER_LEN;
        self.out[self.start..self.start + HEADER_LEN].copy_from_slice(&Header::ok(body_len as u64).encode());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{M, directory, group, member, rules};
    use super::*;
    use fdfs_protocol::names::IpSize;

    const NAME: &[u8] = b"M00/00/00/CgAAAmsA64KAdKM-AAAADg4Qul0780.txt";

    fn ask(d: &Directory, command: Command, body: &[u8], client: Kind) -> Result<Vec<u8>, Status> {
        let mut out = vec![7];
        let result = d.answer(command, body, client, 1_800_000_000, &mut out);
        assert_eq!(out[0], 7, "what was there stays");
        if result.is_err() {
            assert_eq!(out.len(), 1);
        } else {
            assert_eq!(out[1..9], ((out.len() - 11) as u64).to_be_bytes());
            assert_eq!(out[9..11], [100, 0]);
        }
        result.map(|()| out.split_off(11))
    }

    fn two(size: IpSize) -> Directory {
        let mut r = rules();
        r.ip_size = size;
        let members = [member("10.0.0.1", &[500]), M { second: Some("8.8.8.8"), ..member("10.0.0.2", &[500]) }];
        directory(r, vec![group("group1", 0, &members, &r)])
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let mut body = b"group1\0\0\0\0\0\0\0\0\0\0".to_vec();
        body.extend_from_slice(name);
        body
    }

    #[test]
    fn layouts_and_lengths() {
        for (size, width) in [(IpSize::V4, 15), (IpSize::V6, 45)] {
            let d = two(size);
            let one = ask(&d, Command::QueryStoreWithoutGroupOne, b"", Kind::Private10).unwrap();
            assert_eq!(one.len(), 25 + width);
            assert_eq!(&one[..16], b"group1\0\0\0\0\0\0\0\0\0\0");
            assert_eq!(&one[16..24], b"10.0.0.1");
            assert!(one[24..16 + width].iter().all(|b| *b == 0));
            assert_eq!(one[16 + width..24 + width], 23000u64.to_be_bytes());
            assert_eq!(one[24 + width], 0);
            let all = ask(&d, Command::QueryStoreWithGroupAll, &named(b""), Kind::Outer).unwrap();
            assert_eq!(all.len(), 17 + 2 * (width + 8));
            assert_eq!(&all[16 + width + 8..16 + width + 15], b"8.8.8.8", "the address of the client's kind");
            let update = ask(&d, Command::QueryUpdate, &named(NAME), Kind::Private10).unwrap();
            assert_eq!(update.len(), 24 + width);
            assert_eq!(&update[16..24], b"10.0.0.2");
            let fetch = ask(&d, Command::QueryFetchAll, &named(NAME), Kind::Private10).unwrap();
            assert_eq!(fetch.len(), 16 + 2 * (width + 8));
            assert_eq!(ask(&d, Command::QueryFetchOne, &named(NAME), Kind::Private10).unwrap().len(), 24 + width);
        }
    }

    #[test]
    fn wrong_requests() {
        let d = two(IpSize::V4);
        let k = Kind::Outer;
        for command in [Command::QueryStoreWithoutGroupOne, Command::QueryStoreWithoutGroupAll] {
            assert_eq!(ask(&d, command, &named(b""), k), Err(Status::EINVAL));
        }
        for command in [Command::QueryStoreWithGroupOne, Command::QueryStoreWithGroupAll] {
            assert_eq!(ask(&d, command, b"", k), Err(Status::EINVAL));
            assert_eq!(ask(&d, command, &named(b"x"), k), Err(Status::EINVAL));
            assert_eq!(ask(&d, command, &[0; 16], k), Err(Status::ENOENT));
            assert_eq!(ask(&d, command, b"nosuch\0\0\0\0\0\0\0\0\0\0", k), Err(Status::ENOENT));
        }
        for command in [Command::QueryFetchOne, Command::QueryFetchAll, Command::QueryUpdate] {
            for (len, expected) in [(21, Some(Status::EINVAL)), (22, None), (127, None), (128, Some(Status::EINVAL))] {
                assert_eq!(ask(&d, command, &named(&vec![b'x'; len]), k).err(), expected, "{command} {len}");
            }
            assert_eq!(ask(&d, command, b"short", k), Err(Status::EINVAL));
        }
        assert_eq!(ask(&d, Command::ActiveTest, b"", k), Err(Status::EINVAL));
    }
}
