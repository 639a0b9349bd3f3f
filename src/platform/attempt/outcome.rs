//! Outcomes of an attempt: their certainty, and their evidence for the breaker.

use http::HeaderMap;

use crate::{
    domain::call::Certainty,
    http_client::{ConnectError, media_type::is_json},
    observe::telemetry::metrics::LocalResource,
    platform::{
        breaker::Evidence, connections::ConnectFailure, endpoint::Endpoint, error::ErrorResponse,
        response::PlatformResponse,
    },
};

/// Outcome of an attempt. Not `Debug`, because headers may contain cookies.
pub(in super::super) enum AttemptOutcome {
    /// The platform cannot have acted on the request.
    NotSent(UnsentReason),
    /// The platform may have acted on the request, and there is no usable response.
    Interrupted {
        /// For the operator.
        cause: String,
        /// The head of the response, if there was one.
        headers: Option<HeaderMap>,
        /// The resource that this machine or process lacked, if that is the cause.
        missing: Option<LocalResource>,
    },
    /// A response other than 2xx.
    Failed(ErrorResponse, HeaderMap),
    /// A 2xx response.
    Succeeded(PlatformResponse),
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum UnsentReason {
    /// There was no connection, or the platform refused the stream.
    Unreachable(String),
    /// The platform's certificate is not valid.
    CertificateInvalid(String),
    /// The platform's name could not be looked up.
    NameLookup(String),
    /// This machine or process lacked a resource for a connection.
    Exhausted(String),
    /// All streams that the platform accepts were in use by this gateway.
    Queued,
    /// The deadline was too close, or the caller was gone.
    Withdrawn,
}

impl AttemptOutcome {
    /// Returns how certain the effect of the attempt is. `refused` requires a response that proves
    /// that nothing happened. If the request spends something, that response must come from the
    /// platform itself and not from a proxy in front of it.
    pub(in super::super) fn certainty(&self, endpoint: &Endpoint) -> Certainty {
        match self {
            Self::NotSent(_) => Certainty::NotSent,
            Self::Failed(answer, _) if answer.is_definite(endpoint.spends()) => Certainty::Refused,
            Self::Failed(..) | Self::Interrupted { .. } => Certainty::Unknown,
            Self::Succeeded(_) => Certainty::Done,
        }
    }

    /// Returns whether the response comes from the platform itself. Any other response may come
    /// from a proxy, and may not belong to the request.
    pub(super) fn is_from_platform(&self) -> bool {
        match self {
            Self::Failed(answer, _) => {
                answer.body.is_some() && answer.status < 500 && !matches!(answer.status, 408 | 429)
            }
            Self::Succeeded(answer) => answer.body.is_ok() && is_json(&answer.headers),
            Self::Interrupted { .. } | Self::NotSent(_) => false,
        }
    }

    /// Returns the HTTP status, if there is a response to act on.
    pub(in super::super) fn http_status(&self) -> Option<u16> {
        match self {
            Self::Failed(answer, _) => Some(answer.status),
            Self::Succeeded(answer) => Some(answer.status.as_u16()),
            Self::NotSent(_) | Self::Interrupted { .. } => None,
        }
    }

    /// Returns why there is no usable response, for the operator; empty if there is one.
    pub(in super::super) fn cause(&self) -> String {
        match self {
            Self::NotSent(
                UnsentReason::Unreachable(cause)
                | UnsentReason::CertificateInvalid(cause)
                | UnsentReason::NameLookup(cause)
                | UnsentReason::Exhausted(cause),
            )
            | Self::Interrupted { cause, .. } => cause.clone(),
            Self::NotSent(UnsentReason::Queued) => "all streams are in use".to_owned(),
            Self::NotSent(UnsentReason::Withdrawn) => "withdrawn before it was sent".to_owned(),
            Self::Failed(..) | Self::Succeeded(_) => String::new(),
        }
    }

    /// Returns the label of an attempt without a usable response.
    pub(in super::super) const fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::NotSent(UnsentReason::Unreachable(_)) => Some("unreachable"),
            Self::NotSent(UnsentReason::CertificateInvalid(_)) => Some("certificate_invalid"),
            Self::NotSent(UnsentReason::NameLookup(_)) => Some("name_lookup"),
            Self::NotSent(UnsentReason::Exhausted(_)) => Some("exhausted"),
            Self::NotSent(UnsentReason::Queued) => Some("queued"),
            Self::NotSent(UnsentReason::Withdrawn) => Some("withdrawn"),
            Self::Interrupted { .. } => Some("interrupted"),
            Self::Failed(..) | Self::Succeeded(_) => None,
        }
    }

    /// Returns its evidence about the endpoint. This is the only place that decides what counts for
    /// the breaker. Local limits and missing resources do not count.
    pub(in super::super) const fn evidence(&self) -> Evidence {
        match self {
            Self::NotSent(UnsentReason::Unreachable(_) | UnsentReason::CertificateInvalid(_))
            | Self::Interrupted { missing: None, .. } => Evidence::Down,
            // A request that waited for one of our streams, was withdrawn, or got no address or
            // socket must neither open nor close the breaker.
            Self::NotSent(
                UnsentReason::NameLookup(_)
                | UnsentReason::Exhausted(_)
                | UnsentReason::Queued
                | UnsentReason::Withdrawn,
            )
            | Self::Interrupted { missing: Some(_), .. } => Evidence::Nothing,
            Self::Failed(answer, _) if answer.status >= 500 => Evidence::Down,
            Self::Failed(..) | Self::Succeeded(_) => Evidence::Up,
        }
    }
}

impl From<ConnectFailure> for UnsentReason {
    fn from(failure: ConnectFailure) -> Self {
        match failure.error {
            ConnectError::Unreachable => Self::Unreachable(failure.cause),
            ConnectError::CertificateInvalid => Self::CertificateInvalid(failure.cause),
            ConnectError::NameLookup => Self::NameLookup(failure.cause),
            ConnectError::Exhausted(_) => Self::Exhausted(failure.cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It neither opens nor closes the breaker, as an attempt or as a probe.
    #[test]
    fn local_limits_and_missing_resources_are_no_evidence() {
        let causes = [
            UnsentReason::Queued,
            UnsentReason::Withdrawn,
            UnsentReason::NameLookup(String::new()),
            UnsentReason::Exhausted(String::new()),
        ];
        for cause in causes {
            assert_eq!(AttemptOutcome::NotSent(cause.clone()).evidence(), Evidence::Nothing, "{cause:?}");
        }
        let interrupted =
            |missing| AttemptOutcome::Interrupted { cause: String::new(), headers: None, missing };
        for resource in LocalResource::ALL {
            assert_eq!(interrupted(Some(resource)).evidence(), Evidence::Nothing, "{resource:?}");
        }
        assert_eq!(interrupted(None).evidence(), Evidence::Down);
    }

    #[test]
    fn only_server_errors_count_as_failures_of_the_endpoint() {
        for (status, evidence) in [(400, Evidence::Up), (429, Evidence::Up), (500, Evidence::Down)] {
            let answer = ErrorResponse { status, body: None, retry_after: None };
            assert_eq!(AttemptOutcome::Failed(answer, HeaderMap::new()).evidence(), evidence, "{status}");
        }
    }
}
