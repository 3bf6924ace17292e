//! The FastDFS tracker: knows groups and storages, and answers where to upload and download.
