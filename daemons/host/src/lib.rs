//! What the daemons and the client take from the machine they run on: TCP connections, threads with their runtimes, a
//! pool for work that blocks.
//!
//! It exists twice, with one interface. The ordinary one is the operating system, at no cost: the stream *is* tokio's.
//! With the feature `simulation` it is a simulated network, and whatever would be a thread is a task of the simulated
//! host's runtime, so that a whole cluster runs in one thread and virtual time (see `tests/simulation`). That feature is for
//! the simulation's own build and for no other. Nothing else in daemons and client knows of it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tcp`] | connecting, listening, sending without waiting, waiting for the rest of a message, own addresses |
//! | [`thread`] | threads that run one future; work that may block |
//! | [`planted`] | mistakes that a simulation must find |

#[cfg(not(feature = "simulation"))]
#[path = "system"]
mod machine {
    pub mod tcp;
    pub mod thread;
}

#[cfg(feature = "simulation")]
#[path = "simulated"]
mod machine {
    pub mod tcp;
    pub mod thread;
}

pub mod planted;

pub use machine::{tcp, thread};
pub use tcp::TcpStream;
