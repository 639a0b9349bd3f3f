//! Identifies callers by the transport or by a credential, never by the message.
//!
//! The kinds of proof, in the order in which they are checked, each off unless configured: client
//! certificate, JWT, bearer token, proxy header. `access` decides what the caller may do.
//!
//! A trusted proxy (such as a mesh sidecar) is never the caller itself. A request from it is
//! identified by its JWT, else its bearer token, else the proxy's header; without any of them it is
//! `anonymous`, because a proxy also forwards calls of unidentified clients. Any other peer with a
//! certificate is the caller that the certificate names, regardless of its headers.
//!
//! A proof that is present and checked must be valid; the caller does not fall back to a weaker
//! one. A caller with a credential that the configuration does not check is refused unless another
//! proof identifies it. It never becomes `anonymous`: only callers without any credential do.
//!
//! ```
//! use aws_lc_rs::digest::{SHA256, digest};
//! use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
//! use ott_gateway::caller::{
//!     BearerTokenHash, BearerTokens, CallerPolicy, Identification, Peer, RequestedClaims, TokenHashes,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hash = BearerTokenHash(digest(&SHA256, b"long-random-text").as_ref().try_into()?);
//! let tokens = BearerTokens::try_new(&TokenHashes::from([("ci".into(), vec![hash])]))?;
//! let policy = CallerPolicy { tokens: &tokens, claims: &RequestedClaims::default() };
//! let (identification, peer) = (Identification::none(), Peer::plaintext("192.0.2.7:4711".parse()?));
//!
//! let mut headers = HeaderMap::new();
//! let caller = identification.identify(&headers, &peer, policy).await?;
//! assert_eq!(&**caller.name(), "anonymous");
//!
//! headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer long-random-text"));
//! let caller = identification.identify(&headers, &peer, policy).await?;
//! assert_eq!(&**caller.name(), "token:ci");
//!
//! headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer other-text"));
//! assert!(identification.identify(&headers, &peer, policy).await.is_err());
//! # Ok(())
//! # }
//! ```

use std::{borrow::Cow, net::SocketAddr, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use rustls::pki_types::CertificateDer;

use crate::{
    base::files::PollError,
    domain::call::PeerNetwork,
    http_client::UnpooledClient,
    observe::telemetry::metrics::{CallerMemory, CallerMemoryMetrics, Metrics, SecurityEvent},
};
use forwarded::AssertedCallers;
use jwt::{JwtVerifiers, TokenDigest};

mod bearer;
mod certificate;
mod claims;
mod forwarded;
mod jwks;
mod jwt;
mod key_set;
mod name;
mod recognition;

pub use bearer::{BearerTokenHash, BearerTokens, TokenHashes};
pub use claims::{
    ClaimPath, ClaimRequirement, ClaimValue, Claims, InvalidClaimArgument, InvalidClaimPath,
    MAX_CLAIM_PATH_BYTES, MAX_CLAIM_PATH_DEPTH, MAX_REQUESTED_CLAIMS, RequestedClaims, claim_argument,
};
pub use forwarded::{ForwardedError, ForwardedFrom, ForwardedHeader, ForwardedSettings};
pub use jwks::{JwksFileError, JwksRefresh, JwksSource, JwksUrl, KeyFetchError};
pub use jwt::{JwtError, JwtSettings, names_prefix};
pub use key_set::{JwksError, check_jwks};
pub use name::{
    ANONYMOUS, CALLER_PREFIXES, DNS_PREFIX, JWT_PREFIX, NameError, SPIFFE_PREFIX, TOKEN_PREFIX,
    is_caller_name, is_issuer_name,
};
pub use recognition::Recognition;

/// A caller: its name, the proof of it, and what else the proof claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    proof: Proof,
    claims: Claims,
}

/// What access rules check of a caller.
#[derive(Clone, Copy, Debug)]
pub struct Principal<'a> {
    /// The caller's name.
    pub name: &'a str,
    /// The claims of its JWT; empty if it is proven otherwise.
    pub claims: &'a Claims,
}

/// The proof of a caller's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// No proof.
    None,
    /// A client certificate.
    Certificate,
    /// A JSON web token.
    Jwt {
        /// The name of its issuer in the configuration, if issuers have names.
        issuer: Option<Arc<str>>,
    },
    /// A bearer token.
    Token,
    /// The header of a trusted proxy.
    Forwarded,
}

