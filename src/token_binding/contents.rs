//! The sealed contents of a token, as a protobuf message.
//!
//! A new field must not restrict who may spend a token, because gateways of older versions ignore
//! it: that needs a new version of the sealed token.

use std::{
    fmt, mem,
    time::{Duration, SystemTime},
};

use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::Binding;
use crate::domain::ott::{OneTimeToken, Subject, SubjectKind};

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Contents {
    #[prost(string, tag = "1")]
    ott: String,
    #[prost(string, tag = "2")]
    api_client: String,
    #[prost(enumeration = "Kind", tag = "3")]
    subject_kind: i32,
    /// In canonical form.
    #[prost(string, tag = "4")]
    subject: String,
    #[prost(bool, tag = "5")]
    subject_folds_into_ascii: bool,
    #[prost(string, tag = "6")]
    issued_by: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "7")]
    issued_at: u64,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    expires_at: u64,
    /// As the caller sent it, if that differs from the canonical form: the platform may return either.
    #[prost(string, tag = "9")]
    subject_as_sent: String,
}

/// [`SubjectKind`], by the numbers in sealed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    Login = 1,
    ExternalId = 2,
    UserId = 3,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contents([redacted])")
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.ott.zeroize();
    }
}

/// Encodes the contents, with `spare` bytes of unused capacity behind them.
pub(super) fn encode(ott: &OneTimeToken, binding: &Binding, spare: usize) -> Zeroizing<Vec<u8>> {
    let contents = Contents {
        ott: ott.expose().to_owned(),
        api_client: binding.api_client.clone(),
        subject_kind: match binding.subject.kind() {
            SubjectKind::Login => Kind::Login,
            SubjectKind::ExternalId => Kind::ExternalId,
            SubjectKind::UserId => Kind::UserId,
        }
        .into(),
        subject: binding.subject.canonical().to_owned(),
        subject_folds_into_ascii: binding.subject.folds_into_ascii(),
        issued_by: binding.issued_by.clone(),
        issued_at: milliseconds(binding.issued_at),
        expires_at: milliseconds(binding.expires_at),
        subject_as_sent: match binding.subject.as_sent() {
            sent if sent == binding.subject.canonical() => String::new(),
            sent => sent.to_owned(),
        },
    };
    let mut bytes = Vec::with_capacity(contents.encoded_len() + spare);
    contents.encode_raw(&mut bytes);
    Zeroizing::new(bytes)
}

/// Decodes the contents. `None` if they are not valid, although a gateway with the key sealed them.
pub(super) fn decode(bytes: &[u8]) -> Option<(OneTimeToken, Binding)> {
    let mut contents = Contents::decode(bytes).ok()?;
    let kind = match contents.subject_kind() {
        Kind::Unspecified => return None,
        Kind::Login => SubjectKind::Login,
        Kind::ExternalId => SubjectKind::ExternalId,
        Kind::UserId => SubjectKind::UserId,
    };
    let canonical = mem::take(&mut contents.subject);
    let sent = Some(mem::take(&mut contents.subject_as_sent)).filter(|sent| !sent.is_empty());
    let binding = Binding {
        api_client: mem::take(&mut contents.api_client),
        subject: Subject::restored(kind, canonical, sent, contents.subject_folds_into_ascii).ok()?,
        issued_by: mem::take(&mut contents.issued_by),
        issued_at: time(contents.issued_at)?,
        expires_at: time(contents.expires_at)?,
    };
    Some((OneTimeToken::try_new(mem::take(&mut contents.ott)).ok()?, binding))
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `None` if the machine cannot represent the time, or one shortly after it.
fn time(milliseconds: u64) -> Option<SystemTime> {
    const MARGIN: Duration = Duration::from_hours(24);
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))?;
    time.checked_add(MARGIN)?;
    Some(time)
}
