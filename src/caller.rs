//! Who is calling, proven by the transport or by a credential, never by the message.
//!
//! The kinds of proof, in the order in which they are checked, each off unless
//! configured: the client certificate; a JWT; a bearer token; the header of a proxy. What
//! the caller may do is decided in `access`.
//!
//! A peer that is configured to speak for others (a mesh proxy) is never the caller: what
//! the request itself carries comes first, a JWT, a bearer token, then the proxy's
//! header, and a request with none of them is `anonymous`, for a proxy also passes on the
//! calls of clients that have proven nothing. Any other peer that shows a certificate is
//! whom the certificate names, whatever headers it sends.
//!
//! A proof that is shown and read must be valid: none is passed over for a weaker one. A caller
//! that shows anything that this configuration does not read is refused unless something else
//! proves who it is, and never becomes `anonymous`: only callers that show nothing are.

use std::{borrow::Cow, net::SocketAddr, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use rustls::pki_types::CertificateDer;

use crate::{
    call::PeerNetwork,
    files::PollError,
    http_client::UnpooledClient,
    telemetry::metrics::{CallerMemory, CallerMemoryMetrics, Metrics, SecurityEvent},
};
use forwarded::AssertedCallers;
use jwt::{JwtVerifiers, TokenDigest};

mod bearer;
mod certificate;
mod forwarded;
mod jwks;
mod jwt;
mod key_set;
mod name;
mod recognition;

pub use bearer::{BearerTokens, TokenHash, TokenHashes};
pub use forwarded::{ForwardedFault, ForwardedFrom, ForwardedHeader, ForwardedSettings};
pub use jwks::{JwksFileFault, JwksRefresh, JwksSource, JwksUrl, KeyFetchFault};
pub use jwt::{JwtFault, JwtSettings};
pub use key_set::{JwksFault, check_jwks};
pub use name::{ANONYMOUS, CALLER_PREFIXES, NameFault, is_caller_name, is_issuer_name};
pub use recognition::Recognition;

/// A caller, and how its name was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    proof: Proof,
}

/// How a caller's name was proven.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Not at all.
    None,
    /// By a client certificate.
    Certificate,
    /// By a JSON web token.
    Jwt {
        /// The name of its issuer in the configuration, if issuers have names.
        issuer: Option<Arc<str>>,
    },
    /// By a bearer token.
    Token,
    /// Asserted by a trusted proxy.
    Forwarded,
}

impl Proof {
    /// The label in records: `none`, `certificate`, `jwt` (or `jwt:` and the issuer's name),
    /// `token` or `forwarded`.
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
    /// The caller that nothing is known of.
    #[must_use]
    pub fn anonymous() -> Self {
        // One for each thread, so that workers do not count references to the same name.
        thread_local!(static NAME: Arc<str> = Arc::from(ANONYMOUS));
        let name = NAME.try_with(Arc::clone).unwrap_or_else(|_| Arc::from(ANONYMOUS));
        Self { name, proof: Proof::None }
    }

    /// A caller that nobody has identified, to test what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(name: &str, proof: Proof) -> Self {
        Self { name: Arc::from(name), proof }
    }

    /// The caller's name, whose beginning shows how it was proven: `spiffe://…`, `dns:NAME`,
    /// `jwt:SUBJECT` (`jwt:ISSUER:SUBJECT` if issuers have names), `token:NAME` or `anonymous`.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How the name was proven.
    #[must_use]
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }
}

/// The other end of a connection; made once for each connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    certificate: Result<Option<Caller>, NameFault>,
    recognition: Recognition,
    /// Empty unless it is a proxy.
    asserted: AssertedCallers,
}

impl Peer {
    /// A peer on a connection without TLS.
    #[must_use]
    pub fn plaintext(address: SocketAddr) -> Self {
        Self::new(address, Ok(None))
    }

