//! Published test vectors of the primitives, so that an upgrade of a cipher crate cannot change them unnoticed.

use aes_gcm_siv::{
    Aes256GcmSiv,
    aead::{AeadInOut, KeyInit},
};
use hkdf::Hkdf;
use sha2::Sha256;

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// RFC 5869, test case 1.
#[test]
fn hkdf_sha256() {
    let salt = from_hex("000102030405060708090a0b0c");
    let mut okm = [0; 42];
    Hkdf::<Sha256>::new(Some(&salt), &[0x0b; 22])
        .expand(&from_hex("f0f1f2f3f4f5f6f7f8f9"), &mut okm)
        .expect("42 bytes are few");
    let expected = from_hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    assert_eq!(okm.as_slice(), expected);
}

/// RFC 8452, appendix C.2, second case.
#[test]
fn aes_256_gcm_siv() {
    let mut key = [0; 32];
    key[0] = 1;
    let mut nonce = [0; 12];
    nonce[0] = 3;
    let mut buffer = from_hex("0100000000000000");
    let tag = Aes256GcmSiv::new(&key.into())
        .encrypt_inout_detached(&nonce.into(), &[], buffer.as_mut_slice().into())
        .expect("short");
    buffer.extend_from_slice(&tag);
    assert_eq!(buffer, from_hex("c2ef328e5c71c83b843122130f7364b761e0b97427e3df28"));
}

/// NIST GCM specification, test case 16: AES-256-GCM with associated data.
#[test]
fn aes_256_gcm() {
    let key: [u8; 32] =
        from_hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308").try_into().expect("32");
    let nonce: [u8; 12] = from_hex("cafebabefacedbaddecaf888").try_into().expect("12");
    let associated = from_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let mut buffer = from_hex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let tag = aes_gcm::Aes256Gcm::new(&key.into())
        .encrypt_inout_detached(&nonce.into(), &associated, buffer.as_mut_slice().into())
        .expect("short");
    assert!(buffer.starts_with(&from_hex("522dc1f099567d07f47f37a32a84427d")));
    assert_eq!(tag.as_slice(), from_hex("76fc6ece0f4e1768cddf8853bb2d551b"));
}
