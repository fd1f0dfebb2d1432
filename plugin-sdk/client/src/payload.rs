//! Parameters, results and stream items: typed, or as the MessagePack that travels.

use bytes::Bytes;
use palisade_protocol::{NIL, decode_value, encode_value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::CallError;

/// One MessagePack value that is passed on as it is, neither encoded nor decoded. Cloning it costs a counter.
///
/// As parameters it saves encoding what is there already; as a result it tells everything that came. An empty one means nil.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Raw(Bytes);

impl Raw {
    /// Wraps bytes that hold one MessagePack value. They are not checked here; the supervisor checks what it decodes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Encodes a value, structs as maps with named fields.
    ///
    /// # Errors
    /// [`CallError::Invalid`] when the value is one that MessagePack cannot hold.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, CallError> {
        let mut bytes = Vec::new();
        match encode_value(&mut bytes, value) {
            Ok(()) => Ok(Self(bytes.into())),
            Err(error) => Err(CallError::invalid(error.to_string())),
        }
    }

    /// Decodes the value, after checking that it is one and within the protocol's limits for payloads.
    ///
    /// # Errors
    /// [`CallError::Decode`] when it is malformed, too deep, or not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        decode(&self.0, "value")
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes, taken out.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// What can be sent as parameters or as a stream item: anything that serialises, or [`Raw`].
pub trait IntoPayload {
    /// The MessagePack value.
    ///
    /// # Errors
    /// [`CallError::Invalid`] when the value is one that MessagePack cannot hold.
    fn into_payload(self) -> Result<Bytes, CallError>;
}

impl<T: Serialize> IntoPayload for T {
    fn into_payload(self) -> Result<Bytes, CallError> {
        Raw::encode(&self).map(Raw::into_bytes)
    }
}

impl IntoPayload for Raw {
    fn into_payload(self) -> Result<Bytes, CallError> {
        Ok(self.0)
    }
}

impl IntoPayload for &Raw {
    fn into_payload(self) -> Result<Bytes, CallError> {
        Ok(self.0.clone())
    }
}

/// What a result or a stream item can be taken as: anything that deserialises, or [`Raw`].
pub trait FromPayload: Sized {
    /// Reads the value; `what` names it in the error.
    ///
    /// # Errors
    /// [`CallError::Decode`] when the bytes are not such a value.
    fn from_payload(payload: Bytes, what: &'static str) -> Result<Self, CallError>;
}

impl<T: DeserializeOwned> FromPayload for T {
    fn from_payload(payload: Bytes, what: &'static str) -> Result<Self, CallError> {
        decode(&payload, what)
    }
}

impl FromPayload for Raw {
    fn from_payload(payload: Bytes, _: &'static str) -> Result<Self, CallError> {
        Ok(Self(payload))
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8], what: &'static str) -> Result<T, CallError> {
    decode_value(payload).map_err(|error| CallError::Decode { what, detail: error.to_string() })
}

/// What is sent where there is nothing to say.
pub(crate) const fn nil() -> Bytes {
    Bytes::from_static(NIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: DeserializeOwned + std::fmt::Debug>(bytes: &'static [u8]) -> String {
        T::from_payload(Bytes::from_static(bytes), "result").unwrap_err().to_string()
    }

    #[test]
    fn structs_travel_as_maps_and_nothing_as_nil() {
        #[derive(Serialize)]
        struct Point {
            x: u8,
        }
        assert_eq!(Point { x: 7 }.into_payload().unwrap(), [0x81, 0xa1, b'x', 7].as_slice());
        assert_eq!(().into_payload().unwrap(), [0xc0].as_slice());
        assert_eq!(<()>::from_payload(Bytes::new(), "result"), Ok(()));
        assert_eq!(Option::<u8>::from_payload(Bytes::new(), "result"), Ok(None));
    }

    #[test]
    fn what_is_no_value_is_an_error_that_says_why() {
        assert_eq!(
            refused::<u8>(&[0xcd, 1]),
            "the result cannot be read: not a valid MessagePack value: the value is cut off at byte 2"
        );
        assert_eq!(
            refused::<u8>(&[1, 2]),
            "the result cannot be read: not a valid MessagePack value: 1 bytes follow the value"
        );
        assert!(refused::<String>(&[0xa1, 0xff]).ends_with("a string at byte 0 is not UTF-8"));
        assert!(refused::<u8>(&[0xc1]).contains("0xc1"));
        assert!(refused::<u8>(&[0xa1, b'x']).contains("invalid type: string \"x\", expected u8"));
        const DEEP: &[u8] = &[0x91; 2000];
        assert!(refused::<serde_json::Value>(DEEP).contains("nesting deeper"));
    }

    #[test]
    fn raw_is_passed_on_unread() {
        let raw = Raw::new(vec![0xc1]);
        assert_eq!((&raw).into_payload().unwrap(), [0xc1].as_slice());
        assert_eq!(Raw::from_payload(Bytes::from_static(&[0xc1]), "result").unwrap(), raw);
        assert_eq!(Raw::encode(&"a").unwrap().decode::<String>().unwrap(), "a");
    }
}
