//! The configuration file, the environment over it, and every fault in them.
