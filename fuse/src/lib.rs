//! fdfs-mount: a FastDFS cluster as an ordinary POSIX directory.
//!
//! Three layers, each testable without the one above: [`kernel`] translates FUSE requests, [`tree`] decides what they
//! mean, [`content`] moves the bytes to and from the cluster. [`embedded`] is a cluster in this process for those who have
//! none. The rest makes a program of it: [`cli`] and [`options`] read what is wanted, [`backend`] starts what is below the
//! tree, [`daemon`] goes to the background, [`serve`] runs it from [`mount`] to unmount.

pub mod backend;
pub mod cli;
pub mod content;
pub mod daemon;
pub mod embedded;
pub mod kernel;
pub mod mount;
pub mod mountinfo;
pub mod options;
pub mod serve;
pub mod signals;
pub mod tree;
