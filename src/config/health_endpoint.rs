//! The address of a gateway's health service for a probe on the same machine, from the
//! configuration.
//!
//! Only `[server]` is read, without the files that it names: a probe must not fail because of an
//! unrelated section, or while a secret is being replaced.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use super::{
    environment::{self, Environment},
    file,
    finding::{Errors, Findings, Place},
    section::Section,
    server::{CLIENT_AUTH, ClientAuthMode, Server},
    tree::Table,
    value,
};

/// The listener that a probe connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthEndpoint {
    /// A listener without TLS: `health_listen`, or `listen` without `[server.tls]`.
    Plaintext(SocketAddr),
    /// `listen` with `[server.tls]`, which accepts connections without a client certificate.
    Tls(SocketAddr),
    /// The only listener is `listen`, and it requires a client certificate.
    CertificateRequired,
}

impl HealthEndpoint {
    /// Reads `[server]` of the file, and the environment variables that override it.
    ///
    /// If the file does not exist, the variables and the defaults apply: the health check of an image
    /// must also work for a container without a configuration file, such as a sandbox.
    ///
    /// An unspecified address is replaced by 127.0.0.1, to connect to. `[::]` includes IPv4, and
    /// some containers have no `::1`.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not valid TOML, or a key used here is invalid.
    pub fn load(file: &Path, environment: &dyn Environment) -> Result<Self, Errors> {
        let findings = Findings::default();
        let tree = if Self::is_without(file) { Some(Table::new()) } else { file::read(file, &findings) };
        let read = tree.map(|mut tree| {
            environment::overlay(&mut tree, &OfServer(environment), &findings);
            Self::read(&tree, file, &findings)
        });
        findings.conclude(read).map(|(endpoint, _)| endpoint)
    }

    /// Whether there is no such file, so that [`load`](Self::load) uses the variables and the defaults.
    #[must_use]
    pub fn is_without(file: &Path) -> bool {
        matches!(file.try_exists(), Ok(false))
    }

    fn read(tree: &Table, file: &Path, findings: &Findings) -> Self {
        let mut section = Section::root(tree, Place::File(Some(file.into())), findings).table("server");
        let listen = section.optional("listen", value::address);
        let health_listen = section.optional("health_listen", value::address);
        let tls = section.optional_table("tls").map(|mut tls| {
            let usual = if tls.has("client_ca_file") { ClientAuthMode::Require } else { ClientAuthMode::Off };
            tls.optional("client_auth", value::one_of(CLIENT_AUTH)).unwrap_or(usual)
        });
        let listen = listen.unwrap_or_else(|| Server::default().grpc.listen);
        match (health_listen, tls) {
            (Some(health_listen), _) => Self::Plaintext(reachable(health_listen)),
            (None, None) => Self::Plaintext(reachable(listen)),
            (None, Some(ClientAuthMode::Require)) => Self::CertificateRequired,
            (None, Some(ClientAuthMode::Optional | ClientAuthMode::Off)) => Self::Tls(reachable(listen)),
        }
    }
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    SocketAddr::new(ip, listen.port())
}

/// The variables that set `[server]`, and no others.
struct OfServer<'a>(&'a dyn Environment);

impl Environment for OfServer<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        self.0.value(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.0.names();
        names.retain(|name| name.to_lowercase().starts_with("ott_gateway__server__"));
        names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<HealthEndpoint, Errors> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let environment: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HealthEndpoint::load(file.path(), &environment)
    }

    fn plaintext(address: &str) -> HealthEndpoint {
        HealthEndpoint::Plaintext(address.parse().unwrap())
    }

    #[test]
    fn health_listen_takes_precedence_over_listen() {
        let tls = "[server.tls]\ncertificate_file = \"missing\"\nprivate_key_file = \"missing\"\n";
        let with_ca = format!("{tls}client_ca_file = \"missing\"\n");
        let cases = [
            ("", plaintext("127.0.0.1:50051")),
            ("[server]\nlisten = \"127.0.0.2:7\"\n", plaintext("127.0.0.2:7")),
            ("[server]\nlisten = \"0.0.0.0:7\"\nplaintext = true\n", plaintext("127.0.0.1:7")),
            ("[server]\nlisten = \"[::]:7\"\nhealth_listen = \"[::]:8\"\n", plaintext("127.0.0.1:8")),
            ("[server]\nhealth_listen = \"[::1]:8\"\n", plaintext("[::1]:8")),
            (tls, HealthEndpoint::Tls("127.0.0.1:50051".parse().unwrap())),
            (&with_ca, HealthEndpoint::CertificateRequired),
            (&format!("[server]\nhealth_listen = \"[::]:8\"\n{with_ca}"), plaintext("127.0.0.1:8")),
            (
                &format!("{with_ca}client_auth = \"optional\"\n"),
                HealthEndpoint::Tls("127.0.0.1:50051".parse().unwrap()),
            ),
            (
                &format!("{with_ca}client_auth = \"off\"\n"),
                HealthEndpoint::Tls("127.0.0.1:50051".parse().unwrap()),
            ),
            (&format!("{tls}client_auth = \"require\"\n"), HealthEndpoint::CertificateRequired),
        ];
        for (text, expected) in cases {
            assert_eq!(load(text, &[]).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn variables_override_the_file_and_other_sections_are_not_read() {
        let text = "[server]\nlisten = \"[::]:7\"\nlisen = 1\n[audit]\nsink = 1\n[access]\nnonsense = true\n";
        let variables = [("OTT_GATEWAY__SERVER__HEALTH_LISTEN", "[::]:9"), ("OTT_GATEWAY__AUDIT____X", "1")];
        assert_eq!(load(text, &variables).unwrap(), plaintext("127.0.0.1:9"));
        assert_eq!(load(text, &[]).unwrap(), plaintext("127.0.0.1:7"));
    }

    #[test]
    fn defaults_and_variables_apply_without_a_file() {
        let missing = Path::new("/nowhere/gateway.toml");
        let variables = BTreeMap::from([("OTT_GATEWAY__SERVER__LISTEN".to_owned(), "[::]:7".to_owned())]);
        assert_eq!(HealthEndpoint::load(missing, &BTreeMap::new()).unwrap(), plaintext("127.0.0.1:50051"));
        assert_eq!(HealthEndpoint::load(missing, &variables).unwrap(), plaintext("127.0.0.1:7"));
        // A file that exists and cannot be read is an error.
        assert!(HealthEndpoint::load(Path::new("/"), &BTreeMap::new()).is_err());
    }

    #[test]
    fn invalid_values_are_reported() {
        for text in
            ["not TOML", "[server]\nhealth_listen = \"localhost\"\n", "[server.tls]\nclient_auth = 1\n"]
        {
            assert!(load(text, &[]).is_err(), "{text}");
        }
    }
}
