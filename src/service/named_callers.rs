//! The first question to the rules: does any of them name this caller at all?
//!
//! Asked before a message is even decoded, so that a stranger learns nothing from how
//! its message is taken. It only ever refuses: what a caller may do is decided in the
//! handlers.

use tonic::{Request, Status, service::Interceptor};

use crate::{access::Access, arrival::Arrival, status::Failure};

/// Turns away callers that no rule names.
#[derive(Clone, Debug)]
pub struct NamedCallers(Access);

impl NamedCallers {
    /// Those whom these rules name may pass.
    #[must_use]
    pub const fn of(access: Access) -> Self {
        Self(access)
    }
}

impl Interceptor for NamedCallers {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Arrival { call, caller, .. } = Arrival::peek(&request);
        match self.0.names(&caller) {
            Ok(()) => Ok(request),
            Err(denied) => Err(Failure::from(denied).into_status(&call)),
        }
    }
}
