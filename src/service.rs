//! The two RPCs.
