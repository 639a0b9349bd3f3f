//! The example of a configuration: every key, with a line about each.
//!
//! `ott-gateway example-config` prints it. It is also the list of keys that misspelled variables
//! of the environment are compared with. A test compares it with the keys that the code reads.

/// A configuration in which the keys that a gateway needs are set, and all others are comments.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The path of a key. A segment is `None` if it is a name that the operator chooses.
pub(super) type Path = Vec<Option<&'static str>>;

/// Returns the keys that a variable can set, in the order of the example.
pub(super) fn keys() -> Vec<Path> {
    let mut keys: Vec<Path> = Vec::new();
    let (mut table, mut is_in_file_only) = (Vec::new(), false);
    for line in EXAMPLE.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)) {
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.trim_end().strip_suffix(']')) {
            let name = header.trim_matches(['[', ']']);
            // One issuer alone is a table, which variables can set.
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
    fn keys_are_those_that_a_variable_can_set() {
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
