//! Before the first join: which address and id the cluster knows this storage by, and the cluster's settings.
//!
//! The order is FastDFS's: GET_MY_IP to every tracker, then PARAMETER_REQ, FETCH_STORAGE_IDS and GET_SERVER_ID to the
//! first that answers, then the check for a changed address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use fdfs_protocol::config::ReservedSpace;
use fdfs_protocol::datafile::StorageIdLine;
use fdfs_protocol::file_id::Source;
use fdfs_protocol::peer::parameters::IdType;
use fdfs_protocol::peer::{GroupMember, IpChanged, Parameters};
use fdfs_protocol::tracker::{FetchStorageIds, GroupNameQuery, MyIpAddresses, MyIpQuery, ServerQuery, StorageIdsPage};
use fdfs_protocol::{Command, GroupName, IpSize, IpText, Status, StorageId};
use fdfs_server::{Dial, Link, LinkError};
use tracing::{info, warn};

use crate::config::StorageConfig;
use crate::disk::store::PathChoice;
use crate::serve::Membership;

/// Pages of the storage ids table that are asked for at most.
const MAX_PAGES: usize = 32;

/// Why it is not known yet who we are.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// A tracker could not be asked.
    #[error("tracker {0}: {1}")]
    Link(SocketAddr, LinkError),
    /// A tracker's answer cannot be used.
    #[error("tracker {0}: {1}")]
    Unusable(SocketAddr, String),
}

/// Who this storage is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Own addresses, the first of which trackers see.
    pub ips: Vec<IpAddr>,
    /// The id in the group.
    pub id: StorageId,
    /// The id to send when joining: empty when storage ids are not in use.
    pub join_id: StorageId,
    /// The cluster's settings.
    pub parameters: Parameters,
    /// Addresses by id, when storage ids are in use.
    pub ids: HashMap<u32, IpText>,
    /// There is no tracker.
    pub alone: bool,
}

impl Identity {
    /// Who a storage without trackers is: what it listens on.
    pub fn alone(ip: IpAddr) -> Identity {
        let reserved_storage_space = ReservedSpace::Megabytes(0);
        let parameters = Parameters { reserved_storage_space, ..Parameters::default() };
        Identity {
            ips: vec![ip],
            id: StorageId::from_ip(ip).unwrap_or_default(),
            join_id: StorageId::NONE,
            parameters,
            ids: HashMap::new(),
            alone: true,
        }
    }

    /// What the serving side, which listens on `port`, needs to know.
    pub fn membership(&self, port: u16) -> Membership {
        let p = &self.parameters;
        Membership {
            source: self.source(),
            reserved: p.reserved_storage_space,
            choice: if p.store_path == 2 { PathChoice::MostFree } else { PathChoice::RoundRobin },
            id: self.id,
            alone: self.alone,
            port,
            ip_size: p.response_ip_addr_size,
            ids: self.ids.clone(),
        }
    }

    fn source(&self) -> Source {
        let p = &self.parameters;
        let number = self.id.as_str().parse().ok().and_then(Source::id);
        match (p.use_storage_id && p.id_type_in_filename == IdType::Id, number, self.ips.first()) {
            (true, Some(id), _) => id,
            (_, _, Some(IpAddr::V4(ip))) => Source::Ip(*ip),
            // FastDFS takes four bytes from the middle; such a cluster should use ids in names.
            (_, _, Some(IpAddr::V6(ip))) => {
                let o = ip.octets();
                Source::Ip([o[8], o[9], o[10], o[11]].into())
            }
            (_, _, None) => Source::Ip(std::net::Ipv4Addr::LOCALHOST),
        }
    }

