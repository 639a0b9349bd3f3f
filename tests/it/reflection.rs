//! Reflection, as used by generic tools.

use std::collections::{HashMap, VecDeque};

use ott_gateway::proto::ott::v1::IssueOttRequest;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _,
    prost::Message as _,
    prost_types::{FileDescriptorProto, FileDescriptorSet},
};
use tonic::transport::Channel;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{gateway::Setup, upstream::Upstream};

/// A tool that gets all types by reflection.
struct Tool(ServerReflectionClient<Channel>);

impl Tool {
    async fn ask(&mut self, message_request: MessageRequest) -> Vec<FileDescriptorProto> {
        let request =
            ServerReflectionRequest { message_request: Some(message_request.clone()), ..Default::default() };
        let requests = tokio_stream_of(request);
        let mut responses = self.0.server_reflection_info(requests).await.expect("reflection").into_inner();
        let response = responses.message().await.expect("a response").expect("one response");
        match response.message_response {
            Some(MessageResponse::FileDescriptorResponse(files)) => {
                let files = files.file_descriptor_proto.iter();
                files.map(|file| FileDescriptorProto::decode(&**file).expect("a descriptor")).collect()
            }
            other => panic!("{message_request:?}: {other:?}"),
        }
    }

    /// Returns the message type `name`, from its file and all imports.
    async fn message(&mut self, name: &str) -> MessageDescriptor {
        let mut files = HashMap::new();
        let mut missing = VecDeque::from([MessageRequest::FileContainingSymbol(name.to_owned())]);
        while let Some(request) = missing.pop_front() {
            for file in self.ask(request).await {
                let imports = file.dependency.iter().filter(|import| !files.contains_key(*import));
                missing.extend(imports.map(|import| MessageRequest::FileByFilename(import.clone())));
                files.insert(file.name().to_owned(), file);
            }
        }
        let set = FileDescriptorSet { file: files.into_values().collect() };
        let pool = DescriptorPool::from_file_descriptor_set(set).expect("the files are consistent");
        pool.get_message_by_name(name).expect("the file declares it")
    }
}

fn tokio_stream_of<T: Send + 'static>(value: T) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::once(std::future::ready(value))
}

#[tokio::test]
async fn error_details_can_be_decoded_by_reflection() {
    let platform = Upstream::http().await;
    let gateway =
        Setup::for_platform(platform.address()).replacing("[admin]", "reflection = true\n[admin]").start();
    let refused = gateway.client().await.issue_ott(IssueOttRequest::default()).await.expect_err("no user");

    let mut tool = Tool(ServerReflectionClient::new(gateway.channel().await));
    let status = tool.message("google.rpc.Status").await;
    let status = DynamicMessage::decode(status, refused.details()).expect("a status");
    let details = status.get_field_by_name("details").expect("a field").into_owned();
    let mut shown = HashMap::new();
    for detail in details.as_list().expect("a list") {
        let any = detail.as_message().expect("an Any");
        assert_eq!(any.descriptor().full_name(), "google.protobuf.Any");
        let url = any.get_field_by_name("type_url").expect("a field");
        let name =
            url.as_str().expect("a text").strip_prefix("type.googleapis.com/").expect("the usual host");
        let value = any.get_field_by_name("value").expect("a field");
        let message = tool.message(name).await;
        let message = DynamicMessage::decode(message, &**value.as_bytes().expect("bytes")).expect(name);
        shown.insert(name.to_owned(), message.to_string());
    }
    assert!(shown["google.rpc.ErrorInfo"].contains("INVALID_REQUEST"), "{shown:?}");
    assert!(shown["google.rpc.BadRequest"].contains("exactly one of login"), "{shown:?}");
    assert!(shown.contains_key("google.rpc.RequestInfo"), "{shown:?}");
}
