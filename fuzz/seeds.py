#!/usr/bin/env python3
"""Writes what fuzzing starts from into corpus/TARGET/: the committed samples of formats, and requests."""

from pathlib import Path

HERE = Path(__file__).parent
# Targets, and among how many decoders the first byte of their inputs chooses (0: there is no such byte).
TARGETS = [("raft", "replication", 0), ("node", "shard_records", 11), ("node", "commands", 5), ("node", "sealed", 9)]
REQUESTS = [
    (1, '{"content":"a text","type":"note","session":"s","role":"user","metadata":{"a":[1,{"b":null}]},"id":'
        '"01999999-0000-7000-8000-000000000001","replace":true,"expires_at":"2099-01-01T00:00:00Z","vector":[0.5,-1e3]}'),
    (1, '{"items":[{"content":"a"},{"bytes":"AAEC","expected_version":0,"created_at":"2024-01-01T00:00:00Z"}]}'),
    (2, '{"query":"a","k":3,"filter":{"and":[{"field":"type","in":["note"]},{"not":{"field":"metadata.n","gte":1}}]},'
        '"min_score":0.1,"diversity":0.5,"recency":{"half_life_seconds":60},"group_by":"session","explain":true}'),
    (1, '{"content":"a","vector":"AAAAPwAAgD8=","vectors":{"state":"AAAAPw=="}}'),
    (2, '{"vectors":[[1,2],[3,4]],"combine":"mean","cursor":"AAAA","created_from":"2024-01-01T00:00:00Z"}'),
    (3, '{"session":"s","created_from":"2024-01-01T00:00:00Z","limit":5,"last":true}'),
    (3, '{"ids":["01999999-0000-7000-8000-000000000001"],"consistency":"any"}'),
    (3, '{"id":"01999999-0000-7000-8000-000000000001","known_at":"2024-01-01T00:00:00Z"}'),
    (4, '{"session":"s","now":true}'),
    (4, '{"filter":{"field":"type","eq":"note"}}'),
    (5, '{"dim":384,"metric":"cosine","quantization":"binary","partitions":2,"ttl_seconds":60,'
        '"versions":{"last":3,"days":30},"bin_days":1}'),
    (6, '{"or":[{"field":"type","prefix":"n"},{"field":"metadata.a","exists":true}]}'),
]


def put(target: str, name: str, data: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


for crate, target, decoders in TARGETS:
    for line in (HERE.parent / crate / "samples/v1.txt").read_text().splitlines():
        name, _, text = line.partition(" ")
        sample = bytes.fromhex(text)
        if decoders == 0:
            put(target, name, sample)
            # Behind a checksum, which the target makes itself.
            put(target, f"{name}-bare", sample[4:])
        for which in range(decoders):
            put(target, f"{name}-{which}", bytes([which]) + sample)
for number, (which, request) in enumerate(REQUESTS):
    put("requests", str(number), bytes([which]) + request.encode())
