//! Compression before sealing, and its bounded inverse.
//!
//! A payload is the plaintext itself or, flagged, `plain length (u32, little-endian) ‖ lz4 block`, whichever is
//! shorter. Sealing hides neither length, so what compression saves is visible to whoever sees the ciphertext: a known
//! and documented leak of a store that must stay small. Opening never allocates more than the caller allows, nor more
//! than an lz4 block of that length can hold.

use zeroize::Zeroizing;

use crate::CryptoError;

/// Below this, lz4 cannot win back its length prefix often enough to try.
const WORTH_COMPRESSING: usize = 64;

/// The most that one byte of an lz4 block can stand for: a match-length byte of 255.
const MAX_LZ4_RATIO: usize = 255;

const LENGTH_PREFIX: usize = 4;

/// `plain` compressed, if that is allowed and makes it shorter. Wiped when dropped: it may be an owner's private text.
pub(crate) fn deflate(plain: &[u8], compressible: bool) -> Option<Zeroizing<Vec<u8>>> {
    if !compressible || plain.len() < WORTH_COMPRESSING {
        return None;
    }
    Some(Zeroizing::new(lz4_flex::block::compress_prepend_size(plain))).filter(|packed| packed.len() < plain.len())
}

/// The plaintext of a compressed payload that has passed authentication.
pub(crate) fn inflate(packed: &[u8], max_len: usize) -> Result<Vec<u8>, CryptoError> {
    let (prefix, block) = packed.split_first_chunk::<LENGTH_PREFIX>().ok_or(CryptoError::Damaged)?;
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > max_len {
        return Err(CryptoError::TooLarge { len, max: max_len });
    }
    if len > block.len().saturating_mul(MAX_LZ4_RATIO) {
        return Err(CryptoError::Damaged);
    }
    let mut plain = vec![0; len];
    match lz4_flex::block::decompress_into(block, &mut plain) {
        Ok(written) if written == len => Ok(plain),
        _ => Err(CryptoError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shrinks_is_compressed() {
        assert_eq!(deflate(&[7; 63], true), None);
        assert_eq!(deflate(&[7; 4_096], false), None);
        let counting: Vec<u8> = (0..=255).collect();
        assert_eq!(deflate(&counting, true), None);
        let packed = deflate(&[7; 4_096], true).expect("shrinks");
        assert_eq!(inflate(&packed, 4_096), Ok(vec![7; 4_096]));
    }

    #[test]
    fn a_bomb_is_refused_before_it_allocates() {
        let packed = deflate(&vec![0; 1 << 24], true).expect("shrinks");
        assert!(packed.len() < 70_000);
        assert_eq!(inflate(&packed, 1 << 20), Err(CryptoError::TooLarge { len: 1 << 24, max: 1 << 20 }));
    }

    #[test]
    fn a_false_length_is_damage() {
        let packed = deflate(&[7; 4_096], true).expect("shrinks");
        for len in [0, 1, 4_095, 4_097, u32::MAX] {
            let mut forged = packed.clone();
            forged[..LENGTH_PREFIX].copy_from_slice(&len.to_le_bytes());
            assert_eq!(inflate(&forged, usize::MAX), Err(CryptoError::Damaged), "length {len}");
        }
        assert_eq!(inflate(&packed[..3], usize::MAX), Err(CryptoError::Damaged));
        assert_eq!(inflate(&packed[..packed.len() - 1], usize::MAX), Err(CryptoError::Damaged));
    }
}
