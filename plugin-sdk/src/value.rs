//! What goes into an action and comes out of it: typed values with their schemas, or raw ones.

use std::any::TypeId;

use bytes::Bytes;
use palisade_protocol::{PayloadError, ValueLimits, check_payload, decode_value};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Result;
use crate::error::wrong_params;
use crate::exchange::Arrived;

/// What the parameters of an action may be: any type with `Deserialize` and `JsonSchema`, `()` for none, or [`Raw`].
///
/// There is nothing to implement: the trait is there for every such type.
pub trait Params: Sized + Send + 'static {
    #[doc(hidden)]
    fn schema() -> Option<Value>;
    #[doc(hidden)]
    fn decode(payload: Payload<'_>) -> Result<Self, PayloadError>;
}

/// What the result of an action may be: any type with `Serialize` and `JsonSchema`, `()` for none, or [`Raw`].
///
/// There is nothing to implement: the trait is there for every such type.
pub trait Reply: Send + 'static {
    #[doc(hidden)]
    fn schema() -> Option<Value>;
    #[doc(hidden)]
    fn encode(self, scratch: &mut Vec<u8>) -> Result<Option<Bytes>>;
}

/// Parameters as they arrived.
#[doc(hidden)]
#[derive(Debug)]
pub struct Payload<'a>(pub(crate) Arrived<'a>);

impl Payload<'_> {
    fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Arrived::Slice(slice) => slice,
            Arrived::Joined(bytes) => bytes,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self.0 {
            Arrived::Slice(slice) => Bytes::copy_from_slice(slice),
            Arrived::Joined(bytes) => Bytes::from(bytes),
        }
    }
}

/// A payload as it travels: the bytes of one MessagePack value. As parameters or result of an action it skips decoding
/// and encoding; its schema is "anything".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(Bytes);

impl Raw {
    /// Encodes a value.
    ///
    /// # Errors
    /// When the value's `Serialize` refuses.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let mut bytes = Vec::new();
        palisade_protocol::encode_value(&mut bytes, value)?;
        Ok(Self(bytes.into()))
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// `invalid_params` when it is not a `T`, with the path of what does not fit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        decode_value(&self.0).map_err(|error| wrong_params(&error))
    }

    /// Takes bytes that are one MessagePack value.
    ///
    /// # Errors
    /// `invalid_params` when they are not.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        check_raw(&bytes).map_err(|error| wrong_params(&error))?;
        Ok(Self(bytes))
    }

    /// The bytes. None at all stand for nil.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Raw payloads are walked, not built, so the number of their values costs no memory.
fn check_raw(bytes: &[u8]) -> Result<(), PayloadError> {
    let limits = ValueLimits { values_max: usize::MAX, ..ValueLimits::PAYLOAD };
    check_payload(bytes, limits).map_err(PayloadError::Malformed)
}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Params for T {
    fn schema() -> Option<Value> {
        if TypeId::of::<T>() == TypeId::of::<()>() {
            // The two ways to say "none".
            return Some(json!({ "type": ["null", "object"], "maxProperties": 0 }));
        }
        Some(schema_of::<T>(SchemaSettings::draft2020_12().for_deserialize()))
    }

    fn decode(payload: Payload<'_>) -> Result<Self, PayloadError> {
        decode_value(payload.as_slice())
    }
}

impl Params for Raw {
    fn schema() -> Option<Value> {
        None
    }

    fn decode(payload: Payload<'_>) -> Result<Self, PayloadError> {
        check_raw(payload.as_slice())?;
        Ok(Self(payload.into_bytes()))
    }
}

impl<T: Serialize + JsonSchema + Send + 'static> Reply for T {
    fn schema() -> Option<Value> {
        Some(schema_of::<T>(SchemaSettings::draft2020_12().for_serialize()))
    }

    fn encode(self, scratch: &mut Vec<u8>) -> Result<Option<Bytes>> {
        palisade_protocol::encode_value(scratch, &self)?;
        Ok(None)
    }
}

impl Reply for Raw {
    fn schema() -> Option<Value> {
        None
    }

    fn encode(self, _: &mut Vec<u8>) -> Result<Option<Bytes>> {
        Ok(Some(self.0))
    }
}

pub(crate) fn schema_of<T: JsonSchema>(settings: SchemaSettings) -> Value {
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
