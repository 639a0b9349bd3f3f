//! Server reflection, for callers that a rule mentions.

mod contract;

use std::sync::Arc;

use tonic::service::interceptor::InterceptedService;
use tonic_reflection::pb;

use self::contract::Contract;
use super::NamedCallers;
use crate::{access::Access, proto::FILE_DESCRIPTOR_SET};

/// Maximum size of a request, in bytes. Requests usually contain one name.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Inconsistent descriptors.
pub type ReflectionError = prost_reflect::DescriptorError;

/// Serves the contract by reflection.
#[derive(Clone, Debug)]
pub struct Reflection {
    callers: NamedCallers,
}

/// Implements one version of the protocol. Both versions have the same messages in different
/// packages.
macro_rules! service {
    ($version:ident) => {
        pub(super) mod $version {
            use std::sync::Arc;

            use futures_util::{StreamExt as _, stream::BoxStream};
            use tonic::{Request, Response, Status, Streaming};
            use tonic_reflection::pb::$version::{
                ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
                ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
                server_reflection_server::ServerReflection,
            };

            use super::contract::{Contract, Unknown};

            #[derive(Debug)]
            pub(super) struct Service(pub(super) Arc<Contract>);

            #[tonic::async_trait]
            impl ServerReflection for Service {
                type ServerReflectionInfoStream =
                    BoxStream<'static, Result<ServerReflectionResponse, Status>>;

                async fn server_reflection_info(
                    &self,
                    requests: Request<Streaming<ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let contract = Arc::clone(&self.0);
                    let responses = requests.into_inner().map(move |request| Ok(answer(&contract, request?)));
                    Ok(Response::new(responses.boxed()))
                }
            }

            /// Answers an unknown name within the stream, which stays open.
            fn answer(contract: &Contract, request: ServerReflectionRequest) -> ServerReflectionResponse {
                let response = respond(contract, request.message_request.as_ref());
                ServerReflectionResponse {
                    valid_host: request.host.clone(),
                    message_response: Some(response.unwrap_or_else(|Unknown { code, message }| {
                        MessageResponse::ErrorResponse(ErrorResponse {
                            error_code: code.into(),
                            error_message: message,
                        })
                    })),
                    original_request: Some(request),
                }
            }

            fn respond(
                contract: &Contract,
                request: Option<&MessageRequest>,
            ) -> Result<MessageResponse, Unknown> {
                let file = |file| {
                    MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                        file_descriptor_proto: vec![file],
                    })
                };
                match request.ok_or_else(Unknown::request)? {
                    MessageRequest::FileByFilename(name) => contract.file(name).map(file),
                    MessageRequest::FileContainingSymbol(name) => contract.file_with(name).map(file),
                    MessageRequest::FileContainingExtension(extension) => contract
                        .file_with_extension(&extension.containing_type, extension.extension_number)
                        .map(file),
                    MessageRequest::AllExtensionNumbersOfType(name) => {
                        let extension_number = contract.extensions(name)?;
                        Ok(MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                            base_type_name: name.clone(),
                            extension_number,
                        }))
                    }
                    MessageRequest::ListServices(_) => {
                        let service = contract.services().map(|name| ServiceResponse { name }).collect();
                        Ok(MessageResponse::ListServicesResponse(ListServiceResponse { service }))
                    }
                }
            }
        }
    };
}

service!(v1);
service!(v1alpha);

type Served<Service> = InterceptedService<Service, NamedCallers>;
type V1<Service> = pb::v1::server_reflection_server::ServerReflectionServer<Service>;
type V1Alpha<Service> = pb::v1alpha::server_reflection_server::ServerReflectionServer<Service>;

impl Reflection {
    /// Creates the service for callers that these rules mention.
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self { callers: NamedCallers::of(access) }
    }

    /// `grpc.reflection.v1`.
    ///
    /// # Errors
    ///
    /// The descriptors of the contract are inconsistent.
    pub fn v1(
        &self,
    ) -> Result<Served<V1<impl pb::v1::server_reflection_server::ServerReflection>>, ReflectionError> {
        let service = v1::Service(contract(pb::v1::FILE_DESCRIPTOR_SET)?);
        let service = V1::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(InterceptedService::new(service, self.callers.clone()))
    }

    /// `grpc.reflection.v1alpha`, which many clients still use.
    ///
    /// # Errors
    ///
    /// The descriptors of the contract are inconsistent.
    pub fn v1alpha(
        &self,
    ) -> Result<Served<V1Alpha<impl pb::v1alpha::server_reflection_server::ServerReflection>>, ReflectionError>
    {
        let service = v1alpha::Service(contract(pb::v1alpha::FILE_DESCRIPTOR_SET)?);
        let service = V1Alpha::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(InterceptedService::new(service, self.callers.clone()))
    }
}

fn contract(reflection: &[u8]) -> Result<Arc<Contract>, ReflectionError> {
    Contract::new(&[FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET, reflection]).map(Arc::new)
}
