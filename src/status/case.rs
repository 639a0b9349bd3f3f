//! The cases of each reason, and the message of each case.
//!
//! The code of a caller decides by the reason; its developer reads the message. Each case has one
//! message, about this case only. `docs/errors.md` lists all of them.

use super::Reason;
use crate::domain::call::{Call, Certainty, Method};

/// The advice in a message.
///
/// If the one-time token is or may be spent, the message adds or substitutes advice about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Retry the same request. Replaced if the token of a login is no longer usable.
    Retry(&'static str),
    /// Change something else. A login whose token may be spent also needs a new one.
    Fix(&'static str),
    /// Issue a new token, or use the result of another call.
    NewToken(&'static str),
}

impl Advice {
    /// Returns the sentence in the catalogue.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Retry(text) | Self::Fix(text) | Self::NewToken(text) => text,
        }
    }
}

macro_rules! cases {
    ($($reason:ident {
        $general:ident: $general_meaning:literal $general_advice:ident $general_action:literal;
        $($case:ident: $meaning:literal $advice:ident $action:literal;)*
    })*) => {
        /// One case of a reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Case {
            $(
                #[doc = $general_meaning]
                $general,
                $(#[doc = $meaning] $case,)*
            )*
        }

        impl Case {
            /// Every case, in the order of the reasons.
            pub const ALL: &'static [Self] = &[$(Self::$general, $(Self::$case,)*)*];

            /// Returns the reason of the case.
            #[must_use]
            pub const fn reason(self) -> Reason {
                match self {
                    $(Self::$general $(| Self::$case)* => Reason::$reason,)*
                }
            }

            /// Returns the sentence that describes the case. May contain [`Placeholder`]s.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$general => $general_meaning, $(Self::$case => $meaning,)*)*
                }
            }

            /// Returns the advice for the caller. May contain [`Placeholder`]s.
            #[must_use]
            pub const fn advice(self) -> Advice {
                match self {
                    $(
                        Self::$general => Advice::$general_advice($general_action),
                        $(Self::$case => Advice::$advice($action),)*
                    )*
                }
            }

            /// Returns the general case of a reason. [`narrowed`](Self::narrowed) may return a more
            /// specific one.
            #[must_use]
            pub(super) const fn general(reason: Reason) -> Self {
                match reason {
                    $(Reason::$reason => Self::$general,)*
                }
            }
        }
    };
}

/// A placeholder for a value in a message, in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// The method: `this IssueOtt call`.
    Call,
    /// The name of the caller: `the caller "token:portal"`.
    Caller,
    /// Rate and burst of a quota: `50/s, burst 100`.
    Quota,
    /// The field of the request that names the user: "the field `login`".
    User,
}

impl Placeholder {
    /// Every placeholder.
    pub const ALL: [Self; 4] = [Self::Call, Self::Caller, Self::Quota, Self::User];

    /// Returns the placeholder as written in the texts.
    #[must_use]
    pub const fn written(self) -> &'static str {
        match self {
            Self::Call => "{call}",
            Self::Caller => "{caller}",
            Self::Quota => "{quota}",
            Self::User => "{user field}",
        }
    }
}

