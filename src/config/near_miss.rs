//! Warns about misspelled environment variables that have no effect.
//!
//! A variable that begins with `OTT_GATEWAY__` sets a key or is refused. Any other spelling would be
//! silently ignored: a single underscore, lower case, a hyphen, a typo. Variables that Kubernetes
//! sets for a service with the gateway's name are excluded.

use std::sync::Arc;

use super::{
    environment::{Environment, PREFIX, SEPARATOR, SHORT_PREFIX},
    example,
    finding::{Findings, Place},
    variables::KNOWN_VARIABLES,
};

/// Name of the program as a prefix of variables, without separators.
const PROGRAM: &str = "OTTGATEWAY";
/// Abbreviations of [`PROGRAM`]. Only a name that matches a key is taken for one.
const ABBREVIATIONS: [&str; 2] = ["OTTGW", "OTT"];
/// Maximum edit distance between a misspelled name and the intended one.
const MAX_SLIPS: usize = 2;

/// Adds a warning about each variable that was probably intended for the gateway.
pub(super) fn check(environment: &dyn Environment, findings: &Findings) {
    let mut names = environment.names();
    names.sort();
    for name in names {
        if name.starts_with(PREFIX) || is_known(&name) || is_service_link(&name) {
            continue;
        }
        // Already refused, with the correct name.
        if name.strip_prefix(SHORT_PREFIX).is_some_and(|rest| rest.contains(SEPARATOR)) {
            continue;
        }
        let rule = match (intended(&name), has_name_of_program(&name)) {
            (Some(intended), _) => format!("has no effect; did you mean {intended}?"),
            (None, true) => format!(
                "has no effect: a variable that sets a key is named {PREFIX}TABLE{SEPARATOR}KEY, in capitals, \
                 with two underscores between the parts"
            ),
            (None, false) => continue,
        };
        findings.warning(Place::Variable(Arc::from(name)), "", rule);
    }
}

fn is_known(name: &str) -> bool {
    KNOWN_VARIABLES.iter().any(|(known, _)| *known == name)
}

/// Returns whether Kubernetes sets the variable for a service (`NAME_SERVICE_HOST`, `NAME_PORT` and
/// Docker-style links).
fn is_service_link(name: &str) -> bool {
    if !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
        return false;
    }
    let is_port = |text: &str| {
        let mut parts = text.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|part| matches!(part, "TCP" | "UDP" | "SCTP"));
        let last = parts.next().is_none_or(|part| matches!(part, "PROTO" | "PORT" | "ADDR"));
        number && protocol && last && parts.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.rsplit_once("_PORT_").is_some_and(|(_, port)| is_port(port))
        || name.find("_PORT_").is_some_and(|at| is_port(&name[at + "_PORT_".len()..]))
}

/// Splits a name at all characters that are not letters or digits.
fn parts(name: &str) -> Vec<String> {
    let parts = name.split(|character: char| !character.is_ascii_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_ascii_uppercase).collect()
}

fn has_name_of_program(name: &str) -> bool {
    let parts = parts(name);
    // Another program may keep the gateway's address in a variable with just this name.
    (1..=2).any(|count| count < parts.len() && parts[..count].concat() == PROGRAM)
}

/// Returns the variable that a misspelled name probably refers to, if one is similar enough.
pub(super) fn intended(name: &str) -> Option<String> {
    let parts = parts(name);
    let mut best: Option<(usize, String)> = None;
    for count in 1..=parts.len().min(2) {
        let (program, rest) = parts.split_at(count);
        let program = program.concat();
        let is_abbreviated = ABBREVIATIONS.contains(&program.as_str());
        let slips = if is_abbreviated { 1 } else { distance(&program, PROGRAM) };
        if slips > MAX_SLIPS || rest.is_empty() {
            continue;
        }
        for (found, variable) in candidates(rest) {
            let all = slips.saturating_add(found);
            if all <= MAX_SLIPS && best.as_ref().is_none_or(|(least, _)| all < *least) {
                best = Some((all, variable));
            }
        }
    }
    best.map(|(_, variable)| variable).filter(|variable| variable != name)
}

