//! The FastDFS storage: keeps files on disk and serves them.