cases! {
    InvalidRequest {
        InvalidFields: "Fields of the request are not valid." Fix "Correct the request.";
        NotGrpc: "The request is not gRPC." Fix "Send gRPC over HTTP/2; gRPC-Web, Connect and JSON are not served.";
        UndecodableMessage: "The request message cannot be decoded."
            Fix "Encode the request message that the contract defines for this method.";
        CompressedMessage: "The request message is compressed." Fix "Send it uncompressed.";
        CompressedFlag: "The compressed flag of the request message is not 0, but grpc-encoding specifies no compression."
            Fix "Send the message uncompressed, with the flag 0.";
        NotOneMessage: "The body of the call is not exactly one complete gRPC message." Fix "Send exactly one message.";
        MalformedBody: "The body of the call violates HTTP/2."
            Fix "Check the client and the proxies in front of the gateway.";
    }
    RequestTooLarge {
        RequestTooLarge: "The request message is longer than 16 KiB." Fix "Send a shorter one.";
    }
    MethodUnknown {
        MethodUnknown: "The gateway has no such method." Fix "Call a method of ott.v1.OttService.";
    }
    ApiClientUnknown {
        ApiClientUnknown: "The gateway's configuration has no API client with this name."
            Fix "Set api_client to the name of a configured API client.";
        NoDefaultApiClient: "The request has no API client, and the gateway's configuration has no default one."
            Fix "Set api_client to the name of a configured API client.";
    }
    CallerUnauthenticated {
        InvalidCredential: "The caller's credential is not valid." Fix "Send a valid credential.";
        RepeatedCredential: "A header that identifies the caller occurs more than once."
            Fix "Send each of these headers once.";
        UnacceptedCredential: "The gateway is not configured for the credential in the authorization header."
            Fix "Send a credential of a kind that the gateway accepts.";
        CertificateWithoutName: "The client certificate does not identify a caller."
            Fix "Use a certificate with exactly one SPIFFE id, or without one and with exactly one DNS name.";
        UntrustedIdentityHeader: "The request has an identity header, which the gateway accepts from trusted proxies only."
            Fix "Remove the header, and send a credential.";
        ProxyIdentityInvalid: "The identity header of the proxy does not identify a caller."
            Fix "Contact the gateway's operator; the caller cannot fix this.";
        IssuerKeysMissing: "The JWT issuer's keys are not available yet." Retry "Retry with backoff.";
    }
    CallerNotAllowed {
        CallerNotAllowed: "The gateway's access rules do not allow {call} to {caller}."
            Fix "Ask the gateway's operator for a rule that allows it.";
        AnonymousNotAllowed: "The request carries no credential, and the gateway's access rules do not allow {call} to {caller}."
            Fix "Send a credential of a caller that the rules allow.";
    }
    CallerQuotaExceeded {
        CallerQuota: "The quota for calls of {caller} is used up: {quota}."
            Retry "Wait for the time in RetryInfo, then retry.";
        UserQuota: "The quota for calls of {caller} for this user is used up: {quota}."
            Retry "Wait for the time in RetryInfo, then retry.";
    }
    Overloaded {
        ReplicaOverloaded: "This replica is overloaded; the request was not sent." Retry "Retry with backoff.";
        CallerOverloads: "This replica has as many calls of {caller} in progress as it accepts; the request was not sent."
            Retry "Retry with backoff, and send fewer calls at once.";
        AnonymousCallsOverload: "This replica accepts no more calls without a credential from this network address at the moment; the request was not sent."
            Retry "Retry with backoff, and send fewer calls at once.";
        NoFreeStream: "All streams that the platform accepts from this replica are in use." Retry "Retry with backoff.";
        NoFreeMemory: "All memory that this replica may use for responses is in use." Retry "Retry with backoff.";
    }
    Draining {
        Draining: "This replica is shutting down." Retry "Retry; another replica will answer.";
    }
    AuditUnavailable {
        AuditUnavailable: "The gateway's audit log is unavailable, so the request was not sent."
            Retry "Retry with backoff.";
        CallUnrecorded: "The gateway cannot write the audit record of this call, so it returns no result."
            Retry "Retry with backoff.";
    }
    DeadlineExceeded {
        DeadlineExceeded: "The deadline passed before the call was complete."
            Retry "Retry, with a longer deadline if this repeats.";
        DeadlineBeforeSending: "The deadline left too little time to send the request to the platform."
            Retry "Retry, with a longer deadline if this repeats.";
        DeadlineAtPlatform: "The deadline passed before the platform answered."
            Retry "Retry, with a longer deadline if this repeats.";
        SlowMessage: "The request message did not arrive in time after its headers."
            Retry "Retry, and check the network if this repeats.";
    }
    PlatformUnreachable {
        PlatformUnreachable: "The platform cannot be reached." Retry "Retry with backoff.";
        PlatformNameUnresolved: "The platform's host name cannot be resolved." Retry "Retry with backoff.";
        PlatformCertificateInvalid: "The platform's certificate is not valid."
            Retry "Retry with backoff; contact the gateway's operator if this persists.";
    }
    PlatformUnavailable {
        PlatformUnavailable: "The platform reports that it cannot process the request now." Retry "Retry with backoff.";
        BreakerOpen: "The platform has been failing, so the request was not sent." Retry "Retry with backoff.";
        ResponseInterrupted: "The platform's response did not arrive completely." Retry "Retry with backoff.";
        NoAccessToken: "The platform issues no access token to the gateway at the moment." Retry "Retry with backoff.";
        AccessTokenNotAcceptedYet: "The platform does not accept the gateway's new access token yet."
            Retry "Retry with backoff.";
        AccessTokenRefused: "The platform refused the gateway's access token, and a new one was requested moments ago."
            Retry "Retry with backoff.";
    }
    LoginOutcomeUnknown {
        LoginOutcomeUnknown: "The platform's response does not show whether the login happened."
            NewToken "Issue a new token and log in with that; never send the same token again.";
        LoginInterrupted: "The platform's response did not arrive completely; it is unknown whether the login happened."
            NewToken "Issue a new token and log in with that; never send the same token again.";
        LoginCutOff: "This replica is shutting down, and stopped the login before it was complete."
            NewToken "Issue a new token and log in with that; never send the same token again.";
    }
    PlatformRejectedRequest {
        PlatformRejectedRequest: "The platform refused the request as malformed." Fix "Check {user field}.";
    }
    PlatformCredentialRejected {
        CredentialRejected: "The platform refuses the gateway's own credential."
            Fix "Contact the gateway's operator; the caller cannot fix this.";
        CredentialUnreadable: "The gateway cannot read its own credential."
            Fix "Contact the gateway's operator; the caller cannot fix this.";
        AccessTokenRejected: "The platform refuses each access token of the gateway."
            Fix "Contact the gateway's operator; the caller cannot fix this.";
    }
    OttRejected {
        // One message for all of these: the caller must not learn which one applies.
        OttRejected: "The one-time token is not valid: unknown, used or expired."
            NewToken "Issue a new token and log in with that.";
    }
    OttInUse {
        OttInUse: "Another call is spending the same one-time token."
            NewToken "Use the result of that call; issue a new token to log in again.";
    }
    PlatformAccessDenied {
        PlatformAccessDenied: "The platform denies the gateway access to this user."
            Fix "Check that the user is below the API client's tenant and that support access is on.";
        PlatformOperationDenied: "The platform denies this operation to the gateway."
            Fix "Contact the gateway's operator; the caller cannot fix this.";
        GatewayAddressForbidden: "The platform does not accept requests from the gateway's address."
            Fix "Contact the gateway's operator; the caller cannot fix this.";
    }
    PlatformBlocked {
        PlatformBlocked: "A firewall in front of the platform refused the request."
            Retry "Retry with long backoff; contact the gateway's operator if this persists.";
        TokenRequestBlocked: "A firewall in front of the platform refused the gateway's request for an access token."
            Retry "Retry with long backoff; contact the gateway's operator if this persists.";
    }
    UserNotFound {
        UserNotFound: "The platform has no such user." Fix "Check {user field}.";
    }
    PlatformProtocolError {
        PlatformProtocolError: "The platform returned an undocumented response."
            Fix "Contact the gateway's operator and quote the request id.";
        UnusableResponse: "The platform reported success, but its response cannot be used."
            Fix "Contact the gateway's operator and quote the request id.";
        TokenEndpointProtocolError: "The platform's token endpoint returned an undocumented response."
            Fix "Contact the gateway's operator and quote the request id.";
    }
    AccountMismatch {
        AccountMismatch: "The platform's response was for another user and was discarded."
            NewToken "Issue a new token and log in with that; contact the gateway's operator if this persists.";
    }
    AccountNotAllowed {
        AccountNotAllowed: "The gateway's access rules do not allow the account of this token to {caller}; its session was closed."
            NewToken "Ask the gateway's operator for a rule that allows it, then issue a new token.";
    }
    PlatformConflict {
        PlatformConflict: "The platform reports a conflict." Fix "Check the user and the tenant before you try again.";
        ConflictingObject: "The platform reports a conflict with an existing object."
            Fix "Check the user and the tenant before you try again.";
        ConflictingChange: "The platform reports a conflict with another change."
            Fix "Check the user and the tenant before you try again.";
    }
    PlatformRateLimited {
        PlatformRateLimited: "The platform limits the rate of requests and did not process this one."
            Retry "Wait for the time in RetryInfo, then retry.";
    }
    UserDisabled {
        UserDisabled: "The user is disabled." Fix "Have the user enabled.";
    }
    TenantDisabled {
        TenantDisabled: "A tenant that the user belongs to is disabled." Fix "Have that tenant enabled.";
    }
    TenantLocked {
        TenantLocked: "The user's tenant is locked." Fix "Have the tenant unlocked.";
    }
    TenantNotFound {
        TenantNotFound: "The platform has no such tenant." Fix "Check which tenant the user belongs to.";
    }
    InvalidLogin {
        InvalidLogin: "The platform does not accept this login name." Fix "Correct the login name.";
        InvalidLoginOfAccount: "The platform does not accept the login name of the account."
            Fix "Have the login name of the account corrected.";
    }
    PlatformQuotaExceeded {
        PlatformQuotaExceeded: "A quota of the platform is used up." Fix "Have the tenant's quota raised.";
    }
    PlatformPreconditionFailed {
        PlatformPreconditionFailed: "The platform's rules forbid this in the current state of the user's account."
            Fix "Fix the user's or tenant's state first; `apiCode` identifies the problem.";
    }
    GatewayExhausted {
        GatewayExhausted: "This replica lacks system resources for a connection; the request was not sent."
            Retry "Retry with backoff; contact the gateway's operator if this persists.";
    }
    InternalError {
        InternalError: "The gateway itself failed." Fix "Contact the gateway's operator and quote the request id.";
    }
}

impl Case {
    /// Returns the most specific case, according to the state of the call.
    #[must_use]
    pub(super) fn narrowed(self, call: &Call) -> Self {
        match (self, call.certainty()) {
            (Self::AuditUnavailable, Certainty::Unknown | Certainty::Refused | Certainty::Done) => {
                Self::CallUnrecorded
            }
            (Self::DeadlineExceeded, Certainty::NotSent) => Self::DeadlineBeforeSending,
            (Self::DeadlineExceeded, Certainty::Unknown) => Self::DeadlineAtPlatform,
            (Self::InvalidLogin, _) if call.method() == Some(Method::LoginWithOtt) => {
                Self::InvalidLoginOfAccount
            }
            (Self::CallerNotAllowed, _) if is_anonymous(call) => Self::AnonymousNotAllowed,
            // Their places are counted by network and for all of them, not by name.
            (Self::CallerOverloads, _) if is_anonymous(call) => Self::AnonymousCallsOverload,
            (case, _) => case,
        }
    }
}

fn is_anonymous(call: &Call) -> bool {
    call.caller().is_some_and(|(_, proof)| proof == "none")
}
