//! Finding the storages to load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdfs_protocol::header::frame;
use fdfs_protocol::tracker::StoreOne;
use fdfs_protocol::{Command, HEADER_LEN, Header};

use crate::args::ClusterArgs;

/// Longest answer that is read here.
const MAX_ANSWER: u64 = 1 << 10;
/// How long a tracker may take to accept and to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a connection uploads to.
#[derive(Debug, Clone, Copy)]
pub struct Home {
    /// The storage.
    pub address: SocketAddr,
    /// Its store path; without one the storage chooses.
    pub store_path: Option<u8>,
}

/// The first address of `HOST:PORT`.
pub fn resolve(text: &str) -> Result<SocketAddr> {
    let first = text.to_socket_addrs().with_context(|| format!("{text:?} is not HOST:PORT of a known host"))?.next();
    first.with_context(|| format!("{text:?} has no address"))
}

/// One home for each connection: the storage of the command line, or what the tracker answers.
pub fn homes(args: &ClusterArgs) -> Result<Vec<Home>> {
    let count = args.connections as usize;
    match (&args.storage, &args.tracker) {
        (Some(storage), _) => {
            let address = resolve(storage)?;
            Ok(vec![Home { address, store_path: None }; count])
        }
        (None, Some(tracker)) => {
            let address = resolve(tracker)?;
            let ask = || -> Result<Vec<Home>> {
                let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
                socket.set_read_timeout(Some(TIMEOUT))?;
                (0..count).map(|_| query_store(&mut socket)).collect()
            };
            ask().with_context(|| format!("asking tracker {address} for a storage"))
        }
        (None, None) => bail!("--tracker or --storage is needed"),
    }
}

/// One QUERY_STORE_WITHOUT_GROUP_ONE.
fn query_store(socket: &mut TcpStream) -> Result<Home> {
    let mut request = Vec::new();
    frame(Command::QueryStoreWithoutGroupOne, &(), &mut request);
    socket.write_all(&request)?;
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header)?;
    let header = Header::decode(&header)?;
    ensure!(header.outcome().is_ok(), "no storage to upload to: {}", header.outcome());
    ensure!(header.body_len <= MAX_ANSWER, "an answer of {} bytes", header.body_len);
    let mut body = vec![0; header.body_len as usize];
    socket.read_exact(&mut body)?;
    let answer = StoreOne::decode(&body)?;
    let address = answer.server.socket_addr().context("an answer without an address")?;
    Ok(Home { address, store_path: Some(answer.store_path) })
}
