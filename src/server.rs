//! The gRPC server: connections in, calls through the middleware, drain.
