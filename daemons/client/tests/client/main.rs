//! The client against servers on 127.0.0.1 that speak the raw protocol.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, its helpers too")]

mod fake;
mod faults;
mod operations;
