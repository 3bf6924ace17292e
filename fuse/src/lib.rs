//! fdfs-mount: a FastDFS cluster as an ordinary POSIX directory.
