//! Async FastDFS client: connection pools, tracker and storage operations, fail-over.
