//! The two RPCs, as typed handlers.
