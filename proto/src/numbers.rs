//! Numbers of JSON texts that would not come back the same.
//!
//! A reader of JSON keeps whole numbers in 64 bits and all others as doubles. A whole number beyond that would silently
//! become a double, one too small for a double nothing; both are refused, in the text, since afterwards nobody can tell.
//! A number with a fraction or an exponent means the double nearest to it, and that comes back.

/// The first number of a text that cannot be kept. The text must be JSON.
pub fn unkept(json: &str) -> Option<&str> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'"' => string_length(&bytes[at..]),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let length = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
                let number = &json[at..at + length];
                if !is_kept(number) {
                    return Some(number);
                }
                length
            }
            _ => 1,
        };
    }
    None
}

/// Bytes of the string that the text begins with, its quotation marks included.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

fn is_kept(number: &str) -> bool {
    if number.contains(['.', 'e', 'E']) {
        let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
        let is_zero = !mantissa.contains(|c: char| ('1'..='9').contains(&c));
        return number.parse().is_ok_and(|value: f64| value.is_finite() && (is_zero || value != 0.0));
    }
    number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok()
}

/// Says that a number cannot be kept, and what to do.
pub fn refusal(number: &str) -> String {
    let start: String = number.chars().take(40).collect();
    let more = if start.len() < number.len() { "…" } else { "" };
    format!("the number {start}{more} is beyond 64 bits and would not come back the same: send it as a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_64_bits_are_found() {
        let table = [
            (r#"{"a": [1, -2.5e3, 18446744073709551615, -9223372036854775808]}"#, None),
            (r#"{"a": 18446744073709551616}"#, Some("18446744073709551616")),
            (r#"{"a": [{"b": -9223372036854775809}]}"#, Some("-9223372036854775809")),
            (r#"{"a": 9007199254740991.0, "b": 1e300, "c": 0.0, "d": -0, "e": 0e-999}"#, None),
            (r#"{"a": 1e-400}"#, Some("1e-400")),
            (r#"{"a": 1e400}"#, Some("1e400")),
            (r#"{"a": "18446744073709551616", "18446744073709551616": "\"18446744073709551616"}"#, None),
            (r#"{"a\\": 99999999999999999999}"#, Some("99999999999999999999")),
        ];
        for (json, expected) in table {
            assert_eq!(unkept(json), expected, "{json}");
        }
    }

    #[test]
    fn doubles_come_back_to_the_last_bit() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let Some(number) = serde_json::Number::from_f64(f64::from_bits(bits)) else { continue };
            let text = number.to_string();
            assert_eq!(unkept(&text), None, "{text}");
            let back: serde_json::Number = serde_json::from_str(&text).unwrap();
            assert_eq!(back.as_f64().map(f64::to_bits), Some(bits), "{text}");
        }
        let back: serde_json::Value = serde_json::from_str("9007199254740991.0").unwrap();
        assert_eq!(back.to_string(), "9007199254740991.0");
    }
}
