//! A faithful copy of the platform's endpoints, for trying and testing.