impl Proof {
    /// Returns the label in records: `none`, `certificate`, `jwt` (or `jwt:` and the issuer's
    /// name), `token` or `forwarded`.
    #[must_use]
    pub fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::None => "none",
            Self::Certificate => "certificate",
            Self::Jwt { issuer: None } => "jwt",
            Self::Jwt { issuer: Some(name) } => return Cow::Owned(format!("jwt:{name}")),
            Self::Token => "token",
            Self::Forwarded => "forwarded",
        })
    }
}

impl Caller {
    /// Returns a caller without claims.
    const fn new(name: Arc<str>, proof: Proof) -> Self {
        Self { name, proof, claims: Claims::none() }
    }

    /// Returns the caller without any proof.
    #[must_use]
    pub fn anonymous() -> Self {
        // One per thread, so that workers do not share a reference count.
        thread_local!(static NAME: Arc<str> = Arc::from(ANONYMOUS));
        let name = NAME.try_with(Arc::clone).unwrap_or_else(|_| Arc::from(ANONYMOUS));
        Self::new(name, Proof::None)
    }

    /// Creates a caller without identification, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn for_test(name: &str, proof: Proof) -> Self {
        Self::new(Arc::from(name), proof)
    }

    /// Creates a caller with a JWT that has these claims, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn with_claims(name: &str, claims: Claims) -> Self {
        Self { claims, ..Self::new(Arc::from(name), Proof::Jwt { issuer: None }) }
    }

    /// Returns the caller's name, whose prefix shows its proof: `spiffe://…`, `dns:NAME`,
    /// `jwt:SUBJECT` (`jwt:ISSUER:SUBJECT` if issuers have names), `token:NAME` or `anonymous`.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the proof of the name.
    #[must_use]
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Returns what access rules check of the caller.
    #[must_use]
    pub fn principal(&self) -> Principal<'_> {
        Principal { name: &self.name, claims: &self.claims }
    }
}

/// The other end of a connection; created once per connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    certificate: Result<Option<Caller>, NameError>,
    recognition: Recognition,
    /// Empty unless the peer is a proxy.
    asserted: AssertedCallers,
}

impl Peer {
    /// Creates the peer of a connection without TLS.
    #[must_use]
    pub fn plaintext(address: SocketAddr) -> Self {
        Self::new(address, Ok(None))
    }

    /// Creates the peer of a TLS connection. `chain` is its verified certificate chain, empty if it
    /// presented none.
    #[must_use]
    pub fn tls(address: SocketAddr, chain: &[CertificateDer<'_>]) -> Self {
        let certificate = chain.first().map(|leaf| {
            let name = certificate::caller_name(leaf)?;
            Ok(Caller::new(Arc::from(name), Proof::Certificate))
        });
        Self::new(address, certificate.transpose())
    }

    fn new(address: SocketAddr, certificate: Result<Option<Caller>, NameError>) -> Self {
        Self {
            address,
            certificate,
            recognition: Recognition::default(),
            asserted: AssertedCallers::default(),
        }
    }

    /// Sets the flag that the first identified call on the connection sets, shared with the
    /// connection.
    #[must_use]
    pub fn with_recognition(mut self, recognition: Recognition) -> Self {
        self.recognition = recognition;
        self
    }

    /// Returns the flag that the first identified call on the connection sets.
    #[must_use]
    pub const fn recognition(&self) -> &Recognition {
        &self.recognition
    }

    /// Returns the address of the peer.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Reason that a caller was not identified. Contains no part of the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// A header that identifies the caller occurs more than once.
    #[error("a header that identifies the caller occurs more than once")]
    DuplicateIdentity,
    /// The `authorization` header is not a bearer credential, or contains an unknown one.
    #[error("the credential is not valid")]
    InvalidCredential,
    /// The client certificate has no usable name.
    #[error("the client certificate names no caller: {0}")]
    InvalidCertificate(NameError),
    /// The JWT is not valid.
    #[error("the JWT is not valid: {0}")]
    InvalidJwt(JwtError),
    /// The request has only credentials that the configuration does not read.
    #[error("{0}")]
    Unread(Unread),
    /// The header of the proxy has no usable name.
    #[error("the proxy's header names no caller: {0}")]
    InvalidForwarded(ForwardedError),
}

/// A credential that the configuration does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// An `authorization` header.
    #[error(
        "the request has an authorization header, but no [callers.jwt] and no [callers.tokens] are configured"
    )]
    Authorization,
    /// An identity header that the peer may not send, or that is not the configured one.
    #[error(
        "the request has an identity header, which [callers.forwarded] does not accept from this peer; remove the \
         header in front of the gateway, or name the proxy in `from`"
    )]
    Forwarded,
}

