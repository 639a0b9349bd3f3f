//! HTTP client for other servers: the platform, its token endpoint, JWT issuers.
//!
//! Contains the code that all senders share: a client with every limit set, name lookups, bounded
//! reading of bodies, dates, `Retry-After`, media types, JSON objects, and the root cause of a
//! failed exchange. The sender interprets the response.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use http::{
//!     HeaderMap, HeaderValue,
//!     header::{CONTENT_TYPE, RETRY_AFTER},
//! };
//! use ott_gateway::http_client::{json::Object, media_type::is_json, retry_after::retry_after};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
//! headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
//! assert!(is_json(&headers));
//! assert_eq!(retry_after(&headers, SystemTime::UNIX_EPOCH), Some(Duration::from_secs(2)));
//!
//! let response = Object::parse(br#"{"expires_in": 3600}"#)?;
//! assert_eq!(response.get::<u64>("expires_in"), Some(3600));
//! # Ok::<(), ott_gateway::http_client::json::NotAnObject>(())
//! ```

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
        ConnectionReuse, ConnectionSettings, HeaderRoom, HttpClientError, HttpProtocol, HttpSettings,
        LastProtocol, MAX_HEADER_LIST_BYTES, build, default_headers, header_bytes,
    },
    connect::ConnectError,
    loopback::is_loopback,
    proxy::{Proxy, ProxyUrl},
    resolver::{LookupError, Resolver},
    tls::{AuthoritySource, ClientTls, ClientTlsSet, TlsConfigError},
    unpooled::UnpooledClient,
};
