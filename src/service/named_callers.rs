//! Access check of reflection: any rule must mention the caller.
//!
//! Runs before a message is decoded, so that decoding errors reveal nothing to an unknown
//! caller.

use tonic::{Request, Status, service::Interceptor};

use crate::{access::Access, service::arrival::Arrival, status::Failure};

/// Interceptor that refuses callers that no rule mentions.
#[derive(Clone, Debug)]
pub struct NamedCallers(Access);

impl NamedCallers {
    /// Accepts the callers that the rules mention.
    #[must_use]
    pub const fn of(access: Access) -> Self {
        Self(access)
    }
}

impl Interceptor for NamedCallers {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Arrival { call, caller, policy, recognition, .. } = Arrival::peek(&request);
        match self.0.mentions(&policy, &caller) {
            Ok(()) => {
                recognition.set();
                Ok(request)
            }
            Err(denied) => Err(Failure::from(denied).into_status(&call)),
        }
    }
}
