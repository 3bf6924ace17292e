//! The namespace of a mounted tree, its contents and their fingerprints, in SQLite.