impl CallerError {
    /// Returns whether the same credential may be valid later, without any action by the caller.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::InvalidJwt(JwtError::NoKeysYet | JwtError::KeysTooOld | JwtError::KeyNotFetched(_))
        )
    }
}

/// The accepted kinds of proof, apart from client certificates and bearer tokens. A certificate
/// that the listener has verified always identifies its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[callers.jwt]` or `[[callers.jwt]]`: issuers of accepted JWTs: either one without a name,
    /// or any number with names.
    pub jwt: Vec<JwtSettings>,
    /// `[callers.forwarded]`: trusted proxies and the header in which they assert the caller.
    pub forwarded: Option<ForwardedSettings>,
}

/// Reason that the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The name of a bearer token is not valid.
    #[error("the name of a bearer token must be 1 to 255 bytes of visible ASCII")]
    TokenName,
    /// Two names have the same token.
    #[error("the bearer token of `{name}` is also the token of another caller")]
    SharedToken {
        /// The second of the two.
        name: String,
    },
    /// The issuer or the audience is empty.
    #[error("`issuer` and `audience` of the JWTs must not be empty")]
    EmptyIssuerOrAudience,
    /// There are several issuers, and one has no valid name, or two have the same name or the same
    /// `iss`.
    #[error("with several JWT issuers, each needs a unique name (a-z, 0-9 and -) and a unique issuer")]
    Issuers,
    /// The URL of the keys is not secure.
    #[error("`jwks_url` must be https (http only on a loopback host), without a user name or a password")]
    JwksUrl,
    /// The key file cannot be read, or has no usable keys.
    #[error("cannot use the key file {}: {error}", path.display())]
    JwksFile {
        /// Path of the file.
        path: PathBuf,
        /// The reason.
        error: PollError<JwksFileError>,
    },
    /// No proxy is named, or one in a form that no peer can have.
    #[error(
        "`from` must name at least one proxy, each as \"loopback\", an IP address, a SPIFFE id or \"dns:NAME\""
    )]
    ForwardedFrom,
}

/// The part of the policy in force that identifies a caller.
#[derive(Clone, Copy, Debug)]
pub struct CallerPolicy<'a> {
    /// The bearer tokens. If there are none, bearer tokens are not accepted.
    pub tokens: &'a BearerTokens,
    /// The claims to read from JWTs.
    pub claims: &'a RequestedClaims,
}

/// Identifies callers by the configured kinds of proof. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identification(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jwt: Option<JwtVerifiers>,
    forwarded: Option<ForwardedSettings>,
    /// Metrics of the cache of proxy headers.
    memory: CallerMemoryMetrics,
    metrics: Metrics,
}

impl Identification {
    /// Creates an identification by these kinds of proof. The caller has to run the returned
    /// refreshes of JWT issuers' keys. `http` creates the client that fetches the keys of a URL.
    ///
    /// # Errors
    ///
    /// The settings cannot be used, or `http` fails.
    pub fn new<E: From<InvalidSettings>>(
        settings: Settings,
        http: impl FnMut(&JwksUrl) -> Result<UnpooledClient, E>,
        metrics: Metrics,
    ) -> Result<(Self, Vec<JwksRefresh>), E> {
        let Settings { jwt, forwarded } = settings;
        if let Some(forwarded) = &forwarded
            && (forwarded.from.is_empty() || !forwarded.from.iter().all(ForwardedFrom::is_valid))
        {
            return Err(InvalidSettings::ForwardedFrom.into());
        }
        let (jwt, refreshes) = JwtVerifiers::start(jwt, http, &metrics)?;
        Ok((Self(Arc::new(Inner::new(jwt, forwarded, metrics))), refreshes))
    }

