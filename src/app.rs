//! Builds everything from the configuration; the only file that knows every part.
