//! Loading of the recorded vectors.

use std::path::PathBuf;

use fdfs_protocol::{HEADER_LEN, Header, IpSize};
use serde_json::Value;

/// The folder with the recorded data.
pub fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// Which kind of server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    Tracker,
    Storage,
}

/// A recorded message.
pub struct Message {
    pub header: Header,
    pub body: Vec<u8>,
}

impl Message {
    fn from_hex(text: &str) -> Option<Message> {
        let bytes = hex(text);
        let (header, body) = bytes.split_at_checked(HEADER_LEN)?;
        let raw: [u8; HEADER_LEN] = header.try_into().unwrap();
        let header = Header::decode(&raw).unwrap();
        assert_eq!(header.encode(), raw);
        Some(Message { header, body: body.to_vec() })
    }
}

/// One recorded exchange.
pub struct Case {
    /// `file/cluster/name`.
    pub id: String,
    pub server: Answered,
    pub ip_size: IpSize,
    pub request: Message,
    /// Absent for QUIT.
    pub response: Option<Message>,
    /// The recording keeps only the beginning of the request.
    pub request_cut: bool,
}

/// All exchanges of a folder.
pub fn cases(folder: &str) -> Vec<Case> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(golden().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "json"));
    files.sort();
    files.iter().flat_map(|path| load(path)).collect()
}

fn load(path: &std::path::Path) -> Vec<Case> {
    let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let command = value["command"].as_str().unwrap();
    let storage = file.starts_with("storage_") && !command.contains("by tracker") || command.contains("by storage");
    let server = if storage { Answered::Storage } else { Answered::Tracker };
    let load = |case: &Value| {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let cluster = text("cluster");
        let wide = matches!(cluster, "v6size" | "ipv6");
        Case {
            id: format!("{file}/{cluster}/{}", text("name")),
            server,
            ip_size: if wide { IpSize::V6 } else { IpSize::V4 },
            request: Message::from_hex(text("request_hex")).unwrap(),
            response: Message::from_hex(text("response_hex")),
            request_cut: case.get("request_cut_from").is_some(),
        }
    };
    value["cases"].as_array().unwrap().iter().map(load).collect()
}

pub fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}
