//! The FastDFS command-line tools, under the names their users know.
