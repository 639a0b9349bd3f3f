//! Whether this replica may take traffic, and why not.