    /// The addresses as `.data_init_flag` keeps them.
    pub fn ip_text(&self) -> String {
        self.ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The group this storage belongs to, where the configuration does not say: the trackers know it from the table of ids.
///
/// # Errors
/// What the last tracker answered.
pub async fn ask_group(config: &StorageConfig, dial: Dial) -> Result<GroupName, Unknown> {
    let mut last = None;
    for tracker in &config.trackers {
        let at = SocketAddr::new(tracker.ip, tracker.port);
        let asked = async {
            let mut link = Link::connect(tracker.addrs(), dial).await?;
            let query = GroupNameQuery { ip: None, port: config.port };
            link.ask_for(Command::GetGroupName, &query, GroupName::decode).await
        };
        match asked.await {
            Ok(group) => return Ok(group),
            Err(e) => last = Some(Unknown::Link(at, e)),
        }
    }
    Err(last.unwrap_or_else(|| Unknown::Unusable(SocketAddr::from(([0, 0, 0, 0], 0)), "none is configured".into())))
}

/// Asks the trackers who we are.
///
/// # Errors
/// What the last tracker answered, when none gave all that is needed.
pub async fn ask(config: &StorageConfig, dial: Dial, group: GroupName, port: u16) -> Result<Identity, Unknown> {
    let mut ips: Vec<IpAddr> = Vec::new();
    let mut reached = Vec::new();
    let mut last = None;
    for tracker in &config.trackers {
        let at = SocketAddr::new(tracker.ip, tracker.port);
        match my_ip(tracker, dial, group, port).await {
            Ok(found) => {
                ips.extend(found);
                reached.push((at, tracker));
            }
            Err(e) => last = Some(Unknown::Link(at, e)),
        }
    }
    ips = unique(ips);
    for (at, tracker) in reached {
        match settings(config, tracker, at, dial, group, port, &ips).await {
            Ok(identity) => return Ok(identity),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| Unknown::Unusable(SocketAddr::from(([0, 0, 0, 0], 0)), "none is configured".into())))
}

/// At most two addresses, as FastDFS allows a storage.
fn unique(ips: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = Vec::new();
    for ip in ips {
        if !seen.contains(&ip) {
            seen.push(ip);
        }
    }
    if seen.len() > 2 {
        warn!(
            "the trackers see this storage under more than two addresses: {seen:?}; using the first two (set bind_addr)"
        );
        seen.truncate(2);
    }
    seen
}

async fn my_ip(
    tracker: &fdfs_protocol::peer::join::TrackerAddress,
    dial: Dial,
    group: GroupName,
    port: u16,
) -> Result<Vec<IpAddr>, LinkError> {
    let mut link = Link::connect(tracker.addrs(), dial).await?;
    let MyIpAddresses(ips) = link.ask_for(Command::GetMyIp, &MyIpQuery { group, port }, MyIpAddresses::decode).await?;
    link.quit().await;
    Ok(ips)
}

async fn settings(
    config: &StorageConfig,
    tracker: &fdfs_protocol::peer::join::TrackerAddress,
    at: SocketAddr,
    dial: Dial,
    group: GroupName,
    port: u16,
    ips: &[IpAddr],
) -> Result<Identity, Unknown> {
    let failed = |e: LinkError| Unknown::Link(at, e);
    let unusable = |text: String| Unknown::Unusable(at, text);
    let first = *ips.first().ok_or_else(|| unusable("tells no address for this storage".into()))?;
    let mut link = Link::connect(tracker.addrs(), dial).await.map_err(failed)?;
    let text = link.ask(Command::StorageParameterReq, &()).await.map_err(failed)?;
    let parameters = Parameters::decode(&text).map_err(|e| unusable(e.to_string()))?;
    report_unsupported(&parameters);
    if !parameters.use_storage_id {
        let id = StorageId::from_ip(first)
            .map_err(|e| unusable(format!("{first} cannot be the id of a storage: {e}; use storage ids")))?;
        link.quit().await;
        let (join_id, ids) = (StorageId::NONE, HashMap::new());
        return Ok(Identity { ips: ips.to_vec(), id, join_id, parameters, ids, alone: false });
    }
    let lines = storage_ids(&mut link, at).await?;
    let id = match config.server_id {
        Some(id) if lines.iter().any(|l| l.id == id) => id,
        Some(id) => return Err(unusable(format!("server_id = {id} is not in the table of storage ids"))),
        None => match own_line(&lines, group, ips, port) {
            Some(line) if parameters.trust_storage_server_id => line.id,
            _ => {
                let query = ServerQuery { group, addr: SocketAddr::new(first, port) };
                link.ask_for(Command::GetServerId, &query, StorageId::decode).await.map_err(failed)?
            }
        },
    };
    link.quit().await;
    let ids = lines.iter().filter_map(|l| Some((l.number(), IpText::new(&l.host).ok()?))).collect();
    Ok(Identity { ips: ips.to_vec(), id, join_id: id, parameters, ids, alone: false })
}

fn own_line<'a>(lines: &'a [StorageIdLine], group: GroupName, ips: &[IpAddr], port: u16) -> Option<&'a StorageIdLine> {
    let mine = |host: &str| ips.iter().any(|ip| ip.to_string() == host);
    lines.iter().find(|l| {
        let here = mine(&l.host) || l.other_host.as_deref().is_some_and(mine);
        l.group == group && here && l.port.is_none_or(|p| p == port)
    })
}

