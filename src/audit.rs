//! One line for every call: who got which token, and how it ended.
