//! Descriptors of the services, by name.

use prost_reflect::{DescriptorError, DescriptorPool, FileDescriptor, prost_types::FileDescriptorProto};
use tonic::Code;

use crate::base::text::Printable;

/// Descriptors of all services.
#[derive(Debug)]
pub(super) struct Contract(DescriptorPool);

/// Error response to one request. The stream stays open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Unknown {
    /// The request has no `message_request`.
    pub(super) fn request() -> Self {
        Self { code: Code::InvalidArgument, message: "message_request is not set".to_owned() }
    }

    fn name(kind: &str, name: &str) -> Self {
        Self { code: Code::NotFound, message: format!("{kind} not found: {}", Printable(name)) }
    }
}

impl Contract {
    /// Decodes descriptor sets. A file that is in several sets is kept once. Adds the types of error
    /// details: no file imports them, and tools need them to decode a `google.protobuf.Any` in a
    /// status.
    pub(super) fn new(sets: &[&[u8]]) -> Result<Self, DescriptorError> {
        let mut pool = DescriptorPool::new();
        for set in sets {
            pool.decode_file_descriptor_set(*set)?;
        }
        pool.add_file_descriptor_protos(error_details()?)?;
        Ok(Self(pool))
    }

    /// Returns the full names of the services.
    pub(super) fn services(&self) -> impl Iterator<Item = String> {
        self.0.services().map(|service| service.full_name().to_owned())
    }

    /// Returns the encoded file with this name.
    pub(super) fn file(&self, name: &str) -> Result<Vec<u8>, Unknown> {
        let file = self.0.get_file_by_name(name).ok_or_else(|| Unknown::name("file", name))?;
        Ok(file.encode_to_vec())
    }

    /// Returns the encoded file that declares a symbol, by its full name: a service, a method, a
    /// message, a field, an enum, an enum value or an extension.
    pub(super) fn file_with(&self, symbol: &str) -> Result<Vec<u8>, Unknown> {
        let file = self.declaration(symbol).ok_or_else(|| Unknown::name("symbol", symbol))?;
        Ok(file.encode_to_vec())
    }

    /// Returns the encoded file that declares an extension of a message.
    pub(super) fn file_with_extension(&self, message: &str, number: i32) -> Result<Vec<u8>, Unknown> {
        let message = self.0.get_message_by_name(message).ok_or_else(|| Unknown::name("message", message))?;
        let extension = u32::try_from(number).ok().and_then(|number| message.get_extension(number));
        let extension = extension.ok_or_else(|| Unknown::name("extension", &number.to_string()))?;
        Ok(extension.parent_file().encode_to_vec())
    }

    /// Returns the numbers of all extensions of a message.
    pub(super) fn extensions(&self, message: &str) -> Result<Vec<i32>, Unknown> {
        let message = self.0.get_message_by_name(message).ok_or_else(|| Unknown::name("message", message))?;
        Ok(message.extensions().filter_map(|extension| extension.number().try_into().ok()).collect())
    }

    fn declaration(&self, symbol: &str) -> Option<FileDescriptor> {
        let pool = &self.0;
        if let Some(file) = None
            .or_else(|| Some(pool.get_service_by_name(symbol)?.parent_file()))
            .or_else(|| Some(pool.get_message_by_name(symbol)?.parent_file()))
            .or_else(|| Some(pool.get_enum_by_name(symbol)?.parent_file()))
            .or_else(|| Some(pool.get_extension_by_name(symbol)?.parent_file()))
        {
            return Some(file);
        }
        let (parent, name) = symbol.rsplit_once('.')?;
        if let Some(service) = pool.get_service_by_name(parent) {
            let mut methods = service.methods();
            return methods.any(|method| method.name() == name).then(|| service.parent_file());
        }
        if let Some(message) = pool.get_message_by_name(parent) {
            let is_member = message.get_field_by_name(name).is_some()
                || message.oneofs().any(|oneof| oneof.name() == name);
            if is_member {
                return Some(message.parent_file());
            }
        }
        // Enum values are siblings of their enum: they are scoped to its parent.
        let is_in_scope =
            |full_name: &str| full_name.rsplit_once('.').is_some_and(|(scope, _)| scope == parent);
        let mut enums = pool.all_enums();
        let parent = enums.find(|one| {
            (one.full_name() == parent || is_in_scope(one.full_name()))
                && one.get_value_by_name(name).is_some()
        })?;
        Some(parent.parent_file())
    }
}

