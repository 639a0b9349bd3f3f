//! The `--timeout` argument of the commands that call a gateway.

use std::time::Duration;

/// Parses a duration with its unit, from 1 ms to 10 min.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(1)..=Duration::from_mins(10);
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| bounds.contains(duration))
        .ok_or_else(|| "must be a duration with its unit, such as 10s or 500ms, from 1ms to 10min".to_owned())
}
