//! Reads what a derived `Serialize` has written as JSON, from the parsed value.
//!
//! serde_json accepts a struct as a list and a field by its number as well, and has
//! code for all of it, for each of some sixty types. Only what is written is read here,
//! which makes the whole binary a twentieth smaller.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Error, Map, Value, map};
use std::vec;

/// A value that is to be read.
#[derive(Debug)]
pub struct Plain(pub Value);

fn other(wanted: &str) -> Error {
    Error::custom(format_args!("there is something else than {wanted}"))
}

fn object(value: Value) -> Result<Map<String, Value>, Error> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(other("an object")),
    }
}

fn list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(list) => Ok(list),
        _ => Err(other("a list")),
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match (self.0.as_u64(), self.0.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => Err(other("a whole number")),
            }
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0 {
                Value::String(text) => visitor.visit_string(text),
                _ => Err(other("a text")),
            }
        })*
    };
}

macro_rules! never {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("nothing that we write is of this kind"))
        })*
    };
}

impl<'de> Deserializer<'de> for Plain {
    type Error = Error;

    numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }
    texts! { deserialize_str deserialize_string deserialize_identifier }
    never! {
        deserialize_any deserialize_u128 deserialize_i128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_bytes deserialize_byte_buf deserialize_unit
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.0.as_bool().ok_or_else(|| other("true or false"))?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items(list(self.0)?.into_iter()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { left: object(self.0)?.into_iter(), value: Value::Null })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(Variant { name, content: Value::Null }),
            value => match object(value)?.into_iter().next() {
                Some((name, content)) => visitor.visit_enum(Variant { name, content }),
                None => Err(other("the name of a variant")),
            },
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Items(vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|value| seed.deserialize(Plain(value))).transpose()
    }
}

struct Fields {
    left: map::IntoIter,
    value: Value,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        self.value = value;
        seed.deserialize(Name(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Plain(self.value.take()))
    }
}

/// The name of a field, or a key: one that is a number is written as a text.
struct Name(String);

macro_rules! keys {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_u64(self.0.parse().map_err(|_| other("a number"))?)
        })*
    };
}

impl<'de> Deserializer<'de> for Name {
    type Error = Error;

    keys! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Variant {
    name: String,
    content: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Plain;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Plain), Error> {
        Ok((seed.deserialize(Name(self.name))?, Plain(self.content)))
    }
}

impl<'de> VariantAccess<'de> for Plain {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.0 {
            Value::Null => Ok(()),
            _ => Err(other("a name alone")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::net::SocketAddr;
    use std::time::Duration;

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Number(u32);

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    enum Kind {
        Alone,
        One(Number),
        Two(u8, i32),
        Named { name: String, other: Option<bool> },
    }

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct All {
        kinds: Vec<Kind>,
        keys: BTreeMap<Number, (u64, u64)>,
        words: OsString,
        time: Duration,
        address: Option<SocketAddr>,
        #[serde(default)]
        later: u32,
    }

    fn read<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, Error> {
        T::deserialize(Plain(value))
    }

    #[test]
    fn whatever_is_written_is_read() {
        use std::os::unix::ffi::OsStringExt;
        let all = All {
            kinds: vec![
                Kind::Alone,
                Kind::One(Number(7)),
                Kind::Two(1, -1),
                Kind::Named { name: "é".into(), other: None },
            ],
            keys: BTreeMap::from([(Number(2), (u64::MAX, 0)), (Number(10), (1, 2))]),
            words: OsString::from_vec(vec![0xff, b'a']),
            time: Duration::new(3, 4),
            address: Some("[::1]:80".parse().unwrap()),
            later: 5,
        };
        let mut value = serde_json::to_value(&all).unwrap();
        value["unknown"] = serde_json::json!({"a": [1]});
        assert_eq!(read::<All>(value.clone()).unwrap(), all);
        value.as_object_mut().unwrap().remove("later");
        assert_eq!(read::<All>(value).unwrap().later, 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["7", "[]", "{}", "\"Alone\"", "null", "{\"kinds\":[{}]}", "{\"kinds\":[{\"Alone\":1}]}"]
        {
            assert!(read::<All>(serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
        assert!(read::<u8>(256.into()).is_err() && read::<u32>((-1).into()).is_err());
    }
}
