//! The FastDFS protocol: frames, typed commands, file IDs, on-disk records and config files. Pure.
