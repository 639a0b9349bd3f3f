//! The two RPCs, as typed handlers.

mod convert;
