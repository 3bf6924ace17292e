//! Which addresses are this tracker's own.
//!
//! Nobody tells a tracker who it is: it learns that from the connections of storages, and finds itself in their lists by
//! it. An address at which a connection ended is its own as long as the machine has it: addresses move, and the one that
//! another tracker gets back is that tracker's again. Where addresses are translated on the way only the storage knows
//! what it dialled; that is believed until a list tells better.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address::Addresses;

/// Under which address a storage reached this tracker.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// The address its connection ends at.
    pub local: IpAddr,
    /// The address it says it dialled: another one if addresses are translated on the way.
    pub dialled: Option<IpAddr>,
}

/// The addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Where connections ended, and whether the machine has the address now.
    ends: BTreeMap<IpAddr, bool>,
    /// What storages dialled.
    dialled: BTreeSet<IpAddr>,
}

impl Own {
    /// How many there are, those that the machine does not have now included.
    pub fn count(&self) -> usize {
        self.ends.len() + self.dialled.len()
    }

    /// Whether one of these is this tracker's.
    pub fn is(&self, addresses: &Addresses) -> bool {
        self.is_here(addresses) || addresses.iter().any(|ip| self.dialled.contains(&ip))
    }

    fn is_here(&self, addresses: &Addresses) -> bool {
        addresses.iter().any(|ip| self.ends.get(&ip) == Some(&true))
    }

    /// Where connections ended.
    pub fn ends(&self) -> impl Iterator<Item = IpAddr> {
        self.ends.keys().copied()
    }

    /// Notes whether the machine has an address at which a connection ended.
    pub fn note(&mut self, ip: IpAddr, here: bool) {
        if let Some(known) = self.ends.get_mut(&ip) {
            *known = here;
        }
    }

    /// What a list with these entries of this tracker's port teaches. What the storage says it dialled is believed only
    /// where nothing else tells which entry is this tracker, and never of another tracker's: a tracker that counts as
    /// this one is not heard before this one acts. It is believed no longer when the list tells the two apart.
    pub fn taught(&self, listed: &[Addresses], reached: Reached, is_other: impl Fn(IpAddr) -> bool) -> Own {
        let mut own = self.clone();
        let lists = |ip| listed.iter().any(|addresses| addresses.contains(ip));
        if lists(reached.local) {
            own.ends.insert(reached.local, true);
            own.dialled.remove(&reached.local);
        }
        let (here, elsewhere): (Vec<&Addresses>, Vec<_>) = listed.iter().partition(|addresses| own.is_here(addresses));
        if !here.is_empty() {
            own.dialled.retain(|ip| !elsewhere.iter().any(|addresses| addresses.contains(*ip)));
        } else if !listed.iter().any(|addresses| own.is(addresses)) {
            own.dialled.extend(reached.dialled.filter(|ip| lists(*ip) && !is_other(*ip)));
        }
        own
    }
}
