//! Writes what fuzzing starts from into `corpus/TARGET/`: the committed samples of formats, an index image, requests.

use std::{fs, io, path::Path};

use mira_fuzz::{content_of, small_index, written};
use mira_proto::node_v1;
use prost::Message;

fn main() -> io::Result<()> {
    for (crate_folder, target) in [("raft", "replication"), ("node", "shard_records"), ("node", "commands"), ("node", "sealed")] {
        for (name, bytes) in samples(crate_folder)? {
            if target == "replication" {
                put(target, &name, &bytes)?;
                // Behind a checksum, which the target makes itself.
                put(target, &format!("{name}-bare"), bytes.get(4..).unwrap_or_default())?;
            } else {
                for which in 0..9u8 {
                    put(target, &format!("{name}-{which}"), &[&[which], &bytes[..]].concat())?;
                }
            }
        }
    }
    for documents in [0, 3, 40] {
        let image = written(&small_index(documents));
        put("index_image", &format!("whole-{documents}"), &image)?;
        put("index_image", &format!("content-{documents}"), &content_of(&image))?;
    }
    let requests = [
        (1u8, r#"{"content":"a text","type":"note","session":"s","role":"user","metadata":{"a":[1,{"b":null}]},"id":"01999999-0000-7000-8000-000000000001","replace":true,"expires_at":"2027-01-01T00:00:00Z","vector":[0.5,-1e3]}"#),
        (1, r#"{"items":[{"content":"a"},{"bytes":"AAEC","expected_version":0}]}"#),
        (2, r#"{"query":"a","queries":["b"],"k":3,"filter":{"all":[{"field":"type","in":["note"]},{"not":{"field":"n","range":{"gte":1,"lt":2.5}}}]},"min_score":0.1,"after":"x","diversity":0.5,"recency":{"half_life":"1d"}}"#),
        (3, r#"{"session":"s","from":"2026-01-01T00:00:00Z","last":5}"#),
        (3, r#"{"ids":["01999999-0000-7000-8000-000000000001"]}"#),
        (4, r#"{"session":"s"}"#),
        (5, r#"{"dim":384,"metric":"cosine","quantization":"binary","partitions":2,"ttl_seconds":60}"#),
        (6, r#"{"all":[{"field":"type","in":["note"]},{"any":[{"field":"a","exists":true}]}]}"#),
    ];
    for (number, (which, json)) in requests.into_iter().enumerate() {
        put("requests", &number.to_string(), &[&[which], json.as_bytes()].concat())?;
    }
    let writes = vec![node_v1::WriteRequest { request_id: vec![1; 16].into(), collection: 7, ..Default::default() }];
    put("messages", "write", &[&[1u8], &node_v1::WriteManyRequest { writes }.encode_to_vec()[..]].concat())
}

fn put(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("seed-{name}")), bytes)
}

/// The samples of a crate: their names and bytes.
fn samples(crate_folder: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_folder).join("samples/v1.txt");
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let bytes = |hex: &str| {
        let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(digits).collect()
    };
    Ok(lines.map(|(name, hex)| (name.to_owned(), bytes(hex))).collect())
}
