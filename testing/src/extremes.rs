//! Values of any type that can be read, with every field at its extremes, drawn from a seed.
//!
//! A type says by its `Deserialize` what its fields are; this is a format that answers each question with the least, the
//! greatest, or something odd. So a field, a variant or a whole command that is added is tried without anybody thinking of
//! it.

use serde::de::value::{Error, StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

/// Levels within levels; deeper ones are left empty where a type allows it.
const MAX_LEVELS: usize = 24;

/// A value of a type, the same for the same seed; none where what was drawn is none of the type's values (a text that is no
/// date, say).
pub fn draw<T: DeserializeOwned>(seed: u64) -> Option<T> {
    let mut draws = Draws { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, levels: 0 };
    T::deserialize(&mut draws).ok()
}

/// Where draws come from.
struct Draws {
    state: u64,
    levels: usize,
}

impl Draws {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn unsigned(&mut self, most: u64) -> u64 {
        let any = self.next();
        self.one_of(&[0, 1, 2, any % 20, any, most / 2, most.saturating_sub(1), most]) & most
    }

    fn signed(&mut self, least: i64, most: i64) -> i64 {
        let any = self.next() as i64;
        self.one_of(&[0, 1, -1, any.clamp(least, most), least, least + 1, most - 1, most])
    }

    fn float(&mut self) -> f64 {
        self.one_of(&[
            0.0,
            -0.0,
            1.0,
            0.5,
            -1.5,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            f64::EPSILON,
            f64::from(f32::MAX),
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ])
    }

    fn text(&mut self) -> String {
        let long = "ü".repeat(200);
        let time = "9999-12-31T23:59:59Z";
        let texts = [
            "",
            "a",
            "tea",
            " \n",
            "\u{0}\u{1b}\u{202e}",
            &long,
            time,
            "1969-12-31T00:00:00Z",
            "-1",
            "metadata.a",
            "/",
            "..",
        ];
        self.one_of(&texts).to_owned()
    }

    fn bytes(&mut self) -> Vec<u8> {
        // Sixteen are an id.
        let length = self.one_of(&[0, 1, 16, 16, 16, 17, 300]);
        let byte = self.one_of(&[0, 1, 0x7f, 0xff]);
        let mut bytes = vec![byte; length];
        if let Some(last) = bytes.last_mut() {
            *last = self.below(4) as u8;
        }
        bytes
    }

    /// How many entries a list or a map gets.
    fn length(&mut self) -> usize {
        if self.levels > MAX_LEVELS { 0 } else { self.one_of(&[0, 1, 1, 2, 3]) }
    }

    fn within<T>(&mut self, draw: impl FnOnce(&mut Self) -> T) -> T {
        self.levels += 1;
        let drawn = draw(self);
        self.levels -= 1;
        drawn
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $draw:ident($($bound:expr),*) as $kind:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let drawn = self.$draw($($bound as _),*);
            visitor.$visit(drawn as $kind)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Draws {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    /// What is of no type of its own is JSON; mostly a list where one is taken beside something else.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let takes_lists = (&visitor as &dyn Expected).to_string().starts_with("a sequence");
        if takes_lists && self.below(4) > 0 {
            return self.deserialize_seq(visitor);
        }
        match self.below(if self.levels > MAX_LEVELS { 6 } else { 8 }) {
            0 => visitor.visit_unit(),
            1 => self.deserialize_bool(visitor),
            2 => self.deserialize_u64(visitor),
            3 => self.deserialize_i64(visitor),
            4 => self.deserialize_f64(visitor),
            5 => self.deserialize_string(visitor),
            6 => self.deserialize_seq(visitor),
            _ => self.deserialize_map(visitor),
        }
    }

    numbers! {
        deserialize_u8 visit_u8 unsigned(u8::MAX) as u8;
        deserialize_u16 visit_u16 unsigned(u16::MAX) as u16;
        deserialize_u32 visit_u32 unsigned(u32::MAX) as u32;
        deserialize_u64 visit_u64 unsigned(u64::MAX) as u64;
        deserialize_i8 visit_i8 signed(i8::MIN, i8::MAX) as i8;
        deserialize_i16 visit_i16 signed(i16::MIN, i16::MAX) as i16;
        deserialize_i32 visit_i32 signed(i32::MIN, i32::MAX) as i32;
        deserialize_i64 visit_i64 signed(i64::MIN, i64::MAX) as i64;
        deserialize_f32 visit_f32 float() as f32;
        deserialize_f64 visit_f64 float() as f64;
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let any = u128::from(self.next()) << 64 | u128::from(self.next());
        visitor.visit_u128(self.one_of(&[0, 1, 2, 3, any, u128::MAX]))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.below(2) == 1)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_char(self.one_of(&['\0', 'a', '\u{10ffff}']))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_byte_buf(self.bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_byte_buf(self.bytes())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.levels > MAX_LEVELS || self.below(3) == 0 {
            return visitor.visit_none();
        }
        self.within(|draws| visitor.visit_some(draws))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let length = self.length();
        self.within(|draws| visitor.visit_seq(Entries { draws, left: length }))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.within(|draws| visitor.visit_seq(Entries { draws, left: length }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let length = self.length();
        self.within(|draws| visitor.visit_map(Entries { draws, left: length }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.within(|draws| visitor.visit_map(Fields { draws, fields }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let chosen = self.below(variants.len()) as u32;
        self.within(|draws| visitor.visit_enum(Variant { draws, chosen }))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// The entries of a list or a map.
struct Entries<'a> {
    draws: &'a mut Draws,
    left: usize,
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.draws).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.draws)
    }
}

/// The fields of a struct, all of them.
struct Fields<'a> {
    draws: &'a mut Draws,
    fields: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((field, rest)) = self.fields.split_first() else { return Ok(None) };
        self.fields = rest;
        seed.deserialize(StrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(&mut *self.draws)
    }
}

/// One variant of an enum.
struct Variant<'a> {
    draws: &'a mut Draws,
    chosen: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let chosen: U32Deserializer<Error> = self.chosen.into_deserializer();
        Ok((seed.deserialize(chosen)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.draws)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.draws.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        if fields.is_empty() {
            return Err(Error::custom("a variant without fields is a unit"));
        }
        self.draws.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Deserialize)]
    enum Command {
        Nothing,
        One(u64),
        Pair(u8, Option<i32>),
        Named { name: String, list: Vec<Command>, by_id: BTreeMap<u128, Vec<u8>> },
    }

    #[test]
    fn every_variant_and_every_extreme_is_drawn_and_a_seed_draws_the_same_again() {
        let drawn: Vec<Command> = (0..2_000).filter_map(draw).collect();
        assert!(drawn.len() > 1_900, "{}", drawn.len());
        let again: Vec<Command> = (0..2_000).filter_map(draw).collect();
        assert_eq!(drawn, again);
        let ones: BTreeSet<u64> = drawn
            .iter()
            .filter_map(|command| if let Command::One(value) = command { Some(*value) } else { None })
            .collect();
        assert!([0, 1, u64::MAX - 1, u64::MAX].iter().all(|extreme| ones.contains(extreme)), "{ones:?}");
        assert!(drawn.contains(&Command::Nothing) && drawn.contains(&Command::Pair(u8::MAX, Some(i32::MIN))));
        let nested = |command: &Command| matches!(command, Command::Named { list, .. } if !list.is_empty());
        assert!(drawn.iter().any(nested));
    }
}