/// The files of `google.rpc.Status` and its details, and what they import. The library's names of
/// them lack the folder, and a tool that has these types too would take them for other ones.
fn error_details() -> Result<Vec<FileDescriptorProto>, DescriptorError> {
    let pool = DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    let files = pool.files().map(|file| {
        let mut file = file.file_descriptor_proto().clone();
        if file.package() == "google.rpc" && !file.name().contains('/') {
            file.name = Some(format!("google/rpc/{}", file.name()));
        }
        file
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost::Message as _;

    use super::*;
    use crate::proto::FILE_DESCRIPTOR_SET;

    fn contract() -> Contract {
        Contract::new(&[FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET]).expect("descriptors")
    }

    fn name_of(file: Result<Vec<u8>, Unknown>) -> String {
        let file = FileDescriptorProto::decode(&*file.expect("found")).expect("a descriptor");
        file.name().to_owned()
    }

    #[test]
    fn every_kind_of_symbol_is_found_by_its_full_name() {
        let contract = contract();
        for symbol in [
            "ott.v1.OttService",
            "ott.v1.OttService.IssueOtt",
            "ott.v1.IssueOttRequest",
            "ott.v1.IssueOttRequest.login",
            "ott.v1.IssueOttRequest.subject",
            "ott.v1.ErrorReason",
            "ott.v1.ErrorReason.INVALID_REQUEST",
            "ott.v1.INVALID_REQUEST",
        ] {
            assert_eq!(name_of(contract.file_with(symbol)), "ott/v1/ott_service.proto", "{symbol}");
        }
        assert_eq!(name_of(contract.file("ott/v1/ott_service.proto")), "ott/v1/ott_service.proto");
        let services: Vec<String> = contract.services().collect();
        assert_eq!(services, ["ott.v1.OttService", "grpc.health.v1.Health"]);
        assert_eq!(contract.extensions("ott.v1.IssueOttRequest"), Ok(Vec::new()));
    }

    #[test]
    fn error_details_are_found_by_symbol_and_by_their_usual_file_name() {
        let contract = contract();
        for (symbol, file) in [
            ("google.rpc.Status", "google/rpc/status.proto"),
            ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
            ("google.rpc.BadRequest.FieldViolation", "google/rpc/error_details.proto"),
            ("google.protobuf.Any", "google/protobuf/any.proto"),
            ("google.protobuf.Duration", "google/protobuf/duration.proto"),
        ] {
            assert_eq!(name_of(contract.file_with(symbol)), file, "{symbol}");
            assert_eq!(name_of(contract.file(file)), file);
        }
    }

    #[test]
    fn every_import_of_a_file_is_found() {
        let contract = contract();
        for file in contract.0.files() {
            for import in &file.file_descriptor_proto().dependency {
                assert_eq!(&name_of(contract.file(import)), import, "imported by {}", file.name());
            }
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_response() {
        let contract = contract();
        let unknown =
            ["", ".", "ott.v1.Nothing", "ott.v1.OttService.Nothing", "ott.v1.IssueOttRequest.nothing"];
        for symbol in unknown {
            assert_eq!(contract.file_with(symbol).expect_err("unknown").code, Code::NotFound, "{symbol}");
        }
        assert!(contract.file("nothing.proto").is_err());
        assert!(contract.file_with_extension("ott.v1.IssueOttRequest", 1).is_err());
        assert!(contract.file_with_extension("ott.v1.IssueOttRequest", -1).is_err());
        assert!(contract.extensions("nothing").is_err());
        let hostile = contract.file_with("a\n\u{1b}[31m").expect_err("unknown").message;
        assert_eq!(hostile, "symbol not found: a\\n\\u{1b}[31m");
    }
}