    /// Creates an identification by certificates and bearer tokens only.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(Inner::new(None, None, Metrics::default())))
    }

    /// Returns whether a peer is a trusted proxy.
    #[must_use]
    pub fn trusts(&self, peer: &Peer) -> bool {
        self.0.forwarded.as_ref().is_some_and(|forwarded| forwarded.trusts(peer))
    }

    /// Returns the caller of a request with these headers on this connection.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        policy: CallerPolicy<'_>,
    ) -> Result<Caller, CallerError> {
        let identified = self.0.identify(headers, peer, policy).await;
        if identified == Err(CallerError::DuplicateIdentity) {
            self.0.metrics.security_event(SecurityEvent::DuplicateIdentity);
        }
        identified
    }
}

/// Stands in for the creation of a client, for settings without a URL of keys.
#[cfg(test)]
pub(crate) fn no_url(_: &JwksUrl) -> Result<UnpooledClient, InvalidSettings> {
    Err(InvalidSettings::JwksUrl)
}

impl Default for Identification {
    fn default() -> Self {
        Self::none()
    }
}

impl Inner {
    fn new(jwt: Option<JwtVerifiers>, forwarded: Option<ForwardedSettings>, metrics: Metrics) -> Self {
        Self { jwt, forwarded, memory: metrics.caller_memory(CallerMemory::Forwarded), metrics }
    }

    async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        policy: CallerPolicy<'_>,
    ) -> Result<Caller, CallerError> {
        // Duplicates are refused even if the header is not read here, because another component may
        // read it.
        let authorization = at_most_one(headers, &AUTHORIZATION)?;
        forwarded::refuse_duplicates(headers)?;
        let proxy = self.forwarded.as_ref().filter(|forwarded| forwarded.trusts(peer));
        let claims_identity = forwarded::claims_identity(headers, proxy.map(|proxy| proxy.header));
        if claims_identity {
            self.metrics.spoofed_identity_header();
        }
        if proxy.is_none()
            && let Some(caller) = peer.certificate.clone().map_err(CallerError::InvalidCertificate)?
        {
            return Ok(caller);
        }
        let asserted = proxy.map_or(Ok(None), |proxy| proxy.caller(headers, peer, &self.memory))?;
        let address = peer.address().ip().to_canonical();
        // All clients of a proxy, or of a sidecar on this machine, share an address.
        let identifies_client = proxy.is_none() && !address.is_loopback();
        let network = identifies_client.then(|| PeerNetwork::of(address));
        if let Some(caller) = self.by_authorization(authorization, policy, network).await? {
            return Ok(caller);
        }
        if let Some(caller) = asserted {
            return Ok(caller);
        }
        // Nothing identified the caller, so any credential left has not been read.
        if authorization.is_some() {
            Err(CallerError::Unread(Unread::Authorization))
        } else if claims_identity {
            Err(CallerError::Unread(Unread::Forwarded))
        } else {
            Ok(Caller::anonymous())
        }
    }

    async fn by_authorization(
        &self,
        header: Option<&HeaderValue>,
        policy: CallerPolicy<'_>,
        network: Option<PeerNetwork>,
    ) -> Result<Option<Caller>, CallerError> {
        let CallerPolicy { tokens, claims } = policy;
        let is_checked = self.jwt.is_some() || !tokens.is_empty();
        let Some(header) = header.filter(|_| is_checked) else { return Ok(None) };
        let credential = bearer::credential(header)?;
        // Every JWT contains dots, and remembered tokens are JWTs.
        if let Some(jwt) = self.jwt.as_ref().filter(|_| credential.contains('.')) {
            let digest = TokenDigest::of(credential);
            if let Some(caller) = jwt.remembered(digest, claims) {
                return Ok(Some(caller));
            }
            if bearer::looks_like_jwt(credential) {
                // Boxed, because it is rare and large, and would enlarge the future of every call.
                let verified = Box::pin(jwt.verify(credential, digest, claims, network)).await;
                return verified.map_err(CallerError::InvalidJwt).map(Some);
            }
        }
        tokens.caller(credential).ok_or(CallerError::InvalidCredential).map(Some)
    }
}

/// Returns the value of a header that may occur at most once. A component that reads the first of
/// two values and one that reads the last would see different callers.
fn at_most_one<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, CallerError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(CallerError::DuplicateIdentity),
        (value, None) => Ok(value),
    }
}

#[cfg(test)]
mod tests;
