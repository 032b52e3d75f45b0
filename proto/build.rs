//! Compiles the .proto files to Rust, by protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node =
        ["shard", "cluster", "keys", "migration", "backup"].map(|service| format!("mira/node/v1/{service}.proto"));
    let others = ["mira/raft/v1/raft.proto", "mira/v1/memory.proto"].map(String::from);
    let descriptors = protox::compile(node.into_iter().chain(others), ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