    /// A peer on a TLS connection; `chain` is its verified certificate chain, empty if
    /// it showed none.
    #[must_use]
    pub fn tls(address: SocketAddr, chain: &[CertificateDer<'_>]) -> Self {
        let certificate = chain.first().map(|leaf| {
            let name = certificate::caller_name(leaf)?;
            Ok(Caller { name: Arc::from(name), proof: Proof::Certificate })
        });
        Self::new(address, certificate.transpose())
    }

    fn new(address: SocketAddr, certificate: Result<Option<Caller>, NameFault>) -> Self {
        Self {
            address,
            certificate,
            recognition: Recognition::default(),
            asserted: AssertedCallers::default(),
        }
    }

    /// Shares the flag that the first identified call on the connection sets.
    #[must_use]
    pub fn with_recognition(mut self, recognition: Recognition) -> Self {
        self.recognition = recognition;
        self
    }

    /// The flag that the first identified call on the connection sets.
    #[must_use]
    pub const fn recognition(&self) -> &Recognition {
        &self.recognition
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Why a caller was not identified. Contains nothing of the credential itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// A header that identifies the caller is there more than once.
    #[error("a header that identifies the caller is there more than once")]
    DuplicateIdentity,
    /// The `authorization` header is no bearer credential, or one that nobody has.
    #[error("the credential is not valid")]
    InvalidCredential,
    /// The client certificate names nobody.
    #[error("the client certificate names no caller: {0}")]
    InvalidCertificate(NameFault),
    /// The JWT proves nobody.
    #[error("the JWT is not valid: {0}")]
    InvalidJwt(JwtFault),
    /// The caller shows only what this configuration does not read.
    #[error("{0}")]
    Unread(Unread),
    /// The header of the proxy has no usable name.
    #[error("the proxy's header names no caller: {0}")]
    InvalidForwarded(ForwardedFault),
}

/// A credential that this configuration does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// An `authorization` header.
    #[error(
        "the request has an authorization header, but no [callers.jwt] and no [callers.tokens] are configured"
    )]
    Authorization,
    /// An identity header that the peer may not send, or another one than the configured one.
    #[error(
        "the request has an identity header, which [callers.forwarded] does not accept from this peer; remove the \
         header in front of the gateway, or name the proxy in `from`"
    )]
    Forwarded,
}

impl CallerError {
    /// Whether the same credential may be good enough later, without the caller's doing.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::InvalidJwt(JwtFault::NoKeysYet | JwtFault::KeysTooOld | JwtFault::KeyNotFetched(_))
        )
    }
}

/// Which kinds of proof are accepted, besides client certificates and bearer tokens. A certificate
/// that the listener has verified always identifies its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[callers.jwt]` or `[[callers.jwt]]`: whose JWTs are accepted. Either one issuer without a name, or any number with names.
    pub jwt: Vec<JwtSettings>,
    /// `[callers.forwarded]`: which proxies may name the caller, and in which header.
    pub forwarded: Option<ForwardedSettings>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// A bearer token's name is no name.
    #[error("the name of a bearer token must be 1 to 255 bytes of visible ASCII")]
    TokenName,
    /// Two names have the same token.
    #[error("the bearer token of `{name}` is another caller's too")]
    SharedToken {
        /// The second of the two.
        name: String,
    },
    /// The issuer or the audience is empty.
    #[error("`issuer` and `audience` of the JWTs must not be empty")]
    EmptyIssuerOrAudience,
    /// Of several issuers, one has no name of lower-case letters, digits and `-`, or two have the
    /// same name or the same `iss`.
    #[error("of several JWT issuers each needs a name of its own (a-z, 0-9 and -) and an issuer of its own")]
    Issuers,
    /// The URL of the keys is not safe.
    #[error("`jwks_url` must be https (http only on a loopback host), without a user name or a password")]
    JwksUrl,
    /// The key file cannot be read, or has no usable keys.
    #[error("the key file {} cannot be used: {fault}", path.display())]
    JwksFile {
        /// Path of the file.
        path: PathBuf,
        /// The reason.
        fault: PollError<JwksFileFault>,
    },
    /// A proxy is named in a form that no peer can have, or none is named.
    #[error(
        "`from` must name at least one proxy, each as \"loopback\", an IP address, a SPIFFE id or \"dns:NAME\""
    )]
    ForwardedFrom,
}

