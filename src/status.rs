//! Every failure, as exactly one gRPC status.
