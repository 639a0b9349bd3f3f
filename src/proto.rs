//! The generated contract and its descriptor set.
