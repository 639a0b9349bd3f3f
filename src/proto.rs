//! The generated contract: messages, client, server, and its descriptor set.
//!
//! Generated from `proto/`; `service` validates and converts the messages. The `Debug` of a message
//! redacts fields that the contract marks `debug_redact`.

pub mod codec;
mod redaction;

/// The contract and its imports, as an encoded
/// `google.protobuf.FileDescriptorSet`, comments and options included.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));

/// The packages of the contract.
pub mod ott {
    /// Package `ott.v1`.
    #[expect(
        unused_qualifications,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        clippy::disallowed_methods,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("ott.v1");
        include!(concat!(env!("OUT_DIR"), "/ott.v1.debug.rs"));
    }
}

#[cfg(test)]
mod tests;