/// Identifies callers, by the kinds of proof that are configured. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identification(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jwt: Option<JwtVerifiers>,
    forwarded: Option<ForwardedSettings>,
    /// Of the headers of proxies.
    memory: CallerMemoryMetrics,
    metrics: Metrics,
}

impl Identification {
    /// Identifies callers by these kinds of proof. If JWTs are among them, the refreshes of the
    /// issuers' keys that are returned have to be run. `http` creates the client that fetches the
    /// keys of a URL.
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
            && (forwarded.from.is_empty() || !forwarded.from.iter().all(ForwardedFrom::is_sound))
        {
            return Err(InvalidSettings::ForwardedFrom.into());
        }
        let (jwt, refreshes) = JwtVerifiers::start(jwt, http, &metrics)?;
        Ok((Self(Arc::new(Inner::new(jwt, forwarded, metrics))), refreshes))
    }

    /// Reads certificates and bearer tokens only.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(Inner::new(None, None, Metrics::default())))
    }

    /// Returns whether a peer is a proxy that may name callers.
    #[must_use]
    pub fn trusts(&self, peer: &Peer) -> bool {
        self.0.forwarded.as_ref().is_some_and(|forwarded| forwarded.trusts(peer))
    }

    /// Returns who sent a request with these headers over this connection. The bearer tokens are
    /// those in force for the call; without any, none is accepted.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        tokens: &BearerTokens,
    ) -> Result<Caller, CallerError> {
        let identified = self.0.identify(headers, peer, tokens).await;
        if identified == Err(CallerError::DuplicateIdentity) {
            self.0.metrics.security_event(SecurityEvent::DuplicateIdentity);
        }
        identified
    }
}

/// For settings without a URL of keys.
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
        tokens: &BearerTokens,
    ) -> Result<Caller, CallerError> {
        // Duplicates are refused even if the header is not read: something behind us may read it.
        let authorization = the_only(headers, &AUTHORIZATION)?;
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
        // All clients of a proxy, or of a sidecar on this machine, have one address.
        let identifies_client = proxy.is_none() && !address.is_loopback();
        let network = identifies_client.then(|| PeerNetwork::of(address));
        if let Some(caller) = self.by_authorization(authorization, tokens, network).await? {
            return Ok(caller);
        }
        if let Some(caller) = asserted {
            return Ok(caller);
        }
        // Nothing identified the caller, so what is left has not been read.
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
        tokens: &BearerTokens,
        network: Option<PeerNetwork>,
    ) -> Result<Option<Caller>, CallerError> {
        let is_looked_at = self.jwt.is_some() || !tokens.is_empty();
        let Some(header) = header.filter(|_| is_looked_at) else { return Ok(None) };
        let credential = bearer::credential(header)?;
        // Every JWT has dots; what is remembered was found to be one.
        if let Some(jwt) = self.jwt.as_ref().filter(|_| credential.contains('.')) {
            let digest = TokenDigest::of(credential);
            if let Some(caller) = jwt.remembered(digest) {
                return Ok(Some(caller));
            }
            if bearer::looks_like_jwt(credential) {
                // Boxed: it is rare and large, and the future of every call would grow by it.
                let verified = Box::pin(jwt.verify(credential, digest, network)).await;
                return verified.map_err(CallerError::InvalidJwt).map(Some);
            }
        }
        tokens.caller(credential).ok_or(CallerError::InvalidCredential).map(Some)
    }
}

/// The value of a header that may be there once at most. What takes the first and what
/// takes the last of two values would see two callers.
fn the_only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, CallerError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(CallerError::DuplicateIdentity),
        (value, None) => Ok(value),
    }
}

#[cfg(test)]
mod tests;
