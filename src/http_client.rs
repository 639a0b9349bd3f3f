//! HTTP requests to other servers: the platform, its token endpoint, a JWT issuer.
//!
//! Code that all senders share: a client with every limit set, name lookups, bounded reading of bodies,
//! dates, `Retry-After`, media types, JSON objects, and the root cause of a failed exchange.
//! What a response means for a call is decided by the sender.

pub mod body;
pub mod cause;
mod client;
mod connect;
pub mod date;
mod groups;
pub mod json;
mod local_resource;
mod loopback;
pub mod media_type;
mod proxy;
mod resolver;
pub mod retry_after;
pub mod server_url;
mod tls;
mod trust;
mod unpooled;

#[cfg(test)]
pub(crate) use self::tls::tls_config;
pub use self::{
    client::{
        ConnectionReuse, HeaderRoom, HttpClientError, HttpProtocol, HttpSettings, LastProtocol,
        MAX_HEADER_LIST_BYTES, build, default_headers, header_bytes,
    },
    connect::ConnectFault,
    loopback::is_loopback,
    proxy::Proxy,
    resolver::{LookupError, Resolver},
    tls::{AuthoritySource, ClientTls, ClientTlsSet, TlsConfigError},
    unpooled::UnpooledClient,
};
