//! The example configuration, which describes every key.
//!
//! `ott-gateway example-config` prints it. Misspelled environment variables are compared with its
//! keys. A test compares it with the keys that the code reads.

/// A configuration that sets the required keys; all others are comments.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The path of a key. Segments that the operator chooses are `None`.
pub(super) type Path = Vec<Option<&'static str>>;

/// Returns the keys that a variable can set, in the order of the example.
pub(super) fn keys() -> Vec<Path> {
    let mut keys: Vec<Path> = Vec::new();
    let (mut table, mut is_in_file_only) = (Vec::new(), false);
    for line in EXAMPLE.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.trim_end().strip_suffix(']')) {
            let name = header.trim_matches(['[', ']']);
            // A single issuer is a table, which variables can set.
            is_in_file_only = header.starts_with('[') && name != "callers.jwt";
            table = name.split('.').map(Some).collect();
            if let ["api_clients", _] = name.split('.').collect::<Vec<_>>().as_slice() {
                table = vec![Some("api_clients"), None];
            }
        } else if let Some((key, _)) = line.split_once(" = ")
            && !is_in_file_only
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            let is_name = table == [Some("callers"), Some("tokens")];
            let path: Path = table.iter().copied().chain([(!is_name).then_some(key)]).collect();
            if !keys.contains(&path) {
                keys.push(path);
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_variables_can_set_are_returned() {
        let keys = keys();
        for key in [
            vec![Some("server"), Some("listen")],
            vec![Some("server"), Some("tls"), Some("certificate_file")],
            vec![Some("api_clients"), None, Some("client_secret_env")],
            vec![Some("callers"), Some("tokens"), None],
            vec![Some("callers"), Some("jwt"), Some("jwks_file")],
            vec![Some("access"), Some("quota_dry_run")],
        ] {
            assert!(keys.contains(&key), "{key:?}");
        }
        assert!(!keys.iter().any(|key| key.contains(&Some("rules"))));
        assert!(keys.len() > 50, "{}", keys.len());
    }
}
