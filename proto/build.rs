//! Compiles the .proto files to Rust, by protox: no protoc needed. Of what callers send, it also writes down which fields
//! are lists and which hold messages, for `src/codec.rs`.

use std::fmt::{self, Write};
use std::path::PathBuf;

use tonic_prost_build::{Config, FileDescriptorSet};

/// Of `google.protobuf.FieldDescriptorProto`.
const REPEATED: i32 = 3;
const STRING: i32 = 9;
const MESSAGE: i32 = 11;
const BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let between_nodes = [
        "mira/raft/v1/raft.proto",
        "mira/node/v1/shard.proto",
        "mira/node/v1/cluster.proto",
        "mira/node/v1/keys.proto",
        "mira/node/v1/migration.proto",
        "mira/node/v1/backup.proto",
    ];
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile(between_nodes, ["proto"])?)?;
    let public = protox::compile(["mira/v1/memory.proto", "mira/v1/admin.proto"], ["proto"])?;
    let folder = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(folder.join("shapes.rs"), shapes(&public)?)?;
    let mut config = Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::BoundedCodec")
        .compile_fds_with_config(public, config)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

/// The shapes of all messages and the names of those that are requests, as a Rust expression.
fn shapes(public: &FileDescriptorSet) -> Result<String, fmt::Error> {
    let short = |name: &str| name.trim_start_matches(".mira.v1.").to_owned();
    let (mut messages, mut requests) = (Vec::new(), Vec::new());
    for file in public.file.iter().filter(|file| file.package() == "mira.v1") {
        for message in &file.message_type {
            messages.push((message.name().to_owned(), message));
            // Those of maps.
            let nested = message.nested_type.iter();
            messages.extend(nested.map(|nested| (format!("{}.{}", message.name(), nested.name()), nested)));
        }
        let methods = file.service.iter().flat_map(|service| &service.method);
        requests.extend(methods.map(|method| short(method.input_type())));
    }
    let mut text = format!("Shapes {{ requests: &{requests:?}, messages: &[\n");
    for (name, message) in messages {
        let mut fields = Vec::new();
        for field in &message.field {
            let kind = field.r#type() as i32;
            let is_list = field.label() as i32 == REPEATED && [STRING, BYTES, MESSAGE].contains(&kind);
            if is_list || kind == MESSAGE {
                fields.push((field.number(), is_list, short(field.type_name())));
            }
        }
        writeln!(text, "({name:?}, &{fields:?}),")?;
    }
    text.push_str("] }");
    Ok(text)
}
