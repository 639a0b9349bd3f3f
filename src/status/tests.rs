mod catalogue;
mod messages;
mod platform;
mod undocumented;
mod wire;

use std::{collections::BTreeMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::Failure;
use crate::{
    base::clock,
    domain::call::{Call, Certainty, Deadline, Method},
};

const OPERATIONS: [Method; 2] = [Method::IssueOtt, Method::LoginWithOtt];
const CERTAINTIES: [Certainty; 4] =
    [Certainty::NotSent, Certainty::Refused, Certainty::Unknown, Certainty::Done];

fn call(method: Method) -> Call {
    let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
    call.set_method(method);
    call
}

/// A call whose last attempt ended with this certainty.
fn call_with(method: Method, certainty: Certainty) -> Call {
    let call = call(method);
    call.attempt_ended(certainty);
    call
}

/// A status as a client reads it.
struct Answer {
    code: Code,
    reason: String,
    metadata: BTreeMap<String, String>,
    details: ErrorDetails,
    pushback: Option<String>,
    rate_limited: bool,
    message: String,
    bytes: Vec<u8>,
}

impl Answer {
    fn of(failure: Failure, call: &Call) -> Self {
        Self::read(&failure.into_status(call))
    }

    fn read(status: &Status) -> Self {
        let details = status.check_error_details().expect("the details can be decoded");
        let info = details.error_info().expect("every status has an ErrorInfo").clone();
        assert_eq!(info.domain, "ott-gateway");
        assert!(details.request_info().is_some());
        let trailer = |name: &str| {
            status.metadata().get(name).map(|value| value.to_str().expect("visible ASCII").to_owned())
        };
        Self {
            code: status.code(),
            reason: info.reason,
            metadata: info.metadata.into_iter().collect(),
            pushback: trailer("grpc-retry-pushback-ms"),
            rate_limited: trailer("x-envoy-ratelimited").as_deref() == Some("true"),
            message: status.message().to_owned(),
            bytes: status.details().to_vec(),
            details,
        }
    }

    fn reported(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    fn retry_delay(&self) -> Option<Duration> {
        self.details.retry_info().and_then(|info| info.retry_delay)
    }

    fn text(&self) -> String {
        format!("{}{}", self.message, String::from_utf8_lossy(&self.bytes))
    }
}
