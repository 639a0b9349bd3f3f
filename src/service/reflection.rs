//! Reflection: the contract, for those whom a rule names.

use tonic::service::interceptor::InterceptedService;
use tonic_reflection::server::{Builder, Error, v1, v1alpha};

use super::NamedCallers;
use crate::{access::Access, proto::FILE_DESCRIPTOR_SET};

/// The most bytes of a question: a name, as a rule.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Offers the contract by reflection.
#[derive(Clone, Debug)]
pub struct Reflection {
    callers: NamedCallers,
}

impl Reflection {
    /// To those whom these rules name.
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self { callers: NamedCallers::of(access) }
    }

    /// `grpc.reflection.v1`.
    pub fn v1(
        &self,
    ) -> Result<InterceptedService<v1::ServerReflectionServer<impl v1::ServerReflection>, NamedCallers>, Error>
    {
        let service = builder().build_v1()?.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(InterceptedService::new(service, self.callers.clone()))
    }

    /// `grpc.reflection.v1alpha`, which many clients still ask for.
    pub fn v1alpha(
        &self,
    ) -> Result<
        InterceptedService<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, NamedCallers>,
        Error,
    > {
        let service = builder().build_v1alpha()?.max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(InterceptedService::new(service, self.callers.clone()))
    }
}

fn builder<'a>() -> Builder<'a> {
    Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
