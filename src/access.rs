//! Whether this caller may do this: the rules, the quotas, and the proof.
