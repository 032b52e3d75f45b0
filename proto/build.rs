//! Compiles the .proto files to Rust, by protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "mira/raft/v1/raft.proto",
        "mira/node/v1/shard.proto",
        "mira/node/v1/cluster.proto",
        "mira/node/v1/keys.proto",
        "mira/node/v1/migration.proto",
        "mira/node/v1/backup.proto",
        "mira/v1/memory.proto",
        "mira/v1/admin.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