/// Returns the variables that the parts after the program's name may refer to, with their edit
/// distances.
fn candidates(parts: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (known, _) in KNOWN_VARIABLES {
        if let Some(rest) = known.strip_prefix(SHORT_PREFIX) {
            found.push((distance(&parts.concat(), &squeezed(rest)), (*known).to_owned()));
            // Such as OTT_GATEWAY_CONFIG_FILE.
            if let [name, suffix] = parts
                && name == rest
                && ["FILE", "PATH", "URL", "ADDRESS"].contains(&suffix.as_str())
            {
                found.push((1, (*known).to_owned()));
            }
        }
    }
    let keys = example::keys();
    for path in &keys {
        let Some(at) = path.iter().position(Option::is_none) else {
            let key: String = path.iter().flatten().map(|segment| squeezed(segment)).collect();
            found.push((distance(&parts.concat(), &key), variable(path, "")));
            continue;
        };
        let squeeze = |segments: &[Option<&str>]| -> String {
            segments.iter().flatten().map(|segment| squeezed(segment)).collect()
        };
        let (before, after) = (squeeze(&path[..at]), squeeze(&path[at + 1..]));
        for start in 1..parts.len() {
            for end in start + 1..=parts.len() {
                // The name extends to the end only if no key follows it.
                if after.is_empty() != (end == parts.len()) {
                    continue;
                }
                let slips = distance(&parts[..start].concat(), &before)
                    .saturating_add(distance(&parts[end..].concat(), &after));
                found.push((slips, variable(path, &parts[start..end].join("_"))));
            }
        }
    }
    // A key without its table: the first table that has it.
    for path in keys.iter().filter(|path| !path.contains(&None)) {
        if path.last().copied().flatten().is_some_and(|key| squeezed(key) == parts.concat()) {
            found.push((1, variable(path, "")));
        }
    }
    found
}

fn variable(path: &[Option<&str>], name: &str) -> String {
    let segments: Vec<String> =
        path.iter().map(|segment| segment.unwrap_or(name).to_ascii_uppercase()).collect();
    format!("{PREFIX}{}", segments.join(SEPARATOR))
}

fn squeezed(text: &str) -> String {
    text.replace('_', "").to_ascii_uppercase()
}

