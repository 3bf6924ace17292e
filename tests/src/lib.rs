//! Cluster and mount harness; end-to-end, fault, conformance and benchmark programs.
