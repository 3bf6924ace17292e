//! The client against servers on 127.0.0.1: fakes that speak the raw protocol and fail on demand, and our own daemons.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, its helpers too")]

mod cluster;
mod failover;
mod fake;
mod faults;
mod operations;
