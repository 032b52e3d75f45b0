//! Keys that are no secret.

/// 32 bytes in base64, for a cluster key, the key of a backup repository or an owner's key.
pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
