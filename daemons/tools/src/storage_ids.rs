//! The table of storage ids, where the client configuration asks for one.

use std::net::IpAddr;
use std::path::Path;

use fdfs_client::{Client, ConfigError};
use fdfs_protocol::config::Ini;
use fdfs_protocol::datafile::StorageIdLine;

use crate::Failure;

const WHAT: &str = "load storage ids fail";

/// The address of the storage with this id, if the configuration at `config` says where to find the table (in
/// `storage_ids_filename`, or at the tracker) and the table has it.
pub async fn address_of(id: u32, config: &Path, client: &Client) -> Result<Option<IpAddr>, Failure> {
    let wrong = |error: ConfigError| Failure::new(WHAT, libc::EINVAL, error);
    let ini = Ini::load(config).map_err(wrong)?;
    let keys = ini.global();
    let text = if keys.bool("load_fdfs_parameters_from_tracker", false).map_err(wrong)? {
        client.trackers().storage_ids().await.map_err(|error| Failure::of(WHAT, &error))?
    } else if keys.bool("use_storage_id", false).map_err(wrong)? {
        let hint = "name the file with the ids, or set use_storage_id = false";
        let name = keys.required("storage_ids_filename", hint).map_err(wrong)?;
        // A relative name is relative to the configuration.
        let file = config.parent().unwrap_or(Path::new("")).join(name);
        std::fs::read_to_string(&file).map_err(|error| Failure::local(WHAT, &file, &error))?
    } else {
        return Ok(None);
    };
    let table = StorageIdLine::parse_all(&text).map_err(|error| Failure::new(WHAT, libc::EINVAL, error))?;
    let Some(line) = table.iter().find(|line| line.number() == id) else { return Ok(None) };
    match line.host.parse() {
        Ok(ip) => Ok(Some(ip)),
        Err(_) => {
            let found = tokio::net::lookup_host((line.host.as_str(), 0)).await;
            let mut found =
                found.map_err(|error| Failure::new(WHAT, libc::EHOSTUNREACH, format!("{}: {error}", line.host)))?;
            Ok(found.next().map(|addr| addr.ip()))
        }
    }
}
