#!/usr/bin/env python3
"""Writes v1.txt: samples of format version 1, made from the documented layout alone by other libraries than the crate's.

The crate's tests open every sample, so data written by a release stays readable, and the documentation of the layout
stays true. Needs PyPI `cryptography` (with OpenSSL 3.2 or newer). Run it only to add samples: never change one.
"""

import base64
import hashlib
import hmac
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

SALT = {
    "pi": b"3.14159265358979323846264338327950288419716939937510582097494459",
    "e": b"2.71828182845904523536028747135266249775724709369995957496696762",
    "phi": b"1.61803398874989484820458683436563811772030917980576286213544862",
    "gamma": b"0.57721566490153286060651209008240243104215933593992359880576723",
}

CLUSTER, COLLECTION, OWNER, LAYER = (bytes(range(start, start + 32)) for start in (0, 32, 64, 96))
COLLECTION_ID, COLLECTION_VERSION, LAYER_VERSION = 7, 3, 2
FRAME, SHARD, FRAME_VERSION, FILE = 0x0192F0C4A5B67C8D9E0F112233445566, 5, 9, 0xFEEDFACE
NONCE12, NONCE24 = bytes(range(200, 212)), bytes(range(200, 224))
TEXT = "Ein Gedanke, den nur ich kenne.".encode()
GCM, GCM_SIV, XCHACHA = 1, 2, 3
LZ4 = 1


def leaf(salt, secret, label, ident=b"", size=32):
    prk = hmac.digest(SALT[salt], secret, "sha256")
    return hmac.digest(prk, b"mira/v1/" + label + b"\0" + ident + b"\x01", "sha256")[:size]


def hchacha20(key, nonce16):
    def rotate(x, n):
        return ((x << n) & 0xFFFFFFFF) | (x >> (32 - n))

    x = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key) + struct.unpack("<4I", nonce16))
    rounds = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for a, b, c, d in rounds * 10:
        for p, q, r, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[p] = (x[p] + x[q]) & 0xFFFFFFFF
            x[r] = rotate(x[r] ^ x[p], n)
    return struct.pack("<8I", *(x[:4] + x[12:]))


def seal(kind, algorithm, key, reference, context, payload, flags=0):
    nonce = NONCE24 if algorithm == XCHACHA else NONCE12
    header = kind + bytes([1, algorithm, flags]) + reference + nonce
    if algorithm == XCHACHA:
        cipher, nonce = ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]
    else:
        cipher = (AESGCM if algorithm == GCM else AESGCMSIV)(key)
    return header + cipher.encrypt(nonce, payload, header + context)


def owner_context(part, chunk=0):
    return struct.pack("<Q", COLLECTION_ID) + FRAME.to_bytes(16, "little") + struct.pack("<BI", part, chunk)


def context(part, chunk=0):
    return owner_context(part, chunk) + struct.pack("<IQ", SHARD, FRAME_VERSION)


def u32(number):
    return struct.pack("<I", number)


def checked(kind, secret, labels, context_bytes, payload):
    check = hmac.digest(leaf("e", secret, labels[1]), NONCE12, "sha256")[:16]
    return seal(kind, GCM_SIV, leaf("e", secret, labels[0]), check, context_bytes, payload)


def passphrase_record():
    salt = bytes(range(16))
    stretched = Argon2id(salt=salt, length=32, iterations=2, lanes=1, memory_cost=64).derive(b"correct horse")
    text = "$argon2id$v=19$m=64,t=2,p=1$" + unpadded(salt)
    return text + "$" + unpadded(checked(b"R", stretched, (b"passphrase", b"passphrase-check"), text.encode(), OWNER))


def parts(key, *values):
    return hmac.digest(key, b"".join(struct.pack("<Q", len(value)) + value for value in values), "sha256")


def unpadded(data):
    return base64.b64encode(data).decode().rstrip("=")


def samples():
    cluster_id = leaf("gamma", CLUSTER, b"key-id", size=8)
    wrap_key = leaf("gamma", CLUSTER, b"wrap")
    yield "cluster_key_id", cluster_id
    yield "collection_key_id", leaf("pi", COLLECTION, b"key-id", size=8)
    yield "owner_key_id", leaf("e", OWNER, b"key-id", size=8)
    purpose = b"\x01" + struct.pack("<QI", COLLECTION_ID, COLLECTION_VERSION)
    yield "wrapped_collection_key", seal(b"K", GCM_SIV, wrap_key, cluster_id, purpose, COLLECTION)
    purpose = b"\x02" + struct.pack("<QI", 0, LAYER_VERSION)
    yield "wrapped_cluster_layer_key", seal(b"K", GCM_SIV, wrap_key, cluster_id, purpose, LAYER)

    frame_key = leaf("pi", COLLECTION, b"frame", FRAME.to_bytes(16, "little"))
    yield "frame_body", seal(b"F", GCM, frame_key, u32(COLLECTION_VERSION), context(1), TEXT)
    yield "frame_metadata", seal(b"F", GCM, frame_key, u32(COLLECTION_VERSION), context(2), b"{}")
    # lz4: one literal, a match of 4 + 15 + 255 + 220 = 494 bytes at distance 1, five last literals.
    run = u32(500) + b"\x1fa\x01\x00\xff\xdc" + b"\x50aaaaa"
    yield "frame_chunk_compressed", seal(b"F", GCM, frame_key, u32(COLLECTION_VERSION), context(5, 42), run, LZ4)

    page_key = leaf("pi", COLLECTION, b"page", FILE.to_bytes(16, "little"))
    yield "page", seal(b"P", GCM, page_key, u32(COLLECTION_VERSION), struct.pack("<QB", 11, 1), TEXT)
    yield "meta", seal(b"M", GCM_SIV, leaf("gamma", CLUSTER, b"meta"), cluster_id, b"collections/7", TEXT)

    owner = checked(b"O", OWNER, (b"owner", b"owner-check"), owner_context(1), TEXT)
    layer_key = leaf("phi", COLLECTION, b"collection-layer")
    collection = seal(b"C", XCHACHA, layer_key, u32(COLLECTION_VERSION), context(1), owner)
    outer_key = leaf("gamma", LAYER, b"cluster-layer", FRAME.to_bytes(16, "little"))
    yield "private_owner", owner
    yield "private_collection", collection
    yield "private_cluster", seal(b"L", GCM, outer_key, u32(LAYER_VERSION), context(1), collection)

    session = struct.pack("<Q", 7) + b"session" + b"s-1"
    yield "tag", hmac.digest(leaf("pi", COLLECTION, b"tag"), session, "sha256")[:16]
    yield "content_digest", hmac.digest(leaf("pi", COLLECTION, b"content-digest"), TEXT, "sha256")
    yield "passphrase_record", passphrase_record().encode()

    placement, owners = leaf("pi", COLLECTION, b"placement"), leaf("e", OWNER, b"owner-placement")
    source = (b"id", b"idempotency-key", b"ada", b"k-1", struct.pack("<Q", 2))
    yield "placement_key", placement
    yield "session_digest", parts(placement, b"session", b"s-1")[:4]
    yield "private_session_digest", parts(placement, b"private-session", parts(owners, b"session", b"s-1"))[:4]
    yield "derived_id_bits", parts(placement, *source)[:16]
    yield "private_derived_id_bits", parts(placement, b"private-id", parts(owners, *source))[:16]



lines = [f"{name} {data.hex()}" for name, data in samples()]
Path(__file__).with_name("v1.txt").write_text("\n".join(lines) + "\n")
print(hashlib.sha256("\n".join(lines).encode()).hexdigest())
