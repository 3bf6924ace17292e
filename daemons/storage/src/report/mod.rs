//! What the storage tells its trackers, and learns from them. Runs on one thread of its own, never on the data path.
//!
//! | module | what it does |
//! |---|---|
//! | [`identity`] | before the first join: who am I, what are the cluster's settings |
//! | [`members`] | the storages of the group, merged from what trackers say; pure |
//! | [`inquiry`] | what push loops ask of trackers and tell them |
//! | [`seat`] | what each tracker thinks of this storage, and why none uses it; pure |
//! | [`session`] | join, beats, disk reports: for ever, to each tracker |

pub mod identity;
pub mod inquiry;
pub mod members;
mod seat;
pub mod session;