async fn storage_ids(link: &mut Link, at: SocketAddr) -> Result<Vec<StorageIdLine>, Unknown> {
    let mut lines: Vec<StorageIdLine> = Vec::new();
    for _ in 0..MAX_PAGES {
        let query = FetchStorageIds { start: lines.len() as u32, allow_empty: false };
        let body = link.ask(Command::FetchStorageIds, &query).await.map_err(|e| Unknown::Link(at, e))?;
        let malformed =
            |e: &dyn std::fmt::Display| Unknown::Unusable(at, format!("sends a malformed table of storage ids: {e}"));
        let page = StorageIdsPage::decode(&body).map_err(|e| malformed(&e))?;
        let (total, count) = (page.total as usize, page.count as usize);
        lines.extend(StorageIdLine::parse_all(page.text).map_err(|e| malformed(&e))?);
        if count == 0 || lines.len() >= total {
            return Ok(lines);
        }
    }
    Ok(lines)
}

fn report_unsupported(p: &Parameters) {
    if p.trunk.use_trunk_file {
        warn!(
            "the tracker says use_trunk_file = true: trunk files are not supported by this version; every file is stored as one of its own"
        );
    }
    if p.store_slave_file_use_link {
        warn!(
            "the tracker says store_slave_file_use_link = true: not supported by this version; slave files are stored as files"
        );
    }
    if p.response_ip_addr_size == IpSize::V6 {
        info!("addresses in answers are 46 bytes wide, as the tracker says");
    }
}

/// Tells the trackers that this storage has another address than at its last start, where the cluster's settings ask
/// for it. That it was told before, or that nobody knows the old address, is as good.
pub async fn report_changed_ip(config: &StorageConfig, dial: Dial, group: GroupName, identity: &Identity, last: &str) {
    let old = last.split(',').next().and_then(|t| IpText::new(t).ok()).filter(|ip| !ip.is_none());
    let (Some(old), Some(new)) = (old, identity.ips.first()) else { return };
    let changed = old.addr() != Some(*new);
    let p = &identity.parameters;
    if !changed || p.use_storage_id || !p.storage_ip_changed_auto_adjust {
        return;
    }
    info!("the address of this storage has changed from {old} to {new}; telling the trackers");
    let change = IpChanged { group, old, new: IpText::from(*new) };
    for tracker in &config.trackers {
        let told = async {
            let mut link = Link::connect(tracker.addrs(), dial).await?;
            // What happened since the last start is read first, as FastDFS does.
            let me = GroupMember { group, id: StorageId::from_ip(*new).unwrap_or_default() };
            let _ = link.ask(Command::StorageChangelogReq, &me).await;
            link.ask(Command::StorageReportIpChanged, &change).await
        };
        let known = [Status::EALREADY, Status::ENOENT, Status::EEXIST, Status::EBUSY];
        match told.await {
            Ok(_) => {}
            Err(e) if e.status().is_some_and(|s| known.contains(&s)) => {}
            Err(e) => warn!("tracker {tracker}: cannot tell it the new address: {e}"),
        }
    }
}