fn distance(one: &str, other: &str) -> usize {
    // A short name is similar to many others.
    if other.len() <= 4 && one != other { usize::MAX } else { strsim::damerau_levenshtein(one, other) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{prop_assert, prop_assert_eq, proptest, sample::select};

    use super::*;

    fn warned(name: &str) -> Option<String> {
        let environment = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let findings = Findings::default();
        check(&environment, &findings);
        let ((), warnings) = findings.conclude(Some(())).expect("no errors");
        warnings.first().map(ToString::to_string)
    }

    #[test]
    fn misspelled_variables_cause_a_warning_with_the_correct_name() {
        const LISTEN: &str = "OTT_GATEWAY__SERVER__LISTEN";
        const ID: &str = "OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_ID";
        for (name, intended) in [
            ("OTT_GATEWAY_SERVER_LISTEN", LISTEN),
            ("OTTGATEWAY__SERVER__LISTEN", LISTEN),
            ("OTTGATEWAY_SERVER_LISTEN", LISTEN),
            ("OTT__GATEWAY__SERVER__LISTEN", LISTEN),
            ("OTT-GATEWAY__SERVER__LISTEN", LISTEN),
            ("OTT-GATEWAY-SERVER-LISTEN", LISTEN),
            ("OTT_GATEWAY.SERVER.LISTEN", LISTEN),
            ("ott_gateway__server__listen", LISTEN),
            ("ott_gateway_server_listen", LISTEN),
            ("Ott_Gateway__Server__Listen", LISTEN),
            ("OTT_GATWAY__SERVER__LISTEN", LISTEN),
            ("OTT_GATEWAYS__SERVER__LISTEN", LISTEN),
            ("OTT_GATEWAY_SERVR_LISTEN", LISTEN),
            ("OTT_GATEWAY_SERVER_LISEN", LISTEN),
            ("OTT_GATEWAY_LISTEN", LISTEN),
            ("OTT_GATEWAY_LOG_LEVEL", "OTT_GATEWAY__TELEMETRY__LOG_LEVEL"),
            ("OTT_GATEWAY_TELEMETRY_LOG_LEVEL", "OTT_GATEWAY__TELEMETRY__LOG_LEVEL"),
            ("OTT_GATEWAY_SERVER_TLS_PRIVATE_KEY_FILE", "OTT_GATEWAY__SERVER__TLS__PRIVATE_KEY_FILE"),
            ("OTT_GATEWAY_API_CLIENTS_EU2_CLIENT_ID", ID),
            ("ott_gateway__api_clients__eu2__client_id", ID),
            ("OTT_GATEWAY_API_CLIENT_EU2_CLIENT_ID", ID),
            ("OTT_GATEWAY_CALLERS_TOKENS_BILLING", "OTT_GATEWAY__CALLERS__TOKENS__BILLING"),
            ("OTT_GATEWAY_CONFG", "OTT_GATEWAY_CONFIG"),
            ("ott_gateway_config", "OTT_GATEWAY_CONFIG"),
            ("OTT_GATEWAY_CONFIG_FILE", "OTT_GATEWAY_CONFIG"),
            ("OTT_GATEWAY_CONFIG_PATH", "OTT_GATEWAY_CONFIG"),
            ("OTT_GATEWAY_ENDPOINT_URL", "OTT_GATEWAY_ENDPOINT"),
            ("OTTGW__SERVER__LISTEN", LISTEN),
            ("OTT_GW__SERVER__LISTEN", LISTEN),
            ("OTTGW_SERVER_LISTEN", LISTEN),
            ("OTT__SERVER__LISTEN", LISTEN),
        ] {
            let expected = format!("{name}: has no effect; did you mean {intended}?");
            assert_eq!(warned(name).as_deref(), Some(expected.as_str()));
        }
        for name in ["OTT_GATEWAY_COLOUR", "ott-gateway-colour", "OTTGATEWAY__X"] {
            let warning = warned(name).expect(name);
            assert!(warning.contains("has no effect: a variable that sets a key is"), "{warning}");
        }
    }

    #[test]
    fn unrelated_variables_cause_no_warning() {
        for name in [
            "PATH",
            "OTT_GATEWAY",
            "OTT_GATEWAY_CONFIG",
            "OTT_GATEWAY_ENDPOINT",
            "OTT_GATEWAY_PORT",
            "OTT_PORT",
            "OTT_GW_HOST",
            "OTT_GATEWAY_SERVICE_HOST",
            "OTT_GATEWAY_SERVICE_PORT",
            "OTT_GATEWAY_SERVICE_PORT_GRPC",
            "OTT_GATEWAY_PORT_50051_TCP",
            "OTT_GATEWAY_PORT_50051_TCP_PROTO",
            "OTT_GATEWAY_PORT_50051_TCP_ADDR",
            "OTT_GATEWAY_ADMIN_SERVICE_HOST",
            "OTT_GATEWAY_ADMIN_PORT_9464_TCP_PORT",
            "API_GATEWAY__SERVER__LISTEN",
            "HTTP_GATEWAY",
            "OTEL_SERVICE_NAME",
            "SERVER__LISTEN",
        ] {
            assert_eq!(warned(name), None);
        }
    }

    #[test]
    fn correct_names_cause_no_suggestion() {
        for path in example::keys() {
            assert_eq!(intended(&variable(&path, "EU2")), None, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_found_with_any_separator(
            path in select(example::keys()),
            separator in "[-_.]{1,3}",
            is_lower in proptest::bool::ANY,
        ) {
            let right = variable(&path, "EU2");
            let name = right.replace("__", "_").replace('_', &separator);
            let name = if is_lower { name.to_lowercase() } else { name };
            if name != right {
                prop_assert_eq!(intended(&name), Some(right));
            }
        }

        #[test]
        fn any_name_is_checked(name in "\\PC{0,60}|(OTT_GATEWAY_{0,3})?[A-Z_]{0,40}") {
            prop_assert!(intended(&name).is_none_or(|intended| intended != name));
            let _ = warned(&name);
        }
    }
}
