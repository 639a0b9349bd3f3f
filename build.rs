//! Compiles the contract: messages, client and server, the descriptor set, and a `Debug` for every
//! message that redacts the fields marked `debug_redact`.
//!
//! Needs no `protoc`. Fails the build on anything in the contract that the generated `Debug` does
//! not support.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};

const PACKAGE: &str = "ott.v1";
const CONTRACT: &str = "ott/v1/ott_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    #[expect(clippy::disallowed_methods, reason = "cargo passes the output directory only this way")]
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file(CONTRACT)?;

    tonic_prost_build::configure()
        .skip_debug(["."])
        .codec_path("crate::proto::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;

    // The types of `file_descriptor_set()` above drop `debug_redact`; these two keep it.
    fs::write(out.join("descriptor_set.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("ott.v1.debug.rs"), debug_impls(&compiler.descriptor_pool())?)?;
    Ok(())
}

/// Returns a `Debug` for every message, every oneof and every enum of the contract.
fn debug_impls(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for message in pool.all_messages().filter(|message| message.package_name() == PACKAGE) {
        if message.parent_message().is_some() {
            return Err(format!("{}: nested messages are not supported", message.full_name()).into());
        }
        message_debug(&mut code, &message)?;
        for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            oneof_debug(&mut code, &message, &oneof)?;
        }
    }
    for kind in pool.all_enums().filter(|kind| kind.package_name() == PACKAGE) {
        writeln!(code, "impl ::core::fmt::Debug for {} {{", upper_camel(kind.name()))?;
        writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(code, "        f.write_str(self.as_str_name())\n    }}\n}}")?;
    }
    Ok(code)
}

fn message_debug(code: &mut String, message: &MessageDescriptor) -> Result<(), Box<dyn Error>> {
    let name = message.name();
    writeln!(code, "impl ::core::fmt::Debug for {name} {{")?;
    writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
    writeln!(code, "        f.debug_struct({name:?})")?;
    let in_oneof = |field: &FieldDescriptor| field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    for field in message.fields().filter(|field| in_oneof(field).is_none()) {
        let member = field.name();
        let shown = shown(&field, &format!("&self.{member}"))?;
        writeln!(code, "            .field({member:?}, {shown})")?;
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let member = oneof.name();
        writeln!(code, "            .field({member:?}, &self.{member})")?;
    }
    writeln!(code, "            .finish()\n    }}\n}}")?;
    Ok(())
}

fn oneof_debug(
    code: &mut String,
    message: &MessageDescriptor,
    oneof: &OneofDescriptor,
) -> Result<(), Box<dyn Error>> {
    let path = format!("{}::{}", snake(message.name()), upper_camel(oneof.name()));
    writeln!(code, "impl ::core::fmt::Debug for {path} {{")?;
    writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
    writeln!(code, "        match self {{")?;
    for field in oneof.fields() {
        let variant = upper_camel(field.name());
        let shown = shown(&field, "value")?;
        writeln!(
            code,
            "            Self::{variant}(value) => f.debug_tuple({variant:?}).field({shown}).finish(),"
        )?;
    }
    writeln!(code, "        }}\n    }}\n}}")?;
    Ok(())
}

/// Returns the expression that formats a field. `borrowed` is an expression that borrows it.
fn shown(field: &FieldDescriptor, borrowed: &str) -> Result<String, Box<dyn Error>> {
    if is_redacted(field) {
        return Ok(format!("crate::proto::redaction::redacted({borrowed})"));
    }
    match field.kind() {
        Kind::Enum(kind) if field.is_list() || field.supports_presence() => {
            Err(format!("{}: only plain fields of {} are supported", field.full_name(), kind.name()).into())
        }
        Kind::Enum(kind) => {
            let number = borrowed.strip_prefix('&').map_or_else(|| format!("*{borrowed}"), str::to_owned);
            Ok(format!("&crate::proto::redaction::Named::<{}>::new({number})", upper_camel(kind.name())))
        }
        _ => Ok(borrowed.to_owned()),
    }
}

/// Returns whether the field is marked `debug_redact` in the contract.
fn is_redacted(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_name("debug_redact").is_some_and(|option| option.as_bool() == Some(true))
}

/// Returns the name of a message's module in the generated code.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Returns the name of a oneof, a variant or an enum in the generated code.
fn upper_camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
        })
        .collect()
}
